//! Removing and measuring what a bottle left behind: as deep as it likes, with modes that forbid looking, full of links.
//!
//! *Must never* follow a link, or need as many descriptors as the tree is deep: each directory is moved up to one place
//! before it is emptied, so that three descriptors do for any depth.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::tree::{Rel, Root, c_name};

/// Most entries that are removed or measured in one call.
pub const ENTRIES_MAX: u64 = 20_000_000;

/// Removes whatever stands at a name of an open directory; nothing there is fine.
pub fn remove(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let name = c_name(name)?;
    let kind = match statat(parent, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => FileType::from_raw_mode(other?.st_mode),
    };
    if kind != FileType::Directory {
        return Ok(unlinkat(parent, name.as_c_str(), AtFlags::empty())?);
    }
    let heap_name = c_name(format!(".carboy-removed-{}", std::process::id()).as_bytes())?;
    match mkdirat(parent, heap_name.as_c_str(), Mode::RWXU) {
        // Left by a process that had this number and was killed.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let heap = openat(parent, heap_name.as_c_str(), flags, Mode::empty())?;
    open_up(parent, name.to_bytes())?;
    let mut heaped = Heap { fd: heap, next: 0, seen: 0 };
    heaped.take(parent, name.to_bytes())?;
    heaped.empty()?;
    Ok(unlinkat(parent, heap_name.as_c_str(), AtFlags::REMOVEDIR)?)
}

/// Directories that wait to be emptied, side by side.
struct Heap {
    fd: OwnedFd,
    next: u64,
    seen: u64,
}

impl Heap {
    fn take(&mut self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        loop {
            let place = c_name(format!("{}", self.next).as_bytes())?;
            self.next += 1;
            match rustix::fs::renameat_with(
                parent,
                c_name(name)?.as_c_str(),
                &self.fd,
                place.as_c_str(),
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                Err(Errno::EXIST) => {}
                Err(Errno::INVAL) => {
                    // A file system without that flag.
                    return Ok(renameat(parent, c_name(name)?.as_c_str(), &self.fd, place.as_c_str())?);
                }
                other => return Ok(other?),
            }
        }
    }

    fn empty(&mut self) -> io::Result<()> {
        loop {
            let names: Vec<Vec<u8>> = Dir::read_from(&self.fd)?
                .filter_map(Result::ok)
                .map(|entry| entry.file_name().to_bytes().to_vec())
                .filter(|name| !matches!(&name[..], b"." | b".."))
                .take(10_000)
                .collect();
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                self.one(&name)?;
            }
        }
    }

    /// One thing of the heap: its directories join the heap, everything else in it goes.
    fn one(&mut self, name: &[u8]) -> io::Result<()> {
        let stat = statat(&self.fd, c_name(name)?.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(unlinkat(&self.fd, c_name(name)?.as_c_str(), AtFlags::empty())?);
        }
        open_up(&self.fd, name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&self.fd, c_name(name)?.as_c_str(), flags, Mode::empty())?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let child = entry.file_name();
            if matches!(child.to_bytes(), b"." | b"..") {
                continue;
            }
            self.seen += 1;
            if self.seen > ENTRIES_MAX {
                return Err(io::Error::other(format!("more than {ENTRIES_MAX} entries: ask once more to go on")));
            }
            let kind = FileType::from_raw_mode(statat(&directory, child, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
            if kind == FileType::Directory {
                open_up(&directory, child.to_bytes())?;
                self.take(&directory, child.to_bytes())?;
            } else {
                unlinkat(&directory, child, AtFlags::empty())?;
            }
        }
        Ok(unlinkat(&self.fd, c_name(name)?.as_c_str(), AtFlags::REMOVEDIR)?)
    }
}

/// Makes a directory ours to read, write and enter. One with those bits is left alone.
fn open_up(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = openat(parent, c_name(name)?.as_c_str(), flags, Mode::empty())?;
    if rustix::fs::fstat(&place)?.st_mode & 0o700 == 0o700 {
        return Ok(());
    }
    set_mode(&place, 0o700)
}

/// Sets the permissions of what a descriptor stands for, whatever it was opened for.
pub fn set_mode(place: &OwnedFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", place.as_raw_fd()), Mode::from_raw_mode(mode))?)
}

/// Sets the permissions of a directory; the bit by which a group shares it stays as it is.
pub fn set_directory_mode(place: &OwnedFd, permissions: u32) -> io::Result<()> {
    let shared = rustix::fs::fstat(place)?.st_mode & 0o3000;
    set_mode(place, shared | permissions & 0o777)
}

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Size {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Parts could not be read, or are deeper than a path is long: there is more.
    pub incomplete: bool,
}

/// Measures a tree.
pub fn size(root: &Root) -> Size {
    let mut size = Size::default();
    let mut waiting = vec![Rel::root()];
    while let Some(rel) = waiting.pop() {
        let Ok((fd, listing)) = root.directory(&rel).and_then(|fd| Ok((fd.try_clone()?, Dir::read_from(&fd)?))) else {
            size.incomplete = true;
            continue;
        };
        for entry in listing.map_while(Result::ok) {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            size.entries += 1;
            size.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                waiting.push(rel.join(name.to_bytes()));
            }
        }
        if size.entries > ENTRIES_MAX {
            size.incomplete = true;
            break;
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tree_deeper_than_a_path_with_closed_directories_goes_and_what_its_links_point_to_stays() {
        // B51
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        std::fs::write(path.join("kept"), "x").unwrap();
        std::fs::create_dir(path.join("kept-dir")).unwrap();
        std::fs::write(path.join("kept-dir/f"), "x").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let top = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let mut at = top.try_clone().unwrap();
        let name = "d".repeat(200);
        for n in 0..60 {
            let name = if n == 0 { "bad" } else { name.as_str() };
            mkdirat(&at, name, Mode::RWXU).unwrap();
            let next = openat(&at, name, flags, Mode::empty()).unwrap();
            rustix::fs::symlinkat(path.join("kept-dir"), &next, "link").unwrap();
            rustix::fs::symlinkat("../kept", &next, "other").unwrap();
            at = next;
        }
        mkdirat(&at, "closed", Mode::empty()).unwrap();
        std::fs::set_permissions(path.join("bad"), std::fs::Permissions::from_mode(0o000)).unwrap();
        let parent = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        remove(&parent, b"bad").unwrap();
        remove(&parent, b"bad").unwrap();
        let mut left: Vec<_> = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["kept", "kept-dir"]);
        assert!(path.join("kept-dir/f").exists());
    }
}
