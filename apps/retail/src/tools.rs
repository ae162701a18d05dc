//! The tools of the retail desk. All but the first two demand a known customer, in one place and by type.
//!
//! ```text
//!  find_user_id_by_email, find_user_id_by_name_zip ─▶ Proven<Customer>
//!  everything else: Work ── Of<Work>: Proven<Customer> ─▶ Work::run on a thread that may wait for the disk
//! ```
//!
//! *Must never* act for anybody but the customer of the conversation, nor say whether others, or their orders, exist.

mod arguments;
mod reads;
mod writes;

use std::marker::PhantomData;
use std::sync::Arc;

use carboy_agent::guard_state::{NotProven, Proven};
use carboy_agent::handler::tool;
use carboy_agent::{Authorization, Call, Card, Effect, Handler, InvalidArguments, Output, Principal, Tool, ToolError};
use carboy_core::ports::Later;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::shop::{Claim, Customer, Known, NotKnown, Shop, ShopError, customer};

pub use arguments::{EmailArgs, NameZipArgs};
pub use reads::{GetItem, GetOrder, GetProduct, GetUser, ListProducts};
pub use writes::{Cancel, Exchange, GiveBack, ModifyAddress, ModifyItems, ModifyPayment, ModifyUserAddress, Transfer};

/// All of them, in the order in which a model is told of them.
pub fn tools(shop: Shop) -> Vec<Arc<dyn Tool>> {
    let shop = Arc::new(shop);
    fn of<W: Work>(shop: &Arc<Shop>) -> Arc<dyn Tool> {
        tool(Of::<W>(Arc::clone(shop), PhantomData))
    }
    vec![
        tool(FindByEmail(Arc::clone(&shop))),
        tool(FindByNameZip(Arc::clone(&shop))),
        of::<GetUser>(&shop),
        of::<GetOrder>(&shop),
        of::<GetProduct>(&shop),
        of::<GetItem>(&shop),
        of::<ListProducts>(&shop),
        of::<Cancel>(&shop),
        of::<ModifyAddress>(&shop),
        of::<ModifyPayment>(&shop),
        of::<ModifyItems>(&shop),
        of::<GiveBack>(&shop),
        of::<Exchange>(&shop),
        of::<ModifyUserAddress>(&shop),
        of::<Transfer>(&shop),
    ]
}

/// What a tool does for a customer who is known: its arguments are the value itself.
pub trait Work: DeserializeOwned + Serialize + JsonSchema + Send + Sync + Sized + 'static {
    /// What the model calls it.
    const NAME: &'static str;
    /// What the model is told of it.
    const DESCRIPTION: &'static str;
    /// What it does to the records.
    const EFFECT: Effect;
    /// The title of the card that a person clicks.
    const TITLE: &'static str = "";

    /// Lengths and shapes.
    fn checked(self) -> Result<Self, InvalidArguments>;

    /// What stands on the card.
    fn rows(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Does it.
    fn run(&self, shop: &Shop, who: &Proven<Customer>, key: &str) -> Result<Value, ShopError>;
}

/// A [`Work`] as a tool.
pub struct Of<W>(Arc<Shop>, PhantomData<fn() -> W>);

impl<W: Work> Handler for Of<W> {
    type Args = W;
    const NAME: &'static str = W::NAME;
    const DESCRIPTION: &'static str = W::DESCRIPTION;
    const EFFECT: Effect = W::EFFECT;

    fn check(&self, args: W) -> Result<W, InvalidArguments> {
        args.checked()
    }

    /// Customers of this shop do not sign in: being known to the conversation is asked for below, of everybody.
    fn authorize(&self, _: &Principal, _: &W) -> Authorization {
        Authorization::Allowed
    }

    fn card(&self, args: &W) -> Option<Card> {
        (W::EFFECT == Effect::Write).then(|| Card {
            token: String::new(),
            title: W::TITLE.to_owned(),
            rows: args.rows(),
            action: "Yes, do it".into(),
            expires_ms: 0,
        })
    }

    fn precheck(&self, call: &Call<'_>, _: &W) -> Result<(), ToolError> {
        customer(call.guard, call.now_ms).map(|_| ()).map_err(not_known)
    }

    fn call<'a>(&'a self, call: Call<'a>, args: W) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let who = customer(call.guard, call.now_ms).map_err(not_known)?;
            let (shop, key) = (Arc::clone(&self.0), call.idempotency_key.to_owned());
            let value =
                wait(move || args.checked_again().and_then(|args| args.run(&shop, &who, &key).map_err(told))).await?;
            Ok(said(value))
        })
    }
}

/// Arguments are checked where they become types, whoever called.
trait Again: Sized {
    fn checked_again(self) -> Result<Self, ToolError>;
}

impl<W: Work> Again for W {
    fn checked_again(self) -> Result<Self, ToolError> {
        self.checked().map_err(unusable)
    }
}

/// Works on a thread that may wait for the disk.
async fn wait<T: Send + 'static>(work: impl FnOnce() -> Result<T, ToolError> + Send + 'static) -> Result<T, ToolError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ToolError::Failed { particulars: error.to_string() })?
}

fn said(value: Value) -> Output {
    Output { value, released: Vec::new() }
}

fn refused(code: &'static str, message: impl Into<String>) -> ToolError {
    ToolError::Refused { code, message: message.into() }
}

fn unusable(error: InvalidArguments) -> ToolError {
    refused("invalid_arguments", error.to_string())
}

fn not_known(_: NotProven) -> ToolError {
    refused("customer_not_known", "Find the customer first, by e-mail, or by first name, last name and zip code.")
}

fn told(error: ShopError) -> ToolError {
    match error {
        ShopError::NotFound => refused("not_found", "There is none with this id that is this customer's."),
        ShopError::Refused(why) => refused("against_policy", why.to_string()),
        broken @ (ShopError::Empty(_)
        | ShopError::File { .. }
        | ShopError::Loose { .. }
        | ShopError::Layout { .. }
        | ShopError::TooLarge { .. }
        | ShopError::Record(_)
        | ShopError::Database(_)
        | ShopError::KeyReused) => ToolError::Failed { particulars: broken.to_string() },
    }
}

/// Looks who it is, and makes them the customer of the conversation.
async fn recognise(shop: &Arc<Shop>, call: Call<'_>, claim: Claim) -> Result<Output, ToolError> {
    let shop = Arc::clone(shop);
    let known: Option<Known> = wait(move || shop.find(&claim).map_err(told)).await?;
    match Shop::recognise(known, call.guard, call.now_ms) {
        Ok(user_id) => Ok(said(json!({ "user_id": user_id }))),
        Err(NotKnown::Nobody) => Err(refused("user_not_found", "Nobody is known by this.")),
        Err(NotKnown::OneCustomer) => {
            Err(refused("one_customer", "This conversation is with one customer; another needs one of their own."))
        }
    }
}

/// Finds the customer by e-mail address.
pub struct FindByEmail(Arc<Shop>);

impl Handler for FindByEmail {
    type Args = EmailArgs;
    const NAME: &'static str = "find_user_id_by_email";
    const DESCRIPTION: &'static str =
        "Finds the customer by e-mail address. This, or the other find tool, comes first.";
    const EFFECT: Effect = Effect::Read;

    fn check(&self, args: EmailArgs) -> Result<EmailArgs, InvalidArguments> {
        args.checked()
    }

    fn call<'a>(&'a self, call: Call<'a>, args: EmailArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move { recognise(&self.0, call, Claim::Email(args.checked().map_err(unusable)?.email)).await })
    }
}

/// Finds the customer by name and zip code.
pub struct FindByNameZip(Arc<Shop>);

impl Handler for FindByNameZip {
    type Args = NameZipArgs;
    const NAME: &'static str = "find_user_id_by_name_zip";
    const DESCRIPTION: &'static str = "Finds the customer by first name, last name and zip code, where they have no e-mail \
                                       address at hand.";
    const EFFECT: Effect = Effect::Read;

    fn check(&self, args: NameZipArgs) -> Result<NameZipArgs, InvalidArguments> {
        args.checked()
    }

    fn call<'a>(&'a self, call: Call<'a>, args: NameZipArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let NameZipArgs { first_name: first, last_name: last, zip } = args.checked().map_err(unusable)?;
            recognise(&self.0, call, Claim::NameZip { first, last, zip }).await
        })
    }
}
