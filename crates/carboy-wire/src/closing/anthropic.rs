//! How an Anthropic stream stands, and what ends it.

use carboy_core::budget::Usage;

use super::Arguments;
use crate::anthropic::{Block, Delta, Message, MessageEnd, StopReason, StreamEvent};
use crate::json::Scalar;
use crate::sse::Event;

/// Where a tool's arguments come.
pub(super) const ARGUMENTS: &str = "delta.partial_json";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Other,
    MessageStart,
    BlockStart,
    BlockDelta,
    BlockStop,
    MessageDelta,
    /// `message_stop` or `error`.
    End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Content {
    Text,
    Tool,
    #[default]
    Other,
}

/// The event that is being read; it counts when it is whole.
#[derive(Clone, Debug, Default)]
struct Present {
    kind: Kind,
    index: Option<u64>,
    content: Content,
    has_delta_type: bool,
    text_begun: bool,
    stops: bool,
    usage: Usage,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    started: bool,
    /// A `stop_reason` was sent.
    stopped: bool,
    ended: bool,
    usage: Usage,
    deltas: u64,
    open: Option<(u64, Content)>,
    next: u64,
    arguments: Arguments,
    present: Present,
}

impl State {
    pub(super) fn arguments(&self) -> &Arguments {
        &self.arguments
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn scalar(&mut self, path: &str, value: Scalar<'_>) {
        let present = &mut self.present;
        match (path, value) {
            ("type", Scalar::Text(kind, _)) => {
                present.kind = match kind {
                    "message_start" => Kind::MessageStart,
                    "content_block_start" => Kind::BlockStart,
                    "content_block_delta" => Kind::BlockDelta,
                    "content_block_stop" => Kind::BlockStop,
                    "message_delta" => Kind::MessageDelta,
                    "message_stop" | "error" => Kind::End,
                    _ => Kind::Other,
                };
            }
            ("index", Scalar::Number(text)) => present.index = text.parse().ok(),
            ("content_block.type", Scalar::Text(kind, _)) => {
                present.content = match kind {
                    "text" => Content::Text,
                    "tool_use" | "server_tool_use" | "mcp_tool_use" => Content::Tool,
                    _ => Content::Other,
                };
            }
            ("delta.type", Scalar::Text(..)) => present.has_delta_type = true,
            ("delta.stop_reason", Scalar::Text(..)) => present.stops = true,
            (path, Scalar::Number(text)) => {
                let usage = &mut present.usage;
                let slot = match path.strip_prefix("message.").unwrap_or(path) {
                    "usage.input_tokens" => &mut usage.input,
                    "usage.output_tokens" => &mut usage.output,
                    "usage.cache_creation_input_tokens" => &mut usage.cache_write,
                    "usage.cache_read_input_tokens" => &mut usage.cache_read,
                    _ => return,
                };
                *slot = text.parse().unwrap_or(0);
            }
            (_, Scalar::Text(..) | Scalar::Flag(_) | Scalar::Null) => {}
        }
    }

    pub(super) fn text(&mut self, path: &str, part: &[u8]) {
        match path {
            ARGUMENTS => self.arguments.feed(part),
            "delta.text" | "delta.thinking" => {}
            _ => return,
        }
        self.present.text_begun = true;
    }

    /// Text that has begun to arrive stays, and so do arguments; any other half of an event means nothing.
    pub(super) fn voids(&self) -> bool {
        let Present { kind, index, has_delta_type, text_begun, .. } = &self.present;
        !(*kind == Kind::BlockDelta && index.is_some() && *has_delta_type && *text_begun)
    }

    pub(super) fn event_ends(&mut self, complete: bool) {
        let present = std::mem::take(&mut self.present);
        if !complete {
            return;
        }
        match present.kind {
            Kind::MessageStart => {
                self.started = true;
                self.usage = present.usage;
            }
            Kind::BlockStart => {
                let index = present.index.unwrap_or(self.next);
                self.open = Some((index, present.content));
                self.next = index.saturating_add(1);
                self.arguments.begin();
            }
            Kind::BlockDelta => self.deltas = self.deltas.saturating_add(1),
            Kind::BlockStop => self.open = None,
            Kind::MessageDelta => {
                self.usage = self.usage.larger(present.usage);
                self.stopped |= present.stops;
            }
            Kind::End => self.ended = true,
            Kind::Other => {}
        }
    }

    pub(super) fn ending(&self, notice: &str, cost: Option<Usage>) -> Vec<Event> {
        let mut events = Vec::new();
        if self.stopped {
            events.push(StreamEvent::MessageStop);
            return events.iter().map(StreamEvent::to_sse).collect();
        }
        let known = cost.unwrap_or_default().larger(self.usage);
        let usage = on_the_wire(Usage { output: known.output.max(self.deltas), ..known });
        if !self.started {
            events.push(StreamEvent::MessageStart { message: tiny(usage) });
        }
        match self.open {
            Some((index, Content::Text)) => {
                events.push(says(index, format!("\n\n{notice}")));
                events.push(StreamEvent::ContentBlockStop { index: at(index) });
            }
            Some((index, content)) => {
                if let Some(partial_json) = (content == Content::Tool).then(|| self.arguments.spoil()).flatten() {
                    let delta = Delta::InputJsonDelta { partial_json };
                    events.push(StreamEvent::ContentBlockDelta { index: at(index), delta });
                }
                events.push(StreamEvent::ContentBlockStop { index: at(index) });
                block(&mut events, self.next, notice);
            }
            None => block(&mut events, self.next, notice),
        }
        let delta = MessageEnd { stop_reason: StopReason::EndTurn, stop_sequence: None };
        events.push(StreamEvent::MessageDelta { delta, usage });
        events.push(StreamEvent::MessageStop);
        events.iter().map(StreamEvent::to_sse).collect()
    }
}

/// A block of its own with the notice.
fn block(events: &mut Vec<StreamEvent>, index: u64, notice: &str) {
    let content_block = Block::Text { text: String::new() };
    events.push(StreamEvent::ContentBlockStart { index: at(index), content_block });
    events.push(says(index, notice.to_owned()));
    events.push(StreamEvent::ContentBlockStop { index: at(index) });
}

fn says(index: u64, text: String) -> StreamEvent {
    StreamEvent::ContentBlockDelta { index: at(index), delta: Delta::TextDelta { text } }
}

fn at(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The head of an answer of which nothing had come.
fn tiny(usage: crate::anthropic::Usage) -> Message {
    Message {
        id: "msg_carboy".into(),
        kind: "message",
        role: "assistant",
        model: "carboy".into(),
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage,
    }
}

fn on_the_wire(usage: Usage) -> crate::anthropic::Usage {
    crate::anthropic::Usage {
        input_tokens: usage.input,
        cache_creation_input_tokens: usage.cache_write,
        cache_read_input_tokens: usage.cache_read,
        output_tokens: usage.output,
    }
}
