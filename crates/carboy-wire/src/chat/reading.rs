//! What the readers of both formats share: how an answer's bytes are framed, and how its parts are put together.
//!
//! ```text
//! bytes ──▶ Framing ──▶ events, or one document ──▶ a format's reader ──▶ Assembly ──▶ Completion
//! ```
//!
//! *Must never* hold more than its named maxima, or give a control character other than tab and line feed: what a model
//! wrote goes back to it with the next prompt, and to terminals and pages.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Block, Completion, Delta, Fault, Stopped};
use crate::sse::{Event, Parser, SseError};

/// Octets of one event, or of an answer that comes whole.
pub const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Octets of a whole stream, pings and unknown events included.
pub const STREAM_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Octets of an answer's words.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Octets of an answer's tool arguments, all calls together.
pub const ARGUMENTS_BYTES_MAX: usize = 1024 * 1024;
/// Octets of an answer's blocks that only its provider understands.
pub const OPAQUE_BYTES_MAX: usize = 1024 * 1024;
/// Calls of tools in one answer.
pub const CALLS_MAX: usize = 256;
/// Parts of one answer, calls included.
pub const BLOCKS_MAX: usize = 512;
/// Octets of a tool's name, and of a call's id.
pub const NAME_BYTES_MAX: usize = 256;

/// An answer that gives no [`Completion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A part of it passes its maximum.
    #[error("{what} is more than {max}, which is the most that is read; ask for a shorter answer")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// The maximum, in octets or pieces.
        max: u64,
    },
    /// It ended before its end.
    #[error("the answer broke off before its end; ask again")]
    BrokeOff,
    /// It is not of the format that was asked in.
    #[error("the answer is not of the format that was asked in: {0}; check the model's format and path")]
    Malformed(&'static str),
    /// The provider says that it failed.
    #[error("the provider ended its answer with an error")]
    Failed(Fault),
}

fn within(what: &'static str, is: usize, max: usize) -> Result<(), ReadError> {
    if is <= max { Ok(()) } else { Err(ReadError::TooLarge { what, max: max as u64 }) }
}

/// How the bytes are framed, which shows with the first of them: a server that ignores `stream` sends one document.
#[derive(Debug)]
pub(super) struct Framing {
    kind: Kind,
    read: u64,
}

#[derive(Debug)]
enum Kind {
    Unknown,
    Events(Parser),
    Whole(Vec<u8>),
}

impl Framing {
    pub fn new() -> Framing {
        Framing { kind: Kind::Unknown, read: 0 }
    }

    /// Reads on; gives the events that became complete.
    pub fn feed(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), ReadError> {
        self.read += bytes.len() as u64;
        if self.read > STREAM_BYTES_MAX {
            return Err(ReadError::TooLarge { what: "the stream", max: STREAM_BYTES_MAX });
        }
        let bytes = match self.kind {
            Kind::Unknown => bytes.trim_ascii_start(),
            Kind::Events(_) | Kind::Whole(_) => bytes,
        };
        let Some(first) = bytes.first() else { return Ok(()) };
        if matches!(self.kind, Kind::Unknown) {
            // No line of an event stream begins with a brace.
            let whole = *first == b'{';
            self.kind = if whole { Kind::Whole(Vec::new()) } else { Kind::Events(Parser::new(EVENT_BYTES_MAX)) };
        }
        match &mut self.kind {
            Kind::Unknown => Ok(()),
            Kind::Events(parser) => parser.feed(bytes, events).map_err(|error| match error {
                SseError::EventTooLarge { bytes_max } => {
                    ReadError::TooLarge { what: "an event", max: bytes_max as u64 }
                }
            }),
            Kind::Whole(body) => {
                within("the answer", body.len() + bytes.len(), EVENT_BYTES_MAX)?;
                body.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// The document, where it is one.
    pub fn whole(&mut self) -> Option<Vec<u8>> {
        match &mut self.kind {
            Kind::Whole(body) => Some(std::mem::take(body)),
            Kind::Unknown | Kind::Events(_) => None,
        }
    }
}

/// The parts of an answer as they grow.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    parts: Vec<Part>,
    text_bytes: usize,
    argument_bytes: usize,
    opaque_bytes: usize,
    calls: usize,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Call(Call),
    Opaque(Map<String, Value>),
}

#[derive(Debug)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Assembly {
    fn push(&mut self, part: Part) -> Result<usize, ReadError> {
        within("the number of blocks", self.parts.len() + 1, BLOCKS_MAX)?;
        self.parts.push(part);
        Ok(self.parts.len() - 1)
    }

    /// A block of words begins.
    pub fn open_text(&mut self) -> Result<usize, ReadError> {
        self.push(Part::Text(String::new()))
    }

    /// A call begins.
    pub fn open_call(&mut self, id: &str, name: &str, deltas: &mut Vec<Delta>) -> Result<usize, ReadError> {
        within("a tool's name", name.len(), NAME_BYTES_MAX)?;
        within("a call's id", id.len(), NAME_BYTES_MAX)?;
        within("the number of tool calls", self.calls + 1, CALLS_MAX)?;
        let name = one_line(name);
        let place = self.push(Part::Call(Call { id: one_line(id), name: name.clone(), arguments: String::new() }))?;
        self.calls += 1;
        if !name.is_empty() {
            deltas.push(Delta::ToolNamed(name));
        }
        Ok(place)
    }

    /// A block begins that is handed back as it came.
    pub fn open_opaque(&mut self, value: Map<String, Value>) -> Result<usize, ReadError> {
        self.opaque_bytes += Value::Object(value.clone()).to_string().len();
        within("what only the provider understands", self.opaque_bytes, OPAQUE_BYTES_MAX)?;
        self.push(Part::Opaque(value))
    }

    /// Words, at the place of a block of words.
    pub fn text(&mut self, place: usize, text: &str, deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        let Some(Part::Text(whole)) = self.parts.get_mut(place) else {
            return Err(ReadError::Malformed("words in a block that has none"));
        };
        self.text_bytes += text.len();
        within("the text", self.text_bytes, TEXT_BYTES_MAX)?;
        let text = plain(text);
        if !text.is_empty() {
            whole.push_str(&text);
            deltas.push(Delta::Text(text));
        }
        Ok(())
    }

    /// Words behind whatever there is: they go on where the last block is one of words.
    pub fn text_at_end(&mut self, text: &str, deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        let place = match self.parts.last() {
            Some(Part::Text(_)) => self.parts.len() - 1,
            Some(Part::Call(_) | Part::Opaque(_)) | None => self.open_text()?,
        };
        self.text(place, text, deltas)
    }

    /// A part of a call's arguments. Of a block that only its provider understands they are its `input`.
    pub fn arguments(&mut self, place: usize, part: &str) -> Result<(), ReadError> {
        self.argument_bytes += part.len();
        within("the arguments of tools", self.argument_bytes, ARGUMENTS_BYTES_MAX)?;
        match self.parts.get_mut(place) {
            Some(Part::Call(call)) => call.arguments.push_str(part),
            Some(Part::Opaque(value)) => append(value, INPUT_TEXT, part),
            Some(Part::Text(_)) | None => return Err(ReadError::Malformed("arguments in a block that has none")),
        }
        Ok(())
    }

    /// A part of a text member of a block that only its provider understands.
    pub fn opaque_text(&mut self, place: usize, key: &str, part: &str) -> Result<(), ReadError> {
        self.opaque_bytes += part.len();
        within("what only the provider understands", self.opaque_bytes, OPAQUE_BYTES_MAX)?;
        match self.parts.get_mut(place) {
            Some(Part::Opaque(value)) => append(value, key, part),
            Some(Part::Text(_) | Part::Call(_)) | None => {}
        }
        Ok(())
    }

    /// A call gets what it had not: its id, its name.
    pub fn complete_call(
        &mut self,
        place: usize,
        id: &str,
        name: &str,
        deltas: &mut Vec<Delta>,
    ) -> Result<(), ReadError> {
        within("a tool's name", name.len(), NAME_BYTES_MAX)?;
        within("a call's id", id.len(), NAME_BYTES_MAX)?;
        if let Some(Part::Call(call)) = self.parts.get_mut(place) {
            if call.id.is_empty() {
                call.id = one_line(id);
            }
            if call.name.is_empty() && !name.is_empty() {
                call.name = one_line(name);
                deltas.push(Delta::ToolNamed(call.name.clone()));
            }
        }
        Ok(())
    }

    /// What is there of a call: id, name, arguments.
    pub fn call(&self, place: usize) -> Option<(&str, &str, &str)> {
        match self.parts.get(place)? {
            Part::Call(call) => Some((&call.id, &call.name, &call.arguments)),
            Part::Text(_) | Part::Opaque(_) => None,
        }
    }

    /// The whole answer. Where the output was bounded, or nobody said why it ended, a last call whose arguments may be half
    /// of them is left out.
    pub fn finish(mut self, stopped: Stopped) -> Completion {
        let half = |call: &Call| !matches!(serde_json::from_str(&call.arguments), Ok(Value::Object(_)));
        if matches!(stopped, Stopped::OutputLimit | Stopped::Other)
            && let Some(Part::Call(call)) = self.parts.last()
            && half(call)
        {
            self.parts.pop();
        }
        let mut ids = BTreeSet::new();
        let blocks: Vec<Block> = self.parts.into_iter().filter_map(|part| part.into_block(&mut ids)).collect();
        let calls = blocks.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        let stopped = match stopped {
            // Some servers say that they are done beside a call, and some that they call beside none.
            Stopped::EndOfTurn | Stopped::Other if calls => Stopped::ToolUse,
            Stopped::ToolUse if !calls => Stopped::EndOfTurn,
            Stopped::EndOfTurn | Stopped::ToolUse | Stopped::OutputLimit | Stopped::Refused | Stopped::Other => stopped,
        };
        Completion { blocks, stopped }
    }
}

/// Where the parts of an opaque block's input are kept until it is whole; no provider has such a member.
const INPUT_TEXT: &str = "input\u{0}";

impl Part {
    fn into_block(self, ids: &mut BTreeSet<String>) -> Option<Block> {
        match self {
            Part::Text(text) if text.is_empty() => None,
            Part::Text(text) => Some(Block::Text { text }),
            Part::Call(call) => {
                let id = unlike(ids, call.id);
                Some(Block::ToolUse { id, name: call.name, input: input_of(&call.arguments) })
            }
            Part::Opaque(mut value) => {
                if let Some(Value::String(text)) = value.remove(INPUT_TEXT)
                    && !text.is_empty()
                {
                    value.insert("input".into(), input_of(&text));
                }
                Some(Block::Opaque { value: Value::Object(value) })
            }
        }
    }
}

/// Results are told apart by the ids of their calls: a missing one, and one that is there already, get another.
fn unlike(ids: &mut BTreeSet<String>, id: String) -> String {
    let mut own = if id.is_empty() { "call_0".to_owned() } else { id.clone() };
    let mut count = 0_usize;
    while !ids.insert(own.clone()) {
        count += 1;
        own = if id.is_empty() { format!("call_{count}") } else { format!("{id}_{count}") };
    }
    own
}

/// Arguments as JSON; what is none stays a text, and nothing is an empty object.
fn input_of(text: &str) -> Value {
    if text.trim_ascii().is_empty() {
        return json!({});
    }
    serde_json::from_str(text).map_or_else(|_| Value::String(plain(text)), |value: Value| plain_value(value))
}

fn plain_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(plain(&text)),
        Value::Array(values) => Value::Array(values.into_iter().map(plain_value).collect()),
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (plain(&key), plain_value(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

fn append(value: &mut Map<String, Value>, key: &str, part: &str) {
    match value.get_mut(key) {
        Some(Value::String(text)) => text.push_str(part),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) | None => {
            value.insert(key.to_owned(), Value::String(part.to_owned()));
        }
    }
}

/// Without control characters but tab and line feed.
fn plain(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\t' | '\n') || !c.is_control()).collect()
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
