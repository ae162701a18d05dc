//! What a model's answer cost, in tokens as its provider reports them, and what that weighs against a budget.

use serde::{Deserialize, Serialize};

/// More tokens than any request can cost; a larger number is a mistake or an attack, and is not counted with.
pub const TOKENS_MAX: u64 = 1_000_000_000_000;

/// Tokens of one or more requests. The four counts are disjoint: their sum is everything that was billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Read, and neither written to nor read from a cache.
    pub input: u64,
    /// Read and written to a cache.
    pub cache_write: u64,
    /// Read from a cache.
    pub cache_read: u64,
    /// Written, reasoning included.
    pub output: u64,
}

/// How tokens are counted against a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Count {
    /// Input 1, output 1, cache write 1.25, cache read 0.1: as providers price them against their input.
    #[default]
    Weighted,
    /// Every reported token is one.
    Raw,
}

/// An amount of a budget, in thousandths of a token. Arithmetic is checked: an amount never wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(u64);

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);
    /// Thousandths of a token in a token.
    pub const PER_TOKEN: u64 = 1000;

    /// So many whole tokens; `None` above [`TOKENS_MAX`].
    pub fn tokens(tokens: u64) -> Option<Amount> {
        (tokens <= TOKENS_MAX).then(|| Amount(tokens * Amount::PER_TOKEN))
    }

    /// So many thousandths.
    pub const fn milli(milli: u64) -> Amount {
        Amount(milli)
    }

    /// Thousandths of a token.
    pub const fn as_milli(self) -> u64 {
        self.0
    }

    /// Whole tokens, a part of one counted as one.
    pub const fn tokens_up(self) -> u64 {
        self.0.div_ceil(Amount::PER_TOKEN)
    }

    /// Whole tokens, a part of one left out.
    pub const fn tokens_down(self) -> u64 {
        self.0 / Amount::PER_TOKEN
    }

    /// The sum, if there is one.
    pub fn plus(self, other: Amount) -> Option<Amount> {
        self.0.checked_add(other.0).map(Amount)
    }

    /// The difference; `None` where it would be below nothing.
    pub fn minus(self, other: Amount) -> Option<Amount> {
        self.0.checked_sub(other.0).map(Amount)
    }

    /// The difference, or nothing.
    pub fn less(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0))
    }
}

impl Usage {
    /// All tokens; `None` where the sum is beyond [`TOKENS_MAX`].
    pub fn total(&self) -> Option<u64> {
        let sum = self.input.checked_add(self.cache_write)?.checked_add(self.cache_read)?.checked_add(self.output)?;
        (sum <= TOKENS_MAX).then_some(sum)
    }

    /// Everything that was read.
    pub fn read(&self) -> u64 {
        self.input.saturating_add(self.cache_write).saturating_add(self.cache_read)
    }

    /// What it weighs. `None` where a count is beyond [`TOKENS_MAX`].
    pub fn weighs(&self, count: Count) -> Option<Amount> {
        let total = self.total()?;
        match count {
            Count::Raw => Amount::tokens(total),
            Count::Weighted => {
                Some(Amount((self.input + self.output) * 1000 + self.cache_write * 1250 + self.cache_read * 100))
            }
        }
    }

    /// Field by field the larger of the two.
    pub fn larger(self, other: Usage) -> Usage {
        Usage {
            input: self.input.max(other.input),
            cache_write: self.cache_write.max(other.cache_write),
            cache_read: self.cache_read.max(other.cache_read),
            output: self.output.max(other.output),
        }
    }
}

/// How a count is written wherever a person or an agent reads one: `999`, `1.2k`, `64k`, `1.25M`, `3.1G`, three figures.
pub fn shown(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    let Some((size, unit)) = UNITS.iter().find(|(size, _)| count >= *size) else { return count.to_string() };
    let hundredths = u128::from(count) * 100 / u128::from(*size);
    let (whole, part) = (hundredths / 100, hundredths % 100);
    let text = match whole {
        0..10 => format!("{whole}.{part:02}"),
        10..100 => format!("{whole}.{}", part / 10),
        _ => whole.to_string(),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// What [`shown`] wrote, as far as it says it: the least count that is written so.
pub fn read_shown(text: &str) -> Option<u64> {
    let (digits, size) = match text.char_indices().last()? {
        (end, 'k') => (&text[..end], 1_000),
        (end, 'M') => (&text[..end], 1_000_000),
        (end, 'G') => (&text[..end], 1_000_000_000),
        _ => (text, 1_u64),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(part) || part.len() > 2 {
        return None;
    }
    let hundredths = format!("{part:0<2}").parse::<u64>().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(size)?.checked_add(hundredths * (size / 100))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_are_written_in_three_figures() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1k"),
            (1_239, "1.23k"),
            (64_000, "64k"),
            (64_500, "64.5k"),
            (999_999, "999k"),
            (1_250_000, "1.25M"),
            (5_000_000, "5M"),
            (u64::MAX, "18446744073G"),
        ] {
            assert_eq!(shown(count), text, "{count}");
            let back = read_shown(text).unwrap();
            assert!(back <= count && shown(back) == text, "{count}: {back}");
        }
    }

    #[test]
    fn a_cached_token_weighs_a_tenth_and_a_written_one_a_quarter_more() {
        let usage = Usage { input: 100, cache_write: 1000, cache_read: 10_000, output: 10 };
        assert_eq!(usage.weighs(Count::Weighted), Amount::tokens(100 + 1250 + 1000 + 10));
        assert_eq!(usage.weighs(Count::Raw), Amount::tokens(11_110));
    }

    #[test]
    fn a_count_that_cannot_be_is_no_amount() {
        for usage in [
            Usage { input: u64::MAX, ..Usage::default() },
            Usage { input: u64::MAX, output: u64::MAX, ..Usage::default() },
            Usage { cache_write: TOKENS_MAX, output: 1, ..Usage::default() },
        ] {
            assert_eq!((usage.weighs(Count::Weighted), usage.weighs(Count::Raw)), (None, None));
        }
        assert_eq!(Amount::tokens(TOKENS_MAX + 1), None);
    }

    proptest! {
        #[test]
        fn more_tokens_never_weigh_less(
            a in (0..TOKENS_MAX / 4, 0..TOKENS_MAX / 4, 0..TOKENS_MAX / 4, 0..TOKENS_MAX / 4),
            more in 0..1000_u64,
        ) {
            let usage = Usage { input: a.0, cache_write: a.1, cache_read: a.2, output: a.3 };
            for count in [Count::Raw, Count::Weighted] {
                for larger in [
                    Usage { input: a.0.saturating_sub(0) + more, ..usage },
                    Usage { cache_read: a.2 + more, ..usage },
                    Usage { output: a.3 + more, ..usage },
                ] {
                    if let Some(weight) = larger.weighs(count) {
                        prop_assert!(usage.weighs(count) <= Some(weight));
                    }
                }
            }
        }
    }
}
