use super::*;

fn counted(format: WireFormat, path: &str, body: &str) -> Option<(String, String)> {
    let demand = Demand::read(format, path, body.as_bytes()).unwrap();
    let CountRequest { path, body } = request(format, path, body.as_bytes(), &demand)?;
    Some((path, String::from_utf8(body).unwrap()))
}

#[test]
fn c5_each_provider_is_asked_in_its_own_way_and_with_what_will_be_sent() {
    for (format, path, body, want) in [
        (
            WireFormat::AnthropicMessages,
            "/v1/messages",
            r#"{"model":"claude-x","max_tokens":64000,"stream":true,"metadata":{},"system":[ {"type":"text","text":"é\u0041"} ],"messages":[1.50],"tools":[],"thinking":{"type":"adaptive"}}"#,
            (
                "/v1/messages/count_tokens",
                r#"{"model":"claude-x","system":[ {"type":"text","text":"é\u0041"} ],"messages":[1.50],"tools":[],"thinking":{"type":"adaptive"}}"#,
            ),
        ),
        (
            WireFormat::OpenAiResponses,
            "/v1/responses",
            r#"{"model":"gpt-5","input":"x","stream":true,"store":false,"max_output_tokens":9,"reasoning":{"effort":"low"}}"#,
            ("/v1/responses/input_tokens", r#"{"model":"gpt-5","input":"x","reasoning":{"effort":"low"}}"#),
        ),
        (
            WireFormat::Gemini,
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
            r#"{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"maxOutputTokens":5}}"#,
            (
                "/v1beta/models/gemini-2.5-flash:countTokens",
                r#"{"generateContentRequest":{"model":"models/gemini-2.5-flash","contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"maxOutputTokens":5}}}"#,
            ),
        ),
    ] {
        assert_eq!(counted(format, path, body), Some((want.0.to_owned(), want.1.to_owned())));
    }
}

#[test]
fn who_counts_nothing_is_not_asked() {
    assert_eq!(counted(WireFormat::OpenAiChat, "/v1/chat/completions", r#"{"messages":[]}"#), None);
    assert_eq!(counted(WireFormat::OpenAiResponses, "/backend-api/codex/responses", r#"{"input":"x"}"#), None);
    assert_eq!(counted(WireFormat::OpenAiResponses, "/openai/responses", r#"{"input":"x"}"#), None);
}

#[test]
fn a_body_that_two_readers_could_read_two_ways_is_not_counted() {
    for body in [r#"{"messages":[],"messages":[1]}"#, r#"{"messages":[],"m\u0065ssages":[1]}"#] {
        assert_eq!(counted(WireFormat::AnthropicMessages, "/v1/messages", body), None);
    }
}

#[test]
fn c5_an_answer_is_a_count_or_nothing() {
    let text = |format, text: &str| answer(format, text.as_bytes());
    let golden = [
        (WireFormat::AnthropicMessages, include_str!("../../tests/golden/anthropic/count.json"), 2095),
        (WireFormat::OpenAiResponses, include_str!("../../tests/golden/responses/count.json"), 11),
        (WireFormat::Gemini, include_str!("../../tests/golden/gemini/count.json"), 31),
    ];
    for (format, body, tokens) in golden {
        assert_eq!(text(format, body), Some(tokens));
    }
    for bad in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"input_tokens":0}"#,
        r#"{"input_tokens":-1}"#,
        r#"{"input_tokens":1.5}"#,
        r#"{"input_tokens":"12"}"#,
        r#"{"input_tokens":18446744073709551616}"#,
        r#"{"input_tokens":9999999999999}"#,
        r#"{"input_tokens":1,"input_tokens":2}"#,
        r#"{"input_tokens":12"#,
        r#"{"type":"error","error":{"type":"x"}}"#,
        r#"{"usage":{"input_tokens":12}}"#,
    ] {
        assert_eq!(text(WireFormat::AnthropicMessages, bad), None, "{bad}");
    }
    let long = format!("{{\"input_tokens\":5,\"x\":\"{}\"}}", "a".repeat(ANSWER_BYTES_MAX));
    assert_eq!(text(WireFormat::AnthropicMessages, &long), None);
}
