//! The ledger of one supervisor, kept by the controller at the other end of a socket.
//!
//! ```text
//!  admit, dispatch… ─► calls, by number ─► carrier ─► socket       answers wake whoever called
//!                           ▲                 │
//!                           └── still unanswered when the connection breaks: said again on the next one
//! ```
//!
//! Every call names its reservation, so that saying it twice is saying it once. A call that the controller stays away from
//! is answered [`NotHeld::Unavailable`], except for an ending: that one waits here until it could be told, and when
//! [`ENDINGS_MAX`] of them wait nothing is admitted any more.
//!
//! *Must never* grant anything by itself, or forget an ending.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use carboy_core::budget::{Admitted, Ask, Ending, NotHeld, ReservationId};
use carboy_core::ports::{Later, Ledger};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::events::{ClientEvents, events};
use super::protocol::{Answer, Call, Supervised};

mod calls;
mod carrier;

use calls::Calls;

/// How long a call waits for a controller that is away.
pub const AWAY_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the controller may take for anything but waiting for room; a disk that stalls is in it.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);
/// How often a supervisor says that it is there.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// Most calls under way, endings aside.
pub const CALLS_MAX: usize = 2_048;
/// Most endings that wait to be told.
pub const ENDINGS_MAX: usize = 4_096;

/// The way to the controller of a home.
pub trait Reach: Send + Sync + 'static {
    /// Its socket.
    fn socket(&self) -> &std::path::Path;

    /// Starts it, where nobody listens. Ready when it does, or when it cannot be started, with why.
    fn start(&self) -> Later<'_, Result<(), String>>;

    /// The version of this program.
    fn program(&self) -> &str;
}

/// The controller's client for one supervisor.
pub struct Client {
    calls: Arc<Calls>,
    carrier: tokio::task::JoinHandle<()>,
}

impl Client {
    /// Begins to connect, starting the controller where there is none. The run does not wait for it: what is metered does.
    pub fn open(reach: Arc<dyn Reach>, supervised: Supervised) -> (Arc<Client>, ClientEvents) {
        let (filled, taken) = events();
        let calls = Arc::new(Calls::new(supervised));
        let carrier = tokio::spawn(carrier::carry(calls.clone(), reach, filled));
        (Arc::new(Client { calls, carrier }), taken)
    }

    /// The budgets were changed: they hold from the controller's answer on.
    pub async fn renew(&self, supervised: Supervised) -> Result<(), NotHeld> {
        self.calls.renew(supervised.clone());
        let call = self.call(Call::Renew(Box::new(supervised)), ANSWER_WAIT_MAX)?;
        done(call.await)
    }

    /// Why the controller cannot be reached; `None` while it can.
    pub fn away(&self) -> Option<String> {
        self.calls.away()
    }

    /// Endings that were not told yet.
    pub fn untold(&self) -> usize {
        self.calls.endings()
    }

    /// Ready when every ending was told, or after so long; says how many were not.
    pub async fn drained(&self, wait_max: Duration) -> usize {
        // Nothing is lost by giving up: the controller charges what was dispatched in full.
        let _ = tokio::time::timeout(wait_max, self.calls.all_told()).await;
        self.calls.endings()
    }

    fn call(&self, call: Call, wait_max: Duration) -> Result<Waiting, NotHeld> {
        let (number, answer) = self.calls.add(call)?;
        let deadline = Instant::now() + wait_max;
        let look = Box::pin(tokio::time::sleep(AWAY_WAIT_MAX.min(wait_max)));
        Ok(Waiting { calls: self.calls.clone(), number, answer, deadline, look, gives_up: true, release: None })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.carrier.abort();
        self.calls.close();
    }
}

/// A call that is to be answered.
struct Waiting {
    calls: Arc<Calls>,
    number: u64,
    answer: oneshot::Receiver<Answer>,
    deadline: Instant,
    look: Pin<Box<tokio::time::Sleep>>,
    /// An ending does not.
    gives_up: bool,
    /// What is given back when nobody waits for it any more.
    release: Option<ReservationId>,
}

impl Waiting {
    /// An ending is told however long that takes, and whether or not anybody waits for it.
    fn without_end(mut self) -> Waiting {
        self.gives_up = false;
        self
    }
}

impl Future for Waiting {
    type Output = Result<Answer, NotHeld>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(context) {
            self.release = None;
            return Poll::Ready(answer.map_err(|_| unavailable("the run is ending")));
        }
        while self.gives_up && self.look.as_mut().poll(context).is_ready() {
            let (now, deadline) = (Instant::now(), self.deadline);
            if let Some(why) = self.calls.away() {
                return Poll::Ready(Err(unavailable(&why)));
            }
            if now >= deadline {
                return Poll::Ready(Err(unavailable("the controller does not answer")));
            }
            self.look.as_mut().reset((now + AWAY_WAIT_MAX).min(deadline));
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.gives_up {
            self.calls.forget(self.number);
        }
        if let Some(id) = self.release {
            self.calls.give_back(id);
        }
    }
}

/// What a metered request is told.
fn unavailable(why: &str) -> NotHeld {
    NotHeld::Unavailable(format!("{why}; `carboy controller status` says how it stands, `carboy controller run` starts it"))
}

fn done(answer: Result<Answer, NotHeld>) -> Result<(), NotHeld> {
    match answer? {
        Answer::Done => Ok(()),
        Answer::NotHeld(why) => Err(why),
        Answer::Refused(why) => Err(NotHeld::Unavailable(why)),
        Answer::Admitted(_) | Answer::Extended(_) | Answer::Part { .. } | Answer::Unset(_) | Answer::Status(_) => {
            Err(misunderstood())
        }
    }
}

fn misunderstood() -> NotHeld {
    unavailable("the controller answered something that was not asked")
}

impl Ledger for Client {
    fn admit(&self, ask: Ask) -> Later<'_, Result<Admitted, NotHeld>> {
        let id = ask.id;
        Box::pin(async move {
            let wait_max = ANSWER_WAIT_MAX + self.calls.hold_wait();
            let mut waiting = self.call(Call::Admit(ask), wait_max)?;
            waiting.release = Some(id);
            match waiting.await? {
                Answer::Admitted(admitted) => Ok(admitted),
                Answer::NotHeld(why) => Err(why),
                Answer::Refused(why) => Err(NotHeld::Unavailable(why)),
                Answer::Done | Answer::Extended(_) | Answer::Part { .. } | Answer::Unset(_) | Answer::Status(_) => {
                    Err(misunderstood())
                }
            }
        })
    }

    fn dispatch(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        Box::pin(async move { done(self.call(Call::Dispatch(id), ANSWER_WAIT_MAX)?.await) })
    }

    fn extend(&self, id: ReservationId, output: u64) -> Later<'_, Result<u64, NotHeld>> {
        Box::pin(async move {
            match self.call(Call::Extend(id, output), ANSWER_WAIT_MAX)?.await? {
                Answer::Extended(held) => Ok(held),
                Answer::NotHeld(why) => Err(why),
                Answer::Refused(why) => Err(NotHeld::Unavailable(why)),
                Answer::Done | Answer::Admitted(_) | Answer::Part { .. } | Answer::Unset(_) | Answer::Status(_) => {
                    Err(misunderstood())
                }
            }
        })
    }

    /// Taken at once, also when the future is dropped without having been waited for.
    fn settle(&self, id: ReservationId, ending: Ending) -> Later<'_, Result<(), NotHeld>> {
        let call = self.call(Call::Settle(id, ending), ANSWER_WAIT_MAX);
        let call = call.map(Waiting::without_end);
        Box::pin(async move { done(call?.await) })
    }

    fn release(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        Box::pin(async move { done(self.call(Call::Release(id), ANSWER_WAIT_MAX)?.await) })
    }
}
