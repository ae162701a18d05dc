//! `budget`, `ceiling` and what goes with them: whose they are, which of them bind, and what is said of a slip.

mod support;

use carboy_core::budget::{
    BudgetSet, CapKind, Count, Gate, Governs, Overrun, Scope, Shutdown, Terms, Unit, Window, Zone,
};
use carboy_core::ids::{MeterName, RunId};
use carboy_manifest::budget::{CAPS_MAX, METERS};
use carboy_manifest::files::SYSTEM_SETTINGS;
use carboy_manifest::{Effective, Manifest, MapFiles, RunBudget, reread};
use proptest::prelude::*;
use support::{bottle, files, findings, load_trusted, places, request, shown};

fn home(list: &[(&str, &str)]) -> MapFiles {
    let text = |(path, yaml): &(&str, &str)| {
        let settings = path.ends_with(".yml");
        let whole = if settings { (*yaml).to_owned() } else { format!("---\n{yaml}\n---\n") };
        (places().carboy_home.join(path), whole)
    };
    list.iter().map(text).collect()
}

fn load(list: &[(&str, &str)], agent: Option<&str>, bottles: &[&str]) -> Effective {
    load_trusted(&home(list), &request(agent, bottles)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Every cap of a meter, nearest scopes first: `bottle:dev budget 5 lifetime`.
fn caps(set: &BudgetSet, meter: &str) -> Vec<String> {
    let meter = MeterName::parse(meter).expect("a meter");
    let kind = |kind| if kind == CapKind::Budget { "budget" } else { "ceiling" };
    let line = |cap: &carboy_core::budget::Cap| {
        let window = match &cap.window {
            Window::Lifetime => String::new(),
            Window::Calendar { unit, tz } => format!(" {unit:?} {}", tz.as_str()),
            Window::Rolling { ms } => format!(" {ms} ms"),
        };
        let raw = if cap.count == Count::Raw { " raw" } else { "" };
        format!("{} {} {}{window}{raw}", cap.scope, kind(cap.kind), cap.amount.tokens_down())
    };
    set.caps.get(&meter).into_iter().flatten().map(line).collect()
}

/// Those that bind.
fn binding(set: &BudgetSet, meter: &str) -> Vec<String> {
    let found = set.binding(&MeterName::parse(meter).expect("a meter"));
    found.iter().map(|cap| format!("{} {}", cap.scope, cap.amount.tokens_down())).collect()
}

fn chain(set: &BudgetSet) -> Vec<String> {
    set.chain.iter().map(ToString::to_string).collect()
}

#[test]
fn c9_the_settings_of_the_reference_are_read_as_they_stand() {
    // C8
    let settings = "budget: {claude: 5000000, codex: 2000000}\nshutdown: cutoff\n";
    let set = load(&[("bottles/dev.md", ""), ("settings.yml", settings)], None, &["dev"]).budgets;
    assert_eq!(chain(&set), ["bottle:dev", "host"]);
    assert_eq!(binding(&set, "anthropic"), ["host 5000000"]);
    assert_eq!(binding(&set, "openai"), ["host 2000000"]);
    assert_eq!(binding(&set, "gemini"), Vec::<String>::new());
    assert_eq!((set.governs, set.terms), (Governs::Nearest, Terms::default()));
}

#[test]
fn c6_without_a_budget_nothing_is_capped_and_every_scope_is_booked_to() {
    let files = [("bottles/base.md", ""), ("bottles/dev.md", "extends: base"), ("agents/fix.md", "bottle: dev")];
    let set = load(&files, Some("fix"), &[]).budgets;
    assert_eq!(chain(&set), ["agent:fix", "bottle:dev", "bottle:base", "host"]);
    assert!(set.caps.is_empty());
}

#[test]
fn every_key_is_read_with_its_value() {
    // M34
    let yaml = "budget: {gemini: \"1_000_000\"}\nceiling: 1.5M\nwindow: {calendar: week, tz: Europe/Berlin}\ncount: raw\n\
                governs: all\ngate: observe\noverrun: bounded\nshutdown: freeze\nwarn: [50, 90]\nhold_wait: 1m30s\noutput_min: 512\n";
    let set = load(&[("bottles/dev.md", ""), ("settings.yml", yaml)], None, &["dev"]).budgets;
    let week = "Week Europe/Berlin raw";
    assert_eq!(caps(&set, "gemini"), [format!("host budget 1000000 {week}"), format!("host ceiling 1500000 {week}")]);
    for meter in ["anthropic", "openai", "unknown"] {
        assert_eq!(caps(&set, meter), [format!("host ceiling 1500000 {week}")], "{meter}");
    }
    let (gate, overrun, shutdown) = (Gate::Observe, Overrun::Bounded, Shutdown::Freeze);
    let terms = Terms { gate, overrun, shutdown, warn_percent: vec![50, 90], hold_wait_ms: 90_000, output_min: 512 };
    assert_eq!((set.governs, set.terms), (Governs::All, terms));
    let of_bottle = "budget: 500k\nceiling: {codex: 2M}\nwindow: {rolling: 5h}\ncount: raw\ngate: observe\n\
                     overrun: bounded\nshutdown: kill\nwarn: []";
    let set = bottle(of_bottle).unwrap().budgets;
    assert_eq!(
        caps(&set, "openai"),
        ["bottle:dev budget 500000 18000000 ms raw", "bottle:dev ceiling 2000000 18000000 ms raw"]
    );
    assert_eq!((set.terms.shutdown, set.terms.warn_percent), (Shutdown::Kill, vec![]));
    let lifetime = bottle("budget: 1\nwindow: lifetime").unwrap().budgets;
    assert_eq!(caps(&lifetime, "unknown"), ["bottle:dev budget 1"]);
    let utc = bottle("budget: 1\nwindow: {calendar: day}").unwrap().budgets;
    let window = Window::Calendar { unit: Unit::Day, tz: Zone::parse("UTC").unwrap() };
    assert_eq!(utc.caps.values().next().unwrap()[0].window, window);
}

#[test]
fn c6_a_parent_bottle_is_a_scope_of_its_own_and_its_budget_is_not_the_child_s() {
    // M26, M34
    let base = ("bottles/base.md", "budget: {claude: 9M}\nceiling: {claude: 20M}\nwindow: {rolling: 1h}");
    let with = |dev: &str| load(&[base, ("bottles/dev.md", dev)], None, &["dev"]).budgets;
    let inherited = with("extends: base");
    assert_eq!(
        caps(&inherited, "anthropic"),
        ["bottle:base budget 9000000 3600000 ms", "bottle:base ceiling 20000000 3600000 ms"]
    );
    assert_eq!(binding(&inherited, "anthropic"), ["bottle:base 9000000", "bottle:base 20000000"]);
    // The child's own governs, even a larger one, and lifts no ceiling; what it says no window for is as in the parent.
    let own = with("extends: base\nbudget: {claude: 50M}");
    assert_eq!(caps(&own, "anthropic")[0], "bottle:dev budget 50000000 3600000 ms");
    assert_eq!(binding(&own, "anthropic"), ["bottle:dev 50000000", "bottle:base 20000000"]);
    // A window of the child's is none of the parent's.
    let window = with("extends: base\nbudget: 1\nwindow: lifetime");
    assert_eq!(caps(&window, "anthropic")[..2], ["bottle:dev budget 1", "bottle:base budget 9000000 3600000 ms"]);
}

#[test]
fn c6_parents_stand_in_the_chain_nearest_first_and_behind_all_that_stand_on_them() {
    // M26
    let files = [
        ("bottles/root.md", ""),
        ("bottles/a.md", "extends: root"),
        ("bottles/b.md", "extends: root"),
        ("bottles/dev.md", "extends: [a, b]"),
    ];
    let set = load(&files, None, &["dev"]).budgets;
    assert_eq!(chain(&set), ["bottle:dev", "bottle:b", "bottle:a", "bottle:root", "host"]);
    let files = [("bottles/b.md", ""), ("bottles/a.md", "extends: b"), ("bottles/dev.md", "extends: [a, b]")];
    assert_eq!(chain(&load(&files, None, &["dev"]).budgets), ["bottle:dev", "bottle:a", "bottle:b", "host"]);
}

#[test]
fn each_bottle_of_a_run_is_a_scope_and_the_stricter_word_of_two_holds() {
    // M30, M34
    let files = [
        ("bottles/a.md", "budget: 1M\nceiling: 3M\nshutdown: freeze\ngate: reserve\noverrun: exact\nwarn: [50]"),
        ("bottles/b.md", "budget: 2M\nshutdown: pause\ngate: observe\noverrun: bounded\nwarn: [60]"),
    ];
    for (named, chained, bound) in [
        (["a", "b"], ["bottle:b", "bottle:a", "host"], ["bottle:b 2000000", "bottle:a 3000000"]),
        (["b", "a"], ["bottle:a", "bottle:b", "host"], ["bottle:a 1000000", "bottle:a 3000000"]),
    ] {
        let set = load(&files, None, &named).budgets;
        assert_eq!(chain(&set), chained);
        assert_eq!(binding(&set, "anthropic"), bound);
        let Terms { gate, overrun, shutdown, .. } = set.terms;
        assert_eq!((gate, overrun, shutdown), (Gate::Reserve, Overrun::Exact, Shutdown::Freeze));
    }
}

#[test]
fn c6_an_agent_of_the_user_s_replaces_its_bottle_s_budget_and_no_ceiling() {
    let files = [
        ("agents/fix.md", "bottle: dev\nbudget: {claude: 7M}"),
        ("bottles/dev.md", "budget: 1M\nceiling: 9M\nwindow: {rolling: 2m}"),
        ("settings.yml", "ceiling: 8M"),
    ];
    let set = load(&files, Some("fix"), &[]).budgets;
    assert_eq!(chain(&set), ["agent:fix", "bottle:dev", "host"]);
    assert_eq!(binding(&set, "anthropic"), ["agent:fix 7000000", "bottle:dev 9000000", "host 8000000"]);
    assert_eq!(caps(&set, "anthropic")[0], "agent:fix budget 7000000 120000 ms");
    assert_eq!(binding(&set, "openai"), ["bottle:dev 1000000", "bottle:dev 9000000", "host 8000000"]);
}

#[test]
fn m39_a_repository_s_agent_binds_beside_the_others_and_is_no_other_agent_s_scope() {
    let own = ("agents/fix.md", "bottle: dev\nbudget: 3M");
    let theirs = ("/repo/.carboy/agents/fix.md", "bottle: dev\nbudget: {claude: 50M, codex: 10}");
    let dev = ("bottles/dev.md", "budget: 1M");
    let set = load(&[own, theirs, dev], Some("fix"), &[]).budgets;
    let Scope::Agent(name) = &set.chain[0] else { panic!("{:?}", set.chain) };
    assert!(name.starts_with("fix@") && name.len() == "fix@".len() + 12, "{name}");
    assert_eq!(binding(&set, "anthropic"), [format!("agent:{name} 50000000"), "bottle:dev 1000000".into()]);
    assert_eq!(binding(&set, "openai"), [format!("agent:{name} 10"), "bottle:dev 1000000".into()]);
    let home = load(&[own, dev], Some("fix"), &[]).budgets;
    assert_eq!(chain(&home)[0], "agent:fix");
    // Elsewhere it is yet another one.
    let mut there = request(Some("fix"), &[]);
    there.places.cwd = "/other".into();
    let files = home_at("/other/.carboy/agents/fix.md");
    let other = load_trusted(&files, &there).unwrap().budgets;
    assert!(other.chain[0] != set.chain[0] && other.chain[0] != Scope::Agent("fix".into()));
}

fn home_at(agent: &str) -> MapFiles {
    home(&[(agent, "bottle: dev\nbudget: 1"), ("bottles/dev.md", "")])
}

#[test]
fn c7_a_run_s_budget_replaces_those_of_the_files_and_lifts_no_ceiling() {
    let files = [("bottles/dev.md", "budget: 1M\nwindow: {rolling: 2m}\ncount: raw"), ("settings.yml", "ceiling: 5M")];
    let mut loaded = load(&files, None, &["dev"]);
    loaded.run_budget.amounts = RunBudget::parse(["claude=9M"]).unwrap();
    let set = loaded.budgets_of(&RunId::parse("r-1").unwrap());
    assert_eq!(chain(&set), ["run:r-1", "bottle:dev", "host"]);
    assert_eq!(binding(&set, "anthropic"), ["run:r-1 9000000", "host 5000000"]);
    assert_eq!(binding(&set, "openai"), ["bottle:dev 1000000", "host 5000000"]);
    assert_eq!(caps(&set, "anthropic")[0], "run:r-1 budget 9000000 raw");
}

/// Both settings files, and a bottle.
fn settled(machine: &str, own: &str, dev: &str) -> BudgetSet {
    let files = [(SYSTEM_SETTINGS, machine), ("settings.yml", own), ("bottles/dev.md", dev)];
    load(&files, None, &["dev"]).budgets
}

#[test]
fn the_machine_s_ceilings_stand_beside_the_user_s_and_the_smaller_one_binds() {
    // M34
    let bound = |machine: &str, own: &str| binding(&settled(machine, own, ""), "anthropic");
    assert_eq!(bound("ceiling: 5M", "ceiling: 9M"), ["host 5000000"]);
    assert_eq!(bound("ceiling: 5M", "ceiling: 3M"), ["host 3000000"]);
    assert_eq!(bound("ceiling: 5M", "ceiling: {codex: 1}"), ["host 5000000"]);
    assert_eq!(bound("budget: 5M", "budget: 9M"), ["host 5000000"]);
    // Over other times, or counted otherwise, neither says all: both stay.
    let month = "ceiling: 5M\nwindow: {calendar: month}";
    assert_eq!(bound(month, "ceiling: 9M"), ["host 9000000", "host 5000000"]);
    assert_eq!(bound("ceiling: 5M\ncount: raw", "ceiling: 9M"), ["host 9000000", "host 5000000"]);
    // The user's window is none of the machine's caps.
    let set = settled("ceiling: 5M", "ceiling: 9M\nwindow: {rolling: 1m}", "");
    assert_eq!(caps(&set, "openai"), ["host ceiling 9000000 60000 ms", "host ceiling 5000000"]);
}

#[test]
fn the_machine_s_terms_are_the_least_and_a_stricter_word_of_the_user_s_stands() {
    // M34
    let least =
        "gate: reserve\noverrun: exact\nshutdown: freeze\ngoverns: all\nwarn: [10]\nhold_wait: 1s\noutput_min: 99\n";
    let loose = "gate: observe\noverrun: bounded\nshutdown: cutoff\n";
    let own = format!("{loose}governs: nearest\nwarn: [20]\nhold_wait: 9s\noutput_min: 100\n");
    let set = settled(least, &own, &format!("{loose}warn: [30]"));
    let want = Terms {
        shutdown: Shutdown::Freeze,
        warn_percent: vec![10],
        hold_wait_ms: 1_000,
        output_min: 99,
        ..Terms::default()
    };
    assert_eq!((set.governs, set.terms), (Governs::All, want));
    let how = |machine: &str, own: &str, dev: &str| {
        let key = |how: &str| if how.is_empty() { String::new() } else { format!("shutdown: {how}") };
        settled(&key(machine), &key(own), &key(dev)).terms.shutdown
    };
    let order = ["cutoff", "pause", "freeze", "kill"];
    for (i, machine) in order.iter().enumerate() {
        for (j, said) in order.iter().enumerate() {
            let want = Shutdown::ALL[i.max(j)];
            assert_eq!((how(machine, said, ""), how(machine, "kill", said)), (want, want), "{machine} {said}");
        }
        assert_eq!(how(machine, "", ""), Shutdown::ALL[i]);
        assert_eq!(how("", machine, "pause"), Shutdown::Pause);
    }
    assert_eq!(settled("gate: observe", "", "").terms.gate, Gate::Observe);
    assert_eq!(settled("gate: observe", "gate: reserve", "").terms.gate, Gate::Reserve);
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_to_write() {
    // M34
    for (yaml, words) in [
        ("budget: lots", "bad-value 2:9 `budget` of bottle `dev` is `lots`"),
        ("budget: -1", "bad-value 2:9 `budget` of bottle `dev` is -1"),
        ("budget: [1]", "bad-value 2:9 `budget` of bottle `dev` is no amount"),
        ("budget: true", "is no amount"),
        ("budget:", "is no amount"),
        ("budget: 1_000", "ambiguous-value 2:9"),
        ("budget: {}", "bad-value 2:9 `budget` of bottle `dev` names no meter"),
        ("ceiling: {claude: 2000000000000}", "bad-value 2:19 `ceiling.claude` of bottle `dev` is 2000000000000"),
        ("ceiling: {claude: 1.5.5M}", "`ceiling.claude` of bottle `dev` is `1.5.5M`"),
        ("budget: {mistral: 1M}", "bad-value 2:10 `budget` of bottle `dev` names a meter `mistral`"),
        ("budget: {claude: 1M, anthropic: 2M}", "duplicate-key 2:22 `budget` of bottle `dev` names `anthropic` twice"),
        ("window: day", "bad-value 2:9 `window` of bottle `dev` is `day`"),
        ("window: 5", "wrong-type 2:9 `window` of bottle `dev` is neither text nor a map"),
        ("window: {}", "`window` of bottle `dev` has neither `calendar` nor `rolling`"),
        ("window: {tz: UTC}", "has neither `calendar` nor `rolling`"),
        ("window: {calendar: day, rolling: 5h}", "has `calendar` and `rolling`"),
        ("window: {rolling: 5h, tz: UTC}", "has `rolling` and `tz`"),
        ("window: {calendar: year}", "bad-value 2:20 `window.calendar` of bottle `dev` is `year`"),
        (
            "window: {calendar: day, tz: Mars/Base}",
            "bad-value 2:29 `window.tz` of bottle `dev` is `Mars/Base`, no known time zone",
        ),
        ("window: {rolling: 10s}", "bad-value 2:19 `window.rolling` of bottle `dev` is `10s`"),
        ("window: {rolling: 367d}", "`window.rolling` of bottle `dev` is `367d`"),
        ("window: {every: 5h}", "unknown-key 2:10"),
        ("count: tokens", "bad-value 2:8 `count` of bottle `dev` is `tokens`"),
        ("gate: off", "bad-value 2:7 `gate` of bottle `dev` is `off`"),
        ("overrun: 5", "wrong-type 2:10 `overrun` of bottle `dev`"),
        ("shutdown: stop", "bad-value 2:11 `shutdown` of bottle `dev` is `stop`"),
        ("warn: 80", "wrong-type 2:7 `warn` of bottle `dev`"),
        ("warn: [0]", "bad-value 2:8 an entry of `warn` of bottle `dev` is 0"),
        ("warn: [95, 80]", "bad-value 2:7 `warn` of bottle `dev` is not at most 8 numbers, each above the one before"),
        ("warn: [1, 2, 3, 4, 5, 6, 7, 8, 9]", "is not at most 8 numbers"),
        ("governs: all", "unknown-key 2:1"),
    ] {
        // Two of them are also no map, and told as that alone.
        let found = findings(yaml);
        assert_eq!(found.len(), if yaml == "window: {every: 5h}" { 2 } else { 1 }, "{yaml}: {found:#?}");
        assert!(found.iter().any(|one| one.contains(words)), "{yaml}: {found:#?}");
    }
    let fix = |yaml: &str| bottle(yaml).err().unwrap().iter().next().unwrap().fix.clone();
    assert!(fix("budget: lots").contains("500k, 2M, 1.5M"), "{}", fix("budget: lots"));
    assert!(fix("budget: {mistral: 1M}").contains("claude"), "{}", fix("budget: {mistral: 1M}"));
    assert!(fix("window: day").contains("{calendar: day, tz: Europe/Berlin}"), "{}", fix("window: day"));
    for (yaml, words) in [
        ("hold_wait: 30", "wrong-type 1:12 `hold_wait` of settings.yml is the number 30"),
        ("hold_wait: 11m", "bad-value 1:12 `hold_wait` of settings.yml is `11m`"),
        ("output_min: 1", "bad-value 1:13 `output_min` of settings.yml is 1"),
        ("governs: some", "bad-value 1:10 `governs` of settings.yml is `some`"),
    ] {
        let files = files(&[("bottles/dev.md", "---\n---\n"), ("settings.yml", yaml)]);
        let errors = Manifest::load(&files, &request(None, &["dev"])).err().unwrap();
        assert!(shown(&errors)[0].contains(words), "{yaml}: {errors}");
    }
    for key in ["ceiling: 1", "shutdown: kill", "gate: observe", "warn: [5]", "count: raw"] {
        let files = home(&[("agents/fix.md", &format!("bottle: dev\n{key}")), ("bottles/dev.md", "")]);
        let errors = Manifest::load(&files, &request(Some("fix"), &[])).err().unwrap();
        assert!(shown(&errors)[0].starts_with("bottle-key-in-agent 3:1"), "{key}: {errors}");
    }
}

#[test]
fn a_check_shows_every_cap_with_its_place_and_whether_it_binds() {
    // C6, M34
    let files = [
        ("bottles/base.md", "budget: 9M"),
        ("bottles/dev.md", "extends: base\nbudget: {claude: 1M}\nshutdown: pause"),
        ("settings.yml", "ceiling: 20M\ngate: observe\n"),
    ];
    let view = serde_json::to_value(load(&files, None, &["dev"]).view()).unwrap();
    let at = |pointer: &str| view.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {view:#}")).clone();
    assert_eq!(at("/budgets/chain"), serde_json::json!(["bottle:dev", "bottle:base", "host"]));
    let rows: Vec<String> = at("/budgets/caps")
        .as_array()
        .unwrap()
        .iter()
        .map(|cap| {
            let meters: Vec<&str> = cap["meters"].as_array().unwrap().iter().filter_map(|m| m.as_str()).collect();
            format!(
                "{} {} {} {} {}:{}",
                cap["scope"].as_str().unwrap(),
                cap["kind"].as_str().unwrap(),
                meters.join("+"),
                cap["binds"],
                cap["origin"]["file"].as_str().unwrap().rsplit('/').next().unwrap(),
                cap["origin"]["line"]
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            "bottle:dev budget anthropic true dev.md:3",
            "bottle:base budget anthropic false base.md:2",
            "bottle:base budget gemini+openai+unknown true base.md:2",
            "host ceiling anthropic+gemini+openai+unknown true settings.yml:1",
        ]
    );
    assert_eq!((at("/budgets/shutdown/value"), at("/budgets/shutdown/origin/line")), ("pause".into(), 4.into()));
    assert_eq!((at("/budgets/gate/value"), at("/budgets/gate/origin/line")), ("observe".into(), 2.into()));
    assert_eq!((at("/budgets/overrun/value"), at("/budgets/overrun/origin/from")), ("exact".into(), "default".into()));
    assert_eq!(at("/budgets/caps/0/window"), "lifetime");
}

#[test]
fn a_changed_file_gives_changed_budgets_and_a_repository_s_agent_keeps_what_was_agreed_to() {
    // M39
    let files = |agent: &str, budget: &str| {
        home(&[
            (agent, &format!("bottle: dev\nbudget: {budget}")),
            ("bottles/dev.md", &format!("budget: {budget}\nceiling: {budget}")),
            ("settings.yml", &format!("ceiling: {budget}")),
        ])
    };
    for (agent, kept) in [("agents/fix.md", false), ("/repo/.carboy/agents/fix.md", true)] {
        let running = load_trusted(&files(agent, "1M"), &request(Some("fix"), &[])).unwrap();
        let now = reread(&files(agent, "2M"), &places(), &running, 2).unwrap().budgets;
        let amounts: Vec<u64> = now.caps.values().next().unwrap().iter().map(|cap| cap.amount.tokens_down()).collect();
        let of_agent = if kept { 1_000_000 } else { 2_000_000 };
        assert_eq!(amounts, [of_agent, 2_000_000, 2_000_000, 2_000_000], "{agent}");
        assert_eq!(now.chain, running.budgets.chain);
        // Gone, it loosens nothing.
        let mut without = home(&[("bottles/dev.md", ""), ("settings.yml", "")]);
        let now = reread(&without, &places(), &running, 3).unwrap().budgets;
        assert_eq!(now.caps.values().next().unwrap().len(), 1);
        without.insert(places().settings(), "ceiling: lots");
        assert!(reread(&without, &places(), &running, 4).is_err());
    }
}

#[test]
fn the_caps_of_a_run_are_so_many_that_a_ledger_is_told_them_in_one_message() {
    // C6, M34
    let amount = "1_000G";
    let caps = format!(
        "budget: \"{amount}\"\nceiling: \"{amount}\"\nwindow: {{calendar: month, tz: America/Argentina/ComodRivadavia}}"
    );
    let of = |count: usize| {
        let names: Vec<String> = (0..count).map(|i| format!("{i:0>64}")).collect();
        let mut list: Vec<(String, String)> =
            names.iter().map(|name| (format!("bottles/{name}.md"), caps.clone())).collect();
        list.push((
            "bottles/dev.md".into(),
            format!("extends: [{}]", names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")),
        ));
        let list: Vec<(&str, &str)> = list.iter().map(|(path, yaml)| (path.as_str(), yaml.as_str())).collect();
        Manifest::load(&home(&list), &request(None, &["dev"]))
    };
    let most = CAPS_MAX / (2 * METERS.len());
    let mut loaded = of(most).unwrap_or_else(|errors| panic!("{errors}"));
    loaded.run_budget.amounts = RunBudget::parse(["1000G"]).unwrap();
    let message = serde_json::to_string(&loaded.budgets_of(&RunId::parse("r-00000000").unwrap())).unwrap();
    // The rest of a Hello is names and paths.
    assert!(message.len() < 60 * 1024, "{} bytes", message.len());
    let errors = of(most + 1).err().unwrap();
    assert_eq!(shown(&errors), ["too-complex -:- 208 caps hold for one run together, more than 200"]);
}

fn amounts() -> impl Strategy<Value = String> {
    let one = prop::sample::select(vec!["1", "500k", "2M", "{claude: 3M}", "{claude: 7, codex: 1M}", ""]);
    let part = |key: &'static str| {
        one.clone().prop_map(move |amount| if amount.is_empty() { String::new() } else { format!("{key}: {amount}\n") })
    };
    let rest = prop::sample::select(vec![
        "",
        "window: {rolling: 5h}\n",
        "window: {calendar: day}\ncount: raw\n",
        "gate: observe\noverrun: bounded\n",
        "shutdown: kill\n",
    ]);
    (part("budget"), part("ceiling"), rest).prop_map(|(a, b, c)| [a, b, c.to_owned()].concat())
}

/// The smallest ceilings of a file by itself, by meter.
fn ceilings(file: &str) -> Vec<(MeterName, u64)> {
    let set = bottle(file).unwrap_or_else(|errors| panic!("{errors}")).budgets;
    let of = |(meter, caps): (&MeterName, &Vec<carboy_core::budget::Cap>)| {
        let all = caps.iter().filter(|cap| cap.kind == CapKind::Ceiling).map(|cap| cap.amount.as_milli());
        all.min().map(|least| (meter.clone(), least))
    };
    set.caps.iter().filter_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    // C6, M30, M34: whatever files stand beside or nearer, a ceiling of each of them binds.
    #[test]
    fn putting_files_together_never_raises_a_ceiling(
        machine in amounts(), own in amounts(), base in amounts(), dev in amounts(), other in amounts(), extends in any::<bool>(),
    ) {
        let child = if extends { format!("extends: base\n{dev}") } else { dev.clone() };
        let named: &[&str] = if extends { &["other", "dev"] } else { &["base", "other", "dev"] };
        let files = [
            (SYSTEM_SETTINGS, machine.as_str()), ("settings.yml", &own), ("bottles/base.md", &base),
            ("bottles/dev.md", &child), ("bottles/other.md", &other), ("agents/fix.md", "bottle: dev\nbudget: 900G"),
        ];
        let mut loaded = load(&files, Some("fix"), named);
        loaded.run_budget.amounts = RunBudget::parse(["900G"]).unwrap();
        let set = loaded.budgets_of(&RunId::parse("r").unwrap());
        for file in [&machine, &own, &base, &dev, &other] {
            for (meter, least) in ceilings(file) {
                let bound = set.binding(&meter).iter().map(|cap| cap.amount.as_milli()).min();
                prop_assert!(bound.is_some_and(|bound| bound <= least), "{}: {:?} above {}", meter, bound, least);
            }
        }
    }

    // M39: with a repository's agent everything that binds without it binds as before.
    #[test]
    fn a_repository_s_agent_takes_no_cap_away(
        machine in amounts(), own in amounts(), dev in amounts(),
        agent in prop::sample::select(vec!["1", "900G", "{claude: 900G}", "{codex: 0}"]),
    ) {
        let agent = format!("bottle: dev\nbudget: {agent}");
        let files = [(SYSTEM_SETTINGS, machine.as_str()), ("settings.yml", &own), ("bottles/dev.md", &dev), ("/repo/.carboy/agents/fix.md", &agent)];
        let with = load(&files, Some("fix"), &[]).budgets;
        let without = load(&files, None, &["dev"]).budgets;
        for meter in without.caps.keys() {
            let bound = with.binding(meter);
            prop_assert!(without.binding(meter).iter().all(|cap| bound.contains(cap)));
        }
        prop_assert_eq!(&with.terms, &without.terms);
    }
}
