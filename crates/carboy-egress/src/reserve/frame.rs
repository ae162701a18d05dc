//! Step 4 for a message of a WebSocket that asks for a response: held, made durable, bounded, each on its own.

use std::sync::Arc;

use bytes::Bytes;
use carboy_core::budget::{Ask, Counted};
use carboy_core::verdict::{Denial, Reason};
use carboy_wire::demand::Demand;
use carboy_wire::format::WireFormat;

use super::{
    Bound, Costless, Credentialed, Dispatched, Held, Kind, Metering, RESPONSES_OUTPUT_MIN, Reserved, Target, Unmetered,
    Use, fits, model_of,
};
use crate::hold::{Hold, Streams, Unseen, UsageAskedFor, Wire};
use crate::outbound::Scanned;
use crate::record::Exchange;

/// A message that may be sent, and what is held for it: durable.
pub(crate) struct Sendable {
    pub(crate) hold: Hold,
    pub(crate) message: Bytes,
}

impl Target {
    /// Are these the messages that are metered one by one?
    pub(crate) fn is_responses(&self) -> bool {
        (self.format, self.kind) == (WireFormat::OpenAiResponses, Kind::Generate)
    }

    /// Holds what one message asks for. `earlier` gives the tokens of a response of this connection by its name: to go on
    /// from one that is known costs what it has, and from another one the model's whole context.
    pub(crate) async fn hold_message(
        &self,
        exchange: &Arc<Exchange>,
        path: &str,
        message: Bytes,
        earlier: impl Fn(&str) -> Option<u64>,
    ) -> Result<Sendable, Denial> {
        let mut demand = Demand::read(self.format, path, &message)
            .map_err(|error| Denial::new(Reason::RequestUnbounded, error.to_string()))?;
        let known = demand.previous.as_deref().and_then(earlier);
        let mut bound = Bound::going_on(known, self, &mut demand, &message, exchange.gateway())?;
        if !demand.generates {
            // It is only made ready; should the provider answer all the same, it is told the least bound that it takes.
            bound.output = bound.output.min(RESPONSES_OUTPUT_MIN);
        }
        // Nobody counts what a connection has: the bound is final.
        let ask = Ask { counted: Counted::Final, ..bound.ask(self, model_of(path, &demand), &demand)? };
        let (format, unseen) = (self.format, Unseen::of(self.format, &demand));
        let wire = Wire { format, streams: Streams::Yes, usage_asked_for: UsageAskedFor::ByClient, unseen };
        let never = || Denial::new(Reason::LedgerUnavailable, "it asks for a count that was given");
        let hold =
            Hold::admit(exchange, &ask, wire).await.map_err(|denial| bound.explain(denial))?.ok_or_else(never)?;
        fits(&hold, &demand)?;
        let mut held = Held { hold, kind: self.kind, demand, body: message };
        let Held { hold, demand, .. } = &mut held;
        exchange.allow()?; // the intent is in the chain before a byte leaves
        hold.dispatch(|hold| fits(hold, demand)).await?;
        let message = held.body_to_send();
        Ok(Sendable { hold: held.hold, message })
    }
}

impl Scanned {
    /// What it is to the meter.
    pub(crate) fn take_use(&mut self) -> Use {
        std::mem::replace(&mut self.used, Use::Unmetered(Unmetered(Costless::Opening)))
    }

    /// The opening of a WebSocket costs nothing; what it is opened for is held message by message.
    pub(crate) fn for_opening(self) -> Reserved {
        Reserved { scanned: self, metering: Metering::Unmetered(Unmetered(Costless::Opening)) }
    }
}

impl Credentialed {
    /// The opening as it is written.
    pub(crate) fn opening(self) -> Dispatched {
        self.aside()
    }
}
