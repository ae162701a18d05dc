//! A promise of one answer from the writer's thread to a waiting task, without a runtime.
//!
//! A giver that goes without answering (a writer that ended) answers with an error: nobody waits for ever.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use carboy_core::ports::AuditError;

use crate::StoreError;

type Answer = Result<(), AuditError>;

#[derive(Default)]
struct Slot {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

fn open(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    // The slot is whole at every step, so a panic elsewhere leaves nothing half done in it.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The side that answers.
pub(super) struct Giver(Arc<Mutex<Slot>>);

/// The side that waits.
pub(super) struct Ticket(Arc<Mutex<Slot>>);

/// Both sides.
pub(super) fn ticket() -> (Giver, Ticket) {
    let slot = Arc::new(Mutex::new(Slot::default()));
    (Giver(slot.clone()), Ticket(slot))
}

impl Giver {
    /// Answers.
    pub(super) fn give(self, answer: Answer) {
        self.settle(answer);
    }

    fn settle(&self, answer: Answer) {
        let mut slot = open(&self.0);
        slot.answer.get_or_insert(answer);
        if let Some(waker) = slot.waker.take() {
            drop(slot);
            waker.wake();
        }
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.settle(Err(StoreError::Closed.into()));
    }
}

impl Future for Ticket {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let mut slot = open(&self.0);
        match &slot.answer {
            Some(answer) => Poll::Ready(answer.clone()),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
