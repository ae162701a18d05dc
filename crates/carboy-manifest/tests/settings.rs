//! `settings.yml`.

mod support;

use std::path::PathBuf;

use carboy_core::host::Host;
use carboy_core::ids::SecretName;
use carboy_core::plan::CapturePolicy;
use carboy_core::upstream::Transport;
use carboy_manifest::files::SYSTEM_SETTINGS;
use carboy_manifest::settings::{Origin, SecretFrom};
use carboy_manifest::{Diagnostics, Manifest, Settings};
use support::{files, request};

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

fn load(yaml: &str) -> Result<Settings, Diagnostics> {
    let home = files(&[
        ("bottles/dev.md", "---\n---\n"),
        ("settings.yml", yaml),
        ("ca.pem", PEM),
        ("key.pem", "-----BEGIN PRIVATE KEY-----\n"),
    ]);
    Manifest::load(&home, &request(None, &["dev"])).map(|loaded| loaded.settings)
}

fn error(yaml: &str) -> String {
    let errors = load(yaml).err().unwrap_or_else(|| panic!("{yaml} is accepted"));
    assert_eq!(errors.error_count(), 1, "{yaml}: {errors}");
    errors.to_string()
}

fn name(text: &str) -> SecretName {
    SecretName::parse(text).expect("a name")
}

#[test]
fn without_a_file_the_defaults_hold() {
    let settings = Settings::default();
    assert_eq!((settings.capture.value, settings.capture.origin.clone()), (CapturePolicy::RequireT1, Origin::Default));
    assert_eq!(settings.secret(&name("KEY")), SecretFrom::Env("KEY".into()));
}

#[test]
fn secrets_upstreams_and_the_rest_are_read_with_their_origin() {
    let settings = load(
        "---\nsecrets:\n  A: {env: B}\n  C: {file: ~/c}\n  D: {command: [pass, show, d]}\nupstreams:\n  \
         a.example: {address: \"10.0.0.1:8443\", ca: ~/.carboy/ca.pem}\n  \"a.example:80\": {address: \"localhost:99\", tls: false}\n  \
         \"[2001:db8::1]:443\": {address: \"[::1]:1\"}\ncapture: allow-t2\nbottle_uid: 60000\n",
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(settings.secret(&name("A")), SecretFrom::Env("B".into()));
    assert_eq!(settings.secret(&name("C")), SecretFrom::File("/home/u/c".into()));
    assert_eq!(settings.secret(&name("D")), SecretFrom::Command(["pass", "show", "d"].map(str::to_owned).to_vec()));
    let host = Host::parse("a.example").unwrap();
    let tls = settings.upstreams.get(&host, 443).unwrap();
    assert_eq!(
        (tls.address.to_string().as_str(), tls.transport, tls.extra_ca_pem.as_deref()),
        ("10.0.0.1:8443", Transport::Tls, Some(PEM))
    );
    let plain = settings.upstreams.get(&host, 80).unwrap();
    assert_eq!((plain.address.to_string().as_str(), plain.transport), ("127.0.0.1:99", Transport::Plain));
    assert_eq!(settings.upstreams.iter().count(), 3);
    let file = PathBuf::from("/home/u/.carboy/settings.yml");
    assert_eq!(settings.sources, [file.clone(), "/home/u/.carboy/ca.pem".into()]);
    assert_eq!(
        (settings.capture.value, settings.capture.origin),
        (CapturePolicy::AllowT2, Origin::File { file, line: 10 })
    );
    assert_eq!(settings.bottle_uid.value, Some(60_000));
}

#[test]
fn what_is_wrong_is_said_at_its_place() {
    for (yaml, words) in [
        ("capture: t2", ":1:10: error: `capture` of settings.yml is `t2`"),
        ("bottle_uid: 0", "from 1 to 4294967294"),
        ("bottle_uid: root", "not a whole number"),
        ("secret: {}", "did you mean `secrets`?"),
        ("secrets: {A: {}}", "has 0 sources, not one"),
        ("secrets: {A: {env: B, file: /c}}", "has 2 sources, not one"),
        ("secrets: {A: {file: c}}", "absolute path"),
        ("secrets: {A: {command: pass show}}", "not a list"),
        ("secrets: {A: {command: []}}", "names no program"),
        ("secrets: {A: {vault: x}}", "unknown key: `vault`"),
        ("upstreams: {\"*.a.example\": {address: \"10.0.0.1:1\"}}", "no `*`"),
        ("upstreams: {a.example: {}}", "has no `address`"),
        ("upstreams: {a.example: {address: \"10.0.0.1\"}}", "IP:PORT"),
        ("upstreams: {a.example: {address: \"b.example:443\"}}", "resolved by nobody"),
        ("upstreams: {a.example: {address: \"0.0.0.0:443\"}}", "IP:PORT"),
        ("upstreams: {a.example: {address: \"10.0.0.1:0\"}}", "IP:PORT"),
        ("upstreams: {a.example: {address: \"10.0.0.1:1\", tls: no}}", "not a boolean"),
        ("upstreams: {a.example: {address: \"10.0.0.1:1\", ca: /gone.pem}}", "no such file"),
        ("upstreams: {a.example: {address: \"10.0.0.1:1\", ca: ~/.carboy/settings.yml}}", "no PEM certificate"),
        ("upstreams: {a.example: {address: \"10.0.0.1:1\", ca: ~/.carboy/key.pem}}", "a private key"),
        (
            "upstreams: {a.example: {address: \"10.0.0.1:1\", ca: ~/.carboy/ca.pem, tls: false}}",
            "`ca` and `tls: false`",
        ),
        (
            "upstreams:\n  a.example: {address: \"10.0.0.1:1\"}\n  A.example.: {address: \"10.0.0.1:1\"}",
            "the same as that on line 2",
        ),
        ("- a", "not a map"),
        ("a: 1\n---\nb: 2\n", "more than one document"),
    ] {
        let found = match yaml.starts_with("a: 1") {
            true => load(yaml).err().unwrap().to_string(),
            false => error(yaml),
        };
        assert!(found.contains(words), "{yaml}: {found}");
    }
}

#[test]
fn a_secret_that_was_written_in_is_not_repeated() {
    for yaml in [
        "secrets: {KEY: sk-ant-api03-abc}",
        "secrets: {sk-ant-api03-abc: {env: A}}",
        "secrets: {KEY: {env: sk-ant-api03-abc}}",
    ] {
        assert!(!error(yaml).contains("sk-ant"), "{yaml}");
    }
}

#[test]
fn what_the_system_says_stands_over_what_a_user_says_and_the_rest_of_the_user_stays() {
    let mut home = files(&[
        ("bottles/dev.md", "---\negress: {routes: [{host: a.example, auth_scheme: Bearer, token_env: A}]}\n---\n"),
        (
            "settings.yml",
            "secrets:\n  A: {env: MINE}\n  B: {env: B2}\nupstreams:\n  \"a.example:443\": {address: \"10.0.0.1:1\"}\n  \
             b.example: {address: \"10.0.0.2:2\"}\ncapture: force-t2\n",
        ),
    ]);
    let system = "secrets:\n  A: {command: [vault, a]}\nupstreams:\n  a.example: {address: \"10.9.9.9:9\"}\ncapture: t1\nbottle_uid: 7\n";
    home.insert(SYSTEM_SETTINGS, system);
    let loaded = Manifest::load(&home, &request(None, &["dev"])).unwrap_or_else(|errors| panic!("{errors}"));
    let settings = &loaded.settings;
    assert_eq!(settings.secret(&name("A")), SecretFrom::Command(vec!["vault".into(), "a".into()]));
    assert_eq!(settings.secret(&name("B")), SecretFrom::Env("B2".into()));
    let at = |host: &str| settings.upstreams.get(&Host::parse(host).unwrap(), 443).unwrap().address.to_string();
    assert_eq!((at("a.example").as_str(), at("b.example").as_str()), ("10.9.9.9:9", "10.0.0.2:2"));
    assert_eq!((settings.capture.value, settings.bottle_uid.value), (CapturePolicy::RequireT1, Some(7)));
    assert_eq!(settings.capture.origin, Origin::File { file: SYSTEM_SETTINGS.into(), line: 5 });
    // `check --json` shows it.
    let view = serde_json::to_value(loaded.view()).unwrap();
    assert_eq!(view["upstreams"][0]["origin"]["file"], SYSTEM_SETTINGS);
    assert_eq!(view["secrets"]["A"]["origin"]["line"], 2);
    // What is wrong in it stops everything.
    home.insert(SYSTEM_SETTINGS, "capture: never\n");
    assert!(Manifest::load(&home, &request(None, &["dev"])).is_err());
}
