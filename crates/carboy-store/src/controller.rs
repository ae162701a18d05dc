//! The controller from outside: what is said to it, and the client that says it for one supervisor.
//!
//! ```text
//!  gateway ── Ledger port ──► Client ── frames over a Unix socket (0600) ──► controller, one per home
//!  bottle  ◄── ClientEvents ──┘      ◄── answers in any order, pushes ───────┘
//! ```
//!
//! *Architecture invariants:* nothing here reads a byte of a bottle. No secret goes over the socket in either direction.
//! A request that the controller did not answer was not granted.

mod client;
mod dial;
mod events;
pub mod frame;
mod line;
pub mod protocol;

pub use client::{AWAY_WAIT_MAX, CALLS_MAX, Client, ENDINGS_MAX, HEARTBEAT_EVERY, Reach};
pub use events::{ClientEvents, EVENTS_MAX};
pub use frame::FRAME_BYTES_MAX;
pub use line::{Line, LineError};
