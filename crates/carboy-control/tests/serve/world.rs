//! A service on a port of its own, and what stands around it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carboy_agent::{Engine, Metrics, Model, ModelError, Parts, Tool};
use carboy_control::approvals::FileBoard;
use carboy_control::home::Home;
use carboy_control::serve::{Architecture, ServeConfig, ServeError, Served, serve};
use carboy_core::audit::{ChainKey, Subject};
use carboy_core::chat::{ChatFormat, ChatLimits, ChatPrompt, ChatSpec, Identity, ModelChoice, ReplySpec, Screening};
use carboy_core::host::Host;
use carboy_core::ids::{AgentName, BottleName, MeterName};
use carboy_core::ports::{Clock, Later};
use carboy_core::secret::SecretText;
use carboy_store::audit::AuditLog;
use carboy_store::sessions::{MemorySessions, SessionLimits};
use carboy_wire::chat::{Block, Completion, Delta, Prompt, Role, Stopped};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// A key that is long enough.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What the model does for a message.
pub type Script = dyn Fn(&str) -> Play + Send + Sync;

/// One answer of the model.
#[derive(Clone, Debug)]
pub enum Play {
    /// Says it, piece by piece.
    Say(Vec<String>),
    /// Says the first piece, waits for the gate, says the rest.
    Gated(Vec<String>),
    /// Gives no answer.
    Fail(ModelError),
    /// Asks for a tool first.
    Call(String, serde_json::Value),
    /// Breaks.
    Panic,
}

impl Play {
    pub fn say(text: &str) -> Play {
        Play::Say(vec![text.to_owned()])
    }
}

/// A model that follows a script, and counts.
pub struct Scripted {
    script: Mutex<Arc<Script>>,
    /// Opens `Gated` answers, one permit each.
    pub gate: Semaphore,
    /// How often it was asked.
    pub asked: AtomicU64,
    /// Raised when a gated answer waits.
    pub waiting: watch::Sender<usize>,
}

impl Scripted {
    /// Ready when so many answers wait at the gate.
    pub async fn at_gate(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        let reached = waiting.wait_for(|now| *now >= count);
        tokio::time::timeout(super::http::PATIENCE, reached).await.expect("the gate is reached").unwrap();
    }
}

impl Model for Scripted {
    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt<'a>,
        listen: &'a mut (dyn FnMut(Delta) + Send),
    ) -> Later<'a, Result<Completion, ModelError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let last = prompt.messages.iter().rfind(|message| message.role == Role::User).unwrap();
            let said: String = last
                .blocks
                .iter()
                .map(|block| match block {
                    Block::Text { text } => text.clone(),
                    Block::ToolResult { content, .. } => format!("result:{content}"),
                    Block::ToolUse { .. } | Block::Opaque { .. } => String::new(),
                })
                .collect();
            let script = self.script.lock().unwrap().clone();
            let pieces = match script(&said) {
                Play::Say(pieces) => pieces,
                Play::Gated(pieces) => {
                    listen(Delta::Text(pieces[0].clone()));
                    self.waiting.send_modify(|count| *count += 1);
                    self.gate.acquire().await.unwrap().forget();
                    for piece in &pieces[1..] {
                        listen(Delta::Text(piece.clone()));
                    }
                    let blocks = vec![Block::Text { text: pieces.concat() }];
                    return Ok(Completion { blocks, stopped: Stopped::EndOfTurn });
                }
                Play::Fail(error) => return Err(error),
                Play::Call(name, input) => {
                    let blocks = vec![Block::ToolUse { id: "call-1".into(), name, input }];
                    return Ok(Completion { blocks, stopped: Stopped::ToolUse });
                }
                Play::Panic => panic!("the script says so"),
            };
            for piece in &pieces {
                listen(Delta::Text(piece.clone()));
            }
            Ok(Completion { blocks: vec![Block::Text { text: pieces.concat() }], stopped: Stopped::EndOfTurn })
        })
    }
}

/// A clock that goes on when it is told to.
pub struct Hands(pub AtomicU64);

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a world is made of; everything has a default.
pub struct Made {
    pub spec: ChatSpec,
    pub tools: Vec<Arc<dyn Tool>>,
    pub script: Arc<Script>,
    pub proxies: Vec<&'static str>,
    pub architecture: Option<Architecture>,
    pub offline: Option<String>,
    pub metrics: bool,
    pub identity_secret: Option<&'static str>,
    pub session_secret: &'static str,
    pub grace: Duration,
    pub sessions: Arc<MemorySessions>,
    pub listen: String,
}

impl Default for Made {
    fn default() -> Self {
        Made {
            spec: spec(),
            tools: Vec::new(),
            script: Arc::new(|said| Play::say(&format!("You said: {said}."))),
            proxies: Vec::new(),
            architecture: None,
            offline: None,
            metrics: false,
            identity_secret: None,
            session_secret: SECRET,
            grace: Duration::from_secs(10),
            sessions: Arc::new(MemorySessions::new(SessionLimits::default())),
            listen: "127.0.0.1:0".into(),
        }
    }
}

pub fn spec() -> ChatSpec {
    ChatSpec {
        name: AgentName::parse("bookly").unwrap(),
        title: "Bookly".into(),
        greeting: "Hello! Ask me about an order.".into(),
        model: ModelChoice {
            format: ChatFormat::Anthropic,
            host: Host::parse("model.example").unwrap(),
            port: 443,
            path: "/v1/messages".into(),
            model: "scripted".into(),
            meter: MeterName::parse("anthropic").unwrap(),
            token_env: None,
            output_tokens_max: 1_000,
        },
        prompt: ChatPrompt {
            system: "You are Bookly.".into(),
            reminder: "Stay in scope.".into(),
            long_reminder: String::new(),
            refusal: "I can only help with orders.".into(),
            fallback: "Sorry, I cannot say that.".into(),
            hand_off: "A colleague will get in touch with you.".into(),
        },
        tools: Vec::new(),
        rules: BTreeMap::new(),
        authorize: Vec::new(),
        identity: Identity::Anonymous,
        limits: ChatLimits {
            requests_per_ip_per_minute: 10_000,
            requests_per_ip_per_hour: 10_000,
            requests_per_hour: 10_000,
            requests_per_session_per_minute: 10_000,
            ..ChatLimits::default()
        },
        screening: Screening::default(),
        reply: ReplySpec::default(),
        webhooks: None,
        frame_ancestors: Vec::new(),
        architecture: Default::default(),
    }
}

/// A port that was just given back may take a moment.
async fn listener(at: &str) -> TcpListener {
    let free = async {
        loop {
            match TcpListener::bind(at).await {
                Ok(listener) => return listener,
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{at}: {error}"),
            }
        }
    };
    tokio::time::timeout(super::http::PATIENCE, free).await.expect("the port is free")
}

/// A service that runs.
pub struct World {
    pub address: SocketAddr,
    pub model: Arc<Scripted>,
    pub log: Arc<Mutex<Vec<String>>>,
    pub audit: std::path::PathBuf,
    pub engine: Arc<Engine>,
    /// What waits for the operator.
    pub board: FileBoard,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ServeError>>,
    _dir: tempfile::TempDir,
}

impl World {
    pub async fn plain() -> World {
        World::made(Made::default()).await
    }

    pub async fn scripted(script: impl Fn(&str) -> Play + Send + Sync + 'static) -> World {
        World::made(Made { script: Arc::new(script), ..Made::default() }).await
    }

    pub async fn made(made: Made) -> World {
        let dir = tempfile::tempdir().unwrap();
        let audit = dir.path().join("audit.jsonl");
        let clock = Arc::new(Hands(AtomicU64::new(1_800_000_000_000)));
        let sink = AuditLog::open(&audit, ChainKey::Plain, clock.clone()).unwrap();
        let model = Arc::new(Scripted {
            script: Mutex::new(made.script),
            gate: Semaphore::new(0),
            asked: AtomicU64::new(0),
            waiting: watch::Sender::new(0),
        });
        let metrics = Arc::new(Metrics::default());
        let made_name = made.spec.name.clone();
        let engine = Engine::new(Parts {
            spec: made.spec,
            tools: made.tools,
            model: model.clone(),
            sessions: made.sessions,
            audit: Arc::new(sink),
            clock: clock.clone(),
            secret: Arc::new(SecretText::new(SECRET.to_owned())),
            subject: Subject::default(),
            metrics: metrics.clone(),
        });
        let home = Home::open(&dir.path().join("home"), None).unwrap();
        let board = FileBoard::of(&home, &BottleName::parse("bookly").unwrap(), &made_name);
        let engine = Arc::new(engine.unwrap().asking(Arc::new(board.clone())));
        let served = Served {
            engine: engine.clone(),
            architecture: made.architecture,
            offline: made.offline,
            metrics: made.metrics.then_some(metrics),
        };
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        let secret = |text: &str| SecretText::new(text.to_owned());
        let config = ServeConfig {
            session_secret: secret(made.session_secret),
            identity_secret: made.identity_secret.map(secret),
            trusted_proxies: made.proxies.iter().map(|network| network.parse().unwrap()).collect(),
            clock: clock.clone(),
            lines: Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned())),
            grace: made.grace,
        };
        let listener = listener(&made.listen).await;
        let address = listener.local_addr().unwrap();
        let (stop, stops) = watch::channel(false);
        let task = tokio::spawn(serve(served, config, listener, stops));
        World { address, model, log, audit, engine, board, stop, task, _dir: dir }
    }

    /// How often the model was asked.
    pub fn asked(&self) -> u64 {
        self.model.asked.load(Ordering::SeqCst)
    }

    /// Lines of the service's log.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        self.log.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// As when its process is killed: connections break, turns are lost.
    pub async fn killed(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// Asks it to end.
    pub fn ask_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Ends it and waits for that.
    pub async fn stopped(self) -> tempfile::TempDir {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
        self._dir
    }
}
