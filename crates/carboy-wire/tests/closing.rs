//! A stream that is cut at any octet is ended so that its client's parser finds a whole protocol.

// Without `#[cfg(test)]` clippy does not see that the helpers here are of tests.
#![allow(clippy::unwrap_used)]

mod golden;

use std::collections::BTreeMap;

use carboy_core::budget::Usage;
use carboy_wire::closing::Follower;
use carboy_wire::format::WireFormat;
use carboy_wire::meter::{Meter, Reported, Shape};
use carboy_wire::sse::{EVENT_BYTES_MAX, Event, Parser};
use golden::{ALL, Golden};
use serde_json::Value;

const NOTICE: &str = "carboy: the budget is spent (“host”).";

fn closed(golden: &Golden, sent: &[u8]) -> Vec<u8> {
    let mut follower = Follower::new(golden.format, golden.shape).unwrap();
    // In pieces, as it comes.
    sent.chunks(7).for_each(|piece| follower.feed(piece));
    [sent, &follower.close(NOTICE)].concat()
}

fn events(stream: &[u8], at: &str) -> Vec<Event> {
    assert!(std::str::from_utf8(stream).is_ok(), "{at}: half a character");
    let (mut parser, mut events) = (Parser::new(EVENT_BYTES_MAX), Vec::new());
    parser.feed(stream, &mut events).unwrap();
    assert!(parser.is_idle(), "{at}: {}", String::from_utf8_lossy(stream));
    events
}

fn json(event: &Event, at: &str) -> Value {
    serde_json::from_str(&event.data).unwrap_or_else(|error| panic!("{at}: {error}: {:?}", event.data))
}

/// As the official SDK goes through it: the event's name decides, pings are passed over.
fn check_anthropic(events: &[Event], at: &str) -> String {
    let (mut started, mut ended, mut said) = (false, false, String::new());
    let mut open: Option<(u64, String, String)> = None;
    let mut arguments = Vec::new();
    let mut next = 0;
    let mut output = 0;
    for event in events {
        let value = json(event, at);
        if event.name == "ping" {
            assert_eq!(value["type"], "ping", "{at}");
            continue;
        }
        assert_eq!(value["type"], event.name, "{at}");
        assert!(!ended, "{at}: behind the end");
        assert_eq!(started, event.name != "message_start", "{at}");
        match &event.name[..] {
            "message_start" => {
                started = true;
                assert!(value["message"]["usage"]["input_tokens"].is_u64());
            }
            "content_block_start" => {
                assert!(open.is_none(), "{at}: a block in a block");
                assert_eq!(value["index"], next, "{at}");
                open = Some((next, value["content_block"]["type"].as_str().unwrap().into(), String::new()));
                next += 1;
            }
            "content_block_delta" => {
                let (index, kind, partial) = open.as_mut().unwrap_or_else(|| panic!("{at}: no block is open"));
                assert_eq!(value["index"], *index, "{at}");
                let delta = &value["delta"];
                match delta["type"].as_str().unwrap() {
                    "text_delta" => {
                        assert_eq!(kind, "text", "{at}");
                        said += delta["text"].as_str().unwrap();
                    }
                    "input_json_delta" => *partial += delta["partial_json"].as_str().unwrap(),
                    "thinking_delta" | "signature_delta" | "compaction_delta" => {}
                    other => panic!("{at}: {other}"),
                }
            }
            "content_block_stop" => {
                let (index, kind, partial) = open.take().unwrap_or_else(|| panic!("{at}: no block is open"));
                assert_eq!(value["index"], index, "{at}");
                if kind == "tool_use" || kind == "server_tool_use" {
                    arguments.push(partial);
                }
            }
            "message_delta" => {
                assert!(open.is_none(), "{at}");
                let now = value["usage"]["output_tokens"].as_u64().unwrap();
                assert!(now >= output, "{at}: counts only grow");
                output = now;
            }
            "message_stop" | "error" => ended = true,
            other => panic!("{at}: {other}"),
        }
    }
    assert!(started && ended, "{at}");
    for arguments in arguments {
        tool_takes_no_half(&arguments, at);
    }
    said
}

/// Arguments are one document; those that were cut are such that no tool takes them.
fn tool_takes_no_half(arguments: &str, at: &str) {
    let value: Value = serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{at}: {error}: {arguments}"));
    for (key, whole) in [
        ("command", &["rm -rf /tmp/build \"é\" é && ls", "rm -rf /tmp/build \"x\"", "ls"][..]),
        ("file_path", &["/a"]),
        ("query", &["weather"]),
    ] {
        if let Some(value) = value.get(key) {
            assert!(value.is_null() || whole.contains(&value.as_str().unwrap()), "{at}: half of it: {arguments}");
        }
    }
    let complete = value.get("cut_off_by_carboy").is_none();
    assert!(!complete || !value.as_object().unwrap().values().any(Value::is_null), "{at}: {arguments}");
}

fn check_chat(events: &[Event], at: &str) -> String {
    let mut said: BTreeMap<u64, String> = BTreeMap::new();
    let mut finished: BTreeMap<u64, bool> = BTreeMap::new();
    let mut calls: BTreeMap<u64, String> = BTreeMap::new();
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(last.data, "[DONE]", "{at}");
    let (mut asked, mut told) = (false, false);
    for chunk in chunks {
        let value = json(chunk, at);
        asked |= value.get("usage").is_some_and(Value::is_null);
        told |= value.get("usage").is_some_and(Value::is_object);
        let choices = value["choices"].as_array().unwrap_or_else(|| panic!("{at}: {value}"));
        // Whoever asked for the cost knows that its chunk has no choices.
        assert!(!choices.is_empty() || asked, "{at}: a client takes the first choice");
        for choice in choices {
            let index = choice["index"].as_u64().unwrap_or_else(|| panic!("{at}: {value}"));
            let delta = choice["delta"].as_object().unwrap_or_else(|| panic!("{at}: {value}"));
            if let Some(text) = delta.get("content").and_then(Value::as_str) {
                *said.entry(index).or_default() += text;
            }
            for call in delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
                let arguments = call["function"]["arguments"].as_str();
                *calls.entry(call["index"].as_u64().unwrap()).or_default() +=
                    arguments.unwrap_or_else(|| panic!("{at}: {call}"));
            }
            *finished.entry(index).or_default() |= choice["finish_reason"].is_string();
        }
    }
    assert!(!finished.is_empty() && finished.values().all(|finished| *finished), "{at}");
    assert_eq!(asked, told, "{at}: the cost is told to those who asked, and to no others");
    calls.values().for_each(|arguments| tool_takes_no_half(arguments, at));
    said.into_values().collect()
}

/// The SDK's own accumulation begins with `response.created` and takes its places from `output_index`.
fn check_responses(events: &[Event], at: &str) -> String {
    let mut said = String::new();
    let mut number = 0;
    let mut ended = false;
    for (place, event) in events.iter().enumerate() {
        let value = json(event, at);
        let kind = value["type"].as_str().unwrap_or_else(|| panic!("{at}: {value}"));
        if kind == "ping" {
            continue;
        }
        assert!(!ended, "{at}: behind the end");
        assert!(place > 0 || kind == "response.created" || events[0].name == "ping", "{at}");
        let own = value["sequence_number"].as_u64().unwrap_or_else(|| panic!("{at}: {value}"));
        assert!(own >= number, "{at}: {own} after {number}");
        number = own + 1;
        match kind {
            "response.output_text.delta" => said += value["delta"].as_str().unwrap(),
            "response.completed" | "response.incomplete" | "response.failed" => {
                ended = true;
                assert!(value["response"]["id"].is_string(), "{at}");
                if value["response"]["error"]["code"] == "insufficient_quota" {
                    assert_eq!(value["response"]["error"]["message"], NOTICE, "{at}");
                }
            }
            _ => {}
        }
    }
    assert!(ended, "{at}");
    said
}

fn check_gemini<'a>(chunks: impl Iterator<Item = &'a Value>, at: &str) -> String {
    let (mut said, mut finished) = (String::new(), false);
    for chunk in chunks {
        for candidate in chunk["candidates"].as_array().into_iter().flatten() {
            for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
                said += part["text"].as_str().unwrap_or_default();
            }
            finished |= candidate["finishReason"].is_string();
        }
    }
    assert!(finished, "{at}");
    said
}

fn check(golden: &Golden, events: &[Event], at: &str) -> String {
    match golden.format {
        WireFormat::AnthropicMessages => check_anthropic(events, at),
        WireFormat::OpenAiChat => check_chat(events, at),
        WireFormat::OpenAiResponses => check_responses(events, at),
        WireFormat::Gemini => {
            let chunks: Vec<Value> = events.iter().map(|event| json(event, at)).collect();
            check_gemini(chunks.iter(), at)
        }
    }
}

#[test]
fn a_stream_cut_at_any_octet_is_ended_in_its_protocol_and_says_why() {
    for golden in golden::streams() {
        // Every octet with the line endings that providers use, every seventh with the others.
        for (end, step) in [("\n", 1), ("\r\n", 7), ("\r", 7)] {
            let text = golden.text.replace("\r\n", "\n").replace('\n', end);
            let mut follower = Follower::new(golden.format, golden.shape).unwrap();
            for cut in 0..=text.len() {
                let sent = &text.as_bytes()[..cut];
                follower.feed(&sent[cut.saturating_sub(1)..]);
                if cut % step != 0 {
                    continue;
                }
                let at = format!("{} at {cut} with {end:?}", golden.name);
                let stream = [sent, &follower.close(NOTICE)].concat();
                let said = check(&golden, &events(&stream, &at), &at);
                assert!(said.contains(NOTICE) || follower.has_ended() || finished(&golden, sent), "{at}: {said}");
            }
        }
    }
}

/// The model had said its last word when it was cut: nothing but the end itself was missing.
fn finished(golden: &Golden, sent: &[u8]) -> bool {
    let text = String::from_utf8_lossy(sent);
    match golden.format {
        WireFormat::AnthropicMessages => text.contains("\"stop_reason\":\"") || text.contains("event: error"),
        WireFormat::OpenAiChat => {
            text.matches("\"finish_reason\":\"").count() >= if golden.name.contains("two") { 2 } else { 1 }
        }
        WireFormat::OpenAiResponses => {
            ["completed", "incomplete", "failed"].iter().any(|kind| text.contains(&format!("\"response.{kind}\"")))
        }
        WireFormat::Gemini => text.contains("finishReason"),
    }
}

#[test]
fn geminis_list_is_closed_as_a_list_from_any_octet() {
    let golden = ALL.iter().find(|golden| golden.shape == Shape::List).unwrap();
    for cut in 0..=golden.text.len() {
        let at = format!("{} at {cut}", golden.name);
        let stream = closed(golden, &golden.text.as_bytes()[..cut]);
        let chunks: Vec<Value> = serde_json::from_slice(&stream)
            .unwrap_or_else(|error| panic!("{at}: {error}: {}", String::from_utf8_lossy(&stream)));
        let said = check_gemini(chunks.iter(), &at);
        assert!(said.contains(NOTICE) || golden.text[..cut].contains("finishReason"), "{at}");
    }
}

#[test]
fn a_whole_body_cannot_be_closed() {
    for format in
        [WireFormat::AnthropicMessages, WireFormat::OpenAiChat, WireFormat::OpenAiResponses, WireFormat::Gemini]
    {
        assert!(Follower::new(format, Shape::Whole).is_none());
    }
}

#[test]
fn an_ended_stream_is_left_alone() {
    for golden in golden::streams() {
        let mut follower = Follower::new(golden.format, golden.shape).unwrap();
        follower.feed(golden.text.as_bytes());
        assert!(follower.has_ended() && follower.close(NOTICE).is_empty(), "{}", golden.name);
    }
}

#[test]
fn what_is_known_of_the_cost_stands_in_the_end() {
    let cost = Usage { input: 90, cache_write: 0, cache_read: 10, output: 33 };
    for golden in golden::streams().filter(|golden| {
        ["anthropic/tools.sse", "chat/text.sse", "responses/text.sse", "gemini/text.sse"].contains(&golden.name)
    }) {
        let mut follower = Follower::new(golden.format, golden.shape).unwrap();
        let first = golden.text.find("\n\n").or(golden.text.find("\r\n\r\n")).unwrap() + 2;
        let sent = &golden.text.as_bytes()[..if golden.format == WireFormat::Gemini { 0 } else { first }];
        follower.feed(sent);
        follower.costs(cost);
        let mut meter = Meter::new(golden.format, golden.shape);
        meter.feed(sent);
        meter.feed(&follower.close(NOTICE));
        let reading = meter.reading();
        assert_eq!((reading.reported, reading.usage.output), (Reported::Complete, 33), "{}", golden.name);
    }
}

#[test]
fn a_response_on_a_socket_ends_by_messages() {
    let golden = ALL.iter().find(|golden| golden.shape == Shape::Messages).unwrap();
    let lines: Vec<&str> = golden.text.lines().collect();
    for sent in 0..lines.len() {
        let mut follower = Follower::new(golden.format, golden.shape).unwrap();
        lines[..sent].iter().for_each(|line| follower.message(line.as_bytes()));
        let closing = follower.closing_messages(NOTICE);
        let all = lines[..sent].iter().map(|line| (*line).to_owned()).chain(closing);
        let events: Vec<Event> = all.map(|data| Event::new("", data)).collect();
        assert!(check_responses(&events, &format!("after {sent}")).contains(NOTICE));
    }
}
