//! Writes that wait for a person's click, and what happens when it comes (I5).
//!
//! ```text
//! Possible ─▶ card from the arguments, token = HMAC(session, tool, canonical arguments, nonce) ─▶ kept, pending
//! token ─▶ approved ─▶ authorized, required, prechecked again ─▶ spent, kept ─▶ intent in the log ─▶ the write ─▶ outcome
//!                                                                     └─ nobody heard of an outcome: again, or told ◀─ next load
//! ```
//!
//! The card is made by code, its values are the arguments that will be used. *Must never* be confirmed by a text, a model's or
//! a person's, or run with other arguments than those on the card, or twice.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carboy_core::ask::{Answerer, Ask, By, Customer, Kind, Operator, Posted, State as AskState};
use carboy_core::audit::hex;
use carboy_core::ports::SessionKey;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::audit::Record;
use crate::canonical::canonical;
use crate::keys::Keys;
use crate::outcome::Card;
use crate::principal::Principal;
use crate::session::NoRandomness;
use crate::tool::Tool;

/// Times that a write whose outcome nobody knows is tried.
pub const ATTEMPTS_MAX: u32 = 3;
/// Rows of a card.
pub const CARD_ROWS_MAX: usize = 32;
/// Characters of a text on a card.
pub const CARD_CHARS_MAX: usize = 300;

const NONCE_BYTES: usize = 16;

/// A write that waits for somebody's yes, or for its outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Waiting<A: Answerer> {
    pub(crate) ask: Ask<A>,
    pub(crate) tool: String,
    /// As they will be used.
    pub(crate) arguments: Map<String, Value>,
    nonce: String,
    /// What the person was shown, without its token: that is made from the nonce and the engine's key.
    card: Card,
    /// Who was asked. Nobody else can click.
    pub(crate) principal: Principal,
    /// Times that it was tried.
    pub(crate) attempts: u32,
    /// Who tries it, and since when.
    pub(crate) begun: Option<Attempt>,
}

/// An attempt at a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// The engine, by a name that no other one has.
    pub(crate) engine: String,
    pub(crate) at_ms: u64,
}

impl Attempt {
    /// May another engine still be at it? One of our own would have the session's lock.
    pub(crate) fn is_under_way_elsewhere(&self, engine: &str, now_ms: u64, wait_ms: u32) -> bool {
        self.engine != engine && now_ms.saturating_sub(self.at_ms) <= u64::from(wait_ms)
    }
}

/// Makes the question itself: id, what it is bound to, from when and until when.
pub(crate) type Put<A> = fn(&str, &str, u64, u64) -> Ask<A>;

/// What a question is about.
pub(crate) struct About<'a> {
    pub(crate) tool: &'a dyn Tool,
    pub(crate) arguments: &'a Map<String, Value>,
    pub(crate) principal: &'a Principal,
}

impl<A: Answerer> Waiting<A> {
    /// A question of this kind about this call.
    pub(crate) fn open(
        keys: &Keys,
        session: SessionKey,
        about: &About<'_>,
        (now_ms, expires_ms): (u64, u64),
        (kind, put): (Kind, Put<A>),
    ) -> Result<Waiting<A>, NoRandomness> {
        let About { tool, arguments, principal } = *about;
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| NoRandomness(error.to_string()))?;
        let nonce = hex(&nonce);
        let name = &tool.spec().schema.name;
        let bound_to = keys.short(&[b"bound", &session.0, name.as_bytes(), &canonical(arguments.clone())]);
        let id = format!("{}-{}", kind.prefix(), keys.short(&[b"ask", &session.0, nonce.as_bytes()]));
        Ok(Waiting {
            ask: put(&id, &bound_to, now_ms, expires_ms),
            tool: name.clone(),
            arguments: arguments.clone(),
            nonce,
            card: card(tool, arguments, expires_ms),
            principal: principal.clone(),
            attempts: 0,
            begun: None,
        })
    }

    /// What is shown, without its token.
    pub(crate) fn shown(&self) -> &Card {
        &self.card
    }

    /// The card's title, for a person.
    pub(crate) fn title(&self) -> &str {
        &self.card.title
    }

    /// The same for every attempt at this write, and for no other.
    pub(crate) fn idempotency_key(&self, keys: &Keys, session: SessionKey) -> String {
        hex(&keys.hash(&[
            b"write",
            &session.0,
            self.tool.as_bytes(),
            &canonical(self.arguments.clone()),
            self.nonce.as_bytes(),
        ])[..16])
    }

    /// Is it a question about this very call, still open?
    pub(crate) fn asks_for(
        &self,
        tool: &str,
        arguments: &Map<String, Value>,
        principal: &Principal,
        now_ms: u64,
    ) -> bool {
        self.ask.state(now_ms) == AskState::Pending
            && self.tool == tool
            && self.arguments == *arguments
            && self.principal.id == principal.id
    }

    /// Did it run, and nobody heard how it ended?
    pub(crate) fn is_unanswered(&self) -> bool {
        self.ask.unanswered().is_ok()
    }
}

impl Waiting<Customer> {
    /// The card, with the token that confirms it.
    pub(crate) fn card(&self, keys: &Keys, session: SessionKey) -> Card {
        Card { token: URL_SAFE_NO_PAD.encode(self.token(keys, session)), ..self.card.clone() }
    }

    /// That whoever holds this token, and is who was asked, answered.
    pub(crate) fn answered(
        &self,
        keys: &Keys,
        session: SessionKey,
        name: &str,
        principal: &Principal,
        token: &str,
    ) -> Option<By<Customer>> {
        let presented = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
        let by = By::token(name, &presented, &self.token(keys, session))?;
        let same = self.principal.id == principal.id && self.principal.kind == principal.kind;
        same.then_some(by)
    }

    /// Can this person click it now?
    pub(crate) fn can_be_clicked_by(&self, principal: &Principal, now_ms: u64) -> bool {
        let same = self.principal.id == principal.id && self.principal.kind == principal.kind;
        same && self.ask.state(now_ms) == AskState::Pending
    }

    fn token(&self, keys: &Keys, session: SessionKey) -> [u8; 32] {
        keys.token(&[&session.0, self.tool.as_bytes(), &canonical(self.arguments.clone()), self.nonce.as_bytes()])
    }
}

impl Waiting<Operator> {
    /// As operators are shown it.
    pub(crate) fn posted(&self, agent: &str, record: &Record, session: SessionKey) -> Posted {
        Posted {
            tool: Some(self.tool.clone()),
            title: self.card.title.clone(),
            rows: self.card.rows.clone(),
            ..posted(self.ask.clone(), agent, record, session)
        }
    }
}

/// A question to operators without words of its own.
pub(crate) fn posted(ask: Ask<Operator>, agent: &str, record: &Record, session: SessionKey) -> Posted {
    Posted {
        ask,
        agent: agent.to_owned(),
        user: record.subject.user_id.clone().unwrap_or_default(),
        session: record.session.clone(),
        tool: None,
        title: "Somebody asks for a person.".into(),
        rows: Vec::new(),
        back: hex(&session.0),
    }
}

/// The tool's card, or a table of the arguments. Texts are short and say what they seem to say.
fn card(tool: &dyn Tool, arguments: &Map<String, Value>, expires_ms: u64) -> Card {
    let name = &tool.spec().schema.name;
    let plain = || Card {
        token: String::new(),
        title: format!("{}?", name.replace('_', " ")),
        rows: arguments.iter().map(|(name, value)| (name.replace('_', " "), words(value))).collect(),
        action: "Confirm".into(),
        expires_ms,
    };
    let made = tool.card(arguments).unwrap_or_else(plain);
    let mut rows: Vec<(String, String)> =
        made.rows.iter().take(CARD_ROWS_MAX).map(|(name, value)| (shown(name), shown(value))).collect();
    if let Some(more) = made.rows.len().checked_sub(CARD_ROWS_MAX).filter(|more| *more > 0) {
        rows.push(("…".into(), format!("{more} more")));
    }
    Card { token: String::new(), title: shown(&made.title), rows, action: shown(&made.action), expires_ms }
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".into(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Without what moves or hides letters (UAX #9, zero width), and not too long.
fn shown(text: &str) -> String {
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let plain: String =
        text.chars().map(|c| if c == '\n' || c == '\t' { ' ' } else { c }).filter(|c| !hides(*c)).collect();
    if plain.chars().count() <= CARD_CHARS_MAX {
        return plain;
    }
    plain.chars().take(CARD_CHARS_MAX).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i5_a_card_shows_no_letter_that_moves_or_hides_others_and_says_when_it_is_cut() {
        assert_eq!(shown("pay \u{202e}001\u{202c} to\u{200b} x\u{0}"), "pay 001 to x");
        let long = shown(&"x".repeat(CARD_CHARS_MAX + 1));
        assert!(long.ends_with('…') && long.chars().count() == CARD_CHARS_MAX + 1);
    }
}
