//! Real clients, unchanged and without proxy variables: they get the provider's own answer while the bottle holds a
//! fake key, and the provider sees the real one.

use std::path::PathBuf;

use carboy_sim::ReceivedRequest;
use serde_json::Value;

use crate::world::{Person, REAL_KEY, REAL_OPENAI_KEY, Ran, World};
use crate::{Case, case, case_with};

/// What the provider says to everything; only its first words, so that its wording stays its own.
const GREETING: &str = "Hello from the simulated provider.";
/// In every fake.
const FAKE: &str = "carboy-placeholder";
/// A call of Anthropic's as JSON.
const CALL: &str = r#"{"model":"claude-opus-4-8","max_tokens":64,"messages":[{"role":"user","content":"hi"}]}"#;

pub fn cases() -> Vec<Case> {
    let python = || needs(&["venv/bin/python"]);
    vec![
        case_with("curl speaks HTTP/1.1 and HTTP/2, and the provider is met in the same version", &["curl"], curl),
        case_with("wget gets a page", &["wget"], wget),
        case_with("Python requests calls a model", python(), requests),
        case_with("Python httpx calls a model in HTTP/1.1 and HTTP/2", python(), httpx),
        case_with("Python's own http.client calls a model", &["/usr/bin/python3"], http_client),
        case_with("Node's fetch calls a model", &["node"], node),
        case_with("the anthropic SDK calls and streams", python(), anthropic_sdk),
        case_with("the openai SDK calls and streams, chat and responses", python(), openai_sdk),
        case_with("claude completes a headless prompt with the fake key", needs(&["bin/claude"]), claude),
        case_with("OpenSSL verifies the certificate", &["openssl"], openssl),
        case_with("Java's HttpClient calls a model", &["java"], java),
        case_with("a Go program calls a model", &["go"], go),
        case("a rustls client calls a model", rustls),
    ]
}

/// Where `xtask/clients.sh` puts the real clients.
pub fn client(path: &str) -> String {
    let dir = std::env::var_os("CARBOY_CLIENTS").map_or_else(|| PathBuf::from("/opt/carboy-clients"), PathBuf::from);
    dir.join(path).to_str().unwrap().to_owned()
}

/// The same as what a case needs; a few names for the life of the test program.
pub fn needs(paths: &[&str]) -> &'static [&'static str] {
    paths.iter().map(|path| &*client(path).leak()).collect::<Vec<_>>().leak()
}

/// A Python program with the installed libraries.
fn python(world: &World, program: &str) -> Ran {
    world.run(&[&client("venv/bin/python"), "-c", program])
}

/// What reached the provider at this path. Nothing that reached it at all carries a fake.
fn arrived(world: &World, path: &str) -> Vec<ReceivedRequest> {
    let all = world.provider.received();
    for request in &all {
        assert!(!request.contains(FAKE.as_bytes()), "a fake arrived: {request:?}");
    }
    all.into_iter().filter(|request| request.path.split('?').next() == Some(path)).collect()
}

/// Anthropic's calls that arrived, each with the real key.
fn calls(world: &World) -> Vec<ReceivedRequest> {
    let calls = arrived(world, "/v1/messages");
    for call in &calls {
        assert_eq!(call.header("x-api-key"), Some(REAL_KEY), "{call:?}");
        assert!(!call.headers.iter().any(|(name, _)| name == "authorization"), "{call:?}");
    }
    calls
}

fn versions(calls: &[ReceivedRequest]) -> Vec<(&str, Option<&str>)> {
    calls.iter().map(|call| (call.version.as_str(), call.alpn.as_deref())).collect()
}

fn curl(person: Person) {
    let world = World::new(person);
    let script = format!(
        "for v in http1.1 http2; do curl -sS --fail-with-body --$v -w ' over %{{http_version}}\\n' \
         -H \"x-api-key: $ANTHROPIC_API_KEY\" -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \
         -d '{CALL}' https://api.anthropic.com/v1/messages || exit; done"
    );
    let ran = world.sh(&script).expect_code(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.contains(GREETING)), "{}", ran.stdout);
    assert!(lines[0].ends_with("over 1.1") && lines[1].ends_with("over 2"), "{}", ran.stdout);
    assert_eq!(versions(&calls(&world)), [("HTTP/1.1", Some("http/1.1")), ("HTTP/2.0", Some("h2"))]);
    // No variable of a proxy is set, and nothing was refused.
    assert!(!world.run(&["env"]).stdout.to_lowercase().contains("_proxy"));
    assert_eq!(ran.summary["requests"], 2);
    assert_eq!(ran.summary["refusals"], Value::Array(vec![]));
}

fn wget(person: Person) {
    let world = World::new(person);
    let ran = world.sh("wget -qO- https://notes.example/page/clean").expect_code(0);
    assert!(ran.stdout.contains("Growing tomatoes"), "{}", ran.stdout);
}

fn requests(person: Person) {
    let world = World::new(person);
    let program = format!(
        "import os, requests\n\
         h = {{'x-api-key': os.environ['ANTHROPIC_API_KEY'], 'anthropic-version': '2023-06-01'}}\n\
         r = requests.post('https://api.anthropic.com/v1/messages', headers=h, data='{CALL}')\n\
         r.raise_for_status()\n\
         print(r.json()['content'][0]['text'])"
    );
    let ran = python(&world, &program).expect_code(0);
    assert!(ran.stdout.starts_with(GREETING), "{}", ran.stdout);
    assert_eq!(calls(&world).len(), 1);
}

fn httpx(person: Person) {
    let world = World::new(person);
    let program = format!(
        "import os, httpx\n\
         h = {{'x-api-key': os.environ['ANTHROPIC_API_KEY'], 'anthropic-version': '2023-06-01'}}\n\
         for h2 in (False, True):\n\
         \x20   with httpx.Client(http2=h2) as c:\n\
         \x20       r = c.post('https://api.anthropic.com/v1/messages', headers=h, content='{CALL}')\n\
         \x20       r.raise_for_status()\n\
         \x20       print(r.http_version, r.json()['content'][0]['text'])"
    );
    let ran = python(&world, &program).expect_code(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with(&format!("HTTP/1.1 {GREETING}")), "{}", ran.stdout);
    assert!(lines[1].starts_with(&format!("HTTP/2 {GREETING}")), "{}", ran.stdout);
    assert_eq!(versions(&calls(&world)), [("HTTP/1.1", Some("http/1.1")), ("HTTP/2.0", Some("h2"))]);
}

/// This one offers no ALPN protocol at all.
fn http_client(person: Person) {
    let world = World::new(person);
    let program = format!(
        "import json, os, urllib.request\n\
         h = {{'x-api-key': os.environ['ANTHROPIC_API_KEY'], 'anthropic-version': '2023-06-01'}}\n\
         q = urllib.request.Request('https://api.anthropic.com/v1/messages', b'{CALL}', h)\n\
         print(json.load(urllib.request.urlopen(q))['content'][0]['text'])"
    );
    let ran = world.run(&["/usr/bin/python3", "-c", &program]).expect_code(0);
    assert!(ran.stdout.starts_with(GREETING), "{}", ran.stdout);
    assert_eq!(calls(&world)[0].version, "HTTP/1.1");
}

fn node(person: Person) {
    let world = World::new(person);
    let program = format!(
        "const headers = {{'x-api-key': process.env.ANTHROPIC_API_KEY, 'anthropic-version': '2023-06-01'}};\n\
         fetch('https://api.anthropic.com/v1/messages', {{method: 'POST', headers, body: '{CALL}'}})\n\
           .then(r => r.json()).then(m => console.log(m.content[0].text));"
    );
    let ran = world.run(&["node", "-e", &program]).expect_code(0);
    assert!(ran.stdout.starts_with(GREETING), "{}", ran.stdout);
    assert_eq!(calls(&world).len(), 1);
}

fn anthropic_sdk(person: Person) {
    let world = World::new(person);
    let ran = python(
        &world,
        "from anthropic import Anthropic\n\
         c = Anthropic(max_retries=0)\n\
         ask = dict(model='claude-opus-4-8', max_tokens=64, messages=[{'role': 'user', 'content': 'hi'}])\n\
         m = c.messages.create(**ask)\n\
         print(m.content[0].text)\n\
         print('usage', m.usage.input_tokens, m.usage.output_tokens)\n\
         with c.messages.stream(**ask) as s:\n\
         \x20   parts = list(s.text_stream)\n\
         \x20   last = s.get_final_message()\n\
         print(''.join(parts))\n\
         print('streamed', len(parts), last.usage.output_tokens, last.stop_reason)\n\
         print('counted', c.messages.count_tokens(model='claude-opus-4-8', messages=ask['messages']).input_tokens)",
    )
    .expect_code(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with(GREETING) && lines[2] == lines[0], "{}", ran.stdout);
    let [whole, streamed] = &calls(&world)[..] else { panic!("two calls") };
    // A token of the provider's is four bytes of the body, so the usage is that of this very request.
    let output = lines[0].len().div_ceil(4);
    assert_eq!(lines[1], format!("usage {} {output}", whole.body_len.div_ceil(4)));
    let parts = lines[0].split_inclusive(' ').count();
    assert_eq!(lines[3], format!("streamed {parts} {output} end_turn"));
    assert!(streamed.contains(b"\"stream\":true"));
    assert!(lines[4].starts_with("counted "), "{}", ran.stdout);
}

fn openai_sdk(person: Person) {
    let world = World::new(person);
    let ran = python(
        &world,
        "from openai import OpenAI\n\
         c = OpenAI(max_retries=0)\n\
         ask = dict(model='gpt-5', messages=[{'role': 'user', 'content': 'hi'}])\n\
         r = c.chat.completions.create(**ask)\n\
         print(r.choices[0].message.content)\n\
         text, usage = '', None\n\
         for e in c.chat.completions.create(stream=True, stream_options={'include_usage': True}, **ask):\n\
         \x20   text += (e.choices[0].delta.content or '') if e.choices else ''\n\
         \x20   usage = e.usage or usage\n\
         print(text)\n\
         print('usage', usage.completion_tokens)\n\
         with c.responses.stream(model='gpt-5', input='hi') as s:\n\
         \x20   print(s.get_final_response().output_text)",
    )
    .expect_code(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with(GREETING) && lines[1] == lines[0] && lines[3] == lines[0], "{}", ran.stdout);
    assert_eq!(lines[2], format!("usage {}", lines[0].len().div_ceil(4)));
    let bearer = format!("Bearer {REAL_OPENAI_KEY}");
    for (path, count) in [("/v1/chat/completions", 2), ("/v1/responses", 1)] {
        let calls = arrived(&world, path);
        assert_eq!(calls.len(), count, "{path}");
        assert!(calls.iter().all(|call| call.header("authorization") == Some(&bearer)), "{calls:?}");
    }
}

fn claude(person: Person) {
    let world = World::new(person);
    let program = client("bin/claude");
    let ran = world.run(&[&program, "-p", "hi", "--output-format", "json"]).expect_code(0);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["is_error"], false, "{answer}");
    let text = answer["result"].as_str().unwrap();
    assert!(text.starts_with(GREETING), "{answer}");
    assert_eq!(answer["usage"]["output_tokens"], text.len().div_ceil(4), "{answer}");
    let calls = calls(&world);
    assert!(!calls.is_empty());
    let input = calls.iter().any(|call| answer["usage"]["input_tokens"] == call.body_len.div_ceil(4));
    assert!(input, "{answer}");
    assert!(!ran.stdout.contains(REAL_KEY) && !ran.stderr.contains(REAL_KEY));
}

fn openssl(person: Person) {
    let world = World::new(person);
    let script = "openssl s_client -connect api.anthropic.com:443 -servername api.anthropic.com \
                  -verify_return_error -verify_hostname api.anthropic.com -brief </dev/null 2>&1";
    let ran = world.sh(script).expect_code(0);
    assert!(
        ran.stdout.contains("Verification: OK") && ran.stdout.contains("Verified peername: api.anthropic.com"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("Protocol version: TLSv1.3"), "{}", ran.stdout);
}

fn java(person: Person) {
    let world = World::new(person);
    let escaped = CALL.replace('"', "\\\"");
    world.write(
        "project/Call.java",
        &format!(
            "import java.net.URI;\nimport java.net.http.*;\n\
             public class Call {{\n\
               public static void main(String[] a) throws Exception {{\n\
                 var c = HttpClient.newHttpClient();\n\
                 var q = HttpRequest.newBuilder(URI.create(\"https://api.anthropic.com/v1/messages\"))\n\
                   .header(\"x-api-key\", System.getenv(\"ANTHROPIC_API_KEY\")).header(\"anthropic-version\", \"2023-06-01\")\n\
                   .POST(HttpRequest.BodyPublishers.ofString(\"{escaped}\")).build();\n\
                 var r = c.send(q, HttpResponse.BodyHandlers.ofString());\n\
                 System.out.println(r.version() + \" \" + r.statusCode() + \" \" + r.body());\n\
                 var p = HttpRequest.newBuilder(URI.create(\"http://plain.example/page/clean\")).build();\n\
                 System.out.println(c.send(p, HttpResponse.BodyHandlers.ofString()).body());\n\
               }}\n}}\n"
        ),
    );
    let ran = world.run(&["java", "-XX:TieredStopAtLevel=1", "Call.java"]).expect_code(0);
    assert!(ran.stdout.starts_with("HTTP_2 200 ") && ran.stdout.contains(GREETING), "{}", ran.stdout);
    // Its plain request asks for h2c and is answered over HTTP/1.1.
    assert!(ran.stdout.contains("Growing tomatoes"), "{}", ran.stdout);
    assert_eq!(versions(&calls(&world)), [("HTTP/2.0", Some("h2"))]);
}

fn go(person: Person) {
    let world = World::new(person);
    world.write(
        "project/call.go",
        &format!(
            "package main\nimport (\"fmt\"; \"io\"; \"net/http\"; \"os\"; \"strings\")\nfunc main() {{\n\
             q, _ := http.NewRequest(\"POST\", \"https://api.anthropic.com/v1/messages\", strings.NewReader(`{CALL}`))\n\
             q.Header.Set(\"x-api-key\", os.Getenv(\"ANTHROPIC_API_KEY\"))\n\
             q.Header.Set(\"anthropic-version\", \"2023-06-01\")\n\
             r, err := http.DefaultClient.Do(q)\nif err != nil {{ panic(err) }}\n\
             b, _ := io.ReadAll(r.Body)\nfmt.Println(r.Proto, r.StatusCode, string(b))\n}}\n"
        ),
    );
    let ran = world.run(&["go", "run", "call.go"]).expect_code(0);
    assert!(ran.stdout.starts_with("HTTP/2.0 200 ") && ran.stdout.contains(GREETING), "{}", ran.stdout);
    assert_eq!(calls(&world).len(), 1);
}

fn rustls(person: Person) {
    let world = World::new(person);
    let mut agent = world.agent();
    let fake = "carboy-placeholder-anthropic-api-key";
    let headers = [("x-api-key", fake), ("anthropic-version", "2023-06-01")];
    let report = agent.http("POST", "https://api.anthropic.com/v1/messages", &headers, CALL.as_bytes());
    assert_eq!(report.status, Some(200), "{report:?}");
    assert!(report.body.contains(GREETING), "{report:?}");
    agent.finish().expect_code(0);
    assert_eq!(calls(&world).len(), 1);
}
