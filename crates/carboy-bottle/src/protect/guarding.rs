//! Which files of a workspace steer programs on the host, and what stands in their place while a bottle runs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, mkdirat};

use super::below::{open_below, open_directory, read_config, split};
use super::{Entry, Journal};
use crate::wire::{Guard, Protected};

/// A directory of the workspace (`""` is its root) and what in it steers.
struct Steering {
    directory: &'static str,
    children: &'static [(&'static str, Kind)],
    when_absent: Absent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    /// The directory itself becomes a stub that nothing can be made in.
    Stub,
    /// It may be made (a repository); what appears in it is looked at in the end.
    Leave,
}

const STEERING: &[Steering] = &[
    Steering {
        directory: "",
        // `.carboy` holds agent files, which choose a bottle: a program must not choose its successor's.
        children: &[
            (".mcp.json", Kind::File),
            (".devcontainer", Kind::Directory),
            (".idea", Kind::Directory),
            (".carboy", Kind::Directory),
        ],
        when_absent: Absent::Leave,
    },
    Steering { directory: ".git", children: &[("hooks", Kind::Directory)], when_absent: Absent::Leave },
    Steering {
        directory: ".claude",
        children: &[("settings.json", Kind::File), ("settings.local.json", Kind::File)],
        when_absent: Absent::Stub,
    },
    Steering {
        directory: ".vscode",
        children: &[
            ("tasks.json", Kind::File),
            ("settings.json", Kind::File),
            ("launch.json", Kind::File),
            ("mcp.json", Kind::File),
        ],
        when_absent: Absent::Stub,
    },
    Steering {
        directory: ".cursor",
        children: &[("mcp.json", Kind::File), ("hooks.json", Kind::File)],
        when_absent: Absent::Stub,
    },
    Steering {
        directory: ".zed",
        children: &[("tasks.json", Kind::File), ("settings.json", Kind::File)],
        when_absent: Absent::Stub,
    },
    Steering { directory: ".codex", children: &[("config.toml", Kind::File)], when_absent: Absent::Stub },
    Steering { directory: ".gemini", children: &[("settings.json", Kind::File)], when_absent: Absent::Stub },
];

/// Does a path of a workspace steer agents or editors of the host, at any depth? Git's own files are told apart elsewhere:
/// much of them is to change. Letters' case does not matter: there are file systems for which it does not.
pub fn steers(below: &Path, directory: bool) -> bool {
    let names: Vec<&[u8]> = below.components().map(|c| std::os::unix::ffi::OsStrExt::as_bytes(c.as_os_str())).collect();
    let is = |name: Option<&&[u8]>, known: &str| name.is_some_and(|name| name.eq_ignore_ascii_case(known.as_bytes()));
    let listed = STEERING.iter().filter(|steering| steering.directory != ".git");
    (0..names.len()).any(|at| {
        listed.clone().any(|steering| {
            let child = if steering.directory.is_empty() {
                at
            } else if !is(names.get(at), steering.directory) {
                return false;
            } else if at + 1 == names.len() {
                // What is no directory could lead to one that holds the same files.
                return !directory;
            } else {
                at + 1
            };
            steering.children.iter().any(|(name, _)| is(names.get(child), name))
        })
    })
}

/// Goes through one writable bind.
pub(super) struct Guarding<'a> {
    pub(super) journal: &'a Journal,
    pub(super) root: &'a OwnedFd,
    pub(super) path: &'a Path,
    pub(super) target: &'a Path,
    pub(super) found: Vec<Protected>,
}

impl Guarding<'_> {
    pub(super) fn is_git_directory(&self) -> bool {
        ["HEAD", "objects", "refs"].iter().all(|name| open_below(self.root, Path::new(name), OFlags::PATH).is_ok())
    }

    pub(super) fn workspace(&mut self) -> io::Result<()> {
        for steering in STEERING {
            let directory = Path::new(steering.directory);
            if steering.directory == ".git" {
                self.repository(directory)?;
                continue;
            }
            if !steering.directory.is_empty() {
                match self.kind(directory)? {
                    Some(FileType::Directory) if self.is_others_stub(directory) => {
                        self.child(directory, Kind::Directory)?;
                        continue;
                    }
                    Some(FileType::Directory) => self.push(directory, Guard::Pin),
                    Some(_) => {
                        self.push(directory, Guard::ReadOnly);
                        continue;
                    }
                    None if steering.when_absent == Absent::Stub => {
                        self.stub(directory, Kind::Directory)?;
                        continue;
                    }
                    None => continue,
                }
            }
            for (name, kind) in steering.children {
                self.child(&directory.join(name), *kind)?;
            }
        }
        Ok(())
    }

    /// `.git`: a directory, a file that points elsewhere (a worktree's), or absent.
    fn repository(&mut self, git: &Path) -> io::Result<()> {
        match self.kind(git)? {
            Some(FileType::Directory) => {
                self.push(git, Guard::Pin);
                self.git_directory(git)
            }
            Some(_) => {
                self.push(git, Guard::ReadOnly);
                Ok(())
            }
            None => {
                self.config(&git.join("config"))?;
                self.no_hooks(&git.join("hooks"))
            }
        }
    }

    pub(super) fn git_directory(&mut self, git: &Path) -> io::Result<()> {
        self.child(&git.join("hooks"), Kind::Directory)?;
        self.config(&git.join("config"))?;
        self.config(&git.join("config.worktree"))
    }

    fn child(&mut self, below: &Path, kind: Kind) -> io::Result<()> {
        match self.kind(below)? {
            Some(_) => {
                // Another bottle's stub would be removed at its end, and this bottle's mount with it.
                let stub = open_below(self.root, below, OFlags::RDONLY | OFlags::NONBLOCK);
                if let Ok(stub) = stub
                    && flock(&stub, FlockOperation::NonBlockingLockExclusive).is_err()
                {
                    self.note_stub(below, kind)?;
                    self.hold(stub)?;
                }
                self.push(below, Guard::ReadOnly);
                Ok(())
            }
            None => self.stub(below, kind),
        }
    }

    fn is_others_stub(&self, below: &Path) -> bool {
        open_below(self.root, below, OFlags::RDONLY | OFlags::DIRECTORY)
            .is_ok_and(|fd| flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err())
    }

    fn note_stub(&self, below: &Path, kind: Kind) -> io::Result<()> {
        let directory = kind == Kind::Directory;
        self.journal.note(Entry::Stub { root: self.path.to_owned(), below: below.to_owned(), directory })
    }

    fn hold(&self, stub: OwnedFd) -> io::Result<()> {
        flock(&stub, FlockOperation::NonBlockingLockShared)?;
        self.journal.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(stub);
        Ok(())
    }

    fn push(&mut self, below: &Path, how: Guard) {
        self.found.push(Protected { path: self.target.join(below), how });
    }

    fn stub(&mut self, below: &Path, kind: Kind) -> io::Result<()> {
        self.note_stub(below, kind)?;
        let (parent, name) = split(below)?;
        let parent = open_directory(self.root, parent)?;
        let how = match kind {
            Kind::Directory => {
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                Guard::EmptyDirectory
            }
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
                Guard::EmptyFile
            }
        };
        self.hold(open_below(self.root, below, OFlags::RDONLY | OFlags::NONBLOCK)?)?;
        self.push(below, how);
        Ok(())
    }

    fn config(&self, below: &Path) -> io::Result<()> {
        let before = read_config(self.root, below)?;
        self.journal.note(Entry::Config { root: self.path.to_owned(), below: below.to_owned(), before })
    }

    fn no_hooks(&self, below: &Path) -> io::Result<()> {
        self.journal.note(Entry::NoHooks { root: self.path.to_owned(), below: below.to_owned() })
    }

    fn kind(&self, below: &Path) -> io::Result<Option<FileType>> {
        match open_below(self.root, below, OFlags::PATH) {
            Ok(fd) => Ok(Some(FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!(
                    "{} steers programs on the host and cannot be protected ({error}): make it a plain file or directory",
                    below.display()
                ),
            )),
        }
    }
}
