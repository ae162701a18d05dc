//! Arguments of the commands that look on runs.

use std::path::PathBuf;

use clap::Args;

use crate::client::DetachKey;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: the program's own when it ends; 0 after the detach key; 1 no such run lives; 71 the run was lost."
)]
pub struct AttachArgs {
    /// Run, bottle or agent
    pub target: String,
    /// Key that leaves: ctrl-X, or `none`
    #[arg(long, value_name = "KEY", default_value = "ctrl-]")]
    pub detach_key: DetachKey,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "carboy exec [OPTIONS] <RUN|BOTTLE|AGENT> [COMMAND…]",
    after_help = "Options stand before COMMAND; what comes after it is the command's own. Exit codes: the command's own; 128+N when signal N ended it; 1 no such run lives; 71 the run was lost; \
                  126 and 127 the command cannot be run or found."
)]
pub struct ExecArgs {
    /// Run, bottle or agent; of a chat agent the bottle of its tools
    pub target: String,
    /// Environment variable for the command: NAME=VALUE, or NAME to pass this shell's value
    #[arg(long = "env", short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Working directory inside [default: the run's]
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// Never use a pseudo-terminal
    #[arg(long)]
    pub no_tty: bool,
    /// Program and arguments [default, at a terminal: a shell]
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also runs that have ended and are kept, with their exit codes
    #[arg(long, short = 'a')]
    pub all: bool,
    /// Whole commands, however wide the terminal is, and sizes
    #[arg(long)]
    pub no_trunc: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: the run's own (of several, the first that is not 0); 1 no such run is known; 71 a run was lost: \
                  its supervisor was killed before it could say how the program ended."
)]
pub struct WaitArgs {
    /// Runs, or bottles and agents for their latest runs
    #[arg(required = true, value_name = "RUN|BOTTLE|AGENT")]
    pub targets: Vec<String>,
    /// Print each run's summary as a JSON line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// The number of a channel that was inherited
    pub channel: i32,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 shown; 1 no such run is known, or nothing it printed is kept; 2 bad usage; 70 the log cannot be read."
)]
pub struct LogsArgs {
    /// Run, bottle or agent [default: the latest run]
    pub target: Option<String>,
    /// Go on until the run ends
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// What the program printed, instead of what it asked for
    #[arg(long, conflicts_with_all = ["follow", "refused", "json"])]
    pub output: bool,
    /// Only refusals and findings
    #[arg(long)]
    pub refused: bool,
    /// Print the entries as JSON lines
    #[arg(long)]
    pub json: bool,
}
