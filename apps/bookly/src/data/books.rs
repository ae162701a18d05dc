//! The records as a file: SQLite, this user's alone, laid out and filled once.
//!
//! *Must never* run other statements for an order that is there than for one that is not, or commit a return without the
//! constraints that make it the only one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::civil::Date;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use sha2::{Digest, Sha256};

use super::{BOOKS, CUSTOMERS, Format, LINES_MAX, Line, ORDERS, Order, OrderId, POLICIES, Sealed, Status};

/// How long a statement waits for another process's write.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// The layout of the file; another one is not touched.
const SCHEMA_VERSION: i64 = 1;
/// Tries for a return number that is free.
const RMA_TRIES_MAX: u8 = 8;

/// A return as it is asked for; what may be returned was decided by whoever made this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewReturn<'a> {
    /// Of which order.
    pub order: &'a OrderId,
    /// Which of its lines.
    pub lines: &'a BTreeSet<u8>,
    /// Why.
    pub reason: &'static str,
    /// The same for the same confirmed request, however often it is tried.
    pub key: &'a str,
    /// The day.
    pub on: Date,
}

/// A return that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Return {
    /// Its number.
    pub rma: String,
    /// Of which order.
    pub order: OrderId,
    /// Which of its lines, and what they are.
    pub lines: BTreeMap<u8, String>,
    /// Why.
    pub reason: String,
    /// When.
    pub started_on: Date,
}

/// The records cannot be used, or do not take a return.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file could not be made or looked at.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The file is somebody else's, or others can read it.
    #[error("{} holds customers' addresses and is not this user's alone (mode {mode:o}); chown and chmod 600 it", path.display())]
    Loose {
        /// Which.
        path: PathBuf,
        /// Its rights.
        mode: u32,
    },
    /// The file has another layout.
    #[error("{} has layout {found}, this version knows {SCHEMA_VERSION}; move it away to start anew", path.display())]
    Layout {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: i64,
    },
    /// The database says no.
    #[error("the database of books cannot be used: {0}")]
    Database(#[from] rusqlite::Error),
    /// A record is not what this program writes.
    #[error("a record of the database cannot be read: {0}")]
    Record(&'static str),
    /// One of these books is on its way back already.
    #[error("a return of one of these books was started before")]
    ReturnedBefore,
    /// The key was used for another return.
    #[error("this request was used for another return")]
    KeyReused,
    /// No return number was free.
    #[error("no return number was free after {RMA_TRIES_MAX} tries")]
    NoNumber,
}

/// The database, one file.
pub struct BookStore {
    database: Mutex<Connection>,
}

impl fmt::Debug for BookStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BookStore")
    }
}

impl BookStore {
    /// Opens the file, making it (0600) and its directory (0700) where they are missing, and lays the demonstration's orders
    /// so many days before `today`; returns stay as they are.
    pub fn open(path: &Path, today: Date) -> Result<BookStore, DataError> {
        make(path)?;
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut database = Connection::open_with_flags(path, flags)?;
        database.busy_timeout(BUSY_WAIT)?;
        database.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;")?;
        let lay = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        match lay.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
            0 => {
                lay.execute_batch(SCHEMA)?;
                lay.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            }
            SCHEMA_VERSION => {}
            found => return Err(DataError::Layout { path: path.to_owned(), found }),
        }
        seed(&lay, today)?;
        lay.commit()?;
        Ok(BookStore { database: Mutex::new(database) })
    }

    /// A panic elsewhere leaves no half of a transaction: it was rolled back when it was dropped.
    pub(crate) fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for an order. The statements are the same whether there is one or not.
    pub fn order(&self, id: &OrderId) -> Result<Sealed, DataError> {
        let database = self.database();
        let head = database
            .prepare_cached(
                "SELECT c.email, o.status, o.placed_on, o.delivered_on, o.expected_on
                 FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = ?1",
            )?
            .query_row([id.as_str()], head)
            .optional()?;
        let mut lines = database.prepare_cached(
            "SELECT i.line, b.title, b.author, b.format, i.quantity, b.price_cents
             FROM items i JOIN books b ON b.sku = i.sku WHERE i.order_id = ?1 ORDER BY i.line LIMIT ?2",
        )?;
        let lines = lines.query_map(params![id.as_str(), LINES_MAX], line)?.collect::<Result<Vec<_>, _>>()?;
        let mut returned = database.prepare_cached("SELECT line FROM return_lines WHERE order_id = ?1 LIMIT ?2")?;
        let returned =
            returned.query_map(params![id.as_str(), LINES_MAX], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let found = head.map(|Head { email, status, placed_on, delivered_on, expected_on }| {
            (email, Order { id: id.clone(), status, placed_on, delivered_on, expected_on, lines, returned })
        });
        Ok(Sealed { found })
    }

    /// The shop's words on a topic, letter by letter.
    pub fn policy(&self, topic: &str) -> Result<Option<String>, DataError> {
        let database = self.database();
        let mut words = database.prepare_cached("SELECT words FROM policies WHERE topic = ?1")?;
        Ok(words.query_row([topic], |row| row.get(0)).optional()?)
    }

    /// Starts a return, once: the same key gives the same return again, and a book that is on its way back is refused by the
    /// database itself.
    pub(crate) fn start_return(&self, new: &NewReturn<'_>) -> Result<Return, DataError> {
        let mut database = self.database();
        let write = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(before) = by_key(&write, new.key)? {
            let same = before.order == *new.order && before.lines.keys().eq(new.lines);
            return if same { Ok(before) } else { Err(DataError::KeyReused) };
        }
        let rma = free_number(&write, new.key)?;
        let day = new.on.to_string();
        write
            .execute(
                "INSERT INTO returns (rma, order_id, lines, reason, started_on, key) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![rma, new.order.as_str(), written(new.lines), new.reason, day, new.key],
            )
            .map_err(taken)?;
        for line in new.lines {
            let row = params![new.order.as_str(), line, rma];
            write.execute("INSERT INTO return_lines (order_id, line, rma) VALUES (?1, ?2, ?3)", row).map_err(taken)?;
        }
        let started = by_key(&write, new.key)?.ok_or(DataError::Record("the return that was just written"))?;
        write.commit()?;
        Ok(started)
    }

    /// The return that a key started: what is asked when a confirmed request comes again, and after a crash between the write and its record in the log.
    pub fn return_by_key(&self, key: &str) -> Result<Option<Return>, DataError> {
        let mut database = self.database();
        by_key(&database.transaction()?, key)
    }
}

/// Makes the file for this user alone; one that others can read is not used.
fn make(path: &Path) -> Result<(), DataError> {
    let failed = |what| move |error| DataError::File { what, path: path.to_owned(), error };
    if let Some(directory) = path.parent().filter(|directory| *directory != Path::new("")) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed("make the directory of"))?;
    }
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
    let meta = options.open(path).and_then(|file| file.metadata()).map_err(failed("open"))?;
    let own = meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0;
    own.then_some(()).ok_or(DataError::Loose { path: path.to_owned(), mode: meta.mode() & 0o777 })
}

struct Head {
    email: String,
    status: Status,
    placed_on: Date,
    delivered_on: Option<Date>,
    expected_on: Option<Date>,
}

fn head(row: &Row<'_>) -> rusqlite::Result<Head> {
    let date =
        |at: usize| row.get::<_, Option<String>>(at)?.map(|text| parsed(at, text.parse::<Date>().ok())).transpose();
    let status: String = row.get(1)?;
    Ok(Head {
        email: row.get(0)?,
        status: parsed(1, Status::ALL.into_iter().find(|known| known.as_str() == status))?,
        placed_on: parsed(2, date(2)?)?,
        delivered_on: date(3)?,
        expected_on: date(4)?,
    })
}

fn line(row: &Row<'_>) -> rusqlite::Result<Line> {
    let format: String = row.get(3)?;
    Ok(Line {
        number: row.get(0)?,
        title: row.get(1)?,
        author: row.get(2)?,
        format: parsed(3, Format::ALL.into_iter().find(|known| known.as_str() == format))?,
        quantity: row.get(4)?,
        price_cents: row.get(5)?,
    })
}

/// A value that stands in the database and means nothing is an error, never a default.
fn parsed<T>(column: usize, value: Option<T>) -> rusqlite::Result<T> {
    let text = rusqlite::types::Type::Text;
    value.ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(column, text, "not one of the known values".into()))
}

fn by_key(database: &Transaction<'_>, key: &str) -> Result<Option<Return>, DataError> {
    let mut found = database.prepare_cached("SELECT rma, order_id, reason, started_on FROM returns WHERE key = ?1")?;
    let texts = |row: &Row<'_>| Ok::<[String; 4], _>([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]);
    let Some([rma, order, reason, day]) = found.query_row([key], texts).optional()? else { return Ok(None) };
    let mut titles = database.prepare_cached(
        "SELECT r.line, b.title FROM return_lines r JOIN items i ON i.order_id = r.order_id AND i.line = r.line
         JOIN books b ON b.sku = i.sku WHERE r.rma = ?1 LIMIT ?2",
    )?;
    let lines = titles.query_map(params![rma, LINES_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let lines = lines.collect::<Result<_, _>>()?;
    Ok(Some(Return {
        order: OrderId::parse(&order).ok_or(DataError::Record("the order of a return"))?,
        lines,
        reason,
        started_on: day.parse().map_err(|_| DataError::Record("the day of a return"))?,
        rma,
    }))
}

fn written(lines: &BTreeSet<u8>) -> String {
    lines.iter().map(u8::to_string).collect::<Vec<_>>().join(",")
}

fn taken(error: rusqlite::Error) -> DataError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => DataError::ReturnedBefore,
        Some(_) | None => DataError::Database(error),
    }
}

/// A number made of the key: letters only, so that no filter takes it for a telephone's, and it says nothing about how many
/// returns there were.
fn free_number(database: &Transaction<'_>, key: &str) -> Result<String, DataError> {
    const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
    let mut known = database.prepare_cached("SELECT 1 FROM returns WHERE rma = ?1")?;
    for attempt in 0..RMA_TRIES_MAX {
        let digest = Sha256::new().chain_update(b"bookly rma").chain_update([attempt]).chain_update(key).finalize();
        let letters = digest.iter().take(8).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
        let rma: String = "RMA-".chars().chain(letters).collect();
        if !known.exists([&rma])? {
            return Ok(rma);
        }
    }
    Err(DataError::NoNumber)
}

const SCHEMA: &str = "
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE books (
  sku TEXT PRIMARY KEY, title TEXT NOT NULL, author TEXT NOT NULL, format TEXT NOT NULL, price_cents INTEGER NOT NULL
) STRICT;
CREATE TABLE orders (
  id TEXT PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers, status TEXT NOT NULL,
  placed_on TEXT NOT NULL, delivered_on TEXT, expected_on TEXT
) STRICT;
CREATE TABLE items (
  order_id TEXT NOT NULL REFERENCES orders, line INTEGER NOT NULL CHECK (line BETWEEN 1 AND 20),
  sku TEXT NOT NULL REFERENCES books, quantity INTEGER NOT NULL CHECK (quantity > 0), PRIMARY KEY (order_id, line)
) STRICT;
CREATE TABLE policies (topic TEXT PRIMARY KEY, words TEXT NOT NULL) STRICT;
CREATE TABLE returns (
  rma TEXT PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders, lines TEXT NOT NULL, reason TEXT NOT NULL,
  started_on TEXT NOT NULL, key TEXT NOT NULL UNIQUE, UNIQUE (order_id, lines)
) STRICT;
CREATE TABLE return_lines (
  order_id TEXT NOT NULL, line INTEGER NOT NULL, rma TEXT NOT NULL REFERENCES returns,
  PRIMARY KEY (order_id, line), FOREIGN KEY (order_id, line) REFERENCES items
) STRICT;
";

/// Writes what the demonstration starts from. Doing it again changes nothing but the days, which follow the calendar.
fn seed(database: &Transaction<'_>, today: Date) -> Result<(), DataError> {
    for row in CUSTOMERS {
        database.execute("INSERT OR IGNORE INTO customers (id, name, email) VALUES (?1, ?2, ?3)", *row)?;
    }
    for (sku, title, author, format, cents) in BOOKS {
        let row = params![sku, title, author, format.as_str(), cents];
        database.execute("INSERT OR IGNORE INTO books VALUES (?1, ?2, ?3, ?4, ?5)", row)?;
    }
    for (topic, words) in POLICIES {
        let upsert = "INSERT INTO policies VALUES (?1, ?2) ON CONFLICT (topic) DO UPDATE SET words = excluded.words";
        database.execute(upsert, [topic, words])?;
    }
    let day = |days: i32| today.saturating_sub(jiff::Span::new().days(days)).to_string();
    for order in ORDERS {
        let (delivered, expected) = (order.delivered.map(day), order.expected.map(|days| day(-days)));
        let row = params![order.id, order.customer, order.status.as_str(), day(order.placed), delivered, expected];
        database.execute(
            "INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE SET
             placed_on = excluded.placed_on, delivered_on = excluded.delivered_on, expected_on = excluded.expected_on",
            row,
        )?;
        for (line, (sku, quantity)) in (1u8..).zip(order.items) {
            let row = params![order.id, line, sku, quantity];
            database.execute("INSERT OR IGNORE INTO items VALUES (?1, ?2, ?3, ?4)", row)?;
        }
    }
    Ok(())
}
