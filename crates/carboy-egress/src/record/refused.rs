//! A request's refusal in the log, whether its client hears of it or not.

use std::sync::atomic::Ordering;

use carboy_core::audit::{Event, Outcome};
use carboy_core::ids::RefusalId;
use carboy_core::route::RouteSet;
use carboy_core::verdict::{Denial, Layer, Reason};
use carboy_wire::format::WireFormat;

use super::Exchange;
use crate::gateway::refusal_id;
use crate::learn::LearnedRequest;
use crate::repeats::Note;

/// What a refusal is to the run's counters.
#[derive(Clone, Copy)]
enum Counted {
    AsRefusal,
    AsWebSocket,
}

impl Exchange {
    /// A refusal, or the end of an exchange that is cut off; durable when this returns. The denial that comes back is
    /// the one to answer with: without a log, that one is always `audit_unavailable`.
    pub(crate) async fn refuse(&self, denial: Denial, id: &RefusalId) -> Denial {
        self.refuse_as(denial, id, Counted::AsRefusal).await
    }

    /// The same for an upgrade that its client does without: it is in the log like any other.
    pub(crate) async fn refuse_upgrade(&self, denial: Denial, id: &RefusalId) -> Denial {
        let counted = if self.asks_a_model() { Counted::AsWebSocket } else { Counted::AsRefusal };
        self.refuse_as(denial, id, counted).await
    }

    /// Does a model answer behind this host, by its name or by what its routes say?
    fn asks_a_model(&self) -> bool {
        let metered = |routes: &RouteSet| routes.iter().any(|r| r.meter.is_some() && r.host.matches(&self.host));
        WireFormat::of_request(None, &self.host, "/").is_some()
            || self.gateway.routes_known().is_ok_and(|routes| metered(&routes))
    }

    async fn refuse_as(&self, denial: Denial, id: &RefusalId, counted: Counted) -> Denial {
        let denial = self.over(denial);
        let host = self.host.to_string();
        self.gateway.count(|stats| match counted {
            Counted::AsRefusal => stats.refuse(&denial, &host, Some(self.port), id),
            Counted::AsWebSocket => stats.web_sockets += 1,
        });
        let event = self.refusal(&denial, id);
        let denial = match self.gateway.audit.append_durable(event).await {
            Ok(()) => {
                self.gateway.alert(&denial, &host, Some(self.port), id);
                denial
            }
            Err(error) => Denial::new(Reason::AuditUnavailable, error.to_string()),
        };
        self.tell(denial.reason);
        denial
    }

    /// A refusal whose client did not wait for it: one event for the first of its kind, a count for its repeats. It waits no
    /// more, so nothing else slows a program down that leaves each time.
    pub(super) fn refuse_unheard(&self, denial: Denial) {
        let denial = self.over(denial);
        let (host, fresh) = (self.host.to_string(), refusal_id());
        let (id, repeats) = match self.gateway.note(&format!("request {host} {} {denial}", self.port), &fresh) {
            Note::Write { repeats } => (fresh, Some(repeats)),
            Note::Counted { under } => (under.unwrap_or(fresh), None),
        };
        self.gateway.count(|stats| stats.refuse(&denial, &host, Some(self.port), &id));
        let event = self.refusal(&denial, &id);
        if let Some(repeats) = repeats {
            let event = if repeats > 0 { event.with("repeats", repeats) } else { event };
            // Nobody is there to be told; the log being full is told to the next request.
            let _ = self.gateway.audit.append(event);
        }
    }

    /// Nothing comes after this refusal; gives it as the log may have it.
    fn over(&self, mut denial: Denial) -> Denial {
        // Routes quote the path that they refuse, and nobody has scanned that yet.
        denial.detail = self.gateway.clean(&denial.detail);
        self.state.lock().expect("no panic under this lock").refused = None;
        self.ended.store(true, Ordering::Relaxed);
        self.settle();
        denial
    }

    /// A refusal's event; a run that learns keeps it as well.
    fn refusal(&self, denial: &Denial, id: &RefusalId) -> Event {
        let learned = self.state.lock().expect("no panic under this lock").learned.take();
        if let Some((reason, flaw, asked)) = learned {
            let connection = LearnedRequest::connection(&self.host, self.port, reason, id);
            self.gateway.keep(LearnedRequest { request: asked, flaw, ..connection });
        }
        let state = self.state.lock().expect("no panic under this lock");
        let how = match (state.intent_written, denial.decided_by) {
            (false, _) => Outcome::Denied,
            (true, Layer::Upstream) => Outcome::Failed,
            (true, _) => Outcome::Blocked,
        };
        let mut event = self.outcome("request", how, &state);
        if let Some(rule) = &denial.rule {
            event = event.with("rule", rule.as_str());
        }
        if !state.misfits.is_empty() {
            event = event.with("misfit", state.misfits.clone());
        }
        event
            .with("reason", denial.reason.code())
            .with("decided_by", format!("{:?}", denial.decided_by).to_lowercase())
            .with("detail", denial.detail.clone())
            .with("refusal", id.as_str())
    }
}
