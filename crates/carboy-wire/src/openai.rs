//! OpenAI's formats: Chat Completions here, Responses in [`responses`], errors of both.
//!
//! Shapes as in the official SDK's types (openai 2.54). Writers only: what a provider sends, field by field.

pub mod responses;

use serde::Serialize;

use crate::sse::Event;

/// What ends a chat stream, in place of an event.
pub const DONE: &str = "[DONE]";

/// `POST /v1/chat/completions` answered whole.
#[derive(Clone, Debug, Serialize)]
pub struct ChatCompletion {
    /// `chatcmpl-…`
    pub id: String,
    /// Always `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// As asked for.
    pub model: String,
    /// One here.
    pub choices: Vec<Choice>,
    /// Tokens.
    pub usage: ChatUsage,
    /// Null where the provider does not say.
    pub system_fingerprint: Option<String>,
}

/// One answer of a chat completion.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// Its place.
    pub index: u32,
    /// The answer.
    pub message: ChatMessage,
    /// Not asked for here.
    pub logprobs: Option<()>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// The assistant's message.
#[derive(Clone, Debug, Serialize)]
pub struct ChatMessage {
    /// Always `assistant`.
    pub role: &'static str,
    /// Words; null beside tool calls.
    pub content: Option<String>,
    /// Words of refusal.
    pub refusal: Option<String>,
    /// Calls of the client's tools; left out when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of one of the client's tools.
#[derive(Clone, Debug, Serialize)]
pub struct ToolCall {
    /// Its place; only in stream deltas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// `call_…`; only in the first delta of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`; only in the first delta of a call.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Which one, and with what.
    pub function: FunctionCall,
}

/// A function's name and arguments.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionCall {
    /// Only in the first delta of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON text; in deltas a part of it, split anywhere.
    pub arguments: String,
}

/// Why a chat answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// Said what there was to say.
    Stop,
    /// Met the output cap.
    Length,
    /// Wants tools' results.
    ToolCalls,
}

/// Tokens of a chat completion; the details are parts of the figures above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ChatUsage {
    /// Read.
    pub prompt_tokens: u64,
    /// Written.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// Part of the prompt.
    pub prompt_tokens_details: CachedTokens,
    /// Part of the completion.
    pub completion_tokens_details: ReasoningTokens,
}

/// The part of the input that came from the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CachedTokens {
    /// Tokens.
    pub cached_tokens: u64,
}

/// The part of the output that nobody sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReasoningTokens {
    /// Tokens.
    pub reasoning_tokens: u64,
}

/// One event of a chat stream.
#[derive(Clone, Debug, Serialize)]
pub struct ChatChunk {
    /// The same in all chunks of an answer.
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// As asked for.
    pub model: String,
    /// Empty in the chunk that carries the usage.
    pub choices: Vec<ChunkChoice>,
    /// Left out when not asked for; asked for, null in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<ChatUsage>>,
}

/// What a chunk adds to one answer.
#[derive(Clone, Debug, Serialize)]
pub struct ChunkChoice {
    /// Which answer.
    pub index: u32,
    /// What is added.
    pub delta: ChunkDelta,
    /// Not asked for here.
    pub logprobs: Option<()>,
    /// Null until the end.
    pub finish_reason: Option<FinishReason>,
}

/// The parts that a chunk adds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChunkDelta {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of the tool calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// The body of every error status.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorDetail {
    /// In words.
    pub message: String,
    /// `invalid_request_error`, `server_error`…
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The parameter at fault.
    pub param: Option<&'static str>,
    /// `invalid_api_key`, `insufficient_quota`…
    pub code: Option<&'static str>,
}

impl ChatChunk {
    /// The chunk as it goes onto the wire; chat events have no names.
    pub fn to_sse(&self) -> Event {
        Event::new("", serde_json::to_string(self).expect("these structs always serialise"))
    }
}
