//! The gateway of one bottle: what it is made of, and how its owner steers it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::finding::{Detector, Location};
use carboy_core::host::Host;
use carboy_core::ids::RefusalId;
use carboy_core::ports::{AuditSink, Clock, Errand, Ledger, SecretSource};
use carboy_core::route::RouteSet;
use carboy_core::upstream::Upstreams;
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::Detectors;
use carboy_wire::estimate::Calibration;
use tokio::sync::{Semaphore, watch};

use crate::breaker::{Breaker, is_final};
use crate::ca::{CaError, CertificateAuthority, Leaves};
use crate::cut::Taps;
use crate::learn::{Learned, LearnedRequest};
use crate::lengths::Lengths;
use crate::limits::GatewayLimits;
use crate::names::{NamePool, NoAddress};
use crate::pace::Pace;
use crate::pipeline::stopping;
use crate::repeats::{Counted, Note, Repeats};
use crate::stats::GatewayStats;
use crate::upstream::Dialer;

/// Characters of a text from the bottle that are written down.
const SHOWN_CHARS_MAX: usize = 256;

/// What a gateway is made of.
pub struct GatewayConfig {
    /// Whom the events concern.
    pub subject: Subject,
    /// The law of the way out, at the start.
    pub routes: RouteSet,
    /// Where hosts are really reached.
    pub upstreams: Upstreams,
    /// Signs the leaves that the bottle sees.
    pub ca: Arc<CertificateAuthority>,
    /// What is looked for.
    pub detectors: Arc<Detectors>,
    /// The credentials that are set.
    pub secrets: Arc<dyn SecretSource>,
    /// Where events go; without it nothing passes.
    pub audit: Arc<dyn AuditSink>,
    /// Where tokens are held and charged; without it nothing metered passes.
    pub ledger: Arc<dyn Ledger>,
    /// Dates of certificates.
    pub clock: Arc<dyn Clock>,
    /// Whether refusals are kept for a proposal.
    pub learning: Learning,
    /// Every maximum.
    pub limits: GatewayLimits,
}

/// All ways out of one bottle. Shared by its listeners; dropped when the bottle ends.
pub struct Gateway {
    pub(crate) subject: Subject,
    detectors: RwLock<Arc<Detectors>>,
    pub(crate) secrets: Arc<dyn SecretSource>,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Arc<GatewayLimits>,
    pub(crate) dialer: Dialer,
    pub(crate) leaves: Leaves,
    pub(crate) connections: Arc<Semaphore>,
    /// Of a proxy, before they have shown that they may use it.
    pub(crate) strangers: Arc<Semaphore>,
    /// Of those that were too many: who is being told so.
    pub(crate) turned_away: Arc<Semaphore>,
    pub(crate) requests_now: Arc<Semaphore>,
    /// A permit is a byte.
    pub(crate) whole_bytes: Arc<Semaphore>,
    pub(crate) dns_pending: Arc<Semaphore>,
    law: watch::Sender<Law>,
    names: Mutex<NamePool>,
    stats: Mutex<GatewayStats>,
    repeats: Mutex<Repeats>,
    pace: Mutex<Pace>,
    /// Of those that have not shown that they may use a proxy.
    pub(crate) stranger_pace: Mutex<Pace>,
    breaker: Mutex<Breaker>,
    storms: watch::Sender<u32>,
    pub(crate) taps: Taps,
    /// What an octet that a model writes costs, learned from its whole answers.
    pub(crate) calibration: Mutex<Calibration>,
    /// How long the latest answers were.
    pub(crate) lengths: Mutex<Lengths>,
    requests: AtomicU64,
    /// Exchanges whose outcome is not in the log yet.
    open: watch::Sender<usize>,
    /// What a run that learns was refused.
    learned: Option<Mutex<Learned>>,
}

/// Whether a run's refusals are kept for a proposal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Learning {
    /// They are counted and written down as ever.
    #[default]
    Off,
    /// Names that no route allows get an address, so that the request itself is seen, and refused. Nothing more is let
    /// through, looked up or dialled.
    On,
}

/// What connections watch: the routes, whether they are closed, and whether the run is ending.
#[derive(Clone)]
pub(crate) struct Law {
    pub(crate) routes: Arc<RouteSet>,
    /// Every route is closed for this reason until they are opened again.
    closed: Option<Denial>,
    pub(crate) cut: bool,
}

impl Law {
    /// A spent budget closes nothing to a notice: it costs no token, and a route that does is refused by its budget all the
    /// same.
    fn closed_to(&self, errand: Errand) -> Option<&Denial> {
        let notice = |denial: &&Denial| errand == Errand::Notice && denial.reason == Reason::BudgetExhausted;
        self.closed.as_ref().filter(|denial| !notice(denial))
    }
}

/// See [`Gateway::unsettled`].
pub(crate) struct Unsettled(Arc<Gateway>);

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.closed();
    }
}

impl Gateway {
    /// Makes a gateway; it does nothing until a listener is served.
    pub fn new(config: GatewayConfig) -> Result<Arc<Gateway>, CaError> {
        let limits = Arc::new(config.limits);
        let law = Law { routes: Arc::new(config.routes), closed: None, cut: false };
        Ok(Arc::new(Gateway {
            subject: config.subject,
            detectors: RwLock::new(config.detectors),
            secrets: config.secrets,
            audit: config.audit,
            ledger: config.ledger,
            clock: config.clock,
            dialer: Dialer::new(config.upstreams, limits.clone()),
            leaves: Leaves::new(config.ca, limits.leaves_max)?,
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            strangers: Arc::new(Semaphore::new(limits.strangers_max)),
            turned_away: Arc::new(Semaphore::new(limits.strangers_max)),
            requests_now: Arc::new(Semaphore::new(limits.requests_max)),
            whole_bytes: Arc::new(Semaphore::new(limits.whole_bytes_max as usize)),
            dns_pending: Arc::new(Semaphore::new(limits.dns_pending_max)),
            law: watch::Sender::new(law),
            names: Mutex::new(NamePool::new(&limits)),
            stats: Mutex::default(),
            repeats: Mutex::new(Repeats::new(limits.repeats_max, limits.repeats_window)),
            pace: Mutex::new(Pace::new(limits.refusal_every, limits.refusal_burst)),
            stranger_pace: Mutex::new(Pace::new(limits.refusal_every, limits.refusal_burst)),
            breaker: Mutex::new(Breaker::new(limits.storm_denials_max, limits.storm_window, limits.storm_every)),
            storms: watch::Sender::new(0),
            taps: Taps::default(),
            calibration: Mutex::default(),
            lengths: Mutex::default(),
            requests: AtomicU64::new(0),
            open: watch::Sender::new(0),
            learned: match config.learning {
                Learning::On => Some(Mutex::default()),
                Learning::Off => None,
            },
            limits,
        }))
    }

    /// Puts other routes in force. Requests are decided by them from now on; connections whose host is no longer
    /// permitted are closed (B57). Returns the generation that now holds.
    pub fn replace_routes(&self, routes: RouteSet) -> u64 {
        let generation = routes.generation();
        self.law.send_modify(|law| law.routes = Arc::new(routes));
        generation
    }

    /// Looks for other secrets from now on: one was renewed. Bodies under way keep what they began with.
    pub fn replace_detectors(&self, detectors: Arc<Detectors>) {
        *self.detectors.write().expect("no panic under this lock") = detectors;
    }

    /// What is looked for now.
    pub(crate) fn detectors(&self) -> Arc<Detectors> {
        self.detectors.read().expect("no panic under this lock").clone()
    }

    pub(crate) fn close(&self, denial: &Denial) {
        self.law.send_modify(|law| law.closed = Some(denial.clone()));
    }

    /// Opens the routes that [`cut_off`](Self::cut_off) closed; what its client did meanwhile is forgotten.
    pub fn restore(&self) {
        self.breaker.lock().expect("no panic under this lock").forget();
        self.storms.send_replace(0);
        self.law.send_modify(|law| law.closed = None);
    }

    /// How often its client went on asking after final denials, slowed down as it was. Each step is for the supervisor to
    /// answer: first by freezing, then by killing.
    pub fn storms(&self) -> watch::Receiver<u32> {
        self.storms.subscribe()
    }

    /// Ends the run: every request is refused with `stopping`, open exchanges end within the grace, and counted
    /// refusals are written down. Cannot be undone.
    pub fn shutdown(&self) {
        self.law.send_modify(|law| law.cut = true);
        self.write_rest();
    }

    fn write_rest(&self) {
        let rest = self.repeats.lock().expect("no panic under this lock").drain();
        self.write_repeats(rest);
    }

    fn write_repeats(&self, counted: Vec<Counted>) {
        for Counted { what, count, of } in counted {
            let event = Event::new(EventType::Egress, self.subject.clone(), "repeats", Outcome::Denied)
                .with("what", what)
                .with("repeats", count)
                .with("of", of.as_str());
            // Each was refused and is in the log once; one that cannot be written is told to every request.
            let _ = self.audit.append(event);
        }
    }

    /// After [`shutdown`](Self::shutdown): waits until the outcome of every exchange is in the log, in the counters and
    /// with the ledger. Says how many are still missing after `wait_max`; their intent is in the log.
    pub async fn settled(&self, wait_max: Duration) -> usize {
        let mut open = self.open.subscribe();
        // The sender is this gateway's own, so the only error is the time being over.
        let _ = tokio::time::timeout(wait_max, open.wait_for(|open| *open == 0)).await;
        // Of those that ended since.
        self.write_rest();
        *self.open.borrow()
    }

    /// A settlement that is under way: [`settled`](Self::settled) waits for it.
    pub(crate) fn unsettled(self: &Arc<Self>) -> Unsettled {
        self.opened();
        Unsettled(self.clone())
    }

    pub(crate) fn opened(&self) {
        self.open.send_modify(|open| *open += 1);
    }

    pub(crate) fn closed(&self) {
        self.open.send_modify(|open| *open -= 1);
    }

    /// The counters as they are now.
    pub fn stats(&self) -> GatewayStats {
        let mut stats = self.stats.lock().expect("no panic under this lock").clone();
        stats.requests = self.requests.load(Ordering::Relaxed);
        stats
    }

    /// The routes in force, unless the run is ending or they are closed.
    pub(crate) fn routes_now(&self) -> Result<Arc<RouteSet>, Denial> {
        self.routes_for(Errand::Work)
    }

    /// The same for a request that is for this.
    pub(crate) fn routes_for(&self, errand: Errand) -> Result<Arc<RouteSet>, Denial> {
        let law = self.law.borrow();
        if law.cut {
            return Err(stopping());
        }
        law.closed_to(errand).map_or_else(|| Ok(law.routes.clone()), |denial| Err(denial.clone()))
    }

    /// The routes, whether they are open or not: what has a name, and what speaks which format.
    pub(crate) fn routes_known(&self) -> Result<Arc<RouteSet>, Denial> {
        let law = self.law.borrow();
        if law.cut { Err(stopping()) } else { Ok(law.routes.clone()) }
    }

    /// Why every route is closed, if they are.
    pub(crate) fn closed_by(&self) -> Option<Denial> {
        self.closed_to(Errand::Work)
    }

    /// Why every route is closed to what is for this, if they are.
    pub(crate) fn closed_to(&self, errand: Errand) -> Option<Denial> {
        self.law.borrow().closed_to(errand).cloned()
    }

    /// Waits until every route is closed.
    pub(crate) async fn closing(&self) -> Denial {
        self.closing_to(Errand::Work).await
    }

    /// Waits until every route is closed to what is for this.
    pub(crate) async fn closing_to(&self, errand: Errand) -> Denial {
        let mut law = self.watch_law();
        let closed = law.wait_for(|law| law.closed_to(errand).is_some()).await;
        match closed.map(|law| law.closed_to(errand).cloned()) {
            Ok(Some(denial)) => denial,
            // The sender is this gateway's own.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    pub(crate) fn watch_law(&self) -> watch::Receiver<Law> {
        self.law.subscribe()
    }

    /// How long a refusal has to wait for its turn.
    pub(crate) fn refusal_wait(&self, denial: &Denial) -> Duration {
        let even = self.even_wait();
        if !is_final(denial.reason) {
            return even;
        }
        let turn = self.breaker.lock().expect("no panic under this lock").note(Instant::now());
        self.storms.send_if_modified(|storms| std::mem::replace(storms, turn.storms) != turn.storms);
        even.max(turn.wait)
    }

    /// The same, whatever it is refused for.
    pub(crate) fn even_wait(&self) -> Duration {
        self.pace.lock().expect("no panic under this lock").take(Instant::now())
    }

    pub(crate) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut GatewayStats)) {
        change(&mut self.stats.lock().expect("no panic under this lock"));
    }

    /// A text that the bottle had a hand in (a path, a name, a method), fit for the log: secrets out, short, and
    /// nothing in it that moves a terminal's cursor or reorders what stands around it.
    pub(crate) fn clean(&self, text: &str) -> String {
        let all = [Detector::Placeholders, Detector::KnownSecrets, Detector::TokenPatterns];
        let (clean, _) = self.detectors().redact(text.as_bytes(), &all, Location::RequestLine);
        let clean: String = String::from_utf8_lossy(&clean).chars().map(carboy_wire::denial::visible).collect();
        match clean.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &clean[..end]),
            None => clean,
        }
    }

    pub(crate) fn note(&self, key: &str, id: &RefusalId) -> Note {
        let (note, overdue) = {
            let mut repeats = self.repeats.lock().expect("no panic under this lock");
            (repeats.note(key, id, Instant::now()), repeats.overdue())
        };
        self.write_repeats(overdue);
        note
    }

    /// Counts the host among the names that this run asked for, if it is new and of a wildcard: a client of a proxy names it
    /// without asking DNS (B30). Whether a route allows it is not asked here.
    pub(crate) fn name_counted(&self, host: &Host, routes: &RouteSet) -> Result<(), Denial> {
        let Some(name) = host.as_name() else { return Ok(()) };
        let mut names = self.names.lock().expect("no panic under this lock");
        match names.address(name, routes, Learning::Off) {
            Ok(_) | Err(NoAddress::NotAllowed) => Ok(()),
            Err(NoAddress::PoolFull) => Err(Denial::new(Reason::LimitReached, "no room for another name")),
            Err(NoAddress::ZoneSpent(why)) => Err(Denial::new(Reason::NameBudget, why)),
        }
    }

    /// What a connection to `ip` was meant for.
    pub(crate) fn host_at(&self, ip: IpAddr) -> Host {
        self.names.lock().expect("no panic under this lock").host_at(ip)
    }

    pub(crate) fn answer_dns(&self, query: &[u8]) -> crate::dns::Reply {
        // After the end nothing has a name any more. While the routes are closed names stay: their clients are to be told.
        let routes = self.routes_known().unwrap_or_default();
        let mut names = self.names.lock().expect("no panic under this lock");
        let learning = if self.learned.is_some() { Learning::On } else { Learning::Off };
        crate::dns::answer(query, &routes, &mut names, &self.detectors(), learning)
    }

    /// What a run that learns was refused so far; none for one that does not.
    pub fn learned(&self) -> Option<Learned> {
        self.learned.as_ref().map(|learned| learned.lock().expect("no panic under this lock").clone())
    }

    pub(crate) fn is_learning(&self) -> bool {
        self.learned.is_some()
    }

    /// Keeps what was refused, when this run learns.
    pub(crate) fn keep(&self, seen: LearnedRequest) {
        if let Some(learned) = &self.learned {
            learned.lock().expect("no panic under this lock").keep(seen);
        }
    }

    /// A connection that never became a request: one event for the first of its kind, a count for its repeats.
    pub(crate) async fn refuse_connection(&self, host: &Host, port: u16, mut denial: Denial) {
        let shown = host.to_string();
        denial.detail = self.clean(&denial.detail);
        let fresh = refusal_id();
        let note = self.note(&format!("connect {shown} {port} {denial}"), &fresh);
        let (id, repeats) = match note {
            Note::Write { repeats } => (fresh, Some(repeats)),
            Note::Counted { under } => (under.unwrap_or(fresh), None),
        };
        self.count(|stats| stats.refuse(&denial, &shown, Some(port), &id));
        self.keep(LearnedRequest::connection(host, port, denial.reason, &id));
        let Some(repeats) = repeats else { return };
        let mut event = Event::new(EventType::Egress, self.subject.clone(), "connect", Outcome::Denied)
            .with("host", shown)
            .with("port", port)
            .with("reason", denial.reason.code())
            .with("detail", denial.detail)
            .with("refusal", id.as_str());
        if repeats > 0 {
            event = event.with("repeats", repeats);
        }
        // The connection is closed without a byte either way.
        let _ = self.audit.append_durable(event).await;
    }
}

/// A fresh id for one refusal, from the system's own randomness. Without random bytes no handshake works either, so
/// nothing is let through that this id would have to tell from others.
pub(crate) fn refusal_id() -> RefusalId {
    RefusalId::from_bits(getrandom::u32().unwrap_or(0))
}
