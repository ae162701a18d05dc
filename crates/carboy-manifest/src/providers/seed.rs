//! One file of a home before the launch: what it becomes, given what stands there.
//!
//! What stands there was written by an earlier run and is the attacker's: it is read as data, and whatever cannot be
//! read gives way to carboy's own.

use serde_json::{Map, Value};

/// Begins and ends carboy's section of a text file; what stands around it is the program's own memory.
const SECTION: (&str, &str) = ("<!-- carboy: the agent's file begins -->", "<!-- carboy: the agent's file ends -->");

/// A file of the home.
#[derive(Clone, Debug, PartialEq)]
pub struct Seed {
    /// Its path below the home: plain names with `/` between them.
    pub path: &'static str,
    /// What becomes of it.
    pub how: How,
}

/// What becomes of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// A JSON object: `ours` is set in it each time, `first` only where nothing stands. Objects are merged member by
    /// member; of two lists the texts of both stay.
    Json {
        /// Set at each launch.
        ours: Value,
        /// Set where the file does not say.
        first: Value,
    },
    /// A TOML file that is written once; at each launch a table is added where it has none of that name.
    Toml {
        /// The whole of a new file.
        first: &'static str,
        /// `[table]`
        header: String,
        /// Its lines.
        body: String,
    },
    /// A text of which one section is carboy's; an empty one is taken out.
    Section(String),
    /// This, whatever stood there.
    Replace(String),
}

impl Seed {
    /// The new content; `None` where nothing has to be written.
    pub fn content(&self, there: Option<&str>) -> Option<String> {
        let new = match &self.how {
            How::Json { ours, first } => merged(there, ours, first),
            How::Toml { first, header, body } => with_table(there.unwrap_or(first), header, body),
            How::Section(text) => with_section(there.unwrap_or_default(), text),
            How::Replace(text) => text.clone(),
        };
        let unchanged = there.map_or(new.is_empty(), |there| there == new);
        (!unchanged).then_some(new)
    }
}

fn merged(there: Option<&str>, ours: &Value, first: &Value) -> String {
    let read = there.and_then(|text| Some((text, serde_json::from_str(text).ok()?)));
    let Some((text, there @ Value::Object(_))) = read else {
        return pretty(&over(first.clone(), ours));
    };
    let whole = over(over(first.clone(), &there), ours);
    // A file that says all of it already stays as the program wrote it.
    if whole == there { text.to_owned() } else { pretty(&whole) }
}

/// `top` over `bottom`.
fn over(bottom: Value, top: &Value) -> Value {
    match (bottom, top) {
        (Value::Object(bottom), Value::Object(top)) => {
            let mut whole: Map<String, Value> = bottom;
            for (key, value) in top {
                let below = whole.remove(key).unwrap_or(Value::Null);
                whole.insert(key.clone(), over(below, value));
            }
            Value::Object(whole)
        }
        (Value::Array(bottom), Value::Array(top)) => {
            let mut whole = bottom;
            for value in top {
                if !whole.contains(value) {
                    whole.push(value.clone());
                }
            }
            Value::Array(whole)
        }
        (bottom, Value::Null) => bottom,
        (_, top) => top.clone(),
    }
}

fn with_table(text: &str, header: &str, body: &str) -> String {
    if text.lines().any(|line| line.trim() == header) {
        return text.to_owned();
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}\n{header}\n{body}")
}

fn with_section(text: &str, section: &str) -> String {
    let (begin, end) = SECTION;
    let mut rest = text.to_owned();
    // Every one of them: an earlier run may have written more.
    while let Some(from) = rest.find(begin) {
        let until = rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
        rest.replace_range(from..until, "");
    }
    let rest = rest.trim();
    match (section.is_empty(), rest.is_empty()) {
        (true, true) => String::new(),
        (true, false) => format!("{rest}\n"),
        // A text that holds the closing line itself must not end the section early.
        (false, _) => {
            let inner = section.replace(begin, "").replace(end, "");
            let rest = if rest.is_empty() { String::new() } else { format!("\n{rest}\n") };
            format!("{begin}\n{inner}\n{end}\n{rest}")
        }
    }
}

/// JSON for a file that a person may look at.
pub(crate) fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value always serialises");
    text.push('\n');
    text
}

/// A basic string of TOML.
pub(crate) fn toml_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// RFC 4648, 5, without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * at)) as usize & 63]));
        }
    }
    out
}
