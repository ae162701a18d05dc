//! What `carboy init` finds on a host: agents, toolchains, the registries that package managers are configured to use.
//!
//! ```text
//!   programs on PATH ──┐
//!   usual places ──────┤─▶ agents, toolchains ─▶ binds ─┐
//!   configurations ────┴─▶ registries ─▶ presets ───────┼─▶ proposal ─▶ carboy_manifest::starter
//!   the project's files ─▶ which of them it uses ───────┘
//! ```
//!
//! *Must never* run what a checked-out repository brings, nor a program where one could steer it: programs are asked in the
//! root directory, and those that stand below the workspace are not asked at all. *Must never* copy a credential: where a
//! configuration holds one, that is said. What the repository's own files ask for is offered and not taken.

pub mod agents;
mod elf;
pub mod login;
pub mod project;
pub mod propose;
pub mod registries;
pub mod toolchains;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carboy_bottle::host_process::{Fence, Inquiry, inquire};
use carboy_manifest::host_paths::refused_source;
use rustix::fs::{CWD, Mode, OFlags};

/// Longest time that a program may take to say its version or its configuration.
pub const ASK_WAIT_MAX: Duration = Duration::from_secs(10);
/// Most bytes of a configuration file that are read.
pub const CONFIG_BYTES_MAX: u64 = 256 * 1024;
/// Most entries of one directory that are looked at.
pub const ENTRIES_MAX: usize = 500;
/// Programs are asked here: nobody but root puts a configuration into it.
const NEUTRAL: &str = "/";
/// What the top of a project has in it.
const PROJECT_MARKS: [&str; 14] = [
    ".git",
    ".hg",
    ".jj",
    "package.json",
    "Cargo.toml",
    "pyproject.toml",
    "setup.py",
    "requirements.txt",
    "Pipfile",
    "go.mod",
    "go.work",
    "pnpm-workspace.yaml",
    "Gemfile",
    "composer.json",
];
/// Trees of the host that every bottle sees.
const VISIBLE: &[&str] = &["/usr", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Where programs are looked up inside, of what every bottle sees.
const LOOKED_UP: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The host as one person sees it.
pub struct Surroundings {
    /// The person's home.
    pub home: PathBuf,
    /// `CARBOY_HOME`.
    pub carboy_home: PathBuf,
    /// The project for which all this is.
    pub workspace: PathBuf,
    /// The environment. It may hold secrets: nothing here prints it.
    pub environment: BTreeMap<OsString, OsString>,
    /// `/etc`
    pub etc: PathBuf,
}

impl Surroundings {
    /// A variable, when it is set and not empty.
    pub fn variable(&self, name: &str) -> Option<String> {
        let value = self.environment.get(std::ffi::OsStr::new(name))?.to_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// The directories of `PATH` that are looked into: absolute, and not the repository's own.
    fn path(&self) -> Vec<PathBuf> {
        let path = self.environment.get(std::ffi::OsStr::new("PATH")).cloned().unwrap_or_default();
        std::env::split_paths(&path).filter(|dir| dir.is_absolute() && !self.is_of_project(dir)).collect()
    }

    /// Does a project bring what is in this directory, this one or another?
    fn is_of_project(&self, dir: &Path) -> bool {
        self.is_of_workspace(dir) || [dir.to_owned(), real(dir)].iter().any(|dir| holds_a_project_s_programs(dir))
    }

    /// Does it stand below the project that the workspace is in? A person may be in one of its directories, and its
    /// programs are beside that.
    fn is_of_workspace(&self, path: &Path) -> bool {
        self.project().is_some_and(|project| real(path).starts_with(project))
    }

    /// The topmost directory above the workspace that is a project's, or the workspace itself. The home, and what is
    /// above it, is none that brings programs.
    fn project(&self) -> Option<PathBuf> {
        let (workspace, home) = (real(&self.workspace), real(&self.home));
        let own = workspace.ancestors().take_while(|dir| !home.starts_with(dir));
        let is_project = |dir: &&Path| *dir == workspace || PROJECT_MARKS.iter().any(|mark| is_there(&dir.join(mark)));
        own.filter(is_project).last().map(Path::to_owned)
    }

    /// The first executable file of this name on `PATH`, else in one of these directories.
    pub(crate) fn find(&self, program: &str, also: &[PathBuf]) -> Option<PathBuf> {
        let dirs = self.path();
        let also = also.iter().filter(|dir| !self.is_of_project(dir));
        let mut candidates = dirs.iter().chain(also).map(|dir| dir.join(program));
        candidates.find(|file| is_executable(file) && !self.is_of_workspace(file))
    }

    /// What a program prints, without the space at its ends; `None` when it fails or takes too long.
    pub(crate) fn ask(&self, program: &Path, arguments: &[&str]) -> Option<String> {
        self.ask_at(program, arguments, Path::new(NEUTRAL), &[])
    }

    /// The same in another directory, with variables of its own.
    fn ask_at(&self, program: &Path, arguments: &[&str], dir: &Path, more: &[(&str, &Path)]) -> Option<String> {
        // Whoever found it, and wherever.
        if !program.is_absolute() || self.is_of_workspace(program) {
            return None;
        }
        let mut argv = vec![program.to_str()?.to_owned()];
        argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut environment = self.environment.clone();
        // Many programs are scripts, and find their interpreter and what they call in these.
        let fence = Fence::new(&|name| self.environment.get(OsStr::new(name)).cloned(), self.project().as_slice());
        for (name, value) in fence.environment() {
            match value {
                Some(value) => environment.insert(name.clone(), value.clone()),
                None => environment.remove(name),
            };
        }
        environment.insert("PATH".into(), std::env::join_paths(self.path()).ok()?);
        environment.extend(more.iter().map(|(name, value)| (OsString::from(name), value.as_os_str().to_owned())));
        let inquiry = Inquiry { argv: &argv, dir, environment: &environment, wait_max: ASK_WAIT_MAX };
        let text = String::from_utf8(inquire(&inquiry).ok()?).ok()?;
        Some(text.trim().to_owned())
    }

    /// Is it visible in every bottle without a bind?
    pub(crate) fn is_visible(&self, real: &Path) -> bool {
        VISIBLE.iter().any(|tree| real.starts_with(tree))
    }

    /// Why a bottle never sees it, links followed; `None` when it may.
    pub(crate) fn refused(&self, source: &Path) -> Option<String> {
        let real = source.canonicalize().ok()?;
        refused_source(source, &self.home, &self.carboy_home)
            .or_else(|| refused_source(&real, &self.home, &self.carboy_home))
    }
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// Directories that package managers fill with what a project asks for: whatever is in one, the project said so.
fn holds_a_project_s_programs(dir: &Path) -> bool {
    dir.ends_with("node_modules/.bin") || dir.parent().is_some_and(|above| is_there(&above.join("pyvenv.cfg")))
}

fn is_executable(file: &Path) -> bool {
    let is_file = std::fs::metadata(file).is_ok_and(|meta| meta.is_file());
    is_file && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// A file of the person's own within its bound; `None` when it cannot be read or is no text.
pub(crate) fn read_own(path: &Path) -> Option<String> {
    read(path, OFlags::empty())
}

/// A file of the repository: no link is followed, so that a link to somebody's keys is not read for it.
pub(crate) fn read_repository(path: &Path) -> Option<String> {
    read(path, OFlags::NOFOLLOW)
}

fn read(path: &Path, more: OFlags) -> Option<String> {
    // Without blocking: a pipe in its place must hold nobody up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | more;
    let file = std::fs::File::from(rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(CONFIG_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The names in a directory, sorted, at most [`ENTRIES_MAX`].
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(ENTRIES_MAX);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
