//! The responses of one WebSocket: each held before its request leaves, metered by its messages, settled at its end.
//!
//! *Must never* have two responses under way at once: which of them a message belongs to is the provider's to say, and a
//! hold that is settled by another's usage is no hold.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use carboy_core::audit::Outcome;
use carboy_core::verdict::{Denial, Reason};
use carboy_wire::socket::{Asks, NotPassed, Says, asks, said};

use crate::metering::{End, Metered};
use crate::record::Exchange;
use crate::reserve::Target;

/// Responses whose length is remembered, so that going on from one is not held as the model's whole context.
const KNOWN_MAX: usize = 64;

/// See the module.
pub(super) struct Responses {
    target: Arc<Target>,
    path: String,
    /// Tokens of the latest responses, by their names.
    known: VecDeque<(String, u64)>,
    active: Option<Active>,
    /// The client sent something beside requests since a response last flowed: an error may be the answer to that.
    doubt: bool,
}

/// The one that is under way.
struct Active {
    exchange: Arc<Exchange>,
    metered: Metered,
    /// The provider has said something of it.
    begun: bool,
}

/// What is done with a client's message.
pub(super) enum Next {
    /// It goes on.
    Send(Bytes),
    /// It asks for a response, and this is the record of that.
    Create,
    /// The connection ends with it: nobody here knows what it would cost.
    Close(Denial),
    /// It is answered with an error.
    Refuse(Denial),
}

impl Responses {
    pub(super) fn new(target: Arc<Target>, path: String) -> Responses {
        Responses { target, path, known: VecDeque::new(), active: None, doubt: false }
    }

    /// Looks at a message that was scanned.
    pub(super) fn look(&mut self, message: &Bytes) -> Next {
        match asks(message) {
            Ok(Asks::Nothing) => {
                self.doubt = true;
                Next::Send(message.clone())
            }
            Ok(Asks::Create) if self.active.is_some() => {
                let detail = "one response at a time on a WebSocket; wait for its end, or open another one";
                Next::Refuse(Denial::new(Reason::RequestUnbounded, detail))
            }
            Ok(Asks::Create) => Next::Create,
            Err(refused @ NotPassed::Unknown(_)) => Next::Close(Denial::new(Reason::Unmeterable, refused.to_string())),
            Err(refused @ (NotPassed::Malformed | NotPassed::Nested)) => {
                Next::Refuse(Denial::new(Reason::RequestUnbounded, refused.to_string()))
            }
        }
    }

    /// Holds what the message asks for; gives it as it may be sent.
    pub(super) async fn create(&mut self, exchange: &Arc<Exchange>, message: Bytes) -> Result<Bytes, Denial> {
        exchange.placed()?;
        let known = |name: &str| self.known.iter().find(|(known, _)| known == name).map(|(_, tokens)| *tokens);
        let sendable = self.target.hold_message(exchange, &self.path, message, known).await?;
        exchange.sent.fetch_add(sendable.message.len() as u64, Ordering::Relaxed);
        let metered = Metered::of_messages(sendable.hold);
        self.active = Some(Active { exchange: exchange.clone(), metered, begun: false });
        Ok(sendable.message)
    }

    /// The record of the response that is under way.
    pub(super) fn exchange(&self) -> Option<&Arc<Exchange>> {
        self.active.as_ref().map(|active| &active.exchange)
    }

    /// Reads what the provider sent, before the client gets it.
    pub(super) fn read(&mut self, message: &[u8]) {
        if let Some(active) = &mut self.active {
            active.metered.read_message(message);
        }
    }

    /// The client was sent this; settles where it was the end. An error ends the connection: what comes over it is not known
    /// to be paid for.
    pub(super) fn told(&mut self, original: &[u8], shown: &[u8]) -> Result<(), Denial> {
        let Some(active) = &mut self.active else {
            let unasked = || Denial::new(Reason::Unmeterable, "the provider answers what nothing is held for");
            return if said(original).flows { Err(unasked()) } else { Ok(()) };
        };
        active.exchange.received.fetch_add(shown.len() as u64, Ordering::Relaxed);
        active.metered.told(shown);
        let said = said(original);
        match said.says {
            Says::GoesOn if said.flows => (active.begun, self.doubt) = (true, false),
            Says::GoesOn => {}
            Says::Ends => {
                let Some(active) = self.active.take() else { return Ok(()) };
                if let Some(name) = said.response {
                    self.remember(name, active.metered.length());
                }
                active.metered.end(End::Whole);
                active.exchange.end(Outcome::Done);
            }
            Says::Error => {
                let Some(Active { exchange, metered, begun }) = self.active.take() else { return Ok(()) };
                // Provoked by another message, it would have a response go on unpaid.
                let doubtful = self.doubt && !said.elsewhere;
                if begun || doubtful {
                    metered.end(End::Broken)
                } else {
                    metered.not_taken()
                }
                exchange.end(Outcome::Failed);
                if doubtful {
                    let detail = "the provider's error may be about another message than the request for a response";
                    return Err(Denial::new(Reason::Unmeterable, detail));
                }
            }
        }
        Ok(())
    }

    fn remember(&mut self, name: String, tokens: u64) {
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back((name, tokens));
    }

    /// Sees to it that enough is held for the response to go on.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Denial>> {
        match &mut self.active {
            Some(active) => active.metered.poll_room(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Ends what is under way; gives the messages that tell its client.
    pub(super) fn cut(&mut self, denial: &Denial) -> Vec<String> {
        let Some(Active { exchange, metered, .. }) = self.active.take() else { return Vec::new() };
        exchange.cut_off(denial.clone());
        metered.cut_messages(denial)
    }

    /// One side is gone: what was seen is charged.
    pub(super) fn broken(&mut self) {
        if let Some(Active { exchange, metered, .. }) = self.active.take() {
            metered.end(End::Broken);
            exchange.end(Outcome::Failed);
        }
    }
}
