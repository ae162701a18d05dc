//! `carboy run`: the person's side of a run. Arguments in, the terminal joined, signals passed on, the summary out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carboy_control::bottle::Stdio;
use carboy_control::disk::DiskFiles;
use carboy_control::summary::{Ended, Summary};
use carboy_control::supervisor::{self, Control, RunError, RunRequest};
use carboy_core::plan::{Access, Bind, StdioMode};
use carboy_manifest::{Effective, EnvValue, Manifest, Request};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::RunArgs;
use crate::environment::Environment;
use crate::report::{self, Exit, Failure, Palette, printable};
use crate::terminal::{self, Relay};

/// Runs and gives the exit code.
pub async fn run(args: RunArgs, mut environment: Environment) -> Result<u8, Failure> {
    let quiet = args.quiet;
    let summary_json = args.summary_json.clone();
    if let Some(dir) = &args.workdir {
        environment.places.cwd = environment.places.cwd.join(dir);
    }
    let request = request(args, environment)?;
    let mut running = supervisor::start(request).await.map_err(failure)?;
    // Before the terminal is made raw: from then on no signal may end this process without giving it back.
    let heard = Heard::from_now_on();
    let program = running.program().to_owned();
    let stdio = running.take_stdio().expect("the streams of a run are taken once, here");
    let relay = match stdio {
        Stdio::Terminal(master) => Relay::terminal(master),
        Stdio::Pipes { stdin, stdout, stderr } => Relay::pipes(stdin, stdout, stderr),
    }
    .map_err(|e| Failure::new(Exit::Failed, &e))?;
    let signals = tokio::spawn(pass_signals(heard, running.control()));
    let summary = running.wait().await;
    tokio::task::block_in_place(|| relay.finish());
    signals.abort();
    let summary = summary.map_err(failure)?;
    if let Some(path) = summary_json {
        write_json(&path, &summary)?;
    }
    if !quiet {
        eprint!("{}", render(&summary, Palette::stderr()));
    }
    if let Ended::NotStarted(_) = summary.ended {
        eprintln!("error: `{}` was not found in the bottle, or cannot be executed there", printable(&program));
        eprintln!("hint: programs are looked up in {}", carboy_control::inside::PATH_INSIDE);
    }
    Ok(summary.ended.shell_code())
}

fn request(args: RunArgs, environment: Environment) -> Result<RunRequest, Failure> {
    let places = environment.places.clone();
    let manifest_request = Request { agent: args.agent.clone(), bottles: args.bottles.clone(), places };
    let effective = Manifest::load(&DiskFiles, &manifest_request)
        .map_err(|diagnostics| failure(RunError::Manifest(diagnostics)))?;
    for warning in effective.warnings.iter() {
        eprintln!("{warning}");
    }
    let workdir = environment.places.cwd.canonicalize().map_err(|e| {
        Failure::words(Exit::Usage, format!("working directory {}: {e}", environment.places.cwd.display()))
    })?;
    let env = args.env.iter().map(|spec| variable(spec)).collect::<Result<Vec<_>, _>>()?;
    let binds = args.binds.iter().map(|spec| bind(spec, &environment.places.cwd)).collect::<Result<Vec<_>, _>>()?;
    let host_ids = match &args.user {
        Some(name) => Some(carboy_control::host_user::ids_of(name).map_err(|e| Failure::new(Exit::Usage, &e))?),
        None => None,
    };
    let env_set = variables(&effective, &env)?;
    let terminal = !args.no_tty && terminal::is_interactive();
    let (rows, cols) = terminal::window();
    let stdio = if terminal { StdioMode::Terminal { rows, cols } } else { StdioMode::Pipes };
    let audit_key = environment.audit_key()?;
    Ok(RunRequest {
        home: environment.home,
        places: environment.places,
        effective,
        command: args.command,
        workdir,
        env_set,
        env,
        binds,
        host_ids,
        stdio,
        terminal: terminal.then(|| std::env::var("TERM").unwrap_or_else(|_| "xterm".into())),
        lookup: environment.lookup,
        files: Arc::new(DiskFiles),
        audit_key,
        tell: Arc::new(|text| {
            // The terminal may be raw: a carriage return brings the cursor back.
            eprint!("\r\ncarboy: {}\r\n", text.replace('\n', "\r\n"));
        }),
    })
}

/// The provider's and the bottle's variables. M18: a `?` variable is asked for, or given with `--env`.
fn variables(effective: &Effective, flags: &[(String, String)]) -> Result<BTreeMap<String, String>, Failure> {
    let mut values = BTreeMap::new();
    for (name, value) in effective.provider.env.iter().chain(&effective.env) {
        let given = flags.iter().find(|(flag, _)| flag == name).map(|(_, value)| value.clone());
        let value = match (value, given) {
            (_, Some(given)) => given,
            (EnvValue::Set(text), None) => text.clone(),
            (EnvValue::Prompt(message), None) => terminal::ask(&format!("{}: ", printable(message))).map_err(|_| {
                Failure::words(Exit::Usage, format!("variable {name} is asked for at launch, and there is no terminal"))
                    .hint(format!("give it with `--env {name}=VALUE`"))
            })?,
        };
        values.insert(name.clone(), value);
    }
    Ok(values)
}

fn variable(spec: &str) -> Result<(String, String), Failure> {
    let (name, value) = match spec.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            let value = std::env::var(spec).map_err(|_| {
                Failure::words(Exit::Usage, format!("--env {spec}: this shell has no text variable of that name"))
                    .hint(format!("give its value: `--env {spec}=VALUE`"))
            })?;
            (spec, value)
        }
    };
    if name.is_empty() || name.contains('\0') || value.contains('\0') {
        return Err(Failure::words(Exit::Usage, format!("--env {spec}: not NAME=VALUE")));
    }
    Ok((name.to_owned(), value))
}

fn bind(spec: &str, cwd: &Path) -> Result<Bind, Failure> {
    let usage =
        |what: String| Failure::words(Exit::Usage, format!("--bind {spec}: {what}")).hint("SOURCE[:TARGET][:ro|rw]");
    let mut parts: Vec<&str> = spec.split(':').collect();
    let access = match parts.last() {
        Some(&"ro") => (parts.pop(), Access::ReadOnly).1,
        Some(&"rw") => (parts.pop(), Access::ReadWrite).1,
        Some(_) | None => Access::ReadOnly,
    };
    let (source, target) = match parts[..] {
        [source] => (source, None),
        [source, target] => (source, Some(target)),
        _ => return Err(usage("not one source and one target".into())),
    };
    let source = cwd.join(source).canonicalize().map_err(|e| usage(format!("{source}: {e}")))?;
    let target = target.map_or_else(|| source.clone(), PathBuf::from);
    if !target.is_absolute() {
        return Err(usage("the target is not an absolute path".into()));
    }
    Ok(Bind { source, target, access })
}

/// The signals that concern a run; `None` is one that stays ignored.
struct Heard {
    resized: Option<Signal>,
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Heard {
    fn from_now_on() -> Heard {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hear = |kind| {
            let heard = !ignored(&status, kind);
            heard.then(|| signal(kind).expect("a signal handler can be set for every signal named here"))
        };
        Heard {
            resized: hear(SignalKind::window_change()),
            interrupt: hear(SignalKind::interrupt()),
            terminate: hear(SignalKind::terminate()),
            hangup: hear(SignalKind::hangup()),
        }
    }
}

async fn pass_signals(mut heard: Heard, control: Control) {
    let mut asked = false;
    loop {
        tokio::select! {
            () = next(&mut heard.resized) => {
                let (rows, cols) = terminal::window();
                control.resize(rows, cols);
            }
            // In raw mode Ctrl-C is a byte that the bottle's own terminal turns into a signal; this one comes from pipes.
            () = next(&mut heard.interrupt) => {
                if asked { control.kill() } else { control.signal(rustix::process::Signal::INT.as_raw()) }
                asked = true;
            }
            () = next(&mut heard.terminate) => {
                if asked { control.kill() } else { control.stop() }
                asked = true;
            }
            () = next(&mut heard.hangup) => control.stop(),
        }
    }
}

/// Was carboy started with this signal ignored? `nohup` and a script's `&` mean that it stays so.
fn ignored(status: &str, kind: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask & 1 << (kind.as_raw_value() - 1) != 0
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

fn write_json(path: &Path, summary: &Summary) -> Result<(), Failure> {
    let text = serde_json::to_string(summary).map_err(|e| Failure::new(Exit::Failed, &e))?;
    if path == Path::new("-") {
        eprintln!("{text}");
        return Ok(());
    }
    std::fs::write(path, text + "\n")
        .map_err(|e| Failure::words(Exit::Failed, format!("cannot write the summary to {}: {e}", path.display())))
}

/// The summary for people.
pub fn render(summary: &Summary, palette: Palette) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let ended = match summary.ended {
        Ended::Code(0) => palette.good("ended well"),
        Ended::Code(code) => palette.bad(&format!("ended with code {code}")),
        Ended::Signal(signal) => palette.bad(&format!("ended by signal {signal}")),
        Ended::NotStarted(_) => palette.bad("not started"),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "\n{} {} of bottle {} {ended} after {}",
        palette.strong("carboy:"),
        summary.run,
        summary.bottle,
        report::duration(summary.duration_ms)
    );
    let _ = writeln!(
        out,
        "  requests   {}; {} out, {} in",
        summary.requests,
        report::bytes(summary.bytes_out),
        report::bytes(summary.bytes_in)
    );
    for refused in &summary.refusals {
        let _ = writeln!(out, "  refused    {} × {}: {}", refused.count, palette.bad(refused.reason), refused.what);
        for example in &refused.examples {
            let _ = writeln!(out, "             {}", printable(&example.detail_or_host()));
            if let Some(allow) = &example.allow {
                let _ = writeln!(
                    out,
                    "               {} {}",
                    palette.faint("to allow:"),
                    palette.strong(&printable(allow))
                );
            }
        }
        if refused.examples.iter().all(|e| e.allow.is_none()) {
            let _ = writeln!(out, "               {} {}", palette.faint("next:"), refused.next);
        }
    }
    for found in &summary.findings {
        let _ = writeln!(out, "  found      {} × {}", found.count, palette.warn(&printable(&found.rule)));
    }
    for changed in &summary.quarantined {
        let _ = writeln!(out, "  put back   {}", palette.warn(&printable(changed)));
    }
    let _ = writeln!(out, "  log        carboy logs {}", summary.run);
    out
}

/// From a run's error to an exit code and a hint.
pub fn failure(error: RunError) -> Failure {
    match &error {
        RunError::Manifest(_) => Failure::new(Exit::Config, &error).hint("`carboy check` looks at every file"),
        RunError::Show(_) | RunError::SecretInside { .. } => Failure::new(Exit::Refused, &error),
        RunError::Launch(_) => {
            Failure::new(Exit::HostNotCapable, &error).hint("`carboy doctor` says what this machine can give")
        }
        RunError::Vault(_) | RunError::Secret(_) => Failure::new(Exit::Config, &error),
        RunError::Home(_) | RunError::Authority(_) | RunError::Audit(_) | RunError::System { .. } => {
            Failure::new(Exit::Failed, &error)
        }
    }
}
