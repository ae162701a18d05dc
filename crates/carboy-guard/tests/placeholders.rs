//! Placeholders to the scanners: refused wherever they are not wanted, and in the place of what comes back.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use carboy_core::finding::{Detector, Location};
use carboy_core::ids::SecretName;
use carboy_core::secret::Secret;
use carboy_guard::{Detectors, Mode, ScanPlan, StreamScanner, mint};
use proptest::prelude::*;

const REAL: &str = "ghp_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g";
const OUTBOUND: [Detector; 3] = [Detector::TokenPatterns, Detector::KnownSecrets, Detector::Placeholders];

fn built(real: &str, fake: &str) -> Arc<Detectors> {
    let name = SecretName::parse("GITHUB_TOKEN").unwrap();
    let builder = Detectors::builder([1; 32]).known_secret(&name, &Secret::new(real.to_owned()));
    Arc::new(builder.placeholder(&name, fake).build().unwrap())
}

fn minted(real: &str) -> String {
    mint(&Secret::new(real.to_owned()), &[9; 32])
}

fn percent(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

fn json(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The ways in which servers write what they got.
fn renderings(user: &str, text: &str) -> Vec<String> {
    vec![
        text.to_owned(),
        format!("{{\"authorization\":\"Bearer {}\"}}", json(text)),
        format!("Basic {} end", STANDARD.encode(format!("{user}:{text}"))),
        format!("Basic {}", URL_SAFE_NO_PAD.encode(format!("{user}:{text}"))),
        STANDARD.encode(text),
        STANDARD.encode(format!("{user}{text}{user}")),
        format!("/callback?key={}&x=1", percent(text)),
        hex(text),
        hex(text).to_uppercase(),
    ]
}

fn inbound(detectors: &Arc<Detectors>, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let plan =
        ScanPlan { detectors: vec![Detector::KnownSecrets], mode: Mode::Redact, location: Location::ResponseBody };
    let (mut scanner, mut out, mut at) = (StreamScanner::new(detectors.clone(), plan), Vec::new(), 0);
    for cut in cuts {
        let to = (at + cut).min(text.len());
        scanner.push(&text[at..to], &mut out).unwrap();
        at = to;
    }
    scanner.push(&text[at..], &mut out).unwrap();
    scanner.finish(&mut out).unwrap();
    out
}

#[test]
fn b42_a_placeholder_is_found_in_every_disguise_and_never_overwritten() {
    let fake = minted(REAL);
    let detectors = built(REAL, &fake);
    for text in renderings("me", &fake) {
        let found = detectors.scan_text(text.as_bytes(), &OUTBOUND, Location::RequestLine);
        assert_eq!(found[0].rule, "placeholder:GITHUB_TOKEN", "{text}");
        for mode in [Mode::Block, Mode::Redact] {
            let plan = ScanPlan { detectors: OUTBOUND.to_vec(), mode, location: Location::RequestBody };
            for cut in 1..text.len() {
                let mut scanner = StreamScanner::new(detectors.clone(), plan.clone());
                let mut out = Vec::new();
                let pushed = scanner.push(&text.as_bytes()[..cut], &mut out);
                let pushed = pushed.and_then(|()| scanner.push(&text.as_bytes()[cut..], &mut out));
                let stopped = pushed.and_then(|()| scanner.finish(&mut out)).expect_err("it stops");
                assert_eq!(stopped.finding.rule, "placeholder:GITHUB_TOKEN", "{text} at {cut}");
                let left = String::from_utf8_lossy(&out).into_owned();
                assert!(!left.contains(&fake[8..]), "{left}");
            }
        }
    }
}

#[test]
fn b42_who_does_not_look_for_placeholders_finds_none() {
    let fake = minted(REAL);
    let known = [Detector::KnownSecrets];
    assert!(built(REAL, &fake).scan_text(fake.as_bytes(), &known, Location::ResponseHeader).is_empty());
    assert_eq!(inbound(&built(REAL, &fake), fake.as_bytes(), &[3]), fake.as_bytes());
}

#[test]
fn b41_what_comes_back_shows_the_placeholder_in_the_same_writing_at_every_split() {
    let fake = minted(REAL);
    let detectors = built(REAL, &fake);
    for user in ["me", "ann", "x-access-token", ""] {
        for (real, wanted) in renderings(user, REAL).into_iter().zip(renderings(user, &fake)) {
            for cut in 0..=real.len() {
                let got = inbound(&detectors, real.as_bytes(), &[cut]);
                assert_eq!(String::from_utf8(got).unwrap(), wanted, "{real} at {cut}");
            }
            let each: Vec<usize> = vec![1; real.len()];
            assert_eq!(inbound(&detectors, real.as_bytes(), &each), wanted.as_bytes());
            let (field, found) = detectors.redact(real.as_bytes(), &[Detector::KnownSecrets], Location::ResponseHeader);
            assert_eq!((String::from_utf8(field).unwrap(), found.is_empty()), (wanted, false));
        }
    }
}

#[test]
fn b41_a_value_that_was_renewed_to_another_length_is_still_overwritten() {
    let detectors = built(REAL, "ghp_short");
    let got = inbound(&detectors, format!("<{REAL}>").as_bytes(), &[7]);
    assert_eq!(got, format!("<{}>", "*".repeat(REAL.len())).as_bytes());
}

#[test]
fn b41_b42_a_password_of_few_letters_is_found_in_json_as_encoders_have_to_write_it() {
    // Nothing is escaped but what has to be, and fewer letters than the view goes by.
    let (real, fake) = ("0AAa00<0\":0[:!a0A", "KJoH3G<n\":l[:!Jsm");
    let detectors = built(real, fake);
    let body = |text: &str| format!("{{\"secret\":\"{}\"}}", json(text)).into_bytes();
    assert_eq!(detectors.scan_text(&body(fake), &OUTBOUND, Location::RequestBody).len(), 1);
    assert_eq!(inbound(&detectors, &body(real), &[]), body(fake));
}

proptest! {
    #[test]
    fn b41_no_writing_and_no_cutting_shows_the_secret(
        real in "[a-zA-Z0-9]{4}[a-zA-Z0-9+/=_.-]{12,60}[a-zA-Z0-9]",
        user in "[a-z]{0,5}",
        seed in any::<[u8; 32]>(),
        cuts in proptest::collection::vec(1usize..20, 0..8),
    ) {
        let fake = mint(&Secret::new(real.clone()), &seed);
        let detectors = built(&real, &fake);
        for (real, wanted) in renderings(&user, &real).into_iter().zip(renderings(&user, &fake)) {
            let got = inbound(&detectors, real.as_bytes(), &cuts);
            prop_assert_eq!(String::from_utf8_lossy(&got).into_owned(), wanted);
        }
    }
}
