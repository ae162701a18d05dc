//! The service's own log: one JSON object a line, apart from the audit log (G40, G83).
//!
//! *Must never* hold a word that a person or a model wrote, a session's id, a token, or an address in clear: short keyed
//! hashes only, and the route's pattern in place of the path.

use std::sync::Arc;
use std::time::Duration;

use carboy_core::ports::{Clock, SessionKey};
use carboy_core::secret::SecretText;
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
    pub session: Option<SessionKey>,
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
            "timestamp": time(self.clock.now_ms()),
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
            ("session", entry.session.map(|key| Value::from(short(&key.0)))),
        ] {
            if let Some(value) = value {
                line[name] = value;
            }
        }
        (self.lines)(&line.to_string());
    }

    /// How a turn ended whose answer had begun.
    pub fn turn(&self, correlation: &str, session: SessionKey, code: &str, particulars: Option<&str>) {
        let level = if code == "done" { "info" } else { "warning" };
        let mut line = json!({
            "timestamp": time(self.clock.now_ms()),
            "level": level,
            "event": "turn",
            "correlation_id": correlation,
            "code": code,
            "session": short(&session.0),
        });
        if let Some(particulars) = particulars {
            line["particulars"] = particulars.into();
        }
        (self.lines)(&line.to_string());
    }

    /// Something of the service itself.
    pub fn say(&self, event: &str, words: &str) {
        let line = json!({"timestamp": time(self.clock.now_ms()), "level": "info", "event": event, "message": words});
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

/// RFC 3339 with milliseconds, in UTC.
fn time(ms: u64) -> String {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date(days);
    let (seconds, thousandths) = (of_day / 1_000, of_day % 1_000);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{:02}.{thousandths:03}Z", seconds % 60)
}

/// The civil date of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_people_write_them() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(time(1_798_761_599_999), "2026-12-31T23:59:59.999Z");
    }
}
