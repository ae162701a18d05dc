//! Answers that say less than they cost, requests that would have them say less, and what is charged for them: a provider, or
//! whoever sits before it, is not believed where what came belies it (C2, C3, B55).

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use carboy_core::budget::{Ending, Usage};
use carboy_core::route::Route;
use carboy_egress::GatewayLimits;
use carboy_sim::{Config, Reply, Script};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use support::ledger::{Call, Memory};
use support::model::{Answered, Model, WAYS, Way, config, route_of, within};
use support::{Bench, Kind, Origin, full, read, recording};

/// Words of an answer, each an event of its own where it streams.
const WORDS: usize = 300;
/// What each request asks for.
const ASKED: u64 = 900;

fn settlements(ledger: &Memory) -> Vec<Ending> {
    let calls = ledger.calls().into_iter();
    calls.filter_map(|call| if let Call::Settle(_, ending) = call { Some(ending) } else { None }).collect()
}

/// All that was held for the only request: what it may read, and what it may write.
fn held(ledger: &Memory) -> u64 {
    let asked = ledger.calls().into_iter().find_map(|call| if let Call::Admit(ask) = call { Some(ask) } else { None });
    asked.map(|ask| ask.input + ask.output * u64::from(ask.answers.max(1))).unwrap()
}

/// What is counted, as each format writes it; `None` leaves it out.
fn usage(way: Way, counts: Option<(u64, u64)>) -> String {
    let Some((read, written)) = counts else { return "{}".to_owned() };
    match way {
        Way::Anthropic | Way::Responses => format!(r#"{{"input_tokens":{read},"output_tokens":{written}}}"#),
        Way::Chat => {
            format!(r#"{{"prompt_tokens":{read},"completion_tokens":{written},"total_tokens":{}}}"#, read + written)
        }
        Way::Gemini => format!(
            r#"{{"promptTokenCount":{read},"candidatesTokenCount":{written},"totalTokenCount":{}}}"#,
            read + written
        ),
    }
}

/// A whole answer of so many words.
fn whole(way: Way, words: usize, counts: Option<(u64, u64)>) -> String {
    let (text, usage) = ("word ".repeat(words), usage(way, counts));
    match way {
        Way::Anthropic => format!(
            r#"{{"type":"message","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","usage":{usage}}}"#
        ),
        Way::Chat => format!(
            r#"{{"object":"chat.completion","choices":[{{"message":{{"content":"{text}"}},"finish_reason":"stop"}}],"usage":{usage}}}"#
        ),
        Way::Responses => format!(
            r#"{{"object":"response","status":"completed","output":[{{"type":"message","content":[{{"type":"output_text","text":"{text}"}}]}}],"usage":{usage}}}"#
        ),
        Way::Gemini => format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}},"finishReason":"STOP"}}],"usageMetadata":{usage}}}"#
        ),
    }
}

/// The same as events, with its end.
fn streamed(way: Way, words: usize, counts: Option<(u64, u64)>) -> String {
    let told = usage(way, counts);
    let (first, piece, last): (String, &str, Vec<String>) = match way {
        Way::Anthropic => (
            format!(
                r#"{{"type":"message_start","message":{{"usage":{}}}}}"#,
                usage(way, counts.map(|(read, _)| (read, 0)))
            ),
            r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"word "}}"#,
            vec![
                format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{told}}}"#),
                r#"{"type":"message_stop"}"#.to_owned(),
            ],
        ),
        Way::Chat => (
            r#"{"choices":[{"delta":{"role":"assistant"}}]}"#.to_owned(),
            r#"{"choices":[{"delta":{"content":"word "}}]}"#,
            vec![format!(r#"{{"choices":[],"usage":{told}}}"#), "[DONE]".to_owned()],
        ),
        Way::Responses => (
            r#"{"type":"response.created","response":{"id":"r"}}"#.to_owned(),
            r#"{"type":"response.output_text.delta","delta":"word "}"#,
            vec![format!(r#"{{"type":"response.completed","response":{{"id":"r","usage":{told}}}}}"#)],
        ),
        Way::Gemini => (
            r#"{"candidates":[{"content":{"parts":[{"text":"word "}]}}]}"#.to_owned(),
            r#"{"candidates":[{"content":{"parts":[{"text":"word "}]}}]}"#,
            vec![format!(r#"{{"candidates":[{{"finishReason":"STOP"}}],"usageMetadata":{told}}}"#)],
        ),
    };
    let events = std::iter::once(first).chain(std::iter::repeat_n(piece.to_owned(), words)).chain(last);
    events.map(|event| format!("data: {event}\n\n")).collect()
}

/// An upstream that answers every request by `status` and `body`.
async fn upstream(ledger: &Arc<Memory>, route: Route, status: u16, kind: &'static str, body: String) -> Bench {
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), move |_| {
        Response::builder().status(status).header("content-type", kind).body(full(body.clone())).unwrap()
    });
    let kind = Kind::Tls(&["http/1.1"]);
    let limits = GatewayLimits::default();
    Bench::governed(ledger.clone(), Default::default(), kind, vec![route], (origin, answer), limits).await
}

/// Asks once and reads to the end; what it was charged by, what of that is in the ledger, and what was held for it.
async fn charged(way: Way, answered: Answered, status: u16, body: String) -> (Ending, u64, u64) {
    let ledger = Memory::unbound();
    let kind = if answered == Answered::Streamed { "text/event-stream" } else { "application/json" };
    let bench = upstream(&ledger, route_of(way), status, kind, body).await;
    let mut client = bench.client(&["http/1.1"]).await;
    let request = way.request(&client, answered, "", way.body(answered, Some(ASKED), "hello"));
    within(async { read(client.start(request).await.unwrap()).await }).await;
    assert_eq!(bench.gateway.settled(support::model::WAIT_MAX).await, 0);
    let endings = settlements(&ledger);
    assert_eq!((endings.len(), ledger.open()), (1, 0), "{way:?} {answered:?}: {endings:?}");
    (endings[0], ledger.total(way.meter()), held(&ledger))
}

fn answer(way: Way, answered: Answered, counts: Option<(u64, u64)>) -> String {
    match answered {
        Answered::Whole => whole(way, WORDS, counts),
        Answered::Streamed => streamed(way, WORDS, counts),
    }
}

#[tokio::test]
async fn c3_b55_an_answer_that_says_less_than_it_wrote_is_charged_whole_and_one_that_says_the_truth_by_that() {
    for way in WAYS {
        for answered in [Answered::Whole, Answered::Streamed] {
            for lie in [Some((0, 0)), None, Some((20, 0)), Some((0, 400)), Some((20, 3))] {
                let (ending, total, held) = charged(way, answered, 200, answer(way, answered, lie)).await;
                assert!(matches!(ending, Ending::Unknown(_)), "{way:?} {answered:?} {lie:?}: {ending:?}");
                assert!(total >= held, "{way:?} {answered:?} {lie:?}: {total} of {held}");
            }
            let (ending, total, _) = charged(way, answered, 200, answer(way, answered, Some((20, 400)))).await;
            assert!(matches!(ending, Ending::Reported(_)), "{way:?} {answered:?}: {ending:?}");
            assert_eq!(total, 420, "{way:?} {answered:?}");
        }
    }
}

#[tokio::test]
async fn c3_a_stream_that_says_fewer_tokens_than_it_had_pieces_is_not_believed() {
    for way in WAYS {
        // Few enough octets for a handful of tokens; but each piece has one at least.
        let (ending, total, held) = charged(way, Answered::Streamed, 200, streamed(way, WORDS, Some((20, 7)))).await;
        assert!(matches!(ending, Ending::Unknown(_)), "{way:?}: {ending:?}");
        assert!(total >= held, "{way:?}: {total} of {held}");
    }
}

#[tokio::test]
async fn b55_an_error_that_carries_an_answer_is_charged_for_it_and_one_that_carries_none_is_not() {
    for way in WAYS {
        for status in [400, 429, 500, 529] {
            // What says what it cost is charged that, whatever its status says.
            let (ending, total, _) = charged(way, Answered::Whole, status, whole(way, WORDS, Some((20, 400)))).await;
            assert!(matches!(ending, Ending::Reported(_)) && total == 420, "{way:?} {status}: {ending:?} {total}");
            // A model's words without a cost, whole or as events.
            for answered in [Answered::Whole, Answered::Streamed] {
                let (ending, total, held) = charged(way, answered, status, answer(way, answered, None)).await;
                assert!(matches!(ending, Ending::Unknown(_)), "{way:?} {status} {answered:?}: {ending:?}");
                assert!(total >= held, "{way:?} {status} {answered:?}: {total} of {held}");
            }
            // Longer than any error, in a form that nobody here knows.
            let odd = format!(r#"{{"said":"{}"}}"#, "x".repeat(70 * 1024));
            let (ending, ..) = charged(way, Answered::Whole, status, odd).await;
            assert!(matches!(ending, Ending::Unknown(_)), "{way:?} {status}: {ending:?}");
            // An error as providers write it.
            let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#.to_owned();
            let (ending, total, _) = charged(way, Answered::Whole, status, error).await;
            assert_eq!((ending, total), (Ending::Reported(Usage::default()), 0), "{way:?} {status}");
        }
    }
}

/// Nothing of it was held or sent.
async fn refused(way: Way, change: impl Fn(http::Request<support::Body>) -> http::Request<support::Body>, query: &str) {
    for answered in [Answered::Whole, Answered::Streamed] {
        let ledger = Memory::unbound();
        let bench = upstream(&ledger, route_of(way), 200, "application/json", whole(way, 1, Some((1, 1)))).await;
        let mut client = bench.client(&["http/1.1"]).await;
        let request = change(way.request(&client, answered, query, way.body(answered, Some(5), "hello")));
        let (line, fields) = (format!("{} {}", request.method(), request.uri()), format!("{:?}", request.headers()));
        let got = within(client.send(request)).await;
        assert_eq!((got.status, got.reason()), (StatusCode::BAD_REQUEST, "unmeterable"), "{line} {fields}");
        assert_eq!((bench.origin.received().len(), ledger.calls().len()), (0, 0), "{line} {fields}");
    }
}

#[tokio::test]
async fn c3_a_request_that_asks_gemini_to_leave_its_usage_out_is_refused_and_never_sent() {
    for query in [
        "fields=candidates",
        "$fields=candidates,usageMetadata.promptTokenCount",
        "%66ields=candidates",
        "%24fields=candidates",
        "FIELDS=candidates",
        "key=x&fields=candidates",
        "fields",
    ] {
        refused(Way::Gemini, |request| request, query).await;
    }
    let masked = |mut request: http::Request<support::Body>| {
        request.headers_mut().insert("x-goog-fieldmask", "candidates".parse().unwrap());
        request
    };
    refused(Way::Gemini, masked, "").await;
    // The others know no such thing, and their requests pass.
    let ledger = Memory::unbound();
    let model = Model::of(Way::Chat, ledger.clone()).await;
    let mut client = model.client().await;
    let body = Way::Chat.body(Answered::Whole, Some(5), "hello");
    let request = Way::Chat.request(&client, Answered::Whole, "fields=choices", body);
    assert_eq!(within(client.send(request)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn c3_fields_in_the_query_of_a_request_without_a_credential_of_its_route_are_refused_and_never_sent() {
    let ledger = Memory::unbound();
    let route = Route { auth: None, ..route_of(Way::Gemini) };
    let bench = upstream(&ledger, route, 200, "application/json", whole(Way::Gemini, 1, Some((1, 1)))).await;
    let mut client = bench.client(&["http/1.1"]).await;
    for (method, path, query) in [
        // Its usage would be left out of the answer.
        (Method::POST, "/v1beta/models/gemini-2.5-pro:generateContent", "$httpHeaders=X-Goog-FieldMask%3Acandidates"),
        (Method::POST, "/v1beta/models/gemini-2.5-pro:generateContent", "a=b&%24HTTPheaders=X-Goog-FieldMask%3Ax"),
        // It would not be the look-up that it seems to be.
        (Method::GET, "/v1beta/cachedContents", "$httpHeaders=X-HTTP-Method-Override%3APOST"),
    ] {
        let body = if method == Method::GET { String::new() } else { Way::Gemini.body(Answered::Whole, Some(5), "hi") };
        let request = client.request(method, &format!("{path}?{query}")).body(full(body)).unwrap();
        let got = within(client.send(request)).await;
        assert_eq!((got.status, got.reason()), (StatusCode::BAD_REQUEST, "unmeterable"), "{query}");
        assert_eq!((bench.origin.received().len(), ledger.calls().len()), (0, 0), "{query}");
    }
}

#[tokio::test]
async fn c2_a_look_up_that_asks_beside_its_line_to_be_a_request_of_a_model_is_refused_and_never_sent() {
    for way in WAYS {
        for name in ["x-http-method-override", "X-HTTP-Method", "x-method-override", "x_http_method_override"] {
            let overridden = |mut request: http::Request<support::Body>| {
                *request.method_mut() = Method::GET;
                let name = http::HeaderName::try_from(name).unwrap();
                request.headers_mut().insert(name, "POST".parse().unwrap());
                request
            };
            refused(way, overridden, "").await;
        }
        for query in ["_method=POST", "$httpMethod=POST", "%5Fmethod=post"] {
            let looked_up = |mut request: http::Request<support::Body>| {
                *request.method_mut() = Method::GET;
                request
            };
            refused(way, looked_up, query).await;
        }
        let moved = |mut request: http::Request<support::Body>| {
            request.headers_mut().insert("x-original-url", way.path(Answered::Whole).parse().unwrap());
            request
        };
        refused(way, moved, "").await;
    }
}

/// `text` as a server reads it that goes by this charset.
fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[tokio::test]
async fn c2_a_charset_makes_no_other_request_of_the_octets_that_were_read() {
    let asked = Way::Chat.body(Answered::Whole, Some(5), "hello");
    // In UTF-7 `+ACI-` is a quote: what is a text to us is another key to who reads it so.
    let utf_7 = asked.replace("hello", "hello+ACI-,+ACI-max+AF8-tokens+ACI-:90000,+ACI-x+ACI-:+ACI-");
    for kind in ["application/json; charset=utf-7", "application/json; charset=UTF-16LE", "text/plain;charset=utf-7"] {
        let ledger = Memory::unbound();
        let model = Model::of(Way::Chat, ledger.clone()).await;
        let mut client = model.client().await;
        let mut request = Way::Chat.request(&client, Answered::Whole, "", utf_7.clone());
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        assert_eq!(within(client.send(request)).await.status, StatusCode::OK, "{kind}");
        let sent = model.provider.received().remove(0);
        assert_eq!(sent.header("content-type"), Some("application/json"), "{kind}");
        assert_eq!(model.last_body()["max_tokens"], 5, "{kind}");
    }
    // What is no JSON in UTF-8 has no bound that anybody here could read.
    for (charset, body) in [("utf-16le", utf_16(&asked)), ("utf-16", [&[0xff, 0xfe][..], &utf_16(&asked)].concat())] {
        let ledger = Memory::unbound();
        let model = Model::of(Way::Chat, ledger.clone()).await;
        let mut client = model.client().await;
        let mut request = Way::Chat.request(&client, Answered::Whole, "", body);
        let kind = format!("application/json; charset={charset}");
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        let got = within(client.send(request)).await;
        assert_eq!((got.status, got.reason()), (StatusCode::BAD_REQUEST, "request_unbounded"), "{charset}");
        assert_eq!((model.provider.requests(), ledger.calls().len()), (0, 0), "{charset}");
    }
}

#[tokio::test]
async fn b55_a_stream_with_a_tool_of_the_providers_that_is_left_is_charged_with_all_that_it_may_have_read() {
    let tool = r#"{"model":"claude-haiku-4-5","max_tokens":900,"stream":true,"tools":[{"type":"web_search_20250305","name":"web_search"}],"messages":[{"role":"user","content":"x"}]}"#;
    let edits = r#"{"model":"claude-sonnet-4-5","max_tokens":900,"stream":true,"context_management":{"edits":[{"type":"compact_20260112"}]},"messages":[{"role":"user","content":"x"}]}"#;
    for (what, body) in [("web search", tool), ("compaction", edits)] {
        let ledger = Memory::unbound();
        let mut slow = Config { script: Script::default().on("", Reply::text("word ".repeat(WORDS))), ..config() };
        slow.faults.pace = std::time::Duration::from_millis(5);
        let model = Model::start(ledger.clone(), route_of(Way::Anthropic), slow, GatewayLimits::default()).await;
        let mut client = model.client().await;
        let mut response =
            within(client.start(Way::Anthropic.request(&client, Answered::Streamed, "", body))).await.unwrap();
        for _ in 0..20 {
            within(response.frame()).await.unwrap().unwrap();
        }
        drop(response);
        model.settled().await;
        let endings = settlements(&ledger);
        assert!(matches!(endings[..], [Ending::Unknown(_)]), "{what}: {endings:?}");
        let (total, held) = (ledger.total("anthropic"), held(&ledger));
        assert!(held > 200_000 && total >= held, "{what}: {total} of {held}");
    }
}

/// So many blanks before `text`, packed: megabytes in a few kilobytes.
fn packed(blanks: usize, text: &str) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let piece = [b' '; 64 * 1024];
    for _ in 0..blanks / piece.len() {
        gzip.write_all(&piece).unwrap();
    }
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

/// An answer that unpacks to this many bytes of blanks before it says what it cost.
const BOMB_BYTES: usize = 256 << 20;

/// Kilobytes that this process has at most had in memory.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// C2, C4: an answer that unpacks a thousandfold costs time and no memory; it is metered like any other, read by its client
/// or not, and whoever asks meanwhile is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_an_answer_that_unpacks_to_hundreds_of_megabytes_is_metered_in_bounded_memory() {
    let told = whole(Way::Chat, 40, Some((20, 60)));
    let bomb = packed(BOMB_BYTES, &told);
    assert!(bomb.len() < BOMB_BYTES / 500, "{}", bomb.len());
    let before = peak_kib();
    for leaves in [false, true] {
        let ledger = Memory::unbound();
        let origin = Arc::new(Origin::default());
        let (sent, small) = (bytes::Bytes::from(bomb.clone()), whole(Way::Chat, 40, Some((20, 60))));
        let answer = recording(origin.clone(), move |got| {
            let answer = Response::builder().header("content-type", "application/json");
            if got.target.ends_with("?small") {
                return answer.body(full(small.clone())).unwrap();
            }
            answer.header("content-encoding", "gzip").body(full(sent.clone())).unwrap()
        });
        let (kind, routes) = (Kind::Tls(&["http/1.1"]), vec![route_of(Way::Chat)]);
        let limits = GatewayLimits::default();
        let bench = Bench::governed(ledger.clone(), Default::default(), kind, routes, (origin, answer), limits).await;
        let ask = |query: &'static str, client: &support::Client| {
            let body = Way::Chat.body(Answered::Whole, Some(ASKED), "hello");
            Way::Chat.request(client, Answered::Whole, query, body)
        };
        let mut client = bench.client(&["http/1.1"]).await;
        let mut request = ask("", &client);
        // Whoever takes this coding is given what is in it.
        request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
        let mut response =
            tokio::time::timeout(std::time::Duration::from_secs(60), client.start(request)).await.unwrap().unwrap();
        // Somebody else asks while it is on its way.
        let mut other = bench.client(&["http/1.1"]).await;
        let request = ask("small", &other);
        assert_eq!(within(other.send(request)).await.status, StatusCode::OK);
        let mut length = 0;
        while let Some(frame) = response.frame().await {
            length += frame.unwrap().into_data().map_or(0, |data| data.len());
            if leaves {
                break;
            }
        }
        drop(response);
        assert_eq!(bench.gateway.settled(std::time::Duration::from_secs(60)).await, 0);
        assert!(leaves || length == BOMB_BYTES + told.len(), "{length}");
        let (endings, total) = (settlements(&ledger), ledger.total("openai"));
        assert_eq!((endings.len(), ledger.open()), (2, 0));
        // The small one, and the bomb: by its word where all of it was read, whole where it was not.
        assert!(if leaves { total >= 80 + 80 } else { total == 160 }, "{leaves}: {total}, {endings:?}");
    }
    let grown = peak_kib() - before;
    assert!(grown < 96 * 1024, "{grown} KiB more than before");
}

/// C2, B21: a metered request is one request, of one length, to one method and path, whatever its head says twice.
#[tokio::test]
async fn c2_b21_a_metered_request_whose_length_or_target_is_said_twice_is_refused_or_made_one() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let cheap = Way::Chat.body(Answered::Whole, Some(5), "hello");
    let dear = cheap.replace(":5,", ":99000,");
    let line = "POST /v1/chat/completions HTTP/1.1\r\nhost: api.example\r\ncontent-type: application/json\r\n";
    let (short, long) = (cheap.len(), dear.len());
    let smuggled = format!("0\r\n\r\n{line}content-length: {long}\r\n\r\n{dear}");
    for (head, body) in [
        (format!("{line}content-length: {short}\r\ncontent-length: {long}\r\n\r\n"), dear.clone()),
        (format!("{line}content-length: {short}, {long}\r\n\r\n"), dear.clone()),
        (format!("{line}content-length: +{short}\r\n\r\n"), cheap.clone()),
        (format!("{line}content-length: {short}\r\ntransfer-encoding: chunked\r\n\r\n"), smuggled.clone()),
        (format!("{line}transfer-encoding: identity, chunked\r\ncontent-length: {short}\r\n\r\n"), smuggled.clone()),
        (format!("{line}transfer-encoding: xchunked\r\ncontent-length: {short}\r\n\r\n"), cheap.clone()),
        (format!("{line}content-length: {short}\r\nhost: other.example\r\n\r\n"), cheap.clone()),
        (
            line.replace("/v1/chat", "http://other.example/v1/chat") + &format!("content-length: {short}\r\n\r\n"),
            cheap.clone(),
        ),
    ] {
        let ledger = Memory::unbound();
        let route = Route { auth: None, ..route_of(Way::Chat) };
        let origin = Arc::new(Origin::default());
        let answer = recording(origin.clone(), |_| {
            let answer = Response::builder().header("content-type", "application/json");
            answer.body(full(whole(Way::Chat, 1, Some((9, 1))))).unwrap()
        });
        let limits = GatewayLimits::default();
        let bench =
            Bench::governed(ledger.clone(), Default::default(), Kind::Plain, vec![route], (origin, answer), limits)
                .await;
        let mut stream = tokio::net::TcpStream::connect(bench.listen(support::HOST, 80).await).await.unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut said = Vec::new();
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), stream.read_to_end(&mut said)).await;
        drop(stream);
        assert_eq!(bench.gateway.settled(support::model::WAIT_MAX).await, 0, "{head}");
        // Nothing reached the upstream that was not held, and nothing of the dear one at all.
        let received = bench.origin.received();
        let held = ledger.calls().iter().filter(|call| matches!(call, Call::Dispatch(_))).count();
        assert_eq!(received.len(), held, "{head}: {}", String::from_utf8_lossy(&said));
        for got in &received {
            assert!(!String::from_utf8_lossy(&got.body).contains("99000"), "{head}");
            assert_eq!(got.headers.get_all("content-length").iter().count(), 1, "{head}");
            assert!(got.headers.get("transfer-encoding").is_none(), "{head}");
        }
        assert!(received.len() <= 1, "{head}: {received:?}");
    }
}

/// C2: in HTTP/2 the target stands in fields of its own, and what they and `content-length` say is held to.
#[tokio::test]
async fn c2_http2_fields_that_contradict_each_other_make_no_second_reading_of_a_metered_request() {
    let body = Way::Chat.body(Answered::Whole, Some(5), "hello");
    let length = body.len();
    for (what, uri, host, said) in [
        ("a length that is too short", "https://api.example/v1/chat/completions", None, Some(length - 10)),
        ("a length that is too long", "https://api.example/v1/chat/completions", None, Some(length + 10)),
        ("another authority", "https://other.example/v1/chat/completions", None, None),
        ("another host beside the authority", "https://api.example/v1/chat/completions", Some("other.example"), None),
        ("another scheme", "http://api.example/v1/chat/completions", None, None),
        ("a path that a server reads otherwise", "https://api.example/v1/models/../chat/completions", None, None),
        ("a path in escapes", "https://api.example/v1/%63hat/completions", None, None),
    ] {
        let ledger = Memory::unbound();
        let origin = Arc::new(Origin::default());
        let answer = recording(origin.clone(), |_| {
            let answer = Response::builder().header("content-type", "application/json");
            answer.body(full(whole(Way::Chat, 1, Some((9, 1))))).unwrap()
        });
        let (kind, routes) = (Kind::Tls(&["h2"]), vec![route_of(Way::Chat)]);
        let limits = GatewayLimits::default();
        let bench = Bench::governed(ledger.clone(), Default::default(), kind, routes, (origin, answer), limits).await;
        let mut client = bench.client(&["h2"]).await;
        assert!(matches!(client, support::Client::H2(_)));
        let mut request =
            http::Request::builder().method(Method::POST).uri(uri).header("content-type", "application/json");
        if let Some(host) = host {
            request = request.header("host", host);
        }
        if let Some(said) = said {
            request = request.header("content-length", said);
        }
        if let Ok(response) = within(client.start(request.body(full(body.clone())).unwrap())).await {
            within(read(response)).await;
        }
        drop(client);
        assert_eq!(bench.gateway.settled(support::model::WAIT_MAX).await, 0, "{what}");
        let received = bench.origin.received();
        let held = ledger.calls().iter().filter(|call| matches!(call, Call::Dispatch(_))).count();
        assert_eq!(received.len(), held, "{what}: what reached the upstream was held");
        for got in &received {
            let sent: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
            assert_eq!(sent["max_tokens"], 5, "{what}");
            assert_eq!(got.headers["content-length"], got.body.len().to_string(), "{what}");
            assert_eq!(got.target, "https://api.example/v1/chat/completions", "{what}");
        }
    }
}
