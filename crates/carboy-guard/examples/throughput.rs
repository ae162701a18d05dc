//! Measures the scanners on clean bodies: `cargo run --release -p carboy-guard --example throughput`.

// A measurement reads the clock; the library does not.
#![allow(clippy::disallowed_methods)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use carboy_core::finding::{Detector, Location};
use carboy_core::ids::SecretName;
use carboy_core::secret::Secret;
use carboy_guard::{Detectors, InjectionScanner, Mode, ScanPlan, StreamScanner};

const BODY_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 16 * 1024;
const ROUNDS: usize = 200;

fn body(kind: &str) -> Vec<u8> {
    let words: &[&str] = match kind {
        "prose" => &["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "sleeps."],
        "json" => &["{\"role\":", "\"user\",", "\"content\":", "[{\"type\":\"text\",", "\"id\":12345}]},\\n", "true,"],
        _ => &["dGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVy", "Mzk0ODU3Mzk0ODU3MzQ4OTU3", "c29tZXRoaW5nIGVsc2U"],
    };
    let mut state = 88_172_645_463_325_252u64;
    let mut out = Vec::with_capacity(BODY_BYTES + 64);
    while out.len() < BODY_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(words[(state % words.len() as u64) as usize].as_bytes());
        if kind != "base64" {
            out.push(b' ');
        }
    }
    out
}

fn main() {
    let mut builder = Detectors::builder([0; 32]);
    for i in 0..20u64 {
        let name = SecretName::parse(&format!("SECRET_{i}")).expect("a valid name");
        let value =
            format!("{:016x}{:024x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15), u128::from(i) * 0x1234_5678_9abc_def1);
        builder = builder.known_secret(&name, &Secret::new(value));
    }
    let start = Instant::now();
    let detectors = Arc::new(builder.build().expect("valid secrets"));
    println!("20 secrets compiled in {:?}", start.elapsed());
    for kind in ["prose", "json", "base64"] {
        let body = body(kind);
        for (name, list) in [
            ("known", vec![Detector::KnownSecrets]),
            ("tokens", vec![Detector::TokenPatterns]),
            ("both", vec![Detector::KnownSecrets, Detector::TokenPatterns]),
        ] {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                let plan = ScanPlan { detectors: list.clone(), mode: Mode::Block, location: Location::RequestBody };
                let mut scanner = StreamScanner::new(Arc::clone(&detectors), plan);
                let mut out = Vec::with_capacity(BODY_BYTES + 64);
                for chunk in body.chunks(CHUNK_BYTES) {
                    scanner.push(chunk, &mut out).expect("a clean body");
                }
                scanner.finish(&mut out).expect("a clean body");
                assert_eq!(black_box(out).len(), body.len());
            }
            report(kind, name, body.len() * ROUNDS, start);
        }
        let start = Instant::now();
        for _ in 0..ROUNDS / 10 {
            let mut scanner = InjectionScanner::new(Location::ResponseBody);
            body.chunks(CHUNK_BYTES).for_each(|chunk| scanner.push(chunk));
            scanner.finish();
            assert!(black_box(scanner.verdict()).is_none());
        }
        report(kind, "injection", body.len() * (ROUNDS / 10), start);
    }
}

fn report(kind: &str, name: &str, bytes: usize, start: Instant) {
    println!("{kind:8} {name:10} {:6.0} MB/s", bytes as f64 / start.elapsed().as_secs_f64() / 1e6);
}
