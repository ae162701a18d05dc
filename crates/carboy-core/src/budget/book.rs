//! The book of one host: what was spent, what is held, and every step of a reservation.
//!
//! ```text
//!            ┌─ released                       nothing had been sent
//!   open ────┤
//!            └─ dispatched ─┬─ settled         the provider said what it cost
//!                           └─ charged whole   nobody will ever know
//! ```
//!
//! The book decides and gives the [`Row`]s that make the step durable; whoever keeps it writes them before it answers,
//! and rebuilds the book from them after a crash. The same book is the ledger in memory that others are compared with.
//!
//! *Must never* release what may have been sent, settle twice, or count a hold in another window than its admission's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::caps::{Cap, Scope};
use super::law::{Decision, Standing, Worst, decide};
use super::usage::{Amount, Count, Usage};
use super::window::Window;
use crate::ids::MeterName;

/// Spending is kept by the minute: a rolling window is exact to that.
pub const GRAIN_MS: u64 = 60_000;

/// One reservation, named by whoever makes it, so that asking twice is asking once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReservationId(pub u128);

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

    fn plus(self, other: Both) -> Option<Both> {
        Some(Both { weighted: self.weighted.plus(other.weighted)?, raw: self.raw.plus(other.raw)? })
    }

    fn less(self, other: Both) -> Both {
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
    /// Whom it is booked to.
    pub chain: Vec<Scope>,
    /// When it was admitted, in milliseconds since 1970: the window it counts in.
    pub at_ms: u64,
    /// How much.
    pub hold: Both,
    /// The output cap that was granted to each answer.
    pub output: u64,
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
    /// Whom it is booked to, nearest first.
    pub chain: Vec<Scope>,
    /// The caps that bind it.
    pub caps: Vec<Cap>,
    /// What it may cost.
    pub worst: Worst,
    /// How many others wait for the same room.
    pub waiting: u32,
    /// Now.
    pub at_ms: u64,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Row {
    /// A reservation was made.
    Held(Reservation),
    /// It may have been sent from now on.
    Dispatched(ReservationId),
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
    /// What was metered.
    pub meter: MeterName,
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

type Line = (Scope, MeterName);

/// The book.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// What was spent, by whom, on what, in which minute.
    spent: BTreeMap<Line, BTreeMap<u64, Both>>,
    /// And in all.
    total: BTreeMap<Line, Both>,
    reservations: BTreeMap<ReservationId, Reservation>,
}

impl Book {
    /// How a cap stands for a meter now.
    pub fn standing(&self, cap: &Cap, meter: &MeterName, now_ms: u64) -> Standing {
        let since = cap.window.since_ms(now_ms);
        Standing {
            cap: cap.amount,
            spent: self.spent_since(&cap.scope, meter, &cap.window, since).by(cap.count),
            held: self.held_since(&cap.scope, meter, since).by(cap.count),
            count: cap.count,
        }
    }

    fn spent_since(&self, scope: &Scope, meter: &MeterName, window: &Window, since: u64) -> Both {
        let line = (scope.clone(), meter.clone());
        if *window == Window::Lifetime {
            return self.total.get(&line).copied().unwrap_or_default();
        }
        let minutes = self.spent.get(&line).into_iter().flat_map(|minutes| minutes.range(since / GRAIN_MS..));
        minutes.fold(Both::default(), |sum, (_, spent)| sum.plus(*spent).unwrap_or(MOST))
    }

    fn held_since(&self, scope: &Scope, meter: &MeterName, since: u64) -> Both {
        let of_line =
            |r: &&Reservation| r.meter == *meter && r.at_ms / GRAIN_MS >= since / GRAIN_MS && r.chain.contains(scope);
        let holds = self.reservations.values().filter(of_line).map(|r| r.hold);
        holds.fold(Both::default(), |sum, hold| sum.plus(hold).unwrap_or(MOST))
    }

    /// Decides, and holds what was admitted. The same name twice gives the same answer and holds once.
    pub fn admit(&mut self, admission: &Admission) -> (Decision, Option<Row>) {
        if let Some(known) = self.reservations.get(&admission.id) {
            return (Decision::Admit { output: known.output }, None);
        }
        let now = admission.at_ms;
        let standings: Vec<Standing> =
            admission.caps.iter().map(|cap| self.standing(cap, &admission.meter, now)).collect();
        let decision = decide(&standings, &admission.worst, admission.waiting);
        let Decision::Admit { output } = decision else { return (decision, None) };
        let holds = |count| admission.worst.holds(output, count);
        let (Some(weighted), Some(raw)) = (holds(Count::Weighted), holds(Count::Raw)) else {
            return (Decision::Absurd, None);
        };
        let reservation = Reservation {
            id: admission.id,
            owner: admission.owner,
            meter: admission.meter.clone(),
            chain: admission.chain.clone(),
            at_ms: now,
            hold: Both { weighted, raw },
            output,
            stage: Stage::Open,
        };
        let row = Row::Held(reservation);
        self.apply(&row);
        (decision, Some(row))
    }

    /// From now on it may have been sent. Written down before a byte leaves.
    pub fn dispatch(&mut self, id: ReservationId) -> Result<Row, BookError> {
        self.reservations.get(&id).ok_or(BookError::Unknown)?;
        let row = Row::Dispatched(id);
        self.apply(&row);
        Ok(row)
    }

    /// Nothing was sent.
    pub fn release(&mut self, id: ReservationId) -> Result<Row, BookError> {
        match self.reservations.get(&id).ok_or(BookError::Unknown)?.stage {
            Stage::Dispatched => Err(BookError::Sent),
            Stage::Open => {
                let row = Row::Released(id);
                self.apply(&row);
                Ok(row)
            }
        }
    }

    /// It cost so much. More than was held is charged in full and told.
    pub fn settle(&mut self, id: ReservationId, settlement: &Settlement) -> Result<Row, BookError> {
        let reservation = self.reservations.get(&id).ok_or(BookError::Unknown)?;
        if reservation.stage == Stage::Open {
            return Err(BookError::NotSent);
        }
        let charged = Both::of(&settlement.usage).ok_or(BookError::Absurd)?;
        let row = Row::Spent(spent(reservation, charged, settlement));
        self.apply(&row);
        Ok(row)
    }

    /// Nobody will ever know what it cost: all that was held is charged, and what was seen of it if that is more.
    pub fn charge_whole(&mut self, id: ReservationId, seen: &Usage) -> Result<Row, BookError> {
        let reservation = self.reservations.get(&id).ok_or(BookError::Unknown)?;
        let charged = reservation.hold.larger(Both::of(seen).ok_or(BookError::Absurd)?);
        let row = Row::Spent(spent(reservation, charged, &Settlement { usage: *seen, estimated: true }));
        self.apply(&row);
        Ok(row)
    }

    /// An owner is gone: what it may have sent is charged whole, the rest is released.
    pub fn owner_gone(&mut self, owner: u64) -> Vec<Row> {
        let own: Vec<(ReservationId, Stage)> =
            self.reservations.values().filter(|r| r.owner == owner).map(|r| (r.id, r.stage)).collect();
        let mut end = |(id, stage): (ReservationId, Stage)| match stage {
            Stage::Open => self.release(id),
            Stage::Dispatched => self.charge_whole(id, &Usage::default()),
        };
        // Each was there a moment ago and nobody else has the book.
        own.into_iter().filter_map(|one| end(one).ok()).collect()
    }

    /// Brings the book to where it stood when the row was written; the way to rebuild it.
    pub fn apply(&mut self, row: &Row) {
        match row {
            Row::Held(reservation) => {
                self.reservations.insert(reservation.id, reservation.clone());
            }
            Row::Dispatched(id) => {
                if let Some(reservation) = self.reservations.get_mut(id) {
                    reservation.stage = Stage::Dispatched;
                }
            }
            Row::Released(id) => {
                self.reservations.remove(id);
            }
            Row::Spent(spent) => {
                self.reservations.remove(&spent.id);
                for scope in &spent.chain {
                    self.add(scope, &spent.meter, spent.at_ms / GRAIN_MS, spent.charged);
                }
            }
        }
    }

    /// Adds a sum that was kept elsewhere, by the minute.
    pub fn add(&mut self, scope: &Scope, meter: &MeterName, minute: u64, amount: Both) {
        let line = (scope.clone(), meter.clone());
        let total = self.total.entry(line.clone()).or_default();
        *total = total.plus(amount).unwrap_or(MOST);
        let spent = self.spent.entry(line).or_default().entry(minute).or_default();
        *spent = spent.plus(amount).unwrap_or(MOST);
    }

    /// Everything that is held, oldest name first.
    pub fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.reservations.values()
    }

    /// Everything that was ever spent by a scope on a meter.
    pub fn total(&self, scope: &Scope, meter: &MeterName) -> Both {
        self.total.get(&(scope.clone(), meter.clone())).copied().unwrap_or_default()
    }
}

/// A sum beyond all numbers: every cap is exhausted by it.
const MOST: Both = Both { weighted: Amount::milli(u64::MAX), raw: Amount::milli(u64::MAX) };

fn spent(reservation: &Reservation, charged: Both, settlement: &Settlement) -> Spent {
    Spent {
        id: reservation.id,
        meter: reservation.meter.clone(),
        chain: reservation.chain.clone(),
        at_ms: reservation.at_ms,
        charged,
        usage: settlement.usage,
        estimated: settlement.estimated,
        overrun: charged.less(reservation.hold),
    }
}

#[cfg(test)]
mod tests;
