//! A gateway with a proxy before it, its hostile clients, and what is expected of each variant.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::host::{Host, HostPattern};
use carboy_core::route::{AuthScheme, Route, RouteAuth};
use carboy_core::secret::{Secret, SecretText};
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::GatewayLimits;
use http::Response;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    self, Bench, Client, Got, HOST, Kind, Origin, client_config, full, recording, route, secret_name,
};

pub const PASSWORD: &str = "open-sesame-7";
/// `user:open-sesame-7`
pub const RIGHT: &str = "Proxy-Authorization: Basic dXNlcjpvcGVuLXNlc2FtZS03\r\n";
/// A second allowed host, another operator's, with the same address.
pub const OTHER: &str = "other.example";
/// Longest wait for an answer.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// A bench with a proxy before it; [`HOST`] has the credential, [`OTHER`] none, `*.wild.example` is allowed.
pub struct Way {
    pub bench: Bench,
    pub proxy: SocketAddr,
}

pub fn with_key() -> Route {
    let mut route = route(HOST);
    route.auth = Some(RouteAuth { header: "authorization".into(), scheme: AuthScheme::Bearer, secret: secret_name() });
    route
}

pub fn routes() -> Vec<Route> {
    vec![
        with_key(),
        Route::plain(2, HostPattern::parse(OTHER).unwrap()),
        Route::plain(3, HostPattern::parse("*.wild.example").unwrap()),
    ]
}

impl Way {
    pub async fn plain() -> Way {
        Way::with(Kind::Plain, routes()).await
    }

    pub async fn tls() -> Way {
        Way::with(Kind::Tls(&["h2", "http/1.1"]), routes()).await
    }

    pub async fn with(kind: Kind, routes: Vec<Route>) -> Way {
        let origin = Arc::new(Origin::default());
        let answer = recording(origin.clone(), |_| Response::new(full("hello")));
        Way::answering(kind, routes, origin, answer).await
    }

    pub async fn answering(kind: Kind, routes: Vec<Route>, origin: Arc<Origin>, answer: support::Handler) -> Way {
        Way::governed(kind, routes, (origin, answer), GatewayLimits::default()).await
    }

    pub async fn limited(limits: GatewayLimits) -> Way {
        let origin = Arc::new(Origin::default());
        let answer = recording(origin.clone(), |_| Response::new(full("hello")));
        Way::governed(Kind::Plain, routes(), (origin, answer), limits).await
    }

    pub async fn governed(
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
    pub async fn said(&self, bytes: &[u8]) -> String {
        said(TcpStream::connect(self.proxy).await.unwrap(), bytes).await
    }

    /// A request in absolute form: this is what a client puts between `http://` and the path.
    pub async fn absolute(&self, authority: &str) -> String {
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
    pub async fn tunnel(&self, authority: &str) -> Result<TcpStream, String> {
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
    pub async fn plain_in(&self, authority: &str, bytes: &str) -> String {
        match self.tunnel(authority).await {
            Ok(stream) => said(stream, bytes.as_bytes()).await,
            Err(answer) => answer,
        }
    }

    /// A GET through TLS in a tunnel, with this server name and this target and Host.
    pub async fn tls_in(&self, authority: &str, server_name: &str, alpn: &[&str], url: &str, host: &str) -> Got {
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
    pub async fn nameless_in(&self, authority: &str, host: &str) -> String {
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

    pub fn refused(&self) -> Refused<'_> {
        Refused { way: self, count: self.count() }
    }

    /// Refusals so far. One that is the same as one before is counted by the log and not written again.
    pub fn count(&self) -> u64 {
        self.bench.gateway.stats().refused()
    }
}

/// Checks one variant after the other.
pub struct Refused<'w> {
    way: &'w Way,
    count: u64,
}

impl Refused<'_> {
    /// The answer names one of these reasons, the log has a new refusal with the same, and nothing has reached the upstream.
    pub async fn expect(&mut self, variant: &str, answer: &str, reasons: &[&str]) {
        // What the parser of HTTP refuses has its own plain 400, and its reason in the log.
        if answer.starts_with("HTTP/1.1 400 ") && !answer.contains("x-carboy-reason") {
            return self.written(variant, reasons).await;
        }
        let named = reasons.iter().find(|reason| answer.contains(&format!("x-carboy-reason: {reason}\r\n")));
        let Some(reason) = named else { panic!("{variant}: none of {reasons:?} in:\n{answer}") };
        self.written(variant, &[*reason]).await;
    }

    pub async fn expect_got(&mut self, variant: &str, got: &Got, reasons: &[&str]) {
        assert!(reasons.contains(&got.reason()), "{variant}: {} {} {}", got.status, got.reason(), got.text());
        self.written(variant, &[got.reason()]).await;
    }

    /// One refusal more, and its reason is in the log.
    pub async fn written(&mut self, variant: &str, reasons: &[&str]) {
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

pub async fn said<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> String {
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(ANSWER_WAIT_MAX, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A hostile client does not care who answers.
#[derive(Debug)]
pub struct Anybody;

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

pub const ASK: &str = "GET / HTTP/1.1\r\nConnection: close\r\n";

/// A request of plain HTTP for this host.
pub fn ask(host: &str) -> String {
    format!("{ASK}Host: {host}\r\n\r\n")
}
