//! Why something was refused, whether it would be now, and what would allow it.
//!
//! The entry in the log says what was decided then. The same law is asked again with the bottle's file as it is now, so
//! that nobody opens a route that is open already, or wonders about one that a later change has closed.
//!
//! Header fields and queries are in no log: what depends on them is said to be unknown.

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
    /// The bottle's file cannot be asked.
    Unknown {
        /// Why.
        why: String,
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
    let unknown = |why: String| Now::Unknown { why };
    let Some(bottle) = &refusal.bottle else { return unknown("the entry names no bottle".into()) };
    let Ok(bottles) = bottles_of(bottle, files, places) else {
        return unknown(format!("`{bottle}` is no bottle's name"));
    };
    let base = match routes_of(files, places, &bottles, 1) {
        Ok(read) => read.routes,
        Err(_) => {
            return unknown(format!("the file of bottle {bottle} is not valid or gone; `carboy check` says more"));
        }
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
    let Ok(host) = Host::parse(refusal.asked.host()) else { return no(refusal.reason, None) };
    let allowed = match &refusal.asked {
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
            let route = permit.and_then(|permit| routes.route(&permit, &facts).into_result());
            let nearest = || routes.nearest(&host, *port, Some(&facts));
            route.map(|route| route.route().id.to_string()).map_err(|denial| (denial, nearest()))
        }
    };
    match allowed {
        Ok(_) if !of_routes(refusal.reason) => Now::NotTheRoutes,
        Ok(route) => Now::Allowed { route },
        Err((denial, nearest)) => no(denial.reason, nearest),
    }
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
    let by = |more: &str, route: &NewRoute| {
        let commands = [("", "for good, in the bottle's file"), (" --for 1h", "in the living runs, for an hour")];
        let commands = commands.map(|(how, where_)| Command {
            command: format!("carboy allow {}{more}{how}", refusal.id),
            opens: format!("{}, {where_}", opens(route)),
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
            let all = Opening { paths: vec!["/".into()], ..Opening::default() };
            match refusal.route(&all) {
                Ok(route) => by(" --path /", &route),
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
}
