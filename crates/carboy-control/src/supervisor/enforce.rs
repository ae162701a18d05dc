//! A run stopped from outside, in one of four ways, and let go on: the one place that does it, whoever wants it.
//!
//! ```text
//! stop, top ──────────┐               cutoff   its routes are closed
//! controller's push ──┼─► enforce ─►  pause    its processes stand still
//! storm breaker ──────┘               freeze   what it takes to start again is on the disk, then its processes end
//!                                     kill     its processes end
//! ```
//!
//! What is in force is never loosened by this, only by [`Shared::let_go`]. Nothing of it passes through the queue of proposals.
//!
//! *Must never* need the program's consent, leave a bottle open that a budget wanted closed, or end a process that is to be
//! resumed before the disk has all of it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use carboy_bottle::Stillness;
use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::budget::{Scope, Shutdown};
use carboy_core::verdict::{Denial, Reason};
use carboy_manifest::origin::Origin;
use carboy_manifest::{Effective, Places};
use carboy_store::controller::protocol::{Push, Role};
use carboy_store::controller::{ClientEvents, Line, LineError, Reach};
use tokio::runtime::Handle;

use super::control::Shared;
use super::{Keeping, RunRequest};
use crate::controller::{Starter, spent_by};
use crate::force::Force;
use crate::home::HomeError;
use crate::notify::Notifier;
use crate::resume::{self, Keeper, Resumable, Spent, Standing};
use crate::summary::{Action, By, Enforced, SpentOn};

/// How long a run's end waits to hear what was spent.
const SPENT_WAIT_MAX: Duration = Duration::from_secs(2);

/// What a run needs to be stopped and let go on.
pub(super) struct Enforcing {
    /// One action at a time.
    turn: Mutex<()>,
    force: Force,
    /// What it takes to start it again; `None` for a run that cannot be.
    pub(super) keeper: Option<Keeper>,
    /// It was stopped by the storm breaker, and started again.
    stormed_before: bool,
    /// What the bottle's file says that `stop` does.
    pub(super) shutdown: Option<Shutdown>,
    /// Knows which cap is still spent.
    controller: Option<Starter>,
    /// Set before the control socket is opened.
    pub(super) notifier: OnceLock<Arc<Notifier>>,
}

impl Enforcing {
    /// Of a run that is about to start: what it takes to start it again is on the disk when this comes back.
    pub(super) fn begin(request: &RunRequest, run_dir: &Path) -> Result<Enforcing, HomeError> {
        let before = request.again.as_ref().map(|again| &again.before);
        let kept = request.flags.clone().map(|flags| Resumable::begun(flags, before));
        Ok(Enforcing {
            turn: Mutex::default(),
            force: Force::default(),
            keeper: kept.map(|kept| Keeper::begin(run_dir, kept)).transpose()?,
            stormed_before: before.is_some_and(|before| before.by == Some(By::Storm)),
            shutdown: shutdown_of_bottle(&request.effective, &request.places),
            controller: match request.keeping {
                Keeping::Controller => Some(Starter::new(&request.home, request.lookup.clone())?),
                Keeping::InProcess => None,
            },
            notifier: OnceLock::new(),
        })
    }
}

impl Enforcing {
    /// What the run spent, by what is metered. Nothing where nobody can say: an end does not wait for it.
    pub(super) async fn spent(&self, run: &str) -> Vec<SpentOn> {
        match &self.controller {
            Some(controller) => spent(controller, run).await,
            None => Vec::new(),
        }
    }
}

/// The same, asked of this controller.
pub(crate) async fn spent(controller: &Starter, run: &str) -> Vec<SpentOn> {
    let scope = Scope::Run(run.to_owned());
    let asked = async {
        let mut line = Line::open(controller.socket(), controller.program(), Role::Observer).await?;
        spent_by(&mut line, &scope).await
    };
    let told = tokio::time::timeout(SPENT_WAIT_MAX, asked).await.ok().and_then(|told: Result<_, LineError>| told.ok());
    told.into_iter().flatten().map(SpentOn::from).collect()
}

/// What settings say is for spent caps alone: by hand a run is ended, unless its bottle's own file says something else.
pub(crate) fn shutdown_of_bottle(effective: &Effective, places: &Places) -> Option<Shutdown> {
    let said = match &effective.origins.budgets.shutdown {
        Origin::File { file, .. } => file.starts_with(places.bottles()),
        Origin::Default | Origin::Environment { .. } | Origin::Flag { .. } => false,
    };
    said.then_some(effective.budgets.terms.shutdown)
}

/// How it was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// It holds now.
    Done,
    /// Something at least as strict held already.
    Already,
}

/// Why it was not.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnforceError {
    /// Its end has begun.
    #[error("the run is ending already; `carboy wait` waits for it")]
    Ending,
    /// Nothing is in force.
    #[error("it is not stopped: there is nothing to resume")]
    Goes,
    /// Nothing was kept that it could be started again with.
    #[error("this run cannot be started again, so it is not frozen; `--pause` and `--kill` stop it")]
    NotKept,
    /// The cap that stopped it is still spent.
    #[error("{0}")]
    StillSpent(Spent),
    /// The disk.
    #[error("what it takes to resume it could not be written, so it was not frozen: {0}")]
    Kept(#[from] HomeError),
    /// The bottle.
    #[error("its processes could not be {what}: {source}")]
    Bottle {
        /// `stopped`, `continued`.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Shared {
    /// Carries it out and writes it down, whoever wants it. Blocks: stopping processes takes some milliseconds, at most two
    /// seconds. When a budget or a storm wants what cannot be had, the routes are closed instead.
    pub(super) fn enforce(&self, how: Shutdown, by: By, why: &str) -> Result<Carried, EnforceError> {
        let _turn = self.enforcing.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = self.in_force().filter(|now| *now >= how) {
            if self.enforcing.force.hears(by, why) {
                self.takes_over(now, by, why);
            }
            return Ok(Carried::Already);
        }
        if self.is_stopping() && how != Shutdown::Kill {
            return Err(EnforceError::Ending);
        }
        // First: a run that has ended has a log that is closed.
        self.write_down(event(self, Action::Stopped(how), by, why, Outcome::Done));
        match self.carry_out(how, by, why) {
            Ok(remark) => {
                self.tell(
                    &format!("{}{remark}: {why}; `carboy resume {}` lets it go on", done(how), self.record.run),
                    how,
                );
                Ok(Carried::Done)
            }
            Err(error) => {
                let failed = event(self, Action::Stopped(how), by, why, Outcome::Failed);
                self.write_down(failed.with("error", error.to_string()));
                if by != By::Operator && self.in_force().is_none() {
                    // Never open because something else failed.
                    self.gateway.cut_off(denial(by, why));
                    self.remember(Action::Stopped(Shutdown::Cutoff), by, why);
                    self.write_down(event(self, Action::Stopped(Shutdown::Cutoff), by, why, Outcome::Done));
                }
                Err(error)
            }
        }
    }

    /// It holds for a budget already, and from now on whatever becomes of that.
    fn takes_over(&self, now: Shutdown, by: By, why: &str) {
        self.write_down(event(self, Action::Stopped(now), by, why, Outcome::Done));
        self.remember(Action::Stopped(now), by, why);
        match now {
            Shutdown::Cutoff => {
                self.gateway.cut_off(denial(by, why));
                self.stand(Standing::CutOff, by, why);
            }
            Shutdown::Pause => self.stand(Standing::Paused, by, why),
            // Its end has begun.
            Shutdown::Freeze | Shutdown::Kill => {}
        }
    }

    /// What remains to be said of it.
    fn carry_out(&self, how: Shutdown, by: By, why: &str) -> Result<&'static str, EnforceError> {
        let remember = || self.remember(Action::Stopped(how), by, why);
        match how {
            Shutdown::Cutoff => {
                self.gateway.cut_off(denial(by, why));
                remember();
                self.stand(Standing::CutOff, by, why);
                Ok("")
            }
            Shutdown::Pause => {
                let still = self.bottle.pause().map_err(|source| EnforceError::Bottle { what: "stopped", source })?;
                if still == Stillness::Restless {
                    // Who runs on finds every route closed.
                    self.gateway.cut_off(denial(by, why));
                }
                remember();
                self.stand(Standing::Paused, by, why);
                Ok(match still {
                    Stillness::Whole => "",
                    Stillness::Restless => {
                        " (some had not stopped within a second: they do when the kernel lets go of them)"
                    }
                })
            }
            Shutdown::Freeze => {
                self.enforcing.keeper.as_ref().ok_or(EnforceError::NotKept)?.stand(Standing::Frozen, by, why)?;
                remember();
                self.gateway.cut_off(denial(by, why));
                self.kill_now();
                Ok("")
            }
            Shutdown::Kill => {
                remember();
                self.kill_now();
                Ok("")
            }
        }
    }

    /// Lets it go on: its routes are open again, its processes run on where they stood.
    pub(super) fn let_go(&self, by: By, why: &str) -> Result<(), EnforceError> {
        let _turn = self.enforcing.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // A person's word stays.
        if by == By::Budget && !self.enforcing.force.has_room() {
            return Err(EnforceError::Goes);
        }
        let was = match self.in_force() {
            None => return Err(EnforceError::Goes),
            Some(Shutdown::Freeze | Shutdown::Kill) => return Err(EnforceError::Ending),
            Some(was @ (Shutdown::Cutoff | Shutdown::Pause)) => was,
        };
        if self.is_stopping() {
            return Err(EnforceError::Ending);
        }
        if let (By::Operator, Some(spent)) = (by, self.still_spent()) {
            return Err(EnforceError::StillSpent(spent));
        }
        self.write_down(event(self, Action::Resumed, by, why, Outcome::Done));
        // The routes first: whoever goes on finds them open.
        self.gateway.restore();
        if was == Shutdown::Pause {
            self.bottle.thaw().map_err(|source| EnforceError::Bottle { what: "continued", source })?;
        }
        self.remember(Action::Resumed, by, why);
        self.stand(Standing::Running, by, why);
        self.tell(&format!("goes on: {why}"), Shutdown::Cutoff);
        Ok(())
    }

    /// The cap that stopped it, where that has no room yet.
    fn still_spent(&self) -> Option<Spent> {
        let spent = self.enforcing.force.spent()?;
        let controller = self.enforcing.controller.as_ref()?;
        Handle::current().block_on(resume::spent_cap(controller, &spent, None))
    }

    /// What the controller wants.
    pub(super) fn heed(&self, push: Push) {
        match push {
            Push::Act { how, why } => {
                // What did not come of it is in the log, and the routes are closed.
                let _ = self.enforce(how, By::Budget, &why);
            }
            Push::Restore { why } => {
                // Not where it is not stopped, or by somebody else as well.
                let _ = self.let_go(By::Budget, &why);
            }
            Push::Warn { text } => {
                let event = Event::new(EventType::Budget, self.subject.clone(), "warn", Outcome::Warned);
                self.write_down(event.with("why", text.clone()));
                self.tell(&text, Shutdown::Cutoff);
            }
        }
    }

    /// One step further than what is in force: its client went on asking after final refusals.
    fn against_storm(&self, storms: u32) {
        let why = format!("it went on asking after final refusals, {storms} times");
        let how = match self.in_force() {
            None => Shutdown::Cutoff,
            // It was frozen for that before, and was resumed.
            Some(Shutdown::Cutoff | Shutdown::Pause) if self.enforcing.stormed_before => Shutdown::Kill,
            Some(Shutdown::Cutoff | Shutdown::Pause) => Shutdown::Freeze,
            Some(Shutdown::Freeze | Shutdown::Kill) => Shutdown::Kill,
        };
        if self.enforce(how, By::Storm, &why).is_err() {
            let _ = self.enforce(Shutdown::Kill, By::Storm, &why);
        }
    }

    /// What holds now.
    pub(super) fn in_force(&self) -> Option<Shutdown> {
        self.enforcing.force.now()
    }

    /// The last action, while it holds.
    pub(super) fn last(&self) -> Option<Enforced> {
        self.enforcing.force.last()
    }

    /// Everything that was done, for the summary.
    pub(super) fn enforced(&self) -> Vec<Enforced> {
        self.enforcing.force.done()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn remember(&self, action: Action, by: By, why: &str) {
        self.enforcing.force.remember(action, by, why);
    }

    /// While it lives nothing depends on what the disk says of it: that is for whoever finds it lost.
    fn stand(&self, standing: Standing, by: By, why: &str) {
        if let Some(keeper) = &self.enforcing.keeper {
            let _ = keeper.stand(standing, by, why);
        }
    }

    fn tell(&self, text: &str, how: Shutdown) {
        // The end of a killed run tells itself.
        if let (Some(notifier), Shutdown::Cutoff | Shutdown::Pause | Shutdown::Freeze) =
            (self.enforcing.notifier.get(), how)
        {
            notifier.enforced(text, self.session.get().map(Arc::as_ref));
        }
    }
}

/// Heeds the controller until it is aborted.
pub(super) async fn heed_pushes(shared: Arc<Shared>, mut pushes: ClientEvents) {
    while let Some(push) = pushes.next().await {
        let shared = shared.clone();
        // A panic in there has been reported; what comes next is heeded all the same.
        let _ = tokio::task::spawn_blocking(move || shared.heed(push)).await;
    }
}

/// Watches for storms until it is aborted.
pub(super) async fn break_storms(shared: Arc<Shared>) {
    let mut storms = shared.gateway.storms();
    let mut known = 0;
    while storms.changed().await.is_ok() {
        let count = *storms.borrow_and_update();
        if count > known {
            let shared = shared.clone();
            let _ = tokio::task::spawn_blocking(move || shared.against_storm(count)).await;
        }
        // With the routes opened again it begins anew.
        known = count;
    }
}

fn event(shared: &Shared, action: Action, by: By, why: &str, outcome: Outcome) -> Event {
    event_of(&shared.subject, action, by, why, outcome)
}

/// What was done to a run, as the log has it.
pub(crate) fn event_of(subject: &Subject, action: Action, by: By, why: &str, outcome: Outcome) -> Event {
    let kind = match by {
        By::Operator => EventType::Operator,
        By::Budget | By::Storm => EventType::Budget,
    };
    Event::new(kind, subject.clone(), action.as_str(), outcome).with("by", by.as_str()).with("why", why)
}

pub(crate) fn denial(by: By, why: &str) -> Denial {
    let reason = match by {
        By::Budget => Reason::BudgetExhausted,
        By::Operator | By::Storm => Reason::CutOff,
    };
    Denial::new(reason, why)
}

pub(crate) fn done(how: Shutdown) -> &'static str {
    match how {
        Shutdown::Cutoff => "was cut off",
        Shutdown::Pause => "was paused",
        Shutdown::Freeze => "was frozen",
        Shutdown::Kill => "was killed",
    }
}
