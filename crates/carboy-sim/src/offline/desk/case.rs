//! What a person wants of the desk: the task, the orders, the e-mail address and the reason, from all that they wrote.
//!
//! *Must never* read anything from the desk's own answers: they may have been withheld.

use super::super::conversation::{Conversation, Offer, Param, Turn};
use super::super::words::{emails, ids, numbers, says, stems, words};
use super::roles::Roles;
use super::words_of::policies;
use super::{is_eligible, is_of};

/// Most orders of one message that are looked at.
const ORDERS_MAX: usize = 4;

/// Longest number of an order.
const ORDER_BYTES_MAX: usize = 24;

/// Words of a message that is hardly more than an e-mail address.
const ALONE_WORDS_MAX: usize = 6;

/// What the desk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Order,
    Return,
    Policy,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Case {
    /// What the last message is about; `None` is nothing of the desk's.
    pub now: Option<Task>,
    /// The orders that were named last.
    pub orders: Vec<String>,
    pub email: Option<String>,
    /// Why something is returned, as the tool takes it.
    pub reason: Option<String>,
    /// The topic of a question about policies.
    pub topic: Option<String>,
    /// The last message says yes and nothing else.
    pub agrees: bool,
}

/// Phrases of topics that shops have policies on; besides them a topic's own words count.
const TOPICS: &[(&str, &[&str])] = &[
    ("shipping", &["shipping", "ship", "deliver", "delivery", "postage", "express"]),
    ("payment", &["payment", "pay", "paying", "paypal", "credit card", "credit cards", "debit card", "charged"]),
    ("cancellation", &["cancel", "cancelling", "canceling", "cancellation"]),
    ("gift_cards", &["gift card", "gift cards", "gift", "voucher", "vouchers"]),
    ("damaged_items", &["damaged", "damage", "broken", "torn", "defective"]),
    ("password_reset", &["password", "sign in", "log in", "login", "reset"]),
    ("privacy", &["privacy", "personal data", "my data", "gdpr"]),
    ("returns", &["return", "returns", "returning", "refund", "refunds", "send back", "exchange"]),
    ("refunds", &["refund", "refunds", "money back"]),
    ("contact", &["contact", "phone number", "opening hours", "address"]),
];

const RETURNING: &[&str] = &[
    "return",
    "returning",
    "send back",
    "send it back",
    "send this back",
    "refund",
    "money back",
    "give back",
    "exchange",
];
const ASKING: &[&str] = &[
    "policy",
    "policies",
    "how long",
    "how much",
    "how many days",
    "how do",
    "how does",
    "how can",
    "do you",
    "what is",
    "whats",
    "what are",
    "what happens",
    "can i",
    "is there",
    "are there",
    "tell me about",
    "when do",
    "when does",
    "when will",
    "which",
    "does",
    "is it possible",
];
const OWN: &[&str] = &[
    "my order",
    "my package",
    "my parcel",
    "this order",
    "my orders",
    "the order",
    "id like to",
    "i want to",
    "i would like to",
    "i need to",
    "help me",
    "return my",
    "return this",
    "return it",
    "my books",
    "my book",
];
const ORDERING: &[&str] = &[
    "my order",
    "my orders",
    "order status",
    "status of",
    "track",
    "tracking",
    "package",
    "parcel",
    "the order",
    "this order",
    "my delivery",
    "an order",
    "order number",
    "order",
    "orders",
    "where is it",
    "my book",
    "my books",
];
const YES: &[&str] =
    &["yes", "yep", "yeah", "ok", "okay", "sure", "confirm", "confirmed", "go ahead", "do it", "please do"];

/// Reasons in people's words, by a part of the option's name.
const REASONS: &[(&str, &[&str])] = &[
    ("damage", &["damaged", "damage", "broken", "torn", "ripped", "bent", "wet", "defective", "stained"]),
    ("wrong", &["wrong", "different book", "another book", "not what i ordered", "incorrect"]),
    ("described", &["not as described", "described", "misleading", "not what i expected"]),
    (
        "mind",
        &[
            "changed my mind",
            "no longer",
            "anymore",
            "any more",
            "dont want it",
            "dont need",
            "dont like",
            "didnt like",
        ],
    ),
];

impl Case {
    /// Reads everything that the person wrote.
    pub fn of(conversation: &Conversation, roles: &Roles<'_>) -> Case {
        let mut case = Case::default();
        let mut open = None;
        let messages: Vec<&str> = conversation.messages().collect();
        for (at, message) in messages.iter().enumerate() {
            let last = at + 1 == messages.len();
            let words = words(message);
            let found = orders(message, roles, open.is_some());
            let asked = explicit(message, &words, &found, open, (conversation, roles));
            if let Some(Task::Return) = asked
                && open != asked
            {
                case.reason = None;
            }
            let values = !found.is_empty() || !emails(message).is_empty();
            // An address among other words says nothing about an order.
            let alone = !found.is_empty() || (values && words.len() <= ALONE_WORDS_MAX);
            if !found.is_empty() {
                case.orders = found;
            }
            if let Some(email) = emails(message).pop() {
                case.email = Some(email);
            }
            let task = asked.or(open.filter(|_| values)).or(alone.then_some(Task::Order));
            if task.or(open) == Some(Task::Return) {
                case.reason = reason(&words, message, roles).or(case.reason);
            }
            if last {
                case.agrees = words.len() <= 4 && says(&words, YES);
                case.now =
                    task.or_else(|| case.gives_reason(&words, message, conversation, roles).then_some(Task::Return));
                case.topic = (task == Some(Task::Policy)).then(|| topic(&words, roles));
            }
            if matches!(task, Some(Task::Order | Task::Return)) {
                open = task;
            }
        }
        case
    }

    /// The person was asked why, and this is the answer.
    fn gives_reason(
        &mut self,
        words: &[String],
        message: &str,
        conversation: &Conversation,
        roles: &Roles<'_>,
    ) -> bool {
        let Some(order) = self.orders.first() else { return false };
        // The turn before ended with the check of that order, and with a question.
        let before = conversation.turns.iter().rev().skip_while(|turn| matches!(turn, Turn::Result(_)));
        let mut before = before.skip_while(|turn| matches!(turn, Turn::Person(_)));
        let asked = matches!(before.next(), Some(Turn::Agent(text)) if text.trim_end().ends_with('?'));
        let fresh = conversation.fresh();
        let earlier = conversation.outcomes().find(|outcome| !fresh.contains(outcome));
        let proof = roles.proof().map_or("", |tool| &tool.name[..]);
        let checked = earlier.is_some_and(|last| last.tool == proof && is_of(last, order) && is_eligible(&last.value));
        if !(asked && checked) || message.trim_end().ends_with('?') {
            return false;
        }
        if self.reason.is_none() {
            self.reason = reason(words, message, roles).or_else(|| other_reason(message, roles));
        }
        self.reason.is_some()
    }
}

/// What a message asks for by itself.
fn explicit(
    message: &str,
    words: &[String],
    orders: &[String],
    open: Option<Task>,
    (conversation, roles): (&Conversation, &Roles<'_>),
) -> Option<Task> {
    let returning = says(words, RETURNING) && (roles.start.is_some() || roles.check.is_some());
    let quotes = roles.policy.is_some() || !policies(&conversation.system).is_empty();
    let (asking, own) = (message.contains('?') || says(words, ASKING), says(words, OWN));
    if returning && !orders.is_empty() {
        return Some(Task::Return);
    }
    // Some things are a policy's, whoever's order it is.
    let always = says(words, &["policy", "policies", "cancel", "password"])
        || (says(words, &["damaged"]) && !returning && (open != Some(Task::Return) || message.contains('?')));
    let general = asking && !own && orders.is_empty();
    let topical = best_topic(words, roles).is_some();
    if quotes && (says(words, &["policy", "policies"]) || (topical && (always || general))) && orders.is_empty() {
        return Some(Task::Policy);
    }
    if returning {
        return Some(Task::Return);
    }
    (roles.lookup.is_some()
        && says(words, ORDERING)
        && (own || asking || says(words, &["where", "status", "track", "when", "check"])))
    .then_some(Task::Order)
}

/// Numbers of orders in a message. A bare number counts where a number was asked for, or stands behind the word.
fn orders(message: &str, roles: &Roles<'_>, asked: bool) -> Vec<String> {
    let prefix = prefix(roles);
    let named = says(&words(message), &["order", "orders", "number"]);
    let upper = |id: String| id.to_ascii_uppercase();
    let mut found: Vec<String> = ids(message).into_iter().map(upper).collect();
    // Unasked, only what looks like one of the shop's numbers is one.
    found.retain(|id| {
        let own = prefix.as_deref().is_none_or(|prefix| id.starts_with(prefix.trim_end_matches('-')));
        id.len() <= ORDER_BYTES_MAX && (own || asked || named || id.chars().all(|c| c.is_ascii_digit()))
    });
    if let Some(prefix) = &prefix {
        let word = prefix.trim_end_matches(['-', '_']);
        for id in &mut found {
            // `bk1001` is `BK-1001`, and `#1001` too.
            let digits = id.strip_prefix(word).unwrap_or(id).trim_start_matches(['-', '_']);
            if digits.chars().all(|c| c.is_ascii_digit()) && !id.starts_with(&prefix[..]) {
                *id = format!("{prefix}{digits}");
            }
        }
    }
    if found.is_empty() && (asked || named) {
        let bare = numbers(message)
            .into_iter()
            .filter(|number| number.len() >= 3 && number.chars().all(|c| c.is_ascii_digit()));
        found.extend(bare.map(|number| format!("{}{number}", prefix.as_deref().unwrap_or_default())));
    }
    found.dedup();
    found.truncate(ORDERS_MAX);
    found
}

/// What the numbers of orders begin with: capitals and a hyphen in the schema of the look-up.
fn prefix(roles: &Roles<'_>) -> Option<String> {
    let tool = roles.lookup.or(roles.check)?;
    let param = tool.params.iter().find(|param| param.name.contains("order"))?;
    [&param.pattern, &param.description, &tool.description].iter().find_map(|text| {
        text.split(|c: char| !(c.is_ascii_uppercase() || c == '-')).find_map(|part| {
            let letters = part.strip_suffix('-')?;
            ((1..=5).contains(&letters.len()) && letters.chars().all(|c| c.is_ascii_uppercase()))
                .then(|| part.to_owned())
        })
    })
}

/// The topics that the tool names: its options, or the words of its description that are joined by commas.
pub(super) fn topics(tool: &Offer) -> Vec<String> {
    let listed: Vec<String> = tool.params.iter().flat_map(|param| param.options.clone()).collect();
    if !listed.is_empty() {
        return listed;
    }
    let texts = [&tool.description].into_iter().chain(tool.params.iter().map(|param| &param.description));
    let topics = texts.flat_map(|text| {
        let list = text.split_once(':').map_or("", |(_, list)| list);
        let list = list.split('.').next().unwrap_or_default();
        list.split([',', ' ']).map(str::trim).filter(|topic| is_topic(topic)).map(str::to_owned)
    });
    topics.collect()
}

fn is_topic(text: &str) -> bool {
    text.len() >= 3
        && !matches!(text, "and" | "the" | "for" | "one")
        && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// The topic that fits best, and at all.
fn best_topic(words: &[String], roles: &Roles<'_>) -> Option<String> {
    let known = roles.policy.map(topics).filter(|topics| !topics.is_empty());
    let known = known.unwrap_or_else(|| TOPICS.iter().map(|(topic, _)| (*topic).to_owned()).collect());
    let score = |topic: &String| {
        let own = words_in(topic).iter().filter(|part| words.contains(part)).count();
        let phrases = TOPICS.iter().find(|(name, _)| *name == &topic[..]).map_or(&[][..], |(_, phrases)| phrases);
        own + phrases.iter().filter(|phrase| says(words, &[phrase])).count()
    };
    let scored = known.into_iter().map(|topic| (score(&topic), topic)).filter(|(score, _)| *score > 0);
    // The first of equals.
    scored
        .fold(None, |best: Option<(usize, String)>, next| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            Some(_) | None => Some(next),
        })
        .map(|(_, topic)| topic)
}

fn words_in(topic: &str) -> Vec<String> {
    words(topic)
}

/// The topic; where none is known the word behind which the question is.
fn topic(words: &[String], roles: &Roles<'_>) -> String {
    let word = || {
        stems(&words.join(" "))
            .into_iter()
            .find(|stem| !matches!(&stem[..], "polic" | "whats" | "tell"))
            .unwrap_or_default()
    };
    best_topic(words, roles).unwrap_or_else(word)
}

fn reason_param<'a>(roles: &Roles<'a>) -> Option<&'a Param> {
    roles.start?.params.iter().find(|param| param.name.contains("reason"))
}

/// Why something goes back, where the message says it.
fn reason(words: &[String], message: &str, roles: &Roles<'_>) -> Option<String> {
    let param = reason_param(roles)?;
    let part = REASONS.iter().find(|(_, phrases)| says(words, phrases)).map(|(part, _)| *part);
    if param.options.is_empty() {
        // Free text: in the person's own words.
        let behind = super::super::words::after(message, &["because", "since", "as it", "reason:"]);
        return behind.or(part.map(|_| message)).map(|text| text.trim_end_matches('.').to_owned());
    }
    let spoken = |option: &&String| {
        let parts = words_in(option);
        parts.len() > 1 && parts.iter().all(|part| words.contains(part))
    };
    let by_name = param.options.iter().find(spoken);
    by_name.or_else(|| param.options.iter().find(|option| part.is_some_and(|part| option.contains(part)))).cloned()
}

/// What was said when asked why, and is on no list.
fn other_reason(message: &str, roles: &Roles<'_>) -> Option<String> {
    let param = reason_param(roles)?;
    if param.options.is_empty() {
        return Some(message.trim().to_owned());
    }
    let other = |option: &&String| matches!(&option.to_ascii_lowercase()[..], "other" | "something_else" | "else");
    param.options.iter().find(other).or(param.options.last()).cloned()
}
