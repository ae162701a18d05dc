//! Installed agent programs: where they are, where they really live, and what a bottle must see for them to start.
//!
//! *Must never* propose a directory that holds more than the program: an agent's settings directory in the home holds its
//! login.

use std::path::{Path, PathBuf};

use carboy_manifest::starter::{BindLine, Program};
use serde::Serialize;

use super::elf::{Kind, kind_of};
use super::toolchains::{Toolchain, node_at};
use super::{LOOKED_UP, Surroundings, names_in};

/// Longest version text that is kept, in characters.
const VERSION_CHARS_MAX: usize = 60;
/// Most links that are followed from where a program was found.
const LINKS_MAX: usize = 8;

/// An agent program of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstalledAgent {
    /// Which.
    pub program: Program,
    /// Where it was found.
    pub path: PathBuf,
    /// Where it really is, links followed.
    pub real: PathBuf,
    /// What it says of itself.
    pub version: Option<String>,
    /// How a bottle gets it, or why it cannot.
    pub inside: Result<Inside, String>,
}

/// What a bottle needs for a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inside {
    /// Its path inside; `None` when it is found by its name.
    pub command: Option<PathBuf>,
    /// What must be visible.
    pub binds: Vec<BindLine>,
    /// Directories for `PATH`.
    pub path: Vec<PathBuf>,
}

/// Every agent program of this host, with its version.
pub fn installed(host: &Surroundings) -> Vec<InstalledAgent> {
    Program::ALL.into_iter().filter_map(|program| find(host, program)).collect()
}

/// One agent program, when it is installed.
pub fn find(host: &Surroundings, program: Program) -> Option<InstalledAgent> {
    let path = wrapped(host, program, host.find(program.name(), &usual_places(host, program))?);
    let real = path.canonicalize().ok()?;
    let version = host.ask(&path, &["--version"]).map(|text| {
        let line = text.lines().next().unwrap_or_default();
        line.chars().filter(|c| !c.is_control()).take(VERSION_CHARS_MAX).collect()
    });
    let inside = inside(host, program, &path, &real);
    Some(InstalledAgent { program, path, real, version, inside })
}

/// Where installers put programs that are not always on PATH.
fn usual_places(host: &Surroundings, program: Program) -> Vec<PathBuf> {
    let below = [
        ".local/bin",
        ".npm-global/bin",
        ".volta/bin",
        ".bun/bin",
        ".cargo/bin",
        "go/bin",
        ".linuxbrew/bin",
        ".local/share/pnpm",
    ];
    let mut places: Vec<PathBuf> = below.iter().map(|below| host.home.join(below)).collect();
    match program {
        Program::Claude => places.push(host.home.join(".claude/local")),
        Program::Opencode => places.push(host.home.join(".opencode/bin")),
        Program::Codex | Program::Gemini => {}
    }
    places.push("/home/linuxbrew/.linuxbrew/bin".into());
    let nvm = host.variable("NVM_DIR").map_or_else(|| host.home.join(".nvm"), PathBuf::from).join("versions/node");
    let mut versions = names_in(&nvm);
    // The newest first, by number.
    versions.sort_by_key(|name| std::cmp::Reverse(numbers(name)));
    places.extend(versions.iter().map(|version| nvm.join(version).join("bin")));
    let prefix = host.find("npm", &[]).and_then(|npm| host.ask(&npm, &["config", "get", "prefix"]));
    places.extend(prefix.map(PathBuf::from).filter(|prefix| prefix.is_absolute()).map(|prefix| prefix.join("bin")));
    places
}

fn numbers(name: &str) -> Vec<u32> {
    name.trim_start_matches('v').split('.').map_while(|part| part.parse().ok()).collect()
}

/// Claude's own installer once wrote a script that starts a package beside it: the package is what is meant.
fn wrapped(host: &Surroundings, program: Program, path: PathBuf) -> PathBuf {
    let local = host.home.join(".claude/local");
    let package = local.join("node_modules/.bin/claude");
    if program == Program::Claude && path.starts_with(&local) && package.is_file() { package } else { path }
}

fn inside(host: &Surroundings, program: Program, path: &Path, real: &Path) -> Result<Inside, String> {
    let kind = kind_of(real);
    let mut needs = match &kind {
        Kind::Native => Inside::default(),
        Kind::Script(name) if name == "node" => of_node(node(host, path, real)?),
        Kind::Script(name) if matches!(name.as_str(), "sh" | "bash") && host.is_visible(real) => Inside::default(),
        Kind::Script(name) => {
            return Err(format!(
                "{} is a script of `{name}`, which starts something that is not known",
                path.display()
            ));
        }
        Kind::Other => return Err(format!("{} is no program that can be read", path.display())),
    };
    let package = package_of(real);
    if host.is_visible(real) {
        let by_name = LOOKED_UP.iter().any(|dir| path.parent() == Some(Path::new(dir)));
        let linked = !by_name && kind == Kind::Native && path != real && !host.is_visible(path);
        if linked && host.refused(path).is_none() {
            // As below: the link is followed at each launch.
            needs.binds.push(bind(host, path, Some(format!("~/.local/bin/{}", program.name())), program)?);
        } else {
            needs.command = (!by_name).then(|| real.to_owned());
        }
    } else if let Some(prefix) = homebrew(real) {
        needs.binds.push(bind(host, &prefix, None, program)?);
        needs.command = Some(real.to_owned());
    } else if let Some(package) = package {
        // A toolchain that is bound as a whole may hold it already.
        if !needs.binds.iter().any(|bind| bind.target.is_none() && package.starts_with(&bind.source)) {
            needs.binds.push(bind(host, &package, None, program)?);
        }
        needs.command = Some(real.to_owned());
    } else if kind == Kind::Native {
        // The link is followed at each launch, so that an update of the program does not break the bottle.
        let target = format!("~/.local/bin/{}", program.name());
        needs.binds.push(bind(host, path, Some(target), program)?);
    } else {
        return Err(format!("{} is a script outside of any package", real.display()));
    }
    let is_seen = |at: &Path| {
        host.is_visible(at) || needs.binds.iter().any(|bind| bind.target.is_none() && at.starts_with(&bind.source))
    };
    if needs.command.is_some() && leads_there(path, real, is_seen) {
        // As a person knows it; the next version's target is another.
        needs.command = Some(path.to_owned());
    }
    match &needs.command {
        Some(command) if command.to_str().is_none_or(|text| text.contains(' ')) => {
            Err(format!("{} has a space in its path, which `command` does not take", command.display()))
        }
        Some(_) | None => Ok(needs),
    }
}

/// Does the path lead to the program inside as well, through nothing but what is seen there?
fn leads_there(path: &Path, real: &Path, is_seen: impl Fn(&Path) -> bool) -> bool {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Some((parent, name)) = at.parent().zip(at.file_name()) else { return false };
        // A directory on the way that is a link itself may be none inside.
        if !is_seen(&at) || (at == path && parent.canonicalize().ok().as_deref() != Some(parent)) {
            return false;
        }
        let Ok(next) = std::fs::read_link(&at) else { return at == real };
        let next = parent.join(next);
        let Some((Ok(parent), name)) = next.parent().map(Path::canonicalize).zip(next.file_name().or(Some(name)))
        else {
            return false;
        };
        at = parent.join(name);
    }
    false
}

fn bind(host: &Surroundings, source: &Path, target: Option<String>, program: Program) -> Result<BindLine, String> {
    if source.to_str().is_none() {
        return Err(format!("{} is no UTF-8", source.display()));
    }
    match host.refused(source) {
        Some(why) => Err(format!("{}: {why}", source.display())),
        None => Ok(BindLine { source: source.to_owned(), target, why: program.name().to_owned() }),
    }
}

/// The node that a script runs with: the one beside it, as version managers have it, else that of PATH.
fn node(host: &Surroundings, path: &Path, real: &Path) -> Result<Toolchain, String> {
    let beside = |file: &Path| {
        let roots = file.ancestors().skip(1);
        roots.map(|root| root.join("bin/node")).find(|node| super::is_executable(node))
    };
    let sibling = path.parent().map(|dir| dir.join("node")).filter(|node| super::is_executable(node));
    let node = sibling.or_else(|| beside(real)).or_else(|| host.find("node", &[]));
    let node = node.ok_or_else(|| format!("{} needs node, which is not on PATH", path.display()))?;
    node_at(host, &node).ok_or_else(|| format!("{} does not say where it is", node.display()))?.usable()
}

fn of_node(node: Toolchain) -> Inside {
    Inside { command: None, binds: node.binds, path: node.path }
}

/// Everything of Homebrew refers to its prefix, the dynamic loader included.
fn homebrew(real: &Path) -> Option<PathBuf> {
    real.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == ".linuxbrew")).map(Path::to_path_buf)
}

/// The directory that holds a package with all that it needs. npm's global packages (`lib/node_modules/NAME`) hold their
/// own; elsewhere packages share what stands beside them.
fn package_of(real: &Path) -> Option<PathBuf> {
    let modules = real.ancestors().filter(|dir| dir.file_name().is_some_and(|name| name == "node_modules")).last()?;
    if modules.parent().and_then(Path::file_name).is_none_or(|name| name != "lib") {
        return Some(modules.to_owned());
    }
    let mut below = real.strip_prefix(modules).ok()?.components();
    let first = below.next()?;
    let package = modules.join(first);
    let scoped = first.as_os_str().to_str().is_some_and(|name| name.starts_with('@'));
    Some(if scoped { package.join(below.next()?) } else { package })
}
