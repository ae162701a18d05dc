//! From what all files of a run say to its budgets.
//!
//! *Must never* drop a ceiling, or take the user's word over the machine's where that is stricter.

use std::collections::BTreeMap;

use carboy_core::budget::{Amount, BudgetSet, Cap, CapKind, Count, Governs, Scope, Terms, Window};
use carboy_core::ids::MeterName;

use super::small::too_small;
use super::terms::{Strict, TermsPart};
use super::{AgentBudget, Amounts, BottleScope, CAPS_MAX, CapsPart, HostBudgets};
use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::origin::{Origin, Said, Sourced};

/// The budgets of a run, without the run's own.
#[derive(Clone, Debug, Default)]
pub struct Budgets {
    /// What a ledger is told.
    pub set: BudgetSet,
    /// Where each of it was said.
    pub origins: BudgetOrigins,
    /// How tokens are counted against a budget of the run itself.
    pub count: Count,
}

/// Where each of the budgets' values was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetOrigins {
    /// Of each cap, in the order of [`BudgetSet::caps`].
    pub caps: BTreeMap<MeterName, Vec<Origin>>,
    /// `governs`
    pub governs: Origin,
    /// `gate`
    pub gate: Origin,
    /// `overrun`
    pub overrun: Origin,
    /// `shutdown`
    pub shutdown: Origin,
    /// `warn`
    pub warn: Origin,
    /// `hold_wait`
    pub hold_wait: Origin,
    /// `output_min`
    pub output_min: Origin,
}

impl Default for BudgetOrigins {
    fn default() -> Self {
        let none = || Origin::Default;
        BudgetOrigins {
            caps: BTreeMap::new(),
            governs: none(),
            gate: none(),
            overrun: none(),
            shutdown: none(),
            warn: none(),
            hold_wait: none(),
            output_min: none(),
        }
    }
}

/// Puts them together: the agent, the bottles from the nearest, the host.
pub(crate) fn together(
    host: &HostBudgets,
    agent: Option<&AgentBudget>,
    bottles: &[BottleScope],
    terms: &TermsPart,
    out: &mut Diagnostics,
) -> Budgets {
    let mut found = Found::default();
    let (own, machine) = (&host.own, &host.machine);
    // Where nobody nearer says a window, it is that of the settings.
    let settings = own.caps.clone().standing_on(Some(&machine.caps));
    let mut chain = Vec::new();
    let near = |take: &dyn Fn(&CapsPart) -> bool| bottles.iter().map(|one| &one.caps).find(|caps| take(caps));
    let window = near(&|caps| caps.window.is_some()).and_then(|caps| caps.window.clone()).or(settings.window.clone());
    let count = near(&|caps| caps.count.is_some()).and_then(|caps| caps.count.clone()).or(settings.count.clone());
    let of_run = CapsPart { window, count, ..CapsPart::default() };
    if let Some(agent) = agent {
        chain.push(agent.scope.clone());
        let window = agent.spending.window.clone().or(of_run.window.clone());
        let over = CapsPart { window, ..of_run.clone() };
        found.add(&agent.scope, agent.kind, &agent.spending.amounts, &over, Whose::User);
    }
    for bottle in bottles {
        let scope = Scope::Bottle(bottle.name.to_string());
        chain.push(scope.clone());
        found.add_both(&scope, &bottle.caps.clone().standing_on(Some(&settings)), Whose::User);
    }
    chain.push(Scope::Host);
    found.add_both(&Scope::Host, &own.caps, Whose::User);
    found.add_both(&Scope::Host, &machine.caps, Whose::Machine);
    let count = of_run.count.map_or(Count::default(), |said| said.value);
    let (terms, governs, mut origins) = decided(terms, &own.terms, &machine.terms);
    let mut set = BudgetSet { chain, caps: BTreeMap::new(), governs, terms };
    for (meter, found) in found.0 {
        let (all, said): (Vec<Cap>, Vec<Said<Amount>>) = found.into_iter().unzip();
        set.caps.insert(meter.clone(), all);
        small_ones(&set, &meter, &said, out);
        origins.caps.insert(meter, said.iter().map(Said::origin).collect());
    }
    Budgets { set, origins, count }
}

/// Warns of those that bind and let nothing through.
fn small_ones(set: &BudgetSet, meter: &MeterName, said: &[Said<Amount>], out: &mut Diagnostics) {
    let binding = set.binding(meter);
    let caps = set.caps.get(meter).into_iter().flatten().zip(said);
    for (cap, said) in caps.filter(|(cap, _)| binding.contains(cap)) {
        let kind = match cap.kind {
            CapKind::Budget => "budget",
            CapKind::Ceiling => "ceiling",
        };
        let small = too_small(&format!("the {kind} of {}", cap.scope), cap.amount, &set.terms);
        // One line of a file may be of several meters.
        small.into_iter().for_each(|one| out.push_once(one.at(&said.place.file, said.place.at)));
    }
}

/// What is said when a run has more caps than [`CAPS_MAX`].
pub(crate) fn too_many(set: &BudgetSet) -> Option<Diagnostic> {
    let count: usize = set.caps.values().map(Vec::len).sum();
    let message = format!("{count} caps hold for one run together, more than {CAPS_MAX}");
    let fix = "name the meters that are used instead of one amount for each, or extend fewer bottles that have budgets";
    (count > CAPS_MAX).then(|| Diagnostic::error(Code::TooComplex, message, fix))
}

/// Who says a cap. What the machine's settings say stays with it: nobody's later word lifts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    User,
    Machine,
}

/// Caps with their places.
#[derive(Default)]
struct Found(BTreeMap<MeterName, Vec<(Cap, Said<Amount>)>>);

impl Found {
    fn add_both(&mut self, scope: &Scope, caps: &CapsPart, whose: Whose) {
        self.add(scope, CapKind::Budget, &caps.budget, caps, whose);
        self.add(scope, CapKind::Ceiling, &caps.ceiling, caps, whose);
    }

    fn add(&mut self, scope: &Scope, kind: CapKind, amounts: &Amounts, over: &CapsPart, whose: Whose) {
        let window = over.window.as_ref().map_or(Window::default(), |said| said.value.clone());
        let count = over.count.as_ref().map_or(Count::default(), |said| said.value);
        for (meter, said) in amounts {
            let most = (whose == Whose::Machine).then_some(said.value);
            let cap = Cap { scope: scope.clone(), kind, amount: said.value, count, window: window.clone(), most };
            let all = self.0.entry(meter.clone()).or_default();
            match all.iter_mut().find(|(known, _)| Cap { amount: cap.amount, most, ..known.clone() } == cap) {
                // The user's and the machine's settings are both the host's: the smaller of the two says all.
                Some(known) if known.0.amount <= cap.amount => known.0.most = most.or(known.0.most),
                Some(known) => *known = (cap, said.clone()),
                None => all.push((cap, said.clone())),
            }
        }
    }
}

fn decided(bottle: &TermsPart, own: &TermsPart, machine: &TermsPart) -> (Terms, Governs, BudgetOrigins) {
    let default = Terms::default();
    let warn = machine.warn.clone().or(bottle.warn.clone()).or(own.warn.clone());
    let warn = Said::or_default(warn, default.warn_percent);
    let gate = nearest(&bottle.gate, &own.gate, default.gate, &machine.gate);
    let overrun = nearest(&bottle.overrun, &own.overrun, default.overrun, &machine.overrun);
    let shutdown = nearest(&bottle.shutdown, &own.shutdown, default.shutdown, &machine.shutdown);
    let governs = nearest(&None, &own.governs, Governs::default(), &machine.governs);
    let hold_wait = Said::or_default(machine.hold_wait.clone().or(own.hold_wait.clone()), default.hold_wait_ms);
    let output_min = Said::or_default(machine.output_min.clone().or(own.output_min.clone()), default.output_min);
    let origins = BudgetOrigins {
        caps: BTreeMap::new(),
        governs: governs.origin,
        gate: gate.origin,
        overrun: overrun.origin,
        shutdown: shutdown.origin,
        warn: warn.origin,
        hold_wait: hold_wait.origin,
        output_min: output_min.origin,
    };
    let terms = Terms {
        gate: gate.value,
        overrun: overrun.value,
        shutdown: shutdown.value,
        warn_percent: warn.value,
        hold_wait_ms: hold_wait.value,
        output_min: output_min.value,
    };
    (terms, governs.value, origins)
}

/// The bottle's word, else the user's, else carboy's own; but what the machine's settings say is the least.
fn nearest<T: Strict + Clone>(
    bottle: &Option<Said<T>>,
    own: &Option<Said<T>>,
    default: T,
    machine: &Option<Said<T>>,
) -> Sourced<T> {
    let said = bottle.clone().or_else(|| own.clone());
    match (machine, said) {
        (Some(least), Some(said)) if said.value.rank() > least.value.rank() => Said::or_default(Some(said), default),
        (Some(least), _) => Said::or_default(Some(least.clone()), default),
        (None, said) => Said::or_default(said, default),
    }
}
