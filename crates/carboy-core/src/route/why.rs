//! Why a request did not fit, and whether one that was let through still would be.
//!
//! Nothing here allows anything: [`super::RouteSet::host_permit`] and [`super::RouteSet::route`] are the law. This page
//! explains their answers to people, and says which open exchanges a change of the routes has left without a rule.

use std::fmt;

use super::{
    GitAccess, GitOperation, PATH_OVERRIDES, Readings, RequestFacts, RequestMatch, Route, RoutePermit, RouteSet,
    git_operation, is_one, overriding_methods,
};
use crate::host::Host;

/// One part of a route that a request does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Another port; these are the route's.
    Port(Vec<u16>),
    /// Another method; these are the route's. Also when the request asks by a field or a parameter for another one.
    Method(Vec<String>),
    /// Another path.
    Path,
    /// A header field of this name is missing or has another value.
    Header(String),
    /// The route does not say `git: {fetch: true}`.
    GitFetch,
}

impl Misfit {
    /// One word for the log: `port`, `method`, `path`, `header NAME`, `git`.
    pub fn word(&self) -> String {
        match self {
            Misfit::Port(_) => "port".to_owned(),
            Misfit::Method(_) => "method".to_owned(),
            Misfit::Path => "path".to_owned(),
            Misfit::Header(name) => format!("header {name}"),
            Misfit::GitFetch => "git".to_owned(),
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Port(ports) => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(f, "the port (the route has {})", ports.join(", "))
            }
            Misfit::Method(methods) => write!(f, "the method (the route has {})", methods.join(", ")),
            Misfit::Path => f.write_str("the path"),
            Misfit::Header(name) => write!(f, "the header field `{name}`"),
            Misfit::GitFetch => f.write_str("git clone and fetch, which the route does not allow"),
        }
    }
}

/// The route that came closest.
#[derive(Clone, Debug)]
pub struct Nearest<'r> {
    /// The route.
    pub route: &'r Route,
    /// What did not fit; empty when everything did.
    pub misfits: Vec<Misfit>,
}

/// What git's protocol wants of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitUse {
    /// It is none of git's.
    None,
    /// Clone or fetch.
    Fetch,
    /// Push.
    Push,
}

/// Is this request one of git's over HTTP? [`GitUse::None`] also for a path that no rule can judge.
pub fn git_use(request: &RequestFacts<'_>) -> GitUse {
    match Readings::of(request.path).map(|readings| git_operation(&readings, request.query)) {
        Some(GitOperation::Fetch) => GitUse::Fetch,
        Some(GitOperation::Push) => GitUse::Push,
        Some(GitOperation::None) | None => GitUse::None,
    }
}

impl RouteSet {
    /// The route for this host that the request misses by least; none when no route names the host. Without a request
    /// only the port is looked at.
    pub fn nearest(&self, host: &Host, port: u16, request: Option<&RequestFacts<'_>>) -> Option<Nearest<'_>> {
        let named = self.iter().filter(|route| route.host.matches(host));
        let all = named.map(|route| Nearest { route, misfits: misfits(route, port, request) });
        // Of several that miss by as much, the first: it is the one that the denial names.
        all.min_by_key(|nearest| nearest.misfits.len())
    }

    /// Would what was let through be let through by these routes as well: by the same rule, or by another one with the
    /// same credential? (E2: what no longer would is closed.)
    pub fn stands(&self, permit: &RoutePermit, host: &Host, port: u16) -> bool {
        let same = |route: &Route| rule_text(route) == rule_text(&permit.route);
        let other = |route: &Route| {
            let facts = RequestFacts { method: &permit.method, path: &permit.path, query: "", headers: &[] };
            !permit.overrides
                && route.auth == permit.route.auth
                && route.credentials == permit.route.credentials
                && route.reach == permit.route.reach
                && misfits(route, port, Some(&facts)).is_empty()
        };
        self.iter().filter(|route| route.host.matches(host)).any(|route| same(route) || other(route))
    }
}

/// What a route says about who may pass; expressions have no equality, their text does.
fn rule_text(route: &Route) -> String {
    let Route {
        id: _,
        host,
        ports,
        auth,
        credentials,
        matches,
        git,
        dlp: _,
        meter: _,
        reach,
        body_bytes_max: _,
        websocket: _,
    } = route;
    format!("{host:?} {ports:?} {auth:?} {credentials:?} {matches:?} {git:?} {reach:?}")
}

fn misfits(route: &Route, port: u16, request: Option<&RequestFacts<'_>>) -> Vec<Misfit> {
    let mut out = Vec::new();
    if !route.ports.contains(&port) {
        out.push(Misfit::Port(route.ports.clone()));
    }
    let Some(request) = request else { return out };
    let Some(readings) = Readings::of(request.path) else {
        out.push(Misfit::Path);
        return out;
    };
    let of_matches = route.matches.iter().map(|one| misfits_of(one, request, &readings)).min_by_key(Vec::len);
    out.extend(of_matches.unwrap_or_default());
    if git_operation(&readings, request.query) == GitOperation::Fetch && route.git == GitAccess::Denied {
        out.push(Misfit::GitFetch);
    }
    out
}

/// The same questions as [`RequestMatch::allows`] asks, one by one.
fn misfits_of(one: &RequestMatch, request: &RequestFacts<'_>, readings: &Readings) -> Vec<Misfit> {
    let mut out = Vec::new();
    let path_of_another = request.headers.iter().any(|(name, _)| is_one(name, PATH_OVERRIDES));
    let path_fits = readings.all().all(|path| one.paths.iter().any(|p| p.allows(path))) && !path_of_another;
    if !one.paths.is_empty() && !path_fits {
        out.push(Misfit::Path);
    }
    let fits = |method: &str| one.methods.iter().any(|m| m == method);
    let method_fits = fits(request.method) && overriding_methods(request).iter().all(|m| fits(m));
    if !one.methods.is_empty() && !method_fits {
        out.push(Misfit::Method(one.methods.clone()));
    }
    out.extend(one.headers.iter().filter(|h| !h.allows(request.headers)).map(|h| Misfit::Header(h.name.clone())));
    out
}

/// Does the request ask, beside its line, for another method or path?
pub(super) fn overrides(request: &RequestFacts<'_>) -> bool {
    !overriding_methods(request).is_empty() || request.headers.iter().any(|(name, _)| is_one(name, PATH_OVERRIDES))
}

#[cfg(test)]
mod tests {
    use super::super::{HeaderMatch, HeaderValueMatch, PathMatch};
    use super::*;
    use crate::host::HostPattern;

    fn route(index: usize, host: &str, methods: &[&str], paths: &[&str]) -> Route {
        let matches = vec![RequestMatch {
            paths: paths.iter().map(|p| PathMatch::Prefix((*p).to_owned())).collect(),
            methods: methods.iter().map(|m| (*m).to_owned()).collect(),
            headers: Vec::new(),
        }];
        Route { matches, ..Route::plain(index, HostPattern::parse(host).unwrap()) }
    }

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    fn facts<'a>(method: &'a str, path: &'a str) -> RequestFacts<'a> {
        RequestFacts { method, path, query: "", headers: &[] }
    }

    #[test]
    fn the_nearest_route_is_the_one_that_misses_by_least() {
        let mut headed = route(2, "a.example", &["POST"], &["/v2"]);
        let value = HeaderValueMatch::Exact("1".into());
        headed.matches[0].headers = vec![HeaderMatch { name: "x-team".into(), value }];
        let set = RouteSet::new(vec![route(1, "a.example", &["GET"], &["/v1"]), headed], 1);
        let says = |port, method, path| {
            let facts = facts(method, path);
            let nearest = set.nearest(&host("a.example"), port, Some(&facts)).unwrap();
            let words: Vec<String> = nearest.misfits.iter().map(Misfit::word).collect();
            (nearest.route.id.to_string(), words.join(" "))
        };
        let told = |route: &str, words: &str| (route.to_owned(), words.to_owned());
        assert_eq!(says(443, "DELETE", "/v1/x"), told("r1:a.example", "method"));
        assert_eq!(says(443, "GET", "/x"), told("r1:a.example", "path"));
        assert_eq!(says(443, "POST", "/v2"), told("r2:a.example", "header x-team"));
        assert_eq!(says(8443, "GET", "/v1"), told("r1:a.example", "port"));
        assert_eq!(says(443, "GET", "/v1/r/info/refs"), told("r1:a.example", "git"));
        assert!(set.nearest(&host("b.example"), 443, None).is_none());
    }

    #[test]
    fn whatever_the_law_allows_has_no_misfit_and_whatever_it_refuses_has_one() {
        let set = RouteSet::new(
            vec![route(1, "a.example", &["GET"], &["/v1"]), route(2, "a.example", &["POST"], &["/v1/x"])],
            1,
        );
        let permit = set.host_permit(&host("a.example"), 443).into_result().unwrap();
        for method in ["GET", "POST", "PUT"] {
            for path in ["/", "/v1", "/v1/x", "/v1/x%2Fy", "/v1/../v2", "/v1/git-upload-pack", "/..", "*"] {
                let facts = facts(method, path);
                let allowed = set.route(&permit, &facts).into_result().is_ok();
                let nearest = set.nearest(&host("a.example"), 443, Some(&facts)).unwrap();
                assert_eq!(allowed, nearest.misfits.is_empty(), "{method} {path}");
            }
        }
    }

    #[test]
    fn an_exchange_stands_by_its_own_rule_or_by_one_that_allows_as_much() {
        // E2
        let old = RouteSet::new(vec![route(1, "a.example", &["GET"], &["/v1"])], 1);
        let permit = old.host_permit(&host("a.example"), 443).into_result().unwrap();
        let allowed = old.route(&permit, &facts("GET", "/v1/x")).into_result().unwrap();
        let by = |routes: Vec<Route>| RouteSet::new(routes, 2).stands(&allowed, &host("a.example"), 443);
        let other = |index| route(index, "b.example", &[], &[]);
        assert!(by(vec![other(1), route(2, "a.example", &["GET"], &["/v1"])]), "renumbered");
        assert!(by(vec![route(1, "a.example", &["GET", "POST"], &["/v1", "/v2"])]), "widened");
        assert!(by(vec![route(1, "*.example", &[], &["/v1/x"])]), "another rule that allows it");
        assert!(!by(vec![route(1, "a.example", &["GET"], &["/v2"])]), "another path");
        assert!(!by(vec![other(1)]) && !by(vec![]), "withdrawn");
        let disguised = RequestFacts { query: "_method=GET", ..facts("GET", "/v1/x") };
        let disguised = old.route(&permit, &disguised).into_result().unwrap();
        let widened = RouteSet::new(vec![route(1, "a.example", &["GET", "POST"], &["/v1"])], 2);
        assert!(!widened.stands(&disguised, &host("a.example"), 443), "what was not kept cannot be judged again");
    }
}
