//! `model`: who answers, by a name alone, by a provider, or by the address of a server that speaks Chat Completions.
//!
//! *Must never* guess whose a model is: a name that tells nobody's format needs `provider` or `base_url`.

use carboy_core::chat::{ChatFormat, ModelChoice};
use carboy_core::host::Host;
use carboy_core::ids::{MeterName, SecretName};

use super::outward::{Outward, Token};
use super::url::{self, Plain, Url};
use crate::diagnostic::{Code, excerpt};
use crate::egress::secret_name;
use crate::keys;
use crate::origin::{Place, Said};
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

/// Most tokens of one answer, where nobody says it.
pub const OUTPUT_TOKENS_DEFAULT: u32 = 1_024;
/// The most that may be said.
pub const OUTPUT_TOKENS_MAX: u32 = 128_000;
/// Longest name of a model, in bytes.
pub const MODEL_BYTES_MAX: usize = 128;

const FIX: &str = "write `model: claude-…` or `model: gpt-…`, {provider: anthropic, name: NAME} with `anthropic` or `openai`, or \
                   {base_url: \"http://127.0.0.1:11434/v1\", name: NAME} for a server of your own";

/// Where each format is served by those who made it: host, path, name of the key.
struct Provider {
    format: ChatFormat,
    host: &'static str,
    key: &'static str,
    /// What its meter is called: the format's.
    meter: &'static str,
    /// What is appended to a base address.
    endpoint: &'static str,
    /// The path at its own host.
    path: &'static str,
}

const ANTHROPIC: Provider = Provider {
    format: ChatFormat::Anthropic,
    host: "api.anthropic.com",
    key: "ANTHROPIC_API_KEY",
    meter: "anthropic",
    endpoint: "/v1/messages",
    path: "/v1/messages",
};
const OPENAI: Provider = Provider {
    format: ChatFormat::OpenAi,
    host: "api.openai.com",
    key: "OPENAI_API_KEY",
    meter: "openai",
    endpoint: "/chat/completions",
    path: "/v1/chat/completions",
};

/// A model as a file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelPart {
    pub(crate) choice: ModelChoice,
    /// Whether the key's name was written, or is the provider's usual one.
    pub(crate) token_said: bool,
    pub(crate) plain: Option<Plain>,
}

impl ModelPart {
    /// What has to be reached for it.
    pub(crate) fn outward(&self, place: &Place) -> Outward {
        let choice = &self.choice;
        Outward {
            what: format!("the model `{}`", choice.model),
            host: choice.host.clone(),
            port: choice.port,
            path: choice.path.clone(),
            meter: Some(choice.meter.clone()),
            token: choice.token_env.clone().map(|name| match choice.format {
                ChatFormat::Anthropic => Token::Anthropic(name),
                ChatFormat::OpenAi => Token::Bearer(name),
            }),
            plain: self.plain.clone(),
            is_tools: false,
            place: place.clone(),
        }
    }
}

/// `model` of a file.
pub(crate) fn model(scope: &mut Scope<'_>, node: &Node) -> Option<Said<ModelPart>> {
    let part = match &node.value {
        Value::Text(name) => by_name(scope, node, name),
        Value::Invalid => None,
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) => by_map(scope, node),
    }?;
    Some(scope.said(part, node.at))
}

fn by_name(scope: &mut Scope<'_>, node: &Node, name: &str) -> Option<ModelPart> {
    let name = model_name(scope, node, name)?;
    let Some(provider) = maker_of(&name) else {
        let message = format!("`model` of {} is {}, and nobody can tell who serves it", scope.owner, excerpt(&name));
        scope.error(node.at, Code::BadValue, message, FIX);
        return None;
    };
    let key = SecretName::parse(provider.key).ok();
    made(provider, None, name, key, false, None)
}

fn by_map(scope: &mut Scope<'_>, node: &Node) -> Option<ModelPart> {
    let entries = scope.map(node, "`model`")?;
    scope.keys(entries, &keys::CHAT_MODEL, "`model`");
    let Some(name_node) = find(entries, "name") else {
        scope.missing(node.at, "name", "`model`", FIX);
        return None;
    };
    let name = scope.text(name_node, "`model.name`").map(str::to_owned);
    let name = name.and_then(|name| model_name(scope, name_node, &name));
    let (provider, address) = place(scope, entries)?;
    let tokens = find(entries, "output_tokens_max")
        .map(|node| scope.number(node, "`model.output_tokens_max`", 16..=OUTPUT_TOKENS_MAX));
    let said = find(entries, "token_env").map(|node| (secret_name(scope, node, "`model.token_env`"), node.at));
    let meter = meter(scope, entries);
    let name = name?;
    let Some(provider) = provider.or_else(|| address.as_ref().map(|_| OPENAI)).or_else(|| maker_of(&name)) else {
        let message = format!("`model` of {} is {}, and nobody can tell who serves it", scope.owner, excerpt(&name));
        scope.error(node.at, Code::BadValue, message, FIX);
        return None;
    };
    // At an address of one's own nobody's usual key is sent to anybody.
    let usual = if address.is_none() { SecretName::parse(provider.key).ok() } else { None };
    if let (Some((_, at)), Some(Url { plain: true, .. })) = (&said, &address) {
        let message = format!("`model` of {} has `token_env` and is reached without TLS", scope.owner);
        scope.error(
            *at,
            Code::BadValue,
            message,
            "use https, or give no key: a credential never leaves over plain text",
        );
        return None;
    }
    let token_said = said.is_some();
    let key = said.map_or(usual, |(name, _)| name);
    let mut part = made(provider, address, name, key, token_said, tokens.flatten())?;
    if let Some(meter) = meter {
        part.choice.meter = meter;
    }
    Some(part)
}

/// `provider` and `base_url`; `None` after an error.
fn place(scope: &mut Scope<'_>, entries: &[Entry]) -> Option<(Option<Provider>, Option<Url>)> {
    let mut provider = None;
    let mut address = find(entries, "base_url").map(|node| url::url(scope, node, "`model.base_url`"));
    if let Some(node) = find(entries, "provider") {
        match scope.text(node, "`model.provider`")? {
            "anthropic" => provider = Some(ANTHROPIC),
            "openai" => provider = Some(OPENAI),
            text if text.starts_with("http") && address.is_none() => {
                address = Some(url::url(scope, node, "`model.provider`"));
            }
            text => {
                let message = format!("`model.provider` of {} is {}", scope.owner, excerpt(text));
                scope.error(node.at, Code::BadValue, message, FIX);
                return None;
            }
        }
    }
    match address {
        Some(None) => None,
        Some(found) => Some((provider, found)),
        None => Some((provider, None)),
    }
}

fn meter(scope: &mut Scope<'_>, entries: &[Entry]) -> Option<MeterName> {
    let node = find(entries, "meter")?;
    let text = scope.text(node, "`model.meter`")?;
    let found = crate::budget::meter_named(text);
    if found.is_none() {
        let message = format!("`model.meter` of {} is {}", scope.owner, excerpt(text));
        scope.error(node.at, Code::BadValue, message, "use `anthropic` or `openai`: whose format it speaks");
    }
    found
}

fn model_name(scope: &mut Scope<'_>, node: &Node, text: &str) -> Option<String> {
    if !text.is_empty() && text.len() <= MODEL_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(text.to_owned());
    }
    let message = format!("the name of the model of {} is {}", scope.owner, excerpt(text));
    scope.error(
        node.at,
        Code::BadValue,
        message,
        format!("write it as the provider does, in at most {MODEL_BYTES_MAX} bytes"),
    );
    None
}

/// Whose a model is, where its name tells.
fn maker_of(name: &str) -> Option<Provider> {
    let reasoning = || {
        let rest = name.strip_prefix('o')?;
        rest.starts_with(|c: char| c.is_ascii_digit()).then_some(())
    };
    if name.starts_with("claude-") {
        Some(ANTHROPIC)
    } else if name.starts_with("gpt-") || name.starts_with("chatgpt-") || reasoning().is_some() {
        Some(OPENAI)
    } else {
        None
    }
}

fn made(
    provider: Provider,
    address: Option<Url>,
    model: String,
    token_env: Option<SecretName>,
    token_said: bool,
    output_tokens_max: Option<u32>,
) -> Option<ModelPart> {
    let plain = address.as_ref().and_then(Url::plainness);
    let (host, port, path) = match address {
        Some(Url { host, port, path, .. }) => {
            (host, port, format!("{}{}", path.trim_end_matches('/'), provider.endpoint))
        }
        None => (Host::parse(provider.host).ok()?, 443, provider.path.to_owned()),
    };
    let choice = ModelChoice {
        format: provider.format,
        host,
        port,
        path,
        model,
        meter: MeterName::parse(provider.meter).ok()?,
        token_env,
        output_tokens_max: output_tokens_max.unwrap_or(OUTPUT_TOKENS_DEFAULT),
    };
    Some(ModelPart { choice, token_said, plain })
}
