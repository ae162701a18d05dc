//! The end of a run: everything in order, written down, and told to whoever waits for it.
//!
//! ```text
//! bottle gone ─► output drained ─► gateway shut ─► end event in the log ─► summary kept ─► everybody told
//! ```
//!
//! *Must never* tell an end that is not in the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use carboy_bottle::{ExitOutcome, ExitReport};
use carboy_core::budget::Shutdown;
use carboy_core::ports::{AuditSink, Clock};

use super::control::Shared;
use super::{RunError, Running};
use crate::clock::SystemClock;
use crate::propose::propose;
use crate::registry::Registration;
use crate::run_end::{self, SETTLE_WAIT_MAX};
use crate::runs;
use crate::session::Session;
use crate::summary::{Ended, Summary};

/// How long the clients of commands beside the program may take to hear of the end.
const EXECS_WAIT_MAX: Duration = Duration::from_secs(1);

impl Running {
    /// Waits for the end, tells it to whoever waits for it too, and says what happened.
    pub async fn wait(self) -> Result<Summary, RunError> {
        let (ended, farewell) = self.ended().await;
        farewell.say(&ended).await;
        ended
    }

    /// Waits for the end and says what happened, and gives what tells it to everybody else.
    pub async fn ended(mut self) -> (Result<Summary, RunError>, Farewell) {
        let ended = self.come_to_the_end().await;
        (ended, Farewell { session: self.session, shared: self.shared, registration: self.registration })
    }

    async fn come_to_the_end(&mut self) -> Result<Summary, RunError> {
        let watcher = self.shared.bottle.watcher();
        let report = tokio::task::spawn_blocking(move || watcher.wait())
            .await
            .map_err(|e| RunError::System { what: "wait for the bottle", source: std::io::Error::other(e) })?;
        self.gateway.shutdown();
        let session = self.session.clone();
        // A panic in there has been reported already; the run ends all the same.
        let _ = tokio::task::spawn_blocking(move || session.drained()).await;
        // What the program left in the middle of is written down before the end is.
        self.gateway.settled(SETTLE_WAIT_MAX).await;
        let untold = self.kept.drained().await;
        for task in &self.tasks {
            task.abort();
        }
        let ended_ms = SystemClock.now_ms();
        let stats = self.gateway.stats();
        let ended = match self.shared.in_force() {
            Some(Shutdown::Freeze) => Ended::Frozen,
            Some(Shutdown::Cutoff | Shutdown::Pause | Shutdown::Kill) | None => ended(report.outcome),
        };
        let quarantined = quarantined(&report);
        let noticed = match &mut self.noticed {
            Some(noticing) => noticing.found().await,
            None => Vec::new(),
        };
        let duration_ms = ended_ms.saturating_sub(self.started_ms);
        let tokens = self.shared.enforcing.spent(&self.shared.record.run).await;
        self.notifier.astray(&self.gateway, &self.session);
        self.notifier.ended(ended, duration_ms, stats.refused(), self.session.viewers()).await;
        let event = run_end::event(&self.shared.subject, ended, duration_ms, &stats, untold)
            .with("frozen", ended == Ended::Frozen)
            .with("quarantined", quarantined.clone())
            .with("noticed", noticed.len() as u64);
        self.audit.append_durable(event).await.map_err(|e| RunError::Audit(e.to_string()))?;
        run_end::close_log(&self.audit).await?;
        let record = &self.shared.record;
        let proposed = match self.gateway.learned() {
            Some(learned) => Some(propose(&learned).keep(&self.run_dir, &record.bottle, &record.run)?),
            None => None,
        };
        let summary = Summary {
            tier: format!("{:?}", self.shared.tier),
            tokens,
            quarantined,
            noticed,
            ports: crate::ports::reports(&self.shared.ports),
            proposed,
            overlay: self.held.as_ref().and_then(|held| Some(held.overlays.first()?.source.display().to_string())),
            enforced: self.shared.enforced(),
            ..run_end::summary(record, ended, duration_ms, stats, &self.audit)
        };
        runs::end(&self.run_dir, &summary)?;
        if let Some(keeper) = self.shared.enforcing.keeper.as_ref().filter(|_| summary.ended != Ended::Frozen) {
            keeper.forget();
        }
        Ok(summary)
    }
}

/// What is left of a run whose program has ended: those who wait for the end.
pub struct Farewell {
    session: Arc<Session>,
    shared: Arc<Shared>,
    registration: Registration,
}

impl Farewell {
    /// Tells the end and waits until it has been heard.
    pub async fn say(self, ended: &Result<Summary, RunError>) {
        let end = run_end::told(ended);
        // From here on it is one that has ended: whoever hears of the end finds no record of a living run.
        drop(self.registration);
        // A panic in there has been reported; nobody waits for anything but the end.
        let session = self.session;
        let _ = tokio::task::spawn_blocking(move || session.close(&end)).await;
        // Commands beside the program ended with it; each tells its client, if that one listens.
        let deadline = Instant::now() + EXECS_WAIT_MAX;
        while self.shared.execs.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn ended(outcome: ExitOutcome) -> Ended {
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match outcome {
        ExitOutcome::Code(code) => Ended::Code(byte(code)),
        ExitOutcome::Signal(signal) => Ended::Signal(byte(signal)),
        ExitOutcome::NotStarted(_) => Ended::NotStarted(byte(outcome.shell_code())),
        ExitOutcome::Killed => Ended::Signal(9),
    }
}

fn quarantined(report: &ExitReport) -> Vec<String> {
    let cleaned = &report.cleaned;
    let back = cleaned
        .quarantined
        .iter()
        .map(|q| format!("{}: {} ({}, kept in {})", q.path.display(), q.change, q.id, q.kept_at.display()));
    back.chain(cleaned.failed.iter().map(|what| format!("could not be put in order: {what}"))).collect()
}
