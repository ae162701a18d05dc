//! Files below a directory that a bottle may write to: always by descriptor, never through a link that was set meanwhile.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags, flock, openat2, unlinkat};
use rustix::io::Errno;

use super::Cleaned;

const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

pub(crate) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

pub(crate) fn open_below(root: &OwnedFd, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open_with(root, below, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

pub(crate) fn open_with(root: &OwnedFd, below: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    Ok(openat2(root, below, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

pub(crate) fn open_directory(root: &OwnedFd, below: &Path) -> io::Result<OwnedFd> {
    if below.as_os_str().is_empty() {
        return root.try_clone();
    }
    open_below(root, below, OFlags::PATH | OFlags::DIRECTORY)
}

/// Is the directory above a directory, reached through no link?
pub(super) fn holds_directory(root: &OwnedFd, below: &Path) -> bool {
    split(below).and_then(|(parent, _)| open_directory(root, parent)).is_ok()
}

pub(crate) fn split(below: &Path) -> io::Result<(&Path, &Path)> {
    match (below.parent(), below.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, Path::new(name))),
        _ => Err(Errno::INVAL.into()),
    }
}

pub(super) fn remove_stub(root: &Path, below: &Path, directory: bool, cleaned: &mut Cleaned) -> io::Result<()> {
    let root = match open_root(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    match open_below(&root, below, OFlags::RDONLY | OFlags::NONBLOCK) {
        // Another bottle still mounts on it, and removes it at its own end.
        Ok(stub) if flock(&stub, FlockOperation::NonBlockingLockExclusive).is_err() => return Ok(()),
        Ok(_) | Err(_) => {}
    }
    let (parent, name) = split(below)?;
    let parent = open_directory(&root, parent)?;
    let flags = if directory {
        AtFlags::REMOVEDIR
    } else {
        // Somebody on the host may have written the file meanwhile: then it is theirs.
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let empty = stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile && s.st_size == 0);
        if !empty {
            return Ok(());
        }
        AtFlags::empty()
    };
    match unlinkat(&parent, name, flags) {
        Ok(()) => {
            cleaned.stubs_removed += 1;
            Ok(())
        }
        Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn read_config(root: &OwnedFd, below: &Path) -> io::Result<Option<String>> {
    let file = match open_below(root, below, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => File::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > CONFIG_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a git configuration of at most 1 MiB"));
    }
    let mut bytes = Vec::new();
    file.take(CONFIG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// In place, so that owner and mode stay.
pub(crate) fn write_config(root: &OwnedFd, below: &Path, content: &str) -> io::Result<()> {
    let file = match open_below(root, below, OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (parent, name) = split(below)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(open_directory(root, parent)?.as_fd(), name, flags, Mode::from_raw_mode(0o644))?
        }
        other => other?,
    };
    let mut file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(Errno::INVAL.into());
    }
    file.write_all(content.as_bytes())?;
    file.sync_data()
}
