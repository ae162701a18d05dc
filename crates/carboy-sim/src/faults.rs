//! Failing on purpose, in the ways that real providers and networks fail.

use std::time::Duration;

/// Longest wait that can be asked for.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// How an answer goes wrong. [`Faults::default`] is: not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Wait before the head of the answer.
    pub latency: Duration,
    /// Wait before each event of a stream.
    pub pace: Duration,
    /// This error instead of an answer, in the provider's own shape.
    pub status: Option<FaultStatus>,
    /// Where the body breaks.
    pub broken: Break,
}

/// An error status on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultStatus {
    /// 400 to 599; 429, 500 and 529 are the usual ones.
    pub status: u16,
    /// Seconds in `retry-after`.
    pub retry_after_s: Option<u32>,
    /// What it says.
    pub why: FaultWhy,
}

/// What an error on demand says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultWhy {
    /// That it fails.
    #[default]
    Failure,
    /// That the account's spend limit is reached: not this minute's rate, which is also a 429.
    SpendLimit,
}

/// Where and how a body breaks. Counts of events apply to streams, bytes to whole bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Break {
    /// It does not.
    #[default]
    Nowhere,
    /// The connection is broken off (HTTP/2: the stream is reset) after so many events.
    DropAfter(usize),
    /// The body ends cleanly after so many events, without the events that end the protocol.
    EndAfter(usize),
    /// After so many events one comes that is not JSON; the others follow.
    MalformedAfter(usize),
    /// After so many events the provider's own error event comes, and nothing after it.
    ErrorAfter(usize),
    /// A whole body's connection is broken off after so many bytes, fewer than `content-length` said.
    TruncateAt(usize),
    /// The connection is broken off before the head, when the request was read and its answer begun.
    BeforeHead,
    /// The connection is broken off where the usage would come.
    BeforeUsage,
    /// After so many events nothing comes any more, and the connection stays; after a minute it is broken off.
    SilentAfter(usize),
}

/// An `x-sim-fault` that says nothing known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a fault: use latency-ms, pace-ms (at most 60000), status (400 to 599), retry-after, spend-limit, \
     drop-after, drop-before-head, drop-before-usage, silent-after, end-after, malformed-after, error-after or \
     truncate-at, each with `=NUMBER`"
)]
pub struct FaultError(String);

impl Faults {
    /// Reads the value of an `x-sim-fault` field: `status=429, retry-after=3` or `pace-ms=50, drop-after=4`.
    pub fn parse(text: &str) -> Result<Faults, FaultError> {
        let mut faults = Faults::default();
        let mut retry_after_s = None;
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let wrong = || FaultError(item.chars().take(80).collect());
            let (key, value) = item.split_once('=').ok_or_else(wrong)?;
            let number: u32 = value.trim().parse().map_err(|_| wrong())?;
            let wait = Duration::from_millis(number.into());
            let count = usize::try_from(number).map_err(|_| wrong())?;
            match key.trim() {
                "latency-ms" if wait <= WAIT_MAX => faults.latency = wait,
                "pace-ms" if wait <= WAIT_MAX => faults.pace = wait,
                "status" => match u16::try_from(number) {
                    Ok(status @ 400..=599) => {
                        faults.status = Some(FaultStatus { status, retry_after_s: None, why: FaultWhy::Failure });
                    }
                    Ok(_) | Err(_) => return Err(wrong()),
                },
                "spend-limit" => {
                    let why = FaultWhy::SpendLimit;
                    faults.status = Some(FaultStatus { status: 429, retry_after_s: None, why });
                }
                "drop-before-head" => faults.broken = Break::BeforeHead,
                "drop-before-usage" => faults.broken = Break::BeforeUsage,
                "silent-after" => faults.broken = Break::SilentAfter(count),
                "retry-after" => retry_after_s = Some(number),
                "drop-after" => faults.broken = Break::DropAfter(count),
                "end-after" => faults.broken = Break::EndAfter(count),
                "malformed-after" => faults.broken = Break::MalformedAfter(count),
                "error-after" => faults.broken = Break::ErrorAfter(count),
                "truncate-at" => faults.broken = Break::TruncateAt(count),
                _ => return Err(wrong()),
            }
        }
        if let Some(status) = &mut faults.status {
            status.retry_after_s = retry_after_s;
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_says_several_faults_and_a_wrong_one_is_named() {
        let faults = Faults::parse("status=429, retry-after=3,pace-ms=5, drop-after=2").unwrap();
        assert_eq!(faults.status, Some(FaultStatus { status: 429, retry_after_s: Some(3), why: FaultWhy::Failure }));
        assert_eq!((faults.pace, faults.broken), (Duration::from_millis(5), Break::DropAfter(2)));
        assert_eq!(Faults::parse(""), Ok(Faults::default()));
        for wrong in ["status=200", "pace-ms=60001", "drop-after", "explode=1", "status=x"] {
            assert!(Faults::parse(wrong).unwrap_err().to_string().contains(wrong), "{wrong}");
        }
    }
}
