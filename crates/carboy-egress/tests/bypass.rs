//! Ways around the routes that have to fail: fronting, smuggling, other protocols. Rows of the bypass matrix.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use carboy_core::route::{AuthScheme, Reach, RouteAuth};
use carboy_egress::GatewayLimits;
use http::{Request, StatusCode};
use support::{Bench, Client, HOST, Kind, Origin, detail, full, h2, recording, route, secret_name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn with_key() -> carboy_core::route::Route {
    let mut route = route(HOST);
    route.auth = Some(RouteAuth { header: "authorization".into(), scheme: AuthScheme::Bearer, secret: secret_name() });
    route
}

/// Writes raw bytes to a plain connection for [`HOST`] port 80 and reads until it is closed.
async fn raw(bench: &Bench, host: &str, port: u16, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(bench.listen(host, port).await).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn until(holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waits).await.expect("it comes in time");
}

#[tokio::test]
async fn b13_a_server_name_other_than_the_name_asked_gets_421_and_no_connection() {
    let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![with_key(), route("other.example")]).await;
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let got = bench.client_of(HOST, 443, "other.example", alpn).await.get("/").await;
        assert_eq!((got.status.as_u16(), got.reason()), (421, "name_mismatch"));
    }
    assert_eq!(bench.origin.connections(), 0);
}

#[tokio::test]
async fn b15_b16_a_host_other_than_the_server_name_never_gets_the_credential() {
    let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![with_key(), route("other.example")]).await;
    let mut h1 = bench.client(&["http/1.1"]).await;
    for host in ["other.example", "api.example:8443", "evil.example", "api.example.evil.example"] {
        let request = Request::get("/").header("host", host).body(full("")).unwrap();
        assert_eq!(h1.send(request).await.reason(), "name_mismatch", "{host}");
    }
    // B23: on h2 each stream is decided by its own authority.
    let mut h2 = bench.client(&["h2"]).await;
    assert_eq!(h2.get("/").await.status, StatusCode::OK);
    let request = Request::get("https://other.example/").body(full("")).unwrap();
    assert_eq!(h2.send(request).await.reason(), "name_mismatch");
    let request = Request::get(format!("https://{HOST}/")).header("host", "other.example").body(full("")).unwrap();
    assert_eq!(h2.send(request).await.reason(), "name_mismatch");
    assert_eq!(bench.origin.received().len(), 1);
}

#[tokio::test]
async fn b5_b13_a_handshake_without_a_request_is_in_the_log_where_it_was_not_allowed() {
    let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![route(HOST)]).await;
    for alpn in [&["h2"][..], &["http/1.1"]] {
        // One that leaves before it asks is nobody's concern, where it may ask.
        drop(bench.client_of(HOST, 443, HOST, alpn).await);
        drop(bench.client_of("evil.example", 443, "evil.example", alpn).await);
        drop(bench.client_of("203.0.113.7", 993, "imap.example", alpn).await);
        drop(bench.client_of(HOST, 443, "other.example", alpn).await);
    }
    for reason in ["host_not_allowed", "address_not_allowed", "name_mismatch"] {
        let event = bench.log.wait(|event| detail(event, "reason").as_deref() == Some(reason)).await;
        assert_eq!(event.action, "connect");
    }
    assert_eq!(bench.log.refusals().len(), 3);
}

#[tokio::test]
async fn b19_one_request_has_one_target() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let answer = raw(
        &bench,
        HOST,
        80,
        b"GET / HTTP/1.1\r\nhost: api.example\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let absolute = b"GET http://evil.example/ HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n";
    assert!(raw(&bench, HOST, 80, absolute).await.contains("name_mismatch"));
    let userinfo = b"GET http://api.example@evil.example/ HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n";
    let answer = raw(&bench, HOST, 80, userinfo).await;
    assert!(answer.contains("host_invalid"), "{answer}"); // B9
    assert!(raw(&bench, HOST, 80, b"GET / HTTP/1.0\r\n\r\n").await.contains("host_invalid"));
    assert!(bench.origin.received().is_empty());
    let same = b"GET http://api.example/x HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n";
    assert!(raw(&bench, HOST, 80, same).await.starts_with("HTTP/1.1 200"));
    assert_eq!(bench.origin.received()[0].target, "/x");
}

/// U+00A0 is the no-break space.
#[tokio::test]
async fn b19_a_target_with_octets_that_are_no_ascii_is_refused_in_http1_and_in_a_path_of_http2() {
    let characters = ['\u{80}', '\u{85}', '\u{a0}', '\u{e9}', '\u{2028}', '\u{ff0f}', '\u{1f600}'].map(String::from);
    // By themselves, where they are no UTF-8.
    let alone = (0x80..=0xff_u8).map(|octet| vec![octet]);
    let h1 = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    for octets in alone.chain(characters.clone().map(String::into_bytes)) {
        for (before, after) in [("/a", "/b"), ("/a?q=", "&r=1")] {
            let end = "HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n";
            let line = [b"GET ", before.as_bytes(), &octets, after.as_bytes(), b" ", end.as_bytes()].concat();
            let answer = raw(&h1, HOST, 80, &line).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{octets:x?}: {answer}");
        }
    }
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![route(HOST)]).await;
    for path in characters.iter().flat_map(|c| [format!("/a{c}/b"), format!("/a?q={c}")]) {
        let got = bench.client(&["h2"]).await.get(&path).await;
        assert_eq!((got.status.as_u16(), got.reason()), (400, "host_invalid"), "{path:?}");
    }
    // What is no UTF-8 is no `:path` to the library either, which ends the connection.
    for octet in [0x80, 0x85, 0xa0, 0xff] {
        let (refused, head) = (bench.gateway.stats().refused(), h2::head([b"/a", &[octet][..], b"/b"].concat()));
        let mut client = h2::connect(&bench).await;
        client.write_all(&h2::frame(h2::HEADERS, h2::END_STREAM | h2::END_HEADERS, 1, &head)).await.unwrap();
        until(|| bench.gateway.stats().refused() > refused).await;
    }
    assert!(h1.origin.received().is_empty() && bench.origin.received().is_empty());
    assert_eq!(bench.client(&["h2"]).await.get("/a%C2%A0b").await.status, StatusCode::OK);
}

#[tokio::test]
async fn b21_a_message_that_two_parsers_could_cut_differently_is_refused_or_made_plain() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    for head in [
        "content-length: 3\r\ncontent-length: 4\r\n",
        "transfer-encoding: chunked\t, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "x: a\r\n b\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n{head}\r\n0\r\n\r\n");
        let answer = raw(&bench, HOST, 80, text.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
    }
    assert!(bench.origin.received().is_empty());
}

#[tokio::test]
async fn other_protocols_are_refused_in_words_or_by_closing() {
    let limits = GatewayLimits { first_byte: Duration::from_millis(200), ..GatewayLimits::default() };
    let origin = std::sync::Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| http::Response::new(full("hello")));
    let bench = Bench::with(Kind::Plain, vec![route(HOST)], origin, answer, limits).await;
    let ask =
        |line: &str, more: &str| format!("{line} HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n{more}\r\n");
    for text in [
        ask("GET /", "upgrade: websocket\r\nsec-websocket-key: x\r\n"), // B24
        ask("CONNECT api.example:80", ""),                              // B18
        ask("TRACE /", ""),                                             // B41
    ] {
        let answer = raw(&bench, HOST, 80, text.as_bytes()).await;
        assert!(answer.contains("protocol_refused"), "{text}: {answer}");
    }
    // B23: prior knowledge and garbage are closed, and so is a client that waits for a greeting.
    assert_eq!(raw(&bench, HOST, 80, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "");
    raw(&bench, HOST, 80, b"\x00\x00\x00\x08\x04\xd2\x16\x2f").await;
    assert_eq!(raw(&bench, HOST, 80, b"").await, "");
    bench.log.wait(|event| detail(event, "detail").is_some_and(|d| d.contains("sent nothing"))).await;
    // h2c is an offer that a server may leave alone.
    let h2c = "upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nconnection: upgrade, http2-settings, close\r\n";
    let text = format!("GET / HTTP/1.1\r\nhost: api.example\r\n{h2c}\r\n");
    assert!(raw(&bench, HOST, 80, text.as_bytes()).await.starts_with("HTTP/1.1 200"));
    assert_eq!(bench.origin.received().len(), 1);
    assert!(!bench.origin.received()[0].headers.contains_key("upgrade"));
}

#[tokio::test]
async fn b3_b5_other_ports_and_bare_addresses_are_refused_on_whatever_protocol() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    assert_eq!(bench.plain(HOST, 8080).await.get("/").await.reason(), "port_not_allowed");
    for (host, want) in [("10.0.0.1", "address_not_allowed"), ("169.254.169.254", "address_not_allowed")] {
        let mut client = bench.plain(host, 80).await;
        let request = Request::get("/latest/meta-data/").header("host", host).body(full("")).unwrap();
        assert_eq!(client.send(request).await.reason(), want); // B32
    }
    // A server-first or binary protocol to a denied host is audited for the host.
    raw(&bench, "10.0.0.1", 5432, b"\x00\x00\x00\x08\x04\xd2\x16\x2f").await;
    let event = bench.log.wait(|event| event.action == "connect").await;
    assert_eq!(detail(&event, "reason").unwrap(), "address_not_allowed");
    assert_eq!(bench.origin.connections(), 0);
}

#[tokio::test]
async fn b31_a_name_that_resolves_to_this_machine_is_not_dialled() {
    let mut private = route("localhost");
    private.reach = Reach::Private;
    for entry in [route("localhost"), private] {
        let bench = Bench::start(Kind::Plain, vec![entry]).await;
        let mut client = bench.plain("localhost", 80).await;
        let request = Request::get("/").header("host", "localhost").body(full("")).unwrap();
        assert_eq!(client.send(request).await.reason(), "address_not_public");
    }
}

#[tokio::test]
async fn a_credential_goes_over_plain_text_only_where_the_operator_said_so() {
    let mut elsewhere = with_key();
    elsewhere.host = carboy_core::host::HostPattern::parse("plain.example").unwrap();
    let bench = Bench::start(Kind::Plain, vec![with_key(), elsewhere]).await;
    assert_eq!(bench.plain(HOST, 80).await.get("/").await.status, StatusCode::OK);
    let mut client = bench.plain("plain.example", 80).await;
    let request = Request::get("/").header("host", "plain.example").body(full("")).unwrap();
    assert_eq!(client.send(request).await.reason(), "plain_text_credential");
}

#[tokio::test]
async fn b58_a_certificate_that_does_not_hold_is_the_end_and_the_client_is_told() {
    let bench = Bench::start(Kind::Untrusted, vec![route(HOST)]).await;
    for alpn in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
        let got = bench.client(alpn).await.get("/").await;
        assert_eq!((got.status.as_u16(), got.reason()), (502, "upstream_certificate"));
    }
    assert!(bench.origin.received().is_empty());
    let gone = Bench::start(Kind::Gone, vec![route(HOST)]).await;
    assert_eq!(gone.client(&["h2"]).await.get("/").await.reason(), "upstream_unreachable");
}

#[tokio::test]
async fn without_a_log_nothing_passes() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    bench.log.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    let got = bench.plain(HOST, 80).await.get("/").await;
    assert_eq!((got.status.as_u16(), got.reason()), (503, "audit_unavailable"));
    assert_eq!(bench.plain("evil.example", 80).await.get("/").await.reason(), "audit_unavailable");
    assert!(bench.origin.received().is_empty());
}

#[tokio::test]
async fn b57_a_revoked_host_loses_its_open_connections_and_a_cut_refuses_everything() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let mut client = bench.client(&["http/1.1"]).await;
    assert_eq!(client.get("/").await.status, StatusCode::OK);
    bench.gateway.replace_routes(carboy_core::route::RouteSet::new(vec![route("other.example")], 2));
    let Client::H1(sender) = &mut client else { panic!("h1 was asked for") };
    for _ in 0..200 {
        if sender.is_closed() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(sender.is_closed());
    assert_eq!(bench.client(&["http/1.1"]).await.get("/").await.reason(), "host_not_allowed");
    bench.gateway.replace_routes(carboy_core::route::RouteSet::new(vec![route(HOST)], 3));
    assert_eq!(bench.client(&["http/1.1"]).await.get("/").await.status, StatusCode::OK);
    bench.gateway.shutdown();
    assert_eq!(bench.client(&["h2"]).await.get("/").await.reason(), "stopping");
}

#[tokio::test]
async fn b22_each_pipelined_request_is_decided_by_itself() {
    use carboy_core::route::{PathMatch, RequestMatch};
    let mut narrow = route(HOST);
    let paths = vec![PathMatch::Prefix("/v1".into())];
    narrow.matches = vec![RequestMatch { paths, methods: vec!["GET".into()], headers: Vec::new() }];
    let bench = Bench::start(Kind::Plain, vec![narrow]).await;
    let text = "GET /v1/a HTTP/1.1\r\nhost: api.example\r\n\r\nGET /admin HTTP/1.1\r\nhost: api.example\r\n\r\n\
                DELETE /v1/a HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n";
    let answer = raw(&bench, HOST, 80, text.as_bytes()).await;
    assert_eq!(answer.matches("x-carboy-reason: request_not_allowed").count(), 2, "{answer}");
    assert_eq!(bench.origin.received().iter().map(|got| got.target.clone()).collect::<Vec<_>>(), ["/v1/a"]);
}

#[tokio::test]
async fn the_limits_on_connections_and_heads_hold() {
    let limits = GatewayLimits { connections_max: 1, ..GatewayLimits::default() };
    let origin = std::sync::Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| http::Response::new(full("hello")));
    let bench = Bench::with(Kind::Plain, vec![route(HOST)], origin, answer, limits).await;
    let mut first = bench.plain(HOST, 80).await;
    assert_eq!(first.get("/").await.status, StatusCode::OK);
    assert_eq!(raw(&bench, HOST, 80, b"").await, "");
    assert_eq!(bench.log.refusals(), ["limit_reached"]);
    let many = (0..129).fold(first.request(http::Method::GET, "/"), |r, i| r.header(format!("x-{i}"), "1"));
    let got = first.send(many.body(full("")).unwrap()).await;
    assert_eq!(got.status.as_u16(), 431);
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![route(HOST)]).await;
    let mut client = bench.client(&["h2"]).await;
    let many = (0..129).fold(client.request(http::Method::GET, "/"), |r, i| r.header(format!("x-{i}"), "1"));
    assert_eq!(client.send(many.body(full("")).unwrap()).await.reason(), "limit_reached");
    let large = client.request(http::Method::GET, "/").header("x-large", "x".repeat(70_000));
    assert!(client.start(large.body(full("")).unwrap()).await.map_or(true, |got| got.status().as_u16() == 431));
    assert!(bench.origin.received().is_empty());
}

#[tokio::test]
async fn a_missing_secret_stops_the_request_and_names_the_secret() {
    let mut other = with_key();
    other.auth.as_mut().unwrap().secret = carboy_core::ids::SecretName::parse("NOT_THERE").unwrap();
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![other]).await;
    let got = bench.client(&["http/1.1"]).await.get("/").await;
    assert_eq!((got.reason(), got.text().contains("NOT_THERE")), ("secret_missing", true));
    assert!(bench.origin.received().is_empty());
}

#[tokio::test]
async fn b4_a_connection_to_the_listeners_own_port_is_refused_and_audited() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    for kind in [carboy_egress::Listener::Redirected, carboy_egress::Listener::Direct] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gateway = bench.gateway.clone();
        tokio::spawn(async move { gateway.serve_tcp(listener, kind).await });
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        let _ = tcp.write_all(request.as_bytes()).await;
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    }
    assert_eq!(bench.log.refusals(), ["address_not_allowed"; 2]);
    assert_eq!(bench.origin.connections(), 0);
}

#[tokio::test]
async fn the_upstream_gets_the_path_that_was_judged() {
    use carboy_core::route::{PathMatch, RequestMatch};
    let mut narrow = route(HOST);
    narrow.matches = vec![RequestMatch { paths: vec![PathMatch::Prefix("/v1".into())], ..RequestMatch::default() }];
    let bench = Bench::start(Kind::Plain, vec![narrow]).await;
    let ask = |target: &str, more: &str| {
        format!("GET {target} HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n{more}\r\n")
    };
    for target in ["/v1//../admin?q=/../x", "/v1/;/../admin?q=/../x", "http://api.example/v1//../admin?q=/../x"] {
        assert!(raw(&bench, HOST, 80, ask(target, "").as_bytes()).await.starts_with("HTTP/1.1 200"), "{target}");
    }
    assert!(bench.origin.received().iter().all(|got| got.target == "/v1/admin?q=/../x"));
    for (target, more) in [("/v1/%252e%252e/admin", ""), ("/v1/..%3b/admin", ""), ("/v1", "x-original-url: /admin\r\n")]
    {
        let answer = raw(&bench, HOST, 80, ask(target, more).as_bytes()).await;
        assert!(answer.contains("request_not_allowed"), "{target}: {answer}");
    }
    assert_eq!(bench.origin.received().len(), 3);
}

#[tokio::test]
async fn nothing_in_a_path_moves_the_terminal_of_who_reads_the_log() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let text = "GET /\u{9b}31m\u{202e}x HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n";
    raw(&bench, HOST, 80, text.as_bytes()).await;
    raw(&bench, "10.0.0.1", 80, text.as_bytes()).await;
    let paths: Vec<String> = bench.log.events().iter().filter_map(|event| detail(event, "path")).collect();
    assert!(paths.len() >= 2 && paths.iter().all(|path| path == "/\u{fffd}31m\u{fffd}x"), "{paths:?}");
}

#[tokio::test]
async fn requests_at_once_are_bounded_over_all_connections() {
    let origin = std::sync::Arc::new(Origin::default());
    let slow = support::handler(|_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        http::Response::new(full("hello"))
    });
    let limits = GatewayLimits { requests_max: 2, ..GatewayLimits::default() };
    let bench = Bench::with(Kind::Plain, vec![route(HOST)], origin, slow, limits).await;
    let (mut one, mut two, mut three) =
        (bench.plain(HOST, 80).await, bench.plain(HOST, 80).await, bench.plain(HOST, 80).await);
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        three.get("/").await
    };
    let (first, second, third) = tokio::join!(one.get("/"), two.get("/"), late);
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(third.reason(), "limit_reached");
    assert_eq!(three.get("/").await.status, StatusCode::OK, "the places are free again");
}

#[tokio::test]
async fn no_other_credential_reaches_the_host_of_a_route_that_has_one() {
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![with_key()]).await;
    let mut client = bench.client(&["h2"]).await;
    let names = [
        "authorization",
        "x-api-key",
        "x_api_key",
        "x-goog-api-key",
        "api_key",
        "private-token",
        "job-token",
        "x-access-token",
        "x_functions_key",
        "ocp-apim-subscription-key",
        "x-note",
    ];
    let request = names.iter().fold(client.request(http::Method::GET, "/"), |r, name| r.header(*name, "another"));
    // B40: a browser's WebSocket has no other field to put a key in.
    let protocols = "chat, openai-insecure-api-key.another,base64url.bearer.authorization.k8s.io.another, v2";
    let request = request.header("sec-websocket-protocol", protocols);
    assert_eq!(client.send(request.body(full("")).unwrap()).await.status, StatusCode::OK);
    let received = bench.origin.received();
    let others: Vec<_> = received[0].headers.iter().filter(|(_, value)| *value == "another").collect();
    assert_eq!(others.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-note"]);
    assert_eq!(received[0].headers["sec-websocket-protocol"], "chat, v2");
    assert!(received[0].headers["authorization"].to_str().unwrap().ends_with(support::SECRET));
}

#[tokio::test]
async fn a_program_that_is_refused_in_a_loop_is_slowed_down_and_every_refusal_is_written() {
    let origin = std::sync::Arc::new(Origin::default());
    let answer = support::handler(|_| async { http::Response::new(full("hello")) });
    let limits =
        GatewayLimits { refusal_burst: 5, refusal_every: Duration::from_millis(20), ..GatewayLimits::default() };
    let bench = Bench::with(Kind::Plain, vec![route(HOST)], origin, answer, limits).await;
    let mut client = bench.plain(HOST, 80).await;
    let start = std::time::Instant::now();
    for _ in 0..15 {
        assert_eq!(client.get("/a.git/git-receive-pack").await.reason(), "git_push_not_allowed");
    }
    assert!(start.elapsed() >= Duration::from_millis(10 * 20 - 20), "{:?}", start.elapsed());
    assert_eq!(bench.log.events().iter().filter(|event| event.action == "request").count(), 15);
    assert_eq!(client.get("/").await.status, StatusCode::OK, "what is allowed does not wait");
}

/// The first one; as often as it was, from then on.
#[tokio::test]
async fn a_refusal_whose_client_does_not_wait_for_it_is_in_the_log_all_the_same() {
    let origin = std::sync::Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| http::Response::new(full("hello")));
    let limits =
        GatewayLimits { refusal_burst: 0, refusal_every: Duration::from_secs(600), ..GatewayLimits::default() };
    let bench = Bench::with(Kind::Tls(&["h2"]), vec![route(HOST)], origin, answer, limits).await;
    let mut client = h2::connect(&bench).await;
    for n in 0..3 {
        let (stream, head) = (h2::stream(n), h2::head("/a.git/git-receive-pack"));
        client.write_all(&h2::frame(h2::HEADERS, h2::END_STREAM | h2::END_HEADERS, stream, &head)).await.unwrap();
        until(|| bench.gateway.stats().requests > n as u64).await;
        client.write_all(&h2::frame(h2::RST_STREAM, 0, stream, &[0, 0, 0, 8])).await.unwrap();
    }
    until(|| bench.gateway.stats().refused() == 3).await;
    let refused = bench.log.wait(|event| event.action == "request").await;
    assert_eq!(detail(&refused, "reason").as_deref(), Some("git_push_not_allowed"));
    bench.gateway.shutdown();
    assert_eq!(bench.gateway.settled(Duration::from_secs(60)).await, 0);
    let events = bench.log.events();
    let [_, repeats] = &events[..] else { panic!("{events:#?}") };
    assert_eq!(detail(repeats, "repeats").as_deref(), Some("2"));
    assert_eq!(detail(repeats, "of"), detail(&refused, "refusal"));
}
