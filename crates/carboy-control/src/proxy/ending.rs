//! The end of a proxy: nobody is accepted, everything settled, written down, and told to whoever waits for it.
//!
//! *Must never* tell an end that is not in the log, or leave a file behind.

use super::{ProxyError, ProxyHost};
use crate::standing::Hangs;
use crate::summary::{Ended, Summary};

impl ProxyHost {
    /// Ends it: everything settled and written down, its files gone, and the end told to whoever waits for it.
    pub async fn end(self, ended: Ended) -> Result<Summary, ProxyError> {
        self.door.ending();
        let summary = self.hosted.close(self.door.tier(), ended).await.map_err(ProxyError::from);
        // Whoever hears of the end finds none of its files.
        drop(self.files);
        self.hosted.tell(&summary).await;
        summary
    }
}
