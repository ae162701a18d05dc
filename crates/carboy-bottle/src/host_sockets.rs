//! Unix sockets of host processes in what a bottle is shown: a program inside could connect to them, whatever its
//! network namespace, its mounts' flags and its Landlock rules say, and be handed descriptors over them (B44, B47).
//!
//! Found by looking at the first [`ENTRIES_MAX`] entries below a bind, breadth first, and by asking the kernel which
//! sockets are bound to paths below it, however deep. The kernel tells the path as it was given, and tells nothing of
//! other network namespaces: the walk is there for both.
//!
//! *Must never* follow a symbolic link below the bind's root. Does not see what is made after it looked.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};

/// Entries of directories that are looked at below one bind: some milliseconds.
pub const ENTRIES_MAX: usize = 20_000;
/// Most sockets that one bind may hold.
pub const SOCKETS_MAX: usize = 128;
/// The kernel's list of this network namespace; the path stands in the eighth column.
const LIST: &str = "/proc/net/unix";
const COLUMNS_BEFORE_PATH: usize = 7;

/// Paths relative to the directory `root`, whose real path on the host is `path`.
pub fn below(root: &OwnedFd, path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = walk(root)?;
    let list = std::fs::read(LIST).unwrap_or_default();
    let bound = bound_paths(&String::from_utf8_lossy(&list));
    found.extend(bound.iter().filter_map(|socket| {
        let (parent, name) = (socket.parent()?, socket.file_name()?);
        let real = std::fs::canonicalize(parent).ok()?.join(name);
        Some(real.strip_prefix(path).ok()?.to_owned())
    }));
    if found.len() > SOCKETS_MAX {
        return Err(io::Error::other(format!("it holds more than {SOCKETS_MAX} sockets: a bottle cannot be shown it")));
    }
    Ok(found.into_iter().collect())
}

fn walk(root: &OwnedFd) -> io::Result<BTreeSet<PathBuf>> {
    let (mut found, mut looked_at) = (BTreeSet::new(), 0);
    let mut waiting = VecDeque::from([PathBuf::from(".")]);
    while let Some(below) = waiting.pop_front() {
        // Gone meanwhile, or closed to whoever runs the bottle: then to the bottle as well.
        let Ok(directory) = open_directory(root, &below) else { continue };
        for entry in Dir::read_from(&directory)?.flatten() {
            looked_at += 1;
            if looked_at > ENTRIES_MAX {
                return Ok(found);
            }
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            match kind(&directory, name, entry.file_type()) {
                Some(FileType::Socket) => {
                    found.insert(below.strip_prefix(".").unwrap_or(&below).join(name));
                }
                Some(FileType::Directory) => waiting.push_back(below.join(name)),
                Some(_) | None => {}
            }
        }
    }
    Ok(found)
}

/// Some file systems leave the kind out of their directories.
fn kind(directory: &OwnedFd, name: &str, told: FileType) -> Option<FileType> {
    if told != FileType::Unknown {
        return Some(told);
    }
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

fn open_directory(root: &OwnedFd, below: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, below, flags, Mode::empty(), resolve)
}

/// Absolute paths of the kernel's list; abstract names and relative paths are left out.
fn bound_paths(list: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let mut rest = line;
        for _ in 0..COLUMNS_BEFORE_PATH {
            rest = rest.trim_start().split_once(' ')?.1;
        }
        let path = rest.trim_start();
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    list.lines().skip(1).filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    // B44
    #[test]
    fn sockets_are_found_in_depth_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::create_dir(path.join("c")).unwrap();
        std::os::unix::fs::symlink(path.join("a"), path.join("c/link")).unwrap();
        let _one = UnixListener::bind(path.join("one.sock")).unwrap();
        let _two = UnixListener::bind(path.join("a/b/two.sock")).unwrap();
        std::fs::write(path.join("a/file"), "").unwrap();
        assert_eq!(below(&open(&path), &path).unwrap(), [Path::new("a/b/two.sock"), Path::new("one.sock")]);
        assert_eq!(below(&open(&path.join("c")), &path.join("c")).unwrap(), Vec::<PathBuf>::new());
    }

    // B44
    #[test]
    fn the_kernels_list_gives_paths_with_blanks_and_no_abstract_names() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    0000000000000000: 00000002 00000000 00010000 0001 01 12345 /tmp/a b.sock\n\
                    0000000000000000: 00000003 00000000 00000000 0001 03 12346\n\
                    0000000000000000: 00000002 00000000 00010000 0001 01   678 @abstract\n\
                    0000000000000000: 00000002 00000000 00010000 0001 01 12347 relative.sock\n";
        assert_eq!(bound_paths(list), BTreeSet::from([PathBuf::from("/tmp/a b.sock")]));
    }
}
