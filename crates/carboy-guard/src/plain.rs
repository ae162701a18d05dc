//! Text as a person sees it, and text as a comparison should: without what cannot be seen, look-alikes told as what they
//! look like.
//!
//! ```text
//! visible  what is shown: control and invisible characters out, full-width and mathematical letters as ASCII
//! folded   what is compared: visible, and accents, look-alikes of other scripts, dashes and quotes as ASCII, lower case
//! ```
//!
//! *Must never* be undone: what was judged in one form is shown in that form and in no other.

use crate::view;

/// Characters that take no room on a screen: zero-width ones, bidi controls, tag characters, variation selectors, fillers.
/// With them text says something else to a program than to its reader.
pub fn is_invisible(c: char) -> bool {
    matches!(u32::from(c),
        0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x202a..=0x202e
        | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff9..=0xfffb | 0x1bca0..=0x1bca3
        | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

/// The character as it is shown, if it is. Line feeds stay; a tab, and a separator of lines, becomes white space that any
/// screen has.
pub fn visible_char(c: char) -> Option<char> {
    match c {
        '\n' => Some('\n'),
        '\t' => Some(' '),
        '\u{2028}' | '\u{2029}' => Some('\n'),
        c if c.is_control() || is_invisible(c) => None,
        c if c.is_ascii() => Some(c),
        c => Some(ascii_form(c).unwrap_or(c)),
    }
}

/// The whole text as it is shown.
pub fn visible(text: &str) -> String {
    text.chars().filter_map(visible_char).collect()
}

/// The ASCII letter, digit or sign that a compatibility character is another form of. Full-width punctuation of CJK text
/// (`，！？：`) stays as it is: it is no disguise there.
fn ascii_form(c: char) -> Option<char> {
    let code = u32::from(c);
    let at = |first: u8, offset: u32| char::from_u32(u32::from(first) + offset);
    match code {
        0xff10..=0xff19 | 0xff21..=0xff3a | 0xff41..=0xff5a => char::from_u32(code - 0xfee0),
        // # * + - . @ _ ` |
        0xff03 | 0xff0a | 0xff0b | 0xff0d | 0xff0e | 0xff20 | 0xff3f | 0xff40 | 0xff5c => char::from_u32(code - 0xfee0),
        0x1d400..=0x1d6a3 => match (code - 0x1d400) % 52 {
            n @ 0..=25 => at(b'A', n),
            n => at(b'a', n - 26),
        },
        0x1d7ce..=0x1d7ff => at(b'0', (code - 0x1d7ce) % 10),
        0x24b6..=0x24cf => at(b'A', code - 0x24b6),
        0x24d0..=0x24e9 => at(b'a', code - 0x24d0),
        _ => None,
    }
}

/// Code points of the zeros of other scripts' decimal digits (Unicode category Nd); nine more follow each.
const ZEROS: [u32; 19] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50, 0xed0, 0xf20, 0x1040,
    0x17e0, 0x1810, 0xff10,
];

/// The character as a comparison takes it, in lower case; `None` for one that is not there to the eye.
pub fn folded_char(c: char) -> Option<char> {
    if c.is_ascii() {
        return visible_char(c).map(|c| c.to_ascii_lowercase());
    }
    let code = u32::from(c);
    let c = visible_char(c)?;
    match code {
        // Combining marks.
        0x300..=0x36f | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x20d0..=0x20ff | 0xfe20..=0xfe2f => return None,
        0x2010..=0x2015 | 0x2212 | 0xfe58 | 0xfe63 | 0xff0d => return Some('-'),
        0x2018..=0x201b | 0x2032 | 0xff07 => return Some('\''),
        0x201c..=0x201f | 0x2033 | 0xff02 => return Some('"'),
        _ => {}
    }
    if c.is_whitespace() && c != '\n' {
        return Some(' ');
    }
    if let Some(zero) = ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&code)) {
        return char::from_u32(u32::from(b'0') + code - zero);
    }
    let lower = c.to_lowercase().next().unwrap_or(c);
    Some(view::letter(code).map_or(lower, |byte| char::from(byte).to_ascii_lowercase()))
}

/// The whole text as a comparison takes it.
pub fn folded(text: &str) -> String {
    text.chars().filter_map(folded_char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g14_what_cannot_be_seen_is_not_there() {
        assert_eq!(visible("BK\u{200b}-10\u{2060}01\u{202e}\u{e0041}\0\u{7f}\u{85}\u{1b}"), "BK-1001");
        assert_eq!(visible("two\r\nlines\tand a tab"), "two\nlines and a tab");
    }

    #[test]
    fn g21_disguised_digits_and_letters_are_told_as_what_they_look_like() {
        for text in ["ＢＫ－１００１", "bk‑1001", "ВК-1001", "𝐁𝐊-𝟏𝟎𝟎𝟏", "BK-١٠٠١", "Bk\u{ad}-1\u{301}001"]
        {
            assert_eq!(folded(text), "bk-1001", "{text}");
        }
    }

    #[test]
    fn text_of_other_languages_is_shown_as_it_was_written() {
        for text in ["Größe: 42 – «très bien»", "注文は，明日届きます！", "Заказ доставлен", "שלום", "👍 3 × 4"]
        {
            assert_eq!(visible(text), text);
        }
    }
}
