//! Whether a person has agreed to an agent's file of a repository (M39).
//!
//! A file under the working directory comes with whatever was checked out, and its prompt is what an agent is told to
//! do. It chooses among the user's own bottles and widens none; which of them it chooses is shown and asked about before
//! it is used for the first time, and again whenever a byte of it has changed. The decision is the caller's: it keeps what
//! was agreed to, and asks; here the question is put together.
//!
//! *Must never* let such a file be used without an answer: whoever asks nobody gets none.

use std::path::Path;

use carboy_core::ids::{AgentName, BottleName};
use serde::Serialize;

use crate::agent::RepositoryAgent;
use crate::diagnostic::Diagnostics;
use crate::git::GitUser;
use crate::view::RouteView;

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// A person has agreed to exactly this content at this place.
    Yes,
    /// Nobody has, or to something else.
    Unknown,
}

/// Who knows what a person has agreed to.
pub trait Trust {
    /// `sha256` is the hash of the file's bytes, in hex.
    fn of(&self, file: &Path, sha256: &str) -> Trusted;
}

/// Nothing has been agreed to.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrustNothing;

impl Trust for TrustNothing {
    fn of(&self, _file: &Path, _sha256: &str) -> Trusted {
        Trusted::Unknown
    }
}

/// The question: what a person looks at before a repository's agent runs.
#[derive(Clone, Debug, Serialize)]
pub struct NeedsTrust {
    /// The agent.
    pub agent: AgentName,
    /// Its file and content.
    pub file: RepositoryAgent,
    /// The bottles that it would run in; the agent's own choice, or the command line's.
    pub bottles: Vec<BottleName>,
    /// What they let out.
    pub routes: Vec<RouteView>,
    /// As whom it would commit.
    pub git_user: GitUser,
    /// What it is told to do.
    pub prompt: String,
    /// Of a chat agent: commands and scripts that it starts inside the bottle.
    pub runs: Vec<String>,
    /// Warnings of the load.
    pub warnings: Diagnostics,
}

/// Why a load gives no configuration.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// Files are not valid, or not there.
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
    /// Somebody has to be asked first.
    #[error(
        "agent `{}` comes from the working directory ({}), and nobody has agreed to its content yet",
        .0.agent,
        .0.file.file.display()
    )]
    NeedsTrust(Box<NeedsTrust>),
}
