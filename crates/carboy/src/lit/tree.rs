//! A directory and the files below it, as `carboy lit` reads and writes them.
//!
//! *Must never* follow a link on the way to a file, or leave half a file behind: a document comes from a repository that
//! somebody else may have written, and its paths are opened one part after the other.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use carboy_weave::limits::SOURCE_BYTES_MAX;
use carboy_weave::{Sources, TreePath};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fchmod, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::report::{Exit, Failure, printable};

/// What a file is called until it is whole.
const UNFINISHED: &str = ".lit-unfinished";

/// A directory.
pub struct Tree {
    top: PathBuf,
}

impl Tree {
    /// A directory that a person named, or one found from there: links on the way to it are theirs.
    pub fn at(top: &Path) -> Tree {
        let plain = if top.as_os_str().is_empty() { Path::new(".") } else { top };
        Tree { top: plain.to_owned() }
    }

    /// The nearest directory above (or this one) with a `.git`; this one where there is none.
    pub fn repository(&self) -> Tree {
        let absolute = std::fs::canonicalize(&self.top).unwrap_or_else(|_| self.top.clone());
        let found = absolute.ancestors().find(|dir| dir.join(".git").exists());
        Tree::at(found.unwrap_or(&absolute))
    }

    /// The directory.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// The file's bytes; `None` where there is none.
    pub fn bytes(&self, path: &TreePath) -> Result<Option<Vec<u8>>, Failure> {
        let (parents, name) = split(path);
        let opened = self.directory(&parents, Missing::Leave).and_then(|dir| {
            openat(&dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        });
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failed("read", path, error.into())),
        };
        let told = |error| self.failed("read", path, error);
        if !file.metadata().map_err(told)?.is_file() {
            return Err(self.failed("read", path, io::Error::other("it is no ordinary file")));
        }
        let mut bytes = Vec::new();
        file.take(SOURCE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(told)?;
        if bytes.len() > SOURCE_BYTES_MAX {
            return Err(self.failed("read", path, io::Error::other(format!("more than {SOURCE_BYTES_MAX} bytes"))));
        }
        Ok(Some(bytes))
    }

    /// Writes a file as a whole; its mode stays what it was.
    pub fn write(&self, path: &TreePath, bytes: &[u8]) -> Result<(), Failure> {
        self.replace(path, bytes).map_err(|error| self.failed("write", path, error))
    }

    fn replace(&self, path: &TreePath, bytes: &[u8]) -> io::Result<()> {
        let (parents, name) = split(path);
        let dir = self.directory(&parents, Missing::Make)?;
        let mode = match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => match FileType::from_raw_mode(found.st_mode) {
                FileType::RegularFile => Some(Mode::from_raw_mode(found.st_mode)),
                FileType::Symlink => return Err(io::Error::other("it is a link; remove it first")),
                FileType::Directory | FileType::Fifo | FileType::Socket => {
                    return Err(io::Error::other("it is no ordinary file"));
                }
                FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
                    return Err(io::Error::other("it is no ordinary file"));
                }
            },
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        // Of this process: two that run at once do not meet.
        let unfinished = format!("{UNFINISHED}-{}", std::process::id());
        // What an earlier one left when the machine stopped.
        match unlinkat(&dir, &unfinished, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&dir, &unfinished, flags, Mode::from_raw_mode(0o666))?);
        let written = file.write_all(bytes).and_then(|()| match mode {
            Some(mode) => fchmod(&file, mode).map_err(io::Error::from),
            None => Ok(()),
        });
        let renamed = written.and_then(|()| renameat(&dir, &unfinished, &dir, name).map_err(io::Error::from));
        if renamed.is_err() {
            // The error that is told is the first one.
            let _ = unlinkat(&dir, &unfinished, AtFlags::empty());
        }
        renamed
    }

    fn directory(&self, parents: &[&str], missing: Missing) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = openat(CWD, &self.top, flags, Mode::empty())?;
        for part in parents {
            if missing == Missing::Make {
                match mkdirat(&dir, *part, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
            }
            dir = openat(&dir, *part, flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(dir)
    }

    fn failed(&self, what: &str, path: &TreePath, error: io::Error) -> Failure {
        let link = matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::LOOP | Errno::NOTDIR));
        let shown = printable(&self.top.join(path.as_str()).display().to_string());
        let failure = Failure::words(Exit::Failed, format!("cannot {what} {shown}: {error}"));
        if link {
            failure.hint("a link or a file stands where a directory should be; links are not followed")
        } else {
            failure
        }
    }
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}

fn split(path: &TreePath) -> (Vec<&str>, &str) {
    let mut parts: Vec<&str> = path.parts().collect();
    let name = parts.pop().unwrap_or("");
    (parts, name)
}

/// Files read beforehand, so that a file which cannot be read is told and not taken for one that is missing.
pub fn read_all<'p>(
    tree: &Tree,
    paths: impl IntoIterator<Item = &'p TreePath>,
) -> Result<std::collections::BTreeMap<TreePath, Vec<u8>>, Failure> {
    let mut found = std::collections::BTreeMap::new();
    for path in paths {
        if let Some(bytes) = tree.bytes(path)? {
            found.insert(path.clone(), bytes);
        }
    }
    Ok(found)
}

/// The library: what cannot be read is not there, and the page or the check says so.
impl Sources for Tree {
    fn read(&self, path: &TreePath) -> Option<Vec<u8>> {
        self.bytes(path).ok().flatten()
    }
}
