//! Connections out of the bottle: where each was meant to go, and what it speaks.
//!
//! The bottle of a connection is the listening socket that it was accepted on; no byte of it is asked who it is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use carboy_core::host::Host;
use carboy_core::verdict::{Denial, Reason};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::alpn::Offer;
use crate::connection::Flow;
use crate::gateway::Gateway;
use crate::linger::Lingering;
use crate::upstream::{Pool, Security};
use crate::{name_server, tls};

/// The port of DNS.
const DNS_PORT: u16 = 53;
/// First byte of a TLS handshake record (RFC 8446, 5.1).
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;
/// Pause after a listening socket failed (out of descriptors, mostly).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a listener tells where its connections were meant to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// nftables redirected them: the kernel knows the original destination.
    Redirected,
    /// Every address is local to the bottle: the socket's own address is the destination.
    Direct,
    /// All of them are meant for this host and port.
    Fixed {
        /// Decided on like any other host.
        host: Host,
        /// Decided on like any other port.
        port: u16,
    },
}

impl Gateway {
    /// Accepts from the bottle until the socket is closed. Run it as its own task.
    pub async fn serve_tcp(self: &Arc<Self>, listener: TcpListener, kind: Listener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(self.clone().accepted(stream, kind.clone()));
                }
                Err(error) if is_closed(&error) => return,
                // Whatever the bottle used up comes back when it lets go: a gateway that gave up would be gone for good.
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn accepted(self: Arc<Self>, stream: TcpStream, kind: Listener) {
        self.count(|stats| stats.connections += 1);
        let Some((host, port)) = self.origin(&stream, kind) else { return self.lost(&stream).await };
        let Ok(_one) = self.connections.clone().try_acquire_owned() else {
            let detail = format!("{} connections at once", self.limits.connections_max);
            return self.refuse_connection(&host, port, Denial::new(Reason::LimitReached, detail)).await;
        };
        let _ = stream.set_nodelay(true);
        if port == DNS_PORT {
            return name_server::serve_stream(&self, stream).await;
        }
        let mut first = [0_u8; 1];
        match timeout(self.limits.first_byte, stream.peek(&mut first)).await {
            Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => tls::intercept(self, stream, host, port).await,
            Ok(Ok(1)) => {
                let pool = Pool::new(Security::Plain, Offer { h1: true, h2: false });
                Flow::new(self, host, port, pool, None).serve(Lingering::new(stream), None).await;
            }
            Ok(Ok(_) | Err(_)) => self.silent(&host, port, None).await,
            Err(_) => {
                let detail = format!("the client sent nothing within {:?}", self.limits.first_byte);
                self.silent(&host, port, Some(Denial::new(Reason::ProtocolRefused, detail))).await;
            }
        }
    }

    /// A connection whose destination the kernel does not know, such as one that was made to the listener's own port
    /// (B4). It cannot be decided on, so it is refused.
    async fn lost(&self, stream: &TcpStream) {
        let Ok(local) = stream.local_addr() else { return };
        let denial =
            Denial::new(Reason::AddressNotAllowed, "the connection has no destination but the listener itself");
        self.refuse_connection(&Host::from_ip(local.ip()), local.port(), denial).await;
    }

    /// A connection without a byte: a scan, a protocol whose server speaks first, or a client that lost a race
    /// between addresses. The last is no refusal, as long as the host is permitted.
    pub(crate) async fn silent(&self, host: &Host, port: u16, otherwise: Option<Denial>) {
        let permit = self.routes_now().and_then(|routes| routes.host_permit(host, port).into_result());
        if let Some(denial) = permit.err().or(otherwise) {
            self.refuse_connection(host, port, denial).await;
        }
    }

    fn origin(&self, stream: &TcpStream, kind: Listener) -> Option<(Host, u16)> {
        let address = match kind {
            Listener::Fixed { host, port } => return Some((host, port)),
            Listener::Direct => stream.local_addr().ok()?,
            Listener::Redirected => original_destination(stream)?,
        };
        let ip = match address.ip() {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 @ IpAddr::V4(_) => v4,
        };
        Some((self.host_at(ip), address.port()))
    }
}

/// Is it the socket itself that is gone? Every other error passes.
pub(crate) fn is_closed(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP];
    error.raw_os_error().is_some_and(|code| gone.iter().any(|errno| errno.raw_os_error() == code))
}

/// What the connection was opened to before nftables redirected it. A dual-stack socket holds v4 connections as
/// mapped v6 ones; the kernel answers for those in the v4 option only.
fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = socket2::SockRef::from(stream);
    let v4 = match local.ip() {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    let found = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    found.ok()?.as_socket()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_given_up_for_its_own_end_and_for_nothing_that_passes() {
        use rustix::io::Errno;
        let is_closed = |errno: Errno| is_closed(&errno.into());
        assert!([Errno::BADF, Errno::INVAL, Errno::NOTSOCK].into_iter().all(is_closed));
        let passing = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::CONNABORTED, Errno::PERM];
        assert!(!passing.into_iter().any(is_closed));
    }
}
