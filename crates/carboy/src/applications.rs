//! The agents that come with the program: their files for whoever reads manifests, their tools for whoever runs them.
//!
//! *Must never* open an application's records to look at its file.

use std::path::Path;
use std::sync::Arc;

use bookly::server::{open, text};
use carboy_control::agent::Tool;
use carboy_control::chat::Stage;
use carboy_control::clock::SystemClock;
use carboy_control::disk::DiskFiles;
use carboy_core::ports::Clock;
use carboy_manifest::ManifestFiles;
use carboy_manifest::files::FileError;

use crate::report::{Exit, Failure};

/// The host's file system, and the files of built-in agents.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProgramFiles;

impl ManifestFiles for ProgramFiles {
    fn list(&self, dir: &Path) -> Result<Vec<String>, FileError> {
        DiskFiles.list(dir)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        DiskFiles.read(path, bytes_max)
    }

    fn read_of_root(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        DiskFiles.read_of_root(path, bytes_max)
    }

    fn exists(&self, path: &Path) -> bool {
        DiskFiles.exists(path)
    }

    fn same_directory(&self, a: &Path, b: &Path) -> bool {
        DiskFiles.same_directory(a, b)
    }

    fn built_in(&self, name: &str) -> Option<String> {
        // Its own words cannot be wrong: a test of the application reads them.
        (name == bookly::agent::NAME).then(text).and_then(Result::ok).map(str::to_owned)
    }

    fn built_in_names(&self) -> Vec<String> {
        vec![bookly::agent::NAME.to_owned()]
    }
}

/// The tools of a built-in agent, its records opened below `state`.
pub fn tools(agent: &str, state: &Path) -> Result<Vec<Arc<dyn Tool>>, Failure> {
    if agent != bookly::agent::NAME {
        return Err(Failure::words(
            Exit::Config,
            format!("agent `{agent}` asks for the tools of an application, and is none"),
        )
        .hint("remove `application` from its `tools`; built-in agents alone bring tools in Rust"));
    }
    let opened = open(state, SystemClock.now_ms()).map_err(|e| Failure::new(Exit::Failed, &e))?;
    Ok(opened.tools)
}

/// The same where it is attacked: over records of its own, made in an empty directory.
pub fn stage(agent: &str, place: &Path) -> Result<Option<Stage>, Failure> {
    match agent == bookly::agent::NAME {
        true => bookly::server::stage(place).map(Some).map_err(|e| Failure::new(Exit::Failed, &e)),
        false => Ok(None),
    }
}

/// The woven page of a built-in agent's source, by file names, the page first; `None` for an agent that is no such document.
pub fn architecture(agent: &str) -> Option<&'static [(&'static str, &'static [u8])]> {
    (agent == bookly::agent::NAME).then_some(bookly::server::ARCHITECTURE)
}
