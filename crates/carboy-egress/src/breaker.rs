//! A client that does not take a final no for an answer: it is answered ever more slowly, and then its supervisor is told.
//!
//! Some programs ask again at once, without end, whatever they are told (83 times in 20 seconds was seen). Each of those
//! answers is an entry in the log and a turn of the processor.
//!
//! ```text
//! final denials within the window      1 ..= most            │ most + 1 ..= 2·most │ each `most` more
//!                                      answered at once      │ one at a time       │ a storm is told: 1, 2, 3 …
//! ```
//!
//! What follows from a storm (freeze, kill) is the supervisor's to decide. *Must never* count a refusal that its client was
//! told to try again, or leave one unanswered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use carboy_core::verdict::Reason;

use crate::pace::Pace;

/// See the module.
pub(crate) struct Breaker {
    most: usize,
    window: Duration,
    pace: Pace,
    /// When the last of them were, oldest first; never more than `2 * most`.
    seen: VecDeque<Instant>,
    storms: u32,
}

/// What becomes of one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// How long its answer waits.
    pub(crate) wait: Duration,
    /// Storms by now.
    pub(crate) storms: u32,
}

/// Is this a no that no further try changes, given for the bottle's spending?
pub(crate) fn is_final(reason: Reason) -> bool {
    matches!(reason, Reason::BudgetExhausted | Reason::CutOff)
}

impl Breaker {
    /// `most` of them in a window are answered at once, then one `every` so often.
    pub(crate) fn new(most: usize, window: Duration, every: Duration) -> Breaker {
        Breaker { most, window, pace: Pace::new(every, 0), seen: VecDeque::new(), storms: 0 }
    }

    /// One more final denial.
    pub(crate) fn note(&mut self, now: Instant) -> Turn {
        while self.seen.front().is_some_and(|first| now.duration_since(*first) >= self.window) {
            self.seen.pop_front();
        }
        self.seen.push_back(now);
        if self.seen.len() <= self.most {
            return Turn { wait: Duration::ZERO, storms: self.storms };
        }
        if self.seen.len() > 2 * self.most {
            // Slowed down and at it still: the next storm takes as many again.
            self.storms = self.storms.saturating_add(1);
            self.seen.drain(..self.most);
        }
        Turn { wait: self.pace.take(now), storms: self.storms }
    }

    /// Its operator lets it go on: nothing is held against it.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
        self.storms = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_slowed_down_and_then_told_and_a_new_one_takes_as_many_again() {
        let start = Instant::now();
        let mut breaker = Breaker::new(3, Duration::from_secs(10), Duration::from_millis(200));
        let turns: Vec<(u128, u32)> =
            (0..10).map(|_| breaker.note(start)).map(|turn| (turn.wait.as_millis(), turn.storms)).collect();
        let want = [(0, 0), (0, 0), (0, 0), (200, 0), (400, 0), (600, 0), (800, 1), (1000, 1), (1200, 1), (1400, 2)];
        assert_eq!(turns, want);
        breaker.forget();
        assert_eq!(breaker.note(start), Turn { wait: Duration::ZERO, storms: 0 });
    }

    #[test]
    fn whoever_asks_again_now_and_then_makes_no_storm() {
        let start = Instant::now();
        let mut breaker = Breaker::new(3, Duration::from_secs(10), Duration::from_millis(200));
        for second in 0..60 {
            let turn = breaker.note(start + Duration::from_secs(second * 4));
            assert_eq!(turn, Turn { wait: Duration::ZERO, storms: 0 });
        }
    }

    #[test]
    fn only_what_is_final_counts() {
        let counted: Vec<Reason> = Reason::ALL.iter().copied().filter(|reason| is_final(*reason)).collect();
        assert_eq!(counted, [Reason::BudgetExhausted, Reason::CutOff]);
    }
}
