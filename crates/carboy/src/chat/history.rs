//! What was typed before, for the arrow keys: a file of the person's own, bounded.
//!
//! ```text
//!  one JSON text a line ─▶ the last LINES_MAX of the last BYTES_MAX
//! ```
//!
//! *Must never* be readable by anybody else, follow a link, or keep a line that begins with a space.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use carboy_control::home::write_private;

/// Its name beside the agent's conversations.
pub const FILE: &str = "history";
/// Most lines that are kept.
pub const LINES_MAX: usize = 1_000;
/// Most octets of it that are read.
const BYTES_MAX: u64 = 256 * 1024;
/// Longest line that is kept, in octets.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// See the module.
pub struct History {
    path: PathBuf,
    lines: Vec<String>,
}

impl History {
    /// What is there; nothing where it cannot be read or is not this person's alone.
    pub fn open(path: PathBuf) -> History {
        let text = read(&path).unwrap_or_default();
        let found: Vec<String> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let lines = found[found.len().saturating_sub(LINES_MAX)..].to_vec();
        let history = History { path, lines };
        if text.len() as u64 >= BYTES_MAX || found.len() > LINES_MAX {
            history.shorten();
        }
        history
    }

    /// The oldest first.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Keeps a line. One that cannot be kept is nobody's loss: the conversation goes on.
    pub fn keep(&mut self, line: &str) {
        if line.starts_with(' ') || line.len() > LINE_BYTES_MAX || self.lines.last().is_some_and(|last| last == line) {
            return;
        }
        if self.lines.len() >= LINES_MAX {
            self.lines.remove(0);
        }
        self.lines.push(line.to_owned());
        let _ = open(&self.path).and_then(|mut file| writeln!(file, "{}", serde_json::Value::from(line)));
    }

    fn shorten(&self) {
        let text: String =
            self.lines.iter().map(|line| format!("{}\n", serde_json::Value::from(line.as_str()))).collect();
        let _ = write_private(&self.path, text.as_bytes());
    }
}

/// A regular file of this user's, and of nobody else's; it is made where there is none.
fn open(path: &Path) -> std::io::Result<File> {
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o600).custom_flags(nofollow).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != rustix::process::getuid().as_raw() {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    if meta.mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
    let mut bytes = vec![0; usize::try_from(length.min(BYTES_MAX)).unwrap_or(0)];
    file.read_exact(&mut bytes)?;
    // A line that was cut at its front is no JSON and falls away.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_for_ones_own_eyes_and_the_file_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut history = History::open(path.clone());
        for line in ["one", " a secret", "two\nlines", "two\nlines", &"x".repeat(LINE_BYTES_MAX + 1)] {
            history.keep(line);
        }
        assert_eq!(History::open(path.clone()).lines(), ["one", "two\nlines"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for i in 0..LINES_MAX + 5 {
            history.keep(&format!("line {i}"));
        }
        let again = History::open(path.clone());
        assert_eq!((again.lines().len(), again.lines()[0].as_str()), (LINES_MAX, "line 5"));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), LINES_MAX, "shortened");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        History::open(path.clone());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join(FILE), dir.path().join("other"));
        std::fs::write(&other, "\"theirs\"\n").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let mut history = History::open(path);
        assert_eq!(history.lines(), [] as [String; 0]);
        history.keep("mine");
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "\"theirs\"\n");
    }
}
