//! What happened, in typed fields: never raw text of a message, never a secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing that happened, before it gets its place in the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its kind.
    pub event_type: EventType,
    /// Whom it concerns.
    pub subject: Subject,
    /// What was tried, as `verb` or `verb_noun`: `request`, `dns_query`, `start`.
    pub action: &'static str,
    /// How it ended.
    pub result: Outcome,
    /// Particulars by name.
    pub details: BTreeMap<&'static str, Detail>,
}

impl Event {
    /// An event without particulars.
    pub fn new(event_type: EventType, subject: Subject, action: &'static str, result: Outcome) -> Self {
        Event { event_type, subject, action, result, details: BTreeMap::new() }
    }

    /// Adds a particular.
    pub fn with(mut self, name: &'static str, value: impl Into<Detail>) -> Self {
        self.details.insert(name, value.into());
        self
    }
}

/// Kinds of events. New kinds may be added; the text of one never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// A run started or ended.
    Run,
    /// A request was decided or answered.
    Egress,
    /// A name was asked of DNS.
    Dns,
    /// A scanner found something.
    Security,
    /// Routes or settings were loaded, or refused and the old ones kept.
    Policy,
    /// An operator did something.
    Operator,
    /// A connection through a published or forwarded port was opened, closed or refused.
    Port,
    /// A cap was set, crossed or enforced, or a reservation ended without its owner.
    Budget,
    /// A turn of a conversation began, or how it ended.
    Turn,
    /// A tool call of a chat agent was decided, or how it ended.
    Tool,
    /// A request came beyond a limit of rate.
    RateLimit,
    /// A session was forgotten, could not be read, or got feedback; a webhook was told of one.
    Session,
    /// A question was put to somebody, answered, used or left too long.
    Ask,
}

/// Whom an event concerns. Absent parts are left out of the entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subject {
    /// The person or customer, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The bottle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bottle: Option<String>,
    /// The run of the bottle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was let through.
    Allowed,
    /// It was refused before anything of it left.
    Denied,
    /// It was let through with parts overwritten.
    Redacted,
    /// It was let through with a remark.
    Warned,
    /// It was cut off on the way; `details` says how many bytes had left. Of a message to a chat agent: it was refused before
    /// any model read it.
    Blocked,
    /// It was done.
    Done,
    /// It could not be done.
    Failed,
}

/// A particular's value: whole numbers, hundredths, words, yes or no, lists of words.
#[derive(Clone, Debug, PartialEq)]
pub struct Detail(Value);

impl Detail {
    /// A share in hundredths as a number below 1: 90 is `0.9`.
    pub fn hundredths(percent: u8) -> Self {
        Detail(Value::from(f64::from(percent) / 100.0))
    }

    /// As JSON.
    pub fn into_json(self) -> Value {
        self.0
    }

    /// As JSON, borrowed.
    pub fn as_json(&self) -> &Value {
        &self.0
    }
}

impl From<&str> for Detail {
    fn from(text: &str) -> Self {
        Detail(Value::from(text))
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Detail(Value::from(text))
    }
}

impl From<u64> for Detail {
    /// Above 2⁵³ − 1 a JSON number is no longer exact (RFC 8785): such a count is written as text.
    fn from(number: u64) -> Self {
        const EXACT_MAX: u64 = (1 << 53) - 1;
        Detail(if number <= EXACT_MAX { Value::from(number) } else { Value::from(number.to_string()) })
    }
}

impl From<u16> for Detail {
    fn from(number: u16) -> Self {
        Detail(Value::from(number))
    }
}

impl From<bool> for Detail {
    fn from(yes: bool) -> Self {
        Detail(Value::from(yes))
    }
}

impl From<Vec<String>> for Detail {
    fn from(words: Vec<String>) -> Self {
        Detail(Value::from(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g81_hundredths_are_the_numbers_that_people_write() {
        let canonical = |percent| {
            let detail = Detail::hundredths(percent).into_json();
            String::from_utf8(serde_json_canonicalizer::to_vec(&detail).unwrap()).unwrap()
        };
        assert_eq!(canonical(90), "0.9");
        for percent in 0..=100_u8 {
            let text = match (percent / 100, percent % 100) {
                (whole, 0) => format!("{whole}"),
                (_, rest) if rest % 10 == 0 => format!("0.{}", rest / 10),
                (_, rest) => format!("0.{rest:02}"),
            };
            assert_eq!(canonical(percent), text);
        }
    }
}
