//! The keys of one rule, least lately admitted first: as all of them have the same window, that one expires first.

use std::collections::{HashMap, VecDeque};

/// No entry.
const NONE: u32 = u32::MAX;

pub(super) struct Keys {
    window_ms: u64,
    /// Hash of a key → its entry.
    index: HashMap<u64, u32>,
    entries: Vec<Entry>,
    /// Entries that are not used.
    free: Vec<u32>,
    /// The one admitted least lately.
    first: u32,
    /// The one admitted last.
    last: u32,
}

struct Entry {
    key: u64,
    times: Times,
    before: u32,
    behind: u32,
}

/// When its requests were let in, oldest first. Most keys of a flood come once.
// The box halves what a key costs that comes once.
#[expect(clippy::box_collection)]
enum Times {
    One(u64),
    Many(Box<VecDeque<u64>>),
}

impl Times {
    fn newest(&self) -> u64 {
        match self {
            Times::One(time) => *time,
            // Never empty: `push` makes it with two and drops none before it adds one.
            Times::Many(times) => times.back().copied().unwrap_or(0),
        }
    }

    /// The `nth` newest time, from 1.
    fn nth_newest(&self, nth: usize) -> Option<u64> {
        match self {
            Times::One(time) => (nth == 1).then_some(*time),
            Times::Many(times) => times.get(times.len().checked_sub(nth)?).copied(),
        }
    }

    fn push(&mut self, now: u64, window_ms: u64) {
        match self {
            Times::One(time) if *time + window_ms <= now => *time = now,
            Times::One(time) => *self = Times::Many(Box::new(VecDeque::from([*time, now]))),
            Times::Many(times) => {
                while times.front().is_some_and(|time| time + window_ms <= now) {
                    times.pop_front();
                }
                times.push_back(now);
            }
        }
    }
}

impl Keys {
    pub(super) fn new(window_ms: u64) -> Keys {
        Keys { window_ms, index: HashMap::new(), entries: Vec::new(), free: Vec::new(), first: NONE, last: NONE }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn has(&self, key: u64) -> bool {
        self.index.contains_key(&key)
    }

    /// How long until this key has room for one more, if it has none: when the `max`th newest time leaves the window.
    pub(super) fn wait_ms(&self, key: u64, max: u32, now: u64) -> Option<u64> {
        let entry = &self.entries[*self.index.get(&key)? as usize];
        let end = entry.times.nth_newest(max as usize)? + self.window_ms;
        (end > now).then(|| end - now)
    }

    /// When the first `count` keys expire that are none of `used`.
    pub(super) fn ends(&self, count: usize, used: Vec<u64>) -> Vec<u64> {
        let mut at = self.first;
        let mut ends = Vec::new();
        while at != NONE && ends.len() < count {
            let entry = &self.entries[at as usize];
            if !used.contains(&entry.key) {
                ends.push(entry.times.newest() + self.window_ms);
            }
            at = entry.behind;
        }
        ends
    }

    /// Counts a request at `now`, for which there is room.
    pub(super) fn record(&mut self, key: u64, now: u64) {
        let at = match self.index.get(&key) {
            Some(&at) => {
                self.unlink(at);
                self.entries[at as usize].times.push(now, self.window_ms);
                at
            }
            None => {
                let entry = Entry { key, times: Times::One(now), before: NONE, behind: NONE };
                let at = match self.free.pop() {
                    Some(at) => {
                        self.entries[at as usize] = entry;
                        at
                    }
                    None => {
                        self.entries.push(entry);
                        (self.entries.len() - 1) as u32
                    }
                };
                self.index.insert(key, at);
                at
            }
        };
        self.link_last(at);
    }

    /// Forgets keys whose last request has left the window. Each is forgotten once, so this costs what recording did.
    pub(super) fn forget_expired(&mut self, now: u64) {
        while self.first != NONE {
            let at = self.first;
            let entry = &self.entries[at as usize];
            if entry.times.newest() + self.window_ms > now {
                break;
            }
            self.index.remove(&entry.key);
            self.unlink(at);
            // What the entry held is given back; its place is used again.
            self.entries[at as usize].times = Times::One(0);
            self.free.push(at);
        }
    }

    fn unlink(&mut self, at: u32) {
        let Entry { before, behind, .. } = self.entries[at as usize];
        match before {
            NONE => self.first = behind,
            before => self.entries[before as usize].behind = behind,
        }
        match behind {
            NONE => self.last = before,
            behind => self.entries[behind as usize].before = before,
        }
    }

    fn link_last(&mut self, at: u32) {
        let before = self.last;
        let entry = &mut self.entries[at as usize];
        (entry.before, entry.behind) = (before, NONE);
        match before {
            NONE => self.first = at,
            before => self.entries[before as usize].behind = at,
        }
        self.last = at;
    }
}
