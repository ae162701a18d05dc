//! Amounts of tokens as people write them.

use carboy_core::budget::{Amount, TOKENS_MAX};

/// Units, and how many tokens each is.
const UNITS: [(char, u64); 4] = [('k', 1_000), ('K', 1_000), ('M', 1_000_000), ('G', 1_000_000_000)];

/// What is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no amount of tokens; write 500k, 2M, 1.5M or 1_000_000, at most {TOKENS_MAX}")]
pub struct AmountError(String);

/// `500k`, `2M`, `1.5M`, `1_000_000`, `42`: whole tokens.
///
/// # Errors
/// Anything else, a part of a token and more than [`TOKENS_MAX`] included.
pub fn parse_amount(text: &str) -> Result<Amount, AmountError> {
    tokens(text).and_then(Amount::tokens).ok_or_else(|| AmountError(text.chars().take(40).collect()))
}

fn tokens(text: &str) -> Option<u64> {
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(*unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1));
    let (whole, part) = match number.split_once('.') {
        Some((whole, part)) => (whole, Some(part)),
        None => (number, None),
    };
    let whole = digits(whole)?.checked_mul(factor)?;
    let Some(part) = part else { return Some(whole) };
    let shift = 10_u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    if !part.bytes().all(|b| b.is_ascii_digit()) || shift > factor {
        return None;
    }
    let scaled = part.parse::<u64>().ok()?.checked_mul(factor)?;
    whole.checked_add(scaled / shift).filter(|_| scaled % shift == 0)
}

/// Digits, with `_` between them and nowhere else.
fn digits(text: &str) -> Option<u64> {
    let groups = text.split('_');
    if !groups.clone().all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    groups.collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn c9_an_amount_is_written_in_whole_tokens_and_read_in_one_way() {
        for (text, tokens) in [
            ("0", Some(0)),
            ("42", Some(42)),
            ("500k", Some(500_000)),
            ("500K", Some(500_000)),
            ("2M", Some(2_000_000)),
            ("1.5M", Some(1_500_000)),
            ("0.001k", Some(1)),
            ("1_000_000", Some(1_000_000)),
            ("1_000k", Some(1_000_000)),
            ("1G", Some(1_000_000_000)),
            ("1000G", Some(TOKENS_MAX)),
            ("1000000000001", None),
            ("1001G", None),
            ("99999999999999999999", None),
            ("18446744073709551615G", None),
            ("0.0001k", None),
            ("1.5", None),
            ("1.M", None),
            (".5M", None),
            ("1.5.5M", None),
            ("1.-5M", None),
            ("1.0000000000000000000000000G", None),
            ("1__0", None),
            ("_1", None),
            ("1_", None),
            ("-1", None),
            ("+1", None),
            ("5 M", None),
            ("5m", None),
            ("5MB", None),
            ("M", None),
            ("", None),
            ("٣", None),
            ("1e6", None),
        ] {
            assert_eq!(parse_amount(text).ok(), tokens.and_then(Amount::tokens), "{text}");
        }
        let error = parse_amount("5 M").unwrap_err().to_string();
        assert!(error.contains("`5 M`") && error.contains("1.5M"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_is_more_than_it_says(number in 0..=TOKENS_MAX, text in ".{0,20}") {
            prop_assert_eq!(parse_amount(&number.to_string()).ok(), Amount::tokens(number));
            // Whatever it is, it is an answer.
            if let Ok(amount) = parse_amount(&text) {
                prop_assert!(amount.tokens_up() <= TOKENS_MAX);
            }
        }
    }
}
