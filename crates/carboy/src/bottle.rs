//! `carboy bottle`: what bottles keep, shown, brought over, taken back, removed.
//!
//! *Must never* print a name or a line of a bottle's making as it is, or change a workspace that nobody agreed to.

mod apply;
mod diff;
mod keep;
mod quarantine;

use std::path::{Path, PathBuf};

use carboy_control::workspace::tree::Rel;
use carboy_control::workspace::{Layer, WorkspaceError};

use crate::args::BottleCommand;
use crate::environment::Environment;
use crate::report::{Exit, Failure, printable};
use crate::terminal;

/// Does what was asked.
pub fn bottle(command: BottleCommand, environment: &Environment) -> Result<u8, Failure> {
    match command {
        BottleCommand::Ls(args) => keep::ls(&args, environment),
        BottleCommand::Show(args) => keep::show(&args, environment),
        BottleCommand::Diff(args) => diff::diff(&args, environment),
        BottleCommand::Apply(args) => apply::apply(&args, environment),
        BottleCommand::Undo(args) => apply::undo(&args, environment),
        BottleCommand::Quarantine(args) => quarantine::quarantine(&args, environment),
        BottleCommand::Du(args) => keep::du(&args, environment),
        BottleCommand::Rm(args) => keep::rm(&args, environment),
    }
}

fn failed(error: WorkspaceError) -> Failure {
    let exit = match &error {
        WorkspaceError::Busy { .. } | WorkspaceError::LayerInUse { .. } => Exit::Refused,
        WorkspaceError::NoLayer { .. } => Exit::Found,
        WorkspaceError::Several { .. } | WorkspaceError::TooMany { .. } => Exit::Usage,
        WorkspaceError::TooManyLayers { .. } | WorkspaceError::Home(_) | WorkspaceError::Failed { .. } => Exit::Failed,
    };
    Failure::new(exit, &error)
}

/// An agreement: given by `--yes`, or by a person at a terminal.
fn agreed(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let answer = terminal::confirm(&format!("{question} [y/N] ")).map_err(|_| {
        Failure::words(Exit::Refused, "nothing was changed: there is no terminal to ask on").hint("add `--yes`")
    })?;
    if answer { Ok(()) } else { Err(Failure::words(Exit::Refused, "nothing was changed")) }
}

/// Which paths of a layer are meant. One that is in none of the layers is an error of whoever typed it.
fn selections(layers: &[Layer], paths: &[PathBuf], cwd: &Path) -> Result<Vec<Vec<Rel>>, Failure> {
    let mut chosen: Vec<Vec<Rel>> = layers.iter().map(|_| Vec::new()).collect();
    for path in paths {
        let at = layers.iter().enumerate().find_map(|(n, layer)| Some((n, below(layer, path, cwd)?)));
        match at {
            Some((n, rel)) => chosen[n].push(rel),
            None => {
                let shown = printable(&path.display().to_string());
                return Err(Failure::words(Exit::Usage, format!("{shown} is not below {}", place(&layers[0])))
                    .hint("name it from the working directory of the runs, or absolutely"));
            }
        }
    }
    Ok(chosen)
}

fn below(layer: &Layer, path: &Path, cwd: &Path) -> Option<Rel> {
    let workspace = &layer.record.workspace;
    // From where the person stands, when that is in the workspace; else from its top.
    let from = cwd.strip_prefix(workspace).unwrap_or(Path::new(""));
    let path = path.strip_prefix(workspace).map_or_else(|_| from.join(path), Path::to_owned);
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => plain.pop().then_some(())?,
            std::path::Component::RootDir | std::path::Component::Prefix(_) => return None,
            std::path::Component::CurDir => {}
            std::path::Component::Normal(name) => plain.push(name),
        }
    }
    Rel::parse(&plain)
}

/// A layer's directory, for a person.
fn place(layer: &Layer) -> String {
    printable(&layer.record.workspace.display().to_string())
}

/// A path below a layer's directory, for a person.
fn shown(path: &Rel) -> String {
    printable(&path.shown())
}

fn json(value: &impl serde::Serialize) -> Result<u8, Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::new(Exit::Failed, &e))?;
    crate::print(format!("{text}\n").as_bytes())
}
