//! Budgets from the command line that let no request through.
//!
//! *Must never* keep one from being set: that is the person's to decide.

use carboy_control::registry;
use carboy_core::budget::{Scope, Terms};
use carboy_manifest::budget::too_small;
use carboy_manifest::{Effective, Manifest, Request, RunBudget};

use crate::applications::ProgramFiles;
use crate::environment::Environment;
use crate::report::{Exit, Failure};

/// Takes `--budget`; what is wrong with it is a warning beside those of the files.
pub fn take_flag(typed: &[String], effective: &mut Effective) -> Result<(), Failure> {
    let amounts = RunBudget::parse(typed).map_err(|e| {
        Failure::new(Exit::Usage, &e).hint("`--budget 2M` for each meter, `--budget claude=2M` for one")
    })?;
    for amount in amounts.values() {
        let small = too_small("the budget of this run", *amount, &effective.budgets.terms);
        small.into_iter().for_each(|small| effective.warnings.push_once(small));
    }
    effective.run_budget.amounts = amounts;
    Ok(())
}

/// How the budgets of a scope are enforced, by its file as it is now; where that tells nothing, as they are everywhere.
pub fn terms_of(scope: &Scope, environment: &Environment) -> Terms {
    let (agent, bottle) = match scope {
        Scope::Agent(name) => (Some(name.clone()), None),
        Scope::Bottle(name) => (None, Some(name.clone())),
        Scope::Run(id) => {
            let live = registry::live_runs(&environment.home).unwrap_or_default();
            let record = live.into_iter().map(|run| run.record).find(|record| record.run == *id);
            record.map_or((None, None), |record| (record.agent, Some(record.bottle)))
        }
        Scope::Host => (None, None),
    };
    let bottles = if agent.is_some() { Vec::new() } else { bottle.into_iter().collect() };
    let request = Request { agent, bottles, places: environment.places.clone() };
    Manifest::load(&ProgramFiles, &request).map_or_else(|_| Terms::default(), |effective| effective.budgets.terms)
}
