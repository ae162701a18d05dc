//! `carboy ps` and `stop`: runs that live, and those that have ended and are kept.

use std::fmt::Write as _;
use std::time::Duration;

use carboy_control::registry::{self, Answer, Question, RunRecord};
use carboy_control::supervisor::STOP_GRACE;
use carboy_core::ports::Clock;

use crate::args::{PsArgs, StopArgs};
use crate::environment::Environment;
use crate::report::{self, Exit, Failure, Palette, printable};
use crate::{print, watching};

/// How long `stop` waits for an end: the grace, and what it takes to put everything in order.
const STOP_WAIT_MAX: Duration = Duration::from_secs(STOP_GRACE.as_secs() + 10);

fn live(environment: &Environment) -> Result<Vec<Answer>, Failure> {
    registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))
}

/// Lists runs that live.
pub fn ps(args: &PsArgs, environment: &Environment) -> Result<u8, Failure> {
    let runs = live(environment)?;
    if args.all {
        return all(&runs, args.json, environment);
    }
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
        for port in &run.ports {
            let _ = writeln!(out, "{:<11} {}", "", palette.faint(&format!("{} {}", port.key, report::port(port))));
        }
    }
    print(out.as_bytes())
}

/// Lists runs that live and those that are kept.
fn all(live: &[Answer], json: bool, environment: &Environment) -> Result<u8, Failure> {
    let past = carboy_control::runs::past(&environment.home);
    if json {
        let object = serde_json::json!({ "live": live, "ended": past });
        return print(format!("{object}\n").as_bytes());
    }
    if live.is_empty() && past.is_empty() {
        eprintln!("nothing runs, and nothing has run yet");
        return Ok(0);
    }
    let palette = Palette::stdout();
    let now = carboy_control::clock::SystemClock.now_ms();
    let mut out = palette.strong(&format!(
        "{:<11} {:<16} {:<10} {:>5} {:<19} {:>12}  {}\n",
        "RUN", "BOTTLE", "STATE", "CODE", "STARTED", "TOOK", "COMMAND"
    ));
    let mut row = |record: &RunRecord, state: &str, code: &str, took: &str| {
        let started = report::local_time(record.started_ms, now);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<11} {:<16} {state:<10} {code:>5} {started:<19} {took:>12}  {}",
            record.run,
            record.bottle,
            printable(&record.command.join(" ")),
        );
    };
    for ended in &past {
        match &ended.summary {
            Some(summary) => {
                let code = summary.ended.shell_code().to_string();
                row(&ended.record, "ended", &code, &report::duration(summary.duration_ms));
            }
            None => row(&ended.record, "lost", "-", "-"),
        }
    }
    for run in live {
        let took = report::duration(now.saturating_sub(run.record.started_ms));
        row(&run.record, &run.state, "-", &took);
    }
    print(out.as_bytes())
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
        registry::ask(&run.record, &question).map_err(watching::failed)?;
        let how = if args.kill {
            "is being killed".to_owned()
        } else {
            format!("was asked to end; what is left after {} s is killed", STOP_GRACE.as_secs())
        };
        eprintln!("{} of bottle {} {how}", run.record.run, run.record.bottle);
    }
    if args.no_wait {
        return Ok(0);
    }
    let mut code = 0;
    for run in &runs {
        // The grace of each runs from the moment it was asked: together they take hardly longer than one.
        if !watching::has_ended_within(&run.record, STOP_WAIT_MAX) {
            eprintln!(
                "{} has not ended within {} s; `carboy stop --kill {0}`",
                run.record.run,
                STOP_WAIT_MAX.as_secs()
            );
            code = Exit::Found as u8;
        }
    }
    Ok(code)
}
