//! Asking the provider how many tokens a request would read, which is free everywhere it is offered.
//!
//! | format | path | body |
//! |---|---|---|
//! | Anthropic Messages | `…/messages/count_tokens` | the members that the count knows, as they were written |
//! | OpenAI Responses | `…/responses/input_tokens` | the same |
//! | Gemini | `…:countTokens` | the whole request in `generateContentRequest` |
//! | OpenAI Chat | none | |
//!
//! What is sent is cut out of the body and never written anew, so that what is counted is what will be sent. It carries the
//! prompt and goes through everything that the request itself goes through.
//!
//! *Must never* be made of a body in which a member stands twice, or take an answer for a count that is not one.

use carboy_core::budget::TOKENS_MAX;
use serde::Deserialize;

use crate::demand::{Beyond, Demand};
use crate::format::WireFormat;
use crate::json::members;

/// Longest answer of a count endpoint that is read, in octets.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A request that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountRequest {
    /// On the same host, without a query.
    pub path: String,
    /// JSON, sent by POST.
    pub body: Vec<u8>,
}

/// The members of a request that Anthropic's count takes; it refuses every other one.
const ANTHROPIC_MEMBERS: &[&str] = &[
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
    "cache_control",
    "context_management",
    "mcp_servers",
    "speed",
];

/// And those of OpenAI's.
const RESPONSES_MEMBERS: &[&str] = &[
    "conversation",
    "input",
    "instructions",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "truncation",
    "personality",
];

/// The request that counts what `body` would read; `None` where this provider counts nothing, or not this.
pub fn request(format: WireFormat, path: &str, body: &[u8], demand: &Demand) -> Option<CountRequest> {
    let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
    match format {
        // What a thread goes on from is not among the members that are counted.
        WireFormat::AnthropicMessages
            if demand.beyond.contains(&Beyond::EarlierContext) || demand.previous.is_some() =>
        {
            None
        }
        WireFormat::AnthropicMessages => {
            let path = path.ends_with("/messages").then(|| format!("{path}/count_tokens"))?;
            Some(CountRequest { path, body: only(body, ANTHROPIC_MEMBERS)? })
        }
        // ChatGPT's own backend and Azure's deployments have the endpoint that answers and not the one that counts.
        WireFormat::OpenAiResponses if path.ends_with("/v1/responses") => {
            Some(CountRequest { path: format!("{path}/input_tokens"), body: only(body, RESPONSES_MEMBERS)? })
        }
        WireFormat::OpenAiResponses | WireFormat::OpenAiChat => None,
        WireFormat::Gemini => gemini(path, body, demand),
    }
}

fn gemini(path: &str, body: &[u8], demand: &Demand) -> Option<CountRequest> {
    let (resource, _) = path.rsplit_once(':')?;
    let name = demand.model.clone().or_else(|| model_of_path(resource))?;
    // Twice is refused, and what the body says of the model is the path's to say.
    let rest = members(body)?;
    let model = serde_json::to_string(&format!("models/{name}")).ok()?;
    let mut inner = format!("\"model\":{model}");
    for (key, value) in rest.iter().filter(|(key, _)| key != "model") {
        inner.push_str(&format!(",{}:{value}", serde_json::to_string(key).ok()?));
    }
    let body = format!("{{\"generateContentRequest\":{{{inner}}}}}").into_bytes();
    Some(CountRequest { path: format!("{resource}:countTokens"), body })
}

/// `/v1beta/models/NAME`
pub(crate) fn model_of_path(resource: &str) -> Option<String> {
    let (kind, name) = resource.rsplit_once('/')?;
    (kind.ends_with("/models") && !name.is_empty()).then(|| name.to_owned())
}

/// Those members of a map alone, as they were written.
fn only(body: &[u8], wanted: &[&str]) -> Option<Vec<u8>> {
    let mut out = String::from("{");
    for (key, value) in members(body)?.iter().filter(|(key, _)| wanted.contains(&key.as_ref())) {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&format!("\"{key}\":{value}"));
    }
    out.push('}');
    Some(out.into_bytes())
}

#[derive(Deserialize)]
struct Answer {
    input_tokens: Option<u64>,
    #[serde(rename = "totalTokens")]
    total_tokens: Option<u64>,
}

/// What the provider counted; `None` for anything that is no count.
pub fn answer(format: WireFormat, body: &[u8]) -> Option<u64> {
    if body.len() > ANSWER_BYTES_MAX {
        return None;
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let tokens = match format {
        WireFormat::AnthropicMessages | WireFormat::OpenAiResponses => answer.input_tokens,
        WireFormat::Gemini => answer.total_tokens,
        WireFormat::OpenAiChat => None,
    };
    tokens.filter(|tokens| (1..=TOKENS_MAX).contains(tokens))
}

#[cfg(test)]
mod tests;
