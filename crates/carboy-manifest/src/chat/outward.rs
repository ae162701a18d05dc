//! What a chat agent's file wants to reach by itself: its model, tools over HTTP, webhooks. And `webhooks` and
//! `frame_ancestors`.

use carboy_core::chat::{Webhook, WebhookEvent};
use carboy_core::host::Host;
use carboy_core::ids::{MeterName, SecretName};

use super::url::{self, Plain};
use crate::diagnostic::{Code, excerpt};
use crate::keys;
use crate::origin::Place;
use crate::schema::Scope;
use crate::yaml::Node;

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

/// `webhooks: {hand_off: URL, feedback: URL}`.
pub(crate) fn webhooks(scope: &mut Scope<'_>, node: &Node) -> (Vec<Webhook>, Vec<Outward>) {
    let (mut hooks, mut outward) = (Vec::new(), Vec::new());
    let Some(entries) = scope.map(node, "`webhooks`") else { return (hooks, outward) };
    scope.keys(entries, &keys::CHAT_WEBHOOKS, "`webhooks`");
    for entry in entries {
        let on = match entry.key.as_str() {
            "hand_off" => WebhookEvent::HandOff,
            "feedback" => WebhookEvent::Feedback,
            _ => continue,
        };
        let what = format!("`webhooks.{}`", entry.key);
        let Some(found) = url::url(scope, &entry.value, &what) else { continue };
        let plain = found.plainness();
        let place = scope.said((), entry.key_at).place;
        let (host, port, path) = (found.host, found.port, found.path);
        let hook = Webhook { on, host: host.clone(), port, path: path.clone() };
        outward.push(Outward { what, host, port, path, meter: None, token: None, plain, is_tools: false, place });
        hooks.push(hook);
    }
    (hooks, outward)
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
