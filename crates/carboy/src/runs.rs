//! `carboy ps` and `stop`: runs that live, those that wait to go on, and those that have ended and are kept.

use std::fmt::Write as _;
use std::time::Duration;

use carboy_control::registry::{self, Answer, AskError, Question, RunRecord};
use carboy_control::resume::{self, Waiting};
use carboy_control::supervisor::STOP_GRACE;
use carboy_core::budget::{LedgerSnapshot, Shutdown};
use carboy_core::ports::Clock;

use crate::args::{PsArgs, StopArgs};
use crate::budget::{self, Tokens};
use crate::environment::Environment;
use crate::report::{self, Exit, Failure, Palette, Side, printable};
use crate::{print, runtime, watching};

/// How long `stop` waits for an end without a word.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long `stop` waits for an end: the grace, and what it takes to put everything in order.
const STOP_WAIT_MAX: Duration = Duration::from_secs(STOP_GRACE.as_secs() + 10);

fn live(environment: &Environment) -> Result<Vec<Answer>, Failure> {
    registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))
}

/// Lists runs that live, and those that were frozen: they wait for somebody.
pub fn ps(args: &PsArgs, environment: &Environment) -> Result<u8, Failure> {
    let mut runs = live(environment)?;
    if args.all {
        return all(&runs, args, environment);
    }
    let frozen = resume::waiting(&environment.home).into_iter().filter(Waiting::is_frozen);
    runs.splice(0..0, frozen.map(Answer::from));
    let ledger = if runs.is_empty() { None } else { runtime()?.block_on(budget::of_runs(environment)) };
    if args.json {
        let text = as_json(&runs, ledger.as_ref()).map_err(|e| Failure::new(Exit::Failed, &e))?;
        return print(format!("{text}\n").as_bytes());
    }
    if runs.is_empty() {
        say!("nothing runs");
        return Ok(0);
    }
    let tokens: Vec<Option<Tokens>> =
        runs.iter().map(|run| budget::tokens_of(ledger.as_ref()?, &run.record.run)).collect();
    let columns = Columns::of(&tokens, window(args));
    let now = carboy_control::clock::SystemClock.now_ms();
    let palette = Palette::stdout();
    let window = window(args);
    let rows: Vec<Vec<String>> = runs
        .iter()
        .zip(tokens)
        .map(|(run, tokens)| {
            let Tokens { spent, held, cap, rate } = tokens.unwrap_or_default();
            columns.only([
                run.record.run.clone(),
                run.record.bottle.clone(),
                printable(run.record.agent.as_deref().unwrap_or("-")),
                run.state.clone(),
                report::duration(now.saturating_sub(run.record.started_ms)),
                run.requests.to_string(),
                run.refusals.to_string(),
                spent,
                held,
                cap,
                rate,
                report::bytes(run.bytes_out),
                report::bytes(run.bytes_in),
                command(&run.record, window),
            ])
        })
        .collect();
    let mut lines = report::table(&columns.only(HEAD), &rows, window).into_iter();
    let mut out = format!("{}\n", palette.strong(&lines.next().unwrap_or_default()));
    for (run, line) in runs.iter().zip(lines) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{line}");
        if let Some(why) = &run.why {
            let why = format!("           {}\n", printable(why));
            out.push_str(&palette.faint(&report::wrapped(&why, window)));
        }
        for port in &run.ports {
            let port = format!("           {} {}\n", port.key, report::port(port));
            out.push_str(&palette.faint(&report::wrapped(&port, window)));
        }
    }
    print(out.as_bytes())
}

/// Every column of `ps`.
const HEAD: [(&str, Side); 14] = [
    ("RUN", Side::Left),
    ("BOTTLE", Side::Left),
    ("AGENT", Side::Left),
    ("STATE", Side::Left),
    ("UP", Side::Right),
    ("REQ", Side::Right),
    ("REFUSED", Side::Right),
    ("SPENT", Side::Right),
    ("HELD", Side::Right),
    ("CAP", Side::Right),
    ("RATE", Side::Right),
    ("OUT", Side::Right),
    ("IN", Side::Right),
    ("COMMAND", Side::Left),
];

/// Narrower windows have no room for the agent and the requests beside the tokens.
const ALL_COLUMNS_MIN: usize = 110;

/// Which of the columns are shown.
struct Columns([bool; HEAD.len()]);

impl Columns {
    /// Tokens only where some run has them, sizes only where nothing is cut.
    fn of(tokens: &[Option<Tokens>], window: Option<usize>) -> Columns {
        let some = |field: fn(&Tokens) -> &String| tokens.iter().flatten().any(|tokens| field(tokens) != "-");
        let figures = [some(|t| &t.spent), some(|t| &t.held), some(|t| &t.cap), some(|t| &t.rate)];
        let narrow = window.is_some_and(|columns| columns < ALL_COLUMNS_MIN) && figures.contains(&true);
        let shown = |(i, (name, _)): (usize, (&str, Side))| match name {
            "AGENT" | "REQ" => !narrow,
            "SPENT" | "HELD" | "CAP" | "RATE" => figures[i - 7],
            "OUT" | "IN" => window.is_none(),
            _ => true,
        };
        let mut columns = [true; HEAD.len()];
        for (i, head) in HEAD.into_iter().enumerate() {
            columns[i] = shown((i, head));
        }
        Columns(columns)
    }

    fn only<T>(&self, cells: [T; HEAD.len()]) -> Vec<T> {
        cells.into_iter().zip(self.0).filter_map(|(cell, shown)| shown.then_some(cell)).collect()
    }
}

/// Each run as it answered, with its node of the ledger where there is one.
fn as_json(runs: &[Answer], ledger: Option<&LedgerSnapshot>) -> serde_json::Result<String> {
    let with_tokens = |run: &Answer| -> serde_json::Result<serde_json::Value> {
        let mut value = serde_json::to_value(run)?;
        let node = ledger.and_then(|ledger| budget::run_node(ledger, &run.record.run));
        if let (Some(node), Some(object)) = (node, value.as_object_mut()) {
            object.insert("tokens".into(), serde_json::to_value(&node.meters)?);
        }
        Ok(value)
    };
    serde_json::to_string(&runs.iter().map(with_tokens).collect::<serde_json::Result<Vec<_>>>()?)
}

/// The window that a table has to fit; `None` gives everything.
fn window(args: &PsArgs) -> Option<usize> {
    if args.no_trunc { None } else { report::columns(std::io::stdout()) }
}

/// What runs. In a window the program's own name, and what it is to do before how it was told to.
fn command(record: &RunRecord, window: Option<usize>) -> String {
    let whole = || printable(&record.command.join(" "));
    if let Some(agent) = &record.tools_of {
        return format!("tools of {}", printable(agent));
    }
    let Some(program) = record.command.first().filter(|_| window.is_some()) else { return whole() };
    let name = program.rsplit('/').next().unwrap_or(program);
    let words = match &record.task {
        Some(task) => task.clone(),
        None => record.command[1..].join(" "),
    };
    let words: Vec<&str> = words.split_whitespace().collect();
    printable(format!("{name} {}", words.join(" ")).trim_end())
}

/// Lists runs that live and those that are kept.
fn all(live: &[Answer], args: &PsArgs, environment: &Environment) -> Result<u8, Failure> {
    let past = carboy_control::runs::past(&environment.home);
    if args.json {
        let object = serde_json::json!({ "live": live, "ended": past });
        return print(format!("{object}\n").as_bytes());
    }
    if live.is_empty() && past.is_empty() {
        say!("nothing runs, and nothing has run yet");
        return Ok(0);
    }
    let palette = Palette::stdout();
    let now = carboy_control::clock::SystemClock.now_ms();
    let window = window(args);
    let head = [
        ("RUN", Side::Left),
        ("BOTTLE", Side::Left),
        ("STATE", Side::Left),
        ("CODE", Side::Right),
        ("STARTED", Side::Left),
        ("TOOK", Side::Right),
        ("COMMAND", Side::Left),
    ];
    let mut rows = Vec::new();
    let mut row = |record: &RunRecord, state: &str, code: &str, took: &str| {
        let started = report::local_time(record.started_ms, now);
        let cells = [&record.run, &record.bottle, state, code, &started, took, &command(record, window)];
        rows.push(cells.map(str::to_owned).to_vec());
    };
    for ended in &past {
        match &ended.summary {
            Some(summary) => {
                let code = summary.exit_code().to_string();
                let state = if ended.is_frozen() { "frozen" } else { "ended" };
                row(&ended.record, state, &code, &report::duration(summary.duration_ms));
            }
            None => row(&ended.record, "lost", "-", "-"),
        }
    }
    for run in live {
        let took = report::duration(now.saturating_sub(run.record.started_ms));
        row(&run.record, &run.state, "-", &took);
    }
    let mut lines = report::table(&head, &rows, window);
    lines[0] = palette.strong(&lines[0]);
    print(format!("{}\n", lines.join("\n")).as_bytes())
}

/// What was asked of one run, and how it stands.
struct Asked {
    answer: Answer,
    how: Option<Shutdown>,
}

impl Asked {
    /// Does it end?
    fn ends(&self) -> bool {
        match self.how {
            Some(Shutdown::Freeze) => !self.answer.stays,
            None | Some(Shutdown::Kill) => true,
            Some(Shutdown::Cutoff | Shutdown::Pause) => false,
        }
    }

    fn told(&self) -> String {
        let RunRecord { run, bottle, .. } = &self.answer.record;
        let how = match self.how {
            None => format!("was asked to end; what is left after {} s is killed", STOP_GRACE.as_secs()),
            Some(Shutdown::Kill) => "is being killed".to_owned(),
            // What held already may be stricter than what was asked for.
            Some(Shutdown::Cutoff | Shutdown::Pause | Shutdown::Freeze) => {
                format!("is {}; `carboy resume {run}` lets it go on", self.answer.state)
            }
        };
        format!("{run} of bottle {bottle} {how}")
    }
}

/// Ends runs, or stops them.
pub fn stop(args: &StopArgs, environment: &Environment) -> Result<u8, Failure> {
    let live = live(environment)?;
    let runs: Vec<Answer> = match &args.target {
        Some(target) => watching::named(&live, target, |run| &run.record).into_iter().cloned().collect(),
        None => live,
    };
    let runs = registry::without_carried(runs);
    if runs.is_empty() {
        return match &args.target {
            Some(target) => Err(watching::none_lives(target, environment)),
            None => {
                say!("nothing runs");
                if args.json { print(b"[]\n") } else { Ok(0) }
            }
        };
    }
    let mut code = 0;
    let mut asked = Vec::new();
    for run in &runs {
        match ask_to_stop(run, args.how.given()) {
            Ok(one) => {
                say!("{}", one.told());
                asked.push(one);
            }
            // One that cannot be stopped this way does not keep the others from it.
            Err(failure) if args.all => {
                say!("{} {}", Palette::stderr().bad("error:"), failure.message);
                code = failure.exit as u8;
            }
            Err(failure) => return Err(failure),
        }
    }
    let mut ended = vec![false; asked.len()];
    for (one, ended) in asked.iter().zip(&mut ended).filter(|(one, _)| one.ends() && !args.no_wait) {
        *ended = wait_for_end(&one.answer.record);
        if !*ended {
            code = Exit::Found as u8;
        }
    }
    if args.json {
        let object = |(one, ended): (&Asked, &bool)| {
            let Answer { record, state, why, .. } = &one.answer;
            serde_json::json!({"run": record.run, "bottle": record.bottle, "state": state, "why": why, "ended": ended})
        };
        let text = serde_json::Value::from(asked.iter().zip(&ended).map(object).collect::<Vec<_>>());
        print(format!("{text}\n").as_bytes())?;
    }
    Ok(code)
}

/// Stops one run, and says what was asked of it.
pub fn stop_one(run: &Answer, how: Shutdown) -> Result<String, Failure> {
    ask_to_stop(run, Some(how)).map(|asked| asked.told())
}

/// In the way that was given, else in its bottle's, else politely.
fn ask_to_stop(run: &Answer, given: Option<Shutdown>) -> Result<Asked, Failure> {
    let how = given.or(run.shutdown);
    let question = match how {
        None => Question::Stop,
        Some(Shutdown::Kill) => Question::Kill,
        Some(how @ (Shutdown::Cutoff | Shutdown::Pause | Shutdown::Freeze)) => Question::Enforce { how },
    };
    let ends = matches!(question, Question::Stop | Question::Kill);
    match registry::open(&run.record, &question) {
        Ok((answer, _)) => Ok(Asked { answer, how }),
        // It was over before it could say so.
        Err(AskError::Silent { .. }) if ends && watching::has_ended_within(&run.record, QUIET_WAIT_MAX) => {
            Ok(Asked { answer: Answer { state: "stopping".into(), ..run.clone() }, how })
        }
        Err(error) => Err(watching::failed(error)),
    }
}

/// The grace of each runs from the moment it was asked: together they take hardly longer than one.
fn wait_for_end(record: &RunRecord) -> bool {
    if watching::has_ended_within(record, QUIET_WAIT_MAX) {
        return true;
    }
    say!("{} has not ended yet; waiting up to {} s", record.run, STOP_WAIT_MAX.as_secs());
    let ended = watching::has_ended_within(record, STOP_WAIT_MAX);
    if !ended {
        say!("{} has not ended within {} s; `carboy stop --kill {0}`", record.run, STOP_WAIT_MAX.as_secs());
    }
    ended
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A run that hears a word and says nothing; `ends` with it.
    fn stopped(ends: bool) -> Result<Asked, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let mut heard = String::new();
            let (stream, _) = listener.accept().unwrap();
            std::io::BufReader::new(stream).read_line(&mut heard).unwrap();
            assert_eq!(heard, "{\"op\":\"kill\"}\n");
            if !ends {
                // Everybody after is sent away, too.
                listener.incoming().for_each(drop);
            }
        });
        let record = serde_json::json!({
            "run": "r-1", "bottle": "test", "agent": null, "command": ["true"], "supervisor_pid": 1, "started_ms": 0,
            "socket": socket, "workdir": "/", "terminal": false,
        });
        let zero = serde_json::json!({
            "record": record, "state": "running", "requests": 0, "refusals": 0, "bytes_out": 0, "bytes_in": 0, "tier": "T1",
        });
        ask_to_stop(&serde_json::from_value(zero).unwrap(), Some(Shutdown::Kill))
    }

    #[test]
    fn a_run_that_is_over_before_it_could_answer_was_stopped_and_one_that_stays_silent_was_not() {
        assert_eq!(stopped(true).map(|asked| asked.answer.state).map_err(|e| e.message).unwrap(), "stopping");
        assert!(stopped(false).map(|asked| asked.answer.state).map_err(|e| e.message).unwrap_err().contains("r-1"));
    }
}
