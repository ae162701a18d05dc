//! `carboy check --attack AGENT`: the worst case on one's own chat agent, and each hole with the shortest way to it and the rule
//! that closes it (G91).
//!
//! *Must never* say that there is no hole: it says that none was found in so many attacks.

use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use carboy_control::chat::{AttackError, Hole, attack as attack_agent};
use serde_json::json;

use crate::args::CheckArgs;
use crate::chat::{self, Named, look_up};
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};

/// The exit code of an attack that found something.
const HOLES: u8 = 1;

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
    };
    let mut request = look_up(&named, environment)?;
    let place = Place::make()?;
    request.workdir = place.0.clone();
    let name = request.spec.name.to_string();
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        now % 1_000_000
    });
    say!("attacking {name} {} times; its own tools run, in their bottle, and no provider is asked", args.rounds);
    let holes = attack_agent(request, args.rounds, seed).await.map_err(failure)?;
    let code = if holes.is_empty() { 0 } else { HOLES };
    if args.json {
        let whole = json!({"agent": name, "rounds": args.rounds, "seed": seed, "holes": holes});
        print(format!("{whole}\n").as_bytes())?;
        return Ok(code);
    }
    let text = told(&name, args.rounds, seed, &holes, Palette::stdout());
    print(report::wrapped(&text, report::columns(std::io::stdout())).as_bytes())?;
    Ok(code)
}

/// Where an adversary takes notes; it goes with the attack.
struct Place(PathBuf);

impl Place {
    fn make() -> Result<Place, Failure> {
        let path = std::env::temp_dir().join(format!("carboy-attack-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path).and_then(|()| path.canonicalize());
        made.map(Place).map_err(|error| {
            Failure::words(Exit::Failed, format!("cannot make {}: {error}", path.display()))
                .hint("remove it if it is there, or set TMPDIR")
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn told(name: &str, rounds: u64, seed: u64, holes: &[Hole], palette: Palette) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    for hole in holes {
        let _ = writeln!(out, "{} {}: {}", palette.bad("hole"), hole.law, printable(&hole.what));
        let _ = writeln!(out, "  the law: {}", hole.says);
        let _ = writeln!(out, "  the shortest way there:");
        for (number, step) in (1..).zip(&hole.steps) {
            let _ = writeln!(out, "    {number}. {}", printable(step));
        }
        let _ = writeln!(out, "  what closes it:");
        for line in hole.rule.lines() {
            let _ = writeln!(out, "    {}", printable(line));
        }
    }
    let verdict = match holes.len() {
        0 => palette.good("no hole was found"),
        1 => palette.bad("1 hole"),
        count => palette.bad(&format!("{count} holes")),
    };
    let _ = writeln!(out, "{name}: {verdict} in {rounds} attacks (again: --rounds {rounds} --seed {seed})");
    out
}

fn failure(error: AttackError) -> Failure {
    match error {
        AttackError::Host(error) => chat::failure(error),
        AttackError::World(error) => Failure::new(Exit::Config, &error),
        error @ (AttackError::ElsewhereTools(_) | AttackError::ApplicationTools) => Failure::new(Exit::Usage, &error),
    }
}
