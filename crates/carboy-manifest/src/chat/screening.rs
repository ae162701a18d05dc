//! `screening`: patterns and filters besides the built-in ones (G63, G68), in a manifest or in a file of the rules folder
//! (G85b).
//!
//! *Must never* take an expression that a reader could not bound: each compiles within a limit, matches something, and a
//! filter says how long what it matches can be.

use std::path::{Path, PathBuf};

use carboy_core::chat::{InjectionPattern, OutputFilter};
use regex::RegexBuilder;

use super::knobs::percent_of;
use crate::diagnostic::{Code, Diagnostics, Position, excerpt};
use crate::files::{DIRECTORY_FILES_MAX, ManifestFiles, Places};
use crate::frontmatter::{FrontMatterError, text_of};
use crate::keys;
use crate::lookup::read_file;
use crate::schema::{Scope, document, find, root_map};
use crate::yaml::{Entry, Node, Value};

/// Most patterns and most filters of one agent, those of the rules folder included.
pub const RULES_MAX: usize = 500;
/// Longest expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 1_024;
/// Largest compiled expression, in bytes.
const REGEX_COMPILED_BYTES_MAX: usize = 1 << 20;
/// The most that one match of a filter may be, in bytes: a reply is held back for it.
pub const MATCH_BYTES_MAX: u32 = 4_096;
/// Longest replacement, category or type, in bytes.
const WORD_BYTES_MAX: usize = 128;

/// Patterns and filters of one or more files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RulesOfScreening {
    pub(crate) patterns: Vec<InjectionPattern>,
    pub(crate) filters: Vec<OutputFilter>,
    /// The files that they came from.
    pub(crate) sources: Vec<PathBuf>,
}

/// `injection_patterns` and `output_filters` among the entries of a map.
pub(crate) fn rules(scope: &mut Scope<'_>, entries: &[Entry], out: &mut RulesOfScreening) {
    let list = |scope: &mut Scope<'_>, key: &str| {
        let found =
            find(entries, key).and_then(|node| Some((scope.filled(node, &format!("`{key}`"))?.to_vec(), node.at)));
        match found {
            Some((items, at)) if items.len() > RULES_MAX => {
                let message = format!("`{key}` of {} has {} entries, more than {RULES_MAX}", scope.owner, items.len());
                scope.error(at, Code::TooComplex, message, "join several expressions by `|`");
                Vec::new()
            }
            Some((items, _)) => items,
            None => Vec::new(),
        }
    };
    for node in list(scope, "injection_patterns") {
        out.patterns.extend(pattern(scope, &node));
    }
    for node in list(scope, "output_filters") {
        out.filters.extend(filter(scope, &node));
    }
}

/// `{regex, category, confidence}`.
fn pattern(scope: &mut Scope<'_>, node: &Node) -> Option<InjectionPattern> {
    let what = "an entry of `injection_patterns`";
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::CHAT_PATTERN, what);
    let [regex, category, confidence] = required(scope, node, entries, what, ["regex", "category", "confidence"])?;
    let regex = expression(scope, regex, "`regex` in `injection_patterns`");
    let category = word(scope, category, "`category` in `injection_patterns`");
    let percent = match &confidence.value {
        Value::Text(text) => percent_of(text),
        Value::Int(1) => Some(100),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) | Value::Invalid => None,
    };
    let percent = percent.filter(|percent| *percent >= 1).and_then(|percent| u8::try_from(percent).ok());
    if percent.is_none() {
        let message = format!("`confidence` in `injection_patterns` of {} is no confidence", scope.owner);
        scope.error(confidence.at, Code::BadValue, message, "write \"0.9\" in quotes, or 90%");
    }
    Some(InjectionPattern { regex: regex?, category: category?, confidence_percent: percent? })
}

/// `{regex, replacement, type, bytes_max}`.
fn filter(scope: &mut Scope<'_>, node: &Node) -> Option<OutputFilter> {
    let what = "an entry of `output_filters`";
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::CHAT_FILTER, what);
    let [regex, replacement, kind, most] =
        required(scope, node, entries, what, ["regex", "replacement", "type", "bytes_max"])?;
    let regex = expression(scope, regex, "`regex` in `output_filters`");
    let replacement = scope.text(replacement, "`replacement` in `output_filters`").map(str::to_owned);
    let kind = word(scope, kind, "`type` in `output_filters`");
    let bytes_max = scope.number(most, "`bytes_max` in `output_filters`", 1..=MATCH_BYTES_MAX);
    let replacement = replacement.filter(|text| text.len() <= WORD_BYTES_MAX);
    Some(OutputFilter { regex: regex?, replacement: replacement?, kind: kind?, bytes_max: bytes_max? })
}

fn required<'n, const N: usize>(
    scope: &mut Scope<'_>,
    node: &Node,
    entries: &'n [Entry],
    what: &str,
    keys: [&str; N],
) -> Option<[&'n Node; N]> {
    for key in keys.iter().filter(|key| find(entries, key).is_none()) {
        scope.missing(node.at, key, what, format!("write {{{}}}", keys.map(|key| format!("{key}: …")).join(", ")));
    }
    let found: Option<Vec<&Node>> = keys.iter().map(|key| find(entries, key)).collect();
    found?.try_into().ok()
}

/// A short word that logs and refusals show: `instruction_override`.
fn word(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<String> {
    let text = scope.text(node, what)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if (1..=WORD_BYTES_MAX).contains(&text.len()) && text.chars().all(plain) {
        return Some(text.to_owned());
    }
    let message = format!("{what} of {} is {}", scope.owner, excerpt(text));
    scope.error(node.at, Code::BadName, message, "write a word of letters, digits, `_`, `-`");
    None
}

/// An expression in the syntax of the `regex` crate, checked and handed on as text.
pub(crate) fn expression(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<String> {
    let text = scope.text(node, what)?;
    let mut refuse = |why: &str, fix: &str| {
        let message = format!("{} in {what} of {}: {why}", excerpt(text), scope.owner);
        scope.error(node.at, Code::BadRegex, message, fix);
    };
    if text.len() > REGEX_BYTES_MAX {
        refuse("it is too long", &format!("use at most {REGEX_BYTES_MAX} bytes"));
        return None;
    }
    let mut builder = RegexBuilder::new(text);
    match builder.size_limit(REGEX_COMPILED_BYTES_MAX).dfa_size_limit(REGEX_COMPILED_BYTES_MAX).build() {
        Ok(regex) if regex.is_match("") => {
            refuse("it matches the empty text, and so everything", "let it match at least one character");
            None
        }
        Ok(_) => Some(text.to_owned()),
        Err(error) => {
            // The last line says what; those above draw the expression again.
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            refuse(&reason, "mend the expression");
            None
        }
    }
}

/// G85b: every `.yml` of `CARBOY_HOME/rules`, in the order of their names, for every chat agent of this user.
pub(crate) fn folder(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) -> RulesOfScreening {
    let dir = places.carboy_home.join("rules");
    let mut rules_of_all = RulesOfScreening::default();
    let mut names = match files.list(&dir) {
        Ok(names) => names,
        Err(error) => {
            let message = format!("the directory cannot be listed: {error}");
            out.push(
                crate::diagnostic::Diagnostic::error(Code::FileUnreadable, message, "make it readable")
                    .at(&dir, Position::START),
            );
            return rules_of_all;
        }
    };
    names.retain(|name| Path::new(name).extension().is_some_and(|ending| ending == "yml" || ending == "yaml"));
    names.sort();
    for name in names.iter().take(DIRECTORY_FILES_MAX) {
        let path = dir.join(name);
        let Some(bytes) = read_file(files, &path, out) else { continue };
        let owner = format!("rules file `{name}`");
        let start = out.kept();
        let mut scope =
            Scope { file: &path, owner: &owner, home: &places.home, carboy_home: &places.carboy_home, out: &mut *out };
        one_file(&mut scope, &bytes, &mut rules_of_all);
        out.sort_from(start);
        rules_of_all.sources.push(path);
    }
    rules_of_all
}

fn one_file(scope: &mut Scope<'_>, bytes: &[u8], out: &mut RulesOfScreening) {
    let text = match text_of(bytes) {
        Ok(text) => text,
        Err(FrontMatterError::NotUtf8(at)) => {
            let message = format!("{} is not UTF-8 text", scope.owner);
            scope.error(at, Code::NotUtf8, message, "save the file as UTF-8");
            return;
        }
        Err(error @ (FrontMatterError::NoStart | FrontMatterError::NoEnd)) => {
            scope.error(Position::START, Code::FrontMatter, error.to_string(), "write plain YAML");
            return;
        }
    };
    let root = document(scope, text, 1);
    let Some(entries) = root_map(scope, &root) else { return };
    scope.keys(&entries, &keys::CHAT_RULES_FILE, "the file");
    rules(scope, &entries, out);
}
