//! Why something was refused, whether it would be now, and what would allow it.
//!
//! The entry in the log says what was decided then. The same law is asked again with the bottle's file as it is now, so
//! that nobody opens a route that is open already, or wonders about one that a later change has closed.
//!
//! Header fields and queries are in no log: what depends on them is said to be unknown.
//!
//! *Must never* say that something is allowed which the log cannot show to be, or offer to open what leaks.

use carboy_core::host::Host;
use carboy_core::ids::BottleName;
use carboy_core::route::{Misfit, Nearest, RequestFacts, RouteSet};
use carboy_core::verdict::Reason;
use carboy_manifest::edit::{NewPath, NewRoute};
use carboy_manifest::{ManifestFiles, Places, routes_of};
use serde::Serialize;

use crate::grants::GrantView;
use crate::refusal::{Asked, NoRoute, Opening, Refusal};

/// What `carboy explain` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The refusal itself.
    pub refusal: Refusal,
    /// What the reason means, in words.
    pub what: &'static str,
    /// Where it is documented.
    pub docs: String,
    /// How it would be decided now.
    pub now: Now,
    /// What would allow it.
    pub allow: Allow,
}

/// How it would be decided now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Now {
    /// A route allows it.
    Allowed {
        /// Which.
        route: String,
    },
    /// The routes have nothing against it; it was refused for something else.
    NotTheRoutes,
    /// It would be refused again.
    Refused {
        /// For this.
        reason: &'static str,
        /// In words.
        what: &'static str,
        /// The route that comes nearest.
        nearest: Option<Near>,
    },
    /// The bottle's file cannot be asked, or what it depends on is in no log.
    Unknown {
        /// Why.
        why: String,
        /// The route that allows the method and the path in the log, when it is only about what was asked beside them.
        #[serde(skip_serializing_if = "Option::is_none")]
        route: Option<String>,
    },
}

/// The route that comes nearest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Near {
    /// Its place and host.
    pub route: String,
    /// What of it does not fit.
    pub misfit: Vec<String>,
}

/// What would allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Allow {
    /// These commands, each with what it would open.
    By(Vec<Command>),
    /// Nothing should, or none can, for this reason.
    Nothing(String),
}

/// A command and its consequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Command {
    /// As it is typed.
    pub command: String,
    /// What it opens.
    pub opens: String,
    /// Where, and so for how long.
    pub lasting: Lasting,
}

/// Where a command opens something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lasting {
    /// In the bottle's file, for good.
    ForGood,
    /// In the runs that live; of use only while one does.
    WhileItLives,
}

/// Explains a refusal; `grants` are those that are in force in living runs of its bottle.
pub fn explain(refusal: Refusal, files: &dyn ManifestFiles, places: &Places, grants: &[GrantView]) -> Explanation {
    let now = now(&refusal, files, places, grants);
    Explanation {
        what: refusal.reason.what(),
        docs: format!("docs/refusals.md#{}", refusal.reason.code()),
        allow: allow(&refusal, &now),
        now,
        refusal,
    }
}

fn now(refusal: &Refusal, files: &dyn ManifestFiles, places: &Places, grants: &[GrantView]) -> Now {
    let unknown = |why: String| Now::Unknown { why, route: None };
    let Some(bottle) = &refusal.bottle else { return unknown("the entry names no bottle".into()) };
    let Ok(bottles) = bottles_of(bottle, files, places) else {
        return unknown(format!("`{bottle}` is no bottle's name"));
    };
    let Ok(base) = routes_of(files, places, &bottles) else {
        return unknown(format!("the file of bottle {bottle} is not valid or gone; `carboy check` says more"));
    };
    let granted = grants.iter().filter_map(|grant| {
        let route = carboy_manifest::edit::alone::route_of(&grant.route).ok()?;
        let id = carboy_core::ids::GrantId::parse(&grant.id).ok()?;
        Some(carboy_core::route::Route { id: carboy_core::ids::RouteId::granted(&id, &route.host), ..route })
    });
    decide(refusal, &RouteSet::new(base.iter().cloned().chain(granted).collect(), 1))
}

/// The bottles of a run; two that ran as one have a joint name (see `carboy_manifest::load`).
fn bottles_of(name: &str, files: &dyn ManifestFiles, places: &Places) -> Result<Vec<BottleName>, ()> {
    let exists = files.exists(&places.bottles().join(format!("{name}.md")));
    let names: Vec<&str> = if exists { vec![name] } else { name.split("--").collect() };
    names.into_iter().map(|name| BottleName::parse(name).map_err(|_| ())).collect()
}

/// Asks the law again.
fn decide(refusal: &Refusal, routes: &RouteSet) -> Now {
    let Some(Ok(host)) = refusal.asked.host().map(Host::parse) else {
        return match &refusal.asked {
            Asked::Port { .. } if refusal.reason != Reason::SecretKnown => {
                let why =
                    "no route decides about a joined port; whether its other side takes a connection shows itself";
                Now::Unknown { why: why.to_owned(), route: None }
            }
            Asked::Port { .. } => Now::NotTheRoutes,
            Asked::Name { .. } | Asked::Connection { .. } | Asked::Request { .. } => no(refusal.reason, None),
        };
    };
    let allowed = match &refusal.asked {
        Asked::Port { .. } => return Now::NotTheRoutes,
        Asked::Name { .. } => {
            return match routes.iter().find(|route| route.host.matches(&host)) {
                Some(_) if !of_routes(refusal.reason) => Now::NotTheRoutes,
                Some(route) => Now::Allowed { route: route.id.to_string() },
                None => no(Reason::NameNotAllowed, None),
            };
        }
        Asked::Connection { port, .. } => {
            let nearest = routes.nearest(&host, *port, None);
            match routes.host_permit(&host, *port).into_result() {
                Ok(_) => Ok(nearest.map(|near| near.route.id.to_string()).unwrap_or_default()),
                Err(denial) => Err((denial, nearest)),
            }
        }
        Asked::Request { port, method, path, git, .. } => {
            let query = match git.as_deref() {
                Some("push") => "service=git-receive-pack",
                Some(_) | None => "",
            };
            let facts = RequestFacts { method, path, query, headers: &[] };
            let permit = routes.host_permit(&host, *port).into_result();
            let nearest = || routes.nearest(&host, *port, Some(&facts));
            match permit.and_then(|permit| Ok((routes.route(&permit, &facts).into_result()?, permit))) {
                Ok((allowed, permit)) => {
                    let route = allowed.route().id.to_string();
                    let beside = asked_beside(&refusal.misfit);
                    let whatever = RequestFacts { headers: &beside, ..facts };
                    if of_routes(refusal.reason) && routes.route(&permit, &whatever).into_result().is_err() {
                        return beside_the_line(route);
                    }
                    Ok(route)
                }
                Err(denial) => Err((denial, nearest())),
            }
        }
    };
    match allowed {
        Ok(_) if !of_routes(refusal.reason) => Now::NotTheRoutes,
        Ok(route) => Now::Allowed { route },
        Err((denial, nearest)) => no(denial.reason, nearest),
    }
}

/// Fields that ask for another method or path than the request line's, for what did not fit then: it may have been one
/// of these, or its like in the query, and no log holds them. Their values fit no rule.
fn asked_beside(misfit: &[String]) -> Vec<(&'static str, &'static [u8])> {
    let fields: [(&str, &str, &[u8]); 2] =
        [("method", "x-http-method-override", b"(not known)"), ("path", "x-original-url", b"(not known)")];
    let possible = fields.into_iter().filter(|(word, ..)| misfit.iter().any(|one| one == word));
    possible.map(|(_, name, value)| (name, value)).collect()
}

fn beside_the_line(route: String) -> Now {
    let why = format!(
        "unknown: route {route} allows this method and path by now, but a header field or the query may have asked for \
         others (`X-HTTP-Method-Override`, `_method`, `X-Original-URL`), and no log holds those"
    );
    Now::Unknown { why, route: Some(route) }
}

fn no(reason: Reason, nearest: Option<Nearest<'_>>) -> Now {
    let nearest = nearest
        .filter(|near| !near.misfits.is_empty())
        .map(|near| Near { route: near.route.id.to_string(), misfit: near.misfits.iter().map(in_words).collect() });
    Now::Refused { reason: reason.code(), what: reason.what(), nearest }
}

fn in_words(misfit: &Misfit) -> String {
    match misfit {
        Misfit::Header(_) => format!("{misfit}, which no log holds: with the right one it would be allowed"),
        Misfit::Port(_) | Misfit::Method(_) | Misfit::Path | Misfit::GitFetch => misfit.to_string(),
    }
}

/// Do the routes alone decide this?
fn of_routes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::HostNotAllowed
            | Reason::NameNotAllowed
            | Reason::PortNotAllowed
            | Reason::AddressNotAllowed
            | Reason::RequestNotAllowed
            | Reason::GitFetchNotAllowed
    )
}

fn allow(refusal: &Refusal, now: &Now) -> Allow {
    if let (Now::Allowed { route }, true) = (now, refusal.findings.is_empty()) {
        return Allow::Nothing(format!("route {route} allows it by now; asking again is enough"));
    }
    if let Now::Unknown { route: Some(route), .. } = now {
        return Allow::Nothing(format!(
            "ask again: if it is refused once more, it asks for another method or path beside its request line, and \
             route {route} has to name that one too"
        ));
    }
    let by = |more: &str, route: &NewRoute| {
        let commands = [
            ("", "for good, in the bottle's file", Lasting::ForGood),
            (" --for 1h", "in the living runs, for an hour", Lasting::WhileItLives),
        ];
        let commands = commands.map(|(how, where_, lasting)| Command {
            command: format!("carboy allow {}{more}{how}", refusal.id),
            opens: format!("{}, {where_}", opens(route)),
            lasting,
        });
        Allow::By(commands.into())
    };
    match refusal.route(&Opening::default()) {
        Ok(route) => by("", &route),
        Err(NoRoute::Private(_)) => {
            let own = Opening { private: true, ..Opening::default() };
            match refusal.route(&own) {
                Ok(route) => by(" --private", &route),
                Err(why) => Allow::Nothing(why.to_string()),
            }
        }
        Err(NoRoute::NoPath) => {
            // Never all of the host for the sake of one path: that is for the operator to say.
            let Some(kept) = refusal.asked.kept_prefix() else { return Allow::Nothing(NoRoute::NoPath.to_string()) };
            let of_it = Opening { paths: vec![kept.clone()], ..Opening::default() };
            match refusal.route(&of_it) {
                Ok(route) => by(&format!(" --path {kept}"), &route),
                Err(why) => Allow::Nothing(why.to_string()),
            }
        }
        Err(
            why @ (NoRoute::Leak | NoRoute::NotARoutes(_) | NoRoute::Inside(_) | NoRoute::NoHost(_) | NoRoute::Push),
        ) => Allow::Nothing(why.to_string()),
    }
}

/// What a route opens, in words: `GET /v1 and below on api.example.org:443`.
pub fn opens(route: &NewRoute) -> String {
    let ports: Vec<String> = route.ports.iter().map(u16::to_string).collect();
    let at = match &ports[..] {
        [] => format!("{} (ports 443 and 80)", route.host),
        ports => ports.iter().map(|port| format!("{}:{port}", route.host)).collect::<Vec<_>>().join(" and "),
    };
    let path = |path: &NewPath| match path {
        NewPath::Prefix(path) if path == "/" => "every path".to_owned(),
        NewPath::Prefix(path) => format!("{path} and below"),
        NewPath::Exact(path) => format!("{path} alone"),
    };
    let parts: Vec<String> = route
        .matches
        .iter()
        .map(|one| {
            let methods = if one.methods.is_empty() { "every method".to_owned() } else { one.methods.join(", ") };
            let paths: Vec<String> = one.paths.iter().map(path).collect();
            format!("{methods} {}", if paths.is_empty() { "on every path".to_owned() } else { paths.join(", ") })
        })
        .collect();
    let mut out =
        if parts.is_empty() { format!("everything on {at}") } else { format!("{} on {at}", parts.join("; ")) };
    if route.git_fetch {
        out.push_str(", git clone and fetch");
    }
    if route.private {
        out.push_str(", at private addresses");
    }
    out
}

#[cfg(test)]
mod tests {
    use carboy_manifest::MapFiles;

    use super::*;
    use crate::refusal::tests::request;

    fn explained(routes: &str, refusal: Refusal) -> Explanation {
        let places = Places { carboy_home: "/h/.carboy".into(), home: "/h".into(), cwd: "/w".into() };
        let text = format!("---\negress:\n  routes:\n    - host: other.example\n{routes}---\n");
        let files: MapFiles = [("/h/.carboy/bottles/work.md", text.as_str())].into_iter().collect();
        explain(refusal, &files, &places, &[])
    }

    #[test]
    fn what_is_unknown_is_told_with_the_commands_that_open_it() {
        let told = explained("", request("a.example", "GET", "/v1/x", Reason::HostNotAllowed));
        assert_eq!(told.docs, "docs/refusals.md#host_not_allowed");
        assert!(matches!(told.now, Now::Refused { reason: "host_not_allowed", nearest: None, .. }), "{told:?}");
        let Allow::By(commands) = told.allow else { panic!() };
        assert_eq!(commands[0].command, "carboy allow x-000001");
        assert_eq!(commands[0].opens, "GET /v1/x and below on a.example:443, for good, in the bottle's file");
        assert_eq!(commands[1].command, "carboy allow x-000001 --for 1h");
    }

    #[test]
    fn the_file_is_asked_as_it_is_now() {
        let refusal = || request("a.example", "GET", "/v1/x", Reason::HostNotAllowed);
        let told = explained("    - host: a.example\n", refusal());
        assert_eq!(told.now, Now::Allowed { route: "r2:a.example".into() });
        assert!(matches!(told.allow, Allow::Nothing(why) if why.contains("by now")));
        let narrow = "    - host: a.example\n      matches: [{methods: [POST], headers: [{name: x-a, value: b}]}]\n";
        let Now::Refused { nearest: Some(near), .. } = explained(narrow, refusal()).now else { panic!() };
        assert_eq!(near.route, "r2:a.example");
        assert_eq!(near.misfit[0], "the method (the route has POST)");
        assert!(near.misfit[1].starts_with("the header field `x-a`, which no log holds"), "{near:?}");
        let gone = explained("broken: [", refusal());
        assert!(matches!(gone.now, Now::Unknown { .. }), "{gone:?}");
    }

    #[test]
    fn a_leak_and_a_metadata_service_are_opened_by_nothing() {
        let leak = explained("    - host: a.example\n", request("a.example", "POST", "/x", Reason::SecretKnown));
        assert_eq!(leak.now, Now::NotTheRoutes);
        assert!(matches!(leak.allow, Allow::Nothing(why) if why.contains("nothing should open that")));
        let inside = explained("", request("169.254.169.254", "GET", "/latest", Reason::AddressNotAllowed));
        assert!(matches!(inside.allow, Allow::Nothing(why) if why.contains("metadata")));
        let own = explained("", request("10.0.0.7", "GET", "/x", Reason::AddressNotAllowed));
        assert!(matches!(own.allow, Allow::By(commands) if commands[0].command.ends_with("--private")));
    }

    #[test]
    fn what_may_have_been_asked_beside_the_request_line_is_unknown() {
        let misfit = |word: &str| {
            let one = request("a.example", "POST", "/v1/x", Reason::RequestNotAllowed);
            Refusal { misfit: vec![word.into()], rule: Some("r2:a.example".into()), ..one }
        };
        let narrow = "    - host: a.example\n      matches: [{methods: [POST], paths: [{value: /v1}]}]\n";
        // `X-HTTP-Method-Override: DELETE`, `?_method=DELETE`, `X-Original-URL: /admin`.
        for word in ["method", "path"] {
            let told = explained(narrow, misfit(word));
            let Now::Unknown { why, route: Some(route) } = &told.now else { panic!("{word}: {told:?}") };
            assert!(route == "r2:a.example" && why.contains("no log holds"), "{told:?}");
            assert!(matches!(&told.allow, Allow::Nothing(why) if why.contains("ask again")), "{told:?}");
        }
        // Where no field could change the answer, there is one.
        for (routes, word) in [
            ("    - host: a.example\n", "method"),
            ("    - host: a.example\n      matches: [{paths: [{value: /v1}]}]\n", "method"),
            ("    - host: a.example\n      matches: [{methods: [POST]}]\n", "path"),
        ] {
            assert_eq!(explained(routes, misfit(word)).now, Now::Allowed { route: "r2:a.example".into() }, "{routes}");
        }
        let other = Refusal { misfit: vec![], ..misfit("method") };
        assert_eq!(explained(narrow, other).now, Now::Allowed { route: "r2:a.example".into() });
    }

    #[test]
    fn a_path_too_long_for_the_log_is_opened_as_far_as_it_was_kept_and_never_as_all_of_the_host() {
        let long = |path: &str| {
            let mut one = request("a.example", "GET", path, Reason::HostNotAllowed);
            let Asked::Request { path_altered, .. } = &mut one.asked else { unreachable!() };
            *path_altered = true;
            explained("", one).allow
        };
        let Allow::By(commands) = long("/v1/files/abcdef…") else { panic!() };
        assert_eq!(commands[0].command, "carboy allow x-000001 --path /v1/files");
        assert!(commands[0].opens.starts_with("GET /v1/files and below on a.example:443"), "{commands:?}");
        assert!(matches!(long("/abcdef…"), Allow::Nothing(why) if why.contains("--path PREFIX")));
    }

    #[test]
    fn a_refusal_at_a_joined_port_is_nobody_s_route() {
        let port = |reason| {
            let asked = Asked::Port { way: "forward".into(), inside: 5432, outside: "127.0.0.1:5432".into() };
            explained("", Refusal { asked, ..request("a.example", "GET", "/", reason) })
        };
        let leak = port(Reason::SecretKnown);
        assert_eq!(leak.now, Now::NotTheRoutes);
        assert!(matches!(leak.allow, Allow::Nothing(why) if why.contains("nothing should open that")));
        let away = port(Reason::UpstreamUnreachable);
        assert!(matches!(away.now, Now::Unknown { route: None, .. }), "{away:?}");
        assert!(matches!(away.allow, Allow::Nothing(_)));
    }
}
