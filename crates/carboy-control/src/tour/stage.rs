//! The tour's stage: a provider outside, a bottle, and an agent in it that does what it is told over its pipes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carboy_core::audit::ChainKey;
use carboy_core::plan::{Access, Bind, StdioMode};
use carboy_manifest::{Manifest, Places, Request};
use carboy_sim::probe::{Order, Report};
use carboy_sim::{Config, Running as Provider, Simulator};

use super::{TourError, TourRequest};
use crate::bottle::Stdio;
use crate::disk::DiskFiles;
use crate::home::{Home, private_dir, write_private};
use crate::summary::Summary;
use crate::supervisor::{self, RunError, RunRequest, Running, Workplace};

/// Where the agent's program stands inside.
const PROGRAM_INSIDE: &str = "/carboy-tour/carboy";
/// The bottle of the tour.
const BOTTLE: &str = include_str!("bottle.md");

/// Why the stage could not be set, or broke.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The simulated provider.
    #[error("the simulated provider could not be started: {0}")]
    Provider(String),
    /// The pipes to the agent.
    #[error("the agent in the bottle does not answer: {0}")]
    Agent(String),
    /// Something of the system.
    #[error("could not {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Secrets of the tour, made for it alone.
pub(super) struct TourSecrets {
    /// The real key of the simulated Anthropic.
    pub anthropic: String,
    /// The real key of the simulated OpenAI.
    pub openai: String,
    /// A secret that the program found in its workspace.
    pub planted: String,
}

/// Everything the steps act on.
pub(super) struct Stage {
    pub provider: Provider,
    pub secrets: TourSecrets,
    running: Running,
    orders: File,
    reports: BufReader<File>,
    home: Home,
}

impl Stage {
    /// Starts the provider, writes the manifest, makes the bottle, starts the agent.
    pub async fn set(request: TourRequest) -> Result<Stage, TourError> {
        let secrets = TourSecrets {
            anthropic: format!("sk-ant-api03-{}", random_text()?),
            openai: format!("sk-proj-{}", random_text()?),
            planted: format!("deploy-{}", random_text()?),
        };
        let provider = Simulator::start(Config {
            anthropic_key: secrets.anthropic.clone(),
            openai_key: secrets.openai.clone(),
            names: ["api.anthropic.com", "api.openai.com", "notes.example"].map(String::from).to_vec(),
            ..Config::default()
        })
        .await
        .map_err(|e| StageError::Provider(e.to_string()))?;
        let home = Home::open(&request.dir.join("home"), None).map_err(RunError::from)?;
        write_files(&home, &provider, &secrets)?;
        let workdir = request.dir.join("project");
        private_dir(&workdir).map_err(RunError::from)?;
        let run = run_request(&request, home.clone(), workdir)?;
        let mut running = supervisor::start(run).await?;
        let Some(Stdio::Pipes { stdin, stdout, stderr }) = running.take_stdio() else {
            return Err(StageError::Agent("it has no pipes".into()).into());
        };
        // What the agent says beside its reports would only disturb; its end is what tells.
        std::thread::spawn(move || std::io::copy(&mut File::from(stderr), &mut std::io::sink()));
        Ok(Stage {
            provider,
            secrets,
            running,
            orders: File::from(stdin),
            reports: BufReader::new(File::from(stdout)),
            home,
        })
    }

    /// Has the agent do something and hears what came of it.
    pub fn order(&mut self, order: &Order) -> Result<Report, TourError> {
        let lost = |e: &dyn std::fmt::Display| StageError::Agent(e.to_string());
        tokio::task::block_in_place(|| {
            let mut line = serde_json::to_vec(order).map_err(|e| lost(&e))?;
            line.push(b'\n');
            self.orders.write_all(&line).map_err(|e| lost(&e))?;
            let mut answer = String::new();
            // The agent limits each of its waits (`probe::WAIT_MAX`), and its end closes the pipe.
            self.reports.read_line(&mut answer).map_err(|e| lost(&e))?;
            serde_json::from_str(&answer).map_err(|e| lost(&e)).map_err(TourError::from)
        })
    }

    /// The log that is being written.
    pub fn audit_log(&self) -> PathBuf {
        self.home.audit_log()
    }

    /// Lets the agent end and the bottle go.
    pub async fn close(self) -> Result<Summary, TourError> {
        let Stage { running, orders, provider, .. } = self;
        drop(orders);
        let summary = running.wait().await?;
        provider.stop().await;
        Ok(summary)
    }
}

fn run_request(request: &TourRequest, home: Home, workdir: PathBuf) -> Result<RunRequest, TourError> {
    let places = Places { carboy_home: home.root().to_owned(), home: request.user_home.clone(), cwd: workdir.clone() };
    let wanted = Request { agent: None, bottles: vec!["tour".into()], places: places.clone() };
    let effective = Manifest::load(&DiskFiles, &wanted).map_err(RunError::Manifest)?;
    let program = Bind { source: request.program.clone(), target: PROGRAM_INSIDE.into(), access: Access::ReadOnly };
    Ok(RunRequest {
        home,
        places,
        effective,
        command: vec![PROGRAM_INSIDE.into(), "tour-agent".into()],
        task: Default::default(),
        workplace: Workplace::Directory(workdir),
        env_set: BTreeMap::new(),
        env: Vec::new(),
        binds: vec![program],
        scripts: Vec::new(),
        host_ids: None,
        stdio: StdioMode::Pipes,
        terminal: None,
        lookup: request.lookup.clone(),
        files: Arc::new(DiskFiles),
        audit_key: ChainKey::Plain,
        tell: Arc::new(|_| {}),
        progress: Arc::new(|_| {}),
        streaming: crate::session::Streaming::Direct,
        learning: Default::default(),
        flags: None,
        again: None,
        keeping: crate::supervisor::Keeping::InProcess,
    })
}

fn write_files(home: &Home, provider: &Provider, secrets: &TourSecrets) -> Result<(), TourError> {
    let write = |path: &Path, text: &str| write_private(path, text.as_bytes()).map_err(RunError::from);
    let root = home.root();
    for dir in ["bottles", "keys"] {
        private_dir(&root.join(dir)).map_err(RunError::from)?;
    }
    write(&root.join("bottles/tour.md"), BOTTLE)?;
    write(&root.join("keys/anthropic"), &secrets.anthropic)?;
    write(&root.join("keys/openai"), &secrets.openai)?;
    write(&root.join("keys/deploy"), &secrets.planted)?;
    write(&root.join("provider.pem"), provider.ca_pem())?;
    let root = root.display();
    let mut settings = format!(
        "secrets:\n  ANTHROPIC_API_KEY: {{file: \"{root}/keys/anthropic\"}}\n  OPENAI_API_KEY: {{file: \"{root}/keys/openai\"}}\n  \
         DEPLOY_TOKEN: {{file: \"{root}/keys/deploy\"}}\nupstreams:\n"
    );
    for host in ["api.anthropic.com", "api.openai.com", "notes.example"] {
        settings.push_str(&format!(
            "  {host}: {{address: \"{}\", tls: true, ca: \"{root}/provider.pem\"}}\n",
            provider.tls_addr
        ));
    }
    write(&home.root().join("settings.yml"), &settings)?;
    Ok(())
}

fn random_text() -> Result<String, StageError> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes)
        .map_err(|e| StageError::System { what: "get random bytes", source: std::io::Error::other(e.to_string()) })?;
    Ok(carboy_core::audit::hex(&bytes))
}
