//! An application: an agent's file together with the tools that it brings in Rust.
//!
//! An application's crate makes one value of this; whoever composes the program hands its file to the manifest's reader as a
//! built-in agent and its tools to the engine. *Must never* be able to say more by its file than a file on disk can: the
//! same reader reads both.

use std::sync::Arc;

use crate::tool::Tool;

/// An agent that comes with the program.
pub struct Application {
    /// Its name, as in `carboy serve NAME`; the stem that its file would have.
    pub name: &'static str,
    /// The text of its agent file, front matter and all. `tools: [application]` stands for [`tools`](Self::tools).
    pub file: &'static str,
    /// Its tools.
    pub tools: Vec<Arc<dyn Tool>>,
}
