//! What the load generator is told and what it answers; its side is `crates/carboy-egress/examples/bench/load.rs`.

use super::process::{self, Process};

/// A kind of request: its name to the load generator, and in a table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub shown: &'static str,
}

/// All that are measured; JSON in every body.
pub const SHAPES: [Shape; 4] = [
    Shape { name: "get", shown: "GET, 1 KiB back" },
    Shape { name: "post", shown: "POST, 1 KiB out, 1 KiB back" },
    Shape { name: "get-100k", shown: "GET, 100 KiB back" },
    Shape { name: "post-100k", shown: "POST, 100 KiB out, 1 KiB back" },
];

/// How requests are made.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// Each connection asks again as soon as it was answered.
    Closed,
    /// So many a second over all connections.
    PerSecond(u64),
}

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Order {
    pub shape: Shape,
    pub connections: u64,
    pub pace: Pace,
}

/// What came of it once.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// CPU time of the proxy for each request; 0 where there is no proxy.
    pub cpu_us: f64,
    /// Resident memory of the proxy with the connections open; 0 where there is no proxy.
    pub resident_mib: f64,
}

/// Milliseconds before anything is counted.
const WARMUP_MS: u64 = 150;
/// No part is longer than this many requests, however fast they go.
const REQUESTS_MAX: u64 = 200_000;

impl Order {
    fn line(&self) -> String {
        let (measured_ms, rate) = match self.pace {
            Pace::Closed => (600, 0),
            Pace::PerSecond(rate) => (1200, rate),
        };
        serde_json::json!({
            "connections": self.connections,
            "shape": self.shape.name,
            "warmup_ms": WARMUP_MS,
            "measured_ms": measured_ms,
            "requests_max": REQUESTS_MAX,
            "rate": rate,
        })
        .to_string()
    }
}

/// What a load generator found, and what others used meanwhile.
#[derive(Clone, Debug)]
pub struct Raw {
    pub requests: f64,
    pub seconds: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// CPU time in seconds of each process that was looked at.
    pub cpu: Vec<f64>,
}

/// Has an order done once, and looks at the processes' CPU time right before and right after.
pub fn obeyed(load: &mut Process, pids: &[u32], order: &str) -> Result<Raw, String> {
    let cpu = || pids.iter().map(|pid| process::cpu_seconds(*pid)).collect::<Result<Vec<f64>, String>>();
    load.tell(order)?;
    load.expect("ready")?;
    let before = cpu()?;
    load.tell("start")?;
    load.expect("done")?;
    let after = cpu()?;
    load.tell("figures")?;
    let line = load.hear()?;
    let figures: serde_json::Value = serde_json::from_str(&line).map_err(|error| format!("`{line}`: {error}"))?;
    let number = |name: &str| figures[name].as_f64().ok_or_else(|| format!("no `{name}` in {line}"));
    let requests = number("requests")?;
    if requests < 1.0 {
        return Err(format!("no request was answered in time: {line}"));
    }
    Ok(Raw {
        requests,
        seconds: number("seconds")?,
        p50_us: number("p50_us")?,
        p99_us: number("p99_us")?,
        cpu: after.iter().zip(&before).map(|(after, before)| after - before).collect(),
    })
}

/// Has it done once.
pub fn carry_out(load: &mut Process, proxy: Option<u32>, order: &Order) -> Result<Outcome, String> {
    let raw = obeyed(load, proxy.as_slice(), &order.line())?;
    Ok(Outcome {
        per_second: raw.requests / raw.seconds,
        p50_us: raw.p50_us,
        p99_us: raw.p99_us,
        cpu_us: raw.cpu.iter().sum::<f64>() * 1e6 / raw.requests,
        resident_mib: proxy.map_or(Ok(0.0), process::resident_mib)?,
    })
}
