//! What carboy keeps on disk: the audit log, the ledger of tokens, and sessions of chat agents; and how the process that keeps it is spoken to.
//!
//! *Architecture invariants:* nothing outside this crate opens the log or the ledger for writing. Nothing that was
//! acknowledged is dropped, and nothing is acknowledged that could not be written: whoever cannot record an act does not
//! act. What a log says (entries, hashes, kinds of tampering) is decided in `carboy_core::audit`, and what may be spent in
//! `carboy_core::budget`; here is only how it lies on disk. Nothing above [`ledger::LedgerStore`] knows which database it is.

pub mod audit;
pub mod controller;
mod error;
pub mod ledger;
mod place;
pub mod sessions;
mod ticket;

pub use error::StoreError;
