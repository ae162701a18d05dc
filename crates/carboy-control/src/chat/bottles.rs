//! The bottles that a chat agent's tools are in: each is a run of its own, with a gateway, a record and a share of the
//! budget; its program is an MCP server whose streams this process holds.
//!
//! ```text
//!  Server ─▶ connect ─▶ supervisor::start (the agent's bottle, the server as its program) ─▶ stdin, stdout, stderr
//!  stop ─▶ cutoff, pause: as any run │ freeze, kill: its processes end, and are started again after `resume` alone
//! ```
//!
//! *Must never* start one while its agent is frozen or ends, or give its program more than the agent's bottle has.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carboy_bottle::Stdio;
use carboy_core::audit::ChainKey;
use carboy_core::budget::Shutdown;
use carboy_core::plan::{GeneratedFile, StdioMode};
use carboy_core::ports::Later;
use carboy_core::secret::Secret;
use carboy_manifest::{Effective, EnvValue, ManifestFiles, Places};
use tokio::task::JoinHandle;

use super::ChatRequest;
use crate::home::Home;
use crate::mcp::{Connect, McpError, StdioServer, Transport};
use crate::registry::{self, Question, RunRecord};
use crate::session::Streaming;
use crate::supervisor::{self, Control, Keeping, Learning, RunRequest, Running};
use crate::vault::Lookup;

/// Where scripts of an agent's file lie inside.
const SCRIPTS_INSIDE: &str = "/etc/carboy/tools";
/// How long tools' bottles may take to be gone when their agent ends.
const END_WAIT_MAX: Duration = Duration::from_secs(10);

/// Those that live.
#[derive(Default)]
pub(super) struct ToolBottles {
    living: Mutex<Vec<Living>>,
    /// None is started.
    closed: AtomicBool,
    /// How often somebody let the agent go on.
    words: AtomicU32,
}

struct Living {
    record: RunRecord,
    control: Control,
    ended: JoinHandle<()>,
}

impl ToolBottles {
    /// Stops them as their agent is stopped. One that does not answer is on its way out already. Blocks.
    pub(super) fn stop(&self, how: Shutdown) {
        match how {
            Shutdown::Cutoff | Shutdown::Pause => self.ask(&Question::Enforce { how }),
            Shutdown::Freeze | Shutdown::Kill => {
                self.closed.store(true, Ordering::Release);
                self.living().iter().for_each(|one| one.control.kill());
            }
        }
    }

    /// Lets those go on that stand still, and others be started again. Blocks.
    pub(super) fn let_go(&self) {
        self.words.fetch_add(1, Ordering::AcqRel);
        self.closed.store(false, Ordering::Release);
        self.ask(&Question::Resume);
    }

    /// Ends all of them, and waits until they are gone and written down.
    pub(super) async fn end(&self) {
        self.closed.store(true, Ordering::Release);
        let living = std::mem::take(&mut *self.living());
        living.iter().for_each(|one| one.control.kill());
        let gone = async {
            for one in living {
                // A panic in there has been reported.
                let _ = one.ended.await;
            }
        };
        let _ = tokio::time::timeout(END_WAIT_MAX, gone).await;
    }

    fn ask(&self, question: &Question) {
        let records: Vec<RunRecord> = self.living().iter().map(|one| one.record.clone()).collect();
        for record in records {
            let _ = registry::ask(&record, question);
        }
    }

    /// Keeps it until its end. One that came while its agent was frozen ends at once.
    fn keep(self: &Arc<Self>, running: Running) -> Control {
        let (record, control) = (running.record().clone(), running.control());
        let (all, run) = (self.clone(), record.run.clone());
        let ended = tokio::spawn(async move {
            // Its end is in the log and among the runs; whoever asks its tools is told that it is gone.
            let _ = running.wait().await;
            all.living().retain(|one| one.record.run != run);
        });
        self.living().push(Living { record, control: control.clone(), ended });
        if self.closed.load(Ordering::Acquire) {
            control.kill();
        }
        control
    }

    fn living(&self) -> MutexGuard<'_, Vec<Living>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every bottle of an agent's tools is started with.
pub(super) struct Template {
    home: Home,
    places: Places,
    effective: Effective,
    workdir: PathBuf,
    variables: BTreeMap<String, String>,
    lookup: Arc<dyn Lookup>,
    files: Arc<dyn ManifestFiles + Send + Sync>,
    audit_key: ChainKey,
    keeping: Keeping,
}

impl Template {
    /// Of this agent.
    ///
    /// # Errors
    /// A variable of its bottle asks a person at launch, and nobody is there.
    pub(super) fn of(request: &ChatRequest) -> Result<Template, String> {
        let set = |(name, value): (&String, &EnvValue)| match value {
            EnvValue::Set(text) => Ok((name.clone(), text.clone())),
            EnvValue::Prompt(_) => {
                Err(format!("variable {name} of the bottle is asked for at launch; set it in its file"))
            }
        };
        let effective = &request.effective;
        let variables = effective.provider.env.iter().chain(&effective.env).map(set).collect::<Result<_, _>>()?;
        Ok(Template {
            home: request.home.clone(),
            places: request.places.clone(),
            effective: effective.clone(),
            workdir: request.workdir.clone(),
            variables,
            lookup: request.lookup.clone(),
            files: request.files.clone(),
            audit_key: another(&request.audit_key),
            keeping: request.keeping,
        })
    }

    fn request(&self, command: Vec<String>, scripts: Vec<GeneratedFile>) -> RunRequest {
        RunRequest {
            home: self.home.clone(),
            places: self.places.clone(),
            effective: self.effective.clone(),
            command,
            task: Default::default(),
            workdir: self.workdir.clone(),
            env_set: self.variables.clone(),
            env: Vec::new(),
            binds: Vec::new(),
            scripts,
            host_ids: None,
            stdio: StdioMode::Pipes,
            terminal: None,
            lookup: self.lookup.clone(),
            files: self.files.clone(),
            audit_key: another(&self.audit_key),
            tell: Arc::new(|_| {}),
            progress: Arc::new(|_| {}),
            streaming: Streaming::Direct,
            learning: Learning::Off,
            flags: None,
            again: None,
            keeping: self.keeping,
        }
    }
}

/// The same key once more: each run opens the log for itself.
pub(super) fn another(key: &ChainKey) -> ChainKey {
    match key {
        ChainKey::Plain => ChainKey::Plain,
        ChainKey::Keyed(secret) => ChainKey::Keyed(Secret::new(*secret.expose())),
    }
}

/// A server in a bottle.
pub(super) struct BottledServer {
    template: Arc<Template>,
    bottles: Arc<ToolBottles>,
    command: Vec<String>,
    scripts: Vec<GeneratedFile>,
}

impl BottledServer {
    /// A program that is there inside.
    pub(super) fn command(template: Arc<Template>, bottles: Arc<ToolBottles>, command: Vec<String>) -> BottledServer {
        BottledServer { template, bottles, command, scripts: Vec::new() }
    }

    /// A script of the agent's file, with what runs it.
    ///
    /// # Errors
    /// Its path leads out of the tools' directory.
    pub(super) fn script(
        template: Arc<Template>,
        bottles: Arc<ToolBottles>,
        (interpreter, path, text): (&[String], &str, &str),
    ) -> Result<BottledServer, String> {
        let below = Path::new(path);
        let plain =
            below.components().all(|part| matches!(part, Component::Normal(_))) && below.components().count() > 0;
        if !plain {
            return Err(format!("`{path}` is no path below the tools' directory"));
        }
        let inside = Path::new(SCRIPTS_INSIDE).join(below);
        let command = interpreter.iter().cloned().chain([inside.display().to_string()]).collect();
        let scripts = vec![GeneratedFile { path: inside, content: text.as_bytes().to_vec() }];
        Ok(BottledServer { template, bottles, command, scripts })
    }

    async fn start(&self) -> Result<Arc<dyn Transport>, McpError> {
        if self.bottles.closed.load(Ordering::Acquire) {
            return Err(McpError::Stopped);
        }
        let request = self.template.request(self.command.clone(), self.scripts.clone());
        let mut running = supervisor::start(request).await.map_err(|error| McpError::Gone(error.to_string()))?;
        let stdio = running.take_stdio();
        let control = self.bottles.keep(running);
        let Some(Stdio::Pipes { stdin, stdout, stderr }) = stdio else {
            control.kill();
            return Err(McpError::Gone("its bottle has no pipes".into()));
        };
        let ends = control.clone();
        let server = StdioServer::new((File::from(stdin), File::from(stdout), File::from(stderr)), move || ends.kill());
        match server {
            Ok(server) => Ok(Arc::new(server)),
            Err(error) => {
                control.kill();
                Err(McpError::Gone(error.to_string()))
            }
        }
    }
}

impl Connect for BottledServer {
    fn connect(&self) -> Later<'_, Result<Arc<dyn Transport>, McpError>> {
        Box::pin(self.start())
    }

    fn let_go_on(&self) -> u32 {
        self.bottles.words.load(Ordering::Acquire)
    }
}
