//! Halves of an exchange that outlive each other: bodies that are sent on after their answer has ended, or while nobody reads
//! it, and refusals whose client has left.

#![allow(clippy::unwrap_used)]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carboy_core::audit::{Event, Outcome};
use carboy_core::verdict::{Denial, Reason};
use carboy_egress::GatewayLimits;
use futures_util::stream::{self, Stream};
use http::{Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use support::{
    Bench, Body, Client, HOST, Handler, Kind, Origin, Received, SECRET, client_config, detail, full, handler, route,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

type Pieces = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

const WAYS: [(&str, &[&str]); 2] = [("HTTP/2", &["h2"]), ("HTTP/1.1", &["http/1.1"])];

/// How the upstream answers, before it reads.
#[derive(Clone, Copy)]
enum Answers {
    WithNothing,
    WithText,
    WithoutEnd,
}

fn flowing<T: Send + 'static>(mut pieces: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send {
    stream::poll_fn(move |cx| pieces.poll_recv(cx))
}

fn body_of<S>(pieces: S) -> Body
where
    S: Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync + 'static,
{
    BodyExt::boxed(StreamBody::new(pieces))
}

/// Answers at once, and keeps what it is sent until that ends.
fn hasty(origin: Arc<Origin>, answers: Answers) -> Handler {
    handler(move |request| {
        let origin = origin.clone();
        async move {
            tokio::spawn(async move {
                let (head, body) = request.into_parts();
                let (body, complete) = taken(body).await;
                let target = head.uri.to_string();
                let (method, version, headers) = (head.method, head.version, head.headers);
                let got = Received { method, target, version, headers, body, trailers: None, complete };
                origin.received.lock().unwrap().push(got);
            });
            let zeros = stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[0; 16 * 1024]))));
            match answers {
                Answers::WithNothing => Response::builder().status(204).body(full("")).unwrap(),
                Answers::WithText => Response::new(full("thanks")),
                Answers::WithoutEnd => Response::new(body_of(zeros)),
            }
        }
    })
}

async fn taken(mut body: Incoming) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (all, false) };
        all.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    (all, true)
}

/// A POST whose first piece is sent and whose head is answered.
struct Late {
    bench: Bench,
    pieces: Pieces,
    answer: Response<Incoming>,
    _client: Client,
}

impl Late {
    async fn begin(alpn: &'static [&'static str], answers: Answers) -> Late {
        let origin = Arc::new(Origin::default());
        let answer = hasty(origin.clone(), answers);
        let bench = Bench::with(Kind::Tls(alpn), vec![route(HOST)], origin, answer, GatewayLimits::default()).await;
        let mut client = bench.client(alpn).await;
        let (pieces, taken) = mpsc::channel(8);
        let request = client.request(Method::POST, "/late").body(body_of(flowing(taken))).unwrap();
        pieces.send(Ok(Frame::data(Bytes::from_static(b"first,")))).await.unwrap();
        let answer = client.start(request).await.unwrap();
        Late { bench, pieces, answer, _client: client }
    }

    async fn says(&self, text: &str) {
        // What the gateway stopped is wanted no more.
        let _ = self.pieces.send(Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))).await;
    }

    async fn reads_all(&mut self) {
        let body = self.answer.body_mut().collect().await.unwrap().to_bytes();
        assert!(body.is_empty() || body == "thanks");
    }

    /// What came of the body at the upstream, once it has ended there.
    async fn arrived(&self) -> Received {
        for _ in 0..1000 {
            if let Some(got) = self.bench.origin.received().pop() {
                return got;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the body still flows");
    }
}

fn is_for(reason: Reason) -> impl Fn(&Event) -> bool {
    move |event| detail(event, "reason").as_deref() == Some(reason.code())
}

#[tokio::test]
async fn a_secret_behind_the_end_of_the_answer_is_refused_with_an_entry() {
    for (way, alpn) in WAYS {
        for answers in [Answers::WithNothing, Answers::WithText] {
            let mut late = Late::begin(alpn, answers).await;
            late.reads_all().await;
            late.says(&format!("more, {SECRET}.")).await;
            let entry = late.bench.log.wait(is_for(Reason::SecretKnown)).await;
            assert_eq!((entry.action, entry.result), ("request", Outcome::Blocked), "{way}");
            assert_eq!(late.bench.gateway.stats().refused(), 1, "{way}");
            let got = late.arrived().await;
            assert!(!got.complete && !String::from_utf8_lossy(&got.body).contains(&SECRET[..8]), "{way}");
            // It is one exchange with one end.
            assert_eq!(late.bench.log.events().len(), 2, "{way}");
        }
    }
}

#[tokio::test]
async fn bytes_behind_the_end_of_the_answer_are_counted_in_its_entry() {
    for (way, alpn) in WAYS {
        let mut late = Late::begin(alpn, Answers::WithText).await;
        late.reads_all().await;
        late.says("and the rest").await;
        assert_eq!(late.bench.log.events().len(), 1, "{way}: the intent alone while bytes leave");
        drop(std::mem::replace(&mut late.pieces, mpsc::channel(1).0));
        let entry = late.bench.log.wait(|event| event.action == "answer").await;
        assert_eq!((entry.result, detail(&entry, "bytes_sent").as_deref()), (Outcome::Done, Some("18")), "{way}");
        assert_eq!(late.arrived().await.body, b"first,and the rest", "{way}");
    }
}

#[tokio::test]
async fn a_client_that_has_its_answer_and_leaves_in_the_middle_of_its_body_was_refused_nothing() {
    let origin = Arc::new(Origin::default());
    let answer = hasty(origin.clone(), Answers::WithText);
    let bench =
        Bench::with(Kind::Tls(&["http/1.1"]), vec![route(HOST)], origin, answer, GatewayLimits::default()).await;
    let tcp = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&bench.ca_pem, &["http/1.1"])));
    let mut tls = connector.connect(ServerName::try_from(HOST).unwrap(), tcp).await.unwrap();
    let begun = format!("POST /late HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    tls.write_all(begun.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(6).any(|text| text == b"thanks") {
        assert_ne!(tls.read_buf(&mut answer).await.unwrap(), 0);
    }
    drop(tls);
    let entry = bench.log.wait(|event| event.result != Outcome::Allowed).await;
    assert_eq!((entry.action, entry.result), ("answer", Outcome::Done));
    assert_eq!((bench.log.events().len(), bench.gateway.stats().refused()), (2, 0));
}

#[tokio::test]
async fn nothing_more_of_a_body_leaves_once_the_routes_are_closed_whether_its_answer_is_read_or_over() {
    for (way, alpn) in WAYS {
        for answers in [Answers::WithText, Answers::WithoutEnd] {
            let mut late = Late::begin(alpn, answers).await;
            if matches!(answers, Answers::WithText) {
                late.reads_all().await;
            }
            late.bench.gateway.cut_off(Denial::new(Reason::CutOff, "stop"));
            let got = late.arrived().await;
            assert!(!got.complete, "{way}");
            late.says("too late").await;
            drop((late.answer, late._client));
            late.bench.log.wait(is_for(Reason::CutOff)).await;
        }
    }
}

#[tokio::test]
async fn a_refusal_whose_client_leaves_before_its_turn_has_its_entry() {
    for (way, alpn) in WAYS {
        let limits =
            GatewayLimits { refusal_every: Duration::from_secs(3600), refusal_burst: 0, ..GatewayLimits::default() };
        let origin = Arc::new(Origin::default());
        let answer = hasty(origin.clone(), Answers::WithNothing);
        let bench = Bench::with(Kind::Tls(alpn), vec![route(HOST)], origin, answer, limits).await;
        for _ in 0..3 {
            let mut client = bench.client(alpn).await;
            let request = client.request(Method::POST, &format!("/{SECRET}")).body(full("")).unwrap();
            let seen = bench.gateway.stats().requests;
            {
                let mut answer = std::pin::pin!(client.start(request));
                while bench.gateway.stats().requests == seen {
                    tokio::select! {
                        answer = &mut answer => panic!("{way}: {answer:?} before its turn"),
                        () = tokio::time::sleep(Duration::from_millis(5)) => {}
                    }
                }
            }
        }
        bench.log.wait(is_for(Reason::SecretKnown)).await;
        for _ in 0..500 {
            if bench.gateway.stats().refused() == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(bench.gateway.stats().refused(), 3, "{way}");
        // Those of one kind are one entry and a number: nothing slows down a client that never waits.
        assert_eq!(bench.log.refusals(), ["secret_known"], "{way}");
        bench.gateway.shutdown();
        let rest = bench.log.wait(|event| event.action == "repeats").await;
        assert_eq!(detail(&rest, "repeats").as_deref(), Some("2"), "{way}");
    }
}
