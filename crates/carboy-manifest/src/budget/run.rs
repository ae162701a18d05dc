//! `carboy run --budget`: a budget of one run.
//!
//! *Must never* lift a ceiling: it is a budget, the nearest of all, and replaces those of its agent, its bottles and the
//! host for this run (C7).

use std::collections::BTreeMap;

use carboy_core::budget::{Amount, BudgetSet, Cap, CapKind, Count, Scope, Window};
use carboy_core::ids::{MeterName, RunId};

use super::{AmountError, all_meters, meter_named, parse_amount};

/// What is no budget of a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunBudgetError {
    /// A name that nothing is metered by.
    #[error("`{0}` is no meter; write anthropic (or claude), openai (or codex), gemini or unknown")]
    Meter(String),
    /// No amount.
    #[error(transparent)]
    Amount(#[from] AmountError),
    /// Two amounts for one thing.
    #[error("{0} is given two budgets; give one")]
    Twice(String),
}

/// What one run may spend, by meter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunBudget {
    /// How much, by meter; a meter that is not here has no budget of the run.
    pub amounts: BTreeMap<MeterName, Amount>,
    /// How tokens are counted: as for the run's agent and bottle.
    pub count: Count,
}

impl RunBudget {
    /// `AMOUNT` for each meter by itself, `METER=AMOUNT` for one; the one for a meter goes before the one for each.
    ///
    /// # Errors
    /// The first that is none, and a second one for the same thing.
    pub fn parse<S: AsRef<str>>(
        typed: impl IntoIterator<Item = S>,
    ) -> Result<BTreeMap<MeterName, Amount>, RunBudgetError> {
        let (mut each, mut of) = (None, BTreeMap::new());
        for text in typed {
            match text.as_ref().split_once('=') {
                None if each.is_some() => return Err(RunBudgetError::Twice("each meter".into())),
                None => each = Some(parse_amount(text.as_ref())?),
                Some((name, amount)) => {
                    let shown = || name.chars().take(40).collect();
                    let meter = meter_named(name).ok_or_else(|| RunBudgetError::Meter(shown()))?;
                    if of.insert(meter.clone(), parse_amount(amount)?).is_some() {
                        return Err(RunBudgetError::Twice(meter.to_string()));
                    }
                }
            }
        }
        let mut amounts: BTreeMap<MeterName, Amount> = each.into_iter().flat_map(for_each_meter).collect();
        amounts.extend(of);
        Ok(amounts)
    }

    /// The budgets of this run: the run is the nearest scope, and has a cap for each meter that was named.
    pub fn in_front_of(&self, mut set: BudgetSet, run: &RunId) -> BudgetSet {
        let scope = Scope::Run(run.to_string());
        set.chain.insert(0, scope.clone());
        for (meter, amount) in &self.amounts {
            let (scope, count, window) = (scope.clone(), self.count, Window::Lifetime);
            let cap = Cap { scope, kind: CapKind::Budget, amount: *amount, count, window, most: None };
            set.caps.entry(meter.clone()).or_default().insert(0, cap);
        }
        set
    }
}

fn for_each_meter(amount: Amount) -> impl Iterator<Item = (MeterName, Amount)> {
    all_meters().map(move |meter| (meter, amount))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(typed: &[&str]) -> Result<Vec<(String, u64)>, String> {
        let amounts = RunBudget::parse(typed).map_err(|error| error.to_string())?;
        Ok(amounts.into_iter().map(|(meter, amount)| (meter.to_string(), amount.tokens_down())).collect())
    }

    #[test]
    fn c7_a_budget_of_a_run_is_for_each_meter_or_for_one() {
        let two: Vec<(String, u64)> =
            ["anthropic", "gemini", "openai", "unknown"].map(|meter| (meter.to_owned(), 2_000_000)).to_vec();
        assert_eq!(parsed(&["2M"]), Ok(two));
        assert_eq!(parsed(&["codex=500k"]), Ok(vec![("openai".into(), 500_000)]));
        let mixed = parsed(&["claude=1k", "2k"]).unwrap();
        assert_eq!((mixed[0].1, mixed[1].1, mixed.len()), (1_000, 2_000, 4));
        assert_eq!(parsed(&[]), Ok(vec![]));
    }

    #[test]
    fn c7_what_is_none_is_told_and_so_is_a_second_one() {
        for (typed, words) in [
            (&["lots"][..], "`lots` is no amount"),
            (&["mistral=1k"], "`mistral` is no meter"),
            (&["claude="], "`` is no amount"),
            (&["1k", "2k"], "each meter is given two budgets"),
            (&["claude=1k", "anthropic=2k"], "anthropic is given two budgets"),
        ] {
            let error = parsed(typed).unwrap_err();
            assert!(error.contains(words), "{typed:?}: {error}");
        }
    }

    #[test]
    fn c7_the_run_is_the_nearest_scope_and_its_budget_lasts_as_long_as_it() {
        let budget = RunBudget { amounts: RunBudget::parse(["claude=1k"]).unwrap(), count: Count::Raw };
        let set = BudgetSet { chain: vec![Scope::Host], ..BudgetSet::default() };
        let set = budget.in_front_of(set, &RunId::parse("r1").unwrap());
        assert_eq!(set.chain, [Scope::Run("r1".into()), Scope::Host]);
        let cap = &set.caps[&MeterName::parse("anthropic").unwrap()][0];
        assert_eq!((cap.kind, cap.count, &cap.window), (CapKind::Budget, Count::Raw, &Window::Lifetime));
        assert_eq!(cap.scope, Scope::Run("r1".into()));
    }
}
