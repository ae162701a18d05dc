//! The sockets: TLS and ALPN, what is recorded, pages, encodings, stopping, and canary origins.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod client;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use carboy_sim::{Alpn, Config, Origin, Running, SeededBytes, Simulator};
use client::{ANTHROPIC, connect_tls, get, post, request, send, send_h2};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

async fn sim() -> Running {
    Simulator::start(Config { names: vec!["api.example".into()], ..Config::default() }).await.unwrap()
}

/// Waits for what a socket's other end will notice in its own time.
async fn until(what: &str, happened: impl Fn() -> bool) {
    for _ in 0..1000 {
        if happened() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}

#[tokio::test]
async fn tls_speaks_what_alpn_agreed_on_for_the_names_it_was_given() {
    let sim = sim().await;
    let h2 = connect_tls(sim.tls_addr, sim.ca_pem(), "api.example", &["h2", "http/1.1"]).await.unwrap();
    let got = send_h2(h2, request("GET", "https://api.example/echo", &[], Vec::new())).await;
    assert_eq!((got.status, &got.json()["version"]), (200, &json!("HTTP/2.0")));
    let h1 = connect_tls(sim.tls_addr, sim.ca_pem(), "localhost", &["http/1.1"]).await.unwrap();
    assert_eq!(send(h1, request("GET", "/echo", &[], Vec::new())).await.json()["version"], "HTTP/1.1");
    let without = connect_tls(sim.tls_addr, sim.ca_pem(), "127.0.0.1", &[]).await.unwrap();
    assert_eq!(send(without, request("GET", "/echo", &[], Vec::new())).await.status, 200);
    assert!(connect_tls(sim.tls_addr, sim.ca_pem(), "other.example", &[]).await.is_err());

    let seen: Vec<_> = sim.received().into_iter().map(|r| (r.alpn, r.server_name, r.authority)).collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        seen,
        [
            (text("h2"), text("api.example"), "api.example".into()),
            (text("http/1.1"), text("localhost"), "sim.example".into()),
            (None, None, "sim.example".into()),
        ]
    );
    assert_eq!(sim.connections(), 4);
}

#[tokio::test]
async fn an_authority_is_its_own() {
    let (one, other) = (sim().await, sim().await);
    assert!(connect_tls(one.tls_addr, other.ca_pem(), "api.example", &[]).await.is_err());
}

#[tokio::test]
async fn alpn_can_be_narrowed() {
    let sim = Simulator::start(Config { alpn: Alpn::Http1Only, ..Config::default() }).await.unwrap();
    let stream = connect_tls(sim.tls_addr, sim.ca_pem(), "localhost", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let sim = Simulator::start(Config { alpn: Alpn::Http2Only, ..Config::default() }).await.unwrap();
    assert!(connect_tls(sim.tls_addr, sim.ca_pem(), "localhost", &["http/1.1"]).await.is_err());
}

#[tokio::test]
async fn what_arrives_is_recorded_even_in_part() {
    let sim = sim().await;
    post(sim.addr, "/echo?a=1", &[("x-thing", "canary")], "body").await;
    let seen = &sim.received()[0];
    assert_eq!((&seen.method[..], &seen.path[..], seen.header("x-thing")), ("POST", "/echo?a=1", Some("canary")));
    assert_eq!((&seen.body[..], seen.body_len), (&b"body"[..], 4));
    assert!(seen.contains(b"canary") && seen.contains(b"body") && !seen.contains(b"absent") && !seen.contains(b""));

    let mut broken = TcpStream::connect(sim.addr).await.unwrap();
    broken.write_all(b"POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
    until("the half body", || sim.received().last().is_some_and(|r| r.body == b"half" && r.body_sha256.is_none()))
        .await;
    drop(broken);
    assert_eq!((sim.requests(), sim.connections()), (2, 2));
    sim.clear_received();
    assert!(sim.received().is_empty() && sim.requests() == 2);
}

#[tokio::test]
async fn a_connection_counts_without_a_byte() {
    let sim = sim().await;
    let _silent = TcpStream::connect(sim.addr).await.unwrap();
    let _silent_too = TcpStream::connect(sim.tls_addr).await.unwrap();
    until("two connections", || sim.connections() == 2).await;
    assert_eq!(sim.requests(), 0);
}

#[tokio::test]
async fn a_sink_counts_and_hashes_more_than_is_kept() {
    let sim = sim().await;
    let body: Vec<u8> = SeededBytes::new(7).take(3 * 1024 * 1024).collect();
    let hash: String = Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
    let got = post(sim.addr, "/sink", &[], body).await.json();
    assert_eq!(got, json!({"bytes": 3 * 1024 * 1024, "sha256": hash}));
    assert_eq!(sim.received()[0].body.len(), 1024 * 1024);
}

#[tokio::test]
async fn an_endpoint_reads_no_more_than_its_limit() {
    let got = post(sim().await.addr, "/echo", &[], vec![b'a'; 33 * 1024 * 1024]).await;
    assert_eq!(got.status, 413);
}

#[tokio::test]
async fn bytes_are_the_same_for_the_same_seed() {
    let sim = sim().await;
    let got = get(sim.addr, "/bytes/100000?seed=7", &[]).await;
    assert_eq!(got.header("content-length"), "100000");
    assert_eq!(got.body, SeededBytes::new(7).take(100_000).collect::<Vec<u8>>());
    assert_ne!(got.body[..32], get(sim.addr, "/bytes/32", &[]).await.body[..]);
    assert_eq!(get(sim.addr, "/bytes/0", &[]).await.body.len(), 0);
    for wrong in ["/bytes/x", "/bytes/17179869185", "/bytes/1?seed=x"] {
        assert_eq!(get(sim.addr, wrong, &[]).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn pages_redirects_and_waits() {
    let sim = sim().await;
    let poisoned = get(sim.addr, "/page/poisoned", &[]).await.text();
    assert!(poisoned.contains("Ignore all previous instructions") && poisoned.contains("system prompt"));
    let markdown = get(sim.addr, "/page/poisoned?as=markdown", &[]).await;
    assert!(markdown.header("content-type").starts_with("text/markdown") && markdown.text().contains("system prompt"));
    assert!(!get(sim.addr, "/page/clean", &[]).await.text().contains("instructions"));
    let there = get(sim.addr, "/redirect?to=http%3A%2F%2Felsewhere.example%2F&status=307", &[]).await;
    assert_eq!((there.status, there.header("location")), (307, "http://elsewhere.example/"));
    // A line break in the target would be a field of its own.
    let split = get(sim.addr, "/redirect?to=http://x/%0d%0aset-cookie:a", &[]).await;
    assert_eq!((split.status, split.header("location"), split.header("set-cookie")), (302, "", ""));
    assert_eq!(get(sim.addr, "/slow?ms=1", &[]).await.text(), "at last\n");
}

#[tokio::test]
async fn every_answer_comes_encoded_when_asked_event_by_event() {
    let sim = sim().await;
    let plain = get(sim.addr, "/page/poisoned", &[]).await.body;
    let gzip = get(sim.addr, "/page/poisoned?encoding=gzip", &[]).await;
    assert_eq!(gzip.header("content-encoding"), "gzip");
    let mut decoded = Vec::new();
    flate2::read::GzDecoder::new(&gzip.body[..]).read_to_end(&mut decoded).unwrap();
    assert_eq!(decoded, plain);

    let body = r#"{"model":"m","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let whole = post(sim.addr, "/v1/messages?encoding=deflate", &ANTHROPIC, body).await;
    let mut decoded = String::new();
    flate2::read::ZlibDecoder::new(&whole.body[..]).read_to_string(&mut decoded).unwrap();
    assert!(decoded.contains("message_stop"));
    // What went out before the break can be read: each event is flushed.
    let headers = [ANTHROPIC[0], ANTHROPIC[1], ("x-sim-fault", "drop-after=1")];
    let broken = post(sim.addr, "/v1/messages?encoding=gzip", &headers, body).await;
    let mut first = [0; 20];
    flate2::read::GzDecoder::new(&broken.body[..]).read_exact(&mut first).unwrap();
    assert_eq!(&first, b"event: message_start");
    assert_eq!(get(sim.addr, "/page/clean?encoding=lzma", &[]).await.status, 400);
}

#[tokio::test]
async fn stopping_closes_listeners_and_connections() {
    let sim = sim().await;
    let addr = sim.addr;
    let mut open = TcpStream::connect(addr).await.unwrap();
    until("the connection", || sim.connections() == 1).await;
    sim.stop().await;
    assert!(matches!(open.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_canary_origin_notices_a_connection_a_byte_and_a_datagram() {
    let origin = Origin::start(IpAddr::V4(Ipv4Addr::LOCALHOST)).await.unwrap();
    assert!(origin.is_untouched() && origin.tcp_addr == origin.udp_addr);
    let mut stream = TcpStream::connect(origin.tcp_addr).await.unwrap();
    until("the connection", || origin.connections() == 1).await;
    stream.write_all(b"stolen").await.unwrap();
    until("the bytes", || origin.bytes() == b"stolen").await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(b"", origin.udp_addr).await.unwrap();
    until("the datagram", || origin.datagrams() == 1).await;
    assert!(!origin.is_untouched());
    stream.write_all(&vec![b'x'; 100_000]).await.unwrap();
    until("the bound", || origin.bytes().len() == 64 * 1024).await;
}
