//! Which files there are: the two roots, names without opening anything, and one file within its bound.
//!
//! *Must never* offer a bottle from under the working directory (M3: a repository could widen its own sandbox).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use carboy_core::ids::{AgentName, BottleName};

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, listed};
use crate::files::{DIRECTORY_FILES_MAX, FILE_BYTES_MAX, FileError, ManifestFiles, Places};
use crate::origin::Place;

/// The smallest bottle of use, as errors show it.
pub const EXAMPLE: &str = "---\negress:\n  routes:\n    - {host: api.anthropic.com, meter: anthropic, auth_scheme: Bearer, token_env: ANTHROPIC_API_KEY}\n---\nMay talk to the model and to nobody else.";

/// M2–M5, M7: names of bottles, from the directory alone, sorted.
pub(crate) fn bottle_names(files: &dyn ManifestFiles, places: &Places) -> Vec<BottleName> {
    let mut out = Diagnostics::default();
    let stems = stems(files, &places.bottles(), &mut out);
    stems.iter().filter_map(|stem| BottleName::parse(stem).ok()).collect()
}

/// M2, M4, M5, M7: names of agents, the union of both roots, sorted.
pub(crate) fn agent_names(files: &dyn ManifestFiles, places: &Places) -> Vec<AgentName> {
    let mut out = Diagnostics::default();
    let roots = agent_roots(files, places);
    let all: BTreeSet<String> = roots.iter().flat_map(|(root, _)| stems(files, root, &mut out)).collect();
    all.iter().filter_map(|stem| AgentName::parse(stem).ok()).collect()
}

/// Who wrote an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The user wrote them.
    User,
    /// They came with what was checked out (M39).
    Repository,
    /// They came with the program.
    BuiltIn,
}

/// M2, M4, M5: the working directory's root first, unless it is the user's own.
pub(crate) fn agent_roots(files: &dyn ManifestFiles, places: &Places) -> Vec<(PathBuf, Whose)> {
    let own = (places.agents(), Whose::User);
    match has_own_root(files, places) {
        true => vec![(places.cwd_root().join("agents"), Whose::Repository), own],
        false => vec![own],
    }
}

/// Does the working directory bring a root of its own? M5: not when it is the home, however it is spelled.
fn has_own_root(files: &dyn ManifestFiles, places: &Places) -> bool {
    let root = places.cwd_root();
    let same = |a: &Path, b: &Path| a == b || files.same_directory(a, b);
    !same(&root, &places.carboy_home) && !same(&places.cwd, &places.home)
}

/// There is no file for this bottle; `said` is where somebody names it.
pub(crate) fn no_such_bottle(
    files: &dyn ManifestFiles,
    places: &Places,
    name: &BottleName,
    said: Option<&Place>,
) -> Diagnostic {
    let known = bottle_names(files, places);
    let file = places.bottles().join(format!("{name}.md"));
    let fix = match known.as_slice() {
        [] => format!("write {} with these lines:\n{EXAMPLE}", file.display()),
        known => format!("write {}, or use one of {}", file.display(), listed(known.iter().map(BottleName::as_str))),
    };
    let missing = Diagnostic::error(Code::NoSuchBottle, format!("there is no bottle `{name}`"), fix);
    match said {
        Some(place) => missing.at(&place.file, place.at),
        None => missing,
    }
}

/// A file within its bound; `None` when absent, and when it cannot be read, which is reported.
pub(crate) fn read_file(files: &dyn ManifestFiles, file: &Path, out: &mut Diagnostics) -> Option<Vec<u8>> {
    match files.read(file, FILE_BYTES_MAX) {
        Ok(found) => found,
        Err(error) => {
            let (code, fix) = match &error {
                FileError::TooLarge { .. } => (Code::FileTooLarge, "make the file smaller"),
                FileError::Unreadable(_) => (Code::FileUnreadable, "make the file readable, or remove it"),
            };
            out.push(Diagnostic::error(code, error.to_string(), fix).at(file, Position::START));
            None
        }
    }
}

/// Stems of the `.md` files of a directory, sorted.
pub(crate) fn stems(files: &dyn ManifestFiles, dir: &Path, out: &mut Diagnostics) -> Vec<String> {
    let mut names = match files.list(dir) {
        Ok(names) => names,
        Err(error) => {
            let message = format!("the directory cannot be listed: {error}");
            out.push(Diagnostic::error(Code::FileUnreadable, message, "make it readable").at(dir, Position::START));
            return Vec::new();
        }
    };
    names.sort();
    if names.len() > DIRECTORY_FILES_MAX {
        let message = format!("more than {DIRECTORY_FILES_MAX} files; the others were not looked at");
        out.push(Diagnostic::error(Code::TooManyFiles, message, "keep fewer files there").at(dir, Position::START));
        names.truncate(DIRECTORY_FILES_MAX);
    }
    names.iter().filter_map(|name| name.strip_suffix(".md")).map(str::to_owned).collect()
}

/// M3: one warning for all bottle files under the working directory.
pub(crate) fn warn_ignored_bottles(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) {
    if !has_own_root(files, places) {
        return;
    }
    let dir = places.cwd_root().join("bottles");
    // A directory that cannot be listed holds nothing that would be used either.
    let mut unused = Diagnostics::default();
    let stems = stems(files, &dir, &mut unused);
    if stems.is_empty() {
        return;
    }
    let paths = stems.iter().map(|stem| dir.join(format!("{stem}.md")).display().to_string());
    let message = format!("bottle files under the working directory are ignored: {}", listed(paths));
    let fix = format!(
        "bottles live only in {}: what a checked-out repository brings must not widen its own sandbox",
        places.bottles().display()
    );
    out.push(Diagnostic::warning(Code::BottleIgnored, message, fix).at(&dir, Position::START));
}

/// M6, M40: files of the tool that the format descends from, where carboy's own are missing. The home counts as unused
/// while nobody has written anything into it: carboy itself makes the directory, its log and its keys.
pub(crate) fn warn_foreign(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) {
    let written = [places.bottles(), places.agents(), places.settings()];
    let mut found: Vec<(&str, PathBuf)> = Vec::new();
    if !written.iter().any(|path| files.exists(path)) {
        found.push(("your home", places.home.join(".bot-bottle")));
        found.push(("your home", places.home.join("bot-bottle.json")));
    }
    // A working directory that is the home has been looked at already.
    if has_own_root(files, places) && !files.exists(&places.cwd_root()) {
        found.push(("the working directory", places.cwd.join("bot-bottle.json")));
    }
    found.retain(|(_, path)| files.exists(path));
    if found.is_empty() {
        return;
    }
    let named: Vec<String> =
        found.iter().map(|(whose, path)| format!("{} of {whose}", listed([path.display().to_string()]))).collect();
    let message = format!("found {}, which carboy does not read", named.join(" and "));
    let fix = "run `carboy init --from bot-bottle`: it takes them over and names each key that reads differently here";
    out.push(Diagnostic::warning(Code::ForeignFiles, message, fix));
}
