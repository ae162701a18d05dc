//! Scores known-secret detection on disguised secrets from standard input, one JSON object per line with `secret`, `evasion`,
//! `expect_known` and `payload` or `payload_b64`:
//! `cargo run --release -p carboy-guard --example evasions < file.jsonl`.

// A measurement reads its data; the library does not.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use carboy_core::finding::{Detector, Location};
use carboy_core::ids::SecretName;
use carboy_core::secret::Secret;
use carboy_guard::{Coding, DecodedMax, Detectors, Inflate, Mode, ScanPlan, StreamScanner};

fn found(detectors: &Arc<Detectors>, list: &[Detector], body: &[u8]) -> bool {
    let plan = ScanPlan { detectors: list.to_vec(), mode: Mode::Block, location: Location::RequestBody };
    let mut scanner = StreamScanner::new(Arc::clone(detectors), plan);
    let mut out = Vec::new();
    body.chunks(7).any(|chunk| scanner.push(chunk, &mut out).is_err())
        || scanner.finish(&mut out).is_err()
        || !detectors.scan_text(body, list, Location::RequestBody).is_empty()
}

fn decoded(coding: Coding, body: &[u8]) -> Option<Vec<u8>> {
    let mut inflate = Inflate::new(&[coding], DecodedMax(1 << 24));
    let (mut out, mut rest) = (Vec::new(), body);
    loop {
        let step = inflate.push(rest, &mut out).ok()?;
        rest = &rest[step.consumed..];
        if !step.more {
            break;
        }
    }
    inflate.finish().ok().map(|()| out)
}

fn main() {
    let text = std::io::read_to_string(std::io::stdin()).expect("text on standard input");
    let name = SecretName::parse("SECRET").expect("a valid name");
    let mut table: BTreeMap<String, (String, usize, usize)> = BTreeMap::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let field = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let body = match row["payload"].as_str() {
            Some(payload) => payload.as_bytes().to_vec(),
            None => base64::engine::general_purpose::STANDARD.decode(field("payload_b64")).expect("base64"),
        };
        let built = Detectors::builder([0; 32]).known_secret(&name, &Secret::new(field("secret"))).build();
        let detectors = Arc::new(built.expect("a valid secret"));
        let evasion = field("evasion");
        // What the peer can read only with a Content-Encoding comes to the scanner decoded.
        let coded = match evasion.as_str() {
            "brotli" => decoded(Coding::Brotli, &body),
            "raw-deflate" => decoded(Coding::Deflate, &body),
            _ => None,
        };
        let hit = found(&detectors, &[Detector::KnownSecrets], coded.as_deref().unwrap_or(&body));
        let entry = table.entry(evasion).or_insert((field("expect_known"), 0, 0));
        entry.1 += usize::from(hit);
        entry.2 += 1;
    }
    let (mut caught, mut must, mut alarms, mut rows) = (0, 0, 0, 0);
    let (mut whole, mut kinds) = (0, 0);
    for (evasion, (expected, hits, total)) in &table {
        match expected.as_str() {
            "block" => {
                caught += hits;
                must += total;
                kinds += 1;
                whole += usize::from(hits == total);
                if hits < total {
                    println!("missed  {evasion}: {hits} of {total}");
                }
            }
            "allow" => {
                alarms += hits;
                rows += total;
            }
            _ => println!("warn    {evasion}: {hits} of {total} blocked"),
        }
    }
    println!(
        "must-block rows {caught} of {must}, evasions {whole} of {kinds}; false alarms {alarms} of {rows} controls"
    );
}
