//! Where a value was said: which file, which line. Values keep it through every merge, so that `carboy check` can show
//! which file of a chain had the last word.

use std::path::PathBuf;

use serde::Serialize;

use crate::diagnostic::Position;

/// Where a value was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "from")]
pub enum Origin {
    /// Nowhere: carboy's own.
    Default,
    /// In a file.
    File {
        /// Which.
        file: PathBuf,
        /// On which line, from 1.
        line: u32,
    },
    /// In a variable of the environment.
    Environment {
        /// Which.
        variable: String,
    },
    /// On the command line.
    Flag {
        /// Which.
        flag: String,
    },
}

/// A value and where it was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sourced<T> {
    /// What.
    pub value: T,
    /// Where.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// carboy's own value.
    pub(crate) fn default_of(value: T) -> Self {
        Sourced { value, origin: Origin::Default }
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) at: Position,
}

/// A value that a file says, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<T> Said<T> {
    /// The place as reports show it.
    pub(crate) fn origin(&self) -> Origin {
        Origin::File { file: self.place.file.clone(), line: self.place.at.line }
    }

    /// The value for use, or carboy's own where no file says one.
    pub(crate) fn or_default(said: Option<Said<T>>, own: T) -> Sourced<T> {
        match said {
            Some(said) => Sourced { origin: said.origin(), value: said.value },
            None => Sourced::default_of(own),
        }
    }
}
