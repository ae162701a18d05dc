//! The supervisor of one bottle: makes it, stands at its door, and writes down how it went.
//!
//! ```text
//!  request ─► manifest ─► plan ─► bottle (made, not started) ─► secrets ─► gateway serving ─► program started
//!                                                                                                  │
//!  summary ◄── end event ◄── gateway shut ◄── bottle gone, files in order ◄── program ended ◄──────┘
//! ```
//!
//! Secrets are read only after the bottle's init has been cloned and this process has been made undumpable: no copy of
//! a secret is ever in an address space that a bottle's process came from.
//!
//! *Must never* start the program before the gateway serves, or without the start event in the log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carboy_bottle::{Bottle, CapturedSockets, ExitOutcome, ExitReport, LaunchError, LaunchOptions, Stdio, TcpKind};
use carboy_core::audit::{ChainKey, Event, EventType, Outcome, Subject};
use carboy_core::ids::{RunId, SecretName};
use carboy_core::plan::{Access, Bind, BottleSpec, CaptureTier, GeneratedFile, StdioMode};
use carboy_core::ports::{AuditSink, Clock, SecretSource};
use carboy_core::route::RouteSet;
use carboy_egress::{Gateway, GatewayConfig, GatewayLimits, GatewayStats, Listener};
use carboy_guard::Detectors;
use carboy_manifest::{Diagnostics, Effective, ManifestFiles, Places};
use carboy_store::audit::AuditLog;
use tokio::sync::Notify;

use crate::authority::{self, AuthorityError};
use crate::clock::SystemClock;
use crate::datagram::BottlePort;
use crate::home::{Home, HomeError, private_dir};
use crate::inside::{EnvironmentParts, HostPlaces, ShowError, environment};
use crate::registry::{Answer, Question, Registration, Respond, RunRecord};
use crate::reload;
use crate::summary::{Ended, Found, Refused, Summary};
use crate::vault::{Lookup, Vault, VaultError};

/// Longest wait at the end for the outcome of requests that were under way; longer than the gateway's own grace.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(3);
/// A secret of so many bytes is recognised within a variable; a shorter one would be found in harmless words.
const SECRET_INSIDE_BYTES_MIN: usize = 8;
/// How long a program may take to end after it was asked to.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

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

/// What the control socket and the person's signals act on.
struct Shared {
    bottle: Bottle,
    record: RunRecord,
    gateway: Arc<Gateway>,
    subject: Subject,
    audit: Arc<AuditLog>,
    stopping: AtomicBool,
    stop_asked: Notify,
    tier: CaptureTier,
}

/// Starts a run.
pub async fn start(request: RunRequest) -> Result<Running, RunError> {
    let clock = SystemClock;
    let started_ms = clock.now_ms();
    let run = new_run_id()?;
    let authority = Arc::new(authority::load_or_make(&request.home, started_ms)?);
    let injected = injected_secrets(&request.effective.routes);
    let spec = bottle_spec(&request, &run, authority.ca_pem(), &injected)?;
    let options = LaunchOptions { state: request.home.state(&spec.name), init: Default::default() };
    let (spec, launched) = tokio::task::spawn_blocking(move || {
        let launched = Bottle::launch(&spec, &options);
        (spec, launched)
    })
    .await
    .map_err(|e| RunError::System { what: "launch the bottle", source: std::io::Error::other(e) })?;
    let mut bottle = launched?;
    undumpable()?;

    let subject = Subject {
        user_id: None,
        agent: request.effective.agent.as_ref().map(ToString::to_string),
        bottle: Some(spec.name.to_string()),
        run: Some(run.to_string()),
    };
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
    audit_start(&audit, &subject, &spec, &bottle, tier).await?;

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
        subject,
        audit: audit.clone(),
        stopping: AtomicBool::new(false),
        stop_asked: Notify::new(),
        tier,
    });
    let registration = Registration::open(&request.home, &record, shared.clone())?;
    shared.bottle.start().map_err(|source| RunError::System { what: "start the program", source })?;
    tasks.push(tokio::spawn(stop_when_asked(shared.clone())));
    Ok(Running { shared, stdio, gateway, audit, started_ms, tasks, _registration: registration })
}

impl Running {
    /// The run's identifier.
    pub fn run(&self) -> &str {
        &self.shared.record.run
    }

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

    /// Counters of the gateway.
    pub fn stats(&self) -> GatewayStats {
        self.gateway.stats()
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

/// Acts on a run from signal handlers.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

impl Control {
    /// Tells the bottle's terminal its new size.
    pub fn resize(&self, rows: u16, cols: u16) {
        // A bottle that has just ended has no terminal to tell.
        let _ = self.0.bottle.resize(rows, cols);
    }

    /// Passes a signal to the program's process group.
    pub fn signal(&self, signal: i32) {
        let _ = self.0.bottle.signal(signal);
    }

    /// Asks the program to end; what is left after [`STOP_GRACE`] is killed.
    pub fn stop(&self) {
        self.0.ask_to_stop();
    }

    /// Ends everything in the bottle at once.
    pub fn kill(&self) {
        self.0.kill_now();
    }
}

impl Shared {
    fn ask_to_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop_asked.notify_one();
    }

    fn kill_now(&self) {
        self.stopping.store(true, Ordering::Release);
        // Gone already is what was wanted.
        let _ = self.bottle.kill();
    }

    fn note(&self, action: &'static str) {
        let event = Event::new(EventType::Operator, self.subject.clone(), action, Outcome::Done);
        // A run is ended also when that cannot be written down: the end event will fail and say so.
        let _ = self.audit.append(event);
    }
}

impl Respond for Shared {
    fn respond(&self, question: Question) -> Answer {
        match question {
            Question::Status => {}
            Question::Stop => {
                self.note("stop");
                self.ask_to_stop();
            }
            Question::Kill => {
                self.note("kill");
                self.kill_now();
            }
        }
        let stats = self.gateway.stats();
        let state = if self.stopping.load(Ordering::Acquire) { "stopping" } else { "running" };
        Answer {
            record: self.record.clone(),
            state: state.to_owned(),
            requests: stats.requests,
            refusals: refusals(&stats),
            bytes_out: stats.bytes_out,
            bytes_in: stats.bytes_in,
            tier: format!("{:?}", self.tier),
        }
    }
}

async fn stop_when_asked(shared: Arc<Shared>) {
    shared.stop_asked.notified().await;
    let _ = shared.bottle.signal(rustix::process::Signal::TERM.as_raw());
    tokio::time::sleep(STOP_GRACE).await;
    let _ = shared.bottle.kill();
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

fn bottle_spec(
    request: &RunRequest,
    run: &RunId,
    ca_pem: &str,
    injected: &[SecretName],
) -> Result<BottleSpec, RunError> {
    let effective = &request.effective;
    let places = HostPlaces { user_home: request.places.home.clone(), carboy_home: request.home.root().to_owned() };
    places.check_workspace(&request.workdir)?;
    let mut binds = effective.binds.clone();
    binds.extend(request.binds.iter().cloned());
    real_sources(&mut binds, &request.workdir, &places)?;
    binds.insert(
        0,
        Bind { source: request.workdir.clone(), target: request.workdir.clone(), access: Access::ReadWrite },
    );
    let provider = &effective.provider;
    let command = match (&request.command[..], &provider.command) {
        ([], Some(program)) => [std::slice::from_ref(program), &provider.args].concat(),
        // A built-in provider is the program of its name (M19); every other one has a command.
        ([], None) => [std::slice::from_ref(&provider.name), &provider.args].concat(),
        (command, _) => command.to_vec(),
    };
    let home = request.home.state(&effective.bottle).join("home");
    // Each on the way: whoever may write to one of them could put another directory in the home's place.
    for dir in [request.home.root().join("state"), request.home.state(&effective.bottle), home.clone()] {
        private_dir(&dir)?;
    }
    let host = |name: &str| request.lookup.variable(name).and_then(|v| v.into_string().ok());
    Ok(BottleSpec {
        name: effective.bottle.clone(),
        run: run.clone(),
        command,
        env: environment(EnvironmentParts {
            bottle: &effective.bottle,
            host: &host,
            terminal: request.terminal.clone(),
            trust: carboy_egress::trust_env(),
            injected,
            manifest: &request.env_set,
            flags: &request.env,
        }),
        workdir: request.workdir.clone(),
        home,
        binds,
        files: generated_files(effective, ca_pem),
        limits: effective.limits,
        capture: effective.settings.capture.value,
        route_ports: effective.routes.ports(),
        stdio: request.stdio,
        host_ids: request.host_ids.or(effective.settings.bottle_uid.value.map(|id| (id, id))),
    })
}

/// Replaces each source by its real path and asks of that whether it may be shown: what is checked is what is mounted.
/// One that goes through a link in a writable bind is left as it is, and refused by the bottle.
fn real_sources(binds: &mut [Bind], workdir: &Path, places: &HostPlaces) -> Result<(), RunError> {
    let writable = binds.iter().filter(|b| b.access == Access::ReadWrite).filter_map(|b| b.source.canonicalize().ok());
    let writable: Vec<PathBuf> = writable.chain([workdir.to_owned()]).collect();
    for bind in binds {
        let unusable = |source| LaunchError::Source { path: bind.source.clone(), source };
        let real = bind.source.canonicalize().map_err(unusable)?;
        places.check_bind(&real)?;
        if !writable.iter().any(|root| bind.source.starts_with(root)) {
            bind.source = real;
        }
    }
    Ok(())
}

/// Certificates over those bundles that the host has, and the git identity.
fn generated_files(effective: &Effective, ca_pem: &str) -> Vec<GeneratedFile> {
    let trust = carboy_egress::trust_files(ca_pem).into_iter();
    let mut files: Vec<_> = trust
        .filter(|(path, _)| path.starts_with("/etc/carboy") || path.exists())
        .map(|(path, content)| GeneratedFile { path, content })
        .collect();
    // M20, read by the system-wide file: the program may still write a ~/.gitconfig of its own.
    let identity = effective.git_user.gitconfig().map(String::into_bytes);
    files.extend(identity.map(|content| GeneratedFile { path: carboy_bottle::GIT_IDENTITY.into(), content }));
    files
}

/// The secrets that routes inject, once each.
pub fn injected_secrets(routes: &RouteSet) -> Vec<SecretName> {
    let names: std::collections::BTreeSet<_> =
        routes.iter().filter_map(|route| route.auth.as_ref()).map(|auth| auth.secret.clone()).collect();
    names.into_iter().collect()
}

/// `--env KEY` out of habit, or a bottle's file with a key in it: the program does not start with what it must not hold.
fn no_secret_inside(env: &BTreeMap<String, String>, vault: &Vault) -> Result<(), RunError> {
    let known = vault.known();
    let carries = |value: &str, secret: &str| {
        value == secret || secret.len() >= SECRET_INSIDE_BYTES_MIN && value.contains(secret)
    };
    for (variable, value) in env {
        if let Some((secret, _)) = known.iter().find(|(_, secret)| carries(value, secret.expose())) {
            return Err(RunError::SecretInside { variable: variable.clone(), secret: secret.clone() });
        }
    }
    Ok(())
}

fn detectors(key: [u8; 32], vault: &Vault) -> Result<Detectors, RunError> {
    let mut builder = Detectors::builder(key);
    for (name, value) in vault.known() {
        builder = builder.known_secret(&name, &value);
    }
    builder.build().map_err(|e| RunError::Secret(e.to_string()))
}

/// A secret that was renewed during the run is looked for like the others.
fn look_for_renewed(vault: &Arc<Vault>, gateway: &Arc<Gateway>, fingerprint_key: [u8; 32]) {
    let (weak_vault, weak_gateway) = (Arc::downgrade(vault), Arc::downgrade(gateway));
    vault.on_renewal(move || {
        let (Some(vault), Some(gateway)) = (weak_vault.upgrade(), weak_gateway.upgrade()) else { return };
        match detectors(fingerprint_key, &vault) {
            Ok(fresh) => gateway.replace_detectors(Arc::new(fresh)),
            // A secret that cannot be looked for is not used: nothing passes any more.
            Err(_) => gateway.shutdown(),
        }
    });
}

/// From here on this process holds secrets: no core dump, no `ptrace`, no `/proc/PID/mem` by the same user (D5).
fn undumpable() -> Result<(), RunError> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let failed = |e: rustix::io::Errno| RunError::System { what: "protect this process's memory", source: e.into() };
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(failed)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)
}

fn new_run_id() -> Result<RunId, RunError> {
    let mut bits = [0; 4];
    getrandom::fill(&mut bits).map_err(AuthorityError::Random)?;
    let text = format!("r-{:08x}", u32::from_be_bytes(bits));
    Ok(RunId::parse(&text).expect("`r-` and eight hex digits are a valid name"))
}

fn refusals(stats: &GatewayStats) -> u64 {
    stats.refusals.values().map(|refusal| refusal.count).sum()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_checked_where_its_links_lead() {
        // B51: an earlier bottle, whose workspace this directory was, exchanged it for a link.
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in [".ssh", "tools", "workspace"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(root.join(to), root.join(at)).unwrap();
        link(".ssh", "cache");
        link("tools", "linked");
        link("tools", "workspace/linked");
        let places = HostPlaces { user_home: root.clone(), carboy_home: root.join(".carboy") };
        let real = |below: &str| {
            let source = root.join(below);
            let mut binds = [Bind { target: source.clone(), source, access: Access::ReadOnly }];
            real_sources(&mut binds, &root.join("workspace"), &places).map(|()| binds[0].source.clone())
        };
        assert!(matches!(real("cache"), Err(RunError::Show(_))));
        assert_eq!(real("linked").unwrap(), root.join("tools"));
        // Left for the bottle to refuse.
        assert_eq!(real("workspace/linked").unwrap(), root.join("workspace/linked"));
    }
}
