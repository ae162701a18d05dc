//! `carboy bottle …`: what bottles keep.

use std::path::PathBuf;

use carboy_core::ids::BottleName;
use clap::{Args, Subcommand};

/// See the help.
#[derive(Debug, Subcommand)]
pub enum BottleCommand {
    /// Bottles, with their last run and what they keep
    Ls(LsArgs),
    /// What one bottle keeps, and where
    Show(OneArgs),
    /// What its runs changed: of an overlay line by line, of a directory written to directly by name
    Diff(DiffArgs),
    /// Bring what was changed in an overlay into the workspace
    Apply(ApplyArgs),
    /// Take the last apply back, or throw away what was never applied
    Undo(UndoArgs),
    /// What was taken out of workspaces at the end of runs: list, show, put back
    Quarantine(QuarantineArgs),
    /// How much it keeps
    Du(DuArgs),
    /// Remove everything that it keeps; its file stays
    Rm(RmArgs),
}

fn bottle(text: &str) -> Result<BottleName, String> {
    BottleName::parse(text).map_err(|e| e.to_string())
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// Measure what each one keeps
    #[arg(long)]
    pub size: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct OneArgs {
    /// Bottle
    #[arg(value_parser = bottle)]
    pub name: BottleName,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Bottle
    #[arg(value_parser = bottle)]
    pub name: BottleName,
    /// Only these files and directories
    pub paths: Vec<PathBuf>,
    /// Only how many lines came and went
    #[arg(long, conflicts_with_all = ["name_only", "json"])]
    pub stat: bool,
    /// Only the names
    #[arg(long, conflicts_with = "json")]
    pub name_only: bool,
    /// Working directory of the runs [default: this one, or the only one]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all that was to be applied is; 1 something the host changed as well was left; 77 a run of \
                        the bottle lives, or nobody agreed."
)]
pub struct ApplyArgs {
    /// Bottle
    #[arg(value_parser = bottle)]
    pub name: BottleName,
    /// Only these files and directories; one that names a file which steers agents, editors or git applies it
    pub paths: Vec<PathBuf>,
    /// Show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Apply without asking
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Also over what the host changed since the run began
    #[arg(long)]
    pub force: bool,
    /// Also files that steer agents, editors and git on this host; they are shown first
    #[arg(long)]
    pub steering: bool,
    /// Working directory of the runs [default: this one, or the only one]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 done; 1 something the host changed since was left; 77 a run of the bottle lives, or nobody agreed."
)]
pub struct UndoArgs {
    /// Bottle
    #[arg(value_parser = bottle)]
    pub name: BottleName,
    /// Do it without asking
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Also over what the host changed since the apply
    #[arg(long)]
    pub force: bool,
    /// Working directory of the runs [default: this one, or the only one]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false)]
pub struct QuarantineArgs {
    /// Bottle
    #[arg(value_parser = bottle)]
    pub name: BottleName,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub what: Option<QuarantineCommand>,
}

/// See the help.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// What was changed, as a difference to what is there now
    Show {
        /// Its name in the list, q-1
        id: String,
    },
    /// Put it back, after showing it
    Restore {
        /// Its name in the list, q-1
        id: String,
        /// Without asking
        #[arg(long, short = 'y')]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct DuArgs {
    /// Bottle [default: every one]
    #[arg(value_parser = bottle)]
    pub name: Option<BottleName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Bottle
    #[arg(value_parser = bottle)]
    pub name: BottleName,
    /// Without asking
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
