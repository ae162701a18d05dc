//! The ledger as one owner sees it, without a socket in between.

use carboy_core::budget::{Admitted, Ask, Ending, NotHeld, ReservationId};
use carboy_core::ports::{Later, Ledger};

use super::Engine;

/// One owner's ledger.
pub(super) struct OwnLedger {
    engine: Engine,
    owner: u64,
}

impl OwnLedger {
    pub(super) fn new(engine: Engine, owner: u64) -> OwnLedger {
        OwnLedger { engine, owner }
    }
}

impl Ledger for OwnLedger {
    fn admit(&self, ask: Ask) -> Later<'_, Result<Admitted, NotHeld>> {
        self.engine.admit(self.owner, ask)
    }

    fn dispatch(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        self.engine.dispatch(self.owner, id)
    }

    fn extend(&self, id: ReservationId, output: u64) -> Later<'_, Result<u64, NotHeld>> {
        self.engine.extend(self.owner, id, output)
    }

    fn settle(&self, id: ReservationId, ending: Ending) -> Later<'_, Result<(), NotHeld>> {
        self.engine.settle(self.owner, id, ending)
    }

    fn release(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        self.engine.release(self.owner, id)
    }
}
