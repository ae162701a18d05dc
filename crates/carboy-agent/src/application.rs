//! An application: an agent's file together with the tools that it brings in Rust.
//!
//! An application's crate makes one value of this; whoever composes the program hands its file to the manifest's reader as a
//! built-in agent and its tools to the engine. *Must never* be able to say more by its file than a file on disk can: the
//! same reader reads both.

use std::fmt::Write as _;
use std::sync::Arc;

use carboy_core::chat::{
    BuiltInTool, ChatSpec, Confirm, Grounded, GroundingScope, Requirement, SourcePage, ToolSource,
};
use serde_json::{Map, Value, json};

use crate::tool::Tool;

/// An agent that comes with the program.
pub struct Application {
    /// Its name, as in `carboy serve NAME`; the stem that its file would have.
    pub name: &'static str,
    /// The text of its agent file, front matter and all. `tools: [application]` stands for [`tools`](Self::tools).
    pub file: &'static str,
    /// Its tools.
    pub tools: Vec<Arc<dyn Tool>>,
}

/// A spec as the file that says it: what an application says of itself passes the same reader as any file on disk. JSON texts
/// are YAML texts. `tokens_per_day` is its budget, so that whoever starts it with a provider's model knows the most it costs.
pub fn file(spec: &ChatSpec, tokens_per_day: u64) -> String {
    let mut front = String::from("---\nkind: chat\n");
    // What is empty is not said; writing to a text cannot fail.
    let mut key = |name: &str, value: Value| {
        let empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        let _ = if empty { Ok(()) } else { writeln!(front, "{name}: {value}") };
    };
    key("title", json!(spec.title));
    key("greeting", json!(spec.greeting));
    key("model", json!(spec.model.model));
    let source = |source: &ToolSource| match source {
        ToolSource::BuiltIn(BuiltInTool::Calculator) => Some("calculator"),
        ToolSource::BuiltIn(BuiltInTool::SaveNote) => Some("save_note"),
        ToolSource::Application => Some("application"),
        // A program's own agent brings its tools in Rust.
        ToolSource::Command { .. } | ToolSource::Script { .. } | ToolSource::Http { .. } => None,
    };
    key("tools", spec.tools.iter().filter_map(source).collect());
    let prompt = &spec.prompt;
    key(
        "prompt",
        json!({
            "reminder": prompt.reminder, "long_reminder": prompt.long_reminder, "refusal": prompt.refusal,
            "fallback": prompt.fallback, "hand_off": prompt.hand_off,
        }),
    );
    let (requires, confirm, mut limits) = demands(spec);
    key("requires", requires);
    key("confirm", confirm);
    let own = &spec.limits;
    limits["message_chars_max"] = json!(own.message_chars_max);
    limits["reply_chars_max"] = json!(own.reply_chars_max);
    limits["tool_calls_max"] = json!(own.tool_calls_max);
    key("limits", limits);
    let reply = &spec.reply;
    let scope = match reply.scope {
        GroundingScope::Turn => "turn",
        GroundingScope::Session => "session",
    };
    let mut said = json!({"dates": reply.dates == Grounded::Yes, "scope": scope, "plain_text": reply.plain_text});
    for (name, patterns) in [("ids", &reply.id_patterns), ("off_topic", &reply.off_topic)] {
        if !patterns.is_empty() {
            said[name] = json!(patterns);
        }
    }
    key("reply", said);
    key("serve", json!({"architecture": spec.architecture == SourcePage::Shown}));
    key("budget", json!(tokens_per_day));
    key("window", json!({"calendar": "day"}));
    format!("{front}---\n{}\n", prompt.system)
}

/// `requires`, `confirm`, and the calls of one session among `limits`.
fn demands(spec: &ChatSpec) -> (Value, Value, Value) {
    let (mut requires, mut confirm, mut calls) = (json!({}), json!({}), json!({}));
    for (tool, rules) in &spec.rules {
        let demand = |asks: &Requirement| {
            let mut demand = json!({"after": asks.tool, "same": asks.same, "within": format!("{}s", asks.within_s)});
            if let Some((field, value)) = &asks.result {
                demand["result"] = json!({ field: value });
            }
            demand
        };
        if !rules.requires.is_empty() {
            requires[tool] = rules.requires.iter().map(demand).collect();
        }
        let kind = match rules.confirm {
            Confirm::AsTool => None,
            Confirm::Always => Some("always"),
            Confirm::Never => Some("never"),
            Confirm::Operator => Some("operator"),
        };
        if let Some(kind) = kind {
            match confirm[kind].as_array_mut() {
                Some(tools) => tools.push(json!(tool)),
                None => confirm[kind] = json!([tool]),
            }
        }
        if let Some(max) = rules.calls_per_session_max {
            calls[tool] = json!(max);
        }
    }
    let limits = if calls == json!({}) { json!({}) } else { json!({ "calls_per_session": calls }) };
    (requires, confirm, limits)
}
