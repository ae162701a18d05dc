//! `carboy uninstall` after real runs: what bottles left is gone, what people wrote is not, and nothing else is touched.

use std::fs;

use crate::world::{Person, World};
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("uninstall removes what a hostile bottle left, and nothing outside of the home", hostile),
        case("uninstall refuses while a run lives, and without an answer", refuses),
    ]
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn hostile(person: Person) {
    let world = World::new(person);
    world.write("project/mine", "x");
    let script = "cd ~ && ln -s \"$OLDPWD\" work && ln -s /etc etc && mkdir -p shut/inner && touch shut/inner/f && \
                  mkfifo pipe && i=0; while [ $i -lt 100 ]; do mkdir dddddddddddddddd && cd dddddddddddddddd || exit 1; \
                  i=$((i + 1)); done; cd; chmod 0 shut/inner shut";
    world.sh(script).expect_code(0);
    let completions = world.carboy(&["completions", "bash"]).output().unwrap().stdout;
    let place = "user/.local/share/bash-completion/completions/carboy";
    world.write(place, std::str::from_utf8(&completions).unwrap());

    let shown = world.carboy(&["uninstall", "--dry-run", "--json"]).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let ledgers = |item: &&serde_json::Value| {
        let path = item["path"].as_str().unwrap();
        path.contains("/carboy.db") || path.contains("/controller.log")
    };
    let goes = shown["goes"].as_array().unwrap();
    assert_eq!(goes.iter().filter(|item| !ledgers(item)).count(), 5, "{shown}");
    assert!(goes.iter().filter(ledgers).count() >= 3, "{shown}");
    assert_eq!(shown["unknown"].as_array().unwrap().len(), 1, "{shown}");
    assert!(world.dir.join("home/state").exists() && world.dir.join(place).exists());

    let done = world.carboy(&["uninstall", "--yes", "--keep-log"]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(names(&world.dir.join("home")), ["agents", "audit", "bottles", "provider.pem", "settings.yml"]);
    assert!(!world.dir.join(place).exists());
    assert!(world.dir.join("project/mine").exists() && std::path::Path::new("/etc/passwd").exists());

    let done = world.carboy(&["uninstall", "--yes", "--all"]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    // Not carboy's: the test put it there.
    assert_eq!(names(&world.dir.join("home")), ["provider.pem"]);
}

fn refuses(person: Person) {
    let world = World::new(person);
    let agent = world.agent();
    let deadline = std::time::Instant::now() + crate::world::RUN_WAIT_MAX;
    // The record stands when the run has begun.
    let begun = || {
        let home = names(&world.dir.join("home"));
        home.contains(&"run".to_owned())
            && names(&world.dir.join("home/run")).iter().any(|name| name.ends_with(".json"))
    };
    while !begun() {
        assert!(std::time::Instant::now() < deadline, "the run does not begin");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let refused = world.carboy(&["uninstall", "--yes"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(77) && said.contains("carboy stop --all"), "{refused:?}");
    agent.finish();
    // Nothing lives any more; there is still nobody to ask.
    let refused = world.carboy(&["uninstall"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--yes"), "{refused:?}");
    assert!(world.dir.join("home/ca/ca.key").exists());
}
