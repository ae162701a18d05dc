//! How long a service takes from the start of its program until `/health` says 200.

use super::super::Bench;
use super::super::figures::{goal, head, median, quantile, row, short};
use super::service::{Carboy, Peer, Service, free_address};
use super::{CARBOY, ONE_WORKER, WORKERS};

/// Rounds; every service starts once in each.
const ROUNDS: usize = 12;
/// Rounds before those, which are not counted.
const WARMUP_ROUNDS: usize = 2;
/// From the start to the first 200, in milliseconds.
const START_MAX_MS: f64 = 300.0;
/// The same with a controller that has to be started first.
const FIRST: &str = "carboy, the first of its host: its controller starts too";

/// Measures; the table, and the lines of its goals. The first home's controller runs, the second has none.
pub fn run(
    bench: &Bench,
    settings: &str,
    [warm, cold]: [&Carboy; 2],
    peers: &[Peer; 2],
) -> Result<(String, String), String> {
    bench.directory("fresh")?;
    bench.file("fresh/settings.yml", settings)?;
    let mut times: [(&str, Vec<f64>); 4] = [CARBOY, FIRST, ONE_WORKER, WORKERS].map(|name| (name, Vec::new()));
    for round in 0..WARMUP_ROUNDS + ROUNDS {
        for (name, times) in &mut times {
            let address = free_address()?;
            let launch = match *name {
                CARBOY => warm.serve(address),
                FIRST => cold.serve(address),
                ONE_WORKER => peers[0].serve(address),
                _ => peers[1].serve(address),
            };
            let (service, took) = Service::start(name, launch, address)?;
            drop(service);
            if *name == FIRST {
                cold.end_controller()?;
            }
            if round >= WARMUP_ROUNDS {
                times.push(took);
            }
        }
    }
    Ok(report(&times))
}

fn report(times: &[(&str, Vec<f64>)]) -> (String, String) {
    let mut text = "From the start of the program to the first 200 of `/health`, in milliseconds:\n\n".to_owned();
    text += &head(&["", "min", "median", "p95"]);
    let mut goals = String::new();
    for (name, times) in times {
        let middle = median(times);
        text += &row(&[(*name).to_owned(), short(quantile(times, 0.0)), short(middle), short(quantile(times, 0.95))]);
        if name.starts_with(CARBOY) {
            let what = format!("starts within {:.1} s: {name}", START_MAX_MS / 1e3);
            goals += &goal(&what, &format!("{} ms", short(middle)), middle <= START_MAX_MS);
        }
    }
    text += &format!("\n{ROUNDS} rounds, interleaved.\n\n");
    (text, goals)
}
