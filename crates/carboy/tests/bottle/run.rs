//! Running things: exit codes, streams, files, the environment, and what is left behind.

use crate::world::{CANARY, Person, REAL_KEY, World};
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("the program's exit code and streams come through", exit_codes_and_streams),
        case("the environment inside holds fakes and nothing of the host", environment),
        case("the workspace is writable and what is written belongs to the person", workspace),
    ]
}

fn exit_codes_and_streams(person: Person) {
    let world = World::new(person);
    let ran = world.sh("echo out; echo err >&2; exit 7").expect_code(7);
    assert_eq!(ran.stdout, "out\n");
    assert!(ran.stderr.contains("err\n"), "{}", ran.stderr);
    assert_eq!(world.sh("kill -TERM $$").code, 143);
    assert_eq!(world.run(&["/nonexistent/program"]).code, 127);
}

fn environment(person: Person) {
    let world = World::new(person);
    let ran = world.run(&["env"]).expect_code(0);
    assert!(ran.stdout.contains("ANTHROPIC_API_KEY=carboy-placeholder-anthropic-api-key\n"), "{}", ran.stdout);
    assert!(!ran.stdout.contains(REAL_KEY) && !ran.stdout.contains(CANARY) && !ran.stdout.contains("HOST_CANARY"));
}

fn workspace(person: Person) {
    use std::os::unix::fs::MetadataExt;
    let world = World::new(person);
    world.write("project/given.txt", "given");
    let script = "test \"$(cat given.txt)\" = given && echo made > made.txt && id -u && pwd";
    let ran = world.sh(script).expect_code(0);
    assert_eq!(ran.stdout, format!("1000\n{}\n", world.project.display()));
    let made = std::fs::metadata(world.project.join("made.txt")).unwrap();
    let owner = std::fs::metadata(&world.project).unwrap().uid();
    assert_eq!(made.uid(), owner);
}
