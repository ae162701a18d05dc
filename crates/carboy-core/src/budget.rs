//! Budgets: what tokens cost, which caps bind, and what may still be spent.
//!
//! Pure: [`Book`] decides and says what to write down; a ledger keeps it. *Must never* read a clock.

mod ask;
mod book;
mod caps;
mod law;
mod terms;
mod usage;
mod window;

pub use ask::{Admitted, Ask, Binding, Counted, Ending, Granted, NotHeld};
pub use book::{Admission, Book, BookError, Both, GRAIN_MS, Reservation, ReservationId, Row, Settlement, Spent, Stage};
pub use caps::{BudgetSet, Cap, CapKind, Governs, Scope};
pub use law::{Caching, Decision, MARGIN_PART, MARGIN_TOKENS_MIN, Standing, Worst, decide};
pub use terms::{Gate, Overrun, Shutdown, Terms};
pub use usage::{Amount, Count, TOKENS_MAX, Usage};
pub use window::{ROLLING_MS, Unit, UnknownZone, Window, Zone};
