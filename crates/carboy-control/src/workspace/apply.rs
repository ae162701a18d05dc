//! Brings a layer into the workspace: each original is kept first, everything is written down, then each path changes in
//! one step.
//!
//! ```text
//! 1. keep     originals copied, journal written, both on the disk     nothing has changed; a full disk ends it here
//! 2. change   temporary file + rename, one path after the other       killed in between: the next apply goes on
//! 3. settle   modes of directories, the index, the end of the journal
//! ```
//!
//! *Must never* follow a link, of the bottle's or the host's, give a set-uid bit, make a device or a pipe, or replace what
//! it did not look at: what comes out of the exchange is compared with what was kept, and put back when it is another.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, chownat, futimens, mkdirat, openat, renameat,
    renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::change::{Change, FILE_BYTES_MAX, What};
use super::index::{Index, Known};
use super::journal::{Journal, Snapshot, Step, bare, ids};
use super::plan::{Action, Content, Left, LeftSort, Plan};
use super::remove::{remove, set_directory_mode, set_mode};
use super::tree::{Kind, Rel, Root, Stamp, c_name, stamp_at};
use super::{Layer, WorkspaceError};

/// What an apply did.
#[derive(Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// What was changed in the workspace.
    pub done: Vec<Done>,
    /// What was not, and why; what the plan left is not in here.
    pub left: Vec<Left>,
}

/// One change that was made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    /// Where.
    pub path: Rel,
    /// What.
    pub what: What,
}

/// Applies a plan. `id` names it when no interrupted apply is there to go on with.
pub fn apply(layer: &Layer, plan: Plan, id: &str) -> Result<Outcome, WorkspaceError> {
    let failed = |what: &'static str| move |error: io::Error| layer.failed(what, error);
    let (upper, host) = layer.roots()?;
    let mut journal = Journal::begin(&layer.applies(), id).map_err(failed("open the journal of the apply"))?;
    let hands = Hands { upper, host, id: journal.id.clone() };
    hands.sweep(&journal);
    room(layer, &plan, &hands).map_err(failed("keep the originals"))?;
    let mut outcome = Outcome::default();
    let mut ready = Vec::new();
    for action in plan.actions {
        let n = journal.next();
        match hands.prepare(&action, n, &journal) {
            Ok(step) => {
                journal.plan(step).map_err(failed("write the journal of the apply"))?;
                ready.push((n, action));
            }
            Err(Trouble::Host(why)) => outcome.left.push(left(action.change.path, why)),
            Err(Trouble::State(error)) => return Err(layer.failed("keep the originals", error)),
        }
    }
    journal.sync().map_err(failed("keep the originals"))?;
    for (_, action) in &ready {
        hands.open_up(&action.change);
    }
    let opened = hands.open_parents(ready.iter().map(|(_, action)| &action.change.path));
    let mut index = Index::read(&layer.index()).map_err(failed("read the start index"))?;
    for (n, action) in &ready {
        match hands.change(action, *n) {
            Ok(()) => {
                journal.did(*n).map_err(failed("write the journal of the apply"))?;
                outcome.done.push(Done { path: action.change.path.clone(), what: action.change.what });
            }
            Err(why) => outcome.left.push(left(action.change.path.clone(), why.to_string())),
        }
    }
    hands.restore(&opened);
    // From the deepest up, or a directory that forbids it could not be reached any more.
    for (_, action) in ready.iter().rev() {
        hands.close(&action.change);
    }
    if let Some(index) = &mut index {
        for done in &outcome.done {
            let known = hands.host.stamp(&done.path).ok().flatten().map_or(Known::Nothing, Known::Stood);
            index.set(&done.path, known);
        }
        index.write(&layer.index()).map_err(failed("write the start index"))?;
    }
    rustix::fs::syncfs(hands.host.fd()).map_err(|e| layer.failed("bring the changes to the disk", e.into()))?;
    journal.end().map_err(failed("end the journal of the apply"))?;
    forget_oldest(layer).map_err(failed("remove the oldest originals"))?;
    Ok(outcome)
}

fn left(path: Rel, why: String) -> Left {
    Left { path, why, sort: LeftSort::Conflict }
}

fn forget_oldest(layer: &Layer) -> io::Result<()> {
    let all = ids(&layer.applies())?;
    let applies = Root::open(&layer.applies())?;
    for id in all.iter().rev().skip(super::journal::APPLIES_MAX) {
        remove(applies.fd(), id.as_bytes())?;
    }
    Ok(())
}

/// Is there room for what is kept and for what comes? Nothing has been changed yet.
fn room(layer: &Layer, plan: &Plan, hands: &Hands) -> io::Result<()> {
    let free = |fd: &OwnedFd| rustix::fs::fstatvfs(fd).map(|v| v.f_bavail.saturating_mul(v.f_frsize));
    let sum = |of: fn(&Change) -> Option<Stamp>| {
        plan.actions.iter().filter_map(|a| of(&a.change)).filter(|s| s.kind == Kind::File).map(|s| s.size).sum::<u64>()
    };
    let state = Root::open(&layer.directory)?;
    let needs = [(state.fd(), sum(|c| c.host), "the originals"), (hands.host.fd(), sum(|c| c.layer), "the changes")];
    for (fd, bytes, what) in needs {
        if bytes > free(fd)? {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("no room for {what}: {bytes} bytes")));
        }
    }
    Ok(())
}

enum Trouble {
    /// This path cannot be changed; the others can.
    Host(String),
    /// The originals cannot be kept: nothing is changed.
    State(io::Error),
}

/// What works on a workspace; also for `undo`.
pub(super) struct Hands {
    pub(super) upper: Root,
    pub(super) host: Root,
    pub(super) id: String,
}

impl Hands {
    pub(super) fn temporary(&self, n: u64) -> String {
        format!(".carboy-apply-{}-{n}", self.id)
    }

    /// Removes the temporary files of a run of this that was killed.
    pub(super) fn sweep(&self, journal: &Journal) {
        for step in journal.steps.iter().filter(|step| !journal.was_done(step.n)) {
            if let Ok(parent) = self.host.directory(&step.path.parent()) {
                let _ = unlinkat(&parent, self.temporary(step.n), AtFlags::empty());
            }
        }
    }

    /// Keeps the original and says what is to be.
    fn prepare(&self, action: &Action, n: u64, journal: &Journal) -> Result<Step, Trouble> {
        let change = &action.change;
        let host = |error: io::Error| Trouble::Host(error.to_string());
        // What is to come where nothing is, or will be by then, is looked at when it comes.
        if let Some(expected) = &change.host {
            let now = self.host.stamp(&change.path).map_err(host)?;
            if !same_version(now.as_ref(), Some(expected)) {
                return Err(Trouble::Host("it changed on the host just now".into()));
            }
        }
        let mut before = change.host.as_ref().map(bare);
        if let (Some(before), Some(stamp)) = (&mut before, &change.host) {
            match stamp.kind {
                Kind::File => {
                    let mut original = self.host.file(&change.path).map_err(host)?;
                    before.content = if change.what == What::Mode {
                        hash_of(&mut original).map_err(host)?
                    } else {
                        keep(&mut original, &journal.kept(n)).map_err(Trouble::State)?
                    };
                }
                Kind::Link => before.content = hex(&self.host.link(&change.path).map_err(host)?),
                Kind::Directory => {}
                Kind::Whiteout | Kind::Special => {
                    return Err(Trouble::Host("the host's is a device, a pipe or a socket".into()));
                }
            }
        }
        let after = match change.what {
            What::Deleted => None,
            What::Added | What::Modified | What::Mode | What::Unusable => Some(self.coming(action).map_err(host)?),
        };
        let layer = change.layer.filter(|_| action.content == Content::Layer).map(|s| (s.inode, s.ctime));
        Ok(Step { n, path: change.path.clone(), before, after, layer })
    }

    fn coming(&self, action: &Action) -> io::Result<Snapshot> {
        let layer = action.change.layer.ok_or(Errno::NOENT)?;
        let mut after = bare(&layer);
        after.mode = layer.permissions();
        after.content = match (&action.content, layer.kind) {
            (Content::Text(text), _) => hex(&Sha256::digest(text.as_bytes())),
            (Content::Layer, Kind::File) => hash_of(&mut self.upper.file(&action.change.path)?)?,
            (Content::Layer, Kind::Link) => hex(&self.upper.link(&action.change.path)?),
            (Content::Layer, Kind::Directory | Kind::Whiteout | Kind::Special) => String::new(),
        };
        Ok(after)
    }

    /// Directories whose permissions change are made ours to work in first.
    fn open_up(&self, change: &Change) {
        if change.what == What::Mode
            && let Some(stamp) = change.host.filter(|s| s.kind == Kind::Directory)
            && let Ok(place) = self.host.place(&change.path)
        {
            // What cannot be opened up shows at the first change within.
            let _ = set_directory_mode(&place, stamp.permissions() | 0o700);
        }
    }

    /// Directories that forbid their owner to write, as package caches are, are opened for as long as it takes; what they
    /// were comes back by [`Hands::restore`].
    pub(super) fn open_parents<'a>(&self, paths: impl Iterator<Item = &'a Rel>) -> Vec<(Rel, u32)> {
        let parents: std::collections::BTreeSet<Rel> = paths.flat_map(Rel::ancestors).collect();
        let mut opened = Vec::new();
        // From the top down, or the deeper ones could not be reached.
        for rel in parents {
            if let Ok(Some(stamp)) = self.host.stamp(&rel)
                && stamp.kind == Kind::Directory
                && stamp.mode & 0o700 != 0o700
                && let Ok(place) = self.host.place(&rel)
                && set_mode(&place, stamp.mode | 0o700).is_ok()
            {
                opened.push((rel, stamp.mode));
            }
        }
        opened
    }

    /// See [`Hands::open_parents`]. One that is gone, or has other permissions by now, is left alone.
    pub(super) fn restore(&self, opened: &[(Rel, u32)]) {
        for (rel, mode) in opened.iter().rev() {
            if let Ok(Some(stamp)) = self.host.stamp(rel)
                && stamp.kind == Kind::Directory
                && stamp.mode == mode | 0o700
                && let Ok(place) = self.host.place(rel)
            {
                let _ = set_mode(&place, *mode);
            }
        }
    }

    /// Directories get their own permissions when everything is in them.
    fn close(&self, change: &Change) {
        let wanted = change.layer.filter(|s| s.kind == Kind::Directory);
        if matches!(change.what, What::Added | What::Mode)
            && let Some(stamp) = wanted
            && let Ok(place) = self.host.place(&change.path)
        {
            let _ = set_directory_mode(&place, stamp.permissions());
        }
    }

    fn change(&self, action: &Action, n: u64) -> io::Result<()> {
        let change = &action.change;
        let (parent_rel, name) = change.path.split().ok_or(Errno::INVAL)?;
        let parent = self.host.directory(&parent_rel)?;
        let layer = || change.layer.ok_or_else(|| io::Error::from(Errno::NOENT));
        match (change.what, change.layer.map(|s| s.kind)) {
            (What::Deleted, _) => self.take_out(&parent, name, change.host.as_ref(), n),
            (What::Mode, Some(Kind::Directory)) => Ok(()),
            (What::Mode, _) => {
                if !same_version(stamp_at(&parent, name)?.as_ref(), change.host.as_ref()) {
                    return Err(overtaken());
                }
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                set_mode(&openat(&parent, c_name(name)?.as_c_str(), flags, Mode::empty())?, layer()?.permissions())
            }
            (What::Added | What::Modified, Some(Kind::Directory)) => {
                make_directory(&parent, name, layer()?.permissions() | 0o700)
            }
            (What::Added | What::Modified, Some(Kind::Link)) => {
                let target = self.upper.link(&change.path)?;
                let temporary = self.temporary(n);
                symlinkat(c_name(&target)?.as_c_str(), &parent, temporary.as_str())?;
                self.put(&parent, &temporary, name, change.host.as_ref())
            }
            (What::Added | What::Modified, Some(Kind::File)) => {
                let temporary = self.temporary(n);
                let made = match &action.content {
                    Content::Layer => {
                        let mut file = self.upper.file(&change.path)?;
                        write_new(&parent, &temporary, &mut file, &layer()?, change.host.as_ref())
                    }
                    Content::Text(text) => {
                        write_new(&parent, &temporary, &mut text.as_bytes(), &layer()?, change.host.as_ref())
                    }
                };
                made.and_then(|()| self.put(&parent, &temporary, name, change.host.as_ref())).inspect_err(|_| {
                    let _ = unlinkat(&parent, temporary.as_str(), AtFlags::empty());
                })
            }
            (What::Unusable, _) | (_, Some(Kind::Whiteout | Kind::Special) | None) => Err(Errno::INVAL.into()),
        }
    }

    /// Gives the temporary file its name. What had the name before must be what was kept.
    pub(super) fn put(
        &self,
        parent: &OwnedFd,
        temporary: &str,
        name: &[u8],
        expected: Option<&Stamp>,
    ) -> io::Result<()> {
        let name = c_name(name)?;
        let Some(expected) = expected else {
            return match renameat_with(parent, temporary, parent, name.as_c_str(), RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => Err(overtaken()),
                // A file system that knows no such rename (NFS): looked at just before.
                Err(Errno::INVAL) if stamp_at(parent, name.to_bytes())?.is_none() => {
                    Ok(renameat(parent, temporary, parent, name.as_c_str())?)
                }
                other => Ok(other?),
            };
        };
        match renameat_with(parent, temporary, parent, name.as_c_str(), RenameFlags::EXCHANGE) {
            Err(Errno::INVAL) => {
                if !same_version(stamp_at(parent, name.to_bytes())?.as_ref(), Some(expected)) {
                    return Err(overtaken());
                }
                return Ok(renameat(parent, temporary, parent, name.as_c_str())?);
            }
            other => other?,
        }
        match stamp_at(parent, temporary.as_bytes())? {
            Some(out) if is_the_kept_one(&out, expected) => Ok(unlinkat(parent, temporary, AtFlags::empty())?),
            Some(_) | None => {
                renameat_with(parent, temporary, parent, name.as_c_str(), RenameFlags::EXCHANGE)?;
                Err(overtaken())
            }
        }
    }

    /// Takes a name away. What had it must be what was kept.
    pub(super) fn take_out(&self, parent: &OwnedFd, name: &[u8], expected: Option<&Stamp>, n: u64) -> io::Result<()> {
        let name = c_name(name)?;
        let Some(expected) = expected else { return Err(overtaken()) };
        if expected.kind == Kind::Directory {
            return match unlinkat(parent, name.as_c_str(), AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) => Err(io::Error::other("not empty: something in it was kept or is new")),
                other => Ok(other?),
            };
        }
        let temporary = self.temporary(n);
        renameat_with(parent, name.as_c_str(), parent, temporary.as_str(), RenameFlags::NOREPLACE)?;
        match stamp_at(parent, temporary.as_bytes())? {
            Some(out) if is_the_kept_one(&out, expected) => Ok(unlinkat(parent, temporary.as_str(), AtFlags::empty())?),
            Some(_) | None => {
                renameat_with(parent, temporary.as_str(), parent, name.as_c_str(), RenameFlags::NOREPLACE)?;
                Err(overtaken())
            }
        }
    }
}

fn overtaken() -> io::Error {
    io::Error::other("it changed on the host just now")
}

pub(super) fn same_version(now: Option<&Stamp>, then: Option<&Stamp>) -> bool {
    match (now, then) {
        (Some(now), Some(then)) => now.is_still(then),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// After a rename, which counts as a change of its own: everything else of the version.
fn is_the_kept_one(out: &Stamp, expected: &Stamp) -> bool {
    (out.kind, out.inode, out.size, out.mtime, out.mode)
        == (expected.kind, expected.inode, expected.size, expected.mtime, expected.mode)
}

/// Makes a directory that belongs to whom the one above does.
pub(super) fn make_directory(parent: &OwnedFd, name: &[u8], mode: u32) -> io::Result<()> {
    let name = c_name(name)?;
    mkdirat(parent, name.as_c_str(), Mode::from_raw_mode(mode))?;
    give(parent, name.to_bytes(), None)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    set_directory_mode(&openat(parent, name.as_c_str(), flags, Mode::empty())?, mode)
}

/// Root gives what it makes to the owner of what was there, or of the directory.
pub(super) fn give(parent: &OwnedFd, name: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let above = rustix::fs::fstat(parent)?;
    let (uid, gid) = owner.unwrap_or((above.st_uid, above.st_gid));
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(chownat(parent, c_name(name)?.as_c_str(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(super) fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn write_new(
    parent: &OwnedFd,
    temporary: &str,
    from: &mut dyn Read,
    layer: &Stamp,
    host: Option<&Stamp>,
) -> io::Result<()> {
    let _ = unlinkat(parent, temporary, AtFlags::empty());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(parent, temporary, flags, Mode::from_raw_mode(0o600))?);
    copy_sparse(from, &mut file)?;
    give(parent, temporary.as_bytes(), host.map(|s| s.owner))?;
    // After the owner, whose change takes bits away.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(layer.permissions()))?;
    futimens(file.as_fd(), &times(layer.mtime))?;
    Ok(())
}

/// Copies; what is nothing but zeros becomes a hole, so that a sparse file of the bottle's does not fill the disk.
pub(super) fn copy_sparse(from: &mut dyn Read, to: &mut File) -> io::Result<()> {
    let mut block = vec![0_u8; 256 * 1024];
    let mut length = 0_u64;
    loop {
        let read = from.read(&mut block)?;
        if read == 0 {
            return to.set_len(length);
        }
        length += read as u64;
        if length > FILE_BYTES_MAX {
            return Err(io::Error::other("larger than 4 GiB"));
        }
        if block[..read].iter().all(|b| *b == 0) {
            to.seek(SeekFrom::Current(i64::try_from(read).unwrap_or(0)))?;
        } else {
            to.write_all(&block[..read])?;
        }
    }
}

/// Copies an original away; its hash.
fn keep(original: &mut File, to: &std::path::Path) -> io::Result<String> {
    let mut kept = File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut kept, 0o600);
    let mut kept = kept.create(true).write(true).truncate(true).open(to)?;
    copy_sparse(original, &mut kept)?;
    original.seek(SeekFrom::Start(0))?;
    hash_of(original)
}

pub(super) fn hash_of(file: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut block = vec![0_u8; 256 * 1024];
    let mut left = FILE_BYTES_MAX;
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        left = left.checked_sub(read as u64).ok_or_else(|| io::Error::other("larger than 4 GiB"))?;
        hash.update(&block[..read]);
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
}
