//! `extends`: one bottle and everything it stands on, read and put together (M26).
//!
//! ```text
//!   resolve(dev) ─▶ read dev ─▶ resolve(each of `extends`, in order) ─▶ a ∘ b ∘ dev
//! ```
//!
//! *Must never* open a file that no chain leads to (M7, M31), nor go round in a circle: a name that is met again on its
//! own path is an error that shows the path.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use carboy_core::ids::BottleName;

use crate::bottle::{self, Part};
use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::files::{DIRECTORY_FILES_MAX, ManifestFiles, Places};
use crate::lookup::{no_such_bottle, read_file};
use crate::merge::{Way, fold};
use crate::origin::Place;

/// Most files on one path of `extends`, the bottle itself included.
pub const CHAIN_DEPTH_MAX: usize = 16;
/// Most bottle files of one run.
pub const CHAIN_FILES_MAX: usize = 64;

/// One bottle with all that it extends.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Everything together.
    pub(crate) part: Part,
    /// The files, each once, those that are extended before those that extend them.
    pub(crate) files: Vec<PathBuf>,
    /// Files on the longest path.
    depth: usize,
}

enum State {
    /// On the path that is being followed.
    Open,
    /// Reported already.
    Failed,
    Done(Rc<Chain>),
}

/// Reads bottles, each at most once.
pub(crate) struct Chains<'a> {
    files: &'a dyn ManifestFiles,
    places: &'a Places,
    opened_max: usize,
    opened: usize,
    known: BTreeMap<BottleName, State>,
    path: Vec<BottleName>,
}

impl<'a> Chains<'a> {
    /// For a run: at most [`CHAIN_FILES_MAX`] files are opened.
    pub(crate) fn for_run(files: &'a dyn ManifestFiles, places: &'a Places) -> Self {
        Chains::new(files, places, CHAIN_FILES_MAX)
    }

    /// For a check of all bottles (M8): each chain has the bounds of a run, all of them together that of a directory.
    pub(crate) fn for_check(files: &'a dyn ManifestFiles, places: &'a Places) -> Self {
        Chains::new(files, places, DIRECTORY_FILES_MAX)
    }

    fn new(files: &'a dyn ManifestFiles, places: &'a Places, opened_max: usize) -> Self {
        Chains { files, places, opened_max, opened: 0, known: BTreeMap::new(), path: Vec::new() }
    }

    /// Where a bottle's file is, if there is one.
    pub(crate) fn file(&self, name: &BottleName) -> PathBuf {
        self.places.bottles().join(format!("{name}.md"))
    }

    /// Is there a file of it?
    pub(crate) fn has(&self, name: &BottleName) -> bool {
        self.files.exists(&self.file(name))
    }

    /// The bottle with all that it extends; `said` is where somebody names it. `None` when a file is not there or a
    /// bound is exceeded; other errors are in `out`, and the result is worth something only when there are none.
    pub(crate) fn resolve(
        &mut self,
        name: &BottleName,
        said: Option<&Place>,
        out: &mut Diagnostics,
    ) -> Option<Rc<Chain>> {
        match self.known.get(name) {
            Some(State::Done(chain)) => return Some(Rc::clone(chain)),
            Some(State::Failed) => return None,
            Some(State::Open) => {
                out.push(self.circle(name, said));
                return None;
            }
            None => {}
        }
        if self.path.len() == CHAIN_DEPTH_MAX {
            out.push(too_long(&format!("more than {CHAIN_DEPTH_MAX} bottles extend each other"), said));
            return None;
        }
        self.known.insert(name.clone(), State::Open);
        self.path.push(name.clone());
        let chain = self.follow(name, said, out).map(Rc::new);
        self.path.pop();
        self.known.insert(name.clone(), chain.as_ref().map_or(State::Failed, |chain| State::Done(Rc::clone(chain))));
        chain
    }

    fn follow(&mut self, name: &BottleName, said: Option<&Place>, out: &mut Diagnostics) -> Option<Chain> {
        if self.opened == self.opened_max {
            out.push(too_long(&format!("more than {} bottle files are needed", self.opened_max), said));
            return None;
        }
        let file = self.file(name);
        let errors = out.error_count();
        let Some(bytes) = read_file(self.files, &file, out) else {
            if out.error_count() == errors {
                out.push(no_such_bottle(self.files, self.places, name, said));
            }
            return None;
        };
        self.opened += 1;
        let own = bottle::read(name, &file, &bytes, self.places, out);
        // All parents are looked at, so that the errors of all are told at once.
        let parents: Vec<Option<Rc<Chain>>> =
            own.extends.iter().map(|parent| self.resolve(&parent.value, Some(&parent.place), out)).collect();
        let parents: Vec<Rc<Chain>> = parents.into_iter().collect::<Option<_>>()?;
        let depth = 1 + parents.iter().map(|parent| parent.depth).max().unwrap_or(0);
        let mut files: Vec<PathBuf> = Vec::new();
        for parent in parents.iter().flat_map(|parent| &parent.files) {
            if !files.contains(parent) {
                files.push(parent.clone());
            }
        }
        files.push(file);
        let place = own.extends.first().map(|parent| &parent.place);
        if depth > CHAIN_DEPTH_MAX {
            out.push(too_long(&format!("more than {CHAIN_DEPTH_MAX} bottles extend each other"), place));
            return None;
        }
        if files.len() > CHAIN_FILES_MAX {
            out.push(too_long(&format!("more than {CHAIN_FILES_MAX} bottle files are needed"), place));
            return None;
        }
        let inherited = parents.iter().map(|parent| parent.part.clone());
        let own = standing_on(own, &parents);
        let part = fold(inherited.chain([own]), Way::Extends);
        Some(Chain { part: Part { extends: Vec::new(), ..part }, files, depth })
    }

    /// M26: the path from the name back to itself.
    fn circle(&self, name: &BottleName, said: Option<&Place>) -> Diagnostic {
        let from = self.path.iter().position(|step| step == name).unwrap_or(0);
        let steps: Vec<&str> = self.path[from..].iter().chain([name]).map(BottleName::as_str).collect();
        let message = format!("`extends` leads in a circle: {}", steps.join(" → "));
        placed(Diagnostic::error(Code::ExtendsCycle, message, "remove one of these steps"), said)
    }
}

/// What a file leaves open of its caps is as in those that it extends, the later ones first. It is settled here and not in a
/// run: a bottle's cap is the same whoever extends it.
fn standing_on(mut own: Part, parents: &[Rc<Chain>]) -> Part {
    for scope in &mut own.scopes {
        for parent in parents.iter().rev().filter_map(|parent| parent.part.scopes.first()) {
            scope.caps = std::mem::take(&mut scope.caps).standing_on(Some(&parent.caps));
        }
    }
    own
}

fn too_long(what: &str, said: Option<&Place>) -> Diagnostic {
    placed(Diagnostic::error(Code::ChainTooLong, what, "put several of the bottles together in one file"), said)
}

fn placed(diagnostic: Diagnostic, said: Option<&Place>) -> Diagnostic {
    match said {
        Some(place) => diagnostic.at(&place.file, place.at),
        None => diagnostic,
    }
}
