//! How a stream of OpenAI's Responses stands, and what ends it.

use carboy_core::budget::Usage;
use serde_json::{Map, Value};

use crate::json::{PREFIX_BYTES_MAX, Scalar};
use crate::openai::responses::{self, Item, Part, Response, Status, StreamEvent};
use crate::openai::{CachedTokens, ErrorDetail, ReasoningTokens};
use crate::sse::Event;

/// What Codex does not try again after.
const QUOTA: &str = "insufficient_quota";

#[derive(Clone, Debug, Default)]
struct Present {
    is_response: bool,
    ends: bool,
    id: Option<String>,
    model: Option<String>,
    created_at: Option<u64>,
    sequence: Option<u64>,
    output_index: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    created: bool,
    ended: bool,
    id: Option<String>,
    model: Option<String>,
    created_at: u64,
    next_sequence: u64,
    next_output: u64,
    present: Present,
}

impl State {
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn scalar(&mut self, path: &str, value: Scalar<'_>) {
        let present = &mut self.present;
        match (path, value) {
            ("type", Scalar::Text(kind, _)) => {
                let ends =
                    ["response.completed", "response.incomplete", "response.failed", "response.cancelled", "error"];
                present.ends = ends.contains(&kind);
                present.is_response = kind.starts_with("response.");
            }
            ("response.id", text) => present.id = whole(text),
            ("response.model", text) => present.model = whole(text),
            ("response.created_at", Scalar::Number(text)) => present.created_at = text.parse().ok(),
            ("sequence_number", Scalar::Number(text)) => present.sequence = text.parse().ok(),
            ("output_index", Scalar::Number(text)) => present.output_index = text.parse().ok(),
            (_, Scalar::Text(..) | Scalar::Number(_) | Scalar::Flag(_) | Scalar::Null) => {}
        }
    }

    pub(super) fn event_ends(&mut self, complete: bool) {
        let present = std::mem::take(&mut self.present);
        if !complete || !(present.is_response || present.ends) {
            return;
        }
        self.created = true;
        self.ended |= present.ends;
        self.id = present.id.or(self.id.take());
        self.model = present.model.or(self.model.take());
        self.created_at = present.created_at.unwrap_or(self.created_at);
        let after = |seen: Option<u64>, next: u64| seen.map_or(next, |seen| next.max(seen.saturating_add(1)));
        self.next_sequence = after(present.sequence, self.next_sequence);
        self.next_output = after(present.output_index, self.next_output);
    }

    pub(super) fn voided_as(&self) -> &'static str {
        if self.created { "ping" } else { "response.created" }
    }

    /// Members that make another event of one that is half there: of two members of one name the last counts.
    pub(super) fn void(&self) -> String {
        if self.created {
            return "\"type\":\"ping\"".into();
        }
        let whole = StreamEvent::Created { response: self.response(Status::InProgress, None, None) };
        let data = whole.to_sse(self.next_sequence).data;
        data.trim_start_matches('{').strip_suffix('}').unwrap_or_default().to_owned()
    }

    pub(super) fn ending(&self, notice: &str, cost: Option<Usage>) -> Vec<Event> {
        let mut events = Vec::new();
        if !self.created {
            events.push(StreamEvent::Created { response: self.response(Status::InProgress, None, None) });
        }
        self.says(notice, &mut events);
        let error = ErrorDetail { message: notice.to_owned(), kind: QUOTA, param: None, code: Some(QUOTA) };
        events.push(StreamEvent::Failed { response: self.response(Status::Failed, Some(error), cost) });
        events.iter().zip(self.next_sequence..).map(|(event, number)| event.to_sse(number)).collect()
    }

    /// A message of its own: the words of an error are not shown by every client.
    fn says(&self, notice: &str, events: &mut Vec<StreamEvent>) {
        let output_index = usize::try_from(self.next_output).unwrap_or(usize::MAX);
        let (item_id, content_index) = ("msg_carboy".to_owned(), 0);
        let message = |status, content| Item::Message { id: "msg_carboy".into(), status, role: "assistant", content };
        let part = |text: &str| Part::OutputText { text: text.into(), annotations: Vec::new(), logprobs: Vec::new() };
        let item = message(Status::InProgress, Vec::new());
        events.push(StreamEvent::ItemAdded { output_index, item });
        let (id, empty) = (item_id.clone(), part(""));
        events.push(StreamEvent::PartAdded { item_id: id, output_index, content_index, part: empty });
        let (id, delta) = (item_id.clone(), notice.to_owned());
        events.push(StreamEvent::TextDelta { item_id: id, output_index, content_index, delta, logprobs: Vec::new() });
        let (id, text) = (item_id.clone(), notice.to_owned());
        events.push(StreamEvent::TextDone { item_id: id, output_index, content_index, text, logprobs: Vec::new() });
        events.push(StreamEvent::PartDone { item_id, output_index, content_index, part: part(notice) });
        let item = message(Status::Completed, vec![part(notice)]);
        events.push(StreamEvent::ItemDone { output_index, item });
    }

    fn response(&self, status: Status, error: Option<ErrorDetail>, cost: Option<Usage>) -> Response {
        Response {
            id: self.id.clone().or_else(|| self.present.id.clone()).unwrap_or_else(|| "resp_carboy".into()),
            object: "response",
            created_at: self.created_at,
            status,
            error,
            incomplete_details: None,
            instructions: None,
            max_output_tokens: None,
            model: self.model.clone().unwrap_or_else(|| "carboy".into()),
            output: Vec::new(),
            parallel_tool_calls: true,
            previous_response_id: None,
            store: false,
            tool_choice: Value::from("auto"),
            tools: Value::Array(Vec::new()),
            usage: cost.map(on_the_wire),
            metadata: Map::new(),
        }
    }
}

fn on_the_wire(usage: Usage) -> responses::Usage {
    let read = usage.read();
    responses::Usage {
        input_tokens: read,
        input_tokens_details: CachedTokens { cached_tokens: usage.cache_read },
        output_tokens: usage.output,
        output_tokens_details: ReasoningTokens::default(),
        total_tokens: read.saturating_add(usage.output),
    }
}

/// A text that was given whole; a longer one would name something else.
pub(super) fn whole(value: Scalar<'_>) -> Option<String> {
    match value {
        Scalar::Text(text, bytes) if bytes <= PREFIX_BYTES_MAX as u64 => Some(text.to_owned()),
        Scalar::Text(..) | Scalar::Number(_) | Scalar::Flag(_) | Scalar::Null => None,
    }
}
