//! Sums by the minute, of which every window is a tail.
//!
//! *Must never* take a sum's minutes apart from its hours and days: they are changed together.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Both;

/// Minutes of an hour, and of a day.
const HOUR: u64 = 60;
const DAY: u64 = 24 * HOUR;

/// Amounts by the minute they count in. A tail of it is summed in at most 59 minutes, 23 hours and the days of a year, so
/// that an admission costs the same however much was spent; it grows by an entry in a minute at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    all: Both,
    minutes: BTreeMap<u64, Both>,
    hours: BTreeMap<u64, Both>,
    days: BTreeMap<u64, Both>,
}

impl Tally {
    /// Everything.
    pub(super) fn all(&self) -> Both {
        self.all
    }

    /// Everything of this minute and later ones, the future included: a clock that is set back forgets nothing.
    pub(super) fn since(&self, minute: u64) -> Both {
        if minute == 0 {
            return self.all;
        }
        let hour = minute.div_ceil(HOUR);
        let day = hour.div_ceil(DAY / HOUR);
        let sum = part(&self.minutes, minute..hour * HOUR).or_most(part(&self.hours, hour..day * (DAY / HOUR)));
        sum.or_most(part(&self.days, day..u64::MAX))
    }

    /// More in a minute.
    pub(super) fn add(&mut self, minute: u64, amount: Both) {
        self.change(minute, |sum| sum.or_most(amount));
    }

    /// Less in a minute, of what was added to it.
    pub(super) fn take(&mut self, minute: u64, amount: Both) {
        self.change(minute, |sum| sum.less(amount));
    }

    fn change(&mut self, minute: u64, change: impl Fn(Both) -> Both) {
        self.all = change(self.all);
        for (sums, at) in
            [(&mut self.minutes, minute), (&mut self.hours, minute / HOUR), (&mut self.days, minute / DAY)]
        {
            let sum = change(sums.get(&at).copied().unwrap_or_default());
            if sum == Both::default() {
                sums.remove(&at)
            } else {
                sums.insert(at, sum)
            };
        }
    }

    /// Nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.minutes.is_empty()
    }
}

fn part(sums: &BTreeMap<u64, Both>, of: Range<u64>) -> Both {
    sums.range(of).fold(Both::default(), |sum, (_, amount)| sum.or_most(*amount))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::budget::Amount;

    fn both(milli: u64) -> Both {
        Both { weighted: Amount::milli(milli), raw: Amount::milli(milli * 2) }
    }

    proptest! {
        #[test]
        fn every_tail_is_the_sum_of_its_minutes(
            changes in prop::collection::vec((0..20_000_u64, 1..1000_u64, any::<bool>()), 0..80),
            since in 0..21_000_u64,
        ) {
            let (mut tally, mut plain) = (Tally::default(), BTreeMap::<u64, u64>::new());
            for (minute, milli, add) in changes {
                let sum = plain.entry(minute).or_default();
                if add {
                    tally.add(minute, both(milli));
                    *sum += milli;
                } else {
                    let less = milli.min(*sum);
                    tally.take(minute, both(less));
                    *sum -= less;
                }
            }
            prop_assert_eq!(tally.since(since), both(plain.range(since..).map(|(_, milli)| milli).sum()));
            prop_assert_eq!(tally.all(), both(plain.values().sum()));
            prop_assert_eq!(tally.is_empty(), plain.values().all(|milli| *milli == 0));
        }
    }
}
