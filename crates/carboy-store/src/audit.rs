//! The audit log as a file of lines: one writer per process, several processes per file, any number of readers.
//!
//! ```text
//! append ─┐                         ┌─ lock ─ catch up ─ chain ─ write ─ fdatasync ─ unlock
//! append ─┼─▶ queue ─▶ one thread ──┤  (≤ 1,000 events, ≤ 50 ms after the first)
//! durable ┘      ▲                  └─▶ wakes the durable ones
//!                └── closed while a write has failed: every append is refused until a retry succeeds
//! ```
//!
//! Several bottles write one file. Each batch takes the lock of the file, looks whether others have written since, and
//! chains onto what really is the last entry; so there is one chain, whoever wrote its parts.
//!
//! A crash can leave a part of a line at the end. Nothing is deleted for that: the part is copied to
//! `<name>.torn-<time>` beside the log, and an event that names the copy takes its place in the chain.
//!
//! The log never lets anybody else write it (owner, 0600, no links), never follows a link, and is never rotated: a file
//! that is moved away while a run uses it stops that run's traffic. A chain cannot show that its end was cut off; a head
//! that was kept elsewhere can, see [`verify`].

mod file;
mod lines;
mod query;
mod refusal;
mod time;
mod verify;
mod writer;

pub use lines::LINE_BYTES_MAX;
pub use query::{Answer, Counts, ENTRIES_MAX, Follow, Query, counts, follow, query, tail};
pub use refusal::{FOUND_MAX, Found, SEARCH_BYTES_MAX, find_refusal};
pub use time::{TimeError, parse_time, rfc3339};
pub use verify::{Hint, Integrity, Report, verify};
pub use writer::{AuditLog, BATCH_EVENTS_MAX, EVENT_BYTES_MAX, GATHER_MS_MAX, QUEUE_EVENTS_MAX};
