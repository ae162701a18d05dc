//! The only functions that open an outbound socket or write to one.
//!
//! ```text
//! HostPermit ──▶ Dialer::connect ──▶ resolve ─▶ check each address ─▶ dial that address ─▶ TLS, verified
//! Dispatched + HostPermit ──▶ Pool::send ──▶ Answer
//! ```
//!
//! *Must never* connect without a [`HostPermit`], dial an address that was not checked (B31), accept a certificate
//! that the platform's roots and the operator's extra CA do not vouch for (B58), or send a request again after any
//! byte of it may have left (B33).

mod client_tls;
mod pool;
pub mod webhook;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use carboy_core::host::Host;
use carboy_core::route::HostPermit;
use carboy_core::upstream::{Transport, Upstreams};
use carboy_core::verdict::{Denial, Reason};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::alpn::{Alpn, AlpnMemory, Offer};
use crate::body::OutBody;
use crate::inject::Rest;
use crate::limits::GatewayLimits;
use crate::reserve::Dispatched;

pub(crate) use client_tls::ClientTls;
pub(crate) use pool::{Lease, Left, Line, Pool};

/// Whether a leg of the way is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    Tls,
    Plain,
}

/// Opens connections for permits.
pub(crate) struct Dialer {
    upstreams: Upstreams,
    tls: ClientTls,
    pub(crate) alpn: AlpnMemory,
    limits: Arc<GatewayLimits>,
}

/// An open connection to an upstream, ready for requests.
pub(crate) enum Sender {
    H1(hyper::client::conn::http1::SendRequest<OutBody>),
    H2(hyper::client::conn::http2::SendRequest<OutBody>),
}

impl Dialer {
    pub(crate) fn new(upstreams: Upstreams, limits: Arc<GatewayLimits>) -> Dialer {
        let alpn = AlpnMemory::new(limits.alpn_max, limits.alpn_age);
        Dialer { upstreams, tls: ClientTls::default(), alpn, limits }
    }

    /// Is the leg to this upstream encrypted, when the bottle's own leg is `inside`?
    pub(crate) fn security(&self, host: &Host, port: u16, inside: Security) -> Security {
        match self.upstreams.get(host, port).map(|upstream| upstream.transport) {
            Some(Transport::Tls) => Security::Tls,
            Some(Transport::Plain) => Security::Plain,
            None => inside,
        }
    }

    /// May a credential go out on this leg? Over TLS, or where the operator said that this upstream is plain.
    pub(crate) fn may_carry_credential(&self, host: &Host, port: u16, inside: Security) -> bool {
        self.upstreams.get(host, port).is_some() || inside == Security::Tls
    }

    /// Resolves, checks, dials and, where the leg is TLS, verifies. `offer` is what the bottle's client offered.
    pub(crate) async fn connect(
        &self,
        permit: &HostPermit,
        inside: Security,
        offer: Offer,
    ) -> Result<(Sender, Option<Alpn>), Denial> {
        let (host, port) = (permit.host(), permit.port());
        let tcp = match timeout(self.limits.dial, self.dial(permit)).await {
            Ok(dialled) => dialled?,
            Err(_) => return Err(unreachable(permit, &format!("no answer within {:?}", self.limits.dial))),
        };
        // Small writes are whole requests here; waiting to merge them only adds latency.
        let _ = tcp.set_nodelay(true);
        if self.security(host, port, inside) == Security::Plain {
            return Ok((self.speak(tcp, None, permit).await?, None));
        }
        let extra = self.upstreams.get(host, port).and_then(|upstream| upstream.extra_ca_pem.as_deref());
        let config = self.tls.config(extra, offer).await.map_err(|why| unreachable(permit, &why))?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let handshake = connector.connect(server_name(host)?, tcp);
        let stream = match timeout(self.limits.handshake, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(tls_failure(permit, &error)),
            Err(_) => return Err(unreachable(permit, &format!("no TLS within {:?}", self.limits.handshake))),
        };
        let alpn = stream.get_ref().1.alpn_protocol().and_then(Alpn::from_wire);
        self.alpn.learn(host, port, offer, alpn);
        Ok((self.speak(stream, alpn, permit).await?, alpn))
    }

    /// A TCP connection to one of the addresses that the permit accepts; the next is tried beside a slow one.
    async fn dial(&self, permit: &HostPermit) -> Result<TcpStream, Denial> {
        let mut waiting = self.addresses(permit).await?.into_iter();
        let mut running = FuturesUnordered::new();
        let mut last_error = String::from("no address");
        if let Some(first) = waiting.next() {
            running.push(TcpStream::connect(first));
        }
        loop {
            let stagger = sleep(self.limits.next_address);
            tokio::select! {
                done = running.next() => match done {
                    Some(Ok(stream)) => return Ok(stream),
                    Some(Err(error)) => {
                        last_error = error.to_string();
                        match waiting.next() {
                            Some(next) => running.push(TcpStream::connect(next)),
                            None if running.is_empty() => return Err(unreachable(permit, &last_error)),
                            None => {}
                        }
                    }
                    None => return Err(unreachable(permit, &last_error)),
                },
                () = stagger, if waiting.len() > 0 => {
                    if let Some(next) = waiting.next() {
                        running.push(TcpStream::connect(next));
                    }
                }
            }
        }
    }

    /// The addresses that may be dialled: the operator's own, or what the host resolves to as far as the permit
    /// accepts it. Exactly these are dialled, so that a second look-up cannot answer differently (B31).
    async fn addresses(&self, permit: &HostPermit) -> Result<Vec<SocketAddr>, Denial> {
        let (host, port) = (permit.host(), permit.port());
        if let Some(upstream) = self.upstreams.get(host, port) {
            return Ok(vec![upstream.address]);
        }
        let found: Vec<IpAddr> = match host {
            Host::V4(v4) => vec![IpAddr::V4(*v4)],
            Host::V6(v6) => vec![IpAddr::V6(*v6)],
            Host::Name(name) => match tokio::net::lookup_host((name.as_str(), port)).await {
                Ok(found) => found.map(|address| address.ip()).collect(),
                Err(error) => return Err(unreachable(permit, &format!("it cannot be resolved: {error}"))),
            },
        };
        let mut refused = None;
        let mut accepted = Vec::new();
        for ip in found {
            match permit.check_address(ip) {
                Ok(()) => accepted.push(SocketAddr::new(ip, port)),
                Err(denial) => refused = Some(denial),
            }
        }
        match (accepted.is_empty(), refused) {
            (false, _) => Ok(accepted),
            (true, Some(denial)) => Err(denial),
            (true, None) => Err(unreachable(permit, "it has no address")),
        }
    }

    /// Starts HTTP on an open stream. The connection's own task ends when its last sender and body are gone.
    async fn speak<S>(&self, stream: S, alpn: Option<Alpn>, permit: &HostPermit) -> Result<Sender, Denial>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        let failed = |error: hyper::Error| unreachable(permit, &error.to_string());
        match alpn {
            Some(Alpn::H2) => {
                let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(self.limits.stream_window_bytes)
                    .initial_connection_window_size(self.limits.connection_window_bytes)
                    .max_header_list_size(self.limits.head_bytes_max as u32)
                    .max_frame_size(self.limits.frame_bytes_max)
                    .max_send_buf_size(self.limits.send_buffer_bytes)
                    .handshake(io)
                    .await
                    .map_err(failed)?;
                tokio::spawn(connection);
                Ok(Sender::H2(sender))
            }
            Some(Alpn::H1) | None => {
                let (sender, connection) = hyper::client::conn::http1::Builder::new()
                    .max_headers(self.limits.headers_max)
                    .max_header_size(self.limits.head_bytes_max)
                    .max_buf_size(self.limits.connection_buffer_bytes)
                    .handshake(io)
                    .await
                    .map_err(failed)?;
                tokio::spawn(connection.with_upgrades());
                Ok(Sender::H1(sender))
            }
        }
    }
}

/// Step 6: the head of an upstream's answer, with what is needed to judge the rest of it.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Option<Lease>,
    pub(crate) rest: Rest,
}

/// Writes the request to its upstream and waits for the answer's head. A body that is stopped on the way ends the
/// wait: its sender is dropped, which resets the upstream's stream.
pub(crate) async fn send(dialer: &Dialer, pool: &Arc<Pool>, request: Dispatched) -> Result<Answer, Denial> {
    let (request, line, mut rest) = request.into_parts();
    let permit = &rest.permit;
    let sending = pool.send(dialer, permit, line, request);
    let outcome = tokio::select! {
        biased;
        denial = rest.gate.stopped() => return Err(denial),
        outcome = timeout(dialer.limits.answer_head, sending) => outcome,
    };
    // The connection's own error may be the first to show when a body is stopped; the stop is the cause.
    if let Some(denial) = rest.gate.denial() {
        return Err(denial);
    }
    match outcome {
        Ok(Ok((response, lease))) => Ok(Answer { response, lease, rest }),
        Ok(Err(failure)) => {
            if let (Left::Nothing, Some(hold)) = (failure.left, rest.hold.take()) {
                hold.unsent();
            }
            Err(failure.denial)
        }
        Err(_) => {
            let detail = format!("{}: no answer within {:?}", permit.host(), dialer.limits.answer_head);
            Err(Denial::new(Reason::UpstreamFailed, detail))
        }
    }
}

/// Sends what asks for a WebSocket, on a connection of its own that speaks HTTP/1.1.
pub(crate) async fn open_socket(dialer: &Dialer, inside: Security, request: Dispatched) -> Result<Answer, Denial> {
    let (request, _, rest) = request.into_parts();
    let permit = &rest.permit;
    let failed = |why: &str| Denial::new(Reason::UpstreamFailed, format!("{}: {why}", permit.host()));
    let (sender, _) = dialer.connect(permit, inside, Offer { h1: true, h2: false }).await?;
    let Sender::H1(mut sender) = sender else { return Err(failed("it chose a protocol that was not offered")) };
    match timeout(dialer.limits.answer_head, sender.send_request(request)).await {
        Ok(Ok(response)) => Ok(Answer { response, lease: None, rest }),
        Ok(Err(error)) => Err(failed(&pool::describe(&error))),
        Err(_) => Err(failed(&format!("no answer within {:?}", dialer.limits.answer_head))),
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, Denial> {
    match host.as_ip() {
        Some(ip) => Ok(ServerName::IpAddress(ip.into())),
        None => ServerName::try_from(host.to_string())
            .map_err(|_| Denial::new(Reason::HostInvalid, format!("{host} cannot be a TLS server name"))),
    }
}

fn unreachable(permit: &HostPermit, why: &str) -> Denial {
    Denial::new(Reason::UpstreamUnreachable, format!("{} port {}: {why}", permit.host(), permit.port()))
}

fn tls_failure(permit: &HostPermit, error: &std::io::Error) -> Denial {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let reason = match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Reason::UpstreamCertificate
        }
        Some(_) | None => Reason::UpstreamUnreachable,
    };
    Denial::new(reason, format!("{} port {}: {error}", permit.host(), permit.port()))
}
