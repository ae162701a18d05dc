//! A run apart from the terminal it was started at: `run -d`, and every run for a person at a terminal.
//!
//! ```text
//! carboy run ── the order, over a channel ──► carboy supervise      asks its questions on the same terminal
//!            ◄── the run's record ───────────     │                  then: own session, /dev/null
//!     │                                           ▼
//!     └── attached, like any other client ──► control socket
//! ```
//!
//! The second process is what holds the bottle. Whatever happens to the first one, or to the window it is in, concerns
//! only somebody who looks on.
//!
//! *Must never* put the order on a command line: variables in it may be secrets.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;

use carboy_control::apart::{Apart, inherited_channel, leave_terminal, start_apart};
use carboy_control::registry::RunRecord;
use carboy_control::supervisor;
use clap::FromArgMatches;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::args::{self, Cli, Command, RunArgs, SuperviseArgs};
use crate::environment::Environment;
use crate::report::{Exit, Failure, Palette};
use crate::run::{self, Closing, Place};
use crate::signals::{Heard, next, pass_to_session};
use crate::{print, resume, terminal, watching};

/// Longest order, in bytes: a command line of the kernel's longest, as JSON.
const ORDER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What the second process is to do.
#[derive(Serialize, Deserialize)]
struct Order {
    /// What was typed, without the program's name.
    arguments: Vec<Vec<u8>>,
    /// The person's window, when they are about to attach; `None` when nobody is.
    window: Option<(u16, u16)>,
}

/// Starts the run apart, and attaches to it unless `-d` was given. `arguments` are what the second process reads of it.
pub async fn run(args: &RunArgs, arguments: Vec<OsString>, environment: &Environment) -> Result<u8, Failure> {
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, &e);
    // While the other process asks and starts, a key that interrupts is meant for it and not for this one.
    let mut early = Heard::from_now_on();
    let Apart { mut child, mut channel } = start_apart(&["supervise"]).map_err(failed)?;
    let order = Order {
        arguments: arguments.into_iter().map(OsString::into_vec).collect(),
        window: (!args.detach).then(terminal::window),
    };
    let mut line = serde_json::to_vec(&order).map_err(|e| Failure::new(Exit::Failed, &e))?;
    line.push(b'\n');
    let mut answering = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<u8>> {
        channel.write_all(&line)?;
        let mut answer = Vec::new();
        BufReader::new(channel).take(ORDER_BYTES_MAX).read_until(b'\n', &mut answer)?;
        Ok(answer)
    });
    let answer = loop {
        tokio::select! {
            answer = &mut answering => break answer,
            () = next(&mut early.terminate) => {
                // Sent to this process alone; the other one knows what to do about it.
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
            }
        }
    };
    drop(early);
    let record: Option<RunRecord> =
        answer.ok().and_then(Result::ok).and_then(|answer| serde_json::from_slice(&answer).ok());
    let Some(record) = record else {
        // It has said why on the standard error that we share.
        let status = child.wait().map_err(failed)?;
        let signal = status.signal().map(|signal| 128 + signal);
        return Ok(status.code().or(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(Exit::Failed as u8));
    };
    if args.detach {
        let palette = Palette::stderr();
        say!("{} of bottle {} runs on its own", palette.strong(&record.run), record.bottle);
        say!("  look in    carboy attach {}", record.run);
        say!("  what it did, what it printed    carboy logs {0}, carboy logs --output {0}", record.run);
        say!("  its end    carboy wait {0}, carboy stop {0}", record.run);
        return say(&record, args.record_json);
    }
    watching::own_run(&record, args, environment)
}

/// Its id, or all that is known of it, on standard output.
pub fn say(record: &RunRecord, json: bool) -> Result<u8, Failure> {
    let text = match json {
        true => serde_json::to_string(record).map_err(|e| Failure::new(Exit::Failed, &e))?,
        false => record.run.clone(),
    };
    print(format!("{text}\n").as_bytes())
}

/// The second process, from its order to the end of the run.
pub async fn supervise(args: SuperviseArgs) -> Result<u8, Failure> {
    let nobody = || {
        Failure::words(Exit::Usage, "`carboy supervise` is started by `carboy run`, and by nobody else")
            .hint("`carboy run -d …` starts a run apart from the terminal")
    };
    let channel = inherited_channel(args.channel).ok_or_else(nobody)?;
    let mut line = Vec::new();
    BufReader::new((&channel).take(ORDER_BYTES_MAX)).read_until(b'\n', &mut line).map_err(|_| nobody())?;
    let order: Order = serde_json::from_slice(&line).map_err(|_| nobody())?;
    let words = order.arguments.iter().map(|word| OsStr::from_bytes(word));
    let typed = [OsStr::new("carboy")].into_iter().chain(words);
    let matches = args::command().try_get_matches_from(typed);
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|_| nobody())?;
    let mut environment = Environment::look(cli.home)?;
    let args = if let Command::Resume(again) = &cli.command {
        resume::run_args(again, &environment)?
    } else {
        let Command::Run(args) = cli.command else { return Err(nobody()) };
        *args
    };
    let mut closing_args = args.clone();
    // Standard error is the person's, who is told by the first process.
    closing_args.summary_json = closing_args.summary_json.filter(|path| path != "-");
    let closing = Closing::of(&closing_args, &environment)?;
    if let Some(dir) = &args.workdir {
        environment.places.cwd = environment.places.cwd.join(dir);
    }
    let request = run::request(args, environment, Place::Apart(order.window))?;
    let workplace = request.workplace.clone();
    let heard = Heard::from_now_on();
    let running = supervisor::start(request).await.map_err(|error| run::not_ones_own(error, &workplace))?;
    let signals = tokio::spawn(pass_to_session(heard, running.control()));
    if let Err(error) = on_its_own(channel, running.record()) {
        running.control().kill();
        let _ = running.wait().await;
        return Err(Failure::words(Exit::Failed, format!("could not leave the terminal: {error}")));
    }
    let (record, session) = (running.record().clone(), running.control().session());
    let (ended, farewell) = running.ended().await;
    signals.abort();
    let mut says = Vec::new();
    let closed = closing.close(&record, &ended, &mut says);
    if let Err(failure) = &closed {
        says.extend(failure.message.as_bytes());
    }
    if let (Some(session), false) = (session, says.is_empty()) {
        session.tell(String::from_utf8_lossy(&says).trim_end());
    }
    farewell.say(&ended).await;
    let summary = ended.map_err(run::failure)?;
    closed?;
    Ok(summary.exit_code())
}

/// From here on the terminal is somebody else's. The first process hears of the run.
fn on_its_own(mut channel: UnixStream, record: &RunRecord) -> std::io::Result<()> {
    leave_terminal()?;
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    // When the first process has gone, the run goes on: that is what it was started apart for.
    let _ = channel.write_all(&line);
    Ok(())
}
