//! The end of what is a run without a sandbox of its own, a chat agent or a proxy: settled, written down, summed up.
//!
//! *Must never* sum up an end that is not in the log.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::audit::{Event, EventType, Outcome};
use carboy_core::ports::{AuditSink, Clock};
use carboy_egress::Gateway;
use carboy_store::audit::AuditLog;

use crate::clock::SystemClock;
use crate::notify::Notifier;
use crate::runs;
use crate::session::{End, Session};
use crate::standing::Standing;
use crate::summary::{Ended, Found, Refused, Summary};
use crate::supervisor::RunError;
use crate::supervisor::enforce::spent;
use crate::supervisor::keeping::Kept;

/// Longest wait at the end for the outcome of requests that were under way; longer than the gateway's own grace.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(3);

/// What comes to its end. Its way out is closed by then.
pub(crate) struct Closing<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) audit: &'a Arc<AuditLog>,
    pub(crate) standing: &'a Standing,
    pub(crate) notifier: &'a Notifier,
    pub(crate) session: &'a Session,
    pub(crate) kept: &'a Kept,
    pub(crate) tasks: &'a [tokio::task::JoinHandle<()>],
    pub(crate) started_ms: u64,
    pub(crate) run_dir: &'a Path,
    pub(crate) tier: &'a str,
}

impl Closing<'_> {
    /// Waits for what was under way, writes the end down, and sums up.
    pub(crate) async fn close(self, ended: Ended) -> Result<Summary, RunError> {
        self.gateway.settled(SETTLE_WAIT_MAX).await;
        let untold = self.kept.drained().await;
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let record = self.standing.record.clone();
        let duration_ms = SystemClock.now_ms().saturating_sub(self.started_ms);
        let stats = self.gateway.stats();
        let tokens = match &self.standing.controller {
            Some(controller) => spent(controller, &record.run).await,
            None => Vec::new(),
        };
        self.notifier.ended(ended, duration_ms, stats.refused(), self.session.viewers()).await;
        let event = Event::new(EventType::Run, self.standing.subject.clone(), "end", Outcome::Done)
            .with("exit_code", u64::from(ended.shell_code()))
            .with("duration_ms", duration_ms)
            .with("requests", stats.requests)
            .with("refusals", stats.refused())
            .with("failures", stats.failed());
        let event = if untold > 0 { event.with("endings_untold", untold as u64) } else { event };
        self.audit.append_durable(event).await.map_err(|e| RunError::Audit(e.to_string()))?;
        let audit = self.audit.clone();
        let closed = tokio::task::spawn_blocking(move || audit.close()).await;
        closed
            .map_err(|e| RunError::System { what: "close the log", source: std::io::Error::other(e) })?
            .map_err(|e| RunError::Audit(e.to_string()))?;
        let head = self.audit.head();
        let summary = Summary {
            run: record.run,
            bottle: record.bottle,
            ended,
            duration_ms,
            tier: self.tier.to_owned(),
            requests: stats.requests,
            bytes_out: stats.bytes_out,
            bytes_in: stats.bytes_in,
            refusals: Refused::of(&stats),
            web_sockets: stats.web_sockets,
            tokens,
            findings: stats.findings.into_iter().map(|(rule, count)| Found { rule, count }).collect(),
            quarantined: Vec::new(),
            noticed: Vec::new(),
            ports: Vec::new(),
            proposed: None,
            overlay: None,
            enforced: self.standing.enforced(),
            audit_head: format!("{}:{}", head.seq, head.hash),
        };
        runs::end(self.run_dir, &summary)?;
        Ok(summary)
    }
}

/// Tells the end to whoever waits for it.
pub(crate) async fn told<E: std::error::Error>(session: Arc<Session>, summary: &Result<Summary, E>) {
    let end = match summary {
        Ok(summary) => End::Run(Box::new(summary.clone())),
        Err(error) => End::Failed { message: error.to_string() },
    };
    // A panic in there has been reported; nobody waits for anything but the end.
    let _ = tokio::task::spawn_blocking(move || session.close(&end)).await;
}
