//! Agent-steering files in the writable binds: what tells git, an editor or an agent on the *host* to run something.
//!
//! Those that exist are mounted read-only onto themselves. Absent ones get an empty stub on the host for the time of
//! the run, so that there is something to mount on; each is written to the journal before it is made, and removed at
//! the end or at the next start after a crash. The directories above are pinned (mounted onto themselves), because a
//! directory that holds a mount point can otherwise be renamed away and a new one put in its place (B51).
//!
//! Nothing here follows a symbolic link below the bind's root.

mod below;
mod guarding;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use carboy_core::ids::RunId;
use rustix::fs::{FlockOperation, OFlags, flock, renameat};
use serde::{Deserialize, Serialize};

use crate::describe::LaunchError;
use crate::git_config::{audit_git_config, audit_new_git_config};
use crate::repositories::{Inode, Moment, search, standing};
use crate::wire::Protected;

use below::{holds_directory, remove_stub};
use guarding::Guarding;

pub use guarding::steers;

pub(crate) use below::{open_below, open_directory, open_root, open_with, read_config, split, write_config};

/// Extension of a journal.
const JOURNAL: &str = "journal";
const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;
const QUARANTINE: &str = "quarantine";
const STUBS_LOCK: &str = "stubs.lock";

/// What was put in order after a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Stubs removed.
    pub stubs_removed: usize,
    /// What the bottle left that would have run something on the host.
    pub quarantined: Vec<Quarantined>,
    /// What could not be put in order, with the path and the reason; the operator has to look at these.
    pub failed: Vec<String>,
}

/// One change that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The file on the host.
    pub path: PathBuf,
    /// What was changed: `added core.fsmonitor = …`.
    pub change: String,
    /// Where it is kept now.
    pub kept_at: PathBuf,
    /// What it is called in the quarantine: `q-1`. Empty where that could not be written down.
    pub id: String,
    /// The bind that it was found in.
    pub(crate) root: PathBuf,
}

/// A line of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Entry {
    /// A stub is about to be made at this host path.
    Stub { root: PathBuf, below: PathBuf, directory: bool },
    /// A git directory (below the root), and what its configuration was, if it had one.
    Config { root: PathBuf, below: PathBuf, before: Option<String> },
    /// A hooks directory that did not exist.
    NoHooks { root: PathBuf, below: PathBuf },
    /// A repository that was there, and its inode.
    Repository { root: PathBuf, below: PathBuf, inode: Inode },
    /// A bind in which repositories may appear, and since when they are the run's.
    Search { root: PathBuf, since: Moment },
}

/// Puts in order what crashed runs left in workspaces, by their journals in this state directory; those of runs that live
/// are locked and left alone.
///
/// # Errors
/// When a journal cannot be read.
pub fn put_crashed_in_order(state: &Path, shared: &Path) -> io::Result<()> {
    for left in std::fs::read_dir(state)? {
        let path = left?.path();
        if path.extension().is_some_and(|extension| extension == JOURNAL) {
            Journal::recover(state, shared, path)?;
        }
    }
    Ok(())
}

/// The journal of one bottle's state directory.
#[derive(Debug)]
pub struct Journal {
    state: PathBuf,
    shared: PathBuf,
    path: PathBuf,
    /// Locked.
    file: File,
    /// When it was opened, by the file systems' clock.
    opened: Moment,
    entries: Mutex<Vec<Entry>>,
    /// Stubs in use, share-locked: of several bottles on one workspace the last removes them.
    held: Mutex<Vec<OwnedFd>>,
}

impl Journal {
    /// Opens this run's; what crashed runs left is put in order first. Each journal is locked as long as its run lives,
    /// so that the stubs of a run that still goes on are left alone.
    pub fn open(state: &Path, shared: &Path, run: &RunId) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::Outside { step: "open the bottle's journal of stubs", source };
        std::fs::create_dir_all(state).map_err(failed)?;
        put_crashed_in_order(state, shared).map_err(failed)?;
        let path = state.join(format!("{run}.{JOURNAL}"));
        let file = File::options().create_new(true).append(true).open(&path).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
        let opened = file.metadata().map(|meta| (meta.ctime(), meta.ctime_nsec())).map_err(failed)?;
        let (state, shared) = (state.to_owned(), shared.to_owned());
        Ok(Journal { state, shared, path, file, opened, entries: Mutex::default(), held: Mutex::default() })
    }

    fn recover(state: &Path, shared: &Path, path: PathBuf) -> io::Result<()> {
        let mut file = File::options().read(true).append(true).open(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let mut text = String::new();
        (&mut file).take(JOURNAL_BYTES_MAX).read_to_string(&mut text)?;
        let entries = Mutex::new(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect());
        // Nothing is guarded with it: each entry says its own time.
        let opened = Moment::default();
        let (state, shared) = (state.to_owned(), shared.to_owned());
        Journal { state, shared, path, file, opened, entries, held: Mutex::default() }.put_in_order();
        Ok(())
    }

    /// Makes the stubs below one writable bind; says what init has to mount, parents first.
    pub fn guard(&self, root: &OwnedFd, path: &Path, target: &Path) -> Result<Vec<Protected>, LaunchError> {
        // First, so that it is done last: a comparison that the journal makes itself comes before.
        self.note(Entry::Search { root: path.to_owned(), since: self.opened })
            .map_err(|source| LaunchError::Source { path: path.to_owned(), source })?;
        for (below, inode) in standing(root) {
            self.note(Entry::Repository { root: path.to_owned(), below, inode })
                .map_err(|source| LaunchError::Source { path: path.to_owned(), source })?;
        }
        let _turn = self.turn().map_err(|source| LaunchError::Source { path: path.to_owned(), source })?;
        let mut guard = Guarding { journal: self, root, path, target, found: Vec::new() };
        let outcome = if guard.is_git_directory() { guard.git_directory(Path::new("")) } else { guard.workspace() };
        match outcome {
            Ok(()) => Ok(guard.found),
            Err(source) => Err(LaunchError::Source { path: path.to_owned(), source }),
        }
    }

    /// Waits until no other bottle of this user makes or removes stubs. Held for milliseconds at a time.
    fn turn(&self) -> io::Result<Turn> {
        std::fs::create_dir_all(&self.shared)?;
        let file = File::options().create(true).append(true).open(self.shared.join(STUBS_LOCK))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(Turn(file))
    }

    fn note(&self, entry: Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        // Written before it is done, so that a supervisor that dies in between leaves a line too many, never one too
        // few. Not synchronised (eleven times a disk's latency at each start): a power cut may leave an empty file.
        (&self.file).write_all(&line)?;
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry);
        Ok(())
    }

    /// Puts everything in order after the bottle is gone.
    pub fn clean(self) -> Cleaned {
        self.put_in_order()
    }

    fn put_in_order(&self) -> Cleaned {
        let mut entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for stub in self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
            // By word and not by closing: a child of this process that has not come to its exec yet has a copy.
            let _ = flock(&stub, FlockOperation::Unlock);
        }
        let mut cleaned = Cleaned::default();
        let compared = |entry: &Entry| match entry {
            Entry::Config { root, below, .. } => Some(root.join(below)),
            Entry::Stub { .. } | Entry::NoHooks { .. } | Entry::Repository { .. } | Entry::Search { .. } => None,
        };
        let compared: BTreeSet<PathBuf> = entries.iter().filter_map(compared).collect();
        let stood = |entry: &Entry| match entry {
            Entry::Repository { root, below, inode } => Some((root.join(below), *inode)),
            Entry::Stub { .. } | Entry::NoHooks { .. } | Entry::Config { .. } | Entry::Search { .. } => None,
        };
        let stood: BTreeMap<PathBuf, Inode> = entries.iter().filter_map(stood).collect();
        // Children were noted after their parents.
        for entry in entries.drain(..).rev() {
            let done = match &entry {
                Entry::Stub { root, below, directory } => {
                    self.turn().and_then(|_turn| remove_stub(root, below, *directory, &mut cleaned))
                }
                Entry::Config { root, below, before } => self.audit(root, below, before.as_deref(), &mut cleaned),
                Entry::NoHooks { root, below } => self.new_hooks(root, below, &mut cleaned),
                Entry::Repository { .. } => Ok(()),
                Entry::Search { root, since } => {
                    let below = compared.iter().filter_map(|path| path.strip_prefix(root).ok());
                    let guarded = below.map(Path::to_owned).collect();
                    search(self, root, *since, &guarded, &stood, &mut cleaned)
                }
            };
            let path = match &entry {
                Entry::Stub { root, below, .. }
                | Entry::Config { root, below, .. }
                | Entry::Repository { root, below, .. }
                | Entry::NoHooks { root, below } => root.join(below),
                Entry::Search { root, .. } => root.clone(),
            };
            if let Err(error) = done {
                cleaned.failed.push(format!("{}: {error}", path.display()));
            }
        }
        // Before the journal goes: a crash in between tells of it twice, and never not at all.
        let run = self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        crate::quarantine::note(&self.state.join(QUARANTINE), &run, &mut cleaned);
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                cleaned.failed.push(format!("{}: {error}", self.path.display()))
            }
            Ok(()) | Err(_) => {}
        }
        cleaned
    }

    pub(crate) fn audit(
        &self,
        root: &Path,
        below: &Path,
        before: Option<&str>,
        cleaned: &mut Cleaned,
    ) -> io::Result<()> {
        let root_fd = open_root(root)?;
        let path = root.join(below);
        if before.is_none() && !holds_directory(&root_fd, below) {
            // Neither a repository nor what passes for one; what stands there instead is found by the search.
            return Ok(());
        }
        let after = match read_config(&root_fd, below) {
            Ok(Some(after)) => after,
            Ok(None) if before.is_none() => return Ok(()),
            Ok(None) => String::new(),
            // A link, a directory, or too large: whatever it is, it is moved away.
            Err(_) => {
                self.set_aside(&root_fd, root, below, "replaced by something that is not a small file", cleaned)?;
                String::new()
            }
        };
        let audited = match before {
            Some(before) => audit_git_config(root, before, &after),
            None => audit_new_git_config(root, &after),
        };
        if audited.quarantined.is_empty() {
            return Ok(());
        }
        let kept_at = self.keep(&after, &audited.kept)?;
        write_config(&root_fd, below, &audited.kept)?;
        let changes = audited.quarantined.into_iter();
        cleaned.quarantined.extend(changes.map(|change| Quarantined {
            path: path.clone(),
            change,
            kept_at: kept_at.clone(),
            id: String::new(),
            root: root.to_owned(),
        }));
        Ok(())
    }

    /// Hooks in a repository that had no hooks directory: set aside, unless they are git's own samples.
    fn new_hooks(&self, root: &Path, below: &Path, cleaned: &mut Cleaned) -> io::Result<()> {
        let root_fd = open_root(root)?;
        if !holds_directory(&root_fd, below) {
            return Ok(());
        }
        let hooks = match open_below(&root_fd, below, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(hooks) => hooks,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) => {
                return self.set_aside(&root_fd, root, below, "made as something that is not a directory", cleaned);
            }
        };
        let mut listing = rustix::fs::Dir::read_from(&hooks)?;
        let armed = listing.any(|entry| {
            entry.is_ok_and(|e| {
                let name = e.file_name().to_bytes();
                name != b"." && name != b".." && !name.ends_with(b".sample")
            })
        });
        if armed {
            self.set_aside(&root_fd, root, below, "hooks were added to a new repository", cleaned)
        } else {
            Ok(())
        }
    }

    /// Renames within its directory: another file system would need a copy of hostile content.
    pub(crate) fn set_aside(
        &self,
        fd: &OwnedFd,
        root: &Path,
        below: &Path,
        change: &str,
        cleaned: &mut Cleaned,
    ) -> io::Result<()> {
        let (parent, name) = split(below)?;
        let parent_fd = open_directory(fd, parent)?;
        let aside = format!("{}.carboy-quarantine-{}", name.display(), self.stamp());
        renameat(&parent_fd, name, &parent_fd, aside.as_str())?;
        let path = root.join(below);
        let kept_at = root.join(parent).join(aside);
        let change = change.to_owned();
        cleaned.quarantined.push(Quarantined { path, change, kept_at, id: String::new(), root: root.to_owned() });
        Ok(())
    }

    /// Keeps what was written, and what was left of it: by that one it is known whether it can be put back.
    fn keep(&self, content: &str, left: &str) -> io::Result<PathBuf> {
        let directory = self.state.join(QUARANTINE);
        std::fs::create_dir_all(&directory)?;
        let path = directory.join(format!("git-config-{}", self.stamp()));
        std::fs::write(&path, content)?;
        std::fs::write(crate::quarantine::left_of(&path), left)?;
        Ok(path)
    }

    fn stamp(&self) -> String {
        let taken =
            |n: &u32| self.state.join(QUARANTINE).join(format!("git-config-{}-{n}", std::process::id())).exists();
        let free = (0..u32::MAX).find(|n| !taken(n)).unwrap_or_default();
        format!("{}-{free}", std::process::id())
    }
}

/// One bottle's turn with the stubs.
struct Turn(File);

impl Drop for Turn {
    fn drop(&mut self) {
        // By word and not by closing: a child of this process that has not come to its exec yet has a copy.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
