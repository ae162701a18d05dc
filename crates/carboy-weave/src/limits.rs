//! How large things may be. *Must never* be raised without a look at what is quadratic in it.

/// Largest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// Largest single source or library file, in bytes.
pub const SOURCE_BYTES_MAX: usize = 8 << 20;
/// Most code blocks of a document.
pub const BLOCKS_MAX: usize = 10_000;
/// Most files that one document tangles to.
pub const FILES_MAX: usize = 2_000;
/// Longest name of a chunk, in bytes.
pub const NAME_BYTES_MAX: usize = 120;
/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 512;
/// Deepest nesting of references.
pub const REFERENCE_DEPTH_MAX: usize = 32;
/// Most bytes that all files together tangle to: references multiply, and a small document may ask for a large disk.
pub const TANGLED_BYTES_MAX: usize = 64 << 20;
/// Most lines that they have, each use of a block counting as one more: what is empty can be multiplied, too.
pub const TANGLED_LINES_MAX: usize = 1_000_000;
/// Most problems that are reported at once.
pub const PROBLEMS_MAX: usize = 100;
/// Most lines of one file's difference that are shown.
pub const DIFF_LINES_MAX: usize = 2_000;
/// Most lines of a diagram.
pub const DIAGRAM_LINES_MAX: usize = 400;
/// Most boxes, participants or groups of a diagram.
pub const DIAGRAM_NODES_MAX: usize = 120;
/// Most arrows or messages of a diagram.
pub const DIAGRAM_EDGES_MAX: usize = 400;
/// Longest label in a diagram, in characters.
pub const DIAGRAM_LABEL_CHARS_MAX: usize = 200;
/// Longest line of compiler output that is translated; a longer one passes as it is.
pub const OUTPUT_LINE_BYTES_MAX: usize = 1 << 20;
