//! `carboy proxy` by the built binary, with real clients: one bottle's routes, keys, budgets and log for programs that are in
//! none. A client that is not on this machine is said, not passed over.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

#[path = "../support/desk.rs"]
mod desk;
#[path = "../support/waiting.rs"]
mod waiting;

mod clients;
mod ending;
mod keeping;
mod spending;
mod world;
