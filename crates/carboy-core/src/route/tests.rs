use super::*;

fn route(index: usize, host: &str) -> Route {
    Route::plain(index, HostPattern::parse(host).unwrap())
}

fn permit(set: &RouteSet, host: &str, port: u16) -> Result<HostPermit, Reason> {
    set.host_permit(&Host::parse(host).unwrap(), port).into_result().map_err(|d| d.reason)
}

fn ask(set: &RouteSet, method: &str, path: &str, query: &str) -> Result<String, Reason> {
    let host = permit(set, "api.example.org", 443)?;
    let facts = RequestFacts { method, path, query, headers: &[] };
    set.route(&host, &facts).into_result().map(|p| p.route().id.to_string()).map_err(|d| d.reason)
}

#[test]
fn a_set_without_routes_allows_nothing() {
    let set = RouteSet::default();
    assert_eq!(permit(&set, "example.org", 443).unwrap_err(), Reason::HostNotAllowed);
    assert_eq!(permit(&set, "169.254.169.254", 80).unwrap_err(), Reason::AddressNotAllowed); // B32
}

#[test]
fn a_host_is_allowed_on_its_ports_alone() {
    // B3
    let set = RouteSet::new(vec![route(1, "api.example.org")], 1);
    assert!(permit(&set, "api.example.org", 443).is_ok());
    assert_eq!(permit(&set, "api.example.org", 5432).unwrap_err(), Reason::PortNotAllowed);
}

#[test]
fn the_address_that_is_dialled_is_the_one_that_is_judged() {
    // B31
    let mut private = route(2, "db.example.org");
    private.reach = Reach::Private;
    let set = RouteSet::new(vec![route(1, "api.example.org"), private, route(3, "192.0.2.7")], 1);
    let says = |host, ip: &str| permit(&set, host, 443).unwrap().check_address(ip.parse().unwrap()).is_ok();
    assert!(says("api.example.org", "1.1.1.1"));
    assert!(!says("api.example.org", "10.0.0.1") && !says("api.example.org", "::ffff:127.0.0.1"));
    assert!(says("db.example.org", "10.0.0.1"));
    assert!(!says("db.example.org", "127.0.0.1") && !says("db.example.org", "169.254.169.254"));
    assert!(!says("db.example.org", "fd00:ec2::254"));
    assert!(says("192.0.2.7", "192.0.2.7") && !says("192.0.2.7", "192.0.2.8"));
}

#[test]
fn paths_methods_and_boundaries_are_respected() {
    let mut one = route(1, "api.example.org");
    one.matches = vec![RequestMatch {
        paths: vec![PathMatch::Prefix("/v1".into()), PathMatch::Regex(Regex::new("/files/[0-9]+").unwrap())],
        methods: vec!["GET".into()],
        headers: Vec::new(),
    }];
    let set = RouteSet::new(vec![one], 1);
    for path in ["/v1", "/v1/models", "/%76%31/x", "/a/../v1", "/files/12"] {
        assert!(ask(&set, "GET", path, "").is_ok(), "{path}");
    }
    for path in
        ["/v10", "/v1/../admin", "/v1/..;/admin", "/v1/%2e%2e/admin", "/v1%2f..%2fadmin", "/files/12/x", "/v1\\..", "*"]
    {
        assert_eq!(ask(&set, "GET", path, ""), Err(Reason::RequestNotAllowed), "{path}");
    }
    assert_eq!(ask(&set, "POST", "/v1", ""), Err(Reason::RequestNotAllowed));
}

/// What is sent for a path, on a route for everything.
fn sent(path: &str) -> Option<String> {
    let set = RouteSet::new(vec![route(1, "api.example.org")], 1);
    let host = permit(&set, "api.example.org", 443).unwrap();
    let facts = RequestFacts { method: "GET", path, query: "", headers: &[] };
    set.route(&host, &facts).into_result().ok().map(|permit| permit.path().to_owned())
}

#[test]
fn the_path_that_is_judged_is_the_one_to_send() {
    // Servers that merge slashes or strip parameters first would come out at `/admin`.
    for (path, want) in [
        ("/v1//../admin", "/v1/admin"),
        ("/v1/;/../admin", "/v1/admin"),
        ("/admin/../v1", "/v1"),
        ("/v1/..;x/b", "/b"),
        ("/%7euser/%2b", "/~user/%2B"),
    ] {
        assert_eq!(sent(path).as_deref(), Some(want), "{path}");
    }
}

#[test]
fn what_a_second_decoding_would_move_is_refused() {
    // B40
    for path in [
        "/v1/%252e%252e/admin",
        "/v1/%25252e%25252e/admin",
        "/v1/..%3b/admin",
        "/v1/..%253b/admin",
        "/v1/a%252fb",
        "/v1/a%255c..",
        "/v1/a%2500",
        "/v1/a%2f..%2fb",
        "/v1/a%2f.%2e",
        "/v1/..%2fb",
        "/v1/%2e%2e%2f",
        "/v1/a%2f..;x",
        "/v1/a%2f%252e%252e",
        // Overlong UTF-8, and characters that are dots and slashes in another form of Unicode.
        "/v1/%c0%ae%c0%ae/admin",
        "/v1/..%c0%af",
        "/v1/%e0%80%ae%e0%80%ae/admin",
        "/v1/%f0%80%80%ae/admin",
        "/v1/%25c0%25ae%25c0%25ae/admin",
        "/v1/%ef%bc%8e%ef%bc%8e/admin",
        "/v1/..%ef%bc%8fadmin",
        "/v1/%e2%80%a5/admin",
        "/v1/..%ef%bc%bcadmin",
        "/v1/%25ef%25bc%258e%25ef%25bc%258e",
    ] {
        assert_eq!(sent(path), None, "{path}");
    }
    for path in [
        "/100%25",
        "/a%25b",
        "/a%2525b",
        "/a..b/...",
        "/a%20b;c=d",
        "/a%3Bb",
        "/caf%E9",
        "/%C3%80%20la",
        "/a%EF%BC%8Fb%EF%BC%8E",
    ] {
        assert_eq!(sent(path).as_deref(), Some(path), "{path}");
    }
}

#[test]
fn an_escaped_slash_has_to_be_allowed_in_both_readings() {
    assert_eq!(sent("/@types%2fnode").as_deref(), Some("/@types%2Fnode"));
    let mut one = route(1, "api.example.org");
    one.matches = vec![RequestMatch {
        paths: vec![PathMatch::Regex(Regex::new("/[^/]+/info").unwrap()), PathMatch::Prefix("/v1".into())],
        ..RequestMatch::default()
    }];
    let set = RouteSet::new(vec![one], 1);
    assert!(ask(&set, "GET", "/v1/group%2Fproject", "").is_ok());
    assert_eq!(ask(&set, "GET", "/admin%2Fkeys/info", ""), Err(Reason::RequestNotAllowed));
}

#[test]
fn another_method_or_path_in_a_field_or_the_query_counts_as_well() {
    let mut one = route(1, "api.example.org");
    one.matches = vec![RequestMatch {
        paths: vec![PathMatch::Prefix("/v1".into())],
        methods: vec!["GET".into(), "POST".into()],
        headers: Vec::new(),
    }];
    let set = RouteSet::new(vec![one, route(2, "open.example.org")], 1);
    let says = |host: &str, query: &str, headers: &[(&str, &[u8])]| {
        let host = permit(&set, host, 443).unwrap();
        set.route(&host, &RequestFacts { method: "POST", path: "/v1", query, headers }).into_result().is_ok()
    };
    let narrow = "api.example.org";
    assert!(says(narrow, "a=1", &[("x-http-method-override", b"get")]));
    assert!(!says(narrow, "", &[("x-http-method-override", b"DELETE")]));
    assert!(!says(narrow, "", &[("x_http_method_override", b"DELETE")]));
    assert!(!says(narrow, "", &[("x-method-override", b"GET"), ("x-http-method", b"PUT")]));
    assert!(!says(narrow, "a=1&_method=delete", &[]) && !says(narrow, "%24httpMethod=DELETE", &[]));
    assert!(!says(narrow, "", &[("x-original-url", b"/admin")]) && !says(narrow, "", &[("x-rewrite-url", b"/admin")]));
    assert!(says("open.example.org", "_method=delete", &[("x-original-url", b"/admin")]));
}

#[test]
fn git_reads_only_where_the_route_says_so_and_never_pushes() {
    let set = RouteSet::new(vec![route(1, "api.example.org")], 1);
    assert_eq!(ask(&set, "GET", "/a.git/info/refs", "service=git-upload-pack"), Err(Reason::GitFetchNotAllowed));
    assert_eq!(ask(&set, "POST", "/a.git/git-upload-pack", ""), Err(Reason::GitFetchNotAllowed));
    let mut open = route(1, "api.example.org");
    open.git = GitAccess::Fetch;
    let set = RouteSet::new(vec![open], 1);
    assert!(ask(&set, "GET", "/a.git/info/refs", "service=git-upload-pack").is_ok());
    for (path, query) in [
        ("/a.git/info/refs", "service=git-receive-pack"),
        ("/a/git-receive-pack", ""),
        ("/a/info/refs", "x=1&service=git%2Dreceive-pack"),
        ("/a/git%2dreceive-pack", ""),
        ("/a.git/git-receive-pack;x=1", ""),
        ("/a.git/git-receive-pack/", ""),
        ("/a.git/Git-Receive-Pack", ""),
        ("/a.git/git-receive-pack%20", ""),
        ("/a.git%2Fgit-receive-pack", ""),
        ("/a.git/git-receive-pack%3bx", ""),
        ("/a/info/refs;x", "service=git%252Dreceive-pack;"),
    ] {
        assert_eq!(ask(&set, "POST", path, query), Err(Reason::GitPushNotAllowed), "{path} {query}");
    }
}

#[test]
fn a_header_that_is_sent_twice_must_match_twice() {
    let mut one = route(1, "api.example.org");
    let want = HeaderMatch { name: "x-team".into(), value: HeaderValueMatch::Exact("blue".into()) };
    one.matches = vec![RequestMatch { headers: vec![want], ..RequestMatch::default() }];
    let set = RouteSet::new(vec![one], 1);
    let host = permit(&set, "api.example.org", 443).unwrap();
    let says = |headers: &[(&str, &[u8])]| {
        set.route(&host, &RequestFacts { method: "GET", path: "/", query: "", headers }).into_result().is_ok()
    };
    assert!(says(&[("x-team", b"blue")]));
    assert!(!says(&[]) && !says(&[("x-team", b"red")]) && !says(&[("x-team", b"blue"), ("x-team", b"red")]));
}

#[test]
fn an_anthropic_secret_goes_where_its_kind_belongs() {
    // M22
    let secret = crate::ids::SecretName::parse("ANTHROPIC_API_KEY").unwrap();
    let auth = RouteAuth { header: "x-api-key".into(), scheme: AuthScheme::AnthropicByToken, secret };
    assert_eq!(auth.placement("sk-ant-api03-abc"), ("x-api-key", ""));
    assert_eq!(auth.placement("sk-ant-oat01-abc"), ("authorization", "Bearer "));
    assert_eq!(auth.replaced_headers(), ["x-api-key", "authorization"]);
}
