//! What the gateway asks of the ledger and what it is told, for one request.

use serde::{Deserialize, Serialize};

use super::book::ReservationId;
use super::caps::{CapKind, Scope};
use super::law::{Caching, Standing};
use super::usage::{Amount, Usage, shown};
use crate::ids::MeterName;

/// A request's worst case, as the gateway knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Its reservation's name, made from the system's randomness: asking twice is asking once.
    pub id: ReservationId,
    /// What is metered.
    pub meter: MeterName,
    /// The model, as the request named it; for the statistics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Most tokens that it reads.
    pub input: u64,
    /// How sure that number is.
    pub counted: Counted,
    /// Whether some of them may be written to a cache.
    pub caching: Caching,
    /// Most tokens that each answer writes.
    pub output: u64,
    /// Answers that it asks for, at least 1.
    pub answers: u32,
}

/// Where the number of input tokens comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counted {
    /// A bound computed here, and the provider could be asked: it is worth that when a cap is near.
    Bound,
    /// The provider counted it, or nobody can.
    Final,
}

/// How an admission ended, when it is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admitted {
    /// It is held; [`dispatch`](crate::ports::Ledger::dispatch) makes that durable.
    Held(Granted),
    /// Nothing is held: a cap is near, so have the provider count the input and ask again with that.
    CountFirst,
}

/// What was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The output cap to write into the request; `None` where the request goes as it was written ([`Gate::Observe`](super::Gate)).
    pub output: Option<u64>,
    /// Output tokens of each answer that are held; below `output` only under [`Overrun::Bounded`](super::Overrun), where
    /// more has to be had before the answer gets there.
    pub held: u64,
}

/// Why nothing is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NotHeld {
    /// What was spent is in the way.
    #[error("{0}")]
    Exhausted(Binding),
    /// What others hold was in the way for as long as the request could wait.
    #[error("{0}; requests under way hold the rest")]
    Busy(Binding),
    /// The numbers are beyond any request.
    #[error("it asks for more tokens than any request can have")]
    Absurd,
    /// Nothing of that name is held any more: it was never asked for, ended, or the ledger was started anew.
    #[error("nothing is held under that name")]
    Unknown,
    /// The ledger cannot be reached or cannot write.
    #[error("{0}")]
    Unavailable(String),
}

/// The cap that says no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Whose it is.
    pub scope: Scope,
    /// What is metered.
    pub meter: MeterName,
    /// Replaceable or not.
    pub kind: CapKind,
    /// How it stands.
    pub standing: Standing,
    /// When its window ends, in milliseconds since 1970; `None` where that has no one moment.
    pub until_ms: Option<u64>,
}

impl std::fmt::Display for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Standing { cap, spent, held, .. } = self.standing;
        let kind = match self.kind {
            CapKind::Budget => "budget",
            CapKind::Ceiling => "ceiling",
        };
        write!(
            f,
            "{kind} of {} for {}: {} of {} tokens spent, {} held",
            self.scope,
            self.meter,
            shown(spent.tokens_up()),
            shown(cap.tokens_down()),
            shown(held.tokens_up())
        )?;
        // With nothing held, what is left is what a person sees, and wonders why it is refused.
        match cap.less(spent).tokens_down() {
            left if left > 0 && held == Amount::ZERO => {
                write!(f, "; the {} left are too few for a request", shown(left))
            }
            _ => Ok(()),
        }
    }
}

/// How a dispatched request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The provider said all of it.
    Reported(Usage),
    /// It broke off; this much at least, as far as it was reported or could be counted.
    Estimated(Usage),
    /// Nobody will ever know: all that was held, and what was seen if that is more.
    Unknown(Usage),
}
