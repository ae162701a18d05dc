//! The one writer of a process: a bounded queue, a thread, and batches.
//!
//! What is acknowledged by `append` stays until it is written; what is acknowledged by `append_durable` is written. While
//! a write has failed nothing is acknowledged any more (fail closed): the thread keeps what it holds and tries again, and
//! the first batch that succeeds carries an event that says how long, why, and how many events were refused.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use carboy_core::audit::{ChainHead, ChainKey, Event, EventType, Outcome, Subject};
use carboy_core::ports::{AuditError, AuditSink, Clock, Later};

use super::file::{LOCK_WAIT_MS, LogFile};
use super::time::rfc3339;
use crate::StoreError;
use crate::ticket::{self, ticket};

/// Whoever waits for an event to be durable.
type Giver = ticket::Giver<Result<(), AuditError>>;

/// Most events of one batch.
pub const BATCH_EVENTS_MAX: usize = 1_000;
/// Longest wait of an event for company, in milliseconds: half of the promised 100, the rest is for lock and disk.
pub const GATHER_MS_MAX: u64 = 50;
/// Most events that wait to be written.
pub const QUEUE_EVENTS_MAX: usize = 16_384;
/// Most bytes of particulars of one event, as JSON; a line has room for them and the chain's own fields.
pub const EVENT_BYTES_MAX: usize = 48 * 1024;
/// Most bytes of particulars of one batch.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most bytes of particulars that wait to be written.
const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest time that an append waits for room in the queue, in milliseconds.
const ROOM_WAIT_MS: u64 = 100;
/// Pause before a failed write is tried again, in milliseconds.
const RETRY_MS: u64 = 50;
/// How long closing goes on trying, in milliseconds.
const CLOSE_WAIT_MS: u64 = 2_000;
/// Pause of a writer that has more to write, in microseconds: other processes get the lock.
const COURTESY_US: u64 = 400;

/// The audit log of this process; other processes may write the same file.
///
/// [`AuditLog::close`] says whether everything was written; dropping tries the same and says nothing.
pub struct AuditLog {
    shared: Arc<Shared>,
    path: PathBuf,
}

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Something to do for the thread.
    work: Condvar,
    /// Something was done by the thread.
    done: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Pending>,
    queue_bytes: usize,
    /// How many in the queue are waited for.
    urgent: usize,
    failing: Option<Failure>,
    /// Set by `close`: until when to go on trying.
    closing: Option<Instant>,
    /// The thread is gone, leaving so many acknowledged events behind.
    ended: Option<usize>,
    head: ChainHead,
}

struct Failure {
    cause: String,
    since_ms: u64,
    refused: u64,
}

struct Pending {
    at_ms: u64,
    queued: Instant,
    event: Event,
    bytes: usize,
    giver: Option<Giver>,
}

impl AuditLog {
    /// Opens the log at `path`, creating it (0600) and its directory (0700) where missing, and starts the writer. Refuses
    /// links, files and directories that others can write, and a log whose end does not verify under `key`.
    pub fn open(path: &Path, key: ChainKey, clock: Arc<dyn Clock>) -> Result<AuditLog, StoreError> {
        let file = LogFile::open(path, key, clock.now_ms())?;
        let state = Mutex::new(State { head: file.head().clone(), ..State::default() });
        let shared = Arc::new(Shared { clock, state, work: Condvar::new(), done: Condvar::new() });
        let hands = Hands { shared: shared.clone(), held: Vec::new() };
        let writer = thread::Builder::new().name("audit-writer".into()).spawn(move || write_on(file, hands));
        writer.map_err(StoreError::io("start the writer of", path))?;
        Ok(AuditLog { shared, path: path.to_owned() })
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The head after the last batch of this process: worth keeping elsewhere.
    pub fn head(&self) -> ChainHead {
        self.shared.state().head.clone()
    }

    /// Writes what waits and ends the writer; afterwards every append is refused. Tries for two seconds where the disk
    /// refuses; the error then says how many acknowledged events are lost.
    pub fn close(&self) -> Result<(), StoreError> {
        // The thread's waits are bounded: its last try, which may wait for the lock, and its pause.
        const JOIN_MS: u64 = CLOSE_WAIT_MS + 2 * LOCK_WAIT_MS + RETRY_MS;
        let mut state = self.shared.state();
        state.closing.get_or_insert_with(|| Instant::now() + Duration::from_millis(CLOSE_WAIT_MS));
        self.shared.work.notify_all();
        let deadline = Instant::now() + Duration::from_millis(JOIN_MS);
        while state.ended.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Busy { path: self.path.clone(), wait_ms: JOIN_MS });
            }
            state = wait(&self.shared.done, state, left);
        }
        match (state.ended, &state.failing) {
            (Some(events), failing) if events > 0 => {
                let cause = failing.as_ref().map_or_else(|| "the writer broke off".to_owned(), |f| f.cause.clone());
                Err(StoreError::Unwritten { events, cause })
            }
            (Some(_) | None, _) => Ok(()),
        }
    }

    fn enqueue(&self, event: Event, giver: Option<Giver>) -> Result<(), StoreError> {
        let bytes = event_bytes(&event);
        if bytes > EVENT_BYTES_MAX {
            return Err(StoreError::EventTooLarge { bytes, bytes_max: EVENT_BYTES_MAX });
        }
        let deadline = Instant::now() + Duration::from_millis(ROOM_WAIT_MS);
        let mut state = self.shared.state();
        loop {
            if state.closing.is_some() || state.ended.is_some() {
                return Err(StoreError::Closed);
            }
            if let Some(failure) = &mut state.failing {
                failure.refused += 1;
                return Err(StoreError::Failing { cause: failure.cause.clone() });
            }
            if state.queue.len() < QUEUE_EVENTS_MAX && state.queue_bytes + bytes <= QUEUE_BYTES_MAX {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::QueueFull { events: state.queue.len() });
            }
            state = wait(&self.shared.done, state, left);
        }
        state.queue_bytes += bytes;
        state.urgent += usize::from(giver.is_some());
        let wakes = giver.is_some() || state.queue.is_empty() || state.queue.len() + 1 >= BATCH_EVENTS_MAX;
        // Under the lock, so that the times of one process stand in order.
        let at_ms = self.shared.clock.now_ms();
        state.queue.push_back(Pending { at_ms, queued: Instant::now(), event, bytes, giver });
        if wakes {
            self.shared.work.notify_one();
        }
        Ok(())
    }
}

impl AuditSink for AuditLog {
    /// Takes the event into this process's order; where the queue is full, holds the caller for at most 100 ms.
    fn append(&self, event: Event) -> Result<(), AuditError> {
        Ok(self.enqueue(event, None)?)
    }

    /// Ready when the batch with the event is on disk. An error means that the event is not in the log.
    fn append_durable(&self, event: Event) -> Later<'_, Result<(), AuditError>> {
        let (giver, ticket) = ticket(Err(StoreError::Closed.into()));
        match self.enqueue(event, Some(giver)) {
            Ok(()) => Box::pin(ticket),
            Err(error) => Box::pin(std::future::ready(Err(error.into()))),
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        // Whoever wants to know calls `close` before.
        let _ = self.close();
    }
}

/// The event's own text as JSON, in bytes.
fn event_bytes(event: &Event) -> usize {
    let text = |value: &str| value.len() + 16;
    let Subject { user_id, agent, bottle, run } = &event.subject;
    let subject: usize = [user_id, agent, bottle, run].into_iter().flatten().map(|value| 6 * text(value)).sum();
    let details: usize = event.details.iter().map(|(name, value)| text(name) + value.as_json().to_string().len()).sum();
    subject + details
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
    condition.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes of the state that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; none when the log is closed and everything is written.
    fn gather(&self) -> Option<Vec<Pending>> {
        let mut state = self.state();
        loop {
            let waited = state.queue.front().map(|first| first.queued.elapsed());
            state = match waited {
                None if state.closing.is_some() => return None,
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(waited) => {
                    let left = Duration::from_millis(GATHER_MS_MAX).saturating_sub(waited);
                    let full = state.queue.len() >= BATCH_EVENTS_MAX || state.queue_bytes >= BATCH_BYTES_MAX;
                    if left.is_zero() || full || state.urgent > 0 || state.closing.is_some() {
                        break;
                    }
                    wait(&self.work, state, left)
                }
            };
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
            let Some(pending) = state.queue.pop_front() else { break };
            bytes += pending.bytes;
            state.urgent -= usize::from(pending.giver.is_some());
            batch.push(pending);
        }
        state.queue_bytes -= bytes;
        self.done.notify_all();
        Some(batch)
    }

    /// Notes a failed write. Whoever waits for the disk is told, and what he wanted recorded did not happen; what was
    /// acknowledged stays.
    fn fail(&self, error: StoreError, held: &mut Vec<Pending>) {
        let mut state = self.state();
        let mut told: Vec<Giver> = held.extract_if(.., |p| p.giver.is_some()).filter_map(|p| p.giver).collect();
        let (urgent, rest) = state.queue.drain(..).partition::<Vec<_>, _>(|p| p.giver.is_some());
        state.queue_bytes -= urgent.iter().map(|p| p.bytes).sum::<usize>();
        state.urgent = 0;
        state.queue = rest.into();
        told.extend(urgent.into_iter().filter_map(|p| p.giver));
        let error = AuditError::from(error);
        let since_ms = self.clock.now_ms();
        let failure = state.failing.get_or_insert_with(|| Failure { cause: String::new(), since_ms, refused: 0 });
        failure.cause.clone_from(&error.0);
        failure.refused += told.len() as u64;
        drop(state);
        for giver in told {
            giver.give(Err(error.clone()));
        }
    }

    /// The event that stands for the time without a log.
    fn gap(&self) -> Option<(u64, Event)> {
        let state = self.state();
        let failure = state.failing.as_ref()?;
        let event = Event::new(EventType::Security, Subject::default(), "log_gap", Outcome::Failed)
            .with("since", rfc3339(failure.since_ms))
            .with("refused", failure.refused)
            .with("cause", failure.cause.chars().take(1_000).collect::<String>());
        Some((self.clock.now_ms(), event))
    }
}

/// What the thread holds. When it goes, also in a panic, nobody may go on believing that his events are written.
struct Hands {
    shared: Arc<Shared>,
    /// Taken from the queue and not yet written.
    held: Vec<Pending>,
}

impl Drop for Hands {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let queue = std::mem::take(&mut state.queue);
        state.ended = Some(queue.iter().chain(&self.held).filter(|p| p.giver.is_none()).count());
        drop(state);
        // The givers in it answer on their way out.
        drop(queue);
        self.shared.done.notify_all();
    }
}

/// The thread: batch after batch until the log is closed.
fn write_on(mut file: LogFile, mut hands: Hands) {
    let shared = hands.shared.clone();
    loop {
        let gap = shared.gap();
        if hands.held.is_empty() && gap.is_none() {
            match shared.gather() {
                Some(batch) => hands.held = batch,
                None => return,
            }
        }
        let events = hands.held.iter().map(|p| (p.at_ms, p.event.clone())).chain(gap);
        match file.commit(events, shared.clock.now_ms()) {
            Ok(()) => {
                let mut state = shared.state();
                state.head = file.head().clone();
                state.failing = None;
                let more = !state.queue.is_empty();
                drop(state);
                hands.held.drain(..).filter_map(|p| p.giver).for_each(|giver| giver.give(Ok(())));
                if more {
                    thread::sleep(Duration::from_micros(COURTESY_US));
                }
            }
            Err(error) => {
                shared.fail(error, &mut hands.held);
                let state = shared.state();
                if state.closing.is_some_and(|deadline| Instant::now() >= deadline) {
                    return;
                }
                drop(wait(&shared.work, state, Duration::from_millis(RETRY_MS)));
            }
        }
    }
}
