//! Why a chat agent does not start, in words that name the thing and the next step.

use std::fmt;
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

/// The `.env` beside an agent, as an error names it: the first of the ways to set a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beside {
    /// The agent is no file that one could stand beside.
    Nowhere,
    /// It does not name the secret, or is not there.
    Unsaid(PathBuf),
    /// It names it, without a value.
    Empty(PathBuf),
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Beside::Nowhere => Ok(()),
            Beside::Unsaid(path) => write!(f, "write it into {}, ", path.display()),
            Beside::Empty(path) => write!(f, "write it into {}, where its line is empty, ", path.display()),
        }
    }
}

/// A chat agent cannot start, or its end could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The model's key is not there (G41b).
    #[error(
        "the model's key {name} is not set: {beside}set the environment variable {name}, define it under `secrets:` in {settings}, or \
         see the agent without a model of a provider's by `--model offline`"
    )]
    NoModelKey {
        /// The variable.
        name: SecretName,
        /// The `.env` that could hold it.
        beside: Beside,
        /// The settings.
        settings: PathBuf,
    },
    /// Production asks for a secret that somebody chose (G41b).
    #[error(
        "{SESSION_SECRET} is not set, and the production preset generates none (`openssl rand -hex 32` makes one): {beside}set the \
         environment variable, define it under `secrets:` in {settings}, or choose `--preset dev`"
    )]
    NoSessionSecret {
        /// The `.env` that could hold it.
        beside: Beside,
        /// The settings.
        settings: PathBuf,
    },
    /// Conversations that nobody runs cannot be opened without theirs.
    #[error(
        "{SESSION_SECRET} is not set, and without the one that the agent is served with its conversations cannot be opened while it does \
         not run: {beside}set the environment variable, define it under `secrets:` in {settings}, or start the agent"
    )]
    NoKeptSecret {
        /// The `.env` that could hold it.
        beside: Beside,
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
    /// What every run needs.
    #[error(transparent)]
    Run(#[from] RunError),
}
