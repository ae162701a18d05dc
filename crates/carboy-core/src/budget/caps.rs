//! Whose tokens they are and which caps bind them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::terms::Terms;
use super::usage::{Amount, Count};
use super::window::Window;
use crate::ids::MeterName;

/// Whom spending is booked to. It is booked to every scope of a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One run, resumed ones included.
    Run(String),
    /// An agent's file.
    Agent(String),
    /// A bottle's file.
    Bottle(String),
    /// Everything of this user on this host.
    Host,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Run(id) => write!(f, "run:{id}"),
            Scope::Agent(name) => write!(f, "agent:{name}"),
            Scope::Bottle(name) => write!(f, "bottle:{name}"),
            Scope::Host => f.write_str("host"),
        }
    }
}

/// How a cap relates to those of other scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CapKind {
    /// The nearest one governs, and one that is nearer replaces it.
    Budget,
    /// Always binds; nothing nearer lifts it.
    Ceiling,
}

/// A cap of one scope, for one meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    /// Whose.
    pub scope: Scope,
    /// Replaceable or not.
    pub kind: CapKind,
    /// How much.
    pub amount: Amount,
    /// How tokens are counted.
    pub count: Count,
    /// Over which time.
    pub window: Window,
    /// What the machine's settings allow at most: whatever an operator changes, it is never more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<Amount>,
}

/// Which budgets of a chain bind, beside all ceilings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Governs {
    /// The nearest one.
    #[default]
    Nearest,
    /// Every one.
    All,
}

/// The budgets of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSet {
    /// From the nearest to the host: run, agent, bottle, the bottles it stands on, host.
    pub chain: Vec<Scope>,
    /// Every cap of every scope of the chain, by meter.
    pub caps: BTreeMap<MeterName, Vec<Cap>>,
    /// Which of them bind.
    pub governs: Governs,
    /// How they are enforced.
    pub terms: Terms,
}

impl BudgetSet {
    /// The caps that bind a request of this meter, those of nearer scopes first.
    pub fn binding(&self, meter: &MeterName) -> Vec<&Cap> {
        self.binding_of(self.caps.get(meter).map(Vec::as_slice).unwrap_or_default())
    }

    /// Those of `all` that bind, by the rules of this set.
    pub(super) fn binding_of<'a>(&self, all: &'a [Cap]) -> Vec<&'a Cap> {
        let mut bound = Vec::new();
        let mut governed = false;
        for scope in &self.chain {
            let own = || all.iter().filter(|cap| cap.scope == *scope);
            if !governed || self.governs == Governs::All {
                let budgets: Vec<&'a Cap> = own().filter(|cap| cap.kind == CapKind::Budget).collect();
                governed |= !budgets.is_empty();
                bound.extend(budgets);
            }
            bound.extend(own().filter(|cap| cap.kind == CapKind::Ceiling));
        }
        bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(scope: Scope, kind: CapKind, tokens: u64) -> Cap {
        let amount = Amount::tokens(tokens).unwrap();
        Cap { scope, kind, amount, count: Count::Weighted, window: Window::Lifetime, most: None }
    }

    fn set(caps: Vec<Cap>, governs: Governs) -> BudgetSet {
        let bottle = |name: &str| Scope::Bottle(name.into());
        let chain = vec![Scope::Agent("a".into()), bottle("dev"), bottle("base"), Scope::Host];
        BudgetSet {
            chain,
            caps: [(MeterName::parse("anthropic").unwrap(), caps)].into(),
            governs,
            ..BudgetSet::default()
        }
    }

    fn amounts(set: &BudgetSet) -> Vec<u64> {
        let meter = MeterName::parse("anthropic").unwrap();
        set.binding(&meter).iter().map(|cap| cap.amount.tokens_down()).collect()
    }

    #[test]
    fn c6_the_nearest_budget_governs_and_every_ceiling_binds() {
        let bottle = |name: &str| Scope::Bottle(name.into());
        let caps = vec![
            cap(Scope::Host, CapKind::Budget, 1),
            cap(Scope::Host, CapKind::Ceiling, 2),
            cap(bottle("base"), CapKind::Budget, 3),
            cap(bottle("base"), CapKind::Ceiling, 4),
            cap(bottle("dev"), CapKind::Ceiling, 5),
        ];
        assert_eq!(amounts(&set(caps.clone(), Governs::Nearest)), [5, 3, 4, 2]);
        assert_eq!(amounts(&set(caps.clone(), Governs::All)), [5, 3, 4, 1, 2]);
        // An agent's own budget replaces the bottle's and no ceiling.
        let own = [caps, vec![cap(Scope::Agent("a".into()), CapKind::Budget, 9)]].concat();
        assert_eq!(amounts(&set(own, Governs::Nearest)), [9, 5, 4, 2]);
    }

    #[test]
    fn another_meter_and_a_scope_outside_the_chain_have_no_say() {
        let set = set(vec![cap(Scope::Bottle("other".into()), CapKind::Ceiling, 7)], Governs::Nearest);
        assert_eq!(amounts(&set), Vec::<u64>::new());
        assert!(set.binding(&MeterName::parse("openai").unwrap()).is_empty());
    }
}
