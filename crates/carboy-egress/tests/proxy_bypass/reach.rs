//! Where a proxy's client would get to, and what it would take along or bring back.

use std::sync::Arc;
use std::time::Duration;

use carboy_egress::GatewayLimits;
use http::Response;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{self, Client, HOST, Kind, Origin, SECRET, client_config, detail, full, recording, route};
use crate::way::{ANSWER_WAIT_MAX, OTHER, RIGHT, Way, ask, routes, said};

#[tokio::test]
async fn strangers_that_hold_connections_open_take_none_of_those_who_have_shown_the_password() {
    let limits = GatewayLimits { strangers_max: 3, handshake: Duration::from_millis(600), ..GatewayLimits::default() };
    let way = Way::limited(limits).await;
    let tunnel = way.tunnel("api.example:80").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stranger = TcpStream::connect(way.proxy).await.unwrap();
        stranger.write_all(b"G").await.unwrap();
        held.push(stranger);
    }
    let mut refused = way.refused();
    // They are accepted one after the other: the next one is one too many when the three are.
    let answer = loop {
        let answer = way.absolute(OTHER).await;
        if !answer.starts_with("HTTP/1.1 200 OK") {
            break answer;
        }
        way.bench.origin.received.lock().unwrap().clear();
    };
    refused.expect("a fourth", &answer, &["limit_reached"]).await;
    // Who has shown it is served as ever, and so is everybody when the strangers' time is over.
    assert!(said(tunnel, ask(HOST).as_bytes()).await.starts_with("HTTP/1.1 200 OK"));
    let served = tokio::time::timeout(ANSWER_WAIT_MAX, async {
        while !way.absolute(HOST).await.starts_with("HTTP/1.1 200 OK") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    served.await.expect("the strangers' time is over");
}

#[tokio::test]
async fn nobody_who_has_shown_the_password_waits_behind_the_refusals_of_strangers() {
    let limits = GatewayLimits {
        strangers_max: 4,
        refusal_every: Duration::from_secs(60),
        refusal_burst: 2,
        ..GatewayLimits::default()
    };
    let way = Way::limited(limits).await;
    let tunnel = way.tunnel("api.example:80").await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..20 {
        let mut stranger = TcpStream::connect(way.proxy).await.unwrap();
        stranger.write_all(format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
        strangers.push(stranger);
    }
    // Two are told at once, and one is one too many for each place that waits.
    let crowded = |events: Vec<_>| events.iter().any(|e| detail(e, "reason").as_deref() == Some("limit_reached"));
    while !crowded(way.bench.log.events()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(strangers);
    let refused = tokio::time::timeout(ANSWER_WAIT_MAX, said(tunnel, ask("unknown.example").as_bytes())).await;
    let refused = refused.expect("its refusal has a turn of its own");
    assert!(refused.contains("name_mismatch"), "{refused}");
}

#[tokio::test]
async fn b31_a_name_that_leads_to_this_machine_is_not_dialled_for_a_proxys_client() {
    let way = Way::with(Kind::Plain, vec![route("localhost"), route(HOST)]).await;
    let mut refused = way.refused();
    for host in ["localhost", "LOCALHOST", "localhost."] {
        refused.expect(host, &way.absolute(host).await, &["address_not_public"]).await;
        let authority = format!("{host}:80");
        refused.expect(&authority, &way.plain_in(&authority, &ask(host)).await, &["address_not_public"]).await;
    }
    assert_eq!(way.bench.origin.connections(), 0);
}

#[tokio::test]
async fn b32_the_metadata_services_of_clouds_are_refused_in_every_form() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    for address in [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "168.63.129.16",
        "100.100.100.200",
        "[::ffff:169.254.169.254]",
        "2852039166",
        "0xa9fea9fe",
    ] {
        let wanted = &["address_not_allowed"];
        refused.expect(address, &way.absolute(address).await, wanted).await;
        let authority = format!("{address}:80");
        refused.expect(&authority, &way.plain_in(&authority, &ask(address)).await, wanted).await;
        let authority = format!("{address}:443");
        refused.expect(&authority, &way.nameless_in(&authority, address).await, wanted).await;
    }
    assert_eq!(way.bench.origin.connections(), 0);
    let events = way.bench.log.events();
    let named = |host: &str| events.iter().any(|event| detail(event, "host").as_deref() == Some(host));
    assert!(named("169.254.169.254") && named("fd00:ec2::254"), "the log names whom it was for");
}

#[tokio::test]
async fn b36_a_secret_in_pieces_in_places_or_in_disguise_does_not_leave_through_a_proxy() {
    use base64::Engine as _;
    let way = Way::plain().await;
    let mut refused = way.refused();
    let (left, right) = SECRET.split_at(9);
    let coded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    for (path, fields, body) in [
        (format!("/?k={SECRET}"), String::new(), String::new()),
        (format!("/{hex}"), String::new(), String::new()),
        ("/".into(), format!("X-Key: {coded}\r\n"), String::new()),
        ("/".into(), String::new(), format!("{:x}\r\n{left}\r\n{:x}\r\n{right}\r\n0\r\n\r\n", left.len(), right.len())),
    ] {
        let framing = if body.is_empty() { "Content-Length: 0\r\n" } else { "Transfer-Encoding: chunked\r\n" };
        // To the host that has it by right as to the other: nobody sends it but the gateway.
        let text = format!(
            "POST http://{OTHER}{path} HTTP/1.1\r\nHost: {OTHER}\r\n{RIGHT}{framing}{fields}Connection: close\r\n\r\n{body}"
        );
        refused.expect(&text, &way.said(text.as_bytes()).await, &["secret_known"]).await;
        let text = format!("POST {path} HTTP/1.1\r\nHost: {OTHER}\r\n{framing}{fields}Connection: close\r\n\r\n{body}");
        refused.expect(&text, &way.plain_in("other.example:80", &text).await, &["secret_known"]).await;
    }
}

#[tokio::test]
async fn b2_b3_b4_plain_text_another_port_and_the_proxy_itself_are_decided_on_like_everything_else() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    // B2: a host that is denied over TLS is denied in plain text, in both forms.
    for host in ["evil.example", "api.example.evil.example", "evil.wild.example.evil.example"] {
        refused.expect(host, &way.absolute(host).await, &["host_not_allowed"]).await;
        refused.expect(host, &way.plain_in(&format!("{host}:80"), &ask(host)).await, &["host_not_allowed"]).await;
    }
    // B3
    for port in [22, 5432, 8080, 8888, 65535] {
        let authority = format!("{HOST}:{port}");
        refused.expect(&authority, &way.absolute(&authority).await, &["port_not_allowed"]).await;
        refused.expect(&authority, &way.plain_in(&authority, &ask(&authority)).await, &["port_not_allowed"]).await;
    }
    // B4: the proxy's own port, by an allowed name and by its address.
    let own = way.proxy.port();
    for (host, wanted) in
        [(HOST, "port_not_allowed"), ("127.0.0.1", "address_not_allowed"), ("localhost", "host_not_allowed")]
    {
        let authority = format!("{host}:{own}");
        refused.expect(&authority, &way.absolute(&authority).await, &[wanted]).await;
        refused.expect(&authority, &way.plain_in(&authority, &ask(&authority)).await, &[wanted]).await;
    }
    assert_eq!(way.bench.origin.connections(), 0);
}

#[tokio::test]
async fn b41_trace_is_refused_and_a_credential_that_is_echoed_does_not_come_back_through_a_proxy() {
    let way = Way::tls().await;
    let mut refused = way.refused();
    for target in [format!("http://{HOST}/"), "/".to_owned(), "*".to_owned()] {
        let text = format!("TRACE {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        refused
            .expect(&text, &way.plain_in("api.example:80", &text).await, &["protocol_refused", "host_invalid"])
            .await;
        let absolute = format!("TRACE http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}Connection: close\r\n\r\n");
        refused.expect(&absolute, &way.said(absolute.as_bytes()).await, &["protocol_refused"]).await;
        let stream = way.tunnel("api.example:443").await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&way.bench.ca_pem, &["http/1.1"])));
        let tls = connector.connect(ServerName::try_from(HOST).unwrap(), stream).await.unwrap();
        refused.expect(&text, &said(tls, text.as_bytes()).await, &["protocol_refused", "host_invalid"]).await;
    }
    let origin = Arc::new(Origin::default());
    let echo = recording(origin.clone(), |got| Response::new(full(format!("{:?}", got.headers))));
    let way = Way::answering(Kind::Plain, routes(), origin, echo).await;
    for answer in [way.absolute(HOST).await, way.plain_in("api.example:80", &ask(HOST)).await] {
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("authorization"), "{answer}");
        assert!(!answer.contains(SECRET), "{answer}");
    }
}

#[tokio::test]
async fn b33_a_redirect_is_the_clients_to_follow_and_a_new_decision() {
    let origin = Arc::new(Origin::default());
    let away = recording(origin.clone(), |_| {
        Response::builder().status(302).header("location", "http://evil.example/").body(full("")).unwrap()
    });
    let way = Way::answering(Kind::Plain, routes(), origin, away).await;
    for answer in
        [way.absolute(HOST).await, way.plain_in("api.example:80", &ask(HOST)).await, way.absolute(OTHER).await]
    {
        assert!(answer.starts_with("HTTP/1.1 302 ") && answer.contains("location: http://evil.example/"), "{answer}");
    }
    // Nothing was followed on the client's behalf, and the client itself is refused.
    assert_eq!(way.bench.origin.received().len(), 3);
    assert!(way.absolute("evil.example").await.contains("host_not_allowed"));
    assert_eq!((way.bench.origin.received().len(), way.bench.log.refusals()), (3, vec!["host_not_allowed".to_owned()]));
}

#[tokio::test]
async fn b57_a_tunnel_whose_host_is_revoked_is_closed_and_the_next_one_refused() {
    let way = Way::tls().await;
    let stream = way.tunnel("api.example:443").await.unwrap();
    let mut client = support::tls_client(stream, &way.bench.ca_pem, HOST, &["http/1.1"]).await;
    assert_eq!(client.get("/").await.status, 200);
    let without = carboy_core::route::RouteSet::new(vec![route(OTHER)], 2);
    way.bench.gateway.replace_routes(without);
    let Client::H1(sender) = &mut client else { panic!("h1 was offered") };
    let closed = tokio::time::timeout(ANSWER_WAIT_MAX, async {
        while !sender.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    closed.await.expect("it is closed");
    let got = way.tls_in("api.example:443", HOST, &["http/1.1"], "/", HOST).await;
    assert_eq!(got.reason(), "host_not_allowed");
    assert!(way.absolute(HOST).await.contains("host_not_allowed"));
    assert_eq!(way.bench.origin.received().len(), 1);
}

#[tokio::test]
async fn b58_a_certificate_that_does_not_hold_is_the_end_of_a_request_through_a_tunnel_too() {
    let way = Way::with(Kind::Untrusted, routes()).await;
    for alpn in [&["h2"][..], &["http/1.1"], &[]] {
        let url = if alpn == ["h2"] { format!("https://{HOST}/") } else { "/".to_owned() };
        let host = if alpn == ["h2"] { "" } else { HOST };
        let got = way.tls_in("api.example:443", HOST, alpn, &url, host).await;
        assert_eq!((got.status.as_u16(), got.reason()), (502, "upstream_certificate"), "{alpn:?}");
    }
    let events = way.bench.log.events();
    assert!(
        events.iter().any(|event| detail(event, "reason").as_deref() == Some("upstream_certificate")),
        "{events:?}"
    );
    assert!(way.bench.origin.received().is_empty());
}
