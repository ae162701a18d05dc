//! A chat agent's file with all that belongs to it: rules folder, keys of its identity, the settings' word. What is left to be
//! said is what `.env`, environment and flags say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use carboy_core::chat::{ChatLimits, ChatSpec, Identity, Screening, ToolSource};
use carboy_core::host::Host;
use carboy_core::ids::{AgentName, SecretName};
use carboy_core::route::{RequestFacts, RouteSet};
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_core::verdict::Verdict;

use super::knobs::{self, SaidKnobs};
use super::model::{self, ModelPart};
use super::named::NamedTool;
use super::outward::Outward;
use super::part::ChatPart;
use super::prompt::GREETING;
use super::screening::{self, RULES_MAX};
use super::{SECRETS, identity};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position};
use crate::files::{ManifestFiles, Places};
use crate::keys;
use crate::origin::{Origin, Said};
use crate::schema::{Scope, find};
use crate::yaml::Node;

pub use crate::lookup::Whose;

/// `chat` of the settings, the user's and the machine's.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChatSettings {
    pub(crate) own: SaidKnobs,
    pub(crate) machine: SaidKnobs,
    /// The model of agents that name none.
    pub(crate) model: Option<Said<ModelPart>>,
}

/// `chat: {…}` of a settings.yml.
pub(crate) fn settings(scope: &mut Scope<'_>, node: &Node) -> ChatSettings {
    let mut settings = ChatSettings::default();
    let Some(entries) = scope.map(node, "`chat`") else { return settings };
    let (said, others) = knobs::take(scope, entries, |_| true);
    scope.keys(&others, &keys::CHAT_SETTINGS, "`chat`");
    settings.own = said;
    settings.model = find(&others, "model").and_then(|node| model::model(scope, node));
    settings
}

/// A chat agent, read and checked, without what its surroundings say ([`resolve`](super::resolve)).
#[derive(Clone, Debug)]
pub struct ChatFile {
    /// The agent.
    pub name: AgentName,
    /// Its file; for a built-in agent a name that is no path.
    pub file: PathBuf,
    /// Who wrote it.
    pub whose: Whose,
    /// Rules files that went into it.
    pub sources: Vec<PathBuf>,
    /// Everything but the knobs, which are carboy's own.
    pub(crate) spec: ChatSpec,
    pub(crate) settings: SaidKnobs,
    pub(crate) machine: SaidKnobs,
    pub(crate) knobs: SaidKnobs,
    pub(crate) origins: BTreeMap<String, Origin>,
    /// Its model first.
    pub(crate) outward: Vec<Outward>,
    model_token_said: bool,
    /// Tools that its rules name.
    pub(crate) named: Vec<NamedTool>,
    /// Secrets that the settings know.
    pub(crate) known_secrets: BTreeSet<SecretName>,
}

impl ChatFile {
    /// Where its `.env` would be: beside it, or in the working directory for a built-in agent.
    pub fn dotenv(&self, places: &Places) -> PathBuf {
        match self.whose {
            Whose::User | Whose::Repository => self.file.parent().unwrap_or(Path::new("/")).join(".env"),
            Whose::BuiltIn => places.cwd.join(".env"),
        }
    }

    /// What it signs or is signed to with, and no route sets: of its webhooks, of its identity's header. It does not start without
    /// them.
    pub fn signing_secrets(&self) -> impl Iterator<Item = &SecretName> {
        let header = match &self.spec.identity {
            Identity::SignedHeader { secret, .. } => Some(secret),
            Identity::Anonymous | Identity::Jwt { .. } => None,
        };
        header.into_iter().chain(self.spec.webhooks.as_ref().map(|webhooks| &webhooks.secret))
    }

    /// The secrets that its file names, and those that every chat agent may have: what a `.env` may hold (G66b).
    pub fn secrets(&self) -> BTreeSet<SecretName> {
        let usual = SECRETS.iter().filter_map(|name| SecretName::parse(name).ok());
        let own = self.outward.iter().filter_map(|one| one.token.as_ref().map(|token| token.name().clone()));
        let model = self.spec.model.token_env.clone();
        usual.chain(own).chain(model).chain(self.signing_secrets().cloned()).collect()
    }

    /// What it starts inside its bottle, each in one line: a script with its length, for whoever is asked.
    pub fn runs(&self) -> Vec<String> {
        let lines = self.spec.tools.iter().filter_map(|source| match source {
            ToolSource::Command { command, .. } => Some(command.join(" ")),
            ToolSource::Script { path, interpreter, text, .. } => {
                Some(format!("{} {path} (a script of {} bytes in its file)", interpreter.join(" "), text.len()))
            }
            ToolSource::BuiltIn(_) | ToolSource::Http { .. } | ToolSource::Application => None,
        });
        lines.collect()
    }

    /// Takes tools of an application?
    pub fn is_application(&self) -> bool {
        self.spec.tools.contains(&ToolSource::Application)
    }

    /// Its services that are spoken to without TLS: those on addresses of this machine and its network are let, where nobody
    /// else says anything about them; of another host only the operator's settings say so.
    pub(crate) fn let_plain(&self, upstreams: &mut Upstreams, out: &mut Diagnostics) -> Vec<(Host, u16, Origin)> {
        let mut let_in = Vec::new();
        for one in &self.outward {
            let Some(plain) = &one.plain else { continue };
            match (upstreams.get(&plain.host, plain.port).map(|known| known.transport), plain.local(), self.whose) {
                (Some(Transport::Plain), _, _) => {}
                (None, Some(ip), Whose::User | Whose::BuiltIn) => {
                    let address = SocketAddr::new(ip, plain.port);
                    let upstream = Upstream { address, transport: Transport::Plain, extra_ca_pem: None };
                    upstreams.insert(plain.host.clone(), Some(plain.port), upstream);
                    let origin = Origin::File { file: one.place.file.clone(), line: one.place.at.line };
                    let_in.push((plain.host.clone(), plain.port, origin));
                }
                (Some(Transport::Tls), _, _) | (None, None, _) | (None, Some(_), Whose::Repository) => {
                    let message = format!("{} of agent `{}` is reached without TLS", one.what, self.name);
                    let fix = format!(
                        "write https, or say in settings.yml where it is: upstreams: {{\"{}:{}\": {{address: \"IP:PORT\", tls: false}}}}",
                        plain.host, plain.port
                    );
                    out.push(Diagnostic::error(Code::BadValue, message, fix).at(&one.place.file, one.place.at));
                }
            }
        }
        let_in
    }

    /// Its services through the routes of the bottle that it names: each has to be allowed, and the model's route is its meter
    /// and its key.
    pub(crate) fn through(&mut self, routes: &RouteSet, bottle: &str, out: &mut Diagnostics) {
        for (i, one) in self.outward.iter().enumerate() {
            let mut refuse = |message: String, fix: String| {
                out.push(Diagnostic::error(Code::MissingRoute, message, fix).at(&one.place.file, one.place.at));
            };
            let route = match permitted(routes, one) {
                Ok(route) => route,
                Err(why) => {
                    refuse(
                        format!("{} of agent `{}` is not reached through {bottle}: {why}", one.what, self.name),
                        format!("add a route for {} port {} (POST {}) to the bottle", one.host, one.port, one.path),
                    );
                    continue;
                }
            };
            if !route.credentials.is_empty() {
                refuse(
                    format!(
                        "{} of agent `{}` is reached through a route of {bottle} with `credential`, and carboy's own requests hold no placeholder",
                        one.what, self.name
                    ),
                    "use `token_env` on that route; `credential` is for programs in a bottle".into(),
                );
            }
            let said = one.token.as_ref().filter(|_| i > 0 || self.model_token_said).map(|token| token.name());
            if let Some(said) = said.filter(|said| route.auth.as_ref().map(|auth| &auth.secret) != Some(said)) {
                refuse(
                    format!(
                        "{} of agent `{}` names the secret `{said}`, and its route in {bottle} sets another or none",
                        one.what, self.name
                    ),
                    "remove `token_env` from the agent; the bottle's route holds the credential".into(),
                );
            }
            if i == 0 {
                match &route.meter {
                    Some(meter) => {
                        self.spec.model.meter = meter.clone();
                        self.spec.model.token_env = route.auth.as_ref().map(|auth| auth.secret.clone());
                    }
                    None => refuse(
                        format!("the route of {} in {bottle} is not metered, and no budget would hold", one.what),
                        format!("add `meter: {}` to the route", self.spec.model.meter),
                    ),
                }
            }
        }
    }
}

fn permitted<'r>(routes: &'r RouteSet, one: &Outward) -> Result<&'r carboy_core::route::Route, String> {
    let host = match routes.host_permit(&one.host, one.port) {
        Verdict::Allow(permit) => permit,
        Verdict::Deny(_) => return Err(format!("no route names {} port {}", one.host, one.port)),
    };
    let facts = RequestFacts { method: "POST", path: &one.path, query: "", headers: &[] };
    match routes.route(&host, &facts) {
        Verdict::Allow(permit) => {
            let id = permit.route().id.clone();
            routes.iter().find(|route| route.id == id).ok_or_else(|| "its route is gone".to_owned())
        }
        Verdict::Deny(_) => Err(format!("no route of {} allows POST {}", one.host, one.path)),
    }
}

/// What belongs to the agent.
pub(crate) struct Of<'a> {
    pub(crate) name: &'a AgentName,
    pub(crate) file: &'a Path,
    pub(crate) whose: Whose,
    pub(crate) part: &'a ChatPart,
}

/// The file with its rules, keys and settings. `None` when something is missing, which is reported.
pub(crate) fn file_of(
    of: &Of<'_>,
    settings: &ChatSettings,
    known_secrets: BTreeSet<SecretName>,
    (files, places): (&dyn ManifestFiles, &Places),
    out: &mut Diagnostics,
) -> Option<ChatFile> {
    let Of { name, file, whose, part } = *of;
    let Some(model) = part.model.as_ref().or(settings.model.as_ref()) else {
        let message = format!("agent `{name}` names no model");
        let fix = "add `model: claude-…` or another one to its front matter, or `chat: {model: …}` to settings.yml";
        out.push(Diagnostic::error(Code::MissingKey, message, fix).at(file, Position::START));
        return None;
    };
    if whose != Whose::BuiltIn
        && let Some(source) = part.tools.sources.iter().find(|source| source.value == ToolSource::Application)
    {
        let message =
            format!("`tools` of agent `{name}` names the tools of an application, and a file on disk has none");
        let fix = "remove `application`; bring tools as {script: …} or {mcp: …}";
        out.push(Diagnostic::error(Code::NotAvailable, message, fix).at(file, source.place.at));
    }
    let identity = identity::whole(&part.identity, files, out)?;
    let mut rules = screening::folder(files, places, out);
    rules.patterns.extend(part.screening.patterns.iter().cloned());
    rules.filters.extend(part.screening.filters.iter().cloned());
    if rules.patterns.len() > RULES_MAX || rules.filters.len() > RULES_MAX {
        let message =
            format!("agent `{name}` and the rules folder have more than {RULES_MAX} patterns or filters together");
        out.push(
            Diagnostic::error(Code::TooComplex, message, "join several expressions by `|`").at(file, Position::START),
        );
    }
    let mut origins = part.origins.clone();
    if part.model.is_none() {
        origins.insert("model".into(), model.origin());
    }
    let text = |said: &Option<Said<String>>, own: &str| said.as_ref().map_or(own, |said| &said.value).to_owned();
    let spec = ChatSpec {
        name: name.clone(),
        title: text(&part.title, name.as_str()),
        greeting: text(&part.greeting, GREETING),
        model: model.value.choice.clone(),
        prompt: part.prompt.whole(part.system.clone()),
        tools: part.tools.sources.iter().map(|source| source.value.clone()).collect(),
        rules: part.rules.rules.clone(),
        authorize: part.rules.authorize.clone(),
        identity,
        limits: ChatLimits::default(),
        screening: Screening {
            injection_patterns: rules.patterns,
            output_filters: rules.filters,
            ..Screening::default()
        },
        reply: part.reply.clone(),
        webhooks: part.webhooks.clone(),
        frame_ancestors: part.frame_ancestors.clone(),
        architecture: part.architecture,
    };
    let outward = std::iter::once(model.value.outward(&model.place));
    Some(ChatFile {
        name: name.clone(),
        file: file.to_path_buf(),
        whose,
        sources: rules.sources,
        spec,
        settings: settings.own.clone(),
        machine: settings.machine.clone(),
        knobs: part.knobs.clone(),
        origins,
        outward: outward.chain(part.tools.outward.iter().cloned()).chain(part.outward.iter().cloned()).collect(),
        model_token_said: model.value.token_said,
        named: part.rules.named.clone(),
        known_secrets,
    })
}
