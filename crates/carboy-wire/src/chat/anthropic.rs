//! Anthropic Messages (`POST /v1/messages`): a prompt as its body, and its answer read.
//!
//! Cache breakpoints stand on the last tool, on the system prompt and on the last message, and nowhere else: what is the
//! same in the next request is read from the provider's cache. Reminders follow the system prompt's breakpoint.
//!
//! *Must never* put anything that changes from turn to turn before a breakpoint that should hold.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::reading::{Assembly, Framing};
use super::{Block, Completion, Delta, Fault, Message, Prompt, ReadError, Role, Stopped, ToolSchema};
use crate::sse;

/// The value of `anthropic-version` that these shapes are of.
pub const VERSION: &str = "2023-06-01";

/// The body that asks for a streamed answer.
pub fn request(prompt: &Prompt<'_>) -> Vec<u8> {
    let mut body = json!({
        "model": prompt.model,
        "max_tokens": prompt.output_tokens_max.max(1),
        "stream": true,
        "messages": messages(prompt.messages),
    });
    let system = system(prompt);
    if !system.is_empty() {
        body["system"] = Value::Array(system);
    }
    if !prompt.tools.is_empty() {
        body["tools"] = Value::Array(tools(prompt.tools));
    }
    body.to_string().into_bytes()
}

fn breakpoint(block: &mut Value) {
    block["cache_control"] = json!({"type": "ephemeral"});
}

fn system(prompt: &Prompt<'_>) -> Vec<Value> {
    let text = |text: &str| json!({"type": "text", "text": text});
    let mut blocks = Vec::new();
    if !prompt.system.is_empty() {
        let mut block = text(prompt.system);
        breakpoint(&mut block);
        blocks.push(block);
    }
    blocks.extend(prompt.reminders.iter().filter(|reminder| !reminder.is_empty()).map(|reminder| text(reminder)));
    blocks
}

fn tools(tools: &[ToolSchema]) -> Vec<Value> {
    let mut tools: Vec<Value> = tools
        .iter()
        .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}))
        .collect();
    if let Some(last) = tools.last_mut() {
        breakpoint(last);
    }
    tools
}

fn messages(messages: &[Message]) -> Vec<Value> {
    let mut all: Vec<(Role, Vec<Value>)> = Vec::new();
    for message in messages {
        let blocks: Vec<Value> = message.blocks.iter().filter_map(block).collect();
        if !blocks.is_empty() {
            all.push((message.role, blocks));
        }
    }
    // Thinking takes no breakpoint; the last block that takes one has it.
    let takes = |block: &&mut Value| matches!(block["type"].as_str(), Some("text" | "tool_use" | "tool_result"));
    if let Some(block) = all.last_mut().and_then(|(_, blocks)| blocks.iter_mut().rev().find(takes)) {
        breakpoint(block);
    }
    let shaped = all.into_iter().map(|(role, content)| json!({"role": role, "content": content}));
    shaped.collect()
}

/// An empty text is no block there.
fn block(block: &Block) -> Option<Value> {
    Some(match block {
        Block::Text { text } if text.is_empty() => return None,
        Block::Text { text } => json!({"type": "text", "text": text}),
        Block::ToolUse { id, name, input } => {
            json!({"type": "tool_use", "id": word(id), "name": word(name), "input": object(input)})
        }
        Block::ToolResult { tool_use_id, content, is_error } => json!({
            "type": "tool_result", "tool_use_id": word(tool_use_id), "content": content, "is_error": is_error,
        }),
        Block::Opaque { value } => value.clone(),
    })
}

/// Ids and names are letters, digits, `_` and `-` there: one that a model made up otherwise would break every request after.
fn word(text: &str) -> String {
    let word: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    if word.is_empty() { "_".to_owned() } else { word }
}

/// A call's arguments are an object on every wire; what was none is told as one.
pub(super) fn object(input: &Value) -> Value {
    if input.is_object() { input.clone() } else { json!({"arguments": input}) }
}

/// Reads an answer.
#[derive(Debug)]
pub struct Reader {
    framing: Framing,
    assembly: Assembly,
    /// Blocks that are open: their index on the wire, and their place.
    open: BTreeMap<u64, usize>,
    stopped: Option<Stopped>,
    ended: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    ContentBlockStart {
        index: u64,
        content_block: Map<String, Value>,
    },
    ContentBlockDelta {
        index: u64,
        delta: Part,
    },
    ContentBlockStop {
        index: u64,
    },
    MessageDelta {
        delta: End,
    },
    MessageStop,
    Error {
        #[serde(default)]
        error: Value,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    TextDelta {
        text: String,
    },
    InputJsonDelta {
        partial_json: String,
    },
    ThinkingDelta {
        thinking: String,
    },
    SignatureDelta {
        signature: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct End {
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct Whole {
    content: Vec<Map<String, Value>>,
    stop_reason: Option<String>,
}

impl Default for Reader {
    fn default() -> Self {
        Reader::new()
    }
}

impl Reader {
    /// At an answer's beginning.
    pub fn new() -> Reader {
        let (framing, assembly) = (Framing::new(), Assembly::default());
        Reader { framing, assembly, open: BTreeMap::new(), stopped: None, ended: false }
    }

    /// Reads on; appends what is new. After an error there is nothing more to be had.
    pub fn feed(&mut self, bytes: &[u8], deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        let mut events = Vec::new();
        let framed = self.framing.feed(bytes, &mut events);
        for event in &events {
            self.event(event, deltas)?;
        }
        framed
    }

    /// The format's end was read: nothing that follows is heard.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The bytes are at their end.
    pub fn finish(mut self, deltas: &mut Vec<Delta>) -> Result<Completion, ReadError> {
        if let Some(body) = self.framing.whole() {
            self.whole(&body, deltas)?;
        }
        if !self.ended {
            return Err(ReadError::BrokeOff);
        }
        Ok(self.assembly.finish(self.stopped.unwrap_or(Stopped::Other)))
    }

    fn event(&mut self, event: &sse::Event, deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        if self.ended {
            return Ok(());
        }
        let event = serde_json::from_str(&event.data).map_err(|_| ReadError::Malformed("an event is none of it"))?;
        match event {
            Event::ContentBlockStart { index, content_block } => {
                let place = self.block(content_block, deltas)?;
                if self.open.insert(index, place).is_some() {
                    return Err(ReadError::Malformed("a block begins twice"));
                }
                Ok(())
            }
            Event::ContentBlockDelta { index, delta } => {
                let place = *self.open.get(&index).ok_or(ReadError::Malformed("a block goes on that is not open"))?;
                match delta {
                    Part::TextDelta { text } => self.assembly.text(place, &text, deltas),
                    Part::InputJsonDelta { partial_json } => self.assembly.arguments(place, &partial_json),
                    Part::ThinkingDelta { thinking } => self.assembly.opaque_text(place, "thinking", &thinking),
                    Part::SignatureDelta { signature } => self.assembly.opaque_text(place, "signature", &signature),
                    Part::Other => Ok(()),
                }
            }
            Event::ContentBlockStop { index } => match self.open.remove(&index) {
                Some(_) => Ok(()),
                None => Err(ReadError::Malformed("a block ends that is not open")),
            },
            Event::MessageDelta { delta } => {
                self.stopped = delta.stop_reason.as_deref().map(stopped).or(self.stopped);
                Ok(())
            }
            Event::MessageStop if self.open.is_empty() => {
                self.ended = true;
                Ok(())
            }
            Event::MessageStop => Err(ReadError::Malformed("it ends while a block is open")),
            Event::Error { error } => Err(ReadError::Failed(Fault::of_body(&error))),
            Event::Other => Ok(()),
        }
    }

    /// A block, whole or as it begins.
    fn block(&mut self, block: Map<String, Value>, deltas: &mut Vec<Delta>) -> Result<usize, ReadError> {
        let text = |key: &str| block.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("type") {
            "text" => {
                let place = self.assembly.open_text()?;
                self.assembly.text(place, text("text"), deltas)?;
                Ok(place)
            }
            "tool_use" => {
                let place = self.assembly.open_call(text("id"), text("name"), deltas)?;
                // A stream begins it empty, and its parts follow.
                if let Some(Value::Object(input)) = block.get("input").filter(|input| **input != json!({})) {
                    self.assembly.arguments(place, &Value::Object(input.clone()).to_string())?;
                }
                Ok(place)
            }
            "" => Err(ReadError::Malformed("a block has no type")),
            _ => self.assembly.open_opaque(block),
        }
    }

    fn whole(&mut self, body: &[u8], deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        let value: Value = serde_json::from_slice(body).map_err(|error| match error.is_eof() {
            true => ReadError::BrokeOff,
            false => ReadError::Malformed("it is no JSON"),
        })?;
        if value["type"] == "error" {
            return Err(ReadError::Failed(Fault::of_body(&value)));
        }
        let whole: Whole = serde_json::from_value(value).map_err(|_| ReadError::Malformed("it is no message"))?;
        for block in whole.content {
            self.block(block, deltas)?;
        }
        self.stopped = whole.stop_reason.as_deref().map(stopped);
        self.ended = true;
        Ok(())
    }
}

fn stopped(reason: &str) -> Stopped {
    match reason {
        "end_turn" | "stop_sequence" => Stopped::EndOfTurn,
        "tool_use" => Stopped::ToolUse,
        "max_tokens" | "model_context_window_exceeded" => Stopped::OutputLimit,
        "refusal" => Stopped::Refused,
        _ => Stopped::Other,
    }
}
