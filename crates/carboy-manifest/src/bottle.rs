//! A bottle's file: what may leave, what is visible, what is bounded; or a part of that, when it extends another.

use std::collections::BTreeMap;
use std::path::Path;

use carboy_core::ids::BottleName;
use carboy_core::plan::{Bind, Forward, Image, Publish};
use serde::Serialize;

use crate::budget::{self, BottleScope, TermsPart};
use crate::diagnostic::{Code, Diagnostics, Position, excerpt, listed};
use crate::egress::EgressPart;
use crate::files::Places;
use crate::git::{GitGate, git_gate};
use crate::image::Backend;
use crate::limits::LimitsPart;
use crate::origin::Said;
use crate::presets::Preset;
use crate::provider::{EnvValue, Provider};
use crate::providers::BuiltIn;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};
use crate::{agent, egress, host_paths, image, keys, limits, ports, presets};

/// Most variables of a bottle.
pub const ENV_MAX: usize = 500;

/// `workspace`: how the working directory is given in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workspace {
    /// It is written to directly.
    #[default]
    Direct,
    /// What is written is kept apart until somebody applies it.
    Overlay,
}

/// What one bottle file says, or what several say together: every value with its place, nothing filled in.
/// `merge` puts two together, `whole` makes a bottle of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    /// `extends`, in order; empty in a merged one.
    pub(crate) extends: Vec<Said<BottleName>>,
    /// `env`
    pub(crate) env: BTreeMap<String, Said<EnvValue>>,
    /// `agent_provider`
    pub(crate) provider: Option<Said<Provider>>,
    /// `git-gate`
    pub(crate) gate: GitGate,
    /// `egress`
    pub(crate) egress: EgressPart,
    /// `presets`
    pub(crate) presets: Vec<Said<Preset>>,
    /// M25: whether the bottle gets the tools to ask for routes.
    pub(crate) supervise: Option<Said<bool>>,
    /// `binds`
    pub(crate) binds: Vec<Said<Bind>>,
    /// `limits`
    pub(crate) limits: LimitsPart,
    /// `workspace`
    pub(crate) workspace: Option<Said<Workspace>>,
    /// `publish`
    pub(crate) publish: Vec<Said<Publish>>,
    /// `forward`
    pub(crate) forward: Vec<Said<Forward>>,
    /// `image`
    pub(crate) image: Option<Said<Image>>,
    /// `backend`
    pub(crate) backend: Option<Said<Backend>>,
    /// `budget`, `ceiling`, `window` and `count` of this file and of those that it stands on, each by itself, nearest
    /// first.
    pub(crate) scopes: Vec<BottleScope>,
    /// `gate`, `overrun`, `shutdown`, `warn`
    pub(crate) terms: TermsPart,
}

/// Reads a bottle's file. What is read is worth something only when `out` has got no error.
pub(crate) fn read(name: &BottleName, file: &Path, bytes: &[u8], places: &Places, out: &mut Diagnostics) -> Part {
    let owner = format!("bottle `{name}`");
    let start = out.kept();
    let mut scope = Scope { file, owner: &owner, home: &places.home, carboy_home: &places.carboy_home, out };
    let part = read_in(&mut scope, name, bytes).unwrap_or_default();
    out.sort_from(start);
    part
}

fn read_in(scope: &mut Scope<'_>, name: &BottleName, bytes: &[u8]) -> Option<Part> {
    let (root, _prose) = agent::front_matter(scope, bytes)?;
    let root = agent::root_map(scope, &root)?;
    scope.keys(&root, &keys::BOTTLE, "the front matter");
    let supervise = find(&root, "supervise").and_then(|node| Some((scope.boolean(node, "`supervise`")?, node.at)));
    let provider = find(&root, "agent_provider").map(|node| (provider(scope, node), node.at));
    Some(Part {
        extends: find(&root, "extends").map(|node| extends(scope, node)).unwrap_or_default(),
        env: find(&root, "env").map(|node| env(scope, node, "`env`")).unwrap_or_default(),
        provider: provider.map(|(provider, at)| scope.said(provider, at)),
        gate: find(&root, "git-gate").map(|node| git_gate(scope, node)).unwrap_or_default(),
        egress: find(&root, "egress").map(|node| egress::egress(scope, node)).unwrap_or_default(),
        presets: find(&root, "presets").map(|node| presets::presets(scope, node)).unwrap_or_default(),
        supervise: supervise.map(|(value, at)| scope.said(value, at)),
        binds: find(&root, "binds").map(|node| host_paths::binds(scope, node)).unwrap_or_default(),
        limits: find(&root, "limits").map(|node| limits::limits(scope, node)).unwrap_or_default(),
        workspace: find(&root, "workspace").and_then(|node| workspace(scope, node)),
        publish: find(&root, "publish").map(|node| ports::publish(scope, node)).unwrap_or_default(),
        forward: find(&root, "forward").map(|node| ports::forward(scope, node)).unwrap_or_default(),
        image: find(&root, "image").and_then(|node| image::image(scope, node)),
        backend: find(&root, "backend").and_then(|node| image::backend(scope, node)),
        scopes: vec![BottleScope { name: name.clone(), caps: budget::caps(scope, &root) }],
        terms: budget::terms(scope, &root),
    })
}

/// `extends`: one name, or a list in which later ones win (M26).
fn extends(scope: &mut Scope<'_>, node: &Node) -> Vec<Said<BottleName>> {
    let nodes = match &node.value {
        Value::Text(_) => std::slice::from_ref(node),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) | Value::Invalid => {
            scope.filled(node, "`extends`").unwrap_or_default()
        }
    };
    let mut parents: Vec<Said<BottleName>> = Vec::new();
    for node in nodes {
        let Some(text) = scope.text(node, "`extends`") else { continue };
        match BottleName::parse(text) {
            Ok(name) if parents.iter().any(|known| known.value == name) => {
                let message = format!("`extends` of {} names `{name}` twice", scope.owner);
                scope.error(node.at, Code::BadValue, message, "keep one of the two; the later one wins");
            }
            Ok(name) => parents.push(scope.said(name, node.at)),
            Err(error) => {
                let message = format!("`extends` of {}: {error}", scope.owner);
                scope.error(node.at, Code::BadName, message, "write the name of a file under bottles/, without `.md`");
            }
        }
    }
    parents
}

fn workspace(scope: &mut Scope<'_>, node: &Node) -> Option<Said<Workspace>> {
    match scope.text(node, "`workspace`")? {
        "direct" => return Some(scope.said(Workspace::Direct, node.at)),
        "overlay" => return Some(scope.said(Workspace::Overlay, node.at)),
        other => {
            let message = format!("`workspace` of {} is {}", scope.owner, excerpt(other));
            scope.error(node.at, Code::BadValue, message, "use `direct` or `overlay`, or remove the key");
        }
    }
    None
}

/// A map of variables (M17, M18).
fn env(scope: &mut Scope<'_>, node: &Node, what: &str) -> BTreeMap<String, Said<EnvValue>> {
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
            env.insert(entry.key.clone(), scope.said(value, entry.key_at));
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
        let variables = env(scope, node, "`agent_provider.env`");
        read.env = variables.into_iter().map(|(name, said)| (name, said.value)).collect();
    }
    provider_is_startable(scope, &read, entries, name.at);
    read
}

fn provider_is_startable(scope: &mut Scope<'_>, read: &Provider, entries: &[Entry], at: Position) {
    let built_in = BuiltIn::named(&read.name).is_some();
    if !built_in && find(entries, "command").is_none() {
        let message = format!(
            "`agent_provider` of {} is {}, which carboy cannot start by itself",
            scope.owner,
            excerpt(&read.name)
        );
        scope.error(
            at,
            Code::BadValue,
            message,
            format!("use {}, or add `command: PROGRAM`", listed(BuiltIn::ALL.map(BuiltIn::name))),
        );
    }
    if let (Some(command), Some(node)) = (&read.command, find(entries, "command"))
        && (command.is_empty() || command.contains(' '))
    {
        let message = format!("`agent_provider.command` of {} is {}", scope.owner, excerpt(command));
        scope.error(node.at, Code::BadValue, message, "write the program alone; its arguments go under `args`");
    }
}
