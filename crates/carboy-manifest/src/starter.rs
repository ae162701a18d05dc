//! Starter files: a bottle and an agent with comments, as `carboy init` writes them. Text from facts, nothing else.
//!
//! ```text
//!   facts of this host ─▶ Starter ─▶ bottle(), agent() ─▶ the manifest's own reader ─▶ written
//! ```
//!
//! *Must never* put a secret into a file: a route names one, the settings say where it is. *Must never* write what its own
//! reader refuses: every text that comes from outside is quoted here, and the caller reads the result before it writes.

mod write;

use std::path::{Path, PathBuf};

use serde::Serialize;

use write::{Block, commented, quoted, shown_path, word};

/// Agent programs that carboy knows how to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// Claude Code.
    Claude,
    /// OpenAI's Codex.
    Codex,
    /// Google's Gemini CLI.
    Gemini,
    /// opencode.
    Opencode,
}

impl Program {
    /// All, in the order in which they are offered.
    pub const ALL: [Program; 4] = [Program::Claude, Program::Codex, Program::Gemini, Program::Opencode];

    /// The program's name, which is its provider's as well.
    pub fn name(self) -> &'static str {
        match self {
            Program::Claude => "claude",
            Program::Codex => "codex",
            Program::Gemini => "gemini",
            Program::Opencode => "opencode",
        }
    }
}

/// Whose model is spoken to with an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// Anthropic's API.
    Anthropic,
    /// OpenAI's API.
    Openai,
    /// Google's Gemini API.
    Gemini,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Vendor; 3] = [Vendor::Anthropic, Vendor::Openai, Vendor::Gemini];

    /// The preset of its API.
    pub fn preset(self) -> &'static str {
        match self {
            Vendor::Anthropic => "anthropic",
            Vendor::Openai => "openai",
            Vendor::Gemini => "gemini",
        }
    }

    /// The name under which its API key is known.
    pub fn key_name(self) -> &'static str {
        match self {
            Vendor::Anthropic => "ANTHROPIC_API_KEY",
            Vendor::Openai => "OPENAI_API_KEY",
            Vendor::Gemini => "GEMINI_API_KEY",
        }
    }
}

/// How the agent's model is paid for (M35).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "login", content = "of")]
pub enum Login {
    /// A Claude subscription, by the token of `claude setup-token`.
    ClaudeSubscription,
    /// A ChatGPT subscription, by the file that `codex login` keeps.
    ChatGptSubscription,
    /// An API key.
    ApiKey(Vendor),
    /// Nothing yet: no model can be reached.
    None,
}

impl Login {
    /// The secret that the model's route needs.
    pub fn secret(self) -> Option<&'static str> {
        match self {
            Login::ClaudeSubscription => Some("CLAUDE_CODE_OAUTH_TOKEN"),
            Login::ChatGptSubscription => Some("CHATGPT_ACCESS_TOKEN"),
            Login::ApiKey(vendor) => Some(vendor.key_name()),
            Login::None => None,
        }
    }
}

/// One entry of `presets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresetLine {
    /// `npm`, `github-read` …
    pub name: String,
    /// `HOST[:PORT][/PREFIX]`; empty for a preset that takes none.
    pub hosts: Vec<String>,
    /// Whether those hosts may resolve to private addresses.
    pub private: bool,
    /// Where this comes from, for the comment above it.
    pub why: Vec<String>,
}

/// One entry of `binds`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BindLine {
    /// Path on the host, as written (a link stays a link: it is followed at each launch).
    pub source: PathBuf,
    /// Path inside, `~/` for the bottle's home; `None` for the same path.
    pub target: Option<String>,
    /// For the comment above it.
    pub why: String,
}

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VariableLine {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// For the comment above it.
    pub why: String,
}

/// Everything that a starter is made of.
#[derive(Clone, Debug)]
pub struct Starter {
    /// Name of the bottle and of the agent.
    pub name: String,
    /// The agent program; `None` makes a bottle with a shell, for trying things out.
    pub program: Option<Program>,
    /// Its path, where it is none of those that are looked up inside.
    pub command: Option<PathBuf>,
    /// How its model is paid for.
    pub login: Login,
    /// Presets that are opened.
    pub presets: Vec<PresetLine>,
    /// Presets that were found and are not opened: they stand in a comment.
    pub offered: Vec<PresetLine>,
    /// Host directories that are visible.
    pub binds: Vec<BindLine>,
    /// Variables.
    pub env: Vec<VariableLine>,
    /// Who commits: name and address.
    pub git_user: Option<(String, String)>,
    /// The user's home, written as `~`.
    pub home: PathBuf,
}

/// What a starter's bottle may spend in a day, on each provider by itself.
pub const BUDGET: &str = "5M";

/// What [`BUDGET`] buys, in words. A request of a coding session weighs about 9,000 tokens: of a context of 70,000 most is
/// read from the provider's cache, at a tenth (`docs/budgets.md` counts it out).
pub const BUDGET_BUYS: &str = "5M weighted tokens a day, about 550 requests of a coding session";

/// The bottle's file.
pub fn bottle(starter: &Starter) -> String {
    let mut out = Block::default();
    out.line("---");
    out.comment(&format!(
        "The bottle `{}`: what a program in it may reach, see and use. Everything else",
        starter.name
    ));
    out.comment("is refused, told and logged. Written by `carboy init`; it is yours to change. `carboy check`");
    out.comment("reads it back; docs/manifest.md has every key.");
    out.blank();
    out.comment("The program that runs when no command is given.");
    let program = starter.program.map_or("shell", Program::name);
    match &starter.command {
        None => out.line(&format!("agent_provider: {program}")),
        Some(command) => {
            let command = quoted(&command.display().to_string());
            out.line(&format!("agent_provider: {{name: {program}, command: {command}}}"));
        }
    }
    presets(&mut out, starter);
    budget(&mut out, starter);
    binds(&mut out, starter);
    env(&mut out, starter);
    if let Some((name, email)) = &starter.git_user {
        out.blank();
        out.comment("Who commits.");
        out.line("git-gate:");
        out.line(&format!("  user: {{name: {}, email: {}}}", quoted(name), quoted(email)));
    }
    out.line("---");
    match starter.program {
        Some(_) => out.line("The text below the second line of dashes is for people; carboy does not read it."),
        None => {
            out.line(&format!("A bottle without an agent, for trying things: `carboy run --bottle {}`.", starter.name))
        }
    }
    out.done()
}

fn presets(out: &mut Block, starter: &Starter) {
    let model = match starter.login {
        Login::ClaudeSubscription => Some(("anthropic", "CLAUDE_CODE_OAUTH_TOKEN")),
        Login::ApiKey(vendor) => Some((vendor.preset(), vendor.key_name())),
        Login::ChatGptSubscription => Some(("chatgpt", "CHATGPT_ACCESS_TOKEN")),
        Login::None => None,
    };
    if model.is_none() && starter.presets.is_empty() && starter.offered.is_empty() {
        return;
    }
    out.blank();
    out.comment("What may be reached: sets of routes that read, and the model. `carboy check --json --bottle");
    out.comment(&format!("{}` shows each route.", starter.name));
    if model.is_none() && starter.presets.is_empty() {
        out.comment("presets:");
    } else {
        out.line("presets:");
    }
    if let Some((preset, secret)) = model {
        out.comment_in(
            "  ",
            "The model. The key is added outside, the program never holds it; a token-shaped text on its",
        );
        out.comment_in("  ", "way out is masked, so that a fixture in a test does not end a night's run.");
        out.line(&format!("  - {preset}: {{token_env: {secret}}}"));
    }
    for preset in &starter.presets {
        for why in &preset.why {
            out.comment_in("  ", why);
        }
        out.line(&format!("  - {}", preset_entry(preset)));
    }
    if !starter.offered.is_empty() {
        out.comment_in("  ", "Found on this host, and not opened: take the `#` away where you want one.");
        for preset in &starter.offered {
            for why in &preset.why {
                out.comment_in("  ", &format!("  {why}"));
            }
            out.line(&commented("  ", &format!("- {}", preset_entry(preset))));
        }
    }
}

/// A bottle for trying things out has no model to spend on.
fn budget(out: &mut Block, starter: &Starter) {
    if !has_budget(starter) {
        return;
    }
    out.blank();
    out.comment("What it may spend, at each model's provider by itself. When it is spent every route is closed until");
    out.comment("midnight UTC, or until you give more (`carboy budget top-up`). docs/budgets.md counts it out:");
    out.comment(&format!("{BUDGET_BUYS}."));
    out.line(&format!("budget: {BUDGET}"));
    out.line("window: {calendar: day, tz: UTC}");
}

/// Whether its bottle gets a budget.
pub fn has_budget(starter: &Starter) -> bool {
    starter.program.is_some() || starter.login != Login::None
}

fn preset_entry(preset: &PresetLine) -> String {
    if preset.hosts.is_empty() {
        return preset.name.clone();
    }
    let hosts: Vec<String> = preset.hosts.iter().map(|host| word(host)).collect();
    let private = if preset.private { ", private: true" } else { "" };
    format!("{}: {{hosts: [{}]{private}}}", preset.name, hosts.join(", "))
}

fn binds(out: &mut Block, starter: &Starter) {
    if starter.binds.is_empty() {
        return;
    }
    out.blank();
    out.comment("Host paths that are visible inside, read-only. Your home is not; what programs write into theirs");
    out.comment("(caches, settings) stays in the bottle's own home.");
    out.line("binds:");
    let mut last = "";
    for bind in &starter.binds {
        if bind.why != last {
            out.comment_in("  ", &bind.why);
        }
        last = &bind.why;
        let target = bind.target.as_deref().map_or_else(|| "ro".to_owned(), word);
        out.line(&format!("  {}: {target}", word(&shown_path(&bind.source, &starter.home))));
    }
}

fn env(out: &mut Block, starter: &Starter) {
    if starter.env.is_empty() {
        return;
    }
    out.blank();
    out.comment("Variables inside. Nothing of this shell's environment is passed on by itself.");
    out.line("env:");
    for variable in &starter.env {
        out.comment_in("  ", &variable.why);
        out.line(&format!("  {}: {}", variable.name, quoted(&variable.value)));
    }
}

/// The agent's file; `None` for a bottle without one.
pub fn agent(starter: &Starter) -> Option<String> {
    let program = starter.program?;
    let mut out = Block::default();
    out.line("---");
    out.comment(&format!(
        "The agent `{}`, which runs {}. Written by `carboy init`; it is yours to change.",
        starter.name,
        program.name()
    ));
    out.comment("What it may reach stands in its bottle.");
    out.line(&format!("bottle: {}", starter.name));
    out.line("---");
    out.text(PROMPT);
    Some(out.done())
}

/// What an agent is told besides its task.
const PROMPT: &str = "\
You work in a sandbox, and often nobody is there to answer a question: decide, and say at the end what you decided.
Some hosts are closed to you. A refusal says why, and what your operator could do about it: do not try ways around it,
go on with what can be done, and name at the end what was refused and what you would have needed it for.
";

/// A text as a manifest writes it: in double quotes, with what is odd escaped.
pub(crate) fn quoted_text(text: &str) -> String {
    quoted(text)
}

/// A path as a manifest writes it, `~/` for what is below `home`.
pub fn path_text(path: &Path, home: &Path) -> String {
    shown_path(path, home)
}

#[cfg(test)]
mod tests;
