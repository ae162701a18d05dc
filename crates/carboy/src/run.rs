//! `carboy run`: the person's side of a run. Arguments in, the terminal joined, signals passed on, the summary out.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carboy_control::bottle::Stdio;
use carboy_control::disk::DiskFiles;
use carboy_control::summary::{Ended, Summary};
use carboy_control::supervisor::{self, Control, RunError, RunRequest};
use carboy_core::plan::{Access, Bind, StdioMode};
use carboy_manifest::{Effective, EnvValue, Request};
use rustix::fs::{Mode, OFlags};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::RunArgs;
use crate::environment::Environment;
use crate::report::{self, Exit, Failure, Palette, printable};
use crate::terminal::{self, Relay};
use crate::trust;

/// What a shell gives for a program that is not there.
const NOT_FOUND: u8 = 127;

/// Runs and gives the exit code.
pub async fn run(args: RunArgs, mut environment: Environment) -> Result<u8, Failure> {
    let quiet = args.quiet;
    // Its directory is opened before the bottle can put another in its place.
    let summary_to = args.summary_json.as_deref().map(SummaryTo::open).transpose()?;
    if let Some(dir) = &args.workdir {
        environment.places.cwd = environment.places.cwd.join(dir);
    }
    let request = request(args, environment)?;
    let workdir = request.workdir.clone();
    // Before the bottle is made: from then on no signal may end this process without the workspace being put in order,
    // nor, later, without the terminal being given back. One that comes early reaches the program when it has started.
    let heard = Heard::from_now_on();
    let mut running = supervisor::start(request).await.map_err(|error| not_ones_own(error, &workdir))?;
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
    if let Some(to) = summary_to {
        to.write(&summary)?;
    }
    if !quiet {
        eprint!("{}", render(&summary, Palette::stderr()));
    }
    if let Ended::NotStarted(code) = summary.ended {
        eprint!("{}", not_started(&program, code, Palette::stderr()));
    }
    Ok(summary.ended.shell_code())
}

/// Why the program did not start, and how to show it to the bottle.
fn not_started(program: &str, code: u8, palette: Palette) -> String {
    let name = printable(program);
    let (error, hint) = (palette.bad("error:"), palette.strong("hint:"));
    if code != NOT_FOUND {
        return format!(
            "{error} `{name}` is there, but cannot be executed in the bottle\n\
             {hint} look at its mode (`chmod +x`) and at the program that its first line names\n"
        );
    }
    format!(
        "{error} `{name}` was not found in the bottle\n\
         {hint} programs are looked up in {}\n\
         {hint} your home is not visible inside; `binds` of the bottle, or `--bind DIR`, show a directory of it\n",
        carboy_control::inside::PATH_INSIDE
    )
}

/// `--user` is root's.
fn only_root(user: Option<&str>) -> Result<(), Failure> {
    match user {
        Some(name) if !rustix::process::geteuid().is_root() => {
            Err(Failure::words(Exit::Usage, format!("--user {name}: only root can run as somebody else"))
                .hint("leave it out: the bottle runs as you"))
        }
        Some(_) | None => Ok(()),
    }
}

/// A bottle that could not be made in a directory of somebody else: that is the reason, and nothing that `doctor` knows.
fn not_ones_own(error: RunError, workdir: &Path) -> Failure {
    use rustix::fs::Access;
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if let (RunError::Launch(_), Err(e)) = (&error, rustix::fs::access(workdir, all)) {
        let why = std::io::Error::from(e);
        let what = format!("working directory {}: you may not write there: {why}", workdir.display());
        return Failure::words(Exit::Usage, what).hint("choose a directory of your own (`--workdir DIR`)");
    }
    failure(error)
}

/// `carboy run work` where `work` is a bottle and no agent.
fn meant_the_bottle(failure: Failure, args: &RunArgs, environment: &Environment) -> Failure {
    let bottle_of_that_name = |name: &&String| {
        let file = |dir: PathBuf| dir.join(format!("{name}.md")).is_file();
        file(environment.places.bottles()) && !file(environment.places.agents())
    };
    match args.agent.as_ref().filter(bottle_of_that_name) {
        Some(name) if args.bottles.is_empty() => {
            failure.hint(format!("`{name}` is a bottle: `carboy run --bottle {name} -- COMMAND`"))
        }
        Some(_) | None => failure,
    }
}

fn request(args: RunArgs, environment: Environment) -> Result<RunRequest, Failure> {
    let places = environment.places.clone();
    let manifest_request = Request { agent: args.agent.clone(), bottles: args.bottles.clone(), places };
    let answer = if args.trust { trust::Answer::Yes } else { trust::Answer::Ask };
    let effective = trust::load(&manifest_request, &environment.home, answer)
        .map_err(|failure| meant_the_bottle(failure, &args, &environment))?;
    for warning in effective.warnings.iter() {
        eprintln!("{warning}");
    }
    let workdir = environment.places.cwd.canonicalize().map_err(|e| {
        Failure::words(Exit::Usage, format!("working directory {}: {e}", environment.places.cwd.display()))
    })?;
    only_root(args.user.as_deref())?;
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
    let well_formed = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !well_formed || value.contains('\0') {
        // The value may be a secret: it is not said again.
        return Err(Failure::words(Exit::Usage, format!("--env {}: not a variable's name", printable(name)))
            .hint("NAME=VALUE, or NAME; letters, digits and `_`, not beginning with a digit"));
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

/// Where `--summary-json` goes. The place may lie in the workspace, so the file there at the end may be the bottle's:
/// a link to `~/.bashrc`, or a named pipe that nobody reads. It is replaced, never opened.
enum SummaryTo {
    StandardError,
    /// A device or a pipe of the person's (`/dev/fd/63`).
    Open(PathBuf, std::fs::File),
    File {
        path: PathBuf,
        directory: OwnedFd,
        name: OsString,
    },
}

impl SummaryTo {
    fn open(path: &Path) -> Result<SummaryTo, Failure> {
        if path == Path::new("-") {
            return Ok(SummaryTo::StandardError);
        }
        let usage = |e: std::io::Error| Failure::words(Exit::Usage, format!("--summary-json {}: {e}", path.display()));
        let is_file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file() || meta.is_dir());
        if path.exists() && !is_file {
            // Without waiting: a named pipe without a reader is an error and not a wait for one.
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| usage(e.into()))?;
            rustix::io::ioctl_fionbio(&file, false).map_err(|e| usage(e.into()))?;
            return Ok(SummaryTo::Open(path.to_owned(), file.into()));
        }
        let path = std::path::absolute(path).map_err(usage)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(usage(std::io::ErrorKind::IsADirectory.into()));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty()).map_err(|e| usage(e.into()))?;
        Ok(SummaryTo::File { name: name.to_owned(), path, directory })
    }

    fn write(self, summary: &Summary) -> Result<(), Failure> {
        let mut text = serde_json::to_string(summary).map_err(|e| Failure::new(Exit::Failed, &e))?;
        text.push('\n');
        let (path, written) = match self {
            SummaryTo::StandardError => {
                eprint!("{text}");
                return Ok(());
            }
            SummaryTo::Open(path, mut file) => (path, file.write_all(text.as_bytes())),
            SummaryTo::File { path, directory, name } => (path, replace(&directory, &name, text.as_bytes())),
        };
        written
            .map_err(|e| Failure::words(Exit::Failed, format!("cannot write the summary to {}: {e}", path.display())))
    }
}

/// Puts a new file under this name in one step, whatever has the name now.
fn replace(directory: &OwnedFd, name: &OsStr, content: &[u8]) -> std::io::Result<()> {
    let draft = format!(".carboy-summary-{}", std::process::id());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::openat(directory, &draft, flags, Mode::from_raw_mode(0o644))?);
    let renamed = file.write_all(content).and_then(|()| Ok(rustix::fs::renameat(directory, &draft, directory, name)?));
    if renamed.is_err() {
        // Of no use any more.
        let _ = rustix::fs::unlinkat(directory, &draft, rustix::fs::AtFlags::empty());
    }
    renamed
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
        RunError::Manifest(diagnostics) => Failure::diagnostics(Exit::Config, diagnostics),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary {
            run: "r-1".into(),
            bottle: "b".into(),
            ended: Ended::Code(0),
            duration_ms: 1,
            tier: "T1".into(),
            requests: 0,
            bytes_out: 0,
            bytes_in: 0,
            refusals: vec![],
            findings: vec![],
            quarantined: vec![],
            audit_head: String::new(),
        }
    }

    #[test]
    fn a_link_or_a_pipe_that_the_bottle_left_in_the_summarys_place_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, at) = (dir.path().join("bashrc"), dir.path().join("reports"));
        std::fs::write(&victim, "mine").unwrap();
        std::fs::create_dir(&at).unwrap();
        let path = at.join("summary.json");
        for leave in ["link", "pipe"] {
            let to = SummaryTo::open(&path).ok().unwrap();
            let _ = std::fs::remove_file(&path);
            match leave {
                "link" => std::os::unix::fs::symlink(&victim, &path).unwrap(),
                _ => rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap(),
            }
            to.write(&summary()).ok().unwrap();
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
            assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
        }
        // A directory that was exchanged for a link does not lead elsewhere.
        let to = SummaryTo::open(&path).ok().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::rename(&at, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &at).unwrap();
        to.write(&summary()).ok().unwrap();
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
