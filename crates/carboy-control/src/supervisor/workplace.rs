//! Where a run's program works.
//!
//! *Must never* show a chat agent's tools a directory because somebody happened to be in it.

use std::path::{Path, PathBuf};

use carboy_core::ids::AgentName;
use carboy_manifest::host_paths::HOME_INSIDE;

/// Where a run's program works, and what it sees of the host for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workplace {
    /// A directory of the host, canonical: the workspace.
    Directory(PathBuf),
    /// The bottle's own home, and nothing of the host's: the tools of this chat agent.
    Home {
        /// The agent.
        tools_of: AgentName,
    },
}

impl Workplace {
    /// The directory of the host that is shown; none for tools.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Workplace::Directory(directory) => Some(directory),
            Workplace::Home { .. } => None,
        }
    }

    /// Its path inside.
    pub(super) fn inside(&self) -> &Path {
        self.directory().unwrap_or(Path::new(HOME_INSIDE))
    }

    pub(super) fn tools_of(&self) -> Option<String> {
        match self {
            Workplace::Directory(_) => None,
            Workplace::Home { tools_of } => Some(tools_of.to_string()),
        }
    }
}
