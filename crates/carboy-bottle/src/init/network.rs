//! The bottle's network: `lo`, a world of local addresses, the capture rules, and the sockets that go to the supervisor.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use carboy_core::plan::{CapturePolicy, CaptureTier};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::netlink::{Answer, Attributes, CREATE, Messages, route_socket};
use super::{SetupError, nft, step};
use crate::sys::datagram::{Family, ask_for_local_address};
use crate::wire::{Socket, SocketRole};

/// The one port that T1 redirects to. Outside of the ephemeral range, so that no client's own port collides.
pub const GATEWAY_PORT: u16 = 61_053;
const DNS_PORT: u16 = 53;
const BACKLOG: i32 = 1024;
const LOOPBACK_INDEX: u32 = 1;

/// What was set up: the tier and the sockets, in the order of their descriptions.
pub struct Captured {
    /// The tier in force.
    pub tier: CaptureTier,
    /// What each socket is.
    pub roles: Vec<Socket>,
    /// The sockets.
    pub sockets: Vec<OwnedFd>,
}

/// Sets everything up, before the root file system changes (it writes below the host's `/proc/sys/net`, which
/// is the caller's own network namespace there).
pub fn set_up(policy: CapturePolicy, route_ports: &[u16], inside_ports: &[u16]) -> Result<Captured, SetupError> {
    let families = bring_up()?;
    step("allow low ports inside", std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"))?;
    let tier = match policy {
        CapturePolicy::ForceT2 => CaptureTier::T2,
        CapturePolicy::RequireT1 => {
            step(
                "load the nf_tables rules (tier T1 needs nf_tables with NAT: `modprobe nft_redir nft_reject_inet`, or allow tier T2)",
                nft::load(GATEWAY_PORT),
            )?;
            CaptureTier::T1
        }
        CapturePolicy::AllowT2 => match nft::load(GATEWAY_PORT) {
            Ok(()) => CaptureTier::T1,
            Err(_) => CaptureTier::T2,
        },
    };
    let mut ports = match tier {
        CaptureTier::T1 => vec![(GATEWAY_PORT, SocketRole::Redirected)],
        CaptureTier::T2 => {
            let mut all = vec![DNS_PORT, 80, 443];
            all.extend(route_ports);
            all.sort_unstable();
            all.dedup();
            all.into_iter().map(|port| (port, SocketRole::Port(port))).collect()
        }
    };
    ports.push((DNS_PORT, SocketRole::Dns));
    let mut captured = open_sockets(tier, &families, &ports)?;
    for port in inside_ports {
        for family in &families {
            let opened = listener(SocketAddr::new(loopback(*family), *port));
            let step_name = format!("listen on the bottle's own port {port} for `forward: {port}`");
            captured.sockets.push(step(&step_name, opened)?);
            captured.roles.push(Socket { role: SocketRole::Inside(*port), v6: *family == Family::V6 });
        }
    }
    Ok(captured)
}

fn open_sockets(tier: CaptureTier, families: &[Family], ports: &[(u16, SocketRole)]) -> Result<Captured, SetupError> {
    let mut captured = Captured { tier, roles: Vec::new(), sockets: Vec::new() };
    for family in families {
        for (port, role) in ports {
            let opened = match role {
                SocketRole::Redirected | SocketRole::Port(_) | SocketRole::Inside(_) => {
                    listener(everywhere(*family, *port))
                }
                SocketRole::Dns => dns_socket(*family, *port),
            };
            captured.sockets.push(step("open the capture sockets", opened)?);
            captured.roles.push(Socket { role: *role, v6: *family == Family::V6 });
        }
    }
    Ok(captured)
}

/// `lo` up and AnyIP routes. Gives the families that this kernel has; IPv6 may be missing as a whole.
fn bring_up() -> Result<Vec<Family>, SetupError> {
    let socket = step("open a route socket", route_socket())?;
    let mut up = Messages::default();
    const NEW_LINK: u16 = 16;
    const IFF_UP: u32 = 1;
    let mut link = vec![0_u8; 4];
    link.extend(LOOPBACK_INDEX.to_ne_bytes());
    link.extend(IFF_UP.to_ne_bytes());
    link.extend(IFF_UP.to_ne_bytes());
    up.add(NEW_LINK, 0, Answer::Awaited, &link, |_| {});
    step("bring up the loopback device", up.exchange(&socket))?;
    step("route every IPv4 address to the bottle", any_ip(&socket, AddressFamily::INET))?;
    let mut families = vec![Family::V4];
    match any_ip(&socket, AddressFamily::INET6) {
        Ok(()) => families.push(Family::V6),
        // A kernel without IPv6 opens no IPv6 sockets inside either.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => {}
        Err(error) => return step("route every IPv6 address to the bottle", Err(error)),
    }
    Ok(families)
}

/// `local default dev lo`: every address of the family is this host's.
fn any_ip(socket: &OwnedFd, family: AddressFamily) -> io::Result<()> {
    const NEW_ROUTE: u16 = 24;
    const TABLE_LOCAL: u8 = 255;
    const PROTOCOL_STATIC: u8 = 4;
    const SCOPE_HOST: u8 = 254;
    const TYPE_LOCAL: u8 = 2;
    let fixed = [family.as_raw() as u8, 0, 0, 0, TABLE_LOCAL, PROTOCOL_STATIC, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    let device = |a: &mut Attributes| a.put(4, &LOOPBACK_INDEX.to_ne_bytes());
    let mut messages = Messages::default();
    messages.add(NEW_ROUTE, CREATE, Answer::Awaited, &fixed, device);
    messages.exchange(socket)
}

fn unbound(family: Family, kind: SocketType) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let socket = socket_with(domain, kind, SocketFlags::CLOEXEC, None)?;
    if family == Family::V6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

fn everywhere(family: Family, port: u16) -> SocketAddr {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(address, port)
}

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

// Neither SO_REUSEADDR nor SO_REUSEPORT is ever set: a process inside could share the port and take connections.
fn listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = unbound(family, SocketType::STREAM)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn dns_socket(family: Family, port: u16) -> io::Result<OwnedFd> {
    let socket = unbound(family, SocketType::DGRAM)?;
    ask_for_local_address(socket.as_fd(), family)?;
    if family == Family::V6 {
        // An answer comes from the address that was asked, which no device has: IPv6 wants that said, IPv4 does not.
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    bind(&socket, &everywhere(family, port))?;
    Ok(socket)
}
