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

    /// Ready when every ending was told and no controller is being started, or after so long; says how many were not told.
    pub async fn drained(&self, wait_max: Duration) -> usize {
        // Nothing is lost by giving up: the controller charges what was dispatched in full.
        let _ = tokio::time::timeout(wait_max, self.calls.all_told()).await;
        self.calls.endings()
    }

    fn call(&self, call: Call, wait_max: Duration) -> Result<Waiting, NotHeld> {
        let (number, answer) = self.calls.add(call)?;
        let now = Instant::now();
        let (deadline, next_look) = (now + wait_max, now + AWAY_WAIT_MAX.min(wait_max));
        let calls = self.calls.clone();
        Ok(Waiting { calls, number, answer, deadline, next_look, look: None, gives_up: true, release: None })
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
    next_look: Instant,
    /// Made where it is first waited for: only there is a runtime.
    look: Option<Pin<Box<tokio::time::Sleep>>>,
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

    /// An admission that nobody waits for any more holds nothing.
    fn giving_back(mut self, id: ReservationId) -> Waiting {
        self.release = Some(id);
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
        while self.gives_up {
            let next_look = self.next_look;
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next_look)));
            if look.as_mut().poll(context).is_pending() {
                break;
            }
            let (now, deadline) = (Instant::now(), self.deadline);
            if let Some(why) = self.calls.away() {
                return Poll::Ready(Err(unavailable(&why)));
            }
            if now >= deadline {
                return Poll::Ready(Err(unavailable("the controller does not answer")));
            }
            self.next_look = (now + AWAY_WAIT_MAX).min(deadline);
            self.look = None;
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
    NotHeld::Unavailable(format!(
        "{why}; `carboy controller status` says how it stands, `carboy controller run` starts it"
    ))
}

fn done(answer: Result<Answer, NotHeld>) -> Result<(), NotHeld> {
    let answer = answer?;
    if answer == Answer::Done { Ok(()) } else { Err(refusal(answer)) }
}

/// What is no answer to the question is a no.
fn refusal(answer: Answer) -> NotHeld {
    match answer {
        Answer::NotHeld(why) => why,
        Answer::Refused(why) => NotHeld::Unavailable(why),
        Answer::Done
        | Answer::Admitted(_)
        | Answer::Extended(_)
        | Answer::Part { .. }
        | Answer::Unset(_)
        | Answer::Status(_) => unavailable("the controller answered something that was not asked"),
    }
}

/// Every call is taken at once, in the order in which they are made; what is given waits for its answer.
impl Ledger for Client {
    fn admit(&self, ask: Ask) -> Later<'_, Result<Admitted, NotHeld>> {
        let (id, wait_max) = (ask.id, ANSWER_WAIT_MAX + self.calls.hold_wait());
        let waiting = self.call(Call::Admit(ask), wait_max).map(|waiting| waiting.giving_back(id));
        Box::pin(async move {
            let answer = waiting?.await?;
            if let Answer::Admitted(admitted) = answer { Ok(admitted) } else { Err(refusal(answer)) }
        })
    }

    fn dispatch(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        let waiting = self.call(Call::Dispatch(id), ANSWER_WAIT_MAX);
        Box::pin(async move { done(waiting?.await) })
    }

    fn extend(&self, id: ReservationId, output: u64) -> Later<'_, Result<u64, NotHeld>> {
        let waiting = self.call(Call::Extend(id, output), ANSWER_WAIT_MAX);
        Box::pin(async move {
            let answer = waiting?.await?;
            if let Answer::Extended(held) = answer { Ok(held) } else { Err(refusal(answer)) }
        })
    }

    /// Told also when the future is dropped without having been waited for.
    fn settle(&self, id: ReservationId, ending: Ending) -> Later<'_, Result<(), NotHeld>> {
        let waiting = self.call(Call::Settle(id, ending), ANSWER_WAIT_MAX).map(Waiting::without_end);
        Box::pin(async move { done(waiting?.await) })
    }

    fn release(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        let waiting = self.call(Call::Release(id), ANSWER_WAIT_MAX);
        Box::pin(async move { done(waiting?.await) })
    }
}
