//! Ids and dates in text, as they are compared: what a reply mentions against what tools released (G21, G22).
//!
//! Texts are folded first ([`crate::plain::folded`]), so that a zero-width space, a full-width digit or a lower-case letter
//! makes no other id. *Must never* take a part of an id for the id: `BK-10012` is not `BK-1001`.

use std::ops::Range;
use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};

use crate::pattern::{PatternError, compile_error};

/// Octets of a compiled shape.
const SHAPE_BYTES_MAX: usize = 1024 * 1024;

/// The shape of an id, as a regular expression.
#[derive(Clone, Debug)]
pub struct IdShape {
    regex: Regex,
    source: String,
}

/// An id in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    /// As it is compared.
    pub text: String,
    /// Where it stands in the folded text.
    pub span: Range<usize>,
}

impl IdShape {
    /// In the syntax of the `regex` crate, not case-sensitive. One that matches nothing at all is refused: it would match
    /// between any two letters.
    pub fn new(source: &str) -> Result<IdShape, PatternError> {
        let regex = RegexBuilder::new(source)
            .case_insensitive(true)
            .size_limit(SHAPE_BYTES_MAX)
            .build()
            .map_err(|error| compile_error(source, &error))?;
        if regex.is_match("") {
            return Err(PatternError::MatchesEmpty { pattern: source.to_owned() });
        }
        Ok(IdShape { regex, source: source.to_owned() })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Every id of this shape in a folded text, each with the rest of the word that it is part of.
    pub fn ids<'a>(&'a self, folded: &'a str) -> impl Iterator<Item = Id> + 'a {
        self.regex.find_iter(folded).filter(|found| !found.is_empty()).map(|found| {
            // Letters of scripts without blanks (`BK-1001号`) are no part of it.
            let word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
            let before: usize = folded[..found.start()].chars().rev().take_while(word).map(char::len_utf8).sum();
            let behind: usize = folded[found.end()..].chars().take_while(word).map(char::len_utf8).sum();
            let span = found.start() - before..found.end() + behind;
            Id { text: folded[span.clone()].to_owned(), span }
        })
    }
}

/// Does a folded value stand in a folded text, not as a part of a longer word or number?
pub fn stands_in(value: &str, text: &str) -> bool {
    let value = value.trim();
    if value.is_empty() {
        return false;
    }
    text.match_indices(value).any(|(at, _)| {
        let joins = |inner: Option<char>, outer: Option<char>| match (inner, outer) {
            (Some(inner), Some(outer)) => inner.is_alphanumeric() && outer.is_alphanumeric(),
            (_, None) | (None, _) => false,
        };
        let (before, behind) = (&text[..at], &text[at + value.len()..]);
        // `9.5` is no value of `19.5`, nor `19` one of it.
        let number_before = before.ends_with(['.', ',']) && before.trim_end_matches(['.', ',']).ends_with(digit);
        let number_behind = behind.starts_with(['.', ',']) && behind.trim_start_matches(['.', ',']).starts_with(digit);
        let part_of_word = joins(value.chars().next(), before.chars().next_back())
            || joins(value.chars().next_back(), behind.chars().next());
        let part_of_number = (value.starts_with(digit) && number_before) || (value.ends_with(digit) && number_behind);
        !part_of_word && !part_of_number
    })
}

fn digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// A day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// Year.
    pub year: u16,
    /// Month, from 1.
    pub month: u8,
    /// Day, from 1.
    pub day: u8,
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// ISO dates, and those that are written with an English month: `March 3rd, 2025`, `3 Mar 2025`.
static DATES: LazyLock<Regex> = LazyLock::new(|| {
    let month = "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|\
                 oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)";
    RegexBuilder::new(&format!(
        r"(?P<y>\d{{4}})[-‐‑](?P<m>\d{{2}})[-‐‑](?P<d>\d{{2}})|\b(?P<mm>{month})\.?[ \n](?P<md>\d{{1,2}})(?:st|nd|rd|th)?,?[ \n](?P<my>\d{{4}})\b|\b(?P<dd>\d{{1,2}})(?:st|nd|rd|th)?(?: of)?[ \n](?P<dm>{month})\.?,?[ \n](?P<dy>\d{{4}})\b"
    ))
    .case_insensitive(true)
    .build()
    .expect("the shapes of dates are constant and tested")
});

/// Every date in a folded text, and where it stands. A number that goes on (`12025-03-01`) is none.
pub fn dates(folded: &str) -> Vec<(Date, Range<usize>)> {
    DATES
        .captures_iter(folded)
        .filter_map(|found| {
            let all = found.get(0)?;
            let number = |names: [&str; 3]| names.iter().find_map(|name| found.name(name)).map(|m| m.as_str());
            let month = match found.name("m") {
                Some(month) => month.as_str().parse().ok()?,
                None => month_number(number(["mm", "dm", "dm"])?)?,
            };
            if folded[..all.start()].ends_with(digit) || folded[all.end()..].starts_with(digit) {
                return None;
            }
            let date = Date {
                year: number(["y", "my", "dy"])?.parse().ok()?,
                month,
                day: number(["d", "md", "dd"])?.parse().ok()?,
            };
            Some((date, all.range()))
        })
        .collect()
}

fn month_number(name: &str) -> Option<u8> {
    let name = name.to_ascii_lowercase();
    let at = MONTHS.iter().position(|month| month.starts_with(&name[..3]))?;
    u8::try_from(at + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(u16, u8, u8)> {
        dates(&crate::plain::folded(text)).into_iter().map(|(d, _)| (d.year, d.month, d.day)).collect()
    }

    #[test]
    fn g22_iso_dates_and_dates_with_a_month_are_found() {
        for text in [
            "on 2025-03-03.",
            "2025-03-03T10:00:00Z",
            "March 3, 2025",
            "march 3rd 2025",
            "3 Mar 2025",
            "3rd of March, 2025",
            "２０２５-０３-０３",
            "2025‑03‑03",
            "2025-0\u{200b}3-03",
        ] {
            assert_eq!(found(text), [(2025, 3, 3)], "{text}");
        }
        for text in ["12025-03-03", "2025-03-033", "you may 3 times", "in March 2025", "order 2025-3-3", "30 days"] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn g21_an_id_is_compared_with_all_of_its_word() {
        let shape = IdShape::new(r"BK-\d{4}").unwrap();
        let ids = |text: &str| shape.ids(&crate::plain::folded(text)).map(|id| id.text).collect::<Vec<_>>();
        assert_eq!(ids("orders BK-1001, bk-1002 and XBK-10034"), ["bk-1001", "bk-1002", "xbk-10034"]);
        assert_eq!(
            ids("BK-1\u{200b}001 BK-1004号 ＢＫ－１００２ ВК-1003"),
            ["bk-1001", "bk-1004", "bk-1002", "bk-1003"]
        );
        assert!(ids("BK-100 and B K-1001").is_empty());
    }

    #[test]
    fn g21_a_shape_that_is_none_is_refused_with_its_name() {
        assert!(matches!(IdShape::new(r"\d*"), Err(PatternError::MatchesEmpty { pattern }) if pattern == r"\d*"));
        assert!(IdShape::new("BK-(").unwrap_err().to_string().starts_with("pattern `BK-(` "));
    }
}
