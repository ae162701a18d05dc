//! `credential` of a route: placeholders that the program holds, and the places where they become real (B42).
//!
//! *Must never* leave a credential's place open: what a route does not name is where the placeholder is refused.

use std::collections::BTreeMap;

use carboy_core::ids::SecretName;
use carboy_core::route::{BasicPart, CREDENTIALS_MAX, PlaceholderAuth, PlaceholderIn, Route};

use super::matches::is_token;
use super::{HEADERS_NEVER, secret_name};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, excerpt};
use crate::keys;
use crate::origin::{Place, Said};
use crate::provider::EnvValue;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

/// Where a placeholder may stand, as `in` says it.
const PLACES: &str = "`header`, `query`, `basic` or `body`";
/// Variables by which a bottle finds itself and its gateway; a placeholder in one would be taken for something else.
const VARIABLES_NEVER: &[&str] = &["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];
/// Longest name of a parameter, key or form field, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// `credential`: one, or a list.
pub(super) fn credentials(scope: &mut Scope<'_>, entries: &[Entry], what: &str) -> Vec<PlaceholderAuth> {
    let Some(node) = find(entries, "credential") else { return Vec::new() };
    let at = format!("`credential` of {what}");
    if let Some(key) = ["token_env", "auth_scheme", "auth_header"].into_iter().find(|key| find(entries, key).is_some())
    {
        let message = format!("{what} of {} has `credential` and `{key}`", scope.owner);
        let fix = "keep one: `token_env` sets the credential whatever the program sends, `credential` where it sends a placeholder";
        scope.error(node.at, Code::BadValue, message, fix);
    }
    let list = match &node.value {
        Value::List(_) => scope.filled(node, &at).unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Map(_) | Value::Invalid => {
            std::slice::from_ref(node)
        }
    };
    if list.len() > CREDENTIALS_MAX {
        let message = format!("{at} of {} has {} entries, more than {CREDENTIALS_MAX}", scope.owner, list.len());
        scope.error(node.at, Code::TooComplex, message, "split the route by its paths");
        return Vec::new();
    }
    let mut read: Vec<PlaceholderAuth> = Vec::new();
    for item in list {
        let Some(one) = one(scope, item, &at) else { continue };
        if read.iter().any(|other| other.place == one.place && other.secret == one.secret) {
            let message = format!("{at} of {} has {} of {} twice", scope.owner, one.place, one.secret);
            scope.error(item.at, Code::BadValue, message, "remove one of the two");
        }
        read.push(one);
    }
    read
}

/// `{in, name, from, env}`.
fn one(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<PlaceholderAuth> {
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::CREDENTIAL, what);
    if find(entries, "in").is_none() {
        scope.missing(node.at, "in", what, format!("add `in:` with {PLACES}"));
    }
    if find(entries, "from").is_none() {
        scope.missing(node.at, "from", what, "add `from: NAME`, the name of the secret");
    }
    let place = find(entries, "in").and_then(|kind| place(scope, kind, entries, what));
    let (secret, variable) = held(scope, entries, what)?;
    Some(PlaceholderAuth { place: place?, secret, variable })
}

/// `{from, env}`: whose placeholder, and the variable that holds it.
pub(crate) fn held(scope: &mut Scope<'_>, entries: &[Entry], what: &str) -> Option<(SecretName, String)> {
    let secret = find(entries, "from").and_then(|from| secret_name(scope, from, &format!("`from` in {what}")));
    let variable = match find(entries, "env") {
        Some(env) => variable(scope, env, what),
        None => secret.as_ref().map(|secret| secret.as_str().to_owned()),
    };
    Some((secret?, variable?))
}

fn place(scope: &mut Scope<'_>, kind: &Node, entries: &[Entry], what: &str) -> Option<PlaceholderIn> {
    let text = scope.text(kind, &format!("`in` in {what}"))?;
    let name = match find(entries, "name") {
        Some(node) => Some((scope.text(node, &format!("`name` in {what}"))?, node.at)),
        None => None,
    };
    let mut refuse = |at: Position, why: String, fix: &str| {
        let message = format!("{what} of {} {why}", scope.owner);
        scope.error(at, Code::BadValue, message, fix);
        None
    };
    match (text, name) {
        ("header", Some((name, at))) => {
            let name = name.to_ascii_lowercase();
            let never = HEADERS_NEVER.contains(&name.as_str())
                || ["proxy-", "sec-websocket-"].iter().any(|prefix| name.starts_with(prefix));
            match is_token(&name) && !never {
                true => Some(PlaceholderIn::Header(name)),
                false => refuse(
                    at,
                    format!("names the header {}", excerpt(&name)),
                    "name a header that carries a credential, as in `authorization`",
                ),
            }
        }
        ("query", Some((name, at))) => match fits(name) {
            true => Some(PlaceholderIn::Query(name.to_owned())),
            false => refuse(
                at,
                format!("names the parameter {}", excerpt(name)),
                "name a parameter of the query, as in `api_key`",
            ),
        },
        ("header" | "query", None) => {
            let fix = if text == "header" { "add `name: authorization`" } else { "add `name: api_key`" };
            refuse(kind.at, format!("is in the {text} and has no `name`"), fix)
        }
        ("basic", None) => Some(PlaceholderIn::Basic(BasicPart::Either)),
        ("basic", Some(("user", _))) => Some(PlaceholderIn::Basic(BasicPart::User)),
        ("basic", Some(("password", _))) => Some(PlaceholderIn::Basic(BasicPart::Password)),
        ("basic", Some((name, at))) => refuse(
            at,
            format!("names {} of Basic credentials", excerpt(name)),
            "use `user` or `password`; without `name` either of them",
        ),
        ("body", None) => Some(PlaceholderIn::Body(None)),
        ("body", Some((name, at))) => match fits(name) {
            true => Some(PlaceholderIn::Body(Some(name.to_owned()))),
            false => refuse(
                at,
                format!("names {} of the body", excerpt(name)),
                "name a key of the JSON or a field of the form, as in `client_secret`",
            ),
        },
        (other, _) => refuse(kind.at, format!("is in {}", excerpt(other)), &format!("use {PLACES}")),
    }
}

fn fits(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| (b' '..=b'~').contains(&b))
}

fn variable(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<String> {
    let text = scope.text(node, &format!("`env` in {what}"))?;
    let is_name = SecretName::parse(text).is_ok();
    if is_name && !VARIABLES_NEVER.contains(&text) && !text.starts_with("CARBOY_") {
        return Some(text.to_owned());
    }
    let message = format!("`env` in {what} of {} is {}", scope.owner, excerpt(text));
    scope.error(
        node.at,
        Code::BadName,
        message,
        "name the variable that the program reads its key from, as in `GH_TOKEN`",
    );
    None
}

/// What only the whole of a bottle shows: each variable is one secret's, and nothing else stands in it.
pub(crate) fn check_variables(
    routes: &[(Route, &Place)],
    env: &BTreeMap<String, Said<EnvValue>>,
    provider_env: &BTreeMap<String, EnvValue>,
    owner: &str,
    out: &mut Diagnostics,
) {
    let mut known: BTreeMap<&str, &SecretName> = BTreeMap::new();
    for (route, _) in routes {
        known.extend(route.auth.iter().map(|auth| (auth.secret.as_str(), &auth.secret)));
    }
    for (route, place) in routes {
        for one in &route.credentials {
            let mut refuse = |message: String, fix: String| {
                out.push_once(Diagnostic::error(Code::BadValue, message, fix).at(&place.file, place.at));
            };
            let variable = one.variable.as_str();
            if let Some(other) = known.get(variable).filter(|other| **other != &one.secret) {
                let message = format!(
                    "variable {variable} of {owner} would hold the placeholders of {other} and of {}",
                    one.secret
                );
                refuse(
                    message,
                    format!("give one of the two another variable: `env: NAME` beside `from: {}`", one.secret),
                );
            }
            known.insert(variable, &one.secret);
            if env.contains_key(variable) || provider_env.contains_key(variable) {
                let message = format!(
                    "variable {variable} of {owner} is to hold the placeholder of {}, and has a value already",
                    one.secret
                );
                refuse(
                    message,
                    format!(
                        "remove {variable} from `env`, or name another one by `env: NAME` beside `from: {}`",
                        one.secret
                    ),
                );
            }
        }
    }
}
