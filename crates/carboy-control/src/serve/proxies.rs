//! Who is asking, over which scheme and by which name, when a proxy stands in front (G52).
//!
//! ```text
//!  client ─▶ proxy (listed) ─▶ proxy (listed) ─▶ us        X-Forwarded-For: [made up…,] client, proxy
//!                                                                            ▲ the right-most that is not listed
//! ```
//!
//! *Must never* believe a field that an unlisted peer sent: whoever may write its own address has no limit.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::{HeaderMap, HeaderValue};

/// Most addresses of a chain that are looked at.
const HOPS_MAX: usize = 32;

/// A network: `10.0.0.0/8`, `::1`, `192.168.1.4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network; write an address, or one with its prefix as in 10.0.0.0/8")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let wrong = || NetworkError(text.chars().take(80).collect());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most { Err(wrong()) } else { Ok(Network { address: plain(address), bits }) }
    }
}

impl Network {
    /// Is the address in it?
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, plain(address)) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.bits);
                (u32::from(own) ^ u32::from(other)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.bits);
                (u128::from(own) ^ u128::from(other)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// An IPv4 address however a socket spells it.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// What is known of a request's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Who asked: what limits count by.
    pub address: IpAddr,
    /// It came over https, here or at the proxy.
    pub https: bool,
    /// The name it was asked by, with its port: what an `Origin` is compared with.
    pub host: Option<String>,
}

/// Reads the way of a request.
pub(super) fn way(peer: SocketAddr, headers: &HeaderMap, trusted: &[Network]) -> Way {
    // A name that is no text is a name all the same, and nobody's.
    let host = headers.get("host").map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    let listed = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !listed(peer.ip()) {
        return Way { address: plain(peer.ip()), https: false, host };
    }
    let address = if headers.contains_key("forwarded") && !headers.contains_key("x-forwarded-for") {
        farthest(elements(headers, "forwarded").map(|element| forwarded_for(&element)), peer.ip(), listed)
    } else {
        farthest(elements(headers, "x-forwarded-for").map(|element| bare(&element)), peer.ip(), listed)
    };
    // The last one was written by the proxy that speaks to us.
    let last = |name| elements(headers, name).next().map(|element| element.to_ascii_lowercase());
    let of_forwarded = |key| elements(headers, "forwarded").next().and_then(|element| parameter(&element, key));
    let scheme = last("x-forwarded-proto").or_else(|| of_forwarded("proto"));
    let named = last("x-forwarded-host").or_else(|| of_forwarded("host"));
    Way { address, https: scheme.as_deref() == Some("https"), host: named.or(host) }
}

/// Elements of a list that may stand in several fields, from the right. One that is no text is an element all the same, and
/// says nothing that is known: whoever writes such an octet in front must not hide what a proxy wrote behind it.
fn elements<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = Cow<'h, str>> {
    let fields: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let octets = fields.into_iter().rev().flat_map(|field| field.rsplit(|octet| *octet == b','));
    octets.map(|element| String::from_utf8_lossy(element.trim_ascii())).take(HOPS_MAX)
}

/// The nearest address that is not a listed proxy's; what stands left of it, it may have written itself.
fn farthest(chain: impl Iterator<Item = Option<IpAddr>>, peer: IpAddr, listed: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut nearest = plain(peer);
    for hop in chain {
        // `unknown`, `_hidden`, rubbish: the hop before it is the last that is known.
        let Some(hop) = hop else { break };
        nearest = hop;
        if !listed(hop) {
            break;
        }
    }
    nearest
}

/// `203.0.113.7`, `203.0.113.7:4711`, `2001:db8::1`, `[2001:db8::1]:4711`.
fn bare(text: &str) -> Option<IpAddr> {
    let text = text.trim_ascii();
    let address = text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()).map(plain)
}

/// The `for` of one element of `Forwarded` (RFC 7239).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    bare(&parameter(element, "for")?)
}

fn parameter(element: &str, key: &str) -> Option<String> {
    let pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?;
    Some(value.trim_matches('"').to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_of(peer: &str, fields: &[(&'static str, &str)], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted: Vec<Network> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        way(SocketAddr::new(peer.parse().unwrap(), 4711), &headers, &trusted).address.to_string()
    }

    /// Peer, fields, listed networks, and who asked.
    type Row<'t> = (&'t str, &'t [(&'static str, &'t str)], &'t [&'t str], &'t str);

    #[test]
    fn g52_the_nearest_hop_that_is_no_listed_proxy_is_who_asked() {
        let table: &[Row<'_>] = &[
            // Nobody is trusted: the field is the client's own invention.
            ("203.0.113.9", &[("x-forwarded-for", "1.2.3.4")], &[], "203.0.113.9"),
            ("127.0.0.1", &[("x-forwarded-for", "203.0.113.9")], &["127.0.0.1"], "203.0.113.9"),
            // What the client wrote itself stands left of what the proxy added.
            ("127.0.0.1", &[("x-forwarded-for", "1.2.3.4, 203.0.113.9")], &["127.0.0.0/8"], "203.0.113.9"),
            (
                "127.0.0.1",
                &[("x-forwarded-for", "1.2.3.4, 203.0.113.9, 10.0.0.7")],
                &["127.0.0.1", "10.0.0.0/8"],
                "203.0.113.9",
            ),
            (
                "127.0.0.1",
                &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "203.0.113.9")],
                &["127.0.0.1"],
                "203.0.113.9",
            ),
            ("127.0.0.1", &[("x-forwarded-for", "garbage")], &["127.0.0.1"], "127.0.0.1"),
            ("127.0.0.1", &[("x-forwarded-for", "203.0.113.9, unknown")], &["127.0.0.1"], "127.0.0.1"),
            ("127.0.0.1", &[], &["127.0.0.1"], "127.0.0.1"),
            ("::ffff:127.0.0.1", &[("x-forwarded-for", "[2001:db8::1]:99")], &["127.0.0.1"], "2001:db8::1"),
            (
                "127.0.0.1",
                &[("forwarded", "for=1.2.3.4, for=\"203.0.113.9:80\";proto=https")],
                &["127.0.0.1"],
                "203.0.113.9",
            ),
            ("127.0.0.1", &[("forwarded", "for=_hidden")], &["127.0.0.1"], "127.0.0.1"),
        ];
        for (peer, fields, trusted, wanted) in table {
            assert_eq!(address_of(peer, fields, trusted), *wanted, "{fields:?}");
        }
    }

    #[test]
    fn g52_scheme_and_name_are_believed_of_a_listed_proxy_alone() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1:8080".parse().unwrap());
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        headers.insert("x-forwarded-host", "Shop.example".parse().unwrap());
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let trusted = way(peer, &headers, &["127.0.0.1".parse().unwrap()]);
        assert_eq!((trusted.https, trusted.host.as_deref()), (true, Some("shop.example")));
        let stranger = way(peer, &headers, &[]);
        assert_eq!((stranger.https, stranger.host.as_deref()), (false, Some("127.0.0.1:8080")));
    }

    #[test]
    fn g52_an_octet_that_is_no_text_hides_nothing_that_a_proxy_wrote() {
        let proxies = ["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let read = |fields: &[(&'static str, &[u8])]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_bytes(value).unwrap());
            }
            way(SocketAddr::from(([127, 0, 0, 1], 4711)), &headers, &proxies)
        };
        let table: &[(&'static str, &[u8], &str)] = &[
            ("x-forwarded-for", b"\xff, 203.0.113.9", "203.0.113.9"),
            ("x-forwarded-for", b"\xff,203.0.113.9, 10.0.0.7", "203.0.113.9"),
            // It ends the chain where it stands, as `unknown` does.
            ("x-forwarded-for", b"203.0.113.9, \xff, 10.0.0.7", "10.0.0.7"),
            ("x-forwarded-for", b"203.0.113.9, 198.51.100.1\xff", "127.0.0.1"),
            ("x-forwarded-for", "203.0.113.9, 198.51.100.1\u{a0}".as_bytes(), "127.0.0.1"),
            ("forwarded", b"for=\xff, for=203.0.113.9", "203.0.113.9"),
            ("forwarded", b"for=203.0.113.9, for=\xff", "127.0.0.1"),
            ("forwarded", b"for=203.0.113.9;by=\xff", "203.0.113.9"),
        ];
        for (name, value, wanted) in table {
            assert_eq!(read(&[(*name, value)]).address.to_string(), *wanted, "{name}: {}", value.escape_ascii());
        }
        // A field of its own before the proxy's.
        let two: [(&str, &[u8]); 2] = [("x-forwarded-for", b"\xff"), ("x-forwarded-for", b"203.0.113.9")];
        assert_eq!(read(&two).address.to_string(), "203.0.113.9");
        // What the proxy passed on as the last word stands for nobody: an earlier one, which is the client's, does not.
        let named: [(&str, &[u8]); 2] =
            [("x-forwarded-host", b"evil.example"), ("x-forwarded-host", b"shop.example\xff")];
        assert_ne!(read(&named).host.as_deref(), Some("evil.example"));
        assert!(read(&[("host", b"\xff")]).host.is_some(), "a name that nobody can read is not the absence of one");
        let scheme: [(&str, &[u8]); 2] = [("x-forwarded-proto", b"https"), ("x-forwarded-proto", b"\xff")];
        assert!(!read(&scheme).https);
    }

    #[test]
    fn networks_are_read_or_refused() {
        let inside =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(inside("10.0.0.0/8", "10.255.0.1") && !inside("10.0.0.0/8", "11.0.0.1"));
        assert!(inside("0.0.0.0/0", "203.0.113.9") && inside("::/0", "2001:db8::1"));
        assert!(inside("2001:db8::/32", "2001:db8:1::1") && !inside("::/0", "1.2.3.4"));
        for wrong in ["", "10.0.0.0/33", "::/129", "shop.example", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
