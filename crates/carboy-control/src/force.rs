//! What was done to a run from outside so far, and what of it holds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use carboy_core::budget::Shutdown;
use carboy_core::ports::Clock;

use crate::clock::SystemClock;
use crate::summary::{Action, By, Enforced};

/// Actions that a run remembers for its summary; the log has all of them.
const ENFORCED_KEPT_MAX: usize = 16;

/// See the module.
#[derive(Default)]
pub(crate) struct Force(Mutex<State>);

#[derive(Default)]
struct State {
    done: Vec<Enforced>,
    in_force: Option<Shutdown>,
}

impl Force {
    /// What holds now.
    pub(crate) fn now(&self) -> Option<Shutdown> {
        self.state().in_force
    }

    /// The last action, while it holds.
    pub(crate) fn last(&self) -> Option<Enforced> {
        let state = self.state();
        state.in_force.and(state.done.last()).cloned()
    }

    /// Everything that was done, for the summary.
    pub(crate) fn done(&self) -> Vec<Enforced> {
        self.state().done.clone()
    }

    pub(crate) fn remember(&self, action: Action, by: By, why: &str) {
        let mut state = self.state();
        state.in_force = match action {
            Action::Stopped(how) => Some(how),
            Action::Resumed => None,
        };
        if state.done.len() >= ENFORCED_KEPT_MAX {
            state.done.remove(0);
        }
        state.done.push(Enforced { action, by, why: why.to_owned(), at_ms: SystemClock.now_ms() });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole at every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
