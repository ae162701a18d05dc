//! What a run's refusals become: routes as narrow as they can be, and none where something leaked.

use carboy_core::ids::RefusalId;

use super::*;

/// One that was refused.
fn one(host: &str, method: &str, path: &str) -> LearnedRequest {
    let asked = Asked { method: method.into(), path: Path::Whole(path.into()), git: GitUse::None };
    let (host, id) = (Host::parse(host).unwrap(), RefusalId::from_bits(1));
    LearnedRequest { request: Some(asked), ..LearnedRequest::connection(&host, 443, Reason::HostNotAllowed, &id) }
}

fn proposal(all: impl IntoIterator<Item = LearnedRequest>) -> Proposal {
    let mut learned = Learned::default();
    all.into_iter().for_each(|one| learned.keep(one));
    propose(&learned)
}

/// The routes as `METHODS path, path` by host.
fn shown(proposal: &Proposal) -> Vec<String> {
    proposal.routes.iter().map(crate::explain::opens).collect()
}

#[test]
fn requests_of_one_host_become_one_route_with_few_prefixes() {
    let mut all: Vec<LearnedRequest> = ["a", "b", "c", "d"]
        .iter()
        .flat_map(|name| {
            [one("pkg.example", "GET", &format!("/simple/{name}/")), one("pkg.example", "HEAD", "/simple/")]
        })
        .collect();
    all.push(one("pkg.example", "GET", "/files/3f/0123456789abcdef0123/a-1.2.3.whl"));
    all.push(one("pkg.example", "POST", "/upload"));
    assert_eq!(
        shown(&proposal(all)),
        [concat!(
            "GET /files/3f and below; GET, HEAD /simple and below; ",
            "POST /upload and below on pkg.example:443"
        )
        .to_owned()]
    );
}

#[test]
fn all_of_a_host_is_never_proposed() {
    let words = (0..60).map(|n| {
        one(
            "a.example",
            "GET",
            &format!("/{}", "abcdefghij".repeat(2).split_at(n % 10).1[..3 + n / 10].to_owned() + &"x".repeat(n)),
        )
    });
    let made = proposal(words.chain([one("a.example", "GET", "/"), one("a.example", "GET", "/123456")]));
    let [route] = &made.routes[..] else { panic!("{made:?}") };
    let paths: Vec<&NewPath> = route.matches.iter().flat_map(|m| &m.paths).collect();
    assert!(paths.len() <= PATHS_MAX && !paths.is_empty());
    assert!(paths.iter().all(|path| !matches!(path, NewPath::Prefix(p) if p == "/" || p.is_empty())), "{paths:?}");
    assert!(route.matches.iter().all(|m| !m.paths.is_empty() && !m.methods.is_empty()));
    assert!(made.remarks.iter().any(|remark| remark.contains("paths more")), "{:?}", made.remarks);
    // A changing first part alone is opened as that one path.
    assert_eq!(shown(&proposal([one("a.example", "GET", "/123456")])), ["GET /123456 alone on a.example:443"]);
}

#[test]
fn git_becomes_its_repository_and_a_push_nothing() {
    let git = |path: &str, git| {
        let mut one = one("code.example", "GET", path);
        one.request.as_mut().unwrap().git = git;
        one
    };
    let mut push = git("/o/s.git/info/refs", GitUse::Push);
    push.flaw = Some(Reason::GitPushNotAllowed);
    let made = proposal([git("/o/r.git/info/refs", GitUse::Fetch), push]);
    assert_eq!(shown(&made), ["GET, POST /o/r.git and below on code.example:443, git clone and fetch"]);
    assert!(made.remarks.iter().any(|remark| remark.contains("git push")), "{:?}", made.remarks);
}

#[test]
fn a_host_to_which_a_secret_was_about_to_leave_gets_nothing_whatever_else_it_was_asked() {
    let leak = LearnedRequest { flaw: Some(Reason::SecretKnown), ..one("drop.example", "POST", "/collect") };
    let made = proposal([one("drop.example", "GET", "/"), leak, one("drop.example", "GET", "/innocent")]);
    assert_eq!(made.routes, []);
    assert!(made.remarks[0].contains("carried a secret"), "{:?}", made.remarks);
    // On whatever port.
    let other = LearnedRequest { port: 8443, ..one("drop.example", "GET", "/innocent") };
    let leak = LearnedRequest { flaw: Some(Reason::SecretPattern), ..one("drop.example", "POST", "/collect") };
    assert_eq!(proposal([leak, other]).routes, []);
}

#[test]
fn a_leak_that_came_after_a_crowd_of_harmless_requests_still_closes_its_host() {
    let word = |n: usize| format!("{n:04}").bytes().map(|b| char::from(b'a' + (b - b'0'))).collect::<String>();
    let crowd = |host: &str| (0..256).map(|n| one(host, "GET", &format!("/{}", word(n)))).collect::<Vec<_>>();
    let leak = |host: &str| LearnedRequest { flaw: Some(Reason::SecretKnown), ..one(host, "POST", "/collect") };
    let made = proposal(crowd("evil.example").into_iter().chain([leak("evil.example"), one("a.example", "GET", "/x")]));
    assert_eq!(shown(&made), ["GET /x and below on a.example:443"]);
    assert!(made.remarks.iter().any(|remark| remark.contains("carried a secret")), "{:?}", made.remarks);
    // More such hosts than anybody can remember: nothing.
    let many = (0..=LEAKY_HOSTS_MAX).map(|n| leak(&format!("h{n}.example")));
    let made = proposal(many.chain([one("a.example", "GET", "/x")]));
    assert_eq!((made.routes.len(), made.remarks.len()), (0, 1), "{:?}", made.remarks);
}

#[test]
fn addresses_models_telemetry_and_connections_without_a_request_are_told_and_left_out() {
    let id = RefusalId::from_bits(1);
    let silent = LearnedRequest::connection(&Host::parse("ssh.example").unwrap(), 22, Reason::HostNotAllowed, &id);
    let hosts = [
        "169.254.169.254",
        "10.0.0.1",
        "93.184.216.34",
        "metadata.google.internal",
        "api.anthropic.com",
        "openrouter.ai",
        "o1.ingest.sentry.io",
        "telemetry.example",
        "intranet",
    ];
    let made = proposal(hosts.map(|host| one(host, "GET", "/x")).into_iter().chain([silent]));
    assert_eq!(made.routes, []);
    assert_eq!(made.remarks.len(), hosts.len() + 1, "{:?}", made.remarks);
}

#[test]
fn nothing_that_a_client_chose_is_more_than_a_value() {
    let evil = [
        "/x\"}]}]\n    - host: evil.example",
        "/x\u{1b}[2J",
        "/x\u{202e}y",
        "/x'y",
        "/x{y}",
        "/x`y`",
        "/x\\n",
        "/x#y",
        "/x: y",
    ];
    let made = proposal(evil.map(|path| one("a.example", "GET", path)).into_iter().chain([
        one("a.example", "GET", "/honest"),
        one("b.example", "X-EVIL\u{1b}", "/x"),
        one("c.example", "get", "/x"),
    ]));
    let text = made.text("work", "r-1");
    let routes = alone::read(&text).unwrap();
    assert_eq!(routes.iter().map(|route| route.host.to_string()).collect::<Vec<_>>(), ["a.example"]);
    assert_eq!(shown(&made), ["GET /honest and below on a.example:443"]);
    assert!(text.chars().all(|c| c == '\n' || c == '×' || (c.is_ascii() && !c.is_ascii_control())), "{text:?}");
}

#[test]
fn a_proposal_comes_back_as_it_was_and_stays_bounded() {
    let many = (0..10_000).map(|n| one(&format!("h{n}.example"), "GET", "/x"));
    let made = proposal(many);
    assert_eq!(made.routes.len(), ROUTES_MAX);
    assert!(made.remarks.len() <= REMARKS_MAX);
    let read = alone::read(&made.text("work", "r-1")).unwrap();
    assert_eq!(read.iter().map(|route| NewRoute::of(route).unwrap()).collect::<Vec<_>>(), made.routes);
}
