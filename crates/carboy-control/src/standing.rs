//! How a run without a program of ours stands, a chat agent or a proxy, and what is done to it from outside: the same four
//! ways to stop as for a bottle (U3).
//!
//! ```text
//! stop, top ──────────┐             cutoff, pause, freeze   every route closed: whoever asks is told so
//! controller's push ──┴─► enforce ─►    and what hangs on it stands still ([`Hangs`])
//!                                   kill                    it ends
//! resume ─► let_go ─► routes open, what hangs on it goes on
//! ```
//!
//! While it is stopped it stays there: whoever writes to it is told politely (U2). *Must never* open what a budget wanted
//! closed, or leave a door open because something else failed.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use carboy_agent::Engine;
use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::budget::Shutdown;
use carboy_core::ports::AuditSink;
use carboy_egress::Gateway;
use carboy_store::audit::AuditLog;
use carboy_store::controller::ClientEvents;
use carboy_store::controller::protocol::Push;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::approvals::conversation;
use crate::controller::Starter;
use crate::force::Force;
use crate::grants::Grants;
use crate::notify::Notifier;
use crate::registry::{Answer, Conversation, Question, Respond, RunRecord};
use crate::resume;
use crate::session::{Look, Session};
use crate::summary::{Action, By, Enforced};
use crate::supervisor::enforce::{denial, done, event_of};

/// Why, when nobody says more.
const STOPPED_BY_HAND: &str = "by `carboy stop`";

/// How it was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order: what is under way may end.
    Asked,
    /// At once.
    Killed,
}

/// What hangs on such a run: a chat agent's tools, a proxy's listener.
pub(crate) trait Hangs: Send + Sync + 'static {
    /// What it is, for people: `a chat agent`.
    fn what(&self) -> &'static str;

    /// What stands where a bottle's capture does.
    fn tier(&self) -> &'static str;

    /// Where to run a command instead: there is no bottle here.
    fn no_exec(&self) -> &'static str;

    /// The routes are closed already. May block for as long as its processes take to answer.
    fn stop(&self, how: Shutdown, by: By);

    /// Before the routes are opened again: what has to be there for it, or why it cannot.
    fn reopen(&self) -> Result<(), String>;

    /// The routes are open again. May block.
    fn let_go(&self);

    /// Its end was asked for.
    fn ending(&self);
}

/// What the control socket and the controller act on.
pub(crate) struct Standing {
    pub(crate) record: RunRecord,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) subject: Subject,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) hangs: Arc<dyn Hangs>,
    pub(crate) session: Arc<Session>,
    /// What its bottle's file says that `stop` does.
    pub(crate) shutdown: Option<Shutdown>,
    /// Knows which cap is still spent.
    pub(crate) controller: Option<Starter>,
    pub(crate) notifier: OnceLock<Arc<Notifier>>,
    /// A chat agent's, once it is among the runs; whoever runs it lets it go.
    pub(crate) engine: OnceLock<Weak<Engine>>,
    pub(crate) ending: watch::Sender<Option<Ending>>,
    force: Force,
    /// One action at a time.
    turn: Mutex<()>,
}

/// What a [`Standing`] is made of.
pub(crate) struct StandingParts {
    pub(crate) record: RunRecord,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) subject: Subject,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) hangs: Arc<dyn Hangs>,
    pub(crate) session: Arc<Session>,
    pub(crate) shutdown: Option<Shutdown>,
    pub(crate) controller: Option<Starter>,
}

impl Standing {
    pub(crate) fn new(parts: StandingParts) -> Arc<Standing> {
        let StandingParts { record, gateway, subject, audit, grants, hangs, session, shutdown, controller } = parts;
        Arc::new(Standing {
            record,
            gateway,
            subject,
            audit,
            grants,
            hangs,
            session,
            shutdown,
            controller,
            notifier: OnceLock::new(),
            engine: OnceLock::new(),
            ending: watch::Sender::new(None),
            force: Force::default(),
            turn: Mutex::default(),
        })
    }

    /// Carries it out and writes it down. Blocks for as long as what hangs on it takes to answer. Something stricter that
    /// holds already stays.
    pub(crate) fn enforce(&self, how: Shutdown, by: By, why: &str) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = self.force.now().filter(|now| *now >= how) {
            if self.force.hears(by, why) {
                // It holds for a budget already, and from now on whatever becomes of that.
                self.write_down(event_of(&self.subject, Action::Stopped(now), by, why, Outcome::Done));
                self.gateway.cut_off(denial(by, why));
                self.force.remember(Action::Stopped(now), by, why);
                self.hangs.stop(now, by);
            }
            return;
        }
        self.write_down(event_of(&self.subject, Action::Stopped(how), by, why, Outcome::Done));
        // The door first, whatever becomes of the rest.
        self.gateway.cut_off(denial(by, why));
        self.force.remember(Action::Stopped(how), by, why);
        self.hangs.stop(how, by);
        match how {
            Shutdown::Cutoff | Shutdown::Pause | Shutdown::Freeze => {
                let text = format!("{}: {why}; `carboy resume {}` lets it go on", done(how), self.record.run);
                self.tell(&text);
            }
            Shutdown::Kill => self.end(Ending::Killed),
        }
    }

    /// Lets it go on.
    fn let_go(&self, by: By, why: &str) -> Result<(), String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // A person's word stays.
        if by == By::Budget && !self.force.has_room() {
            return Err("it is stopped by somebody else as well".into());
        }
        match self.force.now() {
            None => return Err("it is not stopped: there is nothing to resume".into()),
            Some(Shutdown::Kill) => return Err("the run is ending already; `carboy wait` waits for it".into()),
            Some(Shutdown::Cutoff | Shutdown::Pause | Shutdown::Freeze) => {}
        }
        if let (By::Operator, Some(spent)) = (by, self.still_spent()) {
            return Err(spent.to_string());
        }
        self.hangs.reopen()?;
        self.write_down(event_of(&self.subject, Action::Resumed, by, why, Outcome::Done));
        // The routes first: whoever goes on finds them open.
        self.gateway.restore();
        self.hangs.let_go();
        self.force.remember(Action::Resumed, by, why);
        self.tell(&format!("goes on: {why}"));
        Ok(())
    }

    /// The cap that stopped it, where that has no room yet.
    fn still_spent(&self) -> Option<resume::Spent> {
        let spent = self.force.spent()?;
        let controller = self.controller.as_ref()?;
        Handle::current().block_on(resume::spent_cap(controller, &spent, None))
    }

    /// What the controller wants.
    fn heed(&self, push: Push) {
        match push {
            Push::Act { how, why } => self.enforce(how, By::Budget, &why),
            Push::Restore { why } => {
                // Not where it is not stopped, or by somebody else as well.
                let _ = self.let_go(By::Budget, &why);
            }
            Push::Warn { text } => {
                let event = Event::new(EventType::Budget, self.subject.clone(), "warn", Outcome::Warned);
                self.write_down(event.with("why", text.clone()));
                self.tell(&text);
            }
        }
    }

    /// Asks it to end; the first word that was stricter stays.
    pub(crate) fn end(&self, how: Ending) {
        self.hangs.ending();
        self.ending.send_if_modified(|ending| {
            let stricter = *ending != Some(Ending::Killed) && *ending != Some(how);
            if stricter {
                *ending = Some(how);
            }
            stricter
        });
    }

    /// Everything that was done, for the summary.
    pub(crate) fn enforced(&self) -> Vec<Enforced> {
        self.force.done()
    }

    fn write_down(&self, event: Event) {
        // It is stopped also when that cannot be written down: nothing passes without a log anyway.
        let _ = self.audit.append(event);
    }

    fn tell(&self, text: &str) {
        if let Some(notifier) = self.notifier.get() {
            notifier.enforced(text, Some(&self.session));
        }
    }

    /// In a word, for people.
    fn state(&self) -> &'static str {
        match (self.force.now(), *self.ending.borrow()) {
            (_, Some(Ending::Asked | Ending::Killed)) | (Some(Shutdown::Kill), None) => "stopping",
            (Some(Shutdown::Freeze), None) => "frozen",
            (Some(Shutdown::Pause), None) => "paused",
            (Some(Shutdown::Cutoff), None) => "cut off",
            (None, None) => "running",
        }
    }

    fn look_on(&self, look: Look) -> Result<Option<Conversation>, String> {
        self.session.may_attach(look).map_err(|e| e.to_string())?;
        let session = self.session.clone();
        Ok(Some(Box::new(move |stream| {
            // Refused only when another one came in the same moment; the closed socket says so.
            let _ = session.attach(stream, look);
        })))
    }
}

impl Respond for Standing {
    fn converse(&self, question: &Question) -> Result<Option<Conversation>, String> {
        match question {
            Question::Wait => self.look_on(Look::Wait),
            Question::Attach { .. } | Question::Watch => {
                Err(format!("{} has no program's terminal to look at", self.hangs.what()))
            }
            Question::Exec(_) => Err(format!("{} is in no bottle; {}", self.hangs.what(), self.hangs.no_exec())),
            Question::Conversation(asked) => match self.engine.get().map(Weak::upgrade) {
                Some(Some(engine)) => conversation::tell(&engine, asked),
                Some(None) => Err("the run is ending".into()),
                None => Err(format!("{} has no conversations with people", self.hangs.what())),
            },
            Question::Grant(asked) => self.grants.grant(asked).map(|_| None).map_err(|e| e.to_string()),
            Question::Revoke { id } => self.grants.revoke(id).map(|()| None).map_err(|e| e.to_string()),
            Question::Enforce { how } => {
                tokio::task::block_in_place(|| self.enforce(*how, By::Operator, STOPPED_BY_HAND));
                Ok(None)
            }
            Question::Resume => {
                tokio::task::block_in_place(|| self.let_go(By::Operator, "by `carboy resume`")).map(|()| None)
            }
            Question::Status | Question::Stop | Question::Kill => Ok(None),
        }
    }

    fn respond(&self, question: &Question) -> Answer {
        match question {
            Question::Status | Question::Attach { .. } | Question::Watch | Question::Wait | Question::Exec(_) => {}
            Question::Grant(_) | Question::Revoke { .. } | Question::Enforce { .. } | Question::Resume => {}
            Question::Conversation(_) => {}
            Question::Stop => {
                self.write_down(Event::new(EventType::Operator, self.subject.clone(), "stop", Outcome::Done));
                self.end(Ending::Asked);
            }
            Question::Kill => {
                tokio::task::block_in_place(|| self.enforce(Shutdown::Kill, By::Operator, STOPPED_BY_HAND))
            }
        }
        let stats = self.gateway.stats();
        Answer {
            record: self.record.clone(),
            state: self.state().to_owned(),
            why: self
                .force
                .last()
                .map(|last| format!("{} by the {}: {}", last.action.as_str(), last.by.as_str(), last.why)),
            shutdown: self.shutdown,
            stays: true,
            requests: stats.requests,
            refusals: stats.refused(),
            failures: stats.failed(),
            bytes_out: stats.bytes_out,
            bytes_in: stats.bytes_in,
            tier: self.hangs.tier().to_owned(),
            grants: self.grants.list(),
            ports: Vec::new(),
        }
    }
}

/// Heeds the controller until it is aborted.
pub(crate) async fn heed_pushes(standing: Arc<Standing>, mut pushes: ClientEvents) {
    while let Some(push) = pushes.next().await {
        let standing = standing.clone();
        // A panic in there has been reported; what comes next is heeded all the same.
        let _ = tokio::task::spawn_blocking(move || standing.heed(push)).await;
    }
}
