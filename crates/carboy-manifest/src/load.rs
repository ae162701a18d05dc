//! From "run this agent, or that bottle" to one checked configuration.
//!
//! *Must never* read a file that was not chosen (M7: an unrelated broken file stops no launch), nor a bottle from under
//! the working directory (M3: a repository could widen its own sandbox), nor hand out a configuration with a repository's
//! agent that nobody has agreed to (M39).

mod reread;

use std::path::{Path, PathBuf};

use carboy_core::audit::{hex, sha256};
use carboy_core::budget::{CapKind, Scope};
use carboy_core::ids::{AgentName, BottleName};
use carboy_core::route::RouteSet;

pub use reread::{Reread, reread};

use crate::agent::{self, Agent, RepositoryAgent};
use crate::budget::{AgentBudget, Budgets, RunBudget, Spending, together, too_many};
use crate::built_in;
use crate::chain::Chains;
use crate::chat::ChatFile;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, listed};
use crate::effective::Effective;
use crate::files::{ManifestFiles, Places};
use crate::git::{GitUser, UserPart};
use crate::implied::{chat_of, implied, through};
use crate::lookup::{
    EXAMPLE, Whose, agent_names, agent_roots, bottle_names, read_file, warn_foreign, warn_ignored_bottles,
};
use crate::merge::{Way, fold};
use crate::origin::{Origin, Place, Said};
use crate::settings::{self, Settings};
use crate::trust::{LoadError, NeedsTrust, Trust, TrustNothing, Trusted};
use crate::whole::{Bottle, check_plain, whole};

/// Most bottles of one run.
pub const BOTTLES_MAX: usize = 8;

/// What stands between the names of several bottles in the name under which they run.
const JOINT: &str = "--";

/// Hexadecimal digits of a path's hash in the scope of a repository's agent.
const PATH_HASH_DIGITS: usize = 12;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The agent, as typed.
    pub agent: Option<String>,
    /// Bottles by `--bottle`, as typed, in order; they win over the agent's.
    pub bottles: Vec<String>,
    /// Where to look.
    pub places: Places,
}

/// The loader.
pub struct Manifest;

impl Manifest {
    /// Loads the chosen agent and bottles and the settings, and nothing else. Nobody is asked: a repository's agent is an
    /// error here.
    ///
    /// # Errors
    /// Every error of the chosen files, with the warnings among them.
    pub fn load(files: &dyn ManifestFiles, request: &Request) -> Result<Effective, Diagnostics> {
        Self::load_trusting(files, request, &TrustNothing).map_err(|error| match error {
            LoadError::Invalid(diagnostics) => diagnostics,
            LoadError::NeedsTrust(asked) => {
                let fix = "look at the file, then start it with `carboy run`, which asks";
                let message = LoadError::NeedsTrust(asked.clone()).to_string();
                let error = Diagnostic::error(Code::NeedsTrust, message, fix).at(&asked.file.file, Position::START);
                let mut all = asked.warnings;
                all.push(error);
                all
            }
        })
    }

    /// The same; a repository's agent is used when `trust` knows that somebody has agreed to it.
    ///
    /// # Errors
    /// Every error of the chosen files, with the warnings among them; or, when there is none, the question whether the
    /// agent may run.
    pub fn load_trusting(
        files: &dyn ManifestFiles,
        request: &Request,
        trust: &dyn Trust,
    ) -> Result<Effective, LoadError> {
        let effective = load_any(files, request)?;
        match (&effective.agent, &effective.repository_agent) {
            (Some(agent), Some(file)) => match trust.of(&file.file, &file.sha256) {
                Trusted::Yes => Ok(effective),
                Trusted::Unknown => Err(LoadError::NeedsTrust(Box::new(NeedsTrust {
                    agent: agent.clone(),
                    file: file.clone(),
                    bottles: effective.bottles.clone(),
                    routes: effective.route_views(),
                    git_user: effective.git_user.clone(),
                    prompt: effective.prompt.clone(),
                    runs: effective.chat.as_ref().map(|chat| chat.runs()).unwrap_or_default(),
                    warnings: effective.warnings.clone(),
                }))),
            },
            (Some(_) | None, _) => Ok(effective),
        }
    }

    /// M2–M5, M7: names of bottles, from the directory alone, sorted. Files are not opened.
    pub fn bottle_names(files: &dyn ManifestFiles, places: &Places) -> Vec<BottleName> {
        bottle_names(files, places)
    }

    /// The text of an agent that comes along, by its name.
    pub fn built_in_text(files: &dyn ManifestFiles, name: &str) -> Option<String> {
        built_in::text(files, name)
    }

    /// Names of the agents that come with the program, those of applications included; a file of the same name wins.
    pub fn built_in_names(files: &dyn ManifestFiles) -> Vec<String> {
        built_in::names(files)
    }

    /// M2, M4, M5, M7: names of agents, the union of both roots, sorted. Files are not opened.
    pub fn agent_names(files: &dyn ManifestFiles, places: &Places) -> Vec<AgentName> {
        agent_names(files, places)
    }
}

/// The configuration, whether or not somebody has agreed to a repository's agent: for looking at, not for running.
pub(crate) fn load_any(files: &dyn ManifestFiles, request: &Request) -> Result<Effective, Diagnostics> {
    let mut out = Diagnostics::default();
    let places = &request.places;
    warn_foreign(files, places, &mut out);
    warn_ignored_bottles(files, places, &mut out);
    let mut settings = settings::load(files, places, &mut out);
    let agent = match &request.agent {
        Some(typed) => chosen_agent(files, places, typed, &mut out),
        None => None,
    };
    let mut chat = chat_of(files, places, agent.as_ref(), &mut settings, &mut out);
    let chosen = chosen(files, request, agent.as_ref().map(|(agent, _)| agent), chat.as_deref_mut(), &mut out);
    if let Some(Chosen { made: Made { bottle, .. }, .. }) = &chosen {
        check_plain(&bottle.routes, &bottle.origins.routes, &settings.upstreams, &mut out);
    }
    match chosen {
        Some(chosen) if !out.has_errors() => {
            let mut effective = assemble(settings, agent, chat, chosen, out);
            match too_many(&effective.budgets) {
                None => Ok(effective),
                Some(error) => {
                    effective.warnings.push(error);
                    Err(effective.warnings)
                }
            }
        }
        Some(_) | None => Err(out),
    }
}

/// What it runs in: the bottles that are named, or the one that a chat agent implies.
fn chosen(
    files: &dyn ManifestFiles,
    request: &Request,
    agent: Option<&Agent>,
    chat: Option<&mut ChatFile>,
    out: &mut Diagnostics,
) -> Option<Chosen> {
    let places = &request.places;
    let is_chat = agent.is_some_and(|agent| agent.chat.is_some());
    if is_chat && request.bottles.is_empty() && agent.is_some_and(|agent| agent.bottle.is_none()) {
        let (name, bottle) = implied(files, places, chat?, out)?;
        return Some(Chosen { name, bottles: Vec::new(), made: Made { bottle, files: Vec::new() } });
    }
    let agent_failed = request.agent.is_some() && agent.is_none();
    let wanted = chosen_bottles(files, request, agent, agent_failed, out)?;
    let name = joint_name(files, places, &wanted, out);
    let made = made_of(files, places, &wanted, out);
    let (name, made) = (name?, made?);
    if let Some(chat) = chat {
        through(chat, &made.bottle, &owner_of(wanted.iter().map(|one| &one.name)), out);
    }
    Some(Chosen { name, bottles: wanted.into_iter().map(|one| one.name).collect(), made })
}

/// The routes of these bottles together, checked.
///
/// # Errors
/// Every error of the bottles' files and of those that they extend.
pub fn routes_of(files: &dyn ManifestFiles, places: &Places, bottles: &[BottleName]) -> Result<RouteSet, Diagnostics> {
    let mut out = Diagnostics::default();
    match made_of(files, places, &wanted_of(bottles), &mut out) {
        Some(made) if !out.has_errors() => Ok(RouteSet::new(made.bottle.routes, 1)),
        Some(_) | None => Err(out),
    }
}

fn wanted_of(bottles: &[BottleName]) -> Vec<Wanted> {
    bottles.iter().map(|name| Wanted { name: name.clone(), said: None }).collect()
}

/// M39: a repository's agent is another scope than one of the user's of the same name, and its budget binds beside the
/// others instead of replacing them.
fn agent_budget(name: &AgentName, file: &Path, spending: Spending, whose: Whose) -> AgentBudget {
    match whose {
        Whose::User | Whose::BuiltIn => {
            AgentBudget { scope: Scope::Agent(name.to_string()), kind: CapKind::Budget, spending }
        }
        Whose::Repository => {
            let path = hex(&sha256(file.as_os_str().as_encoded_bytes()));
            // `@` stands in no agent's name.
            let scope = Scope::Agent(format!("{name}@{}", &path[..PATH_HASH_DIGITS]));
            AgentBudget { scope, kind: CapKind::Ceiling, spending }
        }
    }
}

/// A bottle that is wanted, and where a file says so.
struct Wanted {
    name: BottleName,
    said: Option<Place>,
}

/// The bottle of a run and the files that it is made of.
struct Made {
    bottle: Bottle,
    files: Vec<PathBuf>,
}

struct Chosen {
    name: BottleName,
    bottles: Vec<BottleName>,
    made: Made,
}

/// M30: the bottles in their order, put together and checked as one.
fn made_of(files: &dyn ManifestFiles, places: &Places, wanted: &[Wanted], out: &mut Diagnostics) -> Option<Made> {
    let mut chains = Chains::for_run(files, places);
    // All are read, so that the errors of all are told at once.
    let read: Vec<_> = wanted.iter().map(|one| chains.resolve(&one.name, one.said.as_ref(), out)).collect();
    let read: Vec<_> = read.into_iter().collect::<Option<_>>()?;
    let mut sources: Vec<PathBuf> = Vec::new();
    for file in read.iter().flat_map(|chain| &chain.files) {
        if !sources.contains(file) {
            sources.push(file.clone());
        }
    }
    if let [_, _, ..] = read.as_slice() {
        // Each is a bottle by itself before it is a part of another (M30).
        for (chain, one) in read.iter().zip(wanted) {
            whole(chain.part.clone(), &owner_of([&one.name]), out);
        }
    }
    let part = fold(read.iter().map(|chain| chain.part.clone()), Way::Runtime);
    let owner = owner_of(wanted.iter().map(|one| &one.name));
    Some(Made { bottle: whole(part, &owner, out), files: sources })
}

/// How messages name what several bottles make together.
pub(crate) fn owner_of<'n>(names: impl IntoIterator<Item = &'n BottleName>) -> String {
    let names: Vec<&str> = names.into_iter().map(BottleName::as_str).collect();
    let noun = if names.len() == 1 { "bottle" } else { "bottles" };
    format!("{noun} {}", listed(names))
}

fn assemble(
    settings: Settings,
    agent: Option<(Agent, Whose)>,
    chat: Option<Box<ChatFile>>,
    chosen: Chosen,
    mut warnings: Diagnostics,
) -> Effective {
    let Made { bottle, files: mut sources } = chosen.made;
    let on_disk = |(agent, whose): &(Agent, Whose)| (*whose != Whose::BuiltIn).then(|| agent.file.clone());
    let agent_file = agent.as_ref().and_then(on_disk);
    sources.extend(agent_file.clone());
    sources.extend(chat.iter().flat_map(|chat| chat.sources.iter().cloned()));
    sources.extend(settings.sources.iter().cloned());
    let repository_agent = match &agent {
        Some((agent, Whose::Repository)) => {
            Some(RepositoryAgent { file: agent.file.clone(), sha256: agent.sha256.clone() })
        }
        Some((_, Whose::User | Whose::BuiltIn)) | None => None,
    };
    let agent_budget =
        agent.as_ref().map(|(agent, whose)| agent_budget(&agent.name, &agent.file, agent.budget.clone(), *whose));
    let Budgets { set: budgets, origins: budget_origins, count } =
        together(&settings.budgets, agent_budget.as_ref(), &bottle.scopes, &bottle.terms, &mut warnings);
    let (name, prompt, user) = match agent {
        Some((agent, _)) => (Some(agent.name), agent.prompt, agent.git_user),
        None => (None, String::new(), UserPart::default()),
    };
    let UserPart { name: git_name, email: git_email } = user.over(bottle.git_user);
    let origin_of = |said: &Option<Said<String>>| said.as_ref().map_or(Origin::Default, Said::origin);
    let mut origins = bottle.origins;
    origins.git_name = origin_of(&git_name);
    origins.git_email = origin_of(&git_email);
    origins.budgets = budget_origins;
    Effective {
        agent: name,
        agent_file,
        repository_agent,
        chat,
        prompt,
        bottle: chosen.name,
        bottles: chosen.bottles,
        env: bottle.env,
        routes: RouteSet::new(bottle.routes, 1),
        binds: bottle.binds,
        limits: bottle.limits,
        git_user: GitUser { name: git_name.map(|said| said.value), email: git_email.map(|said| said.value) },
        git_repos: bottle.git_repos,
        egress_log: bottle.log,
        supervise: bottle.supervise,
        provider: bottle.provider,
        workspace: bottle.workspace,
        publish: bottle.publish,
        forward: bottle.forward,
        image: bottle.image,
        backend: bottle.backend,
        budgets,
        run_budget: RunBudget { count, ..RunBudget::default() },
        agent_budget,
        origins,
        settings,
        warnings,
        sources,
    }
}

fn chosen_agent(
    files: &dyn ManifestFiles,
    places: &Places,
    typed: &str,
    out: &mut Diagnostics,
) -> Option<(Agent, Whose)> {
    let name = match AgentName::parse(typed) {
        Ok(name) => name,
        Err(error) => {
            out.push(Diagnostic::error(
                Code::BadName,
                error.to_string(),
                "give the name of a file under agents/, without `.md`",
            ));
            return None;
        }
    };
    for (root, whose) in agent_roots(files, places) {
        let file = root.join(format!("{name}.md"));
        let errors = out.error_count();
        if let Some(bytes) = read_file(files, &file, out) {
            return agent::read(name, &file, &bytes, places, out).map(|agent| (agent, whose));
        }
        if out.error_count() > errors {
            return None;
        }
    }
    if let Some(text) = built_in::text(files, name.as_str()) {
        let file = built_in::file(name.as_str());
        return agent::read(name, &file, text.as_bytes(), places, out).map(|agent| (agent, Whose::BuiltIn));
    }
    let known = agent_names(files, places);
    let fix = match known.as_slice() {
        [] => format!(
            "write {}, or run a bottle with --bottle NAME",
            places.agents().join(format!("{name}.md")).display()
        ),
        known => format!("use one of {}", listed(known.iter().map(AgentName::as_str))),
    };
    // Most who name a bottle here mean that bottle.
    let bottles = bottle_names(files, places);
    let fix = match bottles.iter().any(|bottle| bottle.as_str() == name.as_str()) {
        true => format!("there is a bottle of that name: `--bottle {name}`; or {fix}"),
        false if bottles.is_empty() => fix,
        false => format!("{fix}; bottles are named with --bottle: {}", listed(bottles.iter().map(BottleName::as_str))),
    };
    out.push(Diagnostic::error(Code::NoSuchAgent, format!("there is no agent `{name}`"), fix));
    None
}

/// M9: the command line's bottles in their order, else the agent's; `None` after it has been reported.
fn chosen_bottles(
    files: &dyn ManifestFiles,
    request: &Request,
    agent: Option<&Agent>,
    agent_failed: bool,
    out: &mut Diagnostics,
) -> Option<Vec<Wanted>> {
    if !request.bottles.is_empty() {
        return typed_bottles(&request.bottles, out);
    }
    match agent {
        Some(Agent { bottle: Some(said), .. }) => {
            Some(vec![Wanted { name: said.value.clone(), said: Some(said.place.clone()) }])
        }
        // Its errors say what is wrong with it.
        Some(Agent { .. }) | None if agent_failed || out.has_errors() => None,
        Some(agent) => {
            let message = format!("agent `{}` names no bottle, and no --bottle was given", agent.name);
            let fix = "add `bottle: NAME` to its front matter, or give --bottle NAME";
            out.push(Diagnostic::error(Code::NothingToRun, message, fix).at(&agent.file, Position::START));
            None
        }
        None => {
            out.push(nothing_to_run(files, &request.places));
            None
        }
    }
}

fn typed_bottles(typed: &[String], out: &mut Diagnostics) -> Option<Vec<Wanted>> {
    if typed.len() > BOTTLES_MAX {
        let message = format!("{} bottles were named, more than {BOTTLES_MAX}", typed.len());
        out.push(Diagnostic::error(Code::ChainTooLong, message, "write a bottle that extends them, and name that"));
        return None;
    }
    let mut wanted: Vec<Wanted> = Vec::new();
    let errors = out.error_count();
    for one in typed {
        match BottleName::parse(one) {
            Ok(name) if wanted.iter().any(|known| known.name == name) => {
                let message = format!("bottle `{name}` was named twice");
                out.push(Diagnostic::error(Code::BadValue, message, "name it once; the later of two wins"));
            }
            Ok(name) => wanted.push(Wanted { name, said: None }),
            Err(error) => {
                let fix = "give the name of a file under bottles/, without `.md`";
                out.push(Diagnostic::error(Code::BadName, error.to_string(), fix));
            }
        }
    }
    (out.error_count() == errors).then_some(wanted)
}

/// The name under which several run: their state must be shared with no other bottle, so it is no bottle's own name.
fn joint_name(
    files: &dyn ManifestFiles,
    places: &Places,
    wanted: &[Wanted],
    out: &mut Diagnostics,
) -> Option<BottleName> {
    if let [one] = wanted {
        return Some(one.name.clone());
    }
    let names: Vec<&str> = wanted.iter().map(|one| one.name.as_str()).collect();
    let joint = names.join(JOINT);
    let taken = files.exists(&places.bottles().join(format!("{joint}.md")));
    let ambiguous = names.iter().any(|name| name.contains(JOINT));
    match BottleName::parse(&joint) {
        Ok(name) if !taken && !ambiguous => Some(name),
        Ok(_) | Err(_) => {
            let message = format!("bottles {} have no name together: `{joint}` is taken or too long", listed(&names));
            let fix = format!("write a bottle with `extends: [{}]`, and name that", names.join(", "));
            out.push(Diagnostic::error(Code::BadName, message, fix));
            None
        }
    }
}

fn nothing_to_run(files: &dyn ManifestFiles, places: &Places) -> Diagnostic {
    let bottles = bottle_names(files, places);
    let fix = match bottles.as_slice() {
        [] => format!(
            "write {} with these lines, then give --bottle dev:\n{EXAMPLE}",
            places.bottles().join("dev.md").display()
        ),
        known => format!("give --bottle NAME, one of {}", listed(known.iter().map(BottleName::as_str))),
    };
    Diagnostic::error(Code::NothingToRun, "no agent and no bottle was named", fix)
}
