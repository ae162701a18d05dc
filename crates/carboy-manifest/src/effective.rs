//! One checked configuration: what a run gets, each value with the place where it was said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use carboy_core::budget::BudgetSet;
use carboy_core::ids::{AgentName, BottleName, RunId, SecretName};
use carboy_core::plan::{Bind, Forward, Image, Limits, Publish};
use carboy_core::route::{Route, RouteSet};

use crate::agent::RepositoryAgent;
use crate::bottle::Workspace;
use crate::budget::{AgentBudget, Budgets, RunBudget};
use crate::chat::ChatFile;
use crate::diagnostic::Diagnostics;
use crate::git::{GitRepo, GitUser};
use crate::image::Backend;
use crate::origin::Sourced;
use crate::provider::{EnvValue, Provider};
use crate::settings::{SecretFrom, Settings};
use crate::whole::Origins;

/// The checked configuration of one run.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The agent, when one was named.
    pub agent: Option<AgentName>,
    /// The agent's file, when one was named.
    pub agent_file: Option<PathBuf>,
    /// The agent's file and its content's hash, when it is a repository's (M39).
    pub repository_agent: Option<RepositoryAgent>,
    /// What it says of itself when it is a chat agent; [`resolve`](crate::chat::resolve) settles the rest.
    pub chat: Option<Box<ChatFile>>,
    /// Text below the agent's front matter, or the empty text.
    pub prompt: String,
    /// The name under which the bottle runs and keeps its state: the bottle's own, or, of several, theirs with `--`
    /// between them.
    pub bottle: BottleName,
    /// The bottles that it is made of, in order; more than one when several were named, none where a chat agent's file
    /// implies its own.
    pub bottles: Vec<BottleName>,
    /// Variables of the bottle; the provider's own are in `provider`.
    pub env: BTreeMap<String, EnvValue>,
    /// Routes, generation 1.
    pub routes: RouteSet,
    /// Host paths that are visible.
    pub binds: Vec<Bind>,
    /// Resource bounds.
    pub limits: Limits,
    /// M21: the agent's identity over the bottle's.
    pub git_user: GitUser,
    /// Repositories behind the gate.
    pub git_repos: Vec<GitRepo>,
    /// `egress.log` as written; it changes nothing.
    pub egress_log: Sourced<Option<String>>,
    /// Whether the bottle may ask for routes.
    pub supervise: bool,
    /// The agent program.
    pub provider: Provider,
    /// How the working directory is given in.
    pub workspace: Workspace,
    /// Ports of the bottle that are reachable on the host.
    pub publish: Vec<Publish>,
    /// Services of the host that are reachable inside.
    pub forward: Vec<Forward>,
    /// What the bottle sees as its system; `None` for the host's own.
    pub image: Option<Image>,
    /// What makes the bottle.
    pub backend: Backend,
    /// Whom spending is booked to and which caps bind, without the run itself.
    pub budgets: BudgetSet,
    /// `--budget`
    pub run_budget: RunBudget,
    /// What the agent's file says of it, for the next look at the files.
    pub(crate) agent_budget: Option<AgentBudget>,
    /// Where each of these was said.
    pub origins: Origins,
    /// The operator's settings.
    pub settings: Settings,
    /// What somebody should look at; no errors among them.
    pub warnings: Diagnostics,
    /// Every file that went into this, for hot reload.
    pub sources: Vec<PathBuf>,
}

impl Effective {
    /// The budgets of this run: its own `--budget` in front of what the files say (C7).
    pub fn budgets_of(&self, run: &RunId) -> BudgetSet {
        self.run_budget.in_front_of(self.budgets.clone(), run)
    }

    /// The budgets with their origins.
    pub(crate) fn sourced_budgets(&self) -> Budgets {
        let count = self.run_budget.count;
        Budgets { set: self.budgets.clone(), origins: self.origins.budgets.clone(), count }
    }

    /// Every secret that a route needs, or that a chat agent signs with, and where its value is got from.
    pub fn secrets(&self) -> BTreeMap<SecretName, SecretFrom> {
        let signing = self.chat.iter().flat_map(|chat| chat.signing_secrets());
        let names: BTreeSet<&SecretName> = self.routes.iter().flat_map(Route::secrets).chain(signing).collect();
        names.into_iter().map(|name| (name.clone(), self.settings.secret(name))).collect()
    }

    /// Every variable that has to be asked for, with its message: the provider's first, the bottle's over them.
    pub fn prompts(&self) -> BTreeMap<&str, &str> {
        let mut asked = BTreeMap::new();
        for (name, value) in self.provider.env.iter().chain(&self.env) {
            match value {
                EnvValue::Prompt(message) => asked.insert(name.as_str(), message.as_str()),
                EnvValue::Set(_) => asked.remove(name.as_str()),
            };
        }
        asked
    }
}
