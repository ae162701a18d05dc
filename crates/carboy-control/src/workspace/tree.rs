//! Trees that are not to be trusted: a layer that a bottle wrote, and the workspace, in which anybody may have put links.
//!
//! Every look goes from a descriptor of the root, beneath it, through no link. *Must never* open a path by its name from
//! outside, wait on a pipe, or read without a bound.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, readlinkat, statat};
use rustix::io::Errno;

use crate::session::escapes::is_invisible;

/// Longest path that is looked at, in bytes: the kernel takes none longer.
pub const PATH_BYTES_MAX: usize = 4095;
/// Most names of one directory.
pub const NAMES_MAX: usize = 1_000_000;

/// A path below a root: bytes, no leading slash, empty for the root itself. Names are any bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rel(Vec<u8>);

impl Rel {
    /// The root.
    pub fn root() -> Rel {
        Rel::default()
    }

    /// From a relative path; `None` for one with `..` in it, an absolute one, or the root.
    pub fn parse(path: &Path) -> Option<Rel> {
        let mut rel = Rel::root();
        for component in path.components() {
            match component {
                std::path::Component::Normal(name) => rel = rel.join(name.as_bytes()),
                std::path::Component::CurDir => {}
                std::path::Component::ParentDir | std::path::Component::RootDir | std::path::Component::Prefix(_) => {
                    return None;
                }
            }
        }
        (!rel.is_root()).then_some(rel)
    }

    /// Is it the root itself?
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// One name below.
    pub fn join(&self, name: &[u8]) -> Rel {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend(&self.0);
        if !self.0.is_empty() {
            path.push(b'/');
        }
        path.extend(name);
        Rel(path)
    }

    /// The directory above and the last name; `None` for the root.
    pub fn split(&self) -> Option<(Rel, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (Rel(self.0[..at].to_vec()), &self.0[at + 1..]),
            None => (Rel::root(), &self.0[..]),
        })
    }

    /// The directory above.
    pub fn parent(&self) -> Rel {
        self.split().map(|(parent, _)| parent).unwrap_or_default()
    }

    /// Every directory above but the root, nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = Rel> {
        std::iter::successors(Some(self.parent()), |rel| Some(rel.parent())).take_while(|rel| !rel.is_root())
    }

    /// Names from the top.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// Is it `other` or below it?
    pub fn is_at_or_below(&self, other: &Rel) -> bool {
        other.is_root()
            || self.0.strip_prefix(&other.0[..]).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a path of the system.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// On one line and without a byte that moves a cursor; different paths stay different.
    pub fn shown(&self) -> String {
        shown(&self.0)
    }

    /// As text for a file of ours: `%` and everything that is not printable ASCII becomes `%XX`.
    pub fn encoded(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        for byte in &self.0 {
            match byte {
                b'%' | 0..=0x1f | 0x7f.. => text.push_str(&format!("%{byte:02x}")),
                _ => text.push(char::from(*byte)),
            }
        }
        text
    }

    /// The reverse of [`Rel::encoded`]; `None` for what it did not write.
    pub fn decoded(text: &str) -> Option<Rel> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let [first, after @ ..] = rest {
            rest = after;
            if *first == b'%' {
                let (digits, after) = rest.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = after;
            } else {
                bytes.push(*first);
            }
        }
        let whole = bytes.split(|b| *b == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
        (bytes.is_empty() || whole && !bytes.contains(&0)).then_some(Rel(bytes))
    }
}

impl serde::Serialize for Rel {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.encoded())
    }
}

impl<'de> serde::Deserialize<'de> for Rel {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Rel, D::Error> {
        let text = String::deserialize(from)?;
        Rel::decoded(&text).ok_or_else(|| serde::de::Error::custom("not a path of carboy's own writing"))
    }
}

/// Bytes on one line: UTF-8 stays, everything else becomes an escape.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_invisible(c) || c == '\\' { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// In a layer: what was below this name is gone.
    Whiteout,
    /// A device, a pipe or a socket.
    Special,
}

/// One version of what stands at a path. Whoever changes it changes one of these: the change time cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-uid and its like included.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Modified: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Changed in any way: seconds and nanoseconds.
    pub ctime: (i64, u32),
    /// Inode.
    pub inode: u64,
    /// Owner and group.
    pub owner: (u32, u32),
}

impl Stamp {
    fn of(stat: &Stat) -> Stamp {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            FileType::CharacterDevice if stat.st_rdev == 0 => Kind::Whiteout,
            FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Fifo
            | FileType::Socket
            | FileType::Unknown => Kind::Special,
        };
        Stamp {
            kind,
            mode: stat.st_mode & 0o7777,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            ctime: (stat.st_ctime, u32::try_from(stat.st_ctime_nsec).unwrap_or(0)),
            inode: stat.st_ino,
            owner: (stat.st_uid, stat.st_gid),
        }
    }

    /// Is this the version that `earlier` was? Of a directory only that it is one: its content is looked at name by name.
    pub fn is_still(&self, earlier: &Stamp) -> bool {
        self.kind == earlier.kind
            && (self.kind == Kind::Directory
                || (self.mode, self.size, self.mtime, self.ctime, self.inode)
                    == (earlier.mode, earlier.size, earlier.mtime, earlier.ctime, earlier.inode))
    }

    /// The bits that are ever given to a file of the workspace.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o777
    }
}

/// A directory that everything is reached from.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Root {
    /// Opens a directory by its real path; one that leads through a link is refused.
    pub fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        Ok(Root { fd, path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn beneath(&self, rel: &Rel, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if rel.is_root() { Path::new(".") } else { rel.path() };
        Ok(openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)?)
    }

    /// A directory below, to work in.
    pub fn directory(&self, rel: &Rel) -> io::Result<OwnedFd> {
        self.beneath(rel, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK)
    }

    /// A directory below that may not be readable.
    pub fn place(&self, rel: &Rel) -> io::Result<OwnedFd> {
        self.beneath(rel, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// What stands there; `None` for nothing.
    pub fn stamp(&self, rel: &Rel) -> io::Result<Option<Stamp>> {
        match self.beneath(rel, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => Ok(Some(Stamp::of(&rustix::fs::fstat(fd)?))),
            Err(error)
                if matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::NOTDIR)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A regular file, open for reading.
    pub fn file(&self, rel: &Rel) -> io::Result<File> {
        let file = File::from(self.beneath(rel, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
    }

    /// The text of a link.
    pub fn link(&self, rel: &Rel) -> io::Result<Vec<u8>> {
        let fd = self.beneath(rel, OFlags::PATH | OFlags::NOFOLLOW)?;
        Ok(readlinkat(&fd, "", Vec::new())?.into_bytes())
    }

    /// What a directory holds, with each one's stamp, in the order of the names.
    pub fn list(&self, rel: &Rel) -> io::Result<Vec<(Vec<u8>, Stamp)>> {
        list(&self.directory(rel)?)
    }

    /// Does a directory of a layer hide what is below it?
    pub fn is_opaque(&self, rel: &Rel) -> io::Result<bool> {
        let mut value = [0_u8; 1];
        match rustix::fs::fgetxattr(self.directory(rel)?, "user.overlay.opaque", &mut value[..]) {
            Ok(length) => Ok(length == 1 && value == *b"y"),
            // Longer than one byte: `x` marks something else, and nothing longer is ever written.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What an open directory holds.
pub fn list(fd: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Stamp)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => found.push((name.to_bytes().to_vec(), Stamp::of(&stat))),
            // Gone meanwhile.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        if found.len() > NAMES_MAX {
            return Err(io::Error::other(format!("a directory of more than {NAMES_MAX} names")));
        }
    }
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// What stands at a name of an open directory; `None` for nothing.
pub fn stamp_at(directory: &OwnedFd, name: &[u8]) -> io::Result<Option<Stamp>> {
    match statat(directory, c_name(name)?.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Stamp::of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A name for a system call.
pub fn c_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from(Errno::INVAL))
}

/// As a path, for a message.
pub fn os_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_as_it_was_written_and_leads_nowhere_else() {
        for bytes in [&b"a/b"[..], b"a\nb/%41", b"\xff\x1b[2J", b"x y"] {
            let rel = Rel(bytes.to_vec());
            assert_eq!(Rel::decoded(&rel.encoded()), Some(rel.clone()));
            assert!(!rel.shown().bytes().any(|b| b < 0x20));
        }
        for text in ["../x", "a/../b", "/etc", "a//b", "%2e%2e/x", "a%00", "%4"] {
            assert_eq!(Rel::decoded(text), None, "{text}");
        }
        assert_eq!(
            (Rel::parse(Path::new("./a/b/")).unwrap().shown(), Rel::parse(Path::new("../a"))),
            ("a/b".into(), None)
        );
    }

    #[test]
    fn nothing_is_reached_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        std::fs::create_dir(path.join("root")).unwrap();
        std::fs::write(path.join("outside"), "secret").unwrap();
        std::os::unix::fs::symlink("..", path.join("root/up")).unwrap();
        std::os::unix::fs::symlink(&path, path.join("root/abs")).unwrap();
        let root = Root::open(&path.join("root")).unwrap();
        for name in ["up/outside", "abs/outside"] {
            assert!(root.file(&Rel::parse(Path::new(name)).unwrap()).is_err(), "{name}");
        }
        assert_eq!(root.link(&Rel::parse(Path::new("up")).unwrap()).unwrap(), b"..");
        assert!(Root::open(&path.join("root/up")).is_err());
    }
}
