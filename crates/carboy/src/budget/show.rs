//! `carboy budget show`: the tree of what was spent and may yet be, as a table.

use std::fmt::Write as _;

use carboy_control::controller_client::{Line, Role, spent_by};
use carboy_control::summary::SpentOn;
pub use carboy_core::budget::shown as tokens;
use carboy_core::budget::{CapKind, CapLine, LedgerSnapshot, MeterLine, Node, Scope};

use super::{line, scope_of, snapshot};
use crate::args::ShowArgs;
use crate::controller::failed;
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, Side, printable};

/// Runs that have ended and are shown of a scope; all of them stand in the JSON.
const ENDED_RUNS_MAX: usize = 5;

const HEAD: [(&str, Side); 8] = [
    ("SCOPE", Side::Left),
    ("METER", Side::Left),
    ("SPENT", Side::Right),
    ("HELD", Side::Right),
    ("CAP", Side::Right),
    ("LEFT", Side::Right),
    ("PER MIN", Side::Right),
    ("WINDOW ENDS", Side::Left),
];

/// Shows it.
pub async fn show(args: &ShowArgs, environment: &Environment) -> Result<u8, Failure> {
    let mut line = line(environment, Role::Observer).await?;
    let whole = snapshot(&mut line, environment).await?;
    let node = match &args.scope {
        None => Some(whole.host.clone()),
        Some(text) => {
            let scope = scope_of(text, &whole, environment)?;
            let shown = super::all(&whole.host).into_iter().find(|node| node.scope == scope).cloned();
            match shown {
                Some(node) => Some(node),
                None => past(&mut line, scope).await?,
            }
        }
    };
    if args.json {
        let text = serde_json::to_string(&node.map(|host| LedgerSnapshot { host, ..whole }));
        return print(format!("{}\n", text.map_err(|e| Failure::new(Exit::Failed, &e))?).as_bytes());
    }
    if let Some(why) = &whole.failing {
        say!("warning: nothing can be held just now: {why}");
    }
    let Some(node) = node.as_ref().filter(|node| !node.meters.is_empty() || !node.children.is_empty()) else {
        say!("nothing was spent yet, and no file says a cap");
        return Ok(0);
    };
    let mut rows = Vec::new();
    rows_of(node, 0, whole.at_ms, &mut rows);
    let palette = Palette::stdout();
    let mut lines = report::table(&HEAD, &rows, report::columns(std::io::stdout())).into_iter();
    let mut out = format!("{}\n", palette.strong(&lines.next().unwrap_or_default()));
    for line in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{line}");
    }
    if whole.waiting > 0 {
        let _ = writeln!(out, "{} requests wait for room", whole.waiting);
    }
    if whole.left_out > 0 {
        let _ = writeln!(out, "{} more are left out", whole.left_out);
    }
    print(out.as_bytes())
}

/// A run that has ended is in no snapshot; what it spent stands in the ledger.
async fn past(line: &mut Line, scope: Scope) -> Result<Option<Node>, Failure> {
    let meters = spent_by(line, &scope).await.map_err(|e| failed(&e))?;
    let node = Node { scope, live: false, meters, in_flight: Vec::new(), children: Vec::new() };
    Ok(Some(node).filter(|node| !node.meters.is_empty()))
}

fn rows_of(node: &Node, depth: usize, now_ms: u64, rows: &mut Vec<Vec<String>>) {
    let name = printable(&node.scope.to_string());
    let lives = if node.live && node.children.is_empty() { " *" } else { "" };
    let mut label = format!("{}{name}{lives}", "  ".repeat(depth));
    // `--budget 2M` is a cap at each meter, and most runs use one: of a run the others are shown while none is used.
    let is_used =
        |meter: &&MeterLine| meter.requests > 0 || meter.held.raw.tokens_up() > 0 || meter.spent.raw.tokens_up() > 0;
    let some_used = matches!(node.scope, Scope::Run(_)) && node.meters.iter().any(|meter| is_used(&meter));
    for meter in node.meters.iter().filter(|meter| !some_used || is_used(meter)) {
        let caps: Vec<Option<&CapLine>> =
            if meter.caps.is_empty() { vec![None] } else { meter.caps.iter().map(Some).collect() };
        for cap in caps {
            push(rows, row(std::mem::take(&mut label), meter, cap, now_ms));
        }
    }
    if node.meters.is_empty() {
        rows.push([label].into_iter().chain((1..HEAD.len()).map(|_| String::new())).collect());
    }
    let mut ended = 0;
    for child in &node.children {
        let over = !child.live && child.children.is_empty() && matches!(child.scope, Scope::Run(_));
        ended += usize::from(over);
        if !over || ended <= ENDED_RUNS_MAX {
            rows_of(child, depth + 1, now_ms, rows);
        }
    }
}

/// Meters of one scope that nobody has used, and that may spend the same, are one row.
fn push(rows: &mut Vec<Vec<String>>, row: Vec<String>) {
    match rows.last_mut() {
        Some(last) if row[0].is_empty() && row[2] == "0" && last[2..] == row[2..] => {
            last[1] = format!("{}, {}", last[1], row[1]);
        }
        _ => rows.push(row),
    }
}

fn row(label: String, meter: &MeterLine, cap: Option<&CapLine>, now_ms: u64) -> Vec<String> {
    let rate = if meter.rate[1] == 0 { String::new() } else { tokens(meter.rate[1]) };
    let Some(CapLine { kind, standing, until_ms, replaced, .. }) = cap else {
        let (spent, held) = (tokens(meter.spent.weighted.tokens_up()), held(meter.held.weighted.tokens_up()));
        return vec![label, meter.meter.to_string(), spent, held, String::new(), String::new(), rate, String::new()];
    };
    let most = tokens(standing.cap.tokens_down());
    let most = match kind {
        CapKind::Budget => most,
        CapKind::Ceiling => format!("{most} max"),
    };
    let ends = match until_ms {
        _ if *replaced => "a nearer budget governs".to_owned(),
        Some(until_ms) => format!("in {}", report::duration(until_ms.saturating_sub(now_ms))),
        None => String::new(),
    };
    vec![
        label,
        meter.meter.to_string(),
        tokens(standing.spent.tokens_up()),
        held(standing.held.tokens_up()),
        most,
        tokens(standing.headroom().tokens_down()),
        rate,
        ends,
    ]
}

fn held(count: u64) -> String {
    if count == 0 { String::new() } else { tokens(count) }
}

/// What a run spent, for its summary: what counts against a budget, and what it is made of.
pub fn spent(spent: &SpentOn) -> String {
    let SpentOn { meter, requests, usage, weighted, estimated } = spent;
    let kinds = [
        (usage.input, "read"),
        (usage.cache_write, "written to its cache"),
        (usage.cache_read, "read from its cache"),
        (usage.output, "written"),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{} {kind}", tokens(*count)))
        .collect();
    let made_of = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) };
    let estimated = if *estimated == 0 { String::new() } else { format!("; {} of them estimated", tokens(*estimated)) };
    let many = if *requests == 1 { "request" } else { "requests" };
    format!("{} spent at {meter} in {requests} {many}{made_of}{estimated}", tokens(*weighted))
}

/// What `ps` says of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Spent.
    pub spent: String,
    /// Held.
    pub held: String,
    /// The cap of which the least is left.
    pub cap: String,
    /// Tokens a minute.
    pub rate: String,
}

/// A run's figures over all its meters; its cap is the nearest one above it of which the smallest part is left.
pub fn tokens_of(snapshot: &LedgerSnapshot, run: &str) -> Option<Tokens> {
    let path = path_to(&snapshot.host, run)?;
    let node = path.last()?;
    let sum = |of: fn(&MeterLine) -> u64| node.meters.iter().map(of).fold(0, u64::saturating_add);
    let metered = |line: &&MeterLine| node.meters.iter().any(|own| own.meter == line.meter);
    let caps = path.iter().flat_map(|node| &node.meters).filter(metered).flat_map(|line| &line.caps);
    let tightest = caps.filter(|cap| !cap.replaced).min_by_key(|cap| cap.standing.headroom());
    let shown = |count: u64| if count == 0 { "-".to_owned() } else { tokens(count) };
    Some(Tokens {
        spent: shown(sum(|line| line.spent.weighted.tokens_up())),
        held: shown(sum(|line| line.held.weighted.tokens_up())),
        cap: tightest.map_or_else(|| "-".to_owned(), |cap| tokens(cap.standing.cap.tokens_down())),
        rate: shown(sum(|line| line.rate[1])),
    })
}

/// The nodes from the host to a run.
fn path_to<'s>(node: &'s Node, run: &str) -> Option<Vec<&'s Node>> {
    if matches!(&node.scope, Scope::Run(id) if id == run) {
        return Some(vec![node]);
    }
    let below = node.children.iter().find_map(|child| path_to(child, run))?;
    Some([node].into_iter().chain(below).collect())
}
