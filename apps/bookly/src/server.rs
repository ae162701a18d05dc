//! How Bookly is put before people: its title, its greeting, its records opened, and the whole as an [`Application`].
//!
//! ```text
//!  agent::spec ─▶ front matter + prose ─▶ Application { name, file, tools } ─▶ carboy run bookly | carboy serve bookly
//! ```
//!
//! Who speaks HTTP, keeps sessions, asks models and shows the page of this source is carboy's business, for this agent as for
//! every other. *Must never* know a socket, a cookie or a key.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use carboy_agent::Application;
use carboy_core::chat::{ChatSpec, Confirm, Grounded, GroundingScope};
use serde_json::json;

use crate::agent::{NAME, SpecError, spec};
use crate::config::{RETURN_POLICY, books_file};
use crate::data::{BookStore, DataError, day};
use crate::tools::tools;

/// What people read as its name.
pub const TITLE: &str = "Bookly";
/// What it says first.
pub const GREETING: &str = "Hello, this is Bookly's support desk. I can look up an order, help with a return, or tell you about our \
                            policies. What can I do for you?";

/// The agent's file, made once.
static FILE: LazyLock<Result<String, SpecError>> = LazyLock::new(|| Ok(file(&spec(TITLE, GREETING, &RETURN_POLICY)?)));

/// Bookly cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its records.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Its own words.
    #[error("{0}")]
    Spec(&'static SpecError),
}

/// Bookly with its records below `home`, made where they are missing.
pub fn open(home: &Path, now_ms: u64) -> Result<Application, OpenError> {
    let books = BookStore::open(&books_file(home), day(now_ms))?;
    Ok(Application { name: NAME, file: text()?, tools: tools(books, RETURN_POLICY) })
}

/// The text of its agent file, for `explain` and `check`, which open no records.
pub fn text() -> Result<&'static str, OpenError> {
    FILE.as_deref().map_err(OpenError::Spec)
}

/// A spec as the file that says it: what an application says of itself passes the same reader as any file on disk. JSON texts
/// are YAML texts.
fn file(spec: &ChatSpec) -> String {
    let mut front = String::from("---\nkind: chat\n");
    let mut key = |name: &str, value: serde_json::Value| {
        // Writing to a text cannot fail.
        let _ = writeln!(front, "{name}: {value}");
    };
    key("title", json!(spec.title));
    key("greeting", json!(spec.greeting));
    key("model", json!(spec.model.model));
    key("tools", json!(["application"]));
    let prompt = &spec.prompt;
    key(
        "prompt",
        json!({
            "reminder": prompt.reminder, "long_reminder": prompt.long_reminder, "refusal": prompt.refusal,
            "fallback": prompt.fallback, "hand_off": prompt.hand_off,
        }),
    );
    let (mut requires, mut confirm, mut calls) = (json!({}), Vec::new(), json!({}));
    for (tool, rules) in &spec.rules {
        let demand = |asks: &carboy_core::chat::Requirement| {
            let mut demand = json!({"after": asks.tool, "same": asks.same, "within": format!("{}s", asks.within_s)});
            if let Some((field, value)) = &asks.result {
                demand["result"] = json!({ field: value });
            }
            demand
        };
        if !rules.requires.is_empty() {
            requires[tool] = rules.requires.iter().map(demand).collect();
        }
        if rules.confirm == Confirm::Always {
            confirm.push(tool);
        }
        if let Some(max) = rules.calls_per_session_max {
            calls[tool] = json!(max);
        }
    }
    key("requires", requires);
    key("confirm", json!(confirm));
    let limits = &spec.limits;
    key(
        "limits",
        json!({
            "message_chars_max": limits.message_chars_max, "reply_chars_max": limits.reply_chars_max,
            "tool_calls_max": limits.tool_calls_max, "calls_per_session": calls,
        }),
    );
    let reply = &spec.reply;
    let scope = match reply.scope {
        GroundingScope::Turn => "turn",
        GroundingScope::Session => "session",
    };
    key(
        "reply",
        json!({
            "ids": reply.id_patterns, "dates": reply.dates == Grounded::Yes, "scope": scope,
            "plain_text": reply.plain_text, "off_topic": reply.off_topic,
        }),
    );
    format!("{front}---\n{}\n", prompt.system)
}
