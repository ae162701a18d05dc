//! Values that were released to a session: what an id or a date in a reply is compared with (G21, G22).
//!
//! ```text
//! result of a tool ─▶ its texts, numbers and names that look like ids ─▶ value → the turn of its last release
//! ```
//!
//! *Must never* take a value from a person's message, a model's text, a call's arguments or an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Values of one session at once; those of the longest past turns go first.
pub const RELEASED_MAX: usize = 4_096;
/// Characters of one value; of longer texts only the words with digits count.
pub const VALUE_CHARS_MAX: usize = 128;
/// Values taken from one result.
pub const VALUES_OF_RESULT_MAX: usize = 2_048;
/// How deep a result is read.
const DEPTH_MAX: usize = 64;

/// What was released, and in which turn last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Released(BTreeMap<String, u32>);

impl Released {
    /// Takes what a tool gave back in `turn`.
    pub(crate) fn take(&mut self, turn: u32, result: &Value, said: &[String]) {
        let mut found = Vec::new();
        leaves(result, 0, &mut found);
        said.iter().for_each(|text| text_of(text, &mut found));
        for value in found {
            self.0.insert(value, turn);
        }
        self.bound();
    }

    /// Every value of this session.
    pub(crate) fn of_session(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The values of one turn.
    pub(crate) fn of_turn(&self, turn: u32) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(_, of)| **of == turn).map(|(value, _)| value.as_str())
    }

    fn bound(&mut self) {
        let Some(too_many) = self.0.len().checked_sub(RELEASED_MAX).filter(|n| *n > 0) else { return };
        let mut turns: Vec<(u32, String)> = self.0.iter().map(|(value, turn)| (*turn, value.clone())).collect();
        turns.sort();
        for (_, value) in turns.into_iter().take(too_many) {
            self.0.remove(&value);
        }
    }
}

fn leaves(value: &Value, depth: usize, found: &mut Vec<String>) {
    if depth > DEPTH_MAX || found.len() >= VALUES_OF_RESULT_MAX {
        return;
    }
    match value {
        Value::String(text) => text_of(text, found),
        Value::Number(number) => push(&number.to_string(), found),
        Value::Array(values) => values.iter().for_each(|value| leaves(value, depth + 1, found)),
        Value::Object(map) => {
            for (name, value) in map {
                if has_digit(name) {
                    text_of(name, found); // maps by id: {"1008292230": {…}}
                }
                leaves(value, depth + 1, found);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// The text, and each word in it that could be an id or a date.
fn text_of(text: &str, found: &mut Vec<String>) {
    push(text.trim(), found);
    let words = text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '#')));
    for word in words.map(|word| word.trim_matches('-')).filter(|word| has_digit(word)) {
        push(word, found);
        if let Some(date) = word.get(..10).filter(|start| word.len() > 10 && is_date(start)) {
            push(date, found); // 2026-05-01T09
        }
    }
}

fn push(value: &str, found: &mut Vec<String>) {
    let short = !value.is_empty() && value.chars().count() <= VALUE_CHARS_MAX;
    if short && found.len() < VALUES_OF_RESULT_MAX {
        found.push(value.to_owned());
    }
}

fn has_digit(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
}

fn is_date(text: &str) -> bool {
    text.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn g21_g22_ids_and_dates_of_results_are_released_wherever_they_stand() {
        let mut released = Released::default();
        let result = json!({
            "order_id": "BK-1001",
            "delivered": "2026-05-01T09:30:00Z",
            "note": "Sent with #W123-9, arrives 2026-05-03.",
            "items": {"1008292230": {"count": 2}},
            "number": 77,
        });
        released.take(3, &result, &["RMA-1".into()]);
        let values: Vec<&str> = released.of_turn(3).collect();
        for value in ["BK-1001", "2026-05-01", "2026-05-03", "#W123-9", "1008292230", "77", "RMA-1"] {
            assert!(values.contains(&value), "{value} of {values:?}");
        }
        assert!(!values.contains(&"BK-1002") && !values.contains(&"order_id"));
        assert_eq!(released.of_turn(4).count(), 0, "of another turn");
        assert_eq!(released.of_session().count(), values.len());
    }

    #[test]
    fn i12_released_values_are_bounded_and_the_oldest_turns_go_first() {
        let mut released = Released::default();
        for turn in 0..6 {
            let many: Vec<String> = (0..1_000).map(|n| format!("id-{turn}-{n}")).collect();
            released.take(turn, &json!(many), &[]);
        }
        assert_eq!(released.of_session().count(), RELEASED_MAX);
        assert_eq!(released.of_turn(0).count(), 0);
        assert_eq!(released.of_turn(5).count(), 1_000);
    }
}
