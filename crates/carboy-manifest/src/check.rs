//! `carboy check`: everything is read, put together and checked at once (M8).

use std::path::{Path, PathBuf};
use std::rc::Rc;

use carboy_core::ids::{AgentName, BottleName};
use serde::Serialize;

use crate::agent;
use crate::chain::{Chain, Chains};
use crate::chat::{self, ChatFile, Resolved};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, Severity, excerpt};
use crate::files::{ManifestFiles, Places, SYSTEM_SETTINGS};
use crate::load::{Request, load_any, owner_of};
use crate::lookup::{agent_roots, no_such_bottle, read_file, stems, warn_foreign, warn_ignored_bottles};
use crate::settings;
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
/// names any. A repository's agent is shown as well: nothing runs here.
pub fn check(files: &dyn ManifestFiles, request: &Request) -> CheckReport {
    let places = &request.places;
    let mut out = Diagnostics::default();
    let mut checked = Vec::new();
    warn_foreign(files, places, &mut out);
    warn_ignored_bottles(files, places, &mut out);
    settings::load(files, places, &mut out);
    let rules = rules_folder(files, places, &mut out);
    let system = PathBuf::from(SYSTEM_SETTINGS);
    if files.exists(&system) {
        let ok = !out.iter().any(|d| d.severity == Severity::Error && d.file.as_ref() == Some(&system));
        checked.push(CheckedFile { path: system, kind: FileKind::Settings, ok });
    }
    if files.exists(&places.settings()) {
        checked.push(CheckedFile { path: places.settings(), kind: FileKind::Settings, ok: !out.has_errors() });
    }
    checked.extend(rules);
    bottles(files, places, &mut checked, &mut out);
    agents(files, places, &mut checked, &mut out);
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

fn bottles(files: &dyn ManifestFiles, places: &Places, checked: &mut Vec<CheckedFile>, out: &mut Diagnostics) {
    let mut chains = Chains::for_check(files, places);
    let mut read = Vec::new();
    for stem in stems(files, &places.bottles(), out) {
        let path = places.bottles().join(format!("{stem}.md"));
        match BottleName::parse(&stem) {
            Ok(name) => {
                let chain = chains.resolve(&name, None, out);
                if let Some(chain) = &chain {
                    whole(chain.part.clone(), &owner_of([&name]), out);
                }
                read.push((path, chain));
            }
            Err(error) => ignored(path, &error.to_string(), out),
        }
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
                Ok(name) => {
                    let before = out.error_count();
                    one_agent(files, places, name, &path, out);
                    checked.push(CheckedFile { path, kind: FileKind::Agent, ok: out.error_count() == before });
                }
                Err(error) => ignored(path, &error.to_string(), out),
            }
        }
    }
}

fn one_agent(files: &dyn ManifestFiles, places: &Places, name: AgentName, path: &Path, out: &mut Diagnostics) {
    let Some(bytes) = read_file(files, path, out) else { return };
    let Some(agent) = agent::read(name, path, &bytes, places, out) else { return };
    if agent.chat.is_some()
        && !out.iter().any(|found| found.file.as_deref() == Some(path) && found.severity == Severity::Error)
    {
        // What a chat agent needs of its bottle, of the rules folder and of the settings is known when all are put together.
        let request = Request { agent: Some(agent.name.to_string()), bottles: Vec::new(), places: places.clone() };
        let found = load_any(files, &request).map_or_else(|errors| errors, |loaded| loaded.warnings);
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
