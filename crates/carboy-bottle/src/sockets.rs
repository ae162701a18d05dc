//! The sockets that were made inside a bottle and are served outside of it.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carboy_core::plan::CaptureTier;

use crate::sys::datagram;
use crate::wire::{Socket, SocketRole};

/// All sockets of one bottle. A flow's bottle is the socket it was accepted on, which cannot be forged.
#[derive(Debug)]
pub struct CapturedSockets {
    /// How traffic gets here.
    pub tier: CaptureTier,
    /// Listening sockets, IPv4 and (where the host has it) IPv6; blocking until told otherwise.
    pub tcp: Vec<CapturedTcp>,
    /// Port 53, IPv4 and IPv6: what is asked of *any* name server arrives here.
    pub dns: Vec<DnsSocket>,
    /// Listeners on the bottle's own loopback, 127.0.0.1 and (where the host has it) ::1, with their port. They are bound
    /// before any program runs: one inside that wants such a port gets `EADDRINUSE`.
    pub inside: Vec<(u16, TcpListener)>,
}

/// One listening socket.
#[derive(Debug)]
pub struct CapturedTcp {
    /// The socket.
    pub listener: TcpListener,
    /// Where to learn a connection's original destination.
    pub kind: TcpKind,
}

/// See [`CapturedTcp::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpKind {
    /// Every port, DNS over TCP included: ask `SO_ORIGINAL_DST` (IPv6: `IP6T_SO_ORIGINAL_DST`) of the accepted socket.
    Redirected,
    /// This port alone: the accepted socket's own local address is the original destination.
    Port(u16),
}

impl CapturedSockets {
    pub(crate) fn sort(t1: bool, described: &[Socket], descriptors: Vec<OwnedFd>) -> Self {
        let tier = if t1 { CaptureTier::T1 } else { CaptureTier::T2 };
        let mut sorted = CapturedSockets { tier, tcp: Vec::new(), dns: Vec::new(), inside: Vec::new() };
        for (socket, descriptor) in described.iter().zip(descriptors) {
            let kind = match socket.role {
                SocketRole::Redirected => TcpKind::Redirected,
                SocketRole::Port(port) => TcpKind::Port(port),
                SocketRole::Dns => {
                    sorted.dns.push(DnsSocket { socket: UdpSocket::from(descriptor) });
                    continue;
                }
                SocketRole::Inside(port) => {
                    sorted.inside.push((port, TcpListener::from(descriptor)));
                    continue;
                }
            };
            sorted.tcp.push(CapturedTcp { listener: TcpListener::from(descriptor), kind });
        }
        sorted
    }
}

/// A datagram socket that tells which address was asked, so that the answer comes from there.
#[derive(Debug)]
pub struct DnsSocket {
    socket: UdpSocket,
}

impl DnsSocket {
    /// Takes a datagram that is there: its length, its sender and the address it was sent to. `WouldBlock` when none is.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, IpAddr)> {
        datagram::receive(self.socket.as_fd(), buffer)
    }

    /// Sends a datagram to `peer` from `local`; `WouldBlock` when the queue is full.
    pub fn try_send(&self, bytes: &[u8], peer: SocketAddr, local: IpAddr) -> io::Result<()> {
        datagram::send(self.socket.as_fd(), bytes, peer, local)
    }
}

impl AsFd for DnsSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for DnsSocket {
    /// For an event loop (`tokio::io::unix::AsyncFd`).
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}
