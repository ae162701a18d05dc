//! The loop of a turn: the model answers or asks for tools, every call is decided, all results go back in one message, and
//! again (G34, G35). Layers four and five of `turn`.
//!
//! ```text
//!  history ─▶ model ─▶ words ─▶ heard, filtered, checked, shown by sentence
//!     ▲         └────▶ calls ─▶ each decided by `calls` ─▶ run │ card │ no
//!     └──────────── one message of results ◀──────────────────┘
//! ```
//!
//! *Must never* go round more often than the limits say, or take anything that a model says for a decision.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use carboy_core::ask::{Ask, Customer, Kind, Step as AskStep};
use carboy_core::verdict::Reason;
use carboy_guard::output::Redaction;
use carboy_wire::chat::{Block, Delta, Message, Prompt, Role};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::answer::{Answer, Asked};
use crate::calls::{Cleared, Next, No, Possible, Ran};
use crate::canonical::canonical;
use crate::confirm::{About, Put, Waiting};
use crate::engine::{Asker, Engine, Watch};
use crate::kept::size_of;
use crate::model::ModelError;
use crate::opened::{Opened, code_of};
use crate::outcome::{Card, StepPhase, TurnError, TurnEvent};
use crate::reading::{Read, Reading};
use crate::requests;
use crate::requires::Counted;
use crate::tool::Effect;

/// Octets of all that one turn adds to the history; a turn that adds more ends.
pub const TURN_BYTES_MAX: usize = 192 * 1024;

/// A turn at work.
pub(crate) struct Talk<'e> {
    pub(crate) engine: &'e Engine,
    pub(crate) asker: &'e Asker,
    pub(crate) opened: Opened<'e>,
    pub(crate) watch: Watch<'e>,
    /// Messages that were there before this turn.
    pub(crate) before: usize,
    /// What the person has read of the reply.
    pub(crate) shown: String,
    /// What was overwritten.
    pub(crate) redactions: Vec<Redaction>,
    /// What waits for a click since this turn.
    pub(crate) card: Option<Card>,
    /// Questions to the model.
    pub(crate) questions: u32,
    /// Calls that it asked for.
    pub(crate) calls: u32,
}

/// How the loop ended.
pub(crate) enum Answered {
    /// The model had nothing more to ask: its last words, read.
    Said(Read),
    /// It went on for too long: which limit.
    TooMuch(&'static str),
    /// No model may be asked any more.
    Refused(Reason),
}

impl<'e> Talk<'e> {
    pub(crate) fn new(engine: &'e Engine, asker: &'e Asker, opened: Opened<'e>, watch: Watch<'e>) -> Talk<'e> {
        let before = opened.state.history.len();
        Talk {
            engine,
            asker,
            opened,
            watch,
            before,
            shown: String::new(),
            redactions: Vec::new(),
            card: None,
            questions: 0,
            calls: 0,
        }
    }

    /// Goes round until there is an answer.
    pub(crate) async fn converse(&mut self) -> Result<Answered, TurnError> {
        for _ in 0..self.engine.spec.limits.tool_iterations_max {
            let (answer, read) = match self.ask().await {
                Ok(answered) => answered,
                Err(ModelError::Refused(reason)) if hands_off(reason) => return Ok(Answered::Refused(reason)),
                Err(error) => return Err(error.into()),
            };
            self.redactions.extend(read.redactions().iter().cloned());
            if answer.calls.is_empty() {
                return Ok(Answered::Said(read));
            }
            // Words before a call that did not pass were not shown, and are not remembered.
            let blocks = answer.blocks(read.shown());
            self.opened.state.history.push(Message { role: Role::Assistant, blocks });
            let results = self.dispatch(answer.calls).await?;
            self.opened.state.history.push(Message { role: Role::User, blocks: results });
            if size_of(&self.opened.state.history[self.before..]) > TURN_BYTES_MAX {
                return Ok(Answered::TooMuch("turn_bytes_max"));
            }
        }
        Ok(Answered::TooMuch("tool_iterations_max"))
    }

    /// One question to the model.
    async fn ask(&mut self) -> Result<(Answer, Read), ModelError> {
        self.questions += 1;
        let Talk { engine, opened, watch, shown, .. } = self;
        let reminders = reminders(engine, opened.state.turns);
        let conversation = opened.state.guard.conversation();
        let prompt = Prompt {
            model: &engine.spec.model.model,
            system: &engine.spec.prompt.system,
            reminders: &reminders,
            tools: &engine.schemas,
            messages: &opened.state.history,
            output_tokens_max: engine.spec.model.output_tokens_max,
            conversation: Some(&conversation),
        };
        // Answers of one turn stand behind each other, apart.
        let begun = AtomicBool::new(shown.is_empty() || shown.ends_with(char::is_whitespace));
        let show = |sentence: String| {
            let apart = !begun.swap(true, Ordering::Relaxed) && !sentence.starts_with(char::is_whitespace);
            watch(TurnEvent::Sentence(if apart { format!(" {sentence}") } else { sentence }));
        };
        let grounds = &opened.state.guard.kept.grounds;
        let mut reading = Reading::begin(&engine.screens, grounds, engine.spec.limits.reply_chars_max, &show);
        let last_heard = Mutex::new(Instant::now());
        let mut listen = |delta: Delta| {
            *last_heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            match delta {
                Delta::Text(text) => reading.hear(&text),
                Delta::ToolNamed(_) => {}
            }
        };
        let silence = Duration::from_millis(engine.spec.limits.model_wait_ms.into());
        let completion = {
            let mut answer = pin!(engine.model.complete(&prompt, &mut listen));
            loop {
                let until = *last_heard.lock().unwrap_or_else(PoisonError::into_inner) + silence;
                tokio::select! {
                    biased;
                    completion = &mut answer => break completion?,
                    () = tokio::time::sleep_until(until) => {
                        if *last_heard.lock().unwrap_or_else(PoisonError::into_inner) + silence <= Instant::now() {
                            let seconds = silence.as_secs();
                            return Err(ModelError::Unreachable(format!("it was silent for {seconds} s (model_wait_ms)")));
                        }
                    }
                }
            }
        };
        let answer = Answer::read(completion, &opened.state.history, &engine.spec.limits);
        let read = reading.end(&answer.text);
        let apart = !shown.is_empty()
            && !shown.ends_with(char::is_whitespace)
            && !read.shown().starts_with(char::is_whitespace);
        if apart && !read.shown().is_empty() {
            shown.push(' ');
        }
        shown.push_str(read.shown());
        Ok((answer, read))
    }

    /// Every call of an answer, in its order; one result for each.
    async fn dispatch(&mut self, calls: Vec<Asked>) -> Result<Vec<Block>, TurnError> {
        let calls_max = self.engine.spec.limits.tool_calls_max as usize;
        let beyond = calls.len().saturating_sub(calls_max);
        let mut results = Vec::with_capacity(calls.len());
        for (place, call) in calls.into_iter().enumerate() {
            self.calls = self.calls.saturating_add(1);
            let result = if place < calls_max {
                self.one(&call).await?
            } else {
                Err(No::new("too_many_calls", format!("at most {calls_max} calls at once; ask again for the rest")))
            };
            let (content, is_error) = match result {
                Ok(value) => (value.to_string(), false),
                Err(no) => (no.to_json().to_string(), true),
            };
            results.push(Block::ToolResult { tool_use_id: call.id, content, is_error });
        }
        if beyond > 0 {
            self.opened.record.beyond(beyond as u64)?;
        }
        Ok(results)
    }

    /// One call: decided, then run, asked about or refused. The result is for the model.
    async fn one(&mut self, call: &Asked) -> Result<Result<Value, No>, TurnError> {
        let engine = self.engine;
        let known = match engine.tools.know(&call.name, call.input.as_ref()) {
            Ok(known) => known,
            Err(no) => {
                let name = engine.tools.named(&call.name).map(|tool| tool.spec().schema.name.as_str());
                return self.refuse(name, no).await;
            }
        };
        let name = known.name();
        let (principal, guard, now) = (&self.asker.principal, &self.opened.state.guard, engine.now_ms());
        let possible = known
            .check()
            .and_then(|checked| checked.authorize(principal))
            .and_then(|authorized| authorized.require(guard, now))
            .and_then(|due| due.precheck(principal, guard, now));
        match possible.map(Possible::next) {
            Err(no) => self.refuse(Some(name), no).await,
            Ok(Next::Ask(possible)) => self.put_card(name, possible).await,
            Ok(Next::Request(possible)) => self.put_request(name, possible).await,
            Ok(Next::Run(cleared)) => self.run(name, cleared).await,
        }
    }

    async fn run(&mut self, name: &str, cleared: Cleared<'_>) -> Result<Result<Value, No>, TurnError> {
        self.step(name, StepPhase::Started);
        let (engine, opened) = (self.engine, &mut self.opened);
        if engine.tools.demands.count(&mut opened.state.guard, name) == Counted::Limited {
            opened.keep_facts().await?; // a turn that is broken off does not give the count back
        }
        let arguments = canonical(cleared.arguments().clone());
        let turn = opened.state.turns.to_be_bytes();
        let key = engine.keys.hash(&[b"call", &opened.key.0, &turn, name.as_bytes(), &arguments]);
        let key = carboy_core::audit::hex(&key[..16]);
        let ran = if cleared.effect() == Effect::Write {
            opened.write_unasked(&cleared, &self.asker.principal, key).await?
        } else {
            let ran = opened.carry_out(&cleared, &self.asker.principal, &key).await;
            let (code, outcome) = code_of(&ran);
            opened.record.ran(name, code, outcome)?;
            if opened.decides_otherwise() {
                opened.keep_facts().await?; // a check that says no takes a yes back, however this turn ends
            }
            ran
        };
        let result = match ran {
            Ran::Done(output) => {
                opened.state.guard.kept.grounds.release_output(&output);
                Ok(output.value)
            }
            Ran::Refused(no) | Ran::Failed { no, .. } | Ran::TooLate(no) => Err(no),
        };
        self.step(name, if result.is_ok() { StepPhase::Done } else { StepPhase::Failed });
        Ok(result)
    }

    /// A write is not done because a model asks: a person is shown what it would do.
    async fn put_card(&mut self, name: &str, possible: Possible<'_>) -> Result<Result<Value, No>, TurnError> {
        let (engine, opened, principal) = (self.engine, &mut self.opened, &self.asker.principal);
        let now = engine.now_ms();
        let known = opened.state.waiting.iter().find(|w| w.asks_for(name, possible.arguments(), principal, now));
        let card = match (known, &self.card) {
            (Some(waiting), _) => waiting.card(&engine.keys, opened.key),
            (None, Some(_)) => {
                let no =
                    No::new("one_at_a_time", "an action waits for the person already; ask for this one afterwards");
                return self.refuse(Some(name), no).await;
            }
            (None, None) => {
                let expires = now + u64::from(engine.spec.limits.confirmation_s) * 1_000;
                let (tool, arguments) = (&**possible.tool(), possible.arguments());
                let about = About { tool, arguments, principal };
                let put = (Kind::Confirmation, Ask::confirmation as Put<Customer>);
                let waiting = Waiting::open(&engine.keys, opened.key, &about, (now, expires), put)
                    .map_err(|_| TurnError::Unavailable { what: "the system's random numbers" })?;
                if !engine.screens.may_stand_on_a_card(waiting.shown(), &opened.state.guard.kept.grounds) {
                    let no = No::new("not_for_a_card", "the arguments hold what no person may be shown; leave it out");
                    return self.refuse(Some(name), no).await;
                }
                opened.withdraw_all().await?;
                let event = waiting.ask.event(AskStep::Opened, opened.record.subject.clone()).with("tool", name);
                opened.record.durable(opened.record.placed(event)).await?;
                let card = waiting.card(&engine.keys, opened.key);
                opened.state.waiting.push(waiting);
                opened.keep_facts().await?; // what was asked can be answered, however this turn ends
                card
            }
        };
        self.step(name, StepPhase::Waits);
        (self.watch)(TurnEvent::Card(card.clone()));
        self.card = Some(card);
        Ok(Ok(json!({
            "status": "awaiting_confirmation",
            "message": "The person is shown a card with exactly this action and decides. It has not been done: do not say that \
                        it was. Nothing that is written confirms it.",
        })))
    }

    /// What only an operator may approve is put up for one; the conversation goes on.
    async fn put_request(&mut self, name: &str, possible: Possible<'_>) -> Result<Result<Value, No>, TurnError> {
        let asked = requests::put(self.engine, &mut self.opened, &self.asker.principal, &possible).await?;
        match asked {
            Ok(()) => {
                self.step(name, StepPhase::WaitsForOperator);
                Ok(Ok(json!({
                    "status": "awaiting_approval",
                    "message": "Somebody of the shop's decides whether this is done. It has not been done: do not say that it was. \
                                The person is told here how it ends. Nothing that is written approves it.",
                })))
            }
            Err(no) => self.refuse(Some(name), no).await,
        }
    }

    async fn refuse(&mut self, name: Option<&str>, no: No) -> Result<Result<Value, No>, TurnError> {
        let record = &self.opened.record;
        match no.denied_by {
            Some(by) => record.unauthorized(name.unwrap_or("unknown"), by).await?,
            None => record.refused_call(name.unwrap_or("unknown"), no.code)?,
        }
        if let Some(name) = name {
            self.step(name, StepPhase::Failed);
            self.tell_invalid(name, &no);
        }
        Ok(Err(no))
    }

    /// What is wrong with a call's arguments, for the person. The name of an argument can be the model's own word, which nobody
    /// has read yet: only one that the tool has is said.
    fn tell_invalid(&self, name: &str, no: &No) {
        let (Some(field), "invalid_arguments") = (&no.field, no.code) else { return };
        let problem =
            no.message.strip_prefix(field.as_str()).map_or(&*no.message, |rest| rest.trim_start_matches(": "));
        let schema = self.engine.schemas.iter().find(|schema| schema.name == name);
        let known = schema.is_some_and(|schema| schema.input_schema["properties"].get(field).is_some());
        let field = if known { field.clone() } else { "arguments".to_owned() };
        (self.watch)(TurnEvent::Invalid { tool: name.to_owned(), field, problem: problem.to_owned() });
    }

    fn step(&self, tool: &str, phase: StepPhase) {
        (self.watch)(TurnEvent::Step { tool: tool.to_owned(), phase });
    }
}

/// What is said after the cached part: on every turn, and once a conversation is long (G7–G9).
fn reminders(engine: &Engine, turn: u32) -> Vec<&str> {
    let prompt = &engine.spec.prompt;
    let long = turn >= engine.spec.limits.long_conversation_turns;
    let said = [Some(prompt.reminder.as_str()), long.then_some(prompt.long_reminder.as_str())];
    said.into_iter().flatten().filter(|text| !text.is_empty()).collect()
}

/// Where money or an operator says stop, a person goes on (U2); everything else is an error that may pass.
fn hands_off(reason: Reason) -> bool {
    matches!(reason, Reason::BudgetExhausted | Reason::CutOff | Reason::Stopping)
}
