//! Budgets: what tokens cost, which caps bind, and what may still be spent.
//!
//! Pure: [`Book`] decides and says what to write down; a ledger keeps it. *Must never* read a clock.

mod ask;
mod book;
mod caps;
mod edits;
mod law;
mod snapshot;
mod terms;
mod usage;
mod window;

pub use ask::{Admitted, Ask, Binding, Counted, Ending, Granted, NotHeld};
pub use book::{
    Admission, Answer, Book, BookError, Both, GRAIN_MS, NoReservationId, Reservation, ReservationId, Row, Settlement,
    Spent, Stage, TRANCHE_TOKENS,
};
pub use caps::{BudgetSet, Cap, CapKind, Governs, Scope};
pub use edits::{CapEdit, CapKey, Edits, TOP_UPS_MAX, TopUp};
pub use law::{Caching, Decision, MARGIN_PART, MARGIN_TOKENS_MIN, NEAR_PART, Standing, Worst, count_first, decide};
pub use snapshot::{CapLine, InFlight, LedgerSnapshot, MODEL_CHARS_MAX, MeterLine, Node};
pub use terms::{Gate, Overrun, Shutdown, Terms};
pub use usage::{Amount, Count, TOKENS_MAX, Usage, read_shown, shown};
pub use window::{ROLLING_MS, Unit, UnknownZone, Window, Zone};
