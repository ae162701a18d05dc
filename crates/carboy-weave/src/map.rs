//! From positions in sources to positions in the document: a record of what was tangled, and a translator of what
//! compilers and tests print. *Must never* claim an exact place for a line that is not the document's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diff::{lines, matches};
use crate::document::Document;
use crate::limits::OUTPUT_LINE_BYTES_MAX;
use crate::sync::Base;
use crate::tangle::{Tangled, TangledFile};
use crate::{Sources, TreePath};

/// The form of the record.
const VERSION: u32 = 1;

/// What was tangled when document and sources last agreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The document's name.
    pub document: String,
    /// Its files.
    pub files: BTreeMap<String, Recorded>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Runs of lines: first line of the file, line of the document, how many.
    pub lines: Vec<[usize; 3]>,
    /// What it said.
    pub text: String,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is none.
    #[error("not a map of `carboy lit`; remove it, and run `carboy lit sync` when document and sources agree")]
    NotJson(#[from] serde_json::Error),
    /// It is of another version.
    #[error("a map of version {0}, and this carboy reads version {VERSION}; remove it")]
    Version(u32),
}

impl Record {
    /// The record of a document.
    pub fn of(name: &str, tangled: &Tangled) -> Record {
        let recorded = |file: &TangledFile| Recorded { lines: runs(file), text: file.text.clone() };
        let files = tangled.files.iter().map(|(path, file)| (path.to_string(), recorded(file))).collect();
        Record { version: VERSION, document: name.to_owned(), files }
    }

    /// As it is kept.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).map(|text| text + "\n").unwrap_or_default()
    }

    /// As it was kept.
    pub fn from_json(text: &str) -> Result<Record, RecordError> {
        let record: Record = serde_json::from_str(text)?;
        if record.version == VERSION { Ok(record) } else { Err(RecordError::Version(record.version)) }
    }

    /// What the files were.
    pub fn base(&self) -> Base {
        self.files.iter().filter_map(|(path, file)| Some((TreePath::parse(path).ok()?, file.text.clone()))).collect()
    }
}

fn runs(file: &TangledFile) -> Vec<[usize; 3]> {
    let mut runs: Vec<[usize; 3]> = Vec::new();
    for (n, origin) in file.origins.iter().enumerate() {
        match runs.last_mut().filter(|run| run[1] + run[2] == origin.line) {
            Some(run) => run[2] += 1,
            None => runs.push([n + 1, origin.line, 1]),
        }
    }
    runs
}

/// A place in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Whether that line is the one that was asked for; otherwise it is the nearest above, because the file was changed.
    pub exact: bool,
}

/// Translates positions. `resolve` says which of the document's files a path in some output is.
pub struct Translator<'t> {
    name: &'t str,
    document: &'t Document,
    files: BTreeMap<&'t TreePath, Lines<'t>>,
    resolve: &'t dyn Fn(&str) -> Option<TreePath>,
}

/// A file as it is, and which of the document's lines its lines are.
struct Lines<'t> {
    file: &'t TangledFile,
    text: String,
    /// By line of the file: the line of what the document says.
    same: BTreeMap<usize, usize>,
}

impl<'t> Translator<'t> {
    /// For a document and its files as they are now.
    pub fn new(
        name: &'t str,
        document: &'t Document,
        tangled: &'t Tangled,
        sources: &dyn Sources,
        resolve: &'t dyn Fn(&str) -> Option<TreePath>,
    ) -> Translator<'t> {
        let files = tangled.files.iter().map(|(path, file)| {
            let text = sources.read(path).and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.unwrap_or_else(|| file.text.clone());
            let same = matches(&lines(&file.text), &lines(&text)).into_iter().map(|(a, b)| (b, a)).collect();
            (path, Lines { file, text, same })
        });
        Translator { name, document, files: files.collect(), resolve }
    }

    /// Where a position of a file is in the document.
    pub fn place(&self, path: &TreePath, line: usize, column: usize) -> Option<Place> {
        let lines = self.files.get(path)?;
        let (found, at) = lines.same.range(..line).next_back()?;
        let exact = found + 1 == line;
        let origin = lines.file.origins.get(*at)?;
        let indent = lines.file.instances[origin.instance].indent.chars().count();
        let column = if exact { column.saturating_sub(indent).max(1) } else { 1 };
        Some(Place { line: origin.line, column, exact })
    }

    /// One line of output, whether text or a JSON message of rustc or cargo.
    pub fn line(&self, line: &str) -> String {
        if line.len() > OUTPUT_LINE_BYTES_MAX {
            return line.to_owned();
        }
        let message = line.starts_with('{').then(|| serde_json::from_str::<Value>(line).ok()).flatten();
        match message {
            Some(mut message) => {
                self.message(&mut message);
                message.to_string()
            }
            None => self.text(line),
        }
    }

    fn message(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                self.span(fields);
                for (name, field) in fields.iter_mut() {
                    match field {
                        Value::String(text) if name == "rendered" => {
                            let lines: Vec<String> = text.split('\n').map(|line| self.text(line)).collect();
                            *text = lines.join("\n");
                        }
                        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
                        Value::Array(_) | Value::Object(_) => self.message(field),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.message(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// A span of rustc: file, lines, columns, bytes.
    fn span(&self, fields: &mut serde_json::Map<String, Value>) {
        let number = |name: &str| fields.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let path = fields.get("file_name").and_then(Value::as_str).and_then(|path| (self.resolve)(path));
        let (Some(path), Some(from), Some(to)) = (path, number("line_start"), number("line_end")) else { return };
        let (start, end) = (number("column_start").unwrap_or(1), number("column_end").unwrap_or(1));
        let (Some(first), Some(last)) = (self.place(&path, from, start), self.place(&path, to, end)) else { return };
        let bytes = [("byte_start", from, first), ("byte_end", to, last)].map(|(name, line, place)| {
            let offset = number(name).unwrap_or(0).saturating_sub(self.files[&path].start(line));
            let indent = if place.exact { self.files[&path].indent(line) } else { offset };
            (name, self.document.line_range(place.line).start + offset.saturating_sub(indent))
        });
        let numbers = [
            ("line_start", first.line),
            ("line_end", last.line),
            ("column_start", first.column),
            ("column_end", last.column),
        ];
        for (name, value) in numbers.into_iter().chain(bytes) {
            fields.insert(name.to_owned(), value.into());
        }
        fields.insert("file_name".to_owned(), self.name.into());
    }

    /// A line of text: `path:line`, `path:line:column`, and Python's `File "path", line N`.
    fn text(&self, line: &str) -> String {
        let (mut out, mut at) = (String::new(), 0);
        while let Some(found) = line[at..].find([':', '"']).map(|n| at + n) {
            let hit = self.colon(line, at, found).or_else(|| self.quoted(line, found));
            match hit {
                Some((from, to, said)) => {
                    out.push_str(&line[at..from]);
                    out.push_str(&said);
                    at = to;
                }
                None => {
                    out.push_str(&line[at..=found]);
                    at = found + 1;
                }
            }
        }
        out.push_str(&line[at..]);
        out
    }

    fn colon(&self, line: &str, from: usize, at: usize) -> Option<(usize, usize, String)> {
        let (number, after) = digits(line, at, ':')?;
        let (column, end) = digits(line, after, ':').map_or((None, after), |(column, end)| (Some(column), end));
        let outside = |c: char| c.is_whitespace() || "\"'`()[]<>,=".contains(c);
        let start = line[from..at]
            .rfind(outside)
            .map_or(from, |n| from + n + line[from + n..].chars().next().map_or(1, char::len_utf8));
        // A colour before the path ends in `m`; JavaScript puts a scheme there.
        let colour = line[..start].ends_with("\u{1b}[").then(|| line[start..at].find('m')).flatten();
        let start = colour.map_or(start, |m| start + m + 1);
        let scheme = line[..start].ends_with("file:") && line[start..at].starts_with("//");
        let start = if scheme { start + "//".len() } else { start };
        let path = (self.resolve)(&line[start..at])?;
        let place = self.place(&path, number, column.unwrap_or(1))?;
        let column = column.map_or(String::new(), |_| format!(":{}", place.column));
        Some((start, end, format!("{}:{}{column} ({}:{number})", self.name, place.line, &line[start..at])))
    }

    fn quoted(&self, line: &str, at: usize) -> Option<(usize, usize, String)> {
        let rest = line[at..].strip_prefix('"')?;
        let (path, after) = rest.split_once('"')?;
        let count = after.strip_prefix(", line ")?;
        let length = count.find(|c: char| !c.is_ascii_digit()).unwrap_or(count.len());
        let place = self.place(&(self.resolve)(path)?, count[..length].parse().ok()?, 1)?;
        let end = at + 1 + path.len() + 1 + ", line ".len() + length;
        Some((at, end, format!("\"{}\", line {} ({path}:{})", self.name, place.line, &count[..length])))
    }
}

/// A sign and the number after it; where the number ends.
fn digits(line: &str, at: usize, sign: char) -> Option<(usize, usize)> {
    let rest = line.get(at..)?.strip_prefix(sign)?;
    let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((rest[..length].parse().ok()?, at + 1 + length))
}

impl Lines<'_> {
    /// Where a line of the file begins.
    fn start(&self, line: usize) -> usize {
        self.text.split_inclusive('\n').take(line - 1).map(str::len).sum()
    }

    fn indent(&self, line: usize) -> usize {
        let origin = self.same.get(&(line - 1)).and_then(|at| self.file.origins.get(*at));
        origin.map_or(0, |origin| self.file.instances[origin.instance].indent.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tangle::tangle;

    const TEXT: &str = "# T\n\n```rs {file=\"src/a.rs\"}\nfn f() {\n    <<b>>\n}\n```\n\n```rs {chunk=\"b\"}\nlet x = 1;\nlet y = 2;\n```\n";

    fn translated(source: Option<&str>, line: &str) -> String {
        let document = Document::parse(TEXT).unwrap();
        let tangled = tangle(&document).unwrap();
        let path = TreePath::parse("src/a.rs").unwrap();
        let sources: BTreeMap<TreePath, Vec<u8>> =
            source.map(|text| (path.clone(), text.as_bytes().to_vec())).into_iter().collect();
        let resolve = |text: &str| text.ends_with("src/a.rs").then(|| path.clone());
        Translator::new("T.md", &document, &tangled, &sources, &resolve).line(line)
    }

    #[test]
    fn positions_in_text_are_translated_and_the_rest_stays() {
        for (line, expected) in [
            ("  --> src/a.rs:2:9", "  --> T.md:10:5 (src/a.rs:2)"),
            ("  --> \u{1b}[0m\u{1b}[1msrc/a.rs:3:9", "  --> \u{1b}[0m\u{1b}[1mT.md:11:5 (src/a.rs:3)"),
            ("panicked at x/src/a.rs:1:4:", "panicked at T.md:4:4 (x/src/a.rs:1):"),
            ("  File \"src/a.rs\", line 4, in f", "  File \"T.md\", line 6 (src/a.rs:4), in f"),
            ("at f (file:///x/src/a.rs:2:1)", "at f (file://T.md:10:1 (/x/src/a.rs:2))"),
            ("src/b.rs:2:9: other", "src/b.rs:2:9: other"),
            ("12:30 src/a.rs: \"ü\": x", "12:30 src/a.rs: \"ü\": x"),
            ("ü:1 src/a.rs:1", "ü:1 T.md:4 (src/a.rs:1)"),
        ] {
            assert_eq!(translated(None, line), expected);
        }
    }

    #[test]
    fn a_changed_file_is_aligned_before_it_is_translated() {
        let changed = "// new\nfn f() {\n    let x = 1;\n    let z = 3;\n}\n";
        assert_eq!(translated(Some(changed), "src/a.rs:3:5"), "T.md:10:1 (src/a.rs:3)");
        assert_eq!(translated(Some(changed), "src/a.rs:4:5"), "T.md:10:1 (src/a.rs:4)");
        assert_eq!(translated(Some(changed), "src/a.rs:1:5"), "src/a.rs:1:5");
    }

    #[test]
    fn messages_in_json_are_translated_with_their_bytes() {
        let message = serde_json::json!({"reason": "compiler-message", "message": {"rendered": " --> src/a.rs:2:9\n",
            "spans": [{"file_name": "src/a.rs", "line_start": 2, "line_end": 2, "column_start": 9, "column_end": 10,
                "byte_start": 17, "byte_end": 18}]}});
        let out: Value = serde_json::from_str(&translated(None, &message.to_string())).unwrap();
        let span = &out["message"]["spans"][0];
        assert_eq!(span["file_name"], "T.md");
        assert_eq!((span["line_start"].as_u64(), span["column_start"].as_u64()), (Some(10), Some(5)));
        let byte = usize::try_from(span["byte_start"].as_u64().unwrap()).unwrap();
        assert!(TEXT[byte..].starts_with("x = 1"));
        assert_eq!(out["message"]["rendered"], " --> T.md:10:5 (src/a.rs:2)\n");
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let tangled = tangle(&Document::parse(TEXT).unwrap()).unwrap();
        let record = Record::of("T.md", &tangled);
        assert_eq!(record.files["src/a.rs"].lines, [[1, 4, 1], [2, 10, 2], [4, 6, 1]]);
        assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
        assert!(matches!(
            Record::from_json("{\"version\":2,\"document\":\"\",\"files\":{}}"),
            Err(RecordError::Version(2))
        ));
    }
}
