//! Where a text may be cut into what is shown at a time: behind a sentence, behind a line, and within one that does not end.
//!
//! Cuts are places in the text alone, whatever pieces it came in: a cut at a place is decided by what stands up to a few
//! characters behind it. *Must never* stand within a number, an id, an address or a word.

/// A sentence of more characters is cut between two words; one word is held until it ends, or the reply does.
pub(super) const SENTENCE_CHARS_MAX: usize = 400;
/// What ends with a full stop and no sentence, without that stop.
const ABBREVIATIONS: &[&str] = &[
    "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "no", "nos", "vs", "etc", "approx", "dept", "inc", "ltd", "co",
    "corp", "e.g", "i.e", "a.m", "p.m", "u.s", "fig", "vol", "pp", "p", "ca", "cf", "art", "jan", "feb", "mar", "apr",
    "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "z.b", "d.h", "bzw", "nr", "ave", "blvd", "est", "ed",
    "eds", "isbn", "tel", "incl", "excl", "max", "min",
];

/// Whether the text ends here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Open,
    Ended,
}

/// The first cut behind `from`, which is a cut itself; `None` until it can be known.
pub(super) fn next_cut(text: &str, from: usize, ending: Ending) -> Option<usize> {
    let mut last_blank = None;
    let mut chars = text[from..].char_indices().map(|(at, c)| (from + at, c)).enumerate().peekable();
    while let Some((count, (at, c))) = chars.next() {
        let next = chars.peek().map(|(_, (_, next))| *next);
        if next.is_none() && ending == Ending::Open {
            return None;
        }
        let behind = at + c.len_utf8();
        if ends_line(c, next, at > from) || ends_cjk(c, next) || ends_sentence(&text[from..at], c, next) {
            return Some(behind);
        }
        if c.is_whitespace() && at > from {
            last_blank = Some(at);
        }
        if count >= SENTENCE_CHARS_MAX {
            // A script without blanks is cut between any two of its characters.
            let between = if is_cjk(c) && next.is_some_and(is_cjk) { Some(behind) } else { None };
            if let Some(cut) = last_blank.or(between) {
                return Some(cut);
            }
        }
    }
    (ending == Ending::Ended && from < text.len()).then_some(text.len())
}

/// A line feed, with all that follow it.
fn ends_line(c: char, next: Option<char>, has_words: bool) -> bool {
    c == '\n' && has_words && next.is_some_and(|next| next != '\n')
}

fn ends_cjk(c: char, next: Option<char>) -> bool {
    matches!(c, '。' | '！' | '？' | '｡')
        && next.is_some_and(|next| !is_closing(next) && !matches!(next, '。' | '！' | '？'))
}

/// White space follows a full stop, and it is none of an abbreviation, a number of a list or an initial.
fn ends_sentence(before: &str, c: char, next: Option<char>) -> bool {
    if !next.is_some_and(|next| next.is_whitespace() && next != '\n') {
        return false;
    }
    let stop = if is_closing(c) { before.trim_end_matches(is_closing) } else { before };
    let (stop, mark) = match (is_closing(c), stop.chars().next_back()) {
        (true, Some(mark)) => (&stop[..stop.len() - mark.len_utf8()], mark),
        (true, None) => return false,
        (false, _) => (before, c),
    };
    match mark {
        '!' | '?' | '…' => true,
        '.' => !is_abbreviation(stop),
        _ => false,
    }
}

fn is_abbreviation(before: &str) -> bool {
    let word =
        before.rsplit(|c: char| c.is_whitespace() || is_closing(c) || c == '(' || c == '"').next().unwrap_or_default();
    let alone = before.trim_start().len() == word.len();
    let mut chars = word.chars();
    match (chars.next(), chars.next()) {
        (None, _) => false,
        // `J. Smith`, but `plan B.` only if it is a capital.
        (Some(c), None) if c.is_uppercase() => c != 'I',
        _ if alone && word.chars().all(|c| c.is_ascii_digit()) => true,
        _ => ABBREVIATIONS.contains(&word.to_lowercase().as_str()),
    }
}

fn is_closing(c: char) -> bool {
    matches!(c, ')' | ']' | '"' | '\'' | '\u{201d}' | '\u{2019}' | '»' | '」' | '』' | '）')
}

fn is_cjk(c: char) -> bool {
    matches!(u32::from(c), 0x2e80..=0x9fff | 0xac00..=0xd7af | 0xf900..=0xfaff | 0xff00..=0xffef | 0x20000..=0x3ffff | 0xe00..=0xeff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        let (mut from, mut pieces) = (0, Vec::new());
        while let Some(cut) = next_cut(text, from, Ending::Ended) {
            pieces.push(&text[from..cut]);
            from = cut;
        }
        assert_eq!(from, text.len());
        pieces
    }

    #[test]
    fn g21_sentences_end_where_a_reader_says_so() {
        for pieces in [
            &["Order BK-1001 was sent.", " It arrives soon!", " Anything else?"][..],
            &["It costs 12.50 EUR (incl. v1.2.3).", " See docs.example.com for more."],
            &["Dr. Smith of Acme Inc. wrote it, e.g. in No. 7.", " J. K. Rowling did not."],
            &["She said \"never.\"", " Then she left."],
            &["First line\n", "Second line\n\n", "Third"],
            &["注文は届きました。", "ありがとう！", "またね。"],
            &["Wait…", " What?!", " Yes."],
            &["So do I.", " Fine."],
            &["   \n"],
        ] {
            assert_eq!(cut(&pieces.concat()), pieces);
        }
    }

    #[test]
    fn g21_a_sentence_that_does_not_end_is_cut_between_words() {
        let text = "word ".repeat(300);
        assert!(cut(&text).iter().all(|piece| piece.chars().count() <= SENTENCE_CHARS_MAX + 1));
        let text = "字".repeat(2_000);
        assert!(cut(&text).iter().all(|piece| piece.chars().count() <= SENTENCE_CHARS_MAX + 1));
        assert_eq!(cut(&"x".repeat(2_000)).len(), 1, "one word is never cut");
    }
}
