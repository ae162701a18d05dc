//! From what a run was refused to the routes that would let it work, for a person to look at.
//!
//! ```text
//! refusals of one host ─▶ leave out what no route should open ─▶ prefixes of paths ─▶ methods ─▶ one route
//! ```
//!
//! Everything in here was chosen by a program in a bottle, perhaps one that wants a door. *Must never* propose a route for
//! a host to which a secret was about to leave, for an address, for a model or a collector of telemetry, or for the whole
//! of a host; nor write a path, a method or a host that could be read as anything else (each route is read back by the
//! reader of bottles before it is written).

use std::collections::{BTreeMap, BTreeSet};

use carboy_core::host::Host;
use carboy_core::route::GitUse;
use carboy_core::verdict::Reason;
use carboy_egress::learn::{Asked, LEAKY_HOSTS_MAX, Learned, LearnedRequest, Path, is_variable};
use carboy_manifest::edit::{NewMatch, NewPath, NewRoute, alone};
use carboy_wire::format::WireFormat;
use serde::{Deserialize, Serialize};

use crate::home::{HomeError, write_private};
use crate::refusal::{path_of, repository};

/// The name of a proposal's file, in its run's directory.
pub const FILE: &str = "proposal.yml";
/// Most routes of one proposal.
pub const ROUTES_MAX: usize = 64;
/// Most remarks of one proposal.
const REMARKS_MAX: usize = 64;
/// Paths beside each other that are named one by one; more of them become the path above.
const SIBLINGS_MAX: usize = 3;
/// Paths of one host. What is left over is told and not opened.
const PATHS_MAX: usize = 16;
/// Methods that are proposed; another one is asked for by hand.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Zones of services that collect what programs do. Nothing needs them to work.
const TELEMETRY: &[&str] = &[
    "amplitude.com",
    "app-measurement.com",
    "applicationinsights.azure.com",
    "bugsnag.com",
    "crashlytics.com",
    "datadoghq.com",
    "datadoghq.eu",
    "doubleclick.net",
    "featuregates.org",
    "google-analytics.com",
    "googletagmanager.com",
    "honeycomb.io",
    "ingest.sentry.io",
    "launchdarkly.com",
    "mixpanel.com",
    "newrelic.com",
    "nr-data.net",
    "posthog.com",
    "rollbar.com",
    "segment.com",
    "segment.io",
    "sentry.io",
    "statsig.anthropic.com",
    "statsig.com",
    "statsigapi.net",
    "telemetry.nextjs.org",
    "visualstudio.com",
];
/// Labels that say as much of any zone.
const TELEMETRY_LABELS: &[&str] = &["analytics", "metrics", "statsig", "telemetry"];
/// Zones of models beside those whose format carboy speaks.
const MODELS: &[&str] = &[
    "api.cohere.ai",
    "api.cohere.com",
    "api.deepseek.com",
    "api.fireworks.ai",
    "api.groq.com",
    "api.mistral.ai",
    "api.perplexity.ai",
    "api.together.ai",
    "api.together.xyz",
    "api.x.ai",
    "openrouter.ai",
];

/// What is proposed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// Routes to be added, by host.
    pub routes: Vec<NewRoute>,
    /// What was left out, and why.
    pub remarks: Vec<String>,
}

/// What a summary says about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// How many routes.
    pub routes: usize,
    /// What was left out, and why.
    pub remarks: Vec<String>,
    /// Where it is; none when there is no route to propose.
    pub file: Option<std::path::PathBuf>,
    /// The command that applies it.
    pub apply: Option<String>,
}

/// Makes a proposal of what was learned.
pub fn propose(learned: &Learned) -> Proposal {
    let mut hosts: BTreeMap<(Host, u16), Vec<&LearnedRequest>> = BTreeMap::new();
    for one in learned.requests() {
        hosts.entry((one.host.clone(), one.port)).or_default().push(one);
    }
    let mut proposal = Proposal::default();
    if learned.leaks_overflown() {
        proposal.remark(format!(
            "nothing is proposed: secrets, or what looks like them, were about to leave to more than {LEAKY_HOSTS_MAX} hosts"
        ));
        return proposal;
    }
    for ((host, port), requests) in hosts {
        let at = format!("{host}:{port}");
        if let Some(why) = closed(&host, learned.is_leaky(&host)) {
            proposal.remark(format!("{at}: {why}"));
            continue;
        }
        for route in of_host(&host, port, &requests, &mut proposal) {
            let valid = alone::route_of(&route).is_ok();
            match (valid, proposal.routes.len() < ROUTES_MAX) {
                (true, true) => proposal.routes.push(route),
                (true, false) => proposal.remark(format!("{at}: more than {ROUTES_MAX} routes")),
                (false, _) => proposal.remark(format!("{at}: no route can name it")),
            }
        }
    }
    if learned.crowded_out > 0 {
        let count = learned.crowded_out;
        proposal.remark(format!("{count} refusals more found no room here; `carboy logs --refused` has them"));
    }
    proposal
}

/// Why nothing of a host is proposed.
fn closed(host: &Host, leaky: bool) -> Option<&'static str> {
    let name = match host {
        Host::V4(_) | Host::V6(_) => return Some("an address and no name; a route for it is written by hand"),
        Host::Name(name) => name.as_str(),
    };
    let within = |zone: &str| name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if leaky {
        Some("left out: a request to it carried a secret, or what looks like one")
    } else if TELEMETRY.iter().any(|zone| within(zone)) || name.split('.').any(|l| TELEMETRY_LABELS.contains(&l)) {
        Some("left out: it collects what programs do, and nothing needs it to work")
    } else if WireFormat::of_request(None, host, "/").is_some() || MODELS.iter().any(|zone| within(zone)) {
        Some("left out: a model's interface; write its route with its credential and `meter`, or use its preset")
    } else if name.ends_with(".internal") || name == "metadata" || !name.contains('.') {
        Some("left out: a name of this machine's own network")
    } else {
        None
    }
}

/// The routes of one host and port: one for git's repositories, one for everything else.
fn of_host(host: &Host, port: u16, requests: &[&LearnedRequest], proposal: &mut Proposal) -> Vec<NewRoute> {
    let mut plain: BTreeMap<NewPath, BTreeSet<String>> = BTreeMap::new();
    let mut git: BTreeMap<NewPath, BTreeSet<String>> = BTreeMap::new();
    let mut left: BTreeMap<&'static str, u64> = BTreeMap::new();
    for one in requests {
        match part_of(one) {
            Ok((path, true)) => {
                git.entry(path).or_default().extend(["GET".to_owned(), "POST".to_owned()]);
            }
            Ok((path, false)) => {
                let method = one.request.as_ref().map(|asked| asked.method.clone());
                plain.entry(path).or_default().extend(method);
            }
            Err(why) => *left.entry(why).or_default() += one.count,
        }
    }
    let at = format!("{host}:{port}");
    let over = generalise(&mut plain) + generalise(&mut git);
    if over > 0 {
        proposal.remark(format!("{at}: {over} paths more, each beginning with another word"));
    }
    for (why, count) in left {
        proposal.remark(format!("{at}: {count} × {why}"));
    }
    let route = |paths: BTreeMap<NewPath, BTreeSet<String>>, git_fetch| NewRoute {
        host: host.to_string(),
        ports: vec![port],
        matches: by_methods(paths),
        git_fetch,
        private: false,
    };
    [(plain, false), (git, true)].into_iter().filter(|(paths, _)| !paths.is_empty()).map(|(p, g)| route(p, g)).collect()
}

/// The path to open for one kind of request, and whether it is git's; or why none is opened.
fn part_of(one: &LearnedRequest) -> Result<(NewPath, bool), &'static str> {
    if let Some(flaw) = one.flaw {
        return Err(flaw.what());
    }
    let Some(Asked { method, path, git }) = &one.request else {
        return Err("a connection on which no request was seen");
    };
    let (path, whole) = match path {
        Path::Whole(path) => (path, true),
        Path::Cut(path) => (path, false),
    };
    let plain = |b: u8| b.is_ascii_graphic() && !b"\"'`\\<>{}#?".contains(&b);
    if !path.bytes().all(plain) {
        return Err("a path with characters that are proposed to nobody");
    }
    match git {
        GitUse::Push => return Err(Reason::GitPushNotAllowed.what()),
        GitUse::Fetch => return Ok((path_of(repository(path)), true)),
        GitUse::None => {}
    }
    if !METHODS.contains(&&**method) {
        return Err("a method that is not proposed");
    }
    if path == "/" {
        return Ok((NewPath::Exact("/".into()), false));
    }
    let mut prefix = String::new();
    for segment in path.trim_start_matches('/').split('/').take_while(|s| !s.is_empty() && !is_variable(s)) {
        prefix.push('/');
        prefix.push_str(segment);
    }
    match (prefix.is_empty(), whole) {
        (false, _) => Ok((NewPath::Prefix(prefix), false)),
        // Only this one: its prefix would be all of the host.
        (true, true) => Ok((NewPath::Exact(path.clone()), false)),
        (true, false) => Err("a path that is too long, or carries what the log does not show"),
    }
}

/// Makes few prefixes of many, never all of the host; says how many were left out.
fn generalise(paths: &mut BTreeMap<NewPath, BTreeSet<String>>) -> usize {
    loop {
        let mut children: BTreeMap<String, usize> = BTreeMap::new();
        for path in paths.keys() {
            if let NewPath::Prefix(path) = path
                && let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty())
            {
                *children.entry(above.to_owned()).or_default() += 1;
            }
        }
        // The deepest first: what is joined there may be one of several further up.
        let crowded = children.into_iter().filter(|(_, count)| *count > SIBLINGS_MAX);
        let Some((above, _)) = crowded.max_by_key(|(above, _)| above.matches('/').count()) else { break };
        let below = format!("{above}/");
        let inside = |path: &NewPath| match path {
            NewPath::Prefix(path) | NewPath::Exact(path) => *path == above || path.starts_with(&below),
        };
        let (joined, rest) = std::mem::take(paths).into_iter().partition(|(path, _)| inside(path));
        *paths = rest;
        let joined: BTreeMap<NewPath, BTreeSet<String>> = joined;
        paths.insert(NewPath::Prefix(above), joined.into_values().flatten().collect());
    }
    // What a shorter prefix with the same methods opens anyway is not said twice.
    let all = paths.clone();
    paths.retain(|path, methods| {
        let covered = |wide: &NewPath, wide_methods: &BTreeSet<String>| match (wide, path) {
            (NewPath::Prefix(wide), NewPath::Prefix(narrow) | NewPath::Exact(narrow)) => {
                narrow.strip_prefix(wide.as_str()).is_some_and(|rest| rest.starts_with('/'))
                    && methods.is_subset(wide_methods)
            }
            (NewPath::Exact(_), NewPath::Prefix(_) | NewPath::Exact(_)) => false,
        };
        !all.iter().any(|(wide, wide_methods)| covered(wide, wide_methods))
    });
    let over = paths.len().saturating_sub(PATHS_MAX);
    while paths.len() > PATHS_MAX {
        paths.pop_last();
    }
    over
}

fn by_methods(paths: BTreeMap<NewPath, BTreeSet<String>>) -> Vec<NewMatch> {
    let mut matches: BTreeMap<Vec<String>, Vec<NewPath>> = BTreeMap::new();
    for (path, methods) in paths {
        matches.entry(methods.into_iter().collect()).or_default().push(path);
    }
    matches.into_iter().map(|(methods, paths)| NewMatch { paths, methods }).collect()
}

impl Proposal {
    fn remark(&mut self, text: String) {
        if self.remarks.len() < REMARKS_MAX {
            self.remarks.push(text);
        }
    }

    /// As a file that a person may edit before it is applied.
    pub fn text(&self, bottle: &str, run: &str) -> String {
        let mut out = format!(
            "# What run {run} would have needed of bottle {bottle}. Delete what it shall not have, then\n\
             # `carboy allow {run}`\n"
        );
        for remark in &self.remarks {
            // Hosts and the words above: nothing in a remark ends its line.
            out.push_str(&format!("# not in here: {remark}\n"));
        }
        out + &alone::text_of(&self.routes)
    }

    /// Keeps it in its run's directory and says so.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn keep(self, dir: &std::path::Path, bottle: &str, run: &str) -> Result<Proposed, HomeError> {
        let mut proposed = Proposed { routes: self.routes.len(), remarks: Vec::new(), file: None, apply: None };
        if !self.routes.is_empty() {
            let file = dir.join(FILE);
            write_private(&file, self.text(bottle, run).as_bytes())?;
            proposed.apply = Some(format!("carboy allow {run}"));
            proposed.file = Some(file);
        }
        proposed.remarks = self.remarks;
        Ok(proposed)
    }
}

#[cfg(test)]
mod tests;
