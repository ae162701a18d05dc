//! One agent at work: everything that a terminal, a server or a test asks of it.
//!
//! ```text
//! Asker, words ──▶ turn ──▶ Reply            Asker, token ──▶ confirm | decline ──▶ Reply
//! ```
//!
//! *Must never* take a principal, a session or a confirmation from the words of a message.

use std::net::IpAddr;
use std::sync::Arc;

use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::chat::ChatSpec;
use carboy_core::ports::{AuditSink, Clock, SessionStore};
use carboy_core::secret::SecretText;
use carboy_wire::chat::{Block, Message, Prompt, Role};

use crate::metrics::Metrics;
use crate::model::Model;
use crate::outcome::{HandOff, Reply, TurnError, TurnEvent};
use crate::principal::Principal;
use crate::session::{Line, SessionId, Who};
use crate::tool::Tool;

/// Fewest characters of [`Parts::secret`].
pub const SECRET_CHARS_MIN: usize = 32;

/// Reasons that a judgement can be given with; an empty one is allowed too.
pub const FEEDBACK_REASONS: &[&str] = &["wrong", "incomplete", "off_topic", "unclear", "rude", "slow", "other"];

/// Whoever listens while a turn runs.
pub type Watch<'a> = &'a (dyn Fn(TurnEvent) + Send + Sync);

/// Who asks, as whoever serves found out.
#[derive(Clone)]
pub struct Asker {
    /// Their session.
    pub session: SessionId,
    /// Who they are.
    pub principal: Principal,
    /// Where they ask from, for limits by address.
    pub address: Option<IpAddr>,
}

/// What an engine is made of.
pub struct Parts {
    /// The agent.
    pub spec: ChatSpec,
    /// Its tools, in the order in which a model is told of them.
    pub tools: Vec<Arc<dyn Tool>>,
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// Where sessions live.
    pub sessions: Arc<dyn SessionStore>,
    /// Where events go.
    pub audit: Arc<dyn AuditSink>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What tokens, kept sessions and hashes are keyed with: at least [`SECRET_CHARS_MIN`] characters, the same after a
    /// restart.
    pub secret: Arc<SecretText>,
    /// Agent, bottle and run, as every event names them.
    pub subject: Subject,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Why there is no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Its key can be guessed.
    #[error(
        "the session secret has {chars} characters, at least {SECRET_CHARS_MIN} are needed; `openssl rand -hex 32` makes one"
    )]
    SecretTooShort {
        /// What it has.
        chars: usize,
    },
    /// Two tools have one name.
    #[error("two tools are named `{0}`; rename one")]
    ToolTwice(String),
    /// A rule names a tool that is not there.
    #[error("`{rule}` names the tool `{tool}`, which this agent does not have")]
    NoSuchTool {
        /// Where it is named.
        rule: &'static str,
        /// The name.
        tool: String,
    },
    /// A pattern of the file is none.
    #[error("{0}")]
    Pattern(String),
}

/// What a person thinks of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It helped.
    Helpful,
    /// It did not.
    NotHelpful,
}

/// One agent at work. Shared by all who serve it.
pub struct Engine {
    parts: Parts,
}

impl Engine {
    /// Checks what the parts say of each other.
    pub fn new(parts: Parts) -> Result<Engine, EngineError> {
        let chars = parts.secret.expose().chars().count();
        if chars < SECRET_CHARS_MIN {
            return Err(EngineError::SecretTooShort { chars });
        }
        let mut names = std::collections::BTreeSet::new();
        for tool in &parts.tools {
            if !names.insert(&tool.spec().schema.name) {
                return Err(EngineError::ToolTwice(tool.spec().schema.name.clone()));
            }
        }
        Ok(Engine { parts })
    }

    /// What it was made from.
    pub fn spec(&self) -> &ChatSpec {
        &self.parts.spec
    }

    /// Answers a message.
    pub async fn turn(&self, asker: &Asker, message: &str, watch: Watch<'_>) -> Result<Reply, TurnError> {
        let messages = [Message::user(message)];
        let prompt = Prompt {
            model: &self.parts.spec.model.model,
            system: &self.parts.spec.prompt.system,
            reminders: &[&self.parts.spec.prompt.reminder],
            tools: &[],
            messages: &messages,
            output_tokens_max: self.parts.spec.model.output_tokens_max,
        };
        let completion = self.parts.model.complete(&prompt, &mut |_| {}).await?;
        let texts = completion.blocks.iter().filter_map(|block| match block {
            Block::Text { text } => Some(text.as_str()),
            Block::ToolUse { .. } | Block::ToolResult { .. } | Block::Opaque { .. } => None,
        });
        let text: String = texts.collect();
        watch(TurnEvent::Sentence(text.clone()));
        let lines = vec![
            Line { who: Who::Person, text: message.to_owned(), at_ms: self.parts.clock.now_ms() },
            Line { who: Who::Agent, text: text.clone(), at_ms: self.parts.clock.now_ms() },
        ];
        let bytes = serde_json::to_vec(&lines).map_err(|_| TurnError::Unavailable { what: "the session store" })?;
        self.keep(asker, bytes).await?;
        let _ = Role::User;
        Ok(Reply { text, card: None, withheld: Vec::new(), handed_off: None })
    }

    /// Runs the write that a card asked for. `token` is the card's, and nothing else runs it.
    pub async fn confirm(&self, asker: &Asker, token: &str, watch: Watch<'_>) -> Result<Reply, TurnError> {
        let _ = (asker, token, watch);
        Err(TurnError::Invalid { problem: "nothing waits for this confirmation".into() })
    }

    /// Drops the write that a card asked for.
    pub async fn decline(&self, asker: &Asker, token: &str) -> Result<Reply, TurnError> {
        let _ = (asker, token);
        Err(TurnError::Invalid { problem: "nothing waits for this confirmation".into() })
    }

    /// The conversation as the person saw it.
    pub async fn transcript(&self, asker: &Asker) -> Result<Vec<Line>, TurnError> {
        let now = self.parts.clock.now_ms();
        let kept = self.parts.sessions.load(asker.session.key(), now).await;
        let kept = kept.map_err(|_| TurnError::Unavailable { what: "the session store" })?;
        let lines = kept.map(|kept| serde_json::from_slice(&kept.bytes)).transpose();
        Ok(lines.map_err(|_| TurnError::Unavailable { what: "the session" })?.unwrap_or_default())
    }

    /// Forgets the session and all that was proven in it.
    pub async fn forget(&self, asker: &Asker) -> Result<(), TurnError> {
        let removed = self.parts.sessions.remove(asker.session.key()).await;
        removed.map_err(|_| TurnError::Unavailable { what: "the session store" })
    }

    /// Asks for a person.
    pub async fn hand_off(&self, asker: &Asker) -> Result<Reply, TurnError> {
        self.record(asker, "hand_off").await?;
        let text = self.parts.spec.prompt.hand_off.clone();
        Ok(Reply { text, card: None, withheld: Vec::new(), handed_off: Some(HandOff::Asked) })
    }

    /// Takes down what a person thinks of the reply of turn `turn` (from 1). `reason` is empty or one of
    /// [`FEEDBACK_REASONS`].
    pub async fn feedback(
        &self,
        asker: &Asker,
        turn: u32,
        judgement: Judgement,
        reason: &str,
    ) -> Result<(), TurnError> {
        let _ = (turn, judgement);
        if !reason.is_empty() && !FEEDBACK_REASONS.contains(&reason) {
            return Err(TurnError::Invalid { problem: format!("a reason is one of {}", FEEDBACK_REASONS.join(", ")) });
        }
        self.record(asker, "feedback").await
    }

    async fn record(&self, asker: &Asker, action: &'static str) -> Result<(), TurnError> {
        let subject = Subject { user_id: Some(asker.principal.id.clone()), ..self.parts.subject.clone() };
        let event = Event::new(EventType::Operator, subject, action, Outcome::Done);
        let appended = self.parts.audit.append_durable(event).await;
        appended.map_err(|_| TurnError::Unavailable { what: "the audit log" })
    }

    async fn keep(&self, asker: &Asker, bytes: Vec<u8>) -> Result<(), TurnError> {
        let (key, now) = (asker.session.key(), self.parts.clock.now_ms());
        let version = self.parts.sessions.load(key, now).await.ok().flatten().map_or(0, |kept| kept.version);
        let saved = self.parts.sessions.save(key, version, bytes, now).await;
        saved.map_err(|_| TurnError::Unavailable { what: "the session store" })
    }
}
