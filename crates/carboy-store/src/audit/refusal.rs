//! One refusal found by its id, from the end of the log backwards.
//!
//! A log may hold gigabytes and somebody waits: the bytes are searched for the id as it is written, and only a line that
//! holds it is read as an entry.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use carboy_core::audit::Entry;
use carboy_core::ids::RefusalId;
use memchr::memmem::Finder;

use super::lines::{LINE_BYTES_MAX, open_to_read, settled_len};
use crate::StoreError;

/// Bytes from the end of the log that are searched.
pub const SEARCH_BYTES_MAX: u64 = 1 << 30;
/// Entries with one id that are given; ids are random, so a second one is a rare accident.
pub const FOUND_MAX: usize = 8;
/// Bytes looked at in one go.
const CHUNK_BYTES: u64 = 1 << 20;

/// Entries with the id that was looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The latest first.
    pub entries: Vec<Entry>,
    /// Bytes that were searched.
    pub searched: u64,
    /// Bytes of the log before those.
    pub not_searched: u64,
}

/// Finds the entries of this refusal among the last [`SEARCH_BYTES_MAX`] bytes of the log.
///
/// # Errors
/// When the log is not there or cannot be read.
pub fn find_refusal(path: &Path, id: &RefusalId) -> Result<Found, StoreError> {
    let file = open_to_read(path)?;
    let len = settled_len(&file, path)?;
    let start = len.saturating_sub(SEARCH_BYTES_MAX);
    // As the canonical line has it. In a text of the bottle's the quotes would be escaped; that is no match.
    let needle = format!("\"refusal\":\"{id}\"");
    let finder = Finder::new(needle.as_bytes());
    let (mut entries, mut to) = (Vec::new(), len);
    let mut chunk = Vec::new();
    while to > start && entries.len() < FOUND_MAX {
        let from = to.saturating_sub(CHUNK_BYTES).max(start);
        // A match may begin in this chunk and end in the one behind it.
        let end = (to + needle.len() as u64 - 1).min(len);
        chunk.resize((end - from) as usize, 0);
        file.read_exact_at(&mut chunk, from).map_err(StoreError::io("read", path))?;
        let found: Vec<usize> = finder.find_iter(&chunk).collect();
        for at in found.into_iter().rev() {
            let entry = line_around(&file, path, from + at as u64, len)?;
            let fits = |entry: &Entry| entry.detail("refusal").and_then(|v| v.as_str()) == Some(id.as_str());
            entries.extend(entry.filter(fits));
        }
        to = from;
    }
    entries.truncate(FOUND_MAX);
    Ok(Found { entries, searched: len - to, not_searched: to })
}

/// The entry of the line that holds this byte; none when the line is too long, or is no entry.
fn line_around(file: &File, path: &Path, at: u64, len: u64) -> Result<Option<Entry>, StoreError> {
    let from = at.saturating_sub(LINE_BYTES_MAX as u64);
    let to = (at + LINE_BYTES_MAX as u64).min(len);
    let mut around = vec![0; (to - from) as usize];
    file.read_exact_at(&mut around, from).map_err(StoreError::io("read", path))?;
    let here = (at - from) as usize;
    let start = match memchr::memrchr(b'\n', &around[..here]) {
        Some(line_feed) => line_feed + 1,
        None if from == 0 => 0,
        None => return Ok(None),
    };
    let Some(length) = memchr::memchr(b'\n', &around[start..]) else { return Ok(None) };
    Ok(Entry::parse(&around[start..start + length]).ok())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use carboy_core::audit::{ChainHead, ChainKey, Event, EventType, Outcome, Subject};

    use super::*;

    fn log(write: impl FnOnce(&mut dyn FnMut(u32, &str))) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let (mut head, mut text) = (ChainHead::default(), Vec::new());
        write(&mut |bits, path| {
            let event = Event::new(EventType::Egress, Subject::default(), "request", Outcome::Denied)
                .with("path", path)
                .with("refusal", RefusalId::from_bits(bits).as_str());
            text.extend(Entry::chain(event, "2026-01-01T00:00:00.000Z", &mut head, &ChainKey::Plain).to_line());
            text.push(b'\n');
        });
        file.write_all(&text).unwrap();
        file
    }

    fn paths(file: &tempfile::NamedTempFile, bits: u32) -> Vec<String> {
        let found = find_refusal(file.path(), &RefusalId::from_bits(bits)).unwrap();
        found.entries.iter().map(|e| e.detail("path").unwrap().as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn an_id_is_found_wherever_it_stands_and_a_second_one_too() {
        // Chunks end within entries, within ids as well.
        let file = log(|add| {
            for n in 0..40_000 {
                add(n, &format!("/{n}"));
            }
            add(7, "/again");
        });
        assert!(file.as_file().metadata().unwrap().len() > 4 * CHUNK_BYTES);
        for n in (0..40_000).filter(|n| *n != 7).step_by(371) {
            assert_eq!(paths(&file, n), [format!("/{n}")]);
        }
        assert_eq!(paths(&file, 7), ["/again", "/7"]);
        assert_eq!(paths(&file, 1 << 29), Vec::<String>::new());
    }

    #[test]
    fn an_id_in_the_text_of_a_request_is_not_the_refusals() {
        let file = log(|add| {
            add(1, "\"refusal\":\"x-000002\"");
            add(3, "x-000002");
        });
        assert_eq!(paths(&file, 2), Vec::<String>::new());
        assert_eq!(paths(&file, 1), ["\"refusal\":\"x-000002\""]);
    }

    #[test]
    fn no_log_is_an_error_and_a_torn_end_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let id = RefusalId::from_bits(1);
        assert!(matches!(find_refusal(&dir.path().join("none"), &id), Err(StoreError::Missing { .. })));
        let mut file = log(|add| add(1, "/x"));
        file.write_all(b"{\"details\":{\"refusal\":\"x-000001\"").unwrap();
        assert_eq!(paths(&file, 1), ["/x"]);
    }
}
