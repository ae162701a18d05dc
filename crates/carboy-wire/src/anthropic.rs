//! Anthropic's Messages format: whole answers, stream events, errors.
//!
//! Shapes as in the official SDK's types (anthropic 2.11). Writers only: what a provider sends, field by field.

use serde::Serialize;
use serde_json::Value;

use crate::sse::Event;

/// `POST /v1/messages` answered whole; the `message` of `message_start` too.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// `msg_…`
    pub id: String,
    /// Always `message`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Always `assistant`.
    pub role: &'static str,
    /// As asked for.
    pub model: String,
    /// Empty in `message_start`.
    pub content: Vec<Block>,
    /// Absent (null) until the end is known.
    pub stop_reason: Option<StopReason>,
    /// The stop sequence that was met.
    pub stop_sequence: Option<String>,
    /// Tokens.
    pub usage: Usage,
}

/// Why the answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Said what there was to say.
    EndTurn,
    /// Met `max_tokens`.
    MaxTokens,
    /// Wants a tool's result.
    ToolUse,
}

/// Tokens of a message; `input_tokens` excludes both cache figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Read at the full price.
    pub input_tokens: u64,
    /// Written to the cache.
    pub cache_creation_input_tokens: u64,
    /// Read from the cache.
    pub cache_read_input_tokens: u64,
    /// Written; in `message_start` a small provisional figure.
    pub output_tokens: u64,
}

/// A part of the answer.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// A call of one of the client's tools.
    ToolUse {
        /// `toolu_…`
        id: String,
        /// The tool's name.
        name: String,
        /// Its arguments; `{}` in `content_block_start`.
        input: Value,
    },
}

/// What a `content_block_delta` adds.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Delta {
    /// More words.
    TextDelta {
        /// The words.
        text: String,
    },
    /// More of the arguments' JSON text.
    InputJsonDelta {
        /// A part of it, split anywhere.
        partial_json: String,
    },
}

/// An event of a streamed answer, in the order of the variants.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The head, with the input's figures.
    MessageStart {
        /// Without content.
        message: Message,
    },
    /// A block begins.
    ContentBlockStart {
        /// Its place.
        index: usize,
        /// Its empty shape.
        content_block: Block,
    },
    /// Nothing, from time to time.
    Ping,
    /// A block goes on.
    ContentBlockDelta {
        /// Its place.
        index: usize,
        /// What is added.
        delta: Delta,
    },
    /// A block is complete.
    ContentBlockStop {
        /// Its place.
        index: usize,
    },
    /// The end is known. The figures are cumulative: they replace those of the start.
    MessageDelta {
        /// How it ended.
        delta: MessageEnd,
        /// What it came to.
        usage: Usage,
    },
    /// The last event.
    MessageStop,
    /// In place of the rest, after a 200.
    Error {
        /// What went wrong.
        error: ErrorDetail,
    },
}

/// The `delta` of `message_delta`.
#[derive(Clone, Debug, Serialize)]
pub struct MessageEnd {
    /// Why it ended.
    pub stop_reason: StopReason,
    /// The stop sequence that was met.
    pub stop_sequence: Option<String>,
}

/// The body of every error status.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    /// Always `error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What went wrong.
    pub error: ErrorDetail,
    /// The value of the `request-id` header.
    pub request_id: String,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorDetail {
    /// `invalid_request_error`, `authentication_error`, `overloaded_error`…
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// In words.
    pub message: String,
}

impl StreamEvent {
    /// The value of `type`, which is the event's name on the wire as well.
    pub fn name(&self) -> &'static str {
        match self {
            StreamEvent::MessageStart { .. } => "message_start",
            StreamEvent::ContentBlockStart { .. } => "content_block_start",
            StreamEvent::Ping => "ping",
            StreamEvent::ContentBlockDelta { .. } => "content_block_delta",
            StreamEvent::ContentBlockStop { .. } => "content_block_stop",
            StreamEvent::MessageDelta { .. } => "message_delta",
            StreamEvent::MessageStop => "message_stop",
            StreamEvent::Error { .. } => "error",
        }
    }

    /// The event as it goes onto the wire.
    pub fn to_sse(&self) -> Event {
        let data = serde_json::to_string(self).expect("these structs always serialise");
        Event::new(self.name(), data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_name_is_its_type() {
        let usage =
            Usage { input_tokens: 1, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 2 };
        let end = MessageEnd { stop_reason: StopReason::EndTurn, stop_sequence: None };
        let error = ErrorDetail { kind: "overloaded_error", message: "Overloaded".into() };
        for event in [
            StreamEvent::Ping,
            StreamEvent::ContentBlockStop { index: 0 },
            StreamEvent::ContentBlockDelta { index: 0, delta: Delta::TextDelta { text: "a".into() } },
            StreamEvent::MessageDelta { delta: end, usage },
            StreamEvent::MessageStop,
            StreamEvent::Error { error },
        ] {
            let sse = event.to_sse();
            let data: Value = serde_json::from_str(&sse.data).unwrap();
            assert_eq!(data["type"], sse.name);
        }
    }
}
