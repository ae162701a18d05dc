//! What a piece of a stream costs on its way through: scanned, and scanned and metered, beside a proxy that does neither.
//!
//! *Paced* is as models write: every piece comes by itself, and is passed on by itself. *At once* is what a stream is when
//! the network has bundled its pieces.

use std::process::Command;
use std::time::{Duration, Instant};

use super::super::Bench;
use super::super::figures::{goal, head, row, short};
use super::super::process::Process;
use super::home::Home;
use super::way::{Length, Order, Way};
use super::{Part, Programs};

const ROUNDS: usize = 5;
/// No round begins after this.
const TIME_MAX: Duration = Duration::from_secs(120);
/// Streams at once.
const STREAMS: u64 = 16;
/// Pieces of text of each.
const EVENTS: f64 = 1000.0;
/// Most CPU time of a piece with scanning and metering, in µs.
const EVENT_US_MAX: f64 = 25.0;
const BOTTLE: &str = "egress: {routes: [{host: bench.example}]}\nbudget: {unknown: 1000000M}\n";

const PACED: [&str; 2] = ["paced-stream-free", "paced-stream"];
const AT_ONCE: [&str; 2] = ["long-stream-free", "long-stream"];

fn order(shape: &'static str) -> Order {
    Order { shape, connections: STREAMS, length: Length::Once }
}

/// Measures and writes the table.
pub fn run(bench: &Bench, programs: &Programs) -> Result<Part, String> {
    let upstream = programs.upstream(bench, "streams-tls")?;
    let settings = Home::upstream("bench.example", &upstream.address, &upstream.ca);
    let home = Home::open(bench, programs, &bench.scratch.join("streams"), &settings)?;
    home.bottle("bench", BOTTLE)?;
    let load = home.run("bench", &["/bench/bench", "load", "bench.example:443"])?;
    let pids = vec![load.pid(), home.controller()];
    let mut carboy = Way::new("carboy", load, pids)?;

    let mut proxy =
        Process::start("bare", Command::new(&programs.bench).arg("bare").arg(&upstream.place).arg(&upstream.address))?;
    let address = proxy.hear()?;
    let port = address.rsplit_once(':').ok_or_else(|| format!("the bare proxy listens on `{address}`"))?.1;
    let mut command = Command::new(&programs.bench);
    command.arg("load").arg(format!("localhost:{port}")).arg("--ca").arg(&upstream.ca);
    let mut bare = Way::new("bare hyper proxy", Process::start("load", &mut command)?, vec![proxy.pid()])?;

    let begun = Instant::now();
    for _ in 0..ROUNDS {
        if begun.elapsed() > TIME_MAX {
            break;
        }
        for [free, metered] in [PACED, AT_ONCE] {
            bare.carry_out(order(free))?;
            carboy.carry_out(order(free))?;
            carboy.carry_out(order(metered))?;
        }
    }
    drop(home);
    Ok(report(&carboy, &bare))
}

fn report(carboy: &Way, bare: &Way) -> Part {
    let mut text = format!(
        "CPU time for each piece of a stream of {EVENTS:.0}, in µs, {STREAMS} streams at once (*all* is supervisor and controller, with the request itself):\n\n"
    );
    text += &head(&["", "bare hyper proxy", "carboy, not metered", "carboy, metered", "all"]);
    let mut goals = String::new();
    for ([free, metered], shown) in [(PACED, "paced: a piece every 2 ms"), (AT_ONCE, "at once")] {
        let way = |way: &Way, shape| way.at(order(shape), |raw| raw.cpu[0] * 1e6 / raw.requests / EVENTS);
        let figures = [way(bare, free), way(carboy, free), way(carboy, metered)];
        let all = carboy.at(order(metered), |raw| raw.cpu.iter().sum::<f64>() * 1e6 / raw.requests / EVENTS);
        let mut cells = vec![shown.to_owned()];
        cells.extend(figures.map(short));
        cells.push(short(all));
        text += &row(&cells);
        let what = format!("≤ {EVENT_US_MAX} µs of CPU for a piece of a stream, scanned and metered, {shown}");
        goals += &goal(&what, &format!("{} µs", short(figures[2])), figures[2] <= EVENT_US_MAX);
    }
    text += &format!("\nMedians of {ROUNDS} rounds, interleaved.\n");
    Part { text, goals }
}
