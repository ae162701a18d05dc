//! The one host type: parsed once, compared by value, dialled as it was checked.
//!
//! Every spelling of a host that a resolver or a URL library would accept for the same machine becomes the
//! same [`Host`]: upper case, a trailing dot, an internationalised name, brackets, IPv4 in octal, hex, decimal
//! or with parts left out, IPv4 mapped into IPv6, a zone id. What cannot be one host for sure is refused.
//!
//! *Must never* accept a name that another parser could read as a different host (NUL, `@`, `/`, `%`, a
//! non-LDH byte): the parser here and the dialler would then disagree about what was allowed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest accepted host text, in bytes (RFC 1035 names have 253; brackets and a zone id need a little more).
pub const HOST_BYTES_MAX: usize = 320;

/// A host, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name.
    Name(DnsName),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address that is not a mapped IPv4 one.
    V6(Ipv6Addr),
}

/// A DNS name in lower-case A-labels, without the trailing dot: letters, digits and inner hyphens only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(String);

/// Why a text is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("host is empty")]
    Empty,
    /// Above [`HOST_BYTES_MAX`], or a name above 253 bytes, or a label above 63.
    #[error("host is longer than a DNS name may be (253 bytes, 63 a label)")]
    TooLong,
    /// `user@host`, which some parsers read as the other half.
    #[error("host carries user information before an `@`; give the host alone")]
    UserInfo,
    /// A byte that no host has.
    #[error("host has a character other than letters, digits, `-` and `.`")]
    BadCharacter,
    /// `a..b`, `-a`, `a-`.
    #[error("host has an empty label, or one that starts or ends with a hyphen")]
    BadLabel,
    /// Ends in a number but is no IPv4 address.
    #[error("host ends in a number but is not an IPv4 address")]
    BadIpv4,
    /// In brackets or with colons, but no IPv6 address.
    #[error("host is not an IPv6 address")]
    BadIpv6,
    /// IDNA refused it.
    #[error("host is not a valid internationalised name")]
    BadIdna,
}

impl Host {
    /// Parses any spelling of a host without a port.
    pub fn parse(text: &str) -> Result<Host, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > HOST_BYTES_MAX {
            return Err(HostError::TooLong);
        }
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostError::BadIpv6)?;
            return parse_v6(inner);
        }
        if text.contains(':') {
            return parse_v6(text);
        }
        let name = normal_name(text)?;
        if ends_in_number(&name) {
            return parse_v4(&name).map(Host::V4).ok_or(HostError::BadIpv4);
        }
        Ok(Host::Name(DnsName(name)))
    }

    /// Parses `host` or `host:port` (an `authority` without user information).
    pub fn parse_authority(text: &str) -> Result<(Host, Option<u16>), HostError> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
            Some(_) | None => (text, None),
        };
        let port = match port {
            // `u16::from_str` also takes a leading `+`, which no peer does.
            Some(p) if p.bytes().all(|b| b.is_ascii_digit()) && !p.is_empty() => {
                Some(p.parse().map_err(|_| HostError::BadCharacter)?)
            }
            Some(_) => return Err(HostError::BadCharacter),
            None => None,
        };
        Ok((Host::parse(host)?, port))
    }

    /// From a socket address; a mapped IPv4 address becomes the IPv4 address it is.
    pub fn from_ip(ip: IpAddr) -> Host {
        match ip {
            IpAddr::V4(v4) => Host::V4(v4),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Host::V4(v4),
                None => Host::V6(v6),
            },
        }
    }

    /// The address, when the host is one.
    pub fn as_ip(&self) -> Option<IpAddr> {
        match self {
            Host::Name(_) => None,
            Host::V4(v4) => Some(IpAddr::V4(*v4)),
            Host::V6(v6) => Some(IpAddr::V6(*v6)),
        }
    }

    /// The name, when the host is one.
    pub fn as_name(&self) -> Option<&DnsName> {
        match self {
            Host::Name(name) => Some(name),
            Host::V4(_) | Host::V6(_) => None,
        }
    }
}

impl fmt::Display for Host {
    /// As in a URL without its brackets: `example.org`, `192.0.2.1`, `2001:db8::1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => name.fmt(f),
            Host::V4(v4) => v4.fmt(f),
            Host::V6(v6) => v6.fmt(f),
        }
    }
}

impl DnsName {
    /// The name as text, lower case, without the trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is this name below `zone`, at a label boundary and at least one label deeper?
    pub fn is_below(&self, zone: &DnsName) -> bool {
        self.0.strip_suffix(zone.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a route's `host` says: one host, or every name at least one label below a zone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// `example.org`, `192.0.2.1`, `2001:db8::1`.
    Exact(Host),
    /// `*.example.org`: `a.example.org`, `a.b.example.org`, never `example.org`.
    Below(DnsName),
}

impl HostPattern {
    /// Parses `host` or `*.zone`; a star anywhere else is refused.
    pub fn parse(text: &str) -> Result<HostPattern, HostError> {
        match text.strip_prefix("*.") {
            None => Host::parse(text).map(HostPattern::Exact),
            Some(zone) => match Host::parse(zone)? {
                Host::Name(name) => Ok(HostPattern::Below(name)),
                Host::V4(_) | Host::V6(_) => Err(HostError::BadLabel),
            },
        }
    }

    /// Does the pattern name this host?
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (HostPattern::Exact(exact), host) => exact == host,
            (HostPattern::Below(zone), Host::Name(name)) => name.is_below(zone),
            (HostPattern::Below(_), Host::V4(_) | Host::V6(_)) => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(host) => host.fmt(f),
            HostPattern::Below(zone) => write!(f, "*.{zone}"),
        }
    }
}

/// Lower-case A-labels without the trailing dot.
fn normal_name(text: &str) -> Result<String, HostError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    let name = if text.is_ascii() {
        let name = text.to_ascii_lowercase();
        if name.split('.').any(|label| label.starts_with("xn--")) {
            // A hand-written A-label has to be one that IDNA itself would have made.
            idna::domain_to_ascii_strict(&name).map_err(|_| HostError::BadIdna)?
        } else {
            name
        }
    } else {
        let name = idna::domain_to_ascii_strict(text).map_err(|_| HostError::BadIdna)?;
        name.strip_suffix('.').map(str::to_owned).unwrap_or(name)
    };
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.') {
        return Err(HostError::BadCharacter);
    }
    if name.len() > 253 || name.split('.').any(|label| label.len() > 63) {
        return Err(HostError::TooLong);
    }
    if name.split('.').any(|label| label.is_empty() || label.starts_with('-') || label.ends_with('-')) {
        return Err(HostError::BadLabel);
    }
    Ok(name)
}

/// The WHATWG URL standard's "ends in a number": such a host is an IPv4 address or nothing.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x");
    last.bytes().all(|b| b.is_ascii_digit()) || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// `inet_aton` spellings: 1 to 4 parts, each decimal, octal (`0…`) or hex (`0x…`), the last one filling up.
fn parse_v4(name: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u64> = name.split('.').map(parse_v4_part).collect::<Option<_>>()?;
    let (last, front) = parts.split_last()?;
    if front.len() > 3 || front.iter().any(|part| *part > 255) {
        return None;
    }
    let room = 4 - front.len() as u32;
    if *last >= 256_u64.pow(room) {
        return None;
    }
    let head = front.iter().enumerate().fold(0, |sum, (i, part)| sum + (part << (8 * (3 - i))));
    u32::try_from(head + last).ok().map(Ipv4Addr::from)
}

fn parse_v4_part(part: &str) -> Option<u64> {
    let (digits, radix) = match part.strip_prefix("0x") {
        Some("") => ("0", 16),
        Some(hex) => (hex, 16),
        None if part.len() > 1 && part.starts_with('0') => (&part[1..], 8),
        None => (part, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

fn parse_v6(text: &str) -> Result<Host, HostError> {
    // A zone id names an interface of this machine, never another host: dropped.
    let bare = text.split('%').next().unwrap_or(text);
    bare.parse::<Ipv6Addr>().map(|v6| Host::from_ip(IpAddr::V6(v6))).map_err(|_| HostError::BadIpv6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(a: u8, b: u8, c: u8, d: u8) -> Host {
        Host::V4(Ipv4Addr::new(a, b, c, d))
    }

    #[test]
    fn every_spelling_of_an_ipv4_address_is_that_address() {
        // B6, B8
        for text in ["127.0.0.1", "2130706433", "0177.0.0.1", "127.1", "0x7f000001", "0x7f.1", "127.0.0.1."] {
            assert_eq!(Host::parse(text), Ok(v4(127, 0, 0, 1)), "{text}");
        }
        assert_eq!(Host::parse("0"), Ok(v4(0, 0, 0, 0)));
        assert_eq!(Host::parse("0x"), Ok(v4(0, 0, 0, 0)));
        for text in ["256.0.0.1", "1.2.3.4.5", "08", "4294967296", "a.1"] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mapped_and_scoped_ipv6_lose_their_disguise() {
        // B7
        assert_eq!(Host::parse("[::ffff:127.0.0.1]"), Ok(v4(127, 0, 0, 1)));
        assert_eq!(Host::parse("::1%lo"), Ok(Host::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(Host::parse("[::1"), Err(HostError::BadIpv6));
    }

    #[test]
    fn a_name_has_one_spelling() {
        // B8, B12
        let want = Host::parse("api.example.org").unwrap();
        assert_eq!(Host::parse("API.Example.ORG."), Ok(want));
        assert_eq!(Host::parse("bücher.example").unwrap().to_string(), "xn--bcher-kva.example");
        assert_eq!(Host::parse("xn--bcher-kva.example"), Host::parse("BÜCHER.example"));
    }

    #[test]
    fn what_another_parser_could_read_differently_is_refused() {
        // B9, B10
        assert_eq!(Host::parse("good.example@evil.example"), Err(HostError::UserInfo));
        for text in
            ["evil\0.example", "a b", "a/b", "a%2eb", "a_b.example", "ａ．example\0", "-a", "a-", "a..b", ".", ""]
        {
            assert!(Host::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_needs_a_label_boundary_and_one_label_more() {
        // B11
        let below = HostPattern::parse("*.example.org").unwrap();
        let says = |text| below.matches(&Host::parse(text).unwrap());
        assert!(says("a.example.org") && says("a.b.example.org"));
        assert!(!says("example.org") && !says("notexample.org") && !says("example.org.evil.net"));
        assert!(HostPattern::parse("*").is_err() && HostPattern::parse("a.*.org").is_err());
        assert!(HostPattern::parse("*.10.0.0.1").is_err());
    }

    #[test]
    fn an_authority_splits_at_the_port() {
        let port = |text| Host::parse_authority(text).map(|(_, port)| port);
        assert_eq!(port("a.example:8443"), Ok(Some(8443)));
        assert_eq!(port("[::1]:80"), Ok(Some(80)));
        assert_eq!(port("[::1]"), Ok(None));
        assert_eq!(port("a.example"), Ok(None));
        for text in ["a.example:", "a.example:+80", "a.example:65536", "a:b:c"] {
            assert!(port(text).is_err(), "{text}");
        }
    }
}
