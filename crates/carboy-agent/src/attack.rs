//! The worst case: a model that knows every id and means harm, people who help it, clocks that jump and programs that start
//! again, and after every step the laws that hold all the same.
//!
//! ```text
//! seed ─▶ bytes ─▶ Script ─▶ World (two engines over the composer's tools and sessions) ─▶ what could be seen ─▶ laws ─▶ Violation
//!                    ▲                                                                                             │
//!                    └───────────────────────────── shrunk: the shortest that shows it ◀───────────────────────────┘
//! ```
//!
//! | law | what holds |
//! |---|---|
//! | I1 | no write without what its file demands before it, in the same session |
//! | I2 | nothing is done twice |
//! | I3 | no word of a record to a session that has not shown what opens it |
//! | I4 | "not there" and "not yours" are the same octets |
//! | I5 | no write without a click on the card of exactly these arguments |
//! | I6 | questions to the model, and requests, stay under their caps |
//! | I7 | turns of one session come one after the other |
//! | I8 | every decision is in the log exactly once, and the chain verifies |
//! | I9 | a reply that was dropped is never sent up again |
//! | I10 | no canary in anything that people, logs or counters show, and no unproven id, date or markup in a reply |
//! | I11 | it ends within its deadline |
//! | I12 | what is kept is bounded |
//! | NI | two shops that differ only in what nobody proved look the same |
//!
//! *Must never* open a file or a socket of its own, or decide by anything but its bytes: what it found is found again with the
//! same seed. The tools that it is given are really called; what they change is changed.

mod adversary;
pub mod dictionary;
mod draw;
mod hunt;
mod law;
mod laws;
mod play;
mod samples;
mod script;
mod seen;
mod watched;
mod words;
mod world;

pub use dictionary::{Dictionary, Guarded, Must};
pub use hunt::{Found, Hunt, Progress, compare, holes, hunt};
pub use law::{Law, Violation};
pub use samples::of as sample;
pub use script::Script;
pub use world::{Records, Reset, Setting, Stage, World, WorldError};
