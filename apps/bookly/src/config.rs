//! What the shop has decided: its return policy, once, and where this desk differs from the house's defaults.
//!
//! The prompt's text and the code that judges a return both read [`RETURN_POLICY`]; there is no second number anywhere.
//! *Must never* hold a secret, or read the environment: settings and manifests reach a chat agent through its `ChatSpec`.

use std::path::{Path, PathBuf};

use carboy_core::chat::ChatLimits;
use sha2::{Digest, Sha256};

use crate::data::Format;

/// What the shop promises about returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnPolicy {
    /// Days after delivery within which a return can be started; the last of them counts.
    pub window_days: u16,
    /// Working days from the arrival of the parcel to the refund.
    pub refund_days: u16,
    /// What the books have to be like.
    pub conditions: &'static [&'static str],
    /// What is not taken back.
    pub excluded: &'static [Format],
    /// Who pays the parcel.
    pub postage: &'static str,
}

/// The one return policy.
pub const RETURN_POLICY: ReturnPolicy = ReturnPolicy {
    window_days: 30,
    refund_days: 5,
    conditions: &[
        "unread or like new",
        "free of writing and highlighting",
        "in its original packaging where it had one",
    ],
    excluded: &[Format::Ebook, Format::GiftCard],
    postage: "The first return of an order is free: a prepaid label comes with the return number.",
};

impl ReturnPolicy {
    /// The policy in words: what stands in the prompt, and what a person who asks for it reads.
    pub fn block(&self) -> String {
        let mut said = vec![format!("Books can be returned within {} days of delivery.", self.window_days)];
        said.push("Only delivered orders can be returned.".to_owned());
        said.extend(self.conditions.iter().map(|condition| format!("Each book has to be {condition}.")));
        said.extend(self.excluded.iter().map(|format| format!("Not returnable: {}.", format.plural())));
        said.push(self.postage.to_owned());
        said.push(format!(
            "The refund goes to the original payment method within {} working days of the parcel's arrival.",
            self.refund_days
        ));
        said.join(" ")
    }

    /// What a proof of eligibility is bound to: another wording or number is another version, and ends the proof.
    pub fn version(&self) -> String {
        let digest = Sha256::digest(self.block().as_bytes());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// How long an eligibility check counts, in milliseconds.
pub const ELIGIBLE_MS: u64 = 15 * 60 * 1000;
/// How long a session counts as an order's owner, in milliseconds.
pub const OWNER_MS: u64 = 60 * 60 * 1000;
/// Look-ups and checks in one session: what somebody who guesses addresses has.
pub const GUESSES_PER_SESSION_MAX: u32 = 40;
/// Returns in one session.
pub const RETURNS_PER_SESSION_MAX: u32 = 5;

/// What the desk may spend in a day, in tokens weighed as they are priced: about 400 turns, and then people read that somebody
/// will take over. Whoever serves more of them says so by `--budget`.
pub const TOKENS_PER_DAY: u64 = 1_000_000;

/// Where this desk differs from the house's defaults: shorter messages and replies, fewer calls at once.
pub fn limits() -> ChatLimits {
    ChatLimits { message_chars_max: 2_000, reply_chars_max: 4_000, tool_calls_max: 8, ..ChatLimits::default() }
}

/// Bookly's own database below carboy's home.
pub fn books_file(home: &Path) -> PathBuf {
    home.join("bookly").join("books.sqlite")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g5_the_words_of_the_policy_are_made_from_its_values() {
        let block = RETURN_POLICY.block();
        assert!(block.starts_with("Books can be returned within 30 days of delivery. "), "{block}");
        assert!(block.contains("Not returnable: e-books. Not returnable: gift cards. "), "{block}");
        assert!(block.ends_with("within 5 working days of the parcel's arrival."), "{block}");
        let shorter = ReturnPolicy { window_days: 14, ..RETURN_POLICY };
        assert!(shorter.block().starts_with("Books can be returned within 14 days"));
        assert_ne!(shorter.version(), RETURN_POLICY.version());
    }

    #[test]
    fn g42_what_bookly_does_not_name_is_the_houses_default() {
        let (own, house) = (limits(), ChatLimits::default());
        assert_eq!(own.tool_iterations_max, house.tool_iterations_max);
        assert_eq!(own.session_idle_s, house.session_idle_s);
        assert_eq!(own.sessions_max, house.sessions_max);
        assert_eq!(own.requests_per_ip_per_minute, house.requests_per_ip_per_minute);
        assert_eq!(own.requests_per_session_per_minute, house.requests_per_session_per_minute);
        assert!(own.message_chars_max <= house.message_chars_max && own.reply_chars_max <= house.reply_chars_max);
    }
}
