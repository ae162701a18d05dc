//! Single ports that join the bottle's network and the host's, and what is written down of them.
//!
//! ```text
//!  publish   host's client ──▶ listener of the host ──▶ socket made inside ──▶ program
//!  forward   program ──▶ listener of the bottle's loopback ──▶ dialled here ──▶ service of the host
//! ```
//!
//! Whatever the protocol is, what leaves the bottle is scanned for known secrets (see `carry`); what comes in is not. While
//! the bottle is cut off nothing goes through in either direction: what is open ends, and what comes is reset.
//!
//! *Must never* take a word of the bottle for where to connect: a listener leads to the one service or the one port
//! that the operator wrote. No log, no traffic.

mod carry;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carboy_core::audit::{Event, EventType, Outcome};
use carboy_core::finding::Finding;
use carboy_core::plan::{Forward, Publish, Service};
use carboy_core::verdict::{Denial, Reason};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::alert::finding_words;
use crate::gateway::{Gateway, Law, refusal_id};
use crate::repeats::Note;
use carry::Ending;

/// Most connections through one port at once; one more is closed at once.
pub const PORT_CONNECTIONS_MAX: usize = 256;
/// Pause after a connection could not be accepted (out of descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One joined port of a run, and what went through it.
#[derive(Debug)]
pub struct Port {
    way: Way,
    inside: u16,
    outside: String,
    places: Arc<Semaphore>,
    counts: Counts,
}

/// Which side connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `publish`: the host connects to the bottle.
    Publish,
    /// `forward`: the bottle connects to a service of the host.
    Forward,
}

impl Way {
    /// The manifest's key.
    pub fn key(self) -> &'static str {
        match self {
            Way::Publish => "publish",
            Way::Forward => "forward",
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    open: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    cut: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
}

/// What went through a port so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStats {
    /// Which side connects.
    pub way: Way,
    /// The port inside.
    pub inside: u16,
    /// Where the host listens, or which service it is.
    pub outside: String,
    /// Connections that carried something, those that are open included.
    pub connections: u64,
    /// Connections that are open.
    pub open: u64,
    /// Connections beyond [`PORT_CONNECTIONS_MAX`].
    pub refused: u64,
    /// Connections whose other side did not take them.
    pub failed: u64,
    /// Connections that were cut because of a known secret.
    pub cut: u64,
    /// Bytes that left the bottle.
    pub bytes_out: u64,
    /// Bytes that came in.
    pub bytes_in: u64,
}

impl Port {
    /// A published port that nothing went through yet.
    pub fn published(publish: &Publish) -> Arc<Port> {
        Port::new(Way::Publish, publish.inside, publish.listen.to_string())
    }

    /// A forwarded port that nothing went through yet.
    pub fn forwarded(forward: &Forward) -> Arc<Port> {
        let outside = match &forward.to {
            Service::Tcp(address) => address.to_string(),
            Service::Unix(path) => path.display().to_string(),
        };
        Port::new(Way::Forward, forward.inside, outside)
    }

    fn new(way: Way, inside: u16, outside: String) -> Arc<Port> {
        let places = Arc::new(Semaphore::new(PORT_CONNECTIONS_MAX));
        Arc::new(Port { way, inside, outside, places, counts: Counts::default() })
    }

    /// The counters as they are now.
    pub fn stats(&self) -> PortStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        PortStats {
            way: self.way,
            inside: self.inside,
            outside: self.outside.clone(),
            connections: read(&counts.connections),
            open: read(&counts.open),
            refused: read(&counts.refused),
            failed: read(&counts.failed),
            cut: read(&counts.cut),
            bytes_out: read(&counts.bytes_out),
            bytes_in: read(&counts.bytes_in),
        }
    }

    /// How it is called where a host would stand.
    fn name(&self) -> String {
        format!("{}:{}", self.way.key(), self.inside)
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Denial> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            Denial::new(Reason::LimitReached, format!("{PORT_CONNECTIONS_MAX} connections at once"))
        })
    }
}

impl Gateway {
    /// Serves a listener of the bottle's own loopback until the run ends: each connection to `forward.to`.
    /// Run it as its own task.
    pub async fn serve_forward(self: Arc<Self>, forward: Forward, port: Arc<Port>, listener: TcpListener) {
        let to = Arc::new(forward.to);
        self.clone()
            .accept_until_the_end(listener, |inside, peer| {
                let (gateway, port, to) = (self.clone(), port.clone(), to.clone());
                async move { gateway.forwarded(&port, &to, inside, peer).await }
            })
            .await;
    }

    /// Serves a listener of the host until the run ends: each connection to what `connect` gives, a socket inside
    /// the bottle. Run it as its own task.
    pub async fn serve_publish<C, F>(self: Arc<Self>, port: Arc<Port>, listener: TcpListener, connect: C)
    where
        C: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = io::Result<TcpStream>> + Send + 'static,
    {
        self.clone()
            .accept_until_the_end(listener, |client, peer| {
                let (gateway, port, connect) = (self.clone(), port.clone(), connect.clone());
                async move { gateway.published(&port, client, peer, connect).await }
            })
            .await;
    }

    async fn accept_until_the_end<F>(self: Arc<Self>, listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut law = self.watch_law();
        // Bounded by the places of the port: whoever has none ends at once.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = cut(&mut law) => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => drop(connections.spawn(serve(stream, peer))),
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        drop(listener);
        // Each hears of the cut and writes down how far it came.
        while connections.join_next().await.is_some() {}
    }

    async fn forwarded(self: Arc<Self>, port: &Port, to: &Service, inside: TcpStream, peer: SocketAddr) {
        let _place = match self.place(port) {
            Ok(place) => place,
            Err(denial) => return self.refuse_port(port, inside, denial, Outcome::Denied).await,
        };
        let unreachable =
            |error: io::Error| Denial::new(Reason::UpstreamUnreachable, format!("{}: {error}", port.outside));
        let wait_max = self.limits.dial;
        match to {
            Service::Tcp(address) => match within(wait_max, TcpStream::connect(address)).await {
                Ok(service) => {
                    let _ = service.set_nodelay(true);
                    self.carried(port, peer, inside, service.into_split()).await;
                }
                Err(error) => self.refuse_port(port, inside, unreachable(error), Outcome::Failed).await,
            },
            Service::Unix(path) => match within(wait_max, connect_unlinked(path)).await {
                Ok(service) => self.carried(port, peer, inside, service.into_split()).await,
                Err(error) => self.refuse_port(port, inside, unreachable(error), Outcome::Failed).await,
            },
        }
    }

    async fn published<F>(self: Arc<Self>, port: &Port, client: TcpStream, peer: SocketAddr, connect: impl Fn() -> F)
    where
        F: Future<Output = io::Result<TcpStream>>,
    {
        let _place = match self.place(port) {
            Ok(place) => place,
            Err(denial) => return self.refuse_port(port, client, denial, Outcome::Denied).await,
        };
        match connect().await {
            Ok(inside) => {
                let _ = client.set_nodelay(true);
                self.carried(port, peer, inside, client.into_split()).await;
            }
            Err(error) => {
                let detail = format!("port {} inside: {error}", port.inside);
                self.refuse_port(port, client, Denial::new(Reason::UpstreamUnreachable, detail), Outcome::Failed).await;
            }
        }
    }

    /// A place for one more connection, where the bottle is not cut off.
    fn place(&self, port: &Port) -> Result<OwnedSemaphorePermit, Denial> {
        self.closed_by().map_or_else(|| port.place(), Err)
    }

    /// Carries one connection, and writes down that it began and how it ended.
    async fn carried<R, W>(&self, port: &Port, peer: SocketAddr, inside: TcpStream, outside: (R, W))
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let opened = self.port_event(port, "open", Outcome::Allowed).with("peer", peer.to_string());
        if self.audit.append(opened).is_err() {
            return;
        }
        let began = Instant::now();
        let _open = Open::new(self, port);
        let _ = inside.set_nodelay(true);
        let (ending, carried) = carry::both_ways(self, port, inside, outside).await;
        let result = match ending {
            Ending::Secret(_) | Ending::CutOff(_) => Outcome::Blocked,
            Ending::Closed | Ending::Broken | Ending::RunEnds => Outcome::Done,
        };
        let closed = self
            .port_event(port, "close", result)
            .with("peer", peer.to_string())
            .with("ended", ending.word())
            .with("bytes_out", carried.out)
            .with("bytes_in", carried.into)
            .with("duration_ms", began.elapsed().as_millis() as u64);
        match ending {
            Ending::Secret(finding) => self.cut_for_secret(port, closed, *finding).await,
            Ending::CutOff(denial) => drop(self.audit.append(closed.with("reason", denial.reason.code()))),
            // An entry that cannot be written stops the next connection.
            Ending::Closed | Ending::Broken | Ending::RunEnds => drop(self.audit.append(closed)),
        }
    }

    async fn cut_for_secret(&self, port: &Port, event: Event, finding: Finding) {
        let id = refusal_id();
        let denial = Denial::new(Reason::SecretKnown, finding_words(&finding));
        port.counts.cut.fetch_add(1, Ordering::Relaxed);
        self.count(|stats| {
            stats.refuse(&denial, &port.name(), Some(port.inside), &id);
            stats.found(std::slice::from_ref(&finding));
        });
        let event = event
            .with("reason", denial.reason.code())
            .with("findings", vec![finding_words(&finding)])
            .with("refusal", id.as_str());
        // The connection is closed either way.
        let _ = self.audit.append_durable(event).await;
    }

    /// Closes a connection that never carried anything. Written down once, its repeats counted.
    async fn refuse_port(&self, port: &Port, client: TcpStream, denial: Denial, result: Outcome) {
        if result == Outcome::Failed {
            port.counts.failed.fetch_add(1, Ordering::Relaxed);
        }
        let fresh = refusal_id();
        let (id, repeats) = match self.note(&format!("{} {denial}", port.name()), &fresh) {
            Note::Write { repeats } => (fresh, Some(repeats)),
            Note::Counted { under } => (under.unwrap_or(fresh), None),
        };
        self.count(|stats| stats.refuse(&denial, &port.name(), Some(port.inside), &id));
        if let Some(repeats) = repeats {
            let mut event = self
                .port_event(port, "connect", result)
                .with("reason", denial.reason.code())
                .with("detail", denial.detail)
                .with("refusal", id.as_str());
            if repeats > 0 {
                event = event.with("repeats", repeats);
            }
            // The connection is closed without a byte either way.
            let _ = self.audit.append_durable(event).await;
        }
        // A reset: its client is not to take this for an answer of no bytes.
        let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }

    fn port_event(&self, port: &Port, action: &'static str, result: Outcome) -> Event {
        Event::new(EventType::Port, self.subject.clone(), action, result)
            .with("way", port.way.key())
            .with("inside", port.inside)
            .with("outside", port.outside.clone())
    }
}

async fn within<T>(wait_max: Duration, connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(wait_max, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn cut(law: &mut watch::Receiver<Law>) {
    // The sender is the gateway's own, which the caller holds.
    let _ = law.wait_for(|law| law.cut).await;
}

/// A connection that is open, in the counters.
struct Open<'a> {
    gateway: &'a Gateway,
    port: &'a Port,
}

impl<'a> Open<'a> {
    fn new(gateway: &'a Gateway, port: &'a Port) -> Self {
        gateway.opened();
        port.counts.connections.fetch_add(1, Ordering::Relaxed);
        port.counts.open.fetch_add(1, Ordering::Relaxed);
        Open { gateway, port }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.port.counts.open.fetch_sub(1, Ordering::Relaxed);
        self.gateway.closed();
    }
}

/// Connects to the socket at this very path: a link that was put in its place since the launch leads nowhere.
async fn connect_unlinked(path: &Path) -> io::Result<UnixStream> {
    let held = openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    if FileType::from_raw_mode(fstat(&held)?.st_mode) != FileType::Socket {
        return Err(io::Error::other("there is no socket"));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", held.as_raw_fd())).await
}
