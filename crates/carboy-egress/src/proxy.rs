//! The way out for programs that are in no bottle and can be told of a proxy: CONNECT and absolute-form requests
//! (RFC 9110, 9.3.6; RFC 9112, 3.2.2), on a Unix socket or on loopback.
//!
//! ```text
//!  CONNECT host:port ──▶ 200 ──▶ tls or plain HTTP, as on a captured connection ──▶ pipeline
//!  GET http://host/  ──────────▶ one request of plain HTTP                       ──▶ pipeline
//! ```
//!
//! The client says whom it means in the place of DNS and of the captured address; from there on everything is as for a
//! bottle: TLS is ended here, the names have to agree, a route has to allow the request. What differs is capture: a program
//! that does not use its proxy is not stopped. *Must never* pass a tunnel's bytes on unread, serve a client that did not
//! show the password or is another user's, or take a second proxy's request inside a tunnel.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use carboy_core::host::Host;
use carboy_core::secret::SecretText;
use carboy_core::verdict::{Denial, Reason};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use crate::alpn::Offer;
use crate::connection::{Flow, Kept};
use crate::gateway::Gateway;
use crate::linger::Lingering;
use crate::listener::{ACCEPT_PAUSE, TLS_HANDSHAKE, is_closed};
use crate::tls;
use crate::upstream::{Pool, Security};

/// The port of plain HTTP.
const HTTP_PORT: u16 = 80;
/// Bytes that are read at once of a head.
const STEP_BYTES: usize = 4096;

/// Who may use a proxy.
#[derive(Clone)]
pub enum ProxyAuth {
    /// This process's own user and root, by the kernel's word (`SO_PEERCRED`): a socket's mode is changed by mistake.
    Socket,
    /// Whoever shows this password in `Proxy-Authorization: Basic` (RFC 7617); the user name is not looked at.
    Password(Arc<SecretText>),
}

impl Gateway {
    /// Serves a proxy on a Unix socket until the run ends. Run it as its own task.
    pub async fn serve_proxy_unix(self: &Arc<Self>, listener: UnixListener) {
        self.accepting(&listener, &ProxyAuth::Socket).await;
    }

    /// Serves a proxy on loopback until the run ends. Run it as its own task.
    pub async fn serve_proxy_tcp(self: &Arc<Self>, listener: TcpListener, password: Arc<SecretText>) {
        self.accepting(&listener, &ProxyAuth::Password(password)).await;
    }

    async fn accepting<L: Accepts>(self: &Arc<Self>, listener: &L, auth: &ProxyAuth) {
        let mut law = self.watch_law();
        loop {
            let accepted = tokio::select! {
                // Cut closes the listener.
                _ = law.wait_for(|law| law.cut) => return,
                accepted = listener.one() => accepted,
            };
            match accepted {
                Ok((stream, caller)) => {
                    tokio::spawn(self.clone().proxied(stream, caller, auth.clone()));
                }
                Err(error) if is_closed(&error) => return,
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn proxied<S>(self: Arc<Self>, stream: S, caller: Caller, auth: ProxyAuth)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.count(|stats| stats.connections += 1);
        let mut stream = Lingering::new(stream);
        let crowded =
            |most: usize, which: &str| Denial::new(Reason::LimitReached, format!("{most} connections at once{which}"));
        let Ok(stranger) = self.strangers.clone().try_acquire_owned() else {
            let denial = crowded(self.limits.strangers_max, " that have not shown that they may use the proxy");
            let Ok(_told) = self.turned_away.clone().try_acquire_owned() else {
                // As many are being told so already: this one finds its connection closed.
                return self.refuse_connection(&nobody(), 0, denial).await;
            };
            return self.turn_away(&mut stream, denial, Duration::ZERO).await;
        };
        if let Err(denial) = auth.knows(caller) {
            return self.turn_away(&mut stream, denial, self.stranger_wait()).await;
        }
        let (head, read) = match Head::read(&mut stream, &self, &auth).await {
            Ok(Some(read)) => read,
            // It went away, or never said anything: nothing was asked for.
            Ok(None) => return,
            Err(denial) => return self.turn_away(&mut stream, denial, self.stranger_wait()).await,
        };
        let Ok(_one) = self.connections.clone().try_acquire_owned() else {
            let denial = crowded(self.limits.connections_max, "");
            let wait = self.refusal_wait(&denial);
            return self.turn_away(&mut stream, denial, wait).await;
        };
        drop(stranger);
        match head {
            Head::Tunnel { host, port } => self.tunnel(stream, read, host, port).await,
            Head::Request { host, port } => {
                let pool = Pool::new(Security::Plain, Offer { h1: true, h2: false });
                let flow = Flow::new(self, host, port, pool, None);
                // The next request of this connection may be for another host.
                flow.serve_kept(Begun { read, at: 0, stream }, None, Kept::ForOne).await;
            }
        }
    }

    /// A tunnel is opened to whatever host, and what comes through it is decided on: its client can read the refusal.
    async fn tunnel<S>(self: Arc<Self>, mut stream: Lingering<S>, mut read: Vec<u8>, host: Host, port: u16)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_err() {
            return;
        }
        if read.is_empty() {
            let mut first = [0_u8; STEP_BYTES];
            match timeout(self.limits.first_byte, stream.read(&mut first)).await {
                Ok(Ok(count)) if count > 0 => read.extend_from_slice(&first[..count]),
                Ok(Ok(_) | Err(_)) => return self.silent(&host, port, None).await,
                Err(_) => {
                    let detail = format!("the client sent nothing within {:?}", self.limits.first_byte);
                    return self.silent(&host, port, Some(Denial::new(Reason::ProtocolRefused, detail))).await;
                }
            }
        }
        let is_tls = read.first() == Some(&TLS_HANDSHAKE);
        let begun = Begun { read, at: 0, stream };
        if is_tls {
            tls::intercept(self, begun, host, port).await;
        } else {
            let pool = Pool::new(Security::Plain, Offer { h1: true, h2: false });
            Flow::new(self, host, port, pool, None).serve(begun, None).await;
        }
    }

    /// How long a stranger's refusal waits. They wait for each other alone, and hold their places meanwhile: however many
    /// come, nobody who has shown the password waits behind them.
    fn stranger_wait(&self) -> Duration {
        self.stranger_pace.lock().expect("no panic under this lock").take(std::time::Instant::now())
    }

    /// Says no to a client of which no request can be decided on, after `wait`. Written down first.
    async fn turn_away<S: AsyncWrite + Unpin>(&self, stream: &mut S, denial: Denial, wait: Duration) {
        tokio::time::sleep(wait).await;
        let text = format!("{denial}\n{}\n", denial.reason.agent_step());
        let status = http::StatusCode::from_u16(denial.reason.http_status()).unwrap_or(http::StatusCode::BAD_REQUEST);
        let more = match denial.reason == Reason::ProxyUnauthorized {
            true => "proxy-authenticate: Basic realm=\"carboy\"\r\n",
            false => "",
        };
        let reason = denial.reason.code();
        self.refuse_connection(&nobody(), 0, denial).await;
        let answer = format!(
            "HTTP/1.1 {status}\r\n{more}x-carboy-reason: {reason}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        );
        // A client that went away has no use for it.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

/// Who connected, by the kernel's word.
#[derive(Clone, Copy)]
enum Caller {
    /// A process of this user.
    User(u32),
    /// It cannot be known.
    Unknown,
}

/// A socket that is connected to.
trait Accepts: Sync {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    fn one(&self) -> impl Future<Output = io::Result<(Self::Stream, Caller)>> + Send;
}

impl Accepts for UnixListener {
    type Stream = UnixStream;

    async fn one(&self) -> io::Result<(UnixStream, Caller)> {
        let (stream, _) = self.accept().await?;
        let caller = stream.peer_cred().map_or(Caller::Unknown, |peer| Caller::User(peer.uid()));
        Ok((stream, caller))
    }
}

impl Accepts for TcpListener {
    type Stream = TcpStream;

    async fn one(&self) -> io::Result<(TcpStream, Caller)> {
        let (stream, _) = self.accept().await?;
        // Slower without; no reason to refuse it.
        let _ = stream.set_nodelay(true);
        Ok((stream, Caller::Unknown))
    }
}

/// In the log, the host of a connection that named none.
fn nobody() -> Host {
    Host::from_ip(std::net::Ipv4Addr::LOCALHOST.into())
}

/// What a client of a proxy begins with.
pub(crate) enum Head {
    Tunnel { host: Host, port: u16 },
    Request { host: Host, port: u16 },
}

impl Head {
    /// Reads a head; gives it with the bytes that are still to be used: behind a CONNECT, or the whole request.
    async fn read<S>(stream: &mut S, gateway: &Gateway, auth: &ProxyAuth) -> Result<Option<(Head, Vec<u8>)>, Denial>
    where
        S: AsyncRead + Unpin,
    {
        let deadline = Instant::now() + gateway.limits.handshake;
        let mut read = Vec::with_capacity(STEP_BYTES);
        loop {
            if read.len() >= gateway.limits.head_bytes_max {
                let detail = format!("a request head of more than {} bytes", gateway.limits.head_bytes_max);
                return Err(Denial::new(Reason::LimitReached, detail));
            }
            let mut step = [0_u8; STEP_BYTES];
            match timeout_at(deadline, stream.read(&mut step)).await {
                Ok(Ok(0) | Err(_)) => return Ok(None),
                Ok(Ok(count)) => read.extend_from_slice(&step[..count]),
                Err(_) if read.is_empty() => return Ok(None),
                Err(_) => return Err(Denial::new(Reason::ProtocolRefused, "the request head did not arrive in time")),
            }
            if let Some((head, length)) = Head::parse(&read, gateway.limits.headers_max, auth)? {
                if matches!(head, Head::Tunnel { .. }) {
                    read.drain(..length);
                }
                return Ok(Some((head, read)));
            }
        }
    }

    /// The same parser that reads requests afterwards, so that both see one head.
    pub(crate) fn parse(read: &[u8], headers_max: usize, auth: &ProxyAuth) -> Result<Option<(Head, usize)>, Denial> {
        let refused = |what: String| Denial::new(Reason::ProtocolRefused, what);
        let mut fields = vec![httparse::EMPTY_HEADER; headers_max];
        let mut request = httparse::Request::new(&mut fields);
        let length = match request.parse(read) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(refused(format!("what was sent is no HTTP/1 request: {error}"))),
        };
        let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        auth.admits(request.headers)?;
        let invalid = |error: carboy_core::host::HostError| Denial::new(Reason::HostInvalid, error.to_string());
        if method == "CONNECT" {
            let (host, port) = Host::parse_authority(target).map_err(invalid)?;
            let port = port.ok_or_else(|| Denial::new(Reason::HostInvalid, "CONNECT without a port"))?;
            return Ok(Some((Head::Tunnel { host, port }, length)));
        }
        let scheme = target.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
        match scheme {
            Some((scheme, rest)) if scheme == "http" => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (host, port) = Host::parse_authority(&rest[..end]).map_err(invalid)?;
                Ok(Some((Head::Request { host, port: port.unwrap_or(HTTP_PORT) }, length)))
            }
            Some((scheme, _)) if scheme == "https" => {
                Err(refused("an https request in absolute form; a client of a proxy sends CONNECT for it".into()))
            }
            Some(_) => Err(refused("a request for something else than http or https".into())),
            None => Err(refused("a request without a host in its target; this is a proxy".into())),
        }
    }
}

impl ProxyAuth {
    /// Is a socket's caller one of those who may use it? A password is looked for in what the caller says.
    fn knows(&self, caller: Caller) -> Result<(), Denial> {
        let own = rustix::process::getuid().as_raw();
        match (self, caller) {
            (ProxyAuth::Password(_), Caller::User(_) | Caller::Unknown) => Ok(()),
            (ProxyAuth::Socket, Caller::User(uid)) if uid == own || uid == 0 => Ok(()),
            (ProxyAuth::Socket, Caller::User(uid)) => Err(Denial::new(
                Reason::ProxyUnauthorized,
                format!("a process of uid {uid}, which is not this proxy's"),
            )),
            (ProxyAuth::Socket, Caller::Unknown) => {
                Err(Denial::new(Reason::ProxyUnauthorized, "the system does not say whose process it is"))
            }
        }
    }

    fn admits(&self, fields: &[httparse::Header<'_>]) -> Result<(), Denial> {
        let ProxyAuth::Password(password) = self else { return Ok(()) };
        let shown = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("proxy-authorization"));
        let shown: Vec<&[u8]> = shown.map(|field| field.value).collect();
        let right = matches!(shown[..], [value] if is_password(value, password));
        if right { Ok(()) } else { Err(Denial::new(Reason::ProxyUnauthorized, "")) }
    }
}

fn is_password(value: &[u8], password: &SecretText) -> bool {
    let Some((scheme, coded)) = value.split_at_checked(6) else { return false };
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return false;
    }
    let Ok(decoded) = STANDARD.decode(coded.trim_ascii()) else { return false };
    let Some(colon) = decoded.iter().position(|byte| *byte == b':') else { return false };
    decoded[colon + 1..].ct_eq(password.expose().as_bytes()).into()
}

/// A stream of which some bytes were read already: they come first.
struct Begun<S> {
    read: Vec<u8>,
    at: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = &this.read[this.at..];
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        this.at += count;
        if this.at == this.read.len() {
            (this.read, this.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
