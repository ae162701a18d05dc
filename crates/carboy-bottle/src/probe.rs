//! What this host can give a bottle, and what to change where it cannot: the facts behind `carboy doctor`.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use carboy_core::ids::{BottleName, RunId};
use carboy_core::plan::{BottleSpec, CapturePolicy, CaptureTier, Limits, Overlay, StdioMode};

use crate::launch::{Bottle, InitProgram, LaunchError, LaunchOptions};
use crate::sys::spawn;

/// The host, looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// The best tier of capture; `None` when no bottle can be made here.
    pub tier: Option<CaptureTier>,
    /// Each thing that matters, in the order to read them.
    pub findings: Vec<Finding>,
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// About what.
    pub topic: Topic,
    /// How it stands.
    pub standing: Standing,
    /// What was seen, in one line.
    pub seen: String,
    /// What to do, where there is something to do. May have several lines (a profile to install).
    pub fix: Option<String>,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A bottle as a whole, tried.
    Bottle,
    /// New user namespaces without root.
    UserNamespaces,
    /// nf_tables with NAT, within a namespace.
    NfTables,
    /// System call filters.
    Seccomp,
    /// Landlock.
    Landlock,
    /// A `/proc` that nothing is mounted over.
    Proc,
    /// Id-mapped mounts, for bottles that root makes.
    IdmappedMounts,
    /// `workspace: overlay`, tried.
    Overlay,
    /// A control group for memory.
    MemoryGroup,
    /// A control group for processes.
    ProcessGroup,
}

impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Topic::Bottle => "bottle",
            Topic::UserNamespaces => "user namespaces",
            Topic::NfTables => "nf_tables",
            Topic::Seccomp => "seccomp",
            Topic::Landlock => "Landlock",
            Topic::Proc => "/proc",
            Topic::IdmappedMounts => "id-mapped mounts",
            Topic::Overlay => "overlay",
            Topic::MemoryGroup => "memory group",
            Topic::ProcessGroup => "process group",
        })
    }
}

/// How a thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As wished.
    Good,
    /// A bottle can be made, with less.
    Weaker,
    /// No bottle can be made.
    Blocking,
}

/// Lets programs of this path make user namespaces on Ubuntu 24.04 and later.
const APPARMOR_FIX: &str = "sudo tee /etc/apparmor.d/carboy >/dev/null <<'EOF'\nabi <abi/4.0>,\ninclude <tunables/global>\n\
profile carboy @EXE@ flags=(unconfined) {\n  userns,\n}\nEOF\nsudo apparmor_parser -r /etc/apparmor.d/carboy";

/// Looks at the host, and makes a bottle below `scratch` (where bottles' homes are) to see whether it stands; nothing is
/// started in it. The program has to call [`run_init_if_asked`](crate::run_init_if_asked) first thing in its main.
pub fn probe(scratch: &Path) -> HostReport {
    let (tier, bottle) = match try_bottle(scratch, Trial::Plain) {
        Ok(tier) => {
            (Some(tier), finding(Topic::Bottle, Standing::Good, format!("a bottle stands, tier {tier:?}"), None))
        }
        Err(error) => (None, finding(Topic::Bottle, Standing::Blocking, error.to_string(), None)),
    };
    let mut findings = vec![bottle, namespaces(), proc_visible(), seccomp(), nf_tables(tier), landlock()];
    if rustix::process::geteuid().is_root() {
        findings.push(idmapped());
    }
    if tier.is_some() {
        findings.push(overlay(scratch));
    }
    findings.push(group(Topic::MemoryGroup));
    findings.push(group(Topic::ProcessGroup));
    HostReport { tier, findings }
}

/// What the trial bottle has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trial {
    /// Its home alone.
    Plain,
    /// An overlay as well.
    Overlay,
}

fn try_bottle(scratch: &Path, trial: Trial) -> Result<CaptureTier, LaunchError> {
    let failed = |source| LaunchError::Outside { step: "make a directory for a trial bottle", source };
    let name = format!("probe-{}", std::process::id());
    let directory = scratch.join(&name);
    let home = directory.join("home");
    fs::create_dir_all(&home).map_err(failed)?;
    let directory = directory.canonicalize().map_err(failed)?;
    let mut overlays = Vec::new();
    if trial == Trial::Overlay {
        let overlay = Overlay {
            source: directory.join("workspace"),
            target: directory.join("workspace"),
            layer: directory.join("layer"),
        };
        for made in [overlay.source.clone(), overlay.layer.join("upper"), overlay.layer.join("work")] {
            fs::create_dir_all(made).map_err(failed)?;
        }
        overlays.push(overlay);
    }
    let named = "the name is of letters, digits and a hyphen";
    let spec = BottleSpec {
        name: BottleName::parse(&name).expect(named),
        run: RunId::parse(&name).expect(named),
        command: vec!["true".to_owned()],
        env: BTreeMap::new(),
        root: Default::default(),
        workdir: "/home/agent".into(),
        home,
        binds: Vec::new(),
        overlays,
        files: Vec::new(),
        limits: Limits::default(),
        capture: CapturePolicy::AllowT2,
        route_ports: Vec::new(),
        inside_ports: Vec::new(),
        stdio: StdioMode::Pipes,
        host_ids: None,
    };
    let options = LaunchOptions { state: directory.clone(), shared: directory.clone(), init: InitProgram::Itself };
    let tier = Bottle::launch(&spec, &options).and_then(|mut bottle| {
        let tier = bottle.take_captured().map(|captured| captured.tier);
        let _ = bottle.kill();
        bottle.wait();
        tier.ok_or(LaunchError::InitDied)
    });
    // The kernel's own directory in a layer is closed to everybody, its owner too.
    let closed = directory.join("layer").join("work").join("work");
    if trial == Trial::Overlay && closed.exists() {
        fs::set_permissions(closed, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    fs::remove_dir_all(&directory).map_err(failed)?;
    tier
}

fn finding(topic: Topic, standing: Standing, seen: impl Into<String>, fix: Option<String>) -> Finding {
    Finding { topic, standing, seen: seen.into(), fix }
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|v| v.trim().to_owned())
}

fn namespaces() -> Finding {
    let topic = Topic::UserNamespaces;
    let works = spawn::clone_idmap_holder().map(|holder| {
        // An AppArmor restriction lets the clone succeed and takes the capabilities away, which shows at the map.
        let pid = holder.pid.as_raw_nonzero();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let mapped = fs::write(format!("/proc/{pid}/setgroups"), "deny")
            .and_then(|()| fs::write(format!("/proc/{pid}/uid_map"), format!("0 {uid} 1")))
            .and_then(|()| fs::write(format!("/proc/{pid}/gid_map"), format!("0 {gid} 1")));
        let _ = rustix::process::pidfd_send_signal(&holder.pidfd, rustix::process::Signal::KILL);
        let wait = rustix::process::WaitId::PidFd(holder.pidfd.as_fd());
        let _ = rustix::process::waitid(wait, rustix::process::WaitIdOptions::EXITED);
        mapped
    });
    let root = rustix::process::geteuid().is_root();
    if !root && sysctl("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") && !profile_installed() {
        let exe = std::env::current_exe().map(|p| p.display().to_string()).unwrap_or("/usr/bin/carboy".to_owned());
        let seen =
            "AppArmor takes the rights in new user namespaces away (kernel.apparmor_restrict_unprivileged_userns = 1)";
        return finding(topic, Standing::Blocking, seen, Some(APPARMOR_FIX.replace("@EXE@", &exe)));
    }
    match works {
        Ok(Ok(())) => finding(topic, Standing::Good, "new user namespaces can be made", None),
        Ok(Err(error)) | Err(error) => {
            let (seen, fix) = if sysctl("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
                ("kernel.unprivileged_userns_clone = 0".to_owned(), "sudo sysctl -w kernel.unprivileged_userns_clone=1")
            } else if sysctl("user/max_user_namespaces").as_deref() == Some("0") {
                ("user.max_user_namespaces = 0".to_owned(), "sudo sysctl -w user.max_user_namespaces=15000")
            } else {
                (
                    format!("new user namespaces are refused: {error}"),
                    "in a container, allow user namespaces in its seccomp profile; else run carboy on the host",
                )
            };
            finding(topic, Standing::Blocking, seen, Some(fix.to_owned()))
        }
    }
}

/// Is this process under an AppArmor profile (such as the one of the fix) that lets it make namespaces?
fn profile_installed() -> bool {
    let label = fs::read_to_string("/proc/self/attr/apparmor/current")
        .or_else(|_| fs::read_to_string("/proc/self/attr/current"))
        .unwrap_or_default();
    let label = label.trim();
    !label.is_empty() && label != "unconfined"
}

fn nf_tables(tier: Option<CaptureTier>) -> Finding {
    let topic = Topic::NfTables;
    let modules = ["nf_tables", "nft_redir", "nft_chain_nat", "nft_reject_inet"];
    let built_in = |name: &str| Path::new("/sys/module").join(name).exists();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let base = Path::new("/lib/modules").join(release.trim());
    let lists = ["modules.dep", "modules.builtin"].map(|list| fs::read_to_string(base.join(list)).unwrap_or_default());
    let loadable = |name: &str| lists.iter().any(|list| list.contains(&format!("/{name}.ko")));
    let missing: Vec<&str> = modules.into_iter().filter(|name| !built_in(name) && !loadable(name)).collect();
    // A kernel may have them without a module's name to show; the trial bottle tells.
    if tier == Some(CaptureTier::T1) || (tier.is_none() && missing.is_empty()) {
        return finding(topic, Standing::Good, "nf_tables with NAT is there: every port is captured (T1)", None);
    }
    let seen = format!(
        "the kernel lacks {}: only ports that routes name are captured, and 53, 80, 443 are taken inside (T2)",
        if missing.is_empty() { "a part of nf_tables".to_owned() } else { missing.join(", ") }
    );
    finding(topic, Standing::Weaker, seen, Some(format!("sudo modprobe -a {}", modules.join(" "))))
}

fn proc_visible() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    // What systems mount there themselves hides nothing.
    let covered: Vec<&str> = points.filter(|p| p.starts_with("/proc/") && *p != "/proc/sys/fs/binfmt_misc").collect();
    match covered.as_slice() {
        [] => finding(Topic::Proc, Standing::Good, "/proc is fully visible", None),
        covered => {
            let seen = format!("parts of /proc are mounted over ({}), so a fresh one is refused", covered.join(", "));
            let fix = "run carboy on the host, or start the container with an unmasked /proc (docker: --security-opt systempaths=unconfined)";
            finding(Topic::Proc, Standing::Blocking, seen, Some(fix.to_owned()))
        }
    }
}

fn seccomp() -> Finding {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => {
            finding(Topic::Seccomp, Standing::Good, "system call filters are there", None)
        }
        Ok(_) | Err(_) => {
            let fix = "use a kernel with CONFIG_SECCOMP_FILTER=y".to_owned();
            finding(Topic::Seccomp, Standing::Blocking, "no system call filters", Some(fix))
        }
    }
}

fn landlock() -> Finding {
    let abi = crate::sys::process::landlock_abi();
    match abi {
        0 => {
            let fix = "add `landlock` to the kernel's lsm= list and reboot".to_owned();
            finding(Topic::Landlock, Standing::Weaker, "no Landlock: mounts and filters hold alone", Some(fix))
        }
        abi => finding(Topic::Landlock, Standing::Good, format!("Landlock ABI {abi}"), None),
    }
}

fn idmapped() -> Finding {
    let release = sysctl("kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).filter_map(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 12) {
        let seen = "the kernel has id-mapped mounts; the workspace's file system must have them too (ext4, xfs, btrfs, tmpfs from 6.3)";
        return finding(Topic::IdmappedMounts, Standing::Good, seen, None);
    }
    let fix = "run carboy as an ordinary user, or with `--user NAME`".to_owned();
    finding(Topic::IdmappedMounts, Standing::Blocking, format!("kernel {release} has no id-mapped mounts"), Some(fix))
}

fn overlay(scratch: &Path) -> Finding {
    match try_bottle(scratch, Trial::Overlay) {
        Ok(_) => {
            finding(Topic::Overlay, Standing::Good, "`workspace: overlay` works: changes wait until applied", None)
        }
        Err(error) => {
            let fix = "use a kernel from 5.11 on (as root from 5.19), put CARBOY_HOME on a file system with user extended \
                       attributes (ext4, xfs, btrfs, tmpfs from 6.6), or leave `workspace: direct`";
            finding(
                Topic::Overlay,
                Standing::Weaker,
                format!("no `workspace: overlay` here: {error}"),
                Some(fix.into()),
            )
        }
    }
}

fn group(topic: Topic) -> Finding {
    let (controller, instead) = match topic {
        Topic::MemoryGroup => ("memory", "memory is bounded per process (RLIMIT_DATA) instead of per bottle"),
        Topic::ProcessGroup => ("pids", "processes are bounded by RLIMIT_NPROC"),
        Topic::Bottle
        | Topic::UserNamespaces
        | Topic::NfTables
        | Topic::Seccomp
        | Topic::Landlock
        | Topic::Proc
        | Topic::IdmappedMounts
        | Topic::Overlay => ("", ""),
    };
    match crate::cgroup::available(controller) {
        Some(place) => {
            finding(topic, Standing::Good, format!("{controller}: groups can be made below {}", place.display()), None)
        }
        None => {
            let fix =
                "start carboy below a delegated group: systemd-run --user --scope -p Delegate=yes carboy …".to_owned();
            finding(topic, Standing::Weaker, format!("{controller}: no group can be made; {instead}"), Some(fix))
        }
    }
}
