//! Grants: routes that somebody opened in a run for a while.
//!
//! ```text
//!  the bottle's file ──► base ──┐
//!                               ├──► one set of routes, one generation ──► gateway
//!  carboy allow … --for 1h ─────┘         (a change swaps the whole set; what it no longer allows is closed)
//! ```
//!
//! Nothing is written to a file: a grant ends with its time, by `carboy allow --revoke`, or with the run. It stands behind
//! the file's own routes, so that one of those with a credential goes first.
//!
//! *Must never* carry a credential, outlive its time (however the clock is set meanwhile), or be in force without an
//! entry in the log.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::host::HostPattern;
use carboy_core::ids::{GrantId, RefusalId, RouteId};
use carboy_core::ports::{AuditSink, Clock};
use carboy_core::route::{Reach, Route, RouteSet};
use carboy_egress::Gateway;
use carboy_manifest::edit::{NewPath, NewRoute, alone};
use carboy_store::audit::AuditLog;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::clock::SystemClock;

/// Longest time of a grant.
pub const GRANT_TIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Most grants of one run at once.
pub const GRANTS_MAX: usize = 64;
/// Until the wall clock is looked at again: the timer alone stands still while a laptop sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What somebody wants to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantAsked {
    /// The route.
    pub route: NewRoute,
    /// For how long.
    pub seconds: u64,
    /// The refusal that it answers, where there is one.
    #[serde(default)]
    pub refusal: Option<String>,
}

/// A grant in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// `g-` and six characters.
    pub id: String,
    /// The route.
    pub route: NewRoute,
    /// The refusal that it answers, where there is one.
    pub refusal: Option<String>,
    /// Milliseconds since 1970 at which it was given.
    pub granted_ms: u64,
    /// Milliseconds since 1970 at which it ends.
    pub until_ms: u64,
}

/// Why a grant was not given, or not taken back.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The route is none that a bottle's file could have.
    #[error("the route is not valid: {0}")]
    Route(carboy_manifest::Diagnostics),
    /// Zero, or above the maximum.
    #[error("a grant lasts from 1 second to {} days; for good is `--save`", GRANT_TIME_MAX.as_secs() / 86_400)]
    Time,
    /// No more at once.
    #[error("{GRANTS_MAX} grants are in force in this run; revoke one with `carboy allow --revoke ID`")]
    TooMany,
    /// Together with it the route that stands there would no longer reach what it is for.
    #[error("{host} has a route with `private: true`, which a public one beside it would switch off; add --private")]
    PrivateBeside {
        /// The host.
        host: String,
    },
    /// There is none of that id.
    #[error("no grant {0} is in force in this run")]
    NoSuch(String),
    /// It cannot be written down, so it is not given.
    #[error(transparent)]
    Audit(#[from] carboy_core::ports::AuditError),
    /// No id.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

struct Grant {
    id: GrantId,
    view: GrantView,
    route: Route,
    deadline: Instant,
}

struct State {
    base: Vec<Route>,
    generation: u64,
    grants: Vec<Grant>,
}

/// The routes of one run: its file's and its grants'.
pub struct Grants {
    gateway: Arc<Gateway>,
    audit: Arc<AuditLog>,
    subject: Subject,
    state: Mutex<State>,
    changed: Notify,
}

impl Grants {
    /// For a run that began with these routes, which the gateway has already.
    pub fn new(gateway: Arc<Gateway>, audit: Arc<AuditLog>, subject: Subject, routes: &RouteSet) -> Arc<Grants> {
        let state =
            State { base: routes.iter().cloned().collect(), generation: routes.generation(), grants: Vec::new() };
        Arc::new(Grants { gateway, audit, subject, state: Mutex::new(state), changed: Notify::new() })
    }

    /// Puts the routes of a changed file in force; grants stay. Returns the generation that now holds.
    pub fn replace_base(&self, routes: &RouteSet) -> u64 {
        let mut state = self.state.lock().expect("no panic under this lock");
        state.base = routes.iter().cloned().collect();
        self.put(&mut state)
    }

    /// Opens a route for a while.
    ///
    /// # Errors
    /// When it is no valid route, its time is out of bounds, there are too many, or it cannot be written down.
    pub fn grant(&self, asked: &GrantAsked) -> Result<GrantView, GrantError> {
        let time = Duration::from_secs(asked.seconds);
        if time.is_zero() || time > GRANT_TIME_MAX {
            return Err(GrantError::Time);
        }
        let refusal = asked.refusal.as_deref().and_then(|id| RefusalId::parse(id).ok());
        let mut route = alone::route_of(&asked.route).map_err(GrantError::Route)?;
        let id = GrantId::from_bits(getrandom::u32().map_err(GrantError::Random)?);
        route.id = RouteId::granted(&id, &route.host);
        let granted_ms = SystemClock.now_ms();
        let until_ms = granted_ms.saturating_add(asked.seconds.saturating_mul(1000));
        let view = GrantView {
            id: id.to_string(),
            route: asked.route.clone(),
            refusal: refusal.map(|id| id.to_string()),
            granted_ms,
            until_ms,
        };
        let mut state = self.state.lock().expect("no panic under this lock");
        if state.grants.len() >= GRANTS_MAX {
            return Err(GrantError::TooMany);
        }
        if route.reach == Reach::Public && state.base.iter().any(|base| switched_off(base, &route)) {
            return Err(GrantError::PrivateBeside { host: asked.route.host.clone() });
        }
        // In the chain before it is in force.
        self.audit.append(self.event("grant", &view).with("seconds", asked.seconds))?;
        state.grants.push(Grant { id, view: view.clone(), route, deadline: Instant::now() + time });
        self.put(&mut state);
        self.changed.notify_one();
        Ok(view)
    }

    /// Takes back the grant of this id, or those that answer this refusal.
    ///
    /// # Errors
    /// When there is none.
    pub fn revoke(&self, id: &str) -> Result<(), GrantError> {
        let fits = |grant: &Grant| grant.id.as_str() == id || grant.view.refusal.as_deref() == Some(id);
        match self.end(fits, "revoke_grant") {
            0 => Err(GrantError::NoSuch(id.chars().take(16).collect())),
            _ => Ok(()),
        }
    }

    /// What is in force, in the order in which it was given.
    pub fn list(&self) -> Vec<GrantView> {
        let state = self.state.lock().expect("no panic under this lock");
        state.grants.iter().map(|grant| grant.view.clone()).collect()
    }

    /// Ends each grant on time, until it is aborted.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let next = {
                let state = self.state.lock().expect("no panic under this lock");
                state.grants.iter().map(|grant| grant.deadline).min()
            };
            match next {
                None => self.changed.notified().await,
                Some(deadline) => {
                    let wait = deadline.saturating_duration_since(Instant::now()).min(LOOK_EVERY);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.changed.notified() => {}
                    }
                }
            }
            let (now, now_ms) = (Instant::now(), SystemClock.now_ms());
            self.end(|grant| grant.deadline <= now || grant.view.until_ms <= now_ms, "expire_grant");
        }
    }

    /// Ends those that fit; says how many.
    fn end(&self, fits: impl Fn(&Grant) -> bool, action: &'static str) -> usize {
        let mut state = self.state.lock().expect("no panic under this lock");
        let (over, stay): (Vec<Grant>, Vec<Grant>) = std::mem::take(&mut state.grants).into_iter().partition(fits);
        state.grants = stay;
        if over.is_empty() {
            return 0;
        }
        self.put(&mut state);
        for grant in &over {
            // It is over either way; without the log nothing passes at all.
            let _ = self.audit.append(self.event(action, &grant.view));
        }
        over.len()
    }

    fn put(&self, state: &mut State) -> u64 {
        state.generation += 1;
        let granted = state.grants.iter().map(|grant| grant.route.clone());
        let routes = state.base.iter().cloned().chain(granted).collect();
        self.gateway.replace_routes(RouteSet::new(routes, state.generation))
    }

    fn event(&self, action: &'static str, view: &GrantView) -> Event {
        let path = |path: &NewPath| match path {
            NewPath::Prefix(path) => format!("{}/*", path.trim_end_matches('/')),
            NewPath::Exact(path) => path.clone(),
        };
        let paths: Vec<String> = view.route.matches.iter().flat_map(|one| &one.paths).map(path).collect();
        let methods: Vec<String> = view.route.matches.iter().flat_map(|one| &one.methods).cloned().collect();
        let ports: Vec<String> = view.route.ports.iter().map(u16::to_string).collect();
        let mut event = Event::new(EventType::Operator, self.subject.clone(), action, Outcome::Done)
            .with("grant", view.id.as_str())
            .with("host", view.route.host.as_str())
            .with("ports", ports)
            .with("paths", paths)
            .with("methods", methods);
        if let Some(refusal) = &view.refusal {
            event = event.with("for", refusal.as_str());
        }
        event
    }
}

/// Would the first one, which reaches private addresses, no longer do so with the second one beside it?
fn switched_off(base: &Route, new: &Route) -> bool {
    base.reach == Reach::Private
        && base.ports.iter().any(|port| new.ports.contains(port))
        && overlap(&base.host, &new.host)
}

fn overlap(a: &HostPattern, b: &HostPattern) -> bool {
    match (a, b) {
        (HostPattern::Exact(host), pattern @ (HostPattern::Exact(_) | HostPattern::Below(_)))
        | (pattern @ HostPattern::Below(_), HostPattern::Exact(host)) => pattern.matches(host),
        (HostPattern::Below(a), HostPattern::Below(b)) => a == b || a.is_below(b) || b.is_below(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, reach: Reach) -> Route {
        Route { reach, ..Route::plain(1, HostPattern::parse(host).unwrap()) }
    }

    #[test]
    fn a_private_route_is_not_switched_off_by_a_public_one_beside_it() {
        let off = |base: &str, new: &str| switched_off(&route(base, Reach::Private), &route(new, Reach::Public));
        assert!(off("db.example", "db.example") && off("*.example", "db.example") && off("db.example", "*.example"));
        assert!(off("*.example", "*.b.example") && off("*.b.example", "*.example"));
        assert!(!off("db.example", "other.example") && !off("*.a.example", "*.b.example"));
        assert!(!switched_off(&route("a.example", Reach::Public), &route("a.example", Reach::Public)));
    }
}
