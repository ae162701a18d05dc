//! Canonical chat messages: what a conversation is before it takes a provider's shape, and what came back.
//!
//! ```text
//! Prompt ──▶ anthropic | openai ──▶ body      (request)
//! bytes  ──▶ reader of either   ──▶ Delta…, Completion
//! ```
//!
//! *Must never* trust what a model wrote: a tool's input is any JSON, an id any text, and a stream may end anywhere.

pub mod anthropic;
pub mod fault;
pub mod openai;
mod reading;

use carboy_core::ports::Conversation;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use fault::Fault;
pub use reading::{
    ARGUMENTS_BYTES_MAX, BLOCKS_MAX, CALLS_MAX, EVENT_BYTES_MAX, NAME_BYTES_MAX, OPAQUE_BYTES_MAX, ReadError,
    STREAM_BYTES_MAX, TEXT_BYTES_MAX,
};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The person, and the results of tools.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub blocks: Vec<Block>,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// The model asks for a tool.
    ToolUse {
        /// The model's name for this call; unique only if the model says so.
        id: String,
        /// Which tool.
        name: String,
        /// Its arguments; text that was no JSON is kept as a JSON string.
        input: Value,
    },
    /// What a tool answered.
    ToolResult {
        /// The call's id.
        tool_use_id: String,
        /// The answer, JSON as text.
        content: String,
        /// It is an error's.
        is_error: bool,
    },
    /// A block that only its provider understands (signed thinking), handed back as it came.
    Opaque {
        /// As it came.
        value: Value,
    },
}

impl Message {
    /// What a person wrote.
    pub fn user(text: impl Into<String>) -> Message {
        Message { role: Role::User, blocks: vec![Block::Text { text: text.into() }] }
    }
}

/// A tool as a model is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSchema {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of its arguments, an object's.
    pub input_schema: Value,
}

/// All that a model is asked with.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt<'a> {
    /// The provider's name of the model.
    pub model: &'a str,
    /// The system prompt that never changes: ends with a cache breakpoint.
    pub system: &'a str,
    /// What follows it, outside the cached prefix.
    pub reminders: &'a [&'a str],
    /// The tools; the last one carries a cache breakpoint.
    pub tools: &'a [ToolSchema],
    /// The conversation; its last message carries a cache breakpoint.
    pub messages: &'a [Message],
    /// Most tokens of the answer.
    pub output_tokens_max: u32,
    /// For whom, for the log of whoever sends it. No word of it is for the model.
    pub conversation: Option<&'a Conversation>,
}

/// A piece of an answer as it streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Words.
    Text(String),
    /// A tool was named; its arguments follow in the [`Completion`].
    ToolNamed(String),
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was done.
    EndOfTurn,
    /// It wants its tools' results.
    ToolUse,
    /// Its output was bounded.
    OutputLimit,
    /// It, or its provider, declines.
    Refused,
    /// A word that is not known here.
    Other,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// What it said and asked for.
    pub blocks: Vec<Block>,
    /// Why it stopped.
    pub stopped: Stopped,
}
