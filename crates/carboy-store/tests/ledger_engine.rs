//! What the ledger's thread does beside single requests: new starts, windows, warnings, events, a store that fails.
#![allow(clippy::unwrap_used)]

#[path = "support/conformance.rs"]
mod conformance;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::budget::{
    Admitted, Amount, Both, BudgetSet, Cap, CapEdit, CapKey, CapKind, Count, LedgerSnapshot, Node, NotHeld, Scope,
    Shutdown, Spent, Terms, Unit, Usage, Window, Zone,
};
use carboy_core::ports::{Clock, Ledger};
use carboy_store::ledger::{
    Engine, LedgerStore, MemoryStore, NOTICES_MAX, Notice, Notices, SqliteStore, UsageQuery, Write,
};
use conformance::{
    ask, cap, crossings, drain, granted, host, host_key, meter, owner, poll, set, spend, tokens, until_waiting, wrote,
};
use support::{Wall, block_on, until};

/// A clock that is set by hand.
struct Set(AtomicU64);

impl Clock for Set {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Noon of 2026-11-30 (UTC), a Monday.
const NOON: u64 = 1_796_040_000_000;
const HOUR: u64 = 3_600_000;

fn memory(store: &MemoryStore) -> Engine {
    Engine::open(Box::new(store.clone()), Arc::new(Wall)).unwrap()
}

fn sqlite(path: &Path) -> Engine {
    Engine::open(Box::new(SqliteStore::open(path).unwrap()), Arc::new(Wall)).unwrap()
}

fn connect(engine: &Engine, id: u64, set: BudgetSet) -> Arc<dyn Ledger> {
    block_on(engine.hello(owner(id), set, vec![meter()])).unwrap();
    engine.ledger(id)
}

fn windowed(id: u64, amount: u64, window: Window) -> BudgetSet {
    let host = Cap { window, ..cap(Scope::Host, CapKind::Ceiling, amount) };
    BudgetSet { caps: [(meter(), vec![host])].into(), ..set(id, 0, Terms::default()) }
}

fn warnings(notices: &mut Notices) -> Vec<(String, u8)> {
    let warning =
        |notice| if let Notice::Warning(warning) = notice { Some((warning.run, warning.percent)) } else { None };
    drain(notices).into_iter().filter_map(warning).collect()
}

fn is_exhausted(ledger: &Arc<dyn Ledger>) -> bool {
    match block_on(ledger.admit(ask(10, 300))) {
        Ok(Admitted::Held(_)) => false,
        Err(NotHeld::Exhausted(_)) => true,
        other => panic!("{other:?}"),
    }
}

#[test]
fn c13_what_was_spent_sent_and_set_is_there_after_a_new_start_and_open_holds_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let engine = sqlite(&path);
    let ledger = connect(&engine, 1, set(1, 100_000, Terms::default()));
    spend(&*ledger, 100, 50);
    let (sent, open) = (ask(1_000, 8_000), ask(1_000, 8_000));
    let ids = (sent.id, open.id);
    granted(block_on(ledger.admit(sent)));
    granted(block_on(ledger.admit(open)));
    block_on(ledger.dispatch(ids.0)).unwrap();
    let edit = CapEdit { amount: tokens(20_000), count: None, window: None };
    block_on(engine.set_cap(host_key(), edit)).unwrap();
    block_on(engine.top_up(host_key(), tokens(5_000))).unwrap();
    assert_eq!(host(&engine), (150, 18_180));
    block_on(engine.close()).unwrap();
    assert!(block_on(engine.snapshot()).is_err(), "closed");

    let engine = sqlite(&path);
    assert_eq!(host(&engine), (150, 9_090));
    let known = block_on(engine.owners()).unwrap();
    assert_eq!((known.len(), known[0].greeted, known[0].dispatched, known[0].open), (1, false, 1, 0));
    assert_eq!(known[0].owner, owner(1));
    // Before it says hello again nothing new is held for it; what it had sent ends as if nothing had been.
    let ledger = engine.ledger(1);
    assert!(matches!(block_on(ledger.admit(ask(1, 300))), Err(NotHeld::Unavailable(_))));
    block_on(ledger.settle(ids.0, wrote(1_000, 10))).unwrap();
    assert_eq!(block_on(ledger.dispatch(ids.1)), Err(NotHeld::Unknown));
    let ledger = connect(&engine, 1, set(1, 100_000, Terms::default()));
    // 25,000 by the operator, of which 1,160 are spent: 1,000 + 22,603 and a hundredth of both fit.
    assert_eq!(granted(block_on(ledger.admit(ask(1_000, 64_000)))).output, Some(22_603));
}

#[test]
fn c10_a_crossing_is_told_once_to_every_run_that_it_binds_and_again_to_one_that_comes_later() {
    let engine = memory(&MemoryStore::default());
    let mut notices = engine.events();
    let terms = |shutdown| Terms { shutdown, warn_percent: vec![], ..Terms::default() };
    let first = connect(&engine, 1, set(1, 1_000, terms(Shutdown::Cutoff)));
    let _second = connect(&engine, 2, set(2, 1_000, terms(Shutdown::Freeze)));
    // It has another budget and is not bound.
    connect(&engine, 3, set(3, 50_000, terms(Shutdown::Kill)));
    spend(&*first, 100, 400);
    assert_eq!(drain(&mut notices), []);
    // 320 tokens are the least that a request holds: 310 are left.
    spend(&*first, 100, 90);
    let told = crossings(&mut notices);
    let told: Vec<_> = told.iter().map(|crossing| (crossing.run.as_str(), crossing.action)).collect();
    assert_eq!(told, [("run1", Shutdown::Cutoff), ("run2", Shutdown::Freeze)]);
    assert!(is_exhausted(&first) && is_exhausted(&first));
    assert_eq!(crossings(&mut notices), []);
    connect(&engine, 4, set(4, 1_000, terms(Shutdown::Pause)));
    assert_eq!(crossings(&mut notices).iter().map(|crossing| crossing.owner).collect::<Vec<_>>(), [4]);
    assert_eq!(block_on(engine.crossings()).unwrap().len(), 3);
    block_on(engine.top_up(host_key(), tokens(1_000))).unwrap();
    let restored = drain(&mut notices).into_iter().filter(|notice| matches!(notice, Notice::Restored { .. })).count();
    assert_eq!((restored, block_on(engine.crossings()).unwrap().len()), (3, 0));
}

#[test]
fn c10_whoever_says_hello_again_is_told_what_is_crossed_by_its_new_files() {
    let engine = memory(&MemoryStore::default());
    let quiet = || Terms { warn_percent: vec![], ..Terms::default() };
    let ledger = connect(&engine, 1, set(1, 1_000, quiet()));
    spend(&*ledger, 100, 850);
    let mut notices = engine.events();
    // Reconnected: told again. Then with a higher cap, a lower one, and none.
    let restored = |notices: &mut Notices| {
        let wanted = |notice: &Notice| matches!(notice, Notice::Restored { still_crossed: false, .. });
        drain(notices).iter().filter(|notice| wanted(notice)).count()
    };
    connect(&engine, 1, set(1, 1_000, quiet()));
    assert_eq!(crossings(&mut notices).len(), 1);
    connect(&engine, 1, set(1, 5_000, quiet()));
    assert_eq!(restored(&mut notices), 1);
    connect(&engine, 1, set(1, 5_000, quiet()));
    assert_eq!(crossings(&mut notices), []);
    connect(&engine, 1, set(1, 900, quiet()));
    assert_eq!(crossings(&mut notices).len(), 1);
    connect(&engine, 1, BudgetSet { caps: Default::default(), ..set(1, 0, quiet()) });
    assert_eq!((restored(&mut notices), block_on(engine.crossings()).unwrap().len()), (1, 0));
    // The same for a cap that only the operator had set.
    let edit = CapEdit { amount: tokens(0), count: None, window: None };
    block_on(engine.set_cap(host_key(), edit)).unwrap();
    assert_eq!(crossings(&mut notices).len(), 1);
    assert_eq!(block_on(engine.unset_cap(host_key())), Ok(true));
    assert_eq!(restored(&mut notices), 1);
}

#[test]
fn thresholds_are_told_once_in_a_window_and_not_again_after_a_new_start() {
    let store = MemoryStore::default();
    let engine = memory(&store);
    let mut notices = engine.events();
    let ledger = connect(&engine, 1, set(1, 10_000, Terms::default()));
    spend(&*ledger, 100, 7_800);
    assert_eq!(warnings(&mut notices), []);
    spend(&*ledger, 0, 100);
    assert_eq!(warnings(&mut notices), [("run1".to_owned(), 80)]);
    spend(&*ledger, 0, 100);
    assert_eq!(warnings(&mut notices), []);
    block_on(engine.close()).unwrap();

    let engine = memory(&store);
    let mut notices = engine.events();
    let ledger = connect(&engine, 1, set(1, 10_000, Terms::default()));
    assert_eq!(warnings(&mut notices), []);
    spend(&*ledger, 0, 1_400);
    assert_eq!(warnings(&mut notices), [("run1".to_owned(), 95)]);
    // Raised, it is another cap: its thresholds are passed anew.
    block_on(engine.set_cap(host_key(), CapEdit { amount: tokens(11_000), count: None, window: None })).unwrap();
    assert_eq!(warnings(&mut notices), [("run1".to_owned(), 80)]);
}

#[test]
fn a_new_window_gives_room_again_and_a_clock_that_is_set_back_refills_nothing() {
    let clock = Arc::new(Set(AtomicU64::new(NOON)));
    let engine = Engine::open(Box::new(MemoryStore::default()), clock.clone()).unwrap();
    let day = Window::Calendar { unit: Unit::Day, tz: Zone::parse("UTC").unwrap() };
    let ledger = connect(&engine, 1, windowed(1, 1_000, day));
    let mut notices = engine.events();
    spend(&*ledger, 100, 800);
    assert!(is_exhausted(&ledger));
    assert_eq!(crossings(&mut notices).len(), 1);
    for back in [HOUR, 11 * HOUR, 24 * HOUR, 3_000 * HOUR, NOON] {
        clock.0.store(NOON - back, Ordering::SeqCst);
        assert!(is_exhausted(&ledger), "set back by {back} ms");
    }
    clock.0.store(NOON + 12 * HOUR, Ordering::SeqCst);
    until("the new day is seen", || drain(&mut notices).iter().any(|notice| matches!(notice, Notice::Restored { .. })));
    assert!(!is_exhausted(&ledger));
    // Set back again: what was held in the new day counts in the old one too.
    clock.0.store(NOON, Ordering::SeqCst);
    assert!(is_exhausted(&ledger));
}

#[test]
fn a_top_up_ends_with_its_window() {
    let clock = Arc::new(Set(AtomicU64::new(NOON)));
    let engine = Engine::open(Box::new(MemoryStore::default()), clock.clone()).unwrap();
    let ledger = connect(&engine, 1, windowed(1, 1_000, Window::Rolling { ms: 5 * HOUR }));
    block_on(engine.top_up(host_key(), tokens(1_000))).unwrap();
    assert_eq!(granted(block_on(ledger.admit(ask(0, 64_000)))).output, Some(1_936));
    clock.0.store(NOON + 6 * HOUR, Ordering::SeqCst);
    assert_eq!(granted(block_on(ledger.admit(ask(0, 64_000)))).output, Some(936));
}

#[test]
fn a_store_that_fails_admits_nobody_forgets_no_ending_and_goes_on_by_itself() {
    let store = MemoryStore::default();
    let engine = memory(&store);
    let ledger = connect(&engine, 1, set(1, 100_000, Terms::default()));
    let requests = [ask(1_000, 8_000), ask(1_000, 8_000), ask(1_000, 8_000)];
    let ids = requests.each_ref().map(|request| request.id);
    for request in requests {
        granted(block_on(ledger.admit(request)));
    }
    block_on(ledger.dispatch(ids[0])).unwrap();
    block_on(ledger.dispatch(ids[1])).unwrap();

    store.refuse(Some("the disk is full"));
    let Err(NotHeld::Unavailable(words)) = block_on(ledger.dispatch(ids[2])) else { panic!("sent all the same") };
    assert!(words.contains("the ledger cannot write, and nothing metered passes until it can"), "{words}");
    assert!(words.contains("the disk is full"), "{words}");
    assert!(matches!(block_on(ledger.admit(ask(1, 300))), Err(NotHeld::Unavailable(_))));
    assert!(matches!(block_on(ledger.settle(ids[0], wrote(1_000, 10))), Err(NotHeld::Unavailable(_))));
    assert!(block_on(engine.hello(owner(2), set(2, 1, Terms::default()), vec![])).is_err());
    assert!(block_on(engine.top_up(host_key(), tokens(1))).is_err());
    assert!(block_on(engine.snapshot()).unwrap().failing.unwrap().contains("the disk is full"));

    store.refuse(None);
    until("it goes on", || block_on(ledger.admit(ask(1, 300))).is_ok());
    // The ending was kept; the open hold is forgotten, and whoever was refused is not there.
    assert_eq!(host(&engine).0, 1_010);
    assert_eq!(block_on(ledger.dispatch(ids[2])), Err(NotHeld::Unknown));
    block_on(ledger.settle(ids[0], wrote(1_000, 10))).unwrap();
    block_on(ledger.settle(ids[1], wrote(1_000, 20))).unwrap();
    assert_eq!(host(&engine).0, 2_030);
    assert_eq!(block_on(engine.owners()).unwrap().len(), 1);
}

#[test]
fn those_who_wait_are_told_when_the_store_fails() {
    let store = MemoryStore::default();
    let engine = memory(&store);
    let first = connect(&engine, 1, set(1, 10_000, Terms::default()));
    let second = connect(&engine, 2, set(2, 10_000, Terms::default()));
    let request = ask(1_000, 64_000);
    let id = request.id;
    granted(block_on(first.admit(request)));
    let waiter = std::thread::spawn(move || block_on(second.admit(ask(10, 300))));
    conformance::until_waiting(&engine, 1);
    store.refuse(Some("no"));
    assert!(block_on(first.dispatch(id)).is_err());
    assert!(matches!(waiter.join().unwrap(), Err(NotHeld::Unavailable(_))));
}

#[test]
fn c18_events_are_numbered_once_and_read_until_they_stand_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let engine = sqlite(&path);
    let mut notices = engine.events();
    let ledger = connect(&engine, 1, set(1, 1_000, Terms::default()));
    spend(&*ledger, 100, 850);
    assert_eq!(drain(&mut notices).last(), Some(&Notice::Recorded));
    let subject = Subject { run: Some("run1".into()), ..Subject::default() };
    let own = Event::new(EventType::Budget, subject, "cut_off", Outcome::Done).with("routes", 3_u64);
    block_on(engine.event(own.clone())).unwrap();
    let actions = |engine: &Engine| {
        let events = block_on(engine.unprojected_events(100)).unwrap();
        events.iter().map(|event| (event.number, event.event.action)).collect::<Vec<_>>()
    };
    let all = [(1, "cross_cap"), (2, "warn_threshold"), (3, "warn_threshold"), (4, "cut_off")];
    let mut found = actions(&engine);
    found[..3].sort_by_key(|(_, action)| *action);
    assert_eq!(found.iter().map(|(_, action)| *action).collect::<Vec<_>>(), all.map(|(_, action)| action));
    assert_eq!(block_on(engine.unprojected_events(100)).unwrap()[3].event, own);
    block_on(engine.mark_projected(2)).unwrap();
    block_on(engine.close()).unwrap();
    // After a crash those that were marked do not come again, and a lower mark brings none back.
    let engine = sqlite(&path);
    block_on(engine.mark_projected(1)).unwrap();
    assert_eq!(actions(&engine).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3, 4]);
    let large = Event::new(EventType::Budget, Subject::default(), "x", Outcome::Done).with("text", "y".repeat(30_000));
    assert!(block_on(engine.event(large)).unwrap_err().0.contains("shorten"));
}

#[test]
fn a_listener_that_does_not_keep_up_is_told_what_it_missed() {
    let engine = memory(&MemoryStore::default());
    let mut notices = engine.events();
    connect(&engine, 1, set(1, 1_000, Terms { warn_percent: vec![], ..Terms::default() }));
    let edit = |amount| CapEdit { amount: tokens(amount), count: None, window: None };
    for _ in 0..=NOTICES_MAX / 2 {
        block_on(engine.set_cap(host_key(), edit(0))).unwrap();
        block_on(engine.set_cap(host_key(), edit(1_000))).unwrap();
    }
    assert!(matches!(notices.try_next(), Some(Notice::Missed(missed)) if missed > 0));
    assert_eq!(drain(&mut notices).len(), NOTICES_MAX);
    block_on(engine.close()).unwrap();
    assert_eq!(block_on(notices.wait()), None);
}

fn find<'a>(node: &'a Node, path: &[&str]) -> &'a Node {
    match path {
        [] => node,
        [first, rest @ ..] => find(node.children.iter().find(|child| child.scope.to_string() == *first).unwrap(), rest),
    }
}

#[test]
fn c17_a_snapshot_is_a_tree_of_scopes_with_what_each_spent_and_holds() {
    let clock = Arc::new(Set(AtomicU64::new(NOON)));
    let engine = Engine::open(Box::new(MemoryStore::default()), clock.clone()).unwrap();
    let mut budgets = set(1, 100_000, Terms::default());
    budgets.chain.insert(3, Scope::Bottle("base".into()));
    let caps = budgets.caps.get_mut(&meter()).unwrap();
    caps.push(cap(Scope::Host, CapKind::Budget, 70_000));
    caps.push(Cap {
        window: Window::Rolling { ms: HOUR },
        ..cap(Scope::Bottle("dev".into()), CapKind::Budget, 50_000)
    });
    let ledger = connect(&engine, 1, budgets);
    spend(&*ledger, 1_000, 2_000);
    let under_way = ask(1_000, 8_000);
    let id = under_way.id;
    granted(block_on(ledger.admit(under_way)));
    block_on(ledger.dispatch(id)).unwrap();
    clock.0.store(NOON + 90_000, Ordering::SeqCst);

    let snapshot: LedgerSnapshot = block_on(engine.snapshot()).unwrap();
    let host = &snapshot.host.meters[0];
    assert_eq!((host.spent.raw, host.held.raw, host.requests), (tokens(3_000), tokens(9_090), 1));
    assert_eq!((host.usage.input, host.usage.output, host.estimated.raw.as_milli()), (1_000, 2_000, 0));
    // Half of the minute of the charge is within the last one.
    assert_eq!(host.rate, [1_500, 600, 100]);
    let replaced: Vec<_> = host.caps.iter().map(|line| (line.kind, line.replaced)).collect();
    assert_eq!(replaced, [(CapKind::Ceiling, false), (CapKind::Budget, true)]);
    let dev = find(&snapshot.host, &["bottle:base", "bottle:dev"]);
    let line = &dev.meters[0].caps[0];
    assert_eq!((line.standing.cap, line.standing.spent, line.until_ms), (tokens(50_000), tokens(3_000), None));
    let run = find(dev, &["agent:coder", "run:run1"]);
    assert!(run.live && snapshot.host.live);
    let flight = &run.in_flight[0];
    assert_eq!((flight.id, flight.model.as_deref(), flight.age_ms, flight.sent), (id, Some("claude"), 90_000, true));
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<LedgerSnapshot>(&text).unwrap(), snapshot);

    // The run is gone: its bottle stays, with what it cost.
    block_on(engine.owner_gone(1)).unwrap();
    let snapshot = block_on(engine.snapshot()).unwrap();
    assert_eq!(find(&snapshot.host, &["bottle:base", "bottle:dev"]).meters[0].spent.raw, tokens(12_090));
    assert!(!snapshot.host.live);
}

#[test]
fn another_process_under_the_same_name_ends_what_the_former_one_had_sent() {
    let engine = memory(&MemoryStore::default());
    let ledger = connect(&engine, 1, set(1, 100_000, Terms::default()));
    let request = ask(1_000, 8_000);
    let id = request.id;
    granted(block_on(ledger.admit(request)));
    block_on(ledger.dispatch(id)).unwrap();
    let again = carboy_store::ledger::Owner { start_time: 99, ..owner(1) };
    block_on(engine.hello(again.clone(), set(1, 100_000, Terms::default()), vec![meter()])).unwrap();
    assert_eq!(host(&engine), (9_090, 0));
    assert_eq!(block_on(engine.owners()).unwrap()[0].owner, again);
}

#[test]
fn a_budget_of_the_operator_for_one_run_binds_it_alone() {
    let engine = memory(&MemoryStore::default());
    let first = connect(&engine, 1, set(1, 100_000, Terms::default()));
    let second = connect(&engine, 2, set(2, 100_000, Terms::default()));
    let key = CapKey { scope: Scope::Run("run1".into()), meter: meter(), kind: CapKind::Budget };
    block_on(engine.set_cap(key, CapEdit { amount: tokens(0), count: None, window: None })).unwrap();
    assert!(is_exhausted(&first) && !is_exhausted(&second));
}

/// The same, and nothing is left held.
fn refuses(ledger: &Arc<dyn Ledger>) -> bool {
    let request = ask(10, 300);
    let id = request.id;
    match block_on(ledger.admit(request)) {
        Ok(Admitted::Held(_)) => {
            block_on(ledger.release(id)).unwrap();
            false
        }
        Err(NotHeld::Exhausted(_)) => true,
        other => panic!("{other:?}"),
    }
}

/// What a request may write at most now; nothing is left held.
fn room(ledger: &Arc<dyn Ledger>) -> u64 {
    let request = ask(0, 64_000);
    let id = request.id;
    let granted = granted(block_on(ledger.admit(request)));
    block_on(ledger.release(id)).unwrap();
    granted.output.unwrap_or(64_000)
}

/// What the machine's settings allow at most, on the host's budget and ceiling.
fn limited(id: u64, amount: u64, most: u64) -> BudgetSet {
    let mut set = set(id, amount, Terms { warn_percent: vec![], ..Terms::default() });
    for cap in set.caps.values_mut().flatten() {
        cap.most = Some(tokens(most));
    }
    set
}

#[test]
fn c7_c9_no_edit_and_no_top_up_loosens_what_the_machine_allows_and_every_stricter_one_holds() {
    let dir = tempfile::tempdir().unwrap();
    let engine = sqlite(&dir.path().join("ledger.db"));
    let ledger = connect(&engine, 1, limited(1, 1_000, 2_000));
    let edit = |amount| CapEdit { amount: tokens(amount), count: None, window: None };
    let refused = |result: Result<(), carboy_store::ledger::Unavailable>| {
        let words = result.unwrap_err().to_string();
        assert!(words.contains("at most 2k tokens") && words.contains("/etc/carboy/settings.yml"), "{words}");
    };
    refused(block_on(engine.set_cap(host_key(), edit(2_001))));
    refused(block_on(engine.set_cap(host_key(), CapEdit { amount: Amount::milli(u64::MAX), ..edit(0) })));
    // Counted otherwise, or in another window, it is no other cap.
    for (count, window) in [
        (Some(Count::Weighted), None),
        (None, Some(Window::Rolling { ms: HOUR })),
        (Some(Count::Raw), Some(Window::Calendar { unit: Unit::Day, tz: Zone::parse("UTC").unwrap() })),
    ] {
        refused(block_on(engine.set_cap(host_key(), CapEdit { amount: tokens(1_000_000), count, window })));
    }
    refused(block_on(engine.top_up(host_key(), tokens(1_001))));
    refused(block_on(engine.top_up(host_key(), Amount::milli(u64::MAX))));
    // In steps it is no more.
    block_on(engine.top_up(host_key(), tokens(600))).unwrap();
    refused(block_on(engine.top_up(host_key(), tokens(600))));
    block_on(engine.set_cap(host_key(), edit(1_500))).unwrap();
    refused(block_on(engine.top_up(host_key(), tokens(600))));
    block_on(engine.set_cap(host_key(), edit(2_000))).unwrap();
    refused(block_on(engine.top_up(host_key(), tokens(1))));
    // What was refused changed nothing, and what is asked for is held within what is allowed.
    assert_eq!(room(&ledger), 1_936);
    // Stricter is always taken: 10 and the 600 of before are not enough for a request that reads 300.
    block_on(engine.set_cap(host_key(), edit(10))).unwrap();
    assert_eq!(room(&ledger), 546);
    spend(&*ledger, 0, 300);
    assert!(refuses(&ledger));
}

#[test]
fn c9_an_edit_from_before_the_machine_allowed_less_gives_no_more_than_it_allows_now() {
    let engine = memory(&MemoryStore::default());
    connect(&engine, 1, set(1, 1_000, Terms::default()));
    let edit = CapEdit { amount: tokens(1_000_000), count: None, window: None };
    block_on(engine.set_cap(host_key(), edit)).unwrap();
    block_on(engine.top_up(host_key(), tokens(1_000_000))).unwrap();
    let later = connect(&engine, 2, limited(2, 1_000, 2_000));
    assert_eq!(room(&later), 1_936);
    // A measure of the edit's own does not lift it either.
    let edit = CapEdit { amount: tokens(2_000), count: Some(Count::Raw), window: Some(Window::Rolling { ms: HOUR }) };
    block_on(engine.set_cap(host_key(), edit)).unwrap();
    assert_eq!(room(&later), 1_936);
}

/// A bottle of its own below the host, each with a ceiling.
fn bottled(id: u64, bottle: &str, own: u64, host: u64) -> BudgetSet {
    let own = cap(Scope::Bottle(bottle.into()), CapKind::Ceiling, own);
    let caps = [(meter(), vec![own.clone(), cap(Scope::Host, CapKind::Ceiling, host)])].into();
    BudgetSet { chain: vec![own.scope, Scope::Host], caps, ..set(id, 0, Terms::default()) }
}

#[test]
fn who_waits_for_a_cap_of_its_own_stands_in_nobodys_way_at_a_cap_that_has_room() {
    let engine = memory(&MemoryStore::default());
    let greedy = connect(&engine, 1, bottled(1, "a", 10_000, 100_000));
    let other = connect(&engine, 2, bottled(2, "b", 10_000, 100_000));
    let first = ask(1_000, 64_000);
    granted(block_on(greedy.admit(first.clone())));
    // It holds all that its bottle may spend, and asks for more without an end.
    let mut waiting: Vec<_> = (0..8).map(|_| greedy.admit(ask(5_000, 3_000))).collect();
    assert!(waiting.iter_mut().all(|one| poll(one).is_none()));
    until_waiting(&engine, 8);
    let second = ask(1_000, 5_000);
    let mut admitted = other.admit(second.clone());
    let held = (0..100_000).find_map(|_| {
        block_on(engine.snapshot()).unwrap();
        poll(&mut admitted)
    });
    // The share of what has room is not cut for those who wait elsewhere.
    assert_eq!(granted(held.expect("it waits behind another bottle's own cap")).output, Some(5_000));
    // Whoever waits for the host's as well is not overtaken there, by one that would fit.
    block_on(engine.set_cap(host_key(), CapEdit { amount: tokens(16_200), count: None, window: None })).unwrap();
    let mut behind = other.admit(ask(1_000, 3_000));
    assert_eq!(poll(&mut behind), None);
    until_waiting(&engine, 9);
    block_on(greedy.release(first.id)).unwrap();
    until_waiting(&engine, 8);
    assert_eq!(poll(&mut behind), None, "overtaken");
    drop(waiting);
    until_waiting(&engine, 0);
    assert!(poll(&mut behind).is_some());
}

#[test]
fn sums_beyond_all_numbers_exhaust_every_cap_and_stop_no_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("carboy.db");
    let mut store = SqliteStore::open(&path).unwrap();
    // What thousands of answers are charged that broke off, none of which was bounded.
    let most = Amount::milli(u64::MAX / 3);
    let charged = Both { weighted: most, raw: most };
    for minute in [0, 0, 0, 1] {
        let spent = Spent {
            id: ask(0, 0).id,
            owner: 1,
            meter: meter(),
            model: None,
            chain: set(1, 0, Terms::default()).chain,
            at_ms: NOON + minute * 60_000,
            charged,
            usage: Usage { output: 1_000, ..Usage::default() },
            estimated: true,
            overrun: charged,
        };
        store.commit(&[Write::Spent { spent, ended_ms: NOON }]).unwrap();
    }
    let rows = store.reader().usage(&UsageQuery { scope: Some(Scope::Host), ..UsageQuery::default() }).unwrap();
    let all = Amount::milli(u64::MAX);
    let everything = Both { weighted: all, raw: all };
    assert_eq!((rows[0].requests, rows[0].charged, rows[0].overrun), (4, everything, everything));
    drop(store);
    let clock = Arc::new(Set(AtomicU64::new(NOON + HOUR)));
    let engine = Engine::open(Box::new(SqliteStore::open(&path).unwrap()), clock).unwrap();
    assert!(is_exhausted(&connect(&engine, 1, set(1, 1_000_000_000_000, Terms::default()))));
    let unbound = BudgetSet { caps: [].into(), ..set(2, 0, Terms::default()) };
    spend(&*connect(&engine, 2, unbound), 1, 1);
}

#[test]
fn c11_what_is_reached_and_crossed_at_once_is_told_in_that_order() {
    let engine = memory(&MemoryStore::default());
    let mut notices = engine.events();
    let terms = || Terms { warn_percent: vec![95, 50, 80], ..Terms::default() };
    let first = connect(&engine, 1, set(1, 10_000, terms()));
    connect(&engine, 2, set(2, 10_000, terms()));
    // One settlement passes every threshold and the cap.
    spend(&*first, 1_000, 8_900);
    let told: Vec<String> = drain(&mut notices)
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::Warning(warning) => Some(format!("{} {}", warning.run, warning.percent)),
            Notice::Crossing(crossing) => Some(format!("{} crossed", crossing.run)),
            Notice::Restored { .. } | Notice::Recorded | Notice::Missed(_) => None,
        })
        .collect();
    for run in ["run1", "run2"] {
        let of_run: Vec<&str> = told.iter().filter_map(|words| words.strip_prefix(run)).collect();
        assert_eq!(of_run, [" 50", " 80", " 95", " crossed"], "{told:?}");
    }
    // It goes on by what was under way: nothing is announced that was overtaken.
    let events: Vec<String> = block_on(engine.unprojected_events(1_000))
        .unwrap()
        .into_iter()
        .map(|event| event.event.action.to_string())
        .filter(|action| ["warn_threshold", "cross_cap"].contains(&action.as_str()))
        .collect();
    assert_eq!(events.iter().position(|action| action == "cross_cap"), Some(3), "{events:?}");
}

fn moment(text: &str) -> u64 {
    u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap()
}

fn calendar(unit: Unit, tz: &str) -> Window {
    Window::Calendar { unit, tz: Zone::parse(tz).unwrap() }
}

/// C6: at every edge of the calendar a window's room comes once, at its midnight, and neither before nor again.
#[test]
fn c6_days_that_are_short_or_long_or_end_a_month_refill_once_and_at_their_midnight() {
    for (unit, tz, midnight, next) in [
        // The clocks go forward, and back: a day of 23 hours, and one of 25.
        (Unit::Day, "Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        (Unit::Day, "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        // Midnight itself does not exist there, and there comes twice.
        (Unit::Day, "America/Sao_Paulo", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"),
        (Unit::Day, "America/Havana", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        // A day that was left out.
        (Unit::Day, "Pacific/Apia", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
        (Unit::Month, "UTC", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        (Unit::Month, "Asia/Kathmandu", "2026-01-31T18:15:00Z", "2026-02-28T18:15:00Z"),
        (Unit::Week, "America/New_York", "2026-03-02T05:00:00Z", "2026-03-09T04:00:00Z"),
        (Unit::Month, "UTC", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    ] {
        let (midnight, next) = (moment(midnight), moment(next));
        let window = calendar(unit, tz);
        let stands = (window.since_ms(next - 1), window.until_ms(midnight), window.since_ms(next));
        assert_eq!(stands, (midnight, Some(next), next), "{unit:?} {tz}");
        let clock = Arc::new(Set(AtomicU64::new(midnight)));
        let engine = Engine::open(Box::new(MemoryStore::default()), clock.clone()).unwrap();
        let ledger = connect(&engine, 1, windowed(1, 1_000, window.clone()));
        spend(&*ledger, 100, 800);
        let length = next - midnight;
        // All through it, hour by hour, and to its last millisecond.
        for at in (0..length).step_by(HOUR as usize).chain([length - 60_000, length - 1]) {
            clock.0.store(midnight + at, Ordering::SeqCst);
            assert!(refuses(&ledger), "{unit:?} {tz}: refilled {at} ms after its beginning");
        }
        clock.0.store(next, Ordering::SeqCst);
        assert!(!refuses(&ledger), "{unit:?} {tz}: not refilled");
        spend(&*ledger, 100, 600);
        clock.0.store(next + HOUR, Ordering::SeqCst);
        assert!(refuses(&ledger), "{unit:?} {tz}: refilled twice");
    }
}

/// C6: an hour of jumps back and forth gives no window twice: what a wrong clock dated ahead counts when that day comes.
#[test]
fn c6_a_clock_that_jumps_ahead_and_back_gives_no_window_a_second_time() {
    let clock = Arc::new(Set(AtomicU64::new(NOON)));
    let store = MemoryStore::default();
    let engine = Engine::open(Box::new(store.clone()), clock.clone()).unwrap();
    let day = || calendar(Unit::Day, "UTC");
    let ledger = connect(&engine, 1, windowed(1, 1_000, day()));
    spend(&*ledger, 100, 800);
    // A day ahead there is room, and it is used; back again there is none, then or the next day, which it was of.
    clock.0.store(NOON + 24 * HOUR, Ordering::SeqCst);
    assert!(!refuses(&ledger));
    spend(&*ledger, 100, 600);
    for at in [NOON, NOON + 11 * HOUR, NOON + 12 * HOUR, NOON + 24 * HOUR, NOON + 35 * HOUR] {
        clock.0.store(at, Ordering::SeqCst);
        assert!(refuses(&ledger), "{} h after noon", (at - NOON) / HOUR);
    }
    // Nor does a new start forget it.
    block_on(engine.close()).unwrap();
    clock.0.store(NOON + 13 * HOUR, Ordering::SeqCst);
    let engine = Engine::open(Box::new(store), clock.clone()).unwrap();
    let ledger = connect(&engine, 1, windowed(1, 1_000, day()));
    assert!(refuses(&ledger));
    clock.0.store(NOON + 36 * HOUR, Ordering::SeqCst);
    assert!(!refuses(&ledger));
}

/// C6: whoever changes the zone in the file moves the midnight; what was spent stays spent in every zone that has it.
#[test]
fn c6_another_time_zone_in_the_file_refills_nothing_by_going_there_and_back() {
    let clock = Arc::new(Set(AtomicU64::new(moment("2026-06-10T12:30:00Z"))));
    let engine = Engine::open(Box::new(MemoryStore::default()), clock.clone()).unwrap();
    let ledger = connect(&engine, 1, windowed(1, 1_000, calendar(Unit::Day, "UTC")));
    spend(&*ledger, 100, 800);
    let renew = |tz: &str| connect(&engine, 1, windowed(1, 1_000, calendar(Unit::Day, tz)));
    for tz in ["Pacific/Kiritimati", "America/Los_Angeles", "Asia/Kathmandu", "Pacific/Chatham", "UTC"] {
        assert!(refuses(&renew(tz)), "{tz}: it was spent today there, too");
    }
    // An hour later the day has changed on the chain's other side: what is spent there is spent here, too.
    clock.0.store(moment("2026-06-10T23:30:00Z"), Ordering::SeqCst);
    assert!(refuses(&renew("UTC")));
    let elsewhere = renew("Asia/Kathmandu");
    assert!(!refuses(&elsewhere), "there it is the eleventh");
    spend(&*elsewhere, 100, 600);
    assert!(refuses(&elsewhere) && refuses(&renew("UTC")));
    // With the eleventh here, what was spent of it there counts: half an hour of both is no third budget.
    clock.0.store(moment("2026-06-11T00:10:00Z"), Ordering::SeqCst);
    assert!(!refuses(&renew("UTC")), "a new day");
    assert!(refuses(&renew("Asia/Kathmandu")));
}
