//! What an apply would do: which changes go over, which are held back, and which the host has overtaken.
//!
//! *Must never* change anything.

use std::collections::BTreeSet;

use super::change::{Change, Changes, What, changes};
use super::index::{Index, Known};
use super::steering::{Judged, Merged, is_git_index, leads_out, repository_of};
use super::tree::{Kind, Rel, Root, Stamp};
use super::{Layer, Part, WorkspaceError};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only these and what is below them; all when empty. One that names a steering file itself releases it.
    pub paths: Vec<Rel>,
    /// What of the host's own changes.
    pub conflicts: Conflicts,
    /// What of files that steer programs of the host.
    pub steering: Steering,
}

/// What is done where the host changed a file meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflicts {
    /// The host's stays.
    #[default]
    Keep,
    /// The layer's wins; the host's is kept for `undo`.
    Overwrite,
}

/// What is done with files that steer agents, editors and git.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steering {
    /// They stay in the layer.
    #[default]
    Hold,
    /// They are applied.
    Apply,
}

/// Where the new content comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The layer's.
    Layer,
    /// The harmless part of it.
    Text(String),
}

/// One change that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What and where.
    pub change: Change,
    /// With what.
    pub content: Content,
}

/// A change that is not to be made, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Left {
    /// Where.
    pub path: Rel,
    /// Why.
    pub why: String,
    /// Of what sort.
    pub sort: LeftSort,
}

/// Why a change is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftSort {
    /// It steers programs of the host.
    Steering,
    /// The host changed it as well.
    Conflict,
    /// It cannot be brought over at all.
    Unusable,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Plan {
    /// To be done, in this order.
    pub actions: Vec<Action>,
    /// Not to be done.
    pub left: Vec<Left>,
    /// Links that are applied and lead out of the workspace, with where to.
    pub leading_out: Vec<(Rel, String)>,
}

/// Everything that a layer changes, what was applied already left out.
pub fn pending(layer: &Layer) -> Result<Changes, WorkspaceError> {
    let (upper, host) = layer.roots()?;
    let applied = super::journal::applied(&layer.applies()).map_err(|e| layer.failed("read the applies", e))?;
    Ok(changes(&upper, &host, &applied))
}

/// Sorts the changes of a layer.
pub fn plan(layer: &Layer, wanted: &Wanted) -> Result<Plan, WorkspaceError> {
    let found = pending(layer)?;
    if found.truncated {
        return Err(WorkspaceError::TooMany { max: super::change::CHANGES_MAX });
    }
    let (upper, host) = layer.roots()?;
    let index = Index::read(&layer.index()).map_err(|e| layer.failed("read the start index", e))?;
    let merged = Merged { upper: &upper, host: &host };
    let mut plan = Plan::default();
    let mut chosen = Vec::new();
    for change in found.list {
        if !is_wanted(&change, &wanted.paths) {
            continue;
        }
        let why = conflict(&change, index.as_ref()).filter(|_| !is_git_index(&change.path));
        match why.filter(|_| wanted.conflicts == Conflicts::Keep) {
            Some(why) => plan.left.push(Left { path: change.path, why, sort: LeftSort::Conflict }),
            None => chosen.push(change),
        }
    }
    chosen = hold_repositories_together(chosen, &mut plan.left, &layer.record.part);
    for change in chosen {
        let released = wanted.steering == Steering::Apply || wanted.paths.contains(&change.path);
        plan.sort(change, &merged, released);
    }
    Ok(plan)
}

impl Plan {
    fn sort(&mut self, change: Change, merged: &Merged<'_>, released: bool) {
        if let (What::Unusable, note) = (change.what, change.note) {
            let why = note.unwrap_or("it cannot be used").to_owned();
            return self.left.push(Left { path: change.path, why, sort: LeftSort::Unusable });
        }
        let judged = if released { Judged::Free } else { merged.judge(&change) };
        let content = match judged {
            Judged::Free => Content::Layer,
            Judged::Held(why) => {
                return self.left.push(Left { path: change.path, why, sort: LeftSort::Steering });
            }
            Judged::Config { text, held } => {
                let why = held.join("; ");
                self.left.push(Left { path: change.path.clone(), why, sort: LeftSort::Steering });
                if matches!(change.what, What::Deleted | What::Mode) || same_as_host(merged.host, &change.path, &text) {
                    return;
                }
                Content::Text(text)
            }
        };
        if change.layer.is_some_and(|s| s.kind == Kind::Link)
            && let Some(out) = merged.upper.link(&change.path).ok().and_then(|to| leads_out(&change.path, &to))
        {
            self.leading_out.push((change.path.clone(), out));
        }
        self.actions.push(Action { change, content });
    }
}

fn same_as_host(host: &Root, path: &Rel, text: &str) -> bool {
    use std::io::Read as _;
    let Ok(file) = host.file(path) else { return false };
    let mut now = Vec::new();
    file.take(text.len() as u64 + 1).read_to_end(&mut now).is_ok() && now == text.as_bytes()
}

fn is_wanted(change: &Change, paths: &[Rel]) -> bool {
    let needed = |path: &Rel| {
        change.what == What::Added
            && change.layer.is_some_and(|s| s.kind == Kind::Directory)
            && path.is_at_or_below(&change.path)
    };
    paths.is_empty() || paths.iter().any(|path| change.path.is_at_or_below(path) || needed(path))
}

/// What the host did since the layer began.
fn conflict(change: &Change, index: Option<&Index>) -> Option<String> {
    let known = index.map_or(Known::Unknown, |index| index.known(&change.path));
    let still = |stamp: &Stamp, was: &Stamp| stamp.is_still(was);
    match (&change.host, known) {
        (Some(stamp), Known::Stood(was)) if still(stamp, &was) => None,
        (Some(_), Known::Stood(_)) => Some("changed on the host since the run began".into()),
        (Some(_), Known::Nothing) => Some("made on the host since the run began".into()),
        (Some(_), Known::Unknown) => {
            Some("not in the start index, so that nobody knows whether the host changed it".into())
        }
        (None, Known::Stood(was)) if change.what != What::Unusable && is_same_kind(change, &was) => {
            Some("deleted on the host since the run began".into())
        }
        (None, Known::Stood(_) | Known::Nothing | Known::Unknown) => None,
    }
}

/// A directory in the place of a file comes after the file's own deletion, which is looked at by itself.
fn is_same_kind(change: &Change, was: &Stamp) -> bool {
    change.layer.is_some_and(|s| (s.kind == Kind::Directory) == (was.kind == Kind::Directory))
}

/// Half of a commit is worse than none: where one of git's own files was overtaken, the others wait with it. Objects do
/// not: they are named by their content.
fn hold_repositories_together(chosen: Vec<Change>, left: &mut Vec<Left>, part: &Part) -> Vec<Change> {
    let overtaken: BTreeSet<Rel> =
        left.iter().filter(|l| l.sort == LeftSort::Conflict).filter_map(|l| repository_of(&l.path, part)).collect();
    let (waits, goes): (Vec<Change>, Vec<Change>) =
        chosen.into_iter().partition(|c| repository_of(&c.path, part).is_some_and(|git| overtaken.contains(&git)));
    left.extend(waits.into_iter().map(|change| Left {
        path: change.path,
        why: "the host changed this repository since the run began".into(),
        sort: LeftSort::Conflict,
    }));
    goes
}
