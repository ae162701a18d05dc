//! `publish:` and `forward:` of one run: the host's listeners, the bottle's, and who answers on which.
//!
//! ```text
//!  publish: host's listener ─▶ gateway ─▶ bottle's init connects to 127.0.0.1:PORT inside, passes the socket out
//!  forward: listener made inside, passed out ─▶ gateway ─▶ the service that the manifest names
//! ```
//!
//! *Must never* outlive the run: dropping [`Ports`] closes every listener and every connection. *Must never* reach a
//! service by a path that a bottle could have changed.

mod service;

use std::io;
use std::net::{SocketAddr, TcpListener as HostListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carboy_bottle::Inside;
use carboy_core::plan::{Access, BottleSpec, CaptureTier, Forward, Publish, Service};
use carboy_egress::{Gateway, Port, PortStats, Way};
use carboy_manifest::Effective;
use carboy_manifest::ports::refused_socket;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections into the bottle that are being made at once, of all published ports together; each holds a thread.
const CONNECTING_MAX: usize = 32;
/// The gateway's own ports inside: its one listener of tier T1, and DNS.
const GATEWAY_PORTS_T1: [u16; 2] = [61_053, 53];
/// The gateway's own ports inside in tier T2, besides those that routes name.
const GATEWAY_PORTS_T2: [u16; 3] = [53, 80, 443];

/// Why a port cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Something listens there already.
    #[error(
        "`publish` {listen}:{inside}: port {} of {} is in use on this host; end what listens there \
         (`ss -ltnp 'sport = :{}'` shows it) or publish on another port, as in \"{}:{inside}\"",
        .listen.port(), .listen.ip(), .listen.port(), free_guess(*.listen)
    )]
    InUse {
        /// Where the host would listen.
        listen: SocketAddr,
        /// The port inside.
        inside: u16,
    },
    /// The host refuses to listen there for another reason.
    #[error("`publish` {listen}:{inside}: cannot listen on port {} of {}: {source}", .listen.port(), .listen.ip())]
    Listen {
        /// Where the host would listen.
        listen: SocketAddr,
        /// The port inside.
        inside: u16,
        /// What the system said.
        source: io::Error,
    },
    /// What answers on this port inside is the gateway.
    #[error(
        "`publish` {listen}:{inside}: port {inside} inside is the gateway's own in tier {tier:?}; let the program listen \
         on another one, as in \"{}:8080\"", .listen.port()
    )]
    Gateways {
        /// Where the host would listen.
        listen: SocketAddr,
        /// The port inside.
        inside: u16,
        /// The tier in force.
        tier: CaptureTier,
    },
    /// The service's socket cannot be used.
    #[error("`forward` {inside}: {path}: {why}")]
    Service {
        /// The port inside.
        inside: u16,
        /// The socket as it was named.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A listener could not be served.
    #[error("`forward` {inside}: cannot serve the port inside: {source}")]
    Serve {
        /// The port inside.
        inside: u16,
        /// What the system said.
        source: io::Error,
    },
}

fn free_guess(listen: SocketAddr) -> u16 {
    listen.port().checked_add(1).unwrap_or(8080)
}

/// A port as `ps` and the summary show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// `publish` or `forward`.
    pub key: String,
    /// The port inside.
    pub inside: u16,
    /// Where the host listens, or which service it is.
    pub outside: String,
    /// Connections that carried something, those that are open included.
    pub connections: u64,
    /// Connections that are open.
    pub open: u64,
    /// Connections that were too many.
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

impl From<PortStats> for PortReport {
    fn from(stats: PortStats) -> Self {
        PortReport {
            key: stats.way.key().to_owned(),
            inside: stats.inside,
            outside: stats.outside,
            connections: stats.connections,
            open: stats.open,
            refused: stats.refused,
            failed: stats.failed,
            cut: stats.cut,
            bytes_out: stats.bytes_out,
            bytes_in: stats.bytes_in,
        }
    }
}

impl PortReport {
    /// In one line, without its counters.
    pub fn joined(&self) -> String {
        if self.key == Way::Publish.key() {
            format!("{} → port {} inside", self.outside, self.inside)
        } else {
            format!("port {} inside → {}", self.inside, self.outside)
        }
    }
}

/// What the ports of a run are made from.
pub(crate) struct Joining<'a> {
    /// What was asked for.
    pub(crate) effective: &'a Effective,
    /// The bottle, with everything it can write to.
    pub(crate) spec: &'a BottleSpec,
    /// The user's home.
    pub(crate) user_home: &'a Path,
    /// `CARBOY_HOME`.
    pub(crate) carboy_home: &'a Path,
    /// Carries, scans and writes down.
    pub(crate) gateway: &'a Arc<Gateway>,
    /// Connects inside.
    pub(crate) inside: Inside,
    /// The bottle's own listeners for `forward:`.
    pub(crate) listeners: Vec<(u16, HostListener)>,
    /// What the gateway listens on inside.
    pub(crate) tier: CaptureTier,
}

/// The ports of a run, being served. Dropping it closes all.
pub(crate) struct Ports {
    ports: Vec<Arc<Port>>,
    _served: JoinSet<()>,
}

/// The ports that a bottle's own loopback needs listeners for.
pub(crate) fn inside_ports(effective: &Effective) -> Vec<u16> {
    effective.forward.iter().map(|forward| forward.inside).collect()
}

impl Ports {
    /// Listens and serves. The bottle's program has not been started yet.
    pub(crate) fn open(joining: Joining<'_>) -> Result<Ports, PortError> {
        let mut opened = Ports { ports: Vec::new(), _served: JoinSet::new() };
        let connecting = Arc::new(Semaphore::new(CONNECTING_MAX));
        for publish in &joining.effective.publish {
            let listener = listen(publish, &joining)?;
            let port = Port::published(publish);
            let (inside, number, places) = (joining.inside.clone(), publish.inside, connecting.clone());
            let connect = move || connect_inside(inside.clone(), number, places.clone());
            opened._served.spawn(joining.gateway.clone().serve_publish(port.clone(), listener, connect));
            opened.ports.push(port);
        }
        for forward in &joining.effective.forward {
            let forward = resolved(forward, &joining)?;
            let port = Port::forwarded(&forward);
            opened.ports.push(port.clone());
            for (_, listener) in joining.listeners.iter().filter(|(inside, _)| *inside == forward.inside) {
                let serve = |source| PortError::Serve { inside: forward.inside, source };
                let listener = listener.try_clone().and_then(served).map_err(serve)?;
                let gateway = joining.gateway.clone();
                opened._served.spawn(gateway.serve_forward(forward.clone(), port.clone(), listener));
            }
        }
        Ok(opened)
    }

    /// For whoever reports.
    pub(crate) fn all(&self) -> Vec<Arc<Port>> {
        self.ports.clone()
    }
}

/// All ports with their counters, published ones first.
pub(crate) fn reports(ports: &[Arc<Port>]) -> Vec<PortReport> {
    ports.iter().map(|port| port.stats().into()).collect()
}

fn served(listener: HostListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The host's side of a published port.
fn listen(publish: &Publish, joining: &Joining<'_>) -> Result<TcpListener, PortError> {
    let Publish { listen, inside } = *publish;
    let taken = match joining.tier {
        CaptureTier::T1 => GATEWAY_PORTS_T1.contains(&inside),
        CaptureTier::T2 => GATEWAY_PORTS_T2.contains(&inside) || joining.spec.route_ports.contains(&inside),
    };
    if taken {
        return Err(PortError::Gateways { listen, inside, tier: joining.tier });
    }
    HostListener::bind(listen).and_then(served).map_err(|source| {
        let in_use = source.kind() == io::ErrorKind::AddrInUse;
        if in_use { PortError::InUse { listen, inside } } else { PortError::Listen { listen, inside, source } }
    })
}

async fn connect_inside(inside: Inside, port: u16, places: Arc<Semaphore>) -> io::Result<TcpStream> {
    let place = places.acquire_owned().await.map_err(io::Error::other)?;
    let connected = tokio::task::spawn_blocking(move || {
        let connected = inside.connect(port);
        drop(place);
        connected
    });
    let stream = std::net::TcpStream::from(connected.await.map_err(io::Error::other)??);
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// The service by a path that nothing inside can lead elsewhere.
fn resolved(forward: &Forward, joining: &Joining<'_>) -> Result<Forward, PortError> {
    let Service::Unix(path) = &forward.to else { return Ok(forward.clone()) };
    let failed = |why: String| PortError::Service { inside: forward.inside, path: path.clone(), why };
    // A program inside, or one of an earlier run, could put a link to another socket of the host in its place (B44, B51).
    let spec = joining.spec;
    let writable = spec.binds.iter().filter(|bind| bind.access == Access::ReadWrite).map(|bind| &bind.source);
    // What another run could write to counts too: the workspace behind an overlay, and every bottle's home.
    let overlaid = spec.overlays.iter().flat_map(|overlay| [&overlay.layer, &overlay.source]);
    let writable = writable.chain([&spec.home, &spec.workdir]).chain(overlaid).map(PathBuf::as_path);
    let real = service::walk(path, writable.chain([joining.carboy_home])).map_err(|why| failed(why.to_string()))?;
    // Homes may themselves be named by a link; the way's end is not.
    let [user_home, carboy_home] = [joining.user_home, joining.carboy_home].map(really);
    let homes = [(joining.user_home, joining.carboy_home), (&*user_home, &*carboy_home)];
    if let Some(why) = homes.iter().find_map(|(user, carboy)| refused_socket(&real, user, carboy)) {
        return Err(failed(format!("it is {}, which is refused: {why}", real.display())));
    }
    Ok(Forward { inside: forward.inside, to: Service::Unix(real) })
}

fn really(home: &Path) -> PathBuf {
    home.canonicalize().unwrap_or_else(|_| home.to_owned())
}
