//! Which file a program's name stands for, so that no bottle has a say in it.
//!
//! ```text
//! name ─▶ PATH without relative and empty entries, and without what a bottle writes ─▶ real file ─▶ Program
//! ```
//!
//! A person who works in a project often has `$PWD/.venv/bin` or `node_modules/.bin` on the `PATH`: whatever the program
//! inside writes there must never be what the host runs outside.
//!
//! *Must never* give a file that a bottle may write, or one by a path that leads through such a place.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use super::CommandError;

/// Where commands of the host run: nobody but root puts anything there.
pub const NEUTRAL_DIR: &str = "/";
/// Where programs are looked for when there is no `PATH`.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Most links on the way to a program; as many as the system follows.
const LINKS_MAX: usize = 40;
/// Other variables that are lists of directories from which programs load what they run.
const SEARCHED: [&str; 6] = ["LD_LIBRARY_PATH", "PYTHONPATH", "PERL5LIB", "RUBYLIB", "NODE_PATH", "GIO_EXTRA_MODULES"];

/// Where programs of the host are looked for: set down once, before anything of a bottle runs.
#[derive(Clone, Debug)]
pub struct Fence {
    /// Real paths.
    path: Vec<PathBuf>,
    /// Real paths below which nothing is found.
    never: Vec<PathBuf>,
    /// What a program's environment has instead of the person's own; `None` is not set.
    environment: Vec<(OsString, Option<OsString>)>,
}

impl Fence {
    /// `variable` is the person's environment; below `never` nothing is found: what a bottle may write, or has brought.
    pub fn new(variable: &dyn Fn(&str) -> Option<OsString>, never: &[PathBuf]) -> Fence {
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let mut fence = Fence { path: Vec::new(), never: never.iter().map(real).collect(), environment: Vec::new() };
        let path = variable("PATH").unwrap_or_else(|| USUAL_PATH.into());
        let kept = |dir: PathBuf| match fence.walk(&dir) {
            Ok(real) => Some(real),
            // For saying why.
            Err(Astray::Reached(_)) => Some(dir),
            Err(Astray::Missing) => None,
        };
        fence.path = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).filter_map(kept).collect();
        let joined = |dirs: &[PathBuf]| std::env::join_paths(dirs).ok().filter(|all| !all.is_empty());
        // A program that is a script finds its interpreter, and whatever it calls, by these.
        fence
            .environment
            .push(("PATH".into(), Some(joined(&fence.outside(&path)).unwrap_or_else(|| USUAL_PATH.into()))));
        for name in SEARCHED {
            if let Some(value) = variable(name) {
                let kept = joined(&fence.outside(&value));
                fence.environment.push((name.into(), kept));
            }
        }
        // It says where the person was, which is no longer true.
        fence.environment.push(("PWD".into(), Some(NEUTRAL_DIR.into())));
        fence.environment.push(("OLDPWD".into(), None));
        fence
    }

    /// The real directories of such a list that no bottle writes.
    fn outside(&self, list: &OsStr) -> Vec<PathBuf> {
        let dirs = std::env::split_paths(list).filter(|dir| dir.is_absolute());
        dirs.filter_map(|dir| self.walk(&dir).ok()).collect()
    }

    /// The real path, when the way to it leads through no place that is refused: a link in such a place may lead out of it,
    /// to what its maker has chosen.
    fn walk(&self, path: &Path) -> Result<PathBuf, Astray> {
        let parts = |path: &Path| path.components().rev().map(|c| c.as_os_str().to_owned()).collect::<Vec<_>>();
        let (mut at, mut rest, mut links) = (PathBuf::from("/"), parts(path), 0);
        while let Some(part) = rest.pop() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => at = PathBuf::from("/"),
                Some(Component::ParentDir) => drop(at.pop()),
                Some(Component::Normal(_)) => {
                    let next = at.join(&part);
                    if let Some(place) = self.never.iter().find(|place| next.starts_with(place)) {
                        return Err(Astray::Reached(place.clone()));
                    }
                    let meta = next.symlink_metadata().map_err(|_| Astray::Missing)?;
                    if meta.is_symlink() {
                        links += 1;
                        let target = next.read_link().ok().filter(|_| links <= LINKS_MAX).ok_or(Astray::Missing)?;
                        rest.extend(parts(&target));
                    } else {
                        at = next;
                    }
                }
                Some(Component::CurDir | Component::Prefix(_)) | None => {}
            }
        }
        Ok(at)
    }

    /// What a program's environment has instead of the person's own; `None` is not set.
    pub fn environment(&self) -> &[(OsString, Option<OsString>)] {
        &self.environment
    }

    /// The program of this name, or at this absolute path.
    ///
    /// # Errors
    /// When there is none, or only one that a bottle may write.
    pub fn find(&self, name: &str) -> Result<Program, CommandError> {
        if name.is_empty() {
            return Err(CommandError::Empty);
        }
        let named: Vec<PathBuf> = match Path::new(name) {
            path if path.is_absolute() => vec![path.to_owned()],
            _ if name.contains('/') => return Err(CommandError::Relative),
            path => self.path.iter().map(|dir| dir.join(path)).collect(),
        };
        let mut refused = None;
        for named in named {
            match self.walk(&named) {
                Ok(real) if is_executable(&real) => {
                    return Ok(Program { real, named, environment: self.environment.clone() });
                }
                Err(Astray::Reached(place)) if is_executable(&named) => {
                    refused.get_or_insert(CommandError::Reached { program: named, place });
                }
                Ok(_) | Err(Astray::Reached(_) | Astray::Missing) => {}
            }
        }
        Err(refused.unwrap_or_else(|| {
            CommandError::Start(std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such program on PATH"))
        }))
    }
}

/// Why a path is not followed to its end.
enum Astray {
    /// Its way leads through this place.
    Reached(PathBuf),
    /// Nothing is there, or links without end.
    Missing,
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// A program of the host that was found: what is started is this file, whatever its name leads to later.
#[derive(Clone, Debug)]
pub struct Program {
    real: PathBuf,
    named: PathBuf,
    environment: Vec<(OsString, Option<OsString>)>,
}

impl Program {
    /// Its real path.
    pub fn path(&self) -> &Path {
        &self.real
    }

    /// A process of it, in [`NEUTRAL_DIR`]; many programs load what lies in their working directory.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.real);
        // Programs with several names (busybox, snap, rustup, a virtual environment's python) go by this.
        command.arg0(&self.named).current_dir(NEUTRAL_DIR);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::time::Duration;

    use super::super::output;
    use super::*;

    fn program(path: &Path, script: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Written by another process: a child that another test forks meanwhile would hold it open for writing (ETXTBSY).
        let written = Command::new("/bin/sh")
            .args(["-c", "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\" && chmod 755 \"$0\""])
            .args([path.as_os_str(), script.as_ref()])
            .status();
        assert!(written.unwrap().success());
    }

    fn fence(path: String, never: &[PathBuf]) -> Fence {
        Fence::new(&move |name| (name == "PATH").then(|| path.clone().into()), never)
    }

    fn said(program: &Program) -> String {
        String::from_utf8(output(program, &[], Duration::from_secs(10)).unwrap()).unwrap()
    }

    #[test]
    fn what_a_bottle_may_write_is_never_found_by_whatever_way_path_leads_there() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let (theirs, own) = (top.join("theirs"), top.join("own"));
        program(&theirs.join(".venv/bin/notify-send"), "echo theirs");
        program(&own.join("notify-send"), "echo own; pwd; echo $PATH");
        symlink(&theirs, top.join("link")).unwrap();
        fs::create_dir(top.join("links")).unwrap();
        symlink(theirs.join(".venv/bin/notify-send"), top.join("links/notify-send")).unwrap();
        symlink("/bin/sh", theirs.join(".venv/bin/chosen")).unwrap();
        let path = format!(
            "{0}/theirs/.venv/bin:{0}/link/.venv/bin:{0}/links::.:.venv/bin:{0}/own/../theirs/.venv/bin:{0}/own",
            top.display()
        );
        let fence = fence(path, &[top.join("link")]);
        // Out of the workspace, into it, and out again.
        symlink(theirs.join("way"), top.join("links/winding")).unwrap();
        symlink("/bin/sh", theirs.join("way")).unwrap();
        assert!(matches!(fence.find("winding"), Err(CommandError::Reached { .. })));
        let found = fence.find("notify-send").unwrap();
        assert_eq!(found.path(), own.join("notify-send"));
        // What it calls itself is looked for in the same places.
        assert_eq!(said(&found), format!("own\n/\n{0}/links:{0}/own\n", top.display()));
        let absolute = theirs.join(".venv/bin/notify-send");
        let refused = fence.find(absolute.to_str().unwrap()).unwrap_err();
        assert!(matches!(refused, CommandError::Reached { .. }), "{refused}");
        assert!(matches!(fence.find("chosen"), Err(CommandError::Reached { .. })));
        let chosen = top.join("link/.venv/bin/chosen");
        assert!(matches!(fence.find(chosen.to_str().unwrap()), Err(CommandError::Reached { .. })));
        fs::remove_dir_all(&own).unwrap();
        let refused = fence.find("notify-send").unwrap_err();
        assert!(matches!(refused, CommandError::Reached { .. }), "{refused}");
        assert!(matches!(fence.find("no-such-program"), Err(CommandError::Start(_))));
        for relative in ["./x", "a/b", ".venv/bin/notify-send"] {
            assert!(matches!(fence.find(relative), Err(CommandError::Relative)), "{relative}");
        }
    }

    #[test]
    fn a_program_that_was_found_stays_the_one_that_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        program(&top.join("real/multi"), "echo real as ${0##*/}");
        program(&top.join("other/tool"), "echo other");
        fs::create_dir(top.join("bin")).unwrap();
        symlink(top.join("real/multi"), top.join("bin/tool")).unwrap();
        let found = fence(format!("{}/bin", top.display()), &[]).find("tool").unwrap();
        fs::remove_file(top.join("bin/tool")).unwrap();
        symlink(top.join("other/tool"), top.join("bin/tool")).unwrap();
        // A script sees its own file's name; a program sees the name by which it was found.
        assert_eq!(said(&found), "real as multi\n");
        symlink(Path::new("/bin/sh").canonicalize().unwrap(), top.join("bin/shell")).unwrap();
        let shell = fence(format!("{}/bin", top.display()), &[]).find("shell").unwrap();
        let arguments = ["-c", "echo $0"].map(String::from);
        let named = output(&shell, &arguments, Duration::from_secs(10)).unwrap();
        assert_eq!(String::from_utf8(named).unwrap(), format!("{}/bin/shell\n", top.display()));
    }

    #[test]
    fn lists_from_which_a_program_loads_are_cleaned_like_path() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir(top.join("work")).unwrap();
        fs::create_dir(top.join("own")).unwrap();
        let value = format!("{0}/work:.::{0}/own", top.display());
        let only = format!("{0}/work", top.display());
        let variable = |name: &str| match name {
            "PYTHONPATH" => Some(value.clone().into()),
            "LD_LIBRARY_PATH" => Some(only.clone().into()),
            _ => None,
        };
        let shell = Fence::new(&variable, &[top.join("work")]).find("/bin/sh").unwrap();
        let arguments = ["-c", "echo $PYTHONPATH-${LD_LIBRARY_PATH-unset}"].map(String::from);
        let said = output(&shell, &arguments, Duration::from_secs(10)).unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), format!("{}/own-unset\n", top.display()));
    }
}
