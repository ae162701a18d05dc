//! For a while: routes opened in living runs, listed, and taken back.

use std::fmt::Write as _;
use std::time::Duration;

use carboy_control::clock::SystemClock;
use carboy_control::explain::opens;
use carboy_control::grants::{GRANT_TIME_MAX, GrantAsked};
use carboy_control::registry::{self, Answer, Question};
use carboy_core::ids::{GrantId, RefusalId};
use carboy_core::ports::Clock;

use super::{Wanted, agreed, living};
use crate::args::AllowArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};

fn live(environment: &Environment) -> Result<Vec<Answer>, Failure> {
    registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))
}

/// Opens a route in every living run of the bottle.
pub fn open(wanted: &Wanted, time: Duration, args: &AllowArgs, environment: &Environment) -> Result<u8, Failure> {
    if time.is_zero() || time > GRANT_TIME_MAX {
        let days = GRANT_TIME_MAX.as_secs() / 86_400;
        return Err(Failure::words(Exit::Usage, format!("--for: from 1s to {days}d")).hint("for good: leave it out"));
    }
    let runs = live(environment)?;
    let runs = living(&runs, &wanted.bottle);
    if runs.is_empty() {
        let bottle = printable(&wanted.bottle);
        return Err(Failure::words(Exit::Found, format!("no run of bottle {bottle} lives, and --for is for those"))
            .hint("leave `--for` out to open it for good, in the bottle's file"));
    }
    let how_long = report::duration(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    say!("opens {} for {how_long}", printable(&opens(&wanted.route)));
    if args.dry_run {
        return Ok(0);
    }
    if !agreed(args.yes)? {
        say!("nothing was opened");
        return Ok(Exit::Refused as u8);
    }
    let asked = GrantAsked { route: wanted.route.clone(), seconds: time.as_secs(), refusal: wanted.refusal.clone() };
    for run in runs {
        let question = Question::Grant(Box::new(asked.clone()));
        let (answer, _) = registry::open(&run.record, &question).map_err(|e| Failure::new(Exit::Refused, &e))?;
        let id = answer.grants.last().map_or("-", |grant| grant.id.as_str());
        print(format!("{id}\n").as_bytes())?;
        say!("open in {} as {id}; `carboy allow --revoke {id}` takes it back", run.record.run);
    }
    Ok(0)
}

/// Lists grants that are in force.
pub fn list(of: Option<&str>, json: bool, environment: &Environment) -> Result<u8, Failure> {
    let runs = live(environment)?;
    let chosen: Vec<&Answer> = match of {
        None => runs.iter().collect(),
        Some(of) => living(&runs, of),
    };
    if chosen.is_empty() && of.is_some() {
        let of = printable(of.unwrap_or_default());
        return Err(Failure::words(Exit::Found, format!("no run or bottle `{of}` lives"))
            .hint("`carboy ps` lists those that do"));
    }
    let all: Vec<_> = chosen.iter().flat_map(|run| run.grants.iter().map(|grant| (&run.record, grant))).collect();
    if json {
        let rows: Vec<_> = all
            .iter()
            .map(|(record, grant)| serde_json::json!({"run": record.run, "bottle": record.bottle, "grant": grant}))
            .collect();
        let text = serde_json::to_string(&rows).map_err(|e| Failure::new(Exit::Failed, &e))?;
        return print(format!("{text}\n").as_bytes());
    }
    if all.is_empty() {
        say!("no grant is in force");
        return Ok(0);
    }
    let now = SystemClock.now_ms();
    let heading = format!("{:<9} {:<11} {:<16} {:>10}  {}", "GRANT", "RUN", "BOTTLE", "LEFT", "OPENS");
    let mut out = Palette::stdout().strong(&heading);
    out.push('\n');
    for (record, grant) in all {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<9} {:<11} {:<16} {:>10}  {}",
            grant.id,
            record.run,
            record.bottle,
            report::duration(grant.until_ms.saturating_sub(now)),
            printable(&opens(&grant.route)),
        );
    }
    print(out.as_bytes())
}

/// Takes a grant back, wherever it is in force.
pub fn revoke(id: &str, environment: &Environment) -> Result<u8, Failure> {
    let id = match (GrantId::parse(id), RefusalId::parse(id)) {
        (Ok(grant), _) => grant.to_string(),
        (Err(_), Ok(refusal)) => refusal.to_string(),
        (Err(e), Err(_)) => return Err(Failure::new(Exit::Usage, &e).hint("`carboy allow --list` lists grants")),
    };
    let runs = live(environment)?;
    let holds = |run: &&Answer| run.grants.iter().any(|g| g.id == id || g.refusal.as_deref() == Some(&id));
    let holders: Vec<&Answer> = runs.iter().filter(holds).collect();
    if holders.is_empty() {
        return Err(Failure::words(Exit::Found, format!("no grant {id} is in force"))
            .hint("`carboy allow --list` lists those that are"));
    }
    for run in holders {
        let question = Question::Revoke { id: id.clone() };
        registry::open(&run.record, &question).map_err(|e| Failure::new(Exit::Failed, &e))?;
        say!("{id} is closed in {}", run.record.run);
    }
    Ok(0)
}
