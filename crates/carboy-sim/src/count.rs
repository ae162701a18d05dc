//! How the simulated provider counts, and its own bill.

use std::sync::{Arc, Mutex, PoisonError};

/// Tokens of so many bytes: a quarter, rounded up.
pub const fn tokens(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// What the provider would charge for: the figures that a meter in between has to arrive at by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Answered model requests, interrupted ones included, refused ones not.
    pub requests: u64,
    /// Tokens read.
    pub input: u64,
    /// Tokens written; of an interrupted stream those that went out.
    pub output: u64,
}

/// The bill, shared by all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Till(Arc<Mutex<Bill>>);

impl Till {
    pub fn bill(&self) -> Bill {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn charge(&self, requests: u64, input: u64, output: u64) {
        let mut bill = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bill.requests += requests;
        bill.input += input;
        bill.output += output;
    }
}
