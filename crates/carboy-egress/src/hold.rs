//! What is held for one request, from its admission to its end.
//!
//! ```text
//!   admitted ──▶ dispatched ──▶ settled          the answer's side says what it cost
//!      │              │
//!      │              └─ dropped ─▶ settled      charged whole: nobody will ever know
//!      └─ dropped ─▶ released                    not a byte had left
//! ```
//!
//! A hold ends once, whatever becomes of its request: the one that is simply dropped (its client went away, its task was
//! ended) ends in a task of its own, which [`Gateway::settled`](crate::Gateway::settled) waits for. *Must never* end without
//! the ledger's being told, or release what may have been sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use carboy_core::audit::{Event, EventType, Outcome};
use carboy_core::budget::{Admitted, Ask, Counted, Ending, Granted, NotHeld, ReservationId, Usage};
use carboy_core::host::Host;
use carboy_core::ids::MeterName;
use carboy_core::ports::Ledger;
use carboy_core::verdict::{Denial, Reason};
use carboy_wire::demand::{Beyond, Demand};
use carboy_wire::format::WireFormat;

use crate::gateway::Gateway;
use crate::record::Exchange;

/// After how long a request that others' holds refused may be sent again, in seconds.
const BUSY_RETRY_S: u32 = 5;

/// See the module.
pub(crate) struct Hold {
    exchange: Arc<Exchange>,
    ask: Ask,
    granted: Granted,
    wire: Wire,
    stage: Stage,
    dispatched_at: Option<Instant>,
}

/// How the request is written, as far as its answer's reading depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) format: WireFormat,
    pub(crate) streams: Streams,
    /// The client did not ask for a chat's usage: it was asked for, and is taken out of what comes back.
    pub(crate) usage_asked_for: UsageAskedFor,
    pub(crate) unseen: Unseen,
}

/// Whether its model may write what no stream shows: the thinking of most models is billed, and hidden or summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unseen {
    Possible,
    Impossible,
    /// A tool of the provider's, or its compaction, has it read once more, and only a stream's end says how much.
    Reading,
}

impl Unseen {
    /// What a request asks for says it: only Anthropic's models have to be told to think.
    pub(crate) fn of(format: WireFormat, demand: &Demand) -> Unseen {
        if [Beyond::ProviderTool, Beyond::Compaction].iter().any(|what| demand.beyond.contains(what)) {
            return Unseen::Reading;
        }
        let shown = format == WireFormat::AnthropicMessages && !demand.thinks;
        if shown { Unseen::Impossible } else { Unseen::Possible }
    }
}

/// Whether the answer was asked for piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// It was.
    Yes,
    /// It comes as a whole.
    No,
}

/// Who asked for a stream's usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageAskedFor {
    /// The client, or nobody had to.
    ByClient,
    /// The gateway.
    ByGateway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has left.
    Open,
    /// Nothing has left; the ledger is being told that something may.
    Dispatching,
    /// Bytes may have left.
    Dispatched,
    /// The ledger knows how it ended, or is being told.
    Over,
}

/// How a request was charged, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charged {
    /// What the provider said.
    Reported,
    /// What could be counted.
    Estimated,
    /// All that was held.
    Whole,
    /// Nothing: nothing was billed.
    Nothing,
}

impl Charged {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Charged::Reported => "reported",
            Charged::Estimated => "estimated",
            Charged::Whole => "whole",
            Charged::Nothing => "nothing",
        }
    }
}

impl Hold {
    /// Asks the ledger. `Ok(None)`: the provider is to be asked for its count first.
    pub(crate) async fn admit(exchange: &Arc<Exchange>, ask: &Ask, wire: Wire) -> Result<Option<Hold>, Denial> {
        let ledger = exchange.gateway().ledger.clone();
        match ledger.admit(ask.clone()).await {
            Ok(Admitted::Held(granted)) => {
                let hold = Hold {
                    exchange: exchange.clone(),
                    ask: ask.clone(),
                    granted,
                    wire,
                    stage: Stage::Open,
                    dispatched_at: None,
                };
                hold.write_down();
                Ok(Some(hold))
            }
            Ok(Admitted::CountFirst) => Ok(None),
            Err(not_held) => Err(denial_of(not_held)),
        }
    }

    fn write_down(&self) {
        let gateway = self.exchange.gateway();
        self.exchange.holds(HeldFacts {
            meter: self.ask.meter.clone(),
            // Its request chose it.
            model: self.ask.model.as_ref().map(|model| gateway.clean(model)),
            reservation: format!("{:032x}", self.ask.id.0),
            input: self.ask.input,
            output: self.output_held(),
        });
    }

    fn ledger(&self) -> Arc<dyn Ledger> {
        self.exchange.gateway().ledger.clone()
    }

    pub(crate) fn gateway(&self) -> &Arc<Gateway> {
        self.exchange.gateway()
    }

    pub(crate) fn host(&self) -> &Host {
        self.exchange.host()
    }

    pub(crate) fn ask(&self) -> &Ask {
        &self.ask
    }

    /// How long its model may have been at work.
    pub(crate) fn since_dispatch(&self) -> Duration {
        self.dispatched_at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    pub(crate) fn wire(&self) -> Wire {
        self.wire
    }

    /// The output cap to write into the request; `None` where it goes as it was written.
    pub(crate) fn output_cap(&self) -> Option<u64> {
        self.granted.output
    }

    /// Output tokens that are held, of all answers together.
    pub(crate) fn output_held(&self) -> u64 {
        self.granted.held.saturating_mul(u64::from(self.ask.answers.max(1)))
    }

    /// Output tokens that may be had by asking for more.
    pub(crate) fn output_to_extend(&self) -> u64 {
        self.granted.output.map_or(0, |output| output.saturating_sub(self.granted.held))
    }

    /// Holds everything that its answer may write: one that comes whole cannot be followed on its way. What is not to be
    /// had is cut off the request.
    pub(crate) async fn hold_all(&mut self) {
        let Some(output) = self.granted.output.filter(|output| *output > self.granted.held) else { return };
        let held = self.ledger().extend(self.ask.id, output).await.unwrap_or(self.granted.held);
        self.granted = Granted { output: Some(output.min(held)), held };
        self.write_down();
    }

    /// More output for a stream on its way, up to `output` of each answer. What comes back is to be [`extended`](Self::extended).
    pub(crate) fn extend(&self, output: u64) -> impl Future<Output = Result<u64, NotHeld>> + Send + 'static {
        let (ledger, id) = (self.ledger(), self.ask.id);
        async move { ledger.extend(id, output).await }
    }

    /// What is held for each answer now.
    pub(crate) fn extended(&mut self, held: u64) {
        self.granted.held = self.granted.held.max(held);
        self.write_down();
    }

    /// What of each answer is held, and what it may be at most.
    pub(crate) fn granted(&self) -> Granted {
        self.granted
    }

    /// Makes it durable. A ledger that has forgotten the hold (it was started anew) is asked once more, with what is known
    /// of the request by now; `fits` judges what it grants then.
    pub(crate) async fn dispatch(&mut self, fits: impl Fn(&Hold) -> Result<(), Denial>) -> Result<(), Denial> {
        match self.dispatch_once().await {
            Ok(()) => return Ok(()),
            Err(NotHeld::Unknown) => self.stage = Stage::Over,
            Err(other) => return Err(denial_of(other)),
        }
        self.ask = Ask { id: new_id()?, counted: Counted::Final, ..self.ask.clone() };
        match self.ledger().admit(self.ask.clone()).await {
            Ok(Admitted::Held(granted)) => (self.granted, self.stage) = (granted, Stage::Open),
            Ok(Admitted::CountFirst) => return Err(forgotten()),
            Err(not_held) => return Err(denial_of(not_held)),
        }
        self.write_down();
        fits(self)?;
        self.dispatch_once().await.map_err(denial_of)
    }

    async fn dispatch_once(&mut self) -> Result<(), NotHeld> {
        self.stage = Stage::Dispatching;
        let dispatched = self.ledger().dispatch(self.ask.id).await;
        if dispatched.is_ok() {
            self.stage = Stage::Dispatched;
            self.dispatched_at = Some(Instant::now());
        }
        dispatched
    }

    /// Not a byte of the request left.
    pub(crate) fn unsent(mut self) {
        self.end_unsent();
    }

    fn end_unsent(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        if stage == Stage::Over {
            return;
        }
        self.exchange.charged(Usage::default(), Charged::Nothing);
        let (ledger, id) = (self.ledger(), self.ask.id);
        later(self.gateway(), async move {
            let released = stage != Stage::Dispatched && ledger.release(id).await.is_ok();
            if !released {
                // What was dispatched can only be settled, and what never left cost nothing.
                let _ = ledger.settle(id, Ending::Reported(Usage::default())).await;
            }
        });
    }

    /// Charges what it cost and gives the rest back.
    pub(crate) fn settle(mut self, ending: Ending) {
        self.end(ending);
    }

    fn end(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.stage, Stage::Over) == Stage::Over {
            return;
        }
        let (usage, charged) = match ending {
            Ending::Reported(usage) if usage == Usage::default() => (usage, Charged::Nothing),
            Ending::Reported(usage) => (usage, Charged::Reported),
            Ending::Estimated(usage) => (usage, Charged::Estimated),
            Ending::Unknown(usage) => (usage, Charged::Whole),
        };
        self.exchange.charged(usage, charged);
        let (ledger, id, gateway) = (self.ledger(), self.ask.id, self.gateway().clone());
        later(self.gateway(), async move {
            if let Err(error) = ledger.settle(id, ending).await {
                // Its hold stands, and is charged whole by whoever finds it: never too little.
                let event = Event::new(EventType::Budget, gateway.subject.clone(), "settle", Outcome::Failed)
                    .with("reservation", format!("{:032x}", id.0))
                    .with("detail", error.to_string());
                let _ = gateway.audit.append(event);
            }
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        match self.stage {
            Stage::Open | Stage::Dispatching => self.end_unsent(),
            Stage::Dispatched => self.end(Ending::Unknown(Usage::default())),
            Stage::Over => {}
        }
    }
}

/// Does what is left to do in a task of its own, which the gateway's end waits for. Without a runtime the process is
/// ending: its owner's holds are charged whole then.
pub(crate) fn later(gateway: &Arc<Gateway>, work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let open = gateway.unsettled();
        runtime.spawn(async move {
            work.await;
            drop(open);
        });
    }
}

/// A reservation's name, from the system's own randomness.
pub(crate) fn new_id() -> Result<ReservationId, Denial> {
    let mut bits = [0_u8; 16];
    getrandom::fill(&mut bits).map_err(|error| {
        Denial::new(Reason::LedgerUnavailable, format!("no random name for a reservation: {error}"))
    })?;
    Ok(ReservationId(u128::from_le_bytes(bits)))
}

fn forgotten() -> Denial {
    Denial::new(Reason::LedgerUnavailable, "it forgot what it had just held")
}

/// The refusal that a ledger's no asks for.
pub(crate) fn denial_of(not_held: NotHeld) -> Denial {
    let words = not_held.to_string();
    match not_held {
        NotHeld::Exhausted(_) => Denial::new(Reason::BudgetExhausted, words),
        NotHeld::Busy(_) => Denial { retry_after_s: Some(BUSY_RETRY_S), ..Denial::new(Reason::BudgetHeld, words) },
        NotHeld::Absurd => Denial::new(Reason::RequestUnbounded, words),
        NotHeld::Unknown => forgotten(),
        NotHeld::Unavailable(_) => Denial::new(Reason::LedgerUnavailable, words),
    }
}

/// What is held for a request, so that log and ledger can be compared.
pub(crate) struct HeldFacts {
    pub(crate) meter: MeterName,
    pub(crate) model: Option<String>,
    /// Its name at the ledger, in hex.
    pub(crate) reservation: String,
    pub(crate) input: u64,
    /// Of all its answers together.
    pub(crate) output: u64,
}

impl HeldFacts {
    pub(crate) fn in_event(&self, event: Event) -> Event {
        let event = event
            .with("meter", self.meter.as_str())
            .with("reservation", self.reservation.clone())
            .with("held_input", self.input)
            .with("held_output", self.output);
        match &self.model {
            Some(model) => event.with("model", model.clone()),
            None => event,
        }
    }
}
