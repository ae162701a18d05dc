//! Every way out of a bottle.
mod alpn;
pub mod ca;
mod dns;
mod limits;
mod names;
mod repeats;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod trust;

pub use limits::GatewayLimits;
