//! `carboy controller`: the process that keeps the ledger, and the questions about it.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use carboy_control::apart::{channel_at_stdin, leave_terminal};
use carboy_control::controller::process::Process;
use carboy_control::controller::{IDLE, Running, ServeError, Starter, Word, could_not_serve, open_ledger, unit};
use carboy_control::controller_client::{Answer, Call, Line, LineError, Role, Status};
use carboy_core::audit::ChainKey;
use tokio::sync::watch;

use crate::args::{ControllerCommand, ControllerRunArgs, JsonFlag};
use crate::environment::Environment;
use crate::report::{Exit, Failure, Palette, duration};
use crate::{print, runtime};

/// How long a controller may take to end.
const STOP_WAIT_MAX: Duration = Duration::from_secs(20);

/// Runs one of its commands.
pub fn controller(command: ControllerCommand, environment: &Environment) -> Result<u8, Failure> {
    match command {
        ControllerCommand::Run(args) if args.on_demand => on_demand(&args, environment),
        ControllerCommand::Run(args) => foreground(&args, environment),
        ControllerCommand::Status(args) => runtime()?.block_on(status(&args, environment)),
        ControllerCommand::Stop(args) => {
            runtime()?.block_on(stop(if args.force { Stop::Always } else { Stop::Unused }, environment))
        }
        ControllerCommand::Install => install(environment),
    }
}

fn running(
    args: &ControllerRunArgs,
    environment: &Environment,
    stop: watch::Receiver<bool>,
) -> Result<Running, Failure> {
    if let Some(address) = args.metrics.filter(|address| !address.ip().is_loopback() && !args.metrics_anywhere) {
        return Err(Failure::words(Exit::Usage, format!("other machines would reach {address}"))
            .hint("take an address of this machine alone, 127.0.0.1:9477, or add --metrics-anywhere"));
    }
    // A key that is none is said now, and not when the first event is to be written.
    environment.audit_key()?;
    let key = || match std::env::var("AUDIT_INTEGRITY_KEY") {
        Ok(text) if !text.is_empty() => ChainKey::from_hex(&text).map_err(|e| e.to_string()),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(ChainKey::Plain),
        Err(e @ std::env::VarError::NotUnicode(_)) => Err(e.to_string()),
    };
    Ok(Running {
        home: environment.home.clone(),
        key: Box::new(key),
        idle: args.idle.or(args.on_demand.then_some(IDLE)),
        metrics: args.metrics,
        aloud: !args.on_demand,
        stop,
    })
}

async fn serve(running: Running, asked: watch::Sender<bool>, ready: impl FnOnce()) -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let hear = |kind| signal(kind).expect("a signal handler can be set for every signal named here");
    let (mut terminate, mut interrupt) = (hear(SignalKind::terminate()), hear(SignalKind::interrupt()));
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked.send_replace(true);
    });
    carboy_control::controller::run(running, open_ledger, ready).await
}

fn foreground(args: &ControllerRunArgs, environment: &Environment) -> Result<u8, Failure> {
    let (asked, stop) = watch::channel(false);
    let running = running(args, environment, stop)?;
    let served = runtime()?.block_on(serve(running, asked, || {}));
    served.map(|()| 0).map_err(|e| Failure::new(Exit::Failed, &e))
}

/// Whoever started it hears one word; from then on it is on its own.
fn on_demand(args: &ControllerRunArgs, environment: &Environment) -> Result<u8, Failure> {
    let nobody = |_| {
        Failure::words(Exit::Usage, "--on-demand is for runs that start the controller")
            .hint("`carboy controller run` is one in the foreground")
    };
    let channel = channel_at_stdin().map_err(nobody)?;
    leave_terminal().map_err(|e| Failure::new(Exit::Failed, &e))?;
    let (asked, stop) = watch::channel(false);
    let served = running(args, environment, stop).map_err(|failure| failure.message).and_then(|running| {
        let runtime = runtime().map_err(|failure| failure.message)?;
        let told = channel.try_clone().map_err(|e| e.to_string())?;
        runtime.block_on(serve(running, asked, move || say(told, &Word::Ready))).map_err(|e| e.to_string())
    });
    match served {
        Ok(()) => Ok(0),
        Err(why) => {
            say(channel, &Word::Failed(why));
            Ok(Exit::Failed as u8)
        }
    }
}

fn say(mut channel: UnixStream, word: &Word) {
    if let Ok(mut line) = serde_json::to_vec(word) {
        line.push(b'\n');
        // Whoever asked may have gone; the controller is there for the next one.
        let _ = channel.write_all(&line);
    }
    let _ = channel.shutdown(std::net::Shutdown::Both);
}

/// A line to the controller that is there; `None` where there is none.
async fn line(environment: &Environment, role: Role) -> Result<Option<Line>, Failure> {
    let socket = environment.home.controller_socket().map_err(|e| Failure::new(Exit::Failed, &e))?;
    match Line::open(&socket, Starter::version(), role).await {
        Ok(line) => Ok(Some(line)),
        Err(LineError::Nobody { .. }) => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

pub fn failed(error: &LineError) -> Failure {
    let exit = if let LineError::Refused(_) = error { Exit::Refused } else { Exit::Failed };
    Failure::new(exit, error)
}

async fn status(args: &JsonFlag, environment: &Environment) -> Result<u8, Failure> {
    let Some(mut line) = line(environment, Role::Observer).await? else {
        if args.json {
            print(b"null\n")?;
        }
        match could_not_serve(&environment.home) {
            Some(why) => say!("no controller runs; the last one could not serve: {why}"),
            None => say!("no controller runs; the first run starts one, and so does `carboy budget show`"),
        }
        return Ok(Exit::Found as u8);
    };
    let Answer::Status(status) = line.ask(Call::Status).await.map_err(|e| failed(&e))? else {
        return Err(failed(&LineError::Misunderstood));
    };
    if args.json {
        let text = serde_json::to_string(&status).map_err(|e| Failure::new(Exit::Failed, &e))?;
        print(format!("{text}\n").as_bytes())?;
    } else {
        print(in_words(&status).as_bytes())?;
    }
    Ok(if status.failing.is_some() { Exit::Found as u8 } else { 0 })
}

fn in_words(status: &Status) -> String {
    let palette = Palette::stdout();
    let now = carboy_core::ports::Clock::now_ms(&carboy_control::clock::SystemClock);
    let up = duration(now.saturating_sub(status.started_ms));
    let stands = match &status.failing {
        None => palette.good("serves"),
        Some(why) => format!("{}: {why}", palette.bad("refuses what is metered")),
    };
    let ends = match status.idle_ms {
        Some(ms) => format!("when nobody has been connected for {}", duration(ms)),
        None => "when it is stopped".to_owned(),
    };
    format!(
        "controller {stands}\n  version      carboy {}\n  process      {}, for {up}\n  runs         {} connected\n  clients      {} \
         connected\n  ledger       {}\n  ends         {ends}\n",
        status.program, status.pid, status.supervisors, status.connections, status.ledger
    )
}

/// Ends the controller, if there is one.
pub fn end(environment: &Environment) -> Result<u8, Failure> {
    runtime()?.block_on(stop(Stop::Always, environment))
}

/// When a controller is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Only when no run is connected.
    Unused,
    /// In any case.
    Always,
}

async fn stop(when: Stop, environment: &Environment) -> Result<u8, Failure> {
    let Some(mut line) = line(environment, Role::Operator).await? else {
        if when == Stop::Unused {
            say!("no controller runs");
        }
        return Ok(0);
    };
    let pid = line.welcome().pid;
    let process = Process::of(pid).and_then(|process| process.end());
    match line.ask(Call::Shutdown { only_idle: when == Stop::Unused }).await {
        Ok(_) => {
            let ended = async {
                line.closed().await;
                // Its last connection ends before its store is closed and its socket gone.
                if let Some(end) = process {
                    end.come().await;
                }
            };
            if tokio::time::timeout(STOP_WAIT_MAX, ended).await.is_err() {
                let words = format!("the controller has not ended within {} s", STOP_WAIT_MAX.as_secs());
                return Err(Failure::words(Exit::Failed, words).hint(format!(
                    "`kill {pid}` asks it once more, and `kill -9 {pid}` does not; nothing acknowledged is lost"
                )));
            }
        }
        Err(error @ LineError::Refused(_)) => return Err(failed(&error).hint("`--force` ends it all the same")),
        Err(error) => return Err(failed(&error)),
    }
    Ok(0)
}

fn install(environment: &Environment) -> Result<u8, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::new(Exit::Failed, &e))?;
    let home = environment.home.root();
    let own = environment.places.home.join(".carboy");
    let unit_text = unit::text(&program, (home != own).then_some(home));
    say!("# carboy controller install > ~/.config/systemd/user/{}", unit::UNIT);
    say!("# systemctl --user daemon-reload && systemctl --user enable --now {}", unit::UNIT);
    print(unit_text.as_bytes())
}
