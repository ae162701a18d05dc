//! Connections to a port of the bottle's own loopback, made here because the supervisor stands in another network.
//!
//! *Must never* wait: a program inside could listen and never accept. *Must never* connect to anything but 127.0.0.1 and
//! ::1 of this bottle; nothing but the port is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, getpeername, getsockname, socket_with, sockopt};

use crate::wire::CONNECT_WAIT_MAX;

/// Tried in this order: development servers listen on the one, on the other, or on both.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A connection on its way.
pub struct Connecting {
    /// The supervisor's number for it.
    pub id: u32,
    /// When it is given up.
    pub until: Instant,
    port: u16,
    /// Which of [`ADDRESSES`].
    at: usize,
    socket: OwnedFd,
    /// What the first address said.
    refused: Option<Errno>,
}

/// Where an attempt stands.
pub enum Attempt {
    /// Connected; non-blocking.
    Done(OwnedFd),
    /// Poll the socket for writing.
    Waiting(Connecting),
    /// No address took it.
    Failed(i32),
}

impl Connecting {
    /// Begins.
    pub fn begin(id: u32, port: u16) -> Attempt {
        go_on(id, port, Instant::now() + CONNECT_WAIT_MAX, 0, None)
    }

    /// Becomes writable when there is an outcome.
    pub fn news(&self) -> &OwnedFd {
        &self.socket
    }

    /// Looks at the outcome, after the socket became writable.
    pub fn look(self) -> Attempt {
        match sockopt::socket_error(&self.socket) {
            Ok(Ok(())) if is_itself(&self.socket) => self.next(Errno::CONNREFUSED),
            Ok(Ok(())) => Attempt::Done(self.socket),
            Ok(Err(error)) | Err(error) => self.next(error),
        }
    }

    fn next(self, error: Errno) -> Attempt {
        go_on(self.id, self.port, self.until, self.at + 1, Some(self.refused.unwrap_or(error)))
    }
}

fn go_on(id: u32, port: u16, until: Instant, first: usize, mut refused: Option<Errno>) -> Attempt {
    for (at, address) in ADDRESSES.iter().enumerate().skip(first) {
        let error = match attempt(SocketAddr::new(*address, port)) {
            Ok((socket, true)) => return Attempt::Done(socket),
            Ok((socket, false)) => return Attempt::Waiting(Connecting { id, until, port, at, socket, refused }),
            Err(error) => error,
        };
        refused.get_or_insert(error);
    }
    Attempt::Failed(refused.unwrap_or(Errno::CONNREFUSED).raw_os_error())
}

/// The socket, and whether it is connected already.
fn attempt(address: SocketAddr) -> Result<(OwnedFd, bool), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) if is_itself(&socket) => Err(Errno::CONNREFUSED),
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

/// A connection within one machine to a port where nobody listens can be given that very port as its own, and then it is
/// connected to itself.
fn is_itself(socket: &OwnedFd) -> bool {
    let ends = (getsockname(socket).ok(), getpeername(socket).ok().flatten());
    matches!(ends, (Some(here), Some(there)) if here == there)
}
