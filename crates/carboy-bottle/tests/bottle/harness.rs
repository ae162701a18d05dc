//! What the tests share: a bottle around a command, served or not, and the second run as an ordinary user.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use carboy_bottle::{Bottle, CapturedSockets, ExitOutcome, ExitReport, LaunchError, LaunchOptions, Stdio};
use carboy_core::ids::{BottleName, RunId};
use carboy_core::plan::{Access, Bind, BottleSpec, CapturePolicy, Limits, StdioMode};
use libtest_mimic::{Failed, Trial};

pub const ORDINARY_USER: &str = "carboytest";
const SECOND_RUN: &str = "CARBOY_BOTTLE_TESTS_AGAIN";

/// A bottle that is not done by then is killed, and the test fails by what it did not print.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

pub type Outcome = Result<(), Failed>;

/// A bottle to be, with its directories.
pub struct Sketch {
    pub spec: BottleSpec,
    pub options: LaunchOptions,
    pub workspace: PathBuf,
    _directory: tempfile::TempDir,
}

/// What came out of a bottle.
pub struct Ran {
    pub report: ExitReport,
    pub stdout: String,
    pub stderr: String,
}

impl Sketch {
    /// A bottle with an empty workspace at its host path, pipes, and this command.
    pub fn new(command: &[&str]) -> Sketch {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for name in ["home", "ws", "state"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let workspace = root.join("ws");
        let run = format!("t{}-{}", std::process::id(), root.file_name().unwrap().to_str().unwrap().len());
        let run = format!("{run}-{:x}", std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos());
        let mut env = BTreeMap::new();
        env.insert("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".to_owned());
        env.insert("HOME".to_owned(), "/home/agent".to_owned());
        let spec = BottleSpec {
            name: BottleName::parse("test").unwrap(),
            run: RunId::parse(&run).unwrap(),
            command: command.iter().map(|s| (*s).to_owned()).collect(),
            env,
            root: Default::default(),
            workdir: workspace.clone(),
            home: root.join("home"),
            binds: vec![Bind { source: workspace.clone(), target: workspace.clone(), access: Access::ReadWrite }],
            overlays: vec![],
            files: vec![],
            limits: Limits::default(),
            capture: CapturePolicy::RequireT1,
            route_ports: vec![],
            inside_ports: vec![],
            stdio: StdioMode::Pipes,
            host_ids: None,
        };
        let options = LaunchOptions { state: root.join("state"), shared: root.to_owned(), init: Default::default() };
        Sketch { spec, options, workspace, _directory: directory }
    }

    pub fn shell(script: &str) -> Sketch {
        Sketch::new(&["sh", "-c", script])
    }

    /// Another command for the same directories, as a run of its own.
    pub fn again(&mut self, script: &str) {
        self.spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.spec.run = RunId::parse(&format!("{}-2", self.spec.run)).unwrap();
    }

    pub fn launch(&self) -> Result<Bottle, LaunchError> {
        Bottle::launch(&self.spec, &self.options)
    }

    /// Runs it to its end with nobody serving its traffic.
    pub fn run(&self) -> Result<Ran, Failed> {
        self.run_serving(drop)
    }

    /// Runs it to its end; `serve` gets the sockets before the program starts.
    pub fn run_serving(&self, serve: impl FnOnce(CapturedSockets)) -> Result<Ran, Failed> {
        let mut bottle = self.launch()?;
        serve(bottle.take_captured().unwrap());
        let Some(Stdio::Pipes { stdin, stdout, stderr }) = bottle.take_stdio() else {
            return Err("no pipes".into());
        };
        bottle.start()?;
        drop(stdin);
        let stderr = std::thread::spawn(move || read_all(stderr));
        let (over, waits) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if waits.recv_timeout(PATIENCE).is_err() {
                let _ = bottle.kill();
            }
            bottle
        });
        let stdout = read_all(stdout);
        let _ = over.send(());
        let report = watchdog.join().unwrap().wait();
        Ok(Ran { report, stdout, stderr: stderr.join().unwrap() })
    }
}

impl Ran {
    pub fn expect_output(&self, expected: &str) -> Outcome {
        if self.stdout.trim_end() == expected {
            Ok(())
        } else {
            Err(format!("stdout {:?}, expected {expected:?}; stderr {:?}; {:?}", self.stdout, self.stderr, self.report)
                .into())
        }
    }

    pub fn expect_code(&self, code: i32) -> Outcome {
        if self.report.outcome == ExitOutcome::Code(code) {
            Ok(())
        } else {
            Err(format!("{:?}, stdout {:?}, stderr {:?}", self.report, self.stdout, self.stderr).into())
        }
    }
}

pub fn read_all(from: OwnedFd) -> String {
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(from);
    let mut chunk = [0; 4096];
    // A terminal ends with EIO.
    while let Ok(length @ 1..) = file.read(&mut chunk) {
        bytes.extend(&chunk[..length]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn write_all(to: &OwnedFd, text: &str) {
    std::fs::File::from(to.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
}

pub fn trial(name: &str, body: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial::test(name, body)
}

/// Runs the script; its output must be exactly this.
pub fn prints(name: &str, script: &'static str, expected: &'static str) -> Trial {
    trial(name, move || Sketch::shell(script).run()?.expect_output(expected))
}

/// Left out, and told, where a tool is missing.
pub fn needs(tool: &str, trial: Trial) -> Trial {
    let there = std::env::split_paths("/usr/local/bin:/usr/bin:/bin:/usr/sbin").any(|d| d.join(tool).exists());
    if there {
        return trial;
    }
    leave_out(format!("{}: `{tool}` is not on this machine", trial.name()));
    trial.with_ignored_flag(true)
}

static LEFT_OUT: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn leave_out(line: String) {
    LEFT_OUT.lock().unwrap().push(line);
}

/// Tells what was left out, here and in the last word of `cargo test` (`xtask/tests/skipped.rs`).
pub fn tell_left_out() {
    let lines = LEFT_OUT.lock().unwrap();
    for line in lines.iter() {
        println!("skipped: {line}");
    }
    if std::env::var_os(SECOND_RUN).is_none() {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("carboy-bottle.txt"), lines.join("\n")).unwrap();
    }
}

pub fn is_root() -> bool {
    rustix_euid() == 0
}

fn rustix_euid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map(|m| m.uid()).unwrap_or(0)
}

/// The whole program once more as an ordinary user.
pub fn as_ordinary_user() -> Option<Trial> {
    if !is_root() || std::env::var_os(SECOND_RUN).is_some() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let exists = passwd.lines().any(|line| line.starts_with(&format!("{ORDINARY_USER}:")));
    let name = "the same holds for an ordinary user";
    if !exists {
        leave_out(format!("{name}: user `{ORDINARY_USER}` does not exist; `useradd -m {ORDINARY_USER}`"));
    }
    let again = trial(name, || {
        // The build directory may be closed to others.
        let directory = tempfile::tempdir()?;
        let copy = directory.path().join("bottle-tests");
        // By another process: a bottle cloned meanwhile would hold the copy open for writing.
        Command::new("cp").arg(std::env::current_exe()?).arg(&copy).status()?;
        open_to_all(directory.path())?;
        let output = Command::new("runuser")
            .args(["-u", ORDINARY_USER, "--"])
            .arg(&copy)
            .env(SECOND_RUN, "1")
            .env_remove("TMPDIR")
            .current_dir("/")
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!("{text}");
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)).into())
        }
    });
    Some(again.with_ignored_flag(!exists))
}

fn open_to_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// This program as a supervisor that gets killed: makes a bottle around the script of the environment, tells its init's pid
/// when the file `ready` is there, paused if that was asked for, and waits.
pub fn played_a_part() -> bool {
    let Some(script) = std::env::var_os("CARBOY_BOTTLE_PART") else { return false };
    let mut sketch = Sketch::shell(&script.into_string().expect("a script"));
    sketch.spec.limits.processes_max = 2_000;
    let mut bottle = sketch.launch().expect("a bottle");
    let _streams = bottle.take_stdio();
    bottle.start().expect("started");
    while !sketch.workspace.join("ready").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    if std::env::var_os("CARBOY_BOTTLE_PAUSED").is_some() {
        bottle.pause().expect("paused");
    }
    println!("{}", bottle.pid());
    std::io::stdout().flush().expect("told");
    bottle.wait();
    true
}
