//! How far a run of octets goes that mean nothing by themselves: most of a body is such runs.
//!
//! Eight octets are looked at in one step, as one number.

const STEP: usize = 8;
/// One in each octet.
const ONES: u64 = u64::MAX / 255;
/// The highest bit of each octet.
const HIGHS: u64 = ONES << 7;

/// Octets of a string's text before what ends it, escapes something, or may not stand in it.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> usize {
    until(bytes, |eight| is(eight, b'"') | is(eight, b'\\') | below(eight, 0x20))
}

/// Does neither of these stand in it?
#[inline]
pub(crate) fn without(bytes: &[u8], one: u8, other: u8) -> bool {
    until(bytes, |eight| is(eight, one) | is(eight, other)) == bytes.len()
}

/// Octets of a line before its end.
#[inline]
pub(crate) fn line(bytes: &[u8]) -> usize {
    until(bytes, |eight| is(eight, b'\n') | is(eight, b'\r'))
}

/// The highest bit of octets below `limit`, which is at most 128. An octet that is not may be marked as well where one
/// before it is: the first mark is true.
#[inline]
fn below(eight: u64, limit: u8) -> u64 {
    eight.wrapping_sub(ONES * u64::from(limit)) & !eight & HIGHS
}

/// The same for octets that are this one.
#[inline]
fn is(eight: u64, byte: u8) -> u64 {
    below(eight ^ (ONES * u64::from(byte)), 1)
}

#[inline]
fn until(bytes: &[u8], marks: impl Fn(u64) -> u64) -> usize {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    for (at, step) in steps.iter().enumerate() {
        let found = marks(u64::from_le_bytes(*step));
        if found != 0 {
            return at * STEP + found.trailing_zeros() as usize / 8;
        }
    }
    // What fills it up ends nothing.
    let mut last = [b' '; STEP];
    last[..rest.len()].copy_from_slice(rest);
    let found = marks(u64::from_le_bytes(last));
    bytes.len() - rest.len() + rest.len().min(found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_at_the_first_octet_that_ends_it_wherever_that_stands() {
        for length in 0..150 {
            let mut bytes = vec![b'a'; length];
            assert_eq!((text(&bytes), line(&bytes)), (length, length));
            for at in (0..length).rev() {
                for (byte, in_text, in_line) in [(b'"', at, length), (b'\\', at, length), (0x1f, at, length)] {
                    bytes[at] = byte;
                    assert_eq!((text(&bytes), line(&bytes)), (in_text, in_line), "{at} of {length}");
                }
                for byte in [b'\n', b'\r'] {
                    bytes[at] = byte;
                    assert_eq!((text(&bytes), line(&bytes)), (at, at), "{at} of {length}");
                }
                assert!(without(&bytes, b'.', b'['));
                for byte in [b'.', b'['] {
                    bytes[at] = byte;
                    assert!(!without(&bytes, b'.', b'['), "{at} of {length}");
                }
                for byte in [b' ', 0x7f, 0x80, 0xff] {
                    bytes[at] = byte;
                    assert_eq!((text(&bytes), line(&bytes)), (length, length), "{at} of {length}");
                }
            }
        }
    }
}
