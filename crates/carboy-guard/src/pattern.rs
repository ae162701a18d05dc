//! What can be wrong with a pattern that somebody wrote into a file.

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No regular expression, or one that compiles to too much.
    #[error("pattern `{pattern}` cannot be used: {problem}")]
    Invalid {
        /// As it was written.
        pattern: String,
        /// What is wrong.
        problem: String,
    },
    /// It matches the empty text, and so everywhere.
    #[error("pattern `{pattern}` matches the empty text, and so everywhere: make it ask for at least one character")]
    MatchesEmpty {
        /// As it was written.
        pattern: String,
    },
    /// A number that is none of its kind.
    #[error("pattern `{pattern}`: {field} is {value}, it must be {allowed}")]
    OutOfRange {
        /// As it was written.
        pattern: String,
        /// Which number.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        allowed: &'static str,
    },
    /// A filter whose replacement it would replace again.
    #[error(
        "pattern `{pattern}`: its replacement `{replacement}` is filtered itself: choose one that no filter matches"
    )]
    Replaced {
        /// As it was written.
        pattern: String,
        /// What it puts there.
        replacement: String,
    },
    /// More than are taken.
    #[error("there are {count} patterns, the limit is {max}: put some of them into one")]
    TooMany {
        /// How many.
        count: usize,
        /// How many are taken.
        max: usize,
    },
}

/// The error of a regular expression in one line: the crate draws a picture over several.
pub(crate) fn compile_error(pattern: &str, error: &impl std::fmt::Display) -> PatternError {
    let text = error.to_string();
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let problem = last.strip_prefix("error: ").unwrap_or(last).to_owned();
    PatternError::Invalid { pattern: pattern.to_owned(), problem }
}
