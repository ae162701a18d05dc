//! `carboy logs`: what a run asked for, as it asks, and what its program printed.
//!
//! *Must never* let a program's output act on the person's terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use carboy_control::log::{self, Query};
use carboy_control::registry::{self, RunRecord};
use carboy_control::session::{escapes, kept};
use carboy_core::audit::Entry;
use carboy_core::ids::{BottleName, RunId};
use carboy_core::verdict::Reason;

use crate::args::LogsArgs;
use crate::audit::failed;
use crate::chat::why_tools_failed;
use crate::environment::Environment;
use crate::report::{Exit, Failure, printable};
use crate::{print, watching};

/// Until a follower looks again.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// Shows what a run did.
pub fn logs(args: &LogsArgs, environment: &Environment) -> Result<u8, Failure> {
    if args.output {
        return output(args.target.as_deref(), environment);
    }
    let path = environment.home.audit_log();
    if args.follow {
        return follow(args, environment);
    }
    let query = match &args.target {
        Some(target) if target.starts_with("r-") => Query { run: Some(target.clone()), ..Query::default() },
        Some(target) => Query { bottle: Some(target.clone()), ..Query::default() },
        None => {
            let starts = Query { event_type: Some("run".into()), limit: Some(1), ..Query::default() };
            let last = log::query(&path, &starts).map_err(failed)?.entries.pop();
            let run = last.and_then(|entry| entry.text("run").map(str::to_owned));
            Query {
                run: Some(run.ok_or_else(|| Failure::words(Exit::Found, "no run is in the log yet"))?),
                ..Query::default()
            }
        }
    };
    let mut answer = log::query(&path, &query).map_err(failed)?;
    if answer.entries.is_empty() && query.bottle.is_some() {
        answer = log::query(&path, &Query { agent: query.bottle, ..Query::default() }).map_err(failed)?;
    }
    if answer.entries.is_empty() {
        return Err(watching::none_known(args.target.as_deref().unwrap_or_default(), environment));
    }
    if args.refused {
        answer.entries.retain(is_refusal);
        if answer.entries.is_empty() {
            say!("nothing was refused");
        }
    }
    let code = crate::audit::show(&answer.entries, args.json)?;
    say_why_tools_failed(&answer.entries, environment);
    Ok(code)
}

/// Where it stands why a chat agent's tool failed: the log itself says only that it did.
fn say_why_tools_failed(entries: &[Entry], environment: &Environment) {
    let Some(failed) = entries.iter().rfind(|entry| entry.text("action") == Some("tool_error")) else { return };
    let file = failed.text("bottle").zip(failed.text("agent"));
    match file.and_then(|(bottle, agent)| why_tools_failed(&environment.home, bottle, agent)) {
        Some(file) => say!("why tools failed in a terminal: {}", printable(&file.display().to_string())),
        None => say!("why tools failed: the lines `tool_failed` on the standard error of `carboy serve`"),
    }
}

/// Does it go out as `--refused` shows it? What carboy could not get was refused by nobody.
fn is_refusal(entry: &Entry) -> bool {
    let reason = entry.detail("reason").and_then(|reason| reason.as_str()).and_then(Reason::from_code);
    !matches!(entry.text("result"), Some("allowed" | "done")) && !reason.is_some_and(Reason::is_failure)
}

/// The run of this name, or the latest of the bottle or the agent of this name, or the latest of all: live or ended. Of a
/// chat agent and its tools it is the agent.
fn run_of(target: Option<&str>, environment: &Environment) -> Result<(BottleName, RunId), Failure> {
    let live = registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
    let past = carboy_control::runs::past(&environment.home).into_iter().map(|past| past.record);
    let all: Vec<RunRecord> = past.chain(live.into_iter().map(|live| live.record)).collect();
    let found = target.map_or_else(|| all.iter().collect(), |target| watching::named(&all, target, |record| record));
    let latest = found.into_iter().max_by_key(|record| (record.tools_of.is_none(), record.started_ms));
    let names =
        latest.and_then(|record| Some((BottleName::parse(&record.bottle).ok()?, RunId::parse(&record.run).ok()?)));
    names.ok_or_else(|| match target {
        Some(target) => watching::none_known(target, environment),
        None => Failure::words(Exit::Found, "no run is known yet").hint("`carboy ps -a` lists those that are"),
    })
}

/// What the program printed. A terminal gets text alone; a pipe gets the bytes.
fn output(target: Option<&str>, environment: &Environment) -> Result<u8, Failure> {
    let (bottle, run) = run_of(target, environment)?;
    let bytes = kept::read(&environment.home.run_dir(&bottle, &run)).map_err(|e| {
        let why = Failure::words(Exit::Found, format!("nothing that run {run} printed is kept: {e}"));
        why.hint("output is kept of runs at a terminal and of detached ones, unless `--no-output` was given")
    })?;
    if std::io::stdout().is_terminal() { print(escapes::plain(&bytes).as_bytes()) } else { print(&bytes) }
}

/// Shows what comes until the run ends.
fn follow(args: &LogsArgs, environment: &Environment) -> Result<u8, Failure> {
    let (_, run) = run_of(args.target.as_deref(), environment)?;
    let lives = || environment.home.run_record(&run).exists();
    // From here on; what was there before is read first, and told apart by its number.
    let path = environment.home.audit_log();
    let mut coming = log::follow(&path, 0).map_err(failed)?;
    let query = Query { run: Some(run.to_string()), ..Query::default() };
    let mut seen = 0;
    let mut shown = |entries: Vec<Entry>| {
        let fresh = entries.into_iter().filter(|entry| {
            let seq = entry.seq().unwrap_or(0);
            let is_new = seq > seen && entry.text("run") == Some(run.as_str());
            seen = seen.max(seq);
            is_new && (!args.refused || is_refusal(entry))
        });
        crate::audit::show(&fresh.collect::<Vec<_>>(), args.json)
    };
    shown(log::query(&path, &query).map_err(failed)?.entries)?;
    loop {
        // Asked before the last look: what is written before the end is seen after it.
        let goes_on = lives();
        shown(coming.poll().map_err(failed)?)?;
        if !goes_on {
            return Ok(0);
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}
