//! Budgets as machines and people read them.

use carboy_core::budget::{Cap, CapKind, Count, Gate, Governs, Overrun, Shutdown, Window};
use carboy_core::ids::MeterName;
use serde::Serialize;

use super::Budgets;
use crate::origin::{Origin, Sourced};

/// The budgets of a run, without its own `--budget`.
#[derive(Clone, Debug, Serialize)]
pub struct BudgetsView {
    /// Whom spending is booked to, nearest first: `agent:NAME`, `bottle:NAME`, `host`.
    pub chain: Vec<String>,
    /// Every cap.
    pub caps: Vec<CapView>,
    /// Which budgets bind beside the ceilings.
    pub governs: Sourced<Governs>,
    /// When requests are measured.
    pub gate: Sourced<Gate>,
    /// How much of an answer is held.
    pub overrun: Sourced<Overrun>,
    /// What a spent cap does.
    pub shutdown: Sourced<Shutdown>,
    /// At which parts of a cap the person is told, in percent.
    pub warn_percent: Sourced<Vec<u8>>,
    /// How long a request waits for settlements, in milliseconds.
    pub hold_wait_ms: Sourced<u64>,
    /// The least output of use, in tokens.
    pub output_min: Sourced<u64>,
}

/// One cap, for each of its meters by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CapView {
    /// Which meters.
    pub meters: Vec<MeterName>,
    /// Whose.
    pub scope: String,
    /// `budget` or `ceiling`.
    pub kind: CapKind,
    /// How many tokens.
    pub tokens: u64,
    /// How they are counted.
    pub count: Count,
    /// Over which time.
    pub window: Window,
    /// Whether it binds, or a nearer budget replaces it.
    pub binds: bool,
    /// Where it was said.
    pub origin: Origin,
}

impl Budgets {
    /// As `check --json` shows them.
    pub fn view(&self) -> BudgetsView {
        let (set, origins) = (&self.set, &self.origins);
        let of = |origin: &Origin| origin.clone();
        BudgetsView {
            chain: set.chain.iter().map(ToString::to_string).collect(),
            caps: self.caps(),
            governs: Sourced { value: set.governs, origin: of(&origins.governs) },
            gate: Sourced { value: set.terms.gate, origin: of(&origins.gate) },
            overrun: Sourced { value: set.terms.overrun, origin: of(&origins.overrun) },
            shutdown: Sourced { value: set.terms.shutdown, origin: of(&origins.shutdown) },
            warn_percent: Sourced { value: set.terms.warn_percent.clone(), origin: of(&origins.warn) },
            hold_wait_ms: Sourced { value: set.terms.hold_wait_ms, origin: of(&origins.hold_wait) },
            output_min: Sourced { value: set.terms.output_min, origin: of(&origins.output_min) },
        }
    }

    /// One row for what one line of a file says, nearest scopes first.
    fn caps(&self) -> Vec<CapView> {
        let mut rows: Vec<CapView> = Vec::new();
        for (meter, caps) in &self.set.caps {
            let binding = self.set.binding(meter);
            let places = self.origins.caps.get(meter).map(Vec::as_slice).unwrap_or_default();
            for (cap, origin) in caps.iter().zip(places) {
                let row = row(meter, cap, binding.contains(&cap), origin);
                let like = |known: &CapView| CapView { meters: row.meters.clone(), ..known.clone() } == row;
                match rows.iter_mut().find(|known| like(known)) {
                    Some(known) => known.meters.push(meter.clone()),
                    None => rows.push(row),
                }
            }
        }
        let place = |row: &CapView| self.set.chain.iter().position(|scope| scope.to_string() == row.scope);
        rows.sort_by_key(place);
        rows
    }
}

fn row(meter: &MeterName, cap: &Cap, binds: bool, origin: &Origin) -> CapView {
    CapView {
        meters: vec![meter.clone()],
        scope: cap.scope.to_string(),
        kind: cap.kind,
        tokens: cap.amount.tokens_down(),
        count: cap.count,
        window: cap.window.clone(),
        binds,
        origin: origin.clone(),
    }
}
