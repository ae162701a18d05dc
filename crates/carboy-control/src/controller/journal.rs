//! What the controller says, in a file of its own: it has no terminal. Two files at most, each of [`BYTES_MAX`].
//!
//! *Must never* hold up what it tells about: where the file cannot be written, nothing is said.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use carboy_core::ports::Clock;
use carboy_store::audit::rfc3339;

use crate::clock::SystemClock;

/// Size at which a new file is begun, in bytes.
pub const BYTES_MAX: u64 = 512 * 1024;
/// Longest line, in characters.
const LINE_CHARS_MAX: usize = 2_000;

/// See the module.
pub struct Journal {
    path: PathBuf,
    file: Mutex<Option<File>>,
    aloud: bool,
}

impl Journal {
    /// Writes to this file; `aloud` says it on standard error as well.
    pub fn open(path: &Path, aloud: bool) -> Journal {
        Journal { path: path.to_owned(), file: Mutex::new(open(path)), aloud }
    }

    /// Says something.
    pub fn say(&self, text: &str) {
        let text: String = text.chars().take(LINE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = format!("{} {text}\n", rfc3339(SystemClock.now_ms()));
        if self.aloud {
            // Who closed standard error wants to hear nothing.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let full = file.as_ref().and_then(|f| f.metadata().ok()).is_none_or(|meta| meta.len() >= BYTES_MAX);
        if full {
            // The one before is given up: what matters stands in the audit log.
            let _ = std::fs::rename(&self.path, self.path.with_extension("log.1"));
            *file = open(&self.path);
        }
        if let Some(file) = file.as_mut() {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

fn open(path: &Path) -> Option<File> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(nofollow).open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_grows_beyond_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("controller.log");
        let journal = Journal::open(&path, false);
        for n in 0..3 * BYTES_MAX / 1_000 {
            journal.say(&format!("{n} {}\u{1b}[2J", "x".repeat(1_000)));
        }
        let sizes: Vec<u64> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|bytes| *bytes <= BYTES_MAX + 4_000), "{sizes:?}");
        assert!(!std::fs::read_to_string(&path).unwrap().contains('\u{1b}'));
    }
}
