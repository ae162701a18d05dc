//! The service's own log: one JSON object a line, apart from the audit log (G40, G83).
//!
//! *Must never* hold a word that a person or a model wrote, a session's id, a token, or an address in clear: short keyed
//! hashes only, and the route's pattern in place of the path.

use std::sync::Arc;
use std::time::Duration;

use carboy_core::ports::{Clock, Conversation};
use carboy_core::secret::SecretText;
use carboy_store::audit::rfc3339;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::identity::short;

/// Where lines go: standard error, as a rule.
pub type Lines = Arc<dyn Fn(&str) + Send + Sync>;

/// What one request came to.
pub(super) struct Entry<'e> {
    pub correlation: &'e str,
    pub method: &'e str,
    /// `/api/chat`; `-` for an address that is none.
    pub route: &'e str,
    pub status: u16,
    pub code: Option<&'e str>,
    pub particulars: Option<&'e str>,
    pub address: std::net::IpAddr,
    /// As the audit log calls it.
    pub session: Option<&'e str>,
    pub took: Duration,
}

/// Writes lines.
pub(super) struct Journal {
    lines: Lines,
    clock: Arc<dyn Clock>,
    key: SecretText,
}

impl Journal {
    pub fn new(lines: Lines, clock: Arc<dyn Clock>, key: SecretText) -> Journal {
        Journal { lines, clock, key }
    }

    /// A request that was answered.
    pub fn request(&self, entry: &Entry<'_>) {
        let level = match entry.status {
            500.. => "error",
            400..=499 => "warning",
            0..=399 => "info",
        };
        let mut line = json!({
            "timestamp": rfc3339(self.clock.now_ms()),
            "level": level,
            "event": "request",
            "correlation_id": entry.correlation,
            "method": entry.method,
            "route": entry.route,
            "status": entry.status,
            "took_ms": u64::try_from(entry.took.as_millis()).unwrap_or(u64::MAX),
            "from": self.hash(entry.address.to_string().as_bytes()),
        });
        for (name, value) in [
            ("code", entry.code.map(Value::from)),
            ("particulars", entry.particulars.map(Value::from)),
            ("session", entry.session.map(Value::from)),
        ] {
            if let Some(value) = value {
                line[name] = value;
            }
        }
        (self.lines)(&line.to_string());
    }

    /// How a turn ended whose answer had begun.
    pub fn turn(&self, correlation: &str, whose: &Conversation, code: &str, particulars: Option<&str>) {
        let level = if code == "done" { "info" } else { "warning" };
        let mut line = json!({
            "timestamp": rfc3339(self.clock.now_ms()),
            "level": level,
            "event": "turn",
            "correlation_id": correlation,
            "code": code,
            "session": whose.session,
        });
        // One that failed was none.
        if whose.turn > 0 {
            line["turn"] = whose.turn.into();
        }
        if let Some(particulars) = particulars {
            line["particulars"] = particulars.into();
        }
        (self.lines)(&line.to_string());
    }

    /// Something of the service itself.
    pub fn say(&self, event: &str, words: &str) {
        let line =
            json!({"timestamp": rfc3339(self.clock.now_ms()), "level": "info", "event": event, "message": words});
        (self.lines)(&line.to_string());
    }

    fn hash(&self, octets: &[u8]) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.key.expose().as_bytes()).expect("HMAC takes a key of any length");
        mac.update(b"carboy log");
        mac.update(octets);
        short(&mac.finalize().into_bytes())
    }
}
