//! The end of a chat agent: everything settled, written down, and told to whoever waits for it.
//!
//! *Must never* tell an end that is not in the log.

use super::{ChatError, ChatHost, bottles};
use crate::closing::{Closing, told};
use crate::summary::{Ended, Summary};

impl ChatHost {
    /// Ends it: everything settled and written down, and told to whoever waits for it.
    pub async fn end(mut self, ended: Ended) -> Result<Summary, ChatError> {
        let summary = self.come_to_the_end(ended).await;
        // Whoever hears of the end finds no record of a living run.
        drop(self.registration);
        told(self.session, &summary).await;
        summary
    }

    async fn come_to_the_end(&mut self, ended: Ended) -> Result<Summary, ChatError> {
        // While there is a way out.
        if let Some(webhooks) = self.webhooks.take() {
            webhooks.close().await;
        }
        self.gateway.shutdown();
        self.bottle.end().await;
        let closing = Closing {
            gateway: &self.gateway,
            audit: &self.audit,
            standing: &self.standing,
            notifier: &self.notifier,
            session: &self.session,
            kept: &self.kept,
            tasks: &self.tasks,
            started_ms: self.started_ms,
            run_dir: &self.run_dir,
            tier: bottles::TIER,
        };
        let summary = closing.close(ended).await;
        if let Some(offline) = self.offline.take() {
            offline.stop().await;
        }
        Ok(summary?)
    }
}
