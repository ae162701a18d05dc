//! How this crate sees the world: directories to list, files to read, and nothing else.
//!
//! The file system's side of [`ManifestFiles`] lives with the composer; [`MapFiles`] holds files in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most bytes of a bottle, agent or settings file.
pub const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Settings of the machine, over those of each user.
pub const SYSTEM_SETTINGS: &str = "/etc/carboy/settings.yml";

/// Most entries of one directory that are looked at.
pub const DIRECTORY_FILES_MAX: usize = 1000;

/// Why a file could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Above the limit of the read.
    #[error("larger than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// Anything else, in the system's words. Absent files are not errors.
    #[error("{0}")]
    Unreadable(String),
}

/// What a load may ask of the world. Implementations follow symbolic links only as the user's own shell would.
pub trait ManifestFiles {
    /// Names of the regular files directly in `dir`, in any order; empty when `dir` is absent.
    /// Implementations may stop after [`DIRECTORY_FILES_MAX`]` + 1` names.
    fn list(&self, dir: &Path) -> Result<Vec<String>, FileError>;

    /// The whole file, `None` when absent, [`FileError::TooLarge`] when it has more than `bytes_max` bytes (it is
    /// not read further then).
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError>;

    /// The same of a file that nobody but root can have written: it and its directory belong to root, and nobody else may
    /// write them. Anything else is [`FileError::Unreadable`].
    fn read_of_root(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError>;

    /// Is there a file or directory of this name?
    fn exists(&self, path: &Path) -> bool;

    /// The file of a built-in agent that an application brings.
    fn built_in(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }

    /// The names of those agents.
    fn built_in_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// Do both resolve to the same directory? (M5: symbolic links resolved; `false` when one is absent.)
    fn same_directory(&self, a: &Path, b: &Path) -> bool;
}

/// The directories that a load looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// `CARBOY_HOME`, by default `~/.carboy`: trusted; bottles, agents and `settings.yml`.
    pub carboy_home: PathBuf,
    /// The user's home, what `~/` stands for.
    pub home: PathBuf,
    /// The working directory; `.carboy/agents` below it is read, and trusted with choosing a bottle alone.
    pub cwd: PathBuf,
}

impl Places {
    /// Where bottles live.
    pub fn bottles(&self) -> PathBuf {
        self.carboy_home.join("bottles")
    }

    /// Where the user's own agents live.
    pub fn agents(&self) -> PathBuf {
        self.carboy_home.join("agents")
    }

    /// The settings of the user.
    pub fn settings(&self) -> PathBuf {
        self.carboy_home.join("settings.yml")
    }

    /// The root below the working directory.
    pub fn cwd_root(&self) -> PathBuf {
        self.cwd.join(".carboy")
    }
}

/// The files as they would be after one change: for looking at a change before it is made.
pub struct Changed<'a> {
    /// Everything else.
    pub files: &'a dyn ManifestFiles,
    /// The file that is changed.
    pub path: &'a Path,
    /// What would stand in it.
    pub content: &'a [u8],
}

impl ManifestFiles for Changed<'_> {
    fn list(&self, dir: &Path) -> Result<Vec<String>, FileError> {
        let mut names = self.files.list(dir)?;
        let own = self.path.file_name().and_then(|name| name.to_str()).filter(|_| self.path.parent() == Some(dir));
        if let Some(own) = own.filter(|own| !names.iter().any(|name| name == own)) {
            names.push(own.to_owned());
        }
        Ok(names)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        match path == self.path {
            true if self.content.len() as u64 > bytes_max => Err(FileError::TooLarge { bytes_max }),
            true => Ok(Some(self.content.to_vec())),
            false => self.files.read(path, bytes_max),
        }
    }

    /// What a person is about to change is none of root's files.
    fn read_of_root(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.files.read_of_root(path, bytes_max)
    }

    fn exists(&self, path: &Path) -> bool {
        self.path.starts_with(path) || self.files.exists(path)
    }

    fn same_directory(&self, a: &Path, b: &Path) -> bool {
        self.files.same_directory(a, b)
    }

    fn built_in(&self, name: &str) -> Option<String> {
        self.files.built_in(name)
    }

    fn built_in_names(&self) -> Vec<String> {
        self.files.built_in_names()
    }
}

/// The same files, and the agents that applications bring: `(name, text of the file)`.
pub struct WithBuiltIns<'a> {
    /// Everything else.
    pub files: &'a dyn ManifestFiles,
    /// The agents.
    pub agents: &'a [(&'a str, &'a str)],
}

impl ManifestFiles for WithBuiltIns<'_> {
    fn list(&self, dir: &Path) -> Result<Vec<String>, FileError> {
        self.files.list(dir)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.files.read(path, bytes_max)
    }

    fn read_of_root(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.files.read_of_root(path, bytes_max)
    }

    fn exists(&self, path: &Path) -> bool {
        self.files.exists(path)
    }

    fn same_directory(&self, a: &Path, b: &Path) -> bool {
        self.files.same_directory(a, b)
    }

    fn built_in(&self, name: &str) -> Option<String> {
        let own = self.agents.iter().find(|(known, _)| *known == name);
        own.map(|(_, text)| (*text).to_owned()).or_else(|| self.files.built_in(name))
    }

    fn built_in_names(&self) -> Vec<String> {
        self.agents.iter().map(|(name, _)| (*name).to_owned()).chain(self.files.built_in_names()).collect()
    }
}

/// Files in memory, by absolute path.
#[derive(Clone, Debug, Default)]
pub struct MapFiles(BTreeMap<PathBuf, Vec<u8>>);

impl MapFiles {
    /// Adds or replaces a file.
    pub fn insert(&mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) {
        self.0.insert(path.into(), content.into());
    }
}

impl<P: Into<PathBuf>, C: Into<Vec<u8>>> FromIterator<(P, C)> for MapFiles {
    fn from_iter<I: IntoIterator<Item = (P, C)>>(files: I) -> Self {
        MapFiles(files.into_iter().map(|(path, content)| (path.into(), content.into())).collect())
    }
}

impl ManifestFiles for MapFiles {
    fn list(&self, dir: &Path) -> Result<Vec<String>, FileError> {
        let below = self.0.keys().filter(|path| path.parent() == Some(dir));
        Ok(below.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        match self.0.get(path) {
            Some(content) if content.len() as u64 > bytes_max => Err(FileError::TooLarge { bytes_max }),
            found => Ok(found.cloned()),
        }
    }

    /// Files in memory are whoever's one likes.
    fn read_of_root(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.read(path, bytes_max)
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.keys().any(|file| file.starts_with(path))
    }

    fn same_directory(&self, a: &Path, b: &Path) -> bool {
        a == b && self.exists(a)
    }
}
