//! Transcripts of whole answers and streams, as providers send them, and as nobody should.

use carboy_core::budget::Usage;
use proptest::prelude::*;

use super::*;

const ANTHROPIC: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"usage":{"input_tokens":12,"cache_creation_input_tokens":300,"cache_read_input_tokens":4000,"cache_creation":{"ephemeral_5m_input_tokens":300,"ephemeral_1h_input_tokens":0},"output_tokens":2}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello \"usage\":{\"output_tokens\":99999}"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":57,"output_tokens_details":{"thinking_tokens":40}}}

event: message_stop
data: {"type":"message_stop"}

"#;

const CHAT: &str = r#"data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"}}],"usage":null}

data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}],"usage":null,"obfuscation":"xxxxxxxxxx"}

data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":64},"completion_tokens_details":{"reasoning_tokens":5}}}

data: [DONE]

"#;

const RESPONSES: &str = r#"event: response.created
data: {"type":"response.created","response":{"id":"r","status":"in_progress","usage":null}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","item_id":"i","delta":"Hi"}

event: response.completed
data: {"type":"response.completed","response":{"id":"r","status":"completed","usage":{"input_tokens":50,"input_tokens_details":{"cached_tokens":10},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":57}}}

"#;

const GEMINI: &str = r#"data: {"candidates":[{"content":{"parts":[{"text":"Hi"}],"role":"model"}}],"usageMetadata":{"promptTokenCount":30,"candidatesTokenCount":1,"totalTokenCount":31}}

data: {"candidates":[{"content":{"parts":[{"text":" you"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":30,"candidatesTokenCount":4,"thoughtsTokenCount":11,"toolUsePromptTokenCount":5,"cachedContentTokenCount":8,"totalTokenCount":50}}

"#;

fn usage(input: u64, cache_write: u64, cache_read: u64, output: u64) -> Usage {
    Usage { input, cache_write, cache_read, output }
}

fn of(format: WireFormat, shape: Shape, body: &str) -> Reading {
    let mut meter = Meter::new(format, shape);
    meter.feed(body.as_bytes());
    meter.reading()
}

fn streams() -> [(WireFormat, &'static str, Usage, u64); 4] {
    [
        (WireFormat::AnthropicMessages, ANTHROPIC, usage(12, 300, 4000, 57), 37),
        (WireFormat::OpenAiChat, CHAT, usage(36, 0, 64, 20), 5),
        (WireFormat::OpenAiResponses, RESPONSES, usage(40, 0, 10, 7), 2),
        (WireFormat::Gemini, GEMINI, usage(27, 0, 8, 15), 6),
    ]
}

#[test]
fn c3_c4_each_stream_is_read_to_the_token() {
    for (format, body, usage, written_bytes) in streams() {
        let deltas =
            if format == WireFormat::AnthropicMessages || format == WireFormat::OpenAiResponses { 1 } else { 2 };
        let want = Reading { usage, reported: Reported::Complete, written_bytes, deltas, implausible: false };
        for end in ["\n", "\r\n", "\r"] {
            assert_eq!(of(format, Shape::Events, &body.replace('\n', end)), want, "{format:?}");
        }
        assert_eq!(of(format, Shape::Events, &format!("\u{feff}: hello\n\n{body}")), want, "{format:?}");
    }
}

#[test]
fn c3_each_whole_answer_is_read_to_the_token() {
    let anthropic = r#"{"type":"message","content":[{"type":"tool_use","input":{"usage":{"input_tokens":9}}}],
        "usage":{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":3}}"#;
    let chat = r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13}}"#;
    let embeddings = r#"{"data":[{"embedding":[0.1,-2e-3]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    let responses = r#"{"object":"response","usage":{"input_tokens":10,"output_tokens":3,"total_tokens":13}}"#;
    let gemini =
        r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":3}}"#;
    for (format, body, want) in [
        (WireFormat::AnthropicMessages, anthropic, usage(10, 0, 5, 3)),
        (WireFormat::OpenAiChat, chat, usage(10, 0, 0, 3)),
        (WireFormat::OpenAiChat, embeddings, usage(8, 0, 0, 0)),
        (WireFormat::OpenAiResponses, responses, usage(10, 0, 0, 3)),
        (WireFormat::Gemini, gemini, usage(10, 0, 0, 3)),
    ] {
        let reading = of(format, Shape::Whole, body);
        assert_eq!((reading.usage, reading.reported), (want, Reported::Complete), "{body}");
        // Cut before its end, what was said by then counts, and it is told.
        let cut = of(format, Shape::Whole, &body[..body.len() - 1]);
        assert_eq!((cut.usage, cut.reported), (want, Reported::Partly), "{body}");
    }
}

#[test]
fn gemini_without_events_streams_one_list() {
    let body = GEMINI.trim_end().replace("data: ", "").replace("\n\n", ",");
    let reading = of(WireFormat::Gemini, Shape::Whole, &format!("[{body}]"));
    assert_eq!((reading.usage, reading.reported), (usage(27, 0, 8, 15), Reported::Complete));
}

#[test]
fn hidden_reasoning_shows_in_the_total() {
    // Gemini behind OpenAI's interface: prompt and completion do not add up to the total.
    let body = r#"{"usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":40}}"#;
    assert_eq!(of(WireFormat::OpenAiChat, Shape::Whole, body).usage, usage(10, 0, 0, 30));
}

#[test]
fn iterations_that_the_top_level_leaves_out_are_added_once() {
    let delta = r#"data: {"type":"message_delta","usage":{"input_tokens":100,"output_tokens":20,"iterations":[{"type":"compaction","input_tokens":5000,"output_tokens":300,"cache_read_input_tokens":7},{"type":"message","input_tokens":100,"output_tokens":20}]}}"#;
    let twice = format!("{delta}\n\n{delta}\n\ndata: {{\"type\":\"message_stop\"}}\n\n");
    let reading = of(WireFormat::AnthropicMessages, Shape::Events, &twice);
    assert_eq!((reading.usage, reading.reported), (usage(5100, 0, 7, 320), Reported::Complete));
}

#[test]
fn counts_are_overwritten_by_larger_ones_and_never_added_or_taken_back() {
    let body = |counts: &[u64]| {
        let mut body = String::from(
            "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n",
        );
        for count in counts {
            body += &format!("data: {{\"type\":\"message_delta\",\"usage\":{{\"output_tokens\":{count}}}}}\n\n");
        }
        body + "data: {\"type\":\"message_stop\"}\n\n"
    };
    for counts in [&[30][..], &[10, 20, 30], &[0, 30], &[30, 0], &[30, 30, 30]] {
        let reading = of(WireFormat::AnthropicMessages, Shape::Events, &body(counts));
        assert_eq!(reading.usage, usage(5, 0, 0, 30), "{counts:?}");
    }
}

#[test]
fn what_cannot_be_a_count_is_told_and_not_counted() {
    for bad in ["-1", "18446744073709551616", "1e3", "1.5", "\"12\"", "9999999999999"] {
        let body = format!("{{\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{bad}}}}}");
        let reading = of(WireFormat::OpenAiChat, Shape::Whole, &body);
        assert!(reading.implausible && reading.reported == Reported::Partly, "{bad}: {reading:?}");
        assert_eq!(reading.usage.output, 0, "{bad}");
    }
    // Of two members of one name the larger counts, wherever the provider or whoever sits before it put it.
    for twice in [
        r#"{"usage":{"prompt_tokens":7,"completion_tokens":900,"completion_tokens":3}}"#,
        r#"{"usage":{"prompt_tokens":7,"completion_tokens":3},"usage":{"completion_tokens":900}}"#,
        r#"{"usage":{"prompt_tokens":7,"completion_tokens":3,"completion\u005ftokens":900}}"#,
    ] {
        assert_eq!(of(WireFormat::OpenAiChat, Shape::Whole, twice).usage, usage(7, 0, 0, 900), "{twice}");
    }
    for missing in ["{}", "{\"usage\":null}", "{\"usage\":{\"completion_tokens\":3}}", "not json", "", "[[[["] {
        let reading = of(WireFormat::OpenAiChat, Shape::Whole, missing);
        assert_eq!((reading.reported, reading.implausible), (Reported::Never, false), "{missing}");
    }
}

#[test]
fn a_cut_stream_says_what_it_had_said() {
    let cut = &ANTHROPIC[..ANTHROPIC.find("event: message_delta").unwrap()];
    let reading = of(WireFormat::AnthropicMessages, Shape::Events, cut);
    assert_eq!((reading.usage, reading.reported), (usage(12, 300, 4000, 2), Reported::Partly));
    assert_eq!(reading.written_bytes, 37);
    // A stream that was not asked for usage, or ends in an error, says nothing or not all.
    let silent = CHAT.replace("\"usage\":{", "\"other\":{");
    assert_eq!(of(WireFormat::OpenAiChat, Shape::Events, &silent).reported, Reported::Never);
    let error =
        format!("{cut}event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"overloaded_error\"}}}}\n\n");
    assert_eq!(of(WireFormat::AnthropicMessages, Shape::Events, &error).reported, Reported::Partly);
}

#[test]
fn an_event_of_megabytes_is_read_without_being_held() {
    let huge = "a".repeat(3 << 20);
    let start = ANTHROPIC.find("event: message_delta").unwrap();
    let event = format!("data: {{\"type\":\"content_block_delta\",\"delta\":{{\"partial_json\":\"{huge}\"}}}}\n\n");
    let body = format!("{}{event}{}", &ANTHROPIC[..start], &ANTHROPIC[start..]);
    let reading = of(WireFormat::AnthropicMessages, Shape::Events, &body);
    // Which so few tokens cannot be.
    assert_eq!((reading.usage, reading.reported), (usage(12, 300, 4000, 57), Reported::Partly));
    assert!(reading.implausible);
    assert_eq!(reading.written_bytes, 37 + (3 << 20));
}

#[test]
fn an_event_that_is_no_document_makes_the_whole_unbelievable() {
    for broken in ["{\"usage\":{\"output_tokens\":57}", "{\"a\":1}}", "{\"a\" 1}", "nonsense"] {
        let body = ANTHROPIC.replace("{\"type\": \"ping\"}", broken);
        let reading = of(WireFormat::AnthropicMessages, Shape::Events, &body);
        assert!(reading.implausible && reading.reported == Reported::Partly, "{broken}: {reading:?}");
    }
}

#[test]
fn data_over_several_lines_is_one_document() {
    let body = "data: {\"usage\":\ndata: {\"prompt_tokens\": 4,\r\ndata:\"completion_tokens\": 2}}\n\ndata: [DONE]\n\n";
    let reading = of(WireFormat::OpenAiChat, Shape::Events, body);
    assert_eq!((reading.usage, reading.reported), (usage(4, 0, 0, 2), Reported::Complete));
}

#[test]
fn c4_every_split_of_every_stream_reads_the_same() {
    for (format, body, ..) in streams() {
        let whole = of(format, Shape::Events, body);
        for cut in 0..=body.len() {
            let mut meter = Meter::new(format, Shape::Events);
            meter.feed(&body.as_bytes()[..cut]);
            meter.feed(&body.as_bytes()[cut..]);
            assert_eq!(meter.reading(), whole, "{format:?} at {cut}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_whatever_make_it_fail_or_report_more_than_they_say(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for (format, ..) in streams() {
            for shape in [Shape::Whole, Shape::Events] {
                let mut meter = Meter::new(format, shape);
                meter.feed(&bytes);
                prop_assert_ne!(meter.reading().reported, Reported::Complete);
            }
        }
    }
}

#[test]
fn an_answer_from_which_counts_were_left_out_or_that_belies_them_is_not_complete() {
    let whole = |format, body: &str| {
        let mut meter = Meter::new(format, Shape::Whole);
        meter.feed(body.as_bytes());
        meter.reading()
    };
    // `?fields=candidates,usageMetadata.promptTokenCount`
    let fields = r#"{"candidates":[{"content":{"parts":[{"text":"words"}]}}],"usageMetadata":{"promptTokenCount":9}}"#;
    assert_eq!(whole(WireFormat::Gemini, fields).reported, Reported::Partly);
    let unsaid = r#"{"usage":{"input_tokens":9}}"#;
    assert_eq!(whole(WireFormat::AnthropicMessages, unsaid).reported, Reported::Partly);
    let text = "word ".repeat(100);
    for (tokens, implausible) in [(0, true), (1, true), (2, false)] {
        let body = format!(
            r#"{{"choices":[{{"message":{{"content":"{text}"}}}}],"usage":{{"prompt_tokens":9,"completion_tokens":{tokens},"total_tokens":{}}}}}"#,
            9 + tokens
        );
        assert_eq!(whole(WireFormat::OpenAiChat, &body).implausible, implausible, "{tokens}");
    }
}
