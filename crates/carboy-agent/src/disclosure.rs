//! A conversation as whoever runs the agent is shown it, for a question that came from it.
//!
//! ```text
//! Origin ─▶ the session, looked at and not used ─▶ its seal ─▶ written down: who reads which ─▶ the lines of the person's own page
//! ```
//!
//! The lines are those that [`Engine::transcript`](crate::Engine::transcript) gives the person: released, with redactions. *Must
//! never* show what the model was told or what a tool gave, or one line before it is in the log who reads it; nor keep a conversation
//! for longer because somebody looked.

use carboy_core::ask::Origin;
use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::ports::{AuditError, AuditSink, SessionKey, SessionStore, SessionStoreError};
use carboy_core::secret::SecretText;

use crate::kept::State;
use crate::keys::Keys;
use crate::session::Line;

/// Characters of a reader's name.
const NAME_CHARS_MAX: usize = 128;

/// Where it is read from, and where that is written down.
pub struct Disclosing<'a> {
    /// Where conversations are.
    pub sessions: &'a dyn SessionStore,
    /// Where the reading is written down.
    pub audit: &'a dyn AuditSink,
    /// Agent, bottle and run.
    pub subject: Subject,
    /// Milliseconds since the epoch.
    pub now_ms: u64,
}

/// Why a conversation is not shown.
#[derive(Debug, thiserror::Error)]
pub enum NotShown {
    /// It is found by another secret.
    #[error("`{ask}` was asked under another session secret than this one; give the one that its agent is served with")]
    OtherSecret {
        /// The question.
        ask: String,
    },
    /// Somebody else wrote it.
    #[error("the conversation of `{ask}` is not as its agent left it, and is not shown")]
    Damaged {
        /// The question.
        ask: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] SessionStoreError),
    /// The log.
    #[error("nothing is shown, because it could not be written down who reads it: {0}")]
    NotWritten(#[from] AuditError),
}

/// The conversation as it was last kept; `None` where it is no more. For whoever has no engine: one that is at work has
/// [`Engine::disclose`](crate::Engine::disclose).
pub async fn disclose(
    from: Disclosing<'_>,
    secret: &SecretText,
    origin: &Origin,
    by: &str,
) -> Result<Option<Vec<Line>>, NotShown> {
    with_keys(from, &Keys::new(secret), origin, by).await
}

pub(crate) async fn with_keys(
    from: Disclosing<'_>,
    keys: &Keys,
    origin: &Origin,
    by: &str,
) -> Result<Option<Vec<Line>>, NotShown> {
    let ask = || origin.ask.clone();
    let key = key_of(&origin.back).ok_or_else(|| NotShown::Damaged { ask: ask() })?;
    if keys.session(key) != origin.session {
        return Err(NotShown::OtherSecret { ask: ask() });
    }
    let Some(kept) = from.sessions.look(key, from.now_ms).await? else { return Ok(None) };
    let state = State::from_bytes(keys, key, &kept.bytes).map_err(|_| NotShown::Damaged { ask: ask() })?;
    let by: String = by.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    let subject = Subject { user_id: Some(origin.user.clone()), ..from.subject };
    let event = Event::new(EventType::Operator, subject, "conversation_read", Outcome::Done)
        .with("ask", origin.ask.as_str())
        .with("kind", origin.kind.as_str())
        .with("session", origin.session.as_str())
        .with("lines", state.lines.len() as u64)
        .with("by", by);
    from.audit.append_durable(event).await?;
    Ok(Some(state.lines))
}

/// The key that a question has in writing: 64 hex digits.
pub(crate) fn key_of(back: &str) -> Option<SessionKey> {
    let octet = |at: usize| u8::from_str_radix(back.get(2 * at..2 * at + 2)?, 16).ok();
    let octets: Option<Vec<u8>> = (0..32).map(octet).collect();
    octets?.try_into().ok().map(SessionKey)
}
