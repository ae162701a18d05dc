//! WebSockets whose messages are not metered: what goes through, and what ends them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carboy_core::audit::Outcome;
use carboy_core::route::Route;
use carboy_core::upstream::{Transport, Upstream};
use carboy_core::verdict::{Denial, Reason};
use carboy_egress::GatewayLimits;
use futures_util::{SinkExt, StreamExt};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::metered::served;
use crate::socket::{
    KEY, Stream, close_of, echo, listening, open, opening, plain, reaching_within, server, sockets, tls, tls_server,
};
use crate::support::ledger::Memory;
use crate::support::model::{Model, Way, config, route_of, within};
use crate::support::{self, Bench, HOST, Kind, SECRET, client_config, detail, full, route};

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
