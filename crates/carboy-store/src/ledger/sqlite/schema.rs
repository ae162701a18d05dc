//! The tables, and the steps from each version to the next.
//!
//! *Must never* change a step that was released: a file of that version has to be read for ever.

use rusqlite::{Connection, TransactionBehavior};

/// The newest version that this program knows.
pub(super) const VERSION: u64 = 2;

/// Step `n` leads from version `n` to `n + 1`. Each is carried out once, in the transaction that writes its version.
const STEPS: [&str; VERSION as usize] = [ROWS, ROLLUPS];

/// Version 1: what happened. Amounts are thousandths of a token; names of reservations are 16 bytes.
const ROWS: &str = "
CREATE TABLE owner (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL, bottle TEXT NOT NULL, agent TEXT, pid INTEGER NOT NULL,
    start_time INTEGER NOT NULL, boot_id TEXT NOT NULL, at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE chain (id INTEGER PRIMARY KEY, scopes TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE chain_scope (
    chain INTEGER NOT NULL, scope TEXT NOT NULL, PRIMARY KEY (chain, scope)
) STRICT, WITHOUT ROWID;
CREATE TABLE dispatched (
    id BLOB PRIMARY KEY, owner INTEGER NOT NULL, meter TEXT NOT NULL, model TEXT, chain INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, worst TEXT NOT NULL, hold_weighted INTEGER NOT NULL, hold_raw INTEGER NOT NULL,
    output INTEGER, held INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE spend (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, owner INTEGER NOT NULL, run TEXT, bottle TEXT, agent TEXT,
    meter TEXT NOT NULL, model TEXT, chain INTEGER NOT NULL, at_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL,
    input INTEGER NOT NULL, cache_write INTEGER NOT NULL, cache_read INTEGER NOT NULL, output INTEGER NOT NULL,
    weighted INTEGER NOT NULL, raw INTEGER NOT NULL, over_weighted INTEGER NOT NULL, over_raw INTEGER NOT NULL,
    estimated INTEGER NOT NULL
) STRICT;
CREATE INDEX spend_at ON spend (at_ms);
CREATE TABLE cap (
    scope TEXT NOT NULL, meter TEXT NOT NULL, kind TEXT NOT NULL, amount INTEGER NOT NULL, count TEXT,
    time_window TEXT, at_ms INTEGER NOT NULL, PRIMARY KEY (scope, meter, kind)
) STRICT, WITHOUT ROWID;
CREATE TABLE top_up (
    number INTEGER PRIMARY KEY, scope TEXT NOT NULL, meter TEXT NOT NULL, kind TEXT NOT NULL, amount INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE warned (
    scope TEXT NOT NULL, meter TEXT NOT NULL, kind TEXT NOT NULL, cap INTEGER NOT NULL, percent INTEGER NOT NULL,
    since_ms INTEGER NOT NULL, PRIMARY KEY (scope, meter, kind, cap, percent, since_ms)
) STRICT, WITHOUT ROWID;
CREATE TABLE enforcement (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, event TEXT NOT NULL
) STRICT;
CREATE TABLE projection (one INTEGER PRIMARY KEY CHECK (one = 1), up_to INTEGER NOT NULL) STRICT;
INSERT INTO projection VALUES (1, 0);
";

/// Version 2: sums by scope, meter and minute, so that a start does not read every row. They are made of the rows.
const ROLLUPS: &str = "
CREATE TABLE rollup (
    scope TEXT NOT NULL, meter TEXT NOT NULL, minute INTEGER NOT NULL, requests INTEGER NOT NULL,
    input INTEGER NOT NULL, cache_write INTEGER NOT NULL, cache_read INTEGER NOT NULL, output INTEGER NOT NULL,
    weighted INTEGER NOT NULL, raw INTEGER NOT NULL, est_weighted INTEGER NOT NULL, est_raw INTEGER NOT NULL,
    PRIMARY KEY (scope, meter, minute)
) STRICT, WITHOUT ROWID;
INSERT INTO rollup
SELECT c.scope, s.meter, s.at_ms / 60000, count(*), sum(s.input), sum(s.cache_write), sum(s.cache_read), sum(s.output),
    sum(s.weighted), sum(s.raw), sum(s.weighted * s.estimated), sum(s.raw * s.estimated)
FROM spend s JOIN chain_scope c ON c.chain = s.chain GROUP BY 1, 2, 3;
";

/// What a file is.
pub(super) enum Found {
    /// Of the newest version, or brought to it.
    Ready,
    /// Of a version that is not known.
    Newer(u64),
    /// Another program's.
    Foreign,
}

/// Brings a database to the newest version; one that has it is left alone.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<Found> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let count = |name: &str| transaction.query_row(name, [], |row| row.get::<_, i64>(0));
    let version = match count("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_version'")? {
        0 if count("SELECT count(*) FROM sqlite_schema")? > 0 => return Ok(Found::Foreign),
        0 => {
            transaction.execute_batch("CREATE TABLE schema_version (version INTEGER NOT NULL) STRICT")?;
            transaction.execute("INSERT INTO schema_version VALUES (0)", [])?;
            0
        }
        _there => count("SELECT max(version) FROM schema_version")?,
    };
    let Ok(version) = u64::try_from(version) else { return Ok(Found::Foreign) };
    if version > VERSION {
        return Ok(Found::Newer(version));
    }
    if version < VERSION {
        for step in STEPS.iter().skip(usize::try_from(version).unwrap_or(STEPS.len())) {
            transaction.execute_batch(step)?;
        }
        transaction.execute("UPDATE schema_version SET version = ?1", [VERSION as i64])?;
    }
    transaction.commit()?;
    Ok(Found::Ready)
}
