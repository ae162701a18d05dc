//! A run that learns: every refusal is kept, so that at its end somebody can be shown which routes would have let the
//! run do its work.
//!
//! ```text
//! request that no route allows ─▶ rehearsal: form, names, path and every byte looked at as on a route without frills
//!                                     │ (what would have been refused even then is kept with that flaw)
//!                                     ▼
//!                              kept, and refused as ever
//! ```
//!
//! *Must never* let anything through: a rehearsal opens no socket, reads no credential, throws the body away and ends in
//! the refusal that it began with. What it keeps is bounded, and none of it is a query, a field or a body.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use carboy_core::host::{Host, HostPattern};
use carboy_core::ids::RefusalId;
use carboy_core::route::{GitAccess, GitUse, Misfit, RequestFacts, Route, RouteSet, git_use, normal_path};
use carboy_core::verdict::{Denial, Reason};
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::connection::Flow;
use crate::record::Exchange;
use crate::request::Intercepted;

/// Distinct (host, port, method, shape of path) that are kept; the rest is counted.
pub const LEARNED_MAX: usize = 2048;
/// Of those, for one host and port: who asks one host for a thousand things hides no other host.
pub const LEARNED_PER_HOST_MAX: usize = 256;
/// Hosts to which a secret was about to leave that are kept; with more of them nothing is proposed at all.
pub const LEAKY_HOSTS_MAX: usize = 1024;
/// Longest path that is kept, in bytes; of a longer one only its first segments are.
pub const PATH_BYTES_MAX: usize = 256;
/// Most segments of a path that tell it from others.
const SHAPE_SEGMENTS_MAX: usize = 8;
/// For one rehearsal, its body included.
const REHEARSAL_TIME_MAX: Duration = Duration::from_secs(30);
/// What stands in a shape for a segment that changes.
pub const VARIABLE: &str = "{}";

/// What a run was refused.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    requests: BTreeMap<Key, LearnedRequest>,
    per_host: BTreeMap<(Host, u16), usize>,
    leaky: Leaky,
    /// Refusals that found no room as an entry of their own.
    pub crowded_out: u64,
}

/// The hosts to which a secret was about to leave, apart from the requests: whoever fills a host's places first with
/// harmless requests hides no leak.
#[derive(Clone, Debug, Default)]
struct Leaky {
    hosts: BTreeSet<Host>,
    /// There were more.
    overflown: bool,
}

/// Requests that differ in changing parts of their path alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedRequest {
    /// Host that was asked for.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// What was asked; none when the connection never became a request.
    pub request: Option<Asked>,
    /// Why it was refused.
    pub reason: Reason,
    /// Why it would have been refused even with a route for its host.
    pub flaw: Option<Reason>,
    /// How often.
    pub count: u64,
    /// The first of these refusals.
    pub refusal: RefusalId,
}

/// The request line, without what may be secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// As on the wire.
    pub method: String,
    /// The first path of this shape, as rules compare it (see [`carboy_core::route::normal_path`]), shortened at a
    /// segment's end.
    pub path: Path,
    /// Whether it is git's.
    pub git: GitUse,
}

/// A path that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// All of it.
    Whole(String),
    /// Its beginning, up to a segment's end; the rest was too long, or the log would not show it.
    Cut(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(Host, u16, String, String, u8, Option<Reason>);

impl LearnedRequest {
    /// A connection on which no request was seen.
    pub fn connection(host: &Host, port: u16, reason: Reason, id: &RefusalId) -> LearnedRequest {
        let (host, refusal) = (host.clone(), id.clone());
        LearnedRequest { host, port, request: None, reason, flaw: None, count: 1, refusal }
    }
}

impl Learned {
    /// All that was kept, by host, port, method and path.
    pub fn requests(&self) -> impl Iterator<Item = &LearnedRequest> {
        self.requests.values()
    }

    /// Was a secret about to leave to this host, on whatever port? Also when that is not known any more, after more than
    /// [`LEAKY_HOSTS_MAX`] such hosts.
    pub fn is_leaky(&self, host: &Host) -> bool {
        self.leaky.overflown || self.leaky.hosts.contains(host)
    }

    /// Were there more than [`LEAKY_HOSTS_MAX`] hosts to which a secret was about to leave?
    pub fn leaks_overflown(&self) -> bool {
        self.leaky.overflown
    }

    /// Keeps one refusal; a further one of its kind is counted.
    pub fn keep(&mut self, seen: LearnedRequest) {
        // Before every limit: a leak that finds no room as a request still closes its host.
        if [Some(seen.reason), seen.flaw].into_iter().flatten().any(is_leak) {
            self.leaky.keep(&seen.host);
        }
        let (method, shape, git) = match &seen.request {
            Some(Asked { method, path: Path::Whole(path) | Path::Cut(path), git }) => {
                (method.clone(), shape(path), *git as u8)
            }
            None => Default::default(),
        };
        let key = Key(seen.host.clone(), seen.port, method, shape, git, seen.flaw);
        if let Some(known) = self.requests.get_mut(&key) {
            known.count += 1;
            return;
        }
        let of_host = self.per_host.entry((seen.host.clone(), seen.port)).or_default();
        if self.requests.len() >= LEARNED_MAX || *of_host >= LEARNED_PER_HOST_MAX {
            if *of_host == 0 {
                self.per_host.remove(&(seen.host, seen.port));
            }
            self.crowded_out += 1;
            return;
        }
        *of_host += 1;
        self.requests.insert(key, seen);
    }
}

impl Leaky {
    fn keep(&mut self, host: &Host) {
        if self.hosts.len() < LEAKY_HOSTS_MAX {
            self.hosts.insert(host.clone());
        } else if !self.hosts.contains(host) {
            self.overflown = true;
        }
    }
}

/// A secret, or what looks like one, was on its way out.
fn is_leak(reason: Reason) -> bool {
    matches!(reason, Reason::SecretKnown | Reason::SecretPattern | Reason::PlaceholderMisplaced)
}

/// The path with [`VARIABLE`] for each segment that looks like a number, a hash, a version or a file of one.
pub fn shape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for segment in path.trim_start_matches('/').split('/').take(SHAPE_SEGMENTS_MAX) {
        out.push('/');
        out.push_str(if is_variable(segment) { VARIABLE } else { segment });
    }
    out
}

/// Would this segment be another one the next time? Numbers, dates, hashes, keys, versions, files with a version in
/// their name; not `v1`, which names an interface.
pub fn is_variable(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    let letters = bytes.iter().filter(|b| b.is_ascii_alphabetic()).count();
    let of_hex = bytes.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-');
    let dotted = bytes.windows(3).any(|w| w[0].is_ascii_digit() && w[1] == b'.' && w[2].is_ascii_digit());
    let only_number = digits > 0 && letters == 0;
    let escaped = segment.contains('%');
    only_number || dotted || escaped || (of_hex && digits > 0 && bytes.len() >= 8) || (digits > 2 && bytes.len() >= 16)
}

/// In a run that learns: looks at a request that no route allows, keeps it, and refuses it. Every other request comes
/// back untouched.
pub(crate) async fn look(
    request: Request<Incoming>,
    flow: &Flow,
    routes: &RouteSet,
    exchange: &Arc<Exchange>,
) -> Result<Request<Incoming>, Denial> {
    if !flow.gateway().is_learning() || flow.standing().is_err() {
        return Ok(request);
    }
    let Some((denial, misfits)) = refused(&request, flow, routes) else { return Ok(request) };
    let asked = asked(&request, flow);
    let rehearsed = timeout(REHEARSAL_TIME_MAX, rehearse(request, flow, exchange)).await;
    exchange.unrouted();
    exchange.missed(&misfits);
    let flaw = match rehearsed {
        Ok(Ok(())) => None,
        Ok(Err(flaw)) => Some(flaw),
        Err(_) => Some(Denial::new(Reason::LimitReached, format!("not read within {REHEARSAL_TIME_MAX:?}"))),
    };
    let unfit = asked.is_none().then_some(Reason::RequestNotAllowed);
    exchange.learn(denial.reason, flaw.as_ref().map(|flaw| flaw.reason).or(unfit), asked);
    match flaw {
        // A secret on its way out is the graver reason, and one that nobody is offered to open.
        Some(flaw) if is_leak(flaw.reason) => Err(Denial { rule: denial.rule, ..flaw }),
        Some(_) | None => Err(denial),
    }
}

/// The law's own words about the request, when it has any against it, and what of the nearest route did not fit.
fn refused(request: &Request<Incoming>, flow: &Flow, routes: &RouteSet) -> Option<(Denial, Vec<Misfit>)> {
    let permit = match routes.host_permit(flow.host(), flow.port()).into_result() {
        Ok(permit) => permit,
        Err(denial) => return Some((denial, Vec::new())),
    };
    let headers: Vec<(&str, &[u8])> =
        request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let facts = RequestFacts { headers: &headers, ..line_of(request) };
    let denial = routes.route(&permit, &facts).into_result().err()?;
    let nearest = routes.nearest(flow.host(), flow.port(), Some(&facts));
    Some((denial, nearest.map(|nearest| nearest.misfits).unwrap_or_default()))
}

fn line_of(request: &Request<Incoming>) -> RequestFacts<'_> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
    RequestFacts { method: request.method().as_str(), path, query, headers: &[] }
}

/// What is kept of the request line; nothing when its path cannot be judged or shown.
fn asked(request: &Request<Incoming>, flow: &Flow) -> Option<Asked> {
    let facts = line_of(request);
    let plain = plain_route(flow);
    let permit = plain.host_permit(flow.host(), flow.port()).into_result().ok()?;
    let git = git_use(&facts);
    let path = match git {
        GitUse::None | GitUse::Fetch => plain.route(&permit, &facts).into_result().ok()?.path().to_owned(),
        // No route says yes to a push; its path is judged by itself.
        GitUse::Push => normal_path(facts.path)?,
    };
    // A path with a secret in it is known by what is taken out of it.
    let shown = flow.gateway().clean(&path);
    let method = flow.gateway().clean(facts.method);
    (path.is_ascii() && method == facts.method).then(|| Asked { method, path: cut(&path, &shown), git })
}

/// The path as far as it may be kept.
fn cut(path: &str, shown: &str) -> Path {
    let same = path.bytes().zip(shown.bytes()).take_while(|(a, b)| a == b).count();
    if same == path.len() && path.len() <= PATH_BYTES_MAX {
        return Path::Whole(path.to_owned());
    }
    let end = path[..same.min(PATH_BYTES_MAX)].rfind('/').unwrap_or(0);
    Path::Cut(path[..end].to_owned())
}

/// What the plainest route for this very host and port would say. Nothing of it is ever in force.
fn plain_route(flow: &Flow) -> RouteSet {
    let ports = vec![flow.port()];
    let max = flow.gateway().limits.whole_body_bytes_max;
    let plain = Route::plain(1, HostPattern::Exact(flow.host().clone()));
    RouteSet::new(vec![Route { ports, git: GitAccess::Fetch, body_bytes_max: Some(max), ..plain }], 0)
}

/// Looks at the whole request as if a plain route had allowed it, and throws it away.
async fn rehearse(request: Request<Incoming>, flow: &Flow, exchange: &Arc<Exchange>) -> Result<(), Denial> {
    let plain = plain_route(flow);
    let intercepted = Intercepted::agree(request, flow, &plain, exchange)?;
    let mut scanned = intercepted.route(&plain)?.scan().await?;
    while let Some(frame) = scanned.body.frame().await {
        if frame.is_err() {
            let broken = || Denial::new(Reason::ProtocolRefused, "the request body broke off");
            return Err(scanned.gate.denial().unwrap_or_else(broken));
        }
    }
    Ok(())
}

impl Exchange {
    /// After a rehearsal: no rule took it, and nothing of it left.
    fn unrouted(&self) {
        self.forget_route();
        self.sent.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(host: &str, path: &str) -> LearnedRequest {
        let (host, id) = (Host::parse(host).unwrap(), RefusalId::from_bits(1));
        let asked = Asked { method: "GET".into(), path: Path::Whole(path.to_owned()), git: GitUse::None };
        LearnedRequest { request: Some(asked), ..LearnedRequest::connection(&host, 443, Reason::HostNotAllowed, &id) }
    }

    #[test]
    fn changing_parts_of_a_path_are_one_shape() {
        for (path, want) in [
            ("/v1/messages", "/v1/messages"),
            ("/repos/a/b/issues/42", "/repos/a/b/issues/{}"),
            ("/packages/ab/3f/0123456789abcdef0123/requests-2.31.0-py3-none-any.whl", "/packages/ab/3f/{}/{}"),
            ("/2024-01-31/x", "/{}/x"),
            ("/obj/550e8400-e29b-41d4-a716-446655440000", "/obj/{}"),
            ("/crates/serde/1.0.200/download", "/crates/serde/{}/download"),
            ("/@types%2Fnode", "/{}"),
            ("/", "/"),
            ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h"),
        ] {
            assert_eq!(shape(path), want, "{path}");
        }
    }

    #[test]
    fn ten_thousand_paths_stay_bounded_and_hide_no_other_host() {
        let mut learned = Learned::default();
        for n in 0..10_000 {
            let word: String = format!("{n:04}").bytes().map(|b| char::from(b'a' + (b - b'0'))).collect();
            learned.keep(seen("a.example", &format!("/{word}")));
        }
        assert_eq!((learned.requests().count(), learned.crowded_out), (LEARNED_PER_HOST_MAX, 10_000 - 256));
        learned.keep(seen("b.example", "/x"));
        assert!(learned.requests().any(|one| one.host.to_string() == "b.example"));
        for n in 0..10_000 {
            learned.keep(seen(&format!("h{n}.example"), "/x"));
        }
        assert_eq!((learned.requests().count(), learned.per_host.len()), (LEARNED_MAX, LEARNED_MAX - 255));
    }

    #[test]
    fn a_leak_closes_its_host_however_crowded_it_is_and_too_many_close_all() {
        let mut learned = Learned::default();
        for n in 0..LEARNED_PER_HOST_MAX {
            let word: String = format!("{n:04}").bytes().map(|b| char::from(b'a' + (b - b'0'))).collect();
            learned.keep(seen("evil.example", &format!("/{word}")));
        }
        let leak = |host: &str| LearnedRequest { flaw: Some(Reason::SecretKnown), ..seen(host, "/collect") };
        let evil = Host::parse("evil.example").unwrap();
        assert!(!learned.is_leaky(&evil));
        learned.keep(leak("evil.example"));
        assert_eq!((learned.requests().count(), learned.crowded_out), (LEARNED_PER_HOST_MAX, 1));
        assert!(learned.is_leaky(&evil) && !learned.is_leaky(&Host::parse("b.example").unwrap()));
        for n in 1..LEAKY_HOSTS_MAX {
            learned.keep(leak(&format!("h{n}.example")));
        }
        learned.keep(leak("evil.example"));
        assert!(!learned.leaks_overflown() && learned.leaky.hosts.len() == LEAKY_HOSTS_MAX);
        learned.keep(leak("one-more.example"));
        assert!(learned.leaks_overflown() && learned.leaky.hosts.len() == LEAKY_HOSTS_MAX);
        assert!(learned.is_leaky(&Host::parse("b.example").unwrap()), "nobody knows any more");
    }

    #[test]
    fn a_path_is_kept_up_to_what_may_be_shown() {
        assert_eq!(cut("/a/b", "/a/b"), Path::Whole("/a/b".into()));
        assert_eq!(cut("/a/sk-secret/c", "/a/[REDACTED]/c"), Path::Cut("/a".into()));
        assert_eq!(cut("/sk-secret", "/[REDACTED]"), Path::Cut(String::new()));
        let long = format!("/a/{}", "x".repeat(300));
        assert_eq!(cut(&long, &format!("{}…", &long[..256])), Path::Cut("/a".into()));
    }
}
