//! A text that a pattern fits, so that an adversary can name ids that nobody has.
//!
//! *Must never* be longer than a line, however a pattern repeats itself.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Characters of a sample.
const CHARS_MAX: usize = 256;
/// Levels of a pattern that are followed.
const DEPTH_MAX: usize = 32;

/// The `nth` sample of a pattern; `None` where it is no pattern or has only longer ones.
pub fn of(pattern: &str, nth: usize) -> Option<String> {
    let hir = regex_syntax::parse(pattern).ok()?;
    let mut text = String::new();
    write(&hir, nth, DEPTH_MAX, &mut text)?;
    (!text.is_empty()).then_some(text)
}

fn write(hir: &Hir, nth: usize, depth: usize, out: &mut String) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    if out.chars().count() > CHARS_MAX {
        return None;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.push_str(std::str::from_utf8(&literal.0).ok()?),
        HirKind::Class(Class::Unicode(class)) => {
            let range = class.ranges().first()?;
            // From the end: what people number from the beginning is less likely to be there.
            let back = u32::try_from(nth).ok()?.min(u32::from(range.end()) - u32::from(range.start()));
            out.push(char::from_u32(u32::from(range.end()) - back).unwrap_or(range.start()));
        }
        HirKind::Class(Class::Bytes(class)) => out.push(char::from(class.ranges().first()?.end())),
        HirKind::Repetition(repeated) => {
            let times = repeated.min.max(u32::from(repeated.max != Some(0)));
            (0..times.min(CHARS_MAX as u32)).try_for_each(|_| write(&repeated.sub, nth, depth, out))?;
        }
        HirKind::Capture(capture) => write(&capture.sub, nth, depth, out)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| write(part, nth, depth, out))?,
        HirKind::Alternation(parts) => write(parts.get(nth % parts.len())?, nth, depth, out)?,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_its_pattern_and_is_no_longer_than_a_line() {
        for pattern in ["^SH-[0-9]{4}$", r"\bRMA-[A-Z]{8}\b", "(a|bc)+[x-z]?", r"\AINV/\d{2,5}\z"] {
            let shape = regex::Regex::new(pattern).unwrap();
            for nth in 0..3 {
                let sample = of(pattern, nth).unwrap();
                assert!(shape.is_match(&sample), "{pattern} {sample}");
            }
        }
        assert_eq!(of("(", 0), None);
        assert!(of("a{1000}", 0).is_none_or(|text| text.len() <= CHARS_MAX));
    }
}
