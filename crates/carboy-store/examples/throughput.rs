//! Measures the audit log: `cargo run --release -p carboy-store --example throughput [DIRECTORY]`.
//!
//! Prints events per second for plain appends, and for durable ones by 1, 16 and 256 tasks that each wait for the disk.

mod waiting;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use carboy_core::audit::{ChainKey, Event, EventType, Outcome, Subject};
use carboy_core::ports::AuditSink;
use carboy_store::audit::{AuditLog, Integrity, verify};
use waiting::{Wall, block_on};

fn event() -> Event {
    let subject = Subject { bottle: Some("work".into()), run: Some("k3v9".into()), ..Subject::default() };
    Event::new(EventType::Egress, subject, "request", Outcome::Allowed)
        .with("host", "api.example.com")
        .with("method", "POST")
        .with("path", "/v1/messages")
        .with("status", 200_u16)
        .with("bytes_out", 4_711_u64)
}

type Failure = Box<dyn std::error::Error>;

fn key() -> Result<ChainKey, Failure> {
    Ok(ChainKey::from_hex(&"5a".repeat(32))?)
}

fn main() -> Result<(), Failure> {
    let place = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let place = place.join(format!("carboy-throughput-{}", std::process::id()));
    let outcome = measure(&place.join("audit.jsonl"));
    std::fs::remove_dir_all(&place)?;
    outcome
}

fn measure(path: &Path) -> Result<(), Failure> {
    let log = AuditLog::open(path, key()?, Arc::new(Wall))?;
    const PLAIN: u64 = 200_000;
    let start = Instant::now();
    for _ in 0..PLAIN {
        log.append(event())?;
    }
    block_on(log.append_durable(event()))?;
    println!("plain appends: {:.0} events/s", PLAIN as f64 / start.elapsed().as_secs_f64());

    for tasks in [1, 16, 256] {
        let start = Instant::now();
        let mut waits: Vec<Duration> = thread::scope(|scope| {
            let threads: Vec<_> = (0..tasks).map(|_| scope.spawn(|| durable(&log))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        waits.sort();
        let rate = waits.len() as f64 / start.elapsed().as_secs_f64();
        let at = |part: usize| waits.get(waits.len() * part / 100).copied().unwrap_or_default();
        println!("durable appends, {tasks} waiting: {rate:.0} events/s, p50 {:?}, p99 {:?}", at(50), at(99));
    }
    log.close()?;
    let start = Instant::now();
    let report = verify(path, &key()?, None)?;
    let rate = report.entries as f64 / start.elapsed().as_secs_f64();
    println!("verification: {} entries, {rate:.0} entries/s", report.entries);
    if report.result == Integrity::Valid { Ok(()) } else { Err("the log does not verify".into()) }
}

/// Two seconds of durable appends: how long each took; an empty list when one failed.
fn durable(log: &AuditLog) -> Vec<Duration> {
    let (begin, mut waits) = (Instant::now(), Vec::new());
    while begin.elapsed() < Duration::from_secs(2) {
        let start = Instant::now();
        if block_on(log.append_durable(event())).is_err() {
            return Vec::new();
        }
        waits.push(start.elapsed());
    }
    waits
}
