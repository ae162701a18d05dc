//! `carboy check --attack` by the built binary, on the starter of `init chat` and on copies of it with holes: its tools are the
//! real script, in a real bottle.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// A person with a home, and an agent that `init chat` wrote.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let desk = Desk { dir: tempfile::tempdir().unwrap() };
        for name in ["home", "work"] {
            fs::create_dir(desk.path(name)).unwrap();
        }
        fs::set_permissions(desk.path("home"), fs::Permissions::from_mode(0o700)).unwrap();
        let (code, _, err) = desk.carboy(&["init", "chat", "shop", "--script", "python"]);
        assert_eq!(code, Some(0), "{err}");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn carboy(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carboy"));
        command.args(arguments).env_clear().current_dir(self.path("work"));
        command.env("HOME", self.path("")).env("CARBOY_HOME", self.path("home"));
        command.env("PATH", std::env::var("PATH").unwrap_or_default());
        let ran = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
    }

    /// Another agent, the starter with these words for those.
    fn holed(&self, name: &str, changes: &[(&str, &str)]) {
        let agents = self.path("home").join("agents");
        let mut text = fs::read_to_string(agents.join("shop.md")).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "the starter has no `{from}` any more");
            text = text.replacen(from, to, 1);
        }
        fs::write(agents.join(format!("{name}.md")), text).unwrap();
    }

    /// Attacks it: the exit code, and every hole as JSON has it.
    fn attacked(&self, name: &str) -> (Option<i32>, Vec<Value>) {
        let (code, out, err) = self.carboy(&["check", "--attack", name, "--rounds", "200", "--seed", "1", "--json"]);
        let whole: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        assert_eq!((&whole["agent"], &whole["seed"], &whole["rounds"]), (&name.into(), &1.into(), &200.into()));
        (code, whole["holes"].as_array().unwrap().clone())
    }
}

const REQUIRES: &str =
    "requires:\n  start_return: {after: lookup_order, same: order_id, within: 15m, result: {returnable: true}}\n";

#[test]
fn g91_no_hole_is_found_in_what_init_chat_writes_and_nothing_is_left_behind() {
    let desk = Desk::new();
    let (code, out, err) = desk.carboy(&["check", "--attack", "shop", "--rounds", "200", "--seed", "1"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(out, "shop: no hole was found in 200 attacks (again: --rounds 200 --seed 1)\n");
    assert!(err.contains("no provider is asked"), "{err}");
    assert_eq!(fs::read_dir(desk.path("work")).unwrap().count(), 0);
}

#[test]
fn g91_g11_i1_a_return_that_builds_on_nothing_is_a_hole_with_its_script_and_its_rule() {
    let desk = Desk::new();
    desk.holed("holed", &[(REQUIRES, "")]);
    let (code, out, err) = desk.carboy(&["check", "--attack", "holed", "--rounds", "200", "--seed", "1"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("hole I1: start_return ran although lookup_order had not succeeded"), "{out}");
    assert!(out.contains("1. person ") && out.contains("the model calls start_return("), "{out}");
    assert!(out.contains("start_return: {after: lookup_order, same: order_id, within: 15m}"), "{out}");
    assert!(out.ends_with("holed: 1 hole in 200 attacks (again: --rounds 200 --seed 1)\n"), "{out}");
    assert_eq!(desk.attacked("holed").1.len(), 1);
}

#[test]
fn g91_g12_i3_i4_i5_i10_holes_of_a_script_and_of_a_reply_are_named_each_by_its_law() {
    let desk = Desk::new();
    let laws = |name: &str, changes: &[(&str, &str)]| {
        desk.holed(name, changes);
        let (code, holes) = desk.attacked(name);
        assert_eq!(code, Some(1), "{name}");
        holes.iter().map(|hole| hole["law"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = laws("anybody", &[("if order is None or not matches:", "if order is None:")]);
    assert!(found.contains(&"I3".to_owned()), "{found:?}");
    let telling = "if order is None:\n        raise Refused(\"there_is_no_such_order\")\n    if not matches:";
    let found = laws("telling", &[("if order is None or not matches:", telling)]);
    assert_eq!(found, ["I4"]);
    let found = laws("unconfirmed", &[("confirm: [start_return]", "confirm: {never: [start_return]}")]);
    assert_eq!(found, ["I5"]);
    let found = laws("ungrounded", &[("  ids: [\"SH-[0-9]{4}\"]\n", "")]);
    assert_eq!(found, ["I10"]);
}

#[test]
fn g91_what_is_no_chat_agent_or_has_tools_elsewhere_is_refused_in_words() {
    let desk = Desk::new();
    let (code, _, err) = desk.carboy(&["check", "--attack"]);
    assert_eq!(code, Some(2), "{err}");
    let (code, _, err) = desk.carboy(&["check", "--attack", "bookly"]);
    assert!(code != Some(0) && code != Some(1) && err.contains("an application's in Rust"), "{code:?} {err}");
}
