//! `carboy init chat` (G87): a chat agent that can be served in five minutes, with a policy, a refusal, four examples, one
//! script of tools, and the guarantees that code gives for it.
//!
//! *Must never* write a secret, or a text of the command line that is not quoted.

use crate::starter::quoted_text;

const AGENT: &str = include_str!("../../starters/chat/agent.md");
const PYTHON: &str = include_str!("../../starters/chat/tool.py");
const NODE: &str = include_str!("../../starters/chat/tool.mjs");
const ENV_EXAMPLE: &str = include_str!("../../starters/chat/env.example");

/// The language of the starter's script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Python 3, its standard library alone.
    Python,
    /// Node, its own modules alone.
    Node,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StarterModel {
    /// By its name, which tells whose it is: `claude-…`, `gpt-…`.
    Named(String),
    /// A server that speaks Chat Completions: its address (`http://127.0.0.1:11434/v1`) and the model's name there.
    At {
        /// Where.
        base_url: String,
        /// Which.
        name: String,
    },
}

/// What a starter is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatStarter {
    /// The agent's name.
    pub name: String,
    /// What people read as its name.
    pub title: String,
    /// Who answers.
    pub model: StarterModel,
    /// The tools' language.
    pub script: Script,
}

/// The agent's file.
pub fn agent(starter: &ChatStarter) -> String {
    let model = match &starter.model {
        StarterModel::Named(name) => quoted_text(name),
        StarterModel::At { base_url, name } => {
            format!("{{base_url: {}, name: {}}}", quoted_text(base_url), quoted_text(name))
        }
    };
    let (language, file, tool) = match starter.script {
        Script::Python => ("python", "tools/shop.py", PYTHON),
        Script::Node => ("js", "tools/shop.mjs", NODE),
    };
    // The front matter's title is quoted; in the prose it is one line of plain text.
    let plain: String = starter.title.chars().filter(|c| !c.is_control() && !matches!(c, '`' | '<' | '>')).collect();
    let filled = AGENT.replacen("title: {{TITLE}}", &format!("title: {}", quoted_text(&starter.title)), 1);
    let filled = filled.replace("{{TITLE}}", plain.trim()).replace("{{NAME}}", &starter.name);
    let filled = filled.replace("{{MODEL}}", &model).replace("{{LANGUAGE}}", language).replace("{{FILE}}", file);
    filled.replace("{{TOOL}}", tool)
}

/// The `.env.example` beside it.
pub fn env_example(starter: &ChatStarter) -> String {
    let key = match &starter.model {
        StarterModel::Named(name) if name.starts_with("claude-") => "ANTHROPIC_API_KEY",
        StarterModel::Named(_) => "OPENAI_API_KEY",
        // A model of one's own takes no key; the line stands for the day that it does.
        StarterModel::At { .. } => "#OPENAI_API_KEY",
    };
    ENV_EXAMPLE.replace("{{KEY}}", key)
}
