//! The supervisor of one bottle: makes it, stands at its door, and writes down how it went.
//!
//! ```text
//!  request ─► manifest ─► plan ─► bottle (made, not started) ─► secrets ─► gateway serving ─► program started
//!                                                                                                  │
//!  summary ◄── end event ◄── gateway shut ◄── bottle gone, files in order ◄── program ended ◄──────┘
//! ```
//!
//! Secrets are read from files and commands only after the bottle's init has been cloned and this process has been made
//! undumpable. (What stood in this process's environment is in the clone until it executes init, and no longer.)
//!
//! *Must never* start the program before the gateway serves, or without the start event in the log.

mod control;
mod ending;
pub(crate) mod enforce;
mod exec;
mod failing;
pub(crate) mod keeping;
mod noticing;
pub(crate) mod seal;
pub(crate) mod secrets;
mod streams;
mod workplace;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock};

use carboy_bottle::{Bottle, CapturedSockets, LaunchOptions, Stdio, TcpKind};
use carboy_core::audit::{ChainKey, Event, EventType, Outcome, Subject};
use carboy_core::ids::{RunId, SecretName};
use carboy_core::plan::{Bind, BottleSpec, CaptureTier, GeneratedFile, Image, StdioMode};
use carboy_core::ports::{AuditSink, Clock, SecretSource};
use carboy_egress::{CertificateAuthority, Gateway, GatewayConfig, Listener};
use carboy_manifest::providers::Task;
use carboy_manifest::{Effective, ManifestFiles, Places};
use carboy_store::audit::AuditLog;
use tokio::sync::{Notify, watch};

use crate::authority::{self, AuthorityError};
use crate::clock::SystemClock;
use crate::controller::Starter;
use crate::datagram::BottlePort;
use crate::descriptors;
use crate::grants::Grants;
use crate::home::Home;
use crate::image;
use crate::notify::Notifier;
use crate::ports::{Joining, Ports};
use crate::registry::{Registration, RunRecord};
use crate::reload;
use crate::resume::{self, Again};
use crate::runs;
use crate::seed;
use crate::session::{Session, Streaming};
use crate::vault::{Lookup, Vault};
use crate::workspace::{self, Held, RunOf};

use control::{Shared, stop_when_asked};
use enforce::{Enforcing, break_storms, heed_pushes};
use keeping::Kept;
use noticing::Noticing;
use seal::{bottle_spec, injected_secrets};
use secrets::{detectors, look_for_renewed, no_secret_inside, placeholders, undumpable};

pub use carboy_egress::Learning;
use streams::{notifier, session, teller};

pub use control::{Control, STOP_GRACE};
pub use ending::Farewell;
pub use failing::RunError;
pub use keeping::Keeping;
pub use workplace::Workplace;

/// Longest beginning of a task that a run's record has, in characters.
const TASK_CHARS_MAX: usize = 200;

/// What `run` was asked for, everything from the outside world looked up.
pub struct RunRequest {
    /// `CARBOY_HOME`.
    pub home: Home,
    /// Where manifests are.
    pub places: Places,
    /// The effective configuration.
    pub effective: Effective,
    /// Program and arguments; empty takes the manifest's.
    pub command: Vec<String>,
    /// What the manifest's program is started for.
    pub task: Task,
    /// Where its program works.
    pub workplace: Workplace,
    /// The provider's and the bottle's variables, with every question answered.
    pub env_set: BTreeMap<String, String>,
    /// `--env`.
    pub env: Vec<(String, String)>,
    /// `--bind`, canonical.
    pub binds: Vec<Bind>,
    /// Files that are generated inside, read-only: the scripts of a chat agent's file.
    pub scripts: Vec<GeneratedFile>,
    /// `--user`, looked up.
    pub host_ids: Option<(u32, u32)>,
    /// How the program's streams are connected.
    pub stdio: StdioMode,
    /// `TERM` of the person's terminal.
    pub terminal: Option<String>,
    /// Environment and commands of the host.
    pub lookup: Arc<dyn Lookup>,
    /// Files of the host.
    pub files: Arc<dyn ManifestFiles + Send + Sync>,
    /// How log entries are hashed.
    pub audit_key: ChainKey,
    /// Tells the person something while the program goes on; a session tells those who are attached.
    pub tell: Tell,
    /// Tells the person what takes long before there is a program; nobody has made the terminal raw yet.
    pub progress: Tell,
    /// Who holds the program's streams.
    pub streaming: Streaming,
    /// Whether refusals are kept for a proposal.
    pub learning: Learning,
    /// The flags that it can be started again with; `None` for a run that cannot be.
    pub flags: Option<serde_json::Value>,
    /// It was stopped or lost, and is started again.
    pub again: Option<Again>,
    /// Who keeps its ledger.
    pub keeping: Keeping,
}

/// Says a few lines to the person, while the program has the terminal.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// A run whose program has been started.
pub struct Running {
    shared: Arc<Shared>,
    stdio: Option<Stdio>,
    gateway: Arc<Gateway>,
    audit: Arc<AuditLog>,
    started_ms: u64,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    session: Arc<Session>,
    _ports: Ports,
    run_dir: PathBuf,
    notifier: Arc<Notifier>,
    noticed: Option<Noticing>,
    registration: Registration,
    /// Nobody else starts it again.
    _alone: Option<File>,
    kept: Kept,
    /// Given back last: until then nobody applies or removes what the bottle works on.
    held: Option<Held>,
}

/// What there is of a run when its bottle stands and nothing was started in it.
struct Stands {
    run: RunId,
    started_ms: u64,
    authority: Arc<CertificateAuthority>,
    spec: BottleSpec,
    bottle: Bottle,
}

/// Starts a run.
pub async fn start(mut request: RunRequest) -> Result<Running, RunError> {
    // Whatever is run on the host for this bottle from now on is nothing that the bottle, or its repository, has brought.
    request.lookup = request.lookup.fenced(&seal::of_the_bottle(&request));
    let started_ms = SystemClock.now_ms();
    // Before anything is made: of a directory that is never shown nothing is indexed and nothing left behind.
    seal::may_be_shown(&request)?;
    if let Some(Again { run, before }) = &request.again {
        let controller = Starter::new(&request.home, request.lookup.clone())?;
        resume::has_room(&controller, before, &request.effective.budgets_of(run)).await?;
    }
    let (run, alone) = match &request.again {
        Some(again) => (again.run.clone(), Some(resume::alone(&request.home, &request.effective.bottle, &again.run)?)),
        None => (new_run_id()?, None),
    };
    let authority = Arc::new(authority::load_or_make(&request.home, started_ms)?);
    let root = image::root_of(request.effective.image.clone(), |image| image_job(&request, image)).await?;
    let held = hold(&request, &run, started_ms).await?;
    let spec = bottle_spec(&request, &run, authority.ca_pem(), &held, root)?;
    let (spec, bottle) = make(&request.home, spec).await?;
    let watcher = bottle.watcher();
    let run_dir = request.home.run_dir(&spec.name, &run);
    let equipped = equip(request, Stands { run, started_ms, authority, spec, bottle }).await;
    if equipped.is_err() {
        // The bottle died with the attempt. What it put into the workspace is taken away before the person is told.
        let _ = tokio::task::spawn_blocking(move || watcher.wait()).await;
        if alone.is_none() {
            // A run that never was is not kept; most attempts end before there is anything to remove.
            let _ = std::fs::remove_dir_all(run_dir);
        }
    }
    equipped.map(|running| Running { held: Some(held), _alone: alone, ..running })
}

/// Takes what the bottle keeps of this workspace for the run.
async fn hold(request: &RunRequest, run: &RunId, started_ms: u64) -> Result<Held, RunError> {
    let (home, run, workplace) = (request.home.clone(), run.clone(), request.workplace.clone());
    let (bottle, mode) = (request.effective.bottle.clone(), request.effective.workspace.into());
    let held = tokio::task::spawn_blocking(move || match workplace.directory() {
        Some(workdir) => workspace::hold(&home, &RunOf { bottle: &bottle, run: &run, workdir, mode, started_ms }),
        None => workspace::hold_state(&home, &bottle),
    });
    let held =
        held.await.map_err(|e| RunError::System { what: "look at the workspace", source: std::io::Error::other(e) })?;
    Ok(held?)
}

/// Reads the secrets, opens the way out and starts the program. An error drops the bottle, and that ends it.
async fn equip(mut request: RunRequest, stands: Stands) -> Result<Running, RunError> {
    let Stands { run, started_ms, authority, spec, mut bottle } = stands;
    let clock = SystemClock;
    undumpable()?;

    let subject = subject(&request, &spec, &run);
    let audit_key = std::mem::replace(&mut request.audit_key, ChainKey::Plain);
    let audit = AuditLog::open(&request.home.audit_log(), audit_key, Arc::new(clock));
    let audit = Arc::new(audit.map_err(|e| RunError::Audit(e.to_string()))?);
    let settings = request.effective.settings.secrets.iter();
    let origins = settings.map(|(name, from)| (name.clone(), from.value.clone())).collect();
    // Never injected into a bottle: read, and looked for by the scanners, like every other one.
    let webhook = request.effective.settings.notify.value.webhook.as_ref().and_then(|webhook| webhook.token.clone());
    let needed: Vec<SecretName> = injected_secrets(&request.effective.routes).into_iter().chain(webhook).collect();
    let vault = Arc::new(Vault::open(&needed, origins, request.lookup.clone(), &request.places.settings())?);
    no_secret_inside(&spec.env, &vault)?;
    let placeholders = placeholders(&request.effective.routes, &vault, &request.env, &request.places.settings())?;
    if seed::is_wanted(&request.effective.provider, &spec.command) {
        seed::write(&spec.home, &request.effective, &spec.workdir, &*vault, &*request.progress)?;
    }
    let fingerprint_key = authority::fingerprint_key(&request.home)?;
    let detectors = detectors(fingerprint_key, &vault)?;
    let mut captured = bottle.take_captured().expect("a bottle that was just launched still has its sockets");
    let tier = captured.tier;
    let (kept, pushes) =
        Kept::open(request.keeping, (&request.home, &request.lookup), &request.effective, &run).await?;
    let gateway = Gateway::new(GatewayConfig {
        subject: subject.clone(),
        routes: request.effective.routes.clone(),
        upstreams: request.effective.settings.upstreams.clone(),
        ca: authority,
        detectors: Arc::new(detectors),
        secrets: vault.clone() as Arc<dyn SecretSource>,
        audit: audit.clone(),
        ledger: kept.ledger(),
        clock: Arc::new(clock),
        learning: request.learning,
        limits: descriptors::gateway_limits(),
    })
    .map_err(AuthorityError::from)?;
    look_for_renewed(&vault, &gateway, fingerprint_key);
    let ports = Ports::open(Joining {
        effective: &request.effective,
        spec: &spec,
        user_home: &request.places.home,
        carboy_home: request.home.root(),
        gateway: &gateway,
        inside: bottle.inside(),
        listeners: std::mem::take(&mut captured.inside),
        tier,
    })?;
    let mut tasks =
        serve(&gateway, captured).map_err(|source| RunError::System { what: "serve the bottle's sockets", source })?;
    // Whoever has no directory of the host's works in the bottle's home, where nothing is anybody's to run on the host.
    let workdir = request.workplace.directory().unwrap_or(&spec.home).to_owned();
    let noticed = request.workplace.directory().map(|workdir| Noticing::begin(workdir.to_owned()));
    let record = RunRecord {
        run: run.to_string(),
        bottle: spec.name.to_string(),
        agent: subject.agent.clone(),
        command: spec.command.clone(),
        task: beginning(&request),
        supervisor_pid: std::process::id(),
        started_ms,
        socket: request.home.run_socket(&run)?,
        workdir,
        tools_of: request.workplace.tools_of(),
        terminal: matches!(request.stdio, StdioMode::Terminal { .. }),
    };
    let run_dir = runs::begin(&request.home, &spec.name, &run, &record)?;
    let enforcing = Enforcing::begin(&request, &run_dir)?;
    let mut stdio = bottle.take_stdio();
    let grants = Grants::new(gateway.clone(), audit.clone(), subject.clone(), &request.effective.routes);
    let shared = Arc::new_cyclic(|itself| Shared {
        grants: grants.clone(),
        session: OnceLock::new(),
        execs: AtomicUsize::new(0),
        itself: itself.clone(),
        bottle,
        record: record.clone(),
        gateway: gateway.clone(),
        subject: subject.clone(),
        audit: audit.clone(),
        stopping: AtomicBool::new(false),
        stop_asked: Notify::new(),
        enforcing,
        tier,
        ports: ports.all(),
    });
    let notifier = notifier(&request, &record, (&vault, fingerprint_key), &audit, &subject);
    let session = session(&request.streaming, request.stdio, &shared, &notifier, &mut stdio, &run_dir)?;
    let _ = shared.session.set(session.clone());
    let _ = shared.enforcing.notifier.set(notifier.clone());
    tasks.push(tokio::spawn(grants.clone().watch()));
    let budgets = watch::Sender::new(request.effective.budgets_of(&run));
    tasks.extend(kept.follow(budgets.subscribe(), &request.effective, &run));
    tasks.push(tokio::spawn(reload::watch(reload::Watched {
        grants,
        audit: audit.clone(),
        subject: subject.clone(),
        files: request.files.clone(),
        places: request.places.clone(),
        effective: request.effective.clone(),
        budgets,
        run: run.clone(),
        tell: teller(&request.streaming, &request.tell, &session),
    })));
    let registration = Registration::open(&request.home, &record, shared.clone())?;
    // The last thing before the program: no run that did not come about is in the log as one that never ended.
    let started = match audit_start(&audit, &subject, &spec, &shared.bottle, tier, request.learning).await {
        Ok(()) => shared
            .bottle
            .start_with(&placeholders)
            .map_err(|source| RunError::System { what: "start the program", source }),
        Err(error) => Err(error),
    };
    if let Err(error) = started {
        // The registration may hold the bottle a little longer than this call.
        let _ = shared.bottle.kill();
        return Err(error);
    }
    tasks.push(tokio::spawn(notifier.clone().watch(gateway.clone(), session.clone())));
    tasks.push(tokio::spawn(stop_when_asked(shared.clone())));
    tasks.push(tokio::spawn(break_storms(shared.clone())));
    tasks.extend(pushes.map(|pushes| tokio::spawn(heed_pushes(shared.clone(), pushes))));
    Ok(Running {
        shared,
        stdio,
        gateway,
        audit,
        started_ms,
        tasks,
        session,
        notifier,
        _ports: ports,
        run_dir,
        noticed,
        registration,
        _alone: None,
        kept,
        held: None,
    })
}

/// The beginning of a task, for whoever lists runs; none where the command was given by hand.
fn beginning(request: &RunRequest) -> Option<String> {
    match &request.task {
        Task::Headless(text) if request.command.is_empty() => Some(text.chars().take(TASK_CHARS_MAX).collect()),
        Task::Headless(_) | Task::Interactive => None,
    }
}

fn image_job(request: &RunRequest, image: Image) -> image::Job {
    image::Job {
        image,
        home: request.home.clone(),
        user_home: request.places.home.clone(),
        lookup: request.lookup.clone(),
        tell: request.progress.clone(),
        stop: Arc::default(),
    }
}

/// Makes the bottle on a thread that may block; nothing is started in it yet.
async fn make(home: &Home, spec: BottleSpec) -> Result<(BottleSpec, Bottle), RunError> {
    let options = LaunchOptions { state: home.state(&spec.name), shared: home.states(), init: Default::default() };
    let made = tokio::task::spawn_blocking(move || Bottle::launch(&spec, &options).map(|bottle| (spec, bottle)));
    let made =
        made.await.map_err(|e| RunError::System { what: "launch the bottle", source: std::io::Error::other(e) })?;
    Ok(made?)
}

fn subject(request: &RunRequest, spec: &BottleSpec, run: &RunId) -> Subject {
    Subject {
        user_id: None,
        agent: request.effective.agent.as_ref().map(ToString::to_string),
        bottle: Some(spec.name.to_string()),
        run: Some(run.to_string()),
    }
}

impl Running {
    /// The program as it was asked for.
    pub fn program(&self) -> &str {
        &self.shared.record.command[0]
    }

    /// The program's streams, once.
    pub fn take_stdio(&mut self) -> Option<Stdio> {
        self.stdio.take()
    }

    /// A handle for signals and the window's size.
    pub fn control(&self) -> Control {
        Control(self.shared.clone())
    }

    /// What the run is known by.
    pub fn record(&self) -> &RunRecord {
        &self.shared.record
    }
}

fn serve(gateway: &Arc<Gateway>, captured: CapturedSockets) -> std::io::Result<Vec<tokio::task::JoinHandle<()>>> {
    let mut tasks = Vec::new();
    for tcp in captured.tcp {
        let kind = match tcp.kind {
            TcpKind::Redirected => Listener::Redirected,
            TcpKind::Port(_) => Listener::Direct,
        };
        tcp.listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(tcp.listener)?;
        let gateway = gateway.clone();
        tasks.push(tokio::spawn(async move { gateway.serve_tcp(listener, kind).await }));
    }
    for socket in captured.dns {
        let port = Arc::new(BottlePort::new(socket)?);
        let gateway = gateway.clone();
        tasks.push(tokio::spawn(async move { gateway.serve_dns_udp(port).await }));
    }
    Ok(tasks)
}

async fn audit_start(
    audit: &AuditLog,
    subject: &Subject,
    spec: &BottleSpec,
    bottle: &Bottle,
    tier: CaptureTier,
    learning: Learning,
) -> Result<(), RunError> {
    let holds = bottle.holds();
    let event = Event::new(EventType::Run, subject.clone(), "start", Outcome::Done)
        .with("program", spec.command[0].clone())
        .with("arguments", spec.command.len() as u64 - 1)
        .with("workdir", spec.workdir.display().to_string())
        .with("capture", format!("{tier:?}"))
        .with("learn", learning == Learning::On)
        .with("landlock_abi", u64::from(holds.landlock_abi))
        .with("host_uid", u64::from(holds.host_ids.0));
    audit.append_durable(event).await.map_err(|e| RunError::Audit(e.to_string()))
}

pub(crate) fn new_run_id() -> Result<RunId, RunError> {
    let mut bits = [0; 4];
    getrandom::fill(&mut bits).map_err(AuthorityError::Random)?;
    let text = format!("r-{:08x}", u32::from_be_bytes(bits));
    Ok(RunId::parse(&text).expect("`r-` and eight hex digits are a valid name"))
}
