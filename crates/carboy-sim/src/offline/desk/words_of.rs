//! What the desk says: questions without any value, and results with the values that stand in them.

use serde_json::Value;

use super::super::conversation::{Conversation, Offer, Param};
use super::super::tell::{self, capital, list, member, sentence};
use super::super::words::{spoken, stems, words};
use super::RETURN_NUMBERS;
use super::case::{Task, topics};
use crate::script::Reply;

/// A write waits for a person's click; nothing that is said in words stands for it.
pub(super) const CARD: &str =
    "The return is ready. Please look at the card and confirm it there; nothing happens until you do.";

pub(super) fn ask_order(task: Task) -> Reply {
    let what = match task {
        Task::Return => "I can help with that return.",
        Task::Order | Task::Policy => "I can look that up.",
    };
    let number = "Could you give me your order number? It stands in your confirmation e-mail.";
    Reply::text(format!("{what} {number}"))
}

pub(super) fn ask_email() -> Reply {
    Reply::text(
        "To protect your order I need the e-mail address that it was placed with. Could you give me the e-mail address?",
    )
}

pub(super) fn ask_reason(param: &Param) -> String {
    let options: Vec<String> = param.options.iter().map(|option| spoken(option)).collect();
    match options.is_empty() {
        true => "Why would you like to return it?".to_owned(),
        false => format!("Why would you like to return it: {}?", list(&options).replace(" and ", " or ")),
    }
}

fn titles(items: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<String> {
    let items = items.as_array().into_iter().flatten().filter(|item| wanted(item));
    items
        .filter_map(|item| item.as_str().or_else(|| member(item, &["title", "name", "product"])))
        .map(str::to_owned)
        .collect()
}

/// Where an order is and what is in it.
pub(super) fn order(value: &Value) -> String {
    let Some(id) = member(value, &["order_id", "id", "number"]) else { return tell::all(value) };
    let status = member(value, &["status", "state"]).unwrap_or_default();
    let delivered = member(value, &["delivered_on", "delivered_at", "delivery_date", "delivered"]);
    let expected = member(value, &["expected_on", "estimated_delivery", "expected_delivery", "eta", "arrives_on"]);
    let mut told = match (status, delivered, expected) {
        ("delivered", Some(day), _) => format!("Order {id} was delivered on {day}."),
        ("in_transit" | "in transit" | "shipped", _, Some(day)) => {
            format!("Order {id} is on its way and should arrive on {day}.")
        }
        ("in_transit" | "in transit" | "shipped", _, None) => format!("Order {id} is on its way."),
        ("processing", _, Some(day)) => format!("Order {id} is being packed and should arrive on {day}."),
        ("processing", _, None) => format!("Order {id} is being packed."),
        ("", _, _) => format!("I found order {id}."),
        (other, _, _) => format!("Order {id}: {}.", spoken(other)),
    };
    let placed = member(value, &["placed_on", "placed_at", "ordered_on", "order_date"]);
    let mut titles = titles(value.get("items").or_else(|| value.get("books")).unwrap_or(&Value::Null), |_| true);
    titles.extend(member(value, &["item", "product"]).map(str::to_owned));
    match (placed, titles.is_empty()) {
        (Some(day), false) => told.push_str(&format!(" It was placed on {day} and holds {}.", list(&titles))),
        (Some(day), true) => told.push_str(&format!(" It was placed on {day}.")),
        (None, false) => told.push_str(&format!(" It holds {}.", list(&titles))),
        (None, true) => {}
    }
    if let Some(total) = member(value, &["total", "total_price"]) {
        told.push_str(&format!(" The total is {total}."));
    }
    told
}

fn is_returnable(item: &Value) -> bool {
    item.get("returnable") != Some(&Value::Bool(false))
}

/// That it can be returned, what of it, and until when.
pub(super) fn eligible(value: &Value) -> String {
    let id = member(value, &["order_id", "id"]).map_or_else(|| "That order".to_owned(), |id| format!("Order {id}"));
    let until = member(value, &["last_day", "return_by", "deadline", "until", "window_ends"]);
    let mut told = match until {
        Some(day) => format!("{id} can be returned until {day}."),
        None => format!("{id} can be returned."),
    };
    let items = value.get("items").unwrap_or(&Value::Null);
    let (can, cannot) = (titles(items, is_returnable), titles(items, |item| !is_returnable(item)));
    match (can.is_empty(), cannot.is_empty()) {
        (false, false) => told.push_str(&format!(" That is {}; {} cannot be returned.", list(&can), list(&cannot))),
        (false, true) => told.push_str(&format!(" That is {}.", list(&can))),
        (true, _) => {}
    }
    if let Some(days) = value.get("refund_days").and_then(Value::as_u64) {
        told.push_str(&format!(" The refund is made within {days} working days of the parcel's arrival."));
    }
    told
}

/// That it cannot, and why.
pub(super) fn ineligible(value: &Value) -> String {
    let id = member(value, &["order_id", "id"]).map_or_else(|| "That order".to_owned(), |id| format!("Order {id}"));
    let last = member(value, &["last_day", "return_by", "deadline"]);
    let days = value.get("window_days").and_then(Value::as_u64);
    let why = member(value, &["reason", "code", "message"]).unwrap_or_default();
    match (why, last, days) {
        ("not_delivered", _, _) => {
            format!("{id} has not been delivered yet, and only delivered orders can be returned.")
        }
        ("window_closed", Some(last), Some(days)) => {
            format!("{id} can no longer be returned: the {days} days after its delivery ended on {last}.")
        }
        ("window_closed", Some(last), None) => format!("{id} can no longer be returned: the last day was {last}."),
        ("window_closed", None, _) => format!("{id} can no longer be returned: its return window is over."),
        ("already_returned", _, _) => {
            format!("A return of order {} was started before.", id.trim_start_matches("Order "))
        }
        ("not_returnable", _, _) => format!("{id} holds nothing that is taken back."),
        ("", _, _) => format!("{id} cannot be returned."),
        (why, _, _) => format!("{id} cannot be returned: {}", sentence(&spoken(why))),
    }
}

/// That it is done, under which number.
pub(super) fn started(value: &Value) -> String {
    let rma = member(value, RETURN_NUMBERS);
    let Some(rma) = rma else { return tell::all(value) };
    let order = member(value, &["order_id"]).map(|id| format!(" for order {id}")).unwrap_or_default();
    let mut told = format!("Your return{order} is started. The return number is {rma}.");
    let titles = titles(value.get("items").unwrap_or(&Value::Null), |_| true);
    if !titles.is_empty() {
        told.push_str(&format!(" It covers {}.", list(&titles)));
    }
    if let Some(days) = value.get("refund_days").and_then(Value::as_u64) {
        told.push_str(&format!(" The refund is made within {days} working days of the parcel's arrival."));
    }
    told
}

pub(super) fn no_policy(tool: Option<&Offer>) -> String {
    let topics: Vec<String> = tool.map(topics).unwrap_or_default().iter().map(|topic| spoken(topic)).collect();
    let none = "There is no standard policy on that.";
    if topics.is_empty() {
        none.to_owned()
    } else {
        capital(&format!("{none} I can quote those on {}.", list(&topics)))
    }
}

fn line_of(item: &Value) -> Option<Value> {
    ["line", "number", "item_id", "id", "sku"].iter().find_map(|key| item.get(*key).cloned())
}

/// The lines whose titles the person named.
pub(super) fn named_lines(value: &Value, conversation: &Conversation) -> Vec<Value> {
    let said: Vec<String> = conversation.messages().map(str::to_lowercase).collect();
    let named = |item: &&Value| {
        let title = member(item, &["title", "name"]).unwrap_or_default().to_lowercase();
        is_returnable(item) && !title.is_empty() && said.iter().any(|said| said.contains(&title))
    };
    let items = value.get("items").and_then(Value::as_array).into_iter().flatten();
    items.filter(named).filter_map(line_of).collect()
}

/// All that can be returned.
pub(super) fn returnable_lines(value: &Value) -> Vec<Value> {
    let items = value.get("items").and_then(Value::as_array).into_iter().flatten();
    items.filter(|item| is_returnable(item)).filter_map(line_of).collect()
}

/// The policies that stand in a system prompt: sections whose names say so.
pub(super) fn policies(system: &str) -> Vec<(&str, &str)> {
    let tags = system.match_indices('<').filter_map(|(at, _)| {
        let (tag, behind) = system[at + 1..].split_once('>')?;
        let named = tag.ends_with("policy") || tag.ends_with("policies") || tag == "faq";
        let text = behind.split_once(&format!("</{tag}>")).map(|(text, _)| text.trim());
        text.filter(|text| named && !text.is_empty()).map(|text| (tag, text))
    });
    tags.collect()
}

/// The policy on a topic, as the system prompt has it.
pub(super) fn prompt_policy(system: &str, topic: &str) -> Option<String> {
    let about = stems(&spoken(topic));
    let fits = |tag: &str| words(&spoken(tag)).iter().any(|word| about.iter().any(|stem| word.starts_with(&stem[..])));
    let sections = policies(system);
    let found = sections.iter().find(|(tag, _)| fits(tag)).or(sections.first().filter(|_| sections.len() == 1));
    found.map(|(_, text)| (*text).to_owned())
}
