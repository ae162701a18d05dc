//! Paths of the host: `~/`, and which of them a bottle may see (`binds`).
//!
//! ```yaml
//! binds:
//!   ~/.cargo/bin: ~/.cargo/bin        # read-only; `~/` on the right is the home inside
//!   /opt/toolchain: ro                # the same path inside
//!   ~/.cache/agent: /home/agent/.cache:rw
//! ```
//!
//! *Must never* let a bottle see where the host keeps credentials, sockets or carboy's own state, nor a directory that
//! holds one of them. The check here is of the text; whoever mounts has to resolve symbolic links and ask
//! [`refused_source`] again with the result.

use std::path::{Component, Path, PathBuf};

use carboy_core::plan::{Access, Bind};

use crate::diagnostic::{Code, excerpt};
use crate::origin::Said;
use crate::schema::Scope;
use crate::yaml::{Entry, Node};

/// The home directory inside.
pub const HOME_INSIDE: &str = "/home/agent";

/// Below the user's home, never visible inside: keys, tokens, sessions.
const NEVER_IN_HOME: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".config/gcloud",
    ".config/gh",
    ".config/hub",
    ".config/git/credentials",
    ".config/google-chrome",
    ".config/chromium",
    ".config/BraveSoftware",
    ".config/rclone",
    ".docker",
    ".kube",
    ".mozilla",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    ".password-store",
    ".local/share/keyrings",
    ".vault-token",
    // Of agents and package managers: their logins, so that neither these nor what holds them are bound.
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".gemini/oauth_creds.json",
    ".local/share/opencode/auth.json",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".bot-bottle",
];

/// Of the host, never visible inside: its devices, kernel switches and sockets.
const NEVER_OF_HOST: &[&str] = &["/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/root", "/etc"];

/// Inside, never covered by a bind.
const NEVER_TARGET: &[&str] = &["/proc", "/sys", "/dev", "/etc"];

/// `~/x` below `home`, or an absolute path; without `.` and `..`. `None` for anything else.
pub fn expand(text: &str, home: &Path) -> Option<PathBuf> {
    let path = match text.strip_prefix("~/") {
        Some(rest) => home.join(rest.trim_start_matches('/')),
        None if text.starts_with('/') => PathBuf::from(text),
        None => return None,
    };
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    // `components()` drops inner `.` silently, and what is written should be what is meant.
    let dots = text.split('/').any(|part| part == "." || part == "..");
    (path.components().all(plain) && !dots && !text.contains('\0')).then(|| path.components().collect())
}

/// M36: what no bind shows, for a person to read: `~` is the user's home. carboy's own home is another one.
pub fn never_visible() -> impl Iterator<Item = String> {
    let of_home = NEVER_IN_HOME.iter().map(|below| format!("~/{below}"));
    of_home.chain(NEVER_OF_HOST.iter().map(|path| (*path).to_owned()))
}

/// Why this host path is never made visible; `None` when it may be. `source` is absolute.
pub fn refused_source(source: &Path, home: &Path, carboy_home: &Path) -> Option<String> {
    let of_home = NEVER_IN_HOME.iter().map(|below| home.join(below));
    // The home may itself lie below one of these (`/root`): then only that place is exempt, not its neighbours.
    let of_host = NEVER_OF_HOST.iter().map(PathBuf::from).filter(|never| !home.starts_with(never));
    let never = of_home.chain(of_host).chain([carboy_home.to_path_buf()]);
    for never in never {
        if source.starts_with(&never) {
            return Some(format!("{} is never visible in a bottle", never.display()));
        }
        if never.starts_with(source) {
            return Some(format!("it holds {}, which is never visible in a bottle", never.display()));
        }
    }
    None
}

/// Why what lies here is never given to a bottle by any other way either; `None` when it may be.
pub(crate) fn keeps_credentials(path: &Path, home: &Path) -> Option<String> {
    let of_home = NEVER_IN_HOME.iter().map(|below| home.join(below));
    of_home
        .into_iter()
        .find(|never| path.starts_with(never))
        .map(|never| format!("{} keeps credentials", never.display()))
}

/// `binds`: a map from host path to `TARGET`, `TARGET:ro`, `TARGET:rw`, `ro` or `rw`.
pub(crate) fn binds(scope: &mut Scope<'_>, node: &Node) -> Vec<Said<Bind>> {
    let Some(entries) = scope.map(node, "`binds`") else { return Vec::new() };
    let mut binds: Vec<Said<Bind>> = Vec::new();
    for entry in entries {
        let Some(bind) = bind(scope, entry) else { continue };
        if binds.iter().any(|other| other.value.target == bind.target) {
            let message = format!("two binds of {} have the target {}", scope.owner, bind.target.display());
            scope.error(entry.value.at, Code::BadValue, message, "keep one of the two");
        } else {
            binds.push(scope.said(bind, entry.key_at));
        }
    }
    binds
}

fn bind(scope: &mut Scope<'_>, entry: &Entry) -> Option<Bind> {
    let what = format!("bind {}", excerpt(&entry.key));
    let source = expand(&entry.key, scope.home);
    match &source {
        None => {
            let message = format!("{what} of {} does not begin with a path of the host", scope.owner);
            let fix = "use an absolute path or one that begins with `~/`, without `.` and `..`";
            scope.error(entry.key_at, Code::BadValue, message, fix);
        }
        Some(path) => {
            if let Some(reason) = refused_source(path, scope.home, scope.carboy_home) {
                let message = format!("{what} of {} is refused: {reason}", scope.owner);
                scope.error(
                    entry.key_at,
                    Code::BindRefused,
                    message,
                    "bind a narrower directory, or copy what is needed",
                );
            }
        }
    }
    let text = scope.text(&entry.value, &what)?;
    let (target, access) = match text.rsplit_once(':') {
        Some((target, "ro")) => (target, Access::ReadOnly),
        Some((target, "rw")) => (target, Access::ReadWrite),
        Some(_) | None if text == "rw" => ("", Access::ReadWrite),
        Some(_) | None if text == "ro" => ("", Access::ReadOnly),
        Some(_) | None => (text, Access::ReadOnly),
    };
    let target = match target {
        "" if text.starts_with(':') => None,
        // A mistyped mode must not become part of a path that is then mounted read-only.
        target if target.contains(':') => None,
        "" => source.clone(),
        target => expand(target, Path::new(HOME_INSIDE)),
    };
    let covers = |path: &Path| {
        NEVER_TARGET.iter().any(|never| path.starts_with(never) || Path::new(never).starts_with(path))
            || Path::new(HOME_INSIDE).starts_with(path)
    };
    // An absent source is reported already; its target is still looked at.
    let target = match (target, &source) {
        (Some(target), _) if !covers(&target) => Some(target),
        (None, None) if text == "rw" || text == "ro" => None,
        (Some(_) | None, _) => {
            let message = format!("{what} of {} has the target {}", scope.owner, excerpt(text));
            let fix = "write `TARGET`, `TARGET:ro` or `TARGET:rw` with an absolute or `~/` path inside (not the home itself, \
                       `/proc`, `/sys`, `/dev` or `/etc`), or `ro` or `rw` alone for the same path";
            scope.error(entry.value.at, Code::BadValue, message, fix);
            None
        }
    };
    Some(Bind { source: source?, target: target?, access })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_or_below_the_home_and_has_no_dots() {
        let home = Path::new("/home/u");
        let says = |text| expand(text, home).map(|path| path.display().to_string());
        assert_eq!(says("~/a"), Some("/home/u/a".into()));
        assert_eq!(says("~//etc"), Some("/home/u/etc".into()));
        assert_eq!(says("/opt//x/"), Some("/opt/x".into()));
        for text in ["~", "~root/x", "a/b", "", "/a/../b", "~/../x", "/a/./b", "~/a\0"] {
            assert_eq!(says(text), None, "{text:?}");
        }
    }

    #[test]
    fn where_credentials_and_sockets_live_is_refused_with_all_that_holds_it() {
        let refused =
            |text: &str| refused_source(Path::new(text), Path::new("/home/u"), Path::new("/home/u/.carboy")).is_some();
        for text in ["/", "/home", "/home/u", "/home/u/.ssh", "/home/u/.ssh/id", "/home/u/.config", "/home/u/.carboy"] {
            assert!(refused(text), "{text}");
        }
        for text in ["/var/run/docker.sock", "/var", "/run/user/1000", "/proc/1", "/dev/kvm", "/etc/shadow", "/root/x"]
        {
            assert!(refused(text), "{text}");
        }
        for text in ["/home/u/.cargo/bin", "/opt/x", "/home/u/.config/nvim", "/srv/data", "/home/u/.sshx"] {
            assert!(!refused(text), "{text}");
        }
        let of_root = |text: &str| refused_source(Path::new(text), Path::new("/root"), Path::new("/root/.carboy"));
        for text in ["/home/u/.codex", "/home/u/.claude", "/home/u/.cargo", "/home/u/.local/share"] {
            assert!(refused(text), "{text}");
        }
        for text in ["/home/u/.claude/local/node_modules", "/home/u/.local/bin"] {
            assert!(!refused(text), "{text}");
        }
        assert!(of_root("/root/.cargo/bin").is_none() && of_root("/root/.ssh").is_some() && of_root("/root").is_some());
    }
}
