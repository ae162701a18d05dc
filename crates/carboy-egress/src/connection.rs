//! One connection from the bottle: what it is for, what it speaks, and HTTP served on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use carboy_core::host::Host;
use carboy_core::verdict::{Denial, Reason};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};

use crate::alpn::Alpn;
use crate::gateway::Gateway;
use crate::pipeline;
use crate::upstream::Pool;

/// What is known of a connection before its first request.
pub(crate) struct Flow {
    gateway: Arc<Gateway>,
    host: Host,
    port: u16,
    pool: Arc<Pool>,
    /// What was wrong with the handshake: every request on it is refused for that.
    flaw: Option<Denial>,
    active: AtomicUsize,
    seen: AtomicUsize,
}

impl Flow {
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        host: Host,
        port: u16,
        pool: Arc<Pool>,
        flaw: Option<Denial>,
    ) -> Arc<Flow> {
        Arc::new(Flow { gateway, host, port, pool, flaw, active: AtomicUsize::new(0), seen: AtomicUsize::new(0) })
    }

    pub(crate) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// The host that was asked for: by name through DNS, or by address.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// May requests of this connection be decided on at all?
    pub(crate) fn standing(&self) -> Result<(), Denial> {
        self.flaw.clone().map_or(Ok(()), Err)
    }

    /// Serves HTTP until either side ends it, the routes no longer permit the host, or the run ends.
    pub(crate) async fn serve<S>(self: Arc<Self>, stream: S, alpn: Option<Alpn>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        let limits = self.gateway.limits.clone();
        let flow = self.clone();
        let service = service_fn(move |request| {
            let flow = flow.clone();
            async move {
                flow.active.fetch_add(1, Ordering::Relaxed);
                flow.seen.fetch_add(1, Ordering::Relaxed);
                let response = pipeline::handle(flow.clone(), request).await;
                flow.active.fetch_sub(1, Ordering::Relaxed);
                response
            }
        });
        match alpn {
            Some(Alpn::H2) => {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .adaptive_window(true)
                    .max_concurrent_streams(limits.streams_max)
                    .max_header_list_size(limits.head_bytes_max as u32)
                    .auto_date_header(false);
                let connection = std::pin::pin!(builder.serve_connection(io, service));
                self.steer(connection, |connection| connection.graceful_shutdown()).await;
            }
            Some(Alpn::H1) | None => {
                let mut builder = hyper::server::conn::http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.idle)
                    .max_headers(limits.headers_max)
                    .max_header_size(limits.head_bytes_max)
                    .auto_date_header(false);
                let connection = std::pin::pin!(builder.serve_connection(io, service));
                self.steer(connection, |connection| connection.graceful_shutdown()).await;
            }
        }
    }

    /// Drives a connection and watches what may end it.
    async fn steer<C>(&self, mut connection: std::pin::Pin<&mut C>, end: impl Fn(std::pin::Pin<&mut C>))
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let mut law = self.gateway.watch_law();
        let idle = self.gateway.limits.idle;
        let (mut quiet_at, mut seen) = (Instant::now() + idle, 0);
        loop {
            tokio::select! {
                done = connection.as_mut() => {
                    if let Err(error) = done {
                        self.broke(&error).await;
                    }
                    return;
                }
                changed = law.changed() => {
                    let now = law.borrow_and_update().clone();
                    if changed.is_err() || now.cut {
                        break;
                    }
                    // B57: a revoked host loses its open connections, streams included.
                    if now.routes.host_permit(&self.host, self.port).into_result().is_err() && self.flaw.is_none() {
                        return;
                    }
                }
                () = sleep_until(quiet_at) => {
                    // HTTP/2 has no idle limit of its own; an answer that still flows is not disturbed by this.
                    let now_seen = self.seen.load(Ordering::Relaxed);
                    if now_seen == seen && self.active.load(Ordering::Relaxed) == 0 {
                        end(connection.as_mut());
                    }
                    seen = now_seen;
                    quiet_at = Instant::now() + idle;
                }
            }
        }
        end(connection.as_mut());
        tokio::select! {
            _ = connection => {}
            () = sleep(self.gateway.limits.cut_grace) => {}
        }
    }

    /// A connection that ended because what came was no HTTP that the gateway reads.
    async fn broke(&self, error: &hyper::Error) {
        if error.is_parse_too_large() {
            let denial = Denial::new(Reason::LimitReached, "a request head is too large");
            self.gateway.refuse_connection(&self.host, self.port, denial).await;
        } else if error.is_timeout() && self.seen.load(Ordering::Relaxed) == 0 {
            let denial = Denial::new(Reason::ProtocolRefused, "the client sent no request");
            self.gateway.refuse_connection(&self.host, self.port, denial).await;
        } else if error.is_parse() {
            let denial = match self.gateway.routes_now() {
                Ok(routes) => routes.host_permit(&self.host, self.port).into_result().err(),
                Err(denial) => Some(denial),
            };
            // Whoever was not allowed to connect is told that; the bytes do not matter then.
            let denial = denial.unwrap_or_else(|| {
                Denial::new(Reason::ProtocolRefused, format!("what was sent is no HTTP/1 request: {error}"))
            });
            self.gateway.refuse_connection(&self.host, self.port, denial).await;
        }
    }
}
