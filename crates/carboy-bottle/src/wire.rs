//! What passes between the supervisor and a bottle's init: one sealed description in, short messages both ways.
//!
//! The description holds nothing secret: init's memory is as good as the bottle's.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use carboy_core::plan::{CapturePolicy, StdioMode};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

/// Longest message, in octets.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Most descriptors in one message (2 families × (4 fixed + routes' ports)); the kernel's own limit is 253.
pub const DESCRIPTORS_MAX: usize = 240;

/// Most programs that run beside the first one at the same time.
pub const EXECS_MAX: usize = 16;
/// Most connections to a port inside that are being made at the same time.
pub const CONNECTS_MAX: usize = 64;
/// Longest description of a program to run beside the first one, in octets of JSON.
pub const EXEC_BYTES_MAX: usize = 1024 * 1024;
/// Longest that a further program may take from fork to exec. A program inside could stop it in between.
pub const EXEC_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest that a connection to a port inside may take. A program inside could listen and never accept.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Longest that everything inside may take to stand still when init has to stop it by signals.
pub const PAUSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// All that init has to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct InitSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whole environment.
    pub env: Vec<(String, String)>,
    /// The system's tree, when it is not the host's.
    pub image: Option<Origin>,
    /// Where the program starts.
    pub workdir: PathBuf,
    /// Parents before children.
    pub mounts: Vec<Mount>,
    /// Path and length; the contents follow the description in this order.
    pub files: Vec<(PathBuf, usize)>,
    /// Agent-steering files, parents before children.
    pub protected: Vec<Protected>,
    /// Stubs that are files, relative to their bind: git is told to overlook them.
    pub git_overlooks: Vec<String>,
    /// Most processes, or as many as the host allows.
    pub processes_max: u64,
    /// Most open files per process.
    pub open_files_max: u64,
    /// Data segment per process, when no cgroup bounds memory.
    pub data_bytes_max: Option<u64>,
    /// Capture wanted.
    pub capture: Capture,
    /// Listeners of T2.
    pub route_ports: Vec<u16>,
    /// Ports of the bottle's own loopback that the supervisor serves.
    pub inside_ports: Vec<u16>,
    /// Standard streams.
    pub stdio: Stdio,
    /// Host name inside.
    pub host_name: String,
}

/// One host path inside.
#[derive(Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside.
    pub target: PathBuf,
    /// Writable inside?
    pub writable: bool,
    /// A directory (or a single file)?
    pub directory: bool,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a mount comes from.
#[derive(Debug, Serialize, Deserialize)]
pub enum Origin {
    /// A detached mount that root made, inherited under this number.
    Inherited(i32),
    /// A path, with the device and inode that it had when the supervisor looked.
    Path {
        /// Canonical host path.
        path: PathBuf,
        /// `st_dev`.
        device: u64,
        /// `st_ino`.
        inode: u64,
    },
    /// An overlay: what is below it, and the directory that holds `upper` and `work`.
    Layers {
        /// Only read.
        lower: Box<Origin>,
        /// Written to.
        layer: Box<Origin>,
    },
}

/// What is done at a path that could steer an agent or an editor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protected {
    /// Absolute path inside.
    pub path: PathBuf,
    /// How.
    pub how: Guard,
}

/// See [`Protected`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// Mounted onto itself, so that the directory above a protected file cannot be renamed away.
    Pin,
    /// Mounted onto itself, not writable.
    ReadOnly,
    /// An empty stub that was absent before, not writable.
    EmptyFile,
    /// An empty stub directory: nothing can be made in it.
    EmptyDirectory,
    /// Covered, where it is still there.
    Hidden,
}

/// Mirror of [`CapturePolicy`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Capture {
    /// T1 or nothing.
    RequireT1,
    /// T1 if possible.
    AllowT2,
    /// T2.
    ForceT2,
}

impl From<CapturePolicy> for Capture {
    fn from(policy: CapturePolicy) -> Self {
        match policy {
            CapturePolicy::RequireT1 => Capture::RequireT1,
            CapturePolicy::AllowT2 => Capture::AllowT2,
            CapturePolicy::ForceT2 => Capture::ForceT2,
        }
    }
}

impl From<Capture> for CapturePolicy {
    fn from(capture: Capture) -> Self {
        match capture {
            Capture::RequireT1 => CapturePolicy::RequireT1,
            Capture::AllowT2 => CapturePolicy::AllowT2,
            Capture::ForceT2 => CapturePolicy::ForceT2,
        }
    }
}

/// Mirror of [`carboy_core::plan::StdioMode`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Stdio {
    /// A terminal of this size.
    Terminal {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Three pipes.
    Pipes,
}

impl From<StdioMode> for Stdio {
    fn from(mode: StdioMode) -> Self {
        match mode {
            StdioMode::Terminal { rows, cols } => Stdio::Terminal { rows, cols },
            StdioMode::Pipes => Stdio::Pipes,
        }
    }
}

/// A socket that was passed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Socket {
    /// What it is for.
    pub role: SocketRole,
    /// IPv6?
    pub v6: bool,
}

/// What a passed socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketRole {
    /// TCP of every port.
    Redirected,
    /// TCP of one port.
    Port(u16),
    /// Datagrams on port 53.
    Dns,
    /// TCP of one port, on the loopback addresses alone.
    Inside(u16),
}

/// A program to run beside the first one, or what the first one's environment has besides. It travels in a memory file: a
/// prompt on a command line may be long, and so may a placeholder.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExecDocument {
    /// Program and arguments; none for the first one, which has its own.
    pub command: Vec<String>,
    /// What the environment has besides, or instead of, the first program's.
    pub env: Vec<(String, String)>,
    /// Where it starts; where the first one did, when absent.
    pub workdir: Option<PathBuf>,
}

/// From init to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// The network stands; sockets come with it.
    Sockets {
        /// T1?
        t1: bool,
        /// What they are, in order.
        sockets: Vec<Socket>,
    },
    /// Everything stands and the privileges are gone; the streams come with it (a pty's master, or stdin, stdout, stderr).
    Ready {
        /// Landlock ABI in force, 0 for none.
        landlock_abi: u32,
    },
    /// A step of the set-up failed.
    Failed {
        /// What was tried.
        step: String,
        /// The operating system's number, when it has one.
        errno: Option<i32>,
    },
    /// The program could not be started.
    NotStarted {
        /// Why: `ENOENT`, `EACCES`…
        errno: i32,
    },
    /// The program ended.
    Exited {
        /// Its code, when it ended itself.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// A further program runs; its streams come with it, as with [`FromInit::Ready`].
    ExecStarted {
        /// The supervisor's number for it.
        id: u32,
    },
    /// A further program could not be started.
    ExecNotStarted {
        /// The supervisor's number for it.
        id: u32,
        /// Why.
        errno: i32,
    },
    /// A further program ended.
    ExecExited {
        /// The supervisor's number for it.
        id: u32,
        /// Its code, when it ended itself.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// A connection to a port inside stands; its socket comes with it.
    Connected {
        /// The supervisor's number for it.
        id: u32,
    },
    /// A connection to a port inside could not be made.
    NotConnected {
        /// The supervisor's number for it.
        id: u32,
        /// Why: `ECONNREFUSED` when nobody listens.
        errno: i32,
    },
    /// Everything inside was told to stand still, and looked at.
    Paused {
        /// The supervisor's number for it.
        id: u32,
        /// Processes that had not stopped when it was looked for the last time.
        restless: u32,
    },
    /// Everything inside goes on.
    Thawed {
        /// The supervisor's number for it.
        id: u32,
    },
}

/// From the supervisor to init.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToInit {
    /// Start the program. An [`ExecDocument`] comes with it where its environment was not known before.
    Start,
    /// Send this signal to the program's process group.
    Signal(i32),
    /// Start another program beside the first; an [`ExecDocument`] comes with it.
    Exec {
        /// The supervisor's number for it.
        id: u32,
        /// Its standard streams.
        stdio: Stdio,
    },
    /// Send this signal to a further program's process group.
    ExecSignal {
        /// Which one.
        id: u32,
        /// The signal.
        signal: i32,
    },
    /// Connect to this port of the bottle's own loopback.
    Connect {
        /// The supervisor's number for it.
        id: u32,
        /// The port.
        port: u16,
    },
    /// Stop everything inside by signals.
    Pause {
        /// The supervisor's number for it.
        id: u32,
    },
    /// Let it go on.
    Thaw {
        /// The supervisor's number for it.
        id: u32,
    },
}

/// Sends one message with descriptors on a sequenced-packet socket.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "control message too large"));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(socket, &[io::IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message with its descriptors; `None` when the other side is gone.
pub fn receive<T: for<'de> Deserialize<'de>>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0_u8; MESSAGE_BYTES_MAX];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [io::IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            descriptors.extend(list);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[..received.bytes])?;
    Ok(Some((message, descriptors)))
}
