//! What everything that carries out ledger calls has to do, whatever it keeps them in and however it is reached.
//!
//! `suite` runs over a maker of fresh subjects; `race` alone is also run over one that is wrong on purpose.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use carboy_core::budget::{
    Admitted, Amount, Ask, Both, BudgetSet, Caching, Cap, CapEdit, CapKey, CapKind, Count, Counted, Ending, Gate,
    Granted, NotHeld, Overrun, ReservationId, Scope, Terms, Usage, Window,
};
use carboy_core::ids::MeterName;
use carboy_core::ports::Ledger;
use carboy_store::ledger::{Crossing, Engine, Gone, Notice, Notices, Owner};

use crate::support::{Dice, block_on};

/// Something that carries out ledger calls.
pub trait Subject: Sync {
    /// Says hello for an owner and gives its ledger.
    fn connect(&self, owner: Owner, set: BudgetSet) -> Arc<dyn Ledger>;

    /// The engine behind it, for the operator's side.
    fn engine(&self) -> &Engine;

    /// An owner is gone, by the name that it was connected under.
    fn gone(&self, owner: u64) -> Gone {
        block_on(self.engine().owner_gone(owner)).unwrap()
    }
}

/// An engine in this process.
pub struct Direct(pub Engine);

impl Subject for Direct {
    fn connect(&self, owner: Owner, set: BudgetSet) -> Arc<dyn Ledger> {
        let id = owner.id;
        block_on(self.0.hello(owner, set, vec![meter()])).unwrap();
        self.0.ledger(id)
    }

    fn engine(&self) -> &Engine {
        &self.0
    }
}

pub fn meter() -> MeterName {
    MeterName::parse("anthropic").unwrap()
}

pub fn tokens(tokens: u64) -> Amount {
    Amount::tokens(tokens).unwrap()
}

pub fn owner(id: u64) -> Owner {
    Owner {
        id,
        run: format!("run{id}"),
        bottle: "dev".into(),
        agent: Some("coder".into()),
        pid: 100 + id as u32,
        start_time: id,
        boot_id: "boot".into(),
    }
}

pub fn cap(scope: Scope, kind: CapKind, amount: u64) -> Cap {
    Cap { scope, kind, amount: tokens(amount), count: Count::Raw, window: Window::Lifetime, most: None }
}

/// A run's budgets: a ceiling of the host, and what else is given.
pub fn set(owner: u64, host: u64, terms: Terms) -> BudgetSet {
    let chain =
        vec![Scope::Run(format!("run{owner}")), Scope::Agent("coder".into()), Scope::Bottle("dev".into()), Scope::Host];
    let caps = [(meter(), vec![cap(Scope::Host, CapKind::Ceiling, host)])].into();
    BudgetSet { chain, caps, terms, ..BudgetSet::default() }
}

pub fn host_key() -> CapKey {
    CapKey { scope: Scope::Host, meter: meter(), kind: CapKind::Ceiling }
}

static NAMES: AtomicU64 = AtomicU64::new(1);

/// A new name for each asking.
pub fn ask(input: u64, output: u64) -> Ask {
    Ask {
        id: ReservationId(u128::from(NAMES.fetch_add(1, Ordering::Relaxed)) << 64 | u128::from(std::process::id())),
        meter: meter(),
        model: Some("claude".into()),
        input,
        counted: Counted::Final,
        caching: Caching::Impossible,
        output,
        answers: 1,
    }
}

pub fn wrote(input: u64, output: u64) -> Ending {
    Ending::Reported(Usage { input, output, ..Usage::default() })
}

pub fn granted(admitted: Result<Admitted, NotHeld>) -> Granted {
    match admitted {
        Ok(Admitted::Held(granted)) => granted,
        other => panic!("not held: {other:?}"),
    }
}

/// What the host has spent and holds, counted raw.
pub fn host(engine: &Engine) -> (u64, u64) {
    let snapshot = block_on(engine.snapshot()).unwrap();
    let of = |both: Both| both.raw.tokens_up();
    snapshot
        .host
        .meters
        .iter()
        .find(|line| line.meter == meter())
        .map_or((0, 0), |line| (of(line.spent), of(line.held)))
}

/// Ready or not, once.
pub fn poll<T>(future: &mut (dyn Future<Output = T> + Send + Unpin)) -> Option<T> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Asks until so many wait. Each look is a question that stands behind theirs.
pub fn until_waiting(engine: &Engine, waiting: u64) {
    for _ in 0..100_000 {
        if block_on(engine.snapshot()).unwrap().waiting == waiting {
            return;
        }
        thread::yield_now();
    }
    panic!("{waiting} never wait");
}

/// Carries a request through.
pub fn spend(ledger: &dyn Ledger, input: u64, output: u64) {
    let ask = ask(input, output);
    let id = ask.id;
    granted(block_on(ledger.admit(ask)));
    block_on(ledger.dispatch(id)).unwrap();
    block_on(ledger.settle(id, wrote(input, output))).unwrap();
}

/// Everything that is there now.
pub fn drain(notices: &mut Notices) -> Vec<Notice> {
    std::iter::from_fn(|| notices.try_next()).collect()
}

pub fn crossings(notices: &mut Notices) -> Vec<Crossing> {
    let crossing = |notice| if let Notice::Crossing(crossing) = notice { Some(crossing) } else { None };
    drain(notices).into_iter().filter_map(crossing).collect()
}

type Check = fn(&dyn Subject);
type Make<'a> = &'a dyn Fn() -> Box<dyn Subject>;

/// All of it.
pub fn suite(make: Make<'_>) {
    let checks: [(&str, Check); 14] = [
        ("one request from hold to charge", one_request),
        ("an ending counts once", one_ending),
        ("nobody ends what is another's", another_owner),
        ("what does not fit is clamped", clamp),
        ("a bound near a cap is counted first", count_first),
        ("who came first goes first", first_in_first_out),
        ("who went away is not waited for", dropped),
        ("waiting has an end", busy),
        ("spent is spent", exhausted),
        ("a tranche is extended and refused", tranches),
        ("observed requests cross once", observed),
        ("an owner that is gone", gone),
        ("the operator's changes", operator),
        ("many at once never overspend", concurrency),
    ];
    for (name, check) in checks {
        println!("conformance: {name}");
        check(&*make());
    }
}

fn one_request(subject: &dyn Subject) {
    let ledger = subject.connect(owner(1), set(1, 100_000, Terms::default()));
    let request = ask(1_000, 8_000);
    let id = request.id;
    let answer = Granted { output: Some(8_000), held: 8_000 };
    assert_eq!(granted(block_on(ledger.admit(request.clone()))), answer);
    // Asked twice, as after a lost answer: held once.
    assert_eq!(granted(block_on(ledger.admit(request))), answer);
    assert_eq!(host(subject.engine()), (0, 9_090));
    block_on(ledger.dispatch(id)).unwrap();
    block_on(ledger.dispatch(id)).unwrap();
    assert!(block_on(ledger.release(id)).is_err(), "it may have been sent");
    block_on(ledger.settle(id, wrote(900, 500))).unwrap();
    assert_eq!(host(subject.engine()), (1_400, 0));
    // Nothing had been sent: nothing is spent.
    let request = ask(1_000, 8_000);
    let id = request.id;
    granted(block_on(ledger.admit(request)));
    block_on(ledger.release(id)).unwrap();
    assert_eq!(block_on(ledger.dispatch(id)), Err(NotHeld::Unknown));
    assert_eq!(host(subject.engine()), (1_400, 0));
}

fn one_ending(subject: &dyn Subject) {
    let ledger = subject.connect(owner(1), set(1, 100_000, Terms::default()));
    let endings = [
        wrote(100, 50),
        Ending::Estimated(Usage { output: 70, ..Usage::default() }),
        Ending::Unknown(Usage { output: 7, ..Usage::default() }),
        // No request can cost that: all that was held is charged.
        wrote(u64::MAX, 1),
    ];
    let whole = 1_000 + 8_000 + 90;
    let mut spent = 0;
    for (ending, cost) in endings.into_iter().zip([150, 70, whole, whole]) {
        let request = ask(1_000, 8_000);
        let id = request.id;
        granted(block_on(ledger.admit(request)));
        block_on(ledger.dispatch(id)).unwrap();
        for again in [ending, ending, wrote(5, 5)] {
            block_on(ledger.settle(id, again)).unwrap();
        }
        // Its name is used up.
        assert_eq!(block_on(ledger.admit(Ask { id, ..ask(1, 1) })), Err(NotHeld::Unknown));
        spent += cost;
        assert_eq!(host(subject.engine()), (spent, 0), "{ending:?}");
    }
    assert_eq!(block_on(ledger.settle(ask(0, 0).id, wrote(1, 1))), Err(NotHeld::Unknown));
    assert_eq!(host(subject.engine()), (spent, 0));
}

fn another_owner(subject: &dyn Subject) {
    let own = subject.connect(owner(1), set(1, 100_000, Terms::default()));
    let other = subject.connect(owner(2), set(2, 100_000, Terms::default()));
    let request = ask(10, 500);
    let id = request.id;
    granted(block_on(own.admit(request.clone())));
    assert_eq!(block_on(other.admit(request)), Err(NotHeld::Unknown));
    assert_eq!(block_on(other.dispatch(id)), Err(NotHeld::Unknown));
    assert_eq!(block_on(other.settle(id, wrote(1, 1))), Err(NotHeld::Unknown));
    assert_eq!(block_on(other.extend(id, 600)), Err(NotHeld::Unknown));
    assert_eq!(block_on(other.release(id)), Err(NotHeld::Unknown));
    assert_eq!(host(subject.engine()), (0, 10 + 500 + 64));
}

fn clamp(subject: &dyn Subject) {
    let ledger = subject.connect(owner(1), set(1, 9_510, Terms::default()));
    // 1,000 + 8,415 and a hundredth of both are 9,510 (rounded up): one more would not fit.
    assert_eq!(granted(block_on(ledger.admit(ask(1_000, 64_000)))).output, Some(8_415));
}

fn count_first(subject: &dyn Subject) {
    let ledger = subject.connect(owner(1), set(1, 100_000, Terms::default()));
    let bound = |input, output| Ask { counted: Counted::Bound, ..ask(input, output) };
    assert_eq!(granted(block_on(ledger.admit(bound(1_000, 8_000)))).output, Some(8_000));
    assert_eq!(block_on(ledger.admit(bound(1_000, 85_000))), Ok(Admitted::CountFirst));
    assert_eq!(host(subject.engine()), (0, 9_090), "nothing is held for it");
    assert!(matches!(block_on(ledger.admit(ask(1_000, 85_000))), Ok(Admitted::Held(_))));
}

fn first_in_first_out(subject: &dyn Subject) {
    let ledgers: Vec<_> = (1..=4).map(|id| subject.connect(owner(id), set(id, 10_000, Terms::default()))).collect();
    let first = ask(1_000, 64_000);
    let id = first.id;
    granted(block_on(ledgers[0].admit(first)));
    block_on(ledgers[0].dispatch(id)).unwrap();
    // Each of them needs all there is, so that one after the other goes.
    let mut waiting = VecDeque::new();
    for (n, ledger) in ledgers[1..].iter().cloned().enumerate() {
        let request = Ask { input: 5_000, ..ask(0, 3_000) };
        let id = request.id;
        waiting.push_back((ledger.clone(), id, thread::spawn(move || block_on(ledger.admit(request)))));
        until_waiting(subject.engine(), n as u64 + 1);
    }
    block_on(ledgers[0].settle(id, wrote(0, 0))).unwrap();
    while let Some((ledger, id, thread)) = waiting.pop_front() {
        granted(thread.join().unwrap());
        until_waiting(subject.engine(), waiting.len() as u64);
        assert!(waiting.iter().all(|(_, _, thread)| !thread.is_finished()), "overtaken");
        block_on(ledger.release(id)).unwrap();
    }
    assert_eq!(host(subject.engine()), (0, 0));
}

fn dropped(subject: &dyn Subject) {
    let ledgers: Vec<_> = (1..=3).map(|id| subject.connect(owner(id), set(id, 10_000, Terms::default()))).collect();
    let first = ask(1_000, 64_000);
    let id = first.id;
    granted(block_on(ledgers[0].admit(first)));
    let mut second = ledgers[1].admit(Ask { input: 9_000, ..ask(0, 500) });
    assert_eq!(poll(&mut second), None);
    until_waiting(subject.engine(), 1);
    let third = ledgers[2].clone();
    let third = thread::spawn(move || block_on(third.admit(ask(10, 300))));
    until_waiting(subject.engine(), 2);
    // The second one goes away; the third one does not wait for it.
    drop(second);
    until_waiting(subject.engine(), 1);
    block_on(ledgers[0].release(id)).unwrap();
    assert_eq!(granted(third.join().unwrap()).output, Some(300));
    // One that was answered and not taken is given back.
    let mut taken = ledgers[1].admit(ask(10, 300));
    // Over a socket it takes its time.
    let held = (0..100_000).any(|_| host(subject.engine()).1 == 2 * 374 || poll(&mut taken).is_some());
    assert!(held);
    drop(ledgers[1].admit(ask(10, 300)));
    for _ in 0..100_000 {
        if host(subject.engine()).1 <= 2 * 374 {
            return;
        }
    }
    panic!("a hold that nobody took is never given back");
}

fn busy(subject: &dyn Subject) {
    let terms = |hold_wait_ms| Terms { hold_wait_ms, ..Terms::default() };
    let first = subject.connect(owner(1), set(1, 10_000, terms(0)));
    granted(block_on(first.admit(ask(1_000, 64_000))));
    for wait_ms in [0, 20] {
        let second = subject.connect(owner(2), set(2, 10_000, terms(wait_ms)));
        let Err(NotHeld::Busy(binding)) = block_on(second.admit(ask(10, 300))) else { panic!("not busy") };
        assert_eq!(
            (binding.scope, binding.kind, binding.standing.spent),
            (Scope::Host, CapKind::Ceiling, Amount::ZERO)
        );
    }
    assert_eq!(block_on(subject.engine().snapshot()).unwrap().waiting, 0);
}

fn exhausted(subject: &dyn Subject) {
    let ledger = subject.connect(owner(1), set(1, 10_000, Terms::default()));
    let mut notices = subject.engine().events();
    spend(&*ledger, 1_000, 8_000);
    assert_eq!(crossings(&mut notices), []);
    let Err(NotHeld::Exhausted(binding)) = block_on(ledger.admit(ask(1_000, 500))) else { panic!("not exhausted") };
    assert_eq!((binding.standing.spent, binding.until_ms), (tokens(9_000), None));
    // The refusal is a crossing, and is told once.
    assert!(block_on(ledger.admit(ask(1_000, 500))).is_err());
    let told = crossings(&mut notices);
    assert_eq!(told.iter().map(|crossing| crossing.run.as_str()).collect::<Vec<_>>(), ["run1"]);
    assert_eq!(host(subject.engine()), (9_000, 0));
}

fn tranches(subject: &dyn Subject) {
    let terms = Terms { overrun: Overrun::Bounded, ..Terms::default() };
    let ledger = subject.connect(owner(1), set(1, 20_000, terms));
    let request = ask(1_000, 64_000);
    let id = request.id;
    assert_eq!(granted(block_on(ledger.admit(request))), Granted { output: Some(64_000), held: 4_096 });
    block_on(ledger.dispatch(id)).unwrap();
    assert_eq!(block_on(ledger.extend(id, 8_192)), Ok(8_192));
    assert_eq!(block_on(ledger.extend(id, 8_000)), Ok(8_192), "held already");
    // Room for a part of it: 1,000 + 18,801 and a hundredth of both are 20,000 (rounded up).
    assert_eq!(block_on(ledger.extend(id, 30_000)), Ok(18_801));
    let Err(NotHeld::Exhausted(_)) = block_on(ledger.extend(id, 30_000)) else { panic!("more than there is") };
    // What the provider wrote before the cut is charged all the same.
    block_on(ledger.settle(id, wrote(1_000, 18_900))).unwrap();
    assert_eq!(host(subject.engine()), (19_900, 0));
}

fn observed(subject: &dyn Subject) {
    let terms = Terms { gate: Gate::Observe, ..Terms::default() };
    let ledger = subject.connect(owner(1), set(1, 1_000, terms));
    let request = ask(5_000, 64_000);
    let id = request.id;
    assert_eq!(granted(block_on(ledger.admit(request))), Granted { output: None, held: 64_000 });
    block_on(ledger.dispatch(id)).unwrap();
    assert_eq!(block_on(ledger.extend(id, 64_000)), Ok(64_000));
    let second = ask(10, 10);
    let other = second.id;
    granted(block_on(ledger.admit(second)));
    block_on(ledger.release(other)).unwrap();
    block_on(ledger.settle(id, wrote(5_000, 200))).unwrap();
    assert!(matches!(block_on(ledger.admit(ask(1, 1))), Err(NotHeld::Exhausted(_))));
    assert_eq!(host(subject.engine()), (5_200, 0));
}

fn gone(subject: &dyn Subject) {
    let ledger = subject.connect(owner(1), set(1, 100_000, Terms::default()));
    let (sent, open) = (ask(1_000, 8_000), ask(1_000, 8_000));
    let ids = (sent.id, open.id);
    granted(block_on(ledger.admit(sent)));
    granted(block_on(ledger.admit(open)));
    block_on(ledger.dispatch(ids.0)).unwrap();
    let left = subject.gone(1);
    assert_eq!((left.charged, left.released), (1, 1));
    assert_eq!(host(subject.engine()), (9_090, 0));
    // It was not dead after all: its ending changes nothing any more.
    let ledger = subject.connect(owner(1), set(1, 100_000, Terms::default()));
    block_on(ledger.settle(ids.0, wrote(1, 1))).unwrap();
    assert_eq!(block_on(ledger.dispatch(ids.1)), Err(NotHeld::Unknown));
    assert_eq!(host(subject.engine()), (9_090, 0));
}

fn operator(subject: &dyn Subject) {
    let engine = subject.engine();
    let ledger = subject.connect(owner(1), set(1, 10_000, Terms::default()));
    spend(&*ledger, 1_000, 4_000);
    let edit = |amount| CapEdit { amount: tokens(amount), count: None, window: None };
    // Lowered below what is spent: told at once, and nothing goes.
    let mut notices = engine.events();
    block_on(engine.set_cap(host_key(), edit(4_000))).unwrap();
    assert_eq!(crossings(&mut notices).len(), 1);
    assert!(matches!(block_on(ledger.admit(ask(10, 300))), Err(NotHeld::Exhausted(_))));
    block_on(engine.top_up(host_key(), tokens(2_000))).unwrap();
    assert!(drain(&mut notices).iter().any(|notice| matches!(notice, Notice::Restored { still_crossed: false, .. })));
    assert_eq!(host(engine), (5_000, 0), "what is spent stays spent");
    assert!(matches!(block_on(ledger.admit(ask(10, 300))), Ok(Admitted::Held(_))));
    assert_eq!(block_on(engine.unset_cap(host_key())), Ok(true));
    assert_eq!(block_on(engine.unset_cap(host_key())), Ok(false));
    // The file's 10,000 and 2,000 on top, of which 5,000 are spent and 374 held.
    assert_eq!(granted(block_on(ledger.admit(ask(1_000, 64_000)))).output, Some(5_560));
}

/// What the provider billed, of how much it might.
#[derive(Debug, PartialEq, Eq)]
pub struct Raced {
    pub billed: u64,
    pub cap: u64,
    pub requests: u64,
}

/// Thirty-two runs spend one cap until it is spent. The bill is the provider's own: up to what each request was granted.
pub fn race(connect: &(dyn Fn(u64, BudgetSet) -> Arc<dyn Ledger> + Sync)) -> Raced {
    const CAP: u64 = 1_000_000;
    let (billed, requests) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for id in 1..=32_u64 {
            let (billed, requests) = (&billed, &requests);
            scope.spawn(move || {
                let ledger = connect(id, set(id, CAP, Terms { hold_wait_ms: 120_000, ..Terms::default() }));
                let mut dice = Dice(id);
                loop {
                    let request = ask(dice.below(2_000) as u64, 1_000 + dice.below(30_000) as u64);
                    let (id, input) = (request.id, request.input);
                    let output = match block_on(ledger.admit(request)) {
                        Ok(Admitted::Held(granted)) => granted.output.unwrap(),
                        Err(NotHeld::Exhausted(_)) => return,
                        other => panic!("{other:?}"),
                    };
                    block_on(ledger.dispatch(id)).unwrap();
                    let written = output - dice.below(output as usize / 4 + 1) as u64;
                    // The provider takes its time.
                    thread::sleep(Duration::from_micros(dice.below(500) as u64));
                    billed.fetch_add(input + written, Ordering::Relaxed);
                    requests.fetch_add(1, Ordering::Relaxed);
                    block_on(ledger.settle(id, wrote(input, written))).unwrap();
                }
            });
        }
    });
    Raced { billed: billed.into_inner(), cap: CAP, requests: requests.into_inner() }
}

fn concurrency(subject: &dyn Subject) {
    let raced = race(&|id, set| subject.connect(owner(id), set));
    // I1: to the token. I5: nothing useful was left over. I3, I4: the book has what the provider billed, and holds nothing.
    assert!(raced.billed <= raced.cap, "{raced:?}");
    assert!(raced.billed >= raced.cap * 95 / 100, "{raced:?}");
    assert_eq!(host(subject.engine()), (raced.billed, 0));
    assert_eq!(subject.engine().reader().differences().unwrap(), []);
}

/// A refusal for good, for subjects without caps.
pub fn exhausted_binding() -> NotHeld {
    NotHeld::Exhausted(carboy_core::budget::Binding {
        scope: Scope::Host,
        meter: meter(),
        kind: CapKind::Ceiling,
        standing: carboy_core::budget::Standing {
            cap: Amount::ZERO,
            spent: Amount::ZERO,
            held: Amount::ZERO,
            count: Count::Raw,
        },
        until_ms: None,
    })
}
