//! What a layer changes of the workspace that it lies over.
//!
//! ```text
//! layer (written by the bottle)     workspace                 change
//!   whiteout                          something                 deleted, with all that is below
//!   directory, opaque                 a directory               what it does not hold is deleted
//!   file, link, directory             nothing / other / same    added / modified / none
//! ```
//!
//! *Must never* write, and never read more of a file than it takes to tell whether it is the same.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};

use super::tree::{Kind, PATH_BYTES_MAX, Rel, Root, Stamp};

/// Most changes that are told apart; a layer with more is applied in parts, by naming paths.
pub const CHANGES_MAX: usize = 500_000;
/// Largest file that is compared and applied.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// What happens to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It was not there.
    Added,
    /// Another content, or another kind of thing.
    Modified,
    /// Other permissions, the same content.
    Mode,
    /// It is gone.
    Deleted,
    /// It cannot be brought over; the note says why.
    Unusable,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: Rel,
    /// What.
    pub what: What,
    /// What stands in the workspace.
    pub host: Option<Stamp>,
    /// What stands in the layer; `None` for what an opaque directory hides.
    pub layer: Option<Stamp>,
    /// Why it cannot be used.
    pub note: Option<&'static str>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Changes {
    /// Deletions from the deepest up, then everything else from the top down.
    pub list: Vec<Change>,
    /// There are more than [`CHANGES_MAX`].
    pub truncated: bool,
}

/// What has been applied already: the version of the layer's entry that was.
pub type Applied = HashMap<Rel, (u64, (i64, u32))>;

/// Compares.
pub fn changes(upper: &Root, host: &Root, applied: &Applied) -> Changes {
    let mut walk =
        Walk { upper, host, applied, deleted: Vec::new(), other: Vec::new(), done: BTreeSet::new(), truncated: false };
    let mut waiting = vec![(Rel::root(), Below::Seen)];
    while let Some((directory, below)) = waiting.pop() {
        walk.directory(&directory, below, &mut waiting);
        if walk.truncated {
            break;
        }
    }
    // A directory is deleted after what is in it, and made before.
    walk.deleted.sort_by(|a, b| b.path.cmp(&a.path));
    walk.other.sort_by(|a, b| a.path.cmp(&b.path));
    let mut list = walk.deleted;
    list.append(&mut walk.other);
    Changes { list, truncated: walk.truncated }
}

/// What a directory of the layer lies over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    /// No directory.
    Nothing,
    /// A directory that is seen through it.
    Seen,
    /// A directory that is not: this one or one above it is opaque.
    Hidden,
}

struct Walk<'a> {
    upper: &'a Root,
    host: &'a Root,
    applied: &'a Applied,
    deleted: Vec<Change>,
    other: Vec<Change>,
    done: BTreeSet<Rel>,
    truncated: bool,
}

impl Walk<'_> {
    fn push(&mut self, change: Change) {
        if self.deleted.len() + self.other.len() >= CHANGES_MAX {
            self.truncated = true;
        } else if change.what == What::Deleted {
            self.deleted.push(change);
        } else {
            self.other.push(change);
        }
    }

    fn unusable(&mut self, path: Rel, layer: Option<Stamp>, note: &'static str) {
        self.push(Change { path, what: What::Unusable, host: None, layer, note: Some(note) });
    }

    fn is_applied(&self, path: &Rel, layer: &Stamp) -> bool {
        self.applied.get(path) == Some(&(layer.inode, layer.ctime))
    }

    fn directory(&mut self, directory: &Rel, mut below: Below, waiting: &mut Vec<(Rel, Below)>) {
        let (Ok(names), Ok(opaque)) = (self.upper.list(directory), self.upper.is_opaque(directory)) else {
            return self.unusable(directory.clone(), None, "a directory of the layer that cannot be read");
        };
        if opaque && below == Below::Seen && !directory.is_root() {
            below = Below::Hidden;
        }
        if below == Below::Hidden {
            self.hidden(directory, &names);
        }
        for (name, layer) in names {
            let path = directory.join(&name);
            if path.bytes().len() > PATH_BYTES_MAX {
                self.unusable(directory.clone(), None, "it holds paths longer than 4095 bytes");
                return;
            }
            let host = if below == Below::Nothing { Ok(None) } else { self.host.stamp(&path) };
            match host {
                Ok(host) => self.entry(path, layer, (host, below), waiting),
                Err(_) => self.unusable(path, Some(layer), "its place in the workspace cannot be read"),
            }
        }
    }

    /// What a directory that hides does not show any more.
    fn hidden(&mut self, directory: &Rel, names: &[(Vec<u8>, Stamp)]) {
        let whole = matches!(self.upper.stamp(directory), Ok(Some(layer)) if self.is_applied(directory, &layer));
        if whole {
            return;
        }
        let Ok(below) = self.host.list(directory) else {
            return self.unusable(directory.clone(), None, "its place in the workspace cannot be read");
        };
        for (name, stamp) in below {
            if names.binary_search_by(|(other, _)| other.cmp(&name)).is_err() {
                self.delete(directory.join(&name), stamp, None);
            }
        }
    }

    /// A deletion, with everything below it on the host.
    fn delete(&mut self, path: Rel, host: Stamp, layer: Option<Stamp>) {
        let mut waiting = vec![(path, host, layer)];
        while let Some((path, host, layer)) = waiting.pop() {
            if !self.done.insert(path.clone()) {
                continue;
            }
            if host.kind == Kind::Directory {
                match self.host.list(&path) {
                    Ok(names) => waiting.extend(names.into_iter().map(|(name, stamp)| (path.join(&name), stamp, None))),
                    Err(_) => self.unusable(path.clone(), layer, "deleted, but it cannot be read in the workspace"),
                }
            }
            self.push(Change { path, what: What::Deleted, host: Some(host), layer, note: None });
            if self.truncated {
                return;
            }
        }
    }

    fn entry(
        &mut self,
        path: Rel,
        layer: Stamp,
        (host, below): (Option<Stamp>, Below),
        waiting: &mut Vec<(Rel, Below)>,
    ) {
        let applied = self.is_applied(&path, &layer);
        let what = match (layer.kind, &host) {
            (Kind::Whiteout, None) => return,
            (Kind::Whiteout, Some(stamp)) => {
                if !applied {
                    self.delete(path, *stamp, Some(layer));
                }
                return;
            }
            (Kind::Special, _) => return self.unusable(path, Some(layer), "a device, a pipe or a socket"),
            (Kind::Directory, Some(stamp)) if stamp.kind == Kind::Directory => {
                waiting.push((path.clone(), below));
                if stamp.permissions() == layer.permissions() {
                    return;
                }
                What::Mode
            }
            (Kind::Directory, other) => {
                waiting.push((path.clone(), Below::Nothing));
                if let Some(stamp) = other.filter(|_| !applied) {
                    self.delete(path.clone(), stamp, None);
                }
                What::Added
            }
            (Kind::File | Kind::Link, None) => What::Added,
            (Kind::File | Kind::Link, Some(stamp)) if stamp.kind == Kind::Directory => {
                if !applied {
                    self.delete(path.clone(), *stamp, None);
                }
                What::Added
            }
            (Kind::File | Kind::Link, Some(stamp)) => match self.compare(&path, &layer, stamp) {
                Some(what) => what,
                None => return,
            },
        };
        if applied {
            return;
        }
        if layer.kind == Kind::File && what != What::Mode && layer.size > FILE_BYTES_MAX {
            return self.unusable(path, Some(layer), "larger than 4 GiB");
        }
        if layer.kind == Kind::File && what != What::Mode && self.upper.file(&path).is_err() {
            return self.unusable(path, Some(layer), "a file of the layer that cannot be read");
        }
        let host = host.filter(|stamp| (stamp.kind == Kind::Directory) == (layer.kind == Kind::Directory));
        self.push(Change { path, what, host, layer: Some(layer), note: None });
    }

    /// Two things that are no directories; `None` when they are the same.
    fn compare(&self, path: &Rel, layer: &Stamp, host: &Stamp) -> Option<What> {
        let same = match (layer.kind, host.kind) {
            (Kind::File, Kind::File) if layer.size == host.size && layer.size <= FILE_BYTES_MAX => {
                match (self.upper.file(path), self.host.file(path)) {
                    (Ok(one), Ok(other)) => same_content(one, other).unwrap_or(false),
                    _ => false,
                }
            }
            (Kind::Link, Kind::Link) => {
                matches!((self.upper.link(path), self.host.link(path)), (Ok(a), Ok(b)) if a == b)
            }
            _ => false,
        };
        if !same {
            return Some(What::Modified);
        }
        (layer.kind == Kind::File && layer.permissions() != host.permissions()).then_some(What::Mode)
    }
}

fn same_content(mut one: File, mut other: File) -> io::Result<bool> {
    let (mut a, mut b) = (vec![0_u8; 256 * 1024], vec![0_u8; 256 * 1024]);
    let mut left = FILE_BYTES_MAX;
    loop {
        let length = one.read(&mut a)?;
        if length == 0 {
            return Ok(other.read(&mut b[..1])? == 0);
        }
        let Some(rest) = left.checked_sub(length as u64) else { return Ok(false) };
        left = rest;
        match other.read_exact(&mut b[..length]) {
            Ok(()) if a[..length] == b[..length] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
