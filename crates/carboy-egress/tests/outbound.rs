//! What a request carries out: every byte is scanned, in every disguise of its transport.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carboy_core::audit::Outcome;
use carboy_core::route::{OnMatch, Route};
use carboy_egress::GatewayLimits;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt, stream};
use http::{Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use support::{Bench, Body, Client, Got, HOST, Kind, Origin, SECRET, detail, full, recording, route};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A body in these pieces, each in a DATA frame or chunk of its own, a moment apart.
fn pieces(list: Vec<Vec<u8>>, pause: Duration) -> Body {
    let stream = stream::unfold(list.into_iter(), move |mut rest| async move {
        let piece = rest.next()?;
        tokio::time::sleep(pause).await;
        Some((Ok(Frame::data(Bytes::from(piece))), rest))
    });
    streamed(stream)
}

/// `BoxBody` wants `Sync`, which a generator of pieces is not: it is only ever polled from one task.
fn streamed<S>(frames: S) -> Body
where
    S: futures_util::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> + Send + 'static,
{
    Synced(std::sync::Mutex::new(Box::pin(StreamBody::new(frames)))).boxed()
}

struct Synced<B>(std::sync::Mutex<std::pin::Pin<Box<B>>>);

impl<B: http_body::Body> http_body::Body for Synced<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.get_mut().0.get_mut().unwrap().as_mut().poll_frame(cx)
    }
}

fn redacting() -> Route {
    let mut route = route(HOST);
    route.dlp.outbound_on_match = OnMatch::Redact;
    route
}

async fn post(client: &mut Client, headers: &[(&str, &str)], body: Body) -> Got {
    let mut request = client.request(Method::POST, "/upload");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send(request.body(body).unwrap()).await
}

#[tokio::test]
async fn a_known_secret_stops_in_target_header_and_body() {
    let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![route(HOST)]).await;
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let mut client = bench.client(alpn).await;
        assert_eq!(client.get(&format!("/{SECRET}")).await.reason(), "secret_known");
        assert_eq!(client.get(&format!("/?key={SECRET}")).await.reason(), "secret_known");
        assert_eq!(post(&mut client, &[("x-note", SECRET)], full("")).await.reason(), "secret_known");
        assert_eq!(post(&mut client, &[], full(format!("note={SECRET}"))).await.reason(), "secret_known");
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    assert_eq!(bench.origin.received().len(), 2);
    let written = format!("{:?}", bench.log.events());
    assert!(!written.contains(SECRET), "{written}");
    assert!(written.contains("known_secret:API_KEY"), "{written}");
}

#[tokio::test]
async fn b36_a_secret_in_pieces_never_arrives_and_no_more_than_its_first_characters_where_it_may_be_a_dialogue() {
    let ways = [("h2", true), ("h2", false), ("http/1.1", true), ("http/1.1", false)];
    for (alpn, promised) in ways {
        let alpn = &[alpn];
        let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![route(HOST)]).await;
        let mut client = bench.client(alpn).await;
        // Above the gate, so that the head is out and bytes flow when the secret comes.
        let mut list: Vec<Vec<u8>> = (0..3).map(|_| vec![b'x'; 48 * 1024]).collect();
        list.extend(SECRET.bytes().map(|byte| vec![byte]));
        list.push(vec![b'y'; 1000]);
        let length = list.iter().map(Vec::len).sum::<usize>().to_string();
        let fields = if promised { &[("content-length", length.as_str())][..] } else { &[] };
        // Longer than the pause at which the other end of a dialogue would be waiting.
        let got = post(&mut client, fields, pieces(list, Duration::from_millis(60))).await;
        assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, "secret_known"));
        let blocked = bench.log.wait(|event| event.result == Outcome::Blocked).await;
        let sent: u64 = detail(&blocked, "bytes_sent").unwrap().parse().unwrap();
        assert!((64 * 1024..=160 * 1024).contains(&sent), "{sent}");
        for _ in 0..100 {
            if !bench.origin.received().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let received = &bench.origin.received()[0];
        assert!(!received.complete, "the upstream's stream was reset");
        let begun = received.body.iter().position(|byte| *byte != b'x').map_or(&[][..], |at| &received.body[at..]);
        // Punctuation is none of the characters that a secret is looked for by.
        let characters = begun.iter().filter(|byte| byte.is_ascii_alphanumeric()).count();
        let most = if promised { 0 } else { 6 };
        assert!(SECRET.as_bytes().starts_with(begun) && characters <= most, "{promised}: {begun:?}");
    }
}

#[tokio::test]
async fn b35_encoded_bodies_are_looked_into_and_pass_unchanged_when_clean() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let mut client = bench.plain(HOST, 80).await;
    let clean = gzip(b"nothing to see");
    let gz = [("content-encoding", "gzip")];
    assert_eq!(post(&mut client, &gz, full(clean.clone())).await.status, StatusCode::OK);
    let received = &bench.origin.received()[0];
    assert_eq!((&received.body, received.headers["content-encoding"].to_str().unwrap()), (&clean, "gzip"));
    let dirty = gzip(format!("note={SECRET}").as_bytes());
    assert_eq!(post(&mut client, &gz, full(dirty.clone())).await.reason(), "secret_known");
    let twice = [("content-encoding", "gzip, gzip")];
    assert_eq!(post(&mut client, &twice, full(gzip(&dirty))).await.reason(), "secret_known");
    assert_eq!(post(&mut client, &gz, full("not gzip")).await.reason(), "body_undecodable");
    assert_eq!(post(&mut client, &gz, full(clean[..clean.len() - 4].to_vec())).await.reason(), "body_undecodable");
    let unknown = [("content-encoding", "lzma")];
    assert_eq!(post(&mut client, &unknown, full("x")).await.reason(), "body_undecodable");
    // A bomb: 64 MiB of zeros in 64 KiB.
    let bomb = gzip(&vec![0; 64 * 1024 * 1024]);
    assert_eq!(post(&mut client, &gz, full(bomb)).await.reason(), "body_too_large");
    // In the gzip header's file name no decoder looks.
    let named = flate2::GzBuilder::new().filename(SECRET).write(Vec::new(), Compression::default()).finish().unwrap();
    assert_eq!(post(&mut client, &gz, full(named)).await.reason(), "secret_known");
    assert_eq!(bench.origin.received().len(), 1);
}

#[tokio::test]
async fn redaction_keeps_the_length_and_lets_the_rest_through() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![redacting()]).await;
    let mut client = bench.client(&["http/1.1"]).await;
    let text = format!("{{\"note\":\"{SECRET}\"}}");
    let got = post(&mut client, &[("x-note", SECRET)], full(text.clone())).await;
    assert_eq!(got.status, StatusCode::OK);
    let gz = [("content-encoding", "gzip")];
    assert_eq!(post(&mut client, &gz, full(gzip(text.as_bytes()))).await.status, StatusCode::OK);
    assert_eq!(client.get(&format!("/?key={SECRET}&a=1")).await.status, StatusCode::OK);
    let received = bench.origin.received();
    assert_eq!(received[0].body.len(), text.len());
    assert!(received[0].body.ends_with(b"\"}") && !format!("{:?}", received[0].headers).contains(SECRET));
    assert!(!received[1].headers.contains_key("content-encoding"));
    assert_eq!(received[1].headers["content-length"], text.len().to_string());
    assert!(received[2].target.contains("REDACTED") && received[2].target.ends_with("&a=1"), "{}", received[2].target);
    assert!(received.iter().all(|request| !String::from_utf8_lossy(&request.body).contains(SECRET)));
    // A match in the path was what the route was chosen by: that is refused.
    assert_eq!(client.get(&format!("/{SECRET}")).await.reason(), "secret_known");
    let outcome = bench.log.wait(|event| event.action == "answer").await;
    assert_eq!(outcome.result, Outcome::Redacted);
}

#[tokio::test]
async fn a_route_bounds_the_bodies_that_it_takes() {
    let mut small = route(HOST);
    small.body_bytes_max = Some(100_000);
    let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![small]).await;
    let mut client = bench.client(&["http/1.1"]).await;
    assert_eq!(post(&mut client, &[], full(vec![b'x'; 100_001])).await.reason(), "body_too_large");
    let mut client = bench.client(&["h2"]).await;
    let list = (0..101).map(|_| vec![b'x'; 1000]).collect();
    assert_eq!(post(&mut client, &[], pieces(list, Duration::ZERO)).await.reason(), "body_too_large");
    assert_eq!(post(&mut client, &[], full(vec![b'x'; 100_000])).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_refused_upload_still_gets_its_answer() {
    let bench = Bench::start(Kind::Gone, vec![]).await;
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let mut client = bench.client(alpn).await;
        let got = post(&mut client, &[], full(vec![b'x'; 8 * 1024 * 1024])).await;
        assert_eq!(got.reason(), "host_not_allowed");
    }
}

#[tokio::test]
async fn two_parties_that_wait_for_each_other_are_not_kept_waiting() {
    // The client sends a line and sends the next one only after the upstream's head has come.
    let origin = Arc::new(Origin::default());
    let answer = support::handler(|_request| async { Response::new(full("ready")) });
    let bench = Bench::with(Kind::Tls(&["h2"]), vec![route(HOST)], origin, answer, GatewayLimits::default()).await;
    let mut client = bench.client(&["h2"]).await;
    let list = vec![b"first\n".to_vec(), b"second\n".to_vec()];
    let request = client.request(Method::POST, "/dialogue").body(pieces(list, Duration::from_millis(400))).unwrap();
    let response = tokio::time::timeout(Duration::from_secs(2), client.start(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn trailers_pass_and_are_scanned() {
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = vec![Ok(Frame::data(Bytes::from_static(b"pong"))), Ok(Frame::trailers(trailers))];
        Response::new(streamed(stream::iter(frames)))
    });
    let bench = Bench::with(Kind::Tls(&["h2"]), vec![route(HOST)], origin, answer, GatewayLimits::default()).await;
    let mut client = bench.client(&["h2"]).await;
    for (value, reason) in [("1", ""), (SECRET, "secret_known")] {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", value.parse().unwrap());
        let frames = vec![Ok(Frame::data(Bytes::from_static(b"ping"))), Ok(Frame::trailers(trailers))];
        let body = streamed(stream::iter(frames));
        let got = post(&mut client, &[("te", "trailers"), ("content-type", "application/grpc")], body).await;
        // A refusal of gRPC is a status of its own.
        assert_eq!((got.status, got.reason()), (StatusCode::OK, reason));
        if reason.is_empty() {
            assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
            let received = &bench.origin.received()[0];
            assert_eq!(received.trailers.as_ref().unwrap()["x-sum"], "1");
            assert_eq!(received.headers["te"], "trailers");
        }
    }
    assert_eq!(bench.origin.received().len(), 1);
}

#[tokio::test]
async fn a_secret_that_goes_on_in_the_trailers_stops_there() {
    let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![route(HOST)]).await;
    let mut client = bench.client(&["h2"]).await;
    let (a, b) = SECRET.split_at(26);
    for (body, name, value) in [
        (a.to_owned(), "x-t", b.to_owned()),
        (format!("key={a}"), "x-t", format!("{b} and more")),
        // Its base64.
        ("c2stdGVzdC1acTh2VHIzTG1XNXhLZDBQ".to_owned(), "x-t", "eUI3bkhjMkE=".to_owned()),
        (SECRET[..24].to_owned(), "yb7nhc2a", "x".to_owned()),
        ("ghp_iK2ZWeqhFWCEPyYn".to_owned(), "x-t", "gFb51yBMWXaSCrUZoL8g".to_owned()),
    ] {
        for pause in [Duration::ZERO, Duration::from_millis(400)] {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-first", "1".parse().unwrap());
            trailers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
            let frames = vec![Frame::data(Bytes::from(body.clone())), Frame::trailers(trailers)];
            let frames = stream::unfold(frames.into_iter(), move |mut rest| async move {
                let frame = rest.next()?;
                tokio::time::sleep(pause).await;
                Some((Ok(frame), rest))
            });
            let got = post(&mut client, &[("te", "trailers")], streamed(frames)).await;
            assert!(got.reason().starts_with("secret_"), "{body} {value} {pause:?} {got:?}");
        }
    }
    let all = bench.origin.received();
    assert!(all.iter().all(|got| !got.complete && got.body.len() <= 4 && got.trailers.is_none()), "{all:?}");
}

#[tokio::test]
async fn sixty_four_mebibytes_stream_through_in_bounded_memory() {
    const PIECES: usize = 1024;
    let origin = Arc::new(Origin::default());
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = count.clone();
    let answer = support::handler(move |request| {
        let counted = counted.clone();
        async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                let n = frame.data_ref().map_or(0, |data| data.len() as u64);
                counted.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
            }
            Response::new(full("stored"))
        }
    });
    let bench =
        Bench::with(Kind::Tls(&["http/1.1"]), vec![route(HOST)], origin, answer, GatewayLimits::default()).await;
    let mut client = bench.client(&["http/1.1"]).await;
    let before = resident_bytes();
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    let frames = stream::iter((0..PIECES).map(move |_| Ok(Frame::data(piece.clone()))));
    let got = post(&mut client, &[], streamed(frames)).await;
    assert_eq!(got.text(), "stored");
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), (PIECES * 64 * 1024) as u64);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 24 * 1024 * 1024, "{grown} bytes more than before");
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test]
async fn expect_100_continue_is_answered() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let mut tcp = tokio::net::TcpStream::connect(bench.listen(HOST, 80).await).await.unwrap();
    let head = "POST /x HTTP/1.1\r\nhost: api.example\r\ncontent-length: 4\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 64];
    let n = tcp.read(&mut buffer).await.unwrap();
    assert!(buffer[..n].starts_with(b"HTTP/1.1 100 Continue"));
    tcp.write_all(b"body").await.unwrap();
    let mut rest = String::new();
    tcp.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200"));
    assert_eq!(bench.origin.received()[0].body, b"body");
}

#[tokio::test]
async fn a_secret_in_the_crumbs_of_a_field_or_under_more_escapes_stops() {
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![route(HOST)]).await;
    let mut client = bench.client(&["h2"]).await;
    let (a, b) = SECRET.split_at(12);
    for fields in [[("cookie", a), ("cookie", b)], [("x-a", a), ("x-b", b)]] {
        assert_eq!(post(&mut client, &fields, full("")).await.reason(), "secret_known", "{fields:?}");
    }
    for escape in ["%5A", "%255A", "%25255A"] {
        let hidden = SECRET.replace('Z', escape);
        assert_eq!(client.get(&format!("/?q={hidden}")).await.reason(), "secret_known", "{escape}");
        assert_eq!(post(&mut client, &[("x-a", &hidden)], full("")).await.reason(), "secret_known", "{escape}");
    }
    assert!(bench.origin.received().is_empty());
}

#[tokio::test]
async fn a_token_in_the_name_of_a_gzip_member_stops() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let mut client = bench.client(&["http/1.1"]).await;
    let name = "ghp_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g";
    let mut member = flate2::GzBuilder::new().filename(name).write(Vec::new(), Compression::default());
    member.write_all(b"nothing to see").unwrap();
    let got = post(&mut client, &[("content-encoding", "gzip")], full(member.finish().unwrap())).await;
    assert_eq!(got.reason(), "secret_pattern");
    assert!(bench.origin.received().is_empty());
}

/// zstd data (RFC 8878, 3.1.1): one frame of raw blocks.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    let blocks: Vec<&[u8]> = bytes.chunks(100_000).collect();
    for (i, block) in blocks.iter().enumerate() {
        let head = (block.len() as u32) << 3 | u32::from(i + 1 == blocks.len());
        out.extend_from_slice(&head.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out
}

#[tokio::test]
async fn a_large_zstd_body_passes_and_bodies_that_are_read_whole_share_a_bound() {
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| http::Response::new(full("hello")));
    let limits = GatewayLimits { whole_bytes_max: 4_000_000, ..GatewayLimits::default() };
    let bench = Bench::with(Kind::Tls(&["h2"]), vec![route(HOST)], origin, answer, limits).await;
    let mut client = bench.client(&["h2"]).await;
    let body = zstd(&b"0123456789".repeat(300_000));
    let encoded = [("content-encoding", "zstd")];
    assert_eq!(post(&mut client, &encoded, full(body.clone())).await.status, StatusCode::OK);
    // One that never ends keeps its share; the next does not fit beside it.
    let Client::H2(sender) = &client else { panic!("h2 was asked for") };
    let mut other = Client::H2(sender.clone());
    let open = other.request(Method::POST, "/open").header("content-encoding", "zstd");
    let first = stream::iter([Ok(Frame::data(Bytes::from(body.clone())))]);
    let open = open.body(streamed(first.chain(stream::pending()))).unwrap();
    let waiting = tokio::spawn(async move { other.start(open).await.map(|got| got.status()) });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(post(&mut client, &encoded, full(body.clone())).await.reason(), "limit_reached");
    waiting.abort();
    let _ = waiting.await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(post(&mut client, &encoded, full(body)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn trailers_say_nothing_that_belongs_in_a_head() {
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![keyed()]).await;
    let mut client = bench.client(&["h2"]).await;
    let mut trailers = http::HeaderMap::new();
    for name in ["authorization", "x-api-key", "x-goog-api-key", "host", "cookie", "content-type", "x-sum"] {
        trailers.insert(name, "another".parse().unwrap());
    }
    let frames = vec![Ok(http_body::Frame::data(Bytes::from("hi"))), Ok(http_body::Frame::trailers(trailers))];
    let body = streamed(futures_util::stream::iter(frames));
    assert_eq!(post(&mut client, &[], body).await.status, StatusCode::OK);
    let got = bench.origin.received()[0].trailers.clone().unwrap();
    assert_eq!(got.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-sum"]);
}

fn keyed() -> Route {
    let mut keyed = route(HOST);
    keyed.auth = Some(carboy_core::route::RouteAuth {
        header: "x-goog-api-key".into(),
        scheme: carboy_core::route::AuthScheme::Bare,
        secret: support::secret_name(),
    });
    keyed
}

#[tokio::test]
async fn no_credential_of_the_bottles_own_gets_past_the_one_that_is_set() {
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![keyed()]).await;
    let mut client = bench.client(&["h2"]).await;
    for (asked, sent) in [
        ("/v1/x?beta=true&alt=sse&pageToken=k&keys=1", "/v1/x?beta=true&alt=sse&pageToken=k&keys=1"),
        ("/v1/x?key=another&alt=sse", "/v1/x?alt=sse"),
        ("/v1/x?alt=sse&%6bey=another", "/v1/x?alt=sse"),
        ("/v1/x?%256bey=another", "/v1/x"),
        ("/v1/x?access_token=another;a=b&Api-Key=another", "/v1/x?a=b"),
        ("/v1/x?oauth_token=another&$httpHeaders=x-goog-api-key:another", "/v1/x"),
        ("/v1/x?%24httpHeaders=authorization:another&private_token=another&a", "/v1/x?a"),
        ("/v1/x?key%3Danother", "/v1/x"),
        ("/v1/x?key[]=another", "/v1/x"),
    ] {
        let request = client.request(Method::GET, asked).header("cookie", "session=another").body(full("")).unwrap();
        assert_eq!(client.send(request).await.status, StatusCode::OK, "{asked}");
        let got = bench.origin.received().pop().unwrap();
        assert_eq!(got.target.trim_start_matches("https://api.example"), sent, "{asked}");
        assert!(!got.headers.contains_key("cookie") && got.headers["x-goog-api-key"] == SECRET);
    }
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![route(HOST)]).await;
    let mut client = bench.client(&["h2"]).await;
    assert_eq!(client.get("/v1/x?key=own").await.status, StatusCode::OK);
    assert!(bench.origin.received()[0].target.ends_with("/v1/x?key=own"));
}

#[tokio::test]
async fn the_path_that_is_sent_is_the_one_that_is_scanned() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let mut client = bench.client(&["http/1.1"]).await;
    let (a, b) = SECRET.split_at(26);
    let single = |between: &str| SECRET.chars().map(|c| format!("{c}{between}")).collect::<String>();
    for path in [
        format!("/m/{a}/xyz/../{b}"),
        format!("/m/{a}/%78yz/%2e%2e/{b}"),
        format!("/m/{a}/..%41..zzzz/..;q/{b}"),
        format!("/{}", single("/xyz/../")),
        format!("/{}", single("/%78yz/%2e%2e/")),
        // What is taken out of it was meant to leave all the same.
        format!("/{SECRET}/../x"),
    ] {
        assert_eq!(client.get(&path).await.reason(), "secret_known", "{path}");
        // A query does not turn it into something else.
        assert_eq!(client.get(&format!("{path}?a=b")).await.reason(), "secret_known", "{path}");
    }
    assert!(bench.origin.received().is_empty());
    let told = |event: &carboy_core::audit::Event| detail(event, "path").unwrap_or_default();
    let joined: String = bench.log.events().iter().map(|event| told(event) + "\n").collect();
    assert!(!joined.contains(a) && !joined.contains(&SECRET[..6]), "{joined}");
    // What is sent is what is written down.
    assert_eq!(client.get("/a/x/../%62?q=/../z").await.status, StatusCode::OK);
    assert_eq!(bench.origin.received()[0].target, "/a/b?q=/../z");
    let sent = bench.log.wait(|event| event.action == "answer").await;
    assert_eq!((told(&sent).as_str(), detail(&sent, "path_altered").as_deref()), ("/a/b", Some("true")));
}

#[tokio::test]
async fn zlib_data_behind_other_text_are_looked_into() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let mut client = bench.client(&["http/1.1"]).await;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(SECRET.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let body = [b"--b\r\ncontent-type: application/octet-stream\r\n\r\n", &packed[..], b"\r\n--b--\r\n"].concat();
    let fields = [("content-type", "multipart/form-data; boundary=b")];
    assert_eq!(post(&mut client, &fields, full(body)).await.reason(), "secret_known");
    assert!(bench.origin.received().is_empty());
}
