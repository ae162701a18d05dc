//! Bodies and connections as real clients use them: streams that arrive as they are sent, large ones, encoded ones,
//! redirects, and protocols that are refused in words.

use serde_json::Value;

use crate::world::{CANARY, Person, REAL_KEY, World};
use crate::{Case, case_with};

/// SHA-256 of the first 64 MiB of the provider's `/bytes` with seed 7.
const BYTES_64_MIB_SEED_7: &str = "4d5594a6496cfe96502c6d52d756d0f35a0b861260a4350761bac3f94c4e0ce8";

pub fn cases() -> Vec<Case> {
    vec![
        case_with("a model's stream arrives event by event", &["/usr/bin/python3"], stream_arrives_as_it_is_sent),
        case_with("64 MiB come down unchanged", &["curl"], large_download),
        case_with("64 MiB go up unchanged", &["curl"], large_upload),
        case_with("an encoded answer is decoded by the client as if nobody stood between", &["curl"], encoded_answers),
        case_with("a client that waits for 100 Continue sends its body", &["curl"], expect_continue),
        case_with("B24 a websocket is refused in words", &["curl"], websocket),
        case_with("B33 a followed redirect is a new decision, and no credential goes along", &["curl"], redirects),
    ]
}

fn stream_arrives_as_it_is_sent(person: Person) {
    let world = World::new(person);
    let ran = world
        .run(&[
            "/usr/bin/python3",
            "-c",
            "import json, os, time, urllib.request\n\
             h = {'x-api-key': os.environ['ANTHROPIC_API_KEY'], 'anthropic-version': '2023-06-01', 'x-sim-fault': 'pace-ms=100'}\n\
             b = {'model': 'm', 'max_tokens': 64, 'stream': True, 'messages': [{'role': 'user', 'content': 'hi'}]}\n\
             q = urllib.request.Request('https://api.anthropic.com/v1/messages', json.dumps(b).encode(), h)\n\
             at = []\n\
             for line in urllib.request.urlopen(q):\n\
             \x20   if line.startswith(b'event:'): at.append(time.monotonic())\n\
             gaps = [b - a for a, b in zip(at, at[1:])]\n\
             print(json.dumps({'events': len(at), 'seconds': at[-1] - at[0], 'longest': max(gaps)}))",
        ])
        .expect_code(0);
    let seen: Value = serde_json::from_str(&ran.stdout).unwrap();
    let events = seen["events"].as_f64().unwrap();
    // Each event waits 100 ms at the provider: had the stream been held back, all would come at once.
    assert!(events > 10.0, "{seen}");
    assert!(seen["seconds"].as_f64().unwrap() > 0.08 * (events - 1.0), "{seen}");
    assert!(seen["longest"].as_f64().unwrap() < 0.6, "{seen}");
}

fn large_download(person: Person) {
    let world = World::new(person);
    let ran = world.sh("curl -sS 'https://notes.example/bytes/67108864?seed=7' | sha256sum").expect_code(0);
    assert_eq!(ran.stdout.split_whitespace().next(), Some(BYTES_64_MIB_SEED_7));
    assert_eq!(ran.summary["bytes_in"], 64 << 20);
}

fn large_upload(person: Person) {
    let world = World::new(person);
    let script = "head -c 67108864 /dev/urandom >big && sha256sum <big && \
                  curl -sS -X POST -T big -H 'content-type: application/octet-stream' https://notes.example/sink";
    let ran = world.sh(script).expect_code(0);
    let (sum, answer) = ran.stdout.split_once('\n').unwrap();
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer["bytes"], 64 << 20);
    assert_eq!(answer["sha256"].as_str(), sum.split_whitespace().next());
    assert_eq!(ran.summary["bytes_out"], 64 << 20);
}

fn encoded_answers(person: Person) {
    let world = World::new(person);
    let script = "for e in gzip deflate identity; do curl -sS --fail --compressed \"https://notes.example/page/clean?encoding=$e\" || exit; done";
    let ran = world.sh(script).expect_code(0);
    assert_eq!(ran.stdout.matches("<h1>Growing tomatoes</h1>").count(), 3, "{}", ran.stdout);
}

fn expect_continue(person: Person) {
    let world = World::new(person);
    let script = "head -c 2000000 /dev/zero | tr '\\0' x >body && curl -sS --http1.1 -v -H 'Expect: 100-continue' \
                  --data-binary @body https://notes.example/sink";
    let ran = world.sh(script).expect_code(0);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["bytes"], 2_000_000);
    assert!(ran.stderr.contains("< HTTP/1.1 100 Continue"), "{}", ran.stderr);
}

fn websocket(person: Person) {
    let world = World::new(person);
    let script = "curl -sS --http1.1 -i -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
                  -H 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==' https://notes.example/echo";
    let ran = world.sh(script).expect_code(0);
    assert!(ran.stdout.contains("HTTP/1.1 400") && ran.stdout.contains("x-carboy-reason: protocol_refused"), "{}", ran.stdout);
    assert_eq!(ran.refused("protocol_refused"), 1);
    assert_eq!(world.provider.requests(), 0);
}

fn redirects(person: Person) {
    let world = World::new(person);
    let to = |host: &str, url: &str| format!("curl -sS -L -w ' %{{http_code}}\\n' 'https://{host}/redirect?to={url}'; ");
    let script = [
        to("notes.example", "https%3A%2F%2Fa.wild.example%2Fpage%2Fclean"),
        to("api.anthropic.com", "https%3A%2F%2Fnotes.example%2Fecho"),
        to("notes.example", &format!("https%3A%2F%2Fcollector.example%2F{CANARY}")),
        to("notes.example", "http%3A%2F%2F169.254.169.254%2Flatest%2Fmeta-data%2F"),
    ];
    let ran = world.sh(&(script.concat() + "true")).expect_code(0);
    // One that is allowed is followed, by the client and not by the gateway.
    assert!(ran.stdout.contains("</html>\n 200\n"), "{}", ran.stdout);
    let received = world.provider.received();
    let paths: Vec<_> = received.iter().map(|r| (r.authority.as_str(), r.path.split('?').next().unwrap())).collect();
    assert_eq!(
        paths,
        [
            ("notes.example", "/redirect"),
            ("a.wild.example", "/page/clean"),
            ("api.anthropic.com", "/redirect"),
            ("notes.example", "/echo"),
            ("notes.example", "/redirect"),
            ("notes.example", "/redirect"),
        ]
    );
    // The key went to the one host that it belongs to.
    let key: Vec<bool> = received.iter().map(|request| request.contains(REAL_KEY.as_bytes())).collect();
    assert_eq!(key, [false, false, true, false, false, false]);
    // The others are refused like any request: a name that does not resolve, an address with a reason.
    assert!(ran.stderr.contains("Could not resolve host: collector.example"), "{}", ran.stderr);
    assert!(ran.stdout.contains("address_not_allowed"), "{}", ran.stdout);
    assert!(ran.refused("name_not_allowed") >= 1 && ran.refused("address_not_allowed") >= 1, "{:?}", ran.summary);
    assert!(world.canary.is_untouched());
}
