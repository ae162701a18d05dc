//! Literate programs: one Markdown document that holds a program's sources and says why they are as they are.
//!
//! ```text
//!  document ─▶ Document ─▶ Tangled (files, each line with its place in the document)
//!                 │            ├─▶ verify::drifts ◀── sources as they are
//!                 │            ├─▶ map: source positions ─▶ document positions
//!                 │            └─▶ sync::sync ◀── sources as they are, as they were ─▶ document, sources
//!                 └─▶ page::weave ─▶ one HTML page, its stylesheet, its diagrams
//! ```
//!
//! *Architecture invariants:* text in, text out. Nothing here opens a file, a socket, an environment variable or a clock;
//! sources come through [`Sources`]. What is tangled is what the page shows: both read the same blocks. Nothing is left
//! out silently: an attribute, a path, a reference or a line of a diagram that is not understood is an error with its line.

pub mod attributes;
pub mod bootstrap;
pub mod diagram;
pub mod diff;
pub mod document;
pub mod fault;
pub mod highlight;
pub mod hook;
pub mod include;
pub mod limits;
pub mod map;
pub mod merge;
pub mod page;
pub mod path;
pub mod sync;
pub mod tangle;
pub mod verify;

pub use document::{Block, Document, Kind};
pub use fault::{Fault, Faults, Problem};
pub use path::TreePath;
pub use tangle::{Tangled, TangledFile, Unused, tangle, tangle_where};

/// Where the bytes of files come from: a directory, or a map in tests.
pub trait Sources {
    /// The file as it is, or `None` where there is none.
    fn read(&self, path: &TreePath) -> Option<Vec<u8>>;
}

impl Sources for std::collections::BTreeMap<TreePath, Vec<u8>> {
    fn read(&self, path: &TreePath) -> Option<Vec<u8>> {
        self.get(path).cloned()
    }
}
