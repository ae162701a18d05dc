//! Both stores of sessions against one suite and one model (G30, G33), and what a file of sessions does when its disk,
//! its neighbours or its content are not as they should be.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use carboy_core::ports::{KeptSession, Later, SessionKey, SessionStore, SessionStoreError};
use carboy_store::sessions::{MemorySessions, SessionLimits, SqliteSessions};
use proptest::prelude::*;
use rusqlite::Connection;
use support::block_on;

fn key(n: u8) -> SessionKey {
    SessionKey([n; 32])
}

fn limits() -> SessionLimits {
    SessionLimits { sessions_max: 4, idle_s: 10, bytes_max: 100, all_bytes_max: 1_000 }
}

fn load(store: &dyn SessionStore, n: u8, now_ms: u64) -> Option<KeptSession> {
    block_on(store.load(key(n), now_ms)).unwrap()
}

fn save(store: &dyn SessionStore, n: u8, version: u64, text: &str, now_ms: u64) -> Result<(), SessionStoreError> {
    block_on(store.save(key(n), version, text.as_bytes().to_vec(), now_ms))
}

fn kept(text: &str, version: u64) -> Option<KeptSession> {
    Some(KeptSession { bytes: text.as_bytes().to_vec(), version })
}

fn sweep(store: &dyn SessionStore, now_ms: u64) -> Vec<SessionKey> {
    let mut went = block_on(store.sweep(now_ms)).unwrap();
    went.sort();
    went
}

/// Runs a check over each store, made anew.
fn each(limits: SessionLimits, check: impl Fn(Arc<dyn SessionStore>, &str)) {
    check(Arc::new(MemorySessions::new(limits)), "memory");
    let dir = tempfile::tempdir().unwrap();
    check(Arc::new(SqliteSessions::open(&dir.path().join("sessions.db"), limits).unwrap()), "sqlite");
}

#[test]
fn g33_a_session_is_read_as_it_was_written_and_forgotten_when_asked() {
    each(limits(), |store, name| {
        assert_eq!(load(&*store, 1, 0), None, "{name}");
        save(&*store, 1, 0, "one", 0).unwrap();
        assert_eq!(load(&*store, 1, 0), kept("one", 1), "{name}");
        save(&*store, 1, 1, "two", 0).unwrap();
        save(&*store, 2, 0, "", 0).unwrap();
        assert_eq!((load(&*store, 1, 0), load(&*store, 2, 0)), (kept("two", 2), kept("", 1)), "{name}");
        block_on(store.remove(key(1))).unwrap();
        block_on(store.remove(key(9))).unwrap();
        assert_eq!((load(&*store, 1, 0), load(&*store, 2, 0)), (None, kept("", 1)), "{name}");
        assert_eq!(sweep(&*store, 0), [], "{name}: who was forgotten on purpose did not have to go");
    });
}

#[test]
fn g33_of_two_who_write_one_session_at_once_the_second_is_told() {
    each(limits(), |store, name| {
        save(&*store, 1, 0, "first", 0).unwrap();
        assert_eq!(save(&*store, 1, 0, "new again", 0), Err(SessionStoreError::Changed), "{name}");
        save(&*store, 1, 1, "mine", 0).unwrap();
        assert_eq!(save(&*store, 1, 1, "yours", 0), Err(SessionStoreError::Changed), "{name}");
        assert_eq!(save(&*store, 1, 3, "from the future", 0), Err(SessionStoreError::Changed), "{name}");
        assert_eq!(save(&*store, 2, 1, "one that is not there", 0), Err(SessionStoreError::Changed), "{name}");
        assert_eq!(load(&*store, 1, 0), kept("mine", 2), "{name}");
        let writers: Vec<_> = (0..8)
            .map(|n| {
                let store = store.clone();
                std::thread::spawn(move || save(&*store, 1, 2, &format!("writer {n}"), 0).is_ok())
            })
            .collect();
        let won = writers.into_iter().map(|writer| writer.join().unwrap()).filter(|won| *won).count();
        assert_eq!((won, load(&*store, 1, 0).unwrap().version), (1, 3), "{name}");
    });
}

#[test]
fn g30_one_that_was_idle_too_long_is_gone_and_reading_is_a_use() {
    each(limits(), |store, name| {
        save(&*store, 1, 0, "a", 0).unwrap();
        assert_eq!(load(&*store, 1, 10_000), kept("a", 1), "{name}: at the limit");
        assert_eq!(load(&*store, 1, 20_000), kept("a", 1), "{name}: it was read meanwhile");
        assert_eq!(load(&*store, 1, 30_001), None, "{name}");
        assert_eq!(sweep(&*store, 30_001), [key(1)], "{name}");
        // One whose time is over is none: it begins at version 0, and nobody goes on with the old one.
        save(&*store, 2, 0, "b", 0).unwrap();
        assert_eq!(save(&*store, 2, 1, "b", 10_001), Err(SessionStoreError::Changed), "{name}");
        save(&*store, 2, 0, "anew", 10_001).unwrap();
        assert_eq!(load(&*store, 2, 10_001), kept("anew", 1), "{name}");
        save(&*store, 3, 0, "c", 12_000).unwrap();
        assert_eq!(sweep(&*store, 20_002), [key(2)], "{name}");
        assert_eq!(sweep(&*store, 20_002), [], "{name}: told once");
        // A clock that goes back makes nothing older.
        assert_eq!(load(&*store, 3, 0), kept("c", 1), "{name}");
    });
}

#[test]
fn g30_whoever_looks_sees_what_is_there_and_keeps_nothing_longer() {
    each(limits(), |store, name| {
        let look = |n: u8, now_ms| block_on(store.look(key(n), now_ms)).unwrap();
        save(&*store, 1, 0, "a", 0).unwrap();
        assert_eq!((look(1, 10_000), look(9, 10_000)), (kept("a", 1), None), "{name}");
        assert_eq!(look(1, 10_001), None, "{name}: that it was looked at was no use");
        assert_eq!(load(&*store, 1, 10_001), None, "{name}");
        (2..=5).for_each(|n| save(&*store, n, 0, "x", 20_000).unwrap());
        assert!(look(2, 20_000).is_some(), "{name}");
        save(&*store, 6, 0, "x", 20_000).unwrap();
        assert_eq!((look(2, 20_000), look(3, 20_000)), (None, kept("x", 1)), "{name}: it was the least lately used");
    });
}

#[test]
fn g30_the_least_lately_used_goes_when_there_are_too_many_or_too_much() {
    each(limits(), |store, name| {
        for n in 1..=4 {
            save(&*store, n, 0, "x", u64::from(n)).unwrap();
        }
        assert!(load(&*store, 1, 5).is_some());
        save(&*store, 2, 1, "y", 6).unwrap();
        save(&*store, 5, 0, "x", 7).unwrap();
        assert_eq!(load(&*store, 3, 8), None, "{name}");
        assert_eq!(sweep(&*store, 8), [key(3)], "{name}");
        // A rewrite of one that is there pushes nobody out.
        save(&*store, 5, 1, "z", 9).unwrap();
        assert!([1, 2, 4, 5].into_iter().all(|n| load(&*store, n, 9).is_some()), "{name}");
    });
    let tight = SessionLimits { all_bytes_max: 10, ..limits() };
    each(tight, |store, name| {
        save(&*store, 1, 0, "12345", 0).unwrap();
        save(&*store, 2, 0, "12345", 0).unwrap();
        save(&*store, 2, 1, "123456", 0).unwrap();
        assert_eq!((load(&*store, 1, 0), load(&*store, 2, 0)), (None, kept("123456", 2)), "{name}");
        assert_eq!(save(&*store, 2, 2, "12345678901", 0), too_large(11, 10), "{name}");
        assert_eq!(load(&*store, 2, 0), kept("123456", 2), "{name}: the old one stays");
    });
}

fn too_large(bytes: u64, bytes_max: u64) -> Result<(), SessionStoreError> {
    Err(SessionStoreError::TooLarge { bytes, bytes_max })
}

#[test]
fn g30_one_that_is_too_large_is_refused_and_says_the_limit() {
    each(limits(), |store, name| {
        assert_eq!(save(&*store, 1, 0, &"x".repeat(101), 0), too_large(101, 100), "{name}");
        save(&*store, 1, 0, &"x".repeat(100), 0).unwrap();
        assert_eq!(load(&*store, 1, 0).unwrap().bytes.len(), 100, "{name}");
    });
}

/// What a test does, in an order that it throws.
#[derive(Clone, Debug)]
enum Step {
    Load(u8),
    /// With the version that stands, or with one that is off by this.
    Save(u8, u64, u8),
    Remove(u8),
    Sweep,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..7_u8).prop_map(Step::Load),
        6 => (0..7_u8, 0..2_u64, 0..60_u8).prop_map(|(n, off, size)| Step::Save(n, off, size)),
        1 => (0..7_u8).prop_map(Step::Remove),
        1 => Just(Step::Sweep),
        3 => (0..6_000_u64).prop_map(Step::Wait),
    ]
}

/// The law, as a list: the most lately used stands last.
#[derive(Default)]
struct Law {
    list: Vec<(u8, u64, u64, usize)>,
    gone: Vec<u8>,
    now_ms: u64,
}

impl Law {
    const LIMITS: SessionLimits = SessionLimits { sessions_max: 4, idle_s: 10, bytes_max: 50, all_bytes_max: 120 };

    fn expire(&mut self, only: Option<u8>) {
        let now = self.now_ms;
        let over = |s: &(u8, u64, u64, usize)| now - s.2 > 10_000 && only.is_none_or(|n| n == s.0);
        self.gone.extend(self.list.iter().filter(|s| over(s)).map(|s| s.0));
        self.list.retain(|s| !over(s));
    }

    fn load(&mut self, n: u8) -> Option<(u64, usize)> {
        self.expire(Some(n));
        let at = self.list.iter().position(|s| s.0 == n)?;
        let mut session = self.list.remove(at);
        session.2 = self.now_ms;
        self.list.push(session);
        Some((session.1, session.3))
    }

    fn save(&mut self, n: u8, version: u64, size: usize) -> Result<(), ()> {
        if size > 50 {
            return Err(());
        }
        let before = (self.list.clone(), self.gone.clone());
        self.expire(Some(n));
        let stands = self.list.iter().find(|s| s.0 == n).map_or(0, |s| s.1);
        if stands != version {
            // What is over is over for everybody; whether it is told now or later is the store's affair.
            (self.list, self.gone) = before;
            return Err(());
        }
        self.list.retain(|s| s.0 != n);
        while self.list.len() >= 4 || self.list.iter().map(|s| s.3).sum::<usize>() + size > 120 {
            self.gone.push(self.list.remove(0).0);
        }
        self.list.push((n, version + 1, self.now_ms, size));
        self.gone.retain(|gone| *gone != n);
        Ok(())
    }
}

fn follow(store: &dyn SessionStore, steps: &[Step]) {
    let mut law = Law::default();
    for step in steps {
        match *step {
            Step::Load(n) => {
                let got = load(store, n, law.now_ms).map(|kept| (kept.version, kept.bytes.len()));
                assert_eq!(got, law.load(n), "{step:?}");
            }
            Step::Save(n, off, size) => {
                let live = law.list.iter().find(|s| s.0 == n && law.now_ms - s.2 <= 10_000);
                let version = live.map_or(0, |s| s.1) + off;
                let got = block_on(store.save(key(n), version, vec![n; size.into()], law.now_ms));
                assert_eq!(got.map_err(|_| ()), law.save(n, version, size.into()), "{step:?}");
            }
            Step::Remove(n) => {
                block_on(store.remove(key(n))).unwrap();
                law.list.retain(|s| s.0 != n);
                // A store that had not let go yet of what was over has nothing to tell of it any more.
                law.gone.retain(|gone| *gone != n);
            }
            Step::Sweep => {
                law.expire(None);
                let mut want: Vec<SessionKey> = std::mem::take(&mut law.gone).into_iter().map(key).collect();
                want.sort();
                want.dedup();
                let mut got = sweep(store, law.now_ms);
                got.dedup();
                // A store may have told less where one went, came back and was forgotten; never one that is there.
                assert!(got.iter().all(|gone| !law.list.iter().any(|s| key(s.0) == *gone)), "{got:?}");
                let there = |k: &SessionKey| law.list.iter().any(|s| key(s.0) == *k);
                assert!(want.iter().all(|gone| got.contains(gone) || there(gone)), "{want:?} {got:?}");
            }
            Step::Wait(ms) => law.now_ms += ms,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn g30_sessions_in_memory_follow_the_law_of_least_lately_used_and_idle_time(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        follow(&MemorySessions::new(Law::LIMITS), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn g30_sessions_in_a_file_follow_the_same_law(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        follow(&SqliteSessions::open(&dir.path().join("sessions.db"), Law::LIMITS).unwrap(), &steps);
    }

    #[test]
    fn g30_two_processes_on_one_file_follow_the_same_law_together(
        // Who went is told by whoever let them go: the other one does not know.
        steps in prop::collection::vec(step().prop_filter("told apart", |step| !matches!(step, Step::Sweep)), 1..60)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let open = || SqliteSessions::open(&dir.path().join("sessions.db"), Law::LIMITS).unwrap();
        follow(&InTurns { stores: [open(), open(), open()], asked: AtomicUsize::new(0) }, &steps);
    }
}

/// Several of one file; every question goes to another one.
struct InTurns {
    stores: [SqliteSessions; 3],
    asked: AtomicUsize,
}

impl InTurns {
    fn next(&self) -> &SqliteSessions {
        // Twice the same one, then another: what it knows is used, and then it is old.
        &self.stores[self.asked.fetch_add(1, Ordering::Relaxed) / 2 % self.stores.len()]
    }
}

impl SessionStore for InTurns {
    fn load(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        self.next().load(key, now_ms)
    }

    fn look(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        self.next().look(key, now_ms)
    }

    fn save(
        &self,
        key: SessionKey,
        version: u64,
        bytes: Vec<u8>,
        now_ms: u64,
    ) -> Later<'_, Result<(), SessionStoreError>> {
        self.next().save(key, version, bytes, now_ms)
    }

    fn remove(&self, key: SessionKey) -> Later<'_, Result<(), SessionStoreError>> {
        self.next().remove(key)
    }

    fn sweep(&self, now_ms: u64) -> Later<'_, Result<Vec<SessionKey>, SessionStoreError>> {
        self.next().sweep(now_ms)
    }
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
}

fn refusal(path: &Path) -> String {
    SqliteSessions::open(path, limits()).err().unwrap().to_string()
}

#[test]
fn g33_sessions_in_a_file_outlive_the_process_and_two_processes_share_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("home/sessions.db");
    let first = SqliteSessions::open(&path, limits()).unwrap();
    save(&first, 1, 0, "kept", 0).unwrap();
    let second = SqliteSessions::open(&path, limits()).unwrap();
    assert_eq!(load(&second, 1, 0), kept("kept", 1));
    save(&second, 1, 1, "by the second", 0).unwrap();
    assert_eq!(save(&first, 1, 1, "by the first", 0), Err(SessionStoreError::Changed));
    drop((first, second));
    assert_eq!(load(&SqliteSessions::open(&path, limits()).unwrap(), 1, 0), kept("by the second", 2));
}

#[test]
fn g33_a_file_of_sessions_is_private_and_what_is_none_is_refused_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("home/sessions.db");
    let open = SqliteSessions::open(&path, limits()).unwrap();
    save(&open, 1, 0, "x", 0).unwrap();
    for file in ["sessions.db", "sessions.db-wal"] {
        let bits = fs::metadata(path.with_file_name(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(bits, 0o600, "{file}");
    }
    drop(open);
    mode(&path, 0o640);
    assert!(refusal(&path).ends_with(&format!("chmod go= {}", path.display())), "{}", refusal(&path));
    mode(&path, 0o600);
    let link = dir.path().join("link.db");
    symlink(&path, &link).unwrap();
    assert!(refusal(&link).contains("not a plain file"), "{}", refusal(&link));
    let other = dir.path().join("home/other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    mode(&other, 0o600);
    assert!(refusal(&other).contains("it has other tables"), "{}", refusal(&other));
    let text = dir.path().join("home/text.db");
    fs::write(&text, "no database at all, but long enough to be looked at: ".repeat(100)).unwrap();
    mode(&text, 0o600);
    assert!(refusal(&text).contains("move the file away"), "{}", refusal(&text));
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    assert!(refusal(&path).contains("schema 9, this one knows 1"), "{}", refusal(&path));
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, SessionStoreError>) -> String {
    match answer {
        Err(SessionStoreError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn g33_a_locked_a_damaged_and_a_replaced_file_are_no_store_until_they_are_whole_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sessions.db");
    let store = SqliteSessions::open(&path, limits()).unwrap();
    save(&store, 1, 0, "one", 0).unwrap();

    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(unavailable(save(&store, 1, 1, "two", 0)).contains("another program holds it"));
    assert!(unavailable(block_on(store.load(key(1), 0))).contains("fuser"));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(load(&store, 1, 0), kept("one", 1));

    let aside = dir.path().join("aside.db");
    fs::rename(&path, &aside).unwrap();
    assert!(unavailable(save(&store, 1, 1, "two", 0)).contains("was removed or replaced"));
    assert!(unavailable(block_on(store.load(key(1), 0))).contains("was removed or replaced"));
    fs::rename(&aside, &path).unwrap();
    assert_eq!(load(&store, 1, 0), kept("one", 1));
    drop(store);

    // Pages in the middle overwritten: whatever is met there is an error and no session.
    let mut bytes = fs::read(&path).unwrap();
    let page = 4096;
    for at in (page..bytes.len()).step_by(page) {
        bytes[at..at + page].fill(0xa5);
    }
    fs::write(&path, bytes).unwrap();
    let store = SqliteSessions::open(&path, limits());
    if let Ok(store) = store {
        assert!(unavailable(block_on(store.load(key(1), 0))).contains("move it away"));
        assert!(unavailable(save(&store, 1, 1, "two", 0)).contains("move it away"));
        assert!(unavailable(block_on(store.sweep(0))).contains("move it away"));
    }
}

#[test]
fn what_a_person_wants_forgotten_is_in_no_file_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sessions.db");
    let store = SqliteSessions::open(&path, SessionLimits::default()).unwrap();
    let canary = "canary-of-a-conversation";
    save(&store, 1, 0, &canary.repeat(1_000), 0).unwrap();
    block_on(store.remove(key(1))).unwrap();
    sweep(&store, 0);
    for file in fs::read_dir(dir.path()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(canary.len()).any(|at| at == canary.as_bytes()));
    }
}
