//! Hosts that many share, labels below a wildcard, upstreams that are not in order, proxies of the host's, and names that
//! lead elsewhere: each in a world of its own.

use serde_json::{Value, json};

use super::Expect::{Kernel, Logged, NoName, Told, Works};
use super::{Round, Row, Variant, dns, get, h2, plain, py, row, tls, variant};
use crate::attack::{CANARY_IS_KNOWN, Outside};
use crate::world::{Person, REAL_KEY, STANDARD_ROUTES, World};

/// Hosts of the preset, and one whose route names an owner.
const FORGES: [&str; 4] = ["github.com", "api.github.com", "raw.githubusercontent.com", "forge.example"];

/// Settings that lead these names to the provider too, and what every group knows.
fn settings(world: &World, names: &[&str]) {
    let lines: String = names
        .iter()
        .map(|name| {
            let (at, dir) = (world.provider.tls_addr, world.dir.display());
            format!("  {name}: {{address: \"{at}\", tls: true, ca: \"{dir}/home/provider.pem\"}}\n")
        })
        .collect();
    world.settings(&(lines + CANARY_IS_KNOWN));
}

pub fn paths(person: Person) {
    let world = World::configured(person, |config| config.names.extend(FORGES.map(String::from)));
    settings(&world, &FORGES);
    world.bottle(
        "presets: [github-read]\negress:\n  routes:\n    - host: forge.example\n      matches:\n        - methods: [GET]\n          paths: [/acme]\n",
    );
    let outside = Outside::new(&world);
    Round::new(&world, &outside, "paths", person).judge(&[owners(), forges()]);
}

fn owners() -> Row {
    let ask = |target: &str| {
        tls(
            "forge.example",
            "forge.example",
            json!([[{"utf8": format!("GET {target} HTTP/1.1\r\nHost: forge.example\r\nConnection: close\r\n\r\n")}]]),
        )
    };
    let mut variants: Vec<Variant> = [
        "/evil/{mark}",
        "/acme/../evil/{mark}",
        "/acme/./../evil/{mark}",
        "/acme/%2e%2e/evil/{mark}",
        "/acme/%2E./evil/{mark}",
        "/acme/%252e%252e/evil/{mark}",
        "/acme/%25252e%25252e/evil/{mark}",
        "/acme/..;/evil/{mark}",
        "/acme/..;a=b/evil/{mark}",
        "/acme/..%3b/evil/{mark}",
        "/acme/..%2fevil/{mark}",
        "/acme/..%2Fevil/{mark}",
        "/acme/..%252fevil/{mark}",
        "/acme/..%5cevil/{mark}",
        "/acme/%c0%ae%c0%ae/evil/{mark}",
        "/acme/..%c0%afevil/{mark}",
        "/acme/%e0%80%ae%e0%80%ae/evil/{mark}",
        "/acme/%ef%bc%8e%ef%bc%8e/evil/{mark}",
        "/acme/..%ef%bc%8fevil/{mark}",
        "/acme/..%09/evil/{mark}",
        "/acme/..%20/evil/{mark}",
        "/acme/..%00/evil/{mark}",
        "/acme/%u002e%u002e/evil/{mark}",
        "/acme%2fevil/{mark}",
        "/acme%2f..%2fevil/{mark}",
        "/acme.evil/{mark}",
        "/acme-evil/{mark}",
        "/ACME/{mark}",
        "//evil/{mark}",
        "/acme//../../evil/{mark}",
        "/../acme/{mark}",
        "/%61cme/../evil/{mark}",
        "https://forge.example/evil/{mark}",
        "https://forge.example/acme/../evil/{mark}",
    ]
    .iter()
    .map(|target| variant(target.replace("{mark}", ""), ask(target), Told("request_not_allowed")))
    .collect();
    for target in ["/acme/..\\evil/{mark}", "/acme\\..\\evil\\{mark}"] {
        variants.push(variant(target.replace("{mark}", ""), ask(target), Told("request_not_allowed")));
    }
    variants.push(variant("\\evil/", ask("\\evil/{mark}"), Logged("protocol_refused", "forge.example".into())));
    let with = |line: &str, fields: &str| {
        tls(
            "forge.example",
            "forge.example",
            json!([format!(
                "{line} HTTP/1.1\r\nHost: forge.example\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n"
            )]),
        )
    };
    let refused = || Told("request_not_allowed");
    variants.extend([
        variant("another method", with("POST /acme/{mark}", ""), refused()),
        variant("a method in small letters", with("get /acme/{mark}", ""), refused()),
        variant(
            "a method that is asked for beside the line",
            with("GET /acme/{mark}", "X-HTTP-Method-Override: DELETE\r\n"),
            refused(),
        ),
        variant("a method that is asked for in the query", with("GET /acme/{mark}?_method=PUT", ""), refused()),
        variant(
            "a path that is asked for beside the line",
            with("GET /acme/{mark}", "X-Original-URL: /evil\r\n"),
            refused(),
        ),
        variant(
            "a path that is asked for with an underscore",
            with("GET /acme/{mark}", "X_Rewrite_Url: /evil\r\n"),
            refused(),
        ),
        variant(
            "over HTTP/2",
            h2(
                "forge.example",
                json!([["headers", 1, 5, super::fields("forge.example", "/acme/..%2fevil/{mark}", &[])]]),
            ),
            refused(),
        ),
        variant("the owner's own", ask("/acme/{mark}"), Works),
        variant("the owner's own by a longer way", ask("/acme/a/../{mark}"), Works),
        variant("the owner's own in escapes", ask("/%61cme/{mark}"), Works),
    ]);
    row("B40 a route that names an owner on a host that many share is not talked past", variants)
}

fn forges() -> Row {
    let ask = |host: &str, line: &str| {
        tls(
            host,
            host,
            json!([format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")]),
        )
    };
    let no = |host: &str, line: &str| {
        variant(
            format!("github-read: {} on {host}", line.replace("{mark}", "")),
            ask(host, line),
            Told("request_not_allowed"),
        )
    };
    let push = |line: &str| {
        variant(
            format!("github-read: {}", line.replace("{mark}", "")),
            ask("github.com", line),
            Told("git_push_not_allowed"),
        )
    };
    row(
        "B40 a preset that reads from a forge writes nothing to it",
        vec![
            no("api.github.com", "POST /gists?{mark}"),
            no("api.github.com", "GET /gists?{mark}"),
            no("api.github.com", "GET /repos/../gists?{mark}"),
            no("api.github.com", "GET /repos/%2e%2e/gists?{mark}"),
            no("api.github.com", "GET /repos/..;/gists?{mark}"),
            no("api.github.com", "POST /graphql?{mark}"),
            no("api.github.com", "PUT /repos/evil/drop/contents/{mark}"),
            no("api.github.com", "POST /repos/evil/drop/issues?{mark}"),
            no("api.github.com", "GET /repos/evil/drop?_method=DELETE&{mark}"),
            no("github.com", "GET /login/oauth/authorize?{mark}"),
            no("github.com", "POST /evil/drop/issues?{mark}"),
            no("github.com", "GET /a/b/raw/../../../gist/{mark}"),
            no("github.com", "GET /a/b%2f..%2f..%2fgist/{mark}"),
            no("raw.githubusercontent.com", "POST /a/b/{mark}"),
            push("GET /a/b/info/refs?service=git-receive-pack&{mark}"),
            push("GET /a/b/info/refs?service=git%2Dreceive%2Dpack&{mark}"),
            push("POST /a/b/git-receive-pack?{mark}"),
            push("POST /a/b/git-receive-pack/?{mark}"),
            push("POST /a/b/git%2dreceive-pack?{mark}"),
            push("POST /a/b/Git-Receive-Pack;x?{mark}"),
            variant("github-read: what it is for", ask("api.github.com", "GET /repos/a/b?{mark}"), Works),
            variant("github-read: a file", ask("raw.githubusercontent.com", "GET /a/b/main/{mark}"), Works),
        ],
    )
}

/// Digits and letters as data has them, from a small generator.
fn data(seed: u32, length: usize) -> String {
    let mut state = seed;
    let letters = b"abcdefghijklmnopqrstuvwxyz234567";
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(letters[(state >> 27) as usize])
    };
    (0..length).map(next).collect()
}

pub fn labels(person: Person) {
    let names = [
        "a.cdn.example",
        "assets-7.cdn.example",
        "d111111abcdef8.cdn.example",
        "exact-name-with-3b9d0c1f7a5e4426.example",
    ];
    let world = World::configured(person, |config| config.names.extend(names.map(String::from)));
    settings(&world, &names);
    let routes = "egress:\n  routes:\n    - host: '*.zone1.example'\n    - host: '*.zone2.example'\n    - host: '*.zone3.example'\n    \
                  - host: '*.zone4.example'\n    - host: '*.zone5.example'\n    - host: '*.cdn.example'\n    - host: exact-name-with-3b9d0c1f7a5e4426.example\n";
    world.bottle(routes);
    let outside = Outside::new(&world);
    // Fills a zone with names one after the other; gives how the last was answered: 0 is yes, 3 no such name.
    let fill = |names: &str| {
        py(format!(
            "def ask(n):\n q = b'\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0' + b''.join(bytes([len(l)]) + l.encode() for l in n.split('.')) + b'\\0\\0\\1\\0\\1'\n s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(8); s.sendto(q, ('198.18.0.1', 53)); a = s.recv(4096); s.close(); return a[3] & 15\n\
             import random\nrandom.seed(7)\ndef data(n): return ''.join(random.choice('abcdefghijklmnopqrstuvwxyz234567') for _ in range(n))\n\
             codes = [ask(n) for n in {names}]\nprint(sum(1 for c in codes if c == 0), codes[-1])\n"
        ))
    };
    let spent = |name: String| NoName("name_budget", name);
    let long = format!("{}.{}.zone4.example", data(3, 60), data(4, 60));
    let mut again = dns("n300.zone1.example", 1);
    again["alone"] = true.into();
    let rows = vec![row(
        "B30 what the labels below a wildcard can carry out is bounded for each zone",
        vec![
            variant("a name that is mostly data", dns(&long, 1), spent(long[..40].to_owned())),
            variant(
                "data in labels of eight",
                dns(&format!("{}.zone4.example", (0..13).map(|n| data(n, 8)).collect::<Vec<_>>().join(".")), 1),
                spent(data(0, 8)),
            ),
            variant(
                "hex in one label and a half",
                dns(
                    &format!("{}.{}.9a0c.zone4.example", "3f9a0c71be55d2e8".repeat(3), "90b1c2d3e4f5a617".repeat(3)),
                    28,
                ),
                spent("3f9a0c71be55d2e8".into()),
            ),
            variant(
                "three hundred short names of one zone",
                fill("[f'n{i}.zone1.example' for i in range(300)]"),
                Kernel(&["256 3"]),
            ),
            variant(
                "words to the last octet of a zone",
                fill(
                    "[f'the-quick-brown-fox-and-the-lazy-dog-{chr(97 + i // 26)}{chr(97 + i % 26)}.zone2.example' for i in range(200)]",
                ),
                Kernel(&["105 3"]),
            ),
            variant(
                "names of which each is data to a part",
                fill("[data(40) + '.zone3.example' for i in range(60)]"),
                Kernel(&["25 3"]),
            ),
            variant("a zone that is spent, asked again", again, spent("n300.zone1.example".into())),
            variant(
                "names of a content network pass",
                fill("[f'd{i:07d}abcdef8.cdn.example' for i in range(60)] + ['assets-7.cdn.example', 'a.cdn.example']"),
                Kernel(&["62 0"]),
            ),
            variant(
                "a name that an exact route has is not counted",
                tls(names[3], names[3], get("/sink/{mark}", &[names[3]])),
                Works,
            ),
            variant(
                "a host of a content network is served",
                tls(names[2], names[2], get("/sink/{mark}", &[names[2]])),
                Works,
            ),
        ],
    )];
    Round::new(&world, &outside, "labels", person).judge(&rows);
}

pub fn upstreams(person: Person) {
    let world = World::new(person);
    let (secure, open, dir) = (world.provider.tls_addr, world.provider.addr, world.dir.display().to_string());
    let more = format!(
        "  unknown-ca.example: {{address: \"{secure}\", tls: true}}\n  \
         other-name.example: {{address: \"{secure}\", tls: true, ca: \"{dir}/home/provider.pem\"}}\n  \
         no-tls.example: {{address: \"{open}\", tls: true, ca: \"{dir}/home/provider.pem\"}}\n{CANARY_IS_KNOWN}"
    );
    world.settings(&more);
    let route =
        |host: &str| format!("    - host: {host}\n      auth_scheme: Bearer\n      token_env: ANTHROPIC_API_KEY\n");
    world.bottle(&format!(
        "egress:\n  routes:\n{}{}{}",
        route("unknown-ca.example"),
        route("other-name.example"),
        route("no-tls.example")
    ));
    let outside = Outside::new(&world);
    let mut variants = Vec::new();
    for (host, code) in [
        ("unknown-ca.example", "upstream_certificate"),
        ("other-name.example", "upstream_certificate"),
        ("no-tls.example", "upstream_unreachable"),
    ] {
        let h2_get = h2(host, json!([["headers", 1, 5, super::fields(host, "/{mark}", &[])]]));
        variants.push(variant(format!("{host} over HTTP/1.1"), tls(host, host, get("/{mark}", &[host])), Told(code)));
        variants.push(variant(format!("{host} over HTTP/2"), h2_get, Told(code)));
        variants.push(variant(
            format!("{host} in plain text from inside"),
            plain(host, 80, get("/{mark}", &[host])),
            Told(code),
        ));
        variants.push(variant(
            format!("{host} with a body"),
            tls(host, host, super::post(host, "/{mark}", json!("a body"))),
            Told(code),
        ));
    }
    Round::new(&world, &outside, "upstreams", person).judge(&[row(
        "B58 an upstream whose certificate does not hold is never spoken to, nor in plain text",
        variants,
    )]);
    assert_eq!(world.provider.requests(), 0);
}

pub fn proxies(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let outside = Outside::new(&world);
    let (lan, port) = super::split(outside.v4());
    let model = "api.anthropic.com";
    let inside: Value =
        py("bad = [n for n in os.environ if n.lower().endswith('_proxy')]\nprint(bad if bad else 'none')");
    let rows = [row(
        "B34 no proxy of the host's stands between the gateway and an upstream: the address that is checked is dialled",
        vec![
            variant("https", tls("notes.example", "notes.example", get("/sink/{mark}", &["notes.example"])), Works),
            variant("plain http", plain("plain.example", 80, get("/sink/{mark}", &["plain.example"])), Works),
            variant("a model, with its key", tls(model, model, get("/v1/models?{mark}", &[model])), Works),
            variant("HTTP/2", super::h2_get("notes.example", "notes.example", "/sink/{mark}", &[]), Works),
            variant(
                "what is refused without one",
                plain(&lan, port, get("/{mark}", &["notes.example"])),
                Told("address_not_allowed"),
            ),
            variant("the variables do not come inside", inside, Kernel(&["none"])),
        ],
    )];
    let mut round = Round::new(&world, &outside, "proxies", person);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "FTP_PROXY"] {
        round = round.env(name, format!("http://{lan}:{port}"));
    }
    for name in ["ALL_PROXY", "all_proxy"] {
        round = round.env(name, format!("socks5h://{lan}:{port}"));
    }
    // What would exempt the provider's address is empty.
    round.env("NO_PROXY", "").env("no_proxy", "").judge(&rows);
    assert!(world.provider.received().iter().any(|r| r.authority == model && r.contains(REAL_KEY.as_bytes())));
}

pub fn rebound(person: Person) {
    let mut world = World::new(person);
    let outside = Outside::new(&world);
    let (lan, _) = super::split(outside.v4());
    let places = [
        ("loopback.example", "127.0.0.1"),
        ("loopback-two.example", "127.8.8.8"),
        ("zero.example", "0.0.0.0"),
        ("loopback-six.example", "::1"),
        ("mapped.example", "::ffff:127.0.0.1"),
        ("metadata.example", "169.254.169.254"),
        ("metadata-azure.example", "168.63.129.16"),
        ("metadata-alibaba.example", "100.100.100.200"),
        ("metadata-six.example", "fd00:ec2::254"),
        ("link.example", "fe80::1"),
        ("broadcast.example", "255.255.255.255"),
        ("multicast.example", "224.0.0.251"),
        ("private.example", "10.255.255.254"),
        ("unique.example", "fdff::1"),
        ("shared.example", "100.64.0.1"),
        ("pool.example", "198.18.0.9"),
        ("lan.example", lan.as_str()),
    ];
    let file: String = places.iter().map(|(name, ip)| format!("{ip} {name}\n")).collect();
    world.write("hosts", &file);
    world.hosts = Some(world.dir.join("hosts"));
    world.settings(CANARY_IS_KNOWN);
    let routes: String = places.iter().map(|(name, _)| format!("    - host: {name}\n")).collect();
    world.bottle(&format!("{STANDARD_ROUTES}{routes}"));
    let mut variants: Vec<Variant> = Vec::new();
    for (name, ip) in places {
        let what = if name == "lan.example" { "the host's own address" } else { ip };
        variants.push(variant(
            format!("a name for {what}, by TLS"),
            tls(name, name, get("/{mark}", &[name])),
            Told("address_not_public"),
        ));
        variants.push(variant(
            format!("a name for {what}, in plain text"),
            plain(name, 80, get("/{mark}", &[name])),
            Told("address_not_public"),
        ));
    }
    variants.push(variant(
        "an honest name still leads where it should",
        tls("notes.example", "notes.example", get("/sink/{mark}", &["notes.example"])),
        Works,
    ));
    Round::new(&world, &outside, "rebound", person)
        .judge(&[row("B31 a name that leads into this machine or somebody's network is not dialled", variants)]);
}
