//! What acts on a run that lives: its control socket and the person's signals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carboy_bottle::Bottle;
use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::plan::CaptureTier;
use carboy_core::ports::AuditSink;
use carboy_egress::{Gateway, GatewayStats};
use carboy_store::audit::AuditLog;
use tokio::sync::Notify;

use crate::registry::{Answer, Question, Respond, RunRecord};

/// How long a program may take to end after it was asked to.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// What the control socket and the person's signals act on.
pub(super) struct Shared {
    pub(super) bottle: Bottle,
    pub(super) record: RunRecord,
    pub(super) gateway: Arc<Gateway>,
    pub(super) subject: Subject,
    pub(super) audit: Arc<AuditLog>,
    pub(super) stopping: AtomicBool,
    pub(super) stop_asked: Notify,
    pub(super) tier: CaptureTier,
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

    fn kill_now(&self) {
        self.stopping.store(true, Ordering::Release);
        // Gone already is what was wanted.
        let _ = self.bottle.kill();
    }

    fn note(&self, action: &'static str) {
        let event = Event::new(EventType::Operator, self.subject.clone(), action, Outcome::Done);
        // A run is ended also when that cannot be written down: the end event will fail and say so.
        let _ = self.audit.append(event);
    }
}

impl Respond for Shared {
    fn respond(&self, question: Question) -> Answer {
        match question {
            Question::Status => {}
            Question::Stop => {
                self.note("stop");
                self.ask_to_stop();
            }
            Question::Kill => {
                self.note("kill");
                self.kill_now();
            }
        }
        let stats = self.gateway.stats();
        let state = if self.stopping.load(Ordering::Acquire) { "stopping" } else { "running" };
        Answer {
            record: self.record.clone(),
            state: state.to_owned(),
            requests: stats.requests,
            refusals: refusals(&stats),
            bytes_out: stats.bytes_out,
            bytes_in: stats.bytes_in,
            tier: format!("{:?}", self.tier),
        }
    }
}

/// Waits until the run is to end, asks the program, and kills what is left after the grace.
pub(super) async fn stop_when_asked(shared: Arc<Shared>) {
    shared.stop_asked.notified().await;
    let _ = shared.bottle.signal(rustix::process::Signal::TERM.as_raw());
    tokio::time::sleep(STOP_GRACE).await;
    let _ = shared.bottle.kill();
}

/// Everything that was refused.
pub(super) fn refusals(stats: &GatewayStats) -> u64 {
    stats.refusals.values().map(|refusal| refusal.count).sum()
}
