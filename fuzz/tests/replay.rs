//! Every input of the committed corpus through its target, and a few mutations of each: what coverage once found stays
//! found. `CARBOY_FUZZ_ROUNDS=100` mutates each input so often, `CARBOY_SEED` repeats a run.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Mutations of each input, every day.
const ROUNDS: u64 = 2;

/// xorshift64* (Vigna 2016).
fn next(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
}

fn mutated(bytes: &[u8], other: &[u8], state: &mut u64) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=next(state) % 4 {
        let at = next(state) % (out.len() + 1);
        match next(state) % 4 {
            0 if at < out.len() => out[at] ^= 1 << (next(state) % 8),
            1 => out.insert(at, next(state) as u8),
            2 => drop(out.drain(at..(at + next(state) % 8).min(out.len()))),
            _ => out.splice(at..at, other.iter().take(next(state) % 64).copied()).for_each(drop),
        }
    }
    out
}

#[test]
fn what_fuzzing_found_stays_found() {
    let number =
        |name: &str, otherwise: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (mut seed, rounds) = (number("CARBOY_SEED", now) | 1, number("CARBOY_FUZZ_ROUNDS", ROUNDS));
    println!("CARBOY_SEED={seed}");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let names = std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path());
    let there: BTreeSet<String> = names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let named: BTreeSet<String> = carboy_fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(there, named, "each target has a corpus, and each corpus a target");
    for (name, target) in carboy_fuzz::TARGETS {
        // One input a line.
        let text = std::fs::read_to_string(corpus.join(format!("{name}.b64"))).unwrap();
        let inputs: Vec<Vec<u8>> = text.lines().map(|line| STANDARD.decode(line).unwrap()).collect();
        assert!(inputs.len() >= 3, "{name} has {} inputs", inputs.len());
        for (n, bytes) in inputs.iter().enumerate() {
            let run = |bytes: &[u8]| catch_unwind(AssertUnwindSafe(|| target(bytes))).is_ok();
            assert!(run(bytes), "{name}: line {}", n + 1);
            for _ in 0..rounds {
                let other = &inputs[(n + next(&mut seed)) % inputs.len()];
                let bytes = mutated(bytes, other, &mut seed);
                assert!(run(&bytes), "{name}: a mutation of line {}: {}", n + 1, bytes.escape_ascii());
            }
        }
    }
}
