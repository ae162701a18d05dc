//! A chat agent as its file describes it, checked: who it is, which model answers, which tools it has, who must be asked,
//! what is bounded and what is looked for.
//!
//! One home for every threshold: settings, manifests, `.env`, flags and presets write into [`ChatLimits`] and
//! [`Screening`], and everybody else reads them here. *Must never* carry a secret: secrets are named.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::ids::{AgentName, MeterName, SecretName};

/// A chat agent, everything in its file expanded and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatSpec {
    /// The stem of its file, or the name of a built-in agent.
    pub name: AgentName,
    /// What people read as its name.
    pub title: String,
    /// What it says first, before anybody asked anything.
    pub greeting: String,
    /// Who answers.
    pub model: ModelChoice,
    /// What the model is told.
    pub prompt: ChatPrompt,
    /// Where its tools come from, in the file's order.
    pub tools: Vec<ToolSource>,
    /// What the runtime demands of calls, tool by tool, whatever the tool itself checks.
    pub rules: BTreeMap<String, ToolRules>,
    /// Who may call what; the first rule that fits decides, none means the tool's own default.
    pub authorize: Vec<AuthorizationRule>,
    /// How a person is told from another.
    pub identity: Identity,
    /// Every maximum.
    pub limits: ChatLimits,
    /// What is looked for on the way in and out.
    pub screening: Screening,
    /// What a reply must keep to.
    pub reply: ReplySpec,
    /// Where feedback and hand-offs are told, besides the log.
    pub webhooks: Option<Webhooks>,
    /// Sites that may show the chat in a frame (origins), none by default.
    pub frame_ancestors: Vec<String>,
    /// Whether whoever is served may read its file.
    pub architecture: SourcePage,
}

/// Whether the service shows the page of an agent's file (`/architecture`): its prompt and the code of its tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourcePage {
    /// It does not.
    #[default]
    Hidden,
    /// It does, to everybody who reaches it.
    Shown,
}

/// The model that answers, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelChoice {
    /// The shape of requests and answers.
    pub format: ChatFormat,
    /// Where it is reached; a route of the agent's bottle has to allow it.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Path of the endpoint: `/v1/messages`, `/v1/chat/completions`.
    pub path: String,
    /// Its name, as the provider spells it.
    pub model: String,
    /// Whose tokens are counted.
    pub meter: MeterName,
    /// The key that the gateway sets; `None` where the endpoint takes none (a model of one's own machine).
    pub token_env: Option<SecretName>,
    /// Most tokens of one answer.
    pub output_tokens_max: u32,
}

/// Wire formats that a chat agent speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChatFormat {
    /// Anthropic Messages.
    Anthropic,
    /// Chat Completions, as OpenAI, Ollama, vLLM and llama.cpp speak it.
    OpenAi,
}

/// What the model is told, in the order in which it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The system prompt: the file's prose. The same on every turn, so that a provider's cache holds it.
    pub system: String,
    /// Said after the cached part on every turn.
    pub reminder: String,
    /// Said too once a conversation is long.
    pub long_reminder: String,
    /// What it says to everything that is not its business, word for word.
    pub refusal: String,
    /// What a person reads where a reply was withheld.
    pub fallback: String,
    /// What a person reads when no model may be asked any more.
    pub hand_off: String,
}

/// Where a tool comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolSource {
    /// One that carboy has: `calculator`, `save_note`.
    BuiltIn(BuiltInTool),
    /// Tools of an MCP server that is started inside the agent's bottle and spoken to over its standard streams.
    Command {
        /// What people call the server.
        name: String,
        /// Program and arguments, inside.
        command: Vec<String>,
    },
    /// A script chunk of the agent's file: an MCP server over standard streams, written into the bottle at launch.
    Script {
        /// What people call the server.
        name: String,
        /// Its path below the bottle's tool directory.
        path: String,
        /// The program that runs it, with arguments before the path.
        interpreter: Vec<String>,
        /// Its text; its SHA-256 goes into the log.
        text: String,
    },
    /// Tools of an MCP server over HTTP, through the gateway.
    Http {
        /// What people call the server.
        name: String,
        /// Its host.
        host: Host,
        /// Its port.
        port: u16,
        /// Path of its endpoint.
        path: String,
    },
    /// Tools that an application brings in Rust.
    Application,
}

/// The tools that every agent can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BuiltInTool {
    /// Arithmetic.
    Calculator,
    /// Notes in a directory of their own.
    SaveNote,
}

/// What the runtime demands of the calls of one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolRules {
    /// Tools that must have succeeded before, for the same key, in the same session.
    pub requires: Vec<Requirement>,
    /// A person clicks before it runs.
    pub confirm: Confirm,
    /// Calls in one session; `None` is bounded by the turns alone.
    pub calls_per_session_max: Option<u32>,
}

/// Whether a person is asked before a tool runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// As the tool itself says: writes are confirmed.
    #[default]
    AsTool,
    /// Always.
    Always,
    /// Never, though it writes; the file says so.
    Never,
    /// Whoever runs the agent approves it (`carboy approve`), and not the person in the conversation.
    Operator,
}

/// "Only after that one succeeded for the same key" (G88).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The tool that must have succeeded.
    pub tool: String,
    /// The arguments that must be the same in both calls.
    pub same: Vec<String>,
    /// How long a success counts, in seconds.
    pub within_s: u32,
    /// A field of its result and the value that it must have: success may be more than "no error".
    pub result: Option<(String, serde_json::Value)>,
}

/// One line of `authorize`: whom and what it fits, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationRule {
    /// Tools by name; empty fits every tool.
    pub tools: BTreeSet<String>,
    /// Principals by id; empty fits every one.
    pub users: BTreeSet<String>,
    /// Roles of which the principal has one; empty fits every principal.
    pub roles: BTreeSet<String>,
    /// Arguments that are given, and not `false` or null; empty fits every call.
    pub arguments: BTreeSet<String>,
    /// What it says.
    pub effect: AuthorizationEffect,
}

/// What an authorization rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationEffect {
    /// The call may go on to the tool's own checks.
    Allow,
    /// It may not.
    Deny,
}

/// How a person is told from another. The principal comes from here and never from an argument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// By the session alone.
    #[default]
    Anonymous,
    /// A JSON Web Token (RFC 7519) in `Authorization: Bearer` or a cookie.
    Jwt {
        /// The keys (RFC 7517) as JSON, from the file named in the manifest.
        jwks: String,
        /// `iss` that it must have.
        issuer: String,
        /// `aud` that it must have.
        audience: String,
        /// The claim that names the person, `sub` by default.
        user_claim: String,
        /// The claim that lists roles.
        roles_claim: Option<String>,
        /// A cookie that may carry it too.
        cookie: Option<String>,
    },
    /// A header signed by the shop's front: `USER;ROLES;UNIX_SECONDS;HEX(HMAC-SHA256)`.
    SignedHeader {
        /// Its name.
        header: String,
        /// The key it is signed with.
        secret: SecretName,
        /// How old the time may be, in seconds.
        max_age_s: u32,
    },
}

/// Every maximum of a chat agent. The defaults are the table of `docs/defaults.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatLimits {
    /// Requests of one person in any hour (`MAX_REQUESTS_PER_HOUR`).
    pub requests_per_hour: u32,
    /// Requests of one address in any minute (`rate_limit_per_ip_per_minute`).
    pub requests_per_ip_per_minute: u32,
    /// Requests of one address in any hour, of people whom nobody knows: without a cookie each would be somebody new.
    pub requests_per_ip_per_hour: u32,
    /// Requests of one session in any minute (`rate_limit_per_session_per_minute`).
    pub requests_per_session_per_minute: u32,
    /// Keys that limiters remember at once; a key beyond that is refused, never let in on a fresh quota.
    pub limiter_keys_max: u32,
    /// Characters of one message.
    pub message_chars_max: u32,
    /// Turns of one session, after which a new one is needed.
    pub turns_max: u32,
    /// Turns after which the long reminder is said too (`LONG_CONVERSATION_TURN_THRESHOLD`).
    pub long_conversation_turns: u32,
    /// Questions to the model in one turn (`max_tool_use_iterations`).
    pub tool_iterations_max: u32,
    /// Tool calls in one answer of the model; those beyond are answered with an error and not run.
    pub tool_calls_max: u32,
    /// Octets of one call's arguments.
    pub tool_arguments_bytes_max: u32,
    /// Octets of one tool's result.
    pub tool_result_bytes_max: u32,
    /// How long one tool may take, in milliseconds.
    pub tool_wait_ms: u32,
    /// How long the model may be silent, in milliseconds.
    pub model_wait_ms: u32,
    /// How long one turn may take, in milliseconds.
    pub turn_wait_ms: u32,
    /// Characters of one reply.
    pub reply_chars_max: u32,
    /// Sessions kept at once, the least lately used goes first (`session_store_max_entries`).
    pub sessions_max: u32,
    /// How long an idle session is kept, in seconds (`session_idle_ttl_seconds`).
    pub session_idle_s: u32,
    /// How long a confirmation card can be clicked, in seconds.
    pub confirmation_s: u32,
}

impl Default for ChatLimits {
    fn default() -> Self {
        ChatLimits {
            requests_per_hour: 100,
            requests_per_ip_per_minute: 30,
            requests_per_ip_per_hour: 300,
            requests_per_session_per_minute: 20,
            limiter_keys_max: 1_000_000,
            message_chars_max: 4_000,
            turns_max: 50,
            long_conversation_turns: 8,
            tool_iterations_max: 6,
            tool_calls_max: 16,
            tool_arguments_bytes_max: 16 * 1024,
            tool_result_bytes_max: 64 * 1024,
            tool_wait_ms: 10_000,
            model_wait_ms: 30_000,
            turn_wait_ms: 90_000,
            reply_chars_max: 8_000,
            sessions_max: 10_000,
            session_idle_s: 1_800,
            confirmation_s: 300,
        }
    }
}

/// What is looked for in what people write and in what they read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screening {
    /// Confidence, in hundredths, from which an input counts as an attack (`INJECTION_THRESHOLD` 0.5 is 50).
    pub injection_percent: u8,
    /// Such an input is refused (`BLOCK_SUSPICIOUS_INPUTS`), else only written down.
    pub block_suspicious_inputs: bool,
    /// Credentials are overwritten in replies (`FILTER_SECRETS`).
    pub filter_secrets: bool,
    /// Personal data is overwritten in replies (`FILTER_PII`).
    pub filter_pii: bool,
    /// Patterns besides the built-in ones (G63, G85b).
    pub injection_patterns: Vec<InjectionPattern>,
    /// Filters besides the built-in ones (G68, G85b).
    pub output_filters: Vec<OutputFilter>,
}

impl Default for Screening {
    fn default() -> Self {
        Screening {
            injection_percent: 50,
            block_suspicious_inputs: true,
            filter_secrets: true,
            filter_pii: true,
            injection_patterns: Vec::new(),
            output_filters: Vec::new(),
        }
    }
}

/// `(regex, category, confidence)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectionPattern {
    /// In the syntax of the `regex` crate; not case-sensitive.
    pub regex: String,
    /// What the refusal calls it: `instruction_override`.
    pub category: String,
    /// In hundredths.
    pub confidence_percent: u8,
}

/// `(regex, replacement, type)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFilter {
    /// In the syntax of the `regex` crate.
    pub regex: String,
    /// What stands there afterwards: `[REDACTED_ORDER]`.
    pub replacement: String,
    /// What the log calls it.
    pub kind: String,
    /// Longest text that it can match, in octets: what may still match is held back while a reply streams.
    pub bytes_max: u32,
}

/// What a reply must keep to (G21–G25).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplySpec {
    /// Shapes of ids: every one in a reply must stand in a tool's result.
    pub id_patterns: Vec<String>,
    /// ISO dates must stand in a tool's result too.
    pub dates: Grounded,
    /// Which results count.
    pub scope: GroundingScope,
    /// Markdown is refused.
    pub plain_text: bool,
    /// Phrases that only an off-topic answer has: with one, the refusal must stand in the reply.
    pub off_topic: Vec<String>,
}

/// Whether something in a reply must come from a tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grounded {
    /// It need not.
    #[default]
    No,
    /// It must.
    Yes,
}

/// Which tool results ground a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroundingScope {
    /// Those of this turn.
    #[default]
    Turn,
    /// Those of this session.
    Session,
}

/// What servers of the operator's are told, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhooks {
    /// Each at most once for each event.
    pub hooks: Vec<Webhook>,
    /// The key that messages are signed with.
    pub secret: SecretName,
    /// How often one message is sent, the first time included, before it is given up.
    pub attempts_max: u32,
}

/// Something told to a server of the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// What is told.
    pub on: WebhookEvent,
    /// Its host; a route has to allow it.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Its path.
    pub path: String,
}

/// What webhooks are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WebhookEvent {
    /// A person asked for a person.
    HandOff,
    /// A person judged a reply.
    Feedback,
}

impl WebhookEvent {
    /// As files, messages and the log have it.
    pub fn as_str(self) -> &'static str {
        match self {
            WebhookEvent::HandOff => "hand_off",
            WebhookEvent::Feedback => "feedback",
        }
    }
}
