//! What a person does besides writing: a click on a card, a wish for a person, a judgement, an end.
//!
//! ```text
//! token ─▶ whose card ─▶ yes ─▶ decided anew ─▶ spent ─▶ written ─▶ told to the model ─▶ reply
//!                    └─▶ no  ─▶ gone
//! ```
//!
//! *Must never* run a write without the permit of its spent question, or tell one token from another by how long it takes.

use carboy_core::ask::{Answerer, By, Customer, Step};
use carboy_core::audit::{EventType, Outcome};
use serde_json::Value;

use crate::calls::{LATE, No, Possible, Ran};
use crate::confirm::Waiting;
use crate::engine::{Asker, Engine, FEEDBACK_REASONS, Judgement, Watch};
use crate::kept::Kept;
use crate::notice::{About, Wanted};
use crate::opened::Opened;
use crate::outcome::{HandOff, Reply, StepPhase, TurnError, TurnEvent};
use crate::screens::Rates;
use crate::session::{Line, Who};
use crate::turn::{Begun, Counted};

/// Does what a card asked for.
pub(crate) async fn confirm(engine: &Engine, asker: &Asker, token: &str, watch: Watch<'_>) -> Result<Reply, TurnError> {
    let mut opened = Counted::by(engine, asker).await?.open().await?;
    let (mut waiting, by) = find(engine, asker, &opened, token).await?;
    waiting.ask.approve(by, engine.now_ms()).map_err(|error| not_now(&error))?;
    tell(&opened, &waiting, Step::Approved).await?;
    // A click is a turn of its own: what was released for another question, asked since the card was made, is not for the
    // words about this one.
    opened.state.guard.kept.grounds.begin_turn();
    let step = |phase| watch(TurnEvent::Step { tool: waiting.tool.clone(), phase });
    step(StepPhase::Started);
    let ended = match possible(engine, &opened, &waiting) {
        Ok(possible) => written(engine, &mut opened, &waiting, possible).await?,
        Err(no) => {
            match no.denied_by {
                Some(by) => opened.record.unauthorized(&waiting.tool, by).await?,
                None => opened.record.refused_call(&waiting.tool, no.code)?,
            }
            let mut gone = waiting.clone();
            gone.ask.withdraw();
            tell(&opened, &gone, Step::Withdrawn).await?;
            close(&mut opened, &waiting);
            opened.keep_facts().await?;
            Err(no)
        }
    };
    step(if ended.is_ok() { StepPhase::Done } else { StepPhase::Failed });
    let (note, instead) = words(engine, &opened, &waiting, &ended);
    opened.state.line(Who::Note, instead.clone(), engine.now_ms());
    let mut begun = Begun::after_a_write(engine, asker, opened, watch, note, instead);
    let answered = begun.converse().await;
    Ok(begun.release(answered).await?.record().await?.reply())
}

/// Drops what a card asked for. No model is asked.
pub(crate) async fn decline(engine: &Engine, asker: &Asker, token: &str) -> Result<Reply, TurnError> {
    let mut opened = Counted::by(engine, asker).await?.open().await?;
    let (mut waiting, by) = find(engine, asker, &opened, token).await?;
    waiting.ask.decline(by, engine.now_ms()).map_err(|error| not_now(&error))?;
    tell(&opened, &waiting, Step::Declined).await?;
    close(&mut opened, &waiting);
    let text = "All right, nothing was done.".to_owned();
    opened.told(
        format!("{FROM_THE_RUNTIME} The person declined the card for {}. Nothing was done.", waiting.tool),
        &text,
    );
    opened.state.line(Who::Note, format!("Declined: {}", waiting.title()), engine.now_ms());
    opened.state.line(Who::Agent, text.clone(), engine.now_ms());
    opened.save().await?;
    let turn = opened.state.turns;
    Ok(Reply { text, card: None, withheld: Vec::new(), handed_off: None, turn })
}

/// Asks for a person.
pub(crate) async fn hand_off(engine: &Engine, asker: &Asker) -> Result<Reply, TurnError> {
    let mut opened = Counted::by(engine, asker).await?.open().await?;
    opened.ask_for_a_person(Wanted::Asked).await?;
    let text = engine.spec.prompt.hand_off.clone();
    opened.state.line(Who::Note, text.clone(), engine.now_ms());
    opened.save().await?;
    let turn = opened.state.turns;
    Ok(Reply { text, card: None, withheld: Vec::new(), handed_off: Some(HandOff::Asked), turn })
}

/// Takes down what a person thinks of a reply.
pub(crate) async fn feedback(
    engine: &Engine,
    asker: &Asker,
    turn: u32,
    judgement: Judgement,
    reason: &str,
) -> Result<(), TurnError> {
    let Some(reason) = FEEDBACK_REASONS.iter().copied().chain([""]).find(|known| *known == reason) else {
        return Err(TurnError::Invalid { problem: format!("a reason is one of {}", FEEDBACK_REASONS.join(", ")) });
    };
    let mut opened = Counted::by(engine, asker).await?.open().await?;
    if turn == 0 || turn > opened.state.turns {
        return Err(TurnError::Invalid { problem: format!("this conversation has turns 1 to {}", opened.state.turns) });
    }
    let mut record = opened.record.clone();
    record.turn = turn;
    let event = record.event(EventType::Session, "feedback", Outcome::Done).with("judgement", judgement.as_str());
    record.durable(event.with("reason", reason)).await?;
    let of_it = |line: &&mut Line| line.turn == turn && line.who == Who::Agent;
    opened.state.lines.iter_mut().filter(of_it).for_each(|line| line.judged = true);
    opened.save().await?;
    let now = engine.now_ms();
    let parts: [&[u8]; 6] = [
        b"feedback",
        &opened.key.0,
        &turn.to_be_bytes(),
        judgement.as_str().as_bytes(),
        reason.as_bytes(),
        &now.to_be_bytes(),
    ];
    let id = format!("f-{}", engine.keys.short(&parts));
    engine.notify(&record, id, About::Feedback { judgement, reason }, now);
    Ok(())
}

/// Forgets a session: writes without an outcome first get one, and what waits is taken back. Of one that is not there
/// nothing is written.
pub(crate) async fn forget(engine: &Engine, asker: &Asker) -> Result<(), TurnError> {
    let counted = Counted::at(engine, asker, Rates::OfTheMinute).await?;
    let record = engine.record(asker);
    match counted.open().await {
        Ok(opened) if opened.is_new() => Ok(()),
        Ok(mut opened) => {
            opened.withdraw_all().await?;
            opened.withdraw_requests().await?;
            record.durable(record.event(EventType::Session, "session_forgotten", Outcome::Done)).await?;
            opened.remove().await
        }
        // What cannot be read can be forgotten all the same.
        Err(TurnError::SessionOver { .. }) => {
            record.durable(record.event(EventType::Session, "session_forgotten", Outcome::Done)).await?;
            let removed = engine.sessions.remove(asker.session.key()).await;
            removed.map_err(|_| TurnError::Unavailable { what: "the session store" })
        }
        Err(error) => Err(error),
    }
}

/// What begins every word of the runtime to the model. A person who types it decides nothing by it.
pub(crate) const FROM_THE_RUNTIME: &str = "[From the runtime, not from the person.]";

async fn find(
    engine: &Engine,
    asker: &Asker,
    opened: &Opened<'_>,
    token: &str,
) -> Result<(Waiting<Customer>, By<Customer>), TurnError> {
    let (record, principal) = (&opened.record, &asker.principal);
    let name = record.subject.user_id.as_deref().unwrap_or_default();
    let answered = |waiting: &Waiting<Customer>| {
        let by = waiting.answered(&engine.keys, opened.key, name, principal, token)?;
        let mut waiting = waiting.clone();
        // The same person, with the roles that they have now: one that was taken away since does nothing any more.
        waiting.principal = principal.clone();
        Some((waiting, by))
    };
    // Every card is looked at, whichever it is.
    match opened.state.waiting.iter().filter_map(answered).collect::<Vec<_>>().pop() {
        Some(found) => Ok(found),
        None => {
            record.durable(record.event(EventType::Ask, "confirmation_refused", Outcome::Denied)).await?;
            Err(TurnError::CardOver {
                problem: "nothing waits for this confirmation: it was used, declined, replaced or is too old".into(),
            })
        }
    }
}

/// All that was decided when the card was made is decided again: a person may have clicked ten minutes later.
pub(crate) fn possible<'e, A: Answerer>(
    engine: &'e Engine,
    opened: &Opened<'_>,
    waiting: &Waiting<A>,
) -> Result<Possible<'e>, No> {
    let (guard, now) = (&opened.state.guard, engine.now_ms());
    let input = Value::Object(waiting.arguments.clone());
    let checked = engine.tools.know(&waiting.tool, Some(&input))?.check()?;
    if *checked.arguments() != waiting.arguments {
        return Err(No::new("changed", "the tool reads these arguments differently now; ask again"));
    }
    checked.authorize(&waiting.principal)?.require(guard, now)?.precheck(&waiting.principal, guard, now)
}

pub(crate) async fn written<A: Kept>(
    engine: &Engine,
    opened: &mut Opened<'_>,
    waiting: &Waiting<A>,
    possible: Possible<'_>,
) -> Result<Result<Value, No>, TurnError> {
    let mut spent = waiting.clone();
    let permit = spent.ask.spend(engine.now_ms()).map_err(|error| not_now(&error))?;
    tell(opened, &spent, Step::Spent).await?;
    let cleared = possible.confirmed(permit);
    // Decided on twice, shown on the card and confirmed: the words about the write may name what it was asked for.
    opened.state.guard.kept.grounds.release_arguments(&waiting.arguments);
    Ok(match opened.write(&spent, &cleared).await? {
        Ran::Done(output) => Ok(output.value),
        Ran::Refused(no) | Ran::Failed { no, .. } | Ran::TooLate(no) => Err(no),
    })
}

/// For the model, and for the person where the model has no words.
fn words(
    engine: &Engine,
    opened: &Opened<'_>,
    waiting: &Waiting<Customer>,
    ended: &Result<Value, No>,
) -> (String, String) {
    let title = waiting.title();
    match ended {
        Ok(value) => (
            format!(
                "{FROM_THE_RUNTIME} The person confirmed the card for {}, and it was done with exactly the card's arguments. \
                 Result: {value}\nTell the person how it ended.",
                waiting.tool
            ),
            format!("Done: {title}"),
        ),
        Err(no) if no.code == LATE => (
            format!(
                "{FROM_THE_RUNTIME} The person confirmed the card for {}. It was begun, and it is not known yet whether it was \
                 done. Tell the person so, and that it will be looked after.",
                waiting.tool
            ),
            format!("It is not known yet whether this was done: {title} It will be looked after."),
        ),
        Err(no) => (
            format!(
                "{FROM_THE_RUNTIME} The person confirmed the card for {}, and it did not succeed: {}\nTell the person.",
                waiting.tool,
                no.to_json()
            ),
            format!("Not done: {title}{}", why(engine, opened, no)),
        ),
    }
}

/// Behind what was not done, for a person: why, where that may be said.
pub(crate) fn why(engine: &Engine, opened: &Opened<'_>, no: &No) -> String {
    let words = engine.screens.words_of_a_tool(&no.message, &opened.state.guard.kept.grounds);
    words.map(|words| format!(" ({words})")).unwrap_or_default()
}

pub(crate) async fn tell<A: Answerer>(opened: &Opened<'_>, waiting: &Waiting<A>, step: Step) -> Result<(), TurnError> {
    let event = waiting.ask.event(step, opened.record.subject.clone()).with("tool", waiting.tool.as_str());
    opened.record.durable(opened.record.placed(event)).await
}

fn close(opened: &mut Opened<'_>, waiting: &Waiting<Customer>) {
    opened.state.waiting.retain(|other| other.ask.id() != waiting.ask.id());
}

pub(crate) fn not_now(error: &carboy_core::ask::NotNow) -> TurnError {
    TurnError::CardOver { problem: error.to_string() }
}
