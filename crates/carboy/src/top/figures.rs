//! What the figures of a scope mean: how much of a cap is gone, when it will be, whether that is too soon.
//!
//! *Must never* look at a clock: every moment is given.

use std::collections::{BTreeMap, VecDeque};

use carboy_core::budget::{Amount, CapLine, MeterLine, Scope, Usage};

/// Thousandths that are a half, much, and nearly all.
const HALF: u64 = 500;
const MUCH: u64 = 800;
const NEARLY_ALL: u64 = 950;
/// An exhaustion later than this is none that anybody plans with.
const OUT_MS_MAX: u64 = 30 * 24 * 3_600_000;
/// A pace within these thousandths of the window's is on it.
const PACE_COOL: u128 = 900;
const PACE_HOT: u128 = 1_100;

/// How full a cap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Low,
    Half,
    Much,
    NearlyAll,
}

impl Level {
    pub fn of(permille: u64) -> Level {
        match permille {
            ..HALF => Level::Low,
            HALF..MUCH => Level::Half,
            MUCH..NEARLY_ALL => Level::Much,
            NEARLY_ALL.. => Level::NearlyAll,
        }
    }

    /// For screens without colour.
    pub fn mark(self) -> &'static str {
        match self {
            Level::Low | Level::Half => "",
            Level::Much => "!",
            Level::NearlyAll => "!!",
        }
    }
}

/// Thousandths of a whole; 1000 of nothing.
pub fn permille(part: Amount, whole: Amount) -> u64 {
    let (part, whole) = (u128::from(part.as_milli()), u128::from(whole.as_milli()));
    (part * 1000).checked_div(whole).map_or(1000, |permille| u64::try_from(permille).unwrap_or(u64::MAX))
}

/// The cap of which the least part is left, of those that bind.
pub fn tightest(meters: &[MeterLine]) -> Option<(&MeterLine, &CapLine)> {
    let each = meters.iter().flat_map(|meter| meter.caps.iter().map(move |cap| (meter, cap)));
    let gone = |cap: &CapLine| {
        let taken = cap.standing.spent.plus(cap.standing.held).unwrap_or(cap.standing.cap);
        permille(taken, cap.standing.cap)
    };
    each.filter(|(_, cap)| !cap.replaced).max_by_key(|(_, cap)| gone(cap))
}

/// In how many milliseconds nothing is left, should it go on as in the last five minutes (or in the last one, where nothing
/// is known of those).
pub fn out_in_ms(meter: &MeterLine, cap: &CapLine) -> Option<u64> {
    let [one, five, _] = meter.rate;
    let rate = if five > 0 { five } else { one };
    let left = u128::from(cap.standing.unspent().as_milli());
    if left == 0 {
        return Some(0);
    }
    // Rates are of reported tokens; the cap may weigh them.
    let (raw, weighted) = (meter.spent.raw.as_milli().max(1), meter.spent.weighted.as_milli().max(1));
    let (part, whole) = match cap.standing.count {
        carboy_core::budget::Count::Raw => (1, 1),
        carboy_core::budget::Count::Weighted => (u128::from(weighted), u128::from(raw)),
    };
    let each_minute = (u128::from(rate) * 1000).saturating_mul(part) / whole;
    let ms = left.saturating_mul(60_000).checked_div(each_minute)?;
    u64::try_from(ms).ok().filter(|ms| *ms <= OUT_MS_MAX)
}

/// How spending goes, against how the window does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Cool,
    On,
    Hot,
}

impl Pace {
    pub fn word(self) -> &'static str {
        match self {
            Pace::Cool => "cool",
            Pace::On => "on pace",
            Pace::Hot => "hot",
        }
    }
}

/// `None` where the window has no end, or has just begun.
pub fn pace(cap: &CapLine, now_ms: u64) -> Option<Pace> {
    let until = cap.until_ms?;
    let (gone, whole) = (now_ms.checked_sub(cap.since_ms)?, until.checked_sub(cap.since_ms)?);
    let elapsed = (u128::from(gone) * 1000).checked_div(u128::from(whole)).filter(|elapsed| *elapsed > 0)?;
    let spent = u128::from(permille(cap.standing.spent, cap.standing.cap));
    Some(match spent * 1000 / elapsed {
        ..PACE_COOL => Pace::Cool,
        PACE_COOL..=PACE_HOT => Pace::On,
        _ => Pace::Hot,
    })
}

/// Of everything over all meters.
pub fn usage(meters: &[MeterLine]) -> Usage {
    let add = |a: Usage, b: &Usage| Usage {
        input: a.input.saturating_add(b.input),
        cache_write: a.cache_write.saturating_add(b.cache_write),
        cache_read: a.cache_read.saturating_add(b.cache_read),
        output: a.output.saturating_add(b.output),
    };
    meters.iter().fold(Usage::default(), |sum, meter| add(sum, &meter.usage))
}

/// Percent of what was read that came from a cache.
pub fn cache_hits(usage: &Usage) -> Option<u64> {
    let hits = (u128::from(usage.cache_read) * 100).checked_div(u128::from(usage.read()))?;
    u64::try_from(hits).ok()
}

/// A sum over all meters.
pub fn sum(meters: &[MeterLine], of: impl Fn(&MeterLine) -> u64) -> u64 {
    meters.iter().map(of).fold(0, u64::saturating_add)
}

/// Percent of what was spent that is estimated; a part of one is one.
pub fn estimated(meters: &[MeterLine]) -> u64 {
    let (estimated, spent) =
        (sum(meters, |m| m.estimated.weighted.as_milli()), sum(meters, |m| m.spent.weighted.as_milli()));
    (u128::from(estimated) * 100).div_ceil(u128::from(spent.max(1))).min(100).try_into().unwrap_or(100)
}

/// `9s`, `4m05s`, `2h03m`, `3d4h`: at most six columns.
pub fn countdown(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        86_400..8_640_000 => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
        _ => format!("{}d", (seconds / 86_400).min(99_999)),
    }
}

/// One bar of the course, in milliseconds.
pub const BUCKET_MS: u64 = 10_000;
/// Bars that are remembered: ten minutes.
pub const BUCKETS_MAX: usize = 60;
/// Scopes of which the course is remembered.
const COURSES_MAX: usize = 1_024;

#[derive(Clone, Debug, Default)]
struct Course {
    total: Option<u64>,
    /// Number of the bucket and tokens in it.
    buckets: VecDeque<(u64, u64)>,
}

/// How many tokens were charged in each of the last moments, as far as somebody looked.
#[derive(Clone, Debug, Default)]
pub struct History(BTreeMap<Scope, Course>);

impl History {
    /// So much was spent in all, at this moment.
    pub fn note(&mut self, scope: &Scope, total: u64, at_ms: u64) {
        if !self.0.contains_key(scope) && self.0.len() >= COURSES_MAX {
            return;
        }
        let course = self.0.entry(scope.clone()).or_default();
        // What was there before somebody looked was spent at no known moment.
        let more = course.total.map_or(0, |before| total.saturating_sub(before));
        course.total = Some(total);
        let bucket = at_ms / BUCKET_MS;
        match course.buckets.back_mut() {
            Some((last, tokens)) if *last == bucket => *tokens = tokens.saturating_add(more),
            Some(_) | None if more > 0 => course.buckets.push_back((bucket, more)),
            Some(_) | None => {}
        }
        while course.buckets.len() > BUCKETS_MAX {
            course.buckets.pop_front();
        }
    }

    /// The last `count` buckets, oldest first.
    pub fn course(&self, scope: &Scope, count: usize, now_ms: u64) -> Vec<u64> {
        let now = now_ms / BUCKET_MS;
        let count = count.min(BUCKETS_MAX);
        let mut tokens = vec![0; count];
        for (bucket, more) in self.0.get(scope).into_iter().flat_map(|course| &course.buckets) {
            let back = now.checked_sub(*bucket).and_then(|back| usize::try_from(back).ok());
            if let Some(at) = back.and_then(|back| count.checked_sub(back + 1)) {
                tokens[at] = *more;
            }
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use carboy_core::budget::{Both, CapKind, Count, Standing};
    use carboy_core::ids::MeterName;

    use super::*;

    fn cap(cap: u64, spent: u64, until_ms: Option<u64>) -> CapLine {
        let [cap, spent] = [cap, spent].map(|tokens| Amount::tokens(tokens).unwrap());
        let standing = Standing { cap, spent, held: Amount::ZERO, count: Count::Weighted };
        CapLine { kind: CapKind::Budget, standing, since_ms: 0, until_ms, replaced: false }
    }

    fn meter(raw: u64, weighted: u64, rate: [u64; 3], caps: Vec<CapLine>) -> MeterLine {
        let [raw, weighted] = [raw, weighted].map(|tokens| Amount::tokens(tokens).unwrap());
        let spent = Both { raw, weighted };
        let (held, usage, estimated) = (Both::default(), Usage::default(), Both::default());
        let meter = MeterName::parse("anthropic").unwrap();
        MeterLine { meter, spent, held, caps, rate, usage, estimated, requests: 0 }
    }

    #[test]
    fn what_is_spent_of_a_cap_has_its_level_at_50_80_and_95_percent() {
        let levels = [0, 499, 500, 799, 800, 949, 950, 5000].map(Level::of);
        let [low, half, much, all] = [Level::Low, Level::Half, Level::Much, Level::NearlyAll];
        assert_eq!(levels, [low, low, half, half, much, much, all, all]);
        assert_eq!(permille(Amount::ZERO, Amount::ZERO), 1000);
        assert_eq!(permille(Amount::milli(u64::MAX), Amount::milli(1)), u64::MAX);
    }

    #[test]
    fn a_cap_is_out_when_its_rest_has_gone_at_the_rate_that_it_is_weighed_with() {
        // Of 4000 reported tokens 1000 are charged; of 1000 a minute that is 250.
        let line = meter(4000, 1000, [9, 1000, 0], vec![cap(2000, 1000, None)]);
        assert_eq!(out_in_ms(&line, &line.caps[0]), Some(4 * 60_000));
        let raw = CapLine { standing: Standing { count: Count::Raw, ..line.caps[0].standing }, ..line.caps[0].clone() };
        assert_eq!(out_in_ms(&line, &raw), Some(60_000));
        let still = meter(4000, 1000, [0; 3], vec![]);
        assert_eq!(out_in_ms(&still, &cap(2000, 1000, None)), None);
        assert_eq!(out_in_ms(&still, &cap(2000, 2000, None)), Some(0));
        // In a year, nobody knows.
        assert_eq!(out_in_ms(&meter(1, 1, [1, 1, 1], vec![]), &cap(1_000_000_000, 0, None)), None);
    }

    #[test]
    fn the_pace_is_what_is_spent_against_what_is_over_of_the_window() {
        let paces = [40, 50, 55, 60].map(|spent| pace(&cap(100, spent, Some(1_000_000)), 500_000));
        assert_eq!(paces, [Some(Pace::Cool), Some(Pace::On), Some(Pace::On), Some(Pace::Hot)]);
        assert_eq!(pace(&cap(100, 50, None), 500_000), None);
        assert_eq!(pace(&cap(100, 50, Some(0)), 0), None);
    }

    #[test]
    fn the_tightest_cap_is_the_one_of_which_the_least_part_is_left_and_a_replaced_one_is_none() {
        let replaced = CapLine { replaced: true, ..cap(100, 100, None) };
        let lines = [meter(0, 0, [0; 3], vec![cap(100, 10, None), cap(10, 5, None), replaced])];
        assert_eq!(tightest(&lines).unwrap().1.standing.cap, Amount::tokens(10).unwrap());
    }

    #[test]
    fn a_course_has_what_came_since_somebody_looked_in_its_moments() {
        let mut history = History::default();
        for (total, at_ms) in [(100, 0), (150, 5_000), (150, 15_000), (175, 35_000), (10, 36_000)] {
            history.note(&Scope::Host, total, at_ms);
        }
        assert_eq!(history.course(&Scope::Host, 4, 39_999), [50, 0, 0, 25]);
        assert_eq!(history.course(&Scope::Host, 2, 40_000), [25, 0]);
        assert_eq!(history.course(&Scope::Run("x".into()), 2, 0), [0, 0]);
    }

    #[test]
    fn a_countdown_is_short() {
        let times = [9_000, 245_000, 7_380_000, 273_600_000, u64::MAX].map(countdown);
        assert_eq!(times, ["9s", "4m05s", "2h03m", "3d4h", "99999d"]);
    }
}
