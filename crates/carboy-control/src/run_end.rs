//! The end of every run, whether it has a bottle or not: what its log says, what its counters sum up to, what is told.
//!
//! *Must never* count for one kind of run what it does not for the other.

use std::sync::Arc;
use std::time::Duration;

use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_egress::GatewayStats;
use carboy_store::audit::AuditLog;

use crate::registry::RunRecord;
use crate::session::End;
use crate::summary::{Ended, Found, Refused, Summary};
use crate::supervisor::RunError;

/// Longest wait at the end for the outcome of requests that were under way; longer than the gateway's own grace.
pub(crate) const SETTLE_WAIT_MAX: Duration = Duration::from_secs(3);

/// A run's last entry; `untold` are the endings of requests that its ledger did not hear.
pub(crate) fn event(subject: &Subject, ended: Ended, duration_ms: u64, stats: &GatewayStats, untold: usize) -> Event {
    let event = Event::new(EventType::Run, subject.clone(), "end", Outcome::Done)
        .with("exit_code", u64::from(ended.shell_code()))
        .with("duration_ms", duration_ms)
        .with("requests", stats.requests)
        .with("refusals", stats.refused())
        .with("failures", stats.failed());
    // The controller charges them in full, and says so; here it stands which run's they were.
    if untold > 0 { event.with("endings_untold", untold as u64) } else { event }
}

/// Closes a log whose last entry is written. It waits for the disk, which is no work of an async task.
pub(crate) async fn close_log(audit: &Arc<AuditLog>) -> Result<(), RunError> {
    let audit = audit.clone();
    let closed = tokio::task::spawn_blocking(move || audit.close()).await;
    closed
        .map_err(|e| RunError::System { what: "close the log", source: std::io::Error::other(e) })?
        .map_err(|e| RunError::Audit(e.to_string()))
}

/// What every run sums up to: with its log closed, and without what only a bottle has.
pub(crate) fn summary(
    record: &RunRecord,
    ended: Ended,
    duration_ms: u64,
    stats: GatewayStats,
    log: &AuditLog,
) -> Summary {
    let head = log.head();
    Summary {
        run: record.run.clone(),
        bottle: record.bottle.clone(),
        ended,
        duration_ms,
        tier: String::new(),
        requests: stats.requests,
        bytes_out: stats.bytes_out,
        bytes_in: stats.bytes_in,
        refusals: Refused::of(&stats),
        web_sockets: stats.web_sockets,
        tokens: Vec::new(),
        findings: stats.findings.into_iter().map(|(rule, count)| Found { rule, count }).collect(),
        quarantined: Vec::new(),
        noticed: Vec::new(),
        ports: Vec::new(),
        proposed: None,
        overlay: None,
        enforced: Vec::new(),
        audit_head: format!("{}:{}", head.seq, head.hash),
    }
}

/// What whoever waits for the end is told.
pub(crate) fn told<E: std::error::Error>(summary: &Result<Summary, E>) -> End {
    match summary {
        Ok(summary) => End::Run(Box::new(summary.clone())),
        Err(error) => End::Failed { message: error.to_string() },
    }
}
