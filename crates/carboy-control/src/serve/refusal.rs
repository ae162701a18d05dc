//! What the chat service says no with: one table from errors to statuses, codes and words (G49).
//!
//! *Must never* show particulars of a provider, a tool or a store to a person; they go to the log, with the same
//! correlation id.

use std::time::Duration;

use axum::body::Body;
use carboy_agent::{ModelError, TurnError};
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

/// Longest wait that is told to a client, in seconds.
const RETRY_AFTER_S_MAX: u32 = 3_600;
/// What is told where a provider named no time.
const RETRY_AFTER_S: u32 = 10;

/// A no, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    /// Stable.
    pub code: &'static str,
    /// For the person.
    pub message: String,
    /// What to do next.
    pub next: &'static str,
    /// When it may be tried again.
    pub retry_after_s: Option<u32>,
    /// For the operator's log alone.
    pub particulars: Option<String>,
}

/// What the log line of a refused request says; travels beside the answer.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub code: &'static str,
    pub particulars: Option<String>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>, next: &'static str) -> Refusal {
        Refusal { status, code, message: message.into(), next, retry_after_s: None, particulars: None }
    }

    pub fn after(self, seconds: u32) -> Refusal {
        Refusal { retry_after_s: Some(seconds.clamp(1, RETRY_AFTER_S_MAX)), ..self }
    }

    pub fn because(self, particulars: impl ToString) -> Refusal {
        Refusal { particulars: Some(particulars.to_string()), ..self }
    }

    /// Nothing is there.
    pub fn not_found() -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address", "open `/` for the chat")
    }

    /// The service ends.
    pub fn stopping() -> Refusal {
        let next = "send it again in a moment; another process may have taken over by then";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the service is just being stopped", next).after(5)
    }

    /// Something of ours broke.
    pub fn internal(particulars: impl ToString) -> Refusal {
        let next = "try again; if it stays, tell the operator the request's id";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong here", next)
            .because(particulars)
    }

    /// As a stream's last event and as an answer's body.
    pub fn json(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message, "next": self.next});
        if let Some(seconds) = self.retry_after_s {
            error["retry_after_s"] = seconds.into();
        }
        json!({"error": error})
    }

    pub fn answer(self) -> Response<Body> {
        let mut answer = Response::new(Body::from(self.json().to_string()));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer.extensions_mut().insert(Told { code: self.code, particulars: self.particulars });
        answer
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        self.answer()
    }
}

impl From<TurnError> for Refusal {
    fn from(error: TurnError) -> Refusal {
        let say = Refusal::new;
        match &error {
            TurnError::RateLimited { retry_after_s, .. } => say(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                format!("Rate limit exceeded: {error}"),
                "wait until the time that `retry_after_s` gives",
            )
            .after(*retry_after_s),
            TurnError::Invalid { .. } => say(
                StatusCode::BAD_REQUEST,
                "invalid_message",
                error.to_string(),
                "change the message and send it again",
            ),
            TurnError::Injection { .. } => say(
                StatusCode::BAD_REQUEST,
                "injection_detected",
                format!("Security policy violation: {error}"),
                "ask in other words",
            ),
            TurnError::SessionOver { .. } => {
                say(StatusCode::CONFLICT, "session_over", error.to_string(), "start a new conversation")
            }
            TurnError::CardOver { .. } => say(StatusCode::CONFLICT, "card_over", error.to_string(), "ask for it again"),
            TurnError::Model(model) => of_model(model),
            TurnError::TooLate { .. } => say(
                StatusCode::SERVICE_UNAVAILABLE,
                "turn_too_late",
                error.to_string(),
                "send it again, or ask for less at once",
            )
            .after(RETRY_AFTER_S),
            TurnError::Unavailable { .. } => Refusal { code: "unavailable", ..Refusal::internal(&error) },
        }
    }
}

fn of_model(error: &ModelError) -> Refusal {
    let unavailable = "the assistant cannot answer just now";
    let later = "send it again in a moment";
    let (status, code) = match error {
        ModelError::RateLimited { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_rate_limited"),
        ModelError::Unreachable(_) => (StatusCode::SERVICE_UNAVAILABLE, "model_unreachable"),
        ModelError::Status { .. } => (StatusCode::BAD_GATEWAY, "model_status"),
        ModelError::Malformed(_) => (StatusCode::BAD_GATEWAY, "model_malformed"),
        ModelError::Refused(_) => (StatusCode::INTERNAL_SERVER_ERROR, "gateway_refused"),
    };
    let refusal = Refusal::new(status, code, unavailable, later).because(error);
    match error {
        ModelError::RateLimited { retry_after } => refusal.after(retry_after.map_or(RETRY_AFTER_S, seconds)),
        ModelError::Unreachable(_) => refusal.after(RETRY_AFTER_S),
        ModelError::Status { .. } | ModelError::Malformed(_) | ModelError::Refused(_) => refusal,
    }
}

fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(RETRY_AFTER_S_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use carboy_core::verdict::Reason;

    #[test]
    fn g49_each_error_has_its_status_and_a_code_of_its_own() {
        let table: Vec<(TurnError, u16, Option<u32>)> = vec![
            (TurnError::RateLimited { max: 100, window: "hour", retry_after_s: 7 }, 429, Some(7)),
            (TurnError::Invalid { problem: "it is empty".into() }, 400, None),
            (TurnError::Injection { confidence_percent: 90, patterns: vec!["a".into()] }, 400, None),
            (TurnError::SessionOver { problem: "the most turns were had".into() }, 409, None),
            (TurnError::CardOver { problem: "it was used".into() }, 409, None),
            (ModelError::RateLimited { retry_after: Some(Duration::from_millis(1_001)) }.into(), 503, Some(2)),
            (ModelError::Unreachable("secret.internal:443".into()).into(), 503, Some(10)),
            (ModelError::Status { status: 418 }.into(), 502, None),
            (ModelError::Malformed("secret words".into()).into(), 502, None),
            (ModelError::Refused(Reason::HostNotAllowed).into(), 500, None),
            (TurnError::TooLate { seconds: 90 }, 503, Some(10)),
            (TurnError::Unavailable { what: "the log" }, 500, None),
        ];
        let mut codes = std::collections::BTreeSet::new();
        for (error, status, retry) in table {
            let name = format!("{error:?}");
            let refusal = Refusal::from(error);
            assert_eq!((refusal.status.as_u16(), refusal.retry_after_s), (status, retry), "{name}");
            assert!(codes.insert(refusal.code), "{name}");
            assert!(!refusal.json().to_string().contains("secret"), "{name}");
        }
    }

    #[test]
    fn g80_the_words_of_a_spent_hour_are_the_references() {
        let refusal = Refusal::from(TurnError::RateLimited { max: 100, window: "hour", retry_after_s: 60 });
        assert_eq!(refusal.message, "Rate limit exceeded: Rate limit exceeded. Max 100 requests per hour.");
    }
}
