//! Upstreams that are down, slow, cut short or out of their mind, clients that never send or never read, and ten thousand
//! connections: each ends in words or with the connection, within its time; what is cut short never looks whole; nothing is
//! kept for it; and the next request is served.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use carboy_core::host::Host;
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::{CertificateAuthority, GatewayLimits};
use futures_util::future::join_all;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use support::h2::{CONTINUATION, DATA, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame};
use support::{Bench, Got, HOST, Kind, Origin, detail, full, handler, now_ms, read, recording, route};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What any of this may take, by far.
const END_WAIT_MAX: Duration = Duration::from_secs(20);
/// What the process may grow by, with the tests beside it; what is kept without bound is beyond it in a second.
const GROWTH_BYTES_MAX: u64 = 192 << 20;

/// Resident octets of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Limits that are reached within a test.
fn quick() -> GatewayLimits {
    GatewayLimits {
        // The test's own clients have to make theirs in it, many at once.
        first_byte: Duration::from_secs(3),
        handshake: Duration::from_secs(3),
        dial: Duration::from_millis(600),
        idle: Duration::from_millis(600),
        answer_head: Duration::from_millis(600),
        body_idle: Duration::from_millis(600),
        unread: Duration::from_millis(600),
        ..GatewayLimits::default()
    }
}

/// How an upstream goes on once it has written what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Closes,
    /// Without a word of TLS.
    Drops,
    Resets,
    Stalls,
    /// Writes its last piece again and again.
    GoesOn,
}

/// What becomes of the request for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// Refused in words: no head had come.
    InWords,
    /// The head is there, and the body breaks off; or in words, where it broke off while the head was still held.
    Cut,
    /// All of it came.
    Whole,
}

/// One way of an upstream to answer.
#[derive(Clone, Debug)]
struct Way {
    what: &'static str,
    says: Vec<u8>,
    then: Then,
    ends: Ends,
}

fn way(what: &'static str, says: impl Into<Vec<u8>>, then: Then, ends: Ends) -> Way {
    Way { what, says: says.into(), then, ends }
}

/// Has a request begun? Connections are opened before there is one, and an answer to none is nonsense.
fn is_asked(read: &[u8], alpn: Option<&[u8]>) -> bool {
    if alpn != Some(b"h2") {
        return !read.is_empty();
    }
    let mut rest = read.get(24..).unwrap_or_default();
    while let [a, b, c, kind, ..] = *rest {
        if kind == HEADERS {
            return true;
        }
        rest = rest.get(9 + u32::from_be_bytes([0, a, b, c]) as usize..).unwrap_or_default();
    }
    false
}

/// Reads the beginning of the request and answers in its way.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, way: &Way, alpn: Option<&[u8]>) {
    let (mut head, mut read) = ([0; 4096], Vec::new());
    while !is_asked(&read, alpn) {
        match stream.read(&mut head).await {
            Ok(count @ 1..) => read.extend_from_slice(&head[..count]),
            Ok(0) | Err(_) => return,
        }
    }
    let _ = stream.write_all(&way.says).await;
    let _ = stream.flush().await;
    match way.then {
        Then::Closes => drop(stream.shutdown().await),
        Then::Drops | Then::Resets => {}
        Then::Stalls => while stream.read(&mut head).await.is_ok_and(|count| count > 0) {},
        Then::GoesOn => {
            let last = way.says[way.says.len().saturating_sub(1024)..].to_vec();
            while stream.write_all(&last).await.is_ok() {}
        }
    }
}

/// An upstream of this way, over TLS with this ALPN or plain.
async fn upstream(way: Way, alpn: Option<&'static [u8]>) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = alpn.map(|alpn| {
        let (world, _) = CertificateAuthority::generate(now_ms()).unwrap();
        let leaf = world.mint(&Host::parse(HOST).unwrap(), now_ms()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(leaf)));
        config.alpn_protocols = vec![alpn.to_vec()];
        (tokio_rustls::TlsAcceptor::from(Arc::new(config)), world.ca_pem().to_owned())
    });
    let acceptor = tls.as_ref().map(|(acceptor, _)| acceptor.clone());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (way, acceptor) = (way.clone(), acceptor.clone());
            tokio::spawn(async move {
                if way.then == Then::Resets {
                    socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
                }
                match acceptor {
                    None => answer(tcp, &way, None).await,
                    Some(acceptor) => {
                        if let Ok(tls) = acceptor.accept(tcp).await {
                            answer(tls, &way, alpn).await;
                        }
                    }
                }
            });
        }
    });
    let transport = if tls.is_some() { Transport::Tls } else { Transport::Plain };
    Upstream { address, transport, extra_ca_pem: tls.map(|(_, pem)| pem) }
}

async fn reaching(upstream: Upstream, limits: GatewayLimits) -> Bench {
    let mut upstreams = Upstreams::default();
    upstreams.insert(Host::parse(HOST).unwrap(), None, upstream);
    let unused = handler(|_| async { Response::new(full("")) });
    Bench::reaching(upstreams, Kind::Plain, vec![route(HOST)], Arc::default(), unused, limits).await
}

/// Asks once and sees how it ends.
async fn ask(way: &Way, alpn: Option<&'static [u8]>) {
    let bench = reaching(upstream(way.clone(), alpn).await, quick()).await;
    let asked = async {
        let protocol = if alpn == Some(b"h2") { "h2" } else { "http/1.1" };
        let mut client = bench.client(&[protocol]).await;
        client.get("/").await
    };
    let got: Got = tokio::time::timeout(END_WAIT_MAX, asked).await.unwrap_or_else(|_| panic!("{}: hangs", way.what));
    let ends = match got.reason() {
        "upstream_failed" | "upstream_unreachable" => {
            assert_eq!(got.status, StatusCode::BAD_GATEWAY, "{}: {got:?}", way.what);
            assert!(got.text().contains("carboy could not get it"), "{}: {}", way.what, got.text());
            Ends::InWords
        }
        "" if got.complete => Ends::Whole,
        "" => Ends::Cut,
        other => panic!("{}: refused for {other}", way.what),
    };
    let as_wanted = ends == way.ends || way.ends == Ends::Cut && ends != Ends::Whole;
    assert!(as_wanted, "{}: {ends:?}, not {:?}: {got:?}", way.what, way.ends);
    // What was not whole stands in the log with its reason.
    if ends != Ends::Whole {
        let failed = |event: &carboy_core::audit::Event| {
            detail(event, "reason").is_some_and(|reason| reason.starts_with("upstream_"))
        };
        bench.log.wait(failed).await;
    }
}

/// What servers of HTTP/1.1 do wrong.
fn of_http1() -> Vec<Way> {
    use Ends::{Cut, InWords, Whole};
    use Then::{Closes, GoesOn, Resets, Stalls};
    let head = "HTTP/1.1 200 OK\r\n";
    let length = |n: usize, body: &str| format!("{head}content-length: {n}\r\n\r\n{body}");
    let chunked = |body: &str| format!("{head}transfer-encoding: chunked\r\n\r\n{body}");
    vec![
        way("in order, with a length", length(5, "hello"), Closes, Whole),
        way("in order, in chunks", chunked("5\r\nhello\r\n0\r\n\r\n"), Closes, Whole),
        way("to the end of the connection", format!("{head}connection: close\r\n\r\nhello"), Closes, Whole),
        way("closed without a word", "", Closes, InWords),
        way("reset without a word", "", Resets, InWords),
        way("silent", "", Stalls, InWords),
        way("half a head", &head[..12], Closes, InWords),
        way("half a head, and silent", format!("{head}x-a: b"), Stalls, InWords),
        way("a head without end", format!("{head}{}", "x-a: b\r\n".repeat(1024)), GoesOn, InWords),
        way("interim answers without end", "HTTP/1.1 100 Continue\r\n\r\n".repeat(256), GoesOn, InWords),
        way("fields beyond the most", format!("{head}{}\r\n", "x-a: b\r\n".repeat(200)), Closes, InWords),
        way("no HTTP", "SSH-2.0-OpenSSH_9.2p1\r\n", Closes, InWords),
        way("HTTP of another kind", "HTTP/9.9 200 OK\r\ncontent-length: 0\r\n\r\n", Closes, InWords),
        way("two lengths", format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"), Closes, InWords),
        way("shorter than its length", length(50, "hello"), Closes, Cut),
        way("reset in the middle", length(50, "hello"), Resets, Cut),
        way("stalled in the middle", length(50, "hello"), Stalls, Cut),
        way("no last chunk", chunked("5\r\nhello\r\n"), Closes, Cut),
        way("half a chunk", chunked("ff\r\nhello"), Closes, Cut),
        way("half a chunk's length", chunked("5\r\nhello\r\n1"), Closes, Cut),
        way("a chunk of no length", chunked("5\r\nhello\r\nzz\r\nhello"), Closes, Cut),
        way("a chunk longer than any", chunked("5\r\nhello\r\nffffffffffffffff0\r\n"), Closes, Cut),
        way("chunks, and silent", chunked("5\r\nhello\r\n"), Stalls, Cut),
        // A length is the end, whatever follows; the connection is not used again.
        way("longer than its length", length(5, "hello, and more"), Closes, Whole),
        way(
            "a packed body that is cut",
            [
                format!("{head}content-encoding: gzip\r\ncontent-length: 12\r\n\r\n").as_bytes(),
                &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48],
            ]
            .concat(),
            Closes,
            Cut,
        ),
    ]
}

/// What servers of HTTP/2 do wrong.
fn of_http2() -> Vec<Way> {
    use Ends::{Cut, InWords, Whole};
    use Then::{Closes, Resets, Stalls};
    let settings = frame(SETTINGS, 0, 0, &[]);
    // `:status: 200`, from the static table.
    let head = frame(HEADERS, 4, 1, &[0x88]);
    let with = |frames: &[Vec<u8>]| [std::slice::from_ref(&settings), frames].concat().concat();
    let data = |flags: u8| frame(DATA, flags, 1, b"hello");
    let reset = |code: u8| frame(RST_STREAM, 0, 1, &[0, 0, 0, code]);
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]);
    vec![
        way("in order", with(&[head.clone(), data(1)]), Stalls, Whole),
        way("closed behind its settings", with(&[]), Closes, InWords),
        way("silent behind its settings", with(&[]), Stalls, InWords),
        way("no settings", "", Stalls, InWords),
        way("HTTP/1.1", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Closes, InWords),
        way("sent away", with(std::slice::from_ref(&goaway)), Closes, InWords),
        way("a stream reset before its head", with(&[reset(2)]), Stalls, InWords),
        way("a stream reset in the middle", with(&[head.clone(), data(0), reset(2)]), Stalls, Cut),
        way("a stream that is cancelled", with(&[head.clone(), data(0), reset(8)]), Stalls, Cut),
        way("closed in the middle", with(&[head.clone(), data(0)]), Closes, Cut),
        way("reset in the middle", with(&[head.clone(), data(0)]), Resets, Cut),
        way("stalled in the middle", with(&[head.clone(), data(0)]), Stalls, Cut),
        way("sent away in the middle", with(&[head.clone(), data(0), goaway]), Closes, Cut),
        way(
            "fields without end",
            with(&[frame(HEADERS, 0, 1, &[0x88]), frame(CONTINUATION, 0, 1, &[0x88; 1000])]),
            Then::GoesOn,
            InWords,
        ),
        way("data of a stream of nobody", with(&[frame(DATA, 1, 7, b"hello")]), Stalls, InWords),
        way(
            "shorter than its length",
            with(&[frame(HEADERS, 4, 1, &[&[0x88, 0x0f, 0x0d, 2][..], b"50"].concat()), data(1)]),
            Stalls,
            Cut,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_fails_in_any_way_is_told_in_words_or_breaks_off_and_never_looks_whole() {
    let before = resident();
    join_all(of_http1().iter().map(|way| ask(way, None))).await;
    join_all(of_http1().iter().map(|way| ask(way, Some(b"http/1.1")))).await;
    // A body that ends with its connection ends with the word that TLS has for that: else anybody could cut it.
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello";
    ask(&way("to the end of a connection that is dropped", head, Then::Drops, Ends::Cut), Some(b"http/1.1")).await;
    join_all(of_http2().iter().map(|way| ask(way, Some(b"h2")))).await;
    let growth = resident().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{} MiB", growth >> 20);
}

#[tokio::test]
async fn an_upstream_that_is_down_that_takes_no_connection_or_speaks_no_tls_is_told_in_words() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = upstream(way("", "HTTP/1.1 200 OK\r\n\r\n", Then::Closes, Ends::Whole), None).await;
    for (what, address) in [
        ("nobody there", TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()),
        ("nobody that accepts", silent.local_addr().unwrap()),
        ("no TLS", plain.address),
    ] {
        let upstream = Upstream { address, transport: Transport::Tls, extra_ca_pem: None };
        let bench = reaching(upstream, quick()).await;
        for alpn in [&["h2"][..], &["http/1.1"]] {
            let asked = async { bench.client(alpn).await.get("/").await };
            let got = tokio::time::timeout(END_WAIT_MAX, asked).await.unwrap_or_else(|_| panic!("{what}: hangs"));
            assert_eq!((got.status.as_u16(), got.reason()), (502, "upstream_unreachable"), "{what}: {got:?}");
        }
    }
}

/// A body that flows as long as it is read.
async fn endless() -> Upstream {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\nconnection: close\r\n\r\n";
    upstream(way("", [head.as_bytes(), &[b'x'; 1024]].concat(), Then::GoesOn, Ends::Whole), None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_answer_is_let_go_of_and_told_apart() {
    for alpn in ["h2", "http/1.1"] {
        let bench = reaching(endless().await, quick()).await;
        let mut client = bench.client(&[alpn]).await;
        let request = client.request(http::Method::GET, "/").body(full("")).unwrap();
        // The head is read, and not an octet of the body.
        let answer = tokio::time::timeout(END_WAIT_MAX, client.start(request)).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let left = bench.log.wait(|event| detail(event, "reason").as_deref() == Some("limit_reached")).await;
        assert!(detail(&left, "detail").unwrap().contains("read nothing of the answer"), "{left:?}");
        // All that was held for it has ended, its place among the requests included.
        assert!(!tokio::time::timeout(END_WAIT_MAX, read(answer)).await.unwrap().complete, "{alpn}");
        bench.gateway.shutdown();
        assert_eq!(bench.gateway.settled(END_WAIT_MAX).await, 0, "{alpn}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_and_one_whose_upstream_is_slow_are_served() {
    // Long enough for a machine that has much else to do.
    let limits = GatewayLimits { unread: Duration::from_secs(2), ..quick() };
    let bench = reaching(endless().await, limits.clone()).await;
    join_all(["h2", "http/1.1"].map(|alpn| async {
        let mut client = bench.client(&[alpn]).await;
        let request = client.request(http::Method::GET, "/").body(full("")).unwrap();
        let mut answer = client.start(request).await.unwrap();
        let until = Instant::now() + 2 * limits.unread;
        while Instant::now() < until {
            // A little now and then: each pause is shorter than the time that an answer may be left unread.
            for _ in 0..100 {
                answer.frame().await.unwrap().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }))
    .await;
    // An octet every now and then, for longer than any wait; the client reads, so it is not the client that is slow.
    let origin = Arc::<Origin>::default();
    let slow = handler(|_| async {
        let octets = futures_util::stream::unfold(0, |n| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            (n < 20).then_some((Ok::<_, std::convert::Infallible>(http_body::Frame::data("x".into())), n + 1))
        });
        Response::new(http_body_util::StreamBody::new(octets).boxed())
    });
    let bench = Bench::with(Kind::Tls(&["h2"]), vec![route(HOST)], origin, slow, quick()).await;
    let got = bench.client(&["h2"]).await.get("/").await;
    assert!(got.complete && got.body.len() == 20, "{got:?}");
}

/// A client that sends these octets and then one more now and then, until the gateway ends it; how long that took.
async fn drip(bench: &Bench, port: u16, bytes: &[u8], drop: &'static [u8]) -> Duration {
    let mut stream = TcpStream::connect(bench.listen(HOST, port).await).await.unwrap();
    let begin = Instant::now();
    stream.write_all(bytes).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while to.write_all(drop).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(END_WAIT_MAX, from.read_to_end(&mut answer)).await.expect("left open");
    dripping.abort();
    begin.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_drips_its_hello_head_or_body_is_ended_however_often_it_drips() {
    let origin = Arc::<Origin>::default();
    let answer = recording(origin.clone(), |_| Response::new(full("hello")));
    let limits = GatewayLimits { whole_body_time: Duration::from_millis(900), ..quick() };
    let bench = Bench::with(Kind::Plain, vec![route(HOST)], origin, answer, limits).await;
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n");
    let packed = format!("{head}Content-Encoding: gzip\r\nContent-Length: 100000\r\n\r\n");
    let took = join_all([
        drip(&bench, 443, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], &[3]),
        drip(&bench, 80, b"G", b"G"),
        drip(&bench, 80, head.as_bytes(), b"x-a: b\r\n"),
        // A body that has to be read whole: each octet comes in time, all of them together do not.
        drip(&bench, 80, packed.as_bytes(), b"x"),
    ])
    .await;
    assert!(took.iter().all(|took| *took < Duration::from_secs(10)), "{took:?}");
    assert!(bench.origin.received().is_empty());
    assert_eq!(bench.plain(HOST, 80).await.get("/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_leave_the_others_and_the_memory_as_they_were() {
    const ALL: usize = 10_000;
    let (bench, neighbour) =
        (Bench::start(Kind::Plain, vec![route(HOST)]).await, Bench::start(Kind::Plain, vec![route(HOST)]).await);
    let mut kept = bench.plain(HOST, 80).await;
    let mut other = neighbour.plain(HOST, 80).await;
    assert_eq!(kept.get("/").await.status, StatusCode::OK);
    let address = bench.listen(HOST, 80).await;
    let before = resident();
    // As many as this process may have open at once; the gateway closes what is beyond its own most.
    let flood = async {
        let mut open = std::collections::VecDeque::new();
        for number in 0..ALL {
            open.push_back(TcpStream::connect(address).await.unwrap());
            if open.len() > 2_000 {
                open.pop_front();
            }
            if number % 512 == 0 {
                assert_eq!(kept.get("/").await.status, StatusCode::OK);
            }
        }
        open
    };
    let mut slowest = Duration::ZERO;
    let served = async {
        loop {
            let begin = Instant::now();
            assert_eq!(other.get("/").await.status, StatusCode::OK);
            slowest = slowest.max(begin.elapsed());
        }
    };
    let open = tokio::select! {
        open = flood => open,
        () = served => unreachable!(),
    };
    assert!(slowest < Duration::from_secs(2), "a neighbour waited {slowest:?}");
    let growth = resident().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{} MiB", growth >> 20);
    assert!(bench.log.refusals().contains(&"limit_reached".to_owned()));
    // Ten thousand refusals are a few entries with a count.
    assert!(bench.log.events().len() < 1_000, "{}", bench.log.events().len());
    drop(open);
    assert_eq!(kept.get("/").await.status, StatusCode::OK);
}
