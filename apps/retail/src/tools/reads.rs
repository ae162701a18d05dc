//! Tools that look.
//!
//! *Must never* show a record of anybody but the customer of the conversation.

use carboy_agent::guard_state::Proven;
use carboy_agent::{Effect, InvalidArguments};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Work;
use super::arguments::{require_digits, require_order, require_user};
use crate::shop::{Customer, Shop, ShopError};

/// The customer's profile.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetUser {
    /// The customer's user id.
    user_id: String,
}

impl Work for GetUser {
    const NAME: &'static str = "get_user_details";
    const DESCRIPTION: &'static str = "The customer's profile: name, address, payment methods, orders.";
    const EFFECT: Effect = Effect::Read;

    fn checked(self) -> Result<Self, InvalidArguments> {
        Ok(GetUser { user_id: require_user(&self.user_id)? })
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, _: &str) -> Result<Value, ShopError> {
        let user = shop.user(who)?;
        if user.user_id != self.user_id {
            return Err(ShopError::NotFound);
        }
        Ok(serde_json::to_value(user)?)
    }
}

/// An order of the customer's.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetOrder {
    /// The order's id, #W and seven digits.
    order_id: String,
}

impl Work for GetOrder {
    const NAME: &'static str = "get_order_details";
    const DESCRIPTION: &'static str = "An order of the customer's: status, items, address, parcels, payments.";
    const EFFECT: Effect = Effect::Read;

    fn checked(self) -> Result<Self, InvalidArguments> {
        Ok(GetOrder { order_id: require_order(&self.order_id)? })
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, _: &str) -> Result<Value, ShopError> {
        Ok(serde_json::to_value(shop.order(who, &self.order_id)?)?)
    }
}

/// A product.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetProduct {
    /// The product's id, ten digits; not an item's.
    product_id: String,
}

impl Work for GetProduct {
    const NAME: &'static str = "get_product_details";
    const DESCRIPTION: &'static str = "A product and its items: options, availability, price.";
    const EFFECT: Effect = Effect::Read;

    fn checked(self) -> Result<Self, InvalidArguments> {
        Ok(GetProduct { product_id: require_digits("product_id", &self.product_id)? })
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, _: &str) -> Result<Value, ShopError> {
        Ok(serde_json::to_value(shop.product(who, &self.product_id)?)?)
    }
}

/// One item of a product.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetItem {
    /// The item's id, ten digits; not a product's.
    item_id: String,
}

impl Work for GetItem {
    const NAME: &'static str = "get_item_details";
    const DESCRIPTION: &'static str = "One item: options, availability, price.";
    const EFFECT: Effect = Effect::Read;

    fn checked(self) -> Result<Self, InvalidArguments> {
        Ok(GetItem { item_id: require_digits("item_id", &self.item_id)? })
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, _: &str) -> Result<Value, ShopError> {
        let product = shop.product_of(who, &self.item_id)?;
        let variant = product.variants.get(&self.item_id).ok_or(ShopError::NotFound)?;
        Ok(serde_json::to_value(variant)?)
    }
}

/// What the shop sells.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListProducts {}

impl Work for ListProducts {
    const NAME: &'static str = "list_all_product_types";
    const DESCRIPTION: &'static str = "Names of all products, and their product ids.";
    const EFFECT: Effect = Effect::Read;

    fn checked(self) -> Result<Self, InvalidArguments> {
        Ok(self)
    }

    fn run(&self, shop: &Shop, who: &Proven<Customer>, _: &str) -> Result<Value, ShopError> {
        Ok(json!(shop.products(who)?))
    }
}
