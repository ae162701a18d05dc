//! The controller's process, from its lock to its end.
//!
//! ```text
//!  lock ─► store ─► owners of before ─► log caught up ─► socket ─► "ready" ─► serving ─┐
//!  unlock ◄── socket gone ◄── store closed ◄── requests under way ended ◄── asked, idle, SIGTERM
//! ```
//!
//! *Must never* open the store without the lock, or remove the socket of another one.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::budget::BudgetSet;
use carboy_store::StoreError;
use carboy_store::controller::protocol::Status;
use carboy_store::ledger::{Engine, SqliteStore, Unavailable};
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::serve;
use super::journal::Journal;
use super::keeper::Keeper;
use super::leases::{LEASE, Leases};
use super::metrics;
use super::process::undumpable;
use super::projection::{KeySource, Projection, Stuck, now_ms};
use super::snapshots::{self, Snapshots};
use super::start::Starter;
use crate::clock::SystemClock;
use crate::home::{Home, HomeError};

/// Most connections at once.
pub const CONNECTIONS_MAX: usize = 512;
/// Most of them that only look, and most that may change what is set: the rest is for runs, whoever looks on.
pub const OBSERVERS_MAX: usize = 192;
/// See [`OBSERVERS_MAX`].
pub const OPERATORS_MAX: usize = 64;
/// Until a controller that was started on demand ends, when nobody is connected.
pub const IDLE: Duration = Duration::from_secs(600);
/// How a line of its log begins, after the moment, when it could not begin to serve.
const CANNOT_SERVE: &str = "cannot serve: ";
/// Longest end of its log that is looked at, in bytes.
const LOG_END_BYTES: u64 = 4 * 1024;
/// How long connections may take to end.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(8);
/// How long one that is just ending may take until its lock is free.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(12);
/// Pause after a connection that could not be accepted: descriptors have run out, most of all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a controller is run.
pub struct Running {
    /// Whose it is.
    pub home: Home,
    /// How log entries are hashed.
    pub key: KeySource,
    /// Until it ends when nobody is connected; `None` never.
    pub idle: Option<Duration>,
    /// Where metrics are asked for.
    pub metrics: Option<SocketAddr>,
    /// Whether what it says is said on standard error, too.
    pub aloud: bool,
    /// Ready when it is to end: by signals, which are the binary's.
    pub stop: watch::Receiver<bool>,
}

/// Why a controller cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another one does.
    #[error(
        "a controller of {home} runs already; `carboy controller status` shows it, `carboy controller stop` ends it"
    )]
    Another {
        /// Whose.
        home: PathBuf,
    },
    /// Files of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] Stuck),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] Unavailable),
    /// The port of metrics.
    #[error("could not answer for metrics at {address}: {source}; give `--metrics` another port, or end who has it")]
    Port {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something of the system.
    #[error("could not {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What every connection shares.
pub(super) struct Serving {
    pub(super) keeper: Arc<Keeper>,
    pub(super) leases: Arc<Leases>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) observers: Semaphore,
    pub(super) operators: Semaphore,
    connections: watch::Sender<usize>,
    end: watch::Sender<bool>,
    started_ms: u64,
    idle: Option<Duration>,
    ledger: PathBuf,
}

impl Serving {
    /// Ready when the controller ends.
    pub(super) async fn ended(&self) {
        // It cannot go away: it is in here.
        let _ = self.end.subscribe().wait_for(|end| *end).await;
    }

    /// Ends it.
    pub(super) fn end(&self, only_idle: bool) -> Result<(), String> {
        let supervisors = *self.leases.connected().borrow();
        if only_idle && supervisors > 0 {
            return Err(format!("{supervisors} runs are connected; `carboy ps` lists them"));
        }
        self.end.send_replace(true);
        Ok(())
    }

    /// How it is.
    pub(super) fn status(&self) -> Status {
        Status {
            program: Starter::version().to_owned(),
            pid: std::process::id(),
            started_ms: self.started_ms,
            idle_ms: self.idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
            supervisors: *self.leases.connected().borrow() as u64,
            connections: *self.connections.borrow() as u64,
            ledger: self.ledger.display().to_string(),
            failing: self.keeper.unlogged(),
        }
    }

    /// One snapshot, as JSON, with what files say and no run has brought yet.
    pub(super) async fn snapshot(&self, foreseen: Vec<BudgetSet>) -> Result<String, String> {
        snapshots::text(&self.keeper, foreseen).await
    }
}

/// Why the last one could not begin to serve, where nothing was said after that.
pub fn could_not_serve(home: &Home) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut log = File::open(home.controller_log()).ok()?;
    let length = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(LOG_END_BYTES))).ok()?;
    let mut end = Vec::new();
    log.take(LOG_END_BYTES).read_to_end(&mut end).ok()?;
    let end = String::from_utf8_lossy(&end);
    let (_, words) = end.lines().last()?.split_once(' ')?;
    words.strip_prefix(CANNOT_SERVE).map(|why| why.chars().filter(|c| !c.is_control()).collect())
}

/// A home's ledger.
pub fn open_ledger(home: &Home) -> Result<Engine, StoreError> {
    Engine::open(Box::new(SqliteStore::open(&home.ledger())?), Arc::new(SystemClock))
}

/// The lock, held; the file is as good as its descriptor. One that is just ending, and takes no connections any more, is
/// waited for.
async fn lock(home: &Home) -> Result<File, ServeError> {
    let system = |source| ServeError::System { what: "lock the controller's file", source };
    let another = || ServeError::Another { home: home.root().to_owned() };
    let open = || {
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(home.controller_lock()).map_err(system)
    };
    let file = open()?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(error) => return Err(system(error.into())),
    }
    if std::os::unix::net::UnixStream::connect(home.controller_socket()?).is_ok() {
        return Err(another());
    }
    let (told, waits) = tokio::sync::oneshot::channel();
    // A thread of its own: waiting for a lock cannot be given up, only left behind.
    std::thread::spawn(move || {
        let locked = flock(&file, FlockOperation::LockExclusive).map(|()| file);
        // Whoever waited may have given up; the lock goes with the file then.
        let _ = told.send(locked);
    });
    match tokio::time::timeout(LOCK_WAIT_MAX, waits).await {
        Ok(Ok(Ok(file))) => Ok(file),
        Ok(Ok(Err(error))) => Err(system(error.into())),
        Ok(Err(_)) | Err(_) => Err(another()),
    }
}

/// Serves until it is to end. `open` opens the ledger ([`open_ledger`]), under the lock; `ready` is told when clients may come.
pub async fn run(
    running: Running,
    open: impl FnOnce(&Home) -> Result<Engine, StoreError> + Send + 'static,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let Running { home, key, idle, metrics, aloud, mut stop } = running;
    let system = |what| move |source| ServeError::System { what, source };
    undumpable().map_err(system("protect this process's memory"))?;
    let held = lock(&home).await?;
    let journal = Arc::new(Journal::open(&home.controller_log(), aloud));
    let place = home.clone();
    let opened = tokio::task::spawn_blocking(move || open(&place)).await;
    let engine =
        opened.map_err(|e| ServeError::System { what: "open the ledger", source: std::io::Error::other(e) })?;
    let engine = engine.inspect_err(|error| journal.say(&format!("{CANNOT_SERVE}{error}")))?;
    let keeper = Keeper::new(engine, journal.clone());
    let leases = Leases::new(keeper.clone(), LEASE);
    let recorded = watch::Sender::new(());
    let hears = recorded.subscribe();
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.clone().pass_on(recorded));
    keeper.remember(&leases).await?;
    tasks.spawn(Projection::open(keeper.clone(), &home, key).await?.go_on(hears));
    let socket = home.controller_socket()?;
    // Whoever left it there is gone: the lock is ours.
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(system("open the controller's socket"))?;
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o600))
        .map_err(system("close its socket to others"))?;
    let serving = Arc::new(Serving {
        keeper: keeper.clone(),
        leases,
        snapshots: Arc::new(Snapshots::new()),
        observers: Semaphore::new(OBSERVERS_MAX),
        operators: Semaphore::new(OPERATORS_MAX),
        connections: watch::Sender::new(0),
        end: watch::Sender::new(false),
        started_ms: now_ms(),
        idle,
        ledger: home.ledger(),
    });
    let (snapshots, of) = (serving.snapshots.clone(), keeper.clone());
    tasks.spawn(async move { snapshots.take(of).await });
    if let Some(address) = metrics {
        let listener = tokio::net::TcpListener::bind(address);
        let listener = listener.await.map_err(|source| ServeError::Port { address, source })?;
        tasks.spawn(metrics::serve(listener, serving.clone()));
    }
    let idling = serving.clone();
    tasks.spawn(async move { end_when_idle(&idling).await });
    journal.say(&format!(
        "carboy {} serves {} as process {}",
        Starter::version(),
        socket.display(),
        std::process::id()
    ));
    if let Some(address) = metrics {
        journal.say(&format!("metrics are at http://{address}/metrics"));
    }
    ready();
    let accepting = accept(&serving, listener);
    tokio::select! {
        () = accepting => {}
        () = serving.ended() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    close(&serving, &keeper, &journal).await;
    tasks.shutdown().await;
    // Before the lock goes: another one makes its own.
    let _ = std::fs::remove_file(&socket);
    drop(held);
    Ok(())
}

/// Everybody is told and what is under way ends; then the store is closed.
async fn close(serving: &Arc<Serving>, keeper: &Keeper, journal: &Journal) {
    // Also when it was asked for already.
    serving.end.send_replace(true);
    let mut connections = serving.connections.subscribe();
    // Whoever does not go is cut off with the process.
    let _ = tokio::time::timeout(CLOSE_WAIT_MAX, connections.wait_for(|count| *count == 0)).await;
    match keeper.engine().close().await {
        Ok(()) => journal.say("ended in order"),
        Err(why) => journal.say(&format!("ended, and the ledger could not be closed in order: {why}")),
    }
}

async fn accept(serving: &Arc<Serving>, listener: UnixListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Where there is no room they wait in the kernel's queue.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let serving = serving.clone();
        serving.connections.send_modify(|count| *count += 1);
        tokio::spawn(async move {
            serve(&serving, stream).await;
            serving.connections.send_modify(|count| *count -= 1);
            drop(permit);
        });
    }
}

/// Ends it when nobody has been connected, and no owner had a lease, for so long.
async fn end_when_idle(serving: &Serving) {
    let Some(idle) = serving.idle else { return std::future::pending().await };
    let mut connections = serving.connections.subscribe();
    loop {
        if connections.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(idle) => {
                serving.keeper.journal().say("nobody is connected any more");
                serving.end.send_replace(true);
                return;
            }
            changed = connections.changed() => if changed.is_err() { return },
        }
    }
}
