//! Sessions in a SQLite file of their own (0600): they outlive the process, and several processes can share them.
//!
//! ```text
//!  load, look, save, remove, sweep ─▶ bounded queue ─▶ one thread, one connection ─▶ sessions.db (WAL)
//! ```
//!
//! A save is on the disk when it is acknowledged. That a session was read is written down too, but may be lost with the
//! power: it then counts as used a little earlier. *Must never* give an answer that is not the file's: one that is damaged,
//! locked, full, or no longer the one that was opened is no store at all.

mod table;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use carboy_core::ports::{KeptSession, Later, SessionKey, SessionStore, SessionStoreError};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::{Gone, SessionLimits, next_version};
use crate::StoreError;
use crate::place::open_directory;
use crate::ticket::{Giver, ticket};
use table::{All, Stock};

/// Questions that wait for the thread; one more is refused.
const JOBS_MAX: usize = 1_024;
/// Longest wait for a lock that another process holds on the file, in milliseconds.
const BUSY_MS: u64 = 1_000;
/// The write-ahead log is cut back to this size, in bytes.
const LOG_BYTES_MAX: i64 = 16 * 1024 * 1024;
/// Pages of the file that a sweep gives back to the disk at once.
const VACUUM_PAGES: u32 = 1_024;
/// Says that the file is ours ("cbse").
const APPLICATION_ID: i64 = 0x6362_7365;
/// The only version of its tables.
const VERSION: i64 = 1;
/// Others may not read it: it holds conversations.
const OTHERS: u32 = 0o077;

const TABLES: &str = "
CREATE TABLE session (
    key BLOB PRIMARY KEY CHECK (length(key) = 32), version INTEGER NOT NULL, used_ms INTEGER NOT NULL,
    turn INTEGER NOT NULL, size INTEGER NOT NULL, bytes BLOB NOT NULL CHECK (length(bytes) = size)
) STRICT;
CREATE UNIQUE INDEX session_turn ON session (turn, size);
CREATE INDEX session_used ON session (used_ms);
";

/// A file of sessions cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionFileError {
    /// Its place.
    #[error(transparent)]
    Place(#[from] StoreError),
    /// Others can read it.
    #[error(
        "{path} can be read by others (mode {mode:03o}) and holds conversations; take that right away: chmod go= {path}"
    )]
    LooseMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The database refused.
    #[error("cannot open the sessions {path}: {source}; move the file away, and people begin new conversations")]
    Database {
        /// The file.
        path: PathBuf,
        /// The database's answer.
        source: rusqlite::Error,
    },
    /// It is something else.
    #[error("{path} is no file of sessions, or a newer carboy's ({what}); move it away, or name another place")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was met.
        what: String,
    },
    /// No thread could be started.
    #[error("cannot start the thread of the sessions: {0}")]
    Thread(std::io::Error),
}

/// See the module.
pub struct SqliteSessions {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Load { key: SessionKey, now_ms: u64, answer: Giver<Result<Option<KeptSession>, SessionStoreError>> },
    Look { key: SessionKey, now_ms: u64, answer: Giver<Result<Option<KeptSession>, SessionStoreError>> },
    Save { key: SessionKey, version: u64, bytes: Vec<u8>, now_ms: u64, answer: Giver<Result<(), SessionStoreError>> },
    Remove { key: SessionKey, answer: Giver<Result<(), SessionStoreError>> },
    Sweep { now_ms: u64, answer: Giver<Result<Vec<SessionKey>, SessionStoreError>> },
}

impl SqliteSessions {
    /// Opens the file at `path`, making it (0600) and its directory (0700) where they are missing. Refuses links, files that
    /// others can read, and what is no file of sessions.
    pub fn open(path: &Path, limits: SessionLimits) -> Result<SqliteSessions, SessionFileError> {
        let keeper = Keeper::open(path, limits)?;
        let (jobs, waiting) = sync_channel(JOBS_MAX);
        let thread = std::thread::Builder::new().name("sessions".into()).spawn(move || keeper.work(&waiting));
        Ok(SqliteSessions { jobs: Some(jobs), thread: Some(thread.map_err(SessionFileError::Thread)?) })
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(Giver<Result<T, SessionStoreError>>) -> Job,
    ) -> Later<'_, Result<T, SessionStoreError>> {
        let (giver, ticket) = ticket(Err(unavailable("its thread has ended")));
        match self.jobs.as_ref().map(|jobs| jobs.try_send(job(giver))) {
            Some(Err(TrySendError::Full(_))) => {
                let why = format!("{JOBS_MAX} questions wait already, and the disk does not keep up");
                Box::pin(std::future::ready(Err(unavailable(&why))))
            }
            // What was not taken was answered when it went.
            Some(Ok(()) | Err(TrySendError::Disconnected(_))) | None => Box::pin(ticket),
        }
    }
}

impl Drop for SqliteSessions {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported, and every question answered.
            let _ = thread.join();
        }
    }
}

impl SessionStore for SqliteSessions {
    fn load(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        self.ask(|answer| Job::Load { key, now_ms, answer })
    }

    fn look(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        self.ask(|answer| Job::Look { key, now_ms, answer })
    }

    fn save(
        &self,
        key: SessionKey,
        version: u64,
        bytes: Vec<u8>,
        now_ms: u64,
    ) -> Later<'_, Result<(), SessionStoreError>> {
        self.ask(|answer| Job::Save { key, version, bytes, now_ms, answer })
    }

    fn remove(&self, key: SessionKey) -> Later<'_, Result<(), SessionStoreError>> {
        self.ask(|answer| Job::Remove { key, answer })
    }

    fn sweep(&self, now_ms: u64) -> Later<'_, Result<Vec<SessionKey>, SessionStoreError>> {
        self.ask(|answer| Job::Sweep { now_ms, answer })
    }
}

fn unavailable(why: &str) -> SessionStoreError {
    SessionStoreError::Unavailable(why.to_owned())
}

/// The thread's side.
struct Keeper {
    connection: Connection,
    directory: File,
    name: OsString,
    path: PathBuf,
    /// Device and inode of the file that was opened.
    file: (u64, u64),
    limits: SessionLimits,
    gone: Gone,
    /// As the last transaction left it, where that is known.
    stock: Option<Stock>,
}

/// Whether what is written has to survive the loss of power.
#[derive(Clone, Copy)]
enum Durable {
    Yes,
    No,
}

/// Why something did not come about.
enum Failed {
    Database(rusqlite::Error),
    Store(SessionStoreError),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Failed {
        Failed::Database(error)
    }
}

impl From<SessionStoreError> for Failed {
    fn from(error: SessionStoreError) -> Failed {
        Failed::Store(error)
    }
}

impl Keeper {
    fn open(path: &Path, limits: SessionLimits) -> Result<Keeper, SessionFileError> {
        let name = path.file_name().ok_or_else(|| StoreError::NotPlainFile { path: path.to_owned() })?.to_owned();
        let directory = open_directory(path)?;
        create(&directory, &name, path)?;
        let stat = plain(&directory, &name, path)?;
        let database = |source| SessionFileError::Database { path: path.to_owned(), source };
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        // Links on the way are the user's own affair; the file is opened by where they lead.
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        let real = parent.canonicalize().map_err(StoreError::io("look at the directory", parent))?.join(&name);
        let mut connection = Connection::open_with_flags(&real, flags).map_err(database)?;
        prepare(&connection).map_err(database)?;
        if let Some(what) = tables(&mut connection).map_err(database)? {
            return Err(SessionFileError::Foreign { path: path.to_owned(), what });
        }
        let gone = Gone::new();
        let file = (stat.st_dev, stat.st_ino);
        Ok(Keeper { connection, directory, name, path: path.to_owned(), file, limits, gone, stock: None })
    }

    fn work(mut self, waiting: &Receiver<Job>) {
        while let Ok(job) = waiting.recv() {
            match job {
                Job::Load { key, now_ms, answer } => answer.give(self.load(&key, now_ms)),
                Job::Look { key, now_ms, answer } => answer.give(self.look(&key, now_ms)),
                Job::Save { key, version, bytes, now_ms, answer } => {
                    answer.give(self.save(&key, version, &bytes, now_ms));
                }
                Job::Remove { key, answer } => {
                    answer.give(self.within(Durable::Yes, |all| Ok(all.delete(&key)?)));
                }
                Job::Sweep { now_ms, answer } => answer.give(self.sweep(now_ms)),
            }
        }
        // What was forgotten is in no file any more. Left out, the next opening does it.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn load(&mut self, key: &SessionKey, now_ms: u64) -> Result<Option<KeptSession>, SessionStoreError> {
        let limits = self.limits;
        let (kept, over) = self.within(Durable::No, |all| match all.find(key)? {
            None => Ok((None, false)),
            Some(found) if limits.is_over(found.used_ms, now_ms) => {
                all.delete(key)?;
                Ok((None, true))
            }
            Some(found) => {
                let bytes = all.touch(key, now_ms)?;
                Ok((Some(KeptSession { bytes, version: found.version }), false))
            }
        })?;
        if over {
            self.gone.add(*key);
        }
        Ok(kept)
    }

    fn look(&mut self, key: &SessionKey, now_ms: u64) -> Result<Option<KeptSession>, SessionStoreError> {
        let limits = self.limits;
        self.within(Durable::No, |all| match all.find(key)?.filter(|found| !limits.is_over(found.used_ms, now_ms)) {
            None => Ok(None),
            Some(found) => Ok(Some(KeptSession { bytes: all.read(key)?, version: found.version })),
        })
    }

    fn save(&mut self, key: &SessionKey, version: u64, bytes: &[u8], now_ms: u64) -> Result<(), SessionStoreError> {
        self.limits.fits(bytes.len())?;
        let limits = self.limits;
        let went = self.within(Durable::Yes, |all| {
            let live = all.find(key)?.filter(|found| !limits.is_over(found.used_ms, now_ms));
            let version = next_version(live.map(|found| found.version), version)?;
            all.delete(key)?;
            let went = all.make_room(bytes.len() as u64, &limits)?;
            all.put(key, version, bytes, now_ms)?;
            Ok(went)
        })?;
        for key in went {
            self.gone.add(key);
        }
        self.gone.came_back(key);
        Ok(())
    }

    fn sweep(&mut self, now_ms: u64) -> Result<Vec<SessionKey>, SessionStoreError> {
        let limits = self.limits;
        let went = self.within(Durable::No, |all| {
            let mut went = all.over(now_ms, &limits)?;
            went.extend(
                all.make_room(0, &SessionLimits { sessions_max: limits.sessions_max.saturating_add(1), ..limits })?,
            );
            Ok(went)
        })?;
        for key in went {
            self.gone.add(key);
        }
        let rest = format!("PRAGMA incremental_vacuum({VACUUM_PAGES}); PRAGMA wal_checkpoint(TRUNCATE);");
        // Others may read just now: then a later sweep gives the room back.
        let _ = self.connection.execute_batch(&rest);
        Ok(self.gone.take())
    }

    /// In one transaction; whatever fails leaves nothing behind.
    fn within<T>(
        &mut self,
        durable: Durable,
        work: impl FnOnce(&All<'_>) -> Result<T, Failed>,
    ) -> Result<T, SessionStoreError> {
        self.stands()?;
        let path = self.path.display().to_string();
        let done = (|| {
            self.connection.execute_batch(match durable {
                Durable::Yes => "PRAGMA synchronous = FULL",
                Durable::No => "PRAGMA synchronous = NORMAL",
            })?;
            let known = self.stock.take();
            let all = All::begin(self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?, known)?;
            let done = work(&all)?;
            self.stock = all.commit()?;
            Ok(done)
        })();
        done.map_err(|failed| match failed {
            Failed::Store(error) => error,
            Failed::Database(error) => SessionStoreError::Unavailable(format!("{path}: {error}{}", next_step(&error))),
        })
    }

    /// The name still stands for the file that is open: else what is written is read by nobody.
    fn stands(&self) -> Result<(), SessionStoreError> {
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.file => Ok(()),
            Ok(_) | Err(_) => {
                let why = format!("{} was removed or replaced while it was in use; start anew", self.path.display());
                Err(SessionStoreError::Unavailable(why))
            }
        }
    }
}

fn next_step(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "; another program holds it, find it with `fuser`",
        Some(ErrorCode::DiskFull) => "; make room on its disk",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "; move it away and start anew",
        _ => "",
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_millis(BUSY_MS))?;
    // Only on an empty file does the first one do something; what is forgotten is overwritten.
    connection.execute_batch(&format!(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF;
         PRAGMA journal_size_limit = {LOG_BYTES_MAX};"
    ))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
}

/// Makes the tables in an empty file; what a file is that is neither empty nor ours.
fn tables(connection: &mut Connection) -> rusqlite::Result<Option<String>> {
    let all = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = |what: &str| all.query_row(what, [], |row| row.get::<_, i64>(0));
    let (id, version) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
    let objects = number("SELECT count(*) FROM sqlite_schema")?;
    if objects == 0 && id == 0 {
        all.execute_batch(TABLES)?;
        all.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"))?;
        all.commit()?;
        return Ok(None);
    }
    Ok(match (id, version) {
        (APPLICATION_ID, VERSION) => None,
        (APPLICATION_ID, other) => Some(format!("schema {other}, this one knows {VERSION}")),
        (_, _) => Some("it has other tables".into()),
    })
}

fn create(directory: &File, name: &OsString, path: &Path) -> Result<(), StoreError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat(directory, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(StoreError::sys("create", path)(error)),
    }
}

/// A plain file with one name, ours, that nobody else can read.
fn plain(directory: &File, name: &OsString, path: &Path) -> Result<Stat, SessionFileError> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(StoreError::sys("look at", path))?;
    let user = rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
        return Err(StoreError::NotPlainFile { path: path.to_owned() }.into());
    }
    if stat.st_uid != user {
        return Err(StoreError::ForeignOwner { path: path.to_owned(), owner: stat.st_uid, user }.into());
    }
    let mode = stat.st_mode & 0o777;
    if mode & OTHERS != 0 {
        return Err(SessionFileError::LooseMode { path: path.to_owned(), mode });
    }
    Ok(stat)
}
