//! A request's refusal in the log, whether its client hears of it or not.
//!
//! *Must never* let a client hear of a refusal that is not on disk, or write one whose detail nobody has scanned.

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

    async fn refuse_as(&self, mut denial: Denial, id: &RefusalId, counted: Counted) -> Denial {
        let event = self.refusal(&mut denial, id, counted);
        let denial = match self.gateway.audit.append_durable(event).await {
            Ok(()) => {
                self.gateway.alert(&denial, &self.host.to_string(), Some(self.port), id);
                denial
            }
            Err(error) => Denial::new(Reason::AuditUnavailable, error.to_string()),
        };
        self.tell(denial.reason);
        denial
    }

    /// One that nobody waits for, so that nothing slows down whoever asks for more of them: its like are counted.
    pub(crate) fn refuse_unheard(&self, mut denial: Denial) {
        let (gateway, id) = (&self.gateway, refusal_id());
        let event = self.refusal(&mut denial, &id, Counted::AsRefusal);
        let note = match self.is_intended() {
            true => Note::Write { repeats: 0 }, // each intent has its outcome
            false => gateway.note(&format!("unheard {} {}", self.host, denial.reason.code()), &id),
        };
        match note {
            Note::Write { repeats } => {
                let event = if repeats > 0 { event.with("repeats", repeats) } else { event };
                // The log being full is told to the next request.
                if gateway.audit.append(event).is_ok() {
                    gateway.alert(&denial, &self.host.to_string(), Some(self.port), &id);
                }
            }
            Note::Counted { .. } => {}
        }
    }

    /// Ends it with a refusal, and makes the entry for that.
    fn refusal(&self, denial: &mut Denial, id: &RefusalId, counted: Counted) -> Event {
        // Routes quote the path that they refuse, and nobody has scanned that yet.
        denial.detail = self.gateway.clean(&denial.detail);
        self.ended.store(true, Ordering::Relaxed);
        self.settle();
        self.gateway.count(|stats| match counted {
            Counted::AsRefusal => stats.refuse(&*denial, &self.host.to_string(), Some(self.port), id),
            Counted::AsWebSocket => stats.web_sockets += 1,
        });
        let mut state = self.state.lock().expect("no panic under this lock");
        if let Some((reason, flaw, asked)) = state.learned.take() {
            let connection = LearnedRequest::connection(&self.host, self.port, reason, id);
            self.gateway.keep(LearnedRequest { request: asked, flaw, ..connection });
        }
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
