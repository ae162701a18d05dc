//! Every starter passes the reader that will read it.

use super::*;
use crate::CheckReport;
use crate::files::{MapFiles, Places};
use crate::load::{Manifest, Request};

fn places() -> Places {
    Places { carboy_home: "/home/u/.carboy".into(), home: "/home/u".into(), cwd: "/work".into() }
}

fn plain(program: Option<Program>, login: Login) -> Starter {
    Starter {
        name: "work".into(),
        program,
        command: None,
        login,
        presets: vec![],
        offered: vec![],
        binds: vec![],
        env: vec![],
        git_user: None,
        home: "/home/u".into(),
    }
}

fn preset(name: &str, hosts: &[&str], private: bool) -> PresetLine {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    PresetLine { name: name.into(), hosts, private, why: vec!["as the tool says\nroutes: [evil]".into()] }
}

/// With everything that a host can have, odd names included.
fn full(program: Option<Program>, login: Login) -> Starter {
    let bind = |source: &str, target: Option<&str>| BindLine {
        source: source.into(),
        target: target.map(String::from),
        why: "node 22".into(),
    };
    Starter {
        command: Some("/home/u/.npm-global/lib/node_modules/x/cli.js".into()),
        presets: vec![
            preset("npm", &["registry.example", "mirror.example:8443/npm"], false),
            preset("pip", &["10.0.0.7"], true),
            preset("cargo", &["index.example", "index.example:80/a-b"], false),
            preset("github-read", &[], false),
        ],
        offered: vec![preset("go", &["go.example/proxy"], false), preset("apt", &["deb.example:80"], false)],
        binds: vec![
            bind("/home/u/.local/bin/claude", Some("~/.local/bin/claude")),
            bind("/home/u/.nvm/versions/node/v22.1.0", None),
            bind("/home/u/odd # dir: x", None),
            bind("/home/linuxbrew/.linuxbrew", None),
        ],
        env: vec![VariableLine { name: "PATH".into(), value: "/a b:/c\"d".into(), why: "why".into() }],
        git_user: Some(("Ada \u{202e}\"Ł\" # x".into(), "ada@example.org".into())),
        ..plain(program, login)
    }
}

fn checked(starter: &Starter) -> (MapFiles, CheckReport) {
    let mut files = MapFiles::default();
    files.insert("/home/u/.carboy/bottles/work.md", bottle(starter));
    let agent = agent(starter);
    if let Some(agent) = &agent {
        files.insert("/home/u/.carboy/agents/work.md", agent.clone());
    }
    let request = Request {
        agent: agent.as_ref().map(|_| "work".into()),
        bottles: if agent.is_some() { vec![] } else { vec!["work".into()] },
        places: places(),
    };
    let report = crate::check(&files, &request);
    (files, report)
}

fn every_login() -> Vec<Login> {
    let keys = Vendor::ALL.into_iter().map(Login::ApiKey);
    [Login::ClaudeSubscription, Login::ChatGptSubscription, Login::None].into_iter().chain(keys).collect()
}

#[test]
fn every_starter_passes_its_own_check() {
    // M35, M36
    let programs = Program::ALL.into_iter().map(Some).chain([None]);
    for program in programs {
        for login in every_login() {
            for starter in [plain(program, login), full(program, login)] {
                let (_, report) = checked(&starter);
                let errors: Vec<_> = report.diagnostics.iter().collect();
                assert!(report.ok && errors.is_empty(), "{}\n{}", report.diagnostics, bottle(&starter));
            }
        }
    }
}

#[test]
fn a_starter_says_what_it_was_made_of_and_nothing_more() {
    let starter = full(Some(Program::Codex), Login::ApiKey(Vendor::Openai));
    let (files, report) = checked(&starter);
    assert!(report.ok, "{}\n{}", report.diagnostics, bottle(&starter));
    let request = Request { agent: Some("work".into()), bottles: vec![], places: places() };
    let effective = Manifest::load(&files, &request).unwrap();
    let hosts: std::collections::BTreeSet<String> = effective.routes.iter().map(|r| r.host.to_string()).collect();
    let known = ["10.0.0.7", "api.openai.com", "index.example", "mirror.example", "registry.example"];
    let github = |host: &str| host.ends_with("github.com") || host.ends_with("githubusercontent.com");
    assert_eq!(hosts.iter().filter(|host| !github(host)).collect::<Vec<_>>(), known);
    let sources: Vec<String> = effective.binds.iter().map(|bind| bind.source.display().to_string()).collect();
    assert!(sources.contains(&"/home/u/odd # dir: x".to_owned()), "{sources:?}");
    assert_eq!(effective.git_user.name.as_deref(), Some("Ada \u{202e}\"Ł\" # x"));
    assert_eq!(effective.provider.command.as_deref(), starter.command.as_ref().and_then(|c| c.to_str()));
    assert!(effective.prompt.contains("sandbox"));
    assert_eq!(effective.secrets().keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["OPENAI_API_KEY"]);
}

#[test]
fn a_model_route_masks_what_looks_like_a_token_instead_of_ending_the_night() {
    for login in every_login().into_iter().filter(|login| *login != Login::None) {
        let (files, _) = checked(&plain(Some(Program::Claude), login));
        let request = Request { agent: Some("work".into()), bottles: vec![], places: places() };
        let effective = Manifest::load(&files, &request).unwrap();
        let routes: Vec<_> = effective.routes.iter().collect();
        assert!(!routes.is_empty());
        for route in routes {
            assert_eq!(route.dlp.outbound_on_match, carboy_core::route::OnMatch::Redact, "{login:?}");
            assert!(route.auth.is_some());
        }
    }
}

#[test]
fn c6_a_starter_for_a_program_has_a_budget_for_each_day_and_a_shell_has_none() {
    let set_of = |starter: &Starter| {
        let (files, report) = checked(starter);
        assert!(report.ok, "{}", report.diagnostics);
        let request = Request { agent: None, bottles: vec!["work".into()], places: places() };
        Manifest::load(&files, &request).unwrap().budgets
    };
    let set = set_of(&plain(Some(Program::Claude), Login::None));
    assert_eq!(set.caps.len(), crate::budget::METERS.len());
    for cap in set.caps.values().flatten() {
        assert_eq!(Ok(cap.amount), crate::budget::parse_amount(BUDGET));
        assert_eq!((cap.kind, cap.scope.to_string()), (carboy_core::budget::CapKind::Budget, "bottle:work".into()));
        let day = carboy_core::budget::Unit::Day;
        assert!(matches!(cap.window, carboy_core::budget::Window::Calendar { unit, .. } if unit == day));
    }
    assert!(BUDGET_BUYS.starts_with(BUDGET));
    assert!(set_of(&plain(None, Login::None)).caps.is_empty());
}

#[test]
fn a_long_comment_goes_on_in_the_next_line_and_no_word_is_cut() {
    let mut starter = plain(None, Login::None);
    let words: Vec<String> = (0..60).map(|n| format!("word{n}")).collect();
    let why = vec![words.join(" ")];
    starter.presets = vec![PresetLine { name: "npm".into(), hosts: vec!["a.example".into()], private: false, why }];
    let text = bottle(&starter);
    assert!(words.iter().all(|word| text.contains(&format!(" {word}"))), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 112), "{text}");
    assert!(checked(&starter).1.ok, "{text}");
}
