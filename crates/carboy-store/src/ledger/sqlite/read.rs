//! What is in the tables, as types.
//!
//! *Must never* skip a row that it cannot read: the ledger is refused then.

use carboy_core::budget::{
    Amount, Both, CapEdit, CapKey, Granted, Reservation, ReservationId, Scope, Stage, TopUp, Usage,
};
use carboy_core::ids::MeterName;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::text::{Damaged, event, kind, meter, scope};
use super::write::int;
use crate::ledger::port::{
    By, Difference, Loaded, Mark, MinuteSum, NumberedEvent, Owner, Total, USAGE_ROWS_MAX, UsageQuery, UsageRow,
};

/// What one scope spent on one meter in all.
type Line = (Scope, MeterName, Total);

fn all<T>(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T, Damaged>,
) -> Result<Vec<T>, Damaged> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn text(row: &Row<'_>, at: usize) -> Result<String, Damaged> {
    Ok(row.get(at)?)
}

fn number(row: &Row<'_>, at: usize) -> Result<u64, Damaged> {
    Ok(u64::try_from(row.get::<_, i64>(at)?)?)
}

fn both(row: &Row<'_>, at: usize) -> Result<Both, Damaged> {
    Ok(Both { weighted: Amount::milli(number(row, at)?), raw: Amount::milli(number(row, at + 1)?) })
}

/// Bits of the lower half of a number that is summed in halves, and its mask.
const HALF: u32 = 32;
const LOW: u64 = (1 << HALF) - 1;

/// A sum of two halves, or the largest number there is.
fn halves(row: &Row<'_>, at: usize) -> Result<u64, Damaged> {
    let sum = (u128::from(number(row, at)?) << HALF) + u128::from(number(row, at + 1)?);
    Ok(u64::try_from(sum).unwrap_or(u64::MAX))
}

fn both_halves(row: &Row<'_>, at: usize) -> Result<Both, Damaged> {
    Ok(Both { weighted: Amount::milli(halves(row, at)?), raw: Amount::milli(halves(row, at + 2)?) })
}

fn usage(row: &Row<'_>, at: usize) -> Result<Usage, Damaged> {
    Ok(Usage {
        input: number(row, at)?,
        cache_write: number(row, at + 1)?,
        cache_read: number(row, at + 2)?,
        output: number(row, at + 3)?,
    })
}

fn cap_key(row: &Row<'_>) -> Result<CapKey, Damaged> {
    Ok(CapKey { scope: scope(&text(row, 0)?)?, meter: meter(&text(row, 1)?)?, kind: kind(&text(row, 2)?)? })
}

/// Everything that a ledger is rebuilt from.
pub(super) fn load(connection: &Connection) -> Result<Loaded, Damaged> {
    let (minutes, totals) = rollups(connection)?;
    let sql = "SELECT scope, meter, kind, amount, count, time_window FROM cap";
    let caps = all(connection, sql, [], |row| {
        let json = |at| row.get::<_, Option<String>>(at);
        let count = json(4)?.as_deref().map(serde_json::from_str).transpose()?;
        let window = json(5)?.as_deref().map(serde_json::from_str).transpose()?;
        Ok((cap_key(row)?, CapEdit { amount: Amount::milli(number(row, 3)?), count, window }))
    })?;
    let sql = "SELECT scope, meter, kind, amount, at_ms FROM top_up ORDER BY number";
    let top_ups = all(connection, sql, [], |row| {
        Ok((cap_key(row)?, TopUp { amount: Amount::milli(number(row, 3)?), at_ms: number(row, 4)? }))
    })?;
    let sql = "SELECT scope, meter, kind, cap, percent, since_ms FROM warned";
    let marks = all(connection, sql, [], |row| {
        let (cap_milli, percent, since_ms) = (number(row, 3)?, u8::try_from(number(row, 4)?)?, number(row, 5)?);
        Ok(Mark { key: cap_key(row)?, cap_milli, percent, since_ms })
    })?;
    let mut places = all(connection, "SELECT scopes FROM chain", [], |row| {
        let mut chain: Vec<Scope> = serde_json::from_str(&text(row, 0)?)?;
        chain.retain(|scope| !matches!(scope, Scope::Run(_)));
        Ok(chain)
    })?;
    places.sort();
    places.dedup();
    let (dispatched, owners) = (dispatched(connection)?, owners(connection)?);
    Ok(Loaded { minutes, totals, dispatched, owners, caps, top_ups, marks, places })
}

/// The sums by the minute, and those of all minutes: put together here, because SQLite fails where a sum is beyond its numbers.
fn rollups(connection: &Connection) -> Result<(Vec<MinuteSum>, Vec<Line>), Damaged> {
    let sql = "SELECT scope, meter, minute, weighted, raw, requests, input, cache_write, cache_read, output, est_weighted, \
               est_raw FROM rollup ORDER BY scope, meter";
    let rows = all(connection, sql, [], |row| {
        let (scope, meter) = (scope(&text(row, 0)?)?, meter(&text(row, 1)?)?);
        let total = Total { requests: number(row, 5)?, usage: usage(row, 6)?, estimated: both(row, 10)? };
        Ok((MinuteSum { scope, meter, minute: number(row, 2)?, charged: both(row, 3)? }, total))
    })?;
    let (mut minutes, mut totals) = (Vec::with_capacity(rows.len()), Vec::<Line>::new());
    for (sum, total) in rows {
        match totals.last_mut().filter(|(scope, meter, _)| *scope == sum.scope && *meter == sum.meter) {
            Some((_, _, all)) => *all = all.plus(total),
            None => totals.push((sum.scope.clone(), sum.meter.clone(), total)),
        }
        minutes.push(sum);
    }
    Ok((minutes, totals))
}

fn dispatched(connection: &Connection) -> Result<Vec<Reservation>, Damaged> {
    let sql = "SELECT d.id, d.owner, d.meter, d.model, c.scopes, d.at_ms, d.worst, d.hold_weighted, d.hold_raw, d.output, \
               d.held FROM dispatched d JOIN chain c ON c.id = d.chain ORDER BY d.id";
    all(connection, sql, [], |row| {
        let output = row.get::<_, Option<i64>>(9)?.map(u64::try_from).transpose()?;
        Ok(Reservation {
            id: ReservationId(u128::from_be_bytes(row.get(0)?)),
            owner: row.get::<_, i64>(1)?.cast_unsigned(),
            meter: meter(&text(row, 2)?)?,
            model: row.get(3)?,
            chain: serde_json::from_str(&text(row, 4)?)?,
            at_ms: number(row, 5)?,
            worst: serde_json::from_str(&text(row, 6)?)?,
            hold: both(row, 7)?,
            granted: Granted { output, held: number(row, 10)? },
            stage: Stage::Dispatched,
        })
    })
}

fn owners(connection: &Connection) -> Result<Vec<Owner>, Damaged> {
    let sql = "SELECT id, run, bottle, agent, pid, start_time, boot_id FROM owner ORDER BY id";
    all(connection, sql, [], |row| {
        Ok(Owner {
            id: row.get::<_, i64>(0)?.cast_unsigned(),
            run: text(row, 1)?,
            bottle: text(row, 2)?,
            agent: row.get(3)?,
            pid: u32::try_from(number(row, 4)?)?,
            start_time: row.get::<_, i64>(5)?.cast_unsigned(),
            boot_id: text(row, 6)?,
        })
    })
}

pub(super) fn ended(connection: &Connection, id: ReservationId) -> Result<bool, Damaged> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM spend WHERE id = ?1")?;
    Ok(statement.query_row([id.0.to_be_bytes()], |_| Ok(())).optional()?.is_some())
}

pub(super) fn unprojected(connection: &Connection, limit: usize) -> Result<Vec<NumberedEvent>, Damaged> {
    let sql = "SELECT number, at_ms, event FROM enforcement WHERE number > (SELECT up_to FROM projection) ORDER BY number \
               LIMIT ?1";
    all(connection, sql, [int(limit as u64)], |row| {
        Ok(NumberedEvent { number: number(row, 0)?, at_ms: number(row, 1)?, event: event(&text(row, 2)?)? })
    })
}

/// Summed over the rows, scope by scope.
pub(super) fn usage_rows(connection: &Connection, query: &UsageQuery) -> Result<Vec<UsageRow>, Damaged> {
    let columns = [
        "s.input",
        "s.cache_write",
        "s.cache_read",
        "s.output",
        "s.weighted",
        "s.raw",
        "s.weighted * s.estimated",
        "s.raw * s.estimated",
        "s.over_weighted",
        "s.over_raw",
    ];
    // In halves, neither of which is ever beyond SQLite's numbers.
    let sums = columns.map(|column| format!("sum(({column}) >> {HALF}), sum(({column}) & {LOW})")).join(", ");
    let sql = &format!(
        "SELECT c.scope, s.meter, CASE WHEN ?1 THEN s.model END AS model, CASE WHEN ?2 THEN s.at_ms / 86400000 END AS day, \
         count(*), {sums} FROM spend s JOIN chain_scope c ON c.chain = s.chain \
         WHERE s.at_ms >= ?3 AND s.at_ms < ?4 AND (?5 IS NULL OR c.scope = ?5) \
         GROUP BY c.scope, s.meter, 3, 4 ORDER BY c.scope, s.meter, 3, 4 LIMIT ?6"
    );
    let values = params![
        query.by.contains(&By::Model),
        query.by.contains(&By::Day),
        int(query.since_ms),
        int(query.until_ms.unwrap_or(u64::MAX)),
        query.scope.as_ref().map(Scope::to_string),
        int(USAGE_ROWS_MAX as u64 + 1)
    ];
    all(connection, sql, values, |row| {
        Ok(UsageRow {
            scope: scope(&text(row, 0)?)?,
            meter: meter(&text(row, 1)?)?,
            model: row.get(2)?,
            day: row.get::<_, Option<i64>>(3)?.map(u64::try_from).transpose()?,
            requests: number(row, 4)?,
            usage: Usage {
                input: halves(row, 5)?,
                cache_write: halves(row, 7)?,
                cache_read: halves(row, 9)?,
                output: halves(row, 11)?,
            },
            charged: both_halves(row, 13)?,
            estimated: both_halves(row, 17)?,
            overrun: both_halves(row, 21)?,
        })
    })
}

/// Where the sums by the minute differ from the rows.
pub(super) fn differences(connection: &Connection) -> Result<Vec<Difference>, Damaged> {
    let sql = "WITH rows AS (SELECT c.scope, s.meter, s.at_ms / 60000 AS minute, sum(s.weighted) AS weighted, sum(s.raw) AS raw \
               FROM spend s JOIN chain_scope c ON c.chain = s.chain GROUP BY 1, 2, 3) \
               SELECT ifnull(r.scope, k.scope), ifnull(r.meter, k.meter), ifnull(r.minute, k.minute), \
               ifnull(k.weighted, 0), ifnull(k.raw, 0), ifnull(r.weighted, 0), ifnull(r.raw, 0) \
               FROM rows r FULL JOIN rollup k ON k.scope = r.scope AND k.meter = r.meter AND k.minute = r.minute \
               WHERE k.weighted IS NOT r.weighted OR k.raw IS NOT r.raw LIMIT ?1";
    all(connection, sql, [int(USAGE_ROWS_MAX as u64)], |row| {
        let (scope, meter) = (scope(&text(row, 0)?)?, meter(&text(row, 1)?)?);
        Ok(Difference { scope, meter, minute: number(row, 2)?, kept: both(row, 3)?, rows: both(row, 5)? })
    })
}
