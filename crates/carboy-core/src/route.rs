//! The law of the way out: which host, port, method, path and header a bottle may use.
//!
//! Two decisions, both pure. [`RouteSet::host_permit`] is asked before anything is dialled; only its
//! [`HostPermit`] opens a connection. [`RouteSet::route`] is asked for each request on that connection; only its
//! [`RoutePermit`] lets a request go on. Absent means denied: a set without routes is a bottle without a way out.
//!
//! ```compile_fail,E0451
//! // Permits are made by the decision alone: these fields are private.
//! use carboy_core::route::{HostPermit, Reach};
//! fn forge(host: carboy_core::host::Host) -> HostPermit {
//!     HostPermit { host, port: 443, reach: Reach::Public, generation: 1 }
//! }
//! ```

use std::sync::Arc;

use regex::Regex;

use crate::address::is_public;
use crate::finding::Detector;
use crate::host::{Host, HostPattern};
use crate::ids::{MeterName, RouteId, SecretName};
use crate::verdict::{Denial, Reason, Verdict};

/// The ports of a route that names none: HTTPS and HTTP.
pub const PORTS_DEFAULT: [u16; 2] = [443, 80];

/// One route, checked.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its place and host.
    pub id: RouteId,
    /// Which hosts.
    pub host: HostPattern,
    /// On which ports; never empty.
    pub ports: Vec<u16>,
    /// Which credential is set on the way out.
    pub auth: Option<RouteAuth>,
    /// Which placeholders are replaced by their real values, and where; empty on a route with `auth`.
    pub credentials: Vec<PlaceholderAuth>,
    /// Which requests; empty means all of them (git aside).
    pub matches: Vec<RequestMatch>,
    /// Whether `git clone` and `git fetch` may use it.
    pub git: GitAccess,
    /// What is looked for and what happens on a match.
    pub dlp: DlpPolicy,
    /// Which LLM wire format it speaks, when it does.
    pub meter: Option<MeterName>,
    /// Which resolved addresses it may reach.
    pub reach: Reach,
    /// Largest request body in bytes as sent; `None` leaves streamed bodies unbounded.
    pub body_bytes_max: Option<u64>,
    /// Whether it may carry WebSockets (`websocket: true`); without it their opening is refused.
    pub websocket: bool,
}

impl Route {
    /// The route of a manifest entry that says its host and nothing else: every default of this page's fields.
    pub fn plain(index: usize, host: HostPattern) -> Route {
        Route {
            id: RouteId::new(index, &host),
            host,
            ports: PORTS_DEFAULT.to_vec(),
            auth: None,
            credentials: Vec::new(),
            matches: Vec::new(),
            git: GitAccess::default(),
            dlp: DlpPolicy::default(),
            meter: None,
            reach: Reach::default(),
            body_bytes_max: None,
            websocket: false,
        }
    }

    /// The secrets that its requests may carry.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.auth.iter().map(|auth| &auth.secret).chain(self.credentials.iter().map(|one| &one.secret))
    }
}

/// How a route is authenticated upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteAuth {
    /// Header field that is set, lower case; what the bottle sent under that name is dropped.
    pub header: String,
    /// What stands before the secret.
    pub scheme: AuthScheme,
    /// Which secret (`token_env`).
    pub secret: SecretName,
}

/// M22: what stands before the secret in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthScheme {
    /// `Bearer SECRET` (RFC 6750).
    Bearer,
    /// `token SECRET`, as some git hosts want it.
    Token,
    /// The secret alone (`x-api-key`).
    Bare,
    /// Anthropic takes two kinds of secret in two places, and which one a run holds is known only when it is
    /// resolved: an OAuth token (`sk-ant-oat…`) goes as `authorization: Bearer TOKEN`, an API key as
    /// `x-api-key: KEY`. [`RouteAuth::header`] is `x-api-key`; ask [`RouteAuth::placement`].
    AnthropicByToken,
}

/// What begins an Anthropic OAuth token, as `claude setup-token` prints it.
const ANTHROPIC_OAUTH_PREFIX: &str = "sk-ant-oat";

impl RouteAuth {
    /// Header field (lower case) and what stands before the secret in it.
    pub fn placement(&self, secret: &str) -> (&str, &'static str) {
        match self.scheme {
            AuthScheme::Bearer => (&self.header, "Bearer "),
            AuthScheme::Token => (&self.header, "token "),
            AuthScheme::Bare => (&self.header, ""),
            AuthScheme::AnthropicByToken if secret.starts_with(ANTHROPIC_OAUTH_PREFIX) => ("authorization", "Bearer "),
            AuthScheme::AnthropicByToken => (&self.header, ""),
        }
    }

    /// Every header field whose value from inside the bottle is dropped, whichever of them is then set: a second
    /// credential under the other name would let the bottle choose the account.
    pub fn replaced_headers(&self) -> Vec<&str> {
        match self.scheme {
            AuthScheme::Bearer | AuthScheme::Token | AuthScheme::Bare => vec![&self.header],
            AuthScheme::AnthropicByToken => vec![&self.header, "authorization"],
        }
    }
}

/// Whether git's smart protocol may read through a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum GitAccess {
    /// Neither clone nor fetch.
    #[default]
    Denied,
    /// `git: {fetch: true}`.
    Fetch,
}

/// Which addresses a route's host may resolve to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reach {
    /// Global unicast only.
    #[default]
    Public,
    /// Any address except this machine's loopback and link-local ones (`private: true`).
    Private,
}

/// One entry of `matches`: every part that is given has to hold.
#[derive(Clone, Debug, Default)]
pub struct RequestMatch {
    /// Any of these; empty means any path.
    pub paths: Vec<PathMatch>,
    /// Any of these, upper case; empty means any method.
    pub methods: Vec<String>,
    /// All of these.
    pub headers: Vec<HeaderMatch>,
}

/// How a path is compared, always with its normal form (see [`normal_path`]).
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The same path.
    Exact(String),
    /// The path itself, or anything below it at a `/` boundary.
    Prefix(String),
    /// The whole path matches (anchored at both ends).
    Regex(Regex),
}

/// How a header field is compared.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// What one of its values has to be.
    pub value: HeaderValueMatch,
}

/// How a header's value is compared.
#[derive(Clone, Debug)]
pub enum HeaderValueMatch {
    /// The same bytes.
    Exact(String),
    /// The whole value matches (anchored at both ends).
    Regex(Regex),
}

/// What is scanned for on a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DlpPolicy {
    /// Subset of the outbound detectors; all by default.
    pub outbound: Vec<Detector>,
    /// Subset of the inbound detectors; all by default.
    pub inbound: Vec<Detector>,
    /// What happens on an outbound match.
    pub outbound_on_match: OnMatch,
}

impl Default for DlpPolicy {
    fn default() -> Self {
        DlpPolicy {
            outbound: vec![Detector::TokenPatterns, Detector::KnownSecrets],
            inbound: vec![Detector::NaiveInjectionDetection],
            outbound_on_match: OnMatch::default(),
        }
    }
}

/// M24: what happens on an outbound match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnMatch {
    /// Refuse.
    Block,
    /// Overwrite the match and go on.
    Redact,
    /// Refuse at once; an operator may be asked. Without an operator it is a refusal.
    #[default]
    Supervise,
}

/// The facts of one request that the law looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// Upper case, as on the wire.
    pub method: &'a str,
    /// Path without the query, as on the wire.
    pub path: &'a str,
    /// Query without the `?`, empty when there is none.
    pub query: &'a str,
    /// Lower-case names and raw values.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// All routes of a bottle, in order, with the generation they belong to.
#[derive(Clone, Debug, Default)]
pub struct RouteSet {
    routes: Vec<Arc<Route>>,
    generation: u64,
}

/// This host and port may be dialled. Made by [`RouteSet::host_permit`] alone.
#[derive(Clone, Debug)]
pub struct HostPermit {
    host: Host,
    port: u16,
    reach: Reach,
    generation: u64,
}

impl HostPermit {
    /// The host that was decided on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port that was decided on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The generation of the routes that it was decided by.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Which of the resolved addresses may be dialled: judged on the very address that is dialled (B31).
    pub fn check_address(&self, ip: std::net::IpAddr) -> Result<(), Denial> {
        let ok = match (self.reach, self.host.as_ip()) {
            // A route that names an address means that address, public or not.
            (_, Some(own)) => own == ip,
            (Reach::Public, None) => is_public(ip),
            (Reach::Private, None) => is_public(ip) || is_private_unicast(ip),
        };
        if ok { Ok(()) } else { Err(Denial::new(Reason::AddressNotPublic, format!("{} resolves to {ip}", self.host))) }
    }
}

/// This request may use this route. Made by [`RouteSet::route`] alone.
#[derive(Clone, Debug)]
pub struct RoutePermit {
    route: Arc<Route>,
    path: String,
    method: String,
    /// The request asked for another method or path beside its line: it cannot be judged again by these two alone.
    overrides: bool,
}

impl RoutePermit {
    /// The route that allowed it.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The path as it was judged, without the query. It is the one to send: servers resolve `//..`, `;..` and `..` in
    /// different orders, and whatever is sent as it came could mean another path to one of them.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Does the request ask for another method or path beside its line?
    pub fn overrides(&self) -> bool {
        self.overrides
    }
}

impl RouteSet {
    /// `generation` counts reloads; open connections of an older one are asked again.
    pub fn new(routes: Vec<Route>, generation: u64) -> Self {
        RouteSet { routes: routes.into_iter().map(Arc::new).collect(), generation }
    }

    /// Which load of the manifest this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The routes in order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(Arc::as_ref)
    }

    /// Every port that some route names, sorted, once each.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.iter().flat_map(|route| route.ports.iter().copied()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Does some route name this host, on whatever port? (What DNS answers.)
    pub fn names_host(&self, host: &Host) -> bool {
        self.iter().any(|route| route.host.matches(host))
    }

    /// May this host and port be dialled at all?
    pub fn host_permit(&self, host: &Host, port: u16) -> Verdict<HostPermit> {
        let named: Vec<&Route> = self.iter().filter(|route| route.host.matches(host)).collect();
        let Some(first) = named.first() else {
            let reason = match host {
                Host::Name(_) => Reason::HostNotAllowed,
                Host::V4(_) | Host::V6(_) => Reason::AddressNotAllowed,
            };
            return Verdict::Deny(Denial::new(reason, format!("{host} port {port}")));
        };
        let on_port: Vec<&&Route> = named.iter().filter(|route| route.ports.contains(&port)).collect();
        if on_port.is_empty() {
            let ports: Vec<String> = named.iter().flat_map(|r| &r.ports).map(u16::to_string).collect();
            let detail = format!("{host} port {port}; allowed: {}", ports.join(", "));
            return Verdict::Deny(Denial::new(Reason::PortNotAllowed, detail).by(&first.id));
        }
        let reach = if on_port.iter().all(|r| r.reach == Reach::Private) { Reach::Private } else { Reach::Public };
        Verdict::Allow(HostPermit { host: host.clone(), port, reach, generation: self.generation })
    }

    /// May this request go where the permit says? The first route that allows it wins.
    pub fn route(&self, host: &HostPermit, request: &RequestFacts<'_>) -> Verdict<RoutePermit> {
        let Some(readings) = Readings::of(request.path) else {
            return Verdict::Deny(Denial::new(Reason::RequestNotAllowed, "the path escapes its root or is not valid"));
        };
        let git = git_operation(&readings, request.query);
        if git == GitOperation::Push {
            return Verdict::Deny(Denial::new(Reason::GitPushNotAllowed, host.host.to_string()));
        }
        let candidates = || self.routes.iter().filter(|r| r.host.matches(&host.host) && r.ports.contains(&host.port));
        let mut refused = None;
        for route in candidates() {
            if !route.matches.is_empty() && !route.matches.iter().any(|m| m.allows(request, &readings)) {
                continue;
            }
            if git == GitOperation::Fetch && route.git == GitAccess::Denied {
                refused = Some(Denial::new(Reason::GitFetchNotAllowed, host.host.to_string()).by(&route.id));
                continue;
            }
            let (method, overrides) = (request.method.to_owned(), why::overrides(request));
            return Verdict::Allow(RoutePermit { route: route.clone(), path: readings.sent, method, overrides });
        }
        Verdict::Deny(refused.unwrap_or_else(|| {
            let detail = format!("{} {} on {}", request.method, readings.sent, host.host);
            let denial = Denial::new(Reason::RequestNotAllowed, detail);
            match candidates().next() {
                Some(route) => denial.by(&route.id),
                None => denial,
            }
        }))
    }
}

/// Fields by which many servers take another method than the one in the request line.
const METHOD_OVERRIDES: &[&str] = &["x-http-method-override", "x-http-method", "x-method-override"];
/// Their like in a query, lower case.
const METHOD_PARAMETERS: &[&str] = &["_method", "$httpmethod"];
/// Fields by which some servers take another path than the one in the request line.
const PATH_OVERRIDES: &[&str] = &["x-original-url", "x-rewrite-url"];

impl RequestMatch {
    fn allows(&self, request: &RequestFacts<'_>, readings: &Readings) -> bool {
        let one_path = |path: &str| self.paths.iter().any(|p| p.allows(path));
        let any_path = self.paths.is_empty()
            || (readings.all().all(one_path) && !request.headers.iter().any(|(name, _)| is_one(name, PATH_OVERRIDES)));
        let one_method = |method: &str| self.methods.iter().any(|m| m == method);
        let any_method = self.methods.is_empty()
            || (one_method(request.method) && overriding_methods(request).iter().all(|method| one_method(method)));
        any_path && any_method && self.headers.iter().all(|h| h.allows(request.headers))
    }
}

/// Servers that hand fields on as variables know no difference between `_` and `-`.
fn is_one(name: &str, list: &[&str]) -> bool {
    list.contains(&&*name.replace('_', "-"))
}

/// Every other method that the request names: a rule for `POST` is none for a `POST` that asks to be a `DELETE`.
fn overriding_methods(request: &RequestFacts<'_>) -> Vec<String> {
    let fields = request.headers.iter().filter(|(name, _)| is_one(name, METHOD_OVERRIDES));
    let mut methods: Vec<String> =
        fields.map(|(_, value)| String::from_utf8_lossy(value).trim().to_ascii_uppercase()).collect();
    for pair in request.query.split(['&', ';']) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if METHOD_PARAMETERS.contains(&&*String::from_utf8_lossy(&percent_decoded(name)).to_ascii_lowercase()) {
            methods.push(String::from_utf8_lossy(&percent_decoded(value)).trim().to_ascii_uppercase());
        }
    }
    methods
}

impl PathMatch {
    fn allows(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(want) => path == want,
            PathMatch::Prefix(want) => match path.strip_prefix(want.as_str()) {
                Some(rest) => rest.is_empty() || want.ends_with('/') || rest.starts_with('/'),
                None => false,
            },
            PathMatch::Regex(regex) => whole(regex, path),
        }
    }
}

impl HeaderMatch {
    /// Every value under the name has to match: with two, one parser upstream might take the other.
    fn allows(&self, headers: &[(&str, &[u8])]) -> bool {
        let mut values = headers.iter().filter(|(name, _)| *name == self.name).peekable();
        values.peek().is_some()
            && values.all(|(_, value)| match (&self.value, std::str::from_utf8(value)) {
                (HeaderValueMatch::Exact(want), Ok(value)) => value == want,
                (HeaderValueMatch::Regex(regex), Ok(value)) => whole(regex, value),
                (HeaderValueMatch::Exact(_) | HeaderValueMatch::Regex(_), Err(_)) => false,
            })
    }
}

/// Manifests compile their expressions as `^(?:…)$`; asking for the whole span as well costs nothing and does not
/// rest on that.
fn whole(regex: &Regex, text: &str) -> bool {
    regex.find(text).is_some_and(|m| m.start() == 0 && m.end() == text.len())
}

/// Is the address in private space that `private: true` may open? Loopback and link local stay out even then: they
/// are this machine and its metadata service.
pub fn is_private_unicast(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(v4) => {
            v4.is_private()
                || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64 && v4.octets() != [100, 100, 100, 200])
        }
        std::net::IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.is_private(),
            // fd00:ec2::254 is a metadata service in private space.
            None => v6.segments()[0] & 0xfe00 == 0xfc00 && v6.segments()[..2] != [0xfd00, 0x0ec2],
        },
    }
}

mod git;
mod path;
mod placeholder;
mod why;

use git::{GitOperation, git_operation};
pub use path::normal_path;
use path::{Readings, percent_decoded};
pub use placeholder::{BasicPart, CREDENTIALS_MAX, PlaceholderAuth, PlaceholderIn};
pub use why::{GitUse, Misfit, Nearest, git_use};

#[cfg(test)]
mod tests;
