//! Snapshots as they come: three who look, each at its own pace, and one who joins what they saw.
//!
//! *Must never* start a controller: whoever wants one has started it before.

use std::sync::Arc;
use std::time::Duration;

use carboy_core::budget::{LedgerSnapshot, Scope};
use carboy_core::ports::Clock;
use carboy_store::controller::protocol::{Call, Role};
use carboy_store::controller::{Line, LineError};
use carboy_store::ledger::{By, UsageQuery, UsageRow};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::sight::{Seen, Sight};
use super::{Controller, Snapshot};
use crate::clock::SystemClock;
use crate::controller::Starter;
use crate::home::Home;
use crate::registry::ANSWER_WAIT_MAX;

/// How long until a controller that is away is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long what was spent by model stands.
const MODELS_EVERY: Duration = Duration::from_secs(5);
/// Over how long that is told.
const MODELS_MS: u64 = 30 * 24 * 3_600_000;

/// What the controller said last, as it said it: it is read when somebody looks, and not ten times a second.
#[derive(Clone, Debug)]
struct Heard {
    controller: Controller,
    text: Option<Arc<str>>,
}

/// Snapshots, the latest of which is there to be taken; it ends when it is dropped.
pub struct Feed {
    latest: watch::Receiver<Option<Arc<Snapshot>>>,
    focus: watch::Sender<Scope>,
    tasks: Vec<JoinHandle<()>>,
}

impl Feed {
    /// Looks from now on, once an interval.
    pub fn open(home: &Home, every: Duration) -> Feed {
        let (said, heard) = watch::channel(Heard { controller: Controller::Absent, text: None });
        let (shown, seen) = watch::channel(None);
        let (counted, models) = watch::channel(Vec::new());
        let (focus, focused) = watch::channel(Scope::Host);
        let (joined, latest) = watch::channel(None);
        let tasks = vec![
            tokio::spawn(listen(home.clone(), said)),
            tokio::spawn(look(home.clone(), every, shown)),
            tokio::spawn(count(home.clone(), focused, counted)),
            tokio::spawn(join(every, heard, seen, models, joined)),
        ];
        Feed { latest, focus, tasks }
    }

    /// Whose models are told.
    pub fn focus(&self, scope: &Scope) {
        self.focus.send_if_modified(|focus| {
            let other = *focus != *scope;
            if other {
                focus.clone_from(scope);
            }
            other
        });
    }

    /// The latest snapshot, when it was not taken yet.
    pub fn take(&mut self) -> Option<Arc<Snapshot>> {
        if !self.latest.has_changed().unwrap_or(false) {
            return None;
        }
        self.latest.borrow_and_update().clone()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One snapshot.
pub async fn once(home: &Home) -> Snapshot {
    let socket = home.controller_socket();
    let asked = async {
        let Ok(socket) = socket else { return (Controller::Absent, None, Vec::new()) };
        let mut line = match Line::open(&socket, Starter::version(), Role::Observer).await {
            Ok(line) => line,
            Err(error) => return (without(&error, false), None, Vec::new()),
        };
        match line.text(Call::Snapshot).await {
            Ok(text) => (Controller::Here, read(&text), models(&mut line, &Scope::Host).await.unwrap_or_default()),
            Err(error) => (without(&error, true), None, Vec::new()),
        }
    };
    let silent = || {
        let why = format!("it does not answer within {} s", ANSWER_WAIT_MAX.as_secs());
        (Controller::Away { why }, None, Vec::new())
    };
    let (controller, ledger, models) = timeout(ANSWER_WAIT_MAX, asked).await.unwrap_or_else(|_| silent());
    let mut sight = Sight::new(home.clone());
    let looked = tokio::task::spawn_blocking(move || sight.look()).await;
    let seen = looked.unwrap_or_else(|error| Seen { blind: Some(error.to_string()), ..Seen::default() });
    of(controller, ledger, &seen, models)
}

fn of(controller: Controller, ledger: Option<LedgerSnapshot>, seen: &Seen, models: Vec<UsageRow>) -> Snapshot {
    let Seen { runs, blind, log } = seen.clone();
    Snapshot { at_ms: SystemClock.now_ms(), controller, ledger, runs, blind, models, log }
}

fn read(text: &str) -> Option<LedgerSnapshot> {
    serde_json::from_str(text).ok()
}

/// What it means that there is no line.
fn without(error: &LineError, had_one: bool) -> Controller {
    match error {
        LineError::Nobody { .. } if !had_one => Controller::Absent,
        LineError::Nobody { .. } => Controller::Away { why: "nobody listens on its socket".into() },
        LineError::Version { .. }
        | LineError::Goodbye(_)
        | LineError::Refused(_)
        | LineError::Silent
        | LineError::Misunderstood
        | LineError::Ended
        | LineError::Frame(_) => Controller::Away { why: error.to_string() },
    }
}

/// Listens to the controller; tries again when it has gone.
async fn listen(home: Home, said: watch::Sender<Heard>) {
    let mut had_one = false;
    loop {
        let error = match watching(&home).await {
            Ok((mut line, number)) => loop {
                match line.watched(number).await {
                    Ok(text) => {
                        had_one = true;
                        said.send_replace(Heard { controller: Controller::Here, text: Some(text.into()) });
                    }
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        let controller = without(&error, had_one);
        said.send_modify(|heard| heard.controller = controller);
        sleep(TRY_AGAIN_AFTER).await;
    }
}

async fn watching(home: &Home) -> Result<(Line, u64), LineError> {
    let mut line = observe(home).await?;
    let number = line.send(Call::Watch).await?;
    Ok((line, number))
}

async fn observe(home: &Home) -> Result<Line, LineError> {
    let socket = home.controller_socket().map_err(|error| LineError::Refused(error.to_string()))?;
    Line::open(&socket, Starter::version(), Role::Observer).await
}

/// Looks at the runs and the log.
async fn look(home: Home, every: Duration, shown: watch::Sender<Option<Seen>>) {
    let mut sight = Sight::new(home);
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let seen = sight.look();
            (sight, seen)
        });
        let Ok((back, seen)) = looked.await else { return };
        sight = back;
        shown.send_replace(Some(seen));
        sleep(every).await;
    }
}

async fn models(line: &mut Line, scope: &Scope) -> Option<Vec<UsageRow>> {
    let since_ms = if let Scope::Run(_) = scope { 0 } else { SystemClock.now_ms().saturating_sub(MODELS_MS) };
    let query = UsageQuery { since_ms, scope: Some(scope.clone()), by: vec![By::Model], ..UsageQuery::default() };
    serde_json::from_str(&line.text(Call::Usage(query)).await.ok()?).ok()
}

/// Asks what was spent by model, of the scope that is looked at.
async fn count(home: Home, mut focused: watch::Receiver<Scope>, counted: watch::Sender<Vec<UsageRow>>) {
    let mut line = None;
    loop {
        let scope = focused.borrow_and_update().clone();
        if line.is_none() {
            line = observe(&home).await.ok();
        }
        let rows = match &mut line {
            Some(line) => models(line, &scope).await,
            None => None,
        };
        match rows {
            Some(rows) => drop(counted.send_replace(rows)),
            None => line = None,
        }
        tokio::select! {
            changed = focused.changed() => if changed.is_err() { return },
            () = sleep(MODELS_EVERY) => {}
        }
    }
}

/// Joins the latest of each.
async fn join(
    every: Duration,
    mut heard: watch::Receiver<Heard>,
    mut seen: watch::Receiver<Option<Seen>>,
    models: watch::Receiver<Vec<UsageRow>>,
    joined: watch::Sender<Option<Arc<Snapshot>>>,
) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ledger = None;
    // The first one shows the runs, and is not delayed for the others.
    if seen.wait_for(Option::is_some).await.is_err() {
        return;
    }
    loop {
        tick.tick().await;
        if heard.has_changed().unwrap_or(false)
            && let Some(text) = heard.borrow_and_update().text.clone()
        {
            ledger = read(&text).or(ledger);
        }
        let controller = heard.borrow().controller.clone();
        let looked = seen.borrow_and_update().clone().unwrap_or_default();
        let snapshot = of(controller, ledger.clone(), &looked, models.borrow().clone());
        joined.send_replace(Some(Arc::new(snapshot)));
    }
}
