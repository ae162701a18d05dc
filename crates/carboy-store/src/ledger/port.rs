//! What a ledger is kept in. One call of [`LedgerStore::commit`] is one batch: all of it is durable, or nothing of it is.
//!
//! *Must never* let anything of one database through: whoever keeps a ledger knows these types alone.

use std::sync::Arc;

use carboy_core::audit::Event;
use carboy_core::budget::{Both, CapEdit, CapKey, Reservation, ReservationId, Scope, Spent, TopUp, Usage};
use carboy_core::ids::MeterName;
use serde::{Deserialize, Serialize};

use crate::StoreError;

/// Most events that are read at once.
pub const EVENTS_MAX: usize = 1_000;
/// Most rows that a question about usage is answered with.
pub const USAGE_ROWS_MAX: usize = 10_000;

/// A process that holds tokens: a run's supervisor, and what tells it from another process of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its name in the ledger.
    pub id: u64,
    /// The run.
    pub run: String,
    /// Its bottle.
    pub bottle: String,
    /// Its agent, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The supervisor's process.
    pub pid: u32,
    /// When that was started, in the system's own units.
    pub start_time: u64,
    /// Which start of the machine it belongs to.
    pub boot_id: String,
}

/// A threshold of a cap that was passed: the person is told once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The cap.
    pub key: CapKey,
    /// How much it was then: of another amount it is another threshold.
    pub cap_milli: u64,
    /// Which part of it.
    pub percent: u8,
    /// When its window began; 0 where windows have no one beginning.
    pub since_ms: u64,
}

/// One thing to make durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A process says who it is.
    Owner {
        /// Who.
        owner: Owner,
        /// When.
        at_ms: u64,
    },
    /// It is gone, and everything of it was ended.
    OwnerEnded(u64),
    /// A request may have been sent.
    Dispatched(Reservation),
    /// More is held for a request that may have been sent.
    Extended {
        /// Which.
        id: ReservationId,
        /// How much in all.
        hold: Both,
        /// Output tokens of each answer that are held.
        held: u64,
    },
    /// It was not sent after all: whoever wanted to was told that this could not be written down.
    Withdrawn(ReservationId),
    /// It is over.
    Spent {
        /// What it cost.
        spent: Spent,
        /// When it ended.
        ended_ms: u64,
    },
    /// The operator set a cap.
    CapSet {
        /// Which.
        key: CapKey,
        /// To what.
        edit: CapEdit,
        /// When.
        at_ms: u64,
    },
    /// What the files say holds again.
    CapUnset(CapKey),
    /// The operator gave an amount on top.
    TopUp {
        /// Of which cap.
        key: CapKey,
        /// How much, and when.
        top_up: TopUp,
    },
    /// A threshold was passed.
    Marked(Mark),
    /// A threshold is no longer passed.
    Unmarked(Mark),
    /// Something was enforced, or has to stand in the log with what stands beside it.
    Event {
        /// When.
        at_ms: u64,
        /// What.
        event: Event,
    },
}

/// What one scope spent on one meter in one minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinuteSum {
    /// Who.
    pub scope: Scope,
    /// On what.
    pub meter: MeterName,
    /// When, in minutes since 1970.
    pub minute: u64,
    /// How much.
    pub charged: Both,
}

/// What one scope spent on one meter in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// By kind.
    pub usage: Usage,
    /// So much of what was charged is estimated.
    pub estimated: Both,
    /// Requests that ended.
    pub requests: u64,
}

/// Everything that a ledger is rebuilt from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// What was spent, by the minute.
    pub minutes: Vec<MinuteSum>,
    /// What was spent in all.
    pub totals: Vec<(Scope, MeterName, Total)>,
    /// Requests that may have been sent and did not end.
    pub dispatched: Vec<Reservation>,
    /// The processes that were there.
    pub owners: Vec<Owner>,
    /// The caps that the operator set.
    pub caps: Vec<(CapKey, CapEdit)>,
    /// What was given on top.
    pub top_ups: Vec<(CapKey, TopUp)>,
    /// Thresholds that were passed.
    pub marks: Vec<Mark>,
    /// The chains that anything was booked to, without their runs.
    pub places: Vec<Vec<Scope>>,
}

/// An event of the ledger with its number, which only grows.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberedEvent {
    /// Its number.
    pub number: u64,
    /// When it was written, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub event: Event,
}

/// What usage is told apart by, beside scope and meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// By model.
    Model,
    /// By day (UTC).
    Day,
}

/// A question about usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageQuery {
    /// Admitted at this moment or later, in milliseconds since 1970.
    #[serde(default)]
    pub since_ms: u64,
    /// Admitted before this one.
    #[serde(default)]
    pub until_ms: Option<u64>,
    /// Of this scope only.
    #[serde(default)]
    pub scope: Option<Scope>,
    /// What it is told apart by.
    #[serde(default)]
    pub by: Vec<By>,
}

/// A part of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Who.
    pub scope: Scope,
    /// On what.
    pub meter: MeterName,
    /// The model, if it was asked for and the request named one.
    pub model: Option<String>,
    /// The day, if it was asked for, in days since 1970 (UTC).
    pub day: Option<u64>,
    /// Requests that ended.
    pub requests: u64,
    /// By kind.
    pub usage: Usage,
    /// What was charged.
    pub charged: Both,
    /// So much of that is estimated.
    pub estimated: Both,
    /// So much of that is beyond what was held.
    pub overrun: Both,
}

/// Where a sum that is kept differs from the rows that it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Who.
    pub scope: Scope,
    /// On what.
    pub meter: MeterName,
    /// When, in minutes since 1970.
    pub minute: u64,
    /// As it is kept.
    pub kept: Both,
    /// As the rows say.
    pub rows: Both,
}

/// What keeps a ledger. It has one user, who calls it from one thread.
pub trait LedgerStore: Send {
    /// Makes all of it durable, or nothing. An error leaves it open what is on disk: the user calls
    /// [`recover`](Self::recover) and [`load`](Self::load) before anything else.
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError>;

    /// Its user has nothing to ask for a moment, and nobody waits for an answer: what has to be done at some time may be done
    /// now. It may not fail anything: what is not done is done later.
    fn rest(&mut self) {}

    /// Everything that a ledger is rebuilt from.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Whether this reservation was charged.
    fn ended(&mut self, id: ReservationId) -> Result<bool, StoreError>;

    /// After an error: is it the same store still, and can it write? Proves it by writing.
    fn recover(&mut self) -> Result<(), StoreError>;

    /// The oldest events that do not stand in the log yet, at most so many and [`EVENTS_MAX`].
    fn unprojected_events(&mut self, limit: usize) -> Result<Vec<NumberedEvent>, StoreError>;

    /// Those up to this number do.
    fn mark_projected(&mut self, up_to: u64) -> Result<(), StoreError>;

    /// What an operator should look at though it still works; `None` while all is well.
    fn alarm(&self) -> Option<String>;

    /// A way to ask it that does not hold up its user, from any thread.
    fn reader(&self) -> Arc<dyn LedgerReader>;
}

/// Questions about what was made durable.
pub trait LedgerReader: Send + Sync {
    /// Usage by scope and meter and what else was asked for, summed over the rows.
    fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError>;

    /// Where the sums that are kept differ from the rows; at most [`USAGE_ROWS_MAX`].
    fn differences(&self) -> Result<Vec<Difference>, StoreError>;
}

impl Total {
    /// With one more request.
    pub(super) fn and(self, spent: &Spent) -> Total {
        let estimated = if spent.estimated { spent.charged } else { Both::default() };
        self.plus(Total { usage: spent.usage, estimated, requests: 1 })
    }

    /// With more of them. A sum beyond all numbers is the largest there is.
    pub(super) fn plus(self, more: Total) -> Total {
        let sum = |a: u64, b: u64| a.saturating_add(b);
        let (old, new) = (self.usage, more.usage);
        Total {
            usage: Usage {
                input: sum(old.input, new.input),
                cache_write: sum(old.cache_write, new.cache_write),
                cache_read: sum(old.cache_read, new.cache_read),
                output: sum(old.output, new.output),
            },
            estimated: self.estimated.or_most(more.estimated),
            requests: sum(self.requests, more.requests),
        }
    }
}
