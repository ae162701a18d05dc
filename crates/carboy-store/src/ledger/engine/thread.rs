//! The thread: gathers what waits, carries it out as one batch, answers.
//!
//! *Must never* answer what has to be durable before it is, or go on with a book that may differ from the store.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::budget::{LedgerSnapshot, ReservationId};
use carboy_core::ports::Clock;

use super::batch::{Batch, Kept};
use super::desk::Desk;
use super::notices::{Notice, Subscribers};
use super::{BATCH_COMMANDS_MAX, Command, Done, Shared, Unavailable, closed};
use crate::StoreError;
use crate::ledger::port::{LedgerStore, Write};

/// Pause before a store that failed is tried again, in milliseconds.
const RETRY_MS: u64 = 250;
/// How often caps that were crossed are looked at again: a new window gives them room.
const LOOK_MS: u64 = 1_000;
/// Longest wait when nothing is due, in milliseconds.
const IDLE_MS: u64 = 60_000;
/// How long a batch takes in what comes meanwhile: those who are in it wait for its commit.
const GATHER_MAX: Duration = Duration::from_millis(2);
/// Most endings that are kept while the store fails. Those beyond are charged in full when their owner is gone.
const KEPT_MAX: usize = 16_384;

/// Why nothing goes.
struct Down {
    why: Unavailable,
    retry: Instant,
}

/// All that the thread has.
pub(super) struct Hands {
    store: Box<dyn LedgerStore>,
    desk: Desk,
    clock: Arc<dyn Clock>,
    inbox: Receiver<Command>,
    shared: Weak<Shared>,
    subscribers: Subscribers,
    down: Option<Down>,
    /// Endings that could not be written: what was spent is not forgotten.
    kept: VecDeque<Kept>,
    /// Requests whose sending was refused by a commit that failed, and may be on disk all the same.
    doubtful: Vec<ReservationId>,
    look: Instant,
    /// The store's alarm was written down and lasts.
    alarmed: bool,
}

impl Hands {
    pub(super) fn new(
        store: Box<dyn LedgerStore>,
        desk: Desk,
        clock: Arc<dyn Clock>,
        inbox: Receiver<Command>,
        shared: &Arc<Shared>,
        subscribers: Subscribers,
    ) -> Hands {
        let shared = Arc::downgrade(shared);
        let look = Instant::now();
        Hands {
            store,
            desk,
            clock,
            inbox,
            shared,
            subscribers,
            down: None,
            kept: VecDeque::new(),
            doubtful: Vec::new(),
            look,
            alarmed: false,
        }
    }

    /// Works until nobody has the ledger any more, or it is closed.
    pub(super) fn work(mut self) {
        let closer = loop {
            let first = match self.inbox.recv_timeout(self.patience()) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break None,
            };
            let closing = self.carry_out(first);
            if closing.is_some() {
                break closing;
            }
            // Everybody is answered: what the store has to do by the way holds up nobody who was in the batch.
            if self.down.is_none() {
                self.store.rest();
            }
        };
        self.subscribers.close();
        // The store is given back before whoever closed it is told.
        drop((self.store, self.desk, self.inbox));
        if let Some(done) = closer {
            let unwritten = self.kept.len();
            done.give(if unwritten == 0 { Ok(()) } else { Err(lost(unwritten)) });
        }
    }

    fn patience(&self) -> Duration {
        let now = Instant::now();
        if let Some(down) = &self.down {
            return down.retry.saturating_duration_since(now);
        }
        let idle = now + Duration::from_millis(IDLE_MS);
        let crossed = self.desk.clients.values().any(|client| !client.crossed.is_empty());
        let due = [self.desk.waiting.next_deadline(), crossed.then_some(self.look)];
        due.into_iter().flatten().fold(idle, Instant::min).saturating_duration_since(now)
    }

    /// One batch: what waits, and what comes while that is carried out. Whoever is admitted is told at once, so that its
    /// dispatch may be in the same commit. Gives whoever asked to close, once all before it is carried out.
    fn carry_out(&mut self, first: Option<Command>) -> Option<Done<()>> {
        let mut closing = None;
        let mut batch = Batch::new(self.clock.now_ms());
        if self.down.is_some() {
            self.recover(&mut batch);
        }
        let mut outcome = Ok(());
        let (mut next, mut taken, begun) = (first, 0, Instant::now());
        while let Some(command) = next {
            if let Command::Close { done } = command {
                closing = Some(done);
                break;
            }
            let refusal = match (&self.down, &outcome) {
                (None, Ok(())) => None,
                (Some(down), _) => Some(down.why.clone()),
                (None, Err(error)) => Some(unavailable(error)),
            };
            match refusal {
                None => outcome = self.command(command, &mut batch),
                Some(why) => self.refuse(command, &why, batch.now_ms),
            }
            taken += 1;
            // Whoever was refused and asks again finds told what came of it: that is told with the commit.
            let more = taken < BATCH_COMMANDS_MAX && begun.elapsed() < GATHER_MAX && !self.desk.watch.has_refused();
            next = if more { self.inbox.try_recv().ok() } else { None };
            batch.now_ms = self.clock.now_ms();
        }
        if self.down.is_none() {
            self.settle_accounts(batch, outcome);
        }
        closing
    }

    /// Serves those who wait, looks at what was crossed, commits, and answers.
    fn settle_accounts(&mut self, mut batch: Batch, outcome: Result<(), StoreError>) {
        if let Some(shared) = self.shared.upgrade() {
            let abandoned = std::mem::take(&mut *shared.abandoned());
            abandoned.into_iter().for_each(|(id, asked)| self.desk.abandoned(id, asked));
        }
        if self.look <= Instant::now() {
            self.look = Instant::now() + Duration::from_millis(LOOK_MS);
            self.desk.watch_crossed();
        }
        self.desk.serve(batch.now_ms);
        self.desk.look(&mut batch);
        let (alarm, alarmed) = (self.store.alarm(), self.alarmed);
        self.alarmed = alarm.is_some();
        if let Some(words) = alarm.filter(|_| !alarmed) {
            batch
                .event(Event::new(EventType::Budget, Subject::default(), "alarm", Outcome::Warned).with("text", words));
        }
        let committed =
            outcome.and_then(|()| if batch.writes.is_empty() { Ok(()) } else { self.store.commit(&batch.writes) });
        if let Err(error) = committed {
            return self.fail(batch, &error);
        }
        if batch.writes.iter().any(|write| matches!(write, Write::Event { .. })) {
            batch.notices.push(Notice::Recorded);
        }
        self.desk.latch(std::mem::take(&mut batch.latches));
        // Before the answers: whoever changed something finds told what came of it.
        self.subscribers.tell(&batch.notices);
        batch.tell(Ok(()));
    }

    /// Nothing of the batch is known to be durable: everybody in it is refused, and nobody is admitted before the book was
    /// rebuilt from what is.
    fn fail(&mut self, mut batch: Batch, error: &StoreError) {
        let why = unavailable(error);
        let endings = std::mem::take(&mut batch.endings);
        endings.into_iter().for_each(|ending| self.keep(ending));
        self.doubtful.extend(batch.writes.iter().filter_map(doubtful));
        batch.tell(Err(&why));
        for waiter in self.desk.waiting.take() {
            waiter.admit.giver.give(Err(why.clone().into()));
        }
        self.down = Some(Down { why, retry: Instant::now() + Duration::from_millis(RETRY_MS) });
    }

    /// Tries the store again, if it is time.
    fn recover(&mut self, batch: &mut Batch) {
        if self.down.as_ref().is_some_and(|down| down.retry > Instant::now()) {
            return;
        }
        match self.store.recover().and_then(|()| self.store.load()) {
            Ok(loaded) => {
                self.desk.rebuild(loaded);
                self.down = None;
                // What fails again stays in doubt: it stands in no batch that succeeded.
                for id in std::mem::take(&mut self.doubtful) {
                    self.desk.withdraw(id, batch);
                }
                self.settle_kept(batch);
            }
            Err(error) => {
                let retry = Instant::now() + Duration::from_millis(RETRY_MS);
                self.down = Some(Down { why: unavailable(&error), retry });
            }
        }
    }

    fn keep(&mut self, kept: Kept) {
        if self.kept.len() < KEPT_MAX {
            self.kept.push_back(kept);
        }
    }

    /// What was spent while the store failed.
    fn settle_kept(&mut self, batch: &mut Batch) {
        while let Some(kept) = self.kept.pop_front() {
            let (owner, id, ending) = kept;
            if self.desk.settle(owner, id, ending, &mut *self.store, batch).is_err() {
                // It fails again: the commit will say so.
                self.kept.push_front(kept);
                return;
            }
            batch.endings.push(kept);
        }
    }

    /// Carries out one question. An error is the store's, and ends the batch.
    fn command(&mut self, command: Command, batch: &mut Batch) -> Result<(), StoreError> {
        let desk = &mut self.desk;
        match command {
            Command::Hello { owner, set, meters, done } => {
                let answer = desk.hello(owner, *set, meters, batch);
                batch.answer(done, answer);
            }
            Command::Admit(admit) => desk.admit(*admit, &mut *self.store, batch.now_ms)?,
            Command::Dispatch { owner, id, done } => {
                let answer = desk.dispatch(owner, id, batch);
                batch.answer(done, answer);
            }
            Command::Extend { owner, id, output, done } => {
                let answer = desk.extend(owner, id, output, batch);
                batch.answer(done, answer);
            }
            Command::Settle { owner, id, ending, done } => {
                batch.endings.push((owner, id, ending));
                let answer = match desk.settle(owner, id, ending, &mut *self.store, batch) {
                    Ok(answer) => answer,
                    Err(error) => {
                        done.give(Err(unavailable(&error).into()));
                        return Err(error);
                    }
                };
                batch.answer(done, answer);
            }
            Command::Release { owner, id, done } => done.give(desk.release(owner, id)),
            Command::OwnerGone { owner, done } => {
                let gone = desk.owner_gone(owner, batch);
                batch.answer(done, Ok(gone));
            }
            Command::SetCap { key, edit, done } => {
                let answer = desk.set_cap(key, edit, batch);
                batch.answer(done, answer);
            }
            Command::UnsetCap { key, done } => {
                let was_set = desk.unset_cap(key, batch);
                batch.answer(done, Ok(was_set));
            }
            Command::TopUp { key, amount, done } => {
                let answer = desk.top_up(key, amount, batch);
                batch.answer(done, answer);
            }
            Command::Event { event, done } => {
                batch.event(*event);
                batch.answer(done, Ok(()));
            }
            Command::Owners { done } => done.give(Ok(desk.owners())),
            Command::Crossings { done } => done.give(Ok(desk.crossings(batch.now_ms))),
            Command::Snapshot { foreseen, done } => done.give(Ok(desk.snapshot(&foreseen, batch.now_ms))),
            Command::Unprojected { limit, done } => answered(done, self.store.unprojected_events(limit))?,
            Command::Projected { up_to, done } => answered(done, self.store.mark_projected(up_to))?,
            Command::Look => {}
            // Taken out before.
            Command::Close { done } => done.give(Err(closed())),
        }
        Ok(())
    }

    /// Refuses one question because of the store. How it stands can be looked at all the same.
    fn refuse(&mut self, command: Command, why: &Unavailable, now_ms: u64) {
        match command {
            Command::Settle { owner, id, ending, done } => {
                self.keep((owner, id, ending));
                done.give(Err(why.clone().into()));
            }
            Command::Snapshot { foreseen, done } => {
                let snapshot = self.desk.snapshot(&foreseen, now_ms);
                done.give(Ok(LedgerSnapshot { failing: Some(why.0.clone()), ..snapshot }));
            }
            Command::Crossings { done } => done.give(Ok(self.desk.crossings(now_ms))),
            Command::Admit(admit) => admit.giver.give(Err(why.clone().into())),
            Command::Dispatch { done, .. } | Command::Release { done, .. } => done.give(Err(why.clone().into())),
            Command::Extend { done, .. } => done.give(Err(why.clone().into())),
            Command::Hello { done, .. }
            | Command::SetCap { done, .. }
            | Command::TopUp { done, .. }
            | Command::Event { done, .. }
            | Command::Projected { done, .. }
            | Command::Close { done } => done.give(Err(why.clone())),
            Command::OwnerGone { done, .. } => done.give(Err(why.clone())),
            Command::UnsetCap { done, .. } => done.give(Err(why.clone())),
            Command::Owners { done } => done.give(Err(why.clone())),
            Command::Unprojected { done, .. } => done.give(Err(why.clone())),
            Command::Look => {}
        }
    }
}

/// A dispatch, and one that was to be taken back.
fn doubtful(write: &Write) -> Option<ReservationId> {
    match write {
        Write::Dispatched(reservation) => Some(reservation.id),
        Write::Withdrawn(id) => Some(*id),
        Write::Owner { .. }
        | Write::OwnerEnded(_)
        | Write::Extended { .. }
        | Write::Spent { .. }
        | Write::CapSet { .. }
        | Write::CapUnset(_)
        | Write::TopUp { .. }
        | Write::Marked(_)
        | Write::Unmarked(_)
        | Write::Event { .. } => None,
    }
}

fn answered<T>(done: Done<T>, answer: Result<T, StoreError>) -> Result<(), StoreError> {
    match answer {
        Ok(answer) => done.give(Ok(answer)),
        Err(error) => {
            done.give(Err(unavailable(&error)));
            return Err(error);
        }
    }
    Ok(())
}

fn unavailable(error: &StoreError) -> Unavailable {
    Unavailable(format!("the ledger cannot write, and nothing metered passes until it can: {error}"))
}

fn lost(endings: usize) -> Unavailable {
    Unavailable(format!(
        "{endings} requests ended while the ledger could not write; all that was held for them is charged at the next start"
    ))
}
