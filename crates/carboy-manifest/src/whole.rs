//! From what files say together to a bottle: checks that only the whole can pass, numbers, defaults, and the origin of
//! each value. The same for one file, a chain, and several bottles of one run (M29, M30).

use std::collections::BTreeMap;

use carboy_core::ids::RouteId;
use carboy_core::plan::{Bind, Forward, Image, Limits, Publish};
use carboy_core::route::Route;
use carboy_core::upstream::{Transport, Upstreams};
use serde::Serialize;

use crate::bottle::{ENV_MAX, Part, Workspace};
use crate::budget::{BottleScope, BudgetOrigins, TermsPart};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, excerpt};
use crate::egress::{ROUTES_MAX, check_variables, hides};
use crate::git::{GitRepo, RepoPart, UserPart};
use crate::image::Backend;
use crate::limits::LimitsPart;
use crate::origin::{Origin, Place, Said, Sourced};
use crate::ports;
use crate::provider::{EnvValue, Provider};

/// Where each value of a run was said; lists stand in the order of the values themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// Of each variable.
    pub env: BTreeMap<String, Origin>,
    /// Of each route.
    pub routes: Vec<RouteOrigin>,
    /// Of each bind.
    pub binds: Vec<Origin>,
    /// Of each bound.
    pub limits: LimitOrigins,
    /// `git-gate.user.name`
    pub git_name: Origin,
    /// `git-gate.user.email`
    pub git_email: Origin,
    /// Of each repository.
    pub git_repos: Vec<Origin>,
    /// `supervise`
    pub supervise: Origin,
    /// `agent_provider`
    pub provider: Origin,
    /// `workspace`
    pub workspace: Origin,
    /// Of each published port.
    pub publish: Vec<Origin>,
    /// Of each forwarded port.
    pub forward: Vec<Origin>,
    /// `image`
    pub image: Origin,
    /// `backend`
    pub backend: Origin,
    /// Of the budgets
    pub budgets: BudgetOrigins,
}

/// Where a route comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteOrigin {
    /// The place in a file: of the route, or of the preset's name.
    pub origin: Origin,
    /// The preset that it belongs to, as in `github-read@1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
}

/// Where the bounds were said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitOrigins {
    /// `limits.memory`
    pub memory: Origin,
    /// `limits.processes`
    pub processes: Origin,
    /// `limits.open_files`
    pub open_files: Origin,
}

/// One bottle, checked as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Bottle {
    pub(crate) env: BTreeMap<String, EnvValue>,
    pub(crate) provider: Provider,
    pub(crate) git_user: UserPart,
    pub(crate) git_repos: Vec<GitRepo>,
    pub(crate) routes: Vec<Route>,
    pub(crate) log: Sourced<Option<String>>,
    pub(crate) supervise: bool,
    pub(crate) binds: Vec<Bind>,
    pub(crate) limits: Limits,
    pub(crate) workspace: Workspace,
    pub(crate) publish: Vec<Publish>,
    pub(crate) forward: Vec<Forward>,
    pub(crate) image: Option<Image>,
    pub(crate) backend: Backend,
    pub(crate) scopes: Vec<BottleScope>,
    pub(crate) terms: TermsPart,
    pub(crate) origins: Origins,
}

/// Checks and numbers; `owner` is how messages name the whole. Worth something only when `out` has got no error.
pub(crate) fn whole(part: Part, owner: &str, out: &mut Diagnostics) -> Bottle {
    if part.env.len() > ENV_MAX {
        let message = format!("{owner} has {} variables together, more than {ENV_MAX}", part.env.len());
        out.push(Diagnostic::error(Code::TooComplex, message, "remove some"));
    }
    let (routes, route_origins) = routes(&part, owner, out);
    let repos = part.gate.repos.unwrap_or_default().into_iter();
    let (git_repos, repo_origins) = repos.filter_map(|(name, said)| repo(name, said, owner, out)).unzip();
    let env_origins = part.env.iter().map(|(name, said)| (name.clone(), said.origin())).collect();
    let bind_origins = part.binds.iter().map(Said::origin).collect();
    let supervise = Said::or_default(part.supervise, true);
    let provider = Said::or_default(part.provider, Provider::default());
    let workspace = Said::or_default(part.workspace, Workspace::default());
    ports::check(&part.publish, &part.forward, owner, out);
    let (image, backend) = (optional(part.image), Said::or_default(part.backend, Backend::default()));
    let (limits, limit_origins) = limits(part.limits);
    let origin_of = |said: &Option<Said<String>>| said.as_ref().map_or(Origin::Default, Said::origin);
    let origins = Origins {
        env: env_origins,
        routes: route_origins,
        binds: bind_origins,
        limits: limit_origins,
        git_name: origin_of(&part.gate.user.name),
        git_email: origin_of(&part.gate.user.email),
        git_repos: repo_origins,
        supervise: supervise.origin,
        provider: provider.origin,
        workspace: workspace.origin,
        publish: part.publish.iter().map(Said::origin).collect(),
        forward: part.forward.iter().map(Said::origin).collect(),
        image: image.origin,
        backend: backend.origin,
        budgets: BudgetOrigins::default(),
    };
    Bottle {
        env: part.env.into_iter().map(|(name, said)| (name, said.value)).collect(),
        provider: provider.value,
        git_user: part.gate.user,
        git_repos,
        routes,
        log: optional(part.egress.log),
        supervise: supervise.value,
        binds: part.binds.into_iter().map(|said| said.value).collect(),
        limits,
        workspace: workspace.value,
        publish: part.publish.into_iter().map(|said| said.value).collect(),
        forward: part.forward.into_iter().map(|said| said.value).collect(),
        image: image.value,
        backend: backend.value,
        scopes: part.scopes,
        terms: part.terms,
        origins,
    }
}

/// A value for which carboy has none of its own.
fn optional<T>(said: Option<Said<T>>) -> Sourced<Option<T>> {
    Said::or_default(said.map(|said| Said { value: Some(said.value), place: said.place }), None)
}

fn limits(part: LimitsPart) -> (Limits, LimitOrigins) {
    let own = Limits::default();
    let memory = optional(part.memory);
    let processes = Said::or_default(part.processes, own.processes_max);
    let open_files = Said::or_default(part.open_files, own.open_files_max);
    let origins = LimitOrigins { memory: memory.origin, processes: processes.origin, open_files: open_files.origin };
    let limits =
        Limits { memory_bytes_max: memory.value, processes_max: processes.value, open_files_max: open_files.value };
    (limits, origins)
}

/// All routes in the order in which they are asked: those that are written, then those of presets (M29, M38).
fn routes(part: &Part, owner: &str, out: &mut Diagnostics) -> (Vec<Route>, Vec<RouteOrigin>) {
    let written = part.egress.routes.iter().map(|said| (&said.value, &said.place, said.origin(), None));
    let preset = part.presets.iter().flat_map(|said| {
        said.value.routes.iter().map(move |route| (route, &said.place, said.origin(), Some(said.value.label.clone())))
    });
    let mut all: Vec<(Route, &Place)> = Vec::new();
    let mut origins = Vec::new();
    for (route, place, origin, preset) in written.chain(preset) {
        let route = Route { id: RouteId::new(all.len() + 1, &route.host), ..route.clone() };
        all.push((route, place));
        origins.push(RouteOrigin { origin, preset });
    }
    if let Some((_, place)) = all.get(ROUTES_MAX) {
        let message = format!("{owner} has {} routes together, more than {ROUTES_MAX}", all.len());
        let fix = "join routes by `*.zone`, or extend fewer bottles";
        out.push_once(Diagnostic::error(Code::TooComplex, message, fix).at(&place.file, place.at));
        return (Vec::new(), Vec::new());
    }
    warn_redundant(&all, owner, out);
    let provider = part.provider.as_ref().map(|said| said.value.env.clone()).unwrap_or_default();
    check_variables(&all, &part.env, &provider, owner, out);
    (all.into_iter().map(|(route, _)| route).collect(), origins)
}

/// Two routes that say the same, or one that an earlier one leaves nothing to.
fn warn_redundant(routes: &[(Route, &Place)], owner: &str, out: &mut Diagnostics) {
    for (i, (later, place)) in routes.iter().enumerate() {
        let Some((earlier, first)) = routes[..i].iter().find(|(earlier, _)| hides(earlier, later)) else { continue };
        let elsewhere = match first.file == place.file {
            true => String::new(),
            false => format!(" of {}", first.file.display()),
        };
        let message = format!(
            "route {} of {owner} is never used: {} on line {}{elsewhere} allows all of it first",
            later.id, earlier.id, first.at.line
        );
        let fix = "remove one of the two, or put the narrower one first";
        out.push_once(Diagnostic::warning(Code::RouteRedundant, message, fix).at(&place.file, place.at));
    }
}

fn repo(name: String, said: RepoPart, owner: &str, out: &mut Diagnostics) -> Option<(GitRepo, Origin)> {
    let Some(url) = said.url else {
        let message = format!("repository {} of {owner} has no `url`", excerpt(&name));
        let fix = "add `url`, as in \"ssh://git@git.example.org/team/repo.git\"";
        out.push_once(Diagnostic::error(Code::MissingKey, message, fix).at(&said.place.file, said.place.at));
        return None;
    };
    let origin = Origin::File { file: said.place.file, line: said.place.at.line };
    let (identity, host_key) = (said.identity.map(|said| said.value), said.host_key.map(|said| said.value));
    Some((GitRepo { name, url: url.value, identity, host_key }, origin))
}

/// A credential for a host that is only spoken to without TLS could never be sent, unless the operator says that it may.
pub(crate) fn check_plain(routes: &[Route], origins: &[RouteOrigin], upstreams: &Upstreams, out: &mut Diagnostics) {
    const PLAIN_PORT: u16 = 80;
    let plain = |route: &Route| {
        let said = upstreams.iter().any(|(host, port, upstream)| {
            route.host.matches(host)
                && port.is_none_or(|port| port == PLAIN_PORT)
                && upstream.transport == Transport::Plain
        });
        !route.credentials.is_empty() && route.ports.iter().all(|port| *port == PLAIN_PORT) && !said
    };
    for (route, from) in routes.iter().zip(origins).filter(|(route, _)| plain(route)) {
        let message = format!("route {} has a `credential` and is reached without TLS", route.id);
        let fix = format!(
            "use port 443, or say in settings.yml that it is plain: upstreams: {{\"{}:80\": {{address: \"IP:PORT\", tls: false}}}}",
            route.host
        );
        let error = Diagnostic::error(Code::BadValue, message, fix);
        out.push(match &from.origin {
            Origin::File { file, line } => error.at(file, Position { line: *line, column: 1 }),
            Origin::Default | Origin::Environment { .. } | Origin::Flag { .. } => error,
        });
    }
}
