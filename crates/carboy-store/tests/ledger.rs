//! The ledger, in memory and in SQLite: the same behaviour, and what is left of it after a new start.
#![allow(clippy::unwrap_used)]

#[path = "support/conformance.rs"]
mod conformance;
mod support;

use std::sync::{Arc, Mutex};

use carboy_core::budget::{Admitted, Ask, Ending, Granted, NotHeld, ReservationId};
use carboy_core::ports::{Later, Ledger};
use carboy_store::ledger::{Engine, MemoryStore, SqliteStore};
use conformance::{Direct, race, suite};
use support::Wall;

#[test]
fn the_ledger_in_memory_conforms() {
    suite(&|| Box::new(Direct(Engine::open(Box::new(MemoryStore::default()), Arc::new(Wall)).unwrap())));
}

#[test]
fn c16_the_ledger_in_sqlite_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let made = std::cell::Cell::new(0);
    suite(&|| {
        made.set(made.get() + 1);
        let store = SqliteStore::open(&dir.path().join(format!("{}.db", made.get()))).unwrap();
        Box::new(Direct(Engine::open(Box::new(store), Arc::new(Wall)).unwrap()))
    });
}

/// Wrong on purpose: it looks whether there is room, lets the request go, and charges it when it ends.
struct CheckThenSpend(Mutex<(u64, u64)>);

impl Ledger for CheckThenSpend {
    fn admit(&self, ask: Ask) -> Later<'_, Result<Admitted, NotHeld>> {
        let (spent, cap) = *self.0.lock().unwrap();
        let fits = spent + ask.input + ask.output <= cap;
        let full = conformance::exhausted_binding();
        let answer = if fits { Ok(Admitted::Held(Granted { output: Some(ask.output), held: 0 })) } else { Err(full) };
        Box::pin(std::future::ready(answer))
    }

    fn dispatch(&self, _: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn extend(&self, _: ReservationId, output: u64) -> Later<'_, Result<u64, NotHeld>> {
        Box::pin(std::future::ready(Ok(output)))
    }

    fn settle(&self, _: ReservationId, ending: Ending) -> Later<'_, Result<(), NotHeld>> {
        let (Ending::Reported(usage) | Ending::Estimated(usage) | Ending::Unknown(usage)) = ending;
        self.0.lock().unwrap().0 += usage.total().unwrap();
        Box::pin(std::future::ready(Ok(())))
    }

    fn release(&self, _: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[test]
fn c15_a_ledger_that_checks_and_then_spends_fails_the_race_that_ours_passes() {
    let wrong: Arc<dyn Ledger> = Arc::new(CheckThenSpend(Mutex::new((0, 1_000_000))));
    let raced = race(&|_, _| wrong.clone());
    assert!(raced.billed > raced.cap, "the race does not find what it is there to find: {raced:?}");
}
