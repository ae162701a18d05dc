//! The caps that files say, before any run has brought them to the controller: a person looks the evening before.
//!
//! *Must never* ask anybody anything, or be in the way of what the controller knows: a file that is not valid is told of and
//! left out.

use carboy_control::controller_client::CALL_BYTES_MAX;
use carboy_control::resume::{self, Waiting};
use carboy_core::budget::{BudgetSet, Scope};
use carboy_core::ids::RunId;
use carboy_manifest::{Manifest, Places, Request, RunBudget};

use crate::applications::ProgramFiles;
use crate::args::RunArgs;
use crate::environment::Environment;

/// Most files and frozen runs that are looked into.
const SETS_MAX: usize = 256;

/// What was found.
pub struct Foreseen {
    /// Budgets of bottles, agents and frozen runs that say something new.
    pub sets: Vec<BudgetSet>,
    /// Names of those that are not valid.
    pub invalid: Vec<String>,
    /// So many did not fit into one message.
    pub left_out: usize,
}

/// Of everything this home knows.
pub fn foreseen(environment: &Environment) -> Foreseen {
    let places = &environment.places;
    let mut found = Foreseen { sets: Vec::new(), invalid: Vec::new(), left_out: 0 };
    let mut bytes = 0;
    let bottles = Manifest::bottle_names(&ProgramFiles, places).into_iter().map(|name| (None, Some(name.to_string())));
    // Those of the home alone: what is checked out here is nobody's to look into unasked.
    let own = |name: &carboy_core::ids::AgentName| places.agents().join(format!("{name}.md")).exists();
    let agents = Manifest::agent_names(&ProgramFiles, places).into_iter().filter(own);
    let agents = agents.map(|name| (Some(name.to_string()), None));
    for (agent, bottle) in bottles.chain(agents).take(SETS_MAX) {
        let what = agent.clone().or_else(|| bottle.clone()).unwrap_or_default();
        let request = Request { agent, bottles: bottle.into_iter().collect(), places: places.clone() };
        match Manifest::load(&ProgramFiles, &request) {
            Ok(effective) => found.add(effective.budgets, &mut bytes),
            Err(_) => found.invalid.push(what),
        }
    }
    for waiting in resume::waiting(&environment.home).into_iter().filter(|waiting| waiting.is_frozen()).take(SETS_MAX) {
        if let Some(set) = of_frozen(&waiting, places) {
            found.add(set, &mut bytes);
        }
    }
    found
}

impl Foreseen {
    /// Where it says something that was not said before.
    fn add(&mut self, mut set: BudgetSet, bytes: &mut usize) {
        let known = |set: &BudgetSet| {
            set.caps.iter().all(|(meter, caps)| {
                let said = |cap| self.sets.iter().any(|known| known.caps.get(meter).is_some_and(|of| of.contains(cap)));
                caps.iter().all(said)
            })
        };
        if known(&set) {
            return;
        }
        set.terms = carboy_core::budget::Terms::default();
        let size = serde_json::to_vec(&set).map_or(usize::MAX, |text| text.len() + 1);
        // Some room is the message's own.
        if size > (CALL_BYTES_MAX - 1024).saturating_sub(*bytes) {
            self.left_out += 1;
            return;
        }
        *bytes += size;
        self.sets.push(set);
    }
}

/// The budgets with which a frozen run would be started again: of its own flag, and what its files say today.
fn of_frozen(waiting: &Waiting, places: &Places) -> Option<BudgetSet> {
    let record = &waiting.past.record;
    let run = RunId::parse(&record.run).ok()?;
    let flags: RunArgs = serde_json::from_value(waiting.resumable.flags.clone()).ok()?;
    let amounts = RunBudget::parse(&flags.budget).ok()?;
    let places = Places { cwd: record.workdir.clone(), ..places.clone() };
    let request = Request { agent: flags.agent, bottles: flags.bottles, places };
    let files = Manifest::load(&ProgramFiles, &request).ok();
    let count = files.as_ref().map(|effective| effective.run_budget.count).unwrap_or_default();
    let bottle =
        || BudgetSet { chain: vec![Scope::Bottle(record.bottle.clone()), Scope::Host], ..BudgetSet::default() };
    let set = files.map_or_else(bottle, |effective| effective.budgets);
    Some(RunBudget { amounts, count }.in_front_of(set, &run))
}
