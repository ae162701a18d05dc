//! The nouns and the law of carboy: what every other room speaks in, and every decision that can be made
//! without touching the world.
//!
//! *Architecture invariants:* nothing in this crate opens a socket, a file, an environment variable or a clock;
//! a decision is a function of policy, facts and time. Nothing in this crate prints a secret: the type that holds
//! one cannot be formatted. Permits have private constructors, so that an effect cannot be had without its decision.

pub mod address;
pub mod ask;
pub mod audit;
pub mod budget;
pub mod chat;
pub mod finding;
pub mod host;
pub mod ids;
pub mod plan;
pub mod ports;
pub mod route;
pub mod secret;
pub mod upstream;
pub mod verdict;
