//! What clients send: small JSON objects, read whole, with a limit and a deadline.
//!
//! *Must never* read a field that a client has no say in: a `session_id` in a body means nothing (G44).

use std::time::Duration;

use axum::body::{Body, Bytes};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::refusal::Refusal;

/// How long a body may take.
const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// What a body has besides its message, in bytes.
const FRAME_BYTES: usize = 4 * 1024;
/// What one character may take in JSON: a pair of `\u` escapes.
const CHAR_BYTES_MAX: usize = 12;
/// Whatever an agent's file says.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A body's fields.
pub(super) struct Said(Map<String, Value>);

impl Said {
    /// Reads a JSON object; a message of `chars_max` characters fits.
    pub async fn read(headers: &HeaderMap, body: Body, chars_max: u32) -> Result<Said, Refusal> {
        if !is_json(headers) {
            let next = "set `Content-Type: application/json`";
            let words = "the body has to be JSON";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", words, next));
        }
        let bytes_max =
            BODY_BYTES_MAX.min(FRAME_BYTES.saturating_add(CHAR_BYTES_MAX.saturating_mul(chars_max as usize)));
        let bytes = bytes(body, bytes_max).await?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Said(fields)),
            Ok(_) | Err(_) => Err(invalid("the body is no JSON object")),
        }
    }

    /// A text that has to be there.
    pub fn text(&self, name: &str) -> Result<&str, Refusal> {
        self.0.get(name).and_then(Value::as_str).ok_or_else(|| invalid(&format!("the body has no text `{name}`")))
    }

    /// A text that may be there.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A number that has to be there.
    pub fn number(&self, name: &str) -> Result<u32, Refusal> {
        let number = self.0.get(name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| invalid(&format!("the body has no number `{name}`")))
    }
}

fn invalid(words: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", words, "see the table of routes in the documentation")
}

/// A form of another site can send text and forms without asking, and never this.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

async fn bytes(body: Body, bytes_max: usize) -> Result<Bytes, Refusal> {
    let collected = timeout(BODY_WAIT_MAX, Limited::new(body, bytes_max).collect()).await;
    let next = "send it whole, and at once";
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let words = format!("the body is longer than {bytes_max} octets");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", words, "send a shorter message"))
        }
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "broken_body", "the body broke off", next)),
        Err(_) => {
            let words = format!("the body took longer than {} s", BODY_WAIT_MAX.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "slow_body", words, next))
        }
    }
}
