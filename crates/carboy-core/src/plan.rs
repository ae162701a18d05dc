//! The sandbox's part of a run's plan: everything that has to be known before a process starts. (The gateway's part is
//! [`RouteSet`](crate::route::RouteSet) and [`Upstreams`](crate::upstream::Upstreams).)
//!
//! A manifest is read once; the rooms below take the part that is theirs and none of them reads it again. *Must never*
//! carry a secret: secrets are named here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::ids::{BottleName, RunId};

/// What to build and what to start in it. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BottleSpec {
    /// The name a person gave the bottle.
    pub name: BottleName,
    /// This run of it.
    pub run: RunId,
    /// Program and arguments, looked up on the bottle's `PATH`; never empty.
    pub command: Vec<String>,
    /// The whole environment inside, certificates' variables included; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// What stands in the place of the system inside.
    pub root: RootSource,
    /// Working directory inside; below a bind or the home.
    pub workdir: PathBuf,
    /// Host directory that appears as `/home/agent`.
    pub home: PathBuf,
    /// What else of the host is visible.
    pub binds: Vec<Bind>,
    /// What of the host is visible and can be changed inside without being changed.
    pub overlays: Vec<Overlay>,
    /// Files that the supervisor generates, by their absolute path inside (CA bundle, `.gitconfig`…).
    pub files: Vec<GeneratedFile>,
    /// Bounds on what the processes may use.
    pub limits: Limits,
    /// How traffic is captured.
    pub capture: CapturePolicy,
    /// Ports that some route names; the listeners of [`CaptureTier::T2`].
    pub route_ports: Vec<u16>,
    /// Ports of the bottle's own loopback on which the supervisor listens, for [`Forward`]s.
    pub inside_ports: Vec<u16>,
    /// How the program's standard streams are connected.
    pub stdio: StdioMode,
    /// Host uid and gid to map when carboy itself runs as root; `None` picks an unused one.
    pub host_ids: Option<(u32, u32)>,
}

/// The system that programs inside see: `/usr`, `/bin`, `/lib`, `/etc` and their like, none of it writable.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum RootSource {
    /// The host's own, as far as a bottle may see it.
    #[default]
    Host,
    /// A host directory that holds a root file system; nothing of the host's own system is visible then. Its real path.
    Directory(PathBuf),
}

/// A host path made visible inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Host path; must exist.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: PathBuf,
    /// Whether processes inside may write.
    pub access: Access,
}

/// `workspace: overlay`: a host directory that programs inside change at will while it stays as it is. What they change
/// goes to a layer, which the operator looks at and applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Host directory; only read.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: PathBuf,
    /// Host directory that holds `upper` (what was changed) and an empty `work`, both on one file system.
    pub layer: PathBuf,
}

/// May it be written from inside?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Visible, not writable.
    ReadOnly,
    /// Visible and writable.
    ReadWrite,
}

/// A small file that exists only inside, read-only there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Absolute path inside.
    pub path: PathBuf,
    /// Its whole content.
    pub content: Vec<u8>,
}

/// Resource bounds. `None` leaves a resource unbounded by carboy (the host's own limits still hold).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory for everything in the bottle (cgroup) or per process (RLIMIT_AS is not used: it
    /// breaks garbage-collected runtimes; RLIMIT_DATA is).
    pub memory_bytes_max: Option<u64>,
    /// Processes and threads at once.
    pub processes_max: u32,
    /// Open files per process.
    pub open_files_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory_bytes_max: None, processes_max: 4096, open_files_max: 65_536 }
    }
}

/// Which way of capturing is acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CapturePolicy {
    /// T1 where the host gives it, else refuse.
    #[default]
    RequireT1,
    /// T1 where the host gives it, else T2 (the policy said so).
    AllowT2,
    /// T2 even where T1 is possible (for tests and for diagnosing).
    ForceT2,
}

/// How a bottle's traffic is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CaptureTier {
    /// AnyIP and nftables: every TCP port, everything else rejected.
    T1,
    /// AnyIP alone: ports 53, 80, 443 and those that routes name; the kernel refuses the others.
    T2,
}

impl CaptureTier {
    /// What it means, in a clause.
    pub fn meaning(self) -> &'static str {
        match self {
            CaptureTier::T1 => "every TCP port captured, everything else rejected",
            CaptureTier::T2 => {
                "ports 53, 80, 443 and those that routes name captured, every other one refused by the kernel"
            }
        }
    }
}

/// The program's standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioMode {
    /// A pseudo-terminal of the bottle's own, of this size at the start.
    Terminal {
        /// Rows of the window.
        rows: u16,
        /// Columns of the window.
        cols: u16,
    },
    /// Three pipes. A host descriptor is never handed in: the bottle could reopen it with other rights.
    Pipes,
}

/// `publish`: a port of a program inside, reachable on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Publish {
    /// Where the host listens; 127.0.0.1 unless the operator wrote another address.
    pub listen: SocketAddr,
    /// The port on which the program inside listens, on its own loopback.
    pub inside: u16,
}

/// `forward`: a service of the host, reachable on a port of the bottle's own loopback.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// The port inside.
    pub inside: u16,
    /// Where the service is.
    pub to: Service,
}

/// A service of the host that speaks whatever it speaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// At an address; never a name, so that nothing has to be looked up.
    Tcp(SocketAddr),
    /// On a Unix socket.
    Unix(PathBuf),
}

/// `image`: what the bottle sees as its system, in place of the host's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Image {
    /// A directory that holds a root file system.
    Directory(PathBuf),
    /// An OCI image layout or a `docker save` file, as a tar archive.
    Archive(PathBuf),
    /// Built with the container tool that the host has; the context is the file's directory.
    Dockerfile(PathBuf),
}
