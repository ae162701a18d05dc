//! cargo: `config.toml` (registries, source replacement), `CARGO_REGISTRIES_*`, and of each index where its downloads are,
//! which its own `config.json` says. Where nothing is configured, cargo itself is asked what its index is.

use std::path::{Path, PathBuf};

use carboy_manifest::starter::BindLine;
use serde_json::Value;

use super::{Address, Configured, Manager, Whose};
use crate::home::private_dir;
use crate::setup::{Surroundings, names_in, read_own};

/// Most steps of `replace-with` that are followed.
const REPLACEMENTS_MAX: usize = 8;
/// Keys of `config.toml` that hold a credential or say how one is got.
const CREDENTIAL_KEYS: &[&str] = &["token", "secret-key", "password"];
/// A crate that needs one other: resolving it makes cargo read its index.
const ASKING: &str = "[package]\nname = \"asking\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\nlibc = \"*\"\n[workspace]\n";

/// What stands in for crates.io.
enum Replacement {
    Nothing,
    Index(String),
    /// A directory or something else that no preset reaches.
    Local,
}

pub(super) fn configured(host: &Surroundings) -> Option<Configured> {
    let cargo = host.find("cargo", &[host.home.join(".cargo/bin")])?;
    let cargo_home = host.variable("CARGO_HOME").map_or_else(|| host.home.join(".cargo"), PathBuf::from);
    let mut found = Configured::new(Manager::Cargo);
    let file = ["config.toml", "config"].map(|name| cargo_home.join(name)).into_iter().find(|file| file.is_file());
    let config = file.as_deref().map(|file| read_config(&mut found, file)).unwrap_or_default();
    let cache = cargo_home.join("registry/index");
    let named = named(host, &config);
    for (name, index) in &named {
        add_index(&mut found, index, &format!("registry `{name}` of your cargo"), &cache);
    }
    match replacement(&config) {
        Replacement::Index(index) => add_index(&mut found, &index, "source replacement of your cargo", &cache),
        Replacement::Local => {
            found
                .notes
                .push("cargo: crates.io is replaced by a directory of this host: bind it if it is needed".into());
        }
        Replacement::Nothing => default_index(host, &mut found, &cargo, &cache),
    }
    if let Some(file) = file {
        bind_config(&mut found, &config, &file);
    }
    Some(found)
}

fn read_config(found: &mut Configured, file: &Path) -> Value {
    let parsed = read_own(file).and_then(|text| basic_toml::from_str(&text).ok());
    parsed.unwrap_or_else(|| {
        found.notes.push(format!("cargo: {} cannot be read", file.display()));
        Value::Null
    })
}

/// `registries.NAME.index`, and the same by variables.
fn named(host: &Surroundings, config: &Value) -> Vec<(String, String)> {
    let of_file = config.get("registries").and_then(Value::as_object).into_iter().flatten();
    let mut all: Vec<(String, String)> = of_file
        .filter_map(|(name, registry)| Some((name.clone(), registry.get("index")?.as_str()?.to_owned())))
        .collect();
    for (variable, value) in &host.environment {
        let name = variable.to_str().and_then(|v| v.strip_prefix("CARGO_REGISTRIES_")?.strip_suffix("_INDEX"));
        if let (Some(name), Some(index)) = (name, value.to_str()) {
            all.push((name.to_ascii_lowercase(), index.to_owned()));
        }
    }
    all
}

fn replacement(config: &Value) -> Replacement {
    let source = |name: &str| config.get("source").and_then(|all| all.get(name));
    let mut name = "crates-io".to_owned();
    for _ in 0..REPLACEMENTS_MAX {
        let next = source(&name).and_then(|source| source.get("replace-with")).and_then(Value::as_str);
        match next {
            Some(next) => next.clone_into(&mut name),
            None if name == "crates-io" => return Replacement::Nothing,
            None => {
                let of_registries = config.get("registries").and_then(|all| all.get(&name)?.get("index"));
                let index = source(&name).and_then(|source| source.get("registry")).or(of_registries);
                return index
                    .and_then(Value::as_str)
                    .map_or(Replacement::Local, |index| Replacement::Index(index.to_owned()));
            }
        }
    }
    Replacement::Local
}

/// An index, and the place of its downloads.
fn add_index(found: &mut Configured, index: &str, said: &str, cache: &Path) {
    if !index.starts_with("sparse+") {
        let next = "the preset reaches sparse ones; a route with `git: {fetch: true}` reaches it";
        found.notes.push(format!("cargo: {said} is a git index: {next}"));
        return;
    }
    let Some(address) = found.add(index, said, Whose::Person) else { return };
    let of_host = |name: &&String| name.rsplit_once('-').is_some_and(|(host, _)| host == address.host);
    match names_in(cache).iter().filter(of_host).find_map(|name| downloads(&cache.join(name))) {
        Some(url) => {
            found.add(&url, &format!("downloads of {said}"), Whose::Person);
        }
        None => found.notes.push(format!(
            "cargo: where {said} keeps its downloads is not known yet; if it is another host, `cargo fetch` in a project \
             and then `carboy init` again finds it"
        )),
    }
}

/// `dl` of an index's `config.json`, without what stands for a crate in it.
fn downloads(index: &Path) -> Option<String> {
    let config: Value = serde_json::from_str(&read_own(&index.join("config.json"))?).ok()?;
    let url = config.get("dl")?.as_str()?;
    Some(url.split('{').next().unwrap_or(url).to_owned())
}

/// The index that nothing was configured for: one of the cache, else what cargo says when it is made to read it.
fn default_index(host: &Surroundings, found: &mut Configured, cargo: &Path, cache: &Path) {
    let known: Vec<String> = found.registries.iter().map(|registry| registry.address.host.clone()).collect();
    if cached_default(found, cache, &known) {
        return;
    }
    let scratch = host.carboy_home.join(format!("run/asking-{}", std::process::id()));
    let made = private_dir(&scratch.join("src")).is_ok()
        && std::fs::write(scratch.join("Cargo.toml"), ASKING).is_ok()
        && std::fs::write(scratch.join("src/lib.rs"), "").is_ok();
    let home = scratch.join("home");
    if made {
        // Its own directory for what it downloads; it may fail as long as it has read its index.
        host.ask_at(cargo, &["generate-lockfile"], &scratch, &[("CARGO_HOME", &home)]);
    }
    if !cached_default(found, &home.join("registry/index"), &known) {
        let next = "`cargo fetch` in a project, then `carboy init` again";
        found.notes.push(format!("cargo: its index is not known: cargo has not read it yet, and cannot now; {next}"));
    }
    // What is left of it stays private, and is of no use to anybody.
    let _ = std::fs::remove_dir_all(&scratch);
}

fn cached_default(found: &mut Configured, cache: &Path, known: &[String]) -> bool {
    let mut any = false;
    for name in names_in(cache) {
        let Some((host, _)) = name.rsplit_once('-').filter(|(host, _)| !known.iter().any(|k| k == host)) else {
            continue;
        };
        if let Some(url) = downloads(&cache.join(&name)) {
            let index = found.add(&format!("https://{host}"), "the index of the installed cargo", Whose::Person);
            any |= index.is_some();
            found.add(&url, "the downloads of that index", Whose::Person);
        }
    }
    any
}

/// What `config.toml` says of registries is needed inside as well; a file with a credential in it is not shown.
fn bind_config(found: &mut Configured, config: &Value, file: &Path) {
    if config.get("source").is_none() && config.get("registries").is_none() {
        return;
    }
    if holds_credential(config) {
        let next = "move it to credentials.toml, and `carboy init` can show the rest of the file to the bottle";
        found
            .notes
            .push(format!("cargo: {} holds a credential, so it is not shown to the bottle; {next}", file.display()));
        return;
    }
    found.binds.push(BindLine {
        source: file.to_owned(),
        target: Some("~/.cargo/config.toml".into()),
        why: "cargo: which registries are used".into(),
    });
}

fn holds_credential(value: &Value) -> bool {
    match value {
        Value::Object(all) => all.iter().any(|(key, value)| {
            (CREDENTIAL_KEYS.contains(&key.as_str()) && value.is_string()) || holds_credential(value)
        }),
        Value::Array(all) => all.iter().any(holds_credential),
        Value::String(text) => Address::parse(text).is_some_and(|address| address.credentials),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
