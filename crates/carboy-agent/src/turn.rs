//! A message, from whoever wrote it to the reply. Read this first.
//!
//! | layer | type | what it proves |
//! |---|---|---|
//! | 1 | `Counted` | the person, the address and the session are within their rates (G46, G69) |
//! | 2 | `Clean` | the message has words, not too many, and no character that hides (G14, G62) |
//! | 3 | `Screened` | it was judged, and does not look like an attack, or the operator wants those let through (G64) |
//! | 4 | `Begun` | the session is this turn's alone, within its turns, and the intent is in the log |
//! | 5 | [`Answered`](crate::talk) | the model answered within its rounds; every call was decided by `calls`, seven steps of their own |
//! | 6 | `Released` | what the person reads was filtered and grounded, or is the fallback; the history holds nothing else (G21–G27) |
//! | 7 | `Recorded` | the session is kept and its end is in the log; only this gives a [`Reply`] |
//!
//! Each consumes the one before it; none has a constructor outside of this file. *Must never* ask a model about a message that
//! the first three refused, or return what the log does not know of.

use std::time::Duration;

use carboy_core::audit::{EventType, Outcome};
use carboy_core::verdict::Reason;
use carboy_wire::chat::{Block, Message, Role};

use crate::audit::Record;
use crate::engine::{Asker, Engine, Watch};
use crate::layers::input::CleanText;
use crate::layers::limiter;
use crate::notice::Wanted;
use crate::opened::Opened;
use crate::outcome::{HandOff, Reply, TurnError, TurnEvent};
use crate::reading::Read;
use crate::screens::Rates;
use crate::session::Who;
use crate::talk::{Answered, Talk};

/// Answers a message.
pub(crate) async fn turn(engine: &Engine, asker: &Asker, message: &str, watch: Watch<'_>) -> Result<Reply, TurnError> {
    let counted = Counted::by(engine, asker).await?;
    let clean = counted.read(message).await?;
    let screened = clean.screen().await?;
    let mut begun = screened.begin(watch).await?;
    let answered = begun.converse().await;
    let released = begun.release(answered).await?;
    let recorded = released.record().await?;
    Ok(recorded.reply())
}

/// Layer 1.
pub(crate) struct Counted<'e> {
    engine: &'e Engine,
    asker: &'e Asker,
    record: Record,
    _permit: limiter::Admitted,
}

/// Layer 2.
struct Clean<'e> {
    counted: Counted<'e>,
    text: CleanText,
}

/// Layer 3.
struct Screened<'e> {
    counted: Counted<'e>,
    text: CleanText,
}

/// Layer 4.
pub(crate) struct Begun<'e> {
    talk: Talk<'e>,
    after: After,
}

/// What a turn follows.
enum After {
    /// A person wrote.
    Message,
    /// A write was confirmed and tried; this is what a person reads where the model cannot say how it ended.
    Write { instead: String },
}

/// Layer 6.
pub(crate) struct Released<'e> {
    talk: Talk<'e>,
    reply: Reply,
    ended: &'static str,
}

/// Layer 7.
pub(crate) struct Recorded(Reply);

impl<'e> Counted<'e> {
    pub(crate) async fn by(engine: &'e Engine, asker: &'e Asker) -> Result<Counted<'e>, TurnError> {
        Counted::at(engine, asker, Rates::All).await
    }

    /// The same against some of the rates alone.
    pub(crate) async fn at(engine: &'e Engine, asker: &'e Asker, rates: Rates) -> Result<Counted<'e>, TurnError> {
        let record = engine.record(asker);
        let permit = engine.screens.admit(asker, &record, rates).await?;
        Ok(Counted { engine, asker, record, _permit: permit })
    }

    async fn read(self, message: &str) -> Result<Clean<'e>, TurnError> {
        match crate::layers::input::clean(message, &self.engine.spec.limits) {
            Ok(text) => Ok(Clean { counted: self, text }),
            Err(invalid) => {
                let event = self.record.event(EventType::Turn, "invalid_input", Outcome::Denied);
                self.record.durable(event.with("code", crate::engine::code_of_input(&invalid))).await?;
                Err(invalid.into())
            }
        }
    }

    /// The session of somebody within their rates.
    pub(crate) async fn open(self) -> Result<Opened<'e>, TurnError> {
        Opened::open(self.engine, self.asker, self.record).await
    }
}

impl<'e> Clean<'e> {
    async fn screen(self) -> Result<Screened<'e>, TurnError> {
        let Clean { counted, text } = self;
        let screening = &counted.engine.spec.screening;
        let judgement = counted.engine.screens.judge(&text);
        if !judgement.reaches(screening.injection_percent) {
            return Ok(Screened { counted, text });
        }
        let (confidence_percent, patterns) = (judgement.confidence_percent, judgement.patterns);
        if screening.block_suspicious_inputs {
            counted.record.injection(Outcome::Blocked, confidence_percent, &patterns).await?;
            return Err(TurnError::Injection { confidence_percent, patterns });
        }
        counted.record.injection(Outcome::Warned, confidence_percent, &patterns).await?;
        Ok(Screened { counted, text })
    }
}

impl<'e> Screened<'e> {
    async fn begin(self, watch: Watch<'e>) -> Result<Begun<'e>, TurnError> {
        let Screened { counted, text } = self;
        let (engine, asker) = (counted.engine, counted.asker);
        let mut opened = counted.open().await?;
        let turns_max = engine.spec.limits.turns_max;
        if opened.state.turns >= turns_max {
            let event = opened.record.event(EventType::Session, "turns_exceeded", Outcome::Denied);
            opened.record.durable(event.with("max", u64::from(turns_max))).await?;
            return Err(TurnError::SessionOver {
                problem: format!("this conversation has had its {turns_max} turns: start a new one"),
            });
        }
        opened.state.turns += 1;
        opened.state.guard.turn = opened.state.turns;
        opened.record.turn = opened.state.turns;
        opened.state.guard.kept.grounds.begin_turn();
        opened.record.note(opened.record.event(EventType::Turn, "turn_started", Outcome::Allowed))?;
        let mut talk = Talk::new(engine, asker, opened, watch);
        let text = text.into_string();
        talk.opened.state.line(Who::Person, text.clone(), engine.now_ms());
        talk.opened.state.history.push(Message::user(text));
        Ok(Begun { talk, after: After::Message })
    }
}

impl<'e> Begun<'e> {
    /// A turn that goes on after a confirmed write: `note` is told to the model, `instead` to the person where the model
    /// cannot say it.
    pub(crate) fn after_a_write(
        engine: &'e Engine,
        asker: &'e Asker,
        opened: Opened<'e>,
        watch: Watch<'e>,
        note: String,
        instead: String,
    ) -> Begun<'e> {
        let mut talk = Talk::new(engine, asker, opened, watch);
        talk.opened.state.history.push(Message::user(note));
        Begun { talk, after: After::Write { instead } }
    }

    /// Layer 5.
    pub(crate) async fn converse(&mut self) -> Result<Answered, TurnError> {
        let limits = &self.talk.engine.spec.limits;
        let (wait_ms, seconds) = (limits.turn_wait_ms, limits.turn_wait_ms / 1_000);
        let within = tokio::time::timeout(Duration::from_millis(wait_ms.into()), self.talk.converse()).await;
        within.unwrap_or(Err(TurnError::TooLate { seconds }))
    }

    /// Layer 6. A turn that failed is written down and dropped: the session is as it was (G39). One in which a write was done
    /// always ends in words, whatever became of the model.
    pub(crate) async fn release(self, answered: Result<Answered, TurnError>) -> Result<Released<'e>, TurnError> {
        let Begun { talk, after } = self;
        let instead = match &after {
            After::Message => talk.engine.spec.prompt.fallback.clone(),
            After::Write { instead } => instead.clone(),
        };
        match (answered, after) {
            (Ok(Answered::Said(read)), _) => {
                let violations = talk.violations(&read);
                if violations.is_empty() {
                    Ok(talk.said(read.shown()))
                } else {
                    talk.withhold(violations, instead).await
                }
            }
            (Ok(Answered::TooMuch(limit)), _) => talk.withhold(vec![limit.to_owned()], instead).await,
            (Ok(Answered::Refused(reason)), After::Message) => talk.hand_over(reason).await,
            (Ok(Answered::Refused(reason)), After::Write { .. }) => talk.tell_and_hand_over(reason, instead).await,
            (Err(TurnError::Model(_) | TurnError::TooLate { .. }), After::Write { .. }) => {
                talk.withhold(vec!["no_answer".into()], instead).await
            }
            (Err(error), _) => {
                talk.failed(&error)?;
                Err(error)
            }
        }
    }
}

impl<'e> Talk<'e> {
    /// What is wrong with the last answer, or with the reply as a whole.
    fn violations(&self, read: &Read) -> Vec<String> {
        if !read.violations().is_empty() {
            return read.violations().to_vec();
        }
        if self.shown.trim().is_empty() {
            return vec!["empty_reply".into()];
        }
        self.engine.screens.checker.check(&self.shown, &self.opened.state.guard.kept.grounds).codes()
    }

    fn said(mut self, last: &str) -> Released<'e> {
        self.remember(last);
        let reply = Reply {
            text: self.shown.trim().to_owned(),
            card: self.card.clone(),
            withheld: Vec::new(),
            handed_off: None,
            turn: self.opened.state.turns,
        };
        Released { talk: self, reply, ended: "replied" }
    }

    /// The fallback stands where the model's words were, for the person and for the model: nothing that it wrote in this turn
    /// is sent to it again (G27, I9).
    async fn withhold(mut self, violations: Vec<String>, instead: String) -> Result<Released<'e>, TurnError> {
        self.opened.record.withheld(&violations).await?;
        for message in &mut self.opened.state.history[self.before..] {
            if message.role == Role::Assistant {
                message.blocks.retain(|block| match block {
                    Block::ToolUse { .. } => true,
                    Block::Text { .. } | Block::Opaque { .. } | Block::ToolResult { .. } => false,
                });
            }
        }
        self.remember(&instead);
        self.show_instead(&instead);
        let (card, turn) = (self.card.clone(), self.opened.state.turns);
        let reply = Reply { text: instead, card, withheld: violations, handed_off: None, turn };
        Ok(Released { talk: self, reply, ended: "withheld" })
    }

    /// No model may be asked: a person reads that a person goes on, and the unanswered question is not kept for a model (U2).
    async fn hand_over(mut self, reason: Reason) -> Result<Released<'e>, TurnError> {
        self.opened.drop_words();
        self.opened.ask_for_a_person(Wanted::Refused(reason)).await?;
        let text = self.engine.spec.prompt.hand_off.clone();
        Ok(self.handed_over(reason, text))
    }

    /// The same behind a write, whose outcome is said first.
    async fn tell_and_hand_over(mut self, reason: Reason, told: String) -> Result<Released<'e>, TurnError> {
        self.remember(&told);
        self.opened.ask_for_a_person(Wanted::Refused(reason)).await?;
        let text = format!("{told} {}", self.engine.spec.prompt.hand_off);
        Ok(self.handed_over(reason, text))
    }

    fn handed_over(mut self, reason: Reason, text: String) -> Released<'e> {
        self.show_instead(&text);
        let handed_off = Some(HandOff::Refused(reason));
        let (card, turn) = (self.card.clone(), self.opened.state.turns);
        let reply = Reply { text, card, withheld: Vec::new(), handed_off, turn };
        Released { talk: self, reply, ended: "handed_off" }
    }

    fn failed(&self, error: &TurnError) -> Result<(), TurnError> {
        let event = self.opened.record.event(EventType::Turn, "turn_ended", Outcome::Failed);
        self.opened.record.note(self.counts(event.with("ended", crate::engine::code_of_error(error))))
    }

    fn remember(&mut self, words: &str) {
        let text = Block::Text { text: words.to_owned() };
        self.opened.state.history.push(Message { role: Role::Assistant, blocks: vec![text] });
    }

    fn show_instead(&mut self, text: &str) {
        let event =
            if self.shown.is_empty() { TurnEvent::Sentence(text.into()) } else { TurnEvent::Replace(text.into()) };
        (self.watch)(event);
        self.shown = text.to_owned();
    }

    fn counts(&self, event: carboy_core::audit::Event) -> carboy_core::audit::Event {
        event.with("questions", u64::from(self.questions)).with("calls", u64::from(self.calls))
    }
}

impl Released<'_> {
    pub(crate) async fn record(self) -> Result<Recorded, TurnError> {
        let Released { mut talk, reply, ended } = self;
        talk.opened.record.redacted(&talk.redactions)?;
        let now = talk.engine.now_ms();
        talk.opened.state.line(Who::Agent, reply.text.clone(), now);
        talk.opened.save().await?;
        let event = talk.opened.record.event(EventType::Turn, "turn_ended", Outcome::Done).with("ended", ended);
        let event = match reply.handed_off {
            Some(HandOff::Refused(reason)) => event.with("reason", reason.code()),
            Some(HandOff::Asked) | None => event,
        };
        talk.opened.record.note(talk.counts(event))?;
        Ok(Recorded(reply))
    }
}

impl Recorded {
    pub(crate) fn reply(self) -> Reply {
        self.0
    }
}
