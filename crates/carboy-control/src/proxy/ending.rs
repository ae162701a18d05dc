//! The end of a proxy: nobody is accepted, everything settled, written down, and told to whoever waits for it.
//!
//! *Must never* tell an end that is not in the log, or leave a file behind.

use super::{ProxyError, ProxyHost};
use crate::closing::{Closing, told};
use crate::standing::Hangs;
use crate::summary::{Ended, Summary};

impl ProxyHost {
    /// Ends it: everything settled and written down, its files gone, and the end told to whoever waits for it.
    pub async fn end(self, ended: Ended) -> Result<Summary, ProxyError> {
        let summary = self.come_to_the_end(ended).await;
        // Whoever hears of the end finds no record of a living run, and none of its files.
        drop(self.files);
        drop(self.registration);
        told(self.session, &summary).await;
        summary
    }

    async fn come_to_the_end(&self, ended: Ended) -> Result<Summary, ProxyError> {
        self.door.ending();
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
            tier: self.door.tier(),
        };
        Ok(closing.close(ended).await?)
    }
}
