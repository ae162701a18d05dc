use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use carboy_core::ids::SecretName;
use carboy_core::secret::Secret;
use proptest::prelude::*;

use super::*;

const SECRET: &str = "kq7Rz2Vx9LmWp4Tb8Yd3";
const GITHUB: &str = "ghp_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g";

fn detectors() -> Arc<Detectors> {
    let secret = |name: &str, value: &str| (SecretName::parse(name).unwrap(), Secret::new(value.to_owned()));
    let (n1, v1) = secret("API_KEY", SECRET);
    let (n2, v2) = secret("PIN", "p@$$-w0rd!");
    Arc::new(Detectors::builder([7; 32]).known_secret(&n1, &v1).known_secret(&n2, &v2).build().unwrap())
}

fn plan(mode: Mode) -> ScanPlan {
    ScanPlan { detectors: vec![Detector::TokenPatterns, Detector::KnownSecrets], mode, location: Location::RequestBody }
}

type Outcome = (Result<Vec<u8>, Stopped>, Vec<Finding>);

fn scan(mode: Mode, body: &[u8], cut: usize) -> Outcome {
    let mut scanner = StreamScanner::new(detectors(), plan(mode));
    let (mut out, mut findings) = (Vec::new(), Vec::new());
    for chunk in body.chunks(cut.max(1)) {
        let result = scanner.push(chunk, &mut out);
        findings.extend(scanner.take_findings());
        if let Err(stopped) = result {
            return (Err(stopped), findings);
        }
        assert_eq!(scanner.held(), scanner.buffer.len());
    }
    let result = scanner.finish(&mut out);
    findings.extend(scanner.take_findings());
    (result.map(|()| out), findings)
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    w.write_all(text).unwrap();
    w.finish().unwrap()
}

#[test]
fn clean_bytes_pass_unchanged() {
    let body: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8 % 96 + 31).collect();
    assert_eq!(scan(Mode::Block, &body, 4096), (Ok(body.clone()), vec![]));
}

#[test]
fn a_pause_lets_no_more_than_a_few_characters_of_a_secret_go() {
    let body = format!("key: {SECRET}! and p@$$-w0rd! again");
    for pause in 0..body.len() {
        let mut scanner = StreamScanner::new(detectors(), plan(Mode::Redact));
        let mut out = Vec::new();
        scanner.push(&body.as_bytes()[..pause], &mut out).unwrap();
        scanner.release(&mut out).unwrap();
        assert_eq!(scanner.releasable(), 0);
        assert!(!(1..=5).contains(&pause) || out.len() == pause, "ordinary text is not kept waiting");
        scanner.push(&body.as_bytes()[pause..], &mut out).unwrap();
        scanner.finish(&mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.len(), body.len(), "{pause}: {out}");
        assert!(out.starts_with("key: ") && out.contains("! and ") && out.ends_with(" again"), "{pause}: {out}");
        assert!(!out.contains(&SECRET[..7]) && !out.contains(&SECRET[6..]), "{pause}: {out}");
        assert!(!out.contains("p@$$-w0") && !out.contains("rd!"), "{pause}: {out}");
    }
    let mut scanner = StreamScanner::new(detectors(), plan(Mode::Block));
    let mut out = Vec::new();
    scanner.push(&SECRET.as_bytes()[..5], &mut out).unwrap();
    scanner.release(&mut out).unwrap();
    assert_eq!(out, &SECRET.as_bytes()[..5]);
    assert!(scanner.push(&SECRET.as_bytes()[5..], &mut out).and_then(|()| scanner.finish(&mut out)).is_err());
    assert_eq!((out.len(), scanner.held(), scanner.releasable()), (5, 0, 0));
}

#[test]
fn a_stream_that_pauses_behind_a_whole_secret_is_stopped_there() {
    let text = format!("key: {SECRET}");
    // A gzip stream whose end has not come: everything but its check sum and length.
    let packed = gzip(format!("{}{SECRET}", "row ".repeat(50)).as_bytes());
    for whole in [text.as_bytes(), &packed[..packed.len() - 8]] {
        let mut scanner = StreamScanner::new(detectors(), plan(Mode::Block));
        let mut out = Vec::new();
        let stopped = scanner.push(whole, &mut out).and_then(|()| scanner.pause(&mut out));
        assert_eq!(stopped.unwrap_err().finding.rule, "known_secret:API_KEY");
        assert!(b"key: ".starts_with(&out[..]) || packed.starts_with(&out), "{out:?}");
        assert!(scanner.pause(&mut out).is_err());
    }
    // Without one it goes on, wherever it pauses.
    let clean = gzip(&b"row ".repeat(200));
    let mut scanner = StreamScanner::new(detectors(), plan(Mode::Block));
    let mut out = Vec::new();
    for byte in &clean {
        scanner.push(&[*byte], &mut out).and_then(|()| scanner.pause(&mut out)).unwrap();
    }
    scanner.finish(&mut out).unwrap();
    assert_eq!(out, clean);
}

#[test]
fn d6_d8_a_known_secret_stops_the_stream_and_nothing_of_it_has_left() {
    let body = format!("hello {SECRET} bye");
    for cut in 1..body.len() {
        let mut scanner = StreamScanner::new(detectors(), plan(Mode::Block));
        let mut out = Vec::new();
        let stopped = body.as_bytes().chunks(cut).find_map(|c| scanner.push(c, &mut out).err());
        let stopped = stopped.or_else(|| scanner.finish(&mut out).err()).unwrap();
        assert!(b"hello ".starts_with(&out[..]), "{out:?}");
        assert_eq!(stopped.finding.rule, "known_secret:API_KEY");
        assert_eq!((stopped.finding.location.as_str(), stopped.finding.form), ("request body", "literal"));
        assert_eq!(stopped.finding.span, 6..26);
        assert!(scanner.push(b"more", &mut out).is_err() && scanner.finish(&mut out).is_err());
    }
}

#[test]
fn a_secret_of_the_run_in_the_shape_of_a_token_is_told_as_what_it_is() {
    let name = SecretName::parse("ANTHROPIC_API_KEY").unwrap();
    let value = "sk-ant-api03-0123456789abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789";
    let known = Detectors::builder([7; 32]).known_secret(&name, &Secret::new(value.into())).build().unwrap();
    let known = Arc::new(known);
    let rule = |text: &str, cut: usize| {
        let mut scanner = StreamScanner::new(known.clone(), plan(Mode::Block));
        let mut out = Vec::new();
        let pushed = text.as_bytes().chunks(cut).try_for_each(|chunk| scanner.push(chunk, &mut out));
        pushed.and_then(|()| scanner.finish(&mut out)).unwrap_err().finding.rule
    };
    for cut in [1, 7, 4096] {
        assert_eq!(rule(&format!("key {value} end"), cut), "known_secret:ANTHROPIC_API_KEY");
        assert_eq!(rule(&format!("key {GITHUB} end"), cut), "github_token");
    }
    let found =
        known.scan_text(value.as_bytes(), &[Detector::TokenPatterns, Detector::KnownSecrets], Location::RequestHeader);
    assert_eq!(found[0].detector, Detector::KnownSecrets);
}

#[test]
fn d2_every_variant_is_found_in_a_body_at_any_cut() {
    for variant in crate::variants::variants(SECRET.as_bytes()) {
        let body = [b"left ", &variant.bytes[..], b" right"].concat();
        for cut in [1, 7, body.len()] {
            let (result, _) = scan(Mode::Block, &body, cut);
            let finding = result.err().unwrap_or_else(|| panic!("{}", variant.form)).finding;
            assert_eq!(finding.rule, "known_secret:API_KEY", "{}", variant.form);
        }
    }
}

#[test]
fn d2_compressed_bodies_are_looked_into_raw_and_as_base64() {
    let text = format!("some text before, then {SECRET} and some after, {}", "filler ".repeat(50));
    let gz = gzip(text.as_bytes());
    let zstd = ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    z.write_all(text.as_bytes()).unwrap();
    let zlib = z.finish().unwrap();
    for body in [
        gz.clone(),
        zstd.clone(),
        zlib.clone(),
        gzip(&gz),
        [b"--b\r\n\r\n", &gz[..], b"\r\n--b--"].concat(),
        format!("{{\"d\":\"{}\"}}", STANDARD.encode(&gz)).into_bytes(),
        format!("{{\"d\":\"{}\"}}", STANDARD.encode(&zlib)).into_bytes(),
        format!("{{\"d\":\"{}\"}}", STANDARD.encode(&zstd)).into_bytes(),
    ] {
        for cut in [1, 50, usize::MAX] {
            let (result, _) = scan(Mode::Block, &body, cut);
            assert_eq!(result.expect_err("found").finding.rule, "known_secret:API_KEY");
            // It cannot be overwritten, so it stops there too.
            assert!(scan(Mode::Redact, &body, cut).0.is_err());
        }
    }
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    w.write_all(text).unwrap();
    w.finish().unwrap()
}

/// What passes for the beginning of a gzip member with 60000 bytes in it.
const DECOY: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\0\x60\xea\x9f\x15";

fn on_a_port(body: &[u8], cut: usize) -> Result<Vec<u8>, Stopped> {
    let plan = ScanPlan { detectors: vec![Detector::KnownSecrets], mode: Mode::Block, location: Location::PortStream };
    let mut scanner = StreamScanner::new(detectors(), plan);
    let mut out = Vec::new();
    body.chunks(cut).try_for_each(|chunk| scanner.push(chunk, &mut out)).and_then(|()| scanner.finish(&mut out))?;
    Ok(out)
}

#[test]
fn zlib_data_are_looked_into_wherever_they_begin() {
    for level in [0, 1, 5, 6, 9] {
        let mut w = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(level));
        w.write_all(SECRET.to_lowercase().replace('k', "K").as_bytes()).unwrap();
        let packed = w.finish().unwrap();
        let parts = b"--b\r\n\r\n".to_vec();
        for body in [[b"hello ", &packed[..]].concat(), [&parts, &packed[..], b"\r\n--b--\r\n"].concat()] {
            for cut in [1, 7, 4096] {
                let stopped = scan(Mode::Block, &body, cut).0.expect_err("found");
                assert_eq!(stopped.finding.rule, "known_secret:API_KEY", "level {level}, pieces of {cut}");
                assert!(on_a_port(&body, cut).is_err());
            }
        }
    }
}

#[test]
fn regions_that_only_hide_another_one_stop_a_port_too() {
    let body = [&DECOY.repeat(24)[..], &gzip(SECRET.as_bytes())].concat();
    let padded = [&body[..], &[b'.'; 200]].concat();
    for body in [body, padded] {
        for cut in [1, 64, usize::MAX] {
            assert!(on_a_port(&body, cut).is_err(), "pieces of {cut}");
            assert!(scan(Mode::Block, &body, cut).0.is_err(), "pieces of {cut}");
        }
    }
}

#[test]
fn what_only_begins_like_packed_data_passes() {
    let mut noise = 88_172_645_463_325_252_u64;
    let mut noise = std::iter::repeat_with(|| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise as u8
    });
    let mut bodies: Vec<Vec<u8>> = vec![
        (1..60).map(|n| format!("{n}x^{n}+")).collect::<String>().into_bytes(),
        b"x^2+y^2=z^2, e^x^x^x^x^x^x^x^x^x^x^x^x^x^x^x^x^x^x^x^x^x^x".to_vec(),
        b"\x1f\x8b\x08\0".repeat(40),
        b"\x78\x9c".repeat(40),
        (0..2000u16).flat_map(|n| [(n % 3 + 0x77) as u8, 1, n as u8, (n >> 8) as u8]).collect(),
        noise.by_ref().take(1 << 20).collect(),
    ];
    for begin in [&b"\x78\x9c"[..], b"\x78\x01", b"\x78\x5e", b"\x78\xda", b"\x1f\x8b\x08\0"] {
        bodies.push((0..4000).flat_map(|_| [begin, &noise.by_ref().take(12).collect::<Vec<u8>>()].concat()).collect());
    }
    // Many at once that are what they seem, one after the other.
    bodies.push((0..100).flat_map(|n| zlib(format!("object {n} of a pack").as_bytes())).collect());
    bodies.push((0..100).flat_map(|n| [gzip(&[n; 300]), b"--".to_vec()].concat()).collect());
    for (n, body) in bodies.into_iter().enumerate() {
        for cut in [1, 1000, usize::MAX] {
            assert!(on_a_port(&body, cut).as_ref() == Ok(&body), "{n} in pieces of {cut}");
            assert!(scan(Mode::Block, &body, cut) == (Ok(body.clone()), vec![]), "{n} in pieces of {cut}");
        }
    }
}

#[test]
fn a_pause_within_packed_data_lets_no_more_go_than_one_within_plain_text() {
    let text = format!("key: {SECRET}!");
    for packed in [
        gzip(text.as_bytes()),
        zlib(text.as_bytes()),
        [b"now ", &zlib(text.as_bytes())[..]].concat(),
        STANDARD.encode(gzip(text.as_bytes())).into_bytes(),
        gzip(&gzip(text.as_bytes())),
        ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest),
    ] {
        for mode in [Mode::Redact, Mode::Block] {
            let plan = ScanPlan { location: Location::ResponseBody, ..plan(mode) };
            let mut scanner = StreamScanner::new(detectors(), plan);
            let mut out = Vec::new();
            let stopped = packed.chunks(6).try_for_each(|piece| {
                scanner.push(piece, &mut out)?;
                scanner.release(&mut out)?;
                assert_eq!(scanner.releasable(), 0);
                Ok::<(), Stopped>(())
            });
            let stopped = stopped.and_then(|()| scanner.finish(&mut out));
            assert_eq!(stopped.unwrap_err().finding.rule, "known_secret:API_KEY");
            assert!(out.len() < packed.len() - 16, "{} of {}", out.len(), packed.len());
        }
    }
    // Others are not kept waiting, on a port least of all.
    for clean in [gzip(&b"row ".repeat(30)), zlib(b"nothing to be seen"), b"x^2 and eJw and H4sI".to_vec()] {
        for location in [Location::ResponseBody, Location::PortStream] {
            let mut scanner = StreamScanner::new(detectors(), ScanPlan { location, ..plan(Mode::Block) });
            let mut out = Vec::new();
            for (n, byte) in clean.iter().enumerate() {
                scanner.push(&[*byte], &mut out).and_then(|()| scanner.pause(&mut out)).unwrap();
                // The header alone is how a packed secret begins as well.
                assert!(out.len() == n + 1 || (n < 16 && clean[0] != b'x'), "{location:?} {n}: {clean:?}");
            }
        }
    }
}

#[test]
fn a_clean_compressed_body_passes_unchanged() {
    let text: Vec<u8> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as u8 % 64 + 32).collect();
    for body in [gzip(&text), STANDARD.encode(gzip(&text)).into_bytes(), b"H4sIAAAA not gzip".to_vec()] {
        assert_eq!(scan(Mode::Block, &body, 1000), (Ok(body.clone()), vec![]));
    }
}

#[test]
fn redaction_keeps_the_length_and_the_json_around_it() {
    let body = format!(r#"{{"a": "{SECRET}", "b": "{GITHUB}", "c": ["kq7Rz2Vx9L", "mWp4Tb8Yd3"]}}"#);
    let (out, findings) = scan(Mode::Redact, body.as_bytes(), 5);
    let stars = |n| "*".repeat(n);
    let expected =
        format!(r#"{{"a": "{}", "b": "{}", "c": ["{}", "{}"]}}"#, stars(20), stars(40), stars(10), stars(10));
    assert_eq!(String::from_utf8(out.unwrap()).unwrap(), expected);
    let rules: Vec<_> = findings.iter().map(|f| (f.rule.as_str(), f.form)).collect();
    assert_eq!(
        rules,
        [("known_secret:API_KEY", "literal"), ("github_token", ""), ("known_secret:API_KEY", "respelled")]
    );
}

#[test]
fn a_short_secret_is_found_as_it_is_with_its_punctuation() {
    let (out, findings) = scan(Mode::Redact, b"x p@$$-w0rd! y", 1);
    assert_eq!((out.unwrap(), findings.len()), (b"x ********** y".to_vec(), 1));
    let (out, _) = scan(Mode::Block, b"the pass word is pw0rd", 1);
    assert!(out.is_ok());
}

#[test]
fn findings_beyond_the_limit_are_counted() {
    let body = format!("{SECRET} . ").repeat(FINDINGS_MAX + 3);
    let mut scanner = StreamScanner::new(detectors(), plan(Mode::Redact));
    let mut out = Vec::new();
    scanner.push(body.as_bytes(), &mut out).unwrap();
    scanner.finish(&mut out).unwrap();
    assert_eq!((scanner.take_findings().len(), scanner.findings_dropped()), (FINDINGS_MAX, 3));
}

#[test]
fn what_is_held_back_is_bounded_by_the_longest_variant() {
    let mut scanner = StreamScanner::new(detectors(), plan(Mode::Block));
    let mut out = Vec::new();
    for _ in 0..2000 {
        scanner.push(b"kq7Rz2 \n\n . ,, ;; kq7 Rz2Vx9 the quick brown fox eyJ sk- ghp_ ", &mut out).unwrap();
        assert!(scanner.held() < 512, "{}", scanner.held());
    }
}

#[test]
fn hostile_bodies_cost_linear_time() {
    for unit in [
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN ",
        "eyJ.",
        "sk-sk-a ",
        "sk-",
        "eJx ",
        "H4sIAAAA ",
        "\u{1f}\u{8b}",
        "x^{",
        "x^x^2",
        "kq7Rz2Vx9LmWp4Tb8Yd",
        "hooks.slack.com/services/",
    ] {
        let body = unit.repeat(1 + 300_000 / unit.len());
        for cut in [1, usize::MAX] {
            // No clock here: a quadratic scan of this much would take minutes, and the test with it.
            let _ = scan(Mode::Redact, body.as_bytes(), cut);
        }
    }
}

#[test]
fn the_hash_of_a_secret_and_a_placeholder_pass() {
    let hash = "f564d80a448b1b4494f03d62cf42c0c3a142d590c5e1c1750747ccb9f6e36a7d";
    let fake = "sk-ant-carboy-placeholder-anthropic-api-key-0123456789";
    let body = format!("{hash} {fake}");
    assert_eq!(scan(Mode::Block, body.as_bytes(), 9).0.unwrap(), body.as_bytes());
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let secrets = prop_oneof![
        Just(SECRET.to_owned()),
        Just(GITHUB.to_owned()),
        Just("p@$$-w0rd!".to_owned()),
        Just(STANDARD.encode(SECRET)),
        Just(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", "aB3/".repeat(30))),
        Just(SECRET.chars().flat_map(|c| [c, '\u{200b}']).collect()),
        Just(format!("eyJhbGciOiJIUzI1NiJ9.{}.{}", "eyJzdWIiOiIxMjM0NTY3ODkwIn0", "c2lnbmF0dXJlLXNpZ25hdHVyZQ")),
        Just("AKIAUBBBAYN3BO47OWOO".to_owned()),
        Just(STANDARD.encode(gzip(b"nothing to see here, nothing to see here"))),
    ];
    prop_oneof![
        4 => secrets.clone().prop_map(String::into_bytes),
        2 => (secrets, 0usize..100, 0usize..100).prop_map(|(s, from, len)| {
            let bytes = s.into_bytes();
            let from = from.min(bytes.len());
            bytes[from..(from + len).min(bytes.len())].to_vec()
        }),
        2 => "[ -~]{0,20}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..9),
        1 => " {60,140}".prop_map(String::into_bytes),
    ]
}

#[test]
fn a_token_behind_an_escape_of_json_or_of_a_form_is_one_at_any_cut() {
    let spelled = ["a\\n", "\\r", "b\\t", "\\u000a", "x%0A", "\n", "\\x0a", "a\\v", "\\e", "a\\012"];
    let coloured = [
        "\x1b[31m",
        "a\x1b[01;31m\x1b[K",
        "\\u001b[01;31m\\u001b[K",
        "\\u001B[38;2;255;255;255m",
        "\\x1b[0m",
        "\\033[1m",
        "\\e[1m",
        "%1B%5B01%3B31m%1B%5BK",
        "%1b[m",
    ];
    for before in spelled.into_iter().chain(coloured) {
        let body = format!("{{\"text\":\"line{before}{GITHUB}\"}}");
        for cut in 1..body.len() {
            let (_, findings) = scan(Mode::Redact, body.as_bytes(), cut);
            assert_eq!(findings.len(), 1, "{before} in pieces of {cut}");
        }
    }
    for word in ["n", "an", "u000a", "0A", "\\x", "[31m", "a[K", "1b[K", "x0a"] {
        let body = format!("{word}{GITHUB}");
        assert!(scan(Mode::Redact, body.as_bytes(), 1).1.is_empty(), "{word}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn chunking_never_changes_findings_or_output(pieces in proptest::collection::vec(piece(), 0..6), cut in 1usize..120) {
        let body = pieces.concat();
        for mode in [Mode::Block, Mode::Redact] {
            prop_assert_eq!(scan(mode, &body, cut), scan(mode, &body, usize::MAX));
        }
    }

    #[test]
    fn nothing_of_what_leaves_before_a_stop_is_part_of_the_match(before in "[ -~]{0,40}", cut in 1usize..60) {
        let body = format!("{before}{GITHUB}");
        let mut scanner = StreamScanner::new(detectors(), plan(Mode::Block));
        let mut out = Vec::new();
        let stopped = body.as_bytes().chunks(cut).find_map(|c| scanner.push(c, &mut out).err());
        if let Some(stopped) = stopped.or_else(|| scanner.finish(&mut out).err()) {
            prop_assert!(out.len() as u64 <= stopped.finding.span.start);
        }
    }
}

#[test]
fn b36_a_stream_that_leaves_and_pauses_gives_out_no_more_than_a_few_characters_of_a_token() {
    let body = format!("hello {GITHUB}, bye");
    let begins = "hello ".len();
    for pause in 0..body.len() {
        let mut scanner = StreamScanner::new(detectors(), plan(Mode::Block));
        let mut out = Vec::new();
        let paused = scanner.push(&body.as_bytes()[..pause], &mut out).and_then(|()| scanner.pause_strictly(&mut out));
        let whole = pause >= begins + GITHUB.len();
        assert_eq!(paused.is_err(), whole, "{pause}");
        assert!(out.len() <= begins + 6, "{pause}: {:?}", String::from_utf8_lossy(&out));
        // What is only a prefix so far, or no more than the beginning of one, is not kept waiting.
        assert!(pause > begins + 6 || out.len() == pause, "{pause}");
    }
    // Octet by octet, with a pause behind each.
    for text in [
        &body[..],
        &format!("x {SECRET} y"),
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg",
    ] {
        let mut scanner = StreamScanner::new(detectors(), plan(Mode::Block));
        let mut out = Vec::new();
        let stopped = text
            .as_bytes()
            .iter()
            .find_map(|byte| scanner.push(&[*byte], &mut out).and_then(|()| scanner.pause_strictly(&mut out)).err());
        assert!(stopped.is_some(), "{text}");
        assert!(out.len() <= begins + 6, "{:?}", String::from_utf8_lossy(&out));
    }
}

#[test]
fn what_is_no_token_is_given_out_at_a_pause_whatever_it_ends_with() {
    for text in [
        "0",
        "\0\0\0\0\x010",
        "s",
        "sk",
        "sk-",
        "risk-averse",
        "the ASKER",
        "TASK0",
        "SKELETON",
        "SK hi",
        "eyJ",
        "hf_",
        "npm_x y",
        "a-----",
        "--",
        "ghp_ ",
        "AKIA is a prefix",
        "hello from grpc-go stream",
        "gh",
        "xox",
    ] {
        let mut scanner = StreamScanner::new(detectors(), plan(Mode::Block));
        let mut out = Vec::new();
        scanner.push(text.as_bytes(), &mut out).and_then(|()| scanner.pause_strictly(&mut out)).unwrap();
        assert_eq!(out, text.as_bytes(), "{:?}", String::from_utf8_lossy(&out));
        // And goes on from there.
        scanner.push(b" and more", &mut out).and_then(|()| scanner.finish(&mut out)).unwrap();
        assert_eq!(out, format!("{text} and more").as_bytes());
    }
}
