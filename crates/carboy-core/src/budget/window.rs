//! The time over which a cap counts.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use serde::{Deserialize, Serialize};

/// Longest and shortest rolling window, in milliseconds: a minute, and a year.
pub const ROLLING_MS: std::ops::RangeInclusive<u64> = 60_000..=366 * 24 * 3600 * 1000;

/// The time over which a cap counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// For good.
    #[default]
    Lifetime,
    /// A day, a week (from Monday) or a month of a place's calendar.
    Calendar {
        /// Which.
        unit: Unit,
        /// The place, as in `Europe/Berlin` (IANA time zone database).
        tz: Zone,
    },
    /// The last so many milliseconds.
    Rolling {
        /// How many, within [`ROLLING_MS`].
        ms: u64,
    },
}

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// From midnight.
    Day,
    /// From Monday's midnight (ISO 8601).
    Week,
    /// From the first day's midnight.
    Month,
}

/// A time zone that is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

/// A name that no version of the time zone database has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time zone {0:?} is not known; use a name such as `UTC` or `Europe/Berlin`")]
pub struct UnknownZone(String);

impl Zone {
    /// Looks the name up in the database that carboy carries.
    pub fn parse(name: &str) -> Result<Zone, UnknownZone> {
        let known = jiff::tz::db().get(name);
        known.map(|_| Zone(name.to_owned())).map_err(|_| UnknownZone(name.chars().take(80).collect()))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn rules(&self) -> TimeZone {
        // It was known when it was parsed; the database is part of this program.
        jiff::tz::db().get(&self.0).unwrap_or(TimeZone::UTC)
    }
}

impl TryFrom<String> for Zone {
    type Error = UnknownZone;

    fn try_from(name: String) -> Result<Zone, UnknownZone> {
        Zone::parse(&name)
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> String {
        zone.0
    }
}

impl Window {
    /// When the window that `now_ms` stands in began: what was spent since then counts.
    pub fn since_ms(&self, now_ms: u64) -> u64 {
        match self {
            Window::Lifetime => 0,
            Window::Rolling { ms } => now_ms.saturating_sub(*ms),
            Window::Calendar { unit, tz } => {
                let start = moment(now_ms, tz).and_then(|now| begins(&now, *unit));
                // Beyond the calendar's end nothing is forgotten.
                start.map_or(0, |start| millis(&start))
            }
        }
    }

    /// When it ends and everything counted in it is forgotten; `None` where that has no one moment.
    pub fn until_ms(&self, now_ms: u64) -> Option<u64> {
        let Window::Calendar { unit, tz } = self else { return None };
        let start = begins(&moment(now_ms, tz)?, *unit)?;
        let length = match unit {
            Unit::Day => Span::new().days(1),
            Unit::Week => Span::new().weeks(1),
            Unit::Month => Span::new().months(1),
        };
        let next = start.checked_add(length).ok()?;
        Some(millis(&begins(&next, *unit)?))
    }
}

fn moment(ms: u64, tz: &Zone) -> Option<Zoned> {
    Some(Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?.to_zoned(tz.rules()))
}

fn begins(now: &Zoned, unit: Unit) -> Option<Zoned> {
    let day = match unit {
        Unit::Day => now.clone(),
        Unit::Week => now.checked_sub(Span::new().days(now.weekday().to_monday_zero_offset())).ok()?,
        Unit::Month => now.first_of_month().ok()?,
    };
    day.start_of_day().ok()
}

fn millis(moment: &Zoned) -> u64 {
    u64::try_from(moment.timestamp().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    fn calendar(unit: Unit, tz: &str) -> Window {
        Window::Calendar { unit, tz: Zone::parse(tz).unwrap() }
    }

    #[test]
    fn a_calendar_window_begins_at_its_places_midnight() {
        let now = at("2026-03-29T22:30:00Z");
        for (unit, tz, since, until) in [
            (Unit::Day, "UTC", "2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z"),
            // The clocks went forward that night in Berlin: the 30th begins at 22:00 UTC.
            (Unit::Day, "Europe/Berlin", "2026-03-29T22:00:00Z", "2026-03-30T22:00:00Z"),
            (Unit::Week, "Europe/Berlin", "2026-03-29T22:00:00Z", "2026-04-05T22:00:00Z"),
            (Unit::Week, "UTC", "2026-03-23T00:00:00Z", "2026-03-30T00:00:00Z"),
            (Unit::Month, "America/New_York", "2026-03-01T05:00:00Z", "2026-04-01T04:00:00Z"),
        ] {
            let window = calendar(unit, tz);
            assert_eq!((window.since_ms(now), window.until_ms(now)), (at(since), Some(at(until))), "{unit:?} {tz}");
        }
    }

    #[test]
    fn the_other_windows_need_no_calendar() {
        assert_eq!((Window::Lifetime.since_ms(9), Window::Lifetime.until_ms(9)), (0, None));
        assert_eq!(Window::Rolling { ms: 60_000 }.since_ms(100_000), 40_000);
        assert_eq!(Window::Rolling { ms: 60_000 }.since_ms(5), 0);
        assert!(Zone::parse("Middle/Earth").is_err() && Zone::parse("../../etc/passwd").is_err());
    }

    proptest! {
        #[test]
        fn now_stands_in_its_window_and_windows_meet(ms in 0..4_000_000_000_000_u64, unit in 0..3_usize, zone in 0..3_usize) {
            let unit = [Unit::Day, Unit::Week, Unit::Month][unit];
            let window = calendar(unit, ["UTC", "Asia/Kathmandu", "America/Sao_Paulo"][zone]);
            let (since, until) = (window.since_ms(ms), window.until_ms(ms).unwrap());
            prop_assert!(since <= ms && ms < until);
            prop_assert_eq!(window.since_ms(until), until);
            prop_assert_eq!(window.since_ms(until - 1), since);
        }
    }
}
