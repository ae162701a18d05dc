//! What a model's answer is taken for: words, calls with ids of their own, and nothing that cannot be kept.
//!
//! *Must never* let an answer break the session that keeps it: ids that are double, names that no provider takes back,
//! arguments that are huge or nested without end, a thousand calls. What is dropped here is dropped before it is remembered.

use std::collections::HashSet;

use carboy_core::chat::ChatLimits;
use carboy_wire::chat::{Block, Completion, Message};
use serde_json::{Value, json};

use crate::calls::is_larger;
use crate::tool::without_control;

/// How deep arguments are nested.
pub const ARGUMENTS_DEPTH_MAX: usize = 32;
/// Calls of one answer that are answered, as a multiple of those that are run; what is beyond was never there.
pub const CALLS_ANSWERED_FACTOR: usize = 4;
/// Octets of all opaque blocks of one answer.
pub const OPAQUE_BYTES_MAX: usize = 64 * 1024;
/// Characters of an id and of a name, as every provider takes them back.
const NAME_CHARS_MAX: usize = 64;

/// A call that a model asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// Unique in the conversation.
    pub(crate) id: String,
    pub(crate) name: String,
    /// As the model gave it; `None` is what is not even kept.
    pub(crate) input: Option<Value>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Its words.
    pub(crate) text: String,
    /// What only its provider understands.
    pub(crate) opaque: Vec<Block>,
    /// What it asks for.
    pub(crate) calls: Vec<Asked>,
}

impl Answer {
    pub(crate) fn read(completion: Completion, history: &[Message], limits: &ChatLimits) -> Answer {
        let mut used = ids_of(history);
        let calls_max = (limits.tool_calls_max as usize).saturating_mul(CALLS_ANSWERED_FACTOR);
        let mut answer = Answer { text: String::new(), opaque: Vec::new(), calls: Vec::new() };
        let mut opaque_bytes_left = OPAQUE_BYTES_MAX;
        for block in completion.blocks {
            match block {
                Block::Text { text } => answer.text.push_str(&text),
                Block::ToolUse { id, name, input } if answer.calls.len() < calls_max => {
                    let id = own_id(id, &mut used);
                    let bytes_max = limits.tool_arguments_bytes_max as usize;
                    let fits = !is_deeper(&input, ARGUMENTS_DEPTH_MAX) && !is_larger(&input, bytes_max);
                    answer.calls.push(Asked { id, name, input: fits.then_some(input) });
                }
                Block::Opaque { value }
                    if !is_deeper(&value, ARGUMENTS_DEPTH_MAX) && !is_larger(&value, opaque_bytes_left) =>
                {
                    opaque_bytes_left -= value.to_string().len();
                    answer.opaque.push(Block::Opaque { value });
                }
                Block::ToolUse { .. } | Block::Opaque { .. } | Block::ToolResult { .. } => {} // no result is a model's
            }
        }
        answer
    }

    /// The blocks that are remembered, with these words: those that a person was shown.
    pub(crate) fn blocks(&self, words: &str) -> Vec<Block> {
        let text = (!words.is_empty()).then(|| Block::Text { text: words.to_owned() });
        let calls = self.calls.iter().map(|call| Block::ToolUse {
            id: call.id.clone(),
            name: if is_name(&call.name) { call.name.clone() } else { "unknown_tool".into() },
            input: match call.input.as_ref().map(without_control) {
                Some(input @ Value::Object(_)) => input,
                Some(other) => json!({"not_an_object": other}),
                None => json!({"omitted": "too large"}),
            },
        });
        self.opaque.iter().cloned().chain(text).chain(calls).collect()
    }
}

fn ids_of(history: &[Message]) -> HashSet<String> {
    let blocks = history.iter().flat_map(|message| &message.blocks);
    blocks
        .filter_map(|block| match block {
            Block::ToolUse { id, .. } => Some(id.clone()),
            Block::Text { .. } | Block::ToolResult { .. } | Block::Opaque { .. } => None,
        })
        .collect()
}

/// The model's id where it is one that nobody has; else one of ours.
fn own_id(id: String, used: &mut HashSet<String>) -> String {
    if is_name(&id) && used.insert(id.clone()) {
        return id;
    }
    let own = (used.len()..).map(|n| format!("call_{n}")).find(|id| !used.contains(id));
    let own = own.expect("numbers do not end");
    used.insert(own.clone());
    own
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    !text.is_empty() && text.len() <= NAME_CHARS_MAX && text.chars().all(plain)
}

fn is_deeper(value: &Value, depth_max: usize) -> bool {
    match value {
        Value::Array(values) => depth_max == 0 || values.iter().any(|value| is_deeper(value, depth_max - 1)),
        Value::Object(map) => depth_max == 0 || map.values().any(|value| is_deeper(value, depth_max - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carboy_wire::chat::{Role, Stopped};

    fn call(id: &str, input: Value) -> Block {
        Block::ToolUse { id: id.into(), name: "look".into(), input }
    }

    fn read(blocks: Vec<Block>, history: &[Message]) -> Answer {
        Answer::read(Completion { blocks, stopped: Stopped::ToolUse }, history, &ChatLimits::default())
    }

    #[test]
    fn i8_ids_that_are_double_or_that_no_provider_takes_back_are_replaced() {
        let history = [Message { role: Role::Assistant, blocks: vec![call("old", json!({}))] }];
        let ids = ["a", "a", "old", "", "b\u{0}", "call_99", &"x".repeat(65)];
        let answer = read(ids.iter().map(|id| call(id, json!({}))).collect(), &history);
        let unique: HashSet<&str> = answer.calls.iter().map(|call| call.id.as_str()).collect();
        assert_eq!(unique.len(), ids.len());
        assert_eq!((answer.calls[0].id.as_str(), answer.calls[5].id.as_str()), ("a", "call_99"));
        assert!(unique.iter().all(|id| is_name(id) && *id != "old"));
    }

    #[test]
    fn i12_a_thousand_calls_a_megabyte_and_arguments_without_end_are_not_remembered() {
        let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
        let mut blocks = vec![call("big", json!({"x": "y".repeat(1 << 20)})), call("deep", json!({"x": deep}))];
        blocks.extend((0..1_000).map(|n| call(&format!("c{n}"), json!({}))));
        let answer = read(blocks, &[]);
        assert_eq!(answer.calls.len(), 16 * CALLS_ANSWERED_FACTOR);
        assert_eq!((&answer.calls[0].input, &answer.calls[1].input), (&None, &None));
        assert!(serde_json::to_string(&answer.blocks("")).unwrap().len() < 8_192);
    }

    #[test]
    fn g17_nothing_that_cannot_be_sent_back_is_remembered_of_a_call() {
        let odd = Block::ToolUse { id: "a".into(), name: "lo\u{0}ok".into(), input: json!("no \u{0} object") };
        let forged = Block::ToolResult { tool_use_id: "a".into(), content: "{}".into(), is_error: false };
        let answer = read(vec![odd, forged], &[]);
        let expected =
            json!([{"type": "tool_use", "id": "a", "name": "unknown_tool", "input": {"not_an_object": "no  object"}}]);
        assert_eq!(serde_json::to_value(answer.blocks("")).unwrap(), expected);
    }
}
