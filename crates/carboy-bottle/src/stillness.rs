//! A bottle that stands still, and goes on: by its control group where it has one, else by its init's signals.
//!
//! ```text
//! pause ─▶ nothing new is asked of init ─▶ cgroup.freeze = 1,  or  init: kill(-1, SIGSTOP) until nothing moves
//! thaw  ─▶ cgroup.freeze = 0,  or  init: SIGCONT to whom it stopped ─▶ signals that came meanwhile ─▶ asked as ever
//! ```
//!
//! *Must never* let a program inside run while the bottle is paused: what is asked of it waits or is refused, and signals wait.

use std::io;

use crate::freezer::Freezer;
use crate::inside::Inside;
use crate::launch::Bottle;
use crate::wire::PAUSE_WAIT_MAX;

impl Bottle {
    /// Makes everything inside stand still, the programs of [`Bottle::exec`] too; what is asked of it until [`Bottle::thaw`]
    /// is refused, and signals wait. Blocks for some milliseconds, at most about two seconds.
    pub fn pause(&self) -> io::Result<Stillness> {
        self.stilling.pause()
    }

    /// Lets a paused bottle go on where it stood.
    pub fn thaw(&self) -> io::Result<()> {
        self.stilling.thaw()
    }

    /// Can it be made to stand still as a whole, by a control group? Else init stops one process after the other.
    pub fn stills_as_a_whole(&self) -> bool {
        self.stilling.by_group()
    }
}

/// How still a paused bottle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stillness {
    /// Nothing inside moves.
    Whole,
    /// Some had not stopped within a second: they are in the middle of a device's work and stop before they run again, or
    /// something inside wakes others faster than they are stopped, which a control group would end.
    Restless,
}

/// What makes one bottle stand still.
#[derive(Debug)]
pub(crate) struct Stilling {
    freezer: Option<Freezer>,
    inside: Inside,
}

impl Stilling {
    pub(crate) fn new(freezer: Option<Freezer>, inside: Inside) -> Stilling {
        Stilling { freezer, inside }
    }

    /// By what: for whoever tells a person.
    pub(crate) fn by_group(&self) -> bool {
        self.freezer.is_some()
    }

    pub(crate) fn pause(&self) -> io::Result<Stillness> {
        self.inside.hold_back()?;
        let still = match &self.freezer {
            Some(freezer) => freezer.freeze(PAUSE_WAIT_MAX),
            None => self.inside.pause(),
        };
        match still {
            Ok(true) => Ok(Stillness::Whole),
            Ok(false) => Ok(Stillness::Restless),
            Err(error) => {
                // Half of it may stand: none of it is left that way.
                let _ = self.thaw();
                Err(error)
            }
        }
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        match &self.freezer {
            Some(freezer) => freezer.thaw()?,
            None => self.inside.thaw()?,
        }
        self.inside.go_on()
    }
}
