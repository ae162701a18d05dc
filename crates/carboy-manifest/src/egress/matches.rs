//! `matches`: which requests a route allows.

use carboy_core::route::{HeaderMatch, HeaderValueMatch, PathMatch, RequestMatch, normal_path};
use regex::{Regex, RegexBuilder};

use crate::diagnostic::{Code, excerpt};
use crate::keys;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

/// Longest regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 1024;
/// Largest compiled regular expression, in bytes.
pub const REGEX_COMPILED_BYTES_MAX: usize = 1 << 20;
/// Most entries of `matches`, and of `paths`, `methods` or `headers` in one.
pub const MATCHES_MAX: usize = 100;

/// A token of RFC 9110 §5.6.2: what methods and header names are made of.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// `matches` of a route.
pub(super) fn matches(scope: &mut Scope<'_>, entries: &[Entry], what: &str) -> Vec<RequestMatch> {
    let Some(node) = find(entries, "matches") else { return Vec::new() };
    let list = bounded(scope, node, &format!("`matches` of {what}"));
    list.iter().enumerate().filter_map(|(i, node)| one(scope, node, &format!("match {} of {what}", i + 1))).collect()
}

fn bounded<'n>(scope: &mut Scope<'_>, node: &'n Node, what: &str) -> &'n [Node] {
    let Some(list) = scope.filled(node, what) else { return &[] };
    if list.len() > MATCHES_MAX {
        let message = format!("{what} of {} has {} entries, more than {MATCHES_MAX}", scope.owner, list.len());
        scope.error(node.at, Code::TooComplex, message, "use a prefix or an expression for several at once");
        return &[];
    }
    list
}

fn one(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<RequestMatch> {
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::MATCH, what);
    if entries.is_empty() {
        let message = format!("{what} of {} is empty", scope.owner);
        scope.error(
            node.at,
            Code::BadValue,
            message,
            "name `paths`, `methods` or `headers`; without `matches` all is allowed",
        );
    }
    let mut read = RequestMatch::default();
    if let Some(node) = find(entries, "paths") {
        let what = format!("`paths` in {what}");
        read.paths = bounded(scope, node, &what).iter().filter_map(|item| path(scope, item, &what)).collect();
    }
    if let Some(node) = find(entries, "methods") {
        let what = format!("`methods` in {what}");
        read.methods = bounded(scope, node, &what).iter().filter_map(|item| method(scope, item, &what)).collect();
    }
    if let Some(node) = find(entries, "headers") {
        let what = format!("`headers` in {what}");
        read.headers = bounded(scope, node, &what).iter().filter_map(|item| header(scope, item, &what)).collect();
    }
    Some(read)
}

fn method(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<String> {
    let text = scope.text(node, what)?;
    if is_token(text) && !text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Some(text.to_owned());
    }
    let message = format!("{what} of {} has {}; methods are upper case", scope.owner, excerpt(text));
    let fix = match is_token(text) {
        true => format!("write {}", excerpt(&text.to_ascii_uppercase())),
        false => String::from("write methods such as GET and POST"),
    };
    scope.error(node.at, Code::BadValue, message, fix);
    None
}

/// `{type, value}`, or the value alone for a prefix.
fn path(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<PathMatch> {
    if matches!(node.value, Value::Text(_)) {
        return plain_path(scope, node, what).map(PathMatch::Prefix);
    }
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::PATH, what);
    let kind = match find(entries, "type") {
        Some(node) => (scope.text(node, &format!("`type` in {what}"))?, node.at),
        None => ("prefix", node.at),
    };
    let Some(value) = find(entries, "value") else {
        scope.missing(node.at, "value", what, "add `value: /v1/messages`");
        return None;
    };
    match kind.0 {
        "prefix" => plain_path(scope, value, what).map(PathMatch::Prefix),
        "exact" => plain_path(scope, value, what).map(PathMatch::Exact),
        "regex" => expression(scope, value, what).map(PathMatch::Regex),
        other => {
            let message = format!("`type` in {what} of {} is {}", scope.owner, excerpt(other));
            scope.error(kind.1, Code::BadValue, message, "use `prefix`, `exact` or `regex`");
            None
        }
    }
}

/// A path in the one spelling that requests are compared in: another could never match, or would match by surprise.
fn plain_path(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<String> {
    let text = scope.text(node, what)?;
    let queried = text.contains(['?', '#']);
    let normal = normal_path(text);
    if !queried && normal.as_deref() == Some(text) {
        return normal;
    }
    let message = format!("{what} of {} has {}", scope.owner, excerpt(text));
    let fix = match normal {
        Some(normal) if !queried => format!("write it as requests are compared: {}", excerpt(&normal)),
        Some(_) | None => {
            String::from("write a path that begins with `/`, without query, `%2f`, `\\` and `..` above the root")
        }
    };
    scope.error(node.at, Code::BadValue, message, fix);
    None
}

fn header(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<HeaderMatch> {
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::HEADER, what);
    for key in ["name", "value"] {
        if find(entries, key).is_none() {
            scope.missing(node.at, key, what, "write {name: x-team, value: blue}");
        }
    }
    let (name, value) = (find(entries, "name")?, find(entries, "value")?);
    let text = scope.text(name, &format!("`name` in {what}"))?;
    if !is_token(text) {
        let message = format!("`name` in {what} of {} is {}", scope.owner, excerpt(text));
        scope.error(name.at, Code::BadValue, message, "write a header's name, as in `x-team`");
        return None;
    }
    let kind = match find(entries, "type") {
        Some(node) => (scope.text(node, &format!("`type` in {what}"))?, node.at),
        None => ("exact", node.at),
    };
    let value = match kind.0 {
        "exact" => HeaderValueMatch::Exact(scope.text(value, &format!("`value` in {what}"))?.to_owned()),
        "regex" => HeaderValueMatch::Regex(expression(scope, value, what)?),
        other => {
            let message = format!("`type` in {what} of {} is {}", scope.owner, excerpt(other));
            scope.error(kind.1, Code::BadValue, message, "use `exact` or `regex`");
            return None;
        }
    };
    Some(HeaderMatch { name: text.to_ascii_lowercase(), value })
}

/// Compiled alone first, so that `a)|(?:b` cannot climb out of the group that anchors it.
fn expression(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<Regex> {
    let text = scope.text(node, &format!("`value` in {what}"))?;
    if text.len() > REGEX_BYTES_MAX {
        let message = format!("an expression in {what} of {} has {} bytes", scope.owner, text.len());
        scope.error(node.at, Code::BadRegex, message, format!("use at most {REGEX_BYTES_MAX} bytes"));
        return None;
    }
    let compile = |pattern: &str| {
        RegexBuilder::new(pattern).size_limit(REGEX_COMPILED_BYTES_MAX).dfa_size_limit(REGEX_COMPILED_BYTES_MAX).build()
    };
    match compile(text).and_then(|_| compile(&format!("^(?:{text})$"))) {
        Ok(regex) => Some(regex),
        Err(error) => {
            // The last line says what; those above draw the expression again.
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let message = format!("{} in {what} of {} is not an expression: {reason}", excerpt(text), scope.owner);
            scope.error(node.at, Code::BadRegex, message, "mend the expression; it has to match the whole text");
            None
        }
    }
}

/// For people: `GET,POST /v1/… x-team=blue`.
pub fn describe_match(found: &RequestMatch) -> String {
    let methods = if found.methods.is_empty() { String::from("any method") } else { found.methods.join(",") };
    let paths: Vec<String> = found
        .paths
        .iter()
        .map(|path| match path {
            PathMatch::Exact(text) => format!("={text}"),
            PathMatch::Prefix(text) => format!("{text}…"),
            PathMatch::Regex(regex) => format!("~{regex}"),
        })
        .collect();
    let paths = if paths.is_empty() { String::from("any path") } else { paths.join(" or ") };
    let headers: String = found
        .headers
        .iter()
        .map(|header| match &header.value {
            HeaderValueMatch::Exact(text) => format!(" {}={text}", header.name),
            HeaderValueMatch::Regex(regex) => format!(" {}~{regex}", header.name),
        })
        .collect();
    format!("{methods} {paths}{headers}")
}
