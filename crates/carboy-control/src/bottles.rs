//! What each bottle keeps: listed, measured, removed; and its quarantine.
//!
//! *Must never* touch a bottle's file, or what a run that lives works on.

use std::io;
use std::path::PathBuf;

use carboy_bottle::quarantine::{self, Entry, RestoreError, Shown};
use carboy_core::ids::BottleName;
use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::registry;
use crate::workspace::remove::{self, Size};
use crate::workspace::tree::Root;
use crate::workspace::{self, WorkspaceError};

pub use carboy_bottle::quarantine as kept;

/// Most bottles that are listed.
pub const BOTTLES_MAX: usize = 10_000;
/// Most runs of one bottle that are looked at for the last one.
const RUNS_MAX: usize = 10_000;

/// A bottle, as far as anything of it is there.
#[derive(Clone, Debug, Serialize)]
pub struct Bottle {
    /// Its name.
    pub name: String,
    /// Its file, when it has one.
    pub file: Option<PathBuf>,
    /// Its state, when a run of it has begun.
    pub state: Option<PathBuf>,
    /// The last run, and when that began: milliseconds since 1970.
    pub last_run: Option<LastRun>,
    /// Runs that live.
    pub live: Vec<String>,
    /// What it keeps, by part; empty unless measured.
    pub parts: Vec<PartSize>,
}

/// See [`Bottle::last_run`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastRun {
    /// The run.
    pub run: String,
    /// Milliseconds since 1970.
    pub started_ms: u64,
}

/// One part of what a bottle keeps.
#[derive(Clone, Debug, Serialize)]
pub struct PartSize {
    /// What it is, in a few words.
    pub what: String,
    /// Where.
    pub path: PathBuf,
    /// How much.
    pub size: Size,
}

/// Are the parts to be measured?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Yes; large ones take a while.
    Yes,
    /// No.
    No,
}

/// Every bottle with a file or a state, by name.
pub fn list(home: &Home, measure: Measure) -> Result<Vec<Bottle>, WorkspaceError> {
    let mut names = std::collections::BTreeSet::new();
    for (directory, suffix) in [(home.states(), ""), (home.root().join("bottles"), ".md")] {
        let listing = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|source| failed("list the bottles", directory.clone(), source))?,
        };
        for entry in listing.take(BOTTLES_MAX).filter_map(Result::ok) {
            let is_right = entry.file_type().is_ok_and(|t| if suffix.is_empty() { t.is_dir() } else { !t.is_dir() });
            let name = entry.file_name().into_string().ok().filter(|_| is_right);
            let name = name.and_then(|n| n.strip_suffix(suffix).map(str::to_owned));
            names.extend(name.and_then(|n| BottleName::parse(&n).ok()));
        }
    }
    names.iter().map(|name| show(home, name, measure)).collect()
}

fn failed(what: &'static str, path: PathBuf, source: io::Error) -> WorkspaceError {
    WorkspaceError::Failed { what, path, source }
}

/// One bottle.
pub fn show(home: &Home, name: &BottleName, measure: Measure) -> Result<Bottle, WorkspaceError> {
    let state = home.state(name);
    let file = home.root().join("bottles").join(format!("{name}.md"));
    let live = registry::live_runs(home)?.into_iter().filter(|run| run.record.bottle == name.as_str());
    let mut bottle = Bottle {
        name: name.to_string(),
        file: file.exists().then_some(file),
        state: state.is_dir().then(|| state.clone()),
        last_run: last_run(home, name)?,
        live: live.map(|run| run.record.run).collect(),
        parts: Vec::new(),
    };
    if measure == Measure::Yes && bottle.state.is_some() {
        let mut parts = vec![("its home".to_owned(), state.join("home"))];
        for layer in workspace::layers(home, name)? {
            // Without an overlay there are no changes: what the directory held when the run began is kept.
            let what = if layer.is_overlay() { "its changes of" } else { "the index of" };
            parts.push((format!("{what} {}", layer.record.workspace.display()), layer.directory));
        }
        parts.push(("what was taken out of workspaces".into(), state.join("quarantine")));
        parts.push(("records and output of its runs".into(), state.join("runs")));
        for (what, path) in parts {
            if let Ok(root) = Root::open(&path) {
                bottle.parts.push(PartSize { what, path, size: remove::size(&root) });
            }
        }
    }
    Ok(bottle)
}

/// What of a run's record matters here.
#[derive(Deserialize)]
struct Began {
    run: String,
    started_ms: u64,
}

fn last_run(home: &Home, name: &BottleName) -> Result<Option<LastRun>, WorkspaceError> {
    let layers = workspace::layers(home, name)?.into_iter();
    let mut last = layers.map(|l| LastRun { run: l.record.run, started_ms: l.record.started_ms }).next();
    let runs = std::fs::read_dir(home.state(name).join("runs")).into_iter().flatten().take(RUNS_MAX);
    for path in runs.filter_map(|entry| Some(entry.ok()?.path().join("record.json"))) {
        let Ok(Some(text)) = crate::home::read_private(&path) else { continue };
        let Ok(began) = serde_json::from_slice::<Began>(&text) else { continue };
        if last.as_ref().is_none_or(|last| last.started_ms < began.started_ms) {
            last = Some(LastRun { run: began.run, started_ms: began.started_ms });
        }
    }
    Ok(last)
}

/// Removes everything that a bottle keeps; its file stays. Refuses while a run of it lives.
pub fn remove(home: &Home, name: &BottleName) -> Result<(), WorkspaceError> {
    let state = home.state(name);
    if !state.is_dir() {
        return Err(WorkspaceError::NoLayer { bottle: name.clone(), workspace: "any directory".into() });
    }
    let alone = workspace::alone(home, name)?;
    let states = Root::open(&home.states()).map_err(|e| failed("open the bottles' state", home.states(), e))?;
    let removed = remove::remove(states.fd(), name.as_str().as_bytes());
    drop(alone);
    removed.map_err(|e| failed("remove the bottle's state", state, e))
}

/// Where a bottle's quarantine is.
pub fn quarantine_of(home: &Home, name: &BottleName) -> PathBuf {
    home.state(name).join("quarantine")
}

/// What is in a bottle's quarantine, oldest first.
pub fn quarantined(home: &Home, name: &BottleName) -> Result<Vec<Entry>, WorkspaceError> {
    let directory = quarantine_of(home, name);
    quarantine::list(&directory).map_err(|e| failed("read the quarantine", directory, e))
}

/// One thing of it, looked at.
pub fn look(home: &Home, name: &BottleName, entry: &Entry) -> Result<Shown, WorkspaceError> {
    let directory = quarantine_of(home, name);
    entry.look(&directory).map_err(|e| failed("look at what is in quarantine", entry.path(), e))
}

/// Why something was not put back.
#[derive(Debug, thiserror::Error)]
pub enum PutBackError {
    /// A run lives.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// It cannot be.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Puts one thing back into the workspace.
pub fn put_back(home: &Home, name: &BottleName, entry: &mut Entry) -> Result<(), PutBackError> {
    let _alone = workspace::alone(home, name)?;
    Ok(entry.restore(&quarantine_of(home, name))?)
}
