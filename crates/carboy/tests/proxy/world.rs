//! A bottle `test`, a provider on loopback, and a proxy that listens.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use carboy_core::audit::Entry;
use carboy_sim::Script;
use serde_json::Value;

use crate::desk::{Desk, KEY};
use crate::waiting;

/// Longest wait for what happens by itself.
pub const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(60);
/// What the provider says to everything; only its first words, so that its wording stays its own.
pub const GREETING: &str = "Hello from the simulated provider.";
/// In every fake.
pub const FAKE: &str = "carboy-placeholder";
/// A call of Anthropic's as JSON.
pub const CALL: &str = r#"{"model":"claude-opus-4-8","max_tokens":64,"messages":[{"role":"user","content":"hi"}]}"#;
/// The bottle's routes: a model with its key, and a page in plain text.
pub const ROUTES: &str = "egress:\n  routes:\n    - host: api.anthropic.com\n      auth_scheme: Bearer\n      \
                          token_env: ANTHROPIC_API_KEY\n      meter: anthropic\n    - host: plain.example\n      ports: [80]\n      \
                          dlp: {outbound_on_match: block}\n";

/// A desk with the bottle and its provider.
pub fn desk(script: Script, pace: Duration, more: &str) -> Desk {
    let desk = Desk::with_provider(script, pace);
    let settings = std::fs::read_to_string(desk.path("home/settings.yml")).unwrap();
    let plain = format!("  plain.example: {{address: \"{}\", tls: false}}\n", desk.provider().addr);
    desk.write("home/settings.yml", &(settings + &plain));
    desk.write("home/bottles/test.md", &format!("---\n{ROUTES}{more}---\nThe bottle of a test.\n"));
    desk
}

/// The same with a provider that greets.
pub fn greeting() -> Desk {
    desk(Script::default(), Duration::ZERO, "")
}

/// `carboy ARGUMENTS…` with the real key in the environment.
pub fn keyed(desk: &Desk, arguments: &[&str]) -> Command {
    let mut command = desk.carboy(arguments);
    command.env("ANTHROPIC_API_KEY", KEY).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `carboy proxy --bottle test FLAGS… -- COMMAND…` to its end.
pub fn beside(desk: &Desk, flags: &[&str], command: &[&str]) -> Output {
    let arguments = [&["proxy", "--bottle", "test", "-q"], flags, &["--"], command].concat();
    keyed(desk, &arguments).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A proxy that listens; killed when it is dropped.
pub struct Proxy<'d> {
    pub desk: &'d Desk,
    pub child: Child,
    /// What `--json` told.
    pub told: Value,
}

impl<'d> Proxy<'d> {
    pub fn start(desk: &'d Desk, flags: &[&str]) -> Proxy<'d> {
        let mut child = keyed(desk, &[&["proxy", "--bottle", "test", "--json"], flags].concat()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let told = serde_json::from_str(&line).unwrap_or_else(|_| {
            let mut error = String::new();
            child.stderr.as_mut().unwrap().read_to_string(&mut error).unwrap();
            panic!("no line of JSON: {line:?} {error}");
        });
        Proxy { desk, child, told }
    }

    pub fn run(&self) -> &str {
        self.told["run"].as_str().unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        self.told["listens"].as_str().unwrap().parse().unwrap()
    }

    pub fn password(&self) -> String {
        let address = self.told["proxy"].as_str().unwrap();
        address.split_once("//carboy:").unwrap().1.split_once('@').unwrap().0.to_owned()
    }

    pub fn ca(&self) -> PathBuf {
        self.told["ca_file"].as_str().unwrap().into()
    }

    /// A client with the variables and nothing else of the environment.
    pub fn client(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", std::env::var("PATH").unwrap_or_default());
        command.env("HOME", self.desk.path("")).current_dir(self.desk.path("work"));
        for (name, value) in self.told["variables"].as_object().unwrap() {
            command.env(name, value.as_str().unwrap());
        }
        command
    }

    pub fn curl(&self, arguments: &[&str]) -> Output {
        let output = self.client("curl", &[&["-sS", "-m", "40"], arguments].concat()).output();
        output.expect("curl is there; on Debian: apt-get install curl")
    }

    /// A call of the model through it, by curl with the variables; its body and status.
    pub fn calls(&self) -> String {
        let fields = ["-H", "anthropic-version: 2023-06-01", "-H", "content-type: application/json", "-d", CALL];
        let key = format!("x-api-key: {}", self.told["variables"]["ANTHROPIC_API_KEY"].as_str().unwrap());
        let url = "https://api.anthropic.com/v1/messages";
        let output = self.curl(&[&fields[..], &["-H", &key, "-w", " %{http_code}", url]].concat());
        text(&output.stdout) + &text(&output.stderr)
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> i32 {
        within("the proxy ends", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Entries of its run with this reason.
    pub fn refused(&self, reason: &str) -> Vec<Entry> {
        let own = |entry: &Entry| entry.text("run") == Some(self.run());
        let named = |entry: &Entry| entry.detail("reason").and_then(Value::as_str) == Some(reason);
        self.desk.log().into_iter().filter(|entry| own(entry) && named(entry)).collect()
    }

    /// What `ps --json` says of it.
    pub fn state(&self) -> Value {
        let output = keyed(self.desk, &["ps", "--json"]).output().unwrap();
        let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        all.into_iter().find(|run| run["record"]["run"] == self.run()).unwrap_or(Value::Null)
    }

    /// Nothing of it is there any more: no file, no record, nobody on its port.
    pub fn assert_gone(&self) {
        for file in [self.ca(), self.told["env_file"].as_str().unwrap().into()] {
            assert!(!file.exists() && !file.parent().unwrap().exists(), "{}", file.display());
        }
        let left = crate::desk::files_below(&self.desk.path("home/run"));
        assert!(!left.iter().any(|name| name.contains(self.run())), "{left:?}");
        if self.told["listens"].is_string() {
            assert!(TcpStream::connect(self.address()).is_err());
        }
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        // It has ended in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until it is there.
pub fn within<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    waiting::within(HAPPEN_WAIT_MAX, what, look)
}

/// A command of carboy's that has to work.
pub fn done(desk: &Desk, arguments: &[&str]) -> String {
    let output = keyed(desk, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output.stdout)
}

/// Where `xtask/clients.sh` puts the real clients; none where they are not installed, and that is said.
pub fn client(path: &str) -> Option<String> {
    let dir = std::env::var_os("CARBOY_CLIENTS").map_or_else(|| PathBuf::from("/opt/carboy-clients"), PathBuf::from);
    let program = dir.join(path);
    if !program.exists() {
        eprintln!("skipped: {} is not there; xtask/clients.sh installs it", program.display());
        return None;
    }
    Some(program.to_str().unwrap().to_owned())
}
