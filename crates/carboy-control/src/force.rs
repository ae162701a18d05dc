//! What was done to a run from outside so far, what of it holds, and whose word that is.
//!
//! *Must never* forget a person's word, or a spent cap, because something as strict held already when it came.

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
    /// Somebody else than a budget wants it stopped: room in a cap does not undo that.
    stays: bool,
    /// Which cap is spent, in the controller's words, until that says that there is room.
    spent: Option<String>,
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

    /// The cap that is spent, while it is stopped.
    pub(crate) fn spent(&self) -> Option<String> {
        let state = self.state();
        state.in_force.and(state.spent.clone())
    }

    /// A word that changes nothing, because something as strict holds: is it news that it holds without a budget, too?
    pub(crate) fn hears(&self, by: By, why: &str) -> bool {
        self.state().hears(by, why)
    }

    /// There is room again; says whether that lets it go on.
    pub(crate) fn has_room(&self) -> bool {
        let mut state = self.state();
        state.spent = None;
        state.in_force.is_some() && !state.stays
    }

    /// It was done.
    pub(crate) fn remember(&self, action: Action, by: By, why: &str) {
        let mut state = self.state();
        match action {
            Action::Stopped(how) => {
                state.in_force = Some(how);
                state.hears(by, why);
            }
            Action::Resumed => (state.in_force, state.stays, state.spent) = (None, false, None),
        }
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

impl State {
    fn hears(&mut self, by: By, why: &str) -> bool {
        match by {
            By::Budget => {
                self.spent = Some(why.to_owned());
                false
            }
            By::Operator | By::Storm => !std::mem::replace(&mut self.stays, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_in_a_cap_undoes_no_other_word_whichever_came_first() {
        let stopped = Action::Stopped(Shutdown::Cutoff);
        let by_budget = Force::default();
        by_budget.remember(stopped, By::Budget, "spent");
        assert!(by_budget.has_room());
        let then_by_hand = Force::default();
        then_by_hand.remember(stopped, By::Budget, "spent");
        assert!(then_by_hand.hears(By::Operator, "stop") && !then_by_hand.hears(By::Operator, "stop"));
        assert!(!then_by_hand.has_room());
        // Stricter for a cap than it was by hand.
        let by_hand = Force::default();
        by_hand.remember(stopped, By::Operator, "stop");
        by_hand.remember(Action::Stopped(Shutdown::Pause), By::Budget, "spent");
        assert!(!by_hand.has_room());
        by_hand.remember(Action::Resumed, By::Operator, "resume");
        by_hand.remember(stopped, By::Budget, "spent");
        assert!(by_hand.has_room());
    }

    #[test]
    fn a_cap_that_is_spent_while_a_person_has_stopped_it_is_known_until_there_is_room() {
        let force = Force::default();
        force.remember(Action::Stopped(Shutdown::Cutoff), By::Operator, "stop");
        assert_eq!(force.spent(), None);
        assert!(!force.hears(By::Budget, "budget of run:r-1"));
        assert_eq!(force.spent().as_deref(), Some("budget of run:r-1"));
        assert!(!force.has_room());
        assert_eq!(force.spent(), None);
    }
}
