//! The command line: one definition for parsing, `--help`, completions and the man page.

use std::path::PathBuf;

use carboy_core::verdict::Reason;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Runs AI agents behind one door: sealed, scanned, credentialed from outside, logged.
#[derive(Debug, Parser)]
#[command(name = "carboy", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    /// Directory of this user's bottles, agents, settings and log [default: ~/.carboy]
    #[arg(long, global = true, env = "CARBOY_HOME", value_name = "DIR", hide_env_values = true)]
    pub home: Option<PathBuf>,

    #[command(subcommand)]
    pub command: Command,
}

/// Commands; the groups of `--help` are in [`GROUPS`].
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See it work: a real bottle, real attacks, no key and no network needed
    Tour(TourArgs),
    /// What this machine can give a bottle, and how to mend what is missing
    Doctor(JsonFlag),
    /// Run a program in a bottle
    Run(RunArgs),
    /// Runs that live
    Ps(JsonFlag),
    /// What a run asked for and what it got
    Logs(LogsArgs),
    /// Open a route for good: adds it to the bottle's file
    Allow(AllowArgs),
    /// End a run
    Stop(StopArgs),
    /// The log: verify it, read it, search it
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Validate every bottle, every agent and the settings
    Check(CheckArgs),
    /// Print shell completions
    Completions(CompletionsArgs),
    /// Print the man page
    Man,
    /// The tour's program inside the bottle
    #[command(hide = true)]
    TourAgent,
}

/// `(heading, commands)` in the order of `--help`.
pub const GROUPS: &[(&str, &[&str])] = &[
    ("Start", &["tour", "doctor"]),
    ("Run", &["run"]),
    ("Watch", &["ps", "logs"]),
    ("Decide", &["allow"]),
    ("Stop", &["stop"]),
    ("Prove", &["audit"]),
    ("Write", &["check"]),
    ("Plumbing", &["completions", "man"]),
];

#[derive(Debug, Args)]
pub struct JsonFlag {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TourArgs {
    /// Print one JSON object instead of the story
    #[arg(long)]
    pub json: bool,
    /// Keep the tour's directory, log included, and say where it is
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "carboy run [OPTIONS] [AGENT] [-- COMMAND…]",
    after_help = "Exit codes: the program's own; 128+N when signal N ended it; 2 bad usage; 69 this host cannot; \
                  70 carboy failed; 77 refused; 78 a file is not valid; 126 and 127 the program cannot be run or found."
)]
pub struct RunArgs {
    /// Agent file to run, by name
    pub agent: Option<String>,
    /// Bottle to run in, by name (instead of the agent's own)
    #[arg(long = "bottle", short = 'b', value_name = "NAME")]
    pub bottles: Vec<String>,
    /// Working directory; visible and writable in the bottle [default: this directory]
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// Environment variable for the program: NAME=VALUE, or NAME to pass this shell's value
    #[arg(long = "env", short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Host path to show: SOURCE[:TARGET][:ro|rw], read-only by default
    #[arg(long = "bind", value_name = "SPEC")]
    pub binds: Vec<String>,
    /// Run as this ordinary user (when carboy is started by root)
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Agree to an agent file of the working directory without being asked
    #[arg(long)]
    pub trust: bool,
    /// Never use a pseudo-terminal
    #[arg(long)]
    pub no_tty: bool,
    /// No summary at the end
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Write the summary as JSON to this file (`-` for standard error)
    #[arg(long, value_name = "FILE")]
    pub summary_json: Option<PathBuf>,
    /// Program and arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Run or bottle [default: the latest run]
    pub target: Option<String>,
    /// Only refusals and findings
    #[arg(long)]
    pub refused: bool,
    /// Print the entries as JSON lines
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AllowArgs {
    /// Host, or *.zone for every name below a zone
    pub host: String,
    /// Bottle whose file is changed
    #[arg(long, short = 'b', value_name = "NAME")]
    pub bottle: String,
    /// Port [default: 443 and 80]
    #[arg(long, value_name = "PORT")]
    pub port: Vec<u16>,
    /// Only paths below this prefix
    #[arg(long, value_name = "PREFIX")]
    pub path: Vec<String>,
    /// Only these methods
    #[arg(long, value_name = "METHOD")]
    pub method: Vec<String>,
    /// Allow git clone and fetch
    #[arg(long)]
    pub git_fetch: bool,
    /// Show the change without making it
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct StopArgs {
    /// Run or bottle
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub target: Option<String>,
    /// Every run of this user
    #[arg(long)]
    pub all: bool,
    /// At once, without asking the program first
    #[arg(long)]
    pub kill: bool,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check the chain: VALID or TAMPERED with the first bad entry
    Verify {
        /// Log to check [default: this user's]
        file: Option<PathBuf>,
        /// A head noted down elsewhere, SEQ:HASH, to find a cut tail or an older copy
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The last entries
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
        /// Wait for more
        #[arg(short = 'f', long)]
        follow: bool,
        /// Print the entries as JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Entries that fit
    Query(QueryArgs),
    /// Where the log is
    Path,
    /// Print a fresh key for AUDIT_INTEGRITY_KEY
    Keygen,
}

#[derive(Debug, Args)]
pub struct QueryArgs {
    /// Kind of entry
    #[arg(long = "type", value_name = "KIND", value_parser = ["run", "egress", "dns", "security", "policy", "operator"])]
    pub event_type: Option<String>,
    /// Outcome
    #[arg(long, value_parser = ["allowed", "denied", "redacted", "warned", "blocked", "done", "failed"])]
    pub result: Option<String>,
    /// Reason code of a refusal, as in docs/refusals.md
    #[arg(long, value_name = "CODE", value_parser = reason_code)]
    pub reason: Option<String>,
    /// Bottle
    #[arg(long)]
    pub bottle: Option<String>,
    /// Run
    #[arg(long)]
    pub run: Option<String>,
    /// Host that was asked for, or looked up
    #[arg(long)]
    pub host: Option<String>,
    /// From this time on (RFC 3339, as in the log)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 1000)]
    pub limit: usize,
    /// Print the entries as JSON lines
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Show what this agent would run with
    pub agent: Option<String>,
    /// Show what this bottle would give
    #[arg(long = "bottle", short = 'b', value_name = "NAME")]
    pub bottles: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
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

/// A reason that carboy knows: a misspelt one fits nothing, and silence would read as "never refused".
fn reason_code(text: &str) -> Result<String, String> {
    match Reason::from_code(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("no such reason; docs/refusals.md lists them".into()),
    }
}

/// The command without what is nobody's business, for completions and the man page.
pub fn visible() -> clap::Command {
    let whole = command();
    let mut visible = clap::Command::new("carboy").version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = whole.get_about() {
        visible = visible.about(about.clone());
    }
    visible
        .args(whole.get_arguments().cloned())
        .subcommands(whole.get_subcommands().filter(|c| !c.is_hide_set()).cloned())
        .disable_help_subcommand(true)
}

/// The command with its grouped help, for parsing and for everything generated from it.
pub fn command() -> clap::Command {
    let command = Cli::command();
    let mut groups = String::new();
    for (heading, names) in GROUPS {
        groups.push_str(&format!("{heading}:\n"));
        for name in *names {
            let about = command.find_subcommand(name).and_then(|c| c.get_about()).map(ToString::to_string);
            groups.push_str(&format!("  {name:<12} {}\n", about.unwrap_or_default()));
        }
    }
    command.help_template("{about}\n\n{usage-heading} {usage}{after-help}\n\nOptions:\n{options}").after_help(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn every_command_stands_in_exactly_one_group() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let command = Cli::command();
        let mut visible: Vec<&str> =
            command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name()).collect();
        let mut sorted = grouped.clone();
        sorted.sort_unstable();
        visible.sort_unstable();
        assert_eq!(sorted, visible);
    }
}
