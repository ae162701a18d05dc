//! The secrets of one run: looked up outside, once, and handed to nobody but the gateway.
//!
//! A name is looked up in the settings' `secrets:` (environment variable, file, JSON file or command), else in the environment.
//! *Must never* print a value or put one into an error.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use carboy_core::ids::SecretName;
use carboy_core::ports::{Later, SecretSource};
use carboy_core::secret::{Secret, SecretText};
use carboy_manifest::SecretFrom;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

use crate::host_programs::Program;

/// Largest secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;
/// Largest JSON file that holds a secret, in bytes.
pub const JSON_BYTES_MAX: usize = 1024 * 1024;
/// Longest run of a secret's command.
pub const COMMAND_WAIT_MAX: Duration = Duration::from_secs(30);
/// Former values of one secret that are still looked for.
pub const RETIRED_MAX: usize = 4;
/// A secret is read anew at most this often.
pub const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// Why a secret is not there.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Neither settings nor environment know it.
    #[error(
        "secret {name} is not defined: set the environment variable {name}, or define it under `secrets:` in {settings}"
    )]
    Missing {
        /// Its name.
        name: SecretName,
        /// The settings file.
        settings: PathBuf,
    },
    /// Its environment variable is not set.
    #[error("secret {name}: environment variable {variable} is not set or empty")]
    Unset {
        /// Its name.
        name: SecretName,
        /// The variable.
        variable: String,
    },
    /// Its file cannot be read, or is open to others.
    #[error("secret {name}: {path}: {what}")]
    File {
        /// Its name.
        name: SecretName,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Its JSON file cannot be read, is open to others, or holds no text at the place.
    #[error("secret {name}: {path} at {pointer}: {what}")]
    Json {
        /// Its name.
        name: SecretName,
        /// The file.
        path: PathBuf,
        /// The place in it.
        pointer: String,
        /// What is wrong; never what stands there.
        what: String,
    },
    /// Its command failed.
    #[error("secret {name}: command `{program}` {what}")]
    Command {
        /// Its name.
        name: SecretName,
        /// The program alone: arguments may hold what should not be printed.
        program: String,
        /// What is wrong.
        what: String,
    },
    /// No placeholder can be made for it.
    #[error("the system gives no random bytes for the placeholder of {name}: {source}")]
    Random {
        /// Its name.
        name: SecretName,
        /// What the system said.
        source: getrandom::Error,
    },
    /// Empty, too large, or with bytes that no header takes.
    #[error("secret {name} is empty, larger than {SECRET_BYTES_MAX} bytes, or has control characters in it")]
    Unusable {
        /// Its name.
        name: SecretName,
    },
}

impl VaultError {
    /// What to do next, where the error itself does not say it.
    pub fn next_step(&self) -> Option<String> {
        match self {
            VaultError::Missing { .. } | VaultError::Random { .. } => None,
            VaultError::Unset { variable, .. } => Some(format!(
                "`export {variable}=…` in the shell that starts the run, or say another place under `secrets:` in settings.yml"
            )),
            VaultError::File { path, .. } if !path.exists() => Some(format!(
                "write the value there, for your eyes alone: `(umask 077; cat > {})`; or say another place under `secrets:` \
                 in settings.yml",
                path.display()
            )),
            VaultError::Json { path, .. } if !path.exists() => {
                Some(String::from("log in with the program that writes the file; it keeps its session there"))
            }
            VaultError::File { .. } | VaultError::Json { .. } => None,
            VaultError::Command { program, .. } => Some(format!("run `{program}` by hand, and see what it prints")),
            VaultError::Unusable { .. } => Some(String::from("the value is one line of text, and nothing else")),
        }
    }
}

/// Whether a run that starts now would find a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It would.
    Ready,
    /// A command gives it, and none is run only to look.
    NotRun {
        /// The program alone: arguments may hold what should not be printed.
        program: String,
    },
}

/// Looks whether a secret is there, as a launch would, without running a command; the value is forgotten at once.
pub fn look(name: &SecretName, origin: &SecretFrom, lookup: &dyn Lookup) -> Result<Presence, VaultError> {
    match origin {
        SecretFrom::Command(argv) => Ok(Presence::NotRun { program: argv.first().cloned().unwrap_or_default() }),
        SecretFrom::Env(_) | SecretFrom::File(_) | SecretFrom::JsonFile { .. } => {
            read(name, origin, lookup).map(|_| Presence::Ready)
        }
    }
}

/// What the vault may ask of the host.
pub trait Lookup: Send + Sync {
    /// An environment variable of this process.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// The program of the host that a name stands for, wherever it leads to later.
    fn find(&self, name: &str) -> Result<Program, String>;

    /// Runs a command without a shell, in `/`, and gives its standard output.
    fn command(&self, argv: &[String], wait_max: Duration) -> Result<Vec<u8>, String>;

    /// The same host for a run: no program below these places is found, because what runs in the bottle, or a repository,
    /// may have put it there.
    fn fenced(&self, never: &[PathBuf]) -> Arc<dyn Lookup>;
}

/// The secrets of one run.
pub struct Vault {
    origins: BTreeMap<SecretName, SecretFrom>,
    lookup: Arc<dyn Lookup>,
    held: Mutex<BTreeMap<SecretName, Held>>,
    /// What stands inside in the place of a secret: made once, and the same for the whole run.
    placeholders: Mutex<BTreeMap<SecretName, String>>,
    renewed: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct Held {
    value: Arc<SecretText>,
    /// Values that it had before: still secrets, the last [`RETIRED_MAX`] of them.
    retired: Vec<Arc<SecretText>>,
    read_at: Instant,
}

impl Vault {
    /// Reads `needed` now; one that is missing stops the launch. `origins` are the settings' `secrets:`.
    pub fn open(
        needed: &[SecretName],
        mut origins: BTreeMap<SecretName, SecretFrom>,
        lookup: Arc<dyn Lookup>,
        settings: &Path,
    ) -> Result<Vault, VaultError> {
        let mut held = BTreeMap::new();
        for name in needed {
            if !origins.contains_key(name) {
                if lookup.variable(name.as_str()).is_none_or(|v| v.is_empty()) {
                    return Err(VaultError::Missing { name: name.clone(), settings: settings.to_owned() });
                }
                origins.insert(name.clone(), SecretFrom::Env(name.as_str().to_owned()));
            }
            let value = read(name, &origins[name], lookup.as_ref())?;
            held.insert(name.clone(), Held { value: Arc::new(value), retired: Vec::new(), read_at: Instant::now() });
        }
        Ok(Vault { origins, lookup, held: Mutex::new(held), placeholders: Mutex::default(), renewed: OnceLock::new() })
    }

    /// Hears of each secret that was read anew and is another one; asked once.
    pub fn on_renewal(&self, hear: impl Fn() + Send + Sync + 'static) {
        // A second listener is a mistake of the composer's and is not heard.
        let _ = self.renewed.set(Box::new(hear));
    }

    /// Makes a placeholder for each of these, which have been read; one that is there stays as it is.
    ///
    /// # Errors
    /// When the system gives no random bytes, or the secret was not among those that were read.
    pub fn mint(&self, names: &[SecretName], settings: &Path) -> Result<(), VaultError> {
        for name in names {
            let missing = || VaultError::Missing { name: name.clone(), settings: settings.to_owned() };
            let real = self.current(name).ok_or_else(missing)?;
            let mut seed = Zeroizing::new([0_u8; 32]);
            getrandom::fill(&mut *seed).map_err(|source| VaultError::Random { name: name.clone(), source })?;
            let mut made = self.placeholders.lock().unwrap_or_else(PoisonError::into_inner);
            made.entry(name.clone()).or_insert_with(|| carboy_guard::mint(&real, &seed));
        }
        Ok(())
    }

    /// The placeholders of this run.
    pub fn placeholders(&self) -> BTreeMap<SecretName, String> {
        self.placeholders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every value that is known without running a command: what the scanners look for. Values that cannot be read
    /// and were not needed are left out.
    pub fn known(&self) -> Vec<(SecretName, Arc<SecretText>)> {
        let mut known: Vec<(SecretName, Arc<SecretText>)> = Vec::new();
        for (name, held) in self.lock().iter() {
            known.extend([&held.value].into_iter().chain(&held.retired).map(|value| (name.clone(), value.clone())));
        }
        for (name, origin) in &self.origins {
            let cheap = !matches!(origin, SecretFrom::Command(_));
            if cheap && !known.iter().any(|(have, _)| have == name) {
                known.extend(read(name, origin, self.lookup.as_ref()).ok().map(|v| (name.clone(), Arc::new(v))));
            }
        }
        known
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SecretName, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SecretSource for Vault {
    fn current(&self, name: &SecretName) -> Option<Arc<SecretText>> {
        self.lock().get(name).map(|held| held.value.clone())
    }

    fn refresh(&self, name: &SecretName) -> Later<'_, Option<Arc<SecretText>>> {
        let name = name.clone();
        Box::pin(async move {
            let origin = self.origins.get(&name)?.clone();
            {
                let mut held = self.lock();
                let entry = held.get_mut(&name)?;
                if entry.read_at.elapsed() < REFRESH_EVERY {
                    return Some(entry.value.clone());
                }
                entry.read_at = Instant::now();
            }
            let (lookup, asked) = (self.lookup.clone(), name.clone());
            let fresh = tokio::task::spawn_blocking(move || read(&asked, &origin, lookup.as_ref())).await;
            let (value, is_new) = {
                let mut held = self.lock();
                let entry = held.get_mut(&name)?;
                let new = fresh.ok().and_then(Result::ok).filter(|new| new.expose() != entry.value.expose());
                let is_new = new.is_some();
                if let Some(new) = new {
                    let old = std::mem::replace(&mut entry.value, Arc::new(new));
                    entry.retired.insert(0, old);
                    entry.retired.truncate(RETIRED_MAX);
                }
                (entry.value.clone(), is_new)
            };
            // The scanners know the new value before any request carries it.
            if is_new && let Some(hear) = self.renewed.get() {
                hear();
            }
            Some(value)
        })
    }
}

fn read(name: &SecretName, origin: &SecretFrom, lookup: &dyn Lookup) -> Result<SecretText, VaultError> {
    let bytes =
        match origin {
            SecretFrom::Env(variable) => match lookup.variable(variable) {
                Some(value) if !value.is_empty() => value.into_encoded_bytes(),
                Some(_) | None => return Err(VaultError::Unset { name: name.clone(), variable: variable.clone() }),
            },
            SecretFrom::File(path) => read_file(path, SECRET_BYTES_MAX).map_err(|what| VaultError::File {
                name: name.clone(),
                path: path.clone(),
                what,
            })?,
            SecretFrom::JsonFile { path, pointer } => {
                let what =
                    |what| VaultError::Json { name: name.clone(), path: path.clone(), pointer: pointer.clone(), what };
                read_json(path, pointer).map_err(what)?
            }
            SecretFrom::Command(argv) => lookup.command(argv, COMMAND_WAIT_MAX).map_err(|what| {
                VaultError::Command { name: name.clone(), program: argv.first().cloned().unwrap_or_default(), what }
            })?,
        };
    let unusable = || VaultError::Unusable { name: name.clone() };
    let mut text = Secret::new(String::from_utf8(bytes).map_err(|_| unusable())?);
    let trimmed = text.expose().trim_end_matches(['\n', '\r']).to_owned();
    text = Secret::new(trimmed);
    let value = text.expose();
    if value.is_empty() || value.len() > SECRET_BYTES_MAX || value.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err(unusable());
    }
    Ok(text)
}

/// The file is opened once, so that what is checked is what is read; without blocking, so that a pipe that somebody put
/// in its place holds nobody up.
fn read_file(path: &Path, bytes_max: usize) -> Result<Vec<u8>, String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| std::io::Error::from(e).to_string())?;
    let file = std::fs::File::from(file);
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err(String::from("it is no regular file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(format!("mode {:o} lets others read it; chmod 600 it", meta.mode() & 0o777));
    }
    let mut bytes = Vec::new();
    let limit = bytes_max as u64 + 1;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, limit), &mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() > bytes_max {
        bytes.zeroize();
        return Err(format!("larger than {bytes_max} bytes"));
    }
    Ok(bytes)
}

/// The text at `pointer` (RFC 6901) of a JSON file. The parser's own words are not passed on: they may quote the file.
fn read_json(path: &Path, pointer: &str) -> Result<Vec<u8>, String> {
    let bytes = Zeroizing::new(read_file(path, JSON_BYTES_MAX)?);
    let mut document: Value = serde_json::from_slice(&bytes)
        .map_err(|e| format!("it is no JSON: line {}, column {}", e.line(), e.column()))?;
    let found = document.pointer_mut(pointer).map(Value::take);
    forget(document);
    match found {
        Some(Value::String(text)) => Ok(text.into_bytes()),
        Some(other) => {
            forget(other);
            Err(String::from("what stands there is no text"))
        }
        None => Err(String::from("nothing stands there; log in again with the program that writes the file")),
    }
}

/// Other secrets of the same file do not stay in memory. (The depth is bounded by the parser.)
fn forget(value: Value) {
    match value {
        Value::String(mut text) => text.zeroize(),
        Value::Array(all) => all.into_iter().for_each(forget),
        Value::Object(all) => all.into_iter().for_each(|(_, value)| forget(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(BTreeMap<&'static str, &'static str>);

    impl Lookup for Fake {
        fn variable(&self, name: &str) -> Option<OsString> {
            self.0.get(name).map(OsString::from)
        }

        fn find(&self, name: &str) -> Result<Program, String> {
            Err(format!("{name} is not looked for"))
        }

        fn command(&self, argv: &[String], _: Duration) -> Result<Vec<u8>, String> {
            Ok(format!("{}-value\n", argv.join("-")).into_bytes())
        }

        fn fenced(&self, _: &[PathBuf]) -> Arc<dyn Lookup> {
            Arc::new(Fake(self.0.clone()))
        }
    }

    fn name(text: &str) -> SecretName {
        SecretName::parse(text).unwrap()
    }

    fn open(needed: &[&str], origins: &[(&str, SecretFrom)]) -> Result<Vault, VaultError> {
        let lookup = Arc::new(Fake([("HOME_KEY", "from-env-value"), ("EMPTY", "")].into()));
        let needed: Vec<_> = needed.iter().map(|n| name(n)).collect();
        let origins = origins.iter().map(|(n, o)| (name(n), o.clone())).collect();
        Vault::open(&needed, origins, lookup, Path::new("settings.yml"))
    }

    #[test]
    fn settings_come_before_the_environment_and_commands_run_without_a_shell() {
        let command = SecretFrom::Command(vec!["pass".into(), "show".into()]);
        let vault = open(&["HOME_KEY", "OTHER"], &[("OTHER", command)]).unwrap();
        let value = |n| vault.current(&name(n)).unwrap().expose().clone();
        assert_eq!((value("HOME_KEY"), value("OTHER")), ("from-env-value".into(), "pass-show-value".into()));
    }

    #[test]
    fn a_missing_secret_stops_the_launch_and_says_where_to_put_it() {
        let error = open(&["NOWHERE"], &[]).err().unwrap().to_string();
        assert!(error.contains("NOWHERE") && error.contains("settings.yml"), "{error}");
        assert!(matches!(open(&["EMPTY"], &[]), Err(VaultError::Missing { .. })));
    }

    #[test]
    fn a_look_says_what_a_launch_would_and_runs_no_command() {
        let lookup = Fake([("HOME_KEY", "from-env-value")].into());
        let look = |name_: &str, origin: SecretFrom| look(&name(name_), &origin, &lookup);
        assert_eq!(look("K", SecretFrom::Env("HOME_KEY".into())).unwrap(), Presence::Ready);
        let command = SecretFrom::Command(vec!["pass".into(), "show".into()]);
        assert_eq!(look("K", command).unwrap(), Presence::NotRun { program: "pass".into() });
        let unset = look("K", SecretFrom::Env("K".into())).unwrap_err();
        assert!(unset.next_step().unwrap().contains("export K=…"), "{unset}");
        let gone = look("K", SecretFrom::File("/nowhere/key".into())).unwrap_err();
        assert!(gone.next_step().unwrap().contains("cat > /nowhere/key"), "{gone}");
    }

    #[tokio::test]
    async fn a_renewed_secret_is_told_and_the_old_value_stays_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        crate::home::write_private(&path, b"first-value").unwrap();
        let vault = open(&["K"], &[("K", SecretFrom::File(path.clone()))]).unwrap();
        let told = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let hear = told.clone();
        vault.on_renewal(move || {
            hear.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        });
        crate::home::write_private(&path, b"second-value").unwrap();
        // Too early to be read again.
        assert_eq!(vault.refresh(&name("K")).await.unwrap().expose(), "first-value");
        vault.lock().get_mut(&name("K")).unwrap().read_at -= REFRESH_EVERY;
        assert_eq!(vault.refresh(&name("K")).await.unwrap().expose(), "second-value");
        assert_eq!(told.load(std::sync::atomic::Ordering::SeqCst), 1);
        let known: Vec<String> = vault.known().iter().map(|(_, value)| value.expose().clone()).collect();
        assert_eq!(known, ["second-value", "first-value"]);
    }

    #[test]
    fn a_secret_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "file-value\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(open(&["K"], &[("K", SecretFrom::File(path.clone()))]), Err(VaultError::File { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let vault = open(&["K"], &[("K", SecretFrom::File(path))]).unwrap();
        assert_eq!(vault.current(&name("K")).unwrap().expose(), "file-value");
    }

    #[test]
    fn a_text_of_a_json_file_is_a_secret_and_nothing_of_the_file_is_in_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        let at = |pointer: &str| SecretFrom::JsonFile { path: path.clone(), pointer: pointer.into() };
        let value = |pointer: &str| {
            let vault = open(&["K"], &[("K", at(pointer))]).map_err(|e| e.to_string())?;
            Ok::<_, String>(vault.current(&name("K")).unwrap().expose().clone())
        };
        let text = br#"{"tokens":{"access_token":"the-token","a/b~c":"odd","expires":12345678},"list":["zero"]}"#;
        crate::home::write_private(&path, text).unwrap();
        assert_eq!(value("/tokens/access_token").unwrap(), "the-token");
        assert_eq!(value("/tokens/a~1b~0c").unwrap(), "odd");
        assert_eq!(value("/list/0").unwrap(), "zero");
        for (pointer, words) in [
            ("/tokens", "is no text"),
            ("/tokens/expires", "is no text"),
            ("/tokens/gone", "nothing stands there"),
            ("/list/1", "nothing stands there"),
        ] {
            let error = value(pointer).unwrap_err();
            assert!(error.contains(words) && error.contains(pointer) && error.contains("auth.json"), "{error}");
            assert!(!error.contains("the-token") && !error.contains("12345678"), "{error}");
        }
        crate::home::write_private(&path, br#"{"tokens": "sk-half-a-token"#).unwrap();
        let error = value("/tokens").unwrap_err();
        assert!(error.contains("no JSON: line 1") && !error.contains("sk-half"), "{error}");
        crate::home::write_private(&path, &vec![b' '; JSON_BYTES_MAX + 1]).unwrap();
        assert!(value("/tokens").unwrap_err().contains("larger than 1048576 bytes"));
    }

    #[test]
    fn a_json_file_that_others_can_read_or_a_pipe_in_its_place_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, "{\"t\":\"v\"}").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let from = |path: &Path| SecretFrom::JsonFile { path: path.into(), pointer: "/t".into() };
        assert!(matches!(open(&["K"], &[("K", from(&path))]), Err(VaultError::Json { .. })));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = open(&["K"], &[("K", from(&pipe))]).err().unwrap().to_string();
        assert!(error.contains("no regular file"), "{error}");
    }
}
