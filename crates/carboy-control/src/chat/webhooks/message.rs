//! A notice as it leaves: JSON, and the three fields of Standard Webhooks (<https://www.standardwebhooks.com>) that say whose
//! it is.
//!
//! ```text
//! webhook-id: ID           the same for every attempt
//! webhook-timestamp: S     seconds since the epoch, of this attempt
//! webhook-signature: v1,BASE64(HMAC-SHA256(key, "ID.S.BODY"))
//! ```
//!
//! *Must never* hold words of anybody, or take a key that can be guessed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use carboy_agent::{About, Notice};
use carboy_core::audit::Subject;
use carboy_core::ids::SecretName;
use carboy_core::secret::{Secret, SecretText};
use carboy_store::audit::rfc3339;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

/// What every key begins with.
const PREFIX: &str = "whsec_";
/// Fewest octets of a key.
const KEY_BYTES_MIN: usize = 24;
/// Most octets of a key.
const KEY_BYTES_MAX: usize = 64;

/// What messages are signed with.
pub(crate) struct Key(Secret<Vec<u8>>);

/// A key that is none. What it is, is not said.
#[derive(Debug, thiserror::Error)]
#[error(
    "the webhooks' secret {0} is not `{PREFIX}` and the base64 of {KEY_BYTES_MIN} to {KEY_BYTES_MAX} octets; \
     `printf 'whsec_%s' \"$(openssl rand -base64 32)\"` makes one"
)]
pub struct BadKey(SecretName);

impl Key {
    /// Reads it as it is written: `whsec_…`.
    pub(crate) fn read(name: &SecretName, secret: &SecretText) -> Result<Key, BadKey> {
        let bytes = secret.expose().trim().strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok());
        let bytes = bytes.filter(|bytes| (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&bytes.len()));
        bytes.map(|bytes| Key(Secret::new(bytes))).ok_or_else(|| BadKey(name.clone()))
    }

    fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose()).expect("HMAC takes a key of any length");
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// Everything that is told.
pub(crate) fn body(notice: &Notice, subject: &Subject) -> Vec<u8> {
    let mut data = json!({
        "agent": subject.agent,
        "run": subject.run,
        "session": notice.conversation.session,
        "turn": notice.conversation.turn,
        "user": notice.user_id,
    });
    match notice.about {
        About::HandOff { why, expires_ms } => {
            data["ask"] = notice.id.as_str().into();
            data["why"] = why.code().into();
            data["expires"] = rfc3339(expires_ms).into();
        }
        About::Feedback { judgement, reason } => {
            data["judgement"] = judgement.as_str().into();
            data["reason"] = reason.into();
        }
    }
    json!({"type": notice.event().as_str(), "timestamp": rfc3339(notice.at_ms), "data": data}).to_string().into_bytes()
}

/// The fields of one attempt.
pub(crate) fn headers(key: &Key, id: &str, timestamp_s: u64, body: &[u8]) -> Vec<(String, String)> {
    let field = |name: &str, value: String| (name.to_owned(), value);
    vec![
        field("content-type", "application/json".into()),
        field("user-agent", concat!("carboy/", env!("CARGO_PKG_VERSION")).into()),
        field("webhook-id", id.to_owned()),
        field("webhook-timestamp", timestamp_s.to_string()),
        field("webhook-signature", key.sign(id, timestamp_s, body)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Key, BadKey> {
        Key::read(&SecretName::parse("WEBHOOK_SECRET").unwrap(), &SecretText::new(text.to_owned()))
    }

    #[test]
    fn g92_a_signature_is_the_one_of_the_standards_own_example() {
        // standard-webhooks/standard-webhooks, spec and libraries: the same key, id, time and payload.
        let key = read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn g92_a_key_that_can_be_guessed_or_is_written_otherwise_is_none_and_is_not_repeated() {
        for text in ["", "hunter2", "whsec_", "whsec_aHVudGVyMg==", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%%%"] {
            let error = read(text).err().unwrap().to_string();
            assert!(error.contains("WEBHOOK_SECRET") && error.contains("openssl rand"), "{error}");
            assert!(text.len() < 7 || !error.contains(text), "{error}");
        }
    }
}
