//! What was taken out of a workspace after a run, kept with its reason: listed, looked at, put back.
//!
//! ```text
//! state/<bottle>/quarantine/q-1.json                what, where, when, by which run, and where it is kept
//!                           git-config-<n>          a configuration as the bottle left it
//!                           git-config-<n>.left     what was left of it in the repository
//! <workspace>/…/NAME.carboy-quarantine-<n>          a file or directory that was set aside in its place
//! ```
//!
//! *Must never* follow a link on the way back: the workspace may have been given another tree since.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, OFlags, RenameFlags, renameat_with, statat};
use serde::{Deserialize, Serialize};

use crate::protect::{Cleaned, open_below, open_directory, open_root, read_config, split, write_config};

/// Most entries of one bottle's quarantine.
pub const ENTRIES_MAX: u32 = 100_000;
/// Longest record.
const RECORD_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most of a file that is shown.
pub const SHOWN_BYTES_MAX: u64 = 1024 * 1024;

/// One thing in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `q-1`
    pub id: String,
    /// The run that left it.
    pub run: String,
    /// When it was taken out: milliseconds since 1970.
    pub at_ms: u64,
    /// The workspace, or another writable bind.
    root: OsString,
    /// Below it.
    below: OsString,
    /// What was changed, each in a line without control characters.
    pub changes: Vec<String>,
    /// Where it is kept.
    kept: Kept,
    /// When it was put back: milliseconds since 1970.
    pub restored_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kept {
    /// A git configuration, in the quarantine's directory.
    Config(OsString),
    /// Under another name beside its place.
    Aside(OsString),
}

/// What was, and what would be again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Two texts.
    Texts {
        /// As it is now; `None` for nothing.
        now: Option<String>,
        /// As it was left by the run.
        then: String,
    },
    /// A directory with these names in it.
    Directory(Vec<String>),
    /// Something that has no lines, in words.
    Other(String),
}

/// Why something is not put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It was put back before.
    #[error("it was put back already")]
    Already,
    /// The configuration is not what was left any more.
    #[error("{} has changed since; put what you want of it back by hand (`carboy bottle quarantine … show` prints it)", .0.display())]
    Changed(PathBuf),
    /// Something has its name.
    #[error("{} is there again: move it away first", .0.display())]
    Taken(PathBuf),
    /// The system said no, for instance because a link stands on the way.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Entry {
    /// Where it stood.
    pub fn path(&self) -> PathBuf {
        Path::new(&self.root).join(&self.below)
    }

    /// Where it is kept.
    pub fn kept_at(&self, quarantine: &Path) -> PathBuf {
        match &self.kept {
            Kept::Config(name) => quarantine.join(name),
            Kept::Aside(below) => Path::new(&self.root).join(below),
        }
    }

    /// What a look at it shows.
    pub fn look(&self, quarantine: &Path) -> io::Result<Shown> {
        let root = open_root(Path::new(&self.root))?;
        match &self.kept {
            Kept::Config(name) => {
                let now = read_config(&root, Path::new(&self.below))?;
                Ok(Shown::Texts { now, then: small_text(&quarantine.join(name))? })
            }
            Kept::Aside(below) => aside(&root, Path::new(below)),
        }
    }

    /// Puts it back and notes that.
    pub fn restore(&mut self, quarantine: &Path) -> Result<(), RestoreError> {
        if self.restored_ms.is_some() {
            return Err(RestoreError::Already);
        }
        let path = self.path();
        let failed = |source: io::Error| RestoreError::Io { path: path.clone(), source };
        let root = open_root(Path::new(&self.root)).map_err(failed)?;
        let below = Path::new(&self.below);
        match &self.kept {
            Kept::Config(name) => {
                let kept = quarantine.join(name);
                let now = read_config(&root, below).map_err(failed)?.unwrap_or_default();
                let (then, left) = (small_text(&kept).map_err(failed)?, small_text(&left_of(&kept)).map_err(failed)?);
                if now != left {
                    return Err(RestoreError::Changed(path));
                }
                write_config(&root, below, &then).map_err(failed)?;
            }
            Kept::Aside(aside) => {
                let (parent, name) = split(below).map_err(failed)?;
                let (_, aside) = split(Path::new(aside)).map_err(failed)?;
                let parent = open_directory(&root, parent).map_err(failed)?;
                match renameat_with(&parent, aside, &parent, name, RenameFlags::NOREPLACE) {
                    Err(rustix::io::Errno::EXIST) => return Err(RestoreError::Taken(path)),
                    other => other.map_err(|e| failed(e.into()))?,
                }
            }
        }
        self.restored_ms = Some(now_ms());
        let text = serde_json::to_vec(self).map_err(|e| failed(e.into()))?;
        let record = quarantine.join(format!("{}.json", self.id));
        let draft = record.with_extension("new");
        std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &record)).map_err(failed)
    }
}

fn aside(root: &std::os::fd::OwnedFd, below: &Path) -> io::Result<Shown> {
    let (parent, name) = split(below)?;
    let parent_fd = open_directory(root, parent)?;
    let stat = statat(&parent_fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            const NAMES_MAX: usize = 1000;
            let fd = open_below(root, below, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let names = rustix::fs::Dir::read_from(&fd)?.filter_map(Result::ok).map(|e| e.file_name().to_owned());
            let mut names: Vec<String> = names
                .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
                .take(NAMES_MAX)
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            names.sort();
            Ok(Shown::Directory(names))
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&parent_fd, name, Vec::new())?;
            Ok(Shown::Other(format!("a link to {}", target.to_string_lossy())))
        }
        FileType::RegularFile => {
            let file = File::from(open_below(root, below, OFlags::RDONLY | OFlags::NONBLOCK)?);
            let mut bytes = Vec::new();
            file.take(SHOWN_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > SHOWN_BYTES_MAX {
                return Ok(Shown::Other(format!("a file of {} bytes", stat.st_size)));
            }
            Ok(match String::from_utf8(bytes) {
                Ok(then) if !then.contains('\0') => Shown::Texts { now: None, then },
                Ok(_) | Err(_) => Shown::Other(format!("a binary file of {} bytes", stat.st_size)),
            })
        }
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
            Ok(Shown::Other("a pipe, a socket or a device".into()))
        }
    }
}

fn small_text(path: &Path) -> io::Result<String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let mut bytes = Vec::new();
    file.take(SHOWN_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Where it stands what was left of a configuration.
pub(crate) fn left_of(kept: &Path) -> PathBuf {
    let mut name = kept.as_os_str().to_owned();
    name.push(".left");
    name.into()
}

fn now_ms() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Writes down what was taken out, one entry for each file, and gives each its name.
pub(crate) fn note(quarantine: &Path, run: &str, cleaned: &mut Cleaned) {
    let Cleaned { quarantined, failed, .. } = cleaned;
    if quarantined.is_empty() {
        return;
    }
    let known = list(quarantine).unwrap_or_default();
    let mut next = known.iter().filter_map(|e| number(&e.id)).max().unwrap_or(0) + 1;
    let mut at = 0;
    while at < quarantined.len() {
        let first = quarantined[at].clone();
        let same = |q: &&mut crate::protect::Quarantined| q.path == first.path && q.kept_at == first.kept_at;
        let group: Vec<_> = quarantined[at..].iter_mut().take_while(same).collect();
        let length = group.len();
        let below = |path: &Path| path.strip_prefix(&first.root).unwrap_or(path).as_os_str().to_owned();
        let kept = match first.kept_at.strip_prefix(quarantine) {
            Ok(name) => Kept::Config(name.as_os_str().to_owned()),
            Err(_) => Kept::Aside(below(&first.kept_at)),
        };
        let entry = Entry {
            id: String::new(),
            run: run.to_owned(),
            at_ms: now_ms(),
            root: first.root.clone().into(),
            below: below(&first.path),
            changes: group.iter().map(|q| q.change.clone()).collect(),
            kept,
            restored_ms: None,
        };
        match write(quarantine, entry, &mut next) {
            Ok(id) => group.into_iter().for_each(|q| q.id.clone_from(&id)),
            Err(error) => failed.push(format!("{}: {error}", quarantine.display())),
        }
        at += length;
    }
}

fn write(quarantine: &Path, mut entry: Entry, next: &mut u32) -> io::Result<String> {
    std::fs::create_dir_all(quarantine)?;
    while *next <= ENTRIES_MAX {
        let id = format!("q-{next}");
        *next += 1;
        let path = quarantine.join(format!("{id}.json"));
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => {
                entry.id.clone_from(&id);
                file.write_all(&serde_json::to_vec(&entry)?)?;
                return Ok(id);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("more than {ENTRIES_MAX} things in quarantine")))
}

fn number(id: &str) -> Option<u32> {
    id.strip_prefix("q-")?.parse().ok()
}

/// Everything in a bottle's quarantine, oldest first.
pub fn list(quarantine: &Path) -> io::Result<Vec<Entry>> {
    let listing = match std::fs::read_dir(quarantine) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut entries: Vec<Entry> = Vec::new();
    for path in listing.filter_map(|entry| Some(entry.ok()?.path())).take(ENTRIES_MAX as usize * 4) {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let Ok(file) = File::options().read(true).custom_flags(flags).open(&path) else { continue };
        let mut text = Vec::new();
        file.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
        entries.extend(serde_json::from_slice::<Entry>(&text).ok());
    }
    entries.sort_by_key(|entry| number(&entry.id));
    Ok(entries)
}
