//! The ledger, and everything of the controller's that stands around it.
//!
//! ```text
//!  connections ─► Keeper ─► Engine (book, store)
//!                   │         └─ notices ─► pushes to supervisors, events to the log
//!                   └─ refuses admissions while the log cannot be written
//! ```
//!
//! *Must never* admit anything that could not be written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carboy_core::budget::{Admitted, Ask, NotHeld, Shutdown};
use carboy_core::ports::Later;
use carboy_store::controller::protocol::{Push, Supervised};
use carboy_store::ledger::{self, Crossing, Engine, Notice, Unavailable, Warning};
use tokio::sync::{mpsc, watch};

use super::journal::Journal;
use super::leases::{Gone, Leases, Owner, Undertaker};
use super::process::Process;

/// Most pushes that wait for one supervisor; one that takes none loses its connection, and hears how it stands on the next.
pub const PUSHES_MAX: usize = 64;
/// How often it is looked whether what an owner was told is still so.
const STANDINGS_MAX: u32 = 8;
/// Until something that could not be written is tried again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// See the module.
pub struct Keeper {
    engine: Engine,
    journal: Arc<Journal>,
    /// Why the log cannot be written.
    unlogged: watch::Sender<Option<String>>,
    pushers: Mutex<BTreeMap<u64, Pusher>>,
    changed: watch::Sender<u64>,
}

/// The way to one supervisor.
struct Pusher {
    pushes: mpsc::Sender<Push>,
    /// The action that it was told last; `None` for none, or that there is room again.
    acts: Option<Shutdown>,
    told: bool,
}

impl Keeper {
    /// Around an open ledger.
    pub fn new(engine: Engine, journal: Arc<Journal>) -> Arc<Keeper> {
        let (unlogged, changed) = (watch::Sender::new(None), watch::Sender::new(0));
        Arc::new(Keeper { engine, journal, unlogged, pushers: Mutex::default(), changed })
    }

    /// The ledger itself.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Where it is said what goes wrong.
    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Something is not as it was in the last snapshot.
    pub(super) fn touched(&self) {
        self.changed.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    /// Changes, for whoever takes snapshots.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Notes that the log cannot be written, or can again.
    pub(super) fn log_is(&self, failing: Option<String>) {
        if let Some(why) = &failing {
            self.journal.say(&format!("metered requests are refused: {why}"));
        }
        if self.unlogged.send_replace(failing.clone()).is_some() && failing.is_none() {
            self.journal.say("the log can be written again");
        }
    }

    /// Why nothing is admitted for want of a log.
    pub fn unlogged(&self) -> Option<String> {
        self.unlogged.borrow().clone()
    }

    /// Holds a request's worst case, where that can be written down.
    pub(super) async fn admit(&self, owner: u64, ask: Ask) -> Result<Admitted, NotHeld> {
        if let Some(why) = self.unlogged() {
            return Err(NotHeld::Unavailable(format!("what is enforced cannot be written down: {why}")));
        }
        let admitted = self.engine.admit(owner, ask).await;
        self.touched();
        admitted
    }

    /// Says who an owner is and what binds it.
    pub(super) async fn hello(&self, number: u64, owner: &Owner, supervised: &Supervised) -> Result<(), Unavailable> {
        let known = ledger::Owner {
            id: number,
            run: supervised.run.clone(),
            bottle: supervised.bottle.clone(),
            agent: supervised.agent.clone(),
            pid: owner.process.pid,
            start_time: owner.process.started,
            boot_id: owner.process.boot.clone(),
        };
        self.engine.hello(known, supervised.budgets.clone(), supervised.meters.clone()).await?;
        self.touched();
        Ok(())
    }

    fn pushers(&self) -> MutexGuard<'_, BTreeMap<u64, Pusher>> {
        // Whole at every step.
        self.pushers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is pushed to an owner from now on.
    pub(super) fn pushes_to(&self, owner: u64) -> mpsc::Receiver<Push> {
        let (pushes, taken) = mpsc::channel(PUSHES_MAX);
        // Whoever listened before speaks over another connection now, and sees its end.
        self.pushers().insert(owner, Pusher { pushes, acts: None, told: false });
        taken
    }

    /// Pushes it, unless it says what was said last.
    fn push(&self, owner: u64, push: Push) {
        let mut pushers = self.pushers();
        let Some(pusher) = pushers.get_mut(&owner) else { return };
        let acts = match &push {
            Push::Act { how, .. } => Some(*how),
            Push::Restore { .. } => None,
            Push::Warn { .. } => pusher.acts,
        };
        let is_news = matches!(push, Push::Warn { .. }) || !pusher.told || acts != pusher.acts;
        if !is_news {
            return;
        }
        (pusher.acts, pusher.told) = (acts, pusher.told || !matches!(push, Push::Warn { .. }));
        if pusher.pushes.try_send(push).is_err() {
            pushers.remove(&owner);
        }
    }

    /// Tells an owner how it stands, whatever it was told before. It is asked once more afterwards: what changed meanwhile may
    /// have been told before what it changed.
    pub(super) async fn tell_standing(&self, owner: u64) {
        for _ in 0..STANDINGS_MAX {
            // A ledger that cannot be asked refuses everything anyway, and tells when it can be asked again.
            let Ok(crossings) = self.engine.crossings().await else { return };
            let standing = standing(crossings.iter().filter(|crossing| crossing.owner == owner));
            let acts = if let Push::Act { how, .. } = &standing { Some(*how) } else { None };
            let told = self.pushers().get(&owner).is_none_or(|pusher| pusher.told && pusher.acts == acts);
            if told {
                return;
            }
            self.push(owner, standing);
        }
    }

    /// Passes on what the ledger tells, until it is closed. `recorded` hears that there are events to be logged.
    pub(super) async fn pass_on(self: Arc<Keeper>, recorded: watch::Sender<()>) {
        let mut notices = self.engine.events();
        while let Some(notice) = notices.wait().await {
            match notice {
                Notice::Crossing(crossing) => self.push(crossing.owner, act(&crossing)),
                Notice::Warning(warning) => self.push(warning.owner, warn(&warning)),
                Notice::Restored { owner, key, still_crossed: false, .. } => {
                    let why = format!("there is room again in what {} may spend on {}", key.scope, key.meter);
                    self.push(owner, Push::Restore { why });
                }
                Notice::Restored { owner, still_crossed: true, .. } => self.tell_standing(owner).await,
                Notice::Recorded => recorded.send_replace(()),
                Notice::Missed(_) => {
                    let everybody: Vec<u64> = self.pushers().keys().copied().collect();
                    for owner in everybody {
                        self.tell_standing(owner).await;
                    }
                    recorded.send_replace(());
                }
            }
            self.touched();
        }
    }

    /// The owners that the ledger knows from before get their leases.
    pub(super) async fn remember(&self, leases: &Arc<Leases>) -> Result<(), Unavailable> {
        for known in self.engine.owners().await? {
            let ledger::Owner { id, run, pid, start_time, boot_id, .. } = known.owner;
            let process = Process { pid, started: start_time, boot: boot_id };
            leases.remember(Owner { process, run }, id).await;
        }
        Ok(())
    }
}

impl Undertaker for Keeper {
    fn bury(&self, number: u64, owner: &Owner, why: Gone) -> Later<'_, ()> {
        let run = owner.run.clone();
        Box::pin(async move {
            self.pushers().remove(&number);
            loop {
                match self.engine.owner_gone(number).await {
                    Ok(left) => {
                        let how = match why {
                            Gone::Ended => "has ended",
                            Gone::Lapsed => "said nothing for longer than its lease",
                        };
                        self.journal.say(&format!(
                            "the supervisor of {run} {how}: {} requests charged in full, {} released",
                            left.charged, left.released
                        ));
                        self.touched();
                        return;
                    }
                    Err(Unavailable(words)) => {
                        self.journal.say(&format!("what {run} held cannot be ended yet: {words}"));
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                }
            }
        })
    }
}

/// The harshest of what is due.
fn standing<'a>(crossings: impl Iterator<Item = &'a Crossing>) -> Push {
    let harshest = crossings.max_by_key(|crossing| crossing.action);
    harshest.map_or_else(|| Push::Restore { why: "no cap of this run is spent".into() }, act)
}

fn act(crossing: &Crossing) -> Push {
    Push::Act { how: crossing.action, why: crossing.binding.to_string() }
}

fn warn(warning: &Warning) -> Push {
    Push::Warn { text: format!("{} % reached: {}", warning.percent, warning.binding) }
}
