//! What a program finds inside its bottle: its environment, its files, and which host directories may be its workspace.
//!
//! *Must never* pass the host's environment on: variables are named here or in the bottle's file, one by one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use carboy_core::ids::{BottleName, SecretName};
use carboy_manifest::host_paths::{HOME_INSIDE, refused_source};

/// Where programs are looked up inside.
pub const PATH_INSIDE: &str = "/home/agent/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Host variables that say how text, time and the terminal look, and nothing else.
const HARMLESS: &[&str] = &["LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "TZ", "COLORTERM"];
/// Directories that belong to the system with all that is in them.
const SYSTEM_TREES: &[&str] =
    &["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr"];
/// Directories that everybody on the machine shares; a project in one of them is fine.
const SHARED: &[&str] = &["/", "/home", "/opt", "/root", "/srv", "/tmp", "/var", "/var/tmp"];

/// Why a host directory is not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShowError {
    /// Too much would be in it.
    #[error("{path} cannot be shown to a bottle: {why}; choose the project's own directory (`--workdir DIR`)")]
    TooWide {
        /// The directory.
        path: PathBuf,
        /// What else is in it.
        why: String,
    },
    /// It holds what no bottle sees.
    #[error("{path} cannot be shown to a bottle: {why}")]
    Never {
        /// The directory.
        path: PathBuf,
        /// What it holds.
        why: String,
    },
}

/// The host's directories that matter for what may be shown.
#[derive(Clone, Debug)]
pub struct HostPlaces {
    /// The person's home.
    pub user_home: PathBuf,
    /// `CARBOY_HOME`.
    pub carboy_home: PathBuf,
}

impl HostPlaces {
    /// May this (canonical) path be a writable workspace?
    pub fn check_workspace(&self, path: &Path) -> Result<(), ShowError> {
        let too_wide = |why: String| Err(ShowError::TooWide { path: path.to_owned(), why });
        if SHARED.iter().any(|dir| path == Path::new(dir)) {
            return too_wide("it is shared by everything on this machine".into());
        }
        if SYSTEM_TREES.iter().any(|dir| path.starts_with(dir)) {
            return too_wide("it belongs to the system".into());
        }
        if self.user_home.starts_with(path) {
            return too_wide("your whole home is in it".into());
        }
        self.check_bind(path)
    }

    /// May this (canonical) path be shown at all? The manifest's rule, asked again once links are resolved.
    pub fn check_bind(&self, path: &Path) -> Result<(), ShowError> {
        match refused_source(path, &self.user_home, &self.carboy_home) {
            Some(why) => Err(ShowError::Never { path: path.to_owned(), why }),
            None => Ok(()),
        }
    }
}

/// Parts of a program's environment, weakest first.
pub struct EnvironmentParts<'a> {
    /// The bottle.
    pub bottle: &'a BottleName,
    /// A variable of the host; only harmless ones are asked for.
    pub host: &'a dyn Fn(&str) -> Option<String>,
    /// `TERM`, when the program gets a terminal.
    pub terminal: Option<String>,
    /// Variables that make programs trust the gateway's certificates.
    pub trust: Vec<(&'a str, String)>,
    /// Variables of the provider whose program is started.
    pub provider: Vec<(&'a str, String)>,
    /// Secrets that routes inject: inside, each name holds a fake.
    pub injected: &'a [SecretName],
    /// The bottle's `env`.
    pub manifest: &'a BTreeMap<String, String>,
    /// `--env`.
    pub flags: &'a [(String, String)],
}

/// The whole environment inside.
pub fn environment(parts: EnvironmentParts<'_>) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        ("HOME", HOME_INSIDE),
        ("USER", "agent"),
        ("LOGNAME", "agent"),
        ("SHELL", "/bin/sh"),
        ("PATH", PATH_INSIDE),
        ("CARBOY_BOTTLE", parts.bottle.as_str()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    env.extend(HARMLESS.iter().filter_map(|name| Some(((*name).to_owned(), (parts.host)(name)?))));
    env.extend(parts.terminal.map(|term| ("TERM".to_owned(), term)));
    env.extend(parts.trust.into_iter().map(|(name, value)| (name.to_owned(), value)));
    env.extend(parts.provider.into_iter().map(|(name, value)| (name.to_owned(), value)));
    env.extend(parts.injected.iter().map(|name| (name.as_str().to_owned(), carboy_guard::placeholder_for(name))));
    env.extend(parts.manifest.clone());
    env.extend(parts.flags.iter().cloned());
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> HostPlaces {
        HostPlaces { user_home: "/home/ann".into(), carboy_home: "/home/ann/.carboy".into() }
    }

    #[test]
    fn a_workspace_is_a_project_and_not_a_home_or_a_system() {
        let says = |path: &str| places().check_workspace(Path::new(path)).is_ok();
        assert!(
            says("/home/ann/project") && says("/srv/project") && says("/tmp/x") && says("/var/lib/x") && says("/opt/x")
        );
        for path in [
            "/",
            "/home",
            "/home/ann",
            "/usr/lib",
            "/etc",
            "/home/ann/.ssh",
            "/home/ann/.ssh/x",
            "/home/ann/.carboy/state",
        ] {
            assert!(!says(path), "{path}");
        }
    }

    #[test]
    fn the_environment_holds_fakes_and_nothing_of_the_host_that_was_not_named() {
        let key = SecretName::parse("ANTHROPIC_API_KEY").unwrap();
        let host = |name: &str| Some(format!("host-{name}"));
        let env = environment(EnvironmentParts {
            bottle: &BottleName::parse("b").unwrap(),
            host: &host,
            terminal: None,
            trust: vec![("SSL_CERT_FILE", "/ca.pem".into())],
            provider: vec![("IS_SANDBOX", "1".into())],
            injected: std::slice::from_ref(&key),
            manifest: &[("A".to_owned(), "1".to_owned())].into(),
            flags: &[("A".to_owned(), "2".to_owned())],
        });
        assert!(env["ANTHROPIC_API_KEY"].contains(carboy_guard::PLACEHOLDER_MARK));
        assert_eq!((env["A"].as_str(), env["LANG"].as_str()), ("2", "host-LANG"));
        assert!(env.values().all(|v| !v.starts_with("host-")
            || ["host-LANG", "host-TZ", "host-COLORTERM"].contains(&v.as_str())
            || v.starts_with("host-LC_")));
    }
}
