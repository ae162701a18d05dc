//! WebSockets through the gateway: what passes, what is held and charged, and how each ends (B24, B25).

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use carboy_core::audit::Outcome;
use carboy_core::budget::Overrun;
use carboy_core::host::Host;
use carboy_core::route::{Route, RouteSet};
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_core::verdict::{Denial, Reason};
use carboy_egress::{CertificateAuthority, GatewayLimits};
use carboy_sim::{Config, Reply, Script, WebSockets};
use futures_util::{SinkExt, StreamExt};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use support::ledger::{Call, Memory};
use support::model::{Model, Way, config, route_of, within};
use support::{Bench, HOST, Kind, Origin, SECRET, client_config, detail, full, handler, route};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Stream for S {}

type Socket = WebSocketStream<Box<dyn Stream>>;

fn opening(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\nsec-websocket-extensions: permessage-deflate\r\n{more}\r\n"
    )
}

/// Asks for a WebSocket; gives it, or the head of the refusal.
async fn open(mut stream: Box<dyn Stream>, opening: &str) -> Result<Socket, String> {
    stream.write_all(opening.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    if !head.starts_with("http/1.1 101") {
        return Err(head);
    }
    // The example of RFC 6455, section 1.3: the answer is to the client's own key, and grants no extension.
    assert!(head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

async fn tls(bench: &Bench) -> Box<dyn Stream> {
    let tcp = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&bench.ca_pem, &["http/1.1"])));
    Box::new(connector.connect(HOST.try_into().unwrap(), tcp).await.unwrap())
}

fn sockets(route: Route) -> Route {
    Route { websocket: true, ..route }
}

fn served() -> Config {
    Config { websockets: WebSockets::Served, ..config() }
}

fn endless() -> Config {
    let mut config = Config { script: Script::default().on("", Reply::text("word ".repeat(5_000))), ..served() };
    config.faults.pace = Duration::from_millis(2);
    config
}

/// As long, and as fast as it goes.
fn long() -> Config {
    Config { script: Script::default().on("", Reply::text("word ".repeat(5_000))), ..served() }
}

async fn model(ledger: &Arc<Memory>, config: Config) -> (Model, Socket) {
    let route = sockets(route_of(Way::Responses));
    let model = Model::start(ledger.clone(), route, config, GatewayLimits::default()).await;
    let socket = open(tls(&model.bench).await, &opening("/v1/responses", "")).await.unwrap();
    (model, socket)
}

fn create(output_max: Option<u64>, more: Value) -> Message {
    let mut ask = json!({"type": "response.create", "model": "gpt-4o", "input": "hi"});
    if let Some(max) = output_max {
        ask["max_output_tokens"] = max.into();
    }
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Message::text(ask.to_string())
}

/// The events of one response, with its end.
async fn events(socket: &mut Socket) -> Vec<Value> {
    let mut events = Vec::new();
    while let Some(Ok(message)) = within(socket.next()).await {
        let Message::Text(text) = message else { continue };
        let event: Value = serde_json::from_str(&text).unwrap();
        let kind = event["type"].as_str().unwrap().to_owned();
        events.push(event);
        if ["response.completed", "response.incomplete", "response.failed", "error"].contains(&&kind[..]) {
            break;
        }
    }
    events
}

/// The close that ends it.
async fn close_of(socket: &mut Socket) -> Option<CloseFrame> {
    while let Some(Ok(message)) = within(socket.next()).await {
        if let Message::Close(frame) = message {
            return frame;
        }
    }
    None
}

fn asked(ledger: &Memory) -> Vec<carboy_core::budget::Ask> {
    ledger.calls().into_iter().filter_map(|call| if let Call::Admit(ask) = call { Some(ask) } else { None }).collect()
}

#[tokio::test]
async fn b24_without_the_key_an_opening_is_426_as_ever() {
    let model = Model::start(Memory::unbound(), route_of(Way::Responses), served(), GatewayLimits::default()).await;
    let refused = open(tls(&model.bench).await, &opening("/v1/responses", "")).await.unwrap_err();
    assert!(refused.starts_with("http/1.1 426"), "{refused}");
    assert_eq!(model.provider.requests(), 0);
}

#[tokio::test]
async fn b24_a_broken_opening_and_one_on_another_route_of_the_host_are_refused() {
    let elsewhere = Route { websocket: true, ..route_of(Way::Responses) };
    let model = Model::start(Memory::unbound(), elsewhere, served(), GatewayLimits::default()).await;
    for (from, to) in [
        ("version: 13", "version: 8"),
        (KEY, "c2hvcnQ="),
        ("keep-alive, Upgrade", "keep-alive"),
        ("GET ", "POST "),
        ("upgrade: websocket\r\n", "upgrade: websocket\r\nupgrade: websocket\r\n"),
    ] {
        let broken = opening("/v1/responses", "").replace(from, to);
        let refused = open(tls(&model.bench).await, &broken).await.unwrap_err();
        assert!(refused.starts_with("http/1.1 4"), "{to}: {refused}");
        assert!(refused.contains("x-carboy-reason: protocol_refused"), "{to}: {refused}");
    }
    let realtime = open(tls(&model.bench).await, &opening("/v1/realtime", "")).await.unwrap_err();
    assert!(realtime.contains("x-carboy-reason: unmeterable"), "{realtime}");
}

#[tokio::test]
async fn what_the_upstream_answers_instead_of_switching_reaches_the_client() {
    let route = sockets(route_of(Way::Responses));
    let model = Model::start(Memory::unbound(), route, config(), GatewayLimits::default()).await;
    let refused = open(tls(&model.bench).await, &opening("/v1/responses", "")).await.unwrap_err();
    assert!(refused.starts_with("http/1.1 426") && !refused.contains("x-carboy"), "{refused}");
}

#[tokio::test]
async fn c2_c3_each_response_is_held_bounded_and_charged_to_the_token() {
    let ledger = Memory::unbound();
    let (model, mut socket) = model(&ledger, served()).await;
    let mut earlier = Value::Null;
    for round in 0..3 {
        let before = (ledger.total("openai"), model.bill().raw());
        within(socket.send(create(Some(60), json!({"previous_response_id": earlier})))).await.unwrap();
        let events = events(&mut socket).await;
        assert_eq!(events[0]["type"], "response.created");
        earlier = events[0]["response"]["id"].clone();
        let billed = model.bill().raw() - before.1;
        model.bench.log.wait(|event| event.action == "answer" && detail(event, "tokens_output").is_some()).await;
        let want = before.0 + billed;
        within(async {
            while ledger.total("openai") != want {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let ask = asked(&ledger).pop().unwrap();
        assert_eq!(ask.output, 60);
        // To go on from a response of this connection is held by what it had, not as a whole context.
        assert!(ask.input < 10_000, "{round}: {}", ask.input);
    }
    // What the provider keeps beside it is not among what it had.
    let kept = json!({"previous_response_id": earlier, "input": [{"type": "item_reference", "id": "msg_1"}]});
    within(socket.send(create(Some(60), kept))).await.unwrap();
    events(&mut socket).await;
    assert!(asked(&ledger).pop().unwrap().input >= 128_000);
    drop(socket);
    within(async {
        while ledger.open() > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
    let opening = model.bench.log.wait(|event| event.action == "answer" && detail(event, "websocket").is_none()).await;
    let carried: Vec<_> = model.bench.log.events().into_iter().filter(|e| detail(e, "websocket").is_some()).collect();
    assert_eq!(detail(&opening, "status").as_deref(), Some("101"));
    assert_eq!(carried.len(), 8, "an intent and an outcome each: {carried:#?}");
    assert!(carried.iter().all(|event| detail(event, "websocket") == detail(&opening, "request")));
}

#[tokio::test]
async fn what_only_makes_a_response_ready_is_held_with_the_least_bound_and_what_goes_on_from_it_by_its_length() {
    // As Codex opens its conversations.
    let ledger = Memory::unbound();
    let (model, mut socket) = model(&ledger, long()).await;
    within(socket.send(create(None, json!({"generate": false})))).await.unwrap();
    let ready = events(&mut socket).await;
    let id = &ready[0]["response"]["id"];
    within(socket.send(create(None, json!({"previous_response_id": id})))).await.unwrap();
    events(&mut socket).await;
    let asks = asked(&ledger);
    assert_eq!((asks[0].output, asks[1].output), (16, 16_384));
    assert!(asks[1].input < 10_000, "{}", asks[1].input);
    within(async {
        while ledger.open() > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert_eq!(ledger.total("openai"), model.bill().raw());
}

#[tokio::test]
async fn a_missing_bound_is_put_into_the_message_and_a_high_one_lowered_to_what_is_left() {
    for asked_for in [None, Some(50_000)] {
        let ledger = Memory::capped("openai", 3_000, |_| {});
        let (model, mut socket) = model(&ledger, long()).await;
        within(socket.send(create(asked_for, json!({})))).await.unwrap();
        let events = events(&mut socket).await;
        assert_eq!(events.last().unwrap()["type"], "response.incomplete", "the provider kept to the bound");
        let billed = model.bill().raw();
        assert!(billed <= 3_000 && billed > 500, "{billed}");
        within(async {
            while ledger.total("openai") != billed {
                tokio::task::yield_now().await
            }
        })
        .await;
        // What is left is of no use: told in the words of the protocol, and nothing is sent.
        within(socket.send(create(None, json!({"max_output_tokens": 2_900})))).await.unwrap();
        let refused = events_of_refusal(&mut socket).await;
        assert_eq!((&refused["status"], &refused["error"]["code"]), (&400.into(), &"insufficient_quota".into()));
        assert_eq!(refused["carboy"]["code"], "budget_exhausted");
        assert_eq!(model.bill().raw(), billed);
    }
}

async fn events_of_refusal(socket: &mut Socket) -> Value {
    let events = events(socket).await;
    assert_eq!((events.len(), &events[0]["type"]), (1, &"error".into()), "{events:?}");
    events[0].clone()
}

#[tokio::test]
async fn b25_a_secret_in_a_message_never_leaves_whole_or_in_fragments() {
    let ledger = Memory::unbound();
    let (model, mut socket) = model(&ledger, served()).await;
    let leak = json!({"type": "response.create", "model": "gpt-4o", "input": format!("it is {SECRET}")}).to_string();
    within(socket.send(Message::text(leak.clone()))).await.unwrap();
    let refused = events_of_refusal(&mut socket).await;
    assert_eq!((&refused["status"], &refused["carboy"]["code"]), (&400.into(), &"secret_known".into()));
    // In fragments of seven octets, with pings between them.
    let pieces: Vec<&[u8]> = leak.as_bytes().chunks(7).collect();
    for (n, piece) in pieces.iter().enumerate() {
        let code = OpCode::Data(if n == 0 { Data::Text } else { Data::Continue });
        let frame = Frame::message(piece.to_vec(), code, n + 1 == pieces.len());
        within(socket.send(Message::Frame(frame))).await.unwrap();
    }
    assert_eq!(events_of_refusal(&mut socket).await["carboy"]["code"], "secret_known");
    assert_eq!(model.bill().requests, 0);
    assert!(ledger.calls().is_empty());
    // The connection goes on.
    within(socket.send(create(Some(50), json!({})))).await.unwrap();
    assert_eq!(events(&mut socket).await[0]["type"], "response.created");
}

#[tokio::test]
async fn what_would_cost_and_is_not_known_closes_the_connection() {
    for message in [
        Message::text(r#"{"type":"response.steer","input":"more"}"#),
        Message::text(r#"{"type":"session.update"}"#),
        Message::binary(br#"{"type":"response.create"}"#.to_vec()),
    ] {
        let (model, mut socket) = model(&Memory::unbound(), served()).await;
        let binary = message.is_binary();
        within(socket.send(message)).await.unwrap();
        let frame = close_of(&mut socket).await.unwrap();
        let want = if binary { CloseCode::Unsupported } else { CloseCode::Policy };
        assert_eq!(frame.code, want, "{frame:?}");
        assert!(binary || frame.reason.contains("unmeterable"), "{frame:?}");
        assert_eq!(model.bill().requests, 0);
    }
}

#[tokio::test]
async fn what_two_readers_would_read_two_ways_is_refused_and_the_connection_goes_on() {
    let ledger = Memory::unbound();
    let (model, mut socket) = model(&ledger, endless()).await;
    for message in [
        r#"{"type":"response.cancel","type":"response.create","model":"m","input":"x"}"#,
        r#"{"type":"response.create","response":{"model":"m","input":"x"}}"#,
        r#"{"type":"response.create","model":"m","max_output_tokens":5,"max_output_tokens":50000}"#,
        r#"{"type":"response.create","model":"m","background":true}"#,
        "no json",
    ] {
        within(socket.send(Message::text(message))).await.unwrap();
        let refused = events_of_refusal(&mut socket).await;
        assert_eq!(refused["carboy"]["code"], "request_unbounded", "{message}");
    }
    assert!(ledger.calls().is_empty() && model.bill().requests == 0);
    // A second response beside the first is not metered, and not sent.
    within(socket.send(create(Some(2_000), json!({})))).await.unwrap();
    let first = within(socket.next()).await.unwrap().unwrap();
    assert!(first.to_text().unwrap().contains("response.created"));
    within(socket.send(create(Some(50), json!({"stream_id": "two"})))).await.unwrap();
    let events = events(&mut socket).await;
    let refused = events.last().unwrap();
    assert!(refused["error"]["message"].as_str().unwrap().contains("one response at a time"), "{refused}");
    assert_eq!(asked(&ledger).len(), 1);
}

#[tokio::test]
async fn c10_c11_a_response_under_way_is_ended_by_its_protocol_when_the_routes_are_closed() {
    let ledger = Memory::unbound();
    let (model, mut socket) = model(&ledger, endless()).await;
    within(socket.send(create(Some(20_000), json!({})))).await.unwrap();
    for _ in 0..20 {
        within(socket.next()).await.unwrap().unwrap();
    }
    model.bench.gateway.cut_off(Denial::new(Reason::CutOff, "the operator closed it"));
    let events = events(&mut socket).await;
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["error"]["code"]),
        (&"response.failed".into(), &"insufficient_quota".into())
    );
    assert!(last["response"]["error"]["message"].as_str().unwrap().contains("the operator closed it"), "{last}");
    let frame = close_of(&mut socket).await.unwrap();
    assert!(frame.code == CloseCode::Policy && frame.reason.contains("cut_off"), "{frame:?}");
    model.settled().await;
    let (billed, charged) = (model.bill().raw(), ledger.total("openai"));
    // What was read is said at the end alone: all that was held is charged.
    assert!(charged >= billed, "{charged} for {billed}");
    // While they are closed no other is opened.
    let refused = open(tls(&model.bench).await, &opening("/v1/responses", "")).await.unwrap_err();
    assert!(refused.contains("x-carboy-reason: cut_off"), "{refused}");
}

#[tokio::test]
async fn where_only_a_part_is_held_a_response_ends_when_no_more_is_to_be_had() {
    let ledger = Memory::capped("openai", 3_000, |set| set.terms.overrun = Overrun::Bounded);
    let (model, mut socket) = model(&ledger, endless()).await;
    within(socket.send(create(Some(20_000), json!({})))).await.unwrap();
    let events = events(&mut socket).await;
    let error = &events.last().unwrap()["response"]["error"];
    assert_eq!(error["code"], "insufficient_quota", "{events:?}");
    assert_eq!(close_of(&mut socket).await.unwrap().code, CloseCode::Policy);
    model.settled().await;
    let extended = ledger.calls().iter().filter(|call| matches!(call, Call::Extend(..))).count();
    assert!(extended > 1 && ledger.open() == 0, "{extended}");
    // Beyond the cap goes at most what the provider writes until the cut reaches it.
    let billed = model.bill().raw();
    assert!(billed <= 3_000 + 200 && ledger.total("openai") >= billed, "{billed}");
}

#[tokio::test]
async fn without_a_ledger_or_a_log_no_response_is_asked_for() {
    let ledger = Memory::unbound();
    let (model, mut socket) = model(&ledger, served()).await;
    ledger.away.store(true, Ordering::SeqCst);
    within(socket.send(create(Some(50), json!({})))).await.unwrap();
    assert_eq!(events_of_refusal(&mut socket).await["carboy"]["code"], "ledger_unavailable");
    ledger.away.store(false, Ordering::SeqCst);
    model.bench.log.broken.store(true, Ordering::SeqCst);
    within(socket.send(create(Some(50), json!({})))).await.unwrap();
    assert_eq!(events_of_refusal(&mut socket).await["carboy"]["code"], "audit_unavailable");
    assert_eq!(model.bill().requests, 0);
    within(async {
        while ledger.open() > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert_eq!(ledger.total("openai"), 0);
}

#[tokio::test]
async fn a_ledger_that_has_forgotten_the_hold_is_asked_once_more() {
    let ledger = Memory::unbound();
    let (model, mut socket) = model(&ledger, served()).await;
    ledger.forgets.store(1, Ordering::SeqCst);
    within(socket.send(create(Some(50), json!({})))).await.unwrap();
    assert_eq!(events(&mut socket).await[0]["type"], "response.created");
    assert_eq!((asked(&ledger).len(), model.bill().requests), (2, 1));
}

#[tokio::test]
async fn the_end_of_the_run_ends_a_response_and_is_waited_for() {
    let ledger = Memory::unbound();
    let (model, mut socket) = model(&ledger, endless()).await;
    within(socket.send(create(Some(20_000), json!({})))).await.unwrap();
    within(socket.next()).await.unwrap().unwrap();
    model.bench.gateway.shutdown();
    assert_eq!(events(&mut socket).await.last().unwrap()["type"], "response.failed");
    model.settled().await;
    assert_eq!(ledger.open(), 0);
}

#[tokio::test]
async fn e2_a_route_that_is_withdrawn_ends_its_open_connections() {
    let (model, mut socket) = model(&Memory::unbound(), endless()).await;
    within(socket.send(create(Some(20_000), json!({})))).await.unwrap();
    within(socket.next()).await.unwrap().unwrap();
    model.bench.gateway.replace_routes(RouteSet::new(vec![route("other.example")], 2));
    assert_eq!(events(&mut socket).await.last().unwrap()["type"], "response.failed");
    assert_eq!(close_of(&mut socket).await.unwrap().code, CloseCode::Policy);
}

#[tokio::test]
async fn a_client_that_reads_everything_and_goes_before_the_end_is_charged_for_it() {
    let ledger = Memory::unbound();
    let (model, mut socket) = model(&ledger, endless()).await;
    within(socket.send(create(Some(20_000), json!({})))).await.unwrap();
    for _ in 0..50 {
        within(socket.next()).await.unwrap().unwrap();
    }
    drop(socket);
    within(async {
        while ledger.spent().is_empty() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let (billed, charged) = (model.bill().raw(), ledger.total("openai"));
    // What was read is said at the end alone: all that was held is charged.
    assert!(charged >= billed, "{charged} for {billed}");
    assert_eq!(ledger.open(), 0);
}

#[tokio::test]
async fn a_request_that_the_provider_does_not_take_costs_nothing() {
    let ledger = Memory::unbound();
    let route = sockets(route_of(Way::Responses));
    let model = Model::start(ledger.clone(), route, served(), GatewayLimits::default()).await;
    let opening = opening("/v1/responses", "x-sim-fault: status=429\r\n");
    let mut socket = open(tls(&model.bench).await, &opening).await.unwrap();
    within(socket.send(create(Some(50), json!({"previous_response_id": "resp_no"})))).await.unwrap();
    let events = events(&mut socket).await;
    assert_eq!((&events[0]["type"], &events[0]["status"]), (&"error".into(), &429.into()));
    within(async {
        while ledger.open() > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert_eq!((ledger.total("openai"), model.bill().requests), (0, 0));
    // What is not known of here is held as the model's whole context.
    assert!(asked(&ledger)[0].input >= 128_000);
}

/// What a test's server was sent.
type Kept = Arc<Mutex<Vec<Message>>>;

/// A server that answers each message by `answer`, and keeps what it got.
async fn server(answer: fn(&Message) -> Vec<Message>) -> (Bench, Kept) {
    server_of(Memory::unbound(), route(HOST), answer).await
}

/// The same with a ledger and a route of its own.
async fn server_of(ledger: Arc<Memory>, route: Route, answer: fn(&Message) -> Vec<Message>) -> (Bench, Kept) {
    let (address, got) = listening(answer, |tcp| Box::pin(async move { Some(Box::new(tcp) as Box<dyn Stream>) })).await;
    let upstream = Upstream { address, transport: Transport::Plain, extra_ca_pem: None };
    (reaching(ledger, route, upstream).await, got)
}

/// The same behind TLS, where it speaks HTTP/2 as well, and WebSockets by HTTP/1.1 alone.
async fn tls_server(answer: fn(&Message) -> Vec<Message>) -> (Bench, Kept) {
    let (ca, _) = CertificateAuthority::generate(support::now_ms()).unwrap();
    let leaf = ca.mint(&Host::parse(HOST).unwrap(), support::now_ms()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(leaf)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (address, got) = listening(answer, move |tcp| {
        let acceptor = acceptor.clone();
        Box::pin(async move {
            let tls = acceptor.accept(tcp).await.ok()?;
            if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Some(Box::new(tls) as Box<dyn Stream>);
            }
            let service = hyper::service::service_fn(async |_| {
                Ok::<_, std::convert::Infallible>(http::Response::new(full("by HTTP/2")))
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), service)
                .await;
            None
        })
    })
    .await;
    let extra_ca_pem = Some(ca.ca_pem().to_owned());
    let upstream = Upstream { address, transport: Transport::Tls, extra_ca_pem };
    (reaching(Memory::unbound(), route(HOST), upstream).await, got)
}

type Opened = std::pin::Pin<Box<dyn Future<Output = Option<Box<dyn Stream>>> + Send>>;

async fn listening(
    answer: fn(&Message) -> Vec<Message>,
    open: impl Fn(TcpStream) -> Opened + Clone + Send + 'static,
) -> (std::net::SocketAddr, Kept) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let got = Kept::default();
    let kept = got.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (open, kept) = (open.clone(), kept.clone());
            tokio::spawn(async move {
                if let Some(stream) = open(tcp).await {
                    serve_socket(stream, answer, &kept).await;
                }
            });
        }
    });
    (address, got)
}

async fn serve_socket(mut stream: Box<dyn Stream>, answer: fn(&Message) -> Vec<Message>, kept: &Kept) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A connection that was made in advance and is not used.
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(!head.contains(KEY) && !head.contains("extensions"), "{head}");
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    let switched = format!(
        "HTTP/1.1 101 Switching\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(switched.as_bytes()).await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        kept.lock().unwrap().push(message.clone());
        for answer in answer(&message) {
            if socket.send(answer).await.is_err() {
                return;
            }
        }
    }
}

async fn reaching(ledger: Arc<Memory>, route: Route, upstream: Upstream) -> Bench {
    reaching_within(GatewayLimits::default(), ledger, route, upstream).await
}

async fn reaching_within(limits: GatewayLimits, ledger: Arc<Memory>, route: Route, upstream: Upstream) -> Bench {
    let mut upstreams = Upstreams::default();
    upstreams.insert(Host::parse(HOST).unwrap(), None, upstream);
    let unused = handler(|_| async { http::Response::new(full("")) });
    let (origin, routes) = (Arc::new(Origin::default()), vec![sockets(route)]);
    Bench::governed(ledger, upstreams, Kind::Plain, routes, (origin, unused), limits).await
}

fn echo(message: &Message) -> Vec<Message> {
    if message.is_text() || message.is_binary() { vec![message.clone()] } else { Vec::new() }
}

async fn plain(bench: &Bench) -> Socket {
    let tcp = TcpStream::connect(bench.listen(HOST, 80).await).await.unwrap();
    open(Box::new(tcp), &opening("/chat", "")).await.unwrap()
}

#[tokio::test]
async fn messages_of_both_kinds_go_both_ways_and_a_ping_carries_nothing() {
    let (bench, got) = server(echo).await;
    let mut socket = plain(&bench).await;
    let big = Message::binary(vec![7_u8; 3 << 20]);
    for message in [Message::text("hello é"), big, Message::text("")] {
        within(socket.send(message.clone())).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), message);
    }
    within(socket.send(Message::Ping(Bytes::from_static(b"carried")))).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"carried")));
    let frame = CloseFrame { code: CloseCode::Library(4001), reason: "carried".into() };
    within(socket.close(Some(frame))).await.unwrap();
    while within(socket.next()).await.is_some() {}
    let answer = bench.log.wait(|event| event.action == "answer").await;
    assert_eq!(answer.result, Outcome::Done);
    let got = got.lock().unwrap().clone();
    assert!(got.contains(&Message::Ping(Bytes::new())), "{got:?}");
    let Some(Message::Close(Some(frame))) = got.last() else { panic!("{:?}", got.last()) };
    assert_eq!((frame.code, &frame.reason[..]), (CloseCode::Library(4001), ""));
}

/// A connection by HTTP/2 that carries many streams.
async fn h2(bench: &Bench) -> hyper::client::conn::http2::SendRequest<support::Body> {
    let tcp = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&bench.ca_pem, &["h2"])));
    let tls = connector.connect(HOST.try_into().unwrap(), tcp).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    // What the gateway announces has come with the answer.
    let first = http::Request::get(format!("https://{HOST}/none")).body(full("")).unwrap();
    let _ = within(sender.send_request(first)).await;
    sender
}

/// RFC 8441: a stream of it asks to go on as a WebSocket.
async fn extended(
    sender: &mut hyper::client::conn::http2::SendRequest<support::Body>,
    protocol: &'static str,
) -> Result<WebSocketStream<TokioIo<Upgraded>>, http::response::Parts> {
    let mut request = http::Request::connect(format!("https://{HOST}/chat"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-extensions", "permessage-deflate")
        .body(full(""))
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    let mut response = within(sender.send_request(request)).await.unwrap();
    if response.status() != http::StatusCode::OK {
        return Err(response.into_parts().0);
    }
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
    let stream = within(hyper::upgrade::on(&mut response)).await.unwrap();
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Client, None).await)
}

#[tokio::test]
async fn b26_a_stream_of_http_2_goes_on_as_a_websocket_and_is_policed_as_one() {
    let (bench, got) = tls_server(echo).await;
    let mut sender = h2(&bench).await;
    let (mut one, mut other) =
        (extended(&mut sender, "websocket").await.unwrap(), extended(&mut sender, "websocket").await.unwrap());
    for message in [Message::text("hello é"), Message::binary(vec![7_u8; 1 << 20]), Message::text("")] {
        within(one.send(message.clone())).await.unwrap();
        assert_eq!(within(one.next()).await.unwrap().unwrap(), message);
    }
    // A secret ends its own stream, and no other of the connection.
    within(one.send(Message::text(format!("x{SECRET}")))).await.unwrap();
    let closed = loop {
        if let Message::Close(frame) = within(one.next()).await.unwrap().unwrap() {
            break frame.unwrap();
        }
    };
    assert!(closed.reason.contains("secret_known"));
    within(other.send(Message::text("still here"))).await.unwrap();
    assert_eq!(within(other.next()).await.unwrap().unwrap(), Message::text("still here"));
    assert!(!format!("{:?}", got.lock().unwrap()).contains(SECRET));
    // Closed routes end it where it is.
    bench.gateway.cut_off(Denial::new(Reason::CutOff, "by its operator"));
    while let Some(Ok(_)) = within(other.next()).await {}
    bench.log.wait(|event| detail(event, "reason").as_deref() == Some("secret_known")).await;
}

#[tokio::test]
async fn b26_what_no_route_takes_as_a_websocket_is_refused_in_words_by_http_2_too() {
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![route(HOST)]).await;
    let mut sender = h2(&bench).await;
    for protocol in ["websocket", "connect-udp", "webtransport", "foo"] {
        let head = extended(&mut sender, protocol).await.unwrap_err();
        assert_eq!(
            (head.status.as_u16(), &head.headers["x-carboy-reason"]),
            (400, &"protocol_refused".parse().unwrap())
        );
    }
    assert_eq!(bench.log.refusals(), ["protocol_refused"; 4]);
    // The one that asked for the settings is all that came through.
    assert_eq!(bench.origin.received().len(), 1);
    let (bench, _) = tls_server(echo).await;
    let head = extended(&mut h2(&bench).await, "connect-udp").await.unwrap_err();
    assert_eq!(head.headers["x-carboy-reason"], "protocol_refused");
}

#[tokio::test]
async fn b25_a_secret_ends_a_connection_that_has_no_words_for_a_refusal() {
    let (bench, got) = server(echo).await;
    for message in [Message::text(format!("x{SECRET}")), Message::binary(SECRET.as_bytes().to_vec())] {
        let mut socket = plain(&bench).await;
        within(socket.send(message)).await.unwrap();
        let frame = close_of(&mut socket).await.unwrap();
        assert!(frame.code == CloseCode::Policy && frame.reason.contains("secret_known"), "{frame:?}");
    }
    assert!(got.lock().unwrap().iter().all(|message| !message.is_text() && !message.is_binary()));
    within(async {
        while bench.log.refusals().len() < 2 {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert_eq!(bench.log.refusals(), ["secret_known", "secret_known"]);
}

#[tokio::test]
async fn b41_a_secret_in_what_comes_back_is_overwritten() {
    let (bench, _) =
        server(|message| if message.is_text() { vec![Message::text(format!("é {SECRET} é"))] } else { vec![] }).await;
    let mut socket = plain(&bench).await;
    within(socket.send(Message::text("tell"))).await.unwrap();
    let told = within(socket.next()).await.unwrap().unwrap().into_text().unwrap();
    assert!(!told.contains(SECRET) && told.starts_with("é ") && told.ends_with(" é"), "{told}");
}

#[tokio::test]
async fn b24_a_message_beyond_the_limit_closes_the_connection() {
    let (bench, got) = server(echo).await;
    let mut socket = plain(&bench).await;
    let big = Message::binary(vec![7_u8; (32 << 20) + 1]);
    let _ = within(socket.send(big)).await;
    let frame = close_of(&mut socket).await;
    assert!(frame.is_none_or(|frame| frame.code == CloseCode::Size));
    let event = bench.log.wait(|event| event.result == Outcome::Blocked).await;
    assert_eq!(detail(&event, "reason").as_deref(), Some("body_too_large"));
    assert!(got.lock().unwrap().iter().all(|message| !message.is_binary()));
}

#[tokio::test]
async fn b24_b25_what_is_no_frame_or_no_text_ends_the_connection_with_an_entry_and_goes_nowhere() {
    let frames: [(&str, &[u8]); 5] = [
        ("a kind that there is not", b"\x83\x81\0\0\0\0x"),
        ("a bit that nobody agreed on", b"\xc1\x81\0\0\0\0x"),
        ("no mask", b"\x81\x01x"),
        ("a continuation of nothing", b"\x80\x81\0\0\0\0x"),
        ("a text that is not UTF-8", b"\x81\x82\0\0\0\0\xc3\x28"),
    ];
    for (what, frame) in frames {
        let (bench, got) = server(echo).await;
        let mut socket = plain(&bench).await;
        socket.get_mut().write_all(frame).await.unwrap();
        let event = bench.log.wait(|event| event.result == Outcome::Blocked).await;
        assert_eq!(detail(&event, "reason").as_deref(), Some("protocol_refused"), "{what}");
        let _ = close_of(&mut socket).await;
        assert!(got.lock().unwrap().iter().all(|message| !message.is_binary() && !message.is_text()), "{what}");
    }
}

/// What a provider says to `response.cancel`, and to a message that only may be one.
fn cancelling(message: &Message) -> Vec<Message> {
    let Message::Text(text) = message else { return Vec::new() };
    let asked: Value = serde_json::from_str(text).unwrap();
    let say = |event: Value| Message::text(event.to_string());
    let words = (0..100).map(|_| say(json!({"type": "response.output_text.delta", "delta": "word "})));
    let begun = || std::iter::once(say(json!({"type": "response.created", "response": {"id": "r"}})));
    match (asked["type"].as_str().unwrap(), asked["input"].as_str()) {
        ("response.create", Some("words")) => begun().chain(words).collect(),
        // It has begun, and nothing of it is to be seen yet.
        ("response.create", _) => Vec::new(),
        ("response.cancel", _) => match asked["reason"].as_str() {
            Some("silent") => vec![say(json!({"type": "response.cancelled", "response": {"id": "r"}}))],
            Some("told") => vec![say(
                json!({"type": "response.cancelled", "response": {"id": "r", "usage": {"input_tokens": 9, "output_tokens": 100}}}),
            )],
            _ => vec![say(json!({"type": "error", "status": 400, "error": {"message": "nothing to cancel"}}))],
        },
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn c3_b55_a_response_that_its_client_cancels_is_charged_for_what_it_wrote() {
    // What is asked, how it is cancelled, whether that ends the connection, and what it costs at least.
    for (input, reason, closes) in [
        ("words", "silent", false),
        ("words", "told", false),
        ("words", "", false),
        // An error that may be the answer to the cancelling, while the response goes on where nobody sees it.
        ("nothing yet", "", true),
    ] {
        let ledger = Memory::unbound();
        let (bench, _) = server_of(ledger.clone(), route_of(Way::Responses), cancelling).await;
        let tcp = TcpStream::connect(bench.listen(HOST, 80).await).await.unwrap();
        let mut socket = open(Box::new(tcp), &opening("/v1/responses", "")).await.unwrap();
        within(socket.send(create(Some(700), json!({"input": input})))).await.unwrap();
        if input == "words" {
            for _ in 0..101 {
                within(socket.next()).await.unwrap().unwrap();
            }
        }
        let cancel = json!({"type": "response.cancel", "reason": reason});
        within(socket.send(Message::text(cancel.to_string()))).await.unwrap();
        within(async {
            while ledger.spent().is_empty() {
                socket.next().await.unwrap().unwrap();
            }
        })
        .await;
        let (held, charged) = (asked(&ledger)[0].input + 700, ledger.total("openai"));
        let enough = if reason == "told" { charged == 109 } else { charged >= held };
        assert!(enough && ledger.open() == 0, "{input} {reason}: {charged} of {held}");
        if closes {
            assert_eq!(close_of(&mut socket).await.unwrap().code, CloseCode::Policy);
        }
    }
}

#[tokio::test]
async fn c2_a_message_after_the_end_that_a_model_is_at_ends_the_connection() {
    // The provider writes on, though nothing is held any more.
    fn writes_on(message: &Message) -> Vec<Message> {
        let Message::Text(_) = message else { return Vec::new() };
        let say = |event: Value| Message::text(event.to_string());
        vec![
            say(
                json!({"type": "response.completed", "response": {"id": "r", "usage": {"input_tokens": 9, "output_tokens": 1}}}),
            ),
            say(json!({"type": "response.output_text.delta", "delta": "word "})),
        ]
    }
    let ledger = Memory::unbound();
    let (bench, _) = server_of(ledger.clone(), route_of(Way::Responses), writes_on).await;
    let tcp = TcpStream::connect(bench.listen(HOST, 80).await).await.unwrap();
    let mut socket = open(Box::new(tcp), &opening("/v1/responses", "")).await.unwrap();
    within(socket.send(create(Some(700), json!({})))).await.unwrap();
    assert_eq!(close_of(&mut socket).await.unwrap().code, CloseCode::Policy);
    assert_eq!(ledger.open(), 0);
}

#[tokio::test]
async fn b25_messages_that_are_begun_and_not_ended_share_the_memory_of_whole_bodies() {
    const PART: usize = 1 << 20;
    let (address, got) = listening(echo, |tcp| Box::pin(async move { Some(Box::new(tcp) as Box<dyn Stream>) })).await;
    let upstream = Upstream { address, transport: Transport::Plain, extra_ca_pem: None };
    // Room for four of them.
    let limits = GatewayLimits { whole_bytes_max: 4 * PART as u32 + PART as u32 / 2, ..GatewayLimits::default() };
    let bench = reaching_within(limits, Memory::unbound(), route(HOST), upstream).await;
    let begin = || Message::Frame(Frame::message(vec![b'x'; PART], OpCode::Data(Data::Binary), false));
    let end = || Message::Frame(Frame::message(Vec::new(), OpCode::Data(Data::Continue), true));
    let mut open = Vec::new();
    let told = loop {
        let mut socket = plain(&bench).await;
        // Nobody reads on where there is no room, so it may not all be taken.
        let _ = within(socket.send(begin())).await;
        if let Ok(message) = tokio::time::timeout(Duration::from_millis(500), socket.next()).await {
            break message;
        }
        open.push(socket);
        assert!(open.len() <= 5, "more was taken than there is room for");
    };
    let Some(Ok(Message::Close(Some(frame)))) = told else { panic!("{told:?}") };
    assert_eq!(frame.code, CloseCode::Policy);
    assert!(frame.reason.contains("limit_reached"), "{frame:?}");
    assert!(open.len() >= 3, "{}", open.len());
    bench.log.wait(|event| detail(event, "reason").as_deref() == Some("limit_reached")).await;
    // Those that were begun before are not disturbed, and what is over makes room again.
    for socket in &mut open {
        within(socket.send(end())).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::binary(vec![b'x'; PART]));
    }
    assert_eq!(got.lock().unwrap().len(), open.len());
    drop(open);
    let mut socket = plain(&bench).await;
    let whole = Message::binary(vec![b'y'; 3 * PART]);
    within(socket.send(whole.clone())).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), whole);
}
