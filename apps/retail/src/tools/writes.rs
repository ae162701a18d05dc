//! Tools that change something: each is confirmed on a card that is made of its arguments, and run once.
//!
//! *Must never* hold a rule of its own: what may be done is in [`policy`](crate::policy).

use carboy_agent::guard_state::Proven;
use carboy_agent::{Effect, InvalidArguments};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Work;
use super::arguments::{
    invalid, require_address, require_items, require_method, require_order, require_text, require_user,
};
use crate::data::Address;
use crate::policy::{self, CANCEL_REASONS};
use crate::shop::{Customer, Request, Shop, ShopError};

const REASON_CHARS_MAX: usize = 40;
const SUMMARY_CHARS_MAX: usize = 1_000;

fn row(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

/// Cancels a pending order.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// The order's id, #W and seven digits.
    order_id: String,
    /// `no longer needed` or `ordered by mistake`.
    reason: String,
}

impl Work for Cancel {
    const NAME: &'static str = "cancel_pending_order";
    const DESCRIPTION: &'static str = "Cancels a pending order and refunds it.";
    const EFFECT: Effect = Effect::Write;
    const TITLE: &'static str = "Cancel this order?";

    fn checked(self) -> Result<Self, InvalidArguments> {
        let reason = require_text("reason", &self.reason, REASON_CHARS_MAX)?;
        if !CANCEL_REASONS.contains(&reason.as_str()) {
            return Err(invalid("reason", format!("is not one of: {}", CANCEL_REASONS.join(", "))));
        }
        Ok(Cancel { order_id: require_order(&self.order_id)?, reason })
    }

    fn rows(&self) -> Vec<(String, String)> {
        vec![row("Order", &self.order_id), row("Reason", &self.reason)]
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, key: &str) -> Result<Value, ShopError> {
        let request = Request { tool: Self::NAME, order: &self.order_id, key };
        let order = shop.change(who, &request, |desk, _| policy::cancel(desk, &self.reason))?;
        Ok(serde_json::to_value(order)?)
    }
}

/// Sends a pending order elsewhere.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModifyAddress {
    /// The order's id, #W and seven digits.
    order_id: String,
    /// Street and number.
    address1: String,
    /// Suite, or empty.
    address2: String,
    /// City.
    city: String,
    /// Country.
    country: String,
    /// State.
    state: String,
    /// Zip code, five digits.
    zip: String,
}

impl Work for ModifyAddress {
    const NAME: &'static str = "modify_pending_order_address";
    const DESCRIPTION: &'static str = "Changes the shipping address of a pending order.";
    const EFFECT: Effect = Effect::Write;
    const TITLE: &'static str = "Send this order to another address?";

    fn checked(self) -> Result<Self, InvalidArguments> {
        let order_id = require_order(&self.order_id)?;
        let Address { address1, address2, city, country, state, zip } = require_address(self.address())?;
        Ok(ModifyAddress { order_id, address1, address2, city, country, state, zip })
    }

    fn rows(&self) -> Vec<(String, String)> {
        vec![row("Order", &self.order_id), row("New address", one_line(&self.address()))]
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, key: &str) -> Result<Value, ShopError> {
        let request = Request { tool: Self::NAME, order: &self.order_id, key };
        let order = shop.change(who, &request, |desk, _| policy::modify_address(desk.order, self.address()))?;
        Ok(serde_json::to_value(order)?)
    }
}

impl ModifyAddress {
    fn address(&self) -> Address {
        Address {
            address1: self.address1.clone(),
            address2: self.address2.clone(),
            city: self.city.clone(),
            country: self.country.clone(),
            state: self.state.clone(),
            zip: self.zip.clone(),
        }
    }
}

/// The customer lives elsewhere.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModifyUserAddress {
    /// The customer's user id.
    user_id: String,
    /// Street and number.
    address1: String,
    /// Suite, or empty.
    address2: String,
    /// City.
    city: String,
    /// Country.
    country: String,
    /// State.
    state: String,
    /// Zip code, five digits.
    zip: String,
}

impl Work for ModifyUserAddress {
    const NAME: &'static str = "modify_user_address";
    const DESCRIPTION: &'static str = "Changes the customer's default address.";
    const EFFECT: Effect = Effect::Write;
    const TITLE: &'static str = "Change your default address?";

    fn checked(self) -> Result<Self, InvalidArguments> {
        let user_id = require_user(&self.user_id)?;
        let Address { address1, address2, city, country, state, zip } = require_address(self.address())?;
        Ok(ModifyUserAddress { user_id, address1, address2, city, country, state, zip })
    }

    fn rows(&self) -> Vec<(String, String)> {
        vec![row("New address", one_line(&self.address()))]
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, key: &str) -> Result<Value, ShopError> {
        if shop.user(who)?.user_id != self.user_id {
            return Err(ShopError::NotFound);
        }
        let request = Request { tool: Self::NAME, order: "", key };
        let user = shop.change_user(who, &request, |user| user.address = self.address())?;
        Ok(serde_json::to_value(user)?)
    }
}

impl ModifyUserAddress {
    fn address(&self) -> Address {
        Address {
            address1: self.address1.clone(),
            address2: self.address2.clone(),
            city: self.city.clone(),
            country: self.country.clone(),
            state: self.state.clone(),
            zip: self.zip.clone(),
        }
    }
}

fn one_line(address: &Address) -> String {
    let Address { address1, address2, city, country, state, zip } = address;
    let parts = [address1, address2, city, state, zip, country];
    parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Pays a pending order in another way.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModifyPayment {
    /// The order's id, #W and seven digits.
    order_id: String,
    /// The id of another payment method of the customer's.
    payment_method_id: String,
}

impl Work for ModifyPayment {
    const NAME: &'static str = "modify_pending_order_payment";
    const DESCRIPTION: &'static str = "Changes the payment method of a pending order.";
    const EFFECT: Effect = Effect::Write;
    const TITLE: &'static str = "Pay this order in another way?";

    fn checked(self) -> Result<Self, InvalidArguments> {
        let payment_method_id = require_method(&self.payment_method_id)?;
        Ok(ModifyPayment { order_id: require_order(&self.order_id)?, payment_method_id })
    }

    fn rows(&self) -> Vec<(String, String)> {
        vec![row("Order", &self.order_id), row("Payment method", &self.payment_method_id)]
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, key: &str) -> Result<Value, ShopError> {
        let request = Request { tool: Self::NAME, order: &self.order_id, key };
        let order = shop.change(who, &request, |desk, _| policy::modify_payment(desk, &self.payment_method_id))?;
        Ok(serde_json::to_value(order)?)
    }
}

/// Changes the items of a pending order.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModifyItems {
    /// The order's id, #W and seven digits.
    order_id: String,
    /// Ids of the items that go, each as often as it goes.
    item_ids: Vec<String>,
    /// Ids of the items that come instead, in the same order.
    new_item_ids: Vec<String>,
    /// The id of the payment method that pays the difference, or gets it.
    payment_method_id: String,
}

impl Work for ModifyItems {
    const NAME: &'static str = "modify_pending_order_items";
    const DESCRIPTION: &'static str = "Exchanges items of a pending order for other items of the same products. Can be done once: collect all of them first.";
    const EFFECT: Effect = Effect::Write;
    const TITLE: &'static str = "Change the items of this order? This can be done once.";

    fn checked(self) -> Result<Self, InvalidArguments> {
        Ok(ModifyItems {
            order_id: require_order(&self.order_id)?,
            item_ids: require_items("item_ids", &self.item_ids)?,
            new_item_ids: require_items("new_item_ids", &self.new_item_ids)?,
            payment_method_id: require_method(&self.payment_method_id)?,
        })
    }

    fn rows(&self) -> Vec<(String, String)> {
        vec![
            row("Order", &self.order_id),
            row("Items", self.item_ids.join(", ")),
            row("New items", self.new_item_ids.join(", ")),
            row("Difference by", &self.payment_method_id),
        ]
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, key: &str) -> Result<Value, ShopError> {
        let request = Request { tool: Self::NAME, order: &self.order_id, key };
        let (old, new, method) = (&self.item_ids, &self.new_item_ids, &self.payment_method_id);
        let order =
            shop.change(who, &request, |desk, pricing| policy::modify_items(desk, old, new, method, pricing))?;
        Ok(serde_json::to_value(order)?)
    }
}

/// Exchanges items of a delivered order.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The order's id, #W and seven digits.
    order_id: String,
    /// Ids of the items that go, each as often as it goes.
    item_ids: Vec<String>,
    /// Ids of the items that come instead, in the same order.
    new_item_ids: Vec<String>,
    /// The id of the payment method that pays the difference, or gets it.
    payment_method_id: String,
}

impl Work for Exchange {
    const NAME: &'static str = "exchange_delivered_order_items";
    const DESCRIPTION: &'static str = "Exchanges items of a delivered order for other items of the same products. Can be done once: collect all of them first.";
    const EFFECT: Effect = Effect::Write;
    const TITLE: &'static str = "Exchange these items? This can be done once.";

    fn checked(self) -> Result<Self, InvalidArguments> {
        Ok(Exchange {
            order_id: require_order(&self.order_id)?,
            item_ids: require_items("item_ids", &self.item_ids)?,
            new_item_ids: require_items("new_item_ids", &self.new_item_ids)?,
            payment_method_id: require_method(&self.payment_method_id)?,
        })
    }

    fn rows(&self) -> Vec<(String, String)> {
        vec![
            row("Order", &self.order_id),
            row("Items", self.item_ids.join(", ")),
            row("New items", self.new_item_ids.join(", ")),
            row("Difference by", &self.payment_method_id),
        ]
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, key: &str) -> Result<Value, ShopError> {
        let request = Request { tool: Self::NAME, order: &self.order_id, key };
        let (old, new, method) = (&self.item_ids, &self.new_item_ids, &self.payment_method_id);
        let order = shop.change(who, &request, |desk, _| policy::exchange(desk, old, new, method))?;
        Ok(serde_json::to_value(order)?)
    }
}

/// Returns items of a delivered order.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GiveBack {
    /// The order's id, #W and seven digits.
    order_id: String,
    /// Ids of the items, each as often as it goes back.
    item_ids: Vec<String>,
    /// The id of the payment method that the refund goes to: the original one or a gift card.
    payment_method_id: String,
}

impl Work for GiveBack {
    const NAME: &'static str = "return_delivered_order_items";
    const DESCRIPTION: &'static str = "Returns items of a delivered order.";
    const EFFECT: Effect = Effect::Write;
    const TITLE: &'static str = "Return these items?";

    fn checked(self) -> Result<Self, InvalidArguments> {
        Ok(GiveBack {
            order_id: require_order(&self.order_id)?,
            item_ids: require_items("item_ids", &self.item_ids)?,
            payment_method_id: require_method(&self.payment_method_id)?,
        })
    }

    fn rows(&self) -> Vec<(String, String)> {
        vec![
            row("Order", &self.order_id),
            row("Items", self.item_ids.join(", ")),
            row("Refund to", &self.payment_method_id),
        ]
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, key: &str) -> Result<Value, ShopError> {
        let request = Request { tool: Self::NAME, order: &self.order_id, key };
        let (items, method) = (&self.item_ids, &self.payment_method_id);
        let order = shop.change(who, &request, |desk, _| policy::give_back(desk, items, method))?;
        Ok(serde_json::to_value(order)?)
    }
}

/// Leaves word for a person.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// What the customer needs.
    summary: String,
}

impl Work for Transfer {
    const NAME: &'static str = "transfer_to_human_agents";
    const DESCRIPTION: &'static str = "Leaves word for a person of the shop's, only where nothing else here can help.";
    const EFFECT: Effect = Effect::Write;
    const TITLE: &'static str = "Hand this over to a person?";

    fn checked(self) -> Result<Self, InvalidArguments> {
        let summary = require_text("summary", &self.summary, SUMMARY_CHARS_MAX)?;
        if summary.is_empty() { Err(invalid("summary", "is empty")) } else { Ok(Transfer { summary }) }
    }

    fn rows(&self) -> Vec<(String, String)> {
        vec![row("What they are told", &self.summary)]
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, key: &str) -> Result<Value, ShopError> {
        shop.transfer(who, &Request { tool: Self::NAME, order: "", key }, &self.summary)?;
        Ok(json!("Transfer successful"))
    }
}
