//! What becomes of open streams when the routes change under them.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carboy_core::route::{PathMatch, RequestMatch, Route, RouteSet};
use http::{Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use support::{Bench, Body, HOST, Handler, Kind, Origin, full, handler, route};

/// A stream that was closed is over within this.
const CLOSED_WAIT_MAX: Duration = Duration::from_secs(10);

fn below(path: &str) -> Route {
    let matches = vec![RequestMatch { paths: vec![PathMatch::Prefix(path.into())], ..RequestMatch::default() }];
    Route { matches, ..route(HOST) }
}

/// Answers every request with a line now and then, without end.
fn endless() -> Handler {
    handler(|_| async {
        let lines = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"line\n"))), ()))
        });
        let body: Body = StreamBody::new(lines).boxed();
        Response::builder().header("content-type", "application/octet-stream").body(body).unwrap()
    })
}

#[tokio::test]
async fn e2_streams_of_a_withdrawn_rule_are_closed_and_those_of_another_on_the_same_host_flow_on() {
    let origin = Arc::<Origin>::default();
    let both = vec![below("/kept"), below("/granted")];
    let bench = Bench::with(Kind::Tls(&["h2", "http/1.1"]), both, origin, endless(), Default::default()).await;
    for alpn in [&["http/1.1"][..], &["h2"]] {
        bench.gateway.replace_routes(RouteSet::new(vec![below("/kept"), below("/granted")], 1));
        let (mut first, mut second) = (bench.client(alpn).await, bench.client(alpn).await);
        let ask = |client: &support::Client, path| client.request(Method::GET, path).body(full("")).unwrap();
        let request = ask(&first, "/granted");
        let mut granted = first.start(request).await.unwrap();
        let request = ask(&second, "/kept");
        let mut kept = second.start(request).await.unwrap();
        assert_eq!((granted.status().as_u16(), kept.status().as_u16()), (200, 200));
        granted.frame().await.unwrap().unwrap();
        // The route that stays has another number now; that makes it no other route.
        bench.gateway.replace_routes(RouteSet::new(vec![route("new.example"), below("/kept")], 2));
        let over = async { while let Some(Ok(_)) = granted.frame().await {} };
        tokio::time::timeout(CLOSED_WAIT_MAX, over).await.expect("the stream goes on without a rule");
        for _ in 0..5 {
            kept.frame().await.unwrap().unwrap();
        }
        assert_eq!(bench.client(alpn).await.get("/granted").await.reason(), "request_not_allowed");
    }
}
