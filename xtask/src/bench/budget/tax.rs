//! What it costs to have a request metered and held: the same gateway, the same scanning, once with and once without.
//!
//! Two homes: one where the benches' files are, and one in memory, where a commit waits for no disk. The difference between
//! the two is the disk's.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::Bench;
use super::super::figures::{goal, head, row, short};
use super::home::Home;
use super::way::{Length, Order, Way, cpu_us, per_second};
use super::{Part, Programs};

/// Rounds; in each, every order is carried out once in every home.
const ROUNDS: usize = 5;
/// No round begins after this.
const TIME_MAX: Duration = Duration::from_secs(120);
/// How long each order is carried out.
const MEASURED_MS: u64 = 800;
/// Connections where many are meant.
const MANY: u64 = 16;
/// Most that metering may take off the rate and put on the CPU time, in percent.
const TAX_MAX: f64 = 15.0;
/// Most that it may add to the 99th percentile of one connection, in µs.
const ADDED_P99_US_MAX: f64 = 200.0;

/// What is asked, metered and not, and its name in a table.
const SHAPES: [(&str, &str, &str); 2] = [
    ("answer", "answer-free", "whole answer, 1 KiB out, 1 KiB back"),
    ("stream", "stream-free", "stream of 100 pieces"),
];
const DISK: &str = "on disk";
const MEMORY: &str = "in memory";
/// Caps at every scope that a run has, far away.
const BOTTLE: &str =
    "egress: {routes: [{host: bench.example}]}\nbudget: {unknown: 1000000M}\nceiling: {unknown: 1000000M}\n";

fn order(shape: &'static str, connections: u64) -> Order {
    Order { shape, connections, length: Length::Ms(MEASURED_MS) }
}

/// Measures and writes the table.
pub fn run(bench: &Bench, programs: &Programs) -> Result<Part, String> {
    let upstream = programs.upstream(bench, "tax-tls")?;
    let settings = Home::upstream("bench.example", &upstream.address, &upstream.ca);
    let memory = PathBuf::from(format!("/dev/shm/carboy-bench-{}", std::process::id()));
    // The runs end before what they write into is removed.
    let part = measure(bench, programs, &settings, &memory).map(|ways| report(&ways));
    let _ = std::fs::remove_dir_all(&memory);
    part
}

fn measure(bench: &Bench, programs: &Programs, settings: &str, memory: &std::path::Path) -> Result<[Way; 2], String> {
    let (mut ways, mut homes) = (Vec::new(), Vec::new());
    for (name, root) in [(DISK, bench.scratch.join("tax")), (MEMORY, memory.join("tax"))] {
        let home = Home::open(bench, programs, &root, settings)?;
        home.bottle("bench", BOTTLE)?;
        let load = home.run("bench", &["/bench/bench", "load", "bench.example:443"])?;
        let pids = vec![load.pid(), home.controller()];
        ways.push(Way::new(name, load, pids)?);
        homes.push(home);
    }
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        if begun.elapsed() > TIME_MAX {
            break;
        }
        for connections in [1, MANY] {
            for (metered, free, _) in SHAPES {
                for way in &mut ways {
                    way.carry_out(order(free, connections))?;
                    way.carry_out(order(metered, connections))?;
                }
            }
        }
    }
    let [disk, memory] = ways.try_into().map_err(|_| "there are two homes")?;
    Ok([disk, memory])
}

/// By how many percent the second is more than the first.
fn percent_more(first: f64, second: f64) -> f64 {
    (second / first - 1.0) * 100.0
}

fn report(ways: &[Way; 2]) -> Part {
    let mut text =
        "Requests to a model, metered and held, beside the same ones through the same gateway that nobody meters:\n\n"
            .to_owned();
    text += &head(&[
        "",
        "per second, not metered",
        "metered",
        "CPU µs, not metered",
        "metered: supervisor",
        "and controller",
        "adds p50 / p99, µs",
    ]);
    let mut goals = String::new();
    for way in ways {
        for (metered, free, shown) in SHAPES {
            for connections in [1, MANY] {
                let (free, metered) = (order(free, connections), order(metered, connections));
                let plural = if connections == 1 { "" } else { "s" };
                let name = format!("{shown}; {connections} connection{plural}; ledger {}", way.name);
                let rates = [free, metered].map(|order| way.at(order, per_second));
                let cpu = [
                    way.at(free, cpu_us),
                    way.at(metered, |raw| raw.cpu[0] * 1e6 / raw.requests),
                    way.at(metered, |raw| raw.cpu[1] * 1e6 / raw.requests),
                ];
                let added = [
                    way.at(metered, |raw| raw.p50_us) - way.at(free, |raw| raw.p50_us),
                    way.at(metered, |raw| raw.p99_us) - way.at(free, |raw| raw.p99_us),
                ];
                let mut cells = vec![name.clone()];
                cells.extend(rates.map(short));
                cells.extend(cpu.map(short));
                cells.push(added.map(short).join(" / "));
                text += &row(&cells);
                if connections == MANY {
                    let rate = -percent_more(rates[0], rates[1]);
                    goals += &goal(
                        &format!("metering takes ≤ {TAX_MAX} % off the rate: {name}"),
                        &format!("{rate:.0} %"),
                        rate <= TAX_MAX,
                    );
                    let more = percent_more(cpu[0], cpu[1]);
                    let what = format!("and adds ≤ {TAX_MAX} % to the supervisor's CPU time: {name}");
                    goals += &goal(&what, &format!("{more:.0} %"), more <= TAX_MAX);
                } else {
                    let what = format!("adds ≤ {ADDED_P99_US_MAX} µs to the p99: {name}");
                    goals += &goal(&what, &format!("{} µs", short(added[1])), added[1] <= ADDED_P99_US_MAX);
                }
            }
        }
    }
    text += &format!(
        "\nMedians of {ROUNDS} rounds, interleaved, each connection asking again at once. Every metered request is held at three scopes, its hold is \
         committed to SQLite before a byte leaves (`synchronous=FULL`), and what it cost is committed after. *In memory* the home lies on a tmpfs.\n"
    );
    Part { text, goals }
}
