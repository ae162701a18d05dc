//! A chat agent's file in its surroundings: the `.env` beside it, this process's environment and the command line.
//!
//! *Must never* show a value of a `.env`, and must say when such a file lies open: readable by others, or in a repository's index
//! (G66b).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use carboy_control::disk::DiskFiles;
use carboy_control::vault::Lookup;
use carboy_manifest::chat::dotenv::DOTENV_BYTES_MAX;
use carboy_manifest::chat::{ChatFile, Dotenv, Flags, Resolved, Surroundings, resolve};
use carboy_manifest::diagnostic::{Code, Diagnostic, Diagnostics, Position};
use carboy_manifest::{ManifestFiles, Places};

/// Largest index of a repository that is looked through for a `.env`.
const INDEX_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Directories above a `.env` that are looked at for a repository.
const DEPTH_MAX: usize = 64;

/// An agent, settled or not, and the `.env` whose secrets stand behind those of settings and environment.
pub struct Settled {
    /// Where one was read.
    pub dotenv: Option<Dotenv>,
    /// Every value, or what is wrong.
    pub chat: Result<Resolved, Diagnostics>,
}

/// Settles it.
pub fn settle(file: &ChatFile, places: &Places, lookup: &dyn Lookup, flags: &Flags) -> Settled {
    let path = file.dotenv(places);
    let mut found = Diagnostics::default();
    let dotenv = match DiskFiles.read(&path, DOTENV_BYTES_MAX) {
        Ok(None) => None,
        Ok(Some(bytes)) => {
            let (dotenv, of_lines) = Dotenv::parse(&path, &bytes, &file.secrets());
            found.extend(of_lines);
            exposed(&path, &mut found);
            Some(dotenv)
        }
        Err(error) => {
            let fix = "make it a small file that you can read, or remove it";
            found.push(Diagnostic::error(Code::FileUnreadable, error.to_string(), fix).at(&path, Position::START));
            None
        }
    };
    let env = |name: &str| lookup.variable(name).and_then(|value| value.into_string().ok());
    let around = Surroundings { dotenv: dotenv.as_ref(), env: &env, flags };
    let chat = match resolve(file, &around) {
        Ok(mut resolved) if !found.has_errors() => {
            resolved.warnings.extend(found);
            Ok(resolved)
        }
        Ok(_) => Err(found),
        Err(errors) => {
            found.extend(errors);
            Err(found)
        }
    };
    Settled { dotenv, chat }
}

/// G66b: a `.env` that others of this machine can read, or that goes wherever the repository goes.
fn exposed(path: &Path, out: &mut Diagnostics) {
    let mut warn = |what: &str, fix: String| {
        out.push(Diagnostic::warning(Code::FileExposed, what, fix).at(path, Position::START));
    };
    let mode = std::fs::metadata(path).map_or(0, |found| found.permissions().mode());
    if mode & 0o077 != 0 {
        warn("others than you can read this file", format!("chmod 600 {}", path.display()));
    }
    if is_tracked(path) {
        warn(
            "git tracks this file: what it holds goes wherever the repository goes",
            format!("git rm --cached {}, add it to .gitignore, and make new keys", path.display()),
        );
    }
}

/// Whether the index of the repository around it names the file. The index is looked through here: git itself would run what a
/// checked-out repository's configuration says. (Version 4 shortens names; nothing is said of those.)
fn is_tracked(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    for root in path.ancestors().skip(1).take(DEPTH_MAX) {
        let index = root.join(".git").join("index");
        if !index.is_file() {
            continue;
        }
        let (Ok(below), Ok(Some(bytes))) = (path.strip_prefix(root), DiskFiles.read(&index, INDEX_BYTES_MAX)) else {
            return false;
        };
        let mut name = below.as_os_str().as_encoded_bytes().to_vec();
        name.push(0);
        // Before a name stand its flags: its length in twelve bits (gitformat-index(5)).
        let length = u16::try_from(name.len() - 1).unwrap_or(u16::MAX).min(0x0fff);
        return bytes
            .windows(name.len() + 2)
            .any(|window| window[2..] == name[..] && u16::from_be_bytes([window[0], window[1]]) & 0x0fff == length);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotenv_in_a_repositorys_index_is_known_g66b() {
        // G66b: by the index that git itself writes
        let dir = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            let done = std::process::Command::new("git").arg("-C").arg(dir.path()).args(args).output();
            assert!(done.expect("git; install it (apt-get install git)").status.success(), "{args:?}");
        };
        git(&["init", "-q"]);
        let env = dir.path().join("agents/.env");
        std::fs::create_dir(dir.path().join("agents")).unwrap();
        std::fs::write(&env, "A=b\n").unwrap();
        std::fs::write(dir.path().join("agents/x.env"), "").unwrap();
        git(&["add", "agents/x.env"]);
        assert!(!is_tracked(&env));
        git(&["add", "-f", "agents/.env"]);
        assert!(is_tracked(&env));
        let mut found = Diagnostics::default();
        std::fs::set_permissions(&env, std::fs::Permissions::from_mode(0o640)).unwrap();
        exposed(&env, &mut found);
        assert_eq!(found.iter().filter(|one| one.code == Code::FileExposed).count(), 2);
        std::fs::set_permissions(&env, std::fs::Permissions::from_mode(0o600)).unwrap();
        git(&["rm", "-q", "--cached", "agents/.env"]);
        let mut found = Diagnostics::default();
        exposed(&env, &mut found);
        assert!(found.is_empty());
    }
}
