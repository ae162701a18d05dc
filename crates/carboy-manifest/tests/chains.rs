//! `extends`, several bottles of one run, and where each value was said.

mod support;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use carboy_core::ids::BottleName;
use carboy_manifest::chain::{CHAIN_DEPTH_MAX, CHAIN_FILES_MAX};
use carboy_manifest::files::FileError;
use carboy_manifest::{Code, Effective, EnvValue, Manifest, ManifestFiles, MapFiles, Reread, check, reread};
use support::{codes, places, request, shown};

/// Bottles by name and front matter.
fn home<A: AsRef<str>, B: AsRef<str>>(bottles: &[(A, B)]) -> MapFiles {
    let file = |(name, yaml): &(A, B)| {
        (places().bottles().join(format!("{}.md", name.as_ref())), format!("---\n{}\n---\n", yaml.as_ref()))
    };
    bottles.iter().map(file).collect()
}

fn load(bottles: &[(&str, &str)], names: &[&str]) -> Effective {
    Manifest::load(&home(bottles), &request(None, names)).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(bottles: &[(&str, &str)], names: &[&str]) -> Vec<String> {
    shown(&Manifest::load(&home(bottles), &request(None, names)).expect_err("an error"))
}

fn hosts(loaded: &Effective) -> Vec<String> {
    loaded.routes.iter().map(|route| route.id.to_string()).collect()
}

fn env(loaded: &Effective) -> Vec<String> {
    let text = |value: &EnvValue| match value {
        EnvValue::Set(text) | EnvValue::Prompt(text) => text.clone(),
    };
    loaded.env.iter().map(|(name, value)| format!("{name}={}", text(value))).collect()
}

#[test]
fn a_chain_is_followed_to_its_end_and_the_child_wins() {
    // M26, M27, M29
    let bottles = [
        ("root", "env: {A: root, B: root}\negress: {routes: [{host: a.example}], log: x}\nsupervise: false"),
        ("mid", "extends: root\nenv: {B: mid, C: mid}\negress: {routes: [{host: b.example}]}"),
        ("dev", "extends: [mid]\nenv: {C: dev}\negress: {routes: [{host: c.example}]}"),
    ];
    let loaded = load(&bottles, &["dev"]);
    assert_eq!(env(&loaded), ["A=root", "B=mid", "C=dev"]);
    assert_eq!(hosts(&loaded), ["r1:a.example", "r2:b.example", "r3:c.example"]);
    assert_eq!((loaded.supervise, loaded.egress_log.value.as_deref()), (false, Some("x")));
    let sources = ["root", "mid", "dev"].map(|name| places().bottles().join(format!("{name}.md")));
    assert_eq!(loaded.sources, sources);
}

#[test]
fn several_parents_fold_from_left_to_right_and_what_they_share_is_there_once() {
    // M26
    let bottles = [
        ("base", "env: {A: base}\negress: {routes: [{host: base.example}]}\npresets: [github-read]"),
        ("one", "extends: base\nenv: {A: one, B: one}\negress: {routes: [{host: one.example}]}"),
        ("two", "extends: base\nenv: {B: two}\negress: {routes: [{host: two.example}]}\npresets: [github-read@1]"),
        ("dev", "extends: [one, two]"),
    ];
    let loaded = load(&bottles, &["dev"]);
    // `two` says nothing of A itself, and what it inherits is its own.
    assert_eq!(env(&loaded), ["A=base", "B=two"]);
    assert_eq!(hosts(&loaded)[..3], ["r1:base.example", "r2:one.example", "r3:two.example"]);
    assert_eq!(hosts(&loaded).iter().filter(|id| id.ends_with(":github.com")).count(), 1);
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn a_circle_is_shown_as_the_path_that_leads_round() {
    // M26
    let bottles =
        [("a", "extends: b"), ("b", "env: {X: y}\nextends: [c]"), ("c", "extends: b"), ("self", "extends: self")];
    let want = "extends-cycle 2:10 `extends` leads in a circle: b → c → b";
    assert_eq!(errors(&bottles, &["a"]), [want]);
    assert_eq!(errors(&bottles, &["self"]), ["extends-cycle 2:10 `extends` leads in a circle: self → self"]);
    // M8: a check finds each circle once, and says of nobody in it or above it that it is good.
    let report = check(&home(&bottles), &request(None, &[]));
    assert_eq!(codes(&report.diagnostics), [Code::ExtendsCycle, Code::ExtendsCycle]);
    assert!(report.files.iter().all(|file| !file.ok));
}

#[test]
fn a_chain_is_bounded_in_depth_and_in_files() {
    // M26
    let row = |depth: usize| -> MapFiles {
        let extends = |i: usize| if i == 0 { String::new() } else { format!("extends: b{}", i - 1) };
        home(&(0..depth).map(|i| (format!("b{i}"), extends(i))).collect::<Vec<_>>())
    };
    let last = |depth: usize| format!("b{}", depth - 1);
    let good = row(CHAIN_DEPTH_MAX);
    assert!(Manifest::load(&good, &request(None, &[&last(CHAIN_DEPTH_MAX)])).is_ok());
    assert!(check(&good, &request(None, &[])).ok);
    let deep = row(CHAIN_DEPTH_MAX + 1);
    let found = Manifest::load(&deep, &request(None, &[&last(CHAIN_DEPTH_MAX + 1)])).expect_err("an error");
    assert_eq!(codes(&found), [Code::ChainTooLong]);
    assert_eq!(codes(&check(&deep, &request(None, &[])).diagnostics), [Code::ChainTooLong]);
    let names: Vec<String> = (0..CHAIN_FILES_MAX).map(|i| format!("p{i}")).collect();
    let mut wide: Vec<(String, String)> = names.iter().map(|name| (name.clone(), String::new())).collect();
    wide.push(("dev".into(), format!("extends: [{}]", names.join(", "))));
    wide.push(("less".into(), format!("extends: [{}]", names[1..].join(", "))));
    let wide = home(&wide);
    assert!(Manifest::load(&wide, &request(None, &["less"])).is_ok());
    let found = Manifest::load(&wide, &request(None, &["dev"])).expect_err("an error");
    assert_eq!(codes(&found), [Code::ChainTooLong]);
    assert_eq!(codes(&check(&wide, &request(None, &[])).diagnostics), [Code::ChainTooLong]);
}

#[test]
fn a_parent_that_is_not_there_or_not_valid_stops_the_launch_at_its_place() {
    // M26, M31
    let gone = errors(&[("dev", "env: {A: b}\nextends: [gone]")], &["dev"]);
    assert_eq!(gone, ["no-such-bottle 3:11 there is no bottle `gone`"]);
    let broken = [("base", "supervise: yes\nenvs: {}"), ("dev", "extends: base\nzzz: 1")];
    let all = errors(&broken, &["dev"]);
    let starts: Vec<bool> = ["unknown-key 3:1", "wrong-type 2:12", "unknown-key 3:1"]
        .iter()
        .zip(&all)
        .map(|(want, found)| found.starts_with(want))
        .collect();
    assert_eq!(starts, [true, true, true], "{all:#?}");
    for (yaml, code) in [
        ("extends: []", "bad-value"),
        ("extends: 1", "wrong-type"),
        ("extends: ../x", "bad-name"),
        ("extends: [base, base]", "bad-value"),
        ("extends: {a: b}", "wrong-type"),
    ] {
        let found = errors(&[("base", ""), ("dev", yaml)], &["dev"]);
        assert!(found.len() == 1 && found[0].starts_with(code), "{yaml}: {found:?}");
    }
}

/// Remembers which files were opened.
struct Watched(MapFiles, RefCell<Vec<PathBuf>>);

impl ManifestFiles for Watched {
    fn list(&self, dir: &Path) -> Result<Vec<String>, FileError> {
        self.0.list(dir)
    }
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.1.borrow_mut().push(path.to_path_buf());
        self.0.read(path, bytes_max)
    }
    fn read_of_root(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.0.read_of_root(path, bytes_max)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
    fn same_directory(&self, a: &Path, b: &Path) -> bool {
        self.0.same_directory(a, b)
    }
}

#[test]
fn only_files_of_the_chain_are_opened_each_once() {
    // M7, M31
    let mut home = home(&[
        ("base", "env: {A: b}"),
        ("one", "extends: base"),
        ("two", "extends: base"),
        ("dev", "extends: [one, two]"),
        ("broken", "zzz: 1"),
    ]);
    home.insert("/repo/.carboy/bottles/base.md", "---\negress: {routes: [{host: evil.example}]}\n---\n");
    let watched = Watched(home, RefCell::default());
    assert!(Manifest::load(&watched, &request(None, &["dev"])).is_ok());
    let opened: Vec<PathBuf> = watched.1.borrow().clone();
    let mut want = vec![places().settings()];
    want.extend(["dev", "one", "base", "two"].map(|name| places().bottles().join(format!("{name}.md"))));
    assert_eq!(opened, want);
}

#[test]
fn routes_of_parent_and_child_are_checked_as_one_list() {
    // M29
    let hidden = [
        ("base", "egress: {routes: [{host: a.example}]}"),
        ("dev", "extends: base\negress:\n  routes:\n    - {host: a.example, ports: [443]}"),
    ];
    let warned = shown(&load(&hidden, &["dev"]).warnings);
    assert_eq!(warned.len(), 1);
    assert!(warned[0].starts_with("route-redundant 5:7 route r2:a.example"), "{warned:?}");
    assert!(warned[0].contains("/base.md"), "{warned:?}");
    let many = |host: &str| {
        let list: Vec<String> = (0..300).map(|i| format!("{{host: {host}{i}.example}}")).collect();
        format!("egress: {{routes: [{}]}}", list.join(", "))
    };
    let found = errors(&[("base", &many("a")), ("dev", &format!("extends: base\n{}", many("b")))], &["dev"]);
    assert!(found.len() == 1 && found[0].starts_with("too-complex 3:"), "{found:?}");
    assert!(found[0].contains("600 routes together"), "{found:?}");
    // M24: what is written without a key takes its default, whatever the parent's routes say.
    let base = ("base", "egress: {routes: [{host: a.example, private: true}]}");
    let both = load(&[base, ("dev", "extends: base\negress: {routes: [{host: b.example}]}")], &["dev"]);
    let reach: Vec<String> = both.routes.iter().map(|route| format!("{:?}", route.reach)).collect();
    assert_eq!(reach, ["Private", "Public"]);
}

#[test]
fn a_repository_may_be_told_of_in_parts_and_has_to_be_whole_at_the_end() {
    // M28
    let base = "git-gate: {repos: {app: {identity: ~/.ssh/app, host_key: ssh-ed25519 AAAA}}}";
    let dev = "extends: base\ngit-gate: {repos: {app: {url: ssh://git@git.example.org/app.git}}}";
    let loaded = load(&[("base", base), ("dev", dev)], &["dev"]);
    assert_eq!(loaded.git_repos.len(), 1);
    assert_eq!(loaded.git_repos[0].identity.as_deref(), Some("~/.ssh/app"));
    let found = errors(&[("base", base), ("dev", "extends: base")], &["dev"]);
    assert!(found.iter().any(|line| line.starts_with("missing-key 2:20")), "{found:?}");
    let cleared = load(&[("base", base), ("dev", "extends: base\ngit-gate: {repos: {}}")], &["dev"]);
    assert!(cleared.git_repos.is_empty());
}

#[test]
fn several_bottles_of_a_run_are_put_together_in_the_order_in_which_they_are_named() {
    // M9, M30
    let user = "git-gate: {user: {name: M, email: m@x.example}}";
    let model = format!(
        "env: {{A: model, B: model}}\negress: {{routes: [{{host: m.example}}]}}\nlimits: {{processes: 100}}\n{user}"
    );
    let tools = "extends: base\nenv: {B: tools}\negress: {routes: [{host: t.example}]}\nlimits: {processes: 200}\n\
                 git-gate: {user: {name: T}}";
    let bottles = [("model", model.as_str()), ("tools", tools), ("base", "supervise: false\nenv: {C: base}")];
    let loaded = load(&bottles, &["model", "tools"]);
    assert_eq!(env(&loaded), ["A=model", "B=tools", "C=base"]);
    assert_eq!(hosts(&loaded), ["r1:m.example", "r2:t.example"]);
    assert_eq!(loaded.git_user.name.as_deref().zip(loaded.git_user.email.as_deref()), Some(("T", "m@x.example")));
    assert_eq!((loaded.supervise, loaded.limits.processes_max), (false, 100));
    assert_eq!(loaded.bottle.as_str(), "model--tools");
    assert_eq!(loaded.bottles.iter().map(BottleName::as_str).collect::<Vec<_>>(), ["model", "tools"]);
    let other = load(&bottles, &["tools", "model"]);
    assert_eq!(env(&other), ["A=model", "B=model", "C=base"]);
    assert_eq!(hosts(&other), ["r1:t.example", "r2:m.example"]);
    // The same checks afterwards, and each for itself.
    let twice = [("a", "egress: {routes: [{host: x.example}]}"), ("b", "egress: {routes: [{host: x.example}]}")];
    assert_eq!(codes(&load(&twice, &["a", "b"]).warnings), [Code::RouteRedundant]);
    let partial = [("a", "git-gate: {repos: {r: {url: ssh://h/r}}}"), ("b", "git-gate: {repos: {r: {identity: k}}}")];
    let found = errors(&partial, &["a", "b"]);
    assert!(found.iter().any(|line| line.starts_with("missing-key")), "{found:?}");
}

#[test]
fn bottles_of_a_run_keep_their_state_under_a_name_that_is_nobody_else_s() {
    // M30
    let long = "x".repeat(64);
    let bottles = [("a", ""), ("b", ""), ("a--b", ""), ("c", ""), (long.as_str(), "")];
    for names in [["a", "b"], ["a--b", "c"], ["a", long.as_str()], ["a", "a"]] {
        let found = errors(&bottles, &names);
        assert!(found.len() == 1 && found[0].starts_with("bad-"), "{found:?}");
    }
    let nine: Vec<String> = (0..9).map(|i| format!("n{i}")).collect();
    let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
    assert!(errors(&bottles, &nine)[0].starts_with("chain-too-long"));
    assert_eq!(load(&bottles, &["b", "a"]).bottle.as_str(), "b--a");
}

#[test]
fn a_reload_follows_the_chain_and_says_which_files_it_has_become() {
    // M26
    let running = load(&[("dev", "")], &["dev"]);
    let base = ("base", "egress: {routes: [{host: b.example}]}");
    let counts = |dev: &str| {
        let files = home(&[base, ("dev", dev)]);
        let Reread { routes, bottle_files, .. } =
            reread(&files, &places(), &running, 2).unwrap_or_else(|errors| panic!("{errors}"));
        (routes.iter().count(), bottle_files.len())
    };
    assert_eq!(counts("egress: {routes: [{host: a.example}]}"), (1, 1));
    assert_eq!(counts("extends: base\negress: {routes: [{host: a.example}]}"), (2, 2));
}

#[test]
fn a_check_resolves_every_chain_and_says_each_thing_once() {
    // M8
    let bottles = [
        ("base", "egress: {routes: [{host: a.example}, {host: a.example}]}"),
        ("half", "git-gate: {repos: {app: {host_key: k}}}"),
        ("one", "extends: base"),
        ("other", "extends: half"),
        ("three", "extends: two"),
        ("two", "extends: [base, gone]"),
    ];
    let report = check(&home(&bottles), &request(None, &["one"]));
    let want = [Code::RouteRedundant, Code::PushRefused, Code::MissingKey, Code::NoSuchBottle];
    assert_eq!(codes(&report.diagnostics), want);
    let good = report.files.iter().filter(|file| file.ok);
    let good: Vec<String> =
        good.map(|file| file.path.file_stem().unwrap_or_default().to_string_lossy().into()).collect();
    assert_eq!(good, ["base", "one"]);
    assert!(report.effective.is_some());
}

#[test]
fn each_value_says_which_line_of_which_file_had_the_last_word() {
    // M8
    let base = "env:\n  A: base\n  B: base\nbinds:\n  /opt/x: ro\nlimits: {memory: 1GiB}\n\
                git-gate: {user: {name: B}, repos: {r: {url: ssh://h/r}}}";
    let dev = "extends: base\nenv: {B: dev}\nsupervise: false\negress:\n  log: x\n  routes:\n    - host: a.example\n\
               presets:\n  - anthropic\nlimits:\n  processes: 10\nagent_provider: codex";
    let mut home = home(&[("base", base), ("dev", dev)]);
    home.insert("/home/u/.carboy/agents/a.md", "---\nbottle: dev\ngit-gate:\n  user: {name: Agent}\n---\n");
    let report = check(&home, &request(Some("a"), &[]));
    let json =
        serde_json::to_value(report.effective.unwrap_or_else(|| panic!("{}", report.diagnostics))).expect("JSON");
    let place = |pointer: &str| {
        let origin = &json.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {json}"))["origin"];
        match origin["file"].as_str().map(|file| Path::new(file).file_stem().unwrap_or_default().to_string_lossy()) {
            Some(file) => format!("{file}:{}", origin["line"]),
            None => origin["from"].as_str().unwrap_or("-").to_owned(),
        }
    };
    for (pointer, want) in [
        ("/env/A", "base:3"),
        ("/env/B", "dev:3"),
        ("/binds/0", "base:6"),
        ("/limits/memory_bytes_max", "base:7"),
        ("/limits/processes_max", "dev:12"),
        ("/limits/open_files_max", "default"),
        ("/git_user/name", "a:4"),
        ("/git_user/email", "default"),
        ("/git_repos/0", "base:8"),
        ("/egress_log", "dev:6"),
        ("/routes/0", "dev:8"),
        ("/routes/1", "dev:10"),
        ("/supervise", "dev:4"),
        ("/provider", "dev:13"),
        ("/workspace", "default"),
    ] {
        assert_eq!(place(pointer), want, "{pointer}");
    }
    let presets = (json["routes"][0].get("preset"), &json["routes"][1]["preset"]);
    assert_eq!(presets, (None, &serde_json::json!("anthropic@1")));
}
