//! A checked configuration as machines and people read it: `check --json`, and the question before a repository's agent
//! runs. Names of secrets and where they come from, never a value of one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use carboy_core::ids::{AgentName, BottleName, SecretName};
use carboy_core::plan::{Access, CapturePolicy, Forward, Image, Publish, Service};
use carboy_core::route::{AuthScheme, GitAccess, OnMatch, PlaceholderAuth, Reach, Route};
use carboy_core::upstream::Transport;
use serde::Serialize;

use crate::agent::RepositoryAgent;
use crate::bottle::Workspace;
use crate::budget::BudgetsView;
use crate::chat::ChatView;
use crate::effective::Effective;
use crate::git::GitRepo;
use crate::image::Backend;
use crate::origin::{Origin, Sourced};
use crate::provider::{EnvValue, Provider};
use crate::settings::{Notify, SecretFrom};
use crate::whole::RouteOrigin;

/// [`Effective`] as `check --json` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct EffectiveView {
    /// The agent.
    pub agent: Option<AgentName>,
    /// The name of the bottle that runs.
    pub bottle: BottleName,
    /// The bottles that it is made of, in order.
    pub bottles: Vec<BottleName>,
    /// What a chat agent is made of; set where its surroundings are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatView>,
    /// Files that it came from.
    pub sources: Vec<PathBuf>,
    /// The agent's file, when it is a repository's: it runs only after somebody has agreed to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository_agent: Option<RepositoryAgent>,
    /// Variables; `{set: text}` or `{prompt: message}`.
    pub env: BTreeMap<String, Sourced<EnvValue>>,
    /// Routes in order.
    pub routes: Vec<RouteView>,
    /// Host paths that are visible.
    pub binds: Vec<BindView>,
    /// M36: host paths that no bind shows, `~` for the user's home.
    pub never_visible: Vec<String>,
    /// Bounds.
    pub limits: LimitsView,
    /// Who commits.
    pub git_user: GitUserView,
    /// Repositories behind the gate.
    pub git_repos: Vec<GitRepoView>,
    /// `egress.log`, which changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_log: Option<Sourced<String>>,
    /// May it ask for routes?
    pub supervise: Sourced<bool>,
    /// The agent program.
    pub provider: Sourced<Provider>,
    /// How the working directory is given in.
    pub workspace: Sourced<Workspace>,
    /// Ports of the bottle that are reachable on the host.
    pub publish: Vec<PublishView>,
    /// Services of the host that are reachable inside.
    pub forward: Vec<ForwardView>,
    /// What the bottle sees as its system; null for the host's own.
    pub image: Sourced<Option<ImageView>>,
    /// What makes the bottle.
    pub backend: Sourced<Backend>,
    /// Budgets.
    pub budgets: BudgetsView,
    /// Each secret that a route needs.
    pub secrets: BTreeMap<SecretName, SecretView>,
    /// Where hosts are really reached.
    pub upstreams: Vec<UpstreamView>,
    /// What capture is acceptable.
    pub capture: Sourced<&'static str>,
    /// Host uid of bottles when carboy runs as root.
    pub bottle_uid: Sourced<Option<u32>>,
    /// How the operator hears that something waits.
    pub notify: Sourced<Notify>,
}

/// One published port.
#[derive(Clone, Debug, Serialize)]
pub struct PublishView {
    /// Where the host listens.
    pub listen: String,
    /// The port inside.
    pub inside: u16,
    /// Where it was said.
    pub origin: Origin,
}

/// One forwarded service.
#[derive(Clone, Debug, Serialize)]
pub struct ForwardView {
    /// The port inside.
    pub inside: u16,
    /// `IP:PORT`, or the path of a Unix socket.
    pub to: String,
    /// Where it was said.
    pub origin: Origin,
}

/// An image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageView {
    /// A root file system.
    Directory(PathBuf),
    /// An archive of one.
    Archive(PathBuf),
    /// What one is built from.
    Dockerfile(PathBuf),
}

impl From<&Image> for ImageView {
    fn from(image: &Image) -> Self {
        match image {
            Image::Directory(path) => ImageView::Directory(path.clone()),
            Image::Archive(path) => ImageView::Archive(path.clone()),
            Image::Dockerfile(path) => ImageView::Dockerfile(path.clone()),
        }
    }
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
    /// Placeholders that become real, and where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<CredentialView>,
    /// The wire format that is metered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meter: Option<String>,
    /// Requests: `GET,POST /v1/` and the like; empty means all but git.
    pub matches: Vec<String>,
    /// May git fetch?
    pub git_fetch: bool,
    /// May it resolve to private addresses?
    pub private: bool,
    /// May it carry WebSockets?
    pub websocket: bool,
    /// Outbound detectors.
    pub outbound_detectors: Vec<&'static str>,
    /// Inbound detectors.
    pub inbound_detectors: Vec<&'static str>,
    /// What happens on an outbound match.
    pub outbound_on_match: &'static str,
    /// Largest request body, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes_max: Option<u64>,
    /// Where it was said, and the preset that it belongs to.
    #[serde(flatten)]
    pub from: RouteOrigin,
}

/// A placeholder's place and its variable.
#[derive(Clone, Debug, Serialize)]
pub struct CredentialView {
    /// `header`, `query`, `basic` or `body`.
    #[serde(rename = "in")]
    pub place: &'static str,
    /// The header, the parameter, the half of Basic credentials, the key or field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The secret.
    pub from: SecretName,
    /// The variable that holds the placeholder inside.
    pub env: String,
}

impl CredentialView {
    fn of(one: &PlaceholderAuth) -> CredentialView {
        let name = one.place.name().map(str::to_owned);
        CredentialView { place: one.place.kind(), name, from: one.secret.clone(), env: one.variable.clone() }
    }

    /// For people: `GITHUB_TOKEN in header authorization`.
    pub fn words(&self) -> String {
        let name = self.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        format!("{} in {}{name}", self.from, self.place)
    }
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
    /// Where it was said.
    pub origin: Origin,
}

/// Who commits.
#[derive(Clone, Debug, Serialize)]
pub struct GitUserView {
    /// `user.name`
    pub name: Sourced<Option<String>>,
    /// `user.email`
    pub email: Sourced<Option<String>>,
}

/// A repository behind the gate.
#[derive(Clone, Debug, Serialize)]
pub struct GitRepoView {
    /// What it is.
    #[serde(flatten)]
    pub repo: GitRepo,
    /// Where it was said.
    pub origin: Origin,
}

/// Bounds.
#[derive(Clone, Debug, Serialize)]
pub struct LimitsView {
    /// Bytes, or null for the host's own bound.
    pub memory_bytes_max: Sourced<Option<u64>>,
    /// Processes and threads.
    pub processes_max: Sourced<u32>,
    /// Open files per process.
    pub open_files_max: Sourced<u32>,
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
    /// Where it was said.
    pub origin: Origin,
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
            origin: self.settings.upstream_origins.get(&(host.clone(), port)).cloned().unwrap_or(Origin::Default),
        });
        let origins = &self.origins;
        let binds = self.binds.iter().zip(&origins.binds).map(|(bind, origin)| BindView {
            source: bind.source.clone(),
            target: bind.target.clone(),
            access: match bind.access {
                Access::ReadOnly => "ro",
                Access::ReadWrite => "rw",
            },
            origin: origin.clone(),
        });
        let env = self.env.iter().map(|(name, value)| {
            let origin = origins.env.get(name).unwrap_or(&Origin::Default);
            (name.clone(), sourced(value.clone(), origin))
        });
        let git_repos = self.git_repos.iter().zip(&origins.git_repos);
        EffectiveView {
            agent: self.agent.clone(),
            bottle: self.bottle.clone(),
            bottles: self.bottles.clone(),
            chat: None,
            sources: self.sources.clone(),
            repository_agent: self.repository_agent.clone(),
            env: env.collect(),
            routes: self.route_views(),
            binds: binds.collect(),
            never_visible: crate::host_paths::never_visible().collect(),
            limits: LimitsView {
                memory_bytes_max: sourced(self.limits.memory_bytes_max, &origins.limits.memory),
                processes_max: sourced(self.limits.processes_max, &origins.limits.processes),
                open_files_max: sourced(self.limits.open_files_max, &origins.limits.open_files),
            },
            git_user: GitUserView {
                name: sourced(self.git_user.name.clone(), &origins.git_name),
                email: sourced(self.git_user.email.clone(), &origins.git_email),
            },
            git_repos: git_repos
                .map(|(repo, origin)| GitRepoView { repo: repo.clone(), origin: origin.clone() })
                .collect(),
            egress_log: self.egress_log.value.as_ref().map(|log| sourced(log.clone(), &self.egress_log.origin)),
            supervise: sourced(self.supervise, &origins.supervise),
            provider: sourced(self.provider.clone(), &origins.provider),
            workspace: sourced(self.workspace, &origins.workspace),
            publish: self.publish.iter().zip(&origins.publish).map(PublishView::of).collect(),
            forward: self.forward.iter().zip(&origins.forward).map(ForwardView::of).collect(),
            image: sourced(self.image.as_ref().map(ImageView::from), &origins.image),
            backend: sourced(self.backend, &origins.backend),
            budgets: self.sourced_budgets().view(),
            secrets: secrets.collect(),
            upstreams: upstreams.collect(),
            capture: Sourced {
                value: match self.settings.capture.value {
                    CapturePolicy::RequireT1 => "t1",
                    CapturePolicy::AllowT2 => "allow-t2",
                    CapturePolicy::ForceT2 => "force-t2",
                },
                origin: self.settings.capture.origin.clone(),
            },
            bottle_uid: self.settings.bottle_uid.clone(),
            notify: self.settings.notify.clone(),
        }
    }

    /// The routes with their origins.
    pub fn route_views(&self) -> Vec<RouteView> {
        self.routes.iter().zip(&self.origins.routes).map(RouteView::of).collect()
    }
}

fn sourced<T>(value: T, origin: &Origin) -> Sourced<T> {
    Sourced { value, origin: origin.clone() }
}

impl PublishView {
    fn of((publish, origin): (&Publish, &Origin)) -> PublishView {
        PublishView { listen: publish.listen.to_string(), inside: publish.inside, origin: origin.clone() }
    }
}

impl ForwardView {
    fn of((forward, origin): (&Forward, &Origin)) -> ForwardView {
        let to = match &forward.to {
            Service::Tcp(address) => address.to_string(),
            Service::Unix(path) => path.display().to_string(),
        };
        ForwardView { inside: forward.inside, to, origin: origin.clone() }
    }
}

impl RouteView {
    /// One route with its origin.
    pub(crate) fn of((route, from): (&Route, &RouteOrigin)) -> RouteView {
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
            credentials: route.credentials.iter().map(CredentialView::of).collect(),
            meter: route.meter.as_ref().map(ToString::to_string),
            matches: route.matches.iter().map(crate::egress::describe_match).collect(),
            git_fetch: route.git == GitAccess::Fetch,
            private: route.reach == Reach::Private,
            websocket: route.websocket,
            outbound_detectors: route.dlp.outbound.iter().map(|detector| detector.as_str()).collect(),
            inbound_detectors: route.dlp.inbound.iter().map(|detector| detector.as_str()).collect(),
            outbound_on_match: match route.dlp.outbound_on_match {
                OnMatch::Block => "block",
                OnMatch::Redact => "redact",
                OnMatch::Supervise => "supervise",
            },
            body_bytes_max: route.body_bytes_max,
            from: from.clone(),
        }
    }
}
