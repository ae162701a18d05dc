//! Hot reload: a changed file takes effect at once, its routes and its budgets; an invalid one keeps the old ones and says so.
//!
//! Files are looked at by content, twice a second: editors replace, truncate and touch in too many ways for anything
//! finer to be simpler.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::audit::{Event, EventType, Outcome, Subject, hex, sha256};
use carboy_core::budget::BudgetSet;
use carboy_core::ids::RunId;
use carboy_core::ports::AuditSink;
use carboy_manifest::files::{FILE_BYTES_MAX, SYSTEM_SETTINGS};
use carboy_manifest::{Effective, ManifestFiles, Places, Reread, reread};
use carboy_store::audit::AuditLog;
use tokio::sync::watch::Sender;

use crate::grants::Grants;
use crate::supervisor::Tell;

/// Until a change is seen.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a watch needs.
pub struct Watched {
    /// Whose routes are replaced.
    pub grants: Arc<Grants>,
    /// Where it is written down.
    pub audit: Arc<AuditLog>,
    /// Whom it concerns.
    pub subject: Subject,
    /// Files of the host.
    pub files: Arc<dyn ManifestFiles + Send + Sync>,
    /// Where they are.
    pub places: Places,
    /// What was loaded at the start.
    pub effective: Effective,
    /// The budgets in force, the run's own in front; whoever speaks to the ledger is told when they have changed.
    pub budgets: Sender<BudgetSet>,
    /// The run.
    pub run: RunId,
    /// Tells the person, while the program goes on.
    pub tell: Tell,
}

/// Looks for changes until it is aborted.
pub async fn watch(mut watched: Watched) {
    let mut generation = watched.effective.routes.generation();
    // Settings that are not there yet may bring a ceiling.
    for file in [watched.places.settings(), PathBuf::from(SYSTEM_SETTINGS)] {
        if !watched.effective.sources.contains(&file) {
            watched.effective.sources.push(file);
        }
    }
    let mut last = fingerprint(&watched);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = fingerprint(&watched);
        if now == last {
            continue;
        }
        last = now;
        let event = |result| Event::new(EventType::Policy, watched.subject.clone(), "reload_routes", result);
        let event = match reread(watched.files.as_ref(), &watched.places, &watched.effective, generation + 1) {
            Ok(Reread { routes, budgets, bottle_files, .. }) => {
                generation += 1;
                let budgets = watched.effective.run_budget.in_front_of(budgets, &watched.run);
                watched.budgets.send_if_modified(|known| {
                    let changed = *known != budgets;
                    *known = budgets;
                    changed
                });
                let caps: u64 = watched.budgets.borrow().caps.values().map(|caps| caps.len() as u64).sum();
                let count = routes.iter().count() as u64;
                let in_force = watched.grants.replace_base(&routes);
                // A file that extends another one since now is watched together with it.
                let fresh: Vec<PathBuf> =
                    bottle_files.into_iter().filter(|file| !watched.effective.sources.contains(file)).collect();
                watched.effective.sources.extend(fresh);
                event(Outcome::Done).with("generation", in_force).with("routes", count).with("caps", caps)
            }
            Err(diagnostics) => {
                (watched.tell)(&format!(
                    "the changed file is not valid, the old routes stay, and so do the budgets:\n{diagnostics}"
                ));
                event(Outcome::Failed).with("generation", generation).with("errors", diagnostics.error_count() as u64)
            }
        };
        // Without the log nothing passes anyway; the gateway refuses on its own.
        let _ = watched.audit.append(event);
    }
}

fn fingerprint(watched: &Watched) -> Vec<(PathBuf, Option<String>)> {
    let read = |path: &PathBuf| watched.files.read(path, FILE_BYTES_MAX).ok().flatten();
    watched.effective.sources.iter().map(|path| (path.clone(), read(path).map(|text| hex(&sha256(&text))))).collect()
}
