//! `settings.yml`: where secrets come from, where hosts are really reached, what capture is acceptable.
//!
//! It names secrets and never holds one. It is the operator's file: nothing under a working directory is read as one.

mod notify;
mod system;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use carboy_core::host::Host;
use carboy_core::ids::SecretName;
use carboy_core::plan::CapturePolicy;
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use serde::Serialize;

pub use crate::origin::{Origin, Sourced};
pub use notify::{Notify, Webhook};

use crate::budget::{self, HostBudgets, SettingsPart};
use crate::chat::{ChatSettings, settings as chat_settings};
use crate::diagnostic::{Code, Diagnostics, Position, excerpt};
use crate::files::{ManifestFiles, Places};
use crate::frontmatter::{FrontMatterError, text_of};
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};
use crate::{agent, host_paths, keys};

/// Most bytes of a CA file.
pub const CA_BYTES_MAX: u64 = 1024 * 1024;

/// Longest JSON pointer of a secret.
pub const POINTER_BYTES_MAX: usize = 1024;

/// Where a secret's value is got from, outside and at launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretFrom {
    /// A variable of carboy's own environment.
    Env(String),
    /// The first line of a file.
    File(PathBuf),
    /// One text of a JSON file, such as the session that a program keeps.
    #[serde(rename = "json_file")]
    JsonFile {
        /// The file.
        path: PathBuf,
        /// Where in it: RFC 6901, as in `/tokens/access_token`.
        pointer: String,
    },
    /// The first line that a command prints: program and arguments, no shell.
    Command(Vec<String>),
}

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `secrets`
    pub secrets: BTreeMap<SecretName, Sourced<SecretFrom>>,
    /// `upstreams`, CA files read.
    pub upstreams: Upstreams,
    /// Where each of them was said.
    pub upstream_origins: BTreeMap<(Host, Option<u16>), Origin>,
    /// Files that were read, CA files included.
    pub sources: Vec<PathBuf>,
    /// `capture`
    pub capture: Sourced<CapturePolicy>,
    /// `bottle_uid`: host uid and gid for bottles when carboy runs as root.
    pub bottle_uid: Sourced<Option<u32>>,
    /// `notify`
    pub notify: Sourced<Notify>,
    /// `budget` and what goes with it.
    pub(crate) budgets: HostBudgets,
    /// `chat`
    pub(crate) chat: ChatSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            secrets: BTreeMap::new(),
            upstreams: Upstreams::default(),
            upstream_origins: BTreeMap::new(),
            sources: Vec::new(),
            capture: Sourced::default_of(CapturePolicy::default()),
            bottle_uid: Sourced::default_of(None),
            notify: Sourced::default_of(Notify::default()),
            budgets: HostBudgets::default(),
            chat: ChatSettings::default(),
        }
    }
}

impl Settings {
    /// Where this secret comes from: as the settings say, else the variable of the same name.
    pub fn secret(&self, name: &SecretName) -> SecretFrom {
        self.secrets.get(name).map_or_else(|| SecretFrom::Env(name.to_string()), |found| found.value.clone())
    }
}

/// Reads the settings of the user and, over them, those of the machine; without a file they are the defaults.
pub(crate) fn load(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) -> Settings {
    let system = system::load(files, places, out);
    let user = of_user(files, places, out);
    match system {
        Some(system) => system::over(system, user),
        None => user,
    }
}

fn of_user(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) -> Settings {
    let file = places.settings();
    let Some(bytes) = crate::lookup::read_file(files, &file, out) else { return Settings::default() };
    let start = out.kept();
    let mut scope =
        Scope { file: &file, owner: "settings.yml", home: &places.home, carboy_home: &places.carboy_home, out };
    let settings = read_in(&mut scope, files, &bytes);
    out.sort_from(start);
    settings
}

fn read_in(scope: &mut Scope<'_>, files: &dyn ManifestFiles, bytes: &[u8]) -> Settings {
    let mut settings = Settings { sources: vec![scope.file.to_path_buf()], ..Settings::default() };
    let text = match text_of(bytes) {
        Ok(text) => text,
        Err(error @ (FrontMatterError::NoStart | FrontMatterError::NoEnd)) => {
            scope.error(Position::START, Code::FrontMatter, error.to_string(), "write plain YAML");
            return settings;
        }
        Err(error @ FrontMatterError::NotUtf8(at)) => {
            scope.error(at, Code::NotUtf8, error.to_string(), "save the file as UTF-8");
            return settings;
        }
    };
    let root = agent::document(scope, text, 1);
    let Some(root) = agent::root_map(scope, &root) else { return settings };
    scope.keys(&root, &keys::SETTINGS, "the file");
    if let Some(node) = find(&root, "secrets") {
        settings.secrets = secrets(scope, node);
    }
    if let Some(node) = find(&root, "upstreams") {
        upstreams(scope, files, node, &mut settings);
    }
    if let Some(node) = find(&root, "capture") {
        capture(scope, node, &mut settings);
    }
    if let Some(node) = find(&root, "bottle_uid") {
        // 0 would be the host's root inside; 4294967295 means "no change" to the kernel.
        let uid = scope.number(node, "`bottle_uid`", 1..=u32::MAX - 1);
        settings.bottle_uid = Sourced { value: uid, origin: origin(scope, node.at) };
    }
    if let Some(node) = find(&root, "notify")
        && let Some(value) = notify::notify(scope, node)
    {
        settings.notify = Sourced { value, origin: origin(scope, node.at) };
    }
    if let Some(node) = find(&root, "chat") {
        settings.chat = chat_settings(scope, node);
    }
    settings.budgets.own = SettingsPart { caps: budget::caps(scope, &root), terms: budget::terms(scope, &root) };
    settings
}

fn origin(scope: &Scope<'_>, at: Position) -> Origin {
    Origin::File { file: scope.file.to_path_buf(), line: at.line }
}

fn capture(scope: &mut Scope<'_>, node: &Node, settings: &mut Settings) {
    let Some(text) = scope.text(node, "`capture`") else { return };
    let value = match text {
        "t1" => CapturePolicy::RequireT1,
        "allow-t2" => CapturePolicy::AllowT2,
        "force-t2" => CapturePolicy::ForceT2,
        _ => {
            let message = format!("`capture` of settings.yml is {}", excerpt(text));
            scope.error(
                node.at,
                Code::BadValue,
                message,
                "use `t1` (every port is captured, or nothing starts), `allow-t2`, or `force-t2` to try it out",
            );
            return;
        }
    };
    settings.capture = Sourced { value, origin: origin(scope, node.at) };
}

fn secrets(scope: &mut Scope<'_>, node: &Node) -> BTreeMap<SecretName, Sourced<SecretFrom>> {
    let mut secrets = BTreeMap::new();
    for entry in scope.map(node, "`secrets`").unwrap_or_default() {
        let Ok(name) = SecretName::parse(&entry.key) else {
            // Not repeated: somebody may have written the secret itself.
            let message = "a key under `secrets` is not the name of a secret";
            let fix = "write a name such as ANTHROPIC_API_KEY (letters, digits, `_`)";
            scope.error(entry.key_at, Code::BadName, message, fix);
            continue;
        };
        if let Some(from) = secret(scope, &name, &entry.value) {
            let origin = origin(scope, entry.key_at);
            secrets.insert(name, Sourced { value: from, origin });
        }
    }
    secrets
}

fn secret(scope: &mut Scope<'_>, name: &SecretName, node: &Node) -> Option<SecretFrom> {
    let what = format!("secret `{name}`");
    let fix = "write one of {env: NAME}, {file: /path}, {file: /path, pointer: /key}, {command: [program, argument]}";
    if matches!(node.value, Value::Text(_) | Value::Int(_)) {
        // The likeliest mistake is the secret itself; the message must not print it.
        let message = format!("{what} of settings.yml says no place to get it from");
        scope.error(node.at, Code::WrongType, message, format!("{fix}; a secret never stands in this file"));
        return None;
    }
    let entries = scope.map(node, &what)?;
    scope.keys(entries, &keys::SECRET, &what);
    if let (Some(file), Some(pointer), [_, _]) = (find(entries, "file"), find(entries, "pointer"), entries) {
        let (path, pointer) = (path(scope, file, &format!("`file` of {what}")), pointer_of(scope, pointer, &what));
        return Some(SecretFrom::JsonFile { path: path?, pointer: pointer? });
    }
    let [Entry { key, value, .. }] = entries else {
        scope.error(
            node.at,
            Code::BadValue,
            format!("{what} of settings.yml has {} sources, not one", entries.len()),
            fix,
        );
        return None;
    };
    match key.as_str() {
        "env" => {
            let variable = crate::egress::secret_name(scope, value, &format!("`env` of {what}"))?;
            Some(SecretFrom::Env(variable.to_string()))
        }
        "file" => path(scope, value, &format!("`file` of {what}")).map(SecretFrom::File),
        "command" => {
            let words = scope.texts(value, &format!("`command` of {what}"))?;
            if words.first().is_none_or(|(program, _)| program.is_empty()) {
                let message = format!("`command` of {what} names no program");
                scope.error(value.at, Code::BadValue, message, "write [program, argument, …]");
                return None;
            }
            Some(SecretFrom::Command(words.into_iter().map(|(word, _)| word.to_owned()).collect()))
        }
        "pointer" => {
            scope.missing(node.at, "file", &what, "write {file: /path, pointer: /key}");
            None
        }
        _ => None,
    }
}

/// RFC 6901; not the whole document, which is no secret but a file of them.
fn pointer_of(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<String> {
    let text = scope.text(node, &format!("`pointer` of {what}"))?;
    let escaped = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if text.starts_with('/') && escaped && text.len() <= POINTER_BYTES_MAX {
        return Some(text.to_owned());
    }
    let message = format!("`pointer` of {what} of settings.yml is {}", excerpt(text));
    let fix = "write a JSON pointer: `/` before each key, as in /tokens/access_token (`~1` for a `/` and `~0` for a `~` \
               in a key)";
    scope.error(node.at, Code::BadValue, message, fix);
    None
}

fn path(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<PathBuf> {
    let text = scope.text(node, what)?;
    let path = host_paths::expand(text, scope.home);
    if path.is_none() {
        let message = format!("{what} of settings.yml is {}", excerpt(text));
        scope.error(node.at, Code::BadValue, message, "use an absolute path, or one that begins with `~/`");
    }
    path
}

fn upstreams(scope: &mut Scope<'_>, files: &dyn ManifestFiles, node: &Node, settings: &mut Settings) {
    let mut seen = BTreeMap::new();
    for entry in scope.map(node, "`upstreams`").unwrap_or_default() {
        let what = format!("upstream {}", excerpt(&entry.key));
        let (host, port) = match Host::parse_authority(&entry.key) {
            Ok(found) => found,
            Err(error) => {
                let message = format!("{what} of settings.yml: {error}");
                scope.error(entry.key_at, Code::BadHost, message, "write one host, or \"host:port\"; no `*`");
                continue;
            }
        };
        if let Some(line) = seen.insert((host.clone(), port), entry.key_at.line) {
            let message = format!("{what} of settings.yml is the same as that on line {line}");
            scope.error(entry.key_at, Code::DuplicateKey, message, "keep one of the two");
        }
        if let Some(upstream) = upstream(scope, files, &what, entry, settings) {
            settings.upstream_origins.insert((host.clone(), port), origin(scope, entry.key_at));
            settings.upstreams.insert(host, port, upstream);
        }
    }
}

fn upstream(
    scope: &mut Scope<'_>,
    files: &dyn ManifestFiles,
    what: &str,
    entry: &Entry,
    settings: &mut Settings,
) -> Option<Upstream> {
    let entries = scope.map(&entry.value, what)?;
    scope.keys(entries, &keys::UPSTREAM, what);
    let tls = find(entries, "tls").map_or(Some(true), |node| scope.boolean(node, &format!("`tls` of {what}")));
    let extra_ca_pem = match find(entries, "ca") {
        Some(node) if tls == Some(false) => {
            let message = format!("{what} of settings.yml has `ca` and `tls: false`");
            scope.error(node.at, Code::BadValue, message, "remove one of the two");
            None
        }
        Some(node) => ca(scope, files, what, node, settings),
        None => None,
    };
    let Some(node) = find(entries, "address") else {
        scope.missing(entry.key_at, "address", what, "add `address: \"127.0.0.1:8443\"`");
        return None;
    };
    let text = scope.text(node, &format!("`address` of {what}"))?;
    let Some(address) = socket_address(text) else {
        let message = format!("`address` of {what} of settings.yml is {}", excerpt(text));
        let fix = "write \"IP:PORT\" or \"[IPV6]:PORT\" (or localhost:PORT); a name here would be resolved by nobody";
        scope.error(node.at, Code::BadValue, message, fix);
        return None;
    };
    let transport = if tls? { Transport::Tls } else { Transport::Plain };
    Some(Upstream { address, transport, extra_ca_pem })
}

fn socket_address(text: &str) -> Option<SocketAddr> {
    let address = match text.strip_prefix("localhost:") {
        Some(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?),
        None => text.parse().ok()?,
    };
    let dialled = address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast();
    dialled.then_some(address)
}

/// The certificates of a PEM file, as text; whoever dials parses them.
fn ca(
    scope: &mut Scope<'_>,
    files: &dyn ManifestFiles,
    what: &str,
    node: &Node,
    settings: &mut Settings,
) -> Option<String> {
    let file = path(scope, node, &format!("`ca` of {what}"))?;
    let fail = |scope: &mut Scope<'_>, why: &str| {
        let message = format!("`ca` of {what} of settings.yml, {}: {why}", file.display());
        scope.error(node.at, Code::FileUnreadable, message, "give a PEM file of certificates");
    };
    settings.sources.push(file.clone());
    let bytes = match files.read(Path::new(&file), CA_BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            fail(scope, "there is no such file");
            return None;
        }
        Err(error) => {
            fail(scope, &error.to_string());
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") && !pem.contains("PRIVATE KEY-----") => Some(pem),
        Ok(pem) if pem.contains("PRIVATE KEY-----") => {
            fail(scope, "it holds a private key, which has no business here");
            None
        }
        Ok(_) | Err(_) => {
            fail(scope, "it holds no PEM certificate");
            None
        }
    }
}
