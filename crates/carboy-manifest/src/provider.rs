//! The agent program of a bottle, as its file names it.

use std::collections::BTreeMap;

use serde::Serialize;

/// The provider of a bottle that names none.
pub const PROVIDER_DEFAULT: &str = "claude";

/// M17, M18: what a variable is set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvValue {
    /// This text.
    Set(String),
    /// What the operator answers to this message at launch; not stored.
    Prompt(String),
}

/// M19: which agent program runs in the bottle when no command is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provider {
    /// A built-in one ([`BuiltIn`](crate::providers::BuiltIn)), or any other name together with a command.
    pub name: String,
    /// Program to start; `None` leaves it to the built-in provider.
    pub command: Option<String>,
    /// Arguments before those of the command line.
    pub args: Vec<String>,
    /// Variables of its own, below the bottle's `env`.
    pub env: BTreeMap<String, EnvValue>,
}

impl Default for Provider {
    fn default() -> Self {
        Provider { name: PROVIDER_DEFAULT.to_owned(), command: None, args: Vec::new(), env: BTreeMap::new() }
    }
}
