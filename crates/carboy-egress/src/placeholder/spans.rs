//! Where a text stands within another one, however that is escaped.
//!
//! *Must never* say a place that is not wholly the text that was looked for.

use std::ops::Range;

use carboy_core::secret::{Secret, SecretText};

/// A decoded octet and where it stands.
pub(super) type Unit = (u8, Range<usize>);

/// Octets that mean themselves.
pub(super) fn plain(text: &[u8]) -> impl Iterator<Item = Unit> {
    text.iter().enumerate().map(|(at, byte)| (*byte, at..at + 1))
}

/// Octets of a text in which `%XX` stands for one; `plus` is what a `+` stands for.
pub(super) fn percent_units(text: &[u8], at: usize, plus: u8) -> impl Iterator<Item = Unit> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let byte = *text.get(next)?;
        let digit = |i: usize| text.get(next + i).and_then(|b| char::from(*b).to_digit(16));
        let (byte, len) = match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, 3),
            (b'+', _, _) => (plus, 1),
            (byte, _, _) => (byte, 1),
        };
        let unit = (byte, at + next..at + next + len);
        next += len;
        Some(unit)
    })
}

/// Octets of a JSON string's inside (RFC 8259, section 7). What is beyond Latin letters is given as an octet that no text
/// has: no placeholder has any of it.
pub(super) fn json_units(text: &[u8], at: usize) -> impl Iterator<Item = Unit> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let byte = *text.get(next)?;
        let (byte, len) = match (byte, text.get(next + 1)) {
            (b'\\', Some(b'u')) => match hex(text.get(next + 2..next + 6)) {
                Some(code) => (u8::try_from(code).ok().filter(u8::is_ascii).unwrap_or(0xff), 6),
                None => (byte, 1),
            },
            (b'\\', Some(escape)) => (unescaped(*escape), 2),
            (byte, _) => (byte, 1),
        };
        let unit = (byte, at + next..at + next + len);
        next += len;
        Some(unit)
    })
}

fn unescaped(escape: u8) -> u8 {
    match escape {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 8,
        b'f' => 12,
        other => other,
    }
}

fn hex(digits: Option<&[u8]>) -> Option<u32> {
    digits?.iter().try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?))
}

/// Every place at which `wanted` stands, none within another (Knuth, Morris and Pratt: linear whatever the text is).
pub(super) fn spans(units: impl Iterator<Item = Unit>, wanted: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    if wanted.is_empty() {
        return found;
    }
    let fallback = fallback(wanted);
    // Where the last octets began, as many as `wanted` has.
    let mut begins = vec![0; wanted.len()];
    let mut matched = 0;
    for (count, (byte, at)) in units.enumerate() {
        begins[count % wanted.len()] = at.start;
        while matched > 0 && wanted[matched] != byte {
            matched = fallback[matched - 1];
        }
        matched += usize::from(wanted[matched] == byte);
        if matched == wanted.len() {
            found.push(begins[(count + 1) % wanted.len()]..at.end);
            matched = 0;
        }
    }
    found
}

fn fallback(wanted: &[u8]) -> Vec<usize> {
    let mut table = vec![0; wanted.len()];
    let mut matched = 0;
    for i in 1..wanted.len() {
        while matched > 0 && wanted[i] != wanted[matched] {
            matched = table[matched - 1];
        }
        matched += usize::from(wanted[i] == wanted[matched]);
        table[i] = matched;
    }
    table
}

/// The text with `by` in these places, which are in order; every other byte stays.
pub(super) fn replaced(text: &[u8], places: &[Range<usize>], by: &[u8]) -> Vec<u8> {
    let gone: usize = places.iter().map(Range::len).sum();
    // All of it at once: growing would leave copies of what was put in behind.
    let mut out = Vec::with_capacity(text.len() - gone + places.len() * by.len());
    let mut at = 0;
    for place in places {
        out.extend_from_slice(&text[at..place.start]);
        out.extend_from_slice(by);
        at = place.end;
    }
    out.extend_from_slice(&text[at..]);
    out
}

/// As a parameter of a query or a form holds it: everything but RFC 3986's unreserved characters escaped.
pub(super) fn percent(text: &str) -> SecretText {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 0xf)]));
        }
    }
    Secret::new(out)
}
