//! The controller: one process per home, which alone keeps the ledger and says what may be spent.
//!
//! ```text
//!  supervisors ─┐            ┌─ leases    whose holds end when
//!  operators ───┼─ socket ───┼─ keeper    the ledger, pushes, nothing without a log
//!  observers ───┘            └─ snapshots
//! ```
//!
//! *Must never* hold a secret, parse a byte of a bottle, or act on one: it tells its supervisor.

mod answering;
mod connection;
pub mod journal;
mod keeper;
pub mod leases;
mod metrics;
pub mod process;
mod projection;
mod serving;
mod snapshots;
mod spent;
pub mod start;
pub mod unit;

pub use projection::KeySource;
pub use serving::{
    CONNECTIONS_MAX, IDLE, OBSERVERS_MAX, OPERATORS_MAX, Running, ServeError, could_not_serve, open_ledger, run,
};
pub use spent::spent_by;
pub use start::{START_WAIT_MAX, StartError, Starter, Word};
