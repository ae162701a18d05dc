//! The controller over its socket, in this process: what a ledger has to do, who may ask what, and what happens to those
//! who say nonsense, come from elsewhere, or stay away.
#![allow(clippy::unwrap_used)]

#[path = "../../carboy-store/tests/support/conformance.rs"]
mod conformance;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use carboy_control::controller::{self, Running};
use carboy_control::home::Home;
use carboy_core::audit::{ChainKey, Event, EventType, Outcome};
use carboy_core::budget::{BudgetSet, CapEdit, LedgerSnapshot, NotHeld, Shutdown, Terms};
use carboy_core::ports::{Later, Ledger};
use carboy_store::audit::{Query, query};
use carboy_store::controller::frame::encode;
use carboy_store::controller::protocol::{Answer, Call, Hello, Push, Request, Role, Said, Supervised, VERSION};
use carboy_store::controller::{Client, ClientEvents, Line, LineError, Reach};
use carboy_store::ledger::{self, Engine, Gone, LedgerStore, MemoryStore, Owner};
use conformance::{Subject, ask, granted, host, host_key, meter, owner, set, suite, tokens, wrote};
use support::block_on;
use tokio::sync::watch;

/// What the suite shares with its other users.
mod support {
    pub fn block_on<F: Future>(future: F) -> F::Output {
        super::runtime().block_on(future)
    }

    pub struct Dice(pub u64);

    impl Dice {
        pub fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }
    }
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

/// Clients and what is pushed to them, by their owners' numbers.
type Clients = HashMap<u64, (Arc<Client>, ClientEvents)>;

/// A controller over a ledger in memory.
struct Controller {
    dir: tempfile::TempDir,
    home: Home,
    store: MemoryStore,
    engine: Engine,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<Result<(), controller::ServeError>>,
    clients: Mutex<Clients>,
}

struct Socket(PathBuf);

impl Reach for Socket {
    fn socket(&self) -> &Path {
        &self.0
    }

    fn start(&self) -> Later<'_, Result<(), String>> {
        Box::pin(std::future::ready(Err("not in this test".into())))
    }

    fn program(&self) -> &str {
        "0.1.0"
    }
}

fn running(home: &Home, idle: Option<Duration>) -> (Running, watch::Sender<bool>) {
    let (stop, stopped) = watch::channel(false);
    let key = Box::new(|| Ok(ChainKey::Plain));
    (Running { home: home.clone(), key, idle, metrics: None, aloud: false, stop: stopped }, stop)
}

impl Controller {
    fn new() -> Controller {
        Controller::with(tempfile::tempdir().unwrap(), MemoryStore::default(), None)
    }

    fn with(dir: tempfile::TempDir, store: MemoryStore, idle: Option<Duration>) -> Controller {
        let home = Home::open(&dir.path().join("home"), None).unwrap();
        let engine = Engine::open(Box::new(store.clone()), Arc::new(carboy_control::clock::SystemClock)).unwrap();
        let (running, stop) = running(&home, idle);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let its_own = engine.clone();
        let run = controller::run(running, move |_| Ok(its_own), move || ready.send(()).unwrap());
        let served = runtime().spawn(run);
        is_ready.recv().unwrap();
        Controller { dir, home, store, engine, stop, served, clients: Mutex::default() }
    }

    fn socket(&self) -> PathBuf {
        self.home.controller_socket().unwrap()
    }

    fn client(&self, supervised: Supervised) -> (Arc<Client>, ClientEvents) {
        let _inside = runtime().enter();
        Client::open(Arc::new(Socket(self.socket())), supervised)
    }

    fn line(&self, role: Role) -> Line {
        block_on(Line::open(&self.socket(), "0.1.0", role)).unwrap()
    }

    /// Ends it in order and gives what it stood on. Its clients stay.
    fn end(self) -> (tempfile::TempDir, MemoryStore, Clients) {
        let socket = self.socket();
        self.stop.send_replace(true);
        block_on(self.served).unwrap().unwrap();
        assert!(!socket.exists());
        (self.dir, self.store, self.clients.into_inner().unwrap())
    }

    fn actions(&self) -> Vec<String> {
        let entries = query(&self.home.audit_log(), &Query::default()).unwrap().entries;
        entries.iter().filter_map(|entry| entry.text("action").map(str::to_owned)).collect()
    }

    fn count(&self, action: &str) -> usize {
        self.actions().iter().filter(|known| *known == action).count()
    }
}

fn supervised(id: u64, budgets: BudgetSet) -> Supervised {
    let known = owner(id);
    let (run, bottle, agent) = (known.run, known.bottle, known.agent);
    Supervised { run, bottle, agent, plan: String::new(), budgets, meters: vec![meter()] }
}

impl Subject for Controller {
    fn connect(&self, owner: Owner, set: BudgetSet) -> Arc<dyn Ledger> {
        let (client, events) = self.client(supervised(owner.id, set.clone()));
        // Answered: its hello was heard, and what is done next is known to be about it.
        block_on(client.renew(supervised(owner.id, set))).unwrap();
        self.clients.lock().unwrap().insert(owner.id, (client.clone(), events));
        client
    }

    fn engine(&self) -> &Engine {
        &self.engine
    }

    fn gone(&self, id: u64) -> Gone {
        let owners = block_on(self.engine.owners()).unwrap();
        let known = owners.iter().find(|known| known.owner.run == owner(id).run).unwrap();
        block_on(self.engine.owner_gone(known.owner.id)).unwrap()
    }
}

/// Looks until it is so.
fn until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !look() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

fn edit(amount: u64) -> CapEdit {
    CapEdit { amount: tokens(amount), count: None, window: None }
}

#[test]
fn c16_the_ledger_behind_the_socket_conforms() {
    let _inside = runtime().enter();
    suite(&|| Box::new(Controller::new()));
}

#[test]
fn nonsense_ends_its_own_connection_with_a_word_and_no_other() {
    let controller = Controller::new();
    let ledger = controller.connect(owner(1), set(1, 100_000, Terms::default()));
    let hello = encode(&Hello { version: VERSION, program: "0.1.0".into(), role: Role::Operator }).unwrap();
    let unknown = [&hello[..], &encode(&serde_json::json!({"number": 1, "call": "open_the_door"})).unwrap()].concat();
    let deep = [&20_000_u32.to_be_bytes()[..], "[".repeat(20_000).as_bytes()].concat();
    let short = [&5_u32.to_be_bytes()[..], b"hello"].concat();
    for nonsense in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), 1_000_000_u32.to_be_bytes().to_vec(), unknown, deep, short] {
        let mut stream = UnixStream::connect(controller.socket()).unwrap();
        stream.write_all(&nonsense).unwrap();
        let mut answer = Vec::new();
        // What was not read any more may reset the connection after the last word.
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains("goodbye") && text.contains("message"), "{text}");
    }
    granted(block_on(ledger.admit(ask(10, 300))));
}

#[test]
fn a_newer_and_a_too_old_program_are_told_which_one_to_start_again() {
    let controller = Controller::new();
    for (version, step) in [(VERSION + 1, "carboy controller stop"), (0, "start the run again")] {
        let line = block_on(Line::speaking(&controller.socket(), version, "9.9.9", Role::Observer));
        let Err(LineError::Version { why, version: spoken, .. }) = line else { panic!("{version} is spoken") };
        assert!(why.contains(step) && why.contains("9.9.9"), "{why}");
        assert_eq!(spoken, VERSION);
    }
}

#[test]
fn a_supervisor_changes_no_cap_and_an_observer_nothing() {
    let controller = Controller::new();
    let mut observer = controller.line(Role::Observer);
    for call in [
        Call::SetCap(host_key(), edit(1)),
        Call::UnsetCap(host_key()),
        Call::TopUp(host_key(), tokens(1)),
        Call::Shutdown { only_idle: false },
        Call::Admit(ask(1, 1)),
    ] {
        assert!(matches!(block_on(observer.ask(call)), Err(LineError::Refused(_))));
    }
    let role = Role::Supervisor(Box::new(supervised(1, set(1, 1_000, Terms::default()))));
    let mut stream = UnixStream::connect(controller.socket()).unwrap();
    stream.write_all(&encode(&Hello { version: VERSION, program: "0.1.0".into(), role }).unwrap()).unwrap();
    stream.write_all(&encode(&Request { number: 7, call: Call::SetCap(host_key(), edit(1)) }).unwrap()).unwrap();
    let mut said = std::iter::from_fn(|| {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut text = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut text).ok()?;
        serde_json::from_slice::<Said>(&text).ok()
    });
    let answer = said.find_map(|said| if let Said::Answer(7, answer) = said { Some(answer) } else { None });
    assert!(matches!(answer, Some(Answer::Refused(_))), "{answer:?}");
}

#[test]
fn c11_a_spent_cap_is_pushed_and_taken_back_when_there_is_room() {
    // C12
    let controller = Controller::new();
    let terms = Terms { shutdown: Shutdown::Pause, warn_percent: vec![], ..Terms::default() };
    let ledger = controller.connect(owner(1), set(1, 10_000, terms));
    let (_client, mut events) = controller.clients.lock().unwrap().remove(&1).unwrap();
    conformance::spend(&*ledger, 1_000, 7_990);
    assert!(matches!(block_on(ledger.admit(ask(1_000, 500))), Err(NotHeld::Exhausted(_))));
    let Some(Push::Act { how: Shutdown::Pause, why }) = block_on(events.next()) else { panic!("no action") };
    assert!(why.contains("ceiling of host for anthropic"), "{why}");
    let mut operator = controller.line(Role::Operator);
    assert_eq!(block_on(operator.ask(Call::TopUp(host_key(), tokens(50_000)))).unwrap(), Answer::Done);
    assert!(matches!(block_on(events.next()), Some(Push::Restore { .. })));
    granted(block_on(ledger.admit(ask(1_000, 500))));
    // C18
    until("the operator's word and the crossing stand in the log", || {
        controller.count("top_up") == 1 && controller.actions().len() >= 2
    });
}

#[test]
fn a_supervisor_that_comes_to_a_spent_cap_hears_of_it_and_of_its_end() {
    let controller = Controller::new();
    let terms = Terms { warn_percent: vec![], ..Terms::default() };
    let first = controller.connect(owner(1), set(1, 10_000, terms.clone()));
    conformance::spend(&*first, 1_000, 8_900);
    let (second, mut events) = controller.client(supervised(2, set(2, 10_000, terms.clone())));
    assert!(matches!(block_on(events.next()), Some(Push::Act { how: Shutdown::Cutoff, .. })));
    // The files give more: it is open again without anybody's word.
    block_on(second.renew(supervised(2, set(2, 100_000, terms)))).unwrap();
    assert!(matches!(block_on(events.next()), Some(Push::Restore { .. })));
}

#[test]
fn a_store_that_cannot_write_refuses_in_words_and_an_ending_is_told_until_it_can() {
    let controller = Controller::new();
    let ledger = controller.connect(owner(1), set(1, 100_000, Terms::default()));
    let request = ask(1_000, 500);
    let id = request.id;
    granted(block_on(ledger.admit(request)));
    block_on(ledger.dispatch(id)).unwrap();
    controller.store.refuse(Some("no space left on the device"));
    let its = ledger.clone();
    let settled = runtime().spawn(async move { its.settle(id, wrote(900, 100)).await });
    until("dispatching is refused", || {
        let request = ask(10, 300);
        let id = request.id;
        let refused = match block_on(ledger.admit(request)) {
            Ok(_) => block_on(ledger.dispatch(id)),
            Err(why) => Err(why),
        };
        matches!(refused, Err(NotHeld::Unavailable(why)) if why.contains("no space left"))
    });
    assert!(!settled.is_finished());
    controller.store.refuse(None);
    block_on(settled).unwrap().unwrap();
    assert_eq!(host(&controller.engine).0, 1_000);
}

#[test]
fn c18_without_a_log_nothing_is_admitted_until_it_is_there_and_no_event_comes_twice() {
    let controller = Controller::new();
    let ledger = controller.connect(owner(1), set(1, 100_000, Terms::default()));
    granted(block_on(ledger.admit(ask(10, 300))));
    let mut operator = controller.line(Role::Operator);
    assert_eq!(block_on(operator.ask(Call::SetCap(host_key(), edit(90_000)))).unwrap(), Answer::Done);
    until("the first event is logged", || controller.count("set_cap") == 1);
    // It is no log any more: a directory is not written.
    let log = controller.home.audit_log();
    let aside = log.with_extension("aside");
    std::fs::rename(&log, &aside).unwrap();
    std::fs::create_dir(&log).unwrap();
    assert_eq!(block_on(operator.ask(Call::SetCap(host_key(), edit(80_000)))).unwrap(), Answer::Done);
    until("admissions are refused", || match block_on(ledger.admit(ask(10, 300))) {
        Err(NotHeld::Unavailable(why)) => why.contains("written down"),
        _ => false,
    });
    let Answer::Status(status) = block_on(operator.ask(Call::Status)).unwrap() else { panic!("no status") };
    assert!(status.failing.is_some());
    std::fs::remove_dir(&log).unwrap();
    std::fs::rename(&aside, &log).unwrap();
    until("admissions go on", || block_on(ledger.admit(ask(10, 300))).is_ok());
    assert_eq!(controller.count("set_cap"), 2);
    // The next controller begins where the log ends.
    let (dir, store, _clients) = controller.end();
    let next = Controller::with(dir, store, None);
    let mut operator = next.line(Role::Operator);
    assert_eq!(block_on(operator.ask(Call::SetCap(host_key(), edit(70_000)))).unwrap(), Answer::Done);
    until("the third event is logged", || next.count("set_cap") >= 3);
    assert_eq!(next.count("set_cap"), 3);
}

#[test]
fn c18_after_a_ledger_was_copied_back_every_event_is_logged() {
    // One of its events waits to be logged, as when it was copied while it was at work.
    let copy = || {
        let mut store = MemoryStore::default();
        let event = Event::new(EventType::Budget, Default::default(), "before", Outcome::Done);
        store.commit(&[ledger::Write::Event { at_ms: 1, event }]).unwrap();
        store
    };
    let set = |controller: &Controller| {
        let mut operator = controller.line(Role::Operator);
        assert_eq!(block_on(operator.ask(Call::SetCap(host_key(), edit(90_000)))).unwrap(), Answer::Done);
    };
    let controller = Controller::with(tempfile::tempdir().unwrap(), copy(), None);
    (0..3).for_each(|_| set(&controller));
    until("all is logged", || controller.count("set_cap") == 3);
    let (dir, ..) = controller.end();
    // Its numbers begin again where the copy ended; what stands in the log under them is of another time.
    let restored = Controller::with(dir, copy(), None);
    set(&restored);
    until("it is logged", || restored.count("set_cap") == 4);
    assert_eq!(restored.count("before"), 1);
}

#[test]
fn an_ending_that_waits_for_the_controller_is_told_to_the_next_one() {
    let controller = Controller::new();
    let ledger = controller.connect(owner(1), set(1, 100_000, Terms::default()));
    let request = ask(1_000, 500);
    let id = request.id;
    granted(block_on(ledger.admit(request)));
    block_on(ledger.dispatch(id)).unwrap();
    let (dir, store, _clients) = controller.end();
    // Dropped without having been waited for.
    drop(ledger.settle(id, wrote(300, 20)));
    let next = Controller::with(dir, store, None);
    until("it is charged as it was", || host(&next.engine) == (320, 0));
}

#[test]
fn a_controller_that_nobody_uses_ends_by_itself() {
    let idle = Some(Duration::from_millis(300));
    let controller = Controller::with(tempfile::tempdir().unwrap(), MemoryStore::default(), idle);
    drop(controller.line(Role::Observer));
    let Controller { served, dir: _dir, stop: _stop, .. } = controller;
    block_on(served).unwrap().unwrap();
}

#[test]
fn there_is_one_controller_per_home() {
    let controller = Controller::new();
    let (running, _stop) = running(&controller.home, None);
    let second = block_on(controller::run(running, |_| panic!("it opens the ledger"), || {}));
    assert!(matches!(second, Err(controller::ServeError::Another { .. })));
    // The first one's socket is where it was.
    controller.line(Role::Observer);
}

#[test]
fn who_watches_sees_the_last_change_and_at_most_ten_in_a_second() {
    let controller = Controller::new();
    let ledger = controller.connect(owner(1), set(1, 10_000_000, Terms::default()));
    let mut watcher = controller.line(Role::Observer);
    let number = block_on(watcher.send(Call::Watch)).unwrap();
    let begun = Instant::now();
    let mut seen = 0;
    let spending = std::thread::spawn(move || {
        for _ in 0..300 {
            conformance::spend(&*ledger, 100, 200);
        }
    });
    loop {
        let text = block_on(watcher.watched(number)).unwrap();
        let snapshot: LedgerSnapshot = serde_json::from_str(&text).unwrap();
        seen += 1;
        let spent = snapshot.host.meters.first().map_or(0, |line| line.spent.raw.tokens_up());
        if spent == 90_000 {
            break;
        }
    }
    spending.join().unwrap();
    assert!(seen <= begun.elapsed().as_millis() / 100 + 2, "{seen} in {:?}", begun.elapsed());
}

/// One that looks on, asks, and never reads what comes back.
fn deaf(controller: &Controller) -> std::os::unix::net::UnixStream {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(controller.socket()).unwrap();
    let hello = Hello { version: VERSION, program: "0.1.0".into(), role: Role::Observer };
    stream.write_all(&encode(&hello).unwrap()).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    stream.set_nonblocking(true).unwrap();
    let ask = encode(&Request { number: 0, call: Call::Snapshot }).unwrap();
    // Until neither side takes any more; the last one goes in part.
    let (asks, mut sent, mut full_since) = (ask.repeat(64), 0, None);
    while full_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
        match stream.write(&asks[sent % asks.len()..]) {
            Ok(written) => (sent, full_since) = (sent + written, None),
            Err(_) => full_since = full_since.or(Some(Instant::now())),
        }
    }
    stream
}

#[test]
fn c16_whoever_looks_on_and_reads_nothing_does_not_hold_up_the_end() {
    let controller = Controller::new();
    let deaf: Vec<_> = (0..3).map(|_| deaf(&controller)).collect();
    let begun = Instant::now();
    let mut operator = controller.line(Role::Operator);
    // Nor anybody else meanwhile.
    assert!(matches!(block_on(operator.ask(Call::Status)).unwrap(), Answer::Status(_)));
    assert_eq!(block_on(operator.ask(Call::Shutdown { only_idle: false })).unwrap(), Answer::Done);
    let Controller { served, dir: _dir, stop: _stop, .. } = controller;
    block_on(served).unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    drop(deaf);
}

#[test]
fn c16_a_storm_of_connections_is_bounded_and_runs_are_served_through_it() {
    let controller = Controller::new();
    let ledger = controller.connect(owner(1), set(1, 10_000_000, Terms::default()));
    // As many as look on at most; one more is told so, and runs and commands have their own room.
    let mut looking: Vec<Line> = (0..controller::OBSERVERS_MAX).map(|_| controller.line(Role::Observer)).collect();
    let refused = block_on(Line::open(&controller.socket(), "0.1.0", Role::Observer));
    assert!(
        matches!(&refused, Err(LineError::Goodbye(why)) if why.contains("that is the most")),
        "{:?}",
        refused.err()
    );
    let mut operator = controller.line(Role::Operator);
    assert!(matches!(block_on(operator.ask(Call::Status)).unwrap(), Answer::Status(_)));
    // Meanwhile others connect again and again: mute, in the middle of a word, with nonsense, and gone at once.
    let (socket, over) = (controller.socket(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let storm: Vec<_> = (0..4_usize)
        .map(|kind| {
            let (socket, over) = (socket.clone(), over.clone());
            std::thread::spawn(move || {
                use std::io::Write as _;
                let (mut open, mut count) = (std::collections::VecDeque::new(), 0_u64);
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(&socket) else { continue };
                    count += 1;
                    let _ = match kind {
                        0 => Ok(()),
                        1 => stream.write_all(&[0, 0]),
                        2 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n"),
                        _ => continue,
                    };
                    open.push_back(stream);
                    if open.len() > 32 {
                        open.pop_front();
                    }
                }
                count
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let begun = Instant::now();
        conformance::spend(&*ledger, 100, 200);
        slowest = slowest.max(begun.elapsed());
    }
    // A run that comes in the middle of it is served, too.
    let second = controller.connect(owner(2), set(2, 10_000_000, Terms::default()));
    conformance::spend(&*second, 100, 200);
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    let storms: u64 = storm.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{storms} connections came and went; the slowest request of a run took {slowest:?}");
    assert!(storms > 200 && slowest < Duration::from_secs(5), "{storms} {slowest:?}");
    // Where one leaves there is room for another.
    drop(looking.pop());
    until("there is room again", || block_on(Line::open(&controller.socket(), "0.1.0", Role::Observer)).is_ok());
}

#[test]
fn c13_a_run_is_told_why_its_controller_cannot_be_started_and_not_that_nobody_answers() {
    struct Damaged(PathBuf);
    impl Reach for Damaged {
        fn socket(&self) -> &Path {
            &self.0
        }

        fn start(&self) -> Later<'_, Result<(), String>> {
            Box::pin(std::future::ready(Err("the controller cannot serve: the ledger /x/carboy.db is damaged".into())))
        }

        fn program(&self) -> &str {
            "0.1.0"
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (client, _events) = {
        let _inside = runtime().enter();
        Client::open(Arc::new(Damaged(dir.path().join("nobody.sock"))), supervised(1, set(1, 1_000, Terms::default())))
    };
    // However often it was tried.
    let end = Instant::now() + Duration::from_secs(2);
    until("it is said", || client.away().is_some_and(|why| why.contains("is damaged")));
    while Instant::now() < end {
        let why = client.away().unwrap();
        assert!(why.contains("cannot be started") && why.contains("is damaged"), "{why}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
