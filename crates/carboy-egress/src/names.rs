//! The name pool: each allowed name that is asked of DNS gets an address of its own, so that the address of a later
//! connection tells the name that was asked.
//!
//! *Must never* hand out an address for a name that no route allows, unless the run learns (the address leads to the
//! gateway all the same, and the request is refused there), or more names than it has room for: with a wildcard route
//! the bottle chooses the labels (B30; see [`Zones`]).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use carboy_core::host::{DnsName, Host, HostPattern};
use carboy_core::route::RouteSet;

use crate::gateway::Learning;
use crate::limits::GatewayLimits;
use crate::zones::Zones;

/// First usable address of 198.18.0.0/15 (RFC 2544): never routed on the Internet.
const V4_BASE: u32 = u32::from_be_bytes([198, 18, 0, 1]);
/// Addresses of the v4 pool; the v6 pool mirrors them.
const POOL_SIZE: u32 = (1 << 17) - 2;
/// The upper half of fdca:b0e0:ca4b:1::/64 (RFC 4193 unique local).
const V6_PREFIX: [u16; 4] = [0xfdca, 0xb0e0, 0xca4b, 0x0001];

/// The addresses that DNS answers for one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolAddress {
    /// For A.
    pub v4: Ipv4Addr,
    /// For AAAA.
    pub v6: Ipv6Addr,
}

/// Why a name got no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAddress {
    NotAllowed,
    PoolFull,
    /// Below its wildcard too much was said already, or it says too much by itself; how, in words.
    ZoneSpent(String),
}

/// Names and their places in the pool, stable for the life of a run.
pub(crate) struct NamePool {
    names_max: usize,
    wildcard_names_max: usize,
    wildcard_names: usize,
    zones: Zones,
    places: HashMap<DnsName, u32>,
    names: Vec<DnsName>,
}

impl NamePool {
    pub(crate) fn new(limits: &GatewayLimits) -> NamePool {
        NamePool {
            names_max: limits.names_max.min(POOL_SIZE as usize),
            wildcard_names_max: limits.wildcard_names_max,
            wildcard_names: 0,
            zones: Zones::new(limits.zones),
            places: HashMap::new(),
            names: Vec::new(),
        }
    }

    /// The name's address; a new one when it has none yet, and a route allows it or the run learns.
    pub(crate) fn address(
        &mut self,
        name: &DnsName,
        routes: &RouteSet,
        learning: Learning,
    ) -> Result<PoolAddress, NoAddress> {
        let host = Host::Name(name.clone());
        if !routes.names_host(&host) && learning == Learning::Off {
            return Err(NoAddress::NotAllowed);
        }
        if let Some(place) = self.places.get(name) {
            return Ok(address_at(*place));
        }
        let exact = routes.iter().any(|route| matches!(&route.host, HostPattern::Exact(own) if *own == host));
        if self.names.len() >= self.names_max || (!exact && self.wildcard_names >= self.wildcard_names_max) {
            return Err(NoAddress::PoolFull);
        }
        if let Some(zone) = zone_of(name, routes).filter(|_| !exact) {
            self.zones.count(zone, name).map_err(NoAddress::ZoneSpent)?;
        }
        self.wildcard_names += usize::from(!exact);
        let place = self.names.len() as u32;
        self.places.insert(name.clone(), place);
        self.names.push(name.clone());
        Ok(address_at(place))
    }

    /// What a connection to `ip` was meant for: the name asked, or the address itself.
    pub(crate) fn host_at(&self, ip: IpAddr) -> Host {
        let host = Host::from_ip(ip);
        let place = match &host {
            Host::V4(v4) => u32::from(*v4).checked_sub(V4_BASE),
            Host::V6(v6) => {
                let s = v6.segments();
                let ours = s[..4] == V6_PREFIX && s[4] == 0 && s[5] == 0;
                ours.then(|| (u32::from(s[6]) << 16 | u32::from(s[7])).wrapping_sub(1))
            }
            Host::Name(_) => None,
        };
        match place.and_then(|place| self.names.get(place as usize)) {
            Some(name) => Host::Name(name.clone()),
            None => host,
        }
    }
}

/// The smallest zone of a wildcard that the name is below.
fn zone_of<'r>(name: &DnsName, routes: &'r RouteSet) -> Option<&'r DnsName> {
    let zones = routes.iter().filter_map(|route| match &route.host {
        HostPattern::Below(zone) if name.is_below(zone) => Some(zone),
        HostPattern::Below(_) | HostPattern::Exact(_) => None,
    });
    zones.max_by_key(|zone| zone.as_str().len())
}

fn address_at(place: u32) -> PoolAddress {
    let [a, b, c, d] = V6_PREFIX;
    let n = place + 1;
    PoolAddress { v4: Ipv4Addr::from(V4_BASE + place), v6: Ipv6Addr::new(a, b, c, d, 0, 0, (n >> 16) as u16, n as u16) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::routes;

    fn pool(names_max: usize, wildcard_names_max: usize) -> NamePool {
        NamePool::new(&GatewayLimits { names_max, wildcard_names_max, ..GatewayLimits::default() })
    }

    fn name(text: &str) -> DnsName {
        Host::parse(text).unwrap().as_name().unwrap().clone()
    }

    #[test]
    fn a_name_keeps_its_address_and_the_address_tells_the_name() {
        let routes = routes(&["a.example", "b.example"]);
        let mut pool = pool(10, 10);
        let a = pool.address(&name("a.example"), &routes, Learning::Off).unwrap();
        let b = pool.address(&name("b.example"), &routes, Learning::Off).unwrap();
        assert_ne!(a, b);
        assert_eq!(pool.address(&name("a.example"), &routes, Learning::Off), Ok(a));
        assert_eq!(pool.host_at(b.v4.into()), Host::parse("b.example").unwrap());
        assert_eq!(pool.host_at(a.v6.into()), Host::parse("a.example").unwrap());
        // B5: an address that no name has stays an address.
        assert_eq!(pool.host_at("198.18.9.9".parse().unwrap()), Host::parse("198.18.9.9").unwrap());
        assert_eq!(pool.host_at("::ffff:10.0.0.1".parse().unwrap()), Host::parse("10.0.0.1").unwrap());
    }

    #[test]
    fn only_allowed_names_get_in_and_wildcard_names_are_bounded() {
        // B28, B30
        let routes = routes(&["a.example", "*.w.example"]);
        let mut pool = pool(10, 2);
        assert_eq!(pool.address(&name("evil.example"), &routes, Learning::Off), Err(NoAddress::NotAllowed));
        assert!(pool.address(&name("1.w.example"), &routes, Learning::Off).is_ok());
        assert!(pool.address(&name("2.w.example"), &routes, Learning::Off).is_ok());
        assert_eq!(pool.address(&name("3.w.example"), &routes, Learning::Off), Err(NoAddress::PoolFull));
        assert!(
            pool.address(&name("1.w.example"), &routes, Learning::Off).is_ok()
                && pool.address(&name("a.example"), &routes, Learning::Off).is_ok()
        );
    }

    #[test]
    fn b30_what_a_wildcard_allows_is_counted_in_its_smallest_zone_and_an_exact_name_is_not() {
        let routes = routes(&[
            "*.w.example",
            "*.s.w.example",
            "k3j9x2m7q4w8z1b6v5n0k3j9x2m7q4w8.k3j9x2m7q4w8z1b6v5n0k3j9x2m7q4w8.k3j9x2m7q4w8z1b6v5n0k3j9x2m7q4w8.k3j9.w.example",
        ]);
        let zones = crate::zones::ZoneLimits { names_max: 1, ..Default::default() };
        let mut pool = NamePool::new(&GatewayLimits { zones, ..GatewayLimits::default() });
        let mut ask = |text: &str| pool.address(&name(text), &routes, Learning::Off);
        assert!(ask("a.w.example").is_ok() && ask("a.s.w.example").is_ok());
        // What has its address keeps it; what has none is counted.
        assert!(ask("a.w.example").is_ok());
        assert!(matches!(ask("b.w.example"), Err(NoAddress::ZoneSpent(why)) if why.contains("w.example")));
        assert!(matches!(ask("b.s.w.example"), Err(NoAddress::ZoneSpent(why)) if why.contains("s.w.example")));
        let exact = routes.iter().nth(2).unwrap().host.to_string();
        assert!(ask(&exact).is_ok());
    }
}
