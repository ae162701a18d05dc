//! Why a proxy does not start, in words that name the thing and the next step.
//!
//! *Must never* say a password or a key.

use std::path::PathBuf;

use crate::authority::AuthorityError;
use crate::home::{HomeError, SOCKET_PATH_BYTES_MAX};
use crate::supervisor::RunError;
use crate::vault::VaultError;

/// A proxy cannot start, or its end could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The port.
    #[error("cannot listen on 127.0.0.1:{port}: {source}; leave `--port` out, and a free one is taken")]
    Port {
        /// What was wanted; 0 for any.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket.
    #[error("cannot listen on {path}: {why}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The socket would not fit.
    #[error("socket path {path} is longer than {SOCKET_PATH_BYTES_MAX} bytes; choose a shorter one")]
    SocketPath {
        /// Its path.
        path: PathBuf,
    },
    /// A secret is missing.
    #[error(transparent)]
    Vault(#[from] VaultError),
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
