//! The ledger's thread under a store that can be held up: what is answered when, what is one commit, and every maximum.
#![allow(clippy::unwrap_used)]

#[path = "support/conformance.rs"]
mod conformance;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use carboy_core::budget::{Admitted, NotHeld, ReservationId, Scope, Terms};
use carboy_core::ports::Ledger;
use carboy_store::StoreError;
use carboy_store::ledger::{
    COMMANDS_MAX, Engine, HOLDS_MAX, LedgerReader, LedgerStore, Loaded, METERS_MAX, MemoryStore, NumberedEvent,
    OWNERS_MAX, WAITING_MAX, WAITING_OF_OWNER_MAX, Write,
};
use conformance::{ask, granted, host, meter, owner, poll, set, wrote};
use support::{Wall, block_on, until};

/// A store whose commits stand still while it is shut.
#[derive(Clone, Default)]
struct Gated {
    inner: MemoryStore,
    shut: Arc<(Mutex<bool>, Condvar)>,
    arrived: Arc<AtomicUsize>,
    commits: Arc<AtomicUsize>,
    doubt: Arc<AtomicUsize>,
}

impl Gated {
    fn shut(&self) {
        *self.shut.0.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.shut.0.lock().unwrap() = false;
        self.shut.1.notify_all();
    }
}

impl LedgerStore for Gated {
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let (lock, opened) = &*self.shut;
        drop(opened.wait_while(lock.lock().unwrap(), |shut| *shut).unwrap());
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.inner.commit(writes)?;
        // As when the disk says no to the sync, and has everything all the same.
        let doubt = self.doubt.swap(0, Ordering::SeqCst) > 0;
        if doubt { Err(StoreError::Failing { cause: "the sync failed".to_owned() }) } else { Ok(()) }
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.inner.load()
    }

    fn ended(&mut self, id: ReservationId) -> Result<bool, StoreError> {
        self.inner.ended(id)
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        self.inner.recover()
    }

    fn unprojected_events(&mut self, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        self.inner.unprojected_events(limit)
    }

    fn mark_projected(&mut self, up_to: u64) -> Result<(), StoreError> {
        self.inner.mark_projected(up_to)
    }

    fn alarm(&self) -> Option<String> {
        Some("look here".to_owned())
    }

    fn reader(&self) -> Arc<dyn LedgerReader> {
        self.inner.reader()
    }
}

fn gated(host: u64) -> (Gated, Engine, Arc<dyn Ledger>) {
    let store = Gated::default();
    let engine = Engine::open(Box::new(store.clone()), Arc::new(Wall)).unwrap();
    block_on(engine.hello(owner(1), set(1, host, Terms::default()), vec![meter()])).unwrap();
    let ledger = engine.ledger(1);
    (store, engine, ledger)
}

#[test]
fn nothing_is_answered_before_it_is_durable_and_all_that_waits_is_one_commit() {
    let (store, engine, ledger) = gated(1_000_000_000);
    let ids: Vec<ReservationId> = (0..200)
        .map(|_| {
            let request = ask(10, 500);
            let id = request.id;
            granted(block_on(ledger.admit(request)));
            id
        })
        .collect();
    let (commits, arrived) = (store.commits.load(Ordering::SeqCst), store.arrived.load(Ordering::SeqCst));
    store.shut();
    let mut first = ledger.dispatch(ids[0]);
    until("the first one is being written", || store.arrived.load(Ordering::SeqCst) > arrived);
    let mut rest: Vec<_> = ids[1..].iter().map(|id| ledger.dispatch(*id)).collect();
    assert!(poll(&mut first).is_none() && rest.iter_mut().all(|answer| poll(answer).is_none()));
    store.open();
    block_on(first).unwrap();
    rest.into_iter().for_each(|answer| block_on(answer).unwrap());
    assert_eq!(store.commits.load(Ordering::SeqCst), commits + 2, "199 of them are one commit");
    ids.iter().for_each(|id| block_on(ledger.settle(*id, wrote(1, 1))).unwrap());
    assert_eq!(host(&engine), (400, 0));
}

#[test]
fn what_was_written_though_its_commit_failed_is_charged_once_or_taken_back() {
    let (store, engine, ledger) = gated(1_000_000);
    let requests = [ask(10, 500), ask(10, 500)];
    let ids = requests.each_ref().map(|request| request.id);
    for request in requests {
        granted(block_on(ledger.admit(request)));
    }
    block_on(ledger.dispatch(ids[0])).unwrap();
    // Refused, it is not sent; on disk it stands as if it might have been.
    store.doubt.store(1, Ordering::SeqCst);
    assert!(block_on(ledger.dispatch(ids[1])).is_err());
    until("it goes on", || block_on(ledger.admit(ask(1, 1))).is_ok());
    assert_eq!(block_on(ledger.dispatch(ids[1])), Err(NotHeld::Unknown));
    // Charged, though it was told that it is not: told again, it is not charged again.
    store.doubt.store(1, Ordering::SeqCst);
    assert!(block_on(ledger.settle(ids[0], wrote(10, 90))).is_err());
    until("it goes on", || block_on(ledger.settle(ids[0], wrote(10, 90))).is_ok());
    assert_eq!(host(&engine).0, 100);
    block_on(engine.owner_gone(1)).unwrap();
    assert_eq!(host(&engine), (100, 0));
}

#[test]
fn an_alarm_of_the_store_is_written_down_once_while_it_lasts() {
    let (_, engine, _) = gated(1_000);
    block_on(engine.snapshot()).unwrap();
    let events = block_on(engine.unprojected_events(10)).unwrap();
    assert_eq!(events.iter().filter(|event| event.event.action == "alarm").count(), 1);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let (store, _engine, ledger) = gated(1_000_000_000);
    let request = ask(10, 500);
    let id = request.id;
    granted(block_on(ledger.admit(request)));
    let arrived = store.arrived.load(Ordering::SeqCst);
    store.shut();
    let first = ledger.dispatch(id);
    until("it is being written", || store.arrived.load(Ordering::SeqCst) > arrived);
    let queued: Vec<_> = (0..COMMANDS_MAX).map(|_| ledger.dispatch(id)).collect();
    let Err(NotHeld::Unavailable(words)) = block_on(ledger.dispatch(id)) else { panic!("one more was taken") };
    assert!(words.contains("16384 questions wait"), "{words}");
    store.open();
    block_on(first).unwrap();
    queued.into_iter().for_each(|answer| block_on(answer).unwrap());
}

#[test]
fn there_is_an_end_to_those_who_wait() {
    let (_, engine, ledger) = gated(10_000);
    let request = ask(1_000, 64_000);
    let id = request.id;
    granted(block_on(ledger.admit(request)));
    let mut waiting: Vec<_> = (0..WAITING_OF_OWNER_MAX).map(|_| ledger.admit(ask(10, 300))).collect();
    // Nobody fills the queue for the others: one more of the same owner is to come again.
    assert!(matches!(block_on(ledger.admit(ask(10, 300))), Err(NotHeld::Busy(_))));
    for id in 2..=(WAITING_MAX / WAITING_OF_OWNER_MAX) as u64 {
        block_on(engine.hello(owner(id), set(id, 10_000, Terms::default()), vec![meter()])).unwrap();
        waiting.extend((0..WAITING_OF_OWNER_MAX).map(|_| engine.admit(id, ask(10, 300))));
    }
    let last = 1 + (WAITING_MAX / WAITING_OF_OWNER_MAX) as u64;
    block_on(engine.hello(owner(last), set(last, 10_000, Terms::default()), vec![meter()])).unwrap();
    let Err(NotHeld::Unavailable(words)) = block_on(engine.admit(last, ask(10, 300))) else { panic!("one more") };
    assert!(words.contains("4096 requests wait"), "{words}");
    assert_eq!(block_on(engine.snapshot()).unwrap().waiting, WAITING_MAX as u64);
    drop(waiting);
    block_on(ledger.release(id)).unwrap();
    until("the queue is empty", || block_on(engine.snapshot()).unwrap().waiting == 0);
    until("nothing is held for those who went", || host(&engine).1 == 0);
}

#[test]
fn there_is_an_end_to_what_is_held() {
    let (_, engine, ledger) = gated(1_000_000_000_000);
    let held: Vec<_> = (0..HOLDS_MAX).map(|_| block_on(ledger.admit(ask(1, 1)))).collect();
    assert!(held.iter().all(|answer| matches!(answer, Ok(Admitted::Held(_)))));
    let Err(NotHeld::Unavailable(words)) = block_on(ledger.admit(ask(1, 1))) else { panic!("one more was held") };
    assert!(words.contains("65536 requests are under way"), "{words}");
    assert_eq!(block_on(engine.owner_gone(1)).unwrap().released, HOLDS_MAX as u64);
    assert_eq!(host(&engine), (0, 0));
}

#[test]
fn a_snapshot_shows_so_many_scopes_and_counts_the_rest() {
    let (_, engine, _) = gated(1_000);
    for id in 2..=600 {
        block_on(engine.hello(owner(id), set(id, 1_000, Terms::default()), vec![meter()])).unwrap();
    }
    let snapshot = block_on(engine.snapshot()).unwrap();
    // The host, a bottle, an agent, and runs up to 512 in all.
    assert_eq!(snapshot.left_out, 600 - (512 - 3));
    assert_eq!(snapshot.host.children[0].scope, Scope::Bottle("dev".into()));
}

#[test]
fn there_is_an_end_to_owners_and_to_the_meters_of_one() {
    let (_, engine, ledger) = gated(1_000_000);
    let named = |n: usize| carboy_core::ids::MeterName::parse(&format!("m{n}")).unwrap();
    let metered = |n: usize| carboy_core::budget::Ask { meter: named(n), ..ask(1, 1) };
    // One it said at its hello.
    let used: Vec<_> = (1..METERS_MAX).map(|n| block_on(ledger.admit(metered(n)))).collect();
    assert!(used.iter().all(Result::is_ok));
    let Err(NotHeld::Unavailable(words)) = block_on(ledger.admit(metered(0))) else { panic!("one more was taken") };
    assert!(words.contains("64 names"), "{words}");
    assert!(block_on(ledger.admit(metered(1))).is_ok());

    let hello = |id| block_on(engine.hello(owner(id), set(id, 1_000, Terms::default()), vec![]));
    assert!((2..=OWNERS_MAX as u64).all(|id| hello(id).is_ok()));
    assert!(hello(OWNERS_MAX as u64 + 1).unwrap_err().0.contains("4096 runs"));
    assert!(hello(OWNERS_MAX as u64).is_ok());
}
