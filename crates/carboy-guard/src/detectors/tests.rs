use carboy_core::secret::Secret;
use proptest::prelude::*;

use super::*;

const GITHUB: &str = "ghp_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g";
const SECRET: &str = "kq7Rz2Vx9LmWp4Tb8Yd3";
const BOTH: [Detector; 2] = [Detector::TokenPatterns, Detector::KnownSecrets];

fn built() -> Detectors {
    let name = SecretName::parse("API_KEY").unwrap();
    Detectors::builder([1; 32]).known_secret(&name, &Secret::new(SECRET.to_owned())).build().unwrap()
}

// T4, D7
#[test]
fn test_redacts_github_token() {
    let (text, findings) = built().redact(format!("token={GITHUB}; ok").as_bytes(), &BOTH, Location::RequestHeader);
    assert_eq!(text, b"token=[REDACTED:github_token]; ok");
    assert_eq!((findings.len(), findings[0].rule.as_str()), (1, "github_token"));
}

#[test]
fn d7_redacts_known_secrets_and_their_variants() {
    for variant in crate::variants::variants(SECRET.as_bytes()) {
        let text = [b"<", &variant.bytes[..], b">"].concat();
        let (text, findings) = built().redact(&text, &BOTH, Location::RequestBody);
        assert!(!findings.is_empty(), "{}", variant.form);
        assert!(memchr::memmem::find(&text, b"[REDACTED:known_secret:API_KEY]").is_some(), "{}", variant.form);
    }
}

#[test]
fn d6_a_short_text_is_also_scanned_percent_decoded_and_as_basic_credentials() {
    let built = built();
    let scan = |text: &str| built.scan_text(text.as_bytes(), &BOTH, Location::RequestHeader);
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("user:{GITHUB}"));
    assert_eq!(scan(&format!("Basic {basic}"))[0].rule, "github_token");
    assert_eq!(scan("/x?k=gh%70_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g")[0].rule, "github_token");
    assert_eq!(scan("/x?k=kq7Rz2Vx%39LmWp4Tb8Yd3")[0].rule, "known_secret:API_KEY");
    assert_eq!(scan("kq7rz2vx9l.mwp4tb8yd3.evil.example")[0].rule, "known_secret:API_KEY");
    assert_eq!(scan("/v1/messages?beta=true"), []);
}

#[test]
fn d9_only_the_detectors_asked_for_run() {
    let text = format!("{GITHUB} {SECRET}");
    let rules = |list: &[Detector]| -> Vec<String> {
        built().scan_text(text.as_bytes(), list, Location::RequestBody).into_iter().map(|f| f.rule).collect()
    };
    assert_eq!(rules(&[Detector::TokenPatterns]), ["github_token"]);
    assert_eq!(rules(&[Detector::KnownSecrets]), ["known_secret:API_KEY"]);
    assert_eq!(rules(&[]), [""; 0]);
}

#[test]
fn of_a_secret_longer_than_a_literal_no_rest_is_left() {
    let long: String = (0..6000u32).map(|i| char::from(b'a' + (i * i % 251 % 26) as u8)).collect();
    let name = SecretName::parse("LONG").unwrap();
    let built = Detectors::builder([1; 32]).known_secret(&name, &Secret::new(long.clone())).build().unwrap();
    let (text, _) = built.redact(format!("x {long}").as_bytes(), &BOTH, Location::RequestBody);
    assert_eq!(text, b"x [REDACTED:known_secret:LONG]");
}

#[test]
fn a_short_secret_is_refused_by_name() {
    let name = SecretName::parse("PIN").unwrap();
    let result = Detectors::builder([1; 32]).known_secret(&name, &Secret::new("1234567".to_owned())).build();
    assert_eq!(result.err(), Some(BuildError::TooShort { name }));
}

#[test]
fn detectors_are_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&built());
}

proptest! {
    #[test]
    fn d7_redacting_twice_is_redacting_once(
        parts in proptest::collection::vec(prop_oneof!["[ -~]{0,12}", Just(GITHUB.to_owned()), Just(SECRET.to_owned()), Just("gh%70_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g".to_owned())], 0..5),
    ) {
        let built = built();
        let (once, _) = built.redact(parts.concat().as_bytes(), &BOTH, Location::RequestBody);
        let (twice, findings) = built.redact(&once, &BOTH, Location::RequestBody);
        prop_assert_eq!(once, twice);
        prop_assert_eq!(findings, []);
    }
}

#[test]
fn every_basic_is_decoded_and_escapes_are_undone_more_than_once() {
    let built = built();
    let scan = |text: &str| built.scan_text(text.as_bytes(), &BOTH, Location::RequestHeader);
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("user:{GITHUB}"));
    assert_eq!(scan(&format!("x: basic AAAA\nauthorization: Basic {basic}\n"))[0].rule, "github_token");
    assert_eq!(scan(&format!("x: basic é\nauthorization: Basic {basic}"))[0].rule, "github_token");
    assert_eq!(scan("/x?k=kq7Rz2Vx%2539LmWp4Tb8Yd3")[0].rule, "known_secret:API_KEY");
    assert_eq!(scan("/x?k=kq7Rz2Vx%252539LmWp4Tb8Yd3")[0].rule, "known_secret:API_KEY");
}
