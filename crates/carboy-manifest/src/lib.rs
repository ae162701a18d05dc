//! Bottles and agents as Markdown files with front matter, settings, and the checked effective configuration.
//!
//! ```text
//!   files ─▶ frontmatter ─▶ yaml (tree with positions) ─▶ bottle │ agent │ settings ─▶ Effective
//!                              │                             │
//!                              └── SyntaxError ──▶ Diagnostics ◀── every schema error, each with its fix
//! ```
//!
//! *Architecture invariants:* nothing here opens a file, a socket, an environment variable or a clock; what it reads
//! comes through [`files::ManifestFiles`]. A key that this version does not implement is an error, never ignored: a
//! limit that a person wrote and nobody enforces is worse than none. A file under the working directory selects a
//! bottle and never widens one (a checked-out repository is not trusted). Nothing in here holds a secret.

pub mod agent;
pub mod bottle;
pub mod check;
pub mod diagnostic;
pub mod edit;
pub mod effective;
pub mod egress;
pub mod files;
pub mod frontmatter;
pub mod git;
pub mod host_paths;
mod keys;
pub mod limits;
mod schema;
pub mod settings;
pub mod yaml;

pub use bottle::{EnvValue, Provider};
pub use check::{CheckReport, check};
pub use diagnostic::{Code, Diagnostic, Diagnostics};
pub use effective::{Effective, Manifest, Request, routes_of};
pub use files::{ManifestFiles, MapFiles, Places};
pub use settings::{SecretFrom, Settings};
