//! The ledger of a run that no budget binds: everything is held, charged and added up in memory, and nothing refused.
//!
//! *Must never* stand where a budget was set: it knows of none.

use std::sync::{Mutex, MutexGuard};

use carboy_core::budget::{
    Admission, Admitted, Ask, Book, BookError, Decision, Ending, Granted, NotHeld, ReservationId, Scope, Settlement,
    Worst,
};
use carboy_core::ports::{Clock, Later, Ledger};

/// Everything is one owner's: this process's.
const OWNER: u64 = 0;

/// See the module.
pub(crate) struct UnboundLedger<C> {
    book: Mutex<Book>,
    clock: C,
}

impl<C: Clock> UnboundLedger<C> {
    pub(crate) fn new(clock: C) -> Self {
        UnboundLedger { book: Mutex::default(), clock }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no panic under this lock")
    }

    fn hold(&self, ask: Ask) -> Result<Admitted, NotHeld> {
        let Ask { id, meter, model: _, input, counted: _, caching, output, answers } = ask;
        let worst = Worst { input, caching, output, output_min: output, answers };
        let (chain, at_ms) = (vec![Scope::Host], self.clock.now_ms());
        let admission = Admission { id, owner: OWNER, meter, chain, caps: Vec::new(), worst, waiting: 0, at_ms };
        match self.book().admit(&admission).0 {
            Decision::Admit { output } => Ok(Admitted::Held(Granted { output: Some(output), held: output })),
            // Without a cap nothing is ever in the way but the numbers themselves.
            Decision::Absurd | Decision::Wait { .. } | Decision::Exhausted { .. } => Err(NotHeld::Absurd),
        }
    }

    fn end(&self, id: ReservationId, ending: Ending) -> Result<(), BookError> {
        let settle = |usage, estimated| self.book().settle(id, &Settlement { usage, estimated });
        match ending {
            Ending::Reported(usage) => settle(usage, false),
            Ending::Estimated(usage) => settle(usage, true),
            Ending::Unknown(usage) => self.book().charge_whole(id, &usage),
        }
        .map(drop)
    }
}

fn unknown(_: BookError) -> NotHeld {
    NotHeld::Unknown
}

impl<C: Clock> Ledger for UnboundLedger<C> {
    fn admit(&self, ask: Ask) -> Later<'_, Result<Admitted, NotHeld>> {
        let held = self.hold(ask);
        Box::pin(async move { held })
    }

    fn dispatch(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        let dispatched = self.book().dispatch(id).map(drop).map_err(unknown);
        Box::pin(async move { dispatched })
    }

    fn extend(&self, id: ReservationId, _: u64) -> Later<'_, Result<u64, NotHeld>> {
        let held = self.book().reservations().find(|one| one.id == id).map(|one| one.output);
        Box::pin(async move { held.ok_or(NotHeld::Unknown) })
    }

    fn settle(&self, id: ReservationId, ending: Ending) -> Later<'_, Result<(), NotHeld>> {
        let settled = self.end(id, ending).map_err(unknown);
        Box::pin(async move { settled })
    }

    fn release(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        let released = self.book().release(id).map(drop).map_err(unknown);
        Box::pin(async move { released })
    }
}
