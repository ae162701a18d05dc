//! Where a run's tokens are held and charged: with the controller, or, for the tour, in this process.
//!
//! *Must never* let a run begin with a ledger of its own where a person's budget is to bind it.

use std::sync::Arc;
use std::time::Duration;

use carboy_core::audit::{hex, sha256};
use carboy_core::budget::BudgetSet;
use carboy_core::host::HostPattern;
use carboy_core::ids::{MeterName, RunId};
use carboy_core::ports::Ledger;
use carboy_manifest::Effective;
use carboy_store::controller::protocol::Supervised;
use carboy_store::controller::{Client, ClientEvents, Reach};
use carboy_store::ledger::{Engine, MemoryStore, Owner};
use carboy_wire::endpoint::meter_of;
use carboy_wire::format::WireFormat;
use tokio::sync::watch;

use super::RunError;
use crate::clock::SystemClock;
use crate::controller::Starter;
use crate::home::Home;
use crate::vault::Lookup;

/// How long an older controller may take to make room for this program's own.
const RENEW_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long endings may take to be told when a run ends.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(3);
/// Until changed budgets that could not be told are told again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// What is metered without a name of its own.
const UNKNOWN: &str = "unknown";

/// Who keeps a run's ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeping {
    /// The controller of the home, started where there is none.
    #[default]
    Controller,
    /// This process, and nobody afterwards.
    InProcess,
}

/// A run's ledger.
pub(crate) struct Kept {
    client: Option<Arc<Client>>,
    ledger: Arc<dyn Ledger>,
}

impl Kept {
    /// Opens it. Nobody waits for the controller here: what is metered does.
    pub(crate) async fn open(
        keeping: Keeping,
        (home, lookup): (&Home, &Arc<dyn Lookup>),
        effective: &Effective,
        run: &RunId,
    ) -> Result<(Kept, Option<ClientEvents>), RunError> {
        let supervised = supervised(effective, run);
        match keeping {
            Keeping::Controller => {
                let starter = Arc::new(Starter::new(home, lookup.clone())?);
                // An older one that stays is spoken to one version back, or says what to do.
                let _ = tokio::time::timeout(RENEW_WAIT_MAX, starter.renew()).await;
                let (client, events) = Client::open(starter as Arc<dyn Reach>, supervised);
                Ok((Kept { ledger: client.clone(), client: Some(client) }, Some(events)))
            }
            Keeping::InProcess => {
                let failed = |why: String| RunError::Ledger(why);
                let engine = Engine::open(Box::new(MemoryStore::default()), Arc::new(SystemClock));
                let engine = engine.map_err(|e| failed(e.to_string()))?;
                let owner = Owner {
                    id: 1,
                    run: supervised.run,
                    bottle: supervised.bottle,
                    agent: supervised.agent,
                    pid: std::process::id(),
                    start_time: 0,
                    boot_id: String::new(),
                };
                let hello = engine.hello(owner, supervised.budgets, supervised.meters).await;
                hello.map_err(|e| failed(e.to_string()))?;
                Ok((Kept { ledger: engine.ledger(1), client: None }, None))
            }
        }
    }

    /// For the gateway.
    pub(crate) fn ledger(&self) -> Arc<dyn Ledger> {
        self.ledger.clone()
    }

    /// Tells the controller of changed budgets, for as long as anybody changes them.
    pub(crate) fn follow(
        &self,
        mut budgets: watch::Receiver<BudgetSet>,
        effective: &Effective,
        run: &RunId,
    ) -> Option<tokio::task::JoinHandle<()>> {
        let (client, mut supervised) = (self.client.clone()?, supervised(effective, run));
        Some(tokio::spawn(async move {
            while budgets.changed().await.is_ok() {
                loop {
                    supervised.budgets = budgets.borrow_and_update().clone();
                    match client.renew(supervised.clone()).await {
                        Ok(()) => break,
                        // They are told with the next hello in any case; a controller that could not write is asked again.
                        Err(_) => tokio::time::sleep(RETRY_AFTER).await,
                    }
                }
            }
        }))
    }

    /// Waits, so long as is fair, until every ending was told; how many were not. They are charged in full.
    pub(crate) async fn drained(&self) -> usize {
        match &self.client {
            Some(client) => client.drained(DRAIN_WAIT_MAX).await,
            None => 0,
        }
    }
}

/// What the controller is told of a run.
fn supervised(effective: &Effective, run: &RunId) -> Supervised {
    // What may be reached and spent: two runs of one digest are bound by the same.
    let budgets = effective.budgets_of(run);
    let plan = format!("{:?}\n{budgets:?}", effective.routes);
    Supervised {
        run: run.to_string(),
        bottle: effective.bottle.to_string(),
        agent: effective.agent.as_ref().map(ToString::to_string),
        plan: hex(&sha256(plan.as_bytes())),
        budgets,
        meters: meters(effective),
    }
}

/// What its routes are metered by. A host that is nobody's known one may turn out to speak a model's format.
fn meters(effective: &Effective) -> Vec<MeterName> {
    let of = |route: &carboy_core::route::Route| match (&route.meter, &route.host) {
        (Some(meter), _) => Some(meter.clone()),
        // The format has no say in whose host it is.
        (None, HostPattern::Exact(host)) => Some(meter_of(None, host, WireFormat::OpenAiChat)),
        (None, HostPattern::Below(_)) => MeterName::parse(UNKNOWN).ok(),
    };
    let mut meters: Vec<MeterName> = effective.routes.iter().filter_map(of).collect();
    meters.sort();
    meters.dedup();
    meters
}
