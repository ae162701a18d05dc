//! The provider's cache of prompts: what of a request was there before, by its breakpoints.
//!
//! As Anthropic documents it: tools come before the system prompt and that before the messages; an entry is a prefix that
//! ends at a breakpoint; a request reads the longest entry that its own prefix has at a breakpoint or up to twenty blocks
//! before one, and writes what is between that and its last breakpoint. Chat Completions have no breakpoints: every message
//! ends a prefix, and writing is free. Entries have no age here, and no least length: there is no clock.
//!
//! *Must never* hold more than its named maximum, or a word of a request: entries are hashes.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::count::tokens;

/// Entries that are kept; the oldest are forgotten.
const ENTRIES_MAX: usize = 16 * 1024;
/// Blocks before a breakpoint that are looked at.
const LOOK_BACK: usize = 20;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PromptCache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    known: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

/// Tokens of a request's input, apart from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// Read from the cache.
    pub read: u64,
    /// Written to it.
    pub write: u64,
    /// Neither.
    pub input: u64,
}

/// A prefix of a request: everything up to the end of one block.
struct Prefix {
    hash: [u8; 32],
    bytes: u64,
    is_breakpoint: bool,
}

impl PromptCache {
    /// What of a request of Anthropic's was there, and keeps what is written.
    pub fn of_messages(&self, request: &Map<String, Value>) -> Split {
        let mut reading = Prefixes::begin(request);
        list(request, "tools").for_each(|tool| reading.push("tool", tool));
        blocks(request.get("system"), |block| reading.push("system", block));
        for message in list(request, "messages") {
            let role = message["role"].as_str().unwrap_or_default();
            blocks(message.get("content"), |block| reading.push(role, block));
        }
        self.split(&reading.all)
    }

    /// What of a request of Chat Completions was there. Nothing is charged for writing.
    pub fn of_chat(&self, request: &Map<String, Value>) -> Split {
        let mut reading = Prefixes::begin(request);
        let tools = request.get("tools").cloned().unwrap_or_default();
        reading.push("tools", &tools);
        list(request, "messages").for_each(|message| reading.push("message", message));
        reading.all.iter_mut().for_each(|prefix| prefix.is_breakpoint = true);
        let split = self.split(&reading.all);
        Split { read: split.read, write: 0, input: split.input + split.write }
    }

    fn split(&self, prefixes: &[Prefix]) -> Split {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let points: Vec<usize> = (0..prefixes.len()).filter(|at| prefixes[*at].is_breakpoint).collect();
        let near = points.iter().rev().flat_map(|at| (at.saturating_sub(LOOK_BACK)..=*at).rev());
        let hit = near.into_iter().find(|at| entries.known.contains(&prefixes[*at].hash));
        let tokens_to = |at: Option<usize>| at.map_or(0, |at| tokens(prefixes[at].bytes));
        let (read, cached) = (tokens_to(hit), tokens_to(points.last().copied()));
        points.iter().for_each(|at| entries.keep(prefixes[*at].hash));
        let all = tokens_to(prefixes.len().checked_sub(1));
        Split { read, write: cached.saturating_sub(read), input: all - cached.max(read) }
    }
}

impl Entries {
    fn keep(&mut self, hash: [u8; 32]) {
        if self.known.insert(hash) {
            self.order.push_back(hash);
        }
        if self.order.len() > ENTRIES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

struct Prefixes {
    hash: Sha256,
    bytes: u64,
    all: Vec<Prefix>,
}

impl Prefixes {
    /// Each model has entries of its own.
    fn begin(request: &Map<String, Value>) -> Prefixes {
        let model = request.get("model").and_then(Value::as_str).unwrap_or_default();
        Prefixes { hash: Sha256::new().chain_update(model), bytes: 0, all: Vec::new() }
    }

    fn push(&mut self, place: &str, block: &Value) {
        let mut plain = block.clone();
        let marked = plain.as_object_mut().and_then(|block| block.remove("cache_control"));
        let text = plain.to_string();
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(place);
        self.hash.update(&text);
        self.bytes += text.len() as u64;
        let (hash, bytes) = (self.hash.clone().finalize().into(), self.bytes);
        let is_breakpoint = marked.is_some_and(|mark| mark["type"] == "ephemeral");
        self.all.push(Prefix { hash, bytes, is_breakpoint });
    }
}

fn list<'a>(request: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Value> {
    request.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn blocks<'a>(content: Option<&'a Value>, mut take: impl FnMut(&'a Value)) {
    match content {
        Some(Value::Array(blocks)) => blocks.iter().for_each(take),
        Some(text @ Value::String(_)) => take(text),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(system: &str, said: &[&str]) -> Map<String, Value> {
        let last = said.len() - 1;
        let messages: Vec<Value> = said
            .iter()
            .enumerate()
            .map(|(at, text)| {
                let mut block = json!({"type": "text", "text": text});
                if at == last {
                    block["cache_control"] = json!({"type": "ephemeral"});
                }
                json!({"role": if at % 2 == 0 { "user" } else { "assistant" }, "content": [block]})
            })
            .collect();
        let system = json!([{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]);
        let Value::Object(request) = json!({"model": "m", "system": system, "messages": messages}) else { panic!() };
        request
    }

    #[test]
    fn a_request_reads_what_an_earlier_one_wrote_and_writes_what_is_new() {
        let cache = PromptCache::default();
        let first = cache.of_messages(&request("s", &["a"]));
        assert_eq!((first.read, first.input), (0, 0));
        let again = cache.of_messages(&request("s", &["a"]));
        assert_eq!((again.read, again.write), (first.write, 0));
        let longer = cache.of_messages(&request("s", &["a", "b", "c"]));
        assert_eq!(longer.read, first.write);
        assert!(longer.write > 0 && longer.input == 0);
        // Another conversation has the system prompt in common, another system prompt nothing.
        let other = cache.of_messages(&request("s", &["x"]));
        assert!(other.read > 0 && other.read < first.write);
        assert_eq!(cache.of_messages(&request("t", &["a"])).read, 0);
    }

    #[test]
    fn without_breakpoints_nothing_is_cached() {
        let cache = PromptCache::default();
        let Value::Object(request) = json!({"messages": [{"role": "user", "content": "hello there"}]}) else {
            panic!()
        };
        for _ in 0..2 {
            let split = cache.of_messages(&request);
            assert!(split.read == 0 && split.write == 0 && split.input > 0);
        }
    }

    #[test]
    fn chat_completions_read_their_longest_beginning_and_write_for_free() {
        let cache = PromptCache::default();
        let request = |said: &[&str]| {
            let messages: Vec<Value> = said.iter().map(|text| json!({"role": "user", "content": text})).collect();
            let Value::Object(request) = json!({"model": "m", "messages": messages}) else { panic!() };
            request
        };
        let first = cache.of_chat(&request(&["a"]));
        assert!(first.read == 0 && first.write == 0 && first.input > 0);
        assert_eq!(cache.of_chat(&request(&["a", "b"])).read, first.input);
    }

    #[test]
    fn entries_are_bounded() {
        let mut entries = Entries::default();
        for number in 0..(ENTRIES_MAX as u64 + 10) {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            entries.keep(hash);
        }
        assert_eq!((entries.known.len(), entries.order.len()), (ENTRIES_MAX, ENTRIES_MAX));
    }
}
