//! `carboy proxy`: a bottle's way out for programs that are in none, until somebody asks it to end or its command has ended.
//!
//! ```text
//!  args ─▶ request ─▶ ProxyHost ─▶ variables on standard output                 ─▶ Ctrl-C, SIGTERM, `stop` ─▶ end
//!                        └───────▶ COMMAND with the variables, at this terminal ─▶ its end, `stop`         ─▶ end
//! ```
//!
//! *Must never* say that it listens before it does, put the password on a command line, or let it be taken for a sandbox.

use std::io::IsTerminal;
use std::sync::Arc;

use carboy_control::proxy::{
    At, Beside, Ending, Exit as Left, Place, Pointing, ProxyError, ProxyHost, ProxyRequest, Waiting,
};
use carboy_control::summary::Ended;
use carboy_control::supervisor::{RunError, STOP_GRACE};
use carboy_manifest::Request;

use crate::applications::ProgramFiles;
use crate::args::ProxyArgs;
use crate::environment::Environment;
use crate::report::{Exit, Failure, Palette, printable};
use crate::signals::{Heard, next};
use crate::{print, run, trust};

/// Shells' codes for a command that is not there, and for one that cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Serves as a proxy.
pub async fn proxy(args: &ProxyArgs, environment: Environment) -> Result<u8, Failure> {
    let request = request(args, environment)?;
    // From here on no signal ends this process without its files being removed.
    let mut heard = Heard::from_now_on();
    let host = ProxyHost::start(request).await.map_err(failure)?;
    let record = host.record().clone();
    let left = if args.command.is_empty() {
        match said(&host, args) {
            Ok(()) => asked(&host, &mut heard).await,
            Err(failure) => {
                host.end(Ended::Code(Exit::Failed as u8)).await.map_err(self::failure)?;
                return Err(failure);
            }
        }
    } else {
        if !args.quiet {
            say!("{}", no_sandbox(Palette::stderr()));
        }
        let (set, unset) = (host.pointing().variables(), host.pointing().withheld());
        match Beside::start(&args.command, &set, &unset) {
            Ok((beside, waiting)) => with_command(&host, &mut heard, beside, waiting).await,
            Err(error) => return not_started(host, &args.command[0], &error).await,
        }
    };
    let summary = host.end(left).await.map_err(failure)?;
    run::tell_end(&summary, &record, args.quiet);
    Ok(summary.exit_code())
}

/// Looks everything up.
fn request(args: &ProxyArgs, environment: Environment) -> Result<ProxyRequest, Failure> {
    let places = environment.places.clone();
    let manifest = Request { agent: None, bottles: args.bottles.clone(), places: places.clone() };
    let mut effective = trust::load(&manifest, &environment.home, trust::Answer::Ask)?;
    crate::budget::take_flag(&args.budget, &mut effective)?;
    for warning in effective.warnings.iter() {
        say!("{warning}");
    }
    let workdir = places
        .cwd
        .canonicalize()
        .map_err(|e| Failure::words(Exit::Usage, format!("working directory {}: {e}", places.cwd.display())))?;
    let place = match &args.socket {
        Some(path) => Place::Socket { path: workdir.join(path) },
        None => Place::Loopback { port: args.port },
    };
    let audit_key = environment.audit_key()?;
    Ok(ProxyRequest {
        home: environment.home,
        places,
        effective,
        workdir,
        place,
        command: args.command.clone(),
        lookup: environment.lookup,
        files: Arc::new(ProgramFiles),
        audit_key,
        keeping: Default::default(),
        tell: Arc::new(|text| say!("carboy: {text}")),
    })
}

/// Until somebody asks it to end.
async fn asked(host: &ProxyHost, heard: &mut Heard) -> Ended {
    let mut ending = host.ending();
    tokio::select! {
        () = next(&mut heard.interrupt) => Ended::Code(0),
        () = next(&mut heard.terminate) => Ended::Code(0),
        () = next(&mut heard.hangup) => Ended::Code(0),
        how = ending.wait_for(Option::is_some) => match how.map(|how| *how) {
            Ok(Some(Ending::Killed)) => Ended::Signal(9),
            // Its sender is the host's own.
            Ok(Some(Ending::Asked) | None) | Err(_) => Ended::Code(0),
        },
    }
}

/// Until the command has ended. Ctrl-C reaches it by its terminal, so that is for it to heed; what is meant for this process
/// alone is passed on.
async fn with_command(host: &ProxyHost, heard: &mut Heard, beside: Beside, waiting: Waiting) -> Ended {
    let mut ending = host.ending();
    let mut waiting = tokio::task::spawn_blocking(move || waiting.wait());
    let mut asked = false;
    loop {
        let grace = async {
            match asked {
                true => tokio::time::sleep(STOP_GRACE).await,
                false => std::future::pending::<()>().await,
            }
        };
        tokio::select! {
            left = &mut waiting => return match left {
                Ok(Ok(Left::Code(code))) => Ended::Code(code),
                Ok(Ok(Left::Signal(signal))) => Ended::Signal(signal),
                // How it ended is not known, and that is not well.
                Ok(Err(_)) | Err(_) => Ended::Code(Exit::Lost as u8),
            },
            how = ending.changed() => {
                let how = how.ok().and_then(|()| *ending.borrow_and_update());
                match how {
                    Some(Ending::Killed) => beside.kill(),
                    Some(Ending::Asked) | None => beside.ask_to_end(),
                }
                asked = true;
            }
            () = next(&mut heard.interrupt) => {}
            () = next(&mut heard.terminate) => {
                if asked { beside.kill() } else { beside.ask_to_end() }
                asked = true;
            }
            () = next(&mut heard.hangup) => {
                beside.ask_to_end();
                asked = true;
            }
            () = grace => {
                beside.kill();
                asked = false;
            }
        }
    }
}

/// Nothing ran: the error is the whole story.
async fn not_started(host: ProxyHost, program: &str, error: &std::io::Error) -> Result<u8, Failure> {
    let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    host.end(Ended::NotStarted(code)).await.map_err(failure)?;
    say!("{} `{}` cannot be started: {error}", Palette::stderr().bad("error:"), printable(program));
    Ok(code)
}

/// The data on standard output; what a person wants to know besides on standard error.
fn said(host: &ProxyHost, args: &ProxyArgs) -> Result<(), Failure> {
    let pointing = host.pointing();
    let data = if args.json { as_json(pointing) } else { pointing.shell() };
    if !args.quiet {
        let palette = Palette::stderr();
        let who = match &pointing.at {
            At::Loopback(_) => "whoever has the password",
            At::Socket(_) => "this user alone",
        };
        say!(
            "proxy {} of bottle {} listens on {} for {who}",
            pointing.run,
            printable(&pointing.bottle),
            palette.strong(&printable(&pointing.at.to_string()))
        );
        say!("in another shell: {}", palette.strong(&format!(". {}", pointing.env_file.display())));
        say!("{}", no_sandbox(palette));
        say!("what it does: carboy top   to end it: Ctrl-C, carboy stop {}", printable(&pointing.run));
    }
    print(data.as_bytes()).map(|_| ())
}

/// What everybody who starts one has to read.
fn no_sandbox(palette: Palette) -> String {
    let warning =
        "a proxy is no sandbox: a program that ignores these variables is not captured (`carboy run` captures)";
    match std::io::stderr().is_terminal() {
        true => palette.warn(warning),
        false => format!("carboy: {warning}"),
    }
}

fn as_json(pointing: &Pointing) -> String {
    let (listens, socket) = match &pointing.at {
        At::Loopback(address) => (Some(address.to_string()), None),
        At::Socket(path) => (None, Some(path.display().to_string())),
    };
    let variables: serde_json::Map<String, serde_json::Value> =
        pointing.variables().into_iter().map(|(name, value)| (name, value.into())).collect();
    let object = serde_json::json!({
        "run": pointing.run,
        "bottle": pointing.bottle,
        "listens": listens,
        "socket": socket,
        "proxy": pointing.address(),
        "ca_file": pointing.ca_file,
        "env_file": pointing.env_file,
        "variables": variables,
        "sandbox": false,
    });
    format!("{object}\n")
}

/// From its error to an exit code and a hint.
fn failure(error: ProxyError) -> Failure {
    match error {
        ProxyError::Port { .. } | ProxyError::Socket { .. } | ProxyError::SocketPath { .. } => {
            Failure::new(Exit::Failed, &error)
        }
        ProxyError::Vault(error) => run::failure(RunError::Vault(error)),
        ProxyError::Home(error) => run::failure(RunError::Home(error)),
        ProxyError::Authority(error) => run::failure(RunError::Authority(error)),
        ProxyError::Run(error) => run::failure(error),
    }
}
