//! The ledger by itself: durable reserve + settle pairs of 32 clients at once.

use std::process::Command;

use super::super::Bench;
use super::super::figures::{goal, head, row, short};
use super::home::Home;
use super::{Part, Programs};

const PER_SECOND_MIN: f64 = 20_000.0;
const P99_MS_MAX: f64 = 10.0;

/// Measures and writes the table.
pub fn run(bench: &Bench, programs: &Programs) -> Result<Part, String> {
    let place = bench.directory("pairs")?;
    let home = Home::open(bench, programs, &bench.scratch.join("ledger"), "")?;
    let socket = home.socket().ok_or("the controller has no socket")?;
    let mut command = Command::new(&programs.ledger);
    let output = command.arg("pairs").arg(&place).arg(socket).output();
    let output = output.map_err(|error| format!("cannot run the clients: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map(|told| report(&told)).map_err(|error| format!("`{text}`: {error}"))
}

fn report(told: &serde_json::Value) -> Part {
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or(0.0);
    let clients = number(&told["clients"]);
    let mut text = format!("Durable reserve + settle pairs of {clients:.0} clients at once:\n\n");
    text +=
        &head(&["", "pairs per second", "p50, ms", "p99, ms", "longest, ms", "pairs of the slowest / fastest client"]);
    let rows = [
        ("inside", "the ledger, in its process"),
        ("socket", "the controller, over its socket"),
        ("direct", "32 writers of SQLite, `synchronous=FULL`"),
    ];
    let mut goals = String::new();
    for (key, name) in rows {
        let of = |what: &str| number(&told[key][what]);
        let [p50, p99, longest] = ["p50_us", "p99_us", "longest_us"].map(|what| of(what) / 1e3);
        let mut cells = vec![name.to_owned(), short(of("per_second"))];
        cells.extend([p50, p99, longest].map(short));
        cells.push(format!("{} / {}", short(of("fewest")), short(of("most"))));
        text += &row(&cells);
        if key != "direct" {
            let rate = of("per_second");
            goals += &goal(
                &format!("≥ 20,000 durable pairs per second: {name}"),
                &format!("{}/s", short(rate)),
                rate >= PER_SECOND_MIN,
            );
            let what = format!("p99 of a pair ≤ {P99_MS_MAX} ms: {name}");
            goals += &goal(&what, &format!("{} ms", short(p99)), p99 <= P99_MS_MAX);
        }
    }
    let ratio = number(&told["socket"]["per_second"]) / number(&told["direct"]["per_second"]);
    text += &format!(
        "\n{} turns of {} s each, in turns. Each pair is three calls: hold, make durable, charge. Over the socket it is {ratio:.1} times as many as by direct writers.\n",
        told["turns"], told["turn_s"]
    );
    Part { text, goals }
}
