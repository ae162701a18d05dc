//! The tree as rows: which are shown, in which order, and the lines that lead to them.
//!
//! *Must never* change what a row stands for when the order changes: a row is known by its scope.

use std::cmp::Reverse;

use carboy_control::registry::Answer;
use carboy_control::snapshot::{Place, RunState, Snapshot, places};
use carboy_core::budget::{CapLine, InFlight, MeterLine, Scope};

use super::figures::{permille, sum, tightest};

/// In which order those stand that stand beside each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Name,
    Share,
    Spent,
    Rate,
    State,
}

impl Sort {
    /// Of the key that was pressed again.
    pub fn next(self) -> Sort {
        match self {
            Sort::Name => Sort::Share,
            Sort::Share => Sort::Spent,
            Sort::Spent => Sort::Rate,
            Sort::Rate => Sort::State,
            Sort::State => Sort::Name,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Sort::Name => "name",
            Sort::Share => "share",
            Sort::Spent => "spent",
            Sort::Rate => "rate",
            Sort::State => "state",
        }
    }
}

/// What is shown, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub sort: Sort,
    pub reversed: bool,
    /// Part of a name or a state, in lower case; empty shows everything.
    pub filter: String,
    /// Also what has ended.
    pub ended: bool,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub scope: Scope,
    /// For each step from the host: is it the last one there?
    pub last: Vec<bool>,
    pub meters: Vec<MeterLine>,
    pub in_flight: Vec<InFlight>,
    /// The run itself.
    pub run: Option<Answer>,
    /// Every run at or below it.
    pub runs: Vec<Answer>,
}

impl Row {
    /// What it is called.
    pub fn name(&self) -> &str {
        name(&self.scope)
    }

    /// How it goes on: a scope above runs goes on as the one of them that needs a look most.
    pub fn state(&self) -> RunState {
        let states = self.runs.iter().map(|run| RunState::of(&run.state));
        match &self.run {
            Some(run) => RunState::of(&run.state),
            None => states.min().unwrap_or(RunState::Ended),
        }
    }

    /// The word for that.
    pub fn state_words(&self) -> String {
        match (&self.run, self.runs.len()) {
            (Some(_), _) => self.state().word().to_owned(),
            (None, 0) if matches!(self.scope, Scope::Run(_)) => self.state().word().to_owned(),
            (None, 0) => String::new(),
            (None, 1) => "1 run".to_owned(),
            (None, runs) => format!("{runs} runs"),
        }
    }

    /// What binds it most, of its own.
    pub fn tightest(&self) -> Option<(&MeterLine, &CapLine)> {
        tightest(&self.meters)
    }

    pub fn refusals(&self) -> u64 {
        self.runs.iter().map(|run| run.refusals).fold(0, u64::saturating_add)
    }
}

/// A scope's own name.
pub fn name(scope: &Scope) -> &str {
    match scope {
        Scope::Host => "host",
        Scope::Bottle(name) | Scope::Agent(name) | Scope::Run(name) => name,
    }
}

/// Every row that is shown, the host first.
pub fn rows(snapshot: &Snapshot, view: &View) -> Vec<Row> {
    let mut rows = Vec::new();
    let host = places(snapshot);
    if let Some(host) = kept(host, view, Above::Other) {
        flatten(host, &mut Vec::new(), &mut rows);
    }
    rows
}

/// Did the filter name what it stands below?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Above {
    Named,
    Other,
}

fn kept(mut place: Place, view: &View, above: Above) -> Option<Place> {
    let words = place.run.as_ref().map(|run| run.state.clone()).unwrap_or_default();
    let named = !view.filter.is_empty()
        && (name(&place.scope).to_lowercase().contains(&view.filter) || words.contains(&view.filter));
    let above = if named { Above::Named } else { above };
    let children = std::mem::take(&mut place.children);
    place.children = children.into_iter().filter_map(|child| kept(child, view, above)).collect();
    let sort = |child: &Place| {
        let share = tightest(&child.meters).map_or(0, |(_, cap)| permille(cap.standing.spent, cap.standing.cap));
        let state = child.all_runs().into_iter().map(|run| Reverse(RunState::of(&run.state))).min();
        match view.sort {
            Sort::Name => (0, None),
            Sort::Share => (u64::MAX - share, None),
            Sort::Spent => (u64::MAX - sum(&child.meters, |meter| meter.spent.weighted.as_milli()), None),
            Sort::Rate => (u64::MAX - sum(&child.meters, |meter| meter.rate[0]), None),
            Sort::State => (0, state),
        }
    };
    place.children.sort_by(|a, b| sort(a).cmp(&sort(b)).then_with(|| name(&a.scope).cmp(name(&b.scope))));
    if view.reversed {
        place.children.reverse();
    }
    let host = place.scope == Scope::Host;
    let lives = place.runs > 0 || !place.in_flight.is_empty();
    // A cap that somebody set on what does not run yet is worth its row.
    let capped = !matches!(place.scope, Scope::Run(_)) && place.meters.iter().any(|meter| !meter.caps.is_empty());
    let shown = view.ended || lives || capped || !place.children.is_empty();
    let fits = view.filter.is_empty() || above == Above::Named || !place.children.is_empty();
    (host || shown && fits).then_some(place)
}

fn flatten(place: Place, last: &mut Vec<bool>, rows: &mut Vec<Row>) {
    let runs = place.all_runs().into_iter().cloned().collect();
    let Place { scope, meters, in_flight, run, children, runs: _ } = place;
    rows.push(Row { scope, last: last.clone(), meters, in_flight, run, runs });
    let count = children.len();
    for (n, child) in children.into_iter().enumerate() {
        last.push(n + 1 == count);
        flatten(child, last, rows);
        last.pop();
    }
}
