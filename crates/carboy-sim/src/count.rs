//! The provider's own bill: what was read and written, for whom, step by step as it is generated.
//!
//! It is the other side of the comparison, so it shares nothing with whoever meters in between: it counts what it
//! *generates*, never what it reports. *Must never* charge for a request that was refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Config;
use crate::playback::Step;
use crate::usage::{Dice, UsageMode};

/// Tokens of so many bytes: a quarter, rounded up.
pub const fn tokens(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// What the provider would charge for: the figures that a meter in between has to arrive at by itself. The four kinds of
/// tokens are apart from each other; thinking is part of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Answered model requests, interrupted ones included, refused ones not.
    pub requests: u64,
    /// Of them those whose answer was not taken to its end.
    pub interrupted: u64,
    /// Tokens read at the full price.
    pub input: u64,
    /// Tokens written to a cache.
    pub cache_write: u64,
    /// Tokens read from a cache.
    pub cache_read: u64,
    /// Tokens written; of an interrupted answer those that were generated.
    pub output: u64,
}

impl Bill {
    /// Every token as one.
    pub fn raw(&self) -> u64 {
        self.input + self.cache_write + self.cache_read + self.output
    }

    /// In thousandths of a full-priced token, at the ratios that Anthropic documents for its prompt cache: one and a quarter
    /// for a token that is written to it, a tenth for one that is read from it.
    pub fn weighted_milli(&self) -> u64 {
        1000 * self.input + 1250 * self.cache_write + 100 * self.cache_read + 1000 * self.output
    }

    pub(crate) fn add(&mut self, other: &Bill) {
        self.requests += other.requests;
        self.interrupted += other.interrupted;
        self.input += other.input;
        self.cache_write += other.cache_write;
        self.cache_read += other.cache_read;
        self.output += other.output;
    }
}

/// Whose bill, and for what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// [`Customer::name`](crate::Customer); empty for the configured keys themselves.
    pub customer: String,
    /// `anthropic`, `openai` or `gemini`.
    pub meter: &'static str,
}

/// One step of the bill, told while nobody else can add to it.
#[derive(Debug)]
pub struct Billed<'a> {
    /// The request: counts up over all.
    pub serial: u64,
    /// Its `x-sim-tag` field, as far as its first 64 bytes.
    pub tag: &'a str,
    /// Whose.
    pub account: &'a Account,
    /// What this step added.
    pub added: Bill,
    /// The account's bill with it.
    pub of_account: Bill,
    /// Everybody's with it.
    pub of_all: Bill,
}

/// Called on every step of the bill, under its lock: it has to be quick, and must not ask for the bill.
pub type OnBilled = Arc<dyn Fn(&Billed<'_>) + Send + Sync>;

#[derive(Default)]
struct Books {
    all: Bill,
    accounts: BTreeMap<Account, Bill>,
}

/// The bill, shared by all connections.
#[derive(Clone, Default)]
pub(crate) struct Till {
    books: Arc<Mutex<Books>>,
    on_billed: Option<OnBilled>,
}

impl std::fmt::Debug for Till {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Till").field(&self.bill()).finish()
    }
}

impl Till {
    pub fn new(on_billed: Option<OnBilled>) -> Till {
        Till { books: Arc::default(), on_billed }
    }

    pub fn bill(&self) -> Bill {
        self.lock().all
    }

    pub fn bills(&self) -> BTreeMap<Account, Bill> {
        self.lock().accounts.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn charge(&self, whom: &Whom, added: Bill) {
        let mut books = self.lock();
        books.all.add(&added);
        let of_all = books.all;
        let account = books.accounts.entry(whom.account.clone()).or_default();
        account.add(&added);
        let of_account = *account;
        if let Some(on_billed) = &self.on_billed {
            let (serial, tag, account) = (whom.serial, &whom.tag[..], &whom.account);
            on_billed(&Billed { serial, tag, account, added, of_account, of_all });
        }
    }
}

/// Who is charged.
#[derive(Clone, Debug)]
pub(crate) struct Whom {
    pub account: Account,
    pub serial: u64,
    pub tag: String,
}

/// What an answer costs when it is generated to its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// What is read before the first token is written; its output is what was written unseen before that.
    pub before: Bill,
    /// Output tokens of the answer, thinking included.
    pub output: u64,
}

/// One answer while it is generated: charged as it goes. Dropped before its end, because the client left or the connection
/// was broken off, it goes on for as long as it takes to notice: the overshoot.
pub(crate) struct Generation {
    till: Till,
    whom: Whom,
    cost: Cost,
    /// Bytes generated so far that are seen, and tokens that are not.
    bytes: u64,
    hidden: u64,
    charged: u64,
    overshoot_tokens_max: u64,
    mode: UsageMode,
    dice: Dice,
    ended: bool,
}

/// Tokens of thinking that are charged at once.
const THOUGHT_TOKENS: u64 = 64;

impl Generation {
    /// The input is read, and charged.
    pub fn begin(till: &Till, whom: Whom, cost: Cost, config: &Config) -> Generation {
        till.charge(&whom, Bill { requests: 1, ..cost.before });
        Generation {
            till: till.clone(),
            // Not the numbers that its usage is made of.
            dice: Dice::new(config.usage.seed(), u64::MAX - whom.serial),
            whom,
            cost,
            bytes: 0,
            hidden: 0,
            charged: 0,
            overshoot_tokens_max: config.overshoot_tokens_max,
            mode: config.usage.clone(),
            ended: false,
        }
    }

    /// How long it takes before this step comes: what is not seen takes its time, and is charged as it is written.
    pub async fn think(&mut self, step: &Step) {
        let mut hidden = step.hidden;
        while hidden > 0 {
            let part = hidden.min(THOUGHT_TOKENS);
            tokio::time::sleep(self.mode.thinks_for(part)).await;
            self.goes_on(0, part);
            hidden -= part;
        }
    }

    /// All of its output.
    pub fn output(&self) -> u64 {
        self.cost.output
    }

    /// What of it is charged.
    pub fn charged(&self) -> u64 {
        self.charged
    }

    /// What a step holds; when it sums up, the whole.
    pub fn take(&mut self, step: &Step) {
        self.goes_on(step.output, 0);
        if step.sums_up {
            self.end();
        }
    }

    /// So many bytes more that are seen, and tokens that are not.
    pub fn goes_on(&mut self, bytes: u64, hidden: u64) {
        self.bytes += bytes;
        self.hidden += hidden;
        self.reach(tokens(self.bytes) + self.hidden);
    }

    /// It was generated to its end.
    pub fn end(&mut self) {
        self.reach(self.cost.output);
        self.ended = true;
    }

    fn reach(&mut self, output: u64) {
        let output = output.min(self.cost.output);
        if output > self.charged {
            self.till.charge(&self.whom, Bill { output: output - self.charged, ..Bill::default() });
            self.charged = output;
        }
    }
}

impl Drop for Generation {
    /// The simulated provider's network stack tells it of a client that left by dropping the answer: there is no other place.
    fn drop(&mut self) {
        if !self.ended {
            let most = self.overshoot_tokens_max.min(self.cost.output - self.charged);
            let output = self.dice.up_to(most);
            self.till.charge(&self.whom, Bill { interrupted: 1, output, ..Bill::default() });
        }
    }
}
