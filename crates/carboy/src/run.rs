//! `carboy run`: the person's side of a run. Arguments in, the terminal joined, signals passed on, the summary out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carboy_control::bottle::Stdio;
use carboy_control::home::Home;
use carboy_control::image::ImageError;
use carboy_control::registry::{self, RunRecord};
use carboy_control::resume::AgainError;
use carboy_control::session::{First, Keep, Streaming};
use carboy_control::summary::{Ended, RefusedKind, Summary};
use carboy_control::supervisor::{self, Learning, RunError, RunRequest, Workplace};
use carboy_control::workspace::WorkspaceError;
use carboy_core::ids::{BottleName, RunId};
use carboy_core::plan::{Access, Bind, StdioMode};
use carboy_manifest::providers::Task;
use carboy_manifest::{Effective, EnvValue, Request};

use crate::applications::ProgramFiles;
use crate::args::RunArgs;
use crate::environment::Environment;
use crate::report::{self, Exit, Failure, Palette, printable};
use crate::signals::{self, Heard};
use crate::summary_file::SummaryTo;
use crate::terminal::{self, Relay};
use crate::{allow, apart, budget, chat, resume, task, trust};

/// What a shell gives for a program that is not there.
const NOT_FOUND: u8 = 127;

/// Where a run's streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This process's own pipes.
    Here,
    /// A session of its own; a person with this window is about to attach, or nobody.
    Apart(Option<(u16, u16)>),
}

/// Window of a detached run until somebody attaches.
const NOBODYS_WINDOW: (u16, u16) = (24, 80);

/// Runs and gives the exit code.
pub async fn run(args: RunArgs, environment: Environment) -> Result<u8, Failure> {
    match (chat::is_one(&args, &environment), args.chat.first()) {
        (Ok(true), _) => return chat::run(args, environment).await,
        (Ok(false), Some(flag)) => {
            return Err(Failure::words(Exit::Usage, format!("`{flag}` is for chat agents, and this is none"))
                .hint("`carboy check` says of each agent what it is"));
        }
        (Err(errors), Some(_)) => return Err(Failure::diagnostics(Exit::Config, &errors)),
        // Without such a flag the errors are those of the run.
        (Ok(false) | Err(_), None) => {}
    }
    if args.detach || (!args.no_tty && terminal::is_interactive()) {
        let typed = std::env::args_os().skip(1).collect();
        apart::run(&args, typed, &environment).await
    } else {
        here(args, environment).await
    }
}

/// A run between this process's own pipes.
pub async fn here(args: RunArgs, mut environment: Environment) -> Result<u8, Failure> {
    let quiet = args.quiet;
    let closing = Closing::of(&args, &environment)?;
    if let Some(dir) = &args.workdir {
        environment.places.cwd = environment.places.cwd.join(dir);
    }
    let request = request(args, environment, Place::Here)?;
    let workplace = request.workplace.clone();
    // Before the bottle is made: from then on no signal may end this process without the workspace being put in order.
    // One that comes early reaches the program when it has started.
    let heard = Heard::from_now_on();
    let mut running = supervisor::start(request).await.map_err(|error| not_ones_own(error, &workplace))?;
    let record = running.record().clone();
    let relay = match running.take_stdio().expect("the streams of a run are taken once, here") {
        Stdio::Terminal(_) => unreachable!("a run at a terminal has a session"),
        Stdio::Pipes { stdin, stdout, stderr } => Relay::pipes(stdin, stdout, stderr),
    }
    .map_err(|e| Failure::new(Exit::Failed, &e))?;
    let signals = tokio::spawn(signals::pass_to(heard, running.control()));
    let (ended, farewell) = running.ended().await;
    tokio::task::block_in_place(|| relay.finish());
    signals.abort();
    let closed = closing.close(&record, &ended, &mut std::io::stderr());
    farewell.say(&ended).await;
    let summary = ended.map_err(failure)?;
    closed?;
    tell_end(&summary, &record, quiet);
    Ok(summary.exit_code())
}

/// The end for the person.
pub fn tell_end(summary: &Summary, record: &RunRecord, quiet: bool) {
    if let Ended::NotStarted(code) = summary.ended {
        // Nothing ran: the error is the whole story.
        say_part!("{}", not_started(&record.command[0], code, Palette::stderr()));
        if code == NOT_FOUND {
            for line in task::where_it_is(&record.command[0], &record.workdir) {
                say!("{} {line}", Palette::stderr().strong("hint:"));
            }
        }
        return;
    }
    if !quiet {
        let told = report::wrapped(&render(summary, Palette::stderr()), report::columns(std::io::stderr()));
        say_part!("{told}{}", allow::proposed_diff(summary));
    }
}

/// What is done when a run has ended, before anybody is told.
pub struct Closing {
    summary_to: Option<SummaryTo>,
    remove: Option<Home>,
}

impl Closing {
    /// Opens what is needed for it. The summary's directory before the bottle can put another in its place.
    pub fn of(args: &RunArgs, environment: &Environment) -> Result<Closing, Failure> {
        let summary_to = args.summary_json.as_deref().map(SummaryTo::open).transpose()?;
        Ok(Closing { summary_to, remove: args.rm.then(|| environment.home.clone()) })
    }

    /// Writes the summary to where it was asked for, and removes what `--rm` removes.
    pub fn close(
        self,
        record: &RunRecord,
        ended: &Result<Summary, RunError>,
        say: &mut dyn std::io::Write,
    ) -> Result<(), Failure> {
        let written = match (self.summary_to, ended) {
            (Some(to), Ok(summary)) => to.write(summary),
            (Some(_) | None, _) => Ok(()),
        };
        // One that was frozen is to find everything when it goes on.
        let is_frozen = ended.as_ref().is_ok_and(|summary| summary.ended == Ended::Frozen);
        if let Some(home) = self.remove.as_ref().filter(|_| !is_frozen) {
            let names = (BottleName::parse(&record.bottle), RunId::parse(&record.run));
            if let (Ok(bottle), Ok(run)) = names
                && let Err(error) = carboy_control::runs::remove_bottle(home, &bottle, &run)
            {
                // Of no consequence for the run; the person sees what is still there.
                let _ = writeln!(say, "carboy: {error}");
            }
        }
        written
    }
}

/// A second run in the same directory is nearly always one that was forgotten; with `--rm` it would lose its state.
fn may_start(request: &RunRequest, another: bool, rm: bool) -> Result<(), Failure> {
    let live = registry::live_runs(&request.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
    let bottle = request.effective.bottle.as_str();
    let same_bottle = || live.iter().map(|live| &live.record).filter(|record| record.bottle == bottle);
    let refused = |record: &RunRecord, what: &str, hint: String| {
        Err(Failure::words(Exit::Refused, format!("run {} of bottle {bottle} lives{what}", record.run)).hint(hint))
    };
    if let (true, Some(record)) = (rm, same_bottle().next()) {
        return refused(record, ", and `--rm` would remove its state", "wait for its end, or leave `--rm` out".into());
    }
    match same_bottle().find(|record| Some(&*record.workdir) == request.workplace.directory()) {
        Some(record) if !another => refused(
            record,
            " in this directory",
            format!(
                "`carboy attach {0}` looks in, `carboy exec {0} -- COMMAND` runs one more command there; `--another` starts \
                 another run that shares its home",
                record.run
            ),
        ),
        Some(_) | None => Ok(()),
    }
}

/// Why the program did not start, and how to show it to the bottle.
pub fn not_started(program: &str, code: u8, palette: Palette) -> String {
    let name = printable(program);
    let (error, hint) = (palette.bad("error:"), palette.strong("hint:"));
    if code != NOT_FOUND {
        return format!(
            "{error} `{name}` is there, but cannot be executed in the bottle\n\
             {hint} look at its mode (`chmod +x`) and at the program that its first line names\n\
             {hint} a program made for another system lacks its loader here: an image without glibc does not start one that \
             needs it\n"
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
pub fn not_ones_own(error: RunError, workplace: &Workplace) -> Failure {
    use rustix::fs::Access;
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let Some(workdir) = workplace.directory() else { return failure(error) };
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

pub fn request(args: RunArgs, environment: Environment, place: Place) -> Result<RunRequest, Failure> {
    let places = environment.places.clone();
    let manifest_request = Request { agent: args.agent.clone(), bottles: args.bottles.clone(), places };
    let answer = if args.trust { trust::Answer::Yes } else { trust::Answer::Ask };
    let mut effective = trust::load(&manifest_request, &environment.home, answer)
        .map_err(|failure| meant_the_bottle(failure, &args, &environment))?;
    crate::ports::add_flags(&args, &environment, &mut effective)?;
    if args.overlay {
        effective.workspace = carboy_manifest::Workspace::Overlay;
    }
    crate::budget::take_flag(&args.budget, &mut effective)?;
    for warning in effective.warnings.iter() {
        say!("{warning}");
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
    let task = match &args.task_text {
        Some(text) => Task::Headless(text.clone()),
        None => task::of(args.task.as_deref())?,
    };
    let flags = resume::flags(&args, &task, &workdir)?;
    let (stdio, first) = streams(place, args.no_tty);
    let keep = if args.no_output { Keep::Nothing } else { Keep::Output };
    let audit_key = environment.audit_key()?;
    let request = RunRequest {
        home: environment.home,
        places: environment.places,
        effective,
        command: args.command,
        task,
        workplace: Workplace::Directory(workdir),
        env_set,
        env,
        binds,
        scripts: Vec::new(),
        host_ids,
        stdio,
        terminal: (stdio != StdioMode::Pipes).then(|| std::env::var("TERM").unwrap_or_else(|_| "xterm".into())),
        lookup: environment.lookup,
        files: Arc::new(ProgramFiles),
        learning: if args.learn { Learning::On } else { Learning::Off },
        flags: Some(flags),
        again: args.again.map(|again| *again),
        keeping: Default::default(),
        audit_key,
        tell: Arc::new(|text| {
            // The terminal may be raw: a carriage return brings the cursor back.
            say_part!("\r\ncarboy: {}\r\n", text.replace('\n', "\r\n"));
        }),
        progress: Arc::new(|text| say!("carboy: {text}")),
        streaming: match place {
            Place::Here => Streaming::Direct,
            Place::Apart(_) => Streaming::Session { first, keep, started_at: terminal::name() },
        },
    };
    may_start(&request, args.another, args.rm)?;
    Ok(request)
}

/// How the program's streams are connected, and who looks on at the start.
fn streams(place: Place, no_tty: bool) -> (StdioMode, First) {
    let terminal = |(rows, cols)| StdioMode::Terminal { rows, cols };
    match place {
        Place::Apart(Some(window)) => (terminal(window), First::Awaited),
        Place::Apart(None) if !no_tty => (terminal(NOBODYS_WINDOW), First::Nobody),
        Place::Apart(None) | Place::Here => (StdioMode::Pipes, First::Nobody),
    }
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

pub fn variable(spec: &str) -> Result<(String, String), Failure> {
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

/// The summary for people.
pub fn render(summary: &Summary, palette: Palette) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let ended = match summary.ended {
        Ended::Code(0) => palette.good("ended well"),
        Ended::Code(code) => palette.bad(&format!("ended with code {code}")),
        Ended::Signal(signal) => palette.bad(&format!("ended by signal {signal}")),
        Ended::NotStarted(_) => palette.bad("not started"),
        Ended::Frozen => palette.warn("was frozen"),
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
    for spent in &summary.tokens {
        let _ = writeln!(out, "  tokens     {}", budget::spent(spent));
    }
    out.push_str(&report::enforced(summary, palette));
    let of_kind = |kind| summary.refusals.iter().filter(move |refused| refused.kind == kind);
    for refused in of_kind(RefusedKind::Refused).chain(of_kind(RefusedKind::Failed)) {
        let label = match refused.kind {
            RefusedKind::Refused => "refused",
            RefusedKind::Failed => "failed",
        };
        let _ = writeln!(out, "  {label:<10} {} × {}: {}", refused.count, palette.bad(&refused.reason), refused.what);
        for example in &refused.examples {
            let _ = writeln!(out, "             {}", printable(&example.detail_or_host()));
            let (label, command) = match &example.allow {
                Some(allow) => ("to allow:", allow.clone()),
                None => ("explained:", format!("carboy explain {}", example.id)),
            };
            let _ = writeln!(out, "               {} {}", palette.faint(label), palette.strong(&printable(&command)));
        }
        if refused.examples.iter().all(|e| e.allow.is_none()) {
            let _ = writeln!(out, "               {} {}", palette.faint("next:"), refused.next);
        }
    }
    if summary.web_sockets > 0 {
        let attempts = if summary.web_sockets == 1 { "attempt" } else { "attempts" };
        let note =
            format!("{} WebSocket {attempts} answered with 426: its client goes on over HTTP", summary.web_sockets);
        let _ = writeln!(out, "  note       {}", palette.faint(&note));
    }
    for port in &summary.ports {
        let _ = writeln!(out, "  {:<10} {}", port.key, report::port(port));
    }
    for found in &summary.findings {
        let _ = writeln!(out, "  found      {} × {}", found.count, palette.warn(&printable(&found.rule)));
    }
    for changed in &summary.quarantined {
        let _ = writeln!(out, "  put back   {}", palette.warn(&printable(changed)));
    }
    for (i, found) in summary.noticed.iter().enumerate() {
        let label = if i == 0 { "beware" } else { "" };
        let _ = writeln!(out, "  {label:<10} {}", palette.warn(&printable(found)));
    }
    if let Some(workspace) = &summary.overlay {
        let look = palette.strong(&format!("carboy bottle diff {}", summary.bottle));
        let _ = writeln!(out, "  overlay    changes of {} wait: {look}", printable(workspace));
    }
    let _ = writeln!(out, "  log        carboy logs {}", summary.run);
    if let Some(proposed) = &summary.proposed {
        out.push_str(&report::proposed(proposed, palette));
    }
    out
}

/// From a run's error to an exit code and a hint.
pub fn failure(error: RunError) -> Failure {
    match &error {
        RunError::Manifest(diagnostics) => Failure::diagnostics(Exit::Config, diagnostics),
        RunError::Show(_) | RunError::SecretInside { .. } => Failure::new(Exit::Refused, &error),
        RunError::Again(AgainError::Lives { .. } | AgainError::StillSpent(_)) => Failure::new(Exit::Refused, &error),
        RunError::Again(AgainError::Failed { .. }) => Failure::new(Exit::Failed, &error),
        RunError::Port(_) => Failure::new(Exit::Config, &error),
        RunError::Workspace(WorkspaceError::Busy { .. } | WorkspaceError::LayerInUse { .. }) => {
            Failure::new(Exit::Refused, &error)
        }
        RunError::Workspace(_) => Failure::new(Exit::Failed, &error),
        RunError::Launch(_) => {
            Failure::new(Exit::HostNotCapable, &error).hint("`carboy doctor` says what this machine can give")
        }
        RunError::Vault(secret) => {
            let failure = Failure::new(Exit::Config, &error);
            secret.next_step().into_iter().fold(failure, |failure, step| failure.hint(crate::report::printable(&step)))
        }
        RunError::Secret(_) => Failure::new(Exit::Config, &error),
        RunError::Image(ImageError::Refused { .. }) => Failure::new(Exit::Refused, &error),
        RunError::Image(ImageError::Interrupted) => Failure::new(Exit::Failed, &error),
        RunError::Image(_) => Failure::new(Exit::Config, &error),
        RunError::Seed(_)
        | RunError::Home(_)
        | RunError::Authority(_)
        | RunError::Audit(_)
        | RunError::Ledger(_)
        | RunError::System { .. } => Failure::new(Exit::Failed, &error),
    }
}
