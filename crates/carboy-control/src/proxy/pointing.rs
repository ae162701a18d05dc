//! How a client is pointed at a proxy: variables, and the two files that they need for as long as the run lives.
//!
//! The password is in the variables, as every client wants it, and in one file that its user alone reads. Who may read
//! `/proc/PID/environ` of a client (the same user, and root) may use the proxy anyway; a command line is read by everybody,
//! and never made here.
//!
//! *Must never* give a client a real key: where a route sets one, its variable holds a fake.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carboy_core::ids::SecretName;
use carboy_core::secret::SecretText;

use super::door::At;
use crate::home::{HomeError, private_dir, write_private};

/// The user's name in the proxy's address; it is not looked at.
pub const USER: &str = "carboy";
/// What clients of a proxy call it.
const PROXY_VARIABLES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
/// Servers of this machine are no business of a proxy's.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";
/// Holds a socket's path; no common client knows a variable for it.
const SOCKET_VARIABLE: &str = "CARBOY_PROXY_SOCKET";
/// The key of the log's chain is nobody's beside the proxy.
const LOG_KEY: &str = "AUDIT_INTEGRITY_KEY";

/// What a client has to know.
pub struct Pointing {
    /// The run.
    pub run: String,
    /// Its bottle.
    pub bottle: String,
    /// Where it listens.
    pub at: At,
    /// The certificate that it signs with, as PEM.
    pub ca_file: PathBuf,
    /// The variables as a shell reads them.
    pub env_file: PathBuf,
    pub(super) password: Option<Arc<SecretText>>,
    pub(super) fakes: Vec<SecretName>,
    /// Placeholders by the variables that hold them.
    pub(super) placeholders: BTreeMap<String, String>,
    pub(super) origins: Vec<String>,
}

impl Pointing {
    /// Its address with the password in it, for clients that take one text; none on a socket.
    pub fn address(&self) -> Option<String> {
        match (&self.at, &self.password) {
            (At::Loopback(address), Some(password)) => Some(format!("http://{USER}:{}@{address}", password.expose())),
            (At::Loopback(_) | At::Socket(_), _) => None,
        }
    }

    /// Every variable of a client, the password among them.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.to_owned()));
        match (&self.at, self.address()) {
            (At::Loopback(_), Some(address)) => {
                PROXY_VARIABLES.iter().for_each(|name| set(name, &address));
                ["NO_PROXY", "no_proxy"].iter().for_each(|name| set(name, NO_PROXY));
                // Node looks at them since 24 when it is told to.
                set("NODE_USE_ENV_PROXY", "1");
            }
            (At::Socket(path), _) => set(SOCKET_VARIABLE, &path.display().to_string()),
            (At::Loopback(_), None) => {}
        }
        for (name, _) in carboy_egress::trust_env() {
            set(name, &self.ca_file.display().to_string());
        }
        for name in &self.fakes {
            set(name.as_str(), &carboy_guard::placeholder_for(name));
        }
        self.placeholders.iter().for_each(|(name, value)| set(name, value));
        variables
    }

    /// Variables that a command beside the proxy does not get: those in which secrets of the settings stand.
    pub fn withheld(&self) -> Vec<&str> {
        self.origins.iter().map(String::as_str).chain([LOG_KEY]).collect()
    }

    /// The variables as lines that a shell reads.
    pub fn shell(&self) -> String {
        let line = |(name, value): (String, String)| format!("export {name}='{}'\n", value.replace('\'', "'\\''"));
        self.variables().into_iter().map(line).collect()
    }
}

/// The directory of a proxy that lives; it goes with it.
pub(super) struct Files(PathBuf);

impl Files {
    /// Makes it, for this user alone.
    pub(super) fn make(dir: &Path) -> Result<Files, HomeError> {
        private_dir(dir)?;
        Ok(Files(dir.to_owned()))
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    pub(super) fn env(&self) -> PathBuf {
        self.0.join("env")
    }

    /// Writes both, 0600.
    pub(super) fn write(&self, ca_pem: &str, pointing: &Pointing) -> Result<(), HomeError> {
        write_private(&self.ca(), ca_pem.as_bytes())?;
        write_private(&self.env(), pointing.shell().as_bytes())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What is left of one that was killed is cleared by the next `ps`.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_every_variable_and_a_key_is_a_fake() {
        let pointing = Pointing {
            run: "r-1".into(),
            bottle: "b".into(),
            at: At::Loopback("127.0.0.1:4711".parse().unwrap()),
            ca_file: "/it's/ca.pem".into(),
            env_file: "/env".into(),
            password: Some(Arc::new(SecretText::new("pass".into()))),
            fakes: vec![SecretName::parse("ANTHROPIC_API_KEY").unwrap()],
            placeholders: [("GH_TOKEN".to_owned(), "ghp_a0b1".to_owned())].into(),
            origins: vec!["MY_KEY".into()],
        };
        let shell = pointing.shell();
        assert!(shell.contains("export HTTPS_PROXY='http://carboy:pass@127.0.0.1:4711'\n"), "{shell}");
        assert!(shell.contains("export SSL_CERT_FILE='/it'\\''s/ca.pem'\n"), "{shell}");
        let fake = pointing.variables().into_iter().find(|(name, _)| name == "ANTHROPIC_API_KEY").unwrap().1;
        assert!(fake.contains(carboy_guard::PLACEHOLDER_MARK));
        assert_eq!(pointing.withheld(), ["MY_KEY", "AUDIT_INTEGRITY_KEY"]);
        let socket = Pointing { at: At::Socket("/s".into()), password: None, ..pointing };
        assert_eq!(socket.address(), None);
        assert!(socket.shell().starts_with("export CARBOY_PROXY_SOCKET='/s'\n"), "{}", socket.shell());
    }
}
