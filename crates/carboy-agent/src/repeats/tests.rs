use carboy_core::audit::{Event, Subject};
use carboy_core::ports::{AuditError, AuditSink, Later};
use proptest::prelude::*;

use super::*;
use crate::metrics::Metrics;

const ADDRESS: RuleId = RuleId::AddressPerMinute;
const USER: RuleId = RuleId::UserPerHour;

/// Keeps what `repeats` say, and may be unwritable.
#[derive(Default)]
struct Log {
    told: Mutex<Vec<(String, u64)>>,
    broken: Mutex<bool>,
}

impl Log {
    fn told(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

impl AuditSink for Log {
    fn append(&self, event: Event) -> Result<(), AuditError> {
        if *self.broken.lock().unwrap() {
            return Err(AuditError("on purpose".into()));
        }
        assert_eq!((event.action, event.event_type), ("repeats", EventType::RateLimit));
        let limit = event.details["limit"].as_json().as_str().unwrap().to_owned();
        let count = event.details["repeats"].as_json().as_u64().unwrap();
        assert!(count > 0, "an entry of nothing");
        self.told.lock().unwrap().push((limit, count));
        Ok(())
    }

    fn append_durable(&self, _: Event) -> Later<'_, Result<(), AuditError>> {
        unreachable!("nobody waits for a count")
    }
}

fn record(log: &Arc<Log>) -> Record {
    Record {
        sink: log.clone(),
        metrics: Arc::new(Metrics::default()),
        subject: Subject::default(),
        session: "5e55".into(),
        turn: 0,
    }
}

fn of(rule: RuleId, key: &str) -> Key {
    Key::Of(rule, key.to_owned())
}

fn told(rule: RuleId, count: u64) -> (String, u64) {
    (rule.as_str().to_owned(), count)
}

#[test]
fn g80_the_first_of_a_key_is_written_and_its_repeats_are_told_when_it_is_let_in_or_its_window_is_over() {
    let (log, repeats) = (Arc::new(Log::default()), Repeats::new());
    let (record, start) = (record(&log), Instant::now());
    let note = |key: Key, s: u64| repeats.0.note(key, &record, start + Duration::from_secs(s));
    assert_eq!(note(of(ADDRESS, "a"), 0), Note::Write);
    assert_eq!(note(of(ADDRESS, "a"), 1), Note::Counted);
    assert_eq!(note(of(ADDRESS, "b"), 1), Note::Write);
    assert_eq!(note(of(ADDRESS, "a"), 59), Note::Counted);
    repeats.admitted(ADDRESS, "b");
    assert_eq!(log.told(), [], "there is nothing to tell of it");
    assert_eq!(note(of(ADDRESS, "a"), 60), Note::Write, "its window is over");
    assert_eq!(log.told(), [told(ADDRESS, 2)]);
    assert_eq!(note(of(ADDRESS, "a"), 61), Note::Counted);
    repeats.admitted(ADDRESS, "a");
    assert_eq!(log.told(), [told(ADDRESS, 1)]);
    assert_eq!(note(of(ADDRESS, "a"), 62), Note::Write, "it was let in since");
    assert_eq!(note(of(USER, "a"), 62), Note::Write, "another rule");
    assert_eq!(note(of(USER, "a"), 3_661), Note::Counted, "an hour is longer");
    drop(repeats);
    assert_eq!(log.told(), [told(USER, 1)], "and the end tells the rest");
}

#[tokio::test(start_paused = true)]
async fn g80_what_was_counted_is_told_in_time_though_nobody_asks_again() {
    let (log, repeats) = (Arc::new(Log::default()), Repeats::new());
    let record = record(&log);
    assert_eq!(repeats.note(of(USER, "u"), &record), Note::Write);
    assert_eq!(repeats.note(of(USER, "u"), &record), Note::Counted);
    for wanted in [Note::Write, Note::Counted, Note::Counted] {
        assert_eq!(repeats.note(of(ADDRESS, "a"), &record), wanted);
    }
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(log.told(), []);
    *log.broken.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_secs(60)).await;
    *log.broken.lock().unwrap() = false;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(log.told(), [told(ADDRESS, 2)], "a log that could not be written gets it later");
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(log.told(), [told(USER, 1)]);
    assert!(!repeats.0.inner().watched, "and nothing runs any more");
}

#[test]
fn g80_a_full_table_shares_counts_and_makes_room_when_windows_are_over() {
    let (log, repeats) = (Arc::new(Log::default()), Repeats::of(2));
    let (record, start) = (record(&log), Instant::now());
    let note = |key: &str, s: u64| repeats.0.note(of(ADDRESS, key), &record, start + Duration::from_secs(s));
    assert_eq!([note("a", 0), note("a", 0), note("b", 1)], [Note::Write, Note::Counted, Note::Write]);
    assert_eq!([note("c", 2), note("d", 2), note("e", 2)], [Note::Write, Note::Counted, Note::Counted]);
    assert_eq!(note("f", 60), Note::Counted, "`a` went, and the shared count took its place");
    assert_eq!(log.told(), [told(ADDRESS, 1)]);
    assert_eq!(note("f", 62), Note::Write);
    assert_eq!(log.told(), [told(ADDRESS, 3)]);
}

proptest! {
    #[test]
    fn g80_as_many_are_in_the_log_as_were_refused(
        steps in proptest::collection::vec((0u64..30, 0u8..6, any::<bool>(), 0u8..8), 1..200),
    ) {
        let (log, repeats) = (Arc::new(Log::default()), Repeats::of(3));
        let (record, start) = (record(&log), Instant::now());
        let (mut now, mut refused, mut written) = (start, 0u64, 0u64);
        for (step, key, minute, what) in steps {
            now += Duration::from_secs(step);
            let rule = if minute { ADDRESS } else { USER };
            match what {
                0 => repeats.admitted(rule, &key.to_string()),
                1 => repeats.settle(),
                _ => {
                    refused += 1;
                    written += u64::from(repeats.0.note(of(rule, &key.to_string()), &record, now) == Note::Write);
                }
            }
            prop_assert!(repeats.0.inner().seen.len() <= 3 + 2);
        }
        drop(repeats);
        let counted: u64 = log.told().iter().map(|(_, count)| count).sum();
        prop_assert_eq!(written + counted, refused);
    }
}
