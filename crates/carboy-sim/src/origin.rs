//! A canary origin: a TCP and a UDP socket that answer nothing and keep count of whatever arrives.
//!
//! Escape tests place it where nothing may arrive. One connection, without a byte, is a failure.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that are kept of all that arrives.
pub const KEPT_BYTES_MAX: usize = 64 * 1024;
/// Open connections; further ones wait in the kernel's queue, where they are counted once they are let in.
const CONNECTIONS_MAX: usize = 256;
/// A connection that says nothing for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A canary origin at work. It stops when this is dropped.
#[derive(Debug)]
pub struct Origin {
    /// Where TCP connections are counted.
    pub tcp_addr: SocketAddr,
    /// Where datagrams are counted; the same port as TCP when [`Origin::start`] made it.
    pub udp_addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _stop: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: u64,
    datagrams: u64,
    bytes: Vec<u8>,
}

impl Origin {
    /// Listens on this address with one port for both, chosen by the system. Needs a tokio runtime with I/O and time.
    pub async fn start(ip: IpAddr) -> io::Result<Origin> {
        // The port that TCP got may be taken in UDP's own space: a few tries settle it.
        let mut last = None;
        for _ in 0..16 {
            let tcp = StdListener::bind((ip, 0))?;
            match StdUdp::bind(tcp.local_addr()?) {
                Ok(udp) => return Origin::start_on(tcp, udp).await,
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    /// Takes sockets made elsewhere: on chosen ports, or in another network namespace.
    pub async fn start_on(tcp: StdListener, udp: StdUdp) -> io::Result<Origin> {
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        let (tcp_addr, udp_addr) = (tcp.local_addr()?, udp.local_addr()?);
        let (tcp, udp) = (TcpListener::from_std(tcp)?, UdpSocket::from_std(udp)?);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stop, stopped) = watch::channel(());
        tokio::spawn(count_connections(tcp, seen.clone(), stopped.clone()));
        tokio::spawn(count_datagrams(udp, seen.clone(), stopped));
        Ok(Origin { tcp_addr, udp_addr, seen, _stop: stop })
    }

    /// TCP connections since the start.
    pub fn connections(&self) -> u64 {
        lock(&self.seen).connections
    }

    /// Datagrams since the start.
    pub fn datagrams(&self) -> u64 {
        lock(&self.seen).datagrams
    }

    /// The first 64 KiB of all that arrived, in order of arrival.
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.seen).bytes.clone()
    }

    /// Nothing has arrived: no connection, no datagram.
    pub fn is_untouched(&self) -> bool {
        let seen = lock(&self.seen);
        seen.connections == 0 && seen.datagrams == 0
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES_MAX - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

async fn count_connections(listener: TcpListener, seen: Arc<Mutex<Seen>>, mut stopped: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    lock(&seen).connections += 1;
                    connections.spawn(keep_bytes(stream, seen.clone()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
}

async fn keep_bytes(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut buffer = [0; 4096];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(IDLE_MAX, stream.read(&mut buffer)).await {
        lock(&seen).keep(&buffer[..count]);
    }
}

async fn count_datagrams(socket: UdpSocket, seen: Arc<Mutex<Seen>>, mut stopped: watch::Receiver<()>) {
    let mut buffer = vec![0; 65_536];
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            arrived = socket.recv_from(&mut buffer) => match arrived {
                Ok((count, _)) => {
                    let mut seen = lock(&seen);
                    seen.datagrams += 1;
                    seen.keep(&buffer[..count]);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
}
