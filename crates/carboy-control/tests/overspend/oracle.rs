//! The provider's bill held against the caps, at every step of it.
//!
//! *Must never* ask the ledger: what it compares is what the provider would charge with what was allowed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use carboy_sim::{Account, Bill, Billed};

/// How tokens are counted against a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    Weighted,
    Raw,
}

impl Counts {
    pub fn milli(self, bill: &Bill) -> u64 {
        match self {
            Counts::Weighted => bill.weighted_milli(),
            Counts::Raw => bill.raw() * 1000,
        }
    }
}

/// One cap as the provider's bill sees it.
#[derive(Debug)]
pub struct Limit {
    pub name: String,
    pub meter: &'static str,
    pub counts: Counts,
    /// Whose requests count, by the names of their keys.
    pub members: Vec<String>,
    /// The most that was ever allowed, in thousandths: raised before the ledger hears of it. A cap that is lowered leaves
    /// what is under way under it, so it is not lowered here.
    allowed: AtomicU64,
    /// What is allowed now, for the utilisation.
    now: AtomicU64,
    /// The highest that the bill was.
    peak: AtomicU64,
    /// When its window ends and another begins; what is allowed counts in each.
    ends: Option<Instant>,
}

/// Between its admission and its arrival at the provider a request takes no longer than this.
const ON_ITS_WAY: Duration = Duration::from_secs(4);

impl Limit {
    /// With a window that ends then.
    pub fn ending(mut self, at: Instant) -> Limit {
        self.ends = Some(at);
        self
    }

    pub fn new(name: &str, meter: &'static str, counts: Counts, members: &[&str], tokens: u64) -> Limit {
        Limit {
            name: name.into(),
            meter,
            counts,
            members: members.iter().map(|member| (*member).to_owned()).collect(),
            allowed: AtomicU64::new(tokens * 1000),
            now: AtomicU64::new(tokens * 1000),
            peak: AtomicU64::new(0),
            ends: None,
        }
    }

    /// Before the ledger is told.
    pub fn set(&self, tokens: u64) {
        self.allowed.fetch_max(tokens * 1000, Ordering::SeqCst);
        self.now.store(tokens * 1000, Ordering::SeqCst);
    }

    pub fn allowed_milli(&self) -> u64 {
        self.allowed.load(Ordering::SeqCst)
    }

    pub fn cap_milli(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub fn peak_milli(&self) -> u64 {
        self.peak.load(Ordering::SeqCst)
    }
}

/// Every cap, and what went beyond one.
#[derive(Debug, Default)]
pub struct Oracle {
    pub limits: Vec<Arc<Limit>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<Account, Bill>,
    steps: u64,
    /// When each request of a windowed cap arrived, and what it is billed.
    arrivals: BTreeMap<u64, (Instant, Bill)>,
    beyond: BTreeMap<String, String>,
}

impl Oracle {
    pub fn new(limits: Vec<Arc<Limit>>) -> Arc<Oracle> {
        Arc::new(Oracle { limits, state: Mutex::default() })
    }

    /// One step of the bill.
    pub fn billed(&self, step: &Billed<'_>) {
        let mut state = self.state.lock().unwrap();
        state.steps += 1;
        state.accounts.insert(step.account.clone(), step.of_account);
        for limit in &self.limits {
            if limit.meter != step.account.meter || !limit.members.contains(&step.account.customer) {
                continue;
            }
            let billed = match limit.ends {
                None => limit.counts.milli(&sum(&state.accounts, limit)),
                Some(end) => {
                    let arrived = state.arrivals.entry(step.serial).or_insert((Instant::now(), Bill::default()));
                    arrived.1 = plus(arrived.1, step.added);
                    in_window(&state.arrivals, limit, end)
                }
            };
            limit.peak.fetch_max(billed, Ordering::SeqCst);
            let allowed = limit.allowed_milli();
            if billed > allowed {
                let text = format!(
                    "{}: {billed} of {allowed} milli-tokens billed for {} at step {}, request {} ({:?} more)",
                    limit.name, limit.meter, state.steps, step.serial, step.added
                );
                // The first is what has to be looked at; the last says how far it went.
                let first = state.beyond.entry(limit.name.clone()).or_insert_with(|| text.clone());
                *first = format!("{}\n      … {text}", first.lines().next().unwrap_or_default());
            }
        }
    }

    /// Steps of the bill so far.
    pub fn steps(&self) -> u64 {
        self.state.lock().unwrap().steps
    }

    /// What went beyond a cap.
    pub fn beyond(&self) -> Vec<String> {
        self.state.lock().unwrap().beyond.values().cloned().collect()
    }

    /// What the provider bills the owner of one key.
    pub fn account(&self, customer: &str) -> Bill {
        let state = self.state.lock().unwrap();
        state
            .accounts
            .iter()
            .find(|(account, _)| account.customer == customer)
            .map(|(_, bill)| *bill)
            .unwrap_or_default()
    }
}

/// The fuller of the two windows. A request counts in that of its admission, which came before its arrival: one that arrived
/// just after the end may belong to either, and is counted in neither but in the sum of both.
fn in_window(arrivals: &BTreeMap<u64, (Instant, Bill)>, limit: &Limit, end: Instant) -> u64 {
    let billed = |counts: &dyn Fn(Instant) -> bool| -> u64 {
        arrivals.values().filter(|(at, _)| counts(*at)).map(|(_, bill)| limit.counts.milli(bill)).sum()
    };
    let (first, second) = (billed(&|at| at < end), billed(&|at| at >= end + ON_ITS_WAY));
    first.max(second).max(billed(&|_| true).div_ceil(2))
}

fn plus(one: Bill, other: Bill) -> Bill {
    Bill {
        requests: one.requests + other.requests,
        interrupted: one.interrupted + other.interrupted,
        input: one.input + other.input,
        cache_write: one.cache_write + other.cache_write,
        cache_read: one.cache_read + other.cache_read,
        output: one.output + other.output,
    }
}

fn sum(accounts: &BTreeMap<Account, Bill>, limit: &Limit) -> Bill {
    let own = accounts
        .iter()
        .filter(|(account, _)| account.meter == limit.meter && limit.members.contains(&account.customer));
    own.fold(Bill::default(), |sum, (_, bill)| plus(sum, *bill))
}
