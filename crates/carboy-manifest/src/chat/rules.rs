//! What the runtime demands of tool calls: `requires`, `confirm`, `authorize` and the calls of one session.
//!
//! *Must never* make a rule wider than it reads: an empty list is an error and not "all" (write `all`), and a rule for a tool
//! that cannot be there is one too.

use std::collections::{BTreeMap, BTreeSet};

use carboy_core::chat::{AuthorizationEffect, AuthorizationRule, Confirm, Requirement, ToolRules};
use serde_json::Value as Json;

use super::named::NamedTool;
use crate::budget::parse_duration;
use crate::diagnostic::{Code, Position, excerpt};
use crate::keys;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

/// Most tools with rules, and most rules of one kind.
pub const RULES_MAX: usize = 200;
/// How long a success counts where nobody says it, in seconds.
const WITHIN_DEFAULT_S: u32 = 1_800;
/// The longest that may be said: a day.
const WITHIN_MAX_S: u64 = 86_400;

/// Rules by tool, and where each tool is named first.
#[derive(Clone, Debug, Default)]
pub(crate) struct RulesPart {
    pub(crate) rules: BTreeMap<String, ToolRules>,
    pub(crate) authorize: Vec<AuthorizationRule>,
    /// Every tool that some rule names, for the check that it can be there.
    pub(crate) named: Vec<NamedTool>,
}

impl RulesPart {
    fn of(&mut self, tool: &str, key: &str, at: Position) -> &mut ToolRules {
        self.names(tool, key, at);
        self.rules.entry(tool.to_owned()).or_default()
    }

    fn names(&mut self, tool: &str, key: &str, at: Position) {
        self.named.push(NamedTool { tool: tool.to_owned(), key: key.to_owned(), at });
    }
}

/// Is it spelled like a tool?
fn is_tool_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=64).contains(&text.len()) && text.chars().all(plain)
}

fn tool_name(scope: &mut Scope<'_>, text: &str, at: Position, what: &str) -> Option<String> {
    if is_tool_name(text) {
        return Some(text.to_owned());
    }
    let message = format!("{what} of {} names a tool {}", scope.owner, excerpt(text));
    scope.error(at, Code::BadName, message, "write the tool's name: 1 to 64 of letters, digits, `_`, `-`, `.`");
    None
}

/// `requires: {TOOL: {after, same, within, result}}`, or a list of those for one tool (G88).
pub(crate) fn requires(scope: &mut Scope<'_>, node: &Node, part: &mut RulesPart) {
    for entry in scope.map(node, "`requires`").unwrap_or_default() {
        let Some(tool) = tool_name(scope, &entry.key, entry.key_at, "`requires`") else { continue };
        let what = format!("`requires.{tool}`");
        let nodes: &[Node] = match &entry.value.value {
            Value::List(_) => scope.filled(&entry.value, &what).unwrap_or_default(),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Map(_) | Value::Invalid => {
                std::slice::from_ref(&entry.value)
            }
        };
        for node in nodes {
            let Some((requirement, at)) = requirement(scope, node, &what) else { continue };
            if requirement.tool == tool {
                let message = format!("{what} of {} demands the tool itself: it could never run", scope.owner);
                scope.error(at, Code::BadValue, message, "name another tool under `after`");
                continue;
            }
            part.names(&requirement.tool, &what, at);
            part.of(&tool, "`requires`", entry.key_at).requires.push(requirement);
        }
    }
}

fn requirement(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<(Requirement, Position)> {
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::CHAT_REQUIRE, what);
    let within_s = find(entries, "within").map(|node| within(scope, node, what));
    let result = find(entries, "result").map(|node| result(scope, node, what));
    let example = "write {after: check_return_eligibility, same: order_id, within: 15m}";
    let (Some(after), Some(same)) = (find(entries, "after"), find(entries, "same")) else {
        let key = if find(entries, "after").is_none() { "after" } else { "same" };
        scope.missing(node.at, key, what, example);
        return None;
    };
    let tool = scope.text(after, what).map(str::to_owned);
    let tool = tool.and_then(|text| tool_name(scope, &text, after.at, what));
    let same = names(scope, same, &format!("`same` in {what}"));
    let requirement = Requirement {
        tool: tool?,
        same: same?,
        within_s: within_s.unwrap_or(Some(WITHIN_DEFAULT_S))?,
        result: said_well(result)?,
    };
    Some((requirement, after.at))
}

/// What was not said is `Some(None)`; what was said wrongly, and reported, is `None`.
fn said_well<T>(said: Option<Option<T>>) -> Option<Option<T>> {
    match said {
        Some(None) => None,
        Some(Some(value)) => Some(Some(value)),
        None => Some(None),
    }
}

fn within(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<u32> {
    let text = scope.text(node, &format!("`within` in {what}"))?;
    let seconds = parse_duration(text).map(|ms| ms / 1_000).filter(|s| (1..=WITHIN_MAX_S).contains(s));
    let seconds = seconds.and_then(|s| u32::try_from(s).ok());
    if seconds.is_none() {
        let message = format!("`within` in {what} of {} is {}", scope.owner, excerpt(text));
        scope.error(node.at, Code::BadValue, message, "write a time from 1s to 24h, as in 15m");
    }
    seconds
}

/// `{eligible: true}`: one field of the result, and its value.
fn result(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<(String, Json)> {
    let what = format!("`result` in {what}");
    let [Entry { key, value, .. }] = scope.map(node, &what)? else {
        let message = format!("{what} of {} is not one field", scope.owner);
        scope.error(node.at, Code::BadValue, message, "write {FIELD: VALUE}, as in {eligible: true}");
        return None;
    };
    let json = match &value.value {
        Value::Bool(value) => Json::from(*value),
        Value::Int(number) => Json::from(*number),
        Value::Text(text) => Json::from(text.clone()),
        Value::Invalid => return None,
        Value::Null | Value::List(_) | Value::Map(_) => {
            let message = format!("{what} of {} is no plain value", scope.owner);
            scope.error(value.at, Code::WrongType, message, "write `true`, `false`, a number or a text");
            return None;
        }
    };
    Some((key.clone(), json))
}

/// A name, or a list of names, of tools or arguments; never empty.
fn names(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<Vec<String>> {
    let nodes = match &node.value {
        Value::Text(_) => std::slice::from_ref(node),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) | Value::Invalid => {
            scope.filled(node, what)?
        }
    };
    let mut all = Vec::new();
    for node in nodes {
        let text = scope.text(node, what)?;
        if !is_tool_name(text) {
            let message = format!("{what} of {} has {}", scope.owner, excerpt(text));
            scope.error(node.at, Code::BadName, message, "write a name of letters, digits, `_`, `-`, `.`");
            return None;
        }
        all.push(text.to_owned());
    }
    if all.len() > RULES_MAX {
        let message = format!("{what} of {} has more than {RULES_MAX} names", scope.owner);
        scope.error(node.at, Code::TooComplex, message, "write `all`, or fewer");
        return None;
    }
    Some(all)
}

/// `confirm: [TOOL]` always, or `{always: […], never: […], operator: […]}`.
pub(crate) fn confirm(scope: &mut Scope<'_>, node: &Node, part: &mut RulesPart) {
    if let Value::List(_) = node.value {
        return confirmed(scope, node, "`confirm`", Confirm::Always, part);
    }
    let Some(entries) = scope.map(node, "`confirm`") else { return };
    scope.keys(entries, &keys::CHAT_CONFIRM, "`confirm`");
    let kinds = [("always", Confirm::Always), ("never", Confirm::Never), ("operator", Confirm::Operator)];
    for (key, confirm) in kinds {
        if let Some(node) = find(entries, key) {
            confirmed(scope, node, &format!("`confirm.{key}`"), confirm, part);
        }
    }
}

fn confirmed(scope: &mut Scope<'_>, node: &Node, what: &str, confirm: Confirm, part: &mut RulesPart) {
    for item in scope.filled(node, what).unwrap_or_default() {
        let Some(tool) = scope.text(item, what).map(str::to_owned) else { continue };
        let Some(tool) = tool_name(scope, &tool, item.at, what) else { continue };
        let rules = part.of(&tool, what, item.at);
        if rules.confirm != Confirm::AsTool {
            let message =
                format!("{what} of {} names `{tool}`, of which `confirm` has said something already", scope.owner);
            scope.error(item.at, Code::BadValue, message, "name it once");
        } else {
            rules.confirm = confirm;
        }
    }
}

/// `calls_per_session: {TOOL: NUMBER}` of `limits`.
pub(crate) fn calls_per_session(scope: &mut Scope<'_>, node: &Node, part: &mut RulesPart) {
    let what = "`limits.calls_per_session`";
    for entry in scope.map(node, what).unwrap_or_default() {
        let Some(tool) = tool_name(scope, &entry.key, entry.key_at, what) else { continue };
        if let Some(most) = scope.number(&entry.value, what, 1..=10_000) {
            part.of(&tool, what, entry.key_at).calls_per_session_max = Some(most);
        }
    }
}

/// `authorize: [{allow: all, roles: [admin]}, {deny: all, when: sensitive_operation}]`: the first that fits decides (G85b).
pub(crate) fn authorize(scope: &mut Scope<'_>, node: &Node, part: &mut RulesPart) {
    let list = scope.filled(node, "`authorize`").unwrap_or_default();
    if list.len() > RULES_MAX {
        let message = format!("`authorize` of {} has {} rules, more than {RULES_MAX}", scope.owner, list.len());
        scope.error(node.at, Code::TooComplex, message, "put several tools, users or roles into one rule");
        return;
    }
    for (i, item) in list.iter().enumerate() {
        if let Some(rule) = authorization(scope, item, &format!("rule {} of `authorize`", i + 1), part) {
            part.authorize.push(rule);
        }
    }
}

fn authorization(scope: &mut Scope<'_>, node: &Node, what: &str, part: &mut RulesPart) -> Option<AuthorizationRule> {
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::CHAT_AUTHORIZE, what);
    let (effect, tools) = match (find(entries, "allow"), find(entries, "deny")) {
        (Some(node), None) => (AuthorizationEffect::Allow, node),
        (None, Some(node)) => (AuthorizationEffect::Deny, node),
        (Some(_), Some(_)) | (None, None) => {
            let message = format!("{what} of {} needs one of `allow` and `deny`", scope.owner);
            scope.error(
                node.at,
                Code::MissingKey,
                message,
                "write {allow: TOOL} or {deny: all}, with `roles`, `users` or `when`",
            );
            return None;
        }
    };
    let tools = match &tools.value {
        Value::Text(text) if text == "all" => BTreeSet::new(),
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_)
        | Value::Invalid => {
            let found = names(scope, tools, what)?;
            let nodes = match &tools.value {
                Value::List(items) => items.as_slice(),
                Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Map(_) | Value::Invalid => {
                    std::slice::from_ref(tools)
                }
            };
            found.iter().zip(nodes).for_each(|(tool, node)| part.names(tool, what, node.at));
            found.into_iter().collect()
        }
    };
    let users = find(entries, "users").map(|node| texts(scope, node, &format!("`users` in {what}")));
    let roles = find(entries, "roles").map(|node| texts(scope, node, &format!("`roles` in {what}")));
    let when = find(entries, "when").map(|node| names(scope, node, &format!("`when` in {what}")));
    Some(AuthorizationRule {
        tools,
        users: said_well(users)?.unwrap_or_default(),
        roles: said_well(roles)?.unwrap_or_default(),
        arguments: said_well(when)?.unwrap_or_default().into_iter().collect(),
        effect,
    })
}

/// A text or a list of texts: principals and roles are spelled as whoever verifies them does.
fn texts(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<BTreeSet<String>> {
    let nodes = match &node.value {
        Value::Text(_) => std::slice::from_ref(node),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) | Value::Invalid => {
            scope.filled(node, what)?
        }
    };
    nodes.iter().map(|node| scope.text(node, what).filter(|text| !text.is_empty()).map(str::to_owned)).collect()
}
