//! Where a host stands, asked before a route to it is written: on the internet, in a private network, or on this machine.
//!
//! *Must never* decide for a request: what a name resolves to is looked at again, and judged, whenever it is dialled.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use carboy_core::address::is_public;
use carboy_core::route::is_private_unicast;

/// Most addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 64;

/// Where a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All its addresses are public.
    Public,
    /// One of its addresses is in private space, which `private: true` opens.
    Private(IpAddr),
    /// One of its addresses is this machine's own, which no route opens.
    Loopback(IpAddr),
    /// One of its addresses is neither: only an `upstreams` entry of the settings opens it.
    Special(IpAddr),
    /// It has no address, or none within the time.
    Unknown,
}

/// Resolves `host` and says where it stands.
pub fn standing_of(host: &str, port: u16, wait_max: Duration) -> Standing {
    let (sender, receiver) = mpsc::sync_channel(1);
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    std::thread::spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs();
        let found = found.map(|all| all.take(ADDRESSES_MAX).map(|address| address.ip()).collect::<Vec<_>>());
        // Nobody waits any more when it took too long.
        let _ = sender.send(found.unwrap_or_default());
    });
    receiver.recv_timeout(wait_max).map_or(Standing::Unknown, |addresses| worst(&addresses))
}

fn worst(addresses: &[IpAddr]) -> Standing {
    let closed: Vec<IpAddr> = addresses.iter().copied().filter(|ip| !is_public(*ip)).collect();
    if addresses.is_empty() {
        return Standing::Unknown;
    }
    if let Some(ip) = closed.iter().find(|ip| ip.is_loopback()) {
        return Standing::Loopback(*ip);
    }
    if let Some(ip) = closed.iter().find(|ip| !is_private_unicast(**ip)) {
        return Standing::Special(*ip);
    }
    closed.first().map_or(Standing::Public, |ip| Standing::Private(*ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_opens_least_says_where_a_host_stands() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let of = |all: &[&str]| worst(&all.iter().map(|text| ip(text)).collect::<Vec<_>>());
        assert_eq!(of(&["1.1.1.1", "2606:4700::1111"]), Standing::Public);
        assert_eq!(of(&["1.1.1.1", "10.0.0.7"]), Standing::Private(ip("10.0.0.7")));
        assert_eq!(of(&["10.0.0.7", "192.0.2.5"]), Standing::Special(ip("192.0.2.5")));
        assert_eq!(of(&["192.0.2.5", "127.0.0.1"]), Standing::Loopback(ip("127.0.0.1")));
        assert_eq!(of(&[]), Standing::Unknown);
        assert_eq!(standing_of("[::1]", 80, Duration::from_secs(5)), Standing::Loopback(ip("::1")));
        assert_eq!(standing_of("name.invalid", 80, Duration::ZERO), Standing::Unknown);
    }
}
