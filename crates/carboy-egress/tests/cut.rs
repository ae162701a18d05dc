//! Every route closed: streams end as their protocol ends, what follows is refused, and the upstream is gone at once.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use carboy_core::audit::Outcome;
use carboy_core::verdict::{Denial, Reason};
use carboy_egress::GatewayLimits;
use carboy_sim::{Config, Reply, Script};
use http::{Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use support::ledger::{Call, Memory};
use support::model::{Answered, Model, WAYS, Way, ask, config, route_of, within};
use support::{Bench, Body, Kind, detail, full, handler, read, route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NOTICE: &str = "the operator closed it";

fn cut_off() -> Denial {
    Denial::new(Reason::CutOff, NOTICE)
}

fn endless() -> Config {
    let mut config = Config { script: Script::default().on("", Reply::text("word ".repeat(5_000))), ..config() };
    config.faults.pace = Duration::from_millis(2);
    config
}

#[tokio::test]
async fn c10_c11_an_open_stream_ends_as_its_protocol_ends_and_says_why() {
    for way in WAYS {
        for alpn in ["h2", "http/1.1"] {
            let ledger = Memory::unbound();
            let model = Model::start(ledger.clone(), route_of(way), endless(), GatewayLimits::default()).await;
            let mut client = model.bench.client(&[alpn]).await;
            let body = way.body(Answered::Streamed, Some(20_000), "hello");
            let request = way.request(&client, Answered::Streamed, "", body);
            let mut response = within(client.start(request)).await.unwrap();
            let mut text = Vec::new();
            for _ in 0..30 {
                text.extend_from_slice(within(response.frame()).await.unwrap().unwrap().data_ref().unwrap());
            }
            model.bench.gateway.cut_off(cut_off());
            let got = within(read(response)).await;
            text.extend_from_slice(&got.body);
            let text = String::from_utf8(text).unwrap();
            assert!(got.complete, "{way:?} {alpn}: a bare end");
            assert!(text.contains(NOTICE), "{way:?} {alpn}: {text}");
            let end = if way == Way::Responses { "response.failed" } else { way.end() };
            assert!(text.contains(end), "{way:?} {alpn}: {text}");
            assert!(text.ends_with("\n\n"), "{way:?} {alpn}: {text}");
            model.settled().await;
            let billed = model.bill().raw();
            let charged = ledger.total(way.meter());
            // Where usage comes at the end alone, none came: all that was held is charged.
            let silent = matches!(way, Way::Chat | Way::Responses);
            assert!(charged >= billed, "{way:?} {alpn}: {charged} for {billed}");
            assert!(way != Way::Anthropic || charged < 20_000, "{alpn}: {charged} for {billed}");
            let event = model.bench.log.wait(|event| event.result == Outcome::Blocked).await;
            assert_eq!(detail(&event, "reason").as_deref(), Some("cut_off"));
            assert_eq!(detail(&event, "charged").as_deref(), Some(if silent { "whole" } else { "estimated" }));
        }
    }
}

#[tokio::test]
async fn while_the_routes_are_closed_every_request_is_refused_in_its_clients_protocol_and_nothing_is_dialled() {
    for way in WAYS {
        let ledger = Memory::unbound();
        let model = Model::of(way, ledger.clone()).await;
        let mut client = model.client().await;
        assert_eq!(ask(&mut client, way, Answered::Whole, Some(50)).await.status, StatusCode::OK);
        let (requests, connections) = (model.provider.requests(), model.provider.connections());
        model.bench.gateway.cut_off(cut_off());
        let mut fresh = model.client().await;
        for client in [&mut client, &mut fresh] {
            let got = ask(client, way, Answered::Streamed, Some(50)).await;
            let want = if way == Way::Responses { 400 } else { 402 };
            assert_eq!((got.status.as_u16(), got.reason()), (want, "cut_off"), "{way:?}");
            assert!(got.text().contains(NOTICE), "{way:?}: {}", got.text());
            assert_eq!(client.get("/v1/models").await.reason(), "cut_off");
        }
        assert_eq!((model.provider.requests(), model.provider.connections()), (requests, connections), "{way:?}");
        model.bench.gateway.restore();
        let got = ask(&mut fresh, way, Answered::Whole, Some(50)).await;
        assert_eq!(got.status, StatusCode::OK, "{way:?}: {}", got.text());
        model.settled().await;
        assert_eq!(ledger.open(), 0);
    }
}

#[tokio::test]
async fn a_request_under_way_is_refused_and_its_hold_ends() {
    let ledger = Memory::unbound();
    let mut slow = config();
    slow.faults.latency = Duration::from_secs(30);
    let model = Model::start(ledger.clone(), route_of(Way::Anthropic), slow, GatewayLimits::default()).await;
    let mut client = model.client().await;
    let body = Way::Anthropic.body(Answered::Whole, Some(50), "hello");
    let request = Way::Anthropic.request(&client, Answered::Whole, "", body);
    let asking = tokio::spawn(async move { within(client.send(request)).await });
    while !ledger.calls().iter().any(|call| matches!(call, Call::Dispatch(_))) {
        tokio::task::yield_now().await;
    }
    model.bench.gateway.cut_off(cut_off());
    assert_eq!(within(asking).await.unwrap().reason(), "cut_off");
    model.settled().await;
    assert_eq!(ledger.open(), 0);
}

#[tokio::test]
async fn a_provider_that_does_not_keep_to_the_bound_it_was_sent_is_cut() {
    let boundless = handler(|_| async {
        let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n";
        let events = futures_util::stream::unfold((), move |()| async move {
            tokio::task::yield_now().await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(event.as_bytes()))), ()))
        });
        let body: Body = StreamBody::new(events).boxed();
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    });
    let (ledger, kind) = (Memory::unbound(), Kind::Tls(&["http/1.1"]));
    let (routes, limits) = (vec![route_of(Way::Chat)], GatewayLimits::default());
    let origin = (Arc::default(), boundless);
    let bench = Bench::governed(ledger.clone(), Default::default(), kind, routes, origin, limits).await;
    let mut client = bench.client(&["http/1.1"]).await;
    let got = ask(&mut client, Way::Chat, Answered::Streamed, Some(100)).await;
    assert!(got.complete && got.text().contains("was allowed 100"), "{}", got.text());
    assert_eq!(bench.gateway.settled(support::model::WAIT_MAX).await, 0);
    let event = bench.log.wait(|event| event.result == Outcome::Blocked).await;
    assert_eq!(detail(&event, "reason").as_deref(), Some("budget_exhausted"));
    assert!(ledger.total("openai") >= 100);
}

#[tokio::test]
async fn an_answer_that_is_no_models_breaks_off() {
    let endless = handler(|_| async {
        let lines = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"line\n"))), ()))
        });
        let body: Body = StreamBody::new(lines).boxed();
        Response::builder().header("content-type", "application/octet-stream").body(body).unwrap()
    });
    let kind = Kind::Tls(&["h2", "http/1.1"]);
    let bench = Bench::with(kind, vec![route(support::HOST)], Arc::default(), endless, Default::default()).await;
    for alpn in ["h2", "http/1.1"] {
        let mut client = bench.client(&[alpn]).await;
        let request = client.request(Method::GET, "/lines").body(full("")).unwrap();
        let mut response = within(client.start(request)).await.unwrap();
        within(response.frame()).await.unwrap().unwrap();
        bench.gateway.cut_off(cut_off());
        assert!(!within(read(response)).await.complete, "{alpn}");
        bench.gateway.restore();
    }
}

/// Speaks just enough of a chat's stream over plain HTTP, an event each millisecond, and says when its peer was gone.
async fn raw_provider(gone: tokio::sync::mpsc::Sender<Instant>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let gone = gone.clone();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let mut head = [0; 4096];
                let _ = from.read(&mut head).await;
                let writing = tokio::spawn(async move {
                    let start =
                        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                    let _ = to.write_all(start.as_bytes()).await;
                    let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n";
                    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                    while to.write_all(chunk.as_bytes()).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                });
                while from.read(&mut head).await.is_ok_and(|n| n > 0) {}
                let _ = gone.send(Instant::now()).await;
                writing.abort();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_is_gone_within_milliseconds_whether_its_client_reads_or_not() {
    let (gone, mut went) = tokio::sync::mpsc::channel(64);
    let mut upstreams = carboy_core::upstream::Upstreams::default();
    let address = raw_provider(gone).await;
    let transport = carboy_core::upstream::Transport::Plain;
    let upstream = carboy_core::upstream::Upstream { address, transport, extra_ca_pem: None };
    upstreams.insert(carboy_core::host::Host::parse(support::HOST).unwrap(), None, upstream);
    let (origin, unused) = (Arc::default(), handler(|_| async { Response::new(full("")) }));
    let (ledger, routes) = (Memory::unbound(), vec![route_of(Way::Chat)]);
    let limits = GatewayLimits::default();
    let bench = Bench::governed(ledger, upstreams, Kind::Plain, routes, (origin, unused), limits).await;
    let mut took = Vec::new();
    for round in 0..40 {
        let mut client = bench.client(&["http/1.1"]).await;
        let request =
            Way::Chat.request(&client, Answered::Streamed, "", Way::Chat.body(Answered::Streamed, Some(20_000), "x"));
        let mut response = within(client.start(request)).await.unwrap();
        within(response.frame()).await.unwrap().unwrap();
        let reading = (round % 2 == 0).then(|| tokio::spawn(read(response)));
        let crossed = Instant::now();
        bench.gateway.cut_off(cut_off());
        took.push(within(went.recv()).await.unwrap() - crossed);
        if let Some(reading) = reading {
            assert!(within(reading).await.unwrap().complete);
        }
        bench.gateway.restore();
    }
    took.sort();
    println!("crossing to the upstream's end: p50 {:?}, p99 {:?}", took[took.len() / 2], took[took.len() - 1]);
    // Twenty milliseconds on a machine of its own; here others build beside it.
    assert!(took[took.len() / 2] < Duration::from_millis(20), "{took:?}");
}

#[tokio::test]
async fn a_client_that_goes_on_asking_is_slowed_down_and_then_its_supervisor_is_told() {
    let ledger = Memory::unbound();
    let limits = GatewayLimits {
        storm_denials_max: 5,
        storm_window: Duration::from_secs(3600),
        storm_every: Duration::from_millis(20),
        ..GatewayLimits::default()
    };
    let bench = Bench::with(
        Kind::Plain,
        vec![route_of(Way::Chat)],
        Arc::default(),
        handler(|_| async { Response::new(full("")) }),
        limits,
    )
    .await;
    let storms = bench.gateway.storms();
    bench.gateway.cut_off(cut_off());
    let mut client = bench.plain(support::HOST, 80).await;
    let mut levels = Vec::new();
    for _ in 0..21 {
        assert_eq!(ask(&mut client, Way::Chat, Answered::Whole, Some(5)).await.reason(), "cut_off");
        levels.push(*storms.borrow());
    }
    assert_eq!(levels[..10], [0; 10], "{levels:?}");
    assert_eq!(levels[10..], [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3], "{levels:?}");
    bench.gateway.restore();
    assert_eq!(*storms.borrow(), 0);
    assert_eq!(ledger.calls(), []);
}
