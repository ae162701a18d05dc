//! Responses over a WebSocket: each is a request of its own, held, bounded and charged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use carboy_core::budget::Overrun;
use carboy_core::route::RouteSet;
use carboy_core::verdict::{Denial, Reason};
use carboy_egress::GatewayLimits;
use carboy_sim::{Config, Reply, Script, WebSockets};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

use crate::socket::{Socket, close_of, open, opening, server_of, sockets, tls};
use crate::support::ledger::{Call, Memory};
use crate::support::model::{Model, Way, config, route_of, within};
use crate::support::{HOST, SECRET, detail, route};

pub fn served() -> Config {
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

fn asked(ledger: &Memory) -> Vec<carboy_core::budget::Ask> {
    ledger.calls().into_iter().filter_map(|call| if let Call::Admit(ask) = call { Some(ask) } else { None }).collect()
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
