//! From a request to its answer. Pure: the waiting and the sending are the server's.

use http::HeaderMap;
use serde_json::{Map, Value, json};

use crate::cache::{PromptCache, Split};
use crate::coding::Coding;
use crate::config::{Config, Speaker};
use crate::count::{Account, Whom};
use crate::offline::OfflineModel;
use crate::offline::conversation::Conversation;
use crate::pages;
use crate::playback::Outcome;
use crate::record::ReceivedRequest;
use crate::refusal::Provider;
use crate::script::{Prompt, Reply};
use crate::usage::{self, Contexts, Planned, UsageMode, Wants};
use crate::{anthropic, gemini, openai, responses};

/// A request whose body is complete.
pub(crate) struct Ask<'a> {
    pub config: &'a Config,
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    /// Counts requests, for ids.
    pub serial: u64,
    pub received: &'a ReceivedRequest,
    pub contexts: &'a Contexts,
}

/// Characters of an `x-sim-tag` that are told.
const TAG_CHARS_MAX: usize = 64;

/// A model that nobody has: whoever asks for it is told so.
const NO_MODEL: &str = "no-such-model";

/// An error before it has a provider's shape.
#[derive(Debug)]
pub(crate) struct Refused {
    status: u16,
    message: String,
}

impl Refused {
    pub fn because(status: u16, message: impl Into<String>) -> Refused {
        Refused { status, message: message.into() }
    }
}

impl Ask<'_> {
    /// The body as a JSON object.
    pub fn json(&self) -> Result<Map<String, Value>, Refused> {
        match serde_json::from_slice(self.body) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(Refused::because(400, "The request body is not a JSON object.")),
            Err(error) => Err(Refused::because(400, format!("The request body is not valid JSON: {error}"))),
        }
    }

    fn request_id(&self) -> String {
        format!("req_sim_{:08}", self.serial)
    }

    /// A refusal in the shape of whoever this request was meant for.
    pub fn refuse(&self, status: u16, message: &str) -> Outcome {
        let provider = Provider::of(self.path, self.headers);
        let id = self.request_id();
        provider.error(status, message, &id).with(provider.request_id_header(), id)
    }

    /// The same of an error.
    pub fn refused(&self, refused: &Refused) -> Outcome {
        self.refuse(refused.status, &refused.message)
    }

    /// The refusal of an account whose spend limit is reached.
    pub fn limit_reached(&self) -> Outcome {
        let provider = Provider::of(self.path, self.headers);
        let id = self.request_id();
        provider.spend_limit(&id).with(provider.request_id_header(), id)
    }

    /// Who is charged for it, as far as its key is known.
    pub fn whom(&self) -> Option<Whom> {
        let provider = Provider::of(self.path, self.headers);
        let customer = provider.check_key(self.headers, self.config).ok()?.to_owned();
        let tag = self.headers.get("x-sim-tag").and_then(|tag| tag.to_str().ok()).unwrap_or_default();
        let tag = tag.chars().take(TAG_CHARS_MAX).collect();
        Some(Whom { account: Account { customer, meter: provider.meter() }, serial: self.serial, tag })
    }

    /// What is said: by the script, or by the offline model.
    pub fn reply(&self, prompt: impl FnOnce() -> Prompt, conversation: impl FnOnce() -> Conversation) -> Reply {
        match self.config.speaker {
            Speaker::Script => self.config.script.reply(&prompt()),
            Speaker::Offline(model) => model.reply(&conversation()),
        }
    }

    /// The name of the model that the answer carries: as asked for, unless no model was asked.
    pub fn model(&self, asked: String) -> String {
        match self.config.speaker {
            Speaker::Script => asked,
            Speaker::Offline(_) => OfflineModel::NAME.to_owned(),
        }
    }

    /// What of the input is cached, where that is looked at.
    pub fn cached(&self, split: impl FnOnce(&PromptCache) -> Split) -> Option<Split> {
        match self.config.usage {
            UsageMode::Cached => Some(split(&self.contexts.cache)),
            UsageMode::Fixed | UsageMode::Random(_) => None,
        }
    }

    /// Decides what is generated.
    pub fn plan(&self, reply: Reply, wants: &Wants<'_>) -> Planned {
        usage::plan(&self.config.usage, self.serial, reply, wants)
    }

    /// `?encoding=`; absent means none.
    pub fn coding(&self) -> Option<Coding> {
        query_value(self.query, "encoding").map_or(Some(Coding::Identity), |name| Coding::parse(&name))
    }
}

/// The answer of the endpoint that the request names.
pub(crate) fn answer(ask: &Ask<'_>) -> Outcome {
    endpoint(ask).unwrap_or_else(|refused| ask.refused(&refused))
}

fn endpoint(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    if ask.headers.contains_key("upgrade") {
        // Codex asks for a WebSocket first and takes this for "use POST".
        return Err(Refused::because(426, "This endpoint has no protocol upgrades here; use plain HTTP requests."));
    }
    match (ask.method, ask.path) {
        ("POST", "/v1/messages") => model(ask, anthropic::messages),
        ("POST", "/v1/messages/count_tokens") => model(ask, anthropic::count_tokens),
        ("POST", "/v1/chat/completions") => model(ask, openai::chat),
        ("POST", "/v1/responses") => model(ask, responses::responses),
        ("POST", "/v1/responses/input_tokens") => model(ask, responses::input_tokens),
        ("POST", "/backend-api/codex/responses") => model(ask, responses::responses),
        ("GET", "/backend-api/codex/models") => model(ask, |_| Ok(Outcome::json(200, &json!({"models": []})))),
        ("GET", "/backend-api/wham/accounts/check") => model(ask, |ask| Ok(responses::accounts(ask.config))),
        ("POST", "/v1/embeddings") => model(ask, openai::embeddings),
        ("GET", "/v1/models") => model(ask, |ask| match Provider::of(ask.path, ask.headers) {
            Provider::Anthropic => Ok(anthropic::models()),
            Provider::OpenAi | Provider::ChatGpt => Ok(openai::models()),
            Provider::Gemini => Ok(gemini::models()),
        }),
        ("GET", "/v1beta/models") => model(ask, |_| Ok(gemini::models())),
        ("POST", path) if gemini::call(path).is_some() => model(ask, gemini::answer),
        ("GET" | "HEAD", "/page/clean") => Ok(pages::clean()),
        ("GET" | "HEAD", "/page/poisoned") => Ok(pages::poisoned(ask.query)),
        ("GET", "/redirect") => pages::redirect(ask.query),
        ("GET", "/slow") => Ok(pages::waited()),
        (_, "/echo") => Ok(pages::echo(ask.received)),
        ("POST" | "PUT" | "PATCH", "/sink") => Ok(pages::sink(ask.received)),
        ("GET", path) if path.starts_with("/bytes/") => pages::bytes(&path["/bytes/".len()..], ask.query),
        // An agent's model may be behind a path of its own, and the offline model stands in its place.
        ("POST", path) if ask.config.is_offline() && path.ends_with("/messages") => model(ask, anthropic::messages),
        ("POST", path) if ask.config.is_offline() && path.ends_with("/chat/completions") => model(ask, openai::chat),
        (method, path) => {
            Err(Refused::because(404, format!("{method} {path} is not served by the simulated provider.")))
        }
    }
}

/// The key comes first: a wrong one learns nothing else.
fn model(ask: &Ask<'_>, endpoint: impl Fn(&Ask<'_>) -> Result<Outcome, Refused>) -> Result<Outcome, Refused> {
    let provider = Provider::of(ask.path, ask.headers);
    provider.check_key(ask.headers, ask.config).map_err(|message| Refused::because(401, message))?;
    let named = serde_json::from_slice::<Value>(ask.body).ok();
    let named = named.as_ref().and_then(|body| body.get("model")?.as_str());
    if named == Some(NO_MODEL) || ask.path.contains(NO_MODEL) {
        return Err(Refused::because(
            404,
            format!("model: {NO_MODEL} does not exist or you do not have access to it."),
        ));
    }
    Ok(endpoint(ask)?.with(provider.request_id_header(), ask.request_id()))
}

/// A text member, empty when it is absent or something else.
pub(crate) fn text_of(request: &Map<String, Value>, key: &str) -> String {
    request.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The first value of this name in a query, percent-decoded.
pub(crate) fn query_value(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| percent_decoded(value))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_value_is_decoded_once() {
        assert_eq!(query_value("a=1&to=http%3A%2F%2Fx%2f%25&to=2", "to").as_deref(), Some("http://x/%"));
        assert_eq!(query_value("a=%4&b", "a").as_deref(), Some("%4"));
        assert_eq!(query_value("a=%4&b", "b").as_deref(), Some(""));
        assert_eq!(query_value("a=1", "b"), None);
    }
}
