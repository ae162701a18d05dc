//! What must not open what a budget or a person has closed, lend a budget twice, or move a terminal: tried from inside a
//! bottle and around it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use carboy_core::audit::Entry;
use serde_json::Value;

use crate::runs::{Live, carboy, living, stderr, stdout, within};
use crate::world::{Person, STANDARD_ROUTES, World, reason};
use crate::{Case, case, case_with};

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(20);
const PYTHON: &str = "/usr/bin/python3";

pub fn cases() -> Vec<Case> {
    vec![
        case_with(
            "C10 what is cut off stays so: ports, names, exec, allow and new files open nothing, and resume all of it",
            &[PYTHON],
            stays_cut_off,
        ),
        case_with("C10 a run that learns proposes while it is cut off, and opens nothing", &[PYTHON], learns_cut_off),
        case("C6 E3 a frozen run that is resumed twice at once is started once", resumed_twice),
        case_with(
            "C6 C15 two runs that share a home are resumed side by side and spend one budget",
            &[PYTHON],
            one_home_two_runs,
        ),
        case_with(
            "C1 C9 M3 what an agent writes about itself changes neither its budget nor its routes",
            &[PYTHON],
            writes_its_own,
        ),
        case_with(
            "S9 C12 C20 without supervision a spent budget cuts off as ever, and no queue is in its way",
            &[PYTHON],
            unsupervised,
        ),
        case(
            "C14 what starts a run again, its log and its home are files, and nothing of them is in the database",
            kept_where,
        ),
        case("C13 a damaged ledger is told as damaged, with its place and the way out, inside and outside", damaged),
        case("C17 a model's name moves no terminal and makes no line of its own", names),
    ]
}

fn run_of(world: &World) -> String {
    living(world)[0]["record"]["run"].as_str().unwrap().to_owned()
}

fn state(world: &World) -> String {
    living(world).first().map(|run| run["state"].as_str().unwrap().to_owned()).unwrap_or_default()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A service of the host that says a word to whoever connects, and how often it did.
fn greeter() -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, greeted) = (listener.local_addr().unwrap(), std::sync::Arc::default());
    let count: std::sync::Arc<std::sync::atomic::AtomicUsize> = std::sync::Arc::clone(&greeted);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _ = stream.write_all(b"greeted\n");
        }
    });
    (address, greeted)
}

/// Everything that a program inside may try, one line for each: what came back.
const TRIES: &str = r#"
import socket, ssl, urllib.request, urllib.error
def tried(what, work):
    try: print(what, work(), flush=True)
    except urllib.error.HTTPError as e: print(what, e.code, e.headers.get('x-carboy-reason'), flush=True)
    except Exception as e: print(what, 'nothing', type(e).__name__, flush=True)
def get(url): return urllib.request.urlopen(url, timeout=10).status
def forward():
    s = socket.create_connection(('127.0.0.1', 54320), 10)
    said = s.recv(20)
    return said.decode().strip() if said else 'closed'
tried('https', lambda: get('https://notes.example/page/clean'))
tried('plain', lambda: get('http://plain.example/page/clean'))
tried('new', lambda: get('https://git.example/page/clean'))
tried('forward', forward)
tried('name', lambda: bool(socket.getaddrinfo('never.example.org', 443)))
tried('address', lambda: bool(socket.create_connection(('1.1.1.1', 443), 3).recv(1)))
"#;

fn tries(world: &World, run: &str) -> Vec<String> {
    let tried = carboy(world, &["exec", run, PYTHON, "tries.py"]);
    assert!(tried.status.success(), "{tried:?}");
    stdout(&tried).lines().map(str::to_owned).collect()
}

/// What the published port says, asked from outside.
fn published(port: u16) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = stream.write_all(b"GET /tries.py HTTP/1.0\r\n\r\n");
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

fn stays_cut_off(person: Person) {
    let world = World::new(person);
    let (port, (service, greeted)) = (free_port(), greeter());
    let count = || greeted.load(std::sync::atomic::Ordering::SeqCst);
    let ports = format!("publish: [\"{port}:3000\"]\nforward: {{54320: \"{service}\"}}\n");
    let narrow = STANDARD_ROUTES.replace("    - host: git.example\n      git: {fetch: true}\n", "");
    assert!(!narrow.contains("git.example"));
    world.bottle(&format!("{narrow}{ports}"));
    world.write("project/tries.py", TRIES);
    let script = format!("{PYTHON} -m http.server 3000 --bind 127.0.0.1 >/dev/null 2>&1 & echo ready; wait");
    let live = Live::start(&world, "test", &script);
    let run = run_of(&world);
    within(HAPPEN_WAIT_MAX, "the port is served", || published(port).contains("200 OK").then_some(()));
    let open = tries(&world, &run);
    assert_eq!(&open[..2], ["https 200", "plain 200"], "{open:?}");
    assert_eq!((&open[3][..], count()), ("forward greeted", 1), "{open:?}");

    assert_eq!(carboy(&world, &["stop", "--cutoff", "test"]).status.code(), Some(0));
    let (requests, connections) = (world.provider.requests(), world.provider.connections());
    let nothing_goes = |when: &str| {
        let tried = tries(&world, &run);
        for line in &tried[..3] {
            assert!(line.contains("cut_off") || line.contains("nothing"), "{when}: {tried:?}");
        }
        assert!(tried[3].contains("closed") || tried[3].contains("nothing"), "{when}: {tried:?}");
        assert!(tried[4..].iter().all(|line| !line.ends_with("True")), "{when}: {tried:?}");
        assert_eq!((published(port), count()), (String::new(), 1), "{when}: a port carries something");
        let outside = (world.provider.requests(), world.provider.connections());
        assert_eq!(outside, (requests, connections), "{when}: something got outside");
        assert_eq!(state(&world), "cut off", "{when}");
    };
    nothing_goes("cut off");
    // What an operator allows now holds from `resume` on, and so does what a file says.
    let granted = carboy(&world, &["allow", "git.example", "-b", "test", "--path", "/page", "--for", "1h", "-y"]);
    assert!(granted.status.success(), "{granted:?}");
    nothing_goes("a route was allowed for a while");
    let saved = carboy(&world, &["allow", "other.wild.example", "-b", "test", "--yes"]);
    assert!(saved.status.success(), "{saved:?}");
    let reloads = || {
        let done = |e: &&Entry| e.text("action") == Some("reload_routes") && e.text("result") == Some("done");
        world.log().iter().filter(done).count()
    };
    within(HAPPEN_WAIT_MAX, "the file is read anew", || (reloads() > 0).then_some(()));
    nothing_goes("a route was allowed for good");
    let before = reloads();
    world.bottle(&format!("{STANDARD_ROUTES}{ports}budget: {{claude: 9M}}\n"));
    within(HAPPEN_WAIT_MAX, "the file is read anew", || (reloads() > before).then_some(()));
    nothing_goes("the file was changed");
    let more = carboy(&world, &["budget", "top-up", "bottle:test", "claude=1M"]);
    assert!(more.status.success(), "{more:?}");
    nothing_goes("the budget was topped up");
    // A run of the same bottle that begins now is another one, and opens nothing of this one.
    world.run_with(&["--another"], &["true"]);
    nothing_goes("another run came and went");

    assert_eq!(carboy(&world, &["resume", &run]).status.code(), Some(0));
    let open = tries(&world, &run);
    assert_eq!(&open[..4], ["https 200", "plain 200", "new 200", "forward greeted"], "{open:?}");
    assert!(published(port).contains("200 OK"));
    assert_eq!(carboy(&world, &["stop", "--kill", "test"]).status.code(), Some(0));
    assert_eq!(live.end(), Some(137));
}

fn learns_cut_off(person: Person) {
    let world = World::new(person);
    world.write("project/tries.py", TRIES);
    let live = Live::start_with(&world, &["--bottle", "test", "--learn"], "echo ready; exec sleep 300");
    let run = run_of(&world);
    assert_eq!(carboy(&world, &["stop", "--cutoff", "test"]).status.code(), Some(0));
    let (requests, connections) = (world.provider.requests(), world.provider.connections());
    let tried = tries(&world, &run);
    assert!(tried[..3].iter().all(|line| line.contains("cut_off") || line.contains("nothing")), "{tried:?}");
    assert_eq!((world.provider.requests(), world.provider.connections()), (requests, connections), "{tried:?}");
    assert_eq!(state(&world), "cut off");
    assert_eq!(carboy(&world, &["stop", "--kill", "test"]).status.code(), Some(0));
    assert_eq!(live.end(), Some(137));
}

/// Leaves a trace of each start, then waits.
const STARTS: &str = "echo x >> ~/starts; trap '' TERM INT; echo ready; while :; do sleep 1; done";

fn resumed_twice(person: Person) {
    let world = World::new(person);
    let live = Live::start(&world, "test", STARTS);
    let run = run_of(&world);
    assert_eq!(carboy(&world, &["stop", "--freeze", &run]).status.code(), Some(0));
    assert_eq!(live.end(), Some(75));
    let both: Vec<_> = (0..3)
        .map(|_| {
            let mut command = world.carboy(&["resume", "-d", &run]);
            command.stdin(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let said: Vec<_> = both.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let well = said.iter().filter(|output| output.status.success()).count();
    let runs = living(&world);
    assert_eq!((well, runs.len()), (1, 1), "{said:?} {runs:?}");
    assert_eq!(runs[0]["record"]["run"].as_str(), Some(&*run));
    let starts = world.dir.join("home/state/test/home/starts");
    within(HAPPEN_WAIT_MAX, "it was started", || (fs::read_to_string(&starts).unwrap().len() == 4).then_some(()));
    assert_eq!(carboy(&world, &["stop", "--kill", &run]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(&starts).unwrap(), "x\nx\n", "twice in all: at first, and once again");
}

/// Asks as often as it may, and keeps what it was answered under its own name.
const SPENDS: &str = r#"
import json, os, sys, time, urllib.request, urllib.error
name, body = sys.argv[1], json.dumps({'model': 'claude-x', 'max_tokens': 400, 'messages': [{'role': 'user', 'content': 'hi'}]}).encode()
open(os.path.expanduser('~/' + name), 'a').write('start\n')
if not os.path.exists('go'):
    print('ready', flush=True)
    while True: time.sleep(1)
head = {'anthropic-version': '2023-06-01', 'content-type': 'application/json'}
for n in range(200):
    request = urllib.request.Request('https://api.anthropic.com/v1/messages', body, head)
    try: urllib.request.urlopen(request).read()
    except urllib.error.HTTPError as e:
        if e.code == 402: break
"#;

fn one_home_two_runs(person: Person) {
    let world = World::new(person);
    world.write("project/spends.py", SPENDS);
    world.bottle(&format!("{STANDARD_ROUTES}budget: {{claude: 4000}}\n"));
    let lives = ["one", "two"].map(|name| Live::start(&world, "test", &format!("exec {PYTHON} spends.py {name}")));
    let ids: Vec<String> = living(&world).iter().map(|run| run["record"]["run"].as_str().unwrap().to_owned()).collect();
    for id in &ids {
        assert_eq!(carboy(&world, &["stop", "--freeze", id]).status.code(), Some(0));
    }
    for live in lives {
        assert_eq!(live.end(), Some(75));
    }
    world.write("project/go", "");
    let resumed: Vec<_> =
        ids.iter().map(|id| world.carboy(&["resume", id]).stdin(Stdio::null()).spawn().unwrap()).collect();
    let ended: Vec<_> = resumed.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let home = world.dir.join("home/state/test/home");
    for name in ["one", "two"] {
        let starts = fs::read_to_string(home.join(name)).unwrap_or_default();
        assert_eq!(starts, "start\nstart\n", "{name}: {ended:?}");
    }
    // Both have asked until the one budget was spent, and it holds for both together.
    let bill = world.provider.bill();
    assert!(bill.raw() <= 4000 && bill.raw() > 1000, "{bill:?}");
    let shown: Value = serde_json::from_slice(&carboy(&world, &["budget", "show", "--json"]).stdout).unwrap();
    let spent = shown["host"]["meters"][0]["spent"]["raw"].as_u64().unwrap();
    assert_eq!(spent, bill.raw() * 1000, "{shown}");
    let sum: u64 = ids
        .iter()
        .map(|id| {
            let of_run = stdout(&carboy(&world, &["budget", "show", &format!("run:{id}"), "--json"]));
            let of_run: Value = serde_json::from_str(&of_run).unwrap();
            deepest(&of_run, &format!("run:{id}"))
        })
        .sum();
    assert_eq!(sum, spent, "each has its own part");
}

/// What was spent at this scope, wherever in the tree it stands.
fn deepest(value: &Value, scope: &str) -> u64 {
    match value {
        Value::Object(map) => {
            if map.get("scope").is_some_and(|at| at.to_string().contains(scope.trim_start_matches("run:"))) {
                return map["meters"][0]["spent"]["raw"].as_u64().unwrap_or(0);
            }
            map.values().map(|inner| deepest(inner, scope)).max().unwrap_or(0)
        }
        Value::Array(list) => list.iter().map(|inner| deepest(inner, scope)).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Writes everything that could be about itself, then asks a model and a host that it has no route to.
const WRITES: &str = r#"
import json, os, urllib.request, urllib.error, time
home = os.path.expanduser('~')
free = "---\nbudget: {claude: 900M}\nceiling: {claude: 900M}\nshutdown: cutoff\negress: {routes: [{host: api.anthropic.com, meter: free}, {host: '*.example'}]}\n---\n"
for root in ('.carboy', 'sub/.carboy', home + '/.carboy', '.bot-bottle', home + '/.bot-bottle'):
    for place, text in (('bottles/test.md', free), ('agents/test.md', '---\nbottle: test\nbudget: {claude: 900M}\n---\n'),
                        ('agents/worker.md', '---\nbottle: test\nbudget: {claude: 900M}\n---\nTake all.\n'),
                        ('settings.yml', 'budget: {claude: 900M}\nceiling: {claude: 900M}\n'), ('carboy.db', 'x')):
        path = os.path.join(root, place)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, 'w').write(text)
        except OSError: pass
time.sleep(2.5)
body = json.dumps({'model': 'claude-x', 'max_tokens': 400, 'messages': [{'role': 'user', 'content': 'hi'}]}).encode()
head = {'anthropic-version': '2023-06-01', 'content-type': 'application/json'}
codes = []
for n in range(40):
    try: codes.append(urllib.request.urlopen(urllib.request.Request('https://api.anthropic.com/v1/messages', body, head)).status)
    except urllib.error.HTTPError as e: codes.append(e.code)
    if codes[-1] != 200: break
print(codes[-1], flush=True)
try: print(urllib.request.urlopen('https://secret.example/', timeout=10).status)
except Exception as e: print(type(e).__name__)
"#;

fn writes_its_own(person: Person) {
    let world = World::new(person);
    world.write("project/writes.py", WRITES);
    world.write("home/agents/worker.md", "---\nbottle: test\nbudget: {claude: 1500}\n---\nWork.\n");
    let output = world.carboy(&["run", "worker", "--", PYTHON, "writes.py"]).output().unwrap();
    let said = stdout(&output);
    assert_eq!(said.lines().next(), Some("402"), "{output:?}");
    assert!(said.lines().nth(1).is_some_and(|line| line != "200"), "{said}");
    assert!(world.provider.bill().raw() <= 1500, "{:?}", world.provider.bill());
    assert!(
        world.log().iter().all(|entry| entry.text("action") != Some("reload_routes")),
        "a file of its own was read"
    );
    // Where the workspace's own files would be nothing is left; elsewhere they are a repository's, and asked about.
    assert!(!world.project.join(".carboy/agents/worker.md").exists());
    assert!(world.project.join("sub/.carboy/agents/worker.md").exists());
    let mut again = world.carboy(&["run", "worker", "--", "true"]);
    let again = again.current_dir(world.project.join("sub")).output().unwrap();
    assert!(again.status.code() == Some(77) && stderr(&again).contains("--trust"), "{again:?}");
    // Trusted, its budget binds in addition, and what the home says holds all the same.
    let billed = world.provider.bill().raw();
    let mut trusted = world.carboy(&["run", "worker", "--trust", "--", PYTHON, "../writes.py"]);
    let trusted = trusted.current_dir(world.project.join("sub")).output().unwrap();
    assert!(world.provider.bill().raw() <= billed.max(1500), "{trusted:?}");
}

fn unsupervised(person: Person) {
    let world = World::new(person);
    world.write("project/spends.py", SPENDS);
    world.write("project/go", "");
    for supervise in ["supervise: false\n", ""] {
        world.bottle(&format!("{STANDARD_ROUTES}{supervise}budget: {{claude: 700}}\nshutdown: cutoff\n"));
        let ran = world.run(&[PYTHON, "spends.py", "one"]);
        let done: Vec<&str> = ran.entries.iter().filter_map(|entry| entry.text("action")).collect();
        assert!(done.contains(&"cross_cap") && done.contains(&"cutoff"), "{supervise}: {done:?}");
        // Nobody was asked, before or after: there is nothing that waits for an answer.
        let asks = |action: &&&str| ["propose", "approve", "ask"].contains(*action);
        assert_eq!(done.iter().filter(asks).count(), 0, "{supervise}: {done:?}");
        let queue = world.dir.join("home/queue");
        assert!(!queue.exists() || fs::read_dir(&queue).unwrap().next().is_none(), "{supervise}");
        assert_eq!(carboy(&world, &["bottle", "rm", "--yes", "test"]).status.code(), Some(0));
        let more = carboy(&world, &["budget", "top-up", "bottle:test", "claude=700"]);
        assert!(more.status.success(), "{more:?}");
    }
}

fn kept_where(person: Person) {
    let world = World::new(person);
    world.write("project/spends.py", SPENDS);
    world.bottle(&format!("{STANDARD_ROUTES}budget: {{claude: 5M}}\n"));
    // Words that are nowhere else: of its command, of its variables, of what it wrote and said.
    let marks = ["mark-of-a-command", "mark-of-a-variable", "mark-of-a-home", "mark-of-a-prompt"];
    let variable = format!("GIVEN={}", marks[1]);
    let script = format!(
        ": {}; echo {} > ~/kept; [ -e go ] || echo ready; exec {PYTHON} spends.py {}",
        marks[0], marks[2], marks[3]
    );
    let live = Live::start_with(&world, &["--bottle", "test", "--env", &variable], &script);
    let run = run_of(&world);
    assert_eq!(carboy(&world, &["stop", "--freeze", &run]).status.code(), Some(0));
    assert_eq!(live.end(), Some(75));
    let state = world.dir.join("home/state/test");
    let read = |path: &std::path::Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    assert!(read(&state.join("runs").join(&run).join("resume.json")).contains(marks[0]));
    assert!(read(&state.join("home/kept")).contains(marks[2]));
    let log = read(&world.dir.join("home/audit/audit.jsonl"));
    assert!(log.lines().count() > 2 && log.contains(&run), "{log}");
    assert_eq!(carboy(&world, &["controller", "stop", "--force"]).status.code(), Some(0));
    let database = read(&world.dir.join("home/carboy.db"));
    // The ledger knows of the run what its budgets are booked under.
    assert!(database.starts_with("SQLite format 3") && database.contains(&run));
    for mark in marks.iter().chain(&["resume.json", "/page/clean"]) {
        assert!(!database.contains(mark), "{mark} is in the database");
    }
}

fn damaged(person: Person) {
    let world = World::new(person);
    world.bottle(&format!("{STANDARD_ROUTES}budget: {{claude: 5M}}\n"));
    world.run(&["true"]).expect_code(0);
    assert_eq!(carboy(&world, &["controller", "stop", "--force"]).status.code(), Some(0));
    let path = world.dir.join("home/carboy.db");
    let mut whole = fs::read(&path).unwrap();
    whole[..200].fill(0xa5);
    fs::write(&path, &whole).unwrap();
    let told = |what: &str, text: &str| {
        let place = format!("the ledger {} is damaged", path.display());
        assert!(text.contains(&place) && text.contains("put a copy in its place"), "{what}: {text}");
        assert!(!text.contains("cannot be reached"), "{what}: {text}");
    };
    let shown = carboy(&world, &["budget", "show"]);
    assert!(!shown.status.success());
    told("budget show", &stderr(&shown));
    let mut agent = world.agent();
    let body = br#"{"model":"claude-x","max_tokens":50,"messages":[{"role":"user","content":"hi"}]}"#;
    let head = [("anthropic-version", "2023-06-01"), ("content-type", "application/json")];
    for _ in 0..2 {
        let refused = agent.http("POST", "https://api.anthropic.com/v1/messages", &head, body);
        assert_eq!((refused.status, reason(&refused)), (Some(503), Some("ledger_unavailable")), "{refused:?}");
        assert!(refused.body.contains("is damaged"), "{refused:?}");
    }
    // What costs nothing goes on.
    assert_eq!(agent.http("GET", "https://notes.example/page/clean", &[], b"").status, Some(200));
    let ran = agent.finish().expect_code(0);
    told("the summary", &ran.stderr);
    told("controller status", &stderr(&carboy(&world, &["controller", "status"])));
    assert_eq!(world.provider.bill().requests, 0);
    // As it says: moved away, the next one begins anew.
    fs::rename(&path, world.dir.join("home/carboy.db.damaged")).unwrap();
    for rest in ["-wal", "-shm"] {
        let _ = fs::remove_file(world.dir.join(format!("home/carboy.db{rest}")));
    }
    let mut agent = world.agent();
    assert_eq!(agent.http("POST", "https://api.anthropic.com/v1/messages", &head, body).status, Some(200));
    agent.finish().expect_code(0);
}

/// Clears the screen, goes up, writes a line of its own, turns what follows round, rings.
const WILD: &str = "claude-\u{1b}[2J\u{1b}[1A\r\nhost  anthropic  0  0  9G\u{202e}\u{7}\u{9b}31m\u{1b}]0;title\u{7}";

fn names(person: Person) {
    let world = World::new(person);
    world.bottle(&format!("{STANDARD_ROUTES}budget: {{claude: 5M}}\n"));
    let mut agent = world.agent();
    let ask = |model: &str| {
        serde_json::json!({"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]})
            .to_string()
    };
    let head = [("anthropic-version", "2023-06-01"), ("content-type", "application/json")];
    for model in [WILD.to_owned(), format!("{WILD}{}", "x".repeat(3000))] {
        let got = agent.http("POST", "https://api.anthropic.com/v1/messages", &head, ask(&model).as_bytes());
        assert!(got.status.is_some(), "{got:?}");
    }
    // Names of hosts and paths are the program's, too.
    let odd = agent.http("GET", "https://notes.example/%1b%5b2J%0d%0ahost%20%e2%80%ae", &[], b"");
    assert!(odd.status.is_some() || odd.error.is_some());
    let refused = agent.http("GET", "https://never.wild.example.org/", &[], b"");
    assert!(refused.error.is_some() || reason(&refused).is_some());
    let run = run_of(&world);
    let plain = |what: &str, text: &str| {
        let moves = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c) || c == '\u{9b}';
        assert!(!text.contains(moves), "{what}: {text:?}");
        let own = |line: &str| line.starts_with("host  anthropic  0  0  9G");
        assert!(!text.lines().any(own), "{what}: a line of its own: {text}");
    };
    let scope = format!("run:{run}");
    for arguments in [
        &["ps"][..],
        &["top", "--once"],
        &["top", "--line"],
        &["budget", "show"],
        &["budget", "show", &scope],
        &["logs", &run],
        &["logs", "--refused"],
        &["controller", "status"],
    ] {
        let output = carboy(&world, arguments);
        assert!(output.status.success(), "{output:?}");
        plain(&arguments.join(" "), &stdout(&output));
        plain(&arguments.join(" "), &stderr(&output));
    }
    let ran = agent.finish().expect_code(0);
    plain("the summary", &ran.stderr);
    plain("budget show after it", &stdout(&carboy(&world, &["budget", "show"])));
    let log = fs::read_to_string(world.dir.join("home/audit/audit.jsonl")).unwrap();
    plain("the log", &log);
    // Names that people give are names.
    for (file, agent) in [("home/agents/wild\u{1b}[2J.md", "wild\u{1b}[2J"), ("home/agents/a\nb.md", "a\nb")] {
        world.write(file, "---\nbottle: test\n---\n");
        let output = carboy(&world, &["run", agent, "--", "true"]);
        assert!(!output.status.success(), "{output:?}");
        plain("a refusal of a name", &stderr(&output));
        plain("the list", &stdout(&carboy(&world, &["ps"])));
    }
}
