//! Reading: the last entries, the entries that a question names, counts, and new entries as they come.
//!
//! Nothing here verifies; [`super::verify`] does. Lines that are not entries are counted, never passed over in silence.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use carboy_core::audit::Entry;

use super::lines::{LINE_BYTES_MAX, Line, Lines, open_to_read, settled_len};
use super::time::rfc3339;
use crate::StoreError;

/// Most entries given at once.
pub const ENTRIES_MAX: usize = 100_000;
/// Most distinct values counted per field; the rest is counted together.
const COUNT_KEYS_MAX: usize = 10_000;
/// Under this name.
const COUNT_REST: &str = "(others)";
/// Pause of a follower between two looks, in milliseconds.
const FOLLOW_POLL_MS: u64 = 100;
/// Bytes read at once on the way back from the end.
const BACK_BYTES: u64 = LINE_BYTES_MAX as u64;

/// A question. A field that is not set fits every entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `egress`, `dns`…
    pub event_type: Option<String>,
    /// `request`, `start`…
    pub action: Option<String>,
    /// `allowed`, `denied`…
    pub result: Option<String>,
    /// The reason's code, from `details.reason`.
    pub reason: Option<String>,
    /// The host, from `details.host`, or `details.name` of a DNS query.
    pub host: Option<String>,
    /// The bottle.
    pub bottle: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// The person or customer.
    pub user_id: Option<String>,
    /// Not before this time, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Before this time, in milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// Only the last so many of those that fit; at most and by default [`ENTRIES_MAX`].
    pub limit: Option<usize>,
}

/// What fits a question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The last ones, in the order of the log.
    pub entries: Vec<Entry>,
    /// How many fit in all.
    pub matched: u64,
    /// Lines that are not entries.
    pub unreadable: u64,
}

/// How many entries fit a question, by field. A run's summary and `carboy audit query --count` are made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All that fit.
    pub total: u64,
    /// Lines that are not entries.
    pub unreadable: u64,
    /// By event type and result.
    pub by_type: BTreeMap<(String, String), u64>,
    /// By reason code, where there is one.
    pub by_reason: BTreeMap<String, u64>,
    /// By host, where there is one.
    pub by_host: BTreeMap<String, u64>,
    /// By hour (`2026-01-02T03`), event type and result.
    pub by_hour: BTreeMap<(String, String, String), u64>,
}

impl Query {
    /// Whether the entry is one that was asked for.
    pub fn fits(&self, entry: &Entry) -> bool {
        self.bounds().fits(entry)
    }

    /// The question with its times as text, which is compared with each entry's.
    fn bounds(&self) -> Bounds<'_> {
        Bounds { query: self, since: self.since_ms.map(rfc3339), until: self.until_ms.map(rfc3339) }
    }
}

struct Bounds<'a> {
    query: &'a Query,
    since: Option<String>,
    until: Option<String>,
}

impl Bounds<'_> {
    fn fits(&self, entry: &Entry) -> bool {
        let field = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        let time = entry.text("timestamp").unwrap_or("");
        let Query { event_type, action, result, reason, host, bottle, run, agent, user_id, .. } = self.query;
        field(event_type, entry.text("event_type"))
            && field(action, entry.text("action"))
            && field(result, entry.text("result"))
            && field(reason, detail(entry, "reason"))
            && field(host, detail(entry, "host").or_else(|| detail(entry, "name")))
            && field(bottle, entry.text("bottle"))
            && field(run, entry.text("run"))
            && field(agent, entry.text("agent"))
            && field(user_id, entry.text("user_id"))
            && self.since.as_deref().is_none_or(|since| time >= since)
            && self.until.as_deref().is_none_or(|until| time < until)
    }
}

fn detail<'e>(entry: &'e Entry, name: &str) -> Option<&'e str> {
    entry.detail(name)?.as_str()
}

/// The entries that fit.
pub fn query(path: &Path, query: &Query) -> Result<Answer, StoreError> {
    let limit = within_max(query.limit.unwrap_or(ENTRIES_MAX))?;
    let (bounds, mut last, mut matched) = (query.bounds(), VecDeque::new(), 0);
    let unreadable = each_entry(Lines::of(path)?, |entry| {
        if bounds.fits(&entry) {
            matched += 1;
            last.push_back(entry);
            if last.len() > limit {
                last.pop_front();
            }
        }
    })?;
    Ok(Answer { entries: last.into(), matched, unreadable })
}

/// How many fit, by field.
pub fn counts(path: &Path, query: &Query) -> Result<Counts, StoreError> {
    let (bounds, mut counts) = (query.bounds(), Counts::default());
    let unreadable = each_entry(Lines::of(path)?, |entry| {
        if bounds.fits(&entry) {
            counts.add(&entry);
        }
    })?;
    Ok(Counts { unreadable, ..counts })
}

/// The last `n` entries, in the order of the log; reads no more of the file than holds them. Lines that are not
/// entries are counted in `unreadable` and have no place in `entries`.
pub fn tail(path: &Path, n: usize) -> Result<Answer, StoreError> {
    let limit = within_max(n)?;
    let file = open_to_read(path)?;
    let len = settled_len(&file, path)?;
    let from = start_of_last(&file, path, len, limit)?;
    let mut entries = Vec::new();
    let unreadable = each_entry(Lines::between(file, path, from, len)?, |entry| entries.push(entry))?;
    Ok(Answer { matched: entries.len() as u64, entries, unreadable })
}

/// The last `n` entries, and then every new one as it comes.
pub fn follow(path: &Path, n: usize) -> Result<Follow, StoreError> {
    let limit = within_max(n)?;
    let file = open_to_read(path)?;
    let len = settled_len(&file, path)?;
    let offset = start_of_last(&file, path, len, limit)?;
    Ok(Follow { path: path.to_owned(), file, offset, ready: VecDeque::new(), failed: false })
}

/// Entries as they come. The iterator waits, without end; [`Follow::poll`] does not wait.
pub struct Follow {
    path: PathBuf,
    file: File,
    offset: u64,
    ready: VecDeque<Entry>,
    failed: bool,
}

impl Follow {
    /// What has come since; empty when nothing has. At most 1,000 at once. An error when the log was cut, removed or
    /// replaced, or holds a line that is not an entry.
    pub fn poll(&mut self) -> Result<Vec<Entry>, StoreError> {
        const POLL_ENTRIES_MAX: usize = 1_000;
        self.check_place()?;
        let len = settled_len(&self.file, &self.path)?;
        if len < self.offset {
            return Err(StoreError::RolledBack { path: self.path.clone() });
        }
        let file = self.file.try_clone().map_err(StoreError::io("read", &self.path))?;
        let mut lines = Lines::between(file, &self.path, self.offset, len)?;
        let mut entries = Vec::new();
        while entries.len() < POLL_ENTRIES_MAX {
            match lines.next()? {
                Some(Line::Whole(line)) => {
                    let entry = Entry::parse(line);
                    entries.push(
                        entry.map_err(|_| StoreError::NotAnEntry { path: self.path.clone(), offset: self.offset })?,
                    );
                    self.offset = lines.offset();
                }
                Some(Line::TooLong(offset)) => return Err(too_long(&self.path, offset)),
                // A torn end is moved aside by the next writer; until then nothing new can be read.
                Some(Line::Torn(_)) | None => break,
            }
        }
        Ok(entries)
    }

    fn check_place(&self) -> Result<(), StoreError> {
        let ours = self.file.metadata().map_err(StoreError::io("look at", &self.path))?;
        let same = |named: std::fs::Metadata| (named.ino(), named.dev()) == (ours.ino(), ours.dev());
        if std::fs::metadata(&self.path).is_ok_and(same) {
            Ok(())
        } else {
            Err(StoreError::Replaced { path: self.path.clone() })
        }
    }
}

impl Iterator for Follow {
    type Item = Result<Entry, StoreError>;

    /// Waits for the next entry. After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            if let Some(entry) = self.ready.pop_front() {
                return Some(Ok(entry));
            }
            match self.poll() {
                Ok(entries) if entries.is_empty() => thread::sleep(Duration::from_millis(FOLLOW_POLL_MS)),
                Ok(entries) => self.ready.extend(entries),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Counts {
    fn add(&mut self, entry: &Entry) {
        let text = |field| entry.text(field).unwrap_or("").to_owned();
        let (event_type, result) = (text("event_type"), text("result"));
        let hour = entry.text("timestamp").and_then(|time| time.get(..13)).unwrap_or("").to_owned();
        let rest = || COUNT_REST.to_owned();
        self.total += 1;
        bump(&mut self.by_hour, (hour, event_type.clone(), result.clone()), || (rest(), rest(), rest()));
        bump(&mut self.by_type, (event_type, result), || (rest(), rest()));
        if let Some(reason) = detail(entry, "reason") {
            bump(&mut self.by_reason, reason.to_owned(), rest);
        }
        if let Some(host) = detail(entry, "host") {
            bump(&mut self.by_host, host.to_owned(), rest);
        }
    }
}

/// Counts under `key`; under `rest` when there are too many keys (hosts are named by who is inside a bottle).
fn bump<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, rest: impl FnOnce() -> K) {
    let key = if counts.len() < COUNT_KEYS_MAX || counts.contains_key(&key) { key } else { rest() };
    *counts.entry(key).or_default() += 1;
}

fn within_max(asked: usize) -> Result<usize, StoreError> {
    if asked <= ENTRIES_MAX { Ok(asked) } else { Err(StoreError::TooMany { asked, max: ENTRIES_MAX }) }
}

fn too_long(path: &Path, offset: u64) -> StoreError {
    StoreError::LineTooLong { path: path.to_owned(), offset, bytes_max: LINE_BYTES_MAX }
}

/// Gives each entry to `take`; says how many lines are none, a torn last one included.
fn each_entry(mut lines: Lines, mut take: impl FnMut(Entry)) -> Result<u64, StoreError> {
    let mut unreadable = 0;
    let path = lines.path().to_owned();
    while let Some(line) = lines.next()? {
        match line {
            Line::Whole(line) => match Entry::parse(line) {
                Ok(entry) => take(entry),
                Err(_) => unreadable += 1,
            },
            Line::Torn(_) => return Ok(unreadable + 1),
            Line::TooLong(offset) => return Err(too_long(&path, offset)),
        }
    }
    Ok(unreadable)
}

/// Where the last `n` lines of the first `len` bytes start. A torn last line counts as one.
fn start_of_last(file: &File, path: &Path, len: u64, n: usize) -> Result<u64, StoreError> {
    if n == 0 {
        return Ok(len);
    }
    let (mut left, mut to, mut chunk) = (n, len.saturating_sub(1), vec![0; BACK_BYTES as usize]);
    while to > 0 {
        let from = to.saturating_sub(BACK_BYTES);
        let part = &mut chunk[..(to - from) as usize];
        file.read_exact_at(part, from).map_err(StoreError::io("read", path))?;
        for at in (0..part.len()).rev().filter(|at| part[*at] == b'\n') {
            left -= 1;
            if left == 0 {
                return Ok(from + at as u64 + 1);
            }
        }
        to = from;
    }
    Ok(0)
}
