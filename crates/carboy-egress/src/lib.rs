//! Every way out of a bottle: the transparent listener, DNS, TLS interception, the request pipeline, the dialling.
//!
//! ```text
//!            bottle │ supervisor                                              │ world
//!   DNS query ──────┼─▶ name_server ─▶ dns (routes + name pool)                │
//!   TCP connect ────┼─▶ listener ─▶ tls ─▶ connection ─▶ pipeline ─▶ upstream ─┼─▶ origin
//!   answer ◀────────┼───────────────────────────────── answer ◀────────────────┼── origin
//!                   │   chat agent ─▶ inside ─▶ connection ─▶ (the same)        │
//! ```
//!
//! Read `pipeline` first.
//!
//! *Architecture invariants:* no byte leaves a bottle except through this crate, and outbound sockets are opened and
//! written to in `upstream` alone, but for the services and ports that the operator joined by `forward:` and `publish:`,
//! which are [`port`]'s. Nothing else is dialled without a `HostPermit`, and nothing is sent there without a
//! [`Credentialed`] request. No policy is made here: hosts, ports, paths and detectors are decided in `carboy-core`
//! and `carboy-guard`. No environment variable, file or clock is read, but for the platform's root certificates. No
//! refusal is told before it is in the log; no log, no traffic. No request to a model leaves before what it may cost is
//! held durably, and no answer of one ends without the ledger's being told what it cost. A limit in [`GatewayLimits`]
//! bounds every table, buffer and wait.

mod alert;
mod alpn;
mod answer;
mod body;
mod breaker;
pub mod ca;
mod connection;
mod cut;
mod dns;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod hold;
mod inject;
mod inside;
pub mod learn;
mod lengths;
mod limits;
mod linger;
mod listener;
mod messages;
mod metering;
mod name_server;
mod names;
mod outbound;
mod pace;
mod pipeline;
mod placeholder;
pub mod port;
mod proxy;
mod record;
mod repeats;
mod request;
mod reserve;
mod resets;
mod sending;
mod signed;
mod speaks;
pub mod standing;
pub mod stats;
#[cfg(test)]
mod testing;
mod tls;
pub mod trust;
mod upstream;
mod websocket;
mod zones;

pub use ca::{CaError, CaFiles, CertificateAuthority};
pub use gateway::{Gateway, GatewayConfig, Learning};
pub use inject::Credentialed;
pub use learn::{Learned, LearnedRequest};
pub use limits::GatewayLimits;
pub use listener::Listener;
pub use port::{PORT_CONNECTIONS_MAX, Port, PortStats, Way};
pub use proxy::ProxyAuth;
pub use stats::GatewayStats;
pub use trust::{trust_env, trust_files};
pub use upstream::webhook::{WEBHOOK_WAIT_MAX, WebhookError, post_webhook};
pub use zones::ZoneLimits;
