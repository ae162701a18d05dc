//! What a session has proven and what was released to it: the facts that code, and not the model, decides by.
//!
//! ```text
//! tool A succeeds ─▶ Mint<P>::issue ─▶ GuardState ─▶ (kept with the session) ─▶ Mint<P>::redeem ─▶ Proven<P> ─▶ tool B
//! ```
//!
//! *Must never* hold a fact that a message or a model's text put there: only results of tools do. A [`Proven`] has no
//! constructor but [`Mint::redeem`], and a [`Mint`] none that another module can call: whoever wants to return an order
//! without its check has nothing to call. The state itself cannot be read from JSON outside of this crate.
//!
//! ```
//! mod returns {
//!     use carboy_agent::guard_state::{GuardState, Mint, NotProven, Proof, Proven};
//!
//!     /// That an order can be returned.
//!     #[derive(serde::Serialize, serde::Deserialize)]
//!     pub struct Eligible {
//!         pub items: u32,
//!     }
//!     pub struct Seal(()); // its field is private: no other module makes one
//!     impl Proof for Eligible {
//!         const NAME: &'static str = "eligible";
//!         type Seal = Seal;
//!     }
//!     const MINT: Mint<Eligible> = Mint::new(&Seal(()));
//!
//!     pub fn check(guard: &mut GuardState, order: &str, now_ms: u64) {
//!         MINT.issue(guard, order, "policy-1", now_ms, now_ms + 600_000, Eligible { items: 2 }).unwrap();
//!     }
//!     pub fn give_back(guard: &mut GuardState, order: &str, now_ms: u64) -> Result<Proven<Eligible>, NotProven> {
//!         MINT.redeem(guard, order, "policy-1", now_ms)
//!     }
//! }
//! let mut guard = carboy_agent::guard_state::GuardState::default();
//! assert!(returns::give_back(&mut guard, "BK-1001", 0).is_err());
//! returns::check(&mut guard, "BK-1001", 0);
//! assert!(returns::give_back(&mut guard, "BK-1002", 1).is_err());
//! assert_eq!(returns::give_back(&mut guard, "BK-1001", 1).unwrap().claims().items, 2);
//! assert!(returns::give_back(&mut guard, "BK-1001", 1).is_err()); // once
//! ```
//! Another module has no seal:
//! ```compile_fail,E0423
//! mod returns {
//!     #[derive(serde::Serialize, serde::Deserialize)]
//!     pub struct Eligible;
//!     pub struct Seal(());
//!     impl carboy_agent::guard_state::Proof for Eligible {
//!         const NAME: &'static str = "eligible";
//!         type Seal = Seal;
//!     }
//! }
//! let mint = carboy_agent::guard_state::Mint::<returns::Eligible>::new(&returns::Seal(()));
//! ```
//! and no proof:
//! ```compile_fail,E0451
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # pub struct Eligible;
//! let forged = carboy_agent::guard_state::Proven { claims: Eligible, key: String::new(), expires_ms: u64::MAX };
//! ```
//! and a state is no JSON that somebody wrote:
//! ```compile_fail,E0277
//! let forged: carboy_agent::guard_state::GuardState = serde_json::from_str("{}").unwrap();
//! ```

use std::collections::BTreeMap;
use std::marker::PhantomData;

use carboy_core::ports::Conversation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::layers::grounds::Grounds;
use crate::requires::Success;

/// Proofs of one session at once; the oldest goes first.
pub const PROOFS_MAX: usize = 256;
/// Octets of what all proofs of a session say; the oldest goes first.
pub const PROOFS_BYTES_MAX: usize = 96 * 1024;
/// Octets of what one proof says, as JSON.
pub const CLAIMS_BYTES_MAX: usize = 4 * 1024;
/// Characters of a key and of a policy's version.
pub const KEY_CHARS_MAX: usize = 256;

/// What a proof says: plain data of an application's, and a seal that makes its mint.
pub trait Proof: Serialize + DeserializeOwned {
    /// What it is called; the same for ever, because sessions outlive a release.
    const NAME: &'static str;
    /// A type that only the proof's own module can make: give it a private field.
    type Seal;
}

/// The right to issue and redeem proofs of one kind. Kept private by the module that owns the proof.
pub struct Mint<P: Proof>(PhantomData<fn() -> P>);

/// A proof that held when it was redeemed: what a dangerous function takes as an argument.
#[derive(Debug)]
pub struct Proven<P> {
    claims: P,
    key: String,
    expires_ms: u64,
}

impl<P> Proven<P> {
    /// What was proven.
    pub fn claims(&self) -> &P {
        &self.claims
    }

    /// Of what: an order's id.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Until when, in milliseconds since the epoch.
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms
    }
}

/// Why something is not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    /// Nobody proved it in this session.
    #[error("this was not checked in this conversation; check it first")]
    Missing,
    /// It was too long ago.
    #[error("the check was too long ago; check it again")]
    Expired,
    /// The policy has changed since.
    #[error("the policy has changed since the check; check it again")]
    OtherPolicy,
    /// It is too large to be kept.
    #[error(
        "a proof is larger than what a session keeps: {CLAIMS_BYTES_MAX} octets, {KEY_CHARS_MAX} characters of key"
    )]
    TooLarge,
}

impl<P: Proof> Mint<P> {
    /// Only who can make the seal can make the mint.
    pub const fn new(seal: &P::Seal) -> Mint<P> {
        let _ = seal;
        Mint(PhantomData)
    }

    /// Writes down that `key` is proven under a version of the policy until `expires_ms`. One of the same key is replaced.
    pub fn issue(
        &self,
        guard: &mut GuardState,
        key: &str,
        policy_version: &str,
        now_ms: u64,
        expires_ms: u64,
        claims: P,
    ) -> Result<(), NotProven> {
        let claims = serde_json::to_value(claims).map_err(|_| NotProven::TooLarge)?;
        let long = |text: &str| text.chars().count() > KEY_CHARS_MAX;
        if long(key) || long(policy_version) || claims.to_string().len() > CLAIMS_BYTES_MAX {
            return Err(NotProven::TooLarge);
        }
        self.revoke(guard, key);
        let Facts { proofs, session, .. } = &mut guard.kept;
        proofs.push(Kept {
            name: P::NAME.to_owned(),
            of: std::any::type_name::<P>().to_owned(),
            session: session.clone(),
            key: key.to_owned(),
            policy: policy_version.to_owned(),
            issued_ms: now_ms,
            expires_ms,
            claims,
        });
        let mut bytes: usize = proofs.iter().map(Kept::bytes).sum();
        while proofs.len() > PROOFS_MAX || bytes > PROOFS_BYTES_MAX {
            bytes -= proofs.remove(0).bytes();
        }
        Ok(())
    }

    /// Does it hold? For a tool's precheck, which takes nothing.
    pub fn look(&self, guard: &GuardState, key: &str, policy_version: &str, now_ms: u64) -> Result<(), NotProven> {
        self.place(guard, key, policy_version, now_ms).map(|_| ())
    }

    /// Takes it: a proof is good for one use.
    pub fn redeem(
        &self,
        guard: &mut GuardState,
        key: &str,
        policy_version: &str,
        now_ms: u64,
    ) -> Result<Proven<P>, NotProven> {
        let place = self.place(guard, key, policy_version, now_ms)?;
        let kept = guard.kept.proofs.remove(place);
        let claims = serde_json::from_value(kept.claims).map_err(|_| NotProven::Missing)?;
        Ok(Proven { claims, key: kept.key, expires_ms: kept.expires_ms })
    }

    /// Reads it and leaves it: a proof that is good for many uses (whose e-mail address was proven).
    pub fn show(
        &self,
        guard: &GuardState,
        key: &str,
        policy_version: &str,
        now_ms: u64,
    ) -> Result<Proven<P>, NotProven> {
        let kept = &guard.kept.proofs[self.place(guard, key, policy_version, now_ms)?];
        let claims = P::deserialize(&kept.claims).map_err(|_| NotProven::Missing)?;
        Ok(Proven { claims, key: kept.key.clone(), expires_ms: kept.expires_ms })
    }

    /// The keys for which one holds now, oldest first.
    pub fn keys<'a>(
        &'a self,
        guard: &'a GuardState,
        policy_version: &'a str,
        now_ms: u64,
    ) -> impl Iterator<Item = &'a str> {
        let held = move |kept: &&Kept| kept.is::<P>(&guard.kept.session) && kept.holds(policy_version, now_ms).is_ok();
        guard.kept.proofs.iter().filter(held).map(|kept| kept.key.as_str())
    }

    /// Takes it back: what was checked is so no longer.
    pub fn revoke(&self, guard: &mut GuardState, key: &str) {
        let GuardState { kept, turn: _ } = guard;
        let session = &kept.session;
        kept.proofs.retain(|kept| !(kept.is::<P>(session) && kept.key == key));
    }

    fn place(&self, guard: &GuardState, key: &str, policy_version: &str, now_ms: u64) -> Result<usize, NotProven> {
        let ours = |kept: &Kept| kept.is::<P>(&guard.kept.session) && kept.key == key;
        let place = guard.kept.proofs.iter().position(ours).ok_or(NotProven::Missing)?;
        guard.kept.proofs[place].holds(policy_version, now_ms).map(|()| place)
    }
}

/// The guard state of one session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuardState {
    pub(crate) kept: Facts,
    /// The turn that is at work, or the last one.
    pub(crate) turn: u32,
}

impl GuardState {
    /// The empty state of a session, called by a keyed hash of it.
    pub(crate) fn of(session: String) -> GuardState {
        GuardState { kept: Facts { session, ..Facts::default() }, turn: 0 }
    }

    /// Whose it is and in which turn, as the log calls it: for requests that are made for it.
    pub fn conversation(&self) -> Conversation {
        Conversation { session: self.kept.session.clone(), turn: self.turn }
    }
}

/// The state as it is kept with the session, under the engine's key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Whose facts these are.
    pub(crate) session: String,
    proofs: Vec<Kept>,
    /// Calls that succeeded and that a requirement asks for.
    pub(crate) successes: Vec<Success>,
    /// Calls of tools that are limited, by tool.
    pub(crate) calls: BTreeMap<String, u32>,
    /// Values that a reply may mention.
    pub(crate) grounds: Grounds,
}

impl Facts {
    /// Does code decide the same by both? What a reply may mention and what was counted are looked at elsewhere.
    pub(crate) fn decides_as(&self, other: &Facts) -> bool {
        self.proofs == other.proofs && self.successes == other.successes
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    name: String,
    /// The Rust type: a second proof of the same name is another one.
    of: String,
    session: String,
    key: String,
    policy: String,
    issued_ms: u64,
    expires_ms: u64,
    claims: Value,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.key.len() + self.policy.len() + self.of.len() + self.claims.to_string().len()
    }

    fn is<P: Proof>(&self, session: &str) -> bool {
        self.name == P::NAME && self.of == std::any::type_name::<P>() && self.session == session
    }

    /// A clock that was set back is no reason to believe: what was issued in the future is void.
    fn holds(&self, policy_version: &str, now_ms: u64) -> Result<(), NotProven> {
        if self.policy != policy_version {
            return Err(NotProven::OtherPolicy);
        }
        let live = self.issued_ms <= now_ms && now_ms < self.expires_ms;
        if live { Ok(()) } else { Err(NotProven::Expired) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Eligible {
        refund_cents: u32,
    }
    struct Seal(());
    impl Proof for Eligible {
        const NAME: &'static str = "eligible";
        type Seal = Seal;
    }
    const MINT: Mint<Eligible> = Mint::new(&Seal(()));

    #[derive(Serialize, Deserialize)]
    struct Impostor {
        refund_cents: u32,
    }
    impl Proof for Impostor {
        const NAME: &'static str = "eligible";
        type Seal = Seal;
    }
    const IMPOSTOR: Mint<Impostor> = Mint::new(&Seal(()));

    fn proven(session: &str) -> GuardState {
        let mut guard = GuardState::of(session.into());
        MINT.issue(&mut guard, "BK-1001", "v1", 1_000, 2_000, Eligible { refund_cents: 900 }).unwrap();
        guard
    }

    #[test]
    fn i1_a_proof_holds_for_its_key_its_policy_and_its_time_alone() {
        let guard = proven("a");
        let look = |key, policy, now| MINT.look(&guard, key, policy, now);
        assert_eq!(look("BK-1001", "v1", 1_000), Ok(()));
        assert_eq!(look("BK-1001", "v1", 1_999), Ok(()));
        assert_eq!(look("BK-1001", "v1", 2_000), Err(NotProven::Expired));
        assert_eq!(look("BK-1001", "v1", 999), Err(NotProven::Expired), "a clock that was set back");
        assert_eq!(look("BK-1001", "v2", 1_000), Err(NotProven::OtherPolicy));
        assert_eq!(look("BK-1002", "v1", 1_000), Err(NotProven::Missing));
    }

    #[test]
    fn i1_a_proof_is_used_once_and_survives_its_session_being_kept() {
        let kept = serde_json::to_vec(&proven("a").kept).unwrap();
        let mut guard = GuardState { kept: serde_json::from_slice(&kept).unwrap(), turn: 0 };
        assert_eq!(MINT.keys(&guard, "v1", 1_500).collect::<Vec<_>>(), ["BK-1001"]);
        assert_eq!(MINT.show(&guard, "BK-1001", "v1", 1_500).unwrap().claims(), &Eligible { refund_cents: 900 });
        let proof = MINT.redeem(&mut guard, "BK-1001", "v1", 1_500).unwrap();
        assert_eq!((proof.key(), proof.claims().refund_cents, proof.expires_ms()), ("BK-1001", 900, 2_000));
        assert_eq!(MINT.redeem(&mut guard, "BK-1001", "v1", 1_500).unwrap_err(), NotProven::Missing);
    }

    #[test]
    fn i1_a_proof_of_another_session_or_of_another_type_with_its_name_is_none() {
        let mut guard = proven("a");
        guard.kept.session = "b".into();
        assert_eq!(MINT.look(&guard, "BK-1001", "v1", 1_500), Err(NotProven::Missing));

        let mut guard = GuardState::of("a".into());
        IMPOSTOR.issue(&mut guard, "BK-1001", "v1", 1_000, 2_000, Impostor { refund_cents: 1 }).unwrap();
        assert_eq!(MINT.look(&guard, "BK-1001", "v1", 1_500), Err(NotProven::Missing));
    }

    #[test]
    fn i12_proofs_are_bounded_in_number_and_size() {
        let mut guard = GuardState::of("a".into());
        for n in 0..PROOFS_MAX + 10 {
            MINT.issue(&mut guard, &format!("BK-{n}"), "v1", 0, 9, Eligible { refund_cents: 1 }).unwrap();
        }
        assert_eq!(guard.kept.proofs.len(), PROOFS_MAX);
        assert_eq!(MINT.look(&guard, "BK-0", "v1", 1), Err(NotProven::Missing));
        let long = "x".repeat(KEY_CHARS_MAX + 1);
        let refused = MINT.issue(&mut guard, &long, "v1", 0, 9, Eligible { refund_cents: 1 });
        assert_eq!(refused, Err(NotProven::TooLarge));
    }
}
