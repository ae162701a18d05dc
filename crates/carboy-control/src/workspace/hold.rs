//! A run's hold on its workspace: locks, the layer made ready, what was applied settled, the start index.
//!
//! *Must never* make a layer ready that another run has mounted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use carboy_core::ids::{BottleName, RunId};
use carboy_core::plan::Overlay;
use rustix::fs::{FlockOperation, flock};

use super::index::{Index, Known};
use super::tree::{Kind, Rel, Root};
use super::{
    LAYERS_MAX, Layer, LayerRecord, Mode, Part, WorkspaceError, holds_anything, journal, layer_of, layers, live_run,
    lock_file, plan, read_record, remove, tree, worktree,
};
use crate::home::{Home, private_dir};

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
    let mut held = hold_state(home, run.bottle)?;
    held.part(home, run, run.workdir, Part::Workspace)?;
    if let Some(common) = worktree::common_directory(run.workdir) {
        held.part(home, run, &common, Part::RepositoryOf(run.workdir.to_owned()))?;
        if run.mode == Mode::Direct {
            held.repository = Some(common);
        }
    }
    Ok(held)
}

/// The same for a run that has no workspace: what its bottle keeps stays where it is while it lives. Blocks.
pub fn hold_state(home: &Home, bottle: &BottleName) -> Result<Held, WorkspaceError> {
    let state = home.state(bottle);
    for dir in [home.states(), state.clone(), state.join("workspace")] {
        private_dir(&dir)?;
    }
    let lock = |e| WorkspaceError::Failed { what: "lock the bottle's state", path: state.clone(), source: e };
    let shared = lock_file(&state.join("lock")).map_err(lock)?;
    if flock(&shared, FlockOperation::NonBlockingLockShared).is_err() {
        let who = "an apply, undo or rm of this bottle".to_owned();
        return Err(WorkspaceError::Busy { bottle: bottle.clone(), who });
    }
    // A removal may have had the lock between the two steps, and taken the file and everything beside it away.
    if !super::is_at(&shared, &state.join("lock")).map_err(lock)? {
        let who = "an rm of this bottle".to_owned();
        return Err(WorkspaceError::Busy { bottle: bottle.clone(), who });
    }
    Ok(Held { _locks: vec![shared], overlays: Vec::new(), repository: None })
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
            return Err(WorkspaceError::LayerInUse {
                bottle: run.bottle.clone(),
                who,
                workspace: directory.to_owned(),
            });
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
        let waiting: BTreeSet<Rel> = found
            .list
            .into_iter()
            .flat_map(|c| c.path.ancestors().chain([c.path.clone()]).collect::<Vec<_>>())
            .collect();
        take_out(&upper, &Rel::root(), &waiting).map_err(|e| failed(layer, e))?;
        layer.record.settled = last.clone();
    }
    Ok(())
}

fn take_out(upper: &Root, directory: &Rel, waiting: &BTreeSet<Rel>) -> io::Result<()> {
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
