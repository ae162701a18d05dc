//! What a session has proven and what was released to it: the facts that code, and not the model, decides by.
//!
//! Kept with the session. *Must never* hold a fact that a message or a model's text put there: only results of tools do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The guard state of one session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardState {
    /// What applications keep here, by a name of their own.
    pub(crate) slots: BTreeMap<String, Value>,
}
