//! Everything that the thread knows, and what owners and operators change of it; requests are in [`super::requests`].
//!
//! *Must never* touch the store: what has to be durable is put into the batch.

use std::collections::{BTreeMap, BTreeSet};

use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::budget::{
    Amount, Book, Both, BudgetSet, CapEdit, CapKey, CapKind, Edits, NotHeld, ReservationId, Row, Scope, Spent, Stage,
    TOP_UPS_MAX, TopUp, shown,
};
use carboy_core::ids::MeterName;

use super::batch::Batch;
use super::view::Pace;
use super::waiting::Waiting;
use super::watch::{Crossed, Watch};
use super::{Gone, KnownOwner, METERS_MAX, OWNERS_MAX, Unavailable};
use crate::ledger::port::{Loaded, Mark, Owner, Total, Write};

/// An owner and what binds it.
pub(super) struct Client {
    pub(super) owner: Owner,
    /// Absent until it says hello.
    pub(super) set: Option<BudgetSet>,
    pub(super) meters: BTreeSet<MeterName>,
    pub(super) crossed: BTreeMap<CapKey, Crossed>,
}

impl Client {
    /// Whom an event about it concerns.
    pub(super) fn subject(&self) -> Subject {
        Subject {
            user_id: None,
            agent: self.owner.agent.clone(),
            bottle: Some(self.owner.bottle.clone()),
            run: Some(self.owner.run.clone()),
        }
    }
}

/// The thread's knowledge.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) book: Book,
    pub(super) edits: Edits,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) waiting: Waiting,
    pub(super) totals: BTreeMap<(Scope, MeterName), Total>,
    pub(super) places: BTreeSet<Vec<Scope>>,
    /// Every meter that was ever used.
    pub(super) used: BTreeSet<MeterName>,
    pub(super) marks: BTreeSet<Mark>,
    pub(super) pace: Pace,
    pub(super) watch: Watch,
    /// Who asked last for an open hold.
    pub(super) asked: BTreeMap<ReservationId, u64>,
    pub(super) held: usize,
    /// Something was given back, or a cap was changed: somebody who waits may go.
    pub(super) room: bool,
}

impl Desk {
    /// As the store says it stood.
    pub(super) fn new(loaded: Loaded) -> Desk {
        let mut desk = Desk::default();
        for sum in &loaded.minutes {
            desk.book.add(&sum.scope, &sum.meter, sum.minute, sum.charged);
        }
        desk.held = loaded.dispatched.len();
        desk.used.extend(loaded.totals.iter().map(|(_, meter, _)| meter.clone()));
        desk.used.extend(loaded.dispatched.iter().map(|reservation| reservation.meter.clone()));
        for reservation in loaded.dispatched {
            desk.book.apply(&Row::Held(reservation));
        }
        loaded.caps.into_iter().for_each(|(key, edit)| desk.edits.set(key, edit));
        for (key, top_up) in loaded.top_ups {
            // More than are taken were never written.
            let _ = desk.edits.top_up(key, top_up);
        }
        let client = |owner| Client { owner, set: None, meters: BTreeSet::new(), crossed: BTreeMap::new() };
        desk.clients = loaded.owners.into_iter().map(|owner| (owner.id, client(owner))).collect();
        desk.totals = loaded.totals.into_iter().map(|(scope, meter, total)| ((scope, meter), total)).collect();
        desk.places = loaded.places.into_iter().collect();
        desk.marks = loaded.marks.into_iter().collect();
        desk
    }

    /// The book as the store says, with those who were there and whom the store knows.
    pub(super) fn rebuild(&mut self, loaded: Loaded) {
        let mut desk = Desk::new(loaded);
        for (id, client) in std::mem::take(&mut self.clients) {
            if desk.clients.get(&id).is_some_and(|known| known.owner == client.owner) {
                desk.clients.insert(id, client);
            }
        }
        desk.pace = std::mem::take(&mut self.pace);
        desk.watch.everything();
        *self = desk;
    }

    pub(super) fn hello(
        &mut self,
        owner: Owner,
        mut set: BudgetSet,
        meters: Vec<MeterName>,
        batch: &mut Batch,
    ) -> Result<(), Unavailable> {
        if meters.len() > METERS_MAX {
            return Err(Unavailable(format!("a run is metered under at most {METERS_MAX} names")));
        }
        if self.clients.len() >= OWNERS_MAX && !self.clients.contains_key(&owner.id) {
            return Err(Unavailable(format!("{OWNERS_MAX} runs are connected or not ended yet, and that is the most")));
        }
        // Booked to a scope twice, it would be charged twice.
        let mut seen = BTreeSet::new();
        set.chain.retain(|scope| seen.insert(scope.clone()));
        if self.clients.get(&owner.id).is_some_and(|client| client.owner != owner) {
            // Another process under the same name: the former one is gone.
            self.owner_gone(owner.id, batch);
        }
        let known = self.clients.get(&owner.id);
        if known.is_none_or(|client| client.owner != owner) {
            batch.writes.push(Write::Owner { owner: owner.clone(), at_ms: batch.now_ms });
        }
        self.places.insert(place(&set.chain));
        let id = owner.id;
        // What the same process used or was told before is not forgotten.
        let before = self.clients.remove(&id).filter(|client| client.owner == owner);
        let (mut used, crossed) = before.map(|client| (client.meters, client.crossed)).unwrap_or_default();
        used.extend(meters);
        while used.len() > METERS_MAX {
            used.pop_last();
        }
        self.clients.insert(id, Client { owner, set: Some(set), meters: used, crossed });
        self.watch.greeted(id);
        self.room = true;
        Ok(())
    }

    /// Ends everything of an owner.
    pub(super) fn owner_gone(&mut self, owner: u64, batch: &mut Batch) -> Gone {
        let mut gone = Gone::default();
        for waiter in self.waiting.of(owner) {
            waiter.admit.giver.give(Err(NotHeld::Unavailable("its owner is gone".to_owned())));
        }
        for row in self.book.owner_gone(owner) {
            match row {
                Row::Spent(spent) => {
                    gone.charged += 1;
                    self.booked(spent, batch);
                }
                Row::Released(id) => {
                    gone.released += 1;
                    self.given_back(id);
                }
                // Nothing is made or sent by an owner that is gone.
                Row::Held(_) | Row::Dispatched(_) | Row::Extended { .. } => {}
            }
        }
        let Some(client) = self.clients.remove(&owner) else { return gone };
        if gone.charged > 0 {
            let event = Event::new(EventType::Budget, client.subject(), "charge_in_full", Outcome::Done)
                .with("requests", gone.charged)
                .with("released", gone.released);
            batch.event(event);
        }
        batch.writes.push(Write::OwnerEnded(owner));
        gone
    }

    pub(super) fn owners(&self) -> Vec<KnownOwner> {
        let mut all: BTreeMap<u64, KnownOwner> = BTreeMap::new();
        for (id, client) in &self.clients {
            let known =
                KnownOwner { owner: client.owner.clone(), greeted: client.set.is_some(), dispatched: 0, open: 0 };
            all.insert(*id, known);
        }
        for reservation in self.book.reservations() {
            // Holds without an owner's row cannot be: it is written before anything is asked.
            let Some(known) = all.get_mut(&reservation.owner) else { continue };
            match reservation.stage {
                Stage::Open => known.open += 1,
                Stage::Dispatched => known.dispatched += 1,
            }
        }
        all.into_values().collect()
    }

    /// What the machine's settings allow under a key, as far as those say it who are connected.
    fn most(&self, key: &CapKey) -> Option<Amount> {
        let sets = self.clients.values().filter_map(|client| client.set.as_ref());
        let caps = sets.flat_map(|set| set.caps.get(&key.meter).into_iter().flatten());
        caps.filter(|cap| cap.scope == key.scope && cap.kind == key.kind).filter_map(|cap| cap.most).min()
    }

    /// The most that is set under a key now.
    fn set_now(&self, key: &CapKey, now_ms: u64) -> Option<Amount> {
        let sets = self.clients.values().filter_map(|client| client.set.as_ref());
        let caps = sets.flat_map(|set| self.edits.all(set, &key.meter, now_ms));
        caps.filter(|cap| cap.scope == key.scope && cap.kind == key.kind).map(|cap| cap.amount).max()
    }

    pub(super) fn set_cap(&mut self, key: CapKey, edit: CapEdit, batch: &mut Batch) -> Result<(), Unavailable> {
        within(self.most(&key), edit.amount)?;
        let event = edited("set_cap", &key).with("tokens", edit.amount.tokens_down());
        batch.writes.push(Write::CapSet { key: key.clone(), edit: edit.clone(), at_ms: batch.now_ms });
        batch.event(event);
        self.edits.set(key.clone(), edit);
        self.cap_changed(&key);
        Ok(())
    }

    pub(super) fn unset_cap(&mut self, key: CapKey, batch: &mut Batch) -> bool {
        if self.edits.unset(&key).is_none() {
            return false;
        }
        batch.writes.push(Write::CapUnset(key.clone()));
        batch.event(edited("unset_cap", &key));
        self.cap_changed(&key);
        true
    }

    pub(super) fn top_up(&mut self, key: CapKey, amount: Amount, batch: &mut Batch) -> Result<(), Unavailable> {
        let now = self.set_now(&key, batch.now_ms).unwrap_or(Amount::ZERO);
        within(self.most(&key), now.plus(amount).unwrap_or(Amount::milli(u64::MAX)))?;
        let top_up = TopUp { amount, at_ms: batch.now_ms };
        if self.edits.top_up(key.clone(), top_up).is_none() {
            return Err(Unavailable(format!(
                "this cap was topped up {TOP_UPS_MAX} times, and that is the most; raise it: carboy budget set"
            )));
        }
        batch.writes.push(Write::TopUp { key: key.clone(), top_up });
        batch.event(edited("top_up", &key).with("tokens", amount.tokens_down()));
        self.cap_changed(&key);
        Ok(())
    }

    fn cap_changed(&mut self, key: &CapKey) {
        self.watch.line(&key.scope, &key.meter);
        self.room = true;
    }

    /// It was charged: what is known of it changes with it.
    pub(super) fn booked(&mut self, spent: Spent, batch: &mut Batch) {
        self.given_back(spent.id);
        for scope in &spent.chain {
            let line = (scope.clone(), spent.meter.clone());
            match self.totals.get_mut(&line) {
                Some(total) => *total = total.and(&spent),
                None => {
                    self.totals.insert(line.clone(), Total::default().and(&spent));
                }
            }
            self.pace.add(line, batch.now_ms, spent.charged.raw);
            self.watch.line(scope, &spent.meter);
        }
        if spent.overrun != Both::default() {
            let subject = self.clients.get(&spent.owner).map(Client::subject).unwrap_or_default();
            let event = Event::new(EventType::Budget, subject, "overrun", Outcome::Warned)
                .with("meter", spent.meter.as_str())
                .with("tokens_beyond_hold", spent.overrun.raw.tokens_up());
            batch.event(event);
        }
        batch.writes.push(Write::Spent { spent, ended_ms: batch.now_ms });
    }

    /// It is held no more.
    pub(super) fn given_back(&mut self, id: ReservationId) {
        self.asked.remove(&id);
        self.held = self.held.saturating_sub(1);
        self.room = true;
    }
}

/// The store is the user's, so root's word is not in it but in root's file: nobody lifts it from here, root included.
fn within(most: Option<Amount>, amount: Amount) -> Result<(), Unavailable> {
    match most {
        Some(most) if amount > most => Err(Unavailable(format!(
            "this machine's settings allow at most {} tokens there; only root changes that, in /etc/carboy/settings.yml",
            shown(most.tokens_down())
        ))),
        Some(_) | None => Ok(()),
    }
}

/// A chain without its run.
fn place(chain: &[Scope]) -> Vec<Scope> {
    chain.iter().filter(|scope| !matches!(scope, Scope::Run(_))).cloned().collect()
}

fn edited(action: &'static str, key: &CapKey) -> Event {
    let kind = match key.kind {
        CapKind::Budget => "budget",
        CapKind::Ceiling => "ceiling",
    };
    Event::new(EventType::Operator, Subject::default(), action, Outcome::Done)
        .with("scope", key.scope.to_string())
        .with("meter", key.meter.as_str())
        .with("kind", kind)
}
