//! Repeated refusals as one event with a count, so that a program that asks in a loop does not fill the log.
//!
//! Each distinct refusal is written at once; its repeats are counted, and the count is written with the next one
//! after the window, or at the end of the run. A refusal itself is never delayed or left out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The key that all refusals share once the table is full.
const OTHERS: &str = "(others)";

/// What to do about one refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Write an event; this many like it were counted since the last one.
    Write { repeats: u64 },
    /// It was counted.
    Counted,
}

pub(crate) struct Repeats {
    max: usize,
    window: Duration,
    seen: HashMap<String, (u64, Instant)>,
    overdue: Vec<(String, u64)>,
}

impl Repeats {
    pub(crate) fn new(max: usize, window: Duration) -> Repeats {
        Repeats { max, window, seen: HashMap::new(), overdue: Vec::new() }
    }

    pub(crate) fn note(&mut self, key: &str, now: Instant) -> Note {
        if !self.seen.contains_key(key) && self.seen.len() >= self.max {
            // What is older than a window makes room, and its count is to be written: a program that fills the table
            // with refusals of its choice would otherwise hide all later ones.
            let (window, overdue) = (self.window, &mut self.overdue);
            self.seen.retain(|key, (count, since)| {
                let young = now.duration_since(*since) < window;
                if !young && *count > 0 {
                    overdue.push((key.clone(), *count));
                }
                young
            });
            if self.seen.len() >= self.max {
                return self.count(OTHERS, now);
            }
        }
        self.count(key, now)
    }

    fn count(&mut self, key: &str, now: Instant) -> Note {
        match self.seen.get_mut(key) {
            None => {
                self.seen.insert(key.to_owned(), (0, now));
                Note::Write { repeats: 0 }
            }
            Some((count, since)) if now.duration_since(*since) >= self.window => {
                let repeats = std::mem::take(count);
                *since = now;
                Note::Write { repeats }
            }
            Some((count, _)) => {
                *count += 1;
                Note::Counted
            }
        }
    }

    /// What had to make room and is to be written now; no more than the table holds in each window.
    pub(crate) fn overdue(&mut self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.overdue)
    }

    /// What was counted and not yet written.
    pub(crate) fn drain(&mut self) -> Vec<(String, u64)> {
        let mut rest = self.overdue();
        rest.extend(self.seen.drain().map(|(key, (count, _))| (key, count)).filter(|r| r.1 > 0));
        rest.sort();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_written_and_the_rest_is_counted_until_the_window_ends() {
        let mut repeats = Repeats::new(2, Duration::from_secs(60));
        let start = Instant::now();
        let mut note = |key: &str, s| repeats.note(key, start + Duration::from_secs(s));
        assert_eq!(note("a", 0), Note::Write { repeats: 0 });
        assert_eq!(note("a", 1), Note::Counted);
        assert_eq!(note("a", 2), Note::Counted);
        assert_eq!(note("a", 61), Note::Write { repeats: 2 });
        assert_eq!(note("b", 61), Note::Write { repeats: 0 });
        assert_eq!(note("c", 62), Note::Write { repeats: 0 }); // the table is full: shared from here
        assert_eq!(note("d", 62), Note::Counted);
        assert_eq!(repeats.drain(), [("(others)".to_owned(), 1)]);
    }

    #[test]
    fn a_full_table_makes_room_after_a_window_and_gives_the_counts_out() {
        let mut repeats = Repeats::new(1, Duration::from_secs(60));
        let start = Instant::now();
        assert_eq!(repeats.note("a", start), Note::Write { repeats: 0 });
        assert_eq!(repeats.note("a", start), Note::Counted);
        assert_eq!(repeats.note("b", start + Duration::from_secs(61)), Note::Write { repeats: 0 });
        assert_eq!(repeats.overdue(), [("a".to_owned(), 1)]);
        assert!(repeats.overdue().is_empty() && repeats.drain().is_empty());
    }
}
