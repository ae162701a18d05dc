//! What is demanded of the text of arguments, by shape and length, before it is anything else.
//!
//! *Must never* repeat a value in what it says of it, or count a length before control characters are out.

use std::sync::LazyLock;

use carboy_agent::InvalidArguments;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::Address;

/// Items of one request.
pub const ITEMS_MAX: usize = 20;
const NAME_CHARS_MAX: usize = 60;
const LINE_CHARS_MAX: usize = 120;
const EMAIL_CHARS_MAX: usize = 254;
const ID_CHARS_MAX: usize = 100;

/// A shape, and what is said of text that has another.
pub(super) struct Shape {
    pattern: &'static str,
    problem: &'static str,
}

const ORDER: Shape = Shape { pattern: r"\A#W[0-9]{7}\z", problem: "is not an order id: #W and seven digits" };
const TEN_DIGITS: Shape = Shape { pattern: r"\A[0-9]{10}\z", problem: "is not an id of ten digits" };
const USER: Shape =
    Shape { pattern: r"\A[a-z]{1,40}_[a-z]{1,40}_[0-9]{4}\z", problem: "is not a user id: first_last_0000" };
const METHOD: Shape = Shape {
    pattern: r"\A(?:credit_card|gift_card|paypal)_[0-9]{7}\z",
    problem: "is not a payment method's id: credit_card_, gift_card_ or paypal_ and seven digits",
};
const ZIP: Shape = Shape { pattern: r"\A[0-9]{5}\z", problem: "is not a zip code of five digits" };
const EMAIL: Shape = Shape {
    pattern: r"\A[a-z0-9_%+'.-]{1,64}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}\z",
    problem: "is not an e-mail address",
};
const NAME: Shape = Shape { pattern: r"\A\p{L}[\p{L}\p{M} '.-]*\z", problem: "is not a name" };
const LINE: Shape =
    Shape { pattern: r"\A[\p{L}\p{M}\p{N} ,.'#/&()-]*\z", problem: "has characters that no address has" };

const SHAPES: [&Shape; 8] = [&ORDER, &TEN_DIGITS, &USER, &METHOD, &ZIP, &EMAIL, &NAME, &LINE];

static COMPILED: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    let compile = |shape: &&Shape| (shape.pattern, Regex::new(shape.pattern).expect("a constant, compiled by a test"));
    SHAPES.iter().map(compile).collect()
});

impl Shape {
    fn fits(&self, text: &str) -> bool {
        COMPILED.iter().any(|(pattern, compiled)| *pattern == self.pattern && compiled.is_match(text))
    }
}

pub(super) fn invalid(field: &str, problem: impl Into<String>) -> InvalidArguments {
    InvalidArguments { field: field.to_owned(), problem: problem.into() }
}

/// Text without control characters and blanks around it, of at most so many characters.
pub(super) fn require_text(field: &str, given: &str, chars_max: usize) -> Result<String, InvalidArguments> {
    let text: String = given.chars().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    match text.chars().count() {
        chars if chars > chars_max => Err(invalid(field, format!("has {chars} characters, the limit is {chars_max}"))),
        _ => Ok(text.to_owned()),
    }
}

fn require(field: &str, given: &str, chars_max: usize, shape: &Shape) -> Result<String, InvalidArguments> {
    let text = require_text(field, given, chars_max)?;
    if shape.fits(&text) { Ok(text) } else { Err(invalid(field, shape.problem)) }
}

/// Customers leave the `#` out, and so do models.
pub(super) fn require_order(given: &str) -> Result<String, InvalidArguments> {
    let text = require_text("order_id", given, ID_CHARS_MAX)?.to_ascii_uppercase();
    let whole = if text.starts_with('W') { format!("#{text}") } else { text };
    require("order_id", &whole, ID_CHARS_MAX, &ORDER)
}

pub(super) fn require_digits(field: &str, given: &str) -> Result<String, InvalidArguments> {
    require(field, given, ID_CHARS_MAX, &TEN_DIGITS)
}

pub(super) fn require_user(given: &str) -> Result<String, InvalidArguments> {
    require("user_id", given, ID_CHARS_MAX, &USER)
}

pub(super) fn require_method(given: &str) -> Result<String, InvalidArguments> {
    require("payment_method_id", given, ID_CHARS_MAX, &METHOD)
}

pub(super) fn require_items(field: &str, given: &[String]) -> Result<Vec<String>, InvalidArguments> {
    if given.is_empty() || given.len() > ITEMS_MAX {
        return Err(invalid(field, format!("has {} items, 1 to {ITEMS_MAX} are taken", given.len())));
    }
    given.iter().map(|item| require_digits(field, item)).collect()
}

/// A postal address as arguments.
pub(super) fn require_address(given: Address) -> Result<Address, InvalidArguments> {
    let line = |field: &str, text: &str| match require(field, text, LINE_CHARS_MAX, &LINE) {
        Ok(empty) if empty.is_empty() && field != "address2" => Err(invalid(field, "is empty")),
        other => other,
    };
    Ok(Address {
        address1: line("address1", &given.address1)?,
        address2: line("address2", &given.address2)?,
        city: line("city", &given.city)?,
        country: line("country", &given.country)?,
        state: line("state", &given.state)?,
        zip: require("zip", &given.zip, ID_CHARS_MAX, &ZIP)?,
    })
}

/// Arguments of `find_user_id_by_email`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailArgs {
    /// The customer's e-mail address.
    pub email: String,
}

impl EmailArgs {
    pub(super) fn checked(self) -> Result<EmailArgs, InvalidArguments> {
        let lower = require_text("email", &self.email, EMAIL_CHARS_MAX)?.to_ascii_lowercase();
        Ok(EmailArgs { email: require("email", &lower, EMAIL_CHARS_MAX, &EMAIL)? })
    }
}

/// Arguments of `find_user_id_by_name_zip`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NameZipArgs {
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// Zip code, five digits.
    pub zip: String,
}

impl NameZipArgs {
    pub(super) fn checked(self) -> Result<NameZipArgs, InvalidArguments> {
        Ok(NameZipArgs {
            first_name: require("first_name", &self.first_name, NAME_CHARS_MAX, &NAME)?,
            last_name: require("last_name", &self.last_name, NAME_CHARS_MAX, &NAME)?,
            zip: require("zip", &self.zip, ID_CHARS_MAX, &ZIP)?,
        })
    }
}
