//! Requests that wait for what others hold.
//!
//! *Must never* let one overtake another that shares a cap with it.

use std::collections::BTreeSet;
use std::time::Instant;

use carboy_core::budget::{Binding, CapKey, ReservationId};

use super::Admit;

/// One request, and the caps that bound it when it came.
pub(super) struct Waiter {
    pub(super) admit: Admit,
    pub(super) keys: BTreeSet<CapKey>,
    pub(super) deadline: Instant,
    /// What was in its way the last time.
    pub(super) binding: Binding,
}

/// The queue, in order of arrival.
#[derive(Default)]
pub(super) struct Waiting(Vec<Waiter>);

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many of them are this owner's.
    pub(super) fn count(&self, owner: u64) -> usize {
        self.0.iter().filter(|waiter| waiter.admit.owner == owner).count()
    }

    /// How many of them share a cap with these.
    pub(super) fn sharing(&self, keys: &BTreeSet<CapKey>) -> u32 {
        sharing(self.0.iter(), keys)
    }

    /// The first of those.
    pub(super) fn first_sharing(&self, keys: &BTreeSet<CapKey>) -> Option<&Waiter> {
        self.0.iter().find(|waiter| !waiter.keys.is_disjoint(keys))
    }

    /// Puts one at the end.
    pub(super) fn push(&mut self, waiter: Waiter) {
        self.0.push(waiter);
    }

    /// All of them, in their order.
    pub(super) fn take(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.0)
    }

    /// Takes out those that nobody waits for any more, or whose owner is gone.
    pub(super) fn drop_gone(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain(|waiter| waiter.admit.giver.is_waited_for());
        self.0.len() < before
    }

    /// Takes out those whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Waiter> {
        self.0.extract_if(.., |waiter| waiter.deadline <= now).collect()
    }

    /// Takes out those of an owner.
    pub(super) fn of(&mut self, owner: u64) -> Vec<Waiter> {
        self.0.extract_if(.., |waiter| waiter.admit.owner == owner).collect()
    }

    /// The one of that name.
    pub(super) fn named(&mut self, owner: u64, id: ReservationId) -> Option<&mut Waiter> {
        self.0.iter_mut().find(|waiter| waiter.admit.owner == owner && waiter.admit.ask.id == id)
    }

    /// When the next one's time is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.iter().map(|waiter| waiter.deadline).min()
    }
}

/// How many of these share a cap with `keys`.
pub(super) fn sharing<'a>(waiters: impl Iterator<Item = &'a Waiter>, keys: &BTreeSet<CapKey>) -> u32 {
    let shares = waiters.filter(|waiter| !waiter.keys.is_disjoint(keys)).count();
    u32::try_from(shares).unwrap_or(u32::MAX)
}
