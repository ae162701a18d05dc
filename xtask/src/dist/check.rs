//! The packaging tried with the program of the tests: what is in the packages, that a second run gives the same bytes,
//! and that the shells take what is in them. The release's own flags are left to `dist`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Effort, Release, deb, output, pack};
use crate::{complain, tree};

/// What has to be in the archive, besides what is generated.
const ARCHIVE: &[&str] = &["bin/carboy", "LICENSE", "README.md", "docs/install.md", "examples/bottles/work.md"];
/// And in the package.
const PACKAGE: &[&str] = &[
    "usr/bin/carboy",
    "usr/share/man/man1/carboy.1.gz",
    "usr/share/doc/carboy/copyright",
    "usr/share/doc/carboy/changelog.gz",
    "usr/share/doc/carboy/examples/apparmor.d/carboy",
];
/// How each shell is made to load its completions; `$0` is the file. A shell that is not there is told.
const SHELLS: &[(&str, &[&str], usize)] = &[
    ("bash", &["--norc", "--noprofile", "-c", "set -eu; . \"$0\"; complete -p carboy >/dev/null"], 1),
    (
        "zsh",
        &["-f", "-c", "autoload -Uz compinit && compinit -D -u && . \"$0\" && [[ $_comps[carboy] == _carboy ]]"],
        2,
    ),
    ("fish", &["--no-config", "-c", "source $argv[1]; and complete -C 'carboy ru' | string match -q 'run*'"], 3),
];

/// Packs twice and looks.
pub fn check() -> Result<(), String> {
    let top = tree::root();
    let into = pack::fresh(&top.join("target/dist-check"))?;
    let release = Release::new(&top, build(&top, &into)?, &into, Effort::Fast)?;
    let first = sums(&release)?;
    let second = sums(&release)?;
    let mut complaints = Vec::new();
    if first != second {
        complaints.push(format!("a second run gives other bytes:\n{first}{second}"));
    }
    let archive = into.join(format!("{}.tar.gz", release.name()));
    let unpacked = pack::fresh(&into.join("unpacked"))?;
    output(Command::new("tar").arg("-xzf").arg(&archive).arg("--directory").arg(&unpacked))?;
    let unpacked = unpacked.join(release.name());
    let generated = pack::GENERATED.iter().map(|file| file.archive);
    for file in ARCHIVE.iter().copied().chain(generated).filter(|file| !unpacked.join(file).is_file()) {
        complaints.push(format!("{file} is not in the archive"));
    }
    let contents = deb::contents(&into.join(format!("carboy_{}_{}.deb", release.version, super::DEBIAN_MACHINE)))?;
    let completions = pack::GENERATED.iter().skip(1).map(|file| file.debian);
    for file in PACKAGE.iter().copied().chain(completions) {
        if !contents.lines().any(|line| line.contains(" root/root ") && line.ends_with(&format!(" ./{file}"))) {
            complaints.push(format!("{file} is not in the package, or does not belong to root"));
        }
    }
    shells(&unpacked, &mut complaints);
    complain("dist", complaints)
}

/// The program as the tests have built it, without its symbols: they are most of it.
fn build(top: &Path, into: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    output(Command::new(cargo).args(["build", "--quiet", "--package", "carboy"]).current_dir(top))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top.join("target"), |dir| top.join(dir));
    let stripped = into.join("carboy");
    output(Command::new("strip").arg("-o").arg(&stripped).arg(target.join("debug/carboy")))?;
    Ok(stripped)
}

fn sums(release: &Release) -> Result<String, String> {
    let made = release.pack()?;
    tree::text(&release.into, &made.last().and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy())
}

fn shells(unpacked: &Path, complaints: &mut Vec<String>) {
    for (shell, arguments, generated) in SHELLS {
        let file = unpacked.join(pack::GENERATED[*generated].archive);
        match Command::new(shell).args(*arguments).arg(&file).env("HOME", unpacked).output() {
            Ok(done) if done.status.success() && done.stderr.is_empty() => {
                println!("dist: {shell} takes its completions")
            }
            Ok(done) => complaints.push(format!("{shell} does not load {}: {done:?}", file.display())),
            Err(_) => println!("dist: no {shell} here to load its completions"),
        }
    }
}
