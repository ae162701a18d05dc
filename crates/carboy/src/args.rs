//! The command line: one definition for parsing, `--help`, completions and the man page.

mod approve;
mod audit;
mod bottle;
mod budget;
mod chat;
mod init;
mod lit;
mod plumbing;
mod proxy;
mod stopping;
mod top;
mod values;
mod watching;

use std::path::PathBuf;
use std::time::Duration;

use carboy_control::resume::Again;
use clap::{Args, CommandFactory, Parser, Subcommand};

use serde::{Deserialize, Serialize};

use crate::client::DetachKey;

pub use approve::ApproveArgs;
pub use audit::{AuditCommand, QueryArgs};
pub use bottle::{
    ApplyArgs, BottleCommand, DiffArgs, DuArgs, LsArgs, OneArgs, QuarantineArgs, QuarantineCommand, RmArgs, UndoArgs,
};
pub use budget::{BudgetCommand, ControllerCommand, ControllerRunArgs, SetArgs, ShowArgs, TopUpArgs, UnsetArgs};
pub use chat::{ChatFlags, Resumed, ServeArgs, TalkFlags};
pub use init::{InitArgs, InitKind, LoginKind, ScriptKind};
pub use lit::{HookArgs, HookKind, LitCommand, MapArgs, SyncArgs, TakeSide, TangleArgs, VerifyArgs, WeaveArgs};
pub use plumbing::{CompletionsArgs, HelpArgs, NameKind, NamesArgs, Shell, completed};
pub use proxy::ProxyArgs;
pub use stopping::{ResumeArgs, StopArgs};
pub use top::TopArgs;
pub use watching::{AttachArgs, ExecArgs, LogsArgs, PsArgs, SuperviseArgs, WaitArgs};

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
    /// Write a starter bottle and agent for this project, and settle the agent's login
    Init(InitArgs),
    /// What this machine can give a bottle, and how to mend what is missing
    Doctor(DoctorArgs),
    /// Run an agent at this terminal: a program in a bottle, or a chat agent
    #[command(visible_alias = "chat")]
    Run(Box<RunArgs>),
    /// Put a chat agent before people, over HTTP
    Serve(ServeArgs),
    /// Look on a run that lives, and type to it; the detach key leaves it running
    Attach(AttachArgs),
    /// Run one more command in the bottle of a run that lives
    Exec(ExecArgs),
    /// Everything live, and act on it: runs, what they spend, what is left
    Top(TopArgs),
    /// Runs that live, and with `-a` those that have ended
    Ps(PsArgs),
    /// Wait until runs have ended; the exit code is the run's
    Wait(WaitArgs),
    /// What a run asked for and what it got
    Logs(LogsArgs),
    /// What an agent is and may do; or why something was refused, and what would allow it
    Explain(ExplainArgs),
    /// Questions that wait for you: list them, look at one, say yes or no
    Approve(ApproveArgs),
    /// Open a route, for good or for a while
    Allow(AllowArgs),
    /// End a run, or stop it so that it can go on later
    Stop(StopArgs),
    /// Let a run go on: one that was stopped, frozen or lost
    Resume(ResumeArgs),
    /// The log: verify it, read it, search it
    #[command(subcommand)]
    Audit(AuditCommand),
    /// What bottles keep: changes that wait, homes, what was taken out of workspaces
    #[command(subcommand)]
    Bottle(BottleCommand),
    /// What may be spent: show it, set it, add to it
    #[command(subcommand)]
    Budget(BudgetCommand),
    /// Validate every bottle, every agent and the settings
    Check(CheckArgs),
    /// Routes, keys and budgets of a bottle for programs that are in none; no sandbox
    Proxy(ProxyArgs),
    /// The process that keeps the ledger: runs start it, and it ends by itself
    #[command(subcommand)]
    Controller(ControllerCommand),
    /// Programs written as documents: tangle, verify, sync, weave
    #[command(subcommand)]
    Lit(LitCommand),
    /// Print shell completions
    Completions(CompletionsArgs),
    /// Print the man page
    Man,
    /// Remove what carboy keeps on this machine, after asking
    Uninstall(UninstallArgs),
    /// Help for a command, as with `--help`
    #[command(hide = true)]
    Help(HelpArgs),
    /// Names for completions
    #[command(hide = true)]
    Names(NamesArgs),
    /// The tour's program inside the bottle
    #[command(hide = true)]
    TourAgent,
    /// A run apart from its terminal
    #[command(hide = true)]
    Supervise(SuperviseArgs),
}

/// `(heading, commands)` in the order of `--help`.
pub const GROUPS: &[(&str, &[&str])] = &[
    ("Start", &["tour", "init", "doctor"]),
    ("Run", &["run", "serve", "attach", "exec"]),
    ("Watch", &["top", "ps", "logs", "explain", "wait"]),
    ("Decide", &["approve", "allow", "budget"]),
    ("Stop", &["stop", "resume"]),
    ("Prove", &["audit"]),
    ("Keep", &["bottle"]),
    ("Write", &["check", "lit"]),
    ("Plumbing", &["proxy", "controller", "completions", "man", "uninstall"]),
];

#[derive(Debug, Args)]
pub struct JsonFlag {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 a bottle can be made here, and with --production every box is ticked; 1 a box is not; 2 bad usage; \
                  69 this host cannot give a bottle; 70 carboy failed; 78 a file is not valid."
)]
pub struct DoctorArgs {
    /// Whether this chat agent may be put before customers: each box of the deployment checklist
    #[arg(long, value_name = "AGENT")]
    pub production: Option<String>,
    #[command(flatten)]
    pub chat: ChatFlags,
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

// What it takes to resume a run is this struct as it was, written beside the run's record: a field that is missing there has
// its default, so that a run of an older carboy is resumed by a newer one.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(default)]
#[command(
    override_usage = "carboy run [OPTIONS] [AGENT] [-- COMMAND…]",
    after_help = "Exit codes: the program's own; 128+N when signal N ended it; 2 bad usage; 69 this host cannot; \
                  70 carboy failed; 71 the run was lost; 75 it was frozen and may be resumed; 77 refused; 78 a file is \
                  not valid; 79 a spent budget or the storm breaker ended it, or its program failed while it was cut off; \
                  126 and 127 the program cannot be run or found; 129 the terminal went away, and the run goes on. With `-d`, and after the detach key: 0 when the run goes on."
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
    /// Let the working directory be: changes wait in the bottle's state (`carboy bottle diff`, `apply`, `undo`)
    #[arg(long)]
    pub overlay: bool,
    /// Environment variable for the program: NAME=VALUE, or NAME to pass this shell's value
    #[arg(long = "env", short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Host path to show: SOURCE[:TARGET][:ro|rw], read-only by default
    #[arg(long = "bind", value_name = "SPEC")]
    pub binds: Vec<String>,
    /// Port of the bottle to reach on this host: PORT, HOST_PORT:PORT or ADDRESS:HOST_PORT:PORT
    #[arg(long, value_name = "SPEC")]
    pub publish: Vec<String>,
    /// Service of this host to reach in the bottle: PORT:ADDRESS:PORT or PORT:/SOCKET
    #[arg(long, value_name = "SPEC")]
    pub forward: Vec<String>,
    /// What this run may spend on tokens: 500k or 2M for each meter by itself, claude=2M for one; lifts no ceiling
    #[arg(long, value_name = "AMOUNT", value_parser = values::budget)]
    pub budget: Vec<String>,
    /// Run as this ordinary user (when carboy is started by root); of a chat agent: who asks [default there: cli_user]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// What the agent is to do, without anybody in front of it: the text, @FILE, or `-` for standard input
    #[arg(long, value_name = "TEXT", conflicts_with = "command", allow_hyphen_values = true)]
    pub task: Option<String>,
    /// Agree to an agent file of the working directory without being asked
    #[arg(long)]
    pub trust: bool,
    /// Refuse as ever, and propose at the end the routes that would have allowed what was refused
    #[arg(long)]
    pub learn: bool,
    /// Never use a pseudo-terminal
    #[arg(long)]
    pub no_tty: bool,
    /// Start it apart from this terminal, print its run's id, and come back at once
    #[arg(long, short = 'd')]
    pub detach: bool,
    /// Key that leaves a run at a terminal and lets it go on: ctrl-X, or `none`
    #[arg(long, value_name = "KEY", default_value = "ctrl-]")]
    pub detach_key: DetachKey,
    /// Keep nothing of what the program prints at a terminal or detached [default: the last 1 MiB]
    #[arg(long)]
    pub no_output: bool,
    /// Remove the bottle's state at the end: its home, what was put aside, its runs
    #[arg(long)]
    pub rm: bool,
    /// Start it although a run of this bottle lives in this directory; they share the bottle's home
    #[arg(long)]
    pub another: bool,
    /// No summary at the end
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Write the summary as JSON to this file (`-` for standard error)
    #[arg(long, value_name = "FILE")]
    pub summary_json: Option<PathBuf>,
    /// Program and arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    #[command(flatten)]
    #[serde(skip)]
    pub chat: TalkFlags,
    /// The task as it was read, when the run is started again
    #[arg(skip)]
    pub task_text: Option<String>,
    /// Its record is printed, and not its id alone, when it was started apart
    #[arg(skip)]
    #[serde(skip)]
    pub record_json: bool,
    /// The run that is started again
    #[arg(skip)]
    #[serde(skip)]
    pub again: Option<Box<Again>>,
}

#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Opening writes to the bottle's file, which living runs take over within a second; with --for it writes \
                  nothing and ends by itself. The change is shown, and a person at a terminal is asked first; without a terminal \
                  nothing is opened unless --yes is given (exit code 77)."
)]
pub struct AllowArgs {
    /// Refusal (x-…): exactly what was refused; host, or *.zone for every name below it; or run (r-…): what it proposes
    #[arg(required_unless_present_any = ["list", "revoke"], conflicts_with_all = ["list", "revoke"])]
    pub target: Option<String>,
    /// Bottle [default: the refusal's or the run's own]
    #[arg(long, short = 'b', value_name = "NAME")]
    pub bottle: Option<String>,
    /// Only for so long, in the bottle's living runs: 30s, 10m, 2h, 1d, at most 7d
    #[arg(long = "for", value_name = "DURATION", value_parser = values::duration, conflicts_with = "save")]
    pub duration: Option<Duration>,
    /// For good, in the bottle's file (as without --for)
    #[arg(long)]
    pub save: bool,
    /// Port [default: the refusal's; for a host 443 and 80]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,
    /// Only paths below this prefix, as in /v1 [default: the refusal's]
    #[arg(long, value_name = "PREFIX", value_parser = values::path_prefix)]
    pub path: Vec<String>,
    /// Only these methods, as in GET,POST [default: the refusal's]
    #[arg(long, value_name = "METHOD", value_delimiter = ',', value_parser = values::method)]
    pub method: Vec<String>,
    /// Allow git clone and fetch
    #[arg(long)]
    pub git_fetch: bool,
    /// The host may be at a private address
    #[arg(long)]
    pub private: bool,
    /// Agree without being asked
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Show the change without making it
    #[arg(long)]
    pub dry_run: bool,
    /// What is open for a while, in every living run or in this one
    #[arg(long, value_name = "RUN", num_args = 0..=1, conflicts_with = "revoke")]
    pub list: Option<Option<String>>,
    /// Take back what was opened for a while, by its id (g-…) or the refusal's
    #[arg(long, value_name = "ID")]
    pub revoke: Option<String>,
    /// Print JSON (with --list)
    #[arg(long, requires = "list")]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// An agent or a bottle by its name; or a refusal as the agent, the summary and the log name it: x-…
    #[arg(value_name = "AGENT|ID")]
    pub what: String,
    /// Write the page here, its stylesheet and its pictures beside it
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 valid, also with warnings; 1 --attack found something; 2 bad usage; 70 carboy failed; 78 something is not \
                  valid."
)]
pub struct CheckArgs {
    /// Check this agent and what it builds on alone, and show what it would run with
    pub agent: Option<String>,
    /// Show what this bottle would give
    #[arg(long = "bottle", short = 'b', value_name = "NAME")]
    pub bottles: Vec<String>,
    #[command(flatten)]
    pub chat: ChatFlags,
    /// Attack this chat agent: a model that means harm, its real tools, and every law that has to hold all the same
    #[arg(long, requires = "agent", conflicts_with = "bottles")]
    pub attack: bool,
    /// How many attacks are tried
    #[arg(long, value_name = "N", requires = "attack", default_value_t = 300)]
    pub rounds: u64,
    /// The same seed tries the same attacks
    #[arg(long, value_name = "N", requires = "attack", default_value_t = 1)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Bottles, agents and settings stay unless --all is given. The program itself is not removed; the command that \
                        does it is printed."
)]
pub struct UninstallArgs {
    /// Show what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Remove without asking
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Leave the log where it is
    #[arg(long)]
    pub keep_log: bool,
    /// Bottles, agents and settings as well
    #[arg(long)]
    pub all: bool,
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
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
