//! A ledger that checks and then spends, as most gateways do: kept so that the proof is seen to fail with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use carboy_core::budget::{
    Admitted, Amount, Ask, Binding, Both, BudgetSet, Count, Ending, Granted, NotHeld, ReservationId, Scope, Standing,
};
use carboy_core::ids::MeterName;
use carboy_core::ports::{Later, Ledger};

/// What was spent, by everybody in this process. Nothing is ever held.
#[derive(Default)]
pub struct Spent {
    spent: Mutex<BTreeMap<(Scope, MeterName), Both>>,
}

/// See the module.
pub struct CheckThenSpend {
    pub all: Arc<Spent>,
    pub budgets: BudgetSet,
    pub open: Mutex<BTreeMap<ReservationId, MeterName>>,
}

impl CheckThenSpend {
    fn check(&self, ask: &Ask) -> Result<(), NotHeld> {
        let spent = self.all.spent.lock().unwrap();
        for cap in self.budgets.binding(&ask.meter) {
            let line = (cap.scope.clone(), ask.meter.clone());
            let spent = spent.get(&line).copied().unwrap_or_default().by(cap.count);
            if spent >= cap.amount {
                let standing = Standing { cap: cap.amount, spent, held: Amount::ZERO, count: cap.count };
                let (scope, meter) = line;
                return Err(NotHeld::Exhausted(Binding { scope, meter, kind: cap.kind, standing, until_ms: None }));
            }
        }
        Ok(())
    }
}

impl Ledger for CheckThenSpend {
    fn admit(&self, ask: Ask) -> Later<'_, Result<Admitted, NotHeld>> {
        let admitted = self.check(&ask).map(|()| {
            self.open.lock().unwrap().insert(ask.id, ask.meter.clone());
            Admitted::Held(Granted { output: Some(ask.output), held: ask.output })
        });
        Box::pin(std::future::ready(admitted))
    }

    fn dispatch(&self, _: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn extend(&self, _: ReservationId, output: u64) -> Later<'_, Result<u64, NotHeld>> {
        Box::pin(std::future::ready(Ok(output)))
    }

    fn settle(&self, id: ReservationId, ending: Ending) -> Later<'_, Result<(), NotHeld>> {
        let (Ending::Reported(usage) | Ending::Estimated(usage) | Ending::Unknown(usage)) = ending;
        if let Some(meter) = self.open.lock().unwrap().remove(&id) {
            let mut all = self.all.spent.lock().unwrap();
            for scope in &self.budgets.chain {
                let line = all.entry((scope.clone(), meter.clone())).or_default();
                let plus = |count: Count| line.by(count).plus(usage.weighs(count).unwrap_or_default()).unwrap();
                *line = Both { weighted: plus(Count::Weighted), raw: plus(Count::Raw) };
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn release(&self, id: ReservationId) -> Later<'_, Result<(), NotHeld>> {
        self.open.lock().unwrap().remove(&id);
        Box::pin(std::future::ready(Ok(())))
    }
}
