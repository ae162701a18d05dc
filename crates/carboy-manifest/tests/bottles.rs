//! What a bottle's file may say, and what is said about one that is wrong.

mod support;

use carboy_core::finding::Detector;
use carboy_core::host::Host;
use carboy_core::plan::{Access, Bind, Limits};
use carboy_core::route::{AuthScheme, GitAccess, OnMatch, PathMatch, PlaceholderAuth, Reach, RequestFacts, Route};
use carboy_manifest::{EnvValue, Provider};
use support::{bottle, findings, route};

fn only_route(lines: &str) -> Route {
    let loaded = bottle(&route(lines)).unwrap_or_else(|errors| panic!("{errors}"));
    let mut routes = loaded.routes.iter().cloned();
    routes.next().expect("one route")
}

/// The one error of a bottle, without its place.
fn error(yaml: &str) -> String {
    let found = findings(yaml);
    assert_eq!(found.len(), 1, "{yaml}: {found:#?}");
    found[0].clone()
}

#[test]
fn a_file_with_many_errors_tells_all_of_them() {
    // M10, M11, M12, M16, M17, M22, M23, M24, M25
    let yaml = r#"env:
  PORT: 8080
  OK: "?Which project?"
  EMPTY:
  2X: text
supervise: yes
runtime: runsc
ssh: {}
git: {user: {}}
git_user: me
budget: 2M
egres: {}
zzz: 1
workspace: copy
limits: {memory: 2G, processes: 0}
binds:
  ~/.ssh: /home/agent/.ssh
  data: /data
  /srv/data: /proc
agent_provider: aider
git-gate:
  user: {name: "a\n[core]", nick: b}
  repos:
    app: {url: "ext::sh -c id", identity: ~/.ssh/key}
egress:
  log: full
  routes:
    - {host: "*", ports: [0, 53, 70000]}
    - host: *.example.org
      auth_scheme: bearer
      token_env: sk-ant-api03-abc
      matches: []
    - ports: [443]
      auth_scheme: Bearer
    - host: 127.0.0.1
      private: true
    - host: 10.1.2.3
    - host: https://api.example.org/v1
    - host: api.example.org:8443
      meter: mistral
      bytes_per_day_max: 1GB
      dlp: {outbound_detectors: [naive_injection_detection], outbound_on_match: warn}
      matches:
        - {}
        - paths: [{type: glob, value: /a}, {type: regex, value: "a)|(?:b"}, "/a/../b", {value: /x?y=1}]
          methods: [get]
          headers: [{name: "x y", value: 1}]"#;
    let errors = bottle(yaml).err().map(|all| all.to_string()).unwrap_or_default();
    insta::assert_snapshot!(errors);
}

#[test]
fn a_bottle_that_says_nothing_denies_everything() {
    // M22, M24, M25
    let loaded = bottle("").unwrap();
    assert_eq!(loaded.routes.iter().count(), 0);
    assert!(loaded.supervise && loaded.env.is_empty() && loaded.binds.is_empty());
    assert_eq!((loaded.limits, loaded.provider), (Limits::default(), Provider::default()));
    assert!(bottle("egress: {}").unwrap().routes.iter().next().is_none());
    assert!(!bottle("supervise: false").unwrap().supervise);
}

#[test]
fn removed_keys_come_before_unknown_ones_and_say_where_to_go() {
    // M12, M13, M14, M15, M16, M40
    for (key, words) in [
        ("runtime", "gVisor (runsc)"),
        ("ssh", "the git gate holds the credential and scans"),
        ("git", "replaced by `git-gate`"),
        ("git_user", "was removed"),
    ] {
        let errors = bottle(&format!("aaa: 1\n{key}: x")).err().unwrap();
        let list: Vec<_> = errors.iter().collect();
        assert_eq!(list.iter().map(|d| d.code.as_str()).collect::<Vec<_>>(), ["removed-key", "unknown-key"]);
        assert!(list[0].message.starts_with("bottle `dev`: ") && list[0].message.contains(words), "{}", list[0]);
        assert!(list[0].fix.contains(&format!("docs/removed-keys.md#{key}")), "{}", list[0]);
        assert_eq!((list[0].line, list[0].column), (Some(3), Some(1)));
    }
}

#[test]
fn unknown_keys_are_named_sorted_with_what_is_allowed() {
    // M11
    let errors = bottle("zeta: 1\nalpha: 2\nenvs: {}").err().unwrap();
    let one = errors.iter().next().unwrap();
    assert_eq!(
        one.message,
        "the front matter of bottle `dev` has unknown keys: `alpha`, `envs`, `zeta` (lines 3, 4, 2)"
    );
    let want = "did you mean `env`? allowed are `agent_provider`, `backend`, `binds`, `budget`, `ceiling`, `count`, `egress`, `env`, `extends`, `forward`, `gate`, `git-gate`, `image`, `limits`, `overrun`, `presets`, `publish`, `shutdown`, `supervise`, `warn`, `window`, `workspace`";
    assert_eq!(one.fix, want);
}

#[test]
fn web_sockets_are_carried_where_a_route_says_so() {
    // M34
    let carries = |lines: &str| bottle(&route(lines)).unwrap().routes.iter().map(|r| r.websocket).collect::<Vec<_>>();
    assert_eq!(carries("host: a.example"), [false]);
    assert_eq!(carries("host: a.example\nwebsocket: true"), [true]);
    assert_eq!(carries("host: a.example\nwebsocket: false"), [false]);
    let wrong = error(&route("host: a.example\nwebsocket: yes"));
    assert!(wrong.starts_with("wrong-type 5:18 `websocket` of route"), "{wrong}");
    let read = bottle(&route("host: a.example\nwebsocket: true")).unwrap();
    let known = read.routes.iter().next().unwrap();
    assert_eq!(carboy_manifest::edit::NewRoute::of(known), None, "nobody proposes one");
}

#[test]
fn a_key_whose_feature_is_missing_is_refused_not_ignored() {
    let want = "not-available 2:1 `mounts` in the front matter of bottle `dev` is not available in this version";
    assert_eq!(error("mounts: 1"), want);
    assert!(error(&route("host: a.example\nbytes_per_day_max: 1")).starts_with("not-available 5:7"));
    for backend in ["docker", "podman"] {
        assert!(error(&format!("backend: {backend}")).starts_with("not-available 2:10"), "{backend}");
    }
}

#[test]
fn a_variable_is_text_or_a_question() {
    // M17, M18
    let env = bottle("env:\n  A: b\n  Q: \"?Which project?\"\n  N: \"8080\"").unwrap();
    let want = [
        ("A", EnvValue::Set("b".into())),
        ("N", EnvValue::Set("8080".into())),
        ("Q", EnvValue::Prompt("Which project?".into())),
    ];
    assert_eq!(env.env, want.map(|(k, v)| (k.to_owned(), v)).into_iter().collect());
    assert_eq!(env.prompts().into_iter().collect::<Vec<_>>(), [("Q", "Which project?")]);
    for (value, kind) in
        [("8080", "a number"), ("true", "a boolean"), ("[a]", "a list"), ("{a: b}", "a map"), ("", "empty")]
    {
        let errors = bottle(&format!("env:\n  PORT: {value}")).err().unwrap();
        let one = errors.iter().next().unwrap();
        assert_eq!(one.message, format!("variable `PORT` in `env` of bottle `dev` is {kind}, not text"));
        assert!(one.fix.contains("\"?<message>\""), "{}", one.fix);
    }
    assert!(error("env: {Q: \"?\"}").contains("asks nothing"));
}

#[test]
fn the_agent_program_is_built_in_or_comes_with_a_command() {
    // M19
    assert_eq!(bottle("").unwrap().provider.name, "claude");
    assert_eq!(bottle("agent_provider: codex").unwrap().provider.name, "codex");
    let own = bottle("agent_provider: {name: mine, command: my-agent, args: [--fast], env: {A: b}}").unwrap().provider;
    let env = [("A".to_owned(), EnvValue::Set("b".into()))].into_iter().collect();
    assert_eq!(
        own,
        Provider { name: "mine".into(), command: Some("my-agent".into()), args: vec!["--fast".into()], env }
    );
    assert!(error("agent_provider: mine").contains("cannot start by itself"));
    assert!(error("agent_provider: {name: mine, command: my agent}").contains("`agent_provider.command`"));
    assert!(error("agent_provider: {command: x}").starts_with("missing-key"));
}

#[test]
fn the_git_gate_takes_user_and_repositories_each_alone() {
    // M20
    let user = bottle("git-gate: {user: {name: Ada}}").unwrap();
    assert_eq!((user.git_user.name.as_deref(), user.git_user.email, user.git_repos.len()), (Some("Ada"), None, 0));
    let repos = "git-gate:\n  repos:\n    app: {url: git@git.example.org:team/app.git, identity: ~/.ssh/app, host_key: ssh-ed25519 AAAA}";
    let loaded = bottle(repos).unwrap();
    assert_eq!(loaded.git_repos[0].url, "git@git.example.org:team/app.git");
    assert_eq!(loaded.warnings.iter().map(|d| d.code.as_str()).collect::<Vec<_>>(), ["push-refused"]);
    for bad in ["ext::sh", "file:///x", "-oProxyCommand=x:y", "/srv/x.git", "https:/x"] {
        let found = findings(&format!("git-gate: {{repos: {{app: {{url: \"{bad}\"}}}}}}"));
        assert!(found.iter().any(|line| line.starts_with("bad-value")), "{bad}: {found:?}");
    }
    assert!(findings("git-gate: {repos: {app: {identity: x}}}").iter().any(|line| line.starts_with("missing-key")));
    assert!(error("git-gate: {user: {email: \"a\\nb\"}}").starts_with("bad-value"));
}

#[test]
fn supervise_is_a_boolean() {
    // M25
    let want = "wrong-type 2:12 `supervise` of bottle `dev` is the text `yes`, not a boolean";
    assert_eq!(error("supervise: yes"), want);
    assert_eq!(error("supervise: 1"), "wrong-type 2:12 `supervise` of bottle `dev` is the number 1, not a boolean");
}

#[test]
fn a_route_has_the_defaults_of_the_reference() {
    // M23, M24
    let plain = only_route("host: API.Example.org");
    assert_eq!(plain.id.as_str(), "r1:api.example.org");
    assert_eq!(
        (plain.ports.as_slice(), plain.git, plain.reach),
        ([443, 80].as_slice(), GitAccess::Denied, Reach::Public)
    );
    assert!(
        plain.auth.is_none() && plain.meter.is_none() && plain.matches.is_empty() && plain.body_bytes_max.is_none()
    );
    assert_eq!(plain.dlp.outbound, [Detector::TokenPatterns, Detector::KnownSecrets]);
    assert_eq!(
        (plain.dlp.inbound.as_slice(), plain.dlp.outbound_on_match),
        ([Detector::NaiveInjectionDetection].as_slice(), OnMatch::Supervise)
    );
    let full = only_route(
        "host: \"*.example.org\"\nports: [8443, 443, 8443]\ngit: {fetch: true}\nprivate: true\nbody_bytes_max: 10MiB\n\
         dlp: {outbound_detectors: [known_secrets], inbound_detectors: [naive_injection_detection], outbound_on_match: redact}",
    );
    assert_eq!(
        (full.ports.as_slice(), full.git, full.reach),
        ([8443, 443].as_slice(), GitAccess::Fetch, Reach::Private)
    );
    assert_eq!(
        (full.dlp.outbound.as_slice(), full.dlp.outbound_on_match),
        ([Detector::KnownSecrets].as_slice(), OnMatch::Redact)
    );
    assert_eq!(full.body_bytes_max, Some(10 << 20));
}

#[test]
fn a_credential_goes_into_the_header_that_its_provider_reads() {
    // M22, M23
    for (lines, header, scheme) in [
        ("auth_scheme: Bearer", "authorization", AuthScheme::Bearer),
        ("auth_scheme: token", "authorization", AuthScheme::Token),
        ("auth_scheme: Bearer\nmeter: openai", "authorization", AuthScheme::Bearer),
        ("auth_scheme: Bearer\nmeter: codex", "authorization", AuthScheme::Bearer),
        ("auth_scheme: Bearer\nmeter: anthropic", "x-api-key", AuthScheme::AnthropicByToken),
        ("auth_scheme: Bearer\nmeter: claude", "x-api-key", AuthScheme::AnthropicByToken),
        ("auth_scheme: Bearer\nmeter: gemini", "x-goog-api-key", AuthScheme::Bare),
        ("auth_scheme: Bearer\nauth_header: Private-Token", "private-token", AuthScheme::Bare),
        ("auth_scheme: Bearer\nmeter: anthropic\nauth_header: Authorization", "authorization", AuthScheme::Bearer),
    ] {
        let auth = only_route(&format!("host: a.example\ntoken_env: KEY\n{lines}")).auth.unwrap();
        assert_eq!((auth.header.as_str(), auth.scheme, auth.secret.as_str()), (header, scheme, "KEY"), "{lines}");
    }
}

#[test]
fn b42_a_placeholder_is_read_with_its_place_its_secret_and_its_variable() {
    // M23, M34
    let read = |lines: &str| only_route(&format!("host: a.example\ncredential: {lines}")).credentials;
    let shown = |one: &PlaceholderAuth| format!("{} {} {}", one.place, one.secret, one.variable);
    for (lines, want) in [
        ("{in: header, name: X-API-Key, from: KEY}", "header x-api-key KEY KEY"),
        ("{in: header, name: authorization, from: KEY, env: GH_TOKEN}", "header authorization KEY GH_TOKEN"),
        ("{in: query, name: api_key, from: KEY}", "query api_key KEY KEY"),
        ("{in: basic, from: KEY}", "basic KEY KEY"),
        ("{in: basic, name: password, from: KEY}", "basic password KEY KEY"),
        ("{in: basic, name: user, from: KEY}", "basic user KEY KEY"),
        ("{in: body, from: KEY}", "body KEY KEY"),
        ("{in: body, name: client_secret, from: KEY}", "body client_secret KEY KEY"),
    ] {
        assert_eq!(read(lines).iter().map(shown).collect::<Vec<_>>(), [want], "{lines}");
    }
    let two = read("\n  - {in: body, name: client_id, from: ID}\n  - {in: body, name: client_secret, from: SECRET}");
    assert_eq!(two.iter().map(shown).collect::<Vec<_>>(), ["body client_id ID ID", "body client_secret SECRET SECRET"]);
}

#[test]
fn b42_what_a_placeholder_s_place_leaves_open_is_an_error_at_its_place() {
    // M23
    for (lines, want) in [
        ("1", "wrong-type 5:19"),
        ("[]", "bad-value 5:19"),
        ("{in: header, name: x-key}", "missing-key 5:19"),
        ("{from: KEY}", "missing-key 5:19"),
        ("{in: cookie, from: KEY}", "bad-value 5:24"),
        ("{in: header, from: KEY}", "bad-value 5:24"),
        ("{in: query, from: KEY}", "bad-value 5:24"),
        ("{in: header, name: Host, from: KEY}", "bad-value 5:38"),
        ("{in: header, name: sec-websocket-protocol, from: KEY}", "bad-value 5:38"),
        ("{in: header, name: \"a b\", from: KEY}", "bad-value 5:38"),
        ("{in: basic, name: both, from: KEY}", "bad-value 5:37"),
        ("{in: body, name: \"\", from: KEY}", "bad-value 5:36"),
        ("{in: basic, from: sk-ant-api03-x}", "bad-name 5:37"),
        ("{in: basic, from: KEY, env: PATH}", "bad-name 5:47"),
        ("{in: basic, from: KEY, env: CARBOY_BOTTLE}", "bad-name 5:47"),
        ("{in: basic, from: KEY, env: 1A}", "bad-name 5:47"),
        ("{in: basic, from: KEY, as: X}", "unknown-key 5:42"),
        ("[{in: basic, from: KEY}, {in: basic, from: KEY}]", "bad-value 5:44"),
        ("{in: basic, from: KEY}\ntoken_env: KEY\nauth_scheme: Bearer", "bad-value 5:19"),
    ] {
        let error = error(&route(&format!("host: a.example\ncredential: {lines}")));
        assert!(error.starts_with(want), "{lines}: {error}");
    }
    let nine = ["{in: basic, from: KEY}"; 9].join(", ");
    assert!(error(&route(&format!("host: a.example\ncredential: [{nine}]"))).starts_with("too-complex 5:19"));
}

#[test]
fn b42_a_variable_inside_is_one_secret_s_and_has_no_other_value() {
    // M34: over all routes of the whole
    let routes = |one: &str, two: &str| {
        format!("egress:\n  routes:\n    - {{host: a.example, {one}}}\n    - {{host: b.example, {two}}}\n")
    };
    let basic = |from: &str, env: &str| format!("credential: {{in: basic, from: {from}, env: {env}}}");
    let fine = bottle(&routes(&basic("ONE", "A"), &basic("ONE", "A"))).unwrap();
    assert_eq!(fine.secrets().len(), 1);
    assert!(bottle(&routes(&basic("ONE", "A"), &basic("ONE", "B"))).is_ok(), "one placeholder in two variables");
    let message = error(&routes(&basic("ONE", "A"), &basic("TWO", "A")));
    assert!(message.starts_with("bad-value 5:7") && message.contains("of ONE and of TWO"), "{message}");
    let message = error(&routes("auth_scheme: Bearer, token_env: ONE", &basic("TWO", "ONE")));
    assert!(message.starts_with("bad-value 5:7"), "{message}");
    let message = error(&format!("{}env: {{A: x}}\n", routes(&basic("ONE", "A"), "private: true")));
    assert!(message.starts_with("bad-value 4:7") && message.contains("has a value already"), "{message}");
}

#[test]
fn b42_a_credential_for_a_host_that_is_never_spoken_to_over_tls_is_an_error() {
    // M23
    let lines = "host: a.example\nports: [80]\ncredential: {in: basic, from: KEY}";
    let message = error(&route(lines));
    assert!(message.starts_with("bad-value 4:1") && message.contains("without TLS"), "{message}");
    assert!(bottle(&route(&lines.replace("[80]", "[80, 8443]"))).is_ok());
    assert_eq!(
        carboy_manifest::edit::NewRoute::of(&only_route("host: a.example\ncredential: {in: basic, from: KEY}")),
        None,
        "nobody proposes one"
    );
}

#[test]
fn scheme_and_secret_come_together_or_not_at_all() {
    // M22, M23
    for (lines, code) in [
        ("auth_scheme: Bearer", "missing-key"),
        ("token_env: KEY", "missing-key"),
        ("auth_header: x-key", "missing-key"),
        ("auth_scheme: bearer\ntoken_env: KEY", "bad-value"),
        ("auth_scheme: Token\ntoken_env: KEY", "bad-value"),
        ("auth_scheme: Bearer\ntoken_env: KEY\nauth_header: Content-Length", "bad-value"),
        ("auth_scheme: Bearer\ntoken_env: KEY\nauth_header: \"x\\r\\ny\"", "bad-value"),
        ("auth_scheme: Bearer\ntoken_env: KEY\nmeter: llama", "bad-value"),
        ("git: {push: true}", "unknown-key"),
        ("git: true", "wrong-type"),
        ("dlp: {inbound_detectors: [known_secrets]}", "bad-value"),
        ("dlp: {outbound_on_match: allow}", "bad-value"),
        ("ports: []", "bad-value"),
        ("ports: 443", "wrong-type"),
        ("body_bytes_max: 10M", "bad-value"),
        ("private: on", "wrong-type"),
    ] {
        let found = error(&route(&format!("host: a.example\n{lines}")));
        assert!(found.starts_with(code), "{lines}: {found}");
    }
    let leaked = error(&route("host: a.example\nauth_scheme: Bearer\ntoken_env: sk-ant-api03-secret"));
    assert!(!leaked.contains("sk-ant"), "{leaked}");
}

#[test]
fn a_host_is_one_host_or_a_zone_that_can_be_reached() {
    // M23
    for (host, words) in [
        ("\"*\"", "no policy"),
        ("https://a.example", "not a host alone"),
        ("a.example/v1", "not a host alone"),
        ("a.example:8443", "carries a port"),
        ("\"a.*.example\"", "character"),
        ("\"*.10.0.0.1\"", "label"),
        ("127.0.0.1", "this machine"),
        ("0x7f.1", "this machine"),
        ("\"::1\"", "this machine"),
        ("169.254.169.254", "this machine"),
        ("198.18.0.1", "this machine"),
        ("10.0.0.1", "private address"),
        ("localhost", "the bottle itself"),
        ("\"*.localhost\"", "the bottle itself"),
        ("supervise.carboy.internal", "carboy answers"),
    ] {
        let found = error(&route(&format!("host: {host}")));
        assert!(found.starts_with("bad-host 4:13") && found.contains(words), "{found}");
    }
    for host in ["127.0.0.1", "169.254.169.254", "\"::1\"", "100.100.100.200", "0.0.0.0"] {
        assert!(error(&route(&format!("host: {host}\nprivate: true"))).starts_with("bad-host"), "{host}");
    }
    for lines in
        ["host: 10.0.0.1\nprivate: true", "host: 1.1.1.1", "host: \"fd00::1\"\nprivate: true", "host: bücher.example"]
    {
        assert!(findings(&route(lines)).is_empty(), "{lines}");
    }
    assert!(error(&route("host: \"*.com\"")).starts_with("route-wide"));
}

#[test]
fn a_star_without_quotes_is_told_to_take_them() {
    let errors = bottle(&route("host: *.example.org")).err().unwrap();
    assert_eq!(errors.iter().count(), 1);
    assert!(errors.to_string().contains("in quotes, as in \"*.example.org\""), "{errors}");
}

#[test]
fn matches_decide_as_written() {
    // M23
    let yaml = route(
        "host: a.example\nmatches:\n  - paths: [/v1, {type: exact, value: /ping}, {type: regex, value: \"/u/[0-9]+\"}]\n    methods: [GET, POST]\n  \
         - headers: [{name: X-Team, value: blue}, {name: x-n, type: regex, value: \"[0-9]{2}\"}]",
    );
    let set = bottle(&yaml).unwrap_or_else(|errors| panic!("{errors}")).routes;
    let permit = set.host_permit(&Host::parse("a.example").unwrap(), 443).into_result().unwrap();
    let says = |method: &str, path: &str, headers: &[(&str, &[u8])]| {
        set.route(&permit, &RequestFacts { method, path, query: "", headers }).into_result().is_ok()
    };
    assert!(says("GET", "/v1/x", &[]) && says("POST", "/ping", &[]) && says("GET", "/u/42", &[]));
    assert!(
        !says("PUT", "/v1/x", &[])
            && !says("GET", "/ping/x", &[])
            && !says("GET", "/u/42/x", &[])
            && !says("GET", "/v10", &[])
    );
    assert!(says("PUT", "/", &[("x-team", b"blue"), ("x-n", b"07")]));
    assert!(!says("PUT", "/", &[("x-team", b"blue"), ("x-n", b"007")]) && !says("PUT", "/", &[("x-n", b"07")]));
}

#[test]
fn a_path_that_begins_a_text_is_a_prefix() {
    // M23
    let only = only_route("host: a.example\nmatches: [{paths: [{value: /v1}]}]");
    assert!(matches!(&only.matches[0].paths[0], PathMatch::Prefix(path) if path == "/v1"));
}

#[test]
fn a_match_that_would_mean_more_than_it_reads_is_refused() {
    // M23
    for (matches, code) in [
        ("[]", "bad-value"),
        ("", "wrong-type"),
        ("[{}]", "bad-value"),
        ("[{paths: []}]", "bad-value"),
        ("[{methods: []}]", "bad-value"),
        ("[{headers: []}]", "bad-value"),
        ("[{path: [/a]}]", "unknown-key"),
        ("[{paths: [a]}]", "bad-value"),
        ("[{paths: [/a%2fb]}]", "bad-value"),
        ("[{paths: [/a/../b]}]", "bad-value"),
        ("[{paths: [{type: glob, value: /a}]}]", "bad-value"),
        ("[{paths: [{type: regex, value: \"a)|(?:b\"}]}]", "bad-regex"),
        ("[{paths: [{type: regex, value: \"(a{1000}){1000}\"}]}]", "bad-regex"),
        ("[{methods: [get]}]", "bad-value"),
        ("[{headers: [{name: x}]}]", "missing-key"),
        ("[{headers: [{name: \"x:\", value: y}]}]", "bad-value"),
        ("[{headers: [{name: x, value: y, type: prefix}]}]", "bad-value"),
    ] {
        let found = error(&route(&format!("host: a.example\nmatches: {matches}")));
        assert!(found.starts_with(code), "{matches}: {found}");
    }
}

#[test]
fn a_route_that_an_earlier_one_hides_is_pointed_at() {
    let hidden = "egress:\n  routes:\n    - host: a.example\n    - {host: a.example, ports: [443], matches: [{methods: [GET]}]}\n";
    assert!(error(hidden).starts_with("route-redundant 5:7"));
    let twins = "egress:\n  routes:\n    - {host: a.example, matches: [{methods: [GET]}]}\n    - {host: a.example, matches: [{methods: [GET]}]}\n";
    assert!(error(twins).starts_with("route-redundant 5:7"));
    for useful in [
        "    - host: a.example\n    - {host: a.example, git: {fetch: true}}\n",
        "    - host: a.example\n    - {host: a.example, ports: [8080]}\n",
        "    - {host: a.example, matches: [{methods: [GET]}]}\n    - host: a.example\n",
    ] {
        assert!(findings(&format!("egress:\n  routes:\n{useful}")).is_empty(), "{useful}");
    }
}

#[test]
fn a_scan_that_is_turned_off_is_warned_of() {
    assert!(error(&route("host: a.example\ndlp: {outbound_detectors: []}")).starts_with("scan-off"));
}

#[test]
fn binds_and_limits_are_read() {
    let yaml = "binds:\n  ~/.cargo/bin: ~/.cargo/bin\n  /opt/tool: ro\n  /srv/cache: /cache:rw\nlimits: {memory: 2GiB, processes: 64, open_files: 1024}";
    let loaded = bottle(yaml).unwrap_or_else(|errors| panic!("{errors}"));
    let bind = |source: &str, target: &str, access| Bind { source: source.into(), target: target.into(), access };
    let want = [
        bind("/home/u/.cargo/bin", "/home/agent/.cargo/bin", Access::ReadOnly),
        bind("/opt/tool", "/opt/tool", Access::ReadOnly),
        bind("/srv/cache", "/cache", Access::ReadWrite),
    ];
    assert_eq!(loaded.binds, want);
    let limits = Limits { memory_bytes_max: Some(2 << 30), processes_max: 64, open_files_max: 1024 };
    assert_eq!(loaded.limits, limits);
    for (binds, code) in [
        ("~/.ssh: ro", "bind-refused"),
        ("~/.carboy/bottles: ro", "bind-refused"),
        ("/: /host", "bind-refused"),
        ("/var/run/docker.sock: rw", "bind-refused"),
        ("rel/path: /x", "bad-value"),
        ("/a/../etc: /x", "bad-value"),
        ("/a: x", "bad-value"),
        ("/a: /proc/self", "bad-value"),
        ("/a: /home/agent", "bad-value"),
        ("/a: /home", "bad-value"),
        ("/a: /x:rx", "bad-value"),
        ("/a: 1", "wrong-type"),
    ] {
        let found = error(&format!("binds:\n  {binds}"));
        assert!(found.starts_with(code), "{binds}: {found}");
    }
    assert!(error("binds: {/a: /x, /b: /x}").contains("two binds"));
    for limits in ["memory: 512", "memory: 1KiB", "processes: 0", "open_files: 99999999"] {
        assert!(error(&format!("limits: {{{limits}}}")).starts_with("bad-value"), "{limits}");
    }
}
