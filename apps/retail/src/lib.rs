//! A retail shop's support desk: the retail domain of tau2-bench (MIT) as an application, its policy as code.
//!
//! ```text
//!  data ─▶ policy ─▶ shop ─▶ tools ─▶ agent        each module knows those to its left, none to its right
//! ```
//!
//! *Architecture invariants:* nothing is told or done before a customer is known; one conversation has one customer; nothing
//! of anybody else's can be named, and a write is a pure function of records, run in one transaction, once for one confirmed
//! request. The data is not part of this program: it is imported from the benchmark's `db.json`.

pub mod agent;
pub mod data;
pub mod policy;
pub mod shop;
pub mod tools;

pub use agent::open;
