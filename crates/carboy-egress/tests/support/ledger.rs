//! A ledger in memory, on core's own book: what the tests hold tokens with, and a list of everything that was asked of it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carboy_core::budget::{
    Admission, Admitted, Amount, Ask, Binding, Book, BookError, Both, BudgetSet, Cap, CapKind, Count, Counted,
    Decision, Ending, Gate, Granted, NotHeld, Overrun, Reservation, ReservationId, Row, Scope, Settlement, Spent,
    Stage, Usage, Window, Worst,
};
use carboy_core::ids::MeterName;
use carboy_core::ports::{Later, Ledger};
use tokio::sync::Notify;

/// Output tokens that are held first where the terms say so.
pub const TRANCHE: u64 = 64;

/// One thing that was asked of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Admit(Ask),
    Dispatch(ReservationId),
    Extend(ReservationId, u64),
    Settle(ReservationId, Ending),
    Release(ReservationId),
}

#[derive(Default)]
pub struct Memory {
    set: BudgetSet,
    book: Mutex<Book>,
    spent: Mutex<Vec<Spent>>,
    calls: Mutex<Vec<Call>>,
    changed: Notify,
    /// It cannot be reached.
    pub away: AtomicBool,
    /// So many dispatches find that it has forgotten everything.
    pub forgets: AtomicU32,
    /// Admissions that count first whatever is left.
    pub counts_first: AtomicBool,
}

const OWNER: u64 = 1;

impl Memory {
    /// Nothing binds.
    pub fn unbound() -> Arc<Memory> {
        Arc::new(Memory { set: BudgetSet { chain: vec![Scope::Host], ..BudgetSet::default() }, ..Memory::default() })
    }

    /// One raw cap on one meter.
    pub fn capped(meter: &str, tokens: u64, change: impl FnOnce(&mut BudgetSet)) -> Arc<Memory> {
        let amount = Amount::tokens(tokens).unwrap();
        let cap =
            Cap { scope: Scope::Host, kind: CapKind::Budget, amount, count: Count::Raw, window: Window::Lifetime };
        let caps = [(MeterName::parse(meter).unwrap(), vec![cap])].into();
        let mut set = BudgetSet { chain: vec![Scope::Host], caps, ..BudgetSet::default() };
        set.terms.hold_wait_ms = 0;
        change(&mut set);
        Arc::new(Memory { set, ..Memory::default() })
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// What was spent, in the order of its settlement.
    pub fn spent(&self) -> Vec<Spent> {
        self.spent.lock().unwrap().clone()
    }

    /// Of one meter, every token as one.
    pub fn total(&self, meter: &str) -> u64 {
        self.book.lock().unwrap().total(&Scope::Host, &MeterName::parse(meter).unwrap()).raw.tokens_up()
    }

    /// Reservations that nobody has ended.
    pub fn open(&self) -> usize {
        self.book.lock().unwrap().reservations().count()
    }

    fn note(&self, call: Call) -> Result<(), NotHeld> {
        self.calls.lock().unwrap().push(call);
        match self.away.load(Ordering::SeqCst) {
            true => Err(NotHeld::Unavailable("the controller does not answer".into())),
            false => Ok(()),
        }
    }

    /// One try; `None` while only holds are in the way.
    fn admit_now(&self, ask: &Ask) -> Option<Result<Admitted, NotHeld>> {
        let mut book = self.book.lock().unwrap();
        let terms = &self.set.terms;
        let caps: Vec<Cap> = self.set.binding(&ask.meter).into_iter().cloned().collect();
        let binding = |book: &Book, by: usize| Binding {
            scope: caps[by].scope.clone(),
            meter: ask.meter.clone(),
            kind: caps[by].kind,
            standing: book.standing(&caps[by], &ask.meter, 0),
            until_ms: None,
        };
        let tranche = match terms.overrun {
            Overrun::Exact => ask.output,
            Overrun::Bounded => ask.output.min(TRANCHE),
        };
        let worst = Worst {
            input: ask.input,
            caching: ask.caching,
            output: tranche,
            output_min: terms.output_min.min(TRANCHE),
            answers: ask.answers,
        };
        let admission = |caps| Admission {
            id: ask.id,
            owner: OWNER,
            meter: ask.meter.clone(),
            chain: self.set.chain.clone(),
            caps,
            worst,
            waiting: 0,
            at_ms: 0,
        };
        if terms.gate == Gate::Observe {
            let over = caps.iter().position(|cap| book.standing(cap, &ask.meter, 0).unspent() == Amount::ZERO);
            if let Some(by) = over {
                return Some(Err(NotHeld::Exhausted(binding(&book, by))));
            }
            book.admit(&admission(Vec::new()));
            return Some(Ok(Admitted::Held(Granted { output: None, held: ask.output })));
        }
        if ask.counted == Counted::Bound {
            let near = self.counts_first.load(Ordering::SeqCst)
                || caps.iter().any(|cap| {
                    let standing = book.standing(cap, &ask.meter, 0);
                    let left = worst.holds(tranche, cap.count).and_then(|hold| standing.headroom().minus(hold));
                    left.is_none_or(|left| left < Amount::milli(standing.cap.as_milli() / 10))
                });
            if near {
                return Some(Ok(Admitted::CountFirst));
            }
        }
        match book.admit(&admission(caps.clone())).0 {
            Decision::Admit { output } => {
                let full = if terms.overrun == Overrun::Bounded { ask.output } else { output };
                Some(Ok(Admitted::Held(Granted { output: Some(full), held: output })))
            }
            Decision::Exhausted { by } => Some(Err(NotHeld::Exhausted(binding(&book, by)))),
            Decision::Absurd => Some(Err(NotHeld::Absurd)),
            Decision::Wait { .. } => None,
        }
    }

    fn busy(&self, ask: &Ask) -> NotHeld {
        let cap = self.set.binding(&ask.meter)[0];
        let standing = self.book.lock().unwrap().standing(cap, &ask.meter, 0);
        NotHeld::Busy(Binding {
            scope: cap.scope.clone(),
            meter: ask.meter.clone(),
            kind: cap.kind,
            standing,
            until_ms: None,
        })
    }

    fn known(&self, id: ReservationId) -> Result<Reservation, NotHeld> {
        self.book.lock().unwrap().reservations().find(|r| r.id == id).cloned().ok_or(NotHeld::Unknown)
    }

    fn extend_now(&self, id: ReservationId, output: u64) -> Result<u64, NotHeld> {
        let reservation = self.known(id)?;
        let more = Amount::tokens(output - reservation.output).unwrap();
        let caps: Vec<Cap> = self.set.binding(&reservation.meter).into_iter().cloned().collect();
        let mut book = self.book.lock().unwrap();
        for cap in &caps {
            let standing = book.standing(cap, &reservation.meter, 0);
            if standing.headroom() < more {
                let (scope, meter, kind) = (cap.scope.clone(), reservation.meter.clone(), cap.kind);
                return Err(NotHeld::Exhausted(Binding { scope, meter, kind, standing, until_ms: None }));
            }
        }
        let plus = |amount: Amount| amount.plus(more).unwrap();
        let hold = Both { weighted: plus(reservation.hold.weighted), raw: plus(reservation.hold.raw) };
        book.apply(&Row::Held(Reservation { hold, output, stage: Stage::Dispatched, ..reservation }));
        Ok(output)
    }

    fn settle_now(&self, id: ReservationId, ending: Ending) -> Result<(), NotHeld> {
        let mut book = self.book.lock().unwrap();
        let row = match ending {
            Ending::Reported(usage) => book.settle(id, &Settlement { usage, estimated: false }),
            Ending::Estimated(usage) => book.settle(id, &Settlement { usage, estimated: true }),
            Ending::Unknown(usage) => book.charge_whole(id, &usage),
        };
        let Row::Spent(spent) = row.map_err(unknown)? else { return Err(NotHeld::Unknown) };
        self.spent.lock().unwrap().push(spent);
        Ok(())
    }
}

fn unknown(_: BookError) -> NotHeld {
    NotHeld::Unknown
}

impl Ledger for Memory {
    fn admit(&self, ask: Ask) -> Later<'_, Result<Admitted, NotHeld>> {
        Box::pin(async move {
            self.note(Call::Admit(ask.clone()))?;
            let wait = Duration::from_millis(self.set.terms.hold_wait_ms);
            let waited = tokio::time::timeout(wait, async {
                loop {
                    let changed = self.changed.notified();
                    if let Some(answer) = self.admit_now(&ask) {
                        return answer;
                    }
                    changed.await;
                }
            });
            waited.await.unwrap_or_else(|_| Err(self.busy(&ask)))
        })
    }

    fn dispatch(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        Box::pin(async move {
            self.note(Call::Dispatch(id))?;
            let forget = self.forgets.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            let mut book = self.book.lock().unwrap();
            if forget {
                *book = Book::default();
            }
            book.dispatch(id).map(|_| ()).map_err(unknown)
        })
    }

    fn extend(&self, id: ReservationId, output: u64) -> Later<'_, Result<u64, NotHeld>> {
        Box::pin(async move {
            self.note(Call::Extend(id, output))?;
            self.extend_now(id, output)
        })
    }

    fn settle(&self, id: ReservationId, ending: Ending) -> Later<'_, Result<(), NotHeld>> {
        Box::pin(async move {
            self.note(Call::Settle(id, ending))?;
            let settled = self.settle_now(id, ending);
            self.changed.notify_waiters();
            settled
        })
    }

    fn release(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        Box::pin(async move {
            self.note(Call::Release(id))?;
            let released = self.book.lock().unwrap().release(id).map(|_| ()).map_err(unknown);
            self.changed.notify_waiters();
            released
        })
    }
}

/// What a settlement said.
pub fn usage(input: u64, cache_write: u64, cache_read: u64, output: u64) -> Usage {
    Usage { input, cache_write, cache_read, output }
}
