//! A person with a home of their own, the built binary, and where it is needed a provider on loopback and a terminal (tmux's).
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use carboy_core::audit::Entry;
use carboy_sim::{Config, Running, Script, Simulator};
use carboy_store::audit::{Query, query};

/// Longest wait for something to appear.
const APPEAR_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(30);
/// The provider's key.
pub const KEY: &str = "sk-ant-api03-real-0123456789abcdefghijklmnopqrstuvwxyz-REAL";

/// See the module. Its controller ends with it.
pub struct Desk {
    dir: tempfile::TempDir,
    provider: Option<(tokio::runtime::Runtime, Running)>,
}

/// The program: the one that was built with this test, or another build of it that is to be tried (`CARBOY_PROGRAM`).
pub fn program() -> PathBuf {
    std::env::var_os("CARBOY_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_carboy").into(), PathBuf::from)
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Desk {
    pub fn new() -> Desk {
        let desk = Desk { dir: tempfile::tempdir().unwrap(), provider: None };
        fs::create_dir_all(desk.path("work")).unwrap();
        fs::create_dir_all(desk.path("home")).unwrap();
        fs::set_permissions(desk.path("home"), fs::Permissions::from_mode(0o700)).unwrap();
        desk
    }

    /// With a provider that says what a script says, in the place of Anthropic's.
    pub fn with_provider(script: Script, pace: Duration) -> Desk {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let names = vec!["api.anthropic.com".to_owned()];
        let mut config = Config { anthropic_key: KEY.into(), names, script, ..Config::default() };
        config.faults.pace = pace;
        let provider = runtime.block_on(Simulator::start(config)).unwrap();
        let mut desk = Desk::new();
        desk.write("home/provider.pem", provider.ca_pem());
        let settings = format!(
            "upstreams:\n  api.anthropic.com: {{address: \"{}\", tls: true, ca: \"{}\"}}\n",
            provider.tls_addr,
            desk.path("home/provider.pem").display()
        );
        desk.write("home/settings.yml", &settings);
        desk.provider = Some((runtime, provider));
        desk
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Requests that the provider has had.
    pub fn provider_requests(&self) -> u64 {
        self.provider.as_ref().unwrap().1.requests()
    }

    /// The provider.
    pub fn provider(&self) -> &Running {
        &self.provider.as_ref().unwrap().1
    }

    /// `carboy ARGUMENTS…` in the working directory, without this process's environment.
    pub fn carboy(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).env_clear().current_dir(self.path("work"));
        command.env("HOME", self.path("")).env("CARBOY_HOME", self.path("home"));
        command.env("PATH", std::env::var("PATH").unwrap_or_default());
        command
    }

    /// The same with these lines on standard input, to its end.
    pub fn says(&self, arguments: &[&str], lines: &str) -> Ran {
        ran(self.carboy(arguments), lines)
    }

    /// One line to the built-in assistant and the offline model.
    pub fn asks(&self, line: &str) -> Ran {
        self.says(&["run", "assistant", "--model", "offline"], &format!("{line}\n"))
    }

    pub fn log(&self) -> Vec<Entry> {
        query(&self.path("home/audit/audit.jsonl"), &Query::default()).unwrap().entries
    }

    /// Entries of the log with this action.
    pub fn entries(&self, action: &str) -> Vec<Entry> {
        self.log().into_iter().filter(|entry| entry.text("action") == Some(action)).collect()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.carboy(&["controller", "stop", "--force"]).output();
    }
}

pub fn ran(mut command: Command, lines: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = lines.to_owned();
    // It may have ended before it has read all.
    let writing = std::thread::spawn(move || drop(stdin.write_all(lines.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    told(&output)
}

pub fn told(output: &Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A terminal in which carboy was started; when it has ended, the shell says so.
pub struct Screen<'d> {
    desk: &'d Desk,
}

impl<'d> Screen<'d> {
    pub fn open(desk: &'d Desk, arguments: &[&str], variables: &[(&str, &str)]) -> Screen<'d> {
        Screen::of_columns("160", desk, arguments, variables)
    }

    /// In a window of so many columns.
    pub fn of_columns(columns: &str, desk: &'d Desk, arguments: &[&str], variables: &[(&str, &str)]) -> Screen<'d> {
        let command = desk.carboy(arguments);
        let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        let mut words = vec!["env".to_owned(), "-i".to_owned(), "TERM=tmux".to_owned(), "LANG=C.UTF-8".to_owned()];
        let own = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let envs =
            command.get_envs().map(|(n, v)| (n.to_str().unwrap().to_owned(), v.unwrap().to_str().unwrap().to_owned()));
        words.extend(envs.chain(own).map(|(name, value)| format!("{name}={}", quoted(&value))));
        words.push(quoted(command.get_program().to_str().unwrap()));
        words.extend(command.get_args().map(|word| quoted(word.to_str().unwrap())));
        let line = format!("{}; echo \"over with $?\"; PS1='outer> ' exec sh -i", words.join(" "));
        desk.write("tmux.conf", "set -g status off\nset -g default-terminal tmux\n");
        let screen = Screen { desk };
        let work = desk.path("work");
        screen.tmux(&["-u", "new-session", "-d", "-x", columns, "-y", "50", "-c", work.to_str().unwrap(), &line]);
        screen
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let (socket, conf) = (self.desk.path("tmux.sock"), self.desk.path("tmux.conf"));
        let tmux = Command::new("tmux").arg("-S").arg(socket).arg("-f").arg(conf).args(arguments).output();
        let output = tmux.expect("tmux; install it (apt-get install tmux)");
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn text(&self) -> String {
        let lines = self.tmux(&["capture-pane", "-p", "-J", "-S", "-200"]);
        lines.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
    }

    /// Waits until it is on the screen.
    pub fn see(&self, what: &str) -> String {
        self.see_where(what, |text| text.contains(what))
    }

    /// Waits until it is there so often.
    pub fn see_times(&self, what: &str, times: usize) -> String {
        self.see_where(what, |text| text.matches(what).count() >= times)
    }

    /// The same with a condition of one's own.
    pub fn see_where(&self, what: &str, shown: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + APPEAR_WAIT_MAX;
        loop {
            let text = self.text();
            if shown(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "`{what}` did not appear on:\n{text}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Types a line.
    pub fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.key("Enter");
    }

    /// Presses a key by tmux's name for it.
    pub fn key(&self, name: &str) {
        self.tmux(&["send-keys", name]);
    }

    /// Pastes, as a terminal does.
    pub fn paste(&self, text: &str) {
        self.tmux(&["set-buffer", "-b", "p", text]);
        self.tmux(&["paste-buffer", "-p", "-b", "p"]);
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let socket = self.desk.path("tmux.sock");
        let _ = Command::new("tmux").arg("-S").arg(&socket).arg("kill-server").output();
        // It says that it goes before it has gone, and the next one has the same socket.
        let deadline = Instant::now() + APPEAR_WAIT_MAX;
        while std::os::unix::net::UnixStream::connect(&socket).is_ok() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Every file below a directory, by its path from there.
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}
