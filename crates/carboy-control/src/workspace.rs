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
pub mod index;
pub mod journal;
pub mod plan;
pub mod remove;
pub mod steering;
pub mod text;
pub mod tree;
pub mod undo;
mod worktree;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use carboy_core::ids::{BottleName, RunId};
use carboy_core::plan::Overlay;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::home::{Home, HomeError, private_dir, read_private, write_private};
use index::{Index, Known};
use tree::{Kind, Rel, Root};

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
        let text = serde_json::to_vec_pretty(&self.record).map_err(|e| self.failed("write the layer's record", e.into()))?;
        Ok(write_private(&self.directory.join("layer.json"), &text)?)
    }
}

/// A run's hold on what its bottle keeps; given back when it is dropped, or when the process ends however it ends.
#[derive(Debug)]
pub struct Held {
    _locks: Vec<File>,
    /// What the bottle lays over what.
    pub overlays: Vec<Overlay>,
    /// In direct mode: the repository that a worktree belongs to.
    pub repository: Option<PathBuf>,
}

/// What a run asks for.
#[derive(Clone, Debug)]
pub struct RunOf<'a> {
    /// The bottle.
    pub bottle: &'a BottleName,
    /// The run.
    pub run: &'a RunId,
    /// The working directory, canonical.
    pub workdir: &'a Path,
    /// How it wants it.
    pub mode: Mode,
    /// Milliseconds since 1970.
    pub started_ms: u64,
}

/// Makes everything ready for a run: takes the locks, settles what was applied, writes the start index. Blocks.
pub fn hold(home: &Home, run: &RunOf<'_>) -> Result<Held, WorkspaceError> {
    let state = home.state(run.bottle);
    for dir in [home.states(), state.clone(), state.join("workspace")] {
        private_dir(&dir)?;
    }
    let lock = |e| WorkspaceError::Failed { what: "lock the bottle's state", path: state.clone(), source: e };
    let shared = lock_file(&state.join("lock")).map_err(lock)?;
    if flock(&shared, FlockOperation::NonBlockingLockShared).is_err() {
        let who = "an apply, undo or rm of this bottle".to_owned();
        return Err(WorkspaceError::Busy { bottle: run.bottle.clone(), who });
    }
    let mut held = Held { _locks: vec![shared], overlays: Vec::new(), repository: None };
    held.part(home, run, run.workdir, Part::Workspace)?;
    if let Some(common) = worktree::common_directory(run.workdir) {
        held.part(home, run, &common, Part::RepositoryOf(run.workdir.to_owned()))?;
        if run.mode == Mode::Direct {
            held.repository = Some(common);
        }
    }
    Ok(held)
}

impl Held {
    fn part(&mut self, home: &Home, run: &RunOf<'_>, directory: &Path, part: Part) -> Result<(), WorkspaceError> {
        let mut layer = layer_of(home, run.bottle, directory);
        if !layer.directory.exists() && layers(home, run.bottle)?.len() >= LAYERS_MAX {
            return Err(WorkspaceError::TooManyLayers { bottle: run.bottle.clone() });
        }
        private_dir(&layer.directory)?;
        let settled = read_record(&layer.directory)?.map(|r| r.settled).unwrap_or_default();
        layer.record = LayerRecord {
            workspace: directory.to_owned(),
            mode: run.mode,
            part,
            run: run.run.to_string(),
            started_ms: run.started_ms,
            settled,
        };
        let file = lock_file(&layer.directory.join("lock")).map_err(|e| layer.failed("lock the layer", e))?;
        let how = match run.mode {
            Mode::Overlay => FlockOperation::NonBlockingLockExclusive,
            Mode::Direct => FlockOperation::NonBlockingLockShared,
        };
        if flock(&file, how).is_err() {
            let who = live_run(home, run.bottle);
            return Err(WorkspaceError::LayerInUse { bottle: run.bottle.clone(), who, workspace: directory.to_owned() });
        }
        self._locks.push(file);
        match run.mode {
            Mode::Overlay => {
                make_ready(&mut layer)?;
                self.overlays.push(Overlay {
                    source: directory.to_owned(),
                    target: directory.to_owned(),
                    layer: layer.directory.clone(),
                });
            }
            Mode::Direct => {
                // One that was written as an overlay before keeps its base: the layer is still to be applied.
                if !holds_anything(&layer) {
                    let host = Root::open(directory).map_err(|e| layer.failed("look at the workspace", e))?;
                    Index::take(&host).write(&layer.index()).map_err(|e| layer.failed("write the start index", e))?;
                }
            }
        }
        layer.write_record()
    }
}

fn holds_anything(layer: &Layer) -> bool {
    std::fs::read_dir(layer.upper()).is_ok_and(|mut names| names.next().is_some())
}

/// An overlay's directories, empty `work`; what was applied is taken out; the index knows the host of now where the
/// layer has nothing, and the host that the layer began from where it has.
fn make_ready(layer: &mut Layer) -> Result<(), WorkspaceError> {
    let workspace = layer.record.workspace.clone();
    let host = Root::open(&workspace).map_err(|e| layer.failed("look at the workspace", e))?;
    let state = Root::open(&layer.directory).map_err(|e| layer.failed("open the layer", e))?;
    // What a run that was killed left in it; the kernel wants it empty, and its directory may be closed to us.
    remove::remove(state.fd(), b"work").map_err(|e| layer.failed("clear the overlay's work directory", e))?;
    for made in [layer.upper(), layer.work()] {
        std::fs::create_dir_all(&made).map_err(|e| layer.failed("make the layer", e))?;
    }
    settle(layer)?;
    let mode = std::fs::metadata(&workspace).map_err(|e| layer.failed("look at the workspace", e))?.mode() & 0o777;
    std::fs::set_permissions(layer.upper(), std::fs::Permissions::from_mode(mode))
        .map_err(|e| layer.failed("set the permissions of the layer", e))?;
    let mut index = Index::take(&host);
    if let Some(old) = Index::read(&layer.index()).map_err(|e| layer.failed("read the start index", e))? {
        let upper = Root::open(&layer.upper()).map_err(|e| layer.failed("open the layer", e))?;
        keep_bases(&upper, &old, &mut index);
    }
    index.write(&layer.index()).map_err(|e| layer.failed("write the start index", e))
}

/// Where the layer has something, the index goes on saying what that was made from.
fn keep_bases(upper: &Root, old: &Index, new: &mut Index) {
    let mut waiting = vec![Rel::root()];
    let mut opaque = Vec::new();
    while let Some(directory) = waiting.pop() {
        for (name, stamp) in upper.list(&directory).unwrap_or_default() {
            let rel = directory.join(&name);
            if rel.bytes().len() > tree::PATH_BYTES_MAX {
                continue;
            }
            new.set(&rel, old.known(&rel));
            match stamp.kind {
                Kind::Directory => {
                    if upper.is_opaque(&rel).unwrap_or(true) {
                        opaque.push(rel.clone());
                    }
                    waiting.push(rel);
                }
                Kind::Whiteout => opaque.push(rel),
                Kind::File | Kind::Link => opaque.push(rel),
                Kind::Special => {}
            }
        }
    }
    // What these hide goes with them: it is as it was when they came.
    opaque.sort();
    let hidden = |rel: &Rel| rel.ancestors().any(|above| opaque.binary_search(&above).is_ok());
    let below: Vec<Rel> = new.iter().filter(|(rel, _)| hidden(rel)).map(|(rel, _)| rel.clone()).collect();
    for rel in below {
        new.set(&rel, old.known(&rel));
    }
    for (rel, stamp) in old.iter().filter(|(rel, _)| hidden(rel)) {
        new.set(rel, Known::Stood(*stamp));
    }
}

/// Takes out of the layer what has been applied, so that the next run sees the workspace there and not an older copy.
fn settle(layer: &mut Layer) -> Result<(), WorkspaceError> {
    let failed = |layer: &Layer, e| layer.failed("settle what was applied", e);
    let applies = journal::ids(&layer.applies()).map_err(|e| failed(layer, e))?;
    let Some(last) = applies.last().filter(|last| **last > layer.record.settled) else { return Ok(()) };
    let found = plan::pending(layer)?;
    let (upper, _) = layer.roots()?;
    if !found.truncated {
        let waiting: std::collections::BTreeSet<Rel> =
            found.list.into_iter().flat_map(|c| c.path.ancestors().chain([c.path.clone()]).collect::<Vec<_>>()).collect();
        take_out(&upper, &Rel::root(), &waiting).map_err(|e| failed(layer, e))?;
        layer.record.settled = last.clone();
    }
    Ok(())
}

fn take_out(upper: &Root, directory: &Rel, waiting: &std::collections::BTreeSet<Rel>) -> io::Result<()> {
    let mut directories = vec![directory.clone()];
    while let Some(directory) = directories.pop() {
        let fd = upper.directory(&directory)?;
        for (name, stamp) in tree::list(&fd)? {
            let rel = directory.join(&name);
            if !waiting.contains(&rel) {
                remove::remove(&fd, &name)?;
            } else if stamp.kind == Kind::Directory && matches!(upper.is_opaque(&rel), Ok(false)) {
                // One that hides what is below stays whole: with a part of it gone the rest would not be there inside.
                directories.push(rel);
            }
        }
    }
    Ok(())
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

fn live_run(home: &Home, bottle: &BottleName) -> String {
    let live = crate::registry::live_runs(home).unwrap_or_default();
    let names: Vec<String> =
        live.into_iter().filter(|run| run.record.bottle == bottle.as_str()).map(|run| run.record.run).collect();
    if names.is_empty() {
        return format!("a run of bottle {bottle} that is just beginning or ending");
    }
    format!("{} of bottle {bottle}", names.join(", "))
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
