//! What an engine tells at once to whoever fetches people: somebody is asked for, or a reply was judged.
//!
//! ```text
//! hand-off, feedback ─▶ log (durable) ─▶ Notice ─▶ Notices: a webhook's queue
//! ```
//!
//! Typed fields and keyed hashes, as in the log. *Must never* hold a word that a person, a model or a tool wrote, or come
//! before the log knows of it.

use std::sync::Arc;

use carboy_core::chat::WebhookEvent;
use carboy_core::ports::Conversation;
use carboy_core::verdict::Reason;

use crate::engine::Judgement;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The same however often it is told, and no other one's.
    pub id: String,
    /// What happened.
    pub about: About,
    /// In which conversation, and when in it.
    pub conversation: Conversation,
    /// Whom it concerns, as the log calls them.
    pub user_id: String,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A person is wanted. The notice's id is that of the question in the log (`ask_opened`).
    HandOff {
        /// Why.
        why: Wanted,
        /// Until when somebody waits, in milliseconds since the epoch.
        expires_ms: u64,
    },
    /// A person judged a reply.
    Feedback {
        /// How.
        judgement: Judgement,
        /// Empty, or one of [`FEEDBACK_REASONS`](crate::FEEDBACK_REASONS).
        reason: &'static str,
    },
}

/// Why a person is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Somebody asked for one.
    Asked,
    /// No model may be asked any more.
    Refused(Reason),
    /// Nobody knows whether a confirmed write was done.
    UnknownOutcome,
}

impl Wanted {
    /// As messages have it.
    pub fn code(self) -> &'static str {
        match self {
            Wanted::Asked => "asked",
            Wanted::Refused(reason) => reason.code(),
            Wanted::UnknownOutcome => "unknown_outcome",
        }
    }
}

impl Notice {
    /// Who is told of it.
    pub fn event(&self) -> WebhookEvent {
        match self.about {
            About::HandOff { .. } => WebhookEvent::HandOff,
            About::Feedback { .. } => WebhookEvent::Feedback,
        }
    }
}

/// Whoever is told; it neither waits nor fails.
pub type Notices = Arc<dyn Fn(Notice) + Send + Sync>;
