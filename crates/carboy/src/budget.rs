//! `carboy budget`: what was spent and may yet be, and the caps that a person sets over the files'.
//!
//! *Must never* take a name for a scope that it may not be: a cap under a misspelt name looks like one and binds nobody.

mod show;

use std::collections::BTreeMap;
use std::sync::Arc;

use carboy_control::controller::{StartError, Starter};
use carboy_control::controller_client::{Answer, Call, Line, LineError, Role};
use carboy_control::{registry, runs};
use carboy_core::budget::{Amount, CapEdit, CapKey, CapKind, LedgerSnapshot, Node, Scope};
use carboy_core::ids::MeterName;
use carboy_manifest::RunBudget;
use carboy_manifest::budget::METERS;

use crate::args::{BudgetCommand, SetArgs, TopUpArgs, UnsetArgs};
use crate::controller::failed;
use crate::environment::Environment;
use crate::report::{Exit, Failure};
use crate::runtime;

pub use show::{Tokens, tokens, tokens_of};

/// Most names that an error lists.
const NAMES_MAX: usize = 12;

/// Runs one of its commands.
pub fn budget(command: BudgetCommand, environment: &Environment) -> Result<u8, Failure> {
    runtime()?.block_on(async {
        match command {
            BudgetCommand::Show(args) => show::show(&args, environment).await,
            BudgetCommand::Set(args) => set(&args, environment).await.map(|told| talk(&told)),
            BudgetCommand::Unset(args) => unset(&args, environment).await,
            BudgetCommand::TopUp(args) => top_up(&args, environment).await.map(|told| talk(&told)),
        }
    })
}

/// A line to the controller, which is started where there is none.
pub async fn line(environment: &Environment, role: Role) -> Result<Line, Failure> {
    let starter = Starter::new(&environment.home, Arc::clone(&environment.lookup) as Arc<_>);
    let starter = starter.map_err(|e| Failure::new(Exit::Failed, &e))?;
    starter.line(role).await.map_err(|error| match &error {
        StartError::Line(line) => failed(line),
        StartError::Home(_)
        | StartError::Lock { .. }
        | StartError::Starting { .. }
        | StartError::Spawn(_)
        | StartError::Failed(_)
        | StartError::Mute { .. } => Failure::new(Exit::Failed, &error)
            .hint("`carboy controller run` shows in the foreground what is in its way"),
    })
}

async fn snapshot(line: &mut Line) -> Result<LedgerSnapshot, Failure> {
    let text = line.text(Call::Snapshot).await.map_err(|e| failed(&e))?;
    serde_json::from_str(&text).map_err(|e| Failure::new(Exit::Failed, &e))
}

fn kind(ceiling: bool) -> CapKind {
    if ceiling { CapKind::Ceiling } else { CapKind::Budget }
}

fn word(kind: CapKind) -> &'static str {
    match kind {
        CapKind::Budget => "budget",
        CapKind::Ceiling => "ceiling",
    }
}

fn amounts(text: &str) -> Result<BTreeMap<MeterName, Amount>, Failure> {
    RunBudget::parse([text]).map_err(|e| {
        Failure::new(Exit::Usage, &e).hint("`carboy budget set host 5M` for each meter, `… host claude=5M` for one")
    })
}

async fn done(line: &mut Line, call: Call) -> Result<Answer, Failure> {
    line.ask(call).await.map_err(|e| failed(&e))
}

fn talk(told: &[String]) -> u8 {
    told.iter().for_each(|line| eprintln!("{line}"));
    0
}

/// Sets caps, and says which.
pub async fn set(args: &SetArgs, environment: &Environment) -> Result<Vec<String>, Failure> {
    let amounts = amounts(&args.amount)?;
    let mut line = line(environment, Role::Operator).await?;
    let snapshot = snapshot(&mut line).await?;
    let scope = scope_of(&args.scope, &snapshot, environment)?;
    let kind = kind(args.ceiling);
    let mut told = Vec::new();
    for (meter, amount) in amounts {
        let key = CapKey { scope: scope.clone(), meter: meter.clone(), kind };
        let edit = CapEdit { amount, count: args.count.map(Into::into), window: args.window.clone() };
        done(&mut line, Call::SetCap(key, edit)).await?;
        told.push(format!("the {} of {scope} for {meter} is {} tokens", word(kind), tokens(amount.tokens_down())));
    }
    Ok(told)
}

async fn unset(args: &UnsetArgs, environment: &Environment) -> Result<u8, Failure> {
    let mut line = line(environment, Role::Operator).await?;
    let snapshot = snapshot(&mut line).await?;
    let scope = scope_of(&args.scope, &snapshot, environment)?;
    let kind = kind(args.ceiling);
    let each = || METERS.iter().filter_map(|name| MeterName::parse(name).ok());
    let meters: Vec<MeterName> = args.meter.clone().map_or_else(|| each().collect(), |meter| vec![meter]);
    let mut any = false;
    for meter in meters {
        let key = CapKey { scope: scope.clone(), meter: meter.clone(), kind };
        if let Answer::Unset(true) = done(&mut line, Call::UnsetCap(key)).await? {
            any = true;
            eprintln!("the {} of {scope} for {meter} is what its files say", word(kind));
        }
    }
    if any {
        return Ok(0);
    }
    let message = format!("no {} of {scope} was set over its files", word(kind));
    Err(Failure::words(Exit::Found, message)
        .hint("`carboy budget show` says which caps there are; those of files are changed there"))
}

/// Gives more, and says how much.
pub async fn top_up(args: &TopUpArgs, environment: &Environment) -> Result<Vec<String>, Failure> {
    let amounts = amounts(&args.amount)?;
    let mut line = line(environment, Role::Operator).await?;
    let snapshot = snapshot(&mut line).await?;
    let scope = scope_of(&args.scope, &snapshot, environment)?;
    let kind = kind(args.ceiling);
    let capped = capped(&snapshot.host, &scope, kind);
    let nothing = |which: &str| {
        let message = format!("{scope} has no {} for {which} that could be topped up", word(kind));
        Failure::words(Exit::Found, message).hint(format!("`carboy budget set {scope} {}` sets one", args.amount))
    };
    let (meter, amount) = match args.amount.split_once('=') {
        Some(_) => amounts.into_iter().next().ok_or_else(|| nothing("that"))?,
        None => match capped.as_slice() {
            [] => return Err(nothing("any meter")),
            [one] => (one.clone(), amounts.get(one).copied().ok_or_else(|| nothing(one.as_str()))?),
            several => {
                let names: Vec<&str> = several.iter().map(MeterName::as_str).collect();
                let message = format!("{scope} has caps for {}; say which", names.join(" and "));
                let hint = format!("`carboy budget top-up {} {}={}`", args.scope, names[0], args.amount);
                return Err(Failure::words(Exit::Usage, message).hint(hint));
            }
        },
    };
    if !capped.contains(&meter) {
        return Err(nothing(meter.as_str()));
    }
    done(&mut line, Call::TopUp(CapKey { scope: scope.clone(), meter: meter.clone(), kind }, amount)).await?;
    Ok(vec![format!("{} tokens more for {scope} and {meter}, in its present window", tokens(amount.tokens_down()))])
}

/// The meters for which a scope has a cap of this kind.
fn capped(host: &Node, scope: &Scope, kind: CapKind) -> Vec<MeterName> {
    let nodes = all(host);
    let lines = nodes.iter().filter(|node| node.scope == *scope).flat_map(|node| &node.meters);
    let mut meters: Vec<MeterName> =
        lines.filter(|line| line.caps.iter().any(|cap| cap.kind == kind)).map(|line| line.meter.clone()).collect();
    meters.sort();
    meters.dedup();
    meters
}

/// Every node, the host first.
fn all(host: &Node) -> Vec<&Node> {
    let mut nodes = vec![host];
    let mut at = 0;
    while at < nodes.len() {
        let node = nodes[at];
        nodes.extend(&node.children);
        at += 1;
    }
    nodes
}

/// The scope that a person means.
fn scope_of(text: &str, snapshot: &LedgerSnapshot, environment: &Environment) -> Result<Scope, Failure> {
    let known = known(snapshot, environment);
    let said = match text.split_once(':') {
        None if text == "host" => return Ok(Scope::Host),
        None => return alone(text, &known),
        Some(("bottle", name)) => Scope::Bottle(name.to_owned()),
        Some(("agent", name)) => Scope::Agent(name.to_owned()),
        Some(("run", name)) => Scope::Run(name.to_owned()),
        Some((what, _)) => {
            let message = format!("`{}` is no kind of scope", what.escape_default());
            return Err(Failure::words(Exit::Usage, message).hint("write host, bottle:NAME, agent:NAME or run:ID"));
        }
    };
    if known.contains(&said) { Ok(said) } else { Err(nobody(text, &known)) }
}

/// A name without its kind.
fn alone(text: &str, known: &[Scope]) -> Result<Scope, Failure> {
    let called =
        |scope: &&Scope| matches!(scope, Scope::Bottle(name) | Scope::Agent(name) | Scope::Run(name) if name == text);
    let found: Vec<&Scope> = known.iter().filter(called).collect();
    match found.as_slice() {
        [] => Err(nobody(text, known)),
        [one] => Ok((*one).clone()),
        several => {
            let names: Vec<String> = several.iter().map(ToString::to_string).collect();
            let message = format!("`{}` may be {}", text.escape_default(), names.join(" or "));
            Err(Failure::words(Exit::Usage, message).hint(format!("say which: `{}`", names[0])))
        }
    }
}

fn nobody(text: &str, known: &[Scope]) -> Failure {
    let names: Vec<String> = known.iter().take(NAMES_MAX).map(ToString::to_string).collect();
    let message = format!("nothing is called `{}`", text.escape_default());
    Failure::words(Exit::Found, message).hint(format!("there are {}", names.join(", ")))
}

/// Every scope that there is: what was spent, files, and runs.
fn known(snapshot: &LedgerSnapshot, environment: &Environment) -> Vec<Scope> {
    let mut known: Vec<Scope> = all(&snapshot.host).into_iter().map(|node| node.scope.clone()).collect();
    let stems = |dir: &str| -> Vec<String> {
        let entries = std::fs::read_dir(environment.home.root().join(dir)).into_iter().flatten().flatten();
        let markdown = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "md");
        let files = entries.map(|entry| entry.path()).filter(markdown);
        files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
    };
    known.extend(stems("bottles").into_iter().map(Scope::Bottle));
    known.extend(stems("agents").into_iter().map(Scope::Agent));
    let live = registry::live_runs(&environment.home).unwrap_or_default();
    known.extend(live.into_iter().map(|run| Scope::Run(run.record.run)));
    known.extend(runs::past(&environment.home).into_iter().map(|past| Scope::Run(past.record.run)));
    known.sort();
    known.dedup();
    known
}

/// How runs stand, for `ps`: nothing where no controller answers.
pub async fn of_runs(environment: &Environment) -> Option<LedgerSnapshot> {
    let socket = environment.home.controller_socket().ok()?;
    let look = async {
        let mut line = Line::open(&socket, Starter::version(), Role::Observer).await?;
        line.text(Call::Snapshot).await
    };
    // A list of runs never waits for more than they do.
    let text = tokio::time::timeout(registry::ANSWER_WAIT_MAX, look)
        .await
        .ok()
        .and_then(|text: Result<String, LineError>| text.ok())?;
    serde_json::from_str(&text).ok()
}

/// A run's node.
pub fn run_node<'s>(snapshot: &'s LedgerSnapshot, run: &str) -> Option<&'s Node> {
    all(&snapshot.host).into_iter().find(|node| matches!(&node.scope, Scope::Run(id) if id == run))
}
