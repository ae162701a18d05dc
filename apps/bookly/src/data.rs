//! The shop's records: customers, books, orders and policies, which nobody changes here, and returns, which are added to.
//!
//! ```text
//!  order id ─▶ Sealed (found or not: it looks the same) ─┬─ the order's e-mail ───▶ Order, and Proven<Owner> from now on
//!                                                        └─ Proven<Owner> of before ─▶ Order
//! ```
//!
//! *Must never* give anything of an order to somebody who has not shown its e-mail address, say whether an order exists, or
//! start a second return of the same book.

mod books;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use carboy_agent::guard_state::{GuardState, Mint, NotProven, Proof, Proven};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use regex::Regex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub(crate) use books::NewReturn;
pub use books::{BookStore, DataError, Return};

/// `BK-` and four digits, nothing before or after.
static ORDER_ID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(ORDER_ID_PATTERN).expect("a constant, compiled by a test"));
const ORDER_ID_PATTERN: &str = r"\ABK-[0-9]{4}\z";
/// One mailbox in ASCII, lower case: a local part of at most 64, labels of at most 63.
static EMAIL: LazyLock<Regex> = LazyLock::new(|| Regex::new(EMAIL_PATTERN).expect("a constant, compiled by a test"));
const EMAIL_PATTERN: &str =
    r"\A[a-z0-9_%+'-]+(?:\.[a-z0-9_%+'-]+)*@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}\z";
/// Octets of an e-mail address (RFC 5321, 4.5.3.1).
pub const EMAIL_BYTES_MAX: usize = 254;
const EMAIL_LOCAL_BYTES_MAX: usize = 64;

/// Lines of one order.
pub const LINES_MAX: u8 = 20;

/// The number of an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId(String);

impl OrderId {
    /// Reads `BK-NNNN`; letters may be small, and nothing else may stand around it.
    pub fn parse(text: &str) -> Option<OrderId> {
        let upper = text.to_ascii_uppercase();
        ORDER_ID.is_match(&upper).then_some(OrderId(upper))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for OrderId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        OrderId::parse(&text).ok_or("not an order number")
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> String {
        id.0
    }
}

/// Somebody's e-mail address. It is compared and never shown: no `Debug`, `Display` or `Serialize`.
#[derive(Clone)]
pub struct Email(String);

impl Email {
    /// Reads an address; case does not count.
    pub fn parse(text: &str) -> Option<Email> {
        let lower = text.to_ascii_lowercase();
        let local = lower.find('@').is_some_and(|at| at <= EMAIL_LOCAL_BYTES_MAX);
        (lower.len() <= EMAIL_BYTES_MAX && local && EMAIL.is_match(&lower)).then_some(Email(lower))
    }

    /// The same whatever the two are and however long: digests of equal length, compared without a branch (G13).
    fn is(&self, other: &str) -> bool {
        Sha256::digest(self.0.as_bytes()).ct_eq(&Sha256::digest(other.as_bytes())).into()
    }
}

/// What a book is printed on, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Soft covers.
    Paperback,
    /// Hard covers.
    Hardcover,
    /// A file.
    Ebook,
    /// Money for books.
    GiftCard,
}

impl Format {
    const ALL: [Format; 4] = [Format::Paperback, Format::Hardcover, Format::Ebook, Format::GiftCard];

    /// As it stands in the database and in results.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Paperback => "paperback",
            Format::Hardcover => "hardcover",
            Format::Ebook => "ebook",
            Format::GiftCard => "gift_card",
        }
    }

    /// As a person reads it, of many.
    pub fn plural(self) -> &'static str {
        match self {
            Format::Paperback => "paperbacks",
            Format::Hardcover => "hardcovers",
            Format::Ebook => "e-books",
            Format::GiftCard => "gift cards",
        }
    }
}

/// Where an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Being packed.
    Processing,
    /// On its way.
    InTransit,
    /// There.
    Delivered,
}

impl Status {
    const ALL: [Status; 3] = [Status::Processing, Status::InTransit, Status::Delivered];

    /// As it stands in the database and in results.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Processing => "processing",
            Status::InTransit => "in_transit",
            Status::Delivered => "delivered",
        }
    }
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number in the order, from one.
    pub number: u8,
    /// The book.
    pub title: String,
    /// Who wrote it.
    pub author: String,
    /// On what.
    pub format: Format,
    /// How many.
    pub quantity: u32,
    /// Of one, in cents.
    pub price_cents: u32,
}

/// An order. Whose it is does not stand in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub id: OrderId,
    /// Where it is.
    pub status: Status,
    /// When it was placed.
    pub placed_on: Date,
    /// When it arrived.
    pub delivered_on: Option<Date>,
    /// When it should arrive.
    pub expected_on: Option<Date>,
    /// What was ordered.
    pub lines: Vec<Line>,
    /// Lines that are on their way back.
    pub returned: BTreeSet<u8>,
}

/// That this session showed the e-mail address of an order. What it says is plain data; that it is true is said by the
/// [`Proven`] around it, which only [`Sealed::open_with`] brings about.
///
/// ```compile_fail,E0603
/// let mint = bookly::data::OWNER;
/// ```
/// ```compile_fail,E0603
/// let seal = bookly::data::OwnerSeal(());
/// ```
#[derive(Debug, Serialize, Deserialize)]
pub struct Owner {}

/// What makes the mint of [`Owner`]s; its field is private.
pub struct OwnerSeal(());

impl Proof for Owner {
    const NAME: &'static str = "bookly.owner";
    type Seal = OwnerSeal;
}

const OWNER: Mint<Owner> = Mint::new(&OwnerSeal(()));
/// How an owner is known: should that change, those of before are asked again.
const OWNER_VERSION: &str = "by e-mail";

/// Whether this session showed the address of this order.
pub fn owner(guard: &GuardState, id: &OrderId, now_ms: u64) -> Result<Proven<Owner>, NotProven> {
    OWNER.show(guard, id.as_str(), OWNER_VERSION, now_ms)
}

/// An order that was looked for. Whether there is one cannot be told from it.
///
/// ```compile_fail,E0616
/// fn peek(sealed: bookly::data::Sealed) -> bool { sealed.found.is_some() }
/// ```
pub struct Sealed {
    found: Option<(String, Order)>,
}

impl Sealed {
    /// Opens for whoever knows the order's address, and writes down that this session does until `until_ms`. A wrong address
    /// and a missing order take the same way to the same answer (G12): a missing one is compared with one that nobody has.
    pub fn open_with(self, email: &Email, guard: &mut GuardState, now_ms: u64, until_ms: u64) -> Option<Order> {
        let address = self.found.as_ref().map_or("", |(address, _)| address);
        let same = email.is(address);
        let (_, order) = self.found.filter(|_| same)?;
        OWNER.issue(guard, order.id.as_str(), OWNER_VERSION, now_ms, until_ms, Owner {}).ok()?;
        Some(order)
    }

    /// Opens for whoever showed the address before.
    pub fn open_for(self, owner: &Proven<Owner>) -> Option<Order> {
        self.found.map(|(_, order)| order).filter(|order| order.id.as_str() == owner.key())
    }
}

/// The day in the shop, which keeps universal time.
pub fn day(now_ms: u64) -> Date {
    let at = i64::try_from(now_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX);
    TimeZone::UTC.to_datetime(at).date()
}

/// Name and address.
const CUSTOMERS: &[(i64, &str, &str)] = &[
    (1, "Sarah Chen", "sarah.chen@example.com"),
    (2, "Marcus Webb", "marcus.webb@example.com"),
    (3, "Priya Raman", "priya.raman@example.com"),
];

const BOOKS: &[(&str, &str, &str, Format, u32)] = &[
    ("B-01", "Middlemarch", "George Eliot", Format::Paperback, 1_299),
    ("B-02", "The Left Hand of Darkness", "Ursula K. Le Guin", Format::Hardcover, 2_450),
    ("B-03", "Walden", "Henry David Thoreau", Format::Ebook, 599),
    ("B-04", "Beloved", "Toni Morrison", Format::Paperback, 1_599),
    ("B-05", "Invisible Cities", "Italo Calvino", Format::Paperback, 1_450),
    ("B-06", "The Name of the Rose", "Umberto Eco", Format::Hardcover, 2_799),
];

/// An order and the days before today on which it was placed and delivered, and after today when it should come.
struct Fixture {
    id: &'static str,
    customer: i64,
    status: Status,
    placed: i32,
    delivered: Option<i32>,
    expected: Option<i32>,
    items: &'static [(&'static str, u32)],
}

/// Delivered inside the window, on its way, being packed, delivered outside of it. The first two are one customer's.
const ORDERS: &[Fixture] = &[
    Fixture {
        id: "BK-1001",
        customer: 1,
        status: Status::Delivered,
        placed: 17,
        delivered: Some(12),
        expected: None,
        items: &[("B-01", 1), ("B-02", 1), ("B-03", 1)],
    },
    Fixture {
        id: "BK-1002",
        customer: 1,
        status: Status::InTransit,
        placed: 3,
        delivered: None,
        expected: Some(2),
        items: &[("B-05", 2)],
    },
    Fixture {
        id: "BK-1003",
        customer: 2,
        status: Status::Processing,
        placed: 1,
        delivered: None,
        expected: Some(6),
        items: &[("B-06", 1)],
    },
    Fixture {
        id: "BK-1004",
        customer: 3,
        status: Status::Delivered,
        placed: 52,
        delivered: Some(45),
        expected: None,
        items: &[("B-04", 1)],
    },
];

/// The shop's standard policies, by topic. Returns are not among them: their words come from the policy's values.
pub const POLICIES: &[(&str, &str)] = &[
    (
        "shipping",
        "Standard shipping takes 3 to 5 working days and is free for orders over 35.00 USD. Express shipping takes 1 to 2 \
         working days and costs 9.95 USD.",
    ),
    (
        "payment",
        "We take credit and debit cards, PayPal and Bookly gift cards. A card is charged when its order leaves our warehouse.",
    ),
    (
        "cancellation",
        "An order can be cancelled free of charge until it leaves our warehouse, on the page of the order in your account.",
    ),
    ("gift_cards", "Bookly gift cards do not expire, are spent like money, and cannot be exchanged for cash."),
    ("damaged_items", "If a book arrives damaged, we replace it free of charge. Tell us within 14 days of delivery."),
    ("password_reset", "Choose Forgot password on the sign-in page. The link that we send works once, for 30 minutes."),
    ("privacy", "We keep what is needed to deliver your orders and to meet the law, and never sell personal data."),
];
