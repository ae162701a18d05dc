//! Writes that wait for whoever runs the agent, and what happens when they have answered (U4).
//!
//! ```text
//! Possible ─▶ kept, pending ─▶ put up (AskBoard)                    the conversation goes on
//!                          └─▶ no room there ─▶ taken back          the model hears that nobody was asked
//! answer   ─▶ approved ─▶ authorized, required, prechecked again ─▶ spent, kept ─▶ the write ─▶ lines for the person ─▶ taken down
//!          └▶ declined, or too late ─▶ lines for the person ─▶ taken down
//! ```
//!
//! The same question, the same states and the same log as a person's own card; another answerer. *Must never* be answered by the
//! person in the conversation or by a model: an answer comes from the operator's own board. Nor run with other arguments than
//! those that were shown there, or twice.

use carboy_core::ask::{Answered, Ask, By, Kind, Operator, Posted, Step, Word};
use carboy_core::audit::Subject;
use carboy_core::ports::SessionKey;
use serde_json::Value;
use tokio::sync::SemaphorePermit;

use crate::answers::{FROM_THE_RUNTIME, not_now, possible, tell, why, written};
use crate::calls::{LATE, No, Possible};
use crate::confirm::{About, CARD_CHARS_MAX, Put, Waiting};
use crate::disclosure::key_of;
use crate::engine::Engine;
use crate::locks::Held;
use crate::opened::{Opened, hold};
use crate::outcome::TurnError;
use crate::principal::Principal;
use crate::session::Who;

/// Writes of one conversation that wait for an operator at once.
pub const REQUESTS_MAX: usize = 4;
/// Answers of operators that are carried out at once, each in another conversation; those that wait for theirs do not count.
pub const ANSWERS_AT_ONCE_MAX: usize = 16;
/// The longest that one waits, in milliseconds: a day. A conversation that is kept for less takes its questions with it.
const WAIT_MS_MAX: u64 = 24 * 3_600_000;

/// Puts a call up for an operator; one that is up already stays.
pub(crate) async fn put(
    engine: &Engine,
    opened: &mut Opened<'_>,
    principal: &Principal,
    possible: &Possible<'_>,
) -> Result<Result<(), No>, TurnError> {
    if engine.board.is_none() {
        return Ok(Err(No::new(
            "no_operator",
            "nobody is there who could approve this; say that it cannot be done here",
        )));
    }
    let (tool, arguments, now) = (&**possible.tool(), possible.arguments(), engine.now_ms());
    let name = &tool.spec().schema.name;
    let known = opened.state.requests.iter().find(|other| other.asks_for(name, arguments, principal, now)).cloned();
    let waiting = match known {
        // It is put up again: a turn that was broken off after it was kept may not have come so far.
        Some(waiting) => waiting,
        None if opened.state.requests.len() >= REQUESTS_MAX => {
            let message = format!("{REQUESTS_MAX} actions wait for approval already; ask for this one afterwards");
            return Ok(Err(No::new("too_many_requests", message)));
        }
        None => kept(engine, opened, &About { tool, arguments, principal }).await?,
    };
    if opened.post(&waiting.posted(engine.spec.name.as_str(), &opened.record, opened.key)).is_err() {
        return Ok(Err(taken_back(opened, waiting).await?));
    }
    Ok(Ok(()))
}

/// A new question, in the log and with its conversation: what was asked can be answered, however this turn ends.
async fn kept(engine: &Engine, opened: &mut Opened<'_>, about: &About<'_>) -> Result<Waiting<Operator>, TurnError> {
    let now = engine.now_ms();
    let wait_ms = (u64::from(engine.spec.limits.session_idle_s) * 1_000).min(WAIT_MS_MAX);
    let put = (Kind::Approval, Ask::approval as Put<Operator>);
    let waiting = Waiting::open(&engine.keys, opened.key, about, (now, now + wait_ms), put)
        .map_err(|_| TurnError::Unavailable { what: "the system's random numbers" })?;
    tell(opened, &waiting, Step::Opened).await?;
    opened.state.requests.push(waiting.clone());
    opened.keep_facts().await?;
    Ok(waiting)
}

/// A question that nobody is shown waits for nobody: the same call later asks anew.
async fn taken_back(opened: &mut Opened<'_>, mut waiting: Waiting<Operator>) -> Result<No, TurnError> {
    opened.state.requests.retain(|other| other.ask.id() != waiting.ask.id());
    opened.keep_facts().await?;
    waiting.ask.withdraw();
    tell(opened, &waiting, Step::Withdrawn).await?;
    // One that was up before; the board says no to more just now, and has told the operator so.
    let _ = opened.take_down(waiting.ask.id(), "nothing was done: it was taken back");
    let message = "whoever could approve this cannot be asked just now, and nothing waits for them; say so, and that it can be \
                   asked for again later";
    Ok(No::new("cannot_ask", message))
}

/// See [`Engine::answered`].
pub(crate) async fn answered(engine: &Engine, posted: &Posted, answer: Option<&Answered>) -> Result<String, TurnError> {
    let key = back(posted)?;
    let record = engine.record_of(key, posted.user.clone());
    let (held, _place) = place(engine, key).await?;
    let mut opened = Opened::with(engine, key, record, held).await?;
    let id = posted.ask.id();
    let came_of_it = match posted.ask.kind() {
        Kind::HandOff => handed_off(engine, &mut opened, posted, answer).await?,
        Kind::Approval => {
            let request = opened.state.requests.iter().find(|request| request.ask.id() == id).cloned();
            match (request, answer) {
                (Some(request), Some(answer)) => decided(engine, &mut opened, request, answer).await?,
                (Some(_), None) => return Ok("it still waits".into()),
                // Too late for its conversation, which time has told already, or gone with it.
                (None, _) => "nothing was done: nobody waits for it any more".to_owned(),
            }
        }
        Kind::SuperviseProposal | Kind::DlpHold | Kind::Confirmation => {
            "nothing was done: this is no question of a conversation's".to_owned()
        }
    };
    opened.take_down(id, &came_of_it)?;
    Ok(came_of_it)
}

/// The conversation, and a place among the answers that are carried out. Whoever waits for the one has not got the other: an
/// answer to a conversation that is at work holds up no other answer, and one that waits for a place no conversation.
async fn place(engine: &Engine, key: SessionKey) -> Result<(Held, SemaphorePermit<'_>), TurnError> {
    loop {
        let held = hold(engine, key).await?;
        if let Ok(place) = engine.answering.try_acquire() {
            return Ok((held, place));
        }
        drop(held);
        let place = engine.answering.acquire().await.expect("it is never closed");
        if let Some(held) = engine.locks.try_hold(key) {
            return Ok((held, place));
        }
    }
}

fn back(posted: &Posted) -> Result<SessionKey, TurnError> {
    key_of(&posted.back).ok_or(TurnError::Unavailable { what: "the conversation of this question" })
}

/// A write, as the operator said.
async fn decided(
    engine: &Engine,
    opened: &mut Opened<'_>,
    mut request: Waiting<Operator>,
    answer: &Answered,
) -> Result<String, TurnError> {
    let (by, now) = (By::operator(&answer.by), engine.now_ms());
    let ended = match answer.word {
        Word::Declined => {
            request.ask.decline(by, now).map_err(|error| not_now(&error))?;
            tell(opened, &request, Step::Declined).await?;
            Err(None)
        }
        Word::Approved => {
            request.ask.approve(by, now).map_err(|error| not_now(&error))?;
            tell(opened, &request, Step::Approved).await?;
            match possible(engine, opened, &request) {
                Ok(possible) => written(engine, opened, &request, possible).await?.map_err(Some),
                Err(no) => {
                    match no.denied_by {
                        Some(by) => opened.record.unauthorized(&request.tool, by).await?,
                        None => opened.record.refused_call(&request.tool, no.code)?,
                    }
                    let mut gone = request.clone();
                    gone.ask.withdraw();
                    tell(opened, &gone, Step::Withdrawn).await?;
                    Err(Some(no))
                }
            }
        }
    };
    let late = matches!(&ended, Err(Some(no)) if no.code == LATE);
    if !late {
        // One whose outcome nobody knows is looked after when the conversation is opened next.
        opened.state.requests.retain(|other| other.ask.id() != request.ask.id());
    }
    let (note, told, came_of_it) = words(engine, opened, &request, &ended);
    opened.told(format!("{FROM_THE_RUNTIME} {note}"), &told);
    opened.state.line(Who::Agent, told, engine.now_ms());
    say(engine, opened, answer);
    opened.save().await?;
    Ok(came_of_it)
}

/// For the model, for the person, and for the operator.
fn words(
    engine: &Engine,
    opened: &Opened<'_>,
    request: &Waiting<Operator>,
    ended: &Result<Value, Option<No>>,
) -> (String, String, String) {
    let (tool, title) = (&request.tool, request.title());
    match ended {
        Ok(value) => (
            format!(
                "The operator approved {tool}, and it was done with exactly the arguments that were asked for. Result: {value}"
            ),
            format!("This was approved, and it is done: {title}"),
            "approved, and done".into(),
        ),
        Err(None) => (
            format!("The operator declined {tool}. Nothing was done."),
            format!("This was not approved, and nothing was done: {title}"),
            "declined".into(),
        ),
        Err(Some(no)) if no.code == LATE => (
            format!("The operator approved {tool}. It was begun, and it is not known yet whether it was done."),
            format!("This was approved. It is not known yet whether it was done: {title} It will be looked after."),
            "approved, and begun; whether it was done is not known".into(),
        ),
        Err(Some(no)) => (
            format!("The operator approved {tool}, and it did not succeed: {}", no.to_json()),
            format!("This was approved, and could not be done: {title}{}", why(engine, opened, no)),
            format!("approved, and not done: {} ({})", no.message, no.code),
        ),
    }
}

/// A person who was asked for has come, or will not.
async fn handed_off(
    engine: &Engine,
    opened: &mut Opened<'_>,
    posted: &Posted,
    answer: Option<&Answered>,
) -> Result<String, TurnError> {
    let kept = opened.state.hand_off.take_if(|ask| ask.id() == posted.ask.id());
    let lives = kept.is_some();
    // The conversation may be over while somebody still has to be called: the question is answered all the same.
    let mut ask = kept.unwrap_or_else(|| posted.ask.clone());
    let now = engine.now_ms();
    let subject = || -> Subject { opened.record.subject.clone() };
    let Some(answer) = answer else {
        // In a conversation that is there, time has told it already.
        if opened.is_new() && ask.expire(now) {
            opened.record.durable(opened.record.placed(ask.event(Step::Expired, subject()))).await?;
        }
        return Ok("nobody answered in time".into());
    };
    let by = By::operator(&answer.by);
    let (step, told, came_of_it) = match answer.word {
        Word::Approved => {
            ask.approve(by, now).map_err(|error| not_now(&error))?;
            (Step::Approved, "A person has taken this over.", "taken over")
        }
        Word::Declined => {
            ask.decline(by, now).map_err(|error| not_now(&error))?;
            (Step::Declined, "The request for a person was closed.", "closed")
        }
    };
    opened.record.durable(opened.record.placed(ask.event(step, subject()))).await?;
    if !lives {
        return Ok(format!("{came_of_it}; the conversation itself is over"));
    }
    opened.state.line(Who::Agent, told, now);
    say(engine, opened, answer);
    opened.save().await?;
    Ok(format!("{came_of_it}; the person reads it in the conversation"))
}

/// The operator's own words, for the person alone.
fn say(engine: &Engine, opened: &mut Opened<'_>, answer: &Answered) {
    let plain = |text: &String| text.chars().filter(|c| !c.is_control()).take(CARD_CHARS_MAX).collect::<String>();
    if let Some(text) = answer.say.as_ref().map(plain).filter(|text| !text.trim().is_empty()) {
        opened.state.line(Who::Agent, format!("A person writes: {text}"), engine.now_ms());
    }
}
