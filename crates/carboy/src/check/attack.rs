//! `carboy check --attack AGENT`: the worst case on one's own chat agent, and each hole with the shortest way to it, the rule
//! that closes it and its line (G91).
//!
//! *Must never* say that there is no hole: it says that none was found in so many attacks. Nor touch the records of an
//! application that people ask.

mod place;

use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::io::{IsTerminal, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use carboy_control::chat::{AttackError, Attacked, Calls, ChatRequest, Hole, Plan, attack as attack_agent};
use carboy_core::chat::ToolSource;
use serde_json::{Value, json};

use crate::applications;
use crate::args::CheckArgs;
use crate::chat::{self, Desk, INTERRUPTED, Named, look_up};
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};
use crate::signals::Heard;

use place::{Place, place_of};

/// The exit code of an attack that found something.
const HOLES: u8 = 1;
/// How often it says how far it is: at a terminal, and elsewhere.
const SAID_EVERY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// Attacks and says.
pub async fn attack(args: &CheckArgs, environment: Environment) -> Result<u8, Failure> {
    let named = Named {
        verb: "check",
        agent: args.agent.as_deref(),
        bottles: &[],
        trust: false,
        budget: &[],
        model: None,
        thresholds: &args.chat,
        audit_log: None,
        desk: Desk::Staged,
    };
    let mut heard = Heard::from_now_on();
    let mut request = look_up(&named, environment)?;
    let dir = Dir::make()?;
    request.workdir = dir.0.clone();
    let name = request.spec.name.to_string();
    let stage = match request.spec.tools.contains(&ToolSource::Application) {
        true => applications::stage(&name, &dir.0.join("records"))?,
        false => None,
    };
    let plan = Plan { rounds: args.rounds, seed: args.seed, stage };
    say!("attacking {name} {} times (seed {}); {}", args.rounds, args.seed, who_is_asked(&request));
    let (file, text) = place::file_of(&request);
    let mut far = Far::new(args.rounds);
    let mut interrupted = false;
    let stop = async {
        heard.ending().await;
        interrupted = true;
    };
    let ended = attack_agent(request, plan, &mut |played, holes| far.say(played, holes), stop).await;
    far.end();
    let attacked = ended.map_err(failure)?;
    let places: Vec<Option<Place>> = attacked.holes.iter().map(|hole| place_of(file.as_deref(), &text, hole)).collect();
    let code = match (interrupted, attacked.holes.is_empty()) {
        (true, _) => INTERRUPTED,
        (false, true) => 0,
        (false, false) => HOLES,
    };
    let out = if args.json {
        format!("{}\n", as_json(&name, args, &attacked, &places))
    } else {
        let text = told(&name, args, &attacked, &places, Palette::stdout());
        report::wrapped(&text, report::columns(std::io::stdout()))
    };
    print(out.as_bytes())?;
    Ok(code)
}

/// What really runs, for whoever would rather not.
fn who_is_asked(request: &ChatRequest) -> &'static str {
    let http = |source: &ToolSource| match source {
        ToolSource::Http { .. } => true,
        ToolSource::BuiltIn(_) | ToolSource::Command { .. } | ToolSource::Script { .. } | ToolSource::Application => {
            false
        }
    };
    if request.spec.tools.contains(&ToolSource::Application) {
        "its own tools run, over records made for this, and no provider is asked"
    } else if request.spec.tools.iter().any(http) {
        "its servers are asked once for the list of their tools, others on this machine stand in for them, and no provider is asked"
    } else {
        "its own tools run, in their bottle, and no provider is asked"
    }
}

/// Where an adversary takes notes, and where an application's records are made; it goes with the attack.
struct Dir(PathBuf);

impl Dir {
    fn make() -> Result<Dir, Failure> {
        let path = std::env::temp_dir().join(format!("carboy-attack-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path).and_then(|()| path.canonicalize());
        made.map(Dir).map_err(|error| {
            Failure::words(Exit::Failed, format!("cannot make {}: {error}", path.display()))
                .hint("remove it if it is there, or set TMPDIR")
        })
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How far it is, on standard error: one line that is written over at a terminal, now and then a line elsewhere.
struct Far {
    rounds: u64,
    terminal: bool,
    last: Instant,
    shown: bool,
}

impl Far {
    fn new(rounds: u64) -> Far {
        Far { rounds, terminal: std::io::stderr().is_terminal(), last: Instant::now(), shown: false }
    }

    fn say(&mut self, played: u64, holes: usize) {
        let every = if self.terminal { SAID_EVERY.0 } else { SAID_EVERY.1 };
        if self.last.elapsed() < every {
            return;
        }
        self.last = Instant::now();
        let holes = if holes == 0 { String::new() } else { format!(", {}", count(holes)) };
        let line = format!("{played} of {} attacks{holes}", self.rounds);
        // Nobody's business where it cannot be read.
        let _ = match self.terminal {
            true => write!(std::io::stderr(), "\r\u{1b}[K{line}"),
            false => writeln!(std::io::stderr(), "{line}"),
        };
        self.shown = self.terminal;
    }

    fn end(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}

fn count(holes: usize) -> String {
    if holes == 1 { "1 hole".to_owned() } else { format!("{holes} holes") }
}

fn as_json(name: &str, args: &CheckArgs, attacked: &Attacked, places: &[Option<Place>]) -> Value {
    let one = |(hole, place): (&Hole, &Option<Place>)| {
        let mut value = json!(hole);
        if let Some(place) = place {
            value["at"] = json!({"file": place.file, "line": place.line});
        }
        value
    };
    let holes: Vec<Value> = attacked.holes.iter().zip(places).map(one).collect();
    let untried: Vec<&str> = untried(attacked).collect();
    json!({"agent": name, "rounds": args.rounds, "played": attacked.played, "seed": args.seed, "holes": holes,
           "calls": attacked.calls, "untried": untried})
}

/// Tools of which nothing was tried, because no call of them succeeded.
fn untried(attacked: &Attacked) -> impl Iterator<Item = &str> {
    attacked.calls.iter().filter(|calls| !calls.was_tried()).map(|calls| calls.tool.as_str())
}

fn told(name: &str, args: &CheckArgs, attacked: &Attacked, places: &[Option<Place>], palette: Palette) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    for (hole, place) in attacked.holes.iter().zip(places) {
        let _ = writeln!(out, "{} {}: {}", palette.bad("hole"), hole.law, printable(&hole.what));
        let _ = writeln!(out, "  the law: {}", hole.says);
        let _ = writeln!(out, "  the shortest way there:");
        for (number, step) in (1..).zip(&hole.steps) {
            let _ = writeln!(out, "    {number}. {}", printable(step));
        }
        let at = place.as_ref().map_or_else(String::new, |place| format!(" ({place})"));
        let _ = writeln!(out, "  what closes it{at}:");
        for line in hole.rule.lines() {
            let _ = writeln!(out, "    {}", printable(line));
        }
    }
    for Calls { tool, succeeded, refused, failed } in &attacked.calls {
        let tool = printable(tool);
        let _ =
            writeln!(out, "calls of {tool}: {succeeded} succeeded, {refused} were answered with no, {failed} failed");
    }
    for tool in untried(attacked) {
        let why = "nothing about it was tried; mend it, or give it records that it finds something in";
        let _ = writeln!(out, "{}", palette.warn(&format!("no call of {} succeeded: {why}", printable(tool))));
    }
    let verdict = match (attacked.holes.len(), untried(attacked).next()) {
        (0, None) => palette.good("no hole was found"),
        (0, Some(_)) => palette.warn("no hole was found in what worked"),
        (found, _) => palette.bad(&count(found)),
    };
    let (played, rounds, seed) = (attacked.played, args.rounds, args.seed);
    let early = if played < rounds { format!(", stopped before the {rounds} were played") } else { String::new() };
    let _ = writeln!(out, "{name}: {verdict} in {played} attacks{early} (again: --rounds {rounds} --seed {seed})");
    out
}

fn failure(error: AttackError) -> Failure {
    match error {
        AttackError::Host(error) => chat::failure(error),
        AttackError::World(error) => Failure::new(Exit::Config, &error),
        error @ (AttackError::NoList { .. } | AttackError::Loopback(_)) => Failure::new(Exit::Failed, &error),
        error @ AttackError::NoStage => Failure::new(Exit::Usage, &error),
    }
}
