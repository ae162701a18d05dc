//! How a ledger stands at one moment, as it is shown to a person.
//!
//! *Must never* carry anything that an agent wrote beyond the names of models, which are cut to a line.

use serde::{Deserialize, Serialize};

use super::book::{Both, ReservationId};
use super::caps::{CapKind, Scope};
use super::law::Standing;
use super::usage::Usage;
use crate::ids::MeterName;

/// A ledger at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerSnapshot {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The host, and below it its bottles, their agents and the runs.
    pub host: Node,
    /// Why nothing can be held just now, and what to do; `None` while all is well.
    pub failing: Option<String>,
    /// Requests that wait for room.
    pub waiting: u64,
    /// Nodes that did not fit.
    pub left_out: u64,
}

/// One scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Which.
    pub scope: Scope,
    /// A run: whether its supervisor is connected. Others: whether a run below them is.
    pub live: bool,
    /// By what is metered.
    pub meters: Vec<MeterLine>,
    /// Requests of a run that are under way, the oldest first; empty elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<InFlight>,
    /// The scopes below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Node>,
}

/// What a scope spent on one meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterLine {
    /// What is metered.
    pub meter: MeterName,
    /// Spent in all.
    pub spent: Both,
    /// Held by requests under way.
    pub held: Both,
    /// The caps of this scope, those of the newest run that has them.
    pub caps: Vec<CapLine>,
    /// Reported tokens a minute, over the last 1, 5 and 30 minutes.
    pub rate: [u64; 3],
    /// What was spent, by kind, as far as it is known.
    pub usage: Usage,
    /// So much of what was spent is estimated.
    pub estimated: Both,
    /// Requests that ended.
    pub requests: u64,
}

/// One cap in its present window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapLine {
    /// Replaceable or not.
    pub kind: CapKind,
    /// How it stands, top-ups included.
    pub standing: Standing,
    /// When its window began, in milliseconds since 1970.
    pub since_ms: u64,
    /// When it ends; `None` where that has no one moment.
    pub until_ms: Option<u64>,
    /// Whether a nearer budget stands in its place for every run below it.
    pub replaced: bool,
}

/// A request under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Its reservation.
    pub id: ReservationId,
    /// What is metered.
    pub meter: MeterName,
    /// Its model, at most [`MODEL_CHARS_MAX`] characters of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Since when, in milliseconds.
    pub age_ms: u64,
    /// How much is held for it.
    pub hold: Both,
    /// Whether it may have been sent.
    pub sent: bool,
}

/// Longest name of a model that is kept and shown.
pub const MODEL_CHARS_MAX: usize = 128;
