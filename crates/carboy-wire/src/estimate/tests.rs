//! Bounds hold, and estimates are as far off as they say.

use proptest::prelude::*;

use super::*;

/// Name, text, and its tokens by ctok 1.3.0, family 4.7.
const SAMPLES: &[(&str, &str, u64)] = &[
    ("english", include_str!("../../tests/golden/tokens/english.txt"), 573),
    ("rust", include_str!("../../tests/golden/tokens/rust.txt"), 898),
    ("python", include_str!("../../tests/golden/tokens/python.txt"), 397),
    ("json", include_str!("../../tests/golden/tokens/json.txt"), 1044),
    ("base64", include_str!("../../tests/golden/tokens/base64.txt"), 1151),
    ("korean", include_str!("../../tests/golden/tokens/korean.txt"), 337),
    ("emoji", include_str!("../../tests/golden/tokens/emoji.txt"), 237),
    ("log", include_str!("../../tests/golden/tokens/log.txt"), 742),
];

fn demand(format: WireFormat, body: &str) -> Demand {
    Demand::read(format, "/v1beta/models/gemini-2.5-pro:generateContent", body.as_bytes()).unwrap()
}

fn bound(format: WireFormat, body: &str) -> u64 {
    input_bound(format, body.as_bytes(), &demand(format, body))
}

#[test]
fn c5_the_offline_count_is_within_a_fifth_of_an_independent_tokenizer() {
    for (name, text, tokens) in SAMPLES {
        let found = count_tokens(text.as_bytes());
        let off = (found as f64 / *tokens as f64 - 1.0) * 100.0;
        assert!((-20.0..=20.0).contains(&off), "{name}: {found} for {tokens}: {off:.0} %");
    }
}

#[test]
fn c5_english_is_never_below_a_quarter_of_its_octets() {
    let (_, english, _) = SAMPLES[0];
    for from in 0..english.len() / 100 {
        let part = &english.as_bytes()[from * 100..];
        assert!(count_tokens(part) >= part.len() as u64 / 4);
    }
}

#[test]
fn the_bound_is_above_what_every_sample_has_however_it_is_written() {
    for (name, text, tokens) in SAMPLES {
        for format in [WireFormat::AnthropicMessages, WireFormat::OpenAiChat, WireFormat::OpenAiResponses] {
            let text = serde_json::to_string(text).unwrap();
            let body = format!("{{\"max_tokens\":1,\"messages\":[{{\"role\":\"user\",\"content\":{text}}}]}}");
            assert!(bound(format, &body) > *tokens, "{name}");
            // Escapes are longer than what they stand for.
            let escaped: String = text
                .chars()
                .map(|c| {
                    if c.is_ascii() {
                        c.to_string()
                    } else {
                        c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                    }
                })
                .collect();
            let longer = body.replace(&text, &escaped);
            assert!(bound(format, &longer) >= bound(format, &body), "{name}");
        }
    }
}

#[test]
fn what_the_text_does_not_show_is_the_models_whole_context() {
    let picture =
        r#"{"model":"claude-3-haiku-20240307","max_tokens":9,"messages":[{"content":[{"type":"image","source":{}}]}]}"#;
    assert_eq!(bound(WireFormat::AnthropicMessages, picture), 200_000);
    let earlier = r#"{"model":"gpt-5-codex","previous_response_id":"resp_1","input":"go on"}"#;
    assert_eq!(bound(WireFormat::OpenAiResponses, earlier), 400_000);
    let unknown = r#"{"model":"who-knows","previous_response_id":"resp_1"}"#;
    assert_eq!(bound(WireFormat::OpenAiResponses, unknown), 1_050_000);
    let compacted =
        r#"{"model":"claude-3-haiku","max_tokens":9,"context_management":{"edits":[{"type":"compact_20260112"}]}}"#;
    assert_eq!(bound(WireFormat::AnthropicMessages, compacted), 400_000);
    let tool = r#"{"model":"claude-3-haiku","max_tokens":9,"tools":[{"type":"bash_20250124","name":"bash"}]}"#;
    assert_eq!(bound(WireFormat::AnthropicMessages, tool), (tool.len() as u64 * 5).div_ceil(4) + 2 * 1024);
    assert_eq!(demand(WireFormat::Gemini, "{}").model.as_deref(), Some("gemini-2.5-pro"));
}

#[test]
fn what_has_no_bound_says_what_to_leave_out() {
    let of = |body: &str| unbounded(&demand(WireFormat::OpenAiResponses, body));
    assert!(of(r#"{"tools":[{"type":"web_search"}]}"#).unwrap().contains("tool"));
    assert!(of(r#"{"background":true}"#).unwrap().contains("background"));
    assert_eq!(of(r#"{"previous_response_id":"r","tools":[{"type":"function"}]}"#), None);
}

#[test]
fn limits_are_found_by_family_whoever_names_the_model() {
    use WireFormat::{AnthropicMessages, Gemini, OpenAiChat, OpenAiResponses};
    for (model, format, context, output) in [
        (Some("claude-3-5-haiku-latest"), AnthropicMessages, 200_000, 8_192),
        (Some("anthropic/claude-opus-4-1"), OpenAiChat, 200_000, 32_000),
        (Some("claude-sonnet-4-5-20250929"), AnthropicMessages, 1_000_000, 64_000),
        (Some("claude-of-tomorrow"), AnthropicMessages, 1_000_000, 128_000),
        (Some("gpt-4o-mini"), OpenAiChat, 128_000, 16_384),
        (Some("GPT-4"), OpenAiChat, 8_192, 8_192),
        (Some("ft:gpt-4.1-mini:org::id"), OpenAiChat, 1_047_576, 32_768),
        (Some("gpt-5.1-codex-max"), OpenAiResponses, 400_000, 128_000),
        (Some("llama-3"), OpenAiChat, 1_050_000, 32_768),
        (Some("models/gemini-2.5-flash"), Gemini, 1_048_576, 65_536),
        (None, Gemini, 2_097_152, 65_536),
        (None, AnthropicMessages, 1_000_000, 128_000),
    ] {
        assert_eq!((context_limit(model, format), output_limit(model, format)), (context, output), "{model:?}");
    }
}

#[test]
fn a_calibration_only_grows_and_is_never_below_the_pieces() {
    let mut known = Calibration::new();
    let model = Some("claude-x");
    // A beginner is careful.
    assert_eq!(known.tokens(model, Class::Written, 1000), 600);
    known.learn(model, Class::Written, 1000, 300);
    assert_eq!(known.tokens(model, Class::Written, 1000), 330);
    known.learn(model, Class::Written, 1000, 500);
    known.learn(model, Class::Written, 1000, 100);
    assert_eq!(known.tokens(model, Class::Written, 1000), 550);
    assert_eq!(known.tokens(model, Class::Read, 1000), 600);
    assert_eq!(known.output(model, 10, 50), 50);
    // What is too short says nothing, and hidden reasoning no more than a text can.
    known.learn(model, Class::Read, 10, 1000);
    assert_eq!(known.tokens(model, Class::Read, 1000), 600);
    known.learn(model, Class::Read, 1000, 1_000_000);
    assert_eq!(known.tokens(model, Class::Read, 1000), 1250);
}

#[test]
fn a_calibration_remembers_a_bounded_number_of_models() {
    let mut known = Calibration::new();
    for n in 0..CALIBRATED_MAX * 2 {
        known.learn(Some(&format!("model-{n}")), Class::Read, 1000, 400);
    }
    assert_eq!(known.len(), CALIBRATED_MAX);
    // Those that it knows go on learning.
    known.learn(Some("model-0"), Class::Read, 1000, 1000);
    assert_eq!(known.tokens(Some("model-0"), Class::Read, 1000), 1100);
    known.learn(Some(&"é".repeat(40)), Class::Read, 1000, 400);
}

proptest! {
    #[test]
    fn the_bound_is_above_five_tokens_for_four_octets_of_any_text(text in "\\PC{0,200}") {
        let body = serde_json::json!({"max_tokens": 1, "messages": [{"role": "user", "content": text}]}).to_string();
        let bound = bound(WireFormat::AnthropicMessages, &body);
        prop_assert!(bound * 4 >= text.len() as u64 * 5);
        prop_assert!(count_tokens(body.as_bytes()) <= bound);
    }

    #[test]
    fn any_octets_have_a_count(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(count_tokens(&bytes) <= bytes.len() as u64 * 3);
    }
}
