//! The laws of merging, and code, table and documentation held together.

use std::collections::BTreeSet;

use carboy_core::ids::BottleName;
use proptest::prelude::*;

use super::*;
use crate::bottle;
use crate::budget::CapsPart;
use crate::diagnostic::Diagnostics;
use crate::files::Places;

/// A file's part; each file has its name, so that no two say something at the same place.
fn part(file: &str, yaml: &str) -> Part {
    let places = Places { carboy_home: "/h/.carboy".into(), home: "/h".into(), cwd: "/w".into() };
    let mut out = Diagnostics::default();
    let name = BottleName::parse(file).unwrap();
    let text = format!("---\n{yaml}\n---\n");
    let part = bottle::read(&name, file.as_ref(), text.as_bytes(), &places, &mut out);
    assert!(!out.has_errors(), "{yaml}: {out}");
    part
}

/// Everything of it, places included; expressions have no equality, their text does.
fn shown(part: &Part) -> String {
    format!("{part:#?}")
}

/// `key: {a: …}` of a few entries; nothing when the key is absent.
fn map(key: &'static str, entries: &'static [&'static str]) -> impl Strategy<Value = String> {
    let chosen = prop::sample::subsequence(entries, 0..=entries.len());
    (any::<bool>(), chosen).prop_map(move |(given, chosen)| match given {
        true => format!("{key}: {{{}}}\n", chosen.join(", ")),
        false => String::new(),
    })
}

fn one_of(lines: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(lines).prop_map(|line| if line.is_empty() { String::new() } else { format!("{line}\n") })
}

/// May a file have an empty `repos`?
#[derive(Clone, Copy)]
enum Clears {
    Never,
    Sometimes,
}

fn yaml(clears: Clears) -> impl Strategy<Value = String> {
    let repos: &'static [&'static str] = match clears {
        Clears::Sometimes => &["", "git-gate: {repos: {}}", "git-gate: {repos: {a: {url: ssh://h/a}}}"],
        Clears::Never => &[
            "",
            "git-gate: {user: {name: N}}",
            "git-gate: {user: {email: e@x.example}, repos: {a: {url: ssh://h/a}}}",
            "git-gate: {repos: {a: {host_key: k}, b: {url: ssh://h/b, identity: i}}}",
        ],
    };
    let parts = (
        map("env", &["A: one", "B: two", "C: \"?three\""]),
        map("binds", &["/a: /x", "/b: /x2:rw", "/c: /y"]),
        map("limits", &["memory: 1GiB", "processes: 64", "open_files: 100"]),
        one_of(&["", "egress: {routes: [{host: a.example}, {host: b.example}], log: full}", "egress: {log: none}"]),
        one_of(&["", "presets: [github-read]", "presets: [anthropic, {npm: {hosts: [r.example]}}]"]),
        one_of(&["", "supervise: true", "supervise: false"]),
        one_of(&["", "agent_provider: codex", "agent_provider: {name: mine, command: c}", "workspace: direct"]),
        one_of(repos),
        one_of(&["", "publish: [1, \"2:1\", \"0.0.0.0:1:3\"]", "publish: [\"1:9\", 4]"]),
        map("forward", &["1: \"127.0.0.1:1\"", "2: /run/two.sock", "3: \"[::1]:3\""]),
        one_of(&[
            "",
            "image: /i/a",
            "image: {archive: /i/b}\nbackend: namespaces\nshutdown: kill\nwarn: [5]",
            "backend: namespaces\nbudget: 5M\nceiling: {claude: 9M}\ngate: observe",
            "gate: reserve\noverrun: bounded\nshutdown: pause\nwindow: {rolling: 5h}\ncount: raw",
        ]),
    );
    parts.prop_map(|(a, b, c, d, e, f, g, h, i, j, k)| [a, b, c, d, e, f, g, h, i, j, k].concat())
}

fn way() -> impl Strategy<Value = Way> {
    prop::sample::select(vec![Way::Extends, Way::Runtime])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // M26, M29, M30: a fold may be cut anywhere.
    #[test]
    fn merging_is_associative(a in yaml(Clears::Never), b in yaml(Clears::Never), c in yaml(Clears::Never), way in way()) {
        let (a, b, c) = (part("a", &a), part("b", &b), part("c", &c));
        let left = merge(merge(a.clone(), b.clone(), way), c.clone(), way);
        let right = merge(a, merge(b, c, way), way);
        prop_assert_eq!(shown(&left), shown(&right));
    }

    // M30: an empty `repos` has nothing to say of another bottle that is whole, so it breaks no law there.
    #[test]
    fn merging_bottles_of_a_run_is_associative_even_with_an_empty_repos(
        a in yaml(Clears::Sometimes), b in yaml(Clears::Sometimes), c in yaml(Clears::Sometimes),
    ) {
        let (a, b, c) = (part("a", &a), part("b", &b), part("c", &c));
        let left = merge(merge(a.clone(), b.clone(), Way::Runtime), c.clone(), Way::Runtime);
        let right = merge(a, merge(b, c, Way::Runtime), Way::Runtime);
        prop_assert_eq!(shown(&left), shown(&right));
    }

    // M26, M30: a bottle that says nothing changes nothing, on whichever side.
    #[test]
    fn the_empty_bottle_is_the_identity(a in yaml(Clears::Sometimes), way in way()) {
        let a = part("a", &a);
        prop_assert_eq!(shown(&merge(Part::default(), a.clone(), way)), shown(&a));
        prop_assert_eq!(shown(&merge(a.clone(), Part::default(), way)), shown(&a));
    }

    // M26: what two parents share is there once.
    #[test]
    fn a_bottle_over_itself_is_itself(a in yaml(Clears::Sometimes), way in way()) {
        let a = part("a", &a);
        prop_assert_eq!(shown(&merge(a.clone(), a.clone(), way)), shown(&a));
    }

    // M27, M28, M29: the later file has the last word wherever it says one, and nothing of the earlier is lost otherwise.
    #[test]
    fn the_later_one_wins(a in yaml(Clears::Sometimes), b in yaml(Clears::Sometimes)) {
        let (a, b) = (part("a", &a), part("b", &b));
        let both = merge(a.clone(), b.clone(), Way::Extends);
        for (name, value) in &both.env {
            prop_assert_eq!(value, b.env.get(name).or(a.env.get(name)).unwrap());
        }
        prop_assert!(a.env.keys().chain(b.env.keys()).all(|name| both.env.contains_key(name)));
        prop_assert_eq!(&both.supervise, &b.supervise.clone().or(a.supervise.clone()));
        prop_assert_eq!(&both.provider, &b.provider.clone().or(a.provider.clone()));
        prop_assert_eq!(&both.egress.log, &b.egress.log.clone().or(a.egress.log.clone()));
        prop_assert_eq!(&both.limits.memory, &b.limits.memory.clone().or(a.limits.memory.clone()));
        prop_assert_eq!(&both.gate.user.name, &b.gate.user.name.clone().or(a.gate.user.name.clone()));
        let places = |part: &Part| part.egress.routes.iter().map(|said| said.place.clone()).collect::<Vec<_>>();
        prop_assert_eq!(places(&both), [places(&a), places(&b)].concat());
        for bind in &both.binds {
            let own = b.binds.iter().find(|own| own.value.target == bind.value.target);
            prop_assert!(own.is_none_or(|own| own == bind));
        }
        prop_assert_eq!(&both.image, &b.image.clone().or(a.image.clone()));
        prop_assert_eq!(&both.backend, &b.backend.clone().or(a.backend.clone()));
        for publish in &both.publish {
            let own = b.publish.iter().find(|own| own.value.listen == publish.value.listen);
            prop_assert!(own.is_none_or(|own| own == publish));
        }
        for forward in &both.forward {
            let own = b.forward.iter().find(|own| own.value.inside == forward.value.inside);
            prop_assert!(own.is_none_or(|own| own == forward));
        }
        let listens = |part: &Part| part.publish.iter().map(|said| said.value.listen).collect::<BTreeSet<_>>();
        prop_assert_eq!(listens(&both), &listens(&a) | &listens(&b));
        prop_assert_eq!(both.publish.len(), listens(&both).len());
        let inside = |part: &Part| part.forward.iter().map(|said| said.value.inside).collect::<BTreeSet<_>>();
        prop_assert_eq!(inside(&both), &inside(&a) | &inside(&b));
        prop_assert_eq!(both.forward.len(), inside(&both).len());
    }

    // M30: no bottle of a run is given more than one that runs with it has.
    #[test]
    fn a_bound_of_any_bottle_of_a_run_holds(a in yaml(Clears::Sometimes), b in yaml(Clears::Sometimes)) {
        let (a, b) = (part("a", &a), part("b", &b));
        let both = merge(a.clone(), b.clone(), Way::Runtime).limits.processes.map(|said| said.value);
        for own in [&a.limits.processes, &b.limits.processes].into_iter().flatten() {
            prop_assert!(both.is_some_and(|bound| bound <= own.value));
        }
    }
}

#[test]
fn repositories_are_inherited_cleared_or_united_field_by_field() {
    // M28
    let base =
        part("base", "git-gate: {repos: {a: {url: ssh://h/a, identity: ia, host_key: ka}, b: {url: ssh://h/b}}}");
    let says = |own: &str, way| {
        let merged = merge(base.clone(), part("own", own), way);
        let text = |said: Option<Said<String>>| said.map_or("-".to_owned(), |said| said.value);
        let repos = merged.gate.repos.unwrap_or_default().into_iter();
        let line = |(name, repo): (String, RepoPart)| {
            format!("{name} {} {} {}", text(repo.url), text(repo.identity), text(repo.host_key))
        };
        repos.map(line).collect::<Vec<_>>().join("; ")
    };
    let inherited = "a ssh://h/a ia ka; b ssh://h/b - -";
    for absent in ["", "git-gate: {user: {name: N}}"] {
        assert_eq!(says(absent, Way::Extends), inherited);
        assert_eq!(says(absent, Way::Runtime), inherited);
    }
    assert_eq!(says("git-gate: {repos: {}}", Way::Extends), "");
    assert_eq!(says("git-gate: {repos: {}}", Way::Runtime), inherited);
    let own = "git-gate: {repos: {a: {url: ssh://other/a}, c: {url: ssh://h/c}}}";
    assert_eq!(says(own, Way::Extends), "a ssh://other/a ia ka; b ssh://h/b - -; c ssh://h/c - -");
    // A bottle that happens to run with another must not send that one's key to a host of its own.
    assert_eq!(says(own, Way::Runtime), "a ssh://other/a - -; b ssh://h/b - -; c ssh://h/c - -");
}

/// Are the caps of `two` counted as `one` says, when `two` extends it or is named after it?
fn together_of(way: Way, one: &str, two: &str) -> bool {
    let places = Places { carboy_home: "/h/.carboy".into(), home: "/h".into(), cwd: "/w".into() };
    let extends = if way == Way::Extends { "extends: one\n" } else { "" };
    let files: crate::MapFiles = [
        ("/h/.carboy/bottles/one.md", format!("---\n{one}\n---\n")),
        ("/h/.carboy/bottles/two.md", format!("---\n{extends}{two}\n---\n")),
    ]
    .into_iter()
    .collect();
    let named: &[&str] = if way == Way::Extends { &["two"] } else { &["one", "two"] };
    let bottles = named.iter().map(|name| (*name).to_owned()).collect();
    let loaded = crate::Manifest::load(&files, &crate::Request { agent: None, bottles, places }).unwrap();
    let caps = loaded.budgets.caps.into_values().next().unwrap();
    let of = |name: &str| caps.iter().find(|cap| cap.scope.to_string() == format!("bottle:{name}")).cloned().unwrap();
    (of("one").window, of("one").count) == (of("two").window, of("two").count)
}

/// Puts two files together that both have the key, and tells by which rule it was done.
fn rule_of(key: &str, way: Way) -> Rule {
    let both = |earlier: &str, later: &str| merge(part("one", earlier), part("two", later), way);
    let words = |all: Vec<String>| all.join(" ");
    match key {
        "extends" => {
            assert!(both("extends: a", "extends: b").extends.is_empty());
            Rule::Followed
        }
        "env" => {
            let env = both("env: {A: 1x, B: 1x}", "env: {B: 2x, C: 2x}").env;
            let all = env.into_iter().map(|(name, said)| format!("{name}{:?}", said.value)).collect();
            assert_eq!(words(all), "ASet(\"1x\") BSet(\"2x\") CSet(\"2x\")");
            Rule::LaterWinsPerKey
        }
        "agent_provider" => {
            let provider = both("agent_provider: {name: a, command: c, args: [x]}", "agent_provider: codex").provider;
            assert_eq!(provider.map(|said| (said.value.name, said.value.command)), Some(("codex".into(), None)));
            Rule::LaterWins
        }
        "git-gate.user" => {
            let user = both("git-gate: {user: {name: A, email: a@x}}", "git-gate: {user: {name: B}}").gate.user;
            assert_eq!((user.name.unwrap().value, user.email.unwrap().value), ("B".into(), "a@x".into()));
            Rule::LaterWinsPerField
        }
        "git-gate.repos" => {
            match both("git-gate: {repos: {a: {url: ssh://h/a}}}", "git-gate: {repos: {}}").gate.repos {
                Some(repos) if repos.is_empty() => Rule::UnitedOrCleared,
                Some(_) | None => Rule::LaterWinsPerName,
            }
        }
        "egress.routes" => {
            let one = "egress: {routes: [{host: a.example}]}";
            assert_eq!(both(one, one).egress.routes.len(), 2);
            Rule::Concatenated
        }
        "presets" => {
            let presets = both("presets: [github-read, openai]", "presets: [anthropic, openai]").presets;
            let all = presets.into_iter().map(|said| said.value.label).collect();
            assert_eq!(words(all), "github-read@1 openai@1 anthropic@1");
            Rule::Concatenated
        }
        "egress.routes.credential" => {
            let one = |from: &str| {
                format!(
                    "egress: {{routes: [{{host: a.example, credential: {{in: header, name: x-key, from: {from}}}}}]}}"
                )
            };
            let routes = both(&one("ONE"), &one("TWO")).egress.routes;
            let froms = routes.iter().map(|said| said.value.credentials[0].secret.to_string()).collect();
            assert_eq!(words(froms), "ONE TWO");
            Rule::WithItsRoute
        }
        "egress.log" => {
            assert_eq!(both("egress: {log: a}", "egress: {log: b}").egress.log.unwrap().value, "b");
            assert_eq!(both("egress: {log: a}", "egress: {routes: []}").egress.log.unwrap().value, "a");
            Rule::LaterWins
        }
        "supervise" => {
            assert!(!both("supervise: true", "supervise: false").supervise.unwrap().value);
            assert!(!both("supervise: false", "").supervise.unwrap().value);
            Rule::LaterWins
        }
        "binds" => {
            let binds = both("binds: {/a: /x, /b: /y}", "binds: {/c: /x, /d: /z}").binds;
            let all = binds.iter().map(|said| said.value.source.display().to_string()).collect();
            assert_eq!(words(all), "/c /b /d");
            Rule::LaterWinsPerTarget
        }
        "limits" => {
            let limits = both("limits: {processes: 10, open_files: 64}", "limits: {processes: 20}").limits;
            assert_eq!(limits.open_files.unwrap().value, 64);
            if limits.processes.unwrap().value == 20 { Rule::LaterWinsPerField } else { Rule::Tighter }
        }
        "workspace" => {
            let file = both("workspace: direct", "workspace: direct").workspace.unwrap().place.file;
            assert_eq!(file.to_str(), Some("two"));
            Rule::LaterWins
        }
        "publish" => {
            let all = both("publish: [1, \"2:9\"]", "publish: [\"1:8\", 3]").publish;
            let all = all.iter().map(|said| format!("{}>{}", said.value.listen.port(), said.value.inside)).collect();
            assert_eq!(words(all), "1>8 2>9 3>3");
            Rule::LaterWinsPerListener
        }
        "forward" => {
            let all = both("forward: {1: /a, 2: /b}", "forward: {1: /c, 3: /d}").forward;
            let all = all.iter().map(|said| format!("{}>{:?}", said.value.inside, said.value.to)).collect();
            assert_eq!(words(all), "1>Unix(\"/c\") 2>Unix(\"/b\") 3>Unix(\"/d\")");
            Rule::LaterWinsPerPort
        }
        "image" => {
            let image = both("image: /i/a", "image: {archive: /i/b}").image.unwrap().value;
            assert_eq!(format!("{image:?}"), "Archive(\"/i/b\")");
            assert!(both("image: /i/a", "").image.is_some());
            Rule::LaterWins
        }
        "backend" => {
            let file = both("backend: namespaces", "backend: namespaces").backend.unwrap().place.file;
            assert_eq!(file.to_str(), Some("two"));
            Rule::LaterWins
        }
        "budget" | "ceiling" => {
            let scopes = both(&format!("{key}: 5M"), &format!("{key}: {{claude: 7M}}")).scopes;
            let amounts = |caps: &CapsPart| if key == "budget" { caps.budget.len() } else { caps.ceiling.len() };
            let all = scopes.iter().map(|scope| format!("{}:{}", scope.name, amounts(&scope.caps))).collect();
            assert_eq!(words(all), "two:1 one:4");
            Rule::OwnScope
        }
        "window" | "count" => {
            let value = if key == "window" { "{rolling: 5h}" } else { "raw" };
            // Settled where a file is put on those that it extends.
            let windows = |two: &str| together_of(way, &format!("budget: 1M\n{key}: {value}"), two);
            assert!(!windows(&format!("budget: 2M\n{key}: {}", if key == "window" { "lifetime" } else { "weighted" })));
            if windows("budget: 2M") { Rule::OwnElseParents } else { Rule::Own }
        }
        "gate" | "overrun" | "shutdown" => {
            let (strict, loose) = match key {
                "gate" => ("reserve", "observe"),
                "overrun" => ("exact", "bounded"),
                _ => ("kill", "pause"),
            };
            let file = |earlier: &str, later: &str| {
                let terms = both(&format!("{key}: {earlier}"), &format!("{key}: {later}")).terms;
                let places = [
                    terms.gate.map(|said| said.place),
                    terms.overrun.map(|said| said.place),
                    terms.shutdown.map(|said| said.place),
                ];
                places.into_iter().flatten().map(|place| place.file.display().to_string()).collect::<String>()
            };
            assert_eq!(file(loose, strict), "two");
            if file(strict, loose) == "two" { Rule::LaterWins } else { Rule::Stricter }
        }
        "warn" => {
            assert_eq!(both("warn: [50]", "warn: [80, 95]").terms.warn.unwrap().value, [80, 95]);
            assert_eq!(both("warn: [50]", "").terms.warn.unwrap().value, [50]);
            Rule::LaterWins
        }
        other => panic!("no sample for `{other}`"),
    }
}

#[test]
fn the_code_does_what_its_table_says() {
    // M27, M28, M29, M30, M34
    for (key, extends, runtime) in RULES {
        assert_eq!((rule_of(key, Way::Extends), rule_of(key, Way::Runtime)), (*extends, *runtime), "{key}");
    }
}

#[test]
fn every_key_of_a_bottle_has_its_rules_and_the_reference_shows_them() {
    // M34
    let reference = include_str!("../../../../docs/manifest.md");
    for key in crate::keys::BOTTLE.allowed {
        assert!(RULES.iter().any(|(known, ..)| known.split('.').next() == Some(key)), "{key}");
    }
    for (key, extends, runtime) in RULES {
        let row = format!("| `{key}` | {} | {} |", extends.as_str(), runtime.as_str());
        assert!(reference.contains(&row), "docs/manifest.md has no row {row}");
    }
}
