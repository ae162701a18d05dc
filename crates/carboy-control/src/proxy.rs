//! `carboy proxy`: one bottle's way out, for programs that are in no bottle and can be told of a proxy.
//!
//! ```text
//!  ProxyRequest ─▶ log ─▶ secrets ─▶ ledger ─▶ gateway ─▶ files, listener ─▶ registered, start event ─▶ open
//!                                                 ▲
//!  program with HTTPS_PROXY ── password or SO_PEERCRED ┘  routes, scanners, keys, budget, audit: those of the bottle
//! ```
//!
//! The same parts as a bottle's supervisor, but for the bottle: it shows among the runs, spends from the same budgets, and
//! `stop` and `resume` act on it. It is no sandbox: a program that does not use its proxy is not stopped by it.
//!
//! *Must never* accept a connection before the gateway, the log and the ledger are there, write the password anywhere but
//! into its own private file, or leave a listener open when the run is to end.

mod door;
mod ending;
mod failing;
mod pointing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use carboy_core::audit::{ChainKey, Event};
use carboy_core::budget::Shutdown;
use carboy_core::ids::SecretName;
use carboy_core::secret::SecretText;
use carboy_manifest::{Effective, ManifestFiles, Places, SecretFrom};
use tokio::sync::watch;

use crate::fresh::WithKey;
use crate::home::Home;
use crate::hosted::{Entering, Hosted};
use crate::plane::{Laying, Plane};
use crate::registry::RunRecord;
use crate::standing::Standing;
use crate::summary::By;
use crate::supervisor::seal::{faked_secrets, injected_secrets};
use crate::supervisor::secrets::placeholders;
use crate::supervisor::{Keeping, Tell};
use crate::vault::{Lookup, Vault};

use door::Door;
use pointing::Files;

pub use crate::standing::Ending;
pub use carboy_bottle::host_process::beside::{Beside, Exit, Waiting};
pub use door::At;
pub use failing::ProxyError;
pub use pointing::Pointing;

/// The name under which the scanners know the password: it leaves in no request.
const PASSWORD: &str = "CARBOY_PROXY_PASSWORD";

/// Where it is to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On loopback, with a password; a free port where none is named.
    Loopback {
        /// The port.
        port: Option<u16>,
    },
    /// On a Unix socket for this user alone.
    Socket {
        /// Its path, absolute.
        path: PathBuf,
    },
}

/// What is wanted, everything from the outside world looked up.
pub struct ProxyRequest {
    /// `CARBOY_HOME`.
    pub home: Home,
    /// Where manifests are.
    pub places: Places,
    /// What its bottle may reach and spend.
    pub effective: Effective,
    /// Where it was started, canonical.
    pub workdir: PathBuf,
    /// Where it listens.
    pub place: Place,
    /// The program that is run beside it, and its arguments; empty for none.
    pub command: Vec<String>,
    /// Environment and commands of the host.
    pub lookup: Arc<dyn Lookup>,
    /// Files of the host.
    pub files: Arc<dyn ManifestFiles + Send + Sync>,
    /// How log entries are hashed.
    pub audit_key: ChainKey,
    /// Who keeps its ledger.
    pub keeping: Keeping,
    /// Tells the operator something while it goes on.
    pub tell: Tell,
}

/// A proxy at work.
pub struct ProxyHost {
    hosted: Hosted,
    pointing: Pointing,
    door: Arc<Door>,
    files: Files,
}

impl ProxyHost {
    /// Starts it: what comes back accepts connections.
    pub async fn start(mut request: ProxyRequest) -> Result<ProxyHost, ProxyError> {
        let password = password(&mut request)?;
        let laying = Laying {
            home: &request.home,
            effective: &request.effective,
            lookup: &request.lookup,
            keeping: request.keeping,
            agent: request.effective.agent.as_ref().map(ToString::to_string),
            audit_key: std::mem::replace(&mut request.audit_key, ChainKey::Plain),
            audit_log: request.home.audit_log(),
        };
        let plane = Plane::lay(laying, || vault(&request, password.is_some())).await?;
        let door = Arc::new(Door::bind(&request.place, plane.gateway.clone(), password.clone())?);
        let files = Files::make(&request.home.proxy_dir(&plane.run))?;
        let pointing = Pointing {
            run: plane.run.to_string(),
            bottle: request.effective.bottle.to_string(),
            at: door.at(),
            ca_file: files.ca(),
            env_file: files.env(),
            password,
            fakes: faked_secrets(&request.effective.routes),
            placeholders: placeholders_of(&request, &plane.vault)?,
            origins: variables_of_secrets(&request.effective),
        };
        files.write(&plane.ca_pem, &pointing)?;
        enter(request, plane, (door, files, pointing)).await
    }

    /// How its clients find it.
    pub fn pointing(&self) -> &Pointing {
        &self.pointing
    }

    /// What it is known by.
    pub fn record(&self) -> &RunRecord {
        &self.hosted.standing.record
    }

    /// Becomes something when somebody wants it to end: `stop`, `stop --kill`. Nothing is accepted any more then.
    pub fn ending(&self) -> watch::Receiver<Option<Ending>> {
        self.hosted.standing.ending.subscribe()
    }
}

/// A fresh password where the place wants one, which the vault then knows by its name.
fn password(request: &mut ProxyRequest) -> Result<Option<Arc<SecretText>>, ProxyError> {
    match request.place {
        Place::Socket { .. } => Ok(None),
        Place::Loopback { .. } => {
            let with = Arc::new(WithKey::fresh(request.lookup.clone(), &password_name())?);
            let key = with.key().clone();
            request.lookup = with;
            Ok(Some(key))
        }
    }
}

fn password_name() -> SecretName {
    SecretName::parse(PASSWORD).expect("capital letters and `_` are a name")
}

/// The host's variables that hold a secret of the settings.
fn variables_of_secrets(effective: &Effective) -> Vec<String> {
    let variable = |from: &SecretFrom| match from {
        SecretFrom::Env(name) => Some(name.clone()),
        SecretFrom::File(_) | SecretFrom::JsonFile { .. } | SecretFrom::Command(_) => None,
    };
    effective.settings.secrets.values().filter_map(|from| variable(&from.value)).collect()
}

/// Reads every secret that is needed now; one that is missing stops the start.
fn vault(request: &ProxyRequest, with_password: bool) -> Result<Vault, ProxyError> {
    let said = request.effective.settings.secrets.iter();
    let origins = said.map(|(name, from)| (name.clone(), from.value.clone())).collect();
    let webhook = request.effective.settings.notify.value.webhook.as_ref().and_then(|webhook| webhook.token.clone());
    let mut needed = injected_secrets(&request.effective.routes);
    for name in [webhook, with_password.then(password_name)].into_iter().flatten() {
        if !needed.contains(&name) {
            needed.push(name);
        }
    }
    let vault = Vault::open(&needed, origins, request.lookup.clone(), &request.places.settings())?;
    placeholders_of(request, &vault)?; // before anything is looked for
    Ok(vault)
}

/// The placeholders of its routes by their variables, for whoever is pointed at it; made the first time.
fn placeholders_of(request: &ProxyRequest, vault: &Vault) -> Result<BTreeMap<String, String>, ProxyError> {
    Ok(placeholders(&request.effective.routes, vault, &[], &request.places.settings())?)
}

/// Among the runs. Last of all the door is opened.
async fn enter(
    request: ProxyRequest,
    plane: Plane,
    (door, files, pointing): (Arc<Door>, Files, Pointing),
) -> Result<ProxyHost, ProxyError> {
    let record = record(&request, &plane, &pointing)?;
    let (listens, beside) = (pointing.at.to_string(), request.command.first().cloned().unwrap_or_default());
    let entering = Entering {
        home: request.home,
        places: request.places,
        files: request.files,
        effective: request.effective,
        lookup: request.lookup,
        keeping: request.keeping,
        tell: request.tell,
        record,
        hangs: door.clone(),
    };
    let start = |event: Event| event.with("program", "proxy").with("listens", listens).with("beside", beside);
    let mut hosted = Hosted::enter(plane, entering, start, || door.open()).await?;
    hosted.beside(shut_against_storms(hosted.standing.clone()));
    hosted.beside(end_when_deaf(hosted.standing.clone(), door.clone()));
    Ok(ProxyHost { hosted, pointing, door, files })
}

/// What it is known by: where it listens stands in the place of a program.
fn record(request: &ProxyRequest, plane: &Plane, pointing: &Pointing) -> Result<RunRecord, ProxyError> {
    let own = ["proxy".to_owned(), pointing.at.to_string()];
    let beside = if request.command.is_empty() { None } else { Some("--".to_owned()) };
    Ok(RunRecord {
        run: plane.run.to_string(),
        bottle: request.effective.bottle.to_string(),
        agent: plane.subject.agent.clone(),
        command: own.into_iter().chain(beside).chain(request.command.iter().cloned()).collect(),
        task: None,
        supervisor_pid: std::process::id(),
        started_ms: plane.started_ms,
        socket: request.home.run_socket(&plane.run)?,
        workdir: request.workdir.clone(),
        tools_of: None,
        terminal: false,
    })
}

/// A client that goes on asking after final refusals finds nobody there, until somebody resumes it.
async fn shut_against_storms(standing: Arc<Standing>) {
    let mut storms = standing.gateway.storms();
    let mut known = 0;
    while storms.changed().await.is_ok() {
        let count = *storms.borrow_and_update();
        if count > known {
            let standing = standing.clone();
            let why = format!("its clients went on asking after final refusals, {count} times");
            let shut = move || standing.enforce(Shutdown::Freeze, By::Storm, &why);
            // A panic in there has been reported.
            let _ = tokio::task::spawn_blocking(shut).await;
        }
        known = count;
    }
}

/// A listener that the system took away is the end: nobody could be served.
async fn end_when_deaf(standing: Arc<Standing>, door: Arc<Door>) {
    door.deaf().await;
    standing.end(Ending::Asked);
}
