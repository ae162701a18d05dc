//! What it takes to start a run again: written beside its record when it starts, kept up to date, gone when it has ended.
//!
//! ```text
//! start ─► resume.json (running) ─► cut off │ paused │ frozen ─► running … ─► ended: the file goes
//!                 │                              │
//!                 └── its supervisor was lost    └── frozen: written before its processes end
//!                              └───────────┬──────────┘
//!                                    `carboy resume`
//! ```
//!
//! *Must never* hold a secret: of the variables that were given by hand only the names are kept.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use carboy_core::budget::{Binding, BudgetSet, CapKind, CapLine, LedgerSnapshot, Terms, read_shown, shown};
use carboy_core::ids::{BottleName, RunId};
use carboy_core::ports::Clock;
use carboy_manifest::Provider;
use carboy_manifest::providers;
use carboy_store::controller::protocol::{Call, Role};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::clock::SystemClock;
use crate::controller::Starter;
use crate::home::{Home, HomeError, read_private, write_private};
use crate::runs::{self, Past};
use crate::summary::{By, Ended};

/// This form of the file.
const VERSION: u32 = 1;
/// Largest file, in bytes: a task, a command line of the kernel's longest, and room.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Entries of a home that are looked at for a conversation.
const ENTRIES_MAX: usize = 10_000;
/// Longest wait for the controller's word.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(2);
/// Directories below which a conversation may lie.
const DEPTH_MAX: usize = 6;

/// How a run stands, as far as it can be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It goes on.
    Running,
    /// Its routes are closed.
    CutOff,
    /// Its processes stand still.
    Paused,
    /// Its processes are ended, or about to be.
    Frozen,
}

impl Standing {
    /// In a word, for people.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Running => "running",
            Standing::CutOff => "cut off",
            Standing::Paused => "paused",
            Standing::Frozen => "frozen",
        }
    }
}

/// Everything that is needed beside its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resumable {
    /// The form of this file.
    version: u32,
    /// How it stands.
    pub standing: Standing,
    /// Who stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// When it was started for the first time.
    pub first_ms: u64,
    /// How often it was started again.
    pub times: u32,
    /// The flags that it was started with, as the command line keeps them; the task is in there, values of variables are not.
    pub flags: serde_json::Value,
}

impl Resumable {
    /// Of a run that starts now; `before` is what was kept of it when it is started again.
    pub fn begun(flags: serde_json::Value, before: Option<&Resumable>) -> Resumable {
        let now = SystemClock.now_ms();
        Resumable {
            version: VERSION,
            standing: Standing::Running,
            by: None,
            why: None,
            since_ms: now,
            first_ms: before.map_or(now, |before| before.first_ms),
            times: before.map_or(0, |before| before.times.saturating_add(1)),
            flags,
        }
    }

    fn read(dir: &Path) -> Option<Resumable> {
        let bytes = read_private(&path(dir)).ok()??;
        let read: Option<Resumable> = (bytes.len() <= FILE_BYTES_MAX).then(|| serde_json::from_slice(&bytes).ok())?;
        read.filter(|resumable| resumable.version == VERSION)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("resume.json")
}

/// Keeps the file of a run that lives.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    kept: Mutex<Resumable>,
}

impl Keeper {
    /// Writes it for the first time.
    pub fn begin(dir: &Path, resumable: Resumable) -> Result<Keeper, HomeError> {
        write(dir, &resumable)?;
        Ok(Keeper { dir: dir.to_owned(), kept: Mutex::new(resumable) })
    }

    /// How it stands from now on; on the disk when this comes back.
    pub fn stand(&self, standing: Standing, by: By, why: &str) -> Result<(), HomeError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (by, why) = match standing {
            Standing::Running => (None, None),
            Standing::CutOff | Standing::Paused | Standing::Frozen => (Some(by), Some(why.to_owned())),
        };
        let next = Resumable { standing, by, why, since_ms: SystemClock.now_ms(), ..kept.clone() };
        write(&self.dir, &next)?;
        *kept = next;
        Ok(())
    }

    /// It has ended: nothing is left to go on with.
    pub fn forget(&self) {
        // Where it stays, the summary beside it says that the run has ended.
        let _ = std::fs::remove_file(path(&self.dir));
    }
}

fn write(dir: &Path, resumable: &Resumable) -> Result<(), HomeError> {
    write_private(&path(dir), &serde_json::to_vec(resumable).expect("texts and numbers are valid JSON"))
}

/// A run that does not live and can be started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What is kept of it.
    pub past: Past,
    /// What it takes.
    pub resumable: Resumable,
}

impl Waiting {
    /// `frozen` or `lost`.
    pub fn word(&self) -> &'static str {
        if self.is_frozen() { "frozen" } else { "lost" }
    }

    /// Was it frozen on purpose, or did its supervisor disappear?
    pub fn is_frozen(&self) -> bool {
        self.resumable.standing == Standing::Frozen
    }
}

/// Every run that was frozen or lost, oldest first. Ask [`live_runs`](crate::registry::live_runs) before: it clears the
/// records of those that do not live.
pub fn waiting(home: &Home) -> Vec<Waiting> {
    runs::past(home).into_iter().filter_map(Waiting::of).collect()
}

impl Waiting {
    /// Of a run that does not live; `None` when it has ended.
    pub fn of(past: Past) -> Option<Waiting> {
        if past.summary.as_ref().is_some_and(|summary| summary.ended != Ended::Frozen) {
            return None;
        }
        let resumable = Resumable::read(&past.dir)?;
        Some(Waiting { past, resumable })
    }
}

/// A cap that is still spent, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Which, in words.
    pub what: String,
    /// The command that makes room.
    pub next: String,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, still; `{}` makes room, then resume it", self.what, self.next)
    }
}

/// May a run that is started again go on, or would the cap that stopped it stop it at once? `budgets` are its files' own: the
/// controller knows the caps of those that live.
pub(crate) async fn has_room(controller: &Starter, before: &Resumable, budgets: &BudgetSet) -> Result<(), AgainError> {
    let (Some(By::Budget), Some(why)) = (before.by, &before.why) else { return Ok(()) };
    match spent_cap(controller, why, Some(budgets)).await {
        Some(spent) => Err(AgainError::StillSpent(spent)),
        None => Ok(()),
    }
}

/// Is the cap that stopped a run still spent? `why` is what the run was told then. A controller that says nothing in time
/// keeps nobody from going on: it refuses, and stops the run again, as soon as it can.
pub(crate) async fn spent_cap(controller: &Starter, why: &str, budgets: Option<&BudgetSet>) -> Option<Spent> {
    let look = async {
        let mut line = controller.line(Role::Observer).await.ok()?;
        // Of a window that ends only the controller knows how much of the whole counts.
        let call = budgets.map_or(Call::Snapshot, |budgets| Call::Foreseen(vec![budgets.clone()]));
        line.text(call).await.ok()
    };
    let text = tokio::time::timeout(LOOK_WAIT_MAX, look).await.ok()??;
    still_spent(&serde_json::from_str(&text).ok()?, why)
}

fn still_spent(snapshot: &LedgerSnapshot, why: &str) -> Option<Spent> {
    let mut nodes = vec![&snapshot.host];
    let mut found = Vec::new();
    while let Some(node) = nodes.pop() {
        nodes.extend(&node.children);
        for line in &node.meters {
            for CapLine { kind, standing, until_ms, .. } in &line.caps {
                let (scope, meter) = (node.scope.clone(), line.meter.clone());
                found.push(Binding { scope, meter, kind: *kind, standing: *standing, until_ms: *until_ms });
            }
        }
    }
    // What the controller says of a cap stands before what the files do: somebody may have changed it.
    let now = found.into_iter().find(|cap| named(&cap.to_string()) == named(why))?;
    (is_near(&now) || !has_moved(why, &now)).then(|| {
        let flag = match now.kind {
            CapKind::Budget => "",
            CapKind::Ceiling => " --ceiling",
        };
        let next = format!("carboy budget top-up {} {}=AMOUNT{flag}", now.scope, now.meter);
        Spent { what: now.to_string(), next }
    })
}

/// `budget of run:r-1 for anthropic`, of all that is said of a cap.
fn named(words: &str) -> Option<&str> {
    words.split(": ").next()
}

fn is_near(cap: &Binding) -> bool {
    cap.standing.unspent().tokens_down() < Terms::default().output_min
}

/// Is there more room than those words said? What was left then was too little for the request that was refused.
fn has_moved(why: &str, now: &Binding) -> bool {
    let mut numbers = why.split(": ").nth(1).unwrap_or_default().split(' ').filter_map(read_shown);
    let (Some(spent), Some(cap)) = (numbers.next(), numbers.next()) else { return true };
    // Compared as they are written: what those words leave out has not moved.
    let written = |count: u64| read_shown(&shown(count)).unwrap_or(count);
    written(now.standing.spent.tokens_up()) < spent || written(now.standing.cap.tokens_down()) > cap
}

/// What a run that is started again is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// The run.
    pub run: RunId,
    /// What was kept of it.
    pub before: Resumable,
}

/// Is the only one that starts it, until the file is closed.
pub fn alone(home: &Home, bottle: &BottleName, run: &RunId) -> Result<File, AgainError> {
    let failed = |source| AgainError::Failed { run: run.clone(), source };
    let dir = home.run_dir(bottle, run);
    let lock = File::options().create(true).append(true).open(dir.join("lock")).map_err(failed)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(AgainError::Lives { run: run.clone() }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Why a run is not started again.
#[derive(Debug, thiserror::Error)]
pub enum AgainError {
    /// Somebody else does it, or has done it.
    #[error("run {run} is being resumed by another carboy, or lives; `carboy ps` shows it")]
    Lives {
        /// The run.
        run: RunId,
    },
    /// The cap that stopped it is still spent.
    #[error("{0}")]
    StillSpent(Spent),
    /// The file system said no.
    #[error("cannot have run {run} alone: {source}")]
    Failed {
        /// The run.
        run: RunId,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Has the provider's program a conversation in this home that it wrote since then?
pub fn has_conversation(provider: &Provider, home: &Path, since_ms: u64) -> bool {
    let Some(conversations) = providers::conversations(provider) else { return false };
    let since = UNIX_EPOCH + Duration::from_millis(since_ms);
    let root = home.join(conversations.below);
    let (mut directories, mut seen) = (vec![(root.clone(), 0)], 0_usize);
    while let Some((directory, depth)) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            seen += 1;
            // Never through a link: the bottle wrote these.
            let (true, Ok(meta)) = (seen <= ENTRIES_MAX, entry.metadata()) else { return false };
            let at = entry.path();
            if meta.is_dir() && depth < DEPTH_MAX {
                directories.push((at, depth + 1));
            } else if meta.is_file()
                && meta.len() > 0
                && meta.modified().is_ok_and(|modified| modified >= since)
                && at.strip_prefix(&root).is_ok_and(|below| below.to_string_lossy().contains(conversations.named))
            {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn e3_what_is_kept_is_whole_private_and_gone_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let flags = serde_json::json!({"task": "go", "env": ["TOKEN"]});
        let keeper = Keeper::begin(dir.path(), Resumable::begun(flags.clone(), None)).unwrap();
        keeper.stand(Standing::Frozen, By::Budget, "spent").unwrap();
        let read = Resumable::read(dir.path()).unwrap();
        assert_eq!((read.standing, read.by, read.why.as_deref()), (Standing::Frozen, Some(By::Budget), Some("spent")));
        assert_eq!((&read.flags, read.times), (&flags, 0));
        let mode = std::fs::metadata(path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Resumable::begun(flags, Some(&read));
        assert_eq!((again.times, again.first_ms, again.standing), (1, read.first_ms, Standing::Running));
        keeper.forget();
        assert_eq!(Resumable::read(dir.path()), None);
        // Of another form, or open to others, it is none.
        std::fs::write(path(dir.path()), "{\"version\":9}").unwrap();
        assert_eq!(Resumable::read(dir.path()), None);
    }

    #[test]
    fn c10_the_cap_that_stopped_a_run_is_known_by_its_words_and_only_while_it_is_spent() {
        let standing = |cap, spent| serde_json::json!({"cap": cap, "spent": spent, "held": 0, "count": "weighted"});
        let snapshot = |cap: u64, spent: u64| -> LedgerSnapshot {
            let both = serde_json::json!({"weighted": 0, "raw": 0});
            let cap = serde_json::json!({"kind": "budget", "standing": standing(cap, spent), "since_ms": 0, "until_ms": null, "replaced": false});
            let line = serde_json::json!({"meter": "anthropic", "spent": both, "held": both, "caps": [cap], "rate": [0, 0, 0],
                "usage": serde_json::to_value(carboy_core::budget::Usage::default()).unwrap(), "estimated": both, "requests": 1});
            let run = serde_json::json!({"scope": {"run": "r-1"}, "live": false, "meters": [line]});
            let host = serde_json::json!({"scope": "host", "live": false, "meters": [], "children": [run]});
            serde_json::from_value(
                serde_json::json!({"at_ms": 1, "host": host, "failing": null, "waiting": 0, "left_out": 0}),
            )
            .unwrap()
        };
        let why = "budget of run:r-1 for anthropic: 1 of 1 tokens spent, 0 held";
        let spent = still_spent(&snapshot(5_000_000, 4_999_000), why).unwrap();
        assert!(spent.what.starts_with("budget of run:r-1 for anthropic: "), "{spent}");
        assert!(
            spent
                .to_string()
                .ends_with("still; `carboy budget top-up run:r-1 anthropic=AMOUNT` makes room, then resume it"),
            "{spent}"
        );
        assert_eq!(still_spent(&snapshot(9_000_000, 5_000_000), why), None, "there is room again");
        let other = "budget of run:r-1 for openai: 1 of 1 tokens spent, 0 held";
        assert_eq!(still_spent(&snapshot(5_000_000, 5_000_000), other), None, "another cap");
    }

    #[test]
    fn e3_a_run_is_started_again_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None).unwrap();
        let (bottle, run) = (BottleName::parse("b").unwrap(), RunId::parse("r-1").unwrap());
        std::fs::create_dir_all(home.run_dir(&bottle, &run)).unwrap();
        let first = alone(&home, &bottle, &run).unwrap();
        assert!(matches!(alone(&home, &bottle, &run), Err(AgainError::Lives { .. })));
        drop(first);
        alone(&home, &bottle, &run).unwrap();
    }

    #[test]
    fn e3_only_a_conversation_of_this_run_is_gone_on_with() {
        let home = tempfile::tempdir().unwrap();
        let provider = Provider { name: "claude".into(), command: None, args: Vec::new(), env: BTreeMap::new() };
        let (project, now) = (home.path().join(".claude/projects/-w"), SystemClock.now_ms());
        std::fs::create_dir_all(&project).unwrap();
        assert!(!has_conversation(&provider, home.path(), 0));
        // Nothing in it, and something else: neither is one.
        std::fs::write(project.join("a.jsonl"), "").unwrap();
        std::fs::write(project.join("notes"), "x").unwrap();
        assert!(!has_conversation(&provider, home.path(), 0));
        std::fs::write(project.join("a.jsonl"), "{}").unwrap();
        assert!(has_conversation(&provider, home.path(), now - 60_000));
        assert!(!has_conversation(&provider, home.path(), now + 60_000));
        std::os::unix::fs::symlink(project, home.path().join("link")).unwrap();
        let other = Provider { name: "shell".into(), ..provider };
        assert!(!has_conversation(&other, home.path(), 0));
    }
}
