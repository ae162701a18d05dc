//! Requests beyond a limit in the log: the first of a key at once, those after it as one entry with their number, so that
//! a flood of requests is none of entries.
//!
//! ```text
//! refused ─▶ key not known ─▶ its own entry, on disk before anybody is told
//!        └─▶ known: counted ─▶ its window is over │ it is let in again │ the engine ends ─▶ `repeats` with the number
//! ```
//!
//! As many were refused as there are entries `rate_limit_exceeded`, and as `repeats` say beside them. *Must never* lose one,
//! or grow with the names that clients give themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use carboy_core::audit::{EventType, Outcome};
use tokio::runtime::Handle;
use tokio::time::{Duration, Instant, sleep_until};

use crate::audit::{RATE_LIMIT_EXCEEDED, Record};
use crate::layers::limiter::RuleId;

/// Keys whose repeats are counted apart; beyond them those of one rule share a count.
const KEYS_MAX: usize = 1_024;
/// How often it is looked whether something is due.
const LOOKS_AT_MOST_EVERY: Duration = Duration::from_secs(1);
const LOOKS_AT_LEAST_EVERY: Duration = Duration::from_secs(10);

/// What repeats itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// One key has had its requests.
    Of(RuleId, String),
    /// The limiter remembers no more keys: whose it would have been is different each time.
    NoRoom(RuleId),
    /// All that had no place here.
    Others(RuleId),
}

impl Key {
    fn rule(&self) -> RuleId {
        match self {
            Key::Of(rule, _) | Key::NoRoom(rule) | Key::Others(rule) => *rule,
        }
    }

    fn window(&self) -> Duration {
        Duration::from_millis(self.rule().window().ms())
    }
}

/// What to do about one refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what is not counted has to be written"]
pub(crate) enum Note {
    /// It gets an entry.
    Write,
    /// It was counted.
    Counted,
}

/// Refusals that are counted.
pub(crate) struct Repeats(Arc<Table>);

struct Table {
    keys_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    seen: HashMap<Key, Seen>,
    /// Does a task write down what is due?
    watched: bool,
}

/// What was refused since its own entry was written.
struct Seen {
    count: u64,
    due: Instant,
    /// Of the first: its person and its session stand in the entry of the repeats too.
    first: Record,
}

impl Repeats {
    pub(crate) fn new() -> Repeats {
        Repeats::of(KEYS_MAX)
    }

    fn of(keys_max: usize) -> Repeats {
        Repeats(Arc::new(Table { keys_max, inner: Mutex::default() }))
    }

    /// One more refusal of this key.
    pub(crate) fn note(&self, key: Key, record: &Record) -> Note {
        let note = self.0.note(key, record, Instant::now());
        self.watch();
        note
    }

    /// The entry of this refusal could not be written: the next one is to have it.
    pub(crate) fn unwritten(&self, key: &Key) {
        let mut inner = self.0.inner();
        if inner.seen.get(key).is_some_and(|seen| seen.count == 0) {
            inner.seen.remove(key);
        }
    }

    /// The key was let in: what was counted of it is written.
    pub(crate) fn admitted(&self, rule: RuleId, key: &str) {
        let mut inner = self.0.inner();
        if inner.seen.is_empty() {
            return;
        }
        inner.tell(&Key::Of(rule, key.to_owned()));
    }

    /// Writes all that was counted.
    pub(crate) fn settle(&self) {
        self.0.inner().sweep(|_| true);
    }

    /// One task for all keys, as long as there are some. Where no runtime is, the end of the engine writes.
    fn watch(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut inner = self.0.inner();
        if !inner.watched && !inner.seen.is_empty() {
            inner.watched = true;
            runtime.spawn(watched(Arc::downgrade(&self.0)));
        }
    }
}

/// Writes what is due, until nothing is left or the engine is gone.
async fn watched(table: Weak<Table>) {
    loop {
        let next = {
            let Some(table) = table.upgrade() else { return };
            let now = Instant::now();
            let mut inner = table.inner();
            inner.sweep(|seen| seen.due <= now);
            let Some(next) = inner.seen.values().map(|seen| seen.due).min() else {
                inner.watched = false;
                return;
            };
            // A key that comes meanwhile may be due before; one that could not be written is not tried again at once.
            next.clamp(now + LOOKS_AT_MOST_EVERY, now + LOOKS_AT_LEAST_EVERY)
        };
        sleep_until(next).await;
    }
}

impl Table {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // What is in it is whole after every statement.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: Key, record: &Record, now: Instant) -> Note {
        let mut inner = self.inner();
        if !inner.seen.contains_key(&key) && inner.seen.len() >= self.keys_max {
            // Whoever fills the table with keys of their choice would otherwise hide all later ones.
            inner.sweep(|seen| seen.due <= now);
        }
        let known = inner.seen.contains_key(&key);
        let key = if known || inner.seen.len() < self.keys_max { key } else { Key::Others(key.rule()) };
        if inner.seen.get(&key).is_some_and(|seen| seen.due <= now) {
            inner.tell(&key);
        }
        let due = now + key.window();
        match inner.seen.get_mut(&key) {
            Some(seen) => {
                seen.count += 1;
                Note::Counted
            }
            None => {
                inner.seen.insert(key, Seen { count: 0, due, first: record.clone() });
                Note::Write
            }
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.inner().sweep(|_| true);
    }
}

impl Inner {
    /// Writes the count of one key and forgets the key; one that cannot be written stays.
    fn tell(&mut self, key: &Key) {
        if self.seen.get(key).is_some_and(|seen| seen.told(key)) {
            self.seen.remove(key);
        }
    }

    fn sweep(&mut self, which: impl Fn(&Seen) -> bool) {
        self.seen.retain(|key, seen| !(which(seen) && seen.told(key)));
    }
}

impl Seen {
    /// In the chain at once, and not waited for: each of them was refused already.
    fn told(&self, key: &Key) -> bool {
        if self.count == 0 {
            return true;
        }
        let event = self.first.event(EventType::RateLimit, "repeats", Outcome::Denied);
        let event = event.with("what", RATE_LIMIT_EXCEEDED).with("limit", key.rule().as_str());
        self.first.note(event.with("repeats", self.count)).is_ok()
    }
}

#[cfg(test)]
mod tests;
