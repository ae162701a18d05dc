//! Where `--summary-json` goes. The place may lie in the workspace, so that whatever has its name at the end may be the
//! bottle's.
//!
//! *Must never* open what stands there, or write through it: it is replaced.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use carboy_control::summary::Summary;
use rustix::fs::{Mode, OFlags};

use crate::report::{Exit, Failure};

/// Where `--summary-json` goes. The place may lie in the workspace, so the file there at the end may be the bottle's:
/// a link to `~/.bashrc`, or a named pipe that nobody reads. It is replaced, never opened.
pub enum SummaryTo {
    /// `-`
    StandardError,
    /// A device or a pipe of the person's (`/dev/fd/63`).
    Open(PathBuf, std::fs::File),
    /// A file, by its directory as it was at the start.
    File {
        /// As it was given.
        path: PathBuf,
        /// Its directory.
        directory: OwnedFd,
        /// Its name in there.
        name: OsString,
    },
}

impl SummaryTo {
    /// Before the bottle is made.
    pub fn open(path: &Path) -> Result<SummaryTo, Failure> {
        if path == Path::new("-") {
            return Ok(SummaryTo::StandardError);
        }
        let usage = |e: std::io::Error| Failure::words(Exit::Usage, format!("--summary-json {}: {e}", path.display()));
        let is_file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file() || meta.is_dir());
        if path.exists() && !is_file {
            // Without waiting: a named pipe without a reader is an error and not a wait for one.
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| usage(e.into()))?;
            rustix::io::ioctl_fionbio(&file, false).map_err(|e| usage(e.into()))?;
            return Ok(SummaryTo::Open(path.to_owned(), file.into()));
        }
        let path = std::path::absolute(path).map_err(usage)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(usage(std::io::ErrorKind::IsADirectory.into()));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty()).map_err(|e| usage(e.into()))?;
        Ok(SummaryTo::File { name: name.to_owned(), path, directory })
    }

    /// At the end.
    pub fn write(self, summary: &Summary) -> Result<(), Failure> {
        let mut text = serde_json::to_string(summary).map_err(|e| Failure::new(Exit::Failed, &e))?;
        text.push('\n');
        let (path, written) = match self {
            SummaryTo::StandardError => {
                say_part!("{text}");
                return Ok(());
            }
            SummaryTo::Open(path, mut file) => (path, file.write_all(text.as_bytes())),
            SummaryTo::File { path, directory, name } => (path, replace(&directory, &name, text.as_bytes())),
        };
        written
            .map_err(|e| Failure::words(Exit::Failed, format!("cannot write the summary to {}: {e}", path.display())))
    }
}

/// Puts a new file under this name in one step, whatever has the name now.
fn replace(directory: &OwnedFd, name: &OsStr, content: &[u8]) -> std::io::Result<()> {
    let draft = format!(".carboy-summary-{}", std::process::id());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::openat(directory, &draft, flags, Mode::from_raw_mode(0o644))?);
    let renamed = file.write_all(content).and_then(|()| Ok(rustix::fs::renameat(directory, &draft, directory, name)?));
    if renamed.is_err() {
        // Of no use any more.
        let _ = rustix::fs::unlinkat(directory, &draft, rustix::fs::AtFlags::empty());
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;
    use carboy_control::summary::Ended;

    fn summary() -> Summary {
        Summary {
            run: "r-1".into(),
            bottle: "b".into(),
            ended: Ended::Code(0),
            duration_ms: 1,
            tier: "T1".into(),
            requests: 0,
            bytes_out: 0,
            bytes_in: 0,
            refusals: vec![],
            web_sockets: 0,
            tokens: vec![],
            findings: vec![],
            quarantined: vec![],
            noticed: vec![],
            ports: vec![],
            proposed: None,
            overlay: None,
            enforced: vec![],
            audit_head: String::new(),
        }
    }

    #[test]
    fn a_link_or_a_pipe_that_the_bottle_left_in_the_summarys_place_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, at) = (dir.path().join("bashrc"), dir.path().join("reports"));
        std::fs::write(&victim, "mine").unwrap();
        std::fs::create_dir(&at).unwrap();
        let path = at.join("summary.json");
        for leave in ["link", "pipe"] {
            let to = SummaryTo::open(&path).ok().unwrap();
            let _ = std::fs::remove_file(&path);
            match leave {
                "link" => std::os::unix::fs::symlink(&victim, &path).unwrap(),
                _ => rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap(),
            }
            to.write(&summary()).ok().unwrap();
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
            assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
        }
        // A directory that was exchanged for a link does not lead elsewhere.
        let to = SummaryTo::open(&path).ok().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::rename(&at, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &at).unwrap();
        to.write(&summary()).ok().unwrap();
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
