//! Step 7: what an answer cost, read from the answer itself while it passes, and told to the ledger once.
//!
//! ```text
//! decoded bytes ─▶ Meter ──────────────────────────────▶ Ending ─▶ Hold::settle
//! cleared bytes ─▶ UsageFilter ─▶ Follower ─▶ client        ▲
//!                                                           │ its end │ broke off │ client gone: read on for its end
//! ```
//!
//! | how it ended | charged |
//! |---|---|
//! | whole, and it says what it cost | that |
//! | whole, with an error's status | what it says; nothing where it says nothing and has no model's words: providers do not bill errors |
//! | broken off, cut, or its client gone | what was reported, else counted, with what may have been written meanwhile; where a model may think unseen, what it may have thought in its time |
//! | nothing seen, nothing said, or not to be believed | all that is held |
//!
//! *Must never* charge nothing for an answer that may have cost something, or less than was seen.

mod socket;

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use carboy_core::budget::{Ending, NotHeld, Usage};
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::Inflate;
use carboy_wire::closing::Follower;
use carboy_wire::estimate::Class;
use carboy_wire::filter::UsageFilter;
use carboy_wire::format::WireFormat;
use carboy_wire::meter::{Meter, Reading, Reported, Shape};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::answer::Parts;
use crate::hold::{Hold, Streams, Unseen, UsageAskedFor, denial_of, later};
use crate::limits::GatewayLimits;

/// Tokens that a model may have written between the last that was seen and the end of its stream.
const TAIL_TOKENS_MIN: u64 = 32;
/// And this part of those seen, if that is more: one in seven (14 % beyond what was delivered was once measured).
const TAIL_PART: u64 = 7;
/// A stream is refused more output this many tokens before what is held runs out: those are on their way by then.
const CUT_SLACK_TOKENS: u64 = 32;
/// A provider that goes so much beyond the bound that it was sent (one in four, and a few) does not keep to it: pieces that
/// came are counted here, and each has a token or more.
const OVERSTEP_PART: u64 = 4;
/// The few.
const OVERSTEP_TOKENS_MIN: u64 = 64;
/// No error is longer than this, in bytes: what is, is an answer under a false name.
const ERROR_BYTES_MAX: u64 = 64 * 1024;
/// More output is asked for when a quarter of the first tranche is left of what is held.
const EXTEND_PART: u64 = 4;

/// Whether an answer's bytes reach the client in a form that can be ended by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As text.
    Plain,
    /// In their content coding.
    Coded,
}

/// How an answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself.
    Whole,
    /// Before its end.
    Broken,
}

/// Meters one answer on its way.
pub(crate) struct Metered {
    hold: Hold,
    meter: Meter,
    status: StatusCode,
    /// Decoded bytes that were read.
    taken: u64,
    filter: Option<UsageFilter>,
    follower: Option<Follower>,
    tranche: Option<Tranche>,
}

/// A ledger that is asked for more.
type Asking = Pin<Box<dyn Future<Output = Result<u64, NotHeld>> + Send>>;

/// A stream of which only a part is held.
struct Tranche {
    /// What was held of each answer at first; so much more is asked for at a time.
    step: u64,
    asking: Option<Asking>,
    refused: Option<Denial>,
}

impl Metered {
    pub(crate) fn new(hold: Hold, status: StatusCode, parts: Parts, form: Form) -> Metered {
        let wire = hold.wire();
        let shape = match (parts, wire.streams) {
            (Parts::Events, _) => Shape::Events,
            // Gemini's streams without `alt=sse`; whatever else was asked to stream and does not is an error.
            (Parts::One, Streams::Yes) if wire.format == WireFormat::Gemini && status.is_success() => Shape::List,
            (Parts::One, Streams::Yes | Streams::No) => Shape::Whole,
        };
        let streams = shape != Shape::Whole && status.is_success() && form == Form::Plain;
        let filter = (shape == Shape::Events && streams && wire.usage_asked_for == UsageAskedFor::ByGateway)
            .then(UsageFilter::new);
        let follower = if streams { Follower::new(wire.format, shape) } else { None };
        let step = hold.granted().held.max(1);
        let tranche = (hold.output_to_extend() > 0).then_some(Tranche { step, asking: None, refused: None });
        Metered { meter: Meter::new(wire.format, shape), hold, status, taken: 0, filter, follower, tranche }
    }

    /// Something is put into the stream or taken out of it: its length is not the upstream's.
    pub(crate) fn changes_length(&self) -> bool {
        self.filter.is_some() || self.follower.is_some()
    }

    /// Reads what the provider sent.
    pub(crate) fn read(&mut self, decoded: &[u8]) {
        self.taken = self.taken.saturating_add(decoded.len() as u64);
        self.meter.feed(decoded);
    }

    /// What of cleared bytes the client gets.
    pub(crate) fn shown(&mut self, cleared: Bytes) -> Bytes {
        let bytes = match &mut self.filter {
            None => cleared,
            Some(filter) => {
                let mut out = Vec::with_capacity(cleared.len());
                filter.feed(&cleared, &mut out);
                Bytes::from(out)
            }
        };
        if let Some(follower) = &mut self.follower {
            follower.feed(&bytes);
        }
        bytes
    }

    /// What is left for the client at the end.
    pub(crate) fn rest(&mut self) -> Bytes {
        let mut out = Vec::new();
        if let Some(filter) = &mut self.filter {
            filter.end(&mut out);
        }
        Bytes::from(out)
    }

    /// Ends it here: tells the ledger, and gives what ends the client's stream by its protocol; nothing for an answer that
    /// has no such end.
    pub(crate) fn cut(mut self, denial: &Denial) -> Option<Bytes> {
        let closing = self.follower.take().map(|mut follower| {
            let (Ending::Reported(usage) | Ending::Estimated(usage) | Ending::Unknown(usage)) =
                self.ending(&self.meter.reading(), End::Broken);
            follower.costs(usage);
            Bytes::from(follower.close(&format!("carboy: {denial}")))
        });
        self.end(End::Broken);
        closing
    }

    /// Output tokens as far as they can be told by now.
    fn observed(&self, reading: &Reading) -> u64 {
        let model = self.hold.ask().model.as_deref();
        let calibration = self.hold.gateway().calibration.lock().expect("no panic under this lock");
        reading.usage.output.max(calibration.output(model, reading.written_bytes, reading.deltas))
    }

    /// Sees to it that more is held before the stream gets there. Pending while what is held is used up and the answer
    /// is not there; an error where the stream has to end.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Denial>> {
        let reading = self.meter.reading();
        self.keeps_to_its_bound(&reading)?;
        if self.tranche.is_none() {
            return Poll::Ready(Ok(()));
        }
        let observed = self.observed(&reading);
        loop {
            let held = self.hold.output_held();
            let Some(tranche) = self.tranche.as_mut() else { return Poll::Ready(Ok(())) };
            let used_up = observed.saturating_add(CUT_SLACK_TOKENS) >= held;
            if let Some(asking) = tranche.asking.as_mut() {
                match asking.as_mut().poll(cx) {
                    Poll::Ready(answer) => {
                        tranche.asking = None;
                        match answer {
                            Ok(now) => self.hold.extended(now),
                            Err(not_held) => tranche.refused = Some(denial_of(not_held)),
                        }
                        continue;
                    }
                    Poll::Pending if used_up => return Poll::Pending,
                    Poll::Pending => return Poll::Ready(Ok(())),
                }
            }
            if let Some(denial) = &tranche.refused {
                return Poll::Ready(if used_up { Err(denial.clone()) } else { Ok(()) });
            }
            if self.hold.output_to_extend() == 0 || observed.saturating_add(tranche.step / EXTEND_PART) < held {
                return Poll::Ready(Ok(()));
            }
            let granted = self.hold.granted();
            let most = granted.output.unwrap_or(granted.held);
            tranche.asking = Some(Box::pin(self.hold.extend(granted.held.saturating_add(tranche.step).min(most))));
        }
    }

    /// A provider may not know the bound, or not care.
    fn keeps_to_its_bound(&self, reading: &Reading) -> Result<(), Denial> {
        let Some(output) = self.hold.output_cap() else { return Ok(()) };
        let bound = output.saturating_mul(u64::from(self.hold.ask().answers.max(1)));
        let written = reading.usage.output.max(reading.deltas);
        if written <= bound.saturating_add(bound / OVERSTEP_PART).saturating_add(OVERSTEP_TOKENS_MIN) {
            return Ok(());
        }
        let detail = format!("the provider wrote {written} tokens and was allowed {bound}");
        Err(Denial::new(Reason::BudgetExhausted, detail))
    }

    /// Tells the ledger.
    pub(crate) fn end(self, end: End) {
        let reading = self.meter.reading();
        let ending = self.ending(&reading, end);
        if let (Ending::Reported(usage), true) = (ending, reading.written_bytes > 0) {
            let mut calibration = self.hold.gateway().calibration.lock().expect("no panic under this lock");
            calibration.learn(self.hold.ask().model.as_deref(), Class::Written, reading.written_bytes, usage.output);
        }
        if let Some(name) = self.meter.name() {
            let mut lengths = self.hold.gateway().lengths.lock().expect("no panic under this lock");
            lengths.remember(self.hold.host(), name, self.length());
        }
        self.hold.settle(ending);
    }

    fn ending(&self, reading: &Reading, end: End) -> Ending {
        let seen = if reading.usage.total().is_some() { reading.usage } else { Usage::default() };
        if reading.implausible || seen != reading.usage {
            return Ending::Unknown(seen);
        }
        let wrote = reading.written_bytes > 0 || reading.deltas > 0;
        match (end, self.status.is_success(), reading.reported) {
            // No model writes without having read.
            (End::Whole, _, Reported::Complete) if wrote && seen.read() == 0 => Ending::Unknown(seen),
            (End::Whole, _, Reported::Complete) => Ending::Reported(seen),
            (End::Whole, false, Reported::Never) if !wrote && self.taken <= ERROR_BYTES_MAX => Ending::Reported(seen),
            (End::Whole, _, Reported::Never) => Ending::Unknown(seen),
            (End::Whole, _, Reported::Partly) | (End::Broken, _, _) => self.estimate(reading, seen),
        }
    }

    fn estimate(&self, reading: &Reading, seen: Usage) -> Ending {
        // Some say zeros until the end. What was read is not known then: a provider's count before is off by the margin.
        let tools = self.hold.wire().unseen == Unseen::Reading;
        if reading.reported == Reported::Never || seen.read() == 0 || tools {
            return Ending::Unknown(seen);
        }
        let observed = self.observed(reading);
        let with_tail = observed.saturating_add(TAIL_TOKENS_MIN.max(observed / TAIL_PART));
        let ask = self.hold.ask();
        let most = match self.hold.output_cap() {
            Some(_) => self.hold.output_held(),
            None => ask.output.saturating_mul(u64::from(ask.answers.max(1))),
        };
        let written = with_tail.saturating_add(self.unseen()).min(most);
        Ending::Estimated(Usage { output: written.max(seen.output), ..seen })
    }

    /// What may have been thought unseen: it is billed like what is seen, and an agent chooses when its stream breaks off.
    /// No more than the fastest model writes in the time that it had.
    fn unseen(&self) -> u64 {
        match self.hold.wire().unseen {
            Unseen::Impossible => 0,
            Unseen::Possible | Unseen::Reading => {
                let had_ms = u64::try_from(self.hold.since_dispatch().as_millis()).unwrap_or(u64::MAX);
                let each = had_ms.saturating_mul(self.hold.gateway().limits.unseen_tokens_per_s) / 1000;
                each.saturating_mul(u64::from(self.hold.ask().answers.max(1)))
            }
        }
    }

    /// Its client went away: what has arrived by now is read for its end, and then the ledger is told.
    pub(crate) fn gone(mut self, source: Option<Incoming>, decoder: Option<Inflate>, rest: Bytes) {
        let gateway = self.hold.gateway().clone();
        later(&gateway.clone(), async move {
            let end = match source {
                Some(body) => self.read_on(body, decoder, rest, &gateway.limits).await,
                None => End::Broken,
            };
            self.end(end);
        });
    }

    async fn read_on(
        &mut self,
        mut body: Incoming,
        mut decoder: Option<Inflate>,
        rest: Bytes,
        limits: &GatewayLimits,
    ) -> End {
        let until = Instant::now() + limits.drain;
        let mut taken = 0;
        let mut piece = Some(rest);
        while taken <= limits.drain_bytes_max {
            if let Some(data) = piece.take() {
                taken += data.len();
                if self.decode(&data, decoder.as_mut()).is_err() {
                    return End::Broken;
                }
            }
            match timeout_at(until, body.frame()).await {
                Ok(Some(Ok(frame))) => piece = frame.into_data().ok(),
                Ok(None) => return End::Whole,
                Ok(Some(Err(_))) | Err(_) => return End::Broken,
            }
        }
        End::Broken
    }

    fn decode(&mut self, mut data: &[u8], decoder: Option<&mut Inflate>) -> Result<(), carboy_guard::InflateError> {
        let Some(decoder) = decoder else {
            self.read(data);
            return Ok(());
        };
        let mut decoded = Vec::new();
        loop {
            decoded.clear();
            let step = decoder.push(data, &mut decoded)?;
            self.read(&decoded);
            data = &data[step.consumed..];
            if !step.more {
                return Ok(());
            }
        }
    }
}
