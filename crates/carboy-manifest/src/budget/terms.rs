//! How budgets are enforced, as files say it, and which of two words is the stricter one.

use carboy_core::budget::{Gate, Governs, Overrun, Shutdown};

use super::window::duration;
use crate::diagnostic::{Code, excerpt, listed};
use crate::origin::Said;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node};

/// Most thresholds of `warn`.
pub const WARN_MAX: usize = 8;
/// Longest wait for a settlement, in milliseconds: ten minutes.
pub const HOLD_WAIT_MS_MAX: u64 = 600_000;

/// Everything beside the caps; bottles say the first four.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TermsPart {
    /// `gate`
    pub(crate) gate: Option<Said<Gate>>,
    /// `overrun`
    pub(crate) overrun: Option<Said<Overrun>>,
    /// `shutdown`
    pub(crate) shutdown: Option<Said<Shutdown>>,
    /// `warn`
    pub(crate) warn: Option<Said<Vec<u8>>>,
    /// `governs`
    pub(crate) governs: Option<Said<Governs>>,
    /// `hold_wait`, in milliseconds
    pub(crate) hold_wait: Option<Said<u64>>,
    /// `output_min`, in tokens
    pub(crate) output_min: Option<Said<u64>>,
}

/// What can be weakened.
pub(crate) trait Strict {
    /// The larger, the stricter.
    fn rank(&self) -> u8;
}

impl Strict for Gate {
    fn rank(&self) -> u8 {
        match self {
            Gate::Observe => 0,
            Gate::Reserve => 1,
        }
    }
}

impl Strict for Overrun {
    fn rank(&self) -> u8 {
        match self {
            Overrun::Bounded => 0,
            Overrun::Exact => 1,
        }
    }
}

impl Strict for Shutdown {
    fn rank(&self) -> u8 {
        match self {
            Shutdown::Cutoff => 0,
            Shutdown::Pause => 1,
            Shutdown::Freeze => 2,
            Shutdown::Kill => 3,
        }
    }
}

impl Strict for Governs {
    fn rank(&self) -> u8 {
        match self {
            Governs::Nearest => 0,
            Governs::All => 1,
        }
    }
}

/// `later` over `earlier`: who extends a file may say another thing.
pub(crate) fn over(earlier: TermsPart, later: TermsPart) -> TermsPart {
    TermsPart {
        gate: later.gate.or(earlier.gate),
        overrun: later.overrun.or(earlier.overrun),
        shutdown: later.shutdown.or(earlier.shutdown),
        warn: later.warn.or(earlier.warn),
        governs: later.governs.or(earlier.governs),
        hold_wait: later.hold_wait.or(earlier.hold_wait),
        output_min: later.output_min.or(earlier.output_min),
    }
}

/// Two that know nothing of each other: what can be weakened is as the stricter one says.
pub(crate) fn beside(earlier: TermsPart, later: TermsPart) -> TermsPart {
    TermsPart {
        gate: stricter(&earlier.gate, &later.gate),
        overrun: stricter(&earlier.overrun, &later.overrun),
        shutdown: stricter(&earlier.shutdown, &later.shutdown),
        governs: stricter(&earlier.governs, &later.governs),
        ..over(earlier, later)
    }
}

fn stricter<T: Strict + Clone>(earlier: &Option<Said<T>>, later: &Option<Said<T>>) -> Option<Said<T>> {
    match (earlier, later) {
        (Some(earlier), Some(later)) if earlier.value.rank() > later.value.rank() => Some(earlier.clone()),
        (earlier, later) => later.clone().or_else(|| earlier.clone()),
    }
}

/// All of them that a file has.
pub(crate) fn terms(scope: &mut Scope<'_>, root: &[Entry]) -> TermsPart {
    let gates = [("reserve", Gate::Reserve), ("observe", Gate::Observe)];
    let overruns = [("exact", Overrun::Exact), ("bounded", Overrun::Bounded)];
    let shutdowns = Shutdown::ALL.map(|how| (how.as_str(), how));
    let governs = [("nearest", Governs::Nearest), ("all", Governs::All)];
    TermsPart {
        gate: find(root, "gate").and_then(|node| choice(scope, node, "`gate`", &gates)),
        overrun: find(root, "overrun").and_then(|node| choice(scope, node, "`overrun`", &overruns)),
        shutdown: find(root, "shutdown").and_then(|node| choice(scope, node, "`shutdown`", &shutdowns)),
        warn: find(root, "warn").and_then(|node| warn(scope, node)),
        governs: find(root, "governs").and_then(|node| choice(scope, node, "`governs`", &governs)),
        hold_wait: find(root, "hold_wait").and_then(|node| {
            let fix = "write a span from 0s to 10m, as in 30s";
            let ms = duration(scope, node, "`hold_wait`", 0..=HOLD_WAIT_MS_MAX, fix)?;
            Some(scope.said(ms, node.at))
        }),
        output_min: find(root, "output_min").and_then(|node| {
            let tokens = scope.number(node, "`output_min`", 16..=32_000)?;
            Some(scope.said(u64::from(tokens), node.at))
        }),
    }
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(scope: &mut Scope<'_>, node: &Node, what: &str, words: &[(&str, T)]) -> Option<Said<T>> {
    let text = scope.text(node, what)?;
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Some(scope.said(*value, node.at)),
        None => {
            let message = format!("{what} of {} is {}", scope.owner, excerpt(text));
            let fix = format!("use one of {}", listed(words.iter().map(|(word, _)| word)));
            scope.error(node.at, Code::BadValue, message, fix);
            None
        }
    }
}

/// `warn: [80, 95]`: parts of a cap, in percent; an empty list warns of nothing.
fn warn(scope: &mut Scope<'_>, node: &Node) -> Option<Said<Vec<u8>>> {
    let items = scope.list(node, "`warn`")?;
    let mut parts: Vec<u8> = Vec::new();
    for item in items {
        parts.push(u8::try_from(scope.number(item, "an entry of `warn`", 1..=99)?).ok()?);
    }
    if parts.len() > WARN_MAX || !parts.windows(2).all(|pair| pair[0] < pair[1]) {
        let message = format!("`warn` of {} is not at most {WARN_MAX} numbers, each above the one before", scope.owner);
        scope.error(node.at, Code::BadValue, message, "write parts of a cap in percent, as in [80, 95]");
        return None;
    }
    Some(scope.said(parts, node.at))
}
