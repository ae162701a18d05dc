//! A night with the real programs from a clean account: `init`, `run -d`, the terminal closed, `logs`, `attach`, a prompt
//! and its answer, the program left by its own command, the summary.

use std::fs;

use carboy_sim::{Reply, Script};
use serde_json::Value;

use crate::clients::client;
use crate::terminal::Screen;
use crate::world::{Person, REAL_KEY, REAL_OPENAI_KEY, World};
use crate::{Case, case_with};

pub fn cases() -> Vec<Case> {
    let claude: &'static str = client("bin/claude").leak();
    let codex: &'static str = client("bin/codex").leak();
    vec![
        case_with("E9 E11 a night with claude from a clean account", vec!["tmux", claude].leak(), claude_night),
        case_with("E9 E11 a night with codex from a clean account", vec!["tmux", "node", codex].leak(), codex_night),
    ]
}

/// One agent and what is known of it from its own screens.
struct Agent {
    name: &'static str,
    /// Its prompt stands there.
    ready: &'static str,
    /// Its own command to leave it.
    leave: &'static str,
    credential: (&'static str, String),
}

fn claude_night(person: Person) {
    let credential = ("x-api-key", REAL_KEY.to_owned());
    night(person, &Agent { name: "claude", ready: "bypass permissions on", leave: "/exit", credential });
}

fn codex_night(person: Person) {
    let credential = ("authorization", format!("Bearer {REAL_OPENAI_KEY}"));
    night(person, &Agent { name: "codex", ready: "Ask Codex to do anything", leave: "/quit", credential });
}

/// An account without a bottle, an agent file or a setting but where the provider of this test is; the program stands
/// where people install theirs.
fn clean_account(person: Person, agent: &Agent) -> World {
    let script = Script::default().on("greet", Reply::text("Simulated good evening."));
    let world = World::configured(person, |config| config.script = script);
    for dir in ["home/bottles", "home/agents"] {
        fs::remove_dir_all(world.dir.join(dir)).unwrap();
        fs::create_dir(world.dir.join(dir)).unwrap();
    }
    let own = world.dir.join("user/.local/bin");
    fs::create_dir_all(&own).unwrap();
    std::os::unix::fs::symlink(client(&format!("bin/{}", agent.name)), own.join(agent.name)).unwrap();
    world.write("project/README.md", "# A project\n");
    world
}

fn night(person: Person, agent: &Agent) {
    let world = clean_account(person, agent);
    let screen = Screen::open(&world, &["init", agent.name, "--login", "api-key", "--yes"]);
    let text = screen.see("over with");
    assert!(text.contains("Next:") && text.contains("over with 0"), "{text}");
    drop(screen);

    let screen = Screen::open(&world, &["run", "-d", agent.name]);
    let text = screen.see("over with");
    let run = text.split_whitespace().find(|word| word.starts_with("r-")).expect("the run's id is shown").to_owned();
    // The terminal is closed, and everything in it is gone.
    screen.tmux(&["kill-server"]);
    drop(screen);

    let logs = world.carboy(&["logs", &run]).output().unwrap();
    assert!(String::from_utf8_lossy(&logs.stdout).contains("start"), "{logs:?}");
    let screen = Screen::open(&world, &["attach", &run]);
    screen.see(agent.ready);
    screen.tmux(&["send-keys", "-l", "please greet me"]);
    screen.see("please greet me");
    screen.key("Enter");
    screen.see("Simulated good evening.");
    screen.tmux(&["send-keys", "-l", agent.leave]);
    screen.see(agent.leave);
    screen.key("Enter");
    let text = screen.see("over with");
    assert!(text.contains("over with 0"), "{text}");
    drop(screen);

    let ended = world.carboy(&["wait", &run, "--json"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let kept = world.dir.join(format!("home/state/{}/runs/{run}/summary.json", agent.name));
    let summary: Value = serde_json::from_slice(&fs::read(kept).unwrap()).unwrap();
    assert!(summary["requests"].as_u64().unwrap() >= 1, "{summary}");
    let asked = world.provider.received();
    let asked: Vec<_> = asked.iter().filter(|request| request.contains(b"please greet me")).collect();
    assert!(!asked.is_empty(), "the prompt did not arrive");
    let (name, value) = &agent.credential;
    assert!(asked.iter().all(|request| request.header(name) == Some(value.as_str())), "{asked:?}");
    world.assert_nothing_escaped();
}
