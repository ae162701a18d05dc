//! The offline model: a simulated provider on loopback, in the place of the one that the agent's file names.
//!
//! ```text
//!  gateway ── route, scan, hold, credential: as ever ──▶ upstreams[host] = 127.0.0.1 ──▶ carboy-sim
//! ```
//!
//! Nothing of the plane is left out for it: its tokens are held and charged like a provider's. *Must never* be given a real
//! key: the one that it takes is made for this run.

use carboy_core::upstream::{Transport, Upstream};
use carboy_sim::{Config, Running, Simulator};

use super::{ChatError, ChatRequest};
use crate::fresh::WithKey;

/// See the module.
pub(super) struct OfflineModel(Running);

impl OfflineModel {
    /// Starts it and puts it in the provider's place, with a key of its own.
    pub(super) async fn start(request: &mut ChatRequest) -> Result<OfflineModel, ChatError> {
        let choice = &request.spec.model;
        let mut config = Config::offline();
        // Where the file names no key none is asked for.
        (config.anthropic_key, config.openai_key) = Default::default();
        if let Some(name) = &choice.token_env {
            let lookup = std::sync::Arc::new(WithKey::fresh(request.lookup.clone(), name)?);
            let key = lookup.key().expose().to_owned();
            (config.anthropic_key, config.openai_key) = (key.clone(), key);
            request.lookup = lookup;
            // The real one is not read where nobody needs it.
            request.effective.settings.secrets.remove(name);
        }
        let running = Simulator::start(config).await.map_err(|e| ChatError::Offline(e.to_string()))?;
        let upstream = Upstream { address: running.addr, transport: Transport::Plain, extra_ca_pem: None };
        request.effective.settings.upstreams.insert(choice.host.clone(), Some(choice.port), upstream);
        Ok(OfflineModel(running))
    }

    pub(super) async fn stop(self) {
        self.0.stop().await;
    }
}
