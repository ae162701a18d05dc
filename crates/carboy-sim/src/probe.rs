//! The simulated agent: a small client that does inside a bottle what it is told over its standard input, and says
//! over its standard output what came of it. The tour and the attack tests speak through it, so that they need no
//! curl on the machine.
//!
//! ```text
//! {"op":"http","method":"GET","url":"https://host/path"}        ──► {"status":200,"headers":{…},"body":"…"}
//! {"op":"dns","name":"a.example","server":"192.0.2.53:53"}      ──► {"rcode":3,"answers":0}
//! {"op":"tcp","address":"192.0.2.1:5432","send":"…"}            ──► {"received":"…"}
//! {"op":"env","name":"ANTHROPIC_API_KEY"}                       ──► {"value":"…"}
//! {"op":"raw","address":"192.0.2.1:443","pieces":[[22,3,1]]}     ──► {"bytes":[…],"body":"…"}
//! {"op":"datagram","address":"192.0.2.1:53","send":[0,1]}        ──► {"bytes":[…]}
//! whatever failed                                               ──► {"error":"…"}
//! ```
//!
//! It has no power of its own: what a bottle lets it do is what a bottle lets any program do.

mod raw;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};

/// Longest order, in bytes: a body in it is base64.
pub const ORDER_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most of an answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Longest wait for one thing.
pub const WAIT_MAX: Duration = Duration::from_secs(15);

/// What the probe is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Order {
    /// One HTTP/1.1 request over a connection of its own.
    Http {
        /// `GET`, `POST`…
        method: String,
        /// `https://host[:port]/path` or `http://…`.
        url: String,
        /// Header fields.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// The body's bytes.
        #[serde(default)]
        body: Vec<u8>,
        /// Address to connect to instead of what DNS says.
        #[serde(default)]
        connect_to: Option<SocketAddr>,
        /// TLS server name to send instead of the URL's host.
        #[serde(default)]
        sni: Option<String>,
    },
    /// One A query over UDP to a server of its choice.
    Dns {
        /// The name.
        name: String,
        /// The server.
        server: SocketAddr,
    },
    /// A plain connection: sends, then reads what comes.
    Tcp {
        /// Where to.
        address: SocketAddr,
        /// What to send.
        #[serde(default)]
        send: String,
    },
    /// An environment variable.
    Env {
        /// Its name.
        name: String,
    },
    /// Bytes as they are, over a connection of its own; then what comes back, until it ends or is quiet.
    Raw {
        /// Where to.
        address: SocketAddr,
        /// The handshake to make first, if any.
        #[serde(default)]
        tls: Option<Hello>,
        /// Written one after the other, each in a write of its own: in TLS, a record of its own.
        pieces: Vec<Vec<u8>>,
        /// Pause between two pieces, in milliseconds.
        #[serde(default)]
        pause_ms: u64,
        /// Reading ends after so long without a byte, in milliseconds.
        quiet_ms: u64,
    },
    /// One datagram, and the first that comes back.
    Datagram {
        /// Where to.
        address: SocketAddr,
        /// What to send.
        send: Vec<u8>,
        /// The wait for an answer, in milliseconds.
        wait_ms: u64,
    },
}

/// A TLS handshake whose parts need not fit each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The name that the certificate has to be for.
    pub name: String,
    /// Whether the handshake says it.
    pub server_name: ServerNameField,
    /// Protocols that are offered.
    #[serde(default)]
    pub alpn: Vec<String>,
}

/// The server name field of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerNameField {
    /// As RFC 6066 wants it.
    Sent,
    /// Left out.
    Absent,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Status of an HTTP answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Its header fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Its body, or the bytes that a plain connection gave, as text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// Response code of a DNS answer (RFC 1035).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rcode: Option<u8>,
    /// Records in its answer section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u16>,
    /// The bytes of a raw exchange, as they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bytes: Vec<u8>,
    /// Value of a variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What the probe knows of its world; read by the program's entry, which alone touches the environment.
pub struct World {
    /// PEM certificates to trust (`SSL_CERT_FILE`).
    pub ca_pem: Vec<u8>,
    /// Environment variables by name.
    pub variables: BTreeMap<String, String>,
}

/// Why an order could not be carried out; all of it is reported as text.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Carries out orders, one a line, until standard input ends.
pub async fn serve(world: World) -> std::io::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin());
    let mut out = tokio::io::stdout();
    loop {
        let mut line = Vec::new();
        if (&mut lines).take(ORDER_BYTES_MAX).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let report = match serde_json::from_slice::<Order>(&line) {
            Err(e) => failed(&e),
            Ok(order) => match tokio::time::timeout(WAIT_MAX, carry_out(order, &world)).await {
                Ok(Ok(report)) => report,
                Ok(Err(e)) => failed(e.as_ref()),
                Err(_) => Report { error: Some(format!("nothing came within {WAIT_MAX:?}")), ..Report::default() },
            },
        };
        let mut text = serde_json::to_vec(&report)?;
        text.push(b'\n');
        out.write_all(&text).await?;
        out.flush().await?;
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Report {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    Report { error: Some(text), ..Report::default() }
}

async fn carry_out(order: Order, world: &World) -> Result<Report, Failure> {
    match order {
        Order::Http { method, url, headers, body, connect_to, sni } => {
            http(&method, &url, &headers, body, connect_to, sni.as_deref(), world).await
        }
        Order::Dns { name, server } => dns(&name, server).await,
        Order::Tcp { address, send } => tcp(address, &send).await,
        Order::Env { name } => Ok(Report { value: world.variables.get(&name).cloned(), ..Report::default() }),
        Order::Raw { address, tls, pieces, pause_ms, quiet_ms } => {
            let pace = raw::Pace { pause: Duration::from_millis(pause_ms), quiet: Duration::from_millis(quiet_ms) };
            raw::exchange(address, tls, pieces, pace, world).await
        }
        Order::Datagram { address, send, wait_ms } => {
            raw::datagram(address, &send, Duration::from_millis(wait_ms)).await
        }
    }
}

async fn http(
    method: &str,
    url: &str,
    headers: &BTreeMap<String, String>,
    body: Vec<u8>,
    connect_to: Option<SocketAddr>,
    sni: Option<&str>,
    world: &World,
) -> Result<Report, Failure> {
    let url: http::Uri = url.parse()?;
    let host = url.host().ok_or("the URL has no host")?;
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = match connect_to {
        Some(address) => TcpStream::connect(address).await?,
        None => TcpStream::connect((host.trim_matches(['[', ']']), port)).await?,
    };
    let mut request = http::Request::builder()
        .method(method)
        .uri(url.path_and_query().map_or("/", |p| p.as_str()))
        .header(http::header::HOST, url.authority().map_or(host, |a| a.as_str()));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    if secure {
        let name = ServerName::try_from(sni.unwrap_or(host).trim_matches(['[', ']']).to_owned())?;
        let stream = tls(world)?.connect(name, stream).await?;
        exchange(TokioIo::new(stream), request).await
    } else {
        exchange(TokioIo::new(stream), request).await
    }
}

fn tls(world: &World) -> Result<tokio_rustls::TlsConnector, Failure> {
    Ok(tokio_rustls::TlsConnector::from(Arc::new(client_config(world)?)))
}

fn client_config(world: &World) -> Result<rustls::ClientConfig, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&world.ca_pem) {
        roots.add(cert?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

async fn exchange<S>(io: TokioIo<S>, request: http::Request<Full<Bytes>>) -> Result<Report, Failure>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
    driver.abort();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Ok(Report {
        status: Some(head.status.as_u16()),
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
        ..Report::default()
    })
}

async fn dns(name: &str, server: SocketAddr) -> Result<Report, Failure> {
    let local: SocketAddr = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(&dns_query(name)?).await?;
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).await?;
    if length < 12 {
        return Err("the DNS answer is shorter than its header".into());
    }
    let answers = u16::from_be_bytes([answer[6], answer[7]]);
    Ok(Report { rcode: Some(answer[3] & 0x0f), answers: Some(answers), ..Report::default() })
}

/// A recursive A query (RFC 1035, section 4.1).
fn dns_query(name: &str) -> Result<Vec<u8>, Failure> {
    let mut query = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        let length =
            u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n)).ok_or("a label has 1 to 63 bytes")?;
        query.push(length);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(query)
}

async fn tcp(address: SocketAddr, send: &str) -> Result<Report, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(send.as_bytes()).await?;
    stream.shutdown().await?;
    let mut received = Vec::new();
    stream.take(ANSWER_BYTES_MAX as u64).read_to_end(&mut received).await?;
    Ok(Report { body: String::from_utf8_lossy(&received).into_owned(), ..Report::default() })
}
