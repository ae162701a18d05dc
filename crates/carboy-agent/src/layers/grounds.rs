//! What was released: the values that tools gave back to this principal, which alone a reply may mention.
//!
//! ```text
//!  tool result ─▶ every text and number in it ─▶ this turn ─▶ (next turn) ─▶ this session
//! ```
//!
//! Two sets, since results of this turn and of the session count differently (G21). *Must never* take in a word of a
//! message or of a model: then a model could ground what it made up.

use std::collections::{BTreeSet, VecDeque};

use carboy_core::chat::GroundingScope;
use carboy_guard::{grounding, plain};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::tool::Output;

/// Octets of text of one turn's results that count; what is beyond them grounds nothing.
pub const TURN_BYTES_MAX: usize = 1024 * 1024;
/// Octets of text that a session remembers of earlier turns; the oldest goes first.
pub const SESSION_BYTES_MAX: usize = 64 * 1024;

/// What was released in one session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grounds {
    turn: Released,
    session: Released,
}

/// Texts as they are compared ([`plain::folded`]), oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Released {
    texts: VecDeque<String>,
    bytes: usize,
}

impl Released {
    fn keep(&mut self, text: String) {
        self.bytes += text.len();
        self.texts.push_back(text);
    }

    fn drop_oldest(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some(text) = self.texts.pop_front() else { break };
            self.bytes -= text.len();
        }
    }
}

impl Grounds {
    /// A new turn: what the last one released now counts for the session alone.
    pub fn begin_turn(&mut self) {
        for text in std::mem::take(&mut self.turn).texts {
            if !self.session.texts.contains(&text) {
                self.session.keep(text);
            }
        }
        self.session.drop_oldest(SESSION_BYTES_MAX);
    }

    /// A value that a tool released.
    pub fn release(&mut self, value: &str) {
        let text = plain::folded(value);
        if text.trim().is_empty() || self.turn.bytes + text.len() > TURN_BYTES_MAX || self.turn.texts.contains(&text) {
            return;
        }
        self.turn.keep(text);
    }

    /// Everything that a tool gave back: the values it names, and each text and number of its result.
    pub fn release_output(&mut self, output: &Output) {
        output.released.iter().for_each(|value| self.release(value));
        self.release_json(&output.value);
    }

    /// What a write was asked for that a person confirmed.
    pub fn release_arguments(&mut self, arguments: &Map<String, Value>) {
        arguments.values().for_each(|value| self.release_json(value));
    }

    fn release_json(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.release(text),
            Value::Number(number) => self.release(&number.to_string()),
            Value::Array(values) => values.iter().for_each(|value| self.release_json(value)),
            // Names too: a map from order to item releases the order.
            Value::Object(map) => map.iter().for_each(|(name, value)| {
                self.release(name);
                self.release_json(value);
            }),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn texts(&self, scope: GroundingScope) -> impl Iterator<Item = &str> {
        let earlier = match scope {
            GroundingScope::Turn => None,
            GroundingScope::Session => Some(&self.session.texts),
        };
        self.turn.texts.iter().chain(earlier.into_iter().flatten()).map(String::as_str)
    }

    /// Does this very value stand in what was released in this session? What the output filter leaves alone: a person's own
    /// address, which their order has.
    pub fn allows(&self, value: &str) -> bool {
        let value = plain::folded(value);
        self.texts(GroundingScope::Session).any(|text| grounding::stands_in(&value, text))
    }

    /// The ids of a shape that were released.
    pub(crate) fn ids(&self, shape: &grounding::IdShape, scope: GroundingScope) -> BTreeSet<String> {
        self.texts(scope).flat_map(|text| shape.ids(text)).map(|id| id.text).collect()
    }

    /// The dates that were released.
    pub(crate) fn dates(&self, scope: GroundingScope) -> BTreeSet<grounding::Date> {
        self.texts(scope).flat_map(grounding::dates).map(|(date, _)| date).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn output(value: Value) -> Output {
        Output { value, released: vec!["BK-9999".into()] }
    }

    #[test]
    fn g21_texts_numbers_and_names_of_a_result_are_released() {
        let mut grounds = Grounds::default();
        grounds.release_output(&output(json!({"orders": [{"id": "BK-1001", "total": 19.5}], "#W1": null})));
        for value in ["BK-1001", "bk-1001", "19.5", "#W1", "BK-9999"] {
            assert!(grounds.allows(value), "{value}");
        }
        for value in ["BK-100", "K-1001", "9.5", "BK-10011", ""] {
            assert!(!grounds.allows(value), "{value}");
        }
    }

    #[test]
    fn g21_a_turn_ends_and_its_values_are_the_sessions_until_they_are_too_many() {
        let mut grounds = Grounds::default();
        grounds.release("BK-1001");
        let shape = grounding::IdShape::new(r"BK-\d{4}").unwrap();
        assert_eq!(grounds.ids(&shape, GroundingScope::Turn).len(), 1);
        grounds.begin_turn();
        assert_eq!(grounds.ids(&shape, GroundingScope::Turn).len(), 0);
        assert_eq!(grounds.ids(&shape, GroundingScope::Session).len(), 1);
        for n in 0..10 {
            grounds.release(&format!("{n} {}", "x".repeat(SESSION_BYTES_MAX / 8)));
            grounds.begin_turn();
        }
        assert!(grounds.session.bytes <= SESSION_BYTES_MAX);
        assert_eq!(grounds.ids(&shape, GroundingScope::Session).len(), 0);
    }
}
