//! `carboy ps`, `logs` and `stop`: runs that live, and what they did.

use std::fmt::Write as _;

use carboy_control::log::{self, Query};
use carboy_control::registry::{self, Answer, Question};
use carboy_control::supervisor::STOP_GRACE;
use carboy_core::ports::Clock;

use crate::args::{JsonFlag, LogsArgs, StopArgs};
use crate::audit::failed;
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};

fn live(environment: &Environment) -> Result<Vec<Answer>, Failure> {
    registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))
}

/// Lists runs that live.
pub fn ps(args: &JsonFlag, environment: &Environment) -> Result<u8, Failure> {
    let runs = live(environment)?;
    if args.json {
        let text = serde_json::to_string(&runs).map_err(|e| Failure::new(Exit::Failed, &e))?;
        return print(format!("{text}\n").as_bytes());
    }
    if runs.is_empty() {
        eprintln!("nothing runs");
        return Ok(0);
    }
    let now = carboy_control::clock::SystemClock.now_ms();
    let palette = Palette::stdout();
    let mut out = palette.strong(&format!(
        "{:<11} {:<16} {:<9} {:>9} {:>9} {:>8} {:>10} {:>10}  {}",
        "RUN", "BOTTLE", "STATE", "UP", "REQUESTS", "REFUSED", "OUT", "IN", "COMMAND"
    ));
    out.push('\n');
    for run in &runs {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<11} {:<16} {:<9} {:>9} {:>9} {:>8} {:>10} {:>10}  {}",
            run.record.run,
            run.record.bottle,
            run.state,
            report::duration(now.saturating_sub(run.record.started_ms)),
            run.requests,
            run.refusals,
            report::bytes(run.bytes_out),
            report::bytes(run.bytes_in),
            printable(&run.record.command.join(" ")),
        );
    }
    print(out.as_bytes())
}

/// Shows what a run asked for.
pub fn logs(args: &LogsArgs, environment: &Environment) -> Result<u8, Failure> {
    let path = environment.home.audit_log();
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
    if answer.entries.is_empty() {
        let target = args.target.as_deref().unwrap_or_default();
        return Err(Failure::words(Exit::Found, format!("the log has nothing of `{target}`"))
            .hint("`carboy ps` lists runs that live, `carboy audit query --type run` all of them"));
    }
    if args.refused {
        answer.entries.retain(|entry| !matches!(entry.text("result"), Some("allowed" | "done")));
        if answer.entries.is_empty() {
            eprintln!("nothing was refused");
        }
    }
    crate::audit::show(&answer.entries, args.json)
}

/// Ends runs.
pub fn stop(args: &StopArgs, environment: &Environment) -> Result<u8, Failure> {
    let fits = |run: &Answer| match &args.target {
        Some(target) => *target == run.record.run || *target == run.record.bottle,
        None => true,
    };
    let runs: Vec<Answer> = live(environment)?.into_iter().filter(fits).collect();
    if runs.is_empty() {
        return match &args.target {
            Some(target) => Err(Failure::words(Exit::Found, format!("no run or bottle `{target}` lives"))
                .hint("`carboy ps` lists those that do")),
            None => {
                eprintln!("nothing runs");
                Ok(0)
            }
        };
    }
    let question = if args.kill { Question::Kill } else { Question::Stop };
    for run in &runs {
        registry::ask(&run.record, question).map_err(|e| Failure::new(Exit::Failed, &e))?;
        let how = match question {
            Question::Kill => "is being killed".to_owned(),
            Question::Stop | Question::Status => {
                format!("was asked to end; what is left after {} s is killed", STOP_GRACE.as_secs())
            }
        };
        eprintln!("{} of bottle {} {how}", run.record.run, run.record.bottle);
    }
    Ok(0)
}
