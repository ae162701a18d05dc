//! The conversation that a question came from, for whoever is asked.
//!
//! ```text
//!  its agent runs ─▶ asked on the run's socket ─▶ Engine::disclose ┐
//!  nobody runs it ─▶ its file of conversations ─▶ disclose         ┴─▶ written down ─▶ the lines that the person saw
//! ```
//!
//! *Must never* show a line that is not written down first, or make a secret where the agent's own is missing.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use carboy_agent::{Disclosing, Engine, Line, NotShown, disclose};
use carboy_core::ask::Origin;
use carboy_core::audit::Subject;
use carboy_core::ids::{AgentName, BottleName};
use carboy_core::ports::Clock;
use carboy_store::StoreError;
use carboy_store::audit::AuditLog;
use carboy_store::sessions::SqliteSessions;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::FileBoard;
use crate::chat::{ChatError, ChatRequest, another_key, kept_secret, session_limits, sessions_file};
use crate::clock::SystemClock;
use crate::home::{Home, HomeError};
use crate::registry::{self, AskError, Conversation, Question, RunRecord};

/// Octets of a conversation as JSON: its lines have 128 KiB, each octet of which may take six.
const TOLD_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// How long either side waits for the other with it.
const TOLD_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a run is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAsked {
    /// Which conversation.
    pub origin: Origin,
    /// Who reads it, by the name that the host gives.
    pub by: String,
}

/// Why a conversation is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Another agent of that name is meant here.
    #[error("agent {agent}, as it is found from here, is not the one that asked: that one is in another bottle")]
    AnotherAgent {
        /// The name.
        agent: String,
    },
    /// The run that has it.
    #[error(transparent)]
    Run(#[from] AskError),
    /// Secret or file of conversations.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The log.
    #[error("nothing is shown, because it cannot be written down who reads it: {0}")]
    Log(#[from] StoreError),
    /// Seal, secret or store.
    #[error(transparent)]
    NotShown(#[from] NotShown),
}

/// The run, among those that live, whose questions are on this board.
pub fn run_of(home: &Home, board: &FileBoard, agent: &str) -> Result<Option<RunRecord>, HomeError> {
    let Ok(name) = AgentName::parse(agent) else { return Ok(None) };
    let is_of = |run: &RunRecord| {
        let bottle = BottleName::parse(&run.bottle);
        run.tools_of.is_none()
            && run.agent.as_deref() == Some(agent)
            && bottle.is_ok_and(|bottle| FileBoard::of(home, &bottle, &name) == *board)
    };
    let runs = registry::live_runs(home)?;
    Ok(runs.into_iter().map(|run| run.record).find(is_of))
}

/// Reads it from the run that has it; `None` where it is no more.
pub fn read_from(run: &RunRecord, asked: ReadAsked) -> Result<Option<Vec<Line>>, ReadError> {
    let (_, stream) = registry::open(run, &Question::Conversation(Box::new(asked)))?;
    let told = || -> std::io::Result<Option<Vec<Line>>> {
        stream.set_read_timeout(Some(TOLD_WAIT_MAX))?;
        let mut text = Vec::new();
        (&stream).take(TOLD_BYTES_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    let silent = |source| AskError::Silent { run: run.run.clone(), socket: run.socket.clone(), source };
    Ok(told().map_err(silent)?)
}

/// Reads it from the agent's file while nobody runs it. `request` is what it would be run with.
pub async fn read_from_file(
    request: &ChatRequest,
    board: &FileBoard,
    asked: &ReadAsked,
) -> Result<Option<Vec<Line>>, ReadError> {
    if FileBoard::of(&request.home, &request.effective.bottle, &request.spec.name) != *board {
        return Err(ReadError::AnotherAgent { agent: request.spec.name.to_string() });
    }
    let path = sessions_file(request);
    if std::fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    let secret = kept_secret(request)?;
    let sessions = SqliteSessions::open(&path, session_limits(request)).map_err(ChatError::from)?;
    let log = request.audit_log.clone().unwrap_or_else(|| request.home.audit_log());
    let log = AuditLog::open(&log, another_key(&request.audit_key), Arc::new(SystemClock))?;
    let (agent, bottle) = (request.spec.name.to_string(), request.effective.bottle.to_string());
    let subject = Subject { user_id: None, agent: Some(agent), bottle: Some(bottle), run: None };
    let from = Disclosing { sessions: &sessions, audit: &log, subject, now_ms: SystemClock.now_ms() };
    let lines = disclose(from, &secret, &asked.origin, &asked.by).await?;
    log.close()?;
    Ok(lines)
}

/// Answers an operator who asks the run of this engine. Blocks for as long as store and log take.
pub(crate) fn tell(engine: &Engine, asked: &ReadAsked) -> Result<Option<Conversation>, String> {
    let lines = tokio::task::block_in_place(|| Handle::current().block_on(engine.disclose(&asked.origin, &asked.by)));
    let text = serde_json::to_vec(&lines.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    Ok(Some(Box::new(move |mut stream| {
        // Whoever does not read it any more has gone.
        let _ = stream.set_write_timeout(Some(TOLD_WAIT_MAX)).and_then(|()| stream.write_all(&text));
    })))
}
