//! What the book is asked, what it answers, and the rows that make its steps durable.

use serde::{Deserialize, Serialize};

use super::TRANCHE_TOKENS;
use crate::budget::ask::{Binding, Counted, Granted};
use crate::budget::caps::{Cap, Scope};
use crate::budget::law::Worst;
use crate::budget::terms::{Gate, Overrun};
use crate::budget::usage::{Amount, Count, Usage};
use crate::ids::MeterName;

/// One reservation, named by whoever makes it, so that asking twice is asking once. Written as 32 hex digits: as a number it
/// would be cut short by readers of JSON that know no such large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReservationId(pub u128);

impl TryFrom<String> for ReservationId {
    type Error = NoReservationId;

    fn try_from(text: String) -> Result<ReservationId, NoReservationId> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = digits.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        number.map(ReservationId).ok_or(NoReservationId)
    }
}

impl From<ReservationId> for String {
    fn from(id: ReservationId) -> String {
        format!("{:032x}", id.0)
    }
}

/// Not the name of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a reservation is 32 hex digits in lower case")]
pub struct NoReservationId;

/// An amount in both ways of counting: a cap may be changed from one to the other at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Both {
    /// Counted [`Count::Weighted`].
    pub weighted: Amount,
    /// Counted [`Count::Raw`].
    pub raw: Amount,
}

impl Both {
    /// Of a usage; `None` where a count is beyond any request.
    pub fn of(usage: &Usage) -> Option<Both> {
        Some(Both { weighted: usage.weighs(Count::Weighted)?, raw: usage.weighs(Count::Raw)? })
    }

    /// In one way of counting.
    pub fn by(&self, count: Count) -> Amount {
        match count {
            Count::Weighted => self.weighted,
            Count::Raw => self.raw,
        }
    }

    /// The sum. One beyond all numbers is the largest there is: every cap is exhausted by it.
    pub fn or_most(self, other: Both) -> Both {
        let sum = |a: Amount, b: Amount| a.plus(b).unwrap_or(Amount::milli(u64::MAX));
        Both { weighted: sum(self.weighted, other.weighted), raw: sum(self.raw, other.raw) }
    }

    /// The difference in each way of counting, or nothing.
    pub fn less(self, other: Both) -> Both {
        Both { weighted: self.weighted.less(other.weighted), raw: self.raw.less(other.raw) }
    }

    /// The larger in each way of counting.
    pub fn larger(self, other: Both) -> Both {
        Both { weighted: self.weighted.max(other.weighted), raw: self.raw.max(other.raw) }
    }
}

/// Where a reservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Held; nothing has been sent.
    Open,
    /// It may have been sent.
    Dispatched,
}

/// What is held for one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Its name.
    pub id: ReservationId,
    /// Who made it; everything of an owner that is gone is ended together.
    pub owner: u64,
    /// What is metered.
    pub meter: MeterName,
    /// The model, as the request named it.
    pub model: Option<String>,
    /// Whom it is booked to.
    pub chain: Vec<Scope>,
    /// When it was admitted, in milliseconds since 1970: the window it counts in.
    pub at_ms: u64,
    /// What it may cost when nothing is lowered.
    pub worst: Worst,
    /// How much is held.
    pub hold: Both,
    /// What was granted.
    pub granted: Granted,
    /// How far it is.
    pub stage: Stage,
}

/// What a request wants to be admitted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its name.
    pub id: ReservationId,
    /// Who asks.
    pub owner: u64,
    /// What is metered.
    pub meter: MeterName,
    /// The model, as the request named it.
    pub model: Option<String>,
    /// Whom it is booked to, nearest first.
    pub chain: Vec<Scope>,
    /// The caps that bind it.
    pub caps: Vec<Cap>,
    /// What it may cost.
    pub worst: Worst,
    /// How sure its input is.
    pub counted: Counted,
    /// When it is measured.
    pub gate: Gate,
    /// How much of its output is held.
    pub overrun: Overrun,
    /// How many others wait for the same room.
    pub waiting: u32,
    /// Now.
    pub at_ms: u64,
}

impl Admission {
    /// What of its worst case is held at first.
    pub(super) fn at_first(&self) -> Worst {
        match self.overrun {
            Overrun::Exact => self.worst,
            Overrun::Bounded => Worst { output: self.worst.output.min(TRANCHE_TOKENS), ..self.worst },
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is held.
    Held(Granted),
    /// Nothing is held: a cap is near, and the provider can tell how near.
    CountFirst,
    /// Nothing is held: what is held by others is in the way.
    Wait(Binding),
    /// Nothing is held: what was spent is in the way.
    Exhausted(Binding),
    /// Nothing is held: the numbers are beyond any request.
    Absurd,
}

/// What it really cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// In tokens.
    pub usage: Usage,
    /// The provider did not say all of it.
    pub estimated: bool,
}

/// A step to make durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A reservation was made.
    Held(Reservation),
    /// It may have been sent from now on.
    Dispatched(ReservationId),
    /// More is held for it.
    Extended {
        /// Which.
        id: ReservationId,
        /// How much in all.
        hold: Both,
        /// Output tokens of each answer that are held.
        held: u64,
    },
    /// Nothing was sent; nothing is held any more.
    Released(ReservationId),
    /// It is over.
    Spent(Spent),
}

/// What was spent by one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Its reservation.
    pub id: ReservationId,
    /// Who made it.
    pub owner: u64,
    /// What was metered.
    pub meter: MeterName,
    /// The model, as the request named it.
    pub model: Option<String>,
    /// Whom it was booked to.
    pub chain: Vec<Scope>,
    /// The window it counts in: when it was admitted.
    pub at_ms: u64,
    /// How much, as it is charged.
    pub charged: Both,
    /// In tokens, as far as they are known.
    pub usage: Usage,
    /// The provider did not say all of it.
    pub estimated: bool,
    /// More than was held: the provider did not keep to its own bound.
    pub overrun: Both,
}

/// Why a step cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// Nothing is held under that name: it was never admitted, or is over.
    #[error("no such reservation: it was never made, or is over")]
    Unknown,
    /// It may have been sent: it can only be settled.
    #[error("the reservation may have been sent: it has to be settled")]
    Sent,
    /// It was not dispatched: nothing can have been spent.
    #[error("the reservation was not dispatched: nothing can have been spent")]
    NotSent,
    /// More than any request can cost.
    #[error("the usage is more than any request can cost")]
    Absurd,
}
