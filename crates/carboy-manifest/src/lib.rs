//! Bottles and agents as Markdown files with front matter, settings, and the checked effective configuration.
//!
//! ```text
//!   files ─▶ frontmatter ─▶ yaml (tree with positions) ─▶ bottle (parts) │ agent │ settings
//!                              │                             │
//!                              │         chain (extends) ─▶ merge ─▶ whole ─▶ load ─▶ Effective ─▶ view
//!                              │                             │
//!                              └── SyntaxError ──▶ Diagnostics ◀── every schema error, each with its fix
//! ```
//!
//! *Architecture invariants:* nothing here opens a file, a socket, an environment variable or a clock; what it reads
//! comes through [`files::ManifestFiles`]. A key that this version does not implement is an error, never ignored: a
//! limit that a person wrote and nobody enforces is worse than none. A file under the working directory selects a
//! bottle and never widens one (a checked-out repository is not trusted), and is used only after somebody has agreed to
//! it. Nothing in here holds a secret. No module needs one that needs it (M33).

pub mod agent;
pub mod bottle;
pub mod budget;
pub mod built_in;
pub mod chain;
pub mod chat;
pub mod check;
pub mod diagnostic;
pub mod edit;
pub mod effective;
pub mod egress;
pub mod files;
pub mod frontmatter;
pub mod git;
pub mod host_paths;
pub mod image;
mod implied;
pub mod import;
mod keys;
pub mod limits;
pub mod load;
pub mod lookup;
pub mod merge;
pub mod origin;
pub mod ports;
pub mod presets;
mod provider;
pub mod providers;
mod schema;
pub mod settings;
pub mod starter;
pub mod trust;
pub mod view;
pub mod whole;
pub mod yaml;

pub use agent::RepositoryAgent;
pub use bottle::Workspace;
pub use budget::{Budgets, RunBudget};
pub use check::{CheckReport, check};
pub use diagnostic::{Code, Diagnostic, Diagnostics};
pub use effective::Effective;
pub use files::{ManifestFiles, MapFiles, Places};
pub use image::Backend;
pub use load::{Manifest, Request, Reread, reread, routes_of};
pub use provider::{EnvValue, Provider};
pub use settings::{Notify, SecretFrom, Settings, Webhook};
pub use trust::{LoadError, NeedsTrust, Trust, TrustNothing, Trusted};
