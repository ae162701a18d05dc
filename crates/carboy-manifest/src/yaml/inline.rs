//! What stands on one line: keys, scalars, flow lists and maps.

use std::cell::Cell;
use std::collections::HashSet;

use super::{DEPTH_MAX, Entry, Node, SyntaxError, SyntaxErrorKind, Value, column};
use crate::diagnostic::{Position, excerpt};

/// Does the line begin with a key (a quoted or plain text followed by a colon)?
pub(super) fn begins_with_key(text: &str) -> bool {
    matches!(split_key(text), Ok(_) | Err((SyntaxErrorKind::MergeKey, _)))
}

/// Splits `key: rest`. Errors come with the number of characters before them.
pub(super) fn split_key(text: &str) -> Result<(String, &str), (SyntaxErrorKind, usize)> {
    let chars_to = |byte: usize| text[..byte].chars().count();
    if text.starts_with(['"', '\'']) {
        let mut cursor = Cursor::new(text, Position::START);
        let key = cursor.quoted().map_err(|e| (e.kind, chars_to(cursor.byte)))?;
        let rest = text[cursor.byte..].trim_start_matches(' ');
        return match rest.strip_prefix(':') {
            Some(rest) if rest.is_empty() || rest.starts_with([' ', '\t']) => Ok((key, rest)),
            Some(_) | None => Err((SyntaxErrorKind::ExpectedKey, chars_to(cursor.byte))),
        };
    }
    if let Some(kind) = refused_start(text) {
        return Err((kind, 0));
    }
    let end = plain_key_end(text).ok_or((SyntaxErrorKind::ExpectedKey, 0))?;
    let key = text[..end].trim_end_matches([' ', '\t']);
    match key {
        "" => Err((SyntaxErrorKind::ExpectedKey, 0)),
        "<<" => Err((SyntaxErrorKind::MergeKey, 0)),
        key => Ok((key.to_owned(), &text[end + 1..])),
    }
}

/// The byte of the first colon that ends a key, when none of a comment comes before it.
fn plain_key_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        let before_space = matches!(bytes.get(i + 1), None | Some(b' ' | b'\t'));
        if *b == b':' && before_space {
            return Some(i);
        }
        if *b == b'#' && i > 0 && matches!(bytes[i - 1], b' ' | b'\t') {
            return None;
        }
    }
    None
}

/// A whole value and the number of nodes in it (at least 1). `text` has no space at its ends.
pub(super) fn value(text: &str, at: Position, depth: usize, room: usize) -> Result<(Value, usize), SyntaxError> {
    let mut cursor = Cursor::new(text, at);
    let mut nodes = 0;
    let value = match text.chars().next() {
        Some('"' | '\'') => Value::Text(cursor.quoted()?),
        Some('[' | '{') => cursor.flow(depth + 1, &mut nodes, room)?.value,
        Some(_) | None => {
            if let Some(kind) = refused_start(text) {
                return Err(cursor.error(kind));
            }
            let plain = without_comment(text);
            if let Some(byte) = plain_key_end(plain) {
                cursor.byte = byte;
                return Err(cursor.error(SyntaxErrorKind::ColonInText));
            }
            cursor.byte = text.len();
            resolve(plain).map_err(|kind| SyntaxError { kind, at })?
        }
    };
    let rest = &text[cursor.byte..];
    let after = rest.trim_start_matches([' ', '\t']);
    let comment = after.starts_with('#') && after.len() < rest.len();
    if after.is_empty() || comment { Ok((value, nodes.max(1))) } else { Err(cursor.error(SyntaxErrorKind::AfterValue)) }
}

fn without_comment(text: &str) -> &str {
    let cut = text.match_indices('#').find(|(i, _)| text[..*i].ends_with([' ', '\t']));
    text[..cut.map_or(text.len(), |(i, _)| i)].trim_end_matches([' ', '\t'])
}

/// What plain text may not begin with, by name.
fn refused_start(text: &str) -> Option<SyntaxErrorKind> {
    let mut chars = text.chars();
    let first = chars.next()?;
    let alone = matches!(chars.next(), None | Some(' ' | '\t'));
    match first {
        '&' => Some(SyntaxErrorKind::Anchor),
        '*' => Some(SyntaxErrorKind::Alias),
        '!' => Some(SyntaxErrorKind::Tag),
        '|' | '>' => Some(SyntaxErrorKind::BlockScalar),
        '?' if alone => Some(SyntaxErrorKind::ComplexKey),
        '-' if alone => Some(SyntaxErrorKind::Reserved('-')),
        ':' if alone => Some(SyntaxErrorKind::Reserved(':')),
        '%' | '@' | '`' | ',' | ']' | '}' | '[' | '{' => Some(SyntaxErrorKind::Reserved(first)),
        _ => None,
    }
}

/// Plain text as the type that every YAML reader agrees on, or an error.
fn resolve(text: &str) -> Result<Value, SyntaxErrorKind> {
    let ambiguous = |as_what| {
        let shown = excerpt(text);
        Err(SyntaxErrorKind::Ambiguous { text: shown.trim_matches('`').to_owned(), as_what })
    };
    match text {
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        "null" => return Ok(Value::Null),
        "True" | "TRUE" | "False" | "FALSE" => return ambiguous("a boolean"),
        "~" | "Null" | "NULL" => return ambiguous("null"),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if decimal && (text == "0" || !digits.starts_with('0')) {
        let number = text.parse().map_err(|_| SyntaxErrorKind::NumberRange(excerpt(text)))?;
        return Ok(Value::Int(number));
    }
    if looks_like_a_number(text) { ambiguous("a number") } else { Ok(Value::Text(text.to_owned())) }
}

/// A number in YAML 1.1 or 1.2 in any spelling other than plain decimal. (`1:30` and dates are not numbers in YAML
/// 1.2 and stay text.)
fn looks_like_a_number(text: &str) -> bool {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text).to_ascii_lowercase();
    let based = |prefix, radix| {
        let digits = body.strip_prefix(prefix);
        digits.is_some_and(|d: &str| !d.is_empty() && d.chars().all(|c| c == '_' || c.is_digit(radix)))
    };
    if matches!(body.as_str(), ".inf" | ".nan") || based("0x", 16) || based("0o", 8) || based("0b", 2) {
        return true;
    }
    let (mantissa, exponent) = match body.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (body.as_str(), None),
    };
    let exponent_fits = exponent.is_none_or(|e| {
        let digits = e.strip_prefix(['+', '-']).unwrap_or(e);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    });
    exponent_fits
        && mantissa.bytes().any(|b| b.is_ascii_digit())
        && mantissa.bytes().all(|b| b.is_ascii_digit() || b == b'_' || b == b'.')
        && mantissa.bytes().filter(|b| *b == b'.').count() <= 1
        && !mantissa.starts_with('_')
}

struct Cursor<'a> {
    text: &'a str,
    byte: usize,
    /// Position of `text`'s first character.
    at: Position,
    /// `(byte, characters before it)` of the last position that was asked for: a line of many values is counted once.
    counted: Cell<(usize, usize)>,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str, at: Position) -> Self {
        Cursor { text, byte: 0, at, counted: Cell::new((0, 0)) }
    }
}

impl Cursor<'_> {
    fn position(&self) -> Position {
        let (byte, before) = match self.counted.get() {
            (byte, _) if byte > self.byte => (0, 0),
            known => known,
        };
        let chars = before + self.text[byte..self.byte].chars().count();
        self.counted.set((self.byte, chars));
        column(self.at.line, self.at.column as usize - 1 + chars)
    }

    fn error(&self, kind: SyntaxErrorKind) -> SyntaxError {
        SyntaxError { kind, at: self.position() }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.byte..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.byte += c.len_utf8();
        Some(c)
    }

    fn spaces(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.byte += 1;
        }
    }

    /// Quoted text, from its opening quote to behind its closing one.
    fn quoted(&mut self) -> Result<String, SyntaxError> {
        let start = self.position();
        let unclosed = SyntaxError { kind: SyntaxErrorKind::UnclosedQuote, at: start };
        let quote = self.take();
        let mut out = String::new();
        loop {
            match self.take() {
                None => return Err(unclosed),
                Some('\'') if quote == Some('\'') => {
                    if self.peek() != Some('\'') {
                        return Ok(out);
                    }
                    self.byte += 1;
                    out.push('\'');
                }
                Some('"') if quote == Some('"') => return Ok(out),
                Some('\\') if quote == Some('"') => out.push(self.escape()?),
                Some(c) => out.push(c),
            }
        }
    }

    /// What follows a backslash. NUL has no spelling: no path, variable or header may hold it.
    fn escape(&mut self) -> Result<char, SyntaxError> {
        let from = self.byte;
        let simple = match self.take() {
            Some(c @ ('\\' | '"' | '/')) => Some(c),
            Some('n') => Some('\n'),
            Some('t') => Some('\t'),
            Some('r') => Some('\r'),
            Some('x') => self.hex(2),
            Some('u') => self.hex(4),
            Some('U') => self.hex(8),
            Some(_) | None => None,
        };
        simple.filter(|c| *c != '\0').ok_or_else(|| {
            let shown = self.text[from..].chars().take(9).take_while(char::is_ascii_alphanumeric).collect();
            self.error(SyntaxErrorKind::Escape(shown))
        })
    }

    fn hex(&mut self, digits: usize) -> Option<char> {
        let hex = self.text.get(self.byte..self.byte + digits)?;
        if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.byte += digits;
        char::from_u32(u32::from_str_radix(hex, 16).ok()?)
    }

    /// A node within a flow list or map, or one itself.
    fn flow(&mut self, depth: usize, nodes: &mut usize, room: usize) -> Result<Node, SyntaxError> {
        let at = self.position();
        *nodes += 1;
        if *nodes > room {
            return Err(self.error(SyntaxErrorKind::TooManyNodes));
        }
        let value = match self.peek() {
            Some('[' | '{') if depth > DEPTH_MAX => return Err(self.error(SyntaxErrorKind::TooDeep)),
            Some('[') => self.flow_list(depth, nodes, room)?,
            Some('{') => self.flow_map(depth, nodes, room)?,
            Some('"' | '\'') => Value::Text(self.quoted()?),
            Some(_) | None => {
                let plain = self.flow_plain()?;
                resolve(plain).map_err(|kind| SyntaxError { kind, at })?
            }
        };
        Ok(Node { value, at })
    }

    fn flow_list(&mut self, depth: usize, nodes: &mut usize, room: usize) -> Result<Value, SyntaxError> {
        self.byte += 1;
        let mut items = Vec::new();
        loop {
            self.spaces();
            match self.peek() {
                Some(']') => {
                    self.byte += 1;
                    return Ok(Value::List(items));
                }
                Some('#') | None => return Err(self.error(SyntaxErrorKind::UnclosedFlow(']'))),
                Some(_) => items.push(self.flow(depth + 1, nodes, room)?),
            }
            self.flow_comma(']')?;
        }
    }

    fn flow_map(&mut self, depth: usize, nodes: &mut usize, room: usize) -> Result<Value, SyntaxError> {
        self.byte += 1;
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = HashSet::new();
        loop {
            self.spaces();
            let key_at = self.position();
            let key = match self.peek() {
                Some('}') => {
                    self.byte += 1;
                    return Ok(Value::Map(entries));
                }
                Some('#') | None => return Err(self.error(SyntaxErrorKind::UnclosedFlow('}'))),
                Some('"' | '\'') => self.quoted()?,
                Some(_) => self.flow_plain()?.to_owned(),
            };
            self.spaces();
            match self.peek() {
                Some(':') => self.byte += 1,
                Some('#') | None => return Err(self.error(SyntaxErrorKind::UnclosedFlow('}'))),
                Some(_) => {
                    return Err(SyntaxError { kind: SyntaxErrorKind::FlowExpected("`key: value`"), at: key_at });
                }
            }
            self.spaces();
            if key == "<<" {
                return Err(SyntaxError { kind: SyntaxErrorKind::MergeKey, at: key_at });
            }
            if !seen.insert(key.clone()) {
                let first_line = key_at.line;
                return Err(SyntaxError { kind: SyntaxErrorKind::DuplicateKey { key, first_line }, at: key_at });
            }
            let value = self.flow(depth + 1, nodes, room)?;
            entries.push(Entry { key, key_at, value });
            self.flow_comma('}')?;
        }
    }

    /// After an item: a comma, or the closing bracket still to come.
    fn flow_comma(&mut self, close: char) -> Result<(), SyntaxError> {
        self.spaces();
        match self.peek() {
            Some(',') => self.byte += 1,
            Some(c) if c == close => {}
            Some('#') | None => return Err(self.error(SyntaxErrorKind::UnclosedFlow(close))),
            Some(_) => return Err(self.error(SyntaxErrorKind::FlowExpected("`,` or the closing bracket"))),
        }
        Ok(())
    }

    /// Plain text up to what ends it within brackets.
    fn flow_plain(&mut self) -> Result<&str, SyntaxError> {
        if let Some(kind) = refused_start(&self.text[self.byte..]) {
            return Err(self.error(kind));
        }
        // `[?a]` is a map to YAML 1.1 and a text to 1.2; `[::1]` is an error to one of them.
        if let Some(first @ ('?' | ':')) = self.peek() {
            return Err(self.error(SyntaxErrorKind::Reserved(first)));
        }
        let rest = &self.text[self.byte..];
        let bytes = rest.as_bytes();
        let ends = |(i, b): (usize, &u8)| match b {
            b',' | b'[' | b']' | b'{' | b'}' => true,
            b':' => matches!(bytes.get(i + 1), None | Some(b' ' | b'\t' | b',' | b'[' | b']' | b'{' | b'}')),
            b'#' => i > 0 && matches!(bytes[i - 1], b' ' | b'\t'),
            _ => false,
        };
        let end = bytes.iter().enumerate().position(ends).unwrap_or(rest.len());
        let plain = rest[..end].trim_end_matches([' ', '\t']);
        if plain.is_empty() {
            return Err(self.error(SyntaxErrorKind::FlowExpected("a value")));
        }
        let from = self.byte;
        self.byte += plain.len();
        Ok(&self.text[from..from + plain.len()])
    }
}
