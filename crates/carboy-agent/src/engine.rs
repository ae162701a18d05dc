//! One agent at work: everything that a terminal, a server or a test asks of it.
//!
//! ```text
//! Asker, words ──▶ turn ──▶ Reply            Asker, token ──▶ confirm | decline ──▶ Reply
//! ```
//!
//! *Must never* take a principal, a session or a confirmation from the words of a message.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use carboy_core::ask::{Answered, Origin, Posted, State as AskState};
use carboy_core::audit::Subject;
use carboy_core::chat::{ChatSpec, Confirm, ToolRules};
use carboy_core::ports::{AskBoard, AuditSink, Clock, Conversation, SessionKey, SessionStore, SessionStoreError};
use carboy_core::secret::SecretText;
use carboy_wire::chat::ToolSchema;
use tokio::sync::Semaphore;

use crate::answers;
use crate::audit::Record;
use crate::calls::{Ran, Tools};
use crate::disclosure::{self, Disclosing, NotShown};
use crate::kept::State;
use crate::keys::Keys;
use crate::layers::input::InvalidInput;
use crate::locks::Locks;
use crate::metrics::Metrics;
use crate::model::{Model, ModelError};
use crate::notice::{About, Notice, Notices};
use crate::outcome::{Card, Reply, TurnError, TurnEvent};
use crate::principal::Principal;
use crate::requests;
use crate::screens::{Rates, Screens};
use crate::session::{Line, NoRandomness, SessionId};
use crate::tool::Tool;
use crate::turn;

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
    /// A rule names a tool that is not there. `rule` is the key of a file that it stands under.
    #[error("`{rule}` names the tool `{tool}`, which this agent does not have")]
    NoSuchTool {
        /// Where it is named.
        rule: &'static str,
        /// The name.
        tool: String,
    },
    /// No random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
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

impl Judgement {
    /// As the log has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Judgement::Helpful => "helpful",
            Judgement::NotHelpful => "not_helpful",
        }
    }
}

/// Why a tool failed, for the operator's own log: what neither the model, nor the person, nor the audit log is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The session and turn as the audit log calls them: what brings the two logs together.
    pub conversation: Conversation,
    /// The tool.
    pub tool: String,
    /// In the tool's words.
    pub particulars: String,
}

/// Whoever keeps the operator's log.
pub type Remarks = Arc<dyn Fn(Remark) + Send + Sync>;

/// One agent at work. Shared by all who serve it.
pub struct Engine {
    pub(crate) spec: ChatSpec,
    pub(crate) tools: Tools,
    pub(crate) schemas: Vec<ToolSchema>,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) sessions: Arc<dyn SessionStore>,
    audit: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    pub(crate) keys: Keys,
    subject: Subject,
    metrics: Arc<Metrics>,
    pub(crate) locks: Arc<Locks>,
    /// Places of answers of operators that are carried out.
    pub(crate) answering: Semaphore,
    pub(crate) screens: Screens,
    remarks: Option<Remarks>,
    notices: Option<Notices>,
    /// Where operators are asked.
    pub(crate) board: Option<Arc<dyn AskBoard>>,
    /// What no other engine is called: an attempt at a write says whose it is.
    pub(crate) name: String,
}

impl Engine {
    /// Checks what the parts say of each other.
    pub fn new(parts: Parts) -> Result<Engine, EngineError> {
        let Parts { spec, tools, model, sessions, audit, clock, secret, subject, metrics } = parts;
        let chars = secret.expose().chars().count();
        if chars < SECRET_CHARS_MIN {
            return Err(EngineError::SecretTooShort { chars });
        }
        let schemas: Vec<ToolSchema> = tools.iter().map(|tool| tool.spec().schema.clone()).collect();
        check_names(&spec, &schemas)?;
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(|error| NoRandomness(error.to_string()))?;
        let name = carboy_core::audit::hex(&name);
        Ok(Engine {
            tools: Tools::new(&spec, tools),
            screens: Screens::new(&spec)?,
            keys: Keys::new(&secret),
            spec,
            schemas,
            model,
            sessions,
            audit,
            clock,
            subject,
            metrics,
            locks: Arc::default(),
            answering: Semaphore::new(requests::ANSWERS_AT_ONCE_MAX),
            remarks: None,
            notices: None,
            board: None,
            name,
        })
    }

    /// Tells why tools fail to whoever keeps the operator's log.
    pub fn telling(self, remarks: Remarks) -> Engine {
        Engine { remarks: Some(remarks), ..self }
    }

    /// Tells hand-offs and feedback, each when the log has it.
    pub fn notifying(self, notices: Notices) -> Engine {
        Engine { notices: Some(notices), ..self }
    }

    /// Asks operators by this board. Without one, what only they may approve is refused.
    pub fn asking(self, board: Arc<dyn AskBoard>) -> Engine {
        Engine { board: Some(board), ..self }
    }

    /// Does what an operator's answer says, or what is to be done when nobody answers in time (`None`): the tool runs or not,
    /// and the person reads in the conversation how it ended. What came of it, for the operator. A conversation that is at work
    /// is waited for; so many answers are carried out at once.
    pub async fn answered(&self, posted: &Posted, answer: Option<&Answered>) -> Result<String, TurnError> {
        requests::answered(self, posted, answer).await
    }

    /// The conversation that a question came from, for the operator called `by`, as the person saw it and as it was last kept;
    /// `None` where it is no more. The log has it first.
    pub async fn disclose(&self, origin: &Origin, by: &str) -> Result<Option<Vec<Line>>, NotShown> {
        let (sessions, audit) = (self.sessions.as_ref(), self.audit.as_ref());
        let from = Disclosing { sessions, audit, subject: self.subject.clone(), now_ms: self.now_ms() };
        disclosure::with_keys(from, &self.keys, origin, by).await
    }

    /// How many questions of this conversation wait for an operator.
    pub async fn waits(&self, asker: &Asker) -> Result<usize, TurnError> {
        let now = self.now_ms();
        let open = |state: State| {
            let requests = state.requests.iter().filter(|request| request.ask.state(now) == AskState::Pending).count();
            requests + usize::from(state.hand_off.is_some_and(|ask| ask.state(now) == AskState::Pending))
        };
        Ok(self.kept(asker).await?.map_or(0, open))
    }

    /// What it was made from.
    pub fn spec(&self) -> &ChatSpec {
        &self.spec
    }

    /// How the log calls a session.
    pub fn name_of(&self, session: SessionKey) -> String {
        self.keys.session(session)
    }

    /// Answers a message. `watch` hears how it comes about; dropped before it is ready, the turn was none, except for what it
    /// did to the world.
    pub async fn turn(&self, asker: &Asker, message: &str, watch: Watch<'_>) -> Result<Reply, TurnError> {
        turn::turn(self, asker, message, watch).await
    }

    /// Runs the write that a card asked for. `token` is the card's, and nothing else runs it.
    pub async fn confirm(&self, asker: &Asker, token: &str, watch: Watch<'_>) -> Result<Reply, TurnError> {
        answers::confirm(self, asker, token, watch).await
    }

    /// Drops the write that a card asked for.
    pub async fn decline(&self, asker: &Asker, token: &str) -> Result<Reply, TurnError> {
        answers::decline(self, asker, token).await
    }

    /// The conversation as the person saw it, as it was last kept.
    pub async fn transcript(&self, asker: &Asker) -> Result<Vec<Line>, TurnError> {
        let Some(mut state) = self.kept(asker).await? else { return Ok(Vec::new()) };
        if state.know_roles(&asker.principal) {
            self.know_roles(asker).await?;
        }
        Ok(state.lines)
    }

    /// The cards that can be clicked now.
    pub async fn cards(&self, asker: &Asker) -> Result<Vec<Card>, TurnError> {
        let (now, key) = (self.now_ms(), asker.session.key());
        let waiting = self.kept(asker).await?.map(|state| state.waiting).unwrap_or_default();
        let open = waiting.iter().filter(|card| card.can_be_clicked_by(&asker.principal, now));
        Ok(open.map(|card| card.card(&self.keys, key)).collect())
    }

    /// Forgets the session and all that was proven in it. The log keeps that it was there.
    pub async fn forget(&self, asker: &Asker) -> Result<(), TurnError> {
        answers::forget(self, asker).await
    }

    /// Counts somebody who reads along with a turn that was begun, at their address.
    pub async fn reads_along(&self, asker: &Asker) -> Result<(), TurnError> {
        turn::Counted::at(self, asker, Rates::OfTheAddress).await.map(drop)
    }

    /// Writes down what was counted and has no entry yet: refusals that repeat themselves. Its end does the same.
    pub fn settle(&self) {
        self.screens.settle();
    }

    /// Asks for a person.
    pub async fn hand_off(&self, asker: &Asker) -> Result<Reply, TurnError> {
        answers::hand_off(self, asker).await
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
        answers::feedback(self, asker, turn, judgement, reason).await
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// The log as this request sees it.
    pub(crate) fn record(&self, asker: &Asker) -> Record {
        let key = asker.session.key();
        self.record_of(key, self.keys.person(&asker.principal, key))
    }

    /// The same for a session that is known by its key, and a person as the log calls them.
    pub(crate) fn record_of(&self, key: SessionKey, user: String) -> Record {
        let user_id = Some(user);
        Record {
            sink: self.audit.clone(),
            metrics: self.metrics.clone(),
            subject: Subject { user_id, ..self.subject.clone() },
            session: self.keys.session(key),
            turn: 0,
        }
    }

    /// Tells the operator why a tool failed.
    pub(crate) fn remark(&self, record: &Record, tool: &str, ran: &Ran) {
        let particulars = match ran {
            Ran::Failed { particulars, .. } => particulars.clone(),
            Ran::TooLate(no) => no.message.clone(),
            Ran::Done(_) | Ran::Refused(_) => return,
        };
        if let Some(remarks) = &self.remarks {
            let conversation = Conversation { session: record.session.clone(), turn: record.turn };
            remarks(Remark { conversation, tool: tool.to_owned(), particulars });
        }
    }

    /// Tells what the log has just been told.
    pub(crate) fn notify(&self, record: &Record, id: String, about: About, at_ms: u64) {
        if let Some(notices) = &self.notices {
            let conversation = Conversation { session: record.session.clone(), turn: record.turn };
            let user_id = record.subject.user_id.clone().unwrap_or_default();
            notices(Notice { id, about, conversation, user_id, at_ms });
        }
    }

    /// Whoever looks while a question waits for an operator is here, too. Where somebody is at work, the next look does it.
    async fn know_roles(&self, asker: &Asker) -> Result<(), TurnError> {
        let (key, now) = (asker.session.key(), self.now_ms());
        let unavailable = |_| TurnError::Unavailable { what: "the session store" };
        let Some(_held) = self.locks.try_hold(key) else { return Ok(()) };
        let Some(kept) = self.sessions.look(key, now).await.map_err(unavailable)? else { return Ok(()) };
        let Ok(mut state) = State::from_bytes(&self.keys, key, &kept.bytes) else { return Ok(()) };
        if !state.know_roles(&asker.principal) {
            return Ok(());
        }
        let Ok(bytes) = state.to_bytes(&self.keys, key) else { return Ok(()) };
        match self.sessions.save(key, kept.version, bytes, now).await {
            Err(SessionStoreError::Changed) => Ok(()),
            other => other.map_err(unavailable),
        }
    }

    async fn kept(&self, asker: &Asker) -> Result<Option<State>, TurnError> {
        let key = asker.session.key();
        let loaded = self.sessions.load(key, self.now_ms()).await;
        let loaded = loaded.map_err(|_| TurnError::Unavailable { what: "the session store" })?;
        let state = loaded.map(|kept| State::from_bytes(&self.keys, key, &kept.bytes)).transpose();
        state.map_err(|_| TurnError::SessionOver { problem: OTHERS_WORDS.into() })
    }
}

/// What is said of a session that is not as this engine left it.
pub(crate) const OTHERS_WORDS: &str = "this conversation cannot be read any more: start a new one";

/// Every tool once, and no rule about a tool that is not there: a demand that nobody can meet, or that guards nothing, is a
/// mistake in a file.
fn check_names(spec: &ChatSpec, schemas: &[ToolSchema]) -> Result<(), EngineError> {
    let mut names = BTreeSet::new();
    for schema in schemas {
        if !names.insert(schema.name.as_str()) {
            return Err(EngineError::ToolTwice(schema.name.clone()));
        }
    }
    let there = |rule: &'static str, tool: &str| match names.contains(tool) {
        true => Ok(()),
        false => Err(EngineError::NoSuchTool { rule, tool: tool.to_owned() }),
    };
    for (tool, rules) in &spec.rules {
        there(key_of(rules), tool)?;
        rules.requires.iter().try_for_each(|requirement| there("requires", &requirement.tool))?;
    }
    spec.authorize.iter().flat_map(|rule| &rule.tools).try_for_each(|tool| there("authorize", tool))
}

/// The key of a file that these rules of a tool stand under.
fn key_of(rules: &ToolRules) -> &'static str {
    match (rules.requires.is_empty(), rules.confirm) {
        (false, _) => "requires",
        (true, Confirm::Always | Confirm::Never | Confirm::Operator) => "confirm",
        (true, Confirm::AsTool) => "limits.calls_per_session",
    }
}

/// How the log calls what is wrong with a message.
pub(crate) fn code_of_input(invalid: &InvalidInput) -> &'static str {
    match invalid {
        InvalidInput::Empty => "empty",
        InvalidInput::TooLong { .. } => "too_long",
    }
}

/// How the log calls what a turn failed of (G49: each is told apart).
pub(crate) fn code_of_error(error: &TurnError) -> &'static str {
    match error {
        TurnError::RateLimited { .. } => "rate_limited",
        TurnError::Invalid { .. } => "invalid",
        TurnError::Injection { .. } => "injection",
        TurnError::SessionOver { .. } => "session_over",
        TurnError::CardOver { .. } => "card_over",
        TurnError::Model(ModelError::RateLimited { .. }) => "model_rate_limited",
        TurnError::Model(ModelError::Unreachable(_)) => "model_unreachable",
        TurnError::Model(ModelError::Status { .. }) => "model_status",
        TurnError::Model(ModelError::Malformed(_)) => "model_malformed",
        TurnError::Model(ModelError::Refused(reason)) => reason.code(),
        TurnError::TooLate { .. } => "too_late",
        TurnError::Unavailable { .. } => "unavailable",
    }
}
