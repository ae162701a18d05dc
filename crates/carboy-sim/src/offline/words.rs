//! What stands in a message: words, numbers of orders, e-mail addresses, quoted texts, sums.
//!
//! *Must never* invent a value: whatever is found stands in the message, letter by letter but for the case of an id.

use std::collections::BTreeSet;

/// Octets of a message that are looked at; people's messages are shorter.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Words that say nothing about what is wanted.
const EMPTY: &[&str] = &[
    "a", "about", "all", "also", "an", "and", "any", "are", "as", "at", "be", "by", "can", "could", "did", "do",
    "does", "for", "from", "get", "give", "has", "have", "how", "i", "id", "if", "im", "in", "into", "is", "it", "its",
    "like", "me", "my", "of", "on", "one", "or", "our", "please", "should", "so", "that", "the", "their", "them",
    "there", "they", "this", "to", "use", "want", "was", "we", "what", "when", "where", "which", "who", "will", "with",
    "would", "you", "your",
];

/// As much of a message as is looked at.
pub(crate) fn bounded(text: &str) -> &str {
    let end = text.len().min(MESSAGE_BYTES_MAX);
    let end = (0..=end).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// Words in small letters, apostrophes left out, in order.
pub(crate) fn words(text: &str) -> Vec<String> {
    let text = bounded(text).replace(['\'', '’'], "").to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// A word without its ending: `orders`, `ordered` and `ordering` are one.
pub(crate) fn stem(word: &str) -> String {
    let mut stem = word;
    for ending in ["ings", "ing", "ies", "ied", "ed", "es", "s"] {
        if let Some(front) = stem.strip_suffix(ending)
            && front.len() >= 3
            && !front.ends_with('s')
        {
            stem = front;
            break;
        }
    }
    // `create` and `creating`, `policy` and `policies`.
    let stem = stem.strip_suffix(['e', 'y']).filter(|front| front.len() >= 3).unwrap_or(stem);
    stem.to_owned()
}

/// What a text is about: its words without endings, without those that say nothing.
pub(crate) fn stems(text: &str) -> BTreeSet<String> {
    words(text).iter().filter(|word| !EMPTY.contains(&&word[..])).map(|word| stem(word)).collect()
}

/// Does one of these words, or runs of words, stand in the text? Endings count.
pub(crate) fn says(words: &[String], any: &[&str]) -> bool {
    any.iter().any(|phrase| {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        words.windows(phrase.len()).any(|window| window == phrase)
    })
}

/// Things between blanks, without the punctuation around them.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let around =
        |c: char| matches!(c, ',' | ';' | ':' | '!' | '?' | '(' | ')' | '<' | '>' | '"' | '“' | '”' | '\'' | '’');
    bounded(text)
        .split_whitespace()
        .map(move |token| token.trim_matches(around).trim_end_matches('.').trim_matches(around))
}

/// E-mail addresses.
pub(crate) fn emails(text: &str) -> Vec<String> {
    let is_one = |token: &&str| {
        token.split_once('@').is_some_and(|(user, domain)| {
            !user.is_empty() && domain.contains('.') && !domain.contains('@') && !domain.starts_with('.')
        })
    };
    tokens(text).filter(is_one).map(str::to_owned).collect()
}

/// Numbers of things: `BK-1001`, `bk1001`, `#1001`. Each once, in order.
pub(crate) fn ids(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for token in tokens(text) {
        let hash = token.strip_prefix('#');
        let body = hash.unwrap_or(token);
        let shape = body.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        let digits = body.chars().filter(char::is_ascii_digit).count();
        let letters = body.chars().any(|c| c.is_ascii_alphabetic());
        // Days and ordinals are no ids: a day has no letters, and `30th` begins with its digits.
        let begins = body.starts_with(|c: char| c.is_ascii_alphabetic());
        if shape && digits >= 2 && (hash.is_some() || (letters && begins)) && !found.iter().any(|id| id == body) {
            found.push(body.to_owned());
        }
    }
    found
}

/// Plain numbers, as they are written.
pub(crate) fn numbers(text: &str) -> Vec<String> {
    let is_one =
        |token: &&str| token.parse::<f64>().is_ok_and(f64::is_finite) && token.ends_with(|c: char| c.is_ascii_digit());
    tokens(text).map(|token| token.trim_start_matches('#')).filter(is_one).map(str::to_owned).collect()
}

/// The first text between quotation marks.
pub(crate) fn quoted(text: &str) -> Option<String> {
    let text = bounded(text);
    let pairs = [('"', '"'), ('“', '”'), ('«', '»'), ('`', '`')];
    let between = |(open, close): (char, char)| {
        let start = text.find(open)? + open.len_utf8();
        let end = text[start..].find(close)? + start;
        Some((start, &text[start..end])).filter(|(_, inner)| !inner.trim().is_empty())
    };
    // An apostrophe is a quotation mark only at the beginning of a word.
    let single = || {
        let start = text.find(" '")? + 2;
        let end = text[start..].rfind('\'')? + start;
        Some((start, &text[start..end])).filter(|(_, inner)| !inner.trim().is_empty())
    };
    let found = pairs.into_iter().filter_map(between).chain(single());
    found.min_by_key(|(start, _)| *start).map(|(_, inner)| inner.trim().to_owned())
}

/// What follows the first of these words or phrases in the text, case aside; the earliest place wins, then the longest phrase.
pub(crate) fn after<'a>(text: &'a str, phrases: &[&str]) -> Option<&'a str> {
    let text = bounded(text);
    // Only ASCII letters change, so that places are the same in both.
    let lower = text.to_ascii_lowercase();
    let whole_word = |at: usize, phrase: &str| {
        let before = lower[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric());
        let behind = lower[at + phrase.len()..].chars().next().is_none_or(|c| !c.is_alphanumeric());
        before && (behind || phrase.ends_with(':'))
    };
    let places = phrases.iter().filter_map(|phrase| {
        let found = lower.match_indices(phrase).find(|(at, _)| whole_word(*at, phrase));
        found.map(|(at, _)| (at, phrase.len()))
    });
    let (at, length) = places.min_by_key(|(at, length)| (*at, usize::MAX - length))?;
    Some(text[at + length..].trim())
}

/// A key as a person reads it: `customer_email` is `customer email`.
pub(crate) fn spoken(key: &str) -> String {
    let mut spoken = String::new();
    for (at, c) in key.char_indices() {
        if matches!(c, '_' | '-' | '.') {
            spoken.push(' ');
        } else if c.is_uppercase() && at > 0 && spoken.ends_with(|c: char| c.is_lowercase()) {
            spoken.push(' ');
            spoken.extend(c.to_lowercase());
        } else {
            spoken.extend(c.to_lowercase());
        }
    }
    spoken.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_as_they_are_written() {
        let text =
            "Hi, I'm Sarah (sarah.chen@example.com). Where are BK-1001, bk1002 and #77? It's the 30th, for 12.50.";
        assert_eq!(emails(text), ["sarah.chen@example.com"]);
        assert_eq!(ids(text), ["BK-1001", "bk1002", "77"]);
        assert_eq!(numbers(text), ["77", "12.50"]);
        assert_eq!(emails("a@b, @x.y, a@.y, a@@b.c"), Vec::<String>::new());
        assert_eq!(quoted("save \"buy milk\" as x.txt").as_deref(), Some("buy milk"));
        assert_eq!(quoted("save 'don't forget' now").as_deref(), Some("don't forget"));
        assert_eq!(quoted("don't and can't"), None);
        assert_eq!(after("Please CALCULATE __import__('os')", &["calculate"]), Some("__import__('os')"));
        assert_eq!(after("recalculate it", &["calculate"]), None);
        assert_eq!(after("note: a: b", &["note:", "note"]), Some("a: b"));
        assert_eq!(spoken("customerEmail") + "/" + &spoken("order_id"), "customer email/order id");
    }

    #[test]
    fn endings_do_not_count() {
        assert_eq!(stems("My orders, ordered"), stems("an order"));
        assert_eq!(stems("policies"), stems("policy"));
        assert_eq!(stems("creating"), stems("create"));
        assert_eq!(stem("address"), "address");
    }
}
