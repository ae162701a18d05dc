//! The ports through which layers meet the world and each other; who implements them is the composer's choice.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use crate::ask::Posted;
use crate::audit::Event;
use crate::budget::{Admitted, Ask, Ending, NotHeld, ReservationId};
use crate::host::Host;
use crate::ids::SecretName;
use crate::secret::SecretText;
use crate::verdict::Reason;

/// A future of the standard library alone, so that layer 0 knows no runtime.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Wall-clock time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    fn now_ms(&self) -> u64;
}

/// Where events go.
pub trait AuditSink: Send + Sync {
    /// Puts the event into the chain at once; it is durable within 100 ms.
    fn append(&self, event: Event) -> Result<(), AuditError>;

    /// Puts the event into the chain; ready when it is durable. For refusals, reservations and approvals.
    fn append_durable(&self, event: Event) -> Later<'_, Result<(), AuditError>>;
}

/// The log cannot be written. Whoever gets this stops what it was going to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written: {0}")]
pub struct AuditError(pub String);

/// Where questions are put up that operators answer.
pub trait AskBoard: Send + Sync {
    /// Puts it up, durably. The same id again replaces it.
    fn post(&self, posted: &Posted) -> Result<(), AskBoardError>;

    /// Takes it down; whoever answered it may read what came of it. One that is not there is no error.
    fn take_down(&self, id: &str, came_of_it: &str) -> Result<(), AskBoardError>;
}

/// No question can be put up, or taken down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the questions that wait for the operator cannot be kept: {0}")]
pub struct AskBoardError(pub String);

/// The secrets of one run.
pub trait SecretSource: Send + Sync {
    /// The value as it is known now.
    fn current(&self, name: &SecretName) -> Option<Arc<SecretText>>;

    /// Reads the value anew after an upstream said 401; the source limits how often that is done.
    fn refresh(&self, name: &SecretName) -> Later<'_, Option<Arc<SecretText>>>;
}

/// Where tokens are held and charged: whose they are was settled when this was made, by whoever runs the bottle.
///
/// ```text
///   admit ─▶ dispatch (durable) ─▶ bytes leave ─▶ settle (durable)
///     └────▶ release             nothing had left
/// ```
pub trait Ledger: Send + Sync {
    /// Holds the request's worst case at every scope that binds. While only holds of others are in the way it waits, first
    /// in, first out, as long as the budget's terms say. Dropped before it is ready, it holds nothing for longer than it takes
    /// to notice.
    fn admit(&self, ask: Ask) -> Later<'_, Result<Admitted, NotHeld>>;

    /// Ready when the hold is durable: from then on bytes may leave, and a crash charges it in full.
    /// [`NotHeld::Unknown`] asks for a new admission.
    fn dispatch(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>>;

    /// Holds the output up to so many tokens of each answer; gives what is held now.
    fn extend(&self, id: ReservationId, output: u64) -> Later<'_, Result<u64, NotHeld>>;

    /// Charges what it cost and gives the rest back. Ready when durable; the same ending twice is charged once. An
    /// implementation that cannot reach its store keeps the ending and tries again for as long as it lives.
    fn settle(&self, id: ReservationId, ending: Ending) -> Later<'_, Result<(), NotHeld>>;

    /// Gives everything back: not one byte left. After a [`dispatch`](Self::dispatch) that is refused, and charged in full
    /// when its owner is gone.
    fn release(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>>;
}

/// A datagram socket that knows the address it was spoken to, which replies have to come from.
pub trait DatagramPort: Send + Sync {
    /// Waits for one datagram: its length, its sender and the local address it was sent to.
    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> Later<'a, std::io::Result<(usize, SocketAddr, IpAddr)>>;

    /// Answers `peer` from `local`.
    fn send<'a>(&'a self, bytes: &'a [u8], peer: SocketAddr, local: IpAddr) -> Later<'a, std::io::Result<()>>;
}

/// One HTTP request of a program of ours, on its way to the gateway: what is allowed, held, scanned, credentialed and
/// written down is decided there, as for a request out of a bottle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundRequest {
    /// `GET`, `POST`.
    pub method: &'static str,
    /// Whom it is for. It goes over TLS unless the operator's `upstreams` say plain.
    pub host: Host,
    /// The port, 443 as a rule.
    pub port: u16,
    /// Path, and query where there is one.
    pub path: String,
    /// Fields besides `host` and `content-length`. Never a credential: the gateway sets that.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// For whom it is made, where it is for somebody: the log names it.
    pub conversation: Option<Conversation>,
    /// What it is for.
    pub errand: Errand,
}

/// What a request of ours is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Errand {
    /// A model or a tool: closed in by whatever closes the routes.
    #[default]
    Work,
    /// To tell somebody of the operator's. A spent budget closes the routes to work and not to this: it is when somebody has
    /// to be told. What an operator closes is closed to it as well.
    Notice,
}

/// A turn of a conversation, as the log calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The session, as a short keyed hash.
    pub session: String,
    /// The turn, from 1; 0 before there is one.
    pub turn: u32,
}

/// The head of what came back, and its body as it arrives.
pub struct OutboundAnswer {
    /// HTTP status.
    pub status: u16,
    /// Fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The gateway refused it for this; status and body then say so in the format that was asked in.
    pub refused: Option<Reason>,
    /// The body.
    pub body: Box<dyn OutboundBody>,
}

/// A body as it arrives. Dropping it ends the exchange; what had been read is charged.
pub trait OutboundBody: Send {
    /// The next piece; `None` at its end.
    fn next(&mut self) -> Later<'_, Option<Result<Vec<u8>, OutboundError>>>;
}

/// No answer, or one that broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// The gateway gave no answer: it is ending.
    #[error("the gateway gave no answer: {0}")]
    NoAnswer(String),
    /// The answer ended before its end.
    #[error("the answer broke off: {0}")]
    BrokeOff(String),
    /// The gateway ended it on its way, for this: a cut, a spent budget, a finding.
    #[error("the gateway ended the answer: {0}")]
    Refused(Reason),
}

/// The one way out for programs of ours that are in no bottle: chat agents reach models and tools through it.
pub trait Outbound: Send + Sync {
    /// Sends it through every step of the gateway.
    fn send(&self, request: OutboundRequest) -> Later<'_, Result<OutboundAnswer, OutboundError>>;
}

/// The SHA-256 of a session's id: what a store is given, so that what it holds opens no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub [u8; 32]);

/// A session as it is kept: opaque to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSession {
    /// What its agent wrote.
    pub bytes: Vec<u8>,
    /// Raised by one with every write.
    pub version: u64,
}

/// Where sessions of chat agents live: in memory, in SQLite, later in Redis. Bounded by number (the least lately used goes
/// first) and by idle time; how many and how long is the store's own setting.
pub trait SessionStore: Send + Sync {
    /// The session, unless it was idle too long; reading it is a use.
    fn load(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>>;

    /// The same for whoever looks and does not take part: no use of it, and nothing is kept longer for it.
    fn look(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>>;

    /// Writes it if it is still at `version` (0: it is new). Durable when ready.
    fn save(
        &self,
        key: SessionKey,
        version: u64,
        bytes: Vec<u8>,
        now_ms: u64,
    ) -> Later<'_, Result<(), SessionStoreError>>;

    /// Forgets it.
    fn remove(&self, key: SessionKey) -> Later<'_, Result<(), SessionStoreError>>;

    /// Forgets what was idle too long or is too much; gives the keys that went.
    fn sweep(&self, now_ms: u64) -> Later<'_, Result<Vec<SessionKey>, SessionStoreError>>;
}

/// A session could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionStoreError {
    /// Somebody else wrote it meanwhile.
    #[error("the session was changed by somebody else meanwhile; load it again")]
    Changed,
    /// It is larger than a store takes.
    #[error("the session has {bytes} octets, the limit is {bytes_max}")]
    TooLarge {
        /// What it has.
        bytes: u64,
        /// What is taken.
        bytes_max: u64,
    },
    /// The store does not answer.
    #[error("the session store cannot be used: {0}")]
    Unavailable(String),
}
