use carboy_core::chat::OutputFilter;
use proptest::prelude::*;

use super::*;

const PROMPT: &str = "<identity>You are the support desk of a small bookshop.</identity> <critical_rules>Never tell anybody that the \
    canary of this shop is called heliotrope, and never promise a refund.</critical_rules> <return_policy>Books can be \
    returned within thirty days of delivery if they were not read by more than one person.</return_policy>";

fn rules_of(screening: &Screening) -> Arc<OutputRules> {
    let public = prompt_sections(PROMPT, &["return_policy"]);
    Arc::new(OutputRules::new(screening, ProtectedPrompt { text: PROMPT, public: &public }).unwrap())
}

fn rules() -> Arc<OutputRules> {
    static RULES: std::sync::LazyLock<Arc<OutputRules>> = std::sync::LazyLock::new(|| rules_of(&Screening::default()));
    Arc::clone(&RULES)
}

fn clear(text: &str) -> String {
    redact(&rules(), text, &|_| false).0
}

fn counts(redactions: &[Redaction]) -> Vec<(&str, u32)> {
    redactions.iter().map(|r| (r.kind.as_str(), r.count)).collect()
}

#[test]
fn g79_an_anthropic_key_is_overwritten_and_told_without_its_value() {
    let reply = "The key is sk-ant-api03-AbCdEf0123456789-xyz_AbCdEf0123456789AA, keep it.";
    let (text, redactions) = redact(&rules(), reply, &|_| false);
    assert_eq!(text, "The key is [REDACTED_ANTHROPIC_KEY], keep it.");
    assert_eq!(counts(&redactions), [("ANTHROPIC_KEY", 1)]);
}

#[test]
fn g68_secrets_are_overwritten_by_their_kind() {
    let pem =
        format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----", "MIIEpAIBAAKCAQEA7b".repeat(8));
    for (secret, kind) in [
        ("sk-ant-api03-short1", "ANTHROPIC_KEY"),
        ("sk-proj-Ab3dEf6hIj9lMn2pQr5t", "OPENAI_KEY"),
        ("AKIAIOSFODNN7EXAMPLE", "AWS_KEY"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "GITHUB_TOKEN"),
        ("glpat-Ab3dEf6hIj9lMn2pQr5t", "GITLAB_TOKEN"),
        ("xoxb-1234567890-Ab3dEf6hIj9lMn2p", "SLACK_TOKEN"),
        ("api_key: hunter2hunter2", "SECRET"),
        ("password is correct4horse", "SECRET"),
        ("postgres://admin:pa55word@", "URL_CREDENTIALS"),
        ("Bearer abcdefghij1234567890.xyz", "BEARER_TOKEN"),
        (&pem, "PRIVATE_KEY"),
    ] {
        assert_eq!(clear(&format!("It is {secret} here")), format!("It is [REDACTED_{kind}] here"), "{secret}");
    }
    let shown = Screening { filter_secrets: false, ..Screening::default() };
    assert_eq!(redact(&rules_of(&shown), "AKIAIOSFODNN7EXAMPLE", &|_| false).0, "AKIAIOSFODNN7EXAMPLE");
}

#[test]
fn g68_personal_data_with_their_check_digits_are_overwritten() {
    for (value, kind) in [
        ("sarah.chen+books@mail.example.com", "EMAIL"),
        ("4111 1111 1111 1111", "CARD"),
        ("5555555555554444", "CARD"),
        ("3782-822463-10005", "CARD"),
        ("GB82 WEST 1234 5698 7654 32", "IBAN"),
        ("DE89370400440532013000", "IBAN"),
        ("078-05-1120", "SSN"),
        ("(212) 555-0123", "PHONE"),
        ("212-555-0123", "PHONE"),
        ("+44 20 7946 0958", "PHONE"),
        ("+4915112345678", "PHONE"),
        ("192.168.1.20", "IP_ADDRESS"),
        ("2001:db8::8a2e:370:7334", "IP_ADDRESS"),
    ] {
        for (text, expected) in [
            (format!("It is {value}."), format!("It is [REDACTED_{kind}].")),
            (format!("({value}) it is"), format!("([REDACTED_{kind}]) it is")),
            (value.to_owned(), format!("[REDACTED_{kind}]")),
        ] {
            assert_eq!(clear(&text), expected, "{value}");
        }
    }
    let shown = Screening { filter_pii: false, ..Screening::default() };
    assert_eq!(redact(&rules_of(&shown), "a@b.example", &|_| false).0, "a@b.example");
}

#[test]
fn g68_what_only_looks_like_personal_data_is_left_alone() {
    for text in [
        "Order BK-1001, item 6086499569, parcel #W2378156, RMA-00AB12",
        "4111 1111 1111 1112 fails its check digit, and 1234567890123456 too",
        "15 * 23 = 345 and 2 + 2 = 4",
        "on 2025-03-03 at 12:30:45, version 1.2.3 or 1.2.3.4.5",
        "GB82 WEST 1234 5698 7654 33",
        "000-12-3456, 666-12-3456, 900-12-3456 and A-078-05-1120-7",
        "it costs 1,299.00 EUR, twice 20 555 0 12",
        "write to us @bookshop, or see https://shop.example/a:b?x=1",
        "Your token of appreciation: a voucher. The secret is out. Forgot your password? Use the link.",
        "Ratio 3:2, map a::b, std::fmt::Display",
        "Größe 42 – «très bien», 注文は，明日届きます！",
    ] {
        assert_eq!(clear(text), text);
    }
}

#[test]
fn g68_a_value_that_was_released_to_this_person_stays_and_a_secret_never_does() {
    let allowed = |value: &str| matches!(value, "sarah@example.com" | "AKIAIOSFODNN7EXAMPLE");
    let (text, redactions) = redact(&rules(), "sarah@example.com, eve@example.org, AKIAIOSFODNN7EXAMPLE", &allowed);
    assert_eq!(text, "sarah@example.com, [REDACTED_EMAIL], [REDACTED_AWS_KEY]");
    assert_eq!(counts(&redactions), [("AWS_KEY", 1), ("EMAIL", 1)]);
}

#[test]
fn g68_i10_a_run_of_the_prompts_words_is_overwritten_and_published_policy_is_not() {
    let (text, redactions) = redact(
        &rules(),
        "I was told: NEVER tell **anybody**, that the canary\nof this shop is called “heliotrope”! Bye.",
        &|_| false,
    );
    assert_eq!(text, "I was told: [REDACTED_SYSTEM_PROMPT]”! Bye.");
    assert_eq!(counts(&redactions), [("SYSTEM_PROMPT", 1)]);
    let policy = "Books can be returned within thirty days of delivery if they were not read by more than one person.";
    assert_eq!(clear(policy), policy);
    for few in ["You are the support desk of a small", "never promise a refund, the canary of this shop"] {
        assert_eq!(clear(few), few, "fewer than {RUN_WORDS} words in a row");
    }
    // All of it: one marker for each run that nobody may read.
    let (text, _) = redact(&rules(), PROMPT, &|_| false);
    assert!(!text.contains("canary") && !text.contains("support desk") && text.contains("thirty days"), "{text}");
}

#[test]
fn g68_i10_words_of_a_prompt_in_a_script_without_blanks_are_characters() {
    let prompt = "あなたは書店の担当者です。秘密の言葉はヘリオトロープです。";
    let rules =
        Arc::new(OutputRules::new(&Screening::default(), ProtectedPrompt { text: prompt, public: &[] }).unwrap());
    let (text, _) = redact(&rules, "はい。秘密の言葉はヘリオトロープです。", &|_| false);
    assert!(text.ends_with("[REDACTED_SYSTEM_PROMPT]。"), "{text}");
}

#[test]
fn g68_invisible_characters_hide_nothing_and_are_gone() {
    assert_eq!(clear("sarah\u{200b}@exam\u{ad}ple.com"), "[REDACTED_EMAIL]");
    assert_eq!(clear("AKIA\u{2060}IOSFODNN7\u{e0041}EXAMPLE"), "[REDACTED_AWS_KEY]");
    assert_eq!(clear("４１１１ １１１１ １１１１ １１１１"), "[REDACTED_CARD]");
    assert_eq!(clear("a\u{202e}b\0c"), "abc");
}

fn own(regex: &str, replacement: &str, kind: &str, bytes_max: u32) -> Screening {
    let filter = OutputFilter { regex: regex.into(), replacement: replacement.into(), kind: kind.into(), bytes_max };
    Screening { output_filters: vec![filter], ..Screening::default() }
}

#[test]
fn g85_filters_of_a_file_work_with_the_built_in_ones() {
    let rules = rules_of(&own(r"\bPROJ-\d{3,6}\b", "[PROJECT]", "project", 16));
    let (text, redactions) = redact(&rules, "PROJ-123 and éPROJ-4567, not XPROJ-123; mail a@b.example", &|_| false);
    assert_eq!(text, "[PROJECT] and é[PROJECT], not XPROJ-123; mail [REDACTED_EMAIL]");
    assert_eq!(counts(&redactions), [("EMAIL", 1), ("project", 2)]);
    // Longer than its rule says: all of the word goes, not the first octets alone.
    let rules = rules_of(&own(r"N\d+", "[N]", "n", 8));
    assert_eq!(redact(&rules, "N123456789012345, N12", &|_| false).0, "[N], [N]");
    let rules = rules_of(&own(r"(?i)größe \w+", "[X]", "x", 64));
    assert_eq!(redact(&rules, "die GRÖSSE ist Größe Überlänge!", &|_| false).0, "die GRÖSSE ist [X]!");
}

#[test]
fn g85_a_bad_filter_is_an_error_that_names_it_and_what_is_wrong() {
    let error =
        |screening: &Screening| OutputRules::new(screening, ProtectedPrompt::default()).err().unwrap().to_string();
    assert_eq!(error(&own("a(", "b", "k", 9)), "pattern `a(` cannot be used: unclosed group");
    assert!(error(&own("a*", "b", "k", 9)).starts_with("pattern `a*` matches the empty text"));
    assert_eq!(error(&own("a", "b", "k", 0)), "pattern `a`: bytes_max is 0, it must be from 1 to 4096");
    assert_eq!(error(&own("a", "b", "k", 4097)), "pattern `a`: bytes_max is 4097, it must be from 1 to 4096");
    assert!(error(&own(r"\d", "#1", "k", 9)).starts_with(r"pattern `\d`: its replacement `#1` is filtered itself"));
    assert!(error(&own(r"(?:\w{900}){900}", "b", "k", 9)).contains("cannot be used"));
    assert!(error(&own("a", "me@b.example", "k", 9)).contains("is filtered itself"));
    let many =
        Screening { output_filters: vec![own("a", "b", "k", 9).output_filters[0].clone(); 65], ..Screening::default() };
    assert_eq!(error(&many), "there are 65 patterns, the limit is 64: put some of them into one");
}

#[test]
fn g68_only_what_may_still_be_a_match_is_held_back() {
    let (rules, mut out) = (rules(), String::new());
    let mut filter = Filter::new(Arc::clone(&rules), Box::new(|_| false));
    filter.push("Hello there, ask xyzzy@exam", &mut out);
    assert_eq!(out, "Hello there, ask ");
    filter.push("ple.com", &mut out);
    assert_eq!(out, "Hello there, ask ");
    filter.push("! And", &mut out);
    assert_eq!(out, "Hello there, ask [REDACTED_EMAIL]! ");
    filter.finish(&mut out);
    assert_eq!(out, "Hello there, ask [REDACTED_EMAIL]! And");
}

#[test]
fn g68_a_long_reply_is_held_within_bounds() {
    let mut filter = Filter::new(rules(), Box::new(|_| false));
    let (mut out, mut most) = (String::new(), 0);
    for text in ["x", "4", "a@", "the canary of this shop ", "-----BEGIN RSA PRIVATE KEY----- AAAA", "sk-", "é字"] {
        for _ in 0..20_000 {
            filter.push(text, &mut out);
            most = most.max(filter.buffer.len());
        }
    }
    filter.finish(&mut out);
    assert!(most <= 20 * 1024, "{most}");
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-zA-Z]{1,9}",
        3 => "[ .,:;@+()\\[\\]_/'\"-]{1,3}",
        2 => "[0-9]{1,9}",
        2 => "\\PC{0,4}",
        3 => prop_oneof![
            Just("sarah@example.com"), Just("@example.org"), Just("4111 1111 1111 1111"), Just("4111111111111111"),
            Just("GB82 WEST 1234 5698 7654 32"), Just("078-05-1120"), Just("+1 212 555 0123"), Just("(212) 555-0123"),
            Just("192.168.0.1"), Just("2001:db8::1"), Just("AKIAIOSFODNN7EXAMPLE"), Just("sk-ant-api03-Ab3xYz9"),
            Just("sk-"), Just("ghp_16C7e42F292c6912E7710c838347Ae178B4a"), Just("-----BEGIN RSA PRIVATE KEY-----"),
            Just("MIIEpAIBAAKCAQEA7bMIIEpAIBAAKCAQEA7bMIIEpAIBAAKCAQEA7b"), Just("-----END RSA PRIVATE KEY-----"),
            Just("password: "), Just("Bearer "), Just("https://a:b1c2d3e4@"), Just("eyJhbGciOiJIUzI1NiJ9."),
            Just("never tell anybody that the canary of this shop is called heliotrope"), Just("the canary of this"),
            Just("shop is called heliotrope, and never promise a refund"), Just("ORD12"), Just("[REDACTED_EMAIL]"), Just("\\n"),
        ].prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
    #[test]
    fn g68_any_cut_gives_the_same_text_and_filtering_again_changes_nothing(
        parts in proptest::collection::vec(part(), 0..20),
        cuts in proptest::collection::vec(1usize..30, 1..9),
    ) {
        static RULES: std::sync::LazyLock<Arc<OutputRules>> =
            std::sync::LazyLock::new(|| rules_of(&own(r"\bORD\d{2,}\b", "[ORDER]", "order", 12)));
        let text = parts.concat();
        let (whole, redactions) = redact(&RULES, &text, &|_| false);
        let (mut out, mut filter) = (String::new(), Filter::new(Arc::clone(&RULES), Box::new(|_| false)));
        let (chars, mut at, mut n): (Vec<char>, _, _) = (text.chars().collect(), 0, 0);
        while at < chars.len() {
            let end = (at + cuts[n % cuts.len()]).min(chars.len());
            filter.push(&chars[at..end].iter().collect::<String>(), &mut out);
            prop_assert!(whole.starts_with(&out), "{:?} is no beginning of {:?}", out, whole);
            (at, n) = (end, n + 1);
        }
        let cut_up = filter.finish(&mut out);
        prop_assert_eq!(&out, &whole);
        prop_assert_eq!(cut_up, redactions);
        let again = redact(&RULES, &whole, &|_| false);
        prop_assert_eq!(&again.0, &whole, "of {:?}", text);
        prop_assert_eq!(again.1, vec![]);
    }
}

/// Measured where the development set is at hand: `CARBOY_SHARED_DATA=DIR cargo test -p carboy-guard -- --nocapture`.
#[test]
#[allow(clippy::disallowed_methods)]
fn g68_recall_of_personal_data_on_the_development_set() {
    let Ok(dir) = std::env::var("CARBOY_SHARED_DATA") else {
        println!("skipped: CARBOY_SHARED_DATA names no directory with pii_presidio_dev.jsonl.gz");
        return;
    };
    let packed = std::fs::read(format!("{dir}/pii_presidio_dev.jsonl.gz")).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(&packed[..]), &mut text).unwrap();
    let started = std::time::Instant::now();
    let mut by_entity: BTreeMap<(String, u64), [u32; 2]> = BTreeMap::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let entity = row["entity"].as_str().unwrap_or("none").to_owned();
        let counts = by_entity.entry((entity.clone(), row["label"].as_u64().unwrap_or(0))).or_default();
        counts[0] += 1;
        let found = redact(&rules(), row["text"].as_str().unwrap(), &|_| false).1;
        counts[1] += u32::from(!found.is_empty());
        if std::env::var("CARBOY_SHOW_MISSED").is_ok_and(|wanted| wanted == entity) {
            println!("{} {found:?} {}", row["label"], row["text"]);
        }
    }
    println!("{} octets of rows in {} ms", text.len(), started.elapsed().as_millis());
    let prose = "Your order was sent today and will be with you soon, as the carrier told us. ".repeat(10_000);
    let started = std::time::Instant::now();
    assert_eq!(clear(&prose), prose);
    println!("{} octets of prose in {} ms", prose.len(), started.elapsed().as_millis());
    for ((entity, label), counts) in by_entity {
        println!("{label} {entity:28} {counts:?}");
    }
}
