//! WebSockets by hand: how one is opened, and servers that answer as a test says.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use carboy_core::host::Host;
use carboy_core::route::Route;
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::{CertificateAuthority, GatewayLimits};
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::support::ledger::Memory;
use crate::support::model::within;
use crate::support::{self, Bench, HOST, Kind, Origin, client_config, full, handler, route};

pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Stream for S {}

pub type Socket = WebSocketStream<Box<dyn Stream>>;

pub fn opening(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\nsec-websocket-extensions: permessage-deflate\r\n{more}\r\n"
    )
}

/// Asks for a WebSocket; gives it, or the head of the refusal.
pub async fn open(mut stream: Box<dyn Stream>, opening: &str) -> Result<Socket, String> {
    stream.write_all(opening.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    if !head.starts_with("http/1.1 101") {
        return Err(head);
    }
    // The example of RFC 6455, section 1.3: the answer is to the client's own key, and grants no extension.
    assert!(head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

pub async fn tls(bench: &Bench) -> Box<dyn Stream> {
    let tcp = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&bench.ca_pem, &["http/1.1"])));
    Box::new(connector.connect(HOST.try_into().unwrap(), tcp).await.unwrap())
}

pub fn sockets(route: Route) -> Route {
    Route { websocket: true, ..route }
}

/// The close that ends it.
pub async fn close_of(socket: &mut Socket) -> Option<CloseFrame> {
    while let Some(Ok(message)) = within(socket.next()).await {
        if let Message::Close(frame) = message {
            return frame;
        }
    }
    None
}

/// What a test's server was sent.
pub type Kept = Arc<Mutex<Vec<Message>>>;

/// A server that answers each message by `answer`, and keeps what it got.
pub async fn server(answer: fn(&Message) -> Vec<Message>) -> (Bench, Kept) {
    server_of(Memory::unbound(), route(HOST), answer).await
}

/// The same with a ledger and a route of its own.
pub async fn server_of(ledger: Arc<Memory>, route: Route, answer: fn(&Message) -> Vec<Message>) -> (Bench, Kept) {
    let (address, got) = listening(answer, |tcp| Box::pin(async move { Some(Box::new(tcp) as Box<dyn Stream>) })).await;
    let upstream = Upstream { address, transport: Transport::Plain, extra_ca_pem: None };
    (reaching(ledger, route, upstream).await, got)
}

/// The same behind TLS, where it speaks HTTP/2 as well, and WebSockets by HTTP/1.1 alone.
pub async fn tls_server(answer: fn(&Message) -> Vec<Message>) -> (Bench, Kept) {
    let (ca, _) = CertificateAuthority::generate(support::now_ms()).unwrap();
    let leaf = ca.mint(&Host::parse(HOST).unwrap(), support::now_ms()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(leaf)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (address, got) = listening(answer, move |tcp| {
        let acceptor = acceptor.clone();
        Box::pin(async move {
            let tls = acceptor.accept(tcp).await.ok()?;
            if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Some(Box::new(tls) as Box<dyn Stream>);
            }
            let service = hyper::service::service_fn(async |_| {
                Ok::<_, std::convert::Infallible>(http::Response::new(full("by HTTP/2")))
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), service)
                .await;
            None
        })
    })
    .await;
    let extra_ca_pem = Some(ca.ca_pem().to_owned());
    let upstream = Upstream { address, transport: Transport::Tls, extra_ca_pem };
    (reaching(Memory::unbound(), route(HOST), upstream).await, got)
}

pub type Opened = std::pin::Pin<Box<dyn Future<Output = Option<Box<dyn Stream>>> + Send>>;

pub async fn listening(
    answer: fn(&Message) -> Vec<Message>,
    open: impl Fn(TcpStream) -> Opened + Clone + Send + 'static,
) -> (std::net::SocketAddr, Kept) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let got = Kept::default();
    let kept = got.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (open, kept) = (open.clone(), kept.clone());
            tokio::spawn(async move {
                if let Some(stream) = open(tcp).await {
                    serve_socket(stream, answer, &kept).await;
                }
            });
        }
    });
    (address, got)
}

pub async fn serve_socket(mut stream: Box<dyn Stream>, answer: fn(&Message) -> Vec<Message>, kept: &Kept) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A connection that was made in advance and is not used.
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(!head.contains(KEY) && !head.contains("extensions"), "{head}");
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    let switched = format!(
        "HTTP/1.1 101 Switching\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(switched.as_bytes()).await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        kept.lock().unwrap().push(message.clone());
        for answer in answer(&message) {
            if socket.send(answer).await.is_err() {
                return;
            }
        }
    }
}

pub async fn reaching(ledger: Arc<Memory>, route: Route, upstream: Upstream) -> Bench {
    reaching_within(GatewayLimits::default(), ledger, route, upstream).await
}

pub async fn reaching_within(limits: GatewayLimits, ledger: Arc<Memory>, route: Route, upstream: Upstream) -> Bench {
    let mut upstreams = Upstreams::default();
    upstreams.insert(Host::parse(HOST).unwrap(), None, upstream);
    let unused = handler(|_| async { http::Response::new(full("")) });
    let (origin, routes) = (Arc::new(Origin::default()), vec![sockets(route)]);
    Bench::governed(ledger, upstreams, Kind::Plain, routes, (origin, unused), limits).await
}

pub fn echo(message: &Message) -> Vec<Message> {
    if message.is_text() || message.is_binary() { vec![message.clone()] } else { Vec::new() }
}

pub async fn plain(bench: &Bench) -> Socket {
    let tcp = TcpStream::connect(bench.listen(HOST, 80).await).await.unwrap();
    open(Box::new(tcp), &opening("/chat", "")).await.unwrap()
}
