//! The nf_tables rules of a bottle, all of them in the output hook of its own network namespace.
//!
//! ```text
//! nat    : 127.0.0.0/8, ::1 accept · tcp → redirect to the gateway's port
//! filter : tcp accept · 127.0.0.0/8, ::1 accept · udp 53 both ways accept · unreachable-errors accept · reject
//! ```
//!
//! The filter's policy is drop, so that a rule that is missing closes and never opens. Nothing could leave anyway: the
//! namespace has no device but `lo`. What the rules give is that every TCP port is captured (B3, B4) and that
//! everything else fails at once instead of hanging, so that QUIC falls back to TCP (B27).

use std::io;

use super::netlink::{APPEND, Answer, Attributes, CREATE, Messages, netfilter_socket};

const TABLE: &str = "carboy";
const INET: u8 = 1;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const HOOK_OUTPUT: u32 = 3;
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What a packet is compared with.
enum Test {
    V4,
    V6,
    Transport(u8),
    /// Base (1 network, 2 transport header), offset, expected octets.
    Octets(u32, u32, &'static [u8]),
}

enum Then {
    Accept,
    RedirectTcp(u16),
    Reject,
}

/// Loads the rules; TCP goes to `port`. An error means that this kernel has no nf_tables with NAT.
pub fn load(port: u16) -> io::Result<()> {
    let socket = netfilter_socket()?;
    let mut messages = Messages::default();
    let frame = [0, 0, 0, SUBSYSTEM as u8];
    messages.add(BATCH_BEGIN, 0, Answer::None, &frame, |_| {});
    let family = [INET, 0, 0, 0];
    messages.add(NEW_TABLE, CREATE, Answer::Awaited, &family, |a| {
        a.text(1, TABLE);
        a.number(2, 0);
    });
    chain(&mut messages, "nat", "nat", -100, 1);
    chain(&mut messages, "filter", "filter", 0, 0);
    for (chain, tests, then) in rules(port) {
        messages.add(NEW_RULE, CREATE | APPEND, Answer::Awaited, &family, |a| {
            a.text(1, TABLE);
            a.text(2, chain);
            a.nest(4, |list| {
                tests.iter().for_each(|test| put_test(list, test));
                put_then(list, &then);
            });
        });
    }
    messages.add(BATCH_END, 0, Answer::None, &frame, |_| {});
    messages.exchange(&socket)
}

fn rules(port: u16) -> Vec<(&'static str, Vec<Test>, Then)> {
    use Test::{Octets, Transport, V4, V6};
    const LOOPBACK_V6: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const DNS: &[u8] = &[0, 53];
    let loopback_v4 = || vec![V4, Octets(1, 16, &[127])];
    let loopback_v6 = || vec![V6, Octets(1, 24, LOOPBACK_V6)];
    vec![
        ("nat", loopback_v4(), Then::Accept),
        ("nat", loopback_v6(), Then::Accept),
        ("nat", vec![Transport(TCP)], Then::RedirectTcp(port)),
        ("filter", vec![Transport(TCP)], Then::Accept),
        ("filter", loopback_v4(), Then::Accept),
        ("filter", loopback_v6(), Then::Accept),
        ("filter", vec![Transport(UDP), Octets(2, 2, DNS)], Then::Accept),
        ("filter", vec![Transport(UDP), Octets(2, 0, DNS)], Then::Accept),
        // The errors that `reject` itself sends; a bottle has no raw sockets to send its own.
        ("filter", vec![V4, Transport(ICMP), Octets(2, 0, &[3])], Then::Accept),
        ("filter", vec![V6, Transport(ICMPV6), Octets(2, 0, &[1])], Then::Accept),
        ("filter", vec![], Then::Reject),
    ]
}

fn chain(messages: &mut Messages, name: &str, kind: &str, priority: i32, policy: u32) {
    messages.add(NEW_CHAIN, CREATE, Answer::Awaited, &[INET, 0, 0, 0], |a| {
        a.text(1, TABLE);
        a.text(3, name);
        a.nest(4, |hook| {
            hook.number(1, HOOK_OUTPUT);
            hook.put(2, &priority.to_be_bytes());
        });
        a.number(5, policy);
        a.text(7, kind);
    });
}

fn expression(list: &mut Attributes, name: &str, data: impl FnOnce(&mut Attributes)) {
    list.nest(1, |e| {
        e.text(1, name);
        e.nest(2, data);
    });
}

fn put_test(list: &mut Attributes, test: &Test) {
    const META_NFPROTO: u32 = 15;
    const META_L4PROTO: u32 = 16;
    match test {
        Test::V4 => meta(list, META_NFPROTO, 2),
        Test::V6 => meta(list, META_NFPROTO, 10),
        Test::Transport(protocol) => meta(list, META_L4PROTO, *protocol),
        Test::Octets(base, offset, expected) => {
            expression(list, "payload", |d| {
                d.number(1, REGISTER);
                d.number(2, *base);
                d.number(3, *offset);
                d.number(4, expected.len() as u32);
            });
            equals(list, expected);
        }
    }
}

fn meta(list: &mut Attributes, key: u32, expected: u8) {
    expression(list, "meta", |d| {
        d.number(1, REGISTER);
        d.number(2, key);
    });
    equals(list, &[expected]);
}

fn equals(list: &mut Attributes, expected: &[u8]) {
    expression(list, "cmp", |d| {
        d.number(1, REGISTER);
        d.number(2, 0);
        d.nest(3, |v| v.put(1, expected));
    });
}

fn put_then(list: &mut Attributes, then: &Then) {
    const ACCEPT: u32 = 1;
    const ICMPX: u32 = 2;
    const PORT_UNREACHABLE: u8 = 1;
    match then {
        Then::Accept => expression(list, "immediate", |d| {
            d.number(1, VERDICT_REGISTER);
            d.nest(2, |v| v.nest(2, |code| code.number(1, ACCEPT)));
        }),
        Then::RedirectTcp(port) => {
            expression(list, "immediate", |d| {
                d.number(1, REGISTER);
                d.nest(2, |v| v.put(1, &port.to_be_bytes()));
            });
            expression(list, "redir", |d| d.number(1, REGISTER));
        }
        Then::Reject => expression(list, "reject", |d| {
            d.number(1, ICMPX);
            d.put(2, &[PORT_UNREACHABLE]);
        }),
    }
}
