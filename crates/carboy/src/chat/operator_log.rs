//! The operator's log of conversations at a terminal: why tools failed, one JSON object a line (G83). A service writes the
//! same lines to its standard error; here that is the person's screen, so they have a file of their own.
//!
//! *Must never* be readable by anybody else, follow a link, or grow without end.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use carboy_control::home::private_dir;
use carboy_control::serve::Lines;
use rustix::fs::OFlags;

/// Its name beside the agent's conversations.
const FILE: &str = "operator.jsonl";
/// Octets after which it becomes `operator.jsonl.1`, in the place of the one before.
const BYTES_MAX: u64 = 1024 * 1024;

/// Its path below this directory.
pub fn path_in(place: &Path) -> PathBuf {
    place.join(FILE)
}

/// The file in this directory; it is made with its first line.
pub fn at(place: &Path) -> Lines {
    let path = path_in(place);
    // One line after the other.
    let turn = Mutex::new(());
    Arc::new(move |line: &str| {
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        // A line that cannot be kept ends no conversation; the audit log has that the tool failed.
        let _ = opened(&path).and_then(|mut file| writeln!(file, "{line}"));
    })
}

fn opened(path: &PathBuf) -> std::io::Result<File> {
    if let Some(place) = path.parent() {
        private_dir(place).map_err(std::io::Error::other)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|there| there.len() >= BYTES_MAX) {
        fs::rename(path, path.with_extension("jsonl.1"))?;
    }
    let no_link = OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(no_link).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn g83_lines_are_kept_for_ones_own_eyes_up_to_a_limit_and_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let lines = at(dir.path());
        lines("{\"a\":1}");
        lines("{\"a\":2}");
        let file = dir.path().join(FILE);
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        lines(&"x".repeat(BYTES_MAX as usize));
        lines("{\"a\":3}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\"a\":3}\n");
        assert!(fs::metadata(dir.path().join("operator.jsonl.1")).unwrap().len() > BYTES_MAX);

        let elsewhere = dir.path().join("elsewhere");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        lines("{\"a\":4}");
        assert!(!elsewhere.exists());
    }
}
