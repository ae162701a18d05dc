//! The offline model: rules in the place of a model, so that chat agents can be tried without a key and without a network.
//!
//! ```text
//!  request ─▶ Conversation ─▶ results to tell? ─▶ desk │ assistant │ any tool ─▶ words, or the next call
//!                          └▶ the person's words ─▶ desk │ assistant │ small talk │ any tool │ the refusal
//! ```
//!
//! It goes by the tools on offer and by the conversation in the request, keeps nothing between requests and gives the same
//! answer to the same request. It knows no facts: ids, days and figures come from results of tools alone. Whoever shows what
//! it says, says beside it that no model was asked ([`OfflineModel::NAME`]).
//!
//! *Must never* act on what a person says in the place of a confirmation, or hold back what a person wants handed to a tool:
//! what may be done is decided by code behind it, and that is what is to be seen.

mod assistant;
pub(crate) mod conversation;
mod desk;
mod generic;
mod tell;
mod words;

use serde_json::Value;

use crate::script::Reply;
use conversation::{Conversation, Outcome};
use words::{after, quoted, says};

/// Calls in answer to one message; engines bound them as well.
const CALLS_MAX: usize = 6;

/// Rules in the place of a model. See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfflineModel;

const HUMAN: &str = "I cannot connect you with a person myself. Please use this chat's way to ask for a person, and somebody \
                     of the team takes over.";
const THANKS: &str = "You're welcome. Is there anything else that I can help with?";
const DECLINED: &str = "All right, nothing was changed. Is there anything else that I can help with?";
const UNKNOWN: &str = "It was begun, and it is not known yet whether it was done. It will be looked after.";
const NOTED: &str = "Noted. Is there anything else that I can help with?";
const WAITING: &str = "Please look at the card and confirm it there; nothing happens until you do.";
const NO_TOOLS: &str = "This is carboy's offline model. It answers by rules and knows no facts, so there is little that it can \
                        say here; with a real model this agent answers by its prompt.";

impl OfflineModel {
    /// The name that its answers carry in the place of a model's.
    pub const NAME: &'static str = "carboy-offline";

    /// No model is asked and nothing leaves the machine.
    pub const fn is_offline(self) -> bool {
        true
    }

    /// The answer to a request.
    pub(crate) fn reply(self, conversation: &Conversation) -> Reply {
        let fresh = conversation.fresh();
        let reply = match fresh.last() {
            Some(last) if fresh.len() >= CALLS_MAX => generic::to_result(last),
            Some(last) => to_results(conversation, &fresh, last),
            None => to_person(conversation),
        };
        // A tool is only called when it is on offer.
        match &reply.tool {
            Some(call) if conversation.tool(&call.name).is_none() => Reply::text(off_topic(conversation)),
            Some(_) | None => reply,
        }
    }
}

fn to_results(conversation: &Conversation, fresh: &[&Outcome], last: &Outcome) -> Reply {
    let desk = desk::to_results(conversation, fresh);
    let reply = desk.or_else(|| assistant_result(last)).or_else(|| generic::to_results(conversation, fresh));
    reply.unwrap_or_else(|| generic::to_result(last))
}

fn assistant_result(last: &Outcome) -> Option<Reply> {
    if generic::waits(&last.value) && !last.is_error { None } else { assistant::to_result(last) }
}

fn to_person(conversation: &Conversation) -> Reply {
    if let Some(note) = conversation.note() {
        return to_note(conversation, note);
    }
    let message = conversation.message();
    let said = words::words(message);
    if says(&said, WANTS_HUMAN) {
        return Reply::text(HUMAN);
    }
    let desk = desk::is_one(conversation).then(|| desk::to_person(conversation)).flatten();
    let reply = desk.or_else(|| assistant::to_person(conversation)).or_else(|| small_talk(conversation, &said));
    let reply = reply.or_else(|| echo(conversation, message));
    // A desk's own tools were judged by the desk.
    let reply = reply.or_else(|| generic::to_person(conversation, &desk::others(conversation)));
    reply.unwrap_or_else(|| Reply::text(off_topic(conversation)))
}

const WANTS_HUMAN: &[&str] = &[
    "human",
    "real person",
    "a person",
    "to someone",
    "to somebody",
    "representative",
    "live agent",
    "an agent",
    "operator",
    "supervisor",
    "manager",
    "customer service",
];
const GREETINGS: &[&str] = &["hi", "hello", "hey", "good morning", "good afternoon", "good evening", "greetings"];
const THANKING: &[&str] =
    &["thanks", "thank you", "thank", "cheers", "bye", "goodbye", "thats all", "that is all", "no thanks"];

fn small_talk(conversation: &Conversation, said: &[String]) -> Option<Reply> {
    if said.len() <= 8 && says(said, THANKING) {
        return Some(Reply::text(THANKS));
    }
    if generic::is_waiting(conversation)
        && said.len() <= 4
        && says(said, &["yes", "ok", "okay", "sure", "confirm", "go ahead"])
    {
        return Some(Reply::text(WAITING));
    }
    (said.len() <= 4 && says(said, GREETINGS)).then(|| Reply::text(format!("Hello! {}", can_help(conversation))))
}

fn can_help(conversation: &Conversation) -> String {
    if desk::is_one(conversation) {
        return format!("{} What can I do for you?", desk::can_help(conversation));
    }
    let offers = generic::offers(conversation);
    if offers.is_empty() {
        return NO_TOOLS.to_owned();
    }
    format!("I can help with these: {}. What would you like?", tell::list(&offers))
}

/// The agent's refusal, word for word; an agent that has none says what it can do.
fn off_topic(conversation: &Conversation) -> String {
    if let Some(refusal) = refusal(&conversation.system) {
        return refusal;
    }
    if desk::is_one(conversation) {
        return format!("I'm sorry, that is not something I can do here. {}", desk::can_help(conversation));
    }
    can_help(conversation)
}

/// The refusal stands in the system prompt, between tags of its own.
fn refusal(system: &str) -> Option<String> {
    ["refusal_template", "refusal"].iter().find_map(|tag| {
        let start = system.find(&format!("<{tag}>"))? + tag.len() + 2;
        let end = system[start..].find(&format!("</{tag}>"))? + start;
        Some(system[start..end].trim().trim_matches('"').to_owned()).filter(|text| !text.is_empty())
    })
}

/// A person who tries the output filter wants to see a text again. A desk with a refusal does not do that.
fn echo(conversation: &Conversation, message: &str) -> Option<Reply> {
    let assistant = [assistant::CALCULATOR, assistant::NOTE].iter().any(|name| conversation.tool(name).is_some());
    if !assistant && refusal(&conversation.system).is_some() {
        return None;
    }
    let behind = after(message, &["print", "repeat", "echo", "say", "output", "show me", "show"])?;
    let secret = behind.split_whitespace().find(|token| token.starts_with("sk-"));
    let text = quoted(behind).or_else(|| secret.map(str::to_owned)).or_else(|| {
        let after_colon = behind.split_once(':').map(|(_, text)| text.trim().to_owned());
        after_colon.filter(|text| !text.is_empty())
    })?;
    Some(Reply::text(format!("Here it is: {text}")))
}

/// What came of a confirmed call, as the runtime tells it: the tool's name and its result.
fn to_note(conversation: &Conversation, note: &str) -> Reply {
    if let Some(outcome) = noted(conversation, note) {
        return to_results(conversation, &[&outcome], &outcome);
    }
    let said = words::words(note);
    if says(&said, &["declined", "nothing was done"]) {
        return Reply::text(DECLINED);
    }
    Reply::text(if says(&said, &["not known"]) { UNKNOWN } else { NOTED })
}

fn noted(conversation: &Conversation, note: &str) -> Option<Outcome> {
    let tool = conversation.tools.iter().find(|tool| note.contains(&tool.name[..]))?;
    let (start, end) = (note.find('{')?, note.rfind('}')?);
    let value: Value = serde_json::from_str(note.get(start..=end)?).ok()?;
    let is_error = value.get("error").is_some_and(|error| !error.is_null());
    // What it was called with stands in the call that asked for it.
    let input = conversation.outcomes().find(|outcome| outcome.tool == tool.name).map(|outcome| outcome.input.clone());
    Some(Outcome { tool: tool.name.clone(), input: input.unwrap_or_default(), value, is_error })
}
