//! `workspace: overlay` and what is kept of a workspace: a layer per bottle and directory, compared, applied, taken back.
//!
//! ```text
//! state/<bottle>/lock                      shared by its runs; apply, undo, restore and rm want it alone
//! state/<bottle>/workspace/<key>/
//!   layer.json     which directory, in which mode, which run last
//!   index          what the directory held when the run began
//!   upper/ work/   the overlay's (mode overlay)
//!   applies/<n>/   originals of what was applied
//! ```
//!
//! A layer belongs to one directory: its key is a hash of the path. The overlay itself is mounted by the bottle's init,
//! inside; the host's directory is its lower part and is never written to by the bottle.
//!
//! *Must never* change a layer that a run has mounted, or a workspace without having kept what was there.

pub mod apply;
pub mod change;
mod hold;
pub mod index;
pub mod journal;
pub mod plan;
pub mod remove;
pub mod steering;
pub mod text;
pub mod tree;
pub mod undo;
pub(crate) mod worktree;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use carboy_core::ids::BottleName;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::home::{Home, HomeError, read_private, write_private};
use index::Index;
use tree::Root;

pub use hold::{Held, RunOf, hold, hold_state};

/// Most layers of one bottle.
pub const LAYERS_MAX: usize = 1000;

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// A run of the bottle lives.
    #[error("{who} lives: end it first (`carboy stop {bottle}`)")]
    Busy {
        /// The bottle.
        bottle: BottleName,
        /// Which run.
        who: String,
    },
    /// Another run has the layer mounted.
    #[error(
        "{who} works on the overlay of {workspace}: only one run may at a time (`carboy stop {bottle}`, or another bottle)"
    )]
    LayerInUse {
        /// The bottle.
        bottle: BottleName,
        /// Which run.
        who: String,
        /// The directory.
        workspace: PathBuf,
    },
    /// Nothing is kept.
    #[error("bottle {bottle} keeps nothing of {workspace}: no run of it has begun there")]
    NoLayer {
        /// The bottle.
        bottle: BottleName,
        /// The directory that was asked for.
        workspace: String,
    },
    /// More than one directory could be meant.
    #[error("bottle {bottle} was run in several directories: go to one of them, or name it with `--workspace DIR` ({})",
        .places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    Several {
        /// The bottle.
        bottle: BottleName,
        /// The directories.
        places: Vec<PathBuf>,
    },
    /// A bottle keeps too many.
    #[error("bottle {bottle} keeps {LAYERS_MAX} workspaces: remove some with `carboy bottle rm {bottle}`")]
    TooManyLayers {
        /// The bottle.
        bottle: BottleName,
    },
    /// More than can be applied at once.
    #[error("more than {max} changes: name the paths to look at")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// The files of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Something of the system.
    #[error("could not {what} ({path}): {source}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// Of which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What `layer.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The directory of the host.
    pub workspace: PathBuf,
    /// How the last run had it.
    pub mode: Mode,
    /// What the directory is.
    pub part: Part,
    /// The last run.
    pub run: String,
    /// When that began: milliseconds since 1970.
    pub started_ms: u64,
    /// The last apply that was taken out of the layer.
    #[serde(default)]
    pub settled: String,
}

/// How a run has its working directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It writes there.
    Direct,
    /// What it writes is kept in a layer.
    Overlay,
}

impl From<carboy_manifest::Workspace> for Mode {
    fn from(said: carboy_manifest::Workspace) -> Mode {
        match said {
            carboy_manifest::Workspace::Direct => Mode::Direct,
            carboy_manifest::Workspace::Overlay => Mode::Overlay,
        }
    }
}

/// What a directory is to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The working directory.
    Workspace,
    /// The repository that this working directory is a worktree of.
    RepositoryOf(PathBuf),
}

/// One directory of the host, as a bottle keeps it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Where it is kept.
    pub directory: PathBuf,
    /// What is known of it.
    pub record: LayerRecord,
}

impl Layer {
    /// What was changed.
    pub fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// The start index.
    pub fn index(&self) -> PathBuf {
        self.directory.join("index")
    }

    /// Originals of what was applied.
    pub fn applies(&self) -> PathBuf {
        self.directory.join("applies")
    }

    /// Is there a layer to compare with (or only a start index)?
    pub fn is_overlay(&self) -> bool {
        self.record.mode == Mode::Overlay || holds_anything(self)
    }

    /// The layer and the directory below it.
    pub fn roots(&self) -> Result<(Root, Root), WorkspaceError> {
        let open = |path: &Path| Root::open(path).map_err(|e| self.failed("open the layer and its workspace", e));
        std::fs::create_dir_all(self.upper()).map_err(|e| self.failed("open the layer", e))?;
        Ok((open(&self.upper())?, open(&self.record.workspace)?))
    }

    pub(crate) fn failed(&self, what: &'static str, source: io::Error) -> WorkspaceError {
        WorkspaceError::Failed { what, path: self.record.workspace.clone(), source }
    }

    fn write_record(&self) -> Result<(), WorkspaceError> {
        let text =
            serde_json::to_vec_pretty(&self.record).map_err(|e| self.failed("write the layer's record", e.into()))?;
        Ok(write_private(&self.directory.join("layer.json"), &text)?)
    }
}

fn holds_anything(layer: &Layer) -> bool {
    std::fs::read_dir(layer.upper()).is_ok_and(|mut names| names.next().is_some())
}

/// A bottle's state for oneself: no run of it lives as long as this does.
#[derive(Debug)]
pub struct Alone {
    _lock: File,
}

/// Refuses while a run of the bottle lives, and says which.
pub fn alone(home: &Home, bottle: &BottleName) -> Result<Alone, WorkspaceError> {
    let state = home.state(bottle);
    let failed = |e| WorkspaceError::Failed { what: "lock the bottle's state", path: state.clone(), source: e };
    let lock = lock_file(&state.join("lock")).map_err(failed)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(WorkspaceError::Busy { bottle: bottle.clone(), who: live_run(home, bottle) });
    }
    Ok(Alone { _lock: lock })
}

/// A bottle's state, held as its runs hold it: nobody applies or removes it meanwhile.
#[derive(Debug)]
pub struct Among {
    _lock: File,
}

/// Refuses while an apply, undo or rm has it alone.
///
/// # Errors
/// Then, and when the lock cannot be opened.
pub fn among(home: &Home, bottle: &BottleName) -> io::Result<Among> {
    let lock = lock_file(&home.state(bottle).join("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockShared)?;
    Ok(Among { _lock: lock })
}

fn live_run(home: &Home, bottle: &BottleName) -> String {
    let live = crate::registry::live_runs(home).unwrap_or_default();
    let names: Vec<String> =
        live.into_iter().filter(|run| run.record.bottle == bottle.as_str()).map(|run| run.record.run).collect();
    if names.is_empty() {
        return format!("a run of bottle {bottle} that is just beginning or ending");
    }
    format!("{} of bottle {bottle}", names.join(", "))
}

/// Does the name still stand for this file?
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn lock_file(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

fn layer_of(home: &Home, bottle: &BottleName, directory: &Path) -> Layer {
    let hash = Sha256::digest(directory.as_os_str().as_encoded_bytes());
    let key: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let record = LayerRecord {
        workspace: directory.to_owned(),
        mode: Mode::Direct,
        part: Part::Workspace,
        run: String::new(),
        started_ms: 0,
        settled: String::new(),
    };
    Layer { directory: home.state(bottle).join("workspace").join(key), record }
}

fn read_record(directory: &Path) -> Result<Option<LayerRecord>, WorkspaceError> {
    let text = read_private(&directory.join("layer.json"))?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Every directory that a bottle keeps something of, the last used first.
pub fn layers(home: &Home, bottle: &BottleName) -> Result<Vec<Layer>, WorkspaceError> {
    let directory = home.state(bottle).join("workspace");
    let listing = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|source| WorkspaceError::Failed { what: "list the layers", path: directory, source })?,
    };
    let mut found = Vec::new();
    for path in listing.take(LAYERS_MAX * 2).filter_map(|entry| Some(entry.ok()?.path())) {
        if let Some(record) = read_record(&path)? {
            found.push(Layer { directory: path, record });
        }
    }
    found.sort_by_key(|layer| std::cmp::Reverse(layer.record.started_ms));
    Ok(found)
}

/// The layers that are meant: of the directory that was named, else of the one where the person is, else of the only one.
/// A worktree's repository comes with it.
pub fn chosen(
    home: &Home,
    bottle: &BottleName,
    named: Option<&Path>,
    here: &Path,
) -> Result<Vec<Layer>, WorkspaceError> {
    let all = layers(home, bottle)?;
    let of = |wanted: &Path| {
        let fits = |layer: &&Layer| match &layer.record.part {
            Part::Workspace => layer.record.workspace == wanted,
            Part::RepositoryOf(worktree) => worktree == wanted,
        };
        let mut found: Vec<Layer> = all.iter().filter(fits).cloned().collect();
        found.sort_by_key(|layer| layer.record.part != Part::Workspace);
        found
    };
    let none = |workspace: String| WorkspaceError::NoLayer { bottle: bottle.clone(), workspace };
    if let Some(named) = named {
        let real = named.canonicalize().unwrap_or_else(|_| named.to_owned());
        let found = of(&real);
        return if found.is_empty() { Err(none(named.display().to_string())) } else { Ok(found) };
    }
    for above in here.ancestors() {
        let found = of(above);
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let places: Vec<PathBuf> =
        all.iter().filter(|l| l.record.part == Part::Workspace).map(|l| l.record.workspace.clone()).collect();
    match &places[..] {
        [] => Err(none("any directory".into())),
        [only] => Ok(of(only)),
        _ => Err(WorkspaceError::Several { bottle: bottle.clone(), places }),
    }
}

/// Throws a layer away, applied or not.
pub fn discard(layer: &Layer) -> Result<(), WorkspaceError> {
    let state = Root::open(&layer.directory).map_err(|e| layer.failed("open the layer", e))?;
    for name in [&b"upper"[..], b"work", b"index"] {
        remove::remove(state.fd(), name).map_err(|e| layer.failed("throw the layer away", e))?;
    }
    let host = Root::open(&layer.record.workspace).map_err(|e| layer.failed("look at the workspace", e))?;
    Index::take(&host).write(&layer.index()).map_err(|e| layer.failed("write the start index", e))
}
