//! A number of the calculator: a fraction of whole numbers as long as it can be one, else a double.
//!
//! *Must never* show a whole number that is not exact: what does not fit is too large and not rounded.

use std::fmt;

use super::CalculationError;

/// Digits behind the point up to which a fraction is written out exactly.
const DECIMALS_MAX: u32 = 15;
/// Largest double that is shown.
const APPROXIMATE_MAX: f64 = 1e30;

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// `numerator / denominator` in lowest terms, the denominator positive.
    Exact(i128, i128),
    /// Roots and fractions that do not fit.
    Approximate(f64),
}

use Number::{Approximate, Exact};

impl Number {
    /// Digits with at most one point.
    pub(super) fn parse(digits: &[u8]) -> Result<Number, CalculationError> {
        let points = digits.iter().filter(|b| **b == b'.').count();
        if points > 1 || digits.len() == points {
            return Err(CalculationError::Malformed);
        }
        let (mut numerator, mut denominator, mut behind) = (0_i128, 1_i128, false);
        for digit in digits {
            if *digit == b'.' {
                behind = true;
                continue;
            }
            let larger = numerator.checked_mul(10).and_then(|n| n.checked_add(i128::from(digit - b'0')));
            numerator = larger.ok_or(CalculationError::TooLarge)?;
            if behind {
                denominator = denominator.checked_mul(10).ok_or(CalculationError::TooLarge)?;
            }
        }
        reduced(numerator, denominator).ok_or(CalculationError::TooLarge)
    }

    pub(super) fn negated(self) -> Result<Number, CalculationError> {
        match self {
            Exact(n, d) => n.checked_neg().map(|n| Exact(n, d)).ok_or(CalculationError::TooLarge),
            Approximate(x) => Ok(Approximate(-x)),
        }
    }

    pub(super) fn plus(self, other: Number) -> Result<Number, CalculationError> {
        let exact = |a: i128, b: i128, c: i128, d: i128| {
            let numerator = a.checked_mul(d)?.checked_add(c.checked_mul(b)?)?;
            reduced(numerator, b.checked_mul(d)?)
        };
        self.with(other, exact, |x, y| x + y)
    }

    pub(super) fn times(self, other: Number) -> Result<Number, CalculationError> {
        self.with(other, |a, b, c, d| reduced(a.checked_mul(c)?, b.checked_mul(d)?), |x, y| x * y)
    }

    pub(super) fn over(self, other: Number) -> Result<Number, CalculationError> {
        if other.is_zero() {
            return Err(CalculationError::DivisionByZero);
        }
        self.with(other, |a, b, c, d| reduced(a.checked_mul(d)?, b.checked_mul(c)?), |x, y| x / y)
    }

    /// What is left, with the sign of the divisor.
    pub(super) fn modulo(self, other: Number) -> Result<Number, CalculationError> {
        if other.is_zero() {
            return Err(CalculationError::DivisionByZero);
        }
        let exact = |a: i128, b: i128, c: i128, d: i128| {
            let (left, right) = (a.checked_mul(d)?, c.checked_mul(b)?);
            let rest = left.checked_rem(right)?;
            let rest = if rest != 0 && (rest < 0) != (right < 0) { rest.checked_add(right)? } else { rest };
            reduced(rest, b.checked_mul(d)?)
        };
        self.with(other, exact, |x, y| x - y * (x / y).floor())
    }

    pub(super) fn to_the(self, exponent: Number) -> Result<Number, CalculationError> {
        if let (Exact(n, d), Exact(times, 1)) = (self, exponent) {
            if times < 0 && n == 0 {
                return Err(CalculationError::DivisionByZero);
            }
            return match (raised(n, times.unsigned_abs()), raised(d, times.unsigned_abs())) {
                (Some(n), Some(d)) if times < 0 => reduced(d, n).ok_or(CalculationError::TooLarge),
                (Some(n), Some(d)) => Ok(Exact(n, d)),
                // A power of a whole number is whole, or its inverse.
                (None, _) | (_, None) if d == 1 => Err(CalculationError::TooLarge),
                (None, _) | (_, None) => bounded(self.double().powf(exponent.double())),
            };
        }
        if self.is_zero() && exponent.double() < 0.0 {
            return Err(CalculationError::DivisionByZero);
        }
        bounded(self.double().powf(exponent.double()))
    }

    fn with(
        self,
        other: Number,
        exact: impl Fn(i128, i128, i128, i128) -> Option<Number>,
        approximate: impl Fn(f64, f64) -> f64,
    ) -> Result<Number, CalculationError> {
        if let (Exact(a, b), Exact(c, d)) = (self, other) {
            match exact(a, b, c, d) {
                Some(number) => return Ok(number),
                None if b == 1 && d == 1 => return Err(CalculationError::TooLarge),
                None => {}
            }
        }
        bounded(approximate(self.double(), other.double()))
    }

    fn is_zero(self) -> bool {
        match self {
            Exact(n, _) => n == 0,
            Approximate(x) => x == 0.0,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a double is what is asked for")]
    fn double(self) -> f64 {
        match self {
            Exact(n, d) => n as f64 / d as f64,
            Approximate(x) => x,
        }
    }
}

/// `base` to the power, by squaring: at most 128 steps whatever the power is.
fn raised(base: i128, power: u128) -> Option<i128> {
    let (mut result, mut square, mut left) = (1_i128, Some(base), power);
    while left > 0 {
        if left & 1 == 1 {
            result = result.checked_mul(square?)?;
        }
        left >>= 1;
        square = square.and_then(|s| s.checked_mul(s));
    }
    Some(result)
}

fn bounded(x: f64) -> Result<Number, CalculationError> {
    match x {
        x if x.is_nan() => Err(CalculationError::NotReal),
        x if x.abs() > APPROXIMATE_MAX => Err(CalculationError::TooLarge),
        x => Ok(Approximate(x)),
    }
}

/// In lowest terms, the denominator positive; `None` where that does not fit. The denominator is not zero.
fn reduced(numerator: i128, denominator: i128) -> Option<Number> {
    let divisor = i128::try_from(common(numerator.unsigned_abs(), denominator.unsigned_abs())).ok()?;
    let (n, d) = (numerator / divisor, denominator / divisor);
    if d < 0 { Some(Exact(n.checked_neg()?, d.checked_neg()?)) } else { Some(Exact(n, d)) }
}

fn common(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exact(n, 1) => write!(f, "{n}"),
            Exact(n, d) => match decimals(n, d) {
                Some(text) => f.write_str(&text),
                None => write!(f, "{}", self.double()),
            },
            Approximate(x) => write!(f, "{x}"),
        }
    }
}

/// `n / d` written out, where it ends within [`DECIMALS_MAX`] digits.
fn decimals(n: i128, d: i128) -> Option<String> {
    let (mut scaled, mut digits) = (n, 0);
    while scaled % d != 0 {
        if digits == DECIMALS_MAX {
            return None;
        }
        scaled = scaled.checked_mul(10)?;
        digits += 1;
    }
    let text = format!("{:0>width$}", (scaled / d).unsigned_abs(), width = digits as usize + 1);
    let (whole, behind) = text.split_at(text.len() - digits as usize);
    Some(format!("{}{whole}.{behind}", if n < 0 { "-" } else { "" }))
}
