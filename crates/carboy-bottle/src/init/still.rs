//! Everything inside stopped by signals, where no control group can do it.
//!
//! ```text
//! look who is stopped already ─▶ kill(-1, SIGSTOP) ─▶ look: does anything move? ─▶ again, some milliseconds later
//! ```
//!
//! The kernel sends to all in one step, a child that is being forked included. What can undo it is a SIGCONT by one that had
//! not stopped yet, and the kernel's own when a process dies: hence the rounds, and a new one after each death.
//!
//! *Must never* keep init from hearing: one round is one look through `/proc`, and the next one waits its turn.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::sys::process;
use crate::wire::PAUSE_WAIT_MAX;

/// Between two rounds.
const ROUND_EVERY: Duration = Duration::from_millis(2);
/// Longest line of `/proc/PID/stat` that is read, in octets; what is needed stands in its first half.
const STAT_BYTES: usize = 1024;

/// A process, and when it was started: its number alone may be another's by now.
type Known = (i32, u64);

/// See the module.
#[derive(Default)]
pub struct Still {
    phase: Phase,
    /// Stopped before us: they stay so.
    stopped_before: BTreeSet<Known>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Everything goes on.
    #[default]
    Goes,
    /// It has been stopped and something moved; whoever asked waits for the outcome.
    Settling { asked: Option<u32>, until: Instant, next: Instant },
    /// Nothing moved any more.
    Stands,
}

/// What there is to tell the supervisor.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its number for the question.
    pub id: u32,
    /// Processes that still moved.
    pub restless: u32,
}

impl Still {
    /// Is everything to stand?
    pub fn is_wanted(&self) -> bool {
        self.phase != Phase::Goes
    }

    /// When the next round is due.
    pub fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Settling { next, .. } => Some(next),
            Phase::Goes | Phase::Stands => None,
        }
    }

    /// Begins. The outcome comes from [`Still::round`].
    pub fn begin(&mut self, id: u32) {
        if self.phase == Phase::Goes {
            self.stopped_before = processes().filter(|p| p.state == b'T').map(|p| p.known).collect();
        }
        self.settle(Some(id));
    }

    /// Somebody died, and the kernel may have woken those that it left behind.
    pub fn disturbed(&mut self) {
        if self.phase == Phase::Stands {
            self.settle(None);
        }
    }

    fn settle(&mut self, asked: Option<u32>) {
        let now = Instant::now();
        self.phase = Phase::Settling { asked, until: now + PAUSE_WAIT_MAX, next: now };
    }

    /// One round, when it is due.
    pub fn round(&mut self) -> Option<Settled> {
        let Phase::Settling { asked, until, next } = self.phase else { return None };
        if Instant::now() < next {
            return None;
        }
        // ESRCH: there is nobody, and nobody moves.
        let _ = process::kill(-1, libc::SIGSTOP);
        let restless = u32::try_from(processes().filter(|p| p.moves()).count()).unwrap_or(u32::MAX);
        let now = Instant::now();
        if restless > 0 && now < until {
            self.phase = Phase::Settling { asked, until, next: now + ROUND_EVERY };
            return None;
        }
        self.phase = Phase::Stands;
        asked.map(|id| Settled { id, restless })
    }

    /// Lets those go on that were stopped by us.
    pub fn thaw(&mut self) {
        self.phase = Phase::Goes;
        let before = std::mem::take(&mut self.stopped_before);
        if before.is_empty() {
            let _ = process::kill(-1, libc::SIGCONT);
            return;
        }
        for other in processes().filter(|p| !before.contains(&p.known)) {
            let _ = process::kill(other.known.0, libc::SIGCONT);
        }
    }
}

struct Seen {
    known: Known,
    state: u8,
}

impl Seen {
    /// Runs, or could at any moment. One in the kernel's own sleep (`D`) stops before it comes back to its program.
    fn moves(&self) -> bool {
        matches!(self.state, b'R' | b'S')
    }
}

/// Everything inside but init. Bounded by the bottle's own limit on processes.
fn processes() -> impl Iterator<Item = Seen> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let mut line = [0; STAT_BYTES];
        let length = std::fs::File::open(entry.path().join("stat")).ok()?.read(&mut line).ok()?;
        (pid > 1).then(|| seen(pid, &line[..length]))?
    })
}

/// Of a line of `/proc/PID/stat`: the name may have anything in it, so that what follows its last bracket counts.
fn seen(pid: i32, line: &[u8]) -> Option<Seen> {
    let after = line.iter().rposition(|b| *b == b')')? + 2;
    let fields: Vec<&[u8]> = line.get(after..)?.split(|b| *b == b' ').collect();
    let started = std::str::from_utf8(fields.get(19)?).ok()?.parse().ok()?;
    Some(Seen { known: (pid, started), state: *fields.first()?.first()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processs_name_cannot_lie_about_its_state() {
        let line = b"7 (a) T 1 () R 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1 1";
        let seen = seen(7, line).unwrap();
        assert_eq!((seen.known, seen.state, seen.moves()), ((7, 4242), b'R', true));
        assert!(super::seen(7, b"7 (a").is_none() && super::seen(7, b"7 (a) R 1 2").is_none());
    }
}
