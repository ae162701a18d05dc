//! Arguments of `carboy init`.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal it asks what it cannot know, shows the files, and asks once before it writes. Without a terminal, \
                  and with --yes, it asks nothing. Nothing that is there is replaced without --force."
)]
pub struct InitArgs {
    /// What the bottle is for [default: the agent that is installed]
    pub kind: Option<InitKind>,
    /// Name of the bottle and of the agent [default: the kind]
    pub name: Option<String>,
    /// How the model is paid for
    #[arg(long, value_name = "KIND")]
    pub login: Option<LoginKind>,
    /// Where the key or token is: env, env:NAME, file:PATH, command:PROGRAM or stdin; never the key itself
    #[arg(long, value_name = "SOURCE")]
    pub key_from: Option<String>,
    /// Open this preset alone, and others that are given: npm, pip, cargo, go, apt, github-read, or NAME=HOST
    #[arg(long = "preset", value_name = "NAME[=HOST]", conflicts_with = "no_presets")]
    pub presets: Vec<String>,
    /// Open nothing but the model
    #[arg(long)]
    pub no_presets: bool,
    /// Show one more host path, read-only: SOURCE[:TARGET]
    #[arg(long = "bind", value_name = "SPEC")]
    pub binds: Vec<String>,
    /// Of a chat agent: who answers, as in claude-sonnet-4-5
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Of a chat agent: a server of your own that speaks Chat Completions, as in http://127.0.0.1:11434/v1
    #[arg(long, value_name = "URL")]
    pub model_at: Option<String>,
    /// Of a chat agent: the language of its tools [default: python]
    #[arg(long, value_name = "LANGUAGE")]
    pub script: Option<ScriptKind>,
    /// Take the files of another tool over instead
    #[arg(long, value_name = "TOOL", conflicts_with_all = ["kind", "name", "login", "key_from", "presets", "no_presets", "binds", "model", "model_at", "script"])]
    pub from: Option<InitFrom>,
    /// Ask nothing: take what is found
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
    /// Show the files without writing them
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a starter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitKind {
    /// No agent: a bottle for trying things
    Shell,
    /// A chat agent, for a terminal or for customers
    Chat,
    /// Claude Code
    Claude,
    /// OpenAI's Codex
    Codex,
    /// Google's Gemini CLI
    Gemini,
    /// opencode
    Opencode,
}

/// Languages of a chat agent's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScriptKind {
    /// Python 3, its standard library alone
    Python,
    /// Node, its own modules alone
    Node,
}

/// How a model is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoginKind {
    /// By a subscription
    Subscription,
    /// By an API key
    ApiKey,
    /// Not at all, for now
    None,
}

/// Tools whose files are taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitFrom {
    /// ~/.bot-bottle
    BotBottle,
}
