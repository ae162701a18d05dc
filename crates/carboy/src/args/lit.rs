//! `carboy lit`: which document, and what becomes of it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum LitCommand {
    /// Write the files that a document holds; files that are right already are not touched
    Tangle(TangleArgs),
    /// Compare the files with the document, byte for byte; exit code 1 and a diff where they differ
    Verify(VerifyArgs),
    /// Bring edits of the files back into the document, and edits of the document out into the files
    Sync(SyncArgs),
    /// Write the document as a page
    Weave(WeaveArgs),
    /// Translate file positions in compiler and test output (standard input) to lines of the document
    Map(MapArgs),
    /// Print a hook that keeps document and files together
    Hook(HookArgs),
}

#[derive(Debug, Args)]
pub struct TangleArgs {
    /// Document; its files are below its directory
    pub document: PathBuf,
    /// Go on: tangle again whenever the document changes
    #[arg(long, conflicts_with = "dry_run")]
    pub watch: bool,
    /// Say what would be written, without writing
    #[arg(long)]
    pub dry_run: bool,
    /// Replace files that were edited since the last tangle
    #[arg(long)]
    pub force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Document
    pub document: PathBuf,
    /// Where the paths of `include` begin [default: the nearest directory above the document that has a .git]
    #[arg(long, value_name = "DIR")]
    pub library: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Edits of files and of the document are merged. Where both were changed at one place nothing is written, \
                        both changes are shown, and the exit code is 1. What the files were is kept in `.lit/` beside the document."
)]
pub struct SyncArgs {
    /// Document
    pub document: PathBuf,
    /// Make the document: fill this template with the files as they are
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["base", "take"])]
    pub bootstrap: Option<PathBuf>,
    /// An earlier version of the document, from which both sides were changed
    #[arg(long, value_name = "FILE", conflicts_with = "take")]
    pub base: Option<PathBuf>,
    /// Take one side as it is
    #[arg(long, value_name = "SIDE")]
    pub take: Option<TakeSide>,
    /// Where the paths of `include` begin [default: the nearest directory above the document that has a .git]
    #[arg(long, value_name = "DIR")]
    pub library: Option<PathBuf>,
    /// Say what would be changed, without changing it
    #[arg(long)]
    pub dry_run: bool,
    /// Replace a document that is there (with --bootstrap)
    #[arg(long, requires = "bootstrap")]
    pub force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which side is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TakeSide {
    /// The files
    Sources,
    /// The document
    Document,
}

#[derive(Debug, Args)]
pub struct WeaveArgs {
    /// Document
    pub document: PathBuf,
    /// Directory for the page, its stylesheet and its diagrams [default: woven, beside the document]
    #[arg(long, short = 'o', value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// HTML to stand above the page, as it is
    #[arg(long, value_name = "FILE")]
    pub header: Option<PathBuf>,
    /// Where the paths of `include` begin [default: the nearest directory above the document that has a .git]
    #[arg(long, value_name = "DIR")]
    pub library: Option<PathBuf>,
    /// Compare with what is there instead of writing; exit code 1 where it differs
    #[arg(long)]
    pub check: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MapArgs {
    /// Document
    pub document: PathBuf,
    /// Translate one position of this file, instead of standard input
    #[arg(long, value_name = "FILE", requires = "line")]
    pub file: Option<PathBuf>,
    /// Its line
    #[arg(long, value_name = "N", requires = "file", value_parser = clap::value_parser!(u32).range(1..))]
    pub line: Option<u32>,
    /// Its column
    #[arg(long, value_name = "N", requires = "file", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub column: u32,
    /// Print JSON (with --file)
    #[arg(long, requires = "file")]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct HookArgs {
    /// Whose
    pub kind: HookKind,
    /// Document, as it is named from the top of the repository
    pub document: PathBuf,
}

/// Whose hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HookKind {
    /// git's, before a commit: for .git/hooks/pre-commit
    Git,
    /// Claude Code's, after an edit: for .claude/settings.json
    Claude,
}
