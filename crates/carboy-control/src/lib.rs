//! The composer: it alone introduces the rooms of the house to each other.
//!
//! *Architecture invariants:* no policy is decided here, no byte of a bottle is parsed here, and no text is printed
//! here; this crate connects what decides, what carries and what is shown.

pub mod approvals;
pub mod authority;
pub mod bottles;
pub mod chat;
pub mod clock;
pub mod controller;
mod datagram;
mod descriptors;
pub mod disk;
pub mod explain;
mod force;
mod fresh;
pub mod grants;
pub mod home;
pub mod host_user;
mod hosted;
pub mod image;
pub mod inside;
mod mcp;
mod notify;
pub mod operator;
mod plane;
pub mod ports;
pub mod propose;
pub mod proxy;
pub mod refusal;
pub mod registry;
mod reload;
pub mod resume;
pub mod runs;
pub mod seed;
pub mod serve;
pub mod session;
pub mod setup;
pub mod snapshot;
mod standing;
pub mod summary;
pub mod supervisor;
pub mod tour;
pub mod trust;
pub mod uninstall;
pub mod vault;
pub mod workspace;

/// What a chat agent is made of, as whoever talks to one needs it.
pub mod agent {
    pub use carboy_agent::{Application, Line, Tool, Who};
}

/// Reading and verifying the audit log.
pub mod log {
    pub use carboy_store::StoreError;
    pub use carboy_store::audit::{
        Answer, Follow, Found, Hint, Integrity, Query, Report, SEARCH_BYTES_MAX, find_refusal, follow, parse_time,
        query, tail, verify,
    };
}

/// Speaking to the controller.
pub mod controller_client {
    pub use carboy_store::controller::protocol::{Answer, Call, Role, Status};
    pub use carboy_store::controller::{FRAME_BYTES_MAX as CALL_BYTES_MAX, Line, LineError};

    pub use crate::controller::spent_by;
}

/// What this host can give a bottle.
pub mod doctor {
    pub use carboy_bottle::{Finding, HostReport, Standing, Topic, probe};
}

/// The bottle's side of a run.
pub mod bottle {
    pub use carboy_bottle::{Stdio, load_no_name_service, run_init_if_asked};
}

/// The host's clocks.
pub mod local_time {
    pub use carboy_bottle::{LocalTime, local_time};
}

/// The simulated agent that the tour runs inside its bottle.
pub mod probe {
    pub use carboy_sim::probe::{World, serve};
}

/// This program started once more, apart from its terminal.
pub mod apart {
    pub use carboy_bottle::host_process::{Apart, channel_at_stdin, inherited_channel, leave_terminal, start_apart};
}

/// Programs of the host: found where no bottle puts any, and run in `/`.
pub mod host_programs {
    pub use carboy_bottle::host_process::{Fence, Program};

    /// Finds a program and runs it; its standard output, or what went wrong in words.
    pub fn command(fence: &Fence, argv: &[String], wait_max: std::time::Duration) -> Result<Vec<u8>, String> {
        let (program, arguments) = argv.split_first().ok_or("has no program")?;
        let program = fence.find(program).map_err(|e| e.to_string())?;
        carboy_bottle::host_process::output(&program, arguments, wait_max).map_err(|e| e.to_string())
    }
}
