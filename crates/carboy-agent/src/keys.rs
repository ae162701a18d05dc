//! Keys made from the session secret, one for each use, and the short hashes by which the log calls people and sessions.
//!
//! *Must never* use one key for two purposes, or let a session's key reach a log.

use carboy_core::audit::{hex, hmac_sha256, sha256};
use carboy_core::ports::SessionKey;
use carboy_core::secret::{Secret, SecretText};

use crate::principal::{ANONYMOUS, Principal, PrincipalKind, TERMINAL_USER};

/// Octets of a hash in the log: enough to tell people apart, useless to whoever has only the log.
const SHORT_BYTES: usize = 6;
/// Begins how the log calls whoever is known by a session alone.
const OF_SESSION: &str = "session-";
/// Begins how the log calls whoever has a name that does not stand there as it is.
const OF_USER: &str = "user-";
/// Characters of an id that stands in the log as it is.
const ID_CHARS_MAX: usize = 64;

/// The engine's keys.
pub(crate) struct Keys {
    tokens: Secret<[u8; 32]>,
    sessions: Secret<[u8; 32]>,
    hashes: Secret<[u8; 32]>,
}

impl Keys {
    pub(crate) fn new(secret: &SecretText) -> Keys {
        let root = Secret::new(sha256(secret.expose().as_bytes()));
        let key = |label: &str| Secret::new(hmac_sha256(root.expose(), label.as_bytes()));
        Keys {
            tokens: key("carboy chat: confirmation tokens"),
            sessions: key("carboy chat: kept sessions"),
            hashes: key("carboy chat: hashes"),
        }
    }

    /// The one-use token of a card, over all that it is bound to.
    pub(crate) fn token(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac_sha256(self.tokens.expose(), &framed(parts))
    }

    /// The seal of a session as it is kept.
    pub(crate) fn seal(&self, session: SessionKey, body: &[u8]) -> [u8; 32] {
        hmac_sha256(self.sessions.expose(), &framed(&[&session.0, body]))
    }

    /// A full hash under a name of its own.
    pub(crate) fn hash(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac_sha256(self.hashes.expose(), &framed(parts))
    }

    /// Twelve hex digits under a name of its own.
    pub(crate) fn short(&self, parts: &[&[u8]]) -> String {
        hex(&self.hash(parts)[..SHORT_BYTES])
    }

    /// How the log calls a session (G40).
    pub(crate) fn session(&self, session: SessionKey) -> String {
        self.short(&[b"session", &session.0])
    }

    /// How the log calls a person: by the name that the operator knows them by where that is a plain id, by a keyed hash
    /// where it is an address or a name, and by the session's hash where nobody knows them.
    pub(crate) fn person(&self, principal: &Principal, session: SessionKey) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '|');
        let id = principal.id.as_str();
        match principal.kind {
            PrincipalKind::Anonymous => format!("{OF_SESSION}{}", self.session(session)),
            PrincipalKind::Terminal | PrincipalKind::Verified
                if !id.is_empty() && id.len() <= ID_CHARS_MAX && id.chars().all(plain) && !is_ours(principal) =>
            {
                id.to_owned()
            }
            PrincipalKind::Terminal | PrincipalKind::Verified => {
                format!("{OF_USER}{}", self.short(&[b"user", id.as_bytes()]))
            }
        }
    }
}

/// Does a shop's user have a name that says something else in a log? It is the shop's users who choose theirs.
fn is_ours(principal: &Principal) -> bool {
    let id = principal.id.as_str();
    principal.kind == PrincipalKind::Verified
        && (id == TERMINAL_USER || [ANONYMOUS, OF_SESSION, OF_USER].iter().any(|ours| id.starts_with(ours)))
}

/// The parts with their lengths: no two lists of parts give the same octets.
fn framed(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().fold(Vec::new(), |mut text, part| {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part);
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn person(id: &str, kind: PrincipalKind) -> String {
        let keys = Keys::new(&Secret::new("k".repeat(32)));
        keys.person(&Principal { id: id.into(), kind, roles: BTreeSet::new() }, SessionKey([7; 32]))
    }

    #[test]
    fn g40_the_log_calls_people_by_plain_ids_and_by_hashes_of_everything_else() {
        assert_eq!(person("cli_user", PrincipalKind::Terminal), "cli_user");
        assert_eq!(person("auth0|5f7c8ec7", PrincipalKind::Verified), "auth0|5f7c8ec7");
        // Whoever chose to be called as we call others is not taken for them.
        let ours = ["cli_user", "anonymous-1", "session-0123456789ab", "user-0123456789ab"];
        for id in ["sarah@example.com", "Sarah Chen", "", "a\u{0}b"].into_iter().chain(ours) {
            let name = person(id, PrincipalKind::Verified);
            assert!(name.starts_with("user-") && name.len() == 17 && name != id, "{name}");
        }
        let anonymous = person("whatever whoever serves made up", PrincipalKind::Anonymous);
        assert!(anonymous.starts_with("session-") && anonymous.len() == 20, "{anonymous}");
    }

    #[test]
    fn i5_parts_of_a_token_cannot_be_moved_from_one_to_another() {
        let keys = Keys::new(&Secret::new("k".repeat(32)));
        assert_ne!(keys.token(&[b"ab", b"c"]), keys.token(&[b"a", b"bc"]));
        assert_ne!(keys.token(&[b"a"]), keys.token(&[b"a", b""]));
        assert_ne!(keys.token(&[b"a"]), keys.hash(&[b"a"]));
    }
}
