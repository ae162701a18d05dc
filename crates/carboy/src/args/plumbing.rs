//! Arguments of the commands around the others: help, completions and what they ask for.

use clap::{Args, ValueEnum, ValueHint};

#[derive(Debug, Args)]
pub struct HelpArgs {
    /// Command, and one of its own
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct NamesArgs {
    /// Which
    pub kind: NameKind,
}

/// Names that a shell completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NameKind {
    Agents,
    Bottles,
    /// Runs that live, and their bottles
    Living,
    /// The same and those that have ended
    Runs,
    /// Runs that could be resumed, and their bottles
    Stopped,
    /// Questions that wait for an operator
    Asks,
    /// What budgets are for: host, bottles, agents and runs
    Scopes,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
    Elvish,
    Powershell,
}

/// Values that are, or begin with, a file's name although they are no path alone.
const FILES: &[&str] = &["command", "binds", "task", "key_from"];

/// [`visible`](super::visible) for completions: a value that is no path is completed by no file's name.
pub fn completed() -> clap::Command {
    fn hinted(command: clap::Command) -> clap::Command {
        let other = |arg: clap::Arg| {
            let no_path = arg.get_value_hint() == ValueHint::Unknown && arg.get_action().takes_values();
            if no_path && !FILES.contains(&arg.get_id().as_str()) { arg.value_hint(ValueHint::Other) } else { arg }
        };
        command.mut_args(other).mut_subcommands(hinted)
    }
    hinted(super::visible())
}
