//! `bot-bottle.json`, the one file in which that tool kept everything before: read as the trees that its later files hold.

use serde_json::Value as Json;

use super::emit;
use crate::diagnostic::Position;
use crate::yaml::{Node, Value};

/// Deepest nesting; what is deeper cannot be written as YAML again.
const DEPTH_MAX: usize = 12;

/// A bottle or agent of the file.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) value: Node,
}

/// What the file holds.
pub(super) struct Stale {
    pub(super) bottles: Vec<Member>,
    pub(super) agents: Vec<Member>,
    /// Other keys, with their lines.
    pub(super) rest: Vec<(String, Position)>,
}

/// The file's members; an error says where it is no JSON, or no map.
pub(super) fn read(bytes: &[u8]) -> Result<Stale, (Position, String)> {
    let at = |line: usize, column: usize| Position {
        line: u32::try_from(line).unwrap_or(u32::MAX).max(1),
        column: u32::try_from(column).unwrap_or(u32::MAX).max(1),
    };
    let root: Json = serde_json::from_slice(bytes)
        .map_err(|error| (at(error.line(), error.column()), String::from("the file is no JSON at this place")))?;
    let Json::Object(root) = root else { return Err((Position::START, String::from("the file holds no map"))) };
    let text = String::from_utf8_lossy(bytes);
    let mut stale = Stale { bottles: Vec::new(), agents: Vec::new(), rest: Vec::new() };
    for (key, value) in root {
        let line = line_of(&text, &key);
        let members = |value: serde_json::Map<String, Json>| -> Vec<Member> {
            value.into_iter().map(|(name, value)| member(&text, name, &value)).collect()
        };
        match (key.as_str(), value) {
            ("bottles", Json::Object(all)) => stale.bottles = members(all),
            ("agents", Json::Object(all)) => stale.agents = members(all),
            (_, _) => stale.rest.push((key, line)),
        }
    }
    Ok(stale)
}

fn member(text: &str, name: String, value: &Json) -> Member {
    let value = node(text, value, line_of(text, &name), 0);
    Member { name, value }
}

/// JSON has no positions; the first line that has the key is near enough to find it.
fn line_of(text: &str, key: &str) -> Position {
    let quoted = format!("\"{key}\"");
    let line = text.lines().position(|line| line.contains(&quoted)).map_or(1, |index| index + 1);
    Position { line: u32::try_from(line).unwrap_or(u32::MAX), column: 1 }
}

fn node(text: &str, json: &Json, at: Position, depth: usize) -> Node {
    let value = match json {
        _ if depth > DEPTH_MAX => Value::Invalid,
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => number.as_i64().map_or_else(|| Value::Text(number.to_string()), Value::Int),
        Json::String(value) => Value::Text(value.clone()),
        Json::Array(items) => Value::List(items.iter().map(|item| node(text, item, at, depth + 1)).collect()),
        Json::Object(entries) => {
            let pair = |(key, value): (&String, &Json)| {
                let at = line_of(text, key);
                emit::pair(key, node(text, value, at, depth + 1))
            };
            Value::Map(entries.iter().map(pair).collect())
        }
    };
    Node { value, at }
}
