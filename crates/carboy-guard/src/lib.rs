//! Detectors of leaking secrets and of prompt injection, as state machines: bytes in, cleared bytes and findings out.
//!
//! ```text
//!  bytes ─▶ Inflate ─▶ StreamScanner ──▶ cleared bytes
//!                        │  ├ known secrets  (normalised view → Aho-Corasick)
//!                        │  ├ token patterns (prefix → rule)
//!                        │  └ packed regions (base64, gzip, zlib, zstd → a scanner inside)
//!                        └─▶ findings, or Stopped
//! ```
//!
//! *Architecture invariants:* nothing in this crate opens a socket or a file, reads a clock or the environment, or
//! keeps matched text in a finding. A byte that may still be part of a match never leaves a scanner. How a message is
//! cut into chunks changes neither findings nor output. Every buffer has a named maximum.

mod automaton;
pub mod detectors;
pub mod grounding;
pub mod inflate;
pub mod injection;
mod known;
mod mint;
pub mod output;
pub mod override_rules;
mod packed;
pub mod pattern;
mod placeholder;
pub mod plain;
pub mod stream;
mod tokens;
pub mod variants;
mod view;
mod window;

pub use detectors::{BuildError, Detectors, DetectorsBuilder, SECRET_BYTES_MAX, SECRET_BYTES_MIN};
pub use inflate::{Coding, DecodedMax, Inflate, InflateError, Pushed, UnknownCoding};
pub use injection::InjectionScanner;
pub use mint::mint;
pub use pattern::PatternError;
pub use placeholder::{PLACEHOLDER_MARK, placeholder_for};
pub use stream::{Mode, ScanPlan, Stopped, StreamScanner};
