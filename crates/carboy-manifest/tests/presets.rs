//! `presets`: what each lets through, and nothing else.

mod support;

use carboy_core::host::Host;
use carboy_core::route::{BasicPart, GitAccess, OnMatch, PlaceholderIn, Reach, RequestFacts};
use carboy_manifest::{Effective, check};
use support::{bottle, files, findings, request};

fn load(presets: &str) -> Effective {
    bottle(&format!("presets: {presets}")).unwrap_or_else(|errors| panic!("{presets}: {errors}"))
}

/// Is this request allowed? `target` may have a query.
fn asks(loaded: &Effective, host: &str, port: u16, method: &str, target: &str) -> bool {
    let host = Host::parse(host).expect("a host");
    let Ok(permit) = loaded.routes.host_permit(&host, port).into_result() else { return false };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    loaded.routes.route(&permit, &RequestFacts { method, path, query, headers: &[] }).into_result().is_ok()
}

#[test]
fn github_read_reads_and_does_not_write() {
    // M38
    let loaded = load("[github-read]");
    let ask = |host, method, target| asks(&loaded, host, 443, method, target);
    for (host, method, target) in [
        ("github.com", "GET", "/team/app.git/info/refs?service=git-upload-pack"),
        ("github.com", "POST", "/team/app.git/git-upload-pack"),
        ("github.com", "GET", "/team/app/archive/refs/tags/v1.tar.gz"),
        ("github.com", "GET", "/team/app/releases/download/v1/app.tar.gz"),
        ("codeload.github.com", "GET", "/team/app/tar.gz/v1"),
        ("raw.githubusercontent.com", "GET", "/team/app/main/README.md"),
        ("api.github.com", "GET", "/repos/team/app/releases"),
        ("release-assets.githubusercontent.com", "GET", "/github-production-release-asset/1/2"),
    ] {
        assert!(ask(host, method, target), "{method} {host}{target}");
    }
    for (host, method, target) in [
        ("github.com", "GET", "/team/app.git/info/refs?service=git-receive-pack"),
        ("github.com", "POST", "/team/app.git/git-receive-pack"),
        ("github.com", "POST", "/team/app/issues"),
        ("github.com", "GET", "/login"),
        ("github.com", "GET", "/settings/tokens"),
        ("api.github.com", "POST", "/repos/team/app/issues"),
        ("api.github.com", "GET", "/user"),
        ("api.github.com", "POST", "/gists"),
        ("gist.github.com", "GET", "/x"),
    ] {
        assert!(!ask(host, method, target), "{method} {host}{target}");
    }
    assert!(!asks(&loaded, "github.com", 80, "GET", "/team/app.git/info/refs?service=git-upload-pack"));
    assert!(loaded.secrets().is_empty());
    assert_eq!(loaded.routes.iter().filter(|route| route.git == GitAccess::Fetch).count(), 1);
}

#[test]
fn a_model_s_preset_speaks_to_the_model_and_to_nothing_beside_it() {
    // M38
    let (gemini, model) = ("generativelanguage.googleapis.com", "/v1beta/models/m-1:streamGenerateContent");
    let oauth = "[{anthropic: {token_env: CLAUDE_CODE_OAUTH_TOKEN}}]";
    for (presets, host, yes, no, secret) in [
        ("[anthropic]", "api.anthropic.com", "/v1/messages", "/api/event_logging/batch", "ANTHROPIC_API_KEY"),
        (oauth, "api.anthropic.com", "/v1/messages/count_tokens", "/v1/files", "CLAUDE_CODE_OAUTH_TOKEN"),
        ("[openai]", "api.openai.com", "/v1/responses", "/v1/files", "OPENAI_API_KEY"),
        ("[openai]", "api.openai.com", "/v1/chat/completions", "/v1/fine_tuning/jobs", "OPENAI_API_KEY"),
        ("[gemini]", gemini, model, "/v1beta/files", "GEMINI_API_KEY"),
        (
            "[chatgpt]",
            "chatgpt.com",
            "/backend-api/codex/responses",
            "/backend-api/conversation",
            "CHATGPT_ACCESS_TOKEN",
        ),
    ] {
        let loaded = load(presets);
        assert!(asks(&loaded, host, 443, "POST", yes) && !asks(&loaded, host, 443, "POST", no), "{presets}");
        assert!(!asks(&loaded, host, 443, "DELETE", yes) && !asks(&loaded, host, 80, "POST", yes), "{presets}");
        assert_eq!(loaded.secrets().keys().map(|name| name.as_str()).collect::<Vec<_>>(), [secret]);
        let route = loaded.routes.iter().next().expect("a route");
        assert!(route.meter.is_some() && route.dlp.outbound_on_match == OnMatch::Redact);
    }
}

#[test]
fn of_what_shares_the_model_s_host_only_what_a_program_cannot_do_without_is_let_through() {
    // M37
    let anthropic = load("[anthropic]");
    let gets = |path: &str| asks(&anthropic, "api.anthropic.com", 443, "GET", path);
    assert!(gets("/api/claude_code/settings") && gets("/api/claude_code/policy_limits") && gets("/v1/models"));
    assert!(asks(&anthropic, "api.anthropic.com", 443, "HEAD", "/") && !gets("/"));
    for reports in
        ["/api/event_logging/v2/batch", "/api/claude_code/metrics", "/api/claude_cli/bootstrap", "/api/eval/sdk-x"]
    {
        assert!(!gets(reports) && !asks(&anthropic, "api.anthropic.com", 443, "POST", reports), "{reports}");
    }
    let chatgpt = load("[chatgpt]");
    let gets = |path: &str| asks(&chatgpt, "chatgpt.com", 443, "GET", path);
    assert!(gets("/backend-api/codex/models") && gets("/backend-api/wham/accounts/check"));
    assert!(!gets("/backend-api/plugins/export/curated") && !gets("/backend-api/conversations"));
}

#[test]
fn a_package_manager_reads_from_the_hosts_that_it_is_configured_to_use() {
    // M38
    let npm = load("[{npm: {hosts: [registry.example, \"mirror.example:8443/npm/\"]}}]");
    assert!(asks(&npm, "registry.example", 443, "GET", "/left-pad"));
    assert!(asks(&npm, "registry.example", 443, "HEAD", "/a/-/a-1.tgz"));
    // As npm asks for a package with a scope.
    assert!(asks(&npm, "registry.example", 443, "GET", "/@types%2fnode"));
    assert!(asks(&npm, "mirror.example", 8443, "GET", "/npm/@types%2fnode"));
    assert!(!asks(&npm, "registry.example", 443, "PUT", "/left-pad"));
    assert!(!asks(&npm, "registry.example", 443, "POST", "/-/npm/v1/security/audits"));
    assert!(!asks(&npm, "registry.example", 80, "GET", "/left-pad"));
    assert!(asks(&npm, "mirror.example", 8443, "GET", "/npm/left-pad"));
    assert!(!asks(&npm, "mirror.example", 8443, "GET", "/other"));
    assert!(!asks(&npm, "mirror.example", 443, "GET", "/npm/left-pad"));
    let apt = load("[{apt: {hosts: [\"deb.example/debian\"]}}, {pip: {hosts: [\"py.example/simple\", f.example]}}]");
    assert!(asks(&apt, "deb.example", 80, "GET", "/debian/dists/stable/InRelease"));
    assert!(!asks(&apt, "deb.example", 80, "GET", "/other"));
    assert!(asks(&apt, "py.example", 443, "GET", "/simple/requests/"));
    assert!(!asks(&apt, "py.example", 443, "GET", "/legacy/"));
}

#[test]
fn cargo_and_go_ask_what_their_protocols_ask() {
    // M38
    let cargo = load("[{cargo: {hosts: [index.example, \"m.example/api/cargo\"]}}]");
    let index = ["/config.json", "/1/a", "/3/l/log", "/se/rd/serde"];
    let downloads = ["/crates/serde/serde-1.0.0.crate", "/api/v1/crates/serde/1.0.0/download"];
    for path in index.into_iter().chain(downloads) {
        assert!(asks(&cargo, "index.example", 443, "GET", path), "{path}");
        assert!(asks(&cargo, "m.example", 443, "GET", &format!("/api/cargo{path}")), "{path}");
        assert!(!asks(&cargo, "m.example", 443, "GET", &format!("/apixcargo{path}")), "{path}");
    }
    assert!(!asks(&cargo, "index.example", 443, "GET", "/api/v1/me"));
    assert!(!asks(&cargo, "index.example", 443, "PUT", "/api/v1/crates/new"));
    let go = load("[{go: {hosts: [proxy.example]}}]");
    let module = ["/example.org/m/@v/list", "/example.org/m/@v/v1.0.0.zip", "/example.org/m/@latest"];
    let sums = ["/sumdb/sum.example/supported", "/lookup/example.org/m@v1.0.0", "/tile/8/0/000"];
    for path in module.into_iter().chain(sums) {
        assert!(asks(&go, "proxy.example", 443, "GET", path), "{path}");
    }
    assert!(!asks(&go, "proxy.example", 443, "GET", "/example.org/m"));
    assert!(!asks(&go, "proxy.example", 443, "POST", "/example.org/m/@latest"));
}

#[test]
fn a_company_mirror_may_be_private_and_need_a_token() {
    // M38
    let loaded = load("[{npm: {hosts: [10.1.2.3], private: true, token_env: NPM_TOKEN}}]");
    let route = loaded.routes.iter().next().expect("a route");
    let secret = route.auth.as_ref().map(|auth| auth.secret.as_str());
    assert_eq!((route.reach, secret), (Reach::Private, Some("NPM_TOKEN")));
    assert!(findings("presets: [{npm: {hosts: [10.1.2.3]}}]")[0].starts_with("bad-host 2:12"));
}

#[test]
fn b42_a_preset_s_credential_may_be_a_placeholder_where_its_clients_put_their_keys() {
    // M38
    let header = |name: &str| PlaceholderIn::Header(name.into());
    let (x_key, bearer) = (header("x-api-key"), header("authorization"));
    let key = PlaceholderIn::Query("key".into());
    for (presets, places) in [
        ("[{anthropic: {credential: {from: K, env: ANTHROPIC_API_KEY}}}]", vec![x_key, bearer.clone()]),
        ("[{openai: {credential: {from: K, env: V}}}]", vec![bearer.clone()]),
        ("[{chatgpt: {credential: {from: K}}}]", vec![bearer.clone()]),
        ("[{gemini: {credential: {from: K}}}]", vec![header("x-goog-api-key"), key]),
        ("[{npm: {hosts: [r.example], credential: {from: K}}}]", vec![bearer, PlaceholderIn::Basic(BasicPart::Either)]),
    ] {
        let loaded = load(presets);
        for route in loaded.routes.iter() {
            assert!(route.auth.is_none(), "{presets}");
            let held: Vec<_> = route.credentials.iter().map(|one| one.place.clone()).collect();
            assert_eq!(held, places, "{presets}");
        }
        let variable = presets.split("env: ").nth(1).map_or("K", |rest| rest.split('}').next().unwrap());
        let one = &loaded.routes.iter().next().expect("a route").credentials[0];
        assert_eq!((one.secret.as_str(), one.variable.as_str()), ("K", variable));
    }
    for (presets, want) in [
        (
            "[{anthropic: {credential: {}}}]",
            "missing-key 2:36 `credential` of preset `anthropic@1` of bottle `dev` has no `from`",
        ),
        ("[{anthropic: {credential: {from: K, in: header}}}]", "unknown-key"),
        ("[{anthropic: {credential: K}}]", "wrong-type"),
        ("[{anthropic: {credential: {from: sk-ant-x}}}]", "bad-name"),
        ("[{anthropic: {credential: {from: K, env: PATH}}}]", "bad-name"),
        (
            "[{anthropic: {credential: {from: K}, token_env: T}}]",
            "bad-value 2:36 preset `anthropic@1` of bottle `dev` has `credential` and",
        ),
        ("[{github-read: {credential: {from: K}}}]", "unknown-key"),
    ] {
        let found = findings(&format!("presets: {presets}"));
        assert!(found.len() == 1 && found[0].starts_with(want), "{presets}: {found:?}");
    }
}

#[test]
fn what_a_preset_is_not_is_said_at_its_place() {
    // M38
    for (presets, want) in [
        ("npm", "wrong-type 2:10"),
        ("[npm]", "missing-key 2:11 preset `npm@1` of bottle `dev` has no `hosts`"),
        ("[npn]", "bad-value 2:11"),
        ("[github-read@2]", "bad-value 2:11 `presets` of bottle `dev` has `github-read@2`, a version that"),
        ("[github-read@]", "bad-value"),
        ("[{github-read: {hosts: [a.example]}}]", "unknown-key"),
        ("[{anthropic: {token_env: sk-ant-x}}]", "bad-name"),
        ("[{anthropic: {private: true}}]", "unknown-key"),
        ("[{npm: {hosts: []}}]", "bad-value"),
        ("[{npm: {hosts: [\"https://r.example\"]}}]", "bad-value"),
        ("[{npm: {hosts: [\"*.example\"]}}]", "bad-value"),
        ("[{npm: {hosts: [127.0.0.1]}}]", "bad-host"),
        ("[{npm: {hosts: [r.example]}, pip: {hosts: [r.example]}}]", "bad-value"),
        ("[1]", "wrong-type"),
    ] {
        let found = findings(&format!("presets: {presets}"));
        assert!(found.len() == 1 && found[0].starts_with(want), "{presets}: {found:?}");
    }
}

#[test]
fn a_check_shows_the_routes_of_a_preset_with_its_version() {
    // M38
    let yaml = "presets:\n  - {npm@1: {hosts: [registry.example]}}\negress: {routes: [{host: first.example}]}";
    let report = check(&files(&[("bottles/dev.md", &format!("---\n{yaml}\n---\n"))]), &request(None, &["dev"]));
    let json =
        serde_json::to_value(report.effective.unwrap_or_else(|| panic!("{}", report.diagnostics))).expect("JSON");
    assert_eq!(json["routes"][0]["id"], "r1:first.example");
    let from = &json["routes"][1];
    assert_eq!((from["id"].as_str(), from["preset"].as_str()), (Some("r2:registry.example"), Some("npm@1")));
    assert_eq!((from["origin"]["line"].as_u64(), &from["matches"]), (Some(3), &serde_json::json!(["GET,HEAD /…"])));
}
