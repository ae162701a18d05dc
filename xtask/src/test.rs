//! Everything that is checked before a change goes in, one phase after the other, with one closing summary.
//!
//! A phase that fails does not stop the next: one run tells everything. A test that needs what the machine has not
//! prints `skipped: <test name>: <reason>` and is counted as skipped, never as passed.

mod tally;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{book, dist, files, layers, lit, matrix, needs, table, tree};
use tally::Tally;

/// Where proptest looks for its seed.
const PROPERTY_SEED: &str = "PROPTEST_RNG_SEED";

/// What a phase was, how long it took, and what was wrong.
struct Phase {
    name: &'static str,
    took: Duration,
    outcome: Result<(), String>,
}

/// Installs, checks, tests, sums up.
pub fn run() -> Result<(), String> {
    let top = tree::root();
    let mut tally = Tally::default();
    let phases = [
        phase("needs", || needs::satisfy(&top)),
        phase("fmt", || cargo(&top, &["fmt", "--all", "--check"])),
        phase("clippy", || cargo(&top, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        phase("layers", layers::run),
        phase("files", files::run),
        phase("table", || table::run(table::Mode::Check)),
        phase("book", || book::run(book::Mode::Check)),
        phase("lit", lit::run),
        phase("tests", || tests(&top, &mut tally)),
        phase("matrix", || matrix::run(matrix::Mode::Check)),
        phase("dist", dist::check),
    ];
    println!("\n-- summary");
    for phase in &phases {
        let word = if phase.outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{:<8} {:>7.1} s  {word}", phase.name, phase.took.as_secs_f64());
    }
    tally.skipped_reasons().iter().for_each(|line| println!("skipped: {line}"));
    println!("{}", tally.line());
    let failed: Vec<&str> = phases.iter().filter(|phase| phase.outcome.is_err()).map(|phase| phase.name).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

fn phase(name: &'static str, work: impl FnOnce() -> Result<(), String>) -> Phase {
    println!("\n-- {name}");
    let start = Instant::now();
    let outcome = work();
    if let Err(message) = &outcome {
        eprintln!("{message}");
    }
    Phase { name, took: start.elapsed(), outcome }
}

fn cargo_command(top: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(top);
    command
}

/// Runs cargo; its output is passed on.
pub fn cargo(top: &Path, arguments: &[&str]) -> Result<(), String> {
    match cargo_command(top, arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo {}: {status}", arguments.join(" "))),
        Err(error) => Err(format!("cannot run cargo: {error}")),
    }
}

/// All tests; their output is passed on as it comes and counted on the way.
fn tests(top: &Path, tally: &mut Tally) -> Result<(), String> {
    matrix::forget();
    let mut command = cargo_command(top, &["test", "--workspace", "--no-fail-fast"]);
    command.env("CARBOY_CLIENTS", needs::clients_place()).env("CARBOY_TEST_USER", needs::ORDINARY_USER);
    // The dice of property tests are the same every time, so that a check that fell falls again; plain `cargo test` throws
    // others each time.
    if std::env::var_os(PROPERTY_SEED).is_none() {
        command.env(PROPERTY_SEED, "20261130");
    }
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| format!("cannot run cargo test: {error}"))?;
    let output = child.stdout.take().ok_or("cargo test has no output")?;
    // By bytes: what a test prints need not be UTF-8.
    for line in BufReader::new(output).split(b'\n') {
        let line = line.map_err(|error| format!("cannot read from cargo test: {error}"))?;
        let line = String::from_utf8_lossy(&line);
        writeln!(std::io::stdout(), "{line}").map_err(|error| format!("cannot pass the output on: {error}"))?;
        tally.take(&line);
    }
    match child.wait() {
        Ok(status) if status.success() && tally.failed() == 0 => Ok(()),
        Ok(_) => Err(format!("tests failed: {}", tally.failures())),
        Err(error) => Err(format!("cannot wait for cargo test: {error}")),
    }
}
