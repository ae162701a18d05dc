//! The end of a chat agent: everything settled, written down, and told to whoever waits for it.
//!
//! *Must never* tell an end that is not in the log.

use std::time::Duration;

use carboy_core::audit::{Event, EventType, Outcome};
use carboy_core::ports::{AuditSink, Clock};

use super::{ChatError, ChatHost, bottles};
use crate::clock::SystemClock;
use crate::runs;
use crate::session::End;
use crate::summary::{Ended, Found, Refused, Summary};
use crate::supervisor::RunError;
use crate::supervisor::enforce::spent;

/// Longest wait at the end for the outcome of requests that were under way; longer than the gateway's own grace.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(3);

impl ChatHost {
    /// Ends it: everything settled and written down, and told to whoever waits for it.
    pub async fn end(mut self, ended: Ended) -> Result<Summary, ChatError> {
        let summary = self.come_to_the_end(ended).await;
        let end = match &summary {
            Ok(summary) => End::Run(Box::new(summary.clone())),
            Err(error) => End::Failed { message: error.to_string() },
        };
        // Whoever hears of the end finds no record of a living run.
        drop(self.registration);
        let session = self.session;
        // A panic in there has been reported; nobody waits for anything but the end.
        let _ = tokio::task::spawn_blocking(move || session.close(&end)).await;
        summary
    }

    async fn come_to_the_end(&mut self, ended: Ended) -> Result<Summary, ChatError> {
        // While there is a way out.
        if let Some(webhooks) = self.webhooks.take() {
            webhooks.close().await;
        }
        self.gateway.shutdown();
        self.bottle.end().await;
        self.gateway.settled(SETTLE_WAIT_MAX).await;
        let untold = self.kept.drained().await;
        for task in &self.tasks {
            task.abort();
        }
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
        self.audit.append_durable(event).await.map_err(|e| ChatError::Audit(e.to_string()))?;
        let audit = self.audit.clone();
        let closed = tokio::task::spawn_blocking(move || audit.close()).await;
        closed
            .map_err(|e| RunError::System { what: "close the log", source: std::io::Error::other(e) })?
            .map_err(|e| ChatError::Audit(e.to_string()))?;
        if let Some(offline) = self.offline.take() {
            offline.stop().await;
        }
        let head = self.audit.head();
        let summary = Summary {
            run: record.run,
            bottle: record.bottle,
            ended,
            duration_ms,
            tier: bottles::TIER.to_owned(),
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
        runs::end(&self.run_dir, &summary)?;
        Ok(summary)
    }
}
