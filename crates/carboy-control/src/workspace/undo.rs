//! Takes the last apply back: every path becomes what the journal says it was, in the reverse order.
//!
//! *Must never* overwrite what somebody changed after the apply, unless told to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, futimens, openat, symlinkat, unlinkat};

use super::apply::{Hands, copy_sparse, give, hash_of, hex, make_directory, times, unhex};
use super::index::{Index, Known};
use super::journal::{Journal, Snapshot, Step, bare};
use super::plan::{Conflicts, Left, LeftSort};
use super::remove::{remove, set_directory_mode, set_mode};
use super::steering::is_git_index;
use super::tree::{Kind, Rel, Root, c_name, stamp_at};
use super::{Layer, WorkspaceError};

/// What an undo did.
#[derive(Debug, Default, serde::Serialize)]
pub struct Undone {
    /// The apply that was taken back: milliseconds since 1970.
    pub apply: String,
    /// What was put back.
    pub done: Vec<Rel>,
    /// What was not, and why.
    pub left: Vec<Left>,
}

/// Takes the last apply of a layer back; `None` when there is none. As long as something is left, the originals stay.
pub fn undo(layer: &Layer, conflicts: Conflicts) -> Result<Option<Undone>, WorkspaceError> {
    let failed = |what: &'static str| move |error: io::Error| layer.failed(what, error);
    let Some(journal) = Journal::last(&layer.applies()).map_err(failed("read the journal of the last apply"))? else {
        return Ok(None);
    };
    let (upper, host) = layer.roots()?;
    let hands = Hands { upper, host, id: journal.id.clone() };
    hands.sweep(&journal);
    for step in &journal.steps {
        open_up(&hands, step);
    }
    let opened = hands.open_parents(journal.steps.iter().map(|step| &step.path));
    let mut undone = Undone { apply: journal.id.clone(), ..Undone::default() };
    for step in journal.steps.iter().rev() {
        match back(&hands, &journal, step, conflicts) {
            Ok(Back::Done) => undone.done.push(step.path.clone()),
            Ok(Back::Nothing) => {}
            Err(error) => {
                undone.left.push(Left { path: step.path.clone(), why: error.to_string(), sort: LeftSort::Conflict })
            }
        }
    }
    hands.restore(&opened);
    let mut closing: Vec<&Step> = journal.steps.iter().collect();
    closing.sort_by(|a, b| b.path.cmp(&a.path));
    for step in closing {
        close(&hands, step);
    }
    let mut index = Index::read(&layer.index()).map_err(failed("read the start index"))?;
    if let Some(index) = &mut index {
        for rel in &undone.done {
            let known = hands.host.stamp(rel).ok().flatten().map_or(Known::Nothing, Known::Stood);
            index.set(rel, known);
        }
        index.write(&layer.index()).map_err(failed("write the start index"))?;
    }
    if undone.left.is_empty() {
        rustix::fs::syncfs(hands.host.fd()).map_err(|e| layer.failed("bring the originals to the disk", e.into()))?;
        let applies = Root::open(&layer.applies()).map_err(failed("remove the journal of the last apply"))?;
        remove(applies.fd(), journal.id.as_bytes()).map_err(failed("remove the journal of the last apply"))?;
    }
    Ok(Some(undone))
}

enum Back {
    Done,
    Nothing,
}

fn directory_of(step: &Step) -> Option<&Snapshot> {
    let is = |s: &&Snapshot| s.kind == Kind::Directory;
    step.before.as_ref().filter(is)
}

fn open_up(hands: &Hands, step: &Step) {
    let after = step.after.as_ref().filter(|s| s.kind == Kind::Directory);
    if let Some(now) = after
        && let Ok(place) = hands.host.place(&step.path)
    {
        // What cannot be opened up shows at the first path within.
        let _ = set_directory_mode(&place, now.mode | 0o700);
    }
}

/// Directories get back the permissions that they had, the deepest first.
fn close(hands: &Hands, step: &Step) {
    if let Some(before) = directory_of(step)
        && let Ok(place) = hands.host.place(&step.path)
    {
        let _ = set_mode(&place, before.mode);
    }
}

fn back(hands: &Hands, journal: &Journal, step: &Step, conflicts: Conflicts) -> io::Result<Back> {
    let (parent_rel, name) = step.path.split().ok_or(rustix::io::Errno::INVAL)?;
    let parent = match hands.host.directory(&parent_rel) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && step.before.is_none() => return Ok(Back::Nothing),
        other => other?,
    };
    let now = snapshot(&hands.host, &step.path)?;
    let is = |wanted: &Option<Snapshot>| match (&now, wanted) {
        (Some(now), Some(wanted)) => now.is_same(wanted),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    let modes = |wanted: &Option<Snapshot>| now.as_ref().map(|s| s.mode) == wanted.as_ref().map(|s| s.mode);
    let mode_only = is(&step.before) && is(&step.after);
    if is(&step.before) && (!mode_only || modes(&step.before)) {
        return Ok(Back::Nothing);
    }
    if !is(&step.after) && conflicts == Conflicts::Keep && !is_git_index(&step.path) {
        return Err(io::Error::other("changed on the host since it was applied"));
    }
    match &step.before {
        _ if mode_only => chmod(&parent, name, step)?,
        None => take_away(hands, &parent, name, step)?,
        Some(before) => put_back(hands, journal, (&parent, name), step, before)?,
    }
    Ok(Back::Done)
}

fn chmod(parent: &OwnedFd, name: &[u8], step: &Step) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(parent, c_name(name)?.as_c_str(), flags, Mode::empty())?;
    match &step.before {
        // Its own permissions come when everything is in it again: see `close`.
        Some(before) if before.kind == Kind::Directory => set_mode(&place, before.mode | 0o700),
        Some(before) if before.kind != Kind::Link => set_mode(&place, before.mode),
        Some(_) | None => Ok(()),
    }
}

fn take_away(hands: &Hands, parent: &OwnedFd, name: &[u8], step: &Step) -> io::Result<()> {
    let now = stamp_at(parent, name)?;
    hands.take_out(parent, name, now.as_ref(), step.n)
}

fn put_back(
    hands: &Hands,
    journal: &Journal,
    (parent, name): (&OwnedFd, &[u8]),
    step: &Step,
    before: &Snapshot,
) -> io::Result<()> {
    let now = stamp_at(parent, name)?;
    if before.kind == Kind::Directory {
        return make_directory(parent, name, before.mode | 0o700);
    }
    // A directory in a file's place went with the steps before this one.
    let now = now.filter(|s| s.kind != Kind::Directory);
    let temporary = hands.temporary(step.n);
    let _ = unlinkat(parent, temporary.as_str(), AtFlags::empty());
    if before.kind == Kind::Link {
        let target = unhex(&before.content).ok_or(rustix::io::Errno::INVAL)?;
        symlinkat(c_name(&target)?.as_c_str(), parent, temporary.as_str())?;
        give(parent, temporary.as_bytes(), Some(before.owner))?;
    } else {
        let mut kept = File::open(journal.kept(step.n))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(parent, temporary.as_str(), flags, Mode::from_raw_mode(0o600))?);
        copy_sparse(&mut kept, &mut file)?;
        give(parent, temporary.as_bytes(), Some(before.owner))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(before.mode))?;
        futimens(file.as_fd(), &times(before.mtime))?;
    }
    hands.put(parent, &temporary, name, now.as_ref()).inspect_err(|_| {
        let _ = unlinkat(parent, temporary.as_str(), AtFlags::empty());
    })
}

fn snapshot(host: &Root, rel: &Rel) -> io::Result<Option<Snapshot>> {
    let Some(stamp) = host.stamp(rel)? else { return Ok(None) };
    let mut now = bare(&stamp);
    now.content = match stamp.kind {
        Kind::File => hash_of(&mut host.file(rel)?)?,
        Kind::Link => hex(&host.link(rel)?),
        Kind::Directory | Kind::Whiteout | Kind::Special => String::new(),
    };
    Ok(Some(now))
}
