//! What is asked of the controller, carried out: by a supervisor many at a time, by a person one after the other.
//!
//! *Must never* let a supervisor change a cap, or an observer anything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::budget::{NotHeld, ReservationId};
use carboy_store::controller::frame;
use carboy_store::controller::protocol::{Answer, Call, Request, Said, Supervised, parts};
use carboy_store::ledger::UsageQuery;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinHandle};

use super::connection::{Ends, Out, say};
use super::leases::Owner;
use super::serving::Serving;

/// Most admissions of one supervisor that wait at once.
pub const ADMISSIONS_MAX: usize = 1_024;
/// Most other requests of one supervisor under way; more are read when these are answered.
pub const REQUESTS_MAX: usize = 256;

/// A supervisor's requests.
pub(super) struct Supervising {
    serving: Arc<Serving>,
    owner: Owner,
    number: u64,
    supervised: Supervised,
    out: Out,
    admissions: HashMap<ReservationId, JoinHandle<()>>,
    others: Arc<Semaphore>,
}

impl Supervising {
    pub(super) fn new(
        serving: Arc<Serving>,
        owner: Owner,
        number: u64,
        supervised: Supervised,
        out: &Out,
    ) -> Supervising {
        let (admissions, others) = (HashMap::new(), Arc::new(Semaphore::new(REQUESTS_MAX)));
        Supervising { serving, owner, number, supervised, out: out.clone(), admissions, others }
    }

    /// Begins to carry a request out. Waits only where too many are under way.
    pub(super) async fn take(&mut self, Request { number, call }: Request) -> Result<(), Ends> {
        let (owner, keeper) = (self.number, self.serving.keeper.clone());
        match call {
            Call::Heartbeat => self.answer(number, Answer::Done).await,
            Call::Admit(ask) => {
                self.admissions.retain(|_, admission| !admission.is_finished());
                if self.admissions.len() >= ADMISSIONS_MAX {
                    let words = format!("{ADMISSIONS_MAX} requests of this run wait already; try again");
                    return self.answer(number, Answer::NotHeld(NotHeld::Unavailable(words))).await;
                }
                let (out, id) = (self.out.clone(), ask.id);
                let admission = tokio::spawn(async move {
                    let answer = match keeper.admit(owner, ask).await {
                        Ok(admitted) => Answer::Admitted(admitted),
                        Err(why) => Answer::NotHeld(why),
                    };
                    say(&out, &Said::Answer(number, answer)).await;
                });
                // The same name again comes from the same client over a new connection; the older asking is forgotten.
                if let Some(before) = self.admissions.insert(id, admission) {
                    before.abort();
                }
                Ok(())
            }
            Call::Dispatch(id) => {
                self.begin(number, async move { done(keeper.engine().dispatch(owner, id).await) }).await
            }
            Call::Extend(id, output) => {
                let extend = async move {
                    match keeper.engine().extend(owner, id, output).await {
                        Ok(held) => Answer::Extended(held),
                        Err(why) => Answer::NotHeld(why),
                    }
                };
                self.begin(number, extend).await
            }
            Call::Settle(id, ending) => {
                self.begin(number, async move { done(keeper.engine().settle(owner, id, ending).await) }).await
            }
            Call::Release(id) => {
                let admission = self.admissions.remove(&id);
                // Here already: a connection may end before there is room to begin.
                admission.iter().for_each(JoinHandle::abort);
                let release = async move {
                    if let Some(admission) = admission {
                        // Only when it does not ask any more is there nothing left that could hold.
                        let _ = admission.await;
                    }
                    done(keeper.engine().release(owner, id).await)
                };
                self.begin(number, release).await
            }
            Call::Renew(supervised) => self.renew(number, *supervised).await,
            Call::Snapshot
            | Call::Foreseen(_)
            | Call::Watch
            | Call::Usage(_)
            | Call::SetCap(..)
            | Call::UnsetCap(_)
            | Call::TopUp(..)
            | Call::Status
            | Call::Shutdown { .. } => {
                self.answer(number, Answer::Refused("this is not for a supervisor to ask".into())).await
            }
        }
    }

    async fn answer(&self, number: u64, answer: Answer) -> Result<(), Ends> {
        if say(&self.out, &Said::Answer(number, answer)).await { Ok(()) } else { Err(Ends::Closed) }
    }

    /// Carries it out beside the others. It goes on when the connection is lost: it may have been promised already.
    async fn begin(&self, number: u64, work: impl Future<Output = Answer> + Send + 'static) -> Result<(), Ends> {
        let Ok(permit) = self.others.clone().acquire_owned().await else { return Err(Ends::Closed) };
        let (out, keeper) = (self.out.clone(), self.serving.keeper.clone());
        tokio::spawn(async move {
            let answer = work.await;
            keeper.touched();
            say(&out, &Said::Answer(number, answer)).await;
            drop(permit);
        });
        Ok(())
    }

    /// New budgets hold before anything that is asked after them.
    async fn renew(&mut self, number: u64, supervised: Supervised) -> Result<(), Ends> {
        if supervised.run != self.supervised.run || supervised.bottle != self.supervised.bottle {
            return self.answer(number, Answer::Refused("a supervisor has one run and one bottle".into())).await;
        }
        let answer = match self.serving.keeper.hello(self.number, &self.owner, &supervised).await {
            Ok(()) => Answer::Done,
            Err(why) => Answer::NotHeld(why.into()),
        };
        self.supervised = supervised;
        self.answer(number, answer).await?;
        self.serving.keeper.tell_standing(self.number).await;
        Ok(())
    }

    /// Nothing waits any more; what was begun may end.
    pub(super) async fn close(&mut self, wait_max: Duration) {
        for (_, admission) in self.admissions.drain() {
            admission.abort();
        }
        let all = u32::try_from(REQUESTS_MAX).unwrap_or(u32::MAX);
        // What takes longer is durable or not, and the client asks again.
        let _ = tokio::time::timeout(wait_max, self.others.acquire_many(all)).await;
    }
}

fn done(result: Result<(), NotHeld>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(why) => Answer::NotHeld(why),
    }
}

/// What a person's connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// Look.
    Look,
    /// Look, and change what is set.
    Change,
}

/// A person's requests.
pub(super) struct Looking {
    serving: Arc<Serving>,
    may: May,
    out: Out,
    watching: Option<AbortHandle>,
}

impl Drop for Looking {
    fn drop(&mut self) {
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
    }
}

impl Looking {
    pub(super) fn new(serving: Arc<Serving>, may: May, out: &Out) -> Looking {
        Looking { serving, may, out: out.clone(), watching: None }
    }

    /// Carries a request out and answers it; `false` when nobody reads any more.
    pub(super) async fn answer(&mut self, Request { number, call }: Request) -> bool {
        let engine = self.serving.keeper.engine();
        let refused = |why: &dyn std::fmt::Display| vec![Answer::Refused(why.to_string())];
        let changed = |result: Result<Answer, carboy_store::ledger::Unavailable>| match result {
            Ok(answer) => vec![answer],
            Err(why) => refused(&why),
        };
        let may = self.may == May::Change;
        let answers = match call {
            Call::Heartbeat => vec![Answer::Done],
            Call::Status => vec![Answer::Status(Box::new(self.serving.status()))],
            Call::Snapshot => match self.serving.snapshot(Vec::new()).await {
                Ok(text) => parts(&text),
                Err(why) => refused(&why),
            },
            Call::Foreseen(sets) => match self.serving.snapshot(sets).await {
                Ok(text) => parts(&text),
                Err(why) => refused(&why),
            },
            Call::Usage(query) => self.usage(query).await,
            Call::Watch => {
                self.watch(number);
                return true;
            }
            Call::SetCap(key, edit) if may => changed(engine.set_cap(key, edit).await.map(|()| Answer::Done)),
            Call::UnsetCap(key) if may => changed(engine.unset_cap(key).await.map(Answer::Unset)),
            Call::TopUp(key, amount) if may => changed(engine.top_up(key, amount).await.map(|()| Answer::Done)),
            Call::Shutdown { only_idle } if may => match self.serving.end(only_idle) {
                Ok(()) => vec![Answer::Done],
                Err(why) => refused(&why),
            },
            Call::SetCap(..) | Call::UnsetCap(_) | Call::TopUp(..) | Call::Shutdown { .. } => {
                refused(&"whoever only looks changes nothing")
            }
            Call::Admit(_)
            | Call::Dispatch(_)
            | Call::Extend(..)
            | Call::Settle(..)
            | Call::Release(_)
            | Call::Renew(_) => refused(&"this is for a supervisor to ask"),
        };
        self.serving.keeper.touched();
        send_all(&self.out, number, answers).await
    }

    async fn usage(&self, query: UsageQuery) -> Vec<Answer> {
        let reader = self.serving.keeper.engine().reader();
        // It reads the store, which takes its time.
        let rows = tokio::task::spawn_blocking(move || reader.usage(&query)).await;
        match rows.map(|rows| rows.map(|rows| serde_json::to_string(&rows))) {
            Ok(Ok(Ok(text))) => parts(&text),
            Ok(Ok(Err(why))) => vec![Answer::Refused(why.to_string())],
            Ok(Err(why)) => vec![Answer::Refused(why.to_string())],
            Err(why) => vec![Answer::Refused(why.to_string())],
        }
    }

    /// One stream per connection; asking again begins it anew.
    fn watch(&mut self, number: u64) {
        let (out, mut snapshots) = (self.out.clone(), self.serving.snapshots.subscribe());
        let watching = tokio::spawn(async move {
            loop {
                let latest = snapshots.latest().await;
                let sent = match latest {
                    Some(text) => send_all(&out, number, parts(&text)).await,
                    None => return,
                };
                if !sent {
                    return;
                }
            }
        });
        if let Some(before) = self.watching.replace(watching.abort_handle()) {
            before.abort();
        }
    }
}

async fn send_all(out: &Out, number: u64, answers: Vec<Answer>) -> bool {
    for answer in answers {
        let said = Said::Answer(number, answer);
        // An answer that is longer than a message is said to be so.
        let said = match frame::encode(&said) {
            Ok(_) => said,
            Err(why) => Said::Answer(number, Answer::Refused(why.to_string())),
        };
        if !say(out, &said).await {
            return false;
        }
    }
    true
}
