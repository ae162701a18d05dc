//! Who may depend on whom. The table below is the house; `cargo metadata` says what is built.
//!
//! Dependencies go down only, never sideways; each technology that opens a door to the world has its home; layers 0 and 1
//! touch nothing. Development dependencies are exempt, but nothing at all depends on `xtask`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{complain, tree};

/// A crate's place.
struct Room {
    name: &'static str,
    layer: u8,
    /// Crates of the house that it may depend on.
    may: &'static [&'static str],
}

const fn room(layer: u8, name: &'static str, may: &'static [&'static str]) -> Room {
    Room { name, layer, may }
}

const HOUSE: &[Room] = &[
    room(0, "carboy-core", &[]),
    room(1, "carboy-guard", &["carboy-core"]),
    room(1, "carboy-wire", &["carboy-core"]),
    room(1, "carboy-manifest", &["carboy-core"]),
    room(1, "carboy-weave", &[]),
    room(2, "carboy-store", &["carboy-core"]),
    room(2, "carboy-egress", &["carboy-core", "carboy-guard", "carboy-wire"]),
    room(2, "carboy-bottle", &["carboy-core"]),
    room(2, "carboy-agent", &["carboy-core", "carboy-guard", "carboy-wire"]),
    room(2, "carboy-sim", &["carboy-core", "carboy-wire"]),
    room(
        3,
        "carboy-control",
        &[
            "carboy-core",
            "carboy-guard",
            "carboy-wire",
            "carboy-manifest",
            "carboy-weave",
            "carboy-store",
            "carboy-egress",
            "carboy-bottle",
            "carboy-agent",
            "carboy-sim",
        ],
    ),
    room(3, "bookly", &["carboy-agent", "carboy-core"]),
    room(3, "retail", &["carboy-agent", "carboy-core"]),
    room(
        4,
        "carboy",
        &["carboy-control", "carboy-manifest", "carboy-weave", "carboy-guard", "carboy-core", "bookly", "retail"],
    ),
];

/// Chores depend on what they like, and nothing depends on them.
const CHORES: [&str; 2] = ["xtask", "carboy-fuzz"];

/// A technology and the crates where it is at home.
struct Leaf {
    names: &'static [&'static str],
    homes: &'static [&'static str],
    rule: &'static str,
}

const LEAVES: &[Leaf] = &[
    Leaf {
        names: &["rustls", "tokio-rustls", "rustls-native-certs", "rustls-pki-types", "webpki-roots", "rcgen"],
        homes: &["carboy-egress", "carboy-sim"],
        rule: "TLS is made and ended in egress, and by the simulated provider as a listener",
    },
    Leaf {
        names: &["hyper", "hyper-util", "http-body-util"],
        homes: &["carboy-egress", "carboy-sim", "carboy-control"],
        rule: "HTTP is spoken in egress, by the simulated provider, and by the composer's own services",
    },
    Leaf { names: &["axum"], homes: &["carboy-control"], rule: "people are served over HTTP by the composer alone" },
    Leaf {
        names: &["rusqlite"],
        homes: &["carboy-store", "bookly", "retail"],
        rule: "databases are the store's, and each application's own file",
    },
    Leaf { names: &["ratatui", "crossterm"], homes: &["carboy"], rule: "the terminal's screen is the binary's" },
    Leaf {
        names: &["landlock", "seccompiler"],
        homes: &["carboy-bottle"],
        rule: "processes are confined by the bottle alone",
    },
];

/// Not to be reached from layers 0 and 1, not even through another crate.
const WORLD: &[&str] = &["tokio", "mio", "socket2", "hyper", "rustls", "rusqlite", "async-std", "smol", "reqwest"];
/// The layers that touch nothing.
const PURE_LAYERS: std::ops::RangeInclusive<u8> = 0..=1;
/// The one crate that may have `unsafe`, and where in it.
const UNSAFE_CRATE: &str = "carboy-bottle";
const UNSAFE_PLACE: &str = "crates/carboy-bottle/src/sys";
/// Its tests make the calls that the bottle has to refuse.
const UNSAFE_TESTS: &str = "crates/carboy-bottle/tests/";

/// Methods that a pure crate's `clippy.toml` has to name, at least.
const DISALLOWED: &[&str] = &[
    "std::env::var",
    "std::env::var_os",
    "std::env::vars",
    "std::env::args",
    "std::fs::read",
    "std::fs::read_to_string",
    "std::fs::write",
    "std::fs::File::open",
    "std::fs::File::create",
    "std::fs::OpenOptions::open",
    "std::time::SystemTime::now",
    "std::time::Instant::now",
    "std::net::TcpStream::connect",
    "std::net::TcpListener::bind",
    "std::net::UdpSocket::bind",
    "std::os::unix::net::UnixStream::connect",
    "std::os::unix::net::UnixListener::bind",
    "std::thread::sleep",
    "std::thread::spawn",
    "std::process::Command::new",
];

/// Checks the workspace.
pub fn run() -> Result<(), String> {
    let top = tree::root();
    let metadata = metadata(&top)?;
    let mut complaints = edges(&metadata);
    complaints.extend(reaches(&metadata));
    complaints.extend(files(&top, &metadata)?);
    complain("layers", complaints)?;
    println!("layers: {} crates, each in its place", members(&metadata).len());
    Ok(())
}

fn metadata(top: &Path) -> Result<Value, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(["metadata", "--format-version", "1", "--locked"]).current_dir(top).output();
    let output = output.map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata is not JSON: {error}"))
}

/// The workspace's own packages, by name.
fn members(metadata: &Value) -> BTreeMap<&str, &Value> {
    let own: BTreeSet<&str> = list(metadata, "workspace_members").filter_map(Value::as_str).collect();
    let packages = list(metadata, "packages").filter(|package| own.contains(text(package, "id")));
    packages.map(|package| (text(package, "name"), package)).collect()
}

fn list<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value[field].as_array().map_or(&[][..], Vec::as_slice).iter()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or("")
}

fn room_of(name: &str) -> Option<&'static Room> {
    HOUSE.iter().find(|room| room.name == name)
}

/// Direct dependencies against the table.
fn edges(metadata: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let members = members(metadata);
    for (name, package) in &members {
        let room = room_of(name);
        if room.is_none() && !CHORES.contains(name) {
            complaints.push(format!("{name}: has no place in the house; give it one in xtask/src/layers.rs"));
        }
        for dependency in list(package, "dependencies") {
            let other = text(dependency, "name");
            if CHORES.contains(&other) {
                complaints.push(format!("{name} → {other}: nothing depends on the chores"));
            }
            if text(dependency, "kind") != "dev"
                && let Some(room) = room
            {
                complaints.extend(members.contains_key(other).then(|| sideways(room, other)).flatten());
                complaints.extend(astray(room, other));
            }
        }
    }
    complaints
}

fn sideways(room: &Room, other: &str) -> Option<String> {
    let below = room_of(other)?;
    let why = if below.layer >= room.layer {
        format!("layer {} does not depend on layer {}: down only, never sideways", room.layer, below.layer)
    } else if room.may.contains(&other) {
        return None;
    } else if room.may.is_empty() {
        "it depends on no crate of the house".to_owned()
    } else {
        format!("it may depend on {} only", room.may.join(", "))
    };
    Some(format!("{} → {other}: {why}", room.name))
}

fn astray(room: &Room, other: &str) -> Option<String> {
    let leaf = LEAVES.iter().find(|leaf| leaf.names.contains(&other) && !leaf.homes.contains(&room.name))?;
    Some(format!("{} → {other}: {} (at home in {})", room.name, leaf.rule, leaf.homes.join(", ")))
}

/// What the pure layers reach through others.
fn reaches(metadata: &Value) -> Vec<String> {
    let names: BTreeMap<&str, &str> = list(metadata, "packages").map(|p| (text(p, "id"), text(p, "name"))).collect();
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"], "nodes").map(|n| (text(n, "id"), n)).collect();
    let mut complaints = Vec::new();
    for (name, package) in members(metadata) {
        if !room_of(name).is_some_and(|room| PURE_LAYERS.contains(&room.layer)) {
            continue;
        }
        let mut seen = BTreeSet::from([text(package, "id")]);
        let mut open = VecDeque::from([(text(package, "id"), name.to_owned())]);
        while let Some((id, way)) = open.pop_front() {
            for dependency in nodes.get(id).into_iter().flat_map(|node| list(node, "deps")) {
                let built_in = list(dependency, "dep_kinds").any(|kind| text(kind, "kind") != "dev");
                let next = text(dependency, "pkg");
                if !built_in || !seen.insert(next) {
                    continue;
                }
                let other = names.get(next).copied().unwrap_or(next);
                let way = format!("{way} → {other}");
                if WORLD.contains(&other) {
                    complaints
                        .push(format!("{way}: layers 0 and 1 touch nothing, so {other} is not reached from there"));
                }
                open.push_back((next, way));
            }
        }
    }
    complaints
}

/// What stands in manifests, lint files and sources.
fn files(top: &Path, metadata: &Value) -> Result<Vec<String>, String> {
    let mut complaints = Vec::new();
    let workspace = tree::text(top, "Cargo.toml")?;
    let all = tree::files(top)?;
    let mut lint_file: Option<(&str, String)> = None;
    for (name, package) in members(metadata) {
        let manifest = std::fs::read_to_string(text(package, "manifest_path"));
        let manifest = manifest.map_err(|error| format!("cannot read the manifest of {name}: {error}"))?;
        complaints.extend(unsafe_rule(name, &manifest, &workspace));
        if room_of(name).is_some_and(|room| PURE_LAYERS.contains(&room.layer)) {
            let file = Path::new(text(package, "manifest_path")).with_file_name("clippy.toml");
            let Ok(lints) = std::fs::read_to_string(&file) else {
                complaints.push(format!("{name}: has no clippy.toml with disallowed-methods (layers 0 and 1)"));
                continue;
            };
            complaints.extend(lint_rule(name, &lints));
            match &lint_file {
                Some((other, first)) if *first != lints => {
                    complaints.push(format!("{name}: clippy.toml differs from that of {other}; keep them alike"));
                }
                Some(_) => {}
                None => lint_file = Some((name, lints)),
            }
        }
    }
    let elsewhere = |file: &&String| !file.starts_with(UNSAFE_PLACE) && !file.starts_with(UNSAFE_TESTS);
    for file in all.iter().filter(|file| file.ends_with(".rs")).filter(elsewhere) {
        if tree::text(top, file)?.contains(concat!("allow(unsafe", "_code)")) {
            complaints.push(format!("{file}: allows unsafe code; its one place is {UNSAFE_PLACE}"));
        }
    }
    Ok(complaints)
}

/// `unsafe_code` is forbidden (which no attribute can lift), in the bottle denied.
fn unsafe_rule(name: &str, manifest: &str, workspace: &str) -> Option<String> {
    let inherits = value(manifest, "[lints]", "workspace") == Some("true");
    let level = if inherits {
        value(workspace, "[workspace.lints.rust]", "unsafe_code")
    } else {
        value(manifest, "[lints.rust]", "unsafe_code")
    };
    let wanted = if name == UNSAFE_CRATE { "\"deny\"" } else { "\"forbid\"" };
    let found = level.unwrap_or("nothing");
    (found != wanted && found != "\"forbid\"").then(|| format!("{name}: unsafe_code is {found}, not {wanted}"))
}

fn lint_rule(name: &str, lints: &str) -> Vec<String> {
    let missing = DISALLOWED.iter().filter(|method| !lints.contains(&format!("\"{method}\"")));
    missing.map(|method| format!("{name}: clippy.toml does not disallow {method} (layers 0 and 1)")).collect()
}

/// The value of `key` in the `section` of a TOML file in which both stand on lines of their own.
fn value<'t>(toml: &'t str, section: &str, key: &str) -> Option<&'t str> {
    let lines = toml.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let mut inside = lines.take_while(|line| !line.starts_with('['));
    inside.find_map(|line| line.split_once('=').filter(|(found, _)| found.trim() == key).map(|(_, value)| value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A crate and its dependencies, each with its kind.
    type Crate<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    fn workspace(crates: &[Crate]) -> Value {
        let package = |(name, dependencies): &Crate| {
            let dependencies: Vec<_> = dependencies.iter().map(|(n, kind)| json!({"name": n, "kind": kind})).collect();
            json!({"id": name, "name": name, "dependencies": dependencies})
        };
        let node = |(name, dependencies): &Crate| {
            let deps: Vec<_> =
                dependencies.iter().map(|(n, kind)| json!({"pkg": n, "dep_kinds": [{"kind": kind}]})).collect();
            json!({"id": name, "deps": deps})
        };
        let own = crates.iter().map(|(name, _)| name).filter(|name| room_of(name).is_some() || CHORES.contains(name));
        json!({
            "workspace_members": own.collect::<Vec<_>>(),
            "packages": crates.iter().map(package).collect::<Vec<_>>(),
            "resolve": {"nodes": crates.iter().map(node).collect::<Vec<_>>()},
        })
    }

    #[test]
    fn down_is_allowed_and_a_test_may_look_sideways() {
        let metadata = workspace(&[
            ("carboy-core", &[("serde", None)]),
            ("carboy-egress", &[("carboy-core", None), ("hyper", None), ("carboy-sim", Some("dev"))]),
            ("carboy-sim", &[("carboy-core", None)]),
            ("xtask", &[("serde_json", None)]),
        ]);
        assert_eq!(edges(&metadata), [] as [String; 0]);
    }

    #[test]
    fn sideways_up_and_past_the_table_are_named() {
        let metadata = workspace(&[
            ("carboy-core", &[("carboy-wire", None)]),
            ("carboy-wire", &[]),
            ("carboy-guard", &[("carboy-wire", None)]),
            ("carboy-store", &[("carboy-guard", Some("build"))]),
        ]);
        assert_eq!(
            edges(&metadata),
            [
                "carboy-core → carboy-wire: layer 0 does not depend on layer 1: down only, never sideways",
                "carboy-guard → carboy-wire: layer 1 does not depend on layer 1: down only, never sideways",
                "carboy-store → carboy-guard: it may depend on carboy-core only",
            ]
        );
    }

    #[test]
    fn technologies_stay_at_home_and_nothing_depends_on_chores() {
        let metadata = workspace(&[
            ("carboy-store", &[("rustls", None), ("rusqlite", None)]),
            ("carboy-control", &[("ratatui", None), ("hyper", None), ("xtask", Some("dev"))]),
            ("xtask", &[]),
        ]);
        let complaints = edges(&metadata);
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        assert!(complaints[0].starts_with("carboy-control → ratatui: "));
        assert_eq!(complaints[1], "carboy-control → xtask: nothing depends on the chores");
        assert!(complaints[2].starts_with("carboy-store → rustls: "));
    }

    #[test]
    fn a_crate_without_a_place_is_named() {
        let mut metadata = workspace(&[("carboy-core", &[])]);
        metadata["workspace_members"] = json!(["carboy-core", "carboy-extra"]);
        metadata["packages"].as_array_mut().unwrap().push(json!({"id": "carboy-extra", "name": "carboy-extra"}));
        assert!(edges(&metadata)[0].starts_with("carboy-extra: has no place"));
    }

    #[test]
    fn what_a_pure_layer_reaches_through_others_is_found() {
        let metadata = workspace(&[
            ("carboy-guard", &[("a", None), ("tokio", Some("dev"))]),
            ("carboy-egress", &[("tokio", None)]),
            ("a", &[("b", None)]),
            ("b", &[("tokio", None)]),
            ("tokio", &[]),
        ]);
        let complaints = reaches(&metadata);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].starts_with("carboy-guard → a → b → tokio: "));
    }

    #[test]
    fn unsafe_is_forbidden_everywhere_and_denied_in_the_bottle() {
        let workspace = "[workspace.lints.rust]\nunsafe_code = \"forbid\"\n";
        assert_eq!(unsafe_rule("carboy-core", "[lints]\nworkspace = true\n", workspace), None);
        assert_eq!(unsafe_rule("carboy-bottle", "[lints.rust]\nunsafe_code = \"deny\"\n", workspace), None);
        assert!(unsafe_rule("carboy-core", "[lints.rust]\nunsafe_code = \"deny\"\n", workspace).is_some());
        assert!(unsafe_rule("carboy-core", "[dependencies]\n", workspace).is_some());
        assert!(unsafe_rule("carboy-core", "[lints]\nworkspace = true\n", "[workspace]\nunsafe_code = 1").is_some());
    }

    #[test]
    fn a_lint_file_that_leaves_a_method_out_is_found() {
        let full: String = DISALLOWED.iter().map(|method| format!("{{ path = \"{method}\" }}\n")).collect();
        assert!(lint_rule("carboy-core", &full).is_empty());
        assert_eq!(lint_rule("carboy-core", &full.replace("Instant", "Duration")).len(), 1);
    }
}
