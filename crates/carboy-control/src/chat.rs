//! A chat agent on the plane: its gateway in this process, its budget with the controller, its record among the runs.
//!
//! ```text
//!  ChatRequest ─▶ log ─▶ secrets ─▶ ledger ─▶ gateway ─▶ tools, model, sessions ─▶ Engine ─▶ registered, start event
//!                                      │                     │                        │
//!                                      └── Outbound ◀────────┘ every call             └─▶ terminal, or HTTP
//! ```
//!
//! The same parts as a bottle's supervisor, but for the bottle: who asks is this process's own engine, and what it may
//! reach, hold and spend is decided where a bottle's requests are (U1, U2). It shows in `ps`, `top` and the log, and `stop`
//! and `resume` act on it (U3).
//!
//! *Must never* answer before the gateway, the log and the ledger are there, hand a key to the engine, or let a model be
//! taken for a provider's that is the offline one.

mod attack;
mod bottles;
mod ending;
mod failing;
mod offline;
mod remarks;
mod secret;
mod shelf;
mod tools;
mod webhooks;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carboy_agent::{Metrics, Model, Parts, ProviderModel, Terms, Tool};
use carboy_core::audit::{ChainKey, Event, hex, sha256};
use carboy_core::chat::{ChatSpec, ToolSource};
use carboy_core::ids::SecretName;
use carboy_core::ports::{AuditSink, Clock, SecretSource, SessionStore};
use carboy_core::secret::SecretText;
use carboy_manifest::{Effective, ManifestFiles, Places};
use carboy_store::sessions::{MemorySessions, SessionLimits, SqliteSessions};
use tokio::sync::watch;

use crate::approvals::{Carrier, FileBoard, Warned, Warnings};
use crate::clock::SystemClock;
use crate::home::{Home, private_dir};
use crate::hosted::{Entering, Hosted};
use crate::plane::{Laying, Plane};
use crate::registry::RunRecord;
use crate::serve::Lines;
use crate::supervisor::{Keeping, RunError, Tell};
use crate::vault::{Lookup, Vault};

use bottles::ToolBottle;
use offline::OfflineModel;
use tools::Ways;
use webhooks::Postman;

pub(crate) use bottles::another as another_key;
pub(crate) use secret::kept as kept_secret;

pub use crate::standing::Ending;
pub use attack::{AttackError, Attacked, Calls, Hole, Plan, attack};
pub use carboy_agent::attack::Stage;
pub use carboy_agent::{
    Asker, Card, Engine, HandOff, Principal, PrincipalKind, Reply, SessionId, StepPhase, TERMINAL_USER, TurnError,
    TurnEvent,
};
pub use failing::{Beside, ChatError};
pub use secret::{Deployment, SESSION_SECRET};
pub use shelf::{DirShelf, NOTES_DIR};

/// How often sessions are looked through for those that were idle too long.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Who answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelMode {
    /// The provider that the file names.
    #[default]
    Provider,
    /// The offline model on loopback (`--model offline`): for a look at the agent without a key.
    Offline,
}

/// Where conversations live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conversations {
    /// In this process's memory.
    #[default]
    InMemory,
    /// In a file of the agent's below its bottle's state: they outlive the process.
    OnDisk,
}

/// What is wanted, everything from the outside world looked up.
pub struct ChatRequest {
    /// `CARBOY_HOME`.
    pub home: Home,
    /// Where manifests are.
    pub places: Places,
    /// What its bottle may reach and spend.
    pub effective: Effective,
    /// The agent.
    pub spec: ChatSpec,
    /// Where `notes/` is made, canonical.
    pub workdir: PathBuf,
    /// Environment and commands of the host.
    pub lookup: Arc<dyn Lookup>,
    /// Files of the host.
    pub files: Arc<dyn ManifestFiles + Send + Sync>,
    /// How log entries are hashed.
    pub audit_key: ChainKey,
    /// Another log than the home's (`--audit-log FILE`).
    pub audit_log: Option<PathBuf>,
    /// Who keeps its ledger.
    pub keeping: Keeping,
    /// Who answers.
    pub model: ModelMode,
    /// Whether a session secret may be made.
    pub deployment: Deployment,
    /// Where conversations live.
    pub conversations: Conversations,
    /// The tools of its application, for `tools: [application]`.
    pub application: Vec<Arc<dyn Tool>>,
    /// What `ps` shows: `["serve", "bookly"]`.
    pub command: Vec<String>,
    /// Tells the operator something while it goes on.
    pub tell: Tell,
    /// Where lines of JSON for the operator go that are no part of the audit log: why a tool failed.
    pub lines: Lines,
}

/// A chat agent at work.
pub struct ChatHost {
    engine: Arc<Engine>,
    /// Raised when an operator's answer reached its conversation.
    news: watch::Sender<u64>,
    /// How many of those are carried out.
    answering: Option<watch::Receiver<usize>>,
    tools: Vec<Arc<dyn Tool>>,
    metrics: Arc<Metrics>,
    vault: Arc<Vault>,
    hosted: Hosted,
    bottle: Arc<ToolBottle>,
    webhooks: Option<Postman>,
    offline: Option<OfflineModel>,
}

impl ChatHost {
    /// Starts it: what comes back answers.
    pub async fn start(request: ChatRequest) -> Result<ChatHost, ChatError> {
        ChatHost::start_unless(request, std::future::pending()).await
    }

    /// The same, unless `stop` is ready while its tools start: then nothing of it is left.
    ///
    /// # Errors
    /// [`ChatError::Interrupted`] then.
    pub async fn start_unless(mut request: ChatRequest, stop: impl Future<Output = ()>) -> Result<ChatHost, ChatError> {
        let offline = match request.model {
            ModelMode::Offline => Some(OfflineModel::start(&mut request).await?),
            ModelMode::Provider => None,
        };
        // A missing key is no reason to make a bottle.
        secret::is_there(&request)?;
        // Before this process reads a secret to keep: a bottle is made of a clone of it.
        let bottle = ToolBottle::start(&request).await?;
        let started = ChatHost::with(request, bottle.clone(), offline, stop).await;
        if started.is_err() {
            bottle.end().await;
        }
        started
    }

    async fn with(
        request: ChatRequest,
        bottle: Arc<ToolBottle>,
        offline: Option<OfflineModel>,
        stop: impl Future<Output = ()>,
    ) -> Result<ChatHost, ChatError> {
        let plane = lay(&request).await?;
        let metrics = Arc::new(Metrics::default());
        let outbound = plane.gateway.outbound();
        let ways = Ways { outbound: outbound.clone(), bottle: bottle.clone() };
        // The only step that waits for somebody else's program.
        let tools = tokio::select! {
            biased;
            tools = tools::all(&request, &ways) => tools?,
            () = stop => return Err(ChatError::Interrupted),
        };
        named(&request, &tools)?;
        let sessions = sessions(&request)?;
        let webhooks = postman(&request, &plane)?;
        let terms = Terms::of(&request.spec.limits);
        let model: Arc<dyn Model> = Arc::new(ProviderModel::new(outbound, request.spec.model.clone(), terms));
        let engine = Engine::new(Parts {
            spec: request.spec.clone(),
            tools: tools.clone(),
            model,
            sessions: sessions.clone(),
            audit: plane.audit.clone(),
            clock: Arc::new(SystemClock),
            secret: plane.vault.current(&secret::session_secret()).expect("the vault was opened with it"),
            subject: plane.subject.clone(),
            metrics: metrics.clone(),
        })?;
        let engine = engine.telling(remarks::remarks(request.lines.clone(), plane.looked_for()));
        let engine = match &webhooks {
            Some(postman) => engine.notifying(postman.notices()),
            None => engine,
        };
        let board = board(&request);
        let engine = match &board {
            Some(board) => engine.asking(Arc::new(board.clone())),
            None => engine,
        };
        let enters = Enters { engine: Arc::new(engine), board, tools, metrics, sessions, webhooks, bottle };
        enter(request, plane, enters, offline).await
    }

    /// What terminals and servers ask.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Its tools, as the engine has them.
    pub fn tools(&self) -> &[Arc<dyn Tool>] {
        &self.tools
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The log.
    pub fn audit(&self) -> Arc<dyn AuditSink> {
        self.hosted.audit.clone()
    }

    /// A secret that it was started with: of its session, or of its identity's header.
    pub fn secret(&self, name: &SecretName) -> Option<Arc<SecretText>> {
        self.vault.current(name)
    }

    /// What sessions and cookies are keyed with.
    pub fn session_secret(&self) -> Arc<SecretText> {
        self.secret(&secret::session_secret()).expect("the vault was opened with it")
    }

    /// Does the offline model answer? Wherever it speaks, that is said.
    pub fn is_offline(&self) -> bool {
        self.offline.is_some()
    }

    /// What it is known by.
    pub fn record(&self) -> &RunRecord {
        &self.hosted.standing.record
    }

    /// Changes when an operator's answer, or the end of a wait for one, reached a conversation.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Becomes something when somebody wants it to end: `stop`, `stop --kill`.
    pub fn ending(&self) -> watch::Receiver<Option<Ending>> {
        self.hosted.standing.ending.subscribe()
    }
}

/// What every call of it goes through.
async fn lay(request: &ChatRequest) -> Result<Plane, ChatError> {
    let laying = Laying {
        home: &request.home,
        effective: &request.effective,
        lookup: &request.lookup,
        keeping: request.keeping,
        agent: Some(request.spec.name.to_string()),
        audit_key: another_key(&request.audit_key),
        audit_log: request.audit_log.clone().unwrap_or_else(|| request.home.audit_log()),
    };
    Plane::lay(laying, || secret::vault(request)).await
}

/// Tools that its file's rules name, and that no source offers: each with its place.
fn named(request: &ChatRequest, tools: &[Arc<dyn Tool>]) -> Result<(), ChatError> {
    let Some(file) = &request.effective.chat else { return Ok(()) };
    let strangers = file.strangers(tools.iter().map(|tool| tool.spec().schema.name.as_str()));
    match strangers.has_errors() {
        true => Err(RunError::Manifest(strangers).into()),
        false => Ok(()),
    }
}

/// Where operators are asked. Conversations that go with this process have nobody who could answer them later, and do not take
/// the answers to those that stay.
fn board(request: &ChatRequest) -> Option<Warned> {
    match request.conversations {
        Conversations::InMemory => None,
        Conversations::OnDisk => Some(Warned {
            board: FileBoard::of(&request.home, &request.effective.bottle, &request.spec.name),
            warnings: Warnings::new(request.lines.clone()),
        }),
    }
}

fn sessions(request: &ChatRequest) -> Result<Arc<dyn SessionStore>, ChatError> {
    let limits = session_limits(request);
    Ok(match request.conversations {
        Conversations::InMemory => Arc::new(MemorySessions::new(limits)),
        Conversations::OnDisk => {
            private_dir(&place(request))?;
            Arc::new(SqliteSessions::open(&sessions_file(request), limits)?)
        }
    })
}

pub(crate) fn session_limits(request: &ChatRequest) -> SessionLimits {
    let limits = &request.spec.limits;
    SessionLimits { sessions_max: limits.sessions_max, idle_s: limits.session_idle_s, ..SessionLimits::default() }
}

/// The file of its conversations.
pub(crate) fn sessions_file(request: &ChatRequest) -> PathBuf {
    place(request).join("sessions.db")
}

fn place(request: &ChatRequest) -> PathBuf {
    request.home.state(&request.effective.bottle).join("chat").join(request.spec.name.as_str())
}

/// Who tells the servers that the agent's file names; nobody where it names none.
fn postman(request: &ChatRequest, plane: &Plane) -> Result<Option<Postman>, ChatError> {
    let Some(webhooks) = &request.spec.webhooks else { return Ok(None) };
    let secret = plane.vault.current(&webhooks.secret).expect("the vault was opened with it");
    let ways = webhooks::Ways {
        outbound: plane.gateway.outbound(),
        audit: plane.audit.clone(),
        subject: plane.subject.clone(),
        key: webhooks::Key::read(&webhooks.secret, &secret)?,
    };
    Ok(Some(Postman::open(webhooks, ways)))
}

/// What stands on a plane.
struct Enters {
    engine: Arc<Engine>,
    board: Option<Warned>,
    tools: Vec<Arc<dyn Tool>>,
    metrics: Arc<Metrics>,
    sessions: Arc<dyn SessionStore>,
    webhooks: Option<Postman>,
    bottle: Arc<ToolBottle>,
}

/// Among the runs.
async fn enter(
    request: ChatRequest,
    plane: Plane,
    enters: Enters,
    offline: Option<OfflineModel>,
) -> Result<ChatHost, ChatError> {
    let Enters { engine, board, tools, metrics, sessions, webhooks, bottle } = enters;
    let news = watch::Sender::new(0);
    let record = RunRecord {
        run: plane.run.to_string(),
        bottle: request.effective.bottle.to_string(),
        agent: plane.subject.agent.clone(),
        command: request.command.clone(),
        task: None,
        supervisor_pid: std::process::id(),
        started_ms: plane.started_ms,
        socket: request.home.run_socket(&plane.run)?,
        workdir: request.workdir,
        tools_of: None,
        terminal: false,
    };
    let vault = plane.vault.clone();
    let entering = Entering {
        home: request.home,
        places: request.places,
        files: request.files,
        effective: request.effective,
        lookup: request.lookup,
        keeping: request.keeping,
        tell: request.tell,
        record,
        hangs: bottle.clone(),
    };
    let start = |event: Event| {
        event
            .with("program", request.command.first().cloned().unwrap_or_default())
            .with("model", request.spec.model.model.clone())
            .with("offline", offline.is_some())
            .with("tools", tools.len() as u64)
            .with("scripts", scripts(&request.spec))
    };
    let mut hosted = Hosted::enter(plane, entering, start, || Ok::<_, ChatError>(())).await?;
    let _ = hosted.standing.engine.set(Arc::downgrade(&engine));
    hosted.beside(sweep(sessions));
    let mut answering = None;
    if let Some(board) = board {
        let mut carrier = Carrier::new(engine.clone(), board, news.clone());
        carrier.begin().await;
        answering = Some(carrier.under_way());
        hosted.beside(carrier.go_on());
    }
    Ok(ChatHost { engine, news, answering, tools, metrics, vault, hosted, bottle, webhooks, offline })
}

/// Lets sessions go whose time is over, until it is aborted.
async fn sweep(sessions: Arc<dyn SessionStore>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        // A store that does not answer is found out by the next turn, which is refused for it.
        let _ = sessions.sweep(SystemClock.now_ms()).await;
    }
}

/// What runs as a tool and stood in the agent's file: each path with the SHA-256 of its text.
fn scripts(spec: &ChatSpec) -> Vec<String> {
    let of = |tool: &ToolSource| match tool {
        ToolSource::Script { path, text, .. } => Some(format!("{path} {}", hex(&sha256(text.as_bytes())))),
        ToolSource::BuiltIn(_) | ToolSource::Command { .. } | ToolSource::Http { .. } | ToolSource::Application => None,
    };
    spec.tools.iter().filter_map(of).collect()
}
