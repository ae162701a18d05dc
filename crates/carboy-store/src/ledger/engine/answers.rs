//! The answer to an admission: a hold that nobody took is given back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use carboy_core::budget::{Admitted, NotHeld, ReservationId};

use super::{Command, Shared};
use crate::ticket::Ticket;

type Answer = Result<Admitted, NotHeld>;

/// Waits for an admission. Dropped without having given its answer, it tells the thread.
pub(super) struct AdmitTicket {
    ticket: Ticket<Answer>,
    shared: Weak<Shared>,
    id: ReservationId,
    asked: u64,
    taken: bool,
}

impl AdmitTicket {
    pub(super) fn new(ticket: Ticket<Answer>, shared: Weak<Shared>, id: ReservationId, asked: u64) -> AdmitTicket {
        AdmitTicket { ticket, shared, id, asked, taken: false }
    }
}

impl Future for AdmitTicket {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let polled = Pin::new(&mut self.ticket).poll(context);
        self.taken |= polled.is_ready();
        polled
    }
}

impl Drop for AdmitTicket {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let Some(shared) = self.shared.upgrade() else { return };
        shared.abandoned().push((self.id, self.asked));
        // Where the queue is full the thread is at work, and looks by itself.
        let _ = shared.commands.try_send(Command::Look);
    }
}
