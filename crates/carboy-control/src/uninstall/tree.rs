//! Removing a tree that programs in bottles have made: links, directories that nobody may read, names of any bytes, any
//! depth.
//!
//! ```text
//! top/a/b/c/…   b is moved up beside a, then a is empty and goes; then c is moved up, …
//! ```
//!
//! No recursion, so that no depth is too deep. *Must never* go through a link or into what is mounted in the tree: both
//! lead to what is not ours.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags, chmod, fstat, openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;

/// Names of one directory that are held at a time.
const NAMES_MAX: usize = 4096;

/// Removes what has this name in the directory, whatever it is; done if nothing has.
pub fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // What unlink(2) says for a directory: EISDIR here, EPERM by POSIX.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open(parent.as_fd(), name)?;
    let mut lifted = 0;
    loop {
        let children = names(&top)?;
        if children.is_empty() {
            break;
        }
        for child in &children {
            if !unlinked(top.as_fd(), child)? {
                empty_into(&top, child, &mut lifted)?;
                unlinkat(&top, child.as_c_str(), AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Empties a child of `top`: its files go, its directories are moved up into `top` under new names.
fn empty_into(top: &OwnedFd, child: &CString, lifted: &mut u64) -> io::Result<()> {
    let child = open(top.as_fd(), child.as_c_str())?;
    loop {
        let names = names(&child)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            if !unlinked(child.as_fd(), name)? {
                // Moving a directory writes its `..`, which its own mode may forbid.
                drop(open(child.as_fd(), name.as_c_str())?);
                lift(top, &child, name, lifted)?;
            }
        }
    }
}

fn lift(top: &OwnedFd, from: &OwnedFd, name: &CString, lifted: &mut u64) -> io::Result<()> {
    loop {
        *lifted += 1;
        let free = format!("removing-{lifted}");
        match renameat_with(from, name.as_c_str(), top, free.as_str(), RenameFlags::NOREPLACE) {
            // The program in the bottle may have thought of the same name.
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
}

/// Removes a name that is no directory, or an empty directory; `false` for one that has something in it.
fn unlinked(directory: BorrowedFd<'_>, name: &CString) -> io::Result<bool> {
    match unlinkat(directory, name.as_c_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(directory, name.as_c_str(), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory for reading, and makes it ours to change. Neither a link nor a mount point is opened.
fn open(parent: BorrowedFd<'_>, name: impl Arg) -> io::Result<OwnedFd> {
    let alone = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat2(parent, name, flags | OFlags::PATH, Mode::empty(), alone)?;
    if fstat(&handle)?.st_mode & 0o700 != 0o700 {
        // By descriptor: a name could be a link by now, and chmod(2) follows links.
        chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)?;
    }
    Ok(openat2(&handle, ".", flags | OFlags::RDONLY, Mode::empty(), alone)?)
}

/// The next names in a directory, without `.` and `..`; none when it is empty.
fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
        if names.len() == NAMES_MAX {
            break;
        }
    }
    Ok(names)
}
