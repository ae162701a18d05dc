//! One batch as statements of one transaction.
//!
//! *Must never* ask what is there: the book decided already, and a row that contradicts it fails the whole batch.

use std::collections::{BTreeMap, HashMap};

use carboy_core::budget::{Amount, Both, GRAIN_MS, Scope, Spent};
use rusqlite::{Connection, params};

use super::text::{event_text, kind_text};
use crate::ledger::port::{Mark, Total, Write};

/// Most chains whose numbers are remembered.
const CHAINS_MAX: usize = 4_096;

/// Numbers of chains that are known to be in the table. Forgotten when a batch fails.
#[derive(Default)]
pub(super) struct Chains(HashMap<Vec<Scope>, i64>);

impl Chains {
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    fn number(&mut self, connection: &Connection, chain: &[Scope]) -> Result<i64, Failed> {
        if let Some(number) = self.0.get(chain) {
            return Ok(*number);
        }
        let text = serde_json::to_string(chain)?;
        connection.prepare_cached("INSERT OR IGNORE INTO chain (scopes) VALUES (?1)")?.execute([&text])?;
        let number = connection
            .prepare_cached("SELECT id FROM chain WHERE scopes = ?1")?
            .query_row([&text], |row| row.get::<_, i64>(0))?;
        for scope in chain {
            connection
                .prepare_cached("INSERT OR IGNORE INTO chain_scope VALUES (?1, ?2)")?
                .execute(params![number, scope.to_string()])?;
        }
        if self.0.len() >= CHAINS_MAX {
            self.forget();
        }
        self.0.insert(chain.to_vec(), number);
        Ok(number)
    }
}

/// Why a batch is not written.
pub(super) enum Failed {
    /// The database says no.
    Database(rusqlite::Error),
    /// It cannot be put into words.
    Text(serde_json::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Failed {
        Failed::Database(error)
    }
}

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Failed {
        Failed::Text(error)
    }
}

/// As SQLite keeps numbers. Beyond its largest every cap is exhausted anyway.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn amount(amount: Amount) -> i64 {
    int(amount.as_milli())
}

type Minute = (String, String, u64);

/// Writes all of it.
pub(super) fn write_all(connection: &Connection, chains: &mut Chains, writes: &[Write]) -> Result<(), Failed> {
    let mut minutes = BTreeMap::<Minute, (Total, Both)>::new();
    for write in writes {
        match write {
            Write::Dispatched(_) | Write::Extended { .. } | Write::Withdrawn(_) => {
                write_hold(connection, chains, write)?
            }
            Write::Spent { spent, ended_ms } => {
                write_spent(connection, chains, spent, *ended_ms)?;
                for scope in &spent.chain {
                    let key = (scope.to_string(), spent.meter.as_str().to_owned(), spent.at_ms / GRAIN_MS);
                    let (total, charged) = minutes.entry(key).or_default();
                    (*total, *charged) = (total.and(spent), charged.or_most(spent.charged));
                }
            }
            Write::Owner { owner, at_ms } => {
                let sql = "INSERT OR REPLACE INTO owner VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
                connection.prepare_cached(sql)?.execute(params![
                    owner.id.cast_signed(),
                    owner.run,
                    owner.bottle,
                    owner.agent,
                    owner.pid,
                    owner.start_time.cast_signed(),
                    owner.boot_id,
                    int(*at_ms)
                ])?;
            }
            Write::OwnerEnded(id) => {
                connection.prepare_cached("DELETE FROM owner WHERE id = ?1")?.execute([id.cast_signed()])?;
            }
            Write::CapSet { .. } | Write::CapUnset(_) | Write::TopUp { .. } => write_edit(connection, write)?,
            Write::Marked(mark) => {
                write_mark(connection, "INSERT OR IGNORE INTO warned VALUES (?1, ?2, ?3, ?4, ?5, ?6)", mark)?
            }
            Write::Unmarked(mark) => {
                let sql = "DELETE FROM warned WHERE scope = ?1 AND meter = ?2 AND kind = ?3 AND cap = ?4 AND percent = ?5 \
                           AND since_ms = ?6";
                write_mark(connection, sql, mark)?;
            }
            Write::Event { at_ms, event } => {
                let sql = "INSERT INTO enforcement (at_ms, event) VALUES (?1, ?2)";
                connection.prepare_cached(sql)?.execute(params![int(*at_ms), event_text(event)?])?;
            }
        }
    }
    write_minutes(connection, &minutes)
}

fn write_hold(connection: &Connection, chains: &mut Chains, write: &Write) -> Result<(), Failed> {
    match write {
        Write::Dispatched(reservation) => {
            let chain = chains.number(connection, &reservation.chain)?;
            let sql = "INSERT INTO dispatched VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
            connection.prepare_cached(sql)?.execute(params![
                reservation.id.0.to_be_bytes(),
                reservation.owner.cast_signed(),
                reservation.meter.as_str(),
                reservation.model,
                chain,
                int(reservation.at_ms),
                serde_json::to_string(&reservation.worst)?,
                amount(reservation.hold.weighted),
                amount(reservation.hold.raw),
                reservation.granted.output.map(int),
                int(reservation.granted.held)
            ])?;
        }
        Write::Extended { id, hold, held } => {
            let sql = "UPDATE dispatched SET hold_weighted = ?2, hold_raw = ?3, held = ?4 WHERE id = ?1";
            let id = id.0.to_be_bytes();
            connection.prepare_cached(sql)?.execute(params![
                id,
                amount(hold.weighted),
                amount(hold.raw),
                int(*held)
            ])?;
        }
        Write::Withdrawn(id) => {
            connection.prepare_cached("DELETE FROM dispatched WHERE id = ?1")?.execute([id.0.to_be_bytes()])?;
        }
        Write::Owner { .. }
        | Write::OwnerEnded(_)
        | Write::Spent { .. }
        | Write::CapSet { .. }
        | Write::CapUnset(_)
        | Write::TopUp { .. }
        | Write::Marked(_)
        | Write::Unmarked(_)
        | Write::Event { .. } => {}
    }
    Ok(())
}

fn write_spent(connection: &Connection, chains: &mut Chains, spent: &Spent, ended_ms: u64) -> Result<(), Failed> {
    let id = spent.id.0.to_be_bytes();
    connection.prepare_cached("DELETE FROM dispatched WHERE id = ?1")?.execute([id])?;
    let chain = chains.number(connection, &spent.chain)?;
    let named = |wanted: fn(&Scope) -> Option<&str>| spent.chain.iter().find_map(wanted);
    let sql = "INSERT INTO spend VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, \
               ?18, ?19)";
    connection.prepare_cached(sql)?.execute(params![
        id,
        spent.owner.cast_signed(),
        named(run),
        named(bottle),
        named(agent),
        spent.meter.as_str(),
        spent.model,
        chain,
        int(spent.at_ms),
        int(ended_ms),
        int(spent.usage.input),
        int(spent.usage.cache_write),
        int(spent.usage.cache_read),
        int(spent.usage.output),
        amount(spent.charged.weighted),
        amount(spent.charged.raw),
        amount(spent.overrun.weighted),
        amount(spent.overrun.raw),
        spent.estimated
    ])?;
    Ok(())
}

fn run(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::Run(name) => Some(name),
        Scope::Agent(_) | Scope::Bottle(_) | Scope::Host => None,
    }
}

fn bottle(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::Bottle(name) => Some(name),
        Scope::Run(_) | Scope::Agent(_) | Scope::Host => None,
    }
}

fn agent(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::Agent(name) => Some(name),
        Scope::Run(_) | Scope::Bottle(_) | Scope::Host => None,
    }
}

/// The sums of a batch, one statement for each minute that it changes.
fn write_minutes(connection: &Connection, minutes: &BTreeMap<Minute, (Total, Both)>) -> Result<(), Failed> {
    let sums =
        ["requests", "input", "cache_write", "cache_read", "output", "weighted", "raw", "est_weighted", "est_raw"];
    // A sum beyond its largest number is a broken one to SQLite, and the column takes none.
    let sums = sums.map(|sum| format!("{sum} = min({sum} + excluded.{sum}, {})", i64::MAX)).join(", ");
    let sql = "INSERT INTO rollup VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO UPDATE SET";
    let sql = &format!("{sql} {sums}");
    for ((scope, meter, minute), (total, charged)) in minutes {
        connection.prepare_cached(sql)?.execute(params![
            scope,
            meter,
            int(*minute),
            int(total.requests),
            int(total.usage.input),
            int(total.usage.cache_write),
            int(total.usage.cache_read),
            int(total.usage.output),
            amount(charged.weighted),
            amount(charged.raw),
            amount(total.estimated.weighted),
            amount(total.estimated.raw)
        ])?;
    }
    Ok(())
}

fn write_edit(connection: &Connection, write: &Write) -> Result<(), Failed> {
    match write {
        Write::CapSet { key, edit, at_ms } => {
            let count = edit.count.as_ref().map(serde_json::to_string).transpose()?;
            let window = edit.window.as_ref().map(serde_json::to_string).transpose()?;
            let sql = "INSERT OR REPLACE INTO cap VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let (scope, meter, kind) = (key.scope.to_string(), key.meter.as_str(), kind_text(key.kind));
            let values = params![scope, meter, kind, amount(edit.amount), count, window, int(*at_ms)];
            connection.prepare_cached(sql)?.execute(values)?;
        }
        Write::CapUnset(key) => {
            let sql = "DELETE FROM cap WHERE scope = ?1 AND meter = ?2 AND kind = ?3";
            let values = params![key.scope.to_string(), key.meter.as_str(), kind_text(key.kind)];
            connection.prepare_cached(sql)?.execute(values)?;
        }
        Write::TopUp { key, top_up } => {
            let sql = "INSERT INTO top_up (scope, meter, kind, amount, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)";
            let (scope, meter, kind) = (key.scope.to_string(), key.meter.as_str(), kind_text(key.kind));
            connection.prepare_cached(sql)?.execute(params![
                scope,
                meter,
                kind,
                amount(top_up.amount),
                int(top_up.at_ms)
            ])?;
        }
        Write::Owner { .. }
        | Write::OwnerEnded(_)
        | Write::Dispatched(_)
        | Write::Extended { .. }
        | Write::Withdrawn(_)
        | Write::Spent { .. }
        | Write::Marked(_)
        | Write::Unmarked(_)
        | Write::Event { .. } => {}
    }
    Ok(())
}

fn write_mark(connection: &Connection, sql: &str, mark: &Mark) -> Result<(), Failed> {
    connection.prepare_cached(sql)?.execute(params![
        mark.key.scope.to_string(),
        mark.key.meter.as_str(),
        kind_text(mark.key.kind),
        int(mark.cap_milli),
        mark.percent,
        int(mark.since_ms)
    ])?;
    Ok(())
}
