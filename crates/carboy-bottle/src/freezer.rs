//! A control group that stands still as a whole: the unified hierarchy's `cgroup.freeze`.
//!
//! ```text
//! freeze ─▶ 1 ─▶ cgroup.freeze        cgroup.events says `frozen 1` when the last one stands
//! ```
//!
//! What is frozen can be killed all the same, and dies at once; init is frozen with the rest, so that its parent-death signal
//! ends the bottle of a dead supervisor as ever.
//!
//! *Must never* wait without an end: a process in the middle of a device's work stands only when that is over.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The file that freezes.
pub const FREEZE: &str = "cgroup.freeze";
/// The file that tells what came of it.
const EVENTS: &str = "cgroup.events";
/// The kernel wakes whoever waits for a change; this is for a change between the look and the wait.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Whether a bottle's processes are born in a group that can be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freezing {
    /// They are.
    Yes,
    /// The host lets nobody make one; init stops them by signals.
    No,
}

/// The group of one bottle.
#[derive(Clone, Debug)]
pub struct Freezer {
    directory: PathBuf,
}

impl Freezer {
    /// Of this directory.
    pub fn of(directory: PathBuf) -> Freezer {
        Freezer { directory }
    }

    /// Makes everything stand still; false when something did not within `wait_max`. It will, as soon as it would come back
    /// to its own program.
    pub fn freeze(&self, wait_max: Duration) -> io::Result<bool> {
        let until = Instant::now() + wait_max;
        fs::write(self.directory.join(FREEZE), "1")?;
        loop {
            // Opened anew: a change after this moment wakes the wait below.
            let events = fs::File::open(self.directory.join(EVENTS))?;
            if io::read_to_string(&events)?.lines().any(|line| line == "frozen 1") {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&LOOK_EVERY)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) -> io::Result<()> {
        fs::write(self.directory.join(FREEZE), "0")
    }
}
