//! Results of tools in plain words: every id and day in them stands in the result.
//!
//! *Must never* use markup, or say more than the result does.

use serde_json::{Map, Value};

use super::words::spoken;

/// Characters of what is told of one result.
const TOLD_CHARS_MAX: usize = 1_500;
/// Entries of a list that are told.
const ENTRIES_MAX: usize = 10;
/// How deep a result is told.
const DEPTH_MAX: usize = 4;

/// Members that hold a result's message in words, best first.
const WORDS: [&str; 8] = ["message", "answer", "text", "words", "detail", "description", "summary", "content"];

/// The member of that name, as a text.
pub(crate) fn member<'a>(value: &'a Value, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| value.get(*name)?.as_str()).filter(|text| !text.trim().is_empty())
}

/// The message of a result, wherever it is kept, without the name of the argument that it is about.
pub(crate) fn message(value: &Value) -> Option<&str> {
    let text = whole_message(value)?;
    let field = value.get("field").and_then(Value::as_str);
    let behind = field.and_then(|field| text.strip_prefix(field)?.strip_prefix(": "));
    Some(behind.unwrap_or(text))
}

fn whole_message(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Object(map) => {
            let error = map.get("error");
            let inner = error.and_then(|error| member(error, &WORDS));
            // Some put the message there, and some its code.
            let text = error.and_then(Value::as_str).filter(|text| text.contains(' '));
            inner.or(text).or_else(|| member(value, &WORDS))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

/// The stable word of an error.
pub(crate) fn code(value: &Value) -> &str {
    let error = value.get("error");
    let inner = error.and_then(|error| member(error, &["code", "type"]));
    let own = inner.or(error.and_then(Value::as_str)).or_else(|| member(value, &["code"]));
    // A text alone may begin with it: `invalid_arguments: the number is missing`.
    let text = || value.as_str().and_then(|text| text.split([':', ' ']).next());
    own.or_else(text).unwrap_or_default()
}

/// A text as the end of a sentence.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with(['.', '!', '?']) || text.is_empty() { text.to_owned() } else { format!("{text}.") }
}

/// Everything that a result says.
pub(crate) fn all(value: &Value) -> String {
    let mut told = String::new();
    match value {
        Value::Object(map) => fields(map, 0, &mut told),
        Value::Array(items) => entries(items, 0, &mut told),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => told = scalar(value).unwrap_or_default(),
    }
    let mut told = plain(&told);
    if let Some((end, _)) = told.char_indices().nth(TOLD_CHARS_MAX) {
        told.truncate(end);
        told.push_str(" (and more)");
    }
    sentence(&told)
}

/// Without what would be read as markup.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '*' | '`' | '#' | '|')).collect()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(true) => Some("yes".into()),
        Value::Bool(false) => Some("no".into()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()).filter(|text| !text.trim().is_empty()),
        Value::Array(items) => {
            let all: Option<Vec<String>> = items.iter().take(ENTRIES_MAX).map(scalar).collect();
            all.filter(|all| !all.is_empty()).map(|all| all.join(", "))
        }
        Value::Object(_) => None,
    }
}

fn fields(map: &Map<String, Value>, depth: usize, told: &mut String) {
    if depth >= DEPTH_MAX {
        return;
    }
    let mut first = true;
    let mut later = Vec::new();
    for (key, value) in map {
        match (scalar(value), value) {
            (Some(text), _) => {
                told.push_str(if first { "" } else { "; " });
                told.push_str(&format!("{}: {text}", spoken(key)));
                first = false;
            }
            (None, Value::Object(_) | Value::Array(_)) => later.push((key, value)),
            (None, Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {}
        }
    }
    for (key, value) in later {
        let mut inner = String::new();
        match value {
            Value::Object(map) => fields(map, depth + 1, &mut inner),
            Value::Array(items) => entries(items, depth + 1, &mut inner),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        if !inner.is_empty() {
            told.push_str(if told.is_empty() { "" } else { ". " });
            told.push_str(&format!("{}: {inner}", capital(&spoken(key))));
        }
    }
}

fn entries(items: &[Value], depth: usize, told: &mut String) {
    let entries = items.iter().take(ENTRIES_MAX).map(|item| {
        let mut entry = String::new();
        match item {
            Value::Object(map) => fields(map, depth + 1, &mut entry),
            Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                entry = scalar(item).unwrap_or_default();
            }
        }
        entry
    });
    let all: Vec<String> = entries.filter(|entry| !entry.is_empty()).collect();
    told.push_str(&all.join(" / "));
    if items.len() > ENTRIES_MAX {
        told.push_str(&format!(" / and {} more", items.len() - ENTRIES_MAX));
    }
}

/// With a capital at its beginning.
pub(crate) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Things one after the other: `a, b and c`.
pub(crate) fn list(things: &[String]) -> String {
    match things {
        [] => String::new(),
        [one] => one.clone(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_is_told_without_markup_and_without_what_it_does_not_say() {
        let value = json!({"order_id": "BK-1", "paid": true, "note": null, "items": [{"title": "*A*", "n": 1}, {"title": "B"}],
            "tags": ["x", "y"]});
        assert_eq!(all(&value), "order id: BK-1; paid: yes; tags: x, y. Items: n: 1; title: A / title: B.");
        assert_eq!(all(&json!("done")), "done.");
        assert!(all(&json!({"x": "y".repeat(5_000)})).chars().count() < 1_600);
        assert_eq!(message(&json!({"error": {"code": "c", "message": "No."}})), Some("No."));
        let named = json!({"error": "invalid_arguments", "field": "a", "message": "a: Too long"});
        assert_eq!(message(&named), Some("Too long"));
        assert_eq!(code(&json!({"error": "order_not_found"})), "order_not_found");
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
