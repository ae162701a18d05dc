//! The bottle's root file system: an empty tmpfs into which the allowed parts of the host are mounted, then pivoted.
//!
//! Everything is done by descriptor. No path that a process inside could have written to is followed through a
//! symbolic link (B51): a link left in the workspace by an earlier run must not turn a mount point into `~/.ssh`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, RawMode, ResolveFlags, mkdirat, openat, openat2, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};

use super::{SetupError, step};
use crate::etc;
use crate::sys::mount::{Depth, MountChange, NODEV, NOEXEC, NOSUID, Private, RDONLY, change};
use crate::wire::{Guard, InitSpec, Origin};

/// Where the new root is attached while it is built.
const ATTACH: [&str; 3] = ["/tmp", "/mnt", "/var"];
const STAGING: &str = ".carboy-staging";
/// Where an overlay's parts stand while it is made; an attached mount is what every kernel takes as a layer.
const LAYERS: &str = ".carboy-layers";
/// No index, no redirects and no metadata-only copies: a layer then outlives changes of the directory below it, and each
/// of its files is whole.
const OVERLAY: [(&str, &str); 8] = [
    ("lowerdir", ".carboy-layers/lower"),
    ("upperdir", ".carboy-layers/layer/upper"),
    ("workdir", ".carboy-layers/layer/work"),
    ("userxattr", ""),
    ("index", "off"),
    ("xino", "off"),
    ("metacopy", "off"),
    ("redirect_dir", "nofollow"),
];

/// Read-only trees of the host.
const SYSTEM: [&str; 2] = ["/usr", "/opt"];
/// Bound or, where the host has merged them into `/usr`, linked.
const SYSTEM_MERGED: [&str; 7] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/libexec"];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Parts of `/proc` that tell about or change the host: not writable.
const PROC_READ_ONLY: [&str; 8] = ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "mtrr", "pressure"];
/// Parts that are hidden.
const PROC_HIDDEN: [&str; 14] = [
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kallsyms",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "latency_stats",
    "scsi",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "vmallocinfo",
];

/// Builds and enters the root. After it, nothing of the host but what was mounted can be named.
pub fn build(
    spec: &InitSpec,
    contents: &[Vec<u8>],
    mut inherited: BTreeMap<i32, Option<OwnedFd>>,
) -> Result<(), SetupError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("separate the mounts from the host's", mount_change("/", private))?;
    // All sources are taken before the new root covers one of them.
    let mut sources = Vec::with_capacity(spec.mounts.len());
    for mount in &spec.mounts {
        let source = source(&mount.origin, mount.writable, &mut inherited);
        sources.push(step(&format!("take {} for the bottle", mount.target.display()), source)?);
    }
    let image = spec.image.as_ref().map(|origin| source(origin, false, &mut inherited)).transpose();
    let image = step("take the image for the bottle", image)?;
    let root = Root::new()?;
    match &image {
        None => root.system()?,
        Some(Source::Tree(tree)) => super::image::compose(&root, tree, spec)?,
        Some(Source::Layers { .. }) => return step("take the image for the bottle", Err(Errno::INVAL)),
    }
    root.own_directories()?;
    root.devices()?;
    root.proc()?;
    for (mount, source) in spec.mounts.iter().zip(&sources) {
        let source = match source {
            Source::Tree(tree) => tree,
            Source::Layers { lower, layer } => &root.overlay(&mount.target, lower, layer)?,
        };
        let placed = if mount.directory {
            root.directory(&mount.target).and_then(|at| attach(source, &at))
        } else {
            root.file(&mount.target).and_then(|at| attach(source, &at))
        };
        step(&format!("mount {} (no symbolic links, and its directory must exist)", mount.target.display()), placed)?;
    }
    for guarded in &spec.protected {
        let placed = root.guard(&guarded.path, guarded.how);
        step(&format!("protect {} (it must not be a symbolic link)", guarded.path.display()), placed)?;
    }
    root.generated(spec, contents)?;
    root.enter()
}

/// A copy of a host tree as a mount of its own.
fn tree(path: impl rustix::path::Arg, set: u64) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(CWD, path, flags)?;
    change(mount.as_fd(), &MountChange { set, depth: Depth::All, ..MountChange::default() })?;
    Ok(mount)
}

/// The same from a descriptor.
pub(super) fn tree_at(place: BorrowedFd<'_>, set: u64) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(place, "", flags)?;
    change(mount.as_fd(), &MountChange { set, depth: Depth::All, private: Private::Yes, ..MountChange::default() })?;
    Ok(mount)
}

/// What is mounted.
enum Source {
    /// A tree of the host's.
    Tree(OwnedFd),
    /// The parts of an overlay.
    Layers { lower: OwnedFd, layer: OwnedFd },
}

fn source(origin: &Origin, writable: bool, inherited: &mut BTreeMap<i32, Option<OwnedFd>>) -> io::Result<Source> {
    Ok(match origin {
        Origin::Layers { lower, layer } => {
            Source::Layers { lower: taken(lower, true, inherited)?, layer: taken(layer, true, inherited)? }
        }
        Origin::Inherited(_) | Origin::Path { .. } => Source::Tree(taken(origin, writable, inherited)?),
    })
}

fn taken(origin: &Origin, writable: bool, inherited: &mut BTreeMap<i32, Option<OwnedFd>>) -> io::Result<OwnedFd> {
    match origin {
        Origin::Layers { .. } => Err(io::Error::other("an overlay is no layer of another")),
        Origin::Inherited(number) => inherited
            .remove(number)
            .flatten()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its mount was not inherited")),
        Origin::Path { path, device, inode } => {
            // The supervisor resolved and looked at the path; a link or another directory put there since is refused.
            let place = openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
            let stat = rustix::fs::fstat(&place)?;
            if (stat.st_dev, stat.st_ino) != (*device, *inode) {
                return Err(io::Error::other("the path was exchanged while the bottle was made"));
            }
            let set = NOSUID | NODEV | if writable { 0 } else { RDONLY };
            tree_at(place.as_fd(), set)
        }
    }
}

pub(super) fn attach(mount: &OwnedFd, at: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", at, "", flags)?)
}

/// A new file system instance.
fn instance(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match *value {
            "" => fsconfig_set_flag(&context, *key)?,
            value => fsconfig_set_string(&context, *key, value)?,
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn tmpfs(mode: &str) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    instance("tmpfs", &[("mode", mode)], attributes)
}

/// Opens without following a link at the end; a link itself is refused.
fn open_place(parent: &OwnedFd, name: &Path) -> io::Result<(OwnedFd, FileType)> {
    let place = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode as RawMode);
    if kind == FileType::Symlink { Err(Errno::LOOP.into()) } else { Ok((place, kind)) }
}

pub(super) struct Root {
    pub(super) fd: OwnedFd,
}

impl Root {
    fn new() -> Result<Self, SetupError> {
        let fd = step("make the root file system", tmpfs("0755"))?;
        let at = ATTACH.iter().find(|path| Path::new(path).is_dir()).copied().unwrap_or("/tmp");
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        step("attach the root file system", move_mount(&fd, "", CWD, at, flags))?;
        Ok(Root { fd })
    }

    /// Opens a directory inside, making what is missing of it, through no link.
    pub(super) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut at = self.fd.try_clone()?;
        for component in path.components() {
            let name = match component {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(name) => Path::new(name),
                Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL.into()),
            };
            let open = || open_place(&at, name);
            let (next, kind) = match open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                    open()?
                }
                other => other?,
            };
            if kind != FileType::Directory {
                return Err(Errno::NOTDIR.into());
            }
            at = next;
        }
        Ok(at)
    }

    /// Opens a file inside as a place to mount on, making an empty one when it is missing, through no link.
    pub(super) fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL.into()) };
        let parent = self.directory(parent)?;
        let name = Path::new(name);
        match open_place(&parent, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
                Ok(open_place(&parent, name)?.0)
            }
            Ok((_, FileType::Directory)) => Err(Errno::ISDIR.into()),
            other => Ok(other?.0),
        }
    }

    /// Lays a layer over a host directory. The two parts are gone from the tree when it is done: the overlay keeps
    /// copies of its own, which nobody can name.
    fn overlay(&self, target: &Path, lower: &OwnedFd, layer: &OwnedFd) -> Result<OwnedFd, SetupError> {
        let places = [("lower", lower), ("layer", layer)];
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let made = (|| {
            for (name, mount) in places {
                attach(mount, &self.directory(&Path::new("/").join(LAYERS).join(name))?)?;
            }
            // The options name them relative to here: a path of the host's may hold what the options cannot.
            rustix::process::fchdir(&self.fd)?;
            instance("overlay", &OVERLAY, attributes)
        })();
        let wanted = format!(
            "lay an overlay over {} (`carboy doctor` says what it needs; `workspace: direct` does without)",
            target.display()
        );
        let overlay = step(&wanted, made)?;
        let gone = places.iter().try_for_each(|(name, _)| -> io::Result<()> {
            let place = format!("{LAYERS}/{name}");
            unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
            Ok(rustix::fs::unlinkat(&self.fd, place, rustix::fs::AtFlags::REMOVEDIR)?)
        });
        step("put the layers away", gone)?;
        step("put the layers away", rustix::fs::unlinkat(&self.fd, LAYERS, rustix::fs::AtFlags::REMOVEDIR))?;
        Ok(overlay)
    }

    fn link(&self, target: &str, path: &str) -> Result<(), SetupError> {
        step(&format!("link {path}"), symlinkat(target, &self.fd, path.trim_start_matches('/')))
    }

    /// One host path at the same path inside, not writable; absent ones stay absent, links stay links.
    fn host_path(&self, path: &str) -> Result<(), SetupError> {
        let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
        let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
        let placed = if meta.file_type().is_symlink() {
            std::fs::read_link(path).and_then(|target| {
                self.directory(parent)?;
                match symlinkat(&target, &self.fd, path.trim_start_matches('/')) {
                    Err(Errno::EXIST) | Ok(()) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })
        } else {
            let at = if meta.is_dir() { self.directory(Path::new(path)) } else { self.file(Path::new(path)) };
            at.and_then(|at| attach(&tree(path, RDONLY | NOSUID | NODEV)?, &at))
        };
        step(&format!("mount the host's {path}"), placed)
    }

    fn system(&self) -> Result<(), SetupError> {
        for path in SYSTEM.iter().chain(&SYSTEM_MERGED) {
            self.host_path(path)?;
        }
        for path in etc::shared() {
            self.host_path(&path)?;
        }
        Ok(())
    }

    /// What every bottle has, whatever its system is.
    fn own_directories(&self) -> Result<(), SetupError> {
        for path in ["/home", "/run", "/var", "/etc", "/mnt"] {
            step("make the directory tree", self.directory(Path::new(path)))?;
        }
        self.link("/tmp", "/var/tmp")?;
        self.link("/run", "/var/run")?;
        let tmp = step("make /tmp", tmpfs("1777"))?;
        step("mount /tmp", self.directory(Path::new("/tmp")).and_then(|at| attach(&tmp, &at)))
    }

    fn devices(&self) -> Result<(), SetupError> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let dev = step("make /dev", instance("tmpfs", &[("mode", "0755")], attributes))?;
        step("mount /dev", self.directory(Path::new("/dev")).and_then(|at| attach(&dev, &at)))?;
        for name in DEVICES {
            let path = format!("/dev/{name}");
            let placed = self.file(Path::new(&path)).and_then(|at| attach(&tree(&path, NOSUID | NOEXEC)?, &at));
            step(&format!("mount {path}"), placed)?;
        }
        let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
        let pts = step("make /dev/pts", instance("devpts", &options, attributes))?;
        step("mount /dev/pts", self.directory(Path::new("/dev/pts")).and_then(|at| attach(&pts, &at)))?;
        let shm = step("make /dev/shm", tmpfs("1777"))?;
        step("mount /dev/shm", self.directory(Path::new("/dev/shm")).and_then(|at| attach(&shm, &at)))?;
        self.link("pts/ptmx", "/dev/ptmx")?;
        self.link("/proc/self/fd", "/dev/fd")?;
        self.link("/proc/self/fd/0", "/dev/stdin")?;
        self.link("/proc/self/fd/1", "/dev/stdout")?;
        self.link("/proc/self/fd/2", "/dev/stderr")?;
        let fixed = MountChange { set: RDONLY, ..MountChange::default() };
        step("fix /dev", change(dev.as_fd(), &fixed))
    }

    fn proc(&self) -> Result<(), SetupError> {
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let wanted = "mount a fresh /proc (a container that masks parts of /proc forbids it: run carboy on the host, or \
                      give the container an unmasked /proc)";
        let proc = step(wanted, instance("proc", &[], attributes))?;
        step("mount /proc", self.directory(Path::new("/proc")).and_then(|at| attach(&proc, &at)))?;
        for name in PROC_READ_ONLY {
            self.mask(&proc, name, |place, _| tree_at(place.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC))?;
        }
        for name in PROC_HIDDEN {
            self.mask(&proc, name, |_, kind| {
                if kind == FileType::Directory { empty_directory() } else { tree("/dev/null", NOSUID | NOEXEC) }
            })?;
        }
        Ok(())
    }

    fn mask(
        &self,
        proc: &OwnedFd,
        name: &str,
        cover: impl Fn(&OwnedFd, FileType) -> io::Result<OwnedFd>,
    ) -> Result<(), SetupError> {
        let placed = match open_place(proc, Path::new(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok((place, kind)) => cover(&place, kind).and_then(|cover| attach(&cover, &place)),
        };
        step(&format!("mask /proc/{name}"), placed)
    }

    fn guard(&self, path: &Path, how: Guard) -> io::Result<()> {
        if how == Guard::Hidden {
            return self.hide(path);
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL.into()) };
        let parent = self.directory(parent)?;
        let (place, kind) = open_place(&parent, Path::new(name))?;
        let cover = match (how, kind) {
            (Guard::Pin, _) => tree_at(place.as_fd(), NOSUID | NODEV)?,
            (Guard::EmptyFile, FileType::Directory) => return Err(Errno::ISDIR.into()),
            (Guard::ReadOnly | Guard::EmptyFile, _) => tree_at(place.as_fd(), NOSUID | NODEV | RDONLY)?,
            (Guard::EmptyDirectory, FileType::Directory) => empty_directory()?,
            (Guard::EmptyDirectory | Guard::Hidden, _) => return Err(Errno::NOTDIR.into()),
        };
        attach(&cover, &place)
    }

    /// Covers a file; nothing is made for it where it is no longer there, or where another mount has taken its place.
    fn hide(&self, path: &Path) -> io::Result<()> {
        let below = path.strip_prefix("/").unwrap_or(path);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.fd, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(place) => {
                let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode as RawMode);
                if kind == FileType::Directory { Ok(()) } else { attach(&tree("/dev/null", NOSUID | NOEXEC)?, &place) }
            }
        }
    }

    /// The shell of the bottle's one user, by what the system inside has.
    fn shell(&self) -> &'static str {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.fd, "/bin/bash", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(_) => "/bin/bash",
            Err(_) => "/bin/sh",
        }
    }

    /// Generated files: written to a file system of their own, each mounted read-only at its place.
    fn generated(&self, spec: &InitSpec, contents: &[Vec<u8>]) -> Result<(), SetupError> {
        let staging_path = Path::new("/").join(STAGING);
        let staging = step("make the generated files", tmpfs("0755"))?;
        step("make the generated files", self.directory(&staging_path).and_then(|at| attach(&staging, &at)))?;
        let own = etc::generated(&spec.host_name, &spec.git_overlooks, self.shell());
        let own = own.iter().map(|(path, content)| (Path::new(*path), content.as_bytes()));
        let given = spec.files.iter().zip(contents).map(|((path, _), content)| (path.as_path(), content.as_slice()));
        // Later mounts cover earlier ones, so that a given file wins over carboy's own.
        for (index, (path, content)) in own.chain(given).enumerate() {
            let placed = write_staged(&staging, index, content)
                .and_then(|file| tree_at(file.as_fd(), RDONLY | NOSUID | NODEV))
                .and_then(|mount| attach(&mount, &self.generated_place(path)?));
            step(&format!("put the generated file {}", path.display()), placed)?;
        }
        let gone = staging_gone(&self.fd);
        step("finish the generated files", gone)
    }

    /// Below `/etc` and `/usr` links are the distribution's and are followed (within the root); elsewhere none is.
    fn generated_place(&self, path: &Path) -> io::Result<OwnedFd> {
        if path.starts_with("/etc") || path.starts_with("/usr") {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            match openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                Ok(place) => return Ok(place),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.file(path)
    }

    fn enter(self) -> Result<(), SetupError> {
        let entered = (|| -> rustix::io::Result<()> {
            rustix::process::fchdir(&self.fd)?;
            rustix::process::pivot_root(".", ".")?;
            unmount(".", UnmountFlags::DETACH)?;
            rustix::process::chdir("/")
        })();
        step("enter the root file system", entered)?;
        let fixed = MountChange { set: RDONLY, ..MountChange::default() };
        step("fix the root file system", change(self.fd.as_fd(), &fixed))
    }
}

fn empty_directory() -> io::Result<OwnedFd> {
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_RDONLY;
    instance("tmpfs", &[("mode", "0555"), ("size", "4k")], attributes)
}

fn write_staged(staging: &OwnedFd, index: usize, content: &[u8]) -> io::Result<OwnedFd> {
    let name = index.to_string();
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(staging, &name, flags, Mode::from_raw_mode(0o644))?;
    io::Write::write_all(&mut std::fs::File::from(file), content)?;
    Ok(openat(staging, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn staging_gone(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    unmount(STAGING, UnmountFlags::DETACH)?;
    rustix::fs::unlinkat(root, STAGING, rustix::fs::AtFlags::REMOVEDIR)?;
    Ok(())
}
