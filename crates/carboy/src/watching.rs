//! `carboy attach`, `exec` and `wait`, and the person's side of a run that was started at a terminal.
//!
//! *Must never* end a run because somebody stops looking.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use carboy_control::controller::process::wait_for_end;
use carboy_control::registry::{self, Answer, AskError, ExecAsked, Question, RunRecord};
use carboy_control::runs::{self, Past};
use carboy_control::session::End;
use carboy_control::session::frames::{self, ANSWER_BYTES_MAX, Kind};
use carboy_core::ids::BottleName;

use crate::args::{AttachArgs, ExecArgs, RunArgs, WaitArgs};
use crate::client::{DetachKey, Input, Left, Line, stay};
use crate::environment::Environment;
use crate::report::{Exit, Failure, Palette, printable};
use crate::signals::{Heard, Whose, pass_to_client};
use crate::{print, run, terminal};

/// The exit code of a program that its terminal's hang-up has ended, 128 + SIGHUP.
const HUNG_UP: u8 = 129;

/// Longest wait for a killed supervisor's process to be gone.
const GONE_WAIT_MAX: Duration = Duration::from_secs(5);

/// The bottle's own shell where it has the one that its environment names, else the one that every system has.
const A_SHELL: [&str; 3] = ["sh", "-c", "command -v \"${SHELL:-}\" >/dev/null 2>&1 && exec \"$SHELL\" -l; exec sh -l"];

/// From an error of a run that was asked.
pub fn failed(error: AskError) -> Failure {
    match &error {
        AskError::No { .. } => Failure::new(Exit::Found, &error),
        AskError::Silent { .. } => {
            Failure::new(Exit::Found, &error).hint("`carboy ps -a` lists runs that live and those that have ended")
        }
        AskError::Home(_) => Failure::new(Exit::Failed, &error),
    }
}

/// The one run that lives and has this name, or whose bottle has.
pub fn live_one(target: &str, environment: &Environment) -> Result<RunRecord, Failure> {
    let live = registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
    let fits = |answer: &Answer| answer.record.run == target || answer.record.bottle == target;
    let mut found: Vec<RunRecord> = live.into_iter().filter(fits).map(|answer| answer.record).collect();
    match (found.pop(), found.pop()) {
        (Some(record), None) => Ok(record),
        (Some(first), Some(second)) => Err(Failure::words(
            Exit::Usage,
            format!("several runs of bottle `{target}` live: {}, {} …", second.run, first.run),
        )
        .hint("name one of them; `carboy ps` lists them")),
        (None, _) => {
            let past = runs::past(&environment.home);
            let ended = past.iter().rev().find(|p| p.record.run == target || p.record.bottle == target);
            Err(Failure::words(Exit::Found, format!("no run or bottle `{target}` lives")).hint(match ended {
                Some(past) if past.is_frozen() => {
                    format!("run {0} is frozen: `carboy resume {0}` lets it go on", past.record.run)
                }
                Some(past) => format!(
                    "run {0} has ended: `carboy wait {0}` gives its exit code, `carboy logs --output {0}` what it printed",
                    past.record.run
                ),
                None => "`carboy ps` lists those that do".into(),
            }))
        }
    }
}

/// Looks on a run.
pub fn attach(args: &AttachArgs, environment: &Environment) -> Result<u8, Failure> {
    let record = live_one(&args.target, environment)?;
    look_on(&record, args.detach_key, environment)
}

/// Looks on a run of this record until it ends, or is left.
pub fn look_on(record: &RunRecord, key: DetachKey, environment: &Environment) -> Result<u8, Failure> {
    let (question, input) = match terminal::is_interactive() && record.terminal {
        true => (attaching(), Input::Terminal(key)),
        false => (Question::Watch, Input::Nothing),
    };
    let (answer, stream) = registry::open(record, &question).map_err(failed)?;
    if let Input::Terminal(DetachKey::Control(_)) = input {
        say!("carboy: attached to {}; {key} leaves it running", record.run);
    }
    if let Some(why) = &answer.why {
        let (state, why) = (&answer.state, printable(why));
        say!("carboy: it is {state} ({why}); `carboy resume {}` lets it go on", record.run);
    }
    let left = followed(stream, input, Whose::Looker)?;
    close(left, record, &Tell { quiet: true, nobody_reads: 0 }, environment)
}

/// The person's side of a run that this person has just started.
pub fn own_run(record: &RunRecord, args: &RunArgs, environment: &Environment) -> Result<u8, Failure> {
    let (_, stream) = registry::open(record, &attaching()).map_err(|error| match error {
        // It came to its end, or to grief, between its first word and ours.
        AskError::Silent { .. } => lost(record, environment),
        AskError::No { .. } | AskError::Home(_) => failed(error),
    })?;
    let left = followed(stream, Input::Terminal(args.detach_key), Whose::Owner(Box::new(record.clone())))?;
    if let (Left::Ended(End::Run(summary)), Some(path)) = (&left, &args.summary_json)
        && path == "-"
    {
        say!("{}", serde_json::to_string(summary).map_err(|e| Failure::new(Exit::Failed, &e))?);
    }
    close(left, record, &Tell { quiet: args.quiet, nobody_reads: HUNG_UP }, environment)
}

fn attaching() -> Question {
    let (rows, cols) = terminal::window();
    Question::Attach { rows, cols }
}

fn followed(stream: UnixStream, input: Input, whose: Whose) -> Result<Left, Failure> {
    let line = Line::new(stream);
    let signals = tokio::spawn(pass_to_client(Heard::from_now_on(), line.clone(), whose));
    let left = tokio::task::block_in_place(|| stay(&line, input));
    signals.abort();
    left.map_err(|e| Failure::new(Exit::Failed, &e))
}

/// What is said at the end.
struct Tell {
    quiet: bool,
    /// Exit code when our own reader has gone.
    nobody_reads: u8,
}

fn close(left: Left, record: &RunRecord, tell: &Tell, environment: &Environment) -> Result<u8, Failure> {
    match left {
        Left::Ended(End::Run(summary)) => {
            run::tell_end(&summary, record, tell.quiet);
            Ok(summary.exit_code())
        }
        Left::Ended(End::Command(code) | End::NotStarted(code)) => Ok(code),
        Left::Ended(End::Failed { message }) => Err(Failure::words(Exit::Failed, message)),
        Left::ByHand => {
            let back = Palette::stderr().strong(&format!("carboy attach {}", record.run));
            say!("carboy: left {} of bottle {}, which goes on; come back with `{back}`", record.run, record.bottle);
            Ok(0)
        }
        Left::Unread => Ok(tell.nobody_reads),
        Left::HungUp => match registry::ask(record, &Question::Status) {
            Ok(_) => {
                Err(Failure::words(Exit::Found, format!("run {} let go of this terminal, and goes on", record.run))
                    .hint(format!("nothing was read here for too long; come back with `carboy attach {}`", record.run)))
            }
            Err(_) => Err(lost(record, environment)),
        },
    }
}

/// Says so, and does what the supervisor cannot do any more: stubs and hooks that it left in the workspace go.
fn lost(record: &RunRecord, environment: &Environment) -> Failure {
    // What it left is locked by it until then, and passed over.
    wait_for_end(record.supervisor_pid, GONE_WAIT_MAX);
    let bottle = BottleName::parse(&record.bottle);
    let in_order = bottle.is_ok_and(|bottle| runs::put_in_order(&environment.home, &bottle).is_ok());
    let workspace = if in_order {
        "its workspace was put in order".to_owned()
    } else {
        let (bottle, workdir) = (&record.bottle, printable(&record.workdir.display().to_string()));
        format!("it may have left empty stubs in {workdir}: `carboy run --bottle {bottle} -- true` there removes them")
    };
    Failure::words(
        Exit::Lost,
        format!(
            "run {} was lost: its supervisor is gone, and with it everything in the bottle; {workspace}",
            record.run
        ),
    )
    .hint(format!("`carboy logs {0}` and `carboy logs --output {0}` show how far it came", record.run))
}

/// One more command in a bottle.
pub fn exec(args: &ExecArgs, environment: &Environment) -> Result<u8, Failure> {
    let record = live_one(&args.target, environment)?;
    let is_terminal = !args.no_tty && terminal::is_interactive();
    let command = match (args.command.is_empty(), is_terminal) {
        (false, _) => args.command.clone(),
        (true, true) => A_SHELL.map(String::from).to_vec(),
        (true, false) => {
            return Err(Failure::words(Exit::Usage, "there is no terminal for a shell")
                .hint(format!("say what to run: `carboy exec {} COMMAND…`", record.run)));
        }
    };
    let mut env = args.env.iter().map(|spec| run::variable(spec)).collect::<Result<Vec<_>, _>>()?;
    if is_terminal {
        env.insert(0, ("TERM".into(), std::env::var("TERM").unwrap_or_else(|_| "xterm".into())));
    }
    let asked = ExecAsked {
        command: command.clone(),
        env,
        workdir: args.workdir.clone(),
        terminal: is_terminal.then(terminal::window),
    };
    let (_, stream) = registry::open(&record, &Question::Exec(asked)).map_err(failed)?;
    let input = if is_terminal { Input::Terminal(DetachKey::Nothing) } else { Input::Pipe };
    match followed(stream, input, Whose::Looker)? {
        Left::Ended(End::NotStarted(code)) => {
            say_part!("{}", run::not_started(&command[0], code, Palette::stderr()));
            Ok(code)
        }
        Left::ByHand => Ok(128 + 15),
        left @ (Left::Ended(_) | Left::Unread | Left::HungUp) => {
            close(left, &record, &Tell { quiet: true, nobody_reads: HUNG_UP }, environment)
        }
    }
}

/// What `wait` waits for.
enum Waited {
    Live(RunRecord),
    Past(Box<Past>),
}

/// Waits for runs.
pub fn wait(args: &WaitArgs, environment: &Environment) -> Result<u8, Failure> {
    let live = registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
    let past = runs::past(&environment.home);
    let mut waited = Vec::new();
    for target in &args.targets {
        let fits = |record: &RunRecord| record.run == *target || record.bottle == *target;
        let living: Vec<Waited> =
            live.iter().filter(|l| fits(&l.record)).map(|l| Waited::Live(l.record.clone())).collect();
        let ended = || past.iter().rev().find(|p| fits(&p.record)).map(|p| Waited::Past(Box::new(p.clone())));
        match (living.is_empty(), ended) {
            (false, _) => waited.extend(living),
            (true, ended) => waited.extend(ended().map(|past| vec![past]).ok_or_else(|| {
                Failure::words(Exit::Found, format!("no run or bottle `{target}` is known"))
                    .hint("`carboy ps -a` lists those that are")
            })?),
        }
    }
    let mut code = 0;
    for one in waited {
        let (record, end) = match one {
            Waited::Live(record) => {
                let end = end_of(&record, environment);
                (record, end)
            }
            Waited::Past(past) => (past.record.clone(), past.summary.map(|summary| End::Run(Box::new(summary)))),
        };
        let this = told(&record, end, args.json, environment)?;
        code = if code == 0 { this } else { code };
    }
    Ok(code)
}

fn told(record: &RunRecord, end: Option<End>, json: bool, environment: &Environment) -> Result<u8, Failure> {
    let (line, code) = match end {
        Some(End::Run(summary)) => (serde_json::to_string(&summary), summary.exit_code()),
        Some(End::Command(code) | End::NotStarted(code)) => return Ok(code),
        Some(End::Failed { message }) => {
            say!("{}: {message}", record.run);
            (serde_json::to_string(&serde_json::json!({"run": record.run, "failed": message})), Exit::Failed as u8)
        }
        None => {
            say!("{} {}", Palette::stderr().bad("error:"), lost(record, environment).message);
            (serde_json::to_string(&serde_json::json!({"run": record.run, "lost": true})), Exit::Lost as u8)
        }
    };
    if json {
        let line = line.map_err(|e| Failure::new(Exit::Failed, &e))?;
        print(format!("{line}\n").as_bytes())?;
    }
    Ok(code)
}

/// Waits for the end of a run that lived a moment ago; `None` when it was lost.
fn end_of(record: &RunRecord, environment: &Environment) -> Option<End> {
    if let Ok((_, stream)) = registry::open(record, &Question::Wait)
        && let Some(end) = hear_end(&stream)
    {
        return Some(end);
    }
    // It ended while we were about to ask.
    let past = runs::past(&environment.home).into_iter().find(|past| past.record.run == record.run)?;
    past.summary.map(|summary| End::Run(Box::new(summary)))
}

fn hear_end(mut stream: &UnixStream) -> Option<End> {
    loop {
        match frames::read(stream.by_ref(), ANSWER_BYTES_MAX) {
            Ok(Some((Kind::End, end))) => return serde_json::from_slice(&end).ok(),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Waits until a run has ended, for so long at most.
pub fn has_ended_within(record: &RunRecord, wait_max: std::time::Duration) -> bool {
    let Ok((_, stream)) = registry::open(record, &Question::Wait) else { return true };
    if stream.set_read_timeout(Some(wait_max)).is_err() {
        return false;
    }
    loop {
        match frames::read(&stream, ANSWER_BYTES_MAX) {
            Ok(Some((Kind::End, _)) | None) => return true,
            Ok(Some(_)) => {}
            Err(e) => return !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        }
    }
}
