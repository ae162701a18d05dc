//! One layer over the tree that the layers before it made.
//!
//! Everything is done below one descriptor: links of the image are followed within it and lead nowhere else
//! (`RESOLVE_IN_ROOT`). *Must never* make a device, a set-uid file, or a file of another owner; modes are two: 0755 for
//! directories and programs, 0644 for the rest, so that whoever the bottle runs as can read its own system.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, chmodat, fchmod, futimens,
    linkat, mkdirat, openat, openat2, renameat, statat, symlinkat,
};
use rustix::io::Errno;
use tar::{EntryType, Header};

/// Longest path or link, in octets.
const PATH_BYTES_MAX: u64 = 4096;
/// Most directories one in another. Paths of an archive are short, but lead on from its links.
pub(super) const DEPTH_MAX: usize = 256;
/// Most of an entry's path that is shown to a person, in characters.
const SHOWN_CHARS_MAX: usize = 200;
/// Longest extended header of one entry.
const PAX_BYTES_MAX: u64 = 1024 * 1024;
/// What a whiteout's name begins with.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The tree that is being made.
pub(super) struct Tree {
    root: OwnedFd,
    /// Its real path.
    real: PathBuf,
    /// Where replaced entries go until the end: removing them is long work, renaming is not.
    gone: OwnedFd,
    gone_count: u64,
    entries_left: u64,
    entries_max: u64,
    skipped: u64,
    /// What the present layer has made: a whiteout is about the layers before it.
    own: HashSet<PathBuf>,
    /// The directory of the last entry.
    last: Option<(PathBuf, OwnedFd)>,
}

/// What an entry says beyond its header.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Tree {
    pub(super) fn open(root: &Path, gone: &Path, entries_max: u64) -> io::Result<Tree> {
        fs::create_dir(gone)?;
        let open = |path: &Path| -> io::Result<OwnedFd> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let (root, gone) = (open(root)?, open(gone)?);
        let real = real(&root)?;
        fchmod(&root, Mode::from_raw_mode(0o755))?;
        Ok(Tree {
            root,
            real,
            gone,
            gone_count: 0,
            entries_left: entries_max,
            entries_max,
            skipped: 0,
            own: HashSet::new(),
            last: None,
        })
    }

    /// Devices, pipes and sockets that were left out.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Puts a layer over the tree; an error says which entry is to blame.
    pub(super) fn layer(&mut self, from: impl Read) -> Result<(), String> {
        self.own.clear();
        let mut archive = tar::Archive::new(from);
        let mut extended = Extended::default();
        for entry in archive.entries().map_err(words)?.raw(true) {
            let mut entry = entry.map_err(words)?;
            self.entries_left = self
                .entries_left
                .checked_sub(1)
                .ok_or_else(|| format!("the image has more than {} entries", self.entries_max))?;
            let kind = entry.header().entry_type();
            if kind.is_gnu_longname() {
                extended.path = Some(text(&mut entry, PATH_BYTES_MAX)?);
            } else if kind.is_gnu_longlink() {
                extended.link = Some(text(&mut entry, PATH_BYTES_MAX)?);
            } else if kind.is_pax_local_extensions() {
                pax(&mut entry, &mut extended)?;
            } else if !kind.is_pax_global_extensions() {
                let header = entry.header().clone();
                let extended = std::mem::take(&mut extended);
                let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
                let link = extended.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
                let shown = String::from_utf8_lossy(&path).escape_debug().take(SHOWN_CHARS_MAX).collect::<String>();
                let Some(path) = inside(&path).map_err(|what| format!("entry `{shown}` {what}"))? else { continue };
                self.entry(&path, &header, link, &mut entry).map_err(|what| format!("entry `{shown}` {what}"))?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &Path,
        header: &Header,
        link: Option<Vec<u8>>,
        content: &mut impl Read,
    ) -> Result<(), String> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        if let Some(rest) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.whiteout(parent, name, rest).map_err(words);
        }
        let kind = header.entry_type();
        if matches!(kind, EntryType::Char | EntryType::Block | EntryType::Fifo) {
            self.skipped += 1;
            return Ok(());
        }
        let at = self.parent(parent).map_err(words)?;
        if kind.is_dir() {
            self.directory(&at, name, path)?;
        } else if kind.is_file() || kind.is_contiguous() {
            self.replaced(&at, name).map_err(words)?;
            file(&at, name, header, content).map_err(words)?;
        } else if kind.is_symlink() {
            let target = link.filter(|target| !target.is_empty() && !target.contains(&0));
            let target = target.ok_or("is a link to nothing")?;
            self.replaced(&at, name).map_err(words)?;
            symlinkat(OsStr::from_bytes(&target), &at, name).map_err(|e| words(e.into()))?;
        } else if kind.is_hard_link() {
            self.hard_link(&at, name, path, link)?;
        } else {
            return Err(format!("is of kind {:?}, which images do not have", char::from(kind.as_byte())));
        }
        self.last = Some((parent.to_owned(), at));
        self.own.insert(path.to_owned());
        Ok(())
    }

    fn directory(&mut self, at: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), String> {
        if kind_of(at, name).map_err(words)? == Some(FileType::Directory) {
            return Ok(());
        }
        self.replaced(at, name).map_err(words)?;
        let made = mkdirat(at, name, Mode::from_raw_mode(0o755))
            // Whatever the umask says.
            .and_then(|()| chmodat(at, name, Mode::from_raw_mode(0o755), AtFlags::empty()));
        made.map_err(|e| words(e.into()))?;
        // A directory in the place of something else: the cached one may have been reached through that.
        self.last = self.last.take().filter(|(known, _)| !known.starts_with(path));
        Ok(())
    }

    /// A second name of a file that is in the tree. Its target is a path of the image like any other.
    fn hard_link(&mut self, at: &OwnedFd, name: &OsStr, path: &Path, link: Option<Vec<u8>>) -> Result<(), String> {
        let target = inside(&link.unwrap_or_default()).map_err(|what| format!("is a link that {what}"))?;
        let target = target.ok_or("is a link to nothing")?;
        if target == path {
            return Ok(());
        }
        let (parent, file) = (target.parent().unwrap_or(Path::new("")), target.file_name().unwrap_or_default());
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let from = openat2(&self.root, parent, flags, Mode::empty(), resolve)
            .map_err(|e| format!("links to something that is not there ({e})"))?;
        match kind_of(&from, file).map_err(words)? {
            Some(FileType::RegularFile | FileType::Symlink) => {}
            Some(_) | None => return Err("links to something that is no file of the image".into()),
        }
        self.replaced(at, name).map_err(words)?;
        // Without AT_SYMLINK_FOLLOW: a link gets another name, and is not followed out of the image.
        linkat(&from, file, at, name, AtFlags::empty()).map_err(|e| words(e.into()))
    }

    /// Opens the directory of an entry, making what is missing of it. None is deeper than [`DEPTH_MAX`].
    fn parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((known, at)) = &self.last
            && known == path
        {
            return at.try_clone();
        }
        if path.components().count() > DEPTH_MAX {
            return Err(too_deep());
        }
        let at = self.reached(path)?;
        // Of a path that is too long for the system nothing is said but that.
        let depth = real(&at).ok().and_then(|real| Some(real.strip_prefix(&self.real).ok()?.components().count()));
        if depth.is_none_or(|depth| depth >= DEPTH_MAX) { Err(too_deep()) } else { Ok(at) }
    }

    fn reached(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut below = PathBuf::from(".");
        let open = |path: &Path| {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            openat2(&self.root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
        };
        match open(&below.join(path)) {
            Ok(at) => return Ok(at),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let mut at = open(&below)?;
        for name in path.components() {
            below.push(name);
            at = match open(&below) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    match mkdirat(&at, name.as_os_str(), Mode::from_raw_mode(0o755)) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => {
                            return Err(io::Error::other("goes through a link that leads nowhere in the image"));
                        }
                        Err(error) => return Err(error.into()),
                    }
                    chmodat(&at, name.as_os_str(), Mode::from_raw_mode(0o755), AtFlags::empty())?;
                    open(&below)?
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(at)
    }

    /// Takes what stands at a name away.
    fn replaced(&mut self, at: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let Some(kind) = kind_of(at, name)? else { return Ok(()) };
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            // The way to the last directory may have led through it.
            self.last = None;
        }
        self.gone_count += 1;
        Ok(renameat(at, name, &self.gone, self.gone_count.to_string())?)
    }

    /// `.wh.NAME` takes NAME of the layers before away, `.wh..wh..opq` everything in the directory.
    fn whiteout(&mut self, parent: &Path, name: &OsStr, rest: &[u8]) -> io::Result<()> {
        if name.as_bytes() == OPAQUE {
            let at = self.parent(parent)?;
            return self.hide_earlier(&at, parent);
        }
        if rest.starts_with(WHITEOUT) {
            // Notes of another file system.
            return Ok(());
        }
        if rest.is_empty() || rest == b"." || rest == b".." {
            return Err(io::Error::other("is a whiteout of nothing"));
        }
        let hidden = OsStr::from_bytes(rest);
        if self.own.contains(&parent.join(hidden)) {
            return Ok(());
        }
        let at = self.parent(parent)?;
        self.replaced(&at, hidden)
    }

    fn hide_earlier(&mut self, at: &OwnedFd, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let list = openat(at, ".", flags, Mode::empty())?;
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::read_from(&list)? {
            names.push(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned());
        }
        for name in names.iter().filter(|name| *name != "." && *name != "..") {
            let inside = path.join(name);
            if !self.own.contains(&inside) && !self.own.iter().any(|own| own.starts_with(&inside)) {
                self.replaced(at, name)?;
            } else if kind_of(at, name)? == Some(FileType::Directory) {
                let below = openat(at, name, flags, Mode::empty())?;
                self.hide_earlier(&below, &inside)?;
            }
        }
        Ok(())
    }
}

fn too_deep() -> io::Error {
    io::Error::other(format!("is in more than {DEPTH_MAX} directories one in another"))
}

/// Where a directory really is.
fn real(directory: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

fn words(error: io::Error) -> String {
    error.to_string()
}

/// A path of the image as one below its root; `None` for the root itself.
fn inside(path: &[u8]) -> Result<Option<PathBuf>, String> {
    if path.len() as u64 > PATH_BYTES_MAX {
        return Err(format!("has a path of more than {PATH_BYTES_MAX} octets"));
    }
    let mut below = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(path)).components() {
        match part {
            Component::Normal(name) => below.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return Err("begins at the host's root".into()),
            Component::ParentDir => return Err("leads out of the image by `..`".into()),
        }
    }
    if path.contains(&0) {
        return Err("has a zero octet in its path".into());
    }
    Ok((!below.as_os_str().is_empty()).then_some(below))
}

fn kind_of(at: &OwnedFd, name: &OsStr) -> io::Result<Option<FileType>> {
    match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode as RawMode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn file(at: &OwnedFd, name: &OsStr, header: &Header, content: &mut impl Read) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(at, name, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(content, &mut file)?;
    let mode = if header.mode().unwrap_or(0) & 0o111 != 0 { 0o755 } else { 0o644 };
    fchmod(&file, Mode::from_raw_mode(mode))?;
    // Compiled files of some languages are good only for a source of this age.
    let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Ok(futimens(&file, &Timestamps { last_access: time, last_modification: time })?)
}

/// The content of an entry that is about the next one.
fn text(entry: &mut impl Read, max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    entry.take(max + 1).read_to_end(&mut bytes).map_err(words)?;
    if bytes.len() as u64 > max {
        return Err(format!("an entry has a description of more than {max} octets"));
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn pax(entry: &mut impl Read, extended: &mut Extended) -> Result<(), String> {
    let bytes = text(entry, PAX_BYTES_MAX)?;
    for one in tar::PaxExtensions::new(&bytes) {
        let one = one.map_err(words)?;
        match one.key_bytes() {
            b"path" => extended.path = Some(one.value_bytes().to_vec()),
            b"linkpath" => extended.link = Some(one.value_bytes().to_vec()),
            // Two readers of one archive would not agree where the next entry begins.
            b"size" => return Err("an entry has more than 8 GiB, or says its size twice".into()),
            key if key.starts_with(b"GNU.sparse.") => return Err("an entry is sparse, which is not read".into()),
            _ => {}
        }
    }
    Ok(())
}
