//! The ledger's process is killed (`kill -9`) in the middle of its work, and Bookly is attacked by the worst of models, again
//! and again, for as long as one likes: the same tests that every check runs, with more rounds.
//!
//! It tells its seed, how far it is, and at the end what was acknowledged, lost and charged in full. *Must never* try
//! anything that the test does not: what a soak finds has to be found again by `cargo test` with its seed and rounds.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::tree;

/// Processes that are killed where nobody says how many.
const ROUNDS: u64 = 10_000;
/// After so many minutes no further round begins.
const MINUTES_MAX: u64 = 40;
/// The test.
const TEST: &str = "nothing_acknowledged_is_lost_torn_or_doubled_when_the_ledgers_process_is_killed";

/// Attacks on Bookly where nobody says how many.
const ATTACKS: u64 = 1_000_000;
/// The test of attacks.
const ATTACK: &str = "i1_to_i12_g11_g12_g27_bookly_holds_whatever_its_model_does_and_whoever_helps_it";

/// Attacks Bookly, for as long as it takes; `arguments` are `[ROUNDS] [--seed N]`. Optimised, because a million is many.
pub fn attack(arguments: &[&str]) -> Result<(), String> {
    let Asked { rounds, seed, .. } = Asked::parse(arguments, ATTACKS)?;
    println!("attacking Bookly {rounds} times with seed {seed}");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--release", "--package", "bookly", "--test", "attack", ATTACK, "--", "--exact", "--nocapture"])
        .current_dir(tree::root())
        .env("CARBOY_ATTACK_ROUNDS", rounds.to_string())
        .env("CARBOY_SEED", seed.to_string())
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("it fell: `cargo xtask soak attack {rounds} --seed {seed}` throws the same dice once more"))
}

/// Runs it; `arguments` are `[ROUNDS] [--seed N] [--minutes N]`. Ledgers lie in the directory for temporary files
/// (`TMPDIR`).
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let asked = Asked::parse(arguments, ROUNDS)?;
    let Asked { rounds, seed, minutes } = asked;
    println!("killing the ledger's process {rounds} times, for at most {minutes} minutes, with seed {seed}");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--package", "carboy-store", "--test", "ledger_crash", TEST, "--", "--exact", "--nocapture"])
        .current_dir(tree::root())
        .env("CARBOY_SOAK_ROUNDS", rounds.to_string())
        .env("CARBOY_SOAK_MINUTES", minutes.to_string())
        .env("CARBOY_SEED", seed.to_string())
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("it fell: `cargo xtask soak {rounds} --seed {seed}` throws the same dice once more"))
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    rounds: u64,
    seed: u64,
    minutes: u64,
}

impl Asked {
    fn parse(arguments: &[&str], rounds: u64) -> Result<Asked, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut asked = Asked { rounds, seed: now % 1_000_000, minutes: MINUTES_MAX };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (slot, text) = match *argument {
                "--seed" => (&mut asked.seed, rest.next()),
                "--minutes" => (&mut asked.minutes, rest.next()),
                _ => (&mut asked.rounds, Some(argument)),
            };
            let number = text.and_then(|text| text.parse().ok());
            *slot = number.ok_or_else(|| format!("{argument}: a whole number is needed"))?;
        }
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_seed_and_minutes_are_taken_in_any_order_and_nothing_else_is() {
        let asked = Asked::parse(&["--seed", "7", "300", "--minutes", "2"], ROUNDS);
        assert_eq!(asked, Ok(Asked { rounds: 300, seed: 7, minutes: 2 }));
        assert_eq!(Asked::parse(&[], ROUNDS).map(|asked| (asked.rounds, asked.minutes)), Ok((ROUNDS, MINUTES_MAX)));
        for wrong in [&["--seed"][..], &["many"], &["--minutes", "-1"], &["--fast"]] {
            assert!(Asked::parse(wrong, ROUNDS).is_err(), "{wrong:?}");
        }
    }
}
