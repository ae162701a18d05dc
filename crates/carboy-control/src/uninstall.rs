//! What is carboy's in a user's home, and removing it.
//!
//! ```text
//! $CARBOY_HOME/  ca state audit run images secrets trust.json   carboy's: removed
//!                bottles agents settings.yml                    written by people: removed only when that was said
//!                anything else                                  somebody else's: named, and left
//! ```
//!
//! *Must never* remove anything outside of the home and of its directory of sockets, nor anything in them that is not in
//! the tables below: a home that was set to the wrong directory loses nothing of anybody's.

mod tree;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, flock, openat2, unlinkat};

use crate::home::{Home, HomeError};

/// Most entries of a directory that are looked at for the listing.
const LISTED_MAX: usize = 100_000;

/// Names in the home that are carboy's, and what they are.
const OURS: &[(&str, &str)] = &[
    ("ca", "the certificate authority of this host, with its key"),
    ("state", "homes, kept runs, quarantine and unapplied changes of bottles"),
    ("run", "records and sockets of runs"),
    ("carboy.db", "what was spent, and caps that were set"),
    ("carboy.db-wal", "the last part of that"),
    ("carboy.db-shm", "its index"),
    ("carboy.db.lock", "its lock"),
    ("controller.log", "what the controller said"),
    ("controller.log.1", "what it said before"),
    ("images", "unpacked images"),
    ("secrets", "secrets that `init` was given"),
    ("trust.json", "agent files that were agreed to"),
];
/// The log, which may be kept.
const LOG: (&str, &str) = ("audit", "the log");
/// Names in the home that people write.
const PEOPLES: &[(&str, &str)] =
    &[("bottles", "bottles"), ("agents", "agents"), ("settings.yml", "settings"), (".env", "variables")];

/// Whether the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// With the rest.
    Remove,
    /// It stays.
    Keep,
}

/// Whether bottles, agents and settings go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They stay.
    Keep,
    /// With the rest.
    Remove,
}

/// Something that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, for people.
    pub what: &'static str,
    /// For a directory, how many entries it has at its top.
    pub entries: Option<usize>,
}

/// Everything there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// What goes, in the order in which it goes.
    pub items: Vec<Item>,
    /// What stays because that was said, or because people wrote it.
    pub kept: Vec<PathBuf>,
    /// What stays because it is not known.
    pub unknown: Vec<PathBuf>,
    /// Bottles whose last run ended without putting its workspace in order; the next run of the bottle does.
    pub interrupted: Vec<String>,
}

/// Something that could not be removed.
#[derive(Debug)]
pub struct Left {
    /// Where it is.
    pub path: PathBuf,
    /// What the system said.
    pub why: io::Error,
}

/// Looks, and changes nothing.
pub fn inventory(home: &Home, log: Log, written: Written) -> Result<Inventory, HomeError> {
    let mut found = Inventory::default();
    let names = names(home.root())?;
    for (name, what) in OURS {
        if names.iter().any(|there| there == name) {
            found.items.push(item(home.root(), name, what));
        }
    }
    let mut choose = |(name, what): &(&'static str, &'static str), goes: bool| {
        if names.iter().any(|there| there == name) {
            match goes {
                true => found.items.push(item(home.root(), name, what)),
                false => found.kept.push(home.root().join(name)),
            }
        }
    };
    choose(&LOG, log == Log::Remove);
    PEOPLES.iter().for_each(|entry| choose(entry, written == Written::Remove));
    let known = |name: &OsStr| OURS.iter().chain(PEOPLES).chain([&LOG]).any(|(known, _)| name == *known);
    found.unknown = names.iter().filter(|name| !known(name)).map(|name| home.root().join(name)).collect();
    if home.sockets() != home.run_records() {
        let (sockets, others) = sockets(home.sockets())?;
        let what = "sockets of runs";
        found.items.push(Item { path: home.sockets().to_owned(), what, entries: Some(sockets.len()) });
        found.unknown.extend(others);
    }
    found.interrupted = interrupted(home);
    Ok(found)
}

/// Removes what the inventory lists; what could not be removed. The home itself goes when nothing is left in it.
pub fn remove(home: &Home, inventory: &Inventory) -> Vec<Left> {
    let mut left = Vec::new();
    let root = match open_directory(home.root()) {
        Ok(root) => root,
        Err(why) => return vec![Left { path: home.root().to_owned(), why }],
    };
    for item in &inventory.items {
        let removed = match item.path.file_name() {
            Some(name) if item.path.parent() == Some(home.root()) => tree::remove(&root, name),
            Some(_) if item.path == home.sockets() => remove_sockets(home.sockets()),
            Some(_) | None => Err(io::ErrorKind::InvalidInput.into()),
        };
        // The database takes its own parts away when it is closed.
        if let Err(why) = removed
            && why.kind() != io::ErrorKind::NotFound
        {
            left.push(Left { path: item.path.clone(), why });
        }
    }
    drop(root);
    // It fails when something is in it, which is what is wanted.
    let _ = fs::remove_dir(home.root());
    left
}

fn item(root: &Path, name: &str, what: &'static str) -> Item {
    let path = root.join(name);
    let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
    let entries = is_dir.then(|| fs::read_dir(&path).map_or(0, |entries| entries.take(LISTED_MAX).count()));
    Item { path, what, entries }
}

fn names(dir: &Path) -> Result<Vec<OsString>, HomeError> {
    let io = |source| HomeError::Io { path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(io)?.take(LISTED_MAX);
    let mut names = entries.map(|entry| entry.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>().map_err(io)?;
    names.sort();
    Ok(names)
}

/// The sockets in the directory of sockets, and what else is there.
fn sockets(dir: &Path) -> Result<(Vec<OsString>, Vec<PathBuf>), HomeError> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = |name: &OsString| {
        let meta = fs::symlink_metadata(dir.join(name));
        name.as_bytes().ends_with(b".sock") && meta.is_ok_and(|meta| meta.file_type().is_socket())
    };
    let (ours, others): (Vec<_>, Vec<_>) = names(dir)?.into_iter().partition(is_socket);
    Ok((ours, others.into_iter().map(|name| dir.join(name)).collect()))
}

fn remove_sockets(dir: &Path) -> io::Result<()> {
    let (ours, others) = sockets(dir).map_err(io::Error::other)?;
    let dir_fd = open_directory(dir)?;
    for name in ours {
        unlinkat(&dir_fd, &name, AtFlags::empty())?;
    }
    if others.is_empty() { fs::remove_dir(dir) } else { Ok(()) }
}

/// By the journals that the bottle's own end would have removed. One that is locked belongs to a run that lives.
fn interrupted(home: &Home) -> Vec<String> {
    let journal = |path: PathBuf| path.extension().is_some_and(|extension| extension == "journal");
    let holds = |bottle: &OsString| {
        let entries = fs::read_dir(home.states().join(bottle)).into_iter().flatten().take(LISTED_MAX);
        entries.flatten().any(|entry| journal(entry.path()) && !is_locked(&entry.path()))
    };
    let bottles = names(&home.states()).unwrap_or_default();
    bottles.into_iter().filter(holds).map(|bottle| bottle.to_string_lossy().into_owned()).collect()
}

fn is_locked(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

/// Through no link at the last step: a home that is one belongs to whoever set it.
fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::empty())?)
}

#[cfg(test)]
mod tests;
