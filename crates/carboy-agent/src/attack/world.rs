//! Two engines of one agent, as two processes would have it, over the composer's tools and sessions.
//!
//! *Must never* build an engine otherwise than its composer says: what is missing in it is what is looked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use carboy_core::audit::Subject;
use carboy_core::chat::ChatSpec;
use carboy_core::ports::{AuditSink, SessionStore};
use carboy_core::secret::{Secret, SecretText};

use super::adversary::Adversary;
use super::dictionary::Dictionary;
use super::laws::Prompts;
use super::watched::{Book, Hands, Log, WatchedSessions, WatchedTool};
use crate::engine::{Engine, EngineError, Parts};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::tool::{Tool, ToolSpec};

/// The key of engines that are attacked. It is of no use elsewhere, and a canary.
pub(super) const SECRET: &str = "the key of an attack, and of nothing else in the world";

/// Everything that was done to the world, each thing in a word: the same word twice is a thing done twice.
pub type Records = Box<dyn Fn() -> Vec<String> + Send + Sync>;
/// Puts the world back to its beginning.
pub type Reset = Box<dyn Fn() + Send + Sync>;

/// An application where it can be attacked: over records that were made for that, and with what is known of them.
pub struct Stage {
    /// Its tools.
    pub tools: Vec<Arc<dyn Tool>>,
    /// What an adversary knows of its records. What must hold is the agent's file's to say.
    pub dictionary: Dictionary,
    /// What was done to them.
    pub records: Records,
    /// Puts them back.
    pub reset: Reset,
    /// The time at which they were made, in milliseconds since the epoch.
    pub now_ms: u64,
}

/// What the composer gives: one agent, and where its effects can be counted.
pub struct Setting {
    /// The agent.
    pub spec: ChatSpec,
    /// Its tools.
    pub tools: Vec<Arc<dyn Tool>>,
    /// Where its sessions live.
    pub sessions: Arc<dyn SessionStore>,
    /// What the adversary knows, and what must hold.
    pub dictionary: Dictionary,
    /// Everything that was done to the world.
    pub records: Records,
    /// Puts the world back, between two scripts.
    pub reset: Reset,
    /// What stands before the model; itself, but for who tries what happens otherwise.
    pub before_model: fn(Arc<dyn Model>) -> Arc<dyn Model>,
    /// What stands before the log.
    pub before_log: fn(Arc<dyn AuditSink>) -> Arc<dyn AuditSink>,
    /// Milliseconds since the epoch at which every script begins.
    pub now_ms: u64,
}

/// No world.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The agent does not come up.
    #[error("the agent under attack does not come up: {0}")]
    Engine(#[from] EngineError),
}

/// Where scripts are played.
pub struct World {
    pub(super) engines: [Engine; 2],
    pub(super) adversary: Arc<Adversary>,
    pub(super) book: Arc<Book>,
    pub(super) log: Arc<Log>,
    pub(super) clock: Arc<Hands>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) setting: Setting,
    pub(super) prompts: Prompts,
    /// Is a turn waited for only shortly?
    pub(super) hurries: AtomicBool,
    specs: Vec<ToolSpec>,
    secret: Arc<SecretText>,
}

impl World {
    /// Builds it.
    pub fn new(setting: Setting) -> Result<World, WorldError> {
        let adversary = Arc::new(Adversary::new(&setting.dictionary, setting.spec.limits.reply_chars_max));
        let (book, log): (Arc<Book>, Arc<Log>) = Default::default();
        let clock = Arc::new(Hands(AtomicU64::new(setting.now_ms)));
        let metrics = Arc::new(Metrics::default());
        let secret = Arc::new(Secret::new(SECRET.to_owned()));
        let engine = || {
            let watched = |inner: &Arc<dyn Tool>| -> Arc<dyn Tool> {
                Arc::new(WatchedTool { inner: inner.clone(), book: book.clone() })
            };
            Engine::new(Parts {
                spec: setting.spec.clone(),
                tools: setting.tools.iter().map(watched).collect(),
                model: (setting.before_model)(adversary.clone()),
                sessions: Arc::new(WatchedSessions { inner: setting.sessions.clone(), book: book.clone() }),
                audit: (setting.before_log)(log.clone()),
                clock: clock.clone(),
                secret: secret.clone(),
                subject: Subject { agent: Some(setting.spec.name.to_string()), ..Subject::default() },
                metrics: metrics.clone(),
            })
        };
        let engines = [engine()?, engine()?];
        let specs = setting.tools.iter().map(|tool| tool.spec().clone()).collect();
        let prompts = Prompts::of(&setting.spec);
        let hurries = AtomicBool::new(false);
        Ok(World { engines, adversary, book, log, clock, metrics, setting, prompts, hurries, specs, secret })
    }

    /// Its tools, as a model is told of them.
    pub fn tools(&self) -> &[ToolSpec] {
        &self.specs
    }

    /// What the adversary knows.
    pub fn dictionary(&self) -> &Dictionary {
        &self.setting.dictionary
    }

    /// What nobody but the engine may know.
    pub(super) fn secret(&self) -> &str {
        self.secret.expose()
    }
}
