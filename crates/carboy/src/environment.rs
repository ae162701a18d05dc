//! The process's environment, looked at here and nowhere else: where things are, and who the person is.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carboy_control::home::Home;
use carboy_control::host_programs::{self, Fence, Program};
use carboy_control::operator;
use carboy_control::setup::Surroundings;
use carboy_control::vault::Lookup;
use carboy_core::audit::{ChainKey, Event};
use carboy_manifest::Places;

use crate::report::{Exit, Failure};

/// Environment variables and commands of this host.
#[derive(Clone, Debug)]
pub struct HostLookup {
    fence: Fence,
}

impl HostLookup {
    /// Programs are found wherever the person finds them by an absolute path.
    pub fn new() -> HostLookup {
        HostLookup::outside(&[])
    }

    fn outside(never: &[PathBuf]) -> HostLookup {
        HostLookup { fence: Fence::new(&|name| std::env::var_os(name), never) }
    }
}

impl Lookup for HostLookup {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn find(&self, name: &str) -> Result<Program, String> {
        self.fence.find(name).map_err(|e| e.to_string())
    }

    fn command(&self, argv: &[String], wait_max: Duration) -> Result<Vec<u8>, String> {
        host_programs::command(&self.fence, argv, wait_max)
    }

    fn fenced(&self, never: &[PathBuf]) -> Arc<dyn Lookup> {
        Arc::new(HostLookup::outside(never))
    }
}

/// What every command needs to know of the world.
#[derive(Clone)]
pub struct Environment {
    /// `CARBOY_HOME`.
    pub home: Home,
    /// Where manifests are looked for.
    pub places: Places,
    /// Environment and commands.
    pub lookup: Arc<HostLookup>,
}

impl Environment {
    /// Looks around; `home` is `--home`.
    pub fn look(home: Option<PathBuf>) -> Result<Environment, Failure> {
        let user_home = std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute()).ok_or_else(|| {
            Failure::words(Exit::Usage, "HOME is not set to an absolute path")
                .hint("set HOME, or name the directory with `--home DIR`")
        })?;
        let cwd = std::env::current_dir().map_err(|e| Failure::new(Exit::Failed, &e))?;
        let root = home.map_or_else(|| user_home.join(".carboy"), |home| cwd.join(home));
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| d.is_absolute());
        // A home of one's own choice keeps its sockets to itself: two homes never see each other's runs.
        let runtime = runtime.filter(|_| root == user_home.join(".carboy"));
        let home = Home::open(&root, runtime.as_deref()).map_err(|e| Failure::new(Exit::Failed, &e))?;
        let places = Places { carboy_home: home.root().to_owned(), home: user_home, cwd };
        Ok(Environment { home, places, lookup: Arc::new(HostLookup::new()) })
    }

    /// The host as `carboy init` looks at it, from this directory.
    pub fn surroundings(&self) -> Surroundings {
        Surroundings {
            home: self.places.home.clone(),
            carboy_home: self.places.carboy_home.clone(),
            workspace: self.places.cwd.clone(),
            environment: std::env::vars_os().collect(),
            etc: PathBuf::from("/etc"),
        }
    }

    /// Writes down what the operator decided, before it is done.
    pub fn write_down(&self, decision: Event) -> Result<(), Failure> {
        operator::write_down(&self.home, self.audit_key()?, decision).map_err(|e| {
            Failure::new(Exit::Failed, &e).hint("`carboy audit verify` says what is the matter with the log")
        })
    }

    /// The key of the log's chain: `AUDIT_INTEGRITY_KEY`, or none.
    pub fn audit_key(&self) -> Result<ChainKey, Failure> {
        match std::env::var("AUDIT_INTEGRITY_KEY") {
            Ok(text) if !text.is_empty() => ChainKey::from_hex(&text).map_err(|e| Failure::new(Exit::Config, &e)),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(ChainKey::Plain),
            Err(e @ std::env::VarError::NotUnicode(_)) => Err(Failure::new(Exit::Config, &e)),
        }
    }
}
