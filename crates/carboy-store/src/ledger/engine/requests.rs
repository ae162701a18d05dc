//! What becomes of a request: held, queued, sent, extended, charged or given back.
//!
//! *Must never* let a request overtake another that waits for a cap which it needs, or give back what may have been sent.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use carboy_core::budget::{
    Admission, Admitted, Answer, Ask, Binding, BookError, Cap, CapKey, Ending, Gate, MODEL_CHARS_MAX, NotHeld,
    Reservation, ReservationId, Row, Settlement, Stage, Usage, Worst,
};

use super::batch::Batch;
use super::desk::{Client, Desk};
use super::waiting::{Waiter, sharing};
use super::{Admit, HOLD_WAIT_MS_MAX, HOLDS_MAX, METERS_MAX, WAITING_MAX, WAITING_OF_OWNER_MAX};
use crate::StoreError;
use crate::ledger::port::{LedgerStore, Write};

impl Desk {
    /// Decides on a request, or puts it into the queue. A hold is no row of the store, so whoever gets one is told at once.
    /// An error is the store's.
    pub(super) fn admit(&mut self, admit: Admit, store: &mut dyn LedgerStore, now_ms: u64) -> Result<(), StoreError> {
        if !self.is_known(&admit) {
            let ended = self.book.ended(admit.ask.id);
            match if ended { Ok(true) } else { store.ended(admit.ask.id) } {
                Ok(false) => {}
                // A name is charged once: held again it could not be charged at all.
                Ok(true) => {
                    admit.giver.give(Err(NotHeld::Unknown));
                    return Ok(());
                }
                Err(error) => {
                    refuse(admit, error.to_string());
                    return Err(error);
                }
            }
        }
        self.decide(admit, now_ms);
        Ok(())
    }

    fn is_known(&mut self, admit: &Admit) -> bool {
        self.book.reservation(admit.ask.id).is_some() || self.waiting.named(admit.owner, admit.ask.id).is_some()
    }

    fn decide(&mut self, admit: Admit, now_ms: u64) {
        if !admit.giver.is_waited_for() {
            return;
        }
        if let Some(known) = self.book.reservation(admit.ask.id) {
            let own = known.owner == admit.owner;
            let answer = if own { Ok(Admitted::Held(known.granted)) } else { Err(NotHeld::Unknown) };
            if own && known.stage == Stage::Open {
                self.asked.insert(admit.ask.id, admit.asked);
            }
            return admit.giver.give(answer);
        }
        if let Some(waiter) = self.waiting.named(admit.owner, admit.ask.id) {
            // Asked again, as after a lost connection: it keeps its place.
            waiter.admit = admit;
            return;
        }
        let Some(admission) = self.admission(admit.owner, &admit.ask, now_ms) else {
            return refuse(admit, "the ledger does not know this run: connect again".to_owned());
        };
        if self.held >= HOLDS_MAX {
            return refuse(
                admit,
                format!("{HOLDS_MAX} requests are under way, the most that are held at once; try again"),
            );
        }
        let full = |client: &Client| client.meters.len() >= METERS_MAX && !client.meters.contains(&admit.ask.meter);
        if self.clients.get(&admit.owner).is_some_and(full) {
            return refuse(admit, format!("the run is metered under {METERS_MAX} names, and that is the most"));
        }
        let keys = keys(&admission);
        let ahead = self.waiting.sharing(&keys);
        if ahead == 0 || admission.gate == Gate::Observe {
            let (answer, _) = self.book.admit(&admission);
            return match answer {
                Answer::Wait(binding) => {
                    let waits_for = self.crowded(&admission);
                    self.queue(admit, waits_for, binding)
                }
                Answer::Held(_) | Answer::CountFirst | Answer::Exhausted(_) | Answer::Absurd => {
                    self.answer(admit, answer)
                }
            };
        }
        // It waits for its turn; what will not change while it waits is said at once.
        let in_front = self.waiting.first_sharing(&keys).map(|waiter| waiter.binding.clone());
        let mut waits_for = self.waiting.waited_for(&keys);
        waits_for.extend(self.crowded(&admission));
        match (self.book.peek(&Admission { waiting: ahead, ..admission }), in_front) {
            (Answer::Wait(binding), _) | (Answer::Held(_), Some(binding)) => self.queue(admit, waits_for, binding),
            (answer, _) => self.answer(admit, answer),
        }
    }

    fn admission(&self, owner: u64, ask: &Ask, at_ms: u64) -> Option<Admission> {
        let set = self.clients.get(&owner)?.set.as_ref()?;
        Some(Admission {
            id: ask.id,
            owner,
            meter: ask.meter.clone(),
            model: ask.model.as_deref().map(one_line),
            chain: set.chain.clone(),
            caps: self.edits.binding(set, &ask.meter, at_ms),
            worst: Worst {
                input: ask.input,
                caching: ask.caching,
                output: ask.output,
                output_min: set.terms.output_min,
                answers: ask.answers.max(1),
            },
            counted: ask.counted,
            gate: set.terms.gate,
            overrun: set.terms.overrun,
            waiting: 0,
            at_ms,
        })
    }

    /// The caps at which others hold what a request needs.
    fn crowded(&self, admission: &Admission) -> BTreeSet<CapKey> {
        self.book.crowded(admission).into_iter().map(|by| key(admission, &admission.caps[by])).collect()
    }

    fn queue(&mut self, admit: Admit, waits_for: BTreeSet<CapKey>, binding: Binding) {
        let wait_ms = self.clients.get(&admit.owner).and_then(|client| client.set.as_ref());
        let wait_ms = wait_ms.map_or(0, |set| set.terms.hold_wait_ms).min(HOLD_WAIT_MS_MAX);
        if wait_ms == 0 {
            return admit.giver.give(Err(NotHeld::Busy(binding)));
        }
        if self.waiting.count(admit.owner) >= WAITING_OF_OWNER_MAX {
            return admit.giver.give(Err(NotHeld::Busy(binding)));
        }
        if self.waiting.len() >= WAITING_MAX {
            return refuse(
                admit,
                format!("{WAITING_MAX} requests wait for others to end, and no more are let in; try again"),
            );
        }
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        self.waiting.push(Waiter { admit, waits_for, deadline, binding });
    }

    /// Tells whoever asked. A hold that nobody waits for any more is given back.
    fn answer(&mut self, admit: Admit, answer: Answer) {
        let Admit { owner, ask, asked, giver } = admit;
        let told = match answer {
            Answer::Held(granted) => {
                self.held += 1;
                self.asked.insert(ask.id, asked);
                if !self.used.contains(&ask.meter) {
                    self.used.insert(ask.meter.clone());
                }
                if let Some(client) = self.clients.get_mut(&owner)
                    && !client.meters.contains(&ask.meter)
                {
                    client.meters.insert(ask.meter);
                }
                if !giver.is_waited_for() {
                    return self.abandoned(ask.id, asked);
                }
                Ok(Admitted::Held(granted))
            }
            Answer::CountFirst => Ok(Admitted::CountFirst),
            Answer::Wait(binding) => Err(NotHeld::Busy(binding)),
            Answer::Exhausted(binding) => {
                self.watch.refused(&binding);
                Err(NotHeld::Exhausted(binding))
            }
            Answer::Absurd => Err(NotHeld::Absurd),
        };
        giver.give(told);
    }

    /// Whoever asked went away without the answer.
    pub(super) fn abandoned(&mut self, id: ReservationId, asked: u64) {
        let latest = self.asked.get(&id) == Some(&asked);
        if latest && self.book.release(id).is_ok() {
            self.given_back(id);
        }
    }

    /// Lets those go for whom there is room now, in their order, and sends away those whose time is over.
    pub(super) fn serve(&mut self, now_ms: u64) {
        let gone = self.waiting.drop_gone();
        for Waiter { admit, binding, .. } in self.waiting.expired(Instant::now()) {
            self.room = true;
            admit.giver.give(Err(NotHeld::Busy(binding)));
        }
        if !std::mem::take(&mut self.room) && !gone {
            return;
        }
        let mut queue: std::collections::VecDeque<Waiter> = self.waiting.take().into();
        let mut blocked = BTreeSet::new();
        while let Some(mut waiter) = queue.pop_front() {
            let Some(mut admission) = self.admission(waiter.admit.owner, &waiter.admit.ask, now_ms) else {
                refuse(waiter.admit, "its run is gone".to_owned());
                continue;
            };
            let keys = keys(&admission);
            waiter.waits_for = keys.intersection(&blocked).cloned().collect();
            let behind = !waiter.waits_for.is_empty();
            if !behind {
                admission.waiting = sharing(queue.iter(), &keys);
            }
            let answer = if behind { self.book.peek(&admission) } else { self.book.admit(&admission).0 };
            match answer {
                Answer::Held(_) if !behind => self.answer(waiter.admit, answer),
                Answer::Held(_) => self.waiting.push(waiter),
                Answer::Wait(binding) => {
                    waiter.waits_for.extend(self.crowded(&admission));
                    blocked.extend(waiter.waits_for.iter().cloned());
                    waiter.binding = binding;
                    self.waiting.push(waiter);
                }
                Answer::CountFirst | Answer::Exhausted(_) | Answer::Absurd => self.answer(waiter.admit, answer),
            }
        }
    }

    /// Gives back what was never sent, because whoever wanted to was told that it could not be written down.
    pub(super) fn withdraw(&mut self, id: ReservationId, batch: &mut Batch) {
        if self.book.withdraw(id).is_ok() {
            self.given_back(id);
            batch.writes.push(Write::Withdrawn(id));
        }
    }

    /// Makes a hold durable.
    pub(super) fn dispatch(&mut self, owner: u64, id: ReservationId, batch: &mut Batch) -> Result<(), NotHeld> {
        let stage = self.own(owner, id)?.stage;
        self.asked.remove(&id);
        self.book.dispatch(id).map_err(|_| NotHeld::Unknown)?;
        match stage {
            // It stands in this batch or an earlier one.
            Stage::Dispatched => {}
            Stage::Open => batch.writes.push(Write::Dispatched(self.own(owner, id)?.clone())),
        }
        Ok(())
    }

    /// Holds more for an answer that flows.
    pub(super) fn extend(
        &mut self,
        owner: u64,
        id: ReservationId,
        output: u64,
        batch: &mut Batch,
    ) -> Result<u64, NotHeld> {
        let reservation = self.own(owner, id)?;
        let (stage, meter) = (reservation.stage, reservation.meter.clone());
        let set = self.clients.get(&owner).and_then(|client| client.set.as_ref());
        let Some(set) = set else {
            return Err(NotHeld::Unavailable("the ledger does not know this run: connect again".to_owned()));
        };
        let caps = match set.terms.gate {
            Gate::Reserve => self.edits.binding(set, &meter, batch.now_ms),
            Gate::Observe => Vec::new(),
        };
        match self.book.extend(id, output, &caps) {
            Ok((granted, row)) => {
                if let (Some(Row::Extended { id, hold, held }), Stage::Dispatched) = (row, stage) {
                    batch.writes.push(Write::Extended { id, hold, held });
                }
                Ok(granted.held)
            }
            Err(refused) => {
                if let NotHeld::Exhausted(binding) = &refused {
                    self.watch.refused(binding);
                }
                Err(refused)
            }
        }
    }

    /// Charges a request. One that was never dispatched is charged all the same: it would not cost anything if it had not
    /// been sent.
    pub(super) fn settle(
        &mut self,
        owner: u64,
        id: ReservationId,
        ending: Ending,
        store: &mut dyn LedgerStore,
        batch: &mut Batch,
    ) -> Result<Result<(), NotHeld>, StoreError> {
        if let Err(unknown) = self.own(owner, id) {
            let ended = self.book.ended(id) || store.ended(id)?;
            return Ok(if ended { Ok(()) } else { Err(unknown) });
        }
        // It is there: it was just looked at.
        let _ = self.book.dispatch(id);
        let row = match ending {
            Ending::Reported(usage) => self.book.settle(id, &Settlement { usage, estimated: false }),
            Ending::Estimated(usage) => self.book.settle(id, &Settlement { usage, estimated: true }),
            Ending::Unknown(seen) => self.book.charge_whole(id, &seen),
        };
        let row = match row {
            // Such a number is a mistake or an attack: all that was held is charged.
            Err(BookError::Absurd) => self.book.charge_whole(id, &Usage::default()),
            Ok(_) | Err(BookError::Unknown | BookError::Sent | BookError::NotSent) => row,
        };
        if let Ok(Some(Row::Spent(spent))) = row {
            self.booked(spent, batch);
        }
        Ok(Ok(()))
    }

    /// Gives back what was not sent.
    pub(super) fn release(&mut self, owner: u64, id: ReservationId) -> Result<(), NotHeld> {
        self.own(owner, id)?;
        match self.book.release(id) {
            Ok(_) => {
                self.given_back(id);
                Ok(())
            }
            Err(BookError::Sent) => {
                Err(NotHeld::Unavailable("the request may have been sent: it has to be settled".to_owned()))
            }
            Err(BookError::Unknown | BookError::NotSent | BookError::Absurd) => Err(NotHeld::Unknown),
        }
    }

    /// What is held under a name, if that is this owner's: nobody ends what is another's.
    fn own(&self, owner: u64, id: ReservationId) -> Result<&Reservation, NotHeld> {
        self.book.reservation(id).filter(|reservation| reservation.owner == owner).ok_or(NotHeld::Unknown)
    }
}

fn refuse(admit: Admit, why: String) {
    admit.giver.give(Err(NotHeld::Unavailable(why)));
}

fn keys(admission: &Admission) -> BTreeSet<CapKey> {
    admission.caps.iter().map(|cap| key(admission, cap)).collect()
}

fn key(admission: &Admission, cap: &Cap) -> CapKey {
    CapKey { scope: cap.scope.clone(), meter: admission.meter.clone(), kind: cap.kind }
}

/// A model's name as it is kept: it was written by an agent.
fn one_line(model: &str) -> String {
    model.chars().filter(|c| !c.is_control()).take(MODEL_CHARS_MAX).collect()
}
