//! The chat service over real sockets: a real engine, a real log, a model that is scripted. The rows are in the names.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod browser;
mod errors;
mod http;
mod limits;
mod needs;
mod page;
mod people;
mod plane;
mod proxy;
#[path = "../support/shop.rs"]
mod shop;
mod streams;
mod surface;
mod world;
