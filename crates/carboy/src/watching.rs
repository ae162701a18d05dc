//! `carboy attach`, `exec` and `wait`, and the person's side of a run that was started at a terminal.
//!
//! *Must never* end a run because somebody stops looking.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use carboy_control::controller::process::wait_for_end;
use carboy_control::registry::{self, Answer, AskError, ExecAsked, Question, RunRecord};
use carboy_control::runs::{self, Past};
use carboy_control::session::frames::{self, ANSWER_BYTES_MAX, Kind};
use carboy_control::session::{End, kept};
use carboy_core::ids::BottleName;

use crate::args::{AttachArgs, ExecArgs, RunArgs, WaitArgs};
use crate::budget::near;
use crate::client::{DetachKey, Input, Left, Line, stay};
use crate::environment::Environment;
use crate::report::{Exit, Failure, Palette, printable};
use crate::signals::{Heard, Whose, pass_to_client};
use crate::{print, run, terminal};

/// The exit code of a program that its terminal's hang-up has ended, 128 + SIGHUP.
const HUNG_UP: u8 = 129;

/// Longest wait for a killed supervisor's process to be gone.
const GONE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often a run that does not answer is asked again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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

/// Those that a name means: the run of this id, else those of the bottle, else those of the agent. A chat agent's bottle is
/// its own, and people know it by the agent's name.
pub fn named<'r, T>(all: &'r [T], name: &str, record: impl Fn(&T) -> &RunRecord) -> Vec<&'r T> {
    let names: [fn(&RunRecord) -> Option<&str>; 3] = [|r| Some(&r.run), |r| Some(&r.bottle), |r| r.agent.as_deref()];
    let so_called =
        |of: fn(&RunRecord) -> Option<&str>| all.iter().filter(|one| of(record(one)) == Some(name)).collect();
    names.into_iter().map(so_called).find(|found: &Vec<&T>| !found.is_empty()).unwrap_or_default()
}

/// Which run is meant where a chat agent and the bottle of its tools have one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    /// The agent, which carries its tools along.
    Agent,
    /// The tools' bottle: the agent is in none.
    Tools,
    /// Both.
    Each,
}

/// The one run that lives and has this name, or whose bottle or agent has.
pub fn live_one(target: &str, meant: Meant, environment: &Environment) -> Result<RunRecord, Failure> {
    let mut found = live(target, meant, environment)?;
    match (found.pop(), found.is_empty()) {
        (Some(run), true) => Ok(run.record),
        (Some(last), false) => {
            let runs: Vec<&str> = found.iter().chain([&last]).map(|run| run.record.run.as_str()).collect();
            Err(Failure::words(Exit::Usage, format!("several runs of `{target}` live: {}", runs.join(", ")))
                .hint("name one of them; `carboy ps` lists them"))
        }
        (None, _) => Err(none_lives(target, environment)),
    }
}

fn live(target: &str, meant: Meant, environment: &Environment) -> Result<Vec<Answer>, Failure> {
    let live = registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
    Ok(meant_of(&live, target, meant))
}

fn meant_of(live: &[Answer], target: &str, meant: Meant) -> Vec<Answer> {
    let found = named(live, target, |answer| &answer.record).into_iter().cloned().collect();
    match meant {
        Meant::Agent => registry::without_carried(found),
        Meant::Tools => registry::without_carriers(found),
        Meant::Each => found,
    }
}

/// Says so, and what there is instead.
pub fn none_lives(target: &str, environment: &Environment) -> Failure {
    let shown = printable(target);
    Failure::words(Exit::Found, format!("no run, bottle or agent `{shown}` lives"))
        .hint(instead(target, environment).unwrap_or_else(|| "`carboy ps` lists those that do".into()))
}

/// The same where runs that have ended would do as well.
pub fn none_known(target: &str, environment: &Environment) -> Failure {
    let shown = printable(target);
    let hint = misspelt(target, environment).unwrap_or_default();
    Failure::words(Exit::Found, format!("no run, bottle or agent `{shown}` is known"))
        .hint(format!("{hint}`carboy ps -a` lists those that are"))
}

/// What became of a run of this name, or which other name was meant.
pub fn instead(target: &str, environment: &Environment) -> Option<String> {
    let past = runs::past(&environment.home);
    let Some(ended) = latest(&past, target) else {
        return misspelt(target, environment).map(|meant| format!("{meant}`carboy ps -a` lists what there is"));
    };
    let run = &ended.record.run;
    if ended.is_frozen() {
        return Some(format!("run {run} is frozen: `carboy resume {run}` lets it go on"));
    }
    let kept = kept::read(&ended.dir).is_ok();
    let seen = if kept { format!("--output {run}` what it printed") } else { format!("{run}` what it asked for") };
    Some(format!("run {run} has ended: `carboy wait {run}` gives its exit code, `carboy logs {seen}"))
}

/// `did you mean …? `, where a run, a bottle or an agent is called nearly so.
fn misspelt(target: &str, environment: &Environment) -> Option<String> {
    let live = registry::live_runs(&environment.home).unwrap_or_default();
    let past = runs::past(&environment.home);
    let records = live.iter().map(|run| &run.record).chain(past.iter().rev().map(|past| &past.record));
    let names = |record: &RunRecord| [record.agent.clone(), Some(record.bottle.clone()), Some(record.run.clone())];
    let meant = records.flat_map(names).flatten().find(|name| near(name, target))?;
    Some(format!("did you mean `{}`? ", printable(&meant)))
}

/// The latest of those that have ended and have this name; of a chat agent and its tools the agent.
pub fn latest<'p>(past: &'p [Past], target: &str) -> Option<&'p Past> {
    let found = named(past, target, |past| &past.record);
    found.iter().rev().find(|past| past.record.tools_of.is_none()).or(found.last()).copied()
}

/// Looks on a run.
pub fn attach(args: &AttachArgs, environment: &Environment) -> Result<u8, Failure> {
    let runs = live(&args.target, Meant::Each, environment)?;
    let tools = runs.iter().find(|run| run.record.tools_of.is_some());
    match (registry::without_carried(runs.clone()).as_slice(), tools) {
        ([agent], Some(tools)) if agent.record.run != tools.record.run => {
            let (agent, tools) = (&agent.record, &tools.record);
            attach_to_either(agent, tools, args, environment)
        }
        _ => look_on(&live_one(&args.target, Meant::Each, environment)?, args.detach_key, environment),
    }
}

/// A chat agent or its tools: whichever has something to look at.
fn attach_to_either(
    agent: &RunRecord,
    tools: &RunRecord,
    args: &AttachArgs,
    environment: &Environment,
) -> Result<u8, Failure> {
    for record in [agent, tools] {
        match open(record, args.detach_key) {
            Ok(opened) => return follow(record, opened, environment),
            Err(AskError::No { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let message = format!(
        "neither the chat agent {} nor its tools {} have a program's terminal to look at",
        agent.run, tools.run
    );
    Err(Failure::words(Exit::Found, message).hint(format!(
        "`carboy logs --follow {}` shows what the agent asks for, `carboy exec {}` runs a command beside its tools",
        agent.run, tools.run
    )))
}

/// Looks on a run of this record until it ends, or is left.
pub fn look_on(record: &RunRecord, key: DetachKey, environment: &Environment) -> Result<u8, Failure> {
    follow(record, open(record, key).map_err(failed)?, environment)
}

/// A run that lets somebody look on, and what is done with what that one types.
struct Opened {
    answer: Answer,
    stream: UnixStream,
    input: Input,
}

fn open(record: &RunRecord, key: DetachKey) -> Result<Opened, AskError> {
    let (question, input) = match terminal::is_interactive() && record.terminal {
        true => (attaching(), Input::Terminal(key)),
        false => (Question::Watch, Input::Nothing),
    };
    let (answer, stream) = registry::open(record, &question)?;
    Ok(Opened { answer, stream, input })
}

fn follow(record: &RunRecord, opened: Opened, environment: &Environment) -> Result<u8, Failure> {
    let Opened { answer, stream, input } = opened;
    if let Input::Terminal(key @ DetachKey::Control(_)) = input {
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
    let record = live_one(&args.target, Meant::Tools, environment)?;
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
    // In this order: one that was lost is of the past only when its record was cleared away.
    let live = registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
    let past = runs::past(&environment.home);
    let mut waited = Vec::new();
    for target in &args.targets {
        let living = meant_of(&live, target, Meant::Agent);
        match (living.is_empty(), latest(&past, target)) {
            (false, _) => waited.extend(living.into_iter().map(|run| Waited::Live(run.record))),
            (true, Some(ended)) => waited.push(Waited::Past(Box::new(ended.clone()))),
            (true, None) => {
                return Err(none_known(target, environment));
            }
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
    let until = Instant::now() + wait_max;
    let stream = loop {
        match registry::open(record, &Question::Wait) {
            Ok((_, stream)) => break stream,
            Err(error) if error.nobody_is_there() => return true,
            // Broken off in the middle of it: perhaps it is just ending.
            Err(_) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
            Err(_) => return false,
        }
    };
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
