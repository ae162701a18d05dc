//! The bottle that a chat agent's tools are in: a run of its own, with a gateway, a record and a share of the budget. Its
//! programs are MCP servers whose streams this process holds.
//!
//! ```text
//!  start ─▶ supervisor::start: the agent's bottle; its first program waits for the end of its input, and does nothing
//!  connect ─▶ exec in it ─▶ stdin, stdout, stderr of a server          (again after it ended, see `mcp::server`)
//!  stop ─▶ cutoff, pause: as any run │ freeze: its servers end, and are started again after `resume` alone │ kill: all ends
//! ```
//!
//! It is made before this process has read a secret, as every bottle is. Whatever directory its agent was started in, its
//! programs work in the bottle's own home. *Must never* show a server the directory that its agent was started in, start one
//! while its agent is frozen or ends, or give it more than the agent's bottle has.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use carboy_bottle::{Exec, ExecRequest, Stdio};
use carboy_core::audit::ChainKey;
use carboy_core::budget::Shutdown;
use carboy_core::chat::ToolSource;
use carboy_core::plan::{GeneratedFile, StdioMode};
use carboy_core::ports::Later;
use carboy_core::secret::Secret;
use carboy_manifest::EnvValue;
use tokio::task::JoinHandle;

use super::{ChatError, ChatRequest};
use crate::mcp::{Connect, McpError, StdioServer, Transport};
use crate::registry::{self, Question, RunRecord};
use crate::session::Streaming;
use crate::standing::Hangs;
use crate::summary::By;
use crate::supervisor::{self, Control, Learning, RunRequest, Workplace};

/// Where scripts of an agent's file lie inside.
const SCRIPTS_INSIDE: &str = "/etc/carboy/tools";
/// What the bottle's first program is: it waits for a line that never comes, and ends with this process.
const WAITS: [&str; 3] = ["sh", "-c", "read -r line"];
/// How long the bottle may take to be gone when its agent ends.
const END_WAIT_MAX: Duration = Duration::from_secs(10);
/// What stands where a bottle's capture does: there is nothing to capture.
pub(super) const TIER: &str = "in process";

/// The bottle of an agent's tools, where any of them needs one.
#[derive(Default)]
pub(super) struct ToolBottle {
    run: Option<Run>,
    servers: Mutex<Vec<Weak<Exec>>>,
    /// No server is started.
    closed: AtomicBool,
    /// How often somebody let the agent go on.
    words: AtomicU32,
}

struct Run {
    record: RunRecord,
    control: Control,
    ended: Mutex<Option<JoinHandle<()>>>,
    /// Its first program waits for it.
    _input: File,
}

impl ToolBottle {
    /// Makes it, unless every tool is in this process or behind HTTP.
    pub(super) async fn start(request: &ChatRequest) -> Result<Arc<ToolBottle>, ChatError> {
        let Some(server) = request.spec.tools.iter().find_map(needs_bottle) else { return Ok(Arc::default()) };
        let refused = |why: String| ChatError::Tools { server: server.to_owned(), why };
        let wanted = run_request(request).map_err(refused)?;
        let mut running = supervisor::start(wanted).await?;
        let (record, control) = (running.record().clone(), running.control());
        let Some(Stdio::Pipes { stdin, stdout, stderr }) = running.take_stdio() else {
            return Err(refused("its bottle has no pipes".into()));
        };
        // The first program says nothing.
        drop((stdout, stderr));
        let ended = tokio::spawn(async move {
            // Its end is in the log and among the runs; whoever asks its tools is told that it is gone.
            let _ = running.wait().await;
        });
        let run = Run { record, control, ended: Mutex::new(Some(ended)), _input: File::from(stdin) };
        Ok(Arc::new(ToolBottle { run: Some(run), ..ToolBottle::default() }))
    }

    /// Ends it, and waits until it is gone and written down.
    pub(super) async fn end(&self) {
        self.closed.store(true, Ordering::Release);
        let Some(run) = &self.run else { return };
        run.control.kill();
        let ended = run.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            // A panic in there has been reported.
            let _ = tokio::time::timeout(END_WAIT_MAX, ended).await;
        }
    }

    fn ask(&self, question: &Question) {
        if let Some(run) = &self.run {
            let _ = registry::ask(&run.record, question);
        }
    }

    /// Starts a server in it. Blocks for some milliseconds.
    fn exec(&self, command: &[String]) -> Result<Exec, McpError> {
        let run = self.run.as_ref().ok_or_else(|| McpError::Gone("there is no bottle for it".into()))?;
        let (command, env) = (command.to_vec(), BTreeMap::new());
        let request = ExecRequest { command, env, workdir: None, stdio: StdioMode::Pipes };
        run.control.exec(&request).map_err(|error| match error.raw_os_error() {
            Some(_) => McpError::Gone(format!("`{}` could not be started in the bottle: {error}", request.command[0])),
            None => McpError::Gone(error.to_string()),
        })
    }

    /// Remembers it for as long as it lives. One that came while its agent was frozen ends at once.
    fn keep(&self, server: &Arc<Exec>) {
        let mut servers = self.servers();
        servers.retain(|one| one.strong_count() > 0);
        servers.push(Arc::downgrade(server));
        drop(servers);
        if self.closed.load(Ordering::Acquire) {
            kill(server);
        }
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Weak<Exec>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hangs for ToolBottle {
    fn what(&self) -> &'static str {
        "a chat agent"
    }

    fn tier(&self) -> &'static str {
        TIER
    }

    fn no_exec(&self) -> &'static str {
        "`carboy ps` lists the bottles that its tools are in"
    }

    /// Cut off: people read that somebody else will answer. Paused: the same, and its tools' processes stand still. Frozen: the
    /// same, and they end, with their way out closed; conversations stay on the disk. A bottle that does not answer is on its way out already.
    fn stop(&self, how: Shutdown, _by: By) {
        match how {
            Shutdown::Cutoff | Shutdown::Pause => self.ask(&Question::Enforce { how }),
            Shutdown::Freeze => {
                self.closed.store(true, Ordering::Release);
                self.ask(&Question::Enforce { how: Shutdown::Cutoff });
                self.servers().iter().filter_map(Weak::upgrade).for_each(|server| kill(&server));
            }
            Shutdown::Kill => {
                self.closed.store(true, Ordering::Release);
                self.run.iter().for_each(|run| run.control.kill());
            }
        }
    }

    fn reopen(&self) -> Result<(), String> {
        Ok(())
    }

    /// Its tools go on where they stand still, and are started again by the next call where they have ended.
    fn let_go(&self) {
        self.words.fetch_add(1, Ordering::AcqRel);
        self.closed.store(false, Ordering::Release);
        self.ask(&Question::Resume);
    }

    /// Turns under way may end.
    fn ending(&self) {}
}

/// With everything that it has started. One that has ended already is what was wanted.
fn kill(server: &Exec) {
    let _ = server.signal(rustix::process::Signal::KILL.as_raw());
}

/// The server of a source that runs in a bottle.
fn needs_bottle(source: &ToolSource) -> Option<&str> {
    match source {
        ToolSource::Command { name, .. } | ToolSource::Script { name, .. } => Some(name),
        ToolSource::BuiltIn(_) | ToolSource::Http { .. } | ToolSource::Application => None,
    }
}

/// The run that the bottle is.
fn run_request(request: &ChatRequest) -> Result<RunRequest, String> {
    let set = |(name, value): (&String, &EnvValue)| match value {
        EnvValue::Set(text) => Ok((name.clone(), text.clone())),
        EnvValue::Prompt(_) => Err(format!("variable {name} of the bottle is asked for at launch; set it in its file")),
    };
    let effective = &request.effective;
    let env_set = effective.provider.env.iter().chain(&effective.env).map(set).collect::<Result<_, _>>()?;
    let mut scripts = Vec::new();
    for source in &request.spec.tools {
        if let ToolSource::Script { path, text, .. } = source {
            scripts.push(GeneratedFile { path: script_inside(path)?.into(), content: text.as_bytes().to_vec() });
        }
    }
    Ok(RunRequest {
        home: request.home.clone(),
        places: request.places.clone(),
        effective: effective.clone(),
        command: WAITS.map(str::to_owned).to_vec(),
        task: Default::default(),
        workplace: Workplace::Home { tools_of: request.spec.name.clone() },
        env_set,
        env: Vec::new(),
        binds: Vec::new(),
        scripts,
        host_ids: None,
        stdio: StdioMode::Pipes,
        terminal: None,
        lookup: request.lookup.clone(),
        files: request.files.clone(),
        audit_key: another(&request.audit_key),
        tell: Arc::new(|_| {}),
        progress: request.tell.clone(),
        streaming: Streaming::Direct,
        learning: Learning::Off,
        flags: None,
        again: None,
        keeping: request.keeping,
    })
}

/// Where a script lies inside.
///
/// # Errors
/// Its path leads out of the tools' directory.
fn script_inside(path: &str) -> Result<String, String> {
    let below = Path::new(path);
    let plain = below.components().all(|part| matches!(part, Component::Normal(_))) && below.components().count() > 0;
    match plain {
        true => Ok(format!("{SCRIPTS_INSIDE}/{path}")),
        false => Err(format!("`{path}` is no path below the tools' directory")),
    }
}

/// The same key once more: each run opens the log for itself.
pub(crate) fn another(key: &ChainKey) -> ChainKey {
    match key {
        ChainKey::Plain => ChainKey::Plain,
        ChainKey::Keyed(secret) => ChainKey::Keyed(Secret::new(*secret.expose())),
    }
}

/// A server in the bottle.
pub(super) struct BottledServer {
    bottle: Arc<ToolBottle>,
    command: Vec<String>,
}

impl BottledServer {
    /// A program that is there inside.
    pub(super) fn command(bottle: Arc<ToolBottle>, command: Vec<String>) -> BottledServer {
        BottledServer { bottle, command }
    }

    /// A script of the agent's file, with what runs it.
    ///
    /// # Errors
    /// Its path leads out of the tools' directory.
    pub(super) fn script(bottle: Arc<ToolBottle>, interpreter: &[String], path: &str) -> Result<BottledServer, String> {
        let command = interpreter.iter().cloned().chain([script_inside(path)?]).collect();
        Ok(BottledServer { bottle, command })
    }

    async fn start(&self) -> Result<Arc<dyn Transport>, McpError> {
        if self.is_stopped() {
            return Err(McpError::Stopped);
        }
        let (bottle, command) = (self.bottle.clone(), self.command.clone());
        let started = tokio::task::spawn_blocking(move || bottle.exec(&command)).await;
        let mut exec = started.map_err(|error| McpError::Gone(error.to_string()))??;
        let stdio = exec.take_stdio();
        let exec = Arc::new(exec);
        self.bottle.keep(&exec);
        let Some(Stdio::Pipes { stdin, stdout, stderr }) = stdio else {
            kill(&exec);
            return Err(McpError::Gone("it has no pipes".into()));
        };
        let ends = exec.clone();
        let streams = (File::from(stdin), File::from(stdout), File::from(stderr));
        match StdioServer::new(streams, move || kill(&ends)) {
            Ok(server) => Ok(Arc::new(server)),
            Err(error) => {
                kill(&exec);
                Err(McpError::Gone(error.to_string()))
            }
        }
    }
}

impl Connect for BottledServer {
    fn connect(&self) -> Later<'_, Result<Arc<dyn Transport>, McpError>> {
        Box::pin(self.start())
    }

    fn is_stopped(&self) -> bool {
        self.bottle.closed.load(Ordering::Acquire)
    }

    fn let_go_on(&self) -> u32 {
        self.bottle.words.load(Ordering::Acquire)
    }
}
