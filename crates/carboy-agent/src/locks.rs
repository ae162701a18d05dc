//! One turn of a session at a time (G32, I7).
//!
//! ```text
//! enter ─▶ table (made and found under one mutex) ─▶ wait for the session's own lock ─▶ Held ─▶ dropped: out of the table
//! ```
//!
//! *Must never* give two turns of one session two locks, keep a lock that nobody wants, or let waiters pile up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use carboy_core::ports::SessionKey;
use tokio::sync::OwnedMutexGuard;

/// Sessions with a turn under way at once.
pub const SESSIONS_AT_ONCE_MAX: usize = 4_096;
/// Turns of one session under way or waiting at once.
pub const TURNS_WAITING_MAX: usize = 4;

/// The locks of the sessions that are at work.
#[derive(Default)]
pub(crate) struct Locks {
    table: Mutex<HashMap<SessionKey, Entry>>,
}

struct Entry {
    lock: Arc<tokio::sync::Mutex<()>>,
    users: usize,
}

/// Too many turns at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// The session is this turn's alone until this is dropped.
pub(crate) struct Held {
    // Dropped in this order: the next turn may go on before the place is given up.
    _guard: OwnedMutexGuard<()>,
    _place: Place,
}

/// A place in the table, given back when it is dropped, waiting or not.
struct Place {
    locks: Arc<Locks>,
    key: SessionKey,
}

impl Locks {
    /// Waits until the session is this turn's alone.
    pub(crate) async fn hold(self: &Arc<Self>, key: SessionKey) -> Result<Held, Busy> {
        let (place, lock) = self.enter(key)?;
        Ok(Held { _guard: lock.lock_owned().await, _place: place })
    }

    /// The same where nobody else is at work in the session.
    pub(crate) fn try_hold(self: &Arc<Self>, key: SessionKey) -> Option<Held> {
        let (place, lock) = self.enter(key).ok()?;
        Some(Held { _guard: lock.try_lock_owned().ok()?, _place: place })
    }

    fn enter(self: &Arc<Self>, key: SessionKey) -> Result<(Place, Arc<tokio::sync::Mutex<()>>), Busy> {
        let mut table = self.table();
        let full = table.len() >= SESSIONS_AT_ONCE_MAX;
        let lock = match table.get_mut(&key) {
            Some(entry) if entry.users >= TURNS_WAITING_MAX => return Err(Busy),
            Some(entry) => {
                entry.users += 1;
                entry.lock.clone()
            }
            None if full => return Err(Busy),
            None => {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                table.insert(key, Entry { lock: lock.clone(), users: 1 });
                lock
            }
        };
        Ok((Place { locks: self.clone(), key }, lock))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<SessionKey, Entry>> {
        // Whole at every step.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.locks.table();
        if let Some(entry) = table.get_mut(&self.key) {
            entry.users -= 1;
            if entry.users == 0 {
                table.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(n: u8) -> SessionKey {
        SessionKey([n; 32])
    }

    #[test]
    fn g32_i7_threads_that_race_for_a_sessions_first_lock_get_one_lock() {
        let locks = Arc::new(Locks::default());
        for round in 0..200_u8 {
            let (inside, most, start) = (AtomicUsize::new(0), AtomicUsize::new(0), Barrier::new(TURNS_WAITING_MAX));
            std::thread::scope(|scope| {
                for _ in 0..TURNS_WAITING_MAX {
                    scope.spawn(|| {
                        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                        start.wait();
                        runtime.block_on(async {
                            let held = locks.hold(key(round)).await.unwrap();
                            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            tokio::task::yield_now().await;
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(held);
                        });
                    });
                }
            });
            assert_eq!(most.load(Ordering::SeqCst), 1, "round {round}");
        }
        assert!(locks.table().is_empty(), "no lock is left behind");
    }

    #[tokio::test]
    async fn g32_i12_waiters_and_sessions_are_bounded_and_a_waiter_that_goes_away_leaves_its_place() {
        let locks = Arc::new(Locks::default());
        let held = locks.hold(key(1)).await.unwrap();
        let waiting: Vec<_> = (1..TURNS_WAITING_MAX).map(|_| locks.enter(key(1)).ok().unwrap()).collect();
        assert!(locks.hold(key(1)).await.is_err() && locks.try_hold(key(1)).is_none());
        assert!(locks.hold(key(2)).await.is_ok(), "another session is free");
        drop(waiting);
        let mut wait = Box::pin(locks.hold(key(1)));
        assert!(futures_poll(wait.as_mut()).is_none(), "it waits");
        drop(wait);
        assert!(locks.try_hold(key(1)).is_none() && locks.try_hold(key(2)).is_some());
        drop(held);
        assert!(locks.table().is_empty());

        let many: Vec<_> = (0..SESSIONS_AT_ONCE_MAX)
            .map(|n| {
                let mut bytes = [0; 32];
                bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
                locks.enter(SessionKey(bytes)).ok().unwrap()
            })
            .collect();
        assert!(locks.hold(key(9)).await.is_err());
        drop(many);
        assert!(locks.hold(key(9)).await.is_ok());
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
