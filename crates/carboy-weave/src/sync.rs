//! Edits of the sources, back in the document.
//!
//! ```text
//!  as last recorded ─┬─▶ what the document says now ─┐
//!                    └─▶ the files as they are ──────┴─▶ merged ─▶ blocks ─▶ document ─▶ tangled = merged, or refused
//! ```
//!
//! *Must never* change a byte of the document outside of the blocks that were edited, choose between two edits of one
//! place, or hand back a document that does not tangle to exactly the merged files.

mod blocks;

use std::collections::BTreeMap;

use crate::attributes::Eof;
use crate::document::Document;
use crate::fault::Faults;
use crate::merge::{Conflict, merge};
use crate::tangle::{Tangled, TangledFile, line_end, tangle};
use crate::{Sources, TreePath, include};

use blocks::Bodies;

/// What the files were when document and sources last agreed.
pub type Base = BTreeMap<TreePath, String>;

/// Document and files that agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The document.
    pub document: String,
    /// Every file.
    pub files: BTreeMap<TreePath, String>,
}

/// Why document and files could not be brought together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// The document, or what it would become, is not valid.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// Document and files were both changed at one place.
    #[error("document and sources were both changed at the same place; settle it in one of them, then sync again")]
    Conflicts(Vec<Clash>),
    /// A file was removed.
    #[error("{0} is gone; `carboy lit tangle` writes it anew, or take its chunk out of the document")]
    Missing(TreePath),
    /// A file is no text.
    #[error("{0} is not UTF-8 text, so it cannot stand in a document")]
    NotText(TreePath),
    /// Nobody knows which side was changed.
    #[error(
        "{0} differs from the document, and nothing is recorded that says which of them was changed; name an earlier \
         version of the document (`--base FILE`), or take one side (`--take sources`, `--take document`)"
    )]
    NoBase(TreePath),
    /// A chunk that is used in several places was edited in some of them.
    #[error(
        "chunk \"{chunk}\" was edited at {edited}, but it also stands at {other}, where the edit was not made; make the same \
         edit there, or give the two places chunks of their own"
    )]
    Shared {
        /// The chunk.
        chunk: String,
        /// Where it was edited.
        edited: String,
        /// Where it was not, or otherwise.
        other: String,
    },
    /// A line that is less far in than the chunk it stands in.
    #[error(
        "line {line} of {path} is less indented than the place where its chunk \"{chunk}\" is used; indent it, or make the \
         edit in the document"
    )]
    Indentation {
        /// The file.
        path: TreePath,
        /// Its line, once the edits are merged.
        line: usize,
        /// The chunk.
        chunk: String,
    },
    /// A line that would be read as a reference.
    #[error(
        "the line `{text}` that was written into {path} would be read as a reference; set refs=\"none\" on its block (line \
         {line} of the document)"
    )]
    Reference {
        /// The file.
        path: TreePath,
        /// The line.
        text: String,
        /// The block's line.
        line: usize,
    },
    /// The result is not exact.
    #[error(
        "the edit of {0} cannot be put into the document exactly; make it in the document, then run `carboy lit tangle`"
    )]
    NotExact(TreePath),
}

/// One place that both sides changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The file.
    pub path: TreePath,
    /// The document's line.
    pub line: usize,
    /// The two changes.
    pub conflict: Conflict,
}

/// Which side is right where nothing is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Neither: it is refused.
    Neither,
    /// The files.
    Sources,
    /// The document.
    Document,
}

/// Brings document and files together.
pub fn sync(
    document: &Document,
    base: &Base,
    side: Side,
    sources: &dyn Sources,
    library: &dyn Sources,
) -> Result<Synced, SyncError> {
    let tangled = tangle(document)?;
    let (mut files, mut clashes) = (BTreeMap::new(), Vec::new());
    let mut bodies = Bodies::default();
    for (path, file) in &tangled.files {
        let now = Ended::of_file(file, end_of(document, &tangled, file));
        match merged(path, file, &now, base, side, sources)? {
            Ok(new) => {
                bodies.take(document, path, file, &now.text, &new.text)?;
                bodies.end(&tangled, file, new.eof);
                files.insert(path.clone(), new.plain());
            }
            Err(found) => clashes.extend(found),
        }
    }
    if !clashes.is_empty() {
        return Err(SyncError::Conflicts(clashes));
    }
    let mut includes = BTreeMap::new();
    for (block, _, wanted) in include::all(document, library) {
        let wanted = wanted.map_err(|fault| Faults::from(fault.at(block.line)))?;
        includes.insert(block.line, wanted);
    }
    let text = bodies.document(document, &includes)?;
    exact(&text, &files)?;
    Ok(Synced { document: text, files })
}

/// A text whose last line has an end, and whether the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ended {
    text: String,
    eof: Eof,
    end: &'static str,
}

impl Ended {
    fn of(text: &str, end: &'static str) -> Ended {
        let eof = if text.is_empty() || text.ends_with('\n') { Eof::Newline } else { Eof::None };
        Ended::with(text, eof, end)
    }

    fn of_file(file: &TangledFile, end: &'static str) -> Ended {
        Ended::with(&file.text, file.eof, end)
    }

    fn with(text: &str, eof: Eof, end: &'static str) -> Ended {
        let missing = if eof == Eof::None { end } else { "" };
        Ended { text: format!("{text}{missing}"), eof, end }
    }

    fn plain(&self) -> String {
        let text = match self.eof {
            Eof::Newline => &self.text,
            Eof::None => self.text.strip_suffix(self.end).unwrap_or(&self.text),
        };
        text.to_owned()
    }
}

fn end_of(document: &Document, tangled: &Tangled, file: &TangledFile) -> &'static str {
    let blocks = &tangled.chunks[&file.chunk].blocks;
    line_end(document, &document.blocks()[blocks[blocks.len() - 1]])
}

/// One file with the edits of both sides, or the places where they meet.
fn merged(
    path: &TreePath,
    file: &TangledFile,
    now: &Ended,
    base: &Base,
    side: Side,
    sources: &dyn Sources,
) -> Result<Result<Ended, Vec<Clash>>, SyncError> {
    let Some(bytes) = sources.read(path) else {
        // A file that is new in the document is written; one that was there has been removed by somebody.
        return if base.contains_key(path) { Err(SyncError::Missing(path.clone())) } else { Ok(Ok(now.clone())) };
    };
    let found = String::from_utf8(bytes).map_err(|_| SyncError::NotText(path.clone()))?;
    if found == file.text {
        return Ok(Ok(now.clone()));
    }
    let found = Ended::of(&found, now.end);
    let was = match (base.get(path), side) {
        (Some(was), Side::Neither) => Ended::of(was, now.end),
        (None, Side::Neither) => return Err(SyncError::NoBase(path.clone())),
        (_, Side::Sources) => return Ok(Ok(found)),
        (_, Side::Document) => return Ok(Ok(now.clone())),
    };
    let eof = if found.eof == was.eof { now.eof } else { found.eof };
    Ok(match merge(&was.text, &now.text, &found.text) {
        Ok(text) => {
            let eof = if text.is_empty() { Eof::Newline } else { eof };
            Ok(Ended { text, eof, end: now.end })
        }
        Err(conflicts) => Err(conflicts
            .into_iter()
            .map(|conflict| {
                let origin = file.origins.get(conflict.ours_line - 1).or(file.origins.last());
                Clash { path: path.clone(), line: origin.map_or(1, |origin| origin.line), conflict }
            })
            .collect()),
    })
}

/// The document tangles to these files, and to no others.
fn exact(text: &str, files: &BTreeMap<TreePath, String>) -> Result<(), SyncError> {
    let tangled = tangle(&Document::parse(text)?)?;
    for (path, wanted) in files {
        if tangled.files.get(path).map(|file| &file.text) != Some(wanted) {
            return Err(SyncError::NotExact(path.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
