//! What is kept of each run, while it lives and afterwards: its record, its summary, its output.
//!
//! ```text
//! state/<bottle>/runs/<run>/record.json     from the start
//! state/<bottle>/runs/<run>/output          while a session holds its streams
//! state/<bottle>/runs/<run>/resume.json     until it has ended: what it takes to start it again
//! state/<bottle>/runs/<run>/summary.json    at the end; where it is missing, the supervisor was lost
//! ```
//!
//! *Must never* remove anything of a run that lives.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use carboy_core::ids::{BottleName, RunId};

use crate::home::{Home, HomeError, private_dir, write_private};
use crate::registry::{self, RunRecord};
use crate::summary::{Ended, Summary};
use crate::workspace;
use crate::workspace::WorkspaceError;

/// Runs of one bottle that are kept; the oldest go first.
pub const RUNS_KEPT_MAX: usize = 50;
/// Largest file of a run that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A run that does not live any more.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Past {
    /// What it was.
    pub record: RunRecord,
    /// How it ended; `None` where its supervisor was lost before it could say.
    pub summary: Option<Summary>,
    /// Where it is kept.
    #[serde(skip)]
    pub dir: PathBuf,
}

impl Past {
    /// Was it frozen, and may it be resumed?
    pub fn is_frozen(&self) -> bool {
        self.summary.as_ref().is_some_and(|summary| summary.ended == Ended::Frozen)
    }
}

/// Makes the directory of a run and lets the oldest ones go. One that is started again has not ended any more.
pub fn begin(home: &Home, bottle: &BottleName, run: &RunId, record: &RunRecord) -> Result<PathBuf, HomeError> {
    let (all, dir) = (home.run_dirs(bottle), home.run_dir(bottle, run));
    private_dir(&all)?;
    make_room(home, bottle);
    private_dir(&dir)?;
    let earlier = dir.join("summary.json");
    match fs::remove_file(&earlier) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(HomeError::Io { path: earlier, source }),
        Ok(()) | Err(_) => {}
    }
    write_private(&dir.join("record.json"), &json(record))?;
    Ok(dir)
}

/// Writes down how it ended.
pub fn end(dir: &Path, summary: &Summary) -> Result<(), HomeError> {
    write_private(&dir.join("summary.json"), &json(summary))
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts and numbers are valid JSON")
}

/// Every kept run that does not live, oldest first.
pub fn past(home: &Home) -> Vec<Past> {
    let mut found = Vec::new();
    for bottle in fs::read_dir(home.states()).into_iter().flatten().flatten() {
        found.extend(past_below(home, &bottle.path().join("runs")));
    }
    found.sort_by_key(|past: &Past| past.record.started_ms);
    found
}

fn past_below(home: &Home, dir: &Path) -> Vec<Past> {
    let runs = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    runs.filter_map(|dir| {
        let record: RunRecord = read(&dir.join("record.json"))?;
        let run = RunId::parse(&record.run).ok()?;
        // A record in `run/` belongs to one that lives; `live_runs` has cleared those that do not.
        let lives = home.run_record(&run).exists();
        (!lives).then(|| Past { record, summary: read(&dir.join("summary.json")), dir })
    })
    .collect()
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    (length <= FILE_BYTES_MAX).then(|| serde_json::from_reader(io::BufReader::new(file)).ok())?
}

fn make_room(home: &Home, bottle: &BottleName) {
    let mut all = past_below(home, &home.run_dirs(bottle));
    all.sort_by_key(|past| past.record.started_ms);
    // One that waits to go on is not of the past.
    all.retain(|past| !past.is_frozen());
    let over = (all.len() + 1).saturating_sub(RUNS_KEPT_MAX);
    for past in all.drain(..over) {
        // One that cannot be removed is tried again by the next run.
        let _ = fs::remove_dir_all(&past.dir);
    }
}

/// `--rm`: removes everything that a bottle keeps. Nothing of a bottle in which another run lives, or begins.
pub fn remove_bottle(home: &Home, bottle: &BottleName, run: &RunId) -> Result<(), RemoveError> {
    if let Some(other) = another(home, bottle, run)? {
        return Err(RemoveError::Lives { bottle: bottle.clone(), run: other });
    }
    if !home.state(bottle).is_dir() {
        return Ok(());
    }
    // Who begins meanwhile has no record yet and holds the state's lock; it is asked for, not waited for.
    Ok(crate::bottles::remove(home, bottle)?)
}

/// Puts in order what runs of this bottle left in their workspaces when they were lost: stubs, hooks, configurations.
///
/// # Errors
/// When somebody has the bottle's state alone, or a journal cannot be read. The bottle's next run tries again.
pub fn put_in_order(home: &Home, bottle: &BottleName) -> io::Result<()> {
    let _among = workspace::among(home, bottle)?;
    carboy_bottle::put_crashed_in_order(&home.state(bottle), &home.states())
}

/// Another run of this bottle that lives.
pub fn another(home: &Home, bottle: &BottleName, run: &RunId) -> Result<Option<String>, HomeError> {
    let live = registry::live_runs(home)?;
    let mut others = live.into_iter().filter(|l| l.record.bottle == bottle.as_str() && l.record.run != run.as_str());
    Ok(others.next().map(|live| live.record.run))
}

/// Why a bottle was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Somebody is in it.
    #[error("the state of bottle {bottle} was not removed: run {run} lives in it")]
    Lives {
        /// The bottle.
        bottle: BottleName,
        /// Who.
        run: String,
    },
    /// The file system said no.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Somebody begins in it, or it could not be removed.
    #[error("the state of the bottle was not removed: {0}")]
    Workspace(#[from] WorkspaceError),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record(home: &Home, run: &str, started_ms: u64) -> RunRecord {
        RunRecord {
            run: run.into(),
            bottle: "b".into(),
            agent: None,
            command: vec!["true".into()],
            task: None,
            supervisor_pid: 1,
            started_ms,
            socket: home.run_socket(&RunId::parse(run).unwrap()).unwrap(),
            workdir: "/project".into(),
            tools_of: None,
            terminal: true,
        }
    }

    #[test]
    fn the_oldest_runs_go_and_one_that_lives_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None).unwrap();
        let bottle = BottleName::parse("b").unwrap();
        private_dir(&home.state(&bottle)).unwrap();
        let id = |n: usize| RunId::parse(&format!("r-{n}")).unwrap();
        write_private(&home.run_record(&id(0)), b"{}").unwrap();
        for n in 0..RUNS_KEPT_MAX + 3 {
            begin(&home, &bottle, &id(n), &record(&home, id(n).as_str(), n as u64)).unwrap();
        }
        let kept: Vec<String> = past(&home).into_iter().map(|past| past.record.run).collect();
        assert_eq!((kept.len(), kept[0].as_str()), (RUNS_KEPT_MAX, "r-3"));
        assert!(home.run_dir(&bottle, &id(0)).exists(), "it lives");
        // Without a summary it was lost.
        assert!(past(&home)[0].summary.is_none());
    }

    #[test]
    fn a_bottle_in_which_a_run_just_begins_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home"), None).unwrap();
        let (bottle, run) = (BottleName::parse("b").unwrap(), RunId::parse("r-1").unwrap());
        let workdir = dir.path().canonicalize().unwrap().join("project");
        fs::create_dir(&workdir).unwrap();
        let beginning = crate::workspace::RunOf {
            bottle: &bottle,
            run: &RunId::parse("r-2").unwrap(),
            workdir: &workdir,
            mode: crate::workspace::Mode::Direct,
            started_ms: 1,
        };
        let held = crate::workspace::hold(&home, &beginning).unwrap();
        fs::write(home.state(&bottle).join("kept"), "x").unwrap();
        let refused = remove_bottle(&home, &bottle, &run).unwrap_err();
        assert!(matches!(refused, RemoveError::Workspace(WorkspaceError::Busy { .. })), "{refused}");
        assert!(home.state(&bottle).join("kept").exists());
        drop(held);
        remove_bottle(&home, &bottle, &run).unwrap();
        remove_bottle(&home, &bottle, &run).unwrap();
        assert!(!home.state(&bottle).exists());
    }

    #[test]
    fn a_bottle_is_removed_whatever_modes_its_program_has_set() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None).unwrap();
        let bottle = BottleName::parse("b").unwrap();
        let inner = home.state(&bottle).join("home/a/b");
        fs::create_dir_all(&inner).unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&outside, inner.join("link")).unwrap();
        for closed in [inner.clone(), home.state(&bottle).join("home/a")] {
            fs::set_permissions(closed, fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_bottle(&home, &bottle, &RunId::parse("r-1").unwrap()).unwrap();
        assert!(!home.state(&bottle).exists());
        assert_eq!(fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
