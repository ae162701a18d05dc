//! Programs as people have them, unchanged and told of no proxy: what a route allows arrives and is in the log, what carries a
//! secret is refused with its reason in the client's own words, and a host that no route names fails at once.
//!
//! Each program is a file of `programs/` or a line of shell. It knows nothing of carboy and says in a line what came of each
//! thing that it tried: `client|what|outcome`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use carboy_core::audit::Entry;
use serde_json::Value;

use crate::attack::CANARY_IS_KNOWN;
use crate::clients::{client, needs};
use crate::world::{CANARY, Person, Ran, World, reason};
use crate::{Case, case, case_with};

/// Where Debian has the sources of Go's libraries.
const GO_SOURCES: &str = "/usr/share/gocode";
/// Sends what it is sent; WebSockets and calls of gRPC as well. Some methods alone of one service, so that a call can be
/// refused for its path.
const ROUTES: &str = "\
egress:
  routes:
    - host: notes.example
      websocket: true
      dlp: {outbound_on_match: block}
";

pub fn cases() -> Vec<Case> {
    vec![
        case_with("B1 curl, wget and git: allowed, with a secret, denied", &["curl", "wget", "git"], shell),
        case_with(
            "B1 B25 Python's requests, httpx, aiohttp, websockets and grpcio: allowed, with a secret, denied",
            needs(&["venv/bin/python"]),
            python,
        ),
        case_with("B1 B25 Node's fetch, undici and ws: allowed, with a secret, denied", node_needs(), node),
        case_with("B1 Go's net/http and gRPC: allowed, with a secret, denied", go_needs(), go),
        case_with("B1 Java's HttpClient and its WebSocket: allowed, with a secret, denied", &["java"], java),
        case("B1 a client of rustls: allowed, with a secret, denied", rustls),
        case_with("a call of gRPC to another method is refused in gRPC's own words", go_needs(), other_method),
    ]
}

fn node_needs() -> &'static [&'static str] {
    let modules = [client("node_modules/undici"), client("node_modules/ws")];
    ["node".to_owned()].into_iter().chain(modules).map(|need| &*need.leak()).collect::<Vec<_>>().leak()
}

fn go_needs() -> &'static [&'static str] {
    &["go", "/usr/share/gocode/src/google.golang.org/grpc"]
}

fn world(person: Person) -> World {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    world.bottle(ROUTES);
    world
}

/// What each client said of each thing that it tried.
struct Told(BTreeMap<(String, String), String>);

impl Told {
    fn by(ran: &Ran) -> Told {
        assert_eq!(ran.code, 0, "stdout:\n{}\nstderr:\n{}", ran.stdout, ran.stderr);
        let lines = ran.stdout.lines().filter_map(|line| {
            let mut parts = line.splitn(3, '|').map(str::to_owned);
            Some(((parts.next()?, parts.next()?), parts.next()?))
        });
        Told(lines.collect())
    }

    fn clients(&self) -> Vec<&str> {
        self.0.keys().filter(|(_, what)| what == "allowed").map(|(client, _)| client.as_str()).collect()
    }

    #[track_caller]
    fn says(&self, client: &str, what: &str, parts: &[&str]) {
        let outcome = self.0.get(&(client.to_owned(), what.to_owned()));
        let outcome = outcome.unwrap_or_else(|| panic!("{client} said nothing of what is {what}"));
        for part in parts {
            assert!(outcome.contains(part), "{client}, {what}: no {part:?} in {outcome:?}");
        }
    }
}

/// How resolvers say that there is no such name.
const NO_NAME: [&str; 8] = [
    "not known",
    "resolve host",
    "unable to resolve",
    "ENOTFOUND",
    "no such host",
    "UnresolvedAddress",
    "DNS resolution failed",
    "address lookup failed",
];

/// The three things that all clients try, as origin, log and clients have them.
#[track_caller]
fn assert_policed(world: &World, ran: &Ran, clients: &[&str]) {
    let told = Told::by(ran);
    assert_eq!(told.clients(), clients, "{}", ran.stdout);
    for client in clients {
        told.says(client, "allowed", &[&format!("hello from {client}")]);
        told.says(client, "secret", &["secret_known", "carboy"]);
        let denied = &told.0[&((*client).to_owned(), "denied".to_owned())];
        assert!(NO_NAME.iter().any(|words| denied.contains(words)), "{client}, denied: {denied}");
        let hello = format!("hello from {client}");
        let arrived = world.provider.received().iter().filter(|one| one.contains(hello.as_bytes())).count();
        assert!(arrived >= 1, "{client}");
    }
    // Not one octet of what was refused, and each of the three is in the log.
    world.assert_nothing_escaped();
    let written = |action: &str, result: &str| {
        let fits = |entry: &&Entry| entry.text("action") == Some(action) && entry.text("result") == Some(result);
        ran.entries.iter().filter(fits).filter(|entry| entry.detail("host") == Some(&"notes.example".into())).count()
    };
    assert!(written("request", "allowed") >= clients.len(), "{}", ran.summary);
    assert!(ran.refused("secret_known") >= clients.len(), "{}", ran.summary);
    assert!(ran.refused("name_not_allowed") >= 1, "{}", ran.summary);
    // No variable of a proxy was there to be followed.
    let proxied = |entry: &Entry| entry.text("action") == Some("tunnel");
    assert!(!ran.entries.iter().any(proxied));
}

fn shell(person: Person) {
    let world = world(person);
    // A person types the secret; no file of the run holds it.
    let script = format!(
        "env | grep -i _proxy && exit 9
         curl() {{ command curl -sS --$v --data-binary \"$2\" \"https://$1/echo?curl\" 2>&1; }}
         wget() {{ command wget -nv -O- --content-on-error --post-data \"$2\" \"https://$1/echo?wget\" 2>&1; }}
         say() {{ echo \"$1|$2|$(\"$3\" \"$4\" \"$5\" | tr '\\n' ' ')\"; }}
         try() {{ say \"$1\" allowed $2 notes.example \"hello from $1\"; say \"$1\" secret $2 notes.example \"$1, {CANARY}\";
                  say \"$1\" denied $2 denied.example \"anybody there?\"; }}
         v=http1.1; try 'curl 1' curl; v=http2; try 'curl 2' curl; try wget wget
         GIT_TERMINAL_PROMPT=0; export GIT_TERMINAL_PROMPT
         git ls-remote 'https://notes.example/{CANARY}.git'; echo \"git $?\"
         git ls-remote https://denied.example/x.git; echo \"git $?\""
    );
    let ran = world.sh(&script);
    assert_policed(&world, &ran, &["curl 1", "curl 2", "wget"]);
    assert!(ran.stdout.ends_with("git 128\ngit 128\n"), "{}", ran.stdout);
    assert!(ran.stderr.contains("resolve host: denied.example"), "{}", ran.stderr);
    // What a secret's refusal is to git: the status of HTTP.
    assert!(ran.stderr.contains("403"), "{}", ran.stderr);
}

fn python(person: Person) {
    let world = world(person);
    world.write("project/clients.py", include_str!("programs/clients.py"));
    let ran = world.run(&[&client("venv/bin/python"), "clients.py", CANARY]);
    let grpc = ["grpc both stream", "grpc server stream", "grpc unary"];
    let clients = [&["aiohttp", "aiohttp socket"][..], &grpc, &["httpx", "requests", "websockets"]].concat();
    assert_policed(&world, &ran, &clients);
    let told = Told::by(&ran);
    for client in grpc {
        told.says(client, "secret", &["PERMISSION_DENIED", "x-carboy-refusal"]);
        told.says(client, "denied", &["UNAVAILABLE"]);
    }
    // Trailers of HTTP/2 come through, and messages one by one.
    told.says("grpc unary", "allowed", &["OK", "'x-messages': '1'"]);
    told.says("grpc server stream", "allowed", &["OK", "'x-messages': '3'"]);
    told.says(
        "grpc both stream",
        "allowed",
        &["OK", "['0', '1', 'hello from grpc both stream'] []", "'x-messages': '3'"],
    );
    // Packed within the body, a secret is seen by nobody; so it is not sent.
    told.says("grpc unary", "packed", &["UNIMPLEMENTED", "body_undecodable", "grpc-encoding"]);
    told.says("grpc unary", "failing", &["FAILED_PRECONDITION", "the call fails, as it was asked to"]);
    told.says("websockets", "secret", &["closed 1008"]);
    told.says("aiohttp socket", "secret", &["CLOSE 1008"]);
    // Both forms of a message: in fragments, and as octets.
    told.says("websockets", "allowed", &["hello from websockets hello from websockets"]);
}

fn node(person: Person) {
    let world = world(person);
    world.write("project/clients.mjs", include_str!("programs/clients.mjs"));
    let ran = world.run(&["node", "clients.mjs", &client("node_modules"), CANARY]);
    assert_policed(&world, &ran, &["fetch", "undici", "undici h2", "ws"]);
    let told = Told::by(&ran);
    told.says("undici h2", "allowed", &["HTTP/2.0"]);
    told.says("ws", "secret", &["closed 1008"]);
}

/// The program, built once with the libraries that Debian has; outside, because what it does is what counts.
fn go_program() -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("go");
        std::fs::create_dir_all(&dir).unwrap();
        let (source, program) = (dir.join("clients.go"), dir.join("clients"));
        std::fs::write(&source, include_str!("programs/clients.go")).unwrap();
        let mut go = Command::new("go");
        let environment = [("GO111MODULE", "off"), ("GOPATH", GO_SOURCES), ("GOFLAGS", ""), ("CGO_ENABLED", "0")];
        go.args(["build", "-o"]).arg(&program).arg(&source).envs(environment).env("GOCACHE", dir.join("cache"));
        let output = go.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        program
    });
    std::fs::read(built).unwrap()
}

/// Puts it into the workspace.
fn with_go(world: &World) {
    use std::os::unix::fs::PermissionsExt;
    let path = world.project.join("clients");
    std::fs::write(&path, go_program()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn go(person: Person) {
    let world = world(person);
    with_go(&world);
    let ran = world.run(&["./clients", CANARY]);
    assert_policed(&world, &ran, &["grpc-go stream", "grpc-go unary", "net/http"]);
    let told = Told::by(&ran);
    told.says("net/http", "allowed", &["HTTP/2.0"]);
    told.says("grpc-go unary", "allowed", &["OK", "x-messages:[1]"]);
    told.says("grpc-go stream", "allowed", &["OK 0 0 0 1 1 1 hello", "x-messages:[9]"]);
    for client in ["grpc-go unary", "grpc-go stream"] {
        told.says(client, "secret", &["code = PermissionDenied"]);
    }
    told.says("grpc-go unary", "packed", &["code = Unimplemented", "body_undecodable"]);
}

fn other_method(person: Person) {
    let world = world(person);
    world.bottle(
        "egress: {routes: [{host: notes.example, matches: [{paths: [{type: exact, value: /carboy.sim.Echo/Repeat}]}]}]}\n",
    );
    with_go(&world);
    let ran = world.run(&["./clients", "nothing secret"]);
    let told = Told::by(&ran);
    let words = ["code = PermissionDenied", "request_not_allowed", "Next:", "carboy explain x-"];
    told.says("grpc-go unary", "allowed", &words);
    told.says("grpc-go stream", "allowed", &["OK 0 0 0"]);
    let paths: Vec<String> = world.provider.received().into_iter().map(|one| one.path).collect();
    assert!(paths.iter().all(|path| path == "/carboy.sim.Echo/Repeat"), "{paths:?}");
}

fn java(person: Person) {
    let world = world(person);
    world.write("project/Clients.java", include_str!("programs/Clients.java"));
    let ran = world.run(&["java", "-XX:TieredStopAtLevel=1", "Clients.java", CANARY]);
    assert_policed(&world, &ran, &["java http", "java socket"]);
    let told = Told::by(&ran);
    told.says("java http", "allowed", &["HTTP_2"]);
    told.says("java socket", "secret", &["closed 1008"]);
}

/// The simulated agent's own client: a program in the bottle, built with rustls.
fn rustls(person: Person) {
    let world = world(person);
    let mut agent = world.agent();
    let allowed = agent.http("POST", "https://notes.example/echo?rustls", &[], b"hello from rustls");
    assert_eq!(allowed.status, Some(200), "{allowed:?}");
    assert!(allowed.body.contains("hello from rustls"), "{allowed:?}");
    let secret = agent.http("POST", "https://notes.example/echo?rustls", &[], CANARY.as_bytes());
    assert_eq!((secret.status, reason(&secret)), (Some(403), Some("secret_known")), "{secret:?}");
    let denied = agent.http("GET", "https://denied.example/", &[], b"");
    assert!(denied.status.is_none() && denied.error.is_some(), "{denied:?}");
    let ran = agent.finish().expect_code(0);
    assert_eq!((ran.refused("secret_known"), ran.refused("name_not_allowed") >= 1), (1, true), "{}", ran.summary);
    assert_eq!(ran.summary["requests"], Value::from(2));
    world.assert_nothing_escaped();
}
