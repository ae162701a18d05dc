//! RFC 3339 in UTC with milliseconds, as entries carry it: of fixed width, so that text order is time order.

/// Last millisecond of year 9999, the last that RFC 3339 can write.
const LAST_MS: u64 = 253_402_300_799_999;

const DAY_MS: u64 = 86_400_000;

/// The time is not written as RFC 3339 in UTC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time; write 2026-01-31, 2026-01-31T12:00Z, 2026-01-31T12:00:00Z or 2026-01-31T12:00:00.000Z")]
pub struct TimeError(String);

/// Milliseconds since 1970 as `2026-01-02T03:04:05.678Z`. A time after year 9999 is written as its end.
pub fn rfc3339(ms: u64) -> String {
    let ms = ms.min(LAST_MS);
    let (year, month, day) = civil(ms / DAY_MS);
    let (of_day, milli) = (ms % DAY_MS / 1000, ms % 1000);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Milliseconds since 1970 from a date or a time in UTC; seconds and milliseconds may be left out.
pub fn parse_time(text: &str) -> Result<u64, TimeError> {
    let error = || TimeError(text.chars().take(40).collect());
    const FULL: &str = "0000-00-00T00:00:00.000Z";
    let bare = text.strip_suffix('Z').unwrap_or(text);
    if !matches!(bare.len(), 10 | 16 | 19 | 23) || !bare.is_ascii() || (bare.len() == 10) != (bare == text) {
        return Err(error());
    }
    let full = format!("{bare}{}", &FULL[bare.len()..]);
    let fits =
        full.bytes().zip(FULL.bytes()).all(|(b, shape)| if shape == b'0' { b.is_ascii_digit() } else { b == shape });
    if !fits {
        return Err(error());
    }
    let number = |from: usize, to: usize| full[from..to].parse::<u64>().map_err(|_| error());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let of_day = (number(11, 13)? * 60 + number(14, 16)?) * 60 + number(17, 19)?;
    let ms = days(year, month, day).ok_or_else(error)? * DAY_MS + of_day * 1000 + number(20, 23)?;
    // Written back it must be the same: no 30th of February, no hour 25.
    if rfc3339(ms) == full { Ok(ms) } else { Err(error()) }
}

/// Year, month and day of a day counted from 1970-01-01, by the 400-year cycle of the Gregorian calendar with years
/// that begin in March.
fn civil(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let of_era_year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_era_year + of_era_year / 4 - of_era_year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (of_era_year + era * 400 + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil`]; none before 1970.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted_year = if month <= 2 { year.checked_sub(1)? } else { year };
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let (era, of_era_year) = (shifted_year / 400, shifted_year % 400);
    let of_year = (153 * march_month + 2) / 5 + day.checked_sub(1)?;
    let of_era = of_era_year * 365 + of_era_year / 4 - of_era_year / 100 + of_year;
    (era * 146_097 + of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_as_they_should() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(rfc3339(1_767_323_045_678), "2026-01-02T03:04:05.678Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn every_day_until_2400_comes_back() {
        for day in 0..157_000 {
            assert_eq!(parse_time(&rfc3339(day * DAY_MS + 86_399_999)), Ok(day * DAY_MS + 86_399_999));
        }
    }

    #[test]
    fn short_forms_are_read_and_nonsense_is_refused() {
        assert_eq!(parse_time("2000-02-29"), Ok(951_782_400_000));
        assert_eq!(parse_time("2000-02-29T00:01Z"), Ok(951_782_460_000));
        assert_eq!(parse_time("2000-02-29T00:01:01Z"), Ok(951_782_461_000));
        for bad in [
            "",
            "yesterday",
            "2001-02-29",
            "2000-13-01",
            "2000-02-29T24:00Z",
            "1969-12-31",
            "2000-02-29T00:01",
            "2000-00-00",
        ] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
