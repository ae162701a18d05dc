//! What carboy keeps on disk, and how the process that keeps it is spoken to.
//!
//! *Architecture invariants:* nothing outside this crate opens the log for writing. Nothing that was acknowledged is
//! dropped, and nothing is acknowledged that could not be written: whoever cannot record an act does not act. What a
//! log says (entries, hashes, kinds of tampering) is decided in `carboy_core::audit`; here is only how it lies on disk.

pub mod audit;
pub mod controller;
mod error;

pub use error::StoreError;
