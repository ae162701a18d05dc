//! Whether the sources are what the document says, byte for byte. *Must never* write, or call a file good that differs.

use crate::diff::{lines, matches, unified};
use crate::document::Document;
use crate::fault::Fault;
use crate::tangle::{Tangled, TangledFile};
use crate::{Sources, TreePath, include};

/// A file that is not what the document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The file.
    pub path: TreePath,
    /// The document's line at which it begins to differ.
    pub line: usize,
    /// How.
    pub what: Difference,
}

/// How a file differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is not there.
    Missing,
    /// It is no text from this byte on.
    NotText(usize),
    /// These lines differ: `-` is the document, `+` the file.
    Lines(Vec<String>),
    /// The part of the library is not to be had.
    Include(Fault),
}

/// Every file that differs; `name` is the document's, for the places of the hunks.
pub fn drifts(
    document: &Document,
    tangled: &Tangled,
    name: &str,
    sources: &dyn Sources,
    library: &dyn Sources,
) -> Vec<Drift> {
    let mut drifts = Vec::new();
    for (path, file) in &tangled.files {
        let first = document.blocks()[tangled.chunks[&file.chunk].blocks[0]].line;
        let (line, what) = match sources.read(path).map(String::from_utf8) {
            Some(Ok(found)) if found == file.text => continue,
            Some(Ok(found)) => (first_line(file, &found).unwrap_or(first), lines_of(file, path, name, &found, first)),
            Some(Err(error)) => (first, Difference::NotText(error.utf8_error().valid_up_to())),
            None => (first, Difference::Missing),
        };
        drifts.push(Drift { path: path.clone(), line, what });
    }
    for (block, path, wanted) in include::all(document, library) {
        let found = &document.text()[block.body.clone()];
        let what = match wanted {
            Ok(wanted) if wanted == found => continue,
            Ok(wanted) => {
                let place = |old: usize, _| format!("{name}:{} {path}", block.line + old);
                Difference::Lines(unified(found, &wanted, &place))
            }
            Err(fault) => Difference::Include(fault),
        };
        drifts.push(Drift { path: path.clone(), line: block.line, what });
    }
    drifts
}

fn lines_of(file: &TangledFile, path: &TreePath, name: &str, found: &str, first: usize) -> Difference {
    let place = |old: usize, new: usize| {
        let line = file.origins.get(old - 1).or(file.origins.last()).map_or(first, |origin| origin.line);
        format!("{name}:{line} {path}:{new}")
    };
    Difference::Lines(unified(&file.text, found, &place))
}

/// The document's line of the first line that differs.
fn first_line(file: &TangledFile, found: &str) -> Option<usize> {
    let (old, new) = (lines(&file.text), lines(found));
    let same = matches(&old, &new).iter().enumerate().take_while(|(n, pair)| **pair == (*n, *n)).count();
    file.origins.get(same).or(file.origins.last()).map(|origin| origin.line)
}
