//! `cargo xtask bench start|proxy|budget|chat [--write]`: how fast carboy is beside others that do part of the same work, all of
//! them in one run on one machine. The figures go to standard output, with `--write` into docs/benchmarks.md too.
//!
//! Rounds are interleaved, so that whatever else the machine does hits all alike. Nothing leaves the machine but the
//! installation of the peers, which `bench-peers.sh` does once.

mod budget;
mod chat;
mod facts;
mod figures;
mod orders;
mod process;
mod proxy;
mod start;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{needs, tree};

/// Where the peers are installed, unless `CARBOY_BENCH_PEERS` says otherwise.
const PEERS: &str = "/opt/carboy-bench";
/// Where the figures are kept.
const DOCUMENT: &str = "docs/benchmarks.md";

/// What the benches stand on.
pub struct Bench {
    top: PathBuf,
    peers: PathBuf,
    /// Emptied before and removed after; short, because sockets are made in it.
    scratch: PathBuf,
}

/// Measures one thing.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let (what, write) = match arguments {
        [what] => (*what, false),
        [what, "--write"] => (*what, true),
        _ => return Err("usage: cargo xtask bench start|proxy|budget|chat [--write]".to_owned()),
    };
    let measure = match what {
        "start" => start::run,
        "proxy" => proxy::run,
        "budget" => budget::run,
        "chat" => chat::run,
        _ => return Err(format!("no bench `{what}`; there are `start`, `proxy`, `budget` and `chat`")),
    };
    let top = tree::root();
    let peers = std::env::var_os("CARBOY_BENCH_PEERS").map_or_else(|| PathBuf::from(PEERS), PathBuf::from);
    install(&top, &peers)?;
    let scratch = std::env::temp_dir().join(format!("carboy-bench-{}", std::process::id()));
    fs::create_dir_all(&scratch).map_err(|error| format!("cannot make {}: {error}", scratch.display()))?;
    let bench = Bench { top, peers, scratch };
    let measured = measure(&bench);
    // What is left over lies in the system's temporary directory: no reason to lose the figures.
    let _ = fs::remove_dir_all(&bench.scratch);
    let report = format!("{}\n{}", measured?, facts::of_this_machine(&bench, what));
    println!("{report}");
    if write { put(&bench.top, what, &report) } else { Ok(()) }
}

fn install(top: &Path, peers: &Path) -> Result<(), String> {
    let script = top.join("xtask/bench-peers.sh");
    let line = format!("sh {} {}", script.display(), peers.display());
    if !peers.join("versions").exists() && !needs::agreed(needs::consent(), &line)? {
        return Err(format!("there is nothing to measure against; `{line}` installs it"));
    }
    match Command::new("sh").arg(&script).arg(peers).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("`{line}` failed; what it said stands above")),
        Err(error) => Err(format!("cannot run sh: {error}")),
    }
}

/// Puts the figures between their markers.
fn put(top: &Path, what: &str, report: &str) -> Result<(), String> {
    let text = tree::text(top, DOCUMENT)?;
    let (begin, end) = (format!("<!-- bench {what} -->\n"), format!("<!-- end of bench {what} -->"));
    let from = text.find(&begin).ok_or_else(|| format!("{DOCUMENT} has no line `{}`", begin.trim_end()))? + begin.len();
    let to = text.find(&end).filter(|to| *to >= from).ok_or_else(|| format!("{DOCUMENT} has no line `{end}`"))?;
    let text = format!("{}\n{}\n\n{}", &text[..from], report.trim_end(), &text[to..]);
    fs::write(top.join(DOCUMENT), text).map_err(|error| format!("cannot write {DOCUMENT}: {error}"))
}

impl Bench {
    /// Builds with `--release`; the program's place.
    fn build(&self, package: &str, example: &str) -> Result<PathBuf, String> {
        let mut words = vec!["build", "--release", "--quiet", "-p", package];
        if !example.is_empty() {
            words.extend(["--example", example]);
        }
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // What cargo sets for this program would make build scripts of dependencies run again, and all after them.
        let ours = |name: &str| {
            name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH" || name.starts_with("CARGO_PKG_")
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
            command.env_remove(name);
        }
        match command.args(&words).current_dir(&self.top).status() {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("cargo {}: {status}", words.join(" "))),
            Err(error) => return Err(format!("cannot run cargo: {error}")),
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.top.join("target"), PathBuf::from);
        let release = self.top.join(target).join("release");
        Ok(if example.is_empty() { release.join(package) } else { release.join("examples").join(example) })
    }

    /// A directory in the scratch place, for its owner alone, as carboy wants its own.
    fn directory(&self, name: &str) -> Result<PathBuf, String> {
        use std::os::unix::fs::DirBuilderExt;
        let path = self.scratch.join(name);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(path)
    }

    /// A file in the scratch place.
    fn file(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.scratch.join(name);
        let written =
            fs::write(&path, text).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(path)
    }

    /// The search path with the peers' programs first.
    fn path(&self) -> String {
        format!("{}:{}", self.peers.join("bin").display(), std::env::var("PATH").unwrap_or_default())
    }
}
