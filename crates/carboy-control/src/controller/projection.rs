//! What the ledger enforced, brought into the audit log: each event once (C18).
//!
//! ```text
//!  ledger row + event (one commit) ─► log entry with `ledger: N` (durable) ─► "up to N stands in the log"
//!                                              │
//!                    a crash here: the log itself says which number came last
//! ```
//!
//! *Must never* mark what is not on disk in the log, or go on admitting while the log refuses.

use std::sync::Arc;

use carboy_core::audit::ChainKey;
use carboy_core::ports::{AuditSink, Clock};
use carboy_store::StoreError;
use carboy_store::audit::{AuditLog, Query, query};
use carboy_store::ledger::NumberedEvent;
use tokio::sync::watch;

use super::keeper::{Keeper, RETRY_AFTER};
use crate::clock::SystemClock;
use crate::home::Home;

/// Events that are brought over at once.
const BATCH: usize = 256;
/// The particular that holds an event's number.
const NUMBER: &str = "ledger";

/// Gives the key of the log's chain, each time the log is opened: a key is never copied.
pub type KeySource = Box<dyn Fn() -> Result<ChainKey, String> + Send + Sync>;

/// Brings events over, until it is aborted.
pub struct Projection {
    keeper: Arc<Keeper>,
    home: Home,
    key: KeySource,
    log: Option<Arc<AuditLog>>,
    /// The last number that may stand in the log already; `None` until it was looked for. Once everything that waited was
    /// brought over, whatever comes is new: numbers that stand in the log beyond it are those of a ledger that was another.
    last: Option<u64>,
}

/// What stands in the way of the log.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    /// The log itself.
    #[error(transparent)]
    Log(#[from] StoreError),
    /// Something else, in words.
    #[error("{0}")]
    Words(String),
}

impl Projection {
    /// Into the log of this home, which is opened at once.
    pub async fn open(keeper: Arc<Keeper>, home: &Home, key: KeySource) -> Result<Projection, Stuck> {
        let mut projection = Projection { keeper, home: home.clone(), key, log: None, last: None };
        projection.log().await?;
        Ok(projection)
    }

    /// Everything that waits, and then whatever comes.
    pub async fn go_on(mut self, mut recorded: watch::Receiver<()>) {
        loop {
            match self.bring_over().await {
                Ok(()) => {
                    self.keeper.log_is(None);
                    if recorded.changed().await.is_err() {
                        return;
                    }
                }
                Err(stuck) => {
                    self.keeper.log_is(Some(stuck.to_string()));
                    // A log that was moved away is opened anew, and looked into: some of it may have been written.
                    (self.log, self.last) = (None, None);
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Everything that does not stand in the log yet.
    async fn bring_over(&mut self) -> Result<(), Stuck> {
        loop {
            let unavailable = |e: carboy_store::ledger::Unavailable| Stuck::Words(e.to_string());
            let events = self.keeper.engine().unprojected_events(BATCH).await.map_err(unavailable)?;
            let Some(newest) = events.last().map(|event| event.number) else { return self.writable().await };
            let last = match self.last {
                Some(last) => last,
                None => self.last_in_log(&events).await?,
            };
            let all = events.len() < BATCH;
            self.append(events.into_iter().filter(|event| event.number > last)).await?;
            self.last = Some(if all { newest } else { newest.max(last) });
            self.keeper.engine().mark_projected(newest).await.map_err(unavailable)?;
        }
    }

    /// The log, opened anew where it was lost.
    async fn log(&mut self) -> Result<Arc<AuditLog>, Stuck> {
        if let Some(log) = &self.log {
            return Ok(log.clone());
        }
        let (path, key) = (self.home.audit_log(), (self.key)().map_err(Stuck::Words)?);
        let open = move || AuditLog::open(&path, key, Arc::new(SystemClock));
        let log = tokio::task::spawn_blocking(open).await.map_err(|e| Stuck::Words(e.to_string()))??;
        let log = Arc::new(log);
        self.log = Some(log.clone());
        Ok(log)
    }

    /// After a failure: it is over when the log opens.
    async fn writable(&mut self) -> Result<(), Stuck> {
        self.log().await.map(|_| ())
    }

    async fn append(&mut self, events: impl Iterator<Item = NumberedEvent>) -> Result<(), Stuck> {
        let log = self.log().await?;
        // Each takes its place in the order at once; the last one's durability is that of all.
        let mut durable = Vec::new();
        for NumberedEvent { number, event, .. } in events {
            durable.push(log.append_durable(event.with(NUMBER, number)));
        }
        for written in durable {
            written.await.map_err(|e| Stuck::Words(e.to_string()))?;
        }
        Ok(())
    }

    /// The highest number in the log since the oldest event that waits: what a crash left between log and mark.
    async fn last_in_log(&self, events: &[NumberedEvent]) -> Result<u64, Stuck> {
        let since_ms = events.first().map(|event| event.at_ms);
        let path = self.home.audit_log();
        let look = move || query(&path, &Query { since_ms, ..Query::default() });
        let found = tokio::task::spawn_blocking(look).await.map_err(|e| Stuck::Words(e.to_string()))??;
        let number = |entry: &carboy_core::audit::Entry| entry.detail(NUMBER)?.as_u64();
        Ok(found.entries.iter().filter_map(number).max().unwrap_or(0))
    }
}

/// Milliseconds since 1970, for what is said to people.
pub(super) fn now_ms() -> u64 {
    SystemClock.now_ms()
}
