//! What is left when processes are killed in the middle of writing, and when the disk is full.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use carboy_core::audit::ChainKey;
use carboy_core::ports::AuditSink;
use rustix::process::{Resource, Rlimit, setrlimit};
use support::{Dice, LOG, ROLE, actions, assert_valid, block_on, event, keyed, numbers, open, spawn};

/// Not a test of its own: what a process does that a test below started.
#[test]
fn role() {
    let (Ok(role), Some(path)) = (std::env::var(ROLE), std::env::var_os(LOG)) else { return };
    let path = PathBuf::from(path);
    match role.as_str() {
        "full disk" => full_disk(&path),
        name => write_and_tell(&path, name),
    }
}

/// Appends for ever, two of three without waiting, and prints each number once it is known to be on disk.
fn write_and_tell(path: &Path, name: &str) {
    let log = open(path, keyed());
    let count = name.strip_prefix("count-").map_or(u64::MAX, |_| 300);
    for n in 0..count {
        if n % 3 == 2 {
            block_on(log.append_durable(event(name, n))).unwrap();
            // One write per line, so that the reader never sees half a number.
            std::io::stdout().write_all(format!("\nacked {n}\n").as_bytes()).unwrap();
        } else {
            log.append(event(name, n)).unwrap();
        }
    }
    log.close().unwrap();
}

/// Reads until `count` more numbers were told (or the end); the last one.
fn told(output: &mut BufReader<ChildStdout>, count: usize) -> Option<u64> {
    let numbers = output.lines().map_while(Result::ok).filter_map(|line| line.strip_prefix("acked ")?.parse().ok());
    numbers.take(count).last()
}

fn writer(name: &str, path: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = spawn("role", name, path);
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// The numbers of a writer start at 0 and none is missing; the last one that it was told of is there.
fn assert_kept(path: &Path, name: &str, last: u64) {
    let found = numbers(path, name);
    assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "{name}");
    assert!(found.len() as u64 > last, "{name}: {last} was acknowledged, {} are there", found.len());
}

#[test]
fn four_processes_on_one_file_make_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let names = ["count-a", "count-b", "count-c", "count-d"];
    let children: Vec<_> = names.iter().map(|name| writer(name, &path)).collect();
    for (mut child, mut output) in children {
        assert_eq!(told(&mut output, usize::MAX), Some(299));
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(assert_valid(&path, &keyed()).entries, 1_200);
    names.iter().for_each(|name| assert_kept(&path, name, 299));
}

#[test]
fn nothing_acknowledged_is_lost_when_writers_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut dice = Dice(7);
    for round in 0..10 {
        let names = [format!("a{round}"), format!("b{round}")];
        let mut pair = names.each_ref().map(|name| writer(name, &path));
        let first = told(&mut pair[0].1, 1 + dice.below(40));
        std::thread::sleep(Duration::from_micros(dice.below(3_000) as u64));
        pair[0].0.kill().unwrap();
        // The other one goes on, over whatever the first one left.
        told(&mut pair[1].1, 5);
        pair[1].0.kill().unwrap();
        let last = pair.each_mut().map(|(child, output)| {
            child.wait().unwrap();
            told(output, usize::MAX)
        });
        open(&path, keyed()).close().unwrap();
        assert_valid(&path, &keyed());
        assert_kept(&path, &names[0], last[0].or(first).unwrap());
        assert_kept(&path, &names[1], last[1].unwrap_or(0));
    }
}

#[test]
fn a_full_disk_refuses_everything_loses_nothing_acknowledged_and_is_recovered_from() {
    let dir = tempfile::tempdir().unwrap();
    let child = spawn("role", "full disk", &dir.path().join("audit.jsonl"));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn full_disk(path: &Path) {
    let key = ChainKey::Plain;
    let log = open(path, ChainKey::Plain);
    (0..5).for_each(|n| log.append(event("a", n)).unwrap());
    block_on(log.append_durable(event("a", 5))).unwrap();

    // Room for a part of the next line only.
    limit(Some(std::fs::metadata(path).unwrap().len() + 100));
    log.append(event("acknowledged", 0)).unwrap();
    let error = block_on(log.append_durable(event("refused", 0))).unwrap_err();
    assert!(error.0.contains("cannot write"), "{error}");
    assert!(log.append(event("refused", 1)).is_err());
    assert!(block_on(log.append_durable(event("refused", 2))).is_err());
    assert_eq!(assert_valid(path, &key).entries, 6, "half a line was left behind");

    limit(None);
    let start = Instant::now();
    while log.append(event("a", 6)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(5), "does not recover");
        std::thread::sleep(Duration::from_millis(5));
    }
    log.close().unwrap();
    assert_valid(path, &key);
    assert_eq!(numbers(path, "a"), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(numbers(path, "acknowledged"), [0]);
    assert_eq!(numbers(path, "refused"), [] as [u64; 0]);
    assert_eq!(actions(path)[6..], ["request", "log_gap", "request"]);

    // Closed while the disk is full: the loss is told.
    let log = open(path, ChainKey::Plain);
    limit(Some(std::fs::metadata(path).unwrap().len() + 100));
    log.append(event("lost", 0)).unwrap();
    let error = log.close().unwrap_err().to_string();
    assert!(error.starts_with("1 acknowledged events could not be written"), "{error}");
    limit(None);
    assert_valid(path, &key);
}

fn limit(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}
