//! The bottles that a chat agent's tools are in: each is a run of its own, with a gateway, a record and a budget's share.
//!
//! *Must never* be the only one who stops them: each listens on a socket of its own, as every run does.

use std::sync::{Mutex, PoisonError};

use carboy_core::budget::Shutdown;

use crate::registry::{self, Question, RunRecord};

/// Those that live.
#[derive(Default)]
pub(super) struct ToolBottles {
    living: Mutex<Vec<RunRecord>>,
}

impl ToolBottles {
    /// One more.
    pub(super) fn began(&self, record: RunRecord) {
        self.living().push(record);
    }

    /// It is gone.
    pub(super) fn ended(&self, run: &str) {
        self.living().retain(|record| record.run != run);
    }

    /// Stops them as their agent is stopped. One that does not answer is on its way out already: its agent's own routes are
    /// closed in any case. Blocks.
    pub(super) fn stop(&self, how: Shutdown) {
        let question = match how {
            Shutdown::Cutoff | Shutdown::Pause => Question::Enforce { how },
            // What is frozen is started again by its agent, from its own file.
            Shutdown::Freeze | Shutdown::Kill => Question::Kill,
        };
        self.ask(&question);
    }

    /// Lets those go on that stand still. Blocks.
    pub(super) fn let_go(&self) {
        self.ask(&Question::Resume);
    }

    fn ask(&self, question: &Question) {
        let living = self.living().clone();
        for record in living {
            let _ = registry::ask(&record, question);
        }
    }

    fn living(&self) -> std::sync::MutexGuard<'_, Vec<RunRecord>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
