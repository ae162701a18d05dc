//! The calls of one client that were not answered yet, by number.
//!
//! *Must never* be locked across a wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carboy_core::budget::{NotHeld, ReservationId};
use tokio::sync::{Notify, oneshot};

use super::super::frame::{FrameError, encode};
use super::super::protocol::{Answer, Call, Request, Supervised};
use super::{CALLS_MAX, ENDINGS_MAX, unavailable};

/// Most bytes that are put together for one write.
const WRITE_BYTES_MAX: usize = 256 * 1024;

struct Pending {
    call: Call,
    /// `None` where nobody waits.
    caller: Option<oneshot::Sender<Answer>>,
}

struct State {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// Numbers that this connection has not carried yet, in order.
    to_send: VecDeque<u64>,
    /// Endings that the controller could not write; they are told again.
    again: Vec<u64>,
    endings: usize,
    supervised: Supervised,
    away: Option<String>,
    /// The controller is being reached for the first time, or started.
    reaching: bool,
    closed: bool,
}

/// See the module.
pub(super) struct Calls {
    state: Mutex<State>,
    /// There is something to send.
    wake: Notify,
    /// The last ending was told, or a controller reached.
    told: Notify,
}

impl Calls {
    pub(super) fn new(supervised: Supervised) -> Calls {
        let state = State {
            next: 0,
            pending: BTreeMap::new(),
            to_send: VecDeque::new(),
            again: Vec::new(),
            endings: 0,
            supervised,
            away: Some("the controller was not reached yet".into()),
            reaching: true,
            closed: false,
        };
        Calls { state: Mutex::new(state), wake: Notify::new(), told: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call; what it is answered comes through the receiver.
    pub(super) fn add(&self, call: Call) -> Result<(u64, oneshot::Receiver<Answer>), NotHeld> {
        let (caller, answer) = oneshot::channel();
        let mut state = self.state();
        if state.closed {
            return Err(unavailable("the run is ending"));
        }
        let ending = matches!(call, Call::Settle(..));
        // Requests that were admitted before may end all the same: there are never many more of them than are under way.
        if !ending && state.pending.len() - state.endings >= CALLS_MAX {
            return Err(unavailable(&format!("{CALLS_MAX} calls wait for the controller")));
        }
        if matches!(call, Call::Admit(_)) && state.endings >= ENDINGS_MAX {
            return Err(unavailable(&format!("{ENDINGS_MAX} ended requests could not be booked yet")));
        }
        Ok((self.push(&mut state, call, Some(caller)), answer))
    }

    fn push(&self, state: &mut State, call: Call, caller: Option<oneshot::Sender<Answer>>) -> u64 {
        let number = state.next;
        state.next += 1;
        state.endings += usize::from(matches!(call, Call::Settle(..)));
        state.pending.insert(number, Pending { call, caller });
        state.to_send.push_back(number);
        self.wake.notify_one();
        number
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&self, number: u64) {
        self.state().remove(number);
    }

    /// Nobody waits for this admission any more: whatever it held or will hold is given back.
    pub(super) fn give_back(&self, id: ReservationId) {
        let mut state = self.state();
        // What cannot be told for want of room is released with the owner.
        if !state.closed && state.pending.len() - state.endings < CALLS_MAX {
            self.push(&mut state, Call::Release(id), None);
        }
    }

    /// The controller answered.
    pub(super) fn answered(&self, number: u64, answer: Answer) {
        let mut state = self.state();
        let unwritten = matches!(answer, Answer::NotHeld(NotHeld::Unavailable(_)) | Answer::Refused(_));
        if unwritten && state.pending.get(&number).is_some_and(|p| matches!(p.call, Call::Settle(..))) {
            state.again.push(number);
            return;
        }
        let pending = state.remove(number);
        let all_told = state.endings == 0;
        drop(state);
        if all_told {
            self.told.notify_waiters();
        }
        if let Some(caller) = pending.and_then(|pending| pending.caller) {
            // Whoever called may have gone.
            let _ = caller.send(answer);
        }
    }

    /// A connection stands: everything that is unanswered goes over it, in order.
    pub(super) fn linked(&self) {
        let mut state = self.state();
        state.away = None;
        state.reaching = false;
        state.again.clear();
        state.to_send = state.pending.keys().copied().collect();
        drop(state);
        self.wake.notify_one();
        self.told.notify_waiters();
    }

    /// It is being started, or that has come to nothing.
    pub(super) fn reaching(&self, reaching: bool) {
        self.state().reaching = reaching;
        self.told.notify_waiters();
    }

    /// There is no connection.
    pub(super) fn lost(&self, why: String) {
        self.state().away = Some(why);
    }

    /// Endings that could not be written are told once more.
    pub(super) fn again(&self) {
        let mut state = self.state();
        let again = std::mem::take(&mut state.again);
        state.to_send.extend(again);
        drop(state);
        self.wake.notify_one();
    }

    /// Waits for something to send and gives it as it goes over the wire. Dropped before it is ready, nothing is lost.
    pub(super) async fn next_frames(&self) -> Result<Vec<u8>, FrameError> {
        loop {
            let frames = self.state().frames()?;
            if !frames.is_empty() {
                return Ok(frames);
            }
            self.wake.notified().await;
        }
    }

    pub(super) fn supervised(&self) -> Supervised {
        self.state().supervised.clone()
    }

    pub(super) fn renew(&self, supervised: Supervised) {
        self.state().supervised = supervised;
    }

    pub(super) fn away(&self) -> Option<String> {
        self.state().away.clone()
    }

    /// How long an admission may wait for room.
    pub(super) fn hold_wait(&self) -> Duration {
        Duration::from_millis(self.state().supervised.budgets.terms.hold_wait_ms)
    }

    pub(super) fn endings(&self) -> usize {
        self.state().endings
    }

    /// Ready when no ending waits and no controller is being started: whoever starts one leaves nobody half begun behind.
    pub(super) async fn all_told(&self) {
        loop {
            let told = self.told.notified();
            if self.is_settled() {
                return;
            }
            told.await;
        }
    }

    fn is_settled(&self) -> bool {
        let state = self.state();
        state.closed || state.endings == 0 && !state.reaching
    }

    /// Nothing is taken any more, and who waits is told.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.reaching = false;
        let pending = std::mem::take(&mut state.pending);
        state.endings = 0;
        drop(state);
        // Outside of the lock: who waited may call again at once.
        drop(pending);
        self.told.notify_waiters();
    }
}

impl State {
    fn remove(&mut self, number: u64) -> Option<Pending> {
        let pending = self.pending.remove(&number)?;
        self.endings -= usize::from(matches!(pending.call, Call::Settle(..)));
        Some(pending)
    }

    fn frames(&mut self) -> Result<Vec<u8>, FrameError> {
        let mut frames = Vec::new();
        while frames.len() < WRITE_BYTES_MAX
            && let Some(number) = self.to_send.pop_front()
        {
            // It may have been forgotten meanwhile.
            if let Some(pending) = self.pending.get(&number) {
                frames.extend(encode(&Request { number, call: pending.call.clone() })?);
            }
        }
        Ok(frames)
    }
}
