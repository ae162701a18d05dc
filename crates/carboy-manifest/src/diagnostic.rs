//! What is wrong with a file, where, and what to do about it: every finding of a load, not the first.
//!
//! *Must never* print a byte of a file as it is: a file of a checked-out repository could otherwise move the cursor of
//! the operator's terminal and rewrite the warning about itself. Control characters are escaped when a diagnostic is
//! made.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Most diagnostics of one load; further ones are counted, not kept.
pub const DIAGNOSTICS_MAX: usize = 500;

/// Longest excerpt of a file in a message, in characters.
const EXCERPT_CHARS_MAX: usize = 80;

/// A place in a file: 1-based, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line of the whole file, front matter fence included.
    pub line: u32,
    /// Character in the line.
    pub column: u32,
}

impl Position {
    /// The first character of a file.
    pub const START: Position = Position { line: 1, column: 1 };
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is not used.
    Error,
    /// The file is used; somebody should look at it.
    Warning,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Stable names of all findings; `docs/manifest.md` lists them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// All of them, in the order of the documentation.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// The name as it stands in reports.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Code::$variant => $text,)*
                }
            }
        }
    };
}

codes! {
    /// The file cannot be read.
    FileUnreadable = "file-unreadable",
    /// The file is above its size limit.
    FileTooLarge = "file-too-large",
    /// More files in a directory than are looked at.
    TooManyFiles = "too-many-files",
    /// Not UTF-8.
    NotUtf8 = "not-utf8",
    /// No `---` on the first line, or no `---` that closes it.
    FrontMatter = "front-matter",
    /// YAML outside the accepted subset or not well formed; the message says which.
    YamlSyntax = "yaml-syntax",
    /// A key stands twice in one map.
    DuplicateKey = "duplicate-key",
    /// A value that YAML versions read differently.
    AmbiguousValue = "ambiguous-value",
    /// A bound of the reader (depth, nodes) is exceeded.
    TooComplex = "too-complex",
    /// A key that was removed from the format.
    RemovedKey = "removed-key",
    /// A known key whose feature this version does not have.
    NotAvailable = "not-available",
    /// A key that nobody knows.
    UnknownKey = "unknown-key",
    /// A required key is missing.
    MissingKey = "missing-key",
    /// A bottle's key in an agent's file.
    BottleKeyInAgent = "bottle-key-in-agent",
    /// A value of the wrong type.
    WrongType = "wrong-type",
    /// A value of the right type that is not accepted.
    BadValue = "bad-value",
    /// A file's or an entry's name is not valid.
    BadName = "bad-name",
    /// A route's host is not accepted.
    BadHost = "bad-host",
    /// A regular expression does not compile or is too large.
    BadRegex = "bad-regex",
    /// A code block of an agent's text whose braces are not understood, or a chunk that is missing, not used, or there twice.
    BadChunk = "bad-chunk",
    /// A rule for a tool that the agent does not have; a warning where a script may still offer it.
    UnknownTool = "unknown-tool",
    /// A route that a chat agent needs and its bottle does not have.
    MissingRoute = "missing-route",
    /// A secret that has to be there and is not.
    MissingSecret = "missing-secret",
    /// A value of a file, a variable or a flag that would loosen what may not be loosened from there.
    Loosens = "loosens",
    /// A host path that is never made visible.
    BindRefused = "bind-refused",
    /// A service of the host that is never forwarded into a bottle.
    SocketRefused = "socket-refused",
    /// Neither an agent nor a bottle was named.
    NothingToRun = "nothing-to-run",
    /// The named agent has no file.
    NoSuchAgent = "no-such-agent",
    /// The named bottle has no file.
    NoSuchBottle = "no-such-bottle",
    /// `extends` leads back to where it began.
    ExtendsCycle = "extends-cycle",
    /// A chain of `extends` that is too deep or has too many files.
    ChainTooLong = "chain-too-long",
    /// An agent's file of a repository that nobody has agreed to.
    NeedsTrust = "needs-trust",
    /// Warning: a bottle file under the working directory.
    BottleIgnored = "bottle-ignored",
    /// Warning: a file whose name is no valid name.
    FileIgnored = "file-ignored",
    /// Warning: files of the tool that carboy's format descends from.
    ForeignFiles = "foreign-files",
    /// Warning: two routes say the same, or one hides the other.
    RouteRedundant = "route-redundant",
    /// Warning: a route names very many hosts.
    RouteWide = "route-wide",
    /// Warning: a published port that other machines reach.
    ListenWide = "listen-wide",
    /// Warning: a route scans nothing in one direction.
    ScanOff = "scan-off",
    /// Warning: pushes are refused in this version.
    PushRefused = "push-refused",
    /// Warning: a file of secrets that lies open.
    FileExposed = "file-exposed",
    /// Warning: a path that is looked for in the bottle's home.
    RelativePath = "relative-path",
    /// Warning: a budget that is less than what is held for any request.
    BudgetTooSmall = "budget-too-small",
    /// Warning: the key is accepted and changes nothing.
    NoEffect = "no-effect",
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One finding. As JSON: `{file, line, column, severity, code, message, fix}`; `file`, `line` and `column` are null
/// when it is about what was asked for rather than about a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Which file.
    pub file: Option<PathBuf>,
    /// Which line, from 1.
    pub line: Option<u32>,
    /// Which character of the line, from 1.
    pub column: Option<u32>,
    /// How bad.
    pub severity: Severity,
    /// What, for machines.
    pub code: Code,
    /// What, for people.
    pub message: String,
    /// What to do.
    pub fix: String,
}

impl Diagnostic {
    fn new(severity: Severity, code: Code, message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        let (message, fix) = (printable(message.as_ref()), printable(fix.as_ref()));
        Diagnostic { file: None, line: None, column: None, severity, code, message, fix }
    }

    /// An error that no file is to blame for.
    pub fn error(code: Code, message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self::new(Severity::Error, code, message, fix)
    }

    /// A warning that no file is to blame for.
    pub fn warning(code: Code, message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self::new(Severity::Warning, code, message, fix)
    }

    /// The same, at a place.
    pub fn at(mut self, file: &Path, position: Position) -> Self {
        self.file = Some(file.to_path_buf());
        self.line = Some(position.line);
        self.column = Some(position.column);
        self
    }
}

impl fmt::Display for Diagnostic {
    /// `path:line:col: error: message [code]`, and on a second line `  fix: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", printable(&file.display().to_string()))?;
        }
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "{line}:{column}:")?;
        }
        if self.file.is_some() {
            f.write_str(" ")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {} [{}]", self.message, self.code.as_str())?;
        for (i, line) in self.fix.lines().enumerate() {
            write!(f, "\n  {}{line}", if i == 0 { "fix: " } else { "     " })?;
        }
        Ok(())
    }
}

/// Every finding of one load or check, in the order they were made. As JSON: a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    #[serde(skip)]
    errors: usize,
    #[serde(skip)]
    dropped: usize,
}

impl Diagnostics {
    /// Adds one; above [`DIAGNOSTICS_MAX`] it is only counted.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        match diagnostic.severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => {}
        }
        if self.list.len() < DIAGNOSTICS_MAX {
            self.list.push(diagnostic);
        } else {
            self.dropped += 1;
        }
    }

    /// Adds one unless the same was said of the same place already: two bottles that extend a third find the same in it.
    pub fn push_once(&mut self, diagnostic: Diagnostic) {
        let same = |known: &Diagnostic| match &diagnostic.file {
            Some(_) => {
                (&known.file, known.line, known.column, known.code)
                    == (&diagnostic.file, diagnostic.line, diagnostic.column, diagnostic.code)
            }
            None => *known == diagnostic,
        };
        if !self.list.iter().any(same) {
            self.push(diagnostic);
        }
    }

    /// Adds all of another's.
    pub fn extend(&mut self, other: Diagnostics) {
        // Those that `other` only counted stay counted.
        let kept = other.list.iter().filter(|d| d.severity == Severity::Error).count();
        self.errors += other.errors - kept;
        self.dropped += other.dropped;
        other.list.into_iter().for_each(|diagnostic| self.push(diagnostic));
    }

    /// How many are kept; for [`Diagnostics::sort_from`].
    pub(crate) fn kept(&self) -> usize {
        self.list.len()
    }

    /// Puts those from `start` on, which are of one file, in the order of its lines; removed keys first (M16).
    pub(crate) fn sort_from(&mut self, start: usize) {
        self.list[start..].sort_by_key(|d| (d.code != Code::RemovedKey, d.line, d.column));
    }

    /// Is one of them an error?
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// How many errors, those above the limit included.
    pub fn error_count(&self) -> usize {
        self.errors
    }

    /// How many were counted and not kept.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// In the order they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        if self.dropped > 0 {
            write!(f, "\nand {} more", self.dropped)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Text of a file for use in a message: in backticks, shortened.
pub(crate) fn excerpt(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().take(EXCERPT_CHARS_MAX) {
        if deceives(c) { short.extend(c.escape_unicode()) } else { short.push(c) }
    }
    if text.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        short.push('…');
    }
    format!("`{short}`")
}

/// Names in a row: `a`, `b`.
pub(crate) fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| excerpt(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Control and direction-changing characters escaped; line ends stay (messages of several lines are carboy's own,
/// texts of files are escaped by the reader's rules before they get here).
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            c if deceives(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Characters that make a text look like another one: C0 and C1 controls, line and paragraph separators,
/// direction overrides and isolates, zero-width marks (CVE-2021-42574 and its kin).
pub(crate) fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{a0}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_reads_like_a_compiler_message_and_escapes_what_would_move_the_cursor() {
        let d = Diagnostic::error(Code::BadValue, "has \u{1b}[2J", "first\nsecond")
            .at(Path::new("a\u{1b}.md"), Position { line: 3, column: 5 });
        let want = "a\\u{1b}.md:3:5: error: has \\u{1b}[2J [bad-value]\n  fix: first\n       second";
        assert_eq!(d.to_string(), want);
    }

    #[test]
    fn more_than_the_limit_is_counted_and_still_an_error() {
        let mut all = Diagnostics::default();
        (0..DIAGNOSTICS_MAX).for_each(|_| all.push(Diagnostic::warning(Code::NoEffect, "w", "f")));
        assert!(!all.has_errors());
        all.push(Diagnostic::error(Code::BadValue, "e", "f"));
        let mut sum = Diagnostics::default();
        sum.extend(all);
        assert!(sum.has_errors() && sum.dropped() == 1 && sum.error_count() == 1);
        assert!(sum.to_string().ends_with("and 1 more"));
    }
}
