//! Sessions in this process's memory: gone with it.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use carboy_core::ports::{KeptSession, Later, SessionKey, SessionStore, SessionStoreError};

use super::{Gone, SessionLimits, next_version};

/// See the module.
pub struct MemorySessions {
    limits: SessionLimits,
    all: Mutex<All>,
}

struct All {
    sessions: HashMap<SessionKey, Session>,
    /// By their last use, the longest ago first.
    by_use: BTreeMap<u64, SessionKey>,
    /// Of the next use.
    turn: u64,
    bytes: u64,
    gone: Gone,
}

struct Session {
    kept: KeptSession,
    used_ms: u64,
    turn: u64,
}

impl MemorySessions {
    /// An empty store.
    pub fn new(limits: SessionLimits) -> MemorySessions {
        let gone = Gone::new();
        let all = All { sessions: HashMap::new(), by_use: BTreeMap::new(), turn: 0, bytes: 0, gone };
        MemorySessions { limits, all: Mutex::new(all) }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        // Each step leaves the tables whole, so a panic elsewhere leaves nothing half done in them.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save_now(&self, key: SessionKey, version: u64, bytes: Vec<u8>, now_ms: u64) -> Result<(), SessionStoreError> {
        self.limits.fits(bytes.len())?;
        let mut all = self.all();
        let stands_at = all.live(&key, now_ms, &self.limits).map(|session| session.kept.version);
        let version = next_version(stands_at, version)?;
        all.remove(&key);
        all.make_room(bytes.len() as u64, &self.limits);
        all.put(key, KeptSession { bytes, version }, now_ms);
        Ok(())
    }
}

impl All {
    /// The session, unless it was idle too long; such a one goes.
    fn live(&mut self, key: &SessionKey, now_ms: u64, limits: &SessionLimits) -> Option<&Session> {
        if limits.is_over(self.sessions.get(key)?.used_ms, now_ms) {
            self.let_go(key);
        }
        self.sessions.get(key)
    }

    fn put(&mut self, key: SessionKey, kept: KeptSession, used_ms: u64) {
        let turn = self.turn;
        self.turn += 1;
        self.bytes += kept.bytes.len() as u64;
        self.by_use.insert(turn, key);
        self.sessions.insert(key, Session { kept, used_ms, turn });
        self.gone.came_back(&key);
    }

    fn remove(&mut self, key: &SessionKey) -> Option<Session> {
        let session = self.sessions.remove(key)?;
        self.by_use.remove(&session.turn);
        self.bytes -= session.kept.bytes.len() as u64;
        Some(session)
    }

    fn let_go(&mut self, key: &SessionKey) {
        if self.remove(key).is_some() {
            self.gone.add(*key);
        }
    }

    /// Until one more of so many octets fits.
    fn make_room(&mut self, bytes: u64, limits: &SessionLimits) {
        while self.sessions.len() >= limits.sessions_max as usize || self.bytes + bytes > limits.all_bytes_max {
            let Some(oldest) = self.by_use.first_key_value().map(|(_, key)| *key) else { return };
            self.let_go(&oldest);
        }
    }
}

impl SessionStore for MemorySessions {
    fn load(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        let mut all = self.all();
        let kept = all.live(&key, now_ms, &self.limits).map(|session| session.kept.clone());
        if kept.is_some()
            && let Some(session) = all.remove(&key)
        {
            all.put(key, session.kept, now_ms);
        }
        Box::pin(ready(Ok(kept)))
    }

    fn look(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        let kept = self.all().live(&key, now_ms, &self.limits).map(|session| session.kept.clone());
        Box::pin(ready(Ok(kept)))
    }

    fn save(
        &self,
        key: SessionKey,
        version: u64,
        bytes: Vec<u8>,
        now_ms: u64,
    ) -> Later<'_, Result<(), SessionStoreError>> {
        Box::pin(ready(self.save_now(key, version, bytes, now_ms)))
    }

    fn remove(&self, key: SessionKey) -> Later<'_, Result<(), SessionStoreError>> {
        self.all().remove(&key);
        Box::pin(ready(Ok(())))
    }

    fn sweep(&self, now_ms: u64) -> Later<'_, Result<Vec<SessionKey>, SessionStoreError>> {
        let mut all = self.all();
        let over = all.sessions.iter().filter(|(_, session)| self.limits.is_over(session.used_ms, now_ms));
        for key in over.map(|(key, _)| *key).collect::<Vec<_>>() {
            all.let_go(&key);
        }
        let gone = all.gone.take();
        Box::pin(ready(Ok(gone)))
    }
}
