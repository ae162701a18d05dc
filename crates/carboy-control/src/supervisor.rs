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
mod seal;
mod secrets;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use carboy_bottle::{Bottle, CapturedSockets, ExitOutcome, ExitReport, LaunchError, LaunchOptions, Stdio, TcpKind};
use carboy_core::audit::{ChainKey, Event, EventType, Outcome, Subject};
use carboy_core::ids::{RunId, SecretName};
use carboy_core::plan::{Bind, BottleSpec, CaptureTier, StdioMode};
use carboy_core::ports::{AuditSink, Clock, SecretSource};
use carboy_egress::{CertificateAuthority, Gateway, GatewayConfig, GatewayLimits, Listener};
use carboy_manifest::{Diagnostics, Effective, ManifestFiles, Places};
use carboy_store::audit::AuditLog;
use tokio::sync::Notify;

use crate::authority::{self, AuthorityError};
use crate::clock::SystemClock;
use crate::datagram::BottlePort;
use crate::home::{Home, HomeError};
use crate::inside::ShowError;
use crate::registry::{Registration, RunRecord};
use crate::reload;
use crate::summary::{Ended, Found, Refused, Summary};
use crate::vault::{Lookup, Vault, VaultError};

use control::{Shared, refusals, stop_when_asked};
use seal::{bottle_spec, injected_secrets};
use secrets::{detectors, look_for_renewed, no_secret_inside, undumpable};

pub use control::{Control, STOP_GRACE};

/// Longest wait at the end for the outcome of requests that were under way; longer than the gateway's own grace.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(3);
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
    /// Host directory of the workspace, canonical.
    pub workdir: PathBuf,
    /// The provider's and the bottle's variables, with every question answered.
    pub env_set: BTreeMap<String, String>,
    /// `--env`.
    pub env: Vec<(String, String)>,
    /// `--bind`, canonical.
    pub binds: Vec<Bind>,
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
    /// Tells the person something while the program goes on.
    pub tell: Tell,
}

/// Says a few lines to the person, while the program has the terminal.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a run did not come about, or was lost.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file is not valid.
    #[error("{0}")]
    Manifest(Diagnostics),
    /// The person's own hand would have put a real key into the bottle.
    #[error(
        "variable {variable} would carry the real {secret} into the bottle; leave it out: a route's `token_env` puts a fake there"
    )]
    SecretInside {
        /// The variable.
        variable: String,
        /// The secret.
        secret: SecretName,
    },
    /// The host cannot give the bottle.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A directory that must not be shown.
    #[error(transparent)]
    Show(#[from] ShowError),
    /// A secret is missing.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A secret cannot be scanned for.
    #[error("{0}")]
    Secret(String),
    /// Files of `CARBOY_HOME`.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The audit log.
    #[error("{0}")]
    Audit(String),
    /// Something of the system.
    #[error("could not {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A run whose program has been started.
pub struct Running {
    shared: Arc<Shared>,
    stdio: Option<Stdio>,
    gateway: Arc<Gateway>,
    audit: Arc<AuditLog>,
    started_ms: u64,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _registration: Registration,
}

/// What there is of a run when its bottle stands and nothing was started in it.
struct Stands {
    run: RunId,
    started_ms: u64,
    authority: Arc<CertificateAuthority>,
    injected: Vec<SecretName>,
    spec: BottleSpec,
    bottle: Bottle,
}

/// Starts a run.
pub async fn start(request: RunRequest) -> Result<Running, RunError> {
    let started_ms = SystemClock.now_ms();
    let run = new_run_id()?;
    let authority = Arc::new(authority::load_or_make(&request.home, started_ms)?);
    let injected = injected_secrets(&request.effective.routes);
    let spec = bottle_spec(&request, &run, authority.ca_pem(), &injected)?;
    let (spec, bottle) = make(&request.home, spec).await?;
    let watcher = bottle.watcher();
    let equipped = equip(request, Stands { run, started_ms, authority, injected, spec, bottle }).await;
    if equipped.is_err() {
        // The bottle died with the attempt. What it put into the workspace is taken away before the person is told.
        let _ = tokio::task::spawn_blocking(move || watcher.wait()).await;
    }
    equipped
}

/// Reads the secrets, opens the way out and starts the program. An error drops the bottle, and that ends it.
async fn equip(request: RunRequest, stands: Stands) -> Result<Running, RunError> {
    let Stands { run, started_ms, authority, injected, spec, mut bottle } = stands;
    let clock = SystemClock;
    undumpable()?;

    let subject = subject(&request, &spec, &run);
    let audit = AuditLog::open(&request.home.audit_log(), request.audit_key, Arc::new(clock));
    let audit = Arc::new(audit.map_err(|e| RunError::Audit(e.to_string()))?);
    let settings = request.effective.settings.secrets.iter();
    let origins = settings.map(|(name, from)| (name.clone(), from.value.clone())).collect();
    let vault = Arc::new(Vault::open(&injected, origins, request.lookup.clone(), &request.places.settings())?);
    no_secret_inside(&spec.env, &vault)?;
    let fingerprint_key = authority::fingerprint_key(&request.home)?;
    let detectors = detectors(fingerprint_key, &vault)?;
    let captured = bottle.take_captured().expect("a bottle that was just launched still has its sockets");
    let tier = captured.tier;
    let gateway = Gateway::new(GatewayConfig {
        subject: subject.clone(),
        routes: request.effective.routes.clone(),
        upstreams: request.effective.settings.upstreams.clone(),
        ca: authority,
        detectors: Arc::new(detectors),
        secrets: vault.clone() as Arc<dyn SecretSource>,
        audit: audit.clone(),
        clock: Arc::new(clock),
        limits: GatewayLimits::default(),
    })
    .map_err(AuthorityError::from)?;
    look_for_renewed(&vault, &gateway, fingerprint_key);
    let mut tasks =
        serve(&gateway, captured).map_err(|source| RunError::System { what: "serve the bottle's sockets", source })?;
    tasks.push(tokio::spawn(reload::watch(reload::Watched {
        gateway: gateway.clone(),
        audit: audit.clone(),
        subject: subject.clone(),
        files: request.files.clone(),
        places: request.places.clone(),
        effective: request.effective.clone(),
        tell: request.tell.clone(),
    })));

    let record = RunRecord {
        run: run.to_string(),
        bottle: spec.name.to_string(),
        agent: subject.agent.clone(),
        command: spec.command.clone(),
        supervisor_pid: std::process::id(),
        started_ms,
        socket: request.home.run_socket(&run)?,
    };
    let stdio = bottle.take_stdio();
    let shared = Arc::new(Shared {
        bottle,
        record: record.clone(),
        gateway: gateway.clone(),
        subject: subject.clone(),
        audit: audit.clone(),
        stopping: AtomicBool::new(false),
        stop_asked: Notify::new(),
        tier,
    });
    let registration = Registration::open(&request.home, &record, shared.clone())?;
    // The last thing before the program: no run that did not come about is in the log as one that never ended.
    let started = match audit_start(&audit, &subject, &spec, &shared.bottle, tier).await {
        Ok(()) => shared.bottle.start().map_err(|source| RunError::System { what: "start the program", source }),
        Err(error) => Err(error),
    };
    if let Err(error) = started {
        // The registration may hold the bottle a little longer than this call.
        let _ = shared.bottle.kill();
        return Err(error);
    }
    tasks.push(tokio::spawn(stop_when_asked(shared.clone())));
    Ok(Running { shared, stdio, gateway, audit, started_ms, tasks, _registration: registration })
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

    /// Waits for the end and says what happened.
    pub async fn wait(self) -> Result<Summary, RunError> {
        let watcher = self.shared.bottle.watcher();
        let report = tokio::task::spawn_blocking(move || watcher.wait())
            .await
            .map_err(|e| RunError::System { what: "wait for the bottle", source: std::io::Error::other(e) })?;
        self.gateway.shutdown();
        // What the program left in the middle of is written down before the end is.
        self.gateway.settled(SETTLE_WAIT_MAX).await;
        for task in &self.tasks {
            task.abort();
        }
        let ended_ms = SystemClock.now_ms();
        let stats = self.gateway.stats();
        let ended = ended(report.outcome);
        let quarantined = quarantined(&report);
        let event = Event::new(EventType::Run, self.shared.subject.clone(), "end", Outcome::Done)
            .with("exit_code", u64::from(ended.shell_code()))
            .with("duration_ms", ended_ms.saturating_sub(self.started_ms))
            .with("requests", stats.requests)
            .with("refusals", refusals(&stats))
            .with("quarantined", quarantined.clone());
        self.audit.append_durable(event).await.map_err(|e| RunError::Audit(e.to_string()))?;
        let audit = self.audit.clone();
        let closed = tokio::task::spawn_blocking(move || audit.close()).await;
        closed
            .map_err(|e| RunError::System { what: "close the log", source: std::io::Error::other(e) })?
            .map_err(|e| RunError::Audit(e.to_string()))?;
        let head = self.audit.head();
        Ok(Summary {
            run: self.shared.record.run.clone(),
            bottle: self.shared.record.bottle.clone(),
            ended,
            duration_ms: ended_ms.saturating_sub(self.started_ms),
            tier: format!("{:?}", self.shared.tier),
            requests: stats.requests,
            bytes_out: stats.bytes_out,
            bytes_in: stats.bytes_in,
            refusals: Refused::of(&stats, self.shared.subject.bottle.as_deref().unwrap_or_default()),
            findings: stats.findings.into_iter().map(|(rule, count)| Found { rule, count }).collect(),
            quarantined,
            audit_head: format!("{}:{}", head.seq, head.hash),
        })
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
) -> Result<(), RunError> {
    let holds = bottle.holds();
    let event = Event::new(EventType::Run, subject.clone(), "start", Outcome::Done)
        .with("program", spec.command[0].clone())
        .with("arguments", spec.command.len() as u64 - 1)
        .with("workdir", spec.workdir.display().to_string())
        .with("capture", format!("{tier:?}"))
        .with("landlock_abi", u64::from(holds.landlock_abi))
        .with("host_uid", u64::from(holds.host_ids.0));
    audit.append_durable(event).await.map_err(|e| RunError::Audit(e.to_string()))
}

fn new_run_id() -> Result<RunId, RunError> {
    let mut bits = [0; 4];
    getrandom::fill(&mut bits).map_err(AuthorityError::Random)?;
    let text = format!("r-{:08x}", u32::from_be_bytes(bits));
    Ok(RunId::parse(&text).expect("`r-` and eight hex digits are a valid name"))
}

fn ended(outcome: ExitOutcome) -> Ended {
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match outcome {
        ExitOutcome::Code(code) => Ended::Code(byte(code)),
        ExitOutcome::Signal(signal) => Ended::Signal(byte(signal)),
        ExitOutcome::NotStarted(_) => Ended::NotStarted(byte(outcome.shell_code())),
        ExitOutcome::Killed => Ended::Signal(9),
    }
}

fn quarantined(report: &ExitReport) -> Vec<String> {
    let cleaned = &report.cleaned;
    let back = cleaned
        .quarantined
        .iter()
        .map(|q| format!("{}: {} (kept in {})", q.path.display(), q.change, q.kept_at.display()));
    back.chain(cleaned.failed.iter().map(|what| format!("could not be put in order: {what}"))).collect()
}
