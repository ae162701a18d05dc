//! One refusal as the log has it, and the route that would have let it through.
//!
//! Whatever stands in such an entry was chosen inside a bottle: hosts and paths are parsed again before they become part
//! of a route, and whoever prints them makes them printable.
//!
//! *Must never* make a route wider than what was refused.

use std::net::IpAddr;
use std::path::Path;

use carboy_core::address::is_public;
use carboy_core::audit::Entry;
use carboy_core::host::Host;
use carboy_core::ids::RefusalId;
use carboy_core::route::{is_private_unicast, normal_path};
use carboy_core::verdict::Reason;
use carboy_manifest::edit::{NewMatch, NewPath, NewRoute};
use carboy_store::StoreError;
use carboy_store::audit::find_refusal;
use serde::Serialize;

/// A refusal, read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Its id.
    pub id: String,
    /// When, as the log has it.
    pub when: String,
    /// The run.
    pub run: Option<String>,
    /// The bottle.
    pub bottle: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// What was asked.
    pub asked: Asked,
    /// Why not.
    #[serde(serialize_with = "code")]
    pub reason: Reason,
    /// The particulars in words.
    pub detail: Option<String>,
    /// The route that was nearest then.
    pub rule: Option<String>,
    /// What of it did not fit.
    pub misfit: Vec<String>,
    /// What the scanners found: rules and fingerprints.
    pub findings: Vec<String>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Asked {
    /// A name of DNS.
    Name {
        /// The name.
        host: String,
        /// `A`, `AAAA`…
        query: String,
    },
    /// A connection on which no request was seen.
    Connection {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A request.
    Request {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Method.
        method: String,
        /// Path without the query.
        path: String,
        /// The path is not the one that was asked for: secrets were taken out, or it was too long.
        path_altered: bool,
        /// `fetch` or `push`.
        git: Option<String>,
    },
    /// A connection through a port that the operator joined.
    Port {
        /// `publish` or `forward`.
        way: String,
        /// The port inside.
        inside: u16,
        /// Where the host listens, or which service it is.
        outside: String,
    },
}

fn code<S: serde::Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.code())
}

/// What was found under an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The refusals of that id, the latest first. More than one is a rare accident.
    pub refusals: Vec<Refusal>,
    /// Bytes of the log that were too old to be searched.
    pub not_searched: u64,
}

/// Looks the refusal up in the log.
///
/// # Errors
/// When the log is not there or cannot be read.
pub fn look_up(log: &Path, id: &RefusalId) -> Result<Search, StoreError> {
    let found = find_refusal(log, id)?;
    let refusals = found.entries.iter().filter_map(Refusal::of).collect();
    Ok(Search { refusals, not_searched: found.not_searched })
}

impl Refusal {
    /// From an entry; none when it is no refusal of this version's.
    pub fn of(entry: &Entry) -> Option<Refusal> {
        let text = |name: &str| entry.detail(name).and_then(|v| v.as_str()).map(str::to_owned);
        let list = |name: &str| -> Vec<String> {
            let items = entry.detail(name).and_then(|v| v.as_array()).into_iter().flatten();
            items.filter_map(|v| v.as_str()).map(str::to_owned).collect()
        };
        let number = |name: &str| entry.detail(name).and_then(|v| v.as_u64()).and_then(|port| u16::try_from(port).ok());
        let port = || number("port");
        let of_subject = |name: &str| entry.text(name).map(str::to_owned);
        let asked = match (text("name"), text("host"), text("method")) {
            (Some(host), _, _) => Asked::Name { host, query: text("type").unwrap_or_default() },
            (None, Some(host), None) => Asked::Connection { host, port: port()? },
            (None, Some(host), Some(method)) => Asked::Request {
                host,
                port: port()?,
                method,
                path: text("path")?,
                path_altered: entry.detail("path_altered").and_then(|v| v.as_bool()).unwrap_or(false),
                git: text("git"),
            },
            (None, None, _) => Asked::Port { way: text("way")?, inside: number("inside")?, outside: text("outside")? },
        };
        Some(Refusal {
            id: text("refusal")?,
            when: of_subject("timestamp")?,
            run: of_subject("run"),
            bottle: of_subject("bottle"),
            agent: of_subject("agent"),
            asked,
            reason: Reason::from_code(&text("reason")?)?,
            detail: text("detail"),
            rule: text("rule"),
            misfit: list("misfit"),
            findings: list("findings"),
        })
    }

    /// The route that would let exactly this through, or why there is none.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn route(&self, opening: &Opening) -> Result<NewRoute, NoRoute> {
        // Whatever it was refused for: something was found in it.
        if !self.findings.is_empty() {
            return Err(NoRoute::Leak);
        }
        if self.reason.is_of_routes() {
            self.asked.route(opening)
        } else if matches!(self.reason, Reason::SecretKnown | Reason::PlaceholderMisplaced) {
            Err(NoRoute::Leak)
        } else {
            Err(NoRoute::NotARoutes(self.reason))
        }
    }
}

/// What the operator says beyond the refusal itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Path prefixes in place of the path that was refused.
    pub paths: Vec<String>,
    /// Methods in place of the one that was refused.
    pub methods: Vec<String>,
    /// A private address is meant.
    pub private: bool,
}

/// Why no route follows from a refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// A secret was on its way out.
    #[error("a secret, or what looks like one, was on its way out; nothing should open that")]
    Leak,
    /// No route would change it.
    #[error("no route opens this: {}", .0.operator_step())]
    NotARoutes(Reason),
    /// An address of this machine, its link, or a metadata service.
    #[error("{0} is this machine, its link or a metadata service; nothing opens that")]
    Inside(IpAddr),
    /// A private address.
    #[error("{0} is a private address; if it is yours, say so with --private")]
    Private(IpAddr),
    /// What was asked is no host.
    #[error("`{0}` is no host that a route can name")]
    NoHost(String),
    /// The path cannot be had back from the log.
    #[error(
        "the log does not hold the whole path, or no rule can name it; give the part to open with --path PREFIX (`--path /` is all of the host)"
    )]
    NoPath,
    /// Git push.
    #[error("git push never goes straight to a host; push from outside after looking at the commits")]
    Push,
}

impl Asked {
    /// Host or name; none for a port, which leads to one place whoever asks.
    pub fn host(&self) -> Option<&str> {
        match self {
            Asked::Name { host, .. } | Asked::Connection { host, .. } | Asked::Request { host, .. } => Some(host),
            Asked::Port { .. } => None,
        }
    }

    /// The beginning of a path that the log does not hold whole, as a rule can name it: whole segments, and never all of
    /// the host. It becomes part of a command that people copy into a shell: nothing in it means anything to one.
    pub fn kept_prefix(&self) -> Option<String> {
        let Asked::Request { path, path_altered: true, .. } = self else { return None };
        let altered = ["…", "[REDACTED"].iter().filter_map(|mark| path.find(mark)).min().unwrap_or(path.len());
        let mut kept = &path[..altered];
        // What was cut through is no whole segment; neither is anything that rules would read otherwise.
        while let Some(end) = kept.rfind('/').filter(|end| *end > 0) {
            kept = &kept[..end];
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._@+,=:".contains(&b);
            if kept.bytes().all(plain) && normal_path(kept).as_deref() == Some(kept) {
                return Some(kept.to_owned());
            }
        }
        None
    }

    fn route(&self, opening: &Opening) -> Result<NewRoute, NoRoute> {
        let named = self.host().unwrap_or_default();
        let host = Host::parse(named).map_err(|_| NoRoute::NoHost(named.to_owned()))?;
        match host.as_ip() {
            Some(ip) if is_private_unicast(ip) && !opening.private => return Err(NoRoute::Private(ip)),
            Some(ip) if !is_public(ip) && !is_private_unicast(ip) => return Err(NoRoute::Inside(ip)),
            Some(_) | None => {}
        }
        let ports = match self {
            Asked::Name { .. } | Asked::Port { .. } => Vec::new(),
            Asked::Request { git: Some(git), .. } if git == "push" => return Err(NoRoute::Push),
            Asked::Connection { port, .. } | Asked::Request { port, .. } => vec![*port],
        };
        let only = NewMatch { paths: self.paths(opening)?, methods: self.methods(opening) };
        let matches = if only == NewMatch::default() { Vec::new() } else { vec![only] };
        Ok(NewRoute { host: host.to_string(), ports, matches, git_fetch: self.is_fetch(), private: opening.private })
    }

    /// The path that was refused, the repository for git, or what the operator says.
    fn paths(&self, opening: &Opening) -> Result<Vec<NewPath>, NoRoute> {
        if !opening.paths.is_empty() {
            return Ok(opening.paths.iter().cloned().map(NewPath::Prefix).collect());
        }
        let Asked::Request { path, path_altered, .. } = self else { return Ok(Vec::new()) };
        let normal = normal_path(path).filter(|normal| !path_altered && normal.is_ascii()).ok_or(NoRoute::NoPath)?;
        Ok(vec![path_of(if self.is_fetch() { repository(&normal) } else { &normal })])
    }

    fn methods(&self, opening: &Opening) -> Vec<String> {
        match self {
            _ if !opening.methods.is_empty() => opening.methods.iter().map(|m| m.to_ascii_uppercase()).collect(),
            Asked::Request { .. } if self.is_fetch() => vec!["GET".to_owned(), "POST".to_owned()],
            Asked::Request { method, .. } => vec![method.to_ascii_uppercase()],
            Asked::Name { .. } | Asked::Connection { .. } | Asked::Port { .. } => Vec::new(),
        }
    }

    /// Is it git's clone or fetch?
    pub fn is_fetch(&self) -> bool {
        matches!(self, Asked::Request { git: Some(git), .. } if git == "fetch")
    }
}

/// The repository of a path of git's protocol.
pub(crate) fn repository(path: &str) -> &str {
    let cut = ["/info/refs", "/git-upload-pack"].iter().find_map(|end| path.strip_suffix(end));
    cut.filter(|rest| !rest.is_empty()).unwrap_or(path)
}

/// As a rule names it. Below `/` is everything, so `/` itself is exact.
pub(crate) fn path_of(path: &str) -> NewPath {
    if path == "/" { NewPath::Exact(path.to_owned()) } else { NewPath::Prefix(path.to_owned()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use carboy_manifest::edit::alone;

    pub(crate) fn request(host: &str, method: &str, path: &str, reason: Reason) -> Refusal {
        let asked = Asked::Request {
            host: host.into(),
            port: 443,
            method: method.into(),
            path: path.into(),
            path_altered: false,
            git: None,
        };
        Refusal {
            id: "x-000001".into(),
            when: "2026-01-01T00:00:00.000Z".into(),
            run: Some("r-1".into()),
            bottle: Some("work".into()),
            agent: None,
            asked,
            reason,
            detail: None,
            rule: None,
            misfit: vec![],
            findings: vec![],
        }
    }

    #[test]
    fn a_refused_request_is_opened_with_its_method_and_path_alone() {
        let route = request("a.example", "POST", "/v1/x", Reason::HostNotAllowed).route(&Opening::default()).unwrap();
        let only = NewMatch { paths: vec![NewPath::Prefix("/v1/x".into())], methods: vec!["POST".into()] };
        assert_eq!((route.ports, route.matches), (vec![443], vec![only]));
        let root = request("a.example", "GET", "/", Reason::HostNotAllowed).route(&Opening::default()).unwrap();
        assert_eq!(root.matches[0].paths, [NewPath::Exact("/".into())], "the page, not all of the host");
        let mut git = request("a.example", "GET", "/o/r.git/info/refs", Reason::GitFetchNotAllowed);
        let Asked::Request { git: kind, .. } = &mut git.asked else { unreachable!() };
        *kind = Some("fetch".into());
        let route = git.route(&Opening::default()).unwrap();
        assert_eq!(route.matches[0].paths, [NewPath::Prefix("/o/r.git".into())]);
        assert!(route.git_fetch && alone::route_of(&route).is_ok());
    }

    #[test]
    fn what_nothing_should_open_has_no_route() {
        let says = |host: &str, reason| request(host, "GET", "/x", reason).route(&Opening::default());
        assert_eq!(says("a.example", Reason::SecretKnown), Err(NoRoute::Leak));
        assert!(matches!(says("169.254.169.254", Reason::AddressNotAllowed), Err(NoRoute::Inside(_))));
        assert!(matches!(says("127.0.0.1", Reason::AddressNotAllowed), Err(NoRoute::Inside(_))));
        assert!(matches!(says("10.1.2.3", Reason::AddressNotAllowed), Err(NoRoute::Private(_))));
        let own = Opening { private: true, ..Opening::default() };
        let private = |host: &str| request(host, "GET", "/x", Reason::AddressNotAllowed).route(&own);
        assert!(private("10.1.2.3").is_ok_and(|route| route.private) && private("127.0.0.1").is_err());
        assert!(matches!(says("a.example", Reason::Injection), Err(NoRoute::NotARoutes(_))));
        assert!(matches!(says("[REDACTED].example", Reason::HostNotAllowed), Err(NoRoute::NoHost(_))));
    }

    #[test]
    fn a_path_that_the_log_does_not_have_whole_is_asked_for() {
        for path in ["/a/../../b", "/a%2Fb", "/é", "no/slash", "/a\u{fffd}b"] {
            let route = request("a.example", "GET", path, Reason::HostNotAllowed).route(&Opening::default());
            assert_eq!(route, Err(NoRoute::NoPath), "{path}");
        }
        let mut altered = request("a.example", "GET", "/x…", Reason::HostNotAllowed);
        let Asked::Request { path_altered, .. } = &mut altered.asked else { unreachable!() };
        *path_altered = true;
        assert_eq!(altered.route(&Opening::default()), Err(NoRoute::NoPath));
        assert_eq!(altered.asked.kept_prefix(), None, "`/` is all of the host");
        let said = Opening { paths: vec!["/x".into()], ..Opening::default() };
        assert_eq!(altered.route(&said).unwrap().matches[0].paths, [NewPath::Prefix("/x".into())]);
    }

    #[test]
    fn of_a_path_that_was_cut_its_whole_segments_are_kept() {
        let kept = |text: &str, altered| {
            let mut one = request("a.example", "GET", text, Reason::RequestNotAllowed);
            let Asked::Request { path_altered, .. } = &mut one.asked else { unreachable!() };
            *path_altered = altered;
            one.asked.kept_prefix()
        };
        assert_eq!(kept("/v1/files/abc…", true).as_deref(), Some("/v1/files"));
        assert_eq!(kept("/v1/[REDACTED:github_token]/x", true).as_deref(), Some("/v1"));
        assert_eq!(kept("/v1/a%2Fb/abc…", true).as_deref(), Some("/v1"));
        assert_eq!(kept("/v1/é/abc…", true).as_deref(), Some("/v1"));
        assert_eq!(kept("/v1/$(id)/a;b/abc…", true).as_deref(), Some("/v1"), "a word of a shell");
        for (text, altered) in [("/abc…", true), ("/[REDACTED:x]/y", true), ("…", true), ("/v1/x", false)] {
            assert_eq!(kept(text, altered), None, "{text}");
        }
    }

    #[test]
    fn a_refusal_at_a_joined_port_is_found_again() {
        let entry = |details: &str| {
            let line = format!(
                r#"{{"timestamp":"2026-01-01T00:00:00.000Z","event_type":"port","run":"r-1","bottle":"work","details":{{{details}}}}}"#
            );
            Refusal::of(&Entry::parse(line.as_bytes()).unwrap())
        };
        let port =
            r#""way":"forward","inside":5432,"outside":"127.0.0.1:5432","refusal":"x-000001","reason":"secret_known""#;
        let refusal = entry(port).unwrap();
        let asked = Asked::Port { way: "forward".into(), inside: 5432, outside: "127.0.0.1:5432".into() };
        assert_eq!((&refusal.asked, refusal.route(&Opening::default())), (&asked, Err(NoRoute::Leak)));
        assert_eq!(entry(r#""refusal":"x-000001","reason":"secret_known""#), None);
    }
}
