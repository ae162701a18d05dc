//! What the shop's records say: users, products, orders, as the benchmark's `db.json` has them.
//!
//! Money is counted in cents and written as dollars. *Must never* take a record with a field that is not known here: what is
//! not understood is not sold.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Everything, as it is imported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// By product.
    pub products: BTreeMap<String, Product>,
    /// By user.
    pub users: BTreeMap<String, User>,
    /// By order.
    pub orders: BTreeMap<String, Order>,
}

/// An amount of money, in cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cents(pub i64);

/// The largest amount that is taken, in dollars.
const DOLLARS_MAX: f64 = 1e9;

impl Serialize for Cents {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // Of integers below 2^53 the nearest double prints as it was written, to two places.
        #[expect(clippy::cast_precision_loss, reason = "amounts are below a thousand million dollars")]
        let dollars = self.0 as f64 / 100.0;
        to.serialize_f64(dollars)
    }
}

impl<'de> Deserialize<'de> for Cents {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(from)?;
        if !dollars.is_finite() || dollars.abs() > DOLLARS_MAX {
            return Err(serde::de::Error::custom("not an amount of money"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
        let cents = (dollars * 100.0).round() as i64;
        Ok(Cents(cents))
    }
}

/// A product and what it comes as.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// What it is called.
    pub name: String,
    /// Its id.
    pub product_id: String,
    /// By item.
    pub variants: BTreeMap<String, Variant>,
}

/// One item of a product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its id.
    pub item_id: String,
    /// Colour, size.
    pub options: BTreeMap<String, String>,
    /// Whether there are any.
    pub available: bool,
    /// What it costs.
    pub price: Cents,
}

/// A customer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Their id.
    pub user_id: String,
    /// Their name.
    pub name: Name,
    /// Where they live.
    pub address: Address,
    /// Their e-mail address.
    pub email: String,
    /// By id.
    pub payment_methods: BTreeMap<String, PaymentMethod>,
    /// Their orders.
    pub orders: Vec<String>,
}

/// A person's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// Given.
    pub first_name: String,
    /// Family's.
    pub last_name: String,
}

/// A postal address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Street and number.
    pub address1: String,
    /// Suite, or nothing.
    pub address2: String,
    /// City.
    pub city: String,
    /// Country.
    pub country: String,
    /// State.
    pub state: String,
    /// Zip code.
    pub zip: String,
}

/// How somebody pays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum PaymentMethod {
    /// A card.
    CreditCard {
        /// Its id.
        id: String,
        /// Whose network.
        brand: String,
        /// Its end.
        last_four: String,
    },
    /// An account.
    Paypal {
        /// Its id.
        id: String,
    },
    /// Money in the shop.
    GiftCard {
        /// Its id.
        id: String,
        /// What is on it.
        balance: Cents,
    },
}

/// Where an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not packed yet.
    Pending,
    /// Not packed yet, and its items were changed, which is done once.
    #[serde(rename = "pending (item modified)")]
    PendingItemModified,
    /// On its way.
    Processed,
    /// There.
    Delivered,
    /// Nothing comes.
    Cancelled,
    /// Something goes back for something else.
    #[serde(rename = "exchange requested")]
    ExchangeRequested,
    /// Something goes back.
    #[serde(rename = "return requested")]
    ReturnRequested,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Its id.
    pub order_id: String,
    /// Whose it is.
    pub user_id: String,
    /// Where it goes.
    pub address: Address,
    /// What is in it.
    pub items: Vec<Item>,
    /// Where it is.
    pub status: Status,
    /// Parcels.
    pub fulfillments: Vec<Fulfillment>,
    /// What was paid and given back.
    pub payment_history: Vec<Payment>,
    /// Why it was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
    /// What goes back for something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange_items: Option<Vec<String>>,
    /// And for what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange_new_items: Option<Vec<String>>,
    /// Who pays the difference, or gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange_payment_method_id: Option<String>,
    /// The difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange_price_difference: Option<Cents>,
    /// What goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_items: Option<Vec<String>>,
    /// Where the money goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_payment_method_id: Option<String>,
}

/// One item of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// What its product is called.
    pub name: String,
    /// Its product.
    pub product_id: String,
    /// Which item.
    pub item_id: String,
    /// What it cost.
    pub price: Cents,
    /// Colour, size.
    pub options: BTreeMap<String, String>,
}

/// A parcel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fulfillment {
    /// Its carrier's ids.
    pub tracking_id: Vec<String>,
    /// What is in it.
    pub item_ids: Vec<String>,
}

/// Money that moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// Which way.
    pub transaction_type: Transaction,
    /// How much.
    pub amount: Cents,
    /// By what.
    pub payment_method_id: String,
}

/// Which way money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transaction {
    /// To the shop.
    Payment,
    /// From it.
    Refund,
}
