//! A control group for the bottle, where the host lets this user make one; else resource limits have to do.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carboy_core::ids::RunId;
use carboy_core::plan::Limits;

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
        let mut group = Group { directories: Vec::new(), applied: Applied::RLIMITS };
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
    pub fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |directory: &PathBuf| {
            let tasks = directory.join("tasks");
            let door = if tasks.exists() { tasks } else { directory.join("cgroup.procs") };
            fs::OpenOptions::new().write(true).open(door).map(OwnedFd::from)
        };
        self.directories.iter().map(open).collect()
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
            if !known && fs::create_dir(&directory).is_err() {
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
    let mut group = Group { directories: Vec::new(), applied: Applied::RLIMITS };
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

fn locate(controller: &str, groups: &str, mounts: &str) -> Option<Hierarchy> {
    let named = |line: &&str| line.split(':').nth(1).is_some_and(|list| list.split(',').any(|c| c == controller));
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
    }
}
