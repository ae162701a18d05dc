//! A ledger in memory, on core's own book: what the tests hold tokens with, and a list of everything that was asked of it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carboy_core::budget::{
    Admission, Admitted, Amount, Answer, Ask, Book, BookError, BudgetSet, Cap, CapKind, Count, Counted, Ending, Gate,
    Granted, NotHeld, Overrun, Reservation, ReservationId, Row, Scope, Settlement, Spent, Usage, Window, Worst,
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
        let cap = Cap {
            scope: Scope::Host,
            kind: CapKind::Budget,
            amount,
            count: Count::Raw,
            window: Window::Lifetime,
            most: None,
        };
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
        let tranche = match terms.overrun {
            Overrun::Exact => ask.output,
            Overrun::Bounded => ask.output.min(TRANCHE),
        };
        let whole = Worst {
            input: ask.input,
            caching: ask.caching,
            output: ask.output,
            output_min: terms.output_min,
            answers: ask.answers,
        };
        let near = self.counts_first.load(Ordering::SeqCst) && ask.counted == Counted::Bound;
        if near && terms.gate == Gate::Reserve {
            return Some(Ok(Admitted::CountFirst));
        }
        // The book's own tranche is longer than these answers are.
        let admission = Admission {
            id: ask.id,
            owner: OWNER,
            meter: ask.meter.clone(),
            model: ask.model.clone(),
            chain: self.set.chain.clone(),
            caps: self.set.binding(&ask.meter).into_iter().cloned().collect(),
            worst: Worst { output: tranche, output_min: terms.output_min.min(TRANCHE), ..whole },
            counted: ask.counted,
            gate: terms.gate,
            overrun: Overrun::Exact,
            waiting: 0,
            at_ms: 0,
        };
        let granted = match book.admit(&admission).0 {
            Answer::Held(granted) => granted,
            Answer::CountFirst => return Some(Ok(Admitted::CountFirst)),
            Answer::Wait(_) => return None,
            Answer::Exhausted(binding) => return Some(Err(NotHeld::Exhausted(binding))),
            Answer::Absurd => return Some(Err(NotHeld::Absurd)),
        };
        if terms.overrun == Overrun::Exact || terms.gate == Gate::Observe {
            return Some(Ok(Admitted::Held(granted)));
        }
        let held = book.reservation(ask.id).unwrap().clone();
        let granted = Granted { output: Some(ask.output), held: granted.held };
        book.withdraw(ask.id).unwrap();
        book.apply(&Row::Held(Reservation { worst: whole, granted, ..held }));
        Some(Ok(Admitted::Held(granted)))
    }

    fn busy(&self, ask: &Ask) -> NotHeld {
        NotHeld::Busy(self.book.lock().unwrap().binding(self.set.binding(&ask.meter)[0], &ask.meter, 0))
    }

    fn extend_now(&self, id: ReservationId, output: u64) -> Result<u64, NotHeld> {
        let mut book = self.book.lock().unwrap();
        let meter = book.reservation(id).ok_or(NotHeld::Unknown)?.meter.clone();
        let caps: Vec<Cap> = self.set.binding(&meter).into_iter().cloned().collect();
        book.extend(id, output, &caps).map(|(granted, _)| granted.held)
    }

    fn settle_now(&self, id: ReservationId, ending: Ending) -> Result<(), NotHeld> {
        let mut book = self.book.lock().unwrap();
        let row = match ending {
            Ending::Reported(usage) => book.settle(id, &Settlement { usage, estimated: false }),
            Ending::Estimated(usage) => book.settle(id, &Settlement { usage, estimated: true }),
            Ending::Unknown(usage) => book.charge_whole(id, &usage),
        };
        if let Some(Row::Spent(spent)) = row.map_err(unknown)? {
            self.spent.lock().unwrap().push(spent);
        }
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
