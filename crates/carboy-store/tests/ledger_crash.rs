//! What is left of the ledger when its process is killed in the middle of anything, and when the disk is full.
//!
//! `cargo xtask soak` kills as many as it is told; in a check it is as many as fit. It tells this by the environment:
//! `CARBOY_SOAK_ROUNDS`, `CARBOY_SOAK_MINUTES` (after which no further round begins) and `CARBOY_SEED`.
#![allow(clippy::unwrap_used)]

#[path = "support/conformance.rs"]
mod conformance;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carboy_core::budget::{Ask, Ending, NotHeld, ReservationId, Terms, Usage};
use carboy_core::ports::Ledger;
use carboy_store::ledger::{Engine, LedgerStore, SqliteStore};
use conformance::{ask, granted, host, meter, owner, set, wrote};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rustix::process::{Resource, Rlimit, setrlimit};
use support::{Dice, LOG, ROLE, Wall, block_on, spawn, until};

/// Processes that are killed in a check.
const ROUNDS: u64 = 200;
/// Ledgers that this is done to side by side: most of the time is spent in waiting for the disk.
const LANES: u64 = 4;
/// Threads of each.
const THREADS: u64 = 4;
/// The dice of a check.
const SEED: u64 = 7;
/// A soak says how far it is each time that so many were killed.
const PROGRESS_ROUNDS: u64 = 250;

fn engine(path: &Path) -> Engine {
    Engine::open(Box::new(SqliteStore::open(path).unwrap()), Arc::new(Wall)).unwrap()
}

fn connect(engine: &Engine, id: u64) -> Arc<dyn Ledger> {
    block_on(engine.hello(owner(id), set(id, 1_000_000_000_000, Terms::default()), vec![meter()])).unwrap();
    engine.ledger(id)
}

/// Not a test of its own: what a process does that a test below started.
#[test]
fn role() {
    let (Ok(role), Some(path)) = (std::env::var(ROLE), std::env::var_os(LOG)) else { return };
    let path = PathBuf::from(path);
    match role.as_str() {
        "full disk" => full_disk(&path),
        "file limit" => file_limit(&path),
        round => spend_and_tell(&path, round.parse().unwrap()),
    }
}

/// What a request of a round costs.
fn cost(id: u128) -> u64 {
    100 + (id % 97) as u64
}

/// Begins as a controller does, then spends for ever, and tells each step once it is known to be on disk.
fn spend_and_tell(path: &Path, round: u64) {
    let engine = engine(path);
    for known in block_on(engine.owners()).unwrap() {
        block_on(engine.owner_gone(known.owner.id)).unwrap();
    }
    let ledger = connect(&engine, round);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let ledger = ledger.clone();
            scope.spawn(move || {
                for n in 0_u64.. {
                    let id = u128::from(round) << 64 | u128::from(thread) << 32 | u128::from(n);
                    let request = Ask { id: ReservationId(id), ..ask(50, 1_000) };
                    let id = request.id;
                    granted(block_on(ledger.admit(request)));
                    block_on(ledger.dispatch(id)).unwrap();
                    tell("dispatched", id.0);
                    block_on(ledger.settle(id, wrote(50, cost(id.0) - 50))).unwrap();
                    tell("settled", id.0);
                }
            });
        }
    });
}

/// One write per line, so that the reader never sees half a number.
fn tell(what: &str, id: u128) {
    std::io::stdout().write_all(format!("\n{what} {id}\n").as_bytes()).unwrap();
}

#[derive(Default)]
struct Told {
    dispatched: BTreeSet<u128>,
    settled: BTreeSet<u128>,
}

impl Told {
    /// Reads until so many more steps were told, or the end.
    fn read(&mut self, output: &mut impl BufRead, steps: usize) {
        let lines = output.lines().map_while(Result::ok);
        let told = lines.filter_map(|line| {
            let (what, id) = line.split_once(' ')?;
            let id: u128 = id.parse().ok()?;
            match what {
                "dispatched" => Some(self.dispatched.insert(id)),
                "settled" => Some(self.settled.insert(id)),
                _other => None,
            }
        });
        told.take(steps).for_each(drop);
    }
}

/// What is on disk of a round: charged amounts by name, and names under way.
fn on_disk(path: &Path, round: u64) -> (BTreeMap<u128, u64>, BTreeSet<u128>) {
    let connection = Connection::open(path).unwrap();
    // What is in the write-ahead log stays there: the next process has to make do with it, as it would without us.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    let range = (u128::from(round) << 64).to_be_bytes()..(u128::from(round + 1) << 64).to_be_bytes();
    let mut statement = connection.prepare("SELECT id, raw / 1000 FROM spend WHERE id >= ?1 AND id < ?2").unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((u128::from_be_bytes(row.get(0)?), row.get::<_, i64>(1)? as u64));
    let rows: Vec<(u128, u64)> =
        statement.query_map((range.start, range.end), row).unwrap().collect::<Result<_, _>>().unwrap();
    let names: BTreeMap<u128, u64> = rows.iter().copied().collect();
    assert_eq!(names.len(), rows.len(), "a request was charged twice");
    let mut statement = connection.prepare("SELECT id FROM dispatched WHERE id >= ?1 AND id < ?2").unwrap();
    let name = |row: &rusqlite::Row<'_>| Ok(u128::from_be_bytes(row.get(0)?));
    (names, statement.query_map((range.start, range.end), name).unwrap().collect::<Result<_, _>>().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_torn_or_doubled_when_the_ledgers_process_is_killed() {
    let soak = Soak::told();
    let (acknowledged, charged_whole) = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let soak = &soak;
                scope.spawn(move || kill_again_and_again(lane, soak))
            })
            .collect();
        let done = lanes.into_iter().map(|lane| lane.join().unwrap());
        done.fold((0, 0), |sum, lane| (sum.0 + lane.0, sum.1 + lane.1))
    });
    let killed = soak.killed.load(Ordering::SeqCst);
    println!(
        "{killed} processes killed in {:.0} s (seed {}), {acknowledged} steps acknowledged, 0 lost, torn or doubled; \
         {charged_whole} requests charged in full",
        soak.start.elapsed().as_secs_f64(),
        soak.seed
    );
    assert!(killed > 0 && acknowledged as u64 >= killed, "too little was tried");
}

/// How much is tried, and how far it is.
struct Soak {
    rounds: u64,
    seed: u64,
    start: Instant,
    time_max: Duration,
    killed: AtomicU64,
}

impl Soak {
    fn told() -> Soak {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        Soak {
            rounds: number("CARBOY_SOAK_ROUNDS").unwrap_or(ROUNDS),
            seed: number("CARBOY_SEED").unwrap_or(SEED),
            start: Instant::now(),
            time_max: number("CARBOY_SOAK_MINUTES").map_or(Duration::MAX, |minutes| Duration::from_secs(60 * minutes)),
            killed: AtomicU64::new(0),
        }
    }

    /// Another one of so many was killed.
    fn counts(&self) {
        let killed = self.killed.fetch_add(1, Ordering::SeqCst) + 1;
        if killed.is_multiple_of(PROGRESS_ROUNDS) {
            println!("{killed} of {} killed after {:.0} s", self.rounds, self.start.elapsed().as_secs_f64());
        }
    }
}

/// Kills so many processes of one ledger; gives the steps that were acknowledged, and the requests that were under way.
fn kill_again_and_again(lane: u64, soak: &Soak) -> (usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let (mut dice, mut acknowledged, mut charged_whole) = (Dice(soak.seed + lane), 0, 0);
    for round in 1..=soak.rounds.div_ceil(LANES) {
        if soak.start.elapsed() > soak.time_max {
            break;
        }
        let mut child = spawn("role", &round.to_string(), &path);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut told = Told::default();
        told.read(&mut output, dice.below(60));
        // The moment of death is not what is waited for: it is thrown.
        std::thread::sleep(Duration::from_micros(dice.below(3_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        told.read(&mut output, usize::MAX);

        let (charged, under_way) = on_disk(&path, round);
        for id in &told.settled {
            assert_eq!(charged.get(id), Some(&cost(*id)), "round {round}: {id} was acknowledged as charged");
        }
        for id in &told.dispatched {
            assert!(charged.contains_key(id) || under_way.contains(id), "round {round}: {id} was acknowledged as sent");
        }
        assert!(charged.iter().all(|(id, amount)| *amount == cost(*id)), "round {round}: a row is torn");
        assert!(charged.keys().all(|id| !under_way.contains(id)), "round {round}: charged and still under way");
        acknowledged += told.settled.len() + told.dispatched.len();
        charged_whole += under_way.len();
        soak.counts();
    }
    // The end: the last owner is gone, nothing is held, and the sums are those of the rows.
    let engine = engine(&path);
    for known in block_on(engine.owners()).unwrap() {
        block_on(engine.owner_gone(known.owner.id)).unwrap();
    }
    let (spent, held) = host(&engine);
    assert_eq!(held, 0);
    assert_eq!(engine.reader().differences().unwrap(), []);
    let connection = Connection::open(&path).unwrap();
    let sum: i64 = connection.query_row("SELECT sum(raw) / 1000 FROM spend", [], |row| row.get(0)).unwrap();
    assert_eq!(spent, sum as u64);
    (acknowledged, charged_whole)
}

fn succeeded(child: std::process::Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_full_disk_refuses_everything_loses_nothing_and_is_recovered_from() {
    let dir = tempfile::tempdir().unwrap();
    // A file system of its own, in a mount namespace of its own.
    let script = "mount -t tmpfs -o size=1m,mode=700 tmpfs \"$1\" || { echo \"no tmpfs of our own: user namespaces are needed, \
                  see docs/install.md\"; exit 1; }; shift; exec \"$@\"";
    let child = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture", "--test-threads=1"])
        .env(ROLE, "full disk")
        .env(LOG, dir.path().join("ledger.db"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    succeeded(child);
}

/// Spends until the disk is full; what was acknowledged, and the words of the refusal.
fn spend_until_refused(ledger: &Arc<dyn Ledger>) -> (u64, String) {
    for spent in 0..1_000_000 {
        match attempt(ledger) {
            Ok(()) => {}
            Err(NotHeld::Unavailable(words)) => return (spent, words),
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the disk is never full");
}

fn attempt(ledger: &Arc<dyn Ledger>) -> Result<(), NotHeld> {
    let request = ask(1, 20);
    let id = request.id;
    block_on(ledger.admit(request))?;
    block_on(ledger.dispatch(id))?;
    // Refused, it is kept and charged later.
    block_on(ledger.settle(id, wrote(1, 0)))
}

fn full_disk(path: &Path) {
    let ballast = path.with_file_name("ballast");
    std::fs::write(&ballast, vec![1; 400 * 1024]).unwrap();
    let engine = engine(path);
    let ledger = connect(&engine, 1);
    let held = ask(10, 500);
    let id = held.id;
    granted(block_on(ledger.admit(held)));
    block_on(ledger.dispatch(id)).unwrap();
    let (_, words) = spend_until_refused(&ledger);
    assert!(words.contains("ledger.db") && words.contains("goes on by itself"), "{words}");
    let seen = Usage { input: 10, output: 90, ..Usage::default() };
    assert!(block_on(ledger.settle(id, Ending::Reported(seen))).is_err());
    assert!(block_on(engine.snapshot()).unwrap().failing.is_some());

    std::fs::remove_file(&ballast).unwrap();
    until("it goes on", || attempt(&ledger).is_ok());
    // What was told while nothing could be written is charged.
    block_on(ledger.settle(id, Ending::Reported(seen))).unwrap();
    let (spent, held) = host(&engine);
    block_on(engine.owner_gone(1)).unwrap();
    block_on(engine.close()).unwrap();
    let mut store = SqliteStore::open(path).unwrap();
    assert!(store.ended(id).unwrap());
    assert_eq!(store.reader().differences().unwrap(), []);
    let after: u64 = store.load().unwrap().minutes.iter().map(|sum| sum.charged.raw.tokens_up()).sum();
    // Four scopes; what was under way when the disk was full is charged in full with its owner.
    assert!(after >= 4 * spent && after <= 4 * (spent + held), "{after}, {spent}, {held}");
}

#[test]
fn a_file_that_may_not_grow_refuses_everything_loses_nothing_and_is_recovered_from() {
    let dir = tempfile::tempdir().unwrap();
    succeeded(spawn("role", "file limit", &dir.path().join("ledger.db")));
}

fn file_limit(path: &Path) {
    let engine = engine(path);
    let ledger = connect(&engine, 1);
    let (mut acknowledged, mut log) = (0, path.as_os_str().to_owned());
    log.push("-wal");
    for _ in 0..5 {
        // Room for a part of the next page only.
        limit(Some(std::fs::metadata(&log).unwrap().len() + 1_000));
        let (spent, words) = spend_until_refused(&ledger);
        assert!(words.contains("cannot write the ledger") && words.contains("goes on by itself"), "{words}");
        acknowledged += spent;
        limit(None);
        until("it goes on", || attempt(&ledger).is_ok());
        acknowledged += 1;
    }
    let (spent, _) = host(&engine);
    assert!(spent >= acknowledged && spent <= acknowledged + 10, "{spent} of {acknowledged}");
    assert_eq!(engine.reader().differences().unwrap(), []);
    block_on(engine.close()).unwrap();
}

fn limit(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}
