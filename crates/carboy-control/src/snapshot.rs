//! How everything of one home stands, for whoever shows it: the ledger, the runs, and what they did last.
//!
//! ```text
//!  controller ── Watch ──────────┐
//!  runs' sockets, their records ─┼─ joined once an interval ─► Snapshot ─► top
//!  the log's end ────────────────┘
//! ```
//!
//! *Must never* keep a run, a hold or the controller waiting: it only looks, and whoever is slow gets the latest.

mod feed;
mod sight;
mod tree;

use std::collections::BTreeMap;

use carboy_core::audit::Entry;
use carboy_core::budget::LedgerSnapshot;
pub use carboy_store::ledger::UsageRow;
use serde::{Serialize, Serializer};

use crate::registry::Answer;

pub use feed::{Feed, once};
pub use sight::{LOG_LINES_MAX, RUNS_LOGGED_MAX};
pub use tree::{Place, RunState, places};

/// Whether the controller is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Controller {
    /// It answers.
    Here,
    /// None runs, and none has since somebody looks.
    Absent,
    /// It was there and has gone: the figures are old.
    Away {
        /// In words.
        why: String,
    },
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// When it was joined, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether the figures are of now.
    pub controller: Controller,
    /// The ledger, with the moment that it is of.
    pub ledger: Option<LedgerSnapshot>,
    /// Runs that live, and those that were frozen and wait.
    pub runs: Vec<Answer>,
    /// Why the runs could not be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind: Option<String>,
    /// What was spent by model, of the scope that was asked about.
    pub models: Vec<UsageRow>,
    /// The last entries of the log, by run, the oldest first.
    #[serde(serialize_with = "as_json")]
    pub log: BTreeMap<String, Vec<Entry>>,
}

fn as_json<S: Serializer>(log: &BTreeMap<String, Vec<Entry>>, serializer: S) -> Result<S::Ok, S::Error> {
    let plain = |entries: &Vec<Entry>| entries.iter().cloned().map(Entry::into_json).collect::<Vec<_>>();
    serializer.collect_map(log.iter().map(|(run, entries)| (run, plain(entries))))
}
