//! The dashboard at a real terminal (tmux's), over runs that spend.

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
