//! What may be wrong with a document, each with the line on which it is. *Must never* quote more of a document than a
//! name, a path or one line.

use std::fmt;

use crate::limits::{
    BLOCKS_MAX, DOCUMENT_BYTES_MAX, FILES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, PROBLEMS_MAX, REFERENCE_DEPTH_MAX,
    SOURCE_BYTES_MAX, TANGLED_BYTES_MAX, TANGLED_LINES_MAX,
};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line of the document, from 1.
    pub line: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// Everything that is wrong, in the order of the document; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Problem>);

impl Faults {
    /// `Ok` with the value where nothing was found.
    pub(crate) fn none_or<T>(mut problems: Vec<Problem>, value: T) -> Result<T, Faults> {
        if problems.is_empty() {
            return Ok(value);
        }
        problems.sort_by_key(|problem| problem.line);
        problems.truncate(PROBLEMS_MAX);
        Err(Faults(problems))
    }

    /// The problems.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Problem> for Faults {
    fn from(problem: Problem) -> Faults {
        Faults(vec![problem])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            write!(f, "{}line {}: {}", if n == 0 { "" } else { "\n" }, problem.line, problem.fault)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The document is too large.
    #[error("the document has more than {DOCUMENT_BYTES_MAX} bytes; split it")]
    DocumentTooLarge,
    /// A NUL byte.
    #[error("a NUL byte; a document is text")]
    Nul,
    /// Too many blocks.
    #[error("more than {BLOCKS_MAX} code blocks; split the document")]
    TooManyBlocks,
    /// Too many files.
    #[error("more than {FILES_MAX} files; split the document")]
    TooManyFiles,
    /// All files together are too large.
    #[error(
        "the files of this document have more than {TANGLED_BYTES_MAX} bytes or {TANGLED_LINES_MAX} lines together; use fewer \
         references"
    )]
    TangledTooLarge,
    /// The fence is never closed.
    #[error("this code block is never closed; end it with a line of {0}")]
    Unclosed(String),
    /// Markdown and the tangler would disagree about the end of the block.
    #[error("this code block has a carriage return without a line feed before a fence; use a longer fence")]
    BareCarriageReturn,
    /// A chunk in a list or a quotation.
    #[error("a chunk stands in a list or a quotation; move it to the beginning of the line")]
    Nested,
    /// Attributes that make no sense.
    #[error("the attributes of this block cannot be read: {0}; write {{chunk=\"name\" file=\"path\"}}")]
    Attributes(String),
    /// An attribute that does not exist.
    #[error("there is no attribute `{0}`; there are chunk, file, eof, refs, include and anchor")]
    UnknownAttribute(String),
    /// A value that an attribute does not have.
    #[error("`{attribute}` cannot be \"{value}\"; it can be {allowed}")]
    Value {
        /// Which.
        attribute: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A name that is none.
    #[error(
        "\"{0}\" is no name of a chunk: letters, digits, - _ . : / and single blanks, at most {NAME_BYTES_MAX} bytes"
    )]
    Name(String),
    /// A path that leads out of the tree.
    #[error("\"{0}\" leads out of the document's tree; write a path below it, without a leading / and without ..")]
    Leaves(String),
    /// A path that is none.
    #[error(
        "\"{0}\" is no path of a file: at most {PATH_BYTES_MAX} bytes, parts between single /, no control characters"
    )]
    Path(String),
    /// A path that belongs to somebody else.
    #[error("\"{path}\" is reserved: {why}; choose another path")]
    Reserved {
        /// The path.
        path: String,
        /// For whom.
        why: &'static str,
    },
    /// Two chunks want one file.
    #[error(
        "\"{path}\" is already the file of chunk \"{first}\" (line {line}); append to that chunk by repeating its name"
    )]
    FileTwice {
        /// The path.
        path: String,
        /// Who has it.
        first: String,
        /// Where.
        line: usize,
    },
    /// One chunk wants two files.
    #[error("chunk \"{name}\" already has the file \"{first}\" (line {line}); a chunk has one")]
    TwoFiles {
        /// The chunk.
        name: String,
        /// Its file.
        first: String,
        /// Where.
        line: usize,
    },
    /// A file stands where another's directory has to be.
    #[error("\"{path}\" and \"{below}\" cannot both be: the first would have to be a directory")]
    FileAndDirectory {
        /// The file.
        path: String,
        /// The file below it.
        below: String,
    },
    /// A reference without a chunk.
    #[error("there is no chunk \"{0}\"; define it, or set refs=\"none\" on this block if the line is meant as it is")]
    Undefined(String),
    /// A chunk that goes nowhere.
    #[error("chunk \"{0}\" is used by no file; refer to it with <<{0}>>, give it a file, or take its name away")]
    Unused(String),
    /// A chunk that contains itself.
    #[error("chunks contain each other: {}", .0.join(" → "))]
    Cycle(Vec<String>),
    /// References nested too deeply.
    #[error("references are nested more than {REFERENCE_DEPTH_MAX} deep; use fewer")]
    TooDeep,
    /// `eof` where there is no end of a file.
    #[error("eof=\"none\" belongs on the last block of a chunk that has a file, and that block needs a last line")]
    Eof,
    /// A chunk with `eof="none"` is used inside another one.
    #[error("chunk \"{0}\" ends without a line end (eof=\"none\"), so it cannot be used inside another chunk")]
    EofInside(String),
    /// A library file that is not there.
    #[error("there is no file \"{0}\" in the library; the path starts at the library's top (`--library DIR`)")]
    NoInclude(String),
    /// A library file that is no text.
    #[error("the library file \"{0}\" is not UTF-8 text of at most {SOURCE_BYTES_MAX} bytes")]
    IncludeNotText(String),
    /// No such part of the library file.
    #[error("\"{path}\" has neither lines `ANCHOR: {anchor}` … `ANCHOR_END: {anchor}` nor an item of that name")]
    NoAnchor {
        /// The file.
        path: String,
        /// The part.
        anchor: String,
    },
    /// Several such parts.
    #[error("\"{path}\" has several places named \"{anchor}\"; put the one that is meant between ANCHOR lines")]
    AnchorTwice {
        /// The file.
        path: String,
        /// The part.
        anchor: String,
    },
    /// A copy that is not what the library says.
    #[error("the copy of \"{0}\" is not what the library says; run `carboy lit sync`, and read what is said about it")]
    IncludeDrift(String),
    /// A heading without words.
    #[error("a heading without words; nobody could find it")]
    EmptyHeading,
    /// A diagram that cannot be drawn.
    #[error("the diagram cannot be drawn: {0}")]
    Diagram(String),
    /// A picture from elsewhere.
    #[error("the picture \"{0}\" stands elsewhere; a page asks for nothing but itself")]
    Picture(String),
    /// A link that a page must not have.
    #[error("the link \"{0}\" has a scheme that no page offers; use https, http, mailto, or a place in the page")]
    Link(String),
    /// A link to nowhere in the page.
    #[error("there is no heading, chunk or line \"#{0}\" in this document")]
    NoTarget(String),
    /// A template's block that cannot be filled.
    #[error("the template cannot be filled: {0}")]
    Template(String),
}

impl Fault {
    /// At a line.
    pub(crate) fn at(self, line: usize) -> Problem {
        Problem { line, fault: self }
    }
}
