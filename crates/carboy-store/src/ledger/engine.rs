//! The ledger's one thread, and the handle through which everybody talks to it.
//!
//! *Must never* hold a caller: every question is put into a bounded queue, and one that does not fit is refused.

mod adapter;
mod answers;
mod batch;
mod desk;
mod notices;
mod requests;
mod thread;
mod view;
mod waiting;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use carboy_core::audit::Event;
use carboy_core::budget::{
    Admitted, Amount, Ask, BudgetSet, CapEdit, CapKey, Ending, LedgerSnapshot, NotHeld, ReservationId,
};
use carboy_core::ids::MeterName;
use carboy_core::ports::{Clock, Later, Ledger};

use self::adapter::OwnLedger;
use self::answers::AdmitTicket;
use self::desk::Desk;
pub use self::notices::{Crossing, NOTICES_MAX, Notice, Notices, Warning};
use self::thread::Hands;
use super::port::{LedgerReader, LedgerStore, NumberedEvent, Owner};
use crate::StoreError;
use crate::ticket::{Giver, ticket};

/// Most questions that wait for the thread.
pub const COMMANDS_MAX: usize = 16_384;
/// Most questions of one batch.
pub const BATCH_COMMANDS_MAX: usize = 1_024;
/// Most bytes of particulars of one event: half of what a line of the log has room for.
pub const EVENT_BYTES_MAX: usize = crate::audit::EVENT_BYTES_MAX / 2;
/// Most requests that are held at once.
pub const HOLDS_MAX: usize = 65_536;
/// Most requests that wait for room at once.
pub const WAITING_MAX: usize = 4_096;
/// Of one owner: nobody fills the queue for the others, or stands before them a thousand times.
pub const WAITING_OF_OWNER_MAX: usize = 64;
/// Most owners that are not gone.
pub const OWNERS_MAX: usize = 4_096;
/// Most meters of one owner.
pub const METERS_MAX: usize = 64;
/// Longest time that a request waits for room whatever its terms say, in milliseconds.
pub const HOLD_WAIT_MS_MAX: u64 = 600_000;

/// The ledger cannot be asked: its store cannot write, its queue is full, or it was closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

impl From<Unavailable> for NotHeld {
    fn from(Unavailable(why): Unavailable) -> NotHeld {
        NotHeld::Unavailable(why)
    }
}

/// A process that the ledger knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownOwner {
    /// Who.
    pub owner: Owner,
    /// Whether it said hello since the ledger was opened; else it is known from the store.
    pub greeted: bool,
    /// Requests of it that may have been sent.
    pub dispatched: u64,
    /// And those that were not.
    pub open: u64,
}

/// What was left of an owner that is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Requests that may have been sent: all that was held for them was charged.
    pub charged: u64,
    /// And those that were not.
    pub released: u64,
}

/// The ledger. A clone is the same one; the thread ends with the last of them.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    reader: Arc<dyn LedgerReader>,
    notices: notices::Subscribers,
}

/// What the handles, the tickets and the thread share.
struct Shared {
    commands: SyncSender<Command>,
    /// Admissions whose asker went away before the answer.
    abandoned: Mutex<Vec<(ReservationId, u64)>>,
    asked: AtomicU64,
}

impl Shared {
    fn abandoned(&self) -> MutexGuard<'_, Vec<(ReservationId, u64)>> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asked, and where the answer goes.
struct Admit {
    owner: u64,
    ask: Ask,
    /// Tells this asking from another one under the same name.
    asked: u64,
    giver: Giver<Result<Admitted, NotHeld>>,
}

type Done<T> = Giver<Result<T, Unavailable>>;

/// What the thread is asked.
enum Command {
    Hello {
        owner: Owner,
        set: Box<BudgetSet>,
        meters: Vec<MeterName>,
        done: Done<()>,
    },
    Admit(Box<Admit>),
    Dispatch {
        owner: u64,
        id: ReservationId,
        done: Giver<Result<(), NotHeld>>,
    },
    Extend {
        owner: u64,
        id: ReservationId,
        output: u64,
        done: Giver<Result<u64, NotHeld>>,
    },
    Settle {
        owner: u64,
        id: ReservationId,
        ending: Ending,
        done: Giver<Result<(), NotHeld>>,
    },
    Release {
        owner: u64,
        id: ReservationId,
        done: Giver<Result<(), NotHeld>>,
    },
    OwnerGone {
        owner: u64,
        done: Done<Gone>,
    },
    SetCap {
        key: CapKey,
        edit: CapEdit,
        done: Done<()>,
    },
    UnsetCap {
        key: CapKey,
        done: Done<bool>,
    },
    TopUp {
        key: CapKey,
        amount: Amount,
        done: Done<()>,
    },
    Event {
        event: Box<Event>,
        done: Done<()>,
    },
    Owners {
        done: Done<Vec<KnownOwner>>,
    },
    Crossings {
        done: Done<Vec<Crossing>>,
    },
    Snapshot {
        foreseen: Vec<BudgetSet>,
        done: Done<LedgerSnapshot>,
    },
    Unprojected {
        limit: usize,
        done: Done<Vec<NumberedEvent>>,
    },
    Projected {
        up_to: u64,
        done: Done<()>,
    },
    /// Somebody went away: look at once.
    Look,
    Close {
        done: Done<()>,
    },
}

fn closed() -> Unavailable {
    Unavailable("the ledger was closed; the next run, or `carboy budget show`, opens it again".to_owned())
}

impl Engine {
    /// Rebuilds the book from the store and starts the thread.
    pub fn open(mut store: Box<dyn LedgerStore>, clock: Arc<dyn Clock>) -> Result<Engine, StoreError> {
        let desk = Desk::new(store.load()?);
        let (commands, inbox) = sync_channel(COMMANDS_MAX);
        let shared = Arc::new(Shared { commands, abandoned: Mutex::default(), asked: AtomicU64::new(0) });
        let (reader, notices) = (store.reader(), notices::Subscribers::default());
        let hands = Hands::new(store, desk, clock.clone(), inbox, &shared, notices.clone());
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || hands.work());
        thread.map_err(|source| StoreError::Thread { what: "ledger", source })?;
        Ok(Engine { shared, clock, reader, notices })
    }

    fn ask<T, E>(&self, command: impl FnOnce(Giver<Result<T, E>>) -> Command) -> Later<'static, Result<T, E>>
    where
        T: Send + 'static,
        E: From<Unavailable> + Send + 'static,
    {
        let (giver, ticket) = ticket(Err(closed().into()));
        match self.send(command(giver)) {
            Ok(()) => Box::pin(ticket),
            Err(refused) => Box::pin(std::future::ready(Err(refused.into()))),
        }
    }

    fn send(&self, command: Command) -> Result<(), Unavailable> {
        self.shared.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => Unavailable(format!(
                "{COMMANDS_MAX} questions wait for the ledger, and its disk does not keep up; try again"
            )),
            TrySendError::Disconnected(_) => closed(),
        })
    }

    /// Says who an owner is and which budgets bind it; again after a reconnection, and when its files changed. What it holds
    /// stays. Ready when durable.
    pub fn hello(
        &self,
        owner: Owner,
        set: BudgetSet,
        meters: Vec<MeterName>,
    ) -> Later<'static, Result<(), Unavailable>> {
        self.ask(|done| Command::Hello { owner, set: Box::new(set), meters, done })
    }

    /// Holds a request's worst case, or says why not. While only what others hold is in the way it waits: first in, first
    /// out among those that wait for the same cap. Dropped before it is ready, it leaves the queue and holds nothing.
    pub fn admit(&self, owner: u64, ask: Ask) -> Later<'static, Result<Admitted, NotHeld>> {
        let asked = self.shared.asked.fetch_add(1, Ordering::Relaxed);
        let (giver, ticket) = ticket(Err(closed().into()));
        let ticket = AdmitTicket::new(ticket, Arc::downgrade(&self.shared), ask.id, asked);
        match self.send(Command::Admit(Box::new(Admit { owner, ask, asked, giver }))) {
            Ok(()) => Box::pin(ticket),
            Err(refused) => Box::pin(std::future::ready(Err(refused.into()))),
        }
    }

    /// From now on the request may have been sent. Ready when durable.
    pub fn dispatch(&self, owner: u64, id: ReservationId) -> Later<'static, Result<(), NotHeld>> {
        self.ask(|done| Command::Dispatch { owner, id, done })
    }

    /// Holds the output up to so many tokens of each answer; gives how many are held. Ready when durable.
    pub fn extend(&self, owner: u64, id: ReservationId, output: u64) -> Later<'static, Result<u64, NotHeld>> {
        self.ask(|done| Command::Extend { owner, id, output, done })
    }

    /// Charges a request. Ready when durable; the same ending twice is charged once. An ending that meets a store that
    /// cannot write is refused, kept, and charged once it can; asking again does no harm.
    pub fn settle(&self, owner: u64, id: ReservationId, ending: Ending) -> Later<'static, Result<(), NotHeld>> {
        self.ask(|done| Command::Settle { owner, id, ending, done })
    }

    /// Gives back what is held for a request of which not one byte left.
    pub fn release(&self, owner: u64, id: ReservationId) -> Later<'static, Result<(), NotHeld>> {
        self.ask(|done| Command::Release { owner, id, done })
    }

    /// An owner is gone: what it may have sent is charged in full, the rest is given back. Ready when durable.
    pub fn owner_gone(&self, owner: u64) -> Later<'static, Result<Gone, Unavailable>> {
        self.ask(|done| Command::OwnerGone { owner, done })
    }

    /// Every owner that is not gone, those included that are known from the store only.
    pub fn owners(&self) -> Later<'static, Result<Vec<KnownOwner>, Unavailable>> {
        self.ask(|done| Command::Owners { done })
    }

    /// Sets a cap over what the files say. Ready when durable; what was spent stays spent.
    pub fn set_cap(&self, key: CapKey, edit: CapEdit) -> Later<'static, Result<(), Unavailable>> {
        self.ask(|done| Command::SetCap { key, edit, done })
    }

    /// What the files say holds again; gives whether something else did.
    pub fn unset_cap(&self, key: CapKey) -> Later<'static, Result<bool, Unavailable>> {
        self.ask(|done| Command::UnsetCap { key, done })
    }

    /// Gives an amount on top of a cap, in its present window.
    pub fn top_up(&self, key: CapKey, amount: Amount) -> Later<'static, Result<(), Unavailable>> {
        self.ask(|done| Command::TopUp { key, amount, done })
    }

    /// Writes an event of the controller into the same table as the ledger's own. Ready when durable.
    pub fn event(&self, event: Event) -> Later<'static, Result<(), Unavailable>> {
        let bytes: usize =
            event.details.iter().map(|(name, value)| name.len() + value.as_json().to_string().len()).sum();
        if bytes > EVENT_BYTES_MAX {
            let words =
                format!("the event's particulars take {bytes} bytes, more than {EVENT_BYTES_MAX}; shorten them");
            return Box::pin(std::future::ready(Err(Unavailable(words))));
        }
        self.ask(|done| Command::Event { event: Box::new(event), done })
    }

    /// The oldest events that do not stand in the log yet. A number may come again after a crash between the log and
    /// [`mark_projected`](Self::mark_projected): the log's own last number tells.
    pub fn unprojected_events(&self, limit: usize) -> Later<'static, Result<Vec<NumberedEvent>, Unavailable>> {
        self.ask(|done| Command::Unprojected { limit, done })
    }

    /// Events up to this number stand in the log.
    pub fn mark_projected(&self, up_to: u64) -> Later<'static, Result<(), Unavailable>> {
        self.ask(|done| Command::Projected { up_to, done })
    }

    /// How everything stands now.
    pub fn snapshot(&self) -> Later<'static, Result<LedgerSnapshot, Unavailable>> {
        self.foreseen(Vec::new())
    }

    /// The same, and in it the caps that files say and no client has brought yet.
    pub fn foreseen(&self, foreseen: Vec<BudgetSet>) -> Later<'static, Result<LedgerSnapshot, Unavailable>> {
        self.ask(|done| Command::Snapshot { foreseen, done })
    }

    /// What is crossed now, for whoever missed a notice.
    pub fn crossings(&self) -> Later<'static, Result<Vec<Crossing>, Unavailable>> {
        self.ask(|done| Command::Crossings { done })
    }

    /// What happens from now on, to be acted on.
    pub fn events(&self) -> Notices {
        self.notices.subscribe()
    }

    /// Questions about what was spent. They read the store in the caller's thread, which is held meanwhile.
    pub fn reader(&self) -> Arc<dyn LedgerReader> {
        self.reader.clone()
    }

    /// The time by which the ledger books.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The ledger as one owner sees it, in this process.
    pub fn ledger(&self, owner: u64) -> Arc<dyn Ledger> {
        Arc::new(OwnLedger::new(self.clone(), owner))
    }

    /// Carries out what was asked before and ends the thread; the store is free for others then.
    pub fn close(&self) -> Later<'static, Result<(), Unavailable>> {
        self.ask(|done| Command::Close { done })
    }
}
