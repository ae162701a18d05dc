//! What completes a document that was cut, from whatever octet.

use super::{Escape, Expect, Frame, Scanner, Token};

/// What stands in for what is missing.
pub(crate) trait Fill {
    /// The value at a path, where only its key was there.
    fn value(&self, path: &str) -> String;
    /// Members to put at the end of the map at a path, without a comma before them; empty for none.
    fn members(&self, path: &str) -> String;
    /// An element for a list in which there was none; its path ends in `[]`. Empty for none.
    fn element(&self, _path: &str) -> String {
        String::new()
    }
    /// What ends an escape that has begun in the text at a path, without its backslash; a space is as good as nothing.
    fn escaped(&self, _path: &str) -> &'static str {
        "u0020"
    }
}

/// What of an escape has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// Nothing, or all of it.
    No,
    /// The backslash.
    Begun,
    /// Some of the digits are missing.
    Digits,
}

/// Nulls, and no members.
pub(crate) struct Nulls;

impl Fill for Nulls {
    fn value(&self, _: &str) -> String {
        "null".into()
    }

    fn members(&self, _: &str) -> String {
        String::new()
    }
}

/// Whether something stands before the place where a list or a map was left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comma {
    /// A comma has to come first.
    Needed,
    /// The next element can follow at once.
    No,
}

impl Scanner {
    /// Octets that complete the document but for its outermost `open` maps and lists, and whether a comma is needed to go
    /// on in the innermost of these. `None` where it is malformed: nothing completes it.
    pub(crate) fn mend(&self, open: usize, fill: &impl Fill) -> Option<(Vec<u8>, Comma)> {
        if self.malformed {
            return None;
        }
        let mut out = Vec::new();
        if self.is_untouched() || self.frames.len() < open {
            return Some((out, Comma::No));
        }
        let mut expect = self.finish_token(&mut out, fill);
        let mut path = &self.path[..];
        for (frame, start) in self.frames[open..].iter().rev() {
            if matches!(expect, Expect::Key | Expect::Value) {
                // A comma was the last octet: something has to follow it.
                let missing = match frame {
                    Frame::Map => "\"\":null".to_owned(),
                    Frame::List => fill.value(path),
                };
                out.extend_from_slice(missing.as_bytes());
                expect = Expect::CommaOrEnd;
            }
            if expect == Expect::ElementOrEnd {
                out.extend_from_slice(fill.element(path).as_bytes());
            }
            path = &self.path[..*start];
            if *frame == Frame::Map {
                let members = fill.members(path);
                if !members.is_empty() && expect != Expect::KeyOrEnd {
                    out.push(b',');
                }
                out.extend_from_slice(members.as_bytes());
            }
            out.push(match frame {
                Frame::Map => b'}',
                Frame::List => b']',
            });
            expect = Expect::CommaOrEnd;
        }
        let comma = if expect == Expect::CommaOrEnd { Comma::Needed } else { Comma::No };
        Some((out, comma))
    }

    /// In the middle of an escape.
    pub(crate) fn escapes(&self) -> Escapes {
        match self.token {
            Token::Text { escape: Escape::Begun, .. } => Escapes::Begun,
            Token::Text { escape: Escape::Unicode(..), .. } => Escapes::Digits,
            Token::Text { escape: Escape::No, .. } | Token::None | Token::Number | Token::Word => Escapes::No,
        }
    }

    /// How many maps and lists are open.
    pub(crate) fn depth(&self) -> usize {
        self.frames.len()
    }

    /// Key of the outermost map whose value was begun last.
    pub(crate) fn last_key(&self) -> Option<&str> {
        let key = self.path.split(['.', '[']).next().unwrap_or_default();
        (!key.is_empty() && key != "\u{1}").then_some(key)
    }

    /// Completes what is in the middle of a token, or of a member; gives what is expected after it.
    fn finish_token(&self, out: &mut Vec<u8>, fill: &impl Fill) -> Expect {
        match self.token {
            Token::Text { is_key, escape } => {
                self.finish_text(escape, out, fill);
                out.push(b'"');
                if is_key {
                    out.extend_from_slice(b":null");
                }
                Expect::CommaOrEnd
            }
            Token::Number => {
                if !self.buffer.last().is_some_and(u8::is_ascii_digit) {
                    out.push(b'0');
                }
                Expect::CommaOrEnd
            }
            Token::Word => {
                let whole: &[u8] = match self.buffer.first() {
                    Some(b't') => b"true",
                    Some(b'f') => b"false",
                    Some(_) | None => b"null",
                };
                out.extend_from_slice(whole.get(self.buffer.len()..).unwrap_or_default());
                Expect::CommaOrEnd
            }
            Token::None => match self.expect {
                Expect::Colon => {
                    out.push(b':');
                    out.extend_from_slice(fill.value(&self.path).as_bytes());
                    Expect::CommaOrEnd
                }
                // Behind a colon; in a list it is behind a comma, and the list's own to fill.
                Expect::Value if matches!(self.frames.last(), Some((Frame::Map, _))) => {
                    out.extend_from_slice(fill.value(&self.path).as_bytes());
                    Expect::CommaOrEnd
                }
                Expect::Value
                | Expect::ElementOrEnd
                | Expect::KeyOrEnd
                | Expect::Key
                | Expect::CommaOrEnd
                | Expect::Nothing => self.expect,
            },
        }
    }

    /// An escape, half a pair, or an octet sequence of UTF-8 that is not complete.
    fn finish_text(&self, escape: Escape, out: &mut Vec<u8>, fill: &impl Fill) {
        /// Any second half does.
        const LOW: &[u8] = b"\\udc00";
        match escape {
            Escape::Begun if self.high => out.extend_from_slice(&LOW[1..]),
            Escape::Begun => out.extend_from_slice(fill.escaped(&self.path).as_bytes()),
            Escape::Unicode(4, _) if self.high => out.extend_from_slice(&LOW[2..]),
            Escape::Unicode(4, _) => out.extend_from_slice(&fill.escaped(&self.path).as_bytes()[1..]),
            // Of what begins so, a space is the first that is no control character.
            Escape::Unicode(left @ (2 | 3), 0) => out.extend_from_slice(&b"020"[3 - usize::from(left)..]),
            Escape::Unicode(3, 0xd) if self.high => out.extend_from_slice(&LOW[3..]),
            Escape::Unicode(left, value) => {
                let left = left.min(3);
                out.resize(out.len() + usize::from(left), b'0');
                let value = value << (4 * left);
                if (0xd800..0xdc00).contains(&value) {
                    out.extend_from_slice(LOW);
                }
            }
            Escape::No if self.high => out.extend_from_slice(LOW),
            Escape::No => self.finish_character(out),
        }
    }

    fn finish_character(&self, out: &mut Vec<u8>) {
        let [a, b, c] = self.tail;
        let length = |lead: u8| match lead {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        let (lead, have) = if length(c) > 1 {
            (c, 1)
        } else if length(b) > 2 {
            (b, 2)
        } else if length(a) > 3 {
            (a, 3)
        } else {
            return;
        };
        for at in have..length(lead) {
            // The second octet is bounded by the first one (RFC 3629, section 4).
            out.push(match (at, lead) {
                (1, 0xe0) => 0xa0,
                (1, 0xf0) => 0x90,
                _ => 0x80,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Deaf;
    use super::*;

    #[test]
    fn a_document_cut_at_any_octet_is_completed_to_one() {
        let text = "{\"a\" : \"x\\n\\ud83d\\ude00é😀\\u00e9\\\\\", \"b\":[1, -2.5e+3,true ,{\"c\":null}, [], {}], \"é\":{\"d\":false}} ".as_bytes();
        for cut in 1..=text.len() {
            let mut scanner = Scanner::new();
            scanner.feed(&text[..cut], &mut Deaf);
            let (end, _) = scanner.mend(0, &Nulls).unwrap();
            let whole = [&text[..cut], &end].concat();
            let parsed = serde_json::from_slice::<serde_json::Value>(&whole);
            assert!(parsed.is_ok(), "{cut}: {} {parsed:?}", String::from_utf8_lossy(&whole));
        }
    }

    #[test]
    fn the_outermost_stay_open_and_a_comma_is_asked_for_where_it_is_needed() {
        for (text, end, comma) in [
            ("[", "", Comma::No),
            ("[{\"a\":1", "}", Comma::Needed),
            ("[{}", "", Comma::Needed),
            ("[{},", "", Comma::No),
            ("[{},{\"a\":[1,", "null]}", Comma::Needed),
            ("", "", Comma::No),
        ] {
            let mut scanner = Scanner::new();
            scanner.feed(text.as_bytes(), &mut Deaf);
            assert_eq!(scanner.mend(1, &Nulls), Some((end.into(), comma)), "{text}");
        }
        let mut scanner = Scanner::new();
        scanner.feed(b"{]", &mut Deaf);
        assert_eq!(scanner.mend(0, &Nulls), None);
    }
}
