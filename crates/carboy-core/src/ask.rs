//! A question that waits for somebody: a supervise proposal, a DLP hold, a confirmation card, an approval, a hand-off. One state machine
//! for all of them, and who may answer is part of its type.
//!
//! ```text
//!            approve(By<A>)            spend
//! Pending ───────────────▶ Approved ─────────▶ Spent        (a DLP hold that is approved stays so until it expires)
//!    ├── decline(By<A>) ──▶ Declined   │
//!    └── time ────────────▶ Expired ◀──┘ time
//! ```
//!
//! Pure: who looks at it gives the time. *Must never* be answered by a model: a [`By`] is made from a token that only the
//! person's page was given, or by whoever runs the agent; text is neither. What was spent once is spent for ever.
//!
//! ```compile_fail,E0308
//! use carboy_core::ask::{Ask, By, Customer, Operator};
//! fn answer(card: &mut Ask<Customer>, operator: By<Operator>) {
//!     let _ = card.approve(operator, 0); // an operator does not confirm for a customer
//! }
//! ```
//! ```compile_fail,E0451
//! let permit = carboy_core::ask::Spent::<carboy_core::ask::Customer> { id: String::new(), answerer: std::marker::PhantomData };
//! ```

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::audit::{Event, EventType, Outcome, Subject};

/// Characters of an ask's id and of an answerer's name.
pub const NAME_CHARS_MAX: usize = 128;

/// The person in the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Customer {}

/// Whoever runs the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {}

/// Those who can be asked.
pub trait Answerer: sealed::Sealed + Clone + std::fmt::Debug + PartialEq {
    /// As the log has it.
    const WHO: &'static str;
}

impl Answerer for Customer {
    const WHO: &'static str = "customer";
}

impl Answerer for Operator {
    const WHO: &'static str = "operator";
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Customer {}
    impl Sealed for super::Operator {}
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An agent proposes to change what it may reach.
    SuperviseProposal,
    /// A scanner held something back that may be a false alarm.
    DlpHold,
    /// A write waits for a click.
    Confirmation,
    /// A write waits for the operator.
    Approval,
    /// A person is wanted.
    HandOff,
}

impl Kind {
    /// As the log has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::SuperviseProposal => "supervise_proposal",
            Kind::DlpHold => "dlp_hold",
            Kind::Confirmation => "confirmation",
            Kind::Approval => "approval",
            Kind::HandOff => "hand_off",
        }
    }

    /// How the ids of its questions begin, before a `-`.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::SuperviseProposal => "s",
            Kind::DlpHold => "d",
            Kind::Confirmation => "c",
            Kind::Approval => "a",
            Kind::HandOff => "h",
        }
    }

    fn spent_by_use(self) -> bool {
        match self {
            Kind::SuperviseProposal | Kind::Confirmation | Kind::Approval | Kind::HandOff => true,
            Kind::DlpHold => false,
        }
    }
}

/// Where an ask stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has answered.
    Pending,
    /// Yes, and not used yet.
    Approved,
    /// No.
    Declined,
    /// Nobody answered, or nobody used the answer, in time.
    Expired,
    /// Yes, and used.
    Spent,
}

impl State {
    /// As the log has it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Approved => "approved",
            State::Declined => "declined",
            State::Expired => "expired",
            State::Spent => "spent",
        }
    }
}

/// A question, where it stands, and who may answer it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Ask<A: Answerer> {
    id: String,
    kind: Kind,
    state: State,
    /// What it is about, as a keyed hash: a tool and its arguments, a fingerprint and its route.
    bound_to: String,
    opened_ms: u64,
    expires_ms: u64,
    /// Who answered, once somebody has.
    by: Option<String>,
    #[serde(skip)]
    answerer: PhantomData<fn() -> A>,
}

impl Ask<Customer> {
    /// A write that waits for a click.
    pub fn confirmation(id: &str, bound_to: &str, now_ms: u64, expires_ms: u64) -> Ask<Customer> {
        Ask::open(Kind::Confirmation, id, bound_to, now_ms, expires_ms)
    }
}

impl Ask<Operator> {
    /// A proposal of an agent's.
    pub fn supervise_proposal(id: &str, bound_to: &str, now_ms: u64, expires_ms: u64) -> Ask<Operator> {
        Ask::open(Kind::SuperviseProposal, id, bound_to, now_ms, expires_ms)
    }

    /// Something that a scanner holds.
    pub fn dlp_hold(id: &str, bound_to: &str, now_ms: u64, expires_ms: u64) -> Ask<Operator> {
        Ask::open(Kind::DlpHold, id, bound_to, now_ms, expires_ms)
    }

    /// A write that waits for whoever runs the agent.
    pub fn approval(id: &str, bound_to: &str, now_ms: u64, expires_ms: u64) -> Ask<Operator> {
        Ask::open(Kind::Approval, id, bound_to, now_ms, expires_ms)
    }

    /// A person is wanted.
    pub fn hand_off(id: &str, bound_to: &str, now_ms: u64, expires_ms: u64) -> Ask<Operator> {
        Ask::open(Kind::HandOff, id, bound_to, now_ms, expires_ms)
    }
}

/// That somebody who may answer did. Good for one answer.
pub struct By<A: Answerer> {
    name: String,
    answerer: PhantomData<fn() -> A>,
}

impl By<Customer> {
    /// Whoever holds the token that was shown with the question; compared in constant time. An empty one is nobody's.
    pub fn token(name: &str, presented: &[u8], expected: &[u8]) -> Option<By<Customer>> {
        let same = !expected.is_empty() && bool::from(presented.ct_eq(expected));
        same.then(|| By { name: short(name), answerer: PhantomData })
    }
}

impl By<Operator> {
    /// An operator, by the name that the operator's own socket or terminal gives.
    pub fn operator(name: &str) -> By<Operator> {
        By { name: short(name), answerer: PhantomData }
    }
}

/// That an approved ask was used: what the effect itself takes as an argument.
#[must_use = "a permit that nobody uses is lost, and its ask is spent"]
#[derive(Debug, PartialEq, Eq)]
pub struct Spent<A: Answerer> {
    id: String,
    answerer: PhantomData<fn() -> A>,
}

impl<A: Answerer> Spent<A> {
    /// Of which ask.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A question as it is put up for operators, with what they are shown of it. Its state is kept by whoever asked: this is a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    /// The question.
    pub ask: Ask<Operator>,
    /// The agent that asks.
    pub agent: String,
    /// How the log calls the person in the conversation, and the conversation.
    pub user: String,
    /// The conversation.
    pub session: String,
    /// The tool that would run, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// `Refund order BK-1001?`, made by code.
    pub title: String,
    /// What is done to what: name and value.
    pub rows: Vec<(String, String)>,
    /// Where the answer goes; nothing for whoever answers.
    pub back: String,
}

/// Where a question came from: by what its conversation is found, and nothing that was said in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The question.
    pub ask: String,
    /// What was asked.
    pub kind: Kind,
    /// The agent that asked.
    pub agent: String,
    /// How the log calls the person in the conversation.
    pub user: String,
    /// How the log calls the conversation.
    pub session: String,
    /// Where the conversation is kept; nothing for whoever answers.
    pub back: String,
}

impl Posted {
    /// Where it came from.
    pub fn origin(&self) -> Origin {
        Origin {
            ask: self.ask.id().to_owned(),
            kind: self.ask.kind(),
            agent: self.agent.clone(),
            user: self.user.clone(),
            session: self.session.clone(),
            back: self.back.clone(),
        }
    }
}

/// An operator's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Yes.
    Approved,
    /// No.
    Declined,
}

/// An operator's answer, as it is left for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// What.
    pub word: Word,
    /// Who, by the name that the host gives.
    pub by: String,
    /// What the person in the conversation is told besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub say: Option<String>,
    /// When.
    pub at_ms: u64,
}

/// The ask is not where it would have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this question is {} and cannot be {wanted}", state.as_str())]
pub struct NotNow {
    /// Where it is.
    pub state: State,
    /// What was wanted: `answered`, `used`.
    pub wanted: &'static str,
}

/// A step of an ask, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was put.
    Opened,
    /// Yes.
    Approved,
    /// No.
    Declined,
    /// Too late.
    Expired,
    /// Taken back by whoever asked.
    Withdrawn,
    /// It was used.
    Spent,
}

impl Step {
    fn action(self) -> &'static str {
        match self {
            Step::Opened => "ask_opened",
            Step::Approved => "ask_approved",
            Step::Declined => "ask_declined",
            Step::Expired => "ask_expired",
            Step::Withdrawn => "ask_withdrawn",
            Step::Spent => "ask_spent",
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Step::Opened | Step::Spent => Outcome::Done,
            Step::Approved => Outcome::Allowed,
            Step::Declined | Step::Expired | Step::Withdrawn => Outcome::Denied,
        }
    }
}

impl<A: Answerer> Ask<A> {
    fn open(kind: Kind, id: &str, bound_to: &str, now_ms: u64, expires_ms: u64) -> Ask<A> {
        Ask {
            id: short(id),
            kind,
            state: State::Pending,
            bound_to: bound_to.to_owned(),
            opened_ms: now_ms,
            expires_ms,
            by: None,
            answerer: PhantomData,
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is asked.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it is about, as a keyed hash.
    pub fn bound_to(&self) -> &str {
        &self.bound_to
    }

    /// Milliseconds since the epoch at which it was put.
    pub fn opened_ms(&self) -> u64 {
        self.opened_ms
    }

    /// Milliseconds since the epoch from which it is void.
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms
    }

    /// Where it stands now: time alone ends what nobody answered or used.
    pub fn state(&self, now_ms: u64) -> State {
        match self.state {
            State::Pending | State::Approved if now_ms >= self.expires_ms => State::Expired,
            state @ (State::Pending | State::Approved | State::Declined | State::Expired | State::Spent) => state,
        }
    }

    /// Lets time do its part. True the first time that it ends the ask, so that it is written down once.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        let ended = self.state != State::Expired && self.state(now_ms) == State::Expired;
        if ended {
            self.state = State::Expired;
        }
        ended
    }

    /// Somebody says yes.
    pub fn approve(&mut self, by: By<A>, now_ms: u64) -> Result<(), NotNow> {
        self.answer(State::Approved, by, now_ms)
    }

    /// Somebody says no.
    pub fn decline(&mut self, by: By<A>, now_ms: u64) -> Result<(), NotNow> {
        self.answer(State::Declined, by, now_ms)
    }

    /// Uses the yes. Whoever gets the permit keeps the ask, durably, before the effect.
    pub fn spend(&mut self, now_ms: u64) -> Result<Spent<A>, NotNow> {
        self.expire(now_ms);
        if self.state != State::Approved {
            return Err(NotNow { state: self.state, wanted: "used" });
        }
        if self.kind.spent_by_use() {
            self.state = State::Spent;
        }
        Ok(Spent { id: self.id.clone(), answerer: PhantomData })
    }

    /// The permit of an ask that was spent and whose effect nobody knows: it is tried again under the same idempotency key,
    /// or told. Never a second yes.
    pub fn unanswered(&self) -> Result<Spent<A>, NotNow> {
        match self.state {
            State::Spent => Ok(Spent { id: self.id.clone(), answerer: PhantomData }),
            state @ (State::Pending | State::Approved | State::Declined | State::Expired) => {
                Err(NotNow { state, wanted: "reconciled" })
            }
        }
    }

    /// Whoever asked takes the question back. True if it still waited or was not used.
    pub fn withdraw(&mut self) -> bool {
        let open = matches!(self.state, State::Pending | State::Approved);
        if open {
            self.state = State::Expired;
        }
        open
    }

    /// The one shape in which every ask is written down.
    pub fn event(&self, step: Step, subject: Subject) -> Event {
        let event = Event::new(EventType::Ask, subject, step.action(), step.outcome())
            .with("ask", self.id.as_str())
            .with("kind", self.kind.as_str())
            .with("answerer", A::WHO)
            .with("bound_to", self.bound_to.as_str())
            .with("expires_ms", self.expires_ms);
        match (&self.by, step) {
            (Some(by), Step::Approved | Step::Declined | Step::Spent) => event.with("by", by.as_str()),
            (Some(_), Step::Opened | Step::Expired | Step::Withdrawn) | (None, _) => event,
        }
    }

    fn answer(&mut self, state: State, by: By<A>, now_ms: u64) -> Result<(), NotNow> {
        self.expire(now_ms);
        if self.state != State::Pending {
            return Err(NotNow { state: self.state, wanted: "answered" });
        }
        (self.state, self.by) = (state, Some(by.name));
        Ok(())
    }
}

fn short(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn person() -> By<Customer> {
        By::token("p", b"token", b"token").unwrap()
    }

    #[test]
    fn u4_i5_only_the_token_that_was_shown_answers_for_a_customer() {
        for (presented, expected) in [("token", "tokem"), ("", "token"), ("token", ""), ("", ""), ("token2", "token")] {
            assert!(By::token("p", presented.as_bytes(), expected.as_bytes()).is_none(), "{presented:?}");
        }
        assert!(By::token("p", b"token", b"token").is_some());
    }

    #[test]
    fn u4_an_approval_of_a_scanners_hold_lets_pass_until_it_expires_and_every_other_once() {
        let mut hold = Ask::dlp_hold("d-1", "f", 0, 100);
        hold.approve(By::operator("root"), 1).unwrap();
        assert!(hold.spend(2).is_ok() && hold.spend(99).is_ok());
        assert_eq!(hold.spend(100), Err(NotNow { state: State::Expired, wanted: "used" }));
        let once = [Ask::supervise_proposal, Ask::approval, Ask::hand_off];
        for mut once in once.map(|open| open("q-1", "f", 0, 100)) {
            once.approve(By::operator("root"), 1).unwrap();
            assert!(once.spend(2).is_ok());
            assert_eq!(once.spend(3), Err(NotNow { state: State::Spent, wanted: "used" }));
        }
    }

    #[test]
    fn u4_every_ask_is_written_down_in_one_shape_without_what_it_is_about() {
        let mut card = Ask::confirmation("a-1", "5af0", 0, 100);
        card.approve(person(), 1).unwrap();
        let names = |event: &Event| event.details.keys().copied().collect::<Vec<_>>();
        let approved = card.event(Step::Approved, Subject::default());
        assert_eq!(names(&approved), ["answerer", "ask", "bound_to", "by", "expires_ms", "kind"]);
        assert_eq!(
            (approved.event_type, approved.action, approved.result),
            (EventType::Ask, "ask_approved", Outcome::Allowed)
        );
        let held = Ask::dlp_hold("d-1", "77", 0, 9).event(Step::Opened, Subject::default());
        assert_eq!(names(&held), ["answerer", "ask", "bound_to", "expires_ms", "kind"]);
        assert_eq!(held.details["answerer"].as_json(), "operator");
    }

    #[test]
    fn u4_an_ask_comes_back_from_where_it_was_kept() {
        let mut card = Ask::confirmation("a-1", "5af0", 0, 100);
        card.approve(person(), 1).unwrap();
        let kept = serde_json::to_string(&card).unwrap();
        assert_eq!(serde_json::from_str::<Ask<Customer>>(&kept).unwrap(), card);
    }

    #[derive(Clone, Debug)]
    enum Do {
        Approve,
        Decline,
        Spend,
        Expire,
        Withdraw,
    }

    fn deeds() -> impl Strategy<Value = Vec<(Do, u64)>> {
        let deed =
            prop_oneof![Just(Do::Approve), Just(Do::Decline), Just(Do::Spend), Just(Do::Expire), Just(Do::Withdraw)];
        proptest::collection::vec((deed, 0_u64..150), 0..20)
    }

    proptest! {
        // I5: whatever the order, and whatever the clock does, there is at most one use, never one without a yes, never one
        // after a no, and never one too late. What is spent can be asked about again, and nothing else can.
        #[test]
        fn u4_i5_a_confirmation_is_used_at_most_once_and_only_after_a_yes(deeds in deeds()) {
            let mut card = Ask::confirmation("a-1", "5af0", 0, 100);
            let (mut yes, mut no, mut used, mut expired) = (0, 0, 0, 0);
            for (deed, now) in deeds {
                let before = card.state;
                match deed {
                    Do::Approve => yes += u32::from(card.approve(person(), now).is_ok()),
                    Do::Decline => no += u32::from(card.decline(person(), now).is_ok()),
                    Do::Spend => if card.spend(now).is_ok() {
                        prop_assert!(now < 100 && before == State::Approved);
                        used += 1;
                    },
                    Do::Withdraw => expired += u32::from(card.withdraw()),
                    Do::Expire => expired += u32::from(card.expire(now)),
                }
                if matches!(before, State::Declined | State::Expired | State::Spent) {
                    prop_assert_eq!(card.state, before);
                }
            }
            prop_assert_eq!(card.unanswered().is_ok(), used == 1);
            prop_assert!(used <= yes && yes + no <= 1 && expired <= 1 && used <= 1);
        }
    }
}
