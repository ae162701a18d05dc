//! Writes that ask nobody (`confirm: never`), from their beginning until somebody knows how they ended.
//!
//! ```text
//! Cleared ─▶ kept as begun ─▶ intent in the log ─▶ the write ─▶ outcome in the log ─▶ gone
//!                 └─ the turn was stopped, the program ended, no answer: next load ─▶ again with its key, or told
//! ```
//!
//! *Must never* run one again without its key, or let one go of which nobody heard.

use carboy_core::audit::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::answers::why;
use crate::calls::{Cleared, LATE, No, Ran};
use crate::confirm::{ATTEMPTS_MAX, Attempt};
use crate::notice::Wanted;
use crate::opened::{Opened, code_of};
use crate::outcome::TurnError;
use crate::principal::Principal;
use crate::session::Who;
use crate::tool::Retry;

/// Those of one conversation whose outcome nobody knows; no further one begins then.
pub const UNASKED_MAX: usize = 8;

/// One that was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Unasked {
    pub(crate) tool: String,
    pub(crate) arguments: Map<String, Value>,
    /// The same for every attempt.
    key: String,
    principal: Principal,
    attempts: u32,
    begun: Attempt,
}

impl Opened<'_> {
    /// Runs one.
    pub(crate) async fn write_unasked(
        &mut self,
        cleared: &Cleared<'_>,
        principal: &Principal,
        key: String,
    ) -> Result<Ran, TurnError> {
        let (tool, arguments) = (cleared.name().to_owned(), cleared.arguments().clone());
        let known = &self.state.unasked;
        let again = known.iter().any(|begun| begun.tool == tool && begun.arguments == arguments);
        if again || known.len() >= UNASKED_MAX {
            self.record.refused_call(cleared.name(), LATE)?;
            let message = match again {
                true => "this was begun, and it is not known yet whether it was done; do not ask for it again".into(),
                false => format!("of {UNASKED_MAX} actions it is not known yet whether they were done; stop here"),
            };
            return Ok(Ran::Refused(No::new(LATE, message)));
        }
        let begun = self.attempt();
        self.state.unasked.push(Unasked { tool, arguments, key, principal: principal.clone(), attempts: 0, begun });
        self.attempt_unasked(self.state.unasked.len() - 1, cleared).await
    }

    async fn attempt_unasked(&mut self, place: usize, cleared: &Cleared<'_>) -> Result<Ran, TurnError> {
        let begun = self.attempt();
        let unasked = &mut self.state.unasked[place];
        unasked.attempts += 1;
        unasked.begun = begun;
        let (attempt, key, principal) = (unasked.attempts, unasked.key.clone(), unasked.principal.clone());
        self.keep_facts().await?;
        self.record.intent(cleared.name(), &key, attempt).await?;
        let ran = self.carry_out(cleared, &principal, &key).await;
        let (code, outcome) = code_of(&ran);
        self.record.outcome(cleared.name(), &key, code, outcome).await?;
        if !matches!(ran, Ran::TooLate(_)) {
            self.state.unasked.remove(place);
        }
        self.keep_facts().await?;
        Ok(ran)
    }

    /// Those that were begun and of which nobody heard.
    pub(crate) async fn reconcile_unasked(&mut self) -> Result<(), TurnError> {
        while let Some(begun) = self.state.unasked.first().cloned() {
            if self.is_elsewhere(&begun.begun) {
                return Err(TurnError::Unavailable { what: "the conversation (an action is under way)" });
            }
            let engine = self.engine();
            let tool = engine.tools.named(&begun.tool).filter(|tool| tool.retry() == Retry::SameKey);
            let title = begun.tool.replace('_', " ");
            let text = match tool.filter(|_| begun.attempts < ATTEMPTS_MAX) {
                Some(tool) => match self.attempt_unasked(0, &Cleared::begun(&engine.tools, tool, &begun)).await? {
                    Ran::Done(_) => format!("Done after all: {title}"),
                    Ran::Refused(no) | Ran::Failed { no, .. } => format!("Not done: {title}{}", why(engine, self, &no)),
                    Ran::TooLate(_) => return Ok(()), // the next attempt, until there were enough
                },
                None => {
                    self.record.outcome(&begun.tool, &begun.key, "unknown", Outcome::Failed).await?;
                    self.state.unasked.remove(0);
                    self.ask_for_a_person(Wanted::UnknownOutcome).await?;
                    format!("It is not known whether this was done: {title}. A person will look.")
                }
            };
            self.state.line(Who::Note, text, engine.now_ms());
            self.save().await?;
        }
        Ok(())
    }
}
