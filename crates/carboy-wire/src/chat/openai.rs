//! OpenAI Chat Completions (`POST /v1/chat/completions`), as OpenAI, Ollama, vLLM and llama.cpp speak it.
//!
//! They differ in what they leave out and in how they count, so the reader takes what any of them sends: calls by index,
//! by id or by neither; ids that are missing or used twice; arguments that are an object, or no JSON; an end that is only
//! the mark or only the reason; one document where a stream was asked for.
//!
//! The system prompt begins the one system message and is followed by the reminders in it, since many servers' templates
//! take no second: a provider's cache of prefixes holds all that never changes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::anthropic::object;
use super::reading::{Assembly, Framing};
use super::{Block, Completion, Delta, Fault, Message, Prompt, ReadError, Role, Stopped, ToolSchema};
use crate::openai::DONE;
use crate::sse;

/// Longest arguments that are looked at for whether they are complete, in octets.
const LOOKED_AT_BYTES_MAX: usize = 16 * 1024;

/// How the most tokens of an answer are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputCap {
    /// `max_completion_tokens`: OpenAI itself, whose reasoning models refuse the other.
    MaxCompletionTokens,
    /// `max_tokens`: everybody else; Ollama knows no other.
    MaxTokens,
}

impl OutputCap {
    /// As the server of that name wants it.
    pub fn of_host(host: &str) -> OutputCap {
        let openai = ["openai.com", "openai.azure.com"];
        let is_one =
            |domain: &&str| host.strip_suffix(*domain).is_some_and(|front| front.is_empty() || front.ends_with('.'));
        if openai.iter().any(is_one) { OutputCap::MaxCompletionTokens } else { OutputCap::MaxTokens }
    }

    fn key(self) -> &'static str {
        match self {
            OutputCap::MaxCompletionTokens => "max_completion_tokens",
            OutputCap::MaxTokens => "max_tokens",
        }
    }
}

/// The body that asks for a streamed answer, with what it cost at its end.
pub fn request(prompt: &Prompt<'_>, cap: OutputCap) -> Vec<u8> {
    let mut messages = Vec::new();
    let system: Vec<&str> = [prompt.system].iter().chain(prompt.reminders).copied().filter(|s| !s.is_empty()).collect();
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system.join("\n\n")}));
    }
    prompt.messages.iter().for_each(|message| push_message(message, &mut messages));
    let mut body = json!({
        "model": prompt.model,
        "stream": true,
        "stream_options": {"include_usage": true},
        "messages": messages,
    });
    body[cap.key()] = json!(prompt.output_tokens_max.max(1));
    if !prompt.tools.is_empty() {
        body["tools"] = prompt.tools.iter().map(tool).collect();
    }
    body.to_string().into_bytes()
}

fn tool(tool: &ToolSchema) -> Value {
    let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.input_schema});
    json!({"type": "function", "function": function})
}

/// Results of tools are messages of their own there, and come before what the person adds.
fn push_message(message: &Message, messages: &mut Vec<Value>) {
    let (mut text, mut calls) = (String::new(), Vec::new());
    for block in &message.blocks {
        match block {
            Block::Text { text: more } => {
                if !text.is_empty() && !more.is_empty() {
                    text.push('\n');
                }
                text.push_str(more);
            }
            Block::ToolUse { id, name, input } => {
                let function = json!({"name": name, "arguments": object(input).to_string()});
                calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            Block::ToolResult { tool_use_id, content, is_error } => {
                let content = if *is_error { as_error(content) } else { content.clone() };
                messages.push(json!({"role": "tool", "tool_call_id": tool_use_id, "content": content}));
            }
            // Signed thinking is of the other format.
            Block::Opaque { .. } => {}
        }
    }
    match (message.role, calls.is_empty(), text.is_empty()) {
        (_, true, true) => {}
        (Role::User, _, true) => {}
        (Role::User, _, false) => messages.push(json!({"role": "user", "content": text})),
        (Role::Assistant, true, false) => messages.push(json!({"role": "assistant", "content": text})),
        (Role::Assistant, false, _) => {
            let content = if text.is_empty() { Value::Null } else { Value::String(text) };
            messages.push(json!({"role": "assistant", "content": content, "tool_calls": calls}));
        }
    }
}

/// There is no place beside a result that says whether it is an error's: it has to say so itself.
fn as_error(content: &str) -> String {
    match serde_json::from_str::<Value>(content) {
        Ok(value) if value.get("error").is_some() => content.to_owned(),
        Ok(value) => json!({"error": value}).to_string(),
        Err(_) => json!({"error": content}).to_string(),
    }
}

/// Reads an answer.
#[derive(Debug)]
pub struct Reader {
    framing: Framing,
    assembly: Assembly,
    /// The place of the call that an index means now.
    calls: BTreeMap<u64, usize>,
    /// The call that was written last.
    last_call: Option<usize>,
    stopped: Option<Stopped>,
    heard: bool,
    ended: bool,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    error: Option<Value>,
    object: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    index: Option<u64>,
    #[serde(alias = "message")]
    delta: Option<Said>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<Content>,
    refusal: Option<String>,
    tool_calls: Option<Vec<Call>>,
    function_call: Option<Function>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<TextPart>),
}

#[derive(Deserialize)]
struct TextPart {
    text: Option<String>,
}

#[derive(Deserialize)]
struct Call {
    index: Option<u64>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<Value>,
}

impl Default for Reader {
    fn default() -> Self {
        Reader::new()
    }
}

impl Reader {
    /// At an answer's beginning.
    pub fn new() -> Reader {
        Reader {
            framing: Framing::new(),
            assembly: Assembly::default(),
            calls: BTreeMap::new(),
            last_call: None,
            stopped: None,
            heard: false,
            ended: false,
        }
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

    /// The bytes are at their end. Without the mark, an answer whose reason was read is whole as well.
    pub fn finish(mut self, deltas: &mut Vec<Delta>) -> Result<Completion, ReadError> {
        if let Some(body) = self.framing.whole() {
            let chunk = serde_json::from_slice(&body).map_err(|error| match error.is_eof() {
                true => ReadError::BrokeOff,
                false => ReadError::Malformed("it is no completion"),
            })?;
            self.chunk(chunk, deltas)?;
            self.ended = self.heard;
        }
        match (self.stopped, self.ended && self.heard) {
            (None, false) => Err(ReadError::BrokeOff),
            (stopped, _) => Ok(self.assembly.finish(stopped.unwrap_or(Stopped::Other))),
        }
    }

    fn event(&mut self, event: &sse::Event, deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        if self.ended {
            return Ok(());
        }
        if event.data.trim() == DONE {
            self.ended = true;
            return Ok(());
        }
        let chunk = serde_json::from_str(&event.data).map_err(|_| ReadError::Malformed("a chunk is none of it"))?;
        self.chunk(chunk, deltas)
    }

    fn chunk(&mut self, chunk: Chunk, deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        if let Some(error) = chunk.error {
            return Err(ReadError::Failed(Fault::of_body(&error)));
        }
        if chunk.object.as_deref() == Some("error") {
            return Err(ReadError::Failed(Fault::Final));
        }
        // Only one answer was asked for.
        for choice in chunk.choices.into_iter().flatten().filter(|choice| choice.index.unwrap_or(0) == 0) {
            self.heard = true;
            if let Some(said) = choice.delta {
                self.said(said, deltas)?;
            }
            self.stopped = match (choice.finish_reason.as_deref(), self.stopped) {
                (None | Some(""), before) => before,
                (Some(_), Some(Stopped::Refused)) => Some(Stopped::Refused),
                (Some(reason), _) => Some(stopped(reason)),
            };
        }
        Ok(())
    }

    fn said(&mut self, said: Said, deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        match said.content {
            Some(Content::Text(text)) => self.assembly.text_at_end(&text, deltas)?,
            Some(Content::Parts(parts)) => {
                for text in parts.into_iter().filter_map(|part| part.text) {
                    self.assembly.text_at_end(&text, deltas)?;
                }
            }
            None => {}
        }
        if let Some(refusal) = said.refusal.filter(|refusal| !refusal.is_empty()) {
            self.assembly.text_at_end(&refusal, deltas)?;
            self.stopped = Some(Stopped::Refused);
        }
        for call in said.tool_calls.into_iter().flatten() {
            self.call(call, deltas)?;
        }
        // What functions were called before there were tools.
        match said.function_call {
            Some(function) => self.call(Call { index: Some(0), id: None, function: Some(function) }, deltas),
            None => Ok(()),
        }
    }

    fn call(&mut self, call: Call, deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        let id = call.id.unwrap_or_default();
        let (name, arguments) = match call.function {
            Some(function) => (function.name.unwrap_or_default(), function.arguments.map(as_text).unwrap_or_default()),
            None => (String::new(), String::new()),
        };
        let known = match call.index {
            Some(index) => self.calls.get(&index).copied(),
            None => self.last_call,
        };
        let place = match known.filter(|place| !self.is_another(*place, &id, &name)) {
            Some(place) => {
                self.assembly.complete_call(place, &id, &name, deltas)?;
                place
            }
            None => self.assembly.open_call(&id, &name, deltas)?,
        };
        if let Some(index) = call.index {
            self.calls.insert(index, place);
        }
        self.last_call = Some(place);
        self.assembly.arguments(place, &arguments)
    }

    /// Is this a call of its own, and not more of the one at that place? Ollama gave every call the index 0; others repeat
    /// a call's name with each part of it.
    fn is_another(&self, place: usize, id: &str, name: &str) -> bool {
        let Some((known_id, known_name, arguments)) = self.assembly.call(place) else { return true };
        if !id.is_empty() && !known_id.is_empty() {
            return id != known_id;
        }
        // Looked at again with every part that repeats the name: only as far as that costs nothing.
        let short = arguments.len() <= LOOKED_AT_BYTES_MAX && arguments.ends_with(['}', ' ', '\n']);
        let complete = || serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok();
        short && !name.is_empty() && !known_name.is_empty() && complete()
    }
}

fn as_text(arguments: Value) -> String {
    match arguments {
        Value::Null => String::new(),
        Value::String(text) => text,
        Value::Object(_) | Value::Array(_) | Value::Bool(_) | Value::Number(_) => arguments.to_string(),
    }
}

fn stopped(reason: &str) -> Stopped {
    match reason {
        "stop" => Stopped::EndOfTurn,
        "tool_calls" | "function_call" => Stopped::ToolUse,
        "length" => Stopped::OutputLimit,
        "content_filter" => Stopped::Refused,
        _ => Stopped::Other,
    }
}
