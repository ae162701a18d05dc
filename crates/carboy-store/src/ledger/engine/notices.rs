//! What the ledger has to tell: caps that were crossed, thresholds, room again.
//!
//! *Must never* hold up the thread: a listener that does not keep up loses the oldest, and is told so.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use carboy_core::budget::{Binding, CapKey, Shutdown};

/// Most notices that wait for one listener.
pub const NOTICES_MAX: usize = 1_024;

/// A cap that an owner is bound by has nothing left for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// Who is bound.
    pub owner: u64,
    /// Its run.
    pub run: String,
    /// The cap.
    pub binding: Binding,
    /// What its terms say is to be done.
    pub action: Shutdown,
}

/// A part of a cap is spent at which the person wants to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Who is bound.
    pub owner: u64,
    /// Its run.
    pub run: String,
    /// The cap.
    pub binding: Binding,
    /// Which part, in percent.
    pub percent: u8,
}

/// One thing to act on. What it says is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A cap was crossed: its action is due.
    Crossing(Crossing),
    /// A threshold was passed: the person is told.
    Warning(Warning),
    /// A cap that had been crossed has room again, by an operator or a new window. Others may still be crossed.
    Restored {
        /// Who was bound.
        owner: u64,
        /// Its run.
        run: String,
        /// The cap.
        key: CapKey,
        /// Whether another cap of it is still crossed.
        still_crossed: bool,
    },
    /// Events were written that do not stand in the log yet.
    Recorded,
    /// The listener did not keep up: so many notices are lost. [`crossings`](super::Engine::crossings) tells how it stands.
    Missed(u64),
}

#[derive(Default)]
struct Pile {
    notices: VecDeque<Notice>,
    missed: u64,
    closed: bool,
    waker: Option<Waker>,
}

impl Pile {
    fn put(&mut self, notice: &Notice) {
        // One such hint says as much as many.
        if *notice == Notice::Recorded && self.notices.contains(notice) {
            return;
        }
        if self.notices.len() >= NOTICES_MAX {
            self.notices.pop_front();
            self.missed += 1;
        }
        self.notices.push_back(notice.clone());
    }

    fn take(&mut self) -> Option<Notice> {
        if self.missed > 0 {
            return Some(Notice::Missed(std::mem::take(&mut self.missed)));
        }
        self.notices.pop_front()
    }
}

fn open(pile: &Mutex<Pile>) -> MutexGuard<'_, Pile> {
    pile.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One listener's notices, in the order in which they happened.
pub struct Notices(Arc<Mutex<Pile>>);

impl Notices {
    /// The next one, if it is there.
    pub fn try_next(&mut self) -> Option<Notice> {
        open(&self.0).take()
    }

    /// Waits for the next one; `None` once the ledger is closed. Dropped while it waits, it loses nothing.
    pub fn wait(&mut self) -> Next<'_> {
        Next(self)
    }
}

/// See [`Notices::wait`].
pub struct Next<'a>(&'a mut Notices);

impl Future for Next<'_> {
    type Output = Option<Notice>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        let mut pile = open(&self.0.0);
        match pile.take() {
            Some(notice) => Poll::Ready(Some(notice)),
            None if pile.closed => Poll::Ready(None),
            None => {
                pile.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[derive(Default)]
struct Listeners {
    piles: Vec<Weak<Mutex<Pile>>>,
    closed: bool,
}

/// Everybody who listens.
#[derive(Clone, Default)]
pub(super) struct Subscribers(Arc<Mutex<Listeners>>);

impl Subscribers {
    pub(super) fn subscribe(&self) -> Notices {
        let mut all = self.listeners();
        let pile = Arc::new(Mutex::new(Pile { closed: all.closed, ..Pile::default() }));
        all.piles.retain(|pile| pile.strong_count() > 0);
        all.piles.push(Arc::downgrade(&pile));
        Notices(pile)
    }

    pub(super) fn tell(&self, notices: &[Notice]) {
        if !notices.is_empty() {
            self.each(|pile| notices.iter().for_each(|notice| pile.put(notice)));
        }
    }

    pub(super) fn close(&self) {
        self.listeners().closed = true;
        self.each(|pile| pile.closed = true);
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn each(&self, act: impl Fn(&mut Pile)) {
        let all = self.listeners().piles.clone();
        for pile in all.iter().filter_map(Weak::upgrade) {
            let waker = {
                let mut pile = open(&pile);
                act(&mut pile);
                pile.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
