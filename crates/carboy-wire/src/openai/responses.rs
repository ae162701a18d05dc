//! OpenAI's Responses format: whole answers and stream events.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{CachedTokens, ErrorDetail, ReasoningTokens};
use crate::sse::Event;

/// `POST /v1/responses` answered whole; the `response` of the first and last stream events too.
#[derive(Clone, Debug, Serialize)]
pub struct Response {
    /// `resp_…`
    pub id: String,
    /// Always `response`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// How far it is.
    pub status: Status,
    /// When `failed`.
    pub error: Option<ErrorDetail>,
    /// When `incomplete`.
    pub incomplete_details: Option<IncompleteDetails>,
    /// As asked for.
    pub instructions: Option<Value>,
    /// As asked for.
    pub max_output_tokens: Option<u64>,
    /// As asked for.
    pub model: String,
    /// Empty until complete.
    pub output: Vec<Item>,
    /// As asked for.
    pub parallel_tool_calls: bool,
    /// As asked for.
    pub previous_response_id: Option<String>,
    /// As asked for.
    pub store: bool,
    /// As asked for.
    pub tool_choice: Value,
    /// As asked for.
    pub tools: Value,
    /// Null until the end.
    pub usage: Option<Usage>,
    /// As asked for.
    pub metadata: Map<String, Value>,
}

/// How far a response or one of its items is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Being written.
    InProgress,
    /// Whole.
    Completed,
    /// Cut by the output cap.
    Incomplete,
    /// Given up.
    Failed,
}

/// Why a response is incomplete.
#[derive(Clone, Debug, Serialize)]
pub struct IncompleteDetails {
    /// `max_output_tokens`.
    pub reason: &'static str,
}

/// Tokens of a response; the details are parts of the figures above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Read.
    pub input_tokens: u64,
    /// Part of the input.
    pub input_tokens_details: CachedTokens,
    /// Written.
    pub output_tokens: u64,
    /// Part of the output.
    pub output_tokens_details: ReasoningTokens,
    /// Both.
    pub total_tokens: u64,
}

/// One item of the output.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// Words.
    Message {
        /// `msg_…`
        id: String,
        /// How far.
        status: Status,
        /// Always `assistant`.
        role: &'static str,
        /// Empty until there are words.
        content: Vec<Part>,
    },
    /// A call of one of the client's tools.
    FunctionCall {
        /// `fc_…`
        id: String,
        /// How far.
        status: Status,
        /// `call_…`, which the result will name.
        call_id: String,
        /// The tool's name.
        name: String,
        /// JSON text.
        arguments: String,
    },
    /// A call of a tool whose input is free text, such as a script.
    CustomToolCall {
        /// `ctc_…`
        id: String,
        /// How far.
        status: Status,
        /// `call_…`, which the result will name.
        call_id: String,
        /// The tool's name.
        name: String,
        /// The group of tools that it is in.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// The text.
        input: String,
    },
}

/// A part of a message.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Words.
    OutputText {
        /// The words.
        text: String,
        /// None here.
        annotations: Vec<Value>,
        /// None here.
        logprobs: Vec<Value>,
    },
}

/// An event of a streamed response, without its running number.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type")]
pub enum StreamEvent {
    /// The head; status in progress, no usage.
    #[serde(rename = "response.created")]
    Created {
        /// As far as it is.
        response: Response,
    },
    /// The same again.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// As far as it is.
        response: Response,
    },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// Its place.
        output_index: usize,
        /// Its empty shape.
        item: Item,
    },
    /// A part of a message begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// The message.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place.
        content_index: usize,
        /// Its empty shape.
        part: Part,
    },
    /// More words.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// The message.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place.
        content_index: usize,
        /// The words.
        delta: String,
        /// None here.
        logprobs: Vec<Value>,
    },
    /// All the words of a part.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// The message.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place.
        content_index: usize,
        /// The words.
        text: String,
        /// None here.
        logprobs: Vec<Value>,
    },
    /// A part is complete.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// The message.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place.
        content_index: usize,
        /// The whole part.
        part: Part,
    },
    /// More of a call's arguments.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// The call.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// A part of the JSON text.
        delta: String,
    },
    /// All of a call's arguments.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// The call.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The tool's name.
        name: String,
        /// The JSON text.
        arguments: String,
    },
    /// An item is complete.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// Its place.
        output_index: usize,
        /// The whole item.
        item: Item,
    },
    /// The end, with usage.
    #[serde(rename = "response.completed")]
    Completed {
        /// The whole response.
        response: Response,
    },
    /// The end by the output cap, with usage.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// What there is.
        response: Response,
    },
    /// The end by a failure.
    #[serde(rename = "response.failed")]
    Failed {
        /// With its error.
        response: Response,
    },
}

#[derive(Serialize)]
struct Numbered<'a> {
    #[serde(flatten)]
    event: &'a StreamEvent,
    sequence_number: u64,
}

impl StreamEvent {
    /// The value of `type`, which is the event's name on the wire as well.
    pub fn name(&self) -> &'static str {
        match self {
            StreamEvent::Created { .. } => "response.created",
            StreamEvent::InProgress { .. } => "response.in_progress",
            StreamEvent::ItemAdded { .. } => "response.output_item.added",
            StreamEvent::PartAdded { .. } => "response.content_part.added",
            StreamEvent::TextDelta { .. } => "response.output_text.delta",
            StreamEvent::TextDone { .. } => "response.output_text.done",
            StreamEvent::PartDone { .. } => "response.content_part.done",
            StreamEvent::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            StreamEvent::ArgumentsDone { .. } => "response.function_call_arguments.done",
            StreamEvent::ItemDone { .. } => "response.output_item.done",
            StreamEvent::Completed { .. } => "response.completed",
            StreamEvent::Incomplete { .. } => "response.incomplete",
            StreamEvent::Failed { .. } => "response.failed",
        }
    }

    /// The event as it goes onto the wire, with its place in the stream counted from 0.
    pub fn to_sse(&self, sequence_number: u64) -> Event {
        let data = serde_json::to_string(&Numbered { event: self, sequence_number });
        Event::new(self.name(), data.expect("these structs always serialise"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_name_is_its_type_and_the_number_stands_beside_it() {
        let event = StreamEvent::ArgumentsDelta { item_id: "fc_1".into(), output_index: 0, delta: "{".into() };
        let sse = event.to_sse(7);
        let data: Value = serde_json::from_str(&sse.data).unwrap();
        assert_eq!((&data["type"], &data["sequence_number"]), (&sse.name[..].into(), &7.into()));
    }
}
