//! What is a run without a sandbox of its own, a chat agent or a proxy: from its entry among the runs to its summary.
//!
//! *Must never* be open to anybody before its start is in the log, or be summed up before its end is.

use std::path::PathBuf;
use std::sync::Arc;

use carboy_core::audit::{Event, EventType, Outcome};
use carboy_core::ports::{AuditSink, Clock};
use carboy_egress::Gateway;
use carboy_manifest::{Effective, ManifestFiles, Places};
use carboy_store::audit::AuditLog;
use tokio::sync::watch;

use crate::clock::SystemClock;
use crate::controller::Starter;
use crate::grants::Grants;
use crate::home::{Home, private_dir};
use crate::notify::Notifier;
use crate::plane::{self, Plane};
use crate::registry::{Registration, RunRecord};
use crate::reload;
use crate::run_end::{self, SETTLE_WAIT_MAX};
use crate::runs;
use crate::session::Session;
use crate::standing::{Hangs, Standing, StandingParts, heed_pushes};
use crate::summary::{Ended, Summary};
use crate::supervisor::enforce::{shutdown_of_bottle, spent};
use crate::supervisor::keeping::Kept;
use crate::supervisor::{Keeping, RunError, Tell};
use crate::vault::Lookup;

/// Who enters.
pub(crate) struct Entering {
    /// `CARBOY_HOME`.
    pub(crate) home: Home,
    /// Where manifests are.
    pub(crate) places: Places,
    /// Files of the host.
    pub(crate) files: Arc<dyn ManifestFiles + Send + Sync>,
    /// What may be reached and spent.
    pub(crate) effective: Effective,
    /// Environment and commands of the host.
    pub(crate) lookup: Arc<dyn Lookup>,
    /// Who keeps its ledger.
    pub(crate) keeping: Keeping,
    /// Tells the operator something while it goes on.
    pub(crate) tell: Tell,
    /// What it is known by.
    pub(crate) record: RunRecord,
    /// What `stop` and the controller act on.
    pub(crate) hangs: Arc<dyn Hangs>,
}

/// One among the runs.
pub(crate) struct Hosted {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) standing: Arc<Standing>,
    session: Arc<Session>,
    notifier: Arc<Notifier>,
    kept: Kept,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    registration: Registration,
    started_ms: u64,
    run_dir: PathBuf,
}

impl Hosted {
    /// A record, a socket, a start in the log (`start` says more in it), and what watches over it. It is opened to whoever
    /// uses it after the start is written down and before anybody's word can shut it.
    pub(crate) async fn enter<E: From<RunError>>(
        plane: Plane,
        entering: Entering,
        start: impl FnOnce(Event) -> Event,
        open: impl FnOnce() -> Result<(), E>,
    ) -> Result<Hosted, E> {
        let notifier = plane.notifier(&entering.effective, &entering.lookup, &entering.record);
        let Plane { run, started_ms, subject, audit, gateway, kept, pushes, .. } = plane;
        let Entering { home, places, files, effective, lookup, keeping, tell, record, hangs } = entering;
        private_dir(&home.state(&effective.bottle)).map_err(RunError::from)?;
        let run_dir = runs::begin(&home, &effective.bottle, &run, &record).map_err(RunError::from)?;
        let session = plane::nobodys_session()?;
        let grants = Grants::new(gateway.clone(), audit.clone(), subject.clone(), &effective.routes);
        let standing = Standing::new(StandingParts {
            record: record.clone(),
            gateway: gateway.clone(),
            subject: subject.clone(),
            audit: audit.clone(),
            grants: grants.clone(),
            hangs,
            session: session.clone(),
            shutdown: shutdown_of_bottle(&effective, &places),
            controller: match keeping {
                Keeping::Controller => Some(Starter::new(&home, lookup).map_err(RunError::from)?),
                Keeping::InProcess => None,
            },
        });
        let _ = standing.notifier.set(notifier.clone());
        let budgets = watch::Sender::new(effective.budgets_of(&run));
        let mut tasks = vec![tokio::spawn(grants.clone().watch())];
        tasks.extend(kept.follow(budgets.subscribe(), &effective, &run));
        tasks.push(tokio::spawn(notifier.clone().watch(gateway.clone(), session.clone())));
        tasks.push(tokio::spawn(reload::watch(reload::Watched {
            grants,
            audit: audit.clone(),
            subject: subject.clone(),
            files,
            places,
            effective,
            budgets,
            run,
            tell,
        })));
        let registration = Registration::open(&home, &record, standing.clone()).map_err(RunError::from)?;
        let event = start(Event::new(EventType::Run, subject, "start", Outcome::Done));
        audit.append_durable(event).await.map_err(|e| RunError::Audit(e.to_string()))?;
        open()?;
        tasks.extend(pushes.map(|pushes| tokio::spawn(heed_pushes(standing.clone(), pushes))));
        Ok(Hosted { gateway, audit, standing, session, notifier, kept, tasks, registration, started_ms, run_dir })
    }

    /// Does this until its end.
    pub(crate) fn beside(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task));
    }

    /// Waits for what was under way, writes the end down, and sums up. Its way out is closed by then.
    pub(crate) async fn close(&self, tier: &str, ended: Ended) -> Result<Summary, RunError> {
        self.gateway.settled(SETTLE_WAIT_MAX).await;
        let untold = self.kept.drained().await;
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let record = &self.standing.record;
        let duration_ms = SystemClock.now_ms().saturating_sub(self.started_ms);
        let stats = self.gateway.stats();
        let tokens = match &self.standing.controller {
            Some(controller) => spent(controller, &record.run).await,
            None => Vec::new(),
        };
        self.notifier.ended(ended, duration_ms, stats.refused(), self.session.viewers()).await;
        let event = run_end::event(&self.standing.subject, ended, duration_ms, &stats, untold);
        self.audit.append_durable(event).await.map_err(|e| RunError::Audit(e.to_string()))?;
        run_end::close_log(&self.audit).await?;
        let summary = Summary {
            tier: tier.to_owned(),
            tokens,
            enforced: self.standing.enforced(),
            ..run_end::summary(record, ended, duration_ms, stats, &self.audit)
        };
        runs::end(&self.run_dir, &summary)?;
        Ok(summary)
    }

    /// Tells the end to whoever waits for it, who finds no record of a living run.
    pub(crate) async fn tell<E: std::error::Error>(self, summary: &Result<Summary, E>) {
        drop(self.registration);
        let end = run_end::told(summary);
        // A panic in there has been reported; nobody waits for anything but the end.
        let _ = tokio::task::spawn_blocking(move || self.session.close(&end)).await;
    }
}
