//! `check --attack`: the worst case on somebody's own agent (G91). Its tools are the real ones, in their bottle; its model is the
//! adversary.
//!
//! ```text
//!  ChatRequest ─▶ ChatHost (gateway, bottle, tools) ─▶ tools, spec ─▶ attack::World ─▶ holes
//! ```
//!
//! What the adversary knows is read from the agent's own scripts: ids of the shape that the tools' schemas name, and e-mail
//! addresses. *Must never* ask a provider, or act on a server that is not in the bottle: whoever attacks those attacks somebody.

use std::sync::Arc;

use carboy_agent::attack::{Dictionary, Found, Hunt, Setting, World, WorldError, holes};
use carboy_core::chat::{ChatSpec, ToolSource};
use carboy_core::ports::Clock;
use carboy_store::sessions::{MemorySessions, SessionLimits};
use serde::Serialize;

use super::{ChatError, ChatHost, ChatRequest, Conversations, ModelMode};
use crate::clock::SystemClock;
use crate::summary::Ended;
use crate::supervisor::Keeping;

/// What the adversary tries to let people read, besides the prompt. Keys of nobody.
const CANARIES: &[&str] = &[
    "sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEf-AAAAAA",
    "ghp_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
];

/// A hole, as people and programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hole {
    /// The law that does not hold: `I5`.
    pub law: &'static str,
    /// What it says.
    pub says: &'static str,
    /// What was seen.
    pub what: String,
    /// The tool that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The shortest way there.
    pub steps: Vec<String>,
    /// What would close it.
    pub rule: String,
}

/// No attack.
#[derive(Debug, thiserror::Error)]
pub enum AttackError {
    /// The agent does not come up.
    #[error(transparent)]
    Host(#[from] ChatError),
    /// Its engine does not.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A tool that is not in the bottle.
    #[error(
        "its tools `{0}` are on a server over HTTP, and an attack would act on it; put a test server's script in its place"
    )]
    ElsewhereTools(String),
    /// Tools in Rust.
    #[error("its tools are an application's in Rust, whose own tests attack them on records of their own")]
    ApplicationTools,
}

/// Attacks an agent with so many scripts of a seed. Its working directory is full of an adversary's notes afterwards: an empty
/// one is for the better.
pub async fn attack(mut request: ChatRequest, rounds: u64, seed: u64) -> Result<Vec<Hole>, AttackError> {
    for source in &request.spec.tools {
        match source {
            ToolSource::Http { name, .. } => return Err(AttackError::ElsewhereTools(name.clone())),
            ToolSource::Application => return Err(AttackError::ApplicationTools),
            ToolSource::BuiltIn(_) | ToolSource::Command { .. } | ToolSource::Script { .. } => {}
        }
    }
    request.model = ModelMode::Offline;
    request.keeping = Keeping::InProcess;
    request.conversations = Conversations::InMemory;
    let spec = request.spec.clone();
    let host = ChatHost::start(request).await?;
    let found = of_host(&host, spec, rounds, seed).await;
    let code = u8::from(!matches!(&found, Ok(found) if found.is_empty()));
    host.end(Ended::Code(code)).await?;
    Ok(found?.into_iter().map(hole).collect())
}

async fn of_host(host: &ChatHost, spec: ChatSpec, rounds: u64, seed: u64) -> Result<Vec<Found>, WorldError> {
    let specs: Vec<_> = host.tools().iter().map(|tool| tool.spec().clone()).collect();
    let texts: Vec<&str> = spec
        .tools
        .iter()
        .filter_map(|source| match source {
            ToolSource::Script { text, .. } => Some(text.as_str()),
            ToolSource::BuiltIn(_) | ToolSource::Command { .. } | ToolSource::Http { .. } | ToolSource::Application => {
                None
            }
        })
        .collect();
    let mut dictionary = Dictionary::read(&spec, &specs, &texts);
    dictionary.canaries = CANARIES.iter().map(|&canary| canary.to_owned()).collect();
    let world = World::new(Setting {
        spec: spec.clone(),
        tools: host.tools().to_vec(),
        sessions: Arc::new(MemorySessions::new(SessionLimits::default())),
        dictionary,
        records: Box::new(Vec::new),
        reset: Box::new(|| {}),
        before_model: |model| model,
        before_log: |log| log,
        now_ms: SystemClock.now_ms(),
    })?;
    Ok(holes(&world, Hunt { from: 0, rounds, seed }).await)
}

fn hole(found: Found) -> Hole {
    let Found { violation, script, .. } = found;
    Hole {
        law: violation.law.code(),
        says: violation.law.says(),
        what: violation.what,
        tool: violation.tool,
        steps: script.steps(),
        rule: violation.rule,
    }
}
