//! May this request be sent, how much may it write, and what is held for it meanwhile?
//!
//! ```text
//!                 cap
//!   ├── spent ──┼── held ──┼───────── headroom ─────────┤
//!                          ├ input ┼ margin ┼ output ──► │   what does not fit is cut off the output, on the wire
//! ```
//!
//! The whole worst case is held before a byte is sent, and the provider is told the output that was held: it enforces
//! the bound itself, whatever the model would have written (I1: spent + held ≤ cap at every moment).
//!
//! *Must never* admit a request with less held than it can cost, or refuse for good what only waits for a settlement.

use serde::{Deserialize, Serialize};

use super::terms::{Gate, Terms};
use super::usage::{Amount, Count};

/// How one cap stands, for the meter and the window that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The most that may be spent.
    pub cap: Amount,
    /// What was.
    pub spent: Amount,
    /// What may yet be, by requests under way.
    pub held: Amount,
    /// How tokens are counted against it.
    pub count: Count,
}

impl Standing {
    /// What a new request may hold.
    pub fn headroom(&self) -> Amount {
        self.cap.less(self.spent).less(self.held)
    }

    /// What there would be if everything under way turned out to cost nothing.
    pub fn unspent(&self) -> Amount {
        self.cap.less(self.spent)
    }
}

/// What a request may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worst {
    /// Most tokens that it reads, of every kind together.
    pub input: u64,
    /// Whether some of them may be written to a cache, which weighs more.
    pub caching: Caching,
    /// Most tokens that each answer writes: the request's own cap, or the model's.
    pub output: u64,
    /// Fewer than this are of no use to anybody; a request that cannot have them is not sent.
    pub output_min: u64,
    /// Answers that it asks for (`n`, `best_of`), at least 1.
    pub answers: u32,
}

/// Can a request write to the provider's cache?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Caching {
    /// It can, and is counted at the dearest.
    Possible,
    /// This provider bills no token dearer than its input.
    Impossible,
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes, with at most so much output in each answer; this is held at each cap, in their order.
    Admit {
        /// The output cap to write into the request; below the request's own when it was lowered.
        output: u64,
    },
    /// What is held by others is in the way: their settlement may make room.
    Wait {
        /// The cap, by its place in the list.
        by: usize,
    },
    /// What was spent is in the way: nothing but a new window or a higher cap helps.
    Exhausted {
        /// The cap, by its place in the list.
        by: usize,
    },
    /// The numbers are beyond any request.
    Absurd,
}

/// The provider's own count before the request is an estimate: so much of it is held beside it.
pub const MARGIN_TOKENS_MIN: u64 = 64;
/// And this part of it, if that is more: one in a hundred.
pub const MARGIN_PART: u64 = 100;

impl Worst {
    /// What has to be held for it when each answer may write so much; `None` beyond any request.
    pub fn holds(&self, output: u64, count: Count) -> Option<Amount> {
        let tokens = |n: u64| Amount::tokens(n);
        let read = match (count, self.caching) {
            (Count::Weighted, Caching::Possible) => Amount::milli(tokens(self.input)?.as_milli().checked_mul(5)? / 4),
            (Count::Weighted, Caching::Impossible) | (Count::Raw, _) => tokens(self.input)?,
        };
        let written = tokens(output.checked_mul(u64::from(self.answers.max(1)))?)?;
        let all = read.plus(written)?;
        let margin = Amount::milli(all.as_milli().div_ceil(MARGIN_PART)).max(tokens(MARGIN_TOKENS_MIN)?);
        all.plus(margin)
    }

    /// The least output that is of use.
    pub(super) fn least(&self) -> u64 {
        self.output_min.min(self.output)
    }

    /// The largest output whose hold is within `room`, up to the request's own cap; `None` when not even the least is.
    pub(super) fn output_within(&self, room: Amount, count: Count) -> Option<u64> {
        let fits = |output| self.holds(output, count).is_some_and(|hold| hold <= room);
        let least = self.least();
        if !fits(least) {
            return None;
        }
        // What is held grows with the output: the boundary is found by halving.
        let (mut good, mut bad) = (least, self.output.saturating_add(1));
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if fits(middle) { good = middle } else { bad = middle }
        }
        Some(good)
    }
}

impl Terms {
    /// What is held for a request that reads nothing and writes the least of use: no cap below it lets one through. `None`
    /// where requests are measured afterwards.
    pub fn least_hold(&self) -> Option<Amount> {
        let output = self.output_min;
        let least = Worst { input: 0, caching: Caching::Impossible, output, output_min: output, answers: 1 };
        match self.gate {
            Gate::Reserve => least.holds(output, Count::Raw),
            Gate::Observe => None,
        }
    }
}

/// Decides over every cap that binds. `waiting` is how many others wait for the same room: it is shared with them.
pub fn decide(caps: &[Standing], worst: &Worst, waiting: u32) -> Decision {
    let least = worst.least();
    let mut output = worst.output;
    let mut wait = None;
    for (by, standing) in caps.iter().enumerate() {
        let Some(least_hold) = worst.holds(least, standing.count) else { return Decision::Absurd };
        if least_hold > standing.unspent() {
            return Decision::Exhausted { by };
        }
        let headroom = standing.headroom();
        if least_hold > headroom {
            wait = wait.or(Some(by));
            continue;
        }
        let share = Amount::milli(headroom.as_milli() / (u64::from(waiting) + 1));
        let within = worst.output_within(share, standing.count).unwrap_or(least);
        output = output.min(within);
    }
    match wait {
        Some(by) => Decision::Wait { by },
        None if worst.holds(output, Count::Weighted).is_none() => Decision::Absurd,
        None => Decision::Admit { output },
    }
}

/// The caps, by their places, whose room others hold so that not even the least of it fits.
pub fn crowded(caps: &[Standing], worst: &Worst) -> impl Iterator<Item = usize> {
    let least = worst.least();
    let is_crowded =
        move |standing: &Standing| worst.holds(least, standing.count).is_none_or(|hold| hold > standing.headroom());
    caps.iter().enumerate().filter(move |(_, standing)| is_crowded(standing)).map(|(by, _)| by)
}

/// A cap of which less than this part would be left is near: one in ten.
pub const NEAR_PART: u64 = 10;

/// Whether a request of which only a bound is known is better counted first: all of it cannot be held, or so much would be
/// that a cap is near. Far from every cap nobody waits for the provider's count.
pub fn count_first(caps: &[Standing], worst: &Worst, waiting: u32) -> bool {
    match decide(caps, worst, waiting) {
        Decision::Admit { output } if output == worst.output => caps.iter().any(|standing| {
            let hold = worst.holds(output, standing.count).unwrap_or(standing.cap);
            standing.headroom().less(hold).as_milli() < standing.cap.as_milli() / NEAR_PART
        }),
        Decision::Admit { .. } | Decision::Wait { .. } => true,
        // If not even an empty request could be sent, no count will change that.
        Decision::Exhausted { .. } => {
            !matches!(decide(caps, &Worst { input: 0, ..*worst }, waiting), Decision::Exhausted { .. })
        }
        Decision::Absurd => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn c5_a_bound_is_worth_a_count_only_where_a_cap_is_near() {
        // Of 100,000 a tenth has to be left over: 1,000 + 8,000 and a hundredth are 9,090.
        assert!(!count_first(&[standing(100_000, 0, 0)], &worst(1000, 8000), 0));
        assert!(!count_first(&[standing(100_000, 80_910, 0)], &worst(1000, 8000), 0));
        assert!(count_first(&[standing(100_000, 80_911, 0)], &worst(1000, 8000), 0));
        assert!(count_first(&[standing(100_000, 0, 95_000)], &worst(1000, 8000), 0), "it would be clamped");
        assert!(count_first(&[standing(100_000, 50_000, 50_000)], &worst(1000, 8000), 0), "it would wait");
        assert!(count_first(&[standing(100_000, 90_000, 0)], &worst(20_000, 8000), 0), "the bound may be too high");
        assert!(!count_first(&[standing(100_000, 99_900, 0)], &worst(20_000, 8000), 0), "nothing can be sent any more");
        assert!(!count_first(&[], &worst(20_000, 8000), 0));
    }

    fn standing(cap: u64, spent: u64, held: u64) -> Standing {
        let tokens = |n| Amount::tokens(n).unwrap();
        Standing { cap: tokens(cap), spent: tokens(spent), held: tokens(held), count: Count::Raw }
    }

    fn worst(input: u64, output: u64) -> Worst {
        Worst { input, caching: Caching::Impossible, output, output_min: 256, answers: 1 }
    }

    #[test]
    fn a_request_that_fits_goes_as_it_is() {
        assert_eq!(decide(&[standing(100_000, 0, 0)], &worst(1000, 8000), 0), Decision::Admit { output: 8000 });
        assert_eq!(decide(&[], &worst(1000, 8000), 9), Decision::Admit { output: 8000 });
    }

    #[test]
    fn what_does_not_fit_is_cut_off_the_output() {
        // 1000 + 8415 and a hundredth of both are 9510 (rounded up): one more would not fit.
        let Decision::Admit { output } = decide(&[standing(9510, 0, 0)], &worst(1000, 64_000), 0) else { panic!() };
        assert_eq!(output, 8415);
        assert!(worst(1000, 0).holds(8416, Count::Raw) > Amount::tokens(9510));
    }

    #[test]
    fn what_is_spent_refuses_and_what_is_only_held_lets_wait() {
        let request = worst(1000, 8000);
        assert_eq!(decide(&[standing(10_000, 9000, 0)], &request, 0), Decision::Exhausted { by: 0 });
        assert_eq!(decide(&[standing(10_000, 0, 9000)], &request, 0), Decision::Wait { by: 0 });
        let both = [standing(10_000, 0, 9000), standing(10_000, 9900, 0)];
        assert_eq!(decide(&both, &request, 0), Decision::Exhausted { by: 1 });
    }

    #[test]
    fn room_is_shared_with_those_who_wait_but_never_below_what_is_useful() {
        let caps = [standing(10_000, 0, 0)];
        let Decision::Admit { output } = decide(&caps, &worst(1000, 64_000), 3) else { panic!() };
        assert!((1400..1500).contains(&output), "{output}");
        assert_eq!(decide(&caps, &worst(1000, 64_000), 1000), Decision::Admit { output: 256 });
    }

    #[test]
    fn a_short_request_needs_no_more_than_it_asks() {
        assert_eq!(decide(&[standing(80, 0, 0)], &worst(5, 10), 0), Decision::Admit { output: 10 });
    }

    #[test]
    fn numbers_beyond_any_request_are_refused() {
        for absurd in [worst(u64::MAX, 1), Worst { answers: u32::MAX, output_min: u64::MAX, ..worst(1, u64::MAX) }] {
            assert_eq!(decide(&[standing(1000, 0, 0)], &absurd, 0), Decision::Absurd);
        }
    }

    proptest! {
        // I1: whatever is admitted and whatever it then really costs, nothing is ever spent beyond a cap.
        #[test]
        fn any_interleaving_of_admissions_and_settlements_stays_within_every_cap(
            caps in prop::collection::vec((1_000..200_000_u64, any::<bool>()), 1..4),
            steps in prop::collection::vec((0..5_000_u64, 1..70_000_u64, 1..3_u32, 0..6_u32, any::<bool>(), 0..=100_u64), 1..60),
        ) {
            let count = |weighted: bool| if weighted { Count::Weighted } else { Count::Raw };
            let mut standings: Vec<Standing> =
                caps.iter().map(|(cap, weighted)| Standing { count: count(*weighted), ..standing(*cap, 0, 0) }).collect();
            let mut open: Vec<(Vec<Amount>, super::super::Usage)> = Vec::new();
            for (input, output, answers, waiting, settle, part) in steps {
                let worst = Worst { input, caching: Caching::Possible, output, output_min: 256, answers };
                if let Decision::Admit { output } = decide(&standings, &worst, waiting) {
                    let holds: Vec<Amount> =
                        standings.iter().map(|s| worst.holds(output, s.count).unwrap()).collect();
                    for (standing, hold) in standings.iter_mut().zip(&holds) {
                        standing.held = standing.held.plus(*hold).unwrap();
                    }
                    // The provider bills up to what it was allowed, in the dearest way.
                    let written = output * u64::from(answers) * part / 100;
                    open.push((holds, super::super::Usage { cache_write: input, output: written, ..Default::default() }));
                }
                for s in &standings {
                    prop_assert!(s.spent.plus(s.held).unwrap() <= s.cap, "{s:?}");
                }
                if settle && let Some((holds, usage)) = open.pop() {
                    for (standing, hold) in standings.iter_mut().zip(holds) {
                        standing.held = standing.held.minus(hold).unwrap();
                        standing.spent = standing.spent.plus(usage.weighs(standing.count).unwrap()).unwrap();
                    }
                }
            }
            for (holds, usage) in open {
                for (standing, hold) in standings.iter_mut().zip(holds) {
                    standing.held = standing.held.minus(hold).unwrap();
                    standing.spent = standing.spent.plus(usage.weighs(standing.count).unwrap()).unwrap();
                }
            }
            for s in &standings {
                prop_assert!(s.held == Amount::ZERO && s.spent <= s.cap, "{s:?}");
            }
        }

        // I5: what fits into the headroom is neither lowered nor refused.
        #[test]
        fn nothing_that_fits_is_refused(cap in 1_000..1_000_000_u64, input in 0..5_000_u64, output in 1..70_000_u64) {
            let request = worst(input, output);
            let caps = [standing(cap, 0, 0)];
            if request.holds(output, Count::Raw).unwrap() <= caps[0].cap {
                prop_assert_eq!(decide(&caps, &request, 0), Decision::Admit { output });
            }
        }
    }
}
