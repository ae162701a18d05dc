//! A gateway between a client and an upstream, all on loopback: what the integration tests share.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod h2;
pub mod ledger;
pub mod model;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use carboy_core::audit::{Event, Outcome, Subject};
use carboy_core::host::{Host, HostPattern};
use carboy_core::ids::SecretName;
use carboy_core::ports::{AuditError, AuditSink, Clock, Later, SecretSource};
use carboy_core::route::{Route, RouteSet};
use carboy_core::secret::{Secret, SecretText};
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::{CertificateAuthority, Gateway, GatewayConfig, GatewayLimits, Listener};
use carboy_guard::Detectors;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};

use ledger::Memory;

/// The one secret of the run, as the gateway holds it.
pub const SECRET: &str = "sk-test-Zq8vTr3LmW5xKd0PyB7nHc2A";
pub const HOST: &str = "api.example";

pub type Body = BoxBody<Bytes, Infallible>;
pub type Handler = Arc<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync>;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

pub fn handler<F, R>(f: F) -> Handler
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    Arc::new(move |request| Box::pin(f(request)))
}

/// What reached the upstream.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    pub target: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub complete: bool,
}

#[derive(Default)]
pub struct Origin {
    pub received: Mutex<Vec<Received>>,
    pub connections: AtomicUsize,
    pub resumed: AtomicUsize,
}

impl Origin {
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// TLS handshakes that resumed a session.
    pub fn resumed(&self) -> usize {
        self.resumed.load(Ordering::SeqCst)
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

/// Keeps the body of each request, then answers as told.
pub fn recording(origin: Arc<Origin>, answer: impl Fn(&Received) -> Response<Body> + Send + Sync + 'static) -> Handler {
    let answer = Arc::new(answer);
    handler(move |request| {
        let (origin, answer) = (origin.clone(), answer.clone());
        async move {
            let (head, mut body) = request.into_parts();
            let mut got = Received {
                method: head.method,
                target: head.uri.to_string(),
                version: head.version,
                headers: head.headers,
                body: Vec::new(),
                trailers: None,
                complete: true,
            };
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => got.body.extend_from_slice(&data),
                        Err(frame) => got.trailers = frame.into_trailers().ok(),
                    },
                    Err(_) => {
                        got.complete = false;
                        break;
                    }
                }
            }
            let response = answer(&got);
            origin.received.lock().unwrap().push(got);
            response
        }
    })
}

/// A hyper server on loopback; `tls` chooses the ALPN protocols, `None` is plain.
pub async fn serve(
    tls: Option<(&CertificateAuthority, &str, &[&str])>,
    origin: Arc<Origin>,
    handler: Handler,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tls.map(|(ca, host, alpn)| {
        let leaf = ca.mint(&Host::parse(host).unwrap(), now_ms()).unwrap();
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(leaf)));
        config.alpn_protocols = alpn.iter().map(|id| id.as_bytes().to_vec()).collect();
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    });
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            origin.connections.fetch_add(1, Ordering::SeqCst);
            let (acceptor, handler, origin) = (acceptor.clone(), handler.clone(), origin.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                match acceptor {
                    None => {
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(tcp), service)
                            .await;
                    }
                    Some(acceptor) => {
                        let Ok(tls) = acceptor.accept(tcp).await else { return };
                        if tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                            origin.resumed.fetch_add(1, Ordering::SeqCst);
                        }
                        if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                                .serve_connection(TokioIo::new(tls), service)
                                .await;
                        } else {
                            let _ = hyper::server::conn::http1::Builder::new()
                                .serve_connection(TokioIo::new(tls), service)
                                .await;
                        }
                    }
                }
            });
        }
    });
    address
}

#[derive(Default)]
pub struct Log {
    pub events: Mutex<Vec<Event>>,
    pub broken: AtomicBool,
}

impl Log {
    fn put(&self, event: Event) -> Result<(), AuditError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(AuditError("no space left".into()));
        }
        self.events.lock().unwrap().push(event);
        Ok(())
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The reasons of all refusals, in order.
    pub fn refusals(&self) -> Vec<String> {
        self.events()
            .iter()
            .filter(|event| matches!(event.result, Outcome::Denied | Outcome::Blocked))
            .filter_map(|event| detail(event, "reason"))
            .collect()
    }

    /// Waits until an event of this kind is there.
    pub async fn wait(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        for _ in 0..500 {
            if let Some(event) = self.events().into_iter().find(|event| wanted(event)) {
                return event;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no such event: {:#?}", self.events());
    }
}

pub fn detail(event: &Event, name: &str) -> Option<String> {
    let value = event.details.get(name)?.as_json();
    Some(value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string()))
}

impl AuditSink for Log {
    fn append(&self, event: Event) -> Result<(), AuditError> {
        self.put(event)
    }

    fn append_durable(&self, event: Event) -> Later<'_, Result<(), AuditError>> {
        Box::pin(async move { self.put(event) })
    }
}

pub struct Secrets {
    pub values: Mutex<BTreeMap<SecretName, Arc<SecretText>>>,
    pub refreshed: AtomicUsize,
}

impl Secrets {
    /// Gives a secret another value.
    pub fn set(&self, name: &SecretName, value: &str) {
        self.values.lock().unwrap().insert(name.clone(), Arc::new(Secret::new(value.to_owned())));
    }
}

impl SecretSource for Secrets {
    fn current(&self, name: &SecretName) -> Option<Arc<SecretText>> {
        self.values.lock().unwrap().get(name).cloned()
    }

    fn refresh(&self, name: &SecretName) -> Later<'_, Option<Arc<SecretText>>> {
        self.refreshed.fetch_add(1, Ordering::SeqCst);
        let value = self.current(name);
        Box::pin(async move { value })
    }
}

pub struct WallClock;

impl Clock for WallClock {
    fn now_ms(&self) -> u64 {
        now_ms()
    }
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

pub fn secret_name() -> SecretName {
    SecretName::parse("API_KEY").unwrap()
}

pub fn route(host: &str) -> Route {
    Route::plain(1, HostPattern::parse(host).unwrap())
}

/// A gateway under test with everything around it.
pub struct Bench {
    pub gateway: Arc<Gateway>,
    pub log: Arc<Log>,
    pub ledger: Arc<Memory>,
    pub secrets: Arc<Secrets>,
    pub origin: Arc<Origin>,
    pub upstream: SocketAddr,
    pub ca_pem: String,
}

/// How the upstream is.
pub enum Kind {
    Tls(&'static [&'static str]),
    Plain,
    /// TLS by a CA that the operator did not name.
    Untrusted,
    /// Nobody listens.
    Gone,
}

impl Bench {
    /// One upstream for [`HOST`] that records and answers 200 `hello`.
    pub async fn start(kind: Kind, routes: Vec<Route>) -> Bench {
        let origin = Arc::new(Origin::default());
        let answer = recording(origin.clone(), |_| Response::new(full("hello")));
        Bench::with(kind, routes, origin, answer, GatewayLimits::default()).await
    }

    pub async fn with(
        kind: Kind,
        routes: Vec<Route>,
        origin: Arc<Origin>,
        answer: Handler,
        limits: GatewayLimits,
    ) -> Bench {
        Bench::reaching(Upstreams::default(), kind, routes, origin, answer, limits).await
    }

    /// The same with upstreams of its own; an entry for [`HOST`] there takes the place of the recording one.
    pub async fn reaching(
        given: Upstreams,
        kind: Kind,
        routes: Vec<Route>,
        origin: Arc<Origin>,
        answer: Handler,
        limits: GatewayLimits,
    ) -> Bench {
        Bench::governed(Memory::unbound(), given, kind, routes, (origin, answer), limits).await
    }

    /// The same with a ledger of its own.
    pub async fn governed(
        ledger: Arc<Memory>,
        given: Upstreams,
        kind: Kind,
        routes: Vec<Route>,
        (origin, answer): (Arc<Origin>, Handler),
        limits: GatewayLimits,
    ) -> Bench {
        let (ca, _) = CertificateAuthority::generate(now_ms()).unwrap();
        let (world, _) = CertificateAuthority::generate(now_ms()).unwrap();
        let (upstream, transport) = match kind {
            Kind::Tls(alpn) => (serve(Some((&world, HOST, alpn)), origin.clone(), answer).await, Transport::Tls),
            Kind::Untrusted => (serve(Some((&ca, HOST, &[])), origin.clone(), answer).await, Transport::Tls),
            Kind::Plain => (serve(None, origin.clone(), answer).await, Transport::Plain),
            Kind::Gone => {
                let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
                (gone, Transport::Tls)
            }
        };
        let mut upstreams = Upstreams::default();
        let extra_ca_pem = Some(world.ca_pem().to_owned());
        upstreams.insert(Host::parse(HOST).unwrap(), None, Upstream { address: upstream, transport, extra_ca_pem });
        for (host, port, other) in given.iter() {
            upstreams.insert(host.clone(), port, other.clone());
        }
        let log = Arc::new(Log::default());
        let value = Arc::new(Secret::new(SECRET.to_owned()));
        let detectors = Detectors::builder([7; 32]).known_secret(&secret_name(), &value).build().unwrap();
        let secrets =
            Arc::new(Secrets { values: Mutex::new([(secret_name(), value)].into()), refreshed: AtomicUsize::new(0) });
        let ca_pem = ca.ca_pem().to_owned();
        let gateway = Gateway::new(GatewayConfig {
            learning: carboy_egress::Learning::Off,
            subject: Subject::default(),
            routes: RouteSet::new(routes, 1),
            upstreams,
            ca: Arc::new(ca),
            detectors: Arc::new(detectors),
            secrets: secrets.clone(),
            audit: log.clone(),
            ledger: ledger.clone(),
            clock: Arc::new(WallClock),
            limits,
        })
        .unwrap();
        Bench { gateway, log, ledger, secrets, origin, upstream, ca_pem }
    }

    /// A listener whose connections are meant for this host and port.
    pub async fn listen(&self, host: &str, port: u16) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (gateway, kind) = (self.gateway.clone(), Listener::Fixed { host: Host::parse(host).unwrap(), port });
        tokio::spawn(async move { gateway.serve_tcp(listener, kind).await });
        address
    }

    /// A TLS client of [`HOST`] port 443 that names itself the same and offers `alpn`.
    pub async fn client(&self, alpn: &[&str]) -> Client {
        self.client_of(HOST, 443, HOST, alpn).await
    }

    pub async fn client_of(&self, host: &str, port: u16, server_name: &str, alpn: &[&str]) -> Client {
        let tcp = TcpStream::connect(self.listen(host, port).await).await.unwrap();
        tls_client(tcp, &self.ca_pem, server_name, alpn).await
    }

    pub async fn plain(&self, host: &str, port: u16) -> Client {
        let tcp = TcpStream::connect(self.listen(host, port).await).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        Client::H1(sender)
    }
}

pub enum Client {
    H1(hyper::client::conn::http1::SendRequest<Body>),
    H2(hyper::client::conn::http2::SendRequest<Body>),
}

pub fn client_config(ca_pem: &str, alpn: &[&str]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|id| id.as_bytes().to_vec()).collect();
    config
}

pub async fn tls_client(tcp: TcpStream, ca_pem: &str, server_name: &str, alpn: &[&str]) -> Client {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(ca_pem, alpn)));
    let name = ServerName::try_from(server_name.to_owned()).unwrap();
    let tls = connector.connect(name, tcp).await.unwrap();
    if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
        let io = TokioIo::new(tls);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Client::H2(sender)
    } else {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        Client::H1(sender)
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// The body ended as it should.
    pub complete: bool,
}

impl Got {
    pub fn reason(&self) -> &str {
        self.headers.get("x-carboy-reason").map(|value| value.to_str().unwrap()).unwrap_or("")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub async fn start(&mut self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Client::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Client::H2(sender) => sender.send_request(request).await,
        }
    }

    pub async fn send(&mut self, request: Request<Body>) -> Got {
        read(self.start(request).await.unwrap()).await
    }

    /// GET of a path on [`HOST`].
    pub async fn get(&mut self, path: &str) -> Got {
        let request = self.request(Method::GET, path);
        self.send(request.body(full("")).unwrap()).await
    }

    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Got {
        let request = self.request(Method::POST, path);
        self.send(request.body(full(body)).unwrap()).await
    }

    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        match self {
            Client::H1(_) => Request::builder().method(method).uri(path).header("host", HOST),
            Client::H2(_) => Request::builder().method(method).uri(format!("https://{HOST}{path}")),
        }
    }
}

/// The same in HTTP/1.1 over a connection that hands every byte on by itself.
pub async fn tls_client_slow(tcp: TcpStream, ca_pem: &str, server_name: &str) -> Client {
    let (near, far) = tokio::io::duplex(1);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let (mut tcp_read, mut tcp_write) = tcp.into_split();
    tokio::spawn(async move {
        let mut byte = [0];
        while let Ok(1) = tokio::io::AsyncReadExt::read(&mut far_read, &mut byte).await {
            if tokio::io::AsyncWriteExt::write_all(&mut tcp_write, &byte).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move { tokio::io::copy(&mut tcp_read, &mut far_write).await });
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(ca_pem, &["http/1.1"])));
    let tls = connector.connect(ServerName::try_from(server_name.to_owned()).unwrap(), near).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    Client::H1(sender)
}

pub async fn read(response: Response<Incoming>) -> Got {
    let (head, mut body) = response.into_parts();
    let mut got = Got {
        status: head.status,
        version: head.version,
        headers: head.headers,
        body: Vec::new(),
        trailers: None,
        complete: true,
    };
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => got.body.extend_from_slice(&data),
            Ok(Err(frame)) => got.trailers = frame.into_trailers().ok(),
            Err(_) => {
                got.complete = false;
                break;
            }
        }
    }
    got
}
