//! Sequences that may be shown to a terminal once more: a list of those that change the screen and nothing else.
//!
//! *Must never* name one that a terminal answers, that writes to the clipboard, a file or a printer, or that makes a
//! terminal read what follows in another way. What is not on the list is not shown.

use super::{MODES, SEQUENCE_BYTES_MAX};

/// Control characters that move the cursor or change the character set.
pub(super) const CONTROLS: [char; 8] = ['\x08', '\t', '\n', '\x0b', '\x0c', '\r', '\x0e', '\x0f'];
/// Private modes beside [`MODES`] that concern the picture: reverse, origin, wrap, blinking, left and right margins, picture
/// at once.
const PICTURE: [u16; 6] = [5, 6, 7, 12, 69, 2026];
/// Inserting: the one mode of the standard that concerns the picture. (2 locks the keyboard, 12 is the local echo.)
const INSERT: u16 = 4;
/// Final bytes of control sequences that do nothing but draw, whatever their numbers.
const DRAWING: &[u8] = b"@ABCDEFGHIJKLMPSXZ`abdefgmrs";
/// `ESC` and one byte: save and restore the cursor, line feeds, tab stop, keypad, full reset.
const ESCAPES: &[u8] = b"78DEHM=>c";

/// A sequence that changes the screen and asks nothing.
pub(super) fn is_for_the_screen(sequence: &[u8]) -> bool {
    if sequence.len() >= SEQUENCE_BYTES_MAX {
        return false;
    }
    match sequence {
        [0x1b, b'[', inner @ .., last] => is_control(inner, *last),
        [0x1b, last] => ESCAPES.contains(last),
        // A character set, and lines of double height. `ESC SP G` and `ESC %` would change how bytes are read.
        [0x1b, b'(' | b')' | b'*' | b'+', set] => matches!(set, 0x30..=0x7e),
        [0x1b, b'#', last] => (b'3'..=b'8').contains(last),
        _ => false,
    }
}

fn is_control(inner: &[u8], last: u8) -> bool {
    let numbers = |bytes: &[u8]| bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b';' | b':'));
    let all = |bytes: &[u8], allowed: &dyn Fn(u16) -> bool| {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        text.split(';').all(|number| number.parse().is_ok_and(allowed))
    };
    match (inner, last) {
        // The shape of the cursor: the one intermediate byte that is needed.
        ([shape @ .., b' '], b'q') => shape.len() <= 1 && numbers(shape),
        ([b'?', modes @ ..], b'h' | b'l') => all(modes, &|mode| MODES.contains(&mode) || PICTURE.contains(&mode)),
        ([b'?', which @ ..], b'J' | b'K') => numbers(which),
        (modes, b'h' | b'l') => all(modes, &|mode| mode == INSERT),
        // With numbers it is about the keyboard.
        (inner, b'u') => inner.is_empty(),
        // With five numbers it is about the mouse.
        (lines, b'T') => lines.iter().all(u8::is_ascii_digit),
        (inner, last) => DRAWING.contains(&last) && numbers(inner),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The law, said once more and in another way: characters that are no controls, and sequences whose shape is known.
    pub(in super::super) fn is_allowed(shown: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(shown) else { return false };
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            let fine = match c {
                '\x1b' => match rest.next() {
                    Some('[') => {
                        let inner: String = rest.clone().take_while(|c| !('@'..='~').contains(c)).collect();
                        let last = rest.nth(inner.len());
                        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == ';' || c == ':');
                        match last {
                            Some('c' | 'n' | 'p' | 't' | 'w' | 'x' | 'y' | 'R' | '|' | 'i') | None => false,
                            Some('q') => inner.ends_with(' ') && inner.len() <= 2,
                            Some('u') => inner.is_empty(),
                            Some('h' | 'l' | 'J' | 'K') => digits(inner.trim_start_matches('?')),
                            Some(_) => digits(&inner),
                        }
                    }
                    Some('(' | ')' | '*' | '+' | '#') => rest.next().is_some_and(|c| c.is_ascii_graphic()),
                    Some(c) => "78DEHM=>c".contains(c),
                    None => false,
                },
                c => !c.is_control() || CONTROLS.contains(&c),
            };
            if !fine {
                return false;
            }
        }
        true
    }
}
