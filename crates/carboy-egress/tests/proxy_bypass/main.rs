//! Rows of the bypass matrix by the way of a proxy: each in at least three variants, none of which reaches the upstream, each
//! refused with its reason in the answer and in the log. What works is policed.

#![allow(clippy::unwrap_used)]

mod names;
mod reach;
mod requests;
#[path = "../support/mod.rs"]
mod support;
mod way;
