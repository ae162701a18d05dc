//! What the tools take: arguments as types, and what is demanded of their text (G14, G15, G19).
//!
//! *Must never* repeat a value in what it says of it, or count a length before control characters are out.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use carboy_agent::{InvalidArguments, ToolError};
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::{EMAIL_BYTES_MAX, Email, LINES_MAX, OrderId};

/// A word of small letters, perhaps of several parts.
static TOPIC: LazyLock<Regex> = LazyLock::new(|| Regex::new(TOPIC_PATTERN).expect("a constant, compiled by a test"));
const TOPIC_PATTERN: &str = r"\A[a-z]{2,20}(?:_[a-z]{2,20}){0,2}\z";
const ORDER_ID_CHARS_MAX: usize = 16;
const TOPIC_CHARS_MAX: usize = 40;

/// Arguments of `lookup_order` and `check_return_eligibility`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderArgs {
    /// The order's number, BK- and four digits.
    #[schemars(regex(pattern = "^BK-[0-9]{4}$"))]
    pub order_id: String,
    /// The e-mail address that the order was placed with. Needed once for each order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 254))]
    pub customer_email: Option<String>,
}

/// Arguments of `initiate_return`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReturnArgs {
    /// The order's number, BK- and four digits.
    #[schemars(regex(pattern = "^BK-[0-9]{4}$"))]
    pub order_id: String,
    /// Numbers of the order's lines that are returned. Leave it out for all that can be returned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(range(min = 1, max = 20)))]
    pub lines: Vec<u8>,
    /// Why.
    pub reason: Reason,
}

/// Why somebody returns a book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// They no longer want it.
    ChangedMind,
    /// Another book came.
    WrongItem,
    /// It came damaged.
    Damaged,
    /// It is not what its page said.
    NotAsDescribed,
    /// Something else.
    Other,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Reason::ChangedMind => "changed_mind",
            Reason::WrongItem => "wrong_item",
            Reason::Damaged => "damaged",
            Reason::NotAsDescribed => "not_as_described",
            Reason::Other => "other",
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Reason::ChangedMind => "Changed my mind",
            Reason::WrongItem => "Wrong book",
            Reason::Damaged => "Arrived damaged",
            Reason::NotAsDescribed => "Not as described",
            Reason::Other => "Something else",
        }
    }
}

/// Arguments of `lookup_policy`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyArgs {
    /// The topic.
    #[schemars(length(max = 40))]
    pub topic: String,
}

fn invalid(field: &str, problem: impl Into<String>) -> InvalidArguments {
    InvalidArguments { field: field.to_owned(), problem: problem.into() }
}

/// Text without control characters, cut at neither end but of blanks, and then of a length between one and the most (G14).
pub(super) fn require_text(field: &str, given: &str, chars_max: usize) -> Result<String, InvalidArguments> {
    let text: String = given.chars().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    match text.chars().count() {
        0 => Err(invalid(field, "is empty")),
        chars if chars > chars_max => Err(invalid(field, format!("has {chars} characters, the limit is {chars_max}"))),
        _ => Ok(text.to_owned()),
    }
}

pub(super) fn require_order_id(field: &str, given: &str) -> Result<OrderId, InvalidArguments> {
    let text = require_text(field, given, ORDER_ID_CHARS_MAX)?;
    OrderId::parse(&text).ok_or_else(|| invalid(field, "is not an order number: BK- and four digits, as in BK-0000"))
}

/// The address in its canonical form, and as a value to compare with.
pub(super) fn require_email(field: &str, given: &str) -> Result<(String, Email), InvalidArguments> {
    let text = require_text(field, given, EMAIL_BYTES_MAX)?.to_ascii_lowercase();
    let email = Email::parse(&text).ok_or_else(|| invalid(field, "is not an e-mail address"))?;
    Ok((text, email))
}

pub(super) fn require_topic(field: &str, given: &str) -> Result<String, InvalidArguments> {
    let text = require_text(field, given, TOPIC_CHARS_MAX)?.to_ascii_lowercase();
    let fits = TOPIC.is_match(&text);
    fits.then_some(text).ok_or_else(|| invalid(field, "is not a topic: small letters, words joined by _"))
}

pub(super) fn require_lines(field: &str, given: &[u8]) -> Result<BTreeSet<u8>, InvalidArguments> {
    let most = usize::from(LINES_MAX);
    let fits = given.len() <= most && given.iter().all(|line| (1..=LINES_MAX).contains(line));
    let problem = || invalid(field, format!("are at most {most} line numbers from 1 to {most}"));
    fits.then(|| given.iter().copied().collect()).ok_or_else(problem)
}

impl OrderArgs {
    pub(super) fn checked(self) -> Result<OrderArgs, InvalidArguments> {
        let order_id = require_order_id("order_id", &self.order_id)?.into();
        let email = self.customer_email.map(|email| require_email("customer_email", &email)).transpose()?;
        Ok(OrderArgs { order_id, customer_email: email.map(|(text, _)| text) })
    }
}

/// Arguments are checked again where they become types: there is no way to the records around these.
pub(super) fn unusable(error: InvalidArguments) -> ToolError {
    ToolError::Refused { code: "invalid_arguments", message: error.to_string() }
}
