//! A chat agent of the plane, served: secrets, counters and its end come from its host (U3).
//!
//! *Must never* go on when its host was asked to end.

use std::sync::Arc;
use std::time::Duration;

use carboy_core::chat::Identity;
use carboy_core::secret::SecretText;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::listener::said;
use super::{Architecture, Lines, Network, ServeConfig, ServeError, Served, serve};
use crate::chat::{ChatHost, Ending};
use crate::clock::SystemClock;

/// What is said wherever the offline model speaks.
pub const OFFLINE: &str = "offline model";

/// What whoever serves decides.
pub struct Opening {
    /// Proxies whose word on a client's address, scheme and name is taken.
    pub trusted_proxies: Vec<Network>,
    /// The page of its source, where it has one.
    pub architecture: Option<Architecture>,
    /// Whether `/metrics` is there.
    pub metrics: MetricsPage,
    /// Where log lines go.
    pub lines: Lines,
    /// How long turns under way may take once it is asked to stop.
    pub grace: Duration,
}

/// Whether `/metrics` is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricsPage {
    /// It is not.
    #[default]
    Absent,
    /// It is, for whoever reaches the port.
    Shown,
}

/// Serves it until `stop` says so or somebody asks the agent to end (`carboy stop`); at once when it is killed.
pub async fn serve_host(
    host: &ChatHost,
    opening: Opening,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let copy = |secret: Arc<SecretText>| SecretText::new(secret.expose().clone());
    let identity_secret = match &host.engine().spec().identity {
        Identity::SignedHeader { secret, .. } => host.secret(secret).map(copy),
        Identity::Anonymous | Identity::Jwt { .. } => None,
    };
    let served = Served {
        engine: host.engine().clone(),
        architecture: opening.architecture,
        offline: host.is_offline().then(|| OFFLINE.to_owned()),
        metrics: (opening.metrics == MetricsPage::Shown).then(|| host.metrics().clone()),
    };
    let config = ServeConfig {
        session_secret: copy(host.session_secret()),
        identity_secret,
        trusted_proxies: opening.trusted_proxies,
        clock: Arc::new(SystemClock),
        lines: opening.lines,
        grace: opening.grace,
    };
    let (tell, told) = watch::channel(false);
    let (mut asked, mut killed) = (host.ending(), host.ending());
    let pass_on = async {
        tokio::select! {
            () = said(&mut stop) => {}
            () = until(&mut asked, |_| true) => {}
        }
        tell.send_replace(true);
        std::future::pending().await
    };
    tokio::select! {
        ended = serve(served, config, listener, told) => ended,
        () = pass_on => Ok(()),
        () = until(&mut killed, |ending| ending == Ending::Killed) => Ok(()),
    }
}

/// Ready when the host is to end in such a way; never when nobody can ask any more.
async fn until(ending: &mut watch::Receiver<Option<Ending>>, fits: impl Fn(Ending) -> bool) {
    let asked = ending.wait_for(|ending| ending.is_some_and(&fits)).await.is_ok();
    if !asked {
        std::future::pending::<()>().await;
    }
}
