//! The provider's own bill: random usages as every endpoint tells them, interruptions, accounts, WebSockets.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod client;

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carboy_sim::{
    Account, Bill, Billed, Config, Customer, InputTokens, RandomUsage, Running, Shown, Simulator, Thinking, UsageMode,
    WebSockets,
};
use client::{ANTHROPIC, OPENAI, post};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

const GEMINI: [(&str, &str); 1] = [("x-goog-api-key", "AIza-sim-real-key")];

fn random(seed: u64, shown: Shown) -> Config {
    let usage = UsageMode::Random(RandomUsage { shown: vec![shown], ..RandomUsage::seeded(seed) });
    Config { usage, websockets: WebSockets::Served, ..Config::default() }
}

async fn sim(seed: u64, shown: Shown) -> Running {
    Simulator::start(random(seed, shown)).await.unwrap()
}

/// Waits for what the provider notices in its own time.
async fn until(what: &str, happened: impl Fn() -> bool) {
    for _ in 0..1000 {
        if happened() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}

fn events(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The four kinds, as an SDK's reader would add them up, in each format.
mod told {
    use super::*;

    fn number(value: &Value, path: &str) -> u64 {
        value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
    }

    /// The last figure that any event tells; several may, and the last counts.
    fn last(events: &[Value], path: &str) -> u64 {
        events.iter().rev().find_map(|event| event.pointer(path)?.as_u64()).unwrap_or(0)
    }

    pub fn anthropic(events: &[Value]) -> Bill {
        let either = |name: &str| {
            let end = last(events, &format!("/usage/{name}"));
            if end > 0 { end } else { last(events, &format!("/message/usage/{name}")) }
        };
        let mut bill = Bill {
            input: either("input_tokens"),
            cache_write: either("cache_creation_input_tokens"),
            cache_read: either("cache_read_input_tokens"),
            output: last(events, "/usage/output_tokens"),
            ..Bill::default()
        };
        for event in events {
            for iteration in event.pointer("/usage/iterations").and_then(Value::as_array).into_iter().flatten() {
                if iteration["type"] == "compaction" {
                    bill.input += number(iteration, "/input_tokens");
                    bill.output += number(iteration, "/output_tokens");
                }
            }
        }
        bill
    }

    pub fn chat(events: &[Value]) -> Bill {
        of(events, "/usage/prompt_tokens", "/usage/prompt_tokens_details/cached_tokens", &["/usage/completion_tokens"])
    }

    pub fn responses(events: &[Value], at: &str) -> Bill {
        of(
            events,
            &format!("{at}/usage/input_tokens"),
            &format!("{at}/usage/input_tokens_details/cached_tokens"),
            &[&format!("{at}/usage/output_tokens")],
        )
    }

    pub fn gemini(events: &[Value]) -> Bill {
        let at = "/usageMetadata";
        of(
            events,
            &format!("{at}/promptTokenCount"),
            &format!("{at}/cachedContentTokenCount"),
            &[&format!("{at}/candidatesTokenCount"), &format!("{at}/thoughtsTokenCount")],
        )
    }

    fn of(events: &[Value], read: &str, cached: &str, written: &[&str]) -> Bill {
        let cache_read = last(events, cached);
        let output = written.iter().map(|path| last(events, path)).sum();
        Bill { input: last(events, read) - cache_read, cache_read, output, ..Bill::default() }
    }
}

fn since(after: Bill, before: Bill) -> Bill {
    Bill {
        requests: 0,
        interrupted: after.interrupted - before.interrupted,
        input: after.input - before.input,
        cache_write: after.cache_write - before.cache_write,
        cache_read: after.cache_read - before.cache_read,
        output: after.output - before.output,
    }
}

#[tokio::test]
async fn every_format_tells_what_it_bills_and_never_writes_more_than_the_cap_it_received() {
    for shown in [Shown::AtEnd, Shown::ZeroThenReal, Shown::Repeated] {
        let sim = sim(11, shown).await;
        for round in 0..12_u64 {
            let cap = 20 + round * 17;
            let stream = round % 2 == 0;
            let words = "tell me about it ".repeat(1 + round as usize);
            let said = json!([{"role": "user", "content": words}]);
            let marked = json!([{"role": "user", "content": [{"type": "text", "text": words, "cache_control": {"type": "ephemeral"}}]}]);
            let compact = json!({"edits": [{"type": "compact_20260112"}]});
            let contents = json!([{"role": "user", "parts": [{"text": words}]}]);
            let gemini = if stream {
                "/v1beta/models/g:streamGenerateContent?alt=sse"
            } else {
                "/v1beta/models/g:generateContent"
            };
            let array = "/v1beta/models/g:streamGenerateContent";
            let own = json!({"contents": contents, "generationConfig": {"maxOutputTokens": cap, "candidateCount": 2}});
            type Told = fn(&[Value]) -> Bill;
            type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Value, u64, Told);
            let cases: [Case<'_>; 6] = [
                (
                    "/v1/messages",
                    &ANTHROPIC,
                    json!({"model": "m", "max_tokens": cap, "stream": stream, "messages": marked}),
                    1,
                    told::anthropic,
                ),
                (
                    "/v1/messages",
                    &ANTHROPIC,
                    json!({"model": "m", "max_tokens": cap, "stream": stream, "messages": said, "context_management": compact}),
                    1,
                    told::anthropic,
                ),
                (
                    "/v1/chat/completions",
                    &OPENAI,
                    json!({"model": "m", "max_completion_tokens": cap, "n": 2, "stream": stream, "stream_options": {"include_usage": true}, "messages": said}),
                    2,
                    told::chat,
                ),
                (
                    "/v1/responses",
                    &OPENAI,
                    json!({"model": "m", "max_output_tokens": cap, "stream": stream, "input": words}),
                    1,
                    if stream { |e| told::responses(e, "/response") } else { |e| told::responses(e, "") },
                ),
                (gemini, &GEMINI, own.clone(), 2, told::gemini),
                (array, &GEMINI, own, 2, told::gemini),
            ];
            for (path, headers, body, answers, told) in cases {
                let before = sim.bill();
                let got = post(sim.addr, path, headers, body.to_string()).await;
                assert_eq!(got.status, 200, "{path} {}", got.text());
                let events = match serde_json::from_slice(&got.body) {
                    Ok(Value::Array(chunks)) => chunks,
                    Ok(whole) => vec![whole],
                    Err(_) => events(&got.text()),
                };
                let billed = since(sim.bill(), before);
                assert_eq!(told(&events), billed, "{shown:?} {path} {}", got.text());
                assert!((1..=cap * answers).contains(&billed.output), "{path} {billed:?} of {cap}");
            }
        }
        assert_eq!((sim.bill().requests, sim.bill().interrupted), (72, 0));
    }
}

#[tokio::test]
async fn a_count_endpoint_is_near_and_never_above_what_is_billed() {
    let sim = sim(5, Shown::AtEnd).await;
    let said = json!([{"role": "user", "content": "how much is this? ".repeat(40)}]);
    let ask = json!({"model": "m", "max_tokens": 9, "messages": said, "metadata": {"user_id": "u"}});
    post(sim.addr, "/v1/messages", &ANTHROPIC, ask.to_string()).await;
    let count = json!({"model": "m", "messages": said});
    let counted = post(sim.addr, "/v1/messages/count_tokens", &ANTHROPIC, count.to_string()).await.json();
    let (counted, billed) = (counted["input_tokens"].as_u64().unwrap(), sim.bill());
    let read = billed.input + billed.cache_read + billed.cache_write;
    assert!(counted <= read && read <= counted + 32, "{counted} {billed:?}");
    assert_eq!(billed.requests, 1, "counting is free");
    let body = json!({"model": "m", "input": "hello"}).to_string();
    let counted = post(sim.addr, "/v1/responses/input_tokens", &OPENAI, body.clone()).await.json();
    let before = sim.bill();
    post(sim.addr, "/v1/responses", &OPENAI, body).await;
    let billed = since(sim.bill(), before);
    assert!(counted["input_tokens"].as_u64().unwrap() <= billed.input + billed.cache_read);
}

#[tokio::test]
async fn usage_can_be_missing_everywhere() {
    let sim = sim(3, Shown::Missing).await;
    let said = json!([{"role": "user", "content": "hi"}]);
    for (path, headers, body) in [
        ("/v1/messages", &ANTHROPIC[..], json!({"model": "m", "max_tokens": 50, "stream": true, "messages": said})),
        ("/v1/messages", &ANTHROPIC[..], json!({"model": "m", "max_tokens": 50, "messages": said})),
        (
            "/v1/chat/completions",
            &OPENAI[..],
            json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "messages": said}),
        ),
        ("/v1/responses", &OPENAI[..], json!({"model": "m", "input": "hi", "stream": true})),
        ("/v1beta/models/g:generateContent", &GEMINI[..], json!({"contents": [{"parts": [{"text": "hi"}]}]})),
    ] {
        let got = post(sim.addr, path, headers, body.to_string()).await;
        let tells = |n: &str| got.text().contains(&format!("\"{n}\":{{"));
        assert!(got.status == 200 && !tells("usage") && !tells("usageMetadata"), "{path} {}", got.text());
    }
    assert!(sim.bill().output > 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_billed_what_was_generated_and_a_bounded_overshoot() {
    for overshoot_tokens_max in [0, 40] {
        let steps: Arc<Mutex<Vec<(String, Bill)>>> = Arc::default();
        let told = steps.clone();
        let on_billed = move |billed: &Billed<'_>| {
            told.lock().unwrap().push((billed.tag.to_owned(), billed.of_all));
        };
        let usage = RandomUsage { thinking: Thinking::None, input: InputTokens::Quarter, ..RandomUsage::seeded(1) };
        let config = Config {
            usage: UsageMode::Random(usage),
            overshoot_tokens_max,
            on_billed: Some(Arc::new(on_billed)),
            ..Config::default()
        };
        let sim = Simulator::start(config).await.unwrap();
        let body = r#"{"model":"m","max_tokens":9000,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
        let mut stream = TcpStream::connect(sim.addr).await.unwrap();
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: sk-ant-sim-real-key\r\nanthropic-version: 1\r\n\
             x-sim-fault: pace-ms=20\r\nx-sim-tag: mine\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut got = String::new();
        let mut buffer = [0; 4096];
        while got.matches("text_delta").count() < 3 {
            let count = stream.read(&mut buffer).await.unwrap();
            got.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        drop(stream);
        until("the client's leaving", || sim.bill().interrupted == 1).await;
        let seen: usize = events(&got).iter().filter_map(|e| e.pointer("/delta/text")?.as_str().map(str::len)).sum();
        let (seen, output) = ((seen as u64).div_ceil(4), sim.bill().output);
        // At most one step is on its way when the client leaves.
        let step = seen / 3 + 1;
        assert!((seen..=seen + step + overshoot_tokens_max).contains(&output), "{seen} {output}");
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(sim.bill().output, output, "nothing is generated for somebody who is gone");
        let steps = steps.lock().unwrap();
        assert!(steps.len() > 3 && steps.iter().all(|(tag, _)| tag == "mine"));
        assert!(steps.windows(2).all(|pair| pair[0].1.raw() <= pair[1].1.raw()), "a bill only grows");
        assert_eq!(steps.last().unwrap().1, sim.bill());
    }
}

#[tokio::test]
async fn what_breaks_is_billed_as_far_as_it_was_generated_and_what_is_refused_is_not() {
    let sim = sim(9, Shown::AtEnd).await;
    let body = r#"{"model":"m","max_tokens":400,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let faulty = |fault: &'static str| [ANTHROPIC[0], ANTHROPIC[1], ("x-sim-fault", fault)];
    for (status, fault) in [(429, "spend-limit=1"), (500, "status=500"), (400, "status=400")] {
        assert_eq!(post(sim.addr, "/v1/messages", &faulty(fault), body).await.status, status);
    }
    let limit = post(sim.addr, "/v1/messages", &faulty("spend-limit=1"), body).await.json();
    assert_eq!(limit["error"]["error_code"], "enforced_spend_limit_reached");
    let limit = [OPENAI[0], ("x-sim-fault", "spend-limit=1")];
    let limit = post(sim.addr, "/v1/responses", &limit, r#"{"model":"m","input":"hi"}"#).await.json();
    assert_eq!(limit["error"]["code"], "insufficient_quota");
    let lost = body.replace("\"m\"", "\"no-such-model\"");
    assert_eq!(post(sim.addr, "/v1/messages", &ANTHROPIC, lost).await.status, 404);
    let over = body.replace("\"stream\"", "\"thinking\":{\"budget_tokens\":400},\"stream\"");
    assert_eq!(post(sim.addr, "/v1/messages", &ANTHROPIC, over).await.status, 400);
    assert_eq!(sim.bill(), Bill::default());

    let whole = post(sim.addr, "/v1/messages", &faulty("drop-before-usage=1"), body).await;
    assert!(!whole.whole && whole.text().contains("text_delta") && !whole.text().contains("message_delta"));
    let head = post(sim.addr, "/v1/messages", &faulty("drop-after=0"), body).await;
    assert!(head.status == 200 && !head.whole && head.body.is_empty());
    let before = sim.bill();
    let mut stream = TcpStream::connect(sim.addr).await.unwrap();
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: sk-ant-sim-real-key\r\nanthropic-version: 1\r\n\
         x-sim-fault: drop-before-head=1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut nothing = Vec::new();
    let _ = stream.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty(), "{}", String::from_utf8_lossy(&nothing));
    let billed = since(sim.bill(), before);
    assert!(billed.interrupted == 1 && billed.input > 0 && billed.output == 0, "{billed:?}");
    assert_eq!(sim.bill().interrupted, 3);
}

#[tokio::test]
async fn every_customer_has_a_bill() {
    let customers = ["a", "b"].map(|name| Customer { name: name.into(), key: format!("key-of-{name}") }).to_vec();
    let sim = Simulator::start(Config { customers, ..random(2, Shown::AtEnd) }).await.unwrap();
    let body = json!({"model": "m", "max_tokens": 30, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    for _ in 0..3 {
        let own = [("x-api-key", "key-of-a"), ANTHROPIC[1]];
        assert_eq!(post(sim.addr, "/v1/messages", &own, body.clone()).await.status, 200);
    }
    let own = [("authorization", "Bearer key-of-b")];
    assert_eq!(post(sim.addr, "/v1/chat/completions", &own, body.clone()).await.status, 200);
    assert_eq!(post(sim.addr, "/v1/messages", &ANTHROPIC, body).await.status, 200);
    let bills = sim.bills();
    let of = |customer: &str, meter| bills[&Account { customer: customer.into(), meter }];
    assert_eq!((of("a", "anthropic").requests, of("b", "openai").requests, of("", "anthropic").requests), (3, 1, 1));
    let all: u64 = bills.values().map(Bill::raw).sum();
    assert_eq!(all, sim.bill().raw());
    let weights = Bill { input: 1, cache_write: 4, cache_read: 10, output: 2, ..Bill::default() };
    assert_eq!((weights.raw(), weights.weighted_milli()), (17, 1000 + 5000 + 1000 + 2000));
}

#[tokio::test]
async fn stored_codings_are_what_decoders_of_others_read() {
    let sim = sim(4, Shown::AtEnd).await;
    let body = r#"{"model":"m","max_tokens":3000,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    for coding in ["br", "zstd", "gzip", "deflate"] {
        let got = post(sim.addr, &format!("/v1/messages?encoding={coding}"), &ANTHROPIC, body).await;
        assert_eq!(got.header("content-encoding"), coding);
        let mut text = String::new();
        match coding {
            "br" => brotli_decompressor::Decompressor::new(&got.body[..], 4096).read_to_string(&mut text),
            "zstd" => ruzstd::decoding::StreamingDecoder::new(&got.body[..]).unwrap().read_to_string(&mut text),
            "gzip" => flate2::read::GzDecoder::new(&got.body[..]).read_to_string(&mut text),
            _ => flate2::read::ZlibDecoder::new(&got.body[..]).read_to_string(&mut text),
        }
        .unwrap();
        assert!(text.starts_with("event: message_start") && text.contains("event: message_stop"), "{coding} {text}");
    }
}

async fn websocket(sim: &Running, key: &str) -> Result<WebSocketStream<TcpStream>, String> {
    let mut stream = TcpStream::connect(sim.addr).await.unwrap();
    let head = format!(
        "GET /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    if !head.starts_with("HTTP/1.1 101") {
        return Err(head);
    }
    // The example of RFC 6455 §1.3.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

async fn until_end(socket: &mut WebSocketStream<TcpStream>) -> Vec<Value> {
    let mut events = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let event: Value = serde_json::from_str(&text).unwrap();
        let over = matches!(event["type"].as_str(), Some("response.completed" | "response.incomplete" | "error"));
        events.push(event);
        if over {
            break;
        }
    }
    events
}

#[tokio::test]
async fn a_websocket_answers_each_request_with_the_events_of_a_stream() {
    let sim = sim(8, Shown::AtEnd).await;
    assert!(websocket(&sim, "wrong").await.unwrap_err().starts_with("HTTP/1.1 401"));
    let mut socket = websocket(&sim, "sk-sim-real-key").await.unwrap();
    let mut earlier = Value::Null;
    for round in 0..4 {
        let before = sim.bill();
        let ask = json!({"type": "response.create", "model": "m", "input": "hi", "max_output_tokens": 60, "previous_response_id": earlier});
        socket.send(Message::text(ask.to_string())).await.unwrap();
        let events = until_end(&mut socket).await;
        assert_eq!(events[0]["type"], "response.created");
        let billed = since(sim.bill(), before);
        assert_eq!(told::responses(&events[events.len() - 1..], "/response"), billed);
        assert!(billed.output <= 60 && (round == 0 || billed.input + billed.cache_read > 2), "{billed:?}");
        earlier = events[0]["response"]["id"].clone();
    }
    socket.send(Message::text(r#"{"type":"response.steer"}"#)).await.unwrap();
    assert_eq!(until_end(&mut socket).await[0]["status"], 400);
    let unknown = json!({"type": "response.create", "model": "m", "input": "hi", "previous_response_id": "resp_no"});
    socket.send(Message::text(unknown.to_string())).await.unwrap();
    assert_eq!(until_end(&mut socket).await[0]["status"], 400);
    let before = sim.bill();
    socket.send(Message::text(r#"{"type":"response.create","model":"m","input":"hi"}"#)).await.unwrap();
    drop(socket);
    until("the answer's end", || sim.bill().requests == before.requests + 1).await;
}
