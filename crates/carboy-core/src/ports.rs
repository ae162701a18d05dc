//! The ports through which layers meet the world and each other; who implements them is the composer's choice.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use crate::audit::Event;
use crate::budget::{Admitted, Ask, Ending, NotHeld, ReservationId};
use crate::ids::SecretName;
use crate::secret::SecretText;

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
