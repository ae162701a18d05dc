//! Make, hold and kill a sealed bottle: namespaces, captured traffic, mounts, system call filter, Landlock.
//!
//! ```text
//! supervisor (host)                                  bottle (own user, net, mount, pid, ipc, uts, cgroup namespaces)
//!   Bottle::launch ──────── clone, re-exec ────────▶ init: network, root file system, drop everything
//!   accept, DNS    ◀─── listening sockets, SCM_RIGHTS ─┘   │
//!   Bottle::start  ────────────────────────────────▶       └─▶ the program: uid 1000, no capability, no way out
//! ```
//!
//! *Architecture invariants:* host uid 0 is never mapped into a bottle. No descriptor of the host but the sockets'
//! control channel crosses into it, and that one ends at init. There is no relay, bridge or helper process inside:
//! what the supervisor accepts on was made inside and passed out. A set-up step that fails ends the launch; there is
//! no weaker bottle that was not asked for. `unsafe` stands in [`sys`] alone.

mod cgroup;
mod describe;
mod etc;
mod freezer;
mod git_config;
pub mod host_process;
mod host_sockets;
mod init;
mod inside;
mod launch;
mod noticed;
mod probe;
mod protect;
pub mod quarantine;
mod repositories;
mod sockets;
mod stillness;
mod sys;
mod syscalls;
mod wire;

pub use cgroup::{Applied, Bound};
pub use etc::GIT_IDENTITY;
pub use git_config::{ConfigAudit, audit_git_config, audit_new_git_config};
pub use init::run_init_if_asked;
pub use inside::{Exec, ExecRequest, ExecWaiter, Inside};
pub use launch::{Bottle, ExitOutcome, ExitReport, Holds, InitProgram, LaunchError, LaunchOptions, Stdio, Watcher};
pub use noticed::{NOTICED_MAX, Noticed, notice};
pub use probe::{Finding, HostReport, Standing, Topic, probe};
pub use protect::{Cleaned, Quarantined, put_crashed_in_order, steers};
pub use sockets::{CapturedSockets, CapturedTcp, DnsSocket, TcpKind};
pub use stillness::Stillness;
pub use sys::names::load_no_name_service;
pub use sys::time::{LocalTime, local_time};

/// The uid and gid inside: not 0, because agent programs refuse to run as root.
pub const INSIDE_ID: u32 = 1000;
