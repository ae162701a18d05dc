//! Whether to ask again, and after how long: exponential backoff with full jitter, never sooner than the provider asks for.
//!
//! Full jitter spreads the callers of one outage (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
//! *Must never* read a clock: a date in `retry-after` is counted from the answer's own `date`.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;

use super::Terms;

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It would be answered like that every time, or must not be.
    Never,
    /// After as long as the provider asks for, if it does.
    After(Option<Duration>),
}

/// How long to wait before the attempt that follows this one, if there is one.
pub(super) fn wait(terms: &Terms, attempt: u32, again: Again) -> Option<Duration> {
    let Again::After(asked) = again else { return None };
    if attempt >= terms.attempts_max || asked.is_some_and(|asked| asked > terms.wait_max) {
        return None;
    }
    let most = terms.wait_first.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(terms.wait_max);
    Some(match asked {
        // All who were sent away together do not come back together.
        Some(asked) => asked + jitter(terms.wait_first),
        None => jitter(most),
    })
}

/// Anything from nothing to `most`.
fn jitter(most: Duration) -> Duration {
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX - 1);
    // Without randomness the longest wait is the one that does no harm.
    Duration::from_millis(getrandom::u64().map_or(millis, |number| number % (millis + 1)))
}

/// What the head of an answer asks for: `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110, 10.2.3).
pub(super) fn asked(headers: &[(String, String)]) -> Option<Duration> {
    let field = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.trim());
    if let Some(millis) = field("retry-after-ms").and_then(|value| value.parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let after = field("retry-after")?;
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let seconds = date(after)?.checked_sub(date(field("date")?)?)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Seconds since 1970 of a date in its preferred form (RFC 9110, 5.6.7).
fn date(text: &str) -> Option<i64> {
    DateTimeParser::new().parse_timestamp(text).ok().map(|at| at.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_a_provider_asks_for_is_read_in_seconds_and_as_a_date() {
        let date = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
        for (given, want) in [
            (&[("retry-after", "7")][..], Some(7_000)),
            (&[("retry-after", " 0 ")], Some(0)),
            (&[("retry-after-ms", "250"), ("retry-after", "7")], Some(250)),
            (&[("retry-after", "Wed, 21 Oct 2026 07:28:09 GMT"), date], Some(9_000)),
            (&[("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT"), date], Some(0)),
            (&[("retry-after", "Wed, 21 Oct 2026 07:28:09 GMT")], None),
            (&[("retry-after", "soon"), date], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "99999999999999999999999")], None),
            (&[date], None),
        ] {
            assert_eq!(asked(&fields(given)), want.map(Duration::from_millis), "{given:?}");
        }
    }

    #[test]
    fn waits_double_up_to_their_most_and_end() {
        let second = Duration::from_secs(1);
        let terms = Terms {
            silence: second,
            whole: second,
            attempts_max: 40,
            wait_first: second,
            wait_max: Duration::from_secs(20),
        };
        for attempt in 1..40 {
            let most = Duration::from_secs(20.min(1 << (attempt - 1).min(10)));
            for _ in 0..50 {
                assert!(wait(&terms, attempt, Again::After(None)).unwrap() <= most);
                let asked = Duration::from_secs(7);
                let wait = wait(&terms, attempt, Again::After(Some(asked))).unwrap();
                assert!(wait >= asked && wait <= asked + second);
            }
        }
        assert_eq!(wait(&terms, 40, Again::After(None)), None);
        assert_eq!(wait(&terms, 1, Again::Never), None);
        assert_eq!(wait(&terms, 1, Again::After(Some(Duration::from_secs(21)))), None);
        // Jitter is full: in two hundred waits some are short and some long.
        let waits: Vec<Duration> = (0..200).filter_map(|_| wait(&terms, 1, Again::After(None))).collect();
        assert!(waits.iter().any(|wait| *wait < second / 4) && waits.iter().any(|wait| *wait > second * 3 / 4));
    }
}
