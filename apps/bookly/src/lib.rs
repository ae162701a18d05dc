//! Bookly, the support desk of a bookstore: three jobs (order look-up, returns, standard policies) and nothing else.
//!
//! ```text
//!  data ─▶ config ─▶ tools ─▶ agent ─▶ server          each module knows those to its left, none to its right
//! ```
//!
//! `Bookly.lit.md` beside this directory is where these files are written and explained.
//!
//! *Architecture invariants:* nothing of an order leaves [`data`] unless the session has shown the e-mail address of that
//! order; a return is started only by a value that the eligibility check makes. The prompt asks the model to keep to this;
//! nothing here depends on whether it does. No module opens a socket or reads the environment; the clock comes with the call.

pub mod agent;
pub mod config;
pub mod data;
pub mod server;
pub mod tools;

pub use server::open;

#[cfg(test)]
mod tests;
