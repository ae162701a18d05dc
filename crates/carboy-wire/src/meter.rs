//! Reads what a model's answer cost from the answer itself, while it passes.
//!
//! ```text
//! decoded bytes ──▶ lines of `data:` ──▶ structural JSON reader ──▶ Tally ──▶ Reading
//! (any split)       (streams only)       (holds < 1 KiB)
//! ```
//!
//! Nothing of a body is held, whatever its size or the size of one event. Counts that a provider reports several times
//! are never added: the largest of each stands, so that a provisional or repeated count changes nothing and a later
//! zero does not take back what was reported (a stream's usage is cumulative).
//!
//! *Must never* take a number out of a model's text for usage, count below what was reported, or invent a count: what
//! was not reported is [`Reported::Never`], and its caller decides what that costs.

pub(crate) mod lines;
mod tally;

use carboy_core::budget::Usage;

use crate::format::WireFormat;
use crate::json::Scanner;
use lines::{Lines, Piece};
use tally::Tally;

/// How an answer's body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One JSON document.
    Whole,
    /// Server-sent events, a JSON document each.
    Events,
    /// One JSON list of what would be events: Gemini's streams without `alt=sse`.
    List,
    /// Messages of a WebSocket, an event each: given one by one to [`Meter::message`].
    Messages,
}

/// Whether usage was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The answer came to its own end and said what it cost.
    Complete,
    /// It said something and did not come to its end: the true cost may be higher.
    Partly,
    /// It said nothing that counts.
    Never,
}

/// What an answer cost, as far as it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The largest counts that were reported.
    pub usage: Usage,
    /// Whether that is all.
    pub reported: Reported,
    /// Octets of text, reasoning and tool arguments that the model wrote.
    pub written_bytes: u64,
    /// In how many pieces they came; no provider sends a piece without a token.
    pub deltas: u64,
    /// A count was negative, no whole number, not a number, or beyond any request, or an event was no JSON document: the
    /// answer is not to be believed.
    pub implausible: bool,
}

/// Meters one answer.
#[derive(Debug)]
pub struct Meter {
    shape: Shape,
    lines: Lines,
    scanner: Scanner,
    tally: Tally,
}

impl Meter {
    /// For an answer of this format and shape.
    pub fn new(format: WireFormat, shape: Shape) -> Meter {
        Meter { shape, lines: Lines::new(), scanner: Scanner::new(), tally: Tally::new(format) }
    }

    /// Reads on; `bytes` are without any content coding.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Meter { shape, lines, scanner, tally } = self;
        match shape {
            Shape::Whole | Shape::List | Shape::Messages => scanner.feed(bytes, tally),
            Shape::Events => lines.feed(bytes, |piece| match piece {
                Piece::Data(part) => scanner.feed(part, tally),
                Piece::Done => tally.done(),
                Piece::EventEnds => event_ends(scanner, tally),
            }),
        }
    }

    /// Reads a whole event that came as a message of its own.
    pub fn message(&mut self, event: &[u8]) {
        self.scanner.feed(event, &mut self.tally);
        event_ends(&mut self.scanner, &mut self.tally);
    }

    /// The name by which a later request may go on from this answer: of Anthropic's Messages alone.
    pub fn name(&self) -> Option<&str> {
        self.tally.name()
    }

    /// How it stands now.
    pub fn reading(&self) -> Reading {
        self.tally.reading(match self.shape {
            Shape::Whole => self.scanner.is_complete(),
            Shape::List => self.scanner.is_complete() && self.tally.came_to_its_end(),
            Shape::Events | Shape::Messages => self.tally.came_to_its_end(),
        })
    }
}

fn event_ends(scanner: &mut Scanner, tally: &mut Tally) {
    scanner.end(tally);
    if !scanner.is_untouched() && !scanner.is_complete() {
        tally.broken();
    }
    tally.event_ends();
    scanner.reset();
}

#[cfg(test)]
mod tests;
