//! Reading: tail, follow, questions, counts.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use carboy_core::audit::{ChainKey, Entry, Event, EventType, Outcome, Subject};
use carboy_core::ports::AuditSink;
use carboy_store::StoreError;
use carboy_store::audit::{AuditLog, ENTRIES_MAX, Query, counts, follow, parse_time, query, tail};
use support::{Still, block_on, event, open};

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    (dir, path)
}

fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.detail("n").unwrap().as_u64().unwrap()).collect()
}

#[test]
fn tail_gives_the_last_entries_wherever_blocks_end() {
    let (_dir, path) = place();
    let log = open(&path, ChainKey::Plain);
    (0..900).for_each(|n| log.append(event("a", n).with("pad", "p".repeat((n * 37 % 1_000) as usize))).unwrap());
    log.close().unwrap();
    for n in [0, 1, 2, 63, 64, 65, 500, 899, 900, 901] {
        let from = 900 - n.min(900) as u64;
        assert_eq!(numbers(&tail(&path, n).unwrap().entries), (from..900).collect::<Vec<_>>(), "{n}");
    }
    assert!(matches!(tail(&path, ENTRIES_MAX + 1), Err(StoreError::TooMany { .. })));
}

#[test]
fn a_follower_sees_the_last_entries_and_every_new_one() {
    let (_dir, path) = place();
    let log = open(&path, ChainKey::Plain);
    for n in 0..3 {
        block_on(log.append_durable(event("a", n))).unwrap();
    }
    let mut follower = follow(&path, 2).unwrap();
    assert_eq!(numbers(&follower.poll().unwrap()), [1, 2]);
    assert!(follower.poll().unwrap().is_empty());
    log.append(event("a", 3)).unwrap();
    assert_eq!(numbers(&[follower.next().unwrap().unwrap()]), [3]);
    fs::rename(&path, path.with_extension("old")).unwrap();
    assert!(matches!(follower.next(), Some(Err(StoreError::Replaced { .. }))));
    assert!(follower.next().is_none());
}

fn filled() -> (tempfile::TempDir, PathBuf) {
    let (dir, path) = place();
    for (hour, bottle) in [(0, "web"), (1, "db"), (2, "web")] {
        let log = AuditLog::open(&path, ChainKey::Plain, Arc::new(Still(hour * 3_600_000))).unwrap();
        let subject = Subject { bottle: Some(bottle.into()), run: Some(format!("r{hour}")), ..Subject::default() };
        let denied = Event::new(EventType::Egress, subject.clone(), "request", Outcome::Denied);
        log.append(denied.with("reason", "host_not_allowed").with("host", "evil.example").with("n", hour)).unwrap();
        let allowed = Event::new(EventType::Dns, subject, "dns_query", Outcome::Allowed);
        log.append(allowed.with("host", "good.example").with("n", 10 + hour)).unwrap();
        log.close().unwrap();
    }
    (dir, path)
}

#[test]
fn a_question_picks_by_each_field() {
    let (_dir, path) = filled();
    let text = |text: &str| Some(text.to_owned());
    let all = Query::default();
    for (asked, expected) in [
        (all.clone(), vec![0, 10, 1, 11, 2, 12]),
        (Query { event_type: text("dns"), ..all.clone() }, vec![10, 11, 12]),
        (Query { action: text("request"), ..all.clone() }, vec![0, 1, 2]),
        (Query { result: text("denied"), ..all.clone() }, vec![0, 1, 2]),
        (Query { reason: text("host_not_allowed"), ..all.clone() }, vec![0, 1, 2]),
        (Query { host: text("good.example"), ..all.clone() }, vec![10, 11, 12]),
        (Query { bottle: text("db"), ..all.clone() }, vec![1, 11]),
        (Query { run: text("r2"), ..all.clone() }, vec![2, 12]),
        (Query { agent: text("nobody"), ..all.clone() }, vec![]),
        (Query { since_ms: Some(3_600_000), ..all.clone() }, vec![1, 11, 2, 12]),
        (Query { until_ms: Some(3_600_000), ..all.clone() }, vec![0, 10]),
        (Query { since_ms: parse_time("1970-01-01T02:00Z").ok(), bottle: text("web"), ..all.clone() }, vec![2, 12]),
        (Query { limit: Some(2), ..all.clone() }, vec![2, 12]),
    ] {
        assert_eq!(numbers(&query(&path, &asked).unwrap().entries), expected, "{asked:?}");
    }
    assert_eq!(query(&path, &Query { limit: Some(2), ..all }).unwrap().matched, 6);
}

#[test]
fn counts_are_by_type_reason_host_and_hour() {
    let (_dir, path) = filled();
    let found = counts(&path, &Query { bottle: Some("web".into()), ..Query::default() }).unwrap();
    assert_eq!((found.total, found.unreadable), (4, 0));
    assert_eq!(found.by_type[&("egress".into(), "denied".into())], 2);
    assert_eq!(found.by_reason["host_not_allowed"], 2);
    assert_eq!(found.by_host["good.example"], 2);
    assert_eq!(found.by_hour[&("1970-01-01T02".into(), "egress".into(), "denied".into())], 1);
}

#[test]
fn lines_that_are_no_entries_are_counted() {
    let (_dir, path) = filled();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("nonsense\n{text}[]\n{{\"torn")).unwrap();
    let found = query(&path, &Query::default()).unwrap();
    assert_eq!((found.matched, found.unreadable), (6, 3));
    assert_eq!(tail(&path, 3).unwrap().unreadable, 2);
    assert_eq!(counts(&path, &Query::default()).unwrap().unreadable, 3);
    assert!(matches!(query(&path.with_extension("no"), &Query::default()), Err(StoreError::Missing { .. })));
}
