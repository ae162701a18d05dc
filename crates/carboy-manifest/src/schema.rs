//! Reading a tree of nodes as typed values, with a diagnostic wherever it is something else.
//!
//! Every method returns `None` after it has reported (or when a syntax error is reported already), so that a caller
//! goes on and the file's other errors are found in the same pass.

use std::path::Path;

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, excerpt, listed};
use crate::keys::Keys;
use crate::origin::{Place, Said};
use crate::yaml::{self, Entry, Node, Value};

/// One file being read.
pub(crate) struct Scope<'a> {
    /// The file.
    pub(crate) file: &'a Path,
    /// Whose file, as messages name it: "bottle `dev`".
    pub(crate) owner: &'a str,
    /// What `~/` stands for.
    pub(crate) home: &'a Path,
    /// `CARBOY_HOME`.
    pub(crate) carboy_home: &'a Path,
    /// Where findings go.
    pub(crate) out: &'a mut Diagnostics,
}

/// The value of a key.
pub(crate) fn find<'n>(entries: &'n [Entry], key: &str) -> Option<&'n Node> {
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
}

impl Scope<'_> {
    /// The value with its place in this file.
    pub(crate) fn said<T>(&self, value: T, at: Position) -> Said<T> {
        Said { value, place: Place { file: self.file.to_path_buf(), at } }
    }

    pub(crate) fn error(&mut self, at: Position, code: Code, message: impl AsRef<str>, fix: impl AsRef<str>) {
        self.out.push(Diagnostic::error(code, message, fix).at(self.file, at));
    }

    pub(crate) fn warn(&mut self, at: Position, code: Code, message: impl AsRef<str>, fix: impl AsRef<str>) {
        self.out.push(Diagnostic::warning(code, message, fix).at(self.file, at));
    }

    fn wrong_type(&mut self, node: &Node, what: &str, wanted: &str, fix: &str) {
        let message = format!("{what} of {} is {}, not {wanted}", self.owner, shown(&node.value));
        self.error(node.at, Code::WrongType, message, fix);
    }

    /// A map. An empty `key:` is an error: nobody can tell whether all or nothing was meant.
    pub(crate) fn map<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Entry]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            Value::Invalid => None,
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::List(_) => {
                self.wrong_type(node, what, "a map", "write `key: value` lines below it, or remove the key");
                None
            }
        }
    }

    pub(crate) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Invalid => None,
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Map(_) => {
                self.wrong_type(node, what, "a list", "write `- item` lines below it, or `[a, b]`");
                None
            }
        }
    }

    pub(crate) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            Value::Invalid => None,
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) => {
                self.wrong_type(node, what, "text", "write text; in quotes if it looks like something else");
                None
            }
        }
    }

    pub(crate) fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Invalid => None,
            Value::Null | Value::Int(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                self.wrong_type(node, what, "a boolean", "write `true` or `false`");
                None
            }
        }
    }

    /// A whole number within `range`.
    pub(crate) fn number(&mut self, node: &Node, what: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let Value::Int(given) = node.value else {
            if node.value != Value::Invalid {
                self.wrong_type(node, what, "a whole number", "write a plain decimal number");
            }
            return None;
        };
        let fits = u32::try_from(given).ok().filter(|n| range.contains(n));
        if fits.is_none() {
            let message = format!("{what} of {} is {given}", self.owner);
            let fix = format!("use a number from {} to {}", range.start(), range.end());
            self.error(node.at, Code::BadValue, message, fix);
        }
        fits
    }

    /// A list of texts that is not empty.
    pub(crate) fn texts<'n>(&mut self, node: &'n Node, what: &str) -> Option<Vec<(&'n str, Position)>> {
        let items = self.list(node, what)?;
        let texts: Vec<_> = items.iter().map(|item| (self.text(item, what), item.at)).collect();
        texts.into_iter().map(|(text, at)| Some((text?, at))).collect()
    }

    /// A list that has to name something: an empty one would read as "none" and mean "all".
    pub(crate) fn filled<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        let items = self.list(node, what)?;
        if items.is_empty() {
            let message = format!("{what} of {} is an empty list", self.owner);
            self.error(node.at, Code::BadValue, message, "name at least one, or remove the key for all of them");
            return None;
        }
        Some(items)
    }

    pub(crate) fn missing(&mut self, at: Position, key: &str, what: &str, fix: impl AsRef<str>) {
        let message = format!("{what} of {} has no `{key}`", self.owner);
        self.error(at, Code::MissingKey, message, fix);
    }

    /// M10, M11, M16: removed keys first, then those of later versions, then unknown ones.
    pub(crate) fn keys(&mut self, entries: &[Entry], keys: &Keys, what: &str) {
        for entry in entries {
            if let Some(removed) = keys.removed.iter().find(|removed| removed.key == entry.key) {
                let message = format!("{}: {}", self.owner, removed.message);
                self.error(entry.key_at, Code::RemovedKey, message, removed.fix);
            }
        }
        for entry in entries.iter().filter(|entry| keys.later.contains(&entry.key.as_str())) {
            let message = format!("`{}` in {what} of {} is not available in this version", entry.key, self.owner);
            let fix = match entry.key.as_str() {
                "mounts" => "use `binds`".to_owned(),
                key => format!("remove `{key}`; what is not enforced is not accepted"),
            };
            self.error(entry.key_at, Code::NotAvailable, message, fix);
        }
        let known = |key: &str| {
            keys.allowed.contains(&key) || keys.later.contains(&key) || keys.removed.iter().any(|r| r.key == key)
        };
        let mut unknown: Vec<&Entry> = entries.iter().filter(|entry| !known(&entry.key)).collect();
        unknown.sort_by(|a, b| a.key.cmp(&b.key));
        let Some(at) = unknown.iter().map(|entry| entry.key_at).min() else { return };
        let names = listed(unknown.iter().map(|entry| &entry.key));
        let (noun, lines) = match unknown.as_slice() {
            [_] => ("an unknown key", String::new()),
            several => {
                let lines: Vec<String> = several.iter().map(|entry| entry.key_at.line.to_string()).collect();
                ("unknown keys", format!(" (lines {})", lines.join(", ")))
            }
        };
        let message = format!("{what} of {} has {noun}: {names}{lines}", self.owner);
        let meant = unknown.iter().find_map(|entry| near(&entry.key, keys.allowed));
        let guess = meant.map(|key| format!("did you mean `{key}`? ")).unwrap_or_default();
        self.error(at, Code::UnknownKey, message, format!("{guess}allowed are {}", listed(keys.allowed)));
    }
}

/// Reads YAML and reports what is wrong with it.
pub(crate) fn document(scope: &mut Scope<'_>, text: &str, first_line: u32) -> Node {
    let (root, errors) = yaml::parse(text, first_line);
    for error in errors {
        scope.error(error.at, error.kind.code(), error.to_string(), error.kind.fix());
    }
    root
}

/// The keys of a file; an empty file has none.
pub(crate) fn root_map(scope: &mut Scope<'_>, root: &Node) -> Option<Vec<Entry>> {
    match &root.value {
        Value::Null => Some(Vec::new()),
        Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::List(_) | Value::Map(_) | Value::Invalid => {
            scope.map(root, "the front matter").map(<[Entry]>::to_vec)
        }
    }
}

/// What stands there, for messages; values of secrets never stand in these files.
fn shown(value: &Value) -> String {
    match value {
        Value::Null | Value::Invalid => "empty".into(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Int(number) => format!("the number {number}"),
        Value::Text(text) => format!("the text {}", excerpt(text)),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a map".into(),
    }
}

/// The allowed key that differs only in case, `-` and `_`, or in one inserted, lost or changed character.
fn near(key: &str, allowed: &[&'static str]) -> Option<&'static str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    allowed.iter().copied().find(|name| plain(name) == plain(key) || one_edit(name.as_bytes(), key.as_bytes()))
}

fn one_edit(a: &[u8], b: &[u8]) -> bool {
    let same_front = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[same_front..], &b[same_front..]);
    let same_back = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    a.len() - same_back <= 1 && b.len() - same_back <= 1
}
