//! Calls of gRPC through the gateway: messages one by one in both directions, trailers, refusals in its own words, and no
//! message that is packed.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

mod support;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use carboy_core::route::{PathMatch, RequestMatch, Route};
use carboy_egress::GatewayLimits;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use support::{Bench, Body, Client, HOST, Handler, Kind, Origin, SECRET, full, handler, read, route};
use tokio::sync::mpsc;

/// What a dialogue that flows takes between two messages, by far.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// A body that sends each piece when it is put in.
fn fed(receiver: mpsc::Receiver<Frame<Bytes>>) -> Body {
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (Ok::<_, Infallible>(frame), receiver))
    });
    struct Synced<B>(Mutex<std::pin::Pin<Box<B>>>);
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
    Synced(Mutex::new(Box::pin(StreamBody::new(frames)))).boxed()
}

/// Sends each piece back as it comes, with trailers at the end.
fn echo() -> Handler {
    handler(|request| async {
        let (sender, receiver) = mpsc::channel(16);
        let mut body = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data()
                    && sender.send(Frame::data(data)).await.is_err()
                {
                    return;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = sender.send(Frame::trailers(trailers)).await;
        });
        Response::builder().header("content-type", "application/grpc").body(fed(receiver)).unwrap()
    })
}

async fn bench(routes: Vec<Route>) -> Bench {
    Bench::with(Kind::Tls(&["h2"]), routes, Arc::default(), echo(), GatewayLimits::default()).await
}

fn call(client: &Client, path: &str, body: Body) -> Request<Body> {
    let head = client.request(Method::POST, path).header("content-type", "application/grpc").header("te", "trailers");
    head.body(body).unwrap()
}

/// A message with its prefix.
fn message(text: &[u8]) -> Bytes {
    [&[0][..], &(text.len() as u32).to_be_bytes(), text].concat().into()
}

#[tokio::test]
async fn b36_each_message_of_a_dialogue_is_passed_on_before_the_next_one_comes() {
    // Ends of messages in which a scanner may see the beginning of something: a prefix, a part of one, octets of nothing.
    let texts: [&[u8]; 9] =
        [b"0", b"s", b"hello from", b"sk-", b"risk-averse", b"\0\0\0", b"eyJ", b"ghp_", &SECRET.as_bytes()[..4]];
    let bench = bench(vec![route(HOST)]).await;
    let mut client = bench.client(&["h2"]).await;
    for in_parts in [false, true] {
        let (sender, receiver) = mpsc::channel(16);
        let request = call(&client, "/Echo", fed(receiver));
        let first = message(texts[0]);
        sender.send(Frame::data(first.clone())).await.unwrap();
        let mut answer = client.start(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let mut want = first;
        for text in texts.iter().skip(1).map(Some).chain([None]) {
            let mut got = Vec::new();
            while got.len() < want.len() {
                let frame = tokio::time::timeout(ANSWER_WAIT_MAX, answer.frame()).await;
                let frame = frame.unwrap_or_else(|_| panic!("{want:?} hangs: {got:?}"));
                got.extend(frame.unwrap().unwrap().into_data().unwrap());
            }
            assert_eq!(got, want);
            let Some(text) = text else { break };
            want = message(text);
            // As some libraries send it: the prefix, and then the message.
            let cut = if in_parts { 5 } else { want.len() };
            for part in [want.slice(..cut), want.slice(cut..)].into_iter().filter(|part| !part.is_empty()) {
                sender.send(Frame::data(part)).await.unwrap();
            }
        }
        drop(sender);
        let rest = read(answer).await;
        assert_eq!(rest.trailers.unwrap()["grpc-status"], "0");
    }
}

#[tokio::test]
async fn b36_a_message_that_ends_in_a_secret_ends_the_dialogue_and_nothing_of_it_has_left() {
    let bench = bench(vec![route(HOST)]).await;
    let mut client = bench.client(&["h2"]).await;
    let token = "ghp_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g";
    for (secret, reason) in [(SECRET, "secret_known"), (token, "secret_pattern")] {
        let (sender, receiver) = mpsc::channel(16);
        let request = call(&client, "/Echo", fed(receiver));
        sender.send(Frame::data(message(b"first"))).await.unwrap();
        let mut answer = client.start(request).await.unwrap();
        let mut got = Vec::new();
        while got.len() < 10 {
            got.extend(answer.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(got, message(b"first"));
        // Without an end of the body: the scanner does not wait for what may stand behind it.
        sender.send(Frame::data(message(secret.as_bytes()))).await.unwrap();
        let rest = tokio::time::timeout(ANSWER_WAIT_MAX, read(answer)).await.expect("it hangs");
        assert!(rest.body.len() <= 5 + 6, "{rest:?}");
        // Messages had gone before: the reason stands behind them.
        let trailers = rest.trailers.unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-carboy-reason"]),
            (&"7".parse().unwrap(), &reason.parse().unwrap())
        );
        assert!(trailers["grpc-message"].to_str().unwrap().contains(reason));
        let told = bench.log.wait(|event| support::detail(event, "reason").as_deref() == Some(reason)).await;
        assert_eq!(told.action, "request");
        drop(sender);
    }
}

#[tokio::test]
async fn b37_a_secret_that_begins_before_a_pause_and_goes_on_in_the_trailers_does_not_leave() {
    let bench = bench(vec![route(HOST)]).await;
    let mut client = bench.client(&["h2"]).await;
    let (sender, receiver) = mpsc::channel(16);
    let request = call(&client, "/Echo", fed(receiver));
    let (begin, rest) = SECRET.split_at(5);
    let first = message(format!("it is {begin}").as_bytes());
    sender.send(Frame::data(first.clone())).await.unwrap();
    let mut answer = client.start(request).await.unwrap();
    let mut got = Vec::new();
    // All of it has left by now: the server may be waiting for that.
    while got.len() < first.len() {
        got.extend(answer.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-more", rest.parse().unwrap());
    sender.send(Frame::trailers(trailers)).await.unwrap();
    let trailers = tokio::time::timeout(ANSWER_WAIT_MAX, read(answer)).await.expect("it hangs").trailers.unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-carboy-reason"]),
        (&"7".parse().unwrap(), &"secret_known".parse().unwrap())
    );
}

#[tokio::test]
async fn a_call_that_is_refused_is_answered_with_a_status_of_grpcs_and_the_words() {
    let only = Route {
        matches: vec![RequestMatch { paths: vec![PathMatch::Exact("/Echo".into())], ..RequestMatch::default() }],
        ..route(HOST)
    };
    let bench = bench(vec![only]).await;
    let mut client = bench.client(&["h2"]).await;
    let token = "ghp_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g";
    for (path, body, status, reason) in
        [("/Other", &b"hello"[..], "7", "request_not_allowed"), ("/Echo", token.as_bytes(), "7", "secret_pattern")]
    {
        let got = client.send(call(&client, path, full(message(body)))).await;
        assert_eq!((got.status, got.body.len(), got.trailers), (StatusCode::OK, 0, None));
        assert_eq!(
            (&got.headers["grpc-status"], got.headers["x-carboy-reason"].to_str().unwrap()),
            (&status.parse().unwrap(), reason)
        );
        let words = got.headers["grpc-message"].to_str().unwrap();
        assert!(words.contains(reason) && words.contains("carboy explain x-"), "{words}");
    }
    // The same over HTTP/1.1, which gRPC does not speak, is refused as everything is.
    let mut old = bench.client(&["http/1.1"]).await;
    let request = call(&old, "/Other", full("x"));
    assert_eq!(old.send(request).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn b35_messages_that_are_packed_within_the_body_do_not_pass_in_either_direction() {
    let origin = Arc::<Origin>::default();
    let answer = support::recording(origin.clone(), |request| {
        let packed = if request.target.ends_with("/packed") { "gzip" } else { "identity" };
        let response = Response::builder().header("content-type", "application/grpc").header("grpc-encoding", packed);
        response.body(full(message(b"hello"))).unwrap()
    });
    let bench = Bench::with(Kind::Tls(&["h2"]), vec![route(HOST)], origin, answer, GatewayLimits::default()).await;
    let mut client = bench.client(&["h2"]).await;
    for (field, coding) in
        [("grpc-encoding", "gzip"), ("grpc-encoding", "snappy"), ("connect-content-encoding", "zstd")]
    {
        let mut request = call(&client, "/Echo", full(message(b"x")));
        request.headers_mut().insert(field, coding.parse().unwrap());
        let got = client.send(request).await;
        assert_eq!(
            (got.reason(), &got.headers["grpc-status"]),
            ("body_undecodable", &"12".parse().unwrap()),
            "{coding}"
        );
    }
    assert!(bench.origin.received().is_empty());
    // Nobody is asked for packed ones, and whoever sends them all the same has answered nonsense.
    let mut request = call(&client, "/plain", full(message(b"x")));
    request.headers_mut().insert("grpc-accept-encoding", "identity, deflate, gzip".parse().unwrap());
    assert_eq!(client.send(request).await.body, message(b"hello"));
    assert_eq!(bench.origin.received()[0].headers["grpc-accept-encoding"], "identity");
    let got = client.send(call(&client, "/packed", full(message(b"x")))).await;
    assert_eq!((got.reason(), &got.headers["grpc-status"]), ("upstream_failed", &"14".parse().unwrap()));
}
