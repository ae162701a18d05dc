//! The controller as a process of its own, through the built binary: started on demand, killed at any moment, ended in order.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carboy_control::controller_client::{Call, Line, Role};
use carboy_core::audit::Entry;
use carboy_core::budget::{
    Admitted, Amount, Ask, BudgetSet, Caching, Cap, CapEdit, CapKey, CapKind, Count, Counted, Ending, LedgerSnapshot,
    NotHeld, ReservationId, Scope, Terms, Usage, Window,
};
use carboy_core::ids::MeterName;
use carboy_core::ports::{Later, Ledger};
use carboy_store::controller::protocol::Supervised;
use carboy_store::controller::{Client, ClientEvents, Reach};

/// The role of a process that a test started, and the home that it uses.
const ROLE: &str = "CONTROLLER_TEST_ROLE";

/// A home of a test; its controller ends with it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carboy"));
        command.args(arguments).env_clear().env("HOME", self.0.path()).env("ANTHROPIC_API_KEY", "sk-never-passed-on");
        command.stdin(Stdio::null());
        command
    }

    fn carboy(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.carboy(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn root(&self) -> PathBuf {
        self.0.path().join(".carboy")
    }

    fn socket(&self) -> PathBuf {
        let home = carboy_control::home::Home::open(&self.root(), None).unwrap();
        home.controller_socket().unwrap()
    }

    fn pid(&self) -> u32 {
        let status: serde_json::Value = serde_json::from_str(&self.done(&["controller", "status", "--json"])).unwrap();
        u32::try_from(status["pid"].as_u64().unwrap()).unwrap()
    }

    /// Spent and held of the host, counted raw.
    fn host(&self) -> (u64, u64) {
        let snapshot: LedgerSnapshot = serde_json::from_str(&self.done(&["budget", "show", "--json"])).unwrap();
        let line = snapshot.host.meters.iter().find(|line| line.meter == meter());
        line.map_or((0, 0), |line| (line.spent.raw.tokens_up(), line.held.raw.tokens_up()))
    }
}

impl Place {
    /// Looks until it stands in the log.
    fn logged(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let log = || std::fs::read_to_string(self.root().join("audit/audit.jsonl")).unwrap_or_default();
        while !log().contains(text) {
            assert!(Instant::now() < deadline, "{text}: {}", log());
            std::thread::yield_now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.carboy(&["controller", "stop", "--force"]);
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

fn meter() -> MeterName {
    MeterName::parse("anthropic").unwrap()
}

fn budgets(run: &str) -> BudgetSet {
    let amount = Amount::tokens(1_000_000_000).unwrap();
    let cap = Cap {
        scope: Scope::Host,
        kind: CapKind::Ceiling,
        amount,
        count: Count::Raw,
        window: Window::Lifetime,
        most: None,
    };
    let chain = vec![Scope::Run(run.into()), Scope::Bottle("dev".into()), Scope::Host];
    BudgetSet { chain, caps: [(meter(), vec![cap])].into(), terms: Terms::default(), ..BudgetSet::default() }
}

fn ask() -> Ask {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = u128::from(std::process::id()) << 64 | u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    Ask {
        id: ReservationId(name),
        meter: meter(),
        model: None,
        input: 1_000,
        counted: Counted::Final,
        caching: Caching::Impossible,
        output: 500,
        answers: 1,
    }
}

/// Whoever asks for budgets starts the controller.
struct Through {
    socket: PathBuf,
    home: PathBuf,
}

impl Reach for Through {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn start(&self) -> Later<'_, Result<(), String>> {
        let home = self.home.clone();
        Box::pin(async move {
            let mut command = Command::new(env!("CARGO_BIN_EXE_carboy"));
            command.args(["budget", "show"]).env_clear().env("HOME", home).stdin(Stdio::null());
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        })
    }

    fn program(&self) -> &str {
        "0.1.0"
    }
}

fn client(socket: PathBuf, home: &Path, run: &str) -> (Arc<Client>, ClientEvents) {
    let reach = Through { socket, home: home.to_owned() };
    let supervised = Supervised {
        run: run.into(),
        bottle: "dev".into(),
        agent: None,
        plan: String::new(),
        budgets: budgets(run),
        meters: vec![meter()],
    };
    Client::open(Arc::new(reach), supervised)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// One request from hold to charge, as a gateway carries it through; what it cost.
async fn spend(ledger: &dyn Ledger, tokens: u64) -> u64 {
    let ask = ask();
    loop {
        match ledger.admit(ask.clone()).await {
            Ok(Admitted::Held(_)) => {}
            // It is on its way back.
            Err(NotHeld::Unavailable(_)) => continue,
            other => panic!("{other:?}"),
        }
        match ledger.dispatch(ask.id).await {
            Ok(()) => break,
            Err(NotHeld::Unknown | NotHeld::Unavailable(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    let usage = Usage { input: tokens, ..Usage::default() };
    ledger.settle(ask.id, Ending::Reported(usage)).await.unwrap();
    tokens
}

#[test]
fn starts_at_the_same_moment_give_one_controller_without_a_key_in_it() {
    let place = Place::new();
    let mut starting: Vec<_> =
        (0..8).map(|_| place.command(&["budget", "show", "--json"]).stdout(Stdio::piped()).spawn().unwrap()).collect();
    for child in &mut starting {
        assert!(child.wait().unwrap().success());
    }
    let log = std::fs::read_to_string(place.root().join("controller.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains(" serves ")).count(), 1, "{log}");
    // In the foreground there is no second one either.
    let second = place.carboy(&["controller", "run"]);
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && words.contains("carboy controller stop"), "{words}");
    let environ = std::fs::read(format!("/proc/{}/environ", place.pid())).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&environ).contains("sk-never"));
    place.done(&["controller", "stop"]);
    assert!(!place.socket().exists());
    assert_eq!(place.carboy(&["controller", "status"]).status.code(), Some(1));
}

#[test]
fn c15_nothing_acknowledged_is_lost_or_charged_twice_when_the_controller_is_killed_at_any_moment() {
    const KILLS: u64 = 6;
    let place = Place::new();
    place.done(&["budget", "show"]);
    let runtime = runtime();
    let (done, spent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let spenders: Vec<_> = ["r-1", "r-2"]
        .into_iter()
        .map(|run| {
            let _inside = runtime.enter();
            let (client, events) = client(place.socket(), place.0.path(), run);
            let (done, spent) = (done.clone(), spent.clone());
            runtime.spawn(async move {
                let _events = events;
                let one = |n: u64| {
                    let (client, done, spent) = (client.clone(), done.clone(), spent.clone());
                    tokio::spawn(async move {
                        while !done.load(Ordering::Relaxed) {
                            spent.fetch_add(spend(&*client, n).await, Ordering::Relaxed);
                        }
                    })
                };
                let all: Vec<_> = (1..=4).map(one).collect();
                for one in all {
                    one.await.unwrap();
                }
                assert_eq!(client.drained(Duration::from_secs(10)).await, 0);
            })
        })
        .collect();
    for n in 0..KILLS {
        let before = spent.load(Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(60);
        // The first one to come is started by the clients themselves, the others by whoever asks for budgets.
        while spent.load(Ordering::Relaxed) < before + 20 + 13 * n {
            assert!(Instant::now() < deadline, "the clients do not recover after {n} kills");
            std::thread::yield_now();
        }
        kill(place.pid());
        if n > 0 {
            place.done(&["budget", "show"]);
        }
    }
    done.store(true, Ordering::Relaxed);
    for spender in spenders {
        runtime.block_on(spender).unwrap();
    }
    assert_eq!(place.host(), (spent.load(Ordering::Relaxed), 0));
}

/// What a process does that was started with [`ROLE`]: a supervisor that has dispatched a request and stays.
#[test]
fn a_supervisor_in_a_process_of_its_own() {
    let Some(home) = std::env::var_os(ROLE).map(PathBuf::from) else { return };
    let place = carboy_control::home::Home::open(&home.join(".carboy"), None).unwrap();
    let runtime = runtime();
    let _inside = runtime.enter();
    let (client, _events) = client(place.controller_socket().unwrap(), &home, "r-child");
    let (sent, open) = (ask(), ask());
    runtime.block_on(async {
        client.admit(sent.clone()).await.unwrap();
        client.dispatch(sent.id).await.unwrap();
        client.admit(open).await.unwrap();
    });
    println!("\nready");
    std::io::stdout().flush().unwrap();
    // Until it is killed, or its parent is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn what_a_killed_supervisor_had_dispatched_is_charged_within_a_second_and_the_rest_is_released() {
    let place = Place::new();
    place.done(&["budget", "show"]);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_supervisor_in_a_process_of_its_own", "--nocapture"])
        .env(ROLE, place.0.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"));
    assert_eq!(place.host(), (0, 2 * 1_564));
    child.kill().unwrap();
    let killed = Instant::now();
    while place.host() != (1_564, 0) {
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", place.host());
    }
    child.wait().unwrap();
    // C18
    place.logged("charge_in_full");
    place.logged("r-child");
}

#[test]
fn a_run_that_is_connected_keeps_the_controller_from_being_stopped_by_hand() {
    let place = Place::new();
    place.done(&["budget", "show"]);
    let runtime = runtime();
    let (client, _events) = {
        let _inside = runtime.enter();
        client(place.socket(), place.0.path(), "r-1")
    };
    runtime.block_on(spend(&*client, 10));
    let refused = place.carboy(&["controller", "stop"]);
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(77) && words.contains("--force"), "{words}");
    let before = place.pid();
    place.done(&["controller", "stop", "--force"]);
    // The run has it started again, and goes on.
    runtime.block_on(spend(&*client, 10));
    assert_ne!(place.pid(), before);
    assert_eq!(place.host(), (20, 0));
}

#[test]
fn a_stranger_is_sent_away() {
    if !rustix::process::getuid().is_root() {
        // Only root can be somebody else.
        return;
    }
    let place = Place::new();
    place.done(&["budget", "show"]);
    // Its mode keeps strangers out; the check behind it is what is looked at here.
    for (path, mode) in [
        (place.0.path().to_owned(), 0o755),
        (place.root(), 0o755),
        (place.root().join("run"), 0o755),
        (place.socket(), 0o666),
    ] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let script = "my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die; print 'got ', sysread($s, my $text, 9)";
    let socket = place.socket();
    let stranger = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/perl", "-MIO::Socket::UNIX", "-e", script])
        .arg(&socket)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&stranger.stdout), "got 0", "{stranger:?}");
    let log = std::fs::read_to_string(place.root().join("controller.log")).unwrap();
    assert!(log.contains("user 65534 may not speak"), "{log}");
    assert!(UnixStream::connect(&socket).is_ok());
}

#[test]
fn budgets_are_set_topped_up_and_unset_by_name_and_every_slip_is_told() {
    let place = Place::new();
    place.done(&["budget", "set", "host", "claude=5M", "--window", "day@Europe/Berlin", "--ceiling"]);
    std::fs::create_dir_all(place.root().join("bottles")).unwrap();
    std::fs::write(place.root().join("bottles/dev.md"), "---\n---\n").unwrap();
    place.done(&["budget", "set", "dev", "500k"]);
    place.done(&["budget", "set", "bookly", "7M"]); // which comes with the program and has not run yet
    place.done(&["budget", "top-up", "bottle:dev", "claude=1_000"]);
    let shown = place.done(&["budget", "show"]);
    for text in ["5M max", "bottle:dev", "501k", "500k", "openai", "agent:bookly", "7M"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    for (arguments, said) in [
        (&["budget", "set", "dve", "5M"][..], "nothing is called `dve`"),
        (&["budget", "set", "host", "5 M"][..], "no amount of tokens"),
        (&["budget", "set", "host", "cloud=5M"][..], "no meter"),
        (&["budget", "set", "host", "5M", "--window", "year"][..], "write lifetime"),
        (&["budget", "top-up", "host", "5M"][..], "has no budget"),
        (&["budget", "top-up", "dev", "5M"][..], "say which"),
        (&["budget", "unset", "host"][..], "was set over its files"),
    ] {
        let output = place.carboy(arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.contains(said), "{arguments:?}: {words}");
    }
    place.done(&["budget", "unset", "dev"]);
    // C18
    for action in ["set_cap", "top_up", "unset_cap"] {
        place.logged(action);
    }
    place.done(&["audit", "verify"]);
}

/// `budget set` as fast as it goes, each time another amount, until the controller is gone; what it acknowledged.
async fn set_caps(socket: &Path, next: &mut u64) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let Ok(mut line) = Line::open(socket, "0.1.0", Role::Operator).await else { return acknowledged };
    loop {
        *next += 1;
        let key = CapKey { scope: Scope::Host, meter: meter(), kind: CapKind::Ceiling };
        let edit = CapEdit { amount: Amount::tokens(*next).unwrap(), count: None, window: None };
        match line.ask(Call::SetCap(key, edit)).await {
            Ok(_) => acknowledged.push(*next),
            Err(_) => return acknowledged,
        }
    }
}

// C18: between the entry in the log and the mark in the ledger there is a moment; a crash there writes nothing twice.
#[test]
fn c18_every_event_stands_in_the_log_once_however_often_the_controller_is_killed() {
    const KILLS: u64 = 24;
    let place = Place::new();
    let runtime = runtime();
    let (mut acknowledged, mut next) = (Vec::new(), 0);
    for n in 0..KILLS {
        place.done(&["budget", "show"]);
        let (socket, pid) = (place.socket(), place.pid());
        let killer = std::thread::spawn(move || {
            // Another moment each time; nothing waits for it.
            std::thread::sleep(Duration::from_micros(1_700 * (n * 7 % KILLS)));
            kill(pid);
        });
        acknowledged.extend(runtime.block_on(set_caps(&socket, &mut next)));
        killer.join().unwrap();
    }
    assert!(acknowledged.len() > 50, "{} were acknowledged", acknowledged.len());
    place.done(&["budget", "set", "host", "claude=1_000_000", "--ceiling"]);
    place.logged("\"tokens\":1000000");
    place.done(&["controller", "stop"]);
    let log = std::fs::read_to_string(place.root().join("audit/audit.jsonl")).unwrap();
    let entries: Vec<Entry> = log.lines().map(|line| Entry::parse(line.as_bytes()).unwrap()).collect();
    let number = |entry: &Entry, name: &str| entry.detail(name).and_then(serde_json::Value::as_u64);
    let mut numbers: Vec<u64> = entries.iter().filter_map(|entry| number(entry, "ledger")).collect();
    let written = numbers.len();
    assert!(numbers.is_sorted(), "in their order");
    numbers.dedup();
    assert_eq!(numbers.len(), written, "an event stands twice");
    assert_eq!((numbers.first(), numbers.last()), (Some(&1), Some(&(written as u64))), "one is missing");
    let set: Vec<u64> = entries.iter().filter_map(|entry| number(entry, "tokens")).collect();
    for amount in acknowledged {
        assert_eq!(set.iter().filter(|tokens| **tokens == amount).count(), 1, "{amount}");
    }
    place.done(&["audit", "verify"]);
}

#[test]
fn caps_of_files_are_shown_and_topped_up_before_anything_runs() {
    let place = Place::new();
    for dir in ["bottles", "agents"] {
        std::fs::create_dir_all(place.root().join(dir)).unwrap();
    }
    let write = |path: &str, text: &str| std::fs::write(place.root().join(path), text).unwrap();
    write("settings.yml", "ceiling: {claude: 20M}\n");
    write("bottles/dev.md", "---\nbudget: {claude: 5M}\nwindow: {calendar: day, tz: UTC}\n---\n");
    write("agents/fix.md", "---\nbottle: dev\nbudget: {codex: 2M}\n---\nFix it.\n");
    write("bottles/broken.md", "---\nbudgte: 5M\n---\n");
    let shown = place.carboy(&["budget", "show"]);
    let (table, warned) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    for text in ["bottle:dev", "5M", "in ", "agent:fix", "openai", "2M", "20M max"] {
        assert!(table.contains(text), "{text}: {table}");
    }
    assert!(warned.contains("broken") && warned.contains("carboy check"), "{warned}");
    let topped = place.done(&["budget", "top-up", "dev", "1M", "--json"]);
    assert_eq!(topped, "[{\"kind\":\"budget\",\"meter\":\"anthropic\",\"scope\":\"bottle:dev\",\"tokens\":1000000}]\n");
    assert!(place.done(&["budget", "show", "dev"]).contains("6M"));
    // The bottle's is nearer than the host's.
    for (amount, told) in [("claude=1M", true), ("codex=3M", false)] {
        let set = place.carboy(&["budget", "set", "host", amount]);
        assert_eq!(String::from_utf8_lossy(&set.stderr).contains("binds nobody"), told, "{amount}: {set:?}");
    }
    for (typed, meant) in [("dve", "bottle:dev"), ("Host", "host"), ("bottle:dv", "bottle:dev"), ("fxi", "agent:fix")] {
        let said = place.carboy(&["budget", "set", typed, "5M"]);
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(words.contains(&format!("did you mean `{meant}`?")), "{typed}: {words}");
    }
    assert_eq!(
        place.done(&["names", "scopes"]),
        "agent:assistant\nagent:bookly\nagent:fix\nbottle:broken\nbottle:dev\nhost\n"
    );
}

#[test]
fn the_service_and_the_metrics_are_there_when_they_are_asked_for() {
    let place = Place::new();
    let unit = place.done(&["controller", "install"]);
    assert!(unit.contains("controller run\n") && unit.contains("NoNewPrivileges=yes"), "{unit}");
    let anywhere = place.carboy(&["controller", "run", "--metrics", "0.0.0.0:0"]);
    assert!(String::from_utf8_lossy(&anywhere.stderr).contains("--metrics-anywhere"));
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut child =
        place.command(&["controller", "run", "--metrics", &port.to_string()]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains(" serves "), "{said}");
    let asked = |host: &str| {
        let mut stream = std::net::TcpStream::connect(port).unwrap();
        stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        answer
    };
    // A page of `evil.example`, whose name means 127.0.0.1 by now.
    for foreign in [format!("evil.example:{}", port.port()), "localhost.evil.example".into(), "127.0.0.1.evil".into()] {
        let answer = asked(&foreign);
        assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("carboy_"), "{foreign}: {answer}");
    }
    let answer = asked(&port.to_string());
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("# TYPE carboy_failing gauge\ncarboy_failing 0\n"),
        "{answer}"
    );
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!place.socket().exists());
}

#[test]
fn a_durable_hold_over_the_socket_is_measured() {
    const ROUNDS: usize = 300;
    let place = Place::new();
    place.done(&["budget", "show"]);
    let runtime = runtime();
    let (client, _events) = {
        let _inside = runtime.enter();
        client(place.socket(), place.0.path(), "r-1")
    };
    let mut took: Vec<Duration> = runtime.block_on(async {
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let ask = ask();
            let begun = Instant::now();
            client.admit(ask.clone()).await.unwrap();
            client.dispatch(ask.id).await.unwrap();
            took.push(begun.elapsed());
            client.settle(ask.id, Ending::Reported(Usage { input: 1, ..Usage::default() })).await.unwrap();
        }
        took
    });
    took.sort();
    println!("admit and dispatch, durable: p50 {:?}, p99 {:?}", took[ROUNDS / 2], took[ROUNDS * 99 / 100]);
    assert!(took[ROUNDS / 2] < Duration::from_secs(1));
}

#[test]
fn c20_nobody_reaches_the_controller_from_another_machine_and_no_budget_is_in_money() {
    let place = Place::new();
    place.done(&["budget", "show"]);
    let pid = place.pid();
    // Its descriptors are for root alone to see: it cannot be dumped.
    if rustix::process::getuid().is_root() {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let open: Vec<String> = descriptors
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .map(|to| to.display().to_string())
            .collect();
        assert!(open.iter().any(|to| to.starts_with("socket:")), "{open:?}");
        for table in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
            let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            for line in sockets.lines().skip(1) {
                let inode = line.split_whitespace().nth(9).unwrap();
                assert!(!open.contains(&format!("socket:[{inode}]")), "{table}: {line}");
            }
        }
    }
    for money in ["claude=$5", "claude=5USD", "claude=5.50€", "claude=5.5"] {
        let refused = place.carboy(&["budget", "set", "host", money]);
        assert_eq!(refused.status.code(), Some(2), "{money}: {refused:?}");
    }
}
