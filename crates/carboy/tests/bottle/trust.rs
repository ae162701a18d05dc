//! An agent's file of a repository: shown and asked about before its first run, and after every change.

use serde_json::Value;

use crate::terminal::Screen;
use crate::world::{Person, World};
use crate::{Case, case, case_with};

const AGENT: &str =
    "---\nbottle: test\ngit-gate: {user: {name: Repo, email: r@example.org}}\n---\nDo as the file says.\n";

pub fn cases() -> Vec<Case> {
    vec![
        case("M39 without a terminal a repository's agent is refused unless --trust", without_terminal),
        case_with("M39 at a terminal the bottle and its routes are shown, and only a yes runs", &["tmux"], at_terminal),
        case("M39 a repository's files widen nothing, whatever they say", widens_nothing),
        case("M26 M30 a bottle that extends another, and two at once, run as one", chains_run),
    ]
}

/// Exit code, standard output and standard error of `carboy ARGUMENTS…`.
fn carboy(world: &World, arguments: &[&str]) -> (i32, String, String) {
    let output = world.carboy(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn without_terminal(person: Person) {
    let world = World::new(person);
    world.write("project/.carboy/agents/fixer.md", AGENT);
    let run = ["run", "fixer", "-q", "--", "echo", "ran"];
    let (code, stdout, stderr) = carboy(&world, &run);
    assert_eq!((code, stdout.as_str()), (77, ""), "{stderr}");
    for part in
        ["project/.carboy/agents/fixer.md", "bottle     test", "notes.example", "Do as the file says.", "`--trust`"]
    {
        assert!(stderr.contains(part), "{part} is not in {stderr}");
    }
    assert!(!world.dir.join("home/trust.json").exists());
    // A bottle of the command line does not make the prompt another's.
    assert_eq!(carboy(&world, &["run", "fixer", "-q", "--bottle", "test", "--", "echo", "ran"]).0, 77);
    let (code, stdout, stderr) = carboy(&world, &["run", "fixer", "-q", "--trust", "--", "echo", "ran"]);
    assert_eq!((code, stdout.as_str()), (0, "ran\n"), "{stderr}");
    // From now on it is known, until a byte of it changes.
    let (code, stdout, stderr) = carboy(&world, &run);
    assert_eq!((code, stdout.as_str()), (0, "ran\n"), "{stderr}");
    assert!(!stderr.contains("sha256"), "{stderr}");
    world.write("project/.carboy/agents/fixer.md", &AGENT.replace("Do as", "Do what"));
    assert_eq!(carboy(&world, &run).0, 77);
    assert_eq!(carboy(&world, &["run", "fixer", "-q", "--trust", "--", "true"]).0, 0);
    let list: Value = serde_json::from_slice(&std::fs::read(world.dir.join("home/trust.json")).unwrap()).unwrap();
    assert_eq!(list["trusted"].as_array().unwrap().len(), 1, "one content per path: {list}");
}

fn at_terminal(person: Person) {
    let run = ["run", "fixer", "-q", "--", "echo", "it ran"];
    let unwilling = World::new(person);
    unwilling.write("project/.carboy/agents/fixer.md", AGENT);
    let screen = Screen::open(&unwilling, &run);
    let text = screen.see("Run it? [y/N]");
    assert!(text.contains("bottle     test") && text.contains("notes.example"), "{text}");
    screen.line("");
    screen.see("over with 77");
    assert!(!unwilling.dir.join("home/trust.json").exists());
    let willing = World::new(person);
    willing.write("project/.carboy/agents/fixer.md", AGENT);
    let screen = Screen::open(&willing, &run);
    screen.see("Run it? [y/N]");
    screen.line("y");
    let text = screen.see("over with 0");
    assert!(text.contains("it ran"), "{text}");
    let (code, stdout, stderr) = carboy(&willing, &run);
    assert_eq!((code, stdout.as_str()), (0, "it ran\n"), "{stderr}");
}

fn widens_nothing(person: Person) {
    let world = World::new(person);
    world.write("project/.carboy/bottles/test.md", "---\negress: {routes: [{host: evil.example}]}\n---\n");
    world.write("project/.carboy/bottles/wide.md", "---\negress: {routes: [{host: evil.example}]}\n---\n");
    world.write("project/.carboy/settings.yml", "capture: allow-t2\n");
    world.write("project/.carboy/trust.json", "{\"version\": 1, \"trusted\": []}");
    for (agent, code) in [
        ("---\nbottle: wide\n---\n", 78),
        ("---\nbottle: test\negress: {routes: [{host: evil.example}]}\n---\n", 78),
        ("---\nbottle: test\nextends: wide\n---\n", 78),
        ("---\nbottle: test\nbinds: {/etc: ro}\n---\n", 78),
    ] {
        world.write("project/.carboy/agents/fixer.md", agent);
        let (found, _, stderr) = carboy(&world, &["run", "fixer", "-q", "--trust", "--", "true"]);
        assert_eq!(found, code, "{agent}: {stderr}");
        assert!(stderr.contains("are ignored"), "{stderr}");
    }
}

fn chains_run(person: Person) {
    let world = World::new(person);
    world.write("home/bottles/base.md", "---\nenv: {A: base, B: base}\n---\n");
    world.write("home/bottles/dev.md", "---\nextends: base\nenv: {B: dev}\n---\n");
    world.write("home/bottles/more.md", "---\nenv: {C: more}\n---\n");
    let script = "echo $A $B $C";
    let (code, stdout, stderr) = carboy(&world, &["run", "-q", "--bottle", "dev", "--", "sh", "-c", script]);
    assert_eq!((code, stdout.as_str()), (0, "base dev\n"), "{stderr}");
    let both = ["run", "-q", "--bottle", "dev", "--bottle", "more", "--", "sh", "-c", script];
    let (code, stdout, stderr) = carboy(&world, &both);
    assert_eq!((code, stdout.as_str()), (0, "base dev more\n"), "{stderr}");
    assert!(world.dir.join("home/state/dev--more").is_dir() && !world.dir.join("home/state/more").exists());
    // `allow` looks at the whole chain and changes the one file.
    let (code, _, stderr) = carboy(&world, &["allow", "new.example", "--bottle", "dev", "--yes"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(std::fs::read_to_string(world.dir.join("home/bottles/dev.md")).unwrap().contains("new.example"));
}
