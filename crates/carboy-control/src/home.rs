//! `CARBOY_HOME`: everything of one user on one host, and where in it things stand.
//!
//! ```text
//! ~/.carboy/
//!   bottles/ agents/ settings.yml     written by people
//!   ca/                               the certificate authority of this host, 0600, never in a bottle
//!   audit/audit.jsonl                 the log
//!   state/<bottle>/home/              /home/agent of a bottle
//!   state/<bottle>/quarantine/        what a run changed and was not allowed to keep
//!   state/<bottle>/runs/<run>/        record, summary and output of a run, also when it has ended
//!   run/<run>.json, run/<run>.sock    runs that live
//!   run/proxy-<run>/                  socket, certificate and variables of a proxy that lives
//!   carboy.db                         what was spent, and the operator's caps; the controller's alone
//!   controller.log                    what the controller says, bounded
//!   run/controller.lock               held by the one controller; beside it the lock of those who start it
//! ```

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use carboy_core::audit::{hex, sha256};
use carboy_core::ids::{BottleName, RunId};

/// Longest path of a Unix socket, with its terminating zero (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The directory tree of one user.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
    sockets: PathBuf,
}

/// Why the home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The file system said no.
    #[error("cannot use {path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody else could plant files in it.
    #[error("{path} belongs to uid {owner} or is writable by others (mode {mode:o}); make it yours with mode 0700")]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The socket would not fit.
    #[error(
        "socket path {path} is longer than {SOCKET_PATH_BYTES_MAX} bytes; set CARBOY_HOME or XDG_RUNTIME_DIR to a shorter path"
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
    },
}

impl Home {
    /// `root` is `CARBOY_HOME`; `runtime` is `XDG_RUNTIME_DIR`, where sockets go when it is set.
    pub fn open(root: &Path, runtime: Option<&Path>) -> Result<Home, HomeError> {
        let sockets = match runtime {
            Some(dir) if dir.is_dir() => dir.join("carboy"),
            Some(_) | None => root.join("run"),
        };
        let home = Home { root: root.to_owned(), sockets };
        for dir in [home.root.clone(), home.root.join("run"), home.root.join("audit"), home.root.join("ca")] {
            private_dir(&dir)?;
        }
        private_dir(&home.sockets)?;
        Ok(home)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of sockets.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// The audit log.
    pub fn audit_log(&self) -> PathBuf {
        self.root.join("audit/audit.jsonl")
    }

    /// Certificate and key of this host's authority.
    pub fn ca_files(&self) -> (PathBuf, PathBuf) {
        (self.root.join("ca/ca.pem"), self.root.join("ca/ca.key"))
    }

    /// The key of this host's fingerprints.
    pub fn fingerprint_key_file(&self) -> PathBuf {
        self.root.join("ca/fingerprint.key")
    }

    /// The directory of every bottle's state.
    pub fn states(&self) -> PathBuf {
        self.root.join("state")
    }

    /// What a bottle keeps between runs.
    pub fn state(&self, bottle: &BottleName) -> PathBuf {
        self.states().join(bottle.as_str())
    }

    /// The record of a run that lives.
    pub fn run_record(&self, run: &RunId) -> PathBuf {
        self.root.join("run").join(format!("{run}.json"))
    }

    /// The directories of a bottle's runs.
    pub fn run_dirs(&self, bottle: &BottleName) -> PathBuf {
        self.state(bottle).join("runs")
    }

    /// What is kept of a run.
    pub fn run_dir(&self, bottle: &BottleName, run: &RunId) -> PathBuf {
        self.run_dirs(bottle).join(run.as_str())
    }

    /// The directory of those records.
    pub fn run_records(&self) -> PathBuf {
        self.root.join("run")
    }

    /// What was spent, held and set.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("carboy.db")
    }

    /// What the controller says.
    pub fn controller_log(&self) -> PathBuf {
        self.root.join("controller.log")
    }

    /// Locked by the controller for as long as it lives.
    pub fn controller_lock(&self) -> PathBuf {
        self.root.join("run/controller.lock")
    }

    /// Locked by whoever starts the controller, until it is ready.
    pub fn controller_starting(&self) -> PathBuf {
        self.root.join("run/controller.starting")
    }

    /// The controller's socket. Two homes may share a directory of sockets, so the name says whose it is.
    pub fn controller_socket(&self) -> Result<PathBuf, HomeError> {
        let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        let whose = hex(&sha256(root.as_os_str().as_bytes())[..4]);
        self.socket(&format!("controller-{whose}.sock"))
    }

    /// The socket on which a run is asked and stopped.
    pub fn run_socket(&self, run: &RunId) -> Result<PathBuf, HomeError> {
        self.socket(&format!("{run}.sock"))
    }

    /// The files of a proxy that lives: its socket, its certificate, its variables.
    pub fn proxy_dir(&self, run: &RunId) -> PathBuf {
        self.sockets.join(format!("proxy-{run}"))
    }

    fn socket(&self, name: &str) -> Result<PathBuf, HomeError> {
        let path = self.sockets.join(name);
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(HomeError::SocketPath { path });
        }
        Ok(path)
    }
}

/// Makes the directory 0700, or checks that an existing one belongs to us and to nobody else.
pub fn private_dir(path: &Path) -> Result<(), HomeError> {
    let io = |source| HomeError::Io { path: path.to_owned(), source };
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(source) => return Err(io(source)),
    }
    let meta = fs::metadata(path).map_err(io)?;
    let (owner, mode) = (meta.uid(), meta.mode() & 0o777);
    if owner != rustix::process::getuid().as_raw() || mode & 0o022 != 0 {
        return Err(HomeError::NotPrivate { path: path.to_owned(), owner, mode });
    }
    Ok(())
}

/// Writes a file of mode 0600 under its final name in one step: a reader sees the old content or the new.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), HomeError> {
    draft_of(path)
        .and_then(|draft| draft.fill(content, Reaches::Disk)?.replace(path))
        .map_err(|source| HomeError::Io { path: path.to_owned(), source })
}

/// A file that is written whole before it gets its name. Dropped without one, it is gone.
///
/// Its own name is random: those who write the same file at once, other threads, processes and containers that share
/// the home among them, have each their own, and one that a killed process left is in nobody's way.
pub(crate) struct Draft {
    path: PathBuf,
    file: fs::File,
}

/// How far what is written must have got before the draft gets its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaches {
    /// On the disk: it is there after a power cut.
    Disk,
    /// With the kernel: whoever reads it finds it, and after a power cut it is made anew.
    Kernel,
}

/// An empty draft of mode 0600 beside `path`.
pub(crate) fn draft_of(path: &Path) -> std::io::Result<Draft> {
    let own = getrandom::u64().map_err(std::io::Error::other)?;
    let path = path.with_extension(format!("new-{own:016x}"));
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok(Draft { path, file })
}

impl Draft {
    /// Writes all of it.
    pub(crate) fn fill(mut self, content: &[u8], reaches: Reaches) -> std::io::Result<Self> {
        self.file.write_all(content)?;
        if reaches == Reaches::Disk {
            self.file.sync_all()?;
        }
        Ok(self)
    }

    /// Gives it this name, whatever had it before.
    pub(crate) fn replace(self, path: &Path) -> std::io::Result<()> {
        fs::rename(&self.path, path)
    }

    /// Gives it this name unless something has it; `AlreadyExists` then.
    pub(crate) fn place(self, path: &Path) -> std::io::Result<()> {
        fs::hard_link(&self.path, path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is ours alone, and of no use without the name; after `replace` nothing stands there.
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads a file that must not be readable by others; `None` when it is not there.
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, HomeError> {
    let io = |source| HomeError::Io { path: path.to_owned(), source };
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(source)),
    };
    let (owner, mode) = (meta.uid(), meta.mode() & 0o777);
    if !meta.is_file() || owner != rustix::process::getuid().as_raw() || mode & 0o077 != 0 {
        return Err(HomeError::NotPrivate { path: path.to_owned(), owner, mode });
    }
    fs::read(path).map(Some).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_home_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("home");
        Home::open(&root, None).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Home::open(&root, None), Err(HomeError::NotPrivate { mode: 0o777, .. })));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.key");
        assert!(read_private(&path).unwrap().is_none());
        write_private(&path, b"k").unwrap();
        assert_eq!(read_private(&path).unwrap().as_deref(), Some(&b"k"[..]));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_private(&path).is_err());
    }

    #[test]
    fn a_file_that_many_write_at_once_is_one_of_theirs_whole_and_no_draft_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer.json");
        let texts: Vec<Vec<u8>> = (0..8_u8).map(|n| vec![b'a' + n; 10_000]).collect();
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| {
                    for _ in 0..50 {
                        write_private(&path, text).unwrap();
                    }
                });
            }
        });
        assert!(texts.contains(&fs::read(&path).unwrap()));
        // A name that is taken is left as it is, and so is a directory in the way.
        assert!(draft_of(&path).unwrap().place(&path).is_err());
        fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(write_private(&dir.path().join("taken"), b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_socket_path_that_does_not_fit_is_an_error_and_not_a_cut_name() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("x".repeat(120)), None).unwrap();
        assert!(matches!(home.run_socket(&RunId::parse("r1").unwrap()), Err(HomeError::SocketPath { .. })));
    }
}
