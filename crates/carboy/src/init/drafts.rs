//! Files as they would be: read back by the manifest's own reader before anything is written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use carboy_control::disk::DiskFiles;
use carboy_control::home::{private_dir, write_private};
use carboy_core::secret::SecretText;
use carboy_manifest::edit::settings::add_entries;
use carboy_manifest::files::{FILE_BYTES_MAX, FileError};
use carboy_manifest::starter;
use carboy_manifest::{Manifest, ManifestFiles, Places, Request};
use serde::Serialize;

use super::choice::Choice;
use super::difference;
use crate::environment::Environment;
use crate::report::{Exit, Failure, Palette, printable};

/// What would become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Create,
    /// Lines are added to it, and none is touched.
    Extend,
    /// It is there and would be another.
    Replace,
    /// It is there as it would be.
    Keep,
}

/// What a file would hold.
pub enum Content {
    /// Text that may be shown.
    Text(String),
    /// What is not shown.
    Secret(SecretText),
}

/// One file.
pub struct Draft {
    /// Where.
    pub path: PathBuf,
    /// What becomes of it.
    pub action: Action,
    /// What stands there now, when it may be shown.
    pub before: Option<String>,
    /// What it would hold.
    pub content: Content,
}

impl Draft {
    /// Its text, when it may be shown.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Secret(_) => None,
        }
    }
}

/// All files of one `init`, in the order in which they are written.
pub struct Drafts {
    /// Them.
    pub all: Vec<Draft>,
}

/// What would be written for a choice, read back.
pub fn of(choice: &Choice, environment: &Environment) -> Result<Drafts, Failure> {
    let places = &environment.places;
    let mut all = Vec::new();
    if let Some((name, secret)) = &choice.typed {
        let path = secret_file(places, name);
        let there = path.symlink_metadata().is_ok();
        let action = if there { Action::Replace } else { Action::Create };
        let content = Content::Secret(SecretText::new(secret.expose().clone()));
        all.push(Draft { path, action, before: None, content });
    }
    if !choice.settings.is_empty() {
        let path = places.settings();
        let before = there(&path)?;
        let invalid = |e| Failure::words(Exit::Config, format!("{}: {e}", path.display()));
        let after = add_entries(before.as_deref().unwrap_or_default(), &choice.settings).map_err(invalid)?;
        let action = if before.is_some() { Action::Extend } else { Action::Create };
        all.push(Draft { path, action, before, content: Content::Text(after) });
    }
    let name = format!("{}.md", choice.starter.name);
    let agent = starter::agent(&choice.starter);
    let has_agent = agent.is_some();
    let path = places.bottles().join(&name);
    let bottle = starter::bottle(&choice.starter);
    let kept =
        there(&path)?.and_then(|before| with_routes_of(&bottle, &before)).filter(|kept| is_read(kept, places, &all));
    all.push(draft(path, kept.unwrap_or(bottle))?);
    all.extend(agent.map(|text| draft(places.agents().join(&name), text)).transpose()?);
    let drafts = Drafts { all };
    drafts.read_back(places, &choice.starter.name, has_agent)?;
    Ok(drafts)
}

/// A file that would hold this text.
pub fn draft(path: PathBuf, text: String) -> Result<Draft, Failure> {
    let before = there(&path)?;
    let action = match &before {
        None => Action::Create,
        Some(before) if *before == text => Action::Keep,
        Some(_) => Action::Replace,
    };
    Ok(Draft { path, action, before, content: Content::Text(text) })
}

/// A file that would hold this text, or what is there with what it lacks behind it.
pub fn extended(path: PathBuf, text: String, with: impl FnOnce(&str) -> String) -> Result<Draft, Failure> {
    let Some(before) = there(&path)? else { return draft(path, text) };
    let after = with(&before);
    let action = if after == before { Action::Keep } else { Action::Extend };
    Ok(Draft { path, action, before: Some(before), content: Content::Text(after) })
}

/// The bottle with the routes of the one that stands there: `carboy allow` and the person have put them under `egress`,
/// which `init` itself never writes. `None` when there are none.
fn with_routes_of(bottle: &str, before: &str) -> Option<String> {
    const FENCE: &str = "---";
    let is_egress = |line: &str| line == "egress:" || line.starts_with("egress: ");
    let front = before.lines().skip(1).take_while(|line| line.trim_end() != FENCE);
    let mut section: Vec<&str> = front.skip_while(|line| !is_egress(line)).collect();
    let is_key = |line: &&str| !line.is_empty() && !line.starts_with([' ', '\t', '#', '-']);
    let end = section.iter().skip(1).position(is_key).map_or(section.len(), |at| at + 1);
    section.truncate(end);
    // What stands above the next key is that one's.
    while section.last().is_some_and(|line| line.is_empty() || line.starts_with('#')) {
        section.pop();
    }
    let close = bottle.rfind(&format!("\n{FENCE}\n")).filter(|_| !section.is_empty())? + 1;
    let why = "# Routes that were here before: by `carboy allow`, or by hand.";
    Some(format!("{}\n{why}\n{}\n{}", &bottle[..close], section.join("\n"), &bottle[close..]))
}

/// Is a bottle with this text valid? One whose old routes are not is written without them.
fn is_read(text: &str, places: &Places, beside: &[Draft]) -> bool {
    const NAME: &str = "carboy-init-reads-a-bottle";
    let texts = beside.iter().filter_map(|draft| Some((draft.path.clone(), draft.text()?.as_bytes().to_vec())));
    let own = (places.bottles().join(format!("{NAME}.md")), text.as_bytes().to_vec());
    let drafted = Drafted(texts.chain([own]).collect());
    let places = Places { cwd: places.home.clone(), ..places.clone() };
    let request = Request { agent: None, bottles: vec![NAME.to_owned()], places };
    let loaded = Manifest::load(&drafted, &request);
    if loaded.is_err() {
        say!(
            "{} the routes under `egress` of the file that is there are not valid and would be dropped",
            Palette::stderr().warn("note:")
        );
    }
    loaded.is_ok()
}

/// Where a typed secret is kept.
pub fn secret_file(places: &Places, name: &str) -> PathBuf {
    places.carboy_home.join("secrets").join(name)
}

fn there(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |e: FileError| Failure::words(Exit::Failed, format!("{}: {e}", path.display()));
    let bytes = DiskFiles.read(path, FILE_BYTES_MAX).map_err(failed)?;
    bytes
        .map(String::from_utf8)
        .transpose()
        .map_err(|e| Failure::words(Exit::Config, format!("{}: {e}", path.display())))
}

impl Drafts {
    /// M35, M36: what would be written is what a launch reads, and it is valid.
    pub fn read_back(&self, places: &Places, name: &str, has_agent: bool) -> Result<(), Failure> {
        let texts = self.all.iter().filter_map(|draft| Some((draft.path.clone(), draft.text()?.as_bytes().to_vec())));
        let drafted = Drafted(texts.collect());
        // From the home, where no repository's agent of the same name stands before this one.
        let places = Places { cwd: places.home.clone(), ..places.clone() };
        let (agent, bottles) = if has_agent { (Some(name.to_owned()), vec![]) } else { (None, vec![name.to_owned()]) };
        let request = Request { agent, bottles, places };
        Manifest::load(&drafted, &request).map(|_| ()).map_err(|e| Failure::diagnostics(Exit::Config, &e))
    }

    /// The files for a person: new ones whole, others by what changes.
    pub fn shown(&self, home: &Path) -> String {
        let palette = Palette::stderr();
        let mut out = String::new();
        for draft in &self.all {
            let path = starter::path_text(&draft.path, home);
            let what = match draft.action {
                Action::Create => "new",
                Action::Extend => "lines are added",
                Action::Replace => "is there and would change",
                Action::Keep => "is there as it would be",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{} ({what})", palette.strong(&printable(&path)));
            match (draft.text(), draft.action) {
                (_, Action::Keep) => {}
                (None, _) => out.push_str("  the key, readable by you alone\n"),
                (Some(text), Action::Create) => text.lines().for_each(|line| {
                    let _ = writeln!(out, "  {}", printable(line));
                }),
                (Some(text), Action::Extend | Action::Replace) => {
                    out.push_str(&difference::shown(draft.before.as_deref().unwrap_or_default(), text, palette));
                }
            }
            out.push('\n');
        }
        out
    }

    /// Writes them; the paths of those that were written.
    pub fn write(&self, environment: &Environment) -> Result<Vec<PathBuf>, Failure> {
        let failed = |e: carboy_control::home::HomeError| Failure::new(Exit::Failed, &e);
        let mut written = Vec::new();
        for draft in self.all.iter().filter(|draft| draft.action != Action::Keep) {
            let dir = draft.path.parent().unwrap_or(environment.home.root());
            private_dir(dir).map_err(failed)?;
            // A link into somebody's own collection stays a link: the file behind it is what changes. A secret is put
            // in the place of whatever stands there.
            let target = match &draft.content {
                Content::Text(_) => draft.path.canonicalize().unwrap_or_else(|_| draft.path.clone()),
                Content::Secret(_) => draft.path.clone(),
            };
            match &draft.content {
                Content::Text(text) => write_private(&target, text.as_bytes()),
                Content::Secret(secret) => write_private(&target, format!("{}\n", secret.expose()).as_bytes()),
            }
            .map_err(failed)?;
            written.push(draft.path.clone());
        }
        Ok(written)
    }
}

/// The files on disk with these over them.
pub struct Drafted(pub BTreeMap<PathBuf, Vec<u8>>);

impl ManifestFiles for Drafted {
    fn list(&self, dir: &Path) -> Result<Vec<String>, FileError> {
        let mut names = DiskFiles.list(dir)?;
        for path in self.0.keys().filter(|path| path.parent() == Some(dir)) {
            if let Some(name) =
                path.file_name().and_then(|name| name.to_str()).filter(|n| !names.iter().any(|k| k == n))
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        match self.0.get(path) {
            Some(content) if content.len() as u64 > bytes_max => Err(FileError::TooLarge { bytes_max }),
            Some(content) => Ok(Some(content.clone())),
            None => DiskFiles.read(path, bytes_max),
        }
    }

    fn read_of_root(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        DiskFiles.read_of_root(path, bytes_max)
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.keys().any(|file| file.starts_with(path)) || DiskFiles.exists(path)
    }

    fn same_directory(&self, a: &Path, b: &Path) -> bool {
        DiskFiles.same_directory(a, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_the_file_that_is_there_stay_and_nothing_else_of_it_does() {
        let bottle = "---\nagent_provider: shell\n---\nFor people.\n";
        let before = "---\npresets:\n  - npm\negress:\n  routes:\n    # for the docs\n    - host: a.example\n\n# Who.\nenv:\n  A: b\n---\n";
        let kept = with_routes_of(bottle, before).unwrap();
        assert_eq!(
            kept,
            "---\nagent_provider: shell\n\n# Routes that were here before: by `carboy allow`, or by hand.\n\
             egress:\n  routes:\n    # for the docs\n    - host: a.example\n---\nFor people.\n"
        );
        // Again: as it stands.
        assert_eq!(with_routes_of(bottle, &kept).unwrap(), kept);
        assert_eq!(with_routes_of(bottle, bottle), None);
    }
}
