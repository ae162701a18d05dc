//! How scopes, caps and events stand in columns of text.
//!
//! *Must never* guess: what cannot be read is said to be damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use carboy_core::audit::{Detail, Event, EventType, Outcome, Subject};
use carboy_core::budget::{CapKind, Scope};
use carboy_core::ids::MeterName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most names of events and their particulars. They are ours: there are a few dozen.
const NAMES_MAX: usize = 1_024;

/// What a column holds that no ledger writes.
pub(super) struct Damaged(pub(super) String);

impl<E: std::error::Error> From<E> for Damaged {
    fn from(error: E) -> Damaged {
        Damaged(error.to_string())
    }
}

pub(super) fn scope(text: &str) -> Result<Scope, Damaged> {
    match (text, text.split_once(':')) {
        ("host", _) => Ok(Scope::Host),
        (_, Some(("run", name))) => Ok(Scope::Run(name.to_owned())),
        (_, Some(("agent", name))) => Ok(Scope::Agent(name.to_owned())),
        (_, Some(("bottle", name))) => Ok(Scope::Bottle(name.to_owned())),
        (_, Some(_) | None) => Err(Damaged(format!("no scope: {text:?}"))),
    }
}

pub(super) fn meter(text: &str) -> Result<MeterName, Damaged> {
    Ok(MeterName::parse(text)?)
}

pub(super) const fn kind_text(kind: CapKind) -> &'static str {
    match kind {
        CapKind::Budget => "budget",
        CapKind::Ceiling => "ceiling",
    }
}

pub(super) fn kind(text: &str) -> Result<CapKind, Damaged> {
    [CapKind::Budget, CapKind::Ceiling]
        .into_iter()
        .find(|kind| kind_text(*kind) == text)
        .ok_or_else(|| Damaged(format!("no kind of cap: {text:?}")))
}

#[derive(Serialize)]
struct Written<'a> {
    event_type: EventType,
    subject: &'a Subject,
    action: &'a str,
    result: Outcome,
    details: BTreeMap<&'a str, &'a Value>,
}

#[derive(Deserialize)]
struct Read {
    event_type: EventType,
    subject: Subject,
    action: String,
    result: Outcome,
    details: BTreeMap<String, Value>,
}

pub(super) fn event_text(event: &Event) -> Result<String, serde_json::Error> {
    let details = event.details.iter().map(|(name, value)| (*name, value.as_json())).collect();
    let Event { event_type, subject, action, result, .. } = event;
    serde_json::to_string(&Written { event_type: *event_type, subject, action, result: *result, details })
}

pub(super) fn event(text: &str) -> Result<Event, Damaged> {
    let read: Read = serde_json::from_str(text)?;
    let mut event = Event::new(read.event_type, read.subject, name(read.action)?, read.result);
    for (key, value) in read.details {
        event.details.insert(name(key)?, detail(value)?);
    }
    Ok(event)
}

fn detail(value: Value) -> Result<Detail, Damaged> {
    let no_detail = |value: &Value| Damaged(format!("no particular of an event: {value}"));
    match value {
        Value::Bool(yes) => Ok(Detail::from(yes)),
        Value::String(text) => Ok(Detail::from(text)),
        Value::Number(ref number) => number.as_u64().map(Detail::from).ok_or_else(|| no_detail(&value)),
        Value::Array(words) => {
            let text = |word: Value| word.as_str().map(str::to_owned).ok_or_else(|| no_detail(&word));
            Ok(Detail::from(words.into_iter().map(text).collect::<Result<Vec<String>, Damaged>>()?))
        }
        Value::Null | Value::Object(_) => Err(no_detail(&value)),
    }
}

/// A name that lives as long as the process, as those of events do. Each is kept once.
fn name(given: String) -> Result<&'static str, Damaged> {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(given.as_str()) {
        return Ok(known);
    }
    if names.len() >= NAMES_MAX {
        return Err(Damaged(format!("more than {NAMES_MAX} names of events")));
    }
    let name: &'static str = Box::leak(given.into_boxed_str());
    names.insert(name);
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for written in [Scope::Host, Scope::Run("k3".into()), Scope::Agent("a:b".into()), Scope::Bottle("b".into())] {
            assert_eq!(scope(&written.to_string()).ok(), Some(written));
        }
        assert!(scope("galaxy").is_err() && scope("tribe:x").is_err());
        let subject = Subject { run: Some("k3".into()), ..Subject::default() };
        let written = Event::new(EventType::Budget, subject, "cross_cap", Outcome::Blocked)
            .with("tokens", 7_u64)
            .with("words", vec!["a".to_owned()])
            .with("yes", true)
            .with("scope", "host");
        assert_eq!(event(&event_text(&written).unwrap()).ok(), Some(written));
        assert!(
            event(r#"{"event_type":"budget","subject":{},"action":"a","result":"done","details":{"x":null}}"#).is_err()
        );
    }
}
