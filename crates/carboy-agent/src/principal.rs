//! Who is talking, as the runtime found out: the terminal's user, a verified identity, or nobody in particular.
//!
//! *Must never* be made from an argument of a tool or from the text of a message.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The person at the terminal, where nobody says another name (G73). No user of a shop's has it.
pub const TERMINAL_USER: &str = "cli_user";
/// Begins the id of whoever is known by a session alone. No user of a shop's has one that begins so.
pub const ANONYMOUS: &str = "anonymous-";

/// One person, as tools and limits see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// How the log and the limiter call them: `cli_user`, a verified subject, or a name made from the session.
    pub id: String,
    /// How it is known.
    pub kind: PrincipalKind,
    /// What they are: `admin`, `support`.
    pub roles: BTreeSet<String>,
}

/// How a principal is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// By its session alone.
    Anonymous,
    /// By the terminal that it sits at.
    Terminal,
    /// By a token or header that was verified.
    Verified,
}
