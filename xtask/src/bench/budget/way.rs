//! One way from a load generator to an upstream, and what was measured on it.

use super::super::figures::median;
use super::super::orders::{Raw, obeyed};
use super::super::process::Process;

/// Milliseconds before anything is counted.
const WARMUP_MS: u64 = 200;
/// No part is longer than this many requests, however fast they go.
const REQUESTS_MAX: u64 = 200_000;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order {
    /// Its name to the load generator.
    pub shape: &'static str,
    pub connections: u64,
    pub length: Length,
}

/// How long it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// So many milliseconds, each connection asking again as soon as it was answered.
    Ms(u64),
    /// Once on each connection, without a warm-up.
    Once,
}

/// A way at work.
pub struct Way {
    pub name: &'static str,
    load: Process,
    /// The processes whose CPU time is looked at.
    pids: Vec<u32>,
    outcomes: Vec<(Order, Raw)>,
}

/// Takes one number from an outcome.
pub type Pick = fn(&Raw) -> f64;

pub fn per_second(raw: &Raw) -> f64 {
    raw.requests / raw.seconds
}

/// CPU time of all processes together for one request, in microseconds.
pub fn cpu_us(raw: &Raw) -> f64 {
    raw.cpu.iter().sum::<f64>() * 1e6 / raw.requests
}

impl Order {
    fn line(&self) -> String {
        let (warmup_ms, measured_ms, requests_max) = match self.length {
            Length::Ms(ms) => (WARMUP_MS, ms, REQUESTS_MAX),
            Length::Once => (0, 60_000, self.connections),
        };
        serde_json::json!({
            "connections": self.connections,
            "shape": self.shape,
            "warmup_ms": warmup_ms,
            "measured_ms": measured_ms,
            "requests_max": requests_max,
            "rate": 0,
        })
        .to_string()
    }
}

impl Way {
    pub fn new(name: &'static str, mut load: Process, pids: Vec<u32>) -> Result<Way, String> {
        load.expect("up")?;
        Ok(Way { name, load, pids, outcomes: Vec::new() })
    }

    /// Has an order done once more.
    pub fn carry_out(&mut self, order: Order) -> Result<(), String> {
        let raw = obeyed(&mut self.load, &self.pids, &order.line());
        self.outcomes.push((order, raw.map_err(|error| format!("{}: {order:?}: {error}", self.name))?));
        Ok(())
    }

    /// The median over the rounds.
    pub fn at(&self, order: Order, pick: Pick) -> f64 {
        let outcomes = self.outcomes.iter().filter(|(given, _)| *given == order);
        median(&outcomes.map(|(_, raw)| pick(raw)).collect::<Vec<_>>())
    }
}
