//! Fuzz targets: every reader of bytes that somebody hostile chose, and what has to hold for every input.
//!
//! ```text
//!  corpus/TARGET.b64 ──▶ tests/replay.rs   every day, on stable, with a few mutations more
//!                    ──▶ run/              libFuzzer, guided by coverage: see its manifest for the command
//! ```
//!
//! A target panics where something does not hold. *Must never* depend on time, chance or the machine.

mod form_data;
mod readers;
mod texts;

/// A target by its name, which is its corpus's.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("host", texts::host),
    ("front_matter", texts::front_matter),
    ("document", texts::document),
    ("audit_line", texts::audit_line),
    ("dns", readers::dns),
    ("proxy_head", readers::proxy_head),
    ("client_hello", readers::client_hello),
    ("form_data", form_data::form_data),
    ("sse", readers::sse),
    ("meter", readers::meter),
    ("demand", readers::demand),
    ("closing", readers::closing),
    ("usage_filter", readers::usage_filter),
    ("socket_message", readers::socket_message),
    ("inflate", readers::inflate),
    ("scanner", readers::scanner),
];
