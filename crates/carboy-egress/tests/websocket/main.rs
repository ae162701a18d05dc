//! WebSockets through the gateway: what passes, what is held and charged, and how each ends (B24, B25).

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod carried;
mod metered;
mod socket;
#[path = "../support/mod.rs"]
mod support;
