//! `carboy check`: everything is read and checked at once (M8), and shown as people and machines want it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use carboy_core::ids::{AgentName, BottleName, SecretName};
use carboy_core::plan::{Access, CapturePolicy};
use carboy_core::route::{AuthScheme, GitAccess, OnMatch, Reach, Route};
use carboy_core::upstream::Transport;
use serde::Serialize;

use crate::bottle::{EnvValue, Provider};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, excerpt};
use crate::effective::{
    Effective, Manifest, Request, no_such_bottle, read_file, stems, warn_foreign, warn_ignored_bottles,
};
use crate::files::{ManifestFiles, Places};
use crate::git::GitUser;
use crate::settings::{Origin, SecretFrom};
use crate::{agent, bottle, settings};

/// What a check found. As JSON: `{ok, files, diagnostics, effective?}`.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// No error anywhere.
    pub ok: bool,
    /// Every file that was read.
    pub files: Vec<CheckedFile>,
    /// Every finding.
    pub diagnostics: Diagnostics,
    /// What a run would use; when one was asked for and is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective: Option<EffectiveView>,
}

/// One file of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedFile {
    /// Where.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// No error in it.
    pub ok: bool,
}

/// Kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A bottle.
    Bottle,
    /// An agent.
    Agent,
    /// The settings.
    Settings,
}

/// Checks all bottles, agents and settings, and the agent and bottle of `request` when it names one.
pub fn check(files: &dyn ManifestFiles, request: &Request) -> CheckReport {
    let places = &request.places;
    let mut out = Diagnostics::default();
    let mut checked = Vec::new();
    warn_foreign(files, places, &mut out);
    warn_ignored_bottles(files, places, &mut out);
    settings::load(files, places, &mut out);
    if files.exists(&places.settings()) {
        checked.push(CheckedFile { path: places.settings(), kind: FileKind::Settings, ok: !out.has_errors() });
    }
    bottles(files, places, &mut checked, &mut out);
    agents(files, places, &mut checked, &mut out);
    let mut effective = None;
    if request.agent.is_some() || !request.bottles.is_empty() {
        match Manifest::load(files, request) {
            Ok(loaded) => effective = Some(loaded.view()),
            // Errors of files are in the list already; those of the request are not.
            Err(errors) => errors.iter().for_each(|diagnostic| push_once(&mut out, diagnostic)),
        }
    }
    CheckReport { ok: !out.has_errors(), files: checked, diagnostics: out, effective }
}

fn push_once(out: &mut Diagnostics, diagnostic: &Diagnostic) {
    if !out.iter().any(|known| known == diagnostic) {
        out.push(diagnostic.clone());
    }
}

fn bottles(files: &dyn ManifestFiles, places: &Places, checked: &mut Vec<CheckedFile>, out: &mut Diagnostics) {
    for stem in stems(files, &places.bottles(), out) {
        let path = places.bottles().join(format!("{stem}.md"));
        match BottleName::parse(&stem) {
            Ok(name) => {
                let before = out.error_count();
                if let Some(bytes) = read_file(files, &path, out) {
                    bottle::read(name, &path, &bytes, places, out);
                }
                checked.push(CheckedFile { path, kind: FileKind::Bottle, ok: out.error_count() == before });
            }
            Err(error) => ignored(path, &error.to_string(), out),
        }
    }
}

fn agents(files: &dyn ManifestFiles, places: &Places, checked: &mut Vec<CheckedFile>, out: &mut Diagnostics) {
    for root in crate::effective::agent_roots(files, places) {
        for stem in stems(files, &root, out) {
            let path = root.join(format!("{stem}.md"));
            match AgentName::parse(&stem) {
                Ok(name) => {
                    let before = out.error_count();
                    one_agent(files, places, name, &path, out);
                    checked.push(CheckedFile { path, kind: FileKind::Agent, ok: out.error_count() == before });
                }
                Err(error) => ignored(path, &error.to_string(), out),
            }
        }
    }
}

fn one_agent(
    files: &dyn ManifestFiles,
    places: &Places,
    name: AgentName,
    path: &std::path::Path,
    out: &mut Diagnostics,
) {
    let Some(bytes) = read_file(files, path, out) else { return };
    let Some(agent) = agent::read(name, path, &bytes, places, out) else { return };
    if let Some((bottle, at)) = agent.bottle
        && !files.exists(&places.bottles().join(format!("{bottle}.md")))
    {
        out.push(no_such_bottle(files, places, &bottle, Some((path.to_path_buf(), at))));
    }
}

fn ignored(path: PathBuf, why: &str, out: &mut Diagnostics) {
    let message = format!("{} is ignored: {why}", excerpt(&path.file_name().unwrap_or_default().to_string_lossy()));
    out.push(
        Diagnostic::warning(Code::FileIgnored, message, "rename the file, or move it elsewhere")
            .at(&path, Position::START),
    );
}

/// [`Effective`] as `check --json` shows it: names of secrets and where they come from, never a value of one.
#[derive(Clone, Debug, Serialize)]
pub struct EffectiveView {
    /// The agent.
    pub agent: Option<AgentName>,
    /// The bottle.
    pub bottle: BottleName,
    /// Files that it came from.
    pub sources: Vec<PathBuf>,
    /// Variables; `{set: text}` or `{prompt: message}`.
    pub env: BTreeMap<String, EnvValue>,
    /// Routes in order.
    pub routes: Vec<RouteView>,
    /// Host paths that are visible.
    pub binds: Vec<BindView>,
    /// Bounds.
    pub limits: LimitsView,
    /// Who commits.
    pub git_user: GitUser,
    /// May it ask for routes?
    pub supervise: bool,
    /// The agent program.
    pub provider: Provider,
    /// Each secret that a route needs.
    pub secrets: BTreeMap<SecretName, SecretView>,
    /// Where hosts are really reached.
    pub upstreams: Vec<UpstreamView>,
    /// What capture is acceptable.
    pub capture: OriginView<&'static str>,
    /// Host uid of bottles when carboy runs as root.
    pub bottle_uid: OriginView<Option<u32>>,
}

/// A value with its origin.
#[derive(Clone, Debug, Serialize)]
pub struct OriginView<T> {
    /// The value.
    pub value: T,
    /// Where it was said.
    pub origin: Origin,
}

/// Where a secret comes from.
#[derive(Clone, Debug, Serialize)]
pub struct SecretView {
    /// Its source.
    pub source: SecretFrom,
    /// Where that was said.
    pub origin: Origin,
}

/// One route.
#[derive(Clone, Debug, Serialize)]
pub struct RouteView {
    /// `r1:api.example.org`
    pub id: String,
    /// Its host or zone.
    pub host: String,
    /// Its ports.
    pub ports: Vec<u16>,
    /// The header that is set, and how the secret is placed in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthView>,
    /// The wire format that is metered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meter: Option<String>,
    /// Requests: `GET,POST /v1/` and the like; empty means all but git.
    pub matches: Vec<String>,
    /// May git fetch?
    pub git_fetch: bool,
    /// May it resolve to private addresses?
    pub private: bool,
    /// Outbound detectors.
    pub outbound_detectors: Vec<&'static str>,
    /// Inbound detectors.
    pub inbound_detectors: Vec<&'static str>,
    /// What happens on an outbound match.
    pub outbound_on_match: &'static str,
    /// Largest request body, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes_max: Option<u64>,
}

/// A route's credential, without it.
#[derive(Clone, Debug, Serialize)]
pub struct AuthView {
    /// Header field, lower case.
    pub header: String,
    /// `Bearer`, `token`, `bare` or `anthropic-by-token`.
    pub scheme: &'static str,
    /// Name of the secret.
    pub secret: SecretName,
}

/// One bind.
#[derive(Clone, Debug, Serialize)]
pub struct BindView {
    /// Host path.
    pub source: PathBuf,
    /// Path inside.
    pub target: PathBuf,
    /// `ro` or `rw`.
    pub access: &'static str,
}

/// Bounds.
#[derive(Clone, Debug, Serialize)]
pub struct LimitsView {
    /// Bytes, or null for the host's own bound.
    pub memory_bytes_max: Option<u64>,
    /// Processes and threads.
    pub processes_max: u32,
    /// Open files per process.
    pub open_files_max: u32,
}

/// One override.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamView {
    /// The host that is asked for.
    pub host: String,
    /// The port that is asked for; null for all.
    pub port: Option<u16>,
    /// Where it is dialled.
    pub address: String,
    /// With TLS?
    pub tls: bool,
    /// Are further certificates trusted for it?
    pub extra_ca: bool,
}

impl Effective {
    /// As `check --json` shows it.
    pub fn view(&self) -> EffectiveView {
        let secrets = self.secrets().into_iter().map(|(name, source)| {
            let origin = self.settings.secrets.get(&name).map_or(Origin::Default, |found| found.origin.clone());
            (name, SecretView { source, origin })
        });
        let upstreams = self.settings.upstreams.iter().map(|(host, port, upstream)| UpstreamView {
            host: host.to_string(),
            port,
            address: upstream.address.to_string(),
            tls: upstream.transport == Transport::Tls,
            extra_ca: upstream.extra_ca_pem.is_some(),
        });
        let binds = self.binds.iter().map(|bind| BindView {
            source: bind.source.clone(),
            target: bind.target.clone(),
            access: match bind.access {
                Access::ReadOnly => "ro",
                Access::ReadWrite => "rw",
            },
        });
        EffectiveView {
            agent: self.agent.clone(),
            bottle: self.bottle.clone(),
            sources: self.sources.clone(),
            env: self.env.clone(),
            routes: self.routes.iter().map(RouteView::of).collect(),
            binds: binds.collect(),
            limits: LimitsView {
                memory_bytes_max: self.limits.memory_bytes_max,
                processes_max: self.limits.processes_max,
                open_files_max: self.limits.open_files_max,
            },
            git_user: self.git_user.clone(),
            supervise: self.supervise,
            provider: self.provider.clone(),
            secrets: secrets.collect(),
            upstreams: upstreams.collect(),
            capture: OriginView {
                value: match self.settings.capture.value {
                    CapturePolicy::RequireT1 => "t1",
                    CapturePolicy::AllowT2 => "allow-t2",
                    CapturePolicy::ForceT2 => "force-t2",
                },
                origin: self.settings.capture.origin.clone(),
            },
            bottle_uid: OriginView {
                value: self.settings.bottle_uid.value,
                origin: self.settings.bottle_uid.origin.clone(),
            },
        }
    }
}

impl RouteView {
    fn of(route: &Route) -> RouteView {
        RouteView {
            id: route.id.to_string(),
            host: route.host.to_string(),
            ports: route.ports.clone(),
            auth: route.auth.as_ref().map(|auth| AuthView {
                header: auth.header.clone(),
                scheme: match auth.scheme {
                    AuthScheme::Bearer => "Bearer",
                    AuthScheme::Token => "token",
                    AuthScheme::Bare => "bare",
                    AuthScheme::AnthropicByToken => "anthropic-by-token",
                },
                secret: auth.secret.clone(),
            }),
            meter: route.meter.as_ref().map(ToString::to_string),
            matches: route.matches.iter().map(crate::egress::describe_match).collect(),
            git_fetch: route.git == GitAccess::Fetch,
            private: route.reach == Reach::Private,
            outbound_detectors: route.dlp.outbound.iter().map(|detector| detector.as_str()).collect(),
            inbound_detectors: route.dlp.inbound.iter().map(|detector| detector.as_str()).collect(),
            outbound_on_match: match route.dlp.outbound_on_match {
                OnMatch::Block => "block",
                OnMatch::Redact => "redact",
                OnMatch::Supervise => "supervise",
            },
            body_bytes_max: route.body_bytes_max,
        }
    }
}
