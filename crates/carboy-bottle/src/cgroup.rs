//! A control group for the bottle, where the host lets this user make one; else resource limits have to do.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carboy_core::ids::RunId;
use carboy_core::plan::Limits;
use rustix::fs::{Mode, OFlags};

use crate::freezer::{FREEZE, Freezer, Freezing};

/// Removal waits for the kernel to finish the dead processes: this many times, twice as long each time, up to a maximum.
const REMOVE_TRIES_MAX: u32 = 200;
const REMOVE_WAIT: Duration = Duration::from_micros(100);
const REMOVE_WAIT_MAX: Duration = Duration::from_millis(5);

/// What bounds a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A control group: exact, for the bottle as a whole.
    Cgroup,
    /// A resource limit: memory per process, processes per bottle.
    Rlimit,
}

/// What bounds a bottle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Memory.
    pub memory: Bound,
    /// Processes (a resource limit always applies as well).
    pub processes: Bound,
}

impl Applied {
    /// No group at all.
    pub const RLIMITS: Applied = Applied { memory: Bound::Rlimit, processes: Bound::Rlimit };
}

/// The directories that were made for one bottle.
#[derive(Debug)]
pub struct Group {
    directories: Vec<PathBuf>,
    applied: Applied,
    freezer: Option<PathBuf>,
}

/// Where a controller's groups are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// This process's own group.
    own: PathBuf,
    /// Where the mount begins; nothing above is a group.
    top: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Group {
    /// Makes what the host allows; `None` when that is nothing.
    pub fn make(run: &RunId, limits: &Limits) -> Option<Group> {
        let name = format!("carboy-{}", run.as_str());
        let mut group = Group { directories: Vec::new(), applied: Applied::RLIMITS, freezer: None };
        if let Some(bytes) = limits.memory_bytes_max
            && group.bound(
                "memory",
                &name,
                [("memory.limit_in_bytes", "memory.max"), ("memory.memsw.limit_in_bytes", "memory.swap.max")],
                bytes,
            )
        {
            group.applied.memory = Bound::Cgroup;
        }
        if group.bound("pids", &name, [("pids.max", "pids.max"), ("", "")], u64::from(limits.processes_max)) {
            group.applied.processes = Bound::Cgroup;
        }
        group.find_freezer(&name);
        group.directories.iter().filter_map(|directory| directory.parent()).for_each(sweep);
        if group.directories.is_empty() { None } else { Some(group) }
    }

    /// What it bounds.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// What a process writes `0` to in order to move itself in; its children follow.
    ///
    /// It moves itself because moving *another* process stalls now and then, until every processor has noticed: of thirty
    /// moves of a child by its parent the slowest took 26 ms, of thirty in which a thread wrote itself to V1's `tasks`
    /// 0.24 ms.
    pub fn doors(&self, freezing: Freezing) -> io::Result<Vec<OwnedFd>> {
        let open = |directory: &PathBuf| {
            let tasks = directory.join("tasks");
            let door = if tasks.exists() { tasks } else { directory.join("cgroup.procs") };
            fs::OpenOptions::new().write(true).open(door).map(OwnedFd::from)
        };
        let born_in = |directory: &&PathBuf| freezing == Freezing::Yes && self.freezer.as_ref() == Some(*directory);
        // One without a freezer's use and without a bound is left alone.
        let bounds = |directory: &&PathBuf| self.bounds(directory);
        self.directories.iter().filter(bounds).filter(|directory| !born_in(directory)).map(open).collect()
    }

    /// The group in which everything can be made to stand still, opened for a process to be born in it.
    pub fn birthplace(&self) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(self.freezer.as_ref()?, flags, Mode::empty()).ok()
    }

    /// What makes everything that was born there stand still.
    pub fn freezer(&self) -> Option<Freezer> {
        self.freezer.clone().map(Freezer::of)
    }

    /// Is it there for more than the freezer?
    fn bounds(&self, directory: &Path) -> bool {
        self.freezer.as_deref() != Some(directory)
            || directory.join("pids.max").exists()
            || directory.join("memory.max").exists()
    }

    /// A group that has processes, bounds or not, can be frozen where the host has the unified hierarchy. V1's freezer is of
    /// no use: what it has frozen cannot be killed, so that a supervisor's death would leave a bottle that nobody ends.
    fn find_freezer(&mut self, name: &str) {
        let has_one = |directory: &Path| directory.join(FREEZE).exists();
        self.freezer = self.directories.iter().find(|directory| has_one(directory)).cloned();
        let Some(place) = unified().filter(|_| self.freezer.is_none()) else { return };
        for parent in place.own.ancestors().take_while(|parent| parent.starts_with(&place.top)) {
            let directory = parent.join(name);
            if !make_directory(&directory) {
                continue;
            }
            if has_one(&directory) {
                self.freezer = Some(directory.clone());
                self.directories.push(directory);
                return;
            }
            let _ = fs::remove_dir(&directory);
        }
    }

    /// Removes the directories; the last processes may still be on their way out.
    pub fn remove(self) {
        for directory in &self.directories {
            let mut wait = REMOVE_WAIT;
            for _ in 0..REMOVE_TRIES_MAX {
                match fs::remove_dir(directory) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(wait),
                    Ok(()) | Err(_) => break,
                }
                wait = REMOVE_WAIT_MAX.min(wait * 2);
            }
        }
    }

    /// Sets the first file (the bound) and tries the second (the same for swap; absent on many hosts).
    fn bound(&mut self, controller: &str, name: &str, files: [(&str, &str); 2], value: u64) -> bool {
        let Some(hierarchy) = hierarchy(controller) else { return false };
        let candidates = match hierarchy.version {
            Version::V1 => vec![hierarchy.own.clone()],
            // A group with processes cannot have children with controllers; its parent may, when it is delegated.
            Version::V2 => {
                hierarchy.own.ancestors().take_while(|p| p.starts_with(&hierarchy.top)).map(Path::to_owned).collect()
            }
        };
        for parent in candidates {
            let directory = parent.join(name);
            let known = self.directories.contains(&directory);
            if hierarchy.version == Version::V2 && !controls(&parent, controller) {
                continue;
            }
            if !known && !make_directory(&directory) {
                continue;
            }
            let file = |names: (&str, &str)| match hierarchy.version {
                Version::V1 => directory.join(names.0),
                Version::V2 => directory.join(names.1),
            };
            if fs::write(file(files[0]), value.to_string()).is_ok() {
                if !files[1].0.is_empty() {
                    // V1 counts memory and swap together, V2 swap alone: neither lets swap be a way around.
                    let swap = if hierarchy.version == Version::V2 { 0 } else { value };
                    let _ = fs::write(file(files[1]), swap.to_string());
                }
                if !known {
                    self.directories.push(directory);
                }
                return true;
            }
            if !known {
                let _ = fs::remove_dir(&directory);
            }
        }
        false
    }
}

/// Removes the empty groups of supervisors that were killed. A populated one refuses; one that is about to be populated
/// is younger than this.
fn sweep(parent: &Path) {
    const ABANDONED_AFTER: Duration = Duration::from_secs(60);
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("carboy-")) {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|made| made.elapsed().ok());
        if age.is_some_and(|age| age > ABANDONED_AFTER) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn controls(parent: &Path, controller: &str) -> bool {
    let enabled = || {
        let list = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
        list.split_whitespace().any(|name| name == controller)
    };
    enabled() || (fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}")).is_ok() && enabled())
}

/// Where a group with this controller could be made, if anywhere. Makes nothing that stays.
pub fn available(controller: &str) -> Option<PathBuf> {
    const HARMLESS: u64 = 4_000_000;
    let mut group = Group { directories: Vec::new(), applied: Applied::RLIMITS, freezer: None };
    let files = match controller {
        "memory" => [("memory.limit_in_bytes", "memory.max"), ("", "")],
        _ => [("pids.max", "pids.max"), ("", "")],
    };
    let name = format!("carboy-probe-{}", std::process::id());
    let made = group.bound(controller, &name, files, HARMLESS);
    let place = group.directories.first().and_then(|d| d.parent()).map(Path::to_owned);
    group.remove();
    place.filter(|_| made)
}

/// Finds a controller's hierarchy and this process's place in it.
fn hierarchy(controller: &str) -> Option<Hierarchy> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    locate(controller, &groups, &mounts)
}

/// The unified hierarchy, whatever controllers it has, and this process's place in it.
fn unified() -> Option<Hierarchy> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // No V1 hierarchy has a controller of this name.
    locate("", &groups, &mounts)
}

/// Makes the directory; an empty one that a killed supervisor of the same run has left is made anew.
fn make_directory(directory: &Path) -> bool {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_dir(directory).and_then(|()| fs::create_dir(directory)).is_ok()
        }
        made => made.is_ok(),
    }
}

fn locate(controller: &str, groups: &str, mounts: &str) -> Option<Hierarchy> {
    let named = |line: &&str| {
        line.split(':').nth(1).is_some_and(|list| !list.is_empty() && list.split(',').any(|c| c == controller))
    };
    let (version, line) = match groups.lines().find(named) {
        Some(line) => (Version::V1, line),
        None => (Version::V2, groups.lines().find(|line| line.starts_with("0::"))?),
    };
    let path = line.splitn(3, ':').nth(2)?;
    for mount in mounts.lines() {
        let (left, right) = mount.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
        let fits = match version {
            Version::V1 => kind == "cgroup" && options.split(',').any(|o| o == controller),
            Version::V2 => kind == "cgroup2",
        };
        if fits {
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(path));
            let below = below.strip_prefix("/").unwrap_or(below);
            return Some(Hierarchy { own: Path::new(point).join(below), top: point.into(), version });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v1_controller_is_found_by_its_mount_option() {
        let groups = "7:memory:/jobs\n0::/user.slice\n";
        let mounts = "35 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = locate("memory", groups, mounts).unwrap();
        assert_eq!((found.own, found.version), ("/sys/fs/cgroup/memory/jobs".into(), Version::V1));
        let pids = locate("pids", groups, mounts).unwrap();
        assert_eq!((pids.own, pids.version), ("/sys/fs/cgroup/unified/user.slice".into(), Version::V2));
        let any = locate("", groups, mounts).unwrap();
        assert_eq!((any.own, any.version), ("/sys/fs/cgroup/unified/user.slice".into(), Version::V2));
    }
}
