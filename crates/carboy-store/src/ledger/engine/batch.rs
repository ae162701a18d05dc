//! What one batch will make durable, and whom it will answer then.

use carboy_core::audit::Event;
use carboy_core::budget::{Ending, ReservationId};

use super::Unavailable;
use super::notices::Notice;
use super::watch::Latch;
use crate::ledger::port::Write;
use crate::ticket::Giver;

/// An ending as it was told: whose, of what, how.
pub(super) type Kept = (u64, ReservationId, Ending);

type Outcome<'a> = Result<(), &'a Unavailable>;
type Answer = Box<dyn FnOnce(Outcome<'_>) + Send>;

/// One batch. Nothing of it is known to anybody before it is committed.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) now_ms: u64,
    pub(super) writes: Vec<Write>,
    pub(super) notices: Vec<Notice>,
    /// What is remembered of crossings once they are told.
    pub(super) latches: Vec<Latch>,
    /// The endings that are in it: what was spent is not forgotten when it fails.
    pub(super) endings: Vec<Kept>,
    answers: Vec<Answer>,
}

impl Batch {
    pub(super) fn new(now_ms: u64) -> Batch {
        Batch { now_ms, ..Batch::default() }
    }

    /// Answers when everything is durable, or that it is not.
    pub(super) fn answer<T, E>(&mut self, giver: Giver<Result<T, E>>, answer: Result<T, E>)
    where
        T: Send + 'static,
        E: From<Unavailable> + Send + 'static,
    {
        self.answers.push(Box::new(move |outcome| {
            giver.give(match outcome {
                Ok(()) => answer,
                Err(unavailable) => Err(unavailable.clone().into()),
            });
        }));
    }

    /// Writes an event beside the rest.
    pub(super) fn event(&mut self, event: Event) {
        self.writes.push(Write::Event { at_ms: self.now_ms, event });
    }

    /// Answers everybody.
    pub(super) fn tell(&mut self, outcome: Outcome<'_>) {
        for answer in self.answers.drain(..) {
            answer(outcome);
        }
    }
}
