//! What the engine writes down: every decision exactly once, in typed fields (I8, G81).
//!
//! ```text
//! refusal, intent, answer to an ask       ─▶ append_durable: nothing happens before it is on disk
//! call, redaction, end of a turn, repeats ─▶ append: in the chain at once, durable within 100 ms
//! ```
//!
//! People and sessions are keyed hashes, and the words of a message, a reply, an argument or a result are nowhere (G40). A log
//! that cannot be written stops what was going to be done. *Must never* take a name from a model: a tool is written by its own
//! name, or as `unknown`.

use std::sync::Arc;

use carboy_core::audit::{Detail, Event, EventType, Outcome, Subject};
use carboy_core::ports::AuditSink;
use carboy_guard::output::Redaction;

use crate::layers::limiter::Limited;
use crate::metrics::{Counter, Metrics};
use crate::outcome::TurnError;

/// What an entry of a request beyond a limit is called, and what its repeats are repeats of.
pub(crate) const RATE_LIMIT_EXCEEDED: &str = "rate_limit_exceeded";

/// The log as one request of one person sees it.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) sink: Arc<dyn AuditSink>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) subject: Subject,
    /// The session, as a keyed hash.
    pub(crate) session: String,
    /// The turn, from 1; 0 before there is one.
    pub(crate) turn: u32,
}

impl Record {
    /// An event of this session.
    pub(crate) fn event(&self, event_type: EventType, action: &'static str, result: Outcome) -> Event {
        self.placed(Event::new(event_type, self.subject.clone(), action, result))
    }

    /// The event, with the session and the turn that it belongs to.
    pub(crate) fn placed(&self, event: Event) -> Event {
        let event = event.with("session", self.session.as_str());
        if self.turn == 0 { event } else { event.with("turn", u64::from(self.turn)) }
    }

    /// Writes it down; ready when it is on disk.
    pub(crate) async fn durable(&self, event: Event) -> Result<(), TurnError> {
        self.sink.append_durable(event).await.map_err(|_| unwritable())
    }

    /// Writes it down.
    pub(crate) fn note(&self, event: Event) -> Result<(), TurnError> {
        self.sink.append(event).map_err(|_| unwritable())
    }

    /// A request beyond a limit (G80), the first of its key.
    pub(crate) async fn rate_limited(&self, limited: &Limited) -> Result<(), TurnError> {
        let event = self
            .event(EventType::RateLimit, RATE_LIMIT_EXCEEDED, Outcome::Denied)
            .with("limit", limited.rule.as_str())
            .with("max", u64::from(limited.max))
            .with("window", limited.window)
            .with("retry_after_s", u64::from(limited.retry_after_s));
        self.durable(event).await
    }

    /// A message that looks like an attack (G76, G81). A blocked one is on disk before anybody is told.
    pub(crate) async fn injection(
        &self,
        result: Outcome,
        confidence_percent: u8,
        patterns: &[String],
    ) -> Result<(), TurnError> {
        self.metrics.count(Counter::InjectionDetected);
        let event = self
            .event(EventType::Security, "injection_detected", result)
            .with("confidence", Detail::hundredths(confidence_percent))
            .with("patterns", patterns.to_vec());
        self.durable(event).await
    }

    /// A call that its principal may not make. `by` is the rule or the tool.
    pub(crate) async fn unauthorized(&self, tool: &str, by: &'static str) -> Result<(), TurnError> {
        self.metrics.count(Counter::AuthorizationDenied);
        let event =
            self.event(EventType::Tool, "authorization_denied", Outcome::Denied).with("tool", tool).with("by", by);
        self.durable(event).await
    }

    /// A call that was refused before it ran: `invalid_arguments`, `not_yet`, `unknown_tool`.
    pub(crate) fn refused_call(&self, tool: &str, code: &'static str) -> Result<(), TurnError> {
        self.metrics.count(Counter::ToolErrors);
        self.note(self.event(EventType::Tool, "tool_refused", Outcome::Denied).with("tool", tool).with("code", code))
    }

    /// So many calls of one answer beyond those that are looked at: one event for all of them.
    pub(crate) fn beyond(&self, calls: u64) -> Result<(), TurnError> {
        self.metrics.add(Counter::ToolErrors, calls);
        let event = self.event(EventType::Tool, "tool_refused", Outcome::Denied);
        self.note(event.with("code", "too_many_calls").with("calls", calls))
    }

    /// A call that ran: `code` is `ok` or the tool's word for its no.
    pub(crate) fn ran(&self, tool: &str, code: &str, result: Outcome) -> Result<(), TurnError> {
        let action = match result {
            Outcome::Failed | Outcome::Denied => {
                self.metrics.count(Counter::ToolErrors);
                "tool_error"
            }
            Outcome::Allowed | Outcome::Redacted | Outcome::Warned | Outcome::Blocked | Outcome::Done => "tool_call",
        };
        self.note(self.event(EventType::Tool, action, result).with("tool", tool).with("code", code))
    }

    /// A write that is going to be done. On disk before it is.
    pub(crate) async fn intent(&self, tool: &str, idempotency_key: &str, attempt: u32) -> Result<(), TurnError> {
        let event = self
            .event(EventType::Tool, "write_intent", Outcome::Allowed)
            .with("tool", tool)
            .with("idempotency_key", idempotency_key)
            .with("attempt", u64::from(attempt));
        self.durable(event).await
    }

    /// How a write ended: `ok`, the tool's word for its no, or `unknown`.
    pub(crate) async fn outcome(
        &self,
        tool: &str,
        idempotency_key: &str,
        code: &str,
        result: Outcome,
    ) -> Result<(), TurnError> {
        match result {
            Outcome::Failed | Outcome::Denied => self.metrics.count(Counter::ToolErrors),
            Outcome::Allowed | Outcome::Redacted | Outcome::Warned | Outcome::Blocked | Outcome::Done => {}
        }
        let event = self
            .event(EventType::Tool, "write_outcome", result)
            .with("tool", tool)
            .with("idempotency_key", idempotency_key)
            .with("code", code);
        self.durable(event).await
    }

    /// Parts of a reply that were overwritten (G68, G79): one event for each kind, without their values.
    pub(crate) fn redacted(&self, redactions: &[Redaction]) -> Result<(), TurnError> {
        for redaction in redactions {
            self.metrics.add(Counter::Redactions, redaction.count.into());
            let event = self.event(EventType::Security, "redaction", Outcome::Redacted);
            self.note(event.with("kind", redaction.kind.as_str()).with("count", u64::from(redaction.count)))?;
        }
        Ok(())
    }

    /// A reply that no person sees, and the checks that it failed (G26, G27).
    pub(crate) async fn withheld(&self, violations: &[String]) -> Result<(), TurnError> {
        let event = self.event(EventType::Security, "reply_withheld", Outcome::Blocked);
        self.durable(event.with("violations", violations.to_vec())).await
    }
}

fn unwritable() -> TurnError {
    TurnError::Unavailable { what: "the audit log" }
}
