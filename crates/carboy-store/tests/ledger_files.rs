//! The ledger's file: what is refused at the start, what is found out while it is in use, and files of older versions.
#![allow(clippy::unwrap_used)]

#[path = "support/conformance.rs"]
mod conformance;
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use carboy_core::budget::{NotHeld, ReservationId, Terms};
use carboy_core::ports::Ledger;
use carboy_store::StoreError;
use carboy_store::ledger::{By, Engine, LedgerStore, SqliteStore, UsageQuery};
use conformance::{ask, granted, host, owner, set, spend, wrote};
use rusqlite::Connection;
use support::{Wall, block_on, until};

fn engine(path: &Path) -> Engine {
    Engine::open(Box::new(SqliteStore::open(path).unwrap()), Arc::new(Wall)).unwrap()
}

fn connect(engine: &Engine, id: u64) -> Arc<dyn Ledger> {
    block_on(engine.hello(owner(id), set(id, 1_000_000, Terms::default()), vec![conformance::meter()])).unwrap();
    engine.ledger(id)
}

fn refusal(path: &Path) -> String {
    SqliteStore::open(path).err().unwrap().to_string()
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
}

#[test]
fn c13_a_ledger_is_made_private_and_what_others_could_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("home/ledger.db");
    drop(SqliteStore::open(&path).unwrap());
    let bits = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((bits(&path), bits(path.parent().unwrap())), (0o600, 0o700));

    mode(&path, 0o620);
    assert!(refusal(&path).ends_with(&format!("chmod go-w {}", path.display())), "{}", refusal(&path));
    mode(&path, 0o400);
    assert!(refusal(&path).ends_with(&format!("chmod u+rw {}", path.display())), "{}", refusal(&path));
    mode(&path, 0o600);
    mode(path.parent().unwrap(), 0o777);
    assert!(matches!(SqliteStore::open(&path), Err(StoreError::LooseMode { .. })));
    mode(path.parent().unwrap(), 0o700);

    let (link, other) = (dir.path().join("link.db"), dir.path().join("home/other.db"));
    symlink(&path, &link).unwrap();
    assert!(refusal(&link).contains("is not a plain file with one name"), "{}", refusal(&link));
    fs::hard_link(&path, &other).unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(StoreError::NotPlainFile { .. })));
    fs::remove_file(&other).unwrap();
    symlink(&path, dir.path().join("home/new.db-wal")).unwrap();
    assert!(matches!(SqliteStore::open(&dir.path().join("home/new.db")), Err(StoreError::NotPlainFile { .. })));
    assert!(SqliteStore::open(&path).is_ok());
}

#[test]
fn c16_two_processes_never_keep_one_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let first = SqliteStore::open(&path).unwrap();
    let refused = refusal(&path);
    assert!(refused.contains("is kept by another process") && refused.contains("fuser"), "{refused}");
    drop(first);
    assert!(SqliteStore::open(&path).is_ok());
}

#[test]
fn c13_a_newer_schema_another_programs_file_and_no_database_at_all_are_refused_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    drop(SqliteStore::open(&path).unwrap());
    Connection::open(&path).unwrap().execute("UPDATE schema_version SET version = 99", []).unwrap();
    let refused = refusal(&path);
    assert!(refused.contains("newer carboy (schema 99, this one knows 2); install that version again"), "{refused}");

    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute("CREATE TABLE notes (text TEXT)", []).unwrap();
    mode(&foreign, 0o600);
    assert!(refusal(&foreign).contains("is not a ledger"), "{}", refusal(&foreign));
    let text = dir.path().join("text.db");
    fs::write(&text, "no database, and long enough not to be taken for the beginning of one".repeat(20)).unwrap();
    mode(&text, 0o600);
    assert!(refusal(&text).contains("put a copy in its place"), "{}", refusal(&text));
}

#[test]
fn c13_a_damaged_ledger_is_told_as_damaged_with_its_place_and_what_to_do() {
    let told = |path: &Path, words: &str| {
        for part in [&format!("the ledger {} is damaged", path.display())[..], "put a copy in its place", "mv "] {
            assert!(words.contains(part), "{part}: {words}");
        }
    };
    // Its head, before it is opened.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let kept = engine(&path);
    spend(&*connect(&kept, 1), 100, 50);
    block_on(kept.close()).unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&[0xa5; 64][..], &whole[64..]].concat()).unwrap();
    told(&path, &refusal(&path));
    // Its tables.
    fs::write(&path, [&whole[..4096], &vec![0xa5; whole.len() - 4096][..]].concat()).unwrap();
    let opened = SqliteStore::open(&path).map_err(|error| error.to_string());
    let words = match opened {
        Err(words) => words,
        Ok(store) => match Engine::open(Box::new(store), Arc::new(support::Wall)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it is taken for a ledger"),
        },
    };
    told(&path, &words);
    // With the copy in its place everything is there.
    fs::write(&path, &whole).unwrap();
    assert_eq!(engine_total(&path), 150);
    // Moved away, it begins anew.
    fs::rename(&path, dir.path().join("ledger.db.damaged")).unwrap();
    assert_eq!(engine_total(&path), 0);
}

/// A file as version 1 left it, with two requests charged, one under way, and an owner.
fn version_1(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(include_str!("support/ledger-1.sql")).unwrap();
    mode(path, 0o600);
}

#[test]
fn c13_a_file_of_version_1_is_brought_up_to_date_once_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    version_1(&path);
    for _ in 0..2 {
        let mut store = SqliteStore::open(&path).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!((loaded.owners.len(), loaded.dispatched.len(), loaded.minutes.len()), (1, 1, 4));
        assert_eq!(loaded.minutes.iter().map(|sum| sum.charged.raw.tokens_up()).sum::<u64>(), 4 * 150);
        assert!(store.ended(ReservationId(1)).unwrap() && !store.ended(ReservationId(9)).unwrap());
        assert_eq!(store.reader().differences().unwrap(), []);
    }
    let engine = engine(&path);
    assert_eq!(host(&engine), (300, 1_000));
    // The one that was under way is charged in full: its owner is gone.
    assert_eq!(block_on(engine.owner_gone(7)).unwrap().charged, 1);
    assert_eq!(host(&engine), (1_300, 0));
    let version: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT max(version) FROM schema_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(version, 2);
}

/// One request that the ledger is asked to make durable; what it says.
fn attempt(ledger: &Arc<dyn Ledger>) -> Result<(), NotHeld> {
    let request = ask(10, 20);
    let id = request.id;
    block_on(ledger.admit(request))?;
    block_on(ledger.dispatch(id))?;
    block_on(ledger.settle(id, wrote(10, 20)))
}

fn words(refused: Result<(), NotHeld>) -> String {
    match refused {
        Err(NotHeld::Unavailable(words)) => words,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_taken_away_or_replaced_stops_everything_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (path, away) = (dir.path().join("ledger.db"), dir.path().join("away.db"));
    let engine = engine(&path);
    let ledger = connect(&engine, 1);
    spend(&*ledger, 100, 50);

    fs::rename(&path, &away).unwrap();
    let refused = words(attempt(&ledger));
    assert!(
        refused.contains("ledger.db was removed or replaced") && refused.contains("put the file back"),
        "{refused}"
    );
    // An older copy in its place would fill every budget again.
    fs::copy(&away, &path).unwrap();
    mode(&path, 0o600);
    assert!(words(attempt(&ledger)).contains("removed or replaced"));
    assert!(block_on(engine.snapshot()).unwrap().failing.unwrap().contains("removed or replaced"));

    fs::remove_file(&path).unwrap();
    fs::rename(&away, &path).unwrap();
    until("it goes on", || attempt(&ledger).is_ok());
    assert_eq!(host(&engine), (180, 0));

    // The same for the write-ahead log, in which the newest rows are.
    let (log, log_away) = (dir.path().join("ledger.db-wal"), dir.path().join("away-wal"));
    fs::rename(&log, &log_away).unwrap();
    assert!(words(attempt(&ledger)).contains("ledger.db-wal was removed or replaced"));
    fs::rename(&log_away, &log).unwrap();
    until("it goes on", || attempt(&ledger).is_ok());
    block_on(engine.close()).unwrap();
    assert_eq!(engine_total(&path), 210);
}

fn engine_total(path: &Path) -> u64 {
    let engine = engine(path);
    assert_eq!(engine.reader().differences().unwrap(), []);
    host(&engine).0
}

#[test]
fn a_file_that_is_cut_off_stops_everything_and_says_so() {
    for (name, left) in [("ledger.db", 100), ("ledger.db-wal", 0)] {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(&dir.path().join("ledger.db"));
        let ledger = connect(&engine, 1);
        spend(&*ledger, 100, 50);
        let cut = fs::OpenOptions::new().write(true).open(dir.path().join(name)).unwrap();
        cut.set_len(left).unwrap();
        let refused = words(attempt(&ledger));
        assert!(refused.contains(&format!("{name} is shorter than it was")), "{refused}");
        assert!(words(attempt(&ledger)).contains("put a copy in its place"));
    }
}

#[test]
fn a_file_that_was_made_read_only_stops_everything_until_it_is_writable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let engine = engine(&path);
    let ledger = connect(&engine, 1);
    mode(&path, 0o400);
    assert!(words(attempt(&ledger)).contains("chmod u+rw"));
    mode(&path, 0o600);
    until("it goes on", || attempt(&ledger).is_ok());
}

#[test]
fn a_lock_of_another_program_stops_everything_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let engine = engine(&path);
    let ledger = connect(&engine, 1);
    let request = ask(10, 500);
    let id = request.id;
    granted(block_on(ledger.admit(request)));
    block_on(ledger.dispatch(id)).unwrap();

    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE projection SET up_to = up_to").unwrap();
    // What was spent meanwhile is refused, kept, and charged once, though it is told again.
    let refused = words(block_on(ledger.settle(id, wrote(10, 400))));
    assert!(refused.contains("another program has locked it"), "{refused}");
    assert!(words(attempt(&ledger)).contains("nothing metered passes"));
    other.execute_batch("ROLLBACK").unwrap();
    until("it goes on", || block_on(ledger.settle(id, wrote(10, 400))).is_ok());
    assert_eq!(host(&engine), (410, 0));
    block_on(engine.close()).unwrap();
    assert_eq!(engine_total(&path), 410);
}

#[test]
fn c15_usage_is_summed_over_the_rows_by_scope_meter_model_and_day() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&dir.path().join("ledger.db"));
    for id in 1..=3 {
        let ledger = connect(&engine, id);
        (0..id).for_each(|_| spend(&*ledger, 100, 50));
    }
    let usage = |query: UsageQuery| engine.reader().usage(&query).unwrap();
    let all = usage(UsageQuery { by: vec![By::Model, By::Day], ..UsageQuery::default() });
    let told: Vec<(String, u64, u64)> =
        all.iter().map(|row| (row.scope.to_string(), row.requests, row.charged.raw.tokens_up())).collect();
    let row = |scope: &str, requests| (scope.to_owned(), requests, requests * 150);
    let runs = [row("run:run1", 1), row("run:run2", 2), row("run:run3", 3)];
    assert_eq!(told, [vec![row("agent:coder", 6), row("bottle:dev", 6), row("host", 6)], runs.to_vec()].concat());
    assert!(all.iter().all(|row| row.model.as_deref() == Some("claude") && row.day.is_some_and(|day| day > 20_000)));
    assert_eq!((all[2].usage.input, all[2].usage.output, all[2].overrun), (600, 300, Default::default()));
    let host = UsageQuery { scope: Some(carboy_core::budget::Scope::Host), ..UsageQuery::default() };
    assert_eq!(usage(host.clone()).iter().map(|row| (&row.model, row.day)).collect::<Vec<_>>(), [(&None, None)]);
    assert_eq!(usage(UsageQuery { until_ms: Some(1), ..host }), []);
    assert_eq!(engine.reader().differences().unwrap(), []);
}

#[test]
fn a_sum_that_differs_from_its_rows_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let engine = engine(&path);
    spend(&*connect(&engine, 1), 100, 50);
    block_on(engine.close()).unwrap();
    Connection::open(&path).unwrap().execute("UPDATE rollup SET raw = raw - 1000 WHERE scope = 'host'", []).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    let found = store.reader().differences().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kept.raw.tokens_up(), found[0].rows.raw.tokens_up()), (149, 150));
}

#[test]
fn c14_the_database_has_usage_budgets_and_enforcement_and_no_table_for_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let engine = engine(&path);
    spend(&*connect(&engine, 1), 100, 50);
    block_on(engine.close()).unwrap();
    let connection = Connection::open(&path).unwrap();
    let mut statement = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'sqlite_sequence' ORDER BY name")
        .unwrap();
    let tables: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let (usage, budgets) =
        (["spend", "rollup", "chain", "chain_scope", "dispatched", "owner"], ["cap", "top_up", "warned"]);
    let (enforcement, own) = (["enforcement", "projection"], ["schema_version"]);
    let mut all: Vec<&str> = usage.into_iter().chain(budgets).chain(enforcement).chain(own).collect();
    all.sort_unstable();
    assert_eq!(tables, all, "transcripts, metadata, approvals and the audit log are files");
}
