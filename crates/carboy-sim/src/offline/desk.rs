//! The support desk of a shop: orders, returns, standard policies, by the four tools of such a desk.
//!
//! ```text
//!  message ─▶ Case (what is wanted, which orders, whose e-mail, why) ─▶ a question, or a call
//!  result  ─▶ the next call, or its content in words
//! ```
//!
//! *Must never* name an order that no result of this turn named, or take a person's yes for a confirmation.

mod case;
mod roles;
mod words_of;

use serde_json::{Map, Value, json};

use super::conversation::{Conversation, Offer, Outcome};
use super::generic::{APPROVAL, is_for_operator};
use super::tell::{self, code};
use crate::script::Reply;
use case::{Case, Task};
use roles::{Role, Roles};
use words_of::{CARD, ask_email, ask_order, eligible, ineligible, order, started};

/// Calls in answer to one message; after that it is told how far it got.
const CALLS_MAX: usize = 5;

/// Does this agent have a desk's tools?
pub(super) fn is_one(conversation: &Conversation) -> bool {
    Roles::of(conversation).is_some()
}

/// The tools that are none of a desk's.
pub(super) fn others(conversation: &Conversation) -> Vec<&Offer> {
    let Some(roles) = Roles::of(conversation) else { return conversation.tools.iter().collect() };
    let own = [roles.lookup, roles.check, roles.start, roles.policy];
    conversation.tools.iter().filter(|tool| !own.iter().flatten().any(|own| own.name == tool.name)).collect()
}

/// What it can help with.
pub(super) fn can_help(conversation: &Conversation) -> String {
    let roles = Roles::of(conversation).unwrap_or_default();
    let quotes = roles.policy.is_some() || !words_of::policies(&conversation.system).is_empty();
    let parts = [
        (roles.lookup.is_some(), "where an order is"),
        (roles.start.is_some() || roles.check.is_some(), "returns"),
        (quotes, "our standard policies"),
    ];
    let parts: Vec<String> = parts.iter().filter(|(has, _)| *has).map(|(_, part)| (*part).to_owned()).collect();
    format!("I can help with {}.", tell::list(&parts))
}

/// What it answers to the person's last words; `None` where they are not its business.
pub(super) fn to_person(conversation: &Conversation) -> Option<Reply> {
    let roles = Roles::of(conversation)?;
    let case = Case::of(conversation, &roles);
    let waits = |last: &Outcome| roles.role_of(last) == Some(Role::Start) && is_pending(&last.value);
    if case.agrees && conversation.outcomes().next().is_some_and(waits) {
        return Some(Reply::text(CARD));
    }
    match (case.now?, case.orders.first()) {
        (Task::Policy, _) => {
            let topic = case.topic.clone().unwrap_or_default();
            match roles.policy {
                Some(tool) => Some(Reply::tool(&tool.name, json!({(argument(tool, "topic")): topic}))),
                None => words_of::prompt_policy(&conversation.system, &topic).map(Reply::text),
            }
        }
        (task, None) => Some(ask_order(task)),
        (Task::Order, Some(_)) => next_look_up(&roles, &case, &[]),
        (Task::Return, Some(_)) if case.orders.len() > 1 && roles.lookup.is_some() => next_look_up(&roles, &case, &[]),
        (Task::Return, Some(order)) => {
            // Checked before, and the reason came only now.
            let proof = roles.proof()?;
            let checked = conversation.outcomes().find(|outcome| outcome.tool == proof.name && is_of(outcome, order));
            match (&case.reason, checked) {
                (Some(_), Some(checked)) if is_eligible(&checked.value) => {
                    initiate(conversation, &roles, &case, checked, "")
                }
                _ => call_order(proof, order, &case),
            }
        }
    }
}

/// What it answers to results of its tools; `None` where the last of them is of no tool of a desk.
pub(super) fn to_results(conversation: &Conversation, fresh: &[&Outcome]) -> Option<Reply> {
    let last = *fresh.last()?;
    let roles = Roles::of(conversation)?;
    let case = Case::of(conversation, &roles);
    let may_call = fresh.len() < CALLS_MAX;
    let proves = case.now == Some(Task::Return) && case.orders.len() == 1;
    match (roles.role_of(last)?, last.is_error) {
        (Role::Lookup | Role::Check, true) => Some(refused(last, &case)),
        (Role::Lookup, false) if proves && roles.check.is_none() => {
            let told = order(&last.value);
            if !is_eligible(&last.value) {
                return Some(Reply::text(format!("{told} It cannot be returned.")));
            }
            initiate(conversation, &roles, &case, last, &told).or_else(|| Some(Reply::text(told)))
        }
        (Role::Lookup, false) => {
            let next = may_call.then(|| next_look_up(&roles, &case, fresh)).flatten();
            next.or_else(|| Some(looked_up(&roles, fresh, &case)))
        }
        (Role::Check, false) if !is_eligible(&last.value) => Some(Reply::text(ineligible(&last.value))),
        (Role::Check, false) => {
            let told = eligible(&last.value);
            let call = may_call.then(|| initiate(conversation, &roles, &case, last, &told)).flatten();
            call.or_else(|| Some(Reply::text(told)))
        }
        (Role::Start, _) if is_for_operator(&last.value) => Some(Reply::text(APPROVAL)),
        (Role::Start, _) if is_pending(&last.value) => Some(Reply::text(CARD)),
        (Role::Start, false) => Some(Reply::text(started(&last.value))),
        (Role::Start, true) => {
            let first = ["eligib", "not_yet"].iter().any(|part| code(&last.value).contains(part));
            let proof = roles.proof().filter(|proof| first && !fresh.iter().any(|outcome| outcome.tool == proof.name));
            let again = proof.and_then(|proof| call_order(proof, case.orders.first()?, &case));
            again.or_else(|| Some(refused(last, &case)))
        }
        (Role::Policy, false) => Some(Reply::text(policy(&last.value))),
        (Role::Policy, true) => Some(Reply::text(words_of::no_policy(roles.policy))),
    }
}

/// The name of an argument, as the tool spells it.
fn argument(tool: &Offer, like: &str) -> String {
    let fits = tool.params.iter().find(|param| param.name == like || param.name.contains(like));
    fits.map_or_else(|| like.to_owned(), |param| param.name.clone())
}

/// Looks up the next of the orders that were named; none is looked up twice in a turn.
fn next_look_up(roles: &Roles<'_>, case: &Case, fresh: &[&Outcome]) -> Option<Reply> {
    let lookup = roles.lookup?;
    let seen = |order: &&String| !fresh.iter().any(|outcome| outcome.tool == lookup.name && is_of(outcome, order));
    let order = case.orders.iter().find(seen)?;
    call_order(lookup, order, case)
}

/// A call that names an order, and its e-mail where that is known. Asks first where the tool cannot do without.
fn call_order(tool: &Offer, order: &str, case: &Case) -> Option<Reply> {
    let email = argument(tool, "email");
    let mut input = Map::new();
    input.insert(argument(tool, "order_id"), json!(order));
    match &case.email {
        Some(known) if tool.param(&email).is_some() => drop(input.insert(email, json!(known))),
        None if tool.requires(&email) => return Some(ask_email()),
        Some(_) | None => {}
    }
    Some(Reply::tool(&tool.name, Value::Object(input)))
}

/// Starts the return, once it is known why; else asks. `told` is said before the call.
fn initiate(
    conversation: &Conversation,
    roles: &Roles<'_>,
    case: &Case,
    checked: &Outcome,
    told: &str,
) -> Option<Reply> {
    let tool = roles.start?;
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
    Some(Reply { text: told.to_owned(), ..Reply::tool(&tool.name, Value::Object(input)) })
}

fn is_of(outcome: &Outcome, order: &str) -> bool {
    let input = outcome.input.as_object().into_iter().flatten();
    input.into_iter().any(|(_, value)| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(order)))
}

fn is_eligible(value: &Value) -> bool {
    let said = ["eligible", "is_eligible", "returnable", "can_return"].iter().find_map(|key| value.get(*key));
    said == Some(&Value::Bool(true))
}

/// Where the number of a return stands.
const RETURN_NUMBERS: &[&str] = &["rma", "rma_id", "rma_number", "return_number", "return_id"];

/// A write that waits for a person has no number yet.
fn is_pending(value: &Value) -> bool {
    let done = RETURN_NUMBERS.iter().any(|key| value.get(*key).is_some_and(Value::is_string));
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

fn looked_up(roles: &Roles<'_>, fresh: &[&Outcome], case: &Case) -> Reply {
    let is_one = |outcome: &&&Outcome| roles.role_of(outcome) == Some(Role::Lookup) && !outcome.is_error;
    let found = fresh.iter().filter(is_one);
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
