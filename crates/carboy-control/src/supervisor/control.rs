//! What acts on a run that lives: its control socket and the person's signals.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use carboy_bottle::{Bottle, Exec, ExecRequest};
use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::budget::Shutdown;
use carboy_core::plan::CaptureTier;
use carboy_core::ports::AuditSink;
use carboy_core::verdict::{Denial, Reason};
use carboy_egress::{Gateway, Port};
use carboy_store::audit::AuditLog;
use tokio::sync::Notify;

use super::enforce::Enforcing;
use super::exec;
use crate::grants::Grants;
use crate::registry::{Answer, Conversation, Question, Respond, RunRecord};
use crate::session::{Look, Session};
use crate::summary::By;

/// How long a program may take to end after it was asked to.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// Why, when nobody says more.
const STOPPED_BY_HAND: &str = "by `carboy stop`";

/// What the control socket and the person's signals act on.
pub(super) struct Shared {
    pub(super) bottle: Bottle,
    pub(super) record: RunRecord,
    pub(super) gateway: Arc<Gateway>,
    pub(super) subject: Subject,
    pub(super) audit: Arc<AuditLog>,
    pub(super) stopping: AtomicBool,
    pub(super) stop_asked: Notify,
    /// What is done to it from outside.
    pub(super) enforcing: Enforcing,
    pub(super) tier: CaptureTier,
    pub(super) grants: Arc<Grants>,
    pub(super) ports: Vec<Arc<Port>>,
    /// Set before the control socket is opened.
    pub(super) session: OnceLock<Arc<Session>>,
    /// Commands that are executed beside the program.
    pub(super) execs: AtomicUsize,
    /// Itself, for conversations that outlive a question.
    pub(super) itself: Weak<Shared>,
}

/// Acts on a run from signal handlers.
#[derive(Clone)]
pub struct Control(pub(super) Arc<Shared>);

impl Control {
    /// Tells the bottle's terminal its new size.
    pub fn resize(&self, rows: u16, cols: u16) {
        // A bottle that has just ended has no terminal to tell.
        let _ = self.0.bottle.resize(rows, cols);
    }

    /// Passes a signal to the program's process group.
    pub fn signal(&self, signal: i32) {
        let _ = self.0.bottle.signal(signal);
    }

    /// Runs another program in the bottle, beside the first one; see [`Bottle::exec`]. Blocks for some milliseconds.
    pub fn exec(&self, request: &ExecRequest) -> std::io::Result<Exec> {
        let event = Event::new(EventType::Run, self.0.subject.clone(), "exec", Outcome::Done)
            .with("program", request.command.first().cloned().unwrap_or_default())
            .with("arguments", request.command.len().saturating_sub(1) as u64);
        self.0.write_down(event);
        self.0.bottle.exec(request)
    }

    /// The run's session.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.0.session.get().cloned()
    }

    /// Asks the program to end; what is left after [`STOP_GRACE`] is killed.
    pub fn stop(&self) {
        self.0.ask_to_stop();
    }

    /// Ends everything in the bottle at once.
    pub fn kill(&self) {
        self.0.kill_now();
    }
}

impl Shared {
    fn ask_to_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop_asked.notify_one();
    }

    pub(super) fn kill_now(&self) {
        self.stopping.store(true, Ordering::Release);
        // Gone already is what was wanted.
        let _ = self.bottle.kill();
    }

    /// In a word, for people.
    fn state(&self) -> &'static str {
        match (self.in_force(), self.stopping.load(Ordering::Acquire)) {
            (Some(Shutdown::Freeze), _) => "frozen",
            (_, true) | (Some(Shutdown::Kill), false) => "stopping",
            (Some(Shutdown::Pause), false) => "paused",
            (Some(Shutdown::Cutoff), false) => "cut off",
            (None, false) => "running",
        }
    }

    /// One that is paused cannot hear that it is to end: with its routes closed it runs on for as long as that takes.
    fn let_hear(&self) {
        if self.in_force() == Some(Shutdown::Pause) {
            self.gateway.cut_off(Denial::new(Reason::CutOff, "the run is being stopped"));
            // What cannot go on is killed after the grace.
            let _ = self.bottle.thaw();
        }
    }

    fn note(&self, action: &'static str) {
        self.write_down(Event::new(EventType::Operator, self.subject.clone(), action, Outcome::Done));
    }

    pub(super) fn write_down(&self, event: Event) {
        // A run is ended also when that cannot be written down: the end event will fail and say so.
        let _ = self.audit.append(event);
    }

    fn attach(&self, look: Look) -> Result<Option<Conversation>, String> {
        let session = self.session.get().cloned().ok_or("the run is only just being made; try again")?;
        session.may_attach(look).map_err(|e| e.to_string())?;
        if look != Look::Wait {
            self.note("attach");
        }
        Ok(Some(Box::new(move |stream| {
            // Refused only when another one came in the same moment; the closed socket says so.
            let _ = session.attach(stream, look);
        })))
    }
}

/// Does what takes a moment, on a thread that others do not wait for.
fn waiting<T>(act: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(act)
}

impl Respond for Shared {
    fn converse(&self, question: &Question) -> Result<Option<Conversation>, String> {
        match question {
            Question::Attach { rows, cols } => self.attach(Look::Terminal { rows: *rows, cols: *cols }),
            Question::Watch => self.attach(Look::Output),
            Question::Wait => self.attach(Look::Wait),
            Question::Exec(asked) => {
                let program = asked.command.first().ok_or("no command")?;
                let event = Event::new(EventType::Operator, self.subject.clone(), "exec", Outcome::Done)
                    .with("program", program.clone())
                    .with("arguments", asked.command.len() as u64 - 1);
                self.write_down(event);
                let (asked, itself) = (asked.clone(), self.itself.upgrade().ok_or("the run is ending")?);
                Ok(Some(Box::new(move |stream| {
                    itself.execs.fetch_add(1, Ordering::AcqRel);
                    exec::carry_on(&itself.bottle, asked, stream);
                    itself.execs.fetch_sub(1, Ordering::AcqRel);
                })))
            }
            Question::Conversation(_) => Err("a bottle has no conversations with people".into()),
            // Done here and not in the answer, so that a no is the answer.
            Question::Grant(asked) => self.grants.grant(asked).map(|_| None).map_err(|e| e.to_string()),
            Question::Revoke { id } => self.grants.revoke(id).map(|()| None).map_err(|e| e.to_string()),
            Question::Enforce { how } => {
                waiting(|| self.enforce(*how, By::Operator, STOPPED_BY_HAND)).map(|_| None).map_err(|e| e.to_string())
            }
            Question::Resume => {
                waiting(|| self.let_go(By::Operator, "by `carboy resume`")).map(|()| None).map_err(|e| e.to_string())
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
                self.note("stop");
                self.ask_to_stop();
            }
            Question::Kill => {
                // Nothing is stricter: it cannot be refused.
                let _ = waiting(|| self.enforce(Shutdown::Kill, By::Operator, STOPPED_BY_HAND));
            }
        }
        let stats = self.gateway.stats();
        Answer {
            record: self.record.clone(),
            state: self.state().to_owned(),
            why: self.last().map(|last| format!("{} by the {}: {}", last.action.as_str(), last.by.as_str(), last.why)),
            shutdown: self.enforcing.shutdown,
            stays: false,
            requests: stats.requests,
            refusals: stats.refused(),
            failures: stats.failed(),
            bytes_out: stats.bytes_out,
            bytes_in: stats.bytes_in,
            tier: format!("{:?}", self.tier),
            grants: self.grants.list(),
            ports: crate::ports::reports(&self.ports),
        }
    }
}

/// Waits until the run is to end, asks the program, and kills what is left after the grace.
pub(super) async fn stop_when_asked(shared: Arc<Shared>) {
    shared.stop_asked.notified().await;
    let hearing = shared.clone();
    let _ = tokio::task::spawn_blocking(move || hearing.let_hear()).await;
    let _ = shared.bottle.signal(rustix::process::Signal::TERM.as_raw());
    tokio::time::sleep(STOP_GRACE).await;
    let _ = shared.bottle.kill();
}
