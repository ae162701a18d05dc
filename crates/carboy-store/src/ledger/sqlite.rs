//! The ledger in SQLite: one file, one writer, every commit on the disk before it is acknowledged.
//!
//! *Must never* be the database of two processes, lie where locks do not hold, or go on with a file that is no longer the
//! one that was opened.

mod place;
mod read;
mod schema;
mod text;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use carboy_core::budget::ReservationId;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use self::place::Place;
use self::schema::Found;
use self::text::Damaged;
use self::write::{Chains, Failed, int};
use super::port::{
    Difference, EVENTS_MAX, LedgerReader, LedgerStore, Loaded, NumberedEvent, USAGE_ROWS_MAX, UsageQuery, UsageRow,
    Write,
};
use crate::StoreError;

/// The oldest SQLite that is used: before it a reset of the write-ahead log could damage the database.
const SQLITE_MIN: i32 = 3_051_003;
/// Longest wait for a lock that another program holds on the database, in milliseconds.
const BUSY_MS: u64 = 1_000;
/// The write-ahead log is cut back to this size, in bytes, when it was longer; while it is, the operator is told.
const LOG_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// Pages in the write-ahead log, as they are estimated, after which they are taken over into the database: in a moment when
/// nobody waits. Seldom, because whoever asks meanwhile does wait.
const LOG_PAGES_REST: usize = 4_000;
/// Pages after which that is done in the middle of a commit, where the estimate was wrong.
const LOG_PAGES_MAX: i64 = 8_000;
/// Bytes of a page, at least.
const PAGE_BYTES: i64 = 4_096;
/// Pages of one commit beside those of its writes: the roots of the tables, and the sums.
const COMMIT_PAGES: usize = 4;
/// Statements that are kept prepared.
const STATEMENTS_MAX: usize = 64;

/// A ledger in SQLite.
pub struct SqliteStore {
    connection: Connection,
    place: Place,
    chains: Chains,
    /// What the write-ahead log is estimated to hold, in pages.
    log_pages: usize,
}

impl SqliteStore {
    /// Opens the ledger at `path`, creating it (0600) and its directory (0700) where missing, and brings it to this
    /// program's schema. Refuses links, files that others can write, network file systems, a ledger that another process
    /// keeps, one that a newer carboy wrote, and an SQLite that could damage it.
    pub fn open(path: &Path) -> Result<SqliteStore, StoreError> {
        check_version(rusqlite::version_number())?;
        let mut place = Place::take(path)?;
        let mut connection = connect(place.path())?;
        match schema::migrate(&mut connection).map_err(refused("bring up to date", place.path()))? {
            Found::Ready => {}
            Found::Newer(found) => {
                return Err(StoreError::NewerSchema { path: place.path().to_owned(), found, known: schema::VERSION });
            }
            Found::Foreign => {
                let what = "it has other tables".to_owned();
                return Err(StoreError::NotALedger { path: place.path().to_owned(), what });
            }
        }
        place.check()?;
        // What a process that was killed left is taken over in the first quiet moment.
        let log_pages = usize::try_from(place.log_bytes() / PAGE_BYTES).unwrap_or(0);
        Ok(SqliteStore { connection, place, chains: Chains::default(), log_pages })
    }

    /// The view that questions of a batch had.
    fn end_looking(&self) {
        if !self.connection.is_autocommit() {
            // Left out, the next transaction fails, and the connection is made anew.
            let _ = run(&self.connection, "ROLLBACK");
        }
    }

    fn damaged(&self) -> impl FnOnce(Damaged) -> StoreError {
        damaged(self.place.path())
    }

    fn transact(
        &mut self,
        work: impl FnOnce(&Connection, &mut Chains) -> Result<(), Failed>,
    ) -> Result<(), StoreError> {
        self.place.check()?;
        self.end_looking();
        let path = self.place.path().to_owned();
        let written = (|| {
            run(&self.connection, "BEGIN IMMEDIATE")?;
            work(&self.connection, &mut self.chains)?;
            run(&self.connection, "COMMIT")?;
            Ok(())
        })();
        if let Err(failed) = written {
            if !self.connection.is_autocommit() {
                // Left out, the next transaction fails: nothing is written that does not belong together.
                let _ = run(&self.connection, "ROLLBACK");
            }
            // What was numbered in it is not in the tables.
            self.chains.forget();
            return Err(match failed {
                Failed::Database(error) => refused("write", &path)(error),
                Failed::Text(error) => StoreError::NotALedger { path, what: error.to_string() },
            });
        }
        // The file could have been taken away meanwhile: then nobody will ever read what was written.
        self.place.check()
    }
}

impl LedgerStore for SqliteStore {
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        self.log_pages = self.log_pages.saturating_add(COMMIT_PAGES + writes.len());
        self.transact(|connection, chains| write::write_all(connection, chains, writes))
    }

    fn rest(&mut self) {
        self.end_looking();
        if self.log_pages >= LOG_PAGES_REST && self.place.check().is_ok() {
            self.log_pages = 0;
            // Left out, the log grows until it is done in a commit; that it grows too long is told.
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.place.check()?;
        self.end_looking();
        // One view of all tables.
        let path = self.place.path().to_owned();
        let transaction = self.connection.transaction().map_err(refused("read", &path))?;
        read::load(&transaction).map_err(damaged(&path))
    }

    fn ended(&mut self, id: ReservationId) -> Result<bool, StoreError> {
        // One view for all questions of a batch: to begin and end one takes longer than the question. Nobody else writes.
        if self.connection.is_autocommit() {
            run(&self.connection, "BEGIN").map_err(refused("read", self.place.path()))?;
        }
        read::ended(&self.connection, id).map_err(self.damaged())
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        self.place.check()?;
        self.chains.forget();
        let connection = connect(self.place.path())?;
        // The old connection goes before the new one writes: what it may have left undone goes with it.
        self.connection = connection;
        self.transact(|connection, _| {
            connection.execute("UPDATE schema_version SET version = version", [])?;
            Ok(())
        })
    }

    fn unprojected_events(&mut self, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        read::unprojected(&self.connection, limit.min(EVENTS_MAX)).map_err(self.damaged())
    }

    fn mark_projected(&mut self, up_to: u64) -> Result<(), StoreError> {
        self.transact(|connection, _| {
            connection.execute("UPDATE projection SET up_to = max(up_to, ?1)", [int(up_to)])?;
            Ok(())
        })
    }

    fn alarm(&self) -> Option<String> {
        let bytes = self.place.log_bytes();
        (bytes > LOG_BYTES_MAX).then(|| {
            let path = self.place.path().display();
            format!(
                "the write-ahead log of {path} has {bytes} bytes, more than {LOG_BYTES_MAX}: another program has read from it \
                 for too long; find it with `fuser {path}`"
            )
        })
    }

    fn reader(&self) -> Arc<dyn LedgerReader> {
        Arc::new(Reader(self.place.path().to_owned()))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.end_looking();
        // What is in the write-ahead log moves into the file, so that a copy of the file is whole. Left out, the next
        // opening does it: nothing depends on it.
        if self.place.check().is_ok() {
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }
}

/// Reads with a connection of its own, for as long as one question takes: a longer reader would keep the write-ahead log
/// from being taken over.
struct Reader(PathBuf);

impl Reader {
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Damaged>) -> Result<T, StoreError> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&self.0, flags).and_then(|connection| {
            connection.busy_timeout(Duration::from_millis(BUSY_MS))?;
            Ok(connection)
        });
        read(&opened.map_err(refused("open", &self.0))?).map_err(damaged(&self.0))
    }
}

impl LedgerReader for Reader {
    fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        let rows = self.read(|connection| read::usage_rows(connection, query))?;
        let asked = rows.len();
        if asked > USAGE_ROWS_MAX { Err(StoreError::TooMany { asked, max: USAGE_ROWS_MAX }) } else { Ok(rows) }
    }

    fn differences(&self) -> Result<Vec<Difference>, StoreError> {
        self.read(read::differences)
    }
}

/// A statement without values, prepared once.
fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

fn check_version(number: i32) -> Result<(), StoreError> {
    if number >= SQLITE_MIN {
        return Ok(());
    }
    let found = format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000);
    Err(StoreError::OldSqlite { found })
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(refused("open", path))?;
    let prepare = || {
        connection.busy_timeout(Duration::from_millis(BUSY_MS))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        // A connection that ends neither moves nor deletes the log: by then its name may stand for another's.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        // NORMAL leaves acknowledged commits in the page cache; pages are read, not mapped, so that a file that is cut
        // off is an error and not a signal.
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON;")?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES_MAX)?;
        Ok(mode)
    };
    let mode = prepare().map_err(refused("open", path))?;
    if mode != "wal" {
        let what = format!("it keeps a journal of the kind {mode:?} and cannot change to a write-ahead log");
        return Err(StoreError::NotALedger { path: path.to_owned(), what });
    }
    Ok(connection)
}

fn damaged(path: &Path) -> impl FnOnce(Damaged) -> StoreError {
    let path = path.to_owned();
    |Damaged(what)| StoreError::NotALedger { path, what }
}

/// For `map_err` after a call of the database.
fn refused(what: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    move |source| {
        let next = match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                return StoreError::Damaged { path, source };
            }
            Some(ErrorCode::DiskFull) => "free some space on its file system: it goes on by itself then",
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "another program has locked it: find it with `fuser` and end it, it goes on by itself then"
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                "make the file and its directory writable by their owner"
            }
            Some(ErrorCode::SystemIoFailure) => {
                "look at its disk (`dmesg`): is it full, read-only or failing? It goes on by itself then"
            }
            Some(_) | None => "look at the file and its directory; it is tried again",
        };
        StoreError::Database { what, path, source, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlite_that_can_damage_a_ledger_is_refused() {
        assert!(check_version(rusqlite::version_number()).is_ok());
        let refused = check_version(3_051_002).unwrap_err().to_string();
        assert!(refused.starts_with("SQLite 3.51.2 can damage a ledger"), "{refused}");
    }
}
