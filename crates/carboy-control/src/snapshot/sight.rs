//! What a look at the home shows: runs that live or wait, and the end of the log.
//!
//! *Must never* read the whole log: it begins at its end and goes on from there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use carboy_core::audit::Entry;

use crate::home::Home;
use crate::log::{Follow, follow};
use crate::registry::{self, Answer};
use crate::resume::{self, Waiting};

/// Most entries that are kept of one run.
pub const LOG_LINES_MAX: usize = 40;
/// Most runs of which entries are kept.
pub const RUNS_LOGGED_MAX: usize = 256;
/// Entries that are read back when it begins.
const LOOK_BACK: usize = 1_000;
/// Looks between two at the runs that have ended: those are many.
const WAITING_EVERY: u32 = 5;

/// The latest of what is seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) runs: Vec<Answer>,
    pub(super) blind: Option<String>,
    pub(super) log: BTreeMap<String, Vec<Entry>>,
}

/// Who looks.
pub(super) struct Sight {
    home: Home,
    looks: u32,
    frozen: Vec<Waiting>,
    follow: Option<Follow>,
    log: BTreeMap<String, VecDeque<Entry>>,
}

impl Sight {
    pub(super) fn new(home: Home) -> Sight {
        Sight { home, looks: 0, frozen: Vec::new(), follow: None, log: BTreeMap::new() }
    }

    /// Looks once. Runs that do not answer are waited for as long as `ps` waits.
    pub(super) fn look(&mut self) -> Seen {
        let (live, blind) = match registry::live_runs(&self.home) {
            Ok(live) => (live, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        if self.looks.is_multiple_of(WAITING_EVERY) {
            self.frozen = resume::waiting(&self.home).into_iter().filter(Waiting::is_frozen).collect();
        }
        self.looks = self.looks.wrapping_add(1);
        let lives: BTreeSet<&str> = live.iter().map(|run| run.record.run.as_str()).collect();
        let frozen = self.frozen.iter().filter(|one| !lives.contains(one.past.record.run.as_str()));
        let runs: Vec<Answer> = frozen.cloned().map(Answer::from).chain(live.iter().cloned()).collect();
        self.read_log();
        let known: BTreeSet<&str> = runs.iter().map(|run| run.record.run.as_str()).collect();
        let log = self.log.iter().filter(|(run, _)| known.contains(run.as_str()));
        let log = log.map(|(run, entries)| (run.clone(), entries.iter().cloned().collect())).collect();
        Seen { runs, blind, log }
    }

    fn read_log(&mut self) {
        if self.follow.is_none() {
            // There is none before the first run; one that was put elsewhere is begun anew.
            self.follow = follow(&self.home.audit_log(), LOOK_BACK).ok();
            self.log.clear();
        }
        let Some(follow) = &mut self.follow else { return };
        let Ok(entries) = follow.poll() else {
            self.follow = None;
            return;
        };
        for entry in entries {
            let Some(run) = entry.text("run").map(str::to_owned) else { continue };
            if !self.log.contains_key(&run) && self.log.len() >= RUNS_LOGGED_MAX {
                // The run of which nothing was heard for the longest time.
                let oldest = self.log.iter().min_by_key(|(_, kept)| kept.back().and_then(Entry::seq));
                let oldest = oldest.map(|(run, _)| run.clone());
                oldest.and_then(|run| self.log.remove(&run));
            }
            let kept = self.log.entry(run).or_default();
            kept.push_back(entry);
            while kept.len() > LOG_LINES_MAX {
                kept.pop_front();
            }
        }
    }
}
