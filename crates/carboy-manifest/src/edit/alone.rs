//! Routes by themselves: written without a bottle around them, and read back by the reader of bottles.
//!
//! A route that is granted for a while and a proposal of a run that learned are both judged here, so that neither is
//! ever held to another measure than a line of a bottle's file.
//!
//! *Must never* let a client's text become more than a value.

use carboy_core::ids::BottleName;
use carboy_core::route::{AuthScheme, GitAccess, PathMatch, Reach, RequestMatch, Route, RouteAuth};

use super::{NewMatch, NewPath, NewRoute, render};
use crate::diagnostic::Diagnostics;
use crate::files::{MapFiles, Places};
use crate::load::routes_of;

/// The bottle as which they are read.
const BOTTLE: &str = "routes";

/// The routes as they stand in a bottle's front matter.
pub fn text_of(routes: &[NewRoute]) -> String {
    if routes.is_empty() {
        return String::new();
    }
    let routes: String = routes.iter().map(|route| render(route, "    ")).collect();
    format!("egress:\n  routes:\n{routes}")
}

/// Reads front matter that holds routes. Whatever else it holds is checked, and not given back.
///
/// # Errors
/// Everything that would be an error in a bottle's file.
pub fn read(text: &str) -> Result<Vec<Route>, Diagnostics> {
    let places = Places { carboy_home: "/".into(), home: "/".into(), cwd: "/".into() };
    let file = places.bottles().join(format!("{BOTTLE}.md"));
    let whole = format!("---\n{text}---\n");
    let files: MapFiles = [(file.to_str().unwrap_or_default(), whole.as_str())].into_iter().collect();
    let name = BottleName::parse(BOTTLE).expect("the name above is a bottle's name");
    Ok(routes_of(&files, &places, &[name])?.iter().cloned().collect())
}

/// The route as a bottle's file with it would give it.
///
/// # Errors
/// As for [`read`].
pub fn route_of(route: &NewRoute) -> Result<Route, Diagnostics> {
    let mut routes = read(&text_of(std::slice::from_ref(route)))?;
    Ok(routes.pop().expect("one route was written, and reading it gave no error"))
}

impl NewRoute {
    /// A route that was read, as one to be added; none when it says something that is added by hand alone: a
    /// credential, an expression, a header, other detectors, WebSockets.
    pub fn of(route: &Route) -> Option<NewRoute> {
        let Route { id: _, host, ports, auth, credentials, matches, git, dlp, meter, reach, body_bytes_max, websocket } =
            route;
        let carries = carries_nothing(auth.as_ref())
            && credentials.is_empty()
            && meter.is_none()
            && body_bytes_max.is_none()
            && !websocket;
        let plain = Route::plain(1, host.clone());
        (carries && *dlp == plain.dlp).then_some(())?;
        Some(NewRoute {
            host: host.to_string(),
            ports: if *ports == plain.ports { Vec::new() } else { ports.clone() },
            matches: matches.iter().map(match_of).collect::<Option<_>>()?,
            git_fetch: *git == GitAccess::Fetch,
            private: *reach == Reach::Private,
        })
    }
}

fn carries_nothing(auth: Option<&RouteAuth>) -> bool {
    match auth.map(|auth| auth.scheme) {
        None => true,
        Some(AuthScheme::Bearer | AuthScheme::Token | AuthScheme::Bare | AuthScheme::AnthropicByToken) => false,
    }
}

fn match_of(one: &RequestMatch) -> Option<NewMatch> {
    let path = |path: &PathMatch| match path {
        PathMatch::Exact(value) => Some(NewPath::Exact(value.clone())),
        PathMatch::Prefix(value) => Some(NewPath::Prefix(value.clone())),
        PathMatch::Regex(_) => None,
    };
    let RequestMatch { paths, methods, headers } = one;
    headers.is_empty().then_some(())?;
    Some(NewMatch { paths: paths.iter().map(path).collect::<Option<_>>()?, methods: methods.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> NewRoute {
        NewRoute {
            host: "*.example.org".into(),
            ports: vec![8443],
            matches: vec![
                NewMatch {
                    paths: vec![NewPath::Prefix("/a\"b".into()), NewPath::Exact("/".into())],
                    methods: vec!["GET".into()],
                },
                NewMatch { paths: vec![NewPath::Prefix("/c".into())], methods: vec![] },
            ],
            git_fetch: true,
            private: true,
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let read = read(&text_of(&[route(), NewRoute { host: "b.example".into(), ..NewRoute::default() }])).unwrap();
        assert_eq!(NewRoute::of(&read[0]), Some(route()));
        assert_eq!(read[1].host.to_string(), "b.example");
        assert_eq!(NewRoute::of(&route_of(&route()).unwrap()), Some(route()));
    }

    #[test]
    fn no_text_of_a_client_becomes_more_than_a_value() {
        for evil in [
            "/x\"}]\n    - host: evil.example",
            "/x\n",
            "/\u{1b}[2J",
            "/\u{202e}x",
            "/x # y",
            "/x: {y}",
            "/*a",
            "/&a",
            "/\u{2028}- host: evil.example",
            "/é\u{85}x",
        ] {
            let path = NewPath::Prefix(evil.into());
            let route = NewRoute {
                host: "a.example".into(),
                matches: vec![NewMatch { paths: vec![path], methods: vec!["GET".into()] }],
                ..NewRoute::default()
            };
            // Either it is that very path, or it is refused as no path at all.
            if let Ok(read) = read(&text_of(std::slice::from_ref(&route))) {
                assert_eq!(read.iter().map(NewRoute::of).collect::<Vec<_>>(), [Some(route)], "{evil:?}");
            }
        }
        let evil = NewRoute { host: "a.example\"\n    - host: \"b.example".into(), ..NewRoute::default() };
        assert!(route_of(&evil).is_err());
    }

    #[test]
    fn a_route_alone_is_held_to_what_a_bottles_file_is_held_to() {
        for host in ["169.254.169.254", "localhost", "10.0.0.1", "*", "x.carboy.internal"] {
            assert!(route_of(&NewRoute { host: host.into(), ..NewRoute::default() }).is_err(), "{host}");
        }
        let private = NewRoute { host: "10.0.0.1".into(), private: true, ..NewRoute::default() };
        assert!(route_of(&private).is_ok());
        assert!(read("env: {A: b}\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_added_by_hand_alone_is_not_taken_over() {
        for more in [
            "auth_scheme: Bearer\n      token_env: A",
            "matches: [{headers: [{name: a, value: b}]}]",
            "matches: [{paths: [{type: regex, value: a}]}]",
            "dlp: {outbound_on_match: redact}",
            "body_bytes_max: 1KiB",
        ] {
            let text = format!("egress:\n  routes:\n    - host: a.example\n      {more}\n");
            let read = read(&text).unwrap_or_else(|e| panic!("{more}: {e}"));
            assert_eq!(NewRoute::of(&read[0]), None, "{more}");
        }
    }
}
