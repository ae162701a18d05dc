//! Which caps were crossed, for whom, and which thresholds: looked at after everything that changes how a cap stands.
//!
//! *Must never* tell the same crossing twice, or forget one that was not made durable.

use std::collections::{BTreeMap, BTreeSet};

use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::budget::{Binding, Cap, CapKey, Scope, Standing, Terms, Window};
use carboy_core::ids::MeterName;

use super::batch::Batch;
use super::desk::{Client, Desk};
use super::notices::{Crossing, Notice, Warning};
use crate::ledger::port::{Mark, Write};

/// A rolling window gives back a little every minute: a cap that was crossed has room again when so much of it is free, one
/// part in twenty, so that its runs are not stopped and started every minute.
const RESTORE_PART: u64 = 20;

/// How a cap stood when it was crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crossed {
    cap_milli: u64,
    unspent_milli: u64,
}

/// What is remembered once it was told.
pub(super) enum Latch {
    Crossed { owner: u64, key: CapKey, crossed: Crossed },
    Restored { owner: u64, key: CapKey },
}

/// What has to be looked at.
#[derive(Default)]
pub(super) struct Watch {
    lines: BTreeMap<Scope, BTreeSet<MeterName>>,
    owners: BTreeSet<u64>,
    /// Those that said hello: they are told what is crossed, whether they were told before or not.
    greeted: BTreeSet<u64>,
    /// Caps that said no, with their amounts: runs whose files differ have other caps under the same key.
    refused: BTreeSet<(CapKey, u64)>,
    everything: bool,
}

impl Watch {
    pub(super) fn line(&mut self, scope: &Scope, meter: &MeterName) {
        // Most are known: every request of a batch touches the host.
        if !self.lines.get(scope).is_some_and(|meters| meters.contains(meter)) {
            self.lines.entry(scope.clone()).or_default().insert(meter.clone());
        }
    }

    pub(super) fn greeted(&mut self, owner: u64) {
        self.owners.insert(owner);
        self.greeted.insert(owner);
    }

    pub(super) fn everything(&mut self) {
        self.everything = true;
    }

    /// A request was refused because of what was spent.
    pub(super) fn refused(&mut self, binding: &Binding) {
        self.refused.insert(refusal(binding));
        self.line(&binding.scope, &binding.meter);
    }

    /// A request was refused since it was looked at last.
    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    fn idle(&self) -> bool {
        !self.everything && self.lines.is_empty() && self.owners.is_empty()
    }

    fn touches(&self, owner: u64, scope: &Scope, meter: &MeterName) -> bool {
        let line = || self.lines.get(scope).is_some_and(|meters| meters.contains(meter));
        self.everything || self.owners.contains(&owner) || line()
    }
}

impl Desk {
    /// Looks at everything that may have changed; what is to be told stands in the batch.
    pub(super) fn look(&mut self, batch: &mut Batch) {
        let watch = std::mem::take(&mut self.watch);
        if watch.idle() {
            return;
        }
        let mut fresh = BTreeSet::new();
        for (id, client) in &self.clients {
            let Some(set) = &client.set else { continue };
            let (mut told, mut bound) = (Vec::new(), BTreeSet::new());
            for meter in &client.meters {
                if !set.chain.iter().any(|scope| watch.touches(*id, scope, meter)) {
                    continue;
                }
                let caps = self.edits.binding(set, meter, batch.now_ms);
                for cap in caps.iter().filter(|cap| watch.touches(*id, &cap.scope, meter)) {
                    // Every batch comes by here for every run: words are made only where there is something to tell.
                    let standing = self.book.standing(cap, meter, batch.now_ms);
                    let quiet = client.crossed.is_empty() && watch.refused.is_empty();
                    if quiet && !is_spent(&standing, &set.terms) && !self.passes(&set.terms, &standing) {
                        continue;
                    }
                    let binding = self.book.binding(cap, meter, batch.now_ms);
                    bound.insert(key(&cap.scope, meter, &binding));
                    told.extend(crossing(client, &set.terms, &binding, &watch));
                    self.thresholds(client, &set.terms, cap, &binding, &mut fresh, batch);
                }
            }
            // What no longer binds is in nobody's way.
            let lifted = |key: &&CapKey| watch.touches(*id, &key.scope, &key.meter) && !bound.contains(*key);
            told.extend(client.crossed.keys().filter(lifted).cloned().map(Told::Lifted));
            tell(client, told, &set.terms, batch);
        }
        for write in &batch.writes {
            match write {
                Write::Marked(mark) => {
                    self.marks.insert(mark.clone());
                }
                Write::Unmarked(mark) => {
                    self.marks.remove(mark);
                }
                Write::Owner { .. }
                | Write::OwnerEnded(_)
                | Write::Dispatched(_)
                | Write::Extended { .. }
                | Write::Withdrawn(_)
                | Write::Spent { .. }
                | Write::CapSet { .. }
                | Write::CapUnset(_)
                | Write::TopUp { .. }
                | Write::Event { .. } => {}
            }
        }
    }

    /// Whether any threshold may have to be told or forgotten.
    fn passes(&self, terms: &Terms, standing: &Standing) -> bool {
        !self.marks.is_empty() || terms.warn_percent.iter().any(|percent| passed(standing, *percent))
    }

    fn thresholds(
        &self,
        client: &Client,
        terms: &Terms,
        cap: &Cap,
        binding: &Binding,
        fresh: &mut BTreeSet<Mark>,
        batch: &mut Batch,
    ) {
        let amount = binding.standing.cap;
        let since_ms = match cap.window {
            Window::Calendar { .. } => cap.window.since_ms(batch.now_ms),
            Window::Lifetime | Window::Rolling { .. } => 0,
        };
        // In the order in which they are reached, whatever the order in the file.
        let mut percents = terms.warn_percent.clone();
        percents.sort_unstable();
        for percent in percents.into_iter().filter(|_| amount.as_milli() > 0) {
            let key = key(&cap.scope, &binding.meter, binding);
            let mark = Mark { key, cap_milli: amount.as_milli(), percent, since_ms };
            let passed = passed(&binding.standing, percent);
            let known = self.marks.contains(&mark);
            if !passed && known {
                batch.writes.push(Write::Unmarked(mark));
                continue;
            }
            if !passed || known {
                continue;
            }
            let (owner, run) = (client.owner.id, client.owner.run.clone());
            batch.notices.push(Notice::Warning(Warning { owner, run, binding: binding.clone(), percent }));
            if fresh.insert(mark.clone()) {
                // Of an earlier window nothing is remembered.
                let same = |old: &&Mark| old.key == mark.key && old.percent == percent && old.since_ms < since_ms;
                batch.writes.extend(self.marks.iter().filter(same).cloned().map(Write::Unmarked));
                batch.event(
                    about(Subject::default(), "warn_threshold", Outcome::Warned, binding)
                        .with("percent", u64::from(percent)),
                );
                batch.writes.push(Write::Marked(mark));
            }
        }
    }

    /// Owners for whom a cap is crossed: time alone may give it room again.
    pub(super) fn watch_crossed(&mut self) -> bool {
        let crossed = self.clients.iter().filter(|(_, client)| !client.crossed.is_empty()).map(|(id, _)| *id);
        self.watch.owners.extend(crossed);
        !self.watch.owners.is_empty()
    }

    /// What was told is remembered.
    pub(super) fn latch(&mut self, latches: Vec<Latch>) {
        for latch in latches {
            match latch {
                Latch::Crossed { owner, key, crossed } => {
                    if let Some(client) = self.clients.get_mut(&owner) {
                        client.crossed.insert(key, crossed);
                    }
                }
                Latch::Restored { owner, key } => {
                    if let Some(client) = self.clients.get_mut(&owner) {
                        client.crossed.remove(&key);
                    }
                }
            }
        }
    }

    /// Everything that is crossed now.
    pub(super) fn crossings(&self, now_ms: u64) -> Vec<Crossing> {
        let mut all = Vec::new();
        for client in self.clients.values() {
            let Some(set) = &client.set else { continue };
            for meter in &client.meters {
                for cap in self.edits.binding(set, meter, now_ms) {
                    let binding = self.book.binding(&cap, meter, now_ms);
                    if client.crossed.contains_key(&key(&cap.scope, meter, &binding)) {
                        all.push(crossed_by(client, &set.terms, binding));
                    }
                }
            }
        }
        all
    }
}

enum Told {
    Crossed(Binding),
    Restored(Binding),
    Lifted(CapKey),
}

/// Whether a cap was crossed for an owner, or has room again.
fn crossing(client: &Client, terms: &Terms, binding: &Binding, watch: &Watch) -> Option<Told> {
    let key = key(&binding.scope, &binding.meter, binding);
    let spent = is_spent(&binding.standing, terms);
    let refused = watch.refused.contains(&refusal(binding));
    let Some(then) = client.crossed.get(&key) else {
        return (spent || refused).then(|| Told::Crossed(binding.clone()));
    };
    let Standing { cap, .. } = binding.standing;
    let unspent = binding.standing.unspent().as_milli();
    let raised = cap.as_milli() > then.cap_milli;
    let refilled = unspent > then.unspent_milli && unspent >= cap.as_milli() / RESTORE_PART;
    if !spent && !refused && (raised || refilled) {
        return Some(Told::Restored(binding.clone()));
    }
    watch.greeted.contains(&client.owner.id).then(|| Told::Crossed(binding.clone()))
}

/// So much of a cap is spent.
fn passed(standing: &Standing, percent: u8) -> bool {
    let Standing { cap, spent, .. } = standing;
    u128::from(spent.as_milli()) * 100 >= u128::from(cap.as_milli()) * u128::from(percent)
}

/// Nothing useful can be sent any more.
fn is_spent(standing: &Standing, terms: &Terms) -> bool {
    standing.spent >= standing.cap || terms.least_hold().is_some_and(|least| standing.unspent() < least)
}

fn tell(client: &Client, told: Vec<Told>, terms: &Terms, batch: &mut Batch) {
    if told.is_empty() {
        return;
    }
    let mut crossed: BTreeSet<CapKey> = client.crossed.keys().cloned().collect();
    for one in told {
        let owner = client.owner.id;
        match one {
            Told::Crossed(binding) => {
                let key = key(&binding.scope, &binding.meter, &binding);
                let Standing { cap, .. } = binding.standing;
                let then = Crossed { cap_milli: cap.as_milli(), unspent_milli: binding.standing.unspent().as_milli() };
                batch.latches.push(Latch::Crossed { owner, key: key.clone(), crossed: then });
                crossed.insert(key);
                let event = about(client.subject(), "cross_cap", Outcome::Blocked, &binding);
                batch.event(event.with("shutdown", terms.shutdown.as_str()));
                batch.notices.push(Notice::Crossing(crossed_by(client, terms, binding)));
            }
            Told::Restored(binding) => {
                batch.event(about(client.subject(), "restore_cap", Outcome::Done, &binding));
                restore(client, key(&binding.scope, &binding.meter, &binding), &mut crossed, batch);
            }
            Told::Lifted(key) => {
                let event = Event::new(EventType::Budget, client.subject(), "lift_cap", Outcome::Done)
                    .with("scope", key.scope.to_string())
                    .with("meter", key.meter.as_str());
                batch.event(event);
                restore(client, key, &mut crossed, batch);
            }
        }
    }
}

fn restore(client: &Client, key: CapKey, crossed: &mut BTreeSet<CapKey>, batch: &mut Batch) {
    let (owner, run) = (client.owner.id, client.owner.run.clone());
    batch.latches.push(Latch::Restored { owner, key: key.clone() });
    crossed.remove(&key);
    batch.notices.push(Notice::Restored { owner, run, key, still_crossed: !crossed.is_empty() });
}

fn crossed_by(client: &Client, terms: &Terms, binding: Binding) -> Crossing {
    Crossing { owner: client.owner.id, run: client.owner.run.clone(), binding, action: terms.shutdown }
}

fn refusal(binding: &Binding) -> (CapKey, u64) {
    (key(&binding.scope, &binding.meter, binding), binding.standing.cap.as_milli())
}

fn key(scope: &Scope, meter: &MeterName, binding: &Binding) -> CapKey {
    CapKey { scope: scope.clone(), meter: meter.clone(), kind: binding.kind }
}

fn about(subject: Subject, action: &'static str, outcome: Outcome, binding: &Binding) -> Event {
    let Standing { cap, spent, held, .. } = binding.standing;
    Event::new(EventType::Budget, subject, action, outcome)
        .with("scope", binding.scope.to_string())
        .with("meter", binding.meter.as_str())
        .with("cap_tokens", cap.tokens_down())
        .with("spent_tokens", spent.tokens_up())
        .with("held_tokens", held.tokens_up())
}
