//! The sockets: two listeners, their connections, and each request from its head to its answer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::coding::Coding;
use crate::config::Config;
use crate::count::{Account, Bill, Generation, Till};
use crate::faults::{FaultWhy, Faults, WAIT_MAX};
use crate::grpc;
use crate::pages;
use crate::playback::{Body, BrokenOff, Outcome, play};
use crate::record::{Open, ReceivedRequest, Recorder};
use crate::route::{Ask, answer};
use crate::tls::{self, TlsError};
use crate::usage::Contexts;
use crate::websocket;

/// Largest body that an endpoint reads; `/sink` counts and hashes without end.
const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Open connections of one listener; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Longest wait for a handshake, a head or the next part of a body.
const READ_WAIT_MAX: Duration = WAIT_MAX;

/// The simulated provider cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// No socket.
    #[error("the simulated provider cannot listen: {0}; free the port or take port 0")]
    Listen(#[from] std::io::Error),
    /// No certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Starts simulated providers.
#[derive(Debug)]
pub struct Simulator;

/// A simulated provider at work. It stops when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// Where it speaks plain HTTP/1.1 and HTTP/2.
    pub addr: SocketAddr,
    /// Where it speaks TLS.
    pub tls_addr: SocketAddr,
    ca_pem: String,
    shared: Arc<Shared>,
    stop: watch::Sender<()>,
    listeners: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub config: Config,
    recorder: Recorder,
    pub till: Till,
    connections: AtomicU64,
    serial: AtomicU64,
    pub contexts: Contexts,
}

impl Shared {
    /// A name for a request: they count up.
    pub fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Begins the answer that is charged for, if this one is.
    pub fn generation(&self, ask: &Ask<'_>, outcome: &Outcome) -> Option<Generation> {
        let (cost, whom) = (outcome.charge?, ask.whom()?);
        Some(Generation::begin(&self.till, whom, cost, &self.config))
    }
}

impl Simulator {
    /// Listens on free ports of 127.0.0.1. Needs a tokio runtime with I/O and time.
    pub async fn start(config: Config) -> Result<Running, SimError> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Simulator::start_on(config, StdListener::bind(any)?, StdListener::bind(any)?).await
    }

    /// Takes listeners made elsewhere: on chosen ports, or in another network namespace.
    pub async fn start_on(config: Config, plain: StdListener, tls: StdListener) -> Result<Running, SimError> {
        let (acceptor, ca_pem) = tls::acceptor(&config.names, config.alpn)?;
        let (addr, tls_addr) = (plain.local_addr()?, tls.local_addr()?);
        let listen = |listener: StdListener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let till = Till::new(config.on_billed.clone());
        let shared = Arc::new(Shared {
            config,
            recorder: Recorder::default(),
            till,
            connections: AtomicU64::new(0),
            serial: AtomicU64::new(0),
            contexts: Contexts::default(),
        });
        let (stop, stopped) = watch::channel(());
        let (plain, tls) = (listen(plain)?, listen(tls)?);
        let listeners = vec![
            tokio::spawn(accept(plain, None, shared.clone(), stopped.clone())),
            tokio::spawn(accept(tls, Some(acceptor), shared.clone(), stopped)),
        ];
        Ok(Running { addr, tls_addr, ca_pem, shared, stop, listeners })
    }
}

impl Running {
    /// The certificate that a client has to trust for the TLS listener.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// No model is asked: see [`Config::is_offline`].
    pub fn is_offline(&self) -> bool {
        self.shared.config.is_offline()
    }

    /// What it would charge everybody for so far.
    pub fn bill(&self) -> Bill {
        self.shared.till.bill()
    }

    /// The same for each account.
    pub fn bills(&self) -> BTreeMap<Account, Bill> {
        self.shared.till.bills()
    }

    /// What reached it, oldest first: the last 1024 requests, bodies up to 1 MiB each and 64 MiB together.
    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.shared.recorder.received()
    }

    /// Requests that reached it since the start, those included that are no longer kept.
    pub fn requests(&self) -> u64 {
        self.shared.recorder.total()
    }

    /// TCP connections it accepted since the start, silent ones included.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Forgets the requests kept so far; counters and bill stay.
    pub fn clear_received(&self) {
        self.shared.recorder.clear();
    }

    /// Closes the listeners and all connections and waits until they are gone.
    pub async fn stop(self) {
        let Running { stop, listeners, .. } = self;
        drop(stop);
        for listener in listeners {
            // An error here is a panic in a connection's task, which its own test sees.
            let _ = listener.await;
        }
    }
}

/// Ends when the sender of `stopped` is gone; the connections end with the set that holds them.
async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, peer)) => {
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(connection(stream, peer, tls.clone(), shared.clone()));
                }
                // Out of descriptors, or the peer was quicker: neither lasts.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
}

/// What is known of a connection.
#[derive(Clone)]
struct Facts {
    alpn: Option<String>,
    server_name: Option<String>,
    peer: SocketAddr,
}

async fn connection(stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut facts = Facts { alpn: None, server_name: None, peer };
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return serve(stream, facts, shared).await };
    // A handshake that fails leaves its trace in the connection counter.
    if let Ok(Ok(stream)) = tokio::time::timeout(READ_WAIT_MAX, tls.accept(stream)).await {
        let session = stream.get_ref().1;
        facts.alpn = session.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned());
        facts.server_name = session.server_name().map(str::to_owned);
        serve(stream, facts, shared).await;
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, facts: Facts, shared: Arc<Shared>) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(READ_WAIT_MAX);
    builder.http2().timer(TokioTimer::new());
    let service = service_fn(move |request| handle(request, facts.clone(), shared.clone()));
    // An error is a client that left or spoke nonsense, or a break that was asked for.
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn handle(
    mut request: Request<Incoming>,
    facts: Facts,
    shared: Arc<Shared>,
) -> Result<Response<Body>, BrokenOff> {
    let open = shared.recorder.open(received(&request, facts));
    if websocket::is_wanted(&request, &shared.config) {
        return Ok(websocket::accept(&mut request, open, shared));
    }
    if grpc::is_wanted(&request) {
        return Ok(grpc::answer(request, open));
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default();
    let limit = if path == "/sink" { Reading::CountOnly } else { Reading::Keep };
    let read = read_body(body, &open, limit).await;
    let received = open.snapshot();
    let mut ask = Ask {
        config: &shared.config,
        method: head.method.as_str(),
        path: &path,
        query,
        headers: &head.headers,
        body: &[],
        serial: shared.next_serial(),
        received: &received,
        contexts: &shared.contexts,
    };
    let (body, faults) = match read.and_then(|body| Ok((body, wanted_faults(&head.headers, &shared.config)?))) {
        Ok(ready) => ready,
        Err((status, message)) => return refusal(&ask, status, &message).await,
    };
    ask.body = &body;
    tokio::time::sleep(faults.latency).await;
    if path == "/slow" {
        tokio::time::sleep(pages::slow(query)).await;
    }
    respond(&ask, &faults, &shared).await
}

async fn refusal(ask: &Ask<'_>, status: u16, message: &str) -> Result<Response<Body>, BrokenOff> {
    play(ask.refuse(status, message), Coding::Identity, &Faults::default(), None).await
}

async fn respond(ask: &Ask<'_>, faults: &Faults, shared: &Shared) -> Result<Response<Body>, BrokenOff> {
    let Some(coding) = ask.coding() else {
        return refusal(ask, 400, "use ?encoding=gzip, deflate, br, zstd or identity").await;
    };
    let outcome = refused_on_demand(ask, faults).unwrap_or_else(|| answer(ask));
    let generation = shared.generation(ask, &outcome);
    play(outcome, coding, faults, generation).await
}

/// The error that the request's faults ask for.
pub(crate) fn refused_on_demand(ask: &Ask<'_>, faults: &Faults) -> Option<Outcome> {
    let fault = faults.status?;
    let outcome = match fault.why {
        FaultWhy::Failure => ask.refuse(fault.status, "Simulated failure."),
        FaultWhy::SpendLimit => ask.limit_reached(),
    };
    Some(with_retry_after(outcome, fault.retry_after_s))
}

fn with_retry_after(outcome: Outcome, seconds: Option<u32>) -> Outcome {
    match seconds {
        Some(seconds) => outcome.with("retry-after", seconds.to_string()),
        None => outcome,
    }
}

/// The status and the words of an error that concerns HTTP rather than an endpoint.
pub(crate) type HttpFault = (u16, String);

pub(crate) fn wanted_faults(headers: &HeaderMap, config: &Config) -> Result<Faults, HttpFault> {
    let Some(wanted) = headers.get("x-sim-fault") else { return Ok(config.faults.clone()) };
    Faults::parse(wanted.to_str().unwrap_or("?")).map_err(|error| (400, error.to_string()))
}

fn received(head: &Request<Incoming>, facts: Facts) -> ReceivedRequest {
    let host = head.headers().get("host").map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let authority = head.uri().authority().map(ToString::to_string).or(host).unwrap_or_default();
    ReceivedRequest {
        method: head.method().to_string(),
        path: head.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority,
        version: format!("{:?}", head.version()),
        headers: head.headers().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
        body_len: 0,
        body: Vec::new(),
        body_sha256: None,
        alpn: facts.alpn,
        server_name: facts.server_name,
        peer: facts.peer,
    }
}

/// Whether a body is wanted or only its length and hash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Keep,
    CountOnly,
}

async fn read_body(mut body: Incoming, open: &Open, reading: Reading) -> Result<Vec<u8>, HttpFault> {
    let mut kept = Vec::new();
    let mut hash = Sha256::new();
    loop {
        let frame = match tokio::time::timeout(READ_WAIT_MAX, body.frame()).await {
            Err(_) => return Err((408, "The request's body did not arrive in time.".into())),
            Ok(Some(Err(error))) => return Err((400, format!("The request's body broke off: {error}"))),
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
        };
        let Some(data) = frame.data_ref() else { continue };
        open.push(data);
        hash.update(data);
        if reading == Reading::Keep {
            if kept.len() + data.len() > REQUEST_BYTES_MAX {
                return Err((413, "Request exceeds the maximum size of 33554432 bytes.".into()));
            }
            kept.extend_from_slice(data);
        }
    }
    open.complete(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
    Ok(kept)
}
