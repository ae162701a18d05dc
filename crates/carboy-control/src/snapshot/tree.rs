//! The ledger's tree with the runs put in: those that have spent nothing yet, or that have no controller, stand in it too.

use std::collections::BTreeMap;

use carboy_core::budget::{InFlight, LedgerSnapshot, MeterLine, Node, Scope};

use super::Snapshot;
use crate::registry::Answer;

/// How a scope goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunState {
    /// It works.
    Running,
    /// Its routes are closed.
    CutOff,
    /// Its processes stand still.
    Paused,
    /// Its processes have ended, and it may be resumed.
    Frozen,
    /// It is about to end.
    Stopping,
    /// It does not answer.
    Silent,
    /// Of nothing that runs.
    Ended,
}

impl RunState {
    /// Of the word that a run says.
    pub fn of(word: &str) -> RunState {
        match word {
            "running" => RunState::Running,
            "cut off" => RunState::CutOff,
            "paused" => RunState::Paused,
            "frozen" => RunState::Frozen,
            "stopping" => RunState::Stopping,
            // A word of a newer supervisor's is no reason to say that it runs.
            _ => RunState::Silent,
        }
    }

    /// For a person.
    pub fn word(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::CutOff => "cut off",
            RunState::Paused => "paused",
            RunState::Frozen => "frozen",
            RunState::Stopping => "stopping",
            RunState::Silent => "silent",
            RunState::Ended => "ended",
        }
    }
}

/// One scope and everything below it.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Which.
    pub scope: Scope,
    /// Its figures.
    pub meters: Vec<MeterLine>,
    /// Its requests under way, or those of all runs below it.
    pub in_flight: Vec<InFlight>,
    /// The run, where it is one that lives or waits.
    pub run: Option<Answer>,
    /// Runs at or below it that live or wait.
    pub runs: usize,
    /// Below it.
    pub children: Vec<Place>,
}

impl Place {
    fn empty(scope: Scope) -> Place {
        Place { scope, meters: vec![], in_flight: vec![], run: None, runs: 0, children: vec![] }
    }

    /// Every run at or below it.
    pub fn all_runs(&self) -> Vec<&Answer> {
        self.run.iter().chain(self.children.iter().flat_map(Place::all_runs)).collect()
    }
}

/// The host, and below it its bottles, their agents and the runs.
pub fn places(snapshot: &Snapshot) -> Place {
    let mut runs: BTreeMap<&str, &Answer> = snapshot.runs.iter().map(|run| (run.record.run.as_str(), run)).collect();
    let mut host = match &snapshot.ledger {
        Some(LedgerSnapshot { host, .. }) => place(host, &mut runs),
        None => Place::empty(Scope::Host),
    };
    // Oldest first, as they are listed.
    for run in &snapshot.runs {
        if runs.contains_key(run.record.run.as_str()) {
            put(&mut host, run);
        }
    }
    sum(&mut host);
    host
}

fn place(node: &Node, runs: &mut BTreeMap<&str, &Answer>) -> Place {
    let run = if let Scope::Run(id) = &node.scope { runs.remove(id.as_str()).cloned() } else { None };
    Place {
        scope: node.scope.clone(),
        meters: node.meters.clone(),
        in_flight: node.in_flight.clone(),
        run,
        runs: 0,
        children: node.children.iter().map(|child| place(child, runs)).collect(),
    }
}

/// Below its bottle and its agent, wherever those stand.
fn put(host: &mut Place, run: &Answer) {
    let mut at = host;
    let agent = run.record.agent.clone().map(Scope::Agent);
    for scope in [Some(Scope::Bottle(run.record.bottle.clone())), agent].into_iter().flatten() {
        at = below(at, scope);
    }
    let mut place = Place::empty(Scope::Run(run.record.run.clone()));
    place.run = Some(run.clone());
    at.children.push(place);
}

fn below(at: &mut Place, scope: Scope) -> &mut Place {
    let found = at.children.iter().position(|child| has(child, &scope));
    let index = found.unwrap_or_else(|| {
        at.children.push(Place::empty(scope.clone()));
        at.children.len() - 1
    });
    let child = &mut at.children[index];
    // A bottle stands below those that it is made of.
    if child.scope == scope { child } else { below(child, scope) }
}

fn has(place: &Place, scope: &Scope) -> bool {
    place.scope == *scope || place.children.iter().any(|child| has(child, scope))
}

fn sum(place: &mut Place) {
    place.children.iter_mut().for_each(sum);
    place.runs = usize::from(place.run.is_some()) + place.children.iter().map(|child| child.runs).sum::<usize>();
    let below: Vec<InFlight> = place.children.iter().flat_map(|child| child.in_flight.clone()).collect();
    if !below.is_empty() {
        place.in_flight.extend(below);
        place.in_flight.sort_by_key(|flight| std::cmp::Reverse(flight.age_ms));
    }
}
