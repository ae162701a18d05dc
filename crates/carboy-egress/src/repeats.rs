//! Repeated refusals as one event with a count, so that a program that asks in a loop does not fill the log.
//!
//! Each distinct refusal is written at once; its repeats are counted, and the count is written with the next one
//! after the window, or at the end of the run. A refusal itself is never delayed or left out. Repeats have no id of
//! their own: each is told the id of the entry that was written last for the same refusal.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use carboy_core::ids::RefusalId;

/// The key that all refusals share once the table is full.
const OTHERS: &str = "(others)";

/// What to do about one refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Write an event; this many like it were counted since the last one.
    Write { repeats: u64 },
    /// It was counted; the entry that stands for it has this id, where there is one for this very refusal.
    Counted { under: Option<RefusalId> },
}

/// Repeats that are to be written now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Counted {
    /// What was refused again.
    pub(crate) what: String,
    /// How often.
    pub(crate) count: u64,
    /// The entry that they repeat.
    pub(crate) of: RefusalId,
}

struct Seen {
    count: u64,
    since: Instant,
    id: RefusalId,
}

impl Seen {
    fn counted(&self, what: &str) -> Option<Counted> {
        (self.count > 0).then(|| Counted { what: what.to_owned(), count: self.count, of: self.id.clone() })
    }
}

pub(crate) struct Repeats {
    max: usize,
    window: Duration,
    seen: HashMap<String, Seen>,
    overdue: Vec<Counted>,
}

impl Repeats {
    pub(crate) fn new(max: usize, window: Duration) -> Repeats {
        Repeats { max, window, seen: HashMap::new(), overdue: Vec::new() }
    }

    /// `id` is the refusal's own, used when it is written.
    pub(crate) fn note(&mut self, key: &str, id: &RefusalId, now: Instant) -> Note {
        if !self.seen.contains_key(key) && self.seen.len() >= self.max {
            // What is older than a window makes room, and its count is to be written: a program that fills the table
            // with refusals of its choice would otherwise hide all later ones.
            let (window, overdue) = (self.window, &mut self.overdue);
            self.seen.retain(|key, seen| {
                let young = now.duration_since(seen.since) < window;
                if !young {
                    overdue.extend(seen.counted(key));
                }
                young
            });
            if self.seen.len() >= self.max {
                return match self.count(OTHERS, id, now) {
                    // The entry is of another refusal: whoever looked it up would read of that one.
                    Note::Counted { .. } => Note::Counted { under: None },
                    note @ Note::Write { .. } => note,
                };
            }
        }
        self.count(key, id, now)
    }

    fn count(&mut self, key: &str, id: &RefusalId, now: Instant) -> Note {
        match self.seen.get_mut(key) {
            None => {
                self.seen.insert(key.to_owned(), Seen { count: 0, since: now, id: id.clone() });
                Note::Write { repeats: 0 }
            }
            Some(seen) if now.duration_since(seen.since) >= self.window => {
                let repeats = std::mem::take(&mut seen.count);
                (seen.since, seen.id) = (now, id.clone());
                Note::Write { repeats }
            }
            Some(seen) => {
                seen.count += 1;
                Note::Counted { under: Some(seen.id.clone()) }
            }
        }
    }

    /// What had to make room and is to be written now; no more than the table holds in each window.
    pub(crate) fn overdue(&mut self) -> Vec<Counted> {
        std::mem::take(&mut self.overdue)
    }

    /// What was counted and not yet written.
    pub(crate) fn drain(&mut self) -> Vec<Counted> {
        let mut rest = self.overdue();
        rest.extend(self.seen.drain().filter_map(|(key, seen)| seen.counted(&key)));
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
        // Each is noted with the second as its id.
        let mut note =
            |key: &str, s: u32| repeats.note(key, &RefusalId::from_bits(s), start + Duration::from_secs(s.into()));
        let under = |s| Note::Counted { under: Some(RefusalId::from_bits(s)) };
        assert_eq!(note("a", 0), Note::Write { repeats: 0 });
        assert_eq!(note("a", 1), under(0));
        assert_eq!(note("a", 2), under(0));
        assert_eq!(note("a", 61), Note::Write { repeats: 2 });
        assert_eq!(note("a", 62), under(61));
        assert_eq!(note("b", 62), Note::Write { repeats: 0 });
        assert_eq!(note("c", 63), Note::Write { repeats: 0 }); // the table is full: shared from here
        assert_eq!(note("d", 63), Note::Counted { under: None });
        let counted = |what: &str, of| Counted { what: what.to_owned(), count: 1, of: RefusalId::from_bits(of) };
        assert_eq!(repeats.drain(), [counted("(others)", 63), counted("a", 61)]);
    }

    #[test]
    fn a_full_table_makes_room_after_a_window_and_gives_the_counts_out() {
        let mut repeats = Repeats::new(1, Duration::from_secs(60));
        let start = Instant::now();
        let id = RefusalId::from_bits(1);
        assert_eq!(repeats.note("a", &id, start), Note::Write { repeats: 0 });
        assert_eq!(repeats.note("a", &id, start), Note::Counted { under: Some(id.clone()) });
        assert_eq!(repeats.note("b", &id, start + Duration::from_secs(61)), Note::Write { repeats: 0 });
        assert_eq!(repeats.overdue(), [Counted { what: "a".to_owned(), count: 1, of: id }]);
        assert!(repeats.overdue().is_empty() && repeats.drain().is_empty());
    }
}
