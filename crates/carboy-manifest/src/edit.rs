//! Adding a route to a bottle's file without touching anything else in it: comments, order and prose stay as they are.
//!
//! *Must never* change what the file says beyond the one route: the caller reads the result with the same reader and
//! compares ([`adds_one_route`]; `carboy allow` does).

pub mod alone;
pub mod settings;

use carboy_core::ids::RouteId;
use carboy_core::route::Route;
use serde::{Deserialize, Serialize};

use crate::diagnostic::{Position, deceives};
use crate::effective::Effective;
use crate::frontmatter;
use crate::yaml::{self, Node, Value};

/// A route to be added: never with a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRoute {
    /// Host or `*.zone`.
    pub host: String,
    /// Ports; empty leaves the default.
    pub ports: Vec<u16>,
    /// Which requests; empty means all of them.
    pub matches: Vec<NewMatch>,
    /// `git: {fetch: true}`.
    pub git_fetch: bool,
    /// `private: true`.
    pub private: bool,
}

/// One entry of its `matches`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMatch {
    /// Any of these; empty means any path.
    pub paths: Vec<NewPath>,
    /// Any of these; empty means any method.
    pub methods: Vec<String>,
}

/// A path of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewPath {
    /// This one and everything below it.
    Prefix(String),
    /// This one alone.
    Exact(String),
}

/// Why the file is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is not valid as it is.
    #[error("the file is not valid as it is; `carboy check` says why")]
    Invalid,
    /// Its routes are in a form that is not extended line by line.
    #[error("line {line}: `{key}` is not written as a block; add the route by hand")]
    NotABlock {
        /// From 1.
        line: u32,
        /// The key.
        key: &'static str,
    },
}

/// The file's text with the route added after the last one.
///
/// # Errors
/// When the file is not valid, or holds its routes in flow form.
pub fn add_route(text: &str, route: &NewRoute) -> Result<String, EditError> {
    let front = frontmatter::split(text).map_err(|_| EditError::Invalid)?;
    let (tree, errors) = yaml::parse(front.yaml, front.first_line);
    if !errors.is_empty() {
        return Err(EditError::Invalid);
    }
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let front_end = front.first_line as usize - 1 + front.yaml.lines().count();
    let (at, indent, above) = match entry(&tree, "egress") {
        None => (front_end, 4, "egress:\n  routes:\n"),
        Some((at, egress)) => match entry(block(egress, at, "egress")?, "routes") {
            None => {
                let below = |indent: usize, _: &str| indent >= at.column as usize;
                (block_end(&lines, at, front_end, below), at.column as usize + 3, "  routes:\n")
            }
            Some((at, routes)) => {
                let Value::List(items) = &routes.value else {
                    return Err(EditError::NotABlock { line: at.line, key: "routes" });
                };
                let indent = item_column(&lines, items, at)?;
                // A list may stand at its key's own column; then only the dashes tell its lines from the next key's.
                let dash = indent as usize - 1;
                let of_list =
                    |indent: usize, content: &str| indent > dash || (indent == dash && content.starts_with('-'));
                (block_end(&lines, at, front_end, of_list), dash, "")
            }
        },
    };
    let mut out: String = lines[..at].concat();
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out.push_str(above);
    out.push_str(&render(route, &" ".repeat(indent)));
    out.push_str(&lines[at..].concat());
    Ok(out)
}

/// Are the routes the same but for one that was added? Their numbers aside: those after it are counted anew.
pub fn adds_one_route(before: &Effective, after: &Effective) -> bool {
    adds_routes(before, after, 1)
}

/// Are the routes the same but for so many that were added in one place?
pub fn adds_routes(before: &Effective, after: &Effective, count: usize) -> bool {
    let plain = |effective: &Effective| -> Vec<String> {
        let whole = |route: &Route| Route { id: RouteId::new(0, &route.host), ..route.clone() };
        effective.routes.iter().map(|route| format!("{:?}", whole(route))).collect()
    };
    let (before, after) = (plain(before), plain(after));
    let same_front = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
    after.len() == before.len() + count && before[same_front..] == after[same_front + count..]
}

fn entry<'a>(node: &'a Node, key: &str) -> Option<(Position, &'a Node)> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|e| e.key == key).map(|e| (e.key_at, &e.value))
}

/// A map in block form: its first key stands on a later line than the key above it.
fn block<'a>(node: &'a Node, above: Position, key: &'static str) -> Result<&'a Node, EditError> {
    if matches!(node.value, Value::Map(_)) && node.at.line > above.line {
        Ok(node)
    } else {
        Err(EditError::NotABlock { line: above.line, key })
    }
}

/// The column of the items' dashes, from 1.
fn item_column(lines: &[&str], items: &[Node], key_at: Position) -> Result<u32, EditError> {
    let flow = EditError::NotABlock { line: key_at.line, key: "routes" };
    let first = items.first().ok_or(flow.clone())?;
    let line = lines.get(first.at.line as usize - 1).ok_or(EditError::Invalid)?;
    let indent = line.len() - line.trim_start_matches(' ').len();
    if first.at.line == key_at.line || !line.trim_start().starts_with('-') {
        return Err(flow);
    }
    Ok(indent as u32 + 1)
}

/// Index of the first line after the block below `from`: the first one that does not belong to it and is neither blank
/// nor a comment. Blank lines and comments before it stay with what follows.
fn block_end(lines: &[&str], from: Position, front_end: usize, belongs: impl Fn(usize, &str) -> bool) -> usize {
    let mut end = from.line as usize;
    for (index, line) in lines.iter().enumerate().take(front_end).skip(from.line as usize) {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = line.len() - line.trim_start_matches(' ').len();
        if !belongs(indent, content) {
            break;
        }
        end = index + 1;
    }
    end
}

fn render(route: &NewRoute, indent: &str) -> String {
    let list = |items: &[String]| items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ");
    let mut out = format!("{indent}- host: {}\n", quoted(&route.host));
    if !route.ports.is_empty() {
        let ports: Vec<String> = route.ports.iter().map(u16::to_string).collect();
        out.push_str(&format!("{indent}  ports: [{}]\n", ports.join(", ")));
    }
    for (i, one) in route.matches.iter().enumerate() {
        if i == 0 {
            out.push_str(&format!("{indent}  matches:\n"));
        }
        let mut parts = Vec::new();
        if !one.paths.is_empty() {
            let paths: Vec<String> = one.paths.iter().map(NewPath::render).collect();
            parts.push(format!("paths: [{}]", paths.join(", ")));
        }
        if !one.methods.is_empty() {
            parts.push(format!("methods: [{}]", list(&one.methods)));
        }
        out.push_str(&format!("{indent}    - {}\n", parts.join(&format!("\n{indent}      "))));
    }
    if route.git_fetch {
        out.push_str(&format!("{indent}  git: {{fetch: true}}\n"));
    }
    if route.private {
        out.push_str(&format!("{indent}  private: true\n"));
    }
    out
}

impl NewPath {
    fn render(&self) -> String {
        let (kind, value) = match self {
            NewPath::Prefix(value) => ("prefix", value),
            NewPath::Exact(value) => ("exact", value),
        };
        format!("{{type: {kind}, value: {}}}", quoted(value))
    }
}

/// Text that can be nothing but text to any reader of YAML, whoever chose it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || deceives(c) => out.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{MapFiles, Places};
    use crate::load::{Manifest, Request};

    fn hosts(text: &str) -> Vec<String> {
        let places = Places { carboy_home: "/h/.carboy".into(), home: "/h".into(), cwd: "/w".into() };
        let files: MapFiles = [("/h/.carboy/bottles/b.md", text)].into_iter().collect();
        let request = Request { agent: None, bottles: vec!["b".into()], places };
        let effective = Manifest::load(&files, &request).unwrap_or_else(|e| panic!("{e}\n{text}"));
        effective.routes.iter().map(|r| r.host.to_string()).collect()
    }

    #[test]
    fn a_route_is_added_wherever_the_others_stand_and_everything_else_stays() {
        let new = NewRoute {
            host: "new.example".into(),
            ports: vec![8443],
            matches: vec![NewMatch {
                paths: vec![NewPath::Prefix("/v1".into())],
                methods: vec!["GET".into(), "HEAD".into()],
            }],
            git_fetch: true,
            private: false,
        };
        for text in [
            "---\nenv: {A: b}\n---\nprose\n",
            "---\negress:\n  routes:\n    - host: a.example # why\n      ports: [80]\n\n# about env\nenv: {A: b}\n---\nprose\n",
            "---\negress:\n  routes:\n  - host: a.example\n  - host: b.example\n---\n",
        ] {
            let before = hosts(text);
            let changed = add_route(text, &new).unwrap();
            let mut want = before.clone();
            want.push("new.example".into());
            assert_eq!(hosts(&changed), want, "{changed}");
            for line in text.lines() {
                assert!(changed.contains(line), "{line:?} is gone from {changed}");
            }
        }
    }

    #[test]
    fn a_list_in_one_line_is_left_to_the_person() {
        let text = "---\negress: {routes: [{host: a.example}]}\n---\n";
        assert!(matches!(add_route(text, &NewRoute::default()), Err(EditError::NotABlock { line: 2, .. })));
    }
}
