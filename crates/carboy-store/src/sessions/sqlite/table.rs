//! The table of sessions, within one transaction.
//!
//! *Must never* take its own count for true once another process wrote.

use std::cell::Cell;

use carboy_core::ports::SessionKey;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::super::SessionLimits;

/// What is in the file all together. To count it anew takes the longer the more sessions there are.
#[derive(Clone, Copy)]
pub(super) struct Stock {
    /// Another one means that another process wrote since, and nothing of this is true any more.
    data_version: i64,
    sessions: u64,
    bytes: u64,
}

/// What a session's row says beside its octets.
pub(super) struct Found {
    pub(super) version: u64,
    pub(super) used_ms: u64,
}

/// The table, within one transaction.
pub(super) struct All<'a> {
    transaction: Transaction<'a>,
    data_version: i64,
    /// Counted when somebody asks for it.
    stock: Cell<Option<Stock>>,
}

impl<'a> All<'a> {
    /// `known` is what the last transaction of this connection left; it counts unless another one wrote since.
    pub(super) fn begin(transaction: Transaction<'a>, known: Option<Stock>) -> rusqlite::Result<All<'a>> {
        let data_version = transaction.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        let known = known.filter(|known| known.data_version == data_version);
        Ok(All { transaction, data_version, stock: Cell::new(known) })
    }

    /// Makes it true; what is in the file then, where that is known.
    pub(super) fn commit(self) -> rusqlite::Result<Option<Stock>> {
        let All { transaction, stock, data_version: _ } = self;
        transaction.commit()?;
        Ok(stock.get())
    }

    fn stock(&self) -> rusqlite::Result<Stock> {
        if let Some(known) = self.stock.get() {
            return Ok(known);
        }
        let mut count = self.transaction.prepare_cached("SELECT count(*), coalesce(sum(size), 0) FROM session")?;
        let (sessions, bytes) = count.query_row([], |row| Ok((natural(row, 0)?, natural(row, 1)?)))?;
        let stock = Stock { data_version: self.data_version, sessions, bytes };
        self.stock.set(Some(stock));
        Ok(stock)
    }

    /// One that is not there any more, of so many octets.
    fn went(&self, size: u64) {
        let less = |stock: Stock| Stock {
            sessions: stock.sessions.saturating_sub(1),
            bytes: stock.bytes.saturating_sub(size),
            ..stock
        };
        self.stock.set(self.stock.get().map(less));
    }

    fn came(&self, size: u64) {
        let more = |stock: Stock| Stock { sessions: stock.sessions + 1, bytes: stock.bytes + size, ..stock };
        self.stock.set(self.stock.get().map(more));
    }

    pub(super) fn find(&self, key: &SessionKey) -> rusqlite::Result<Option<Found>> {
        let mut statement = self.transaction.prepare_cached("SELECT version, used_ms FROM session WHERE key = ?1")?;
        statement
            .query_row([key.0], |row| Ok(Found { version: natural(row, 0)?, used_ms: natural(row, 1)? }))
            .optional()
    }

    pub(super) fn touch(&self, key: &SessionKey, now_ms: u64) -> rusqlite::Result<Vec<u8>> {
        let mut statement = self
            .transaction
            .prepare_cached("UPDATE session SET used_ms = ?2, turn = ?3 WHERE key = ?1 RETURNING bytes")?;
        statement.query_row(params![key.0, int(now_ms), self.next_turn()?], |row| row.get(0))
    }

    pub(super) fn read(&self, key: &SessionKey) -> rusqlite::Result<Vec<u8>> {
        let mut statement = self.transaction.prepare_cached("SELECT bytes FROM session WHERE key = ?1")?;
        statement.query_row([key.0], |row| row.get(0))
    }

    pub(super) fn put(&self, key: &SessionKey, version: u64, bytes: &[u8], now_ms: u64) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare_cached(
            "INSERT INTO session (key, version, used_ms, turn, size, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let values = params![key.0, int(version), int(now_ms), self.next_turn()?, int(bytes.len() as u64), bytes];
        statement.execute(values)?;
        self.came(bytes.len() as u64);
        Ok(())
    }

    pub(super) fn delete(&self, key: &SessionKey) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare_cached("DELETE FROM session WHERE key = ?1 RETURNING size")?;
        let size = statement.query_row([key.0], |row| natural(row, 0)).optional()?;
        size.into_iter().for_each(|size| self.went(size));
        Ok(())
    }

    fn next_turn(&self) -> rusqlite::Result<i64> {
        self.transaction
            .prepare_cached("SELECT coalesce(max(turn), 0) + 1 FROM session")?
            .query_row([], |row| row.get(0))
    }

    /// Lets the least lately used go until one more of so many octets fits; those that went.
    pub(super) fn make_room(&self, bytes: u64, limits: &SessionLimits) -> rusqlite::Result<Vec<SessionKey>> {
        let mut went = Vec::new();
        loop {
            let stock = self.stock()?;
            let fits = stock.sessions < u64::from(limits.sessions_max) && stock.bytes + bytes <= limits.all_bytes_max;
            if stock.sessions == 0 || fits {
                return Ok(went);
            }
            let mut oldest = self.transaction.prepare_cached("SELECT key FROM session ORDER BY turn LIMIT 1")?;
            let key = SessionKey(oldest.query_row([], |row| row.get(0))?);
            self.delete(&key)?;
            went.push(key);
        }
    }

    /// Lets those go that were idle too long.
    pub(super) fn over(&self, now_ms: u64, limits: &SessionLimits) -> rusqlite::Result<Vec<SessionKey>> {
        let Some(before) = now_ms.checked_sub(u64::from(limits.idle_s) * 1_000) else { return Ok(Vec::new()) };
        let mut statement =
            self.transaction.prepare_cached("DELETE FROM session WHERE used_ms < ?1 RETURNING key, size")?;
        let went = statement.query_map([int(before)], |row| Ok((SessionKey(row.get(0)?), natural(row, 1)?)))?;
        let went: Vec<(SessionKey, u64)> = went.collect::<rusqlite::Result<_>>()?;
        Ok(went.into_iter().map(|(key, size)| (key, self.went(size)).0).collect())
    }
}

/// Milliseconds and versions are far below that.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn natural(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| number.max(0) as u64)
}
