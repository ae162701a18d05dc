//! `budget`, `ceiling` and what goes with them: what one file says, each value with its place.
//!
//! ```text
//!   settings.yml ─┐
//!   bottle files ─┼─▶ CapsPart, TermsPart ─▶ together ─▶ BudgetSet { chain, caps by meter, governs, terms } + origins
//!   agent's file ─┘                              ▲
//!                                    --budget ───┘ (for one run, in front)
//! ```
//!
//! Every file is a scope of its own: what a bottle says stays that bottle's, whoever extends it, and the spending of all who
//! extend it counts against it together.
//!
//! *Must never* take a name of a meter that nobody meters by (such a limit would look enforced), read an amount that has two
//! readings, or let one file's word loosen a ceiling of another.

mod amount;
mod run;
mod small;
mod terms;
mod together;
mod view;
mod window;

use std::collections::BTreeMap;

use carboy_core::budget::{Amount, CapKind, Count, Scope as BudgetScope, TOKENS_MAX, Window};
use carboy_core::ids::{BottleName, MeterName};

use crate::diagnostic::{Code, excerpt, listed};
use crate::origin::Said;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

pub use amount::{AmountError, parse_amount};
pub use run::{RunBudget, RunBudgetError};
pub use small::too_small;
pub(crate) use terms::{TermsPart, beside, choice, over, terms};
pub use together::{BudgetOrigins, Budgets};
pub(crate) use together::{together, too_many};
pub use view::{BudgetsView, CapView};
pub use window::parse_duration;

/// Every meter: the wire formats that routes name and built-in hosts speak, and `unknown` for a host that speaks one of
/// them and was not expected to.
pub const METERS: [&str; 4] = ["anthropic", "gemini", "openai", "unknown"];

/// Most caps of one run, over all its scopes and meters: what goes to a ledger in one message of 64 KiB, the longest names and
/// numbers included.
pub const CAPS_MAX: usize = 200;

/// Other names of meters: of the programs that people know.
const ALIASES: [(&str, &str); 2] = [("claude", "anthropic"), ("codex", "openai")];

/// A meter by its name or alias.
pub fn meter_named(text: &str) -> Option<MeterName> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == text).map_or(text, |(_, name)| name);
    METERS.contains(&name).then(|| MeterName::parse(name).ok()).flatten()
}

/// Every meter, as what one amount for all of them is given to, each by itself.
pub(crate) fn all_meters() -> impl Iterator<Item = MeterName> {
    METERS.iter().filter_map(|name| MeterName::parse(name).ok())
}

/// How much, by meter.
pub(crate) type Amounts = BTreeMap<MeterName, Said<Amount>>;

/// The caps of one file, and over which time and in what they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapsPart {
    /// `budget`
    pub(crate) budget: Amounts,
    /// `ceiling`
    pub(crate) ceiling: Amounts,
    /// `window`
    pub(crate) window: Option<Said<Window>>,
    /// `count`
    pub(crate) count: Option<Said<Count>>,
}

impl CapsPart {
    /// What this file leaves open is as in the file that it stands on.
    pub(crate) fn standing_on(mut self, parent: Option<&CapsPart>) -> CapsPart {
        self.window = self.window.or_else(|| parent?.window.clone());
        self.count = self.count.or_else(|| parent?.count.clone());
        self
    }
}

/// One bottle of a chain as a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BottleScope {
    pub(crate) name: BottleName,
    pub(crate) caps: CapsPart,
}

/// The scopes of two parts, nearer ones first. One that both have stands behind everything that stands on it.
pub(crate) fn chained(earlier: Vec<BottleScope>, later: Vec<BottleScope>) -> Vec<BottleScope> {
    let all: Vec<BottleScope> = later.into_iter().chain(earlier).collect();
    let again = |i: usize, scope: &BottleScope| all[i + 1..].iter().any(|other| other.name == scope.name);
    let last = |(i, scope): (usize, &BottleScope)| (!again(i, scope)).then(|| scope.clone());
    all.iter().enumerate().filter_map(last).collect()
}

/// What an agent's file says, with the scope that it is.
#[derive(Clone, Debug)]
pub(crate) struct AgentBudget {
    pub(crate) scope: BudgetScope,
    /// A repository's binds beside the others and replaces none (M39).
    pub(crate) kind: CapKind,
    pub(crate) spending: Spending,
}

/// `budget` and `window` of an agent's file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spending {
    pub(crate) amounts: Amounts,
    /// Where it says none, that of its bottle holds.
    pub(crate) window: Option<Said<Window>>,
}

/// The same of a file.
pub(crate) fn spending(scope: &mut Scope<'_>, root: &[Entry]) -> Spending {
    Spending {
        amounts: amounts_of(scope, root, "budget"),
        window: find(root, "window").and_then(|node| window::window(scope, node)),
    }
}

/// What a `settings.yml` says.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingsPart {
    pub(crate) caps: CapsPart,
    pub(crate) terms: TermsPart,
}

/// The user's settings and the machine's.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostBudgets {
    pub(crate) own: SettingsPart,
    pub(crate) machine: SettingsPart,
}

/// `budget`, `ceiling`, `window` and `count` of a file.
pub(crate) fn caps(scope: &mut Scope<'_>, root: &[Entry]) -> CapsPart {
    CapsPart {
        budget: amounts_of(scope, root, "budget"),
        ceiling: amounts_of(scope, root, "ceiling"),
        window: find(root, "window").and_then(|node| window::window(scope, node)),
        count: find(root, "count")
            .and_then(|node| choice(scope, node, "`count`", &[("weighted", Count::Weighted), ("raw", Count::Raw)])),
    }
}

/// `METER: AMOUNT` of each meter, or one amount for each of them.
pub(crate) fn amounts_of(scope: &mut Scope<'_>, root: &[Entry], key: &str) -> Amounts {
    let Some(node) = find(root, key) else { return Amounts::new() };
    match &node.value {
        Value::Map(entries) if entries.is_empty() => {
            let message = format!("`{key}` of {} names no meter", scope.owner);
            scope.error(node.at, Code::BadValue, message, "write `METER: AMOUNT`, or remove the key");
            Amounts::new()
        }
        Value::Map(entries) => by_meter(scope, entries, key),
        Value::Invalid => Amounts::new(),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::List(_) => {
            let Some(amount) = amount(scope, node, &format!("`{key}`")) else { return Amounts::new() };
            all_meters().map(|meter| (meter, scope.said(amount, node.at))).collect()
        }
    }
}

fn by_meter(scope: &mut Scope<'_>, entries: &[Entry], key: &str) -> Amounts {
    let mut amounts = Amounts::new();
    for entry in entries {
        let Some(meter) = meter_named(&entry.key) else {
            let message = format!("`{key}` of {} names a meter {}", scope.owner, excerpt(&entry.key));
            let known = ALIASES.iter().map(|(alias, _)| alias).chain(&METERS);
            let fix = format!("use one of {}; nothing is metered by another name", listed(known));
            scope.error(entry.key_at, Code::BadValue, message, fix);
            continue;
        };
        let Some(amount) = amount(scope, &entry.value, &format!("`{key}.{}`", entry.key)) else { continue };
        let said = scope.said(amount, entry.key_at);
        if let Some(first) = amounts.insert(meter.clone(), said) {
            let message = format!("`{key}` of {} names `{meter}` twice", scope.owner);
            let fix = format!("keep one of the two; the other is on line {}", first.place.at.line);
            scope.error(entry.key_at, Code::DuplicateKey, message, fix);
        }
    }
    amounts
}

fn amount(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<Amount> {
    let (given, amount) = match &node.value {
        Value::Int(number) => (number.to_string(), u64::try_from(*number).ok().and_then(Amount::tokens)),
        Value::Text(text) => (excerpt(text), parse_amount(text).ok()),
        Value::Invalid => return None,
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => (String::from("no amount"), None),
    };
    if amount.is_none() {
        let message = format!("{what} of {} is {given}", scope.owner);
        let fix = format!("write whole tokens, as in 500k, 2M, 1.5M, 5000000 or \"1_000_000\"; at most {TOKENS_MAX}");
        scope.error(node.at, Code::BadValue, message, fix);
    }
    amount
}
