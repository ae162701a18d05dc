//! Why a run did not come about, or was lost.
//!
//! *Must never* say a secret's value, only its name.

use carboy_bottle::LaunchError;
use carboy_core::ids::SecretName;
use carboy_manifest::Diagnostics;

use crate::authority::AuthorityError;
use crate::home::HomeError;
use crate::image::ImageError;
use crate::inside::ShowError;
use crate::ports::PortError;
use crate::resume::AgainError;
use crate::seed::SeedError;
use crate::vault::VaultError;
use crate::workspace::WorkspaceError;

/// Why a run did not come about, or was lost.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file is not valid.
    #[error("{0}")]
    Manifest(Diagnostics),
    /// The person's own hand would have put a real key into the bottle.
    #[error(
        "variable {variable} would carry the real {secret} into the bottle; leave it out: a route's `token_env` or `credential` puts a fake there"
    )]
    SecretInside {
        /// The variable.
        variable: String,
        /// The secret.
        secret: SecretName,
    },
    /// The host cannot give the bottle.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A directory that must not be shown.
    #[error(transparent)]
    Show(#[from] ShowError),
    /// A secret is missing.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A secret cannot be scanned for.
    #[error("{0}")]
    Secret(String),
    /// The image is none, or could not be made ready.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The provider's files in the bottle's home.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// A port that cannot be joined.
    #[error(transparent)]
    Port(#[from] PortError),
    /// It cannot be started again now.
    #[error(transparent)]
    Again(#[from] AgainError),
    /// What the bottle keeps of the workspace.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// Files of `CARBOY_HOME`.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The audit log.
    #[error("{0}")]
    Audit(String),
    /// The ledger.
    #[error("{0}")]
    Ledger(String),
    /// Something of the system.
    #[error("could not {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}
