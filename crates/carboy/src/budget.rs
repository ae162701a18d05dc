//! `carboy budget`: what was spent and may yet be, and the caps that a person sets over the files'.
//!
//! *Must never* take a name for a scope that it may not be: a cap under a misspelt name looks like one and binds nobody.

mod foreseen;
mod show;
mod small;

use std::collections::BTreeMap;
use std::sync::Arc;

use carboy_control::controller::{StartError, Starter};
use carboy_control::controller_client::{Answer, Call, Line, LineError, Role};
use carboy_control::{registry, runs};
use carboy_core::budget::{Amount, CapEdit, CapKey, CapKind, LedgerSnapshot, Node, Scope};
use carboy_core::ids::MeterName;
use carboy_manifest::RunBudget;
use carboy_manifest::budget::{METERS, too_small};

use crate::args::{BudgetCommand, SetArgs, TopUpArgs, UnsetArgs};
use crate::completions;
use crate::controller::failed;
use crate::environment::Environment;
use crate::report::{Exit, Failure};
use crate::{print, runtime};

pub use show::{Tokens, spent, tokens, tokens_of};
pub use small::take_flag;

/// Most names that an error lists.
const NAMES_MAX: usize = 12;

/// Runs one of its commands.
pub fn budget(command: BudgetCommand, environment: &Environment) -> Result<u8, Failure> {
    runtime()?.block_on(async {
        match command {
            BudgetCommand::Show(args) => show::show(&args, environment).await,
            BudgetCommand::Set(args) => set(&args, environment).await?.say(args.json),
            BudgetCommand::Unset(args) => unset(&args, environment).await,
            BudgetCommand::TopUp(args) => top_up(&args, environment).await?.say(args.json),
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

/// How everything stands, the caps among it that files say and no run has brought yet.
async fn snapshot(line: &mut Line, environment: &Environment) -> Result<LedgerSnapshot, Failure> {
    let foreseen = foreseen::foreseen(environment);
    for name in &foreseen.invalid {
        say!("warning: {name} is not valid, and what its file says is left out; `carboy check` says why");
    }
    if foreseen.left_out > 0 {
        say!("warning: the caps of {} more files are left out; `carboy check` shows those of one", foreseen.left_out);
    }
    foresee(line, foreseen).await
}

async fn foresee(line: &mut Line, foreseen: foreseen::Foreseen) -> Result<LedgerSnapshot, Failure> {
    let text = line.text(Call::Foreseen(foreseen.sets)).await.map_err(|e| failed(&e))?;
    serde_json::from_str(&text).map_err(|e| Failure::new(Exit::Failed, &e))
}

/// What was changed, and the words for it.
#[derive(Debug, Default)]
pub struct Changed {
    caps: Vec<(CapKey, Option<Amount>)>,
    /// A line each.
    pub told: Vec<String>,
}

impl Changed {
    /// Says it: to a person, and as JSON to a program.
    fn say(self, json: bool) -> Result<u8, Failure> {
        self.told.iter().for_each(|line| say!("{line}"));
        if !json {
            return Ok(0);
        }
        let row = |(key, amount): &(CapKey, Option<Amount>)| {
            let tokens = amount.map(Amount::tokens_down);
            serde_json::json!({"scope": key.scope.to_string(), "meter": key.meter, "kind": key.kind, "tokens": tokens})
        };
        let rows: Vec<serde_json::Value> = self.caps.iter().map(row).collect();
        print(format!("{}\n", serde_json::Value::Array(rows)).as_bytes())
    }
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

/// Sets caps, and says which.
pub async fn set(args: &SetArgs, environment: &Environment) -> Result<Changed, Failure> {
    let amounts = amounts(&args.amount)?;
    let mut line = line(environment, Role::Operator).await?;
    let snapshot = snapshot(&mut line, environment).await?;
    let scope = scope_of(&args.scope, &snapshot, environment)?;
    let kind = kind(args.ceiling);
    let mut changed = Changed::default();
    for (meter, amount) in amounts {
        let key = CapKey { scope: scope.clone(), meter, kind };
        let edit = CapEdit { amount, count: args.count.map(Into::into), window: args.window.clone() };
        done(&mut line, Call::SetCap(key.clone(), edit)).await?;
        let (word, tokens) = (word(kind), tokens(amount.tokens_down()));
        changed.told.push(format!("the {word} of {scope} for {} is {tokens} tokens", key.meter));
        changed.caps.push((key, Some(amount)));
    }
    let terms = small::terms_of(&scope, environment);
    for (_, amount) in &changed.caps {
        let small = amount.and_then(|amount| too_small(&format!("the {} of {scope}", word(kind)), amount, &terms));
        let told = small.map(|small| small.to_string()).filter(|told| !changed.told.contains(told));
        changed.told.extend(told);
    }
    let after = foresee(&mut line, foreseen::foreseen(environment)).await?;
    if is_replaced(&after, &changed.caps) {
        let note = "note: nearer budgets govern in its place, and it binds nobody; with `--ceiling` it always binds";
        changed.told.push(note.to_owned());
    }
    Ok(changed)
}

/// Whether a nearer budget stands in the place of all that was changed.
fn is_replaced(snapshot: &LedgerSnapshot, changes: &[(CapKey, Option<Amount>)]) -> bool {
    let nodes = all(&snapshot.host);
    !changes.is_empty()
        && changes.iter().all(|(key, _)| {
            let lines = nodes.iter().filter(|node| node.scope == key.scope).flat_map(|node| &node.meters);
            let mut caps = lines
                .filter(|line| line.meter == key.meter)
                .flat_map(|line| &line.caps)
                .filter(|cap| cap.kind == key.kind);
            caps.next().is_some_and(|first| first.replaced) && caps.all(|cap| cap.replaced)
        })
}

async fn unset(args: &UnsetArgs, environment: &Environment) -> Result<u8, Failure> {
    let mut line = line(environment, Role::Operator).await?;
    let snapshot = snapshot(&mut line, environment).await?;
    let scope = scope_of(&args.scope, &snapshot, environment)?;
    let kind = kind(args.ceiling);
    let each = || METERS.iter().filter_map(|name| MeterName::parse(name).ok());
    let meters: Vec<MeterName> = args.meter.clone().map_or_else(|| each().collect(), |meter| vec![meter]);
    let mut changed = Changed::default();
    for meter in meters {
        let key = CapKey { scope: scope.clone(), meter, kind };
        if let Answer::Unset(true) = done(&mut line, Call::UnsetCap(key.clone())).await? {
            changed.told.push(format!("the {} of {scope} for {} is what its files say", word(kind), key.meter));
            changed.caps.push((key, None));
        }
    }
    if !changed.caps.is_empty() {
        return changed.say(args.json);
    }
    let message = format!("no {} of {scope} was set over its files", word(kind));
    Err(Failure::words(Exit::Found, message)
        .hint("`carboy budget show` says which caps there are; those of files are changed there"))
}

/// Gives more, and says how much.
pub async fn top_up(args: &TopUpArgs, environment: &Environment) -> Result<Changed, Failure> {
    let amounts = amounts(&args.amount)?;
    let mut line = line(environment, Role::Operator).await?;
    let snapshot = snapshot(&mut line, environment).await?;
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
    if amount == Amount::ZERO {
        return Err(
            Failure::words(Exit::Usage, "a top-up of nothing changes nothing").hint("write 500k, 2M, 1_000_000")
        );
    }
    let key = CapKey { scope: scope.clone(), meter, kind };
    done(&mut line, Call::TopUp(key.clone(), amount)).await?;
    let count = tokens(amount.tokens_down());
    let told = format!("{count} tokens more for {scope} and {}, in its present window", key.meter);
    Ok(Changed { caps: vec![(key, Some(amount))], told: vec![told] })
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
    // What lasts comes first: there is no end to runs.
    let names: Vec<String> = known.iter().rev().take(NAMES_MAX).map(ToString::to_string).collect();
    let message = format!("nothing is called `{}`", text.escape_default());
    let alone = |name: &str| name.split_once(':').map_or(name.to_owned(), |(_, name)| name.to_owned());
    let meant = known.iter().rev().map(ToString::to_string).find(|name| near(name, text) || near(&alone(name), text));
    let meant = meant.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
    let more = if known.len() > NAMES_MAX { ", …" } else { "" };
    Failure::words(Exit::Found, message).hint(format!("{meant}there are {}{more}", names.join(", ")))
}

/// One slip apart: a letter that is another, missing or too many, two that changed places, or capitals.
pub fn near(name: &str, typed: &str) -> bool {
    let (a, b) = (name.to_lowercase(), typed.to_lowercase());
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let front = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[front..], &b[front..]);
    let back = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - back], &b[..b.len() - back]);
    (a.len() <= 1 && b.len() <= 1) || (a.len() == 2 && b.len() == 2 && a[0] == b[1] && a[1] == b[0])
}

/// Every scope that there is: what was spent, files, and runs.
fn known(snapshot: &LedgerSnapshot, environment: &Environment) -> Vec<Scope> {
    let mut known: Vec<Scope> = all(&snapshot.host).into_iter().map(|node| node.scope.clone()).collect();
    known.extend(of_home(environment));
    known.sort();
    known.dedup();
    known
}

/// Every scope of which there is a file, or that comes with the program.
fn of_home(environment: &Environment) -> Vec<Scope> {
    let mut known = vec![Scope::Host];
    known.extend(completions::bottles(environment).map(Scope::Bottle));
    known.extend(completions::agents(environment).map(Scope::Agent));
    let live = registry::live_runs(&environment.home).unwrap_or_default();
    known.extend(live.into_iter().map(|run| Scope::Run(run.record.run)));
    known.extend(runs::past(&environment.home).into_iter().map(|past| Scope::Run(past.record.run)));
    known.sort();
    known.dedup();
    known
}

/// What may stand for a scope, for a shell to complete: without asking the controller, which a key that is pressed must not
/// start.
pub fn scope_names(environment: &Environment) -> Vec<String> {
    of_home(environment).iter().map(ToString::to_string).collect()
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
