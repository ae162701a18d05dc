//! The hash chain: each entry carries the hash of the one before it and its own.
//!
//! ```text
//! line n   {"action":…, "seq":n, …, "_previous_hash": H(n-1), "_integrity_hash": H(n)}
//! H(n)   = SHA-256 or HMAC-SHA256 over RFC 8785 JSON of line n without "_integrity_hash"
//! ```
//!
//! A chain alone cannot show that its tail was cut off; a head kept elsewhere can ([`ChainHead`]).

use serde::Serialize;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use super::{Event, hex, hmac_sha256, sha256};
use crate::secret::Secret;

/// The previous hash of the first entry.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How entries are hashed.
pub enum ChainKey {
    /// SHA-256: shows accidents and edits by those who cannot recompute the rest.
    Plain,
    /// HMAC-SHA256 under `AUDIT_INTEGRITY_KEY`: edits need the key.
    Keyed(Secret<[u8; 32]>),
}

impl ChainKey {
    /// From the 64 hex digits that `carboy audit keygen` prints.
    pub fn from_hex(text: &str) -> Result<ChainKey, KeyError> {
        let text = text.trim();
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(KeyError);
        }
        let mut key = [0; 32];
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| KeyError)?;
        }
        Ok(ChainKey::Keyed(Secret::new(key)))
    }

    fn hash(&self, bytes: &[u8]) -> String {
        match self {
            ChainKey::Plain => hex(&sha256(bytes)),
            ChainKey::Keyed(key) => hex(&hmac_sha256(key.expose(), bytes)),
        }
    }
}

/// The key is not 32 bytes in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("AUDIT_INTEGRITY_KEY is not 64 hex digits; `carboy audit keygen` prints a fresh one")]
pub struct KeyError;

/// Where the chain stands: the last entry's number and hash. Kept elsewhere, it shows a cut tail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainHead {
    /// Entries so far.
    pub seq: u64,
    /// Hash of the last one, [`GENESIS`] when there is none.
    pub hash: String,
}

impl Default for ChainHead {
    fn default() -> Self {
        ChainHead { seq: 0, hash: GENESIS.to_owned() }
    }
}

/// One entry, chained: ready to be written as a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry(Map<String, Value>);

impl Entry {
    /// Chains `event` after `head` and moves the head on. `timestamp` is RFC 3339 in UTC with milliseconds and `Z`.
    pub fn chain(event: Event, timestamp: &str, head: &mut ChainHead, key: &ChainKey) -> Entry {
        let mut map = match serde_json::to_value(&event.subject) {
            Ok(Value::Object(map)) => map,
            // A struct of optional strings always becomes an object.
            Ok(_) | Err(_) => Map::new(),
        };
        let details = event.details.into_iter().map(|(name, value)| (name.to_owned(), value.into_json())).collect();
        map.insert("timestamp".into(), timestamp.into());
        map.insert("event_type".into(), serde_json::json!(event.event_type));
        map.insert("action".into(), event.action.into());
        map.insert("result".into(), serde_json::json!(event.result));
        map.insert("details".into(), Value::Object(details));
        map.insert("seq".into(), (head.seq + 1).into());
        map.insert("_previous_hash".into(), head.hash.clone().into());
        let hash = key.hash(&canonical(&map));
        map.insert("_integrity_hash".into(), hash.clone().into());
        *head = ChainHead { seq: head.seq + 1, hash };
        Entry(map)
    }

    /// Reads a line back; says nothing about its place in the chain.
    pub fn parse(line: &[u8]) -> Result<Entry, LineError> {
        match serde_json::from_slice(line) {
            Ok(Value::Object(map)) => Ok(Entry(map)),
            Ok(_) => Err(LineError),
            Err(_) => Err(LineError),
        }
    }

    /// The canonical line without its line feed.
    pub fn to_line(&self) -> Vec<u8> {
        canonical(&self.0)
    }

    /// A field as text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field)?.as_str()
    }

    /// A field as JSON.
    pub fn field(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// A particular.
    pub fn detail(&self, name: &str) -> Option<&Value> {
        self.0.get("details")?.get(name)
    }

    /// Its number.
    pub fn seq(&self) -> Option<u64> {
        self.0.get("seq")?.as_u64()
    }

    /// As a JSON object.
    pub fn into_json(self) -> Value {
        Value::Object(self.0)
    }

    /// The head after this entry, as the entry itself claims it.
    pub fn claimed_head(&self) -> Option<ChainHead> {
        Some(ChainHead { seq: self.seq()?, hash: self.text("_integrity_hash")?.to_owned() })
    }
}

/// The line is not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the line is not a JSON object")]
pub struct LineError;

/// RFC 8785. Where no number is a fraction and all keys are ASCII, which is all that carboy itself writes, that is what
/// serde_json writes: keys in the order of their bytes, integers as digits, the same escapes.
fn canonical(map: &Map<String, Value>) -> Vec<u8> {
    if map.iter().all(|(key, value)| key.is_ascii() && is_plain(value)) {
        return serde_json::to_vec(map).expect("a JSON map with text keys can be written");
    }
    serde_json_canonicalizer::to_vec(map).expect("a JSON map with text keys has a canonical form")
}

/// Is the shortest spelling of the value also its canonical one?
fn is_plain(value: &Value) -> bool {
    const EXACT_MAX: u64 = (1 << 53) - 1;
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => number.as_u64().is_some_and(|number| number <= EXACT_MAX),
        Value::Array(values) => values.iter().all(is_plain),
        Value::Object(map) => map.iter().all(|(key, value)| key.is_ascii() && is_plain(value)),
    }
}

/// What is wrong with the log, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Tampering {
    /// A line that is not an entry. A torn last line after a crash looks the same and is named as such by the store.
    #[error("line {line}: not an entry")]
    NotAnEntry {
        /// Counted from 1.
        line: u64,
    },
    /// The line is not in the canonical spelling: it was rewritten.
    #[error("line {line}: not in canonical form")]
    NotCanonical {
        /// Counted from 1.
        line: u64,
    },
    /// Its own hash does not fit: it was edited, or the key is another one.
    #[error("line {line}: the entry was changed, or was written with another key")]
    Edited {
        /// Counted from 1.
        line: u64,
    },
    /// It does not follow the line before it: lines were removed, inserted, swapped or repeated.
    #[error("line {line}: does not follow the line before it (entry {found} where {expected} belongs)")]
    OutOfOrder {
        /// Counted from 1.
        line: u64,
        /// Number that belongs here.
        expected: u64,
        /// Number that stands here.
        found: u64,
    },
    /// The log ends before a head that was kept elsewhere.
    #[error(
        "the log ends at entry {found}; a head kept elsewhere says {expected}: the tail was cut off or an older copy put back"
    )]
    Truncated {
        /// Entries that the kept head knows.
        expected: u64,
        /// Entries that are there.
        found: u64,
    },
    /// The log holds another entry at the kept head's place.
    #[error("entry {seq} is not the one that a head kept elsewhere names: the log was rewritten")]
    Rewritten {
        /// Its number.
        seq: u64,
    },
}

/// Walks the lines of a log in order.
pub struct Verifier<'k> {
    key: &'k ChainKey,
    head: ChainHead,
    kept: Option<ChainHead>,
}

impl<'k> Verifier<'k> {
    /// `kept` is a head noted down elsewhere, when there is one.
    pub fn new(key: &'k ChainKey, kept: Option<ChainHead>) -> Self {
        Verifier { key, head: ChainHead::default(), kept }
    }

    /// Starts in the middle: the entries up to `head` are taken as checked.
    pub fn after(key: &'k ChainKey, head: ChainHead, kept: Option<ChainHead>) -> Self {
        Verifier { key, head, kept }
    }

    /// Where it stands: the head after the last line that was right.
    pub fn head(&self) -> &ChainHead {
        &self.head
    }

    /// Checks the next line, without its line feed.
    pub fn line(&mut self, line: &[u8]) -> Result<Entry, Tampering> {
        let number = self.head.seq + 1;
        let entry = Entry::parse(line).map_err(|_| Tampering::NotAnEntry { line: number })?;
        if entry.to_line() != line {
            return Err(Tampering::NotCanonical { line: number });
        }
        let mut body = entry.0.clone();
        let claimed = body.remove("_integrity_hash").unwrap_or_default();
        let actual = self.key.hash(&canonical(&body));
        let fits = claimed.as_str().is_some_and(|c| c.as_bytes().ct_eq(actual.as_bytes()).into());
        let found = entry.seq().unwrap_or(0);
        let follows = found == number && entry.text("_previous_hash") == Some(self.head.hash.as_str());
        match (fits, follows) {
            (false, _) => return Err(Tampering::Edited { line: number }),
            (true, false) => return Err(Tampering::OutOfOrder { line: number, expected: number, found }),
            (true, true) => {}
        }
        self.head = ChainHead { seq: number, hash: actual };
        match &self.kept {
            Some(kept) if kept.seq == number && kept.hash != self.head.hash => {
                Err(Tampering::Rewritten { seq: number })
            }
            Some(_) | None => Ok(entry),
        }
    }

    /// The end of the log: the head it stands at.
    pub fn finish(self) -> Result<ChainHead, Tampering> {
        match self.kept {
            Some(kept) if kept.seq > self.head.seq => {
                Err(Tampering::Truncated { expected: kept.seq, found: self.head.seq })
            }
            Some(_) | None => Ok(self.head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{EventType, Outcome, Subject};

    fn log(key: &ChainKey, count: u64) -> (Vec<Vec<u8>>, ChainHead) {
        let mut head = ChainHead::default();
        let lines = (0..count)
            .map(|i| {
                let event = Event::new(EventType::Egress, Subject::default(), "request", Outcome::Denied).with("n", i);
                Entry::chain(event, "2026-01-02T03:04:05.678Z", &mut head, key).to_line()
            })
            .collect();
        (lines, head)
    }

    fn verify(lines: &[Vec<u8>], key: &ChainKey, kept: Option<ChainHead>) -> Result<ChainHead, Tampering> {
        let mut verifier = Verifier::new(key, kept);
        for line in lines {
            verifier.line(line)?;
        }
        verifier.finish()
    }

    fn keyed() -> ChainKey {
        ChainKey::from_hex(&"5a".repeat(32)).unwrap()
    }

    #[test]
    fn an_untouched_log_is_valid_with_and_without_a_key() {
        for key in [ChainKey::Plain, keyed()] {
            let (lines, head) = log(&key, 5);
            assert_eq!(verify(&lines, &key, Some(head.clone())), Ok(head));
        }
    }

    #[test]
    fn the_first_entry_is_frozen() {
        let (lines, _) = log(&ChainKey::Plain, 1);
        let text = String::from_utf8(lines[0].clone()).unwrap();
        assert!(text.starts_with(r#"{"_integrity_hash":""#));
        assert!(text.ends_with(
            r#""_previous_hash":"0000000000000000000000000000000000000000000000000000000000000000","action":"request","details":{"n":0},"event_type":"egress","result":"denied","seq":1,"timestamp":"2026-01-02T03:04:05.678Z"}"#
        ));
    }

    #[test]
    fn the_short_way_writes_what_the_canonicalizer_writes() {
        let all: String = (0..0x250).chain([0x2028, 0xfffd, 0x1f600]).filter_map(char::from_u32).collect();
        let event = Event::new(EventType::Egress, Subject::default(), "request", Outcome::Denied)
            .with("b", all.clone())
            .with("a", vec![all])
            .with("n", (1u64 << 53) - 1)
            .with("yes", true);
        let entry = Entry::chain(event, "2026-01-02T03:04:05.678Z", &mut ChainHead::default(), &ChainKey::Plain);
        assert!(entry.0.values().all(is_plain));
        assert_eq!(canonical(&entry.0), serde_json_canonicalizer::to_vec(&entry.0).unwrap());
    }

    #[test]
    fn each_single_byte_change_is_found() {
        let key = keyed();
        let (lines, head) = log(&key, 3);
        for n in 0..lines.len() {
            for at in 0..lines[n].len() {
                let mut bad = lines.clone();
                bad[n][at] ^= 1;
                assert!(verify(&bad, &key, Some(head.clone())).is_err(), "line {n} byte {at}");
            }
        }
    }

    #[test]
    fn removal_repetition_swap_and_truncation_are_named() {
        let key = ChainKey::Plain;
        let (lines, head) = log(&key, 4);
        let without =
            |i: usize| lines.iter().enumerate().filter(|(n, _)| *n != i).map(|(_, l)| l.clone()).collect::<Vec<_>>();
        assert!(matches!(
            verify(&without(1), &key, None),
            Err(Tampering::OutOfOrder { line: 2, expected: 2, found: 3 })
        ));
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert!(matches!(verify(&swapped, &key, None), Err(Tampering::OutOfOrder { line: 2, .. })));
        let mut twice = lines.clone();
        twice.insert(1, lines[0].clone());
        assert!(matches!(verify(&twice, &key, None), Err(Tampering::OutOfOrder { line: 2, .. })));
        assert!(matches!(verify(&without(3), &key, Some(head)), Err(Tampering::Truncated { expected: 4, found: 3 })));
    }

    #[test]
    fn a_log_rechained_without_the_key_is_found() {
        let (forged, _) = log(&ChainKey::Plain, 3);
        assert_eq!(verify(&forged, &keyed(), None), Err(Tampering::Edited { line: 1 }));
    }
}
