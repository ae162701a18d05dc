//! What could be seen of one step, and what is known of each person so far: all that laws are about.
//!
//! *Must never* hold what only the engine knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use carboy_core::audit::{Entry, sha256};
use serde_json::{Map, Value};

use super::dictionary::Dictionary;
use super::watched::Did;
use crate::engine::Asker;
use crate::outcome::{Reply, TurnError};
use crate::principal::{Principal, PrincipalKind};
use crate::session::SessionId;

/// A call that was answered.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// A message, or a click on a card with this token.
    Turn { token: Option<String>, result: Result<Reply, TurnError> },
    /// Something else that was done.
    Other(Result<(), TurnError>),
    /// It did not end in time.
    Never { token: Option<String> },
}

/// What one step showed.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) who: usize,
    pub(super) ended: Vec<Ended>,
    /// What the person could read: sentences, replacements, replies, errors, the transcript.
    pub(super) shown: Vec<String>,
    /// The conversation as it is read again, whole.
    pub(super) transcript: Vec<String>,
    pub(super) prompts: Vec<String>,
    /// Marks of what the model said.
    pub(super) said: Vec<String>,
    pub(super) did: Vec<Did>,
    pub(super) entries: Vec<Entry>,
    /// Why the log's chain does not verify.
    pub(super) broken_chain: Option<String>,
    /// By how much each counter of [`crate::Counter::ALL`] went up.
    pub(super) counted: [u64; 5],
    pub(super) at_once: usize,
    /// Messages of this step that were sent at the same time and answered.
    pub(super) sent: Vec<String>,
    /// Requests of a flood that were let in, and how long it took.
    pub(super) flood: Option<(u32, Duration)>,
    pub(super) kept_bytes: usize,
}

/// Somebody, and what they have seen and shown so far.
pub(super) struct Person {
    pub(super) asker: Asker,
    /// Cards in the order in which they came: token, tool, arguments.
    pub(super) cards: Vec<(String, String, Map<String, Value>)>,
    /// Ids of records that this session opened, by showing what opens them.
    pub(super) proven: BTreeSet<String>,
    /// Reads that succeeded.
    pub(super) successes: Vec<Did>,
    /// Idempotency keys of writes, each with the token that it was clicked by.
    pub(super) keys: BTreeMap<String, Option<String>>,
    /// Marks that no model may hear again.
    pub(super) dropped: BTreeSet<String>,
    /// Texts of results, of this turn and of all.
    pub(super) grounds: Vec<String>,
}

impl Person {
    /// Somebody new, the same for the same script.
    pub(super) fn new(seed: u64, number: u64, who: usize) -> Person {
        let name = format!("attack {seed} {number} {who}");
        let session = SessionId::of_attack(sha256(name.as_bytes()));
        let principal = Principal { id: name, kind: PrincipalKind::Anonymous, roles: BTreeSet::new() };
        let [a, b, c, d, ..] = sha256(principal.id.as_bytes());
        let address = Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
        Person {
            asker: Asker { session, principal, address },
            cards: Vec::new(),
            proven: BTreeSet::new(),
            successes: Vec::new(),
            keys: BTreeMap::new(),
            dropped: BTreeSet::new(),
            grounds: Vec::new(),
        }
    }

    /// Everything that was proven is void: the session was forgotten or let go.
    pub(super) fn begins_anew(&mut self) {
        self.successes.clear();
        self.proven.clear();
        self.grounds.clear();
    }

    /// Does this call show what opens its record?
    pub(super) fn opens(dictionary: &Dictionary, did: &Did) -> Option<String> {
        let text = |name: &Option<String>| did.arguments.get(name.as_deref()?)?.as_str().map(str::to_ascii_lowercase);
        let (id, proof) = (text(&dictionary.id_argument)?, text(&dictionary.proof_argument)?);
        let known = dictionary.guarded.iter().find(|guarded| guarded.id.to_ascii_lowercase() == id)?;
        (!known.proof.is_empty() && known.proof.to_ascii_lowercase() == proof).then(|| known.id.clone())
    }
}
