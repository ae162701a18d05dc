//! The support desk of a shop: orders, returns, standard policies, by the four tools of such a desk.
//!
//! ```text
//!  message ─▶ Case (what is wanted, which orders, whose e-mail, why) ─▶ a question, or a call
//!  result  ─▶ the next call, or its content in words
//! ```
//!
//! *Must never* name an order that no result of this turn named, or take a person's yes for a confirmation.

mod case;
mod words_of;

use serde_json::{Map, Value, json};

use super::conversation::{Conversation, Offer, Outcome};
use super::tell::{self, code};
use crate::script::Reply;
use case::{Case, Task};
use words_of::{CARD, ask_email, ask_order, eligible, ineligible, order, started};

pub(super) const LOOKUP: &str = "lookup_order";
pub(super) const CHECK: &str = "check_return_eligibility";
pub(super) const RETURN: &str = "initiate_return";
pub(super) const POLICY: &str = "lookup_policy";

/// Calls in answer to one message; after that it is told how far it got.
const CALLS_MAX: usize = 5;

/// Does this agent have a desk's tools?
pub(super) fn is_one(conversation: &Conversation) -> bool {
    [LOOKUP, CHECK, RETURN, POLICY].iter().any(|name| conversation.tool(name).is_some())
}

/// What it answers to the person's last words; `None` where they are not its business.
pub(super) fn to_person(conversation: &Conversation) -> Option<Reply> {
    let case = Case::of(conversation);
    if case.agrees && conversation.outcomes().next().is_some_and(|last| last.tool == RETURN && is_pending(&last.value))
    {
        return Some(Reply::text(CARD));
    }
    match case.now? {
        Task::Policy => conversation.tool(POLICY).map(|tool| {
            let topic = case.topic.clone().unwrap_or_default();
            Reply::tool(&tool.name, json!({(argument(tool, "topic")): topic}))
        }),
        Task::Order => next_look_up(conversation, &case, &[]).or_else(|| Some(ask_order(Task::Order))),
        Task::Return if case.orders.len() > 1 => next_look_up(conversation, &case, &[]),
        Task::Return => {
            let Some(order) = case.orders.first() else { return Some(ask_order(Task::Return)) };
            // Checked before, and the reason came only now.
            let checked = conversation.outcomes().find(|outcome| outcome.tool == CHECK && is_of(outcome, order));
            match (&case.reason, checked) {
                (Some(_), Some(checked)) if is_eligible(&checked.value) => initiate(conversation, &case, checked, ""),
                _ => call_order(conversation, CHECK, order, &case),
            }
        }
    }
}

/// What it answers to results of its tools; `None` where the last of them is of no tool of a desk.
pub(super) fn to_results(conversation: &Conversation, fresh: &[&Outcome]) -> Option<Reply> {
    let last = *fresh.last()?;
    let case = Case::of(conversation);
    let may_call = fresh.len() < CALLS_MAX;
    match (&last.tool[..], last.is_error) {
        (LOOKUP | CHECK, true) => Some(refused(last, &case)),
        (LOOKUP, false) => {
            let next = may_call.then(|| next_look_up(conversation, &case, fresh)).flatten();
            next.or_else(|| Some(looked_up(fresh, &case)))
        }
        (CHECK, false) if !is_eligible(&last.value) => Some(Reply::text(ineligible(&last.value))),
        (CHECK, false) => {
            let told = eligible(&last.value);
            let call = may_call.then(|| initiate(conversation, &case, last, &told)).flatten();
            call.or_else(|| Some(Reply::text(told)))
        }
        (RETURN, _) if is_pending(&last.value) => Some(Reply::text(CARD)),
        (RETURN, false) => Some(Reply::text(started(&last.value))),
        (RETURN, true) => {
            let unchecked = code(&last.value).contains("eligib") && !fresh.iter().any(|outcome| outcome.tool == CHECK);
            let again = unchecked.then(|| call_order(conversation, CHECK, case.orders.first()?, &case)).flatten();
            again.or_else(|| Some(refused(last, &case)))
        }
        (POLICY, false) => Some(Reply::text(policy(&last.value))),
        (POLICY, true) => Some(Reply::text(words_of::no_policy(conversation.tool(POLICY)))),
        _ => None,
    }
}

/// The name of an argument, as the tool spells it.
fn argument(tool: &Offer, like: &str) -> String {
    let fits = tool.params.iter().find(|param| param.name == like || param.name.contains(like));
    fits.map_or_else(|| like.to_owned(), |param| param.name.clone())
}

/// Looks up the next of the orders that were named; none is looked up twice in a turn.
fn next_look_up(conversation: &Conversation, case: &Case, fresh: &[&Outcome]) -> Option<Reply> {
    let seen = |order: &&String| !fresh.iter().any(|outcome| outcome.tool == LOOKUP && is_of(outcome, order));
    let order = case.orders.iter().find(seen)?;
    call_order(conversation, LOOKUP, order, case)
}

/// A call that names an order, and its e-mail where that is known. Asks first where the tool cannot do without.
fn call_order(conversation: &Conversation, name: &str, order: &str, case: &Case) -> Option<Reply> {
    let tool = conversation.tool(name)?;
    let email = argument(tool, "email");
    let mut input = Map::new();
    input.insert(argument(tool, "order_id"), json!(order));
    match &case.email {
        Some(known) if tool.param(&email).is_some() => drop(input.insert(email, json!(known))),
        None if tool.requires(&email) => return Some(ask_email()),
        Some(_) | None => {}
    }
    Some(Reply::tool(name, Value::Object(input)))
}

/// Starts the return, once it is known why; else asks. `told` is said before the call.
fn initiate(conversation: &Conversation, case: &Case, checked: &Outcome, told: &str) -> Option<Reply> {
    let tool = conversation.tool(RETURN)?;
    let reason = tool.params.iter().find(|param| param.name.contains("reason"));
    let mut input = Map::new();
    input.insert(argument(tool, "order_id"), json!(case.orders.first()?));
    let email = argument(tool, "email");
    if let (Some(known), Some(_)) = (&case.email, tool.param(&email)) {
        input.insert(email, json!(known));
    }
    match (reason, &case.reason) {
        (Some(reason), Some(why)) => drop(input.insert(reason.name.clone(), json!(why))),
        (Some(reason), None) if reason.required => {
            let question = words_of::ask_reason(reason);
            return Some(Reply::text(if told.is_empty() { question } else { format!("{told} {question}") }));
        }
        (Some(_), None) | (None, _) => {}
    }
    let list = tool.params.iter().find(|param| matches!(&param.name[..], "lines" | "items" | "line_items"));
    if let Some(list) = list {
        let named = words_of::named_lines(&checked.value, conversation);
        let lines = if named.is_empty() && list.required { words_of::returnable_lines(&checked.value) } else { named };
        if !lines.is_empty() {
            input.insert(list.name.clone(), Value::Array(lines));
        }
    }
    Some(Reply { text: told.to_owned(), ..Reply::tool(RETURN, Value::Object(input)) })
}

fn is_of(outcome: &Outcome, order: &str) -> bool {
    let input = outcome.input.as_object().into_iter().flatten();
    input.into_iter().any(|(_, value)| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(order)))
}

fn is_eligible(value: &Value) -> bool {
    value.get("eligible").or_else(|| value.get("is_eligible")) == Some(&Value::Bool(true))
}

/// A write that waits for a person has no number yet.
pub(super) fn is_pending(value: &Value) -> bool {
    let done =
        ["rma", "rma_id", "rma_number", "return_id"].iter().any(|key| value.get(*key).is_some_and(Value::is_string));
    let text = value.to_string().to_lowercase();
    !done && ["confirm", "awaiting", "pending"].iter().any(|word| text.contains(word))
}

/// A tool said no: what the person can do about it, and nothing about the order.
fn refused(outcome: &Outcome, case: &Case) -> Reply {
    let code = code(&outcome.value);
    if code.contains("email") && code.contains("required") {
        return ask_email();
    }
    if code.contains("not_found") {
        return match &case.email {
            None => ask_email(),
            Some(_) => Reply::text(
                "I could not find an order with that number and e-mail address. Please check both; could you give me the \
                 order number and the e-mail address that it was placed with again?",
            ),
        };
    }
    if code.contains("invalid") {
        return Reply::text(
            "That does not look right to the order system. An order number is written as in your confirmation e-mail; could \
             you give me the number and the e-mail address again?",
        );
    }
    let said = tell::message(&outcome.value).map(tell::sentence);
    Reply::text(said.unwrap_or_else(|| "That did not work just now. Please try again in a moment.".into()))
}

fn looked_up(fresh: &[&Outcome], case: &Case) -> Reply {
    let found = fresh.iter().filter(|outcome| outcome.tool == LOOKUP && !outcome.is_error);
    let mut text = found.map(|outcome| order(&outcome.value)).collect::<Vec<_>>().join(" ");
    if case.now == Some(Task::Return) && case.orders.len() > 1 {
        text.push_str(" Which of these orders would you like to return?");
    }
    Reply::text(text)
}

/// The policy, letter by letter.
fn policy(value: &Value) -> String {
    let words = tell::member(value, &["text", "policy", "answer", "words", "content", "entry", "body"]);
    words.or(value.as_str()).map_or_else(|| tell::all(value), str::to_owned)
}
