//! Where the thresholds of a chat agent come from (U5): default < settings < manifest < `.env` < environment < flag.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use carboy_manifest::chat::{Dotenv, Flags, KNOBS, Preset, Resolved, Surroundings, defaults_table, resolve};
use carboy_manifest::files::SYSTEM_SETTINGS;
use carboy_manifest::origin::Origin;
use carboy_manifest::{Diagnostics, Effective, Manifest, MapFiles, check};
use support::{files, load_trusted, places, request};

const AGENT: &str = "---\nkind: chat\nmodel: claude-sonnet-4-5\n---\nHi.\n";

fn loaded(list: &[(&str, &str)]) -> Effective {
    Manifest::load(&files(list), &request(Some("shop"), &[])).unwrap_or_else(|errors| panic!("{errors}"))
}

struct Around<'a> {
    dotenv: &'a str,
    env: &'a [(&'a str, &'a str)],
    preset: Option<Preset>,
    set: &'a [(&'a str, &'a str)],
}

const NOTHING: Around<'static> = Around { dotenv: "", env: &[], preset: None, set: &[] };

fn settle(effective: &Effective, around: &Around<'_>) -> Result<Resolved, Diagnostics> {
    let file = effective.chat.as_ref().expect("a chat agent");
    let (dotenv, found) = Dotenv::parse(&file.dotenv(&places()), around.dotenv.as_bytes(), &file.secrets());
    assert!(!found.has_errors(), "{found}");
    let env: BTreeMap<&str, &str> = around.env.iter().copied().collect();
    let values = around.set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let flags = Flags { preset: around.preset, values };
    let env = |name: &str| env.get(name).map(|value| (*value).to_owned());
    resolve(file, &Surroundings { dotenv: Some(&dotenv), env: &env, flags: &flags })
}

fn settled(effective: &Effective, around: &Around<'_>) -> Resolved {
    settle(effective, around).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn each_nearer_place_wins_and_its_origin_is_shown_u5() {
    // U5, G41, G42, G71
    let with = |limits: &str| AGENT.replace("claude-sonnet-4-5\n", &format!("claude-sonnet-4-5\n{limits}"));
    let manifest = with("limits: {requests_per_hour: 30}\n");
    let settings = ("settings.yml", "chat:\n  MAX_REQUESTS_PER_HOUR: 20\n");
    let at = |file: &str, line| Origin::File { file: places().carboy_home.join(file), line };
    let value =
        |resolved: &Resolved| (resolved.spec.limits.requests_per_hour, resolved.origins["requests_per_hour"].clone());

    let bare = loaded(&[("agents/shop.md", AGENT)]);
    assert_eq!(value(&settled(&bare, &NOTHING)), (100, Origin::Default));
    let by_settings = loaded(&[("agents/shop.md", AGENT), settings]);
    assert_eq!(value(&settled(&by_settings, &NOTHING)), (20, at("settings.yml", 2)));
    let all = loaded(&[("agents/shop.md", &manifest), settings]);
    assert_eq!(value(&settled(&all, &NOTHING)), (30, at("agents/shop.md", 4)));
    let dotenv = Around { dotenv: "\nMAX_REQUESTS_PER_HOUR=40\n", ..NOTHING };
    assert_eq!(value(&settled(&all, &dotenv)), (40, at("agents/.env", 2)));
    let env = Around { env: &[("MAX_REQUESTS_PER_HOUR", "50")], ..dotenv };
    let variable = "MAX_REQUESTS_PER_HOUR".to_owned();
    assert_eq!(value(&settled(&all, &env)), (50, Origin::Environment { variable }));
    let preset = Around { preset: Some(Preset::Dev), ..env };
    assert_eq!(value(&settled(&all, &preset)), (1_000, Origin::Flag { flag: "--preset dev".into() }));
    let flag = Around { set: &[("max_requests_per_hour", "60")], ..preset };
    let origin = Origin::Flag { flag: "--set max_requests_per_hour".into() };
    assert_eq!(value(&settled(&all, &flag)), (60, origin));
}

#[test]
fn every_old_name_is_an_alias_of_one_threshold_g42() {
    // G41, G42, G71, U5: in files, `.env` and the environment
    let effective = loaded(&[("agents/shop.md", AGENT)]);
    for (name, text, knob, value) in [
        ("MAX_REQUESTS_PER_HOUR", "7", "requests_per_hour", 7),
        ("INJECTION_THRESHOLD", "0.3", "injection_percent", 30),
        ("BLOCK_SUSPICIOUS_INPUTS", "False", "block_suspicious_inputs", 0),
        ("FILTER_SECRETS", "false", "filter_secrets", 0),
        ("FILTER_PII", "0", "filter_pii", 0),
        ("max_tool_use_iterations", "9", "tool_iterations_max", 9),
        ("session_store_max_entries", "11", "sessions_max", 11),
        ("session_idle_ttl_seconds", "60", "session_idle_s", 60),
        ("rate_limit_per_ip_per_minute", "5", "requests_per_ip_per_minute", 5),
        ("rate_limit_per_session_per_minute", "6", "requests_per_session_per_minute", 6),
        ("LONG_CONVERSATION_TURN_THRESHOLD", "3", "long_conversation_turns", 3),
    ] {
        let knob = KNOBS.iter().find(|known| known.name == knob).unwrap();
        let get = |resolved: &Resolved| knob.get(&resolved.spec.limits, &resolved.spec.screening);
        for spelled in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
            let line = format!("{spelled}={text}\n");
            assert_eq!(get(&settled(&effective, &Around { dotenv: &line, ..NOTHING })), value, "{spelled}");
            let env = [(spelled.as_str(), text)];
            assert_eq!(get(&settled(&effective, &Around { env: &env, ..NOTHING })), value, "{spelled}");
            let word = text.to_ascii_lowercase().replace('0', "false");
            let text = if knob.range == (0, 1) {
                word
            } else {
                format!("{text:?}").replace('"', if text.contains('.') { "\"" } else { "" })
            };
            let settings = format!("chat: {{{spelled}: {text}}}\n");
            let effective = loaded(&[("agents/shop.md", AGENT), ("settings.yml", &settings)]);
            assert_eq!(get(&settled(&effective, &NOTHING)), value, "{settings}");
        }
        let own = format!("CARBOY_CHAT_{}", knob.name.to_ascii_uppercase());
        let whole = value.to_string();
        assert_eq!(get(&settled(&effective, &Around { env: &[(&own, &whole)], ..NOTHING })), value, "{own}");
    }
}

#[test]
fn presets_are_those_of_the_reference_and_production_needs_its_key_g72() {
    // G72, G72b
    let effective = loaded(&[("agents/shop.md", AGENT)]);
    let loose = [("FILTER_SECRETS", "false"), ("FILTER_PII", "false"), ("AUDIT_INTEGRITY_KEY", "00ff")];
    let with = |preset| settled(&effective, &Around { preset: Some(preset), env: &loose, ..NOTHING });
    let main = |preset| {
        let spec = with(preset).spec;
        (spec.screening.injection_percent, spec.screening.block_suspicious_inputs, spec.limits.requests_per_hour)
    };
    assert_eq!(main(Preset::Strict), (30, true, 50));
    assert_eq!(main(Preset::Dev), (70, false, 1_000));
    assert_eq!(main(Preset::Production), (50, true, 100));
    // A preset that lets one person ask more often lets their address.
    let by_address = |preset| with(preset).spec.limits.requests_per_ip_per_hour;
    assert_eq!([Preset::Strict, Preset::Dev, Preset::Production].map(by_address), [300, 1_000, 300]);
    let screening = with(Preset::Production).spec.screening;
    assert!(screening.filter_secrets && screening.filter_pii);
    assert!(!with(Preset::Strict).spec.screening.filter_pii);
    let without = settle(&effective, &Around { preset: Some(Preset::Production), ..NOTHING }).expect_err("no key");
    assert!(
        without.to_string().contains("`--preset production` needs AUDIT_INTEGRITY_KEY, and it is not set"),
        "{without}"
    );
    let dotenv = Around { preset: Some(Preset::Production), dotenv: "AUDIT_INTEGRITY_KEY=00ff\n", ..NOTHING };
    assert!(settle(&effective, &dotenv).is_ok());
    let kept = loaded(&[("agents/shop.md", AGENT), ("settings.yml", "secrets: {AUDIT_INTEGRITY_KEY: {file: /k}}\n")]);
    assert!(settle(&kept, &Around { preset: Some(Preset::Production), ..NOTHING }).is_ok());
    assert_eq!(Preset::named("production"), Some(Preset::Production));
    assert_eq!(Preset::named("prod"), None);
}

#[test]
fn secrets_of_a_dotenv_are_for_whoever_needs_them_and_in_no_view_g66b() {
    // G66b, G66, G41
    let agent = AGENT.replace("claude-sonnet-4-5", "{provider: anthropic, name: claude-x, token_env: SHOP_KEY}");
    let effective = loaded(&[("agents/shop.md", &agent)]);
    let file = effective.chat.as_ref().unwrap();
    assert_eq!(file.dotenv(&places()), Path::new("/home/u/.carboy/agents/.env"));
    let names: Vec<String> = file.secrets().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["ANTHROPIC_API_KEY", "AUDIT_INTEGRITY_KEY", "OPENAI_API_KEY", "SESSION_SECRET", "SHOP_KEY"]);
    let text = "SHOP_KEY=sk-ant-canary\nSESSION_SECRET=canary-two\nOTHER=canary-three\n";
    let (dotenv, found) = Dotenv::parse(Path::new("/x/.env"), text.as_bytes(), &file.secrets());
    assert_eq!((dotenv.secret_names().count(), found.error_count(), found.iter().count()), (2, 0, 1));
    let resolved = settled(&effective, &Around { dotenv: text, ..NOTHING });
    let shown = serde_json::to_string(&resolved.view()).unwrap();
    assert!(shown.contains("SHOP_KEY") && !shown.contains("canary"), "{shown}");
    assert!(!format!("{resolved:?}{dotenv:?}{found}").contains("canary"));
}

#[test]
fn what_cannot_be_read_in_surroundings_is_an_error_with_its_fix() {
    let effective = loaded(&[("agents/shop.md", AGENT)]);
    let fails = |around: &Around<'_>| settle(&effective, around).expect_err("an error").to_string();
    let env = fails(&Around { env: &[("INJECTION_THRESHOLD", "50")], ..NOTHING });
    assert!(env.contains("`INJECTION_THRESHOLD` is `50`") && env.contains("\"0.5\" or 50%"), "{env}");
    let flag = fails(&Around { set: &[("turns", "5")], ..NOTHING });
    assert!(flag.contains("`--set` names `turns`, which is no threshold") && flag.contains("`turns_max`"), "{flag}");
    let twice = fails(&Around { set: &[("turns_max", "0"), ("sessions_max", "x")], ..NOTHING });
    assert!(twice.contains("`turns_max` is `0`") && twice.contains("`sessions_max` is `x`"), "{twice}");
    // An empty variable says nothing.
    let empty = settled(&effective, &Around { env: &[("MAX_REQUESTS_PER_HOUR", " ")], ..NOTHING });
    assert_eq!(empty.spec.limits.requests_per_hour, 100);
}

#[test]
fn the_machines_settings_are_loosened_from_nowhere() {
    let machine = |yaml: &str| -> MapFiles {
        let mut all = files(&[("agents/shop.md", AGENT), ("settings.yml", "chat: {requests_per_hour: 500}\n")]);
        all.insert(SYSTEM_SETTINGS, yaml);
        all
    };
    let load =
        |yaml: &str| Manifest::load(&machine(yaml), &request(Some("shop"), &[])).unwrap_or_else(|e| panic!("{e}"));
    let effective = load("chat: {requests_per_hour: 60, filter_pii: true}\n");
    let resolved = settled(&effective, &Around { set: &[("FILTER_PII", "off")], ..NOTHING });
    assert_eq!((resolved.spec.limits.requests_per_hour, resolved.spec.screening.filter_pii), (60, true));
    let origin = Origin::File { file: SYSTEM_SETTINGS.into(), line: 1 };
    assert_eq!((&resolved.origins["requests_per_hour"], &resolved.origins["filter_pii"]), (&origin, &origin));
    assert_eq!(resolved.warnings.iter().count(), 2, "{}", resolved.warnings);
    let stricter = settled(&effective, &Around { set: &[("requests_per_hour", "5")], ..NOTHING });
    assert_eq!(stricter.spec.limits.requests_per_hour, 5);
    // Over carboy's own default it needs no warning.
    let own = settled(&load("chat: {turns_max: 10}\n"), &NOTHING);
    assert_eq!((own.spec.limits.turns_max, own.warnings.is_empty()), (10, true));
}

#[test]
fn a_dotenv_of_a_checked_out_directory_only_makes_stricter() {
    // M39, G66b
    let mut all = files(&[("bottles/b.md", "---\npresets: [anthropic]\n---\n")]);
    all.insert("/repo/.carboy/agents/shop.md", AGENT.replace("model:", "bottle: b\nmodel:"));
    let effective = load_trusted(&all, &request(Some("shop"), &[])).unwrap_or_else(|errors| panic!("{errors}"));
    let stricter = settled(&effective, &Around { dotenv: "MAX_REQUESTS_PER_HOUR=5\n", ..NOTHING });
    assert_eq!(stricter.spec.limits.requests_per_hour, 5);
    let looser =
        settle(&effective, &Around { dotenv: "\nBLOCK_SUSPICIOUS_INPUTS=false\n", ..NOTHING }).expect_err("loose");
    assert!(
        looser.to_string().starts_with("/repo/.carboy/agents/.env:2:1: error: `block_suspicious_inputs`"),
        "{looser}"
    );
    let assistant = Manifest::load(&MapFiles::default(), &request(Some("assistant"), &[])).unwrap();
    assert_eq!(assistant.chat.as_ref().unwrap().dotenv(&places()), Path::new("/repo/.env"));
    assert!(settle(&assistant, &Around { dotenv: "MAX_REQUESTS_PER_HOUR=1000\n", ..NOTHING }).is_err());
    assert!(settle(&assistant, &Around { env: &[("MAX_REQUESTS_PER_HOUR", "1000")], ..NOTHING }).is_ok());
}

#[test]
fn a_check_shows_every_value_with_its_origin_u5() {
    // U5
    let agent = AGENT.replace("model:", "title: Shop\nlimits: {turns_max: 20}\nmodel:");
    let home = files(&[("agents/shop.md", &agent)]);
    let report = check(&home, &request(Some("shop"), &[]));
    let effective = Manifest::load(&home, &request(Some("shop"), &[])).unwrap();
    let report = report.with_chat(settle(&effective, &Around { env: &[("FILTER_PII", "off")], ..NOTHING }));
    let json = serde_json::to_value(&report).unwrap();
    let at = |pointer: &str| {
        json.pointer(&format!("/effective/chat/{pointer}")).unwrap_or_else(|| panic!("{pointer}: {json:#}"))
    };
    assert_eq!(at("title/value"), "Shop");
    assert_eq!((at("limits/turns_max/value"), at("limits/turns_max/origin/line")), (&20.into(), &4.into()));
    assert_eq!(at("limits/sessions_max/origin/from"), "default");
    assert_eq!(
        (at("screening/filter_pii/value"), at("screening/filter_pii/origin/variable")),
        (&false.into(), &"FILTER_PII".into())
    );
    assert_eq!(at("model/value/name"), "claude-sonnet-4-5");
    let (limits, screening) = (at("limits").as_object().unwrap().len(), at("screening").as_object().unwrap().len());
    assert_eq!(limits + screening, KNOBS.len());
    let wrong = check(&home, &request(Some("shop"), &[]))
        .with_chat(settle(&effective, &Around { env: &[("FILTER_PII", "maybe")], ..NOTHING }));
    assert!(!wrong.ok && wrong.diagnostics.to_string().contains("`FILTER_PII` is `maybe`"));
}

#[test]
fn the_page_of_defaults_is_the_table_of_the_program_g42b() {
    // G42b
    let page = include_str!("../../../docs/defaults.md");
    assert!(page.contains(&defaults_table()), "docs/defaults.md has to hold this table:\n{}", defaults_table());
}
