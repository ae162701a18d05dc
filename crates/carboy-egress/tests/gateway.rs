//! The gateway between a client and an upstream: what passes, what does not, and what the log says.
#![allow(clippy::unwrap_used)]

mod support;

use carboy_core::audit::Outcome;
use carboy_core::route::{AuthScheme, RouteAuth};
use http::{Method, StatusCode, Version};
use support::{Bench, Client, HOST, Kind, SECRET, client_config, detail, full, route, secret_name};

const BOTH: &[&str] = &["h2", "http/1.1"];

#[tokio::test]
async fn an_allowed_get_reaches_its_upstream_and_is_written_down() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let mut client = bench.client(&["http/1.1"]).await;
    for path in ["/v1/models?limit=2", "/again"] {
        let got = client.get(path).await;
        assert_eq!((got.status, got.text(), got.version), (StatusCode::OK, "hello", Version::HTTP_11));
    }
    let received = bench.origin.received();
    assert_eq!(
        (received[0].target.as_str(), received[0].headers["host"].to_str().unwrap()),
        ("/v1/models?limit=2", HOST)
    );
    assert_eq!(bench.origin.connections(), 1, "kept alive on both sides");
    let intent = bench.log.wait(|event| event.action == "request").await;
    assert_eq!(intent.result, Outcome::Allowed);
    assert_eq!(detail(&intent, "path").unwrap(), "/v1/models"); // never the query
    let outcome = bench.log.wait(|event| event.action == "answer").await;
    assert_eq!((outcome.result, detail(&outcome, "status").unwrap()), (Outcome::Done, "200".into()));
}

#[tokio::test]
async fn a_host_without_a_route_is_never_dialled_and_says_why() {
    let bench = Bench::start(Kind::Tls(BOTH), vec![route("other.example")]).await;
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let got = bench.client(alpn).await.get("/").await;
        assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, "host_not_allowed"));
    }
    assert_eq!(bench.origin.connections(), 0);
    let denied = bench.log.wait(|event| event.result == Outcome::Denied).await;
    assert_eq!(detail(&denied, "host").unwrap(), HOST);
}

#[tokio::test]
async fn the_client_gets_the_protocol_that_the_origin_chose() {
    for (origin, want) in [(BOTH, Version::HTTP_2), (&["http/1.1"][..], Version::HTTP_11)] {
        let bench = Bench::start(Kind::Tls(origin), vec![route(HOST)]).await;
        for _ in 0..2 {
            let got = bench.client(BOTH).await.get("/").await;
            assert_eq!((got.status, got.version), (StatusCode::OK, want));
        }
        assert!(bench.origin.received().iter().all(|request| request.version == want));
    }
}

#[tokio::test]
async fn the_real_credential_takes_the_place_of_the_fake_one() {
    let mut with_key = route(HOST);
    with_key.auth =
        Some(RouteAuth { header: "authorization".into(), scheme: AuthScheme::Bearer, secret: secret_name() });
    let bench = Bench::start(Kind::Tls(BOTH), vec![with_key]).await;
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let mut client = bench.client(alpn).await;
        let request = client
            .request(Method::GET, "/")
            .header("authorization", "Bearer sk-ant-api03-fake")
            .header("x-api-key", "another-account");
        assert_eq!(client.send(request.body(full("")).unwrap()).await.status, StatusCode::OK);
    }
    for request in bench.origin.received() {
        assert_eq!(request.headers["authorization"], format!("Bearer {SECRET}"));
        assert!(!request.headers.contains_key("x-api-key"));
    }
    assert!(bench.log.events().iter().all(|event| !format!("{event:?}").contains(SECRET)));
}

#[tokio::test]
async fn a_secret_in_what_a_route_refuses_is_not_written_down_and_not_echoed() {
    use carboy_core::route::{PathMatch, RequestMatch};
    let mut narrow = route(HOST);
    narrow.matches = vec![RequestMatch { paths: vec![PathMatch::Exact("/v1".into())], ..RequestMatch::default() }];
    let bench = Bench::start(Kind::Plain, vec![narrow]).await;
    let mut client = bench.plain(HOST, 80).await;
    let got = client.get(&format!("/{SECRET}")).await;
    assert_eq!((got.reason(), got.text().contains(SECRET)), ("request_not_allowed", false));
    let request = client.request(Method::from_bytes(SECRET.as_bytes()).unwrap(), "/v1");
    assert_eq!(client.send(request.body(full("")).unwrap()).await.reason(), "secret_known");
    assert!(!format!("{:?} {:?}", bench.log.events(), bench.gateway.stats()).contains(SECRET));
}

#[tokio::test]
async fn concurrent_h2_streams_share_one_upstream_connection() {
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![route(HOST)]).await;
    let Client::H2(sender) = bench.client(&["h2"]).await else { panic!("h2 was asked for") };
    let requests = (0..64).map(|_| {
        let mut client = Client::H2(sender.clone());
        tokio::spawn(async move { client.post("/", vec![b'x'; 100_000]).await.status })
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(bench.origin.connections(), 1);
    assert_eq!(bench.gateway.stats().requests, 64);
}

#[tokio::test]
async fn tls_sessions_are_resumed_on_both_sides() {
    use rustls::HandshakeKind;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client_config(&bench.ca_pem, &["http/1.1"])));
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let tcp = tokio::net::TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
        let mut tls = connector.connect(ServerName::try_from(HOST).unwrap(), tcp).await.unwrap();
        kinds.push(tls.get_ref().1.handshake_kind().unwrap());
        tls.write_all(b"GET / HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let _ = tls.read_to_string(&mut answer).await;
        assert!(answer.ends_with("hello"));
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
    assert_eq!(bench.origin.resumed(), 2);
}
