//! Published and forwarded ports, with real servers and clients on both sides.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use carboy_core::audit::Entry;
use serde_json::Value;

use crate::waiting::within;
use crate::world::{ORDINARY_USER, Person, REAL_KEY, STANDARD_ROUTES, World, is_root};
use crate::{Case, case, case_with};

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(20);
const PYTHON: &str = "/usr/bin/python3";
/// A port inside at which no test's service really is.
const INSIDE: u16 = 54_320;

pub fn cases() -> Vec<Case> {
    vec![
        case_with("a server inside is reached at its published port, and listed", &[PYTHON, "curl"], publish),
        case_with("publish and forward hold in tier T2 as well", &[PYTHON, "curl"], tier2),
        case_with("forward: a TCP and a Unix service of the host, at localhost inside", &[PYTHON], forward),
        case_with("forward: every other port of the host stays out of reach", &[PYTHON], nothing_else),
        case_with("forward: megabytes both ways, many at once, and one side that ends first", &[PYTHON], traffic),
        case_with("forward: a known secret is cut, and the log says how much had left", &[PYTHON], secret),
        case_with("forward: psql inside, Postgres outside", &["/usr/lib/postgresql", PYTHON], postgres),
        case("a port of the host that is in use stops the launch, and the error names it", in_use),
        case("a socket that the bottle could exchange is no service", exchanged_socket),
        case("a link that a bottle made, or could make the end of, leads to no service", led_elsewhere),
        case("a port can be given for one run, and is refused as in a file", flags),
        case_with("kill leaves no listener behind, and neither does a killed supervisor", &[PYTHON], gone),
    ]
}

fn bottle(world: &World, keys: &str) {
    world.bottle(&format!("{STANDARD_ROUTES}{keys}"));
}

/// A port of the host that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A run under way that is killed when it is dropped.
struct Live<'w> {
    world: &'w World,
    child: Child,
    summary: PathBuf,
}

impl<'w> Live<'w> {
    fn start(world: &'w World, command: &[&str]) -> Live<'w> {
        let place = world.dir.join("summaries");
        fs::create_dir_all(&place).unwrap();
        let summary = place.join("live.json");
        let mut arguments = vec!["run", "--bottle", "test", "--summary-json", summary.to_str().unwrap(), "--"];
        arguments.extend(command);
        let child = world.carboy(&arguments).spawn().unwrap();
        Live { world, child, summary }
    }

    /// What `ps --json` tells of it.
    fn listed(&self) -> Value {
        let output = self.world.carboy(&["ps", "--json"]).output().unwrap();
        let runs: Value = serde_json::from_slice(&output.stdout).unwrap();
        runs[0].clone()
    }

    fn stop(mut self) -> Value {
        let output = self.world.carboy(&["stop", "--kill", "test"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        within(HAPPEN_WAIT_MAX, "the run ends", || self.child.try_wait().unwrap());
        serde_json::from_slice(&fs::read(&self.summary).unwrap()).unwrap()
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body at this address, as soon as somebody answers there.
fn fetched(url: &str) -> String {
    within(HAPPEN_WAIT_MAX, url, || {
        let output = Command::new("curl").args(["-sS", "--fail", "--max-time", "10", url]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

fn ports_of(entries: &[Entry], action: &str) -> Vec<Entry> {
    let fits = |entry: &&Entry| entry.text("event_type") == Some("port") && entry.text("action") == Some(action);
    entries.iter().filter(fits).cloned().collect()
}

fn number(entry: &Entry, name: &str) -> u64 {
    entry.detail(name).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {name} in {entry:?}"))
}

fn is_refused(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
}

fn publish(person: Person) {
    let world = World::new(person);
    let port = free_port();
    bottle(&world, &format!("publish: [\"{port}:3000\"]\n"));
    world.write("project/page.txt", "from inside\n");
    let live = Live::start(&world, &[PYTHON, "-m", "http.server", "3000", "--bind", "127.0.0.1"]);
    for _ in 0..3 {
        assert_eq!(fetched(&format!("http://127.0.0.1:{port}/page.txt")), "from inside\n");
    }
    let listed = live.listed();
    let joined = &listed["ports"][0];
    assert_eq!((&joined["key"], &joined["inside"]), (&"publish".into(), &3000.into()), "{listed}");
    assert_eq!(joined["outside"], format!("127.0.0.1:{port}"));
    assert!(joined["connections"].as_u64().unwrap() >= 3 && joined["bytes_out"].as_u64().unwrap() > 36);
    let summary = live.stop();
    assert_eq!(summary["ports"][0]["inside"], 3000);
    assert!(is_refused(port));
    let (opened, closed) = (ports_of(&world.log(), "open"), ports_of(&world.log(), "close"));
    assert_eq!(opened.len(), closed.len());
    assert!(opened[0].detail("peer").and_then(Value::as_str).unwrap().starts_with("127.0.0.1:"));
    assert!(number(&closed[0], "bytes_in") > 10 && number(&closed[0], "bytes_out") > 12);
    assert_eq!(closed[0].detail("outside").and_then(Value::as_str), Some(&*format!("127.0.0.1:{port}")));
}

fn tier2(person: Person) {
    let world = World::new(person);
    let (port, echo) = (free_port(), echo_service());
    world.settings("capture: force-t2\n");
    bottle(&world, &format!("publish: [\"{port}:3000\"]\nforward: {{{INSIDE}: \"{echo}\"}}\n"));
    world.write("project/page.txt", "from inside\n");
    let live = Live::start(
        &world,
        &["sh", "-c", &format!("{PYTHON} -c '{}' >got; exec {PYTHON} -m http.server 3000", say_once())],
    );
    assert_eq!(fetched(&format!("http://127.0.0.1:{port}/page.txt")), "from inside\n");
    assert_eq!(fetched(&format!("http://127.0.0.1:{port}/got")), "hello\n");
    assert_eq!(live.listed()["tier"], "T2");
    live.stop();
    // What would answer there is the gateway.
    bottle(&world, &format!("publish: [\"{port}:443\"]\n"));
    let ran = world.run(&["true"]).expect_code(78);
    assert!(ran.stderr.contains("port 443 inside is the gateway's own in tier T2"), "{}", ran.stderr);
}

/// A service of the host that sends back what it is sent.
fn echo_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = stream.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    address
}

fn unix_echo_service(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let (mut from, mut to) = (&stream, &stream);
            let _ = std::io::copy(&mut from, &mut to);
        }
    });
}

/// One word to the service at [`INSIDE`] and back.
fn say_once() -> String {
    format!(
        "import socket; s = socket.create_connection((\"localhost\", {INSIDE}), 10); s.sendall(b\"hello\\n\"); \
         s.shutdown(1); print(s.makefile().read(), end=\"\")"
    )
}

fn forward(person: Person) {
    let world = World::new(person);
    let (tcp, socket) = (echo_service(), world.dir.join("echo.sock"));
    unix_echo_service(&socket);
    bottle(&world, &format!("forward: {{{INSIDE}: \"{tcp}\", 54321: \"{}\"}}\n", socket.display()));
    let script = format!(
        "import socket\n\
         for host, port in (('127.0.0.1', {INSIDE}), ('::1', {INSIDE}), ('localhost', 54321)):\n\
         \x20   s = socket.create_connection((host, port), 10)\n\
         \x20   for word in (b'one', b'two'):\n\
         \x20       s.sendall(word)\n\
         \x20       print(s.recv(10).decode())\n\
         for address in ('127.0.0.1', '0.0.0.0'):\n\
         \x20   try: socket.socket().bind((address, {INSIDE}))\n\
         \x20   except OSError as e: print(e.strerror)\n"
    );
    let ran = world.run(&[PYTHON, "-c", &script]).expect_code(0);
    assert_eq!(ran.stdout, format!("{}{}", "one\ntwo\n".repeat(3), "Address already in use\n".repeat(2)));
    let opened = ports_of(&ran.entries, "open");
    assert_eq!(opened.len(), 3);
    assert_eq!(opened[2].detail("outside").and_then(Value::as_str), socket.to_str());
    assert!(ports_of(&ran.entries, "close").iter().all(|closed| number(closed, "bytes_out") == 6));
    assert!(
        ran.stderr.contains(&format!("port {INSIDE} inside → {tcp}: 2 connections, 12 B out, 12 B in")),
        "{}",
        ran.stderr
    );
}

fn nothing_else(person: Person) {
    let world = World::new(person);
    bottle(&world, &format!("forward: {{{INSIDE}: \"{}\"}}\n", echo_service()));
    let canary = world.canary.tcp_addr;
    // The canary's port on the loopback, on other addresses, and through the forwarded port with another name.
    let script = format!(
        "import socket\n\
         for host in ('127.0.0.1', '::1', 'localhost', '127.0.0.2'):\n\
         \x20   try: socket.create_connection((host, {port}), 5); print('reached', host)\n\
         \x20   except OSError as e: print(e.strerror)\n\
         s = socket.create_connection(('127.0.0.1', {INSIDE}), 5)\n\
         s.sendall(b'CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\n\\r\\n'); s.shutdown(1)\n\
         print(s.makefile().read()[:7])\n",
        port = canary.port()
    );
    let ran = world.run(&[PYTHON, "-c", &script]).expect_code(0);
    assert_eq!(ran.stdout, format!("{}CONNECT\n", "Connection refused\n".repeat(4)), "{}", ran.stderr);
    world.assert_nothing_escaped();
}

fn traffic(person: Person) {
    let world = World::new(person);
    bottle(&world, &format!("forward: {{{INSIDE}: \"{}\"}}\n", echo_service()));
    // Every connection sends megabytes, ends its side, and reads the same back.
    let script = format!(
        "import hashlib, os, socket, threading\n\
         def one(size, results):\n\
         \x20   data = os.urandom(size)\n\
         \x20   s = socket.create_connection(('127.0.0.1', {INSIDE}), 30)\n\
         \x20   def send(): s.sendall(data); s.shutdown(socket.SHUT_WR)\n\
         \x20   t = threading.Thread(target=send); t.start()\n\
         \x20   h = hashlib.sha256()\n\
         \x20   while (part := s.recv(65536)): h.update(part)\n\
         \x20   t.join()\n\
         \x20   results.append(h.digest() == hashlib.sha256(data).digest())\n\
         for count, size in ((1, 24 << 20), (100, 100_000)):\n\
         \x20   results = []\n\
         \x20   all = [threading.Thread(target=one, args=(size, results)) for _ in range(count)]\n\
         \x20   [t.start() for t in all]; [t.join() for t in all]\n\
         \x20   print(results.count(True), 'of', count)\n"
    );
    let ran = world.run(&[PYTHON, "-c", &script]).expect_code(0);
    assert_eq!(ran.stdout, "1 of 1\n100 of 100\n", "{}", ran.stderr);
    let port = &ran.summary["ports"][0];
    let sent = (24 << 20) + 100 * 100_000;
    assert_eq!(
        (&port["connections"], &port["bytes_out"], &port["bytes_in"]),
        (&101.into(), &sent.into(), &sent.into())
    );
}

fn secret(person: Person) {
    let world = World::new(person);
    let (told, heard) = std::sync::mpsc::channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            let _ = told.send(bytes);
        }
    });
    bottle(&world, &format!("forward: {{{INSIDE}: \"{service}\"}}\n"));
    // The real key lies in a file of the workspace, as it does in many.
    world.write("project/.env", &format!("ANTHROPIC_API_KEY={REAL_KEY}\n"));
    let script = format!(
        "import base64, socket, time\n\
         key = open('.env').read().split('=')[1].strip().encode()\n\
         for text in (b'x ' + key, base64.b64encode(key), key):\n\
         \x20   s = socket.create_connection(('127.0.0.1', {INSIDE}), 10)\n\
         \x20   try:\n\
         \x20       s.sendall(b'row: ')\n\
         \x20       for part in ([text] if text != key else [bytes([b]) for b in text]):\n\
         \x20           s.sendall(part); time.sleep(0.002)\n\
         \x20       s.shutdown(1); s.recv(1)\n\
         \x20   except OSError: pass\n"
    );
    let ran = world.run(&[PYTHON, "-c", &script]).expect_code(0);
    for _ in 0..3 {
        let bytes = heard.recv_timeout(HAPPEN_WAIT_MAX).unwrap();
        assert!(bytes.len() <= 5 + 10, "{}", String::from_utf8_lossy(&bytes));
    }
    let closed = ports_of(&ran.entries, "close");
    assert!(closed.iter().all(|entry| entry.text("result") == Some("blocked")), "{closed:?}");
    assert!(closed.iter().all(|entry| number(entry, "bytes_out") <= 15));
    assert_eq!(ran.refused("secret_known"), 3);
    assert_eq!(ran.summary["ports"][0]["cut"], 3);
    let id = closed[0].detail("refusal").and_then(Value::as_str).unwrap();
    let explained = world.carboy(&["explain", id]).output().unwrap();
    let said = String::from_utf8_lossy(&explained.stdout);
    assert!(explained.status.success(), "{}", String::from_utf8_lossy(&explained.stderr));
    assert!(
        said.contains(&format!("a connection through `forward`: port {INSIDE} inside and {service} outside")),
        "{said}"
    );
    assert!(said.contains("secret_known"), "{said}");
}

/// A server of its own, which trusts whoever connects.
struct Postgres {
    server: Child,
    binaries: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    fn start() -> Postgres {
        let versions = fs::read_dir("/usr/lib/postgresql").unwrap().flatten().map(|entry| entry.path().join("bin"));
        let binaries = versions.filter(|bin| bin.join("initdb").exists()).max().unwrap();
        let directory = tempfile::Builder::new().prefix("carboy-pg-").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let (data, port) = (directory.path().join("data"), free_port());
        // It refuses to run as root.
        let as_user = |program: &str| {
            let mut command = match is_root() {
                true => Command::new("runuser"),
                false => Command::new(binaries.join(program)),
            };
            if is_root() {
                command.args(["-u", ORDINARY_USER, "--"]).arg(binaries.join(program));
            }
            command.current_dir("/").env("LC_ALL", "C.UTF-8").stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let made =
            as_user("initdb").args(["-N", "-A", "trust", "-U", "carboy", "-E", "UTF8", "-D"]).arg(&data).status();
        assert!(made.unwrap().success());
        let mut server = as_user("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(directory.path()).args([
            "-F",
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
        ]);
        let server = server.spawn().unwrap();
        within(HAPPEN_WAIT_MAX, "Postgres listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Postgres { server, binaries, directory, port }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(format!(".s.PGSQL.{}", self.port))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, with its children; the process that was started may be the one that changed the user.
        let pid = fs::read_to_string(self.directory.path().join("data/postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next().and_then(|l| l.parse().ok()).and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.server.wait();
    }
}

fn postgres(person: Person) {
    let world = World::new(person);
    let postgres = Postgres::start();
    let keys =
        format!("forward: {{5432: \"127.0.0.1:{}\", 5433: \"{}\"}}\n", postgres.port, postgres.socket().display());
    bottle(&world, &keys);
    let psql = postgres.binaries.join("psql");
    let script = format!(
        "set -e; for port in 5432 5433; do\n\
         p() {{ {psql} -X -q -t -A -v ON_ERROR_STOP=1 -h localhost -p $port -U carboy postgres \"$@\"; }}\n\
         p -c \"create table t$port as select n, md5(n::text) as hash from generate_series(1, 50000) n\"\n\
         p -c \"copy t$port to stdout\" > rows\n\
         p -c \"create table u$port (n int, hash text)\"\n\
         p -c \"copy u$port from stdin\" < rows\n\
         p -c \"select count(*), (select count(*) from t$port natural join u$port) from u$port\"\n\
         done",
        psql = psql.display()
    );
    let ran = world.sh(&script).expect_code(0);
    assert_eq!(ran.stdout, "50000|50000\n50000|50000\n", "{}", ran.stderr);
    assert_eq!(ran.summary["ports"][0]["cut"], 0);
}

fn in_use(person: Person) {
    let world = World::new(person);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    bottle(&world, &format!("publish: [\"{port}:3000\"]\n"));
    let ran = world.run(&["true"]).expect_code(78);
    let said = format!("`publish` 127.0.0.1:{port}:3000: port {port} of 127.0.0.1 is in use on this host");
    assert!(ran.stderr.contains(&said), "{}", ran.stderr);
    assert!(!ran.entries.iter().any(|entry| entry.text("action") == Some("start")));
    // Inside, the gateway has the port.
    bottle(&world, "publish: [\"53\"]\n");
    assert!(world.run(&["true"]).expect_code(78).stderr.contains("port 53 inside is the gateway's own"));
}

/// B44, B51: a program inside, or one of an earlier run, could put a link to another socket there.
fn exchanged_socket(person: Person) {
    let world = World::new(person);
    let place = world.project.join("db.sock");
    bottle(&world, &format!("forward: {{{INSIDE}: \"{}\"}}\n", place.display()));
    let ran = world.run(&["true"]).expect_code(78);
    assert!(ran.stderr.contains("a bottle can write to"), "{}", ran.stderr);
    let link = world.dir.join("elsewhere.sock");
    fs::write(world.dir.join("docker.sock"), "").unwrap();
    std::os::unix::fs::symlink(world.dir.join("docker.sock"), &link).unwrap();
    bottle(&world, &format!("forward: {{{INSIDE}: \"{}\"}}\n", link.display()));
    let ran = world.run(&["true"]).expect_code(78);
    assert!(ran.stderr.contains("whoever speaks to Docker is root of the host"), "{}", ran.stderr);
}

// B44, B51
fn led_elsewhere(person: Person) {
    let world = World::new(person);
    let refused = |socket: &Path, said: &str| {
        bottle(&world, &format!("forward: {{{INSIDE}: \"{}\"}}\n", socket.display()));
        let ran = world.run(&["true"]).expect_code(78);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    };
    let link = |target: &Path, name: &Path| std::os::unix::fs::symlink(target, name).unwrap();
    // The operator's own link into the project, where nothing is yet: the program would say where it ends.
    let (early, service) = (world.dir.join("early.sock"), world.dir.join("service.sock"));
    link(&world.project.join("run.sock"), &early);
    refused(&early, "a bottle can write to");
    // What an earlier run left in the service's place.
    unix_echo_service(&service);
    link(&service, &world.project.join("pg.sock"));
    refused(&world.project.join("pg.sock"), "a bottle can write to");
    let nowhere = world.dir.join("nowhere.sock");
    link(&world.dir.join("gone.sock"), &nowhere);
    refused(&nowhere, "it is a link to");
}

fn flags(person: Person) {
    let world = World::new(person);
    let flag = format!("{INSIDE}:{}", echo_service());
    let ran = world.run_with(&["--forward", &flag], &[PYTHON, "-c", &say_once()]).expect_code(0);
    assert_eq!(ran.stdout, "hello\n");
    for (wrong, said) in [
        (["--forward", "5432:localhost:5432"], "write the port inside, a colon and the service"),
        (["--forward", "1:/var/run/docker.sock"], "whoever speaks to Docker is root of the host"),
        (["--publish", "localhost:80:80"], "write PORT, \"HOST_PORT:PORT\""),
    ] {
        let ran = world.run_with(&wrong, &["true"]).expect_code(2);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
    let both = format!("{}:{INSIDE}", free_port());
    let ran = world.run_with(&["--forward", &flag, "--publish", &both], &["true"]).expect_code(2);
    assert!(ran.stderr.contains("both published and forwarded"), "{}", ran.stderr);
}

fn gone(person: Person) {
    let world = World::new(person);
    let port = free_port();
    bottle(&world, &format!("publish: [\"{port}:3000\"]\n"));
    for killed in [false, true] {
        let mut live = Live::start(&world, &[PYTHON, "-m", "http.server", "3000"]);
        let mut open =
            within(HAPPEN_WAIT_MAX, "the port is published", || TcpStream::connect(("127.0.0.1", port)).ok());
        within(HAPPEN_WAIT_MAX, "the server answers", || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).ok()?;
            line.contains("200").then_some(())
        });
        if killed {
            let pid = i32::try_from(live.listed()["record"]["supervisor_pid"].as_i64().unwrap()).unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            within(HAPPEN_WAIT_MAX, "the run ends", || live.child.try_wait().unwrap());
            drop(live);
        } else {
            live.stop();
        }
        within(HAPPEN_WAIT_MAX, "the listener is gone", || is_refused(port).then_some(()));
        // And so is the connection that was open.
        open.set_read_timeout(Some(HAPPEN_WAIT_MAX)).unwrap();
        assert!(matches!(open.read(&mut [0]), Ok(0) | Err(_)));
    }
}
