//! Clients that open, reset, ping and stall without end: what the gateway holds for them is bounded, and it goes on serving
//! others. (CVE-2023-44487 rapid reset; CVE-2024-27316 and its kin, CONTINUATION; CVE-2019-9511 to 9518, the older floods;
//! CVE-2016-6581, HPACK.)

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use carboy_egress::GatewayLimits;
use http::{Request, Response, StatusCode};
use support::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, connect,
    field, frame, head, stream,
};
use support::{Bench, Client, HOST, Kind, Origin, full, handler, recording, route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one flood goes on at most.
const FLOOD: Duration = Duration::from_secs(1);
/// One flood at a time: the memory is the process's.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// Octets that one flood sends at most.
const FLOOD_BYTES_MAX: usize = 64 << 20;
/// What the process may grow by, the client's own buffers and everything that allocators keep included.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

fn headers(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags, stream, &head("/a"))
}

/// Resident octets of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Whether the client of a flood reads what comes back.
#[derive(Clone, Copy, PartialEq)]
enum Reads {
    All,
    Nothing,
}

/// Sends what `next` gives until the gateway ends the connection, or enough was sent.
async fn flood(bench: &Bench, reads: Reads, mut next: impl FnMut(usize) -> Vec<u8> + Send) {
    let (mut from, mut to) = tokio::io::split(connect(bench).await);
    let reading = tokio::spawn(async move {
        let mut step = [0_u8; 16 * 1024];
        if reads == Reads::Nothing {
            std::future::pending::<()>().await;
        }
        while matches!(from.read(&mut step).await, Ok(1..)) {}
    });
    let until = Instant::now() + FLOOD;
    let (mut n, mut sent) = (0, 0);
    while Instant::now() < until && sent < FLOOD_BYTES_MAX {
        let mut bytes = Vec::new();
        while bytes.len() < 8 * 1024 {
            bytes.extend(next(n));
            n += 1;
        }
        sent += bytes.len();
        match tokio::time::timeout(Duration::from_millis(500), to.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            // The gateway ended it, or takes nothing more: either bounds it.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    reading.abort();
}

async fn bench() -> Bench {
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| Response::new(full(vec![b'x'; 256 * 1024])));
    Bench::with(Kind::Tls(&["h2"]), vec![route(HOST)], origin, answer, GatewayLimits::default()).await
}

/// Floods a gateway; what it holds stays bounded, and it and its neighbour serve on.
async fn bounded(what: &str, reads: Reads, next: impl FnMut(usize) -> Vec<u8> + Send) {
    let _one = ONE.lock().await;
    let (bench, neighbour) = (bench().await, bench().await);
    let mut other = neighbour.client(&["h2"]).await;
    assert_eq!(bench.client(&["h2"]).await.get("/").await.status, StatusCode::OK);
    let before = resident();
    let mut slowest = Duration::ZERO;
    let served = async {
        loop {
            let begin = Instant::now();
            assert_eq!(other.get("/").await.status, StatusCode::OK);
            slowest = slowest.max(begin.elapsed());
        }
    };
    tokio::select! {
        () = flood(&bench, reads, next) => {}
        () = served => {}
    }
    let growth = resident().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{what}: {} MiB", growth >> 20);
    // Far from any figure of speed: it was served all along, not after the flood.
    assert!(slowest < Duration::from_secs(2), "{what}: a neighbour waited {slowest:?}");
    assert_eq!(bench.client(&["h2"]).await.get("/").await.status, StatusCode::OK, "{what}");
}

#[tokio::test]
async fn b19_b23_what_the_library_resets_by_itself_is_in_the_log_and_other_streams_go_on() {
    let _one = ONE.lock().await;
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![route(HOST)]).await;
    let mut tls = connect(&bench).await;
    let twice = [head("/a"), field(":authority", "evil.example")].concat();
    let hop = [head("/a"), field("connection", "close")].concat();
    for (n, block) in [twice, hop].iter().enumerate() {
        tls.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream(n), block)).await.unwrap();
    }
    tls.write_all(&headers(stream(3), END_STREAM | END_HEADERS)).await.unwrap();
    bench.log.wait(|event| event.action == "answer").await;
    bench.log.wait(|event| event.action == "connect").await;
    assert_eq!(bench.origin.received().len(), 1);
    // A field that holds a line break ends all of it.
    let broken = [head("/a"), field("x", "a\r\nhost: evil.example")].concat();
    tls.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream(9), &broken)).await.unwrap();
    let _ = tls.read_to_end(&mut Vec::new()).await;
    let refused = || bench.gateway.stats().refusals.values().map(|refusal| refusal.count).sum::<u64>();
    tokio::time::timeout(FLOOD * 5, async {
        while refused() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{} refusals", refused()));
    assert_eq!(bench.log.refusals(), ["protocol_refused"], "one entry, and two repeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b23_floods_of_http2_frames_fill_no_memory_and_stop_nobody_else() {
    let many = |n: usize| stream(n);
    bounded("rapid reset", Reads::All, |n| {
        [headers(many(n), END_HEADERS | END_STREAM), frame(RST_STREAM, 0, many(n), &[0, 0, 0, 8])].concat()
    })
    .await;
    bounded("CONTINUATION without end", Reads::All, |n| match n {
        0 => headers(1, END_STREAM),
        _ => frame(CONTINUATION, 0, 1, &field("x-more", "y".repeat(100))),
    })
    .await;
    bounded("empty CONTINUATION", Reads::All, |n| match n {
        0 => headers(1, END_STREAM),
        _ => frame(CONTINUATION, 0, 1, &[]),
    })
    .await;
    bounded("SETTINGS", Reads::Nothing, |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])).await;
    bounded("PING", Reads::Nothing, |n| frame(PING, 0, 0, &(n as u64).to_be_bytes())).await;
    bounded("resets that the gateway has to send", Reads::Nothing, |n| {
        // A request without a path is none (RFC 9113, 8.1.1).
        frame(HEADERS, END_HEADERS | END_STREAM, many(n), &field(":method", "GET"))
    })
    .await;
    bounded("empty DATA", Reads::All, |n| match n {
        0 => headers(1, END_HEADERS),
        _ => frame(DATA, 0, 1, &[]),
    })
    .await;
    bounded("PRIORITY", Reads::All, |n| frame(PRIORITY, 0, many(n + 1), &[0, 0, 0, 1, 16])).await;
    bounded("WINDOW_UPDATE beyond the largest window", Reads::All, |n| match n {
        0 => headers(1, END_HEADERS),
        _ => frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b23_fields_that_unpack_to_much_and_answers_that_are_never_read_fill_no_memory() {
    // One field of 4,000 octets goes into the table; a head then names it ten thousand times, an octet each.
    bounded("HPACK", Reads::All, |n| match n {
        0 => {
            let value = "y".repeat(3_900);
            // RFC 7541, 5.1: 127 and the rest in sevens.
            let length = [0x7f, ((3_900 - 127) % 128) as u8 | 0x80, ((3_900 - 127) / 128) as u8];
            let known = [&[0x40, 6][..], b"x-bomb", &length, value.as_bytes()].concat();
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[head("/a"), known].concat())
        }
        _ => frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &[head("/a"), vec![0xbe; 10_000]].concat()),
    })
    .await;
    bounded("answers that are not read", Reads::Nothing, |n| headers(stream(n), END_HEADERS | END_STREAM)).await;
    bounded("a window of nothing", Reads::All, |n| match n {
        0 => frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        _ => headers(stream(n), END_HEADERS | END_STREAM),
    })
    .await;
    bounded("an octet of window at a time", Reads::All, |n| match n {
        0 => frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        1..100 => headers(stream(n), END_HEADERS | END_STREAM),
        _ => frame(WINDOW_UPDATE, 0, stream(n % 99 + 1), &[0, 0, 0, 1]),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_most_are_closed_and_the_others_stay() {
    let limits = GatewayLimits { connections_max: 64, ..GatewayLimits::default() };
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| Response::new(full("hello")));
    let bench = Bench::with(Kind::Plain, vec![route(HOST)], origin, answer, limits).await;
    let address = bench.listen(HOST, 80).await;
    let mut kept = bench.plain(HOST, 80).await;
    assert_eq!(kept.get("/").await.status, StatusCode::OK);
    let mut open = Vec::new();
    for _ in 0..1_000 {
        open.push(TcpStream::connect(address).await.unwrap());
    }
    // The last ones are closed at once, by a gateway that waits for nobody's first byte there.
    let mut last = open.pop().unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(5), last.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)));
    assert_eq!(kept.get("/").await.status, StatusCode::OK);
    assert!(bench.log.refusals().contains(&"limit_reached".to_owned()));
    drop(open);
    // There is room again.
    let again = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(request.as_bytes()).await;
            let mut answer = Vec::new();
            if stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
}

/// A request that its client gave up is at work no more.
#[tokio::test]
async fn a_connection_of_http2_whose_last_request_was_given_up_is_closed_when_it_is_idle() {
    let origin = Arc::new(Origin::default());
    let never = handler(|_| std::future::pending());
    let limits = GatewayLimits { idle: Duration::from_millis(300), ..GatewayLimits::default() };
    let bench = Bench::with(Kind::Tls(&["h2"]), vec![route(HOST)], origin, never, limits).await;
    let Client::H2(mut client) = bench.client(&["h2"]).await else { panic!("it was offered HTTP/2 alone") };
    let request = Request::get(format!("https://{HOST}/")).body(full("")).unwrap();
    let begun = async {
        while bench.gateway.stats().requests == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = client.send_request(request) => panic!("{answer:?}"),
        () = begun => {}
    }
    let closed = async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("it is closed");
}
