//! What a proxy's client sends: targets, methods, fields, messages that can be cut in two ways, other protocols.

use std::sync::Arc;

use carboy_core::route::{PathMatch, RequestMatch};
use rustls::pki_types::ServerName;

use crate::support::{self, HOST, Kind, client_config, full, route};
use crate::way::{RIGHT, Way, said};

#[tokio::test]
async fn b18_there_is_no_tunnel_in_a_tunnel_and_no_proxy_behind_the_proxy() {
    let way = Way::tls().await;
    let mut refused = way.refused();
    for target in ["evil.example:443", "api.example:443", "10.0.0.1:22", "other.example:80"] {
        let nested = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{RIGHT}Connection: close\r\n\r\n");
        let wanted = &["protocol_refused", "name_mismatch", "host_invalid"];
        refused.expect(target, &way.plain_in("api.example:80", &nested).await, wanted).await;
        // The same inside of TLS, in both versions of HTTP.
        let stream = way.tunnel("api.example:443").await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&way.bench.ca_pem, &["http/1.1"])));
        let tls = connector.connect(ServerName::try_from(HOST).unwrap(), stream).await.unwrap();
        refused.expect(target, &said(tls, nested.as_bytes()).await, wanted).await;
        let stream = way.tunnel("api.example:443").await.unwrap();
        let mut client = support::tls_client(stream, &way.bench.ca_pem, HOST, &["h2"]).await;
        let request = http::Request::connect(target).body(full("")).unwrap();
        let got = client.send(request).await;
        refused.expect_got(target, &got, wanted).await;
        // A second proxy's request in a tunnel.
        let absolute = format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n{RIGHT}Connection: close\r\n\r\n");
        let answer = way.plain_in("denied.example:80", &absolute).await;
        refused.expect(target, &answer, &["name_mismatch", "host_not_allowed", "host_invalid"]).await;
    }
    assert!(way.bench.origin.received().is_empty());
}

#[tokio::test]
async fn b19_a_request_of_a_proxy_has_one_target() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    let request = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\n{fields}{RIGHT}Connection: close\r\n\r\n");
    for (line, fields, wanted) in [
        (format!("GET http://{HOST}/"), "Host: evil.example\r\n".to_owned(), "name_mismatch"),
        (format!("GET http://{HOST}/"), format!("Host: {HOST}\r\nHost: evil.example\r\n"), "host_invalid"),
        (format!("GET http://{HOST}/"), format!("Host: {HOST}\r\nHost: {HOST}\r\n"), "host_invalid"),
        (format!("GET http://{HOST}:8080/"), format!("Host: {HOST}\r\n"), "name_mismatch"),
        (format!("GET http://{HOST}/"), "Host: \r\n".to_owned(), "host_invalid"),
        (format!("GET http://{HOST}/"), format!("Host: {HOST}, evil.example\r\n"), "host_invalid"),
        ("GET /".to_owned(), format!("Host: {HOST}\r\n"), "protocol_refused"),
        ("GET *".to_owned(), format!("Host: {HOST}\r\n"), "protocol_refused"),
        (format!("GET {HOST}:80"), format!("Host: {HOST}\r\n"), "protocol_refused"),
        (format!("GET https://{HOST}/"), format!("Host: {HOST}\r\n"), "protocol_refused"),
        (format!("GET ftp://{HOST}/"), format!("Host: {HOST}\r\n"), "protocol_refused"),
        ("GET http:///".to_owned(), format!("Host: {HOST}\r\n"), "host_invalid"),
        (format!("CONNECT {HOST}"), format!("Host: {HOST}\r\n"), "host_invalid"),
        (format!("CONNECT http://{HOST}:80"), format!("Host: {HOST}\r\n"), "host_invalid"),
        (format!("CONNECT {HOST}:0x50"), format!("Host: {HOST}\r\n"), "host_invalid"),
        (format!("CONNECT {HOST}:65616"), format!("Host: {HOST}\r\n"), "host_invalid"),
    ] {
        let text = request(&line, &fields);
        let wanted = &[wanted, "port_not_allowed", "name_mismatch", "protocol_refused"];
        refused.expect(&text, &way.said(text.as_bytes()).await, wanted).await;
    }
}

#[tokio::test]
async fn b20_method_path_and_fields_are_decided_on_in_every_form_of_a_proxys_request() {
    let mut narrow = route(HOST);
    let paths = vec![PathMatch::Prefix("/v1".into())];
    narrow.matches = vec![RequestMatch { paths, methods: vec!["GET".into()], headers: Vec::new() }];
    for kind in [Kind::Plain, Kind::Tls(&["h2", "http/1.1"])] {
        let is_plain = matches!(kind, Kind::Plain);
        let way = Way::with(kind, vec![narrow.clone()]).await;
        let mut refused = way.refused();
        for (method, path) in [
            ("GET", "/admin"),
            ("DELETE", "/v1/a"),
            ("GET", "/v1/../admin"),
            ("GET", "/v1/%2e%2e/admin"),
            ("POST", "/v1x"),
        ] {
            let variant = format!("{method} {path}");
            let wanted = &["request_not_allowed", "protocol_refused"];
            let fields = format!("Host: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n");
            if is_plain {
                let text = format!("{method} http://{HOST}{path} HTTP/1.1\r\n{fields}{RIGHT}\r\n");
                refused.expect(&variant, &way.said(text.as_bytes()).await, wanted).await;
                let text = format!("{method} {path} HTTP/1.1\r\n{fields}\r\n");
                refused.expect(&variant, &way.plain_in("api.example:80", &text).await, wanted).await;
            } else {
                let stream = way.tunnel("api.example:443").await.unwrap();
                let connector =
                    tokio_rustls::TlsConnector::from(Arc::new(client_config(&way.bench.ca_pem, &["http/1.1"])));
                let tls = connector.connect(ServerName::try_from(HOST).unwrap(), stream).await.unwrap();
                let text = format!("{method} {path} HTTP/1.1\r\n{fields}\r\n");
                refused.expect(&variant, &said(tls, text.as_bytes()).await, wanted).await;
            }
        }
    }
}

#[tokio::test]
async fn b21_a_message_that_two_readers_could_cut_differently_is_refused_before_and_inside_a_tunnel() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    for fields in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked\t, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Content-Length: +3\r\n",
        "Content-Length : 3\r\n",
        "X: a\r\n b\r\n",
        "X: a\rb\r\n",
        " X: a\r\n",
    ] {
        for (variant, absolute) in [("absolute", true), ("tunnel", false)] {
            let variant = format!("{variant} {fields:?}");
            let answer = if absolute {
                let text = format!(
                    "POST http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}Connection: close\r\n{fields}\r\n0\r\n\r\n"
                );
                way.said(text.as_bytes()).await
            } else {
                let text = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{fields}\r\n0\r\n\r\n");
                way.plain_in("api.example:80", &text).await
            };
            assert!(answer.starts_with("HTTP/1.1 400") && !answer.contains("hello"), "{variant}: {answer}");
            refused.written(&variant, &["protocol_refused"]).await;
        }
    }
    // Both lengths: what is passed on has one, and a second request in the rest of it is none.
    let both = format!(
        "POST http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}Content-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET http://{HOST}/smuggled HTTP/1.1\r\n\r\n"
    );
    way.said(both.as_bytes()).await;
    assert!(way.bench.origin.received().iter().all(|got| !got.target.contains("smuggled")));
}

#[tokio::test]
async fn b22_what_comes_behind_a_request_or_a_connect_is_decided_on_by_itself() {
    let way = Way::plain().await;
    let first = |path: &str| format!("GET http://{HOST}{path} HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}\r\n");
    for second in [
        format!("GET http://denied.example/2 HTTP/1.1\r\nHost: denied.example\r\n{RIGHT}\r\n"),
        format!("GET /2 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        "CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01".to_owned(),
    ] {
        let answer = way.said((first("/1") + &second).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.matches("HTTP/1.1").count() == 1, "{second}: {answer}");
    }
    let received: Vec<String> = way.bench.origin.received().into_iter().map(|got| got.target).collect();
    assert_eq!(received, ["/1"; 4]);
    // Bytes that were read with the CONNECT belong to the tunnel, and are decided on there.
    let way = Way::plain().await;
    let mut refused = way.refused();
    for (behind, wanted) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", "name_mismatch"),
        ("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", "protocol_refused"),
        ("TRACE / HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n", "protocol_refused"),
    ] {
        let head = format!("CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}\r\n");
        let answer = way.said((head + behind).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 Connection established\r\n\r\n"), "{answer}");
        refused.expect(behind, &answer, &[wanted, "name_mismatch"]).await;
    }
    // A second request of a tunnel, and a third.
    let two = format!(
        "GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\nGET /b HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    );
    let answer = way.plain_in("api.example:80", &two).await;
    assert!(answer.contains("x-carboy-reason: name_mismatch"), "{answer}");
    assert_eq!(way.bench.origin.received().len(), 1);
}

#[tokio::test]
async fn b24_an_upgrade_to_another_protocol_is_refused_through_a_proxy() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    for (upgrade, more) in [
        ("websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"),
        ("websocket", "Sec-WebSocket-Key: x\r\n"),
        ("WebSocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"),
    ] {
        let fields = format!("Host: {HOST}\r\nUpgrade: {upgrade}\r\nConnection: upgrade, close\r\n{more}");
        let absolute = format!("GET http://{HOST}/ HTTP/1.1\r\n{fields}{RIGHT}\r\n");
        refused.expect(upgrade, &way.said(absolute.as_bytes()).await, &["protocol_refused"]).await;
        let inside = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        refused.expect(upgrade, &way.plain_in("api.example:80", &inside).await, &["protocol_refused"]).await;
    }
    // Of any other offer nothing is passed on.
    for upgrade in ["h2c", "foo", "TLS/1.0"] {
        let text = format!(
            "GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: {upgrade}\r\nConnection: upgrade, close\r\n{RIGHT}\r\n"
        );
        let answer = way.said(text.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 101"), "{upgrade}: {answer}");
    }
    assert!(way.bench.origin.received().iter().all(|got| !got.headers.contains_key("upgrade")));
}
