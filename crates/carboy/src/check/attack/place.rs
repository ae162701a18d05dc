//! The line of an agent's file at which a hole is closed.
//!
//! *Must never* name a line of another file, or of one that nobody can change: a built-in agent has none.

use std::fmt;
use std::path::{Path, PathBuf};

use carboy_control::chat::{ChatRequest, Hole};
use carboy_manifest::chat::Whose;

/// Octets of an agent's file that are looked at.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// The agent's file and its text; neither for one that comes with the program.
pub(super) fn file_of(request: &ChatRequest) -> (Option<PathBuf>, String) {
    let own = request.effective.chat.as_ref().filter(|chat| match chat.whose {
        Whose::User | Whose::Repository => true,
        Whose::BuiltIn => false,
    });
    let Some(file) = own.map(|chat| chat.file.clone()) else { return (None, String::new()) };
    let small = std::fs::metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() <= FILE_BYTES_MAX);
    let text = if small { std::fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
    (Some(file), text)
}

/// Where the hole's rule stands, or would.
pub(super) fn place_of(file: Option<&Path>, text: &str, hole: &Hole) -> Option<Place> {
    let line = line_of(text, &hole.rule, hole.tool.as_deref())?;
    Some(Place { file: file?.to_owned(), line })
}

/// A key's line where it is there, else the last one of the front matter, above which it belongs. What a tool itself has to do is
/// at the tool: its name in a script below, or `tools`.
fn line_of(text: &str, rule: &str, tool: Option<&str>) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let end = 1 + lines.iter().skip(1).position(|line| line.trim_end() == "---")?;
    let at = |key: &str| {
        let is = |line: &&str| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':'));
        lines.iter().take(end).position(|line| is(&line)).map(|at| at + 1)
    };
    let key = rule.split(':').next().unwrap_or_default();
    if !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return Some(at(key).unwrap_or(end + 1));
    }
    if !rule.starts_with("in the tool") && !rule.starts_with("a tool does") {
        return None;
    }
    let named = |line: &&str| tool.is_some_and(|tool| line.contains(tool));
    let below = lines.iter().skip(end + 1).position(|line| named(&line)).map(|at| end + 2 + at);
    below.or_else(|| at("tools"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "---\nkind: chat\ntools: [desk.py]\nconfirm: {never: [pay]}\n---\nProse.\n\n```python\ndef look():\n```\n";

    #[test]
    fn g91_a_rule_is_where_its_key_is_or_belongs_and_a_tools_own_matter_is_at_the_tool() {
        for (rule, tool, line) in [
            ("confirm: [pay]", Some("pay"), Some(4)),
            ("requires:\n  pay: {after: look}", Some("pay"), Some(5)),
            ("in the tool: compare what opens the record", Some("look"), Some(9)),
            ("in the tool: compare what opens the record", Some("elsewhere"), Some(3)),
            ("a tool does what an idempotency key stands for once", None, Some(3)),
            ("nothing of the file", None, None),
            ("an audit log that takes every event, once", None, None),
        ] {
            assert_eq!(line_of(FILE, rule, tool), line, "{rule}");
        }
        assert_eq!(line_of("", "confirm: [pay]", None), None);
    }
}
