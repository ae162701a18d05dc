//! The layers around the loop that judge rates and text: who may ask how often, what a message may be, what a reply may
//! say, and when a person sees which words of it.
//!
//! ```text
//!  message ─▶ limiter ─▶ input ─▶ (override rules) ─▶ loop ─▶ release { output filter ─▶ sentences ─▶ reply check } ─▶ person
//!                                                       └─▶ grounds ──────────────────────────────┘
//! ```
//!
//! *Must never* be asked by a model: everything here decides from text, released values and a time that is given.

pub mod grounds;
pub mod input;
pub mod limiter;
mod markdown;
pub mod release;
pub mod reply;
mod sentences;
