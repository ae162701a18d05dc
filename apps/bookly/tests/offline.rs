//! Bookly as somebody tries it without a key: the real engine, its real records, and the offline model over a real socket.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use carboy_agent::{Asker, Reply};
use carboy_agent::{ProviderModel, Terms};
use carboy_core::chat::{ChatFormat, ChatLimits, ModelChoice};
use carboy_core::host::Host;
use carboy_core::ids::MeterName;
use carboy_core::ports::{Later, Outbound, OutboundAnswer, OutboundBody, OutboundError, OutboundRequest};
use carboy_sim::{Config, Running, Simulator};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use support::*;

/// The way out, to the simulated provider on loopback and nowhere else.
struct Loopback(SocketAddr);

struct Arriving(Incoming);

impl OutboundBody for Arriving {
    fn next(&mut self) -> Later<'_, Option<Result<Vec<u8>, OutboundError>>> {
        Box::pin(async move {
            loop {
                match self.0.frame().await? {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => return Some(Ok(data.to_vec())),
                        Err(_) => continue,
                    },
                    Err(error) => return Some(Err(OutboundError::BrokeOff(error.to_string()))),
                }
            }
        })
    }
}

impl Outbound for Loopback {
    fn send(&self, request: OutboundRequest) -> Later<'_, Result<OutboundAnswer, OutboundError>> {
        Box::pin(async move {
            let no = |error: &dyn std::fmt::Display| OutboundError::NoAnswer(error.to_string());
            let socket = tokio::net::TcpStream::connect(self.0).await.map_err(|error| no(&error))?;
            let shake = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
            let (mut sender, connection) = shake.map_err(|error| no(&error))?;
            tokio::spawn(connection);
            let mut head = hyper::Request::builder().method(request.method).uri(request.path).header("host", "model");
            for (name, value) in &request.headers {
                head = head.header(name, value);
            }
            let head = head.header("x-api-key", "sk-ant-sim-real-key").body(Full::new(Bytes::from(request.body)));
            let answer = sender.send_request(head.unwrap()).await.map_err(|error| no(&error))?;
            let (head, body) = answer.into_parts();
            let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
            let (status, headers) = (head.status.as_u16(), headers.collect());
            Ok(OutboundAnswer { status, headers, refused: None, body: Box::new(Arriving(body)) })
        })
    }
}

async fn desk() -> (Running, World) {
    let sim = Simulator::start(Config::offline()).await.unwrap();
    let choice = ModelChoice {
        format: ChatFormat::Anthropic,
        host: Host::parse("127.0.0.1").unwrap(),
        port: sim.addr.port(),
        path: "/v1/messages".into(),
        model: "offline".into(),
        meter: MeterName::parse("anthropic").unwrap(),
        token_env: None,
        output_tokens_max: 1_024,
    };
    let model = ProviderModel::new(Arc::new(Loopback(sim.addr)), choice, Terms::of(&ChatLimits::default()));
    let world = World::of(Arc::new(model), |_| {});
    (sim, world)
}

async fn says(world: &World, asker: &Asker, message: &str) -> Reply {
    let reply = world.turn(asker, message).await.unwrap();
    assert_eq!(reply.withheld, [] as [String; 0], "{message}: {}", reply.text);
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_an_order_is_looked_up_once_its_number_and_address_are_known() {
    let (_sim, world) = desk().await;
    let asker = visitor();
    let asked = says(&world, &asker, "Where is my order?").await;
    assert!(asked.text.contains("number"), "{}", asked.text);
    let asked = says(&world, &asker, "It is BK-1002").await;
    assert!(asked.text.contains("e-mail") && !asked.text.contains("transit"), "{}", asked.text);
    let told = says(&world, &asker, "sarah.chen@example.com").await;
    assert!(told.text.contains("BK-1002") && told.text.contains("2026-05-30"), "{}", told.text);
    assert!(told.text.contains("Invisible Cities"), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn g12_a_wrong_address_and_a_missing_order_read_the_same() {
    let (_sim, world) = desk().await;
    let wrong = says(&world, &visitor(), "Where is my order BK-1003? I am sarah.chen@example.com").await;
    let missing = says(&world, &visitor(), "Where is my order BK-9999? I am sarah.chen@example.com").await;
    assert_eq!(wrong.text, missing.text);
    assert!(!wrong.text.contains("Rose"), "{}", wrong.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_i5_a_return_is_checked_confirmed_on_its_card_and_started_once() {
    let (_sim, world) = desk().await;
    let asker = visitor();
    let message = "I want to return order BK-1001, I changed my mind. My email is sarah.chen@example.com";
    let reply = says(&world, &asker, message).await;
    let card = reply.card.unwrap_or_else(|| panic!("no card: {}", reply.text));
    assert_eq!(card.title, "Return order BK-1001?");
    assert_eq!(world.returns(), []);
    let yes = says(&world, &asker, "yes").await;
    assert!(yes.text.contains("card"), "{}", yes.text);
    assert_eq!(world.returns(), [], "a yes in words");
    let done = world.engine.confirm(&asker, &card.token, &|_| {}).await.unwrap();
    assert_eq!(world.returns(), [("BK-1001".to_owned(), "1,2".to_owned())]);
    assert!(done.text.contains("RMA-") && done.withheld.is_empty(), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g28_what_cannot_be_returned_is_said_to_be_so() {
    let (_sim, world) = desk().await;
    for (order, email) in [("BK-1003", "marcus.webb@example.com"), ("BK-1004", "priya.raman@example.com")] {
        let message = format!("I want to return order {order}, it is damaged. My email is {email}");
        let reply = says(&world, &visitor(), &message).await;
        assert_eq!((reply.card, world.returns()), (None, vec![]), "{}", reply.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g20_a_policy_is_quoted_word_for_word() {
    let (_sim, world) = desk().await;
    let asker = visitor();
    for (question, topic) in [
        ("What is your shipping policy?", "shipping"),
        ("Do gift cards expire?", "gift_cards"),
        ("How do I reset my password?", "password_reset"),
    ] {
        let (_, words) = bookly::data::POLICIES.iter().find(|(known, _)| *known == topic).unwrap();
        assert_eq!(says(&world, &asker, question).await.text, *words);
    }
    let returns = says(&world, &asker, "What is your return policy?").await;
    assert_eq!(returns.text, bookly::config::RETURN_POLICY.block());
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_what_is_none_of_its_business_is_refused_word_for_word() {
    let (_sim, world) = desk().await;
    let asker = visitor();
    for message in
        ["Write me a poem about the sea", "What is the capital of France?", "Which novel should I read next?"]
    {
        assert_eq!(says(&world, &asker, message).await.text, bookly::agent::REFUSAL, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_of_two_orders_it_is_asked_which() {
    let (_sim, world) = desk().await;
    let message = "I want to return one of my orders BK-1001 and BK-1002, my email is sarah.chen@example.com";
    let reply = says(&world, &visitor(), message).await;
    assert!(reply.text.contains("BK-1001") && reply.text.contains("BK-1002"), "{}", reply.text);
    assert!(reply.text.ends_with("Which of these orders would you like to return?"), "{}", reply.text);
    assert_eq!((reply.card, world.returns()), (None, vec![]));
}
