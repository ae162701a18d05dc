//! The assistant's two tools: sums and notes.
//!
//! What a person wants calculated or saved is handed to the tools as it was written, dangerous or not: what is dangerous is
//! for the tools to say, and a person who tries the guardrails wants to see them. *Must never* calculate anything itself.

use serde_json::{Map, Value, json};

use super::conversation::{Conversation, Offer, Outcome};
use super::tell::{self, member, sentence};
use super::words::{after, bounded, quoted, says, words};
use crate::script::Reply;

pub(super) const CALCULATOR: &str = "calculator";
pub(super) const NOTE: &str = "save_note";

const ASK_NOTE: &str = "What should the note say?";
const CALCULATE: &[&str] = &["calculate", "compute", "evaluate", "work out", "solve"];
const WHAT_IS: &[&str] = &["what is", "what's", "whats", "how much is", "what does", "result of"];
const SAVE: &[&str] = &[
    "save a note",
    "save the note",
    "save this note",
    "save note",
    "make a note",
    "take a note",
    "write a note",
    "add a note",
    "create a note",
    "note down",
    "write down",
    "jot down",
    "save this",
    "remember",
    "save",
    "a note",
    "note",
];
const SAYING: &[&str] = &[
    "saying",
    "that says",
    "with the text",
    "with the content",
    "with content",
    "with text",
    "remember that",
    "note that",
    "note:",
    "down:",
    "this:",
    "content:",
];
/// Words that lead from "save a note" to what it says, or to where.
const LEADING: &[&str] =
    &["that", "to", "of", "about", "as", "in", "into", "called", "named", "saying", "for", "me", "file", "and"];

/// What it answers to the person's last words; `None` where they are neither a sum nor a note.
pub(super) fn to_person(conversation: &Conversation) -> Option<Reply> {
    let message = conversation.message();
    if let Some(tool) = conversation.tool(NOTE) {
        if conversation.answered().trim_end().ends_with(ASK_NOTE) {
            let before = conversation.message_before();
            return Some(save(tool, file_name(before).or_else(|| file_name(message)), message.trim()));
        }
        if wants_note(message) {
            return Some(note(tool, message));
        }
    }
    let tool = conversation.tool(CALCULATOR)?;
    let sum = expression(message)?;
    let key = tool.params.first().map_or("expression", |param| &param.name[..]);
    Some(Reply::tool(CALCULATOR, json!({key: sum})))
}

/// What it says of a result of its tools.
pub(super) fn to_result(outcome: &Outcome) -> Option<Reply> {
    let error = || tell::message(&outcome.value).map_or_else(|| "it gave no reason.".to_owned(), sentence);
    let text = match (&outcome.tool[..], outcome.is_error) {
        (CALCULATOR, false) => sum_of(outcome),
        (CALCULATOR, true) => format!("The calculator did not take that: {}", error()),
        (NOTE, false) => saved(&outcome.value),
        (NOTE, true) => format!("I could not save the note: {}", error()),
        _ => return None,
    };
    Some(Reply::text(text))
}

fn sum_of(outcome: &Outcome) -> String {
    let value = &outcome.value;
    let found = ["result", "value", "answer"].iter().find_map(|key| value.get(*key)).unwrap_or(value);
    let result = match found {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e15);
            whole.map_or_else(|| number.to_string(), |whole| format!("{whole:.0}"))
        }
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => tell::all(value),
    };
    let asked = outcome.input.as_object().and_then(|input| input.values().next()?.as_str());
    match asked {
        Some(asked) if !result.contains('=') => format!("{asked} = {result}"),
        Some(_) | None => result,
    }
}

fn saved(value: &Value) -> String {
    let name = member(value, &["path", "file", "filename", "file_name", "saved_as", "saved", "result", "name"]);
    match name.or(value.as_str()) {
        Some(text) if text.contains(' ') => sentence(text),
        Some(name) => format!("I saved the note as {name}."),
        None => "I saved the note.".to_owned(),
    }
}

/// The sum that a message asks for, as it is written.
fn expression(message: &str) -> Option<String> {
    let message = bounded(message).trim();
    let trimmed =
        |text: &str| text.trim().trim_end_matches(['?', '!', '=', ' ']).trim_end_matches('.').trim().to_owned();
    if let Some(text) = after(message, CALCULATE).map(trimmed).filter(|text| !text.is_empty()) {
        let text = text
            .strip_prefix("this:")
            .or_else(|| text.strip_prefix(':'))
            .map(str::trim)
            .map_or(text.clone(), str::to_owned);
        return Some(in_signs(&text).unwrap_or(text));
    }
    let asked = after(message, WHAT_IS).map(trimmed).filter(|text| !text.is_empty());
    let candidates = [asked, Some(trimmed(message))];
    candidates.into_iter().flatten().find_map(|text| in_signs(&text).or_else(|| is_call(&text).then_some(text)))
}

/// The sum with its words as signs; `None` where it is no sum.
fn in_signs(text: &str) -> Option<String> {
    let mut sum = format!(" {} ", text.to_lowercase());
    for (words, sign) in [
        (" plus ", " + "),
        (" minus ", " - "),
        (" times ", " * "),
        (" multiplied by ", " * "),
        (" divided by ", " / "),
        (" over ", " / "),
        (" x ", " * "),
        (" to the power of ", " ** "),
        ("% of ", " / 100 * "),
        (" percent of ", " / 100 * "),
        (" × ", " * "),
        (" ÷ ", " / "),
    ] {
        sum = sum.replace(words, sign);
    }
    let chars: Vec<char> = sum.trim().chars().collect();
    let sign = |c: char| matches!(c, '+' | '-' | '*' | '/' | '%' | '^');
    let fits = |c: &char| c.is_ascii_digit() || sign(*c) || matches!(c, ' ' | '(' | ')' | '.' | ',');
    let has = |wanted: &dyn Fn(char) -> bool| chars.iter().any(|c| wanted(*c));
    if !chars.iter().all(fits) || !has(&|c| c.is_ascii_digit()) || !chars.iter().skip(1).any(|c| sign(*c)) {
        return None;
    }
    // Signs of thousands.
    let digit = |at: usize| chars.get(at).is_some_and(char::is_ascii_digit);
    let kept = chars.iter().enumerate().filter(|(at, c)| **c != ',' || !(*at > 0 && digit(at - 1) && digit(at + 1)));
    Some(
        kept.map(|(_, c)| *c)
            .collect::<String>()
            .split(' ')
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" "),
    )
}

/// Does it call something, as programs do?
fn is_call(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices('(').any(|(at, _)| text[..at].ends_with(name)) && text.contains(')')
}

fn wants_note(message: &str) -> bool {
    let words = words(message);
    says(&words, &["note", "notes", "write down", "jot down", "remember that", "remember to"])
        || (words.first().is_some_and(|first| first == "save" || first == "remember"))
}

fn note(tool: &Offer, message: &str) -> Reply {
    let name = file_name(message);
    let content = quoted(message).or_else(|| after(message, SAYING).map(str::to_owned)).unwrap_or_else(|| {
        let behind = after(message, SAVE).unwrap_or_default();
        without_lead(&name.as_ref().map_or_else(|| behind.to_owned(), |name| behind.replacen(&name[..], "", 1)))
    });
    let content = name.as_ref().map_or(content.clone(), |name| without_tail(&content.replacen(&name[..], "", 1)));
    match (content.trim(), &name) {
        ("", None) => Reply::text(ASK_NOTE),
        // A name alone: the note says what was asked.
        ("", Some(_)) => save(tool, name, message.trim()),
        (content, _) => save(tool, name, content),
    }
}

fn without_lead(text: &str) -> String {
    let mut text = text.trim().trim_start_matches([':', ',', '-']).trim();
    while let Some((first, rest)) = text.split_once(' ')
        && LEADING.contains(&&first.to_lowercase()[..])
    {
        text = rest.trim_start();
    }
    if LEADING.contains(&&text.to_lowercase()[..]) { String::new() } else { text.to_owned() }
}

fn without_tail(text: &str) -> String {
    let mut text = text.trim();
    while let Some((rest, last)) = text.rsplit_once(' ')
        && LEADING.contains(&&last.to_lowercase()[..])
    {
        text = rest.trim_end();
    }
    text.to_owned()
}

/// Something that looks like the name of a file, or a path.
fn file_name(message: &str) -> Option<String> {
    let around = |c: char| matches!(c, '"' | '\'' | '“' | '”' | ',' | ';' | ':' | '?' | '!' | '`');
    let is_file = |token: &&str| {
        let ending = token.rsplit_once('.').is_some_and(|(front, ending)| {
            !front.is_empty() && (1..=5).contains(&ending.len()) && ending.chars().all(|c| c.is_ascii_alphabetic())
        });
        let path = token.contains('/') || token.contains('\\') || token.starts_with('~') || token.contains("..");
        token.len() > 1 && !token.contains('@') && !token.contains("://") && (ending || path)
    };
    // The end of a sentence is no part of a name.
    let name = |token: &'_ str| -> String {
        let token = token.trim_matches(around);
        let front = token.strip_suffix('.').filter(|front| front.ends_with(char::is_alphanumeric));
        front.unwrap_or(token).to_owned()
    };
    bounded(message).split_whitespace().map(name).find(|token| is_file(&&token[..]))
}

fn save(tool: &Offer, name: Option<String>, content: &str) -> Reply {
    let like = |parts: &[&str]| tool.params.iter().find(|param| parts.iter().any(|part| param.name.contains(part)));
    let mut input = Map::new();
    let text = like(&["content", "text", "body", "note"]).map_or("content", |param| &param.name[..]);
    input.insert(text.to_owned(), json!(content));
    if let (Some(param), Some(name)) = (like(&["file", "name", "title", "path"]), name) {
        input.insert(param.name.clone(), json!(name));
    }
    Reply::tool(NOTE, Value::Object(input))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g74_a_sum_is_found_as_it_is_written() {
        for (message, want) in [
            ("What is 15 * 23?", Some("15 * 23")),
            ("what's 15 times 23", Some("15 * 23")),
            ("15*23", Some("15*23")),
            ("Calculate (2 + 3) / 4.", Some("(2 + 3) / 4")),
            ("calculate __import__('os').system('ls')", Some("__import__('os').system('ls')")),
            ("What is eval('1')?", Some("eval('1')")),
            ("how much is 15% of 80", Some("15 / 100 * 80")),
            ("1,200 + 3", Some("1200 + 3")),
            ("calculate the meaning of life", Some("the meaning of life")),
            ("What is the weather?", None),
            ("call 555-1234", None),
            ("What is 42?", None),
            ("-5", None),
        ] {
            assert_eq!(expression(message).as_deref(), want, "{message}");
        }
    }

    #[test]
    fn g75_a_note_is_found_with_and_without_a_name() {
        let tool = Offer { name: NOTE.into(), ..Offer::default() };
        let input = |message: &str| note(&tool, message).tool.map(|call| call.input["content"].clone());
        for (message, want) in [
            ("Save a note: buy milk", "buy milk"),
            ("save a note that the door is open", "the door is open"),
            ("Remember to call Ann", "call Ann"),
            ("Note down the code word", "the code word"),
            ("save \"buy milk\" as shopping.txt", "buy milk"),
            ("save a note called list.txt saying eggs and ham", "eggs and ham"),
            ("save buy milk to shopping.txt", "buy milk"),
            ("save a note to ../../etc/passwd", "save a note to ../../etc/passwd"),
        ] {
            assert_eq!(input(message), Some(json!(want)), "{message}");
        }
        assert_eq!(note(&tool, "Save a note").text, ASK_NOTE);
        assert_eq!(file_name("save a note to ../../etc/passwd").as_deref(), Some("../../etc/passwd"));
        assert_eq!(file_name("save \"x\" as shopping.txt.").as_deref(), Some("shopping.txt"));
        assert_eq!(file_name("save a note for Ann. Soon"), None);
    }
}
