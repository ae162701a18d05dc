//! `check --attack`: the worst case on somebody's own agent (G91). Its tools are the real ones, in their bottle; its model is the
//! adversary.
//!
//! ```text
//!  ChatRequest ─▶ ChatHost (gateway, bottle, tools) ─▶ tools, spec ─▶ attack::World ─▶ holes
//!                   ├─ scripts, commands: themselves, in their bottle
//!                   ├─ servers over HTTP: what stands in for each, on loopback, through the same gateway
//!                   └─ an application: itself, over records of its stage
//! ```
//!
//! What the adversary knows is read from the agent's own scripts: ids of the shape that the tools' schemas name, and e-mail
//! addresses; an application gives its own book. *Must never* ask a provider, or call a tool of a server that is not in the
//! bottle: whoever attacks those attacks somebody. All that such a server is asked for is the list of its tools.

mod answers;
mod counted;
mod stand_in;

use std::sync::Arc;
use std::time::Duration;

use carboy_agent::Tool;
use carboy_agent::attack::{Dictionary, Found, Hunt, Must, Progress, Setting, Stage, World, WorldError, holes};
use carboy_core::chat::{ChatSpec, ToolSource};
use carboy_core::ports::Clock;
use carboy_store::sessions::{MemorySessions, SessionLimits};
use serde::Serialize;

use super::bottles::ToolBottle;
use super::offline::OfflineModel;
use super::{ChatError, ChatHost, ChatRequest, Conversations, ModelMode};
use crate::clock::SystemClock;
use crate::summary::Ended;
use crate::supervisor::Keeping;
use counted::Counted;
use stand_in::{Book, StandIns, demanded};

pub use counted::Calls;

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
    /// A server over HTTP that does not say which tools it has.
    #[error(
        "its tools `{name}` are on a server over HTTP, which does not list them: {why}; start it, or name another address \
             for it under `upstreams` of the settings"
    )]
    NoList {
        /// The server.
        name: String,
        /// Why not.
        why: String,
    },
    /// No socket for what stands in for a server.
    #[error("no server can be opened on loopback: {0}")]
    Loopback(std::io::Error),
    /// An application whose records nobody made.
    #[error("its tools are an application's in Rust, and this program has no records of it to attack")]
    NoStage,
}

/// How an agent is attacked.
pub struct Plan {
    /// Scripts that are played.
    pub rounds: u64,
    /// The same seed plays the same scripts.
    pub seed: u64,
    /// For an agent with `tools: [application]`: the application, over records made for this.
    pub stage: Option<Stage>,
}

/// What an attack came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attacked {
    /// Holes, in the order in which they were found.
    pub holes: Vec<Hole>,
    /// Scripts that were played.
    pub played: u64,
    /// What became of the calls of each tool.
    pub calls: Vec<Calls>,
}

/// Attacks an agent until its scripts are played, or until `stop` is ready; `told` hears how many were played and how many holes
/// there are. Its working directory is full of an adversary's notes afterwards: an empty one is for the better.
pub async fn attack(
    mut request: ChatRequest,
    mut plan: Plan,
    told: &mut (dyn FnMut(u64, usize) + Send),
    stop: impl Future<Output = ()>,
) -> Result<Attacked, AttackError> {
    match (request.spec.tools.contains(&ToolSource::Application), &mut plan.stage) {
        (false, _) => {}
        (true, Some(stage)) => request.application = std::mem::take(&mut stage.tools),
        (true, None) => return Err(AttackError::NoStage),
    }
    let mut stop = std::pin::pin!(stop);
    request.model = ModelMode::Offline;
    request.keeping = Keeping::InProcess;
    request.conversations = Conversations::InMemory;
    let spec = request.spec.clone();
    let offline = OfflineModel::start(&mut request).await?;
    // Before this process reads a secret to keep: a bottle is made of a clone of it.
    let bottle = ToolBottle::start(&request).await?;
    let started = async {
        let stand_ins = StandIns::start(&mut request).await?;
        let host = ChatHost::with(request, bottle.clone(), Some(offline), &mut stop).await?;
        Ok::<_, AttackError>((stand_ins, host))
    };
    let (stand_ins, host) = match started.await {
        Ok(started) => started,
        Err(error) => {
            bottle.end().await;
            let interrupted = matches!(error, AttackError::Host(ChatError::Interrupted));
            return if interrupted { Ok(Attacked::default()) } else { Err(error) };
        }
    };
    let tools: Vec<Arc<Counted>> = host.tools().iter().map(Counted::of).collect();
    let mut attacked = Attacked::default();
    let mut heard = |progress: Progress<'_>| {
        match progress {
            Progress::Played(number) => attacked.played = number + 1,
            Progress::Found(found) => attacked.holes.push(hole(found)),
        }
        told(attacked.played, attacked.holes.len());
    };
    let played = {
        let playing = of_host(&tools, spec, plan, &stand_ins, &mut heard);
        tokio::select! {
            biased;
            () = &mut stop => Ok(()),
            played = playing => played,
        }
    };
    let code = u8::from(!(played.is_ok() && attacked.holes.is_empty()));
    host.end(Ended::Code(code)).await?;
    played?;
    attacked.calls = tools.iter().map(|tool| tool.calls()).collect();
    Ok(attacked)
}

async fn of_host(
    tools: &[Arc<Counted>],
    spec: ChatSpec,
    plan: Plan,
    stand_ins: &StandIns,
    heard: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<(), WorldError> {
    let specs: Vec<_> = tools.iter().map(|tool| tool.spec().clone()).collect();
    let text = |source: &ToolSource| match source {
        ToolSource::Script { text, .. } => Some(text.clone()),
        ToolSource::BuiltIn(_) | ToolSource::Command { .. } | ToolSource::Http { .. } | ToolSource::Application => None,
    };
    let texts: Vec<String> = spec.tools.iter().filter_map(text).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let read = Dictionary::read(&spec, &specs, &texts);
    let canaries = CANARIES.iter().map(|&canary| canary.to_owned());
    let (mut dictionary, records, reset, now_ms) = match plan.stage {
        // The application knows its records; its agent's file says what must hold.
        Some(stage) => {
            let must = Must::of(&spec, &specs, stage.dictionary.id_argument.as_deref());
            (Dictionary { must, ..stage.dictionary }, stage.records, stage.reset, stage.now_ms)
        }
        None => {
            let (records, reset) = stand_ins.records();
            (read, records, reset, SystemClock.now_ms())
        }
    };
    dictionary.canaries.extend(canaries);
    if !stand_ins.is_empty() {
        let invented = dictionary.invent(&spec, &specs);
        stand_ins.know(Book {
            seed: plan.seed,
            id_argument: dictionary.id_argument.clone(),
            proof_argument: dictionary.proof_argument.clone(),
            records: invented,
            demanded: demanded(&spec),
            canaries: dictionary.canaries.clone(),
            result_bytes_max: spec.limits.tool_result_bytes_max as usize,
            wait: Duration::from_millis(spec.limits.tool_wait_ms.into()),
        });
    }
    let world = World::new(Setting {
        spec,
        tools: tools.iter().map(|tool| tool.clone() as Arc<dyn Tool>).collect(),
        sessions: Arc::new(MemorySessions::new(SessionLimits::default())),
        dictionary,
        records,
        reset,
        before_model: |model| model,
        before_log: |log| log,
        now_ms,
    })?;
    holes(&world, Hunt { from: 0, rounds: plan.rounds, seed: plan.seed }, heard).await;
    Ok(())
}

fn hole(found: &Found) -> Hole {
    let Found { violation, script, .. } = found.clone();
    Hole {
        law: violation.law.code(),
        says: violation.law.says(),
        what: violation.what,
        tool: violation.tool,
        steps: script.steps(),
        rule: violation.rule,
    }
}
