//! Turns under way, apart from the connections that asked for them: a dropped network loses nothing, and the same
//! question sent again joins its turn and is not asked twice.
//!
//! ```text
//!  POST (request id) ─▶ start ─┬─ new ──▶ task: Engine::turn ─▶ log of events ─▶ every stream that reads it
//!                              └─ known ─▶ a place to read ───▶ the same log, from where the client stood
//! ```
//!
//! *Must never* stop a confirmed action half-way: only answers can be stopped.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use carboy_agent::{Card, HandOff, Reply, StepPhase, TurnError, TurnEvent};
use carboy_core::ports::SessionKey;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::listener::said;
use super::refusal::Refusal;

/// Turns at work at once, all sessions together.
pub const TURNS_MAX: usize = 512;
/// Turns of one session that are at work or wait for each other.
pub const TURNS_PER_SESSION_MAX: usize = 4;
/// Finished turns that a client may still join, all sessions together; the oldest goes first.
const FINISHED_MAX: usize = 1_024;
/// Events of one turn that are kept; past that, the last one (which has the whole reply) is the next that is read.
const EVENTS_MAX: usize = 8_192;
/// Clients that read one turn at once.
pub const READERS_PER_TURN_MAX: usize = 8;
/// Longest id that a client gives a request.
pub const REQUEST_BYTES_MAX: usize = 64;

/// Whether a person may stop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A question to the model.
    Answer,
    /// An action that was confirmed.
    Action,
}

/// What a stream shows.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Step {
        tool: String,
        phase: StepPhase,
    },
    Sentence(String),
    Replace(String),
    Card(Card),
    /// The whole reply.
    Done(Reply),
    Failed(Refusal),
}

impl Event {
    pub fn name(&self) -> &'static str {
        match self {
            Event::Step { .. } => "step",
            Event::Sentence(_) => "sentence",
            Event::Replace(_) => "replace",
            Event::Card(_) => "card",
            Event::Done(_) => "done",
            Event::Failed(_) => "error",
        }
    }

    pub fn json(&self) -> Value {
        match self {
            Event::Step { tool, phase } => json!({"tool": tool, "phase": phase}),
            Event::Sentence(text) | Event::Replace(text) => json!({"text": text}),
            Event::Card(card) => json!(card),
            Event::Done(reply) => of_reply(reply),
            Event::Failed(refusal) => refusal.json(),
        }
    }
}

/// A reply as clients read it.
pub(super) fn of_reply(reply: &Reply) -> Value {
    let mut value = json!({"reply": reply.text, "turn": reply.turn, "withheld": !reply.withheld.is_empty()});
    if let Some(card) = &reply.card {
        value["card"] = json!(card);
    }
    if let Some(reason) = reply.handed_off {
        value["handed_off"] = of_hand_off(reason).into();
    }
    value
}

fn of_hand_off(why: HandOff) -> &'static str {
    match why {
        HandOff::Asked => "asked",
        HandOff::Refused(reason) => reason.code(),
    }
}

impl Event {
    /// What of a turn a page is shown.
    fn of(event: TurnEvent) -> Option<Event> {
        match event {
            TurnEvent::Step { tool, phase } => Some(Event::Step { tool, phase }),
            // Arguments are between model and tool; the step that failed was shown.
            TurnEvent::Invalid { .. } => None,
            TurnEvent::Sentence(text) => Some(Event::Sentence(text)),
            TurnEvent::Replace(text) => Some(Event::Replace(text)),
            TurnEvent::Card(card) => Some(Event::Card(card)),
        }
    }
}

/// One turn.
pub(super) struct Turn {
    request: String,
    work: Work,
    log: Mutex<Vec<Event>>,
    /// How many events there are; closed never.
    grown: watch::Sender<(usize, bool)>,
    stop: watch::Sender<bool>,
    places: Arc<Semaphore>,
}

/// Whoever reads a turn. Their place is free again when this is dropped.
pub(super) struct Reading {
    pub turn: Arc<Turn>,
    /// Whether they began it or came to one that was there.
    pub came: Came,
    _place: OwnedSemaphorePermit,
}

/// How somebody came to a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Began,
    Joined,
}

impl Turn {
    fn new(request: String, work: Work) -> Turn {
        Turn {
            request,
            work,
            log: Mutex::new(Vec::new()),
            grown: watch::Sender::new((0, false)),
            stop: watch::Sender::new(false),
            places: Arc::new(Semaphore::new(READERS_PER_TURN_MAX)),
        }
    }

    /// A place to read it from.
    fn read(self: &Arc<Self>, came: Came) -> Result<Reading, Refusal> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            let next = "close one of the windows that wait for it, then try again";
            let message = "this answer is being read in too many places";
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_readers", message, next).after(2)
        })?;
        Ok(Reading { turn: self.clone(), came, _place: place })
    }

    fn put(&self, event: Event, last: bool) {
        let mut log = held(&self.log);
        if log.len() < EVENTS_MAX || last {
            log.push(event);
        }
        let count = log.len();
        drop(log);
        self.grown.send_replace((count, last));
    }

    /// The event at this place; `None` when it is not there (yet).
    pub fn event(&self, place: usize) -> Option<Event> {
        held(&self.log).get(place).cloned()
    }

    /// Tells of growth: how many events there are, and whether the last one is there.
    pub fn grown(&self) -> watch::Receiver<(usize, bool)> {
        self.grown.subscribe()
    }

    /// How it ended.
    pub async fn outcome(&self) -> Result<Reply, Refusal> {
        let mut grown = self.grown();
        // The sender is in here, so it cannot be gone.
        let _ = grown.wait_for(|(_, ended)| *ended).await;
        match held(&self.log).last() {
            Some(Event::Done(reply)) => Ok(reply.clone()),
            Some(Event::Failed(refusal)) => Err(refusal.clone()),
            Some(Event::Step { .. } | Event::Sentence(_) | Event::Replace(_) | Event::Card(_)) | None => {
                Err(Refusal::internal("a turn ended without an ending"))
            }
        }
    }

    fn ended(&self) -> bool {
        self.grown.borrow().1
    }
}

struct Shelves {
    of: HashMap<SessionKey, Vec<Arc<Turn>>>,
    finished: VecDeque<(SessionKey, Arc<Turn>)>,
    open: bool,
}

/// All turns of one service.
pub(super) struct Turns {
    shelves: Mutex<Shelves>,
    running: watch::Sender<usize>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is whole after every statement; a panic of a neighbour changes nothing about that.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    pub fn new() -> Turns {
        let shelves = Shelves { of: HashMap::new(), finished: VecDeque::new(), open: true };
        Turns { shelves: Mutex::new(shelves), running: watch::Sender::new(0) }
    }

    /// Starts the turn, or joins the one that this request id started. `told` hears how a new one ended. Whoever joins
    /// has been counted nowhere yet.
    pub fn start<W, F>(
        self: &Arc<Self>,
        session: SessionKey,
        request: String,
        work: Work,
        run: W,
        told: impl FnOnce(&Result<Reply, Refusal>) + Send + 'static,
    ) -> Result<Reading, Refusal>
    where
        W: FnOnce(Box<dyn Fn(TurnEvent) + Send + Sync>) -> F,
        F: Future<Output = Result<Reply, TurnError>> + Send + 'static,
    {
        let reading = {
            let mut shelves = held(&self.shelves);
            let open = shelves.open;
            let own = shelves.of.entry(session).or_default();
            if let Some(known) = own.iter().find(|turn| turn.request == request && turn.work == work) {
                return known.read(Came::Joined);
            }
            let at_work = own.iter().filter(|turn| !turn.ended()).count();
            let refused = if !open {
                Some(Refusal::stopping())
            } else if at_work >= TURNS_PER_SESSION_MAX {
                Some(busy(StatusCode::TOO_MANY_REQUESTS, "session_busy"))
            } else if *self.running.borrow() >= TURNS_MAX {
                Some(busy(StatusCode::SERVICE_UNAVAILABLE, "service_busy"))
            } else {
                None
            };
            if let Some(refusal) = refused {
                if own.is_empty() {
                    shelves.of.remove(&session);
                }
                return Err(refusal);
            }
            let turn = Arc::new(Turn::new(request, work));
            let reading = turn.read(Came::Began)?;
            own.push(turn);
            self.running.send_modify(|count| *count += 1);
            reading
        };
        let heard = reading.turn.clone();
        let running = run(Box::new(move |event| {
            if let Some(event) = Event::of(event) {
                heard.put(event, false);
            }
        }));
        let (turns, theirs) = (self.clone(), reading.turn.clone());
        tokio::spawn(async move {
            let outcome = ending(running, &theirs).await;
            told(&outcome);
            theirs.put(outcome.map_or_else(Event::Failed, Event::Done), true);
            turns.finished(session, theirs);
        });
        Ok(reading)
    }

    fn finished(&self, session: SessionKey, turn: Arc<Turn>) {
        let mut shelves = held(&self.shelves);
        shelves.finished.push_back((session, turn));
        while shelves.finished.len() > FINISHED_MAX {
            let Some((session, oldest)) = shelves.finished.pop_front() else { break };
            shelves.let_go(session, |turn| !Arc::ptr_eq(turn, &oldest));
        }
        drop(shelves);
        self.running.send_modify(|count| *count -= 1);
    }

    /// Stops the answers of a session that are under way; how many.
    pub fn stop(&self, session: SessionKey) -> usize {
        let shelves = held(&self.shelves);
        let own = shelves.of.get(&session).map_or(&[][..], Vec::as_slice);
        let mut stopped = 0;
        for turn in own.iter().filter(|turn| turn.work == Work::Answer && !turn.ended()) {
            turn.stop.send_replace(true);
            stopped += 1;
        }
        stopped
    }

    /// Request ids of this session that are under way.
    pub fn under_way(&self, session: SessionKey) -> Vec<String> {
        let shelves = held(&self.shelves);
        let own = shelves.of.get(&session).map_or(&[][..], Vec::as_slice);
        own.iter().filter(|turn| !turn.ended()).map(|turn| turn.request.clone()).collect()
    }

    /// Forgets what ended of a session, whose words are gone from the store too.
    pub fn forget(&self, session: SessionKey) {
        let mut shelves = held(&self.shelves);
        shelves.finished.retain(|(other, _)| *other != session);
        shelves.let_go(session, |turn| !turn.ended());
    }

    /// No new ones.
    pub fn close(&self) {
        held(&self.shelves).open = false;
    }

    pub fn is_open(&self) -> bool {
        held(&self.shelves).open
    }

    /// Stops every answer.
    pub fn stop_all(&self) {
        let sessions: Vec<SessionKey> = held(&self.shelves).of.keys().copied().collect();
        for session in sessions {
            self.stop(session);
        }
    }

    /// Ready when none is at work.
    pub async fn idle(&self) {
        let _ = self.running.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Shelves {
    fn let_go(&mut self, session: SessionKey, keep: impl Fn(&Arc<Turn>) -> bool) {
        if let Some(own) = self.of.get_mut(&session) {
            own.retain(keep);
            if own.is_empty() {
                self.of.remove(&session);
            }
        }
    }
}

/// Runs it in a task of its own, so that a panic in there is an error here and nobody waits for ever.
async fn ending(
    running: impl Future<Output = Result<Reply, TurnError>> + Send + 'static,
    turn: &Turn,
) -> Result<Reply, Refusal> {
    let mut task = tokio::spawn(running);
    let mut stop = turn.stop.subscribe();
    tokio::select! {
        outcome = &mut task => match outcome {
            Ok(outcome) => outcome.map_err(Refusal::from),
            Err(_) => Err(Refusal::internal("the turn panicked")),
        },
        () = said(&mut stop) => {
            task.abort();
            // Ended before this is told: what it held is free again.
            let _ = task.await;
            Err(Refusal::new(StatusCode::CONFLICT, "stopped", "Stopped.", "ask again, or something else"))
        }
    }
}

fn busy(status: StatusCode, code: &'static str) -> Refusal {
    Refusal::new(status, code, "too many questions are being answered just now", "wait for an answer, then ask again")
        .after(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    const SESSION: SessionKey = SessionKey([7; 32]);

    fn reply(text: &str) -> Reply {
        Reply { text: text.into(), card: None, withheld: Vec::new(), handed_off: None, turn: 1 }
    }

    fn start(turns: &Arc<Turns>, request: &str, work: Work) -> (Result<Arc<Turn>, Refusal>, oneshot::Sender<Reply>) {
        let (reading, tell) = read(turns, request, work);
        (reading.map(|reading| reading.turn.clone()), tell)
    }

    fn read(turns: &Arc<Turns>, request: &str, work: Work) -> (Result<Reading, Refusal>, oneshot::Sender<Reply>) {
        let (tell, told) = oneshot::channel();
        let reading = turns.start(
            SESSION,
            request.into(),
            work,
            |_| async { told.await.map_err(|_| TurnError::Unavailable { what: "the test" }) },
            |_| {},
        );
        (reading, tell)
    }

    #[tokio::test]
    async fn g46_so_many_read_one_turn_at_once_and_a_place_that_is_left_is_free() {
        let turns = Arc::new(Turns::new());
        let (first, tell) = read(&turns, "a", Work::Answer);
        let first = first.unwrap();
        assert_eq!(first.came, Came::Began);
        let join = || read(&turns, "a", Work::Answer).0;
        let mut others: Vec<Reading> = (1..READERS_PER_TURN_MAX).map(|_| join().unwrap()).collect();
        assert!(others.iter().all(|other| other.came == Came::Joined));
        let refused = join().err().unwrap();
        assert_eq!((refused.status.as_u16(), refused.code, refused.retry_after_s), (429, "too_many_readers", Some(2)));
        assert!(read(&turns, "b", Work::Answer).0.is_ok(), "another turn has places of its own");
        others.pop();
        assert!(join().is_ok());
        tell.send(reply("done")).unwrap();
        assert_eq!(first.turn.outcome().await.unwrap().text, "done");
    }

    #[tokio::test]
    async fn the_same_request_joins_its_turn_and_is_not_asked_twice() {
        let turns = Arc::new(Turns::new());
        let (first, tell) = start(&turns, "a", Work::Answer);
        let (second, unused) = start(&turns, "a", Work::Answer);
        assert!(unused.is_closed(), "the second was not run");
        tell.send(reply("once")).unwrap();
        assert_eq!(first.unwrap().outcome().await.unwrap().text, "once");
        assert_eq!(second.unwrap().outcome().await.unwrap().text, "once");
        turns.idle().await;
        let (again, unused) = start(&turns, "a", Work::Answer);
        assert!(unused.is_closed());
        assert_eq!(again.unwrap().outcome().await.unwrap().text, "once", "and after it has ended too");
        turns.forget(SESSION);
        assert!(held(&turns.shelves).of.is_empty() && held(&turns.shelves).finished.is_empty());
    }

    #[tokio::test]
    async fn an_answer_can_be_stopped_and_a_confirmed_action_cannot() {
        let turns = Arc::new(Turns::new());
        let (answer, _tell) = start(&turns, "a", Work::Answer);
        let (action, tell) = start(&turns, "b", Work::Action);
        assert_eq!(turns.stop(SESSION), 1);
        assert_eq!(answer.unwrap().outcome().await.unwrap_err().code, "stopped");
        assert_eq!(turns.under_way(SESSION), ["b"]);
        tell.send(reply("done")).unwrap();
        assert_eq!(action.unwrap().outcome().await.unwrap().text, "done");
    }

    #[tokio::test]
    async fn one_session_waits_for_so_many_and_a_closed_service_takes_none() {
        let turns = Arc::new(Turns::new());
        let kept: Vec<_> = (0..TURNS_PER_SESSION_MAX).map(|n| start(&turns, &n.to_string(), Work::Answer)).collect();
        assert_eq!(start(&turns, "more", Work::Answer).0.err().unwrap().code, "session_busy");
        turns.close();
        assert_eq!(start(&turns, "late", Work::Answer).0.err().unwrap().code, "stopping");
        assert!(start(&turns, "0", Work::Answer).0.is_ok(), "what is under way can be joined");
        drop(kept);
        turns.idle().await;
    }

    #[tokio::test]
    async fn a_panic_in_a_turn_is_an_error_and_not_a_silence() {
        let turns = Arc::new(Turns::new());
        let broken = |_| async { panic!("on purpose") };
        let reading = turns.start(SESSION, "a".into(), Work::Answer, broken, |_| {}).unwrap();
        assert_eq!(reading.turn.outcome().await.unwrap_err().code, "internal");
    }

    #[tokio::test]
    async fn finished_turns_are_remembered_up_to_a_limit() {
        let turns = Arc::new(Turns::new());
        for number in 0..FINISHED_MAX + 3 {
            let key = SessionKey(std::array::from_fn(|at| (number >> (8 * (at % 4))) as u8));
            let done = |_| async { Ok(reply("x")) };
            let reading = turns.start(key, "a".into(), Work::Answer, done, |_| {}).unwrap();
            reading.turn.outcome().await.unwrap();
        }
        turns.idle().await;
        let shelves = held(&turns.shelves);
        assert_eq!((shelves.of.len(), shelves.finished.len()), (FINISHED_MAX, FINISHED_MAX));
    }
}
