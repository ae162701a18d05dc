//! Requests that wait for what others hold.
//!
//! *Must never* let one overtake another that waits for a cap which it needs, or have it wait at a cap that has room for both:
//! a bottle whose own cap is full would stand in the way of every other one at the host's.

use std::collections::BTreeSet;
use std::time::Instant;

use carboy_core::budget::{Binding, CapKey, ReservationId};

use super::Admit;

/// One request, and what it waits for.
pub(super) struct Waiter {
    pub(super) admit: Admit,
    /// The caps of its own that had no room for it the last time, or at which others stood before it.
    pub(super) waits_for: BTreeSet<CapKey>,
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

    /// How many of them wait for one of these.
    pub(super) fn sharing(&self, keys: &BTreeSet<CapKey>) -> u32 {
        sharing(self.0.iter(), keys)
    }

    /// The first of those.
    pub(super) fn first_sharing(&self, keys: &BTreeSet<CapKey>) -> Option<&Waiter> {
        self.0.iter().find(|waiter| !waiter.waits_for.is_disjoint(keys))
    }

    /// Those of `keys` for which somebody waits.
    pub(super) fn waited_for(&self, keys: &BTreeSet<CapKey>) -> BTreeSet<CapKey> {
        self.0.iter().flat_map(|waiter| waiter.waits_for.intersection(keys)).cloned().collect()
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

/// How many of these wait for one of `keys`.
pub(super) fn sharing<'a>(waiters: impl Iterator<Item = &'a Waiter>, keys: &BTreeSet<CapKey>) -> u32 {
    let shares = waiters.filter(|waiter| !waiter.waits_for.is_disjoint(keys)).count();
    u32::try_from(shares).unwrap_or(u32::MAX)
}
