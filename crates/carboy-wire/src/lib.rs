//! Provider wire formats: recognise them, frame their streams, and refuse in a way that their clients understand.
//!
//! ```text
//! bytes ──▶ sse::Parser ──▶ sse::Event      (feed in any split, same events out)
//! Denial + WireFormat ──▶ denial::render ──▶ status, headers, body
//! ```
//!
//! *Architecture invariants:* nothing in this crate opens a socket, a file, an environment variable or a clock; all of
//! it is a function of the bytes that it is given. Whatever is buffered has a named maximum. Nothing here decides
//! whether a request may go: it only reads and writes what was decided elsewhere.

pub mod anthropic;
pub mod chat;
pub mod closing;
pub mod count;
pub mod demand;
pub mod denial;
pub mod endpoint;
pub mod estimate;
pub mod filter;
pub mod format;
mod json;
pub mod meter;
pub mod openai;
pub mod socket;
pub mod sse;
