//! The ledger in memory: what the tour and tests keep it in, and what the database is compared with.
//!
//! *Must never* be what a person's budget is kept in: it is gone with its process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use carboy_core::budget::{Both, CapEdit, CapKey, GRAIN_MS, Reservation, ReservationId, Scope, Spent, TopUp};
use carboy_core::ids::MeterName;

use super::port::{
    By, Difference, EVENTS_MAX, LedgerReader, LedgerStore, Loaded, Mark, MinuteSum, NumberedEvent, Owner, Total,
    USAGE_ROWS_MAX, UsageQuery, UsageRow, Write,
};
use crate::StoreError;

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * GRAIN_MS;

/// A ledger in memory. A clone is the same one: opened again, it has what was committed.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Rows>>);

#[derive(Default)]
struct Rows {
    owners: BTreeMap<u64, Owner>,
    dispatched: BTreeMap<ReservationId, Reservation>,
    spent: BTreeMap<ReservationId, Spent>,
    caps: BTreeMap<CapKey, CapEdit>,
    top_ups: Vec<(CapKey, TopUp)>,
    marks: BTreeSet<Mark>,
    events: BTreeMap<u64, NumberedEvent>,
    event_next: u64,
    refusing: Option<String>,
}

impl MemoryStore {
    /// From now on every write is refused with these words, as by a full disk; `None`: no longer. For tests of what
    /// stands above it.
    pub fn refuse(&self, why: Option<&str>) {
        self.rows().refusing = why.map(str::to_owned);
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // A batch is applied by steps that cannot break off.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    fn check(&self) -> Result<(), StoreError> {
        match &self.refusing {
            Some(cause) => Err(StoreError::Failing { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Owner { owner, .. } => {
                self.owners.insert(owner.id, owner.clone());
            }
            Write::OwnerEnded(id) => {
                self.owners.remove(id);
            }
            Write::Dispatched(reservation) => {
                self.dispatched.insert(reservation.id, reservation.clone());
            }
            Write::Extended { id, hold, held } => {
                if let Some(reservation) = self.dispatched.get_mut(id) {
                    (reservation.hold, reservation.granted.held) = (*hold, *held);
                }
            }
            Write::Withdrawn(id) => {
                self.dispatched.remove(id);
            }
            Write::Spent { spent, .. } => {
                self.dispatched.remove(&spent.id);
                self.spent.insert(spent.id, spent.clone());
            }
            Write::CapSet { key, edit, .. } => {
                self.caps.insert(key.clone(), edit.clone());
            }
            Write::CapUnset(key) => {
                self.caps.remove(key);
            }
            Write::TopUp { key, top_up } => self.top_ups.push((key.clone(), *top_up)),
            Write::Marked(mark) => {
                self.marks.insert(mark.clone());
            }
            Write::Unmarked(mark) => {
                self.marks.remove(mark);
            }
            Write::Event { at_ms, event } => {
                self.event_next += 1;
                let event = NumberedEvent { number: self.event_next, at_ms: *at_ms, event: event.clone() };
                self.events.insert(event.number, event);
            }
        }
    }

    fn sums(&self) -> BTreeMap<(Scope, MeterName, u64), Both> {
        let mut sums = BTreeMap::<_, Both>::new();
        for (spent, scope) in self.spent.values().flat_map(|spent| spent.chain.iter().map(move |scope| (spent, scope)))
        {
            let sum = sums.entry((scope.clone(), spent.meter.clone(), spent.at_ms / GRAIN_MS)).or_default();
            *sum = sum.or_most(spent.charged);
        }
        sums
    }

    fn usage(&self, query: &UsageQuery) -> Vec<UsageRow> {
        let asked = |by| query.by.contains(&by);
        let in_time = |at_ms: u64| at_ms >= query.since_ms && query.until_ms.is_none_or(|until| at_ms < until);
        let mut rows = BTreeMap::<_, UsageRow>::new();
        for spent in self.spent.values().filter(|spent| in_time(spent.at_ms)) {
            for scope in spent.chain.iter().filter(|scope| query.scope.as_ref().is_none_or(|wanted| *scope == wanted)) {
                let model = spent.model.clone().filter(|_| asked(By::Model));
                let day = asked(By::Day).then_some(spent.at_ms / DAY_MS);
                let key = (scope.clone(), spent.meter.clone(), model.clone(), day);
                let row = rows.entry(key).or_insert_with(|| UsageRow {
                    scope: scope.clone(),
                    meter: spent.meter.clone(),
                    model,
                    day,
                    requests: 0,
                    usage: Default::default(),
                    charged: Both::default(),
                    estimated: Both::default(),
                    overrun: Both::default(),
                });
                let total = Total { usage: row.usage, estimated: row.estimated, requests: row.requests }.and(spent);
                (row.usage, row.estimated, row.requests) = (total.usage, total.estimated, total.requests);
                row.charged = row.charged.or_most(spent.charged);
                row.overrun = row.overrun.or_most(spent.overrun);
            }
        }
        rows.into_values().collect()
    }
}

impl LedgerStore for MemoryStore {
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.check()?;
        writes.iter().for_each(|write| rows.write(write));
        Ok(())
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        let rows = self.rows();
        let mut totals = BTreeMap::<(Scope, MeterName), Total>::new();
        let mut places = BTreeSet::new();
        for spent in rows.spent.values() {
            for scope in &spent.chain {
                let total = totals.entry((scope.clone(), spent.meter.clone())).or_default();
                *total = total.and(spent);
            }
            places.insert(spent.chain.iter().filter(|scope| !matches!(scope, Scope::Run(_))).cloned().collect());
        }
        let minute = |((scope, meter, minute), charged)| MinuteSum { scope, meter, minute, charged };
        Ok(Loaded {
            minutes: rows.sums().into_iter().map(minute).collect(),
            totals: totals.into_iter().map(|((scope, meter), total)| (scope, meter, total)).collect(),
            dispatched: rows.dispatched.values().cloned().collect(),
            owners: rows.owners.values().cloned().collect(),
            caps: rows.caps.clone().into_iter().collect(),
            top_ups: rows.top_ups.clone(),
            marks: rows.marks.iter().cloned().collect(),
            places: places.into_iter().collect(),
        })
    }

    fn ended(&mut self, id: ReservationId) -> Result<bool, StoreError> {
        Ok(self.rows().spent.contains_key(&id))
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        self.rows().check()
    }

    fn unprojected_events(&mut self, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        Ok(self.rows().events.values().take(limit.min(EVENTS_MAX)).cloned().collect())
    }

    fn mark_projected(&mut self, up_to: u64) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.check()?;
        rows.events.retain(|number, _| *number > up_to);
        Ok(())
    }

    fn alarm(&self) -> Option<String> {
        None
    }

    fn reader(&self) -> Arc<dyn LedgerReader> {
        Arc::new(self.clone())
    }
}

impl LedgerReader for MemoryStore {
    fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        let rows = self.rows().usage(query);
        let asked = rows.len();
        if asked > USAGE_ROWS_MAX { Err(StoreError::TooMany { asked, max: USAGE_ROWS_MAX }) } else { Ok(rows) }
    }

    fn differences(&self) -> Result<Vec<Difference>, StoreError> {
        // Its sums are made of its rows.
        Ok(Vec::new())
    }
}
