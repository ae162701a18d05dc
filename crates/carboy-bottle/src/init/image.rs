//! The inside of a bottle whose system is an image: what the image's root holds, in the place of the host's own.
//!
//! ```text
//!   image/usr, lib, opt…   mounted whole, read-only          image/bin -> usr/bin   made again as a link
//!   image/etc, var         put together, entry by entry, so that carboy's own files can stand among them
//!   image/proc, dev, run…  not taken: every bottle has its own
//! ```
//!
//! A directory that holds a mount point which the image lacks is put together in the same way. *Must never* follow a
//! link of the image: it could lead to the host while the bottle is being built.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, openat, readlinkat, symlinkat, unlinkat};
use rustix::mount::{UnmountFlags, unmount};

use super::root::{Root, attach, tree_at};
use super::{SetupError, step};
use crate::sys::mount::{NODEV, NOSUID, RDONLY};
use crate::wire::InitSpec;

/// Where the image stands while it is taken apart: only what is attached can be mounted again in part.
const STAGING: &str = ".carboy-image";
/// Most entries of one directory that is put together.
pub const ENTRIES_MAX: usize = 4096;
/// Of the image's root and of its `/var`, never taken: every bottle has its own.
const OWN: [&str; 12] = [
    "/.carboy-image",
    "/.carboy-staging",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/home",
    "/boot",
    "/var/run",
    "/var/tmp",
    "/var/lock",
];
/// Always put together.
const COMPOSED: [&str; 4] = ["/", "/etc", "/var", "/mnt"];

/// Puts the image's parts into the root.
pub fn compose(root: &Root, image: &OwnedFd, spec: &InitSpec) -> Result<(), SetupError> {
    let staging = Path::new("/").join(STAGING);
    step("look into the image", root.directory(&staging).and_then(|at| attach(image, &at)))?;
    let mut composed: BTreeSet<PathBuf> = COMPOSED.iter().map(PathBuf::from).collect();
    for mount in &spec.mounts {
        composed.extend(mount.target.ancestors().skip(1).map(Path::to_path_buf));
    }
    let generated = crate::etc::generated("", &[], "").map(|(path, _)| PathBuf::from(path)).into_iter();
    let generated = generated.chain(spec.files.iter().map(|(path, _)| path.clone()));
    let targets = spec.mounts.iter().map(|mount| mount.target.clone());
    // A link of the image in the place of a file of carboy's would lead it elsewhere, or nowhere.
    let own: BTreeSet<PathBuf> = OWN.iter().map(PathBuf::from).chain(targets).chain(generated).collect();
    let work = Work { root, composed, own };
    let image = step("look into the image", opened(&root.fd, OsStr::new(STAGING)))?;
    work.directory(&image, Path::new("/"))?;
    let gone = rustix::process::fchdir(&root.fd)
        .and_then(|()| unmount(STAGING, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW))
        .and_then(|()| unlinkat(&root.fd, STAGING, AtFlags::REMOVEDIR));
    step("put the image away", gone)
}

struct Work<'a> {
    root: &'a Root,
    /// Directories in which something of the bottle's own has to stand.
    composed: BTreeSet<PathBuf>,
    /// What the bottle brings itself.
    own: BTreeSet<PathBuf>,
}

impl Work<'_> {
    /// Everything in one directory of the image, whose path inside is `path`.
    fn directory(&self, of_image: &OwnedFd, path: &Path) -> Result<(), SetupError> {
        let names = step(&format!("list {} of the image", path.display()), names(of_image))?;
        if names.len() > ENTRIES_MAX {
            let many = io::Error::other(format!("it has more than {ENTRIES_MAX} entries"));
            return step(&format!("use {} of the image", path.display()), Err(many));
        }
        for name in names {
            let inside = path.join(&name);
            if !self.own.contains(&inside) {
                self.entry(of_image, &name, &inside)?;
            }
        }
        Ok(())
    }

    fn entry(&self, parent: &OwnedFd, name: &OsStr, inside: &Path) -> Result<(), SetupError> {
        let what = format!("take {} of the image", inside.display());
        let place =
            step(&what, openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()))?;
        let kind = FileType::from_raw_mode(step(&what, rustix::fs::fstat(&place))?.st_mode as RawMode);
        let composed = self.composed.contains(inside);
        match kind {
            FileType::Directory if composed => {
                step(&what, self.root.directory(inside))?;
                let below = step(&what, opened(parent, name))?;
                self.directory(&below, inside)
            }
            FileType::Directory => {
                let placed = self.root.directory(inside);
                step(&what, placed.and_then(|at| attach(&tree_at(place.as_fd(), RDONLY | NOSUID | NODEV)?, &at)))
            }
            // What has to be a directory is one, whatever the image says.
            _ if composed => Ok(()),
            FileType::RegularFile => {
                let placed = self.root.file(inside);
                step(&what, placed.and_then(|at| attach(&tree_at(place.as_fd(), RDONLY | NOSUID | NODEV)?, &at)))
            }
            FileType::Symlink => step(&what, self.link(parent, name, inside)),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Ok(()),
        }
    }

    fn link(&self, parent: &OwnedFd, name: &OsStr, inside: &Path) -> io::Result<()> {
        let target = readlinkat(parent, name, Vec::new())?;
        let at = self.root.directory(inside.parent().unwrap_or(Path::new("/")))?;
        Ok(symlinkat(&target, &at, name)?)
    }
}

/// A directory for reading, through no link.
fn opened(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// One more than the limit at most.
fn names(directory: &OwnedFd) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
        if names.len() > ENTRIES_MAX {
            break;
        }
    }
    Ok(names)
}
