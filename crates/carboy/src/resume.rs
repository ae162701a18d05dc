//! `carboy resume`: a run that was stopped goes on; one that was frozen, or lost, is started again.
//!
//! ```text
//! lives: cut off, paused ─► asked to go on ─► attached
//! frozen, lost ─► the flags it had ─► `run`, under its old id
//! ```
//!
//! *Must never* start again a run that lives, or write down the value of a variable.

use std::ffi::OsString;
use std::path::Path;

use carboy_control::registry::{self, Answer, Question, RunRecord};
use carboy_control::resume::{self, Again, Waiting};
use carboy_core::ids::RunId;
use carboy_manifest::providers::Task;

use crate::args::{ResumeArgs, RunArgs};
use crate::environment::Environment;
use crate::report::{Exit, Failure, Palette, printable};
use crate::watching::Meant;
use crate::{apart, run, terminal, watching};

/// What is let go on.
enum Stopped {
    /// It lives, and its supervisor does it.
    Lives(Box<Answer>),
    /// It is started again.
    Waits(Box<Waiting>),
}

impl Stopped {
    fn record(&self) -> &RunRecord {
        match self {
            Stopped::Lives(answer) => &answer.record,
            Stopped::Waits(waiting) => &waiting.past.record,
        }
    }

    fn state(&self) -> &str {
        match self {
            Stopped::Lives(answer) => &answer.state,
            Stopped::Waits(waiting) => waiting.word(),
        }
    }

    /// A chat agent of this name that lives?
    fn is_agent(&self, name: Option<&str>) -> bool {
        matches!(self, Stopped::Lives(answer) if name.is_some() && answer.record.agent.as_deref() == name)
    }

    fn is_lost(&self) -> bool {
        matches!(self, Stopped::Waits(waiting) if !waiting.is_frozen())
    }
}

/// Lets runs go on.
pub async fn resume(args: ResumeArgs, environment: Environment) -> Result<u8, Failure> {
    if args.all {
        return all(&args, &environment).await;
    }
    match the_one(args.target.as_deref(), &environment)? {
        Stopped::Lives(answer) => {
            go_on(&answer.record)?;
            let attaches = !args.detach && !args.json && answer.record.terminal && terminal::is_interactive();
            match attaches {
                true => watching::look_on(&answer.record, args.detach_key, &environment),
                false => apart::say(&answer.record, args.json),
            }
        }
        Stopped::Waits(waiting) => start_again(&waiting, &args, environment).await,
    }
}

/// Every one that was stopped on purpose. One that cannot go on does not keep the others from it.
async fn all(args: &ResumeArgs, environment: &Environment) -> Result<u8, Failure> {
    let found: Vec<Stopped> = stopped(environment)?.into_iter().filter(|one| !one.is_lost()).collect();
    if found.is_empty() {
        say!("nothing is stopped");
        return Ok(0);
    }
    let mut code = 0;
    for one in &found {
        let went = match one {
            Stopped::Lives(answer) => go_on(&answer.record).and_then(|()| apart::say(&answer.record, args.json)),
            Stopped::Waits(waiting) => apart_again(waiting, args, environment, Detached::Yes).await,
        };
        let this = went.unwrap_or_else(|failure| {
            let hint = failure.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            say!("{}: {}{hint}", one.record().run, failure.message);
            failure.exit as u8
        });
        code = if code == 0 { this } else { code };
    }
    Ok(code)
}

fn go_on(record: &RunRecord) -> Result<(), Failure> {
    say!("{}", let_go_on(record)?);
    Ok(())
}

/// Its supervisor opens its routes and lets its processes run. What it says of that.
pub fn let_go_on(record: &RunRecord) -> Result<String, Failure> {
    let (answer, _) = registry::open(record, &Question::Resume).map_err(|error| match error {
        registry::AskError::No { .. } => Failure::new(Exit::Refused, &error),
        registry::AskError::Silent { .. } | registry::AskError::Home(_) => watching::failed(error),
    })?;
    Ok(format!("{} of bottle {} goes on ({})", record.run, record.bottle, answer.state))
}

/// Everything that could go on: what lives and is stopped, then what was frozen or lost, oldest first.
fn stopped(environment: &Environment) -> Result<Vec<Stopped>, Failure> {
    let mut live = registry::live_runs(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
    live.retain(|answer| answer.why.is_some());
    let lives = registry::without_carried(live).into_iter().map(|answer| Stopped::Lives(Box::new(answer)));
    let waits = resume::waiting(&environment.home).into_iter().map(|one| Stopped::Waits(Box::new(one)));
    Ok(lives.chain(waits).collect())
}

/// Names of what could go on, and of its bottles.
pub fn stopped_names(environment: &Environment) -> Result<Vec<String>, Failure> {
    let names = |one: Stopped| [one.record().run.clone(), one.record().bottle.clone()];
    Ok(stopped(environment)?.into_iter().flat_map(names).collect())
}

fn the_one(target: Option<&str>, environment: &Environment) -> Result<Stopped, Failure> {
    let fits = |one: &Stopped| target.is_none_or(|target| one.record().run == target || one.record().bottle == target);
    let (mut found, others): (Vec<Stopped>, Vec<Stopped>) = stopped(environment)?.into_iter().partition(fits);
    // A chat agent's bottle is its own, and its name is not what people know it by.
    if found.is_empty() {
        found = others.into_iter().filter(|one| one.is_agent(target)).collect();
    }
    let by_id = |one: &Stopped| target.is_some_and(|target| one.record().run == target);
    if let Some(at) = found.iter().position(by_id) {
        return Ok(found.swap_remove(at));
    }
    // One that was lost is gone on with when it is named, or its bottle is and nothing of it was stopped on purpose.
    let on_purpose = found.iter().filter(|one| !one.is_lost()).count();
    let lost: Vec<String> = found.iter().filter(|one| one.is_lost()).map(|one| one.record().run.clone()).collect();
    if on_purpose > 0 {
        found.retain(|one| !one.is_lost());
    } else if target.is_none() {
        found.clear();
    }
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(one), false) => {
            let line =
                |one: &Stopped| format!("{} of bottle {} ({})", one.record().run, one.record().bottle, one.state());
            let lines: Vec<String> = found.iter().chain([&one]).map(line).collect();
            Err(Failure::words(Exit::Usage, format!("several runs could go on: {}", lines.join(", ")))
                .hint("name one of them, or `--all`"))
        }
        (None, _) => Err(nothing(target, &lost, environment)),
    }
}

/// Why there is nothing to resume, and what there is instead.
fn nothing(target: Option<&str>, lost: &[String], environment: &Environment) -> Failure {
    let what = target.map_or("nothing is stopped".to_owned(), |target| format!("nothing of `{target}` is stopped"));
    let failure = Failure::words(Exit::Found, what);
    let lives = target.and_then(|target| watching::live_one(target, Meant::Agent, environment).ok());
    match (lives, lost.last()) {
        (Some(record), _) => failure.hint(format!("run {0} goes on: `carboy attach {0}` looks in", record.run)),
        (None, Some(run)) => failure.hint(format!("run {run} was lost: `carboy resume {run}` starts it again")),
        (None, None) => {
            let instead = target.and_then(|target| watching::instead(target, environment));
            failure.hint(instead.unwrap_or_else(|| "`carboy ps -a` lists the runs that there were".into()))
        }
    }
}

async fn start_again(waiting: &Waiting, args: &ResumeArgs, environment: Environment) -> Result<u8, Failure> {
    let no_tty = kept(waiting)?.no_tty;
    if args.detach || args.json {
        apart_again(waiting, args, &environment, Detached::Yes).await
    } else if !no_tty && terminal::is_interactive() {
        apart_again(waiting, args, &environment, Detached::No).await
    } else {
        let run_args = of(waiting, args)?;
        run::here(run_args, environment).await
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Detached {
    Yes,
    No,
}

/// In a process of its own, which reads the same flags again.
async fn apart_again(
    waiting: &Waiting,
    args: &ResumeArgs,
    environment: &Environment,
    detached: Detached,
) -> Result<u8, Failure> {
    let run_args = RunArgs { detach: detached == Detached::Yes, record_json: args.json, ..of(waiting, args)? };
    let mut words: Vec<OsString> = vec!["--home".into(), environment.home.root().into(), "resume".into()];
    words.extend(args.env.iter().map(|env| format!("--env={env}").into()));
    words.extend(args.trust.then(|| "--trust".into()));
    words.extend((detached == Detached::Yes).then(|| "--detach".into()));
    words.push((&waiting.past.record.run).into());
    say!("{}", line(waiting));
    apart::run(&run_args, words, environment).await
}

/// What is about to be done.
fn line(waiting: &Waiting) -> String {
    let record = &waiting.past.record;
    let why = waiting.resumable.why.as_deref().map(|why| format!(" ({})", printable(why))).unwrap_or_default();
    let run = Palette::stderr().strong(&record.run);
    format!("{run} of bottle {} was {}{why}, and is started again", record.bottle, waiting.word())
}

/// The arguments of `run` for the second process.
pub fn run_args(args: &ResumeArgs, environment: &Environment) -> Result<RunArgs, Failure> {
    match the_one(args.target.as_deref(), environment)? {
        Stopped::Waits(waiting) => of(&waiting, args),
        Stopped::Lives(answer) => Err(Failure::words(Exit::Refused, format!("run {} lives", answer.record.run))),
    }
}

/// The flags it had, and those of now.
fn of(waiting: &Waiting, args: &ResumeArgs) -> Result<RunArgs, Failure> {
    let record = &waiting.past.record;
    let run = RunId::parse(&record.run).map_err(|e| Failure::words(Exit::Failed, format!("{}: {e}", record.run)))?;
    let kept = kept(waiting)?;
    let name = |spec: &str| spec.split_once('=').map_or(spec, |(name, _)| name).to_owned();
    let given: Vec<String> = args.env.iter().map(|spec| name(spec)).collect();
    let rest = kept.env.iter().filter(|name| !given.contains(name)).cloned();
    let again = Again { run, before: waiting.resumable.clone() };
    Ok(RunArgs {
        env: rest.chain(args.env.iter().cloned()).collect(),
        trust: args.trust,
        detach: args.detach,
        detach_key: args.detach_key,
        again: Some(Box::new(again)),
        ..kept
    })
}

fn kept(waiting: &Waiting) -> Result<RunArgs, Failure> {
    serde_json::from_value(waiting.resumable.flags.clone()).map_err(|e| {
        Failure::words(Exit::Failed, format!("the flags of run {} cannot be read: {e}", waiting.past.record.run))
            .hint("another version of carboy has written them; start it with `carboy run`, its bottle is as it was")
    })
}

/// The flags of a run, as they are kept: every path absolute, the task as it was read, of variables the names alone.
pub fn flags(args: &RunArgs, task: &Task, workdir: &Path) -> Result<serde_json::Value, Failure> {
    let name = |spec: &String| spec.split_once('=').map_or(spec.as_str(), |(name, _)| name).to_owned();
    let absolute = |path: &std::path::PathBuf| match path.as_os_str() == "-" {
        true => path.clone(),
        false => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
    };
    let kept = RunArgs {
        workdir: Some(workdir.to_owned()),
        env: args.env.iter().map(name).collect(),
        summary_json: args.summary_json.as_ref().map(absolute),
        task: None,
        task_text: match task {
            Task::Headless(text) => Some(text.clone()),
            Task::Interactive => None,
        },
        trust: false,
        detach: false,
        ..args.clone()
    };
    serde_json::to_value(kept).map_err(|e| Failure::new(Exit::Usage, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_of_a_variable_that_was_given_by_hand_only_the_name_is_kept() {
        let args = RunArgs {
            agent: Some("claude".into()),
            env: vec!["TOKEN=s3cr3t=x".into(), "PLAIN".into()],
            task: Some("@file".into()),
            trust: true,
            detach: true,
            learn: true,
            ..RunArgs::default()
        };
        let kept = flags(&args, &Task::Headless("- the text".into()), Path::new("/w")).ok().unwrap();
        assert!(!kept.to_string().contains("s3cr3t"), "{kept}");
        let read: RunArgs = serde_json::from_value(kept).unwrap();
        assert_eq!(read.env, ["TOKEN", "PLAIN"]);
        assert_eq!((read.task, read.task_text.as_deref()), (None, Some("- the text")));
        // Agreed to once is not agreed to for good, and who looks on is said anew.
        assert_eq!((read.trust, read.detach, read.learn), (false, false, true));
        assert_eq!(read.workdir.as_deref(), Some(Path::new("/w")));
        // One that was kept by an older carboy has what it did not know by default.
        assert!(serde_json::from_str::<RunArgs>("{}").is_ok());
    }
}
