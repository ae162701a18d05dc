//! A secret in pieces: over chunks, records, frames and pauses, and where the gate first opens.

use std::net::SocketAddr;

use carboy_sim::probe::{Hello, Order};

use crate::attack::{Attack, CANARY_IS_KNOWN, hello, pieces};
use crate::http2;
use crate::world::{CANARY, Person, World};
use crate::{Case, case};

/// What is scanned before any head goes out, in bytes.
const GATE_BYTES: usize = 64 * 1024;
/// So much of the secret at the provider would be a leak already.
const TELLING_BYTES: usize = 10;

pub fn cases() -> Vec<Case> {
    vec![
        case("B36 a secret split over chunks is found", chunks),
        case("B36 a secret split over TLS records and pauses is found", records),
        case("B36 a secret split over HTTP/2 frames is found", frames),
        case("B36 a secret across the edge of the gate is found", edge_of_the_gate),
        case("B36 a split secret is overwritten where the route says so", redacted_in_pieces),
    ]
}

fn world_that_knows(person: Person) -> World {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    world
}

/// Not even a beginning of the secret arrived.
fn assert_no_part_arrived(world: &World) {
    for request in world.provider.received() {
        for part in CANARY.as_bytes().windows(TELLING_BYTES) {
            assert!(!request.contains(part), "{} of the secret arrived", String::from_utf8_lossy(part));
        }
    }
}

/// The head of a request and a body of known length.
fn with_length(path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: notes.example\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// The head of a request, and the body in chunks of these sizes, over and over.
fn in_chunks(path: &str, body: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: notes.example\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let mut out = vec![head.into_bytes()];
    let (mut rest, mut sizes) = (body, sizes.iter().cycle());
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        out.push([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        rest = after;
    }
    out.push(b"0\r\n\r\n".to_vec());
    out
}

fn secure(address: SocketAddr, parts: Vec<Vec<u8>>) -> Order {
    pieces(address, Some(hello("notes.example")), parts)
}

fn padded(before: usize, after: usize) -> Vec<u8> {
    let fill = |n: usize| b"harmless words, "[..].iter().copied().cycle().take(n).collect::<Vec<u8>>();
    [fill(before), CANARY.into(), fill(after)].concat()
}

fn chunks(person: Person) {
    let world = world_that_knows(person);
    let mut attack = Attack::new(&world, None);
    let notes = attack.at("notes.example", 443);
    let body = padded(100, 100);
    for sizes in [&[1][..], &[2], &[7], &[16], &[100 + CANARY.len() / 2], &[101, 1], &[3, 50, 1]] {
        let path = format!("/sink/chunks/{}", sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("-"));
        let parts = in_chunks(&path, &body, sizes);
        attack.refused(&path, &secure(notes, vec![parts.concat()]), "secret_known", &format!("\"path\":\"{path}\""));
        let path = format!("{path}/apart");
        attack.refused(
            &path,
            &secure(notes, in_chunks(&path, &body, sizes)),
            "secret_known",
            &format!("\"path\":\"{path}\""),
        );
    }
    // Chunk extensions and trailers are places too.
    let (front, back) = CANARY.split_at(18);
    let head = "POST /sink/trailers HTTP/1.1\r\nHost: notes.example\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let trailer = format!("{head}4\r\nnote\r\n0\r\nX-Note: {CANARY}\r\n\r\n");
    attack.refused("in a trailer", &secure(notes, vec![trailer.into_bytes()]), "secret_known", "/sink/trailers");
    attack.finish();
    assert_eq!(world.provider.requests(), 0);

    // An extension is of one hop alone: it never goes on.
    let mut attack = Attack::new(&world, None);
    let notes = attack.at("notes.example", 443);
    let head = head.replace("trailers", "extensions");
    let extension = format!("{head}4;x={front}\r\nnote\r\n4;y={back}\r\nnote\r\n0\r\n\r\n");
    attack.order(&secure(notes, vec![extension.into_bytes()]));
    attack.finish();
    assert_no_part_arrived(&world);
}

fn records(person: Person) {
    let world = world_that_knows(person);
    let mut attack = Attack::new(&world, None);
    let notes = attack.at("notes.example", 443);
    for size in [1, 3, 16, CANARY.len() - 1] {
        let path = format!("/sink/records/{size}");
        let request = with_length(&path, &padded(40, 40));
        let parts = request.chunks(size).map(<[u8]>::to_vec).collect();
        attack.refused(&path, &secure(notes, parts), "secret_known", &format!("\"path\":\"{path}\""));
    }
    // In the middle of a header field, and of the request line.
    let field =
        format!("GET /sink/field HTTP/1.1\r\nHost: notes.example\r\nConnection: close\r\nX-Note: {CANARY}\r\n\r\n");
    let line = format!("GET /sink/line?note={CANARY} HTTP/1.1\r\nHost: notes.example\r\nConnection: close\r\n\r\n");
    for (what, text) in [("/sink/field", field), ("/sink/line", line)] {
        let parts = text.as_bytes().chunks(5).map(<[u8]>::to_vec).collect();
        attack.refused(what, &secure(notes, parts), "secret_known", what);
    }
    // A pause longer than the gate's patience in the middle of it.
    let half = CANARY.len() / 2;
    for (what, parts) in [
        ("/sink/pause/chunked", in_chunks("/sink/pause/chunked", &padded(10, 10), &[10 + half, 1000])),
        ("/sink/pause/letters", in_chunks("/sink/pause/letters", &padded(0, 0), &[6])),
        (
            "/sink/pause/length",
            with_length("/sink/pause/length", &padded(10, 10)).chunks(120).map(<[u8]>::to_vec).collect(),
        ),
    ] {
        let order = Order::Raw {
            address: notes,
            tls: Some(hello("notes.example")),
            pieces: parts,
            pause_ms: 120,
            quiet_ms: 1_500,
        };
        attack.refused(what, &order, "secret_known", &format!("\"path\":\"{what}\""));
    }
    attack.finish();
    assert_no_part_arrived(&world);
}

fn frames(person: Person) {
    let world = world_that_knows(person);
    let mut attack = Attack::new(&world, None);
    let notes = attack.at("notes.example", 443);
    let over = |parts| http2::over(notes, "notes.example", parts);
    let body = padded(30, 30);
    for size in [1, 5, 16, 30 + CANARY.len() / 2] {
        for padding in [0, 9] {
            let path = format!("/sink/frames/{size}/{padding}");
            let parts: Vec<&[u8]> = body.chunks(size).collect();
            let mut request = http2::request("POST", "notes.example", &path, &[], &[]);
            // Without the mark of the end, so that a body can follow.
            request[1][4] &= !1;
            request.extend(http2::data(&parts, padding));
            attack.closed(&path, &over(request), "secret_known", &format!("\"path\":\"{path}\""));
        }
    }
    for size in [20, 90] {
        let path = format!("/sink/continued/{size}");
        let request = http2::request_in_continuations("notes.example", &path, &[("x-note", CANARY)], size);
        attack.closed(&path, &over(request), "secret_known", &format!("\"path\":\"{path}\""));
    }
    // A pause longer than the gate's patience between two frames.
    let half = 30 + CANARY.len() / 2;
    let request = http2::request("POST", "notes.example", "/sink/frames/pause", &[], &[&body[..half], &body[half..]]);
    let tls = Some(Hello { alpn: vec!["h2".into()], ..hello("notes.example") });
    let order = Order::Raw { address: notes, tls, pieces: request, pause_ms: 120, quiet_ms: 300 };
    attack.closed("a pause", &order, "secret_known", "/sink/frames/pause");
    attack.finish();
    assert_no_part_arrived(&world);
}

fn edge_of_the_gate(person: Person) {
    let world = world_that_knows(person);
    let mut attack = Attack::new(&world, None);
    let notes = attack.at("notes.example", 443);
    // So many bytes of the secret stand before the edge; of the last, all but its beginning stands far behind it.
    let before = [0, 1, TELLING_BYTES, CANARY.len() / 2, CANARY.len() - 1, CANARY.len()];
    for inside in before {
        let body = padded(GATE_BYTES - inside, 200);
        let path = format!("/sink/edge/length/{inside}");
        attack.refused(
            &path,
            &secure(notes, vec![with_length(&path, &body)]),
            "secret_known",
            &format!("\"path\":\"{path}\""),
        );
        let path = format!("/sink/edge/chunks/{inside}");
        let parts = in_chunks(&path, &body, &[GATE_BYTES - 5, 3, 1, 1]);
        attack.refused(&path, &secure(notes, vec![parts.concat()]), "secret_known", &format!("\"path\":\"{path}\""));
    }
    // Far behind the gate, at the end, and across the sizes in which bodies are read.
    for (far, after) in [(2 * GATE_BYTES - 7, 0), (GATE_BYTES + 16_384 - 3, 1), (3 * GATE_BYTES, 70_000)] {
        let path = format!("/sink/far/{far}");
        attack.refused(
            &path,
            &secure(notes, vec![with_length(&path, &padded(far, after))]),
            "secret_known",
            &format!("\"path\":\"{path}\""),
        );
    }
    attack.finish();
    assert_no_part_arrived(&world);
}

fn redacted_in_pieces(person: Person) {
    let world = world_that_knows(person);
    world.bottle("egress:\n  routes:\n    - host: notes.example\n      dlp: {outbound_on_match: redact}\n");
    let mut attack = Attack::new(&world, None);
    let notes = attack.at("notes.example", 443);
    let mut sent = Vec::new();
    for (path, before, size) in
        [("/sink/redact/1", 20, 1), ("/sink/redact/9", 20, 9), ("/sink/redact/edge", GATE_BYTES - 9, 4000)]
    {
        let body = padded(before, 30);
        attack.works(path, &secure(notes, in_chunks(path, &body, &[size])));
        sent.push((path, body.len()));
    }
    let ran = attack.finish();
    assert_no_part_arrived(&world);
    let received = world.provider.received();
    for (path, length) in sent {
        let request = received.iter().find(|r| r.path == path).unwrap();
        assert_eq!(request.body_len, length as u64, "{path}: redaction keeps the length");
        let noted = ran.entries.iter().any(|e| {
            let line = String::from_utf8(e.to_line()).unwrap();
            line.contains(path) && line.contains("known_secret:DEPLOY_TOKEN")
        });
        assert!(noted, "{path}: {:#?}", ran.entries);
    }
}
