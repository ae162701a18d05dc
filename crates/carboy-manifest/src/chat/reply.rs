//! `reply`: what every answer must keep to (G21–G25).

use carboy_core::chat::{Grounded, GroundingScope, ReplySpec};

use super::screening::expression;
use crate::diagnostic::{Code, excerpt};
use crate::keys;
use crate::schema::{Scope, find};
use crate::yaml::Node;

/// Most patterns of one list.
pub const PATTERNS_MAX: usize = 64;

/// Reads `reply`.
pub(crate) fn reply(scope: &mut Scope<'_>, node: &Node) -> ReplySpec {
    let mut spec = ReplySpec::default();
    let Some(entries) = scope.map(node, "`reply`") else { return spec };
    scope.keys(entries, &keys::CHAT_REPLY, "`reply`");
    let switch = |scope: &mut Scope<'_>, key: &str| {
        find(entries, key).and_then(|node| scope.boolean(node, &format!("`reply.{key}`"))).unwrap_or(false)
    };
    spec.plain_text = switch(scope, "plain_text");
    spec.dates = if switch(scope, "dates") { Grounded::Yes } else { Grounded::No };
    if let Some(node) = find(entries, "scope") {
        match scope.text(node, "`reply.scope`") {
            Some("turn") => spec.scope = GroundingScope::Turn,
            Some("session") => spec.scope = GroundingScope::Session,
            Some(text) => {
                let message = format!("`reply.scope` of {} is {}", scope.owner, excerpt(text));
                scope.error(node.at, Code::BadValue, message, "use `turn` (results of this turn count) or `session`");
            }
            None => {}
        }
    }
    spec.id_patterns = find(entries, "ids").map(|node| patterns(scope, node, "`reply.ids`")).unwrap_or_default();
    spec.off_topic =
        find(entries, "off_topic").map(|node| patterns(scope, node, "`reply.off_topic`")).unwrap_or_default();
    spec
}

fn patterns(scope: &mut Scope<'_>, node: &Node, what: &str) -> Vec<String> {
    let list = scope.filled(node, what).unwrap_or_default();
    if list.len() > PATTERNS_MAX {
        let message = format!("{what} of {} has {} patterns, more than {PATTERNS_MAX}", scope.owner, list.len());
        scope.error(node.at, Code::TooComplex, message, "join several by `|`");
        return Vec::new();
    }
    list.iter().filter_map(|item| expression(scope, item, what)).collect()
}
