//! Whether a request's body is still on its way, and what becomes of the end of an answer that was faster.
//!
//! A server may answer before it has read all of a request, and its client may go on sending for as long as it likes: the
//! bytes leave, and what stops them is a refusal like any other. So an exchange is over when both halves are. And a client may
//! leave before it is told a refusal. *Must never* let what was refused go without its entry, or write the outcome of an
//! exchange whose bytes still leave.

use std::sync::{Arc, MutexGuard};

use carboy_core::audit::Outcome;
use carboy_core::verdict::Denial;

use crate::record::Exchange;

/// The half of an exchange that goes out.
#[derive(Default)]
pub(crate) enum Sending {
    /// All of it has left, or there is none.
    #[default]
    Over,
    /// More of it may leave; how the answer ended, if it has.
    Going(Option<Outcome>),
    /// The gateway stopped it while the answer was awaited or read.
    Stopped(Denial),
}

impl Exchange {
    fn sending(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().expect("no panic under this lock")
    }

    /// Its body will be read as it flows.
    pub(crate) fn sends(&self) {
        *self.sending() = Sending::Going(None);
    }

    /// Nothing more of its body will leave. The outcome that waited for this is written.
    pub(crate) fn has_sent(&self) {
        let answered = {
            let mut sending = self.sending();
            match *sending {
                Sending::Going(answered) => {
                    *sending = Sending::Over;
                    answered
                }
                Sending::Over | Sending::Stopped(_) => None,
            }
        };
        answered.into_iter().for_each(|how| self.conclude(how));
    }

    /// Its body was stopped. Whoever reads the answer writes that down; after the answer it is written here.
    pub(crate) fn stopped(self: &Arc<Self>, denial: &Denial) {
        let answered = {
            let mut sending = self.sending();
            let answered = matches!(*sending, Sending::Going(Some(_)));
            *sending = if answered { Sending::Over } else { Sending::Stopped(denial.clone()) };
            answered
        };
        if answered {
            self.cut_off(denial.clone());
        }
    }

    /// The answer has ended, by itself or with its client; at most once.
    pub(crate) fn end(self: &Arc<Self>, how: Outcome) {
        let stopped = {
            let mut sending = self.sending();
            match &mut *sending {
                Sending::Over => None,
                Sending::Going(answered) => {
                    answered.get_or_insert(how);
                    return;
                }
                Sending::Stopped(denial) => Some(denial.clone()),
            }
        };
        match stopped {
            Some(_) if self.has_ended() => {}
            Some(denial) => drop(self.cut_off(denial)),
            None => self.conclude(how),
        }
    }
}

/// A refusal that waits for its turn to be told. Its client may be gone by then, and whoever would have told it with it: then
/// it is written here.
pub(crate) struct Untold<'a> {
    exchange: &'a Exchange,
    denial: Option<Denial>,
}

impl<'a> Untold<'a> {
    pub(crate) fn new(exchange: &'a Exchange, denial: &Denial) -> Untold<'a> {
        Untold { exchange, denial: Some(denial.clone()) }
    }

    /// Its turn has come: it is written, and told.
    pub(crate) fn told(mut self) {
        self.denial = None;
    }
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(denial) = self.denial.take() {
            self.exchange.refuse_unheard(denial);
        }
    }
}

impl Exchange {
    /// At the end of everything: what stopped its body, where nobody was left to write that down.
    pub(crate) fn write_untold(&self) {
        let stopped = match std::mem::take(&mut *self.sending()) {
            Sending::Stopped(denial) => Some(denial),
            Sending::Over | Sending::Going(_) => None,
        };
        if let Some(denial) = stopped.filter(|_| !self.has_ended()) {
            self.refuse_unheard(denial);
        }
    }
}
