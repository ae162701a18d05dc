//! A client of MCP servers (Model Context Protocol, revision 2025-06-18): their tools as tools of a chat agent.
//!
//! ```text
//!  ToolSource::Command, Script ─▶ a bottle whose program is the server ═ stdin, stdout ─┐
//!  ToolSource::Http ─▶ POST through the agent's gateway ────────────────────────────────┴─▶ Server ─▶ McpTool…
//!      initialize ─▶ tools/list (bounded, schemas compiled) ─▶ tools/call (checked first, timed, bounded)
//! ```
//!
//! A server is believed nothing that could harm: its tools are fixed at the start (after a restart they must be the same
//! ones), its results are data of bounded size, what it asks of its client is declined. One that ends is started once more;
//! after that its tools say that they are not there. *Must never* run a server anywhere but in a bottle, send arguments
//! that were not checked, or repeat a call: it may have been carried out.

mod http;
mod schema;
mod server;
mod stdio;
mod tool;

use std::time::Duration;

use carboy_core::ports::{Conversation, Later};
use carboy_core::verdict::Reason;
use serde_json::Value;

pub(crate) use http::HttpServer;
pub(crate) use server::{Connect, Server};
pub(crate) use stdio::StdioServer;
pub(crate) use tool::{McpTool, Named};

/// Octets of one message, either way.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Tools of one server.
pub const TOOLS_MAX: usize = 64;
/// Pages in which they are listed.
const PAGES_MAX: usize = 16;
/// How long a server may take to start, and to list its tools.
pub(crate) const START_WAIT_MAX: Duration = Duration::from_secs(30);
/// The revision that is asked for, and those that are understood.
const REVISION: &str = "2025-06-18";
const REVISIONS: &[&str] = &["2025-06-18", "2025-03-26", "2024-11-05"];

/// Why a server gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum McpError {
    /// It could not be started, or is gone.
    #[error("the server is gone: {0}")]
    Gone(String),
    /// Its agent was stopped, and its tools with it.
    #[error("the agent is stopped, and its tools' bottles with it; `carboy resume` lets them go on")]
    Stopped,
    /// It did not answer in time.
    #[error("no answer to {method} within {seconds} s{}", said.as_ref().map(|said| format!("; {said}")).unwrap_or_default())]
    Late {
        /// To what.
        method: &'static str,
        /// The limit.
        seconds: u64,
        /// What it said instead, where it has never answered.
        said: Option<String>,
    },
    /// It answered with an error of the protocol.
    #[error("error {code}: {message}")]
    Rpc {
        /// JSON-RPC's number.
        code: i64,
        /// In its own words, made short and plain.
        message: String,
    },
    /// What it said is no MCP.
    #[error("it does not speak MCP: {0}")]
    Malformed(String),
    /// More than is taken.
    #[error("a message of more than {MESSAGE_BYTES_MAX} octets")]
    TooLarge,
    /// The gateway refused to ask it.
    #[error("the gateway refused: {0}")]
    Refused(Reason),
}

/// One question to a server.
pub(crate) struct Question {
    pub(crate) method: &'static str,
    pub(crate) params: Value,
    /// How long its result is waited for.
    pub(crate) wait: Duration,
    /// For whom it is asked.
    pub(crate) conversation: Option<Conversation>,
}

/// A connection to a server.
pub(crate) trait Transport: Send + Sync {
    /// Asks, and waits so long for the result.
    fn ask(&self, question: Question) -> Later<'_, Result<Value, McpError>>;

    /// Tells, and expects no answer.
    fn tell(&self, method: &'static str, params: Value) -> Later<'_, Result<(), McpError>>;

    /// May it still answer?
    fn lives(&self) -> bool;

    /// Ends it.
    fn end(&self);
}

/// A server's own words: one short line without anything that moves a terminal's cursor.
fn plain(text: &str, chars_max: usize) -> String {
    let visible = text.chars().map(|c| if c.is_whitespace() { ' ' } else { carboy_wire::denial::visible(c) });
    let mut line: String = visible.take(chars_max).collect();
    if text.chars().count() > chars_max {
        line.push('…');
    }
    line
}

/// The `result` of a JSON-RPC answer, or its error.
fn result_of(mut answer: Value) -> Result<Value, McpError> {
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        let code = error.get("code").and_then(Value::as_i64).unwrap_or(0);
        let message = error.get("message").and_then(Value::as_str).unwrap_or("");
        return Err(McpError::Rpc { code, message: plain(message, 300) });
    }
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(McpError::Malformed("an answer with neither a result nor an error".into())),
    }
}
