//! What is said between the controller and those who speak to it.
//!
//! Hello is said once, at the beginning; then requests carry numbers and are answered in any order, and the controller
//! pushes what nobody asked for. Anything else ends the connection.
//!
//! *Must never* carry a secret, a header or a byte of a body.

use carboy_core::budget::{
    Admitted, Amount, Ask, BudgetSet, CapEdit, CapKey, Ending, NotHeld, ReservationId, Shutdown,
};
use carboy_core::ids::MeterName;
use serde::{Deserialize, Serialize};

use crate::ledger::UsageQuery;

/// This version of the protocol. One version back is understood.
pub const VERSION: u16 = 1;

/// Longest piece of a longer text, in bytes: room for it escaped, in a message.
pub const PART_BYTES_MAX: usize = 24 * 1024;
/// Longest text that is put together of parts, in bytes.
pub const TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A text in the parts that it is answered in.
pub fn parts(text: &str) -> Vec<Answer> {
    let (mut rest, mut parts) = (text, Vec::new());
    loop {
        // A character has four bytes at most, so that one of these is a boundary.
        let end = rest.len().min(PART_BYTES_MAX);
        let end = (end.saturating_sub(3)..=end).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(end);
        let piece = &rest[..end];
        rest = &rest[piece.len()..];
        parts.push(Answer::Part { text: piece.to_owned(), more: !rest.is_empty() });
        if rest.is_empty() {
            return parts;
        }
    }
}

/// Can a peer of that version be spoken to?
pub const fn understands(own: u16, theirs: u16) -> bool {
    theirs == own || theirs.saturating_add(1) == own && theirs > 0
}

/// The first message of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of who speaks.
    pub version: u16,
    /// Its program's version, as in `0.1.0`.
    pub program: String,
    /// What it is.
    pub role: Role,
}

/// Who speaks to the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The supervisor of a run: it holds and settles, and is told what to do.
    Supervisor(Box<Supervised>),
    /// Somebody who changes caps.
    Operator,
    /// Somebody who looks.
    Observer,
}

/// What a run is metered by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervised {
    /// The run.
    pub run: String,
    /// Its bottle.
    pub bottle: String,
    /// Its agent, where one was named.
    pub agent: Option<String>,
    /// SHA-256 of the plan, in hex: what it is that runs under these budgets.
    pub plan: String,
    /// Its chain, the caps and the terms.
    pub budgets: BudgetSet,
    /// What its routes meter.
    pub meters: Vec<MeterName>,
}

/// A message to the controller, after Hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back with the answer.
    pub number: u64,
    /// What is wanted.
    pub call: Call,
}

/// What is wanted of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Hold a request's worst case.
    Admit(Ask),
    /// Make the hold durable: bytes are about to leave.
    Dispatch(ReservationId),
    /// Hold more output.
    Extend(ReservationId, u64),
    /// Charge it.
    Settle(ReservationId, Ending),
    /// Give it back, or stop waiting for it.
    Release(ReservationId),
    /// The supervisor is there.
    Heartbeat,
    /// The budgets were changed in their files.
    Renew(Box<Supervised>),
    /// How everything stands: one [`LedgerSnapshot`](carboy_core::budget::LedgerSnapshot), in parts.
    Snapshot,
    /// The same, and in it the caps that files say and no run has brought yet.
    Foreseen(Vec<BudgetSet>),
    /// The first whenever it has changed, at most ten times a second; whoever is slow gets the latest.
    Watch,
    /// What was spent, in parts: rows as JSON.
    Usage(UsageQuery),
    /// Set a cap over what the files say.
    SetCap(CapKey, CapEdit),
    /// What the files say holds again.
    UnsetCap(CapKey),
    /// Give an amount on top of a cap, in its present window.
    TopUp(CapKey, Amount),
    /// How the controller is.
    Status,
    /// End.
    Shutdown {
        /// Only when no supervisor is connected.
        only_idle: bool,
    },
}

/// A message of the controller's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Hello to you too.
    Welcome(Welcome),
    /// To the request of this number.
    Answer(u64, Answer),
    /// Nobody asked.
    Push(Push),
    /// The last word: the connection ends.
    Goodbye(Goodbye),
}

/// How the controller begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that is spoken on this connection.
    pub version: u16,
    /// Its program's version.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// The supervisor was away for too long: what it had dispatched was charged in full.
    pub lapsed: bool,
}

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// The controller's version of the protocol.
    pub version: u16,
    /// Its program's version.
    #[serde(default)]
    pub program: String,
    /// Why, and what to do, in words.
    pub why: String,
}

/// What the controller answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done, and durable where that matters.
    Done,
    /// Of an admission.
    Admitted(Admitted),
    /// Of an extension: what is held now.
    Extended(u64),
    /// A part of a text that is longer than a message. `more` follow under the same number.
    Part {
        /// The next piece.
        text: String,
        /// Whether it goes on.
        more: bool,
    },
    /// Whether something had been set that no longer is.
    Unset(bool),
    /// How the controller is.
    Status(Box<Status>),
    /// Not held, not settled, not released.
    NotHeld(NotHeld),
    /// It is not done, and this is why.
    Refused(String),
}

/// How the controller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its program's version.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// Since when, in milliseconds since 1970.
    pub started_ms: u64,
    /// Whether it ends by itself when nobody needs it, and after how long.
    pub idle_ms: Option<u64>,
    /// Connected supervisors.
    pub supervisors: u64,
    /// Everybody who is connected.
    pub connections: u64,
    /// Where it keeps what was spent.
    pub ledger: String,
    /// Why metered requests are refused just now; `None` while they are not.
    pub failing: Option<String>,
}

/// What the controller wants of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Push {
    /// A cap that binds the run is spent.
    Act {
        /// What its terms say is done then.
        how: Shutdown,
        /// Which cap, in words.
        why: String,
    },
    /// There is room again.
    Restore {
        /// Why, in words.
        why: String,
    },
    /// The person has to know.
    Warn {
        /// What.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_back_is_understood_and_no_other() {
        let understood: Vec<u16> = (0..6).filter(|theirs| understands(3, *theirs)).collect();
        assert_eq!(understood, [2, 3]);
        assert!(understands(1, 1) && !understands(1, 0) && !understands(1, 2));
    }

    #[test]
    fn a_long_text_goes_in_parts_of_which_each_is_a_message() {
        // The worst there is: every octet is escaped to six.
        for text in ["".to_owned(), "\u{1}".repeat(3 * PART_BYTES_MAX), "\u{1f600}".repeat(PART_BYTES_MAX)] {
            let mut whole = String::new();
            let parts = parts(&text);
            for (n, part) in parts.iter().enumerate() {
                let Answer::Part { text, more } = part else { panic!("{part:?}") };
                assert_eq!(*more, n + 1 < parts.len());
                whole.push_str(text);
            }
            assert_eq!(whole, text);
        }
        // JSON has no control characters of its own: quotes are the worst, and double.
        let quotes = parts(&"\"".repeat(PART_BYTES_MAX));
        super::super::frame::encode(&Said::Answer(u64::MAX, quotes[0].clone())).unwrap();
    }

    #[test]
    fn a_reservations_whole_name_survives_the_wire() {
        let call = Call::Settle(ReservationId(u128::MAX), Ending::Unknown(Default::default()));
        let text = serde_json::to_vec(&Request { number: u64::MAX, call: call.clone() }).unwrap();
        assert_eq!(serde_json::from_slice::<Request>(&text).unwrap(), Request { number: u64::MAX, call });
    }

    #[test]
    fn a_request_of_an_unknown_kind_is_no_request() {
        for text in
            [r#"{"number":1,"call":"open_the_door"}"#, r#"{"number":-1,"call":"heartbeat"}"#, r#"{"call":"heartbeat"}"#]
        {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
