//! The four things that Bookly can do, each with its arguments as a type, its checks, and what has to be proven first.
//!
//! ```text
//!  lookup_order ───────────── e-mail of the order ─▶ Proven<Owner>
//!  check_return_eligibility ─ Proven<Owner>, policy ─▶ Proven<Eligible>
//!  initiate_return ────────── Proven<Owner> and Proven<Eligible>, spent ─▶ a return, once
//!  lookup_policy ──────────── nothing
//! ```
//!
//! *Must never* tell a missing order from one of somebody else, take a person's identity from anything but the e-mail address
//! of the order itself, or start a return without spending a proof of this session, this order and this policy.

mod arguments;

use std::collections::BTreeSet;
use std::sync::Arc;

use carboy_agent::guard_state::{GuardState, Mint, NotProven, Proof, Proven};
use carboy_agent::handler::tool;
use carboy_agent::{Authorization, Call, Card, Effect, Handler, InvalidArguments, Output, Principal, Tool, ToolError};
use carboy_core::ports::Later;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{ELIGIBLE_MS, OWNER_MS, ReturnPolicy};
use crate::data::{self, BookStore, DataError, Line, NewReturn, Order, OrderId, Return, Sealed, Status};

pub use arguments::{OrderArgs, PolicyArgs, Reason, ReturnArgs};
use arguments::{require_email, require_lines, require_order_id, require_topic, unusable};

/// What the model calls them.
pub const LOOKUP: &str = "lookup_order";
/// The check.
pub const CHECK: &str = "check_return_eligibility";
/// The write.
pub const INITIATE: &str = "initiate_return";
/// The policies.
pub const POLICY: &str = "lookup_policy";
/// The topic whose words are made from the return policy's values.
pub const RETURNS_TOPIC: &str = "returns";

/// What the tools work on.
pub struct Desk {
    books: BookStore,
    policy: ReturnPolicy,
}

/// The four tools, in the order in which a model is told of them.
pub fn tools(books: BookStore, policy: ReturnPolicy) -> Vec<Arc<dyn Tool>> {
    let desk = Arc::new(Desk { books, policy });
    vec![
        tool(LookupOrder(Arc::clone(&desk))),
        tool(CheckReturnEligibility(Arc::clone(&desk))),
        tool(InitiateReturn(Arc::clone(&desk))),
        tool(LookupPolicy(desk)),
    ]
}

// What a session has to have shown.

/// That a return of these lines is within the policy. Only [`CheckReturnEligibility`] brings it about: session, order, version
/// of the policy and end stand around it, in the [`Proven`].
///
/// ```compile_fail,E0451
/// let forged = bookly::tools::Eligible { lines: Default::default() };
/// ```
/// ```compile_fail,E0603
/// let seal = bookly::tools::EligibleSeal(());
/// ```
/// ```compile_fail,E0603
/// let mint = bookly::tools::ELIGIBLE;
/// ```
#[derive(Debug, Serialize, Deserialize)]
pub struct Eligible {
    lines: BTreeSet<u8>,
}

/// What makes the mint of [`Eligible`]s; its field is private.
pub struct EligibleSeal(());

impl Proof for Eligible {
    const NAME: &'static str = "bookly.eligible";
    type Seal = EligibleSeal;
}

const ELIGIBLE: Mint<Eligible> = Mint::new(&EligibleSeal(()));

/// Whether an order can be returned on a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// These lines can, up to and on this day.
    Eligible {
        /// Which.
        lines: BTreeSet<u8>,
        /// The last day.
        until: Date,
    },
    /// It cannot.
    Not(Ineligible),
}

/// Why an order cannot be returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    /// It is not there yet.
    NotDelivered,
    /// It has been there for too long; this was the last day.
    WindowClosed(Date),
    /// All of it is on its way back.
    AlreadyReturned,
    /// Nothing in it is taken back.
    NotReturnable,
}

impl Ineligible {
    fn code(self) -> &'static str {
        match self {
            Ineligible::NotDelivered => "not_delivered",
            Ineligible::WindowClosed(_) => "window_closed",
            Ineligible::AlreadyReturned => "already_returned",
            Ineligible::NotReturnable => "not_returnable",
        }
    }
}

/// The decision: of the order, the day and the policy, and of nothing else.
pub fn judge(order: &Order, today: Date, policy: &ReturnPolicy) -> Judged {
    let delivered = order.delivered_on.filter(|day| order.status == Status::Delivered && *day <= today);
    let Some(delivered) = delivered else { return Judged::Not(Ineligible::NotDelivered) };
    let until = delivered.saturating_add(jiff::Span::new().days(i32::from(policy.window_days)));
    if today > until {
        return Judged::Not(Ineligible::WindowClosed(until));
    }
    let taken_back = |line: &&Line| !policy.excluded.contains(&line.format);
    let (mut returnable, mut lines) = (false, BTreeSet::new());
    for line in order.lines.iter().filter(taken_back) {
        returnable = true;
        if !order.returned.contains(&line.number) {
            lines.insert(line.number);
        }
    }
    match (returnable, lines.is_empty()) {
        (false, _) => Judged::Not(Ineligible::NotReturnable),
        (true, true) => Judged::Not(Ineligible::AlreadyReturned),
        (true, false) => Judged::Eligible { lines, until },
    }
}

/// One answer for an order that is not there and one that is somebody else's, to the octet (G12, I4).
fn order_not_found() -> ToolError {
    let message = "There is no order with this number and e-mail address.".into();
    ToolError::Refused { code: "order_not_found", message }
}

/// Said before anything is looked up: it tells nothing of the order.
fn email_required() -> ToolError {
    let message = "Ask for the e-mail address that the order was placed with, and pass it as customer_email.".into();
    ToolError::Refused { code: "customer_email_required", message }
}

fn not_checked(why: NotProven) -> ToolError {
    let message = format!("Call check_return_eligibility for this order first: {why}.");
    ToolError::Refused { code: "eligibility_not_checked", message }
}

fn broke(error: DataError) -> ToolError {
    match error {
        DataError::ReturnedBefore => {
            let message = "A return of one of these books was started before.".into();
            ToolError::Refused { code: "already_returned", message }
        }
        error @ (DataError::File { .. }
        | DataError::Loose { .. }
        | DataError::Layout { .. }
        | DataError::Database(_)
        | DataError::Record(_)
        | DataError::KeyReused
        | DataError::NoNumber) => ToolError::Failed { particulars: error.to_string() },
    }
}

impl Desk {
    /// Asks the records on a thread that may wait for the disk.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&BookStore) -> Result<T, DataError> + Send + 'static,
    ) -> Result<T, ToolError> {
        let desk = Arc::clone(self);
        let answer = tokio::task::spawn_blocking(move || question(&desk.books)).await;
        answer.map_err(|error| ToolError::Failed { particulars: error.to_string() })?.map_err(broke)
    }

    async fn sealed(self: &Arc<Self>, id: &OrderId) -> Result<Sealed, ToolError> {
        let id = id.clone();
        self.ask(move |books| books.order(&id)).await
    }

    /// The order, for whoever shows its address now or showed it before in this session.
    async fn open(self: &Arc<Self>, args: &OrderArgs, guard: &mut GuardState, now_ms: u64) -> Result<Order, ToolError> {
        let id = require_order_id("order_id", &args.order_id).map_err(unusable)?;
        let Some(email) = &args.customer_email else {
            let owner = data::owner(guard, &id, now_ms).map_err(|_| email_required())?;
            return self.sealed(&id).await?.open_for(&owner).ok_or_else(order_not_found);
        };
        let (_, email) = require_email("customer_email", email).map_err(unusable)?;
        let until_ms = now_ms.saturating_add(OWNER_MS);
        self.sealed(&id).await?.open_with(&email, guard, now_ms, until_ms).ok_or_else(order_not_found)
    }

    /// The one way to a return: the proof is spent here.
    async fn start(
        self: &Arc<Self>,
        proof: Proven<Eligible>,
        order: &Order,
        wanted: BTreeSet<u8>,
        how: (Reason, &str, Date),
    ) -> Result<Return, ToolError> {
        let (reason, key, on) = how;
        // What was true when it was checked must be true now: the day may have changed, or another session was faster.
        let lines = match judge(order, on, &self.policy) {
            Judged::Eligible { lines, .. } => &lines & &proof.claims().lines,
            Judged::Not(Ineligible::AlreadyReturned) => return Err(broke(DataError::ReturnedBefore)),
            Judged::Not(_) => return Err(not_checked(NotProven::Expired)),
        };
        let wanted = if wanted.is_empty() { lines.clone() } else { wanted };
        if proof.key() != order.id.as_str() || lines.is_empty() || !wanted.is_subset(&lines) {
            return Err(lines_not_returnable());
        }
        let (order, key) = (order.id.clone(), key.to_owned());
        self.ask(move |books| {
            let new = NewReturn { order: &order, lines: &wanted, reason: reason.as_str(), key: &key, on };
            books.start_return(&new)
        })
        .await
    }
}

fn lines_not_returnable() -> ToolError {
    let message = "Some of these lines cannot be returned; the eligibility check names those that can.".into();
    ToolError::Refused { code: "lines_not_returnable", message }
}

fn said(value: Value) -> Output {
    Output { value, released: Vec::new() }
}

fn money(cents: u32) -> String {
    format!("{}.{:02} USD", cents / 100, cents % 100)
}

fn day(date: Option<Date>) -> Option<String> {
    date.map(|date| date.to_string())
}

// The tools (G10).

/// Where an order is and what is in it.
pub struct LookupOrder(Arc<Desk>);

impl Handler for LookupOrder {
    type Args = OrderArgs;
    const NAME: &'static str = LOOKUP;
    const DESCRIPTION: &'static str = "Looks up one order: status, dates, books. The first time in a conversation it needs the \
                                       e-mail address that the order was placed with.";
    const EFFECT: Effect = Effect::Read;

    fn check(&self, args: OrderArgs) -> Result<OrderArgs, InvalidArguments> {
        args.checked()
    }

    fn call<'a>(&'a self, call: Call<'a>, args: OrderArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let order = self.0.open(&args, call.guard, call.now_ms).await?;
            let cents = |line: &Line| line.price_cents.saturating_mul(line.quantity);
            let total = order.lines.iter().map(cents).fold(0, u32::saturating_add);
            let item = |line: &Line| {
                json!({
                    "line": line.number, "title": line.title, "author": line.author, "format": line.format,
                    "quantity": line.quantity, "price": money(line.price_cents),
                    "return_started": order.returned.contains(&line.number),
                })
            };
            Ok(said(json!({
                "order_id": order.id, "status": order.status, "placed_on": day(Some(order.placed_on)),
                "delivered_on": day(order.delivered_on), "expected_on": day(order.expected_on),
                "items": order.lines.iter().map(item).collect::<Vec<_>>(), "total": money(total),
            })))
        })
    }
}

/// Whether an order can be returned.
pub struct CheckReturnEligibility(Arc<Desk>);

impl Handler for CheckReturnEligibility {
    type Args = OrderArgs;
    const NAME: &'static str = CHECK;
    const DESCRIPTION: &'static str = "Says whether an order can be returned today, which of its lines, and until when. Has to \
                                       be called, and say eligible, before initiate_return.";
    const EFFECT: Effect = Effect::Read;

    fn check(&self, args: OrderArgs) -> Result<OrderArgs, InvalidArguments> {
        args.checked()
    }

    fn call<'a>(&'a self, call: Call<'a>, args: OrderArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let Call { guard, now_ms, .. } = call;
            // A check that does not succeed takes an earlier one back (G11).
            ELIGIBLE.revoke(guard, &args.order_id);
            let order = self.0.open(&args, guard, now_ms).await?;
            let policy = &self.0.policy;
            let (lines, until) = match judge(&order, data::day(now_ms), policy) {
                Judged::Eligible { lines, until } => (lines, until),
                Judged::Not(why) => {
                    let last = if let Ineligible::WindowClosed(last) = why { day(Some(last)) } else { None };
                    return Ok(said(json!({
                        "order_id": order.id, "eligible": false, "reason": why.code(), "window_days": policy.window_days,
                        "last_day": last,
                    })));
                }
            };
            let item = |line: &Line| json!({"line": line.number, "title": line.title, "format": line.format, "returnable": lines.contains(&line.number)});
            let value = json!({
                "order_id": order.id, "eligible": true, "last_day": day(Some(until)), "window_days": policy.window_days,
                "refund_days": policy.refund_days, "items": order.lines.iter().map(item).collect::<Vec<_>>(),
            });
            let expires_ms = now_ms.saturating_add(ELIGIBLE_MS);
            let issued =
                ELIGIBLE.issue(guard, order.id.as_str(), &policy.version(), now_ms, expires_ms, Eligible { lines });
            issued.map_err(not_checked)?;
            Ok(said(value))
        })
    }
}

/// Starts a return.
pub struct InitiateReturn(Arc<Desk>);

impl Handler for InitiateReturn {
    type Args = ReturnArgs;
    const NAME: &'static str = INITIATE;
    const DESCRIPTION: &'static str = "Starts a return after check_return_eligibility said eligible for the same order. The \
                                       customer confirms it on a card; do not ask for a yes in words.";
    const EFFECT: Effect = Effect::Write;

    fn check(&self, args: ReturnArgs) -> Result<ReturnArgs, InvalidArguments> {
        let order_id = require_order_id("order_id", &args.order_id)?.into();
        let lines = require_lines("lines", &args.lines)?.into_iter().collect();
        Ok(ReturnArgs { order_id, lines, reason: args.reason })
    }

    /// Customers of this shop do not sign in. What entitles to a return is the order's address, shown in this session, and the
    /// check: both are asked for below, of everybody.
    fn authorize(&self, _: &Principal, _: &ReturnArgs) -> Authorization {
        Authorization::Allowed
    }

    fn card(&self, args: &ReturnArgs) -> Option<Card> {
        let lines: Vec<String> = args.lines.iter().map(u8::to_string).collect();
        let books = if lines.is_empty() {
            "All that can be returned".to_owned()
        } else {
            format!("Lines {}", lines.join(", "))
        };
        let row = |name: &str, value: String| (name.to_owned(), value);
        Some(Card {
            token: String::new(),
            title: format!("Return order {}?", args.order_id),
            rows: vec![
                row("Order", args.order_id.clone()),
                row("Books", books),
                row("Reason", args.reason.words().into()),
            ],
            action: "Start the return".into(),
            expires_ms: 0,
        })
    }

    fn precheck(&self, call: &Call<'_>, args: &ReturnArgs) -> Result<(), ToolError> {
        let id = require_order_id("order_id", &args.order_id).map_err(unusable)?;
        data::owner(call.guard, &id, call.now_ms).map_err(|_| email_required())?;
        let version = self.0.policy.version();
        let proof = ELIGIBLE.show(call.guard, id.as_str(), &version, call.now_ms).map_err(not_checked)?;
        let fits = args.lines.iter().all(|line| proof.claims().lines.contains(line));
        fits.then_some(()).ok_or_else(lines_not_returnable)
    }

    fn call<'a>(&'a self, call: Call<'a>, args: ReturnArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let Call { guard, now_ms, idempotency_key, .. } = call;
            let id = require_order_id("order_id", &args.order_id).map_err(unusable)?;
            let wanted = require_lines("lines", &args.lines).map_err(unusable)?;
            // A request whose end nobody heard comes again with its key: what it did is told, and not done again.
            let key = idempotency_key.to_owned();
            let before = self.0.ask(move |books| books.return_by_key(&key)).await?;
            let started = match before.filter(|before| before.order == id) {
                Some(before) => before,
                None => {
                    let owner = data::owner(guard, &id, now_ms).map_err(|_| email_required())?;
                    let order = self.0.sealed(&id).await?.open_for(&owner).ok_or_else(order_not_found)?;
                    let version = self.0.policy.version();
                    let proof = ELIGIBLE.redeem(guard, id.as_str(), &version, now_ms).map_err(not_checked)?;
                    self.0.start(proof, &order, wanted, (args.reason, idempotency_key, data::day(now_ms))).await?
                }
            };
            let item = |(line, title): (&u8, &String)| json!({"line": line, "title": title});
            Ok(said(json!({
                "rma": started.rma, "order_id": started.order, "status": "return_started",
                "started_on": day(Some(started.started_on)), "items": started.lines.iter().map(item).collect::<Vec<_>>(),
                "refund_days": self.0.policy.refund_days,
            })))
        })
    }
}

/// The shop's standard policies.
pub struct LookupPolicy(Arc<Desk>);

impl Handler for LookupPolicy {
    type Args = PolicyArgs;
    const NAME: &'static str = POLICY;
    const DESCRIPTION: &'static str = "Gives the shop's words on a topic: shipping, payment, cancellation, gift_cards, \
                                       damaged_items, password_reset, privacy, returns. Quote them word for word.";
    const EFFECT: Effect = Effect::Read;

    fn check(&self, args: PolicyArgs) -> Result<PolicyArgs, InvalidArguments> {
        Ok(PolicyArgs { topic: require_topic("topic", &args.topic)? })
    }

    fn call<'a>(&'a self, _: Call<'a>, args: PolicyArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let topic = require_topic("topic", &args.topic).map_err(unusable)?;
            let words = if topic == RETURNS_TOPIC {
                Some(self.0.policy.block())
            } else {
                let asked = topic.clone();
                self.0.ask(move |books| books.policy(&asked)).await?
            };
            let message = || "There is no policy on this topic; the tool's description lists the topics.".into();
            let words = words.ok_or_else(|| ToolError::Refused { code: "policy_not_found", message: message() })?;
            Ok(said(json!({"topic": topic, "text": words})))
        })
    }
}
