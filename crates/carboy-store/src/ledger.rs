//! The ledger: what tokens were spent, what is held, and the one thread that decides.
//!
//! ```text
//! admit ────┐                        ┌─ apply to the book ─ commit ─ answer everybody ─ tell what was crossed
//! dispatch ─┼─▶ queue ─▶ one thread ─┤   (all that waits, at most 1,024, is one batch)
//! settle ───┘                        └─ a commit that fails: everybody is refused, the book is rebuilt from the store
//!                                       before anything more is admitted
//! ```
//!
//! The book (`carboy_core::budget::Book`) is in memory and decides; the store keeps what has to outlive a crash. An open
//! hold is in memory only: nothing was sent, and lost in a crash it is given back. A dispatched one is on disk before a byte
//! leaves.
//!
//! *Must never* answer before what the answer says is durable, admit anything while the store cannot write, or let two
//! processes keep one ledger.

mod engine;
mod memory;
mod port;
mod sqlite;

pub use engine::{
    BATCH_COMMANDS_MAX, COMMANDS_MAX, Crossing, EVENT_BYTES_MAX, Engine, Gone, HOLD_WAIT_MS_MAX, HOLDS_MAX, KnownOwner,
    METERS_MAX, NOTICES_MAX, Notice, Notices, OWNERS_MAX, Unavailable, WAITING_MAX, WAITING_OF_OWNER_MAX, Warning,
};
pub use memory::MemoryStore;
pub use port::{
    By, Difference, EVENTS_MAX, LedgerReader, LedgerStore, Loaded, Mark, MinuteSum, NumberedEvent, Owner, Total,
    USAGE_ROWS_MAX, UsageQuery, UsageRow, Write,
};
pub use sqlite::SqliteStore;
