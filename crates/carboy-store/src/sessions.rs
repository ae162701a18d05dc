//! Where sessions of chat agents live: in memory, or in a file of their own.
//!
//! ```text
//!            load: a use               save: compare the version, raise it by one
//!  absent ──────────────────▶ none     0 ─▶ 1 ─▶ 2 …        another version ─▶ Changed
//!  idle for longer than idle_s ─▶ as if it were absent
//!  one too many, or too many octets ─▶ the least lately used goes; `sweep` tells who went
//! ```
//!
//! Both keep to one conformance suite (`tests/sessions.rs`); a store for several hosts is a third implementation of the same
//! port. *Must never* hold a session's id (keys are hashes of it), hand out what was idle for too long, or say that
//! something was saved that was not.

mod memory;
mod sqlite;

use std::collections::VecDeque;

use carboy_core::ports::{SessionKey, SessionStoreError};

pub use memory::MemorySessions;
pub use sqlite::{SessionFileError, SqliteSessions};

/// Sessions that went and of which no sweep has told yet; of more the first ones are never told.
const GONE_MAX: usize = 65_536;

/// What a store of sessions keeps at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions (`session_store_max_entries`).
    pub sessions_max: u32,
    /// How long one is kept that nobody uses, in seconds (`session_idle_ttl_seconds`).
    pub idle_s: u32,
    /// Octets of one.
    pub bytes_max: u64,
    /// Octets of all together.
    pub all_bytes_max: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        SessionLimits { sessions_max: 10_000, idle_s: 1_800, bytes_max: 1024 * 1024, all_bytes_max: 256 * 1024 * 1024 }
    }
}

impl SessionLimits {
    /// Was one that was used then idle for too long by now? A clock that went back makes nothing older.
    fn is_over(&self, used_ms: u64, now_ms: u64) -> bool {
        now_ms.saturating_sub(used_ms) > u64::from(self.idle_s) * 1_000
    }

    fn fits(&self, bytes: usize) -> Result<(), SessionStoreError> {
        let (bytes, bytes_max) = (bytes as u64, self.bytes_max.min(self.all_bytes_max));
        if bytes > bytes_max { Err(SessionStoreError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
    }
}

/// The version that a write leads to, where it may be written at all.
fn next_version(stands_at: Option<u64>, version: u64) -> Result<u64, SessionStoreError> {
    if stands_at.unwrap_or(0) == version { Ok(version.saturating_add(1)) } else { Err(SessionStoreError::Changed) }
}

/// Those that had to go since the last sweep; nobody else has told of them yet.
struct Gone {
    keys: VecDeque<SessionKey>,
}

impl Gone {
    fn new() -> Gone {
        Gone { keys: VecDeque::new() }
    }

    fn add(&mut self, key: SessionKey) {
        if self.keys.len() >= GONE_MAX {
            self.keys.pop_front();
        }
        self.keys.push_back(key);
    }

    /// It is there again.
    fn came_back(&mut self, key: &SessionKey) {
        self.keys.retain(|gone| gone != key);
    }

    fn take(&mut self) -> Vec<SessionKey> {
        std::mem::take(&mut self.keys).into()
    }
}
