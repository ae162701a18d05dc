//! A session while a turn has it: locked, read, changed in memory, and kept at the end or not at all (G39).
//!
//! ```text
//! lock ─▶ load ─▶ (time ends old cards) ─▶ (writes without an outcome) ─▶ work on a copy ─▶ save │ dropped: as it was
//! ```
//!
//! What a turn did to the world stays when the turn is dropped: a confirmed write, a count against a limit and what was proven
//! are kept at once, in a task of its own: a turn whose time ends meanwhile lets go of the wait, not of the save. *Must never* be worked on by two turns, or saved over what another process wrote.

use std::sync::Arc;

use carboy_core::ask::{Ask, Customer, Kind, Operator, Posted, State as AskState, Step};
use carboy_core::audit::{EventType, Outcome};
use carboy_core::ports::{SessionKey, SessionStoreError};

use carboy_wire::chat::{Block, Message, Role};
use tokio::sync::Mutex;

use crate::answers::why;
use crate::audit::Record;
use crate::calls::{Cleared, Ran};
use crate::confirm::{ATTEMPTS_MAX, Attempt, Waiting, posted};
use crate::engine::{Asker, Engine, OTHERS_WORDS};
use crate::kept::{Kept, State};
use crate::locks::Held;
use crate::notice::{About, Wanted};
use crate::outcome::TurnError;
use crate::principal::Principal;
use crate::session::Who;
use crate::tool::Retry;

/// How long a request for a person waits for one, in milliseconds.
const HAND_OFF_WAIT_MS: u64 = 7 * 24 * 3_600_000;

/// The questions that wait for operators cannot be kept.
const BOARD: TurnError = TurnError::Unavailable { what: "the list of questions that wait for the operator" };

/// A session that is this turn's alone.
pub(crate) struct Opened<'e> {
    engine: &'e Engine,
    /// Shared with a save that is under way.
    held: Arc<Held>,
    pub(crate) key: SessionKey,
    /// Was it not there before?
    new: bool,
    /// The store's version of it; locked while a save is under way.
    version: Arc<Mutex<u64>>,
    /// As the store has it.
    kept: State,
    /// As it will be.
    pub(crate) state: State,
    pub(crate) record: Record,
}

impl<'e> Opened<'e> {
    /// Takes the session; one that is not there begins.
    pub(crate) async fn open(engine: &'e Engine, asker: &Asker, record: Record) -> Result<Opened<'e>, TurnError> {
        let key = asker.session.key();
        let mut opened = Opened::with(engine, key, record, hold(engine, key).await?).await?;
        if opened.state.know_roles(&asker.principal) {
            opened.keep_facts().await?; // a turn that is broken off gives none back that was taken away
        }
        Ok(opened)
    }

    /// The same for whoever knows a session by its key alone, and holds it: an operator's answer.
    pub(crate) async fn with(
        engine: &'e Engine,
        key: SessionKey,
        record: Record,
        held: Held,
    ) -> Result<Opened<'e>, TurnError> {
        let now = engine.now_ms();
        let loaded = engine.sessions.load(key, now).await.map_err(store)?;
        let (version, state) = match loaded {
            Some(found) => match State::from_bytes(&engine.keys, key, &found.bytes) {
                Ok(state) => (found.version, state),
                Err(_) => {
                    record.durable(record.event(EventType::Session, "session_damaged", Outcome::Denied)).await?;
                    return Err(TurnError::SessionOver { problem: OTHERS_WORDS.into() });
                }
            },
            None => (0, State::new(engine.keys.session(key), now)),
        };
        let (new, version, kept) = (version == 0, Arc::new(Mutex::new(version)), state.clone());
        let mut opened = Opened { engine, held: Arc::new(held), key, new, version, kept, state, record };
        opened.record.turn = opened.state.turns;
        opened.let_time_pass().await?;
        opened.reconcile().await?;
        Ok(opened)
    }

    /// Was it not there before?
    pub(crate) fn is_new(&self) -> bool {
        self.new
    }

    /// Keeps what the turn made of it.
    pub(crate) async fn save(&mut self) -> Result<(), TurnError> {
        self.state.used_ms = self.engine.now_ms();
        self.state.bound_history();
        let saved = match self.put(&self.state).await {
            Err(SessionStoreError::TooLarge { .. }) => {
                self.state.shrink();
                self.put(&self.state).await
            }
            other => other,
        };
        saved.map_err(store)?;
        self.new = false;
        self.kept = self.state.clone();
        Ok(())
    }

    /// Keeps what is true whether the turn comes to its end or not, and nothing of what was said in it.
    pub(crate) async fn keep_facts(&mut self) -> Result<(), TurnError> {
        let facts = State {
            guard: self.state.guard.clone(),
            waiting: self.state.waiting.clone(),
            requests: self.state.requests.clone(),
            unasked: self.state.unasked.clone(),
            hand_off: self.state.hand_off.clone(),
            ..self.kept.clone()
        };
        self.put(&facts).await.map_err(store)?;
        self.new = false;
        self.kept = facts;
        Ok(())
    }

    /// Is something proven, or no longer, that the store does not know of yet?
    pub(crate) fn decides_otherwise(&self) -> bool {
        !self.state.guard.kept.decides_as(&self.kept.guard.kept)
    }

    /// What was said in this turn is forgotten; what it did is not.
    pub(crate) fn drop_words(&mut self) {
        self.state.history = self.kept.history.clone();
    }

    /// What the runtime tells the model, and its words to the person, without asking anybody.
    pub(crate) fn told(&mut self, note: String, words: &str) {
        let words = Block::Text { text: words.to_owned() };
        self.state.history.push(Message::user(note));
        self.state.history.push(Message { role: Role::Assistant, blocks: vec![words] });
    }

    async fn put(&self, state: &State) -> Result<(), SessionStoreError> {
        let bytes = state.to_bytes(&self.engine.keys, self.key);
        let bytes = bytes.map_err(|_| SessionStoreError::Unavailable("the session has no form".into()))?;
        let (sessions, key, now) = (self.engine.sessions.clone(), self.key, self.engine.now_ms());
        let mut version = self.version.clone().lock_owned().await;
        let held = self.held.clone();
        let saving = tokio::spawn(async move {
            let _held = held; // nobody else has it before the save is over
            let saved = sessions.save(key, *version, bytes, now).await;
            *version += u64::from(saved.is_ok());
            saved
        });
        saving.await.unwrap_or_else(|error| Err(SessionStoreError::Unavailable(error.to_string())))
    }

    /// Cards that nobody clicked in time.
    async fn let_time_pass(&mut self) -> Result<(), TurnError> {
        let now = self.engine.now_ms();
        let mut over = Vec::new();
        for waiting in &mut self.state.waiting {
            if waiting.ask.expire(now) {
                over.push(self.record.placed(waiting.ask.event(Step::Expired, self.record.subject.clone())));
            }
        }
        let (mut down, mut told) = (Vec::new(), Vec::new());
        for request in &mut self.state.requests {
            if request.ask.expire(now) {
                over.push(self.record.placed(request.ask.event(Step::Expired, self.record.subject.clone())));
                down.push(request.ask.id().to_owned());
                told.push(format!("Nobody approved this in time, and nothing was done: {}", request.title()));
            }
        }
        if let Some(ask) = &mut self.state.hand_off
            && ask.expire(now)
        {
            over.push(self.record.placed(ask.event(Step::Expired, self.record.subject.clone())));
            down.push(ask.id().to_owned());
            self.state.hand_off = None;
        }
        if over.is_empty() {
            return Ok(());
        }
        self.state.waiting.retain(|waiting| waiting.ask.state(now) != AskState::Expired);
        self.state.requests.retain(|request| request.ask.state(now) != AskState::Expired);
        told.into_iter().for_each(|text| self.state.line(Who::Agent, text, now));
        self.save().await?;
        for event in over {
            self.record.durable(event).await?;
        }
        down.iter().try_for_each(|id| self.take_down(id, "nobody answered in time"))
    }

    /// Writes that were confirmed and begun, and of which nobody heard how they ended: the program was killed, or whoever
    /// waited went away.
    async fn reconcile(&mut self) -> Result<(), TurnError> {
        self.reconcile_those_of::<Customer>().await?;
        self.reconcile_those_of::<Operator>().await?;
        self.reconcile_unasked().await
    }

    /// May an attempt at a write still be another process's?
    pub(crate) fn is_elsewhere(&self, attempt: &Attempt) -> bool {
        let wait_ms = self.engine.spec.limits.tool_wait_ms;
        attempt.is_under_way_elsewhere(&self.engine.name, self.engine.now_ms(), wait_ms)
    }

    /// One of ours that begins now.
    pub(crate) fn attempt(&self) -> Attempt {
        Attempt { engine: self.engine.name.clone(), at_ms: self.engine.now_ms() }
    }

    pub(crate) fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// A write itself; why it failed goes to the operator.
    pub(crate) async fn carry_out(&mut self, cleared: &Cleared<'_>, principal: &Principal, key: &str) -> Ran {
        let ran = cleared.run(principal, &mut self.state.guard, self.engine.now_ms(), key).await;
        self.engine.remark(&self.record, cleared.name(), &ran);
        ran
    }

    async fn reconcile_those_of<A: Kept>(&mut self) -> Result<(), TurnError> {
        while let Some(waiting) = A::list(&mut self.state).iter().find(|waiting| waiting.is_unanswered()).cloned() {
            if waiting.begun.as_ref().is_some_and(|begun| self.is_elsewhere(begun)) {
                return Err(TurnError::Unavailable { what: "the conversation (a confirmed action is under way)" });
            }
            let tool = self.engine.tools.named(&waiting.tool);
            let again = tool.is_some_and(|tool| tool.retry() == Retry::SameKey) && waiting.attempts < ATTEMPTS_MAX;
            if again {
                self.try_again(waiting).await?;
            } else {
                self.give_up(waiting).await?;
            }
        }
        Ok(())
    }

    async fn try_again<A: Kept>(&mut self, waiting: Waiting<A>) -> Result<(), TurnError> {
        let (Some(tool), Ok(spent)) = (self.engine.tools.named(&waiting.tool), waiting.ask.unanswered()) else {
            return self.give_up(waiting).await;
        };
        let cleared = Cleared::again(&self.engine.tools, tool, waiting.arguments.clone(), spent);
        match self.write(&waiting, &cleared).await? {
            Ran::Done(_) => {
                let text = format!("Done after all: {}", waiting.title());
                self.state.line(Who::Note, text, self.engine.now_ms());
            }
            Ran::Refused(no) | Ran::Failed { no, .. } => {
                let text = format!("Not done: {}{}", waiting.title(), why(self.engine, self, &no));
                self.state.line(Who::Note, text, self.engine.now_ms());
            }
            Ran::TooLate(_) => return Ok(()), // the next attempt, until there were enough
        }
        self.save().await
    }

    async fn give_up<A: Kept>(&mut self, waiting: Waiting<A>) -> Result<(), TurnError> {
        let key = waiting.idempotency_key(&self.engine.keys, self.key);
        self.record.outcome(&waiting.tool, &key, "unknown", Outcome::Failed).await?;
        let text = format!("It is not known whether this was done: {} A person will look.", waiting.title());
        self.state.line(Who::Note, text, self.engine.now_ms());
        A::list(&mut self.state).retain(|other| other.ask.id() != waiting.ask.id());
        self.ask_for_a_person(Wanted::UnknownOutcome).await?;
        self.save().await
    }

    /// Runs a write that was spent: kept as begun, written down, run, written down. What waits is gone once it has an outcome.
    pub(crate) async fn write<A: Kept>(
        &mut self,
        waiting: &Waiting<A>,
        cleared: &Cleared<'_>,
    ) -> Result<Ran, TurnError> {
        let id = waiting.ask.id();
        let Some(begun) = A::list(&mut self.state).iter_mut().find(|other| other.ask.id() == id) else {
            return Err(TurnError::Unavailable { what: "the confirmation" });
        };
        begun.ask = waiting.ask.clone();
        begun.principal = waiting.principal.clone();
        begun.attempts += 1;
        begun.begun = Some(Attempt { engine: self.engine.name.clone(), at_ms: self.engine.now_ms() });
        let attempt = begun.attempts;
        self.engine.tools.demands.count(&mut self.state.guard, cleared.name());
        self.keep_facts().await?;
        let key = waiting.idempotency_key(&self.engine.keys, self.key);
        self.record.intent(cleared.name(), &key, attempt).await?;
        let ran = self.carry_out(cleared, &waiting.principal, &key).await;
        let (code, result) = code_of(&ran);
        self.record.outcome(cleared.name(), &key, code, result).await?;
        match &ran {
            Ran::Done(output) => self.state.guard.kept.grounds.release_output(output),
            Ran::Refused(_) | Ran::Failed { .. } => {}
            Ran::TooLate(_) => return Ok(ran),
        }
        A::list(&mut self.state).retain(|other| other.ask.id() != id);
        self.keep_facts().await?;
        Ok(ran)
    }

    /// Older questions are taken back: what is on the screen is what is asked.
    pub(crate) async fn withdraw_all(&mut self) -> Result<(), TurnError> {
        let mut events = Vec::new();
        for waiting in &mut self.state.waiting {
            if waiting.ask.withdraw() {
                let event = waiting.ask.event(Step::Withdrawn, self.record.subject.clone());
                events.push(self.record.placed(event.with("tool", waiting.tool.as_str())));
            }
        }
        self.state.waiting.retain(Waiting::is_unanswered);
        for event in events {
            self.record.durable(event).await?;
        }
        Ok(())
    }

    /// Questions to operators are taken back: nobody is there any more who asked.
    pub(crate) async fn withdraw_requests(&mut self) -> Result<(), TurnError> {
        let mut down = Vec::new();
        for request in &mut self.state.requests {
            if request.ask.withdraw() {
                let event = request.ask.event(Step::Withdrawn, self.record.subject.clone());
                down.push((request.ask.id().to_owned(), event.with("tool", request.tool.as_str())));
            }
        }
        if let Some(ask) = &mut self.state.hand_off
            && ask.withdraw()
        {
            down.push((ask.id().to_owned(), ask.event(Step::Withdrawn, self.record.subject.clone())));
        }
        for (id, event) in down {
            self.record.durable(self.record.placed(event)).await?;
            self.take_down(&id, "the conversation was forgotten")?;
        }
        Ok(())
    }

    /// What is put up for operators.
    pub(crate) fn post(&self, posted: &Posted) -> Result<(), TurnError> {
        self.engine.board.as_ref().map_or(Ok(()), |board| board.post(posted)).map_err(|_| BOARD)
    }

    pub(crate) fn take_down(&self, id: &str, came_of_it: &str) -> Result<(), TurnError> {
        self.engine.board.as_ref().map_or(Ok(()), |board| board.take_down(id, came_of_it)).map_err(|_| BOARD)
    }

    /// The session is no more.
    pub(crate) async fn remove(self) -> Result<(), TurnError> {
        self.engine.sessions.remove(self.key).await.map_err(store)
    }

    /// A person is wanted; one question at a time.
    pub(crate) async fn ask_for_a_person(&mut self, why: Wanted) -> Result<(), TurnError> {
        if let Some(ask) = &self.state.hand_off {
            // One that the board had no room for gets there once it has some.
            self.put_up(ask);
            return Ok(());
        }
        let now = self.engine.now_ms();
        let prefix = Kind::HandOff.prefix();
        let id = format!("{prefix}-{}", self.engine.keys.short(&[b"hand_off", &self.key.0, &now.to_be_bytes()]));
        let expires_ms = now + HAND_OFF_WAIT_MS;
        let ask = Ask::hand_off(&id, &self.record.session, now, expires_ms);
        let event = ask.event(Step::Opened, self.record.subject.clone());
        self.record.durable(self.record.placed(event)).await?;
        self.engine.notify(&self.record, id, About::HandOff { why, expires_ms }, now);
        self.put_up(&ask);
        self.state.hand_off = Some(ask);
        Ok(())
    }

    /// It is in the log, and was told to whoever fetches people: a board that takes no more, and has told the operator so,
    /// takes no politeness away from whoever is handed off.
    fn put_up(&self, hand_off: &Ask<Operator>) {
        let _ = self.post(&posted(hand_off.clone(), self.engine.spec.name.as_str(), &self.record, self.key));
    }
}

/// Waits until nobody else is at work in the session.
pub(crate) async fn hold(engine: &Engine, key: SessionKey) -> Result<Held, TurnError> {
    let held = engine.locks.hold(key).await;
    held.map_err(|_| TurnError::Unavailable { what: "the conversation (it is still at work)" })
}

/// How a run ended, for the log.
pub(crate) fn code_of(ran: &Ran) -> (&'static str, Outcome) {
    match ran {
        Ran::Done(_) => ("ok", Outcome::Done),
        Ran::Refused(no) => (no.code, Outcome::Denied),
        Ran::Failed { no, .. } => (no.code, Outcome::Failed),
        Ran::TooLate(_) => ("unknown", Outcome::Failed),
    }
}

fn store(error: SessionStoreError) -> TurnError {
    match error {
        SessionStoreError::Changed => TurnError::Unavailable { what: "the conversation (it is at work elsewhere)" },
        SessionStoreError::TooLarge { .. } | SessionStoreError::Unavailable(_) => {
            TurnError::Unavailable { what: "the session store" }
        }
    }
}
