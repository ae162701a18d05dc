//! Sizes with units, and a bottle's resource bounds.

use crate::diagnostic::{Code, excerpt};
use crate::keys;
use crate::origin::Said;
use crate::schema::{Scope, find};
use crate::yaml::{Node, Value};

/// Below this no program of use starts, and the number was meant in another unit.
pub const MEMORY_BYTES_MIN: u64 = 16 * 1024 * 1024;

const UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// `2GiB`, `512 MiB`, `10MB`, `4096B` in bytes; `None` for anything else (`2G` is 2·10⁹ to some and 2³¹ to others).
pub fn parse_size(text: &str) -> Option<u64> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A size in bytes: a whole number, or one with a unit.
pub(crate) fn size(scope: &mut Scope<'_>, node: &Node, what: &str, min: u64) -> Option<u64> {
    let (given, bytes) = match &node.value {
        Value::Int(number) => (number.to_string(), u64::try_from(*number).ok()),
        Value::Text(text) => (excerpt(text), parse_size(text)),
        Value::Invalid => return None,
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => (String::from("no size"), None),
    };
    let fits = bytes.filter(|bytes| *bytes >= min);
    if fits.is_none() {
        let message = format!("{what} of {} is {given}", scope.owner);
        let fix = format!("write a size of at least {min} bytes, as in `512MiB` or `2GiB`");
        scope.error(node.at, Code::BadValue, message, fix);
    }
    fits
}

/// `limits`, as files say them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LimitsPart {
    pub(crate) memory: Option<Said<u64>>,
    pub(crate) processes: Option<Said<u32>>,
    pub(crate) open_files: Option<Said<u32>>,
}

/// `limits`: `memory`, `processes`, `open_files`.
pub(crate) fn limits(scope: &mut Scope<'_>, node: &Node) -> LimitsPart {
    let mut limits = LimitsPart::default();
    let Some(entries) = scope.map(node, "`limits`") else { return limits };
    scope.keys(entries, &keys::LIMITS, "`limits`");
    if let Some(node) = find(entries, "memory") {
        limits.memory = size(scope, node, "`limits.memory`", MEMORY_BYTES_MIN).map(|n| scope.said(n, node.at));
    }
    if let Some(node) = find(entries, "processes") {
        let number = scope.number(node, "`limits.processes`", 8..=1_000_000);
        limits.processes = number.map(|n| scope.said(n, node.at));
    }
    if let Some(node) = find(entries, "open_files") {
        let number = scope.number(node, "`limits.open_files`", 64..=1_048_576);
        limits.open_files = number.map(|n| scope.said(n, node.at));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_that_means_one_thing() {
        for (text, bytes) in [
            ("2GiB", Some(2 << 30)),
            ("512 MiB", Some(512 << 20)),
            ("10MB", Some(10_000_000)),
            ("4096B", Some(4096)),
            ("2G", None),
            ("GiB", None),
            ("-1GiB", None),
            ("1.5GiB", None),
            ("12", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
