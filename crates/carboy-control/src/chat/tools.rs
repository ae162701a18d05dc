//! An agent's tools, from wherever its file says that they come.

use std::path::Path;
use std::sync::Arc;

use carboy_agent::Tool;
use carboy_agent::builtin::{NoteShelf, built_in};
use carboy_core::chat::{BuiltInTool, ChatSpec, ToolSource};

use super::ChatError;
use super::shelf::DirShelf;

/// The tools that are in this process, in the order of the file; `application` stands where the file says so.
pub(super) fn in_process(
    spec: &ChatSpec,
    workdir: &Path,
    application: &[Arc<dyn Tool>],
) -> Result<Vec<Arc<dyn Tool>>, ChatError> {
    let mut tools: Vec<Arc<dyn Tool>> = Vec::new();
    let mut shelf: Option<Arc<dyn NoteShelf>> = None;
    for source in &spec.tools {
        match source {
            ToolSource::BuiltIn(BuiltInTool::Calculator) => {
                tools.push(carboy_agent::handler::tool(carboy_agent::builtin::Calculator))
            }
            ToolSource::BuiltIn(which @ BuiltInTool::SaveNote) => {
                // Made only where notes are taken: an agent without them leaves no directory behind.
                let shelf = match &shelf {
                    Some(shelf) => shelf.clone(),
                    None => shelf.insert(Arc::new(DirShelf::open(workdir)?)).clone(),
                };
                tools.push(built_in(*which, &shelf));
            }
            ToolSource::Application => tools.extend(application.iter().cloned()),
            ToolSource::Command { .. } | ToolSource::Script { .. } | ToolSource::Http { .. } => {}
        }
    }
    Ok(tools)
}
