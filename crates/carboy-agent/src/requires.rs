//! What a file demands of a call, whatever the tool itself checks: what must have succeeded before (G88, G11 generalised)
//! and how often it may be asked for.
//!
//! *Must never* count a failed call, a call of another session, or one with another key.

use std::collections::BTreeMap;

use carboy_core::chat::{Requirement, ToolRules};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::canonical::canonical;
use crate::guard_state::GuardState;

/// Successes of one session at once; the oldest goes first.
pub const SUCCESSES_MAX: usize = 512;

/// A call that succeeded and that a requirement asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Success {
    /// The tool.
    tool: String,
    /// The arguments that must be the same, canonical: short, and never more than a hash of what a person typed.
    key: String,
    at_ms: u64,
}

/// Why a call may not run yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// What it builds on did not happen.
    #[error("call {tool} first, with the same {}, and only go on if it succeeds", same.join(", "))]
    Requires {
        /// The tool that must have succeeded.
        tool: String,
        /// The arguments that must be the same.
        same: Vec<String>,
    },
    /// It was called often enough.
    #[error("this tool was used {max} times in this conversation, which is the limit")]
    TooOften {
        /// The limit.
        max: u32,
    },
}

/// Every demand of one agent's file, by tool.
#[derive(Clone, Debug)]
pub(crate) struct Demands(BTreeMap<String, ToolRules>);

impl Demands {
    pub(crate) fn new(rules: &BTreeMap<String, ToolRules>) -> Demands {
        Demands(rules.clone())
    }

    /// What the file says of a tool.
    pub(crate) fn of(&self, tool: &str) -> Option<&ToolRules> {
        self.0.get(tool)
    }

    /// May `tool` run with these arguments now?
    pub(crate) fn met(
        &self,
        guard: &GuardState,
        tool: &str,
        arguments: &Map<String, Value>,
        now_ms: u64,
    ) -> Result<(), NotYet> {
        let Some(rules) = self.0.get(tool) else { return Ok(()) };
        if let Some(max) = rules.calls_per_session_max
            && guard.kept.calls.get(tool).copied().unwrap_or(0) >= max
        {
            return Err(NotYet::TooOften { max });
        }
        let missing = rules.requires.iter().find(|requirement| !holds(requirement, guard, arguments, now_ms));
        missing.map_or(Ok(()), |requirement| {
            Err(NotYet::Requires { tool: requirement.tool.clone(), same: requirement.same.clone() })
        })
    }

    /// Counts a call before it runs. True if the count has to be kept before it runs too.
    pub(crate) fn count(&self, guard: &mut GuardState, tool: &str) -> Counted {
        match self.0.get(tool).and_then(|rules| rules.calls_per_session_max) {
            Some(_) => {
                let calls = guard.kept.calls.entry(tool.to_owned()).or_insert(0);
                *calls = calls.saturating_add(1);
                Counted::Limited
            }
            None => Counted::Free,
        }
    }

    /// Writes down how a call ended, for those that build on it. One that fails, or that says something else now, takes an
    /// earlier success back.
    pub(crate) fn ended(
        &self,
        guard: &mut GuardState,
        tool: &str,
        arguments: &Map<String, Value>,
        result: Option<&Value>,
        now_ms: u64,
    ) {
        for requirement in self.0.values().flat_map(|rules| &rules.requires).filter(|asks| asks.tool == tool) {
            let Some(key) = key_of(requirement, arguments) else { continue };
            let successes = &mut guard.kept.successes;
            successes.retain(|success| !(success.tool == tool && success.key == key));
            if result.is_some_and(|result| says(requirement, result)) {
                if successes.len() >= SUCCESSES_MAX {
                    successes.remove(0);
                }
                successes.push(Success { tool: tool.to_owned(), key, at_ms: now_ms });
            }
        }
    }
}

/// Whether a call's count is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// It is, and the count is kept before the call runs: a turn that is broken off does not give it back.
    Limited,
    /// It is not.
    Free,
}

fn holds(requirement: &Requirement, guard: &GuardState, arguments: &Map<String, Value>, now_ms: u64) -> bool {
    let Some(key) = key_of(requirement, arguments) else { return false };
    let within_ms = u64::from(requirement.within_s) * 1_000;
    let live = |at_ms: u64| now_ms.checked_sub(at_ms).is_some_and(|age| age < within_ms);
    guard.kept.successes.iter().any(|done| done.tool == requirement.tool && done.key == key && live(done.at_ms))
}

/// The requirement and the values that must be the same, as one hash. `None` where a call lacks one: then it fits nothing.
fn key_of(requirement: &Requirement, arguments: &Map<String, Value>) -> Option<String> {
    let same: Option<Vec<&Value>> =
        requirement.same.iter().map(|name| arguments.get(name).filter(|value| !value.is_null())).collect();
    let result = requirement.result.as_ref().map(|(field, value)| (field, value));
    let text = canonical(json!([requirement.same, same?, result]));
    Some(carboy_core::audit::hex(&carboy_core::audit::sha256(&text)))
}

fn says(requirement: &Requirement, result: &Value) -> bool {
    requirement.result.as_ref().is_none_or(|(field, value)| result.get(field) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demands() -> Demands {
        let requires = vec![Requirement {
            tool: "check".into(),
            same: vec!["order".into()],
            within_s: 60,
            result: Some(("eligible".into(), json!(true))),
        }];
        let give_back = ToolRules { requires, calls_per_session_max: Some(2), ..ToolRules::default() };
        Demands::new(&BTreeMap::from([("give_back".to_owned(), give_back)]))
    }

    fn order(id: &str) -> Map<String, Value> {
        Map::from_iter([("order".to_owned(), json!(id))])
    }

    #[test]
    fn g11_g88_a_tool_runs_only_after_another_succeeded_for_the_same_key_within_its_time() {
        let (demands, mut guard) = (demands(), GuardState::default());
        let met = |guard: &GuardState, id: &str, now| demands.met(guard, "give_back", &order(id), now).is_ok();
        assert!(!met(&guard, "a", 1_000), "nothing was checked");
        demands.ended(&mut guard, "check", &order("a"), Some(&json!({"eligible": true})), 1_000);
        assert!(met(&guard, "a", 1_000) && met(&guard, "a", 60_999));
        assert!(!met(&guard, "b", 1_000), "another order");
        let long = |id: u64| Map::from_iter([("order".to_owned(), json!(id))]);
        demands.ended(&mut guard, "check", &long(1 << 53), Some(&json!({"eligible": true})), 1_000);
        assert!(demands.met(&guard, "give_back", &long(1 << 53), 1_000).is_ok());
        assert!(
            demands.met(&guard, "give_back", &long((1 << 53) + 1), 1_000).is_err(),
            "its neighbour is another order"
        );
        assert!(!met(&guard, "a", 61_000), "too long ago");
        assert!(!met(&guard, "a", 999), "a clock that was set back");
        assert!(!met(&GuardState::default(), "a", 1_000), "another session, or one that was reset");
        assert!(!met(&guard, "a", 1_000) || demands.met(&guard, "give_back", &Map::new(), 1_000).is_err(), "no key");
    }

    #[test]
    fn g11_g88_a_failed_check_or_a_later_no_takes_the_success_back() {
        let demands = demands();
        for ending in [None, Some(json!({"eligible": false})), Some(json!({})), Some(json!({"eligible": "true"}))] {
            let mut guard = GuardState::default();
            demands.ended(&mut guard, "check", &order("a"), Some(&json!({"eligible": true})), 1_000);
            demands.ended(&mut guard, "check", &order("a"), ending.as_ref(), 2_000);
            assert!(demands.met(&guard, "give_back", &order("a"), 2_000).is_err(), "{ending:?}");
        }
    }

    #[test]
    fn g88_a_tool_has_its_calls_per_session() {
        let (demands, mut guard) = (demands(), GuardState::default());
        demands.ended(&mut guard, "check", &order("a"), Some(&json!({"eligible": true})), 0);
        for _ in 0..2 {
            assert_eq!(demands.met(&guard, "give_back", &order("a"), 1), Ok(()));
            assert_eq!(demands.count(&mut guard, "give_back"), Counted::Limited);
        }
        assert_eq!(demands.met(&guard, "give_back", &order("a"), 1), Err(NotYet::TooOften { max: 2 }));
        assert_eq!(demands.count(&mut guard, "check"), Counted::Free);
    }

    #[test]
    fn i12_successes_are_bounded() {
        let (demands, mut guard) = (demands(), GuardState::default());
        for n in 0..SUCCESSES_MAX + 5 {
            demands.ended(&mut guard, "check", &order(&n.to_string()), Some(&json!({"eligible": true})), 0);
        }
        assert_eq!(guard.kept.successes.len(), SUCCESSES_MAX);
    }
}
