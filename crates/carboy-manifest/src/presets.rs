//! `presets`: read-only, path-bound sets of routes under one name and version (M38).
//!
//! ```yaml
//! presets:
//!   - github-read                                   # the newest version; `github-read@1` pins it
//!   - {anthropic: {token_env: CLAUDE_CODE_OAUTH_TOKEN}}
//!   - {openai: {credential: {from: OPENAI_API_KEY}}}   # a placeholder, at the places that the preset knows
//!   - npm: {hosts: [registry.example, "mirror.example:8443/npm"]}
//! ```
//!
//! A preset is expanded into ordinary routes by the reader that reads a person's own, so that the same checks hold, and
//! `carboy check` shows each of them with the preset it came from. *Must never* name the host of a package manager: what
//! the installed tool is configured to use is written into the bottle's file, where a person sees it.

use carboy_core::ids::SecretName;
use carboy_core::route::{Route, normal_path};

use crate::diagnostic::{Code, Position, excerpt, listed};
use crate::egress;
use crate::keys;
use crate::origin::Said;
use crate::schema::{Scope, find};
use crate::yaml::{self, Entry, Node, Value};

/// Most entries of `presets`.
pub const PRESETS_MAX: usize = 50;
/// Most hosts of one entry.
pub const HOSTS_MAX: usize = 20;

/// What a preset may be told.
enum Takes {
    /// Nothing.
    Nothing,
    /// `token_env`, this one when it is not given; or `credential`, whose placeholder its clients send in these.
    Token(&'static str, &'static [Where]),
    /// `hosts`, which it needs, on these ports where none is written; `private`, and `token_env` or `credential`.
    Hosts(&'static [u16]),
}

/// `in` and `name` of a credential.
type Where = (&'static str, Option<&'static str>);

/// Where tools put what they log in to a registry with.
const OF_REGISTRY: &[Where] = &[("header", Some("authorization")), ("basic", None)];
const OF_ANTHROPIC: &[Where] = &[("header", Some("x-api-key")), ("header", Some("authorization"))];
const OF_GEMINI: &[Where] = &[("header", Some("x-goog-api-key")), ("query", Some("key"))];
const BEARER: &[Where] = &[("header", Some("authorization"))];

struct Definition {
    name: &'static str,
    version: u32,
    takes: Takes,
    /// A list of routes. `HOST`, `PREFIX` and `TOKEN` are filled in, in the tree and not in the text.
    routes: &'static str,
}

/// What is read from a registry: nothing is ever sent to one but questions.
const FROM_REGISTRY: &str = "\
- host: HOST
  matches:
    - methods: [GET, HEAD]
      paths: [PREFIX]
";

/// The layouts that cargo's sparse index and downloads have, at any depth below the prefix.
const FROM_CARGO_REGISTRY: &str = r#"
- host: HOST
  matches:
    - methods: [GET, HEAD]
      paths:
        - {type: regex, value: "PREFIX/(?:.+/)?config\\.json"}
        - {type: regex, value: "PREFIX/(?:.+/)?[12]/[^/]+"}
        - {type: regex, value: "PREFIX/(?:.+/)?3/[^/]/[^/]+"}
        - {type: regex, value: "PREFIX/(?:.+/)?[^/]{2}/[^/]{2}/[^/]+"}
        - {type: regex, value: "PREFIX/.+\\.crate"}
        - {type: regex, value: "PREFIX/.+/download"}
"#;

/// The module proxy's own questions, and those to a checksum database, directly or through the proxy.
const FROM_GO_PROXY: &str = r#"
- host: HOST
  matches:
    - methods: [GET, HEAD]
      paths:
        - {type: regex, value: "PREFIX/.+/@v/(?:list|[^/]+\\.(?:info|mod|zip))"}
        - {type: regex, value: "PREFIX/.+/@latest"}
        - {type: regex, value: "PREFIX/(?:sumdb/[^/]+/)?(?:supported|latest|lookup/.+|tile/.+)"}
"#;

const GITHUB_READ: &str = r#"
- host: github.com
  ports: [443]
  git: {fetch: true}
  matches:
    - methods: [GET]
      paths: [{type: regex, value: "/[^/]+/[^/]+/info/refs"}]
    - methods: [POST]
      paths: [{type: regex, value: "/[^/]+/[^/]+/git-upload-pack"}]
    - methods: [GET, HEAD]
      paths: [{type: regex, value: "/[^/]+/[^/]+/(?:archive|raw|releases/download)/.+"}]
- host: codeload.github.com
  ports: [443]
  matches: [{methods: [GET, HEAD], paths: [{type: regex, value: "/[^/]+/[^/]+/.+"}]}]
- host: raw.githubusercontent.com
  ports: [443]
  matches: [{methods: [GET, HEAD], paths: [{type: regex, value: "/[^/]+/[^/]+/.+"}]}]
- host: api.github.com
  ports: [443]
  matches: [{methods: [GET, HEAD], paths: [/repos]}]
- host: release-assets.githubusercontent.com
  ports: [443]
  matches: [{methods: [GET, HEAD], paths: [{type: regex, value: "/github-production-release-asset.*"}]}]
- host: objects.githubusercontent.com
  ports: [443]
  matches: [{methods: [GET, HEAD], paths: [{type: regex, value: "/github-production-release-asset.*"}]}]
"#;

const ANTHROPIC: &str = "
- host: api.anthropic.com
  ports: [443]
  meter: anthropic
  auth_scheme: Bearer
  token_env: TOKEN
  dlp: {outbound_on_match: redact}
  matches:
    - methods: [POST]
      paths: [{type: exact, value: /v1/messages}, {type: exact, value: /v1/messages/count_tokens}]
    - methods: [GET]
      paths: [/v1/models]
    # What an organisation asks of Claude Code, and the warming-up of its connection. Refused, it starts half a minute later.
    - methods: [GET]
      paths: [{type: exact, value: /api/claude_code/settings}, {type: exact, value: /api/claude_code/policy_limits}]
    - methods: [HEAD]
      paths: [{type: exact, value: /}]
";

const CHATGPT: &str = "
- host: chatgpt.com
  ports: [443]
  meter: openai
  auth_scheme: Bearer
  token_env: TOKEN
  dlp: {outbound_on_match: redact}
  matches:
    - methods: [POST]
      paths: [{type: exact, value: /backend-api/codex/responses}, {type: exact, value: /backend-api/codex/responses/compact}]
    - methods: [GET]
      paths:
        - {type: exact, value: /backend-api/codex/models}
        - {type: exact, value: /backend-api/wham/accounts/check}
        - {type: exact, value: /backend-api/wham/settings/user}
        - {type: exact, value: /backend-api/wham/usage}
";

const OPENAI: &str = "
- host: api.openai.com
  ports: [443]
  meter: openai
  auth_scheme: Bearer
  token_env: TOKEN
  dlp: {outbound_on_match: redact}
  matches:
    - methods: [POST]
      paths:
        - {type: exact, value: /v1/responses}
        - {type: exact, value: /v1/responses/compact}
        - {type: exact, value: /v1/responses/input_tokens}
        - {type: exact, value: /v1/chat/completions}
    - methods: [GET]
      paths: [/v1/models]
";

const GEMINI: &str = r#"
- host: generativelanguage.googleapis.com
  ports: [443]
  meter: gemini
  auth_scheme: Bearer
  token_env: TOKEN
  dlp: {outbound_on_match: redact}
  matches:
    - methods: [POST]
      paths: [{type: regex, value: "/v1(?:beta)?/models/[^/]+:(?:generateContent|streamGenerateContent|countTokens)"}]
    - methods: [GET]
      paths: [/v1/models, /v1beta/models]
"#;

/// All of them, by name. A change that lets a request through which an older bottle file did not mean is a new version.
const PRESETS: &[Definition] = &[
    Definition {
        name: "anthropic",
        version: 1,
        takes: Takes::Token("ANTHROPIC_API_KEY", OF_ANTHROPIC),
        routes: ANTHROPIC,
    },
    Definition { name: "apt", version: 1, takes: Takes::Hosts(&[443, 80]), routes: FROM_REGISTRY },
    Definition { name: "cargo", version: 1, takes: Takes::Hosts(&[443]), routes: FROM_CARGO_REGISTRY },
    Definition { name: "chatgpt", version: 1, takes: Takes::Token("CHATGPT_ACCESS_TOKEN", BEARER), routes: CHATGPT },
    Definition { name: "gemini", version: 1, takes: Takes::Token("GEMINI_API_KEY", OF_GEMINI), routes: GEMINI },
    Definition { name: "github-read", version: 1, takes: Takes::Nothing, routes: GITHUB_READ },
    Definition { name: "go", version: 1, takes: Takes::Hosts(&[443]), routes: FROM_GO_PROXY },
    Definition { name: "npm", version: 1, takes: Takes::Hosts(&[443]), routes: FROM_REGISTRY },
    Definition { name: "openai", version: 1, takes: Takes::Token("OPENAI_API_KEY", BEARER), routes: OPENAI },
    Definition { name: "pip", version: 1, takes: Takes::Hosts(&[443]), routes: FROM_REGISTRY },
];

/// Names of all presets with their newest versions, sorted.
pub fn known() -> impl Iterator<Item = (&'static str, u32)> {
    PRESETS.iter().map(|preset| (preset.name, preset.version))
}

/// One entry of `presets`, expanded.
#[derive(Clone, Debug)]
pub(crate) struct Preset {
    /// `github-read@1`
    pub(crate) label: String,
    /// The label and all that it was told: the same entry twice is once.
    pub(crate) key: String,
    /// Its routes.
    pub(crate) routes: Vec<Route>,
}

/// What an entry tells its preset.
#[derive(Default)]
struct Told {
    hosts: Vec<HostSpec>,
    private: bool,
    token: Option<SecretName>,
    /// Whose placeholder, and the variable that holds it.
    credential: Option<(SecretName, String)>,
}

/// `HOST[:PORT][/PREFIX]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostSpec {
    host: String,
    port: Option<u16>,
    /// Without `/` at its end; empty for all of the host.
    prefix: String,
}

/// `presets`: names, or maps of one name to what it is told.
pub(crate) fn presets(scope: &mut Scope<'_>, node: &Node) -> Vec<Said<Preset>> {
    let list = scope.list(node, "`presets`").unwrap_or_default();
    if list.len() > PRESETS_MAX {
        let message = format!("`presets` of {} has {} entries, more than {PRESETS_MAX}", scope.owner, list.len());
        scope.error(node.at, Code::TooComplex, message, "remove some");
        return Vec::new();
    }
    list.iter().filter_map(|item| preset(scope, item)).collect()
}

fn preset(scope: &mut Scope<'_>, item: &Node) -> Option<Said<Preset>> {
    let (name, at, told) = match &item.value {
        Value::Text(text) => (text.as_str(), item.at, None),
        Value::Map(entries) => match entries.as_slice() {
            [one] => (one.key.as_str(), one.key_at, Some(&one.value)),
            several => {
                let message = format!("an entry of `presets` of {} names {} presets", scope.owner, several.len());
                scope.error(item.at, Code::BadValue, message, "write each as an entry of its own");
                return None;
            }
        },
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Invalid => {
            scope.text(item, "an entry of `presets`");
            return None;
        }
    };
    let found = definition(scope, name, at)?;
    let label = format!("{}@{}", found.name, found.version);
    let told = told_of(scope, found, &label, told, at)?;
    let key = format!("{label} {:?} {} {:?} {:?}", told.hosts, told.private, told.token, told.credential);
    let routes = expanded(scope, found, &label, &told, at)?;
    Some(scope.said(Preset { label, key, routes }, at))
}

fn definition(scope: &mut Scope<'_>, text: &str, at: Position) -> Option<&'static Definition> {
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    };
    let Some(found) = PRESETS.iter().find(|preset| preset.name == name) else {
        let message = format!("`presets` of {} has {}, which nobody knows", scope.owner, excerpt(text));
        let fix = format!("use {}", listed(PRESETS.iter().map(|preset| preset.name)));
        scope.error(at, Code::BadValue, message, fix);
        return None;
    };
    if version.is_some_and(|version| version != found.version.to_string()) {
        let message = format!("`presets` of {} has {}, a version that does not exist", scope.owner, excerpt(text));
        scope.error(at, Code::BadValue, message, format!("use `{name}@{}`", found.version));
        return None;
    }
    Some(found)
}

fn told_of(scope: &mut Scope<'_>, found: &Definition, label: &str, node: Option<&Node>, at: Position) -> Option<Told> {
    let what = format!("preset `{label}`");
    let entries: &[Entry] = match node {
        Some(node) => scope.map(node, &what)?,
        None => &[],
    };
    let allowed = match found.takes {
        Takes::Nothing => &keys::PRESET_OF_NOTHING,
        Takes::Token(..) => &keys::PRESET_OF_TOKEN,
        Takes::Hosts(_) => &keys::PRESET_OF_HOSTS,
    };
    let errors = scope.out.error_count();
    scope.keys(entries, allowed, &what);
    let mut told = Told::default();
    if let Some(node) = find(entries, "token_env") {
        told.token = egress::secret_name(scope, node, &format!("`token_env` of {what}"));
    }
    if let Some(node) = find(entries, "credential") {
        told.credential = credential(scope, node, &what);
        if told.token.is_some() {
            let message = format!("{what} of {} has `credential` and `token_env`", scope.owner);
            scope.error(node.at, Code::BadValue, message, "keep one of the two");
        }
    }
    if let Some(node) = find(entries, "private") {
        told.private = scope.boolean(node, &format!("`private` of {what}")).unwrap_or_default();
    }
    if let Some(node) = find(entries, "hosts") {
        let list = scope.filled(node, &format!("`hosts` of {what}")).unwrap_or_default();
        if list.len() > HOSTS_MAX {
            let message = format!("`hosts` of {what} of {} has more than {HOSTS_MAX} entries", scope.owner);
            scope.error(node.at, Code::TooComplex, message, "remove some");
        }
        told.hosts = list.iter().take(HOSTS_MAX).filter_map(|item| host_spec(scope, item, &what)).collect();
    } else if let Takes::Hosts(_) = found.takes {
        let fix = format!(
            "write `{}: {{hosts: [HOST]}}` with the hosts that the installed tool is configured to use",
            found.name
        );
        scope.missing(at, "hosts", &what, fix);
    }
    (scope.out.error_count() == errors).then_some(told)
}

/// `{from, env}`: where it goes the preset knows.
fn credential(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<(SecretName, String)> {
    let what = format!("`credential` of {what}");
    let entries = scope.map(node, &what)?;
    scope.keys(entries, &keys::PRESET_CREDENTIAL, &what);
    if find(entries, "from").is_none() {
        scope.missing(node.at, "from", &what, "add `from: NAME`, the name of the secret");
    }
    egress::credential::held(scope, entries, &what)
}

fn host_spec(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<HostSpec> {
    let text = scope.text(node, &format!("`hosts` of {what}"))?;
    let spec = parse_host_spec(text);
    if spec.is_none() {
        let message = format!("`hosts` of {what} of {} has {}", scope.owner, excerpt(text));
        scope.error(node.at, Code::BadValue, message, "write HOST, HOST:PORT or HOST:PORT/PREFIX, without a scheme");
    }
    spec
}

fn parse_host_spec(text: &str) -> Option<HostSpec> {
    let (authority, path) = match text.find('/') {
        Some(slash) => text.split_at(slash),
        None => (text, ""),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
        Some(_) | None => (authority, None),
    };
    let prefix = path.trim_end_matches('/');
    let plain = prefix.is_empty() || normal_path(prefix).as_deref() == Some(prefix);
    // A zone would hand a package manager's questions to every host below it.
    let one_host = !host.is_empty() && !host.contains('*') && !text.contains(['?', '#', '@']);
    (one_host && plain).then(|| HostSpec { host: host.to_owned(), port, prefix: prefix.to_owned() })
}

/// The preset's routes, read as a person's own would be, all at the place of its entry.
fn expanded(scope: &mut Scope<'_>, found: &Definition, label: &str, told: &Told, at: Position) -> Option<Vec<Route>> {
    let (tree, errors) = yaml::parse(found.routes, 1);
    assert!(errors.is_empty(), "the routes of a preset are written here, and a test reads each of them");
    let Value::List(templates) = tree.value else { return None };
    let mut nodes: Vec<Node> = Vec::new();
    match &found.takes {
        Takes::Nothing => nodes.extend(templates),
        Takes::Token(usual, places) => {
            let token = told.token.as_ref().map_or(*usual, SecretName::as_str);
            nodes.extend(templates.iter().map(|template| filled(template, &[("TOKEN", token)])));
            nodes.iter_mut().for_each(|node| hold(node, told, places));
        }
        Takes::Hosts(ports) => {
            for (spec, template) in told.hosts.iter().flat_map(|spec| templates.iter().map(move |t| (spec, t))) {
                nodes.push(of_host(template, spec, ports, told));
            }
            nodes.iter_mut().for_each(|node| hold(node, told, OF_REGISTRY));
        }
    }
    for node in &mut nodes {
        place(node, at);
    }
    let errors = scope.out.error_count();
    let what = |index: usize| format!("route {index} of preset `{label}`");
    let routes: Vec<Route> =
        nodes.iter().enumerate().filter_map(|(i, node)| egress::route(scope, node, i + 1, &what(i + 1))).collect();
    (scope.out.error_count() == errors).then_some(routes)
}

/// One route for one host of a registry.
fn of_host(template: &Node, spec: &HostSpec, ports: &[u16], told: &Told) -> Node {
    let mut node = filled(template, &[("HOST", &spec.host), ("PREFIX", &spec.prefix)]);
    let Value::Map(entries) = &mut node.value else { return node };
    let text = |text: &str| Value::Text(text.to_owned());
    let mut add = |key: &str, value: Value| {
        let value = Node { value, at: Position::START };
        entries.push(Entry { key: key.to_owned(), key_at: Position::START, value });
    };
    let ports: Vec<u16> = spec.port.map_or_else(|| ports.to_vec(), |port| vec![port]);
    let numbers = ports.iter().map(|port| Node { value: Value::Int(i64::from(*port)), at: Position::START });
    add("ports", Value::List(numbers.collect()));
    if told.private {
        add("private", Value::Bool(true));
    }
    if let Some(token) = &told.token {
        add("auth_scheme", text("Bearer"));
        add("token_env", text(token.as_str()));
    }
    node
}

/// Gives a route the placeholder that the preset was told of, in the place of a token of its own.
fn hold(route: &mut Node, told: &Told, places: &[Where]) {
    let (Value::Map(entries), Some((secret, variable))) = (&mut route.value, &told.credential) else { return };
    let of = |value: Value| Node { value, at: Position::START };
    let entry = |key: &str, value: Value| Entry { key: key.to_owned(), key_at: Position::START, value: of(value) };
    let text = |key: &str, text: &str| entry(key, Value::Text(text.to_owned()));
    let at = |(kind, name): &Where| {
        let name = name.map(|name| text("name", name));
        let rest = [text("in", kind), text("from", secret.as_str()), text("env", variable)];
        of(Value::Map(rest.into_iter().chain(name).collect()))
    };
    entries.retain(|entry| !matches!(entry.key.as_str(), "auth_scheme" | "token_env"));
    entries.push(entry("credential", Value::List(places.iter().map(at).collect())));
}

/// The tree with these words replaced in its texts. A prefix is escaped where it stands in an expression; where it is the
/// whole text, an empty one is the root.
fn filled(node: &Node, words: &[(&str, &str)]) -> Node {
    let value = match &node.value {
        Value::Text(text) => Value::Text(match words.iter().find(|(word, _)| text == word) {
            Some((_, "")) => String::from("/"),
            Some((_, with)) => (*with).to_owned(),
            None => {
                let prefix = words.iter().find(|(word, _)| *word == "PREFIX").map_or("", |(_, with)| with);
                text.replacen("PREFIX", &regex::escape(prefix), 1)
            }
        }),
        Value::List(items) => Value::List(items.iter().map(|item| filled(item, words)).collect()),
        Value::Map(entries) => Value::Map(
            entries.iter().map(|entry| Entry { value: filled(&entry.value, words), ..entry.clone() }).collect(),
        ),
        other @ (Value::Null | Value::Bool(_) | Value::Int(_) | Value::Invalid) => other.clone(),
    };
    Node { value, at: node.at }
}

/// Puts a tree at one place of the bottle's file: its own lines are none that a person can look up.
fn place(node: &mut Node, at: Position) {
    node.at = at;
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| place(item, at)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| {
            entry.key_at = at;
            place(&mut entry.value, at);
        }),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Invalid => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_a_registry_has_a_port_and_a_prefix_where_the_tool_has_them() {
        let spec = |host: &str, port, prefix: &str| Some(HostSpec { host: host.into(), port, prefix: prefix.into() });
        assert_eq!(parse_host_spec("r.example"), spec("r.example", None, ""));
        assert_eq!(parse_host_spec("r.example:8443/npm/"), spec("r.example", Some(8443), "/npm"));
        assert_eq!(parse_host_spec("10.0.0.1/a/b"), spec("10.0.0.1", None, "/a/b"));
        let bad =
            ["", "/x", "https://r.example", "*.r.example", "r.example/../x", "r.example/a?b", "r.example:0", "r:x"];
        for bad in bad.into_iter().chain(["u@r.example"]) {
            assert_eq!(parse_host_spec(bad), None, "{bad}");
        }
    }

    #[test]
    fn presets_are_sorted_and_no_package_manager_brings_a_host() {
        // M38
        assert!(PRESETS.is_sorted_by_key(|preset| preset.name));
        for preset in PRESETS {
            let hosts: Vec<&str> = preset.routes.lines().filter_map(|line| line.strip_prefix("- host: ")).collect();
            match preset.takes {
                Takes::Hosts(_) => assert_eq!(hosts, ["HOST"], "{}", preset.name),
                Takes::Nothing | Takes::Token(..) => assert!(!hosts.is_empty() && !hosts.contains(&"HOST")),
            }
        }
    }
}
