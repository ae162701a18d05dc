//! Repositories that a run made or changed anywhere in a writable bind: nested ones, submodules, bare ones.
//!
//! The host's git reads the settings and runs the hooks of more than the workspace's own `.git`: a `git status` goes
//! into every submodule, `commondir` and a `.git` file send it to another directory, and a directory with the right
//! three names *is* a repository. None of these can be guarded before they exist, so they are looked for in the end (B51).
//!
//! What is new is told by the change time, which a process in a bottle cannot set: since the run's journal was opened.
//! Repositories that stood there before are noted at the start, by place and inode; what is new in them is looked at, the
//! rest is left alone. Everywhere else all settings and hooks count as new, however old their files are: a repository
//! may be put together from parts that were harmless, each in its own place.
//!
//! Git takes a directory for the common one of a repository when it has `objects` and `refs`, whatever else is missing,
//! and needs no permission to list it.
//!
//! *Must never* run git, follow a link, or take a repository for one that was there because its files are old.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, ResolveFlags, Stat, fstat, statat};

use crate::protect::{Cleaned, Journal, open_below, open_root, open_with};

/// A moment of the file systems' clock: seconds and nanoseconds.
pub type Moment = (i64, i64);

/// Most directory entries that are looked at.
const ENTRIES_MAX: usize = 4_000_000;
/// Longest search.
const SEARCH_MAX: Duration = Duration::from_secs(20);
/// Most octets of paths that wait to be looked at: a bottle may nest directories as deep as it likes.
const WAITING_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most changes that are taken back one by one.
const CHANGES_MAX: usize = 1000;
/// Most new hooks of one repository that are set aside one by one; beyond it the directory is.
const HOOKS_MAX: usize = 32;
/// Longest `.git` or `commondir` file.
const POINTER_BYTES_MAX: u64 = 8 * 1024;

/// Device and inode of a directory.
pub type Inode = (u64, u64);

/// Longest look for the repositories that are there at the start; those that it does not come to count as new.
const START_MAX: Duration = Duration::from_secs(3);

/// The repositories below a bind, by place and inode.
pub fn standing(root: &OwnedFd) -> Vec<(PathBuf, Inode)> {
    let deadline = Instant::now() + START_MAX;
    let (mut seen, mut standing, mut waiting) = (0, Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = waiting.pop() {
        let Ok(fd) = open_listed(root, &below) else { continue };
        let Ok(found) = Found::of(&fd, &mut seen) else { continue };
        if seen > ENTRIES_MAX || Instant::now() > deadline {
            return standing;
        }
        let is_complete = found.is_complete();
        if is_complete && let Ok(inode) = inode(&fd) {
            standing.push((below.clone(), inode));
        }
        // Of objects there are many, and what hides among them counts as new.
        let inner = found.directories.into_iter().filter(|name| !is_complete || name != Path::new("objects"));
        waiting.extend(inner.map(|name| below.join(name)));
    }
    standing
}

/// Looks through a bind. `guarded` are the configuration files that the journal compares itself, `standing` the
/// repositories that were there.
pub fn search(
    journal: &Journal,
    root: &Path,
    since: Moment,
    guarded: &BTreeSet<PathBuf>,
    standing: &BTreeMap<PathBuf, Inode>,
    cleaned: &mut Cleaned,
) -> io::Result<()> {
    let fd = match open_root(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let search = Search { journal, root, fd: &fd, since, guarded, standing };
    let deadline = Instant::now() + SEARCH_MAX;
    let (mut seen, mut waiting_bytes) = (0, 0);
    let before = cleaned.quarantined.len() + cleaned.failed.len();
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        waiting_bytes -= below.as_os_str().len();
        let found = match search.names(&below, &mut seen) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                cleaned.failed.push(format!("{}: cannot be looked into: {error}", root.join(&below).display()));
                continue;
            }
        };
        let changes = cleaned.quarantined.len() + cleaned.failed.len() - before;
        let too_much = seen > ENTRIES_MAX || waiting_bytes > WAITING_BYTES_MAX || changes > CHANGES_MAX;
        if too_much || Instant::now() > deadline {
            return Err(io::Error::other("too much to be searched for repositories: look before you use git in it"));
        }
        if found.is_repository() {
            search.repository(&below, cleaned);
        }
        if found.git == Some(FileType::RegularFile) || found.git == Some(FileType::Symlink) {
            search.pointer(&below.join(".git"), cleaned);
        }
        for directory in found.directories {
            let next = below.join(directory);
            waiting_bytes += next.as_os_str().len();
            waiting.push(next);
        }
    }
    Ok(())
}

struct Search<'a> {
    journal: &'a Journal,
    root: &'a Path,
    fd: &'a OwnedFd,
    since: Moment,
    guarded: &'a BTreeSet<PathBuf>,
    standing: &'a BTreeMap<PathBuf, Inode>,
}

/// What a directory holds.
#[derive(Default)]
struct Found {
    directories: Vec<PathBuf>,
    git: Option<FileType>,
    head: bool,
    objects: bool,
    refs: bool,
    commondir: bool,
}

impl Found {
    fn of(directory: &OwnedFd, seen: &mut usize) -> io::Result<Found> {
        let mut found = Found::default();
        for entry in Dir::read_from(directory)?.map_while(Result::ok) {
            *seen += 1;
            let name = entry.file_name().to_bytes();
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                // Some file systems do not say.
                let stat = statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
                kind = stat.map_or(FileType::Unknown, |s| FileType::from_raw_mode(s.st_mode));
            }
            match name {
                b"." | b".." => continue,
                b".git" => found.git = Some(kind),
                b"HEAD" => found.head = true,
                b"objects" => found.objects = true,
                b"refs" => found.refs = true,
                b"commondir" => found.commondir = true,
                _ => {}
            }
            if kind == FileType::Directory && *seen <= ENTRIES_MAX {
                found.directories.push(PathBuf::from(OsStr::from_bytes(name)));
            }
        }
        Ok(found)
    }

    /// As git itself tells. What lacks a part may get it from a run, and is no repository that was there.
    fn is_complete(&self) -> bool {
        self.head && (self.commondir || (self.objects && self.refs))
    }

    /// A git directory, or the common one of some; a link is as good as what it points to.
    fn is_repository(&self) -> bool {
        (self.objects && self.refs) || (self.head && self.commondir)
    }
}

fn open_listed(root: &OwnedFd, below: &Path) -> io::Result<OwnedFd> {
    let directory = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    open_below(root, directory, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn inode(fd: &OwnedFd) -> io::Result<Inode> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

impl Search<'_> {
    /// A directory that may be entered and not listed hides nothing from git: it is opened to its owner first.
    fn names(&self, below: &Path, seen: &mut usize) -> io::Result<Found> {
        let fd = match open_listed(self.fd, below) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.open_to_its_owner(below)?;
                open_listed(self.fd, below)?
            }
            other => other?,
        };
        Found::of(&fd, seen)
    }

    fn open_to_its_owner(&self, below: &Path) -> io::Result<()> {
        let fd = open_below(self.fd, below, OFlags::PATH | OFlags::DIRECTORY)?;
        let mode = fstat(&fd)?.st_mode & 0o777 | 0o700;
        // By its descriptor: a link in its place would not have been opened.
        let itself = format!("/proc/self/fd/{}", fd.as_raw_fd());
        std::fs::set_permissions(itself, std::fs::Permissions::from_mode(mode))
    }

    /// Did this very directory stand here, as a repository, when the run began?
    fn stood(&self, git: &Path) -> bool {
        let known = self.standing.get(&self.root.join(git));
        known.is_some() && open_listed(self.fd, git).and_then(|fd| inode(&fd)).ok().as_ref() == known
    }

    fn is_new(&self, below: &Path) -> bool {
        let Some(name) = below.file_name() else { return false };
        let parent = below.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let stat = open_below(self.fd, parent, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|parent| Ok(statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?));
        // Strictly: the clock has a tick, and what was made just before the run is not the run's. A start takes longer than a tick.
        stat.is_ok_and(|stat| changed(&stat) > self.since)
    }

    fn repository(&self, git: &Path, cleaned: &mut Cleaned) {
        let stood = self.stood(git);
        let is_new = |path: &Path| self.is_new(path) || (!stood && self.is_there(path));
        let commondir = git.join("commondir");
        // `git worktree add` writes exactly this.
        let of_a_worktree = || {
            let parent = git.parent().and_then(Path::file_name);
            parent == Some(OsStr::new("worktrees"))
                && self.content(&commondir).is_some_and(|text| text.trim() == "../..")
        };
        if is_new(&commondir) && !of_a_worktree() {
            self.set_aside(&commondir, "it sends git to another directory's settings and hooks", cleaned);
        }
        for name in ["config", "config.worktree"] {
            let config = git.join(name);
            if !self.guarded.contains(&config) && is_new(&config) {
                let audited = self.journal.audit(self.root, &config, None, cleaned);
                self.told(&config, audited, cleaned);
            }
        }
        if !self.guarded.contains(&git.join("config")) {
            self.hooks(&git.join("hooks"), &is_new, cleaned);
        }
    }

    fn is_there(&self, below: &Path) -> bool {
        let (Some(parent), Some(name)) = (below.parent(), below.file_name()) else { return false };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        open_below(self.fd, parent, OFlags::PATH | OFlags::DIRECTORY)
            .is_ok_and(|parent| statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    /// New hooks of a repository that was not guarded; git's own samples stay.
    fn hooks(&self, hooks: &Path, is_new: &dyn Fn(&Path) -> bool, cleaned: &mut Cleaned) {
        let listing =
            open_below(self.fd, hooks, OFlags::RDONLY | OFlags::DIRECTORY).and_then(|fd| Ok(Dir::read_from(fd)?));
        let Ok(listing) = listing else {
            if is_new(hooks) {
                self.set_aside(hooks, "made as something that is not a directory", cleaned);
            }
            return;
        };
        let (mut old, mut new) = (0_usize, Vec::new());
        for entry in listing.map_while(Result::ok) {
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || name.ends_with(b".sample") {
                continue;
            }
            let hook = hooks.join(OsStr::from_bytes(name));
            if is_new(&hook) {
                new.push(hook)
            } else {
                old += 1
            }
            if new.len() > HOOKS_MAX {
                break;
            }
        }
        // A directory of old files that was moved here shows by its own time alone.
        if new.len() > HOOKS_MAX || (new.is_empty() && old > 0 && is_new(hooks)) {
            return self.set_aside(hooks, "hooks were put into a repository", cleaned);
        }
        for hook in new {
            self.set_aside(&hook, "a hook was put into a repository", cleaned);
        }
    }

    /// A new `.git` that is not a directory: it may point to where this search comes by, and nowhere else.
    fn pointer(&self, git: &Path, cleaned: &mut Cleaned) {
        if self.is_new(git) && !self.points_within(git) {
            self.set_aside(git, "it points to a repository elsewhere", cleaned);
        }
    }

    fn points_within(&self, git: &Path) -> bool {
        let Some(text) = self.content(git) else { return false };
        let Some(target) = text.strip_prefix("gitdir:").map(|t| Path::new(t.trim())) else { return false };
        let target = match target.strip_prefix(self.root) {
            Ok(below) => below.to_owned(),
            Err(_) if target.is_absolute() => return false,
            Err(_) => git.parent().unwrap_or(Path::new("")).join(target),
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        open_with(self.fd, &target, OFlags::PATH | OFlags::DIRECTORY, resolve).is_ok()
    }

    fn content(&self, below: &Path) -> Option<String> {
        let file = File::from(open_below(self.fd, below, OFlags::RDONLY | OFlags::NONBLOCK).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = String::new();
        file.take(POINTER_BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn set_aside(&self, below: &Path, change: &str, cleaned: &mut Cleaned) {
        let done = self.journal.set_aside(self.fd, self.root, below, change, cleaned);
        self.told(below, done, cleaned);
    }

    /// One that cannot be put in order does not keep the others from it.
    fn told(&self, below: &Path, done: io::Result<()>, cleaned: &mut Cleaned) {
        if let Err(error) = done {
            cleaned.failed.push(format!("{}: {error}", self.root.join(below).display()));
        }
    }
}

/// When a file last changed in any way, its name included.
fn changed(stat: &Stat) -> Moment {
    (stat.st_ctime, stat.st_ctime_nsec as i64)
}
