//! Hot reload: what of a run is read anew.
//!
//! *Must never* let whoever is inside change what holds it: a repository's agent keeps the budget that somebody agreed to, and
//! an agent that came with the program keeps its routes.

use std::path::PathBuf;

use carboy_core::budget::BudgetSet;
use carboy_core::route::RouteSet;

use super::{Made, agent_budget, made_of, wanted_of};
use crate::agent;
use crate::budget::{AgentBudget, together, too_many};
use crate::chat::ChatFile;
use crate::diagnostic::Diagnostics;
use crate::effective::Effective;
use crate::files::{ManifestFiles, Places};
use crate::implied::{chat_of, implied};
use crate::lookup::{Whose, read_file};
use crate::settings;

/// What was read anew.
#[derive(Clone, Debug)]
pub struct Reread {
    /// The routes, of the generation that was asked for.
    pub routes: RouteSet,
    /// The budgets, without the run's own ([`RunBudget::in_front_of`]).
    pub budgets: BudgetSet,
    /// The bottle files that both come from, which may have become others.
    pub bottle_files: Vec<PathBuf>,
    /// What somebody should look at.
    pub warnings: Diagnostics,
}

/// The routes and budgets of a run read anew, for hot reload: the same checks, and the old rules stay when it fails. A
/// repository's agent keeps the budget that somebody agreed to: whoever is inside could write its file.
///
/// # Errors
/// Every error of the bottles' files and of those that they extend, of the user's own agent and of the settings.
pub fn reread(
    files: &dyn ManifestFiles,
    places: &Places,
    running: &Effective,
    generation: u64,
) -> Result<Reread, Diagnostics> {
    let mut out = Diagnostics::default();
    let settings = settings::load(files, places, &mut out);
    let agent = agent_budget_now(files, places, running, &mut out);
    let made = match running.chat.as_deref().filter(|_| running.bottles.is_empty()) {
        Some(chat) => implied_now(files, places, chat, &mut out),
        None => made_of(files, places, &wanted_of(&running.bottles), &mut out),
    };
    match made {
        Some(made) if !out.has_errors() => {
            let bottle = made.bottle;
            let budgets = together(&settings.budgets, agent.as_ref(), &bottle.scopes, &bottle.terms, &mut out).set;
            if let Some(error) = too_many(&budgets) {
                out.push(error);
                return Err(out);
            }
            let routes = RouteSet::new(bottle.routes, generation);
            Ok(Reread { routes, budgets, bottle_files: made.files, warnings: out })
        }
        Some(_) | None => Err(out),
    }
}

/// What a chat agent implies by its file as it is now: the user's own is read anew, what came with the program stays.
fn implied_now(files: &dyn ManifestFiles, places: &Places, chat: &ChatFile, out: &mut Diagnostics) -> Option<Made> {
    let mut now = None;
    if chat.whose == Whose::User
        && let Some(bytes) = read_file(files, &chat.file, out)
    {
        let agent = agent::read(chat.name.clone(), &chat.file, &bytes, places, out)?;
        let mut settings = settings::load(files, places, out);
        now = chat_of(files, places, Some(&(agent, Whose::User)), &mut settings, out);
    }
    let (_, bottle) = implied(files, places, now.as_deref().unwrap_or(chat), out)?;
    Some(Made { bottle, files: Vec::new() })
}

/// The budget of the run's agent: of the user's own file as it is now, or, where that is gone, as it was.
fn agent_budget_now(
    files: &dyn ManifestFiles,
    places: &Places,
    running: &Effective,
    out: &mut Diagnostics,
) -> Option<AgentBudget> {
    let known = running.agent_budget.clone();
    let (Some(name), Some(file), None) = (&running.agent, &running.agent_file, &running.repository_agent) else {
        return known;
    };
    match read_file(files, file, out) {
        Some(bytes) => {
            let agent = agent::read(name.clone(), file, &bytes, places, out)?;
            Some(agent_budget(&agent.name, &agent.file, agent.budget, Whose::User))
        }
        None => known,
    }
}
