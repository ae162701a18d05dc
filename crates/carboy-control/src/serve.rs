//! The HTTP service of a chat agent: routes, session cookies, walls, streams; it is handed its agent and knows no application.
//!
//! ```text
//!  person ─▶ listener (rooms, timeouts) ─▶ way (who, through which proxies) ─▶ origin ─▶ identity ─▶ cookie ─▶ route ─▶ Engine
//!                                                                                                      walls, log ◀─ answer
//! ```
//!
//! *Must never* take a session from a body, a principal from an unsigned field, or an address from a peer that is no listed
//! proxy; and never answer without the fields of `headers.rs`.

mod body;
mod cookie;
mod entry;
mod headers;
mod identity;
mod journal;
mod jwt;
mod listener;
pub(crate) mod origin;
mod page;
mod plane;
mod proxies;
mod refusal;
mod routes;
mod stream;
mod turns;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use axum::body::Bytes;
use carboy_agent::{Engine, Metrics};
use carboy_core::ports::Clock;
use carboy_core::secret::SecretText;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use identity::{IdentityError, IdentityRefused};
pub use journal::Lines;
pub use jwt::{KeySetError, TokenError};
pub use listener::{
    CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, FIELDS_MAX, HEAD_BYTES_MAX, HEAD_WAIT_MAX, WRITE_WAIT_MAX,
};
pub use page::Architecture;
pub use plane::{MetricsPage, OFFLINE, Opening, serve_host};
pub use proxies::{Network, NetworkError};
pub use stream::HEARTBEAT;
pub use turns::{READERS_PER_TURN_MAX, TURNS_MAX, TURNS_PER_SESSION_MAX};

use cookie::{Cookies, Placed};
use headers::Walls;
use identity::Identities;
use journal::Journal;
use turns::Turns;

/// Fewest characters of the session secret.
pub const SESSION_SECRET_CHARS_MIN: usize = 32;

/// What is served.
pub struct Served {
    /// The agent.
    pub engine: Arc<Engine>,
    /// The page of its source, where it has one.
    pub architecture: Option<Architecture>,
    /// What is said wherever it speaks when its model is not a real one: `offline model`.
    pub offline: Option<String>,
    /// What `/metrics` shows; without it there is no such address.
    pub metrics: Option<Arc<Metrics>>,
}

/// How it is served.
pub struct ServeConfig {
    /// What cookies are signed with: at least [`SESSION_SECRET_CHARS_MIN`] characters, the same after a restart.
    pub session_secret: SecretText,
    /// The key of signed headers, where the agent's `identity:` names one.
    pub identity_secret: Option<SecretText>,
    /// Proxies whose word on a client's address, scheme and name is taken.
    pub trusted_proxies: Vec<Network>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where log lines go.
    pub lines: Lines,
    /// How long turns under way may take once it is asked to stop.
    pub grace: Duration,
}

/// Why it cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The secret can be guessed.
    #[error(
        "the session secret has {chars} characters, at least {SESSION_SECRET_CHARS_MIN} are needed; `openssl rand -hex 32` makes one"
    )]
    SecretTooShort {
        /// What it has.
        chars: usize,
    },
    /// Its people cannot be known.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The listener.
    #[error("could not use the listener: {0}; give `--listen` another address")]
    Listener(#[from] std::io::Error),
}

/// What every request shares.
struct App {
    engine: Arc<Engine>,
    architecture: Option<Architecture>,
    offline: Option<String>,
    metrics: Option<Arc<Metrics>>,
    clock: Arc<dyn Clock>,
    walls: Walls,
    cookies: Cookies,
    identities: Identities,
    trusted: Vec<Network>,
    journal: Arc<Journal>,
    turns: Arc<Turns>,
    /// Where it listens: on loopback alone, other names than loopback's are not served.
    address: SocketAddr,
}

/// Serves until `stop` says so; comes back when everything has ended.
pub async fn serve(
    agent: Served,
    config: ServeConfig,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let chars = config.session_secret.expose().chars().count();
    if chars < SESSION_SECRET_CHARS_MIN {
        return Err(ServeError::SecretTooShort { chars });
    }
    let spec = agent.engine.spec();
    let placed = if spec.frame_ancestors.is_empty() { Placed::Own } else { Placed::Framed };
    let log_key = SecretText::new(config.session_secret.expose().clone());
    let app = Arc::new(App {
        address: listener.local_addr()?,
        walls: Walls::new(&spec.frame_ancestors),
        cookies: Cookies::new(spec.name.clone(), config.session_secret, placed),
        identities: Identities::new(&spec.identity, config.identity_secret)?,
        trusted: config.trusted_proxies,
        journal: Arc::new(Journal::new(config.lines, config.clock.clone(), log_key)),
        turns: Arc::new(Turns::new()),
        clock: config.clock,
        architecture: agent.architecture,
        offline: agent.offline,
        metrics: agent.metrics,
        engine: agent.engine,
    });
    let router = routes::router(app.clone());
    let engine = app.engine.clone();
    listener::serve(listener, app, router, stop, config.grace).await;
    engine.settle();
    Ok(())
}

/// A body that is there from the start.
fn whole(bytes: impl Into<Bytes>) -> axum::body::Body {
    axum::body::Body::from(bytes.into())
}
