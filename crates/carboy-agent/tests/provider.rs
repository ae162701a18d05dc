//! A model at a provider: what is asked again, after how long, and what each failure is called. The way out is a script
//! here, time is tokio's and stands still between the waits; the last tests speak over real sockets.

// Without `#[cfg(test)]` clippy does not see that the helpers here are of tests.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carboy_agent::{Model, ModelError, ProviderModel, Terms};
use carboy_core::chat::{ChatFormat, ChatLimits, ModelChoice};
use carboy_core::host::Host;
use carboy_core::ids::MeterName;
use carboy_core::ports::{Later, Outbound, OutboundAnswer, OutboundBody, OutboundError, OutboundRequest};
use carboy_core::verdict::Reason;
use carboy_sim::{Config, FaultStatus, FaultWhy, Faults, Reply, Script, Simulator};
use carboy_wire::chat::{Block, Completion, Delta, Message, Prompt, Stopped, ToolSchema};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::Instant;

const HELLO: &str = concat!(
    "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello.\"}}\n\n",
    "data: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n",
    "data: {\"type\":\"message_stop\"}\n\n",
);
const STARTED: &str = "data: {\"type\":\"message_start\",\"message\":{}}\n\n";
const OVERLOADED: &str = "data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";

/// What comes of a body next.
enum Piece {
    Bytes(&'static str),
    Fails(OutboundError),
    Silence,
}

/// One attempt as it goes.
enum Turn {
    Answer { status: u16, headers: Vec<(&'static str, &'static str)>, refused: Option<Reason>, pieces: Vec<Piece> },
    Fails(OutboundError),
    Silence,
}

fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> Turn {
    Turn::Answer { status, headers: headers.to_vec(), refused: None, pieces: vec![Piece::Bytes(body)] }
}

fn stream(pieces: Vec<Piece>) -> Turn {
    Turn::Answer { status: 200, headers: vec![("content-type", "text/event-stream")], refused: None, pieces }
}

fn refused(reason: Reason, headers: &[(&'static str, &'static str)]) -> Turn {
    Turn::Answer { status: reason.http_status(), headers: headers.to_vec(), refused: Some(reason), pieces: vec![] }
}

/// A way out that answers by its script, and keeps what was sent and when.
struct Scripted {
    turns: Mutex<VecDeque<Turn>>,
    sent: Mutex<Vec<(Instant, OutboundRequest)>>,
}

struct Body(VecDeque<Piece>);

impl OutboundBody for Body {
    fn next(&mut self) -> Later<'_, Option<Result<Vec<u8>, OutboundError>>> {
        let piece = self.0.pop_front();
        Box::pin(async move {
            match piece? {
                Piece::Bytes(text) => Some(Ok(text.as_bytes().to_vec())),
                Piece::Fails(error) => Some(Err(error)),
                Piece::Silence => std::future::pending().await,
            }
        })
    }
}

impl Outbound for Scripted {
    fn send(&self, request: OutboundRequest) -> Later<'_, Result<OutboundAnswer, OutboundError>> {
        self.sent.lock().unwrap().push((Instant::now(), request));
        let turn = self.turns.lock().unwrap().pop_front().expect("an attempt that the script does not have");
        Box::pin(async move {
            match turn {
                Turn::Answer { status, headers, refused, pieces } => Ok(OutboundAnswer {
                    status,
                    headers: headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
                    refused,
                    body: Box::new(Body(pieces.into())),
                }),
                Turn::Fails(error) => Err(error),
                Turn::Silence => std::future::pending().await,
            }
        })
    }
}

fn choice(format: ChatFormat, host: &str, port: u16) -> ModelChoice {
    let (path, meter) = match format {
        ChatFormat::Anthropic => ("/v1/messages", "anthropic"),
        ChatFormat::OpenAi => ("/v1/chat/completions", "openai"),
    };
    ModelChoice {
        format,
        host: Host::parse(host).unwrap(),
        port,
        path: path.into(),
        model: "m".into(),
        meter: MeterName::parse(meter).unwrap(),
        token_env: None,
        output_tokens_max: 100,
    }
}

/// What came of asking.
struct Asked {
    result: Result<Completion, ModelError>,
    heard: Vec<Delta>,
    /// When each attempt was sent, from the first.
    at: Vec<Duration>,
    requests: Vec<OutboundRequest>,
    took: Duration,
}

async fn ask_with(terms: Terms, turns: Vec<Turn>) -> Asked {
    let outbound = Arc::new(Scripted { turns: Mutex::new(turns.into()), sent: Mutex::default() });
    let model = ProviderModel::new(outbound.clone(), choice(ChatFormat::Anthropic, "api.anthropic.com", 443), terms);
    let start = Instant::now();
    let (result, heard) = complete(&model, &[]).await;
    let sent = std::mem::take(&mut *outbound.sent.lock().unwrap());
    let (at, requests) = sent.into_iter().map(|(at, request)| (at - start, request)).unzip();
    assert!(outbound.turns.lock().unwrap().is_empty(), "an attempt was not made");
    Asked { result, heard, at, requests, took: start.elapsed() }
}

async fn complete(model: &ProviderModel, tools: &[ToolSchema]) -> (Result<Completion, ModelError>, Vec<Delta>) {
    let messages = [Message::user("hi")];
    let prompt = Prompt {
        model: "m",
        system: "You are a clerk.",
        reminders: &["Remember."],
        tools,
        messages: &messages,
        output_tokens_max: 100,
        conversation: None,
    };
    let mut heard = Vec::new();
    let result = model.complete(&prompt, &mut |delta| heard.push(delta)).await;
    (result, heard)
}

async fn ask(turns: Vec<Turn>) -> Asked {
    ask_with(Terms::of(&ChatLimits::default()), turns).await
}

fn hello() -> Completion {
    Completion { blocks: vec![Block::Text { text: "Hello.".into() }], stopped: Stopped::EndOfTurn }
}

fn broke_off() -> OutboundError {
    OutboundError::BrokeOff("reset".into())
}

#[tokio::test(start_paused = true)]
async fn g36_g49_a_request_says_its_format_and_carries_no_credential() {
    let asked = ask(vec![answer(200, &[], HELLO)]).await;
    assert_eq!(asked.result, Ok(hello()));
    assert_eq!(asked.heard, [Delta::Text("Hello.".into())]);
    let request = &asked.requests[0];
    assert_eq!((request.method, request.port, &request.path[..]), ("POST", 443, "/v1/messages"));
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["content-type", "accept", "accept-encoding", "anthropic-version"]);
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!((&body["stream"], &body["max_tokens"]), (&json!(true), &json!(100)));
}

#[tokio::test(start_paused = true)]
async fn g49_what_may_pass_is_asked_again_with_waits_that_grow() {
    for failing in [
        || answer(500, &[], "{}"),
        || answer(529, &[], "{\"error\":{\"type\":\"overloaded_error\"}}"),
        || answer(503, &[], "busy"),
        || answer(408, &[], ""),
        || answer(429, &[], "{\"error\":{\"type\":\"rate_limit_error\"}}"),
        || Turn::Fails(OutboundError::NoAnswer("refused".into())),
        || refused(Reason::UpstreamUnreachable, &[]),
        || refused(Reason::BudgetHeld, &[]),
        || stream(vec![Piece::Bytes(STARTED), Piece::Fails(broke_off())]),
        || stream(vec![Piece::Bytes(STARTED)]),
        || stream(vec![Piece::Bytes(STARTED), Piece::Bytes(OVERLOADED)]),
        || stream(vec![Piece::Fails(OutboundError::Refused(Reason::UpstreamFailed))]),
    ] {
        let asked = ask(vec![failing(), failing(), answer(200, &[], HELLO)]).await;
        assert_eq!(asked.result, Ok(hello()));
        assert_eq!(asked.at.len(), 3);
        // Full jitter: anything up to one second, then anything up to two.
        assert!(asked.at[1] <= Duration::from_millis(1_001), "{:?}", asked.at);
        assert!(asked.at[2] - asked.at[1] <= Duration::from_millis(2_001), "{:?}", asked.at);
        assert_eq!(asked.requests[0], asked.requests[2]);
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_and_the_last_failure_is_told() {
    let unreachable = |failure: &ModelError| matches!(failure, ModelError::Unreachable(_));
    let failures: [(fn() -> Turn, ModelError); 3] = [
        (|| answer(500, &[], ""), ModelError::Status { status: 500 }),
        (|| answer(529, &[], ""), ModelError::Status { status: 529 }),
        (
            || answer(429, &[("retry-after", "2")], ""),
            ModelError::RateLimited { retry_after: Some(Duration::from_secs(2)) },
        ),
    ];
    for (failing, want) in failures {
        assert_eq!(ask(vec![failing(), failing(), failing()]).await.result, Err(want));
    }
    let failing = || Turn::Fails(OutboundError::NoAnswer("x".into()));
    assert!(ask(vec![failing(), failing(), failing()]).await.result.is_err_and(|error| unreachable(&error)));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_in_seconds_and_as_a_date() {
    let date = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
    let by_date = ("retry-after", "Wed, 21 Oct 2026 07:28:05 GMT");
    for headers in [&[("retry-after", "5")][..], &[by_date, date], &[("retry-after-ms", "5000")]] {
        let asked = ask(vec![answer(429, headers, ""), answer(200, &[], HELLO)]).await;
        assert_eq!(asked.result, Ok(hello()));
        let waited = asked.at[1];
        assert!(waited >= Duration::from_secs(5) && waited <= Duration::from_millis(6_001), "{waited:?}");
    }
    // More than anybody waits for: the person is told, at once.
    let asked = ask(vec![answer(429, &[("retry-after", "21")], "")]).await;
    assert_eq!(asked.result, Err(ModelError::RateLimited { retry_after: Some(Duration::from_secs(21)) }));
    assert_eq!(asked.took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn u2_what_money_answers_is_never_asked_again() {
    let quota = "{\"error\":{\"type\":\"insufficient_quota\",\"code\":\"insufficient_quota\"}}";
    let limit = "{\"error\":{\"type\":\"rate_limit_error\",\"error_code\":\"enforced_spend_limit_reached\"}}";
    let spent = "data: {\"type\":\"error\",\"error\":{\"type\":\"billing_error\"}}\n\n";
    let later = [("retry-after", "1")];
    for (turn, want) in [
        (answer(402, &later, ""), ModelError::Status { status: 402 }),
        (answer(429, &later, quota), ModelError::Status { status: 429 }),
        (answer(429, &later, limit), ModelError::Status { status: 429 }),
        (stream(vec![Piece::Bytes(spent)]), ModelError::Status { status: 402 }),
        (refused(Reason::BudgetExhausted, &later), ModelError::Refused(Reason::BudgetExhausted)),
        (refused(Reason::CutOff, &later), ModelError::Refused(Reason::CutOff)),
        (Turn::Fails(OutboundError::Refused(Reason::CutOff)), ModelError::Refused(Reason::CutOff)),
        (
            stream(vec![Piece::Bytes(STARTED), Piece::Fails(OutboundError::Refused(Reason::BudgetExhausted))]),
            ModelError::Refused(Reason::BudgetExhausted),
        ),
    ] {
        let asked = ask(vec![turn]).await;
        assert_eq!((asked.result, asked.took), (Err(want), Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn g49_every_failure_has_a_name_of_its_own_and_only_passing_ones_are_tried_again() {
    for (turn, want) in [
        (answer(400, &[], "{}"), ModelError::Status { status: 400 }),
        (answer(401, &[], "{}"), ModelError::Status { status: 401 }),
        (answer(404, &[], "{}"), ModelError::Status { status: 404 }),
        (answer(302, &[("location", "/")], ""), ModelError::Status { status: 302 }),
        (answer(500, &[("x-should-retry", "false")], ""), ModelError::Status { status: 500 }),
        (refused(Reason::HostNotAllowed, &[]), ModelError::Refused(Reason::HostNotAllowed)),
        (refused(Reason::SecretMissing, &[]), ModelError::Refused(Reason::SecretMissing)),
        (refused(Reason::Stopping, &[]), ModelError::Refused(Reason::Stopping)),
    ] {
        assert_eq!(ask(vec![turn]).await.result, Err(want));
    }
    for turn in [
        answer(200, &[], "data: {\n\n"),
        answer(200, &[], "{\"choices\": 1}"),
        answer(200, &[("content-type", "text/html")], "<html>"),
    ] {
        assert!(matches!(ask(vec![turn]).await.result, Err(ModelError::Malformed(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_again_once_a_word_was_heard() {
    let word = &HELLO[..HELLO.find("data: {\"type\":\"content_block_stop\"").unwrap()];
    for end in [Piece::Fails(broke_off()), Piece::Bytes(OVERLOADED), Piece::Silence] {
        let asked = ask(vec![stream(vec![Piece::Bytes(word), end])]).await;
        assert!(asked.result.is_err());
        assert_eq!((asked.heard, asked.at.len()), (vec![Delta::Text("Hello.".into())], 1));
    }
    let named = "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"t\"}}\n\n";
    let asked = ask(vec![stream(vec![Piece::Bytes(named), Piece::Fails(broke_off())])]).await;
    assert_eq!((asked.heard, asked.at.len()), (vec![Delta::ToolNamed("t".into())], 1));
}

#[tokio::test(start_paused = true)]
async fn g36_silence_ends_an_attempt_and_all_of_it_has_one_deadline() {
    let terms = Terms {
        silence: Duration::from_secs(30),
        whole: Duration::from_secs(90),
        attempts_max: 100,
        wait_first: Duration::from_secs(1),
        wait_max: Duration::from_secs(20),
    };
    // Two attempts are silent for as long as they may be, and the third when all is over.
    let asked = ask_with(terms.clone(), vec![Turn::Silence, stream(vec![Piece::Silence]), Turn::Silence]).await;
    assert!(matches!(asked.result, Err(ModelError::Unreachable(_))));
    assert!(asked.took <= Duration::from_millis(90_001), "{:?}", asked.took);
    // A wait that would go beyond the end is not begun.
    let brief = Terms { whole: Duration::from_secs(4), ..terms };
    let asked = ask_with(brief, vec![answer(429, &[("retry-after", "5")], "")]).await;
    assert_eq!(asked.result, Err(ModelError::RateLimited { retry_after: Some(Duration::from_secs(5)) }));
    assert_eq!(asked.took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stays_open_behind_the_end_holds_nobody_up() {
    let asked = ask(vec![stream(vec![Piece::Bytes(HELLO), Piece::Silence])]).await;
    assert_eq!(asked.result, Ok(hello()));
    assert_eq!(asked.took, Duration::from_secs(1));
}

/// A way out to one address, which sets the key as a gateway does.
struct Plain {
    to: SocketAddr,
    credential: (&'static str, &'static str),
}

struct Arriving(hyper::body::Incoming);

impl OutboundBody for Arriving {
    fn next(&mut self) -> Later<'_, Option<Result<Vec<u8>, OutboundError>>> {
        Box::pin(async move {
            match self.0.frame().await? {
                Ok(frame) => Some(Ok(frame.into_data().unwrap_or_default().to_vec())),
                Err(error) => Some(Err(OutboundError::BrokeOff(error.to_string()))),
            }
        })
    }
}

impl Outbound for Plain {
    fn send(&self, request: OutboundRequest) -> Later<'_, Result<OutboundAnswer, OutboundError>> {
        Box::pin(async move {
            let no = |error: &dyn std::fmt::Display| OutboundError::NoAnswer(error.to_string());
            let socket = tokio::net::TcpStream::connect(self.to).await.map_err(|error| no(&error))?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(|error| no(&error))?;
            tokio::spawn(connection);
            let mut head = hyper::Request::builder().method(request.method).uri(request.path).header("host", "model");
            for (name, value) in &request.headers {
                head = head.header(name, value);
            }
            head = head.header(self.credential.0, self.credential.1);
            let body = Full::new(Bytes::from(request.body));
            let response = sender.send_request(head.body(body).unwrap()).await.map_err(|error| no(&error))?;
            let (head, body) = response.into_parts();
            let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
            Ok(OutboundAnswer {
                status: head.status.as_u16(),
                headers: headers.collect(),
                refused: None,
                body: Box::new(Arriving(body)),
            })
        })
    }
}

const ANTHROPIC: (&str, &str) = ("x-api-key", "sk-ant-sim-real-key");
const OPENAI: (&str, &str) = ("authorization", "Bearer sk-sim-real-key");

#[tokio::test]
async fn both_formats_speak_with_a_provider_over_a_real_socket() {
    let call = Reply { text: "Looking.".into(), ..Reply::tool("look", json!({"city": "Żory", "n": [1, 2]})) };
    let sim = Simulator::start(Config { script: Script::default().on("hi", call), ..Config::default() }).await.unwrap();
    let input_schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tools = [ToolSchema { name: "look".into(), description: "Looks.".into(), input_schema }];
    for (format, credential) in [(ChatFormat::Anthropic, ANTHROPIC), (ChatFormat::OpenAi, OPENAI)] {
        let outbound = Arc::new(Plain { to: sim.addr, credential });
        let choice = choice(format, "127.0.0.1", sim.addr.port());
        let model = ProviderModel::new(outbound, choice, Terms::of(&ChatLimits::default()));
        let (result, heard) = complete(&model, &tools).await;
        let completion = result.unwrap();
        assert_eq!(completion.stopped, Stopped::ToolUse);
        assert_eq!(completion.blocks[0], Block::Text { text: "Looking.".into() });
        let Block::ToolUse { name, input, .. } = &completion.blocks[1] else { panic!("{completion:?}") };
        assert_eq!((&name[..], input), ("look", &json!({"city": "Żory", "n": [1, 2]})));
        assert_eq!(heard, [Delta::Text("Looking.".into()), Delta::ToolNamed("look".into())]);
    }
    assert_eq!(sim.bill().requests, 2);
    assert_eq!(sim.bill().interrupted, 0);
    sim.stop().await;
}

#[tokio::test]
async fn u2_failures_of_a_provider_over_a_real_socket() {
    let terms = Terms { wait_first: Duration::from_millis(2), ..Terms::of(&ChatLimits::default()) };
    let status = |status, why| FaultStatus { status, retry_after_s: None, why };
    for (faults, want, attempts) in [
        (
            Faults { status: Some(status(529, FaultWhy::Failure)), ..Faults::default() },
            ModelError::Status { status: 529 },
            3,
        ),
        (
            Faults { status: Some(status(429, FaultWhy::SpendLimit)), ..Faults::default() },
            ModelError::Status { status: 429 },
            1,
        ),
    ] {
        for (format, credential) in [(ChatFormat::Anthropic, ANTHROPIC), (ChatFormat::OpenAi, OPENAI)] {
            let sim = Simulator::start(Config { faults: faults.clone(), ..Config::default() }).await.unwrap();
            let outbound = Arc::new(Plain { to: sim.addr, credential });
            let choice = choice(format, "127.0.0.1", sim.addr.port());
            let model = ProviderModel::new(outbound, choice, terms.clone());
            assert_eq!(complete(&model, &[]).await.0, Err(want.clone()));
            assert_eq!(sim.requests(), attempts);
            sim.stop().await;
        }
    }
}
