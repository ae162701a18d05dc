//! Whom a proxy's client names: addresses, spellings, ports and the names of hosts and of servers.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{self, HOST, SECRET};
use crate::way::{ANSWER_WAIT_MAX, OTHER, RIGHT, Way, ask};

#[tokio::test]
async fn b5_an_address_in_place_of_a_name_is_refused_in_each_form_of_a_proxys_request() {
    let way = Way::tls().await;
    let mut refused = way.refused();
    for address in ["10.0.0.1", "93.184.216.34", "[fd00::1]", "[2606:2800:220:1::1]"] {
        refused.expect(address, &way.absolute(address).await, &["address_not_allowed"]).await;
        let authority = format!("{address}:443");
        refused.expect(&authority, &way.nameless_in(&authority, address).await, &["address_not_allowed"]).await;
        let authority = format!("{address}:80");
        refused.expect(&authority, &way.plain_in(&authority, &ask(address)).await, &["address_not_allowed"]).await;
    }
    assert_eq!(way.bench.origin.connections(), 0);
}

#[tokio::test]
async fn b6_b7_an_address_in_another_spelling_is_the_address() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    for spelled in [
        // B6: decimal, octal, hexadecimal, short, zero
        "2130706433",
        "0177.0.0.1",
        "0x7f000001",
        "127.1",
        "0",
        "017700000001",
        "127.0x1",
        "0x7f.1",
        // B7: mapped, NAT64, 6to4, with a zone
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[::1]",
        "[::]",
        "[::1%25lo]",
        "[::127.0.0.1]",
    ] {
        let wanted = &["address_not_allowed", "host_invalid"];
        refused.expect(spelled, &way.absolute(spelled).await, wanted).await;
        let authority = format!("{spelled}:80");
        refused.expect(&authority, &way.plain_in(&authority, &ask(spelled)).await, wanted).await;
    }
    assert_eq!(way.bench.origin.connections(), 0);
}

#[tokio::test]
async fn b8_a_trailing_dot_is_taken_away_once_for_the_decision_and_the_connection() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    for (host, wanted) in [
        ("denied.example.", "host_not_allowed"),
        ("127.0.0.1.", "address_not_allowed"),
        ("api.example..", "host_invalid"),
        ("api.example.evil.example.", "host_not_allowed"),
        (".", "host_invalid"),
    ] {
        let wanted = &[wanted, "host_invalid"];
        refused.expect(host, &way.absolute(host).await, wanted).await;
        let authority = format!("{host}:80");
        refused.expect(&authority, &way.plain_in(&authority, &ask(host)).await, wanted).await;
    }
    // An allowed name with one is that name.
    assert!(way.absolute("api.example.").await.starts_with("HTTP/1.1 200 OK"));
    assert!(way.plain_in("api.example.:80", &ask("api.example.")).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn b9_user_information_before_a_host_is_refused_wherever_a_proxy_reads_a_host() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    for authority in [
        "api.example@evil.example",
        "api.example:80@evil.example",
        "user:pass@api.example",
        "@api.example",
        "api.example%40evil.example",
        "evil.example@api.example:80",
    ] {
        refused.expect(authority, &way.absolute(authority).await, &["host_invalid"]).await;
        let target = format!("{authority}:80");
        refused.expect(&target, &way.plain_in(&target, &ask("evil.example")).await, &["host_invalid"]).await;
        let inside = format!("GET http://{authority}/ HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        refused
            .expect(
                &inside,
                &way.plain_in("api.example:80", &inside).await,
                &["host_invalid", "name_mismatch", "protocol_refused"],
            )
            .await;
    }
}

#[tokio::test]
async fn b10_a_zero_or_any_other_byte_that_is_in_no_name_is_refused() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    for byte in ["\0", "%00", "\u{1}", "\t", "\u{7f}", "/", "\\", "'", "`", "*", " "] {
        let host = format!("evil.example{byte}.api.example");
        let wanted = &["host_invalid", "protocol_refused", "host_not_allowed"];
        // What ends the host leaves `evil.example` of it, and that is denied by name.
        refused.expect(&host, &way.absolute(&host).await, wanted).await;
        let inside = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = way.plain_in("api.example:80", &inside).await;
        if answer.contains("x-carboy-reason") {
            refused.expect(&inside, &answer, &["host_invalid", "name_mismatch", "protocol_refused"]).await;
        } else {
            // What is no HTTP is closed, and written down.
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{host:?}: {answer}");
            refused.written(&inside, &["protocol_refused"]).await;
        }
    }
    for target in ["evil.example\0.api.example:80", "evil.example%00.api.example:80", "api.example\u{1}:80"] {
        let answer = way.tunnel(target).await.unwrap_err();
        refused.expect(target, &answer, &["host_invalid", "protocol_refused"]).await;
    }
}

#[tokio::test]
async fn b11_a_name_that_only_ends_or_begins_like_an_allowed_one_is_another() {
    let way = Way::tls().await;
    let mut refused = way.refused();
    for host in [
        "notapi.example",
        "api.example.evil.example",
        "xapi.example",
        "api.examplee",
        "api-example",
        "example",
        "sub.api.example",
        "wild.example",
        "evilwild.example",
        "a.wild.example.evil.example",
    ] {
        refused.expect(host, &way.absolute(host).await, &["host_not_allowed"]).await;
        let got = way.tls_in(&format!("{host}:443"), host, &["http/1.1"], "/", host).await;
        refused.expect_got(host, &got, &["host_not_allowed"]).await;
        let got = way.tls_in(&format!("{host}:443"), host, &["h2"], &format!("https://{host}/"), "").await;
        refused.expect_got(host, &got, &["host_not_allowed"]).await;
    }
    assert_eq!(way.bench.origin.connections(), 0);
}

#[tokio::test]
async fn b12_a_name_is_compared_as_its_ascii_form_in_lower_case() {
    let way = Way::plain().await;
    let mut refused = way.refused();
    for host in [
        // Cyrillic а; its ASCII form; full width; a soft hyphen; percent-encoded; an underscore
        "\u{430}pi.example",
        "xn--pi-7kc.example",
        "\u{ff41}\u{ff50}\u{ff49}.evil.example",
        "a\u{ad}pi.evil.example",
        "api%2eexample",
        "api_.example",
        "api.ex%61mple.evil.example",
    ] {
        let wanted = &["host_not_allowed", "host_invalid", "protocol_refused"];
        refused.expect(host, &way.absolute(host).await, wanted).await;
        let authority = format!("{host}:80");
        refused
            .expect(
                &authority,
                &way.plain_in(&authority, &ask("api.example")).await,
                &["host_not_allowed", "host_invalid", "protocol_refused", "name_mismatch"],
            )
            .await;
    }
    for same in ["API.EXAMPLE", "Api.Example:80", "aPI.eXAMPLE."] {
        let answer = way.absolute(same).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{same}: {answer}");
    }
}

#[tokio::test]
async fn b13_the_server_name_in_a_tunnel_is_the_tunnels_target() {
    let way = Way::tls().await;
    let mut refused = way.refused();
    for (target, server_name) in
        [(HOST, OTHER), (OTHER, HOST), (HOST, "evil.example"), ("evil.example", HOST), (HOST, "sub.api.example")]
    {
        for alpn in [&["http/1.1"][..], &["h2"]] {
            let url = if alpn == ["h2"] { format!("https://{server_name}/") } else { "/".to_owned() };
            let host = if alpn == ["h2"] { "" } else { server_name };
            let got = way.tls_in(&format!("{target}:443"), server_name, alpn, &url, host).await;
            refused
                .expect_got(&format!("{target} {server_name} {alpn:?}"), &got, &["name_mismatch", "host_not_allowed"])
                .await;
        }
    }
    assert_eq!(way.bench.origin.connections(), 0);
}

#[tokio::test]
async fn b14_a_handshake_in_pieces_is_put_together_and_one_that_is_none_is_refused() {
    let way = Way::tls().await;
    let mut refused = way.refused();
    for (variant, bytes) in [
        ("a record of another kind", &b"\x16\x03\x01\x00\x05hello"[..]),
        ("a record that is too long", b"\x16\x03\x01\xff\xff\x01\x00\xff\xfb\x03\x03"),
        ("an alert", b"\x15\x03\x03\x00\x02\x02\x28\r\n\r\n"),
    ] {
        let stream = way.tunnel("api.example:443").await.unwrap();
        let mut stream = stream;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(ANSWER_WAIT_MAX, stream.read_to_end(&mut rest)).await;
        refused.written(variant, &["tls_refused", "protocol_refused"]).await;
    }
    // No name at all in a tunnel that has one: it is the tunnel's.
    let answer = way.nameless_in("evil.example:443", "evil.example").await;
    refused.expect("nameless", &answer, &["host_not_allowed", "name_mismatch", "tls_refused"]).await;
    // One byte at a time.
    let stream = way.tunnel("api.example:443").await.unwrap();
    let mut client = support::tls_client_slow(stream, &way.bench.ca_pem, HOST).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn b15_b16_b23_the_host_in_a_tunnel_is_its_server_name_and_a_credential_goes_to_its_own_host_alone() {
    let way = Way::tls().await;
    let mut refused = way.refused();
    for (target, host) in [
        (OTHER, HOST),
        (HOST, OTHER),
        (HOST, "evil.example"),
        (HOST, "api.example.evil.example"),
        (OTHER, "api.example:443"),
        (HOST, "api.example:8443"),
    ] {
        let authority = format!("{target}:443");
        let variant = format!("{target} {host}");
        let got = way.tls_in(&authority, target, &["http/1.1"], "/", host).await;
        refused.expect_got(&variant, &got, &["name_mismatch"]).await;
        // Absolute form inside.
        let got = way.tls_in(&authority, target, &["http/1.1"], &format!("https://{host}/"), target).await;
        refused.expect_got(&variant, &got, &["name_mismatch"]).await;
        // B23: an authority of its own on an HTTP/2 stream, and a Host beside it.
        let got = way.tls_in(&authority, target, &["h2"], &format!("https://{host}/"), "").await;
        refused.expect_got(&variant, &got, &["name_mismatch"]).await;
        let got = way.tls_in(&authority, target, &["h2"], &format!("https://{target}/"), host).await;
        refused.expect_got(&variant, &got, &["name_mismatch"]).await;
    }
    assert!(way.bench.origin.received().is_empty());
    // The rightful host has it, and from nobody else.
    let got = way.tls_in("api.example:443", HOST, &["http/1.1"], "/", HOST).await;
    assert_eq!(got.status, 200);
    assert_eq!(way.bench.origin.received()[0].headers["authorization"], format!("Bearer {SECRET}"));
}

#[tokio::test]
async fn b16_no_other_host_gets_the_credential_in_plain_text_either() {
    let way = Way::plain().await;
    for host in [OTHER, "a.wild.example"] {
        assert!(way.absolute(host).await.starts_with("HTTP/1.1 200 OK"), "{host}");
        assert!(way.plain_in(&format!("{host}:80"), &ask(host)).await.starts_with("HTTP/1.1 200 OK"), "{host}");
    }
    let received = way.bench.origin.received();
    assert!(
        received.len() == 4 && received.iter().all(|got| !format!("{:?}", got.headers).contains(SECRET)),
        "{received:?}"
    );
    let way = Way::plain().await;
    let mut refused = way.refused();
    for (target, host) in [(OTHER, HOST), ("a.wild.example", HOST), ("evil.example", HOST), (HOST, OTHER)] {
        let absolute = format!("GET http://{target}/ HTTP/1.1\r\nHost: {host}\r\n{RIGHT}Connection: close\r\n\r\n");
        refused.expect(&absolute, &way.said(absolute.as_bytes()).await, &["name_mismatch", "host_not_allowed"]).await;
        let authority = format!("{target}:80");
        refused
            .expect(&authority, &way.plain_in(&authority, &ask(host)).await, &["name_mismatch", "host_not_allowed"])
            .await;
    }
}
