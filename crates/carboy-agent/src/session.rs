//! One conversation: who may go on with it, what was said, and what was proven in it.
//!
//! ```text
//! SessionId (32 random octets, in the person's cookie) ── SHA-256 ──▶ SessionKey ──▶ SessionStore
//!                                                                        └─ keyed hash ──▶ log
//! ```
//!
//! *Must never* print an id: whoever knows it has the session. A store is given its hash and the log a keyed one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carboy_core::audit::sha256;
use carboy_core::ports::SessionKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Octets of an id.
const ID_BYTES: usize = 32;

/// What opens a session: 32 octets from the system's generator, made here and never taken from a body (G31, G44).
///
/// ```compile_fail
/// let id = carboy_agent::SessionId::fresh().unwrap();
/// println!("{id:?}");
/// ```
/// ```compile_fail
/// let id = carboy_agent::SessionId::fresh().unwrap();
/// println!("{id}");
/// ```
/// ```compile_fail
/// let id = carboy_agent::SessionId::fresh().unwrap();
/// serde_json::to_string(&id);
/// ```
#[derive(Clone)]
pub struct SessionId([u8; ID_BYTES]);

impl SessionId {
    /// A new one.
    pub fn fresh() -> Result<SessionId, NoRandomness> {
        let mut bytes = [0; ID_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| NoRandomness(error.to_string()))?;
        Ok(SessionId(bytes))
    }

    /// Of an attack's person: the same in each run of its script.
    pub(crate) fn of_attack(bytes: [u8; ID_BYTES]) -> SessionId {
        SessionId(bytes)
    }

    /// What a store knows it by.
    pub fn key(&self) -> SessionKey {
        SessionKey(sha256(&self.0))
    }

    /// As text for a cookie: base64url, 43 characters (RFC 4648 § 5). Whoever serves signs it.
    pub fn to_cookie(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// From a cookie's text.
    pub fn from_cookie(text: &str) -> Option<SessionId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(SessionId(bytes.try_into().ok()?))
    }
}

impl Drop for SessionId {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The system gave no random octets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random octets: {0}")]
pub struct NoRandomness(pub(crate) String);

/// A line of a conversation as a person sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Whose it is.
    pub who: Who,
    /// What it says.
    pub text: String,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// In which turn, from 1; 0 where it belongs to none.
    #[serde(default)]
    pub turn: u32,
    /// Somebody said what they think of it.
    #[serde(default)]
    pub judged: bool,
}

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The person's.
    Person,
    /// The agent's.
    Agent,
    /// A tool that was at work.
    Step,
    /// What the runtime says: a card that was clicked, a write that was done.
    Note,
}
