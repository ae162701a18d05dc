//! Placeholders in a body: JSON, a form of either kind, or any other text.
//!
//! *Must never* lift one out of a part of the body that the route does not name.

use std::ops::Range;

use carboy_core::secret::{Secret, SecretText};
use http::header::{self, HeaderMap};

use super::multipart::Boundary;
use super::spans::{json_units, percent, percent_units, plain, spans};

/// How a body is written, as far as its type says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Writing {
    /// JSON, also one document a line.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `multipart/form-data`.
    Multipart(Boundary),
    /// Of parts that cannot be told for sure, or of another kind: no place for any.
    Sealed,
    /// Markup, in which a few characters are names.
    Xml,
    /// Anything else: as it stands.
    #[default]
    Other,
}

impl Writing {
    pub(super) fn of(headers: &HeaderMap) -> Writing {
        let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
        let (first, second) = (kinds.next().map_or(Ok(""), |value| value.to_str()), kinds.next());
        let (Ok(all), None) = (first, second) else { return Writing::Sealed };
        let all_lower = all.to_ascii_lowercase();
        match all_lower.split(';').next().unwrap_or_default().trim() {
            "application/x-www-form-urlencoded" => Writing::Form,
            "multipart/form-data" => Boundary::of(all).map_or(Writing::Sealed, Writing::Multipart),
            // Wherever it stands, somebody may take it for the kind.
            _ if all_lower.contains("multipart/") => Writing::Sealed,
            kind if kind.ends_with("json") || kind.ends_with("ndjson") => Writing::Json,
            kind if kind.ends_with("xml") => Writing::Xml,
            _ => Writing::Other,
        }
    }

    /// Where `wanted` stands: in the values under `name`, or anywhere. A text of no known parts has no names.
    pub(super) fn spans(&self, body: &[u8], name: Option<&str>, wanted: &[u8]) -> Vec<Range<usize>> {
        match (self, name) {
            (Writing::Json, name) => of_strings(body, name, wanted),
            (Writing::Form, name) => of_pairs(body, name, wanted),
            (Writing::Multipart(boundary), name) => boundary.spans(body, name, wanted),
            (Writing::Xml | Writing::Other, None) => spans(plain(body), wanted),
            (Writing::Xml | Writing::Other, Some(_)) | (Writing::Sealed, _) => Vec::new(),
        }
    }

    /// The value as such a body holds it.
    pub(super) fn written(&self, value: &str) -> SecretText {
        match self {
            Writing::Json => json(value),
            Writing::Form => percent(value),
            Writing::Xml => xml(value),
            Writing::Multipart(_) | Writing::Sealed | Writing::Other => Secret::new(value.to_owned()),
        }
    }
}

/// Within `name=value` pairs with `&` or `;` between them: in the values under `name`, or in all.
pub(super) fn of_pairs(text: &[u8], name: Option<&str>, wanted: &[u8]) -> Vec<Range<usize>> {
    let plus = if wanted.contains(&b' ') && !wanted.contains(&b'+') { b' ' } else { b'+' };
    let (mut found, mut at) = (Vec::new(), 0);
    for pair in text.split(|b| matches!(b, b'&' | b';')) {
        let value = pair.iter().position(|b| *b == b'=').map_or(pair.len(), |equals| equals + 1);
        let key = &pair[..value.saturating_sub(1).min(pair.len())];
        let is_named = |name: &str| percent_units(key, 0, b' ').map(|(byte, _)| byte).eq(name.bytes());
        if name.is_none_or(is_named) {
            found.extend(spans(percent_units(&pair[value..], at + value, plus), wanted));
        }
        at += pair.len() + 1;
    }
    found
}

/// Within the strings of JSON: in those that are the value of `name`, or in all.
fn of_strings(text: &[u8], name: Option<&str>, wanted: &[u8]) -> Vec<Range<usize>> {
    let (mut found, mut at) = (Vec::new(), 0);
    let mut is_value_of_name = false;
    while let Some(open) = memchr::memchr(b'"', &text[at..]).map(|open| at + open + 1) {
        // Between a key and its value stands nothing but the colon.
        let between = &text[at..open - 1];
        let follows = between.iter().filter(|b| !b.is_ascii_whitespace()).eq([&b':']);
        let close = end_of_string(text, open);
        let inside = &text[open..close];
        if name.is_none() || is_value_of_name && follows {
            found.extend(spans(json_units(inside, open), wanted));
        }
        is_value_of_name = name.is_some_and(|name| json_units(inside, 0).map(|(byte, _)| byte).eq(name.bytes()));
        at = (close + 1).min(text.len());
    }
    found
}

fn end_of_string(text: &[u8], open: usize) -> usize {
    let mut at = open;
    while let Some(next) = memchr::memchr2(b'"', b'\\', &text[at..]).map(|next| at + next) {
        if text[next] == b'"' {
            return next;
        }
        at = (next + 2).min(text.len());
    }
    text.len()
}

fn json(value: &str) -> SecretText {
    let mut out = String::with_capacity(value.len() * 6);
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // A vault takes none of these; a source of another kind might.
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    Secret::new(out)
}

fn xml(value: &str) -> SecretText {
    let mut out = String::with_capacity(value.len() * 6);
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
    }
    Secret::new(out)
}
