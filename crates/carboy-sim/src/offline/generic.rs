//! Any other tool: found by the words of the message, its arguments filled from what stands in it, its result told.
//!
//! ```text
//!  message ─▶ the tool whose name and description fit best ─▶ arguments found? ─▶ a call, or a question for the first missing
//! ```
//!
//! *Must never* make up an argument, or call a tool of which a required one is missing.

use serde_json::{Map, Value, json};

use super::conversation::{Conversation, Kind, Offer, Outcome, Param, Turn};
use super::tell::{self, capital, sentence};
use super::words::{after, emails, ids, numbers, quoted, spoken, stem, stems, words};
use crate::script::Reply;

/// How well a message has to fit a tool.
const FIT_MIN: usize = 3;
/// Messages of a person that are looked at for arguments, newest first.
const MESSAGES_MAX: usize = 6;

/// What is asked for when an argument is missing; the name stands between these.
const ASK: (&str, &str) = ("To do that I need one more thing: the ", ". What is it?");

/// What it answers to the person's last words; `None` where no tool fits.
pub(super) fn to_person(conversation: &Conversation, tools: &[&Offer]) -> Option<Reply> {
    let messages: Vec<&str> = conversation.messages().collect();
    let last = *messages.last()?;
    if let Some(tool) = best(tools, last) {
        return Some(call(tool, &[last], None));
    }
    // An answer to what was asked: the tool is the one that the person wanted before.
    let asked = conversation.answered().strip_suffix(ASK.1)?.split(ASK.0).nth(1)?;
    let open: Vec<&str> = messages.iter().rev().copied().take(MESSAGES_MAX).collect();
    let at = open.iter().position(|message| best(tools, message).is_some())?;
    let tool = best(tools, open[at])?;
    let param = tool.params.iter().find(|param| described(param) == asked)?;
    Some(call(tool, &open[..=at], Some(param)))
}

/// What it does after results, beside telling them: a tool that has to come first is called first, and the one that waited for
/// it again.
pub(super) fn to_results(conversation: &Conversation, fresh: &[&Outcome]) -> Option<Reply> {
    let (last, before) = fresh.split_last()?;
    let says = |outcome: &Outcome, tool: &str| tell::message(&outcome.value).is_some_and(|text| text.contains(tool));
    if last.is_error {
        let made = |tool: &Offer| fresh.iter().any(|outcome| outcome.tool == tool.name);
        let first = conversation.tools.iter().find(|tool| !made(tool) && says(last, &tool.name))?;
        let messages: Vec<&str> = conversation.messages().collect();
        let open: Vec<&str> = messages.iter().rev().copied().take(MESSAGES_MAX).collect();
        return Some(call(first, &open, None));
    }
    let waited = before.last().filter(|waited| waited.is_error && says(waited, &last.tool))?;
    let once = fresh.iter().filter(|outcome| outcome.tool == waited.tool).count() == 1;
    once.then(|| Reply::tool(&waited.tool, waited.input.clone()))
}

/// What it says of a result.
pub(super) fn to_result(outcome: &Outcome) -> Reply {
    let text = match (outcome.is_error, waits(&outcome.value)) {
        (_, true) if is_for_operator(&outcome.value) => APPROVAL.to_owned(),
        (_, true) => {
            "That is ready. Please look at the card and confirm it there; nothing happens until you do.".to_owned()
        }
        (true, false) => match tell::message(&outcome.value).map(sentence) {
            Some(message) => format!("That did not work: {message}"),
            None => format!("That did not work: {}", tell::all(&outcome.value)),
        },
        (false, false) => match &outcome.value {
            Value::String(text) if text.trim().is_empty() => "Done.".to_owned(),
            Value::String(text) => text.clone(),
            Value::Null => "Done.".to_owned(),
            value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                format!("{}: {}", capital(&spoken(&outcome.tool)), tell::all(value))
            }
        },
    };
    Reply::text(text)
}

/// What it says of a write that whoever runs the agent approves.
pub(super) const APPROVAL: &str = "Somebody has to approve that first; you will read here how it ends.";

/// Not the person here is asked, but whoever runs the agent.
pub(super) fn is_for_operator(value: &Value) -> bool {
    value.get("status").and_then(Value::as_str).is_some_and(|status| status.contains("approval"))
}

/// A write waits for a person: its status says so.
pub(super) fn waits(value: &Value) -> bool {
    let waiting =
        |text: &str| text.contains("await") || text.contains("needs_confirmation") || text.contains("confirmation_");
    let keys = ["status", "state", "code", "outcome", "phase", "error"];
    let said = keys.iter().filter_map(|key| value.get(*key)?.as_str()).any(waiting);
    said || value.as_object().is_some_and(|map| map.keys().any(|key| waiting(key)))
}

/// The tool that fits best, and well enough: its name counts threefold.
fn best<'a>(tools: &[&'a Offer], message: &str) -> Option<&'a Offer> {
    let wanted = stems(message);
    let score = |tool: &Offer| {
        let name = stems(&spoken(&tool.name));
        let rest = stems(&format!("{} {}", tool.description, names(tool)));
        let by_name = wanted.iter().filter(|word| name.contains(*word)).count();
        let by_rest = wanted.iter().filter(|word| rest.contains(*word) && !name.contains(*word)).count();
        3 * by_name + by_rest
    };
    let scored = tools.iter().map(|tool| (score(tool), *tool)).filter(|(score, _)| *score >= FIT_MIN);
    let best = scored.fold(None, |best: Option<(usize, &Offer)>, next| match best {
        Some(best) if best.0 >= next.0 => Some(best),
        Some(_) | None => Some(next),
    });
    best.map(|(_, tool)| tool)
}

fn names(tool: &Offer) -> String {
    tool.params.iter().map(|param| spoken(&param.name)).collect::<Vec<_>>().join(" ")
}

fn described(param: &Param) -> String {
    spoken(&param.name)
}

/// Calls the tool with what stands in these messages, newest first. `asked` is the argument that the newest one answers.
fn call(tool: &Offer, messages: &[&str], asked: Option<&Param>) -> Reply {
    let mut input = Map::new();
    for param in &tool.params {
        let found = messages.iter().enumerate().find_map(|(at, message)| match asked {
            Some(asked) if at == 0 && asked.name == param.name => answer(param, message),
            Some(_) | None => value(param, tool, message),
        });
        if let Some(value) = found {
            input.insert(param.name.clone(), value);
        }
    }
    match tool.params.iter().find(|param| param.required && !input.contains_key(&param.name)) {
        Some(missing) => Reply::text(format!("{}{}{}", ASK.0, described(missing), ASK.1)),
        None => Reply::tool(&tool.name, Value::Object(input)),
    }
}

/// A whole message as an argument.
fn answer(param: &Param, message: &str) -> Option<Value> {
    let text = message.trim().trim_end_matches('.');
    let number = || numbers(message).into_iter().next();
    match param.kind {
        Kind::Integer => number().and_then(|number| Some(json!(number.parse::<i64>().ok()?))),
        Kind::Number => number().and_then(|number| Some(json!(number.parse::<f64>().ok()?))),
        Kind::Flag => {
            Some(json!(words(message).iter().any(|word| matches!(&word[..], "yes" | "true" | "ok" | "sure"))))
        }
        Kind::List => Some(Value::Array(text.split(',').map(|part| json!(part.trim())).collect())),
        Kind::Text | Kind::Other if !param.options.is_empty() => option(param, message),
        Kind::Text | Kind::Other => {
            let one = |found: Vec<String>| found.into_iter().next();
            let found = if is(param, &["email", "mail"]) { one(emails(message)) } else { None };
            let found = found.or_else(|| if is_id(param) { one(ids(message)).or_else(number) } else { None });
            Some(json!(found.or_else(|| quoted(message)).unwrap_or_else(|| text.to_owned())))
        }
    }
}

fn is(param: &Param, parts: &[&str]) -> bool {
    let name = param.name.to_lowercase();
    parts.iter().any(|part| name.contains(part))
}

fn is_id(param: &Param) -> bool {
    let words = words(&spoken(&param.name));
    words
        .last()
        .is_some_and(|last| matches!(&last[..], "id" | "number" | "no" | "code" | "ref" | "reference" | "sku" | "key"))
}

fn option(param: &Param, message: &str) -> Option<Value> {
    let wanted = stems(message);
    let said = |option: &&String| {
        let parts = stems(&spoken(option));
        !parts.is_empty() && parts.iter().all(|part| wanted.contains(part))
    };
    param.options.iter().find(said).map(|option| json!(option))
}

/// What stands in a message for an argument.
fn value(param: &Param, tool: &Offer, message: &str) -> Option<Value> {
    let first = |found: Vec<String>| found.into_iter().next();
    if !param.options.is_empty() {
        return option(param, message);
    }
    match param.kind {
        Kind::Integer => numbers(message).iter().find_map(|number| Some(json!(number.parse::<i64>().ok()?))),
        Kind::Number => numbers(message).iter().find_map(|number| Some(json!(number.parse::<f64>().ok()?))),
        Kind::Flag => {
            stems(&spoken(&param.name)).iter().all(|part| stems(message).contains(part)).then_some(json!(true))
        }
        Kind::List => None,
        Kind::Text | Kind::Other if is(param, &["email", "mail"]) => first(emails(message)).map(|email| json!(email)),
        Kind::Text | Kind::Other if is_id(param) => {
            let own = ids(message).into_iter().chain(numbers(message));
            first(own.collect()).map(|id| json!(id))
        }
        Kind::Text | Kind::Other => text(param, tool, message).map(|text| json!(text)),
    }
}

/// A text: between quotation marks, behind the argument's own name, behind a word that leads to it, or, where the tool asks
/// for nothing else, all that is not the tool's own name.
fn text(param: &Param, tool: &Offer, message: &str) -> Option<String> {
    if let Some(quoted) = quoted(message) {
        return Some(quoted);
    }
    let name = spoken(&param.name);
    let end = |text: &str| {
        text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '?' | '.' | '!' | ':' | '=')).to_owned()
    };
    if let Some(behind) = after(message, &[&name]) {
        let behind = behind.strip_prefix("is ").or_else(|| behind.strip_prefix(':')).unwrap_or(behind);
        let own = end(behind.split([',', ';']).next().unwrap_or_default());
        if !own.is_empty() && own.split(' ').count() <= 4 {
            return Some(own);
        }
    }
    if is(param, &["query", "question", "message", "search", "prompt"]) {
        return Some(message.trim().to_owned());
    }
    let needed =
        tool.params.iter().filter(|other| other.required && other.kind == Kind::Text && other.options.is_empty());
    if needed.count() != 1 || !param.required {
        return None;
    }
    let led = after(message, &["for", "in", "at", "about", "on", "of", "named", "called", "to", "from"]).map(end);
    led.filter(|led| !led.is_empty()).or_else(|| {
        let own = stems(&format!("{} {}", spoken(&tool.name), tool.description));
        let rest: Vec<&str> = message.split_whitespace().filter(|word| !skipped(word, &own)).collect();
        Some(end(&rest.join(" "))).filter(|rest| !rest.is_empty())
    })
}

fn skipped(word: &str, own: &std::collections::BTreeSet<String>) -> bool {
    let plain = words(word);
    plain.iter().all(|part| own.contains(&stem(part)) || stems(part).is_empty())
}

/// What the tools can do, in words.
pub(super) fn offers(conversation: &Conversation) -> Vec<String> {
    conversation.tools.iter().map(|tool| spoken(&tool.name)).collect()
}

/// The last result before the person's words waits for a click.
pub(super) fn is_waiting(conversation: &Conversation) -> bool {
    let before = conversation.turns.iter().rev().find_map(|turn| match turn {
        Turn::Result(outcome) => Some(waits(&outcome.value)),
        Turn::Person(_) | Turn::Agent(_) | Turn::Note(_) => None,
    });
    before.unwrap_or(false)
}
