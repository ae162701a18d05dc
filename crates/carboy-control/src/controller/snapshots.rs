//! How everything stands, for those who watch: taken once for all of them, at most ten times a second.
//!
//! *Must never* keep a snapshot for whoever is slow: they get the one after it.

use std::sync::Arc;
use std::time::Duration;

use carboy_core::budget::BudgetSet;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::keeper::Keeper;

/// Shortest time between two snapshots.
pub const SNAPSHOT_EVERY_MIN: Duration = Duration::from_millis(100);
/// Longest: rates fall while nothing happens.
pub const SNAPSHOT_EVERY_MAX: Duration = Duration::from_secs(1);

/// Where snapshots are had.
pub struct Snapshots {
    latest: watch::Sender<Option<Arc<str>>>,
    wanted: Arc<Notify>,
}

/// One who watches.
pub struct Watcher(watch::Receiver<Option<Arc<str>>>);

impl Watcher {
    /// The latest one that was not seen yet; `None` when the controller ends. Dropped while it waits, it loses nothing.
    pub async fn latest(&mut self) -> Option<Arc<str>> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(text) = self.0.borrow_and_update().clone() {
                return Some(text);
            }
        }
    }
}

impl Snapshots {
    /// Nobody watches yet.
    pub fn new() -> Snapshots {
        Snapshots { latest: watch::Sender::new(None), wanted: Arc::default() }
    }

    /// Watches from now on; the first one comes at once.
    pub fn subscribe(&self) -> Watcher {
        let mut receiver = self.latest.subscribe();
        receiver.mark_unchanged();
        self.wanted.notify_one();
        Watcher(receiver)
    }

    /// Takes them, while anybody watches, until it is aborted.
    pub async fn take(&self, keeper: Arc<Keeper>) {
        let mut changes = keeper.changes();
        loop {
            if self.latest.receiver_count() == 0 {
                self.wanted.notified().await;
            }
            let begun = Instant::now();
            changes.mark_unchanged();
            // A ledger that cannot be asked is not shown; it is again when it can.
            if let Ok(text) = text(&keeper, Vec::new()).await {
                self.latest.send_replace(Some(text.into()));
            }
            tokio::time::sleep_until(begun + SNAPSHOT_EVERY_MIN).await;
            tokio::select! {
                _ = changes.changed() => {}
                () = self.wanted.notified() => {}
                () = tokio::time::sleep_until(begun + SNAPSHOT_EVERY_MAX) => {}
            }
        }
    }
}

/// One snapshot, as JSON.
pub(super) async fn text(keeper: &Keeper, foreseen: Vec<BudgetSet>) -> Result<String, String> {
    let mut snapshot = keeper.engine().foreseen(foreseen).await.map_err(|e| e.to_string())?;
    snapshot.failing = snapshot.failing.or_else(|| keeper.unlogged());
    serde_json::to_string(&snapshot).map_err(|e| e.to_string())
}
