//! Toolchains of this host that live in a home, and what a bottle must see to use them.
//!
//! A tool is asked where it really is, so that the shims of version managers do not matter. A toolchain keeps its path
//! inside: what it has written into a project (the interpreter of a virtual environment) still fits.

use std::path::{Path, PathBuf};

use carboy_manifest::starter::BindLine;
use serde::Serialize;

use super::registries::Manager;
use super::{LOOKED_UP, Surroundings};

/// A toolchain of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Toolchain {
    /// `node v22.1.0`
    pub name: String,
    /// Where it is.
    pub root: PathBuf,
    /// What must be visible; nothing when every bottle sees it.
    pub binds: Vec<BindLine>,
    /// Directories for `PATH`.
    pub path: Vec<PathBuf>,
    /// Why a bottle cannot have it.
    pub refused: Option<String>,
}

impl Toolchain {
    /// The toolchain, when a bottle may have it.
    pub(super) fn usable(self) -> Result<Toolchain, String> {
        match self.refused {
            Some(why) => Err(why),
            None => Ok(self),
        }
    }
}

/// The toolchain that a package manager belongs to.
pub fn of_manager(host: &Surroundings, manager: Manager) -> Option<Toolchain> {
    match manager {
        Manager::Npm => node_at(host, &host.find("node", &[])?),
        Manager::Pip => python(host),
        Manager::Cargo => rust(host),
        Manager::Go => go(host),
        Manager::Apt => None,
    }
}

/// The node behind this program.
pub(super) fn node_at(host: &Surroundings, node: &Path) -> Option<Toolchain> {
    let said = host.ask(node, &["-p", "process.execPath + '\\n' + process.version"])?;
    let (real, version) = said.split_once('\n')?;
    Some(at(host, node, &format!("node {version}"), &root_of(Path::new(real))?))
}

/// `uv`, a single file, when it stands in a home.
pub fn uv(host: &Surroundings) -> Option<Toolchain> {
    let path = host.find("uv", &[])?;
    let real = path.canonicalize().ok()?;
    let version = host.ask(&path, &["--version"]).unwrap_or_else(|| "uv".into());
    let mut found =
        Toolchain { name: version, root: real.clone(), binds: vec![], path: vec![], refused: host.refused(&path) };
    if !host.is_visible(&real) && found.refused.is_none() {
        let target = Some("~/.local/bin/uv".to_owned());
        found.binds.push(BindLine { source: path, target, why: found.name.clone() });
    }
    Some(found)
}

fn python(host: &Surroundings) -> Option<Toolchain> {
    let python = host.find("python3", &[])?;
    // Isolated: nothing of a user's or a project's packages runs for this.
    let script = "import sys; print(sys.base_prefix); print('.'.join(map(str, sys.version_info[:3])))";
    let said = host.ask(&python, &["-I", "-c", script])?;
    let (prefix, version) = said.split_once('\n')?;
    Some(at(host, &python, &format!("python {version}"), Path::new(prefix)))
}

fn rust(host: &Surroundings) -> Option<Toolchain> {
    let rustc = host.find("rustc", &[host.home.join(".cargo/bin")])?;
    let root = host.ask(&rustc, &["--print", "sysroot"])?;
    let version = host.ask(&rustc, &["--version"])?;
    Some(at(host, &rustc, version.split(" (").next().unwrap_or("rustc"), Path::new(&root)))
}

fn go(host: &Surroundings) -> Option<Toolchain> {
    let go = host.find("go", &["/usr/local/go/bin".into(), host.home.join("go/bin"), host.home.join("sdk/go/bin")])?;
    let root = host.ask(&go, &["env", "GOROOT"])?;
    let version = host.ask(&go, &["env", "GOVERSION"]).unwrap_or_else(|| "go".into());
    Some(at(host, &go, &version, Path::new(&root)))
}

/// The directory above `bin`.
fn root_of(program: &Path) -> Option<PathBuf> {
    let bin = program.parent()?;
    bin.file_name().filter(|name| *name == "bin")?;
    Some(bin.parent()?.to_owned())
}

/// `program` is where it was found: in the system's own directories it is found inside as well.
fn at(host: &Surroundings, program: &Path, name: &str, root: &Path) -> Toolchain {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let mut found = Toolchain { name: name.clone(), root: root.to_owned(), binds: vec![], path: vec![], refused: None };
    let bin = root.join("bin");
    if host.is_visible(&real) {
        let by_name = LOOKED_UP.iter().any(|dir| program.parent() == Some(Path::new(dir)));
        found.path.extend(Some(bin).filter(|_| !by_name));
    } else if !root.is_absolute() || root.to_str().is_none() || real.parent().is_none() {
        found.refused = Some(format!("{} is no directory to bind", root.display()));
    } else if let Some(why) = host.refused(root) {
        found.refused = Some(format!("{}: {why}", root.display()));
    } else {
        found.binds.push(BindLine { source: root.to_owned(), target: None, why: name });
        found.path.push(bin);
    }
    found
}
