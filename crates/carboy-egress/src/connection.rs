//! One connection from the bottle: what it is for, what it speaks, and HTTP served on it.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use carboy_core::host::Host;
use carboy_core::route::RouteSet;
use carboy_core::verdict::{Denial, Reason};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use crate::alpn::Alpn;
use crate::gateway::Gateway;
use crate::inside::Told;
use crate::pipeline;
use crate::record::Exchange;
use crate::resets::{Faults, Watched};
use crate::upstream::Pool;

/// How often within the time that an answer may be left unread it is looked at.
const LOOKS: u32 = 4;

/// How long a client may take to read the end of a stream that was ended for it.
const CLOSING_WAIT_MAX: Duration = Duration::from_millis(250);

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
    /// Exchanges that may still be open; those that are not go when the next one comes.
    open: Mutex<Vec<Weak<Exchange>>>,
    /// What becomes of the connection when it is HTTP no more.
    goes_on: Mutex<Option<Relay>>,
    /// Where a request of ours hears why it was refused.
    told: Option<Arc<Told>>,
}

/// Whether a connection carries more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// As many as its client sends.
    ForMore,
    /// One: the next may be for another host.
    ForOne,
}

/// Whether the end of a connection is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Refusal,
    Nothing,
}

/// A request at work, until it is answered or its client gives it up.
struct Active<'a>(&'a Flow);

impl Active<'_> {
    fn begin(flow: &Flow) -> Active<'_> {
        flow.active.fetch_add(1, Ordering::Relaxed);
        flow.seen.fetch_add(1, Ordering::Relaxed);
        Active(flow)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A WebSocket, to its end.
pub(crate) type Relay = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Flow {
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        host: Host,
        port: u16,
        pool: Arc<Pool>,
        flaw: Option<Denial>,
    ) -> Arc<Flow> {
        Arc::new(Flow {
            gateway,
            host,
            port,
            pool,
            flaw,
            active: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
            open: Mutex::default(),
            goes_on: Mutex::default(),
            told: None,
        })
    }

    /// One that carries a single request of a program of ours; all else about it is as for a bottle's.
    pub(crate) fn of_ours(gateway: Arc<Gateway>, host: Host, port: u16, pool: Arc<Pool>, told: Arc<Told>) -> Arc<Flow> {
        let mut flow = Flow::new(gateway, host, port, pool, None);
        Arc::get_mut(&mut flow).expect("nobody else has it yet").told = Some(told);
        flow
    }

    /// Remembers an exchange for as long as it is open.
    pub(crate) fn holds(&self, exchange: &Arc<Exchange>) {
        if let Some(told) = &self.told {
            exchange.tells(told.clone());
        }
        let mut open = self.open.lock().expect("no panic under this lock");
        open.retain(|one| one.strong_count() > 0);
        open.push(Arc::downgrade(exchange));
    }

    /// What is to be done with the connection once its last HTTP answer is out.
    pub(crate) fn go_on_with(&self, relay: Relay) {
        *self.goes_on.lock().expect("no panic under this lock") = Some(relay);
    }

    /// Answers that its client has left unread for too long, each told why it ends. A client that does not read stops the
    /// connection that it asked on, so nothing of that connection gets on any more.
    fn left_unread(&self) -> bool {
        let open = self.open.lock().expect("no panic under this lock");
        let most = self.gateway.limits.unread;
        let unread = open.iter().filter_map(Weak::upgrade).filter(|exchange| {
            let left = !exchange.has_ended() && self.gateway.taps.is_unread(exchange.number(), most);
            if left {
                let detail = format!("its client read nothing of the answer for {most:?}");
                exchange.cut_off(Denial::new(Reason::LimitReached, detail));
            }
            left
        });
        unread.count() > 0
    }

    /// E2: would these routes refuse the host, or an exchange that is open now?
    fn withdrawn(&self, routes: &RouteSet) -> bool {
        if routes.host_permit(&self.host, self.port).into_result().is_err() {
            return self.flaw.is_none();
        }
        let open: Vec<Arc<Exchange>> = {
            let open = self.open.lock().expect("no panic under this lock");
            open.iter().filter_map(Weak::upgrade).collect()
        };
        open.iter().any(|exchange| !exchange.has_ended() && !exchange.stands(routes))
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
        self.serve_kept(stream, alpn, Kept::ForMore).await;
    }

    /// The same; HTTP/1 ends after one request if it is kept for no more.
    pub(crate) async fn serve_kept<S>(self: Arc<Self>, stream: S, alpn: Option<Alpn>, kept: Kept)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let faults = Arc::new(Faults::default());
        let limits = self.gateway.limits.clone();
        let flow = self.clone();
        let service = service_fn(move |request| {
            let flow = flow.clone();
            async move {
                let _active = Active::begin(&flow);
                pipeline::handle(flow.clone(), request).await
            }
        });
        match alpn {
            Some(Alpn::H2) => {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(limits.stream_window_bytes)
                    .initial_connection_window_size(limits.connection_window_bytes)
                    .max_concurrent_streams(limits.streams_max)
                    .max_frame_size(limits.frame_bytes_max)
                    .max_send_buf_size(limits.send_buffer_bytes)
                    .max_pending_accept_reset_streams(limits.reset_streams_max)
                    .max_local_error_reset_streams(limits.refused_streams_max)
                    .max_header_list_size(limits.head_bytes_max as u32)
                    // RFC 8441: a WebSocket that no route allows is refused in words, and not by a reset that nobody reads.
                    .enable_connect_protocol()
                    .auto_date_header(false);
                let io = TokioIo::new(Watched::new(stream, faults.clone()));
                let connection = std::pin::pin!(builder.serve_connection(io, service));
                self.steer(connection, &faults, |connection| connection.graceful_shutdown()).await;
                self.tell_faults(&faults).await;
            }
            Some(Alpn::H1) | None => {
                let mut builder = hyper::server::conn::http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .keep_alive(kept == Kept::ForMore)
                    .header_read_timeout(limits.idle)
                    .max_headers(limits.headers_max)
                    .max_header_size(limits.head_bytes_max)
                    .max_buf_size(limits.connection_buffer_bytes)
                    .auto_date_header(false);
                let io = TokioIo::new(stream);
                let connection = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
                self.steer(connection, &faults, |connection| connection.graceful_shutdown()).await;
                let relay = self.goes_on.lock().expect("no panic under this lock").take();
                if let Some(relay) = relay {
                    relay.await;
                }
            }
        }
    }

    /// Drives a connection and watches what may end it.
    async fn steer<C>(
        &self,
        mut connection: std::pin::Pin<&mut C>,
        faults: &Faults,
        end: impl Fn(std::pin::Pin<&mut C>),
    ) where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let mut law = self.gateway.watch_law();
        let idle = self.gateway.limits.idle;
        // A look now and then is enough: what is left unread waits for nobody.
        let unread = self.gateway.limits.unread;
        let mut look_at = Instant::now() + unread;
        let (mut quiet_at, mut seen) = (Instant::now() + idle, 0);
        loop {
            tokio::select! {
                done = connection.as_mut() => {
                    let (written, odd) = match done {
                        Err(error) => (self.broke(&error).await, faults.is_unanswered()),
                        Ok(()) => (Written::Nothing, false),
                    };
                    if written == Written::Nothing && self.seen.load(Ordering::Relaxed) == 0 {
                        // A handshake, a few bytes perhaps, and no request: of a protocol whose server speaks first, or of a
                        // client that saw what it wanted to see. What was not allowed is in the log all the same.
                        let odd = odd.then(|| Denial::new(Reason::ProtocolRefused, "what was sent is no HTTP/2"));
                        self.gateway.silent(&self.host, self.port, self.flaw.clone().or(odd)).await;
                    }
                    return;
                }
                () = faults.next() => self.tell_faults(faults).await,
                changed = law.changed() => {
                    let now = law.borrow_and_update().clone();
                    if changed.is_err() || now.cut {
                        break;
                    }
                    // B57: a revoked host loses its open connections, streams included; so does a revoked rule (E2). The
                    // other streams of an HTTP/2 connection end with it; their clients ask again.
                    if self.withdrawn(&now.routes) {
                        return;
                    }
                }
                () = sleep_until(look_at) => {
                    if self.left_unread() {
                        return;
                    }
                    look_at = Instant::now() + unread / LOOKS;
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
        let grace = self.gateway.limits.cut_grace;
        if timeout(grace, connection.as_mut()).await.is_err() {
            // A model's stream that flows on is ended as its protocol ends, and its client given time to read that.
            self.gateway.taps.shut(&pipeline::stopping());
            let _ = timeout(grace.min(CLOSING_WAIT_MAX), connection).await;
        }
    }

    /// Writes down what the HTTP/2 library refused by itself. Whoever was not allowed to connect is refused for that.
    async fn tell_faults(&self, faults: &Faults) {
        for _ in 0..faults.take() {
            let why = "HTTP/2 that is none: a stream or the connection was reset";
            let denial = self.not_permitted().unwrap_or_else(|| Denial::new(Reason::ProtocolRefused, why));
            self.gateway.refuse_connection(&self.host, self.port, denial).await;
        }
    }

    /// Why the connection should not be there at all, if so.
    fn not_permitted(&self) -> Option<Denial> {
        match self.gateway.routes_now() {
            Ok(routes) => routes.host_permit(&self.host, self.port).into_result().err(),
            Err(denial) => Some(denial),
        }
    }

    /// A connection that ended because what came was no HTTP that the gateway reads.
    async fn broke(&self, error: &hyper::Error) -> Written {
        if error.is_parse_too_large() {
            let denial = Denial::new(Reason::LimitReached, "a request head is too large");
            self.gateway.refuse_connection(&self.host, self.port, denial).await;
        } else if error.is_timeout() && self.seen.load(Ordering::Relaxed) == 0 {
            let denial = Denial::new(Reason::ProtocolRefused, "the client sent no request");
            self.gateway.refuse_connection(&self.host, self.port, denial).await;
        } else if error.is_parse() {
            // Whoever was not allowed to connect is told that; the bytes do not matter then.
            let denial = self.not_permitted().unwrap_or_else(|| {
                Denial::new(Reason::ProtocolRefused, format!("what was sent is no HTTP/1 request: {error}"))
            });
            self.gateway.refuse_connection(&self.host, self.port, denial).await;
        } else {
            return Written::Nothing;
        }
        Written::Refusal
    }
}
