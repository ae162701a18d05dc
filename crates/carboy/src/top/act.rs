//! What is done to runs and budgets, by the functions of `stop`, `resume` and `budget`: what they write down is the same.
//!
//! *Must never* print: the screen is the dashboard's.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use carboy_control::registry::Answer;
use carboy_core::budget::{Scope, Shutdown};
use tokio::runtime::Handle;

use super::state::{Action, Banner, Giving};
use crate::args::{SetArgs, TopUpArgs};
use crate::environment::Environment;
use crate::report::Failure;
use crate::{budget, resume, runs};

/// Results that wait to be shown; one that does not fit is dropped, as a newer one would hide it.
const RESULTS_MAX: usize = 16;

/// What an action is called before it is done.
pub fn words(action: &Action) -> String {
    let verb = |how: &Shutdown| match how {
        Shutdown::Cutoff => "cut off",
        Shutdown::Pause => "pause",
        Shutdown::Freeze => "freeze",
        Shutdown::Kill => "kill",
    };
    match action {
        Action::Stop { how, of, runs } => format!("{} {}", verb(how), whom(of, runs)),
        Action::Resume { of, runs } => format!("resume {}", whom(of, runs)),
        Action::Give { giving: Giving::TopUp, scope, amount } => format!("top up {scope} by {amount}"),
        Action::Give { giving: Giving::Budget, scope, amount } => format!("set the budget of {scope} to {amount}"),
    }
}

fn whom(of: &Scope, runs: &[Answer]) -> String {
    match (of, runs) {
        (Scope::Run(_), [run]) => format!("{} of bottle {}", run.record.run, run.record.bottle),
        (_, [run]) => format!("{}, the one run of {of}", run.record.run),
        (_, runs) => format!("all {} runs of {of}", runs.len()),
    }
}

/// Who does it, beside the screen.
pub struct Doing {
    handle: Handle,
    environment: Arc<Environment>,
    told: SyncSender<Banner>,
    results: Receiver<Banner>,
}

impl Doing {
    pub fn new(handle: Handle, environment: Arc<Environment>) -> Doing {
        let (told, results) = sync_channel(RESULTS_MAX);
        Doing { handle, environment, told, results }
    }

    /// What came of the last one that is through.
    pub fn result(&self) -> Option<Banner> {
        self.results.try_iter().last()
    }

    /// Begins; what comes of it is a [`result`](Self::result). Runs that have to be started again are given back: that
    /// may ask questions.
    pub fn begin(&self, action: Action) -> Vec<Answer> {
        let (told, environment) = (self.told.clone(), Arc::clone(&self.environment));
        match action {
            Action::Stop { how, runs, .. } => {
                self.handle.spawn_blocking(move || {
                    let all: Vec<_> = runs.iter().map(|run| runs::stop_one(run, how)).collect();
                    let _ = told.try_send(banner(all));
                });
            }
            Action::Resume { runs, .. } => {
                let (frozen, live): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| run.state == "frozen");
                if !live.is_empty() {
                    self.handle.spawn_blocking(move || {
                        let all: Vec<_> = live.iter().map(|run| resume::let_go_on(&run.record)).collect();
                        let _ = told.try_send(banner(all));
                    });
                }
                return frozen;
            }
            Action::Give { giving, scope, amount } => {
                self.handle.spawn(async move {
                    let given = give(giving, &scope, amount, &environment).await;
                    let _ = told.try_send(banner(vec![given]));
                });
            }
        }
        Vec::new()
    }
}

async fn give(giving: Giving, scope: &Scope, amount: String, environment: &Environment) -> Result<String, Failure> {
    let scope = scope.to_string();
    let changed = match giving {
        Giving::TopUp => budget::top_up(&TopUpArgs { scope, amount, ceiling: false, json: false }, environment).await?,
        Giving::Budget => {
            budget::set(&SetArgs { scope, amount, ceiling: false, window: None, count: None, json: false }, environment)
                .await?
        }
    };
    Ok(changed.told.join("; "))
}

/// What is said of several: the first that failed, else how it went with all of them.
pub fn banner(all: Vec<Result<String, Failure>>) -> Banner {
    let (mut said, mut failed) = (Vec::new(), Vec::new());
    for one in all {
        match one {
            Ok(words) => said.push(words),
            Err(failure) => failed.push(failure),
        }
    }
    let others = failed.len().saturating_sub(1);
    match (failed.into_iter().next(), said.len()) {
        (Some(failure), _) => {
            let more = if others > 0 { format!(" (and {others} more)") } else { String::new() };
            Banner::Failed { what: format!("{}{more}", failure.message), next: failure.hint }
        }
        (None, 0 | 1) => Banner::Done(said.pop().unwrap_or_default()),
        (None, count) => Banner::Done(format!("{}; and so are {} more", said[0], count - 1)),
    }
}
