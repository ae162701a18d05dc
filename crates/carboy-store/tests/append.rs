//! Writing: order, durability, modes, links, torn lines, and what is refused.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::time::{Duration, Instant};

use carboy_core::audit::{ChainKey, hex, sha256};
use carboy_core::ports::AuditSink;
use carboy_store::StoreError;
use carboy_store::audit::{AuditLog, EVENT_BYTES_MAX, Hint, Query, query};
use support::{Still, actions, assert_valid, block_on, event, keyed, numbers, open};

fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit").join("audit.jsonl");
    (dir, path)
}

fn refusal(path: &std::path::Path, key: ChainKey) -> StoreError {
    match AuditLog::open(path, key, Arc::new(Still(0))) {
        Ok(_) => panic!("the log was opened"),
        Err(error) => error,
    }
}

#[test]
fn events_stand_in_the_order_of_their_appends() {
    let (_dir, path) = place();
    let log = open(&path, keyed());
    for n in 0..2_500 {
        log.append(event("a", n)).unwrap();
    }
    block_on(log.append_durable(event("a", 2_500))).unwrap();
    assert_eq!(numbers(&path, "a"), (0..=2_500).collect::<Vec<_>>());
    let report = assert_valid(&path, &keyed());
    assert_eq!((report.entries, report.head), (2_501, log.head()));
}

#[test]
fn a_plain_append_is_on_disk_within_a_tenth_of_a_second_or_so() {
    let (_dir, path) = place();
    let log = open(&path, ChainKey::Plain);
    let start = Instant::now();
    log.append(event("a", 0)).unwrap();
    while numbers(&path, "a").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(2), "not written");
        std::thread::yield_now();
    }
}

#[test]
fn a_durable_append_is_in_the_file_when_it_is_ready() {
    let (_dir, path) = place();
    let log = open(&path, ChainKey::Plain);
    for n in 0..20 {
        block_on(log.append_durable(event("a", n))).unwrap();
        assert_eq!(numbers(&path, "a").len() as u64, n + 1);
    }
}

#[test]
fn closing_writes_what_waits_and_refuses_what_comes_later() {
    let (_dir, path) = place();
    let log = open(&path, ChainKey::Plain);
    (0..5).for_each(|n| log.append(event("a", n)).unwrap());
    log.close().unwrap();
    assert_eq!(numbers(&path, "a").len(), 5);
    assert!(log.append(event("a", 5)).is_err());
    assert!(block_on(log.append_durable(event("a", 6))).is_err());
    log.close().unwrap();
}

#[test]
fn four_logs_on_one_file_make_one_chain() {
    let (_dir, path) = place();
    let names = ["a", "b", "c", "d"];
    std::thread::scope(|scope| {
        for name in names {
            let log = open(&path, keyed());
            scope.spawn(move || {
                for n in 0..200 {
                    if n % 10 == 9 {
                        block_on(log.append_durable(event(name, n))).unwrap();
                    } else {
                        log.append(event(name, n)).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(assert_valid(&path, &keyed()).entries, 800);
    for name in names {
        assert_eq!(numbers(&path, name), (0..200).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_new_log_is_for_its_owner_alone() {
    let (_dir, path) = place();
    drop(open(&path, ChainKey::Plain));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_link_in_the_place_of_the_log_is_refused_and_what_it_leads_to_is_not_touched() {
    let (dir, path) = place();
    fs::create_dir(path.parent().unwrap()).unwrap();
    let target = dir.path().join("target");
    fs::write(&target, "precious").unwrap();
    symlink(&target, &path).unwrap();
    assert!(matches!(refusal(&path, ChainKey::Plain), StoreError::NotPlainFile { .. }));
    fs::remove_file(&path).unwrap();
    fs::hard_link(&target, &path).unwrap();
    assert!(matches!(refusal(&path, ChainKey::Plain), StoreError::NotPlainFile { .. }));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(refusal(&path, ChainKey::Plain), StoreError::NotPlainFile { .. }));
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn a_log_or_a_directory_that_others_can_write_is_refused() {
    let (_dir, path) = place();
    drop(open(&path, ChainKey::Plain));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
    assert!(matches!(refusal(&path, ChainKey::Plain), StoreError::LooseMode { mode: 0o620, .. }));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(refusal(&path, ChainKey::Plain), StoreError::LooseMode { mode: 0o777, .. }));
}

#[test]
fn a_log_of_somebody_else_or_one_that_cannot_be_written_is_refused() {
    let (_dir, path) = place();
    drop(open(&path, ChainKey::Plain));
    if rustix::process::geteuid().is_root() {
        // Root can write everything; a foreign owner is what it has to look out for.
        std::os::unix::fs::chown(&path, Some(4_242), None).unwrap();
        assert!(matches!(refusal(&path, ChainKey::Plain), StoreError::ForeignOwner { owner: 4_242, .. }));
    } else {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(matches!(refusal(&path, ChainKey::Plain), StoreError::Io { what: "open", .. }));
    }
}

#[test]
fn a_torn_last_line_is_moved_aside_and_the_log_says_so() {
    let (_dir, path) = place();
    let log = open(&path, keyed());
    block_on(log.append_durable(event("a", 0))).unwrap();
    log.close().unwrap();
    let torn = br#"{"_integrity_hash":"00112233"#;
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
    drop(AuditLog::open(&path, keyed(), Arc::new(Still(1_767_323_045_678))).unwrap());
    let copy = path.with_file_name("audit.torn-20260102T030405678Z");
    assert_eq!(fs::read(&copy).unwrap(), torn);
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);
    assert_valid(&path, &keyed());
    let found = query(&path, &Query { action: Some("move_torn_line".into()), ..Query::default() }).unwrap();
    assert_eq!(found.entries[0].detail("file").unwrap(), "audit.torn-20260102T030405678Z");
    assert_eq!(found.entries[0].detail("bytes").unwrap(), torn.len());
    assert_eq!(found.entries[0].detail("sha256").unwrap().as_str().unwrap(), hex(&sha256(torn)));
}

#[test]
fn a_line_torn_by_another_process_is_moved_aside_by_one_that_goes_on() {
    let (_dir, path) = place();
    let log = open(&path, ChainKey::Plain);
    block_on(log.append_durable(event("a", 0))).unwrap();
    // Longer than the event that takes its place.
    let torn = "x".repeat(5_000);
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
    block_on(log.append_durable(event("a", 1))).unwrap();
    assert_valid(&path, &ChainKey::Plain);
    assert_eq!(actions(&path), ["request", "move_torn_line", "request"]);
}

#[test]
fn a_log_whose_end_does_not_hold_is_not_continued() {
    let (_dir, path) = place();
    let log = open(&path, keyed());
    (0..3).for_each(|n| log.append(event("a", n)).unwrap());
    log.close().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let at = text.rfind(r#""n":2"#).unwrap();
    fs::write(&path, format!("{}\"n\":7{}", &text[..at], &text[at + 5..])).unwrap();
    assert!(matches!(refusal(&path, keyed()), StoreError::BadTail { .. }));
    let lines: Vec<&str> = text.lines().collect();
    fs::write(&path, format!("{}\n{}\n", lines[0], lines[2])).unwrap();
    assert!(matches!(refusal(&path, keyed()), StoreError::BadTail { .. }));
    fs::write(&path, "y".repeat(70_000)).unwrap();
    assert!(matches!(refusal(&path, keyed()), StoreError::LineTooLong { .. }));
}

#[test]
fn another_key_than_the_log_was_written_with_is_named_as_such() {
    let other = || ChainKey::from_hex(&"11".repeat(32)).unwrap();
    let cases: [(ChainKey, ChainKey, Hint); 3] = [
        (ChainKey::Plain, keyed(), Hint::WrittenWithoutKey),
        (keyed(), ChainKey::Plain, Hint::LooksKeyed),
        (keyed(), other(), Hint::AnotherKey),
    ];
    for (written, read, expected) in cases {
        let (_dir, path) = place();
        let log = open(&path, written);
        (0..3).for_each(|n| log.append(event("a", n)).unwrap());
        log.close().unwrap();
        assert_eq!(support::report(&path, &read, None).hint, Some(expected));
        let error = refusal(&path, read);
        assert!(matches!(error, StoreError::WrongKey { hint, .. } if hint == expected), "{error}");
    }
}

#[test]
fn a_log_that_is_cut_replaced_or_removed_while_in_use_stops_everything() {
    let (_dir, path) = place();
    let log = open(&path, ChainKey::Plain);
    (0..3).for_each(|n| log.append(event("a", n)).unwrap());
    block_on(log.append_durable(event("a", 3))).unwrap();
    let text = fs::read(&path).unwrap();
    let first = text.iter().position(|b| *b == b'\n').unwrap() + 1;

    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(first as u64).unwrap();
    let error = block_on(log.append_durable(event("a", 4))).unwrap_err();
    assert!(error.0.contains("shorter than it was"), "{error}");
    assert!(log.append(event("a", 5)).is_err(), "fails closed");

    // Put back, it goes on, and says that something was amiss.
    fs::write(&path, &text).unwrap();
    until_writable(&log);
    assert!(actions(&path).contains(&"log_gap".to_owned()));
    assert_valid(&path, &ChainKey::Plain);

    let kept = path.with_extension("kept");
    fs::rename(&path, &kept).unwrap();
    assert!(block_on(log.append_durable(event("a", 7))).unwrap_err().0.contains("removed or replaced"));
    fs::copy(&kept, &path).unwrap();
    assert!(block_on(log.append_durable(event("a", 8))).is_err(), "a copy is another file");
}

fn until_writable(log: &AuditLog) {
    let start = Instant::now();
    while block_on(log.append_durable(event("later", 0))).is_err() {
        assert!(start.elapsed() < Duration::from_secs(5), "does not recover");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_log_cut_back_and_grown_again_by_another_writer_is_found() {
    let (_dir, path) = place();
    let log = open(&path, ChainKey::Plain);
    (0..3).for_each(|n| log.append(event("a", n)).unwrap());
    block_on(log.append_durable(event("a", 3))).unwrap();
    let text = fs::read(&path).unwrap();
    let first = text.iter().position(|b| *b == b'\n').unwrap() + 1;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(first as u64).unwrap();
    let other = open(&path, ChainKey::Plain);
    (0..9).for_each(|n| other.append(event("b", n)).unwrap());
    other.close().unwrap();
    assert!(block_on(log.append_durable(event("a", 4))).unwrap_err().0.contains("cut off"));
}

#[test]
fn an_event_that_does_not_fit_a_line_is_refused_and_the_next_one_is_not() {
    let (_dir, path) = place();
    let log = open(&path, ChainKey::Plain);
    assert!(log.append(event("a", 0).with("path", "x".repeat(EVENT_BYTES_MAX))).is_err());
    assert!(log.append(event("a", 0).with("path", "\u{1}".repeat(EVENT_BYTES_MAX / 6 + 1))).is_err());
    // The largest that fits, of what grows most when it is written.
    block_on(log.append_durable(event("a", 1).with("path", "\u{1}".repeat(EVENT_BYTES_MAX / 6 - 100)))).unwrap();
    block_on(log.append_durable(event("a", 2))).unwrap();
    drop(log);
    drop(open(&path, ChainKey::Plain));
    assert_eq!(assert_valid(&path, &ChainKey::Plain).entries, 2);
}
