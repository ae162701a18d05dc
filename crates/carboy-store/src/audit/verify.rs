//! Verification: from the first line to the last, in bounded memory, without a right to write.

use std::fmt;
use std::path::Path;

use carboy_core::audit::{ChainHead, ChainKey, Entry, Tampering, Verifier};

use super::lines::{Line, Lines};
use crate::StoreError;

/// What verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Entries that are right, from the first on.
    pub entries: u64,
    /// The head after the last of them: worth keeping elsewhere, for the next verification.
    pub head: ChainHead,
    /// Whether the log holds.
    pub result: Integrity,
    /// What else could explain what was found. Never a reason to call a log valid.
    pub hint: Option<Hint>,
}

/// Whether a log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Integrity {
    /// Every line is right and follows the one before it.
    Valid,
    /// The first thing that is wrong.
    Tampered(Tampering),
}

/// Another explanation for a log that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A key is set, and the entries fit without one.
    WrittenWithoutKey,
    /// No key is set, and the entries fit each other but none of them SHA-256.
    LooksKeyed,
    /// A key is set, and the entries fit each other but not the key.
    AnotherKey,
    /// The file ends in the middle of a line.
    TornEnd {
        /// How many bytes stand after the last whole line.
        bytes: u64,
    },
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::WrittenWithoutKey => f.write_str(
                "AUDIT_INTEGRITY_KEY is set, but the entries were hashed without a key: unset it to read a log from before \
                 the key, and move that log away to start a keyed one; if the log was keyed, it was rewritten by somebody \
                 without the key",
            ),
            Hint::LooksKeyed => f.write_str(
                "set AUDIT_INTEGRITY_KEY to the key of this log to verify it, in the environment: a `.env` beside an agent is not \
                 read for this. If the log never had a key, every entry of it was changed",
            ),
            Hint::AnotherKey => f.write_str(
                "the entries look as if they were hashed with a key other than AUDIT_INTEGRITY_KEY: set it to the key of \
                 this log, or move the log away to start one with the new key; if this is its key, the entries were changed",
            ),
            Hint::TornEnd { bytes } => write!(
                f,
                "the file ends with {bytes} bytes of an unfinished line, as after a crash: the next run moves them to a file \
                 beside the log and says so in it"
            ),
        }
    }
}

/// Verifies the log at `path`. With a head that was `kept` elsewhere, a cut tail, a wiped log and an older copy that was
/// put back are found too. Errors are about reading; what is wrong with the log is in the report.
pub fn verify(path: &Path, key: &ChainKey, kept: Option<ChainHead>) -> Result<Report, StoreError> {
    let mut lines = Lines::of(path)?;
    let mut verifier = Verifier::new(key, kept);
    let mut torn = None;
    let tampering = loop {
        let line = verifier.head().seq + 1;
        match lines.next()? {
            Some(Line::Whole(text)) => match verifier.line(text) {
                Ok(_) => {}
                Err(tampering) => break Some(tampering),
            },
            Some(Line::Torn(bytes)) => {
                torn = Some(Hint::TornEnd { bytes });
                break Some(Tampering::NotAnEntry { line });
            }
            Some(Line::TooLong(_)) => break Some(Tampering::NotAnEntry { line }),
            None => break None,
        }
    };
    let head = verifier.head().clone();
    let tampering = match tampering {
        Some(tampering) => Some(tampering),
        None => verifier.finish().err(),
    };
    let hint = match tampering {
        Some(Tampering::Edited { line: 1 }) => hint_of_all(path, key)?,
        Some(_) | None => torn,
    };
    let result = tampering.map_or(Integrity::Valid, Integrity::Tampered);
    Ok(Report { entries: head.seq, head, result, hint })
}

/// The same, and what the first lines say of the key holds of all: an entry among them that needs none shows that others were
/// changed.
fn hint_of_all(path: &Path, key: &ChainKey) -> Result<Option<Hint>, StoreError> {
    let found = hint(Lines::of(path)?, key)?;
    if found != Some(Hint::LooksKeyed) {
        return Ok(found);
    }
    let mut lines = Lines::of(path)?;
    while let Some(Line::Whole(line)) = lines.next()? {
        let entry = Entry::parse(line).ok();
        let before = entry.as_ref().and_then(|entry| {
            let seq = entry.seq()?.checked_sub(1)?;
            Some(ChainHead { seq, hash: entry.text("_previous_hash")?.to_owned() })
        });
        let Some(before) = before else { return Ok(None) };
        if Verifier::after(&ChainKey::Plain, before, None).line(line).is_ok() {
            return Ok(None);
        }
    }
    Ok(found)
}

/// Looks at the first two lines for signs of another key.
pub(super) fn hint(mut lines: Lines, key: &ChainKey) -> Result<Option<Hint>, StoreError> {
    let mut first = Vec::new();
    while let Some(Line::Whole(line)) = lines.next()? {
        first.push(line.to_vec());
        if first.len() == 2 {
            break;
        }
    }
    let edited = |line: &[u8], before: &ChainHead, key: &ChainKey| {
        matches!(Verifier::after(key, before.clone(), None).line(line), Err(Tampering::Edited { .. }))
    };
    let mut before = ChainHead::default();
    let (mut wrong_key, mut without_key) = (!first.is_empty(), true);
    for line in &first {
        let claimed = Entry::parse(line).ok().and_then(|entry| entry.claimed_head());
        let Some(claimed) = claimed.filter(|claimed| claimed.seq == before.seq + 1) else { return Ok(None) };
        wrong_key &= edited(line, &before, key);
        without_key &= Verifier::after(&ChainKey::Plain, before, None).line(line).is_ok();
        before = claimed;
    }
    Ok(match (wrong_key, key) {
        (false, _) => None,
        (true, ChainKey::Plain) => Some(Hint::LooksKeyed),
        (true, ChainKey::Keyed(_)) if without_key => Some(Hint::WrittenWithoutKey),
        (true, ChainKey::Keyed(_)) => Some(Hint::AnotherKey),
    })
}
