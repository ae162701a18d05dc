//! A promise of one answer from a writer's thread to a waiting task, without a runtime.
//!
//! A giver that goes without answering (a writer that ended) gives the answer it was made with: nobody waits for ever.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

struct Slot<T> {
    answer: Option<T>,
    given: bool,
    waker: Option<Waker>,
}

fn open<T>(slot: &Mutex<Slot<T>>) -> MutexGuard<'_, Slot<T>> {
    // The slot is whole at every step, so a panic elsewhere leaves nothing half done in it.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The side that answers.
pub(crate) struct Giver<T> {
    slot: Arc<Mutex<Slot<T>>>,
    otherwise: Option<T>,
}

/// The side that waits. It is ready once.
pub(crate) struct Ticket<T>(Arc<Mutex<Slot<T>>>);

/// Both sides, and what is answered by a giver that goes.
pub(crate) fn ticket<T>(otherwise: T) -> (Giver<T>, Ticket<T>) {
    let slot = Arc::new(Mutex::new(Slot { answer: None, given: false, waker: None }));
    (Giver { slot: slot.clone(), otherwise: Some(otherwise) }, Ticket(slot))
}

impl<T> Giver<T> {
    /// Answers.
    pub(crate) fn give(mut self, answer: T) {
        self.otherwise = None;
        self.settle(answer);
    }

    /// Whether anybody is there to be answered.
    pub(crate) fn is_waited_for(&self) -> bool {
        Arc::strong_count(&self.slot) > 1
    }

    fn settle(&self, answer: T) {
        let mut slot = open(&self.slot);
        if !slot.given {
            (slot.given, slot.answer) = (true, Some(answer));
        }
        if let Some(waker) = slot.waker.take() {
            drop(slot);
            waker.wake();
        }
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        if let Some(answer) = self.otherwise.take() {
            self.settle(answer);
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = open(&self.0);
        match slot.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
