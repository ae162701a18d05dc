//! `egress`: the routes out of a bottle (M22–M24), checked into the law that `carboy-core` decides by.
//!
//! *Must never* make a route wider than it reads: an empty `matches`, `paths` or `methods` is an error, not "all".

pub(crate) mod credential;
mod matches;
pub(crate) use credential::check_variables;
pub use matches::describe_match;

use std::net::IpAddr;

use carboy_core::address::is_public;
use carboy_core::finding::Detector;
use carboy_core::host::{Host, HostPattern};
use carboy_core::ids::{MeterName, RouteId, SecretName};
use carboy_core::route::{
    AuthScheme, DlpPolicy, GitAccess, OnMatch, PORTS_DEFAULT, Reach, Route, RouteAuth, is_private_unicast,
};

use crate::diagnostic::{Code, Position, excerpt, listed};
use crate::keys;
use crate::limits::size;
use crate::origin::Said;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

/// M22: the values of `auth_scheme`, spelled exactly so.
pub const EGRESS_AUTH_SCHEMES: &[&str] = &["Bearer", "token"];

/// Most routes of a bottle.
pub const ROUTES_MAX: usize = 500;

/// Names of meters and what they stand for.
const METERS: &[(&str, &str)] = &[
    ("anthropic", "anthropic"),
    ("claude", "anthropic"),
    ("codex", "openai"),
    ("gemini", "gemini"),
    ("openai", "openai"),
];

/// Fields that frame a message or belong to one hop: setting one would let a manifest split requests.
const HEADERS_NEVER: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `egress`, as a file says it.
#[derive(Clone, Debug, Default)]
pub(crate) struct EgressPart {
    /// In order; their numbers are those of this file.
    pub(crate) routes: Vec<Said<Route>>,
    /// `log`, as written.
    pub(crate) log: Option<Said<String>>,
}

/// `egress` of a bottle. Routes with errors are left out, and the load fails by their errors.
pub(crate) fn egress(scope: &mut Scope<'_>, node: &Node) -> EgressPart {
    let mut part = EgressPart::default();
    let Some(entries) = scope.map(node, "`egress`") else { return part };
    scope.keys(entries, &keys::EGRESS, "`egress`");
    if let Some(log) = entries.iter().find(|entry| entry.key == "log") {
        let message = format!("`egress.log` of {} changes nothing: every request is in the audit log", scope.owner);
        scope.warn(log.key_at, Code::NoEffect, message, "remove `log`");
        part.log = Some(scope.said(scalar(&log.value), log.value.at));
    }
    let Some(list) = find(entries, "routes").and_then(|node| scope.list(node, "`egress.routes`")) else {
        return part;
    };
    if list.len() > ROUTES_MAX {
        let message = format!("{} has {} routes, more than {ROUTES_MAX}", scope.owner, list.len());
        scope.error(list[ROUTES_MAX].at, Code::TooComplex, message, "join routes by `*.zone`, or split the bottle");
        return part;
    }
    for (i, node) in list.iter().enumerate() {
        if let Some(route) = route(scope, node, i + 1, &format!("route {}", i + 1)) {
            part.routes.push(scope.said(route, node.at));
        }
    }
    part
}

/// A value in a few words, for a key whose values nobody has written down.
fn scalar(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Null | Value::Invalid => String::new(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
    }
}

/// One route; `what` is how messages name it.
pub(crate) fn route(scope: &mut Scope<'_>, node: &Node, index: usize, what: &str) -> Option<Route> {
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::ROUTE, what);
    let reach = match find(entries, "private").map(|node| scope.boolean(node, &format!("`private` of {what}"))) {
        Some(Some(true)) => Reach::Private,
        Some(Some(false) | None) | None => Reach::Public,
    };
    if find(entries, "host").is_none() {
        scope.missing(node.at, "host", what, "add `host: api.example.org` or `host: \"*.example.org\"`");
    }
    let host = find(entries, "host").and_then(|node| host(scope, node, what, reach));
    let ports = ports(scope, entries, what);
    let meter = meter(scope, entries, what);
    let credentials = credential::credentials(scope, entries, what);
    let auth = auth(scope, entries, what, meter.as_ref(), node.at);
    let matches = matches::matches(scope, entries, what);
    let git = git(scope, entries, what);
    let dlp = dlp(scope, entries, what);
    let body_bytes_max =
        find(entries, "body_bytes_max").and_then(|node| size(scope, node, &format!("`body_bytes_max` of {what}"), 1));
    let websocket = find(entries, "websocket")
        .and_then(|node| scope.boolean(node, &format!("`websocket` of {what}")))
        .unwrap_or(false);
    let host = host?;
    let id = RouteId::new(index, &host);
    Some(Route { id, host, ports, auth, credentials, matches, git, dlp, meter, reach, body_bytes_max, websocket })
}

fn host(scope: &mut Scope<'_>, node: &Node, what: &str, reach: Reach) -> Option<HostPattern> {
    let text = scope.text(node, &format!("`host` of {what}"))?;
    let owner = scope.owner.to_owned();
    let mut refuse = |why: &str, fix: &str| {
        let message = format!("`host` of {what} of {owner} is {}: {why}", excerpt(text));
        scope.error(node.at, Code::BadHost, message, fix);
    };
    if matches!(text, "*" | "*." | "**") {
        refuse(
            "a route for every host is no policy",
            "name the hosts, one route each, or a zone as in \"*.example.org\"",
        );
        return None;
    }
    if text.contains("://") || text.contains('/') {
        refuse("it is not a host alone", "write the host without scheme and path; paths go under `matches`");
        return None;
    }
    let pattern = match HostPattern::parse(text) {
        Ok(pattern) => pattern,
        Err(error) => {
            match Host::parse_authority(text) {
                Ok((host, Some(port))) => {
                    refuse("it carries a port", &format!("write `host: {host}` and `ports: [{port}]`"));
                }
                Ok((_, None)) | Err(_) if text.contains('*') => {
                    refuse(&error.to_string(), "a star stands only at the start, as in \"*.example.org\"");
                }
                Ok((_, None)) | Err(_) => refuse(&error.to_string(), "write one host, as in `api.example.org`"),
            }
            return None;
        }
    };
    match never_reachable(&pattern, reach) {
        Some((why, fix)) => {
            refuse(why, fix);
            None
        }
        None => {
            if let HostPattern::Below(zone) = &pattern
                && !zone.as_str().contains('.')
            {
                let message = format!("`host` of {what} of {owner} names every host below `{zone}`");
                scope.warn(node.at, Code::RouteWide, message, "name the zones that are needed");
            }
            Some(pattern)
        }
    }
}

/// Why a host could never be dialled, and what to do.
fn never_reachable(pattern: &HostPattern, reach: Reach) -> Option<(&'static str, &'static str)> {
    let name = match pattern {
        HostPattern::Below(zone) => zone.as_str(),
        HostPattern::Exact(Host::Name(name)) => name.as_str(),
        HostPattern::Exact(Host::V4(v4)) => return address_refused(IpAddr::V4(*v4), reach),
        HostPattern::Exact(Host::V6(v6)) => return address_refused(IpAddr::V6(*v6), reach),
    };
    let within = |zone: &str| name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if within("localhost") {
        let fix = "name the service's own host and give its address under `upstreams` in settings.yml";
        Some(("inside a bottle it is the bottle itself", fix))
    } else if within("carboy.internal") {
        Some(("carboy answers it itself", "remove the route"))
    } else {
        None
    }
}

fn address_refused(ip: IpAddr, reach: Reach) -> Option<(&'static str, &'static str)> {
    if is_public(ip) {
        return None;
    }
    match (is_private_unicast(ip), reach) {
        (true, Reach::Private) => None,
        (true, Reach::Public) => Some(("it is a private address", "add `private: true` if that is what you want")),
        (false, Reach::Public | Reach::Private) => {
            let why = "it is this machine, its link, its metadata service or no host at all";
            Some((why, "name another host; `upstreams` in settings.yml can send a host to a local address"))
        }
    }
}

fn ports(scope: &mut Scope<'_>, entries: &[Entry], what: &str) -> Vec<u16> {
    let Some(node) = find(entries, "ports") else { return PORTS_DEFAULT.to_vec() };
    let what = format!("`ports` of {what}");
    let mut ports = Vec::new();
    for item in scope.filled(node, &what).unwrap_or_default() {
        let Some(port) = scope.number(item, &what, 1..=65_535).and_then(|n| u16::try_from(n).ok()) else { continue };
        if port == 53 {
            let message = format!("{what} of {} names port 53, which carboy answers itself", scope.owner);
            scope.error(item.at, Code::BadValue, message, "remove 53; names are resolved outside");
        } else if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

fn meter(scope: &mut Scope<'_>, entries: &[Entry], what: &str) -> Option<MeterName> {
    let node = find(entries, "meter")?;
    let text = scope.text(node, &format!("`meter` of {what}"))?;
    let known = METERS.iter().find(|(name, _)| *name == text);
    let Some((_, meter)) = known else {
        let message = format!("`meter` of {what} of {} is {}", scope.owner, excerpt(text));
        let fix = format!("use one of {}", listed(METERS.iter().map(|(name, _)| name)));
        scope.error(node.at, Code::BadValue, message, fix);
        return None;
    };
    MeterName::parse(meter).ok()
}

/// `auth_scheme` and `token_env` (both or neither), `auth_header`.
fn auth(
    scope: &mut Scope<'_>,
    entries: &[Entry],
    what: &str,
    meter: Option<&MeterName>,
    at: Position,
) -> Option<RouteAuth> {
    let owner = scope.owner.to_owned();
    let scheme = find(entries, "auth_scheme");
    let token = find(entries, "token_env");
    match (scheme, token) {
        (Some(node), None) => {
            let message = format!("{what} of {owner} has `auth_scheme` without `token_env`");
            scope.error(node.at, Code::MissingKey, message, "add `token_env: NAME`, or remove `auth_scheme`");
        }
        (None, Some(node)) => {
            let message = format!("{what} of {owner} has `token_env` without `auth_scheme`");
            scope.error(node.at, Code::MissingKey, message, "add `auth_scheme: Bearer` or `auth_scheme: token`");
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let bearer = scheme.and_then(|node| {
        let text = scope.text(node, &format!("`auth_scheme` of {what}"))?;
        match text {
            "Bearer" => Some(AuthScheme::Bearer),
            "token" => Some(AuthScheme::Token),
            _ => {
                let message = format!("`auth_scheme` of {what} of {owner} is {}", excerpt(text));
                scope.error(node.at, Code::BadValue, message, format!("use exactly {}", listed(EGRESS_AUTH_SCHEMES)));
                None
            }
        }
    });
    let secret = token.and_then(|node| secret_name(scope, node, &format!("`token_env` of {what}")));
    let header = find(entries, "auth_header").map(|node| auth_header(scope, node, what));
    if header.is_some() && scheme.is_none() && token.is_none() {
        let message = format!("{what} of {owner} has `auth_header` and no credential for it");
        scope.error(at, Code::MissingKey, message, "add `auth_scheme` and `token_env`, or remove `auth_header`");
    }
    let (scheme, secret) = (bearer?, secret?);
    let (header, scheme) = match (header, meter.map(MeterName::as_str), scheme) {
        (Some(header), _, scheme) => match header?.as_str() {
            "authorization" => (String::from("authorization"), scheme),
            other => (other.to_owned(), AuthScheme::Bare),
        },
        (None, Some("anthropic"), AuthScheme::Bearer) => (String::from("x-api-key"), AuthScheme::AnthropicByToken),
        (None, Some("gemini"), AuthScheme::Bearer) => (String::from("x-goog-api-key"), AuthScheme::Bare),
        (None, _, scheme) => (String::from("authorization"), scheme),
    };
    Some(RouteAuth { header, scheme, secret })
}

/// The name of a secret. A secret itself does not fit the rule most of the time, and is not repeated in the message.
pub(crate) fn secret_name(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<SecretName> {
    let text = scope.text(node, what)?;
    let name = SecretName::parse(text).ok();
    if name.is_none() {
        let message = format!("{what} of {} is not the name of a secret", scope.owner);
        let fix =
            "write a name such as ANTHROPIC_API_KEY (letters, digits, `_`); the secret itself stays outside this file";
        scope.error(node.at, Code::BadName, message, fix);
    }
    name
}

fn auth_header(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<String> {
    let text = scope.text(node, &format!("`auth_header` of {what}"))?;
    let name = text.to_ascii_lowercase();
    if matches::is_token(&name) && !HEADERS_NEVER.contains(&name.as_str()) && !name.starts_with("proxy-") {
        return Some(name);
    }
    let message = format!("`auth_header` of {what} of {} is {}", scope.owner, excerpt(text));
    scope.error(node.at, Code::BadValue, message, "name a header that carries a credential, as in `x-api-key`");
    None
}

fn git(scope: &mut Scope<'_>, entries: &[Entry], what: &str) -> GitAccess {
    let Some(node) = find(entries, "git") else { return GitAccess::Denied };
    let what = format!("`git` of {what}");
    let Some(inner) = scope.map(node, &what) else { return GitAccess::Denied };
    scope.keys(inner, &keys::ROUTE_GIT, &what);
    match find(inner, "fetch").and_then(|node| scope.boolean(node, &what)) {
        Some(true) => GitAccess::Fetch,
        Some(false) | None => GitAccess::Denied,
    }
}

fn dlp(scope: &mut Scope<'_>, entries: &[Entry], what: &str) -> DlpPolicy {
    let mut policy = DlpPolicy::default();
    let Some(node) = find(entries, "dlp") else { return policy };
    let what = format!("`dlp` of {what}");
    let Some(inner) = scope.map(node, &what) else { return policy };
    scope.keys(inner, &keys::DLP, &what);
    if let Some(node) = find(inner, "outbound_detectors") {
        policy.outbound = detectors(scope, node, &format!("`outbound_detectors` in {what}"), &policy.outbound);
    }
    if let Some(node) = find(inner, "inbound_detectors") {
        policy.inbound = detectors(scope, node, &format!("`inbound_detectors` in {what}"), &policy.inbound);
    }
    if let Some(node) = find(inner, "outbound_on_match")
        && let Some(text) = scope.text(node, &format!("`outbound_on_match` in {what}"))
    {
        match text {
            "block" => policy.outbound_on_match = OnMatch::Block,
            "redact" => policy.outbound_on_match = OnMatch::Redact,
            "supervise" => policy.outbound_on_match = OnMatch::Supervise,
            _ => {
                let message = format!("`outbound_on_match` in {what} of {} is {}", scope.owner, excerpt(text));
                scope.error(node.at, Code::BadValue, message, "use `block`, `redact` or `supervise`");
            }
        }
    }
    policy
}

/// A subset of one direction's detectors.
fn detectors(scope: &mut Scope<'_>, node: &Node, what: &str, all: &[Detector]) -> Vec<Detector> {
    let Some(names) = scope.texts(node, what) else { return all.to_vec() };
    if names.is_empty() {
        let message = format!("{what} of {} is empty: nothing is looked for in that direction", scope.owner);
        scope.warn(
            node.at,
            Code::ScanOff,
            message,
            format!("remove the key to look for {}", listed(all.iter().map(|d| d.as_str()))),
        );
    }
    let mut chosen = Vec::new();
    for (name, at) in names {
        match all.iter().find(|detector| detector.as_str() == name) {
            Some(detector) if !chosen.contains(detector) => chosen.push(*detector),
            Some(_) => {}
            None => {
                let message = format!("{what} of {} names {}", scope.owner, excerpt(name));
                let fix = format!("use {}", listed(all.iter().map(|detector| detector.as_str())));
                scope.error(at, Code::BadValue, message, fix);
            }
        }
    }
    chosen
}

/// The first route that allows a request wins; so this one takes everything that the later one could.
pub(crate) fn hides(earlier: &Route, later: &Route) -> bool {
    let ports = later.ports.iter().all(|port| earlier.ports.contains(port));
    let git = earlier.git == GitAccess::Fetch || later.git == GitAccess::Denied;
    // Expressions have no equality; their text does.
    let same_matches = || format!("{:?}", earlier.matches) == format!("{:?}", later.matches);
    earlier.host == later.host && ports && git && (earlier.matches.is_empty() || same_matches())
}
