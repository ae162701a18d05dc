//! The end of a chat agent: everything settled, written down, and told to whoever waits for it.
//!
//! *Must never* tell an end that is not in the log.

use super::{ChatError, ChatHost, bottles};
use crate::summary::{Ended, Summary};

impl ChatHost {
    /// Ends it: everything settled and written down, and told to whoever waits for it.
    pub async fn end(mut self, ended: Ended) -> Result<Summary, ChatError> {
        let summary = self.come_to_the_end(ended).await;
        self.hosted.tell(&summary).await;
        summary
    }

    async fn come_to_the_end(&mut self, ended: Ended) -> Result<Summary, ChatError> {
        // While there is a way out.
        if let Some(webhooks) = self.webhooks.take() {
            webhooks.close().await;
        }
        self.hosted.gateway.shutdown();
        self.bottle.end().await;
        // While there is a log.
        self.engine.settle();
        let summary = self.hosted.close(bottles::TIER, ended).await;
        if let Some(offline) = self.offline.take() {
            offline.stop().await;
        }
        Ok(summary?)
    }
}
