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

mod steps;
mod tally;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use self::steps::{
    Admission, Answer, BookError, Both, NoReservationId, Reservation, ReservationId, Row, Settlement, Spent, Stage,
};
use self::tally::Tally;
use super::ask::{Binding, Counted, Granted, NotHeld};
use super::caps::{Cap, Scope};
use super::law::{Decision, Standing, Worst, count_first, crowded, decide};
use super::terms::{Gate, Overrun};
use super::usage::{Amount, Count, Usage};
use crate::ids::MeterName;

/// Spending is kept by the minute: a rolling window is exact to that.
pub const GRAIN_MS: u64 = 60_000;

/// Output tokens of each answer that are held at first under [`Overrun::Bounded`].
pub const TRANCHE_TOKENS: u64 = 4_096;

/// Sums by meter, then by scope: so that they are looked up by what the caller has, without a copy of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lines(BTreeMap<MeterName, BTreeMap<Scope, Tally>>);

impl Lines {
    fn get(&self, scope: &Scope, meter: &MeterName) -> Option<&Tally> {
        self.0.get(meter)?.get(scope)
    }

    fn change(&mut self, scope: &Scope, meter: &MeterName, change: impl FnOnce(&mut Tally)) {
        if let Some(tally) = self.0.get_mut(meter).and_then(|scopes| scopes.get_mut(scope)) {
            return change(tally);
        }
        change(self.0.entry(meter.clone()).or_default().entry(scope.clone()).or_default());
    }

    /// Of what is empty nothing is kept.
    fn forget_empty(&mut self, scope: &Scope, meter: &MeterName) {
        let Some(scopes) = self.0.get_mut(meter) else { return };
        if scopes.get(scope).is_some_and(Tally::is_empty) {
            scopes.remove(scope);
        }
        if scopes.is_empty() {
            self.0.remove(meter);
        }
    }
}

/// The book.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// What was spent, by whom, on what, in which minute.
    spent: Lines,
    /// What is held, in the same order; the sum of the reservations.
    held: Lines,
    reservations: BTreeMap<ReservationId, Reservation>,
    ended: Ended,
}

impl Book {
    /// How a cap stands for a meter now.
    pub fn standing(&self, cap: &Cap, meter: &MeterName, now_ms: u64) -> Standing {
        let minute = cap.window.since_ms(now_ms) / GRAIN_MS;
        let sum = |of: &Lines| of.get(&cap.scope, meter).map(|tally| tally.since(minute)).unwrap_or_default();
        Standing {
            cap: cap.amount,
            spent: sum(&self.spent).by(cap.count),
            held: sum(&self.held).by(cap.count),
            count: cap.count,
        }
    }

    /// The same, in the words of a refusal.
    pub fn binding(&self, cap: &Cap, meter: &MeterName, now_ms: u64) -> Binding {
        let standing = self.standing(cap, meter, now_ms);
        let until_ms = cap.window.until_ms(now_ms);
        Binding { scope: cap.scope.clone(), meter: meter.clone(), kind: cap.kind, standing, until_ms }
    }

    /// Decides, and holds what was admitted. The same name twice gives the same answer and holds once.
    pub fn admit(&mut self, admission: &Admission) -> (Answer, Option<Row>) {
        if let Some(known) = self.reservations.get(&admission.id) {
            return (Answer::Held(known.granted), None);
        }
        let granted = match self.decide(admission) {
            Ok(granted) => granted,
            Err(answer) => return (answer, None),
        };
        let Some(hold) = holds(&admission.worst, granted.held) else { return (Answer::Absurd, None) };
        let reservation = Reservation {
            id: admission.id,
            owner: admission.owner,
            meter: admission.meter.clone(),
            model: admission.model.clone(),
            chain: admission.chain.clone(),
            at_ms: admission.at_ms,
            worst: admission.worst,
            hold,
            granted,
            stage: Stage::Open,
        };
        let row = Row::Held(reservation);
        self.apply(&row);
        (Answer::Held(granted), Some(row))
    }

    fn decide(&self, admission: &Admission) -> Result<Granted, Answer> {
        let Admission { caps, meter, worst, at_ms, .. } = admission;
        let standings: Vec<Standing> = caps.iter().map(|cap| self.standing(cap, meter, *at_ms)).collect();
        let say = |by: usize| self.binding(&caps[by], meter, *at_ms);
        let tranche = match admission.gate {
            Gate::Observe => {
                // Its worst case is held all the same: it is what a crash costs, and others keep off it.
                return match standings.iter().position(|standing| standing.spent >= standing.cap) {
                    Some(by) => Err(Answer::Exhausted(say(by))),
                    None => Ok(Granted { output: None, held: worst.output }),
                };
            }
            Gate::Reserve => admission.at_first(),
        };
        if admission.counted == Counted::Bound && count_first(&standings, &tranche, admission.waiting) {
            return Err(Answer::CountFirst);
        }
        match decide(&standings, &tranche, admission.waiting) {
            Decision::Wait { by } => Err(Answer::Wait(say(by))),
            Decision::Exhausted { by } => Err(Answer::Exhausted(say(by))),
            Decision::Absurd => Err(Answer::Absurd),
            Decision::Admit { output } => Ok(match admission.overrun {
                Overrun::Exact => Granted { output: Some(output), held: output },
                Overrun::Bounded => Granted { output: Some(worst.output), held: output },
            }),
        }
    }

    /// Those of its caps, by their places, at which others hold what it needs at least.
    pub fn crowded(&self, admission: &Admission) -> Vec<usize> {
        let Admission { caps, meter, at_ms, .. } = admission;
        let standings: Vec<Standing> = caps.iter().map(|cap| self.standing(cap, meter, *at_ms)).collect();
        crowded(&standings, &admission.at_first()).collect()
    }

    /// What [`admit`](Self::admit) would answer; nothing is held.
    pub fn peek(&self, admission: &Admission) -> Answer {
        match self.reservations.get(&admission.id) {
            Some(known) => Answer::Held(known.granted),
            None => self.decide(admission).map_or_else(|answer| answer, Answer::Held),
        }
    }

    /// From now on it may have been sent. Written down before a byte leaves.
    pub fn dispatch(&mut self, id: ReservationId) -> Result<Row, BookError> {
        self.reservations.get(&id).ok_or(BookError::Unknown)?;
        let row = Row::Dispatched(id);
        self.apply(&row);
        Ok(row)
    }

    /// Holds output up to so many tokens of each answer, or as many as there is room for; `caps` are those that bind it
    /// now. No row where so much is held already.
    ///
    /// It counts in the window of its admission: room is asked of the window as it stood then, up to now. Across the end
    /// of a window that is less than there is, never more.
    pub fn extend(&mut self, id: ReservationId, output: u64, caps: &[Cap]) -> Result<(Granted, Option<Row>), NotHeld> {
        let known = self.reservations.get(&id).ok_or(NotHeld::Unknown)?;
        let wanted = output.min(known.worst.output);
        if wanted <= known.granted.held {
            return Ok((known.granted, None));
        }
        let held = self.room_for(known, wanted, caps)?;
        let hold = holds(&known.worst, held).ok_or(NotHeld::Absurd)?;
        let granted = Granted { held, ..known.granted };
        let row = Row::Extended { id, hold, held };
        self.apply(&row);
        Ok((granted, Some(row)))
    }

    fn room_for(&self, known: &Reservation, wanted: u64, caps: &[Cap]) -> Result<u64, NotHeld> {
        let more = Worst { output: wanted, output_min: known.granted.held + 1, ..known.worst };
        let mut held = wanted;
        for cap in caps {
            let own = if known.chain.contains(&cap.scope) { known.hold.by(cap.count) } else { Amount::ZERO };
            let standing = self.standing(cap, &known.meter, known.at_ms);
            let room = |free: Amount| standing.cap.less(standing.spent).less(free);
            match more.output_within(room(standing.held.less(own)), cap.count) {
                Some(output) => held = held.min(output),
                None => {
                    let binding = self.binding(cap, &known.meter, known.at_ms);
                    let alone = more.output_within(room(Amount::ZERO), cap.count);
                    return Err(if alone.is_some() { NotHeld::Busy(binding) } else { NotHeld::Exhausted(binding) });
                }
            }
        }
        Ok(held)
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

    /// Whoever wanted to send it was told not to, though that it may have been sent was written down: nothing was sent.
    pub fn withdraw(&mut self, id: ReservationId) -> Result<Row, BookError> {
        self.reservations.get(&id).ok_or(BookError::Unknown)?;
        let row = Row::Released(id);
        self.apply(&row);
        Ok(row)
    }

    /// It cost so much. More than was held is charged in full and told. No row where it had ended before: the same ending
    /// twice is charged once.
    pub fn settle(&mut self, id: ReservationId, settlement: &Settlement) -> Result<Option<Row>, BookError> {
        let Some(reservation) = self.alive(id)? else { return Ok(None) };
        if reservation.stage == Stage::Open {
            return Err(BookError::NotSent);
        }
        let charged = Both::of(&settlement.usage).ok_or(BookError::Absurd)?;
        let row = Row::Spent(spent(reservation, charged, settlement));
        self.apply(&row);
        Ok(Some(row))
    }

    /// Nobody will ever know what it cost: all that was held is charged, and what was seen of it if that is more.
    pub fn charge_whole(&mut self, id: ReservationId, seen: &Usage) -> Result<Option<Row>, BookError> {
        let Some(reservation) = self.alive(id)? else { return Ok(None) };
        let charged = reservation.hold.larger(Both::of(seen).ok_or(BookError::Absurd)?);
        let row = Row::Spent(spent(reservation, charged, &Settlement { usage: *seen, estimated: true }));
        self.apply(&row);
        Ok(Some(row))
    }

    /// The reservation; `None` where it is known to have been charged.
    fn alive(&self, id: ReservationId) -> Result<Option<&Reservation>, BookError> {
        match self.reservations.get(&id) {
            Some(reservation) => Ok(Some(reservation)),
            None if self.ended.contains(id) => Ok(None),
            None => Err(BookError::Unknown),
        }
    }

    /// Whether it is remembered that this one was charged. Of more than the latest whoever keeps the rows has to be asked.
    pub fn ended(&self, id: ReservationId) -> bool {
        self.ended.contains(id)
    }

    /// An owner is gone: what it may have sent is charged whole, the rest is released.
    pub fn owner_gone(&mut self, owner: u64) -> Vec<Row> {
        let own: Vec<(ReservationId, Stage)> =
            self.reservations.values().filter(|r| r.owner == owner).map(|r| (r.id, r.stage)).collect();
        let mut end = |(id, stage): (ReservationId, Stage)| match stage {
            Stage::Open => self.release(id).map(Some),
            Stage::Dispatched => self.charge_whole(id, &Usage::default()),
        };
        // Each was there a moment ago and nobody else has the book.
        own.into_iter().filter_map(|one| end(one).ok().flatten()).collect()
    }

    /// Brings the book to where it stood when the row was written; the way to rebuild it.
    pub fn apply(&mut self, row: &Row) {
        match row {
            Row::Held(reservation) => {
                self.drop_hold(reservation.id);
                hold_more(&mut self.held, reservation, reservation.hold);
                self.reservations.insert(reservation.id, reservation.clone());
            }
            Row::Dispatched(id) => {
                if let Some(reservation) = self.reservations.get_mut(id) {
                    reservation.stage = Stage::Dispatched;
                }
            }
            Row::Extended { id, hold, held } => {
                if let Some(reservation) = self.reservations.get_mut(id) {
                    hold_more(&mut self.held, reservation, hold.less(reservation.hold));
                    (reservation.hold, reservation.granted.held) = (*hold, *held);
                }
            }
            Row::Released(id) => self.drop_hold(*id),
            Row::Spent(spent) => {
                self.drop_hold(spent.id);
                self.ended.insert(spent.id);
                for scope in &spent.chain {
                    self.add(scope, &spent.meter, spent.at_ms / GRAIN_MS, spent.charged);
                }
            }
        }
    }

    fn drop_hold(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.remove(&id) else { return };
        for scope in &reservation.chain {
            let take = |tally: &mut Tally| tally.take(reservation.at_ms / GRAIN_MS, reservation.hold);
            self.held.change(scope, &reservation.meter, take);
            self.held.forget_empty(scope, &reservation.meter);
        }
    }

    /// Adds a sum that was kept elsewhere, by the minute.
    pub fn add(&mut self, scope: &Scope, meter: &MeterName, minute: u64, amount: Both) {
        self.spent.change(scope, meter, |tally| tally.add(minute, amount));
    }

    /// What is held under a name.
    pub fn reservation(&self, id: ReservationId) -> Option<&Reservation> {
        self.reservations.get(&id)
    }

    /// Everything that is held, in the order of names.
    pub fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.reservations.values()
    }

    /// Every scope and meter that anything was ever spent on.
    pub fn lines(&self) -> impl Iterator<Item = (&Scope, &MeterName)> {
        self.spent.0.iter().flat_map(|(meter, scopes)| scopes.keys().map(move |scope| (scope, meter)))
    }

    /// Everything that was ever spent by a scope on a meter.
    pub fn total(&self, scope: &Scope, meter: &MeterName) -> Both {
        self.spent.get(scope, meter).map(Tally::all).unwrap_or_default()
    }

    /// Everything that is held for a scope and a meter.
    pub fn held(&self, scope: &Scope, meter: &MeterName) -> Both {
        self.held.get(scope, meter).map(Tally::all).unwrap_or_default()
    }
}

/// Names of reservations that were charged lately. Beyond so many whoever keeps the rows is asked.
#[derive(Clone, Debug, Default)]
struct Ended {
    names: BTreeSet<ReservationId>,
    order: VecDeque<ReservationId>,
}

/// Most names of charged reservations that are remembered.
const ENDED_MAX: usize = 16_384;

impl Ended {
    fn contains(&self, id: ReservationId) -> bool {
        self.names.contains(&id)
    }

    fn insert(&mut self, id: ReservationId) {
        if self.names.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > ENDED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }
}

fn holds(worst: &Worst, output: u64) -> Option<Both> {
    Some(Both { weighted: worst.holds(output, Count::Weighted)?, raw: worst.holds(output, Count::Raw)? })
}

fn hold_more(held: &mut Lines, reservation: &Reservation, amount: Both) {
    for scope in &reservation.chain {
        held.change(scope, &reservation.meter, |tally| tally.add(reservation.at_ms / GRAIN_MS, amount));
    }
}

fn spent(reservation: &Reservation, charged: Both, settlement: &Settlement) -> Spent {
    Spent {
        id: reservation.id,
        owner: reservation.owner,
        meter: reservation.meter.clone(),
        model: reservation.model.clone(),
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
