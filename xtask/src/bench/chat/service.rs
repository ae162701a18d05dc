//! The services that are compared: started, waited for until they answer, and ended in order.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::Bench;
use super::super::budget::home::{Home, KEY};

/// How long a service may take until it answers.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Lines of a service's own that an error shows.
const LINES_SHOWN: usize = 30;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// How long it may take to end.
const END_MAX: Duration = Duration::from_secs(15);
/// The peer's file, as a module of Python.
const MODULE: &str = "peer";
/// What cookies of the peer are signed with.
const SECRET: &str = "bench-b1946ac92492d2347c6235b4d2611184";

/// One that is to be started, and the file with what it says.
pub struct Launch {
    command: Command,
    log: PathBuf,
}

/// One that runs.
pub struct Service {
    child: Child,
    pub address: SocketAddr,
    log: PathBuf,
}

impl Service {
    /// Starts it; gives it when `/health` said 200, with the milliseconds from the start until then.
    pub fn start(name: &str, launch: Launch, address: SocketAddr) -> Result<(Service, f64), String> {
        let Launch { mut command, log } = launch;
        let file = std::fs::File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = file.map_err(|error| format!("cannot make {}: {error}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let begun = Instant::now();
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let mut service = Service { child, address, log };
        while !healthy(address) {
            if begun.elapsed() > ANSWER_MAX || !matches!(service.child.try_wait(), Ok(None)) {
                return Err(service.blamed(name)(format!("no answer on {address}")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok((service, begun.elapsed().as_secs_f64() * 1e3))
    }

    /// An error with the last that the service said.
    pub fn blamed(&self, name: &str) -> impl Fn(String) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
        move |error| format!("{name}: {error}; the last that it said:\n{last}")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Asked as a service manager asks.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let begun = Instant::now();
        while begun.elapsed() < END_MAX {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // It had its time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn healthy(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut head = [0; 12];
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.set_read_timeout(Some(ANSWER_MAX)).is_ok()
        && stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut head).is_ok()
        && head == *b"HTTP/1.1 200"
}

/// An address that is free now.
pub fn free_address() -> Result<SocketAddr, String> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map_err(|error| format!("no free port: {error}"))
}

/// How carboy is started: its program and a home with settings.
pub struct Carboy {
    pub program: PathBuf,
    pub root: PathBuf,
    work: PathBuf,
}

impl Carboy {
    /// `root` has the settings already.
    pub fn new(bench: &Bench, program: &Path, root: &Path) -> Result<Carboy, String> {
        Ok(Carboy { program: program.to_owned(), root: root.to_owned(), work: bench.directory("work")? })
    }

    /// What is written into settings: where the model is, and limits that are nobody's way. They are settings that anybody
    /// has.
    pub fn settings(model: &str, per_minute: u32) -> String {
        format!(
            "upstreams:\n  api.anthropic.com: {{address: \"{model}\", tls: false}}\nbudget: {{claude: 1000000M}}\nchat:\n  \
             requests_per_hour: {per_minute}\n  requests_per_ip_per_minute: {per_minute}\n  \
             requests_per_ip_per_hour: {per_minute}\n  requests_per_session_per_minute: {per_minute}\n"
        )
    }

    /// A home with these settings and its controller.
    pub fn home(&self, bench: &Bench, settings: &str) -> Result<Home, String> {
        Home::with(bench, &self.program, &self.program, &self.root, settings)
    }

    /// `carboy serve bookly`.
    pub fn serve(&self, address: SocketAddr) -> Launch {
        let mut command = self.command(&["serve", "bookly", "--listen"]);
        command.arg(address.to_string()).env("ANTHROPIC_API_KEY", KEY);
        Launch { command, log: self.work.join("serve.log") }
    }

    /// Bookly has a cap for a day of its own, which a bench has used up in seconds; the operator's is over it.
    pub fn lift_cap(&self) -> Result<(), String> {
        self.carry_out(&["budget", "set", "agent:bookly", "1000000M"])
    }

    /// Ends a controller that a service started.
    pub fn end_controller(&self) -> Result<(), String> {
        self.carry_out(&["controller", "stop", "--force"])
    }

    fn carry_out(&self, words: &[&str]) -> Result<(), String> {
        let output = self.command(words).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("cannot run carboy: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(format!("`carboy {}` failed: {}", words.join(" "), said.trim_end()))
            }
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(&self.work).env("CARBOY_HOME", &self.root).env_remove("XDG_RUNTIME_DIR");
        command
    }
}

/// How the peer is started.
pub struct Peer {
    python: PathBuf,
    place: PathBuf,
    spec: PathBuf,
    model: String,
    workers: usize,
}

impl Peer {
    /// With a directory of its own; `spec` is what it is told of prompt, tools and policies.
    pub fn new(bench: &Bench, spec: &str, model: &str, workers: usize) -> Result<Peer, String> {
        let name = format!("peer-{workers}");
        let place = bench.directory(&name)?;
        let source = bench.top.join("xtask/bench-chat-peer.py");
        let copied = std::fs::copy(&source, place.join(format!("{MODULE}.py")));
        copied.map_err(|error| format!("cannot copy {}: {error}", source.display()))?;
        let spec = bench.file(&format!("{name}/spec.json"), spec)?;
        let python = bench.peers.join("fastapi/bin/python");
        Ok(Peer { python, place, spec, model: model.to_owned(), workers })
    }

    /// `Python 3.12.1`.
    pub fn python_version(&self) -> Result<String, String> {
        let output = Command::new(&self.python).arg("--version").output();
        let output = output.map_err(|error| format!("cannot run {}: {error}", self.python.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// `uvicorn` with its fast loop and parser, and its log, which goes where carboy's goes.
    pub fn serve(&self, address: SocketAddr) -> Launch {
        let mut command = Command::new(&self.python);
        command.args(["-m", "uvicorn", "peer:app", "--loop", "uvloop", "--http", "httptools", "--app-dir"]);
        command.arg(&self.place).args(["--host", "127.0.0.1", "--workers", &self.workers.to_string(), "--port"]);
        command.arg(address.port().to_string()).current_dir(&self.place);
        command
            .env("PEER_SPEC", &self.spec)
            .env("PEER_SECRET", SECRET)
            .env("PEER_DATABASE", self.place.join("sessions.db"))
            .env("PEER_MODEL_URL", format!("http://{}/v1/messages", self.model))
            .env("PEER_MODEL_KEY", KEY);
        Launch { command, log: self.place.join("serve.log") }
    }
}
