//! What the attack tests share: listeners on the host's own addresses, requests that no well-behaved client sends, and
//! one attack after the other from inside one bottle, each with what it has to come to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use carboy_sim::Origin;
use carboy_sim::probe::{Hello, Order, Report, ServerNameField};

use crate::world::{Agent, CANARY, REAL_KEY, REAL_OPENAI_KEY, Ran, World, reason};

/// Reading of a raw answer ends after so long without a byte: answers come at once or not at all.
const QUIET_MS: u64 = 1_500;
/// Wait for a datagram that may never come.
const DATAGRAM_WAIT_MS: u64 = 2_000;
/// What every HTTP/1 answer of the provider has in its head.
const FROM_PROVIDER: &str = "\nx-simulated: ";
/// The name server that bottles are told of.
pub const NAME_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), 53);
/// Settings that make the canary text a secret that the run knows.
pub const CANARY_IS_KNOWN: &str = "secrets:\n  DEPLOY_TOKEN: {env: HOST_CANARY}\n";

/// Listeners on the host's addresses other than loopback, as far as it has any.
pub struct Outside {
    v4: Option<Origin>,
    v6: Option<Origin>,
}

impl Outside {
    pub fn new(world: &World) -> Outside {
        let listen = |ip: Option<IpAddr>| ip.and_then(|ip| world.block_on(Origin::start(ip)).ok());
        Outside { v4: listen(own_address("203.0.113.9:9")), v6: listen(own_address("[2001:db8::9]:9")) }
    }

    /// Where the host listens, or an address of documentation where it has none.
    pub fn v4(&self) -> SocketAddr {
        self.v4.as_ref().map_or(SocketAddr::from((Ipv4Addr::new(203, 0, 113, 9), 8080)), |origin| origin.tcp_addr)
    }

    /// The same in IPv6.
    pub fn v6(&self) -> SocketAddr {
        let nowhere = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9), 8080));
        self.v6.as_ref().map_or(nowhere, |origin| origin.tcp_addr)
    }

    /// The four bytes of [`Outside::v4`].
    pub fn octets(&self) -> [u8; 4] {
        match self.v4().ip() {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(_) => unreachable!("it is made of an IPv4 address"),
        }
    }

    pub fn assert_untouched(&self) {
        for origin in [&self.v4, &self.v6].into_iter().flatten() {
            let (tcp, udp) = (origin.connections(), origin.datagrams());
            assert!(origin.is_untouched(), "{} was reached: {tcp} connections, {udp} datagrams", origin.tcp_addr);
        }
    }
}

/// The host's own address on the way to `there`; nothing is sent.
fn own_address(there: &str) -> Option<IpAddr> {
    let local = if there.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(local).ok()?;
    socket.connect(there).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// Does this kernel have IPv6 at all?
pub fn has_v6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

/// Bytes over a plain connection.
pub fn plain(address: SocketAddr, bytes: impl Into<Vec<u8>>) -> Order {
    pieces(address, None, vec![bytes.into()])
}

/// Bytes over TLS with this server name.
pub fn tls(address: SocketAddr, name: &str, bytes: impl Into<Vec<u8>>) -> Order {
    pieces(address, Some(hello(name)), vec![bytes.into()])
}

/// Several writes, one after the other.
pub fn pieces(address: SocketAddr, tls: Option<Hello>, pieces: Vec<Vec<u8>>) -> Order {
    Order::Raw { address, tls, pieces, pause_ms: 0, quiet_ms: QUIET_MS }
}

/// A handshake that names this host.
pub fn hello(name: &str) -> Hello {
    Hello { name: name.to_owned(), server_name: ServerNameField::Sent, alpn: Vec::new() }
}

/// A GET request of HTTP/1.1 with these `Host` fields.
pub fn get(target: &str, hosts: &[&str]) -> Vec<u8> {
    let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
    format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n").into_bytes()
}

/// A DNS query (RFC 1035, 4.1) of class IN.
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    query
}

/// A DNS query by datagram.
pub fn ask(server: SocketAddr, query: Vec<u8>) -> Order {
    Order::Datagram { address: server, send: query, wait_ms: DATAGRAM_WAIT_MS }
}

/// The reason that a refusal names, in whatever form the answer came.
pub fn why(report: &Report) -> Option<String> {
    let raw = || report.body.lines().find_map(|line| line.strip_prefix("x-carboy-reason: "));
    reason(report).or_else(raw).map(|text| text.trim().to_owned())
}

/// Attacks from inside one bottle. Nothing is judged before the end, so that one run shows everything that is wrong.
pub struct Attack<'w> {
    world: &'w World,
    outside: Option<&'w Outside>,
    agent: Agent<'w>,
    /// What was tried, the reason that the log has to give, and words of that entry.
    in_log: Vec<(String, &'static str, String)>,
    wrong: Vec<String>,
}

impl<'w> Attack<'w> {
    pub fn new(world: &'w World, outside: Option<&'w Outside>) -> Attack<'w> {
        Attack { world, outside, agent: world.agent(), in_log: Vec::new(), wrong: Vec::new() }
    }

    /// Does something, whatever comes of it.
    pub fn order(&mut self, order: &Order) -> Report {
        self.agent.order(order)
    }

    /// The agent is told the reason, and the log has it in an entry with these words.
    pub fn refused(&mut self, what: &str, order: &Order, code: &'static str, words: &str) {
        let report = self.agent.order(order);
        if why(&report).as_deref() != Some(code) {
            self.wrong.push(format!("{what}: not told {code}: {}", brief(&report)));
        }
        self.in_log.push((what.to_owned(), code, words.to_owned()));
    }

    /// Nothing is answered; the log has the reason.
    pub fn closed(&mut self, what: &str, order: &Order, code: &'static str, words: &str) {
        let report = self.agent.order(order);
        if report.status.is_some() || from_provider(&report) {
            self.wrong.push(format!("{what}: answered: {}", brief(&report)));
        }
        self.in_log.push((what.to_owned(), code, words.to_owned()));
    }

    /// The provider answers the first request of a connection; the next one is refused with this reason.
    pub fn refused_after_one(&mut self, what: &str, order: &Order, code: &'static str, words: &str) {
        let report = self.agent.order(order);
        if report.body.matches(FROM_PROVIDER).count() != 1 || why(&report).as_deref() != Some(code) {
            self.wrong.push(format!("{what}: not one answer and then {code}: {}", brief(&report)));
        }
        self.in_log.push((what.to_owned(), code, words.to_owned()));
    }

    /// It fails inside: there is nothing there to reach, and nobody to ask.
    pub fn nothing_there(&mut self, what: &str, order: &Order) {
        let report = self.agent.order(order);
        if report.error.is_none() || report.status.is_some() {
            self.wrong.push(format!("{what}: no failure: {}", brief(&report)));
        }
    }

    /// The query is answered with "no such name" (3) and no record; the log has the reason.
    pub fn no_such_name(&mut self, what: &str, order: &Order, code: &'static str, words: &str) {
        let report = self.agent.order(order);
        // Over TCP a message stands behind its length.
        let framed = if matches!(order, Order::Raw { .. }) { 2 } else { 0 };
        let bytes = report.bytes.get(framed..).unwrap_or_default();
        let records = bytes.get(6..8).map(|n| u16::from_be_bytes([n[0], n[1]]));
        if bytes.get(3).map(|b| b & 0x0f) != Some(3) || records != Some(0) {
            self.wrong.push(format!("{what}: not NXDOMAIN without records: {}", brief(&report)));
        }
        self.in_log.push((what.to_owned(), code, words.to_owned()));
    }

    /// The provider answers: the test's own means are not what stops the attacks.
    pub fn works(&mut self, what: &str, order: &Order) {
        let report = self.agent.order(order);
        if !from_provider(&report) {
            self.wrong.push(format!("{what}: not answered by the provider: {}", brief(&report)));
        }
    }

    /// The address that DNS gives for an allowed name, with this port.
    pub fn at(&mut self, name: &str, port: u16) -> SocketAddr {
        let report = self.agent.order(&ask(NAME_SERVER, query(name, 1)));
        let Some(last) = report.bytes.last_chunk::<4>().filter(|_| report.bytes.get(7) == Some(&1)) else {
            panic!("{name} has no address inside: {}", brief(&report));
        };
        SocketAddr::from((*last, port))
    }

    /// Lets the agent end and judges all of it.
    pub fn finish(mut self) -> Ran {
        let ran = self.agent.finish();
        let lines: Vec<(Option<&str>, String)> = ran
            .entries
            .iter()
            .map(|e| (e.detail("reason").and_then(|r| r.as_str()), String::from_utf8(e.to_line()).unwrap()))
            .collect();
        for (what, code, words) in &self.in_log {
            if !lines.iter().any(|(reason, line)| *reason == Some(code) && line.contains(words.as_str())) {
                self.wrong.push(format!("{what}: no entry with {code} and {words:?}"));
            }
        }
        let log: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
        assert!(
            self.wrong.is_empty(),
            "{}\n\nlog: {}/home/audit\nstderr:\n{}",
            self.wrong.join("\n"),
            self.world.dir.display(),
            ran.stderr
        );
        for secret in [CANARY, REAL_KEY, REAL_OPENAI_KEY] {
            assert!(!log.contains(secret), "{secret} stands in the log");
        }
        self.world.assert_nothing_escaped();
        if let Some(outside) = self.outside {
            outside.assert_untouched();
        }
        ran
    }
}

fn from_provider(report: &Report) -> bool {
    report.body.contains(FROM_PROVIDER) || report.headers.contains_key("x-simulated")
}

fn brief(report: &Report) -> String {
    let text: String = report.body.chars().take(300).collect();
    format!("status {:?}, error {:?}, {} bytes, {text:?}", report.status, report.error, report.bytes.len())
}
