//! The start index: what a workspace held when a run began, by name, kind, size, times, inode and mode.
//!
//! In direct mode it is what `bottle diff` compares with; with an overlay it tells what somebody changed on the host
//! since. No content is read: a tree of 50 000 files takes a tenth of a second.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use super::tree::{Kind, PATH_BYTES_MAX, Rel, Root, Stamp, list};
use crate::home::{Reaches, draft_of};

/// Most entries of an index. What is beyond is not in it, and counts as changed where that matters.
pub const ENTRIES_MAX: usize = 400_000;
/// Longest time that an index may take.
pub const INDEX_WAIT_MAX: Duration = Duration::from_secs(10);
/// Largest index that is read back.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;
const MAGIC: &[u8; 8] = b"carboy1\n";

/// What stood where.
#[derive(Debug, Default)]
pub struct Index {
    entries: HashMap<Rel, Stamp>,
    incomplete: bool,
}

/// What an index says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// This stood there.
    Stood(Stamp),
    /// Nothing stood there.
    Nothing,
    /// The index does not reach so far.
    Unknown,
}

impl Index {
    /// Looks at everything below the root. Directories that this user cannot read have no entries.
    pub fn take(root: &Root) -> Index {
        let deadline = Instant::now() + INDEX_WAIT_MAX;
        let mut index = Index::default();
        let mut waiting = vec![Rel::root()];
        while let Some(directory) = waiting.pop() {
            let Ok(found) = root.directory(&directory).and_then(|fd| list(&fd)) else {
                index.incomplete |= directory.is_root();
                continue;
            };
            if index.entries.len() + found.len() > ENTRIES_MAX || Instant::now() > deadline {
                index.incomplete = true;
                return index;
            }
            for (name, stamp) in found {
                let rel = directory.join(&name);
                if rel.bytes().len() > PATH_BYTES_MAX {
                    index.incomplete = true;
                    continue;
                }
                if stamp.kind == Kind::Directory {
                    waiting.push(rel.clone());
                }
                index.entries.insert(rel, stamp);
            }
        }
        index
    }

    /// What stood there.
    pub fn known(&self, rel: &Rel) -> Known {
        match self.entries.get(rel) {
            Some(stamp) => Known::Stood(*stamp),
            None if self.incomplete => Known::Unknown,
            None => Known::Nothing,
        }
    }

    /// Was it cut short by [`ENTRIES_MAX`] or [`INDEX_WAIT_MAX`]?
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = (&Rel, &Stamp)> {
        self.entries.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is nothing in it?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets or removes one entry.
    pub fn set(&mut self, rel: &Rel, known: Known) {
        match known {
            Known::Stood(stamp) => drop(self.entries.insert(rel.clone(), stamp)),
            Known::Nothing | Known::Unknown => drop(self.entries.remove(rel)),
        }
    }

    /// Writes it, in one step.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(16 + self.entries.len() * 96);
        bytes.extend(MAGIC);
        bytes.push(u8::from(self.incomplete));
        for (rel, stamp) in &self.entries {
            bytes.extend((rel.bytes().len() as u32).to_le_bytes());
            bytes.extend(rel.bytes());
            let kind = match stamp.kind {
                Kind::File => 0_u8,
                Kind::Directory => 1,
                Kind::Link => 2,
                Kind::Whiteout => 3,
                Kind::Special => 4,
            };
            bytes.push(kind);
            bytes.extend(stamp.mode.to_le_bytes());
            bytes.extend(stamp.size.to_le_bytes());
            for (seconds, nanoseconds) in [stamp.mtime, stamp.ctime] {
                bytes.extend(seconds.to_le_bytes());
                bytes.extend(nanoseconds.to_le_bytes());
            }
            bytes.extend(stamp.inode.to_le_bytes());
            bytes.extend(stamp.owner.0.to_le_bytes());
            bytes.extend(stamp.owner.1.to_le_bytes());
        }
        // Two runs that begin at once in one directory may both write it.
        draft_of(path)?.fill(&bytes, Reaches::Kernel)?.replace(path)
    }

    /// Reads it back; `None` when there is none, or it is not whole.
    pub fn read(path: &Path) -> io::Result<Option<Index>> {
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(parse(&bytes))
    }
}

fn parse(bytes: &[u8]) -> Option<Index> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let [incomplete, after @ ..] = rest else { return None };
    rest = after;
    let mut index = Index { incomplete: *incomplete != 0, ..Index::default() };
    while !rest.is_empty() {
        let length = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        let (path, after) = rest.split_at_checked(length)?;
        rest = after;
        let rel = Rel::parse(&super::tree::os_path(path))?;
        let kind = match take::<1>(&mut rest)? {
            [0] => Kind::File,
            [1] => Kind::Directory,
            [2] => Kind::Link,
            [3] => Kind::Whiteout,
            [4] => Kind::Special,
            _ => return None,
        };
        let mode = u32::from_le_bytes(take(&mut rest)?);
        let size = u64::from_le_bytes(take(&mut rest)?);
        let mtime = (i64::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?));
        let ctime = (i64::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?));
        let inode = u64::from_le_bytes(take(&mut rest)?);
        let owner = (u32::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?));
        index.entries.insert(rel, Stamp { kind, mode, size, mtime, ctime, inode, owner });
    }
    Some(index)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_back_and_a_cut_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(path.join("w/d")).unwrap();
        std::fs::write(path.join("w/d/f\n"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", path.join("w/l")).unwrap();
        let taken = Index::take(&Root::open(&path.join("w")).unwrap());
        let file = path.join("index");
        taken.write(&file).unwrap();
        let read = Index::read(&file).unwrap().unwrap();
        assert_eq!((read.entries, read.incomplete), (taken.entries, false));
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        assert!(Index::read(&file).unwrap().is_none());
        assert!(Index::read(&path.join("absent")).unwrap().is_none());
    }
}
