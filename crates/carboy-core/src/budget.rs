//! Budgets: what tokens cost, which caps bind, and what may still be spent.
//!
//! Pure: [`Book`] decides and says what to write down; a ledger keeps it. *Must never* read a clock.

mod book;
mod caps;
mod law;
mod usage;
mod window;

pub use book::{Admission, Book, BookError, Both, GRAIN_MS, Reservation, ReservationId, Row, Settlement, Spent, Stage};
pub use caps::{BudgetSet, Cap, CapKind, Governs, Scope};
pub use law::{Caching, Decision, MARGIN_PART, MARGIN_TOKENS_MIN, Standing, Worst, decide};
pub use usage::{Amount, Count, TOKENS_MAX, Usage};
pub use window::{ROLLING_MS, Unit, UnknownZone, Window, Zone};
