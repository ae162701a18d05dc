//! A bottle's file: what may leave, what is visible, what is bounded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use carboy_core::ids::BottleName;
use carboy_core::plan::{Bind, Limits};
use carboy_core::route::Route;
use serde::Serialize;

use crate::diagnostic::{Code, Diagnostics, Position, excerpt};
use crate::files::Places;
use crate::git::{GitGate, GitRepo, GitUser, git_gate};
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};
use crate::{agent, egress, host_paths, keys, limits};

/// Most variables of a bottle.
pub const ENV_MAX: usize = 500;

/// The provider of a bottle that names none.
pub const PROVIDER_DEFAULT: &str = "claude";

/// Providers that carboy knows how to start.
pub const PROVIDERS_BUILT_IN: &[&str] = &["claude", "codex"];

/// M17, M18: what a variable is set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvValue {
    /// This text.
    Set(String),
    /// What the operator answers to this message at launch; not stored.
    Prompt(String),
}

/// M19: which agent program runs in the bottle when no command is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provider {
    /// `claude`, `codex`, or any other name together with a command.
    pub name: String,
    /// Program to start; `None` leaves it to the built-in provider.
    pub command: Option<String>,
    /// Arguments before those of the command line.
    pub args: Vec<String>,
    /// Variables of its own, below the bottle's `env`.
    pub env: BTreeMap<String, EnvValue>,
}

impl Default for Provider {
    fn default() -> Self {
        Provider { name: PROVIDER_DEFAULT.to_owned(), command: None, args: Vec::new(), env: BTreeMap::new() }
    }
}

/// One bottle, checked.
#[derive(Clone, Debug)]
pub struct Bottle {
    /// The stem of its file.
    pub name: BottleName,
    /// Its file.
    pub file: PathBuf,
    /// What stands below the front matter.
    pub prose: String,
    /// `env`
    pub env: BTreeMap<String, EnvValue>,
    /// `agent_provider`
    pub provider: Provider,
    /// `git-gate.user`
    pub git_user: GitUser,
    /// `git-gate.repos`
    pub git_repos: Vec<GitRepo>,
    /// `egress.routes`, in order.
    pub routes: Vec<Route>,
    /// M25: whether the bottle gets the tools to ask for routes; by default it does.
    pub supervise: bool,
    /// `binds`
    pub binds: Vec<Bind>,
    /// `limits`
    pub limits: Limits,
}

/// Reads a bottle's file. The bottle is worth something only when `out` has got no error.
pub(crate) fn read(
    name: BottleName,
    file: &Path,
    bytes: &[u8],
    places: &Places,
    out: &mut Diagnostics,
) -> Option<Bottle> {
    let owner = format!("bottle `{name}`");
    let start = out.kept();
    let mut scope = Scope { file, owner: &owner, home: &places.home, carboy_home: &places.carboy_home, out };
    let bottle = read_in(&mut scope, name, bytes);
    out.sort_from(start);
    bottle
}

fn read_in(scope: &mut Scope<'_>, name: BottleName, bytes: &[u8]) -> Option<Bottle> {
    let (root, prose) = agent::front_matter(scope, bytes)?;
    let root = agent::root_map(scope, &root)?;
    scope.keys(&root, &keys::BOTTLE, "the front matter");
    Some(assemble(scope, name, prose, &root))
}

fn assemble(scope: &mut Scope<'_>, name: BottleName, prose: String, root: &[Entry]) -> Bottle {
    let gate = match find(root, "git-gate") {
        Some(node) => git_gate(scope, node),
        None => GitGate::default(),
    };
    let supervise = find(root, "supervise").and_then(|node| scope.boolean(node, "`supervise`")).unwrap_or(true);
    if let Some(node) = find(root, "workspace") {
        workspace(scope, node);
    }
    Bottle {
        name,
        file: scope.file.to_path_buf(),
        prose,
        env: find(root, "env").map(|node| env(scope, node, "`env`")).unwrap_or_default(),
        provider: find(root, "agent_provider").map(|node| provider(scope, node)).unwrap_or_default(),
        git_user: gate.user,
        git_repos: gate.repos,
        routes: find(root, "egress").map(|node| egress::egress(scope, node)).unwrap_or_default(),
        supervise,
        binds: find(root, "binds").map(|node| host_paths::binds(scope, node)).unwrap_or_default(),
        limits: find(root, "limits").map(|node| limits::limits(scope, node)).unwrap_or_default(),
    }
}

fn workspace(scope: &mut Scope<'_>, node: &Node) {
    match scope.text(node, "`workspace`") {
        Some("direct") | None => {}
        Some("overlay") => {
            let message = format!("`workspace: overlay` of {} is not available in this version", scope.owner);
            let fix = "remove `workspace`; the working directory is then written to directly";
            scope.error(node.at, Code::NotAvailable, message, fix);
        }
        Some(other) => {
            let message = format!("`workspace` of {} is {}", scope.owner, excerpt(other));
            scope.error(node.at, Code::BadValue, message, "use `direct`, or remove the key");
        }
    }
}

/// A map of variables (M17, M18).
fn env(scope: &mut Scope<'_>, node: &Node, what: &str) -> BTreeMap<String, EnvValue> {
    let mut env = BTreeMap::new();
    let Some(entries) = scope.map(node, what) else { return env };
    if entries.len() > ENV_MAX {
        let message = format!("{what} of {} has {} variables, more than {ENV_MAX}", scope.owner, entries.len());
        scope.error(node.at, Code::TooComplex, message, "remove some");
        return env;
    }
    for entry in entries {
        let first_fits = entry.key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first_fits || !entry.key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let message = format!("{what} of {} has a variable named {}", scope.owner, excerpt(&entry.key));
            let fix = "use letters, digits and `_`, not beginning with a digit";
            scope.error(entry.key_at, Code::BadName, message, fix);
        }
        if let Some(value) = env_value(scope, entry, what) {
            env.insert(entry.key.clone(), value);
        }
    }
    env
}

fn env_value(scope: &mut Scope<'_>, entry: &Entry, what: &str) -> Option<EnvValue> {
    let (kind, quoted) = match &entry.value.value {
        Value::Text(text) => {
            return match text.strip_prefix('?').map(str::trim) {
                None => Some(EnvValue::Set(text.clone())),
                Some("") => {
                    let message = format!("variable `{}` in {what} of {} asks nothing", entry.key, scope.owner);
                    scope.error(entry.value.at, Code::BadValue, message, "write what to ask: \"?<message>\"");
                    None
                }
                Some(message) => Some(EnvValue::Prompt(message.to_owned())),
            };
        }
        Value::Invalid => return None,
        Value::Null => ("empty", Some(String::new())),
        Value::Bool(value) => ("a boolean", Some(value.to_string())),
        Value::Int(number) => ("a number", Some(number.to_string())),
        Value::List(_) => ("a list", None),
        Value::Map(_) => ("a map", None),
    };
    let message = format!("variable {} in {what} of {} is {kind}, not text", excerpt(&entry.key), scope.owner);
    let text = quoted.map_or(String::from("write text"), |text| format!("write \"{text}\" in quotes"));
    let fix = format!("{text}; or \"?<message>\" to be asked at launch");
    scope.error(entry.value.at, Code::WrongType, message, fix);
    None
}

/// `agent_provider`: a name, or `{name, command, args, env}`.
fn provider(scope: &mut Scope<'_>, node: &Node) -> Provider {
    let mut read = Provider::default();
    let (name, entries): (&Node, &[Entry]) = match &node.value {
        Value::Text(_) => (node, &[]),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) | Value::Invalid => {
            let Some(entries) = scope.map(node, "`agent_provider`") else { return read };
            scope.keys(entries, &keys::PROVIDER, "`agent_provider`");
            let Some(name) = find(entries, "name") else {
                scope.missing(node.at, "name", "`agent_provider`", "add `name: claude`");
                return read;
            };
            (name, entries)
        }
    };
    if let Some(text) = scope.text(name, "`agent_provider`") {
        text.clone_into(&mut read.name);
    }
    if let Some(node) = find(entries, "command") {
        read.command = scope.text(node, "`agent_provider.command`").map(str::to_owned);
    }
    if let Some(node) = find(entries, "args") {
        let texts = scope.texts(node, "`agent_provider.args`").unwrap_or_default();
        read.args = texts.into_iter().map(|(text, _)| text.to_owned()).collect();
    }
    if let Some(node) = find(entries, "env") {
        read.env = env(scope, node, "`agent_provider.env`");
    }
    provider_is_startable(scope, &read, entries, name.at);
    read
}

fn provider_is_startable(scope: &mut Scope<'_>, read: &Provider, entries: &[Entry], at: Position) {
    let built_in = PROVIDERS_BUILT_IN.contains(&read.name.as_str());
    if !built_in && find(entries, "command").is_none() {
        let message = format!(
            "`agent_provider` of {} is {}, which carboy cannot start by itself",
            scope.owner,
            excerpt(&read.name)
        );
        scope.error(at, Code::BadValue, message, "use `claude` or `codex`, or add `command: PROGRAM`");
    }
    if let (Some(command), Some(node)) = (&read.command, find(entries, "command"))
        && (command.is_empty() || command.contains(' '))
    {
        let message = format!("`agent_provider.command` of {} is {}", scope.owner, excerpt(command));
        scope.error(node.at, Code::BadValue, message, "write the program alone; its arguments go under `args`");
    }
}
