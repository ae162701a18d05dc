//! One test's world: a home of carboy's, a workspace, a simulated provider outside, and canaries that must not hear anything.
//!
//! The provider and the canaries listen in the test's own process, outside of every bottle. What a bottle is asked to
//! do is done through the built binary, as a person would: `carboy run --bottle test -- COMMAND…`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use carboy_core::audit::Entry;
use carboy_sim::probe::{Order, Report};
use carboy_sim::{Config, Origin, Running, Simulator};
use serde_json::Value;

/// The user that `cargo xtask test` creates for the second half of the tests.
pub const ORDINARY_USER: &str = "carboytest";
/// Longest time that one run may take.
pub const RUN_WAIT_MAX: Duration = Duration::from_secs(120);
/// The key that only the provider and the vault know.
pub const REAL_KEY: &str = "sk-ant-api03-real-0123456789abcdefghijklmnopqrstuvwxyz-REAL";
/// OpenAI's.
pub const REAL_OPENAI_KEY: &str = "sk-proj-real-0123456789abcdefghijklmnopqrstuvwxyz-REAL";
/// Google's.
pub const REAL_GEMINI_KEY: &str = "AIza-real-0123456789abcdefghijklmnopqrstuvw-REAL";
/// Names that are all reached at the provider.
const PROVIDER_NAMES: [&str; 7] = [
    "api.anthropic.com",
    "api.openai.com",
    "chatgpt.com",
    "generativelanguage.googleapis.com",
    "notes.example",
    "git.example",
    "a.wild.example",
];
/// A secret of the host that must never get out, and that no route injects.
pub const CANARY: &str = "canary-7d1f0c9e5b3a4826-never-outside";

/// As whom carboy is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Person {
    /// The user who runs the tests.
    Me,
    /// [`ORDINARY_USER`], when the tests are run by root.
    Ordinary,
}

/// A place for one test; everything goes when it is dropped.
pub struct World {
    /// Directory of this test.
    pub dir: PathBuf,
    /// The workspace.
    pub project: PathBuf,
    /// The provider outside.
    pub provider: Running,
    /// Must stay untouched.
    pub canary: Origin,
    /// What carboy sees in place of `/etc/hosts`; needs root.
    pub hosts: Option<PathBuf>,
    person: Person,
    runtime: tokio::runtime::Runtime,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The summary that `--summary-json` wrote.
    pub summary: Value,
    /// The run's log entries.
    pub entries: Vec<Entry>,
}

/// A run that is under way, with the simulated agent inside.
pub struct Agent<'w> {
    world: &'w World,
    child: Child,
    orders: Option<ChildStdin>,
    reports: BufReader<ChildStdout>,
    summary: PathBuf,
    log_before: usize,
}

/// The user and group ids of [`ORDINARY_USER`].
pub fn ordinary_ids() -> Option<(u32, u32)> {
    carboy_control::host_user::ids_of(ORDINARY_USER).ok()
}

/// Are the tests run by root?
pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// The binary under test, copied once to where every user can execute it.
fn binary() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("carboy-bin-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = dir.join("carboy");
        fs::copy(env!("CARGO_BIN_EXE_carboy"), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    })
}

/// Removes the copy of the binary; called once, at the end.
pub fn clean_up() {
    let _ = fs::remove_dir_all(binary().parent().unwrap());
}

impl World {
    /// A world with the standard bottle `test` (see [`World::bottle`]).
    pub fn new(person: Person) -> World {
        World::configured(person, |_| {})
    }

    /// The same with a provider that was told more.
    pub fn configured(person: Person, tell: impl FnOnce(&mut Config)) -> World {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut config = Config {
            anthropic_key: REAL_KEY.into(),
            openai_key: REAL_OPENAI_KEY.into(),
            gemini_key: REAL_GEMINI_KEY.into(),
            names: PROVIDER_NAMES.map(String::from).to_vec(),
            ..Config::default()
        };
        tell(&mut config);
        let provider = runtime.block_on(Simulator::start(config)).unwrap();
        let canary = runtime.block_on(Origin::start(IpAddr::from([127, 0, 0, 1]))).unwrap();
        let dir = tempfile::Builder::new().prefix("carboy-test-").tempdir().unwrap().keep();
        let project = dir.join("project");
        for path in [&dir.join("home"), &dir.join("home/bottles"), &dir.join("home/agents"), &project] {
            fs::create_dir_all(path).unwrap();
        }
        let world = World { dir, project, provider, canary, hosts: None, person, runtime };
        world.write("home/provider.pem", world.provider.ca_pem());
        world.settings("");
        world.bottle(STANDARD_ROUTES);
        world
    }

    /// Writes a file below the test's directory, owned by the person.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        self.own();
    }

    /// Writes `settings.yml`: every name of the provider's is reached at the provider; `more` is added at the end.
    pub fn settings(&self, more: &str) {
        let mut text = String::from("upstreams:\n");
        for host in PROVIDER_NAMES {
            text.push_str(&format!(
                "  {host}: {{address: \"{}\", tls: true, ca: \"{}/home/provider.pem\"}}\n",
                self.provider.tls_addr,
                self.dir.display()
            ));
        }
        text.push_str(&format!("  plain.example: {{address: \"{}\", tls: false}}\n", self.provider.addr));
        text.push_str(more);
        self.write("home/settings.yml", &text);
    }

    /// Writes the bottle `test` with these front-matter lines.
    pub fn bottle(&self, front_matter: &str) {
        self.write("home/bottles/test.md", &format!("---\n{front_matter}---\nThe bottle of a test.\n"));
    }

    /// Gives everything below the directory to the person, and closes it to others.
    fn own(&self) {
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o711)).unwrap();
        if let (Person::Ordinary, Some((uid, gid))) = (self.person, ordinary_ids()) {
            own_tree(&self.dir, uid, gid);
        }
        for private in ["home", "home/bottles", "home/agents"] {
            fs::set_permissions(self.dir.join(private), fs::Permissions::from_mode(0o700)).unwrap();
        }
    }

    /// The binary with these arguments, as the person, in the workspace. The host's environment holds the real keys
    /// and the canary.
    pub fn carboy(&self, arguments: &[&str]) -> Command {
        self.own();
        let mut words: Vec<String> = Vec::new();
        if let Some(hosts) = &self.hosts {
            let mount = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
            words.extend(["unshare", "--mount", "sh", "-c", mount, hosts.to_str().unwrap()].map(String::from));
        }
        match (self.person, ordinary_ids()) {
            (Person::Ordinary, Some((uid, gid))) => {
                words.extend(["setpriv".into(), format!("--reuid={uid}"), format!("--regid={gid}")]);
                words.extend(["--clear-groups".into(), "--".into()]);
            }
            (Person::Ordinary, None) => panic!("user {ORDINARY_USER} does not exist"),
            (Person::Me, _) => {}
        }
        words.push(binary().to_str().unwrap().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.args(arguments).current_dir(&self.project).env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LANG", "C.UTF-8"),
            ("ANTHROPIC_API_KEY", REAL_KEY),
            ("OPENAI_API_KEY", REAL_OPENAI_KEY),
            ("GEMINI_API_KEY", REAL_GEMINI_KEY),
            ("HOST_CANARY", CANARY),
        ]);
        command.env("HOME", self.dir.join("user")).env("CARBOY_HOME", self.dir.join("home"));
        fs::create_dir_all(self.dir.join("user")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command in the bottle to its end.
    pub fn run(&self, command: &[&str]) -> Ran {
        self.run_with(&[], command)
    }

    /// The same with more flags of `carboy run`.
    pub fn run_with(&self, flags: &[&str], command: &[&str]) -> Ran {
        self.run_in(&[], flags, command)
    }

    /// The same with variables in the host's environment.
    pub fn run_in(&self, variables: &[(&str, &str)], flags: &[&str], command: &[&str]) -> Ran {
        let summary = self.fresh_summary();
        let log_before = self.log().len();
        let mut arguments = vec!["run", "--bottle", "test", "--summary-json", summary.to_str().unwrap()];
        arguments.extend(flags);
        arguments.push("--");
        arguments.extend(command);
        let child = self.carboy(&arguments).envs(variables.iter().copied()).spawn().unwrap();
        let output = wait(child, RUN_WAIT_MAX);
        self.ran(output, &summary, log_before)
    }

    /// A shell script in the bottle.
    pub fn sh(&self, script: &str) -> Ran {
        self.run(&["sh", "-c", script])
    }

    /// Starts the simulated agent in the bottle.
    pub fn agent(&self) -> Agent<'_> {
        let summary = self.fresh_summary();
        let log_before = self.log().len();
        let bind = format!("{}:/carboy-test/carboy", binary().display());
        let arguments =
            ["run", "--another", "--bottle", "test", "--summary-json", summary.to_str().unwrap(), "--bind", &bind];
        let mut command = self.carboy(&arguments);
        command.args(["--", "/carboy-test/carboy", "tour-agent"]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take();
        let reports = BufReader::new(child.stdout.take().unwrap());
        Agent { world: self, child, orders, reports, summary, log_before }
    }

    /// Every entry of the log so far.
    pub fn log(&self) -> Vec<Entry> {
        let text = fs::read(self.dir.join("home/audit/audit.jsonl")).unwrap_or_default();
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| Entry::parse(line).unwrap()).collect()
    }

    /// Nothing of the canary text arrived at the provider, and nothing at all at the canary's address.
    pub fn assert_nothing_escaped(&self) {
        assert!(
            self.canary.is_untouched(),
            "the canary's address was reached: {} connections",
            self.canary.connections()
        );
        for request in self.provider.received() {
            assert!(!request.contains(CANARY.as_bytes()), "the canary arrived at the provider: {request:?}");
        }
    }

    /// The runtime in which the provider lives, for asynchronous helpers of a test.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    fn fresh_summary(&self) -> PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = self.dir.join("summaries");
        fs::create_dir_all(&dir).unwrap();
        self.own();
        dir.join(format!("{number}.json"))
    }

    fn ran(&self, output: std::process::Output, summary: &Path, log_before: usize) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            summary: fs::read(summary).ok().and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or(Value::Null),
            entries: self.log().split_off(log_before),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A run that was started apart outlives a test that stopped in the middle.
        if fs::read_dir(self.dir.join("home/run")).is_ok_and(|mut runs| runs.next().is_some()) {
            let _ = self.carboy(&["stop", "--all", "--kill"]).output();
        }
        // It would end by itself, ten minutes after the last run.
        if self.dir.join("home/controller.log").exists() {
            let _ = self.carboy(&["controller", "stop", "--force"]).output();
        }
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Agent<'_> {
    /// Has the agent do something.
    pub fn order(&mut self, order: &Order) -> Report {
        let mut line = serde_json::to_vec(order).unwrap();
        line.push(b'\n');
        self.orders.as_mut().unwrap().write_all(&line).unwrap();
        let mut answer = String::new();
        self.reports.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("the agent said {answer:?}: {e}"))
    }

    /// One request.
    pub fn http(&mut self, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Report {
        self.order(&http(method, url, headers, body))
    }

    /// Lets it end.
    pub fn finish(mut self) -> Ran {
        drop(self.orders.take());
        let output = wait(self.child, RUN_WAIT_MAX);
        self.world.ran(output, &self.summary, self.log_before)
    }
}

impl Ran {
    /// How many entries carry this reason.
    pub fn refused(&self, reason: &str) -> usize {
        self.entries.iter().filter(|e| e.detail("reason").and_then(Value::as_str) == Some(reason)).count()
    }

    /// Panics with everything there is when it did not end with this code.
    pub fn expect_code(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// An order for one request.
pub fn http(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Order {
    let headers: BTreeMap<String, String> = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    Order::Http { method: method.into(), url: url.into(), headers, body: body.to_vec(), connect_to: None, sni: None }
}

/// The reason that a refusal names to the agent.
pub fn reason(report: &Report) -> Option<&str> {
    report.headers.get("x-carboy-reason").map(String::as_str)
}

fn own_tree(path: &Path, uid: u32, gid: u32) {
    // A file may go while we walk: a run under way removes its socket.
    // Never through a link: some tests plant links that lead out.
    let meta = fs::symlink_metadata(path);
    let is_dir = meta.as_ref().is_ok_and(|meta| meta.is_dir());
    // Only where it is another's: the change time of every other file stays as it is.
    if meta.is_ok_and(|meta| (meta.uid(), meta.gid()) != (uid, gid)) {
        let _ = lchown(path, Some(uid), Some(gid));
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten().filter(|_| is_dir) {
        own_tree(&entry.path(), uid, gid);
    }
}

pub fn wait(mut child: Child, wait_max: Duration) -> std::process::Output {
    let deadline = Instant::now() + wait_max;
    let killer = {
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let (done, told) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            if told.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        });
        done
    };
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    drop(killer);
    output
}

/// What most tests run with: a model, a host that stores what it is sent, git read access, a plain one and a zone.
pub const STANDARD_ROUTES: &str = "\
egress:
  routes:
    - host: api.anthropic.com
      auth_scheme: Bearer
      token_env: ANTHROPIC_API_KEY
      meter: anthropic
    - host: api.openai.com
      auth_scheme: Bearer
      token_env: OPENAI_API_KEY
      meter: openai
    - host: notes.example
      dlp: {outbound_on_match: block}
    - host: git.example
      git: {fetch: true}
    - host: plain.example
      ports: [80]
    - host: '*.wild.example'
";
