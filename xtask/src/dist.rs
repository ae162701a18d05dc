//! `cargo xtask dist`: what a release is made of, in `target/dist/`.
//!
//! ```text
//! cargo build, linked statically ─▶ binary ─▶ its own man page and completions ─▶ one directory ─▶ .tar.gz, .deb, SHA256SUMS
//! ```
//!
//! The same commit gives the same bytes: entries are sorted, belong to root and bear the commit's time, and no path of
//! the machine that built it is in them. *Must never* ship a binary that needs a library of the host.

mod check;
mod deb;
mod elf;
mod pack;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::tree;

pub use check::check;

/// Linked statically, so that it runs wherever its kernel does; glibc's target, because that is the one that is tested.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The name of the machine in the archive's name, and Debian's for the same.
const MACHINE: &str = "x86_64-linux";
const DEBIAN_MACHINE: &str = "amd64";

/// What a release is made from.
struct Release {
    version: String,
    /// Seconds since 1970 of everything that is packed.
    time: u64,
    /// The program.
    binary: PathBuf,
    /// Where the repository is.
    top: PathBuf,
    /// Where the packages are put.
    into: PathBuf,
    effort: Effort,
}

/// How much time goes into making the packages small.
#[derive(Clone, Copy)]
enum Effort {
    /// As much as there is: they are made once and fetched often.
    Small,
    /// Next to none: they are looked into and thrown away.
    Fast,
}

impl Effort {
    /// As gzip and dpkg-deb count it.
    fn level(self) -> u8 {
        match self {
            Effort::Small => 9,
            Effort::Fast => 1,
        }
    }
}

/// Builds and packs.
pub fn run() -> Result<(), String> {
    let top = tree::root();
    let start = Instant::now();
    let binary = build(&top)?;
    let built = start.elapsed();
    elf::require_static(&binary)?;
    guards(&top, &binary)?;
    let release = Release::new(&top, binary, &top.join("target/dist"), Effort::Small)?;
    let made = release.pack()?;
    println!("dist: built in {:.0} s, packed in {:.1} s", built.as_secs_f64(), (start.elapsed() - built).as_secs_f64());
    println!("dist: {} packages in Cargo.lock", tree::text(&top, "Cargo.lock")?.matches("\nname = ").count());
    println!("dist: {:>10} bytes  the program, statically linked, stripped", size(&release.binary)?);
    for file in made {
        println!("dist: {:>10} bytes  {}", size(&file)?, file.display());
    }
    Ok(())
}

/// The statically linked, stripped program, in a target directory of its own: other flags would build everything anew.
fn build(top: &Path) -> Result<PathBuf, String> {
    let target = top.join("target/static");
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(Path::new(&home).join(".cargo"))
    });
    // By the separator that paths cannot hold a blank of: directories may.
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.push(format!("--remap-path-prefix={}=carboy", top.display()));
    flags.extend(cargo_home.map(|home| format!("--remap-path-prefix={}=cargo", home.display())));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--locked", "--profile", "dist", "--package", "carboy", "--target", TARGET, "--target-dir"]);
    command.arg(&target).current_dir(top).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    match command.status() {
        Ok(status) if status.success() => Ok(target.join(TARGET).join("dist/carboy")),
        Ok(status) => Err(format!("cargo build: {status}")),
        Err(error) => Err(format!("cannot run cargo: {error}")),
    }
}

/// What the program refuses is tried on the very program that is packed, not on that of the tests (G18): its flags leave
/// debug assertions and checks of overflow out.
fn guards(top: &Path, binary: &Path) -> Result<(), String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--locked", "--package", "carboy", "--test", "chat"]);
    match command.current_dir(top).env("CARBOY_PROGRAM", binary).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the release does not refuse what it must: cargo test: {status}")),
        Err(error) => Err(format!("cannot run cargo: {error}")),
    }
}

impl Release {
    fn new(top: &Path, binary: PathBuf, into: &Path, effort: Effort) -> Result<Release, String> {
        let said = output(Command::new(&binary).arg("--version"))?;
        let version = said.trim().strip_prefix("carboy ").ok_or("the program does not tell its version")?.to_owned();
        Ok(Release { version, time: time(top), binary, top: top.to_owned(), into: into.to_owned(), effort })
    }

    /// `carboy-VERSION-MACHINE`
    fn name(&self) -> String {
        format!("carboy-{}-{MACHINE}", self.version)
    }

    /// The archive, the Debian package and their sums; their paths.
    fn pack(&self) -> Result<Vec<PathBuf>, String> {
        fs::create_dir_all(&self.into).map_err(|e| format!("cannot make {}: {e}", self.into.display()))?;
        let archive = pack::archive(self)?;
        let package = deb::package(self)?;
        let sums = self.into.join("SHA256SUMS");
        let names = [&archive, &package].map(|path| path.file_name().unwrap_or_default().to_owned());
        let text = output(Command::new("sha256sum").args(names).current_dir(&self.into))?;
        write(&sums, text.as_bytes())?;
        Ok(vec![archive, package, sums])
    }

    /// What the program prints with these arguments: its man page, its completions.
    fn says(&self, arguments: &[&str]) -> Result<String, String> {
        // The environment has no say in what is packed.
        output(Command::new(&self.binary).args(arguments).env_clear())
    }
}

/// `SOURCE_DATE_EPOCH`, else the time of the commit, else one that every format can hold.
fn time(top: &Path) -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let commit = || output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(top)).ok();
    given.or_else(commit).and_then(|text| text.trim().parse().ok()).unwrap_or(315_532_800)
}

/// A command's standard output, if it ends well.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| format!("cannot run {name}: {e}"))?;
    if !done.status.success() {
        return Err(format!("{name}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim()));
    }
    String::from_utf8(done.stdout).map_err(|_| format!("{name}: its output is not UTF-8"))
}

fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    let told = |e: std::io::Error| format!("cannot write {}: {e}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(told)?;
    }
    fs::write(path, content).map_err(told)
}

fn size(path: &Path) -> Result<u64, String> {
    fs::metadata(path).map(|meta| meta.len()).map_err(|e| format!("cannot look at {}: {e}", path.display()))
}
