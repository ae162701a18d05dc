//! A proposal: what of all that was found goes into a bottle's file, and what stands there as a comment.
//!
//! *Must never* propose a bind or a command because a file of the project asks for it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use carboy_egress::standing::{Standing, standing_of};
use carboy_manifest::edit::settings::{NewEntry, Tls};
use carboy_manifest::starter::{BindLine, PresetLine, VariableLine};
use serde::Serialize;

use super::Surroundings;
use super::agents::Inside;
use super::registries::address::{Extent, Scheme};
use super::registries::{Configured, Manager, Registry, Whose, configured};
use super::toolchains::{Toolchain, of_manager, uv};
use crate::inside::PATH_INSIDE;

/// Longest wait for the address of a registry.
const RESOLVE_WAIT_MAX: Duration = Duration::from_secs(3);
/// The preset for reading from GitHub.
pub const GITHUB_READ: &str = "github-read";

/// What one preset would take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// `npm`, `github-read` …
    pub preset: String,
    /// Entries of `presets`: hosts of private networks stand in one of their own.
    pub lines: Vec<PresetLine>,
    /// Entries that the project's own files ask for: they are shown, and opened by a person alone.
    pub asked_by_project: Vec<PresetLine>,
    /// Variables.
    pub env: Vec<VariableLine>,
    /// Binds: toolchain and configuration.
    pub binds: Vec<BindLine>,
    /// Directories for `PATH`.
    pub path: Vec<PathBuf>,
    /// Registries that only an entry of the settings' `upstreams` opens.
    pub pinned: Vec<Pinned>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// A registry at an address that no route opens by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pinned {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where it is.
    pub address: IpAddr,
    /// Whether by TLS.
    pub tls: bool,
}

impl Pinned {
    /// As an entry of `upstreams`.
    pub fn entry(&self) -> NewEntry {
        let (key, tls) = match (self.tls, self.port) {
            (true, 443) => (self.host.clone(), Tls::Yes),
            (true, port) => (format!("{}:{port}", self.host), Tls::Yes),
            (false, port) => (format!("{}:{port}", self.host), Tls::No),
        };
        let why = format!("a registry: {} is an address that no route opens by itself", self.address);
        NewEntry::upstream(&key, SocketAddr::new(self.address, self.port), tls, &why)
    }
}

impl Proposal {
    fn new(preset: &str) -> Proposal {
        Proposal {
            preset: preset.to_owned(),
            lines: vec![],
            asked_by_project: vec![],
            env: vec![],
            binds: vec![],
            path: vec![],
            pinned: vec![],
            notes: vec![],
        }
    }

    /// For reading from GitHub.
    pub fn github() -> Proposal {
        let why = vec!["GitHub, read-only: clone, fetch, archives; public repositories".to_owned()];
        let line = PresetLine { name: GITHUB_READ.into(), hosts: vec![], private: false, why };
        Proposal { lines: vec![line], ..Proposal::new(GITHUB_READ) }
    }

    /// For one package manager; `None` when it is not installed.
    pub fn of_manager(host: &Surroundings, manager: Manager) -> Option<Proposal> {
        let found = configured(host, manager)?;
        let mut proposal = Proposal::new(manager.name());
        proposal.add_registries(&found);
        proposal.env.extend(found.env);
        proposal.binds.extend(found.binds);
        proposal.notes.extend(found.notes);
        for toolchain in of_manager(host, manager).into_iter().chain(uv(host).filter(|_| manager == Manager::Pip)) {
            proposal.add_toolchain(toolchain);
        }
        for bind in &proposal.binds {
            if let Some(why) = host.refused(&bind.source) {
                proposal.notes.push(format!("{} is not shown: {why}", bind.source.display()));
            }
        }
        proposal.binds.retain(|bind| host.refused(&bind.source).is_none());
        Some(proposal)
    }

    fn add_registries(&mut self, found: &Configured) {
        for registry in &found.registries {
            let address = &registry.address;
            let standing = standing_of(&address.host, address.port, RESOLVE_WAIT_MAX);
            self.add_registry(found.manager, registry, standing);
        }
    }

    fn add_registry(&mut self, manager: Manager, registry: &Registry, standing: Standing) {
        let address = &registry.address;
        let extent = match manager {
            Manager::Cargo | Manager::Go => Extent::Path,
            // What they hand out may stand beside the index.
            Manager::Npm | Manager::Pip | Manager::Apt => Extent::Host,
        };
        let spec = address.spec(extent);
        let mut why = format!("{}: {}", registry.said, address.url());
        if address.scheme == Scheme::Http {
            why.push_str(" (plain text: anybody on the way can change what is downloaded)");
        }
        let private = match standing {
            Standing::Public => false,
            Standing::Unknown => {
                self.notes.push(format!("{}: {} cannot be resolved from here now", manager.name(), address.host));
                false
            }
            Standing::Private(ip) => {
                why.push_str(&format!("; {ip}, an address of a private network"));
                true
            }
            Standing::Loopback(ip) => {
                let next = format!(
                    "`forward: {{{}: \"{}\"}}` brings it into the bottle",
                    address.port,
                    SocketAddr::new(ip, address.port)
                );
                self.notes.push(format!(
                    "{}: {} is this machine, which no route opens; {next}",
                    manager.name(),
                    address.host
                ));
                return;
            }
            Standing::Special(ip) => {
                if registry.whose == Whose::Person {
                    let tls = address.scheme == Scheme::Https;
                    let pinned = Pinned { host: address.host.clone(), port: address.port, address: ip, tls };
                    self.pinned.extend(Some(pinned).filter(|pinned| !self.pinned.contains(pinned)));
                }
                why.push_str(&format!("; at {ip}, reached where `upstreams` of settings.yml names it"));
                false
            }
        };
        let lines = match registry.whose {
            Whose::Person => &mut self.lines,
            Whose::Project => &mut self.asked_by_project,
        };
        match lines.iter_mut().find(|line| line.private == private) {
            Some(line) => {
                line.why.push(why);
                add_spec(&mut line.hosts, spec);
            }
            None => {
                lines.push(PresetLine { name: manager.name().into(), hosts: vec![spec], private, why: vec![why] });
            }
        }
    }

    fn add_toolchain(&mut self, toolchain: Toolchain) {
        if let Some(why) = toolchain.refused {
            self.notes.push(format!("{} cannot be shown to a bottle: {why}", toolchain.name));
            return;
        }
        self.binds.extend(toolchain.binds);
        self.path.extend(toolchain.path);
    }
}

/// One more host; what is below another that is there already is not said again.
fn add_spec(hosts: &mut Vec<String>, spec: String) {
    // `r.example:443/x` and `r.example/x` are the same.
    let covers =
        |wide: &str, narrow: &str| wide == narrow || narrow.strip_prefix(wide).is_some_and(|r| r.starts_with('/'));
    if hosts.iter().any(|known| covers(known, &spec)) {
        return;
    }
    hosts.retain(|known| !covers(&spec, known));
    hosts.push(spec);
}

/// `PATH` inside with these directories before the usual ones; `None` when there are none.
pub fn path_variable(dirs: &[PathBuf]) -> Option<VariableLine> {
    let mut parts: Vec<&str> = Vec::new();
    for dir in dirs.iter().filter_map(|dir| dir.to_str()).filter(|dir| !dir.contains(':')) {
        if !parts.contains(&dir) {
            parts.push(dir);
        }
    }
    if parts.is_empty() {
        return None;
    }
    parts.push(PATH_INSIDE);
    Some(VariableLine { name: "PATH".into(), value: parts.join(":"), why: "toolchains first".into() })
}

/// The binds of an agent and of proposals; each place inside once.
pub fn binds_of<'p>(inside: Option<&Inside>, proposals: impl IntoIterator<Item = &'p Proposal>) -> Vec<BindLine> {
    let agents = inside.into_iter().flat_map(|inside| &inside.binds);
    let mut binds: Vec<BindLine> = Vec::new();
    for bind in agents.chain(proposals.into_iter().flat_map(|proposal| &proposal.binds)) {
        let place = |bind: &BindLine| bind.target.clone().unwrap_or_else(|| bind.source.display().to_string());
        if !binds.iter().any(|known| place(known) == place(bind)) {
            binds.push(bind.clone());
        }
    }
    binds
}
