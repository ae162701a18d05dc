//! `carboy check`: everything is read, put together and checked at once (M8).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use carboy_core::ids::{AgentName, BottleName};
use serde::Serialize;

use crate::agent;
use crate::budget::together;
use crate::chain::{Chain, Chains};
use crate::chat::{self, ChatFile, Resolved};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, Severity, excerpt};
use crate::files::{ManifestFiles, Places, SYSTEM_SETTINGS};
use crate::load::{Request, load_any, owner_of};
use crate::lookup::{agent_roots, no_such_bottle, read_file, stems, warn_foreign, warn_ignored_bottles};
use crate::settings::{self, Settings};
use crate::view::EffectiveView;
use crate::whole::whole;

/// What a check found. As JSON: `{ok, files, diagnostics, effective?}`.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// No error anywhere.
    pub ok: bool,
    /// Every file that was read.
    pub files: Vec<CheckedFile>,
    /// Every finding.
    pub diagnostics: Diagnostics,
    /// What a run would use; when one was asked for and is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective: Option<EffectiveView>,
    /// What was asked for, when it is a chat agent: [`with_chat`](Self::with_chat) puts it into the view.
    #[serde(skip)]
    pub chat: Option<Box<ChatFile>>,
}

impl CheckReport {
    /// The same with what the surroundings settle of the chat agent that was asked for, and with what is wrong in them.
    pub fn with_chat(mut self, settled: Result<Resolved, Diagnostics>) -> CheckReport {
        let found = match settled {
            Ok(resolved) => {
                if let Some(effective) = &mut self.effective {
                    effective.chat = Some(resolved.view());
                }
                resolved.warnings
            }
            Err(errors) => {
                self.effective = None;
                errors
            }
        };
        found.iter().for_each(|diagnostic| self.diagnostics.push_once(diagnostic.clone()));
        self.ok = !self.diagnostics.has_errors();
        self
    }
}

/// One file of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedFile {
    /// Where.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// No error in it, nor in a file that it extends.
    pub ok: bool,
}

/// Kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A bottle.
    Bottle,
    /// An agent.
    Agent,
    /// The settings.
    Settings,
    /// Patterns and filters of chat agents.
    Rules,
}

/// Checks all bottles with their chains, all agents and the settings, and shows the agent and bottles of `request` when it
/// names any. Where it names an agent, that agent and what it builds on are checked alone: files that it never reads are no
/// fault of it. A repository's agent is shown as well: nothing runs here.
pub fn check(files: &dyn ManifestFiles, request: &Request) -> CheckReport {
    let places = &request.places;
    let mut out = Diagnostics::default();
    let mut checked = Vec::new();
    warn_foreign(files, places, &mut out);
    warn_ignored_bottles(files, places, &mut out);
    let settings = settings::load(files, places, &mut out);
    let alone = request.agent.as_deref().map(|typed| Alone::of(files, request, typed));
    let rules = match alone.as_ref().is_none_or(|alone| alone.is_chat) {
        true => rules_folder(files, places, &mut out),
        false => Vec::new(),
    };
    let system = PathBuf::from(SYSTEM_SETTINGS);
    if files.exists(&system) {
        let ok = !out.iter().any(|d| d.severity == Severity::Error && d.file.as_ref() == Some(&system));
        checked.push(CheckedFile { path: system, kind: FileKind::Settings, ok });
    }
    if files.exists(&places.settings()) {
        checked.push(CheckedFile { path: places.settings(), kind: FileKind::Settings, ok: !out.has_errors() });
    }
    checked.extend(rules);
    match alone {
        None => {
            let names = all_bottles(files, places, &mut out);
            bottles(Chains::for_check(files, places), names, &settings, &mut checked, &mut out);
            agents(files, places, &mut checked, &mut out);
        }
        Some(alone) => {
            let mut chains = Chains::for_check(files, places);
            let names = with_parents(&mut chains, alone.bottles, &mut out);
            bottles(chains, names, &settings, &mut checked, &mut out);
            if let Some((name, path)) = alone.file {
                agent(files, places, name, path, &mut checked, &mut out);
            }
        }
    }
    let (mut effective, mut chat_file) = (None, None);
    if request.agent.is_some() || !request.bottles.is_empty() {
        match load_any(files, request) {
            Ok(loaded) => {
                // What several bottles are warned of together is in no file's own check.
                loaded.warnings.iter().for_each(|warning| out.push_once(warning.clone()));
                effective = Some(loaded.view());
                chat_file = loaded.chat;
            }
            // Errors of files are in the list already; those of the request are not.
            Err(errors) => errors.iter().for_each(|diagnostic| out.push_once(diagnostic.clone())),
        }
    }
    CheckReport { ok: !out.has_errors(), files: checked, diagnostics: out, effective, chat: chat_file }
}

/// G85b: the files of the rules folder, each good or not.
fn rules_folder(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) -> Vec<CheckedFile> {
    let read = chat::rules_folder(files, places, out);
    let broken = |path: &PathBuf| out.iter().any(|d| d.severity == Severity::Error && d.file.as_ref() == Some(path));
    read.into_iter().map(|path| CheckedFile { ok: !broken(&path), path, kind: FileKind::Rules }).collect()
}

/// An agent that was named, and what it builds on.
struct Alone {
    /// Where it is; not there for one that comes with the program.
    file: Option<(AgentName, PathBuf)>,
    /// Its bottles, or those that were named in their place.
    bottles: Vec<BottleName>,
    /// The rules folder goes into it.
    is_chat: bool,
}

impl Alone {
    fn of(files: &dyn ManifestFiles, request: &Request, typed: &str) -> Alone {
        let places = &request.places;
        let mut bottles: Vec<BottleName> =
            request.bottles.iter().filter_map(|name| BottleName::parse(name).ok()).collect();
        let path = |name: &AgentName| {
            let roots = agent_roots(files, places).into_iter();
            roots.map(|(root, _)| root.join(format!("{name}.md"))).find(|path| files.exists(path))
        };
        let file = AgentName::parse(typed).ok().and_then(|name| Some((path(&name)?, name)));
        let Some((path, name)) = file else { return Alone { file: None, bottles, is_chat: true } };
        // What is wrong with it is said when it is checked.
        let mut unsaid = Diagnostics::default();
        let read = read_file(files, &path, &mut unsaid)
            .and_then(|bytes| agent::read(name.clone(), &path, &bytes, places, &mut unsaid));
        let is_chat = read.as_ref().is_none_or(|agent| agent.chat.is_some());
        if let Some(said) = read.and_then(|agent| agent.bottle).filter(|_| bottles.is_empty()) {
            bottles.push(said.value);
        }
        Alone { file: Some((name, path)), bottles, is_chat }
    }
}

fn all_bottles(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) -> Vec<BottleName> {
    let mut names = Vec::new();
    for stem in stems(files, &places.bottles(), out) {
        match BottleName::parse(&stem) {
            Ok(name) => names.push(name),
            Err(error) => ignored(places.bottles().join(format!("{stem}.md")), &error.to_string(), out),
        }
    }
    names
}

/// These and all that they extend, of which there are files; a bottle that is not there is said by whoever names it.
fn with_parents(chains: &mut Chains<'_>, names: Vec<BottleName>, out: &mut Diagnostics) -> Vec<BottleName> {
    let mut all = BTreeSet::new();
    for name in names {
        if !chains.has(&name) {
            continue;
        }
        let chain = chains.resolve(&name, None, out);
        let stems = chain.iter().flat_map(|chain| &chain.files).filter_map(|file| file.file_stem()?.to_str());
        all.extend(stems.filter_map(|stem| BottleName::parse(stem).ok()));
        all.insert(name);
    }
    all.into_iter().collect()
}

fn bottles(
    mut chains: Chains<'_>,
    names: Vec<BottleName>,
    settings: &Settings,
    checked: &mut Vec<CheckedFile>,
    out: &mut Diagnostics,
) {
    let mut read = Vec::new();
    for name in names {
        let chain = chains.resolve(&name, None, out);
        if let Some(chain) = &chain {
            let bottle = whole(chain.part.clone(), &owner_of([&name]), out);
            together(&settings.budgets, None, &bottle.scopes, &bottle.terms, out);
        }
        read.push((chains.file(&name), chain));
    }
    // A bottle is good when everything that it extends is.
    let broken: Vec<&PathBuf> =
        out.iter().filter(|d| d.severity == Severity::Error).filter_map(|d| d.file.as_ref()).collect();
    let good = |chain: Rc<Chain>| !chain.files.iter().any(|file| broken.contains(&file));
    for (path, chain) in read {
        checked.push(CheckedFile { path, kind: FileKind::Bottle, ok: chain.is_some_and(good) });
    }
}

fn agents(files: &dyn ManifestFiles, places: &Places, checked: &mut Vec<CheckedFile>, out: &mut Diagnostics) {
    for (root, _) in agent_roots(files, places) {
        for stem in stems(files, &root, out) {
            let path = root.join(format!("{stem}.md"));
            match AgentName::parse(&stem) {
                Ok(name) => agent(files, places, name, path, checked, out),
                Err(error) => ignored(path, &error.to_string(), out),
            }
        }
    }
}

fn agent(
    files: &dyn ManifestFiles,
    places: &Places,
    name: AgentName,
    path: PathBuf,
    checked: &mut Vec<CheckedFile>,
    out: &mut Diagnostics,
) {
    let before = out.error_count();
    one_agent(files, places, name, &path, out);
    checked.push(CheckedFile { path, kind: FileKind::Agent, ok: out.error_count() == before });
}

fn one_agent(files: &dyn ManifestFiles, places: &Places, name: AgentName, path: &Path, out: &mut Diagnostics) {
    let Some(bytes) = read_file(files, path, out) else { return };
    let Some(agent) = agent::read(name, path, &bytes, places, out) else { return };
    if !out.iter().any(|found| found.file.as_deref() == Some(path) && found.severity == Severity::Error) {
        // What a chat agent needs of its bottle, of the rules folder and of the settings, and whether a budget is of use, is
        // known when all are put together.
        let request = Request { agent: Some(agent.name.to_string()), bottles: Vec::new(), places: places.clone() };
        let found = match load_any(files, &request) {
            Ok(loaded) => loaded.warnings,
            Err(errors) if agent.chat.is_some() => errors,
            // Errors of what it builds on are told where they are.
            Err(_) => Diagnostics::default(),
        };
        found.iter().for_each(|diagnostic| out.push_once(diagnostic.clone()));
    }
    if let Some(said) = agent.bottle
        && !files.exists(&places.bottles().join(format!("{}.md", said.value)))
    {
        out.push(no_such_bottle(files, places, &said.value, Some(&said.place)));
    }
}

fn ignored(path: PathBuf, why: &str, out: &mut Diagnostics) {
    let message = format!("{} is ignored: {why}", excerpt(&path.file_name().unwrap_or_default().to_string_lossy()));
    out.push(
        Diagnostic::warning(Code::FileIgnored, message, "rename the file, or move it elsewhere")
            .at(&path, Position::START),
    );
}
