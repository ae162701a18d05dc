//! Chunks of an agent's prose: fenced code blocks with a name in braces, which are no part of the prompt.
//!
//! ````text
//! ```python {chunk="tools" file="tools/shop.py"}      the attributes of carboy's literate programs
//! ```
//! ````
//!
//! *Must never* pass over an attribute that it does not know, nor take a block without a name out of the prompt.

use crate::diagnostic::{Code, Position, excerpt, listed};
use crate::schema::Scope;

/// Most chunks of one file.
pub const CHUNKS_MAX: usize = 64;
/// Longest name or path of a chunk, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// One chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Its name; its file's where it has none of its own.
    pub(crate) name: String,
    /// Its file below the bottle's tool directory.
    pub(crate) file: Option<String>,
    /// What stands between the fences, each line with its end.
    pub(crate) text: String,
    /// Where its fence opens.
    pub(crate) at: Position,
}

struct Open {
    mark: char,
    length: usize,
    at: Position,
    chunk: Option<Chunk>,
}

/// The prose without its chunks, and the chunks. `first_line` is the line of the file on which the prose begins.
pub(crate) fn split(scope: &mut Scope<'_>, prose: &str, first_line: u32) -> (String, Vec<Chunk>) {
    let (mut prompt, mut chunks) = (String::new(), Vec::<Chunk>::new());
    let mut open: Option<Open> = None;
    for (line, number) in prose.split_inclusive('\n').zip(first_line..) {
        let bare = line.trim_end_matches(['\n', '\r']);
        let Some(inside) = &mut open else {
            let at = Position { line: number, column: 1 };
            open = fence(bare).map(|(mark, length)| {
                let chunk = attributes(scope, &bare[length..], at);
                Open { mark, length, at, chunk }
            });
            if open.as_ref().is_none_or(|open| open.chunk.is_none()) {
                prompt.push_str(line);
            }
            continue;
        };
        let closed = closes(bare, inside.mark, inside.length);
        match &mut inside.chunk {
            None => prompt.push_str(line),
            Some(chunk) if !closed => chunk.text.push_str(line),
            Some(_) => {}
        }
        if closed && let Some(chunk) = open.take().and_then(|open| open.chunk) {
            keep(scope, &mut chunks, chunk);
        }
    }
    if let Some(Open { at, chunk: Some(_), .. }) = open {
        let message = format!("the chunk of {} that begins here is never closed", scope.owner);
        scope.error(at, Code::BadChunk, message, "write a line with the same fence alone below it");
    }
    (prompt.trim().to_owned(), chunks)
}

fn fence(line: &str) -> Option<(char, usize)> {
    let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let length = line.chars().take_while(|c| *c == mark).count();
    // The info string of a backtick fence holds no backtick (CommonMark 4.5): that line is code within a text.
    (length >= 3 && !(mark == '`' && line[length..].contains('`'))).then_some((mark, length))
}

fn closes(line: &str, mark: char, length: usize) -> bool {
    let inner = line.trim_start_matches(' ');
    let run = inner.chars().take_while(|c| *c == mark).count();
    line.len() - inner.len() <= 3 && run >= length && inner[run..].chars().all(char::is_whitespace)
}

/// One without a name was reported already.
fn keep(scope: &mut Scope<'_>, chunks: &mut Vec<Chunk>, chunk: Chunk) {
    if chunk.name.is_empty() {
        return;
    }
    if let Some(known) = chunks.iter().find(|known| known.name == chunk.name) {
        let (name, line) = (excerpt(&chunk.name), known.at.line);
        let message = format!("chunk {name} of {} stands twice; first on line {line}", scope.owner);
        scope.error(chunk.at, Code::BadChunk, message, "give each chunk a name of its own");
    } else if chunks.len() == CHUNKS_MAX {
        let message = format!("{} has more than {CHUNKS_MAX} chunks", scope.owner);
        scope.error(chunk.at, Code::TooComplex, message, "put several into one");
    } else {
        chunks.push(chunk);
    }
}

/// The chunk of a fence with braces; `None` for a block that belongs to the prompt. What is wrong is reported.
fn attributes(scope: &mut Scope<'_>, info: &str, at: Position) -> Option<Chunk> {
    let info = info.trim();
    let inner = &info[info.find('{')?..];
    let chunk = match named(inner) {
        Ok((name, file)) => Chunk { name, file, text: String::new(), at },
        Err(problem) => {
            let message = format!("a code block of {}: {problem}", scope.owner);
            let fix = "write ```LANGUAGE {chunk=\"NAME\" file=\"tools/NAME.py\"}, or no braces for an example";
            scope.error(at, Code::BadChunk, message, fix);
            // Read on as a chunk: what was meant as code is told to no model.
            Chunk { name: String::new(), file: None, text: String::new(), at }
        }
    };
    Some(chunk)
}

fn named(braced: &str) -> Result<(String, Option<String>), String> {
    let inner = braced.strip_prefix('{').and_then(|inner| inner.strip_suffix('}'));
    let mut rest = inner.ok_or("there is no `}` at the end of its first line")?.trim();
    let (mut name, mut file) = (None, None);
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or("an attribute has no value")?;
        let quoted = after.trim_start().strip_prefix('"').and_then(|after| after.split_once('"'));
        let (value, after) = quoted.ok_or("a value is not in \"quotes\"")?;
        let slot = match key.trim() {
            "chunk" => &mut name,
            "file" => &mut file,
            other => {
                return Err(format!("{} is no attribute; allowed are {}", excerpt(other), listed(["chunk", "file"])));
            }
        };
        if slot.replace(value.to_owned()).is_some() {
            return Err("an attribute stands twice".into());
        }
        rest = after.trim_start();
    }
    if file.as_deref().is_some_and(|file| !is_tool_path(file)) {
        return Err("its `file` is no plain path below the bottle's tool directory".into());
    }
    let name = name.or_else(|| file.clone()).ok_or("it has neither `chunk` nor `file`")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
        return Err("its name is not of letters, digits, `-`, `_`, `.` and `/`".into());
    }
    Ok((name, file))
}

/// A path below the tool directory, in its one spelling.
pub(crate) fn is_tool_path(text: &str) -> bool {
    let part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(plain)
    };
    text.len() <= NAME_BYTES_MAX && text.split('/').all(part)
}
