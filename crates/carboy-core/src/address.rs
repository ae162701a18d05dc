//! Which addresses are public: the answer to "may a name resolve to this?".
//!
//! *Must never* call an address public that reaches this machine, its network or a cloud's metadata service
//! (B31, B32): a name under somebody else's control may resolve to any address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Is the address globally reachable unicast? Registries: IANA IPv4 and IPv6 Special-Purpose Address Registries
/// (RFC 6890 and its updates); embedded IPv4 in IPv6 (mapped, NAT64, 6to4, Teredo) is judged as the IPv4 address
/// or refused outright.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// `(network, prefix length)`, not globally reachable.
const NOT_PUBLIC_V4: &[([u8; 4], u32)] = &[
    ([0, 0, 0, 0], 8),        // "this network", RFC 791
    ([10, 0, 0, 0], 8),       // private, RFC 1918
    ([100, 64, 0, 0], 10),    // shared address space, RFC 6598; 100.100.100.200 is a metadata service
    ([127, 0, 0, 0], 8),      // loopback, RFC 1122
    ([168, 63, 129, 16], 32), // a cloud's host service, public by number only
    ([169, 254, 0, 0], 16),   // link local, RFC 3927; 169.254.169.254 is the metadata service
    ([172, 16, 0, 0], 12),    // private, RFC 1918
    ([192, 0, 0, 0], 24),     // protocol assignments, RFC 6890; 192.0.0.192 is a metadata service
    ([192, 0, 2, 0], 24),     // documentation, RFC 5737
    ([192, 88, 99, 0], 24),   // 6to4 relay, RFC 7526
    ([192, 168, 0, 0], 16),   // private, RFC 1918
    ([198, 18, 0, 0], 15),    // benchmarking, RFC 2544; the bottle's own name pool
    ([198, 51, 100, 0], 24),  // documentation, RFC 5737
    ([203, 0, 113, 0], 24),   // documentation, RFC 5737
    ([224, 0, 0, 0], 4),      // multicast, RFC 5771
    ([240, 0, 0, 0], 4),      // reserved and broadcast, RFC 1112
];

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let bits = u32::from(v4);
    !NOT_PUBLIC_V4.iter().any(|(net, len)| {
        let mask = u32::MAX << (32 - len);
        bits & mask == u32::from(Ipv4Addr::from(*net)) & mask
    })
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    if let Some(v4) = v6.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    let s = v6.segments();
    // Only 2000::/3 is global unicast (RFC 4291); of it, what embeds or documents is taken out.
    s[0] & 0xe000 == 0x2000
        && !(s[0] == 0x2001 && s[1] < 0x0200)    // 2001::/23 protocol assignments, Teredo among them (RFC 2928)
        && !(s[0] == 0x2001 && s[1] == 0x0db8)   // documentation, RFC 3849
        && s[0] != 0x2002                        // 6to4, RFC 3056: the IPv4 address inside is the real one
        && !(s[0] == 0x3fff && s[1] < 0x1000) // documentation, RFC 9637
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_near_is_public() {
        // B7, B32
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "0.0.0.0",
            "255.255.255.255",
            "198.18.0.5",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "fc00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:1::",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn the_internet_is() {
        for text in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }
}
