//! Inbound prompt injection by two phrase lists (D10–D16): `naive_injection_detection`.
//!
//! Phrases near each other block, one kind alone warns. It is a speed bump that can be explained, not a wall. It
//! keeps spans, never text, and of those only the ones that may still be near a phrase to come.

mod phrases;
pub mod proximity;

use std::ops::Range;
use std::sync::LazyLock;

use carboy_core::finding::{Detector, Finding, Location, Severity};
use regex::bytes::{Regex, RegexBuilder};

use self::phrases::{DISCLOSURE_PHRASES, JAILBREAK_PHRASES};
use self::proximity::closest_pair;

/// D11: a disclosure and a jailbreak phrase at most this many characters (Unicode scalar values) apart block.
pub const PROXIMITY_CHARS: usize = 500;
/// D16: bytes of one part that are scanned; what follows is not, and [`InjectionScanner::capped`] says so.
pub const SCAN_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Longest match of a phrase, in bytes.
pub(crate) const PHRASE_BYTES_MAX: usize = 1024;
/// New bytes that are gathered before they are searched: the end of the part is searched at once.
const STEP_BYTES: usize = 2 * PHRASE_BYTES_MAX;
/// Bytes kept before the place of the search, for word boundaries.
const CONTEXT_BYTES: usize = 4;

/// White space as text has it, and as JSON, HTML and URLs spell it.
const BLANK: &str = r#"(?:[\s\x00*_"'`]|\xc2\xa0|\xe2\x80[\x80-\x8b]|\\[nrt"]|\\u00(?:20|a0|0a|09|0d)|&nbsp;|&#(?:32|160);|%20|\+){1,12}"#;

static DISCLOSURE: LazyLock<Regex> = LazyLock::new(|| compile(DISCLOSURE_PHRASES));
static JAILBREAK: LazyLock<Regex> = LazyLock::new(|| compile(JAILBREAK_PHRASES));
/// Both lists: text without any phrase, which is most text, is gone through once.
static EITHER: LazyLock<Regex> = LazyLock::new(|| compile(&[DISCLOSURE_PHRASES, JAILBREAK_PHRASES].concat()));

fn compile(phrases: &[&str]) -> Regex {
    let all = phrases.iter().map(|phrase| phrase.replace(' ', BLANK)).collect::<Vec<_>>().join("|");
    // No word boundary is asked for at the beginning: a page that runs words together would get by.
    RegexBuilder::new(&all)
        .case_insensitive(true)
        .unicode(false)
        .size_limit(64 << 20)
        .dfa_size_limit(16 << 20)
        .build()
        .expect("the phrase lists are constant and tested")
}

/// Scans one message part as it streams by. It holds nothing back: the caller gates on [`InjectionScanner::verdict`].
pub struct InjectionScanner {
    location: Location,
    /// Bytes from `base` on that are not settled, with a little context before.
    buffer: Vec<u8>,
    base: u64,
    /// Characters before `base`.
    chars: usize,
    taken: u64,
    capped: bool,
    disclosure: Kind,
    jailbreak: Kind,
    /// The earlier match of the pair that blocks, and the gap.
    near: Option<(Range<u64>, usize)>,
}

/// One list's state.
struct Kind {
    /// Position from which on the list is searched.
    cursor: u64,
    /// The first match, in bytes.
    first: Option<Range<u64>>,
    /// Recent matches: in characters, and in bytes.
    recent: Vec<(Range<usize>, Range<u64>)>,
}

impl Kind {
    fn new() -> Self {
        Kind { cursor: 0, first: None, recent: Vec::new() }
    }
}

impl InjectionScanner {
    /// Compiles what most text is gone through with, tens of milliseconds of work, unless that has been done: the first
    /// scan of a process otherwise waits for it.
    pub fn make_ready() {
        LazyLock::force(&EITHER);
    }

    /// A scanner at the start of a part.
    pub fn new(location: Location) -> Self {
        InjectionScanner {
            location,
            buffer: Vec::new(),
            base: 0,
            chars: 0,
            taken: 0,
            capped: false,
            disclosure: Kind::new(),
            jailbreak: Kind::new(),
            near: None,
        }
    }

    /// Takes a chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        let room = (SCAN_BYTES_MAX - self.taken).min(chunk.len() as u64) as usize;
        self.capped |= room < chunk.len();
        self.taken += room as u64;
        // By position and not by chunk, so that the cut does not matter and memory stays small.
        for part in chunk[..room].chunks(64 * 1024) {
            self.buffer.extend_from_slice(part);
            if self.buffer.len() >= STEP_BYTES {
                self.search(self.buffer.len() - PHRASE_BYTES_MAX);
            }
        }
    }

    /// The part is complete: decides about the last bytes.
    pub fn finish(&mut self) {
        self.search(self.buffer.len());
    }

    /// The worst so far: a block when the two kinds stand near each other, a warning for one of them, else none.
    /// The newest bytes (at most 2 KiB) count only with a later chunk or after [`Self::finish`].
    pub fn verdict(&self) -> Option<Finding> {
        let finding = |rule: &str, severity, reason, span| Finding {
            detector: Detector::NaiveInjectionDetection,
            rule: rule.to_owned(),
            severity,
            reason,
            location: self.location,
            span,
            form: "",
            fingerprint: None,
        };
        if let Some((span, gap)) = &self.near {
            let reason = format!("disclosure and jailbreak phrases {gap} characters apart");
            return Some(finding("disclosure_and_jailbreak", Severity::Block, reason, span.clone()));
        }
        let (rule, reason, span) = match (&self.disclosure.first, &self.jailbreak.first) {
            (None, None) => return None,
            (Some(a), Some(b)) => {
                let first = if a.start <= b.start { a } else { b };
                ("far_apart", "both kinds of phrases, far from each other", first)
            }
            (Some(a), None) => ("disclosure", "a disclosure phrase", a),
            (None, Some(b)) => ("jailbreak", "a jailbreak phrase", b),
        };
        Some(finding(rule, Severity::Warn, reason.to_owned(), span.clone()))
    }

    /// True when the part was longer than [`SCAN_BYTES_MAX`] and its rest was not scanned.
    pub fn capped(&self) -> bool {
        self.capped
    }

    /// Settles the matches that begin before `limit` (an index in the buffer) and drops what is done with.
    fn search(&mut self, limit: usize) {
        let from = (self.disclosure.cursor.min(self.jailbreak.cursor) - self.base) as usize;
        let (fresh_a, fresh_b) = if EITHER.is_match_at(&self.buffer, from.min(self.buffer.len())) {
            let fresh_a = settle(&mut self.disclosure, &DISCLOSURE, &self.buffer, self.base, self.chars, limit);
            let fresh_b = settle(&mut self.jailbreak, &JAILBREAK, &self.buffer, self.base, self.chars, limit);
            (fresh_a, fresh_b)
        } else {
            for kind in [&mut self.disclosure, &mut self.jailbreak] {
                kind.cursor = kind.cursor.max(self.base + limit as u64);
            }
            (0, 0)
        };
        if fresh_a + fresh_b > 0 && self.near.is_none() {
            self.compare();
        }
        let done = limit.saturating_sub(CONTEXT_BYTES);
        self.chars += characters(&self.buffer[..done]);
        self.base += done as u64;
        self.buffer.drain(..done);
        let reach = self.chars.saturating_sub(PROXIMITY_CHARS + PHRASE_BYTES_MAX);
        for kind in [&mut self.disclosure, &mut self.jailbreak] {
            kind.recent.retain(|(chars, _)| chars.end >= reach);
        }
    }

    fn compare(&mut self) {
        let spans = |kind: &Kind| kind.recent.iter().map(|(chars, _)| chars.clone()).collect::<Vec<_>>();
        let (a, b) = (spans(&self.disclosure), spans(&self.jailbreak));
        let Some(pair) = closest_pair(&a, &b, None) else { return };
        if pair.gap <= PROXIMITY_CHARS {
            let (a, b) = (&self.disclosure.recent[pair.a].1, &self.jailbreak.recent[pair.b].1);
            let first = if a.start <= b.start { a } else { b };
            self.near = Some((first.clone(), pair.gap));
        }
    }
}

/// Takes the matches of one list that begin before `limit`; a match from there on may look different with more bytes.
fn settle(kind: &mut Kind, regex: &Regex, buffer: &[u8], base: u64, chars: usize, limit: usize) -> usize {
    let mut at = (kind.cursor - base) as usize;
    let (mut counted, mut count, mut fresh) = (0, chars, 0);
    while at < limit {
        let Some(found) = regex.find_at(buffer, at).filter(|found| found.start() < limit) else { break };
        count += characters(&buffer[counted..found.start()]);
        let end = count + characters(&buffer[found.range()]);
        let bytes = base + found.start() as u64..base + found.end() as u64;
        kind.first.get_or_insert_with(|| bytes.clone());
        kind.recent.push((count..end, bytes));
        counted = found.end();
        count = end;
        at = found.end();
        fresh += 1;
    }
    kind.cursor = base + at.max(limit) as u64;
    fresh
}

/// Unicode scalar values that begin in `bytes` (anything but a continuation byte).
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests;
