//! Flags of `carboy proxy`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(
    after_help = "A proxy is no sandbox: a program that ignores the variables is not captured, and reaches the network as it always \
                  did. `carboy run` captures. Standard output has the variables as a shell reads them; with a command it is the \
                  command's own.\n\nExit codes: the command's, 127 and 126 where it cannot be started, 128 + N for a signal, 79 where it was cut \
                  off; without one 0 when it was asked to end (Ctrl-C, SIGTERM, `carboy stop`), 2 usage, 70 it could not listen, \
                  78 a file is not in order. docs/proxy.md has clients and what holds."
)]
pub struct ProxyArgs {
    /// Whose routes, keys and budgets; several are merged as in `run`
    #[arg(long = "bottle", short = 'b', value_name = "NAME", required = true)]
    pub bottles: Vec<String>,
    /// Listen on this Unix socket, for this user alone; without a password
    #[arg(long, value_name = "PATH", conflicts_with = "port")]
    pub socket: Option<PathBuf>,
    /// Listen on this port of loopback [default: a free one]
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// What this run may spend on tokens: 500k or 2M for each meter by itself, claude=2M for one; lifts no ceiling
    #[arg(long, value_name = "AMOUNT", value_parser = super::values::budget)]
    pub budget: Vec<String>,
    /// Print the variables, the address and the files as one line of JSON
    #[arg(long, conflicts_with = "command")]
    pub json: bool,
    /// Say nothing on standard error but errors
    #[arg(long, short)]
    pub quiet: bool,
    /// A command that runs with these variables set, not sandboxed; the proxy ends with it
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
