//! A session as it is kept: what was said, what was proven, what waits for a click.
//!
//! ```text
//! SessionStore ─▶ seal (HMAC over the session's key and the octets) ─▶ JSON ─▶ State
//! ```
//!
//! The seal binds a state to its session and to the engine's secret: octets that somebody else wrote, or that were moved from
//! another session, are no state, and a proof in them is none. *Must never* be larger than what a store takes.

use carboy_core::ask::{Answerer, Ask, Customer, Operator};
use carboy_core::ports::SessionKey;
use carboy_wire::chat::{Block, Message, Role};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::confirm::Waiting;
use crate::guard_state::{Facts, GuardState};
use crate::keys::Keys;
use crate::principal::Principal;
use crate::session::{Line, Who};
use crate::unasked::Unasked;

/// Octets of a conversation's messages, as JSON; beyond, the oldest turns go, down to half.
pub const HISTORY_BYTES_MAX: usize = 320 * 1024;
/// Lines of a transcript; beyond, the oldest go.
pub const LINES_MAX: usize = 400;
/// Octets of a transcript's lines.
pub const LINES_BYTES_MAX: usize = 128 * 1024;

const SEAL_BYTES: usize = 32;

/// The state of one session.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    /// What the model is told of the conversation.
    pub(crate) history: Vec<Message>,
    /// What was proven.
    pub(crate) guard: GuardState,
    /// Turns that were had.
    pub(crate) turns: u32,
    /// Writes that wait for a click, or for their outcome.
    pub(crate) waiting: Vec<Waiting<Customer>>,
    /// Writes that wait for the operator, or for their outcome.
    pub(crate) requests: Vec<Waiting<Operator>>,
    /// Writes that ask nobody and whose outcome is not known.
    pub(crate) unasked: Vec<Unasked>,
    /// A person was asked for.
    pub(crate) hand_off: Option<Ask<Operator>>,
    /// What the person saw.
    pub(crate) lines: Vec<Line>,
    pub(crate) created_ms: u64,
    pub(crate) used_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "History: Deserialize<'de>, Guard: Deserialize<'de>, Cards: Deserialize<'de>, \
                             Requests: Deserialize<'de> + Default, Begun: Deserialize<'de> + Default, \
                             Ask: Deserialize<'de>, Lines: Deserialize<'de>"))]
struct Written<History, Guard, Cards, Requests, Begun, Ask, Lines> {
    form: u32,
    history: History,
    guard: Guard,
    turns: u32,
    waiting: Cards,
    /// Sessions of an older carboy have none.
    #[serde(default)]
    requests: Requests,
    /// The same.
    #[serde(default)]
    unasked: Begun,
    hand_off: Ask,
    lines: Lines,
    created_ms: u64,
    used_ms: u64,
}

type Cards = Vec<Waiting<Customer>>;
type Requests = Vec<Waiting<Operator>>;
type Begun = Vec<Unasked>;
type Owned = Written<Vec<Message>, Facts, Cards, Requests, Begun, Option<Ask<Operator>>, Vec<Line>>;
type Borrowed<'a> =
    Written<&'a [Message], &'a Facts, &'a Cards, &'a Requests, &'a Begun, &'a Option<Ask<Operator>>, &'a [Line]>;

/// Whose answer a write waits for, and where it is kept while it does.
pub(crate) trait Kept: Answerer {
    /// The list of those.
    fn list(state: &mut State) -> &mut Vec<Waiting<Self>>;
}

impl Kept for Customer {
    fn list(state: &mut State) -> &mut Vec<Waiting<Customer>> {
        &mut state.waiting
    }
}

impl Kept for Operator {
    fn list(state: &mut State) -> &mut Vec<Waiting<Operator>> {
        &mut state.requests
    }
}

const FORM: u32 = 1;

/// The octets are no session of this engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

impl State {
    /// A session that begins.
    pub(crate) fn new(session: String, now_ms: u64) -> State {
        State {
            history: Vec::new(),
            guard: GuardState::of(session),
            turns: 0,
            waiting: Vec::new(),
            requests: Vec::new(),
            unasked: Vec::new(),
            hand_off: None,
            lines: Vec::new(),
            created_ms: now_ms,
            used_ms: now_ms,
        }
    }

    /// The octets to keep.
    pub(crate) fn to_bytes(&self, keys: &Keys, key: SessionKey) -> Result<Vec<u8>, Damaged> {
        let written = Borrowed {
            form: FORM,
            history: &self.history,
            guard: &self.guard.kept,
            turns: self.turns,
            waiting: &self.waiting,
            requests: &self.requests,
            unasked: &self.unasked,
            hand_off: &self.hand_off,
            lines: &self.lines,
            created_ms: self.created_ms,
            used_ms: self.used_ms,
        };
        let body = serde_json::to_vec(&written).map_err(|_| Damaged)?;
        Ok([keys.seal(key, &body).as_slice(), &body].concat())
    }

    /// Reads what was kept.
    pub(crate) fn from_bytes(keys: &Keys, key: SessionKey, bytes: &[u8]) -> Result<State, Damaged> {
        let (seal, body) = bytes.split_at_checked(SEAL_BYTES).ok_or(Damaged)?;
        if !bool::from(keys.seal(key, body).as_slice().ct_eq(seal)) {
            return Err(Damaged);
        }
        let written: Owned = serde_json::from_slice(body).map_err(|_| Damaged)?;
        let ours = written.form == FORM && written.guard.session == keys.session(key);
        ours.then_some(()).ok_or(Damaged)?;
        Ok(State {
            history: written.history,
            guard: GuardState { kept: written.guard, turn: written.turns },
            turns: written.turns,
            waiting: written.waiting,
            requests: written.requests,
            unasked: written.unasked,
            hand_off: written.hand_off,
            lines: written.lines,
            created_ms: written.created_ms,
            used_ms: written.used_ms,
        })
    }

    /// What waits for an operator is carried out with the roles that the person had when they were here last. True where they
    /// are others than before.
    pub(crate) fn know_roles(&mut self, principal: &Principal) -> bool {
        let mut changed = false;
        for request in self.requests.iter_mut().filter(|request| !request.is_unanswered()) {
            let asked = &mut request.principal;
            if (&asked.id, asked.kind) == (&principal.id, principal.kind) && asked.roles != principal.roles {
                asked.roles = principal.roles.clone();
                changed = true;
            }
        }
        changed
    }

    /// One more line for the person.
    pub(crate) fn line(&mut self, who: Who, text: impl Into<String>, at_ms: u64) {
        self.lines.push(Line { who, text: text.into(), at_ms, turn: self.turns, judged: false });
        let mut bytes: usize = self.lines.iter().map(|line| line.text.len()).sum();
        while self.lines.len() > LINES_MAX || (bytes > LINES_BYTES_MAX && self.lines.len() > 1) {
            bytes -= self.lines.remove(0).text.len();
        }
    }

    /// For a store that takes less: the older half of the conversation goes, of its transcript too, and what was released in
    /// this turn counts as released in an earlier one, of which less is kept.
    pub(crate) fn shrink(&mut self) {
        self.cut_history(size_of(&self.history) / 2);
        self.lines.drain(..self.lines.len() / 2);
        self.guard.kept.grounds.begin_turn();
    }

    /// Drops the oldest turns of a history that is too long, whole turns only: a result never loses its call. Half of the
    /// limit at once, so that a provider's cache is lost seldom (G38).
    pub(crate) fn bound_history(&mut self) {
        if size_of(&self.history) > HISTORY_BYTES_MAX {
            self.cut_history(HISTORY_BYTES_MAX / 2);
        }
    }

    fn cut_history(&mut self, bytes_max: usize) {
        let mut bytes = 0;
        let mut from = self.history.len();
        for place in (0..self.history.len()).rev() {
            bytes += size_of(&self.history[place..=place]);
            if bytes > bytes_max && from < self.history.len() {
                break;
            }
            if begins_a_turn(&self.history[place]) {
                from = place;
            }
        }
        self.history.drain(..from);
    }
}

/// What the messages take as JSON.
pub(crate) fn size_of(messages: &[Message]) -> usize {
    serde_json::to_vec(messages).map_or(usize::MAX, |text| text.len())
}

fn begins_a_turn(message: &Message) -> bool {
    message.role == Role::User && matches!(message.blocks.first(), Some(Block::Text { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use carboy_core::secret::Secret;

    fn keys() -> Keys {
        Keys::new(&Secret::new("k".repeat(32)))
    }

    fn state(key: SessionKey) -> State {
        let mut state = State::new(keys().session(key), 5);
        state.history.push(Message::user("hello"));
        state.line(Who::Person, "hello", 5);
        state
    }

    #[test]
    fn g31_a_session_comes_back_as_it_was_kept() {
        let key = SessionKey([1; 32]);
        let bytes = state(key).to_bytes(&keys(), key).unwrap();
        assert_eq!(State::from_bytes(&keys(), key, &bytes), Ok(state(key)));
    }

    #[test]
    fn i1_octets_of_another_session_of_another_secret_or_of_nobody_are_no_session() {
        let (key, other) = (SessionKey([1; 32]), SessionKey([2; 32]));
        let bytes = state(key).to_bytes(&keys(), key).unwrap();
        assert_eq!(State::from_bytes(&keys(), other, &bytes), Err(Damaged));
        assert_eq!(State::from_bytes(&Keys::new(&Secret::new("l".repeat(32))), key, &bytes), Err(Damaged));
        for place in [0, 31, 32, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(State::from_bytes(&keys(), key, &changed), Err(Damaged));
        }
        for length in [0, 31, 32, bytes.len() - 1] {
            assert_eq!(State::from_bytes(&keys(), key, &bytes[..length]), Err(Damaged));
        }
    }

    #[test]
    fn i12_a_long_history_loses_whole_turns_from_its_beginning() {
        let mut state = State::new("s".into(), 0);
        for turn in 0..60 {
            state.history.push(Message::user(format!("question {turn}")));
            let use_tool = Block::ToolUse { id: format!("c{turn}"), name: "look".into(), input: serde_json::json!({}) };
            state.history.push(Message { role: Role::Assistant, blocks: vec![use_tool] });
            let result =
                Block::ToolResult { tool_use_id: format!("c{turn}"), content: "x".repeat(8_000), is_error: false };
            state.history.push(Message { role: Role::User, blocks: vec![result] });
        }
        state.bound_history();
        assert!(size_of(&state.history) <= HISTORY_BYTES_MAX / 2);
        assert!(begins_a_turn(&state.history[0]) && state.history.len().is_multiple_of(3));
        assert_eq!(state.history.len() / 3, 19, "the last ones stay");

        let huge = "x".repeat(HISTORY_BYTES_MAX + 1);
        state.history.push(Message::user(huge));
        state.bound_history();
        assert_eq!(state.history.len(), 1, "the last turn is never cut");
    }

    #[test]
    fn i12_a_transcript_is_bounded_in_lines_and_octets() {
        let mut state = State::new("s".into(), 0);
        (0..LINES_MAX + 9).for_each(|n| state.line(Who::Agent, n.to_string(), 0));
        assert_eq!((state.lines.len(), state.lines[0].text.as_str()), (LINES_MAX, "9"));
        (0..40).for_each(|_| state.line(Who::Agent, "x".repeat(8_000), 0));
        assert!(state.lines.iter().map(|line| line.text.len()).sum::<usize>() <= LINES_BYTES_MAX);
    }
}
