//! The policy, as functions of records: what may be done to which order, and what it does.
//!
//! ```text
//!  order, customer, products, what is asked ─▶ the records as they are afterwards | Refusal
//! ```
//!
//! *Must never* change anything in part: a refusal leaves what it was given as it was, because callers drop it.

use std::collections::BTreeMap;

use crate::data::{Address, Cents, Order, Payment, PaymentMethod, Product, Status, Transaction, User, Variant};

/// What may be asked for is closed; so are the reasons for a cancellation.
pub const CANCEL_REASONS: [&str; 2] = ["no longer needed", "ordered by mistake"];

/// How the lines of a modified order are priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pricing {
    /// Each by its own item.
    #[default]
    EachLine,
    /// All by the last item: what the benchmark's reference does, for who wants its published end states.
    LastItem,
}

/// Why something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The order is past it, or not there yet.
    #[error("the order is not {0}, so this cannot be done with it")]
    Status(&'static str),
    /// The reason is none of the two.
    #[error("an order is cancelled as `no longer needed` or `ordered by mistake`, and for no other reason")]
    Reason,
    /// It is not the customer's.
    #[error("the customer has no such payment method")]
    PaymentMethod,
    /// Refunds go where the money came from.
    #[error("a refund goes to the original payment method or to a gift card of the customer's")]
    RefundElsewhere,
    /// There is too little on it.
    #[error("the gift card's balance does not cover it")]
    Balance,
    /// It is paid with that already, or with several.
    #[error("the payment method is not another single one than the order was paid with")]
    SamePayment,
    /// The order has fewer of them.
    #[error("the order does not have these items, or not so many")]
    Items,
    /// Each old item needs one new one.
    #[error("as many new items are needed as old ones, and at least one")]
    Count,
    /// There is no such item, of the same product.
    #[error("a new item is not another item of the same product")]
    OtherProduct,
    /// It is sold out.
    #[error("a new item is not available")]
    Unavailable,
}

/// Everything that one write can change, and what it reads.
pub struct Desk<'a> {
    /// The order.
    pub order: &'a mut Order,
    /// Whose it is.
    pub user: &'a mut User,
    /// Products by id: those of the order's items.
    pub products: &'a BTreeMap<String, Product>,
}

/// Cancels a pending order and gives all that was paid back.
pub fn cancel(desk: &mut Desk<'_>, reason: &str) -> Result<(), Refusal> {
    if desk.order.status != Status::Pending {
        return Err(Refusal::Status("pending"));
    }
    if !CANCEL_REASONS.contains(&reason) {
        return Err(Refusal::Reason);
    }
    let refunds: Vec<Payment> =
        desk.order.payment_history.iter().map(|paid| refund(paid.amount, &paid.payment_method_id)).collect();
    for back in &refunds {
        credit(desk.user, &back.payment_method_id, back.amount);
    }
    desk.order.payment_history.extend(refunds);
    desk.order.status = Status::Cancelled;
    desk.order.cancel_reason = Some(reason.to_owned());
    Ok(())
}

/// Sends a pending order elsewhere.
pub fn modify_address(order: &mut Order, address: Address) -> Result<(), Refusal> {
    match order.status {
        Status::Pending | Status::PendingItemModified => order.address = address,
        Status::Processed
        | Status::Delivered
        | Status::Cancelled
        | Status::ExchangeRequested
        | Status::ReturnRequested => {
            return Err(Refusal::Status("pending"));
        }
    }
    Ok(())
}

/// Pays a pending order in another way.
pub fn modify_payment(desk: &mut Desk<'_>, method: &str) -> Result<(), Refusal> {
    if desk.order.status != Status::Pending {
        return Err(Refusal::Status("pending"));
    }
    let [paid] = desk.order.payment_history.as_slice() else { return Err(Refusal::SamePayment) };
    if paid.transaction_type != Transaction::Payment || paid.payment_method_id == method {
        return Err(Refusal::SamePayment);
    }
    let (amount, before) = (paid.amount, paid.payment_method_id.clone());
    debit(desk.user, method, amount)?;
    credit(desk.user, &before, amount);
    desk.order.payment_history.extend([payment(amount, method), refund(amount, &before)]);
    Ok(())
}

/// Exchanges items of a pending order for others of the same products, once.
pub fn modify_items(
    desk: &mut Desk<'_>,
    old: &[String],
    new: &[String],
    method: &str,
    pricing: Pricing,
) -> Result<(), Refusal> {
    if desk.order.status != Status::Pending {
        return Err(Refusal::Status("pending"));
    }
    let swaps = swaps(desk, old, new)?;
    if old.iter().zip(new).any(|(old, new)| old == new) {
        return Err(Refusal::OtherProduct);
    }
    let difference = difference(desk.order, &swaps);
    debit(desk.user, method, difference)?;
    let moved = Cents(difference.0.abs());
    desk.order.payment_history.push(if difference.0 > 0 { payment(moved, method) } else { refund(moved, method) });
    let last = swaps.last().map(|(_, variant)| variant.price).unwrap_or_default();
    for (place, variant) in swaps {
        let item = &mut desk.order.items[place];
        item.item_id.clone_from(&variant.item_id);
        item.options.clone_from(&variant.options);
        item.price = match pricing {
            Pricing::EachLine => variant.price,
            Pricing::LastItem => last,
        };
    }
    desk.order.status = Status::PendingItemModified;
    Ok(())
}

/// Asks for items of a delivered order to be taken back.
pub fn give_back(desk: &mut Desk<'_>, items: &[String], method: &str) -> Result<(), Refusal> {
    if desk.order.status != Status::Delivered {
        return Err(Refusal::Status("delivered"));
    }
    let known = desk.user.payment_methods.get(method).ok_or(Refusal::PaymentMethod)?;
    let original = desk.order.payment_history.first().is_some_and(|paid| paid.payment_method_id == method);
    let gift_card = matches!(known, PaymentMethod::GiftCard { .. });
    if !original && !gift_card {
        return Err(Refusal::RefundElsewhere);
    }
    places(desk.order, items)?;
    desk.order.status = Status::ReturnRequested;
    desk.order.return_items = Some(sorted(items));
    desk.order.return_payment_method_id = Some(method.to_owned());
    Ok(())
}

/// Asks for items of a delivered order to be exchanged for others of the same products.
pub fn exchange(desk: &mut Desk<'_>, old: &[String], new: &[String], method: &str) -> Result<(), Refusal> {
    if desk.order.status != Status::Delivered {
        return Err(Refusal::Status("delivered"));
    }
    let difference = difference(desk.order, &swaps(desk, old, new)?);
    // Nothing is moved yet: that is done when the parcel comes.
    covers(desk.user, method, difference)?;
    desk.order.status = Status::ExchangeRequested;
    desk.order.exchange_items = Some(sorted(old));
    desk.order.exchange_new_items = Some(sorted(new));
    desk.order.exchange_payment_method_id = Some(method.to_owned());
    desk.order.exchange_price_difference = Some(difference);
    Ok(())
}

fn sorted(ids: &[String]) -> Vec<String> {
    let mut ids = ids.to_vec();
    ids.sort();
    ids
}

/// Where each of these stands in the order; an item that is asked for twice has to be there twice.
fn places(order: &Order, items: &[String]) -> Result<Vec<usize>, Refusal> {
    if items.is_empty() {
        return Err(Refusal::Count);
    }
    let mut taken = Vec::new();
    for wanted in items {
        let free = |(place, item): &(usize, &crate::data::Item)| item.item_id == *wanted && !taken.contains(place);
        let (place, _) = order.items.iter().enumerate().find(free).ok_or(Refusal::Items)?;
        taken.push(place);
    }
    Ok(taken)
}

/// Which line becomes what.
fn swaps<'p>(desk: &Desk<'p>, old: &[String], new: &[String]) -> Result<Vec<(usize, &'p Variant)>, Refusal> {
    if old.len() != new.len() {
        return Err(Refusal::Count);
    }
    let products: &'p BTreeMap<String, Product> = desk.products;
    let mut swaps = Vec::new();
    for (place, wanted) in places(desk.order, old)?.into_iter().zip(new) {
        let product = products.get(&desk.order.items[place].product_id).ok_or(Refusal::OtherProduct)?;
        let variant = product.variants.get(wanted).ok_or(Refusal::OtherProduct)?;
        if !variant.available {
            return Err(Refusal::Unavailable);
        }
        swaps.push((place, variant));
    }
    Ok(swaps)
}

fn difference(order: &Order, swaps: &[(usize, &Variant)]) -> Cents {
    Cents(swaps.iter().map(|(place, variant)| variant.price.0 - order.items[*place].price.0).sum())
}

fn payment(amount: Cents, method: &str) -> Payment {
    Payment { transaction_type: Transaction::Payment, amount, payment_method_id: method.to_owned() }
}

fn refund(amount: Cents, method: &str) -> Payment {
    Payment { transaction_type: Transaction::Refund, amount, payment_method_id: method.to_owned() }
}

/// The method is the customer's, and what is on it is enough where that is known.
fn covers(user: &User, method: &str, amount: Cents) -> Result<(), Refusal> {
    match user.payment_methods.get(method).ok_or(Refusal::PaymentMethod)? {
        PaymentMethod::GiftCard { balance, .. } if *balance < amount => Err(Refusal::Balance),
        PaymentMethod::GiftCard { .. } | PaymentMethod::CreditCard { .. } | PaymentMethod::Paypal { .. } => Ok(()),
    }
}

/// Takes it; gives it where it is negative.
fn debit(user: &mut User, method: &str, amount: Cents) -> Result<(), Refusal> {
    covers(user, method, amount)?;
    credit(user, method, Cents(-amount.0));
    Ok(())
}

/// Only the shop's own money is counted here; other methods are told by the order's history.
fn credit(user: &mut User, method: &str, amount: Cents) {
    if let Some(PaymentMethod::GiftCard { balance, .. }) = user.payment_methods.get_mut(method) {
        balance.0 += amount.0;
    }
}
