//! The dashboard at a real terminal (tmux's), over runs that spend.

use std::process::Command;
use std::time::Duration;

use carboy_core::audit::Entry;
use serde_json::Value;

use crate::runs::{Live, carboy, living, stdout, within};
use crate::stopping::ASKS;
use crate::terminal::Screen;
use crate::world::{Person, STANDARD_ROUTES, World};
use crate::{Case, case, case_with};

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(20);

pub fn cases() -> Vec<Case> {
    vec![
        case_with(
            "C11 C17 in the dashboard figures move, a run is cut off and resumed, and the terminal is as it was",
            &["tmux", "/usr/bin/python3"],
            live,
        ),
        case_with(
            "C10 C11 C17 in the dashboard a run is paused, frozen, started again and killed, and a budget is set",
            &["tmux", "/usr/bin/python3"],
            every_key,
        ),
        case_with("C17 top ends when its terminal is gone, though no signal says so", &["/usr/bin/python3"], hung_up),
        case("C17 top without a terminal prints a frame, a snapshot or a line, and starts no controller", printed),
    ]
}

fn states(world: &World) -> Vec<String> {
    let mut states: Vec<String> =
        living(world).iter().map(|run| run["state"].as_str().unwrap_or_default().to_owned()).collect();
    states.sort();
    states
}

/// The row of the host on the screen.
fn host(text: &str) -> String {
    text.lines().find(|line| line.starts_with("host ")).unwrap_or_default().to_owned()
}

fn live(person: Person) {
    let world = World::new(person);
    world.write("project/asks.py", ASKS);
    world.bottle(&format!("{STANDARD_ROUTES}budget: {{claude: 5M}}\n"));
    let runs = [0, 1].map(|_| Live::start(&world, "test", "exec python3 asks.py"));
    let ids: Vec<String> = living(&world).iter().map(|run| run["record"]["run"].as_str().unwrap().to_owned()).collect();
    let screen = Screen::open(&world, &["top"]);
    for id in &ids {
        screen.see(id);
    }
    let before = host(&screen.see_where("the host's row", |text| !host(text).is_empty()));
    screen.see_where("figures that move", |text| !host(text).is_empty() && host(text) != before);
    // The first run is selected from the beginning.
    screen.key("c");
    screen.see("of bottle test? [y/N]");
    assert_eq!(states(&world), ["running", "running"]);
    screen.key("n");
    screen.see("nothing was done");
    screen.key("c");
    screen.see("of bottle test? [y/N]");
    screen.key("y");
    screen.see("lets it go on");
    assert_eq!(states(&world), ["cut off", "running"]);
    screen.see("1 cut off");
    screen.key("r");
    screen.see("of bottle test? [y/N]");
    screen.key("y");
    screen.see("goes on (running)");
    within(HAPPEN_WAIT_MAX, "both run", || (states(&world) == ["running", "running"]).then_some(()));
    // A top-up goes where one by hand goes.
    screen.key("Home");
    screen.key("Down");
    screen.key("t");
    screen.see("top up bottle:test by: anthropic=_");
    screen.line("100k");
    screen.see("100k tokens more for bottle:test and anthropic");
    for (columns, rows) in [("20", "5"), ("120", "40"), ("80", "24")] {
        screen.tmux(&["resize-window", "-x", columns, "-y", rows]);
    }
    screen.see("? help  q quit  c cut");
    screen.key("q");
    screen.line("stty -a; echo shown $((20+3))");
    let text = screen.see("\nshown 23\n");
    assert!(text.contains("over with 0") && text.contains(" icanon") && text.contains(" echo "), "{text}");
    let flags = screen.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"]);
    assert_eq!(flags, "0 1 0\n");
    world.write("project/over", "");
    for run in runs {
        assert_eq!(run.end(), Some(0));
    }
    let done = |entry: &Entry| {
        let action = entry.text("action").filter(|action| ["cutoff", "resume"].contains(action))?;
        Some(format!("{action} {}", entry.detail("by").and_then(Value::as_str).unwrap_or("-")))
    };
    let done: Vec<String> = world.log().iter().filter_map(done).collect();
    assert_eq!(done, ["cutoff operator", "resume operator"]);
}

/// Presses a key on what is selected, and agrees.
fn press(screen: &Screen<'_>, key: &str, asked: &str, done: &str) {
    screen.key(key);
    screen.see(&format!("{asked}? [y/N]"));
    screen.key("y");
    screen.see(done);
}

fn every_key(person: Person) {
    let world = World::new(person);
    world.write("project/asks.py", ASKS);
    world.bottle(&format!("{STANDARD_ROUTES}budget: {{claude: 5M}}\n"));
    let live = Live::start(&world, "test", "exec python3 asks.py");
    let id = living(&world)[0]["record"]["run"].as_str().unwrap().to_owned();
    let now = |state: &str| within(HAPPEN_WAIT_MAX, state, || (states(&world) == [state]).then_some(()));
    let screen = Screen::open(&world, &["top"]);
    screen.see(&id);
    press(&screen, "p", &format!("pause {id} of bottle test"), "lets it go on");
    now("paused");
    screen.see("1 paused");
    press(&screen, "r", &format!("resume {id} of bottle test"), "goes on (running)");
    now("running");
    // A budget of the whole machine: what is set binds at once, and takes the run out of its way.
    screen.key("Home");
    screen.key("b");
    screen.see("set the budget of host to: _");
    screen.line("claude=900M");
    screen.see("the budget of host for anthropic is 900M tokens");
    let shown = stdout(&carboy(&world, &["budget", "show"]));
    assert!(shown.contains("900M"), "{shown}");
    screen.key("End");
    press(&screen, "f", &format!("freeze {id} of bottle test"), "is frozen");
    now("frozen");
    assert_eq!(live.end(), Some(75));
    // Started again it is where the person is, after the dashboard has made room.
    screen.see("1 frozen");
    screen.key("r");
    screen.see(&format!("resume {id}"));
    screen.key("y");
    now("running");
    let before = std::fs::read_to_string(world.project.join("said")).unwrap();
    within(HAPPEN_WAIT_MAX, "it asks again", || {
        (std::fs::read_to_string(world.project.join("said")).unwrap() != before).then_some(())
    });
    let other = Screen::open(&world, &["top"]);
    other.see(&id);
    press(&other, "K", &format!("kill {id} of bottle test"), &id);
    within(HAPPEN_WAIT_MAX, "it is gone", || living(&world).is_empty().then_some(()));
    let done = |entry: &Entry| {
        let action = entry.text("action").filter(|a| ["pause", "resume", "freeze", "kill", "set_cap"].contains(a))?;
        Some(action.to_owned())
    };
    let done: Vec<String> = world.log().iter().filter_map(done).collect();
    assert_eq!(done, ["pause", "resume", "set_cap", "freeze", "kill"]);
}

/// A terminal that is nobody's controlling terminal, so that no signal tells of its end: what is left to notice is the
/// terminal itself. Prints how the program ended once it was gone.
const HANGS_UP: &str = r#"
import fcntl, os, pty, struct, subprocess, sys, termios
outer, inner = pty.openpty()
fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
top = subprocess.Popen(sys.argv[1:], stdin=inner, stdout=inner, stderr=inner)
os.close(inner)
shown = b""
while b"carboy top" not in shown:
    part = os.read(outer, 4096)
    if b"\x1b[6n" in part:
        os.write(outer, b"\x1b[1;1R")  # where the cursor is
    shown += part
assert top.poll() is None, "it stays while there is a terminal"
os.close(outer)
print(top.wait(20))
"#;

fn hung_up(person: Person) {
    let world = World::new(person);
    let top = world.carboy(&["top"]);
    let mut hangs_up = Command::new("/usr/bin/python3");
    hangs_up.args(["-c", HANGS_UP]).arg(top.get_program()).args(top.get_args()).current_dir(&world.project);
    hangs_up.env_clear().env("TERM", "xterm");
    top.get_envs().for_each(|(name, value)| {
        hangs_up.env(name, value.unwrap());
    });
    let ended = hangs_up.output().unwrap();
    assert_eq!(stdout(&ended), "70\n", "{ended:?}");
}

fn printed(person: Person) {
    let world = World::new(person);
    let frame = carboy(&world, &["top", "--once"]);
    assert!(frame.status.success() && stdout(&frame).contains("Nothing runs."), "{frame:?}");
    let snapshot: Value = serde_json::from_slice(&carboy(&world, &["top", "--json"]).stdout).unwrap();
    assert_eq!(snapshot["controller"]["state"], "absent");
    assert_eq!(stdout(&carboy(&world, &["top", "--line"])), "0 runs | 0 spent | no controller\n");
    let none = carboy(&world, &["top"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
}
