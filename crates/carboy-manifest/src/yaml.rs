//! A bounded subset of YAML, read into a tree in which every node knows its place (M32).
//!
//! Accepted: block maps and lists, flow lists `[a, b]` and maps `{a: 1}` that end on their line, plain, single- and
//! double-quoted text on one line, comments, whole decimal numbers, `true`, `false`, `null`.
//! Refused by name: anchors, aliases, tags, merge keys, block scalars, text over several lines, several documents,
//! tabs as indentation, duplicate keys, more than [`DEPTH_MAX`] levels or [`NODES_MAX`] nodes.
//!
//! *Must never* read a value as something that another YAML reader would not: `yes`, `on`, `NO`, dates and `1:30`
//! are text, as written; what some version of YAML calls a number, a boolean or null in a spelling other than the
//! accepted one (`0777`, `1_000`, `1.5`, `True`, `~`) is an error that asks for quotes. A policy that two programs
//! read differently is a hole in one of them.

mod inline;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use crate::diagnostic::{Code, Position, deceives};

/// Deepest nesting of maps and lists.
pub const DEPTH_MAX: usize = 16;
/// Most nodes (maps, lists, scalars and keys) of one document.
pub const NODES_MAX: usize = 10_000;
/// Most syntax errors of one document before the reader gives up.
pub const SYNTAX_ERRORS_MAX: usize = 50;

/// One value and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What.
    pub value: Value,
    /// Its first character.
    pub at: Position,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`, or nothing after `key:`.
    Null,
    /// `true` or `false`, spelled so.
    Bool(bool),
    /// A whole decimal number.
    Int(i64),
    /// Any other scalar.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map; keys are always text, as written, and differ.
    Map(Vec<Entry>),
    /// There was a syntax error here, which is reported already.
    Invalid,
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its first character.
    pub key_at: Position,
    /// The value.
    pub value: Node,
}

/// What is wrong with the text as YAML. A schema error is a [`Diagnostic`](crate::diagnostic::Diagnostic) of another
/// code; this type never stands for one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct SyntaxError {
    /// What.
    pub kind: SyntaxErrorKind,
    /// Where.
    pub at: Position,
}

/// Kinds of syntax errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum SyntaxErrorKind {
    #[error("tab in the indentation")]
    Tab,
    #[error("character U+{0:04X} that makes a text look like another one")]
    Deceiving(u32),
    #[error("indentation fits no level above")]
    Indentation,
    #[error("expected `key: value`")]
    ExpectedKey,
    #[error("list item among the keys of a map")]
    ItemInMap,
    #[error("key among the items of a list")]
    KeyInList,
    #[error("key `{key}` stands twice; first on line {first_line}")]
    DuplicateKey { key: String, first_line: u32 },
    #[error("anchors (`&name`) are not accepted")]
    Anchor,
    #[error("aliases (`*name`) are not accepted")]
    Alias,
    #[error("tags (`!name`) are not accepted")]
    Tag,
    #[error("merge keys (`<<`) are not accepted")]
    MergeKey,
    #[error("text over several lines (`|`, `>`) is not accepted")]
    BlockScalar,
    #[error("a value has to end on the line it begins on")]
    SeveralLines,
    #[error("more than one document in a file")]
    SeveralDocuments,
    #[error("directives (`%`) are not accepted")]
    Directive,
    #[error("complex keys (`? `) are not accepted")]
    ComplexKey,
    #[error("plain text may not begin with `{0}`")]
    Reserved(char),
    #[error("`: ` inside plain text")]
    ColonInText,
    #[error("the closing quote is missing")]
    UnclosedQuote,
    #[error("escape `\\{0}` is not known")]
    Escape(String),
    #[error("unexpected text after the value")]
    AfterValue,
    #[error("the closing `{0}` is missing on this line")]
    UnclosedFlow(char),
    #[error("expected {0} here")]
    FlowExpected(&'static str),
    #[error("`{text}` is read as {as_what} by some YAML readers and as text by others")]
    Ambiguous { text: String, as_what: &'static str },
    #[error("number {0} is out of range")]
    NumberRange(String),
    #[error("nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("more than {NODES_MAX} values")]
    TooManyNodes,
    #[error("more than {SYNTAX_ERRORS_MAX} syntax errors; the rest of the file was not read")]
    TooManyErrors,
}

impl SyntaxErrorKind {
    /// The diagnostic's code.
    pub fn code(&self) -> Code {
        match self {
            Self::DuplicateKey { .. } => Code::DuplicateKey,
            Self::Ambiguous { .. } | Self::NumberRange(_) => Code::AmbiguousValue,
            Self::TooDeep | Self::TooManyNodes | Self::TooManyErrors => Code::TooComplex,
            Self::Tab
            | Self::Deceiving(_)
            | Self::Indentation
            | Self::ExpectedKey
            | Self::ItemInMap
            | Self::KeyInList
            | Self::Anchor
            | Self::Alias
            | Self::Tag
            | Self::MergeKey
            | Self::BlockScalar
            | Self::SeveralLines
            | Self::SeveralDocuments
            | Self::Directive
            | Self::ComplexKey
            | Self::Reserved(_)
            | Self::ColonInText
            | Self::UnclosedQuote
            | Self::Escape(_)
            | Self::AfterValue
            | Self::UnclosedFlow(_)
            | Self::FlowExpected(_) => Code::YamlSyntax,
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> String {
        match self {
            Self::Tab => "indent with spaces".into(),
            Self::Deceiving(_) => "remove it, or write it as an escape in double quotes: \"\\u00A0\"".into(),
            Self::Indentation => "begin the line in the column of its neighbours".into(),
            Self::ExpectedKey => "write `key: value`, with a space after the colon".into(),
            Self::ItemInMap => "indent the `- ` below its key, or remove it".into(),
            Self::KeyInList => "begin each item with `- `, or end the list by indenting less".into(),
            Self::DuplicateKey { .. } => "keep one of the two".into(),
            Self::Anchor | Self::MergeKey => "write the values out where they are needed".into(),
            Self::Alias => "put text that begins with `*` in quotes, as in \"*.example.org\"".into(),
            Self::Tag => "put text that begins with `!` in quotes; types are never tagged".into(),
            Self::BlockScalar | Self::SeveralLines => {
                "keep it on one line; in double quotes \\n stands for a line end".into()
            }
            Self::SeveralDocuments => "keep one document and remove the `---` or `...` line".into(),
            Self::Directive => "remove the line; put text that begins with `%` in quotes".into(),
            Self::ComplexKey => "use plain text as the key".into(),
            Self::Reserved(_) | Self::ColonInText => "put the text in quotes".into(),
            Self::UnclosedQuote => "close the quote on the same line".into(),
            Self::Escape(_) => "use \\\\ \\\" \\/ \\n \\t \\r \\xHH \\uHHHH \\UHHHHHHHH, or single quotes".into(),
            Self::AfterValue => "begin a comment with ` #`, or put the whole text in quotes".into(),
            Self::UnclosedFlow(_) => "close it on the same line, or write one `- item` or `key: value` a line".into(),
            Self::FlowExpected(_) => "write `[a, b]` or `{key: value}`".into(),
            Self::Ambiguous { text, .. } => ambiguous_fix(text),
            Self::NumberRange(_) => "use a smaller number, or quotes if it is text".into(),
            Self::TooDeep | Self::TooManyNodes => "make the file simpler".into(),
            Self::TooManyErrors => "mend the first ones and check again".into(),
        }
    }
}

fn ambiguous_fix(text: &str) -> String {
    match text.to_ascii_lowercase().as_str() {
        word @ ("true" | "false" | "null") => format!("write `{word}`, or \"{text}\" in quotes for text"),
        "~" => "write `null`, or \"~\" in quotes for text".into(),
        _ => format!("write \"{text}\" in quotes for text, or a plain decimal number"),
    }
}

/// Reads one document whose first line is line `first_line` of its file. All errors that can be told apart are
/// returned; a node with one is [`Value::Invalid`].
pub fn parse(text: &str, first_line: u32) -> (Node, Vec<SyntaxError>) {
    let mut reader = Reader { lines: lines_of(text, first_line), next: 0, errors: Vec::new(), nodes: 0, full: false };
    let root = reader.document(Position { line: first_line, column: 1 });
    (root, reader.errors)
}

/// A line with something on it.
#[derive(Clone, Copy)]
struct Line<'a> {
    number: u32,
    /// Spaces before the text, which is also the text's column minus one.
    indent: usize,
    text: &'a str,
}

impl Line<'_> {
    fn at(&self) -> Position {
        column(self.number, self.indent)
    }

    fn is_item(&self) -> bool {
        self.text == "-" || self.text.starts_with("- ")
    }
}

fn column(line: u32, chars_before: usize) -> Position {
    Position { line, column: u32::try_from(chars_before).unwrap_or(u32::MAX - 1) + 1 }
}

fn lines_of(text: &str, first_line: u32) -> Vec<Line<'_>> {
    let numbered = text.split('\n').zip(first_line..);
    let lines = numbered.map(|(raw, number)| {
        let raw = raw.strip_suffix('\r').unwrap_or(raw).trim_end_matches(' ');
        let text = raw.trim_start_matches(' ');
        Line { number, indent: raw.len() - text.len(), text }
    });
    // A comment that hides a line end from this reader and shows one to an editor is not passed over in silence.
    let deceiving = |line: &Line<'_>| line.text.chars().any(|c| deceives(c) && c != '\t');
    lines.filter(|line| !line.text.is_empty() && (!line.text.starts_with('#') || deceiving(line))).collect()
}

struct Reader<'a> {
    lines: Vec<Line<'a>>,
    next: usize,
    errors: Vec<SyntaxError>,
    nodes: usize,
    full: bool,
}

impl<'a> Reader<'a> {
    fn document(&mut self, start: Position) -> Node {
        if self.lines.first().is_some_and(|line| line.indent == 0 && line.text == "---") {
            self.next += 1;
        }
        let Some(first) = self.peek() else {
            return Node { value: Value::Null, at: start };
        };
        let root = self.block(first.indent, 1);
        while let Some(line) = self.peek() {
            self.fail(SyntaxErrorKind::Indentation, line.at());
            self.next += 1;
        }
        root
    }

    /// The next line that can be read; what cannot is reported and passed over.
    fn peek(&mut self) -> Option<Line<'a>> {
        loop {
            let line = *self.lines.get(self.next)?;
            let Some((kind, at)) = line_problem(&line) else { return Some(line) };
            let ends_document = matches!(kind, SyntaxErrorKind::SeveralDocuments);
            self.fail(kind, at);
            self.next = if ends_document { self.lines.len() } else { self.next + 1 };
        }
    }

    fn fail(&mut self, kind: SyntaxErrorKind, at: Position) {
        if self.errors.len() + 1 < SYNTAX_ERRORS_MAX {
            self.errors.push(SyntaxError { kind, at });
        } else if self.next < self.lines.len() {
            self.errors.push(SyntaxError { kind: SyntaxErrorKind::TooManyErrors, at });
            self.next = self.lines.len();
        }
    }

    fn node(&mut self, value: Value, at: Position) -> Node {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            if !self.full {
                self.full = true;
                self.fail(SyntaxErrorKind::TooManyNodes, at);
            }
            self.next = self.lines.len();
            return Node { value: Value::Invalid, at };
        }
        Node { value, at }
    }

    /// The value that begins on the next line, in that line's column.
    fn block(&mut self, indent: usize, depth: usize) -> Node {
        let begins = self.lines.get(self.next).map_or(column(1, 0), Line::at);
        let Some(line) = self.peek() else {
            // Nothing that can be read is left: what stood there was refused.
            return Node { value: Value::Invalid, at: begins };
        };
        if depth > DEPTH_MAX {
            self.fail(SyntaxErrorKind::TooDeep, line.at());
            self.skip_from(indent);
            return Node { value: Value::Invalid, at: line.at() };
        }
        if line.is_item() {
            self.list(line.indent, depth)
        } else if inline::begins_with_key(line.text) || self.neighbour_below(line.indent) {
            self.map(line.indent, depth)
        } else {
            self.next += 1;
            self.inline_value(line.text, line.at(), indent.saturating_sub(1), depth)
        }
    }

    /// Another line of the same level: then this one was meant to be a key, and is reported as such.
    fn neighbour_below(&self, indent: usize) -> bool {
        self.lines.get(self.next + 1).is_some_and(|below| below.indent == indent)
    }

    fn list(&mut self, indent: usize, depth: usize) -> Node {
        let at = column(self.peek().map_or(0, |line| line.number), indent);
        let mut items = Vec::new();
        while let Some(line) = self.peek() {
            if line.indent < indent || (line.indent == indent && !line.is_item()) {
                break;
            }
            if line.indent > indent {
                self.fail(SyntaxErrorKind::Indentation, line.at());
                self.next += 1;
                continue;
            }
            let rest = line.text[1..].trim_start_matches(' ');
            let indent_inside = indent + line.text.len() - rest.len();
            let item = if rest.is_empty() || rest.starts_with('#') {
                self.next += 1;
                self.below(indent, line, depth)
            } else {
                // `- key: value` and `- - a`: the rest of the line is a block of its own, in its own column.
                self.lines[self.next] = Line { number: line.number, indent: indent_inside, text: rest };
                self.block(indent + 1, depth + 1)
            };
            items.push(item);
        }
        self.node(Value::List(items), at)
    }

    fn map(&mut self, indent: usize, depth: usize) -> Node {
        let at = column(self.peek().map_or(0, |line| line.number), indent);
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = HashSet::new();
        while let Some(line) = self.peek() {
            if line.indent < indent {
                break;
            }
            if line.indent > indent {
                self.fail(SyntaxErrorKind::Indentation, line.at());
                self.next += 1;
                continue;
            }
            if let Some(entry) = self.entry(line, indent, depth) {
                if seen.insert(entry.key.clone()) {
                    entries.push(entry);
                } else {
                    let first_line = entries.iter().find(|e| e.key == entry.key).map_or(0, |e| e.key_at.line);
                    self.fail(SyntaxErrorKind::DuplicateKey { key: entry.key, first_line }, entry.key_at);
                }
            }
        }
        self.node(Value::Map(entries), at)
    }

    /// One `key: …` with all that belongs to it; `None` when it is no entry, which is reported.
    fn entry(&mut self, line: Line<'a>, indent: usize, depth: usize) -> Option<Entry> {
        let split = if line.is_item() { Err((SyntaxErrorKind::ItemInMap, 0)) } else { inline::split_key(line.text) };
        let (key, rest) = match split {
            Ok(found) => found,
            Err((kind, chars)) => {
                self.fail(kind, column(line.number, indent + chars));
                self.next += 1;
                self.skip_from(indent + 1);
                return None;
            }
        };
        self.next += 1;
        self.nodes += 1;
        let value_text = rest.trim_start_matches([' ', '\t']);
        let chars_before = line.text[..line.text.len() - value_text.len()].chars().count();
        let value_at = column(line.number, indent + chars_before);
        let value = if value_text.is_empty() || value_text.starts_with('#') {
            self.below(indent, line, depth)
        } else {
            self.inline_value(value_text, value_at, indent, depth)
        };
        Some(Entry { key, key_at: line.at(), value })
    }

    /// What stands indented below `parent`; a list may stand in the column of its key.
    fn below(&mut self, indent: usize, parent: Line<'a>, depth: usize) -> Node {
        let chars = parent.text.chars().count();
        match self.peek() {
            Some(line) if line.indent > indent => self.block(indent + 1, depth + 1),
            Some(line) if line.indent == indent && line.is_item() && !parent.is_item() => {
                if depth < DEPTH_MAX {
                    self.list(indent, depth + 1)
                } else {
                    self.block(indent, depth + 1)
                }
            }
            Some(_) | None => self.node(Value::Null, column(parent.number, parent.indent + chars)),
        }
    }

    /// A value on one line, and a complaint when it goes on below.
    fn inline_value(&mut self, text: &str, at: Position, indent: usize, depth: usize) -> Node {
        let room = NODES_MAX.saturating_sub(self.nodes);
        match inline::value(text, at, depth, room) {
            Ok((value, nodes)) => {
                self.nodes += nodes - 1;
                if let Some(line) = self.peek().filter(|line| line.indent > indent) {
                    self.fail(SyntaxErrorKind::SeveralLines, line.at());
                    self.skip_from(indent + 1);
                    return Node { value: Value::Invalid, at };
                }
                self.node(value, at)
            }
            Err(error) => {
                let unclosed = matches!(error.kind, SyntaxErrorKind::UnclosedFlow(_));
                self.fail(error.kind, error.at);
                self.skip_from(indent + 1);
                if unclosed {
                    self.skip_closing_brackets(indent);
                }
                self.node(Value::Invalid, at)
            }
        }
    }

    /// Passes over the lines of at least this indentation: they belong to what was refused.
    fn skip_from(&mut self, indent: usize) {
        while self.lines.get(self.next).is_some_and(|line| line.indent >= indent) {
            self.next += 1;
        }
    }

    fn skip_closing_brackets(&mut self, indent: usize) {
        let closes = |line: &Line<'_>| line.indent == indent && line.text.starts_with([']', '}']);
        while self.lines.get(self.next).is_some_and(closes) {
            self.next += 1;
        }
    }
}

/// What no line may have, whatever stands on it.
fn line_problem(line: &Line<'_>) -> Option<(SyntaxErrorKind, Position)> {
    if line.text.starts_with('\t') {
        return Some((SyntaxErrorKind::Tab, line.at()));
    }
    if line.text.starts_with("-\t") {
        return Some((SyntaxErrorKind::Tab, column(line.number, line.indent + 1)));
    }
    let bad = line.text.chars().enumerate().find(|(_, c)| deceives(*c) && *c != '\t');
    if let Some((i, c)) = bad {
        return Some((SyntaxErrorKind::Deceiving(u32::from(c)), column(line.number, line.indent + i)));
    }
    let marks = |mark: &str| line.text.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    if line.indent == 0 && (marks("---") || marks("...")) {
        return Some((SyntaxErrorKind::SeveralDocuments, line.at()));
    }
    if line.indent == 0 && line.text.starts_with('%') {
        return Some((SyntaxErrorKind::Directive, line.at()));
    }
    None
}
