//! What a chat agent's file wants to reach by itself: its model, tools over HTTP, webhooks. And `webhooks`, `serve` and
//! `frame_ancestors`.

use std::ops::RangeInclusive;

use carboy_core::chat::{SourcePage, Webhook, WebhookEvent, Webhooks};
use carboy_core::host::Host;
use carboy_core::ids::{MeterName, SecretName};

use super::url::{self, Plain};
use crate::diagnostic::{Code, excerpt};
use crate::egress::secret_name;
use crate::keys;
use crate::origin::Place;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node};

/// The key that messages are signed with, where a file names no other.
pub const WEBHOOK_SECRET: &str = "WEBHOOK_SECRET";
/// How often one message is sent, the first time included.
pub const WEBHOOK_ATTEMPTS: RangeInclusive<u32> = 1..=10;
const WEBHOOK_ATTEMPTS_DEFAULT: u32 = 8;

/// Most sites that may frame a chat.
pub const FRAME_ANCESTORS_MAX: usize = 32;

/// One service, and where the file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outward {
    /// For messages: "the model `x`".
    pub(crate) what: String,
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// It is posted to.
    pub(crate) path: String,
    pub(crate) meter: Option<MeterName>,
    pub(crate) token: Option<Token>,
    pub(crate) plain: Option<Plain>,
    /// It is an MCP server.
    pub(crate) is_tools: bool,
    pub(crate) place: Place,
}

/// A credential and how it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// `Authorization: Bearer`.
    Bearer(SecretName),
    /// As Anthropic takes its two kinds.
    Anthropic(SecretName),
}

impl Token {
    /// Its name.
    pub(crate) fn name(&self) -> &SecretName {
        match self {
            Token::Bearer(name) | Token::Anthropic(name) => name,
        }
    }
}

/// `webhooks: {hand_off: URL, feedback: URL, secret: NAME, token_env: NAME, attempts: NUMBER}`.
pub(crate) fn webhooks(scope: &mut Scope<'_>, node: &Node) -> (Option<Webhooks>, Vec<Outward>) {
    let what = "`webhooks`";
    let Some(entries) = scope.map(node, what) else { return (None, Vec::new()) };
    scope.keys(entries, &keys::CHAT_WEBHOOKS, what);
    let named = |scope: &mut Scope<'_>, key: &str| {
        find(entries, key).and_then(|node| secret_name(scope, node, &format!("`webhooks.{key}`")))
    };
    let secret = match named(scope, "secret") {
        None => SecretName::parse(WEBHOOK_SECRET).expect("capital letters and `_` are a name"),
        Some(secret) => secret,
    };
    let token = named(scope, "token_env").map(Token::Bearer);
    let attempts_max = find(entries, "attempts")
        .and_then(|node| scope.number(node, "`webhooks.attempts`", WEBHOOK_ATTEMPTS))
        .unwrap_or(WEBHOOK_ATTEMPTS_DEFAULT);
    let (mut hooks, mut outward) = (Vec::new(), Vec::new());
    for entry in entries {
        let on = match entry.key.as_str() {
            "hand_off" => WebhookEvent::HandOff,
            "feedback" => WebhookEvent::Feedback,
            _ => continue,
        };
        if let Some((hook, one)) = webhook(scope, entry, on, token.clone()) {
            outward.push(one);
            hooks.push(hook);
        }
    }
    if !entries.iter().any(|entry| matches!(entry.key.as_str(), "hand_off" | "feedback")) {
        let message = format!("{what} of {} names no address", scope.owner);
        scope.error(node.at, Code::MissingKey, message, "add `hand_off: \"https://HOST/PATH\"`, or `feedback`");
    }
    ((!hooks.is_empty()).then_some(Webhooks { hooks, secret, attempts_max }), outward)
}

fn webhook(scope: &mut Scope<'_>, entry: &Entry, on: WebhookEvent, token: Option<Token>) -> Option<(Webhook, Outward)> {
    let what = format!("`webhooks.{}`", entry.key);
    let found = url::url(scope, &entry.value, &what)?;
    let plain = found.plainness();
    if plain.is_some() && token.is_some() {
        let message = format!("{what} of {} has `token_env` and is reached without TLS", scope.owner);
        let fix = "use https: a credential never leaves over plain text";
        scope.error(entry.value.at, Code::BadValue, message, fix);
        return None;
    }
    let place = scope.said((), entry.key_at).place;
    let (host, port, path) = (found.host, found.port, found.path);
    let hook = Webhook { on, host: host.clone(), port, path: path.clone() };
    Some((hook, Outward { what, host, port, path, meter: None, token, plain, is_tools: false, place }))
}

/// `serve: {architecture: true}`.
pub(crate) fn serve(scope: &mut Scope<'_>, node: &Node) -> SourcePage {
    let Some(entries) = scope.map(node, "`serve`") else { return SourcePage::Hidden };
    scope.keys(entries, &keys::CHAT_SERVE, "`serve`");
    let shown = find(entries, "architecture").and_then(|node| scope.boolean(node, "`serve.architecture`"));
    if shown == Some(true) { SourcePage::Shown } else { SourcePage::Hidden }
}

/// `frame_ancestors: ["https://shop.example"]`: origins, each written out.
pub(crate) fn frame_ancestors(scope: &mut Scope<'_>, node: &Node) -> Vec<String> {
    let what = "`frame_ancestors`";
    let mut origins: Vec<String> = Vec::new();
    for item in scope.list(node, what).unwrap_or_default() {
        let Some(text) = scope.text(item, what) else { continue };
        let origin = url::parse(text).filter(|url| url.path == "/" && !text.ends_with('/') && !text.contains('*'));
        let local = |url: &url::Url| url.host.as_ip().is_some_and(|ip| ip.is_loopback());
        match origin.filter(|url| !url.plain || local(url)) {
            Some(_) if origins.len() == FRAME_ANCESTORS_MAX => {
                let message = format!("{what} of {} names more than {FRAME_ANCESTORS_MAX} sites", scope.owner);
                scope.error(item.at, Code::TooComplex, message, "name the sites that show this chat");
                break;
            }
            Some(_) => origins.push(text.to_ascii_lowercase()),
            None => {
                let message = format!("{what} of {} names {}", scope.owner, excerpt(text));
                let fix = "write each site that may show the chat as https://HOST[:PORT], without a path or a star";
                scope.error(item.at, Code::BadValue, message, fix);
            }
        }
    }
    origins
}
