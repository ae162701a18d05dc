//! The tour: carboy's main job on real exchanges, with a simulated provider outside and a simulated agent inside.
//!
//! ```text
//!  Stage (provider, bottle, agent's pipes) ──► steps, one after the other ──► Report
//! ```
//!
//! A step promises something, does it, and looks at it from both ends: what the agent got, and what the provider or
//! the log saw. *Must never* call a step good that did not go as promised; the first one that did not fails the tour.

mod stage;
mod steps;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::supervisor::RunError;
use crate::vault::Lookup;

pub use stage::StageError;

/// What the tour needs of the world.
pub struct TourRequest {
    /// An empty directory of ours, 0700; everything of the tour goes there.
    pub dir: PathBuf,
    /// The person's home, which the tour must not show.
    pub user_home: PathBuf,
    /// The program that is the agent inside: this one.
    pub program: PathBuf,
    /// Environment of the host.
    pub lookup: Arc<dyn Lookup>,
}

/// One step and how it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Stable name.
    pub name: &'static str,
    /// What is tried, in a newcomer's words.
    pub title: &'static str,
    /// What carboy promises.
    pub promise: &'static str,
    /// What was seen, one line each.
    pub observed: Vec<String>,
    /// Did it go as promised?
    pub ok: bool,
    /// Milliseconds it took.
    pub ms: u64,
}

/// The whole tour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Did every step go as promised?
    pub ok: bool,
    /// The steps.
    pub steps: Vec<Step>,
    /// The audit log it wrote.
    pub audit_log: PathBuf,
}

/// Why the tour could not be given.
#[derive(Debug, thiserror::Error)]
pub enum TourError {
    /// The stage could not be set.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The bottle could not be made.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Gives the tour; `tell` hears of each step as it is done.
pub async fn give(request: TourRequest, mut tell: impl FnMut(&Step)) -> Result<Report, TourError> {
    let started = Instant::now();
    let mut stage = stage::Stage::set(request).await?;
    let mut done: Vec<Step> = Vec::new();
    let mut clock = started;
    let mut take = |name, title, promise, seen: steps::Seen| {
        let ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        clock = Instant::now();
        let step = Step { name, title, promise, ok: seen.ok(), observed: seen.lines, ms };
        tell(&step);
        done.push(step);
    };
    take(
        "bottle",
        "A program is put into a bottle",
        "it runs as an ordinary user with no way out but through carboy, and finds fakes where keys would be",
        steps::bottle(&mut stage).await?,
    );
    take(
        "model_call",
        "It calls its model",
        "the call goes through, and the real key is added outside, after the program has let go of it",
        steps::model_calls(&mut stage).await?,
    );
    take(
        "secret_out",
        "It tries to send a secret to a host it may use",
        "the secret is recognised plain, in base64 and inside gzip, and no byte of it arrives",
        steps::secret_out(&mut stage).await?,
    );
    take(
        "unknown_host",
        "It tries a host that is not on its list",
        "the name does not resolve, and going there by address is refused with a reason",
        steps::unknown_host(&mut stage).await?,
    );
    take(
        "metadata",
        "It asks the cloud's metadata service for credentials, by address",
        "refused: an address is not a host that somebody allowed",
        steps::metadata(&mut stage).await?,
    );
    take(
        "poisoned_page",
        "It reads a page that tells it to betray its task",
        "the page is recognised and does not reach it",
        steps::poisoned_page(&mut stage).await?,
    );
    take(
        "dns",
        "It spells the secret in a name that it asks of a public name server",
        "the question is answered by carboy and goes nowhere",
        steps::dns(&mut stage).await?,
    );
    let audit_log = stage.audit_log();
    let ended = stage.close().await?;
    take(
        "audit",
        "All of it is in the log",
        "every refusal is there, the chain holds, and one changed byte is found",
        steps::audit(&audit_log, &ended)?,
    );
    let ok = done.iter().all(|step| step.ok);
    Ok(Report { ok, steps: done, audit_log })
}
