//! Agents that come with the program: files as any other, except that nobody has to write them.
//!
//! `assistant` is embedded here; applications bring theirs through [`ManifestFiles::built_in`]. A file of the user's, or of the
//! working directory, with the same name wins.

use std::path::PathBuf;

use crate::files::ManifestFiles;

/// The agent with the calculator and the notes, of which the terminal shows its banner.
pub const ASSISTANT: &str = "assistant";

const ASSISTANT_FILE: &str = include_str!("../agents/assistant.md");

/// The text of the built-in agent of this name.
pub(crate) fn text(files: &dyn ManifestFiles, name: &str) -> Option<String> {
    match name {
        ASSISTANT => Some(ASSISTANT_FILE.to_owned()),
        name => files.built_in(name),
    }
}

/// Names of all, sorted.
pub(crate) fn names(files: &dyn ManifestFiles) -> Vec<String> {
    let mut names = files.built_in_names();
    names.push(ASSISTANT.to_owned());
    names.sort();
    names.dedup();
    names
}

/// What messages call its file; no path that a program opens.
pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(format!("built-in:{name}.md"))
}
