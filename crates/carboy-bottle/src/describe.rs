//! From the plan to what init is handed: who runs the bottle, which mounts it gets, and the sealed description.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use carboy_core::plan::{Access, BottleSpec, Overlay, RootSource};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags, memfd_create, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, Signal, WaitIdOptions, getegid, geteuid, pidfd_send_signal, waitid};

use crate::INSIDE_ID;
use crate::cgroup::{Applied, Bound};
use crate::protect::Journal;
use crate::sys::mount::{Depth, MountChange, NODEV, NOSUID, Private, RDONLY, change};
use crate::sys::spawn::{SetUp, clone_idmap_holder};
use crate::wire::{DESCRIPTORS_MAX, Guard, InitSpec, Mount, Origin, Protected};

/// Most binds of one bottle.
const BINDS_MAX: usize = 200;
/// Most ports in tier T2: two families, each with three fixed ports and a DNS socket.
const ROUTE_PORTS_MAX: usize = DESCRIPTORS_MAX / 2 - 4;
/// First host id that is tried for the bottles of root.
const HOST_ID_FIRST: u32 = 524_288;
const HOST_ID_STEP: u32 = 65_536;
const HOME: &str = "/home/agent";

/// Why there is no bottle.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Host uid or gid 0 was asked for.
    #[error("a bottle is never mapped to host id 0: give the ids of an ordinary user with `--user NAME`")]
    HostRoot,
    /// No free host id was found.
    #[error("no unused host id from {HOST_ID_FIRST} upward: give the ids of an ordinary user with `--user NAME`")]
    NoHostId,
    /// The kernel refused the namespaces.
    #[error("the kernel refuses new namespaces ({0}): `carboy doctor` says which setting does and how to change it")]
    Namespaces(#[source] io::Error),
    /// The id maps could not be written.
    #[error("the id maps of the bottle could not be written ({0}): `carboy doctor` says what the host lacks")]
    Maps(#[source] io::Error),
    /// A bind's source is missing or unreadable.
    #[error("cannot use {path} for the bottle: {source}")]
    Source {
        /// Host path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A source goes through a link that a process in a bottle could have made.
    #[error("{path} goes through a symbolic link, which a bottle could have set: name its real path")]
    LinkInWritable {
        /// Host path.
        path: PathBuf,
    },
    /// Root's bottle needs an id map that this file system does not offer.
    #[error(
        "the file system of {path} has no id-mapped mounts ({source}), so a bottle started by root cannot write there \
         safely: run carboy as its owner, or with `--user NAME`"
    )]
    NoIdmap {
        /// Host path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An ordinary user's overlay of what is not wholly theirs.
    #[error(
        "{path} belongs to uid {uid}, gid {gid}, and an overlay changes only what is yours with your own group: \
         `chown -R` it, or leave `workspace: direct`"
    )]
    OverlayOwner {
        /// Host path.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A path has no UTF-8 name, is not absolute, or has `..` in it.
    #[error("{path} cannot be a path of a bottle: use an absolute UTF-8 path without `..`")]
    Path {
        /// As given.
        path: PathBuf,
    },
    /// More than this crate passes.
    #[error("{what}: {given} given, {max} at most")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        given: usize,
        /// Limit.
        max: usize,
    },
    /// The command is empty.
    #[error("no command to run in the bottle")]
    NoCommand,
    /// A step on the host failed.
    #[error("could not {step}: {source}")]
    Outside {
        /// What was tried.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A step inside failed.
    #[error("could not {step}{}", .source.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    Inside {
        /// What was tried.
        step: String,
        /// Why, when the operating system said it.
        source: Option<io::Error>,
    },
    /// Init ended without a word.
    #[error(
        "the bottle's init ended while it was being set up: does the program call `run_init_if_asked` first in main?"
    )]
    InitDied,
}

/// Who runs the bottle, and as whom its processes run on the host.
#[derive(Clone, Copy, Debug)]
pub struct Runner {
    root: bool,
    host_ids: (u32, u32),
}

impl Runner {
    /// Looks at who this process is.
    pub fn here(wanted: Option<(u32, u32)>) -> Result<Self, LaunchError> {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        if uid != 0 {
            return Ok(Runner { root: false, host_ids: (uid, gid) });
        }
        let host_ids = match wanted {
            Some((0, _) | (_, 0)) => return Err(LaunchError::HostRoot),
            Some(ids) => ids,
            None => {
                let id = unused_host_id().ok_or(LaunchError::NoHostId)?;
                (id, id)
            }
        };
        Ok(Runner { root: true, host_ids })
    }

    /// Is it root?
    pub fn is_root(&self) -> bool {
        self.root
    }

    /// Host uid and gid of the processes inside.
    pub fn host_ids(&self) -> (u32, u32) {
        self.host_ids
    }

    /// Maps the one uid and gid of a new bottle.
    pub fn write_maps(&self, pid: Pid) -> io::Result<()> {
        if !self.root {
            // The kernel wants it before an ordinary user maps a group.
            write_proc(pid, "setgroups", "deny")?;
        }
        write_proc(pid, "uid_map", &format!("{INSIDE_ID} {} 1", self.host_ids.0))?;
        write_proc(pid, "gid_map", &format!("{INSIDE_ID} {} 1", self.host_ids.1))
    }
}

fn write_proc(pid: Pid, name: &str, content: &str) -> io::Result<()> {
    // One write: these files take no second. No O_CREAT, which a /proc file refuses.
    let mut file = std::fs::OpenOptions::new().write(true).open(format!("/proc/{}/{name}", pid.as_raw_nonzero()))?;
    file.write_all(content.as_bytes())
}

/// The first id that neither a user, nor a group, nor a range of subordinate ids has.
fn unused_host_id() -> Option<u32> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let named = format!("{}\n{}", read("/etc/passwd"), read("/etc/group"));
    let ranges = format!("{}\n{}", read("/etc/subuid"), read("/etc/subgid"));
    let field = |line: &str, n: usize| line.split(':').nth(n).and_then(|v| v.trim().parse::<u32>().ok());
    let free = |id: u32| {
        named.lines().all(|line| field(line, 2) != Some(id))
            && ranges.lines().all(|line| match (field(line, 1), field(line, 2)) {
                (Some(first), Some(count)) => id < first || id - first >= count,
                _ => true,
            })
    };
    (0..1024).map(|n| HOST_ID_FIRST + n * HOST_ID_STEP).find(|id| free(*id))
}

/// What init inherits.
pub struct Described {
    /// The description, as a memory file.
    pub document: OwnedFd,
    /// Detached mounts, when root made them.
    pub mounts: Vec<OwnedFd>,
    /// What init has to be able to do.
    pub set_up: SetUp,
}

/// A host path that is to be mounted, looked at.
struct Place {
    fd: OwnedFd,
    path: PathBuf,
    stat: rustix::fs::Stat,
}

/// Resolves, opens and maps everything that the plan names.
pub fn describe(
    spec: &BottleSpec,
    runner: &Runner,
    journal: &Journal,
    bounds: Option<Applied>,
) -> Result<Described, LaunchError> {
    check(spec)?;
    let mut wanted = vec![(spec.home.as_path(), Path::new(HOME), Access::ReadWrite)];
    wanted.extend(spec.binds.iter().map(|b| (b.source.as_path(), b.target.as_path(), b.access)));
    // Parents first, so that a bind within a bind is not covered by it.
    wanted.sort_by_key(|(_, target, _)| target.components().count());
    let mut idmaps = Idmaps::default();
    let mut mounts = Vec::new();
    let mut described = Vec::new();
    let mut protected = Vec::new();
    let mut git_overlooks = Vec::new();
    for (source, target, access) in wanted {
        let place = look(source)?;
        let directory = rustix::fs::FileType::from_raw_mode(place.stat.st_mode) == rustix::fs::FileType::Directory;
        let origin = if runner.root {
            inherited(&place, (access, Reach::Below), runner, &mut idmaps, &mut mounts)?
        } else {
            place.origin()
        };
        // Stubs are made only where the mount is possible.
        if access == Access::ReadWrite && directory && target != Path::new(HOME) {
            let guarded = journal.guard(&place.fd, &place.path, target)?;
            let stubs = guarded.iter().filter(|g| g.how == Guard::EmptyFile);
            let below = stubs.filter_map(|g| Some(g.path.strip_prefix(target).ok()?.to_str()?.to_owned()));
            git_overlooks.extend(below);
            protected.extend(guarded);
        }
        // The bottle's own home is nobody else's.
        if directory && target != Path::new(HOME) {
            protected.extend(hidden_sockets(&place, target)?);
        }
        described.push(Mount { target: target.to_owned(), writable: access == Access::ReadWrite, directory, origin });
    }
    for overlay in &spec.overlays {
        let lower = look(&overlay.source)?;
        protected.extend(hidden_sockets(&lower, &overlay.target)?);
        described.push(overlaid(overlay, &lower, runner, &mut idmaps, &mut mounts)?);
    }
    let image = image(spec, runner, &mut idmaps, &mut mounts, &mut protected)?;
    described.sort_by_key(|mount| mount.target.components().count());
    let memory_by_group = bounds.is_some_and(|applied| applied.memory == Bound::Cgroup);
    let init = InitSpec {
        command: spec.command.clone(),
        env: environment(spec),
        image,
        workdir: spec.workdir.clone(),
        mounts: described,
        files: spec.files.iter().map(|f| (f.path.clone(), f.content.len())).collect(),
        protected,
        git_overlooks,
        processes_max: u64::from(spec.limits.processes_max),
        open_files_max: u64::from(spec.limits.open_files_max),
        data_bytes_max: spec.limits.memory_bytes_max.filter(|_| !memory_by_group),
        capture: spec.capture.into(),
        route_ports: spec.route_ports.clone(),
        inside_ports: spec.inside_ports.clone(),
        stdio: spec.stdio.into(),
        host_name: spec.name.as_str().replace('_', "-"),
    };
    let document =
        document(&init, spec).map_err(|source| LaunchError::Outside { step: "describe the bottle", source })?;
    let set_up = if spec.overlays.is_empty() { SetUp::Plain } else { SetUp::Overlay };
    Ok(Described { document, mounts, set_up })
}

impl Place {
    /// For an ordinary user, whose init takes it by its path.
    fn origin(&self) -> Origin {
        Origin::Path { path: self.path.clone(), device: self.stat.st_dev, inode: self.stat.st_ino }
    }
}

/// For root, whose init inherits a mount.
fn inherited(
    place: &Place,
    how: (Access, Reach),
    runner: &Runner,
    idmaps: &mut Idmaps,
    mounts: &mut Vec<OwnedFd>,
) -> Result<Origin, LaunchError> {
    let mount = detached(place, how, runner, idmaps)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&mount);
    mounts.push(mount);
    Ok(Origin::Inherited(number))
}

/// The system's tree, when it is an image: only read, whoever owns it.
fn image(
    spec: &BottleSpec,
    runner: &Runner,
    idmaps: &mut Idmaps,
    mounts: &mut Vec<OwnedFd>,
    protected: &mut Vec<Protected>,
) -> Result<Option<Origin>, LaunchError> {
    let path = match &spec.root {
        RootSource::Host => return Ok(None),
        RootSource::Directory(path) => path,
    };
    let place = look(path)?;
    // The tree of a container that runs may hold its services' sockets.
    protected.extend(hidden_sockets(&place, Path::new("/"))?);
    Ok(Some(if runner.root {
        inherited(&place, (Access::ReadOnly, Reach::Below), runner, idmaps, mounts)?
    } else {
        place.origin()
    }))
}

/// An overlay's two parts, each with its owner translated when root makes the bottle. No stub is made and nothing is
/// guarded: what a program changes of the files that steer others is seen when the layer is applied.
fn overlaid(
    overlay: &Overlay,
    lower: &Place,
    runner: &Runner,
    idmaps: &mut Idmaps,
    mounts: &mut Vec<OwnedFd>,
) -> Result<Mount, LaunchError> {
    let layer = look(&overlay.layer)?;
    let (uid, gid) = (lower.stat.st_uid, lower.stat.st_gid);
    if !runner.root && (uid, gid) != runner.host_ids {
        return Err(LaunchError::OverlayOwner { path: lower.path.clone(), uid, gid });
    }
    let mut origin = |place: &Place| {
        if runner.root {
            // As writable, so that owners are translated; nothing is ever written to the lower one.
            inherited(place, (Access::ReadWrite, Reach::Alone), runner, idmaps, mounts)
        } else {
            Ok(place.origin())
        }
    };
    let origin = Origin::Layers { lower: Box::new(origin(lower)?), layer: Box::new(origin(&layer)?) };
    Ok(Mount { target: overlay.target.clone(), writable: true, directory: true, origin })
}

/// Sockets of the host in a bind, to be covered (B44).
fn hidden_sockets(place: &Place, target: &Path) -> Result<Vec<Protected>, LaunchError> {
    let sockets = crate::host_sockets::below(&place.fd, &place.path)
        .map_err(|source| LaunchError::Source { path: place.path.clone(), source })?;
    Ok(sockets.into_iter().map(|below| Protected { path: target.join(below), how: Guard::Hidden }).collect())
}

/// The plan's, and where git's system-wide settings are: a git with a prefix of its own would not look into `/etc`.
fn environment(spec: &BottleSpec) -> Vec<(String, String)> {
    let mut env = spec.env.clone();
    env.entry("GIT_CONFIG_SYSTEM".to_owned()).or_insert_with(|| crate::etc::GIT_CONFIG.to_owned());
    env.into_iter().collect()
}

fn check(spec: &BottleSpec) -> Result<(), LaunchError> {
    let overlays = spec.overlays.iter().map(|o| &o.target);
    let targets = spec.binds.iter().map(|b| &b.target).chain(overlays);
    let inside = targets.chain(spec.files.iter().map(|f| &f.path)).chain([&spec.workdir]);
    for path in inside {
        let plain = path.is_absolute()
            && path.to_str().is_some()
            && path.parent().is_some()
            && path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
        if !plain {
            return Err(LaunchError::Path { path: path.clone() });
        }
    }
    let bounded = [
        ("binds", spec.binds.len() + spec.overlays.len(), BINDS_MAX),
        ("ports of routes and of `forward:`", spec.route_ports.len() + spec.inside_ports.len(), ROUTE_PORTS_MAX),
    ];
    for (what, given, max) in bounded {
        if given > max {
            return Err(LaunchError::TooMany { what, given, max });
        }
    }
    if spec.command.is_empty() { Err(LaunchError::NoCommand) } else { Ok(()) }
}

/// Opens a source, which is named by its real path. A link on the way is refused: an earlier run, or one that still
/// goes on, could have pointed it at `~/.ssh` after the plan was checked (B51).
fn look(source: &Path) -> Result<Place, LaunchError> {
    let failed = |error: io::Error| LaunchError::Source { path: source.to_owned(), source: error };
    let path = std::fs::canonicalize(source).map_err(failed)?;
    if path != source {
        return Err(LaunchError::LinkInWritable { path: source.to_owned() });
    }
    if path.to_str().is_none() {
        return Err(LaunchError::Path { path });
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let fd = openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(|e| failed(e.into()))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed(e.into()))?;
    Ok(Place { fd, path, stat })
}

/// Which mounts are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Those below as well.
    Below,
    /// One alone: an overlay does not see what is mounted in its lower directory.
    Alone,
}

/// Root's side: a copy of the tree, out of every peer group, its owner translated to the bottle's.
fn detached(
    place: &Place,
    (access, reach): (Access, Reach),
    runner: &Runner,
    idmaps: &mut Idmaps,
) -> Result<OwnedFd, LaunchError> {
    let failed = |error: io::Error| LaunchError::Source { path: place.path.clone(), source: error };
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if reach == Reach::Below {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let mount = open_tree(&place.fd, "", flags).map_err(|e| failed(e.into()))?;
    let mut wanted = MountChange { set: NOSUID | NODEV, private: Private::Yes, depth: Depth::All, idmap: None };
    match access {
        Access::ReadOnly => {
            wanted.set |= RDONLY;
            change(mount.as_fd(), &wanted).map_err(failed)?;
        }
        Access::ReadWrite => {
            let owner = (place.stat.st_uid, place.stat.st_gid);
            let userns =
                if owner == runner.host_ids { None } else { Some(idmaps.of(owner, runner.host_ids).map_err(failed)?) };
            wanted.idmap = userns.map(AsFd::as_fd);
            change(mount.as_fd(), &wanted).map_err(|source| match source.raw_os_error() {
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPERM) => {
                    LaunchError::NoIdmap { path: place.path.clone(), source }
                }
                _ => failed(source),
            })?;
        }
    }
    Ok(mount)
}

/// User namespaces that carry an id map, by the owner on disk.
#[derive(Default)]
struct Idmaps {
    made: HashMap<(u32, u32), OwnedFd>,
}

impl Idmaps {
    /// On disk `owner`, seen through the mount as `host`; every other id is nobody's and cannot be written.
    fn of(&mut self, owner: (u32, u32), host: (u32, u32)) -> io::Result<&OwnedFd> {
        let userns = match self.made.remove(&owner) {
            Some(made) => made,
            None => make_idmap(owner, host)?,
        };
        Ok(self.made.entry(owner).or_insert(userns))
    }
}

fn make_idmap(owner: (u32, u32), host: (u32, u32)) -> io::Result<OwnedFd> {
    let holder = clone_idmap_holder()?;
    let made = (|| {
        write_proc(holder.pid, "uid_map", &format!("{} {} 1", owner.0, host.0))?;
        write_proc(holder.pid, "gid_map", &format!("{} {} 1", owner.1, host.1))?;
        std::fs::File::open(format!("/proc/{}/ns/user", holder.pid.as_raw_nonzero()))
    })();
    let _ = pidfd_send_signal(&holder.pidfd, Signal::KILL);
    let _ = waitid(rustix::process::WaitId::PidFd(holder.pidfd.as_fd()), WaitIdOptions::EXITED);
    Ok(made?.into())
}

fn document(init: &InitSpec, spec: &BottleSpec) -> io::Result<OwnedFd> {
    let json = serde_json::to_vec(init)?;
    let mut file = std::fs::File::from(memfd_create("carboy-bottle", MemfdFlags::CLOEXEC)?);
    file.write_all(&(json.len() as u64).to_ne_bytes())?;
    file.write_all(&json)?;
    for generated in &spec.files {
        file.write_all(&generated.content)?;
    }
    Ok(file.into())
}
