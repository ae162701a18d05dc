//! The bottle's name-server socket as the gateway's port: two rooms of the same layer, introduced here.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use carboy_bottle::DnsSocket;
use carboy_core::ports::{DatagramPort, Later};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A socket made in a bottle, waited for outside.
pub(crate) struct BottlePort {
    socket: DnsSocket,
    /// The same socket by another descriptor, for the runtime to wait on.
    readiness: UdpSocket,
}

impl BottlePort {
    /// Needs a tokio runtime.
    pub(crate) fn new(socket: DnsSocket) -> std::io::Result<BottlePort> {
        let readiness = std::net::UdpSocket::from(socket.as_fd().try_clone_to_owned()?);
        readiness.set_nonblocking(true)?;
        Ok(BottlePort { socket, readiness: UdpSocket::from_std(readiness)? })
    }
}

impl DatagramPort for BottlePort {
    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> Later<'a, std::io::Result<(usize, SocketAddr, IpAddr)>> {
        Box::pin(async move { self.readiness.async_io(Interest::READABLE, || self.socket.try_receive(buffer)).await })
    }

    fn send<'a>(&'a self, bytes: &'a [u8], peer: SocketAddr, local: IpAddr) -> Later<'a, std::io::Result<()>> {
        Box::pin(async move {
            self.readiness.async_io(Interest::WRITABLE, || self.socket.try_send(bytes, peer, local)).await
        })
    }
}
