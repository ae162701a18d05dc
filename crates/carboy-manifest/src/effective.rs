//! From "run this agent, or that bottle" to one checked configuration.
//!
//! *Must never* read a file that was not chosen (M7: an unrelated broken file stops no launch), nor a bottle from under
//! the working directory (M3: a repository could widen its own sandbox).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use carboy_core::ids::{AgentName, BottleName, SecretName};
use carboy_core::plan::{Bind, Limits};
use carboy_core::route::{Route, RouteSet};

use crate::agent::{self, Agent};
use crate::bottle::{self, Bottle, EnvValue, Provider};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, excerpt, listed};
use crate::files::{DIRECTORY_FILES_MAX, FILE_BYTES_MAX, FileError, ManifestFiles, Places};
use crate::git::{GitRepo, GitUser};
use crate::settings::{self, SecretFrom, Settings};

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

/// The checked configuration of one run.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The agent, when one was named.
    pub agent: Option<AgentName>,
    /// The agent's file, when one was named.
    pub agent_file: Option<PathBuf>,
    /// Text below the agent's front matter, or the empty text.
    pub prompt: String,
    /// The bottle.
    pub bottle: BottleName,
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
    /// Whether the bottle may ask for routes.
    pub supervise: bool,
    /// The agent program.
    pub provider: Provider,
    /// The operator's settings.
    pub settings: Settings,
    /// What somebody should look at; no errors among them.
    pub warnings: Diagnostics,
    /// Every file that went into this, for hot reload.
    pub sources: Vec<PathBuf>,
}

impl Effective {
    /// Every secret that a route needs and where its value is got from.
    pub fn secrets(&self) -> BTreeMap<SecretName, SecretFrom> {
        let names: BTreeSet<&SecretName> =
            self.routes.iter().filter_map(|r| r.auth.as_ref()).map(|a| &a.secret).collect();
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

/// The loader.
pub struct Manifest;

impl Manifest {
    /// Loads the chosen agent and bottle and the settings, and nothing else.
    ///
    /// # Errors
    /// Every error of the chosen files, with the warnings among them.
    pub fn load(files: &dyn ManifestFiles, request: &Request) -> Result<Effective, Diagnostics> {
        let mut out = Diagnostics::default();
        let places = &request.places;
        warn_foreign(files, places, &mut out);
        warn_ignored_bottles(files, places, &mut out);
        let settings = settings::load(files, places, &mut out);
        let agent = match &request.agent {
            Some(typed) => chosen_agent(files, places, typed, &mut out),
            None => None,
        };
        let agent_failed = request.agent.is_some() && agent.is_none();
        let name = bottle_name(files, request, agent.as_ref(), agent_failed, &mut out);
        let bottle = name.and_then(|(name, said)| chosen_bottle(files, places, name, said, &mut out));
        match bottle {
            Some(bottle) if !out.has_errors() => Ok(assemble(settings, agent, bottle, out)),
            Some(_) | None => Err(out),
        }
    }

    /// M2–M5, M7: names of bottles, from the directory alone, sorted. Files are not opened.
    pub fn bottle_names(files: &dyn ManifestFiles, places: &Places) -> Vec<BottleName> {
        let mut out = Diagnostics::default();
        let stems = stems(files, &places.bottles(), &mut out);
        stems.iter().filter_map(|stem| BottleName::parse(stem).ok()).collect()
    }

    /// M2, M4, M5, M7: names of agents, the union of both roots, sorted. Files are not opened.
    pub fn agent_names(files: &dyn ManifestFiles, places: &Places) -> Vec<AgentName> {
        let mut out = Diagnostics::default();
        let roots = agent_roots(files, places);
        let all: BTreeSet<String> = roots.iter().flat_map(|root| stems(files, root, &mut out)).collect();
        all.iter().filter_map(|stem| AgentName::parse(stem).ok()).collect()
    }
}

/// The routes of one bottle read anew, for hot reload: the same checks, and the old rules stay when it fails.
///
/// # Errors
/// Every error of the bottle's file. The warnings of a good one are returned with the routes.
pub fn routes_of(
    files: &dyn ManifestFiles,
    places: &Places,
    bottle: &BottleName,
    generation: u64,
) -> Result<(RouteSet, Diagnostics), Diagnostics> {
    let mut out = Diagnostics::default();
    match chosen_bottle(files, places, bottle.clone(), None, &mut out) {
        Some(bottle) if !out.has_errors() => Ok((RouteSet::new(bottle.routes, generation), out)),
        Some(_) | None => Err(out),
    }
}

fn assemble(settings: Settings, agent: Option<Agent>, bottle: Bottle, warnings: Diagnostics) -> Effective {
    let mut sources = vec![bottle.file.clone()];
    sources.extend(agent.as_ref().map(|agent| agent.file.clone()));
    sources.extend(settings.sources.iter().cloned());
    let (name, agent_file, prompt, user) = match agent {
        Some(agent) => (Some(agent.name), Some(agent.file), agent.prompt, agent.git_user),
        None => (None, None, String::new(), GitUser::default()),
    };
    Effective {
        agent: name,
        agent_file,
        prompt,
        bottle: bottle.name,
        env: bottle.env,
        routes: RouteSet::new(bottle.routes as Vec<Route>, 1),
        binds: bottle.binds,
        limits: bottle.limits,
        git_user: user.over(&bottle.git_user),
        git_repos: bottle.git_repos,
        supervise: bottle.supervise,
        provider: bottle.provider,
        settings,
        warnings,
        sources,
    }
}

fn chosen_agent(files: &dyn ManifestFiles, places: &Places, typed: &str, out: &mut Diagnostics) -> Option<Agent> {
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
    for root in agent_roots(files, places) {
        let file = root.join(format!("{name}.md"));
        let errors = out.error_count();
        if let Some(bytes) = read_file(files, &file, out) {
            return agent::read(name, &file, &bytes, places, out);
        }
        if out.error_count() > errors {
            return None;
        }
    }
    let known = Manifest::agent_names(files, places);
    let fix = match known.as_slice() {
        [] => format!(
            "write {}, or run a bottle with --bottle NAME",
            places.agents().join(format!("{name}.md")).display()
        ),
        known => format!("use one of {}", listed(known.iter().map(AgentName::as_str))),
    };
    out.push(Diagnostic::error(Code::NoSuchAgent, format!("there is no agent `{name}`"), fix));
    None
}

/// M9: the command line's bottle, else the agent's; and where the agent says so.
fn bottle_name(
    files: &dyn ManifestFiles,
    request: &Request,
    agent: Option<&Agent>,
    agent_failed: bool,
    out: &mut Diagnostics,
) -> Option<(BottleName, Option<(PathBuf, Position)>)> {
    match request.bottles.as_slice() {
        [one] => match BottleName::parse(one) {
            Ok(name) => Some((name, None)),
            Err(error) => {
                let fix = "give the name of a file under bottles/, without `.md`";
                out.push(Diagnostic::error(Code::BadName, error.to_string(), fix));
                None
            }
        },
        [] => match agent {
            Some(Agent { bottle: Some((name, at)), file, .. }) => Some((name.clone(), Some((file.clone(), *at)))),
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
        },
        several => {
            let message = format!("merging several bottles is not available in this version: {}", listed(several));
            out.push(Diagnostic::error(Code::NotAvailable, message, "name one bottle"));
            None
        }
    }
}

fn nothing_to_run(files: &dyn ManifestFiles, places: &Places) -> Diagnostic {
    let bottles = Manifest::bottle_names(files, places);
    let fix = match bottles.as_slice() {
        [] => format!(
            "write {} with these lines, then give --bottle dev:\n{EXAMPLE}",
            places.bottles().join("dev.md").display()
        ),
        known => format!("give --bottle NAME, one of {}", listed(known.iter().map(BottleName::as_str))),
    };
    Diagnostic::error(Code::NothingToRun, "no agent and no bottle was named", fix)
}

/// The smallest bottle of use, as the error shows it.
pub const EXAMPLE: &str = "---\negress:\n  routes:\n    - {host: api.anthropic.com, meter: anthropic, auth_scheme: Bearer, token_env: ANTHROPIC_API_KEY}\n---\nMay talk to the model and to nobody else.";

/// M2, M4, M5: the working directory's root first, unless it is the user's own.
pub(crate) fn agent_roots(files: &dyn ManifestFiles, places: &Places) -> Vec<PathBuf> {
    match has_own_root(files, places) {
        true => vec![places.cwd_root().join("agents"), places.agents()],
        false => vec![places.agents()],
    }
}

fn has_own_root(files: &dyn ManifestFiles, places: &Places) -> bool {
    let root = places.cwd_root();
    root != places.carboy_home && !files.same_directory(&root, &places.carboy_home)
}

fn chosen_bottle(
    files: &dyn ManifestFiles,
    places: &Places,
    name: BottleName,
    said: Option<(PathBuf, Position)>,
    out: &mut Diagnostics,
) -> Option<Bottle> {
    let file = places.bottles().join(format!("{name}.md"));
    let errors = out.error_count();
    if let Some(bytes) = read_file(files, &file, out) {
        return bottle::read(name, &file, &bytes, places, out);
    }
    if out.error_count() == errors {
        out.push(no_such_bottle(files, places, &name, said));
    }
    None
}

pub(crate) fn no_such_bottle(
    files: &dyn ManifestFiles,
    places: &Places,
    name: &BottleName,
    said: Option<(PathBuf, Position)>,
) -> Diagnostic {
    let known = Manifest::bottle_names(files, places);
    let file = places.bottles().join(format!("{name}.md"));
    let fix = match known.as_slice() {
        [] => format!("write {} with these lines:\n{EXAMPLE}", file.display()),
        known => format!("write {}, or use one of {}", file.display(), listed(known.iter().map(BottleName::as_str))),
    };
    let missing = Diagnostic::error(Code::NoSuchBottle, format!("there is no bottle `{name}`"), fix);
    match said {
        Some((file, at)) => missing.at(&file, at),
        None => missing,
    }
}

/// A file within its bound; `None` when absent, and when it cannot be read, which is reported.
pub(crate) fn read_file(files: &dyn ManifestFiles, file: &Path, out: &mut Diagnostics) -> Option<Vec<u8>> {
    match files.read(file, FILE_BYTES_MAX) {
        Ok(found) => found,
        Err(error) => {
            let (code, fix) = match &error {
                FileError::TooLarge { .. } => (Code::FileTooLarge, "make the file smaller"),
                FileError::Unreadable(_) => (Code::FileUnreadable, "make the file readable, or remove it"),
            };
            out.push(Diagnostic::error(code, error.to_string(), fix).at(file, Position::START));
            None
        }
    }
}

/// Stems of the `.md` files of a directory, sorted.
pub(crate) fn stems(files: &dyn ManifestFiles, dir: &Path, out: &mut Diagnostics) -> Vec<String> {
    let mut names = match files.list(dir) {
        Ok(names) => names,
        Err(error) => {
            let message = format!("the directory cannot be listed: {error}");
            out.push(Diagnostic::error(Code::FileUnreadable, message, "make it readable").at(dir, Position::START));
            return Vec::new();
        }
    };
    names.sort();
    if names.len() > DIRECTORY_FILES_MAX {
        let message = format!("more than {DIRECTORY_FILES_MAX} files; the others were not looked at");
        out.push(Diagnostic::error(Code::TooManyFiles, message, "keep fewer files there").at(dir, Position::START));
        names.truncate(DIRECTORY_FILES_MAX);
    }
    names.iter().filter_map(|name| name.strip_suffix(".md")).map(str::to_owned).collect()
}

/// M3: one warning for all bottle files under the working directory.
pub(crate) fn warn_ignored_bottles(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) {
    if !has_own_root(files, places) {
        return;
    }
    let dir = places.cwd_root().join("bottles");
    // A directory that cannot be listed holds nothing that would be used either.
    let mut unused = Diagnostics::default();
    let stems = stems(files, &dir, &mut unused);
    if stems.is_empty() {
        return;
    }
    let paths = stems.iter().map(|stem| dir.join(format!("{stem}.md")).display().to_string());
    let message = format!("bottle files under the working directory are ignored: {}", listed(paths));
    let fix = format!(
        "bottles live only in {}: what a checked-out repository brings must not widen its own sandbox",
        places.bottles().display()
    );
    out.push(Diagnostic::warning(Code::BottleIgnored, message, fix).at(&dir, Position::START));
}

/// M6, M40: files of the tool that the format descends from, where carboy's own are missing.
pub(crate) fn warn_foreign(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) {
    let mut found: Vec<String> = Vec::new();
    if !files.exists(&places.carboy_home) {
        let candidates = [places.home.join("bot-bottle.json"), places.home.join(".bot-bottle")];
        found.extend(candidates.iter().filter(|path| files.exists(path)).map(|path| path.display().to_string()));
    }
    let of_cwd = places.cwd.join("bot-bottle.json");
    if places.cwd != places.home && !files.exists(&places.cwd_root()) && files.exists(&of_cwd) {
        found.push(of_cwd.display().to_string());
    }
    if !found.is_empty() {
        let message = format!("found {}, which carboy does not read", listed(found));
        let fix = format!(
            "copy bottles/*.md and agents/*.md to {} and run `carboy check`, which names what to change; an import by \
             `carboy init --from bot-bottle` is not available in this version",
            excerpt(&places.carboy_home.display().to_string())
        );
        out.push(Diagnostic::warning(Code::ForeignFiles, message, fix));
    }
}
