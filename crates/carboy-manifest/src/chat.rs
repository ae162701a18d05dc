//! Chat agents as files: `kind: chat`, from front matter, prose and chunks to a checked [`ChatSpec`].
//!
//! ```text
//!   agent file ─▶ part (keys, chunks) ─┐
//!   rules/*.yml, JWKS ─────────────────┼─▶ ChatFile ─┐
//!   settings.yml `chat:` ──────────────┘             ├─▶ resolve ─▶ Resolved { spec, origins }
//!   .env, environment, preset, flags ────────────────┘
//! ```
//!
//! Every threshold is a [`Knob`]: one row of one table that says its names, bounds and which way is stricter, and that
//! settings, manifests, `.env`, environment, presets and flags are all read by.
//!
//! *Must never* hold a secret in a spec (they are named), take a value from a nearer place that loosens what the machine's
//! settings say, or let a file of a repository loosen anything at all.

pub mod dotenv;
mod fences;
mod file;
mod identity;
mod knobs;
mod model;
mod named;
mod outward;
mod part;
mod prompt;
mod reply;
pub mod resolve;
mod rules;
mod screening;
pub mod starter;
mod tools;
mod url;
mod view;

pub use carboy_core::chat::ChatSpec;
pub use dotenv::Dotenv;
pub use file::{ChatFile, Whose};
pub use knobs::{KNOBS, Knob, KnobKind, Stricter, defaults_table};
pub use outward::WEBHOOK_SECRET;
pub use resolve::{Flags, Origins, Preset, Resolved, Surroundings, resolve};
pub use view::ChatView;

pub(crate) use file::{ChatSettings, Of, file_of, settings};
pub(crate) use outward::{Outward, Token};
pub(crate) use part::{ChatPart, part};

use std::path::PathBuf;

use crate::diagnostic::Diagnostics;
use crate::files::{ManifestFiles, Places};

/// The key of an entry of the audit log's chain, where one is set (G71).
pub const AUDIT_INTEGRITY_KEY: &str = "AUDIT_INTEGRITY_KEY";
/// The key that session cookies are signed with.
pub const SESSION_SECRET: &str = "SESSION_SECRET";
/// Secrets that a `.env` may always name (G66b); those of the agent's own file come on top.
pub const SECRETS: [&str; 4] = ["ANTHROPIC_API_KEY", AUDIT_INTEGRITY_KEY, "OPENAI_API_KEY", SESSION_SECRET];

/// The files of the rules folder, read; what is wrong with them is in `out`.
pub(crate) fn rules_folder(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) -> Vec<PathBuf> {
    screening::folder(files, places, out).sources
}
