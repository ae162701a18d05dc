//! How fast one bottle may be refused: each refusal is an entry on disk, and a program in a loop would fill it.
//!
//! A burst is answered at once; beyond it refusals queue up, each waiting its turn (the generic cell rate algorithm,
//! ITU-T I.371). *Must never* drop a refusal: a late answer and its entry are still an answer and an entry.

use std::time::{Duration, Instant};

pub(crate) struct Pace {
    every: Duration,
    burst: Duration,
    /// When the next refusal would be due at an even pace.
    due: Option<Instant>,
}

impl Pace {
    /// One refusal `every` so often in the long run, `burst` of them without a wait.
    pub(crate) fn new(every: Duration, burst: u32) -> Pace {
        Pace { every, burst: every.saturating_mul(burst), due: None }
    }

    /// Takes a turn: how long this refusal has to wait.
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        let due = self.due.map_or(now, |due| due.max(now));
        self.due = Some(due + self.every);
        (due + self.every).saturating_duration_since(now + self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_what_follows_waits_its_turn() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_millis(10), 3);
        let waits: Vec<u128> = (0..5).map(|_| pace.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 10, 20]);
        // A quiet time gives the burst back, and no more than that.
        let later = start + Duration::from_secs(60);
        let waits: Vec<u128> = (0..4).map(|_| pace.take(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 10]);
    }
}
