//! How fast a crossed budget ends things, in real bottles.
//!
//! ```text
//! a cap lowered     an operator's connection sends it ─▶ controller, durable ─▶ supervisor ─▶ streams shut ─▶ upstream sees it
//! a cap crossed     an answer's last byte leaves the upstream ─▶ supervisor ─▶ controller, durable ─▶ … the same
//! ```
//!
//! Each stream's time ends when its upstream knows that the connection is gone, which is after the last byte that it could
//! hand over. Processes *stand* when the kernel says so of every one of them, and are *dead* when none is left.

mod processes;

use std::process::Command;
use std::time::{Duration, Instant};

use super::super::Bench;
use super::super::figures::{goal, head, quantile, row, short};
use super::super::process::Process;
use super::home::Home;
use super::{Part, Programs, Upstream};

/// How often each is measured.
const ROUNDS: usize = 10;
/// Streams that are open at the crossing.
const STREAMS: usize = 64;
/// From the crossing to a stream's last byte, at the 99th percentile.
const CUT_MS_MAX: f64 = 20.0;
/// To a thousand processes' standing still, and to their death.
const STAND_MS_MAX: f64 = 100.0;
const DEAD_MS_MAX: f64 = 1000.0;
/// The longest until every stream's end was seen by its upstream.
const END_MAX: Duration = Duration::from_secs(10);
/// Times of the thousand processes.
const PROCESS_ROUNDS: usize = 5;

/// The route, and a cap that is far away. What is metered there is `unknown`.
const LOWERED: &str = "egress: {routes: [{host: bench.example}]}\nbudget: {unknown: 1000000M}\n";
/// One that a short answer of 5,000 tokens crosses.
const CROSSED: &str = "egress: {routes: [{host: bench.example}]}\nbudget: {unknown: 2000}\ngate: observe\n";

/// Milliseconds of all streams of all rounds, and how many were ended by their protocol.
#[derive(Default)]
struct Cut {
    ms: Vec<f64>,
    by_protocol: u64,
}

/// Measures and writes the tables.
pub fn run(bench: &Bench, programs: &Programs) -> Result<Part, String> {
    let mut upstream = programs.upstream(bench, "cut-tls")?;
    let settings = Home::upstream("bench.example", &upstream.address, &upstream.ca);
    let home = Home::open(bench, programs, &bench.scratch.join("cut"), &settings)?;
    let (mut lowered, mut crossed) = (Cut::default(), Cut::default());
    let mut operator = operator(programs, &home)?;
    for round in 0..ROUNDS {
        lowered.round(&home, &mut upstream, &format!("lowered-{round}"), LOWERED, |name, _| {
            operator.tell(&format!("{name} unknown 1"))?;
            sent_at(&mut operator)
        })?;
        crossed.round(&home, &mut upstream, &format!("crossed-{round}"), CROSSED, |_, load| {
            load.tell("short")?;
            Ok(None)
        })?;
    }
    let (mut stood, mut died) = (Vec::new(), Vec::new());
    for round in 0..PROCESS_ROUNDS {
        for (how, times) in [("pause", &mut stood), ("kill", &mut died)] {
            times.push(processes::ended(&home, &mut operator, &format!("{how}-{round}"), how)?);
        }
    }
    drop((operator, home));
    Ok(report(&lowered, &crossed, &stood, &died))
}

/// Whoever lowers caps, with the program already there: a command's start is not the crossing's.
fn operator(programs: &Programs, home: &Home) -> Result<Process, String> {
    let socket = home.socket().ok_or("the controller has no socket")?;
    Process::start("the operator", Command::new(&programs.ledger).arg("cross").arg(socket))
}

/// When the last request was sent, in microseconds since 1970.
fn sent_at(operator: &mut Process) -> Result<Option<u64>, String> {
    let line = operator.hear()?;
    let sent = line.split(' ').next().and_then(|word| word.parse().ok());
    sent.map(Some).ok_or_else(|| format!("the operator said `{line}`"))
}

impl Cut {
    /// Opens all streams in a bottle of its own and has them ended. `cross` says when that began; where it cannot, it is
    /// the end of the one stream that came to its end.
    fn round(
        &mut self,
        home: &Home,
        upstream: &mut Upstream,
        name: &str,
        bottle: &str,
        mut cross: impl FnMut(&str, &mut Process) -> Result<Option<u64>, String>,
    ) -> Result<(), String> {
        home.bottle(name, bottle)?;
        let mut load = home.run(name, &["/bench/bench", "streams", "bench.example:443", &STREAMS.to_string()])?;
        load.expect("open")?;
        let begun = cross(name, &mut load)?;
        let line = load.hear()?;
        let told: serde_json::Value = serde_json::from_str(&line).map_err(|error| format!("`{line}`: {error}"))?;
        self.by_protocol += told["ended"].as_u64().unwrap_or(0);
        drop(load);
        let seen = seen(upstream, STREAMS)?;
        let at = |stream: &serde_json::Value| stream["ended_us"].as_u64().unwrap_or(0);
        let (whole, cut): (Vec<_>, Vec<_>) = seen.iter().partition(|stream| stream["whole"].as_bool() == Some(true));
        let begun = begun.or_else(|| whole.first().map(|stream| at(stream))).ok_or("nothing crossed the cap")?;
        if cut.len() != STREAMS {
            return Err(format!("{} of {STREAMS} streams were cut in {name}", cut.len()));
        }
        self.ms.extend(cut.iter().map(|stream| (at(stream) as f64 - begun as f64) / 1e3));
        Ok(())
    }
}

/// The streams that ended at the upstream, once so many were cut.
fn seen(upstream: &mut Upstream, count: usize) -> Result<Vec<serde_json::Value>, String> {
    let (asked, mut seen) = (Instant::now(), Vec::new());
    loop {
        upstream.process.tell("streams")?;
        let line = upstream.process.hear()?;
        let more: Vec<serde_json::Value> = serde_json::from_str(&line).map_err(|error| format!("`{line}`: {error}"))?;
        seen.extend(more);
        if seen.iter().filter(|stream| stream["whole"].as_bool() == Some(false)).count() >= count
            || asked.elapsed() > END_MAX
        {
            return Ok(seen);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn report(lowered: &Cut, crossed: &Cut, stood: &[f64], died: &[f64]) -> Part {
    let mut text =
        format!("From a crossed cap to the end, in milliseconds; {STREAMS} streams, or 1,000 processes:\n\n");
    text += &head(&["", "p50", "p99", "longest"]);
    let mut goals = String::new();
    let rows = [
        ("cap lowered by the operator → last byte of a stream", &lowered.ms[..], CUT_MS_MAX),
        ("cap crossed by an answer, `gate: observe` → last byte of the others", &crossed.ms[..], CUT_MS_MAX),
        ("cap lowered, `shutdown: pause` → every process stands", stood, STAND_MS_MAX),
        ("cap lowered, `shutdown: kill` → every process is dead", died, DEAD_MS_MAX),
    ];
    for (name, ms, most) in rows {
        let [middle, late, longest] = [0.5, 0.99, 1.0].map(|part| quantile(ms, part));
        text += &row(&[name, &short(middle), &short(late), &short(longest)]);
        goals += &goal(&format!("p99 ≤ {most} ms: {name}"), &format!("{} ms", short(late)), late <= most);
    }
    let cut = lowered.by_protocol + crossed.by_protocol;
    let all = 2 * ROUNDS * STREAMS;
    text += &format!(
        "\n{ROUNDS} rounds of streams, {PROCESS_ROUNDS} of processes. To their clients {cut} of the {all} cut streams ended as their protocol ends. The time is that of \
         everything in between: the controller's commit, its message, the supervisor, the kernel.\n"
    );
    Part { text, goals }
}
