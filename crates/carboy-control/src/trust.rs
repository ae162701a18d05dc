//! What a person has agreed to run: agents' files of repositories, by path and content (M39).
//!
//! ```text
//! $CARBOY_HOME/trust.json, 0600:  {"version": 1, "trusted": [{"file": "/repo/.carboy/agents/a.md", "sha256": "…"}]}
//! ```
//!
//! *Must never* take a file for agreed to that is not in the list byte for byte, nor read a list that others could have
//! written. Two runs that record at once may lose one answer: the question is then asked again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use carboy_manifest::{Trust, Trusted};
use serde::{Deserialize, Serialize};

use crate::home::{Home, HomeError, read_private, write_private};

/// Most files that are remembered.
pub const TRUSTED_FILES_MAX: usize = 10_000;

/// The version of the file's form.
const VERSION: u32 = 1;

/// Why the list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read or written, or is not private.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// It is not what was written.
    #[error("{path} is not a list of trusted files ({why}); remove it, and you are asked again")]
    NotValid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It is full.
    #[error("{path} holds {TRUSTED_FILES_MAX} files; remove those that are gone")]
    Full {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    version: u32,
    trusted: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: PathBuf,
    sha256: String,
}

/// The list, as it was when it was opened. One content per path: what a file was before is agreed to no longer.
#[derive(Clone, Debug)]
pub struct TrustStore {
    path: PathBuf,
    known: BTreeMap<PathBuf, String>,
}

impl TrustStore {
    /// Reads the list of this home; an absent one is empty.
    ///
    /// # Errors
    /// When it is not private, or not a list.
    pub fn open(home: &Home) -> Result<TrustStore, TrustError> {
        let path = home.root().join("trust.json");
        let Some(bytes) = read_private(&path)? else { return Ok(TrustStore { path, known: BTreeMap::new() }) };
        let not_valid = |why: String| TrustError::NotValid { path: path.clone(), why };
        let list: List = serde_json::from_slice(&bytes).map_err(|error| not_valid(error.to_string()))?;
        if list.version != VERSION {
            return Err(not_valid(format!("version {} is not {VERSION}", list.version)));
        }
        let known = list.trusted.into_iter().map(|entry| (entry.file, entry.sha256)).collect();
        Ok(TrustStore { path, known })
    }

    /// Writes down that a person has agreed to this content at this place.
    ///
    /// # Errors
    /// When the list cannot be written, or is full.
    pub fn remember(&mut self, file: &Path, sha256: &str) -> Result<(), TrustError> {
        self.known.insert(place_of(file), sha256.to_owned());
        if self.known.len() > TRUSTED_FILES_MAX {
            return Err(TrustError::Full { path: self.path.clone() });
        }
        let entry = |(file, sha256): (&PathBuf, &String)| Entry { file: file.clone(), sha256: sha256.clone() };
        let list = List { version: VERSION, trusted: self.known.iter().map(entry).collect() };
        let text = serde_json::to_vec_pretty(&list)
            .map_err(|error| TrustError::NotValid { path: self.path.clone(), why: error.to_string() })?;
        Ok(write_private(&self.path, &text)?)
    }
}

impl Trust for TrustStore {
    fn of(&self, file: &Path, sha256: &str) -> Trusted {
        match self.known.get(&place_of(file)) {
            Some(known) if known == sha256 => Trusted::Yes,
            Some(_) | None => Trusted::Unknown,
        }
    }
}

/// One place has one name, whichever links lead to it.
fn place_of(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home"), None).unwrap();
        (dir, home)
    }

    #[test]
    fn what_was_agreed_to_is_known_later_and_only_that() {
        // M39
        let (dir, home) = home();
        let file = dir.path().join("a.md");
        fs::write(&file, "x").unwrap();
        symlink(&file, dir.path().join("link.md")).unwrap();
        let mut store = TrustStore::open(&home).unwrap();
        assert_eq!(store.of(&file, "aa"), Trusted::Unknown);
        store.remember(&file, "aa").unwrap();
        let later = TrustStore::open(&home).unwrap();
        assert_eq!((later.of(&file, "aa"), later.of(&file, "ab")), (Trusted::Yes, Trusted::Unknown));
        assert_eq!(later.of(&dir.path().join("link.md"), "aa"), Trusted::Yes);
        assert_eq!(later.of(&dir.path().join("b.md"), "aa"), Trusted::Unknown);
        let mode = fs::metadata(home.root().join("trust.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // What the file was before is agreed to no longer.
        store.remember(&file, "bb").unwrap();
        assert_eq!(TrustStore::open(&home).unwrap().of(&file, "aa"), Trusted::Unknown);
    }

    #[test]
    fn a_list_that_others_may_write_or_that_is_none_is_not_used() {
        // M39
        let (_dir, home) = home();
        let path = home.root().join("trust.json");
        for text in ["", "[]", "{\"version\": 2, \"trusted\": []}", "{\"version\": 1}"] {
            write_private(&path, text.as_bytes()).unwrap();
            assert!(matches!(TrustStore::open(&home), Err(TrustError::NotValid { .. })), "{text}");
        }
        write_private(&path, b"{\"version\": 1, \"trusted\": []}").unwrap();
        assert!(TrustStore::open(&home).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(TrustStore::open(&home), Err(TrustError::Home(_))));
    }
}
