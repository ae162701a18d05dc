//! The controller started on demand: by the first run, and by whoever asks about budgets.
//!
//! ```text
//!  run A ── lock of starters ── nobody listens? ── start ── "ready" over the channel ── unlock
//!  run B ── waits for the lock ─────────────────────────────────────────────────────── it listens: nothing to do
//! ```
//!
//! *Must never* give the controller more of the environment than it needs: that is where keys are.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use carboy_bottle::host_process::{Apart, start_for_good};
use carboy_core::ports::Later;
use carboy_store::controller::frame::FrameError;
use carboy_store::controller::protocol::{Call, Role, VERSION};
use carboy_store::controller::{Line, LineError, Reach};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::home::{Home, HomeError};
use crate::vault::Lookup;

/// Longest time that the controller may take until it is ready; a store that has to be brought up to date is in it.
pub const START_WAIT_MAX: Duration = Duration::from_secs(20);
/// How often a controller that is just ending is tried, and the pause between.
const TRIES_MAX: u32 = 6;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Longest word of the controller that was started, in bytes.
const WORD_BYTES_MAX: u64 = 16 * 1024;
/// Everything that it gets of the environment. None of it is a key of a provider's.
const PASSED_ON: &[&str] = &[
    "HOME",
    "XDG_RUNTIME_DIR",
    "AUDIT_INTEGRITY_KEY",
    "CARBOY_CONTROLLER_IDLE",
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "SYSTEMD_EXEC_PID",
];

/// What the controller says to whoever started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It serves.
    Ready,
    /// It does not, in words.
    Failed(String),
}

/// Why there is no controller.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Files of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The lock of starters.
    #[error("cannot lock {path}: {source}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has been starting it for too long.
    #[error("another process has been starting the controller for {} s; find it with `fuser {path}`", START_WAIT_MAX.as_secs())]
    Starting {
        /// The lock.
        path: PathBuf,
    },
    /// The program cannot be started again.
    #[error("cannot start this program again: {0}")]
    Spawn(#[source] std::io::Error),
    /// It said why.
    #[error("the controller cannot serve: {0}")]
    Failed(String),
    /// It ended, or hangs.
    #[error("the controller said nothing within {} s; {log} may say why", START_WAIT_MAX.as_secs())]
    Mute {
        /// Its log.
        log: PathBuf,
    },
    /// There is one, and it cannot be spoken to.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// The controller of one home, as its clients find it.
pub struct Starter {
    home: Home,
    socket: PathBuf,
    lookup: Arc<dyn Lookup>,
}

impl Starter {
    /// Of this home; `lookup` is the environment.
    pub fn new(home: &Home, lookup: Arc<dyn Lookup>) -> Result<Starter, HomeError> {
        Ok(Starter { home: home.clone(), socket: home.controller_socket()?, lookup })
    }

    /// The version of this program.
    pub const fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Connects, starting the controller where nobody listens.
    pub async fn line(&self, role: Role) -> Result<Line, StartError> {
        let mut tries = 1;
        loop {
            match Line::open(&self.socket, Starter::version(), role.clone()).await {
                Err(LineError::Nobody { .. }) if tries < TRIES_MAX => self.start_one().await?,
                // One that is just ending takes connections and answers none.
                Err(LineError::Ended | LineError::Frame(FrameError::Io(_))) if tries < TRIES_MAX => {
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
                line => return Ok(line?),
            }
            tries += 1;
        }
    }

    /// Has an older controller that nobody uses end, so that this program's own takes its place.
    pub async fn renew(&self) -> Result<(), StartError> {
        let line = Line::open(&self.socket, Starter::version(), Role::Operator).await;
        let line = match line {
            Ok(line) if !is_older(&line.welcome().program, Starter::version()) => return Ok(()),
            // It speaks the version before this one, or a version that only it does.
            Err(LineError::Version { version, .. }) if version < VERSION => {
                Line::speaking(&self.socket, version, Starter::version(), Role::Operator).await
            }
            Ok(line) => Ok(line),
            Err(error) => Err(error),
        };
        let mut line = match line {
            Ok(line) => line,
            Err(LineError::Nobody { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match line.ask(Call::Shutdown { only_idle: true }).await {
            Ok(_) => line.closed().await,
            // Runs use it: it stays, and speaks one version back with this one.
            Err(LineError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Starts it, unless somebody else did meanwhile.
    pub async fn start_one(&self) -> Result<(), StartError> {
        let (home, socket) = (self.home.clone(), self.socket.clone());
        let environment = passed_on(|name| self.lookup.variable(name));
        let (told, waits) = tokio::sync::oneshot::channel();
        // A thread of its own: waiting for a lock cannot be given up, only left behind.
        let thread = std::thread::Builder::new().name("controller-start".into());
        let lock = home.controller_starting();
        thread
            .spawn(move || {
                // Whoever waited may have given up.
                let _ = told.send(start_under_lock(&home, &socket, &environment));
            })
            .map_err(StartError::Spawn)?;
        match tokio::time::timeout(2 * START_WAIT_MAX, waits).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(StartError::Starting { path: lock }),
        }
    }
}

impl Reach for Starter {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn start(&self) -> Later<'_, Result<(), String>> {
        Box::pin(async move { self.start_one().await.map_err(|e| e.to_string()) })
    }

    fn program(&self) -> &str {
        Starter::version()
    }
}

/// Is `theirs` an older version than `own`? One that cannot be read is no reason to end anything.
pub(super) fn is_older(theirs: &str, own: &str) -> bool {
    let numbers = |text: &str| -> Option<Vec<u64>> {
        text.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok()).collect()
    };
    matches!((numbers(theirs), numbers(own)), (Some(theirs), Some(own)) if theirs < own)
}

fn passed_on(variable: impl Fn(&str) -> Option<OsString>) -> BTreeMap<OsString, OsString> {
    PASSED_ON.iter().filter_map(|name| Some((OsString::from(name), variable(name)?))).collect()
}

fn start_under_lock(home: &Home, socket: &Path, environment: &BTreeMap<OsString, OsString>) -> Result<(), StartError> {
    let path = home.controller_starting();
    let lock = |source| StartError::Lock { path: path.clone(), source };
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(lock)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| lock(e.into()))?;
    if UnixStream::connect(socket).is_ok() {
        return Ok(());
    }
    let arguments = [
        OsStr::new("controller"),
        OsStr::new("run"),
        OsStr::new("--on-demand"),
        OsStr::new("--home"),
        home.root().as_os_str(),
    ];
    let arguments: Vec<OsString> = arguments.map(OsStr::to_owned).into();
    let Apart { mut child, channel } = start_for_good(&arguments, environment).map_err(StartError::Spawn)?;
    let word = first_word(channel);
    // It outlives us; if it does not, it is not left behind as a zombie.
    let reaper = std::thread::Builder::new().name("controller-reaper".into());
    reaper.spawn(move || child.wait()).map_err(StartError::Spawn)?;
    match word {
        Some(Word::Ready) => Ok(()),
        Some(Word::Failed(why)) => Err(StartError::Failed(why)),
        None => Err(StartError::Mute { log: home.controller_log() }),
    }
}

/// What it says first; `None` when it ends or takes too long.
fn first_word(channel: UnixStream) -> Option<Word> {
    let (heard, word) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut line = Vec::new();
        let read = BufReader::new(channel.take(WORD_BYTES_MAX)).read_until(b'\n', &mut line);
        // Nobody listens any more after the longest wait.
        let _ = heard.send(read.ok().and_then(|_| serde_json::from_slice(&line).ok()));
    });
    word.recv_timeout(START_WAIT_MAX).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_version_is_older() {
        for (theirs, own, older) in [
            ("0.1.0", "0.2.0", true),
            ("0.9.0", "0.10.0", true),
            ("0.1.0", "0.1.0", false),
            ("0.2.0", "0.1.9", false),
            ("0.1.0-rc1", "0.1.1", true),
            ("unknown", "0.1.0", false),
        ] {
            assert_eq!(is_older(theirs, own), older, "{theirs} {own}");
        }
    }

    #[test]
    fn no_key_of_a_provider_is_passed_on() {
        let environment = passed_on(|name| Some(OsString::from(format!("value of {name}"))));
        assert_eq!(environment.len(), PASSED_ON.len());
        for never in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "SSH_AUTH_SOCK", "LD_PRELOAD"] {
            assert!(!environment.contains_key(OsStr::new(never)), "{never}");
        }
    }
}
