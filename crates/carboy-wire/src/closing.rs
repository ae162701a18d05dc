//! Ends a stream that is cut, in the protocol of its client and from wherever it stands.
//!
//! ```text
//! bytes to the client ──▶ follows ──▶ what is open: an event, a block, a call of a tool
//! close(notice)       ──▶ completes or voids the event, closes what is open, says why, ends the stream
//! ```
//!
//! A stream that just stops is tried again, by some programs eighty times in a minute; one that comes to its end is over.
//! Nothing of the stream is held: what is kept is where it stands.
//!
//! | format | ends with | why so |
//! |---|---|---|
//! | Anthropic Messages | the notice as text, `end_turn` | shown, and one request at most comes after it; `max_tokens` is tried again |
//! | OpenAI Chat | the notice as text, `stop`, `[DONE]` | the same |
//! | OpenAI Responses | the notice as a message, `response.failed` with `insufficient_quota` | the one code after which Codex does not try again |
//! | Gemini | the notice as text, `STOP` | |
//!
//! *Must never* send what a client's parser stumbles over, or let half of a tool's arguments pass for the whole: what was
//! cut is closed so that no tool takes it.

mod anthropic;
mod chat;
mod gemini;
mod responses;

use carboy_core::budget::Usage;

use crate::format::WireFormat;
use crate::json::{Comma, Deaf, Escapes, Fill, Hear, Nulls, Scanner};
use crate::meter::Shape;
use crate::meter::lines::{Lines, Open, Piece};
use crate::sse::Event;

/// Named in what closes the arguments of a tool that was cut.
const CUT: &str = "cut_off_by_carboy";

/// Follows one stream as its client gets it.
#[derive(Clone, Debug)]
pub struct Follower {
    shape: Shape,
    lines: Lines,
    scanner: Scanner,
    state: State,
    cost: Option<Usage>,
}

#[derive(Clone, Debug)]
enum State {
    Anthropic(anthropic::State),
    Chat(chat::State),
    Responses(responses::State),
    Gemini(gemini::State),
}

impl Follower {
    /// At a stream's beginning. `None` for a whole body ([`Shape::Whole`]): half a document cannot be ended as anything but
    /// an error, so its connection is.
    pub fn new(format: WireFormat, shape: Shape) -> Option<Follower> {
        let state = match format {
            WireFormat::AnthropicMessages => State::Anthropic(anthropic::State::default()),
            WireFormat::OpenAiChat => State::Chat(chat::State::default()),
            WireFormat::OpenAiResponses => State::Responses(responses::State::default()),
            WireFormat::Gemini => State::Gemini(gemini::State::default()),
        };
        match shape {
            Shape::Whole => None,
            Shape::Events | Shape::List | Shape::Messages => {
                Some(Follower { shape, lines: Lines::new(), scanner: Scanner::new(), state, cost: None })
            }
        }
    }

    /// Reads on: exactly what the client was sent, without any content coding.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Follower { shape, lines, scanner, state, .. } = self;
        match shape {
            Shape::Events => lines.feed(bytes, |piece| match piece {
                Piece::Data(part) => scanner.feed(part, state),
                Piece::Done => state.done(),
                Piece::EventEnds => {
                    scanner.end(state);
                    state.event_ends(scanner.is_complete());
                    scanner.reset();
                }
            }),
            Shape::Whole | Shape::List | Shape::Messages => scanner.feed(bytes, state),
        }
    }

    /// Reads a whole event that the client was sent as a message of its own ([`Shape::Messages`]).
    pub fn message(&mut self, event: &[u8]) {
        self.scanner.feed(event, &mut self.state);
        self.scanner.end(&mut self.state);
        self.state.event_ends(self.scanner.is_complete());
        self.scanner.reset();
    }

    /// What it is known to cost, for formats whose end says it. Without it the last count of the stream stands.
    pub fn costs(&mut self, usage: Usage) {
        self.cost = Some(usage);
    }

    /// Has the stream come to its end by itself?
    pub fn has_ended(&self) -> bool {
        match self.shape {
            Shape::Whole | Shape::List => self.scanner.is_complete(),
            Shape::Events | Shape::Messages => self.state.has_ended(),
        }
    }

    /// What ends the stream: the client's parser finds a whole protocol, and its person the notice. Empty where the stream
    /// has come to its end.
    pub fn close(&self, notice: &str) -> Vec<u8> {
        if self.has_ended() {
            return Vec::new();
        }
        match self.shape {
            Shape::Events => self.close_events(notice),
            Shape::List => self.close_list(notice),
            Shape::Whole | Shape::Messages => Vec::new(),
        }
    }

    /// The messages that end the response, for [`Shape::Messages`].
    pub fn closing_messages(&self, notice: &str) -> Vec<String> {
        if self.has_ended() {
            return Vec::new();
        }
        self.state.ending(notice, self.cost).into_iter().map(|event| event.data).collect()
    }

    fn close_events(&self, notice: &str) -> Vec<u8> {
        let mut end = self.clone();
        let mut out = end.complete_event();
        end.feed(&out);
        if end.state.has_ended() {
            return out;
        }
        for event in end.state.ending(notice, self.cost) {
            event.encode(&mut out);
        }
        out
    }

    /// Completes what is open of an event, or voids it where half of it means nothing.
    fn complete_event(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let open = self.lines.open(&mut out);
        let whole = self.scanner.is_complete();
        match open {
            Open::Nothing => return out,
            Open::Done(rest) => {
                out.extend_from_slice(rest.as_bytes());
                out.extend_from_slice(b"\n\n");
                return out;
            }
            Open::BetweenLines if whole || self.state.has_finished() => {}
            Open::InLine if whole => {}
            Open::InLine => out.extend(self.mended()),
            Open::BetweenLines => {
                out.extend_from_slice(b"data: ");
                out.extend(self.mended());
                out.push(b'\n');
            }
        }
        if open == Open::InLine {
            out.push(b'\n');
        }
        if let Some(name) = self.state.voided_as().filter(|_| !whole && !self.state.has_finished()) {
            // The last of several names counts.
            out.extend_from_slice(format!("event: {name}\n").as_bytes());
        }
        out.push(b'\n');
        out
    }

    fn mended(&self) -> Vec<u8> {
        if self.scanner.is_untouched() {
            return format!("{{{}}}", self.state.members("")).into_bytes();
        }
        match self.scanner.mend(0, &self.state) {
            Some((end, _)) => end,
            // It was no document; nothing makes it one.
            None => Vec::new(),
        }
    }

    /// Gemini's list: the element that is open is completed, and one more follows.
    fn close_list(&self, notice: &str) -> Vec<u8> {
        let mut out = Vec::new();
        if self.scanner.depth() == 0 {
            out.push(b'[');
        } else {
            let Some((end, comma)) = self.scanner.mend(1, &Nulls) else { return out };
            out.extend_from_slice(&end);
            if comma == Comma::Needed {
                out.push(b',');
            }
        }
        if self.state.has_finished() {
            // It had said its last word; the list's own end was missing.
            let end = self.scanner.mend(0, &Nulls).map(|(end, _)| end);
            return end.unwrap_or_default();
        }
        let elements = self.state.ending(notice, self.cost).into_iter().map(|event| event.data).collect::<Vec<_>>();
        out.extend_from_slice(elements.join(",").as_bytes());
        out.push(b']');
        out
    }
}

impl State {
    fn done(&mut self) {
        match self {
            State::Chat(chat) => chat.done(),
            State::Anthropic(_) | State::Responses(_) | State::Gemini(_) => {}
        }
    }

    fn event_ends(&mut self, complete: bool) {
        match self {
            State::Anthropic(state) => state.event_ends(complete),
            State::Chat(state) => state.event_ends(complete),
            State::Responses(state) => state.event_ends(complete),
            State::Gemini(state) => state.event_ends(complete),
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            State::Anthropic(state) => state.has_ended(),
            State::Chat(state) => state.has_ended(),
            State::Responses(state) => state.has_ended(),
            State::Gemini(state) => state.has_ended(),
        }
    }

    /// Has it said its last word, in an event that may not be whole?
    fn has_finished(&self) -> bool {
        match self {
            State::Gemini(state) => state.has_finished(),
            State::Chat(state) => state.has_finished(),
            State::Anthropic(_) | State::Responses(_) => self.has_ended(),
        }
    }

    /// What half an event of this format is made, where it is not completed to what it was to be: one that clients pass
    /// over, or the one without which they take no other.
    fn voided_as(&self) -> Option<&'static str> {
        match self {
            State::Anthropic(state) => state.voids().then_some("ping"),
            State::Responses(state) => Some(state.voided_as()),
            State::Chat(_) | State::Gemini(_) => None,
        }
    }

    fn ending(&self, notice: &str, cost: Option<Usage>) -> Vec<Event> {
        match self {
            State::Anthropic(state) => state.ending(notice, cost),
            State::Chat(state) => state.ending(notice, cost),
            State::Responses(state) => state.ending(notice, cost),
            State::Gemini(state) => state.ending(notice, cost),
        }
    }
}

impl Hear for State {
    fn scalar(&mut self, path: &str, value: crate::json::Scalar<'_>, _: std::ops::Range<usize>) {
        match self {
            State::Anthropic(state) => state.scalar(path, value),
            State::Chat(state) => state.scalar(path, value),
            State::Responses(state) => state.scalar(path, value),
            State::Gemini(state) => state.scalar(path, value),
        }
    }

    fn text(&mut self, path: &str, part: &[u8]) {
        match self {
            State::Anthropic(state) => state.text(path, part),
            State::Chat(state) => state.text(path, part),
            State::Responses(_) | State::Gemini(_) => {}
        }
    }

    fn key(&mut self, path: &str) {
        match self {
            State::Chat(state) => state.key(path),
            State::Anthropic(_) | State::Responses(_) | State::Gemini(_) => {}
        }
    }

    fn map_ends(&mut self, path: &str) {
        match self {
            State::Chat(state) => state.map_ends(path),
            State::Anthropic(_) | State::Responses(_) | State::Gemini(_) => {}
        }
    }
}

impl Fill for State {
    fn value(&self, path: &str) -> String {
        match self {
            State::Chat(state) => state.value(path),
            State::Anthropic(_) | State::Responses(_) | State::Gemini(_) => Nulls.value(path),
        }
    }

    fn members(&self, path: &str) -> String {
        match self {
            State::Chat(state) => state.members(path),
            // A second type is the one that counts.
            State::Anthropic(state) if path.is_empty() && state.voids() => "\"type\":\"ping\"".into(),
            State::Responses(state) if path.is_empty() => state.void(),
            State::Anthropic(_) | State::Responses(_) | State::Gemini(_) => Nulls.members(path),
        }
    }

    fn element(&self, path: &str) -> String {
        match self {
            State::Chat(state) => state.element(path),
            State::Anthropic(_) | State::Responses(_) | State::Gemini(_) => Nulls.element(path),
        }
    }

    fn escaped(&self, path: &str) -> &'static str {
        match self {
            State::Anthropic(state) if path == anthropic::ARGUMENTS => state.arguments().escaped(),
            State::Chat(state) if path == chat::ARGUMENTS => state.arguments().escaped(),
            State::Anthropic(_) | State::Chat(_) | State::Responses(_) | State::Gemini(_) => Nulls.escaped(path),
        }
    }
}

/// The arguments of a tool as they come, a document in pieces of text.
#[derive(Clone, Debug)]
struct Arguments(Scanner);

impl Default for Arguments {
    fn default() -> Self {
        Arguments(Scanner::new())
    }
}

impl Arguments {
    fn begin(&mut self) {
        self.0.reset();
    }

    fn feed(&mut self, part: &[u8]) {
        self.0.feed(part, &mut Deaf);
    }

    /// What can come next in them without breaking them.
    fn escaped(&self) -> &'static str {
        match self.0.escapes() {
            Escapes::No => "u0020",
            Escapes::Begun => "u006e",
            Escapes::Digits => "u0030",
        }
    }

    /// What completes them and makes them of no use: the member that was being written becomes null (of two members of one
    /// name every reader takes the last), and one more stands there that no tool knows. `None` where they are whole.
    fn spoil(&self) -> Option<String> {
        if self.0.is_complete() {
            return None;
        }
        if self.0.is_untouched() {
            return Some(format!("{{\"{CUT}\":true}}"));
        }
        let (end, comma) = self.0.mend(1, &Nulls)?;
        let mut out = String::from_utf8_lossy(&end).into_owned();
        if comma == Comma::Needed {
            out.push(',');
            if let Some(key) = self.0.last_key().and_then(|key| serde_json::to_string(key).ok()) {
                out.push_str(&format!("{key}:null,"));
            }
        }
        out.push_str(&format!("\"{CUT}\":true}}"));
        Some(out)
    }
}

fn event(name: &str, value: &impl serde::Serialize) -> Event {
    Event::new(name, serde_json::to_string(value).expect("structs of strings and numbers always serialise"))
}
