//! A home of carboy's for one bench, with its controller, which ends with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::Bench;
use super::super::process::Process;
use super::Programs;

/// How long a controller may take until it listens.
const LISTEN_MAX: Duration = Duration::from_secs(20);
/// How long it may take to end.
const END_MAX: Duration = Duration::from_secs(10);
/// A key that is no key: it is injected, and searched for in everything that leaves.
pub const KEY: &str = "bench-5f0c3a9e17d24b6885";

/// A home with a controller that runs.
pub struct Home {
    carboy: PathBuf,
    program: PathBuf,
    root: PathBuf,
    work: PathBuf,
    controller: Child,
}

/// Makes a directory for its owner alone.
fn private(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| format!("cannot make {}: {error}", path.display()))
}

fn written(path: &Path, text: &str) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let written =
        std::fs::write(path, text).and_then(|()| std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)));
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

impl Home {
    /// One at `root`, whose settings are these, and its controller. Its bottles work elsewhere: none sees a home.
    pub(super) fn open(bench: &Bench, programs: &Programs, root: &Path, settings: &str) -> Result<Home, String> {
        Home::with(bench, &programs.carboy, &programs.bench, root, settings)
    }

    /// The same; `program` is what its bottles run.
    pub fn with(bench: &Bench, carboy: &Path, program: &Path, root: &Path, settings: &str) -> Result<Home, String> {
        let work = bench.directory("work")?;
        for path in [root, &root.join("bottles")] {
            private(path)?;
        }
        written(&root.join("settings.yml"), settings)?;
        let mut command = Command::new(carboy);
        command.args(["controller", "run"]).env("CARBOY_HOME", root).env_remove("XDG_RUNTIME_DIR");
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let controller = started.map_err(|error| format!("cannot start the controller: {error}"))?;
        let (carboy, program) = (carboy.to_owned(), program.to_owned());
        let mut home = Home { carboy, program, root: root.to_owned(), work, controller };
        let begun = Instant::now();
        while home.socket().is_none() {
            if begun.elapsed() > LISTEN_MAX || !matches!(home.controller.try_wait(), Ok(None)) {
                return Err(format!("the controller of {} does not listen", root.display()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(home)
    }

    /// The upstream's settings.
    pub fn upstream(host: &str, address: &str, ca: &Path) -> String {
        format!("upstreams:\n  {host}: {{address: \"{address}\", ca: \"{}\"}}\n", ca.display())
    }

    /// A bottle's file.
    pub fn bottle(&self, name: &str, text: &str) -> Result<(), String> {
        written(&self.root.join("bottles").join(format!("{name}.md")), &format!("---\n{text}---\n"))
    }

    /// The controller's socket.
    pub fn socket(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.root.join("run")).ok()?;
        let is_socket = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("controller-") && name.ends_with(".sock")
        };
        entries.flatten().map(|entry| entry.path()).find(is_socket)
    }

    /// The controller's process.
    pub fn controller(&self) -> u32 {
        self.controller.id()
    }

    /// A program in a bottle, talked to in lines. The process that is seen is the supervisor.
    pub fn run(&self, bottle: &str, program: &[&str]) -> Result<Process, String> {
        let mut command = Command::new(&self.carboy);
        command.args(["run", "--bottle", bottle, "-q", "--no-tty", "--bind"]);
        command.arg(format!("{}:/bench/bench", self.program.display()));
        command.arg("--").args(program);
        command.current_dir(&self.work).env("CARBOY_HOME", &self.root).env("BENCH_KEY", KEY);
        command.env_remove("XDG_RUNTIME_DIR");
        Process::start("carboy", &mut command)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let mut stop = Command::new(&self.carboy);
        stop.args(["controller", "stop", "--force"]).env("CARBOY_HOME", &self.root).env_remove("XDG_RUNTIME_DIR");
        // Whether it could be asked or not, it ends below.
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let begun = Instant::now();
        while begun.elapsed() < END_MAX {
            if !matches!(self.controller.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}
