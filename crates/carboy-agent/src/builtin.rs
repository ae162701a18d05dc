//! The tools that every agent can have: arithmetic, and notes on a shelf of their own.
//!
//! *Must never* run what a model wrote: an expression is parsed by its own small grammar and a note's name is a value that
//! names one file of one directory.

use std::sync::Arc;

use carboy_core::chat::BuiltInTool;

use crate::handler::tool;
use crate::tool::Tool;

pub mod calculator;
pub mod notes;

pub use calculator::Calculator;
pub use notes::{MemoryShelf, NoteError, NoteName, NoteShelf, SaveNote};

/// A built-in tool as a tool among others; notes go to `shelf`.
pub fn built_in(which: BuiltInTool, shelf: &Arc<dyn NoteShelf>) -> Arc<dyn Tool> {
    match which {
        BuiltInTool::Calculator => tool(Calculator),
        BuiltInTool::SaveNote => tool(SaveNote::new(Arc::clone(shelf))),
    }
}
