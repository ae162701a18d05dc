//! Who holds what, and for how long: an owner is a supervisor's process with a run, and has a lease for as long as it says
//! that it is there.
//!
//! ```text
//!              ┌── connected ◄──┐ comes back within the lease
//!  Hello ──────┤                │
//!              └── away ────────┴── the lease is over, or its process has ended ──► gone: told to the ledger, once
//! ```
//!
//! *Must never* tell the ledger that an owner is gone while its connection may still dispatch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carboy_core::ports::Later;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::process::{EndOf, Process};

/// How long an owner may say nothing.
pub const LEASE: Duration = Duration::from_secs(30);
/// Most owners whose lapse is remembered until they come back.
const LAPSED_MAX: usize = 4_096;

/// A supervisor and its run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The supervisor.
    pub process: Process,
    /// What it supervises.
    pub run: String,
}

/// Why an owner is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Its process has ended.
    Ended,
    /// It lives, and said nothing for longer than its lease.
    Lapsed,
}

/// Whoever ends what a gone owner held.
pub trait Undertaker: Send + Sync + 'static {
    /// Its open holds are released, its dispatched ones charged. Ready when that is durable, or kept to be done again.
    fn bury(&self, number: u64, owner: &Owner, why: Gone) -> Later<'_, ()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Connected,
    Away { since: Instant },
}

struct Lease {
    number: u64,
    presence: watch::Sender<Presence>,
    /// Of the connection that counts; an older one of the same owner has no say.
    generation: u64,
}

#[derive(Default)]
struct Book {
    leases: BTreeMap<Owner, Lease>,
    lapsed: BTreeSet<Owner>,
    generations: u64,
}

/// Every lease of a controller.
pub struct Leases {
    book: Mutex<Book>,
    undertaker: Arc<dyn Undertaker>,
    lease: Duration,
    /// How many owners are connected.
    connected: watch::Sender<usize>,
}

/// A connection's part in its owner's lease; dropped, the owner is away.
pub struct Attendance {
    leases: Arc<Leases>,
    owner: Owner,
    /// What the ledger knows the owner by.
    pub number: u64,
    /// It was away for longer than its lease before.
    pub lapsed: bool,
    generation: u64,
    presence: watch::Receiver<Presence>,
    heard: Mutex<Instant>,
}

/// An owner's process that has ended already, or a number that is nobody's.
#[derive(Debug, thiserror::Error)]
#[error("process {0} has ended")]
pub struct NoSuchProcess(pub u32);

impl Leases {
    /// With nobody in it. `lease` is [`LEASE`], shorter in tests.
    pub fn new(undertaker: Arc<dyn Undertaker>, lease: Duration) -> Arc<Leases> {
        let (connected, _) = watch::channel(0);
        Arc::new(Leases { book: Mutex::default(), undertaker, lease, connected })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Whole at every step.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many owners are connected, as it changes.
    pub fn connected(&self) -> watch::Receiver<usize> {
        self.connected.subscribe()
    }

    /// An owner that the ledger knows from before: it has a lease's time to come back, if it lives.
    pub async fn remember(self: &Arc<Leases>, owner: Owner, number: u64) {
        match owner.process.end() {
            Some(end) => drop(self.enter(&owner, number, end, Presence::Away { since: Instant::now() })),
            None => self.undertaker.bury(number, &owner, Gone::Ended).await,
        }
    }

    /// An owner that has a lease is connected again.
    pub fn back(self: &Arc<Leases>, owner: &Owner) -> Option<Attendance> {
        let mut book = self.book();
        book.generations += 1;
        let generation = book.generations;
        let lease = book.leases.get_mut(owner)?;
        lease.generation = generation;
        // Also when it is what it was: whoever attended before hears that somebody else does.
        lease.presence.send_replace(Presence::Connected);
        let (number, presence) = (lease.number, lease.presence.subscribe());
        drop(book);
        self.count();
        Some(self.attendance(owner, number, presence, generation))
    }

    /// An owner without a lease is connected. `number` is new, and what the ledger knows it by.
    pub fn attend(self: &Arc<Leases>, owner: &Owner, number: u64) -> Result<Attendance, NoSuchProcess> {
        let end = owner.process.end().ok_or(NoSuchProcess(owner.process.pid))?;
        let (presence, generation) = self.enter(owner, number, end, Presence::Connected);
        self.count();
        Ok(self.attendance(owner, number, presence, generation))
    }

    fn attendance(
        self: &Arc<Leases>,
        owner: &Owner,
        number: u64,
        presence: watch::Receiver<Presence>,
        generation: u64,
    ) -> Attendance {
        let lapsed = self.book().lapsed.remove(owner);
        let (leases, heard) = (self.clone(), Mutex::new(Instant::now()));
        Attendance { leases, owner: owner.clone(), number, lapsed, generation, presence, heard }
    }

    fn enter(
        self: &Arc<Leases>,
        owner: &Owner,
        number: u64,
        end: EndOf,
        now: Presence,
    ) -> (watch::Receiver<Presence>, u64) {
        let (presence, mut seen) = watch::channel(now);
        let receiver = presence.subscribe();
        let mut book = self.book();
        book.generations += 1;
        let generation = book.generations;
        book.leases.insert(owner.clone(), Lease { number, presence, generation });
        drop(book);
        let (leases, owner) = (self.clone(), owner.clone());
        tokio::spawn(async move {
            let why = tokio::select! {
                () = end.come() => Gone::Ended,
                () = over(&mut seen, leases.lease) => Gone::Lapsed,
            };
            leases.gone(&owner, number, why).await;
        });
        (receiver, generation)
    }

    /// First it can dispatch no more, then the ledger hears of it.
    async fn gone(&self, owner: &Owner, number: u64, why: Gone) {
        {
            let mut book = self.book();
            // Dropping the sender ends its connection. Another one of the same owner has another number.
            book.leases.retain(|known, lease| known != owner || lease.number != number);
            if why == Gone::Lapsed {
                if book.lapsed.len() >= LAPSED_MAX {
                    book.lapsed.pop_first();
                }
                book.lapsed.insert(owner.clone());
            }
        }
        self.count();
        self.undertaker.bury(number, owner, why).await;
    }

    fn count(&self) {
        let connected = |lease: &&Lease| *lease.presence.borrow() == Presence::Connected;
        let count = self.book().leases.values().filter(connected).count();
        self.connected.send_replace(count);
    }
}

/// Ready when it has been away for a lease's time.
async fn over(presence: &mut watch::Receiver<Presence>, lease: Duration) {
    loop {
        let now = *presence.borrow_and_update();
        match now {
            Presence::Connected => {
                if presence.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Presence::Away { since } => tokio::select! {
                () = tokio::time::sleep_until(since + lease) => return,
                changed = presence.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
            },
        }
    }
}

impl Attendance {
    /// Whose it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// How long it may say nothing.
    pub fn lease(&self) -> Duration {
        self.leases.lease
    }

    /// It said something.
    pub fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Ready when the connection has to end: the owner is gone, or speaks over another one.
    pub async fn over(&self) {
        let mut presence = self.presence.clone();
        while presence.changed().await.is_ok() {
            let newest = self.leases.book().leases.get(&self.owner).map(|lease| lease.generation);
            if newest != Some(self.generation) {
                return;
            }
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        let book = self.leases.book();
        if let Some(lease) = book.leases.get(&self.owner).filter(|lease| lease.generation == self.generation) {
            let since = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            lease.presence.send_replace(Presence::Away { since });
        }
        drop(book);
        self.leases.count();
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use tokio::sync::mpsc;

    use super::*;

    struct Told(mpsc::UnboundedSender<(u64, Gone)>);

    impl Undertaker for Told {
        fn bury(&self, number: u64, _: &Owner, why: Gone) -> Later<'_, ()> {
            self.0.send((number, why)).unwrap();
            Box::pin(std::future::ready(()))
        }
    }

    fn leases(lease: Duration) -> (Arc<Leases>, mpsc::UnboundedReceiver<(u64, Gone)>) {
        let (told, buried) = mpsc::unbounded_channel();
        (Leases::new(Arc::new(Told(told)), lease), buried)
    }

    fn child() -> (Child, Owner) {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        (child, Owner { process, run: "r-1".into() })
    }

    fn own() -> Owner {
        Owner { process: Process::of(std::process::id()).unwrap(), run: "r-1".into() }
    }

    #[tokio::test]
    async fn an_owner_whose_process_ends_is_gone_at_once_and_its_connection_with_it() {
        let (leases, mut buried) = leases(LEASE);
        let (mut child, owner) = child();
        let attendance = leases.attend(&owner, 7).unwrap();
        assert_eq!(*leases.connected().borrow(), 1);
        child.kill().unwrap();
        attendance.over().await;
        assert_eq!(buried.recv().await, Some((7, Gone::Ended)));
        assert_eq!((leases.back(&owner).is_none(), *leases.connected().borrow()), (true, 0));
        child.wait().unwrap();
        assert!(leases.attend(&owner, 8).is_err());
    }

    #[tokio::test]
    async fn an_owner_that_stays_away_is_gone_after_its_lease_and_told_when_it_comes_back() {
        let (leases, mut buried) = leases(Duration::from_millis(30));
        let attendance = leases.attend(&own(), 1).unwrap();
        drop(attendance);
        assert_eq!(buried.recv().await, Some((1, Gone::Lapsed)));
        let back = leases.attend(&own(), 2).unwrap();
        assert!(back.lapsed && back.number == 2);
        drop(back);
        assert_eq!(buried.recv().await, Some((2, Gone::Lapsed)));
    }

    #[tokio::test]
    async fn an_owner_that_comes_back_in_time_is_the_same_one() {
        let (leases, mut buried) = leases(LEASE);
        let first = leases.attend(&own(), 1).unwrap();
        // It comes back before the old connection was noticed to be dead: that one has no say any more.
        let second = leases.back(&own()).unwrap();
        first.over().await;
        drop(first);
        assert!(!second.lapsed && second.number == 1);
        assert_eq!(*leases.connected().borrow(), 1);
        drop(second);
        assert_eq!(*leases.connected().borrow(), 0);
        assert_eq!(leases.back(&own()).map(|back| back.number), Some(1));
        assert!(buried.try_recv().is_err());
    }

    #[tokio::test]
    async fn of_the_owners_of_before_the_dead_are_buried_and_the_living_wait() {
        let (leases, mut buried) = leases(LEASE);
        let dead = Owner { process: Process { pid: 1 << 23, started: 1, boot: "b".into() }, run: "r-2".into() };
        leases.remember(dead, 3).await;
        leases.remember(own(), 4).await;
        assert_eq!(buried.recv().await, Some((3, Gone::Ended)));
        assert_eq!(leases.back(&own()).map(|back| back.number), Some(4));
        assert!(buried.try_recv().is_err());
    }
}
