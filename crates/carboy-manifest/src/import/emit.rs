//! A tree as text again, in the subset that [`yaml`](crate::yaml) reads.
//!
//! *Must never* write a text that is read back as something else: what is not plain in every reader stands in quotes.

use crate::diagnostic::{Position, deceives};
use crate::yaml::{Entry, Node, Value};

/// `key: value` lines, indented.
pub(super) fn entry(out: &mut String, key: &str, value: &Node, indent: usize) {
    out.push_str(&" ".repeat(indent));
    out.push_str(&self::key(key));
    out.push(':');
    below(out, value, indent);
}

fn below(out: &mut String, node: &Node, indent: usize) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            out.push('\n');
            entries.iter().for_each(|one| entry(out, &one.key, &one.value, indent + 2));
        }
        Value::List(items) if !items.is_empty() => {
            out.push('\n');
            items.iter().for_each(|one| item(out, one, indent + 2));
        }
        Value::Map(_) => out.push_str(" {}\n"),
        Value::List(_) => out.push_str(" []\n"),
        Value::Null | Value::Invalid => out.push_str(" null\n"),
        Value::Bool(value) => out.push_str(&format!(" {value}\n")),
        Value::Int(number) => out.push_str(&format!(" {number}\n")),
        Value::Text(text) => out.push_str(&format!(" {}\n", quoted(text))),
    }
}

fn item(out: &mut String, node: &Node, indent: usize) {
    let mut text = String::new();
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            entries.iter().for_each(|one| entry(&mut text, &one.key, &one.value, indent + 2));
            // The dash takes the place of the first key's indentation.
            text.replace_range(indent..indent + 1, "-");
        }
        Value::List(items) if !items.is_empty() => {
            items.iter().for_each(|one| item(&mut text, one, indent + 2));
            text.replace_range(indent..indent + 1, "-");
        }
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_)
        | Value::Invalid => {
            text = format!("{}-", " ".repeat(indent));
            below(&mut text, node, indent);
        }
    }
    out.push_str(&text);
}

fn key(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if plain { text.to_owned() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if deceives(c) && u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if deceives(c) => out.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A text.
pub(super) fn text(value: impl Into<String>, at: Position) -> Node {
    Node { value: Value::Text(value.into()), at }
}

/// A map.
pub(super) fn map(entries: Vec<Entry>, at: Position) -> Node {
    Node { value: Value::Map(entries), at }
}

/// One key with its value.
pub(super) fn pair(key: &str, value: Node) -> Entry {
    Entry { key: key.to_owned(), key_at: value.at, value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::yaml;

    fn plain(node: &Node) -> String {
        match &node.value {
            Value::Map(entries) => {
                let all: Vec<_> = entries.iter().map(|e| format!("{:?}={}", e.key, plain(&e.value))).collect();
                format!("{{{}}}", all.join(","))
            }
            Value::List(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(",")),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Invalid => {
                format!("{:?}", node.value)
            }
        }
    }

    fn node() -> impl Strategy<Value = Node> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(|n| Value::Int(n.into())),
            any::<String>().prop_map(Value::Text),
        ]
        .prop_map(|value| Node { value, at: Position::START });
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                prop::collection::btree_map("[a-z \"*?:#-]{1,6}", inner, 0..4)
                    .prop_map(|all| { Value::Map(all.into_iter().map(|(key, value)| pair(&key, value)).collect()) }),
            ]
            .prop_map(|value| Node { value, at: Position::START })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(node in node()) {
            let mut out = String::new();
            entry(&mut out, "root", &node, 0);
            let (read, errors) = yaml::parse(&out, 1);
            prop_assert!(errors.is_empty(), "{errors:?}\n{out}");
            prop_assert_eq!(plain(&read), plain(&map(vec![pair("root", node)], Position::START)), "{}", out);
        }
    }
}
