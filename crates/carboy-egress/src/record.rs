//! One request in the audit log.
//!
//! An allowed request is two events: `request` in the chain before a byte of it leaves (the intent, with what was
//! decided and by which rule), and `answer` when its answer has ended and its body has left (the outcome, with status,
//! bytes and time). A
//! refusal is one `request` event, durable before the client is told. An exchange that is cut off on the way has
//! the intent and a durable `request` event with result `blocked` that says how many bytes had left.
//!
//! *Must never* write a query, a header value or body text: paths go through the detectors first.

mod refused;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use carboy_core::audit::{Event, EventType, Outcome};
use carboy_core::budget::Usage;
use carboy_core::finding::Finding;
use carboy_core::host::Host;
use carboy_core::ids::RouteId;
use carboy_core::ports::Errand;
use carboy_core::route::{GitUse, Misfit, RequestFacts, RoutePermit, RouteSet, git_use};
use carboy_core::verdict::{Denial, Reason};
use carboy_wire::format::WireFormat;
use http::{Method, Request, Version};
use tokio::sync::OwnedSemaphorePermit;

use crate::alert::finding_words;
use crate::gateway::Gateway;
use crate::hold::{Charged, HeldFacts};
use crate::inside::Told;
use crate::learn::Asked;
use crate::sending::Sending;
use crate::speaks::{ClientForm, Speaks};

/// Findings that one exchange keeps; the rest only count in the statistics.
const FINDINGS_MAX: usize = 64;

/// The running record of one request.
pub(crate) struct Exchange {
    gateway: Arc<Gateway>,
    number: u64,
    /// The WebSocket that carries it, by the number of its opening.
    carried_by: Option<u64>,
    started: Instant,
    method: String,
    host: Host,
    port: u16,
    path: String,
    /// The path in the log is not the one that was asked for: something was taken out of it, or it was too long.
    path_altered: bool,
    git: GitUse,
    http: &'static str,
    client: ClientForm,
    state: Mutex<State>,
    /// Request body bytes handed to the upstream.
    pub(crate) sent: AtomicU64,
    /// Answer body bytes handed to the client.
    pub(crate) received: AtomicU64,
    ended: AtomicBool,
    /// The way of its body, where that is read as it flows.
    pub(crate) sending: Mutex<Sending>,
    /// One of the requests that may be in work at once, until all of it is over.
    place: Option<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct State {
    rule: Option<RouteId>,
    permit: Option<RoutePermit>,
    /// The path that is sent, where it is another than the one that was asked for.
    sent_path: Option<String>,
    /// What of the nearest route the request did not fit.
    misfits: Vec<String>,
    /// For the proposal of a run that learns.
    learned: Option<(Reason, Option<Reason>, Option<Asked>)>,
    format: Option<WireFormat>,
    model: bool,
    status: Option<u16>,
    intent_written: bool,
    redacted: bool,
    findings: Vec<Finding>,
    held: Option<HeldFacts>,
    charged: Option<(Usage, Charged)>,
    /// It is a request of ours: whoever sent it hears here why it was refused or cut.
    told: Option<Arc<Told>>,
}

impl Exchange {
    pub(crate) fn open<B>(gateway: &Arc<Gateway>, host: &Host, port: u16, request: &Request<B>) -> Arc<Exchange> {
        gateway.opened();
        let path = gateway.clean(request.uri().path());
        let facts = RequestFacts {
            method: request.method().as_str(),
            path: request.uri().path(),
            query: request.uri().query().unwrap_or(""),
            headers: &[],
        };
        Arc::new(Exchange {
            number: gateway.next_request(),
            carried_by: None,
            started: Instant::now(),
            method: shown_method(gateway, request.method()),
            host: host.clone(),
            port,
            path_altered: path != request.uri().path(),
            path,
            git: git_use(&facts),
            http: match request.version() {
                Version::HTTP_2 => "2",
                Version::HTTP_10 => "1.0",
                _ => "1.1",
            },
            client: ClientForm::of(request),
            state: Mutex::new(State {
                // Until a route says more: a refusal before that should be readable for a model's client too.
                format: WireFormat::of_request(None, host, request.uri().path()),
                ..State::default()
            }),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            sending: Mutex::default(),
            place: gateway.requests_now.clone().try_acquire_owned().ok(),
            gateway: gateway.clone(),
        })
    }

    /// One request of the many that a WebSocket carries: the same host, path and rule, a record of its own.
    pub(crate) fn carried(self: &Arc<Exchange>) -> Arc<Exchange> {
        self.gateway.opened();
        let state = {
            let own = self.state.lock().expect("no panic under this lock");
            State {
                rule: own.rule.clone(),
                permit: own.permit.clone(),
                sent_path: own.sent_path.clone(),
                format: own.format,
                model: own.model,
                ..State::default()
            }
        };
        Arc::new(Exchange {
            gateway: self.gateway.clone(),
            number: self.gateway.next_request(),
            carried_by: Some(self.number),
            started: Instant::now(),
            method: self.method.clone(),
            host: self.host.clone(),
            port: self.port,
            path: self.path.clone(),
            path_altered: self.path_altered,
            git: self.git,
            http: self.http,
            client: self.client.clone(),
            state: Mutex::new(state),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            sending: Mutex::default(),
            place: self.gateway.requests_now.clone().try_acquire_owned().ok(),
        })
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Is there room for this request beside the others?
    pub(crate) fn placed(&self) -> Result<(), Denial> {
        let most = self.gateway.limits.requests_max;
        let full = || Denial::new(Reason::LimitReached, format!("{most} requests at once"));
        self.place.as_ref().map(|_| ()).ok_or_else(full)
    }

    /// A route took it; `asked` is the path as it came.
    pub(crate) fn routed(&self, permit: &RoutePermit, asked: &str) {
        let route = permit.route();
        let mut state = self.state.lock().expect("no panic under this lock");
        state.rule = Some(route.id.clone());
        state.permit = Some(permit.clone());
        if asked != permit.path() {
            state.sent_path = Some(self.gateway.clean(permit.path()));
        }
        state.format = WireFormat::of_request(route.meter.as_ref(), &self.host, permit.path());
        // The path is the client's to choose; whether a model answers is the route's and the host's to say.
        state.model = route.meter.is_some() || WireFormat::of_request(None, &self.host, "/").is_some();
    }

    /// No route took it: what of the nearest one did not fit.
    pub(crate) fn missed(&self, misfits: &[Misfit]) {
        let words = misfits.iter().map(Misfit::word).collect();
        self.state.lock().expect("no panic under this lock").misfits = words;
    }

    /// A rehearsal is over: there was no route.
    pub(crate) fn forget_route(&self) {
        let mut state = self.state.lock().expect("no panic under this lock");
        (state.rule, state.permit, state.sent_path) = (None, None, None);
    }

    /// Keeps the refusal that follows for the run's proposal.
    pub(crate) fn learn(&self, reason: Reason, flaw: Option<Reason>, asked: Option<Asked>) {
        self.state.lock().expect("no panic under this lock").learned = Some((reason, flaw, asked));
    }

    /// Would these routes let it through as well? What was not let through yet has nothing to lose.
    pub(crate) fn stands(&self, routes: &RouteSet) -> bool {
        let state = self.state.lock().expect("no panic under this lock");
        state.permit.as_ref().is_none_or(|permit| routes.stands(permit, &self.host, self.port))
    }

    /// It is a request of ours.
    pub(crate) fn tells(&self, told: Arc<Told>) {
        self.state.lock().expect("no panic under this lock").told = Some(told);
    }

    /// Is it a request of ours, and not of a bottle?
    pub(crate) fn is_ours(&self) -> bool {
        self.state.lock().expect("no panic under this lock").told.is_some()
    }

    /// What it is for.
    pub(crate) fn errand(&self) -> Errand {
        self.state.lock().expect("no panic under this lock").told.as_ref().map_or(Errand::Work, |told| told.errand())
    }

    /// How long its refusal waits. The breaker counts what one program asks; behind requests of ours are many people.
    pub(crate) fn refusal_wait(&self, denial: &Denial) -> Duration {
        if self.is_ours() { self.gateway.even_wait() } else { self.gateway.refusal_wait(denial) }
    }

    pub(crate) fn tell(&self, reason: Reason) {
        if let Some(told) = &self.state.lock().expect("no panic under this lock").told {
            told.set(reason);
        }
    }

    /// Is its intent in the log?
    fn is_intended(&self) -> bool {
        self.state.lock().expect("no panic under this lock").intent_written
    }

    /// Is it over?
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Is the upstream a model's interface?
    pub(crate) fn is_model(&self) -> bool {
        self.state.lock().expect("no panic under this lock").model
    }

    /// The client's protocol, for the form of a refusal.
    pub(crate) fn speaks(&self) -> Speaks<'_> {
        self.client.speaks(self.state.lock().expect("no panic under this lock").format)
    }

    /// So much is held for it now.
    pub(crate) fn holds(&self, facts: HeldFacts) {
        self.state.lock().expect("no panic under this lock").held = Some(facts);
    }

    /// So much is charged for it.
    pub(crate) fn charged(&self, usage: Usage, how: Charged) {
        self.state.lock().expect("no panic under this lock").charged = Some((usage, how));
    }

    /// The number by which the log and the gateway know it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn answered(&self, status: u16) {
        self.state.lock().expect("no panic under this lock").status = Some(status);
    }

    pub(crate) fn found(&self, findings: Vec<Finding>, redacted: bool) {
        if findings.is_empty() {
            return;
        }
        self.gateway.count(|stats| stats.found(&findings));
        let mut state = self.state.lock().expect("no panic under this lock");
        state.redacted |= redacted;
        let room = FINDINGS_MAX.saturating_sub(state.findings.len());
        state.findings.extend(findings.into_iter().take(room));
    }

    /// Intent: in the chain before the first byte leaves.
    pub(crate) fn allow(&self) -> Result<(), Denial> {
        let event = {
            let mut state = self.state.lock().expect("no panic under this lock");
            state.intent_written = true;
            self.event("request", if state.redacted { Outcome::Redacted } else { Outcome::Allowed }, &state)
        };
        self.gateway.audit.append(event).map_err(|error| Denial::new(Reason::AuditUnavailable, error.to_string()))
    }

    /// Writes the outcome of an exchange that ended by itself or with its client; at most once.
    pub(crate) fn conclude(&self, how: Outcome) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let event = {
            let state = self.state.lock().expect("no panic under this lock");
            let how = if how == Outcome::Done && state.redacted {
                Outcome::Redacted
            } else if how == Outcome::Done && !state.findings.is_empty() {
                Outcome::Warned
            } else {
                how
            };
            self.outcome("answer", how, &state)
        };
        self.settle();
        // The log being full is told to the next request: this one is over, and its intent is in the chain.
        let _ = self.gateway.audit.append(event);
    }

    fn settle(&self) {
        let (sent, received) = (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed));
        self.gateway.count(|stats| {
            stats.bytes_out += sent;
            stats.bytes_in += received;
        });
    }

    fn event(&self, action: &'static str, how: Outcome, state: &State) -> Event {
        let mut event = Event::new(EventType::Egress, self.gateway.subject.clone(), action, how)
            .with("request", self.number)
            .with("method", self.method.clone())
            .with("host", self.host.to_string())
            .with("port", self.port)
            .with("path", state.sent_path.as_ref().unwrap_or(&self.path).clone())
            .with("http", self.http);
        if self.path_altered || state.sent_path.is_some() {
            event = event.with("path_altered", true);
        }
        if let Some(conversation) = state.told.as_ref().and_then(|told| told.conversation.as_ref()) {
            event = event.with("session", conversation.session.as_str()).with("turn", u64::from(conversation.turn));
        }
        if let Some(number) = self.carried_by {
            event = event.with("websocket", number);
        }
        match self.git {
            GitUse::None => {}
            GitUse::Fetch => event = event.with("git", "fetch"),
            GitUse::Push => event = event.with("git", "push"),
        }
        if let Some(rule) = &state.rule {
            event = event.with("rule", rule.as_str());
        }
        if !state.findings.is_empty() {
            event = event.with("findings", state.findings.iter().map(finding_words).collect::<Vec<_>>());
        }
        match &state.held {
            Some(held) => held.in_event(event),
            None => event,
        }
    }

    fn outcome(&self, action: &'static str, how: Outcome, state: &State) -> Event {
        let mut event = self
            .event(action, how, state)
            .with("bytes_sent", self.sent.load(Ordering::Relaxed))
            .with("bytes_received", self.received.load(Ordering::Relaxed))
            .with("ms", self.started.elapsed().as_millis() as u64);
        if let Some(status) = state.status {
            event = event.with("status", status);
        }
        if let Some((usage, how)) = state.charged {
            event = event
                .with("charged", how.as_str())
                .with("tokens_input", usage.input)
                .with("tokens_cache_write", usage.cache_write)
                .with("tokens_cache_read", usage.cache_read)
                .with("tokens_output", usage.output);
        }
        event
    }
}

impl Drop for Exchange {
    /// The client went away in the middle. What stopped its body is written down now; where the intent is in the chain, this only
    /// adds how far it came.
    fn drop(&mut self) {
        self.write_untold();
        if self.state.get_mut().is_ok_and(|state| state.intent_written) {
            self.conclude(Outcome::Failed);
        }
        self.gateway.closed();
    }
}

/// Any token is a method, a secret as well.
fn shown_method(gateway: &Gateway, method: &Method) -> String {
    const KNOWN: &[Method] = &[
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::CONNECT,
        Method::PATCH,
        Method::TRACE,
    ];
    if KNOWN.contains(method) { method.as_str().to_owned() } else { gateway.clean(method.as_str()) }
}
