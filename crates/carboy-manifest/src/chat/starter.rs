//! `carboy init chat` (G87): a chat agent that can be served in five minutes, with a policy, a refusal, four examples, one
//! script of tools, and the guarantees that code gives for it.
//!
//! *Must never* write a secret, or a text of the command line that is not quoted.

use std::collections::BTreeSet;

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

/// An `.env.example` that is there already, with the lines of [`env_example`] whose names it lacks behind it: what stands there
/// stays as it is. The lines that are added come with the comments above them.
pub fn env_example_extended(starter: &ChatStarter, there: &str) -> String {
    let known: BTreeSet<&str> = there.lines().filter_map(assigned).collect();
    let (mut added, mut comments, mut ended) = (String::new(), Vec::new(), false);
    for line in env_example(starter).lines() {
        match assigned(line) {
            Some(name) if known.contains(name) => ended = true,
            Some(_) => {
                let above = comments.drain(..).chain([line.to_owned()]);
                above.for_each(|line: String| added = format!("{added}{line}\n"));
                ended = true;
            }
            None => {
                if ended || line.is_empty() {
                    comments.clear();
                    ended = false;
                }
                if !line.is_empty() {
                    comments.push(line.to_owned());
                }
            }
        }
    }
    let gap = match (there.is_empty() || added.is_empty(), there.ends_with('\n')) {
        (true, _) => "",
        (false, true) => "\n",
        (false, false) => "\n\n",
    };
    format!("{there}{gap}{added}")
}

/// The name that a line assigns, or would if its `#` were taken away.
fn assigned(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let (name, _) = line.strip_prefix('#').unwrap_or(line).split_once('=')?;
    let name = name.trim();
    let name = name.strip_prefix("export ").unwrap_or(name);
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
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
