//! The end of a chat agent: everything settled, written down, and told to whoever waits for it.
//!
//! *Must never* tell an end that is not in the log.

use std::time::Duration;

use super::{ChatError, ChatHost, Ending, bottles};
use crate::summary::{Ended, Summary};

impl ChatHost {
    /// Ends it: everything settled and written down, and told to whoever waits for it.
    pub async fn end(mut self, ended: Ended) -> Result<Summary, ChatError> {
        let summary = self.come_to_the_end(ended).await;
        self.hosted.tell(&summary).await;
        summary
    }

    async fn come_to_the_end(&mut self, ended: Ended) -> Result<Summary, ChatError> {
        self.carry_out().await;
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

    /// Lets answers of operators that are under way come to their end, unless it is to be over at once: a write that is broken
    /// off has an outcome that nobody heard.
    async fn carry_out(&mut self) {
        let killed = *self.hosted.standing.ending.borrow() == Some(Ending::Killed);
        let Some(answering) = self.answering.as_mut().filter(|_| !killed) else { return };
        let wait_max = Duration::from_millis(self.engine.spec().limits.tool_wait_ms.into());
        let _ = tokio::time::timeout(wait_max, answering.wait_for(|count| *count == 0)).await;
    }
}
