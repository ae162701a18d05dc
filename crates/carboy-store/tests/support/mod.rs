//! What the tests of the log share: a clock, events that can be told apart, a way to wait, dice.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{SystemTime, UNIX_EPOCH};

use carboy_core::audit::{ChainHead, ChainKey, Entry, Event, EventType, Outcome, Subject};
use carboy_core::ports::Clock;
use carboy_store::audit::{AuditLog, Integrity, Query, Report, query, verify};

/// The role of a process that a test started.
pub const ROLE: &str = "STORE_TEST_ROLE";
/// The log that it uses.
pub const LOG: &str = "STORE_TEST_LOG";

pub struct Wall;

impl Clock for Wall {
    fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
    }
}

/// A clock that stands still.
pub struct Still(pub u64);

impl Clock for Still {
    fn now_ms(&self) -> u64 {
        self.0
    }
}

pub fn keyed() -> ChainKey {
    ChainKey::from_hex(&"5a".repeat(32)).unwrap()
}

pub fn open(path: &Path, key: ChainKey) -> AuditLog {
    AuditLog::open(path, key, Arc::new(Wall)).unwrap()
}

/// Event `n` of `writer`.
pub fn event(writer: &str, n: u64) -> Event {
    let subject = Subject { bottle: Some(writer.to_owned()), ..Subject::default() };
    Event::new(EventType::Egress, subject, "request", Outcome::Allowed).with("n", n)
}

/// The numbers of `writer`'s events, in the order of the log.
pub fn numbers(path: &Path, writer: &str) -> Vec<u64> {
    let wanted = Query { bottle: Some(writer.to_owned()), ..Query::default() };
    query(path, &wanted).unwrap().entries.iter().map(|e| e.detail("n").unwrap().as_u64().unwrap()).collect()
}

pub fn actions(path: &Path) -> Vec<String> {
    query(path, &Query::default())
        .unwrap()
        .entries
        .iter()
        .map(|e: &Entry| e.text("action").unwrap().to_owned())
        .collect()
}

pub fn report(path: &Path, key: &ChainKey, kept: Option<ChainHead>) -> Report {
    verify(path, key, kept).unwrap()
}

pub fn assert_valid(path: &Path, key: &ChainKey) -> Report {
    let report = report(path, key, None);
    assert_eq!(report.result, Integrity::Valid, "{report:?}");
    report
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future without a runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Numbers that look random and are the same each time (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Starts this test binary again in the role of `test`, with its output to be read. Writes past a file size limit fail
/// in it with an error, as on a full disk, instead of a signal.
pub fn spawn(test: &str, role: &str, log: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(LOG, log)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Asks again until it is so; what is waited for ends by itself.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "never: {what}");
        std::thread::yield_now();
    }
}
