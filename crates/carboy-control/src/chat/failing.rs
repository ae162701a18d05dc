//! Why a chat agent does not start, in words that name the thing and the next step.

use std::path::PathBuf;

use carboy_agent::EngineError;
use carboy_core::ids::SecretName;
use carboy_store::sessions::SessionFileError;

use super::secret::SESSION_SECRET;
use super::webhooks::BadKey;
use crate::authority::AuthorityError;
use crate::home::HomeError;
use crate::supervisor::RunError;
use crate::vault::VaultError;

/// A chat agent cannot start, or its end could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The model's key is not there (G41b).
    #[error(
        "the model's key {name} is not set: set the environment variable {name}, define it under `secrets:` in {settings}, or \
         see the agent without a model of a provider's by `--model offline`"
    )]
    NoModelKey {
        /// The variable.
        name: SecretName,
        /// The settings.
        settings: PathBuf,
    },
    /// Production asks for a secret that somebody chose (G41b).
    #[error(
        "{SESSION_SECRET} is not set, and the production preset generates none: set it (`openssl rand -hex 32` makes one), \
         define it under `secrets:` in {settings}, or choose `--preset dev`"
    )]
    NoSessionSecret {
        /// The settings.
        settings: PathBuf,
    },
    /// Another secret.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The offline model.
    #[error("the offline model could not be started: {0}")]
    Offline(String),
    /// What the engine was made of.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Where conversations live.
    #[error(transparent)]
    Sessions(#[from] SessionFileError),
    /// Where notes go.
    #[error("notes cannot be kept in {path}: {why}")]
    Shelf {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A tool's server.
    #[error("the tools of `{server}` are not there: {why}")]
    Tools {
        /// What the file calls it.
        server: String,
        /// What happened.
        why: String,
    },
    /// Somebody ended it before it had started.
    #[error("it was interrupted while its tools were starting")]
    Interrupted,
    /// What webhooks are signed with.
    #[error(transparent)]
    Webhooks(#[from] BadKey),
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The log.
    #[error("{0}")]
    Audit(String),
    /// What every run needs.
    #[error(transparent)]
    Run(#[from] RunError),
}
