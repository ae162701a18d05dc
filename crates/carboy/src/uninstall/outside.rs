//! What of carboy may be outside of its home: completions and a man page in the user's own directories, which go when
//! they are word for word this program's, and the program itself, which is named with the command that removes it.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use carboy_control::host_programs::{self, Fence};
use carboy_control::uninstall::Left;
use rustix::fs::{Access, OFlags};

use crate::args::Shell;

/// A file that is longer is not this program's.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Where completions and the man page go, below the data directory, the configuration directory, and what they are.
const PLACES: &[(Base, &str, Kind)] = &[
    (Base::Data, "bash-completion/completions/carboy", Kind::Completions(Shell::Bash)),
    (Base::Data, "zsh/site-functions/_carboy", Kind::Completions(Shell::Zsh)),
    (Base::Data, "fish/vendor_completions.d/carboy.fish", Kind::Completions(Shell::Fish)),
    (Base::Config, "fish/completions/carboy.fish", Kind::Completions(Shell::Fish)),
    (Base::Data, "man/man1/carboy.1", Kind::Man),
];
/// Longest time that Debian's package database may take.
const PACKAGE_WAIT_MAX: Duration = Duration::from_secs(5);
/// What `doctor` says to write on Ubuntu.
const APPARMOR: &str = "/etc/apparmor.d/carboy";
/// The organisation's.
const SITE: &str = "/etc/carboy";

#[derive(Clone, Copy)]
enum Base {
    Data,
    Config,
}

#[derive(Clone, Copy)]
enum Kind {
    Completions(Shell),
    Man,
}

/// A file that goes.
pub struct Own {
    pub path: PathBuf,
    pub what: &'static str,
}

/// Something that a person has to do.
pub struct Step {
    pub what: &'static str,
    pub command: String,
}

/// What there is outside of the home.
pub struct Outside {
    pub files: Vec<Own>,
    pub steps: Vec<Step>,
}

impl Outside {
    /// Looks, and changes nothing. `user_home` is `$HOME`.
    pub fn look(user_home: &Path) -> Outside {
        let mut outside = Outside { files: Vec::new(), steps: Vec::new() };
        let base = |variable: &str, otherwise: &str| {
            let set = std::env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute());
            set.unwrap_or_else(|| user_home.join(otherwise))
        };
        let (data, config) = (base("XDG_DATA_HOME", ".local/share"), base("XDG_CONFIG_HOME", ".config"));
        for (base, place, kind) in PLACES {
            let path = match base {
                Base::Data => data.join(place),
                Base::Config => config.join(place),
            };
            let what = match kind {
                Kind::Completions(_) => "completions",
                Kind::Man => "the man page",
            };
            match content(&path) {
                Some(content) if content == own(*kind) => outside.files.push(Own { path, what }),
                Some(_) => outside.steps.push(Step {
                    what: "completions or a man page that this version did not write",
                    command: format!("rm {}", quoted(&path)),
                }),
                None => {}
            }
        }
        outside.steps.extend(site());
        outside.steps.extend(program(user_home));
        outside
    }

    /// Removes the files; what could not be removed.
    pub fn remove(&self) -> Vec<Left> {
        let removed = self.files.iter().map(|file| (file, std::fs::remove_file(&file.path)));
        removed.filter_map(|(file, done)| done.err().map(|why| Left { path: file.path.clone(), why })).collect()
    }
}

/// What this program writes for it.
fn own(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Completions(shell) => crate::completions::completions_of(shell),
        // A page that cannot be made equals no file.
        Kind::Man => crate::man_page().unwrap_or_default(),
    }
}

/// A small regular file of ours; nothing through a link.
fn content(path: &Path) -> Option<Vec<u8>> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).ok()?;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.uid() != rustix::process::getuid().as_raw() || meta.len() > FILE_BYTES_MAX {
        return None;
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).ok()?;
    Some(content)
}

/// What an administrator has set up.
fn site() -> Vec<Step> {
    let mut steps = Vec::new();
    if Path::new(APPARMOR).exists() {
        let command = format!("sudo apparmor_parser -R {APPARMOR}; sudo rm {APPARMOR}");
        steps.push(Step { what: "the AppArmor profile", command });
    }
    if Path::new(SITE).exists() {
        steps.push(Step { what: "the settings of this machine", command: format!("sudo rm -r {SITE}") });
    }
    steps
}

/// The program itself, by the way it came.
fn program(user_home: &Path) -> Option<Step> {
    let path = std::env::current_exe().ok()?;
    // Through a shell, because what it says of a file that no package has is nobody's business.
    let fence = Fence::new(&|name| std::env::var_os(name), &[std::env::current_dir().ok()?]);
    let owner = ["/bin/sh", "-c", "exec dpkg-query --search \"$0\" 2>/dev/null", path.to_str()?].map(str::to_owned);
    // Where there is no such program, or it knows of no package, the file came in another way.
    if host_programs::command(&fence, &owner, PACKAGE_WAIT_MAX).is_ok_and(|said| said.starts_with(b"carboy: ")) {
        return Some(Step { what: "the package", command: "sudo apt-get remove carboy".to_owned() });
    }
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| user_home.join(".cargo"), PathBuf::from);
    let command = match path.parent() {
        Some(dir) if dir == cargo.join("bin") => "cargo uninstall carboy".to_owned(),
        Some(dir) if rustix::fs::access(dir, Access::WRITE_OK).is_ok() => format!("rm {}", quoted(&path)),
        Some(_) | None => format!("sudo rm {}", quoted(&path)),
    };
    Some(Step { what: "the program", command })
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_that_somebody_changed_is_named_and_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(".local/share/fish/vendor_completions.d");
        std::fs::create_dir_all(&place).unwrap();
        let file = place.join("carboy.fish");
        std::fs::write(&file, own(Kind::Completions(Shell::Fish))).unwrap();
        assert_eq!(Outside::look(dir.path()).files[0].path, file);
        std::fs::write(&file, "complete -c carboy -a mine\n").unwrap();
        let outside = Outside::look(dir.path());
        assert!(outside.files.is_empty());
        assert!(outside.steps.iter().any(|step| step.command == format!("rm {}", file.display())));
        // Through a link, nothing is even read.
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(Outside::look(dir.path()).files.is_empty());
    }
}
