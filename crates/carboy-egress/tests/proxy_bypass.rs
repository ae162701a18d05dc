//! Rows of the bypass matrix by the way of a proxy: each in at least three variants, none of which reaches the upstream, each
//! refused with its reason in the answer and in the log. What works is policed.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::host::{Host, HostPattern};
use carboy_core::route::{AuthScheme, PathMatch, RequestMatch, Route, RouteAuth};
use carboy_core::secret::{Secret, SecretText};
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::GatewayLimits;
use http::Response;
use rustls::pki_types::ServerName;
use support::{
    Bench, Client, Got, HOST, Kind, Origin, SECRET, client_config, detail, full, recording, route, secret_name,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PASSWORD: &str = "open-sesame-7";
/// `user:open-sesame-7`
const RIGHT: &str = "Proxy-Authorization: Basic dXNlcjpvcGVuLXNlc2FtZS03\r\n";
/// A second allowed host, another operator's, with the same address.
const OTHER: &str = "other.example";
/// Longest wait for an answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// A bench with a proxy before it; [`HOST`] has the credential, [`OTHER`] none, `*.wild.example` is allowed.
struct Way {
    bench: Bench,
    proxy: SocketAddr,
}

fn with_key() -> Route {
    let mut route = route(HOST);
    route.auth = Some(RouteAuth { header: "authorization".into(), scheme: AuthScheme::Bearer, secret: secret_name() });
    route
}

fn routes() -> Vec<Route> {
    vec![
        with_key(),
        Route::plain(2, HostPattern::parse(OTHER).unwrap()),
        Route::plain(3, HostPattern::parse("*.wild.example").unwrap()),
    ]
}

impl Way {
    async fn plain() -> Way {
        Way::with(Kind::Plain, routes()).await
    }

    async fn tls() -> Way {
        Way::with(Kind::Tls(&["h2", "http/1.1"]), routes()).await
    }

    async fn with(kind: Kind, routes: Vec<Route>) -> Way {
        let origin = Arc::new(Origin::default());
        let answer = recording(origin.clone(), |_| Response::new(full("hello")));
        Way::answering(kind, routes, origin, answer).await
    }

    async fn answering(kind: Kind, routes: Vec<Route>, origin: Arc<Origin>, answer: support::Handler) -> Way {
        Way::governed(kind, routes, (origin, answer), GatewayLimits::default()).await
    }

    async fn limited(limits: GatewayLimits) -> Way {
        let origin = Arc::new(Origin::default());
        let answer = recording(origin.clone(), |_| Response::new(full("hello")));
        Way::governed(Kind::Plain, routes(), (origin, answer), limits).await
    }

    async fn governed(
        kind: Kind,
        routes: Vec<Route>,
        (origin, answer): (Arc<Origin>, support::Handler),
        limits: GatewayLimits,
    ) -> Way {
        let mut upstreams = Upstreams::default();
        // Whatever is wrongly allowed would arrive there too, on loopback.
        if let Kind::Plain = kind {
            let address = support::serve(None, origin.clone(), answer.clone()).await;
            let upstream = || Upstream { address, transport: Transport::Plain, extra_ca_pem: None };
            for host in [HOST, OTHER, "a.wild.example"] {
                upstreams.insert(Host::parse(host).unwrap(), None, upstream());
            }
        }
        let bench = Bench::reaching(upstreams, kind, routes, origin, answer, limits).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (proxy, gateway) = (listener.local_addr().unwrap(), bench.gateway.clone());
        let password: Arc<SecretText> = Arc::new(Secret::new(PASSWORD.to_owned()));
        tokio::spawn(async move { gateway.serve_proxy_tcp(listener, password).await });
        Way { bench, proxy }
    }

    /// What is answered to these bytes, to the end.
    async fn said(&self, bytes: &[u8]) -> String {
        said(TcpStream::connect(self.proxy).await.unwrap(), bytes).await
    }

    /// A request in absolute form: this is what a client puts between `http://` and the path.
    async fn absolute(&self, authority: &str) -> String {
        self.said(
            &[
                b"GET http://",
                authority.as_bytes(),
                b"/ HTTP/1.1\r\nHost: ",
                authority.as_bytes(),
                b"\r\n",
                RIGHT.as_bytes(),
                b"Connection: close\r\n\r\n",
            ]
            .concat(),
        )
        .await
    }

    /// A tunnel to this target, or what was answered in its place.
    async fn tunnel(&self, authority: &str) -> Result<TcpStream, String> {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{RIGHT}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte).await {
                Ok(1) => answer.push(byte[0]),
                Ok(_) | Err(_) => break,
            }
        }
        if answer.starts_with(b"HTTP/1.1 200 ") {
            return Ok(stream);
        }
        let _ = stream.read_to_end(&mut answer).await;
        Err(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Plain HTTP in a tunnel.
    async fn plain_in(&self, authority: &str, bytes: &str) -> String {
        match self.tunnel(authority).await {
            Ok(stream) => said(stream, bytes.as_bytes()).await,
            Err(answer) => answer,
        }
    }

    /// A GET through TLS in a tunnel, with this server name and this target and Host.
    async fn tls_in(&self, authority: &str, server_name: &str, alpn: &[&str], url: &str, host: &str) -> Got {
        let stream = self.tunnel(authority).await.unwrap();
        let mut client = support::tls_client(stream, &self.bench.ca_pem, server_name, alpn).await;
        let request = match &client {
            Client::H1(_) => http::Request::get(url).header("host", host),
            Client::H2(_) if host.is_empty() => http::Request::get(url),
            Client::H2(_) => http::Request::get(url).header("host", host),
        };
        client.send(request.body(full("")).unwrap()).await
    }

    /// The same handshake without a word on the server's name.
    async fn nameless_in(&self, authority: &str, host: &str) -> String {
        let stream = self.tunnel(authority).await.unwrap();
        let mut config = client_config(&self.bench.ca_pem, &["http/1.1"]);
        config.enable_sni = false;
        config.dangerous().set_certificate_verifier(Arc::new(Anybody));
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("anything.example").unwrap();
        match connector.connect(name, stream).await {
            Ok(tls) => {
                said(tls, format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await
            }
            Err(error) => format!("no handshake: {error}"),
        }
    }

    fn refused(&self) -> Refused<'_> {
        Refused { way: self, count: self.count() }
    }

    /// Refusals so far. One that is the same as one before is counted by the log and not written again.
    fn count(&self) -> u64 {
        self.bench.gateway.stats().refused()
    }
}

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

/// Checks one variant after the other.
struct Refused<'w> {
    way: &'w Way,
    count: u64,
}

impl Refused<'_> {
    /// The answer names one of these reasons, the log has a new refusal with the same, and nothing has reached the upstream.
    async fn expect(&mut self, variant: &str, answer: &str, reasons: &[&str]) {
        // What the parser of HTTP refuses has its own plain 400, and its reason in the log.
        if answer.starts_with("HTTP/1.1 400 ") && !answer.contains("x-carboy-reason") {
            return self.written(variant, reasons).await;
        }
        let named = reasons.iter().find(|reason| answer.contains(&format!("x-carboy-reason: {reason}\r\n")));
        let Some(reason) = named else { panic!("{variant}: none of {reasons:?} in:\n{answer}") };
        self.written(variant, &[*reason]).await;
    }

    async fn expect_got(&mut self, variant: &str, got: &Got, reasons: &[&str]) {
        assert!(reasons.contains(&got.reason()), "{variant}: {} {} {}", got.status, got.reason(), got.text());
        self.written(variant, &[got.reason()]).await;
    }

    /// One refusal more, and its reason is in the log.
    async fn written(&mut self, variant: &str, reasons: &[&str]) {
        let deadline = tokio::time::Instant::now() + ANSWER_WAIT_MAX;
        while self.way.count() == self.count {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{variant}: no refusal; {:?}",
                self.way.bench.log.refusals()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.count = self.way.count();
        let written = self.way.bench.log.refusals();
        assert!(written.iter().any(|one| reasons.contains(&&**one)), "{variant}: {reasons:?} is not in {written:?}");
        let received = self.way.bench.origin.received();
        assert!(received.is_empty(), "{variant}: {received:?}");
    }
}

async fn said<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> String {
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(ANSWER_WAIT_MAX, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A hostile client does not care who answers.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

const ASK: &str = "GET / HTTP/1.1\r\nConnection: close\r\n";

/// A request of plain HTTP for this host.
fn ask(host: &str) -> String {
    format!("{ASK}Host: {host}\r\n\r\n")
}

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
