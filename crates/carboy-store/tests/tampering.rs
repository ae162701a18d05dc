//! Attacks on a finished log, each at many random places: all are found, with a head kept elsewhere where it takes one.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use carboy_core::audit::{ChainHead, ChainKey, Entry, Event, EventType, Outcome, Subject, Tampering};
use carboy_core::ports::AuditSink;
use carboy_store::StoreError;
use carboy_store::audit::{Hint, Integrity, verify};
use support::{Dice, assert_valid, event, keyed, open, report};

const LINES: usize = 24;
const ROUNDS: u64 = 25;

type Key = fn() -> ChainKey;
const KEYS: [Key; 2] = [|| ChainKey::Plain, keyed];

/// A log of [`LINES`] entries: its lines and its head.
fn log(dir: &Path, key: Key) -> (Vec<String>, ChainHead) {
    let path = dir.join("audit.jsonl");
    let log = open(&path, key());
    (0..LINES as u64).for_each(|n| log.append(event("a", n)).unwrap());
    log.close().unwrap();
    let head = assert_valid(&path, &key()).head;
    (fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect(), head)
}

/// What verification says of these lines.
fn found(lines: &[String], key: Key, kept: Option<ChainHead>) -> Integrity {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    report(&path, &key(), kept).result
}

/// Runs an attack at many places and checks that it is found. What it gives says whether it takes a kept head.
fn attack(mut attack: impl FnMut(&mut Vec<String>, &mut Dice, Key) -> Kept) {
    for key in KEYS {
        let dir = tempfile::tempdir().unwrap();
        let (lines, head) = log(dir.path(), key);
        for round in 0..ROUNDS {
            let (mut bad, mut dice) = (lines.clone(), Dice(round));
            let kept = attack(&mut bad, &mut dice, key);
            assert_ne!(bad, lines, "round {round}");
            let with = found(&bad, key, Some(head.clone()));
            assert!(matches!(with, Integrity::Tampered(_)), "round {round}, with a head: {with:?}");
            let without = found(&bad, key, None);
            assert_eq!(
                matches!(without, Integrity::Tampered(_)),
                kept == Kept::NotNeeded,
                "round {round}: {without:?}"
            );
        }
    }
}

#[derive(PartialEq)]
enum Kept {
    Needed,
    NotNeeded,
}

/// A line like `line` with another number in it, hashed as somebody would who has no key.
fn forged(line: &str, value: u64) -> String {
    let entry = Entry::parse(line.as_bytes()).unwrap();
    let before = entry.text("_previous_hash").unwrap().to_owned();
    let mut head = ChainHead { seq: entry.seq().unwrap() - 1, hash: before };
    let event = Event::new(EventType::Egress, Subject::default(), "request", Outcome::Allowed).with("n", value);
    let entry = Entry::chain(event, entry.text("timestamp").unwrap(), &mut head, &ChainKey::Plain);
    String::from_utf8(entry.to_line()).unwrap()
}

#[test]
fn an_edit_is_found() {
    attack(|lines, dice, _| {
        let at = dice.below(lines.len());
        let (from, to) =
            [("allowed", "denied"), ("\"n\":", "\"n\":1"), ("egress", "dns"), ("Z\"", "Z \"")][dice.below(4)];
        lines[at] = lines[at].replace(from, to);
        Kept::NotNeeded
    });
}

#[test]
fn an_edit_with_its_own_hash_made_anew_is_found() {
    attack(|lines, dice, key| {
        let at = dice.below(lines.len());
        lines[at] = forged(&lines[at], 999);
        // Without a key, nothing but a kept head shows a change of the last line.
        let plain = matches!(key(), ChainKey::Plain);
        if plain && at + 1 == lines.len() { Kept::Needed } else { Kept::NotNeeded }
    });
}

#[test]
fn a_deleted_line_is_found() {
    attack(|lines, dice, _| {
        let at = dice.below(lines.len() - 1);
        lines.remove(at);
        Kept::NotNeeded
    });
}

#[test]
fn an_inserted_line_is_found() {
    attack(|lines, dice, _| {
        let at = dice.below(lines.len());
        lines.insert(at, forged(&lines[at], 999));
        Kept::NotNeeded
    });
}

#[test]
fn swapped_lines_are_found() {
    attack(|lines, dice, _| {
        let at = dice.below(lines.len());
        let other = (at + 1 + dice.below(lines.len() - 1)) % lines.len();
        lines.swap(at, other);
        Kept::NotNeeded
    });
}

#[test]
fn a_repeated_line_is_found() {
    attack(|lines, dice, _| {
        let line = lines[dice.below(lines.len())].clone();
        lines.insert(dice.below(lines.len() + 1), line);
        Kept::NotNeeded
    });
}

#[test]
fn a_log_rechained_from_some_line_on_without_the_key_is_found() {
    attack(|lines, dice, key| {
        let from = dice.below(lines.len());
        for at in from..lines.len() {
            let mut line = forged(&lines[at], 999);
            if at > from {
                let before = Entry::parse(lines[at - 1].as_bytes()).unwrap().claimed_head().unwrap();
                let was = Entry::parse(line.as_bytes()).unwrap().text("_previous_hash").unwrap().to_owned();
                line = forged(&line.replace(&was, &before.hash), 999);
            }
            lines[at] = line;
        }
        if matches!(key(), ChainKey::Plain) { Kept::Needed } else { Kept::NotNeeded }
    });
}

#[test]
fn a_log_rechained_without_the_key_from_the_start_gets_the_hint_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), || ChainKey::Plain);
    let report = report(&dir.path().join("audit.jsonl"), &keyed(), None);
    assert_eq!(report.result, Integrity::Tampered(Tampering::Edited { line: 1 }));
    assert_eq!(report.hint, Some(Hint::WrittenWithoutKey));
}

#[test]
fn a_keyed_log_without_its_key_is_told_from_one_that_never_had_a_key_and_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), keyed);
    let path = dir.path().join("audit.jsonl");
    let without = report(&path, &ChainKey::Plain, None);
    assert_eq!((without.entries, without.hint), (0, Some(Hint::LooksKeyed)));
    // The first two entries of a log without a key, changed so that they look keyed: the third needs none.
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), || ChainKey::Plain);
    let path = dir.path().join("audit.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for at in 0..2 {
        let was = Entry::parse(lines[at].as_bytes()).unwrap().claimed_head().unwrap().hash;
        let now = format!("{:064x}", at + 1);
        lines[at] = lines[at].replace(&was, &now);
        lines[at + 1] = lines[at + 1].replace(&was, &now);
    }
    // And the third as it was.
    lines[2] = text.lines().nth(2).unwrap().to_owned();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let changed = report(&path, &ChainKey::Plain, None);
    assert_eq!(changed.result, Integrity::Tampered(Tampering::Edited { line: 1 }));
    assert_eq!(changed.hint, None);
}

#[test]
fn a_cut_tail_an_older_copy_and_a_wiped_log_are_found_by_a_kept_head() {
    attack(|lines, dice, _| {
        let left = dice.below(lines.len());
        lines.truncate(left);
        Kept::Needed
    });
    attack(|lines, _, _| {
        lines.clear();
        Kept::Needed
    });
}

#[test]
fn an_older_copy_that_grew_on_is_found_by_a_kept_head() {
    for key in KEYS {
        let dir = tempfile::tempdir().unwrap();
        let (lines, head) = log(dir.path(), key);
        let path = dir.path().join("audit.jsonl");
        fs::write(&path, lines[..10].iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        let log = open(&path, key());
        (0..LINES as u64).for_each(|n| log.append(event("b", n)).unwrap());
        log.close().unwrap();
        assert_valid(&path, &key());
        let rewritten = Integrity::Tampered(Tampering::Rewritten { seq: LINES as u64 });
        assert_eq!(report(&path, &key(), Some(head)).result, rewritten);
    }
}

#[test]
fn a_torn_last_line_is_found_and_named() {
    for key in KEYS {
        let dir = tempfile::tempdir().unwrap();
        let (lines, head) = log(dir.path(), key);
        let path = dir.path().join("audit.jsonl");
        let text = fs::read(&path).unwrap();
        let last = lines.last().unwrap().len();
        let mut dice = Dice(3);
        for _ in 0..ROUNDS {
            let missing = 1 + dice.below(last);
            fs::write(&path, &text[..text.len() - missing]).unwrap();
            let report = verify(&path, &key(), Some(head.clone())).unwrap();
            assert_eq!(report.result, Integrity::Tampered(Tampering::NotAnEntry { line: LINES as u64 }));
            assert_eq!(report.hint, Some(Hint::TornEnd { bytes: (last + 1 - missing) as u64 }));
            assert_eq!(report.entries, LINES as u64 - 1);
        }
    }
}

#[test]
fn a_line_without_an_end_is_found_without_reading_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, "z".repeat(1 << 20)).unwrap();
    assert_eq!(report(&path, &keyed(), None).result, Integrity::Tampered(Tampering::NotAnEntry { line: 1 }));
}

#[test]
fn a_missing_log_is_an_error_that_names_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let error = verify(&dir.path().join("audit.jsonl"), &keyed(), None).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }));
    assert!(error.to_string().contains("there is no audit log at"), "{error}");
    assert!(matches!(verify(dir.path(), &keyed(), None), Err(StoreError::NotPlainFile { .. })));
}
