//! A structural reader of JSON (RFC 8259): finds scalars and where they stand, and holds nothing.
//!
//! ```text
//! {"usage":{"input_tokens":7}}   ──▶   scalar("usage.input_tokens", Number("7"))
//! ```
//!
//! Bytes come in any split. What is kept is the path to the present place and the beginning of one scalar, so that a
//! document of any size is read with the same few hundred bytes: usage stands at the *end* of a body that may carry
//! megabytes of tool arguments before it. Text that merely looks like usage, inside a string, is a string.
//!
//! *Must never* give a scalar of a document that is malformed up to that place.

mod members;
mod mend;
pub(crate) mod runs;

use std::ops::Range;

pub(crate) use members::members;
pub(crate) use mend::{Comma, Escapes, Fill, Nulls};

/// Longest key that is told from others; a longer one matches nothing.
const KEY_BYTES_MAX: usize = 64;
/// Longest beginning of a string that is given.
pub(crate) const PREFIX_BYTES_MAX: usize = 64;
/// Longest number; a longer one is not a count of tokens.
const NUMBER_BYTES_MAX: usize = 32;
/// Deepest nesting; deeper is malformed for us, as it is for most readers.
const DEPTH_MAX: usize = 128;

/// A value that is not a map or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    /// As it is written.
    Number(&'a str),
    /// Its beginning (escapes undone, at most [`PREFIX_BYTES_MAX`] octets) and how many octets it has in all.
    Text(&'a str, u64),
    /// `true` or `false`.
    Flag(bool),
    /// `null`
    Null,
}

/// What hears of a document. A span counts octets from the document's beginning.
pub(crate) trait Hear {
    /// A scalar at a path: keys with `.` between them, `[]` for an element of a list.
    fn scalar(&mut self, path: &str, value: Scalar<'_>, at: Range<usize>);
    /// A part of a value's text as it comes, escapes undone (a line break is a space). It is all parts together that
    /// [`scalar`](Self::scalar) gives the beginning of.
    fn text(&mut self, _path: &str, _part: &[u8]) {}
    /// A key has ended; its value follows.
    fn key(&mut self, _path: &str) {}
    /// A map begins behind its brace, which stands before `_behind`.
    fn map_begins(&mut self, _path: &str, _behind: usize) {}
    /// A list begins.
    fn list_begins(&mut self, _path: &str) {}
    /// A map has ended; its scalars have all been given.
    fn map_ends(&mut self, _path: &str) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Map,
    List,
}

/// Hears nothing.
pub(crate) struct Deaf;

impl Hear for Deaf {
    fn scalar(&mut self, _: &str, _: Scalar<'_>, _: Range<usize>) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    /// A value, or `]`.
    ElementOrEnd,
    /// A key, or `}`.
    KeyOrEnd,
    Key,
    Colon,
    /// `,` or the end of the map or list.
    CommaOrEnd,
    /// The document is complete.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    None,
    Text { is_key: bool, escape: Escape },
    Number,
    Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    No,
    Begun,
    /// So many digits of `\u` to come, and what they say so far.
    Unicode(u8, u16),
}

/// Reads one document after another: [`Scanner::reset`] begins the next.
#[derive(Clone, Debug)]
pub(crate) struct Scanner {
    frames: Vec<(Frame, usize)>,
    path: String,
    expect: Expect,
    token: Token,
    buffer: Vec<u8>,
    /// Octets of the present string.
    length: u64,
    /// Octets read of this document, and where the present token began.
    read: usize,
    began: usize,
    malformed: bool,
    /// How the present string ends, as far as that is of its coding: the last octets, and half a pair.
    tail: [u8; 3],
    high: bool,
}

impl Scanner {
    pub(crate) fn new() -> Scanner {
        Scanner {
            frames: Vec::new(),
            path: String::new(),
            expect: Expect::Value,
            token: Token::None,
            buffer: Vec::new(),
            length: 0,
            read: 0,
            began: 0,
            malformed: false,
            tail: [0; 3],
            high: false,
        }
    }

    /// Forgets everything; the next byte begins a document.
    pub(crate) fn reset(&mut self) {
        self.frames.clear();
        self.path.clear();
        self.buffer.clear();
        self.expect = Expect::Value;
        self.token = Token::None;
        self.read = 0;
        self.malformed = false;
    }

    /// A whole, well-formed document was read. A number at the top ends with the document.
    pub(crate) fn is_complete(&self) -> bool {
        !self.malformed && self.expect == Expect::Nothing && self.token == Token::None
    }

    /// Nothing but white space was read.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.malformed && self.expect == Expect::Value && self.frames.is_empty() && self.token == Token::None
    }

    /// Reads on.
    pub(crate) fn feed(&mut self, bytes: &[u8], hear: &mut impl Hear) {
        let base = self.read;
        let mut rest = bytes;
        while let Some((&byte, next)) = rest.split_first() {
            if self.malformed {
                return;
            }
            self.read = base + bytes.len() - rest.len();
            match self.token {
                Token::Text { is_key, escape: Escape::No } => {
                    // Most of a body is text: it is passed over in one step.
                    let end = runs::text(rest);
                    self.text(&rest[..end], is_key, hear);
                    rest = &rest[end..];
                    if let Some((&byte, next)) = rest.split_first() {
                        self.read = base + bytes.len() - next.len();
                        self.text_ends(byte, is_key, hear);
                        rest = next;
                    }
                }
                Token::Text { is_key, escape } => {
                    self.escaped(byte, is_key, escape, hear);
                    rest = next;
                }
                Token::Number if in_number(byte) => {
                    self.short(byte);
                    rest = next;
                }
                Token::Word if byte.is_ascii_lowercase() => {
                    self.short(byte);
                    rest = next;
                }
                // Ended by what follows it, which is read again.
                Token::Number | Token::Word => self.held_token_ends(hear),
                Token::None => rest = self.structure(byte, next, hear),
            }
        }
        self.read = base + bytes.len();
    }

    /// The document's bytes have ended: a number or a word at the top is complete now.
    pub(crate) fn end(&mut self, hear: &mut impl Hear) {
        if !self.malformed && matches!(self.token, Token::Number | Token::Word) {
            self.held_token_ends(hear);
        }
    }

    /// A string begins. Most are there as a whole, without an escape: they are heard as they stand, and nothing of them is
    /// kept. Gives what follows what was read.
    fn text_begins<'a>(&mut self, is_key: bool, behind: &'a [u8], hear: &mut impl Hear) -> &'a [u8] {
        let (text, rest) = behind.split_at(runs::text(behind));
        let Some((b'"', rest)) = rest.split_first() else {
            self.begins(Token::Text { is_key, escape: Escape::No });
            return behind;
        };
        self.began = self.read;
        self.read += text.len() + 2;
        if is_key {
            self.key_ends(text, hear);
            if let Some((b':', rest)) = rest.split_first() {
                self.expect = Expect::Value;
                return rest;
            }
        } else {
            if !text.is_empty() {
                hear.text(&self.path, text);
            }
            self.text_value_ends(text, text.len() as u64, hear);
        }
        rest
    }

    /// A number or a word begins: the same.
    fn short_begins<'a>(&mut self, token: Token, byte: u8, behind: &'a [u8], hear: &mut impl Hear) -> &'a [u8] {
        let inside = |byte: u8| if token == Token::Number { in_number(byte) } else { byte.is_ascii_lowercase() };
        let mut held = [byte; NUMBER_BYTES_MAX];
        for (at, next) in behind.iter().take(NUMBER_BYTES_MAX - 1).enumerate() {
            if !inside(*next) {
                self.began = self.read;
                self.read += at + 1;
                self.token_ends(token, &held[..=at], hear);
                return &behind[at..];
            }
            held[at + 1] = *next;
        }
        // Without what ends it, it may go on.
        self.begins(token);
        self.buffer.push(byte);
        behind
    }

    fn text(&mut self, part: &[u8], is_key: bool, hear: &mut impl Hear) {
        if part.is_empty() {
            return;
        }
        self.length += part.len() as u64;
        self.high = false;
        for byte in &part[part.len().saturating_sub(3)..] {
            self.tail = [self.tail[1], self.tail[2], *byte];
        }
        if !is_key {
            hear.text(&self.path, part);
        }
        let room = KEY_BYTES_MAX + 1 - self.buffer.len().min(KEY_BYTES_MAX + 1);
        self.buffer.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn text_ends(&mut self, byte: u8, is_key: bool, hear: &mut impl Hear) {
        match byte {
            b'\\' => self.token = Token::Text { is_key, escape: Escape::Begun },
            b'"' => {
                self.token = Token::None;
                let held = std::mem::take(&mut self.buffer);
                if is_key {
                    self.key_ends(&held, hear);
                } else {
                    self.text_value_ends(&held, self.length, hear);
                }
                self.buffer = held;
            }
            _ => self.malformed = true,
        }
    }

    /// `key` is all of it, or more of it than is told from others.
    fn key_ends(&mut self, key: &[u8], hear: &mut impl Hear) {
        self.expect = Expect::Colon;
        let known = key.len() <= KEY_BYTES_MAX && runs::without(key, b'.', b'[');
        let key = known.then(|| std::str::from_utf8(key).ok()).flatten();
        if !self.path.is_empty() {
            self.path.push('.');
        }
        // Whatever else it is, it is none of ours.
        self.path.push_str(key.unwrap_or("\u{1}"));
        hear.key(&self.path);
    }

    /// `text` is all of it, or more of it than is given.
    fn text_value_ends(&mut self, text: &[u8], length: u64, hear: &mut impl Hear) {
        let text = &text[..text.len().min(PREFIX_BYTES_MAX)];
        let prefix = match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(&text[..e.valid_up_to()]).unwrap_or_default(),
        };
        hear.scalar(&self.path, Scalar::Text(prefix, length), self.began..self.read);
        self.value_ends();
    }

    fn escaped(&mut self, byte: u8, is_key: bool, escape: Escape, hear: &mut impl Hear) {
        let mut next = Escape::No;
        match (escape, byte) {
            (Escape::Begun, b'u') => next = Escape::Unicode(4, 0),
            (Escape::Begun, b'"' | b'\\' | b'/') => self.text(&[byte], is_key, hear),
            (Escape::Begun, b'b' | b'f' | b'n' | b'r' | b't') => self.text(b" ", is_key, hear),
            (Escape::Unicode(left, value), byte) if byte.is_ascii_hexdigit() => {
                let digit = (byte as char).to_digit(16).unwrap_or_default() as u16;
                let value = value << 4 | digit;
                match left {
                    1 => {
                        // Half a pair has no character of its own: a mark stands for it.
                        let mut octets = [0; 4];
                        let c = char::from_u32(u32::from(value)).unwrap_or('\u{fffd}');
                        self.text(c.encode_utf8(&mut octets).as_bytes(), is_key, hear);
                        self.high = (0xd800..0xdc00).contains(&value);
                    }
                    left => next = Escape::Unicode(left - 1, value),
                }
            }
            (Escape::Begun | Escape::Unicode(..) | Escape::No, _) => self.malformed = true,
        }
        self.token = Token::Text { is_key, escape: next };
    }

    fn short(&mut self, byte: u8) {
        if self.buffer.len() >= NUMBER_BYTES_MAX {
            self.malformed = true;
            return;
        }
        self.buffer.push(byte);
    }

    fn held_token_ends(&mut self, hear: &mut impl Hear) {
        let held = std::mem::take(&mut self.buffer);
        self.token_ends(self.token, &held, hear);
        self.buffer = held;
    }

    /// A number or a word ends before what is read now.
    fn token_ends(&mut self, token: Token, octets: &[u8], hear: &mut impl Hear) {
        let number = if token == Token::Number { std::str::from_utf8(octets).unwrap_or_default() } else { "" };
        let value = match (token, octets) {
            (Token::Number, _) if is_number(number) => Scalar::Number(number),
            (Token::Word, b"true") => Scalar::Flag(true),
            (Token::Word, b"false") => Scalar::Flag(false),
            (Token::Word, b"null") => Scalar::Null,
            (Token::Number | Token::Word | Token::None | Token::Text { .. }, _) => {
                self.malformed = true;
                return;
            }
        };
        hear.scalar(&self.path, value, self.began..self.read);
        self.token = Token::None;
        self.value_ends();
    }

    /// Reads an octet outside of any token, or the token that it begins. Gives what follows.
    fn structure<'a>(&mut self, byte: u8, behind: &'a [u8], hear: &mut impl Hear) -> &'a [u8] {
        match (byte, self.expect) {
            (b' ' | b'\t' | b'\r' | b'\n', _) => {}
            (b'"', Expect::Value | Expect::ElementOrEnd) => return self.text_begins(false, behind, hear),
            (b'"', Expect::Key | Expect::KeyOrEnd) => return self.text_begins(true, behind, hear),
            (b'-' | b'0'..=b'9', Expect::Value | Expect::ElementOrEnd) => {
                return self.short_begins(Token::Number, byte, behind, hear);
            }
            (b't' | b'f' | b'n', Expect::Value | Expect::ElementOrEnd) => {
                return self.short_begins(Token::Word, byte, behind, hear);
            }
            (b'{', Expect::Value | Expect::ElementOrEnd) => {
                hear.map_begins(&self.path, self.read + 1);
                self.opens(Frame::Map);
            }
            (b'[', Expect::Value | Expect::ElementOrEnd) => {
                hear.list_begins(&self.path);
                self.opens(Frame::List);
            }
            (b':', Expect::Colon) => self.expect = Expect::Value,
            (b',', Expect::CommaOrEnd) => {
                self.expect = match self.frames.last() {
                    Some((Frame::Map, _)) => Expect::Key,
                    Some((Frame::List, _)) => {
                        self.path.push_str("[]");
                        Expect::Value
                    }
                    None => Expect::Nothing,
                }
            }
            (b'}', Expect::CommaOrEnd | Expect::KeyOrEnd) => self.closes(Frame::Map, hear),
            (b']', Expect::CommaOrEnd) => self.closes(Frame::List, hear),
            (b']', Expect::ElementOrEnd) => {
                let start = self.frames.last().map_or(0, |(_, start)| *start);
                self.path.truncate(start);
                self.closes(Frame::List, hear);
            }
            _ => self.malformed = true,
        }
        behind
    }

    fn begins(&mut self, token: Token) {
        self.buffer.clear();
        self.length = 0;
        self.tail = [0; 3];
        self.high = false;
        self.began = self.read;
        self.token = token;
    }

    fn opens(&mut self, frame: Frame) {
        if self.frames.len() >= DEPTH_MAX {
            self.malformed = true;
            return;
        }
        self.frames.push((frame, self.path.len()));
        self.expect = match frame {
            Frame::Map => Expect::KeyOrEnd,
            Frame::List => {
                self.path.push_str("[]");
                Expect::ElementOrEnd
            }
        };
    }

    fn closes(&mut self, frame: Frame, hear: &mut impl Hear) {
        match self.frames.pop() {
            Some((open, start)) if open == frame => {
                self.path.truncate(start);
                if frame == Frame::Map {
                    hear.map_ends(&self.path);
                }
                self.value_ends();
            }
            Some(_) | None => self.malformed = true,
        }
    }

    /// Back to the path of what holds the value.
    fn value_ends(&mut self) {
        match self.frames.last() {
            Some((_, start)) => {
                self.path.truncate(*start);
                self.expect = Expect::CommaOrEnd;
            }
            None => self.expect = Expect::Nothing,
        }
    }
}

fn in_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
}

/// RFC 8259, section 6: an integer, perhaps a fraction, perhaps an exponent.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = text.strip_prefix('-').unwrap_or(text);
    let integer = digits(rest);
    if integer == 0 || (integer > 1 && rest.starts_with('0')) {
        return false;
    }
    let mut rest = &rest[integer..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let length = digits(exponent);
        return length > 0 && length == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Heard(Vec<(String, String)>);

    impl Hear for Heard {
        fn scalar(&mut self, path: &str, value: Scalar<'_>, _: Range<usize>) {
            let value = match value {
                Scalar::Number(text) => text.to_owned(),
                Scalar::Text(prefix, length) => format!("{prefix:?}/{length}"),
                Scalar::Flag(flag) => flag.to_string(),
                Scalar::Null => "null".into(),
            };
            self.0.push((path.to_owned(), value));
        }
    }

    fn read(text: &[u8]) -> (Heard, bool) {
        let (mut heard, mut scanner) = (Heard::default(), Scanner::new());
        scanner.feed(text, &mut heard);
        scanner.end(&mut heard);
        (heard, scanner.is_complete())
    }

    #[test]
    fn scalars_come_with_their_paths() {
        let (heard, complete) = read(br#" {"a":{"b":[1,{"c":"x"},[ ]],"d":true}, "\u0065":-2.5e3} "#);
        let want = [("a.b[]", "1"), ("a.b[].c", "\"x\"/1"), ("a.d", "true"), ("e", "-2.5e3")];
        assert_eq!(heard.0.iter().map(|(p, v)| (p.as_str(), v.as_str())).collect::<Vec<_>>(), want);
        assert!(complete);
    }

    #[test]
    fn what_stands_in_a_string_is_a_string() {
        let (heard, _) = read(br#"{"text":"{\"usage\":{\"input_tokens\":9}}"}"#);
        assert_eq!(heard.0, [("text".to_owned(), "\"{\\\"usage\\\":{\\\"input_tokens\\\":9}}\"/28".to_owned())]);
    }

    #[test]
    fn a_key_that_looks_like_a_path_is_none() {
        let (heard, _) = read(br#"{"usage.input_tokens":9,"usage[]":[1]}"#);
        assert!(heard.0.iter().all(|(path, _)| !path.starts_with("usage")), "{heard:?}");
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~é\u{1F600}\n\"\\\\]{0,60}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,6}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn leaves(value: &Value, path: &str, out: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| leaves(item, &format!("{path}[]"), out)),
            Value::Object(map) => {
                for (key, item) in map {
                    let dot = if path.is_empty() { "" } else { "." };
                    leaves(item, &format!("{path}{dot}{key}"), out);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push(path.to_owned()),
        }
    }

    #[test]
    fn a_scalar_says_where_it_stands() {
        struct At(Vec<std::ops::Range<usize>>, Vec<usize>);
        impl Hear for At {
            fn scalar(&mut self, _: &str, _: Scalar<'_>, at: Range<usize>) {
                self.0.push(at);
            }
            fn map_begins(&mut self, _: &str, behind: usize) {
                self.1.push(behind);
            }
        }
        let text = br#" {"a": 12 ,"b":{"c":"x\"y"},"d":null}"#;
        for cut in 0..text.len() {
            let (mut at, mut scanner) = (At(Vec::new(), Vec::new()), Scanner::new());
            scanner.feed(&text[..cut], &mut at);
            scanner.feed(&text[cut..], &mut at);
            let found: Vec<&[u8]> = at.0.iter().map(|span| &text[span.clone()]).collect();
            assert_eq!(found, [&b"12"[..], br#""x\"y""#, b"null"], "{cut}");
            assert_eq!(at.1.iter().map(|behind| text[behind - 1]).collect::<Vec<_>>(), b"{{", "{cut}");
        }
    }

    proptest! {
        #[test]
        fn every_leaf_is_heard_once_however_the_bytes_are_split(value in value(), cut in 0_usize..400) {
            let text = serde_json::to_vec(&value).unwrap();
            let (whole, complete) = read(&text);
            let mut want = Vec::new();
            leaves(&value, "", &mut want);
            prop_assert!(complete);
            prop_assert_eq!(whole.0.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), want);
            let (mut heard, mut scanner) = (Heard::default(), Scanner::new());
            let (left, right) = text.split_at(cut.min(text.len()));
            scanner.feed(left, &mut heard);
            scanner.feed(right, &mut heard);
            scanner.end(&mut heard);
            prop_assert_eq!(heard, whole);
        }

        #[test]
        fn what_a_strict_reader_refuses_is_never_complete(text in "[\\[\\]{}:,\"0-9.eE+\\-truefalsn ]{0,24}") {
            let strict = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            let (_, complete) = read(text.as_bytes());
            prop_assert!(strict || !complete, "{}", text);
        }
    }
}
